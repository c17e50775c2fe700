// A request that this process answers itself. The caller sees what it would see of another process: clones, the same
// errors, the same stream.

import type { PeerError } from '../errors.ts'
import { Call } from './call.ts'
import { refusedAs, remoteErrorOf } from './failures.ts'
import { type Carrier, PendingRequest, type RequestOptions } from './pending-request.ts'
import { type ItemSink, isStream, StreamSource } from './stream-source.ts'
import { Undelivered } from './undelivered.ts'
import { cloneOf, Kind, type Packed, pack } from './wire.ts'

export class OwnRequest implements Carrier, ItemSink {
  readonly pending: PendingRequest
  readonly isClosed = false
  /** Whether its handler has been called. */
  hasBegun = false
  readonly #call: Call
  #source: StreamSource | null = null

  /** @param to in words */
  constructor(to: string, options: RequestOptions) {
    this.pending = new PendingRequest(to, options)
    this.#call = new Call(true, this.pending.expiresAt)
    this.pending.sent(this, 0)
  }

  cancel(): void {
    this.#call.abort('the sender has given up')
    this.#source?.wake()
  }

  credit(_number: number, items: number): void {
    this.#source?.credit(items)
  }

  /** The process leaves: the caller is told, and the handler that nobody waits for it any more. */
  lose(error: PeerError): void {
    this.pending.abandon(error)
  }

  /** Calls the handler. Resolves when it has settled and its stream, if it returns one, is over. */
  async run(packed: Packed, handler: (message: unknown, call: Call) => unknown): Promise<void> {
    if (this.#call.isAborted || this.#call.hasExpired) return
    let message: unknown
    try {
      message = cloneOf(packed)
    } catch (error) {
      return this.pending.fail(refusedAs(error))
    }
    try {
      this.hasBegun = true
      const answer = await handler(message, this.#call)
      if (isStream(answer)) await this.#stream(answer)
      else this.#give(Kind.Answer, answer)
    } catch (error) {
      this.pending.fail(error instanceof Undelivered ? error.reason : remoteErrorOf(error))
    }
  }

  async #stream(items: AsyncIterable<unknown>): Promise<void> {
    this.#source = new StreamSource(items, this.#call, this)
    this.#give(Kind.Stream, undefined)
    await this.#source.pump()
    this.#give(Kind.End, undefined)
  }

  isFull(): boolean {
    return false
  }

  item(value: unknown): void {
    this.#give(Kind.Item, value)
  }

  #give(kind: Kind, value: unknown): void {
    const { form, bytes } = pack(value)
    const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
    this.pending.receive(kind, form, buffer, 0, buffer.length)
  }
}
