// Frames between processes of one server. The other end has authenticated (handshake.ts) but may run another version of
// the code, so what cannot be read is an error, never a crash.
//
//    0      4      5      6
//   +------+------+------+------------------------+
//   | size | kind | form | body, size - 2 bytes   |      size: uint32 little-endian, of everything after it
//   +------+------+------+------------------------+
//
// A body is a head, whose layout depends on the kind, followed by a value encoded as the form says.

import { type QuickBuffer, v8 } from '../builtins.ts'
import { deserialize } from '../deserialize.ts'
import { messageOf, ProtocolError, UsageError } from '../errors.ts'
import { uncloneableIn } from '../uncloneable.ts'
import { plainText } from './plain.ts'

export const enum Kind {
  // From either side, once: see handshake.ts
  Challenge = 1,
  Hello = 2,
  Welcome = 3,
  // From the connecting side. Message, Request and Publish are counted; answers refer to them by that number.
  /** `value` */
  Message = 16,
  /** `float64 expiresAt`, by the machine's clock (0: never), `value` */
  Request = 17,
  /**
   * `float64 expiresAt`, `uint8` flags, `uint8 queues`, then each queue and the subject as `uint16 length` and UTF-8,
   * `value`
   */
  Publish = 18,
  /** `uint48 number`: the answer is no longer awaited. */
  Cancel = 19,
  /** `uint48 number`, `uint32 items`: this many more items of a stream may be sent. */
  Credit = 20,
  /** No counted frame follows. */
  Last = 21,
  /** `uint48 change`: confirms an Interest. */
  Heard = 22,
  // From the accepting side
  /** `uint32 load`, then pairs of `uint48`: handled, from the first to the last number of each pair. */
  Handled = 32,
  /** `uint48 number`, `value`: handled, with this answer. */
  Answer = 33,
  /** `uint48 number`, `uint8 wasHandled`, `value`: an error. */
  Failure = 34,
  /** `uint48 number`: the answer is a stream. */
  Stream = 35,
  /** `uint48 number`, `value` */
  Item = 36,
  /** `uint48 number`: end of a stream. */
  End = 37,
  /** Send nothing more but what is for all: this process is leaving, and serves clients as long as it has some. */
  Leaving = 38,
  /** After `Last`: everything before it has started. */
  Begun = 39,
  /** `uint48 change`, `value`: a change of this process's subscriptions. */
  Interest = 40,
  /** Send nothing more if you can help it: this process is leaving, and serves nobody. */
  Silence = 41,
}

export type CountedKind = Kind.Message | Kind.Request | Kind.Publish

/** Flags of a Publish: whether subscribers without a queue receive it, and whether an answer is wanted. */
export const enum Flag {
  ForAll = 1,
  Asks = 2,
}

/** How a value is encoded. */
export const enum Form {
  Undefined = 0,
  Null = 1,
  False = 2,
  True = 3,
  /** float64 little-endian */
  Number = 4,
  Ascii = 5,
  Utf8 = 6,
  /** Bytes, as a Buffer. */
  Buffer = 7,
  /** Bytes, as a Uint8Array. */
  Bytes = 8,
  /** v8.serialize */
  Value = 9,
  /** Text with unpaired surrogates, which UTF-8 cannot represent. */
  Utf16 = 10,
  /** JSON in UTF-8, for values it represents exactly (plain.ts). */
  Json = 11,
}

/** Size, kind and form. */
export const HEAD_BYTES = 6
/** Of the size that a frame begins with. */
export const SIZE_BYTES = 4
/** Allowance for the head and whatever else a frame contains besides its value. */
export const SLACK_BYTES = 65_536
export const NUMBER_BYTES = 6
export const TIME_BYTES = 8
const WORD = 2 ** 32

/** Reads a uint48 whose bytes are all there. Node's own method takes five times as long, for its checks. */
export function numberAt(bytes: Uint8Array, at: number): number {
  const high = (bytes[at + 4] as number) | ((bytes[at + 5] as number) << 8)
  return uint32At(bytes, at) + high * WORD
}

export function uint32At(bytes: Uint8Array, at: number): number {
  const low = (bytes[at] as number) | ((bytes[at + 1] as number) << 8) | ((bytes[at + 2] as number) << 16)
  return low + (bytes[at + 3] as number) * 0x1000000
}

