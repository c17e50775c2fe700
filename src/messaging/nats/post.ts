// What a process sends over NATS and does not know to have arrived. Each message ends once: NATS has it (a publish), a
// worker has handled or answered it, or its sender is told. While there is no connection, messages wait in order.

import type { Msg, MsgHdrs } from '@nats-io/transport-node'
import { codeOf, messageOf, PeerError, type SendError } from '../../errors.ts'
import { LimitedLog } from '../../log.ts'
import { now } from '../../loop/clock.ts'
import { deadlines } from '../../loop/deadlines.ts'
import { lost } from '../failures.ts'
import { TOLD_IN_ONE_TURN } from '../losses.ts'
import { type Carrier, PendingRequest, type RequestOptions } from '../pending-request.ts'
import { Batch } from './batch.ts'
import { isFailure, isNobody, readFailure, readMessage, writeRemaining } from './headers.ts'
import type { NatsLink } from './nats-link.ts'

interface PostSettings {
  /** Limits of all that is unsettled. */
  readonly maxPendingMessages: number
  readonly maxPendingBytes: number
  /** How long a message waits for a connection, in ms. */
  readonly waitMs: number
  /** A message was refused, or is not known to have been handled. */
  onSendFail(error: SendError, letter: Letter): void
  onDrain(): void
  /** The first message became unsettled, or the last one settled. */
  look(): void
}

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

const HAS_LEFT = 'this process has left'
/** What may be waiting again when `onDrain` is called. */
const DRAINED_SHARE = 0.5

export class Post implements Carrier {
  readonly #link: NatsLink
  readonly #settings: PostSettings
  /** Subjects of answers are this, a dot, and a number. */
  readonly #inbox: string
  /** For a connection, in order. */
  readonly #waiting = new Set<Letter>()
  #waitTimer = 0
  /** Written, by the number of their answer. */
  readonly #asked = new Map<number, Letter>()
  /** Published, and not confirmed by NATS; and those that the flush under way will confirm. */
  #published = new Batch()
  #confirming = new Batch()
  /** The present one; a connection that ends begins another. */
  #confirmation = 0
  #isConfirming = false
  #number = 0
  readonly #troubles = new LimitedLog()
  #isFull = false
  #isClosed = false
  /** Number of unsettled messages, without answers. */
  count = 0
  #bytes = 0

  /** Whether something may still have to leave: answers are not counted. */
  get isBusy(): boolean {
    return this.count + this.#waiting.size + this.#published.letters.length + this.#confirming.letters.length > 0
  }

