// One message for NATS, and what becomes of it.

import type { MsgHdrs } from '@nats-io/transport-node'
import type { PendingRequest } from '../pending-request.ts'

/** A message and its receiver. */
export class Letter {
  /** The receiver, in words. */
  readonly to: string
  readonly subject: string
  readonly message: unknown
  readonly payload: Uint8Array
  readonly headers: MsgHdrs | null
  /** Whose count of unsettled messages it is, besides the post's. */
  readonly owner: { count: number } | null
  /** What waits for the receiver's answer; null if only NATS confirms it. */
  pending: PendingRequest | null = null
  /** An answer to somebody: nobody is told that it is lost. */
  isAnswer = false
  /** Its headers are its own, and say how much time is left when it is written. */
  saysRemaining = false
  /** When it has waited too long for a connection. */
  waitsUntil = 0
  isSettled = false
  /** Of the answer that is awaited; 0 for none. */
  number = 0
  /** Of those on the same subject whose answer is awaited: its neighbours in `Asked`. */
  older: Letter | null = null
  newer: Letter | null = null

  /** @param headers null for none */
  constructor(
    to: string,
    subject: string,
    message: unknown,
    payload: Uint8Array,
    headers: MsgHdrs | null,
    owner: { count: number } | null,
  ) {
    this.to = to
    this.subject = subject
    this.message = message
    this.payload = payload
    this.headers = headers
    this.owner = owner
  }
}
