// One message as its handler sees it, beside the message itself: whether somebody waits for an answer, until when, and
// whether they still do.

import { setMaxListeners } from 'node:events'
import { AbortError } from '../errors.ts'
import { now, recently } from '../loop/clock.ts'

/** Who has more time is not worth a look at the clock. One for less is: a handler of the same batch may have taken long. */
const LOOK_BELOW_MS = 5000

/** The third argument of `onWorkerMessage`. */
export class Call {
  /** The sender waits for what the handler returns. */
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
   * What is left of the sender's time, whole ms; Infinity without a limit. For requests that this one makes in turn: so never 0,
   * which would be without one.
   */
  get remainingMs(): number {
    return Math.max(1, Math.ceil(this.#expiresAt - now()))
  }

  /** Aborts when nobody waits for the answer any more: the sender has given up, or is gone. */
  get signal(): AbortSignal {
    if (!this.isRequest) return new AbortController().signal // one for all would keep what listens to it for ever
    if (this.#aborter === null) {
      this.#aborter = new AbortController()
      setMaxListeners(0, this.#aborter.signal) // a handler may hand it to each of many requests
      if (this.#reason !== null) this.#aborter.abort(this.#reason)
    }
    return this.#aborter.signal
  }

  /** @internal */
  get isAborted(): boolean {
    return this.#reason !== null
  }

  /** @internal */
  get hasExpired(): boolean {
    return this.#expiresAt - recently() < LOOK_BELOW_MS && this.#expiresAt <= now()
  }

  /** @internal */
  abort(why: string): void {
    if (this.#reason !== null) return
    this.#reason = new AbortError('ERR_REQUEST_CANCELLED', why)
    this.#aborter?.abort(this.#reason)
  }
}

/** Of every message that nobody waits for an answer to. */
export const ONE_WAY = new Call(false, Number.POSITIVE_INFINITY)
