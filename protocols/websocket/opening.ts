// What a connection does until it speaks WebSocket: a server reads the request, asks the user and answers, a client
// asks and reads the answer. handshake.ts has the rules for what they write to each other.

import { ProtocolError, UsageError } from '../../src/errors.ts'
import { type CodecIo, type LastWordReason, NEED_MORE } from '../../src/protocol.ts'
import { isThenable } from '../../src/thenable.ts'
import { described } from '../http/access-log.ts'
import { wireOf } from '../http/answer-bytes.ts'
import { HEAD_LIMITS, HeadParser, type RequestHead } from '../http/head.ts'
import { isMisdirected, Request } from '../http/request.ts'
import { Response } from '../http/response.ts'
import { type Agreement, offerOf, type Terms } from './deflate.ts'
import {
  answered,
  asking,
  isInterim,
  offeredProtocols,
  refusalOf,
  refusing,
  responseOf,
  switching,
} from './handshake.ts'
import { CloseFrame, PreparedMessage, payloadOf, type WebSocketMessage } from './messages.ts'
import type { Resolved } from './settings.ts'
import { isVerdict, refusalBy } from './verdict.ts'
import { Visit } from './visit.ts'

/** The reason of close frames and refusals of a worker that is leaving. */
export const RESTART = 'service restart'

/** The codec an Opening works for. */
export interface Opener {
  /** The worker is leaving: no client is admitted any more. */
  readonly isLeaving: boolean
  /** The handshake is done. Sends what waited for it. */
  opened(agreement: Agreement | null): void
  /** Calls onWebSocketConnected, unless the connection is no longer open. Clients have no `request`. */
  tellOpened(request: Request | null, protocol: string): void
  /** Calls a client's onWebSocketConnect with the answer, unless the connection is no longer open. */
  tellAnswered(response: Response): void
  /** The client is turned away. */
  refused(): void
  /** An error where no caller could catch it: it is thrown when receiving goes on. */
  openingFailed(opening: Opening, cause: unknown): void
}

/** Exists until the handshake is done. */
export abstract class Opening {
  protected readonly io: CodecIo<string | Buffer>
  protected readonly settings: Resolved
  protected readonly opener: Opener
  /** Whether the user decides about the client. Nothing is read meanwhile. */
  isDeciding = false
  protected isOver = false
  /** Messages wait for its end. */
  protected hasKept = false
  /** The close frame follows these messages: the user has closed. */
  isLast = false
  /** The error that occurred after the user's decision. */
  failure: ProtocolError | null = null

  constructor(io: CodecIo<string | Buffer>, settings: Resolved, opener: Opener) {
    this.io = io
    this.settings = settings
    this.opener = opener
  }

  /** Returns how many bytes it has used. Throws ProtocolError. */
  abstract take(bytes: Buffer, start: number): number

  /** The peer has ended amid the handshake. Throws ProtocolError. */
  abstract cut(): void

  /** Throws ProtocolError. */
  abstract timedOut(): never

  /** The connection closes. Returns whether this waits for the end of the handshake. */
  abstract close(reason: LastWordReason): boolean

  /** Tells the peer of an error. */
  abstract fail(error: ProtocolError): void

  /** The client has its answer, or the connection is closed. */
  closed(): void {
    this.isDeciding = false
    this.isOver = true
  }

  /** A message for after the handshake, encoded now, so that an unsendable one throws to its sender. */
  keep(message: WebSocketMessage): boolean {
    if (message instanceof CloseFrame)
      return this.hasKept ? this.io.keep(message, 0) : this.io.refuse('the WebSocket is not open')
    this.hasKept = true
    if (message instanceof PreparedMessage) return this.io.keep(message, message.size)
    const payload = payloadOf(message)
    return this.io.keep(payload, Buffer.byteLength(payload))
  }
}

export class ServerOpening extends Opening {
  readonly #parser = new HeadParser(this.settings.head)
  /** For the log. */
  #head: RequestHead | null = null
  #startedAt = 0

