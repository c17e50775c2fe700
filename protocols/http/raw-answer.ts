// Bytes that a handler sends past HTTP. They are looked at only to know whether they are its answer: an interim one
// (RFC 9110 section 15.2), such as 103, is not.

import { checkedChunks, isChunk } from '../../src/encoded.ts'
import type { Encoded } from '../../src/protocol.ts'

/** Bytes that are looked at: most heads of this kind are shorter. */
const LOOK = 4096
/** Hints may be long: then what follows them is found only by looking at all. */
const BEGINS_INTERIM = /^HTTP\/1\.\d 1(?!01)\d\d[ \r]/
const INTERIM = /^(?:HTTP\/1\.\d 1(?!01)\d\d[ \r].*?\r\n\r\n)+/s

/** The status of a raw answer, behind interim ones; 0 if nothing follows them. Throws UsageError for no bytes. */
export function statusOfRaw(bytes: Encoded): number {
  const start = startOf(bytes, LOOK)
  const isCut = start.length >= LOOK && BEGINS_INTERIM.test(start)
  const text = (isCut ? startOf(bytes, Number.POSITIVE_INFINITY) : start).replace(INTERIM, '')
  if (text === '') return 0
  return Number(/^HTTP\/1\.\d ([2-9]\d\d)/.exec(text)?.[1] ?? 200)
}

/** `most`: bytes, or characters. */
function startOf(bytes: Encoded, most: number): string {
  const checked = checkedChunks(bytes)
  let start = ''
  for (const chunk of isChunk(checked) ? [checked] : checked) {
    if (start.length < most) start += startOfChunk(chunk, most - start.length)
  }
  return start
}

function startOfChunk(chunk: string | Uint8Array, most: number): string {
  if (typeof chunk === 'string') return chunk.slice(0, most)
  return Buffer.from(chunk.buffer, chunk.byteOffset, Math.min(chunk.length, most)).toString('latin1')
}
