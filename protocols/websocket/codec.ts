// One WebSocket connection (RFC 6455), server or client: handshake, frames, messages, pings, the closing handshake. Whatever
// breaks a rule is told by its close code before the connection ends. Text is checked as it arrives.

import { ProtocolError, UsageError } from '../../src/errors.ts'
import { Accumulator, type Codec, type CodecIo, NEED_MORE } from '../../src/protocol.ts'
import { HEAD_LIMITS, HeadParser, type RequestHead } from '../http/head.ts'
import { Request } from '../http/request.ts'
import { RequestBody } from '../http/request-body.ts'
import { REASONS, Response } from '../http/response.ts'
import { type Agreement, deflate, inflate } from './deflate.ts'
import { clientFrame, FIN, isCloseCode, MASKED, mask, Opcode, RSV1, serverFrame } from './frames.ts'
import { answered, asking, offeredProtocols, refusalOf, switching } from './handshake.ts'
import { CloseFrame, PreparedMessage, payloadOf, type WebSocketMessage } from './messages.ts'
import type { Resolved } from './settings.ts'
import { textOf, Utf8Checker } from './utf8.ts'

const enum State {
  /** A request, or the answer to ours. */
  AwaitHandshake = 0,
  /** The user decides whether the client may come in. */
  AwaitWelcome = 1,
  Open = 2,
  /** We have said goodbye, and wait for the peer's. */
  Closing = 3,
  /** Nothing that comes counts. */
  Closed = 4,
}

/** Bytes that may be queued for a peer before pongs are left out but the last (RFC 6455 section 5.5.3). */
const MAX_PONG_QUEUE = 65_536
/** What may be sent before the handshake is done, in bytes. */
const MAX_EARLY = 1_048_576
const MAX_HEAD = 14

export class WebSocketCodec implements Codec<WebSocketMessage> {
  readonly #io: CodecIo<string | Buffer>
  readonly #settings: Resolved
  readonly #isServer: boolean
  #state: State = State.AwaitHandshake
  #rest: Accumulator | null = null
  #isStopped = false
  #agreement: Agreement | null = null
  #early: WebSocketMessage[] | null = null
  #earlyBytes = 0
  #parser: HeadParser | null = null
  /** A client's. */
  #key = ''
  // The frame that is being read.
  #head: Buffer | null = null
  #headSize = 0
  #opcode = Opcode.Continuation
  #isFinal = false
  #left = 0
  #length = 0
  /** Behind the head, or masked by 0: the key, if there is one. */
  #keyAt = -1
  #control: Buffer | null = null
  // The message that is being read, of one frame or several.
  #message: Accumulator | null = null
  #messageOpcode = Opcode.Continuation
  #isCompressed = false
  #checker: Utf8Checker | null = null
  #pong: Buffer | null = null
  #hasHeard = false
  #isPinged = false
  #closeCode = 1006

  constructor(io: CodecIo<string | Buffer>, settings: Resolved, isServer: boolean) {
    this.#io = io
    this.#settings = settings
    this.#isServer = isServer
    io.deadline('handshake', settings.handshakeTimeoutMs)
    if (isServer) this.#parser = new HeadParser(HEAD_LIMITS)
    else this.#ask()
  }

  // What the connection calls

