// Deadlines that may come up to half a second late: for what is far away and many have, the next look at a silent
// peer, say. They lie in lists, one for each half second, with one timer a list: 10 bytes each beside the entry, where a
// timer of its own takes 100; and to move one to a later time, as every message of a peer does, is to write a number.

import { now } from './clock.ts'
import type { Scheduler } from './scheduler.ts'

/** A deadline, kept by whoever has it. */
export interface Coarse {
  /** When it is due, in grains; 0 when it is not set. */
  due: number
  /** The list that it lies in, no later than that; 0 for none. */
  list: number
  /** Where in that list. */
  place: number
  expire(): void
}

const GRAIN_MS = 500
/** From here on half a second is little. */
export const COARSE_FROM_MS = 10_000

export class CoarseDeadlines {
  readonly #scheduler: Pick<Scheduler, 'after'>
  readonly #now: () => number
  readonly #lists = new Map<number, Coarse[]>()

  constructor(scheduler: Pick<Scheduler, 'after'>, clock: () => number = now) {
    this.#scheduler = scheduler
    this.#now = clock
  }

  /** Expires `ms` from now or up to half a second later, and not when it was due before. */
  set(entry: Coarse, ms: number): void {
    entry.due = Math.ceil((this.#now() + ms) / GRAIN_MS)
    if (entry.list !== 0 && entry.list <= entry.due) return // looked at when that list is
    this.#unlist(entry)
    this.#enlist(entry)
  }

  /** Lets go of the entry. */
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

/** Unless it has been cleared, or set again. */
function expire(entry: Coarse): void {
  if (entry.due === 0 || entry.list !== 0) return
  entry.due = 0
  entry.expire()
}
