// Which worker hangs: its event loop has not turned for longer than it may. What only looks like that is told apart: a
// machine that was asleep, a master that was, a process that somebody has stopped, or looks at with a debugger.

import { HEARTBEAT_MS } from '../messages.ts'

/** A look that comes so much late was not ours to miss: this process, or all of the machine, has stood still meanwhile. */
const STOOD_STILL_MS = 2 * HEARTBEAT_MS

/** A process as the watchdog sees it. */
export interface Watched {
  readonly pid: number
  /** When something was heard of it, by the clock that `look` is given. */
  readonly heardAt: number
  /** An inspector is open in it: who stands at a breakpoint does not hang. */
  readonly isInspected: boolean
  /** How long it may be silent; 0 is for ever. */
  readonly stuckTimeoutMs: number
}

export class Watchdog {
  readonly #everyMs: number
  readonly #isStopped: (pid: number) => boolean
  #lookedAt: number
  /** Silence before this is nobody's fault. */
  #since: number
  readonly #excused = new WeakMap<Watched, number>()

  /** `isStopped` tells of a pid whether somebody has stopped it: SIGSTOP, ptrace(2). */
  constructor(everyMs: number, isStopped: (pid: number) => boolean, time: number) {
    this.#everyMs = everyMs
    this.#isStopped = isStopped
    this.#lookedAt = this.#since = time
  }

  /** To be called every `everyMs`: who hangs, the longest first. */
  look(time: number, all: Iterable<Watched>): Watched[] {
    if (time - this.#lookedAt > this.#everyMs + STOOD_STILL_MS) this.#since = time
    this.#lookedAt = time
    return [...all].filter((one) => this.#hangs(one, time)).sort((a, b) => a.heardAt - b.heardAt)
  }

  #hangs(one: Watched, time: number): boolean {
    const silentSince = Math.max(one.heardAt, this.#since, this.#excused.get(one) ?? 0)
    if (one.stuckTimeoutMs === 0 || time - silentSince < STOOD_STILL_MS) return false
    const isExcused = one.isInspected || this.#isStopped(one.pid)
    if (isExcused) this.#excused.set(one, time) // when it goes on it has all of its time again
    return !isExcused && time - silentSince >= one.stuckTimeoutMs
  }
}
