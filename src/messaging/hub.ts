// Publishing: which process subscribes to what. Each process announces its subscriptions on the links others have made
// to it, so a publish goes to subscribing processes only. A process that has published once keeps a link to every other
// process. Who has announced its subscriptions gets what is published at once. For who has not, it waits in the outbox
// of that one, until it is known whether it is for it. While a slot has no process, what the last one announced holds.
// Nothing waits for ever: what nobody takes in its time is reported as lost.

import { anyOf } from '../any-of.ts'
import { AbortError, PeerError, type SendError } from '../errors.ts'
import { now } from '../loop/clock.ts'
import { deadlines } from '../loop/deadlines.ts'
import { isThenable } from '../thenable.ts'
import { ONE_WAY } from './call.ts'
import { failureOfAll, lost, refusedAs } from './failures.ts'
import type { Mailbox } from './mailbox.ts'
import { type Outbox, SILENT } from './outbox.ts'
import { OwnPublish } from './own-publish.ts'
import { OwnRequest } from './own-request.ts'
import { PendingRequest, type RequestOptions, rejectLater } from './pending-request.ts'
import { publishFrame, publishHead } from './publish-frame.ts'
import type { WorkerRef } from './references.ts'
import { limitsOf, type MailboxLimits, Room } from './room.ts'
import { separation } from './separation.ts'
import { SubjectTree } from './subjects.ts'
import { type Audience, firstOf, type Interest, type InterestChange, type Subscriptions } from './subscriptions.ts'
import { UNINTERESTED, type Unaddressed } from './unaddressed.ts'
import { Undelivered } from './undelivered.ts'
import { checkSize, cloneOf, HEAD_BYTES, type Packed, pack } from './wire.ts'

export interface HubHost extends MailboxLimits {
  /** What is published here, or waits, has become too much. */
  onOwnFull(): void
  /** Half of that is free again. */
  onOwnDrain(): void
  /** Those for the slots and the other processes that may want to hear. */
  others(): Outbox[]
  /** Whether the outbox is for a slot that has no process, and will have one that is not this one. */
  isVacant(outbox: Outbox): boolean
  /** This process, as its own handlers see it. */
  readonly self: WorkerRef
  /** Limit of one message, in bytes. */
  readonly maxPackageSize: number
  /** Its load counts what is handled here, whoever has sent it. */
  readonly mailbox: Mailbox
  /** Counts unsettled handler promises and waiting messages: this process does not leave before they are done. */
  working(change: 1 | -1): void
  refusedToSend(error: SendError, message: unknown): void
}

/** A process's subscription to a pattern. A null outbox is this process. */
interface Listener {
  readonly outbox: Outbox | null
  readonly queue: string
}

/** Destination of a message in one process. Targets with equal recipients share an audience object. */
interface Target {
  readonly outbox: Outbox | null
  readonly audience: AudienceWithHead
}

/** With the bytes that begin a Publish frame to this audience. */
interface AudienceWithHead extends Audience {
  readonly head: Buffer
}

/** The master sends its news before a process leaves: they are there, unless the master is not. */
const NEWS_MS = 1000
/** Per frame, since a frame's head is bounded. */
const MOST_QUEUES = 100
/** Bounded, since programs may generate subjects without end. */
const MOST_PLANS = 4096

