// Subscriptions of this process: its handlers by subject, and what the other processes are told of them. Exists before
// the mesh, since a module may subscribe at its top level.

import { anyOf } from '../any-of.ts'
import { stackOf } from '../errors.ts'
import { LimitedLog } from '../log.ts'
import { isThenable } from '../thenable.ts'
import type { Call } from './call.ts'
import type { WorkerRef } from './references.ts'
import { isStream, leaveUnasked, leaveUnread } from './stream-source.ts'
import { MOST_KNOWN, SubjectTree } from './subjects.ts'
import { Undelivered } from './undelivered.ts'

/** What a handler receives besides the message. All handlers of one process share it. */
export interface Delivery {
  /** The subject that was published on, without wildcards. */
  readonly subject: string
  /** The process that has published it. */
  readonly from: WorkerRef
  /** Whether an answer is awaited, and for how long. */
  readonly call: Call
}

/** Called for each message. The value it returns, or its promise's value, answers a request. */
export type SubjectHandler = (message: unknown, delivery: Delivery) => unknown

export interface Subscriber {
  readonly pattern: string
  /** Empty for none. */
  readonly queue: string
  readonly handler: SubjectHandler
  /** It has unsubscribed, perhaps while a message is being delivered. */
  isOver: boolean
}

/** `queue pattern`: neither contains a space. */
export type Interest = string

export interface InterestChange {
  readonly adds: readonly Interest[]
  readonly drops: readonly Interest[]
}

/** Recipients of a message within one process: all subscribers without a queue, and one of each of these queues. */
export interface Audience {
  readonly subject: string
  readonly isForAll: boolean
  readonly queues: readonly string[]
}

export class Subscriptions {
  /** Notifies the other processes. */
  onChange: ((change: InterestChange) => Promise<void>) | null = null
  /** A subscriber has thrown, and nobody awaits its answer. */
  onThrown: (() => void) | null = null
  readonly #tree = new SubjectTree<Subscriber>()
  readonly #counts = new Map<Interest, number>()
  /** Announcements that not all of the others have heard yet. */
  readonly #announced = new Map<Interest, Promise<void>>()
  /** Subscribers without a queue by subject, valid until a subscription changes. */
  readonly #known = new Map<string, readonly Subscriber[]>()

  /** Resolves when publishing processes know of it. */
  add(subscriber: Subscriber): Promise<void> {
    this.#known.clear()
    this.#tree.add(subscriber.pattern, subscriber)
    const interest = interestOf(subscriber)
    const count = this.#counts.get(interest) ?? 0
    this.#counts.set(interest, count + 1)
    return count === 0 ? this.#announce(interest) : (this.#announced.get(interest) ?? Promise.resolve())
  }

  #announce(interest: Interest): Promise<void> {
    const heard = this.#tell({ adds: [interest], drops: [] }).then(() => {
      if (this.#announced.get(interest) === heard) this.#announced.delete(interest)
    })
    this.#announced.set(interest, heard)
    return heard
  }

  delete(subscriber: Subscriber): void {
    subscriber.isOver = true
    this.#known.clear()
    this.#tree.delete(subscriber.pattern, subscriber)
    const interest = interestOf(subscriber)
    const count = (this.#counts.get(interest) ?? 1) - 1
    if (count > 0) return void this.#counts.set(interest, count)
    this.#counts.delete(interest)
    void this.#tell({ adds: [], drops: [interest] })
  }

  #tell(change: InterestChange): Promise<void> {
    return this.onChange?.(change) ?? Promise.resolve()
  }

  get interests(): Interest[] {
    return [...this.#counts.keys()]
  }

  /**
   * Calls the handlers. For a request, returns the first answer, or a promise of it. Throws, or rejects with,
   * Undelivered if there is no member of a queue any more.
   */
  deliver({ subject, isForAll, queues }: Audience, message: unknown, from: WorkerRef, call: Call): unknown {
    const delivery = { subject, from, call }
    const chosen = this.#chosen(subject, isForAll, queues)
    if (call.isRequest) return this.#ask(chosen, message, delivery)
    let promises = NO_PROMISES
    let called = 0
    let members = 0
    for (const one of chosen) {
      const subscriber = one.isOver ? this.#insteadOf(one, subject) : one
      if (subscriber === undefined) continue
      called++
      if (subscriber.queue !== '') members++
      try {
        const result = subscriber.handler(message, delivery)
        if (!isThenable(result)) {
          leaveUnasked(result)
          continue
        }
        if (promises === NO_PROMISES) promises = []
        promises.push(Promise.resolve(result).then(leaveUnasked, logThrown))
      } catch (error) {
        logThrown(error)
      }
    }
    const done = promises.length === 0 ? undefined : Promise.all(promises)
    return members === queues.length ? done : missed(new Undelivered(subject, called > 0), done)
  }

  #chosen(subject: string, isForAll: boolean, queues: readonly string[]): readonly Subscriber[] {
    const forAll = isForAll ? this.#forAll(subject) : NOBODY
    if (queues.length === 0) return forAll
    const found = this.#tree.match(subject)
    const chosen = [...forAll]
    for (const name of queues) {
      const member = anyOf(found.filter(({ queue }) => queue === name))
      if (member !== undefined) chosen.push(member)
    }
    return chosen
  }

  #ask(chosen: readonly Subscriber[], message: unknown, delivery: Delivery): unknown {
    const results: unknown[] = []
    const failures: unknown[] = []
    for (const one of chosen) {
      const subscriber = one.isOver ? this.#insteadOf(one, delivery.subject) : one
      if (subscriber === undefined) continue
      try {
        results.push(subscriber.handler(message, delivery))
      } catch (error) {
        failures.push(error)
      }
    }
    if (results.length === 0 && failures.length === 0) throw new Undelivered(delivery.subject, false)
    return firstAnswer(results, failures)
  }

  /** One that was called before has unsubscribed it: of a queue there may be another member. */
  #insteadOf({ queue }: Subscriber, subject: string): Subscriber | undefined {
    return queue === '' ? undefined : anyOf(this.#tree.match(subject).filter((one) => one.queue === queue))
  }

  /** Subscribers without a queue. */
  #forAll(subject: string): readonly Subscriber[] {
    const known = this.#known.get(subject)
    if (known !== undefined) return known
    const found = this.#tree.match(subject).filter(({ queue }) => queue === '')
    if (this.#known.size >= MOST_KNOWN) this.#known.clear()
    this.#known.set(subject, found)
    return found
  }
}

