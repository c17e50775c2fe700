// A connection: a socket and a codec, and what lies between them: size limits, backpressure in both directions, the
// order of asynchronous handlers, deadlines, errors that affect one connection, and the ways to close. It knows the
// Transport interface, never an engine. Callbacks may do anything, even destroy this connection: re-check its state
// after each.
//
// It is long because it is one object: an object per concern, each with a reference back, would double the size of an
// idle connection, and there may be a hundred thousand of them. What few have is an object: `Pipes`, `Farewell`,
// `Waiting`.

import { blamed } from './blame.ts'
import { connectionClosed, hasObeyed, workerStopping } from './connection/aborts.ts'
import { type CodecTimer, clearTimers, forgetTimer, kExpire, setTimer } from './connection/codec-timers.ts'
import { Farewell } from './connection/farewell.ts'
import { asCodec } from './connection/framing-codec.ts'
import {
  type ConnectionClock,
  type ConnectionHost,
  kGone,
  type ProtocolCallbacks,
  processClock,
  settled,
} from './connection/host.ts'
import { Pipes } from './connection/pipes.ts'
import { Rare } from './connection/rare.ts'
import { ConfigurableConnection, kSettings, settingsOf } from './connection/settings.ts'
import {
  Bit,
  DRAIN_LINGER_S,
  EDGES,
  FLUSH_LEAST_BYTES,
  FLUSH_TIMEOUT_MS,
  HOLDS_MESSAGES,
  LAST_ANSWERS_MS,
  MAX_BACKLOG_BYTES,
  MAX_HELD_BYTES,
  NO_CODEC,
  NO_SOCKET,
  NOT_DONE,
  OF_NEXT_LIFE,
  OF_ONE_SEND,
  ONLY_MESSAGES,
  STATUS,
  State,
  Stop,
  YIELD_AFTER_MS,
  YIELD_CHECK,
} from './connection/state.ts'
import {
  kAbort,
  kConnect,
  kConnected,
  kConnectFailed,
  kDrain,
  kEndPipes,
  kForget,
  kHandOver,
  kHasQueued,
  kHasWaiting,
  kHold,
  kIsFull,
  kIsLongLived,
  kIsOpening,
  kIsOver,
  kIsStaying,
  kKeep,
  kLastCall,
  kLeave,
  kLose,
  kOffer,
  kOpen,
  kQuietFor,
  kRelease,
  kRenew,
  kReset,
  kSecure,
  kShut,
  kTaken,
  kTakeOver,
  kTakes,
  kTransport,
} from './connection/symbols.ts'
import { Waiting, type WaitingMessage } from './connection/waiting.ts'
import { countClosed } from './counters.ts'
import { withResolvers } from './deferred.ts'
import { checkedChunks, isChunk } from './encoded.ts'
import { addressesOf } from './endpoint.ts'
import { asError, messageOf, type ProtocolError, propertyOf, type SystemError, UsageError } from './errors.ts'
import { LimitedLog } from './log.ts'
import { apart } from './loop/apart.ts'
import { nothing } from './nothing.ts'
import { Accumulator } from './protocol/accumulator.ts'
import { badCodec, checkProtocol } from './protocol/registry.ts'
import type {
  AnyProtocol,
  CloseReason,
  Codec,
  CodecIo,
  Encoded,
  LastWordReason,
  Peer,
  ProxyInfo,
  Role,
  TlsState,
} from './protocol.ts'
import { disown, isThenable } from './thenable.ts'
import {
  type HandedOver,
  kClosed,
  kDrained,
  kEnded,
  kGrew,
  kReceived,
  kSecured,
  type Socket,
  type SocketEvents,
  type Tls,
} from './transport.ts'

/** A connection of any messages. */
// biome-ignore lint/suspicious/noExplicitAny: messages are in and out at once, so no narrower type holds all
export type AnyConnection = Connection<any, any>

// biome-ignore lint/suspicious/noExplicitAny: what a destination receives does not matter
type Destination<Out> = Connection<any, Out>

const PROTOCOL_STAYS =
  'connection.protocol cannot be set: its codec changes it, with io.upgrade(protocol, rest); WebSocket on an HTTP port is http({ websocket }), and a client takes its protocol as an option'
const NO_BYTES = Buffer.alloc(0)
/** The shared empty queue. */
const NONE: never[] = []
// About the codec at work: when it received its input, and how many messages it has made of it. 0 for one that was not
// given input, but goes on after an answer with what it kept: asynchronous handlers may do that in one chain of
// microtasks, whose beginning nobody knows, so it yields at each check.
let burstStart = 0
let burst = 0
/** Whether the last message of any connection was accepted: its sender reads this before anything else runs. */
let wasAccepted = false

const errors = new LimitedLog()
let lastId = 0

// biome-ignore lint/correctness/noUnusedVariables: a merged interface repeats the class's parameters
export interface Connection<In, Out> extends ProtocolCallbacks {}

/** A connection of a Worker, or of `AsyncTcpConnection`: messages of type `In` come, those of type `Out` are sent. */
// biome-ignore lint/suspicious/noUnsafeDeclarationMerging: the merged interface holds optional callbacks only
// biome-ignore lint/suspicious/noExplicitAny: a plain `Connection` is any connection
export class Connection<In = any, Out = any> extends ConfigurableConnection<In, Out> implements SocketEvents {
  /** What `getStatus()` returns: a client that has not begun to connect. */
  static readonly STATUS_INITIAL = 0
  static readonly STATUS_CONNECTING = 1
  static readonly STATUS_ESTABLISHED = 2
  /** After `end()`: what is queued is sent, then FIN. */
  static readonly STATUS_ENDING = 4
  /** After `close()`: what is queued is sent. */
  static readonly STATUS_CLOSING = 8
  static readonly STATUS_CLOSED = 16
  /** Code of `onError`: a client could not connect. */
  static readonly CONNECT_FAIL = 1
  /** Code of `onError`: a message was refused, or bytes could not be sent. */
  static readonly SEND_FAIL = 2
  /** Code of `onError`: the peer broke the protocol. */
  static readonly PROTOCOL = 3
  /** Code of `onError`: a handler threw, or its promise rejected. */
  static readonly HANDLER = 4
  /** Bytes. 1 MiB, as in Workerman: room for a burst, small enough for thousands of slow clients. */
  static defaultMaxSendBufferSize = 1_048_576
  /** Bytes. 10 MiB, as in Workerman. */
  static defaultMaxPackageSize = 10_485_760
  /** How long `end()` waits for the peer to close after its FIN, in seconds. */
  static defaultLingerTimeout = 1

  /** Unique within this process, starting at 1; other processes use the same ids. */
  readonly id = ++lastId
  /** Bytes received so far. */
  bytesRead = 0
  #bytesWritten = 0

  #socket: Socket
  #protocol: AnyProtocol
  #codec: Codec<Out> = NO_CODEC
  #io: CodecIo<In>
  #state: State = State.Established
  #stops = 0
  #farewell: Farewell | null = null
  #bits = 0
  #inFlight = 0
  #queue: In[] = NONE
  /** Bytes that arrived while the codec must not be called. */
  #held: Accumulator | null = null
  /** Whole milliseconds: a fraction would need an object of its own. */
  #lastActive = 0
  /** The idle timer while established, then the time-out of closing; 0 when none is running. */
  #timer = 0
  #codecTimers: CodecTimer | null = null
  #context: Record<PropertyKey, unknown> | null = null
  #rare: Rare | null = null

  /** @internal Connections are made by their owner, which calls `[kOpen]` after registering them. */
  constructor(
    socket: Socket,
    protocol: AnyProtocol,
    worker: ConnectionHost,
    role: Role = 'server',
    clock: ConnectionClock = processClock,
  ) {
    super(settingsOf(worker, Connection.defaultLingerTimeout, role, clock))
    this.#socket = socket
    if (socket === NO_SOCKET) this.#state = State.Initial
    this.#protocol = protocol
    this.#io = new Connection.#Io(this)
  }

  /** The Worker that accepted the connection; for a client, an internal owner. */
  get worker(): ConnectionHost {
    return this[kSettings].host
  }

  /** Bytes accepted for sending so far. */
  get bytesWritten(): number {
    this.#socket.settle()
    return this.#bytesWritten
  }

  /** Why the connection has closed or is closing; null before that. */
  get closeReason(): CloseReason | null {
    return this.#rare === null ? null : this.#rare.closeReason
  }

  /** The code a codec has given, by `io.close(code)` or as its `closeCode`, such as WebSocket's; 0 for none. */
  get closeCode(): number {
    return this.#rare === null ? 0 : this.#rare.closeCode
  }

  // Methods for users

  /** For your own data; the package does not touch it. */
  get context(): Record<PropertyKey, unknown> {
    this.#context ??= {}
    return this.#context
  }

  set context(value: Record<PropertyKey, unknown>) {
    this.#context = value
  }

