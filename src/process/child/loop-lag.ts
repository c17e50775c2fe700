// How late a worker's event loop is, while somebody watches: a timer that would wake an idle process a hundred times a second,
// and so does not run otherwise. Not Node's histogram: that learns of a block from its own timer, which comes after whoever
// asked during the block has been answered, and what it has not recorded by then is lost with a reset.

import { now } from '../../loop/clock.ts'

const TICK_MS = 10

export class LoopLag {
  #timer: NodeJS.Timeout | null = null
  /** When the timer is to come next. */
  #dueAt = 0
  #longestMs = 0

  watch(isOn: boolean): void {
    if (isOn === (this.#timer !== null)) return
    if (this.#timer !== null) clearInterval(this.#timer)
    this.#timer = isOn ? setInterval(() => this.#tick(), TICK_MS).unref() : null
    this.#dueAt = now() + TICK_MS
    this.#longestMs = 0
  }

  /** The longest delay since the last call, ms, with the one that is just ending; 0 while nobody watches. */
  take(): number {
    if (this.#timer === null) return 0
    this.#tick()
    const longestMs = Math.round(this.#longestMs)
    this.#longestMs = 0
    return longestMs
  }

  #tick(): void {
    const time = now()
    this.#longestMs = Math.max(this.#longestMs, time - this.#dueAt)
    this.#dueAt = time + TICK_MS
  }
}
