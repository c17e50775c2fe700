// The head of an HTTP/1 request (RFC 9112 sections 2 to 6), parsed as its bytes arrive and as strictly as the RFC
// allows: every head that two parsers could read in two ways is refused. No lenient mode, no obs-fold, no bare CR or
// LF. What is needed often (framing, Host, Connection) is noted while parsing; the fields are split on first use.

import { ProtocolError } from '../../src/errors.ts'
import { NEED_MORE } from '../../src/protocol.ts'
import { FieldSection, type Fields, hasToken, isBlank, isToken, type Noted, trimmed } from './fields.ts'
import { isHost } from './host.ts'

/**
 * Bounds of a request's head. Beyond them it is answered with the status that each names, and the connection closes.
 */
export interface HeadLimits {
  /** Bytes of the whole head including the empty line; more is answered with 431. Default 16,384, as in Node. */
  readonly maxHeadBytes: number
  /**
   * Bytes of the request target; more is answered with 414. Default 8,000, the minimum that RFC 9112 section 3
   * recommends.
   */
  readonly maxTargetBytes: number
  /** Field lines; more are answered with 431. Default 100, as in Apache and HAProxy. */
  readonly maxFields: number
}

export const HEAD_LIMITS: HeadLimits = { maxHeadBytes: 16_384, maxTargetBytes: 8000, maxFields: 100 }

/** A head that has passed every check. */
export class RequestHead {
  /** As sent: methods are case-sensitive, and any token is a method. */
  readonly method: string
  /** As sent: `/path?query`, `http://host/path`, `*`. */
  readonly target: string
  /** The last digit of the version, as sent. */
  readonly #minor: number
  readonly #section: FieldSection

  constructor(method: string, target: string, minor: number, section: FieldSection) {
    this.method = method
    this.target = target
    this.#minor = minor
    this.#section = section
  }

  /** 0 or 1; HTTP/1.2 counts as 1.1 (RFC 9110 section 2.5). */
  get minorVersion(): 0 | 1 {
    return this.#minor === 0 ? 0 : 1
  }

