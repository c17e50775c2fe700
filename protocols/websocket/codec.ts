// One WebSocket connection (RFC 6455), server or client: handshake, frames, messages, pings, the closing handshake. Whatever
// breaks a rule is told by its close code before the connection ends. Text is checked as it arrives.

import { ProtocolError, UsageError } from '../../src/errors.ts'
import { Accumulator, type Codec, type CodecIo, isThenable, NEED_MORE } from '../../src/protocol.ts'
import { HEAD_LIMITS, type HeadLimits, HeadParser, type RequestHead } from '../http/head.ts'
import { isMisdirected, Request } from '../http/request.ts'
import { Response } from '../http/response.ts'
import { type Agreement, type DeflateContext, offerOf, type Terms } from './deflate.ts'
import { broken, FrameReader, type MessageSink, noText } from './frame-reader.ts'
import { clientFrame, isCloseCode, Opcode, sentFrame } from './frames.ts'
import { answered, asking, isInterim, offeredProtocols, refusalOf, refusing, switching } from './handshake.ts'
import { CloseFrame, PreparedMessage, payloadOf, type WebSocketMessage } from './messages.ts'
import type { Resolved } from './settings.ts'
import { textOf } from './utf8.ts'

const enum State {
  /** A request, or the answer to ours. */
  AwaitHandshake = 0,
  /** The user decides whether the client may come in. */
  AwaitWelcome = 1,
  Open = 2,
  /** The peer has said its last word, or a wrong one: messages before that are handled, and may be answered. */
  Heard = 3,
  /** We have said goodbye, and wait for the peer's. */
  Closing = 4,
  /** Nothing that comes counts. */
  Closed = 5,
}

/** A set of bits, as every connection has one. */
const enum Bit {
  Stopped = 1,
  /** Something has come since we last looked. */
  Alive = 2,
  /** The worker leaves: nobody comes in any more. */
  Leaving = 4,
  /** The goodbye of a drain waits for the answers to what was received. */
  PutOff = 8,
}

/** Bytes that may be queued for a peer before pongs are left out but the last (RFC 6455 section 5.5.3). */
const MAX_PONG_QUEUE = 65_536

/** What is needed until it is done. */
class Handshake {
  /** A server's. */
  readonly parser: HeadParser
  /** What a client has offered. */
  terms: Terms | null = null
  /** A client's. */
  key = ''
  /** What was sent before. */
  early: WebSocketMessage[] = []
  earlyBytes = 0
  /** What failed when the user had decided. */
  failure: ProtocolError | null = null

  constructor(limits: HeadLimits) {
    this.parser = new HeadParser(limits)
  }
}

export class WebSocketCodec implements Codec<WebSocketMessage>, MessageSink {
  readonly #io: CodecIo<string | Buffer>
  readonly #settings: Resolved
  #state: State = State.AwaitHandshake
  #bits = 0
  #rest: Accumulator | null = null
  /** Null without compression. */
  deflate: DeflateContext | null = null
  /** Null when the handshake is done. */
  #handshake: Handshake | null
  /** In the middle of a frame or of a message; between them none is needed. */
  #reader: FrameReader | null = null
  /** What was queued, ping included, when the peer was asked; 0 when nothing was before it, -1 when it is not asked. */
  #queuedAtPing = -1
  /** The peer's (RFC 6455 section 7.1.5). */
  #closeCode = 1006

