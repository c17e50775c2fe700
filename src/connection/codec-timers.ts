// Deadlines set by codecs. Each connection holds the head of a short list. Distant deadlines go into shared coarse
// lists; near ones get a timer of their own.

import { COARSE_FROM_MS, type Coarse, CoarseDeadlines } from '../loop/coarse-deadlines.ts'
import { deadlines } from '../loop/deadlines.ts'
import type { ConnectionClock } from './host.ts'

/** A deadline of this kind has passed. */
export const kExpire = Symbol('expire')

interface Owner {
  [kExpire](kind: string): void
}

/** One deadline. The connection that holds the head of the list owns it. */
export class CodecTimer implements Coarse {
  readonly kind: string
  next: CodecTimer | null
  /** NEAR: the id of its timer. Otherwise: when it is due, as in `Coarse`. */
  due = 0
  /** NEAR, 0 when it is not running, or a list of `far`. */
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
/** Neither a list id nor 0: marks a coarse deadline that was re-armed with a short time just as it expired. */
const NEAR = -1

/** Sets or moves the deadline of a kind. Returns the new head. */
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

/** Clears the deadline of a kind, if any. Returns the new head. */
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
