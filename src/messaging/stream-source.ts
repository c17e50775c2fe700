// A streamed answer at the end that produces it; reply-stream.ts is the other end. It sends no more items than the
// reader has room for.

import type { Readable } from 'node:stream'
import { stackOf } from '../errors.ts'
import { LimitedLog } from '../log.ts'
import { nothing } from '../nothing.ts'
import type { Call } from './call.ts'

/** Where a stream's items go. */
export interface ItemSink {
  /** Nobody reads the stream any more. */
  readonly isClosed: boolean
  /** Whether it has to be waited for. If so, it calls `wake` later. */
  isFull(): boolean
  /** Sends an item. Throws UsageError for what cannot be cloned. */
  item(value: unknown): void
}

const failures = new LimitedLog()

export class StreamSource {
  readonly #items: AsyncIterable<unknown> & Partial<Pick<Readable, 'on' | 'destroy'>>
  readonly #iterator: AsyncIterator<unknown>
  readonly #call: Call
  readonly #sink: ItemSink
  /** Number of items that the reader has room for. */
  #room = 0
  #wake = nothing // nobody waits yet

  constructor(items: AsyncIterable<unknown>, call: Call, sink: ItemSink) {
    this.#items = items
    // A Readable that fails before its first item is asked for, or when nobody asks any more, would end the process.
    if (typeof this.#items.on === 'function') this.#items.on('error', nothing)
    this.#iterator = items[Symbol.asyncIterator]()
    this.#call = call
    this.#sink = sink
  }

  credit(items: number): void {
    this.#room += items
    this.#wake()
  }

  /** Looks again whether the stream may go on, or is over. */
  wake(): void {
    this.#wake()
  }

  /**
   * Sends all items. Rejects with what the iterable throws. Ends early when the reader stops, even while the iterable
   * is waiting for its next item.
   */
  async pump(): Promise<void> {
    let isAtEnd = false
    try {
      while (!this.#isOver) {
        const next = await this.#unlessOver(this.#iterator.next())
        isAtEnd = next?.done === true
        if (next === null || isAtEnd) break
        await this.#untilRoom()
        if (this.#isOver) break
        this.#room--
        this.#sink.item(next.value)
      }
    } finally {
      if (!isAtEnd) this.#leave()
    }
  }

  get #isOver(): boolean {
    return this.#call.isAborted || this.#sink.isClosed
  }

  /** Null when the reader stops first: a source may take long to produce an item. */
  #unlessOver<T>(next: T | PromiseLike<T>): Promise<T | null> {
    return new Promise((resolve, reject) => {
      this.#wake = () => {
        if (this.#isOver) resolve(null)
      }
      Promise.resolve(next).then(resolve, reject)
    })
  }

  /** Lets the source clean up, without waiting for it. The iterator of a Readable does so only once it has begun. */
  #leave(): void {
    const failed = (error: unknown) => failures.log(`a stream that nobody reads on: ${stackOf(error)}`)
    try {
      void Promise.resolve(this.#iterator.return?.()).catch(failed)
      if (typeof this.#items.destroy === 'function') this.#items.destroy()
    } catch (error) {
      failed(error)
    }
  }

  async #untilRoom(): Promise<void> {
    while (!this.#isOver && (this.#room === 0 || this.#sink.isFull())) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve
      })
    }
  }
}
