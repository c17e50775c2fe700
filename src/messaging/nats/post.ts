// What a process sends over NATS and does not know to have arrived. Each message ends once: NATS has it (a publish), a
// worker has handled or answered it, or its sender is told. While there is no connection, messages wait in order.

import type { Msg } from '@nats-io/transport-node'
import { codeOf, messageOf, PeerError, type SendError } from '../../errors.ts'
import { LimitedLog } from '../../log.ts'
import { now } from '../../loop/clock.ts'
import { deadlines } from '../../loop/deadlines.ts'
import { nothing } from '../../nothing.ts'
import { lost } from '../failures.ts'
import type { Unsettled } from '../ledger.ts'
import { Losses, type LossesOwner, TOLD_IN_ONE_TURN } from '../losses.ts'
import { type Carrier, PendingRequest, type RequestOptions } from '../pending-request.ts'
import { Room } from '../room.ts'
import { Asked } from './asked.ts'
import { Batch } from './batch.ts'
import { isFailure, isNobody, readFailure, readMessage, writeRemaining } from './headers.ts'
import type { Letter } from './letter.ts'
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

const HAS_LEFT = 'this process has left'

export class Post implements Carrier, LossesOwner {
  readonly #link: NatsLink
  readonly #settings: PostSettings
  /** Subjects of answers are this, a dot, and a number. */
  readonly #inbox: string
  /** For a connection, in order. */
  readonly #waiting = new Set<Letter>()
  #waitTimer = 0
  readonly #asked = new Asked()
  /** Not known to have been handled: their senders are told in turns. */
  readonly #losses = new Losses(this)
  /** Published, and not confirmed by NATS; and those that the flush under way will confirm. */
  #published = new Batch()
  #confirming = new Batch()
  /** The present one; a connection that ends begins another. */
  #confirmation = 0
  #isConfirming = false
  #number = 0
  readonly #troubles = new LimitedLog()
  #isClosed = false
  /** What is unsettled, without answers. */
  readonly #room: Room

  /** Number of unsettled messages, without answers. */
  get count(): number {
    return this.#room.count
  }

  /** Whether something may still have to leave: answers are not counted. */
  get isBusy(): boolean {
    return this.#room.count + this.#waiting.size + this.#published.letters.length + this.#confirming.letters.length > 0
  }

