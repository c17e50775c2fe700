// Who takes what comes to a port whose processes have a socket each (SO_REUSEPORT). The kernel chooses among the sockets,
// whether anybody accepts on one or not: of 400 connections to four sockets of which one was idle, 102 hung, and were
// reset when it closed. So the choice is ours: a place whose process is not ready, or has as many connections as it may, gets
// nothing new (cBPF), and what waits there already is taken by a sibling. Where all are full it waits for whoever has room first.

import { type Addon, addon } from '../../addon.ts'
import { messageOf } from '../../errors.ts'
import { log } from '../../log.ts'
import type { BoundSocket } from '../../net/bound-socket.ts'
import type { GroupState, Slot } from './slot.ts'
import type { WorkerHandle } from './worker-handle.ts'

/** How often one looks whether a queue has run empty, and for how long: connections that are just being made come late. */
const LOOK_EVERY_MS = 20
const LONGEST_WAIT_MS = 2000
/** So many looks in a row have to find nothing. */
const EMPTY_LOOKS = 3

export class PortShare {
  readonly #group: GroupState
  readonly #sys: Addon['sys']
  readonly #standIns = new Map<Slot, { readonly handle: WorkerHandle; readonly socket: BoundSocket }>()
  /** Settled when all who stood in for it before have let go. */
  readonly #relieved = new WeakMap<Slot, Promise<unknown>>()
  #chosen = ''

  constructor(group: GroupState, { sys } = addon()) {
    this.#group = group
    this.#sys = sys
  }

  /** Another master may have chosen meanwhile. */
  forget(): void {
    this.#chosen = ''
  }

  /** Looked at after every change. */
  settle(): void {
    const { declaration, sockets } = this.#group.blueprint
    if (!declaration.reusePort || this.#sys === null || sockets[0]?.isActivated) return // they share one socket
    const ready = this.#group.slots.filter((slot) => slot.current?.state === 'ready' && !slot.isGivenUp)
    if (ready.length === 0) return // who comes waits for whoever is ready first
    const free = ready.filter(({ current }) => current?.isFull === false)
    const taking = free.length > 0 ? free : ready
    this.#choose(taking)
    for (const slot of this.#group.slots) {
      if (taking.includes(slot)) void this.#relieve(slot)
      else if (!slot.isGivenUp) this.#standIn(slot, taking)
    }
  }

  /** Nothing new comes to this slot; resolves when what had come has been accepted. */
  async giveUp(slot: Slot): Promise<void> {
    const socket = this.#socketOf(slot)
    const isOwn = socket !== null && !this.#group.blueprint.sockets.includes(socket) // the new blueprint has fewer
    slot.isGivenUp = true
    this.settle()
    if (isOwn) await this.#emptied(socket)
  }

  /** Where another master chooses: resolves when what had come to this slot has been accepted. */
  async emptied(slot: Slot): Promise<void> {
    const socket = this.#socketOf(slot)
    if (socket !== null && !socket.isActivated) await this.#emptied(socket)
  }

  /**
   * It is no slot any more. Resolves when nobody stands in for it: a socket that a sibling still has keeps its place in the
   * kernel's order, and the next one would get a place that is never chosen.
   */
  async dismiss(slot: Slot): Promise<void> {
    slot.isGivenUp = true
    await this.#relieve(slot)
  }

  /** Those that siblings accept on for others. */
  get sockets(): BoundSocket[] {
    return [...this.#standIns.values()].map(({ socket }) => socket)
  }

  #socketOf(slot: Slot): BoundSocket | null {
    return slot.current?.socket ?? this.#standIns.get(slot)?.socket ?? null
  }

  async #emptied(socket: BoundSocket): Promise<void> {
    if (this.#sys === null || !this.#group.blueprint.declaration.reusePort) return
    let empty = 0
    for (let waited = 0; waited < LONGEST_WAIT_MS && empty < EMPTY_LOOKS; waited += LOOK_EVERY_MS) {
      await new Promise((resolve) => setTimeout(resolve, LOOK_EVERY_MS))
      try {
        empty = this.#sys.pendingConnections(socket.fd) === 0 ? empty + 1 : 0
      } catch {
        return // EBADF: the server is being stopped
      }
    }
  }

  #choose(ready: readonly Slot[]): void {
    const { sockets } = this.#group.blueprint
    const places = ready.map(({ id }) => id).filter((id) => id < sockets.length)
    const [first] = sockets
    const choice = `${first?.endpoint} ${places}`
    if (places.length === 0 || first === undefined || choice === this.#chosen) return
    this.#chosen = choice
    try {
      this.#sys?.chooseAmong(first.fd, places)
    } catch (error) {
      log(`${this.#group.name}: the kernel goes on choosing by itself: ${messageOf(error)}`) // stand-ins take the rest
    }
  }

  #standIn(slot: Slot, taking: readonly Slot[]): void {
    const socket = this.#group.blueprint.sockets[slot.id]
    const handles = taking.flatMap(({ current }) => (current === null ? [] : [current]))
    const before = this.#standIns.get(slot)?.handle
    const [handle] = handles.sort(byConnections)
    if (socket === undefined || handle === undefined || (before !== undefined && handles.includes(before))) return
    void this.#relieve(slot)
    this.#standIns.set(slot, { handle, socket })
    handle.standIn(slot.id, socket)
  }

  async #relieve(slot: Slot): Promise<void> {
    const before = this.#relieved.get(slot)
    const standIn = this.#standIns.get(slot)
    if (standIn !== undefined) {
      this.#standIns.delete(slot)
      this.#relieved.set(slot, Promise.all([before, standIn.handle.relieve(slot.id)]))
    }
    await this.#relieved.get(slot)
  }
}

function byConnections(a: WorkerHandle, b: WorkerHandle): number {
  return a.report.counters.connections - b.report.counters.connections
}
