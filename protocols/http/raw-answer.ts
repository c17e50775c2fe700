// Bytes that a handler sends past HTTP. They are looked at only to know whether they are its answer: an interim one
// (RFC 9110 section 15.2), such as 103, is not.

import { checkedChunks, isChunk } from '../../src/encoded.ts'
import type { Encoded } from '../../src/protocol.ts'

/** Bytes that are looked at: heads of this kind are short. */
const LOOK = 4096
const INTERIM = /^(?:HTTP\/1\.\d 1(?!01)\d\d[ \r].*?\r\n\r\n)+/s

/** The status of a raw answer, behind interim ones; 0 if nothing follows them. Throws UsageError for no bytes. */
export function statusOfRaw(bytes: Encoded): number {
  const text = startOf(bytes).replace(INTERIM, '')
  if (text === '') return 0
  return Number(/^HTTP\/1\.\d ([2-9]\d\d)/.exec(text)?.[1] ?? 200)
}

function startOf(bytes: Encoded): string {
  const checked = checkedChunks(bytes)
  return isChunk(checked) ? startOfChunk(checked) : checked.map(startOfChunk).join('')
}

function startOfChunk(chunk: string | Uint8Array): string {
  if (typeof chunk === 'string') return chunk.slice(0, LOOK)
  return Buffer.from(chunk.buffer, chunk.byteOffset, Math.min(chunk.length, LOOK)).toString('latin1')
}
