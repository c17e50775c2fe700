// The body of a request while it arrives: cut out of the stream, counted against its limit, and collected or passed on
// to its reader. Knows for how long the client, and not the reader, was waited for.

import type { CodecIo } from '../../src/protocol.ts'
import { ChunkedDecoder } from './chunked.ts'
import type { Exchange } from './exchange.ts'
import { refusal } from './head.ts'
import { Pieces } from './pieces.ts'
import type { RequestBody } from './request-body.ts'
import type { Resolved } from './settings.ts'

/** An answer to a request whose body has more unread bytes than this, as far as is known, is the last. */
const MAX_UNREAD = 65_536

/** How a body is received. */
interface Reception {
  /** Bytes. */
  readonly limit: number
  readonly isCollected: boolean
  /** The client has begun to send it, whatever its head says. */
  readonly hasBegun: boolean
}

export class Incoming {
  readonly exchange: Exchange
  readonly sink: RequestBody
  readonly #io: CodecIo
  readonly #limit: number
  readonly #chunked: ChunkedDecoder | null
  /** Null if the body is streamed. */
  readonly #parts: Pieces | null
  /** Bytes still to come, if the body is not chunked. */
  #left: number
  /** Bytes received. */
  #size = 0
  #isAwaitingContinue: boolean
  #isFull = false
  #fullSince = 0
  /** Moved on by the time during which the body was not read. */
  #startedAt: number
  /** Weight of what waited for the reader. */
  #weightAtLook = 0

  constructor(exchange: Exchange, sink: RequestBody, io: CodecIo, settings: Resolved, reception: Reception) {
    const { head } = exchange
    const { limit, isCollected, hasBegun } = reception
    if (head.contentLength > limit) throw tooLarge(limit)
    this.exchange = exchange
    this.sink = sink
    this.#io = io
    this.#limit = limit
    this.#chunked = head.isChunked ? new ChunkedDecoder(settings.head) : null
    this.#parts = isCollected ? new Pieces(head.contentLength) : null
    this.#left = head.contentLength
    this.#isAwaitingContinue = head.expectsContinue && !hasBegun
    this.#startedAt = io.now()
  }

  /** Takes its bytes from `start` on. Returns where it ends, or the end of `bytes`. */
  take(bytes: Buffer, start: number): number {
    if (this.#chunked !== null) return this.#takeChunks(this.#chunked, bytes, start)
    const end = Math.min(bytes.length, start + this.#left)
    this.#left -= end - start
    const data = bytes.subarray(start, end)
    if (this.#isKept(data)) {
      if (this.#parts === null) this.sink.push(Buffer.from(data))
      else this.#parts.push(data)
    }
    if (this.#left > 0 && !this.exchange.isAnswered) this.#readOn()
    return end
  }

  /**
   * What one read has brought is one piece for the reader: a client may send a chunk for each byte, and ten thousand
   * pieces would reach it without a turn of the loop between them.
   */
  #takeChunks(chunked: ChunkedDecoder, bytes: Buffer, start: number): number {
    const brought: Buffer[] = [] // lent
    const parts = this.#parts ?? brought
    try {
      return chunked.feed(bytes, start, (data) => {
        if (this.#isKept(data)) parts.push(data)
      })
    } finally {
      if (brought.length > 0) this.sink.push(Buffer.concat(brought))
    }
  }

  /** Counts it, and says whether anybody reads it. */
  #isKept(data: Buffer): boolean {
    this.#size += data.length
    this.begin()
    if (this.isDiscarded) return false
    if (this.#size > this.#limit) throw tooLarge(this.#limit)
    return true
  }

  /** Called when all received bytes are used. */
  #readOn(): void {
    const read = this.#parts?.fill(this.#io) ?? 0
    this.#left -= read
    this.#size += read
  }

  get isWhole(): boolean {
    return this.#chunked === null ? this.#left === 0 : this.#chunked.isDone
  }

  get trailers(): ChunkedDecoder['trailers'] | null {
    return this.#chunked?.trailers ?? null
  }

  /** The whole body; null if it is streamed. It then belongs to the caller. */
  collected(): Buffer | null {
    return this.#parts?.take() ?? null
  }

  /** The answer is complete, and nobody reads on. */
  get isDiscarded(): boolean {
    return this.exchange.isAnswered && !this.sink.isBeingRead
  }

  /**
   * Whether the connection may outlive the answer: somebody reads the body, or little of it is left, as far as is known
   * when the head of the answer is written. If a chunked body turns out to be long, or its reader stops, it is
   * discarded nevertheless: a proxy that was not told `close` gives the connection to another client as soon as it has
   * sent the whole request, and a FIN would cost that one its own (RFC 9112 section 9.6).
   */
  get mayBeDiscarded(): boolean {
    if (this.sink.isBeingRead) return true
    return this.#size + this.#left <= MAX_UNREAD && !this.#isAwaitingContinue // it waits for a 100 that will not come
  }

  // Time

  /** The client waits for a 100, and may send nothing before (RFC 9110 section 10.1.1). */
  get isAwaitingContinue(): boolean {
    return this.#isAwaitingContinue
  }

  /** The client sends, or may send now: only now does its time begin. */
  begin(): void {
    if (!this.#isAwaitingContinue) return
    this.#isAwaitingContinue = false
    this.#startedAt = this.#io.now()
  }

  /** Too much waits for the reader: the client is not read. */
  get isFull(): boolean {
    return this.#isFull
  }

  set isFull(isFull: boolean) {
    this.#isFull = isFull
    const now = this.#io.now()
    if (isFull) this.#fullSince = now
    else this.#startedAt += now - this.#fullSince
  }

  /** The client may not send the rest of it yet, or any of it: what takes time is the handler. */
  get isHeldBack(): boolean {
    return this.#isFull || this.#isAwaitingContinue
  }

  /** How much of `ms` for the whole body, or for discarding its rest, was left at `since`. */
  timeLeft(ms: number, since: number): number {
    return this.#startedAt + ms - since
  }

  /** Nobody reads the rest: it is thrown away, so that the next request can come. The time for that begins now. */
  discard(): void {
    this.sink.discard()
    this.#startedAt = this.#io.now()
  }

  noteWeight(): void {
    this.#weightAtLook = this.sink.weight
  }

  /** Whether nothing was read since `noteWeight`. */
  get isUntouched(): boolean {
    return this.sink.weight === this.#weightAtLook
  }
}

function tooLarge(limit: number): Error {
  return refusal('ERR_BODY_TOO_LARGE', 413, `a body is over the limit of ${limit} bytes`)
}
