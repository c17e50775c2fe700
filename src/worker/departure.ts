// How a Worker leaves: it takes nobody any more, `onWorkerStop` is told, its connections drain, and it is gone when they,
// handlers and holds are. What keeps it, in words.

import { AbortError } from '../errors.ts'
import { Drain, type Drainable } from './drain.ts'
import type { Hold } from './settings.ts'

/** A Worker is one. */
export interface Leaver extends Drainable {
  /** Handlers that have not settled. */
  readonly unsettled: number
}

export interface LeaverRole {
  /** Nobody comes in any more. */
  close(): void
  /** Connections are let go when this has settled: `onWorkerStop` may want to tell them something. Never rejects. */
  tellStop(): Promise<void>
}

/** What is shown of holds: there may be one per upload, and the master hears of them each second, on a bounded line. */
const SHOWN_REASONS = 5
const LONGEST_WORK = 100

export class Departure {
  readonly #worker: Leaver
  readonly #role: LeaverRole
  readonly #holds = new Set<{ readonly why: string }>()
  #aborter: AbortController | null = null
  #drain: Drain | null = null
  #isToldStop = false
  #isLooking = false
  #done: Promise<void> = Promise.resolve()
  #tellDone: (() => void) | null = null

  constructor(worker: Leaver, role: LeaverRole) {
    this.#worker = worker
    this.#role = role
  }

  get hasBegun(): boolean {
    return this.#drain !== null
  }

  /** Aborts when it begins. */
  get signal(): AbortSignal {
    if (this.#aborter === null) {
      this.#aborter = new AbortController()
      if (this.hasBegun) this.#aborter.abort(leavingError())
    }
    return this.#aborter.signal
  }

  /** It is not over until this is released. */
  hold(why: string): Hold {
    const token = { why: String(why).slice(0, LONGEST_WORK) }
    this.#holds.add(token)
    const release = () => {
      if (this.#holds.delete(token)) this.look()
    }
    return Object.assign(release, { [Symbol.dispose]: release })
  }

  /** Resolves when it is over. Again with less time: it hurries. */
  within(windowMs: number): Promise<void> {
    if (this.#drain === null) this.#begin(windowMs)
    else this.#drain.hurry(windowMs)
    return this.#done
  }

  #begin(windowMs: number): void {
    this.#role.close()
    const drain = new Drain(this.#worker, windowMs)
    this.#drain = drain
    this.#done = new Promise((resolve) => {
      this.#tellDone = resolve
    })
    this.#aborter?.abort(leavingError())
    void this.#role.tellStop().then(() => {
      this.#isToldStop = true
      drain.begin()
      this.look()
    })
  }

  /** A connection, an arrival, a handler or a hold is gone. */
  look(): void {
    if (this.#isLooking || !this.#isToldStop || !this.#isIdle) return
    this.#isLooking = true
    setImmediate(() => this.#lookAgain()) // what has come in the same turn is work, too
  }

  #lookAgain(): void {
    this.#isLooking = false
    if (!this.#isIdle) return
    this.end()
    this.#tellDone?.()
  }

  get #isIdle(): boolean {
    const { connections, arrivals, unsettled } = this.#worker
    return connections.size === 0 && arrivals.size === 0 && unsettled === 0 && this.#holds.size === 0
  }

  /** Nothing more is let go by time. */
  end(): void {
    this.#drain?.end()
  }

  get work(): Work {
    const { connections, arrivals, unsettled } = this.#worker
    return {
      connections: connections.size,
      arrivals: [...arrivals].map(({ what }) => what),
      handlers: unsettled,
      holds: [...this.#holds].map(({ why }) => why),
    }
  }
}

interface Work {
  readonly connections: number
  /** What each awaits. */
  readonly arrivals: readonly string[]
  readonly handlers: number
  readonly holds: readonly string[]
}

/** What several Workers have to finish, in words; empty for nothing. */
export function describeWork(departures: readonly Departure[]): string {
  const all = departures.map(({ work }) => work)
  const arrivals = all.flatMap((one) => one.arrivals)
  const holds = all.flatMap((one) => one.holds)
  const reasons = reasonsOf(holds)
  return [
    plural(
      all.reduce((sum, { connections }) => sum + connections, 0),
      'connection',
    ),
    ...[...new Set(arrivals)].map((what) => plural(arrivals.filter((one) => one === what).length, what)),
    plural(
      all.reduce((sum, { handlers }) => sum + handlers, 0),
      'unsettled handler',
    ),
    plural(holds.length, 'hold') + (reasons.length === 0 ? '' : ` (${reasons.join(', ')})`),
  ]
    .filter((part) => part !== '')
    .join(', ')
}

/** Each once, and not all of many. */
function reasonsOf(holds: readonly string[]): string[] {
  const reasons = new Set(holds.filter((why) => why !== ''))
  return reasons.size > SHOWN_REASONS ? [...[...reasons].slice(0, SHOWN_REASONS), '...'] : [...reasons]
}

function plural(count: number, what: string): string {
  return count === 0 ? '' : `${count} ${what}${count === 1 ? '' : 's'}`
}

function leavingError(): AbortError {
  return new AbortError('ERR_WORKER_STOPPING', 'the worker is leaving')
}
