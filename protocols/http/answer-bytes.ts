// An answer as it goes onto the wire: the parts of its head that are made once, and head and body in as few pieces as
// pay off.

import { HTML } from './draft.ts'

/** Answers below this many bytes are joined into one string, so that head and body leave in one piece. */
const JOINED_BELOW = 16_384

let headDate = ''
let head = ''

/** The head of a text's answer, up to the number of its bytes. */
export function everydayHead(date: string): string {
  if (date === headDate) return head
  headDate = date
  head = `HTTP/1.1 200 OK\r\nContent-Type: ${HTML}\r\nDate: ${date}\r\nContent-Length: `
  return head
}

const LENGTH_LINES: string[] = []
/** For longer texts, formatting the number is a small part of the work. */
const MAX_LENGTH_LINES = 1024

export function lengthLine(length: number): string {
  return LENGTH_LINES[length] ?? newLengthLine(length)
}

/** A separate function: inlined above, V8 would format the number before checking whether it is needed. */
function newLengthLine(length: number): string {
  const line = `${length}\r\n\r\n`
  if (length < MAX_LENGTH_LINES) LENGTH_LINES[length] = line
  return line
}

/** Bytes as UTF-8. For short ASCII a loop is faster than the call. */
export function sizeOf(text: string): number {
  const { length } = text
  if (length > 12) return Buffer.byteLength(text)
  for (let at = 0; at < length; at++) if (text.charCodeAt(at) > 0x7f) return Buffer.byteLength(text)
  return length
}

export function connectionLine(word: string, options: string): string {
  if (options === '') return word === '' ? '' : `Connection: ${word}\r\n`
  return `Connection: ${word === '' ? options : `${word}, ${options}`}\r\n`
}

/** Field values are latin1; strings would be sent as UTF-8. */
export function wireOf(head: string): string | Buffer {
  return /[\x80-\xff]/.test(head) ? Buffer.from(head, 'latin1') : head
}

export function joined(head: string, body: string | Uint8Array): string | (string | Uint8Array)[] {
  const start = wireOf(head)
  if (typeof start === 'string' && typeof body === 'string' && body.length < JOINED_BELOW) return start + body
  return [start, body]
}
