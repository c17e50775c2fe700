// permessage-deflate (RFC 7692): the negotiation, strict both ways, and whole messages in and out of zlib. What compresses
// is a `DeflateEngine`. The one here is plain Node's: every message stands alone (no context takeover on either side), since
// Node has no synchronous zlib that keeps its window. What inflates beyond the limit is refused while it inflates.

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
  /** Of the window that we compress with, 8 to 15. The peer may use one of 15. */
  readonly windowBits: number
  /** Our messages may look back on those before. */
  readonly hasTakeover: boolean
  /** The peer's may. */
  readonly peerHasTakeover: boolean
}

/** The compression of one connection. */
export interface DeflateContext {
  readonly agreement: Agreement
  /** A message's payload on the wire, without the tail that all have (RFC 7692 section 7.2.1). */
  compress(payload: string | Uint8Array): Buffer
  /** Throws ProtocolError: 1009 as soon as it gets longer than `limit` bytes, 1007 for what is no whole deflate. */
  inflate(payload: Buffer, limit: number): Buffer
  /** The peer is sent a message that this has not compressed: the next one must not look back beyond it. */
  forget(): void
  /** The last call. */
  close(): void
}

/** What makes them: plain Node's below, or native code that keeps its windows. */
export interface DeflateEngine {
  /** Its contexts can look back on earlier messages: the other side is not asked to do without. */
  readonly hasTakeover: boolean
  readonly open: (agreement: Agreement, level: number) => DeflateContext
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
    if (item === '') continue // a list may have holes (RFC 9110 section 5.6.1), parameters may not
    const [name = '', ...rest] = splitQuoted(item, ';')
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
  const parts: string[] = []
  let start = 0
  let isQuoted = false
  for (let at = 0; at < text.length; at++) {
    if (text[at] === '"') isQuoted = !isQuoted
    if (text[at] !== separator || isQuoted) continue
    parts.push(text.slice(start, at).trim())
    start = at + 1
  }
  return [...parts, text.slice(start).trim()]
}

/** A server's answer to offers: the first that it can take; null for none. */
export function accept(
  offers: string,
  canTakeover: boolean,
): { readonly answer: string; readonly agreement: Agreement } | null {
  for (const { name, parameters } of parseExtensions(offers) ?? []) {
    const windowBits = name === NAME ? windowOf(parameters) : null
    if (windowBits === null) continue
    const agreement = {
      windowBits,
      hasTakeover: canTakeover && !parameters.has(OURS),
      peerHasTakeover: canTakeover && !parameters.has(THEIRS),
    }
    const bits = parameters.has('server_max_window_bits') ? `; server_max_window_bits=${windowBits}` : ''
    return { answer: `${NAME}${without(agreement.hasTakeover, agreement.peerHasTakeover)}${bits}`, agreement }
  }
  return null
}

/** Of a server. */
const OURS = 'server_no_context_takeover'
const THEIRS = 'client_no_context_takeover'

function without(server: boolean, client: boolean): string {
  return `${server ? '' : `; ${OURS}`}${client ? '' : `; ${THEIRS}`}`
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
    } else if ((key !== OURS && key !== THEIRS) || value !== true) return null
  }
  return windowBits
}

/** A client's. */
export function offerOf(canTakeover: boolean): string {
  return `${NAME}${without(canTakeover, canTakeover)}`
}

/** What a client makes of the answer to its offer. Throws ProtocolError for one that it did not ask for. */
export function agreed(answer: string, canTakeover: boolean): Agreement {
  const [extension, ...more] = parseExtensions(answer) ?? []
  if (extension === undefined || more.length > 0 || extension.name !== NAME) throw unasked(answer)
  const { parameters } = extension
  for (const [key, value] of parameters) {
    const isKnown =
      key === 'server_max_window_bits' ? isBits(value) : (key === OURS || key === THEIRS) && value === true
    if (!isKnown) throw unasked(answer)
  }
  if (!canTakeover && !parameters.has(OURS)) throw unasked(answer) // we could not read it
  return {
    windowBits: 15,
    hasTakeover: canTakeover && !parameters.has(THEIRS),
    peerHasTakeover: !parameters.has(OURS),
  }
}

function isBits(value: string | true | undefined): boolean {
  return typeof value === 'string' && /^(?:[89]|1[0-5])$/.test(value)
}

/** Plain Node's. Takeover would take asynchronous zlib streams, of some 300 KiB a connection. */
export const plainDeflate: DeflateEngine = {
  hasTakeover: false,
  open: (agreement, level) => ({
    agreement,
    compress: (payload) => deflate(payload, agreement.windowBits, level),
    inflate,
    forget: nothing,
    close: nothing,
  }),
}

function nothing(): void {
  // Every message stands alone.
}

/** zlib knows no raw window of 8 bits; one of 9 looks back 250 bytes at most, which fits into 8. */
function deflate(payload: string | Uint8Array, windowBits: number, level: number): Buffer {
  const bytes = deflateRawSync(payload, {
    windowBits: Math.max(9, windowBits),
    level,
    finishFlush: constants.Z_SYNC_FLUSH,
  })
  return bytes.subarray(0, bytes.length - TAIL.length)
}

/** The tail that was left out, and an empty last block: so zlib says when a message ends in the middle of something. */
const END = Buffer.concat([TAIL, Buffer.from([0x03, 0x00])])

function inflate(payload: Buffer, limit: number): Buffer {
  if (payload.length === 0) return payload // no block at all: some send an empty message so
  const bytes = Buffer.concat([payload, END])
  try {
    const { buffer, engine } = inflateRawSync(bytes, {
      maxOutputLength: Math.max(1, limit),
      info: true,
    }) as unknown as {
      buffer: Buffer
      engine: { bytesWritten: number }
    }
    if (isAllOf(bytes, engine.bytesWritten)) return buffer
  } catch (error) {
    if (error instanceof RangeError)
      throw new ProtocolError('ERR_MESSAGE_TOO_LARGE', `a message inflates to more than ${limit} bytes`, {
        closeCode: 1009,
      })
  }
  throw new ProtocolError('ERR_BAD_DEFLATE', 'a compressed message that is none', { closeCode: 1007 })
}

/** Behind a last block of the peer's own there is an empty one, and nothing else (RFC 7692 section 7.2.3.4). */
function isAllOf(bytes: Buffer, used: number): boolean {
  return used === bytes.length || (used === bytes.length - END.length - 1 && bytes[used] === 0)
}

function unasked(answer: string): ProtocolError {
  return new ProtocolError('ERR_BAD_HANDSHAKE', `the server wants extensions that were not offered: ${answer}`)
}