export class Hub {
  readonly #host: HubHost
  readonly #own: Subscriptions
  readonly #tree = new SubjectTree<Listener>()
  /** The subscriptions that each process has announced. */
  readonly #said = new Map<Outbox | null, Map<Interest, Listener>>()
  #hasJoined = false
  /** Processes that have not announced their subscriptions yet, and since when each is awaited. */
  readonly #awaited = new Map<Outbox, number>()
  /** Those that have not in their time. What is published meanwhile is lost for them, and reported. */
  readonly #silent = new Set<Outbox>()
  /** What the last process of each slot that has told it had announced. */
  readonly #last = new Map<Outbox, readonly Interest[]>()
  /** Slots without a process, of which that holds until the next one comes. */
  readonly #vacant = new Set<Outbox>()
  /** Messages published to this process itself in this turn of the loop. */
  readonly #here: OwnPublish[] = []
  /** What else has been published or asked here and is not settled: it waits for its turn, or handlers have it. */
  readonly #kept = new Set<OwnPublish | OwnRequest>()
  /** Of all that, what is given up and not told of yet. */
  readonly #lost: (OwnPublish | OwnRequest)[] = []
  /** Number of messages to this process itself that have not begun, and are not in its mailbox. */
  #unbegun = 0
  /** For those, and for what is being handled. */
  readonly #room: Room
  /** Targets of subjects without queues, valid until a subscription changes. */
  readonly #plans = new Map<string, Target[]>()

  constructor(host: HubHost, own: Subscriptions) {
    this.#host = host
    this.#room = new Room(limitsOf(host), { onFull: () => host.onOwnFull(), onDrain: () => host.onOwnDrain() })
    this.#own = own
    this.#said.set(null, new Map())
    this.#change(null, { adds: own.interests, drops: [] })
  }

  /** Returns false if `send` to any of the processes would. Throws UsageError for what cannot be cloned. */
  publish(subject: string, message: unknown): boolean {
    const packed = pack(message)
    if (!this.#hasJoined) this.#join()
    return this.#publish(subject, packed, message)
  }

  #publish(subject: string, packed: Packed, message: unknown): boolean {
    let mayGoOn = true
    let framed: AudienceWithHead | null = null
    let frame: Buffer = NO_BYTES
    const targets = this.#targets(subject)
    this.#check(targets, packed)
    for (const { outbox, audience } of targets) {
      if (outbox !== null && framed !== audience) {
        frame = publishFrame(audience.head, packed)
        framed = audience
      }
      const isRoom = outbox?.publish(packed, frame, message, audience) ?? this.#publishHere(audience, packed, message)
      mayGoOn &&= isRoom
    }
    if (this.#awaited.size + this.#silent.size === 0) return mayGoOn
    return this.#keep(subject, targets, packed, message) && mayGoOn
  }

  /** For the processes of which it is not known whether they subscribe to it. */
  #keep(subject: string, targets: readonly Target[], packed: Packed, message: unknown): boolean {
    const audience = unaddressed(subject, targets)
    let mayGoOn = true
    for (const outbox of this.#awaited.keys()) mayGoOn = outbox.publish(packed, NO_BYTES, message, audience) && mayGoOn
    for (const outbox of this.#silent) mayGoOn = outbox.miss(packed, message, audience) && mayGoOn
    return mayGoOn
  }

  /** Before the first of them receives it. Throws UsageError if it is too large for one of them. */
  #check(targets: readonly Target[], packed: Packed): void {
    for (const { outbox } of targets)
      if (outbox === null) checkSize('this process', packed, this.#host.maxPackageSize)
      else outbox.check(packed)
  }

  #refuse(message: unknown): false {
    this.#host.refusedToSend(this.#fullError(), message)
    this.#room.full()
    return false
  }

  #fullError(): PeerError {
    const what = `${this.#room.content} published here are not settled`
    return new PeerError('ERR_QUEUE_FULL', `${what}; wait for onWorkerBufferDrain`, false)
  }

  async request(subject: string, message: unknown, options: RequestOptions): Promise<unknown> {
    const asked = await this.#ask(subject, message, options)
    const promises = asked.map(({ promise }) => promise)
    const failures: unknown[] = []
    const { answer, from } = await firstOf(promises, failures).catch(() => NO_ANSWER)
    if (answer === undefined) throw this.#unanswered(subject, asked.length, failures)
    for (const [at, request] of asked.entries()) if (at !== from) request.abandon(NOT_FIRST)
    return answer
  }

