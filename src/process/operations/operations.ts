// Operations that take time and must not overlap: reload, scale, stop and start of a group. They run one after another
// in the order of the requests. Equal requests share one that still waits: it will see the newest code all the same.

import { nothing } from '../../nothing.ts'

interface Waiting {
  readonly key: string | null
  readonly outcome: Promise<unknown>
}

export class Operations {
  #last: Promise<unknown> = Promise.resolve()
  /** The last operation in the queue, if it has not begun. */
  #waiting: Waiting | null = null

  /**
   * Runs `work` when all earlier operations have ended, successfully or not. A caller with the `key` of the last one
   * that still waits gets the outcome of that one, and `work` is not called. A null key matches none.
   */
  run<T>(key: string | null, work: () => Promise<T>): Promise<T> {
    if (key !== null && this.#waiting?.key === key) return this.#waiting.outcome as Promise<T>
    const outcome = this.#last.then(() => {
      if (this.#waiting === waiting) this.#waiting = null
      return work()
    })
    const waiting = { key, outcome }
    this.#waiting = waiting
    this.#last = outcome.catch(nothing) // the caller gets the error
    return outcome
  }

  /** Resolves when all operations requested so far have ended. */
  async idle(): Promise<void> {
    await this.#last
  }
}
