// Publishing: who listens where. Each process says what it listens to on the links that others have made to it, so a
// publish goes to those processes and no others. Whoever has published once keeps a link to every process; what is
// published while one of them has not said yet what it wants waits for that.

import { AbortError, PeerError, type SendError } from '../errors.ts'
import { now } from '../loop/clock.ts'
import { isThenable } from '../protocol.ts'
import { Call, ONE_WAY } from './call.ts'
import { isStream } from './mailbox.ts'
import { type Outbox, refusedAs } from './outbox.ts'
import { DEFAULT_TIMEOUT_MS, PendingRequest, type RequestOptions, remoteErrorOf } from './pending-request.ts'
import { publishFrame, publishHead } from './publish-frame.ts'
import type { WorkerRef } from './references.ts'
import { SubjectTree } from './subjects.ts'
import { type Audience, firstOf, type Interest, type InterestChange, type Subscriptions } from './subscriptions.ts'
import { type Packed, pack, unpack } from './wire.ts'

export interface HubHost {
  /** An outbox for each process that is there, but for this one. */
  others(): Outbox[]
  /** This process, as its own handlers see it. */
  readonly self: WorkerRef
  /** Of what may wait here. */
  readonly maxMailboxMessages: number
  /** A promise of one of our handlers, or a message that waits: this process stays for it when it leaves. */
  working(change: 1 | -1): void
  refusedToSend(error: SendError, message: unknown): void
}

/** What a process wants of a subject. Null is this one. */
interface Listener {
  readonly outbox: Outbox | null
  readonly queue: string
}

/** Where one message goes in one process. Those that are for the same ones there share the audience. */
interface Target {
  readonly outbox: Outbox | null
  readonly audience: AudienceWithHead
}

/** With what a frame of a publish to them begins with. */
interface AudienceWithHead extends Audience {
  readonly head: Buffer
}

/** In one frame, whose head is bounded. */
const MOST_QUEUES = 100
/** Subjects may be made up without end. */
const MOST_PLANS = 4096

export class Hub {
  readonly #host: HubHost
  readonly #own: Subscriptions
  readonly #tree = new SubjectTree<Listener>()
  /** Of each process, what it has said. */
  readonly #said = new Map<Outbox | null, Map<Interest, Listener>>()
  #hasJoined = false
  /** Processes that have not said yet what they want. */
  readonly #awaited = new Set<Outbox>()
  /** What was published or asked before that. */
  readonly #waiting = new Set<() => void>()
  /** What was published to this process itself, in this turn of the loop. */
  readonly #here: { readonly audience: Audience; readonly packed: Packed }[] = []
  #turn = 0
  /** Of subjects without queues, until somebody changes what he listens to. */
  readonly #plans = new Map<string, Target[]>()

  constructor(host: HubHost, own: Subscriptions) {
    this.#host = host
    this.#own = own
    this.#said.set(null, new Map())
    this.#change(null, { adds: own.interests, drops: [] })
  }

  /** Throws UsageError for what cannot be cloned. `false` as at `send`, from any of the processes. */
  publish(subject: string, message: unknown): boolean {
    const packed = pack(message)
    if (this.#isReady()) return this.#publish(subject, packed, message)
    if (this.#waiting.size >= this.#host.maxMailboxMessages)
      return this.#refuse(message, 'before all workers were there')
    this.#host.working(1)
    this.#waiting.add(() => this.#publishLate(subject, packed, message))
    return true
  }

  #publishLate(subject: string, packed: Packed, message: unknown): void {
    try {
      this.#publish(subject, packed, message)
    } catch (error) {
      this.#host.refusedToSend(refusedAs(error), message)
    } finally {
      this.#host.working(-1) // not before: now they wait with those that they are for
    }
  }

  #publish(subject: string, packed: Packed, message: unknown): boolean {
    let mayGoOn = true
    let framed: AudienceWithHead | null = null
    let frame: Buffer = NO_BYTES
    const targets = this.#targets(subject)
    for (const { outbox } of targets) outbox?.check(packed) // before the first of them has it
    for (const { outbox, audience } of targets) {
      if (outbox !== null && framed !== audience) {
        frame = publishFrame(audience.head, packed)
        framed = audience
      }
      const isRoom = outbox?.publish(packed, frame, message, audience) ?? this.#publishHere(audience, packed, message)
      mayGoOn &&= isRoom
    }
    return mayGoOn
  }