export function putNumber(bytes: Uint8Array, at: number, value: number): void {
  const high = value < WORD ? 0 : Math.floor(value / WORD)
  putUint32(bytes, at, value)
  bytes[at + 4] = high
  bytes[at + 5] = high >>> 8
}

/** Writes a uint32; of a larger number the low four bytes. */
export function putUint32(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value
  bytes[at + 1] = value >>> 8
  bytes[at + 2] = value >>> 16
  bytes[at + 3] = value >>> 24
}

/** An encoded value on its own: for messages that wait or go to many. */
export class Packed {
  readonly form: Form
  readonly bytes: Uint8Array

  constructor(form: Form, bytes: Uint8Array) {
    this.form = form
    this.bytes = bytes
  }
}

const NOTHING = new Uint8Array(0)
const SMALL_FORMS: readonly unknown[] = [undefined, null, false, true]

/** A small plain object as JSON. All messages share one instance: it is written before the next is encoded. */
export class PlainJson {
  text = ''
}

const json = new PlainJson()

/**
 * Turns a value into one that can be written without running any code of the caller's: an object becomes JSON or
 * `Packed`, all else stays as it is. Done before the frame begins, since a getter may send something itself. Throws
 * UsageError for what cannot be cloned.
 */
export function encoded(value: unknown): unknown {
  const type = typeof value
  if (type === 'string' || type === 'number' || type === 'boolean' || value === undefined || value === null)
    return value
  if (isPlainBytes(value) && !isDetached(value)) return value
  if (value instanceof Packed || value instanceof PlainJson) return value
  const text = typeof value === 'object' ? plainText(value) : null
  if (text === null) return new Packed(Form.Value, serialized(value))
  json.text = text
  return json
}

/** Encodes a value. The result shares nothing with it. Throws UsageError for what cannot be cloned. */
export function pack(given: unknown): Packed {
  const value = encoded(given)
  if (value instanceof Packed) return value
  if (value instanceof PlainJson) return new Packed(Form.Json, Buffer.from(value.text))
  if (typeof value === 'string') return packText(value)
  if (isPlainBytes(value)) return new Packed(bytesForm(value), Uint8Array.prototype.slice.call(value))
  if (typeof value !== 'number') return new Packed(SMALL_FORMS.indexOf(value), NOTHING)
  const bytes = Buffer.allocUnsafe(8)
  bytes.writeDoubleLE(value)
  return new Packed(Form.Number, bytes)
}

function packText(text: string): Packed {
  const bytes = Buffer.from(text)
  if (bytes.length === text.length) return new Packed(Form.Ascii, bytes)
  return isWellFormed(text) ? new Packed(Form.Utf8, bytes) : new Packed(Form.Utf16, Buffer.from(text, 'utf16le'))
}

/** Available since Node 20, but typed only from ES2024 on. */
export function isWellFormed(text: string): boolean {
  return (text as string & { isWellFormed(): boolean }).isWellFormed()
}

/** Plain bytes only: a subclass gets whatever v8 makes of it. */
export function isPlainBytes(value: unknown): value is Uint8Array {
  if (!ArrayBuffer.isView(value)) return false // false for a Proxy, unlike instanceof
  const prototype = Object.getPrototypeOf(value)
  return prototype === Buffer.prototype || prototype === Uint8Array.prototype
}

/** Whether its memory was transferred away. `buffer.detached` exists since Node 21. */
export function isDetached({ length, buffer }: Uint8Array): boolean {
  if (length > 0) return false
  try {
    void new Uint8Array(buffer)
    return false
  } catch {
    return true // TypeError
  }
}

export function bytesForm(bytes: Uint8Array): Form {
  return Buffer.isBuffer(bytes) ? Form.Buffer : Form.Bytes
}

/** Throws UsageError. */
function serialized(value: unknown): Buffer {
  let bytes: Buffer
  try {
    bytes = v8().serialize(value)
  } catch (cause) {
    throw uncloneable(messageOf(cause), { cause })
  }
  const flaw = uncloneableIn(value)
  if (flaw !== null) throw uncloneable(flaw)
  return bytes
}

function uncloneable(why: string, options?: ErrorOptions): UsageError {
  return new UsageError('ERR_CANNOT_CLONE', `this cannot be sent to another process: ${why}`, options)
}

