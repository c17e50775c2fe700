// What a handler learns about a message besides the message itself: whether an answer is awaited, until when, and
// whether it still is.

import { setMaxListeners } from 'node:events'
import { AbortError } from '../errors.ts'
import { now } from '../loop/clock.ts'
import { separation } from './separation.ts'

/** The third argument of `onWorkerMessage`. */
export class Call {
  /** Whether the sender waits for what the handler returns. */
  readonly isRequest: boolean
  readonly #expiresAt: number
  #aborter: AbortController | null = null
  #reason: AbortError | null = null

  /** @internal */
  constructor(isRequest: boolean, expiresAt: number) {
    this.isRequest = isRequest
    this.#expiresAt = expiresAt
  }

  /**
   * What is left of the sender's time, in whole ms; Infinity without a limit. Meant as `timeoutMs` of further requests,
   * so never 0, which would mean no limit there.
   */
  get remainingMs(): number {
    return Math.max(1, Math.ceil(this.#expiresAt - now()))
  }

  /** Aborts when the answer is no longer awaited: the sender has given up, or is gone. */
  get signal(): AbortSignal {
    if (!this.isRequest) return new AbortController().signal // a shared one would keep its listeners forever
    if (this.#aborter === null) {
      this.#aborter = new AbortController()
      setMaxListeners(0, this.#aborter.signal) // a handler may pass it to each of many requests
      if (this.#reason !== null) this.#aborter.abort(this.#reason)
    }
    return this.#aborter.signal
  }

  /** @internal */
  get isAborted(): boolean {
    return this.#reason !== null
  }

  /** @internal By the exact clock (40 ns), if there is a limit: a handler of the same batch may have taken long. */
  get hasExpired(): boolean {
    return this.#expiresAt !== Number.POSITIVE_INFINITY && this.#expiresAt <= now()
  }

  /** @internal */
  abort(why: string): void {
    if (this.#reason !== null) return
    this.#reason = new AbortError('ERR_REQUEST_CANCELLED', why)
    const aborter = this.#aborter
    if (aborter !== null) separation.alone(() => aborter.abort(this.#reason)) // listeners are a handler's
  }
}

/** The call of every message whose answer is not awaited. */
export const ONE_WAY = new Call(false, Number.POSITIVE_INFINITY)
