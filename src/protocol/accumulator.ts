// The bytes of a stream that are not used yet.

import type { CodecIo } from '../protocol.ts'

/** From this many missing bytes on, a call that reads them directly into place pays off. */
const WORTH_READING_INTO = 32_768
/** Most bytes read in one go; then other connections get their turn. */
const MOST_AT_ONCE = 1_048_576

/** Bytes kept between reads: appended at the end, consumed from the front, grown by doubling, released when empty. */
export class Accumulator {
  #buffer: Buffer | null = null
  #start = 0
  #end = 0
  #expected = 0

  /** Bytes that are kept. */
  get length(): number {
    return this.#end - this.#start
  }

  /**
   * Sets how many bytes it will hold in total. It grows to that in few steps and not beyond, so the buffer that `take`
   * gives away is no larger. What a peer merely announces is not reserved: a step is at most four times what has
   * arrived.
   */
  expect(length: number): void {
    this.#expected = length
  }

  /** Copies `bytes` in. Cost: amortised O(bytes). */
  append(bytes: Uint8Array): void {
    const buffer = this.#reserve(bytes.length)
    buffer.set(bytes, this.#end)
    this.#end += bytes.length
  }

  /** Reads further bytes directly into the accumulator while much of what is expected is missing. Returns how many. */
  fill(io: Pick<CodecIo, 'readInto'>): number {
    const before = this.length
    for (let missing = this.#expected - before; missing >= WORTH_READING_INTO; missing = this.#expected - this.length) {
      const buffer = this.#reserve(WORTH_READING_INTO)
      const into = buffer.subarray(this.#end, Math.min(buffer.length, this.#end + missing))
      const bytes = io.readInto(into)
      this.#end += bytes
      if (bytes < into.length || this.length - before >= MOST_AT_ONCE) break
    }
    return this.length - before
  }

  /** Returns what is kept. Aliases the accumulator: valid until the next `append` or `consume`. */
  view(): Buffer {
    return this.#buffer === null ? EMPTY : this.#buffer.subarray(this.#start, this.#end)
  }

  /** Drops `count` bytes from the front. */
  consume(count: number): void {
    this.#start += count
    if (this.#start < this.#end) return
    this.#buffer = null // an idle connection holds no buffer
    this.#start = this.#end = this.#expected = 0
  }

  /** Returns what is kept, without a copy, and empties the accumulator. */
  take(): Buffer {
    const bytes = this.view()
    this.consume(bytes.length)
    return bytes
  }

  #reserve(count: number): Buffer {
    const size = this.length
    if (this.#buffer !== null && this.#end + count <= this.#buffer.length) return this.#buffer
    // Twice the needed size: each move of kept bytes to the front is then paid for by as many new bytes.
    const usual = Math.max(64, 2 * size + count)
    const isExpected = size + count <= this.#expected
    const grown = Buffer.allocUnsafeSlow(isExpected ? Math.min(this.#expected, 4 * (size + count)) : usual)
    if (this.#buffer !== null) this.#buffer.copy(grown, 0, this.#start, this.#end)
    this.#buffer = grown
    this.#start = 0
    this.#end = size
    return grown
  }
}

const EMPTY = Buffer.alloc(0)
