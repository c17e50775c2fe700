// What timers call, by slot: a function and its two payloads. Kept in chunks, since growing one large array copies it,
// and touching fresh memory is most of what a new timer costs (2.4 us a page on an AMD EPYC under KVM).

/** What a timer calls. It is given the two payloads of its `add`. */
export type Callback = (a: never, b: never) => unknown

const CHUNK_BITS = 13
const CHUNK = 1 << CHUNK_BITS
const FIELDS = 3

/** Three references a slot, in chunks that are made when a slot in them is first used. **Cost**: 24 bytes a slot. */
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

  /** Lets go of what a slot held, so that an ended timer keeps nothing alive. */
  drop(slot: number): void {
    const chunk = this.#chunks[slot >> CHUNK_BITS]!
    const at = indexOf(slot)
    chunk[at] = undefined
    chunk[at + 1] = undefined
    chunk[at + 2] = undefined
  }

  /** Gives all memory back. */
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
