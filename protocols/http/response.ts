// What a handler answers with: a status, header fields, cookies and a body. They are checked when they are set, so that
// nothing sent can begin a second header or a second answer (not even through latin1: U+010D U+010A would become CR
// LF).

import { quoted, UsageError } from '../../src/errors.ts'
import { checkOptions, isString, NOT_NEGATIVE, rule } from '../../src/options.ts'
import { type CookieOptions, serializeCookie } from './cookies.ts'
import { isToken } from './fields.ts'

/** A body sent piece by piece: a generator, a ReadableStream or a Readable of Node. */
export type BodyStream = AsyncIterable<string | Uint8Array>

/** A header field's value; a list is sent as one line per element. */
export type FieldValue = string | number | readonly string[]

/** Header fields by name; or as pairs, as the web's Headers and a Map have them. */
type HeaderFields = Readonly<Record<string, FieldValue>> | Iterable<readonly [name: string, value: FieldValue]>

/** A file sent by path, subject to the request's range and conditions. */
export interface FileBody {
  readonly path: string
  /** Bytes. */
  readonly offset: number
  /** Bytes; 0 means to the end. */
  readonly length: number
}

/** An answer: `connection.send(new Response(404, {}, 'not here'))`. */
export class Response {
  /** 200 to 999. */
  status: number
  /** Empty: the status's standard phrase. */
  reason = ''
  /** By lower-case name: the name as given, and its values. @internal */
  readonly fields = new Map<string, { readonly name: string; readonly values: readonly string[] }>()
  /**
   * Text, bytes, or a stream that is read as fast as the client reads; null for none. Text and bytes of an answer that
   * stays open (`Transfer-Encoding: chunked`, or events without a Content-Length) are its first piece.
   */
  body: string | Uint8Array | BodyStream | null
  /** @internal */
  file: FileBody | null = null
  /** @internal */
  request: object | null = null

  /** Arguments in Workerman's order. */
  constructor(status = 200, headers: HeaderFields = {}, body: Response['body'] = null) {
    this.status = checkedStatus(status)
    this.withHeaders(headers)
    this.body = body
  }

  /**
   * Replaces all values of that name. Throws UsageError for a name that is not a token, for control characters in a
   * value, and for what is no value, such as undefined.
   */
  setHeader(name: string, value: FieldValue): this {
    const values = Array.isArray(value) ? value : [value]
    checkField(name, values)
    this.fields.set(name.toLowerCase(), { name, values: values.map(String) })
    return this
  }

  /** Adds another line with that name. */
  addHeader(name: string, value: string): this {
    checkField(name, [value])
    return this.setHeader(name, [...(this.fields.get(name.toLowerCase())?.values ?? []), value])
  }

  /** Workerman's name for `setHeader`. */
  header(name: string, value: FieldValue): this {
    return this.setHeader(name, value)
  }

  /** Same as `setHeader`. Like all `with...` methods it changes this object and returns it. */
  withHeader(name: string, value: FieldValue): this {
    return this.setHeader(name, value)
  }

  /**
   * Calls `setHeader` for each; a name that comes several times, as Set-Cookie does in Headers, has all its values.
   * Throws UsageError at the first invalid one; those before it are set.
   */
  withHeaders(headers: HeaderFields): this {
    if (!(Symbol.iterator in checkedFields(headers))) {
      for (const [name, value] of Object.entries(headers)) this.setHeader(name, value)
      return this
    }
    const seen = new Set<string>()
    for (const [name, value] of pairsOf(headers)) {
      const key = String(name).toLowerCase()
      if (seen.has(key)) for (const one of [value].flat()) this.addHeader(name, one as string)
      else this.setHeader(name, value)
      seen.add(key)
    }
    return this
  }

  /** Removes all lines of that name, if there are any. */
  withoutHeader(name: string): this {
    this.fields.delete(name.toLowerCase())
    return this
  }

  /** Several lines are joined with commas. */
  getHeader(name: string): string | undefined {
    return this.fields.get(name.toLowerCase())?.values.join(', ')
  }

  /** Sets the status and the reason, by default the usual one. Throws UsageError if either is invalid. */
  withStatus(status: number, reason = ''): this {
    this.status = checkedStatus(status)
    this.reason = checkedReason(reason)
    return this
  }

  /** Workerman's word for `status`. */
  getStatusCode(): number {
    return this.status
  }

  /** Replaces the body. */
  withBody(body: Response['body']): this {
    this.body = body
    return this
  }

  /**
   * Answers with the content of a file, with its type, length, ETag and Last-Modified; the request's range and
   * conditions are honoured. 404 if there is no such file. The path is not checked: for paths chosen by clients use
   * `staticFiles`. Throws UsageError for an offset or a length that is not a number of bytes.
   */
  withFile(path: string, offset = 0, length = 0): this {
    if (typeof path !== 'string') throw bad(`a file is named by its path, not by ${quoted(path)}`)
    for (const [name, value] of Object.entries({ offset, length }))
      if (!Number.isSafeInteger(value) || value < 0)
        throw bad(`the ${name} of a file is a number of bytes, not ${quoted(value)}`)
    this.file = { path, offset, length }
    return this
  }

  /**
   * Binds this answer to a request: if that one has an answer already, `send` throws ERR_ANSWERED or ERR_NO_REQUEST,
   * even when another request is being handled by then. For callbacks that may come late, or twice.
   */
  forRequest(request: object): this {
    this.request = request
    return this
  }

  /** Sets a cookie; `maxAge: 0` deletes it. HttpOnly, SameSite=Lax and Path=/ unless told otherwise. */
  cookie(name: string, value = '', options: CookieOptions = {}): this {
    return this.addHeader('Set-Cookie', serializeCookie(name, value, options))
  }
}

