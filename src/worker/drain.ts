// How a worker lets go of its connections, in an order that loses nothing: a goodbye to each, work in flight to its end,
// those that are quiet first, and never everybody in one instant. What was tried: closing idle connections at once lost
// up to 64 of 64 requests that were on their way; after a quiet second, with the receive queue looked at, none.

import { type Clock, processClock } from '../connection/host.ts'
import {
  kAbort,
  kDrain,
  kIsLongLived,
  kIsOpening,
  kIsStaying,
  kLastCall,
  kLeave,
  kQuietFor,
} from '../connection/symbols.ts'
import type { AnyConnection } from '../connection.ts'
import type { Arrival } from './arrival.ts'

/** Nothing received and nothing at work for this long: then a request on its way is unlikely. */
const QUIET_MS = 1000
/** Of a short window a quiet time of one second would leave nothing. */
const QUIET_SHARE = 1 / 4
const TICK_MS = 50
/** So many may go in one tick whatever the window: their return is no burden to anybody. */
const SMALLEST_BATCH = 100
/** Those who hear a goodbye come back at once, and every worker has its own: 200 a second from each. */
const SMALLEST_GOODBYE_BATCH = 10
/** By then whoever is quiet has gone, if there is a crowd. */
const QUIET_UNTIL = 1 / 2
/**
 * By then the long-lived ones have gone; from then on who is never quiet leaves too, with its next answer: FIN in the pause
 * between an answer and the next request would cross that on the wire.
 */
const LAST_CALL_AT = 3 / 4
/** From then on without one. */
const FINAL_CALL_AT = 17 / 20
/** By then all have been told, and the handlers that are left hear that their time is up... */
const ABORT_AT = 9 / 10
/** ... but not later than this before the end. */
const ABORT_BEFORE_MS = 500

/** What it works on; a Worker is one. */
export interface Drainable {
  readonly connections: ReadonlyMap<number, AnyConnection>
  readonly arrivals: ReadonlySet<Arrival>
}

/** Calls back when whatever had arrived before has been read. */
type AfterPoll = (callback: () => void) => void

const enum Kind {
  Quiet,
  LongLived,
  LastCall,
}

/** It runs until `end()`, and does not wait itself for connections to be gone: their owner hears of that first. */
export class Drain {
  readonly #host: Drainable
  readonly #clock: Clock
  readonly #afterPoll: AfterPoll
  #startedAt = 0
  #windowMs = 0
  /** How many of each kind may go in one tick. */
  #batches: readonly number[] = []
  #timer = 0
  #hasBegun = false
  #isLastCall = false
  #isFinalCall = false
  /** They leave with their next answer. */
  readonly #called = new WeakSet<AnyConnection>()
  #hasAborted = false
  #isOver = false

  constructor(host: Drainable, windowMs: number, clock: Clock = processClock, afterPoll: AfterPoll = afterNextPoll) {
    this.#host = host
    this.#clock = clock
    this.#afterPoll = afterPoll
    this.#open(windowMs)
    this.#sleep()
  }

  /** Lets the first ones go. Without this call nobody goes until the last call. */
  begin(): void {
    this.#hasBegun = true
    this.#tick()
  }

  /** A window of its own from now on, if that ends before the present one. What is done stays done. */
  hurry(windowMs: number): void {
    if (this.#clock.now() + windowMs >= this.#startedAt + this.#windowMs) return
    this.#open(windowMs)
    this.#tick()
  }

  /** Everything has left, or the time is up. */
  end(): void {
    this.#isOver = true
    this.#clock.cancel(this.#timer)
  }

  #open(windowMs: number): void {
    this.#startedAt = this.#clock.now()
    this.#windowMs = windowMs
    let longLived = 0
    for (const connection of this.#host.connections.values()) if (connection[kIsLongLived]) longLived++
    const all = this.#host.connections.size
    this.#batches = [
      batchOf(all - longLived, windowMs * QUIET_UNTIL),
      batchOf(longLived, windowMs * LAST_CALL_AT, SMALLEST_GOODBYE_BATCH),
      batchOf(all, windowMs * (ABORT_AT - LAST_CALL_AT)),
    ]
  }

