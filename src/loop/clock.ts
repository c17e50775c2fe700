// The one clock of the runtime: monotonic, so that a step of the wall clock never fires or delays a timer
// (clock_gettime(2), CLOCK_MONOTONIC).

/**
 * Read once: the global is a getter, which costs half as much again, and node:perf_hooks adds a millisecond to each
 * start.
 */
const { performance } = globalThis

/** Milliseconds since this process began, with a fraction; never goes back. */
export function now(): number {
  return performance.now()
}

/** Offset from this process's clock to the machine's, which all processes share: both are CLOCK_MONOTONIC. */
const MACHINE_OFFSET_MS = machineOffset()

/** Uses the quickest of several measurements, since the process may lose its core during any of them. */
function machineOffset(): number {
  let offset = 0
  let least = Number.POSITIVE_INFINITY
  for (let look = 0; look < 5; look++) {
    const before = performance.now()
    const machine = Number(process.hrtime.bigint()) / 1e6
    const took = performance.now() - before
    if (took < least) offset = machine - before - took / 2
    least = Math.min(least, took)
  }
  return offset
}

/**
 * Converts a time of `now()` to milliseconds of the machine's clock, which other processes on it can compare with their
 * own.
 */
export function toMachineTime(time: number): number {
  return time + MACHINE_OFFSET_MS
}

/** The inverse of `toMachineTime`. */
export function fromMachineTime(time: number): number {
  return time - MACHINE_OFFSET_MS
}

let held = -1

/**
 * Fixes or refreshes the time that `recently()` returns, and returns it. Engines do so once per batch, since reading
 * the clock costs 40 ns.
 */
export function holdClock(): number {
  held = performance.now()
  return held
}

export function releaseClock(): void {
  held = -1
}

/**
 * Like `now`, but within a batch the time of its last reading. For deadlines and idle times, which blocking handlers
 * make inexact anyway.
 */
export function recently(): number {
  return held < 0 ? performance.now() : held
}
