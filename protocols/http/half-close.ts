// What becomes of a request whose client has sent FIN. It has half-closed and reads on (`nc -N`, some proxies), or it
// is gone (curl was interrupted, a tab closed): a FIN looks the same, and only bytes sent to it would tell. So it gets
// its answer, but first the handler and then, if nobody is at work on it, the connection stop waiting for that.

import { AbortError } from '../../src/errors.ts'
import type { CodecIo } from '../../src/protocol.ts'
import type { Exchange } from './exchange.ts'
import type { Request } from './request.ts'

/** How long a handler has, from the FIN or from its call, before its signal aborts: most answers need less. */
const DOUBT_MS = 1000
/**
 * How long nothing may be written, with no handler at work, before the connection is closed. The kernel's keep-alive
 * probes take as long (131 s measured), and only TCP on the native engine hears of their result.
 */
const PATIENCE_MS = 120_000
/** The same while the worker is leaving. */
const LEAVING_MS = 5000

export class HalfClose {
  readonly #io: CodecIo<Request>
  #exchange: Exchange | null = null
  #isTold = false
  /** Why signals of requests have aborted. */
  #reason: AbortError | null = null
  #sentBefore = 0
  #isLeaving: boolean

  constructor(io: CodecIo<Request>, isLeaving: boolean) {
    this.#io = io
    this.#isLeaving = isLeaving
  }

  /** A request is at work when FIN arrives, or begins after it (pipelined). Replaces the one before it. */
  watch(exchange: Exchange): void {
    this.#exchange = exchange
    this.#isTold = false
    if (!exchange.isRaw) this.#io.onSettled = null
    this.#io.deadline('half-close', DOUBT_MS)
  }

  /** The worker is leaving, and does not wait for clients that are gone. */
  leave(): void {
    this.#isLeaving = true
    if (this.#isTold && this.#exchange?.isAnswered === false) this.#wait(this.#exchange)
  }

  /** The deadline has passed. */
  expired(): void {
    const exchange = this.#exchange
    if (exchange === null || exchange.isAnswered) return
    if (exchange.isArriving || this.#io.hasUndelivered) this.watch(exchange)
    else if (!this.#isTold) this.#tell(exchange)
    else if (exchange.sent > this.#sentBefore || this.#io.queuedBytes > 0) this.#wait(exchange)
    else this.#io.close()
  }

  hasAborted(reason: unknown): boolean {
    return this.#reason !== null && reason === this.#reason
  }

  #tell(exchange: Exchange): void {
    this.#isTold = true
    this.#reason ??= new AbortError('ERR_CLIENT_ENDED', 'the client has ended its side, and may be gone')
    exchange.clientEnded(this.#reason)
    if (exchange.isAnswered) return // by who heard of it
    if (exchange.isEndless) return this.#io.close()
    if (this.#exchange === exchange) this.#wait(exchange)
  }

  #wait(exchange: Exchange): void {
    this.#sentBefore = exchange.sent
    if (exchange.isRaw) return // it ends when its handler has settled
    this.#io.onSettled = () => this.#io.deadline('half-close', this.#isLeaving ? LEAVING_MS : PATIENCE_MS)
  }
}