  #tick(): void {
    if (this.#isOver) return
    const elapsed = this.#clock.now() - this.#startedAt
    if (elapsed >= this.#windowMs * LAST_CALL_AT) this.#isLastCall = true
    if (elapsed >= this.#windowMs * FINAL_CALL_AT) this.#isFinalCall = true
    if (this.#hasBegun || this.#isLastCall) this.#letGo()
    if (elapsed >= abortAt(this.#windowMs)) this.#abort()
    this.#sleep()
  }

  #sleep(): void {
    this.#clock.cancel(this.#timer)
    if (!this.#isOver) this.#timer = this.#clock.after(TICK_MS, Drain.#next, this)
  }

  static #next(drain: Drain): void {
    drain.#tick()
  }

  #letGo(): void {
    const leaving: AnyConnection[] = []
    const room = [...this.#batches]
    for (const connection of this.#host.connections.values()) {
      if (this.#isTold(connection)) connection[kDrain]()
      const kind = this.#kindOf(connection)
      if ((room[kind] as number) <= 0 || !this.#mayGo(connection)) continue
      room[kind] = (room[kind] as number) - 1
      leaving.push(connection)
    }
    const silent = [...this.#host.arrivals].filter((arrival) => this.#isSilent(arrival))
    // Chosen now, closed later: what the kernel holds of theirs is read in between.
    if (leaving.length + silent.length === 0) return
    this.#afterPoll(() => {
      this.#send(leaving)
      for (const arrival of silent) if (this.#isSilent(arrival)) arrival.leave()
    })
  }

  #send(leaving: readonly AnyConnection[]): void {
    for (const connection of leaving) {
      if (!this.#mayGo(connection)) continue
      connection[kDrain]()
      if (this.#mayPause(connection)) this.#call(connection)
      else connection[kLeave]()
    }
  }

  /** Hears the goodbye now, not only when it goes. One that leaves already may have been upgraded since. */
  #isTold(connection: AnyConnection): boolean {
    return !connection[kIsLongLived] || !connection[kIsStaying]
  }

  #kindOf(connection: AnyConnection): Kind {
    if (this.#isLastCall) return Kind.LastCall
    return connection[kIsLongLived] ? Kind.LongLived : Kind.Quiet
  }

  #mayGo(connection: AnyConnection): boolean {
    if (!connection[kIsStaying]) return false
    const isFree = connection[kIsLongLived] && !connection[kIsOpening]
    if (isFree || this.#isQuiet(connection)) return true
    return this.#isLastCall && !(this.#mayPause(connection) && this.#called.has(connection))
  }

  #isQuiet(connection: AnyConnection): boolean {
    return connection[kQuietFor]() >= this.#quietMs
  }

  #isSilent(arrival: Arrival): boolean {
    return arrival.silentMs >= this.#quietMs
  }

  get #quietMs(): number {
    return Math.min(QUIET_MS, this.#windowMs * QUIET_SHARE)
  }

  /** It is between two requests, and there is time for one more. Who is at work leaves when that is done. */
  #mayPause(connection: AnyConnection): boolean {
    if (!this.#isLastCall || this.#isFinalCall || connection[kIsLongLived]) return false
    return connection[kQuietFor]() > 0 && !this.#isQuiet(connection)
  }

  #call(connection: AnyConnection): void {
    this.#called.add(connection)
    connection[kLastCall]()
  }

  #abort(): void {
    if (this.#hasAborted) return
    this.#hasAborted = true
    for (const connection of this.#host.connections.values()) connection[kAbort]()
  }
}

/** How many a tick, so that `count` have gone after `ms`. */
function batchOf(count: number, ms: number, smallest = SMALLEST_BATCH): number {
  return Math.max(smallest, Math.ceil(count / Math.max(1, ms / TICK_MS)))
}

function abortAt(windowMs: number): number {
  return Math.max(0, Math.min(windowMs * ABORT_AT, windowMs - ABORT_BEFORE_MS))
}

/** Two turns: the first may end in the very poll that this call comes from. */
function afterNextPoll(callback: () => void): void {
  setImmediate(() => setImmediate(callback))
}
