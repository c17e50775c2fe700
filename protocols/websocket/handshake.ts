// The opening handshake (RFC 6455 section 4), both sides, with every check the RFC requires.

import { crypto } from '../../src/builtins.ts'
import { ProtocolError, UsageError } from '../../src/errors.ts'
import { type Fields, fieldsOf, hasToken, isToken, trimmed } from '../http/fields.ts'
import type { RequestHead } from '../http/head.ts'
import { discardAnswer, streamOf } from '../http/release.ts'
import { checkedReason, checkedStatus, REASONS, Response } from '../http/response.ts'
import { type Agreement, accept, agreed, type Terms } from './deflate.ts'

const GUID = '258EAFA5-E914-47DA-95CA-C5AB0DC85B11'

function acceptOf(key: string): string {
  return crypto()
    .createHash('sha1')
    .update(key + GUID)
    .digest('base64')
}

/** A refusal: its status, text and further header lines. */
interface Refusal {
  readonly status: number
  readonly message: string
  readonly lines: Readonly<Record<string, string>>
}

/** Null if the request may become a WebSocket (RFC 6455 section 4.2.1). */
export function refusalOf(head: RequestHead): Refusal | null {
  const refuse = (status: number, message: string, lines: Refusal['lines'] = {}) => ({ status, message, lines })
  const isUpgrade = head.asksForWebSocket
  if (head.method !== 'GET') return refuse(405, 'a WebSocket begins with GET', { Allow: 'GET' })
  if (!isUpgrade) return refuse(426, 'this is a WebSocket', { Upgrade: 'websocket' })
  if (head.isChunked || head.contentLength > 0) return refuse(400, 'a handshake has no body')
  const version = head.header('sec-websocket-version')
  if (version !== '13')
    return refuse(version === undefined ? 400 : 426, 'the version is 13', {
      'Sec-WebSocket-Version': '13',
      Upgrade: 'websocket',
    })
  if (!/^[+/0-9A-Za-z]{21}[AQgw]==$/.test(head.header('sec-websocket-key') ?? ''))
    return refuse(400, 'Sec-WebSocket-Key is no 16 bytes in base64')
  return null
}

/** The sub-protocols a client offers, in its order; null if the field is malformed. */
export function offeredProtocols(head: RequestHead): string[] | null {
  const field = head.header('sec-websocket-protocol')
  if (field === undefined) return []
  const names = field.split(',').map((name) => name.trim())
  return names.every(isToken) && new Set(names).size === names.length ? names : null
}

/** Fields set by the handshake alone, whatever the user sets. */
const OWN = new Set([
  'connection',
  'content-length',
  'sec-websocket-accept',
  'sec-websocket-extensions',
  'sec-websocket-key',
  'sec-websocket-protocol',
  'sec-websocket-version',
  'transfer-encoding',
  'upgrade',
])

/** Throws UsageError for field names reserved for the handshake. */
export function checkOwnFields(names: readonly string[]): void {
  const own = names.find((name) => OWN.has(name.toLowerCase()))
  if (own !== undefined) throw new UsageError('ERR_BAD_HEADER', `'${own}' is the handshake's own`)
}

/**
 * A server's answer. `response` has the fields set by the user; a sub-protocol among them overrides `chosen`. `more`:
 * field lines besides.
 */
export function switching(
  head: RequestHead,
  chosen: string,
  terms: Terms | null,
  response: Response,
  more: string,
): { readonly text: string; readonly protocol: string; readonly agreement: Agreement | null } {
  const protocol = protocolOf(head, response) ?? chosen
  const found = terms === null ? null : accept(head.header('sec-websocket-extensions') ?? '', terms)
  let lines = `Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ${acceptOf(head.header('sec-websocket-key') ?? '')}\r\n`
  if (protocol !== '') lines += `Sec-WebSocket-Protocol: ${protocol}\r\n`
  if (found !== null) lines += `Sec-WebSocket-Extensions: ${found.answer}\r\n`
  lines += linesOf(response) + more
  return { text: `HTTP/1.1 101 Switching Protocols\r\n${lines}\r\n`, protocol, agreement: found?.agreement ?? null }
}

/**
 * The sub-protocol chosen as Workerman's users do it: by a header field of the answer. Throws UsageError if it was not
 * offered.
 */
function protocolOf(head: RequestHead, response: Response): string | undefined {
  const name = response.getHeader('sec-websocket-protocol')
  if (name !== undefined && !offeredProtocols(head)?.includes(name))
    throw new UsageError('ERR_BAD_SUBPROTOCOL', `the client did not offer '${name}'`)
  return name
}

function linesOf({ fields }: Response): string {
  let lines = ''
  for (const [key, { name, values }] of fields)
    if (!OWN.has(key)) for (const value of values) lines += `${name}: ${value}\r\n`
  return lines
}

/**
 * The whole answer that turns a client away, in pieces; no content for HEAD. `more`: field lines besides those of
 * `response`, which may be a constant and is not changed. `date`: the value of the Date field, or empty. Throws
 * UsageError for a stream, which is ended, and for a file; also for a status or a reason that cannot be sent, since
 * they may have changed after they were checked.
 */
