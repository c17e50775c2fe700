// A hierarchical timing wheel (Varghese and Lauck, SOSP 1987) in typed arrays: add and delete in O(1), no object per
// timer. A data structure and nothing else: it knows the time only from `advance`, never reads the clock, arms nothing,
// and catches nothing that a callback throws.

import { UsageError } from '../errors.ts'
import { type Callback, Entries } from './entries.ts'

/** Called by `advance` for each due timer. */
type Fire = (callback: Callback, a: never, b: never) => void

// Level 0 has a bucket for each millisecond; buckets of each level above are 64 times as wide. A timer is kept at the
// level of the highest group of six bits in which its tick differs from the wheel's position:
//
//   position  ... 000001 000010 000011
//   tick      ... 000001 000101 000000     level 1, bucket 5
//                 level2 level1 level0
//
// So timers of one tick always share a bucket, whenever they were added, which keeps them in order. A timer at a lower
// level is due earlier. Nine levels hold every safe integer, so no delay is out of range.
const GROUP_BITS = 6
const GROUP = 1 << GROUP_BITS
const LEVELS = 9
const BUCKETS = LEVELS * GROUP

// Bit operations are limited to 32 bits, so a tick is split into two words. The lower one has these five levels.
const WORD_LEVELS = 5
const WORD = 2 ** (WORD_LEVELS * GROUP_BITS)

/** The level of a difference, by its number of leading zeros; a difference of 0 is level 0. */
const levelAt = Uint8Array.from({ length: 33 }, (_, zeros) => Math.max(31 - zeros, 0) / GROUP_BITS)

// An id is generation * 2^24 + slot. The generation is odd while the slot's timer is pending and advances when it ends,
// so a stale id matches nothing: it would have to outlive 2^28 further timers in its slot.
const MAX_SLOTS = 2 ** 24
const MAX_GENERATIONS = 2 ** 29

const FIRST_SLOTS = 1024
/** A wheel larger than this releases its memory when empty. A smaller one would only have to grow again. */
const KEPT_SLOTS = 16384
/** How many timers `nextDue` examines before it settles for a lower bound. */
const LOOK_AT = 16
const NONE = -1

/**
 * Timers by due time. **Cost**: 52 bytes per timer, up to 80 while the arrays, which double when full, have room. Slots
 * of ended timers are reused. Memory is released when `advance` leaves the wheel empty, except 4 bytes per slot that
 * keep old ids stale; a wheel that is never empty stays at its peak size.
 */
export class TimingWheel {
  // One slot per timer. The slots below BUCKETS are the buckets themselves: each is the head of a circular list, so
  // that linking needs no special case.
  #next = new Int32Array()
  #previous = new Int32Array()
  #due = new Float64Array()
  #every = new Float64Array()
  #generation = new Int32Array()
  readonly #entries = new Entries()

  #free = NONE // head of the list of ended slots, linked by #next
  #used = BUCKETS // slots from here on were never used
  #size = 0
  #now = 0 // as of the last `advance`
  #position = 0 // how far it has come; timers are linked relative to it
  #isAdvancing = false

  constructor() {
    this.#reset()
  }

  /** Number of pending timers. */
  get size(): number {
    return this.#size
  }

  /**
   * Adds a timer that fires at the first `advance` to `dueMs` or later, and then, if `everyMs` is not 0, at each `dueMs
   * + k * everyMs`. One that is already due waits for the next millisecond, so a timer added during an `advance` never
   * fires in it.
   *
   * **Units**: ms, fractions allowed (a timer fires at the next whole one, never early); `everyMs` is 0 or at least 1.
   * **Throws** `ERR_TOO_MANY_TIMERS` beyond 16 million pending.
   *
   * @returns the timer's id, a safe integer above 0
   */
  add(dueMs: number, everyMs: number, callback: Callback, a?: unknown, b?: unknown): number {
    const slot = this.#takeSlot()
    this.#due[slot] = Math.min(Math.max(dueMs, this.#now + 1), Number.MAX_SAFE_INTEGER)
    this.#every[slot] = everyMs
    this.#entries.set(slot, callback, a, b)
    this.#link(slot)
    this.#size++
    return ++this.#generation[slot]! * MAX_SLOTS + slot
  }

