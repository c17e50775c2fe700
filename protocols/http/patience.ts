// How long a connection waits, and for what. Each phase has its limit in the settings; the connection has one timer for
// all of them, which is set again only when a shorter wait begins: in most phases it runs out after they are over, and
// looks what is waited for by then.

import type { CodecIo } from '../../src/protocol.ts'
import type { Exchange } from './exchange.ts'
import type { Incoming } from './incoming.ts'
import type { Resolved } from './settings.ts'
import { StuckReader } from './stuck-reader.ts'

/**
 * The answer is complete, and the rest of the body is thrown away: for so long, or a client could send one body for
 * ever. nginx takes as long (`lingering_time`).
 */
const DISCARD_MS = 30_000
/** The same while the worker is leaving. */
const DISCARD_LEAVING_MS = 5000
/** Longest time between two checks. Phases without a limit are checked, too, since the phase may have changed. */
const LONGEST_LOOK_MS = 60_000
/** A timer that comes later than this has found the loop standing still: the timers of a wheel need half of it. */
const LATE_MS = 1000
/** In so long, what has arrived while we did not read is read. */
const CATCH_UP_MS = 100

/** What the connection waits for, as long as the settings allow. */
export const enum Phase {
  Idle = 0,
  Head = 1,
  Body = 2,
  Answer = 3,
  /** The client has yet to read the last answer. */
  Flush = 4,
  /** A handshake of WebSocket has come, and a handler of a request before it has not settled. */
  Upgrade = 5,
  /** The client has yet to read an answer that is not the last: then the time between requests begins. */
  Reading = 6,
}

/** The connection, as far as its limits depend on it. */
export interface Waiter {
  readonly io: CodecIo
  readonly settings: Resolved
  readonly exchange: Exchange | null
  readonly incoming: Incoming | null
  readonly isLeaving: boolean
}

export class Patience {
  readonly #waiter: Waiter
  #phase: Phase = Phase.Idle
  #since = 0
  #armedUntil = 0
  #stuck: StuckReader | null = null

  constructor(waiter: Waiter) {
    this.#waiter = waiter
  }

  get phase(): Phase {
    return this.#phase
  }

  /** When this wait began, on the connection's clock. */
  get since(): number {
    return this.#since
  }

  /** A wait begins; but a head has its time from its first byte on. */
  begin(phase: Phase): void {
    if (phase === Phase.Head && this.#phase === Phase.Head) return
    this.#phase = phase
    this.renew()
  }

  /** A phase that may be over before this turn is: its time begins only with `begin`. */
  enter(phase: Phase): void {
    this.#phase = phase
  }

  /** The time of this wait begins anew. */
  renew(): void {
    this.#since = this.#waiter.io.now()
    this.#arm(this.#since, this.#lookMs)
  }

  /** A limit may have become shorter. */
  look(): void {
    this.#arm(this.#waiter.io.now(), this.#lookMs)
  }

  /** The timer has run out. If this wait has not, it is set for the rest of it. */
  hasEnded(): boolean {
    const { io } = this.#waiter
    const now = io.now()
    const isOver = this.#since + this.#limit() <= now
    if (isOver && now - this.#armedUntil > LATE_MS) {
      this.catchUp()
      return false
    }
    if (isOver) this.#armedUntil = 0
    else this.#arm(now, io.queuedBytes > 0 ? this.#lookMs : LONGEST_LOOK_MS)
    return isOver
  }

  /** What has arrived meanwhile is read first; once, or a loop that stands still again and again would end no wait. */
  catchUp(): void {
    this.#armedUntil = Number.POSITIVE_INFINITY // so the next timer is not late, whenever it comes
    this.#waiter.io.deadline('http', CATCH_UP_MS)
  }

  /** The client may not send the rest of a body yet: what takes time is the handler. */
  get isForHandler(): boolean {
    return this.#phase === Phase.Answer || this.#isHeldBack
  }

  /** Whether a client has read nothing of its answer for as long as it may. What is sent meanwhile changes `mark`. */
  isUnread(mark: number): boolean {
    const { io, settings } = this.#waiter
    if (this.#stuck === null && io.queuedBytes === 0) return false
    this.#stuck ??= new StuckReader(io)
    return this.#stuck.isStuck(mark, unlimited(settings.writeTimeoutMs))
  }

  #limit(): number {
    const { settings, incoming } = this.#waiter
    switch (this.#phase) {
      case Phase.Idle:
        return unlimited(settings.keepAliveTimeoutMs)
      case Phase.Head:
        return unlimited(settings.headerTimeoutMs)
      case Phase.Body: {
        if (this.#isHeldBack) return this.#answerLimit // the handler is slow, not the client
        const left = incoming?.timeLeft(this.#bodyLimit, this.#since)
        return Math.min(unlimited(settings.bodyTimeoutMs), left ?? Number.POSITIVE_INFINITY)
      }
      case Phase.Answer:
        return this.#answerLimit
      case Phase.Flush:
      case Phase.Upgrade:
      case Phase.Reading:
        return Number.POSITIVE_INFINITY
    }
  }

  /** For all of a body, or for discarding its rest. */
  get #bodyLimit(): number {
    const { settings, incoming, isLeaving } = this.#waiter
    const limit = unlimited(settings.requestTimeoutMs)
    if (incoming?.isDiscarded !== true) return limit
    return Math.min(limit, isLeaving ? DISCARD_LEAVING_MS : DISCARD_MS)
  }

  get #answerLimit(): number {
    const { settings, exchange } = this.#waiter
    return unlimited(exchange?.hasStatus === true ? settings.writeTimeoutMs : settings.answerTimeoutMs)
  }

  get #isHeldBack(): boolean {
    return this.#phase === Phase.Body && this.#waiter.incoming?.isHeldBack === true
  }

  get #lookMs(): number {
    return Math.min(unlimited(this.#waiter.settings.writeTimeoutMs), LONGEST_LOOK_MS)
  }

  #arm(now: number, lookMs: number): void {
    const due = Math.min(this.#since + this.#limit(), now + lookMs)
    if (this.#armedUntil > now && this.#armedUntil <= due) return
    this.#set(now, due)
  }

  #set(now: number, due: number): void {
    this.#armedUntil = due
    this.#waiter.io.deadline('http', Math.max(1, due - now))
  }
}

function unlimited(ms: number): number {
  return ms > 0 ? ms : Number.POSITIVE_INFINITY
}
