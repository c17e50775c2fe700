// RFC 9112 once more, as regular expressions: slow, short, and written independently of the parser, to compare with it.

const TOKEN = "[!#$%&'*+\\-.^_`|~0-9A-Za-z]+"
const VALUE = '[\\t\\x20-\\x7e\\x80-\\xff]*'
const PCHAR = "[A-Za-z0-9\\-._~!$&'()*+,;=:@/|^[\\]]"
const ESCAPE = '%(?!0[0ADad])[0-9A-Fa-f]{2}'
const TARGET = `/(?:${PCHAR}|${ESCAPE})*(?:\\?(?:${PCHAR}|[?%{}\`\\\\])*)?`
const HEAD = new RegExp(`^(?:\\r\\n)?(${TOKEN}) (${TARGET}) HTTP/1\\.(\\d)\\r\\n((?:${TOKEN}:${VALUE}\\r\\n)*)\\r\\n$`)
const HOST = /^(?:[A-Za-z0-9\-._~!$&'()*+;=]|%[0-9A-Fa-f]{2})+(?::\d{0,5})?$/
const QUOTED = '"(?:[\\t \\x21\\x23-\\x5b\\x5d-\\x7e\\x80-\\xff]|\\\\[\\t \\x21-\\x7e\\x80-\\xff])*"'
const EXTENSION = `[ \\t]*;[ \\t]*${TOKEN}(?:[ \\t]*=[ \\t]*(?:${TOKEN}|${QUOTED}))?`
const SIZE_LINE = new RegExp(`([0-9A-Fa-f]{1,16})(?:${EXTENSION})*\\r\\n`, 'y')
const TRAILERS = new RegExp(`^(?:${TOKEN}:${VALUE}\\r\\n)*\\r\\n$`)

export interface ReadHead {
  readonly method: string
  readonly target: string
  readonly contentLength: number
  readonly isChunked: boolean
}

/** Returns null for a malformed or incomplete head. */
export function readHead(text: string): ReadHead | null {
  const [, method, target, minor, lines = ''] = HEAD.exec(text) ?? []
  if (method === undefined || target === undefined) return null
  const fields = lines.split('\r\n').slice(0, -1).map(fieldOf)
  const values = (name: string) => fields.filter((field) => field[0] === name).map((field) => field[1])
  const [hosts, lengths, codings] = [values('host'), values('content-length'), values('transfer-encoding')]
  if (fields.some(([name]) => name === 'content_length' || name === 'transfer_encoding')) return null
  if (hosts.length > 1 || (hosts.length === 0 && minor !== '0') || !hosts.every((host) => HOST.test(host))) return null
  if (lengths.length + codings.length > 1 || values('content-type').length > 1) return null
  if (!lengths.every((length) => /^(?:0|[1-9]\d{0,14})$/.test(length))) return null
  if (codings.length > 0 && (minor === '0' || codings[0]?.toLowerCase() !== 'chunked')) return null
  if (values('expect').some((value) => value.toLowerCase() !== '100-continue')) return null
  return { method, target, contentLength: Number(lengths[0] ?? 0), isChunked: codings.length > 0 }
}

function fieldOf(line: string): readonly [string, string] {
  const colon = line.indexOf(':')
  return [line.slice(0, colon).toLowerCase(), line.slice(colon + 1).replace(/^[ \t]+|[ \t]+$/g, '')]
}

/** The data of a chunked body that takes up all of `text`. Null if it is malformed or incomplete. */
export function readChunks(text: string): string | null {
  let body = ''
  for (let at = 0; ; ) {
    SIZE_LINE.lastIndex = at
    const [line = '', digits] = SIZE_LINE.exec(text) ?? []
    if (digits === undefined) return null
    at += line.length
    const size = Number.parseInt(digits, 16)
    if (size === 0) return TRAILERS.test(text.slice(at)) ? body : null
    if (text.slice(at + size, at + size + 2) !== '\r\n') return null
    body += text.slice(at, at + size)
    at += size + 2
  }
}

/** Every text that differs by one byte (latin1): replaced, inserted or removed. */
export function* oneByteAway(text: string): Generator<string> {
  for (let at = 0; at <= text.length; at++) {
    if (at < text.length) yield text.slice(0, at) + text.slice(at + 1)
    for (let byte = 0; byte < 256; byte++) {
      yield text.slice(0, at) + String.fromCharCode(byte) + text.slice(at)
      if (at < text.length) yield text.slice(0, at) + String.fromCharCode(byte) + text.slice(at + 1)
    }
  }
}
