// A connection from another process of this server: its messages arrive, and their outcomes are sent back. A peer that
// cannot authenticate is disconnected before anything else is read.

import { ProtocolError, type SystemError } from '../errors.ts'
import { LimitedLog } from '../log.ts'
import { fromMachineTime } from '../loop/clock.ts'
import { deadlines } from '../loop/deadlines.ts'
import { HUNG_AFTER_MS } from '../process/messages.ts'
import { isEqual } from '../signing.ts'
import {
  kClosed,
  kDrained,
  kEnded,
  kReceived,
  kSecured,
  type Socket,
  type SocketEvents,
  type Transport,
} from '../transport.ts'
import { Call, ONE_WAY } from './call.ts'
import { packFailure } from './failures.ts'
import { FrameReader } from './frame-reader.ts'
import { FrameWriter } from './frame-writer.ts'
import {
  HANDSHAKE_MS,
  type Identity,
  LONGEST_HELLO_BYTES,
  NONCE_BYTES,
  newNonce,
  PROOF_BYTES,
  parseIdentity,
  proofOf,
  type Terms,
} from './handshake.ts'
import type { Answers, Mailbox } from './mailbox.ts'
import { readPublish } from './publish-frame.ts'
import type { WorkerRef } from './references.ts'
import { separation } from './separation.ts'
import { type ItemSink, StreamSource } from './stream-source.ts'
import type { Audience } from './subscriptions.ts'
import {
  encoded,
  type Form,
  isUnreadable,
  Kind,
  NUMBER_BYTES,
  numberAt,
  SLACK_BYTES,
  TIME_BYTES,
  uint32At,
  unexpected,
  unpack,
} from './wire.ts'

/** What a link needs from its mesh. */
export interface IncomingHost {
  /** Where this process is reached. */
  readonly address: string
  readonly secret: Buffer
  readonly transport: Transport
  readonly mailbox: Mailbox
  readonly isLeaving: boolean
  /** Nothing is wanted any more. */
  readonly isSilent: boolean
  terms(): Terms
  /** The peer has authenticated. Returns the reference its messages come from. */
  known(identity: Identity): WorkerRef
  refused(): void
  closed(link: IncomingLink): void
  /** Delivers a message to the subscribers of its subject. */
  deliver(audience: Audience, message: unknown, from: WorkerRef, call: Call): unknown
  /** No more messages will arrive on this link, or the other end has not heard that none should. */
  look(): void
}

/** Limit of answers that the other end has not read. */
const MOST_UNREAD_BYTES = 4 * 1_048_576

const enum State {
  AwaitHello,
  Open,
  /** After `Last`. */
  Ending,
  Closed,
}