  /** Ends a timer. Returns false if it has already ended, by firing or by an earlier call: a stale id is harmless. */
  delete(id: number): boolean {
    if (!this.#isPending(id)) return false
    const slot = slotOf(id)
    this.#unlink(slot)
    this.#release(slot)
    return true
  }

  /** Moves a timer, with all its repetitions, `ms` later. Does nothing if it has ended. */
  postpone(id: number, ms: number): void {
    if (!this.#isPending(id)) return
    const slot = slotOf(id)
    this.#unlink(slot)
    this.#due[slot]! += ms
    this.#link(slot)
  }

  /** Ends all timers. O(slots ever used). */
  clear(): void {
    for (let slot = BUCKETS; slot < this.#used; slot++) {
      if (!isOdd(this.#generation[slot]!)) continue
      this.#unlink(slot)
      this.#release(slot)
    }
  }

  /**
   * Sets the time of an empty wheel, so that what is added next is linked relative to now rather than to a time long
   * past. Within `advance` it does nothing: what a callback adds could share the bucket that is being fired.
   */
  skipTo(nowMs: number): void {
    if (this.#size > 0 || this.#isAdvancing) return
    this.#now = Math.max(nowMs, this.#now)
    this.#position = this.#now
  }

  /**
   * Fires what is due at `nowMs` (an integer), in order of due time, equal ones in order of creation. A repeating timer
   * fires once and continues at the next point of its grid: missed calls are not made up.
   *
   * **Order**: a timer has ended, or moved on to its next repetition, before `fire` is called for it. Callbacks may add
   * and delete freely, and what they delete never fires. If `fire` throws, the rest fires at the next `advance`.
   * **Cost**: O(1) per fired timer, and each timer moves down a level at most eight times.
   */
  advance(nowMs: number, fire: Fire): void {
    this.#now = Math.max(nowMs, this.#now)
    this.#isAdvancing = true
    try {
      this.#fireUntil(nowMs, fire)
    } finally {
      this.#isAdvancing = false
    }
    this.#position = this.#now
    if (this.#size === 0 && this.#next.length > KEPT_SLOTS) this.#reset()
  }

  #fireUntil(nowMs: number, fire: Fire): void {
    for (let bucket = this.#earliest(); bucket !== NONE; bucket = this.#earliest()) {
      const start = this.#startOf(bucket)
      if (start > nowMs) break
      this.#position = start
      if (bucket < GROUP) this.#fireAll(bucket, fire)
      else this.#cascade(bucket)
    }
  }

  /**
   * When to call `advance` next: the whole ms in which the earliest timer is due, or Infinity. Never later than that;
   * earlier only when more than 16 timers lie close together, so a process with few timers wakes only for these.
   */
  nextDue(): number {
    const bucket = this.#earliest()
    if (bucket === NONE) return Number.POSITIVE_INFINITY
    let earliest = Number.POSITIVE_INFINITY
    let slot = this.#next[bucket]!
    for (let looked = 0; looked < LOOK_AT && slot !== bucket; looked++) {
      earliest = Math.min(earliest, this.#tickOf(slot))
      slot = this.#next[slot]!
    }
    return slot === bucket ? earliest : this.#startOf(bucket)
  }

  // Buckets

  #tickOf(slot: number): number {
    return Math.ceil(this.#due[slot]!)
  }

  #link(slot: number): void {
    const bucket = bucketOf(this.#tickOf(slot), this.#position)
    const last = this.#previous[bucket]!
    this.#next[last] = slot
    this.#previous[slot] = last
    this.#next[slot] = bucket
    this.#previous[bucket] = slot
  }

  #unlink(slot: number): void {
    const previous = this.#previous[slot]!
    const next = this.#next[slot]!
    this.#next[previous] = next
    this.#previous[next] = previous
  }

  #empty(bucket: number): void {
    this.#next[bucket] = bucket
    this.#previous[bucket] = bucket
  }

  /** The first bucket that contains a timer. Nothing lies behind the position. */
  #earliest(): number {
    if (this.#size === 0) return NONE
    for (let level = 0; level < LEVELS; level++) {
      const end = (level + 1) * GROUP
      for (let bucket = level * GROUP + groupOf(this.#position, level); bucket < end; bucket++) {
        if (this.#next[bucket] !== bucket) return bucket
      }
    }
    return NONE
  }

  /** The first ms of a bucket. */
  #startOf(bucket: number): number {
    const width = GROUP ** Math.floor(bucket / GROUP)
    const turn = width * GROUP
    return Math.floor(this.#position / turn) * turn + (bucket % GROUP) * width
  }

  /** Spreads a bucket whose time has begun over the levels below, in order, so that equal ticks stay in order. */
  #cascade(bucket: number): void {
    let slot = this.#next[bucket]!
    this.#empty(bucket)
    while (slot !== bucket) {
      const next = this.#next[slot]!
      this.#link(slot)
      slot = next
    }
  }

  #fireAll(bucket: number, fire: Fire): void {
    // Each round starts from the head again, since the callback may have deleted what came next.
    for (let slot = this.#next[bucket]!; slot !== bucket; slot = this.#next[bucket]!) {
      const callback = this.#entries.callback(slot)
      const a = this.#entries.a(slot)
      const b = this.#entries.b(slot)
      this.#unlink(slot)
      if (this.#every[slot] === 0) this.#release(slot)
      else this.#repeat(slot)
      fire(callback, a, b)
    }
  }

  #repeat(slot: number): void {
    const due = this.#due[slot]!
    const every = this.#every[slot]!
    const missed = Math.floor((this.#now - due) / every)
    this.#due[slot] = due + (missed + 1) * every
    this.#link(slot)
  }

  // Slots

  #isPending(id: number): boolean {
    const slot = slotOf(id)
    const generation = (id - slot) / MAX_SLOTS
    return isOdd(generation) && this.#generation[slot] === generation
  }

  #takeSlot(): number {
    const slot = this.#free
    if (slot === NONE) return this.#takeFresh()
    this.#free = this.#next[slot]!
    return slot
  }

  #takeFresh(): number {
    if (this.#used === this.#next.length) this.#resize(this.#used * 2)
    return this.#used++
  }

  #release(slot: number): void {
    this.#entries.drop(slot)
    this.#generation[slot] = (this.#generation[slot]! + 1) & (MAX_GENERATIONS - 1)
    this.#next[slot] = this.#free
    this.#free = slot
    this.#size--
  }

  /** Makes the wheel empty and of the initial size, but keeps the generations it has used. */
  #reset(): void {
    this.#resize(FIRST_SLOTS)
    this.#entries.clear()
    this.#free = NONE
    this.#used = BUCKETS
    for (let bucket = 0; bucket < BUCKETS; bucket++) this.#empty(bucket)
  }

  #resize(slots: number): void {
    if (slots > MAX_SLOTS) {
      throw new UsageError('ERR_TOO_MANY_TIMERS', `${this.#size} timers are pending: delete those no longer needed`)
    }
    this.#next = resized(this.#next, new Int32Array(slots))
    this.#previous = resized(this.#previous, new Int32Array(slots))
    this.#due = resized(this.#due, new Float64Array(slots))
    this.#every = resized(this.#every, new Float64Array(slots))
    if (slots > this.#generation.length) this.#generation = resized(this.#generation, new Int32Array(slots))
  }
}

/** The bucket of `tick`, relative to `position`. */
function bucketOf(tick: number, position: number): number {
  const upper = Math.floor(tick / WORD)
  const difference = upper ^ Math.floor(position / WORD)
  if (difference === 0) return bucketIn(tick, tick ^ position)
  return WORD_LEVELS * GROUP + bucketIn(upper, difference)
}

function bucketIn(word: number, difference: number): number {
  const level = levelAt[Math.clz32(difference)]!
  return level * GROUP + ((word >>> (level * GROUP_BITS)) & (GROUP - 1))
}

/** The group of bits of `tick` that chooses its bucket at `level`. */
function groupOf(tick: number, level: number): number {
  return Math.floor(tick / GROUP ** level) % GROUP
}

function slotOf(id: number): number {
  return id & (MAX_SLOTS - 1)
}

function isOdd(generation: number): boolean {
  return (generation & 1) === 1
}

/** Copies as much of `from` as fits into `to`. */
function resized<T extends Int32Array | Float64Array>(from: T, to: T): T {
  to.set(from.subarray(0, to.length))
  return to
}
