// What is said when something goes wrong in an HTTP connection: to a sender, a client, or whoever reads a body.

import { AbortError, messageOf, ProtocolError, propertyOf, UsageError } from '../../src/errors.ts'
import type { Exchange } from './exchange.ts'
import { REASONS } from './response.ts'

export function noRequest(): UsageError {
  return new UsageError('ERR_NO_REQUEST', 'there is no request to answer: each has one answer')
}

/** Answers with what a handler has thrown. */
export function refuseFor(error: unknown, exchange: Exchange): void {
  const status = statusOf(error)
  exchange.refuse(status, status === 500 ? 'a handler failed' : messageOf(error))
}

/** The status for anything that a handler has thrown: the error status it names, otherwise 500. */
function statusOf(thrown: unknown): number {
  const statusHint = propertyOf(thrown, 'statusHint')
  return Number.isInteger(statusHint) && Number(statusHint) >= 400 && Number(statusHint) <= 599
    ? Number(statusHint)
    : 500
}

/** A function in the settings threw: the client is told that it is not at fault. */
export function oursFailed(cause: unknown): ProtocolError {
  return new ProtocolError('ERR_HTTP', `a setting of http failed: ${cause}`, { statusHint: 500, cause })
}

export function gone(): AbortError {
  return new AbortError('ERR_CONNECTION_CLOSED', 'the client has gone before its request was whole')
}

/** The answer to a head that is refused. HEAD gets no body, but its length. */
export function headRefusal(status: number, message: string, isHead: boolean, date: string) {
  const said = `${status} ${REASONS[status] ?? ''}`
  const text = `${said}: ${message}\n`
  const body = isHead ? '' : text
  const lines = `Content-Type: text/plain; charset=utf-8\r\nDate: ${date}\r\nContent-Length: ${Buffer.byteLength(text)}\r\n`
  return { bytes: `HTTP/1.1 ${said}\r\n${lines}Connection: close\r\n\r\n${body}`, bodyBytes: Buffer.byteLength(body) }
}
