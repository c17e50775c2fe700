// Pieces of an open answer that were sent before its head could be: a session is being stored, say. The connection
// keeps them, and counts them as queued.

import type { CodecIo } from '../../src/protocol.ts'

export class EarlyPieces {
  /** The answer will be one of events. */
  readonly isOfEvents: boolean
  /** The last piece has been sent. */
  isEnded = false
  readonly #io: CodecIo
  readonly #returned: (string | Uint8Array)[] = []
  #isLeaving = false
  #size = 0

  constructor(io: CodecIo, isOfEvents: boolean) {
    this.#io = io
    this.isOfEvents = isOfEvents
  }

  /** Bytes. */
  get size(): number {
    return this.#size
  }

  /** The connection is giving them back: they were within the limits. */
  get isLeaving(): boolean {
    return this.#isLeaving
  }

  /** False: wait for `onBufferDrain`. */
  add(data: string | Uint8Array): boolean {
    if (this.#isLeaving) {
      this.#returned.push(data)
      return true
    }
    const size = Buffer.byteLength(data)
    this.#size += size
    return this.#io.keep(data, size)
  }

  /** The connection gives them back, by sending each again. */
  take(): readonly (string | Uint8Array)[] {
    this.#isLeaving = true
    this.#io.sendKept()
    return this.#returned
  }
}
