// An answer in pieces. The other end sends no more items than this one has granted room for.

/** How many items may wait here; room is granted again each time half of them have been read. */
const ROOM_ITEMS = 16

export class ReplyStream implements AsyncIterableIterator<unknown> {
  readonly #credit: (items: number) => void
  readonly #cancel: () => void
  readonly #items: unknown[] = []
  #waiting: { resolve(result: IteratorResult<unknown>): void; reject(error: unknown): void }[] = []
  #read = 0
  #isOver = false
  #error: { readonly error: unknown } | null = null

  constructor(credit: (items: number) => void, cancel: () => void) {
    this.#credit = credit
    this.#cancel = cancel
    credit(ROOM_ITEMS)
  }

  push(item: unknown): void {
    if (this.#isOver) return
    const waiting = this.#waiting.shift()
    if (waiting === undefined) this.#items.push(item)
    else {
      this.#took()
      waiting.resolve({ value: item, done: false })
    }
  }

  /** Ends the stream; null: without an error. Items already here are read before an error. */
  end(error: unknown): void {
    if (this.#isOver) return
    this.#isOver = true
    if (error !== null) this.#error = { error }
    for (const waiting of this.#waiting.splice(0)) this.#last(waiting)
  }

  next(): Promise<IteratorResult<unknown>> {
    if (this.#items.length > 0) {
      if (!this.#isOver) this.#took()
      return Promise.resolve({ value: this.#items.shift(), done: false })
    }
    return new Promise((resolve, reject) => {
      if (this.#isOver) this.#last({ resolve, reject })
      else this.#waiting.push({ resolve, reject })
    })
  }

  /** The reader stops: tells the other end to stop sending. */
  return(): Promise<IteratorResult<unknown>> {
    if (!this.#isOver) this.#cancel()
    this.end(null)
    this.#items.length = 0
    this.#error = null
    return Promise.resolve({ value: undefined, done: true })
  }

  [Symbol.asyncIterator](): this {
    return this
  }

  /** An error is reported once. */
  #last({ resolve, reject }: { resolve(result: IteratorResult<unknown>): void; reject(error: unknown): void }): void {
    const failure = this.#error
    this.#error = null
    if (failure === null) resolve({ value: undefined, done: true })
    else reject(failure.error)
  }

  #took(): void {
    if (++this.#read < ROOM_ITEMS / 2) return
    this.#credit(this.#read)
    this.#read = 0
  }
}
