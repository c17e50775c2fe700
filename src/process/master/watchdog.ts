// Finds workers that hang: the event loop has been blocked for longer than allowed. Excluded is what only looks like
// that: the machine or the master was asleep, or the process is stopped or being debugged.

import { HEARTBEAT_MS } from '../messages.ts'

/** A check this late means that this process or the machine was paused, so nobody's silence counts. */
const STOOD_STILL_MS = 2 * HEARTBEAT_MS

/** A process as the watchdog sees it. */
export interface Watched {
  readonly pid: number
  /** When the process was last heard from, on the clock passed to `look`. */
  readonly heardAt: number
  /** Its inspector is open: a process at a breakpoint does not hang. */
  readonly isInspected: boolean
  /** How long it may be silent; 0 is forever. */
  readonly stuckTimeoutMs: number
}

export class Watchdog {
  readonly #everyMs: number
  readonly #isStopped: (pid: number) => boolean
  #lookedAt: number
  /** Silence before this time does not count. */
  #since: number
  readonly #excused = new WeakMap<Watched, number>()

  /** `isStopped` says whether a process is stopped by SIGSTOP or ptrace(2). */
  constructor(everyMs: number, isStopped: (pid: number) => boolean, time: number) {
    this.#everyMs = everyMs
    this.#isStopped = isStopped
    this.#lookedAt = this.#since = time
  }

  /** Call every `everyMs`: returns the processes that hang, the longest first. */
  look(time: number, all: Iterable<Watched>): Watched[] {
    if (time - this.#lookedAt > this.#everyMs + STOOD_STILL_MS) this.#since = time
    this.#lookedAt = time
    return [...all].filter((one) => this.#hangs(one, time)).sort((a, b) => a.heardAt - b.heardAt)
  }

  #hangs(one: Watched, time: number): boolean {
    const silentSince = Math.max(one.heardAt, this.#since, this.#excused.get(one) ?? 0)
    if (one.stuckTimeoutMs === 0 || time - silentSince < STOOD_STILL_MS) return false
    const isExcused = one.isInspected || this.#isStopped(one.pid)
    if (isExcused) this.#excused.set(one, time) // when it runs again, its time starts over
    return !isExcused && time - silentSince >= one.stuckTimeoutMs
  }
}
