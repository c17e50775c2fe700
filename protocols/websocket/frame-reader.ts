// Reads frames as they arrive and assembles messages (RFC 6455 section 5); enforces every rule that a peer can break in
// them. Text is checked as it arrives.

import type { QuickBuffer } from '../../src/builtins.ts'
import { ProtocolError } from '../../src/errors.ts'
import { Accumulator } from '../../src/protocol/accumulator.ts'
import type { DeflateContext } from './deflate.ts'
import { FIN, MASKED, mask, Opcode, RSV1, SHORT } from './frames.ts'
import { textOf, Utf8Checker } from './utf8.ts'

/** The receiver of messages: its expectations and its callbacks. */
export interface MessageSink {
  readonly isServer: boolean
  readonly deflate: DeflateContext | null
  readonly maxMessageBytes: number
  onMessage(message: string | Buffer): void
  onControl(opcode: Opcode, payload: Buffer): void
}

const MAX_HEAD = 14
/** Length of the head of a short masked frame. */
const SHORT_HEAD = 6

/** Most reads end on a message boundary. The connection then returns its reader, so an idle connection holds none. */
let spare: FrameReader | null = null

export class FrameReader {
  // The frame being read.
  readonly #head = Buffer.allocUnsafeSlow(MAX_HEAD)
  #headSize = 0
  #opcode = Opcode.Continuation
  #isFinal = false
  #left = 0
  #length = 0
  /** Offset of the masking key, which ends the head; -1 if there is none. */
  #keyAt = -1
  #control: Buffer | null = null
  // The message being read, of one or several frames: its inflated bytes so far, and its bytes on the wire.
  #message: Accumulator | null = null
  #messageBytes = 0
  #messageOpcode = Opcode.Continuation
  #isCompressed = false
  #checker: Utf8Checker | null = null

  static borrow(): FrameReader {
    const reader = spare ?? new FrameReader()
    spare = null
    return reader
  }

  /** The reader must be idle. */
  giveBack(): void {
    spare = this
  }

  /** Between two messages: nothing read so far affects what follows. */
  get isIdle(): boolean {
    return this.#messageOpcode === Opcode.Continuation && this.#headSize === 0 && this.#left === 0
  }

