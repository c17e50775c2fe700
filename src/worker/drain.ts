// How a worker closes its connections without losing anything: it says goodbye to each, lets work in flight finish,
// closes quiet connections first, and never closes all at one instant. Measured: closing idle connections at once lost
// up to 64 of 64 requests that were on their way; closing after a quiet second, with the receive queue checked, lost
// none.

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
import { apart } from '../loop/apart.ts'
import type { Arrival } from './arrival.ts'

/** After nothing received, nothing sent and no work for this long, a request on its way is unlikely. */
const QUIET_MS = 1000
/** In a short window, one second of silence would use up everything. */
const QUIET_SHARE = 1 / 4
const TICK_MS = 50
/** At least this many may go in one tick, however long the window: their return burdens nobody. */
const SMALLEST_BATCH = 100
/** Peers that receive a goodbye reconnect at once, and every worker has its own batch: 200 a second from each. */
const SMALLEST_GOODBYE_BATCH = 10
/** By this share of the window quiet connections have gone, if they are many. */
const QUIET_UNTIL = 1 / 2
/**
 * By this share of the window long-lived connections have gone. From then on connections that are never quiet leave
 * too, with their next answer: a FIN sent between an answer and the next request would cross that request on the wire.
 */
const LAST_CALL_AT = 3 / 4
/** From here on they leave without waiting for an answer. */
const FINAL_CALL_AT = 17 / 20
/** By this share all have been notified, and the signals of the remaining handlers abort... */
const ABORT_AT = 9 / 10
/** ... but no later than this before the end. */
const ABORT_BEFORE_MS = 500

/** The final call must come this long before the end: what had arrived is read and answered in that time. */
const FINAL_ROUND_MS = 200

/** What a drain works on; a Worker, for example. */
export interface Drainable {
  readonly connections: ReadonlyMap<number, AnyConnection>
  readonly arrivals: ReadonlySet<Arrival>
  /** Those that its process has opened: not closed here, but their signals abort, too. */
  readonly clients: ReadonlyMap<number, AnyConnection>
}

/** Calls back once everything that had already arrived has been read. */
type AfterPoll = (callback: () => void) => void

const enum Kind {
  Quiet,
  LongLived,
  LastCall,
}

/** Runs until `end()`. It does not itself wait for connections to close: their owner is notified of that. */
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
  #finalCallAt = Number.POSITIVE_INFINITY
  /** Connections that leave with their next answer. */
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

  /** Starts closing. Before this call none is closed until the last call. */
  begin(): void {
    this.#hasBegun = true
    this.#tick()
  }

  /** From now on uses a window of `windowMs`, if it ends before the present one. What is done stays done. */
  hurry(windowMs: number): void {
    if (this.#clock.now() + windowMs >= this.#startedAt + this.#windowMs) return
    this.#open(windowMs)
    // Those have been told how long they may read.
    for (const connection of this.#host.connections.values()) if (this.#called.has(connection)) this.#call(connection)
    this.#tick()
  }

  /**
   * The time is up. A process that was suspended, or starved of CPU, has not read what arrived meanwhile, and closing
   * now would reset those connections. If so, they all leave with what has arrived, which takes the returned time, in
   * ms; 0 if there was time for that before.
   */
  finish(): number {
    const roundMs = Math.min(FINAL_ROUND_MS, this.#windowMs * (1 - FINAL_CALL_AT))
    const isDone = this.#isOver || roundMs === 0 || this.#clock.now() - this.#finalCallAt >= roundMs
    if (isDone) return 0
    this.#isLastCall = true
    this.#callFinally()
    this.#batches = this.#batches.map(() => Number.POSITIVE_INFINITY)
    this.#letGo()
    return roundMs
  }

  /** Call when everything has left, or the time is up. */
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
    if (elapsed >= this.#windowMs * FINAL_CALL_AT) this.#callFinally()
    if (this.#hasBegun || this.#isLastCall) this.#letGo()
    if (elapsed >= abortAt(this.#windowMs)) this.#abort()
    this.#sleep()
  }

  #callFinally(): void {
    this.#finalCallAt = Math.min(this.#finalCallAt, this.#clock.now())
  }

  get #isFinalCall(): boolean {
    return this.#finalCallAt !== Number.POSITIVE_INFINITY
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
    // Chosen now, closed later: in between, what the kernel holds for them is read.
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
      if (!this.#mayGo(connection)) continue // the goodbye has ended its events: it leaves when it is quiet, as any other
      if (this.#mayPause(connection)) this.#call(connection)
      else apart(leave, connection)
    }
  }

  /** Receives the goodbye now rather than when it leaves. A connection already leaving may have been upgraded since. */
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

  /** It is between two requests, and there is time for one more. A busy connection leaves when its work is done. */
  #mayPause(connection: AnyConnection): boolean {
    if (!this.#isLastCall || this.#isFinalCall || connection[kIsLongLived]) return false
    return connection[kQuietFor]() > 0 && !this.#isQuiet(connection)
  }

  #call(connection: AnyConnection): void {
    this.#called.add(connection)
    connection[kLastCall](this.#startedAt + this.#windowMs * FINAL_CALL_AT - this.#clock.now())
  }

  #abort(): void {
    if (this.#hasAborted) return
    this.#hasAborted = true
    const { connections, clients } = this.#host
    for (const connection of [...connections.values(), ...clients.values()]) apart(abort, connection)
  }
}

// Each may run user callbacks: see `apart`.

function leave(connection: AnyConnection): void {
  connection[kLeave]()
}

function abort(connection: AnyConnection): void {
  connection[kAbort]()
}

/** How many per tick, so that `count` have gone after `ms`. */
function batchOf(count: number, ms: number, smallest = SMALLEST_BATCH): number {
  return Math.max(smallest, Math.ceil(count / Math.max(1, ms / TICK_MS)))
}

function abortAt(windowMs: number): number {
  return Math.max(0, Math.min(windowMs * ABORT_AT, windowMs - ABORT_BEFORE_MS))
}

/** Two turns: the first may end in the very poll this call comes from. */
function afterNextPoll(callback: () => void): void {
  setImmediate(() => setImmediate(callback))
}
