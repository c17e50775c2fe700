// HTTP on a socket in memory: a server whose Date never changes, and its output split into answers.

import { HEAD_LIMITS, type HeadLimits, HeadParser, type RequestHead } from '../../protocols/http/head.ts'
import { type HttpProtocol, httpWith } from '../../protocols/http/http.ts'
import type { HttpServices, HttpSettings } from '../../protocols/http/settings.ts'
import { NEED_MORE } from '../../src/protocol.ts'
import { open, type Settings } from '../../src/testing.ts'

export const DATE = 'Tue, 24 Nov 2026 12:00:00 GMT'

const refuse = () => Promise.reject(new Error('not here'))

/** Services without a disk. */
export function services(own: Partial<HttpServices> = {}): HttpServices {
  return {
    date: () => DATE,
    wallClock: () => 1_795_521_600_000,
    openFile: refuse,
    readUploads: refuse,
    trusts: (proxies) => (ip) => proxies.includes(ip),
    accessLog: () => () => undefined,
    ...own,
  }
}

export function httpInMemory(settings: HttpSettings = {}, own: Partial<HttpServices> = {}): HttpProtocol {
  return httpWith(services(own))(settings)
}

/** Bytes (latin1) of a text in which `¶` stands for CRLF. */
export function wire(text: string): Buffer {
  return Buffer.from(text.replaceAll('¶', '\r\n'), 'latin1')
}

/** The bytes written as text, with `¶` for CRLF and without the Date. */
export function shown(bytes: Buffer): string {
  return bytes.toString('latin1').replaceAll('\r\n', '¶').replaceAll(`Date: ${DATE}¶`, '')
}

/** A connection whose handler answers with the request's method, path and body by default. */
export function serve(
  callbacks: Settings<unknown, unknown> = {},
  settings: HttpSettings = {},
  own: Partial<HttpServices> = {},
) {
  const onMessage = (connection: { send(message: unknown): unknown }, request: unknown) => {
    const { method, uri } = request as { method: string; uri: string; text(): string }
    return connection.send(`${method} ${uri} ${(request as { text(): string }).text()}`)
  }
  return open(httpInMemory(settings, own) as never, { onMessage, ...callbacks } as never)
}

/**
 * Parses a head at the first of `bytes`. Returns it and its length; null while incomplete. Throws like `HeadParser`.
 */
export function parseHead(
  bytes: Buffer,
  limits: HeadLimits = HEAD_LIMITS,
): { readonly head: RequestHead; readonly length: number } | null {
  const parser = new HeadParser(limits)
  const length = parser.parse(bytes)
  return length === NEED_MORE ? null : { head: parser.take(bytes), length }
}
