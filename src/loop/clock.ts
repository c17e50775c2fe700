// The one clock of the runtime: monotonic, so that a step of the wall clock never fires or delays a timer
// (clock_gettime(2), CLOCK_MONOTONIC).

import { performance } from 'node:perf_hooks' // the global one is a getter, which costs half as much again

/** Milliseconds since this process began, with a fraction; never goes back. */
export function now(): number {
  return performance.now()
}

let held = -1

/** Holds the clock for `recently()`, or moves it on: an engine does at each batch, for a look costs 40 ns. The time. */
export function holdClock(): number {
  held = performance.now()
  return held
}

export function releaseClock(): void {
  held = -1
}

/** As `now`, in a batch as of its last look: for deadlines and silences, which handlers that block make inexact anyway. */
export function recently(): number {
  return held < 0 ? performance.now() : held
}
