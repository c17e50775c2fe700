// The bytes of a request's body on their way to the handler: a queue that tells the socket to wait, read once, by
// `for await`. If reading stops early, the rest is discarded.

import type { AbortError, ProtocolError } from '../../src/errors.ts'
import { UsageError } from '../../src/errors.ts'
import { nothing } from '../../src/nothing.ts'

/** Bytes that may wait for a handler before reading from the client stops: a few reads. */
const HIGH_WATER = 262_144
/** The least that a piece counts for: a Buffer of one byte takes no less memory than one of a hundred. */
const MIN_WEIGHT = 256

/** What a body needs from its connection. */
interface BodySource {
  /** Called when reading begins: the moment for `100 Continue`. */
  wanted(): void
  pause(): void
  resume(): void
  /** Its reader has stopped before the end. */
  left(): void
}

/**
 * The body of a request, read once: `for await (const bytes of request.body)`. If reading stops early, the rest is
 * discarded.
 */
export class RequestBody implements AsyncIterable<Buffer> {
  readonly #source: BodySource
  #queue: Buffer[] = []
  #weight = 0
  #hasEnded = false
  #isPaused = false
  #isTaken = false
  #isUnwanted = false
  #error: ProtocolError | AbortError | null = null
  #wake: (() => void) | null = null

  /** @internal */
  constructor(source: BodySource) {
    this.#source = source
  }

  /** @internal The body of a request that has none. */
  static empty(): RequestBody {
    const body = new RequestBody(NO_SOURCE)
    body.end()
    return body
  }

  /** @internal Takes bytes, which belong to this body from then on. */
  push(bytes: Buffer): void {
    if (this.#isUnwanted) return
    this.#queue.push(bytes)
    this.#weight += weightOf(bytes)
    if (this.#weight >= HIGH_WATER && !this.#isPaused) {
      this.#isPaused = true
      this.#source.pause()
    }
    this.#tell()
  }

  /** @internal */
  end(): void {
    this.#hasEnded = true
    if (this.#error === null) this.#resume() // nothing more comes: the next request need not wait for this one's reader
    this.#tell()
  }

  /** @internal The reader receives this error after the bytes before it. */
  fail(error: ProtocolError | AbortError): void {
    if (this.#hasEnded) return
    this.#error = error
    this.end()
  }

  /** All of it has arrived, or the rest will never come. */
  get hasEnded(): boolean {
    return this.#hasEnded
  }

  /** @internal Whether a reader has begun and not stopped. */
  get isBeingRead(): boolean {
    return this.#isTaken && !this.#isUnwanted
  }

  /** @internal What waits for the reader: about as many bytes. */
  get weight(): number {
    return this.#weight
  }

  /**
   * @internal The rest is discarded: no reader has begun, and a later one gets an error, or the one there was has left.
   */
  discard(): void {
    this.#isUnwanted = true
    this.#queue = []
    this.#weight = 0
    this.#resume()
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Buffer, void, undefined> {
    if (this.#isTaken) throw new UsageError('ERR_BODY_READ', 'a body can be read once')
    if (this.#isUnwanted)
      throw new UsageError('ERR_BODY_DISCARDED', 'its answer was complete before anybody read: begin to read before')
    this.#isTaken = true
    this.#source.wanted()
    try {
      for (;;) {
        const bytes = this.#queue.shift()
        if (bytes !== undefined) {
          this.#weight -= weightOf(bytes)
          if (this.#weight < HIGH_WATER / 2) this.#resume()
          yield bytes
        } else if (this.#hasEnded) {
          if (this.#error !== null) throw this.#error
          return
        } else
          await new Promise<void>((resolve) => {
            this.#wake = resolve
          })
      }
    } finally {
      this.discard()
      if (!this.#hasEnded) this.#source.left()
    }
  }

  #resume(): void {
    if (!this.#isPaused) return
    this.#isPaused = false
    this.#source.resume()
  }

  #tell(): void {
    this.#wake?.()
    this.#wake = null
  }
}

/** For a body that has fully arrived. */
const NO_SOURCE: BodySource = { wanted: nothing, pause: nothing, resume: nothing, left: nothing }

function weightOf(bytes: Buffer): number {
  return Math.max(bytes.length, MIN_WEIGHT)
}
