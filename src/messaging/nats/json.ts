// Messages of a cluster as bytes: JSON, or bytes as they are. Not v8's format, which is not safe to take from another
// machine. What JSON would silently change is refused.

import { messageOf, ProtocolError, UsageError } from '../../errors.ts'
import { isDetached } from '../wire.ts'

export interface Encoded {
  /** Owned: the message may change afterwards. Empty for undefined. */
  readonly payload: Uint8Array
  /** The message is a Buffer or Uint8Array and its own payload. */
  readonly isBytes: boolean
}

const NO_BYTES = Buffer.alloc(0)
/** An own `__proto__` would become the prototype in Object.assign(). JSON may write its letters as escapes. */
const MAY_SET_PROTOTYPE = /__proto__|\\u00[5-7]/i

/** Throws UsageError: ERR_CANNOT_CLONE, which names the property. */
export function encode(message: unknown): Encoded {
  if (message === undefined) return { payload: NO_BYTES, isBytes: false }
  if (message instanceof Uint8Array) {
    if (isDetached(message)) throw flawed('it is detached')
    return { payload: Buffer.from(message), isBytes: true }
  }
  return { payload: Buffer.from(textOf(message)), isBytes: false }
}

function textOf(message: unknown): string {
  try {
    const flaw = flawOf(message, '')
    if (flaw === '') return JSON.stringify(message)
    throw flawed(flaw)
  } catch (error) {
    if (error instanceof RangeError) throw flawed('it is nested too deeply, or contains itself')
    throw error
  }
}

function flawed(flaw: string): UsageError {
  return new UsageError('ERR_CANNOT_CLONE', `a message to another server must be JSON or bytes: ${flaw}`)
}

/** Throws ProtocolError. Bytes are copied: the receive buffer is not the message's. */
export function decode(payload: Uint8Array, isBytes: boolean): unknown {
  if (isBytes) return Buffer.from(payload)
  if (payload.length === 0) return undefined
  const text = Buffer.from(payload.buffer, payload.byteOffset, payload.byteLength).toString()
  try {
    return MAY_SET_PROTOTYPE.test(text) ? JSON.parse(text, withoutPrototype) : JSON.parse(text)
  } catch (cause) {
    throw new ProtocolError('ERR_BAD_JSON', `not JSON: ${messageOf(cause)}`, { cause })
  }
}

function withoutPrototype(key: string, value: unknown): unknown {
  return key === '__proto__' ? undefined : value
}

/** What JSON does not have, in words; empty if there is nothing. */
function flawOf(value: unknown, path: string): string {
  if (value === null || typeof value === 'string' || typeof value === 'boolean') return ''
  if (typeof value === 'number') return flawOfNumber(value, path)
  if (typeof value !== 'object') return `${called(path)} is a ${typeof value}`
  const prototype = Object.getPrototypeOf(value)
  const isPlain = Array.isArray(value) || prototype === null || prototype === Object.prototype
  if (!isPlain) return `${called(path)} is a ${prototype.constructor?.name || 'special object'}`
  if (hasToJson(value)) return `${called(path)} has a toJSON()`
  return Array.isArray(value) ? flawOfList(value, path) : flawOfProperties(value, path)
}

function flawOfNumber(value: number, path: string): string {
  if (Object.is(value, -0)) return `${called(path)} is -0`
  return Number.isFinite(value) ? '' : `${called(path)} is ${value}`
}

/** JSON calls it wherever it is: hidden, or inherited. */
function hasToJson(value: object): boolean {
  return typeof (value as { toJSON?: unknown }).toJSON === 'function'
}

function flawOfList(list: readonly unknown[], path: string): string {
  for (let at = 0; at < list.length; at++) {
    const flaw = list[at] === undefined ? `${path}[${at}] is undefined` : flawOf(list[at], `${path}[${at}]`)
    if (flaw !== '') return flaw
  }
  return Object.keys(list).length === list.length ? '' : `${called(path)} has properties besides its items`
}

/** Properties that are undefined are left out, as everywhere in JSON. */
function flawOfProperties(value: object, path: string): string {
  for (const [key, item] of Object.entries(value)) {
    if (key === '__proto__') return `${path}.__proto__ would be left out by the receiver`
    const flaw = item === undefined ? '' : flawOf(item, `${path}.${key}`)
    if (flaw !== '') return flaw
  }
  return ''
}

function called(path: string): string {
  return path === '' ? 'it' : path
}
