// The messages of an outbox that wait, in order: for a process, for the previous process to have started all it was
// sent, or for what a process subscribes to. Whom a message is meant for decides where it goes when another process
// has the slot before it could be sent.

import { PendingRequest } from './pending-request.ts'
import type { Audience } from './subscriptions.ts'
import { isUnaddressed, type Unaddressed } from './unaddressed.ts'
import type { Packed } from './wire.ts'

/** Whom a message is meant for. */
export const enum Whom {
  /** Whichever process has the slot. */
  Slot,
  /** The process that has it now, and no other. */
  Process,
  /** All processes that are there. */
  All,
}

export interface Waiting {
  /** Slot, too, for what is published to all and to members of queues, until its parts go different ways. */
  readonly whom: Whom
  /** Of the process that had the slot then. */
  readonly address: string
  readonly value: Packed
  /** The message as it was given, or its request. */
  readonly entry: unknown
  /** Bytes, as they are counted against the limits of the outbox. */
  readonly size: number
  readonly since: number
  readonly audience: Audience | null
}

/** What asks all is for a process as a whole. As long as it is not known what it subscribes to, any will do. */
export function whomOf(audience: Audience | null, isRequest: boolean): Whom {
  if (audience === null || isUnaddressed(audience)) return Whom.Slot
  return (isRequest ? audience.isForAll : audience.queues.length === 0) ? Whom.All : Whom.Slot
}

export function isUndecided({ audience }: Waiting): boolean {
  return isUnaddressed(audience)
}

export class Waitlist {
  #messages: Waiting[] = []

  get length(): number {
    return this.#messages.length
  }

  at(index: number): Waiting | undefined {
    return this.#messages[index]
  }

  some(isMeant: (one: Waiting) => boolean): boolean {
    return this.#messages.some(isMeant)
  }

  add(one: Waiting): void {
    this.#messages.push(one)
  }

  /** Removes so many of the first. */
  take(count: number): readonly Waiting[] {
    return this.#messages.splice(0, count)
  }

  takeAll(): readonly Waiting[] {
    return this.#messages.splice(0)
  }

  takeOlderThan(since: number): readonly Waiting[] {
    const younger = this.#messages.findIndex((one) => one.since > since)
    return younger < 0 ? this.takeAll() : this.take(younger)
  }

  /** Removes those that are meant. */
  takeWhere(isMeant: (one: Waiting) => boolean): readonly Waiting[] {
    const taken = this.#messages.filter(isMeant)
    if (taken.length > 0) this.#messages = this.#messages.filter((one) => !isMeant(one))
    return taken
  }

  /** Those that are meant are for the process that had the slot then, and no other. */
  bind(isMeant: (one: Waiting) => boolean): void {
    this.#messages = this.#messages.map((one) => (isMeant(one) ? { ...one, whom: Whom.Process } : one))
  }

  /**
   * What is for a process goes another way from now on than what is for its slot: of a message for all and a member
   * of a queue each has a part. Returns those that were parted.
   */
  part(): readonly Waiting[] {
    const both = this.#messages.filter(isForBoth)
    if (both.length > 0) this.#messages = this.#messages.flatMap((one) => (isForBoth(one) ? partsOf(one) : one))
    return both
  }

  /**
   * It is known what the process subscribes to: what has waited for that is for those whom `audiencesOf` returns.
   * Returns those that are for nobody, which are removed, and what there is in addition, since one is for several.
   */
  address(audiencesOf: (audience: Unaddressed) => readonly Audience[]) {
    const parts = this.#messages.map((one) =>
      isUnaddressed(one.audience) ? addressed(one, audiencesOf(one.audience)) : [one],
    )
    const unheard = this.#messages.filter((_, at) => parts[at]?.length === 0)
    this.#messages = parts.flat()
    return { unheard, added: parts.flatMap((ofOne) => ofOne.slice(1)) }
  }
}

/** Requests are for one or the other. */
function isForBoth({ whom, audience, entry }: Waiting): boolean {
  return whom === Whom.Slot && audience !== null && audience.isForAll && !(entry instanceof PendingRequest)
}

function partsOf(one: Waiting): readonly Waiting[] {
  const audience = one.audience as Audience
  const forAll: Audience | Unaddressed = {
    ...audience,
    queues: [],
    ...(isUnaddressed(audience) && { isForQueues: false }),
  }
  return [
    { ...one, whom: Whom.All, audience: forAll },
    { ...one, whom: Whom.Slot, audience: { ...audience, isForAll: false } },
  ]
}

/** For these in its process. A request cannot be parted: it asks the first. */
function addressed(one: Waiting, audiences: readonly Audience[]): readonly Waiting[] {
  const isRequest = one.entry instanceof PendingRequest
  const asked = isRequest ? audiences.slice(0, 1) : audiences
  const whomFor = (audience: Audience) => (one.whom === Whom.Process ? Whom.Process : whomOf(audience, isRequest))
  return asked.map((audience) => ({ ...one, audience, whom: whomFor(audience) }))
}
