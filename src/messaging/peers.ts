// The workers that exist, as the master reports them to every process.

import { type PeerRow, workerKey } from '../process/group.ts'

/** A process that can be connected to. */
export type Route = Pick<PeerRow, 'mailbox' | 'id' | 'incarnation' | 'address'>

export class Peers {
  isEnding = false
  /** Slots that no longer exist: the code this process runs may still declare them. */
  readonly #removed = new Set<string>()
  readonly #groups = new Map<string, Map<number, PeerRow>>()

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

  set(row: PeerRow): void {
    const slots = this.#groups.get(row.mailbox) ?? new Map<number, PeerRow>()
    const key = workerKey(row)
    if (row.incarnation < 0) this.#removed.add(key)
    else this.#removed.delete(key)
    if (row.incarnation < 0) slots.delete(row.id)
    else slots.set(row.id, row)
    if (slots.size === 0) this.#groups.delete(row.mailbox)
    else this.#groups.set(row.mailbox, slots)
  }
}

export function rangeOf(ids: readonly number[]): string {
  const sorted = [...ids].sort((a, b) => a - b)
  const [first = 0, last = first] = [sorted[0], sorted.at(-1)]
  if (last - first !== sorted.length - 1) return sorted.join(',')
  return first === last ? String(first) : `${first}-${last}`
}
