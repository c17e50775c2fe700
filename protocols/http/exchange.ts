// One request and its answer. A handler's answer becomes a head and a body on the wire, framed so that the next answer
// begins where the client expects it, whatever the body is. Streams wait for the client; one that breaks in the middle
// breaks the connection, since a truncated answer must not look complete. So everything is written with `must`, and the
// amount queued is checked beforehand.

import { encodedSize, foreignBytes, isChunk } from '../../src/encoded.ts'
import { type AbortError, UsageError } from '../../src/errors.ts'
import { nothing } from '../../src/nothing.ts'
import type { CodecIo, Encoded } from '../../src/protocol.ts'
import { type AccessLog, described } from './access-log.ts'
import { connectionLine, everydayHead, joined, lengthLine, sizeOf, wireOf } from './answer-bytes.ts'
import { CODINGS, type Coding, compressible, compressStream, compressWhole } from './compress.ts'
import { type Draft, discard, draftOf, isSmall, lengthOf, variesByCoding, weakened, wrongLength } from './draft.ts'
import { draftOfAnswer, draftOfFile } from './drafting.ts'
import { EarlyPieces } from './early-pieces.ts'
import type { RequestHead } from './head.ts'
import { statusOfRaw } from './raw-answer.ts'
import { giveUp, holdErrors, letGo, piecesOf, quietly, streamOf } from './release.ts'
import { Request } from './request.ts'
import type { RequestBody } from './request-body.ts'
import { RequestSignal } from './request-signal.ts'
import {
  type BodyStream,
  Chunk,
  checkedReason,
  checkedStatus,
  checkField,
  REASONS,
  Response,
  ServerSentEvents,
} from './response.ts'
import type { AnswerParts, Resolved, Session, UploadForm } from './settings.ts'

/** What a handler may send. Text is sent as HTML, bytes as they are, any other value as JSON. */
export type Answer =
  | string
  | Uint8Array
  | Response
  | Chunk
  | ServerSentEvents
  | AnswerParts
  | object
  | number
  | boolean
  | null

/** What an exchange needs from its connection. */
export interface ExchangeHost {
  readonly io: CodecIo<Request>
  readonly settings: Resolved
  /** Whether another request may follow on this connection. */
  readonly mayGoOn: boolean
  /**
   * What tells a client to send its body, if it waits for that; else empty. From now on its time runs, whether it is
   * told or not.
   */
  takeContinue(): string
  /** An answer without an end has begun. */
  eventsBegun(): void
  /** Requests a call of `drained()` when the client has read. */
  awaitDrain(): void
  /** The whole answer has been written. */
  answered(exchange: Exchange): void
  /** The user's log has thrown, behind a whole answer. */
  logFailed(error: unknown): void
}

const enum State {
  Waiting = 0,
  /** A file is being opened, a session stored, a body compressed. */
  Preparing = 1,
  Streaming = 2,
  /** The handler is sending piece by piece. */
  Open = 3,
  /** The handler writes the answer itself, past HTTP. */
  Raw = 4,
  Done = 5,
}

/** An answer sent piece by piece. */
interface StreamPlan {
  readonly draft: Draft
  readonly status: number
  readonly hasBody: boolean
  /** Bytes; -1 if unknown. */
  readonly length: number
}

/** How a body is sent, and more: flags in one number, since there is an exchange for every request. */
const enum Flag {
  Chunked = 1,
  /** Its end is that of the connection, which must not come before. */
  UntilEnd = 2,
  /** The pieces of an open answer are not sent: it is one to HEAD, or its status has no body. */
  Mute = 4,
  /** The request has not been emitted yet: its body is arriving, or its form is being stored. */
  Arriving = 8,
}

export class Exchange {
  readonly head: RequestHead
  readonly request: Request
  /** No other answer follows on this connection. */
  isLast = false
  /** The whole answer has been written. */
  isAnswered = false
  /** An answer of events, which goes on until the client leaves, or the worker. */
  isEndless = false
  /** The request's uploads, until they are removed. */
  uploads: UploadForm | null = null
  readonly #host: ExchangeHost
  #state: State = State.Waiting
  #status = 0
  #sent = 0
  #flags = 0
  #session: Promise<Session> | null = null
  #iterator: AsyncIterator<string | Uint8Array> | null = null
  #wake: (() => void) | null = null
  /** Pieces that were sent while an open answer is prepared. */
  #early: EarlyPieces | null = null
  /** The body that the handler gave. */
  #given: Draft['body'] = null
  /** Releases what the answer being sent holds. */
  #close: (() => unknown) | null = null
  /** Null until the handler asks for it. */
  #signal: RequestSignal | null = null
  #clientEnded: AbortError | null = null
  readonly #startedAt: number

