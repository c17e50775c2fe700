// One group in the master: what it declares, its slots, and what became of their processes.

import type { BoundSocket } from '../../net/bound-socket.ts'
import type { Declaration } from '../group.ts'
import type { GroupKey } from '../messages.ts'
import { PortShare } from './port-share.ts'
import { Slot } from './slot.ts'
import type { WorkerHandle } from './worker-handle.ts'

/** What the code declares for a group. */
export interface Outline {
  readonly key: GroupKey
  /** The address of its messages. */
  readonly mailbox: string
  readonly declaration: Declaration
  /** The TLS files of its processes, in base64. */
  readonly tlsFiles: Readonly<Record<string, string>>
}

/** What new processes of a group are made from. A reload brings a new one. */
export interface Blueprint extends Outline {
  /** One for all slots or, with `reusePort`, one per slot; empty without an address. */
  readonly sockets: readonly BoundSocket[]
}

/** The socket that the processes of a slot inherit. */
export function socketOf({ sockets }: Blueprint, slot: number): BoundSocket | null {
  return sockets[slot] ?? sockets[0] ?? null
}

export class GroupState {
  blueprint: Blueprint
  slots: Slot[] = []
  /** How its processes have ended, and how often. */
  readonly exits = new Map<string, number>()
  /** Why healthy processes were replaced, and how often. */
  readonly recycled = new Map<string, number>()
  /** The new code does not declare it: it lasts until its processes have left. */
  isGone = false
  /** Stopped by a command: it has no process and no socket until a command starts it. */
  isStopped = false
  /** As the code declares; the wanted count is `blueprint.declaration.count`. */
  declaredCount: number
  /** The count set by `scale`, or null. */
  scaledTo: number | null = null
  readonly share = new PortShare(this)
  readonly #inner = new Map<string, BoundSocket>()
  readonly #binding = new Map<string, Promise<BoundSocket>>()

  constructor(blueprint: Blueprint) {
    this.blueprint = blueprint
    this.declaredCount = blueprint.declaration.count
  }

  /** How many slots it should have when the code declares this many: `scale` holds until the declared count changes. */
  countFor(declared: number): number {
    return this.scaledTo !== null && declared === this.declaredCount ? this.scaledTo : declared
  }

  /** The code now declares this many. */
  declare(count: number): void {
    if (count !== this.declaredCount) this.scaledTo = null
    this.declaredCount = count
  }

  /**
   * An operation that was to bring `wanted` has been given up. If the group has come to have that, the code declares
   * this many; otherwise the processes that it has are those that it should have.
   */
  giveUp(wanted: Blueprint, declaredCount: number): void {
    const { blueprint, slots } = this
    const count = slots.length
    if (count === blueprint.declaration.count) return blueprint === wanted ? this.declare(declaredCount) : undefined
    this.blueprint = { ...blueprint, declaration: { ...blueprint.declaration, count }, sockets: this.#socketsLeft }
  }

  /**
   * The sockets for the slots that it has, in the kernel's order. One too many would get connections that nobody
   * accepts; one too few would leave processes that serve without any.
   */
  get #socketsLeft(): BoundSocket[] {
    const { sockets, declaration } = this.blueprint
    if (!declaration.reusePort) return [...sockets] // one for all: what a process has had before may have no file
    const others = this.slots.slice(sockets.length).flatMap((slot) => this.share.socketOf(slot) ?? [])
    const onPort = others.filter(({ endpoint }) => endpoint === sockets[0]?.endpoint)
    return [...new Set([...sockets, ...onPort])].slice(0, Math.max(1, this.slots.length))
  }

  /**
   * The socket of an address that processes listen on by themselves: one for all of them, made by `bind`, and kept even
   * while none of them lives, unless it `isLost`: then the next processes have another one.
   */
  async innerSocket(
    address: string,
    bind: () => Promise<BoundSocket>,
    isLost: (socket: BoundSocket) => boolean = () => false,
  ): Promise<BoundSocket> {
    const present = this.#inner.get(address)
    if (present !== undefined && !isLost(present)) return present
    const binding = this.#binding.get(address) ?? bind()
    this.#binding.set(address, binding)
    try {
      const socket = await binding
      if (!this.isStopped) this.#inner.set(address, socket)
      return socket
    } finally {
      this.#binding.delete(address)
    }
  }

  /** Removes its processes and sockets. Sockets that its processes requested are bound again when they start. */
  stop(): void {
    this.isStopped = true
    this.#inner.clear()
  }

  /** Keyed by the requested address. */
  get inner(): ReadonlyMap<string, BoundSocket> {
    return this.#inner
  }

  /** Takes over a socket of the earlier master. */
  inheritInner(address: string, socket: BoundSocket): void {
    this.#inner.set(address, socket)
  }

  get innerEndpoints(): string[] {
    return [...this.#inner.values()].map(({ endpoint }) => endpoint)
  }

  /** Drops sockets that no process has requested, except for these. */
  forgetInnerSockets(kept: ReadonlySet<BoundSocket>): void {
    const used = new Set(this.#accepting.flatMap(({ innerSockets }) => [...innerSockets]))
    for (const [address, socket] of this.#inner) if (!used.has(socket) && !kept.has(socket)) this.#inner.delete(address)
  }

  /** Every slot has a process that serves. */
  get isReady(): boolean {
    return this.slots.every(({ current }) => current?.state === 'ready')
  }

  get #accepting(): WorkerHandle[] {
    return this.slots.flatMap(({ processes }) => processes).filter(({ isAccepting }) => isAccepting)
  }

  get name(): string {
    return this.blueprint.declaration.name
  }

  /** Whether the worst slot has failed `crashLoopAfter` times in a row, so that someone should look into it. */
  get isCrashLooping(): boolean {
    return this.slots.some(({ failures }) => failures >= this.blueprint.declaration.crashLoopAfter)
  }

  countRecycled(why: string): void {
    this.recycled.set(why, (this.recycled.get(why) ?? 0) + 1)
  }

  /** Adds a slot with the next id; slots are removed in reverse order. */
  addSlot({ isHeld }: { isHeld: boolean }): Slot {
    const slot = new Slot(this.slots.length)
    slot.isHeld = isHeld
    this.slots.push(slot)
    return slot
  }

  /** The sockets that processes accept on, and those the next process would, unless the group is no longer declared. */
  get sockets(): BoundSocket[] {
    const used = this.#accepting
    const declared = this.isGone || this.isStopped ? [] : this.blueprint.sockets
    const kept = this.isStopped ? [] : [...this.#inner.values()]
    const inner = [...kept, ...used.flatMap(({ innerSockets }) => [...innerSockets])]
    const all = [
      ...declared,
      ...used.map(({ socket }) => socket),
      ...inner,
      ...(this.isStopped ? [] : this.share.sockets),
    ]
    return all.filter((socket) => socket !== null)
  }
}