  /** A request for each process that subscribes, or has not said yet whether it does. */
  async #ask(subject: string, message: unknown, options: RequestOptions): Promise<PendingRequest[]> {
    try {
      const packed = pack(message)
      if (Number(options.timeoutMs) < 0) return [new PendingRequest(subject, options)]
      options.signal?.throwIfAborted()
      if (!this.#hasJoined) this.#join()
      const targets = this.#targets(subject)
      if (targets.length + this.#awaited.size === 0) throw this.#noResponders(subject)
      this.#check(targets, packed)
      const asked = targets.map(({ outbox, audience }) =>
        outbox === null ? this.#askHere(audience, packed, options) : outbox.request(packed, options, audience),
      )
      if (this.#awaited.size === 0) return asked
      const audience = unaddressed(subject, targets)
      return [...asked, ...[...this.#awaited.keys()].map((outbox) => outbox.request(packed, options, audience))]
    } catch (error) {
      return rejectLater(error)
    }
  }

  /** @param all of the `asked` processes: some may turn out not to subscribe */
  #unanswered(subject: string, asked: number, all: readonly unknown[]): unknown {
    const failures = all.filter((error) => error !== UNINTERESTED)
    const subscribers = asked - (all.length - failures.length)
    if (subscribers === 0) return this.#noResponders(subject)
    if (failures.length > 0) return failureOfAll(failures, subscribers)
    return new PeerError('ERR_NO_RESPONDERS', `nobody answered to ${subject}`, true)
  }

  #noResponders(subject: string): PeerError {
    for (const { name } of this.#silent) return lost(name, `nobody else listens to ${subject}, and it ${SILENT}`, false)
    return new PeerError('ERR_NO_RESPONDERS', `nobody listens to ${subject}`, false)
  }

  /** Delivers in a later turn, as from another process, and with a copy of the message. */
  #publishHere(audience: Audience, packed: Packed, message: unknown): boolean {
    if (!this.#room.isFree) return this.#refuse(message)
    this.#host.working(1)
    this.#unbegun++
    if (this.#here.push(new OwnPublish(this, audience, packed, message)) === 1) setImmediate(deliverHere, this)
    return this.#room.take(sizeOf(packed))
  }

  /** @internal */
  deliverHere(): void {
    const { self, mailbox } = this.#host
    const deliver = (one: OwnPublish, message: unknown) => this.#deliver(one, message, self)
    for (const one of this.#here.splice(0)) {
      this.#unbegun--
      try {
        const message = cloneOf(one.packed)
        if (mailbox.isSerial) {
          this.#queue(one, message)
          continue
        }
        const result = separation.handle(deliver, one, message, undefined)
        if (isThenable(result)) void this.#handling(result, one)
        else one.handled()
      } catch (error) {
        one.fail(0, error)
      }
    }
  }

  #deliver(one: OwnPublish, message: unknown, self: WorkerRef): unknown {
    if (one.isLost) return undefined
    one.hasBegun = true
    return this.#own.deliver(one.audience, message, self, ONE_WAY)
  }

  /** In its turn, as if another process had published it. */
  #queue(one: OwnPublish, message: unknown): void {
    this.#kept.add(one)
    const handler = (self: WorkerRef, message: unknown) => this.#deliver(one, message, self)
    this.#host.mailbox.queue({ answers: one, number: 0, message, call: ONE_WAY, handler })
  }

  async #handling(result: PromiseLike<unknown>, one: OwnPublish): Promise<void> {
    const { mailbox } = this.#host
    mailbox.load++
    this.#kept.add(one)
    try {
      await result
      mailbox.load--
      one.handled()
    } catch (error) {
      mailbox.load--
      one.fail(0, error)
    }
  }

  /** @internal This process, as its own handlers see it. */
  get self(): WorkerRef {
    return this.#host.self
  }

  /** @internal @param error no handler's: those are logged */
  settled(one: OwnPublish, error: unknown): void {
    this.#kept.delete(one)
    if (error !== null) this.#host.refusedToSend(toldAs(error), one.message)
    this.#release(one.packed)
  }

  /** @internal */
  lost({ message }: OwnPublish, error: PeerError): void {
    this.#host.refusedToSend(error, message)
  }

  /** Gives up what is unsettled here now. `tellLost` tells the senders; they may send again. */
  abandon(): void {
    for (const one of this.#here) this.#lost.push(one)
    for (const one of this.#kept) this.#lost.push(one)
  }

  /** Fails so many of what is given up. Returns whether there are more. */
  tellLost(most: number, why: string): boolean {
    const [unbegun, begun] = [lost('this process', why, false), lost('this process', why, true)] // for all of them
    for (const one of this.#lost.splice(0, most)) {
      this.#kept.delete(one)
      one.lose(one.hasBegun ? begun : unbegun)
    }
    return this.#lost.length > 0
  }

  #release(packed: Packed): void {
    this.#room.give(sizeOf(packed))
    this.#host.working(-1)
    this.#room.look()
  }

  #askHere(audience: Audience, packed: Packed, options: RequestOptions): PendingRequest {
    const request = new OwnRequest(audience.subject, options)
    if (!this.#room.isFree) request.pending.refuse(this.#fullError())
    if (request.pending.isDone) return request.pending
    const { self, mailbox } = this.#host
    this.#host.working(1)
    this.#unbegun++
    this.#room.take(sizeOf(packed))
    this.#kept.add(request)
    const run = async () => {
      this.#unbegun--
      mailbox.load++
      await request.run(packed, (message, call) => this.#own.deliver(audience, message, self, call))
      mailbox.load--
      this.#kept.delete(request)
      this.#release(packed)
    }
    separation.alone(() => setImmediate(run)) // not in the context of who asks
    return request.pending
  }

  // Which processes are there

  /** From the first publish on there is a link to each. */
  #join(): void {
    this.#hasJoined = true
    for (const outbox of this.#host.others()) this.moved(outbox)
  }

  #await(outbox: Outbox): void {
    if (outbox.isLinked) return
    if (!this.#said.has(outbox)) this.#awaited.set(outbox, now())
    outbox.reach()
    if (outbox.isAboutToChange) deadlines.after(NEWS_MS, newsIsLate, this, outbox)
  }

  /** Another process is at the other end now, or none, or it leaves and the master has not said who follows. */
  moved(outbox: Outbox): void {
    if (!this.#hasJoined) return
    this.#silent.delete(outbox)
    if (this.#vacant.delete(outbox)) this.#forget(outbox)
    if (outbox.isUp || outbox.isAboutToChange) this.#await(outbox)
    else if (this.#host.isVacant(outbox)) this.#vacated(outbox)
    else this.ended(outbox)
  }

  #vacated(outbox: Outbox): void {
    const interests = this.#last.get(outbox)
    if (interests === undefined) return this.#awaitFirst(outbox)
    this.linked(outbox, interests)
    this.#vacant.add(outbox)
    outbox.reach()
  }

  /** A slot that has never had a process, as far as is known, is awaited as one whose process has just started. */
  #awaitFirst(outbox: Outbox): void {
    this.#await(outbox)
    deadlines.after(outbox.patienceMs, nobodyHasCome, this, outbox)
  }

  /** @internal The master, which may be suspended, has not said who follows: until it does, nobody has the slot. */
  newsIsLate(outbox: Outbox): void {
    const since = this.#awaited.get(outbox)
    if (since !== undefined && outbox.isAboutToChange && now() - since >= NEWS_MS) this.#vacated(outbox)
  }

  /** Nothing is published there any more: it is this very process that is there, or none. */
  ended(outbox: Outbox): void {
    this.#leave(outbox)
    this.#last.delete(outbox)
    outbox.forgetUnaddressed()
  }

  /** The process that `from` was for has `to` now. What it has announced holds, if `isMeant` says so. */
  passOn(from: Outbox, to: Outbox, isMeant: (interest: Interest) => boolean): void {
    const said = this.#said.get(from)
    const interests = said && [...said.keys()].filter(isMeant)
    this.#remember(from)
    this.#leave(from)
    if (interests !== undefined) this.linked(to, interests)
    this.moved(to)
  }

  /** A process has announced its subscriptions. */
  linked(outbox: Outbox, interests: readonly Interest[]): void {
    this.#leave(outbox)
    this.#said.set(outbox, new Map())
    this.#change(outbox, { adds: interests, drops: [] })
    outbox.learn((audience) => this.#addressed(outbox, audience))
  }

  /** A process is gone or leaving: another may replace it. */
  unlinked(outbox: Outbox): void {
    this.#remember(outbox)
    this.#leave(outbox)
    this.moved(outbox)
  }

  #remember(outbox: Outbox): void {
    const said = this.#said.get(outbox)
    if (said !== undefined && !outbox.isBeside) this.#last.set(outbox, [...said.keys()])
  }

  /** Nothing is known of it any more. */
  #leave(outbox: Outbox): void {
    this.#forget(outbox)
    this.#silent.delete(outbox)
    this.#awaited.delete(outbox)
    this.#vacant.delete(outbox)
  }

  /**
   * An attempt to reach a process has failed, and its outbox makes another; or its slot has none. It is waited for as
   * long as messages to it would wait: it may be busy. If it answers later, it counts again. If it tells its
   * subscriptions on the link of an outbox before, they hold: what is published waits in its outbox.
   */
  unreachable(outbox: Outbox): void {
    const since = this.#awaited.get(outbox)
    if (since === undefined || now() - since < outbox.patienceMs) return
    this.#awaited.delete(outbox)
    this.#silent.add(outbox)
  }

  /** Number of messages and requests of this process to itself that are not settled. */
  get unsettled(): number {
    return this.#here.length + this.#kept.size
  }

  /** Those in a process that a message is for which was published before it had said what it subscribes to. */
  #addressed(outbox: Outbox, { subject, isForAll, isForQueues, served }: Unaddressed): readonly Audience[] {
    const names = new Set<string>()
    for (const one of this.#tree.match(subject)) if (one.outbox === outbox) names.add(one.queue)
    const isHeard = names.delete('') && isForAll
    const queues = isForQueues ? [...names].filter((name) => !served.has(name)) : []
    for (const name of queues) served.add(name)
    return isHeard || queues.length > 0 ? audiences(subject, isHeard, queues) : []
  }

  changed(outbox: Outbox, change: unknown, isMeant: (interest: Interest) => boolean): void {
    const { adds, drops } = Object(change) as Partial<InterestChange>
    if (areStrings(adds) && areStrings(drops)) this.#change(outbox, { adds: adds.filter(isMeant), drops })
  }

  ownChanged(change: InterestChange): void {
    this.#change(null, change)
  }

  #change(outbox: Outbox | null, { adds, drops }: InterestChange): void {
    this.#plans.clear()
    const said = this.#said.get(outbox)
    if (said === undefined) return
    for (const interest of adds) {
      if (said.has(interest)) continue
      const [queue = '', pattern = ''] = interest.split(' ')
      const listener = { outbox, queue }
      said.set(interest, listener)
      this.#tree.add(pattern, listener)
    }
    for (const interest of drops) this.#drop(said, interest)
  }

  #forget(outbox: Outbox): void {
    const said = this.#said.get(outbox)
    if (said === undefined) return
    for (const interest of [...said.keys()]) this.#drop(said, interest)
    this.#said.delete(outbox)
  }

  #drop(said: Map<Interest, Listener>, interest: Interest): void {
    this.#plans.clear()
    const listener = said.get(interest)
    if (listener === undefined) return
    said.delete(interest)
    this.#tree.delete(interest.split(' ')[1] ?? '', listener)
  }

