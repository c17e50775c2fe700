// What the master tells workers about each other: which process has which slot, which others serve beside it, and where
// each is reached. Each process gets the whole table at its start, and then the changes. In an upgrade the new master's
// table replaces the old one's for the processes of both, with the old processes beside: messages from old processes go
// to new ones, as at a reload.

import { randomBytes } from 'node:crypto'
import { type MeshPlace, type PeerBeside, type PeerRow, type Succession, workerKey } from '../group.ts'
import type { Blueprint, GroupState } from './group-state.ts'
import type { Slot } from './slot.ts'
import type { WorkerHandle } from './worker-handle.ts'

const SECRET_BYTES = 32

export class Peers {
  /** Proves that a process belongs to this server. In base64; kept across upgrades. */
  readonly secret: string
  /** The table of the new master, once that leads. */
  successors: readonly PeerRow[] | null = null
  /** That of the earlier master, whose processes leave. */
  predecessors: readonly PeerRow[] = []
  /** This master's own, without the others'. */
  own: readonly PeerRow[] = []
  /** Called with this master's own table when something has changed. */
  onChange: ((rows: readonly PeerRow[]) => void) | null = null
  #rows = new Map<string, PeerRow>()
  #isEnding = false

  constructor(secret = randomBytes(SECRET_BYTES).toString('base64')) {
    this.secret = secret
  }

  get rows(): PeerRow[] {
    return [...this.#rows.values()]
  }

  /** What a process receives at its start. */
  placeFor({ mailbox }: Blueprint, fd: number, address: string): MeshPlace {
    return { fd, address, secret: this.secret, mailbox, rows: this.rows, isEnding: this.#isEnding }
  }

  /** Called after every change: sends every process the differences. */
  settle(groups: readonly GroupState[], isEnding: boolean): void {
    const isLast = isEnding && this.successors === null // the processes of a master that was replaced have followers
    this.own = groups.flatMap((group) => rowsOf(group, isEnding))
    const list = this.successors === null ? joined(this.own, this.predecessors) : joined(this.successors, this.own)
    const rows = new Map(list.map((row) => [workerKey(row), row]))
    const changed = [...rows.values()].filter((row) => !isSame(row, this.#rows.get(workerKey(row))))
    const gone = [...this.#rows.values()].filter((row) => !rows.has(workerKey(row)))
    const isNews = changed.length + gone.length > 0 || isLast !== this.#isEnding
    this.#rows = rows
    this.#isEnding = isLast
    if (!isNews) return
    const news = { rows: [...gone.map((row) => ({ ...row, ...NO_SLOT, beside: [] })), ...changed], isEnding: isLast }
    this.onChange?.(this.own)
    for (const { slots } of groups) for (const { processes } of slots) for (const one of processes) one.tellPeers(news)
  }
}

/** A table, and beside its processes those of another master, all of which leave. */
function joined(rows: readonly PeerRow[], leaving: readonly PeerRow[]): PeerRow[] {
  const all = new Map(rows.map((row) => [workerKey(row), row]))
  for (const row of leaving) {
    const { incarnation, address, beside = [] } = row
    const processes = [{ incarnation, address }, ...beside].filter((one) => one.address !== '')
    const present = all.get(workerKey(row)) ?? { ...row, ...NO_SLOT, beside: [] }
    const more = processes.map((one) => ({ ...one, role: 'leaving' as const }))
    if (more.length > 0) all.set(workerKey(row), { ...present, beside: [...(present.beside ?? []), ...more] })
  }
  return [...all.values()]
}

/** As in a row: the slot does not exist, or not any more. */
const NO_SLOT = { incarnation: -1, address: '' }

function rowsOf(group: GroupState, isEnding: boolean): PeerRow[] {
  const { mailbox, declaration } = group.blueprint
  const nextOf = (slot: Slot) => (isEnding ? 'soon' : successionOf(group, slot)) // in an end nobody waits for anybody
  const rows = group.slots.map((slot) => {
    const place = group.isGone || slot.isGivenUp ? NO_SLOT : reachable(slot, isEnding)
    const beside = besideOf(slot, place.address)
    return { mailbox, group: declaration.name, id: slot.id, ...place, next: nextOf(slot), beside }
  })
  return rows.filter(({ incarnation, beside }) => incarnation >= 0 || beside.length > 0)
}

/** The processes of a slot that serve, besides the one at this address. */
function besideOf(slot: Slot, address: string): PeerBeside[] {
  const serving = slot.processes.filter((handle) => handle.hasServed && handle.state !== 'gone')
  return serving
    .filter(({ meshAddress }) => meshAddress !== '' && meshAddress !== address)
    .filter((handle) => handle !== slot.next || handle === slot.canary?.handle) // else it is about to have the slot
    .map((handle) => ({
      incarnation: handle.incarnation,
      address: handle.meshAddress,
      role: handle === slot.next ? 'canary' : 'leaving',
    }))
}

/**
 * In an empty slot that an operation holds, the next process comes when that goes on: at a `restart` when all of the
 * group have gone, not only those of this slot.
 */
function successionOf({ isStopped }: GroupState, { current, next, isHeld }: Slot): Succession {
  if (isStopped) return 'on command'
  const isLeft = current === null ? isHeld : current.state === 'stopping'
  return isLeft && next === null ? 'afterwards' : 'soon'
}

/**
 * A process is reachable from when it is ready; until then its messages wait. While the server is stopping it stays
 * reachable to the end, since no other follows.
 */
function reachable({ current }: Slot, isEnding: boolean): Pick<PeerRow, 'incarnation' | 'address'> {
  const isUp = current !== null && isServing(current, isEnding) && current.meshAddress !== ''
  return isUp ? { incarnation: current.incarnation, address: current.meshAddress } : { incarnation: 0, address: '' }
}

function isServing({ state }: WorkerHandle, isEnding: boolean): boolean {
  return state === 'ready' || state === 'retiring' || (isEnding && state === 'stopping')
}

function isSame(a: PeerRow, b: PeerRow | undefined): boolean {
  const isSamePlace = a.incarnation === b?.incarnation && a.address === b.address
  return isSamePlace && a.group === b.group && a.next === b.next && areSame(a.beside ?? [], b.beside ?? [])
}

function areSame(a: readonly PeerBeside[], b: readonly PeerBeside[]): boolean {
  const isSameAt = ({ address, role }: PeerBeside, at: number) => address === b[at]?.address && role === b[at]?.role
  return a.length === b.length && a.every(isSameAt)
}
