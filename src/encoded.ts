// What is sent: text, bytes, or a list of them.

import { messageOf, UsageError } from './errors.ts'
import type { Encoded } from './protocol.ts'
import { disown } from './thenable.ts'

/** @internal Whether it is a single piece of output. */
export function isChunk(value: unknown): value is string | Uint8Array {
  return typeof value === 'string' || value instanceof Uint8Array
}

/** @internal Text as UTF-8; bytes are returned as they are, not copied. */
export function bytesOf(chunk: string | Uint8Array): Uint8Array {
  return typeof chunk === 'string' ? Buffer.from(chunk) : chunk
}

/** @internal Bytes of another realm (`node:vm`, Jest) as ours; null for anything else. For what would be refused. */
export function foreignBytes(value: unknown): Uint8Array | null {
  if (!ArrayBuffer.isView(value) || Object.prototype.toString.call(value) !== '[object Uint8Array]') return null
  return new Uint8Array(value.buffer, value.byteOffset, value.byteLength)
}

/** @internal What is sent, with bytes of another realm made ours. Throws UsageError for what cannot be sent. */
export function checkedChunks(bytes: Encoded): Encoded {
  if (!Array.isArray(bytes)) return checkedChunk(bytes)
  for (let at = 0; at < bytes.length; at++) if (!isChunk(bytes[at])) return bytes.map(checkedChunk)
  return bytes
}

function checkedChunk(value: unknown): string | Uint8Array {
  const chunk = isChunk(value) ? value : foreignBytes(value)
  if (chunk !== null) return chunk
  disown(value) // of an async encode()
  throw new UsageError('ERR_ENCODE', `what is sent must be a string, bytes or a list of them, not ${typeof value}`)
}

/** @internal Throws UsageError for values JSON cannot represent: a function, a BigInt, a cycle. */
export function jsonOf(value: unknown): string {
  let json: string | undefined
  let cause: unknown
  try {
    json = JSON.stringify(value)
  } catch (error) {
    cause = error
  }
  if (json !== undefined) return json
  const why = cause === undefined ? '' : `: ${messageOf(cause)}`
  throw new UsageError('ERR_ENCODE', `there is no JSON for ${typeof value}${why}`, { cause })
}

/** @internal Size in bytes. Throws UsageError for any other type. */
export function encodedSize(bytes: Encoded): number {
  const checked = isChunk(bytes) ? bytes : checkedChunks(bytes)
  if (isChunk(checked)) return Buffer.byteLength(checked)
  return checked.reduce((size, chunk) => size + Buffer.byteLength(chunk), 0)
}