  /** Takes part of a head or a payload. Returns where it stopped. */
  take(bytes: Buffer, start: number, sink: MessageSink): number {
    const behind = this.isIdle ? this.#takeShortText(bytes, start, sink) : start
    if (behind > start) return behind
    let at = start
    if (this.#left === 0) {
      at = this.#takeHead(bytes, at, sink)
      if (this.#headSize > 0) return at
      if (this.#left === 0) {
        this.#endFrame(NO_BYTES, sink)
        return at
      }
    }
    const end = Math.min(bytes.length, at + this.#left)
    if (end === at) return at
    this.#takePayload(bytes.subarray(at, end), sink)
    return end
  }

  /**
   * Fast path for most messages: one frame, a short text, complete, with a valid head. Otherwise does nothing and
   * returns `start`.
   */
  #takeShortText(bytes: Buffer, start: number, sink: MessageSink): number {
    const size = (bytes[start + 1] as number) - MASKED
    const at = start + SHORT_HEAD
    const end = at + size
    const isShort = size >= 0 && size < SHORT && end <= bytes.length
    if (!isShort || bytes[start] !== (FIN | Opcode.Text) || !sink.isServer || size > sink.maxMessageBytes) return start
    const all = mask(bytes, at, end, bytes, at - 4, 0)
    sink.onMessage(
      all < 0x80 ? (bytes as QuickBuffer).latin1Slice(at, end) : (textOf(bytes.subarray(at, end)) ?? fail(noText())),
    )
    return end
  }

  #takeHead(bytes: Buffer, start: number, sink: MessageSink): number {
    const head = this.#head
    let at = start
    while (at < bytes.length) {
      head[this.#headSize++] = bytes[at++] as number
      if (this.#headSize === 1) this.#checkFirst(head[0] as number, sink)
      else if (this.#headSize === 2) this.#checkSecond(head[1] as number, sink)
      if (this.#headSize >= 2 && this.#headSize === headSizeOf(head[1] as number)) {
        this.#endHead(head, sink)
        this.#headSize = 0
        break
      }
    }
    return at
  }

  /** FIN, RSV and opcode: RFC 6455 section 5.2, RFC 7692 section 6. */
  #checkFirst(byte: number, { deflate }: MessageSink): void {
    const opcode = byte & 0x0f
    const isControl = opcode >= 8
    if (opcode > Opcode.Pong || (opcode > Opcode.Binary && opcode < Opcode.Close))
      throw broken(`there is no opcode ${opcode}`)
    const isCompressed = (byte & RSV1) !== 0
    if (byte & 0x30 || (isCompressed && (deflate === null || isControl || opcode === Opcode.Continuation)))
      throw broken('a reserved bit is set')
    this.#isFinal = (byte & FIN) !== 0
    if (isControl && !this.#isFinal) throw broken('a control frame in fragments')
    if (opcode === Opcode.Continuation && this.#messageOpcode === Opcode.Continuation)
      throw broken('there is nothing to go on with')
    if (opcode !== Opcode.Continuation && !isControl) {
      if (this.#messageOpcode !== Opcode.Continuation) throw broken('a message begins within another')
      this.#messageOpcode = opcode
      this.#isCompressed = isCompressed
    }
    this.#opcode = opcode
  }

  #checkSecond(byte: number, { isServer }: MessageSink): void {
    if (((byte & MASKED) !== 0) !== isServer)
      throw broken(isServer ? 'a client masks its frames' : 'a server masks no frames')
    if (this.#opcode >= Opcode.Close && (byte & 0x7f) > 125) throw broken('a control frame of over 125 bytes')
  }

  #endHead(head: Buffer, sink: MessageSink): void {
    const short = (head[1] as number) & 0x7f
    let length = short
    if (short === 126) length = head.readUInt16BE(2)
    else if (short === 127) length = head.readUInt32BE(2) * 2 ** 32 + head.readUInt32BE(6)
    if ((short === 126 && length < 126) || (short === 127 && length < 65_536))
      throw broken('a length in more bytes than it needs')
    if (short === 127 && (head[2] as number) & 0x80) throw broken('a length with its highest bit set')
    const limit = sink.maxMessageBytes
    if (this.#opcode < Opcode.Close) this.#messageBytes += length
    if (this.#messageBytes > (this.#isCompressed ? longestCompressed(limit) : limit))
      throw new ProtocolError('ERR_MESSAGE_TOO_LARGE', `a message is over the limit of ${limit} bytes`, {
        closeCode: 1009,
      })
    this.#left = this.#length = length
    this.#keyAt = sink.isServer ? this.#headSize - 4 : -1
  }

  /** Unmasks in place: the bytes are lent, and nothing else reads them. */
  #takePayload(bytes: Buffer, sink: MessageSink): void {
    if (this.#keyAt >= 0) mask(bytes, 0, bytes.length, this.#head, this.#keyAt, this.#length - this.#left)
    const isWhole = bytes.length === this.#length
    this.#left -= bytes.length
    if (this.#opcode >= Opcode.Close) {
      this.#control = this.#control === null ? Buffer.from(bytes) : Buffer.concat([this.#control, bytes])
      if (this.#left === 0) this.#endFrame(this.#control, sink)
      return
    }
    if (isWhole && this.#isFinal && this.#opcode !== Opcode.Continuation) return this.#endFrame(bytes, sink)
    this.#keep(this.#inflated(bytes, false, sink))
    if (this.#left === 0) this.#endFrame(NO_BYTES, sink)
  }

  #keep(bytes: Buffer): void {
    if (bytes.length === 0) return
    this.#check(bytes)
    this.#message ??= new Accumulator()
    this.#message.append(bytes)
  }

  #check(bytes: Buffer): void {
    if (this.#messageOpcode !== Opcode.Text) return
    this.#checker ??= new Utf8Checker()
    if (!this.#checker.accepts(bytes)) throw noText()
  }

  /** `whole`: the payload of a control frame, or of a message that came in one piece (lent). */
  #endFrame(whole: Buffer, sink: MessageSink): void {
    if (this.#opcode >= Opcode.Close) {
      this.#control = null
      return sink.onControl(this.#opcode, whole)
    }
    if (!this.#isFinal) return
    const payload = this.#gathered(whole, sink)
    const isText = this.#messageOpcode === Opcode.Text
    const isChecked = this.#checker !== null
    if (isChecked && !this.#checker?.isWhole) throw noText()
    this.#message = this.#checker = null
    this.#messageBytes = 0
    this.#messageOpcode = Opcode.Continuation
    if (isText) sink.onMessage(isChecked ? payload.toString() : (textOf(payload) ?? fail(noText())))
    else sink.onMessage(payload === whole ? Buffer.from(whole) : payload)
  }

  /** Returns the whole message, whose last part is `last`. */
  #gathered(last: Buffer, sink: MessageSink): Buffer {
    const rest = this.#inflated(last, true, sink)
    if (this.#message === null) return rest
    this.#keep(rest)
    return this.#message.take()
  }

  #inflated(bytes: Buffer, isLast: boolean, { deflate, maxMessageBytes }: MessageSink): Buffer {
    if (!this.#isCompressed || deflate === null) return bytes
    return deflate.inflate(bytes, isLast, maxMessageBytes - (this.#message?.length ?? 0))
  }
}

const NO_BYTES = Buffer.alloc(0)

/**
 * Most bytes of a message within the limit, compressed: deflate makes what it cannot compress longer, by as much as the
 * bound of zlib says for its worst settings. Inflating it enforces the limit itself. 64 for the ends of fragments.
 */
function longestCompressed(limit: number): number {
  return limit + limit / 8 + limit / 64 + 64
}

function headSizeOf(second: number): number {
  const short = second & 0x7f
  return 2 + (short < SHORT ? 0 : short === 126 ? 2 : 8) + (second & MASKED ? 4 : 0)
}

export function broken(message: string): ProtocolError {
  return new ProtocolError('ERR_BAD_FRAME', message, { closeCode: 1002 })
}

export function noText(): ProtocolError {
  return new ProtocolError('ERR_BAD_UTF8', 'a text that is no UTF-8', { closeCode: 1007 })
}

function fail(error: Error): never {
  throw error
}