/** The error is told when those who have received the message are done. */
function missed(error: Undelivered, done: Promise<unknown> | undefined): Promise<never> {
  if (done === undefined) throw error
  return done.then(() => {
    throw error
  })
}

/** Never changed. */
const NO_PROMISES: Promise<unknown>[] = []
const NOBODY: readonly Subscriber[] = []

/** The subscriptions of this process. */
export const subscriptions = new Subscriptions()

const errors = new LimitedLog()

/** What a subscriber threw for a message that awaits no answer. */
export function logThrown(error: unknown): void {
  subscriptions.onThrown?.()
  errors.log(`a subscriber: ${stackOf(error)}`)
}

function interestOf({ queue, pattern }: Subscriber): Interest {
  return `${queue} ${pattern}`
}

/** Of subscribers without a queue. */
export function isForAll(interest: Interest): boolean {
  return interest.startsWith(' ')
}

/**
 * Undefined is no answer. Throws, or rejects with, an error only if there is no answer; further ones are logged.
 * Further answers that are streams are ended.
 */
function firstAnswer(results: readonly unknown[], failures: readonly unknown[]): unknown {
  const answer = results.find((one) => one !== undefined && !isThenable(one))
  const promises = results.filter(isThenable)
  if (answer === undefined && promises.length > 0) return firstFulfilled(promises, failures)
  if (answer === undefined && failures.length > 0) throw onlyOne(failures)
  disregard(results, answer)
  for (const failure of failures) logThrown(failure)
  return answer
}

async function firstFulfilled(given: readonly PromiseLike<unknown>[], thrown: readonly unknown[]): Promise<unknown> {
  const promises = given.map((one) => Promise.resolve(one)) // what is lazy begins once
  const failures = [...thrown]
  const { answer } = await firstOf(promises, failures).catch(() => {
    throw onlyOne(failures)
  })
  disregard(promises, answer)
  for (const failure of thrown) logThrown(failure)
  return answer
}

/** The one that the request fails with. */
function onlyOne([told, ...others]: readonly unknown[]): unknown {
  for (const failure of others) logThrown(failure)
  return told
}

/** Of all results, those that are still to come as well, one is the answer. */
function disregard(results: readonly unknown[], answer: unknown): void {
  const leave = (result: unknown) => {
    if (result !== answer && isStream(result)) leaveUnread(result)
  }
  for (const result of results) {
    if (isThenable(result)) Promise.resolve(result).then(leave, logThrown)
    else leave(result)
  }
}

/**
 * Resolves with the first value that is not undefined, and its index; otherwise rejects with the first error, or
 * resolves with undefined.
 */
export function firstOf(
  promises: readonly PromiseLike<unknown>[],
  failures: unknown[] = [],
): Promise<{ answer: unknown; from: number }> {
  return new Promise((resolve, reject) => {
    let left = promises.length
    const end = () => {
      if (--left > 0) return
      if (failures.length > 0) reject(failures[0])
      else resolve({ answer: undefined, from: -1 })
    }
    for (const [from, promise] of promises.entries()) {
      promise.then(
        (answer) => {
          if (answer !== undefined) resolve({ answer, from })
          end()
        },
        (error) => {
          failures.push(error)
          end()
        },
      )
    }
  })
}
