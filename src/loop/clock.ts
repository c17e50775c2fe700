// The one clock of the runtime: monotonic, so that a step of the wall clock never fires or delays a timer
// (clock_gettime(2), CLOCK_MONOTONIC).

/** Milliseconds since this process began, with a fraction; never goes back. */
export function now(): number {
  return performance.now()
}
