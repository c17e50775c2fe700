// Adds what an earlier master's processes have counted to the new master's counters: a slot that goes on counts on from
// there, so that no counter falls in an upgrade. What belongs to no current slot goes to the server's totals.

import { addCounters, type Counters, newCounters, subtractCounters } from '../../counters.ts'
import type { GroupState } from '../master/group-state.ts'
import type { Slot } from '../master/slot.ts'
import type { GroupTally, Tally } from './inheritance.ts'

export class Legacy {
  /** Counters that belong to no slot. */
  rest = newCounters()
  readonly #heirs = new Map<number, GroupState>()
  /** By slot, as last reported. */
  readonly #credited = new Map<string, Counters>()
  /** By group, kind and word, as last reported. */
  readonly #counted = new Map<string, number>()

  /** @param place index of the earlier master's group in the inheritance */
  addHeir(place: number, group: GroupState): void {
    this.#heirs.set(place, group)
  }

  /** Called more than once, each time with everything. */
  take({ totals, groups = [] }: Tally): void {
    for (const [place, tally] of groups.entries()) this.#share(place, tally)
    this.rest = addCounters(newCounters(), totals)
    for (const credited of this.#credited.values()) subtractCounters(this.rest, credited)
  }

  #share(place: number, { slots, exits, replaced }: GroupTally): void {
    const group = this.#heirs.get(place)
    if (group === undefined) return
    for (const slot of group.slots) this.#credit(`${place}:${slot.id}`, slot, slots[slot.id])
    this.#count(`${place} exits`, group.exits, exits)
    this.#count(`${place} replaced`, group.recycled, replaced)
  }

  #credit(key: string, slot: Slot, counters: Counters | undefined): void {
    if (counters === undefined) return
    const before = this.#credited.get(key) ?? newCounters()
    const all = addCounters(newCounters(), counters)
    subtractCounters(addCounters(slot.past, all), before)
    this.#credited.set(key, all)
  }

  #count(kind: string, into: Map<string, number>, counts: Readonly<Record<string, number>>): void {
    for (const [word, times] of Object.entries(counts)) {
      const key = `${kind} ${word}`
      into.set(word, (into.get(word) ?? 0) + times - (this.#counted.get(key) ?? 0))
      this.#counted.set(key, times)
    }
  }
}
