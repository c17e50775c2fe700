// Publishing: which process subscribes to what. Each process announces its subscriptions on the links others have made
// to it, so a publish goes to subscribing processes only. A process that has published once keeps a link to every other
// process. What is published before one of them has announced its subscriptions waits for that, but not for ever: then
// it goes to the others, and for that one it is reported as lost.

import { anyOf } from '../any-of.ts'
import { AbortError, PeerError, type SendError } from '../errors.ts'
import { now } from '../loop/clock.ts'
import { deadlines } from '../loop/deadlines.ts'
import { isThenable } from '../thenable.ts'
import { ONE_WAY } from './call.ts'
import { failureOfAll, lost, refusedAs } from './failures.ts'
import type { Mailbox } from './mailbox.ts'
import { type Outbox, SILENT } from './outbox.ts'
import { OwnRequest } from './own-request.ts'
import { DEFAULT_TIMEOUT_MS, PendingRequest, type RequestOptions, rejectLater } from './pending-request.ts'
import { publishFrame, publishHead } from './publish-frame.ts'
import { QueuedPublish } from './queued-publish.ts'
import type { WorkerRef } from './references.ts'
import { limitsOf, type MailboxLimits, Room } from './room.ts'
import { separation } from './separation.ts'
import { SubjectTree } from './subjects.ts'
import { type Audience, firstOf, type Interest, type InterestChange, type Subscriptions } from './subscriptions.ts'
import { Undelivered } from './undelivered.ts'
import { checkSize, cloneOf, HEAD_BYTES, type Packed, pack } from './wire.ts'

