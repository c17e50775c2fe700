// Everything this process sends to one slot, across the processes that hold the slot in turn. In order: messages
// waiting for a process go before later ones, and a new process receives nothing before the old one has started all
// that it was sent. A process beside the one that has the slot has an outbox of its own, which ends with it.

import { PeerError, type SendError } from '../errors.ts'
import { recently } from '../loop/clock.ts'
import { deadlines } from '../loop/deadlines.ts'
import type { PeerRow } from '../process/group.ts'
import type { Transport } from '../transport.ts'
import { lost, missed, refusedAs } from './failures.ts'
import type { Terms } from './handshake.ts'
import type { Unsettled } from './ledger.ts'
import { Losses, type LossesOwner } from './losses.ts'
import { type Credentials, type LinkListener, type LinkOwner, OutgoingLink } from './outgoing-link.ts'
import type { Route } from './peers.ts'
import { PendingRequest, type RequestOptions } from './pending-request.ts'
import { Room } from './room.ts'
import type { Audience } from './subscriptions.ts'
import { isServed, isUnaddressed, UNINTERESTED, type Unaddressed } from './unaddressed.ts'
import { unsubscribedError } from './undelivered.ts'
import { isUndecided, type Waiting, Waitlist, Whom, whomOf } from './waitlist.ts'
import { type CountedKind, checkSize, encoded, HEAD_BYTES, Kind, type Packed, pack } from './wire.ts'

/** Settings of the target group, in this process. */
export interface OutboxSettings {
  /** Limits of all that is unsettled. */
  readonly maxMailboxMessages: number
  readonly maxMailboxBytes: number
  /** How long a message waits for a process that is not running, in ms; 0: not at all. */
  readonly mailboxTimeoutMs: number
  /** Limit of one message. */
  readonly maxPackageSize: number
  /** A message was refused, or accepted but, as far as is known, not handled. */
  onSendFail(error: SendError, message: unknown, outbox: Outbox): void
  onFull(outbox: Outbox): void
  onDrain(outbox: Outbox): void
}

/** What an outbox needs from its mesh. */
export interface OutboxHost {
  readonly credentials: Credentials
  readonly transport: Transport
  /** Workers that leave are not replaced. */
  readonly isEnding: boolean
  /** The first message became unsettled, or the last one settled. */
  look(): void
  /** A link has opened, to a process with these subscriptions. */
  linked(outbox: Outbox, interests: readonly string[]): void
  /** The link is not used any more for what is sent from now on. */
  unlinked(outbox: Outbox, link: OutgoingLink): void
  /** The process at the other end leaves its slot, as it says itself; or it hears nothing any more at all. */
  leaves(route: Route, isSilent: boolean): void
  /** The master says the process runs, but it does not answer. */
  unreachable(outbox: Outbox): void
  interested(outbox: Outbox, change: unknown): void
}

/** What was never sent; a null audience is that of a message by name. */
interface Unsent extends Unsettled {
  readonly audience: Audience | null
}

/** Why a message for a process that runs is given up. */
export const SILENT = 'has not said what it subscribes to'
const GONE = 'this process of it is gone'
/** Retry interval: a process that is gone refuses connections until the master has reported it. */
const RETRY_MS = 50

export class Outbox implements LinkListener, LinkOwner, LossesOwner<Unsent> {
  readonly mailbox: string
  readonly id: number
  /** For error messages. */
  readonly name: string
  readonly #host: OutboxHost
  readonly #settings: OutboxSettings
  #row: PeerRow | undefined
  /** It is for one process beside the one that has the slot, not for the slot. */
  readonly isBeside: boolean
  /** Whether there is or will be such a slot, or process. */
  isKnown: boolean
  #link: OutgoingLink | null = null
  /**
   * `#older`: links to previous processes with outcomes still to come. `#ahead`: those whose process has not started
   * all it was sent there.
   */
  readonly #older = new Set<OutgoingLink>()
  readonly #ahead = new Set<OutgoingLink>()
  /**
   * The link of another outbox, which had this one's process before. Until this one has an open link, the process tells
   * its subscriptions there: without a gap, as nothing that is published waits for it.
   */
  #precursor: OutgoingLink | null = null
  readonly #waiting = new Waitlist()
  #waitTimer = 0
  /** When the last process that had a part in the waiting was lost: until then their time did not run. */
  #aloneSince = Number.NEGATIVE_INFINITY
  #retryTimer = 0
  /** Limits of what may be unsettled, and of one message: the lower of both ends, which may run different code. */
  readonly #limits: { maxMessages: number; maxBytes: number }
  #maxSize: number
  /** Address of the process that last announced its leaving. */
  #leftAddress = ''
  #isFlushing = false
  /** Whether there has been a link to its process. */
  #hasMet = false
  /** Whether a link should exist even with nothing to send. */
  #isWanted = false
  #isClosed = false
  readonly #losses = new Losses<Unsent>(this)
  /** What is unsettled. */
  readonly #room: Room

