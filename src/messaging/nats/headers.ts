// What the headers of a NATS message say. Other programs need none of them: without headers a message is JSON, from
// nobody one could write to. Errors use the headers of NATS's own services (ADR-32).
//
//   Content-Type            application/octet-stream if the payload is bytes; otherwise it is JSON
//   Millrace-From           server/group/id/process of the sender, each percent-encoded
//   Millrace-Kind           send: only a confirmation is awaited; otherwise the reply subject awaits an answer
//   Millrace-Remaining-Ms   what is left of the sender's time
//   Nats-Service-Error, Nats-Service-Error-Code   a failure; the payload is its name, message, code and whether a
//                                                 handler has begun

import type { Msg, MsgHdrs } from '@nats-io/transport-node'
import { messageOf, PeerError, ProtocolError, RemoteError, type SendError } from '../../errors.ts'
import { remoteErrorOf, textOr } from '../failures.ts'
import { decode, encode } from './json.ts'

const FROM = 'Millrace-From'
const KIND = 'Millrace-Kind'
const REMAINING = 'Millrace-Remaining-Ms'
const TYPE = 'Content-Type'
const BYTES = 'application/octet-stream'
const ERROR = 'Nats-Service-Error'
const ERROR_CODE = 'Nats-Service-Error-Code'
const INTERNAL_ERROR = '500'
const NO_RESPONDERS = 503
/** What is kept of an error, in characters. */
const LONGEST_DESCRIPTION = 200
const LONGEST_WORD = 64
const LONGEST_TEXT = 8192
/** A year. */
const LONGEST_MS = 31_536_000_000
const UNPRINTABLE = /[^\x20-\x7e]/g

/** Subjects have four names in them, and NATS ends a connection with a line of more than 4,096 bytes. */
export const LONGEST_NAME = 512

/** A process of a cluster. */
export interface Address {
  readonly server: string
  readonly group: string
  readonly id: number
  /** A worker has another one after a reload, and two of them during it. */
  readonly process: string
}

/** More than all headers take but the sender's text, in bytes. */
export const HEADERS_BYTES = 160

/** What a process says of itself. */
export function senderOf({ server, group, id, process }: Address): string {
  return [server, group, id, process].map(encodePart).join('/')
}

/**
 * Every message's but an answer's.
 * @param sender empty if nobody can write back
 */
export function writeHead(headers: MsgHdrs, sender: string, isBytes: boolean, isOneWay: boolean): void {
  if (sender !== '') headers.set(FROM, sender)
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
function encodeToken(name: string): string {
  return encodePart(name).replaceAll('.', '%2E').replaceAll('*', '%2A')
}

/** The subject of messages by name, which only the addressed worker answers; other subscribers may listen. */
export function workerSubject(
  cluster: string,
  kind: 'any' | 'all' | 'to',
  names: readonly (string | number)[],
): string {
  return ['millrace', encodeToken(cluster), kind, ...names.map((name) => encodeToken(`${name}`))].join('.')
}

/** Whether it is such a subject, of any cluster. */
export function isToWorkers(subject: string): boolean {
  return /^millrace\.[^.]+\.(?:any|all|to)\./.test(subject)
}

/** Whether it can be a part of a subject. */
export function isName(text: string): boolean {
  return text !== '' && text.length <= LONGEST_NAME && encodeToken(text).length <= LONGEST_NAME
}

/**
 * The headers of a message. NATS passes on what it does not understand, so they may be malformed: then the client
 * throws when they are first read. Throws ProtocolError.
 */
function headersOf(message: Msg): MsgHdrs | undefined {
  try {
    return message.headers
  } catch (cause) {
    throw new ProtocolError('ERR_BAD_HEADER', `bad headers: ${messageOf(cause)}`, { cause })
  }
}

/** What a message says of its sender; empty if another kind of program has sent it. Throws ProtocolError. */
export function senderText(message: Msg): string {
  return headersOf(message)?.get(FROM) ?? ''
}

/** The same, read. Null for what we do not write. */
export function readSender(text: string): Address | null {
  const parts = text.split('/')
  if (parts.length !== 4) return null
  try {
    const [server = '', group = '', id = '', process = ''] = parts.map(decodeURIComponent)
    const isRight = [server, group, process].every(isName) && /^\d{1,9}$/.test(id)
    return isRight ? { server, group, id: Number(id), process } : null
  } catch (error) {
    if (error instanceof URIError) return null
    throw error
  }
}

/** Throws ProtocolError. */
export function isOneWay(message: Msg): boolean {
  return !message.reply || headersOf(message)?.get(KIND) === 'send'
}

/** Whether NATS itself answers: nobody listens. Throws ProtocolError. */
export function isNobody(message: Msg): boolean {
  return headersOf(message)?.code === NO_RESPONDERS
}

/** Infinity for no limit. Throws ProtocolError. */
export function remainingMsOf(message: Msg): number {
  const remaining = Number(headersOf(message)?.get(REMAINING))
  return remaining > 0 && remaining <= LONGEST_MS ? remaining : Number.POSITIVE_INFINITY
}

/** Throws ProtocolError. */
export function readMessage(message: Msg): unknown {
  return decode(message.data, headersOf(message)?.get(TYPE) === BYTES)
}

/**
 * What a handler threw, or why it was not called, as an answer.
 * @param maxPayload limit of headers and payload, in bytes: a long message is cut
 */
export function writeFailure(
  headers: MsgHdrs,
  error: unknown,
  mayHaveBeenHandled: boolean,
  maxPayload: number,
): Uint8Array {
  const { name, message, code } = remoteErrorOf(error)
  const longest = Math.min(LONGEST_TEXT, Math.floor(maxPayload / 10)) // a character may take six bytes
  headers.set(ERROR_CODE, INTERNAL_ERROR)
  headers.set(ERROR, message.slice(0, LONGEST_DESCRIPTION).replaceAll(UNPRINTABLE, '?'))
  const [cutName, cutCode] = [name, code].map((word) => word.slice(0, LONGEST_WORD))
  return encode({ name: cutName, message: message.slice(0, longest), code: cutCode, mayHaveBeenHandled }).payload
}

/** Throws ProtocolError. */
export function isFailure(message: Msg): boolean {
  return headersOf(message)?.has(ERROR_CODE) ?? false
}

/** Other programs' failures have a description and a code only. */
export function readFailure(message: Msg): SendError {
  const { name, message: text, code, mayHaveBeenHandled } = failureIn(message)
  const headers = headersOf(message)
  const description = textOr(text, headers?.get(ERROR) ?? '')
  if (mayHaveBeenHandled === false) return new PeerError(textOr(code, ''), description, false)
  return new RemoteError(textOr(name, 'Error'), description, textOr(code, headers?.get(ERROR_CODE) ?? ''))
}

function failureIn(message: Msg): Partial<Record<'name' | 'message' | 'code' | 'mayHaveBeenHandled', unknown>> {
  try {
    return Object(readMessage(message))
  } catch {
    return {} // another program's: its headers say what there is to say
  }
}
