// permessage-deflate (RFC 7692): the negotiation, strict both ways, and whole messages in and out of zlib. Every message
// stands alone (no context takeover on either side): zlib's state would cost some 300 KiB a connection, and plain Node
// has no synchronous inflate that keeps one. What inflates beyond the limit is refused while it inflates.

import { constants, deflateRawSync, inflateRawSync } from 'node:zlib'
import { ProtocolError } from '../../src/errors.ts'
import { isToken } from '../http/head.ts'

export interface CompressionSettings {
  /** Bytes below which a message is sent as it is. Default 1,024: less does not get smaller by more than it costs. */
  readonly threshold?: number
  /** zlib's, 1 to 9. Default 3: most of the gain for a third of the time. */
  readonly level?: number
}

/** What both sides have agreed on. */
export interface Agreement {
  /** Of the window that we compress with. */
  readonly windowBits: number
}

const NAME = 'permessage-deflate'
/** The end of what every message ends in, and is sent without (RFC 7692 section 7.2.1). */
const TAIL = Buffer.from([0x00, 0x00, 0xff, 0xff])

interface Extension {
  readonly name: string
  readonly parameters: ReadonlyMap<string, string | true>
}

/** RFC 6455 section 9.1; null for what is none, or names a parameter twice. */
function parseExtensions(field: string): Extension[] | null {
  const extensions: Extension[] = []
  for (const item of splitQuoted(field, ',')) {
    const [name = '', ...rest] = splitQuoted(item, ';').map((part) => part.trim())
    if (!isToken(name)) return null
    const parameters = new Map<string, string | true>()
    for (const part of rest) {
      const [, key, value] = /^([^\s=]+)(?:\s*=\s*(.+))?$/.exec(part) ?? []
      const bare = value?.startsWith('"') ? /^"([^"\\]*)"$/.exec(value)?.[1] : value
      if (key === undefined || !isToken(key) || parameters.has(key)) return null
      if (value !== undefined && (bare === undefined || !isToken(bare))) return null
      parameters.set(key, bare ?? true)
    }
    extensions.push({ name, parameters })
  }
  return extensions
}

function splitQuoted(text: string, separator: ',' | ';'): string[] {
  return text.match(separator === ',' ? /(?:[^,"]|"[^"]*"?)+/g : /(?:[^;"]|"[^"]*"?)+/g) ?? []
}

/** A server's answer to offers: the first that it can take; null for none. */
export function accept(offers: string): { readonly answer: string; readonly agreement: Agreement } | null {
  for (const { name, parameters } of parseExtensions(offers) ?? []) {
    if (name !== NAME) continue
    const windowBits = windowOf(parameters)
    if (windowBits === null) continue
    const bits = parameters.has('server_max_window_bits') ? `; server_max_window_bits=${windowBits}` : ''
    return {
      answer: `${NAME}; server_no_context_takeover; client_no_context_takeover${bits}`,
      agreement: { windowBits },
    }
  }
  return null
}

/** Null for an offer that has to be declined (RFC 7692 section 7.1). */
function windowOf(parameters: Extension['parameters']): number | null {
  let windowBits = 15
  for (const [key, value] of parameters) {
    if (key === 'server_max_window_bits') {
      if (!isBits(value)) return null
      windowBits = Number(value)
    } else if (key === 'client_max_window_bits') {
      if (value !== true && !isBits(value)) return null
    } else if (!/^(?:server|client)_no_context_takeover$/.test(key) || value !== true) return null
  }
  return windowBits
}

export const OFFER = `${NAME}; server_no_context_takeover; client_no_context_takeover`

/** What a client makes of the answer to OFFER. Throws ProtocolError for one that it did not ask for. */
export function agreed(answer: string): Agreement {
  const [extension, ...more] = parseExtensions(answer) ?? []
  if (extension === undefined || more.length > 0 || extension.name !== NAME) throw unasked(answer)
  const { parameters } = extension
  if (parameters.get('server_no_context_takeover') !== true) throw unasked(answer)
  for (const [key, value] of parameters) {
    if (
      key === 'server_max_window_bits'
        ? !isBits(value)
        : value !== true || !/^(?:server|client)_no_context_takeover$/.test(key)
    )
      throw unasked(answer)
  }
  return { windowBits: 15 }
}

function isBits(value: string | true | undefined): boolean {
  return typeof value === 'string' && /^(?:[89]|1[0-5])$/.test(value)
}

/** zlib knows no raw window of 8 bits; one of 9 looks back 250 bytes at most, which fits into 8. */
export function deflate(payload: string | Uint8Array, { windowBits }: Agreement, level: number): Buffer {
  const bytes = deflateRawSync(payload, {
    windowBits: Math.max(9, windowBits),
    level,
    finishFlush: constants.Z_SYNC_FLUSH,
  })
  return bytes.subarray(0, bytes.length - TAIL.length)
}

/** Throws ProtocolError: 1009 when it gets too long, 1007 for what is no deflate. */
export function inflate(payload: Buffer, limit: number): Buffer {
  try {
    const bytes = Buffer.concat([payload, TAIL])
    return inflateRawSync(bytes, { maxOutputLength: Math.max(1, limit), finishFlush: constants.Z_SYNC_FLUSH })
  } catch (error) {
    if (error instanceof RangeError)
      throw new ProtocolError('ERR_MESSAGE_TOO_LARGE', `a message inflates to more than ${limit} bytes`, {
        closeCode: 1009,
      })
    throw new ProtocolError('ERR_BAD_DEFLATE', 'a compressed message that is none', { closeCode: 1007 })
  }
}

function unasked(answer: string): ProtocolError {
  return new ProtocolError('ERR_BAD_HANDSHAKE', `the server wants extensions that were not offered: ${answer}`)
}