  constructor(link: NatsLink, inbox: string, settings: PostSettings) {
    this.#link = link
    this.#inbox = inbox
    this.#settings = settings
    const { maxPendingMessages: maxMessages, maxPendingBytes: maxBytes } = settings
    this.#room = new Room({ maxMessages, maxBytes }, { onFull: nothing, onDrain: () => settings.onDrain() })
    link.subscribe(`${inbox}.*`, '', (message) => this.#answered(message))
  }

  // Sending

  /** To whoever listens; NATS confirms. Returns false to stop until `onDrain`. */
  publish(letter: Letter): boolean {
    return this.#room.isFree ? this.#take(letter) : this.#refuse(letter)
  }

  /** To one worker, which confirms that it has handled the message. Returns false to stop until `onDrain`. */
  send(letter: Letter, timeoutMs: number): boolean {
    if (!this.#room.isFree) return this.#refuse(letter)
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
    if (!this.#room.isFree) pending.refuse(this.#fullError())
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

  #refuse(letter: Letter): false {
    this.#settings.onSendFail(this.#fullError(), letter)
    return false
  }

  /** The sender waits for `onDrain` from now on. */
  #fullError(): PeerError {
    this.#room.full()
    const { maxPendingMessages, maxPendingBytes } = this.#settings
    const limits = `maxPendingMessages ${maxPendingMessages}, maxPendingBytes ${maxPendingBytes}`
    return new PeerError('ERR_QUEUE_FULL', `${this.#room.content} are not settled: ${limits}`, false)
  }

  #take(letter: Letter): boolean {
    this.#room.add(letter.payload.length)
    if (letter.owner !== null) letter.owner.count++
    if (this.#room.count === 1) this.#settings.look()
    if (this.#isClosed) this.#losses.refuse({ entry: letter, size: 0 })
    else this.#post(letter)
    return this.#room.check()
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
    this.#asked.add(letter)
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
    const letter = this.#asked.take(Number(message.subject.slice(this.#inbox.length + 1)))
    if (letter === undefined || letter.pending === null) return // given up
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
    this.#asked.take(number)
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
    this.#room.give(letter.payload.length)
    if (letter.owner !== null) letter.owner.count--
    if (this.#room.count === 0) this.#settings.look()
    this.#room.look()
  }

  /** @param error whose `mayHaveBeenHandled` is false if it is certain */
  #fail(letter: Letter, error: PeerError): void {
    if (letter.isSettled) return
    if (letter.pending === null) {
      this.#settle(letter)
      if (letter.isAnswer) this.#troubles.log(`an answer is lost: ${error.message}`)
      else this.#settings.onSendFail(error, letter)
    } else if (error.mayHaveBeenHandled || this.#isClosed) letter.pending.fail(error)
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
    this.#lose(this.#takeWritten(), 'the connection to NATS has ended', true)
    this.#settings.look()
  }

  /** NATS says so once for each message. */
  forbidden(subject: string): void {
    const published = this.#confirming.refused(subject) ?? this.#published.refused(subject)
    const letter = published ?? this.#asked.takeNewest(subject) // nothing confirms that NATS has taken the older ones
    if (letter === undefined) return
    this.#fail(letter, new PeerError('ERR_NATS_PERMISSION', `${letter.to}: NATS does not permit ${subject}`, false))
  }

  /** Tells their senders from now on, in turns. */
  #lose(letters: readonly Letter[], why: string, mayHaveBeenHandled: boolean): void {
    const entries = letters.map((letter) => ({ entry: letter, size: 0 }))
    this.#losses.fail(entries, new PeerError('ERR_PEER_LOST', why, mayHaveBeenHandled))
  }

  /** Of what is sent once this has ended. */
  failRefused(refused: readonly Unsettled[]): void {
    this.#losses.fail(refused, new PeerError('ERR_PEER_LOST', HAS_LEFT, false))
  }

  /** The same reason for many, but each has its own receiver. */
  giveBack(letter: Letter, _size: number, { message, mayHaveBeenHandled }: PeerError): void {
    this.#fail(letter, lost(letter.to, message, mayHaveBeenHandled))
  }

  #takeWritten(): Letter[] {
    const written = [...this.#asked.takeAll(), ...this.#confirming.letters, ...this.#published.letters]
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
    const expired: Letter[] = []
    for (const letter of this.#waiting) {
      if (letter.waitsUntil > time) {
        this.#await(letter)
        break
      }
      this.#waiting.delete(letter)
      expired.push(letter)
    }
    this.#lose(expired, `no connection to NATS within ${this.#settings.waitMs} ms`, false)
    this.#settings.look()
  }

  /** Ends everything: what is left fails now, and what is sent from now on later, or when this is called again. */
  close(): void {
    this.#isClosed = true
    this.#loseAll()
    this.#losses.tell(Number.POSITIVE_INFINITY)
  }

  /** Fails all that is unsettled now, in slices between which the event loop turns. */
  async tellLost(): Promise<void> {
    this.#loseAll()
    while (this.#losses.tell(TOLD_IN_ONE_TURN)) await new Promise(setImmediate)
  }

  /** Told of by `Losses.tell`. */
  #loseAll(): void {
    this.#stopWaiting()
    const [written, waiting] = [this.#takeWritten(), [...this.#waiting]]
    this.#waiting.clear()
    this.#losses.hold()
    this.failRefused(this.#losses.takeRefused())
    this.#lose(written, HAS_LEFT, true)
    this.#lose(waiting, HAS_LEFT, false)
  }
}

function expireWaiting(post: Post): void {
  post.expireWaiting()
}

function noResponders(to: string, subject: string): PeerError {
  return new PeerError('ERR_NO_RESPONDERS', `${to}: nobody listens to ${subject}`, false)
}
