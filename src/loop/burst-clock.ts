// The time from which a new timer counts. Reading the clock costs more than the rest of adding a timer (45 of 70 ns on
// an AMD EPYC under KVM, Node 20 and 26), so a burst of adds shares one reading.
// A shared reading is ahead of the clock by a lease. If the burst, or the code between its adds, outlasts the lease,
// its timers are postponed by the excess: no timer is ever early, and none is late by more than the run it was added
// in.

import { now } from './clock.ts'

/** This many adds share a reading... */
const ADDS = 64
/** ...which is ahead of the clock by this much. Timers are rounded up to whole milliseconds anyway. */
const LEASE_MS = 1 / 16

const settled = Promise.resolve()

/** The clock for adds: call `read`, then `lendTo` with the timer that was added. */
export class BurstClock {
  readonly #postpone: (id: number, ms: number) => void
  readonly #borrowers = new Float64Array(ADDS)
  readonly #onRunEnd = () => this.#endRun()
  #borrowed = 0
  /** The shared reading, while there is one. */
  #ahead = 0
  #isLending = false
  #lastRead = Number.NEGATIVE_INFINITY
  #awaitsRunEnd = false

  /** @param postpone moves a timer that counts from too early a time, if it is still pending */
  constructor(postpone: (id: number, ms: number) => void) {
    this.#postpone = postpone
  }

  /** Returns the time from which a timer added now counts. Once `postpone` has done its work, never before the call. */
  read(): number {
    return this.#isLending && this.#borrowed < ADDS ? this.#ahead : this.#renew()
  }

  /** Records which timer the last reading was for. */
  lendTo(id: number): void {
    if (this.#isLending) this.#borrowers[this.#borrowed++] = id
  }

  /** Reads the clock, and shares the reading if adds follow one another closely enough. */
  #renew(): number {
    const time = now()
    const pace = (time - this.#lastRead) / Math.max(this.#borrowed, 1)
    this.#settle(time)
    this.#lastRead = time
    this.#isLending = pace < LEASE_MS / ADDS
    if (!this.#isLending) return time
    this.#ahead = time + LEASE_MS
    this.#awaitRunEnd()
    return this.#ahead
  }

  /** Ends the lease: timers that count from too early a time are moved to this one. */
  #settle(time: number): void {
    const late = time - this.#ahead
    if (late > 0) for (let i = 0; i < this.#borrowed; i++) this.#postpone(this.#borrowers[i]!, late)
    this.#borrowed = 0
  }

  /** A lease ends with the synchronous run that took it, in a microtask, and so before any Node timer can fire. */
  #awaitRunEnd(): void {
    if (this.#awaitsRunEnd) return
    this.#awaitsRunEnd = true
    settled.then(this.#onRunEnd)
  }

  #endRun(): void {
    this.#awaitsRunEnd = false
    if (this.#isLending) this.#settle(now())
    this.#isLending = false
  }
}