export interface HubHost extends MailboxLimits {
  /** What is published here, or waits, has become too much. */
  onOwnFull(): void
  /** Half of that is free again. */
  onOwnDrain(): void
  /** An outbox for every other running process that wants to hear. */
  others(): Outbox[]
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

/** A message that this process published and receives itself. */
interface OwnPublish {
  readonly audience: Audience
  readonly packed: Packed
  readonly message: unknown
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
  /** Continuations of publishes and requests made before that. */
  readonly #waiting = new Set<() => void>()
  /** Messages published to this process itself in this turn of the loop. */
  readonly #here: OwnPublish[] = []
  /** What has been published here and waits for its turn, in a serial worker. */
  readonly #queued = new Set<QueuedPublish>()
  /** Number of messages to this process itself that have not begun, and are not in its mailbox. */
  #unbegun = 0
  /** For those and what is being handled, and for what waits. */
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
    if (this.#isReady()) return this.#publish(subject, packed, message)
    if (!this.#room.isFree) return this.#refuse(message)
    this.#host.working(1)
    this.#waiting.add(() => this.#publishLate(subject, packed, message))
    return this.#room.take(sizeOf(packed))
  }

  #publishLate(subject: string, packed: Packed, message: unknown): void {
    this.#room.give(sizeOf(packed))
    try {
      this.#publish(subject, packed, message)
    } catch (error) {
      this.#host.refusedToSend(refusedAs(error), message)
    } finally {
      this.#host.working(-1) // not earlier: from here on the messages count in their outboxes
    }
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
    for (const outbox of this.#silent) mayGoOn = outbox.miss(packed, message) && mayGoOn
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
    const { answer, from } = await firstOf(promises, failures).catch(() => {
      throw failureOfAll(failures, asked.length)
    })
    for (const [at, request] of asked.entries()) if (at !== from) request.abandon(NOT_FIRST)
    if (answer === undefined) throw new PeerError('ERR_NO_RESPONDERS', `nobody answered to ${subject}`, true)
    return answer
  }

  /** A request for each process with a subscriber. */
  async #ask(subject: string, message: unknown, options: RequestOptions): Promise<PendingRequest[]> {
    const { timeoutMs = DEFAULT_TIMEOUT_MS, signal } = options
    const began = now()
    try {
      const packed = pack(message)
      if (!this.#isReady() || timeoutMs < 0) await this.#untilReady(subject, packed, options)
      signal?.throwIfAborted()
      const targets = this.#targets(subject)
      if (targets.length === 0) throw this.#noResponders(subject)
      this.#check(targets, packed)
      const left = timeoutMs > 0 ? Math.max(1, timeoutMs - (now() - began)) : timeoutMs
      return targets.map(({ outbox, audience }) =>
        outbox === null
          ? this.#askHere(audience, packed, { timeoutMs: left, signal })
          : outbox.request(packed, { timeoutMs: left, signal }, audience),
      )
    } catch (error) {
      return rejectLater(error)
    }
  }

  #noResponders(subject: string): PeerError {
    for (const { name } of this.#silent) return lost(name, `nobody else listens to ${subject}, and it ${SILENT}`, false)
    return new PeerError('ERR_NO_RESPONDERS', `nobody listens to ${subject}`, false)
  }

  /** A request without a carrier: it expires by itself if no process can be asked in its time. */
  async #untilReady(subject: string, packed: Packed, options: RequestOptions): Promise<void> {
    if (!this.#room.isFree) throw this.#fullError()
    const waits = new PendingRequest(subject, options)
    const go = () => waits.answer(undefined)
    this.#host.working(1)
    this.#waiting.add(go)
    this.#room.take(sizeOf(packed))
    try {
      await waits.promise
    } finally {
      this.#waiting.delete(go)
      this.#room.give(sizeOf(packed))
      this.#host.working(-1)
      this.#room.look()
    }
  }

  /** Delivers in a later turn, as from another process, and with a copy of the message. */
  #publishHere(audience: Audience, packed: Packed, message: unknown): boolean {
    if (!this.#room.isFree) return this.#refuse(message)
    this.#host.working(1)
    this.#unbegun++
    if (this.#here.push({ audience, packed, message }) === 1) setImmediate(deliverHere, this)
    return this.#room.take(sizeOf(packed))
  }

  /** @internal */
  deliverHere(): void {
    const { self, mailbox } = this.#host
    const deliver = (one: OwnPublish, message: unknown) => this.#own.deliver(one.audience, message, self, ONE_WAY)
    for (const one of this.#here.splice(0)) {
      this.#unbegun--
      try {
        if (mailbox.isSerial) {
          this.#queue(one, cloneOf(one.packed))
          continue
        }
        const result = separation.handle(deliver, one, cloneOf(one.packed), undefined)
        if (isThenable(result)) void this.#handling(result, one)
        else this.#settled(one.packed)
      } catch (error) {
        this.#missed(error, one)
      }
    }
  }

  /** In its turn, as if another process had published it. */
  #queue(one: OwnPublish, message: unknown): void {
    const { self, mailbox } = this.#host
    const answers = new QueuedPublish(self, (error) => {
      this.#queued.delete(answers)
      if (error === null) this.#settled(one.packed)
      else this.#missed(error, one)
    })
    const handler = () => {
      this.#queued.delete(answers)
      return answers.isOver ? undefined : this.#own.deliver(one.audience, message, self, ONE_WAY)
    }
    this.#queued.add(answers)
    mailbox.queue({ answers, number: 0, message, call: ONE_WAY, handler })
  }

  /** Fails so many of those that have not begun. Returns whether there are more. */
  tellLost(most: number, error: PeerError): boolean {
    let left = most
    for (const one of this.#queued) if (left-- > 0) one.fail(0, error)
    return this.#queued.size > 0
  }

  async #handling(result: PromiseLike<unknown>, one: OwnPublish): Promise<void> {
    const { mailbox } = this.#host
    mailbox.load++
    try {
      await result
      mailbox.load--
      this.#settled(one.packed)
    } catch (error) {
      mailbox.load--
      this.#missed(error, one)
    }
  }

  /** @param error no handler's: those are logged */
  #missed(error: unknown, one: OwnPublish): void {
    this.#host.refusedToSend(error instanceof Undelivered ? error : refusedAs(error), one.message)
    this.#settled(one.packed)
  }

  #settled(packed: Packed): void {
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
    const run = async () => {
      this.#unbegun--
      mailbox.load++
      await request.run(packed, (message, call) => this.#own.deliver(audience, message, self, call))
      mailbox.load--
      this.#settled(packed)
    }
    separation.alone(() => setImmediate(run)) // not in the context of who asks
    return request.pending
  }

  // Which processes are there

  /** Whether every running process has announced its subscriptions. The first call links to each. */
  #isReady(): boolean {
    if (!this.#hasJoined) {
      this.#hasJoined = true
      for (const outbox of this.#host.others()) this.#await(outbox)
    }
    return this.#awaited.size === 0
  }

  #await(outbox: Outbox): void {
    if (outbox.isLinked) return
    if (!this.#said.has(outbox)) this.#awaited.set(outbox, now())
    outbox.reach()
    if (!outbox.isUp) deadlines.after(NEWS_MS, newsIsLate, this, outbox)
  }

