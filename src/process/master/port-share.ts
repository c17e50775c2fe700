// Who accepts connections of a port on which each process has its own socket (SO_REUSEPORT). The kernel chooses among
// the sockets whether or not a process accepts on them: of 400 connections to four sockets, one of them idle, 102 hung
// and were reset when it closed. So we choose: a slot whose process is not ready, hangs, is suspended, or is at its
// connection limit, gets nothing new (cBPF), and what already waits there is accepted by a sibling. If all are full, it
// waits for the first with room.

import { setTimeout as sleep } from 'node:timers/promises'
import { addon } from '../../addon.ts'
import type { Addon } from '../../addon-types.ts'
import { messageOf } from '../../errors.ts'
import { log } from '../../log.ts'
import type { BoundSocket } from '../../net/bound-socket.ts'
import type { GroupState } from './group-state.ts'
import type { Slot } from './slot.ts'
import type { WorkerHandle } from './worker-handle.ts'

/** How often, and for how long, to check whether a queue is empty: connections still being made arrive late. */
const LOOK_EVERY_MS = 20
const LONGEST_WAIT_MS = 2000
/** This many checks in a row must find nothing. */
const EMPTY_LOOKS = 3

export class PortShare {
  readonly #group: GroupState
  readonly #sys: Addon['sys']
  readonly #standIns = new Map<Slot, { readonly handle: WorkerHandle; readonly socket: BoundSocket }>()
  /** Settles when all earlier stand-ins for the slot have let go. */
  readonly #relieved = new WeakMap<Slot, Promise<unknown>>()
  /** What was last set in the kernel, and for which port. */
  #chosen: { readonly first: BoundSocket; readonly places: string } | null = null

  constructor(group: GroupState, { sys } = addon()) {
    this.#group = group
    this.#sys = sys
  }

  /** Forgets what was last set in the kernel: another master may have set something else. */
  forget(): void {
    this.#chosen = null
  }

  /** Called after every change, and now and then: a process that hangs tells nobody. */
  settle(): void {
    const { sockets } = this.#group.blueprint
    const taking = this.#taking
    if (taking.length === 0) return // new connections wait for the first process that is ready
    const taken = new Set(taking.map(({ socket }) => socket))
    this.#choose(taken)
    for (const slot of this.#group.slots) {
      if (taken.has(sockets[slot.id] ?? null)) void this.#relieve(slot)
      else if (!slot.isGivenUp) this.#standIn(slot, taking)
    }
  }

  /** The processes that are to get new connections. One that a reload has not replaced yet may be on another port. */
  get #taking(): readonly WorkerHandle[] {
    const { sockets } = this.#group.blueprint
    if (!this.#hasOwnSockets) return []
    const ready = this.#group.slots.flatMap(({ current, isGivenUp }) => {
      const serves = current?.state === 'ready' && current.socket !== null && sockets.includes(current.socket)
      return serves && !isGivenUp ? [current] : []
    })
    // None of them: nobody was heard because this process itself has slept.
    const answering = someOf(ready, ({ isServing }) => isServing)
    return someOf(answering, ({ isFull }) => !isFull)
  }

  /** Each process has a socket of its own. */
  get #hasOwnSockets(): boolean {
    const { declaration, sockets } = this.#group.blueprint
    if (this.#group.isStopped) return false // they are closed
    return declaration.reusePort && this.#sys !== null && sockets[0]?.isActivated !== true
  }

  /**
   * From now on this slot gets nothing new. Resolves when everything that had arrived has been accepted.
   *
   * @param kept the sockets that stay: if no process is ready there, new connections wait for the first one
   */
  async giveUp(slot: Slot, kept: readonly BoundSocket[] = this.#group.blueprint.sockets): Promise<void> {
    const socket = this.socketOf(slot)
    slot.isGivenUp = true
    this.settle()
    if (this.#hasOwnSockets && this.#taking.length === 0) this.#choose(new Set(kept))
    if (socket !== null && !kept.includes(socket)) await this.#emptied(socket)
  }

  /** When another master chooses: resolves when everything that had arrived for this slot has been accepted. */
  async emptied(slot: Slot): Promise<void> {
    const socket = this.socketOf(slot)
    if (socket !== null && !socket.isActivated) await this.#emptied(socket)
  }

  /**
   * Removes a slot. Resolves when nothing stands in for it: a socket that a sibling still holds keeps its place in the
   * kernel's order, and the next one would get a place that is never chosen.
   */
  async dismiss(slot: Slot): Promise<void> {
    slot.isGivenUp = true
    await this.#relieve(slot)
  }

  /** The sockets that siblings accept on for others. */
  get sockets(): BoundSocket[] {
    return [...this.#standIns.values()].map(({ socket }) => socket)
  }

  /** The socket on which the slot's process, or a sibling for it, accepts. */
  socketOf(slot: Slot): BoundSocket | null {
    return slot.current?.socket ?? this.#standIns.get(slot)?.socket ?? null
  }

  async #emptied(socket: BoundSocket): Promise<void> {
    if (this.#sys === null || !this.#group.blueprint.declaration.reusePort) return
    let empty = 0
    for (let waited = 0; waited < LONGEST_WAIT_MS && empty < EMPTY_LOOKS; waited += LOOK_EVERY_MS) {
      await sleep(LOOK_EVERY_MS)
      try {
        empty = this.#sys.acceptQueue(socket.fd).length === 0 ? empty + 1 : 0
      } catch {
        return // EBADF: the server is stopping
      }
    }
  }

  /** New connections go to these sockets only. */
  #choose(chosen: ReadonlySet<BoundSocket | null>): void {
    const { sockets } = this.#group.blueprint
    const places = [...sockets.keys()].filter((place) => chosen.has(sockets[place] ?? null))
    const [first] = sockets
    if (places.length === 0 || first === undefined) return
    if (first === this.#chosen?.first && `${places}` === this.#chosen.places) return
    this.#chosen = { first, places: `${places}` }
    try {
      this.#sys?.chooseAmong(first.fd, places)
    } catch (error) {
      log(`${this.#group.name}: the kernel goes on choosing by itself: ${messageOf(error)}`) // stand-ins take the rest
    }
  }

  #standIn(slot: Slot, taking: readonly WorkerHandle[]): void {
    const socket = this.#group.blueprint.sockets[slot.id]
    const before = this.#standIns.get(slot)?.handle
    const [handle] = [...taking].sort(byConnections)
    if (socket === undefined || handle === undefined || (before !== undefined && taking.includes(before))) return
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

/** Those for which it is true; if it is true for none, all. */
function someOf(handles: readonly WorkerHandle[], isTrue: (handle: WorkerHandle) => boolean): readonly WorkerHandle[] {
  const some = handles.filter(isTrue)
  return some.length > 0 ? some : handles
}

function byConnections(a: WorkerHandle, b: WorkerHandle): number {
  return a.report.counters.connections - b.report.counters.connections
}
