// What one process may do before another takes its place: so many requests, so much memory, so long. Each process has its
// own share of chance in that: those that started together do not leave together.

import type { Declaration } from '../group.ts'
import type { Report } from '../messages.ts'

/** Up to this part of a limit is taken off by chance. The limit itself is never passed knowingly. */
const JITTER = 0.2
/** One that was over `maxMemory` from the start: replacing it helps nobody before it has grown by this. */
const GROWTH = 1.5

export type Limit = 'maxRequests' | 'maxMemory' | 'maxLifetimeMs'
export type Limits = Pick<Declaration, Limit>

/** A limit that was reached, in words for the log. */
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

  /** 0 is no limit. */
  constructor(limits: Limits, random: () => number = Math.random) {
    this.#limits = limits
    this.#maxRequests = Math.ceil(jittered(limits.maxRequests, random))
    this.#maxLifetimeMs = jittered(limits.maxLifetimeMs, random)
    this.#maxMemory = limits.maxMemory || Number.POSITIVE_INFINITY
  }

  /**
   * To be called with what a process had when it was ready: what to say when that is over `maxMemory` already, for then
   * the next one would be, too. Empty otherwise, and where it is not known (0).
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
