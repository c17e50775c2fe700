// A load that counts: every request has an id of its own and ends in exactly one way, counted by kind of client. A
// connection that the server ends is opened again at once, as long as the load goes on.

import { until } from '../until.ts'

/** Makes the client that sits on a seat; it starts sending by itself. */
export type Client = (seat: Seat) => Seated

/** What a load requires of a client. */
export interface Seated {
  /** Send no more requests; leave when those already sent have ended. */
  finish(): void
}

/** The outcomes of the requests of one kind. */
export class Tally {
  sent = 0
  answered = 0
  /** The server had announced that it takes no more here (`Connection: close`, 1012): they may go elsewhere. */
  declined = 0
  /**
   * For protocols without a goodbye: on the wire at the time of the server's orderly FIN; not handled, not answered.
   */
  crossed = 0
  crossedConnections = 0
  /** In flight on a process that was killed. */
  killed = 0
  /** Number of connections opened. */
  opened = 0
  /** Outcomes that must not happen, described in words. */
  readonly lost: string[] = []

  get isEven(): boolean {
    return this.sent === this.answered + this.declined + this.crossed + this.killed + this.lost.length
  }
}

/** One client's place in the load, taken by one client after another. */
export class Seat {
  readonly load: Load
  readonly tally: Tally
  /** What a client leaves to its successor, such as the id of the last event. */
  memory = ''
  #client: Client
  #sitting: Seated | null = null

  constructor(load: Load, tally: Tally, client: Client) {
    this.load = load
    this.tally = tally
    this.#client = client
    this.open()
  }

  open(): void {
    this.#sitting = null
    if (this.load.isOver) return this.load.left(this)
    this.tally.opened++
    this.#sitting = this.#client(this)
  }

  finish(): void {
    this.#sitting?.finish()
  }
}

export class Load {
  readonly tallies = new Map<string, Tally>()
  /** Processes that answered since this was last cleared. */
  readonly pids = new Set<string>()
  isOver = false
  readonly #seats = new Set<Seat>()
  readonly #killed = new Set<string>()
  #lastKill = Number.NEGATIVE_INFINITY

  /** Adds `count` clients, counted under `kind`. */
  add(kind: string, count: number, client: Client): Tally {
    const tally = this.tallies.get(kind) ?? new Tally()
    this.tallies.set(kind, tally)
    for (let n = 0; n < count; n++) this.#seats.add(new Seat(this, tally, client))
    return tally
  }

  /** Announces a kill: requests in flight on that process do not count as lost. To be called before the kill. */
  kills(pid: number): void {
    this.#killed.add(String(pid))
    this.#lastKill = performance.now()
  }

  /** Whether a kill explains the end of a connection opened at `openedAt` and served by `pid` ('' if unknown). */
  isKilled(pid: string, openedAt: number): boolean {
    return pid === '' ? this.#lastKill >= openedAt : this.#killed.has(pid)
  }

  left(seat: Seat): void {
    this.#seats.delete(seat)
  }

  sum(of: 'sent' | 'answered' | 'declined' | 'crossed' | 'killed' | 'opened'): number {
    return [...this.tallies.values()].reduce((total, tally) => total + tally[of], 0)
  }

  /** Each preceded by its kind. */
  get lost(): string[] {
    return [...this.tallies].flatMap(([kind, { lost }]) => lost.map((why) => `${kind}: ${why}`))
  }

  /** Numbers by kind, for human readers. */
  table(): Record<string, Record<string, number>> {
    return Object.fromEntries(
      [...this.tallies].map(([kind, { lost, ...counts }]) => [kind, { ...counts, lost: lost.length }]),
    )
  }

  /** Sends no new requests; resolves when each one sent has an outcome. Rejects if one has none after `ms`. */
  async end(ms = 20_000): Promise<void> {
    this.isOver = true
    for (const seat of this.#seats) seat.finish()
    await until(() => this.#seats.size === 0, ms)
  }
}
