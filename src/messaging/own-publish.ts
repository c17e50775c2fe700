// A message that this process has published and receives itself, until its handlers have settled. Nobody else keeps it:
// if the process leaves first, this is where its loss is told.

import type { PeerError } from '../errors.ts'
import type { Answers } from './mailbox.ts'
import type { WorkerRef } from './references.ts'
import type { Audience } from './subscriptions.ts'
import type { Packed } from './wire.ts'

/** What such a message needs of whoever has published it. */
interface OwnPublishHost {
  /** This process, as its own handlers see it. */
  readonly self: WorkerRef
  /** Nothing more becomes of it. The error is null unless that is to be told. Called once. */
  settled(one: OwnPublish, error: unknown): void
  /** It is told, whatever becomes of it: the process leaves. Called once, and not after `settled`. */
  lost(one: OwnPublish, error: PeerError): void
}

export class OwnPublish implements Answers {
  readonly audience: Audience
  readonly packed: Packed
  /** As it was given. */
  readonly message: unknown
  readonly #host: OwnPublishHost
  /** Whether handlers have been called. */
  hasBegun = false
  isLost = false
  #isSettled = false

  constructor(host: OwnPublishHost, audience: Audience, packed: Packed, message: unknown) {
    this.#host = host
    this.audience = audience
    this.packed = packed
    this.message = message
  }

  get from(): WorkerRef {
    return this.#host.self
  }

  handled(): void {
    this.#settle(null)
  }

  fail(_number: number, error: unknown): void {
    this.#settle(error)
  }

  #settle(error: unknown): void {
    if (this.#isSettled) return
    this.#isSettled = true
    this.#host.settled(this, this.isLost ? null : error)
  }

  /** The process leaves. */
  lose(error: PeerError): void {
    if (this.#isSettled || this.isLost) return
    this.isLost = true
    this.#host.lost(this, error)
  }

  answer(): void {
    // Only of a request.
  }

  remember(): void {
    // Only a request.
  }

  forget(): void {
    // Only a request.
  }

  stream(): Promise<void> {
    return Promise.resolve() // only of a request
  }
}
