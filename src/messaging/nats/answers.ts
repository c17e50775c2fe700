// The outcome of one message from NATS, on its way back to the sender.

import type { Msg, MsgHdrs } from '@nats-io/transport-node'
import { UsageError } from '../../errors.ts'
import { now } from '../../loop/clock.ts'
import { deadlines } from '../../loop/deadlines.ts'
import { Call, ONE_WAY } from '../call.ts'
import type { Answers } from '../mailbox.ts'
import type { WorkerRef } from '../references.ts'
import { leaveUnread } from '../stream-source.ts'
import { HEADERS_BYTES, isOneWay, remainingMsOf, writeBytes, writeFailure } from './headers.ts'
import { type Encoded, encode } from './json.ts'

export interface AnswersHost {
  newHeaders(): MsgHdrs
  reply(subject: string, payload: Uint8Array, headers: MsgHdrs | null): void
  /** Limit of headers and payload, in bytes. */
  readonly maxPayload: number
  /** A message of so many bytes has been handled, or never will be. */
  done(bytes: number): void
}

const EMPTY: Encoded = { payload: Buffer.alloc(0), isBytes: false }

export class NatsAnswers implements Answers {
  readonly from: WorkerRef
  readonly call: Call
  readonly host: AnswersHost
  /** That the message came on. */
  readonly subject: string
  /** Empty if nobody waits for anything. */
  readonly #reply: string
  /** Whether undefined is an answer. It is not for a subject, where others may have one. */
  readonly #isForOne: boolean
  readonly #bytes: number
  #isDone = false
  #deadline = 0

  /** @param reply the subject of its answer; empty if it needs none, or none of this process's */
  constructor(host: AnswersHost, message: Msg, reply: string, from: WorkerRef, isForOne: boolean) {
    this.host = host
    this.subject = message.subject
    this.#reply = reply
    this.#isForOne = isForOne
    this.#bytes = message.data.length
    this.from = from
    this.call = reply === '' || isOneWay(message) ? ONE_WAY : new Call(true, now() + remainingMsOf(message))
  }

  /** Whether the sender is told what becomes of it. */
  get isAwaited(): boolean {
    return this.#reply !== ''
  }

  /** That is for the worker that was addressed to say: subscribers confirm nothing. */
  handled(): void {
    if (this.#isForOne) this.#give(EMPTY)
    this.#done()
  }

  answer(_number: number, value: unknown): void {
    if (value === undefined && !this.#isForOne) return this.#done()
    try {
      this.#give(this.#checked(encode(value)))
      this.#done()
    } catch (error) {
      this.fail(0, error, true)
    }
  }

  #checked(encoded: Encoded): Encoded {
    const { maxPayload } = this.host
    if (encoded.payload.length + HEADERS_BYTES <= maxPayload) return encoded
    const size = `the answer has ${encoded.payload.length} bytes: NATS takes ${maxPayload} (max_payload)`
    throw new UsageError('ERR_MESSAGE_TOO_LARGE', size)
  }

  fail(_number: number, error: unknown, wasHandled: boolean): void {
    this.#done()
    if (this.#reply === '') return
    const headers = this.host.newHeaders()
    this.host.reply(this.#reply, writeFailure(headers, error, wasHandled, this.host.maxPayload), headers)
  }

  /** Streams do not leave a server: their source is told to end. */
  async stream(_number: number, items: AsyncIterable<unknown>): Promise<void> {
    this.fail(0, new UsageError('ERR_CANNOT_CLONE', 'the answer is a stream, which cannot leave its server'), true)
    leaveUnread(items)
  }

  remember(_number: number, call: Call): void {
    const leftMs = call.remainingMs
    if (Number.isFinite(leftMs)) this.#deadline = deadlines.after(leftMs, expire, call)
  }

  forget(): void {
    if (this.#deadline !== 0) deadlines.cancel(this.#deadline)
    this.#deadline = 0
  }

  #done(): void {
    if (this.#isDone) return
    this.#isDone = true
    this.host.done(this.#bytes)
  }

  #give({ payload, isBytes }: Encoded): void {
    if (this.#reply === '') return
    this.host.reply(this.#reply, payload, isBytes ? writeBytes(this.host.newHeaders()) : null)
  }
}

function expire(call: Call): void {
  call.abort('the time of the request is over')
}
