// One HTTP/1.1 connection (RFC 9112): head, body, answer, and again, one request at a time. Pipelined requests wait
// until the previous answer is complete. A client's fault is answered with its status, and the connection ends.

import { AbortError, messageOf, ProtocolError } from '../../src/errors.ts'
import { Accumulator } from '../../src/protocol/accumulator.ts'
import {
  type AnyProtocol,
  type Codec,
  type CodecIo,
  type Encoded,
  type LastWordReason,
  NEED_MORE,
} from '../../src/protocol.ts'
import { type Answer, Exchange, type ExchangeHost, mostQueued, tellAtEnd } from './exchange.ts'
import { gone, headRefusal, noRequest, oursFailed, refuseFor } from './faults.ts'
import { HalfClose } from './half-close.ts'
import { HeadParser, type RequestHead, type RequestLine, refusal } from './head.ts'
import { Incoming } from './incoming.ts'
import { Patience, Phase, type Waiter } from './patience.ts'
import { discardAnswer } from './release.ts'
import { isMisdirected, NO_BODY, type Request } from './request.ts'
import { RequestBody } from './request-body.ts'
import { Chunk, ServerSentEvents } from './response.ts'
import { checkedBodyMode, type Resolved, type UploadForm } from './settings.ts'

/** Bytes of an answer for which a client may need longer than a moment: that it has read them is waited for at once. */
const LARGE = 262_144
/** Bytes that may wait behind the request being answered before reading stops. */
const MAX_AHEAD = 65_536
/**
 * The answer is complete, no handler is at work, and what fills the buffer is read by nobody: after this long nobody
 * will. Without a limit, whoever looks at the beginning of a body only would leave a connection behind each time.
 */
const LEFT_BODY_MS = 30_000
/** The same while the worker is leaving. */
const LEFT_BODY_LEAVING_MS = 5000

/** The user has closed: an answer under way is cut when nothing of it has come for this long. */
const LAST_ANSWER_MS = 30_000
/** Events that begin after the goodbye end after this long: their client connects again, to a process that stays. */
const LATE_EVENTS_MS = 1000

const CONTINUE = 'HTTP/1.1 100 Continue\r\n\r\n'

export class HttpCodec implements Codec<Answer>, ExchangeHost, Waiter {
  readonly io: CodecIo<Request>
  readonly settings: Resolved
  readonly #parser: HeadParser
  #rest: Accumulator | null = null
  /** For a malformed head. */
  #badLine: RequestLine | null = null
  #exchange: Exchange | null = null
  #incoming: Incoming | null = null
  #isParsing = false
  /** An `emit` has returned false. */
  #isStopped = false
  #isPaused = false
  #isLeaving = false
  /** The client is to connect anew: the next answer announces that, but nothing is in a hurry. */
  #isRenewing = false
  #isClosing = false
  /** The last answer has been written. */
  #isOver = false
  /** Null until the client has sent FIN. */
  #halfClose: HalfClose | null = null
  /** The client broke the rules and has received the error. */
  #isFaulty = false
  /** The error, if it was found while an answer was being sent. */
  #lateFault: ProtocolError | null = null
  /** We have ended its events, and who makes them may not know yet. */
  #hasEndedEvents = false
  #isUpgraded = false
  /** A whole head has come. */
  #hasHadRequest = false
  /** It is told that by raw bytes, of which more may come in this turn. */
  #isTurningAway = false
  /** Bytes of the last answer. */
  #sentAtLook = 0
  readonly #patience = new Patience(this)

  constructor(io: CodecIo<Request>, settings: Resolved) {
    this.io = io
    this.settings = settings
    this.#parser = new HeadParser(settings.head)
    this.#patience.begin(Phase.Idle)
  }

  get exchange(): Exchange | null {
    return this.#exchange
  }

  get incoming(): Incoming | null {
    return this.#incoming
  }

  get isLeaving(): boolean {
    return this.#isLeaving
  }

