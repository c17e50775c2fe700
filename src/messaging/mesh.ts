// This process's end of the mesh: the socket other processes reach it at, an outbox for each slot it sends to, and the
// table of running processes. No broker and no port: messages between two workers go directly.

import { anyOf } from '../any-of.ts'
import { messageOf, type SendError } from '../errors.ts'
import { log } from '../log.ts'
import { type MeshPlace, type PeerNews, type PeerRow, workerKey } from '../process/group.ts'
import type { Listener, Socket, SocketEvents, Transport } from '../transport.ts'
import type { Call } from './call.ts'
import type { Identity, Terms } from './handshake.ts'
import { Hub, type HubHost } from './hub.ts'
import { type IncomingHost, IncomingLink } from './incoming-link.ts'
import { TOLD_IN_ONE_TURN } from './losses.ts'
import { Mailbox, type MailboxHost } from './mailbox.ts'
import { Outbox, type OutboxHost, type OutboxSettings } from './outbox.ts'
import type { Credentials, OutgoingLink } from './outgoing-link.ts'
import { Peers, type Route } from './peers.ts'
import { ProcessOutboxes } from './process-outboxes.ts'
import { ProcessWay } from './process-way.ts'
import { refTo, type WorkerRef } from './references.ts'
import { Stay } from './stay.ts'
import { type Audience, type Interest, type InterestChange, isForAll, subscriptions } from './subscriptions.ts'
import { Whom } from './waitlist.ts'

/** Connections that wait until this process accepts them. */
const BACKLOG = 511
/**
 * Connections that may be authenticating at once; one more closes any one of them. Not the oldest: then somebody who
 * makes connections quickly would keep all workers out, whose attempts take a moment longer.
 */
const MAX_STRANGERS = 64

const HAS_LEFT = 'this process has left'

/** The Worker of this process, and what is declared about the other groups. */
export interface MeshHost extends MailboxHost {
  readonly incarnation: number
  readonly maxPackageSize: number
  readonly maxMailboxMessages: number
  readonly maxMailboxBytes: number
  readonly counters: MailboxHost['counters'] & { refused: number }
  /** How many workers the code declares for a mailbox; 0 when it is not declared. */
  declared(mailbox: string): number
  settingsFor(mailbox: string): OutboxSettings
  /** Reports a message that was not sent at all. */
  refusedToSend(error: SendError, message: unknown): void
  /** What this process holds for itself has reached its limits, or has become half of them after that. */
  onOwnFull(): void
  onOwnDrain(): void
}

