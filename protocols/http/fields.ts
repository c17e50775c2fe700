// Field lines (RFC 9110 section 5) of heads, trailers and answers; split into names and values on first use.

/** Field values by lower-case name. Has no prototype. */
export type Fields = Readonly<Record<string, string>>

/** What the fields of a request say about framing and the connection; noted while parsing. */
export interface Noted {
  /** Bytes of body; -1 without Content-Length. */
  readonly contentLength: number
  readonly isChunked: boolean
  readonly hasClose: boolean
  readonly hasKeepAlive: boolean
  readonly hasUpgrade: boolean
  readonly offersWebSocket: boolean
  readonly expectsContinue: boolean
}

/** The fields of a request that has passed every check. Immutable, so requests with identical fields may share one. */
export class FieldSection implements Noted {
  readonly contentLength: number
  readonly isChunked: boolean
  readonly hasClose: boolean
  readonly hasKeepAlive: boolean
  readonly hasUpgrade: boolean
  readonly offersWebSocket: boolean
  readonly expectsContinue: boolean
  readonly #text: string
  readonly #start: number
  #byName: Fields | null = null

  /** `text` is latin1 and ends with the empty line after the fields, which begin at `start`. */
  constructor(text: string, start: number, noted: Noted) {
    this.#text = text
    this.#start = start
    this.contentLength = noted.contentLength
    this.isChunked = noted.isChunked
    this.hasClose = noted.hasClose
    this.hasKeepAlive = noted.hasKeepAlive
    this.hasUpgrade = noted.hasUpgrade
    this.offersWebSocket = noted.offersWebSocket
    this.expectsContinue = noted.expectsContinue
  }

  /** The field lines as received, including the empty line. */
  get raw(): string {
    return this.#text.slice(this.#start)
  }

  /** `name` is in lower case. */
  get(name: string): string | undefined {
    return this.#split()[name]
  }

  /** A copy that the caller may change. */
  copy(): Fields {
    return Object.assign(Object.create(null), this.#split())
  }

  #split(): Fields {
    this.#byName ??= fieldsOf(this.#text, this.#start)
    return this.#byName
  }
}

/** Parses checked field lines from `at` up to an empty line or the end. */
export function fieldsOf(raw: string, at: number): Fields {
  const fields: Record<string, string> = Object.create(null)
  for (let start = at; start < raw.length; ) {
    const end = raw.indexOf('\r\n', start)
    if (end <= start) break
    const colon = raw.indexOf(':', start)
    const name = raw.slice(start, colon).toLowerCase()
    const value = trimmed(raw, colon + 1, end)
    const before = fields[name]
    // Cookie is not a list field, but HTTP/2 clients may split it: RFC 9113 section 8.2.3.
    fields[name] = before === undefined ? value : `${before}${name === 'cookie' ? '; ' : ', '}${value}`
    start = end + 2
  }
  return fields
}

/** Strips surrounding white space (OWS, RFC 9110 section 5.6.3). */
export function trimmed(raw: string, from = 0, to = raw.length): string {
  let start = from
  let end = to
  while (start < end && isBlank(raw.charCodeAt(start))) start++
  while (end > start && isBlank(raw.charCodeAt(end - 1))) end--
  return raw.slice(start, end)
}

/** SP or HTAB. */
export function isBlank(code: number): boolean {
  return code === 0x20 || code === 0x09
}

/** Whether a lower-case list of tokens (RFC 9110 section 5.6.1) contains this one. */
export function hasToken(list: string, token: string): boolean {
  if (list === token) return true
  return list.includes(token) && list.split(',').some((item) => trimmed(item) === token)
}

/** Whether `text` is a token (RFC 9110 section 5.6.2). */
export function isToken(text: string): boolean {
  return /^[!#$%&'*+\-.^_`|~0-9a-z]+$/i.test(text)
}
