// permessage-deflate (RFC 7692): the negotiation, strict in both directions, and whole messages in and out of zlib. A
// `DeflateEngine` does the compression. The one in this file uses plain Node: every message stands alone (no context
// takeover on either side), since Node has no synchronous zlib that keeps its window; the other engine is in
// takeover.ts. A message over the limit is refused while it inflates.

import { MAX_BUFFER_BYTES, zlib } from '../../src/builtins.ts'
import { ProtocolError } from '../../src/errors.ts'
import { nothing } from '../../src/nothing.ts'
import { Accumulator } from '../../src/protocol/accumulator.ts'
import { isToken } from '../http/fields.ts'

/** What `compression` takes. Wrong values are ERR_BAD_COMPRESSION. */
export interface CompressionSettings {
  /**
   * Messages of fewer bytes are sent uncompressed: they would not shrink by more than compressing costs. Default 1,024,
   * or 64 where messages may refer to earlier ones.
   */
  readonly threshold?: number
  /** zlib's level, 1 to 9. Default 3: most of the gain for a third of the time. */
  readonly level?: number
  /**
   * Size of the windows kept from message to message (with the addon): messages refer back up to 2 ** `windowBits`
   * bytes, 9 to 15. Default 12: 96 KiB to compress and 13 KiB to inflate, where 15 takes 278 and 41.
   */
  readonly windowBits?: number
  /**
   * How many connections of a process have windows of their own. Default 1,000. When more compress, the one unused for
   * longest starts over; clients beyond that number are asked to do without. 0 means no windows at all.
   */
  readonly maxContexts?: number
}

/** Settings with their defaults; the default of `threshold` depends on what is negotiated. */
export interface CompressionChoice extends Required<Omit<CompressionSettings, 'threshold'>> {
  readonly threshold: number | null
}

/** What we would agree to. */
export interface Terms {
  /** Our messages may refer to earlier ones. */
  readonly hasTakeover: boolean
  /** The peer's messages may. */
  readonly peerHasTakeover: boolean
  /** The largest window the peer is asked to use, if it can be asked. */
  readonly peerWindowBits: number
}

/** What both sides have agreed on. */
export interface Agreement extends Terms {
  /** Bits of the window that we may compress with, 8 to 15. */
  readonly windowBits: number
}

/** The compression of one connection. */
export interface DeflateContext {
  readonly agreement: Agreement
  /** A message's payload on the wire, without the tail common to all messages (RFC 7692 section 7.2.1). */
  compress(payload: string | Uint8Array): Buffer
  /**
   * Confirms that the compressed message was queued. Without this call it may have been refused, so the next one does
   * not refer to it.
   */
  sent(): void
  /**
   * Inflates part of a message; output may come only with the last part. Throws ProtocolError: 1009 as soon as the
   * output exceeds `room` bytes, 1007 for data that is not a complete deflate stream.
   */
  inflate(part: Buffer, isLast: boolean, room: number): Buffer
  /** Called when the peer is sent a message not compressed here: the next one must not refer back beyond it. */
  forget(): void
  /** Called from time to time: frees what has not been used since the last call. */
  rest(): void
  /** Releases everything; the last call. */
  close(): void
}

/** Makes contexts: plain Node's below, or native code that keeps its windows. */
export interface DeflateEngine {
  /** For the next connection. */
  readonly terms: Terms
  open(agreement: Agreement): DeflateContext
  /** Compresses a message that refers to no other. */
  compressAlone(payload: string | Uint8Array, windowBits: number): Buffer
}

const NAME = 'permessage-deflate'
/** The last bytes of every compressed message, which are not sent (RFC 7692 section 7.2.1). */
const TAIL = Buffer.from([0x00, 0x00, 0xff, 0xff])
const NO_BYTES = Buffer.alloc(0)

interface Extension {
  readonly name: string
  readonly parameters: ReadonlyMap<string, string | true>
}

