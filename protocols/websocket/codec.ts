// One WebSocket connection (RFC 6455), server or client: handshake, frames, messages, pings, the closing handshake. A
// peer that breaks a rule receives the matching close code before the connection ends. Text is checked as it arrives.

import { ProtocolError, UsageError } from '../../src/errors.ts'
import { Accumulator, type CloseReason, type Codec, type CodecIo, isThenable, NEED_MORE } from '../../src/protocol.ts'
import { HEAD_LIMITS, type HeadLimits, HeadParser, type RequestHead } from '../http/head.ts'
import { isMisdirected, Request } from '../http/request.ts'
import { Response } from '../http/response.ts'
import { type Agreement, type DeflateContext, offerOf, type Terms } from './deflate.ts'
import { broken, FrameReader, type MessageSink, noText } from './frame-reader.ts'
import { clientFrame, isCloseCode, Opcode, sentFrame } from './frames.ts'
import { answered, asking, isInterim, offeredProtocols, refusalOf, refusing, switching } from './handshake.ts'
import { CloseFrame, opcodeOf, PreparedMessage, payloadOf, type WebSocketMessage } from './messages.ts'
import type { Resolved } from './settings.ts'
import { textOf } from './utf8.ts'
import { Visit } from './visit.ts'

const enum State {
  /** For a request, or for the answer to ours. */
  AwaitHandshake = 0,
  /** For the user to decide whether the client is admitted. */
  AwaitWelcome = 1,
  Open = 2,
  /** The peer has sent a close frame or broken a rule. Messages before that are handled and may be answered. */
  Heard = 3,
  /** We have sent a close frame and wait for the peer's. */
  Closing = 4,
  /** All further input is ignored. */
  Closed = 5,
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

/** State needed until the handshake is done. */
class Handshake {
  /** Servers only. */
  readonly parser: HeadParser
  head: RequestHead | null = null
  startedAt = 0
  /** What a client has offered. */
  terms: Terms | null = null
  /** Clients only. */
  key = ''
  /** Messages wait for its end. */
  hasKept = false
  /** The close frame follows these messages, or the handshake: the user has closed, or a pipe has ended. */
  isLast = false
  /** The error that occurred after the user's decision. */
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
  /** Null once the handshake is done. */
  #handshake: Handshake | null
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

  // Called by the connection

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
    if (this.#state < State.Open) return this.#keep(message)
    if (message instanceof CloseFrame) return this.#close(message.code, message.reason)
    return this.#sendNow(message)
  }

  drain(): void {
    this.#bits |= Bit.Leaving
    if (this.#state === State.Open) this.#putOff()
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
    this.#close(1012, RESTART)
  }

  closing(reason: 'closed' | 'handler' | 'timeout'): boolean {
    if (this.#state < State.Open) return this.#closeEarly(reason)
    if (this.#is(Bit.PutOff)) this.#finally(null)
    const isPutOff = reason === 'closed' && this.#io.onSettled !== null // the goodbye follows then
    if (isPutOff) return true
    if (this.#state <= State.Heard) this.#close(reason === 'handler' ? 1011 : reason === 'timeout' ? 1001 : 1000, '')
    return reason === 'closed' && this.#state === State.Closing
  }

  /** A client whose messages wait closes when the handshake is over and they are sent. */
  #closeEarly(reason: 'closed' | 'handler' | 'timeout'): boolean {
    if (this.isServer) {
      if (reason !== 'timeout') this.#refuse(reason === 'handler' ? 500 : 403, 'not now')
      return false
    }
    const handshake = this.#handshake as Handshake
    handshake.isLast = reason === 'closed' && handshake.hasKept
    return handshake.isLast
  }

  /** There is no half-close but this: after our close frame messages still come, until the peer's. */
  shut(): void {
    if (this.#state === State.Open) this.#close(1000, '')
    else if (this.#handshake !== null) this.#handshake.isLast = true
  }

  get isOpening(): boolean {
    return this.#state < State.Open
  }

  get isClosing(): boolean {
    return this.#state >= State.Closing
  }

  get isBusy(): boolean {
    if (this.#state === State.Open) return this.#isReceiving
    const isAsking = this.#state === State.AwaitHandshake && (this.#rest?.length ?? 0) > 0
    return isAsking || this.#state === State.AwaitWelcome || this.#state === State.Closing
  }

  get #isReceiving(): boolean {
    if (this.#is(Bit.PutOff) && !this.#is(Bit.LastCall)) return true
    return this.#reader !== null && !this.#reader.isIdle && !this.#is(Bit.HadLast)
  }

  /** FIN, with or without a close frame before it. */
  ended(): void {
    if (this.#state === State.AwaitHandshake && (this.#rest?.length ?? 0) > 0) return this.#cutHandshake()
    if (this.#state < State.Open) return
    if (this.#state === State.Open) this.#bits |= Bit.PeerFirst
    if (this.#io.onSettled === null || this.#is(Bit.PutOff)) this.#finally(() => this.#finish(this.#closeCode))
  }

  #cutHandshake(): void {
    if (this.isServer) return this.#turnAway(400, 'the handshake ends before its end')
    throw new ProtocolError('ERR_BAD_HANDSHAKE', 'the server closed amid its answer')
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

  /** Returns the length of the head, or 0 while it is incomplete. */
  #takeRequest(bytes: Buffer, start: number): number {
    const { parser } = this.#handshake as Handshake
    const head = bytes.subarray(start)
    const length = parser.parse(head)
    if (length === NEED_MORE) return 0
    const taken = parser.take(head)
    if (this.#settings.log !== null)
      Object.assign(this.#handshake as Handshake, { head: taken, startedAt: this.#io.now() })
    this.#decide(taken)
    return length
  }

  #decide(head: RequestHead): void {
    if (this.#is(Bit.Leaving)) return this.#turnAway(503, RESTART)
    const refusal = refusalOf(head)
    if (refusal !== null) return this.#turnAway(refusal.status, refusal.message, refusal.lines)
    const offered = offeredProtocols(head)
    if (offered === null) return this.#turnAway(400, 'Sec-WebSocket-Protocol is no list of names')
    const visit = new Visit(this.#settings.sessions)
    const request = requestOf(head, this.#io, this.#settings.isTrusted, visit)
    if (isMisdirected(request)) return this.#turnAway(421, 'https is asked for without TLS')
    if (!this.#settings.isWelcome(head.header('origin'), request)) return this.#turnAway(403, 'this origin may not')
    const chosen = this.#settings.choose(offered, request)
    if (chosen !== '' && !offered.includes(chosen))
      throw new UsageError('ERR_BAD_SUBPROTOCOL', `the client did not offer '${chosen}'`)
    this.#askUser(head, request, chosen, visit)
  }

  /** Asks the user, who may take time to decide. */
  #askUser(head: RequestHead, request: Request, protocol: string, visit: Visit): void {
    const response = new Response()
    const said = this.#io.event('onWebSocketConnect', request, response)
    const word = isThenable(said) || visit.hasBegun ? this.#stored(said, visit, request, response) : said
    const decided = (answer: unknown) => {
      visit.end()
      if (this.#state === State.Closed) return // the callback threw or closed, and the client has its answer
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
      () => this.#decideLate(() => this.#turnAway(500, 'the handler failed')), // the connection has called onError
    )
  }

  /** What the user said, once the session that it asked for is stored. Without a cookie to bring, nothing is. */
  async #stored(said: unknown, visit: Visit, request: Request, response: Response): Promise<unknown> {
    const answer = await said
    if (answer === false || !visit.hasBegun) return answer
    try {
      await visit.store(request, answer instanceof Response ? answer : response)
    } catch (error) {
      if (this.#state === State.AwaitWelcome) this.#turnAway(500, 'the session could not be stored')
      this.#io.fail(error)
    }
    return answer
  }

  /** No caller could catch an error here, so it is thrown when receiving goes on. */
  #decideLate(decide: () => void): void {
    if (this.#state !== State.AwaitWelcome) return // closed meanwhile, or timed out
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
    const handshake = this.#handshake
    this.#io.write(/[\x80-\xff]/.test(answer.text) ? Buffer.from(answer.text, 'latin1') : answer.text)
    this.#opened(answer.agreement)
    this.#log(handshake, 101, 0)
    this.#tellOpened(request, answer.protocol)
  }

  #opened(agreement: Agreement | null): void {
    const { engine, pingIntervalMs } = this.#settings
    if (agreement !== null && engine !== null) this.deflate = engine.open(agreement)
    this.#state = State.Open
    this.#io.deadline('handshake', 0)
    this.#io.deadline('ping', pingIntervalMs / 2)
    const isLast = this.#handshake?.isLast === true
    this.#handshake = null
    this.#io.sendKept()
    if (this.#state !== State.Open) return // a close frame was among them
    if (isLast) this.#close(1000, '')
    else if (this.#is(Bit.Leaving)) this.#putOff()
  }

  #tellOpened(request: Request | null, protocol: string): void {
    if (this.#state === State.Open) this.#io.event('onWebSocketConnected', request, protocol)
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
    this.#tellOpened(null, protocol)
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
    this.#log(this.#handshake, response.status, Buffer.byteLength(parts[1] ?? ''))
  }

  /** As HTTP logs its own answers. */
  #log(handshake: Handshake | null, status: number, bytes: number): void {
    const { log, isTrusted } = this.#settings
    const head = handshake?.head ?? null
    if (log === null || handshake === null || head === null) return
    const { method, target, minorVersion } = head
    const durationMs = Math.round(this.#io.now() - handshake.startedAt)
    const { remoteIp } = requestOf(head, this.#io, isTrusted)
    const [referer, userAgent] = [head.header('referer') ?? '', head.header('user-agent') ?? '']
    try {
      log({ remoteIp, method, target, version: `1.${minorVersion}`, status, bytes, durationMs, referer, userAgent })
    } catch (error) {
      this.#io.fail(error)
    }
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
    this.#io.event('onWebSocketPing', payload)
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
    if (this.isServer)
      this.#io.end(code, this.#reason) // see #checkClose
    else this.#io.deadline('close', this.#settings.closeTimeoutMs)
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
    if (this.#hasTakenMore()) return this.#io.deadline('close', this.#settings.closeTimeoutMs)
    this.#state = State.Closed
    // Not `close`: bytes the peer still sends would cause a reset, and it would lose what it has not read yet.
    this.#io.end(this.#closeCode, this.#reason)
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

  /** Encoded now, so that an unsendable one throws to its sender. */
  #keep(message: WebSocketMessage): boolean {
    const handshake = this.#handshake as Handshake
    if (message instanceof CloseFrame)
      return handshake.hasKept ? this.#io.keep(message, 0) : this.#io.refuse('the WebSocket is not open')
    handshake.hasKept = true
    if (message instanceof PreparedMessage) return this.#io.keep(message, message.size)
    const payload = payloadOf(message)
    return this.#io.keep(payload, Buffer.byteLength(payload))
  }

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

const RESTART = 'service restart'
const NO_BYTES = Buffer.alloc(0)

function peerIsDead(ms: number): ProtocolError {
  return new ProtocolError('ERR_PEER_DEAD', `the peer has not answered a ping for ${ms} ms`, { closeCode: 1006 })
}

/** Whether the status refuses. 200 is a Response's default and means no decision. */
function isRefusal({ status }: Response): boolean {
  return status !== 200 && status !== 101
}

/** A function in the settings threw. */
function oursFailed(cause: unknown): ProtocolError {
  return new ProtocolError('ERR_WEBSOCKET', `a setting of websocket failed: ${cause}`, {
    statusHint: 500,
    closeCode: 1011,
    cause,
  })
}

/** The handshake as a request with an empty body. */
function requestOf(
  head: RequestHead,
  io: CodecIo<string | Buffer>,
  isTrusted: Resolved['isTrusted'],
  visit: Visit = NO_VISIT,
): Request {
  return new Request(head, null, io, { isTrusted, loadSession: (request) => visit.load(request) })
}

const NO_VISIT = new Visit(null)