/**
 * Decodes the value in `bytes` from `start` to `end`; the result shares nothing with them. Throws ProtocolError; for a
 * value that this process cannot read it `isUnreadable`, since that is not the peer's fault.
 */
export function unpack(form: Form, bytes: Buffer, start: number, end: number): unknown {
  if (form === Form.Ascii) return asciiAt(bytes, start, end)
  if (form === Form.Utf8) return (bytes as QuickBuffer).utf8Slice(start, end)
  if (form === Form.Number && end - start === 8) return bytes.readDoubleLE(start)
  if (form === Form.Json) return parsed((bytes as QuickBuffer).utf8Slice(start, end))
  if (form < SMALL_FORMS.length) return SMALL_FORMS[form]
  if (form === Form.Buffer) return copyOf(bytes, start, end)
  if (form === Form.Bytes) return new Uint8Array(bytes.subarray(start, end)) // not slice(): a Buffer's returns a Buffer
  if (form === Form.Utf16) return bytes.toString('utf16le', start, end)
  if (form === Form.Value) return deserialized(bytes.subarray(start, end))
  throw new ProtocolError('ERR_MESH_FRAME', `a value of form ${form}`)
}

/** The value as its receiver would see it. Throws ProtocolError. */
export function cloneOf({ form, bytes }: Packed): unknown {
  return unpack(form, Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength), 0, bytes.byteLength)
}

/** Longest passage, in bytes. A slice of it that is kept keeps all of it. */
const PASSAGE_BYTES = 1024
/** V8 copies shorter ones instead of slicing. */
const SHORTEST_SLICE = 13

/** To be called when the buffer may hold other bytes than before. */
export function forgetPassage(): void {
  passageOf = null
}

/**
 * Part of a read as one string, of which short texts are slices: reading each by itself is a call into V8, five times
 * as expensive.
 */
let passage = ''
let passageStart = 0
let passageOf: Buffer | null = null

function asciiAt(bytes: Buffer, start: number, end: number): string {
  const length = end - start
  const isShort = length >= SHORTEST_SLICE && length <= PASSAGE_BYTES / 4
  if (passageOf !== bytes || start < passageStart || end > passageStart + passage.length) {
    if (!isShort || bytes.length - end < length) return (bytes as QuickBuffer).latin1Slice(start, end)
    passageOf = bytes
    passageStart = start
    passage = (bytes as QuickBuffer).latin1Slice(start, Math.min(bytes.length, start + PASSAGE_BYTES))
  }
  return passage.slice(start - passageStart, end - passageStart)
}

/** Copies into memory of its own, not into the pool: `.buffer` must not show other bytes. */
function copyOf(bytes: Buffer, start: number, end: number): Buffer {
  const copy = Buffer.allocUnsafeSlow(end - start)
  bytes.copy(copy, 0, start, end)
  return copy
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch (cause) {
    throw unreadable(cause)
  }
}

/** V8 writes deeper values than it can read, and the sender may have a larger stack or a newer V8. */
function unreadable(cause: unknown): ProtocolError {
  return new ProtocolError('ERR_CANNOT_CLONE', `a value that cannot be read: ${messageOf(cause)}`, { cause })
}

/** Such an error is the failure of one message: the frames around it are valid. */
export function isUnreadable(error: unknown): boolean {
  return error instanceof ProtocolError && error.code === 'ERR_CANNOT_CLONE'
}

function deserialized(bytes: Buffer): unknown {
  try {
    return deserialize(bytes)
  } catch (cause) {
    throw unreadable(cause)
  }
}

export function tooLarge(to: string, bytes: number, most: number): UsageError {
  return new UsageError('ERR_MESSAGE_TOO_LARGE', `${to}: a message of ${bytes} bytes, where maxPackageSize is ${most}`)
}

/** Checks the size before anything is written, for values whose size is known in advance. Throws UsageError. */
export function checkSize(to: string, value: unknown, most: number): void {
  const isText = typeof value === 'string'
  let size = isText ? value.length : 0
  if (value instanceof Packed) size = value.bytes.length
  else if (value instanceof Uint8Array) size = value.length
  if (isText && size <= most && size * 3 > most) size = Buffer.byteLength(value)
  if (size > most) throw tooLarge(to, size, most)
}

export function unexpected(kind: Kind): ProtocolError {
  return new ProtocolError('ERR_MESH_FRAME', `a frame of kind ${kind}, which is out of place`)
}
