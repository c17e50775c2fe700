// Messages of one outbox, or of a Cluster, that will not be handled, until their senders have been told. Each is told
// by a call of the user's, so the event loop turns between many of them; and a caller that sends at once again what was
// refused does not stop it.

import type { PeerError } from '../errors.ts'
import { now } from '../loop/clock.ts'
import { deadlines } from '../loop/deadlines.ts'
import type { Unsettled } from './ledger.ts'

/** Number of lost messages that are told of in one turn of the event loop. */
export const TOLD_IN_ONE_TURN = 500
/** At least so long between two rounds of failures that are certain when a message is sent. */
const BETWEEN_REFUSALS_MS = 20

/** `One` is what cannot be sent. */
export interface LossesOwner<One extends Unsettled = Unsettled> {
  /** Fails what could not be sent, for the reason as of now. */
  failRefused(refused: readonly One[]): void
  /** Tells the sender, and settles the message. */
  giveBack(entry: unknown, size: number, error: PeerError): void
}

/** What is lost for one reason. */
interface Loss {
  readonly entries: readonly Unsettled[]
  readonly error: PeerError
}

export class Losses<One extends Unsettled = Unsettled> {
  readonly #owner: LossesOwner<One>
  /** Messages for a worker that is gone, to be failed soon; and when the last ones were. */
  #refused: One[] = []
  #toldAt = Number.NEGATIVE_INFINITY
  /** What is not told of yet; and how many of the first loss are. */
  readonly #lost: Loss[] = []
  #toldOfFirst = 0
  #isTelling = false

  constructor(owner: LossesOwner<One>) {
    this.#owner = owner
  }

  /** How many are refused, and not failed yet. */
  get refused(): number {
    return this.#refused.length
  }

  /** Fails a message later. */
  refuse(one: One): void {
    if (this.#refused.push(one) > 1) return
    const pauseMs = this.#toldAt + BETWEEN_REFUSALS_MS - now()
    if (pauseMs > 0) deadlines.after(pauseMs, failRefused, this)
    else setImmediate(failRefused, this)
  }

  /** @internal */
  failRefused(): void {
    this.#toldAt = now()
    this.#owner.failRefused(this.takeRefused())
  }

  /** What is refused is failed by the caller. */
  takeRefused(): readonly One[] {
    const refused = this.#refused
    this.#refused = []
    return refused
  }

  /** Tells of them from now on, in turns. One error for all, since making it takes longer than telling it. */
  fail(entries: readonly Unsettled[], error: PeerError): void {
    this.#lost.push({ entries, error })
    if (!this.#isTelling) this.tellInTurns()
  }

  /** From now on, nothing is told of but by `tell`. */
  hold(): void {
    this.#isTelling = true
  }

  /** @internal */
  tellInTurns(): void {
    if (this.tell(TOLD_IN_ONE_TURN)) setImmediate(tellInTurns, this)
  }

  /** Tells of so many. Returns whether there are more. */
  tell(most: number): boolean {
    let left = most
    this.#isTelling = true // what is lost meanwhile comes after this
    for (let one = this.#lost[0]; one !== undefined && left > 0; one = this.#lost[0]) {
      const { entries, error } = one
      const told = entries.slice(this.#toldOfFirst, this.#toldOfFirst + left)
      left -= told.length
      this.#toldOfFirst += told.length
      if (this.#toldOfFirst === entries.length) {
        this.#lost.shift()
        this.#toldOfFirst = 0
      }
      for (const { entry, size } of told) this.#owner.giveBack(entry, size, error)
    }
    this.#isTelling = this.#lost.length > 0
    return this.#isTelling
  }
}

function tellInTurns<One extends Unsettled>(losses: Losses<One>): void {
  losses.tellInTurns()
}

function failRefused<One extends Unsettled>(losses: Losses<One>): void {
  losses.failRefused()
}
