// Frames on the wire (RFC 6455 section 5): building and masking them.
//
//   | FIN RSV1-3 opcode, 1 | MASK length, 1 | longer length, 0, 2 or 8 | masking key, 0 or 4 | payload ... |

import { crypto } from '../../src/builtins.ts'
import type { Encoded } from '../../src/protocol.ts'

export const enum Opcode {
  Continuation = 0,
  Text = 1,
  Binary = 2,
  Close = 8,
  Ping = 9,
  Pong = 10,
}

export const FIN = 0x80
export const RSV1 = 0x40
export const MASKED = 0x80

/** Payload lengths below this are in the second byte of the head. */
export const SHORT = 126
/** Payloads of at least this many bytes are not copied next to their head. */
const JOINED_BELOW = 16_384

/** A complete server frame. A long payload is not copied and belongs to the frame from then on. */
export function serverFrame(
  opcode: Opcode,
  payload: string | Uint8Array,
  rsv1 = false,
): Buffer | (Buffer | Uint8Array)[] {
  const size = Buffer.byteLength(payload)
  const headSize = headSizeOf(size)
  const isJoined = size < JOINED_BELOW || typeof payload === 'string'
  const frame = Buffer.allocUnsafe(isJoined ? headSize + size : headSize)
  writeHead(frame, FIN | (rsv1 ? RSV1 : 0) | opcode, size, 0)
  if (!isJoined) return [frame, payload]
  put(frame, headSize, payload)
  return frame
}

const TEXT_HEADS = Array.from({ length: SHORT }, (_, size) => Buffer.from([FIN | Opcode.Text, size]))

/** Like `serverFrame`, for one receiver: a short text is encoded directly into the output buffer. */
export function sentFrame(opcode: Opcode, payload: string | Uint8Array, rsv1: boolean): Encoded {
  if (opcode !== Opcode.Text || typeof payload !== 'string' || payload.length >= SHORT || rsv1)
    return serverFrame(opcode, payload, rsv1)
  const head = TEXT_HEADS[Buffer.byteLength(payload)]
  return head === undefined ? serverFrame(opcode, payload) : [head, payload]
}

/** A complete client frame, masked with random bytes, which must be unpredictable (RFC 6455 section 10.3). */
export function clientFrame(opcode: Opcode, payload: string | Uint8Array, rsv1 = false): Buffer {
  const size = Buffer.byteLength(payload)
  const headSize = headSizeOf(size)
  const frame = Buffer.allocUnsafe(headSize + 4 + size)
  writeHead(frame, FIN | (rsv1 ? RSV1 : 0) | opcode, size, MASKED)
  putMask(frame, headSize)
  put(frame, headSize + 4, payload)
  mask(frame, headSize + 4, frame.length, frame, headSize, 0)
  return frame
}

function put(frame: Buffer, at: number, payload: string | Uint8Array): void {
  if (typeof payload === 'string') frame.write(payload, at)
  else frame.set(payload, at)
}

function headSizeOf(size: number): number {
  return size < SHORT ? 2 : size < 65_536 ? 4 : 10
}

function writeHead(frame: Buffer, first: number, size: number, masked: number): void {
  frame[0] = first
  if (size < SHORT) frame[1] = masked | size
  else if (size < 65_536) {
    frame[1] = masked | 126
    frame.writeUInt16BE(size, 2)
  } else {
    frame[1] = masked | 127
    frame.writeUInt32BE(Math.floor(size / 2 ** 32), 2)
    frame.writeUInt32BE(size % 2 ** 32, 6)
  }
}

/**
 * Masks or unmasks `bytes` from `start` to `end` in place. The four bytes of the mask begin at `keyAt` in `key`;
 * `phase` bytes came before. Returns the bitwise OR of all resulting bytes: below 0x80 they are ASCII.
 */
export function mask(
  bytes: Uint8Array,
  start: number,
  end: number,
  key: Uint8Array,
  keyAt: number,
  phase: number,
): number {
  const k0 = key[keyAt + (phase & 3)] as number
  const k1 = key[keyAt + ((phase + 1) & 3)] as number
  const k2 = key[keyAt + ((phase + 2) & 3)] as number
  const k3 = key[keyAt + ((phase + 3) & 3)] as number
  let all = 0
  let i = start
  for (; i + 3 < end; i += 4) {
    const a = (bytes[i] as number) ^ k0
    const b = (bytes[i + 1] as number) ^ k1
    const c = (bytes[i + 2] as number) ^ k2
    const d = (bytes[i + 3] as number) ^ k3
    bytes[i] = a
    bytes[i + 1] = b
    bytes[i + 2] = c
    bytes[i + 3] = d
    all |= a | b | c | d
  }
  for (let n = 0; i < end; i++, n++) {
    const byte = (bytes[i] as number) ^ (n === 0 ? k0 : n === 1 ? k1 : k2)
    bytes[i] = byte
    all |= byte
  }
  return all
}

/** One call of the generator serves many keys: 8 KiB take no longer than 4 bytes. */
const keys = Buffer.alloc(8192)
let usedKeys = keys.length

function putMask(frame: Buffer, at: number): void {
  if (usedKeys === keys.length) {
    crypto().randomFillSync(keys)
    usedKeys = 0
  }
  keys.copy(frame, at, usedKeys, usedKeys + 4)
  usedKeys += 4
}

/** The codes that `isCloseCode` accepts. */
export const CLOSE_CODES = '1000 to 1003, 1007 to 1014, 3000 to 4999'

/** Whether a close code may be sent (RFC 6455 section 7.4; IANA registry up to 1014). */
export function isCloseCode(code: number): boolean {
  return (
    (code >= 1000 && code <= 1014 && code !== 1004 && code !== 1005 && code !== 1006) || (code >= 3000 && code <= 4999)
  )
}