  /** One target for each process with a recipient. */
  #targets(subject: string): Target[] {
    const plan = this.#plans.get(subject)
    if (plan !== undefined) return plan
    const targets = this.#plan(subject)
    const isFixed = targets.every(({ audience }) => audience.queues.length === 0)
    if (this.#plans.size >= MOST_PLANS) this.#plans.clear()
    if (isFixed) this.#plans.set(subject, targets)
    return targets
  }

  #plan(subject: string): Target[] {
    const forAll = new Set<Outbox | null>()
    const queues = new Map<string, Set<Outbox | null>>()
    for (const { outbox, queue } of this.#tree.match(subject)) {
      if (queue === '') forAll.add(outbox)
      else queues.set(queue, (queues.get(queue) ?? new Set()).add(outbox))
    }
    const chosen = new Map<Outbox | null, string[]>()
    for (const outbox of forAll) chosen.set(outbox, [])
    for (const [queue, members] of queues) {
      const member = this.#choose(this.#present([...members]))
      chosen.set(member, [...(chosen.get(member) ?? []), queue])
    }
    const plain = withHead({ subject, isForAll: true, queues: [] })
    return [...chosen].flatMap(([outbox, names]) => {
      if (names.length === 0) return { outbox, audience: plain }
      const each = audiences(subject, forAll.has(outbox), names)
      return each.map((audience) => ({ outbox, audience: withHead(audience) }))
    })
  }

  /** Those that have a process, if any has. */
  #present(members: readonly (Outbox | null)[]): readonly (Outbox | null)[] {
    if (this.#vacant.size === 0) return members
    const present = members.filter((one) => one === null || !this.#vacant.has(one))
    return present.length > 0 ? present : members
  }

  /** The least loaded; among equals, any. */
  #choose(members: readonly (Outbox | null)[]): Outbox | null {
    const loads = members.map((one) => this.#loadOf(one))
    const least = Math.min(...loads)
    return anyOf(members.filter((_, at) => loads[at] === least)) as Outbox | null
  }

  /** Measured alike: what this process has sent there, and what others have. */
  #loadOf(outbox: Outbox | null): number {
    return outbox === null ? this.#unbegun + this.#host.mailbox.load : outbox.load
  }
}

