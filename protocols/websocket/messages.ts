// What can be sent besides text and bytes: a message encoded once for many receivers, and the frame that ends a
// connection.

import { foreignBytes, jsonOf } from '../../src/encoded.ts'
import { quoted, UsageError } from '../../src/errors.ts'
import type { Agreement, DeflateEngine } from './deflate.ts'
import { CLOSE_CODES, isCloseCode, Opcode, serverFrame } from './frames.ts'

/** Text is sent as a text message, bytes as a binary one, any other value as JSON in a text message. */
export type WebSocketMessage = string | Uint8Array | PreparedMessage | CloseFrame | object | number | boolean | null

/** A message for many connections: encoded once and compressed once, however many receive it. */
export class PreparedMessage {
  readonly opcode: Opcode.Text | Opcode.Binary
  /** As it is sent, before it is compressed. */
  readonly payload: string | Uint8Array
  /** Bytes. */
  readonly size: number
  #plain: ReturnType<typeof serverFrame> | null = null
  readonly #compressed = new Map<number, ReturnType<typeof serverFrame>>()

  /** Throws UsageError for a value that has no JSON form. Bytes belong to the message from then on. */
  constructor(message: string | Uint8Array | object | number | boolean | null) {
    this.payload = payloadOf(message)
    this.size = Buffer.byteLength(this.payload)
    this.opcode = opcodeOf(this.payload)
  }

  /** The frame a server sends. @internal */
  frame(): ReturnType<typeof serverFrame> {
    this.#plain ??= serverFrame(this.opcode, this.payload)
    return this.#plain
  }

  /** Refers to no other message, so every receiver with this window size can read it. @internal */
  compressedFrame(engine: DeflateEngine, { windowBits }: Agreement, level: number): ReturnType<typeof serverFrame> {
    const key = windowBits * 16 + level
    let frame = this.#compressed.get(key)
    if (frame === undefined) {
      frame = serverFrame(this.opcode, engine.compressAlone(this.payload, windowBits), true)
      this.#compressed.set(key, frame)
    }
    return frame
  }
}

/** `connection.close(new CloseFrame(4001, 'logged out'))` */
export class CloseFrame {
  /** Such as 1000, or 4000 to 4999 for codes of your own. */
  readonly code: number
  /** At most 123 bytes of UTF-8. */
  readonly reason: string

  /** Throws UsageError for a code that may not be sent (RFC 6455 section 7.4), and for a reason of over 123 bytes. */
  constructor(code = 1000, reason = '') {
    if (!isCloseCode(code))
      throw new UsageError('ERR_BAD_CLOSE_CODE', `${quoted(code)} is no close code that may be sent: ${CLOSE_CODES}`)
    if (typeof reason !== 'string' || Buffer.byteLength(reason) > 123)
      throw new UsageError('ERR_BAD_CLOSE_REASON', 'a close reason is text of at most 123 bytes')
    this.code = code
    this.reason = reason
  }
}

/** The bytes or text of a message. Throws UsageError for a value that has no JSON form. */
export function payloadOf(message: unknown): string | Uint8Array {
  if (typeof message === 'string' || message instanceof Uint8Array) return message
  return foreignBytes(message) ?? jsonOf(message)
}

/** Of what is sent: JSON is text. */
export function opcodeOf(payload: string | Uint8Array): Opcode.Text | Opcode.Binary {
  return typeof payload === 'string' ? Opcode.Text : Opcode.Binary
}
