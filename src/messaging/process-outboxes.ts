// An outbox for each process that this one sends to beside the process that has the slot: one that drains, a canary, or
// one that has sent something and is not ready yet. It ends with that process; when the process gets the slot, the
// slot's outbox goes on.

import { type PeerRow, workerKey } from '../process/group.ts'
import type { Hub } from './hub.ts'
import type { Outbox } from './outbox.ts'
import type { OutgoingLink } from './outgoing-link.ts'
import type { Beside, Peers, Route } from './peers.ts'
import { isForAll } from './subscriptions.ts'

/** What these outboxes need from their mesh. */
interface ProcessOutboxesHost {
  /** Of this process. */
  readonly address: string
  readonly hub: Hub
  /** That of a slot. */
  outbox(mailbox: string, id: number): Outbox
  /** A new one, for one process: undefined if it is gone. */
  newOutbox(process: PeerRow | undefined, mailbox: string, id: number): Outbox
  /** Whether a process that is reached there has a link to this one. */
  isHeardFrom(address: string): boolean
}

export class ProcessOutboxes {
  readonly #host: ProcessOutboxesHost
  readonly #peers: Peers
  /** By address. */
  readonly #present = new Map<string, Outbox>()
  /** For processes that are gone: what has been sent to them is not settled yet. */
  readonly #past = new Set<Outbox>()
  /** For what is sent to processes that are gone, by slot. */
  readonly #lost = new Map<string, Outbox>()

  constructor(host: ProcessOutboxesHost, peers: Peers) {
    this.#host = host
    this.#peers = peers
  }

  *[Symbol.iterator](): Iterator<Outbox> {
    yield* this.#present.values()
    yield* this.#past
    yield* this.#lost.values()
  }

  /** What carries messages to one process, its slot's or its own; null if it is gone, or hears nothing any more. */
  to(process: Route): Outbox | null {
    const { mailbox, id, address } = process
    const hasSlot = this.#peers.get(mailbox, id)?.address === address
    const beside = this.#peers.besideAt(address)
    if (address === '' || (hasSlot && beside === undefined)) return this.#host.outbox(mailbox, id)
    if (beside !== undefined) return beside.role === 'silent' ? null : this.#outbox(beside)
    const isStarting = address === this.#host.address || this.#host.isHeardFrom(address) // in no table, and alive
    return isStarting ? this.#outbox({ ...process, incarnation: 0 }) : null
  }

  ofSlot(mailbox: string, id: number): Outbox {
    return this.#host.outbox(mailbox, id)
  }

  /** What takes messages to a process of this slot that is gone, and fails them. */
  lost(mailbox: string, id: number): Outbox {
    const key = workerKey({ mailbox, id })
    const present = this.#lost.get(key)
    if (present !== undefined) return present
    const outbox = this.#host.newOutbox(undefined, mailbox, id)
    outbox.end(null)
    this.#lost.set(key, outbox)
    return outbox
  }

  /** Those of the canaries of a group. */
  canariesOf(mailbox: string): readonly Outbox[] {
    if (!this.#peers.isAnyBeside) return NONE
    const canaries = this.#peers.besideOf(mailbox).filter(({ role }) => role === 'canary')
    return canaries.map((process) => this.#outbox(process))
  }

  /** Those of all processes that serve beside the ones that have the slots, or of a group's. */
  besideOf(mailbox?: string): readonly Outbox[] {
    if (!this.#peers.isAnyBeside) return NONE
    return this.#peers.besideOf(mailbox).map((process) => this.#outbox(process))
  }

  #outbox(process: Route): Outbox {
    const { mailbox, id, address } = process
    const present = this.#present.get(address)
    if (present !== undefined) return present
    const outbox = this.#host.newOutbox({ group: mailbox, next: 'soon', ...process }, mailbox, id)
    this.#present.set(address, outbox)
    return outbox
  }

  /**
   * The master's news of a slot, whose outbox is `slot`.
   * @param ended processes that were beside it, and are not any more
   */
  use({ address, beside = [] }: PeerRow, slot: Outbox, ended: readonly Beside[]): void {
    const wasCanary = ended.some((one) => one.address === address)
    if (this.#peers.besideAt(address) === undefined) this.#promote(address, slot, wasCanary)
    for (const process of ended) {
      if (process.role === 'leaving') this.#present.get(process.address)?.forgetUnmet()
      this.#end(process.address)
    }
    for (const one of beside) this.#serves(this.#peers.besideAt(one.address) as Beside, slot)
    for (const outbox of this.#past) if (outbox.count === 0) this.#past.delete(outbox)
  }

  #serves(process: Beside, slot: Outbox): void {
    if (process.role === 'silent') return
    this.#present.get(process.address)?.use({ next: 'soon', ...process })
    if (process.address === this.#host.address) return
    const outbox = this.#outbox(process)
    slot.partWith(outbox)
    this.#host.hub.moved(outbox)
  }

  /** The process there has its slot now: what was sent to it beside another goes there with the rest. */
  #promote(address: string, slot: Outbox, wasCanary: boolean): void {
    const outbox = this.#present.get(address)
    if (outbox === undefined) return
    this.#present.delete(address)
    this.#past.add(outbox)
    if (wasCanary) slot.forgetHeard()
    if (address !== this.#host.address) this.#host.hub.passOn(outbox, slot, () => true)
    outbox.giveWay(slot)
  }

  #end(address: string): void {
    const outbox = this.#present.get(address)
    if (outbox === undefined) return
    this.#present.delete(address)
    this.#past.add(outbox)
    outbox.end(this.#host.outbox(outbox.mailbox, outbox.id))
    this.#host.hub.ended(outbox)
  }

  /** The process itself says that it leaves its slot, or that it hears nothing any more. */
  leaves(process: Route, isSilent: boolean): void {
    const { address } = process
    if (isSilent || this.#peers.besideAt(address) === undefined) this.#peers.leaves(process, isSilent)
    if (!isSilent) return
    this.#present.get(address)?.forgetUnheard()
    this.#end(address)
  }

  /** `slot` has left this link. If its process goes on to serve, what is for that one goes on to it. */
  unlinked(slot: Outbox, link: OutgoingLink): void {
    const process = this.#peers.besideAt(link.route.address)
    if (process?.role !== 'leaving' || slot.isBeside) return
    const outbox = this.#outbox(process)
    slot.handOver(link, outbox)
    if (process.address === this.#host.address) return // what is published is delivered here without it
    if (link.isOpen) this.#host.hub.passOn(slot, outbox, isForAll)
    else this.#host.hub.moved(outbox) // it cannot say here what changes: it is waited for
  }

  /** Ends those of processes that do not live any more, though the master has never told of them. */
  forget(alive: ReadonlySet<string>): void {
    for (const address of this.#present.keys()) if (!alive.has(address)) this.#end(address)
  }
}

const NONE: readonly Outbox[] = []