export class Mesh implements OutboxHost, IncomingHost, HubHost {
  readonly credentials: Credentials
  readonly transport: Transport
  readonly address: string
  readonly mailbox: Mailbox
  readonly hub: Hub
  isLeaving = false
  isSilent = false
  readonly #host: MeshHost
  readonly #peers = new Peers()
  /** By slot. */
  readonly #outboxes = new Map<string, Outbox>()
  readonly processes = new ProcessOutboxes(this, this.#peers)
  /** The references to processes that have sent something, by address. */
  readonly #senders = new Map<string, WorkerRef>()
  readonly #incoming = new Set<IncomingLink>()
  #listener: Listener | null = null
  #isClosed = false
  readonly #stay = new Stay(() => this.#isBusy())

  constructor(host: MeshHost, place: MeshPlace, transport: Transport) {
    const { mailbox, address } = place
    const identity = { mailbox, group: host.name, id: host.id, incarnation: host.incarnation, address }
    this.#host = host
    this.transport = transport
    this.address = place.address
    this.credentials = { identity, secret: Buffer.from(place.secret, 'base64') }
    this.mailbox = new Mailbox(host)
    this.hub = new Hub(this, subscriptions)
    subscriptions.onChange = (change) => this.#announce(change)
    subscriptions.onThrown = () => void host.counters.handlerErrors++
    this.use(place)
    if (place.fd >= 0) void this.#listen(place)
  }

  async #listen({ fd, address }: MeshPlace): Promise<void> {
    try {
      const source = { fd, backlog: BACKLOG, expected: address }
      const listener = await this.transport.listen(source, (socket) => this.#accept(socket))
      if (this.#isClosed) listener.close()
      else this.#listener = listener
    } catch (error) {
      log(`no messages can come: ${messageOf(error)}`)
    }
  }

  get secret(): Buffer {
    return this.credentials.secret
  }

  get isEnding(): boolean {
    return this.#peers.isEnding
  }

  /** Takes over the master's news of the other processes. */
  use({ rows, isEnding }: PeerNews): void {
    this.#peers.isEnding ||= isEnding
    for (const row of rows) this.#useRow(row)
    this.#forgetGone()
    if (isEnding) this.#end()
    this.look()
  }

  #useRow(row: PeerRow): void {
    const ended = this.#peers.set(row)
    const outbox = this.outbox(row.mailbox, row.id)
    outbox.use(row)
    this.processes.use(row, outbox, ended)
    if (row.address === this.address) this.hub.ended(outbox)
    else this.hub.moved(outbox)
  }

  /** From now on nobody comes to a slot that has no process. */
  #end(): void {
    for (const outbox of this.#all) outbox.look()
    for (const outbox of this.#outboxes.values()) if (!outbox.isUp) this.hub.moved(outbox)
  }

  get #all(): Outbox[] {
    return [...this.#outboxes.values(), ...this.processes]
  }

  // Sending

  outbox(mailbox: string, id: number): Outbox {
    const key = workerKey({ mailbox, id })
    const present = this.#outboxes.get(key)
    if (present !== undefined) return present
    const settings = this.#host.settingsFor(mailbox)
    const outbox = new Outbox(this, settings, this.#peers.get(mailbox, id), mailbox, id)
    outbox.isKnown = this.isKnown(mailbox, id)
    this.#outboxes.set(key, outbox)
    return outbox
  }

  /** Whether there is or will be such a worker: what the code declares may still have to start. */
  isKnown(mailbox: string, id: number): boolean {
    if (this.#peers.get(mailbox, id) !== undefined) return true
    return id < this.#host.declared(mailbox) && !this.#peers.wasRemoved(mailbox, id)
  }

  newOutbox(process: PeerRow | undefined, mailbox: string, id: number): Outbox {
    return new Outbox(this, this.#host.settingsFor(mailbox), process, mailbox, id, true)
  }

  leaves(process: Route, isSilent: boolean): void {
    this.processes.leaves(process, isSilent)
  }

  idsOf(mailbox: string): number[] {
    const ids = [...(this.#peers.slots(mailbox)?.keys() ?? [])]
    if (ids.length > 0) return ids.sort((a, b) => a - b)
    const declared = Array.from({ length: this.#host.declared(mailbox) }, (_, id) => id)
    return declared.filter((id) => this.isKnown(mailbox, id))
  }

  mailboxesNamed(group: string): string[] {
    return this.#peers.named(group)
  }

  describe(): string {
    return this.#peers.describe()
  }

  // Publishing

  others(): Outbox[] {
    const current = [...this.#peers].map(({ mailbox, id }) => this.outbox(mailbox, id))
    return [...current, ...this.processes.besideOf()].filter(({ address }) => address !== this.address)
  }

  isVacant(outbox: Outbox): boolean {
    const { mailbox, id } = this.credentials.identity
    const isOwn = outbox.mailbox === mailbox && outbox.id === id
    const isForSuccessor = this.isLeaving && !outbox.isInVain // else it is this process that hears for its slot
    return outbox.isVacant && (!isOwn || isForSuccessor)
  }

  get self(): WorkerRef {
    return this.known(this.credentials.identity)
  }

  get maxPackageSize(): number {
    return this.#host.maxPackageSize
  }

  get maxMailboxMessages(): number {
    return this.#host.maxMailboxMessages
  }

  get maxMailboxBytes(): number {
    return this.#host.maxMailboxBytes
  }

  onOwnFull(): void {
    this.#host.onOwnFull()
  }

  onOwnDrain(): void {
    this.#host.onOwnDrain()
  }

  working(change: 1 | -1): void {
    this.#host.working(change)
  }

  refusedToSend(error: SendError, message: unknown): void {
    this.#host.refusedToSend(error, message)
  }

  linked(outbox: Outbox, interests: readonly Interest[]): void {
    if (outbox.address === this.address) return // what is published is delivered here without it
    this.hub.linked(outbox, interests.filter(this.#isMeantAt(outbox)))
  }

  /** Which subscriptions count: in a process that leaves only those without a queue. */
  #isMeantAt(outbox: Outbox): (interest: Interest) => boolean {
    return this.#peers.besideAt(outbox.address)?.role === 'leaving' ? isForAll : isAny
  }

  unlinked(outbox: Outbox, link: OutgoingLink): void {
    if (this.#isClosed) return // nobody is waited for any more
    this.processes.unlinked(outbox, link)
    if (outbox.address === this.address) this.hub.ended(outbox)
    else this.hub.unlinked(outbox)
  }

  unreachable(outbox: Outbox): void {
    this.hub.unreachable(outbox)
  }

  interested(outbox: Outbox, change: unknown): void {
    this.hub.changed(outbox, change, this.#isMeantAt(outbox))
  }

  async #announce(change: InterestChange): Promise<void> {
    this.hub.ownChanged(change)
    await this.#tell(this.isLeaving ? { ...change, adds: change.adds.filter(isForAll) } : change)
  }

  async #tell(change: InterestChange): Promise<void> {
    await Promise.all([...this.#incoming].map((link) => link.announce(change)))
  }

  deliver(audience: Audience, message: unknown, from: WorkerRef, call: Call): unknown {
    return subscriptions.deliver(audience, message, from, call)
  }

  // Receiving

  #accept(socket: Socket): SocketEvents | null {
    const strangers = [...this.#incoming].filter(({ isKnown }) => !isKnown)
    if (strangers.length >= MAX_STRANGERS) anyOf(strangers)?.refuse('too many are about to say who they are')
    const link = new IncomingLink(this, socket)
    this.#incoming.add(link)
    return link
  }

  terms(): Terms {
    const { maxMailboxMessages, maxMailboxBytes, maxPackageSize } = this.#host
    return {
      maxMessages: wholeInJson(maxMailboxMessages),
      maxBytes: wholeInJson(maxMailboxBytes),
      maxFrameBytes: wholeInJson(maxPackageSize),
      interest: this.#offered,
    }
  }

  /** The subscriptions that others are told of. */
  get #offered(): Interest[] {
    if (this.isSilent) return []
    const { interests } = subscriptions
    return this.isLeaving ? interests.filter(isForAll) : interests
  }

  /** The reference to a process that handlers receive: the same one for all that it sends. */
  known(identity: Identity): WorkerRef {
    const { address, group: name, id } = identity
    const present = this.#senders.get(address)
    if (present !== undefined) return present
    const ref = refTo(name, id, new ProcessWay(this.processes, identity, Whom.Process))
    if (address !== '') this.#senders.set(address, ref)
    return ref
  }

  refused(): void {
    this.#host.counters.refused++
  }

  closed(link: IncomingLink): void {
    this.#incoming.delete(link)
    this.#forgetGone()
    this.look()
  }

  isHeardFrom(address: string): boolean {
    return [...this.#incoming].some((link) => link.address === address && link.isKnown)
  }

  /** Forgets what is kept for processes that are in no table and have no link, so they do not live. */
  #forgetGone(): void {
    const known = [...this.#peers, ...this.#peers.besideOf(), ...this.#incoming, this]
    const alive = new Set(known.map(({ address }) => address))
    for (const address of this.#senders.keys()) if (!alive.has(address)) this.#senders.delete(address)
    this.processes.forget(alive)
  }

  // Leaving

  /**
   * Holds the process while a message sent here is unfinished, or one sent from here unsettled. Takes no more messages
   * but those for all, unless the whole server stops: then it takes all of them to its end.
   * @param isDeserted nobody is served here any more: as `silence`
   */
  leave(hold: () => () => void, isDeserted: boolean): void {
    this.#stay.begin(hold)
    if (this.isEnding) return // none follows it
    this.isLeaving = true
    if (!isDeserted) this.#leaveQueues()
    if (isDeserted) this.silence()
  }

  #leaveQueues(): void {
    const drops = subscriptions.interests.filter((interest) => !isForAll(interest))
    for (const link of this.#incoming) link.leave() // first: what the process had until then holds for its slot
    if (drops.length > 0) void this.#tell({ adds: [], drops })
  }

  /**
   * Nobody is served here any more who would hear what is for all. The socket stays: a process that has not heard so is
   * told there, and what has to wait until it is, would wait longer at a closed one.
   */
  silence(): void {
    if (this.isSilent || this.isEnding) return
    this.isSilent = true
    for (const link of this.#incoming) link.silence()
    this.look()
  }

  /** Whether others may ask it for something, although it leaves: they have no one else to ask. */
  get mayBeAsked(): boolean {
    const takesAny = this.#host.workerHandler !== null || subscriptions.interests.length > 0
    return this.isEnding && !this.isLeaving && this.#listener !== null && takesAny
  }

  /** Call when something has begun or ended that a leaving process waits for. */
  look(): void {
    this.#stay.look()
  }

  #isBusy(): boolean {
    return this.mailbox.load > 0 || this.#all.some(({ isBusy }) => isBusy) || this.#unaware.length > 0
  }

  /**
   * The links of senders that have not heard that nothing is wanted. Each closes its link when it has: before that it
   * would take this process for one that was lost.
   */
  get #unaware(): IncomingLink[] {
    if (!this.isSilent || this.isEnding) return []
    return [...this.#incoming].filter(({ isAwaited }) => isAwaited)
  }

  /** In words, for what a leaving process waits. */
  get work(): string {
    const receivers = this.#all.filter(({ isBusy }) => isBusy).map(({ mailbox, id }) => `${mailbox}:${id}`)
    const senders = this.#unaware.map(({ from: { group, id } }) => `${group}:${id}`)
    const others = [...new Set([...receivers, ...senders])].join(', ')
    return others === '' ? 'messages' : `messages: waiting for ${others}`
  }

  /** Number of messages and requests of this process that are unsettled. */
  get unsettled(): number {
    let sum = this.hub.unsettled
    for (const { count } of this.#all) sum += count
    return sum
  }

  /** Fails all that is unsettled now, in slices between which the event loop turns. */
  async tellLost(): Promise<void> {
    this.hub.abandon()
    while (this.hub.tellLost(TOLD_IN_ONE_TURN, HAS_LEFT)) await new Promise(setImmediate)
    for (const outbox of this.#all) {
      if (outbox.count > 0) outbox.abandon(HAS_LEFT)
      while (outbox.tellLost(TOLD_IN_ONE_TURN)) await new Promise(setImmediate)
    }
  }

  /** Ends everything: what is left has had its time. */
  close(): void {
    this.#isClosed = true
    this.#listener?.close()
    this.tellRest()
    for (const link of [...this.#incoming]) link.close()
  }

  /** Once closed: fails at once what has been sent since. */
  tellRest(): void {
    this.hub.abandon()
    this.hub.tellLost(Number.POSITIVE_INFINITY, HAS_LEFT)
    for (const outbox of this.#all) {
      outbox.close(HAS_LEFT)
      outbox.tellLost(Number.POSITIVE_INFINITY)
    }
  }
}

function isAny(): boolean {
  return true
}

/** A limit as the other end takes it: whole, and not Infinity, which JSON would make null. */
function wholeInJson(limit: number): number {
  return Math.trunc(Math.min(limit, Number.MAX_SAFE_INTEGER))
}