  constructor(link: NatsLink, inbox: string, settings: PostSettings) {
    this.#link = link
    this.#inbox = inbox
    this.#settings = settings
    link.subscribe(`${inbox}.*`, '', (message) => this.#answered(message))
  }

  // Sending

  /** To whoever listens; NATS confirms. Returns false to stop until `onDrain`. */
  publish(letter: Letter): boolean {
    return this.#hasRoom() ? this.#take(letter) : this.#refuse(letter)
  }

  /** To one worker, which confirms that it has handled the message. Returns false to stop until `onDrain`. */
  send(letter: Letter, timeoutMs: number): boolean {
    if (!this.#hasRoom()) return this.#refuse(letter)
    letter.pending = new PendingRequest(letter.to, { timeoutMs })
    letter.pending.promise.then(
      () => this.#settle(letter),
      (error) => {
        this.#settle(letter)
        this.#settings.onSendFail(error as SendError, letter)
      },
    )
    return this.#take(letter)
  }

  request(letter: Letter, options: RequestOptions): PendingRequest {
    const pending = new PendingRequest(letter.to, options)
    if (!this.#hasRoom()) pending.refuse(this.#fullError())
    if (pending.isDone) return pending
    letter.pending = pending
    letter.saysRemaining = true
    const settle = () => this.#settle(letter)
    pending.promise.then(settle, settle)
    this.#take(letter)
    return pending
  }

  /** An answer to another process. It is not counted: the other end limits what it asks. */
  answer(letter: Letter): void {
    letter.isAnswer = true
    if (!this.#isClosed) this.#post(letter)
    this.#settings.look() // a process that leaves waits until NATS has it
  }

  /** Whether this process itself waits for the answer. */
  awaits({ reply = '' }: Msg): boolean {
    return reply.startsWith(`${this.#inbox}.`)
  }

  #hasRoom(): boolean {
    const { maxPendingMessages, maxPendingBytes } = this.#settings
    return this.count < maxPendingMessages && this.#bytes < maxPendingBytes
  }

  #refuse(letter: Letter): false {
    this.#isFull = true
    this.#settings.onSendFail(this.#fullError(), letter)
    return false
  }

  #fullError(): PeerError {
    const { maxPendingMessages, maxPendingBytes } = this.#settings
    const limits = `maxPendingMessages ${maxPendingMessages}, maxPendingBytes ${maxPendingBytes}`
    return new PeerError(
      'ERR_QUEUE_FULL',
      `${this.count} messages (${this.#bytes} bytes) are unsettled: ${limits}`,
      false,
    )
  }

  #take(letter: Letter): boolean {
    this.#bytes += letter.payload.length
    if (letter.owner !== null) letter.owner.count++
    if (this.count++ === 0) this.#settings.look()
    if (this.#isClosed) setImmediate(() => this.#fail(letter, lost(letter.to, HAS_LEFT, false)))
    else this.#post(letter)
    this.#isFull ||= !this.#hasRoom()
    return !this.#isFull
  }

  #post(letter: Letter): void {
    if (this.#link.isSettled) return this.#write(letter)
    letter.waitsUntil = now() + this.#settings.waitMs
    this.#waiting.add(letter)
    if (this.#waitTimer === 0) this.#await(letter)
  }

  #write(letter: Letter): void {
    if (letter.isSettled || letter.pending?.isDone) return // it has expired, perhaps just now
    const { subject, payload, headers, pending } = letter
    const number = pending === null ? 0 : ++this.#number
    if (letter.saysRemaining && pending !== null && headers !== null) writeRemaining(headers, pending.expiresAt - now())
    try {
      this.#link.publish(subject, payload, headers, pending === null ? '' : `${this.#inbox}.${number}`)
    } catch (error) {
      return this.#fail(letter, this.#unsendable(letter, error))
    }
    if (pending === null) return this.#confirmSoon(letter)
    letter.number = number
    this.#asked.set(number, letter)
    pending.sent(this, number)
  }

  #unsendable({ to, payload }: Letter, error: unknown): PeerError {
    const { maxPayload } = this.#link
    const text = `${to}: ${payload.length} bytes and their headers are more than NATS takes (max_payload ${maxPayload})`
    if (payload.length > maxPayload / 2) return new PeerError('ERR_MESSAGE_TOO_LARGE', text, false)
    return new PeerError(codeOf(error) || 'ERR_PEER_LOST', `${to}: ${messageOf(error)}`, false)
  }

  // Outcomes

  #confirmSoon(letter: Letter): void {
    this.#published.letters.push(letter)
    if (this.#isConfirming) return
    this.#isConfirming = true
    setImmediate(() => void this.#confirm(this.#confirmation))
  }

  /** One flush at a time, for all that was published before it. */
  async #confirm(confirmation: number): Promise<void> {
    while (this.#published.letters.length > 0 && this.#link.isUp) {
      const batch = this.#published
      this.#confirming = batch
      this.#published = new Batch()
      const isThere = await this.#link.flush()
      if (confirmation !== this.#confirmation) return // `down` has told of them
      if (!isThere) break
      this.#confirming = new Batch()
      for (const letter of batch.letters) this.#settle(letter)
    }
    this.#isConfirming = false
    this.#settings.look()
  }

  #answered(message: Msg): void {
    const letter = this.#asked.get(Number(message.subject.slice(this.#inbox.length + 1)))
    if (letter === undefined || letter.pending === null) return // given up
    this.#asked.delete(letter.number)
    try {
      this.#conclude(letter, letter.pending, message)
    } catch (error) {
      letter.pending.fail(new PeerError(codeOf(error), `${letter.to}: the answer is ${messageOf(error)}`, true))
    }
  }

