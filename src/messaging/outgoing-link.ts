// The connection to one process: messages go out, and their outcomes come back. It lives as long as that process, or
// until its outbox has a newer link; what is unsettled when it ends may or may not have been handled.

import { messageOf, ProtocolError, type SendError, type SystemError } from '../errors.ts'
import { LimitedLog } from '../log.ts'
import { recently, toMachineTime } from '../loop/clock.ts'
import { deadlines } from '../loop/deadlines.ts'
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
import { readFailure } from './failures.ts'
import { FrameReader } from './frame-reader.ts'
import { FrameWriter } from './frame-writer.ts'
import {
  HANDSHAKE_MS,
  type Identity,
  LONGEST_HELLO_BYTES,
  NONCE_BYTES,
  newNonce,
  PROOF_BYTES,
  parseTerms,
  proofOf,
  type Terms,
} from './handshake.ts'
import { Ledger, type Unsettled } from './ledger.ts'
import type { Route } from './peers.ts'
import { PendingRequest } from './pending-request.ts'
import { separation } from './separation.ts'
import type { Audience } from './subscriptions.ts'
import {
  type CountedKind,
  Flag,
  type Form,
  Kind,
  NUMBER_BYTES,
  numberAt,
  tooLarge,
  uint32At,
  unexpected,
  unpack,
} from './wire.ts'

/** Owner of the link: sends over it. */
export interface LinkOwner {
  /** From now on the link can be written to. */
  opened(link: OutgoingLink): void
  /** A written message has settled, with whatever outcome. */
  settled(size: number): void
  /** What the other process said about an entry is invalid. */
  misread(entry: unknown, size: number, why: string): void
  /** The other process wants nothing more but what is for all. */
  leaving(link: OutgoingLink): void
  /** The other process wants nothing more. */
  silent(link: OutgoingLink): void
  /** A message (not a request) that the other process did not handle. */
  failed(error: SendError, message: unknown): void
  /** The other process's subscriptions have changed. */
  interested(link: OutgoingLink, change: unknown): void
  /** The link is over; called once, even if it never opened. With the entries that are unsettled. */
  lost(link: OutgoingLink, why: string, unsettled: readonly Unsettled[]): void
}

/** Who goes on to hear the process's subscriptions here, when the owner sends nothing more. */
export interface LinkListener {
  interested(link: OutgoingLink, change: unknown): void
  /** The other process wants nothing more. */
  silent(link: OutgoingLink): void
  /** The link is over before `release()`. */
  unheard(link: OutgoingLink): void
}

export interface Credentials {
  readonly identity: Identity
  readonly secret: Buffer
}

const enum State {
  Connecting,
  AwaitChallenge,
  AwaitWelcome,
  Open,
  /** After `last()`. */
  Ending,
  Closed,
}

/** How long a reported load counts: a worker avoided because of its load sends no update, so the figure expires. */
const LOAD_HOLDS_MS = 1000
const liars = new LimitedLog()
const MISSING = Symbol('missing')
/** Frames that come back are answers, whose size is up to the handler. */
const LONGEST_ANSWER_BYTES = 2 ** 31