/** One piece of an answer that is still open; an empty one ends it. As in Workerman. */
export class Chunk {
  readonly data: string | Uint8Array

  constructor(data: string | Uint8Array) {
    this.data = data
  }
}

/**
 * An event for EventSource, sent on an answer whose Content-Type is `text/event-stream`. As in Workerman; fields that
 * would begin another line are refused, and `data` of several lines is sent as several.
 */
export class ServerSentEvents {
  readonly text: string

  constructor(event: { comment?: string; event?: string; id?: string | number; retry?: number; data?: string }) {
    checkOptions('an event', event, RULES_OF_EVENTS, 'ERR_BAD_RESPONSE')
    const { comment, event: type, id, retry, data } = event
    const lines: string[] = []
    if (comment !== undefined) lines.push(...split(comment).map((line) => `: ${line}`))
    if (type !== undefined) lines.push(`event: ${oneLine('event', type)}`)
    if (id !== undefined) lines.push(`id: ${oneLine('id', String(id))}`)
    if (retry !== undefined) lines.push(`retry: ${Math.trunc(retry)}`)
    if (data !== undefined) lines.push(...split(data).map((line) => `data: ${line}`))
    this.text = `${lines.join('\n')}\n\n`
  }
}

const TEXT = rule(isString, 'text, such as that of JSON.stringify()')

const RULES_OF_EVENTS = {
  comment: TEXT,
  event: TEXT,
  id: rule((id) => typeof id === 'string' || typeof id === 'number', 'text or a number'),
  retry: NOT_NEGATIVE,
  data: TEXT,
}

function checkedFields(headers: HeaderFields): object {
  if (typeof headers === 'object' && headers !== null) return headers
  throw bad(`header fields are an object, pairs, a Map or Headers, not ${quoted(headers)}`)
}

function* pairsOf(headers: HeaderFields): Generator<readonly [string, FieldValue]> {
  for (const pair of headers as Iterable<readonly [string, FieldValue]>) {
    if (!Array.isArray(pair)) throw bad(`header fields in a list are pairs of name and value, not ${quoted(pair)}`)
    yield pair as unknown as readonly [string, FieldValue]
  }
}

function split(text: string): string[] {
  return text.split(/\r\n|\r|\n/)
}

function oneLine(field: string, text: string): string {
  if (!/[\r\n\0]/.test(text)) return text
  throw bad(`the ${field} of an event is one line`)
}

const FIELD_VALUE = /^[\t\x20-\x7e\x80-\xff]*$/

/** Throws UsageError. @internal */
export function checkField(name: string, values: readonly unknown[]): void {
  if (typeof name !== 'string' || !isToken(name)) throw bad(`${quoted(name)} is no header name`)
  for (const value of values) {
    if (typeof value !== 'string' && typeof value !== 'number')
      throw bad(`the value of header ${name} is text or a number, not ${value === null ? 'null' : typeof value}`)
    if (!FIELD_VALUE.test(String(value))) throw bad(`the value of header ${name} has control or wide characters`)
  }
}

/** Throws UsageError. @internal */
export function checkedReason(reason: string): string {
  if (FIELD_VALUE.test(reason)) return reason
  throw bad(`'${reason}' is no reason phrase`)
}

/** Throws UsageError. @internal */
export function checkedStatus(status: number): number {
  if (Number.isInteger(status) && status >= 200 && status <= 999) return status
  throw bad(`${quoted(status)} is no status of an answer`)
}

function bad(message: string): UsageError {
  return new UsageError('ERR_BAD_RESPONSE', message)
}

/** Those of RFC 9110 section 15, and those of other RFCs that are in use. */
export const REASONS: Readonly<Record<number, string>> = {
  100: 'Continue',
  101: 'Switching Protocols',
  103: 'Early Hints',
  200: 'OK',
  201: 'Created',
  202: 'Accepted',
  203: 'Non-Authoritative Information',
  204: 'No Content',
  205: 'Reset Content',
  206: 'Partial Content',
  207: 'Multi-Status',
  300: 'Multiple Choices',
  301: 'Moved Permanently',
  302: 'Found',
  303: 'See Other',
  304: 'Not Modified',
  307: 'Temporary Redirect',
  308: 'Permanent Redirect',
  400: 'Bad Request',
  401: 'Unauthorized',
  402: 'Payment Required',
  403: 'Forbidden',
  404: 'Not Found',
  405: 'Method Not Allowed',
  406: 'Not Acceptable',
  407: 'Proxy Authentication Required',
  408: 'Request Timeout',
  409: 'Conflict',
  410: 'Gone',
  411: 'Length Required',
  412: 'Precondition Failed',
  413: 'Content Too Large',
  414: 'URI Too Long',
  415: 'Unsupported Media Type',
  416: 'Range Not Satisfiable',
  417: 'Expectation Failed',
  421: 'Misdirected Request',
  422: 'Unprocessable Content',
  423: 'Locked',
  424: 'Failed Dependency',
  425: 'Too Early',
  426: 'Upgrade Required',
  428: 'Precondition Required',
  429: 'Too Many Requests',
  431: 'Request Header Fields Too Large',
  451: 'Unavailable For Legal Reasons',
  500: 'Internal Server Error',
  501: 'Not Implemented',
  502: 'Bad Gateway',
  503: 'Service Unavailable',
  504: 'Gateway Timeout',
  505: 'HTTP Version Not Supported',
  507: 'Insufficient Storage',
  511: 'Network Authentication Required',
}
