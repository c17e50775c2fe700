// This process's end of the mesh: the socket other processes reach it at, an outbox for each slot it sends to, and the
// table of running processes. No broker and no port: messages between two workers go directly.

import { messageOf, type SendError } from '../errors.ts'
import { log } from '../log.ts'
import { type MeshPlace, type PeerNews, workerKey } from '../process/group.ts'
import type { Listener, Socket, SocketEvents, Transport } from '../transport.ts'
import type { Call } from './call.ts'
import type { Identity, Terms } from './handshake.ts'
import { Hub, type HubHost } from './hub.ts'
import { type IncomingHost, IncomingLink } from './incoming-link.ts'
import { Mailbox, type MailboxHost } from './mailbox.ts'
import { Outbox, type OutboxHost, type OutboxSettings, TOLD_IN_ONE_TURN } from './outbox.ts'
import type { Credentials } from './outgoing-link.ts'
import { Peers } from './peers.ts'
import { lost } from './pending-request.ts'
import type { WorkerRef } from './references.ts'
import { Stay } from './stay.ts'
import { type Audience, type InterestChange, subscriptions } from './subscriptions.ts'

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
  /** The reference that handlers receive. */
  reference(identity: Identity): WorkerRef
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
  readonly #host: MeshHost
  readonly #peers = new Peers()
  readonly #outboxes = new Map<string, Outbox>()
  readonly #self: string
  readonly #incoming = new Set<IncomingLink>()
  #listener: Listener | null = null
  readonly #stay = new Stay(() => this.#isBusy())

  constructor(host: MeshHost, place: MeshPlace, transport: Transport) {
    const identity = { mailbox: place.mailbox, group: host.name, id: host.id, incarnation: host.incarnation }
    this.#host = host
    this.transport = transport
    this.address = place.address
    this.credentials = { identity, secret: Buffer.from(place.secret, 'base64') }
    this.mailbox = new Mailbox(host)
    this.#self = workerKey({ mailbox: place.mailbox, id: host.id })
    this.hub = new Hub(this, subscriptions)
    subscriptions.onChange = (change) => this.#announce(change)
    this.use(place)
    if (place.fd >= 0) void this.#listen(place)
  }

  async #listen({ fd, address }: MeshPlace): Promise<void> {
    try {
      const source = { fd, backlog: BACKLOG, expected: address }
      const listener = await this.transport.listen(source, (socket) => this.#accept(socket))
      if (this.isLeaving && !this.isEnding) listener.close()
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
    for (const row of rows) {
      this.#peers.set(row)
      const outbox = this.#outboxes.get(workerKey(row))
      outbox?.use(row)
      if (workerKey(row) !== this.#self) this.hub.moved(outbox ?? this.outbox(row.mailbox, row.id))
    }
    if (isEnding) for (const outbox of this.#outboxes.values()) outbox.look()
    this.look()
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
    const rows = [...this.#peers].filter(({ mailbox, id }) => workerKey({ mailbox, id }) !== this.#self)
    return rows
      .map(({ mailbox, id }) => this.outbox(mailbox, id))
      .filter(({ isUp, isAboutToChange }) => isUp || isAboutToChange)
  }

  get self(): WorkerRef {
    return this.#host.reference(this.credentials.identity)
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

  linked(outbox: Outbox, interests: readonly string[]): void {
    this.hub.linked(outbox, interests)
  }

  unlinked(outbox: Outbox): void {
    this.hub.unlinked(outbox)
  }

  unreachable(outbox: Outbox): void {
    this.hub.unreachable(outbox)
  }

  interested(outbox: Outbox, change: unknown): void {
    this.hub.changed(outbox, change)
  }

  async #announce(change: InterestChange): Promise<void> {
    this.hub.ownChanged(change)
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
      interest: subscriptions.interests,
    }
  }

  known(_link: IncomingLink, identity: Identity): WorkerRef {
    return this.#host.reference(identity)
  }

  refused(): void {
    this.#host.counters.refused++
  }

  closed(link: IncomingLink): void {
    this.#incoming.delete(link)
    this.look()
  }

  // Leaving

  /**
   * Takes no more messages. Holds the process while a message sent here is unfinished, or one sent from here unsettled.
   */
  leave(hold: () => () => void): void {
    this.isLeaving = true
    if (!this.isEnding) this.#listener?.close() // while the whole server stops, its workers still answer each other
    for (const link of this.#incoming) link.leave()
    this.#stay.begin(hold)
  }

  /** Call when something has begun or ended that a leaving process waits for. */
  look(): void {
    this.#stay.look()
  }

  #isBusy(): boolean {
    if (this.mailbox.load > 0 || [...this.#outboxes.values()].some(({ isBusy }) => isBusy)) return true
    return !this.isEnding && [...this.#incoming].some(({ isOpen }) => isOpen)
  }

  /** Number of messages and requests of this process that are unsettled. */
  get unsettled(): number {
    let sum = this.hub.waiting
    for (const { count } of this.#outboxes.values()) sum += count
    return sum
  }

  /** Fails all that is unsettled now, in slices between which the event loop turns. */
  async tellLost(): Promise<void> {
    this.hub.stopWaiting()
    await new Promise(setImmediate) // requests go on to their outboxes in a turn of their own
    while (this.hub.tellLost(TOLD_IN_ONE_TURN, lost('this process', HAS_LEFT, false))) await new Promise(setImmediate)
    for (const outbox of this.#outboxes.values()) {
      if (outbox.count > 0) outbox.abandon(HAS_LEFT)
      while (outbox.tellLost(TOLD_IN_ONE_TURN)) await new Promise(setImmediate)
    }
  }

  /** Ends everything: what is left has had its time. */
  close(): void {
    this.#listener?.close()
    this.hub.stopWaiting()
    this.hub.tellLost(Number.POSITIVE_INFINITY, lost('this process', HAS_LEFT, false))
    for (const outbox of this.#outboxes.values()) {
      outbox.close(HAS_LEFT)
      outbox.tellLost(Number.POSITIVE_INFINITY)
    }
    for (const link of [...this.#incoming]) link.close()
  }
}

function anyOf<T>(all: readonly T[]): T | undefined {
  return all[Math.floor(Math.random() * all.length)]
}

/** A limit as the other end takes it: whole, and not Infinity, which JSON would make null. */
function wholeInJson(limit: number): number {
  return Math.trunc(Math.min(limit, Number.MAX_SAFE_INTEGER))
}