  #refuse(message: unknown, why: string): false {
    this.#host.refusedToSend(new PeerError('ERR_QUEUE_FULL', `too much was published ${why}`, false), message)
    return false
  }

  async request(subject: string, message: unknown, options: RequestOptions): Promise<unknown> {
    const packed = pack(message)
    const { timeoutMs = DEFAULT_TIMEOUT_MS, signal } = options
    const began = now()
    if (!this.#isReady() || timeoutMs < 0) await this.#untilReady(subject, options)
    signal?.throwIfAborted()
    const targets = this.#targets(subject)
    if (targets.length === 0) throw new PeerError('ERR_NO_RESPONDERS', `nobody listens to ${subject}`, false)
    const left = timeoutMs > 0 ? Math.max(1, timeoutMs - (now() - began)) : timeoutMs
    const asked = targets.map(({ outbox, audience }) =>
      outbox === null
        ? this.#askHere(audience, packed, { timeoutMs: left, signal })
        : outbox.request(packed, { timeoutMs: left, signal }, audience),
    )
    const { answer, from } = await firstOf(asked.map(({ promise }) => promise))
    for (const [at, request] of asked.entries()) if (at !== from) request.abandon(NOT_FIRST)
    if (answer === undefined) throw new PeerError('ERR_NO_RESPONDERS', `nobody answered to ${subject}`, true)
    return answer
  }

  /** As a request that nobody carries: it ends by itself when nobody can be asked in its time. */
  async #untilReady(subject: string, options: RequestOptions): Promise<void> {
    const waits = new PendingRequest(subject, options)
    const go = () => waits.answer(undefined)
    this.#host.working(1)
    this.#waiting.add(go)
    try {
      await waits.promise
    } finally {
      this.#waiting.delete(go)
      this.#host.working(-1)
    }
  }

  /** In a turn of its own, as from anybody else, and with a message of its own. */
  #publishHere(audience: Audience, packed: Packed, message: unknown): boolean {
    if (this.#here.length >= this.#host.maxMailboxMessages) return this.#refuse(message, 'in one turn of the loop')
    this.#host.working(1)
    if (this.#here.push({ audience, packed }) === 1) setImmediate(() => this.#deliverHere())
    return this.#here.length < this.#host.maxMailboxMessages
  }

  #deliverHere(): void {
    const { self } = this.#host
    const done = () => this.#host.working(-1)
    for (const { audience, packed } of this.#here.splice(0)) {
      const result = this.#own.deliver(audience, copyOf(packed), self, ONE_WAY)
      if (isThenable(result)) result.then(done, done)
      else done()
    }
  }

  #askHere(audience: Audience, packed: Packed, options: RequestOptions): PendingRequest {
    const request = new PendingRequest(audience.subject, options)
    const call = new Call(true, request.expiresAt)
    request.sent({ cancel: () => call.abort('the sender has given up'), credit: nothing }, 0)
    this.#host.working(1)
    setImmediate(async () => {
      try {
        if (call.isAborted || call.hasExpired) return
        const answer = await this.#own.deliver(audience, copyOf(packed), this.#host.self, call)
        request.answer(isStream(answer) ? clonesOf(answer) : copyOf(pack(answer)))
      } catch (error) {
        request.fail(remoteErrorOf(error))
      } finally {
        this.#host.working(-1)
      }
    })
    return request
  }

  // Who is there

  /** Every process that is there has said what it wants. From the first call on there is a link to each. */
  #isReady(): boolean {
    if (!this.#hasJoined) {
      this.#hasJoined = true
      for (const outbox of this.#host.others()) this.#await(outbox)
    }
    return this.#awaited.size === 0
  }

  #await(outbox: Outbox): void {
    if (outbox.isLinked) return
    this.#awaited.add(outbox)
    outbox.reach()
  }

  /** There is another process at this place, or none. */
  moved(outbox: Outbox): void {
    if (!this.#hasJoined) return
    if (outbox.isUp) this.#await(outbox)
    else this.#arrived(outbox)
  }

  /** A process has said what it listens to. */
  linked(outbox: Outbox, interests: readonly Interest[]): void {
    this.#forget(outbox)
    this.#said.set(outbox, new Map())
    this.#change(outbox, { adds: interests, drops: [] })
    this.#arrived(outbox)
  }

  /** It is gone, or goes: somebody else may come. */
  unlinked(outbox: Outbox): void {
    this.#forget(outbox)
    this.moved(outbox)
  }

  /** Nobody waits for it: when it answers after all, it is known again. */
  unreachable(outbox: Outbox): void {
    this.#forget(outbox)
    this.#arrived(outbox)
  }

  #arrived(outbox: Outbox): void {
    if (!this.#awaited.delete(outbox) || this.#awaited.size > 0) return
    const waiting = [...this.#waiting]
    this.#waiting.clear()
    for (const go of waiting) go()
  }

  changed(outbox: Outbox, change: unknown): void {
    const { adds, drops } = Object(change) as Partial<InterestChange>
    if (areStrings(adds) && areStrings(drops)) this.#change(outbox, { adds, drops })
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

  /** One for each process that has somebody who should get it. */
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

  /** The least loaded; among equals one after the other. */
  #choose(members: readonly (Outbox | null)[]): Outbox | null {
    const start = ++this.#turn % members.length
    let best = members[start] as Outbox | null
    for (let n = 1; n < members.length; n++) {
      const one = members[(start + n) % members.length] as Outbox | null
      if ((one?.load ?? 0) < (best?.load ?? 0)) best = one
    }
    return best
  }
}

function withHead(audience: Audience): AudienceWithHead {
  return { ...audience, head: publishHead(audience) }
}

const NO_BYTES = Buffer.alloc(0)

function areStrings(value: unknown): value is string[] {
  return Array.isArray(value) && value.every((one) => typeof one === 'string')
}

function copyOf({ form, bytes }: Packed): unknown {
  return unpack(form, Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength), 0, bytes.byteLength)
}

async function* clonesOf(items: AsyncIterable<unknown>): AsyncGenerator<unknown> {
  for await (const item of items) yield copyOf(pack(item))
}

/** Why a request has ended that somebody else was quicker with: nobody sees it. */
const NOT_FIRST = new AbortError('ERR_REQUEST_CANCELLED', 'somebody else has answered')

function nothing(): void {
  // What is asked here has no link that could be told.
}
