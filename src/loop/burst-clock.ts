// From when a new timer counts. Reading the clock costs more than all the rest of adding a timer (45 of 70 ns on an AMD
// EPYC under KVM, Node 20 and 26), so a burst of adds shares one reading.
// A shared reading lies ahead of the clock by a lease. If the burst, or the code between its adds, outlasts the lease,
// its timers are postponed by the rest: no timer is ever early, and none late by more than the run it was added in.

import { now } from './clock.ts'

/** A reading is shared by so many adds... */
const ADDS = 64
/** ...and lies so far ahead. Timers are rounded up to whole milliseconds anyway. */
const LEASE_MS = 1 / 16

const settled = Promise.resolve()

/** The clock as adds see it: `read`, then `lendTo` the timer that was added. */
export class BurstClock {
  readonly #postpone: (id: number, ms: number) => void
  readonly #borrowers = new Float64Array(ADDS)
  readonly #onRunEnd = () => this.#endRun()
  #borrowed = 0
  /** What a shared reading says, while one is lent. */
  #ahead = 0
  #isLending = false
  #lastRead = Number.NEGATIVE_INFINITY
  #awaitsRunEnd = false

  /** @param postpone moves a timer that counts from too early a time, if it still pends */
  constructor(postpone: (id: number, ms: number) => void) {
    this.#postpone = postpone
  }

  /** From when a timer counts that is added now. Never before the call, once `postpone` has had its say. */
  read(): number {
    return this.#isLending && this.#borrowed < ADDS ? this.#ahead : this.#renew()
  }

  /** Says which timer the last reading was for. */
  lendTo(id: number): void {
    if (this.#isLending) this.#borrowers[this.#borrowed++] = id
  }

  /** Reads the clock, and lends the reading if adds follow each other closely enough. */
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

  /** Ends the lease: who was given too early a time is moved to this one. */
  #settle(time: number): void {
    const late = time - this.#ahead
    if (late > 0) for (let i = 0; i < this.#borrowed; i++) this.#postpone(this.#borrowers[i]!, late)
    this.#borrowed = 0
  }

  /** A lease ends with the synchronous run that took it, in a microtask, which is before any Node timer can ring. */
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
