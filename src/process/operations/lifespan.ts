// Limits of a process, after which it is replaced: number of requests, memory, time. They are randomised per process,
// so that processes that started together do not leave together.

import type { Declaration } from '../group.ts'
import type { Report } from '../messages.ts'

/** Up to this fraction of a limit is subtracted at random. The limit itself is never knowingly exceeded. */
const JITTER = 0.2
/** A process over `maxMemory` from its start is replaced only after growing by this factor. */
const GROWTH = 1.5

type Limit = 'maxRequests' | 'maxMemory' | 'maxLifetimeMs'
type Limits = Pick<Declaration, Limit>

/** The limit that was reached, in words for the log. */
export interface Reached {
  readonly limit: Limit
  readonly words: string
}

export class Lifespan {
  readonly #limits: Limits
  readonly #maxRequests: number
  readonly #maxLifetimeMs: number
  #maxMemory: number
  #isFresh = true

  /** 0 means no limit. */
  constructor(limits: Limits, random: () => number = Math.random) {
    this.#limits = limits
    this.#maxRequests = Math.ceil(jittered(limits.maxRequests, random))
    this.#maxLifetimeMs = jittered(limits.maxLifetimeMs, random)
    this.#maxMemory = limits.maxMemory || Number.POSITIVE_INFINITY
  }

  /**
   * Call with the memory of a process when it became ready. Returns a warning if that is already over `maxMemory`,
   * since the next process would be too. Otherwise, and if it is unknown (0), returns an empty string.
   */
  begin(memory: number): string {
    if (!this.#isFresh || memory === 0) return ''
    this.#isFresh = false
    if (memory < this.#maxMemory) return ''
    this.#maxMemory = memory * GROWTH
    const { maxMemory } = this.#limits
    return `starts with ${mebibytes(memory)}, over maxMemory (${mebibytes(maxMemory)}): another would be no smaller, so it stays until ${mebibytes(this.#maxMemory)}; raise maxMemory`
  }

  reached({ counters, memory }: Report, aliveMs: number): Reached | null {
    const { messagesIn } = counters
    if (messagesIn >= this.#maxRequests) return { limit: 'maxRequests', words: `${messagesIn} requests` }
    if (memory >= this.#maxMemory) return { limit: 'maxMemory', words: mebibytes(memory) }
    if (aliveMs >= this.#maxLifetimeMs) return { limit: 'maxLifetimeMs', words: `${Math.round(aliveMs / 1000)} s old` }
    return null
  }
}

function jittered(limit: number, random: () => number): number {
  return limit === 0 ? Number.POSITIVE_INFINITY : limit * (1 - JITTER * random())
}

function mebibytes(bytes: number): string {
  return `${(bytes / 1_048_576).toFixed(1)} MiB`
}