  /** Returns the length of the head, or 0 while it is incomplete. */
  take(bytes: Buffer, start: number): number {
    if (this.isDeciding || this.isOver) return 0
    const head = bytes.subarray(start)
    const length = this.#parser.parse(head)
    if (length === NEED_MORE) return 0
    const taken = this.#parser.take(head)
    if (this.settings.log !== null) {
      this.#head = taken
      this.#startedAt = this.io.now()
    }
    this.#decide(taken)
    return length
  }

  #decide(head: RequestHead): void {
    if (this.opener.isLeaving) return this.#turnAway(503, RESTART)
    const refusal = refusalOf(head)
    if (refusal !== null) return this.#turnAway(refusal.status, refusal.message, refusal.lines)
    const offered = offeredProtocols(head)
    if (offered === null) return this.#turnAway(400, 'Sec-WebSocket-Protocol is no list of names')
    const visit = new Visit(this.settings.sessions)
    const request = this.#requestOf(head, visit)
    if (isMisdirected(request)) return this.#turnAway(421, 'https is asked for without TLS')
    if (!this.settings.isWelcome(head.header('origin'), request)) return this.#turnAway(403, 'this origin may not')
    const chosen = this.settings.choose(offered, request)
    if (chosen !== '' && !offered.includes(chosen))
      throw new UsageError('ERR_BAD_SUBPROTOCOL', `the client did not offer '${chosen}'`)
    this.#askUser(head, request, chosen, visit)
  }

  /** Asks the user, who may take time to decide. */
  #askUser(head: RequestHead, request: Request, protocol: string, visit: Visit): void {
    const response = new Response()
    const said = this.io.event('onWebSocketConnect', request, response)
    if (this.isOver) return visit.end() // the callback threw or closed, and the client has its answer
    const word = isThenable(said) || visit.hasBegun ? this.#stored(said, visit, request) : said
    const decided = (answer: unknown) => {
      visit.end()
      if (this.opener.isLeaving) return this.#turnAway(503, RESTART)
      const refusal = refusalBy(answer, response)
      if (refusal === null) this.#welcome(head, request, protocol, response, visit.lines)
      else this.#turnAwayWith(refusal, visit.lines)
    }
    if (!isThenable(word)) return decided(word)
    this.isDeciding = true
    this.io.pause()
    Promise.resolve(word).then(
      (answer) => this.#decideLate(() => decided(answer)),
      () => this.#decideLate(() => this.#turnAway(500, 'the handler failed')), // the connection has called onError
    )
  }

  /** What the user said, once the session that it asked for is stored. Without an answer for its cookie, none is. */
  async #stored(said: unknown, visit: Visit, request: Request): Promise<unknown> {
    const answer = await said
    if (answer === false || !isVerdict(answer) || !visit.hasBegun) return answer
    try {
      await visit.store(request)
    } catch (error) {
      if (this.isDeciding) this.#turnAway(500, 'the session could not be stored')
      this.io.fail(error)
    }
    return answer
  }

  /** No caller could catch an error here, so it is thrown when receiving goes on. */
  #decideLate(decide: () => void): void {
    if (!this.isDeciding) return // closed meanwhile, or timed out
    try {
      decide()
    } catch (error) {
      this.opener.openingFailed(this, error)
    }
    this.io.resume()
  }

  /** `more`: lines of fields besides those of `response`. */
  #welcome(head: RequestHead, request: Request, protocol: string, response: Response, more: string): void {
    const answer = switching(head, protocol, this.settings.engine?.terms ?? null, response, more)
    this.io.write(wireOf(answer.text))
    this.closed()
    this.opener.opened(answer.agreement)
    this.#log(101, 0)
    this.opener.tellOpened(request, answer.protocol)
  }

  cut(): void {
    if (!this.isDeciding) this.#turnAway(400, 'the handshake ends before its end')
  }

  timedOut(): never {
    const isOurs = this.isDeciding
    this.#refuse(isOurs ? 503 : 408, isOurs ? 'try again later' : TIMED_OUT)
    throw handshakeTimeout(isOurs ? 'onWebSocketConnect has not settled in time' : TIMED_OUT)
  }

  close(reason: LastWordReason): boolean {
    if (reason === 'stopped') this.#refuse(503, RESTART)
    else if (reason !== 'timeout') this.#refuse(reason === 'handler' ? 500 : 403, 'not now')
    return false
  }

  fail(error: ProtocolError): void {
    this.#refuse(error.statusHint ?? 400, error.statusHint === 500 ? 'the server failed' : error.message)
  }

  #turnAway(status: number, message: string, lines: Readonly<Record<string, string>> = {}): void {
    this.#refuse(status, message, lines)
    this.io.end()
  }

  #turnAwayWith(response: Response, more: string): void {
    this.#sendRefusal(response, more)
    this.io.end()
  }

  #refuse(status: number, message: string, lines: Readonly<Record<string, string>> = {}): void {
    const type = { 'Content-Type': 'text/plain; charset=utf-8' }
    this.#sendRefusal(new Response(status, { ...type, ...lines }, `${message}\n`), '')
  }

  #sendRefusal(response: Response, more: string): void {
    const parts = refusing(response, more, this.#parser.isHead, this.settings.date())
    this.closed()
    this.opener.refused()
    for (const part of parts) this.io.write(part)
    this.#log(response.status, Buffer.byteLength(parts[1] ?? ''))
  }

  /** As HTTP logs its own answers. */
  #log(status: number, bytes: number): void {
    const { log } = this.settings
    const head = this.#head
    if (log === null || head === null) return
    const durationMs = Math.round(this.io.now() - this.#startedAt)
    const request = described(head, this.#requestOf(head, NO_VISIT).remoteIp)
    try {
      this.io.follow(log({ ...request, status, bytes, durationMs }))
    } catch (error) {
      if (status === 101) this.io.fail(error)
      else this.io.follow(Promise.reject(error)) // who is turned away gets the answer, and the connection ends by itself
    }
  }

  /** The handshake as a request with an empty body. */
  #requestOf(head: RequestHead, visit: Visit): Request {
    const { isTrusted } = this.settings
    return new Request(head, null, this.io, { isTrusted, loadSession: (request) => visit.load(request) })
  }
}

