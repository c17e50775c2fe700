// How a Worker leaves: it stops accepting, `onWorkerStop` runs, its connections drain, and nothing is left of it when
// connections, handlers and holds are gone and clients have sent what they were given. When its process may end is not
// its own to say (process-departure.ts). Also describes in words what it is waiting for.

import type { Unsent } from '../client/client-host.ts'
import { AbortError } from '../errors.ts'
import { Drain, type Drainable } from './drain.ts'
import type { ProcessDeparture } from './process-departure.ts'
import type { Hold } from './settings.ts'

/** What a departure works on; a Worker, for example. */
interface Leaver extends Drainable {
  /** Handlers that have not settled. */
  readonly unsettled: number
  /** What the clients of its process have still to send. */
  readonly unsent: Unsent
  /** The user's; null for none. */
  readonly onWorkerStop: unknown
}

interface LeaverRole {
  /** Stops accepting. */
  close(): void
  /**
   * Connections are closed only after this has settled: `onWorkerStop` may want to send them something. Never rejects.
   */
  tellStop(): Promise<void>
}

/**
 * How much is shown of holds. There may be one per upload, and the master receives them each second, on a line of
 * bounded length.
 */
const SHOWN_REASONS = 5
const LONGEST_WORK = 100

export class Departure {
  readonly #worker: Leaver
  readonly #role: LeaverRole
  readonly #holds = new Set<{ readonly why: () => string }>()
  #aborter: AbortController | null = null
  #drain: Drain | null = null
  #isToldStop = false
  /** Of the process that this is a part of. */
  whole: ProcessDeparture | null = null

  constructor(worker: Leaver, role: LeaverRole) {
    this.#worker = worker
    this.#role = role
  }

  get hasBegun(): boolean {
    return this.#drain !== null
  }

  /** Aborts when the departure begins. */
  get signal(): AbortSignal {
    if (this.#aborter === null) {
      this.#aborter = new AbortController()
      if (this.hasBegun) this.#aborter.abort(leavingError())
    }
    return this.#aborter.signal
  }

  /** The departure does not end until this is released. */
  hold(why: string): Hold {
    const text = String(why).slice(0, LONGEST_WORK)
    return this.holdFor(() => text)
  }

  /** Likewise, with a reason that may change meanwhile. */
  holdFor(why: () => string): Hold {
    const token = { why }
    this.#holds.add(token)
    this.whole?.resume()
    const release = () => {
      if (this.#holds.delete(token)) this.look()
    }
    return Object.assign(release, { [Symbol.dispose]: release })
  }

  /** A second call with less time hurries it. */
  begin(windowMs: number): void {
    if (this.#drain !== null) return this.#drain.hurry(windowMs)
    this.#role.close()
    const drain = new Drain(this.#worker, windowMs)
    this.#drain = drain
    this.#aborter?.abort(leavingError())
    void this.#role.tellStop().then(() => {
      this.#isToldStop = true
      drain.begin()
      this.look()
    })
  }

  /** Call when a connection, an arrival, a handler or a hold is gone. */
  look(): void {
    this.whole?.look()
  }

  /** Whether nobody is served: no connection, arrival or handler is left. */
  get isEmpty(): boolean {
    const { connections, arrivals, unsettled } = this.#worker
    return connections.size === 0 && arrivals.size === 0 && unsettled === 0
  }

  /** Whether nothing is left but what clients have still to send. */
  get isIdle(): boolean {
    return this.#isToldStop && this.isEmpty && this.#holds.size === 0
  }

  get isSending(): boolean {
    return this.#worker.unsent.clients > 0
  }

  /** The time is up. Returns for how long, in ms, connections still leave with what has arrived. */
  finish(): number {
    return this.#drain?.finish() ?? 0
  }

  /** Stops the timed closing of connections. */
  end(): void {
    this.#drain?.end()
  }

  get work(): Work {
    const { connections, arrivals, unsettled, unsent, onWorkerStop } = this.#worker
    return {
      isStopping: this.hasBegun && !this.#isToldStop && typeof onWorkerStop === 'function',
      connections: connections.size,
      arrivals: [...arrivals].map(({ what }) => what),
      handlers: unsettled,
      holds: [...this.#holds].map(({ why }) => why().slice(0, LONGEST_WORK)),
      unsent,
    }
  }
}

interface Work {
  /** `onWorkerStop` has not settled. */
  readonly isStopping: boolean
  readonly connections: number
  /** What each arrival waits for. */
  readonly arrivals: readonly string[]
  readonly handlers: number
  readonly holds: readonly string[]
  readonly unsent: Unsent
}

/** Describes in words what several Workers have yet to finish; empty for nothing. */
export function describeWork(departures: readonly Departure[]): string {
  const all = departures.map(({ work }) => work)
  const arrivals = all.flatMap((one) => one.arrivals)
  const holds = all.flatMap((one) => one.holds)
  const reasons = reasonsOf(holds)
  return [
    all.some(({ isStopping }) => isStopping) ? 'onWorkerStop' : '',
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
    ...all.map(({ unsent }) => (unsent.clients === 0 ? '' : describeUnsent(unsent))),
  ]
    .filter((part) => part !== '')
    .join(', ')
}

/** Each reason once, and at most SHOWN_REASONS of them. */
function reasonsOf(holds: readonly string[]): string[] {
  const reasons = new Set(holds.filter((why) => why !== ''))
  return reasons.size > SHOWN_REASONS ? [...[...reasons].slice(0, SHOWN_REASONS), '...'] : [...reasons]
}

function describeUnsent({ clients, bytes }: Unsent): string {
  return `${plural(bytes, 'unsent byte')} of ${plural(clients, 'client')}`
}

function plural(count: number, what: string): string {
  return count === 0 ? '' : `${count} ${what}${count === 1 ? '' : 's'}`
}

function leavingError(): AbortError {
  return new AbortError('ERR_WORKER_STOPPING', 'the worker is leaving')
}