  receive(bytes: Buffer): void {
    this.#hasHeard = true
    if (this.#state === State.Closed) return
    if (this.#rest !== null && this.#rest.length > 0) {
      this.#rest.append(bytes)
      if (this.#state !== State.AwaitWelcome && !this.#isStopped) this.#goOn()
      return
    }
    const used = this.#guarded(bytes)
    if (used === bytes.length) return
    this.#rest ??= new Accumulator()
    this.#rest.append(bytes.subarray(used))
  }

  resumed(): void {
    this.#isStopped = false
    this.#goOn()
  }

  send(message: WebSocketMessage): boolean {
    if (this.#state >= State.Closing) return this.#io.refuse('the WebSocket is closing')
    if (message instanceof CloseFrame) return this.#close(message.code, message.reason)
    if (this.#state !== State.Open) return this.#keepEarly(message)
    return this.#sendNow(message)
  }

  drain(): void {
    if (this.#state === State.Open) this.#close(1012, 'service restart')
  }

  closing(reason: 'closed' | 'handler' | 'timeout'): boolean {
    if (this.#state < State.Open) {
      if (this.#isServer && reason !== 'timeout') this.#refuse(reason === 'handler' ? 500 : 403, 'not now')
      return false
    }
    if (this.#state === State.Open) this.#close(reason === 'handler' ? 1011 : reason === 'timeout' ? 1001 : 1000, '')
    return reason === 'closed' && this.#state === State.Closing
  }

  get isBusy(): boolean {
    return this.#state < State.Closing && (this.#message !== null || this.#headSize > 0 || this.#left > 0)
  }

  /** FIN without a close frame, or after one. */
  ended(): void {
    if (this.#state >= State.Open) this.#finish(this.#closeCode)
  }

  timeout(kind: string): void {
    if (kind === 'ping') return this.#checkPeer()
    if (kind === 'close') return this.#finish(this.#closeCode)
    if (this.#isServer) this.#refuse(408, 'the handshake did not come in time')
    throw new ProtocolError('ERR_HANDSHAKE_TIMEOUT', 'the handshake did not come in time')
  }

  closed(): void {
    this.#state = State.Closed
    this.#rest = this.#message = this.#early = null
  }

  // Handshakes

  #goOn(): void {
    const rest = this.#rest
    if (rest !== null) rest.consume(this.#guarded(rest.view()))
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
    while (at < bytes.length && !this.#isStopped) {
      const before = at
      if (this.#state === State.AwaitHandshake)
        at += this.#isServer ? this.#takeRequest(bytes, at) : this.#takeAnswer(bytes, at)
      else if (this.#state === State.Open || this.#state === State.Closing) at = this.#takeFrame(bytes, at)
      else if (this.#state === State.Closed) return bytes.length
      if (at === before) break
    }
    return this.#state === State.Closed ? bytes.length : at
  }

  /** The head's bytes, or 0 while it is not whole. */
  #takeRequest(bytes: Buffer, start: number): number {
    const parser = this.#parser as HeadParser
    const head = bytes.subarray(start)
    const length = parser.parse(head)
    if (length === NEED_MORE) return 0
    this.#parser = null
    this.#decide(parser.take(head))
    return length
  }

  #decide(head: RequestHead): void {
    const refusal = refusalOf(head)
    if (refusal !== null) return this.#turnAway(refusal.status, refusal.message, refusal.lines)
    const offered = offeredProtocols(head)
    if (offered === null) return this.#turnAway(400, 'Sec-WebSocket-Protocol is no list of names')
    const request = requestOf(head, this.#io)
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
      if (answer === false) this.#turnAway(403, 'not allowed')
      else if (answer instanceof Response && answer !== response) this.#turnAwayWith(answer)
      else this.#welcome(head, request, protocol, response)
    }
    if (!isThenable(word)) return decided(word)
    this.#state = State.AwaitWelcome
    this.#io.pause()
    Promise.resolve(word).then(
      (answer) => {
        if (this.#state !== State.AwaitWelcome) return
        decided(answer)
        this.#io.resume()
      },
      () => this.#turnAway(500, 'the handler failed'), // the connection has told onError
    )
  }

  #welcome(head: RequestHead, request: Request, protocol: string, response: Response): void {
    const { text, agreement } = switching(head, protocol, this.#settings.compression !== null, response)
    this.#io.write(/[\x80-\xff]/.test(text) ? Buffer.from(text, 'latin1') : text)
    this.#opened(agreement)
    this.#io.event('onWebSocketConnected', request, protocol)
  }

  #opened(agreement: Agreement | null): void {
    this.#agreement = agreement
    this.#state = State.Open
    this.#io.deadline('handshake', 0)
    this.#io.deadline('ping', this.#settings.pingIntervalMs)
    for (const message of this.#early ?? []) this.#sendNow(message)
    this.#early = null
  }

  #ask(): void {
    const { target, peer } = this.#io
    const { protocols, headers, compression } = this.#settings
    const authority = target?.authority ?? peer.remoteIp
    const { text, key } = asking(authority, target?.uri ?? '/', protocols, compression !== null, headers)
    this.#key = key
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
    const { protocols, compression } = this.#settings
    const { protocol, agreement } = answered(text, this.#key, protocols, compression !== null)
    this.#opened(agreement)
    this.#io.event('onWebSocketConnected', null, protocol)
    return end + 4 - start
  }

  #turnAway(status: number, message: string, lines = ''): void {
    this.#refuse(status, message, lines)
    this.#io.end()
  }

  #turnAwayWith({ status, fields, body }: Response): void {
    let lines = ''
    for (const { name, values } of fields.values()) for (const value of values) lines += `${name}: ${value}\r\n`
    this.#refuse(status, typeof body === 'string' ? body : '', lines)
    this.#io.end()
  }

  #refuse(status: number, message: string, lines = ''): void {
    this.#state = State.Closed
    const text = `${message}\n`
    this.#io.write(
      `HTTP/1.1 ${status} ${REASONS[status] ?? ''}\r\n${lines}Content-Type: text/plain; charset=utf-8\r\nContent-Length: ${Buffer.byteLength(text)}\r\nConnection: close\r\n\r\n${text}`,
    )
  }

  // Frames in

  /** Some bytes of a head or a payload; where it stopped. */
  #takeFrame(bytes: Buffer, start: number): number {
    let at = start
    if (this.#left === 0) {
      at = this.#takeHead(bytes, at)
      if (this.#headSize > 0) return at
      if (this.#left === 0) {
        this.#endFrame(NO_BYTES)
        return at
      }
    }
    const end = Math.min(bytes.length, at + this.#left)
    if (end === at) return at
    this.#takePayload(bytes.subarray(at, end))
    return end
  }

  #takeHead(bytes: Buffer, start: number): number {
    this.#head ??= Buffer.allocUnsafe(MAX_HEAD)
    const head = this.#head
    let at = start
    while (at < bytes.length) {
      head[this.#headSize++] = bytes[at++] as number
      if (this.#headSize === 1) this.#checkFirst(head[0] as number)
      else if (this.#headSize === 2) this.#checkSecond(head[1] as number)
      if (this.#headSize >= 2 && this.#headSize === headSizeOf(head[1] as number)) {
        this.#endHead(head)
        this.#headSize = 0
        break
      }
    }
    return at
  }

  /** FIN, RSV, opcode: RFC 6455 section 5.2, RFC 7692 section 6. */
  #checkFirst(byte: number): void {
    const opcode = byte & 0x0f
    const isControl = opcode >= 8
    if (opcode > Opcode.Pong || (opcode > Opcode.Binary && opcode < Opcode.Close))
      throw broken(`there is no opcode ${opcode}`)
    const isCompressed = (byte & RSV1) !== 0
    if (byte & 0x30 || (isCompressed && (this.#agreement === null || isControl || opcode === Opcode.Continuation)))
      throw broken('a reserved bit is set')
    this.#isFinal = (byte & FIN) !== 0
    if (isControl && !this.#isFinal) throw broken('a control frame in fragments')
    if (opcode === Opcode.Continuation && this.#messageOpcode === Opcode.Continuation)
      throw broken('there is nothing to go on with')
    if (opcode !== Opcode.Continuation && !isControl) {
      if (this.#messageOpcode !== Opcode.Continuation) throw broken('a message begins within another')
      this.#messageOpcode = opcode
      this.#isCompressed = isCompressed
    }
    this.#opcode = opcode
  }

  #checkSecond(byte: number): void {
    if (((byte & MASKED) !== 0) !== this.#isServer)
      throw broken(this.#isServer ? 'a client masks its frames' : 'a server masks no frames')
    if (this.#opcode >= Opcode.Close && (byte & 0x7f) > 125) throw broken('a control frame of over 125 bytes')
  }

  #endHead(head: Buffer): void {
    const short = (head[1] as number) & 0x7f
    let length = short
    if (short === 126) length = head.readUInt16BE(2)
    else if (short === 127) length = head.readUInt32BE(2) * 2 ** 32 + head.readUInt32BE(6)
    if ((short === 126 && length < 126) || (short === 127 && length < 65_536))
      throw broken('a length in more bytes than it needs')
    if (short === 127 && (head[2] as number) & 0x80) throw broken('a length with its highest bit set')
    const limit = this.#io.maxPackageSize
    if (this.#opcode < Opcode.Close && length + (this.#message?.length ?? 0) > limit)
      throw new ProtocolError('ERR_MESSAGE_TOO_LARGE', `a message is over the limit of ${limit} bytes`, {
        closeCode: 1009,
      })
    this.#left = this.#length = length
    this.#keyAt = this.#isServer ? this.#headSize - 4 : -1
  }

  /** Unmasked in place: the bytes are lent, and nobody else reads them. */
  #takePayload(bytes: Buffer): void {
    if (this.#keyAt >= 0) mask(bytes, this.#head as Buffer, this.#keyAt, this.#length - this.#left)
    const isWhole = bytes.length === this.#length
    this.#left -= bytes.length
    if (this.#opcode >= Opcode.Close) {
      this.#control = this.#control === null ? Buffer.from(bytes) : Buffer.concat([this.#control, bytes])
      if (this.#left === 0) this.#endFrame(this.#control)
      return
    }
    if (isWhole && this.#isFinal && this.#opcode !== Opcode.Continuation) return this.#endFrame(bytes)
    this.#check(bytes)
    this.#message ??= new Accumulator()
    this.#message.append(bytes)
    if (this.#left === 0) this.#endFrame(NO_BYTES)
  }

  #check(bytes: Buffer): void {
    if (this.#messageOpcode !== Opcode.Text || this.#isCompressed) return
    this.#checker ??= new Utf8Checker()
    if (!this.#checker.accepts(bytes)) throw noText()
  }

  /** `whole` is a control frame's payload, or that of a message that came in one piece (lent). */
  #endFrame(whole: Buffer): void {
    if (this.#opcode >= Opcode.Close) {
      this.#control = null
      return this.#takeControl(this.#opcode, whole)
    }
    if (!this.#isFinal) return
    const gathered = this.#message?.take() ?? null
    const isText = this.#messageOpcode === Opcode.Text
    const isChecked = this.#checker !== null
    if (isChecked && !this.#checker?.isWhole) throw noText()
    this.#message = this.#checker = null
    this.#messageOpcode = Opcode.Continuation
    const payload = this.#isCompressed ? inflate(gathered ?? whole, this.#io.maxPackageSize) : (gathered ?? whole)
    if (isText) this.#emit(isChecked ? payload.toString() : (textOf(payload) ?? fail(noText())))
    else this.#emit(payload === whole ? Buffer.from(whole) : payload)
  }

  #emit(message: string | Buffer): void {
    if (this.#state !== State.Open && this.#state !== State.Closing) return
    if (!this.#io.emit(message)) this.#isStopped = true
  }

  #takeControl(opcode: Opcode, payload: Buffer): void {
    if (opcode === Opcode.Close) return this.#takeClose(payload)
    if (opcode === Opcode.Pong) {
      this.#io.event('onWebSocketPong', payload)
      return
    }
    this.#io.event('onWebSocketPing', payload)
    if (this.#state !== State.Open) return
    if (this.#io.queuedBytes <= MAX_PONG_QUEUE) this.#write(Opcode.Pong, payload)
    else {
      this.#pong = payload
      this.#io.onDrain = () => this.#pongLate()
    }
  }

  #pongLate(): void {
    const payload = this.#pong
    this.#pong = null
    if (payload !== null && this.#state === State.Open) this.#write(Opcode.Pong, payload)
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
    const isAnswer = this.#state === State.Closing
    if (!isAnswer) this.#write(Opcode.Close, payload.subarray(0, 2))
    this.#state = State.Closed
    this.#io.event('onWebSocketClose', code, reason)
    if (this.#isServer) return this.#io.close(code) // who serves closes first: TIME_WAIT is his (section 7.1.1)
    this.#io.deadline('close', this.#settings.closeTimeoutMs)
  }

  /** Our goodbye. What comes before the peer's is still delivered. */
  #close(code: number, reason: string): boolean {
    if (this.#state !== State.Open) return this.#io.refuse('the WebSocket is not open')
    const size = Buffer.byteLength(reason)
    const payload = Buffer.alloc(2 + size)
    payload.writeUInt16BE(code)
    payload.write(reason, 2)
    this.#state = State.Closing
    this.#closeCode = code
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
    if (this.#state === State.AwaitHandshake && this.#isServer)
      this.#refuse(error.statusHint ?? 400, error.statusHint === 500 ? 'the server failed' : error.message)
    else if (this.#state === State.Open || this.#state === State.Closing) {
      const code = error.closeCode ?? 1002
      if (this.#state === State.Open) this.#close(code, '')
      this.#state = State.Closed
    }
    this.#io.deadline('ping', 0)
    return error
  }

  /** A peer that says nothing is asked; one that stays silent is gone. */
  #checkPeer(): void {
    const { pingIntervalMs, pongTimeoutMs } = this.#settings
    if (this.#state !== State.Open) return
    if (this.#hasHeard || !this.#isPinged) {
      this.#isPinged = !this.#hasHeard
      this.#hasHeard = false
      if (this.#isPinged) this.#write(Opcode.Ping, NO_BYTES)
      return this.#io.deadline('ping', this.#isPinged ? pongTimeoutMs : pingIntervalMs)
    }
    throw new ProtocolError('ERR_PEER_DEAD', `the peer has not answered a ping for ${pongTimeoutMs} ms`, {
      closeCode: 1006,
    })
  }

  // Frames out

  #keepEarly(message: WebSocketMessage): boolean {
    const payload = message instanceof PreparedMessage ? message.payload : payloadOf(message)
    if (this.#earlyBytes >= MAX_EARLY) return this.#io.refuse('too much is waiting for the handshake')
    this.#early ??= []
    this.#early.push(message)
    this.#earlyBytes += Buffer.byteLength(payload)
    return this.#earlyBytes < MAX_EARLY
  }

  #sendNow(message: WebSocketMessage): boolean {
    if (message instanceof PreparedMessage) return this.#sendPrepared(message)
    const payload = payloadOf(message)
    const opcode = message instanceof Uint8Array ? Opcode.Binary : Opcode.Text
    const { compression } = this.#settings
    if (this.#agreement === null || compression === null || Buffer.byteLength(payload) < compression.threshold)
      return this.#write(opcode, payload)
    return this.#write(opcode, deflate(payload, this.#agreement, compression.level), true)
  }

  #sendPrepared(message: PreparedMessage): boolean {
    const { compression } = this.#settings
    const isCompressed =
      this.#agreement !== null && compression !== null && Buffer.byteLength(message.payload) >= compression.threshold
    if (!this.#isServer) return this.#write(message.opcode, message.payload) // each is masked by its own key
    return this.#io.write(
      isCompressed ? message.compressedFrame(this.#agreement as Agreement, compression.level) : message.frame(),
    )
  }

  #write(opcode: Opcode, payload: string | Uint8Array, rsv1 = false): boolean {
    return this.#io.write(this.#isServer ? serverFrame(opcode, payload, rsv1) : clientFrame(opcode, payload, rsv1))
  }
}

const NO_BYTES = Buffer.alloc(0)

function headSizeOf(second: number): number {
  const short = second & 0x7f
  return 2 + (short < 126 ? 0 : short === 126 ? 2 : 8) + (second & MASKED ? 4 : 0)
}

function broken(message: string): ProtocolError {
  return new ProtocolError('ERR_BAD_FRAME', message, { closeCode: 1002 })
}

/** A function among the settings threw. */
function oursFailed(cause: unknown): ProtocolError {
  return new ProtocolError('ERR_WEBSOCKET', `a setting of websocket failed: ${cause}`, {
    statusHint: 500,
    closeCode: 1011,
    cause,
  })
}

function noText(): ProtocolError {
  return new ProtocolError('ERR_BAD_UTF8', 'a text that is no UTF-8', { closeCode: 1007 })
}

function fail(error: Error): never {
  throw error
}

/** The handshake as a request, whose body is empty. */
function requestOf(head: RequestHead, io: CodecIo<string | Buffer>): Request {
  const body = new RequestBody({ wanted: nothing, pause: nothing, resume: nothing })
  body.end()
  return new Request(head, body, io, { isTrusted: null, loadSession: noSessions })
}

function noSessions(): never {
  throw new UsageError(
    'ERR_NO_SESSIONS',
    'a handshake has no session: load it by its cookie, or in an http request before',
  )
}

function nothing(): void {
  // An empty body needs nobody.
}

function isThenable(value: unknown): value is PromiseLike<unknown> {
  return typeof value === 'object' && value !== null && 'then' in value && typeof value.then === 'function'
}
