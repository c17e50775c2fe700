// One WebSocket connection (RFC 6455), server or client: frames, messages, pings, the closing handshake; opening.ts is
// what comes before. A peer that breaks a rule receives the matching close code before the connection ends. Text is
// checked as it arrives.

import { ProtocolError } from '../../src/errors.ts'
import { Accumulator } from '../../src/protocol/accumulator.ts'
import type { CloseReason, Codec, CodecIo, LastWordReason } from '../../src/protocol.ts'
import type { Request } from '../http/request.ts'
import type { Response } from '../http/response.ts'
import type { Agreement, DeflateContext } from './deflate.ts'
import { broken, FrameReader, type MessageSink, noText } from './frame-reader.ts'
import { clientFrame, isCloseCode, Opcode, sentFrame } from './frames.ts'
import { CloseFrame, opcodeOf, PreparedMessage, payloadOf, type WebSocketMessage } from './messages.ts'
import { ClientOpening, type Opener, type Opening, RESTART, ServerOpening } from './opening.ts'
import type { Resolved } from './settings.ts'
import { textOf } from './utf8.ts'

const enum State {
  Opening = 0,
  Open = 1,
  /** The peer has sent a close frame or broken a rule. Messages before that are handled and may be answered. */
  Heard = 2,
  /** We have sent a close frame and wait for the peer's. */
  Closing = 3,
  /** All further input is ignored. */
  Closed = 4,
}

/** Flags in one number, since every connection has them. */
const enum Bit {
  Stopped = 1,
  /** Something has arrived since the last check. */
  Alive = 2,
  /** The worker is leaving: no client is admitted any more. */
  Leaving = 4,
  /** During a drain: the close frame waits for the answers to the messages received. */
  PutOff = 8,
  /** The peer's goodbye, or its FIN, came before ours. */
  PeerFirst = 16,
  /** We said goodbye because the worker is leaving. */
  Restarting = 32,
  /** It is put off for long: only a message in progress is still received before it. */
  LastCall = 64,
  /** That message has come. */
  HadLast = 128,
}

/** Bytes queued for a peer above which only the latest ping is answered (RFC 6455 section 5.5.3). */
const MAX_PONG_QUEUE = 65_536

/**
 * In a drain, the goodbye may wait this long for a moment without a handler, in which nothing goes unanswered. Then no
 * more is read, and it follows when what was received is answered.
 */
const PUT_OFF_MS = 1000

export class WebSocketCodec implements Codec<WebSocketMessage>, MessageSink, Opener {
  readonly #io: CodecIo<string | Buffer>
  readonly #settings: Resolved
  #state: State = State.Opening
  #bits = 0
  #rest: Accumulator | null = null
  /** Null without compression. */
  deflate: DeflateContext | null = null
  /** Null once the handshake is done. */
  #opening: Opening | null
  /** In the middle of a frame or message; null between messages. */
  #reader: FrameReader | null = null
  /**
   * Bytes written up to the end of the frame that the peer is to answer, our ping or close frame; -1 if there is none.
   * It cannot answer before it has read what lies before that.
   */
  #markAt = -1
  /** How many of these it had acknowledged when that was last checked. */
  #markTaken = 0
  /** The code the peer closed with (RFC 6455 section 7.1.5). */
  #closeCode = 1006

  constructor(io: CodecIo<string | Buffer>, settings: Resolved) {
    this.#io = io
    this.#settings = settings
    io.deadline('handshake', settings.handshakeTimeoutMs)
    this.#opening = this.isServer ? new ServerOpening(io, settings, this) : new ClientOpening(io, settings, this)
  }

  #is(bit: Bit): boolean {
    return (this.#bits & bit) !== 0
  }

  get isServer(): boolean {
    return this.#io.role === 'server'
  }

  get maxMessageBytes(): number {
    return this.#io.maxPackageSize
  }

  // Called by the connection