  // Called by the connection

  receive(bytes: Buffer): void {
    if (this.#isOver) return
    if (this.#rest !== null && this.#rest.length > 0) {
      this.#rest.append(bytes)
      return this.resumed()
    }
    this.#keep(bytes, this.#guarded(bytes))
  }

  resumed(): void {
    this.#isStopped = false
    this.#advance()
  }

  send(message: Answer): boolean {
    const exchange = this.#exchange
    if (this.#isOver) {
      discardAnswer(message)
      return this.#refuseLate()
    }
    if (this.#hasEndedEvents && exchange?.takesPieces !== true && isPiece(message)) {
      const isEnd = message instanceof Chunk && message.data.length === 0
      return isEnd || this.io.refuse('its events have ended, since the worker is leaving')
    }
    try {
      if (exchange === null || this.#isUnseen(exchange)) throw noRequest()
      return exchange.answer(message)
    } catch (error) {
      if (exchange?.holds(message) !== true) discardAnswer(message)
      throw error
    }
  }

  sendRaw(bytes: Encoded): boolean {
    const exchange = this.#exchange
    if (this.#isTurningAway) return this.io.write(bytes)
    if (this.#isOver) return this.#refuseLate()
    if (exchange === null && !this.#hasHadRequest) return this.#turnAway(bytes)
    if (exchange === null || this.#isUnseen(exchange)) throw noRequest()
    exchange.noteRaw(bytes)
    if (exchange.isRaw) this.io.onSettled = () => exchange.finish()
    return this.io.write(bytes)
  }

  #refuseLate(): false {
    return this.io.refuse(
      this.#isFaulty ? 'the client broke the rules, and was told' : 'the last answer of this connection is complete',
    )
  }

  /** What is sent cannot be meant for a request that no handler has seen: the one before it is answered again. */
  #isUnseen(exchange: Exchange): boolean {
    return exchange.isArriving || this.io.hasUndelivered
  }

  /** An answer to whatever comes, such as a 503 from `onConnect`: the connection ends with it. */
  #turnAway(bytes: Encoded): boolean {
    this.#isOver = this.#isTurningAway = true
    queueMicrotask(() => {
      this.#isTurningAway = false
      this.#leave()
    })
    return this.io.write(bytes)
  }

  /** RFC 9112 section 9.6. */
  ending(): void {
    this.#isLeaving = true
  }

  renew(): void {
    this.#isRenewing = true
  }

  drain(): void {
    this.#isLeaving = true // the next answer announces it
    this.#halfClose?.leave()
    this.#watchReader()
    if (this.#incoming?.isDiscarded === true) this.#patience.look()
    this.#endEvents()
  }

  closing(reason: LastWordReason, error?: unknown): boolean {
    const exchange = this.#exchange
    this.#isClosing = true
    if (exchange === null) return reason === 'closed' && this.#patience.phase === Phase.Flush
    if (this.#isUnseen(exchange)) {
      exchange.abandon() // without an answer its client knows that it may retry
      return false
    }
    if (reason === 'handler' || reason === 'stopped') {
      if (exchange.hasStatus)
        exchange.abandon() // FIN follows: nothing more of a stream can be sent
      else if (reason === 'stopped') exchange.refuse(503, 'the server is stopping')
      else refuseFor(error, exchange)
      return false
    }
    if (reason === 'timeout')
      exchange.abandon() // it is truncated, and must not look complete
    else this.#finish(exchange)
    if (exchange.isUnderWay) this.#watchLast(exchange)
    return exchange.isUnderWay
  }

  /** Nothing else limits how long its source may take. */
  #watchLast({ sent }: Exchange): void {
    this.#sentAtLook = sent
    this.io.deadline('last answer', LAST_ANSWER_MS)
  }

  #checkLast(): void {
    const exchange = this.#exchange
    if (exchange === null) return
    if (exchange.sent === this.#sentAtLook && this.io.queuedBytes === 0) this.io.close()
    else this.#watchLast(exchange)
  }

  #finish(exchange: Exchange): void {
    if (exchange.isEndless) exchange.conclude(new AbortError('ERR_CONNECTION_CLOSED', 'the connection is being closed'))
    else exchange.finish()
  }

  /** If their head has not said that the connection ends, it goes on for a moment: a request may be on its way. */
  #endEvents(): void {
    if (!this.isLongLived) return
    this.#hasEndedEvents = true
    this.#exchange?.conclude(new AbortError('ERR_WORKER_STOPPING', 'the worker is leaving'))
  }

  /** Anything but a piece of an answer of events would be an answer to the request at hand. */
  takesBroadcast(message: Answer): boolean {
    return isPiece(message) && this.#exchange?.takesEvents === true && !this.io.hasUndelivered
  }

  get isLongLived(): boolean {
    return this.#exchange?.isEndless === true
  }

  /** An answer, or the form of a request: what it has received waits for the disk. */
  get isPreparing(): boolean {
    const exchange = this.#exchange
    if (exchange === null || !exchange.isArriving) return exchange?.isPreparing === true
    return this.#incoming === null || this.#incoming.isFull
  }

  get isBusy(): boolean {
    if (this.#exchange !== null || this.#patience.phase === Phase.Flush) return true
    if (this.#rest === null || this.#rest.length === 0) return false
    if (this.#halfClose !== null) return this.#waitsForReader || this.#isStopped
    return this.#parser.hasBegun || this.#parser.isFresh
  }

  /** The client sends no more: complete requests are answered, and the rest of an incomplete one will never come. */
  ended(): void {
    const exchange = this.#exchange
    this.#halfClose = new HalfClose(this.io, this.#isLeaving)
    if (this.#incoming !== null) this.#cutBody()
    else if (exchange?.isEndless === true)
      this.io.close() // the client wants no more
    else if (exchange !== null) this.#halfClose.watch(exchange)
    else if (!this.#isOver && this.#parser.hasBegun) this.#endOfRequests()
  }

  hasAborted(reason: unknown): boolean {
    return this.#halfClose?.hasAborted(reason) === true
  }

  timeout(kind: string): void {
    if (kind === 'half-close') return this.#halfClose?.expired()
    if (kind === 'left body') return this.#checkLeftBody()
    if (kind === 'late events') return this.#endEvents()
    if (kind === 'last answer') return this.#checkLast()
    if (this.#lateFault !== null) this.#throwLate(this.#lateFault)
    if (this.#isFaulty) return this.io.end()
    const { phase, since } = this.#patience
    // The answer is written, but may still be queued.
    const isWhole = phase === Phase.Idle || phase === Phase.Flush || phase === Phase.Reading
    if (this.#isOver && !isWhole) return this.io.end()
    if (isWhole && this.#patience.isUnread(since)) return this.#giveUpReader()
    if (!this.#patience.hasEnded()) return
    if (phase === Phase.Idle) return this.#endIdle()
    if (this.#patience.isForHandler) return this.#checkAnswer()
    if (this.#incoming?.isDiscarded === true) return this.#leave() // the request has its answer
    throw this.#fault(refusal('ERR_REQUEST_TIMEOUT', 408, 'the request did not come in time'))
  }

  /** The time for handlers begins anew: this error had its timer. */
  #throwLate(fault: ProtocolError): never {
    this.#lateFault = null
    this.io.deadline('http', FAULT_MS)
    throw fault
  }

  /**
   * Until a handler that goes on after its answer has settled, the next request would have to wait anyway. If the
   * connection is held back (`onConnect`, `pauseRecv()`), that request may be in the kernel, then and a moment after.
   */
  #endIdle(): void {
    if (this.io.isAtWork) this.#patience.begin(Phase.Idle)
    else if (this.io.queuedBytes > 0) this.#awaitReader()
    else if (!this.io.hasBeenReading()) this.#outwaitPause()
    else this.io.close()
  }

  /** Asked once more, the connection says whether it reads now. */
  #outwaitPause(): void {
    if (this.io.hasBeenReading()) this.#patience.catchUp()
    else this.#patience.begin(Phase.Idle)
  }

  /** It does not know yet that the answer ends, and the next request may wait here until it does. */
  #awaitReader(): void {
    this.awaitDrain()
    this.#patience.enter(Phase.Reading) // what it has not read since the answer was written still counts
    this.#patience.look()
  }

  closed(): void {
    this.#incoming?.sink.fail(gone())
    this.#incoming = null
    this.#exchange?.abandon()
    if (this.#exchange !== null) this.#removeFiles(this.#exchange)
    this.#exchange = null
    this.#rest = null
  }

  // Parsing

  /** Continues with the kept bytes, unless that is already in progress. */
  #advance(): void {
    const rest = this.#rest
    if (this.#isParsing) return
    if (rest !== null) rest.consume(this.#guarded(rest.view()))
    this.#slowDown()
    if (this.#halfClose !== null) this.#endInput()
  }

  /** After the FIN: nothing follows what was kept, unless whole requests are still among that. */
  #endInput(): void {
    if (this.#isOver || this.#isStopped || this.#waitsForReader || this.#patience.phase === Phase.Upgrade) return
    if (this.#incoming !== null) this.#cutBody()
    else if (this.#exchange === null) this.#endOfRequests()
  }

  /** The kept bytes may contain whole requests, which continue when the client has read. */
  get #waitsForReader(): boolean {
    return this.#rest !== null && this.#rest.length > 0 && this.io.onDrain !== null
  }

  /** The client will send no further request. */
  #endOfRequests(): void {
    if (this.#parser.hasBegun) this.#refuse(400, 'the head ends before its end')
    else this.#leave()
  }

  #keep(bytes: Buffer, used: number): void {
    if (used === bytes.length) return
    this.#rest ??= new Accumulator()
    this.#rest.append(bytes.subarray(used))
    this.#slowDown()
  }

  #guarded(bytes: Buffer): number {
    this.#isParsing = true
    try {
      return this.#parse(bytes)
    } catch (error) {
      if (this.#isOver) return bytes.length // what follows the last answer is thrown away, whatever it is
      throw this.#fault(error instanceof ProtocolError ? error : oursFailed(error))
    } finally {
      this.#isParsing = false
    }
  }

  /** Returns how many bytes were used. Bytes that are kept begin with a head. */
  #parse(bytes: Buffer): number {
    let at = 0
    while (at < bytes.length && !this.#isOver && !this.#isUpgraded) {
      if (this.#incoming !== null) at = this.#takeBody(this.#incoming, bytes, at)
      else if (this.#exchange !== null || this.#isStopped || this.#isClosing) break
      else if (this.#patience.phase === Phase.Upgrade || this.#isCongested()) break
      else {
        const end = this.#takeRequest(bytes, at)
        if (end === NEED_MORE) break
        at = end
      }
    }
    return this.#isOver || this.#isUpgraded ? bytes.length : at
  }

  /** Takes the head that begins at `start`. Returns where it ends; its body comes next. */
  #takeRequest(bytes: Buffer, start: number): number {
    const { quickHeads } = this.settings
    const head = this.#parser.isFresh ? quickHeads.take(bytes, start) : null
    if (head === null) return this.#parseRequest(bytes, start)
    const end = start + quickHeads.size
    if (head.contentLength === 0) this.#takeBare(head)
    else this.#takeHead(head, end < bytes.length)
    return end
  }

  #parseRequest(bytes: Buffer, start: number): number {
    const rest = start === 0 ? bytes : bytes.subarray(start)
    const length = this.#parseHead(rest)
    if (length === NEED_MORE) {
      const { phase } = this.#patience
      if (this.#parser.hasBegun) this.#patience.begin(Phase.Head)
      else if (phase === Phase.Head) this.#patience.begin(Phase.Idle) // an empty line (RFC 9112 section 2.2), in two parts
      return NEED_MORE
    }
    const head = this.#parser.take(rest)
    this.#parser.reset()
    if (!head.target.startsWith('/')) this.#checkScheme(head)
    const { websocket } = this.settings
    if (head.asksForWebSocket && websocket !== null && head.method === 'GET') return this.#upgrade(websocket, rest)
    this.#takeHead(head, length < rest.length)
    return start + length
  }

  /**
   * `bytes` begin with the handshake. Until handlers of requests before it have settled they are kept: a failure there
   * would end the WebSocket, which has no part in it, and its messages would wait.
   */
  #upgrade(websocket: AnyProtocol, bytes: Buffer): number {
    if (this.io.isAtWork) {
      this.#patience.begin(Phase.Upgrade)
      this.io.onSettled = () => this.#settled()
      return NEED_MORE
    }
    this.#isUpgraded = true
    this.io.upgrade(websocket, Buffer.from(bytes)) // parses the head again, by its own rules
    return bytes.length
  }

  #settled(): void {
    this.#patience.begin(Phase.Idle)
    this.#advance()
  }

  #parseHead(bytes: Buffer): number {
    try {
      return this.#parser.parse(bytes)
    } catch (error) {
      this.#badLine = this.#parser.requestLine(bytes)
      throw error
    }
  }

  #checkScheme(head: RequestHead): void {
    const exchange = new Exchange(this, head, null)
    if (!isMisdirected(exchange.request)) return
    this.#exchange = exchange
    throw refusal('ERR_MISDIRECTED', 421, 'https is asked for without TLS')
  }

  #isCongested(): boolean {
    if (!this.io.hasQueued(Math.max(mostQueued(this.io), 1))) return false
    this.awaitDrain()
    return true
  }

  awaitDrain(): void {
    this.io.onDrain ??= () => this.#drained()
  }

  #takeHead(head: RequestHead, hasMore: boolean): void {
    if (!head.isChunked && head.contentLength === 0) return this.#takeBare(head)
    this.#hasHadRequest = true
    const sink = new RequestBody({
      wanted: () => this.#sendContinue(exchange),
      pause: () => this.#setBodyFull(exchange, true),
      resume: () => this.#setBodyFull(exchange, false),
      left: () => this.#leftUnread(exchange),
    })
    const exchange: Exchange = new Exchange(this, head, sink)
    this.#exchange = exchange
    this.#patience.begin(Phase.Answer)
    const { body } = this.settings
    const mode = typeof body === 'function' ? checkedBodyMode(body(exchange.request)) : body
    this.#expectBody(exchange, sink, mode === 'collect', hasMore)
  }

  /** Takes a request without a body, as most are. Its deadline is set only if it is not answered at once. */
  #takeBare(head: RequestHead): void {
    this.#hasHadRequest = true
    const exchange = new Exchange(this, head, null)
    this.#exchange = exchange
    this.#patience.enter(Phase.Answer)
    exchange.request.complete(NO_BODY, null, null)
    this.#emit(exchange.request)
    if (this.#exchange === exchange) this.#patience.begin(Phase.Answer)
  }

  // Bodies

  #expectBody(exchange: Exchange, sink: RequestBody, isCollected: boolean, hasBegun: boolean): void {
    const { request } = exchange
    const { uploads, maxBodyBytes } = this.settings
    const type = request.header('content-type') ?? ''
    const isUpload = isCollected && uploads !== null && /^multipart\/form-data\b/i.test(type)
    const limit = isUpload || !isCollected ? maxBodyBytes : this.io.maxPackageSize
    const reception = { limit, isCollected: isCollected && !isUpload, hasBegun }
    this.#incoming = new Incoming(exchange, sink, this.io, this.settings, reception)
    this.#patience.begin(Phase.Body)
    if (isUpload)
      this.#receiveUpload(exchange, sink, type) // uploads have limits of their own
    else if (isCollected) this.#sendContinue(exchange)
    else this.#emitArrived(exchange)
  }

  #receiveUpload(exchange: Exchange, sink: RequestBody, type: string): void {
    const { uploads, services } = this.settings
    services.readUploads(sink, type, uploads ?? {}).then(
      (form) => {
        if (this.#exchange !== exchange) return void this.#dispose(form)
        exchange.request.complete(null, null, form)
        exchange.uploads = form
        this.#emitStored(exchange)
      },
      (error) => this.#uploadFailed(exchange, error),
    )
  }

  /** Outside of any parsing: what follows waits until the handler has returned, as it does elsewhere. */
  #emitStored(exchange: Exchange): void {
    this.#isParsing = true
    try {
      this.#emitArrived(exchange)
    } finally {
      this.#isParsing = false
    }
    this.#goOn()
  }

  #dispose(form: UploadForm): Promise<void> {
    return form.dispose().catch((error) => tellAtEnd(this.io, error))
  }

  /** Removes what was uploaded with a request that is over, as soon as its handler cannot be at work on it. */
  #removeFiles(exchange: Exchange): void {
    const { uploads } = exchange
    exchange.uploads = null
    if (uploads !== null) this.io.afterHandlers(() => this.#dispose(uploads))
  }

  #uploadFailed(exchange: Exchange, error: unknown): void {
    if (this.#exchange !== exchange) return
    const { statusHint } = error as { statusHint?: number }
    this.#refuse(statusHint ?? 500, statusHint === undefined ? 'the upload could not be stored' : messageOf(error))
    this.io.fail(error) // the refusal is on its way: this only reports
  }

  #takeBody(incoming: Incoming, bytes: Buffer, start: number): number {
    const end = incoming.take(bytes, start)
    if (incoming.isWhole) this.#endBody(incoming)
    else this.#patience.begin(Phase.Body)
    return end
  }

  #endBody(incoming: Incoming): void {
    const { exchange, sink } = incoming
    const { request } = exchange
    const bytes = incoming.collected()
    this.#incoming = null
    this.#patience.begin(Phase.Answer)
    request.complete(bytes, incoming.trailers, null)
    if (bytes !== null && bytes.length > 0) sink.push(bytes)
    sink.end()
    if (bytes !== null) this.#emitArrived(exchange)
    else if (exchange.isAnswered) this.#follow(exchange)
  }

  /**
   * The client hears that its body is wanted, if it waits for that. Behind the head of an answer it cannot. A body may
   * be read late, when it is that of the next request which comes.
   */
  #sendContinue(exchange: Exchange): void {
    if (exchange !== this.#exchange) return
    const word = this.takeContinue()
    if (word !== '' && !exchange.hasStatus) this.io.write(word, true)
  }

  takeContinue(): string {
    const incoming = this.#incoming
    if (incoming === null || !incoming.isAwaitingContinue) return ''
    incoming.begin()
    this.#patience.begin(Phase.Body) // only now does the time of the client begin
    return CONTINUE
  }

  /** The reader of the body has stopped early: if only that body kept the connection open, it ends now. */
  #leftUnread(exchange: Exchange): void {
    if (exchange !== this.#exchange || !exchange.isAnswered) return
    if (exchange.isLast) this.#leave()
    else this.#discardRest()
  }

  #discardRest(): void {
    this.#incoming?.discard()
    this.#patience.begin(Phase.Body)
  }

  #setBodyFull(exchange: Exchange, isFull: boolean): void {
    if (exchange !== this.#exchange) return
    const incoming = this.#incoming
    if (incoming !== null) incoming.isFull = isFull
    if (!isFull && incoming !== null) this.#patience.begin(Phase.Body) // we had paused the client
    this.#watchReader()
    this.#slowDown()
  }

  /** Once the answer is complete, no time-out of the settings ends the wait for who was reading the body. */
  #watchReader(): void {
    const incoming = this.#incoming
    const isWatched = incoming?.isFull === true && incoming.exchange.isAnswered
    if (isWatched) incoming.noteWeight()
    this.io.deadline('left body', isWatched ? (this.#isLeaving ? LEFT_BODY_LEAVING_MS : LEFT_BODY_MS) : 0)
  }

  #checkLeftBody(): void {
    const incoming = this.#incoming
    if (incoming === null) return
    if (this.io.isAtWork || !incoming.isUntouched) return this.#watchReader()
    const { sink } = incoming
    sink.fail(new AbortError('ERR_BODY_DISCARDED', 'its answer was complete, and nobody read on'))
    sink.discard()
    this.#leave()
  }

  /** FIN arrived in the middle of a body. A client that has its answer need not send the rest. */
  #cutBody(): void {
    if (this.#incoming?.isDiscarded === true) return this.#leave()
    this.#incoming?.sink.fail(gone())
    this.#incoming = null
    this.#refuse(400, 'the body ends before its end')
  }

  #emitArrived(exchange: Exchange): void {
    exchange.hasArrived()
    this.#emit(exchange.request)
  }