/** RFC 6455 section 9.1; null if malformed, or if a parameter occurs twice. */
function parseExtensions(field: string): Extension[] | null {
  const extensions: Extension[] = []
  for (const item of splitQuoted(field, ',')) {
    if (item === '') continue // a list may have empty elements (RFC 9110 section 5.6.1), parameters may not
    const [name = '', ...rest] = splitQuoted(item, ';')
    const parameters = parseParameters(rest)
    if (!isToken(name) || parameters === null) return null
    extensions.push({ name, parameters })
  }
  return extensions
}

function parseParameters(parts: readonly string[]): Extension['parameters'] | null {
  const parameters = new Map<string, string | true>()
  for (const part of parts) {
    const [, key, value] = /^([^\s=]+)(?:\s*=\s*(.+))?$/.exec(part) ?? []
    const bare = value?.startsWith('"') ? /^"([^"\\]*)"$/.exec(value)?.[1] : value
    if (key === undefined || !isToken(key) || parameters.has(key)) return null
    if (value !== undefined && (bare === undefined || !isToken(bare))) return null
    parameters.set(key, bare ?? true)
  }
  return parameters
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

/** A server's answer to offers: accepts the first that it can; null if there is none. */
export function accept(
  offers: string,
  terms: Terms,
): { readonly answer: string; readonly agreement: Agreement } | null {
  for (const { name, parameters } of parseExtensions(offers) ?? []) {
    const windowBits = name === NAME ? windowOf(parameters) : null
    if (windowBits === null) continue
    const hasTakeover = terms.hasTakeover && !parameters.has(OURS)
    const peerHasTakeover = terms.peerHasTakeover && !parameters.has(THEIRS)
    const peerWindowBits = peerHasTakeover ? peerWindowOf(parameters, terms) : 15
    let answer = NAME + without(hasTakeover, peerHasTakeover)
    if (parameters.has('server_max_window_bits')) answer += `; server_max_window_bits=${windowBits}`
    if (peerWindowBits < 15) answer += `; client_max_window_bits=${peerWindowBits}`
    return { answer, agreement: { windowBits, hasTakeover, peerHasTakeover, peerWindowBits } }
  }
  return null
}

/** From the server's point of view. */
const OURS = 'server_no_context_takeover'
const THEIRS = 'client_no_context_takeover'

function without(server: boolean, client: boolean): string {
  return `${server ? '' : `; ${OURS}`}${client ? '' : `; ${THEIRS}`}`
}

/** Null for an offer that must be declined (RFC 7692 section 7.1). */
function windowOf(parameters: Extension['parameters']): number | null {
  for (const [key, value] of parameters) if (!OFFERS.get(key)?.(value)) return null
  return Number(parameters.get('server_max_window_bits') ?? 15)
}

/** The parameters an offer may have, with their valid values. */
const OFFERS = new Map<string, (value: string | true) => boolean>([
  [OURS, isFlag],
  [THEIRS, isFlag],
  ['server_max_window_bits', isBits],
  ['client_max_window_bits', (value) => value === true || isBits(value)],
])

function isFlag(value: string | true): boolean {
  return value === true
}

/** Only a client that offers the parameter may be sent it (RFC 7692 section 7.1.2.2). */
function peerWindowOf(parameters: Extension['parameters'], { peerWindowBits }: Terms): number {
  const offered = parameters.get('client_max_window_bits')
  if (offered === undefined) return 15
  return offered === true ? peerWindowBits : Math.min(Number(offered), peerWindowBits)
}

/** A client's offer. It lets the server limit our window, since some servers refuse clients that do not allow it. */
export function offerOf({ hasTakeover, peerHasTakeover }: Terms): string {
  return `${NAME}${without(peerHasTakeover, hasTakeover)}; client_max_window_bits`
}

/** A client's reading of the answer to its offer. Throws ProtocolError if it contains anything that was not offered. */
export function agreed(answer: string, terms: Terms): Agreement {
  const [extension, ...more] = parseExtensions(answer) ?? []
  if (extension === undefined || more.length > 0 || extension.name !== NAME) throw unasked(answer)
  const { parameters } = extension
  for (const [key, value] of parameters) {
    const isKnown =
      key === OURS || key === THEIRS ? value === true : /^(?:server|client)_max_window_bits$/.test(key) && isBits(value)
    if (!isKnown) throw unasked(answer)
  }
  if (!terms.peerHasTakeover && !parameters.has(OURS)) throw unasked(answer) // such messages could not be inflated
  return {
    windowBits: Number(parameters.get('client_max_window_bits') ?? 15),
    hasTakeover: terms.hasTakeover && !parameters.has(THEIRS),
    peerHasTakeover: !parameters.has(OURS),
    peerWindowBits: Number(parameters.get('server_max_window_bits') ?? 15),
  }
}

