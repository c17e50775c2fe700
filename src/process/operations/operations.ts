// What takes its time and must not mix: reload, scale, stop and start of a group. One after the other, in the order in which they
// were asked for. Those who ask the same while it waits for its turn share it: it will see the newest code all the same.

interface Waiting {
  readonly key: string | null
  readonly outcome: Promise<unknown>
}

export class Operations {
  #last: Promise<unknown> = Promise.resolve()
  /** The one at the end of the line, as long as it has not begun. */
  #waiting: Waiting | null = null

  /**
   * Runs `work` when those before it have ended, however. Who asks with the `key` of the last one that still waits gets
   * that one's outcome, and `work` is not called; null is like no other.
   */
  run<T>(key: string | null, work: () => Promise<T>): Promise<T> {
    if (key !== null && this.#waiting?.key === key) return this.#waiting.outcome as Promise<T>
    const outcome = this.#last.then(() => {
      if (this.#waiting === waiting) this.#waiting = null
      return work()
    })
    const waiting = { key, outcome }
    this.#waiting = waiting
    this.#last = outcome.catch(ignore)
    return outcome
  }

  /** Resolves when those that have been asked for so far have ended. */
  async idle(): Promise<void> {
    await this.#last
  }
}

function ignore(): void {
  // Whoever asked is told.
}
