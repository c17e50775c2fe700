// Measures the lag of a worker's event loop while it is watched. It uses a timer that would wake an idle process a
// hundred times a second, so it is off otherwise. Node's histogram is no substitute: it records a block only when its
// own timer fires, after requests made during the block have been answered, and a reset loses what it has not recorded
// by then.

import { now } from '../../loop/clock.ts'

const TICK_MS = 10

export class LoopLag {
  #timer: NodeJS.Timeout | null = null
  /** When the timer is due next. */
  #dueAt = 0
  #longestMs = 0

  watch(isOn: boolean): void {
    if (isOn === (this.#timer !== null)) return
    if (this.#timer !== null) clearInterval(this.#timer)
    this.#timer = isOn ? setInterval(() => this.#tick(), TICK_MS).unref() : null
    this.#dueAt = now() + TICK_MS
    this.#longestMs = 0
  }

  /** The longest lag since the last call, ms, including one that is just ending; 0 if not watched. */
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