  constructor(io: CodecIo<string | Buffer>, settings: Resolved) {
    this.#io = io
    this.#settings = settings
    this.#handshake = new Handshake(settings.head)
    io.deadline('handshake', settings.handshakeTimeoutMs)
    if (!this.isServer) this.#ask()
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

  // What the connection calls

  receive(bytes: Buffer): void {
    this.#bits |= Bit.Alive
    if (this.#state === State.Closed) return
    if (this.#rest !== null && this.#rest.length > 0) {
      this.#rest.append(bytes)
      if (this.#state !== State.AwaitWelcome && !this.#is(Bit.Stopped)) this.#goOn()
      return
    }
    const used = this.#guarded(bytes)
    if (used === bytes.length) return
    this.#rest ??= new Accumulator()
    this.#rest.append(bytes.subarray(used))
  }

  resumed(): void {
    const failure = this.#handshake?.failure ?? null
    if (failure !== null) throw failure
    this.#bits &= ~Bit.Stopped
    this.#goOn()
  }

  send(message: WebSocketMessage): boolean {
    if (this.#state >= State.Closing) return this.#io.refuse('the WebSocket is closing')
    if (message instanceof CloseFrame) return this.#close(message.code, message.reason)
    if (this.#state < State.Open) return this.#keepEarly(message)
    return this.#sendNow(message)
  }

  drain(): void {
    this.#bits |= Bit.Leaving
    if (this.#state === State.Open) this.#putOff()
  }

  /** After the goodbye no answer leaves, so those that are owed go first. */
  #putOff(): void {
    this.#bits |= Bit.PutOff
    this.#io.onSettled = () => this.#sayGoodbye()
  }

  #sayGoodbye(): void {
    this.#bits &= ~Bit.PutOff
    if (this.#state === State.Open) this.#close(1012, RESTART)
  }

  closing(reason: 'closed' | 'handler' | 'timeout'): boolean {
    if (this.#state < State.Open) {
      if (this.isServer && reason !== 'timeout') this.#refuse(reason === 'handler' ? 500 : 403, 'not now')
      return false
    }
    if (this.#is(Bit.PutOff)) this.#finally(null)
    const isPutOff = reason === 'closed' && this.#io.onSettled !== null // that will be the last word
    if (isPutOff) return true
    if (this.#state <= State.Heard) this.#close(reason === 'handler' ? 1011 : reason === 'timeout' ? 1001 : 1000, '')
    return reason === 'closed' && this.#state === State.Closing
  }

  get isOpening(): boolean {
    return this.#state < State.Open
  }

  get isClosing(): boolean {
    return this.#state >= State.Closing
  }

  get isBusy(): boolean {
    if (this.#state === State.Open) return this.#is(Bit.PutOff) || (this.#reader !== null && !this.#reader.isIdle)
    const isAsking = this.#state === State.AwaitHandshake && (this.#rest?.length ?? 0) > 0
    return isAsking || this.#state === State.AwaitWelcome || this.#state === State.Closing
  }

  /** FIN without a close frame, or after one. */
  ended(): void {
    if (this.#state < State.Open) return
    if (this.#io.onSettled === null || this.#is(Bit.PutOff)) this.#finally(() => this.#finish(this.#closeCode))
  }

  /** When what was received has been handled: in place of a goodbye that waits for that. */
  #finally(end: (() => void) | null): void {
    this.#bits &= ~Bit.PutOff
    this.#io.onSettled = end
  }

  timeout(kind: string): void {
    if (kind === 'ping') return this.#checkPeer()
    if (kind === 'close') return this.#state === State.Heard ? this.#answerClose() : this.#finish(this.#closeCode)
    const isOurs = this.#state === State.AwaitWelcome
    if (this.isServer)
      this.#refuse(isOurs ? 503 : 408, isOurs ? 'try again later' : 'the handshake did not come in time')
    throw new ProtocolError(
      'ERR_HANDSHAKE_TIMEOUT',
      isOurs ? 'onWebSocketConnect has not settled in time' : 'the handshake did not come in time',
    )
  }

  closed(): void {
    this.#state = State.Closed
    this.#rest = this.#handshake = this.#reader = null
    this.deflate?.close()
    this.deflate = null
  }

  // Handshakes

  #goOn(): void {
    const rest = this.#rest
    if (rest === null) return
    rest.consume(this.#guarded(rest.view()))
    if (rest.length === 0) this.#rest = null
  }

  /** How many bytes were used. */
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
      if (this.#state === State.AwaitHandshake)
        at += this.isServer ? this.#takeRequest(bytes, at) : this.#takeAnswer(bytes, at)
      else if (this.#state === State.Open || this.#state === State.Closing) at = this.#takeFrame(bytes, at)
      else if (this.#isDeaf()) return bytes.length
      if (at === before) break
    }
    return this.#isDeaf() ? bytes.length : at
  }

  #isDeaf(): boolean {
    return this.#state === State.Heard || this.#state === State.Closed
  }

  /** The head's bytes, or 0 while it is not whole. */
  #takeRequest(bytes: Buffer, start: number): number {
    const { parser } = this.#handshake as Handshake
    const head = bytes.subarray(start)
    const length = parser.parse(head)
    if (length === NEED_MORE) return 0
    this.#decide(parser.take(head))
    return length
  }

  #decide(head: RequestHead): void {
    if (this.#is(Bit.Leaving)) return this.#turnAway(503, RESTART)
    const refusal = refusalOf(head)
    if (refusal !== null) return this.#turnAway(refusal.status, refusal.message, refusal.lines)
    const offered = offeredProtocols(head)
    if (offered === null) return this.#turnAway(400, 'Sec-WebSocket-Protocol is no list of names')
    const request = requestOf(head, this.#io, this.#settings.isTrusted)
    if (isMisdirected(request)) return this.#turnAway(421, 'https is asked for without TLS')
    if (!this.#settings.isWelcome(head.header('origin'), request)) return this.#turnAway(403, 'this origin may not')
    const chosen = this.#settings.choose(offered, request)
    if (chosen !== '' && !offered.includes(chosen))
      throw new UsageError('ERR_BAD_SUBPROTOCOL', `the client did not offer '${chosen}'`)
    this.#askUser(head, request, chosen)
  }

  /** The user's word, which may take its time. */
  #askUser(head: RequestHead, request: Request, protocol: string): void {
    const response = new Response()
    const word = this.#io.event('onWebSocketConnect', request, response)
    const decided = (answer: unknown) => {
      if (this.#state === State.Closed) return // it has thrown, or closed, and the client was told
      if (this.#is(Bit.Leaving)) this.#turnAway(503, RESTART)
      else if (answer === false) this.#turnAway(403, 'not allowed')
      else if (answer instanceof Response && (answer !== response || isRefusal(answer))) this.#turnAwayWith(answer)
      else this.#welcome(head, request, protocol, response)
    }
    if (!isThenable(word)) return decided(word)
    this.#state = State.AwaitWelcome
    this.#io.pause()
    Promise.resolve(word).then(
      (answer) => this.#decideLate(() => decided(answer)),
      () => this.#decideLate(() => this.#turnAway(500, 'the handler failed')), // the connection has told onError
    )
  }

  /** Nobody waits for this call: what fails in it is thrown when receiving goes on. */
  #decideLate(decide: () => void): void {
    if (this.#state !== State.AwaitWelcome) return // it has closed meanwhile, or it was too late
    const handshake = this.#handshake as Handshake
    try {
      decide()
    } catch (error) {
      handshake.failure = this.#fault(oursFailed(error))
      this.#handshake = handshake
    }
    this.#io.resume()
  }

  #welcome(head: RequestHead, request: Request, protocol: string, response: Response): void {
    const answer = switching(head, protocol, this.#settings.engine?.terms ?? null, response)
    this.#io.write(/[\x80-\xff]/.test(answer.text) ? Buffer.from(answer.text, 'latin1') : answer.text)
    this.#opened(answer.agreement)
    this.#io.event('onWebSocketConnected', request, answer.protocol)
  }

  #opened(agreement: Agreement | null): void {
    const { engine, pingIntervalMs } = this.#settings
    if (agreement !== null && engine !== null) this.deflate = engine.open(agreement)
    this.#state = State.Open
    this.#io.deadline('handshake', 0)
    this.#io.deadline('ping', pingIntervalMs / 2)
    const early = this.#handshake?.early ?? []
    this.#handshake = null
    for (const message of early) this.#sendNow(message)
    if (this.#is(Bit.Leaving)) this.#putOff()
  }

  #ask(): void {
    const { target, peer } = this.#io
    const { protocols, headers, engine } = this.#settings
    const authority = target?.authority ?? peer.remoteIp
    const handshake = this.#handshake as Handshake
    handshake.terms = engine?.terms ?? null
    const offer = handshake.terms === null ? '' : offerOf(handshake.terms)
    const { text, key } = asking(authority, target?.uri ?? '/', protocols, offer, headers)
    handshake.key = key
    this.#io.write(text)
  }

  #takeAnswer(bytes: Buffer, start: number): number {
    const end = bytes.indexOf('\r\n\r\n', start)
    if (end < 0) {
      if (bytes.length - start > HEAD_LIMITS.maxHeadBytes)
        throw new ProtocolError('ERR_BAD_HANDSHAKE', 'the answer does not end')
      return 0
    }
    const text = bytes.toString('latin1', start, end + 4)
    if (isInterim(text)) return end + 4 - start
    const { key, terms } = this.#handshake as Handshake
    const { protocol, agreement } = answered(text, key, this.#settings.protocols, terms)
    this.#opened(agreement)
    this.#io.event('onWebSocketConnected', null, protocol)
    return end + 4 - start
  }

  #turnAway(status: number, message: string, lines: Readonly<Record<string, string>> = {}): void {
    this.#refuse(status, message, lines)
    this.#io.end()
  }

  #turnAwayWith(response: Response): void {
    this.#sendRefusal(response)
    this.#io.end()
  }

  #refuse(status: number, message: string, lines: Readonly<Record<string, string>> = {}): void {
    const type = { 'Content-Type': 'text/plain; charset=utf-8' }
    this.#sendRefusal(new Response(status, { ...type, ...lines }, `${message}\n`))
  }

  #sendRefusal(response: Response): void {
    const parts = refusing(response, this.#handshake?.parser.isHead === true, this.#settings.date())
    this.#state = State.Closed
    for (const part of parts) this.#io.write(part)
  }

  // Frames in

  /** Some bytes of a head or a payload; where it stopped. */
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

  /** Of the reader. */
  onMessage(message: string | Buffer): void {
    if (this.#state !== State.Open && this.#state !== State.Closing) return
    if (!this.#io.emit(message)) this.#bits |= Bit.Stopped
  }

  /** Of the reader. */
  onControl(opcode: Opcode, payload: Buffer): void {
    if (opcode === Opcode.Close) return this.#takeClose(payload)
    if (opcode === Opcode.Pong) {
      this.#io.event('onWebSocketPong', payload)
      return
    }
    this.#io.event('onWebSocketPing', payload)
    if (this.#state !== State.Open) return
    if (this.#io.queuedBytes <= MAX_PONG_QUEUE) this.#write(Opcode.Pong, payload)
    else this.#io.onDrain = () => this.#pongLate(payload) // in place of that for an earlier ping
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
    this.#state = this.#state === State.Closing ? State.Closed : State.Heard
    this.#io.deadline('ping', 0)
    if (this.#state === State.Heard) this.#io.deadline('close', this.#settings.closeTimeoutMs)
    this.#finally(() => this.#endClosing(code, reason))
  }

  /** The peer's own code back. It does not wait for a slow handler for ever: then that may not answer any more. */
  #answerClose(): void {
    const code = this.#closeCode
    this.#write(Opcode.Close, code === 1005 ? NO_BYTES : Uint8Array.of(code >> 8, code & 0xff))
    this.#state = State.Closed
  }

  /** Both have said goodbye, and the peer's messages are handled. Who serves closes first: section 7.1.1. */
  #endClosing(code: number, reason: string): void {
    if (this.#state === State.Heard) this.#answerClose()
    this.#io.event('onWebSocketClose', code, reason)
    if (this.isServer)
      this.#io.end(code) // not `close`: what the peer still says would reset what it has not read yet
    else this.#io.deadline('close', this.#settings.closeTimeoutMs)
  }

  /** Our goodbye. What comes before the peer's is still delivered. */
  #close(code: number, reason: string): boolean {
    if (this.#state !== State.Open && this.#state !== State.Heard) return this.#io.refuse('the WebSocket is not open')
    const size = Buffer.byteLength(reason)
    const payload = Buffer.alloc(2 + size)
    payload.writeUInt16BE(code)
    payload.write(reason, 2)
    this.#state = this.#state === State.Heard ? State.Closed : State.Closing
    this.#io.deadline('ping', 0)
    this.#io.deadline('close', this.#settings.closeTimeoutMs)
    return this.#write(Opcode.Close, payload)
  }

  #finish(code: number): void {
    this.#state = State.Closed
    this.#io.close(code)
  }

  /** The peer is told by a close code, or in the handshake by a status; the connection ends. */
  #fault(error: ProtocolError): ProtocolError {
    if (this.#state < State.Open && this.isServer)
      this.#refuse(error.statusHint ?? 400, error.statusHint === 500 ? 'the server failed' : error.message)
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
   * A peer that says nothing is asked; one that stays silent is gone. Looked at twice in an interval, so that it is never
   * silent for longer. Who still takes what is queued lives: the ping is behind that.
   */
  #checkPeer(): void {
    const { pingIntervalMs, pongTimeoutMs } = this.#settings
    if (this.#state !== State.Open) return
    this.deflate?.rest()
    const { queuedBytes } = this.#io
    if (this.#is(Bit.Alive)) this.#queuedAtPing = -1
    else if (this.#queuedAtPing < 0) {
      this.#write(Opcode.Ping, NO_BYTES)
      this.#queuedAtPing = queuedBytes === 0 ? 0 : this.#io.queuedBytes // that the kernel takes a ping says nothing
    } else if (queuedBytes < this.#queuedAtPing) this.#queuedAtPing = queuedBytes
    else throw peerIsDead(pongTimeoutMs)
    this.#bits &= ~Bit.Alive
    this.#io.deadline('ping', this.#queuedAtPing < 0 ? pingIntervalMs / 2 : pongTimeoutMs)
  }

  // Frames out

  #keepEarly(message: WebSocketMessage): boolean {
    const payload = message instanceof PreparedMessage ? message.payload : payloadOf(message)
    const handshake = this.#handshake as Handshake
    if (handshake.earlyBytes >= this.#io.maxSendBufferSize)
      return this.#io.refuse('too much is waiting for the handshake')
    handshake.early.push(message)
    handshake.earlyBytes += Buffer.byteLength(payload)
    return true // when it is sent, `onBufferFull` and `onBufferDrain` tell of it as of any other
  }

  #sendNow(message: WebSocketMessage): boolean {
    if (message instanceof PreparedMessage) return this.#sendPrepared(message)
    const payload = payloadOf(message)
    const opcode = message instanceof Uint8Array ? Opcode.Binary : Opcode.Text
    const deflate = this.deflate
    if (deflate === null || Buffer.byteLength(payload) < this.#threshold(deflate.agreement.hasTakeover))
      return this.#write(opcode, payload)
    const mayGoOn = this.#write(opcode, deflate.compress(payload), true)
    if (mayGoOn) deflate.sent() // else it may have been refused; then `onError` may have sent another one, too
    return mayGoOn
  }

  #sendPrepared(message: PreparedMessage): boolean {
    if (!this.isServer) return this.#sendNow(message.payload) // each is masked by its own key
    const { compression, engine } = this.#settings
    if (this.deflate === null || compression === null || engine === null || message.size < this.#threshold(false))
      return this.#io.write(message.frame())
    this.deflate.forget()
    return this.#io.write(message.compressedFrame(engine, this.deflate.agreement, compression.level))
  }

  /** In bytes. A few get smaller only where there is something to look back on. */
  #threshold(canLookBack: boolean): number {
    return this.#settings.compression?.threshold ?? (canLookBack ? 64 : 1024)
  }

  #write(opcode: Opcode, payload: string | Uint8Array, rsv1 = false): boolean {
    const frame = this.isServer ? sentFrame(opcode, payload, rsv1) : clientFrame(opcode, payload, rsv1)
    return this.#io.write(frame, opcode >= Opcode.Close)
  }
}

const RESTART = 'service restart'
const NO_BYTES = Buffer.alloc(0)

function peerIsDead(ms: number): ProtocolError {
  return new ProtocolError('ERR_PEER_DEAD', `the peer has not answered a ping for ${ms} ms`, { closeCode: 1006 })
}

/** A status that turns away; 200 is what a Response has when nobody has said anything. */
function isRefusal({ status }: Response): boolean {
  return status !== 200 && status !== 101
}

/** A function among the settings threw. */
function oursFailed(cause: unknown): ProtocolError {
  return new ProtocolError('ERR_WEBSOCKET', `a setting of websocket failed: ${cause}`, {
    statusHint: 500,
    closeCode: 1011,
    cause,
  })
}

/** The handshake as a request, whose body is empty. */
function requestOf(head: RequestHead, io: CodecIo<string | Buffer>, isTrusted: Resolved['isTrusted']): Request {
  return new Request(head, null, io, { isTrusted, loadSession: noSessions })
}

function noSessions(): never {
  throw new UsageError(
    'ERR_NO_SESSIONS',
    'a handshake has no session: load it by its cookie, or in an http request before',
  )
}
