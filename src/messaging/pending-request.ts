// A request that waits for its answer: one promise, settled once by the first of: the answer, an error, the time-out,
// the caller's signal, the end of the other process. An answer may be a stream.

import type { Deferred } from '../deferred.ts'
import { codeOf, messageOf, PeerError } from '../errors.ts'
import { now, recently } from '../loop/clock.ts'
import { deadlines } from '../loop/deadlines.ts'
import { nothing } from '../nothing.ts'
import { checkOptions, type Rule, rule, SIGNAL_OR_NULL } from '../options.ts'
import { forgetAbort, onAbort } from './abort-listeners.ts'
import { type Expiring, Expiry } from './expiry.ts'
import { readFailure } from './failures.ts'
import { ReplyStream } from './reply-stream.ts'
import { type Form, isUnreadable, Kind, unpack } from './wire.ts'

/** What a request takes besides its message. Wrong ones are ERR_UNKNOWN_OPTION and ERR_BAD_OPTION. */
export interface RequestOptions {
  /**
   * How long the answer, or the first item of a stream, may take, in ms: otherwise the promise rejects, or reading the
   * stream does. 0 is without limit; a negative value has already expired. Default: 30 s.
   */
  timeoutMs?: number | undefined
  /** Cancels the request: the promise rejects with the signal's reason, and `call.signal` aborts at the other end. */
  signal?: AbortSignal | null | undefined
}

const RULES = {
  timeoutMs: rule((value) => typeof value === 'number' && !Number.isNaN(value), 'a number of milliseconds'),
  signal: SIGNAL_OR_NULL,
} satisfies Record<keyof RequestOptions, Rule>

/** Throws UsageError. */
export function checkRequest(options: RequestOptions): void {
  checkOptions('a request', options, RULES)
}

/** Rejects in a later turn of the event loop: a caller that asks again at once must not stop it. */
export async function rejectLater(error: unknown): Promise<never> {
  await new Promise(setImmediate)
  throw error
}

const DEFAULT_TIMEOUT_MS = 30_000

const AMONG_EQUALS = -1
const byDefault = new Expiry()

/** What the request was written to. */
export interface Carrier {
  cancel(number: number): void
  credit(number: number, items: number): void
}

export class PendingRequest implements Expiring {
  readonly promise: Promise<unknown>
  /** When the request becomes useless; Infinity for never. */
  readonly expiresAt: number
  /** Infinity for none. */
  readonly timeoutMs: number
  isDone = false
  readonly #to: string
  readonly #signal: AbortSignal | null
  /** Id of its deadline; 0 for none, AMONG_EQUALS for an entry in the list with the default time-out. */
  #timer = 0
  previous: Expiring | null = null
  next: Expiring | null = null
  readonly #resolve: (value: unknown) => void
  readonly #reject: (error: unknown) => void
  #carrier: Carrier | null = null
  #number = 0
  #stream: ReplyStream | null = null

  /** @param to the receiver, in words */
  constructor(to: string, { timeoutMs = DEFAULT_TIMEOUT_MS, signal = null }: RequestOptions) {
    const isDefault = timeoutMs === DEFAULT_TIMEOUT_MS
    this.#to = to
    this.promise = new Promise(takeBoth)
    this.#resolve = taken.resolve
    this.#reject = taken.reject
    this.timeoutMs = timeoutMs === 0 ? Number.POSITIVE_INFINITY : timeoutMs
    // Compared with 30 s, the time a handler has taken is negligible.
    this.expiresAt = (isDefault ? recently() : now()) + this.timeoutMs
    this.#signal = signal
    if (isDefault) {
      this.#timer = AMONG_EQUALS
      byDefault.add(this)
    } else if (timeoutMs < 0) this.refuse(this.#timedOut(false))
    else if (this.timeoutMs < Number.POSITIVE_INFINITY) this.#timer = deadlines.after(timeoutMs, expire, this)
    if (signal !== null && !this.isDone) this.#listen(signal)
  }

  #listen(signal: AbortSignal): void {
    if (signal.aborted) this.refuse(signal.reason)
    else onAbort(signal, this)
  }

