// A body that is collected. Usually it is one piece, and then it is copied only once. Otherwise it goes into one
// growing buffer, since a client may send each byte as a piece of its own, and a million small Buffers take a hundred
// times the memory of their content.

import { Accumulator } from '../../src/protocol/accumulator.ts'
import type { CodecIo } from '../../src/protocol.ts'

export class Pieces {
  #only: Buffer | null = null
  #all: Accumulator | null = null
  readonly #expected: number

  /** `expected`: bytes announced; 0 if unknown. */
  constructor(expected: number) {
    this.#expected = expected
  }

  /** Copies `bytes` in. Cost: amortised O(bytes). */
  push(bytes: Buffer): void {
    if (this.#only === null && this.#all === null && bytes.length >= this.#expected) {
      this.#only = Buffer.from(bytes)
      return
    }
    if (this.#all === null) {
      this.#all = new Accumulator()
      this.#all.expect(this.#expected)
    }
    if (this.#only !== null) this.#all.append(this.#only)
    this.#only = null
    this.#all.append(bytes)
  }

  /** Reads further bytes directly into the buffer. Returns how many. */
  fill(io: CodecIo): number {
    return this.#all?.fill(io) ?? 0
  }

  /** Returns all bytes, which then belong to the caller. */
  take(): Buffer {
    return this.#only ?? this.#all?.take() ?? Buffer.alloc(0)
  }
}
