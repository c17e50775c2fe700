// Frames between a worker and the keeper, both ways. The head is JSON, so that a worker, which may run as another user
// than the keeper, cannot feed it v8's own format; values are bytes that only workers decode.
//
//    0        4          8
//   +--------+----------+----------------+---------------+
//   | length | head     | head: JSON     | value         |     both uint32, big-endian; length is of all that follows
//   +--------+----------+----------------+---------------+

import { ProtocolError } from '../errors.ts'
import { Accumulator } from '../protocol/accumulator.ts'

/** Each has an id chosen by the worker, which the answer repeats. Both sides check keys and values. */
export type Request =
  | readonly [id: number, what: 'get' | 'delete', map: string, key: string]
  /** `ttlMs` null: an existing key keeps what it has left. */
  | readonly [id: number, what: 'set', map: string, key: string, value: Plain, ttlMs: number | null, onlyIf: Condition]
  | readonly [id: number, what: 'increment', map: string, key: string, step: number, ttlMs: number]
  | readonly [id: number, what: 'keys' | 'size' | 'clear', map: string]
  /** Answered by events, until `unwatch` with the same id. An empty key means every key. */
  | readonly [id: number, what: 'watch', map: string, key: string]
  | readonly [id: number, what: 'unwatch']
  /** The first frame of a connection, sent by the master. */
  | readonly [id: 0, what: 'hello', secret: string]

/** A number value is in the head, where JSON would drop the sign of zero; null: the value is the frame's bytes. */
export type Plain = number | '-0' | null

export function plainOf(value: number): Plain {
  return Object.is(value, -0) ? '-0' : value
}

/** Returns anything else as it is. */
export function meantBy<T>(plain: T): T | number {
  return plain === '-0' ? -0 : plain
}

/** Condition of a set: none; the key must be absent; or it must still have this version. */
export type Condition = null | 'absent' | number

export type Answer =
  /** `version` 0: there is no value. */
  | readonly [id: number, what: 'ok', result: unknown, value: Plain, version: number]
  | readonly [id: number, what: 'refused', code: string, message: string]
  | readonly [id: number, what: 'event', type: ChangeType, key: string, value: Plain]

/** What can happen to a key. */
export type ChangeType = 'set' | 'delete' | 'expire'

const PREFIX_BYTES = 8
const EMPTY = Buffer.alloc(0)

export function encodeFrame(head: Request | Answer, value: Uint8Array = EMPTY): Buffer {
  const text = JSON.stringify(head)
  const headBytes = Buffer.byteLength(text)
  const frame = Buffer.allocUnsafe(PREFIX_BYTES + headBytes + value.length)
  frame.writeUInt32BE(frame.length - 4, 0)
  frame.writeUInt32BE(headBytes, 4)
  frame.write(text, PREFIX_BYTES)
  frame.set(value, PREFIX_BYTES + headBytes)
  return frame
}

export class FrameReader<Head> {
  readonly #maxBytes: number
  readonly #onFrame: (head: Head, value: Buffer) => void
  readonly #kept = new Accumulator()

  /** `value` in `onFrame` aliases what was read, and is valid during the call. */
  constructor(maxBytes: number, onFrame: (head: Head, value: Buffer) => void) {
    this.#maxBytes = maxBytes
    this.#onFrame = onFrame
  }

  /** Throws ProtocolError for a malformed frame, and whatever `onFrame` throws. */
  read(bytes: Buffer): void {
    const isWhole = this.#kept.length === 0
    if (!isWhole) this.#kept.append(bytes)
    const all = isWhole ? bytes : this.#kept.view()
    let start = 0
    for (let end = this.#endOf(all, start); end <= all.length; end = this.#endOf(all, start)) {
      const headEnd = start + PREFIX_BYTES + all.readUInt32BE(start + 4)
      if (headEnd > end) throw new ProtocolError('ERR_BAD_FRAME', 'a head that is longer than its frame')
      const head = parse(all.toString('utf8', start + PREFIX_BYTES, headEnd))
      this.#onFrame(head as Head, all.subarray(headEnd, end))
      start = end
    }
    if (isWhole) this.#kept.append(all.subarray(start))
    else this.#kept.consume(start)
  }

  /** Where the frame at `start` ends; infinity until that is known. */
  #endOf(bytes: Buffer, start: number): number {
    if (bytes.length - start < PREFIX_BYTES) return Number.POSITIVE_INFINITY
    const length = 4 + bytes.readUInt32BE(start)
    if (length < PREFIX_BYTES || length > this.#maxBytes)
      throw new ProtocolError('ERR_BAD_FRAME', `a frame of ${length} bytes`)
    this.#kept.expect(length)
    return start + length
  }
}

function parse(text: string): readonly unknown[] {
  try {
    const head: unknown = JSON.parse(text)
    if (Array.isArray(head)) return head
  } catch (cause) {
    throw new ProtocolError('ERR_BAD_FRAME', 'a head that is no JSON', { cause })
  }
  throw new ProtocolError('ERR_BAD_FRAME', 'a head that is no list')
}