  #emit(request: Request): void {
    if (this.#halfClose !== null && this.#exchange !== null) this.#halfClose.watch(this.#exchange)
    if (!this.io.emit(request)) this.#isStopped = true
  }

  // Answers

  get mayGoOn(): boolean {
    if (this.#isLeaving || this.#isRenewing || this.#isClosing) return false
    return this.#incoming === null || this.#incoming.mayBeDiscarded
  }

  eventsBegun(): void {
    if (this.#isLeaving) this.io.deadline('late events', LATE_EVENTS_MS)
  }

  answered(exchange: Exchange): void {
    if (exchange !== this.#exchange) return
    exchange.isAnswered = true
    if (exchange.uploads !== null) this.#removeFiles(exchange)
    const incoming = this.#incoming
    if (incoming === null) return this.#follow(exchange)
    if (incoming.sink.isBeingRead && !this.#isClosing) return this.#watchReader() // it gets the rest, or an error
    if (exchange.isLast) this.#leave()
    else this.#discardRest()
  }

  /** Its answer and its body are complete. */
  #follow(exchange: Exchange): void {
    if (exchange.isLast) this.#leave()
    else this.#next(exchange)
  }

  /** The next request may come. */
  #next(exchange: Exchange): void {
    if (this.#exchange !== exchange) return
    this.#exchange = null
    if (this.#isClosing) return this.#leave()
    this.#patience.begin(Phase.Idle)
    if (exchange.sent >= LARGE && this.io.queuedBytes > 0) this.#awaitReader()
    this.#slowDown()
    this.#goOn()
  }

  #goOn(): void {
    try {
      this.#advance()
    } catch (error) {
      this.#lateFault = error as ProtocolError // concerns the next request, not the caller that completed this answer
      this.io.deadline('http', 1)
    }
  }

  /** After the last answer: FIN, and what still comes is thrown away for a while, so that the answer is read. */
  #leave(): void {
    this.#isOver = true
    const exchange = this.#exchange
    if (exchange !== null && !exchange.isAnswered) exchange.abandon()
    this.#exchange = null
    this.#incoming?.sink.fail(gone())
    this.#incoming = null
    this.#rest = null
    if (this.#isPaused) this.io.resume()
    this.#isPaused = false
    if (!this.#isFaulty) this.#end() // else the connection does, once it has called onError
  }

  /** A large answer may wait for its client no longer than it could on a connection that lives on. */
  #end(): void {
    if (!this.io.hasQueued(mostQueued(this.io))) return this.io.end()
    if (this.#patience.phase === Phase.Flush) return
    this.awaitDrain()
    this.#patience.begin(Phase.Flush)
  }

  #refuse(status: number, message: string): void {
    const exchange = this.#exchange
    if (exchange === null) return this.#refuseHead(status, message)
    if (exchange.hasStatus) return this.io.fail(new ProtocolError('ERR_CUT', message))
    exchange.refuse(status, message)
  }

  /** Refuses a head: there is no request yet. */
  #refuseHead(status: number, message: string): void {
    const line = this.#badLine ?? this.#parser.requestLine(this.#rest?.view() ?? NO_BODY)
    const refused = headRefusal(status, message, this.#parser.isHead, this.settings.services.date())
    this.io.write(refused.bytes, true)
    this.#leave()
    this.#log(line, status, refused.bodyBytes)
  }

  #log(line: RequestLine, status: number, bytes: number): void {
    const { log } = this.settings
    if (log === null) return
    const { phase, since } = this.#patience
    const durationMs = phase === Phase.Head ? Math.round(this.io.now() - since) : 0
    const request = { remoteIp: this.io.peer.remoteIp, ...line, referer: '', userAgent: '' }
    try {
      this.io.follow(log({ ...request, status, bytes, durationMs }))
    } catch (error) {
      this.logFailed(error)
    }
  }

  /** The answer is sent, and then the connection ends: behind a fault it does so by itself, once that is counted. */
  logFailed(error: unknown): void {
    if (this.#isFaulty) this.io.follow(Promise.reject(error))
    else tellAtEnd(this.io, error)
  }

  /** Reports the error to the client, and returns it for `onError`. */
  #fault(error: ProtocolError): ProtocolError {
    const { statusHint = 400 } = error
    const message = statusHint === 500 ? 'the server failed' : error.message
    this.#incoming?.sink.fail(error)
    this.#incoming = null
    this.#isFaulty = true
    if (this.#exchange?.hasStatus !== true) this.#refuse(statusHint, message)
    this.#leave()
    this.io.deadline('http', FAULT_MS)
    return error
  }

  // Slowing down

  /** Stops reading while too many received bytes cannot be passed on. */
  #slowDown(): void {
    const mayWait = this.#incoming === null && this.#rest !== null && this.#rest.length > MAX_AHEAD
    const isWaiting = this.#exchange !== null || this.#patience.phase === Phase.Upgrade
    const isAhead = mayWait && (isWaiting || this.#isCongested())
    const mustPause = this.#incoming?.isFull === true || isAhead
    if (mustPause === this.#isPaused) return
    this.#isPaused = mustPause
    if (mustPause) this.io.pause()
    else this.io.resume()
  }

  #drained(): void {
    this.io.onDrain = null
    if (this.#patience.phase === Phase.Flush) return this.io.end()
    if (this.#patience.phase === Phase.Reading) this.#patience.begin(Phase.Idle)
    this.#exchange?.drained()
    this.#advance()
  }

  #checkAnswer(): void {
    const exchange = this.#exchange
    if (exchange?.hasStatus === true) return this.#checkReader(exchange)
    this.#incoming?.sink.fail(new AbortError('ERR_REQUEST_TIMEOUT', 'the body was not read, nor answered, in time'))
    this.#incoming = null
    this.#refuse(503, 'no answer in time')
  }

  #checkReader(exchange: Exchange): void {
    const { sent, isOpen, isUnderWay, isAnswered } = exchange
    const isUnread = this.#patience.isUnread(sent)
    // Sending it has thrown, and the error was not reported.
    if (this.io.queuedBytes === 0 && !isUnderWay && !isOpen && !isAnswered) return this.io.close()
    if (isUnread) return this.#giveUpReader()
    this.#patience.renew()
  }

  /** A client that reads nothing of an answer for that long is taken to be gone. */
  #giveUpReader(): void {
    this.io.fail(new ProtocolError('ERR_CLIENT_STUCK', 'the client does not read its answer'))
  }
}

function isPiece(message: Answer): message is Chunk | ServerSentEvents {
  return message instanceof Chunk || message instanceof ServerSentEvents
}

/** Time for handlers to settle after a fault, before the connection ends without them. */
const FAULT_MS = 5000