function deliverHere(hub: Hub): void {
  separation.batch(deliverAll, hub)
}

function newsIsLate(hub: Hub, outbox: Outbox): void {
  hub.newsIsLate(outbox)
}

function nobodyHasCome(hub: Hub, outbox: Outbox): void {
  hub.unreachable(outbox)
}

function deliverAll(hub: Hub): void {
  hub.deliverHere()
}

/** One for each frame. */
function audiences(subject: string, isForAll: boolean, queues: readonly string[]): Audience[] {
  const frames = Math.max(1, Math.ceil(queues.length / MOST_QUEUES))
  return Array.from({ length: frames }, (_, at) => ({
    subject,
    isForAll: isForAll && at === 0,
    queues: queues.slice(at * MOST_QUEUES, (at + 1) * MOST_QUEUES),
  }))
}

/** As its sender is told that an own publish was not handled. */
function toldAs(error: unknown): PeerError {
  if (error instanceof Undelivered) return error.reason
  return error instanceof PeerError ? error : refusedAs(error)
}

function unaddressed(subject: string, targets: readonly Target[]): Unaddressed {
  const served = new Set(targets.flatMap(({ audience }) => audience.queues))
  return { subject, isForAll: true, queues: [], served, isForQueues: true }
}

function withHead(audience: Audience): AudienceWithHead {
  return { ...audience, head: publishHead(audience) }
}

function sizeOf(packed: Packed): number {
  return packed.bytes.length + HEAD_BYTES
}

const NO_BYTES = Buffer.alloc(0)
const NO_ANSWER = { answer: undefined, from: -1 }

function areStrings(value: unknown): value is string[] {
  return Array.isArray(value) && value.every((one) => typeof one === 'string')
}

/** Why a request ended that another process answered first; never shown. */
const NOT_FIRST = new AbortError('ERR_REQUEST_CANCELLED', 'somebody else has answered')
