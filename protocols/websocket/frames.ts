// Frames on the wire (RFC 6455 section 5): made, and masked.
//
//   | FIN RSV1-3 opcode, 1 | MASK length, 1 | longer length, 0, 2 or 8 | masking key, 0 or 4 | payload ... |

import { crypto } from '../../src/builtins.ts'

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

/** Above this a payload is not copied beside its head, in bytes. */
const JOINED_BELOW = 16_384

/** A whole frame that a server sends. A payload that is long stays as it is; it belongs to the frame from then on. */
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

/** A whole frame that a client sends, masked with random bytes (RFC 6455 section 10.3: nobody may know them before). */
export function clientFrame(opcode: Opcode, payload: string | Uint8Array, rsv1 = false): Buffer {
  const size = Buffer.byteLength(payload)
  const headSize = headSizeOf(size)
  const frame = Buffer.allocUnsafe(headSize + 4 + size)
  writeHead(frame, FIN | (rsv1 ? RSV1 : 0) | opcode, size, MASKED)
  putMask(frame, headSize)
  put(frame, headSize + 4, payload)
  mask(frame.subarray(headSize + 4), frame, headSize, 0)
  return frame
}

function put(frame: Buffer, at: number, payload: string | Uint8Array): void {
  if (typeof payload === 'string') frame.write(payload, at)
  else frame.set(payload, at)
}

function headSizeOf(size: number): number {
  return size < 126 ? 2 : size < 65_536 ? 4 : 10
}

function writeHead(frame: Buffer, first: number, size: number, masked: number): void {
  frame[0] = first
  if (size < 126) frame[1] = masked | size
  else if (size < 65_536) {
    frame[1] = masked | 126
    frame.writeUInt16BE(size, 2)
  } else {
    frame[1] = masked | 127
    frame.writeUInt32BE(Math.floor(size / 2 ** 32), 2)
    frame.writeUInt32BE(size % 2 ** 32, 6)
  }
}

/** Masks, or unmasks, in place. `keyAt` is where four bytes of `key` begin; `phase` bytes came before. */
export function mask(payload: Buffer, key: Uint8Array, keyAt: number, phase: number): void {
  const k0 = key[keyAt + (phase & 3)] as number
  const k1 = key[keyAt + ((phase + 1) & 3)] as number
  const k2 = key[keyAt + ((phase + 2) & 3)] as number
  const k3 = key[keyAt + ((phase + 3) & 3)] as number
  const { length } = payload
  let i = 0
  for (; i + 3 < length; i += 4) {
    payload[i] = (payload[i] as number) ^ k0
    payload[i + 1] = (payload[i + 1] as number) ^ k1
    payload[i + 2] = (payload[i + 2] as number) ^ k2
    payload[i + 3] = (payload[i + 3] as number) ^ k3
  }
  if (i < length) payload[i] = (payload[i] as number) ^ k0
  if (i + 1 < length) payload[i + 1] = (payload[i + 1] as number) ^ k1
  if (i + 2 < length) payload[i + 2] = (payload[i + 2] as number) ^ k2
}

/** One call of the generator for many keys: 8 KiB are as fast as 4 bytes. */
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

/** Close codes that may be sent (RFC 6455 section 7.4, the IANA registry up to 1014). */
export function isCloseCode(code: number): boolean {
  return (
    (code >= 1000 && code <= 1014 && code !== 1004 && code !== 1005 && code !== 1006) || (code >= 3000 && code <= 4999)
  )
}
