// What the headers of a NATS message say. Other programs need none of them: without headers a message is JSON, from
// nobody one could write to. Errors use the headers of NATS's own services (ADR-32).
//
//   Content-Type            application/octet-stream if the payload is bytes; otherwise it is JSON
//   Millrace-From           server/group/id of the sender, each percent-encoded
//   Millrace-Kind           send: only a confirmation is awaited; otherwise the reply subject awaits an answer
//   Millrace-Remaining-Ms   what is left of the sender's time
//   Nats-Service-Error, Nats-Service-Error-Code   a failure; the payload is its name, message, code and whether a
//                                                 handler has begun

import type { Msg, MsgHdrs } from '@nats-io/transport-node'
import { PeerError, RemoteError, type SendError } from '../../errors.ts'
import { remoteErrorOf, textOr } from '../pending-request.ts'
import { decode, type Encoded, encode } from './json.ts'

const FROM = 'Millrace-From'
const KIND = 'Millrace-Kind'
const REMAINING = 'Millrace-Remaining-Ms'
const TYPE = 'Content-Type'
const BYTES = 'application/octet-stream'
const ERROR = 'Nats-Service-Error'
const ERROR_CODE = 'Nats-Service-Error-Code'
const INTERNAL_ERROR = '500'
/** A year. */
const LONGEST_MS = 31_536_000_000
const UNPRINTABLE = /[^\x20-\x7e]/g

/** A worker of a cluster. */
interface Address {
  readonly server: string
  readonly group: string
  readonly id: number
}

/** More than all headers take but the sender's text, in bytes. */
export const HEADERS_BYTES = 160

/** What a worker says of itself. */
export function senderOf({ server, group, id }: Address): string {
  return [server, group, id].map(encodePart).join('/')
}

/** Every message's but an answer's. */
export function writeHead(headers: MsgHdrs, sender: string, isBytes: boolean, isOneWay: boolean): void {
  headers.set(FROM, sender)
  if (isBytes) writeBytes(headers)
  if (isOneWay) headers.set(KIND, 'send')
}

/** The payload is not JSON. */
export function writeBytes(headers: MsgHdrs): MsgHdrs {
  headers.set(TYPE, BYTES)
  return headers
}

/** @param remainingMs Infinity for no limit */
export function writeRemaining(headers: MsgHdrs, remainingMs: number): void {
  if (Number.isFinite(remainingMs)) headers.set(REMAINING, String(Math.max(1, Math.ceil(remainingMs))))
}

/** Half a surrogate pair has no encoding and becomes U+FFFD. */
function encodePart(part: string | number): string {
  return encodeURIComponent(Buffer.from(String(part)).toString())
}

/** A name as one token of a subject. */
export function encodeToken(name: string): string {
  return encodePart(name).replaceAll('.', '%2E').replaceAll('*', '%2A')
}

/** What a message says of its sender; empty if another kind of program has sent it. */
export function senderText({ headers }: Msg): string {
  return headers?.get(FROM) ?? ''
}

/** The same, read. Null for what we do not write. */
export function readSender(text: string): Address | null {
  const parts = text.split('/')
  if (parts.length !== 3) return null
  try {
    const [server = '', group = '', id] = parts.map(decodeURIComponent)
    return Number.isSafeInteger(Number(id)) ? { server, group, id: Number(id) } : null
  } catch (error) {
    if (error instanceof URIError) return null
    throw error
  }
}

export function isOneWay({ headers, reply }: Msg): boolean {
  return !reply || headers?.get(KIND) === 'send'
}

/** Infinity for no limit. */
export function remainingMsOf({ headers }: Msg): number {
  const remaining = Number(headers?.get(REMAINING))
  return remaining > 0 && remaining <= LONGEST_MS ? remaining : Number.POSITIVE_INFINITY
}

/** Throws ProtocolError. */
export function readMessage({ data, headers }: Msg): unknown {
  return decode(data, headers?.get(TYPE) === BYTES)
}

/** What a handler threw, or why it was not called, as an answer. */
export function writeFailure(headers: MsgHdrs, error: unknown, mayHaveBeenHandled: boolean): Encoded {
  const { name, message, code } = remoteErrorOf(error)
  headers.set(ERROR_CODE, INTERNAL_ERROR)
  headers.set(ERROR, message.replaceAll(UNPRINTABLE, '?'))
  return encode({ name, message, code, mayHaveBeenHandled })
}

export function isFailure({ headers }: Msg): boolean {
  return headers?.has(ERROR_CODE) ?? false
}

/** Other programs' failures have a description and a code only. */
export function readFailure(message: Msg): SendError {
  const { name, message: text, code, mayHaveBeenHandled } = failureIn(message)
  const description = textOr(text, message.headers?.get(ERROR) ?? '')
  if (mayHaveBeenHandled === false) return new PeerError(textOr(code, ''), description, false)
  return new RemoteError(textOr(name, 'Error'), description, textOr(code, message.headers?.get(ERROR_CODE) ?? ''))
}

function failureIn(message: Msg): Partial<Record<'name' | 'message' | 'code' | 'mayHaveBeenHandled', unknown>> {
  try {
    return Object(readMessage(message))
  } catch {
    return {} // another program's: its headers say what there is to say
  }
}
