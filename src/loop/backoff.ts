// When to retry a process or a connection: at once after the first failure, then later and later, so that something
// broken fills no log and burns no core; with jitter, so that what failed together does not return together.

const FIRST_MS = 100
const LONGEST_MS = 30_000
const JITTER = 0.2
/** A process or connection that lived this long had no trouble starting. */
export const HEALTHY_AFTER_MS = 10_000

export class Backoff {
  /** Failures in a row since the last healthy life. */
  failures = 0

  /**
   * Notes a failure. Returns how long to wait before the next try, in ms.
   * @param aliveMs how long it was of use
   */
  next(aliveMs: number, random = Math.random()): number {
    this.failures = aliveMs >= HEALTHY_AFTER_MS ? 1 : this.failures + 1
    if (this.failures === 1) return 0
    const full = Math.min(LONGEST_MS, FIRST_MS * 2 ** (this.failures - 2))
    return full * (1 + JITTER * (2 * random - 1))
  }
}
