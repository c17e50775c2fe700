// When requests with the default time-out expire. They do so in the order in which they were made, so a list with one
// deadline for its head suffices. An entry in the timing wheel for each cost a tenth of a round trip.

import { now } from '../loop/clock.ts'
import { deadlines } from '../loop/deadlines.ts'

/** An entry of the list. */
export interface Expiring {
  readonly expiresAt: number
  previous: Expiring | null
  next: Expiring | null
  expire(): void
}

/** Requests with the same time-out. */
export class Expiry {
  #head: Expiring | null = null
  #tail: Expiring | null = null
  /** The timer may fire for an entry that has gone: moving it for each request would cost more. */
  #isSet = false

  /**
   * Calls `one.expire()` when its time has come. Entries added earlier expire before it, or at about the same moment.
   */
  add(one: Expiring): void {
    one.previous = this.#tail
    if (this.#tail === null) this.#head = one
    else this.#tail.next = one
    this.#tail = one
    if (!this.#isSet) this.#set(one)
  }

  /** Removes an entry. */
  delete(one: Expiring): void {
    const { previous, next } = one
    if (previous === null) this.#head = next
    else previous.next = next
    if (next === null) this.#tail = previous
    else next.previous = previous
    one.previous = one.next = null
  }

  #set({ expiresAt }: Expiring): void {
    this.#isSet = true
    deadlines.after(Math.max(1, expiresAt - now()), ring, this)
  }

  /** @internal */
  ring(): void {
    this.#isSet = false
    const time = now()
    for (let one = this.#head; one !== null && one.expiresAt <= time; one = this.#head) {
      this.delete(one)
      one.expire()
    }
    if (this.#head !== null && !this.#isSet) this.#set(this.#head)
  }
}

function ring(list: Expiry): void {
  list.ring()
}