  /**
   * Sends a message; with `raw`, bytes that bypass the protocol (in HTTP: the whole answer of a request, and the end of
   * the connection). Returns true to go on, false to stop sending. False means that either the message was
   * refused, and `onError` ran with SEND_FAIL before this returned, or it was accepted, `onBufferFull` has been called
   * and `onBufferDrain` will be. Throws UsageError for a message the protocol cannot encode. The connection owns the
   * bytes from then on: do not change them.
   */
  send(message: Out): boolean
  send(bytes: Encoded, raw: true): boolean
  send(message: Out | Encoded, raw = false): boolean {
    if (this.#state !== State.Established || this.#is(Bit.LastWord) || this.#isShakingHands())
      return this.#turnAway(message, raw)
    return this.#sendNow(message, raw, 0)
  }

  /** Sends `message`, if any, and what is queued, then closes. Idempotent. */
  close(message?: Out): void
  close(bytes: Encoded, raw: true): void
  close(message?: Out | Encoded, raw = false): void {
    if (this.#state >= State.Closing || this.#is(Bit.LastWord)) return this.#forget(message, raw)
    this.#sendLast(message, raw)
    if (this.#is(Bit.LastWord)) return // a callback for that message has closed
    if (!this.#hasMoreToSay('closed')) this.#close()
  }

  /**
   * Closes like `close`, but with a half-close: sends FIN after what is queued, then reads and discards until the peer
   * closes or `lingerTimeout` has passed. A peer that is still sending receives the last message instead of a reset.
   */
  end(message?: Out): void
  end(bytes: Encoded, raw: true): void
  end(message?: Out | Encoded, raw = false): void {
    if (this.#state !== State.Established || this.#is(Bit.LastWord)) return this.#forget(message, raw)
    this.#sendLast(message, raw)
    if (this.#is(Bit.LastWord)) return
    if (!this.#hasMoreToSay('closed')) this.#end()
  }

  /** Closes at once and discards what is queued. `onClose` runs before this returns. */
  destroy(): void {
    this[kForget]()
    this.#drop()
  }

  /**
   * Stops delivering messages until `resumeRecv()`; TCP flow control slows the peer down. What is sent leaves: if it
   * waits for the handshake of a WebSocket, that goes on.
   */
  pauseRecv(): void {
    this.#hold(Stop.User)
  }

  /** Resumes delivery after `pauseRecv()`. */
  resumeRecv(): void {
    this.#startApart(Stop.User)
  }

  /**
   * Sends every message on to `destination`. A full destination pauses this connection, and when either of them closes,
   * or has closed by now, so does the other. One direction only; if two connections pipe into each other, the end of
   * one direction (FIN) is passed on, and the other direction continues to its own end. Replaces `onMessage` of this
   * connection and no other callback. A destination may have several sources; a source has one destination, the last
   * one given.
   */
  pipe(destination: Destination<In>): void {
    const pipes = this.#pipes()
    this.onMessage = (_connection, message) => {
      pipes.noteMessage()
      if (!destination.send(message) && destination.#takesNoMore) this.close()
    }
    pipes.leadTo(destination.#pipes())
  }

  /**
   * Switches to TLS, as STARTTLS does; a server uses `worker.ssl`. Resolves when the handshake is done; rejects with an
   * AbortError if the connection ends instead. What is queued is sent first, unencrypted. What was received before is
   * discarded (RFC 3207 section 4.2: an attacker may have injected it): the codec starts over, and unhandled messages
   * are dropped. Sends are refused during the handshake. Throws UsageError: ERR_NO_TLS, ERR_TLS_TWICE.
   */
  startTls(): Promise<void> {
    const { tls } = this.worker
    if (tls === null)
      throw new UsageError('ERR_NO_TLS', `startTls() takes 'ssl' settings of worker '${this.worker.name}'`)
    return this[kSecure](tls)
  }

  /** What a proxy has sent about the client (`worker.proxyProtocol`); null without one. */
  get proxy(): ProxyInfo | null {
    return this.#socket.proxy
  }

  /** Null without TLS. */
  get tls(): TlsState | null {
    return this.#socket.tls
  }

  /**
   * Returns 0 initial, 1 connecting (both clients only), 2 established, 4 ending, 8 closing or 16 closed;
   * `getStatus(false)` returns the word.
   */
  getStatus(raw?: true): number
  getStatus(raw: false): string
  getStatus(raw = true): number | string {
    return raw ? this.#state : STATUS[this.#state]
  }

  /** Empty for a Unix socket, as are all addresses. */
  getRemoteIp(): string {
    return this.#socket.remoteIp
  }

  /** 0 on a Unix socket. */
  getRemotePort(): number {
    return this.#socket.remotePort
  }

  /** The address that the peer has connected to; empty on a Unix socket. */
  getLocalIp(): string {
    return this.#socket.localIp
  }

  /** 0 on a Unix socket. */
  getLocalPort(): number {
    return this.#socket.localPort
  }

  /** Returns the bytes sent that the kernel has not taken yet, also those that wait until they can be sent. */
  getSendBufferQueueSize(): number {
    return this.#socket.queuedBytes + this.#waitingBytes
  }

  /** Whether the kernel has taken everything that was sent. */
  bufferIsEmpty(): boolean {
    return this.#socket.queuedBytes === 0 && !this[kHasWaiting]
  }

  /** Returns the bytes received that have not reached a handler, except the part of a packet that the codec keeps. */
  getRecvBufferQueueSize(): number {
    // Behind a queue, held bytes are part of the backlog.
    return Math.max(this.#rare?.backlog ?? 0, this.#held?.length ?? 0)
  }

  /** For a log: id, status, transport and addresses. */
  toJSON(): Record<string, unknown> {
    return { id: this.id, status: this.getStatus(false), transport: this[kTransport], ...addressesOf(this) }
  }

  /** The current protocol; an upgrade changes it. A client that has closed is back at its first one. */
  get protocol(): AnyProtocol {
    return this.#protocol
  }

  /**
   * @internal Workerman's way to change it. Here only its codec can: messages that are queued have been decoded, and
   * where the bytes of the next protocol begin is known while the message before them is read.
   */
  set protocol(_: AnyProtocol) {
    throw new UsageError('ERR_UNKNOWN_OPTION', PROTOCOL_STAYS)
  }

  /**
   * Aborts when this connection closes (ERR_CONNECTION_CLOSED), or when the worker's drain time is nearly up
   * (ERR_WORKER_STOPPING) and a handler should give its last answer: for `fetch` and other calls that take a signal.
   */
  get signal(): AbortSignal {
    const more = this.#more()
    if (more.aborter === null) {
      more.aborter = new AbortController()
      if (this.#state === State.Closed) more.aborter.abort(connectionClosed(this.closeReason))
    }
    return more.aborter.signal
  }

  // State

  /** It refuses whatever it is sent. A client that is to connect again does not: that waits for the next connection. */
  get #takesNoMore(): boolean {
    return this.#state > State.Established && (this.#state !== State.Closed || this[kIsOver])
  }

  #isShakingHands(): boolean {
    return this.#rare !== null && this.#rare.handshake !== null
  }

  #is(bit: Bit): boolean {
    return (this.#bits & bit) !== 0
  }

  #set(bit: Bit, isSo: boolean): void {
    if (isSo) this.#bits |= bit
    else this.#bits &= ~bit
  }

  #more(): Rare {
    this.#rare ??= new Rare()
    return this.#rare
  }

  #pipes(): Pipes {
    const more = this.#more()
    more.pipes ??= new Pipes(this, this[kSettings].role)
    return more.pipes
  }

  #move(to: State): void {
    if (!EDGES[this.#state].includes(to)) throw new Error(`a connection does not go from ${this.#state} to ${to}`)
    this.#state = to
  }

  // Calls from the owner

  [kOpen](): void {
    this.worker.counters.accepted++
    this.#open(this.worker.onConnect)
  }

  #enter(): void {
    this.worker.counters.connections++
    this.worker.connections.set(this.id, this)
    this.#lastActive = Math.ceil(this[kSettings].clock.now())
    this.#armIdle(this.worker.idleTimeoutMs)
    this.#stops |= Stop.Opening
  }

  #open(onConnect: ((connection: this) => unknown) | null): void {
    this.#enter()
    this.#guard(() => this.#openCodec())
    if (this.#state !== State.Established) return
    const opened = this.#call(onConnect)
    if (!isThenable(opened)) return this.#start(Stop.Opening)
    this.#syncReading()
    this.#follow(opened, () => {
      this.#lastActive = Math.ceil(this[kSettings].clock.now()) // until now the silence was ours
      this.#start(Stop.Opening)
    })
  }

  /**
   * Leaves this process at a message boundary, for `[kTakeOver]` in another; the caller owns the descriptor. Returns
   * null when it is not at a boundary (a handler or an answer is in progress, delivery is held back, the peer has
   * ended), when its protocol cannot be exported, or when the engine cannot release it (TLS, the node engine).
   * `onClose` is not called, since the connection goes on. The user's `context`, and callbacks set on the connection,
   * stay behind. The reload that uses this comes later.
   */
  [kHandOver](): HandedOver | null {
    const codec = this.#isAtBoundary ? (this.#codec.export?.() ?? null) : null
    if (codec === null) return null
    const rest = Buffer.from(codec.rest) // a copy: it belongs to a codec that is about to end
    const released = this.#socket.release()
    if (released === null) return null
    const kept = Buffer.concat([rest, this.#held?.view() ?? NO_BYTES])
    const handed: HandedOver = {
      ...released,
      unread: Buffer.concat([kept, released.unread]),
      protocol: this.#protocol.name,
      state: codec.state,
      bytesRead: this.bytesRead - kept.length,
      bytesWritten: this.bytesWritten,
    }
    this.#moveAway()
    return handed
  }

  /** No message is in progress between the receipt of its bytes and the end of its handler. */
  get #isAtBoundary(): boolean {
    if (this.#state !== State.Established || (this.#stops & ~Stop.Yield) !== 0 || this.#is(Bit.InCodec)) return false
    if (
      this.#inFlight > 0 ||
      this.#queue.length > 0 ||
      this.#is(Bit.Pumping) ||
      this.#is(Bit.Full) ||
      this.#is(Bit.LastWord)
    )
      return false
    if (this.#is(Bit.PeerEnded) || this.#farewell !== null || this[kHasWaiting]) return false
    const { failure = null, handshake = null, pipes = null } = this.#rare ?? {}
    if (failure !== null || handshake !== null || pipes?.isInUse === true) return false
    return this.#io.onSettled === null && this.#io.onDrain === null
  }

  #moveAway(): void {
    this.#move(State.Closed)
    this.#held = null
    this.#cancelTimers()
    if (this.worker.connections.delete(this.id)) this.worker.counters.connections--
    this.#rare?.aborter?.abort(connectionClosed('moved'))
    this.#letCodecGo('moved')
    this.worker[kGone](this)
  }

  /**
   * Continues where another process has left off; its socket has been adopted. Throws UsageError for a connection of
   * another protocol. The reload that uses this comes later.
   */
  [kTakeOver]({ protocol, state, bytesRead, bytesWritten }: HandedOver): void {
    const codec = asCodec(this.#protocol)
    if (codec.name !== protocol || codec.import === undefined)
      throw new UsageError(
        'ERR_NOT_IMPORTED',
        `protocol '${codec.name}' cannot go on with a connection of '${protocol}'`,
      )
    this.bytesRead = bytesRead
    this.#bytesWritten = bytesWritten
    this.#enter()
    this.#guard(() => {
      this.#codec = codec.import?.(this.#io, this.#io.role, state) as Codec<Out>
    })
    this.#socket.attach(this)
    this.#start(Stop.Opening)
  }

  [kReset](): void {
    this.#move(State.Initial)
    this.#socket = NO_SOCKET
    this.#codec = NO_CODEC
    this.#io = new Connection.#Io(this)
    const more = this.#more()
    more.life++
    more.backlog = more.closeCode = 0
    more.failure = more.aborter = more.closeReason = null
    this.#farewell = null
    this.#inFlight = this.bytesRead = this.#bytesWritten = 0
    this.#tidyUp() // the handlers of this life are counted no longer
    this.#stops &= OF_NEXT_LIFE.stops
    this.#bits &= OF_NEXT_LIFE.bits
  }

  [kConnect](): void {
    this.#move(State.Connecting)
  }

  [kConnected](socket: Socket, onConnect: ((connection: this) => unknown) | null): void {
    this.#socket = socket
    this.#move(State.Established)
    socket.attach(this)
    this.#open((connection) => {
      this.#sendWaiting()
      if (this.#state === State.Established) return onConnect?.(connection)
    })
    this.#shut()
    if (this.#rare?.pipes?.hasLostEnd === true) this.close()
  }

  [kConnectFailed](error: Error): void {
    this.#more().closeReason = 'error'
    this.#report(Connection.CONNECT_FAIL, error.message, error)
    this.#drop()
  }

  [kKeep](message: unknown, isRaw: boolean, size: number): boolean {
    if (this.#waitingBytes >= this.maxSendBufferSize && !this.#is(Bit.Accepted))
      return this.#leaveOut('send buffer full and drop package')
    const more = this.#more()
    more.waiting ??= new Waiting()
    more.waiting.add({ message, isRaw, size })
    this.#bits |= Bit.NotSent | Bit.Kept
    if (more.waiting.bytes < this.maxSendBufferSize) return true
    this.#fill()
    return false
  }

  get [kHasWaiting](): boolean {
    return this.#rare !== null && this.#rare.waiting !== null && this.#rare.waiting.count > 0
  }

  get #waitingBytes(): number {
    return this.#rare?.waiting?.bytes ?? 0
  }

  [kForget](): void {
    if (!this[kHasWaiting]) return
    for (const { message, isRaw } of this.#takeWaiting()) this.#forget(message as Out, isRaw)
  }

  [kLose](): void {
    const count = this.#rare?.waiting?.count ?? 0
    this[kForget]()
    if (count > 0) this.#refuse(`${count} message${count === 1 ? '' : 's'} not sent`)
  }

  #takeWaiting(): readonly WaitingMessage[] {
    return this.#rare?.waiting?.takeAll() ?? NONE
  }

  /**
   * Sends what waited, whatever the codec makes of it: `maxSendBufferSize` does not refuse it again. A message that
   * only this codec could refuse is refused alone: its sender has returned.
   */
  #sendWaiting(): void {
    const lastWord = this.#bits & Bit.LastWord // it may wait for these, and it may be said by a callback of one
    const isWithin = this.#is(Bit.SendingKept)
    this.#bits |= Bit.SendingKept
    for (const { message, isRaw } of this.#takeWaiting()) {
      const isOver = this.#state !== State.Established || (this.#bits & Bit.LastWord) !== lastWord
      try {
        if (isOver || this.#isShakingHands()) this.#turnAway(message as Out, isRaw)
        else this.#sendNow(message as Out, isRaw, Bit.Accepted)
      } catch (error) {
        this.#refuse(messageOf(error))
      }
    }
    this.#set(Bit.SendingKept, isWithin)
    if (this.#is(Bit.Full)) this.#socket.awaitDrained()
    if (this.#is(Bit.ShutDue)) queueMicrotask(() => this.#continue()) // the codec may have more to write behind them
  }

  [kShut](): void {
    if (this.#is(Bit.Shut)) return
    this.#bits |= Bit.Shut | Bit.ShutDue
    this.#shut()
  }

  /**
   * If that is due, and not only later: when a client has connected, when hands are shaken and the protocol's handshake
   * is over, which may have more to write, and when what was kept for its end has been sent.
   */
  #shut(): void {
    if (!this.#is(Bit.ShutDue) || this.#state !== State.Established || this.#isShakingHands()) return
    if (this[kHasWaiting] || this.#is(Bit.SendingKept) || this.#asks('isOpening')) return
    this.#bits &= ~Bit.ShutDue
    if (this.#codec.shut === undefined) this.#finWhenSent()
    else this.#intoCodec(() => this.#codec.shut?.())
  }

  #finWhenSent(): void {
    if (this.#is(Bit.SentFin)) return
    this.#bits |= Bit.FinDue
    if (this.#socket.queuedBytes > 0) return this.#socket.awaitDrained()
    this.#bits = (this.#bits & ~Bit.FinDue) | Bit.SentFin
    this.#socket.end()
    this.#whenIdle()
  }

  /** The peer expects nothing more, but handlers are at work. */
  #outlivePeer(): void {
    if (this.#state !== State.Established) return
    if (!this.signal.aborted) this.#rare?.aborter?.abort(connectionClosed(this.closeReason))
    this.#finWhenSent()
  }

  [kOffer](message: Out | Encoded, raw: boolean): boolean {
    if (raw) this.send(message as Encoded, true)
    else this.send(message as Out)
    return wasAccepted
  }

  [kHasQueued](bytes: number): boolean {
    return this.#socket.hasQueued(bytes)
  }

  [kSecure](tls: Tls): Promise<void> {
    if (this.#state < State.Established)
      throw new UsageError('ERR_NOT_CONNECTED', 'startTls() of a client is for one that has connected: see onConnect')
    if (this.#state > State.Established) return Promise.reject(connectionClosed(this.closeReason ?? 'closed'))
    if (this.#socket.isEncrypted || this.#isShakingHands())
      throw new UsageError('ERR_TLS_TWICE', 'this connection is under TLS already')
    const handshake = withResolvers()
    handshake.promise.catch(nothing) // onError reports it even if nothing awaits the promise
    const more = this.#more()
    more.handshake = handshake
    more.backlog = 0
    this.#queue = NONE
    this.#held = null
    this.#renewCodec(Stop.Handshake)
    this.#syncReading()
    more.pipes?.holdSources()
    this.#socket.secure(tls)
    return handshake.promise
  }

  [kDrain](): void {
    if (this.#state !== State.Established || this.#farewell?.isSaid === true) return
    const farewell = this.#bidFarewell()
    if (this.#isShakingHands()) return // the codec that says it is yet to come
    farewell.isSaid = true
    this.#lingerLonger()
    apart(Connection.#drainCodec, this as AnyConnection)
  }

  static #drainCodec(connection: AnyConnection): void {
    connection.#intoCodec(() => connection.#codec.drain())
  }

  [kLeave](): void {
    if (!this[kIsStaying]) return
    this.#bidFarewell().leave(this.#held !== null)
    this.#continue()
  }

  [kLastCall](forMs: number): void {
    const farewell = this.#bidFarewell()
    farewell.isLastCall = true
    farewell.readsUntil = this[kSettings].clock.now() + forMs
  }

  [kRenew](): void {
    if (!this[kIsStaying] || this.#codec.renew === undefined) return
    this.#lingerLonger()
    apart(Connection.#tellRenew, this as AnyConnection)
  }

  static #tellRenew(connection: AnyConnection): void {
    connection.#intoCodec(() => connection.#codec.renew?.())
  }

  /** The peer does not ask for this end, so what it has yet to read is given more time. */
  #lingerLonger(): void {
    if (this.lingerTimeout > 0) this.lingerTimeout = Math.max(this.lingerTimeout, DRAIN_LINGER_S)
  }

  get [kIsStaying](): boolean {
    return this.#state === State.Established && this.#farewell?.isLeaving !== true
  }

  get [kIsOver](): boolean {
    return this.#state === State.Closed
  }

  get [kTaken](): number {
    return this.bytesWritten - this.#socket.unacknowledgedBytes
  }

  get [kIsFull](): boolean {
    return this.#is(Bit.Full) || this.#isShakingHands()
  }

  [kEndPipes](): void {
    if (this.#rare === null) return
    const { pipes } = this.#rare
    this.#rare.pipes = null
    this.#stops &= ~Stop.Pipe
    this.#bits &= ~(Bit.Shut | Bit.ShutDue)
    pipes?.end()
  }

  [kHold](): void {
    this.#hold(Stop.Pipe)
  }

  [kRelease](): void {
    if ((this.#stops & Stop.Pipe) !== 0) this.#lastActive = Math.ceil(this[kSettings].clock.now())
    this.#startApart(Stop.Pipe)
  }

  [kAbort](): void {
    const { signal } = this
    if (!signal.aborted) this.#rare?.aborter?.abort(workerStopping())
    if (this.#io.onSettled !== null) this[kSettings].clock.after(LAST_ANSWERS_MS, Connection.#settleLate, this)
  }

  /** A last message that waited for handlers is sent without waiting: there is no time left. */
  static #settleLate(connection: AnyConnection): void {
    connection.#callSettled()
    connection.#continue()
  }

  [kQuietFor](): number {
    const isAtWork = this.#inFlight > 0 || this.#queue.length > 0 || this.#socket.queuedBytes > 0
    if (isAtWork || this.#stops !== 0 || this.#is(Bit.Stopped) || this.#held !== null || this.#is(Bit.InCodec)) return 0
    if (this.#asks('isBusy') || this.#isOwed || !this[kIsStaying]) return 0
    return this[kSettings].clock.now() - this.#lastActive
  }

  [kTakes](message: unknown): boolean {
    if (this.#state !== State.Established || this.#is(Bit.LastWord)) return false
    if (this.#asks('isClosing') || this.#asks('isOpening')) return false
    return this.#takesBroadcast(message as Out) && this.#state === State.Established
  }

  get [kIsLongLived](): boolean {
    return this.#asks('isLongLived') || ('isLongLived' in this.#protocol && this.#protocol.isLongLived === true)
  }

  get [kTransport](): 'tcp' | 'ssl' | 'unix' {
    if (this.#socket.isEncrypted) return 'ssl'
    return this.#socket.remoteIp === '' ? 'unix' : 'tcp'
  }

  get [kIsOpening](): boolean {
    return this.#asks('isOpening')
  }

  // Calls from the engine

  [kReceived](bytes: Buffer): void {
    this.bytesRead += bytes.length
    this.worker.counters.bytesIn += bytes.length
    if (this.#state !== State.Established) return this.#discard() // ending
    if (this.#queue.length > 0) {
      const more = this.#more()
      more.backlog += bytes.length
      if (more.backlog > MAX_BACKLOG_BYTES) this.#stop(Stop.Queue)
    }
    if (this.#withheld !== 0 || this.#is(Bit.Stopped) || this.#is(Bit.InCodec)) {
      this.#lastActive = Math.ceil(this[kSettings].clock.recently())
      this.#held ??= new Accumulator()
      this.#held.append(bytes)
      this.#syncReading()
    } else {
      this.#bits |= Bit.Receiving
      this.#lastActive = Math.ceil(this.#feed(bytes))
      if (!this.#isPlain()) this.#continue()
    }
    if (this.#farewell?.isLastCall === true) this[kLeave]()
  }

  /** Whether nothing is out of the ordinary: then there is nothing to continue. */
  #isPlain(): boolean {
    const isFree = this.#stops === 0 && this.#farewell === null && !this.#is(Bit.Stopped) && this.#held === null
    if (!isFree || this.#state !== State.Established || this.#is(Bit.Paused)) return false
    return (this.#bits & (Bit.PeerEnded | Bit.ShutDue)) === 0 && this.#io.onSettled === null
  }

  [kEnded](): void {
    this.#bits |= Bit.PeerEnded
    if (this.#is(Bit.SentFin) && this.#state !== State.Established) this.#drop()
    else this.#whenIdle()
  }

  [kGrew](bytes: number): void {
    this.#bytesWritten += bytes
    this.worker.counters.bytesOut += bytes
  }

  [kDrained](): void {
    if (this.#isShakingHands() && this.#state === State.Established) return // reported when the handshake is done
    // During a drain: a peer that has just read a long answer to its end may send another request.
    if (this.#timer !== 0 || this.#farewell !== null) this.#lastActive = Math.ceil(this[kSettings].clock.now())
    if (this.#is(Bit.Full) && !this[kHasWaiting]) {
      this.#bits &= ~Bit.Full
      this.#notify(this.onBufferDrain) // first: a source may fill it again at once
      this.#rare?.pipes?.releaseSources()
    }
    if (this.#io.onDrain !== null) this.#intoCodec(this.#io.onDrain)
    if (this.#socket.queuedBytes > 0) return // a callback has sent
    if (this.#state === State.Closing) this.#drop()
    else if (this.#is(Bit.SentFin)) return
    else if (this.#state === State.Ending) this.#sendFin()
    else if (this.#is(Bit.FinDue) && this.#state === State.Established) this.#finWhenSent()
  }

  [kSecured](): void {
    const handshake = this.#rare?.handshake
    if (this.#rare !== null) this.#rare.handshake = null
    this.#guard(() => this.#openCodec())
    this.#passKept()
    handshake?.resolve()
    if (this.#socket.queuedBytes === 0) this[kDrained]() // after the unencrypted bytes, the handshake began instead
    this.#rare?.pipes?.releaseSources()
    if (this.#farewell !== null) this[kDrain]()
    this.#shut()
    this.#start(Stop.Handshake)
  }

  [kClosed](error: SystemError | null): void {
    if (this.#state === State.Closed) return
    if (this.#isShakingHands()) this.#handshakeFailed(error)
    const unsent = this.#socket.queuedBytes
    this.#more().closeReason ??= error === null ? 'peer' : 'error'
    if (unsent > 0) this.#refuse(`client closed, ${unsent} bytes not sent`, error ?? undefined)
    this.#drop() // unless onError has done so
  }

  #handshakeFailed(error: SystemError | null): void {
    if (this.#state !== State.Established) {
      this.#more().closeReason ??= 'closed' // we ended it, and the peer closes in response
      return
    }
    this.worker.counters.handshakeErrors++
    this.#report(Connection.PROTOCOL, `TLS handshake: ${error?.message ?? 'the peer closed'}`, error ?? undefined)
  }

  // Receiving

  /** Reads only what the codec may receive at once. */
  #readInto(into: Uint8Array): number {
    if (this.#state !== State.Established || this.#withheld !== 0 || this.#is(Bit.Stopped)) return 0
    if (this.#held !== null || this.#queue.length > 0) return 0
    const bytes = this.#socket.readInto(into)
    this.bytesRead += bytes
    this.worker.counters.bytesIn += bytes
    return bytes
  }

  /** Drops bytes nobody will read. During a drain they are lost requests, so they are counted. */
  #discard(): void {
    if (this.closeReason !== 'stopped' || this.#farewell?.isCounted === true) return
    this.#bidFarewell().isCounted = true
    this.worker.counters.discarded++
  }

  /** Hands bytes to the codec or, after a stop, resumes it. Returns when that was. */
  #feed(bytes: Buffer | null): number {
    const outer = burstStart // of a connection whose handler resumes this one
    const outerBurst = burst
    const start = this[kSettings].clock.recently()
    const io = this.#io
    burst = 0
    burstStart = start
    this.#bits |= Bit.InCodec
    try {
      const result: unknown = bytes === null ? this.#codec.resumed() : this.#codec.receive(bytes)
      if (result !== undefined) this.#watchCodec(io, result)
    } catch (error) {
      this.#protocolFailed(blamed(error, 'ERR_PROTOCOL'))
    }
    if (bytes !== null && this.#farewell?.isLeaving === true) this.#noteReceived(this.#farewell, start)
    burstStart = outer
    burst = outerBurst
    this.#leaveCodec()
    return start
  }

  #noteReceived(farewell: Farewell, at: number): void {
    if (farewell.pieceTimer !== 0 && this.#isOwed) {
      farewell.notePause(at - this.#lastActive)
      this.#stopAwaitingPiece(farewell)
    }
    farewell.noteReceived(burst > 0, this.#protocol)
  }

  #bidFarewell(): Farewell {
    this.#farewell ??= new Farewell()
    return this.#farewell
  }

  /** It is leaving, and needs no further bytes. */
  get #hasHeardAll(): boolean {
    if (this.#farewell?.isLeaving !== true || this.#listensOn(this.#farewell)) return false
    return this.#farewell.hasHadRest || !this.#asks('isBusy')
  }

  #listensOn({ pieceTimer, readsUntil }: Farewell): boolean {
    return pieceTimer !== 0 && this[kSettings].clock.now() < readsUntil
  }

  get #isOwed(): boolean {
    return this.#rare?.pipes?.isOwed(this.#is(Bit.PeerEnded)) === true
  }

  /** A goodbye must not overtake an answer that comes through a pipe. */
  get #owesAtDrain(): boolean {
    return this.#farewell?.isSaid === true && this.#awaitsAnswer()
  }

  /** While it leaves. Of bytes nobody knows where an answer ends: it may come in pieces. */
  #awaitsAnswer(): boolean {
    if (this.#isOwed) return true
    if (this.#rare?.pipes?.hasDestination !== true) return false
    const { clock } = this[kSettings]
    const farewell = this.#bidFarewell()
    const leftMs = this.#lastActive + farewell.gapMs - clock.now()
    if (leftMs <= 0) return false
    if (farewell.pieceTimer !== 0) return true
    farewell.pieceTimer = clock.after(leftMs, Connection.#endPiece, this)
    this.#syncReading()
    return true
  }

  static #endPiece(connection: AnyConnection): void {
    if (connection.#farewell !== null) connection.#farewell.pieceTimer = 0
    connection.#continue()
  }

  #stopAwaitingPiece(farewell: Farewell): void {
    this[kSettings].clock.cancel(farewell.pieceTimer)
    farewell.pieceTimer = 0
  }

  /**
   * A codec's calls are not meant to be async. What one that is throws later costs its connection, as if it had thrown
   * at once, and nobody else. `io`: that of its codec, since the next one is not at fault.
   */
  #watchCodec(io: CodecIo<In>, result: unknown): void {
    if (!isThenable(result)) return
    this.#follow(result, nothing, (error) => {
      if (io === this.#io && this.#state === State.Established) this.#protocolFailed(blamed(error, 'ERR_PROTOCOL'))
      else this.#codecFailedLate(error)
    })
  }

  #takesBroadcast(message: Out): boolean {
    if (this.#codec.takesBroadcast === undefined) return true
    let answer: unknown
    this.#guard(() => {
      answer = this.#codec.takesBroadcast?.(message)
      return answer
    })
    return answer === true
  }

  /**
   * Whether a property of the codec is true. It may throw, or be a promise that rejects, as with a method: that costs
   * this connection, and not the caller, which may be a drain, or another connection's broadcast.
   */
  #asks(name: 'isBusy' | 'isPreparing' | 'isOpening' | 'isLongLived' | 'isClosing'): boolean {
    try {
      const answer: unknown = this.#codec[name]
      this.#watchCodec(this.#io, answer)
      return answer === true
    } catch (error) {
      this.#protocolFailed(blamed(error, 'ERR_PROTOCOL'))
      return false
    }
  }

  get #codecCloseCode(): number {
    try {
      const code: unknown = this.#codec.closeCode
      if (isThenable(code)) this.#follow(code, nothing, (error) => this.#codecFailedLate(error))
      return typeof code === 'number' ? code : 0
    } catch (error) {
      this.#codecFailedLate(error)
      return 0
    }
  }

  /** Nothing can be told to anybody any more. */
  #codecFailedLate(error: unknown): void {
    this.#logError(Connection.HANDLER, `protocol '${this.#protocol.name}'`, asError(error))
  }

  /** Runs another call into the codec under the same rules. */
  #intoCodec(call: () => unknown): void {
    if (this.#state === State.Closed) return
    this.#guard(call)
    this.#continue()
  }

  #guard(call: () => unknown): void {
    const outer = this.#is(Bit.InCodec)
    const io = this.#io
    this.#bits |= Bit.InCodec
    try {
      this.#watchCodec(io, call())
    } catch (error) {
      this.#protocolFailed(blamed(error, 'ERR_PROTOCOL'))
    }
    this.#set(Bit.InCodec, outer)
    if (!outer) this.#leaveCodec()
  }

  /**
   * The only call that may occur within another one: a handler answers. What it throws goes to the sender. Raw bytes
   * pass a codec that does not ask for them.
   */
  #intoCodecToSend(message: Out | Encoded, raw: boolean): boolean {
    if (raw && this.#codec.sendRaw === undefined) return this.#write(message as Encoded)
    if (this.#is(Bit.InCodec)) return this.#give(message, raw)
    this.#bits |= Bit.InCodec
    try {
      return this.#give(message, raw)
    } finally {
      this.#leaveCodec()
      this.#continue()
    }
  }

  #give(message: Out | Encoded, raw: boolean): boolean {
    const codec = this.#codec
    return raw && codec.sendRaw !== undefined ? codec.sendRaw(message as Encoded) : codec.send(message as Out)
  }

  #leaveCodec(): void {
    this.#bits &= ~(Bit.InCodec | Bit.Receiving)
    if (this.#state === State.Closed) this.#letCodecGo(this.closeReason ?? 'closed')
  }

  #letCodecGo(reason: CloseReason): void {
    const codec = this.#codec
    this.#codec = NO_CODEC // notified once, whatever it does then
    this.#tellClosed(codec, reason)
  }

  #tellClosed(codec: Codec<Out>, reason: CloseReason): void {
    try {
      const result: unknown = codec.closed(reason)
      if (isThenable(result)) this.#follow(result, nothing, (error) => this.#codecFailedLate(error))
    } catch (error) {
      this.#logError(Connection.HANDLER, `closed() of protocol '${this.#protocol.name}'`, error as Error)
    }
  }

  /**
   * Takes a message outside any call to the codec (asynchronous inflate); the codec is not called before its current
   * code ends.
   */
  #emitLate(message: In): boolean {
    if (this.#state !== State.Established) return false
    this.#bits |= Bit.InCodec
    if (burstStart === 0) {
      burst = 0 // otherwise another codec at work caused this message
      burstStart = this[kSettings].clock.recently()
    }
    queueMicrotask(() => {
      burstStart = 0
      this.#leaveCodec()
      this.#continue()
    })
    return this.#emit(message)
  }

  /** Takes a message from the codec. Returns false for stop. */
  #emit(message: In): boolean {
    const io = this.#io
    if (this.#state !== State.Established) return false
    if (this.#is(Bit.LastWord)) return true // dropped, but the codec reads on: the peer's goodbye comes later
    if (!this.#mayDeliver() || this.#queue.length > 0 || this.#is(Bit.Pumping)) {
      if (this.#queue === NONE) this.#queue = []
      this.#queue.push(message)
      if (this.#queue.length >= this.worker.maxQueuedMessages) this.#stop(Stop.Queue)
    } else {
      this.#deliver(message)
    }
    if (++burst % YIELD_CHECK === 0 && this[kSettings].clock.now() - burstStart > YIELD_AFTER_MS) this.#yield()
    const isStopped = (this.#stops & ~Stop.Codec) !== 0 || this.#state !== State.Established
    // After startTls() the codec to stop has gone, and the next one is not stopped.
    if (isStopped && io !== this.#io) return false
    this.#set(Bit.Stopped, isStopped)
    return !isStopped
  }

  #deliver(message: In): void {
    this.worker.counters.messagesIn++
    try {
      const result = this.onMessage?.(this, message)
      if (isThenable(result)) this.#await(result, message)
    } catch (error) {
      this.#handlerFailed(error, message)
    }
  }

  #await(handler: PromiseLike<unknown>, message: In): void {
    this.#inFlight++
    this.worker.unsettled++
    const life = this.#life()
    // Turns a thenable into a promise: one that settles twice, or throws, still counts once.
    Promise.resolve(handler).then(
      () => this.#handlerSettled(life),
      (error) => {
        if (life === this.#life()) this.#handlerFailed(error, message)
        else this.#failedEarlier(error)
        this.#handlerSettled(life)
      },
    )
  }

  /** Which life of a reconnecting client this is. Work begun in an earlier life must not affect it. */
  #life(): number {
    return this.#rare === null ? 0 : this.#rare.life
  }

  #handlerSettled(life: number): void {
    if (life !== this.#life()) return settled(this.worker)
    this.#inFlight--
    if (this.#inFlight === 0) this.#tidyUp()
    this.#pump()
    if (this.#inFlight === 0) this.#lastActive = Math.ceil(this[kSettings].clock.now())
    this.#whenIdle()
    settled(this.worker)
  }

  #afterHandlers(work: () => unknown): void {
    const more = this.#more()
    more.leftovers ??= []
    more.leftovers.push(work)
    // A handler that is on the stack has yet to return its promise.
    queueMicrotask(() => {
      if (this.#inFlight === 0) this.#tidyUp()
    })
  }

  /** No handler that has begun is at work; for messages that still wait there is nothing left over. */
  #tidyUp(): void {
    if (this.#rare === null || this.#rare.leftovers === null) return
    const { leftovers } = this.#rare
    this.#rare.leftovers = null
    for (const work of leftovers)
      try {
        const result = work()
        if (isThenable(result)) this.#follow(result, nothing, (error) => this.#codecFailedLate(error))
      } catch (error) {
        this.#codecFailedLate(error)
      }
  }

  /**
   * Makes a drain wait for what a callback has begun, even after its connection has gone. A failure after a client has
   * connected again is only logged.
   */
  #follow(
    work: PromiseLike<unknown>,
    done: () => void = nothing,
    failed: (error: unknown) => void = (error) => this.#handlerFailed(error),
  ): void {
    this.worker.unsettled++
    const life = this.#life()
    const end = () => {
      if (life === this.#life()) done()
      settled(this.worker)
    }
    Promise.resolve(work).then(end, (error) => {
      if (life === this.#life()) failed(error)
      else this.#failedEarlier(error)
      end()
    })
  }

  /** Delivers queued messages as far as handlers allow. */
  #pump(): void {
    if (this.#is(Bit.Pumping)) return // a handler resumes its own connection: the next handler must not start inside it
    this.#bits |= Bit.Pumping
    while (this.#queue.length > 0 && this.#mayDeliver()) this.#deliver(this.#queue.shift() as In)
    this.#bits &= ~Bit.Pumping
    if (this.#queue.length === 0) {
      this.#queue = NONE
      if (this.#rare !== null) this.#rare.backlog = 0
    }
    const isShort =
      this.#queue.length <= this.worker.maxQueuedMessages / 2 && (this.#rare?.backlog ?? 0) <= MAX_BACKLOG_BYTES
    if (isShort) this.#start(Stop.Queue)
  }

  #mayDeliver(): boolean {
    if ((this.#stops & HOLDS_MESSAGES) !== 0) return false
    return this.#inFlight === 0 || (this.#inFlight < this.worker.maxInFlight && !this.#isSerial)
  }

  get #isSerial(): boolean {
    return 'isSerial' in this.#protocol && this.#protocol.isSerial === true
  }

  /** Why bytes are kept from the codec; 0 if they are not. */
  get #withheld(): number {
    return (this.#stops & ONLY_MESSAGES) === 0 ? this.#stops : this.#withheldInHandshake()
  }

  /**
   * What was sent before the handshake of a protocol can leave only after it, so that goes on whatever holds messages
   * back: it may be those that wait, for having filled the buffer. A `pauseRecv()` for which none waits puts the
   * handshake off, too. A codec that has made messages, which wait, is past this.
   */
  #withheldInHandshake(): number {
    if (this.#queue.length > 0 || !this.#asks('isOpening')) return this.#stops
    return this.#stops & ~(this[kHasWaiting] ? ONLY_MESSAGES : Stop.Pipe)
  }

  #stop(why: Stop): void {
    this.#stops |= why
    this.#syncReading()
  }

  /**
   * Holds messages back, from outside. Once its codec has said its last, none come: only the peer's goodbye does. What
   * is held back after that goodbye is of a client's next life.
   */
  #hold(why: Stop): void {
    if (!this.#is(Bit.InLastWord) || this.#state === State.Closed) this.#stop(why)
  }

  #start(why: Stop): void {
    if ((this.#stops & why) === 0) return
    this.#stops &= ~why
    this.#pump()
    this.#continue()
  }

  /**
   * Starts from within another connection's handler, say: messages that waited see nothing of the caller's
   * AsyncLocalStorage, nor does the caller see what they put there.
   */
  #startApart(why: Stop): void {
    if ((this.#stops & why) === 0) return
    const isWaiting = this.#queue.length > 0 || this.#held !== null || this.#is(Bit.Stopped)
    if (!isWaiting || this.#is(Bit.InCodec)) return this.#start(why)
    apart(() => this.#start(why), undefined)
  }

  /** Continues where the codec was stopped, then with held bytes, then with the socket or with closing. */
  #continue(): void {
    if (this.#is(Bit.InCodec)) return
    this.#shut()
    while (this.#state === State.Established) {
      const withheld = this.#withheld
      if (this.#is(Bit.Stopped) && (withheld & ~Stop.Codec) === 0) {
        this.#bits &= ~Bit.Stopped
        this.#feed(null)
      } else if (this.#held !== null && !this.#is(Bit.Stopped) && withheld === 0) {
        const held = this.#held
        this.#held = null
        this.#feed(held.take())
      } else break
    }
    this.#syncReading()
    this.#whenIdle()
  }

  #resumeCodec(): void {
    if ((this.#stops & Stop.Codec) === 0) return
    this.#set(Bit.Stopped, this.#state === State.Established)
    this.#start(Stop.Codec)
  }

  #yield(): void {
    this.#stops |= Stop.Yield
    setImmediate(Connection.#resumeTurn, this)
  }

  static #resumeTurn(connection: AnyConnection): void {
    connection.#lastActive = Math.ceil(connection[kSettings].clock.now())
    connection.#start(Stop.Yield)
  }

  /** Reads from the socket only while what arrives has somewhere to go. */
  #syncReading(): void {
    const withheld = this.#withheld & ~Stop.Yield // first: asking its codec may end it
    const isEnding = this.#state !== State.Established
    const isFlooded = this.#held !== null && this.#held.length > MAX_HELD_BYTES
    const wanted = isEnding || (withheld === 0 && !isFlooded && !this.#hasHeardAll)
    if (wanted !== this.#is(Bit.Paused) || this.#state === State.Closed) return
    this.#bits = wanted ? this.#bits & ~Bit.Paused : this.#bits | Bit.Paused | Bit.WasPaused
    if (wanted) this.#socket.resume()
    else this.#socket.pause()
  }

  #discardInput(): void {
    this.#clearCodecTimers()
    this.#queue = NONE
    this.#held = null
    this.#syncReading()
  }

  /** Once no work is left, does what waited for that: reports an error, says goodbye, answers the peer's FIN. */
  #whenIdle(): void {
    if (this.#state !== State.Established || this.#is(Bit.InCodec)) return
    if (this.#is(Bit.Pumping)) return // called by a handler: it has yet to return, and may send more
    if (this.#is(Bit.PeerEnded) && this.#mayTellEnd) return this.#tellEnd()
    if (this.#inFlight > 0 || this.#queue.length > 0) return
    const io = this.#io
    if (io.onSettled !== null && !this.#owesAtDrain) this.#callSettled()
    if (io !== this.#io) return this.#continue() // it has upgraded: the next codec has bytes to receive
    const failure = this.#rare?.failure ?? null
    if (failure !== null) return this.#breakOff(failure)
    if (this.#state !== State.Established) return // that ended it
    if (this.#is(Bit.Stopped) || this.#held !== null || this.#stops & NOT_DONE) return
    if (this.#hasHeardAll && !this.#awaitsAnswer()) this.#endAs('stopped')
    else if (this.#is(Bit.PeerEnded)) this.#finishInput()
  }

  #callSettled(): void {
    const { onSettled } = this.#io
    this.#io.onSettled = null
    if (onSettled === null) return
    this.#guard(onSettled)
    this.#syncReading() // a codec that has said goodbye may wait for the peer's
  }

  /** Everything received has been parsed; handlers may still be at work, waiting for more of a body, for example. */
  get #mayTellEnd(): boolean {
    if (this.#is(Bit.ToldEnd) || this.#is(Bit.Stopped) || this.#held !== null || this.#stops & NOT_DONE) return false
    return this.#codec.ended !== undefined
  }

  /** The codec may hold a message that only the end of input completes. */
  #tellEnd(): void {
    this.#bits |= Bit.ToldEnd
    this.#intoCodec(() => this.#codec.ended?.())
  }

  /** What the codec has written late may be the answer that the end waits for. */
  #lookForEnd(): void {
    if (!this.#is(Bit.PeerEnded) && this.#farewell?.isLeaving !== true) return
    if (!this.#is(Bit.InCodec)) queueMicrotask(() => this.#whenIdle()) // otherwise that comes at the end of its work
  }

  #finishInput(): void {
    // It may owe an answer. One that is not told of the end may be busy with part of a message, which stays a part.
    if (this.#asks(this.#codec.ended === undefined ? 'isPreparing' : 'isBusy')) return
    if (this.#state !== State.Established) return
    // A pipe's other direction, if there is one and it has not ended, continues to its own end.
    if (this.#rare?.pipes?.passEnd() !== true || this.#is(Bit.Shut)) this.#closeAs('peer')
  }

  // Sending

  #sendNow(message: Out | Encoded, raw: boolean, how: Bit.Accepted | 0): boolean {
    const outer = this.#bits & OF_ONE_SEND // of an outer send that called back
    this.#bits = (this.#bits & ~OF_ONE_SEND) | how
    try {
      const goOn = this.#intoCodecToSend(message, raw)
      const isSent = !this.#is(Bit.NotSent)
      wasAccepted = isSent || this.#is(Bit.Kept)
      if (isSent) this.worker.counters.messagesOut++
      if (isThenable(goOn)) this.#follow(goOn) // of an async send
      return goOn
    } finally {
      this.#bits = (this.#bits & ~OF_ONE_SEND) | outer
    }
  }

  #write(bytes: Encoded, must = false): boolean {
    if (this.#state !== State.Established) return this.#leaveOut(`connection is ${STATUS[this.#state].toLowerCase()}`)
    if (this.#is(Bit.SentFin)) return this.#leaveOut('connection has sent its end')
    const { maxSendBufferSize } = this
    if (!must && this.#socket.hasQueued(maxSendBufferSize) && !this.#is(Bit.Accepted))
      return this.#leaveOut('send buffer full and drop package')
    const size = this.#socket.write(isChunk(bytes) ? bytes : checkedChunks(bytes))
    if (this.#io.onDrain !== null) this.#socket.awaitDrained()
    // The time of what handlers send is noted without a reading of the clock: when received, or when they have settled.
    if (!this.#is(Bit.Receiving) && this.#inFlight === 0) this.#lastActive = Math.ceil(this[kSettings].clock.recently())
    this.#bytesWritten += size
    this.worker.counters.bytesOut += size
    if (!this.#socket.hasQueued(maxSendBufferSize)) return true
    this.#fill()
    return false
  }

  #fill(): void {
    if (this.#is(Bit.Full)) return
    this.#bits |= Bit.Full
    this.#socket.awaitDrained()
    this.#rare?.pipes?.holdSources()
    this.#notify(this.onBufferFull)
  }

  /** Refuses the message being sent, so that it is not counted. */
  #leaveOut(why: string): false {
    this.#bits |= Bit.NotSent
    return this.#refuse(why)
  }

  /** Refuses a message that the codec does not see. */
  #turnAway(message: Out | Encoded, raw: boolean): false {
    this.#forget(message, raw)
    if (this.#state !== State.Established) this.#refuse(`connection is ${STATUS[this.#state].toLowerCase()}`)
    else this.#refuse(this.#isShakingHands() ? 'TLS is being negotiated' : 'connection is closing')
    wasAccepted = false
    return false
  }

  /** A message that will not be sent may hold an open file. */
  #forget(message: Out | Encoded | undefined, raw: boolean): void {
    if (raw || message === undefined || !('refused' in this.#protocol)) return
    try {
      const result: unknown = this.#protocol.refused?.(message)
      if (isThenable(result)) this.#follow(result, nothing, (error) => this.#codecFailedLate(error))
    } catch (error) {
      this.#logError(Connection.HANDLER, `refused() of protocol '${this.#protocol.name}'`, asError(error))
    }
  }

  #refuse(why: string, cause?: Error): false {
    this.worker.counters.sendFail++
    if (this.#is(Bit.Reporting)) return false // a send inside onError is counted, but reporting it would never end
    this.#bits |= Bit.Reporting
    this.#report(Connection.SEND_FAIL, why, cause)
    this.#bits &= ~Bit.Reporting
    return false
  }

  #sendLast(message: Out | Encoded | undefined, raw: boolean): void {
    if (message === undefined) return
    if (raw) return void this.send(message as Encoded, true)
    this.#announceLast()
    this.send(message as Out)
  }

  /** A codec that fails to do so still sends the message. */
  #announceLast(): void {
    try {
      const result: unknown = this.#codec.ending?.()
      if (isThenable(result)) this.#follow(result, nothing, (error) => this.#tell(asError(error)))
    } catch (error) {
      this.#tell(asError(error))
    }
  }

  // Errors

  /** The peer broke the protocol. Messages before the fault are handled first, however the stream was cut. */
  #protocolFailed(error: ProtocolError): void {
    if (this.#state !== State.Established || this.#stops & Stop.Failed) return
    this.#more().failure = error
    this.#stop(Stop.Failed)
    if (this.#inFlight === 0 && this.#queue.length === 0) this.#breakOff(error)
  }

  #breakOff(error: ProtocolError): void {
    this.#more().failure = null // reported once, whatever onError does
    this.#callSettled()
    this.worker.counters.protocolErrors++
    if (this.#state === State.Closed) return // no callback may follow onClose
    const code = propertyOf(error, 'closeCode') // it may be a ProtocolError of another package
    if (typeof code === 'number') this.#more().closeCode = code
    this.#report(Connection.PROTOCOL, error.message, error)
    this.#endAs('protocol')
  }

  /** `message`: the one it was handling, if any. */
  #handlerFailed(thrown: unknown, message?: In): void {
    const error = asError(thrown)
    const hasCodecAborted = (reason: unknown) => this.#hasCodecAborted(reason)
    if (hasObeyed(error, this.#state === State.Established, this.#rare?.aborter?.signal, hasCodecAborted))
      return this.#obeyed(error, message)
    this.#tell(error)
    this.#endAs('handler', thrown, message)
  }

  /** Counts and reports what code of the user has thrown. */
  #tell(error: Error): void {
    this.#report(this.#count(error), error.message, error)
  }

  /** Returns the code for `onError`. */
  #count(error: Error): number {
    // Such as an invalid JSON body: the peer's fault, whichever code finds it.
    const isPeers = error.name === 'ProtocolError'
    this.worker.counters[isPeers ? 'protocolErrors' : 'handlerErrors']++
    return isPeers ? Connection.PROTOCOL : Connection.HANDLER
  }

  /** What was begun in an earlier life: its connection has gone, and to the one there is now `onError` says nothing. */
  #failedEarlier(thrown: unknown): void {
    const error = asError(thrown)
    if (!hasObeyed(error, false)) this.#logError(this.#count(error), error.message, error)
  }

  /** What this throws is logged: the error to tell, and to answer the peer for, is the handler's. */
  #hasCodecAborted(reason: unknown): boolean {
    try {
      const answer: unknown = this.#codec.hasAborted?.(reason)
      this.#watchCodec(this.#io, answer)
      return answer === true
    } catch (error) {
      this.#logError(Connection.HANDLER, `hasAborted() of protocol '${this.#protocol.name}'`, asError(error))
      return false
    }
  }

  /** A handler has given up, as a signal told it to. That is no error; its peer is owed the codec's last message. */
  #obeyed(error: Error, message?: In): void {
    if (this.#state !== State.Established || this.#is(Bit.InLastWord)) return
    if (!this.#is(Bit.InCodec)) this.#callSettled() // it waits for this handler no longer
    if (this.#asks('isClosing')) return // it has said goodbye, and ends the connection itself
    if (this.#is(Bit.PeerEnded)) return this.#endAs('peer')
    this.#more().closeReason ??= 'stopped'
    if (!this.#hasMoreToSay('stopped', error, message)) this.#end()
  }

  #report(code: number, message: string, error?: Error): void {
    if (!this.onError) return this.#logError(code, message, error)
    try {
      const result = this.onError(this, code, message, error)
      const failed = (failure: unknown) => this.#logError(Connection.HANDLER, 'onError', failure as Error)
      if (isThenable(result)) this.#follow(result, nothing, failed)
    } catch (failure) {
      this.#logError(Connection.HANDLER, 'onError threw', failure as Error)
    }
  }

  #logError(code: number, message: string, error?: Error): void {
    const stack = code === Connection.HANDLER ? propertyOf(error, 'stack') : undefined
    const detail = typeof stack === 'string' ? stack : message
    errors.log(`connection ${this.id} ${this.getRemoteAddress()} error ${code}: ${detail}`)
  }

  /** Runs a callback. Returns its result, or undefined if it threw. */
  #call(callback: ((connection: this) => unknown) | null): unknown {
    try {
      return callback?.(this)
    } catch (error) {
      this.#handlerFailed(error)
      return undefined
    }
  }

  /** Runs a callback that nothing waits for. */
  #notify(callback: ((connection: this) => unknown) | null): void {
    const result = this.#call(callback)
    if (isThenable(result)) this.#follow(result)
  }

  // Closing

  #closeAs(reason: CloseReason): void {
    if (reason === 'timeout' && this.#is(Bit.InLastWord)) return
    this.#more().closeReason ??= reason
    if (reason !== 'timeout' || !this.#hasMoreToSay(reason)) this.#close()
  }

  /** Keeps what a codec says of the end. */
  #note(code: number, reason: CloseReason | undefined): void {
    if (code !== 0) this.#more().closeCode = code
    if (reason !== undefined) this.#more().closeReason ??= reason
  }

  #endAs(reason: CloseReason, error?: unknown, message?: In): void {
    if (this.#state !== State.Established) return
    if (reason !== 'protocol' && this.#is(Bit.InLastWord)) return
    this.#more().closeReason ??= reason
    if (reason !== 'handler' || !this.#hasMoreToSay(reason, error, message)) this.#end()
  }

  /** Asks the codec for its last message. Returns true while more of it is to come. */
  #hasMoreToSay(reason: LastWordReason, error?: unknown, message?: In): boolean {
    if (this.#state !== State.Established || this.#is(Bit.LastWord) || this.#codec.closing === undefined) return false
    this.#bits |= Bit.LastWord
    let isMore = false
    this.#guard(() => {
      const answer: unknown = this.#codec.closing?.(reason, error, message)
      isMore = answer === true
      return answer
    })
    this.#queue = NONE // only now: the codec checks for undelivered messages
    if (!isMore) return false
    this.#bits |= Bit.InLastWord
    this.#start(ONLY_MESSAGES) // these have nothing left to hold back
    this.#syncReading()
    return true
  }

  #close(): void {
    if (this.#state >= State.Closing) return // a callback has already closed it
    if (this.#is(Bit.Cut)) return this.#drop()
    this.#move(State.Closing)
    this.#discardInput()
    if (this.#socket.queuedBytes === 0) this.#drop()
    else this.#awaitFlush()
  }

  #end(): void {
    if (this.#state !== State.Established) return
    this.#move(State.Ending)
    this.#discardInput()
    if (this.#socket.queuedBytes === 0) this.#sendFin()
    else this.#awaitFlush()
  }

  /** A fault that waits for handlers is told now: the codec waits for them no longer. */
  #endByCodec(): void {
    const failure = this.#rare?.failure ?? null
    if (failure !== null && this.#state === State.Established) this.#breakOff(failure)
    else this.#end()
  }

  #drop(): void {
    if (this.#state === State.Closed) return
    if (this.#hasCloseNotify) this.#socket.end() // sends it; without, a TLS peer takes what it has got for cut off
    if (this.#mustReset) this.#socket.reset()
    else this.#socket.destroy()
    this.#finish()
  }

  /** Closing, and everything has been sent: RFC 8446 section 6.1. */
  get #hasCloseNotify(): boolean {
    return this.#state === State.Closing && this.#socket.isEncrypted && this.#socket.queuedBytes === 0
  }

  /** FIN would say that the peer has everything. */
  get #mustReset(): boolean {
    return this.#is(Bit.EndTells) && (this.#is(Bit.Cut) || this.#socket.queuedBytes > 0)
  }

  #sendFin(): void {
    if (this.#is(Bit.Cut)) return this.#drop()
    if (!this.#is(Bit.SentFin)) this.#socket.end()
    this.#bits |= Bit.SentFin
    if (this.lingerTimeout <= 0 || this.#is(Bit.PeerEnded)) this.#drop()
    else this.#closeWithin(this.lingerTimeout * 1000)
  }

  #closeWithin(ms: number): void {
    this[kSettings].clock.cancel(this.#timer)
    this.#timer = this[kSettings].clock.after(ms, Connection.#destroyLate, this)
  }

  #awaitFlush(): void {
    this.#socket.awaitDrained()
    this[kSettings].clock.cancel(this.#timer)
    const { unacknowledgedBytes } = this.#socket
    this.#timer = this[kSettings].clock.after(FLUSH_TIMEOUT_MS, Connection.#checkFlush, this, unacknowledgedBytes)
  }

  static #checkFlush(connection: AnyConnection, before: number): void {
    const { queuedBytes, unacknowledgedBytes } = connection.#socket
    if (before - unacknowledgedBytes >= FLUSH_LEAST_BYTES) return connection.#awaitFlush()
    connection.#refuse(`client does not read, ${queuedBytes} bytes not sent`)
    connection.#drop()
  }

  static #destroyLate(connection: AnyConnection): void {
    connection.#drop()
  }

  #finish(): void {
    this.#move(State.Closed)
    const rare = this.#more()
    rare.closeReason ??= 'closed'
    if (rare.closeCode === 0) rare.closeCode = this.#codecCloseCode
    this.#queue = NONE
    this.#held = null
    this.#cancelTimers()
    if (this.worker.connections.delete(this.id)) {
      this.worker.counters.connections--
      countClosed(this.worker.counters, rare.closeReason)
    }
    rare.aborter?.abort(connectionClosed(rare.closeReason))
    rare.handshake?.reject(connectionClosed(rare.closeReason))
    rare.handshake = null
    if (this[kSettings].role === 'server') this[kLose]() // of a client they may wait for the next connection
    const isAtWork = this.#is(Bit.InCodec)
    this.#bits |= Bit.InCodec // it is let go last of all
    this.#callSettled() // it waits for handlers no longer
    this.#set(Bit.InCodec, isAtWork)
    const isFilled = this.#is(Bit.Full) && this.#waitingBytes >= this.maxSendBufferSize // also for the next life
    this.#stops &= ~OF_NEXT_LIFE.stops
    this.#bits &= ~OF_NEXT_LIFE.bits
    this.#set(Bit.Full, isFilled)
    this.#protocol = rare.firstProtocol ?? this.#protocol // in which a client encodes what waits for its next life
    const { pipes } = rare
    rare.pipes = null // what onClose pipes belongs to a client's next life
    this.#bits |= Bit.ToldClose
    this.#notify(this.onClose)
    pipes?.end()
    if (!this.#is(Bit.InCodec)) this.#letCodecGo(rare.closeReason)
    this.worker[kGone](this)
  }

  #cancelTimers(): void {
    this[kSettings].clock.cancel(this.#timer)
    this.#clearCodecTimers()
  }

  // Deadlines

  #armIdle(ms: number): void {
    if (ms <= 0) return
    this.#lastActive = Math.ceil(this[kSettings].clock.now())
    this.#timer = this[kSettings].clock.after(ms, Connection.#checkIdle, this)
  }

  /**
   * One timer per connection, not one per message: it checks how long the connection has been idle and sleeps for the
   * rest. A peer that reads what was sent to it is not idle: `takenBefore` is how much of that it had acknowledged at
   * the last check. What the kernel takes says little: it waits until a third of its buffer, of megabytes, is free.
   */
  static #checkIdle(connection: AnyConnection, takenBefore = 0): void {
    if (connection.#state !== State.Established) return // closing has its own time-outs
    const { idleTimeoutMs } = connection.worker
    connection.#timer = 0
    if (idleTimeoutMs <= 0) return // turned off meanwhile
    const { clock } = connection[kSettings]
    const left = connection.bytesWritten === takenBefore ? 0 : connection.#socket.unacknowledgedBytes
    const taken = connection.#bytesWritten - left
    const isReading = left > 0 && taken - takenBefore >= FLUSH_LEAST_BYTES
    const silence = isReading || connection.#isAtWork ? 0 : clock.now() - connection.#lastActive
    if (connection.#state !== State.Established) return // asking its codec has ended it
    if (silence >= idleTimeoutMs) return connection.#closeAs('timeout')
    connection.#timer = clock.after(idleTimeoutMs - silence, Connection.#checkIdle, connection, taken)
  }

  /**
   * Then a silence is not the peer's: messages wait for a callback, or for room in the destination of a pipe, whose
   * peer is reading; or the codec prepares something.
   */
  get #isAtWork(): boolean {
    if (this.#inFlight > 0 || (this.#stops & Stop.Opening) !== 0 || this.#asks('isPreparing')) return true
    if ((this.#stops & Stop.Codec) !== 0 && this[kIsOpening]) return true // a handshake has a time-out of its own
    return (this.#stops & Stop.Pipe) !== 0 && this.#rare?.pipes?.hasMoved(FLUSH_LEAST_BYTES) === true
  }

  #setDeadline(kind: string, ms: number): void {
    const { clock } = this[kSettings]
    const isOpen = this.#state === State.Established
    this.#codecTimers =
      isOpen && ms > 0
        ? setTimer(this.#codecTimers, this, kind, ms, clock)
        : forgetTimer(this.#codecTimers, kind, clock)
  }

  [kExpire](kind: string): void {
    this.#codecTimers = forgetTimer(this.#codecTimers, kind, this[kSettings].clock)
    this.#intoCodec(() => this.#codec.timeout(kind))
  }

  #clearCodecTimers(): void {
    clearTimers(this.#codecTimers, this[kSettings].clock)
    this.#codecTimers = null
  }

  // Protocols

  #openCodec(): void {
    const io = this.#io
    const codec = asCodec(this.#protocol).open(io, io.role) as Codec<Out> | undefined
    if (typeof codec?.receive === 'function') {
      if (io === this.#io) this.#codec = codec
      else this.#tellClosed(codec, 'upgraded') // by its open(): the next one is there
      return
    }
    disown(codec) // of an async open()
    if (this.#state === State.Established) this.#handlerFailed(badCodec(this.#protocol.name, codec))
  }

  #upgrade(protocol: AnyProtocol, rest: Uint8Array): void {
    if (this.#state === State.Closed) return
    try {
      checkProtocol('what upgrade() takes', protocol)
    } catch (error) {
      return this.#handlerFailed(error) // the peer has no part in it
    }
    this.#prepend(rest)
    if (this[kSettings].role === 'client') this.#more().firstProtocol ??= this.#protocol
    this.#protocol = protocol
    this.#renewCodec(0)
    this.#guard(() => this.#openCodec())
    this.#passKept()
    if (this.#is(Bit.InLastWord) && this.#state === State.Established) this.#closeAnew()
    if (this.#farewell?.isLeaving === true) this[kDrain]() // otherwise its turn comes
    this.#continue()
  }

  /** What an earlier codec has kept is for the one that there is now, which keeps it on if it has a handshake, too. */
  #passKept(): void {
    if (!this[kHasWaiting] || this.#codec === NO_CODEC || this.#asks('isOpening')) return
    if (this.#state === State.Established) this.#sendWaiting()
  }

  /** The last word that an earlier codec has yet to say is the next one's. */
  #closeAnew(): void {
    this.#bits &= ~(Bit.LastWord | Bit.InLastWord)
    if (!this.#hasMoreToSay('closed')) this.#close()
  }

  /** Lets the old codec go, and its `io` with it; the next codec is yet to be opened. */
  #renewCodec(stop: Stop | 0): void {
    const old = this.#codec
    this.#clearCodecTimers()
    this.#bits &= ~(Bit.Stopped | Bit.ToldEnd)
    if (this.#is(Bit.Shut)) this.#bits |= Bit.ShutDue
    this.#farewell?.startOver()
    this.#stops = (this.#stops & ~Stop.Codec) | stop
    this.#codec = NO_CODEC
    this.#io = new Connection.#Io(this)
    this.#tellClosed(old, 'upgraded')
  }

  #prepend(rest: Uint8Array): void {
    if (rest.length === 0) return
    const later = this.#held?.take()
    this.#held = new Accumulator()
    this.#held.append(rest)
    if (later !== undefined) this.#held.append(later)
  }

  #event(name: `on${string}`, args: unknown[]): unknown {
    if (this.#is(Bit.ToldClose)) return false
    const callback = (this as Record<string, unknown>)[name] ?? Reflect.get(this.worker, name)
    if (typeof callback !== 'function') return undefined
    try {
      const result: unknown = callback.call(this, this, ...args)
      if (isThenable(result)) this.#follow(result)
      return this.#state === State.Closed ? false : result
    } catch (error) {
      this.#handlerFailed(error)
      return false
    }
  }

  /** A codec's view of its connection. After an upgrade the old codec's is dead. */
  static readonly #Io = class Io<In> implements CodecIo<In> {
    readonly #connection: AnyConnection
    #onSettled: (() => void) | null = null
    #onDrain: (() => void) | null = null

    constructor(connection: AnyConnection) {
      this.#connection = connection
    }

    get role(): Role {
      return this.#connection[kSettings].role
    }

    emit(message: In): boolean {
      if (!this.#isCurrent()) return false
      const connection = this.#connection
      return connection.#is(Bit.InCodec) ? connection.#emit(message) : connection.#emitLate(message)
    }

    write(bytes: Encoded, must = false): boolean {
      if (!this.#isCurrent() || this.#connection.#state === State.Closed) return false
      const goOn = this.#connection.#write(bytes, must)
      this.#connection.#lookForEnd()
      return goOn
    }

    event(name: `on${string}`, ...args: unknown[]): unknown {
      return this.#isCurrent() ? this.#connection.#event(name, args) : false
    }

    pause(): void {
      if (this.#isCurrent()) this.#connection.#stop(Stop.Codec)
    }

    resume(): void {
      if (this.#isCurrent()) this.#connection.#resumeCodec()
    }

    deadline(kind: string, ms: number): void {
      if (this.#isCurrent()) this.#connection.#setDeadline(kind, ms)
    }

    now(): number {
      return this.#connection[kSettings].clock.recently()
    }

    hasBeenReading(): boolean {
      const connection = this.#connection
      const wasPaused = connection.#is(Bit.WasPaused)
      connection.#set(Bit.WasPaused, connection.#is(Bit.Paused))
      return !wasPaused
    }

    end(code = 0, reason?: CloseReason): void {
      if (!this.#isCurrent()) return
      this.#connection.#note(code, reason)
      this.#connection.#endByCodec()
    }

    close(code = 0, reason?: CloseReason): void {
      if (!this.#isCurrent()) return
      this.#connection.#note(code, reason)
      this.#connection.#close()
    }

    noteEnd(reason: CloseReason): void {
      if (this.#isCurrent()) this.#connection.#note(0, reason)
    }

    outlivePeer(code = 0, reason?: CloseReason): void {
      if (!this.#isCurrent()) return
      this.#connection.#note(code, reason)
      this.#connection.#outlivePeer()
    }

    readInto(into: Uint8Array): number {
      return this.#isCurrent() ? this.#connection.#readInto(into) : 0
    }

    keep(message: unknown, size: number): boolean {
      return this.#connection[kKeep](message, false, size)
    }

    sendKept(): void {
      if (this.#isCurrent()) this.#connection.#sendWaiting()
    }

    refuse(why: string): false {
      return this.#connection.#leaveOut(why)
    }

    fail(error: unknown): void {
      const connection = this.#connection
      if (!this.#isCurrent() || connection.#state === State.Closed) return
      const isEnding = connection.#state !== State.Established // the last message is on its way
      connection.#handlerFailed(error)
      if (!isEnding) connection.#drop()
    }

    endTells(isWritten: boolean): void {
      if (!this.#isCurrent()) return
      this.#connection.#bits |= Bit.EndTells
      this.#connection.#set(Bit.Cut, !isWritten)
    }

    upgrade(protocol: AnyProtocol, rest: Uint8Array): void {
      if (this.#isCurrent()) this.#connection.#upgrade(protocol, rest)
    }

    get peer(): Peer {
      return this.#connection.#socket
    }

    get target(): CodecIo['target'] {
      return this.#connection.worker.target ?? null
    }

    get onDrain(): (() => void) | null {
      return this.#onDrain
    }

    set onDrain(callback: (() => void) | null) {
      this.#onDrain = callback
      if (callback !== null && this.#isCurrent() && this.queuedBytes > 0) this.#connection.#socket.awaitDrained()
    }

    get onSettled(): (() => void) | null {
      return this.#onSettled
    }

    /** Set while the codec is at work, it is asked for at the end of that; set later, nothing else may come to ask. */
    set onSettled(callback: (() => void) | null) {
      this.#onSettled = callback
      const connection = this.#connection
      if (callback === null || !this.#isCurrent() || connection.#is(Bit.InCodec)) return
      queueMicrotask(() => connection.#whenIdle())
    }

    follow(result: unknown): void {
      if (isThenable(result))
        this.#connection.#follow(result, nothing, (error) => this.#connection.#tell(asError(error)))
    }

    afterHandlers(work: () => unknown): void {
      this.#connection.#afterHandlers(work)
    }

    get signal(): AbortSignal {
      return this.#connection.signal
    }

    get maxPackageSize(): number {
      return this.#connection.maxPackageSize
    }

    get maxSendBufferSize(): number {
      return this.#connection.maxSendBufferSize
    }

    get bytesWritten(): number {
      return this.#connection.bytesWritten
    }

    get queuedBytes(): number {
      return this.#connection.#socket.queuedBytes
    }

    get unacknowledgedBytes(): number {
      return this.#connection.#socket.unacknowledgedBytes
    }

    hasQueued(bytes: number): boolean {
      return this.#connection.#socket.hasQueued(bytes)
    }

    get hasUndelivered(): boolean {
      return this.#connection.#queue.length > 0
    }

    get isAtWork(): boolean {
      const connection = this.#connection
      return connection.#inFlight > 0 || connection.#is(Bit.Pumping) || this.hasUndelivered
    }

    #isCurrent(): boolean {
      return this.#connection.#io === this
    }
  }
}
