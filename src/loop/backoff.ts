// When to try again, a process or a connection: at once after the first failure, then later and later, so that what is
// broken fills no log and burns no core; with jitter, so that those which fell together do not return together.

const FIRST_MS = 100
const LONGEST_MS = 30_000
const JITTER = 0.2
/** What lived this long had no trouble starting. */
export const HEALTHY_AFTER_MS = 10_000

export class Backoff {
  /** Short lives in a row that ended in a failure. */
  failures = 0

  /** Notes a failure; how long to wait before the next try, in ms. */
  next(aliveMs: number, random = Math.random()): number {
    this.failures = aliveMs >= HEALTHY_AFTER_MS ? 1 : this.failures + 1
    if (this.failures === 1) return 0
    const full = Math.min(LONGEST_MS, FIRST_MS * 2 ** (this.failures - 2))
    return full * (1 + JITTER * (2 * random - 1))
  }
}
