// The opening handshake (RFC 6455 section 4), both sides, with every check that the RFC has.

import { createHash, randomBytes } from 'node:crypto'
import { ProtocolError, UsageError } from '../../src/errors.ts'
import { type Fields, fieldsOf, hasToken, isToken, type RequestHead } from '../http/head.ts'
import type { Response } from '../http/response.ts'
import { type Agreement, accept, agreed, OFFER } from './deflate.ts'

const GUID = '258EAFA5-E914-47DA-95CA-C5AB0DC85B11'

function acceptOf(key: string): string {
  return createHash('sha1')
    .update(key + GUID)
    .digest('base64')
}

/** Why a request is refused: a status, and what it says besides. */
export interface Refusal {
  readonly status: number
  readonly message: string
  readonly lines: string
}

/** Null when the request may go on as WebSocket (RFC 6455 section 4.2.1). */
export function refusalOf(head: RequestHead): Refusal | null {
  const refuse = (status: number, message: string, lines = '') => ({ status, message, lines })
  const isUpgrade = head.asksForWebSocket
  if (head.method !== 'GET') return refuse(405, 'a WebSocket begins with GET', 'Allow: GET\r\n')
  if (!isUpgrade) return refuse(426, 'this is a WebSocket', 'Upgrade: websocket\r\n')
  if (head.isChunked || head.contentLength > 0) return refuse(400, 'a handshake has no body')
  const version = head.header('sec-websocket-version')
  if (version !== '13')
    return refuse(
      version === undefined ? 400 : 426,
      'the version is 13',
      'Sec-WebSocket-Version: 13\r\nUpgrade: websocket\r\n',
    )
  if (!/^[+/0-9A-Za-z]{21}[AQgw]==$/.test(head.header('sec-websocket-key') ?? ''))
    return refuse(400, 'Sec-WebSocket-Key is no 16 bytes in base64')
  return null
}

/** The sub-protocols that a client offers, in its order; null for what is no list. */
export function offeredProtocols(head: RequestHead): string[] | null {
  const field = head.header('sec-websocket-protocol')
  if (field === undefined) return []
  const names = field.split(',').map((name) => name.trim())
  return names.every(isToken) && new Set(names).size === names.length ? names : null
}

/** A server's answer. `more` are fields that a user has set. */
export function switching(
  head: RequestHead,
  protocol: string,
  isCompressing: boolean,
  more: Response,
): { readonly text: string; readonly agreement: Agreement | null } {
  const found = isCompressing ? accept(head.header('sec-websocket-extensions') ?? '') : null
  let lines = `Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ${acceptOf(head.header('sec-websocket-key') ?? '')}\r\n`
  if (protocol !== '') lines += `Sec-WebSocket-Protocol: ${protocol}\r\n`
  if (found !== null) lines += `Sec-WebSocket-Extensions: ${found.answer}\r\n`
  for (const { name, values } of more.fields.values()) for (const value of values) lines += `${name}: ${value}\r\n`
  return { text: `HTTP/1.1 101 Switching Protocols\r\n${lines}\r\n`, agreement: found?.agreement ?? null }
}

export interface ClientRequest {
  readonly text: string
  readonly key: string
}

/** What a client asks with. Throws UsageError for a path that cannot be sent. */
export function asking(
  authority: string,
  uri: string,
  protocols: readonly string[],
  isCompressing: boolean,
  headers: Readonly<Record<string, string>>,
): ClientRequest {
  const key = randomBytes(16).toString('base64')
  if (!/^[\x21-\x7e]+$/.test(uri))
    throw new UsageError('ERR_BAD_ADDRESS', `'${uri}' is no path: escape what is not ASCII`)
  let lines = `Host: ${authority}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: ${key}\r\nSec-WebSocket-Version: 13\r\n`
  if (protocols.length > 0) lines += `Sec-WebSocket-Protocol: ${protocols.join(', ')}\r\n`
  if (isCompressing) lines += `Sec-WebSocket-Extensions: ${OFFER}\r\n`
  for (const [name, value] of Object.entries(headers)) lines += `${name}: ${value}\r\n`
  return { text: `GET ${uri} HTTP/1.1\r\n${lines}\r\n`, key }
}

/** What a client makes of the answer (RFC 6455 section 4.1). Throws ProtocolError. */
export function answered(
  text: string,
  key: string,
  protocols: readonly string[],
  isCompressing: boolean,
): { readonly protocol: string; readonly agreement: Agreement | null } {
  const [, status] =
    /^HTTP\/1\.1 (\d{3})(?: [\t -~\x80-\xff]*)?\r\n(?:[!-9;-~]+:[\t -~\x80-\xff]*\r\n)*\r\n$/.exec(text) ?? []
  if (status === undefined) throw bad('the answer to the handshake is none')
  if (status !== '101') throw bad(`the server answered ${status}`)
  const fields: Fields = fieldsOf(text, text.indexOf('\r\n') + 2)
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
  if (!isCompressing) throw bad('the server wants extensions that were not offered')
  return { protocol, agreement: agreed(extensions) }
}

function bad(message: string): ProtocolError {
  return new ProtocolError('ERR_BAD_HANDSHAKE', message)
}
