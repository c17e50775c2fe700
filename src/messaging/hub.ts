// Publishing: who listens where. Each process says what it listens to on the links that others have made to it, so a
// publish goes to those processes and no others. Whoever has published once keeps a link to every process; what is
// published while one of them has not said yet what it wants waits for that.

import { PeerError } from '../errors.ts'
import { now } from '../loop/clock.ts'
import { Call, ONE_WAY } from './call.ts'
import type { Outbox } from './outbox.ts'
import type { RequestOptions } from './pending-request.ts'
import { DEFAULT_TIMEOUT_MS } from './pending-request.ts'
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
  /** A promise of one of our handlers, which this process waits for when it leaves. */
  working(change: 1 | -1): void
  refusedToSend(error: Error, message: unknown): void
}

/** What a process wants of a subject. Null is this one. */
interface Listener {
  readonly outbox: Outbox | null
  readonly queue: string
}

/** Where one message goes in one process. */
interface Target {
  readonly outbox: Outbox | null
  readonly audience: Audience
}

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
  #waiting: (() => void)[] = []
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
    return this.#later(message, () => this.#publish(subject, packed, message))
  }

  #publish(subject: string, packed: Packed, message: unknown): boolean {
    let mayGoOn = true
    for (const { outbox, audience } of this.#targets(subject)) {
      if (outbox === null) this.#deliverHere(audience, packed)
      else mayGoOn = outbox.publish(packed, message, audience) && mayGoOn
    }
    return mayGoOn
  }

  #later(message: unknown, go: () => void): boolean {
    if (this.#waiting.length >= this.#host.maxMailboxMessages) {
      this.#host.refusedToSend(
        new PeerError('ERR_QUEUE_FULL', 'too much was published before all workers were there', false),
        message,
      )
      return false
    }
    this.#waiting.push(go)
    return true
  }

  async request(
    subject: string,
    message: unknown,
    { timeoutMs = DEFAULT_TIMEOUT_MS, signal }: RequestOptions,
  ): Promise<unknown> {
    const packed = pack(message)
    const expiresAt = timeoutMs > 0 ? now() + timeoutMs : Number.POSITIVE_INFINITY
    signal?.throwIfAborted()
    if (!this.#isReady()) await new Promise<void>((resolve) => this.#waiting.push(resolve))
    const targets = this.#targets(subject)
    if (targets.length === 0) throw new PeerError('ERR_NO_RESPONDERS', `nobody listens to ${subject}`, false)
    const over = new AbortController()
    const giveUp = signal === undefined ? over.signal : AbortSignal.any([signal, over.signal])
    const left = expiresAt === Number.POSITIVE_INFINITY ? 0 : Math.max(1, expiresAt - now())
    const answers = targets.map(({ outbox, audience }) =>
      outbox === null
        ? this.#askHere(audience, packed, expiresAt, giveUp)
        : outbox.request(packed, { timeoutMs: left, signal: giveUp }, audience),
    )
    const answer = await firstOf(answers)
    if (!isStream(answer)) over.abort() // the others need not go on
    if (answer === undefined) throw new PeerError('ERR_NO_RESPONDERS', `nobody answered to ${subject}`, true)
    return answer
  }

  /** In a turn of its own, as from anybody else, and with a message of its own. */
  #deliverHere(audience: Audience, packed: Packed): void {
    this.#host.working(1)
    setImmediate(async () => {
      try {
        await this.#own.deliver(audience, copyOf(packed), this.#host.self, ONE_WAY)
      } finally {
        this.#host.working(-1)
      }
    })
  }

  #askHere(audience: Audience, packed: Packed, expiresAt: number, signal: AbortSignal): Promise<unknown> {
    const call = new Call(true, expiresAt)
    this.#host.working(1)
    const answer = new Promise<void>((resolve) => setImmediate(resolve))
      .then(() => this.#own.deliver(audience, copyOf(packed), this.#host.self, call))
      .finally(() => this.#host.working(-1))
    return new Promise((resolve, reject) => {
      const late = expiresAt === Number.POSITIVE_INFINITY ? undefined : setTimeout(expire, expiresAt - now())
      function expire() {
        reject(new PeerError('ERR_REQUEST_TIMEOUT', `${audience.subject}: no answer in time`, true))
      }
      const abort = () => {
        call.abort('the sender has given up')
        reject(signal.reason)
      }
      signal.addEventListener('abort', abort, { once: true })
      answer.then(resolve, reject).finally(() => {
        clearTimeout(late)
        signal.removeEventListener('abort', abort)
      })
    })
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
    for (const go of this.#waiting.splice(0)) go()
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
    return [...chosen].map(([outbox, names]) => {
      return { outbox, audience: { subject, isForAll: forAll.has(outbox), queues: names } }
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

function areStrings(value: unknown): value is string[] {
  return Array.isArray(value) && value.every((one) => typeof one === 'string')
}

function copyOf({ form, bytes }: Packed): unknown {
  return unpack(form, Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength), 0, bytes.byteLength)
}

function isStream(value: unknown): boolean {
  return typeof value === 'object' && value !== null && Symbol.asyncIterator in value
}