  /** `body` is null if there is none. */
  constructor(host: ExchangeHost, head: RequestHead, body: RequestBody | null) {
    this.#host = host
    this.head = head
    if (body !== null) this.#flags = Flag.Arriving
    this.#startedAt = host.settings.log === null ? 0 : host.settings.services.wallClock()
    this.request = new Request(head, body, host.io, this)
  }

  get isTrusted(): ((ip: string) => boolean) | null {
    return this.#host.settings.isTrusted
  }

  loadSession(request: Request): Promise<Session> {
    const { sessions } = this.#host.settings
    if (sessions === null)
      throw new UsageError('ERR_NO_SESSIONS', 'sessions are off: http({ sessions: new Sessions(...) })')
    if (this.#state !== State.Waiting)
      throw new UsageError('ERR_TOO_LATE', 'the answer is under way: its cookie cannot be set')
    this.#session = sessions.load(request.cookies)
    return this.#session
  }

  /** Aborts with the connection's signal, or by `clientEnded`, until the answer is complete. */
  get signal(): AbortSignal {
    if (this.#signal === null) {
      this.#signal = new RequestSignal(this.#host.io.signal)
      if (this.#state === State.Done) this.#signal.release()
      if (this.#clientEnded !== null) this.#signal.abort(this.#clientEnded)
    }
    return this.#signal.signal
  }

  /** The client has sent FIN, and may be gone: the handler hears why by its signal. It may still answer. */
  clientEnded(reason: AbortError): void {
    this.#clientEnded = reason
    this.#signal?.abort(reason)
  }

  /** No handler can mean this request, since none has been told of it. */
  get isArriving(): boolean {
    return this.#is(Flag.Arriving)
  }

  /** Its request is being emitted. */
  hasArrived(): void {
    this.#flags &= ~Flag.Arriving
  }

  /** Whether this answer is the one being sent. */
  holds(message: unknown): boolean {
    const body = streamOf(message)
    return body !== null && body === this.#given && this.#state !== State.Waiting
  }

  /** Whether the head has been sent. */
  get hasStatus(): boolean {
    return this.#status !== 0
  }

  /** Whether its answer is one in pieces, the last of which has yet to come. */
  get takesPieces(): boolean {
    return this.isOpen || this.#early !== null
  }

  /** Whether it is one of events, and what sends them is not a stream of its own. */
  get takesEvents(): boolean {
    if (this.#early !== null) return this.#early.isOfEvents && !this.#early.isEnded
    return this.isEndless && this.#state === State.Open
  }

  get isOpen(): boolean {
    return this.#state === State.Open || this.isRaw
  }

  /** The answer bypasses HTTP. Where it ends only its handler knows: when that has settled, and the connection ends. */
  get isRaw(): boolean {
    return this.#state === State.Raw
  }

  /** Bytes of the body written so far. */
  get sent(): number {
    return this.#sent
  }

  /** Its head is yet to come, without any action by the handler. */
  get isPreparing(): boolean {
    return this.#state === State.Preparing || (this.#isStreaming && !this.hasStatus)
  }

  /** More of the answer will be written without any action by the handler. */
  get isUnderWay(): boolean {
    return this.#state === State.Preparing || this.#state === State.Streaming
  }

  /** Sends the handler's answer, or a piece of it. False: wait for `onBufferDrain`. */
  answer(message: Answer): boolean {
    if (this.#state === State.Open) return this.#goOn(message)
    if (typeof message === 'string' && this.#isEveryday()) return this.#answerText(message)
    if (this.#early?.isEnded === false) return this.#goOn(message)
    if (this.#state !== State.Waiting) throw hasItsAnswer()
    if (message instanceof Response && (message.request ?? this.request) !== this.request)
      throw new UsageError('ERR_ANSWERED', 'this is the answer to another request, which has one already')
    if (message instanceof Response && message.file !== null)
      return this.#prepare(draftOfFile(message, this.request, this.#host.settings.services.openFile))
    const draft = draftOfAnswer(message)
    const { isOpen, type } = draft
    this.#given = draft.body
    if (draft.body !== null && !isChunk(draft.body)) holdErrors(draft.body)
    const isPlain = this.#session === null && (isOpen || !this.#host.settings.compress || !compressible(type))
    if (isPlain) return this.#begin(draft)
    if (isOpen) this.#early = new EarlyPieces(this.#host.io, isEvents(type))
    return this.#prepare(Promise.resolve(draft))
  }

  /** Whether a text can take the fast path: nothing to prepare, and the connection is kept. */
  #isEveryday(): boolean {
    const { minorVersion, isKeepAlive, method } = this.head
    if (this.#state !== State.Waiting || minorVersion === 0 || !isKeepAlive || method === 'HEAD') return false
    return this.#session === null && !this.#host.settings.compress && this.#host.mayGoOn
  }

  /** Like `#begin`, but with a head that stays the same for a second. */
  #answerText(body: string): boolean {
    const length = sizeOf(body)
    this.#state = State.Done // before writing, which may call back: there is no second answer
    this.#status = 200
    this.#sent = length
    const head = everydayHead(this.#host.settings.services.date())
    const goOn = this.#host.io.write([head, lengthLine(length), body], true)
    this.#done()
    return goOn
  }

  /**
   * Notes what is sent past HTTP: unless an open answer has begun, this is it. Throws UsageError (ERR_ANSWERED) if
   * there is another one, which the bytes would be written into, or before, or behind.
   */
  noteRaw(bytes: Encoded): void {
    if (this.#state === State.Waiting) {
      this.#status = statusOfRaw(bytes)
      if (this.#status === 0) return
      this.#state = State.Raw
      this.isLast = true
      // Without a cookie, if it is new: only its handler could have told the client.
      if (this.#session !== null) this.#commit(this.#session).catch((error) => this.#host.io.fail(error))
    } else if (!this.isOpen) throw hasItsAnswer()
    if (this.#state === State.Raw) this.#sent += encodedSize(bytes)
  }

  /** Ends an open answer. */
  finish(): void {
    if (this.#early !== null) this.#early.isEnded = true
    else if (this.isOpen) this.#terminate()
  }

  /**
   * Ends an answer of events as if that were its end, which it does not have. Its handler hears why by its signal, and
   * its source is given up: both may end it themselves.
   */
  conclude(why: AbortError): void {
    if (!this.#isInPieces) return
    this.#signal?.abort(why)
    this.#wake?.()
    this.#leaveSource()
    if (this.#isInPieces) this.#terminate()
  }

  get #isInPieces(): boolean {
    return this.#state === State.Open || this.#state === State.Streaming
  }

  /** The connection has gone: nothing must wait for it any more. */
  abandon(): void {
    const isCut = this.#status !== 0 && this.#state !== State.Done
    this.#state = State.Done
    this.#early = null
    const failure = isCut ? this.#logged() : null
    if (failure !== null) this.#host.io.fail(failure.error)
    this.#wake?.()
    this.#leaveSource()
    this.#release()
  }

  /** Once: it may call back. */
  #leaveSource(): void {
    const iterator = this.#iterator
    this.#iterator = null
    giveUp(iterator)
  }

  #release(): void {
    const close = this.#close
    this.#close = null
    if (close !== null) quietly(close)
  }

  /** The client has read. */
  drained(): void {
    this.#wake?.()
    this.#wake = null
  }

  // Before the head is written

  #prepare(coming: Promise<Draft>): boolean {
    this.#state = State.Preparing
    const begin = (draft: Draft) => {
      if (this.#state !== State.Preparing) return discard(draft)
      this.#state = State.Waiting
      try {
        this.#begin(draft)
      } catch (error) {
        discard(draft)
        throw error
      }
      if (this.#early !== null) this.#sendEarly(this.#early)
    }
    this.#prepared(coming)
      .then(begin)
      .catch((error) => {
        if (this.#state !== State.Done) this.#failed(error)
      })
    return true
  }

  /** The answer cannot be made, or not to its end. If nothing of it was written yet, a 500 says so. */
  #failed(error: unknown): void {
    const { io } = this.#host
    this.refuse(500, 'the answer could not be made')
    // What was written leaves: a client that gets nothing cannot tell this from a stale connection, and asks again.
    if (io.queuedBytes > 0) io.end(0, 'handler')
    io.fail(error)
    this.abandon()
  }

  async #prepared(coming: Promise<Draft>): Promise<Draft> {
    const draft = await coming
    try {
      return await this.#finished(draft)
    } catch (error) {
      discard(draft) // closes its file
      throw error
    }
  }

  async #finished(draft: Draft): Promise<Draft> {
    const cookie = this.#session === null ? null : await this.#commit(this.#session)
    if (cookie !== null) {
      checkField('Set-Cookie', [cookie])
      draft.lines += `Set-Cookie: ${cookie}\r\n`
    }
    return this.#host.settings.compress ? this.#compressed(draft) : draft
  }

  /** Stores a session. Returns the Set-Cookie value that the client must have; null for none. */
  async #commit(coming: Promise<Session>): Promise<string | null> {
    // One that could not be loaded has nothing to store: the handler has the error, and its answer is what it made of
    // it.
    const session = await coming.catch(nothing)
    const { sessions } = this.#host.settings
    return session && sessions !== null ? sessions.commit(session, this.request.scheme === 'https') : null
  }

  async #compressed(draft: Draft): Promise<Draft> {
    const { body, isOpen, type, status, lines } = draft
    // These must have the same fields about codings as a 200 (RFC 9110 sections 15.3.7, 15.4.5).
    const isOf200 = status === 206 || status === 304
    if (/^content-encoding:/im.test(lines) || !compressible(type)) return draft
    const isOfGet = body === null && this.head.method === 'HEAD' // it has the fields of a GET, whose body is not known
    if (!isOf200 && (isOpen || (body === null && !isOfGet))) return draft
    const coding = this.request.codingFor(CODINGS) as Coding | null
    if (!variesByCoding(lines)) draft.lines += 'Vary: Accept-Encoding\r\n'
    if (status === 304 && coding !== null) draft.lines = weakened(draft.lines)
    if (isOf200 || body === null || coding === null || isSmall(body, draft.size)) return draft
    draft.lines = `${weakened(draft.lines).replace(/^Accept-Ranges:.*\r\n/im, '')}Content-Encoding: ${coding}\r\n`
    draft.body = isChunk(body) ? await compressWhole(body, coding) : compressStream(body, coding, draft.size)
    draft.size = -1
    return draft
  }

  // The head

  /** Answers in place of the handler, which has not answered and will not. */
  refuse(status: number, message: string): void {
    if (this.#status !== 0) return
    this.#leaveSource()
    this.#release()
    this.#early = this.#signal = null // its handler may still be at work: the signal stays linked
    this.#state = State.Waiting
    const draft = draftOf(`${status} ${REASONS[status] ?? ''}: ${message}\n`, 'text/plain; charset=utf-8', status)
    draft.isClosing = true
    this.#begin(draft)
  }

  #begin(draft: Draft): boolean {
    const { body, isOpen, type } = draft
    const { method } = this.head
    const status = checkedStatus(draft.status) // a Response's may have changed since it was checked
    const hasBody = method !== 'HEAD' && status !== 204 && status !== 304 && status !== 205
    const length = lengthOf(draft, hasBody)
    if (draft.reason !== '') checkedReason(draft.reason)
    if (body !== null && !isChunk(body)) return this.#stream(body, { draft, status, hasBody, length })
    const head = this.#headOf(draft, status, length, hasBody)
    this.#status = status
    this.#close = draft.close
    if (!hasBody) this.#flags |= Flag.Mute
    if (isOpen && (hasBody || !isEvents(type))) return this.#open(head, body, type)
    return this.#whole(head, hasBody ? body : null, length)
  }

  #is(one: Flag): boolean {
    return (this.#flags & one) !== 0
  }

  #untilEnd(): void {
    this.#flags |= Flag.UntilEnd
    this.#host.io.endTells(false)
  }

  /** Called as late as possible: whether this answer is the last depends on who reads the request's body by then. */
  #headOf(draft: Draft, status: number, length: number, hasBody: boolean): string {
    const { reason, hasDate, lines, size, body, isOpen, type, isClosing, options } = draft
    const { minorVersion, isKeepAlive } = this.head
    // The request may go on beside an answer in pieces, and no 100 may follow the head (RFC 9110 section 15.2).
    const isInviting = hasBody && status < 400 && (isOpen || (body !== null && !isChunk(body)))
    const invitation = isInviting ? this.#host.takeContinue() : ''
    if (length < 0 && minorVersion === 1 && hasBody) this.#flags |= Flag.Chunked
    // So do events without a body: they have no last piece that another request could wait for.
    const endsWithConnection = length < 0 && !this.#is(Flag.Chunked) && (hasBody || (isOpen && isEvents(type)))
    if (endsWithConnection && !isEvents(type)) this.#untilEnd()
    this.isLast = isClosing || !this.#host.mayGoOn || !isKeepAlive || endsWithConnection
    return (
      `${invitation}HTTP/1.1 ${status} ${reason === '' ? (REASONS[status] ?? '') : reason}\r\n` +
      (hasDate ? lines : `${lines}Date: ${this.#host.settings.services.date()}\r\n`) +
      this.#framing(status, length, size, body === null) +
      `${connectionLine(this.isLast ? 'close' : minorVersion === 0 ? 'keep-alive' : '', options)}\r\n`
    )
  }

  #open(head: string, first: string | Uint8Array | null, type: string): boolean {
    this.#state = State.Open
    this.#noteEvents(type)
    const goOn = this.#host.io.write(wireOf(head), true)
    return first === null || first.length === 0 || this.#is(Flag.Mute) ? goOn : this.#piece(first)
  }

  #noteEvents(type: string): void {
    this.isEndless = isEvents(type)
    if (this.isEndless) this.#host.eventsBegun()
  }

  #whole(head: string, body: string | Uint8Array | null, length: number): boolean {
    this.#state = State.Done // before writing, which may call back
    if (body !== null) this.#sent = length
    const goOn = this.#host.io.write(body === null ? wireOf(head) : joined(head, body), true)
    this.#done()
    return goOn
  }

  /** RFC 9110 section 8.6, RFC 9112 section 6. */
  #framing(status: number, length: number, size: number, isEmpty: boolean): string {
    if (status === 204 || (status === 304 && isEmpty)) return ''
    if (status === 205) return 'Content-Length: 0\r\n'
    if (this.#is(Flag.Chunked)) return 'Transfer-Encoding: chunked\r\n'
    if (length < 0) return ''
    if (!isEmpty || this.head.method !== 'HEAD') return `Content-Length: ${length}\r\n`
    return size < 0 ? '' : `Content-Length: ${size}\r\n` // of the body that GET would have, which may be unknown
  }

  // Bodies sent piece by piece

  #goOn(message: Answer): boolean {
    const given = message instanceof Chunk ? message.data : message instanceof ServerSentEvents ? message.text : message
    const data = isChunk(given) ? given : foreignBytes(given)
    if (data === null)
      throw new UsageError('ERR_ENCODE', 'an open answer goes on with text, bytes, Chunk or ServerSentEvents')
    if (data.length > 0) {
      if (this.#early !== null) return this.#keep(this.#early, data, message)
      if (this.#is(Flag.Mute)) return true
      return this.#isFull(0) ? this.#leaveOut(message) : this.#piece(data)
    }
    this.finish()
    return true
  }

  #isFull(early: number): boolean {
    const { io } = this.#host
    return early >= io.maxSendBufferSize || io.hasQueued(io.maxSendBufferSize)
  }

  #keep(early: EarlyPieces, data: string | Uint8Array, message: Answer): boolean {
    return early.isLeaving || !this.#isFull(early.size) ? early.add(data) : this.#leaveOut(message)
  }

  /** Writes all pieces at once: writing may call back, and what a callback sends must come after them. */
  #sendEarly(early: EarlyPieces): void {
    const pieces = this.#state === State.Open ? early.take() : []
    this.#early = null
    if (this.#state !== State.Open) return // events for HEAD
    if (pieces.length > 0 && !this.#is(Flag.Mute))
      this.#host.io.write(
        pieces.flatMap((data) => this.#framed(data)),
        true,
      )
    if (early.isEnded) this.finish()
  }

  /** Drops a message because the client does not read. Events are independent; any other body would have a hole. */
  #leaveOut(message: Answer): false {
    const { io } = this.#host
    io.refuse('send buffer full and drop package')
    if (!(message instanceof ServerSentEvents) && (this.#state === State.Open || this.#early !== null))
      io.fail(
        new UsageError('ERR_HOLE', 'a piece of an answer was refused: wait for onBufferDrain when send says false'),
      )
    return false
  }

  #piece(data: string | Uint8Array): boolean {
    return this.#host.io.write(this.#framed(data), true)
  }

  /** A piece as it goes on the wire (RFC 9112 section 7.1). Counts it as sent. */
  #framed(data: string | Uint8Array): string | Uint8Array | (string | Uint8Array)[] {
    const size = Buffer.byteLength(data)
    this.#sent += size
    return this.#is(Flag.Chunked) ? [`${size.toString(16)}\r\n`, data, '\r\n'] : data
  }

  /**
   * The head leaves with the first piece, so that a failure before it is a 500. For events, which may take long to
   * come, it leaves at once.
   */
  #stream(body: BodyStream, plan: StreamPlan): boolean {
    if (!plan.hasBody) {
      this.#state = State.Streaming
      this.#close = plan.draft.close
      const goOn = this.#begun(plan)
      letGo(body)
      this.#done()
      return goOn
    }
    const iterator = piecesOf(body)
    this.#state = State.Streaming
    this.#close = plan.draft.close
    this.#iterator = iterator
    if (plan.length < 0) this.#noteEvents(plan.draft.type) // else it has an end, as a recording does
    const goOn = this.isEndless ? this.#begun(plan) : true
    this.#pump(iterator, plan).then(
      () => this.#streamed(),
      (error) => {
        if (!this.#isStreaming) return // it was given up, and the source ends in its own way
        this.#leaveSource()
        this.#failed(error)
      },
    )
    return goOn
  }

  /** Writes the head, once. */
  #begun({ draft, status, length, hasBody }: StreamPlan): boolean {
    if (this.#status !== 0) return true
    const head = this.#headOf(draft, status, length, hasBody)
    this.#status = status
    return this.#host.io.write(wireOf(head), true)
  }

  get #isStreaming(): boolean {
    return this.#state === State.Streaming
  }

