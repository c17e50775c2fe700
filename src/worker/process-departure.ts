// How a process leaves: the departures of its Workers begin together, and are over together. The rule for when it may
// end: in one and the same turn of its loop nothing is left of anything. That one part is done says nothing: its last
// handler may have begun what another part counts (a hold, a message, something for a client to send). So nothing is
// ever ticked off; whenever something ends, all of it is looked at anew. While the whole server stops, a process that
// others may still ask for something stays on when nothing is left of its own, until none of them has anything left.

import { withResolvers } from '../deferred.ts'
import { deadlines } from '../loop/deadlines.ts'
import type { Departure } from './departure.ts'

/** How often to check whether clients have sent everything. */
const SENT_CHECK_MS = 20

/** The other processes, while the whole server stops. */
export interface Others {
  /** Whether they may ask this process for something as long as it is there. */
  readonly mayAsk: boolean
  /** Has them know that nothing is left to do here, or that there is something again. */
  tell(isIdle: boolean): void
}

export class ProcessDeparture {
  readonly #parts: () => readonly Departure[]
  readonly #others: Others
  /** As the others know it. */
  #isTold = false
  #isReleased = false
  #hasBegun = false
  #isLooking = false
  readonly #done = withResolvers()

  constructor(parts: () => readonly Departure[], others: Others) {
    this.#parts = parts
    this.#others = others
  }

  /** Resolves when the departure is over. A second call with less time hurries it. */
  within(windowMs: number): Promise<void> {
    this.#hasBegun = true
    for (const part of this.#parts()) part.begin(windowMs)
    return this.#done.promise
  }

  /** Call when a connection, an arrival, a handler or a hold is gone, or `onWorkerStop` has settled. */
  look(): void {
    if (!this.#hasBegun || this.#isLooking || !this.#isIdle) return
    this.#isLooking = true
    setImmediate(() => this.#lookAgain()) // what has come in the same turn is work too
  }

  /** Something has begun that the departure waits for. What others have asked for, they wait for themselves. */
  resume(): void {
    this.#tell(false)
  }

  /** No process has anything left to do: this one may end as soon as that is so here. */
  release(): void {
    this.#isReleased = true
    this.look()
  }

  #tell(isIdle: boolean): void {
    if (isIdle === this.#isTold) return
    this.#isTold = isIdle
    this.#others.tell(isIdle)
  }

  #lookAgain(): void {
    // Nothing tells when the kernel has taken all of it, and a client that is merely open is not waited for.
    if (this.#isIdle && this.#isSending) return void deadlines.after(SENT_CHECK_MS, ProcessDeparture.#lookLater, this)
    this.#isLooking = false
    if (!this.#isIdle) return
    if (!this.#isReleased && this.#others.mayAsk) return this.#tell(true)
    for (const part of this.#parts()) part.end()
    this.#done.resolve()
  }

  static #lookLater(departure: ProcessDeparture): void {
    departure.#lookAgain()
  }

  get #isIdle(): boolean {
    return this.#parts().every(({ isIdle }) => isIdle)
  }

  get #isSending(): boolean {
    return this.#parts().some(({ isSending }) => isSending)
  }
}
