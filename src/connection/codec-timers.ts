// The deadlines that codecs set, in a list of few for each connection, which has its head: far ones in the lists that many
// share, near ones with the clock.

import { COARSE_FROM_MS, type Coarse, CoarseDeadlines } from '../loop/coarse-deadlines.ts'
import { deadlines } from '../loop/deadlines.ts'
import type { ConnectionClock } from './host.ts'

/** A deadline of this kind has passed. */
export const kExpire = Symbol('expire')

interface Owner {
  [kExpire](kind: string): void
}

/** One of them; whoever has the list's head is its owner. */
export class CodecTimer implements Coarse {
  readonly kind: string
  next: CodecTimer | null
  /** The clock's id of one that is NEAR; of another one when it is due, as `Coarse` has it. */
  due = 0
  /** NEAR, 0 when it does not run, or a list of `far`. */
  list = 0
  place = 0
  readonly #owner: Owner

  constructor(owner: Owner, kind: string, next: CodecTimer | null) {
    this.#owner = owner
    this.kind = kind
    this.next = next
  }

  expire(): void {
    this.#owner[kExpire](this.kind)
  }
}

const far = new CoarseDeadlines(deadlines)
/** No list, and not 0: a far one that was about to expire, and was set again to a near time, looks at that. */
const NEAR = -1

/** Sets the deadline of a kind, or moves it; the new head. */
export function setTimer(
  head: CodecTimer | null,
  owner: Owner,
  kind: string,
  ms: number,
  clock: ConnectionClock,
): CodecTimer | null {
  const isFar = ms >= COARSE_FROM_MS && clock.mayBeLate === true
  const known = find(head, kind)
  const timer = known ?? new CodecTimer(owner, kind, head)
  if (known !== null && (!isFar || known.list === NEAR)) clear(known, clock)
  if (isFar) far.set(timer, ms)
  else {
    timer.list = NEAR
    timer.due = clock.after(ms, expire, timer)
  }
  return known === null ? timer : head
}

/** Clears the deadline of a kind, if there is one; the new head. */
export function forgetTimer(head: CodecTimer | null, kind: string, clock: ConnectionClock): CodecTimer | null {
  const timer = find(head, kind)
  if (timer === null) return head
  clear(timer, clock)
  if (timer === head) return timer.next
  let before = head
  while (before !== null && before.next !== timer) before = before.next
  if (before !== null) before.next = timer.next
  return head
}

export function clearTimers(head: CodecTimer | null, clock: ConnectionClock): void {
  for (let timer = head; timer !== null; timer = timer.next) clear(timer, clock)
}

function find(head: CodecTimer | null, kind: string): CodecTimer | null {
  let timer = head
  while (timer !== null && timer.kind !== kind) timer = timer.next
  return timer
}

function clear(timer: CodecTimer, clock: ConnectionClock): void {
  if (timer.list !== NEAR) return far.clear(timer)
  clock.cancel(timer.due)
  timer.list = timer.due = 0
}

function expire(timer: CodecTimer): void {
  timer.expire()
}