  async #pump(iterator: AsyncIterator<string | Uint8Array>, plan: StreamPlan): Promise<void> {
    const { io } = this.#host
    const { length } = plan
    for (;;) {
      if (io.hasQueued(mostQueued(io))) await this.#drain()
      if (!this.#isStreaming) return
      const { done, value: given } = await iterator.next()
      if (!this.#isStreaming) return
      if (done === true) break
      const value = isChunk(given) ? given : foreignBytes(given)
      if (value === null) throw new UsageError('ERR_ENCODE', `a body is made of text and bytes, not of ${typeof given}`)
      if (length >= 0 && this.#sent + Buffer.byteLength(value) > length) throw wrongLength(length, 'longer')
      if (value.length === 0) continue
      this.#begun(plan)
      this.#piece(value)
    }
    if (length >= 0 && this.#sent < length) throw wrongLength(length, 'shorter')
    this.#begun(plan) // for a body without a byte
  }

  #drain(): Promise<void> {
    return new Promise((resolve) => {
      this.#wake = resolve
      this.#host.awaitDrain()
    })
  }

  #streamed(): void {
    this.#iterator = null
    if (this.#isStreaming) this.#terminate()
  }

  #terminate(): void {
    this.#state = State.Done
    if (this.#is(Flag.Chunked)) this.#host.io.write('0\r\n\r\n', true)
    this.#done()
  }

  #done(): void {
    this.#state = State.Done
    if (this.#is(Flag.UntilEnd)) this.#host.io.endTells(true)
    this.#signal?.release()
    this.#release()
    const failure = this.#logged()
    if (failure !== null) this.isLast = true // the answer is complete nevertheless, and is sent
    this.#host.answered(this)
    if (failure !== null) this.#host.logFailed(failure.error)
  }

  /** Logs the answer. Returns an error thrown by the user's log, which does not concern the sender. */
  #logged(): { readonly error: unknown } | null {
    const { log } = this.#host.settings
    try {
      if (log !== null) this.#log(log)
      return null
    } catch (error) {
      return { error }
    }
  }

  #log(log: AccessLog): void {
    const durationMs = this.#host.settings.services.wallClock() - this.#startedAt
    const request = described(this.head, this.request.remoteIp)
    this.#host.io.follow(log({ ...request, status: this.#status, bytes: this.#sent, durationMs }))
  }
}

/** Reports an error behind a whole answer: that is sent, however large it is, and then the connection ends. */
export function tellAtEnd(io: CodecIo<Request>, error: unknown): void {
  io.end()
  io.fail(error)
}

const MAX_QUEUED = 262_144
/** With this many bytes queued a stream waits for the client, and so does the next request. */
export function mostQueued({ maxSendBufferSize }: CodecIo<Request>): number {
  return Math.min(MAX_QUEUED, maxSendBufferSize)
}

function isEvents(type: string): boolean {
  return type.startsWith('text/event-stream')
}

function hasItsAnswer(): UsageError {
  return new UsageError('ERR_ANSWERED', 'this request has its answer already')
}