function isBits(value: string | true | undefined): boolean {
  return typeof value === 'string' && /^(?:[89]|1[0-5])$/.test(value)
}

/** Plain Node's engine. Context takeover would need asynchronous zlib streams, about 300 KiB per connection. */
export function plainDeflate({ level }: Pick<CompressionChoice, 'level'>): DeflateEngine {
  const compressAlone = (payload: string | Uint8Array, windowBits: number) => deflate(payload, windowBits, level)
  return {
    terms: { hasTakeover: false, peerHasTakeover: false, peerWindowBits: 15 },
    compressAlone,
    open: (agreement) => ({
      agreement,
      compress: (payload) => compressAlone(payload, agreement.windowBits),
      inflate: inflateWhole(),
      // Every message stands alone.
      sent: nothing,
      forget: nothing,
      rest: nothing,
      close: nothing,
    }),
  }
}

/** Node's synchronous zlib does not inflate in parts: they are kept until the last. */
function inflateWhole(): DeflateContext['inflate'] {
  let parts: Accumulator | null = null
  return (part, isLast, room) => {
    if (isLast && parts === null) return inflate(part, room)
    parts ??= new Accumulator()
    parts.append(part)
    if (!isLast) return NO_BYTES
    const whole = parts.take()
    parts = null
    return inflate(whole, room)
  }
}

/** zlib has no raw window of 8 bits; a 9-bit one refers back at most 250 bytes, which fits into 8. */
function deflate(payload: string | Uint8Array, windowBits: number, level: number): Buffer {
  const bytes = zlib().deflateRawSync(payload, {
    windowBits: Math.max(9, windowBits),
    level,
    finishFlush: zlib().constants.Z_SYNC_FLUSH,
  })
  return bytes.subarray(0, bytes.length - TAIL.length)
}

/**
 * The tail that was left out and an empty last block, so that zlib notices a message cut off in the middle. The block
 * is an uncompressed one: a truncated code could continue into `03 00` and find its end there.
 */
const END = Buffer.concat([TAIL, Buffer.from([0x01]), TAIL])

/** `limit`: any number. zlib takes none above the length of the longest Buffer. */
function inflate(payload: Buffer, limit: number): Buffer {
  if (payload.length === 0) return payload // no block at all: some peers send an empty message like this
  const bytes = Buffer.concat([payload, END])
  try {
    const { buffer, engine } = zlib().inflateRawSync(bytes, {
      maxOutputLength: Math.min(Math.max(1, limit), MAX_BUFFER_BYTES),
      info: true,
    }) as unknown as {
      buffer: Buffer
      engine: { bytesWritten: number }
    }
    if (isAllOf(bytes, engine.bytesWritten)) return buffer
  } catch (error) {
    if (error instanceof RangeError) throw inflatesTooMuch() // over the limit, or more than there is memory for
  }
  throw isNoDeflate()
}

export function inflatesTooMuch(): ProtocolError {
  return new ProtocolError('ERR_MESSAGE_TOO_LARGE', 'a message inflates to over the limit', { closeCode: 1009 })
}

export function isNoDeflate(): ProtocolError {
  return new ProtocolError('ERR_BAD_DEFLATE', 'a compressed message that is none', { closeCode: 1007 })
}

/** After a final block of the peer's own comes an empty one, and nothing else (RFC 7692 section 7.2.3.4). */
function isAllOf(bytes: Buffer, used: number): boolean {
  return used === bytes.length || (used === bytes.length - END.length - 1 && bytes[used] === 0)
}

function unasked(answer: string): ProtocolError {
  return new ProtocolError('ERR_BAD_HANDSHAKE', `the server wants extensions that were not offered: ${answer}`)
}
