// How late a worker's event loop is, while somebody watches: Node's own histogram, which wakes an idle process a hundred
// times a second and so does not run otherwise.

import type { IntervalHistogram } from 'node:perf_hooks'

const RESOLUTION_MS = 10

export class LoopLag {
  #histogram: IntervalHistogram | null = null
  #lastMs = 0

  watch(isOn: boolean): void {
    if (isOn === (this.#histogram !== null)) return
    this.#histogram?.disable()
    this.#histogram = isOn ? newHistogram() : null
    this.#histogram?.enable()
    this.#lastMs = 0
  }

  /** The longest delay since the last call, ms; 0 while nobody watches. */
  take(): number {
    const histogram = this.#histogram
    if (histogram === null || histogram.max === 0) return this.#lastMs // no sample since then
    this.#lastMs = Math.max(0, Math.round(histogram.max / 1e6 - RESOLUTION_MS))
    histogram.reset()
    return this.#lastMs
  }
}

function newHistogram(): IntervalHistogram {
  const { monitorEventLoopDelay } = process.getBuiltinModule('node:perf_hooks')
  return monitorEventLoopDelay({ resolution: RESOLUTION_MS })
}
