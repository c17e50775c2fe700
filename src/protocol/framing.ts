// How packets are found in a stream: by a delimiter or a length.

import { isChunk } from '../encoded.ts'
import { ProtocolError, quoted, UsageError } from '../errors.ts'
import { checkOptions, integerFrom, type Rule, TRUE_OR_FALSE } from '../options.ts'
import { NEED_MORE } from '../protocol.ts'

/** Describes an `input` made by a helper, so that an engine can frame without a call per packet. */
export type Framing =
  | { readonly kind: 'delimited'; readonly delimiter: Uint8Array }
  | ({ readonly kind: 'lengthPrefixed' } & Readonly<Required<LengthPrefix>>)

/** An `input` made by a helper: callable as such, and able to frame in place, without a view per packet. */
export interface Framer {
  (bytes: Buffer, from: number): number
  /** Describes the framing. */
  readonly framing: Framing
  /** Like `input`, for the packet that begins at `start`; `from` counts from there. */
  at(bytes: Buffer, start: number, from: number): number
}

function framer(framing: Framing, at: Framer['at']): Framer {
  const input = (bytes: Buffer, from: number) => at(bytes, 0, from)
  return Object.assign(input, { framing, at })
}

/** Below this many bytes a loop finds a delimiter faster than a call into memchr: 20 ns against 80 ns for 32 bytes. */
const SHORT_SEARCH = 64

/** Frames packets that end in a delimiter, which is part of the packet. Throws UsageError: ERR_BAD_DELIMITER. */
export function delimited(delimiter: string | Uint8Array): Framer {
  if (!isChunk(delimiter) || delimiter.length === 0)
    throw new UsageError('ERR_BAD_DELIMITER', 'a delimiter is text or bytes, at least one')
  const mark = Buffer.from(delimiter)
  const framing = { kind: 'delimited', delimiter: mark } as const
  return framer(framing, mark.length === 1 ? endsInByte(mark[0] as number) : endsInBytes(mark))
}

function endsInByte(byte: number): Framer['at'] {
  return (bytes, start, from) => {
    const near = Math.min(bytes.length, start + from + SHORT_SEARCH)
    for (let i = start + from; i < near; i++) if (bytes[i] === byte) return i + 1 - start
    if (near === bytes.length) return NEED_MORE
    const found = bytes.indexOf(byte, near)
    return found < 0 ? NEED_MORE : found + 1 - start
  }
}

function endsInBytes(mark: Buffer): Framer['at'] {
  return (bytes, start, from) => {
    // Half a delimiter may have been searched.
    const found = bytes.indexOf(mark, start + Math.max(0, from - mark.length + 1))
    return found < 0 ? NEED_MORE : found + mark.length - start
  }
}

/** What `lengthPrefixed` takes. Wrong ones are ERR_UNKNOWN_OPTION and ERR_BAD_LENGTH_PREFIX. */
export interface LengthPrefix {
  /** Width of the length field, 1 to 6 bytes. */
  bytes: number
  /** Where the length field begins. Default: 0. */
  offset?: number
  /** Whether the declared length also counts the head (everything up to the end of the field). Default: false. */
  includesHeader?: boolean
  /** Byte order of the length field. Default: false, network order. */
  littleEndian?: boolean
}

const PREFIX_RULES = {
  bytes: integerFrom(1, 6),
  offset: integerFrom(0),
  includesHeader: TRUE_OR_FALSE,
  littleEndian: TRUE_OR_FALSE,
} satisfies Record<keyof LengthPrefix, Rule>

/**
 * Frames packets that declare their length in a field of their head. Throws UsageError: ERR_BAD_LENGTH_PREFIX.
 *
 * ```
 * | offset bytes | length: `bytes` bytes, unsigned | payload ... |
 * ```
 */
export function lengthPrefixed(prefix: LengthPrefix): Framer {
  if ((prefix as LengthPrefix | null | undefined)?.bytes === undefined)
    throw new UsageError('ERR_BAD_LENGTH_PREFIX', `lengthPrefixed() takes { bytes, ... }, not ${quoted(prefix)}`)
  checkOptions('lengthPrefixed()', prefix, PREFIX_RULES, 'ERR_BAD_LENGTH_PREFIX')
  const { bytes: width, offset = 0, includesHeader = false, littleEndian = false } = prefix
  const head = offset + width
  const framing = { kind: 'lengthPrefixed', bytes: width, offset, includesHeader, littleEndian } as const
  return framer(framing, (bytes, start) => {
    if (bytes.length - start < head) return NEED_MORE
    const at = start + offset
    const declared = littleEndian ? bytes.readUIntLE(at, width) : bytes.readUIntBE(at, width)
    if (!includesHeader) return declared + head
    if (declared >= head) return declared
    throw new ProtocolError('ERR_BAD_LENGTH', `declared length ${declared} is below the head's ${head} bytes`, {
      offset,
    })
  })
}