  /** Throws ProtocolError. */
  #conclude({ to, subject }: Letter, pending: PendingRequest, message: Msg): void {
    if (isNobody(message)) pending.refuse(noResponders(to, subject))
    else if (isFailure(message)) pending.fail(readFailure(message))
    else pending.answer(readMessage(message))
  }

  /** The caller has given up, or its time is over. */
  cancel(number: number): void {
    this.#asked.delete(number)
  }

  /** For streams, which do not leave a server. */
  credit(): void {
    // NATS has no credit.
  }

  #settle(letter: Letter): void {
    if (letter.isSettled) return
    letter.isSettled = true
    this.#waiting.delete(letter)
    if (letter.isAnswer) return
    this.#bytes -= letter.payload.length
    if (letter.owner !== null) letter.owner.count--
    if (--this.count === 0) this.#settings.look()
    if (!this.#isFull || this.count > this.#settings.maxPendingMessages * DRAINED_SHARE) return
    if (this.#bytes > this.#settings.maxPendingBytes * DRAINED_SHARE) return
    this.#isFull = false
    this.#settings.onDrain()
  }

  /** @param error whose `mayHaveBeenHandled` is false if it is certain */
  #fail(letter: Letter, error: PeerError): void {
    if (letter.isSettled) return
    if (letter.pending === null) {
      this.#settle(letter)
      if (letter.isAnswer) this.#troubles.log(`an answer is lost: ${error.message}`)
      else this.#settings.onSendFail(error, letter)
    } else if (error.mayHaveBeenHandled) letter.pending.fail(error)
    else letter.pending.refuse(error) // in a later turn: who sends it again at once must not stop the loop
  }

  // The connection

  up(): void {
    const waiting = [...this.#waiting]
    this.#waiting.clear()
    this.#stopWaiting()
    for (const letter of waiting) this.#write(letter)
  }

  down(): void {
    this.#confirmation++
    this.#isConfirming = false
    for (const letter of this.#takeWritten())
      this.#fail(letter, lost(letter.to, 'the connection to NATS has ended', true))
    this.#settings.look()
  }

  /** NATS says so once for each message. */
  forbidden(subject: string): void {
    const published = this.#confirming.refused(subject) ?? this.#published.refused(subject)
    const letter = published ?? this.#newestAsked(subject)
    if (letter === undefined) return
    this.#asked.delete(letter.number)
    this.#fail(letter, new PeerError('ERR_NATS_PERMISSION', `${letter.to}: NATS does not permit ${subject}`, false))
  }

  /** Nothing confirms that NATS has taken a request: older ones may be with their worker. */
  #newestAsked(subject: string): Letter | undefined {
    return [...this.#asked.values()].findLast((one) => one.subject === subject && !one.pending?.isDone)
  }

  #takeWritten(): Letter[] {
    const written = [...this.#asked.values(), ...this.#confirming.letters, ...this.#published.letters]
    this.#asked.clear()
    this.#confirming = new Batch()
    this.#published = new Batch()
    return written
  }

  #await({ waitsUntil }: Letter): void {
    this.#waitTimer = deadlines.after(Math.max(1, waitsUntil - now()), expireWaiting, this)
  }

  #stopWaiting(): void {
    if (this.#waitTimer !== 0) deadlines.cancel(this.#waitTimer)
    this.#waitTimer = 0
  }

  /** @internal */
  expireWaiting(): void {
    this.#waitTimer = 0
    const time = now()
    for (const letter of this.#waiting) {
      if (letter.waitsUntil > time) {
        this.#await(letter)
        break
      }
      this.#waiting.delete(letter)
      this.#fail(letter, lost(letter.to, `no connection to NATS within ${this.#settings.waitMs} ms`, false))
    }
    this.#settings.look()
  }

  /** Ends everything: what is left, and what is sent from now on, fails. */
  close(): void {
    this.#isClosed = true
    void this.tellLost()
  }

  /** Fails all that is unsettled now, in slices between which the event loop turns. */
  async tellLost(): Promise<void> {
    this.#stopWaiting()
    const written = this.#takeWritten().map((letter) => ({ letter, isWritten: true }))
    const waiting = [...this.#waiting].map((letter) => ({ letter, isWritten: false }))
    this.#waiting.clear()
    for (const [at, { letter, isWritten }] of [...written, ...waiting].entries()) {
      this.#fail(letter, lost(letter.to, HAS_LEFT, isWritten))
      if ((at + 1) % TOLD_IN_ONE_TURN === 0) await new Promise(setImmediate)
    }
  }
}

function expireWaiting(post: Post): void {
  post.expireWaiting()
}

function noResponders(to: string, subject: string): PeerError {
  return new PeerError('ERR_NO_RESPONDERS', `${to}: nobody listens to ${subject}`, false)
}
