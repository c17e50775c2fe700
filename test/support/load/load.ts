// A load that counts: every request has an id of its own and ends in one way, which is counted by kind of client. A
// connection that the server ends is opened again at once, as long as the load goes on.

import { until } from '../until.ts'

/** Makes the client that sits on a seat: it begins to talk by itself. */
export type Client = (seat: Seat) => Seated

/** What a load asks of a client. */
export interface Seated {
  /** No more requests: it leaves when those that it has sent have ended. */
  finish(): void
}

/** How the requests of one kind have ended. */
export class Tally {
  sent = 0
  answered = 0
  /** The server had said that it takes no more here (`Connection: close`, 1012): they are free to go elsewhere. */
  declined = 0
  /** On the wire when the server's orderly FIN was, of a protocol without a goodbye: not handled, not answered. */
  crossed = 0
  crossedConnections = 0
  /** In flight on a process that was killed. */
  killed = 0
  /** Connections. */
  opened = 0
  /** What must not happen, each in words. */
  readonly lost: string[] = []

  get isEven(): boolean {
    return this.sent === this.answered + this.declined + this.crossed + this.killed + this.lost.length
  }
}

/** One client's place in the load: clients come and go on it. */
export class Seat {
  readonly load: Load
  readonly tally: Tally
  /** What a client leaves to the next one here: the id of the last event, say. */
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
  /** Who answered since this was last cleared. */
  readonly pids = new Set<string>()
  isOver = false
  readonly #seats = new Set<Seat>()
  readonly #killed = new Set<string>()
  #lastKill = Number.NEGATIVE_INFINITY

  /** `count` clients at once, counted under `kind`. */
  add(kind: string, count: number, client: Client): Tally {
    const tally = this.tallies.get(kind) ?? new Tally()
    this.tallies.set(kind, tally)
    for (let n = 0; n < count; n++) this.#seats.add(new Seat(this, tally, client))
    return tally
  }

  /** What a process has in flight when it is killed is not lost by the server: to be said before the kill. */
  kills(pid: number): void {
    this.#killed.add(String(pid))
    this.#lastKill = performance.now()
  }

  /** Whether a kill explains the end of a connection that was opened at `openedAt` and served by `pid`, '' for unknown. */
  isKilled(pid: string, openedAt: number): boolean {
    return pid === '' ? this.#lastKill >= openedAt : this.#killed.has(pid)
  }

  left(seat: Seat): void {
    this.#seats.delete(seat)
  }

  sum(of: 'sent' | 'answered' | 'declined' | 'crossed' | 'killed' | 'opened'): number {
    return [...this.tallies.values()].reduce((total, tally) => total + tally[of], 0)
  }

  /** Each with its kind before it. */
  get lost(): string[] {
    return [...this.tallies].flatMap(([kind, { lost }]) => lost.map((why) => `${kind}: ${why}`))
  }

  /** Numbers by kind, for people. */
  table(): Record<string, Record<string, number>> {
    return Object.fromEntries(
      [...this.tallies].map(([kind, { lost, ...counts }]) => [kind, { ...counts, lost: lost.length }]),
    )
  }

  /** No new requests; resolves when every one sent has ended in some way. Rejects when one has not after `ms`. */
  async end(ms = 20_000): Promise<void> {
    this.isOver = true
    for (const seat of this.#seats) seat.finish()
    await until(() => this.#seats.size === 0, ms)
  }
}