  /** @param row undefined while there is no process yet: messages wait for it */
  constructor(
    host: OutboxHost,
    settings: OutboxSettings,
    row: PeerRow | undefined,
    mailbox: string,
    id: number,
    isBeside = false,
  ) {
    this.#host = host
    this.#settings = settings
    this.#limits = { maxMessages: settings.maxMailboxMessages, maxBytes: settings.maxMailboxBytes }
    this.#room = new Room(this.#limits, { onFull: () => settings.onFull(this), onDrain: () => settings.onDrain(this) })
    this.#maxSize = settings.maxPackageSize
    this.#row = row
    this.isKnown = true
    this.isBeside = isBeside
    this.mailbox = mailbox
    this.id = id
    this.name = `worker ${mailbox}:${id}`
  }

  /** Number of unsettled messages. */
  get count(): number {
    return this.#room.count
  }

  /** For choosing the least loaded: what it has of ours, and of others as far as it has reported. */
  get load(): number {
    return this.count + (this.#link?.load ?? 0)
  }

  /** Whether anything is unsettled that may still be handled while this process is there. */
  get isBusy(): boolean {
    return this.count - this.#losses.refused > (this.isInVain ? this.#waiting.length : 0)
  }

  /** Whether messages wait for a process that does not come before this one has gone, or not by itself. */
  get isInVain(): boolean {
    if (this.#row === undefined || this.isUp) return false
    const { mailbox, next } = this.#row
    return next === 'on command' || (next === 'afterwards' && mailbox === this.#host.credentials.identity.mailbox)
  }

  /** Whether it is for a slot without a process, to which one comes by itself. */
  get isVacant(): boolean {
    if (this.isBeside || this.#row?.incarnation !== 0 || this.#host.isEnding) return false
    return this.#row.next !== 'on command'
  }

  /** Where its process is reached; empty for none. */
  get address(): string {
    return this.#row?.address ?? ''
  }

  get isUp(): boolean {
    return this.#row !== undefined && this.#row.incarnation > 0 && this.#row.address !== this.#leftAddress
  }

  /** Whether its process has said that it leaves, and the master has not said yet what comes after it. */
  get isAboutToChange(): boolean {
    const isRowOld = this.#row !== undefined && this.#row.incarnation > 0 && this.#row.address === this.#leftAddress
    return isRowOld && !this.#host.isEnding
  }

  /**
   * Returns true to go on. Returns false if the message was refused (then `onSendFail` was called) or if it was
   * accepted and the queue is now full.
   */
  send(message: unknown, whom = Whom.Slot): boolean {
    return this.#room.isFree ? this.#post(Kind.Message, message, message, null, whom) : this.#turnAway(message)
  }

  /** Like `send`, for a message that goes to many and is packed once. */
  sendPacked(packed: Packed, message: unknown): boolean {
    const whom = this.isBeside ? Whom.All : Whom.Slot
    return this.#room.isFree ? this.#post(Kind.Message, packed, message, null, whom) : this.#turnAway(message)
  }

  /** Throws UsageError if the message is too large. */
  check(packed: Packed): void {
    checkSize(this.name, packed, this.#maxSize)
  }

  /**
   * Like `sendPacked`, to the subscribers of a subject. `frame` is written if nothing waits; what is unaddressed always
   * does.
   */
  publish(packed: Packed, frame: Buffer, message: unknown, audience: Audience): boolean {
    if (!this.#room.isFree) return this.#turnAway(message, audience)
    const link = this.#direct()
    const whom = whomOf(audience, false)
    return this.#posted(link === null ? this.#wait(packed, message, audience, whom) : link.writeWhole(frame, message))
  }

  /** For a message that this process may subscribe to: it has not said so in its time. */
  miss({ bytes }: Packed, message: unknown, audience: Unaddressed): boolean {
    if (!this.#room.isFree) return this.#turnAway(message, audience)
    const size = bytes.length + HEAD_BYTES
    this.#losses.refuse({ entry: message, size, audience })
    return this.#posted(size)
  }

  /** What asks all cannot be parted: a queue's member there is asked with it. */
  request(
    message: unknown,
    options: RequestOptions,
    audience: Audience | null = null,
    whom = whomOf(audience, true),
  ): PendingRequest {
    const request = new PendingRequest(audience?.subject ?? this.name, options)
    if (!this.#room.isFree) request.refuse(this.#noRoom())
    if (request.isDone) return request
    try {
      this.#post(audience === null ? Kind.Request : Kind.Publish, message, request, audience, whom)
    } catch (error) {
      request.refuse(error)
    }
    return request
  }

  #turnAway(message: unknown, audience: Audience | null = null): false {
    this.#settings.onSendFail(this.#noRoom(isServed(audience)), message, this)
    return false
  }

  /** The sender waits for `onDrain` from now on. */
  #noRoom(mayHaveBeenHandled = false): PeerError {
    this.#room.full()
    const who = mayHaveBeenHandled ? '; others may have handled the message' : ''
    const why = `${this.#room.content} are not settled; wait for onWorkerBufferDrain${who}`
    return new PeerError('ERR_QUEUE_FULL', `${this.name}: ${why}`, mayHaveBeenHandled)
  }

  /** Throws UsageError. */
  #post(kind: CountedKind, given: unknown, entry: unknown, audience: Audience | null, whom: Whom): boolean {
    checkSize(this.name, given, this.#maxSize)
    const value = encoded(given)
    const link = this.#direct()
    return this.#posted(
      link === null ? this.#wait(value, entry, audience, whom) : this.#write(link, kind, value, entry, audience),
    )
  }

  /** The link, if it can be written to now with nothing ahead. */
  #direct(): OutgoingLink | null {
    const link = this.#link
    if (link === null || !link.isOpen || this.#ahead.size > 0 || this.#waiting.length > 0) return null
    return link.unsettled < this.#limits.maxMessages ? link : null // a getter may have taken the last place
  }

  #posted(size: number): boolean {
    this.#room.add(size)
    if (this.count - this.#losses.refused === 1) this.#host.look()
    return this.#room.check()
  }

  #write(link: OutgoingLink, kind: CountedKind, value: unknown, entry: unknown, audience: Audience | null): number {
    return link.write(kind, value, entry, expiryOf(entry), this.#maxSize, audience)
  }

  #wait(value: unknown, entry: unknown, audience: Audience | null, whom: Whom): number {
    const packed = pack(value)
    const size = packed.bytes.length + HEAD_BYTES
    if (!isUnaddressed(audience)) checkSize(this.name, packed, this.#maxSize)
    if (!this.isKnown || (this.#host.isEnding && !this.isUp)) {
      this.#losses.refuse({ entry, size, audience })
      return size
    }
    const address = this.address === this.#leftAddress ? '' : this.address // one that leaves has an outbox of its own
    this.#waiting.add({ value: packed, entry, size, since: recently(), audience, whom, address })
    if (this.#waiting.length === 1) this.#watch()
    this.#connect()
    return size
  }

  /** How long a message may wait while no process has a part in it. */
  get patienceMs(): number {
    return this.#settings.mailboxTimeoutMs
  }

  /**
   * Whether messages wait only for a process that runs: for their turn, for room, or for its answer, which an attempt
   * to connect does not await for long.
   */
  get #isInTouch(): boolean {
    return this.#ahead.size > 0 || this.#link !== null
  }

  /** Sets the timer that gives up messages which have waited too long. */
  #watch(): void {
    deadlines.cancel(this.#waitTimer)
    const first = this.#waiting.at(0)
    if (first === undefined || this.#isInTouch) return
    const ms = Math.max(first.since, this.#aloneSince) + this.patienceMs - recently()
    this.#waitTimer = deadlines.after(Math.max(1, ms), giveUpLate, this)
  }

  /** @internal */
  giveUpLate(): void {
    if (this.#isInTouch) return
    const since = recently() - this.patienceMs
    const late = this.#aloneSince > since ? [] : this.#waiting.takeOlderThan(since)
    this.#giveUp(late, `no process took it within ${this.patienceMs} ms`)
    this.#watch()
  }

  failRefused(refused: readonly Unsent[]): void {
    this.#giveUp(refused, this.#whyGone())
  }

  #whyGone(): string {
    if (this.#isClosed) return 'this process leaves'
    if (this.#host.isEnding) return 'the server is being stopped'
    if (this.isKnown) return `it ${SILENT}`
    return this.isBeside ? GONE : 'there is no such worker any more'
  }

  /** Fails messages that were never sent. */
  #giveUp(entries: readonly Unsent[], why: string): void {
    const served = entries.filter(isHadByOthers)
    if (served.length > 0) this.#losses.fail(served, missed(this.name, why))
    const rest = served.length > 0 ? entries.filter((one) => !isHadByOthers(one)) : entries
    this.#losses.fail(rest, lost(this.name, why, false))
  }

  giveBack(entry: unknown, size: number, error: PeerError): void {
    if (entry instanceof PendingRequest) entry.fail(error)
    else this.failed(error, entry)
    this.settled(size)
  }

  // News from the master

  use(row: PeerRow): void {
    this.#row = row
    this.isKnown = row.incarnation >= 0
    const link = this.#link ?? this.#precursor
    if (link !== null && link.route.address !== row.address) this.#leaveLink()
    this.look()
  }

  /** Continues or gives up, according to what is known now. */
  look(): void {
    if (this.#waiting.length > 0 && (!this.isKnown || (this.#host.isEnding && !this.isUp && this.#link === null))) {
      this.forgetUnaddressed()
      return this.#giveUp(this.#waiting.takeAll(), this.#whyGone())
    }
    if (this.#waiting.length > 0 || this.#isWanted) this.#connect()
    this.#watch()
    this.#goOn()
  }

  /** Another process has the slot: the old link finishes what it has. */
  #leaveLink(): void {
    const link = this.#link
    this.#link = null
    this.#leavePrecursor()
    if (link === null) return
    this.#older.add(link)
    this.#host.unlinked(this, link)
    if (!link.isOpen) return link.close('another process has its place')
    this.#follow(link)
    link.last()
  }

  /** Nothing is written here before all that was written there has begun, or is lost. */
  #follow(link: OutgoingLink): void {
    this.#ahead.add(link)
    link.whenBegun(() => {
      if (this.#ahead.delete(link) && this.#ahead.size === 0) this.#goAhead()
    })
  }

  #leavePrecursor(): void {
    const link = this.#precursor
    this.#precursor = null
    if (link === null) return
    if (!this.isLinked) this.#host.unlinked(this, link)
    link.release()
  }

  #closePrecursor(why: string): void {
    const link = this.#precursor
    this.#precursor = null
    link?.close(why)
  }

  // Processes beside the one that has the slot

  /** `link` to the same process is that of another outbox, which leaves it. */
  #inherit(link: OutgoingLink): void {
    if (!link.isOpen) return
    this.#hasMet = true
    this.#follow(link)
    if (this.isLinked) return
    this.#precursor = link
    link.keep(this)
  }

  unheard(link: OutgoingLink): void {
    if (link === this.#precursor) this.#leavePrecursor()
  }

  /** The process of `link` has left the slot and has `beside` now. */
  handOver(link: OutgoingLink, beside: Outbox): void {
    beside.#inherit(link)
    this.partWith(beside)
  }

  /**
   * What waits here for the process alone that `beside` is for goes there. What was for all by then is, too, as its
   * successor was not there to get it as well: if the process does not, it is lost.
   */
  partWith(beside: Outbox): void {
    this.#part()
    const isIts = ({ whom, address, audience }: Waiting) =>
      address === beside.address && (whom === Whom.Process || (whom === Whom.All && audience !== null))
    this.#waiting.bind(isIts)
    beside.#takeOver(this, isIts)
  }

  /**
   * The process that has the slot now has heard beside it what is for all: what waits here for that was for the one
   * before.
   */
  forgetHeard(): void {
    this.#part()
    this.forgetUnaddressed(({ whom, entry }) => whom === Whom.All || entry instanceof PendingRequest)
    this.#giveUp(this.#waiting.takeWhere(isForAllThere), GONE)
  }

  /** The process has the slot now, and `slot` with it. */
  giveWay(slot: Outbox): void {
    if (this.#link !== null) slot.#inherit(this.#link)
    slot.#takeOver(this, () => true)
    this.end(null)
  }

  /** What is for a process goes another way from now on than what is for its slot. */
  #part(): void {
    for (const { size } of this.#waiting.part()) this.#posted(size) // each has been counted once
  }

  #takeOver(from: Outbox, isMeant: (one: Waiting) => boolean): void {
    const taken = from.#waiting.takeWhere(isMeant)
    if (taken.length === 0) return
    for (const one of taken) this.#waiting.add(one)
    for (const { size } of taken) {
      this.#posted(size)
      from.settled(size)
    }
    this.look()
  }

  /**
   * The process has drained and is gone, and had no link to this one, on which it would have said that it hears nothing
   * any more. What waits for it alone, since nobody else got it, is not forgotten.
   */
  forgetUnmet(): void {
    if (!this.#hasMet) this.forgetUnheard()
  }

  /** Nobody is there any more to hear what is for all: it is as settled as with one who has unsubscribed. */
  forgetUnheard(): void {
    this.#part()
    for (const { entry, size, audience } of this.#waiting.takeWhere(isForAllThere))
      if (entry instanceof PendingRequest) this.giveBack(entry, size, unsubscribedError(audience?.subject ?? '', false))
      else this.settled(size)
  }

  /**
   * What the process subscribes to is known: what has waited for that is for those whom `audiencesOf` returns, or for
   * nobody.
   */
  learn(audiencesOf: (audience: Unaddressed) => readonly Audience[]): void {
    if (!this.#waiting.some(isUndecided)) return
    const { unheard, added } = this.#waiting.address(audiencesOf)
    for (const { size } of added) this.#posted(size) // each has been counted once
    for (const one of unheard) this.#isForNobody(one)
  }

  /** Whether a process subscribes will not be known any more. */
  forgetUnaddressed(isMeant: (one: Waiting) => boolean = isUndecided): void {
    for (const one of this.#waiting.takeWhere((one) => isUndecided(one) && isMeant(one))) this.#isForNobody(one)
  }

  #isForNobody({ entry, size }: Waiting): void {
    if (entry instanceof PendingRequest) entry.fail(UNINTERESTED)
    this.settled(size)
  }

  /** The process is gone, or hears nothing any more: what waits for it fails, unless it may go to `slot`. */
  end(slot: Outbox | null): void {
    this.forgetUnaddressed()
    this.#part()
    if (slot !== null) slot.#takeOver(this, ({ whom }) => whom === Whom.Slot)
    this.isKnown = this.#isWanted = false
    this.#row = undefined
    this.#leaveLink()
    this.look()
  }

  #connect(): void {
    if (this.#link !== null || this.#retryTimer !== 0 || this.#isClosed || !this.isUp) return
    const { credentials, transport } = this.#host
    this.#link = new OutgoingLink(this, credentials, this.#row as PeerRow, transport)
  }

  /** Connects even without a message. */
  reach(): void {
    this.#isWanted = true
    this.#connect()
  }

  /** Whether the process in the slot is connected and not about to leave. */
  get isLinked(): boolean {
    return this.#link?.isOpen ?? false
  }

  // News from a link

  opened(link: OutgoingLink): void {
    if (link !== this.#link) return
    this.#hasMet = true
    this.#agree(link.terms as Terms)
    this.#host.linked(this, (link.terms as Terms).interest)
    this.#leavePrecursor()
    this.#flush()
  }

  #agree({ maxMessages, maxBytes, maxFrameBytes }: Terms): void {
    const { maxMailboxMessages, maxMailboxBytes, maxPackageSize } = this.#settings
    this.#limits.maxMessages = Math.min(maxMailboxMessages, maxMessages)
    this.#limits.maxBytes = Math.min(maxMailboxBytes, maxBytes)
    this.#maxSize = Math.min(maxPackageSize, maxFrameBytes)
  }

  /** Writes waiting messages as far as the other end has room. Callbacks may send meanwhile; that goes after them. */
  #flush(): void {
    const waiting = this.#waiting
    let written = 0
    this.#isFlushing = true
    for (; written < waiting.length; written++) {
      const link = this.#link
      if (link === null || !link.isOpen || this.#ahead.size > 0 || link.unsettled >= this.#limits.maxMessages) break
      this.#writeWaiting(link, waiting.at(written) as Waiting)
    }
    this.#isFlushing = false
    waiting.take(written)
    this.#watch()
    this.#room.check() // the other end may allow less, and what was written may be longer than it was
  }

  /** Not after every settled message: waiting ones are written in batches. */
  #goOn(): void {
    if (this.#waiting.length === 0 || this.#isFlushing || this.#link === null) return
    if (this.#link.unsettled <= this.#limits.maxMessages / 2) this.#flush()
  }

  #writeWaiting(link: OutgoingLink, { value, entry, size, audience, whom, address }: Waiting): void {
    const isRequest = entry instanceof PendingRequest
    if (isRequest && entry.isDone) return this.settled(size)
    if (whom === Whom.Process && address !== link.route.address) return this.#giveUp([{ entry, size, audience }], GONE)
    const plain = isRequest ? Kind.Request : Kind.Message
    try {
      checkSize(this.name, value, this.#maxSize)
      const kind = audience === null ? plain : Kind.Publish
      this.#room.grow(link.write(kind, value, entry, expiryOf(entry), this.#maxSize, audience) - size)
    } catch (error) {
      if (isRequest)
        entry.fail(error) // it was accepted for a process that allowed more
      else this.failed(refusedAs(error), entry)
      this.settled(size)
    }
  }

  settled(size: number): void {
    this.#room.give(size)
    this.#goOn()
    this.#room.look()
    if (!this.isBusy) this.#host.look()
  }

  leaving(link: OutgoingLink): void {
    if (!this.isBeside) this.#left(link, false)
  }

  silent(link: OutgoingLink): void {
    this.#left(link, true)
  }

  #left(link: OutgoingLink, isSilent: boolean): void {
    if (this.#host.isEnding) return // none follows it: as long as it runs, it takes messages
    this.#host.leaves(link.route, isSilent)
    if (link === this.#link || link === this.#precursor) {
      this.#leftAddress = link.route.address
      this.#leaveLink()
    }
    this.look()
  }

  misread(entry: unknown, size: number, why: string): void {
    this.giveBack(entry, size, lost(this.name, why, true))
  }

  /** The previous process has begun all it was sent, or is gone. */
  #goAhead(): void {
    this.#aloneSince = recently()
    this.#flush()
  }

  interested(link: OutgoingLink, change: unknown): void {
    if (link === this.#link || link === this.#precursor) this.#host.interested(this, change)
  }

  failed(error: SendError, message: unknown): void {
    this.#settings.onSendFail(error, message, this)
  }

  lost(link: OutgoingLink, why: string, unsettled: readonly Unsettled[]): void {
    this.#older.delete(link)
    if (link === this.#link) {
      this.#link = null
      if (link.terms !== null && this.#host.isEnding) this.#leftAddress = link.route.address // the master may be gone, too
      this.#retry()
      if (link.terms === null) this.#host.unreachable(this)
      else {
        this.#aloneSince = recently()
        this.#host.unlinked(this, link)
      }
    }
    this.#losses.fail(unsettled, lost(this.name, why || 'it is gone', true))
    this.look()
    this.#host.look()
  }

  #retry(): void {
    if (this.#retryTimer !== 0) return
    this.#retryTimer = deadlines.after(RETRY_MS, () => {
      this.#retryTimer = 0
      this.look()
    })
  }

  /** Gives up all that is unsettled: it has had its time. `tellLost` tells the senders; they may send again. */
  abandon(why: string): void {
    this.#losses.hold() // until whoever has called this calls `tellLost`
    this.#giveUp([...this.#losses.takeRefused(), ...this.#waiting.takeAll()], why)
    const links = [...this.#older, this.#link]
    this.#link = null // another one is made when it is needed
    for (const link of links) link?.close(why)
  }

  /** Ends everything. `tellLost` tells the senders of what is unsettled; who sends from now on is told, too. */
  close(why: string): void {
    this.isKnown = this.#isWanted = false
    this.#isClosed = true
    this.#closePrecursor(why)
    this.abandon(why)
    deadlines.cancel(this.#waitTimer)
    deadlines.cancel(this.#retryTimer)
  }

  /** Fails so many of the lost messages. Returns whether there are more. */
  tellLost(most: number): boolean {
    return this.#losses.tell(most)
  }
}

function isForAllThere({ whom }: Waiting): boolean {
  return whom === Whom.All
}

/** Whether it must not be said of it that nobody has handled it. A request has the answers of others to tell that. */
function isHadByOthers({ entry, audience }: Unsent): boolean {
  return isServed(audience) && !(entry instanceof PendingRequest)
}

function giveUpLate(outbox: Outbox): void {
  outbox.giveUpLate()
}

function expiryOf(entry: unknown): number {
  return entry instanceof PendingRequest ? entry.expiresAt : Number.POSITIVE_INFINITY
}