export class OutgoingLink implements SocketEvents {
  readonly route: Route
  terms: Terms | null = null
  /** The part of others in the mailbox load that the process last reported, and when. */
  #load = 0
  #loadedAt = 0
  readonly #owner: LinkOwner
  readonly #credentials: Credentials
  readonly #ledger = new Ledger()
  readonly #writer = new FrameWriter()
  readonly #reader = new FrameReader(LONGEST_HELLO_BYTES, (kind, form, bytes, start, end) =>
    this.#frame(kind, form, bytes, start, end),
  )
  readonly #aborter = new AbortController()
  #state = State.Connecting
  #socket: Socket | null = null
  #nonce = newNonce()
  #challenge = Buffer.alloc(0)
  readonly #transport: Transport
  #timer: number
  /** Callbacks to call when everything written has begun, or is lost. */
  readonly #begun: (() => void)[] = []
  #listener: LinkListener | null = null

  constructor(owner: LinkOwner, credentials: Credentials, route: Route, transport: Transport) {
    this.#owner = owner
    this.#credentials = credentials
    this.route = route
    this.#transport = transport
    this.#timer = deadlines.after(HANDSHAKE_MS, () => this.close('it did not answer'))
    separation.alone(() => this.#connect()) // the socket must not inherit the context of the first sender
  }

  #connect(): void {
    const target = { transport: 'unix' as const, host: '', port: 0, path: this.route.address, proxy: null }
    this.#transport.connect(target, this.#aborter.signal).then(
      (socket) => this.#connected(socket),
      (error: Error) => this.close(error.message.replaceAll('\0', '@')),
    )
  }

  get isOpen(): boolean {
    return this.#state === State.Open
  }

  /** The other process's mailbox load from other senders, roughly; 0 if it has not reported one lately. */
  get load(): number {
    return this.#load > 0 && recently() - this.#loadedAt < LOAD_HOLDS_MS ? this.#load : 0
  }

  get unsettled(): number {
    return this.#ledger.count
  }

  /**
   * Writes a message, or a request that is useless after `expiresAt`. Returns its size in bytes. Throws UsageError for
   * what is too large.
   * @param value what `encoded` returned
   */
  write(
    kind: CountedKind,
    value: unknown,
    entry: unknown,
    expiresAt: number,
    most: number,
    audience: Audience | null,
  ): number {
    const writer = this.#writer
    writer.begin(kind)
    try {
      if (kind !== Kind.Message) writer.double(expiresAt === Number.POSITIVE_INFINITY ? 0 : toMachineTime(expiresAt))
      if (audience !== null) this.#address(audience, entry instanceof PendingRequest)
      const headBytes = writer.size
      writer.value(value)
      const bytes = writer.size - headBytes
      if (bytes > most) throw tooLarge(`worker ${this.route.mailbox}:${this.route.id}`, bytes, most)
    } catch (error) {
      writer.cancel()
      throw error
    }
    const { size } = writer
    writer.end()
    const number = this.#ledger.add(entry, size)
    if (entry instanceof PendingRequest) entry.sent(this, number)
    return size
  }

  /** Like `write`, for a frame made for many links. */
  writeWhole(frame: Buffer, entry: unknown): number {
    this.#writer.whole(frame)
    this.#ledger.add(entry, frame.length)
    return frame.length
  }

  #address({ subject, isForAll, queues }: Audience, isRequest: boolean): void {
    const writer = this.#writer
    writer.uint8((isForAll ? Flag.ForAll : 0) | (isRequest ? Flag.Asks : 0))
    writer.uint8(queues.length)
    for (const queue of queues) writer.label(queue)
    writer.label(subject)
  }

  cancel(number: number): void {
    if (this.#state === State.Closed) return
    this.#writer.begin(Kind.Cancel)
    this.#writer.number(number)
    this.#writer.end()
  }

  credit(number: number, items: number): void {
    if (this.#state === State.Closed) return
    this.#writer.begin(Kind.Credit)
    this.#writer.number(number)
    this.#writer.uint32(items)
    this.#writer.end()
  }

  /** Calls back when everything that is written before `last()` has begun, or is lost. */
  whenBegun(tell: () => void): void {
    this.#begun.push(tell)
  }

  #tellBegun(): void {
    for (const tell of this.#begun.splice(0)) tell()
  }

  /** Nothing follows: the link closes when all is settled, unless it is kept. */
  last(): void {
    if (this.#state !== State.Open) return
    this.#state = State.Ending
    this.#writer.begin(Kind.Last)
    this.#writer.end()
  }

  /** It stays open after `last()`, and tells `listener` of subscriptions, until `release()`. */
  keep(listener: LinkListener): void {
    this.#listener = listener
  }

  release(): void {
    this.#listener = null
    this.#endIfDone()
  }

  #endIfDone(): void {
    if (this.#state === State.Ending && this.#ledger.count === 0 && this.#listener === null) this.close('')
  }

  close(why: string): void {
    if (this.#state === State.Closed) return
    this.#state = State.Closed
    deadlines.cancel(this.#timer)
    this.#aborter.abort()
    this.#socket?.destroy()
    this.#owner.lost(this, why, this.#ledger.takeAll())
    this.#tellBegun()
    this.#listener?.unheard(this)
  }

  #connected(socket: Socket): void {
    if (this.#state === State.Closed) return socket.destroy()
    this.#state = State.AwaitChallenge
    this.#socket = socket
    this.#writer.attach(socket, this.#transport)
    socket.attach(this)
  }

  [kReceived](bytes: Buffer): void {
    try {
      this.#reader.receive(bytes)
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error
      liars.log(`worker ${this.route.mailbox}:${this.route.id} does not speak as one: ${error.message}`)
      this.close(error.message)
    }
  }

  [kEnded](): void {
    this.close('it has closed the connection')
  }

  [kClosed](error: SystemError | null): void {
    this.close(error?.message ?? 'it has closed the connection')
  }

  [kDrained](): void {
    // What may be queued is bounded by what may be unsettled.
  }

  [kSecured](): void {
    // No TLS between processes of one machine.
  }

  #frame(kind: Kind, form: Form, bytes: Buffer, start: number, end: number): void {
    if (this.#state === State.AwaitChallenge) return this.#answerChallenge(kind, bytes, start, end)
    if (this.#state === State.AwaitWelcome) return this.#open(kind, bytes, start, end)
    if (this.#state === State.Closed) return
    if (kind === Kind.Handled) this.#handled(bytes, start, end)
    else if (kind === Kind.Leaving) this.#owner.leaving(this)
    else if (kind === Kind.Silence) (this.#listener ?? this.#owner).silent(this)
    else if (kind === Kind.Begun) this.#tellBegun()
    else if (kind === Kind.Interest) this.#hear(form, bytes, start, end)
    else this.#answer(kind, form, bytes, start, end)
    this.#endIfDone()
  }

  #hear(form: Form, bytes: Buffer, start: number, end: number): void {
    if (end - start < NUMBER_BYTES) throw unexpected(Kind.Interest)
    const change = unpack(form, bytes, start + NUMBER_BYTES, end)
    const listener = this.#listener ?? this.#owner
    listener.interested(this, change)
    this.#writer.begin(Kind.Heard)
    this.#writer.number(numberAt(bytes, start))
    this.#writer.end()
  }

  #answerChallenge(kind: Kind, bytes: Buffer, start: number, end: number): void {
    if (kind !== Kind.Challenge || end - start !== NONCE_BYTES) throw unexpected(kind)
    const { identity, secret } = this.#credentials
    const writer = this.#writer
    const text = JSON.stringify(identity)
    this.#challenge = Buffer.from(bytes.subarray(start, end))
    writer.begin(Kind.Hello)
    writer.bytes(this.#nonce)
    writer.bytes(proofOf(secret, 'hello', [this.#challenge, this.#nonce, text, this.route.address]))
    writer.bytes(Buffer.from(text))
    writer.end()
    this.#reader.most = LONGEST_ANSWER_BYTES
    this.#state = State.AwaitWelcome
  }

  #open(kind: Kind, bytes: Buffer, start: number, end: number): void {
    if (kind !== Kind.Welcome || end - start < PROOF_BYTES) throw unexpected(kind)
    const text = bytes.toString('utf8', start + PROOF_BYTES, end)
    const wanted = proofOf(this.#credentials.secret, 'welcome', [this.#nonce, this.#challenge, text])
    if (!isEqual(bytes.subarray(start, start + PROOF_BYTES), wanted))
      throw new ProtocolError('ERR_MESH_HANDSHAKE', 'it does not know the secret')
    deadlines.cancel(this.#timer)
    this.terms = parseTerms(text)
    this.#state = State.Open
    this.#owner.opened(this)
  }

  #handled(bytes: Buffer, start: number, end: number): void {
    if (end - start < 4 || (end - start - 4) % (2 * NUMBER_BYTES) !== 0) throw unexpected(Kind.Handled)
    for (let at = start + 4; at < end; at += 2 * NUMBER_BYTES) {
      const last = numberAt(bytes, at + NUMBER_BYTES)
      for (let number = numberAt(bytes, at); number <= last; number++) {
        const entry = this.#ledger.take(number, MISSING)
        if (entry === MISSING)
          throw new ProtocolError('ERR_MESH_FRAME', `message ${number} was not sent, or is settled`)
        if (entry instanceof PendingRequest) entry.answer(undefined)
        this.#owner.settled(this.#ledger.size)
      }
    }
    this.#load = Math.max(0, uint32At(bytes, start) - this.#ledger.count)
    if (this.#load > 0) this.#loadedAt = recently()
  }

  #answer(kind: Kind, form: Form, bytes: Buffer, start: number, end: number): void {
    if (kind < Kind.Answer || kind > Kind.End || end - start < NUMBER_BYTES) throw unexpected(kind)
    const number = numberAt(bytes, start)
    const at = start + NUMBER_BYTES
    const isFinal = kind === Kind.Answer || kind === Kind.Failure || kind === Kind.End
    const entry = isFinal ? this.#ledger.take(number, MISSING) : (this.#ledger.get(number) ?? MISSING)
    if (entry === MISSING) throw new ProtocolError('ERR_MESH_FRAME', `message ${number} was not sent, or is settled`)
    const { size } = this.#ledger
    try {
      if (entry instanceof PendingRequest) entry.receive(kind, form, bytes, at, end)
      else if (kind === Kind.Failure) this.#owner.failed(readFailure(form, bytes, at, end), entry)
      else throw unexpected(kind)
    } catch (error) {
      if (isFinal) this.#owner.misread(entry, size, messageOf(error)) // it is no longer in the ledger
      throw error
    }
    if (isFinal) this.#owner.settled(size)
  }
}
