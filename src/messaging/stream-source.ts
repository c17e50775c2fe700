// A streamed answer at the end that produces it; reply-stream.ts is the other end. It sends no more items than the
// reader has room for.

import { type Duplex, Transform } from 'node:stream'
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

/** What a handler may answer with: a Readable, a generator, any async iterable. */
type Items = AsyncIterable<unknown> & Partial<Pick<Duplex, 'on' | 'destroy' | 'readableFlowing' | 'writableFinished'>>

const failures = new LimitedLog()

export class StreamSource {
  readonly #items: Items
  readonly #iterator: AsyncIterator<unknown>
  readonly #call: Call
  readonly #sink: ItemSink
  /** Number of items that the reader has room for. */
  #room = 0
  #wake = nothing // nobody waits yet

  constructor(items: AsyncIterable<unknown>, call: Call, sink: ItemSink) {
    this.#items = items
    this.#iterator = iteratorOf(items)
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
      if (!isAtEnd) leave(this.#items, this.#iterator)
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

  async #untilRoom(): Promise<void> {
    while (!this.#isOver && (this.#room === 0 || this.#sink.isFull())) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve
      })
    }
  }
}

/** Whether it is an async iterable. Strings and arrays are plain values. */
export function isStream(value: unknown): value is AsyncIterable<unknown> {
  return typeof value === 'object' && value !== null && Symbol.asyncIterator in value
}

/**
 * What a handler has returned that nobody has asked: a stream is ended, unless it is in use. Then it is no answer, but
 * what `socket.pause()` or `socket.end()` returns, say.
 */
export function leaveUnasked(result: unknown): void {
  if (isStream(result) && !isInUse(result)) leaveUnread(result)
}

/**
 * Whether somebody reads it, or may write to it what others read. Of a Readable `readableFlowing` is null before
 * anybody has read, paused or piped it.
 */
function isInUse(items: Items): boolean {
  const { readableFlowing = null, writableFinished = true } = items
  return readableFlowing !== null || (!writableFinished && !(items instanceof Transform))
}

/** Ends a stream that nobody will read, without waiting for it. What it fails with is nobody's any more. */
export function leaveUnread(items: AsyncIterable<unknown>): void {
  try {
    leave(items, iteratorOf(items))
  } catch (error) {
    failed(error)
  }
}

/** A Readable that fails before its first item is asked for, or when nobody asks any more, would end the process. */
function iteratorOf(items: Items): AsyncIterator<unknown> {
  if (typeof items.on === 'function') items.on('error', nothing)
  return items[Symbol.asyncIterator]()
}

/** Lets the source clean up, without waiting for it. The iterator of a Readable does so only once it has begun. */
function leave(items: Items, iterator: AsyncIterator<unknown>): void {
  try {
    void Promise.resolve(iterator.return?.()).catch(failed)
    if (typeof items.destroy === 'function') items.destroy()
  } catch (error) {
    failed(error)
  }
}

function failed(error: unknown): void {
  failures.log(`a stream that nobody reads on: ${stackOf(error)}`)
}
