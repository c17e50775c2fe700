// The one clock of the runtime: monotonic, so that a step of the wall clock never fires or delays a timer
// (clock_gettime(2), CLOCK_MONOTONIC).

/** Read once: the global one is a getter, which costs half as much again, and node:perf_hooks a millisecond of each start. */
const { performance } = globalThis

/** Milliseconds since this process began, with a fraction; never goes back. */
export function now(): number {
  return performance.now()
}

/** From this process's clock to the machine's, which all its processes read: both are CLOCK_MONOTONIC. */
const MACHINE_OFFSET_MS = machineOffset()

/** Of several looks the one between whose halves the least time has passed: a process may lose its core in any of them. */
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

/** A time of `now()` in milliseconds of the machine: what another process of it can compare with its own. */
export function toMachineTime(time: number): number {
  return time + MACHINE_OFFSET_MS
}

/** The other way. */
export function fromMachineTime(time: number): number {
  return time - MACHINE_OFFSET_MS
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
