// Lines of UTF-8 text, each terminated by LF. Trailing CR and LF are stripped, so telnet and nc both work. An empty
// line is an empty message. Nothing is escaped: an LF inside an outgoing message splits it in two.

import type { QuickBuffer } from '../src/builtins.ts'
import { foreignBytes } from '../src/encoded.ts'
import { UsageError } from '../src/errors.ts'
import { delimited } from '../src/protocol/framing.ts'
import type { Encoded, Protocol } from '../src/protocol.ts'

const CR = 0x0d
const LF = 0x0a

/** `text://`: lines of UTF-8, each ended by LF. */
export const text: Protocol<string, string | Uint8Array> = {
  name: 'text',
  lends: true, // decode returns a string
  input: delimited('\n'),
  decode: (line) => textOf(line, 0, line.length),
  decodeAt: textOf,
  decodeText: lineOf,
  encode: (message): Encoded => {
    // Not joined: a concatenated string is copied once more before it can be written.
    if (typeof message === 'string' || message instanceof Uint8Array) return [message, '\n']
    const foreign = foreignBytes(message)
    if (foreign !== null) return [foreign, '\n']
    throw new UsageError('ERR_ENCODE', `text sends a string or bytes, not ${typeof message}`)
  },
}

function textOf(bytes: Buffer, start: number, length: number): string {
  let end = length
  while (end > start && isBreak(bytes[end - 1] as number)) end--
  return (bytes as QuickBuffer).utf8Slice(start, end)
}

function lineOf(text: string, start: number, end: number): string {
  let last = end
  while (last > start && isBreak(text.charCodeAt(last - 1))) last--
  return text.slice(start, last)
}

function isBreak(code: number): boolean {
  return code === LF || code === CR
}
