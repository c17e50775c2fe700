// The callbacks of timers, by slot: a function and its two payloads. Kept in chunks, since growing one large array
// copies it, and touching fresh memory is most of the cost of a new timer (2.4 us per page on an AMD EPYC under KVM).

/** Called by a timer with the two payloads given when it was added. */
export type Callback = (a: never, b: never) => unknown

const CHUNK_BITS = 13
const CHUNK = 1 << CHUNK_BITS
const FIELDS = 3

/** Three references per slot, in chunks made when one of their slots is first used. **Cost**: 24 bytes per slot. */
export class Entries {
  readonly #chunks: unknown[][] = []

  set(slot: number, callback: Callback, a: unknown, b: unknown): void {
    const chunk = this.#chunkOf(slot)
    const at = indexOf(slot)
    chunk[at] = callback
    chunk[at + 1] = a
    chunk[at + 2] = b
  }

  callback(slot: number): Callback {
    return this.#chunks[slot >> CHUNK_BITS]![indexOf(slot)] as Callback
  }

  a(slot: number): never {
    return this.#chunks[slot >> CHUNK_BITS]![indexOf(slot) + 1] as never
  }

  b(slot: number): never {
    return this.#chunks[slot >> CHUNK_BITS]![indexOf(slot) + 2] as never
  }

  /** Releases what a slot held, so that an ended timer keeps nothing alive. */
  drop(slot: number): void {
    const chunk = this.#chunks[slot >> CHUNK_BITS]!
    const at = indexOf(slot)
    chunk[at] = undefined
    chunk[at + 1] = undefined
    chunk[at + 2] = undefined
  }

  /** Releases all memory. */
  clear(): void {
    this.#chunks.length = 0
  }

  #chunkOf(slot: number): unknown[] {
    const number = slot >> CHUNK_BITS
    if (number === this.#chunks.length) this.#chunks.push(new Array(CHUNK * FIELDS))
    return this.#chunks[number]!
  }
}

function indexOf(slot: number): number {
  return (slot & (CHUNK - 1)) * FIELDS
}