  receive(bytes: Buffer): void {
    this.#bits |= Bit.Alive
    if (this.#state === State.Closed) return
    if (this.#rest !== null && this.#rest.length > 0) {
      this.#rest.append(bytes)
      if (this.#opening?.isDeciding !== true && !this.#is(Bit.Stopped)) this.#goOn()
      return
    }
    const used = this.#guarded(bytes)
    if (used === bytes.length) return
    this.#rest ??= new Accumulator()
    this.#rest.append(bytes.subarray(used))
  }

  resumed(): void {
    const failure = this.#opening?.failure ?? null
    if (failure !== null) throw failure
    this.#bits &= ~Bit.Stopped
    this.#goOn()
  }

  send(message: WebSocketMessage): boolean {
    if (this.#state >= State.Closing) return this.#io.refuse('the WebSocket is closing')
    if (this.#state === State.Opening) return (this.#opening as Opening).keep(message)
    if (message instanceof CloseFrame) return this.#close(message.code, message.reason)
    return this.#sendNow(message)
  }

  drain(): void {
    this.#bits |= Bit.Leaving
    const isEnding = this.#io.onSettled !== null // the peer has sent FIN
    if (this.#state === State.Open && !isEnding) this.#putOff()
  }

  /** After the close frame no answer can be sent, so the outstanding ones go first. */
  #putOff(): void {
    this.#bits |= Bit.PutOff
    this.#io.onSettled = () => this.#sayGoodbye()
    this.#io.deadline('put off', PUT_OFF_MS)
  }

  #sayGoodbye(): void {
    this.#bits &= ~Bit.PutOff
    if (this.#state !== State.Open) return
    this.#bits |= Bit.Restarting
    if (this.isServer) this.#close(1012, RESTART)
    else this.#close(1001, '')
  }

  closing(reason: LastWordReason): boolean {
    if (this.#state === State.Opening) return (this.#opening as Opening).close(reason)
    if (this.#is(Bit.PutOff)) this.#finally(null)
    const isPutOff = reason === 'closed' && this.#io.onSettled !== null // the goodbye follows then
    if (isPutOff) return true
    if (reason === 'stopped') this.#sayGoodbye()
    else if (this.#state <= State.Heard) this.#close(CODES[reason], '')
    return (reason === 'closed' || reason === 'stopped') && this.#state === State.Closing
  }

  /** There is no half-close but this: after our close frame messages still come, until the peer's. */
  shut(): void {
    if (this.#state === State.Open) this.#close(1000, '')
  }

  get isOpening(): boolean {
    return this.#state === State.Opening
  }

  get isClosing(): boolean {
    return this.#state >= State.Closing
  }

  /** Without a handshake there is nothing to close. */
  get closeCode(): number {
    return this.#opening === null ? this.#closeCode : 0
  }

  get isBusy(): boolean {
    if (this.#state === State.Open) return this.#isReceiving
    if (this.#state === State.Opening) return this.#opening?.isDeciding === true || this.#isAmidHandshake
    return this.#state === State.Closing
  }

  /** Whether part of a handshake has come. */
  get #isAmidHandshake(): boolean {
    return (this.#rest?.length ?? 0) > 0
  }

  get #isReceiving(): boolean {
    if (this.#is(Bit.PutOff) && !this.#is(Bit.LastCall)) return true
    return this.#reader !== null && !this.#reader.isIdle && !this.#is(Bit.HadLast)
  }

  /** FIN, with or without a close frame before it. */
  ended(): void {
    if (this.#state === State.Opening) {
      if (this.#isAmidHandshake) this.#opening?.cut()
      return
    }
    if (this.#state === State.Open) this.#bits |= Bit.PeerFirst
    if (this.#io.onSettled === null || this.#is(Bit.PutOff)) this.#finally(() => this.#finish(this.#closeCode))
  }

  /** Calls `end` once all received messages have been handled, instead of any close frame waiting for the same. */
  #finally(end: (() => void) | null): void {
    this.#bits &= ~Bit.PutOff
    this.#io.onSettled = end
  }

  timeout(kind: string): void {
    if (kind === 'ping') return this.#checkPeer()
    if (kind === 'close') return this.#checkClose()
    if (kind === 'put off') {
      this.#bits |= Bit.LastCall
      return
    }
    this.#checkHandshake()
  }

  /** A peer has its time while it is read: an asynchronous `onConnect` is not its delay, nor is `pauseRecv()`. */
  #checkHandshake(): void {
    const opening = this.#opening
    if (opening === null) return
    if (!opening.isDeciding && !this.#io.hasBeenReading())
      this.#io.deadline('handshake', this.#settings.handshakeTimeoutMs)
    else opening.timedOut()
  }

  closed(): void {
    this.#state = State.Closed
    this.#opening?.closed()
    this.#rest = this.#opening = this.#reader = null
    this.deflate?.close()
    this.deflate = null
  }

  // Opening

  #goOn(): void {
    const rest = this.#rest
    if (rest === null) return
    rest.consume(this.#guarded(rest.view()))
    if (rest.length === 0) this.#rest = null
  }

  /** Returns how many bytes were used. */
  #guarded(bytes: Buffer): number {
    try {
      return this.#take(bytes)
    } catch (error) {
      throw this.#fault(error instanceof ProtocolError ? error : oursFailed(error))
    }
  }

  #take(bytes: Buffer): number {
    let at = 0
    while (at < bytes.length && !this.#is(Bit.Stopped)) {
      const before = at
      if (this.#state === State.Opening) at += (this.#opening as Opening).take(bytes, at)
      else if (this.#state === State.Open || this.#state === State.Closing) at = this.#takeFrame(bytes, at)
      else if (this.#isDeaf()) return bytes.length
      if (at === before) break
    }
    return this.#isDeaf() ? bytes.length : at
  }

  #isDeaf(): boolean {
    return this.#state === State.Heard || this.#state === State.Closed
  }

  /** Called by the opening, as those that follow. */
  opened(agreement: Agreement | null): void {
    const { engine, pingIntervalMs } = this.#settings
    if (agreement !== null && engine !== null) this.deflate = engine.open(agreement)
    this.#state = State.Open
    this.#io.deadline('handshake', 0)
    this.#io.deadline('ping', pingIntervalMs / 2)
    const isLast = this.#opening?.isLast === true
    this.#opening = null
    this.#io.sendKept()
    if (this.#state !== State.Open) return // a close frame was among them
    if (isLast) this.#close(1000, '')
    else if (this.#is(Bit.Leaving)) this.#putOff()
  }

  tellOpened(request: Request | null, protocol: string): void {
    if (this.#state === State.Open) this.#io.event('onWebSocketConnected', request, protocol)
  }

  tellAnswered(response: Response): void {
    if (this.#state === State.Open) this.#io.event('onWebSocketConnect', response)
  }

  refused(): void {
    this.#state = State.Closed
  }

  openingFailed(opening: Opening, cause: unknown): void {
    opening.failure = this.#fault(oursFailed(cause))
    this.#opening = opening
  }

  get isLeaving(): boolean {
    return this.#is(Bit.Leaving)
  }

  // Frames in

  /** Takes part of a head or a payload. Returns where it stopped. */
  #takeFrame(bytes: Buffer, start: number): number {
    const reader = this.#reader ?? FrameReader.borrow()
    this.#reader = reader
    const end = reader.take(bytes, start, this)
    if (reader.isIdle) {
      this.#reader = null
      reader.giveBack()
    }
    return end
  }

  /** Called by the reader. */
  onMessage(message: string | Buffer): void {
    if (this.#state !== State.Open && this.#state !== State.Closing) return
    if (this.#is(Bit.LastCall)) this.#bits |= Bit.HadLast
    if (!this.#io.emit(message)) this.#bits |= Bit.Stopped
  }

  /** Called by the reader. */
  onControl(opcode: Opcode, payload: Buffer): void {
    if (opcode === Opcode.Close) return this.#takeClose(payload)
    if (opcode === Opcode.Pong) {
      this.#io.event('onWebSocketPong', payload)
      return
    }
    this.#answerPing(payload)
    this.#io.event('onWebSocketPing', payload)
  }

  #answerPing(payload: Buffer): void {
    if (this.#state !== State.Open) return
    if (this.#io.queuedBytes <= MAX_PONG_QUEUE) this.#write(Opcode.Pong, payload)
    else this.#io.onDrain = () => this.#pongLate(payload) // replaces the one for an earlier ping
  }

  #pongLate(payload: Buffer): void {
    this.#io.onDrain = null
    if (this.#state === State.Open) this.#write(Opcode.Pong, payload)
  }

  // The end

  /** RFC 6455 section 5.5.1. */
  #takeClose(payload: Buffer): void {
    if (payload.length === 1) throw broken('a close code of one byte')
    const code = payload.length === 0 ? 1005 : payload.readUInt16BE(0)
    if (payload.length > 0 && !isCloseCode(code)) throw broken(`${code} is no close code`)
    const reason = textOf(payload.subarray(2))
    if (reason === null) throw noText()
    this.#closeCode = code
    if (this.#state === State.Open) this.#bits |= Bit.PeerFirst
    this.#state = this.#state === State.Closing ? State.Closed : State.Heard
    this.#io.deadline('ping', 0)
    if (this.#state === State.Heard) this.#io.deadline('close', this.#settings.closeTimeoutMs)
    this.#finally(() => this.#endClosing(code, reason))
  }

  /** Echoes the peer's code. After that a handler cannot answer any more. */
  #answerClose(): void {
    const code = this.#closeCode
    this.#writeMarked(Opcode.Close, code === 1005 ? NO_BYTES : Uint8Array.of(code >> 8, code & 0xff))
    this.#state = State.Closed
  }

  /**
   * Both sides have sent a close frame, and the peer's messages are handled. The server closes first: RFC 6455 section
   * 7.1.1.
   */
  #endClosing(code: number, reason: string): void {
    if (this.#state === State.Heard) this.#answerClose()
    this.#io.event('onWebSocketClose', code, reason)
    if (this.isServer) return this.#io.end(code, this.#reason) // see #checkClose
    this.#io.noteEnd(this.#reason) // a server may well end it with a reset
    this.#io.deadline('close', this.#settings.closeTimeoutMs)
  }

  /** Sends our close frame. Messages that arrive before the peer's are still delivered. */
  #close(code: number, reason: string): boolean {
    if (this.#state !== State.Open && this.#state !== State.Heard) return this.#io.refuse('the WebSocket is not open')
    const size = Buffer.byteLength(reason)
    const payload = Buffer.alloc(2 + size)
    payload.writeUInt16BE(code)
    payload.write(reason, 2)
    this.#state = this.#state === State.Heard ? State.Closed : State.Closing
    this.#io.deadline('ping', 0)
    this.#io.deadline('close', this.#settings.closeTimeoutMs)
    return this.#writeMarked(Opcode.Close, payload)
  }

  /** The peer has its time from when it has taken our close frame; it does not wait longer for ours. */
  #checkClose(): void {
    if (this.#state === State.Heard) {
      this.#answerClose()
      return this.#io.outlivePeer(this.#closeCode, this.#reason)
    }
    if (this.#state === State.Closed && this.#io.onSettled !== null) return this.#endWithoutHandlers()
    if (this.#hasTakenMore()) return this.#io.deadline('close', this.#settings.closeTimeoutMs)
    this.#state = State.Closed
    // Not `close`: bytes the peer still sends would cause a reset, and it would lose what it has not read yet.
    this.#io.end(this.#closeCode, this.#reason)
  }

  /** The peer has answered our close frame, but the handlers before that have not settled. */
  #endWithoutHandlers(): void {
    const { onSettled } = this.#io
    this.#io.onSettled = null
    onSettled?.()
  }

  #finish(code: number): void {
    this.#state = State.Closed
    this.#io.close(code, this.#reason)
  }

  /** Who has begun to close. */
  get #reason(): CloseReason {
    if (this.#is(Bit.PeerFirst)) return 'peer'
    return this.#is(Bit.Restarting) ? 'stopped' : 'closed'
  }

  /** Reports the error to the peer by a close code, or during the handshake by a status; then the connection ends. */
  #fault(error: ProtocolError): ProtocolError {
    if (this.#state === State.Opening) this.#opening?.fail(error)
    else if (this.#state === State.Open) {
      this.#state = State.Heard
      this.#finally(() => {
        if (this.#state === State.Heard) this.#close(error.closeCode ?? 1002, '')
      })
    } else if (this.#state === State.Closing) this.#state = State.Closed
    this.#io.deadline('ping', 0)
    return error
  }

  /**
   * Pings a silent peer; one that stays silent is considered gone. Checked twice per interval, so that no silence
   * exceeds it. A peer that still takes what lies before the ping is alive: that may be megabytes, in the kernel, too.
   * One that was not read all the time cannot be called silent.
   */
  #checkPeer(): void {
    const { pingIntervalMs, pongTimeoutMs } = this.#settings
    if (this.#state !== State.Open) return
    this.deflate?.rest()
    if (!this.#io.hasBeenReading() || this.#is(Bit.Alive)) this.#markAt = -1
    else if (this.#markAt < 0) this.#writeMarked(Opcode.Ping, NO_BYTES)
    else if (!this.#hasTakenMore()) throw peerIsDead(pongTimeoutMs)
    this.#bits &= ~Bit.Alive
    this.#io.deadline('ping', this.#markAt < 0 ? pingIntervalMs / 2 : pongTimeoutMs)
  }

  /** Writes a frame that the peer is to answer. */
  #writeMarked(opcode: Opcode, payload: Uint8Array): boolean {
    const isBehind = this.#io.unacknowledgedBytes > 0
    const mayGoOn = this.#write(opcode, payload)
    this.#markAt = this.#io.bytesWritten
    // That the kernel takes a frame behind nothing proves nothing.
    this.#markTaken = isBehind ? this.#acknowledged : this.#markAt
    return mayGoOn
  }

  /** Whether the peer has acknowledged more of what ends with that frame since the last call. */
  #hasTakenMore(): boolean {
    const before = this.#markTaken
    this.#markTaken = Math.min(this.#acknowledged, this.#markAt)
    return this.#markTaken > before
  }

  get #acknowledged(): number {
    return this.#io.bytesWritten - this.#io.unacknowledgedBytes
  }

  // Frames out

  #sendNow(message: WebSocketMessage): boolean {
    if (message instanceof PreparedMessage) return this.#sendPrepared(message)
    const payload = payloadOf(message)
    const opcode = opcodeOf(payload)
    const deflate = this.deflate
    if (deflate === null || Buffer.byteLength(payload) < this.#threshold(deflate.agreement.hasTakeover))
      return this.#write(opcode, payload)
    const mayGoOn = this.#write(opcode, deflate.compress(payload), true)
    if (mayGoOn) deflate.sent() // otherwise it may have been refused, and `onError` may then have sent another
    return mayGoOn
  }

  #sendPrepared(message: PreparedMessage): boolean {
    if (!this.isServer) return this.#sendNow(message.payload) // every client frame is masked with a key of its own
    const { compression, engine } = this.#settings
    if (this.deflate === null || compression === null || engine === null || message.size < this.#threshold(false))
      return this.#io.write(message.frame())
    this.deflate.forget()
    return this.#io.write(message.compressedFrame(engine, this.deflate.agreement, compression.level))
  }

  /** Bytes. Short messages get smaller only if there are earlier ones to refer to. */
  #threshold(canLookBack: boolean): number {
    return this.#settings.compression?.threshold ?? (canLookBack ? 64 : 1024)
  }

  #write(opcode: Opcode, payload: string | Uint8Array, rsv1 = false): boolean {
    const frame = this.isServer ? sentFrame(opcode, payload, rsv1) : clientFrame(opcode, payload, rsv1)
    return this.#io.write(frame, opcode >= Opcode.Close)
  }
}

/** What we close with, other than by the user's own frame or for a fault. */
const CODES = { closed: 1000, handler: 1011, timeout: 1001 }

const NO_BYTES = Buffer.alloc(0)

function peerIsDead(ms: number): ProtocolError {
  return new ProtocolError('ERR_PEER_DEAD', `the peer has not answered a ping for ${ms} ms`, { closeCode: 1006 })
}

/** A function in the settings threw. */
function oursFailed(cause: unknown): ProtocolError {
  return new ProtocolError('ERR_WEBSOCKET', `a setting of websocket failed: ${cause}`, {
    statusHint: 500,
    closeCode: 1011,
    cause,
  })
}