  /** @internal The caller gives up. */
  abandon(reason: unknown): void {
    if (this.isDone && this.#stream === null) return
    this.fail(reason)
    this.#giveUp()
  }

  /** It is on its way: from now on it may be handled. */
  sent(carrier: Carrier, number: number): void {
    this.#carrier = carrier
    this.#number = number
    if (this.isDone) this.#giveUp()
  }

  answer(value: unknown): void {
    this.#stream?.end(null)
    if (this.#finish()) this.#resolve(value)
  }

  fail(error: unknown): void {
    this.#stream?.end(error)
    if (this.#finish()) this.#reject(error)
  }

  /**
   * Like `fail`, for a request that was never sent, but rejects on a later turn of the event loop: otherwise a caller
   * that asks again at once would stop the loop.
   */
  refuse(error: unknown): void {
    if (this.#finish()) setImmediate(this.#reject, error)
  }

  expire(): void {
    this.#timer = 0 // it has left the list
    this.fail(this.#timedOut(this.#carrier !== null))
    this.#giveUp()
  }

  #timedOut(isSent: boolean): PeerError {
    return new PeerError('ERR_REQUEST_TIMEOUT', `${this.#to}: no answer within ${this.timeoutMs} ms`, isSent)
  }

  /** Throws ProtocolError. A value that cannot be read fails this request only. */
  receive(kind: Kind, form: Form, bytes: Buffer, start: number, end: number): void {
    try {
      this.#receive(kind, form, bytes, start, end)
    } catch (error) {
      if (kind === Kind.Failure || !isUnreadable(error)) throw error
      this.fail(new PeerError(codeOf(error), `${this.#to}: the answer has ${messageOf(error)}`, true))
      if (kind === Kind.Item) this.#giveUp()
    }
  }

  #receive(kind: Kind, form: Form, bytes: Buffer, start: number, end: number): void {
    if (kind === Kind.Answer) this.answer(unpack(form, bytes, start, end))
    else if (kind === Kind.Failure) this.fail(readFailure(form, bytes, start, end))
    else if (kind === Kind.Stream) this.#begin()
    else if (kind === Kind.Item) this.#take(unpack(form, bytes, start, end))
    else if (kind === Kind.End) this.answer(undefined)
  }

  #begin(): void {
    if (this.isDone || this.#carrier === null) return
    const carrier = this.#carrier
    this.#stream = new ReplyStream(
      (items) => carrier.credit(this.#number, items),
      () => this.#giveUp(),
    )
    this.isDone = true
    this.#resolve(this.#stream) // the timer runs on until the first item, and the signal can end the stream later, too
  }

  #take(item: unknown): void {
    this.#stopTimer()
    this.#stream?.push(item)
  }

  #finish(): boolean {
    this.#unlisten()
    this.#stopTimer()
    if (this.isDone) return false
    this.isDone = true
    return true
  }

  #stopTimer(): void {
    if (this.#timer === AMONG_EQUALS) byDefault.delete(this)
    else if (this.#timer !== 0) deadlines.cancel(this.#timer)
    this.#timer = 0
  }

  #unlisten(): void {
    if (this.#signal !== null) forgetAbort(this.#signal, this)
  }

  #giveUp(): void {
    this.#unlisten()
    this.#stopTimer()
    this.#carrier?.cancel(this.#number)
  }
}

/** Settlers of the promise made last; avoids a closure per request. */
const taken: Pick<Deferred<unknown>, 'resolve' | 'reject'> = { resolve: nothing, reject: nothing }

function takeBoth(resolve: (value: unknown) => void, reject: (error: unknown) => void): void {
  taken.resolve = resolve
  taken.reject = reject
}

function expire(request: PendingRequest): void {
  request.expire()
}