  /** Another process is at the other end now, or none, or it leaves and the master has not said who follows. */
  moved(outbox: Outbox): void {
    if (!this.#hasJoined) return
    this.#silent.delete(outbox)
    if (outbox.isUp || outbox.isAboutToChange) this.#await(outbox)
    else this.#arrived(outbox)
  }

  /** @internal The master has not said who follows. */
  newsIsLate(outbox: Outbox): void {
    const since = this.#awaited.get(outbox)
    if (since !== undefined && !outbox.isUp && now() - since >= NEWS_MS) this.#arrived(outbox)
  }

  /** Nothing is published there any more: it is this very process that is there, or none for ever. */
  ended(outbox: Outbox): void {
    this.#forget(outbox)
    this.#silent.delete(outbox)
    this.#arrived(outbox)
  }

  /** The process that `from` was for has `to` now. What it has announced holds, if `isMeant` says so. */
  passOn(from: Outbox, to: Outbox, isMeant: (interest: Interest) => boolean): void {
    const said = this.#said.get(from)
    const interests = said && [...said.keys()].filter(isMeant)
    this.#forget(from) // first: it hears once what is published in between
    if (interests !== undefined) this.linked(to, interests)
    this.moved(to)
    this.ended(from)
  }

  /** A process has announced its subscriptions. */
  linked(outbox: Outbox, interests: readonly Interest[]): void {
    this.#forget(outbox)
    this.#silent.delete(outbox)
    this.#said.set(outbox, new Map())
    this.#change(outbox, { adds: interests, drops: [] })
    this.#arrived(outbox)
  }

  /** A process is gone or leaving: another may replace it. */
  unlinked(outbox: Outbox): void {
    this.#forget(outbox)
    this.moved(outbox)
  }

  /**
   * An attempt to reach a process has failed; its outbox makes another. It is waited for as long as messages to it
   * would wait: it may be busy. If it answers later, it counts again. If it tells its subscriptions on the link of an
   * outbox before, they hold: what is published waits in its outbox.
   */
  unreachable(outbox: Outbox): void {
    const since = this.#awaited.get(outbox)
    if (since === undefined || now() - since < outbox.patienceMs) return
    this.#silent.add(outbox)
    this.#arrived(outbox)
  }

  /** Number of publishes and requests that wait: for the others to announce their subscriptions, or for their turn. */
  get waiting(): number {
    return this.#waiting.size + this.#queued.size
  }

  /** Waits for nobody any more: whoever has not announced its subscriptions is one that is silent. */
  stopWaiting(): void {
    for (const outbox of [...this.#awaited.keys()]) {
      this.#silent.add(outbox)
      this.#arrived(outbox)
    }
  }

  #arrived(outbox: Outbox): void {
    if (!this.#awaited.delete(outbox) || this.#awaited.size > 0) return
    const waiting = [...this.#waiting]
    this.#waiting.clear()
    for (const go of waiting) go()
    this.#room.look() // not earlier: what a callback publishes comes after what has waited
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
      const member = this.#choose([...members])
      chosen.set(member, [...(chosen.get(member) ?? []), queue])
    }
    const plain = withHead({ subject, isForAll: true, queues: [] })
    return [...chosen].flatMap(([outbox, names]) => {
      if (names.length === 0) return { outbox, audience: plain }
      const frames = Math.ceil(names.length / MOST_QUEUES)
      return Array.from({ length: frames }, (_, at) => {
        const queues = names.slice(at * MOST_QUEUES, (at + 1) * MOST_QUEUES)
        return { outbox, audience: withHead({ subject, isForAll: at === 0 && forAll.has(outbox), queues }) }
      })
    })
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

function deliverAll(hub: Hub): void {
  hub.deliverHere()
}

function withHead(audience: Audience): AudienceWithHead {
  return { ...audience, head: publishHead(audience) }
}

function sizeOf(packed: Packed): number {
  return packed.bytes.length + HEAD_BYTES
}

const NO_BYTES = Buffer.alloc(0)

function areStrings(value: unknown): value is string[] {
  return Array.isArray(value) && value.every((one) => typeof one === 'string')
}

/** Why a request ended that another process answered first; never shown. */
const NOT_FIRST = new AbortError('ERR_REQUEST_CANCELLED', 'somebody else has answered')
