// When requests with the default time-out expire: in the order in which they were made, so a list with one deadline for its
// head does. A place in the timing wheel for each of them was a tenth of a round trip.

import { now } from '../loop/clock.ts'
import { deadlines } from '../loop/deadlines.ts'

/** A link of the list. */
export interface Expiring {
  readonly expiresAt: number
  previous: Expiring | null
  next: Expiring | null
  expire(): void
}

/** Those that wait equally long. */
export class Expiry {
  #head: Expiring | null = null
  #tail: Expiring | null = null
  /** It rings for what was the head when it was set, or for nobody: not every request is worth moving it. */
  #isSet = false

  /** Calls `one.expire()` when its time has come. Those that wait already expire before it, or in the same moments. */
  add(one: Expiring): void {
    one.previous = this.#tail
    if (this.#tail === null) this.#head = one
    else this.#tail.next = one
    this.#tail = one
    if (!this.#isSet) this.#set(one)
  }

  /** One that waits does so no more. */
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