const NO_VISIT = new Visit(null)
const TIMED_OUT = 'the handshake did not come in time'

function handshakeTimeout(message: string): ProtocolError {
  return new ProtocolError('ERR_HANDSHAKE_TIMEOUT', message)
}

export class ClientOpening extends Opening {
  /** What we have offered. */
  readonly #terms: Terms | null
  readonly #key: string

  /** Writes the request. Throws UsageError for a path that cannot be sent. */
  constructor(io: CodecIo<string | Buffer>, settings: Resolved, opener: Opener) {
    super(io, settings, opener)
    const { target, peer } = io
    const { protocols, headers, engine } = settings
    const authority = target?.authority ?? peer.remoteIp
    this.#terms = engine?.terms ?? null
    const offer = this.#terms === null ? '' : offerOf(this.#terms)
    const { text, key } = asking(authority, target?.uri ?? '/', protocols, offer, headers)
    this.#key = key
    io.write(wireOf(text))
  }

  take(bytes: Buffer, start: number): number {
    const end = bytes.indexOf('\r\n\r\n', start)
    if (end < 0) {
      if (bytes.length - start > HEAD_LIMITS.maxHeadBytes)
        throw new ProtocolError('ERR_BAD_HANDSHAKE', 'the answer does not end')
      return 0
    }
    const text = bytes.toString('latin1', start, end + 4)
    if (isInterim(text)) return end + 4 - start
    const { protocol, agreement } = answered(text, this.#key, this.settings.protocols, this.#terms)
    this.opener.opened(agreement)
    this.opener.tellAnswered(responseOf(text))
    this.opener.tellOpened(null, protocol)
    return end + 4 - start
  }

  cut(): void {
    throw new ProtocolError('ERR_BAD_HANDSHAKE', 'the server closed amid its answer')
  }

  timedOut(): never {
    throw handshakeTimeout(TIMED_OUT)
  }

  /** With messages that wait, it closes when the handshake is over and they are sent. */
  close(reason: LastWordReason): boolean {
    this.isLast = reason === 'closed' && this.hasKept
    return this.isLast
  }

  fail(): void {
    // There is nothing a client could tell its server.
  }
}
