// Deadlines that may expire up to half a second late, for distant deadlines that many connections have, such as the
// next check of an idle peer. They are kept in lists, one per half second, with one timer per list: 10 bytes each
// beside the entry, where a timer of its own takes 100. To move one to a later time, as every message of a peer does,
// is to write a number.

import { now } from './clock.ts'
import type { Scheduler } from './scheduler.ts'

/** A deadline, stored in its owner's object. */
export interface Coarse {
  /** When it is due, in grains; 0 when it is not set. */
  due: number
  /** The list that contains it, which is due no later than that; 0 for none. */
  list: number
  /** Its index in that list. */
  place: number
  expire(): void
}

const GRAIN_MS = 500
/** From this delay on, half a second is little. */
export const COARSE_FROM_MS = 10_000

export class CoarseDeadlines {
  readonly #scheduler: Pick<Scheduler, 'after'>
  readonly #now: () => number
  readonly #lists = new Map<number, Coarse[]>()

  constructor(scheduler: Pick<Scheduler, 'after'>, clock: () => number = now) {
    this.#scheduler = scheduler
    this.#now = clock
  }

  /** Expires in `ms`, or up to half a second later; replaces the earlier deadline. */
  set(entry: Coarse, ms: number): void {
    entry.due = Math.ceil((this.#now() + ms) / GRAIN_MS)
    if (entry.list !== 0 && entry.list <= entry.due) return // checked when that list expires
    this.#unlist(entry)
    this.#enlist(entry)
  }

  /** Removes the entry. */
  clear(entry: Coarse): void {
    entry.due = 0
    this.#unlist(entry)
  }

  #enlist(entry: Coarse): void {
    const { due } = entry
    let list = this.#lists.get(due)
    if (list === undefined) {
      list = []
      this.#lists.set(due, list)
      this.#scheduler.after(due * GRAIN_MS - this.#now(), () => this.#expireList(due))
    }
    entry.list = due
    entry.place = list.push(entry) - 1
  }

  #unlist(entry: Coarse): void {
    const list = this.#lists.get(entry.list)
    entry.list = 0
    const last = list?.pop()
    if (list === undefined || last === undefined || last === entry) return
    list[entry.place] = last
    last.place = entry.place
  }

  #expireList(grain: number): void {
    const list = this.#lists.get(grain) ?? []
    this.#lists.delete(grain)
    for (const entry of list) {
      entry.list = 0
      if (entry.due > grain) this.#enlist(entry)
      else this.#scheduler.after(0, expire, entry) // each in a scope of its own
    }
  }
}

/** Expires the entry, unless it has been cleared or set again. */
function expire(entry: Coarse): void {
  if (entry.due === 0 || entry.list !== 0) return
  entry.due = 0
  entry.expire()
}
