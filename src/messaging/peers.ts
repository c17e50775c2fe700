// The workers that exist, as the master reports them to every process.

import { type PeerBeside, type PeerRow, workerKey } from '../process/group.ts'

/** A process that can be connected to. */
export type Route = Pick<PeerRow, 'mailbox' | 'id' | 'incarnation' | 'address'>

/** A process beside the one that has its slot. `silent`: it has said that it hears nothing any more. */
export interface Beside extends Route {
  readonly group: string
  readonly role: PeerBeside['role'] | 'silent'
}

export class Peers {
  isEnding = false
  /** Slots that no longer exist: the code this process runs may still declare them. */
  readonly #removed = new Set<string>()
  readonly #groups = new Map<string, Map<number, PeerRow>>()
  /** By address. */
  readonly #beside = new Map<string, Beside>()

  /** The slots of a group by id, if any. */
  slots(mailbox: string): ReadonlyMap<number, PeerRow> | undefined {
    return this.#groups.get(mailbox)
  }

  get(mailbox: string, id: number): PeerRow | undefined {
    return this.#groups.get(mailbox)?.get(id)
  }

  wasRemoved(mailbox: string, id: number): boolean {
    return this.#removed.has(workerKey({ mailbox, id }))
  }

  *[Symbol.iterator](): Iterator<PeerRow> {
    for (const slots of this.#groups.values()) yield* slots.values()
  }

  /** Mailboxes of the groups with this name. */
  named(group: string): string[] {
    const found = new Set<string>()
    for (const row of this) if (row.group === group) found.add(row.mailbox)
    return [...found]
  }

  /** Returns `TaskWorker:0-3, echo:0`. */
  describe(): string {
    const groups = [...this.#groups].map(([mailbox, slots]) => `${mailbox}:${rangeOf([...slots.keys()])}`)
    return groups.join(', ') || 'none'
  }

  /** The process beside others that is reached there. */
  besideAt(address: string): Beside | undefined {
    return this.#beside.get(address)
  }

  get isAnyBeside(): boolean {
    return this.#beside.size > 0
  }

  /** All processes beside others that hear what is for all, or those of a group. */
  besideOf(mailbox?: string): Beside[] {
    const isMeant = (one: Beside) => one.role !== 'silent' && (mailbox === undefined || one.mailbox === mailbox)
    return [...this.#beside.values()].filter(isMeant)
  }

  /** A process leaves its slot: it says so before the master does. */
  leaves({ mailbox, id, incarnation, address }: Route, isSilent: boolean): void {
    const group = this.get(mailbox, id)?.group ?? mailbox
    this.#beside.set(address, { mailbox, group, id, incarnation, address, role: isSilent ? 'silent' : 'leaving' })
  }

  /** Returns the processes beside the one in this slot that are not any more. */
  set(row: PeerRow): Beside[] {
    const slots = this.#groups.get(row.mailbox) ?? new Map<number, PeerRow>()
    const key = workerKey(row)
    if (row.incarnation < 0) this.#removed.add(key)
    else this.#removed.delete(key)
    if (row.incarnation < 0) slots.delete(row.id)
    else slots.set(row.id, row)
    if (slots.size === 0) this.#groups.delete(row.mailbox)
    else this.#groups.set(row.mailbox, slots)
    return this.#setBeside(row)
  }

  #setBeside({ mailbox, group, id, address, beside = NO_BESIDE }: PeerRow): Beside[] {
    const known = [...this.#beside.values()].filter((one) => one.mailbox === mailbox && one.id === id)
    for (const one of beside) {
      const isSilent = this.#beside.get(one.address)?.role === 'silent'
      this.#beside.set(one.address, { mailbox, group, id, ...one, role: isSilent ? 'silent' : one.role })
    }
    // One that has said it leaves may still have the slot, as far as the master knows.
    const isThere = (one: Beside) =>
      beside.some((other) => other.address === one.address) || (one.address === address && one.role !== 'canary')
    const ended = known.filter((one) => !isThere(one))
    for (const one of ended) this.#beside.delete(one.address)
    return ended
  }
}

const NO_BESIDE: readonly PeerBeside[] = []

export function rangeOf(ids: readonly number[]): string {
  const sorted = [...ids].sort((a, b) => a - b)
  const [first = 0, last = first] = [sorted[0], sorted.at(-1)]
  if (last - first !== sorted.length - 1) return sorted.join(',')
  return first === last ? String(first) : `${first}-${last}`
}