export class IncomingLink implements SocketEvents, Answers {
  readonly #host: IncomingHost
  readonly #socket: Socket
  readonly #nonce = newNonce()
  readonly #writer = new FrameWriter()
  readonly #reader = new FrameReader(LONGEST_HELLO_BYTES, (kind, form, bytes, start, end) =>
    this.#frame(kind, form, bytes, start, end),
  )
  readonly #receive = (bytes: Buffer) => this.#reader.receive(bytes)
  /** Until the other end has said who it is; later, until it has had its time to hear that nothing is wanted. */
  #timer: number
  /** Null until that has been proved. */
  #from: WorkerRef | null = null
  /** Where the other end is reached; empty if it has not said so. */
  address = ''
  #state = State.AwaitHello
  #isHung = false
  #terms: Terms | null = null
  /** Number of the next message. */
  #next = 0
  #unsettled = 0
  /** Handled but not reported yet: the last range, and the ranges before it. */
  #first = 0
  #last = -1
  #ranges: number[] = []
  #hasNews = false
  /** The mailbox load last reported to the other end. */
  #toldLoad = 0
  /** `#changes`: number of subscription changes announced. `#unheard`: those the other end has not confirmed. */
  #changes = 0
  readonly #unheard = new Map<number, () => void>()
  /** Requests that the sender may give up. */
  readonly #calls = new Map<number, Call>()
  /** Streams that have not ended. */
  readonly #streams = new Map<number, StreamSource>()

  constructor(host: IncomingHost, socket: Socket) {
    this.#host = host
    this.#socket = socket
    this.#writer.attach(socket, host.transport)
    this.#timer = deadlines.after(HANDSHAKE_MS, () => this.refuse('it has not said who it is'))
    this.#writer.begin(Kind.Challenge)
    this.#writer.bytes(this.#nonce)
    this.#writer.end()
  }

  get from(): WorkerRef {
    return this.#from as WorkerRef // no message is taken before
  }

  /** Whether messages may still arrive. */
  get isOpen(): boolean {
    return this.#state === State.Open
  }

  get isKnown(): boolean {
    return this.#state === State.Open || this.#state === State.Ending
  }

  /** Asks the other end to send nothing more here but what is for all. */
  leave(): void {
    if (this.isOpen) this.#empty(Kind.Leaving)
  }

  /** Asks the other end to send nothing more: here, or, after `Last`, on the link that is to follow this one. */
  silence(): void {
    if (!this.isKnown) return
    this.#empty(Kind.Silence)
    this.#timer = deadlines.after(HUNG_AFTER_MS, hangs, this)
  }

  /** @internal The other end has not heard it in its time. */
  hangs(): void {
    this.#isHung = true
    this.#host.look()
  }

  /**
   * Whether the other end may still close the link, having heard `silence`. One that hangs reads that before the end of
   * the connection, so it loses nothing by it but what it has sent here since it last read: it is told.
   */
  get isAwaited(): boolean {
    return this.isKnown && !this.#isHung
  }

  /** Announces a change of this process's subscriptions. Resolves when the other end knows, or is gone. */
  announce(change: unknown): Promise<void> {
    if (!this.isKnown) return Promise.resolve() // the welcome will include it
    const number = ++this.#changes
    this.#writer.begin(Kind.Interest)
    this.#writer.number(number)
    this.#writer.value(change)
    this.#writer.end()
    return new Promise((resolve) => this.#unheard.set(number, resolve))
  }

  #heard(change: number): void {
    this.#unheard.get(change)?.()
    this.#unheard.delete(change)
  }

  close(): void {
    if (this.#state === State.Closed) return
    this.#tellHandled()
    this.#writer.flush()
    this.#state = State.Closed
    deadlines.cancel(this.#timer)
    this.#socket.end()
    this.#gone()
  }

  #gone(): void {
    for (const call of this.#calls.values()) call.abort('the sender is gone')
    for (const source of this.#streams.values()) source.wake()
    for (const tell of this.#unheard.values()) tell()
    this.#calls.clear()
    this.#unheard.clear()
    this.#host.closed(this)
  }

  [kReceived](bytes: Buffer): void {
    try {
      separation.batch(this.#receive, bytes)
      if (this.#isStuffed()) this.#awaitDrained()
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error
      this.refuse(error.message)
    }
  }

  [kEnded](): void {
    this.#destroy()
  }

  [kClosed](_error: SystemError | null): void {
    this.#destroy()
  }

  /** The peer does not read its answers, or not as fast as it asks for them. */
  #isStuffed(): boolean {
    return this.#socket.queuedBytes > MOST_UNREAD_BYTES
  }

  /** Reads nothing more from the peer until it has read them. */
  #awaitDrained(): void {
    this.#socket.pause()
    this.#socket.awaitDrained()
  }

  [kDrained](): void {
    this.#socket.resume()
    for (const source of this.#streams.values()) source.wake()
  }

  [kSecured](): void {
    // No TLS between processes of one machine.
  }

  /** Closes the link and counts the refusal. */
  refuse(why: string): void {
    if (this.#state === State.Closed) return
    const who = this.#state === State.AwaitHello ? 'a stranger' : 'another worker'
    refusals.log(`${who} at the door of the mesh: ${why}`)
    this.#host.refused()
    this.#destroy()
  }

  #destroy(): void {
    if (this.#state === State.Closed) return
    this.#state = State.Closed
    deadlines.cancel(this.#timer)
    this.#socket.destroy()
    this.#gone()
  }

  #frame(kind: Kind, form: Form, bytes: Buffer, start: number, end: number): void {
    if (this.#state === State.AwaitHello) return this.#hello(kind, bytes, start, end)
    if (this.#state === State.Closed) return
    if (this.#state === State.Open) {
      if (kind === Kind.Message) return this.#take(form, bytes, start, end, ONE_WAY)
      if (kind === Kind.Request) return this.#request(form, bytes, start, end)
      if (kind === Kind.Publish) return this.#published(form, bytes, start, end)
      if (kind === Kind.Last) return this.#ending()
    }
    this.#aboutEarlier(kind, bytes, start, end)
  }

  /** Handles frames that refer to an earlier message. */
  #aboutEarlier(kind: Kind, bytes: Buffer, start: number, end: number): void {
    if (end - start < NUMBER_BYTES) throw unexpected(kind)
    const number = numberAt(bytes, start)
    if (kind === Kind.Cancel) this.#cancel(number)
    else if (kind === Kind.Heard) this.#heard(number)
    else if (kind === Kind.Credit && end - start >= NUMBER_BYTES + 4)
      this.#credit(number, uint32At(bytes, start + NUMBER_BYTES))
    else throw unexpected(kind)
  }

  #hello(kind: Kind, bytes: Buffer, start: number, end: number): void {
    const identityAt = start + NONCE_BYTES + PROOF_BYTES
    if (kind !== Kind.Hello || end < identityAt) throw unexpected(kind)
    const nonce = Buffer.from(bytes.subarray(start, start + NONCE_BYTES))
    const text = bytes.toString('utf8', identityAt, end)
    const { secret, address } = this.#host
    const wanted = proofOf(secret, 'hello', [this.#nonce, nonce, text, address])
    if (!isEqual(bytes.subarray(start + NONCE_BYTES, identityAt), wanted))
      throw new ProtocolError('ERR_MESH_HANDSHAKE', 'it does not know the secret')
    deadlines.cancel(this.#timer)
    this.#state = State.Open
    const identity = parseIdentity(text)
    this.address = identity.address
    this.#from = this.#host.known(identity)
    this.#welcome(nonce)
  }

  #welcome(nonce: Buffer): void {
    const terms = this.#host.terms()
    const text = JSON.stringify(terms)
    this.#terms = terms
    this.#reader.most = terms.maxFrameBytes + SLACK_BYTES
    this.#writer.begin(Kind.Welcome)
    this.#writer.bytes(proofOf(this.#host.secret, 'welcome', [nonce, this.#nonce, text]))
    this.#writer.bytes(Buffer.from(text))
    this.#writer.end()
    if (this.#host.isSilent) this.silence()
    else if (this.#host.isLeaving) this.leave()
  }

  #request(form: Form, bytes: Buffer, start: number, end: number): void {
    if (end - start < TIME_BYTES) throw unexpected(Kind.Request)
    this.#take(form, bytes, start + TIME_BYTES, end, callUntil(bytes.readDoubleLE(start)))
  }

  #take(form: Form, bytes: Buffer, start: number, end: number, call: Call): void {
    const number = this.#number()
    const message = this.#read(number, form, bytes, start, end)
    if (message !== UNREADABLE) this.#host.mailbox.take(this, number, message, call)
  }

  /** Decodes a message. UNREADABLE if that is impossible; the sender has been told then. */
  #read(number: number, form: Form, bytes: Buffer, start: number, end: number): unknown {
    try {
      return unpack(form, bytes, start, end)
    } catch (error) {
      if (!isUnreadable(error)) throw error
      this.fail(number, error, false)
      return UNREADABLE
    }
  }

  /** Number of the message that has just arrived. */
  #number(): number {
    if (++this.#unsettled > (this.#terms?.maxMessages ?? 0))
      throw new ProtocolError('ERR_MESH_FRAME', 'it sends more than it may')
    return this.#next++
  }

  #published(form: Form, bytes: Buffer, start: number, end: number): void {
    const { audience, expiresAt, asks, at } = readPublish(bytes, start, end)
    const call = asks ? callUntil(expiresAt) : ONE_WAY
    const handler = (from: WorkerRef, message: unknown) => this.#host.deliver(audience, message, from, call)
    const number = this.#number()
    const message = this.#read(number, form, bytes, at, end)
    if (message !== UNREADABLE) this.#host.mailbox.take(this, number, message, call, handler)
  }

  #ending(): void {
    this.#state = State.Ending
    this.#host.mailbox.whenBegun(() => {
      if (this.#state !== State.Closed) this.#empty(Kind.Begun)
    })
    this.#host.look()
  }

  #cancel(number: number): void {
    this.#calls.get(number)?.abort('the sender has given up')
    this.#streams.get(number)?.wake()
  }

  #credit(number: number, items: number): void {
    this.#streams.get(number)?.credit(items) // it may have ended meanwhile
  }

  #empty(kind: Kind): void {
    this.#writer.begin(kind)
    this.#writer.end()
  }

  // Answers

  handled(number: number): void {
    this.#unsettled--
    if (number === this.#last + 1) this.#last = number
    else {
      if (this.#last >= this.#first) this.#ranges.push(this.#first, this.#last)
      this.#first = this.#last = number
    }
    if (!this.#hasNews) this.#tellSoon()
  }

  #tellSoon(): void {
    this.#hasNews = true
    nextTick(IncomingLink.#tell, this)
  }

  /** Runs after the handlers of this turn: one frame for all of them. */
  static #tell(link: IncomingLink): void {
    link.#tellHandled()
  }

  #tellHandled(): void {
    if (!this.#hasNews || this.#state === State.Closed) return
    this.#hasNews = false
    const writer = this.#writer
    if (this.#last >= this.#first) this.#ranges.push(this.#first, this.#last)
    writer.begin(Kind.Handled)
    this.#toldLoad = this.#host.mailbox.load
    writer.uint32(this.#toldLoad)
    for (const number of this.#ranges) writer.number(number)
    writer.end()
    this.#ranges.length = 0
    this.#first = this.#last + 1
  }

  answer(number: number, value: unknown): void {
    if (this.#state === State.Closed) return
    this.#value(Kind.Answer, number, value)
    this.#unsettled--
    if (!this.#hasNews && this.#host.mailbox.load !== this.#toldLoad) this.#tellSoon()
  }

  fail(number: number, error: unknown, wasHandled: boolean): void {
    if (this.#state === State.Closed) return
    this.#unsettled--
    const writer = this.#writer
    const failure = packFailure(error) // before the frame begins: what was thrown may have getters
    writer.begin(Kind.Failure)
    writer.number(number)
    writer.uint8(wasHandled ? 1 : 0)
    writer.value(failure)
    writer.end()
  }

  remember(number: number, call: Call): void {
    this.#calls.set(number, call)
    if (this.#state === State.Closed) call.abort('the sender is gone')
  }

  forget(number: number): void {
    this.#calls.delete(number)
  }

  /** Sends a stream. Rejects with what the iterable throws. Ends early when the reader stops. */
  async stream(number: number, items: AsyncIterable<unknown>, call: Call): Promise<void> {
    const source = new StreamSource(items, call, this.#sink(number))
    this.#streams.set(number, source)
    this.#numbered(Kind.Stream, number)
    try {
      await source.pump()
    } finally {
      this.#streams.delete(number)
    }
    this.#unsettled--
    this.#numbered(Kind.End, number)
  }

  #sink(number: number): ItemSink {
    const link = this
    return {
      get isClosed() {
        return link.#state === State.Closed
      },
      isFull() {
        const isStuffed = link.#isStuffed()
        if (isStuffed) link.#awaitDrained()
        return isStuffed
      },
      item: (value) => link.#value(Kind.Item, number, value),
    }
  }

  #numbered(kind: Kind, number: number): void {
    if (this.#state === State.Closed) return
    this.#writer.begin(kind)
    this.#writer.number(number)
    this.#writer.end()
  }

  /** Throws UsageError. */
  #value(kind: Kind, number: number, given: unknown): void {
    if (this.#state === State.Closed) return
    const writer = this.#writer
    const value = encoded(given)
    writer.begin(kind)
    writer.number(number)
    writer.value(value)
    writer.end()
  }
}

const UNREADABLE = Symbol('unreadable')
const { nextTick } = process
const refusals = new LimitedLog()

function hangs(link: IncomingLink): void {
  link.hangs()
}

/** 0 is no limit. */
function callUntil(expiresAt: number): Call {
  return new Call(true, expiresAt > 0 ? fromMachineTime(expiresAt) : Number.POSITIVE_INFINITY)
}