  /** Bytes of body; 0 without Content-Length. */
  get contentLength(): number {
    return Math.max(0, this.#section.contentLength)
  }

  get isChunked(): boolean {
    return this.#section.isChunked
  }

  /** Whether the client allows another request on this connection. */
  get isKeepAlive(): boolean {
    const { hasClose, hasKeepAlive } = this.#section
    return !hasClose && (this.minorVersion === 1 || hasKeepAlive)
  }

  get expectsContinue(): boolean {
    return this.#section.expectsContinue && this.minorVersion === 1
  }

  /** Whether the client offers to switch to WebSocket: `Upgrade` lists it, and `Connection` lists `Upgrade`. */
  get asksForWebSocket(): boolean {
    const { hasUpgrade, offersWebSocket } = this.#section
    return hasUpgrade && offersWebSocket && this.minorVersion === 1
  }

  /** The whole head as latin1, including the empty line. */
  get raw(): string {
    return `${this.method} ${this.target} ${VERSION}${this.#minor}\r\n${this.#section.raw}`
  }

  /** `host` or `host:port`, as the client wrote it; empty for HTTP/1.0 without a Host. */
  get authority(): string {
    return this.header('host') ?? /^[a-z]+:\/\/([^/?]*)/i.exec(this.target)?.[1] ?? ''
  }

  /** A field's value; `name` in any case. Several lines are joined with commas (RFC 9110 section 5.3). */
  header(name: string): string | undefined {
    return this.#section.get(name.toLowerCase())
  }

  /** A new copy each time. */
  get fields(): Fields {
    return this.#section.copy()
  }
}

/** For logs. */
export interface RequestLine {
  readonly method: string
  readonly target: string
  readonly version: string
}

const TAB = 0x09
const LF = 0x0a
const CR = 0x0d
const SPACE = 0x20
const COLON = 0x3a
const CAPITAL_H = 0x48

/** @internal */
export const enum Class {
  /** tchar, RFC 9110 section 5.6.2. */
  Token = 1,
  /** VCHAR, obs-text, SP and HTAB: RFC 9110 section 5.5. */
  Value = 2,
  /** Needs no further check anywhere in a target: pchar without escapes, `/` and `?`, of RFC 3986. */
  Target = 4,
  /** Escapes, and characters that browsers leave unescaped although RFC 3986 does not allow them. */
  Odd = 8,
}

/** The classes each byte belongs to. @internal */
export const CLASSES: Uint8Array = classes()

function classes(): Uint8Array {
  const all = new Uint8Array(256)
  for (const char of "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
    all[char.charCodeAt(0)] = Class.Token
  for (let byte = 0x21; byte < 0x100; byte++) {
    if (byte === 0x7f) continue
    all[byte] = (all[byte] as number) | Class.Value
  }
  for (const char of "-._~!$&'()*+,;=:@/?0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
    all[char.charCodeAt(0)] = (all[char.charCodeAt(0)] as number) | Class.Target
  for (const char of '%|^[]{}`\\') all[char.charCodeAt(0)] = (all[char.charCodeAt(0)] as number) | Class.Odd
  all[SPACE] = all[TAB] = Class.Value
  return all
}

/**
 * A target with odd characters. In the path, every `%` begins an escape, and none encodes NUL, CR or LF: decoded, these
 * would cut a name short or forge a line of a log. In the query browsers are less strict.
 */
const ODD_TARGET = /^(?:[^%?{}`\\]|%(?!0[0ad])[0-9a-f]{2})*(?:\?.*)?$/i

/** What comes next. */
const enum Await {
  /** The request line, or one empty line before it (RFC 9112 section 2.2). */
  Start = 0,
  StartLf = 1,
  Method = 2,
  Target = 3,
  Version = 4,
  VersionLf = 5,
  FieldLine = 6,
  Name = 7,
  Value = 8,
  ValueLf = 9,
  LastLf = 10,
}

const VERSION = 'HTTP/1.'
/** A token of any length is a method, but no registered one is longer than 20 bytes. */
const MAX_METHOD_BYTES = 64

/**
 * Parses one head after another. Each byte is examined once, however the bytes arrive: state is kept between calls, and
 * in each call `bytes` begins with the first byte of the head.
 */
export class HeadParser implements Noted {
  readonly #limits: HeadLimits
  #state: Await = Await.Start
  #at = 0
  #start = 0
  #methodEnd = 0
  #targetEnd = 0
  #minor = 1
  #isOtherMajor = false
  #isOdd = false
  #isTrailer = false
  #fieldsAt = 0
  #nameAt = 0
  #nameEnd = 0
  #count = 0
  #host: string | null = null
  #codings: string | null = null
  #hasType = false
  contentLength = -1
  isChunked = false
  hasClose = false
  hasKeepAlive = false
  hasUpgrade = false
  offersWebSocket = false
  expectsContinue = false
  /** The head being read is a HEAD request's: the answer has no body, even if the request is refused. */
  isHead = false

  constructor(limits: HeadLimits = HEAD_LIMITS) {
    this.#limits = limits
  }

  /** Prepares for the next head. */
  reset(): void {
    this.#state = Await.Start
    this.#at = this.#start = this.#count = this.#methodEnd = this.#targetEnd = this.#fieldsAt = 0
    this.#host = this.#codings = null
    this.contentLength = -1
    this.isChunked = this.hasClose = this.hasKeepAlive = false
    this.hasUpgrade = this.offersWebSocket = this.expectsContinue = this.#isOtherMajor = this.#isTrailer = false
    this.#isOdd = this.#hasType = this.isHead = false
  }

  /** Prepares for the trailers of a chunked body: field lines alone, none of which may affect framing. */
  resetForTrailers(): void {
    this.reset()
    this.#isTrailer = true
    this.#state = Await.FieldLine
  }

  /** No byte has been seen, not even an empty line. */
  get isFresh(): boolean {
    return this.#at === 0
  }

  /** Part of a head has been seen; an empty line before it does not count. */
  get hasBegun(): boolean {
    return this.#at > this.#start
  }

  /** Returns the head's length in bytes, or NEED_MORE. Throws ProtocolError with a `statusHint`. */
  parse(bytes: Buffer): number {
    const limit = Math.min(bytes.length, this.#limits.maxHeadBytes)
    while (this.#at < limit) {
      switch (this.#state) {
        case Await.Start:
          this.#takeStart(bytes)
          break
        case Await.StartLf:
          this.#expectLf(bytes, Await.Method)
          this.#start = this.#at
          break
        case Await.Method:
          this.#takeMethod(bytes, limit)
          break
        case Await.Target:
          this.#takeTarget(bytes, limit)
          break
        case Await.Version:
          this.#takeVersion(bytes, limit)
          break
        case Await.VersionLf:
          this.#expectLf(bytes, Await.FieldLine)
          this.#fieldsAt = this.#at
          break
        case Await.FieldLine:
          this.#beginLine(bytes)
          break
        case Await.Name:
          this.#takeName(bytes, limit)
          break
        case Await.Value:
          this.#takeValue(bytes, limit)
          break
        case Await.ValueLf:
          this.#expectLf(bytes, Await.FieldLine)
          break
        case Await.LastLf:
          this.#expectLf(bytes, Await.Start)
          if (!this.#isTrailer) this.#finish(bytes)
          return this.#at
      }
    }
    if (bytes.length >= this.#limits.maxHeadBytes) this.#refuseSize()
    return NEED_MORE
  }

  /** Returns the head that `parse` has just found whole at the beginning of `bytes`. */
  take(bytes: Buffer): RequestHead {
    const raw = bytes.toString('latin1', this.#start, this.#at)
    const start = this.#start
    const method = raw.slice(0, this.#methodEnd - start)
    const target = raw.slice(this.#methodEnd + 1 - start, this.#targetEnd - start)
    return new RequestHead(method, target, this.#minor, new FieldSection(raw, this.#fieldsAt - start, this))
  }

  /** What is known of a head that may be incomplete, given the same `bytes`; `-` for unknown parts. */
  requestLine(bytes: Buffer): RequestLine {
    const hasMethod = this.#methodEnd > this.#start
    const hasTarget = this.#targetEnd > this.#methodEnd
    return {
      method: hasMethod ? bytes.toString('latin1', this.#start, this.#methodEnd) : '-',
      target: hasTarget ? bytes.toString('latin1', this.#methodEnd + 1, this.#targetEnd) : '-',
      version: this.#fieldsAt > 0 ? `1.${Math.min(this.#minor, 1)}` : '-',
    }
  }

  #takeStart(bytes: Buffer): void {
    if (bytes[this.#at] !== CR) {
      this.#state = Await.Method
      return
    }
    this.#at++
    this.#state = Await.StartLf
  }

  #takeMethod(bytes: Buffer, limit: number): void {
    let at = this.#at
    while (at < limit && (CLASSES[bytes[at] as number] as number) & Class.Token) at++
    this.#at = at
    if (at - this.#start > MAX_METHOD_BYTES) throw this.#bad('ERR_BAD_METHOD', 'a method that long is none')
    if (at === limit) return
    if (at === this.#start || bytes[at] !== SPACE) throw this.#bad('ERR_BAD_METHOD', 'the method is no token')
    this.#methodEnd = at
    this.isHead = bytes[this.#start] === CAPITAL_H && bytes.toString('latin1', this.#start, at) === 'HEAD'
    this.#at++
    this.#state = Await.Target
  }

  #takeTarget(bytes: Buffer, limit: number): void {
    let at = this.#at
    for (; at < limit; at++) {
      const kind = CLASSES[bytes[at] as number] as number
      if (kind & Class.Target) continue
      if (!(kind & Class.Odd)) break
      this.#isOdd = true
    }
    this.#at = at
    const size = at - this.#methodEnd - 1
    if (size > this.#limits.maxTargetBytes)
      throw refusal('ERR_TARGET_TOO_LONG', 414, `a target is over the limit of ${this.#limits.maxTargetBytes} bytes`)
    if (at === limit) return
    if (size === 0 || bytes[at] !== SPACE) throw this.#bad('ERR_BAD_TARGET', 'the request target is none')
    this.#targetEnd = at
    this.#at++
    this.#state = Await.Version
  }

  /** Takes `HTTP/1.1` CR. Another major version gets 505, since a person may want to know. */
  #takeVersion(bytes: Buffer, limit: number): void {
    for (; this.#at < limit; this.#at++) {
      const place = this.#at - this.#targetEnd - 1
      const byte = bytes[this.#at] as number
      if (place === 8) {
        if (byte !== CR) throw this.#bad('ERR_BAD_VERSION', 'the request line does not end after the version')
        if (this.#isOtherMajor) throw refusal('ERR_VERSION', 505, 'this is a server for HTTP/1')
        this.#at++
        this.#state = Await.VersionLf
        return
      }
      if (place === 7 && isDigit(byte)) this.#minor = byte - 0x30
      else if (place === 5 && isDigit(byte)) this.#isOtherMajor = byte !== 0x31
      else if (byte !== VERSION.charCodeAt(place)) throw this.#bad('ERR_BAD_VERSION', 'the HTTP version is none')
    }
  }

  #beginLine(bytes: Buffer): void {
    const byte = bytes[this.#at] as number
    if (byte === CR) {
      this.#at++
      this.#state = Await.LastLf
      return
    }
    if (isBlank(byte)) throw this.#bad('ERR_OBS_FOLD', 'a field line begins with white space')
    if (++this.#count > this.#limits.maxFields)
      throw refusal('ERR_TOO_MANY_FIELDS', 431, `more than ${this.#limits.maxFields} header fields`)
    this.#nameAt = this.#at
    this.#state = Await.Name
  }

  #takeName(bytes: Buffer, limit: number): void {
    let at = this.#at
    while (at < limit && (CLASSES[bytes[at] as number] as number) & Class.Token) at++
    this.#at = at
    if (at === limit) return
    if (at === this.#nameAt || bytes[at] !== COLON) throw this.#bad('ERR_BAD_FIELD_NAME', 'a field name is no token')
    this.#nameEnd = at
    this.#at++
    this.#state = Await.Value
  }

  #takeValue(bytes: Buffer, limit: number): void {
    let at = this.#at
    while (at < limit && (CLASSES[bytes[at] as number] as number) & Class.Value) at++
    this.#at = at
    if (at === limit) return
    if (bytes[at] !== CR) throw this.#bad('ERR_BAD_FIELD_VALUE', 'a field value has a control character')
    this.#note(bytes, at)
    this.#at++
    this.#state = Await.ValueLf
  }

  #expectLf(bytes: Buffer, next: Await): void {
    if (bytes[this.#at] !== LF) throw this.#bad('ERR_BARE_CR', 'a CR without its LF')
    this.#at++
    this.#state = next
  }

  // What fields say about framing and the connection. Their lengths rule out almost all others.

  #note(bytes: Buffer, end: number): void {
    if (this.#isTrailer) return this.#checkTrailer(bytes)
    switch (this.#nameEnd - this.#nameAt) {
      case 4:
        if (isNamed(bytes, this.#nameAt, 'host')) this.#noteHost(this.#value(bytes, end))
        break
      case 6:
        if (isNamed(bytes, this.#nameAt, 'expect')) this.#noteExpect(this.#value(bytes, end))
        break
      case 7:
        if (isNamed(bytes, this.#nameAt, 'upgrade'))
          this.offersWebSocket ||= hasToken(this.#value(bytes, end).toLowerCase(), 'websocket')
        break
      case 10:
        if (isNamed(bytes, this.#nameAt, 'connection')) this.#noteConnection(this.#value(bytes, end).toLowerCase())
        break
      case 12:
        if (isNamed(bytes, this.#nameAt, 'content-type')) this.#noteType()
        break
      case 14:
        if (isNamed(bytes, this.#nameAt, 'content-length')) this.#noteLength(this.#value(bytes, end))
        else if (isNamed(bytes, this.#nameAt, 'content_length')) throw this.#bad('ERR_BAD_CONTENT_LENGTH', MASKED)
        break
      case 17:
        if (isNamed(bytes, this.#nameAt, 'transfer-encoding')) this.#noteCodings(this.#value(bytes, end))
        else if (isNamed(bytes, this.#nameAt, 'transfer_encoding')) throw this.#bad('ERR_BAD_TRANSFER_ENCODING', MASKED)
        break
    }
  }

  /**
   * RFC 9110 section 6.5.1. A field that belongs in a head has no use after a body, except to a sender who hopes it
   * will be merged.
   */
  #checkTrailer(bytes: Buffer): void {
    const name = bytes.toString('latin1', this.#nameAt, this.#nameEnd).toLowerCase()
    if (NO_TRAILERS.has(name)) throw this.#bad('ERR_BAD_TRAILER', `${name} is no trailer`)
  }

  #value(bytes: Buffer, end: number): string {
    const raw = bytes.toString('latin1', this.#nameEnd + 1, end)
    return trimmed(raw)
  }

  #noteHost(value: string): void {
    if (this.#host !== null) throw this.#bad('ERR_BAD_HOST', 'Host comes twice')
    if (!isHost(value)) throw this.#bad('ERR_BAD_HOST', 'Host is no host and port')
    this.#host = value
  }

  #noteExpect(value: string): void {
    if (value.toLowerCase() !== '100-continue') throw refusal('ERR_EXPECTATION', 417, 'an unknown expectation')
    this.expectsContinue = true
  }

  #noteConnection(value: string): void {
    this.hasClose ||= hasToken(value, 'close')
    this.hasKeepAlive ||= hasToken(value, 'keep-alive')
    this.hasUpgrade ||= hasToken(value, 'upgrade')
  }

  /** Some parsers take the first Content-Type, others the last: a body has one type (RFC 9110 section 8.3). */
  #noteType(): void {
    if (this.#hasType) throw this.#bad('ERR_BAD_CONTENT_TYPE', 'Content-Type comes twice')
    this.#hasType = true
  }

  /**
   * RFC 9112 section 6.3 allows a list of equal values to be taken as one; that is not worth the risk. Neither are
   * leading zeros, which some parsers read as octal.
   */
  #noteLength(value: string): void {
    if (this.contentLength >= 0) throw this.#bad('ERR_BAD_CONTENT_LENGTH', 'Content-Length comes twice')
    if (!/^(?:0|[1-9]\d*)$/.test(value)) throw this.#bad('ERR_BAD_CONTENT_LENGTH', 'Content-Length is no number')
    this.contentLength = Number(value)
    if (!Number.isSafeInteger(this.contentLength))
      throw this.#bad('ERR_BAD_CONTENT_LENGTH', 'Content-Length is beyond all bounds')
  }

  #noteCodings(value: string): void {
    if (this.#codings !== null) throw this.#bad('ERR_BAD_TRANSFER_ENCODING', 'Transfer-Encoding comes twice')
    this.#codings = value.toLowerCase()
  }

  // The whole head

  #finish(bytes: Buffer): void {
    if (this.#minor > 0 && this.#host === null) throw this.#bad('ERR_BAD_HOST', 'Host is missing')
    this.#checkTarget(bytes)
    if (this.#codings !== null) this.#checkCodings(this.#codings)
  }

  /** RFC 9112 section 3.2: origin-form, absolute-form, and `*` for OPTIONS. This server is not a tunnel. */
  #checkTarget(bytes: Buffer): void {
    const method = () => bytes.toString('latin1', this.#start, this.#methodEnd)
    const first = bytes[this.#methodEnd + 1]
    const size = this.#methodEnd - this.#start
    if (size === 7 && method() === 'CONNECT') throw refusal('ERR_NO_TUNNEL', 501, 'CONNECT: this server is no tunnel')
    if (size === 5 && method() === 'TRACE')
      throw refusal('ERR_NO_TRACE', 501, 'TRACE: this server shows nobody what it was sent')
    if (first === 0x2f && !this.#isOdd) return
    const target = bytes.toString('latin1', this.#methodEnd + 1, this.#targetEnd)
    if (this.#isOdd && !ODD_TARGET.test(target)) throw this.#bad('ERR_BAD_TARGET', 'the request target is none')
    if (first === 0x2f) return
    if (target === '*' && method() === 'OPTIONS') return
    const authority = /^https?:\/\/([^/?]+)/i.exec(target)?.[1]
    if (authority === undefined || !isHost(authority)) throw this.#bad('ERR_BAD_TARGET', 'the request target is none')
    if (this.#host !== null && this.#host.toLowerCase() !== authority.toLowerCase())
      throw this.#bad('ERR_BAD_HOST', 'Host is another one than that of the target')
  }

  /** RFC 9112 sections 6.1 and 6.3. */
  #checkCodings(codings: string): void {
    const bad = (why: string) => this.#bad('ERR_BAD_TRANSFER_ENCODING', why)
    if (this.contentLength >= 0) throw bad('Content-Length with Transfer-Encoding')
    if (this.#minor === 0) throw bad('HTTP/1.0 has no Transfer-Encoding')
    const all = codings.split(',').map((coding) => trimmed(coding))
    if (all.pop() !== 'chunked' || all.some((coding) => coding === 'chunked' || !isToken(coding)))
      throw bad('Transfer-Encoding does not end in its only chunked')
    if (all.length > 0) throw refusal('ERR_TRANSFER_CODING', 501, `no transfer coding but chunked is known here`)
    this.isChunked = true
  }

  #refuseSize(): never {
    const { maxHeadBytes } = this.#limits
    if (this.#state === Await.Target)
      throw refusal('ERR_TARGET_TOO_LONG', 414, 'a target is over the limit of the head')
    throw refusal('ERR_HEAD_TOO_LARGE', 431, `a head is over the limit of ${maxHeadBytes} bytes`)
  }

  #bad(code: string, message: string): ProtocolError {
    return new ProtocolError(code, message, { statusHint: 400, offset: this.#at })
  }
}

/** An error that is answered with `status`; the connection then closes. */
export function refusal(code: string, status: number, message: string): ProtocolError {
  return new ProtocolError(code, message, { statusHint: status })
}

/** Whether `name` is at `start`. `name` is in lower case; the bytes may be in any case. @internal */
export function isNamed(bytes: Buffer, start: number, name: string): boolean {
  for (let i = 0; i < name.length; i++) {
    const byte = bytes[start + i] as number
    if ((byte >= 0x41 && byte <= 0x5a ? byte | 0x20 : byte) !== name.charCodeAt(i)) return false
  }
  return true
}

const MASKED = 'a field that another server could take for one of framing'

/** Fields about framing, routing, the client's identity, the resource asked for, or the type of the body. */
const NO_TRAILERS = new Set(
  (
    'transfer-encoding content-length host trailer te connection keep-alive proxy-connection upgrade expect max-forwards ' +
    'cache-control pragma range if-match if-none-match if-modified-since if-unmodified-since if-range ' +
    'authorization proxy-authorization cookie content-type content-encoding content-range content_length transfer_encoding'
  ).split(' '),
)

function isDigit(byte: number): boolean {
  return byte >= 0x30 && byte <= 0x39
}
