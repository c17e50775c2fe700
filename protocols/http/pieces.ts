// A body that is collected: mostly one piece, and then not copied twice; else one buffer that grows, since a client may send
// each byte as a piece of its own, and a million small Buffers weigh a hundred times what they hold.

import { Accumulator, type CodecIo } from '../../src/protocol.ts'

export class Pieces {
  #only: Buffer | null = null
  #all: Accumulator | null = null
  readonly #expected: number

  /** `expected` bytes are promised; 0 when nobody knows. */
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

  /** Reads on where it belongs; how many bytes. */
  fill(io: CodecIo): number {
    return this.#all?.fill(io) ?? 0
  }

  /** All of it, given away. */
  take(): Buffer {
    return this.#only ?? this.#all?.take() ?? Buffer.alloc(0)
  }
}