export function refusing(
  response: Response,
  more: string,
  isHead: boolean,
  date: string,
): readonly (string | Uint8Array)[] {
  const { body, fields } = response
  if (response.file !== null || streamOf(response) !== null) {
    discardAnswer(response)
    throw new UsageError('ERR_BAD_RESPONSE', 'a WebSocket is refused with text or bytes, not with a stream or a file')
  }
  const status = checkedStatus(response.status)
  const isEmpty = status === 204 || status === 304 // RFC 9110 sections 15.3.5, 15.4.5
  const content = !isEmpty && (typeof body === 'string' || body instanceof Uint8Array) ? body : ''
  const { name, values } = fields.get('upgrade') ?? { name: '', values: [] }
  const [version] = fields.get('sec-websocket-version')?.values ?? []
  let lines = linesOf(response) + more
  if (version !== undefined) lines += `Sec-WebSocket-Version: ${version}\r\n`
  if (name !== '') lines += `Upgrade: ${values.join(', ')}\r\n`
  if (date !== '' && !fields.has('date')) lines += `Date: ${date}\r\n`
  if (!isEmpty) lines += `Content-Length: ${Buffer.byteLength(content)}\r\n`
  lines += `Connection: close${name === '' ? '' : ', Upgrade'}\r\n`
  const head = `HTTP/1.1 ${status} ${checkedReason(response.reason) || (REASONS[status] ?? '')}\r\n${lines}\r\n`
  return [Buffer.from(head, 'latin1'), isHead ? '' : content]
}

interface ClientRequest {
  readonly text: string
  readonly key: string
}

/** A client's request. Throws UsageError for a path that cannot be sent. */
export function asking(
  authority: string,
  uri: string,
  protocols: readonly string[],
  extensions: string,
  headers: Readonly<Record<string, string>>,
): ClientRequest {
  const key = crypto().randomBytes(16).toString('base64')
  if (!/^[\x21-\x7e]+$/.test(uri))
    throw new UsageError('ERR_BAD_ADDRESS', `'${uri}' is no path: escape what is not ASCII`)
  const hasHost = Object.keys(headers).some((name) => name.toLowerCase() === 'host')
  let lines = `${hasHost ? '' : `Host: ${authority}\r\n`}Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: ${key}\r\nSec-WebSocket-Version: 13\r\n`
  if (protocols.length > 0) lines += `Sec-WebSocket-Protocol: ${protocols.join(', ')}\r\n`
  if (extensions !== '') lines += `Sec-WebSocket-Extensions: ${extensions}\r\n`
  for (const [name, value] of Object.entries(headers)) lines += `${name}: ${value}\r\n`
  return { text: `GET ${uri} HTTP/1.1\r\n${lines}\r\n`, key }
}

const ANSWER = /^HTTP\/1\.1 (\d{3})(?: [\t -~\x80-\xff]*)?\r\n(?:[!-9;-~]+:[\t -~\x80-\xff]*\r\n)*\r\n$/

/** Whether this is an interim answer, such as 103 (RFC 9110 section 15.2). */
export function isInterim(text: string): boolean {
  const [, status = ''] = ANSWER.exec(text) ?? []
  return /^1(?!01)/.test(status)
}

/** An answer that `answered` has taken, as a client's user sees it. */
export function responseOf(text: string): Response {
  const [first = '', ...lines] = text.split('\r\n').slice(0, -2)
  const response = new Response()
  response.status = 101 // which nobody may send as an answer
  response.reason = first.slice('HTTP/1.1 101 '.length)
  for (const line of lines) {
    const colon = line.indexOf(':')
    const name = line.slice(0, colon)
    const key = name.toLowerCase()
    const values = [...(response.fields.get(key)?.values ?? []), trimmed(line, colon + 1)]
    response.fields.set(key, { name, values })
  }
  return response
}

/** A client's reading of the answer (RFC 6455 section 4.1); `terms` are those it offered. Throws ProtocolError. */
export function answered(
  text: string,
  key: string,
  protocols: readonly string[],
  terms: Terms | null,
): { readonly protocol: string; readonly agreement: Agreement | null } {
  const [, status] = ANSWER.exec(text) ?? []
  if (status === undefined) throw bad('the answer to the handshake is none')
  const fields: Fields = fieldsOf(text, text.indexOf('\r\n') + 2)
  if (status !== '101') throw refused(Number(status), fields.location)
  if (fields.upgrade?.toLowerCase() !== 'websocket') throw bad('the answer does not upgrade to websocket')
  if (!hasToken((fields.connection ?? '').toLowerCase(), 'upgrade'))
    throw bad('the answer does not upgrade the connection')
  if (fields['sec-websocket-accept'] !== acceptOf(key)) throw bad('Sec-WebSocket-Accept is not the one of our key')
  const protocol = fields['sec-websocket-protocol'] ?? ''
  if (protocol !== '' && !protocols.includes(protocol))
    throw bad(`the server chose '${protocol}', which was not offered`)
  if (protocol === '' && protocols.length > 0) throw bad('the server chose none of the sub-protocols')
  const extensions = fields['sec-websocket-extensions']
  if (extensions === undefined) return { protocol, agreement: null }
  if (terms === null) throw bad('the server wants extensions that were not offered')
  return { protocol, agreement: agreed(extensions, terms) }
}

/** Redirects are not followed: a server does not decide who else may receive our headers. */
function refused(status: number, location: string | undefined): ProtocolError {
  const where = location === undefined ? '' : `, and points to ${location}`
  return new ProtocolError('ERR_BAD_HANDSHAKE', `the server answered ${status}${where}`, { statusHint: status })
}

function bad(message: string): ProtocolError {
  return new ProtocolError('ERR_BAD_HANDSHAKE', message)
}
