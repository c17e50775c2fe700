// Unsettled messages of one link, by number. A ring, since nearly all settle in the order in which they were sent; slow
// ones move to a map, so that the ring stays short.

const FIRST_PLACES = 64
const MOST_PLACES = 65_536

/** Marks a settled place. */
const SETTLED = Symbol('settled')

export interface Unsettled {
  readonly entry: unknown
  readonly size: number
}

export class Ledger {
  #entries: unknown[] = new Array(FIRST_PLACES).fill(SETTLED)
  #sizes: number[] = new Array(FIRST_PLACES).fill(0)
  /** The oldest number in the ring, and the next number to assign. */
  #oldest = 0
  #next = 0
  readonly #aside = new Map<number, Unsettled>()
  count = 0
  /** Size of the entry taken last. */
  size = 0

  /** Returns the entry's number. */
  add(entry: unknown, size: number): number {
    if (this.#next - this.#oldest === this.#entries.length) this.#makeRoom()
    const number = this.#next++
    const place = number & (this.#entries.length - 1)
    this.#entries[place] = entry
    this.#sizes[place] = size
    this.count++
    return number
  }

  get(number: number): unknown {
    if (number >= this.#next) return undefined
    if (number < this.#oldest) return this.#aside.get(number)?.entry
    const entry = this.#entries[number & (this.#entries.length - 1)]
    return entry === SETTLED ? undefined : entry
  }

  /**
   * Removes and returns the entry, and stores its size in `size`. Returns `missing` if there is no entry of that
   * number.
   */
  take(number: number, missing: unknown): unknown {
    this.size = 0
    if (number >= this.#next) return missing
    if (number < this.#oldest) return this.#takeAside(number, missing)
    const entries = this.#entries
    const mask = entries.length - 1
    const place = number & mask
    const entry = entries[place]
    if (entry === SETTLED) return missing
    this.size = this.#sizes[place] as number
    this.count--
    entries[place] = SETTLED
    while (this.#oldest < this.#next && entries[this.#oldest & mask] === SETTLED) this.#oldest++
    return entry
  }

  #takeAside(number: number, missing: unknown): unknown {
    const found = this.#aside.get(number)
    if (found === undefined) return missing
    this.#aside.delete(number)
    this.size = found.size
    this.count--
    return found.entry
  }

  /** Removes and returns all entries, oldest first. */
  takeAll(): Unsettled[] {
    const all = [...this.#aside.values()]
    this.#aside.clear()
    const mask = this.#entries.length - 1
    for (; this.#oldest < this.#next; this.#oldest++) {
      const place = this.#oldest & mask
      const entry = this.#entries[place]
      if (entry !== SETTLED) all.push({ entry, size: this.#sizes[place] as number })
      this.#entries[place] = SETTLED
    }
    this.count = 0
    return all
  }

  #makeRoom(): void {
    if (this.#entries.length < MOST_PLACES) return this.#grow()
    const place = this.#oldest & (this.#entries.length - 1)
    this.#aside.set(this.#oldest, { entry: this.#entries[place], size: this.#sizes[place] as number })
    this.#entries[place] = SETTLED
    const mask = this.#entries.length - 1
    while (this.#oldest < this.#next && this.#entries[this.#oldest & mask] === SETTLED) this.#oldest++
  }

  #grow(): void {
    const old = this.#entries
    const oldSizes = this.#sizes
    const places = old.length * 2
    this.#entries = new Array(places).fill(SETTLED)
    this.#sizes = new Array(places).fill(0)
    for (let number = this.#oldest; number < this.#next; number++) {
      this.#entries[number & (places - 1)] = old[number & (old.length - 1)]
      this.#sizes[number & (places - 1)] = oldSizes[number & (old.length - 1)] as number
    }
  }
}
