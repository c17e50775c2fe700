// How a worker lets go of its connections, in an order that loses nothing: a goodbye to each, work in flight to its end,
// those that are quiet first, and never everybody in one instant. What was tried: closing idle connections at once lost
// up to 64 of 64 requests that were on their way; after a quiet second, with the receive queue looked at, none.

import { type AnyConnection, kAbort, kDrain, kIsLongLived, kLeave, kQuietFor } from './connection.ts'
import { type Clock, processClock } from './connection-host.ts'

/** Nothing received and nothing at work for this long: then a request on its way is unlikely. */
const QUIET_MS = 1000
/** Of a short window a quiet time of one second would leave nothing. */
const QUIET_SHARE = 1 / 4
const TICK_MS = 50
/** So many may go in one tick whatever the window: their return is no burden to anybody. */
const SMALLEST_BATCH = 100
/** By then whoever can go has gone, if there is a crowd. */
const CROWD_SHARE = 1 / 2
/** From then on who is never quiet leaves too. */
const LAST_CALL_SHARE = 3 / 4
/** By then the handlers that are left hear that their time is up... */
const ABORT_SHARE = 9 / 10
/** ... but not later than this before the end. */
const ABORT_BEFORE_MS = 500

/** What it works on; a Worker is one. */
export interface Drainable {
  readonly connections: ReadonlyMap<number, AnyConnection>
}

/** Calls back when whatever had arrived before has been read. */
type AfterPoll = (callback: () => void) => void

export class Drain {
  readonly #host: Drainable
  readonly #clock: Clock
  readonly #afterPoll: AfterPoll
  readonly #startedAt: number
  readonly #crowd: number
  #windowMs: number
  #timer = 0
  #hasAborted = false
  #isOver = false

  constructor(host: Drainable, windowMs: number, clock: Clock = processClock, afterPoll: AfterPoll = afterNextPoll) {
    this.#host = host
    this.#clock = clock
    this.#afterPoll = afterPoll
    this.#startedAt = clock.now()
    this.#windowMs = windowMs
    this.#crowd = host.connections.size
    this.#tick()
  }

  /** Less time than before, counted from now. More is not given. */
  hurry(windowMs: number): void {
    this.#windowMs = Math.min(this.#windowMs, this.#elapsed + windowMs)
    this.#clock.cancel(this.#timer)
    if (!this.#isOver) this.#tick()
  }

  /** Everything has left, or the time is up. */
  end(): void {
    this.#isOver = true
    this.#clock.cancel(this.#timer)
  }

  get #elapsed(): number {
    return this.#clock.now() - this.#startedAt
  }

  #tick(): void {
    const isLastCall = this.#elapsed >= this.#windowMs * LAST_CALL_SHARE
    const leaving = this.#choose(isLastCall)
    // Chosen now, closed later: what the kernel holds of theirs is read in between.
    if (leaving.length > 0) this.#afterPoll(() => this.#send(leaving, isLastCall))
    if (this.#elapsed >= abortAt(this.#windowMs)) this.#abort()
    this.#timer = this.#clock.after(TICK_MS, Drain.#next, this)
  }

  static #next(drain: Drain): void {
    if (!drain.#isOver) drain.#tick()
  }

  /** Says goodbye to those whose goodbye need not be spread, and picks who leaves in this tick. */
  #choose(isLastCall: boolean): AnyConnection[] {
    const batch = this.#batch(isLastCall)
    const leaving: AnyConnection[] = []
    for (const connection of this.#host.connections.values()) {
      const isLongLived = connection[kIsLongLived]
      if (!isLongLived) connection[kDrain]()
      if (leaving.length < batch && (isLongLived || isLastCall || this.#isQuiet(connection))) leaving.push(connection)
    }
    return leaving
  }

  #send(leaving: readonly AnyConnection[], isLastCall: boolean): void {
    for (const connection of leaving) {
      if (connection[kIsLongLived]) connection[kDrain]()
      if (connection[kIsLongLived] || isLastCall || this.#isQuiet(connection)) connection[kLeave]()
    }
  }

  #isQuiet(connection: AnyConnection): boolean {
    return connection[kQuietFor]() >= Math.min(QUIET_MS, this.#windowMs * QUIET_SHARE)
  }

  #batch(isLastCall: boolean): number {
    const share = isLastCall ? ABORT_SHARE - LAST_CALL_SHARE : CROWD_SHARE
    const ticks = Math.max(1, (this.#windowMs * share) / TICK_MS)
    return Math.max(SMALLEST_BATCH, Math.ceil(this.#crowd / ticks))
  }

  #abort(): void {
    if (this.#hasAborted) return
    this.#hasAborted = true
    for (const connection of this.#host.connections.values()) connection[kAbort]()
  }
}

function abortAt(windowMs: number): number {
  return Math.max(0, Math.min(windowMs * ABORT_SHARE, windowMs - ABORT_BEFORE_MS))
}

/** Two turns: the first may end in the very poll that this call comes from. */
function afterNextPoll(callback: () => void): void {
  setImmediate(() => setImmediate(callback))
}
