// Frames from the bytes of a stream (wire.ts has their form).

import { ProtocolError } from '../errors.ts'
import { type Form, forgetPassage, HEAD_BYTES, type Kind, SIZE_BYTES, uint32At } from './wire.ts'

/** Called per frame. `bytes` is lent; the head and value are from `start`, after the form, to `end`. */
type OnFrame = (kind: Kind, form: Form, bytes: Buffer, start: number, end: number) => void

/** Cuts a stream into frames. */
export class FrameReader {
  readonly #onFrame: OnFrame
  #most: number
  #partial: Buffer | null = null
  /** Number of bytes in `#partial` so far. */
  #has = 0

  /** @param most bytes; a larger frame is a ProtocolError */
  constructor(most: number, onFrame: OnFrame) {
    this.#most = most
    this.#onFrame = onFrame
  }

  set most(bytes: number) {
    this.#most = bytes
  }

  /** Throws ProtocolError. If `onFrame` throws, the rest stays unread. */
  receive(bytes: Buffer): void {
    forgetPassage() // the buffer may hold other bytes by now
    let at = this.#partial === null ? 0 : this.#complete(bytes)
    while (at >= 0 && bytes.length - at >= SIZE_BYTES) {
      const end = at + SIZE_BYTES + this.#sizeAt(bytes, at)
      if (end > bytes.length) break
      this.#onFrame(bytes[at + 4] as Kind, bytes[at + 5] as Form, bytes, at + HEAD_BYTES, end)
      at = end
    }
    if (at >= 0 && at < bytes.length) this.#keep(bytes, at)
  }

  /** Completes a partial frame. Returns where the next one begins, or -1 if it is still incomplete. */
  #complete(bytes: Buffer): number {
    let at = 0
    if (this.#has < SIZE_BYTES) {
      at = this.#fill(bytes, 0, SIZE_BYTES)
      if (this.#has < SIZE_BYTES) return -1
      const head = this.#partial as Buffer
      this.#partial = Buffer.allocUnsafeSlow(SIZE_BYTES + this.#sizeAt(head, 0))
      head.copy(this.#partial, 0, 0, SIZE_BYTES)
    }
    const frame = this.#partial as Buffer
    at = this.#fill(bytes, at, frame.length)
    if (this.#has < frame.length) return -1
    this.#partial = null
    this.#onFrame(frame[4] as Kind, frame[5] as Form, frame, HEAD_BYTES, frame.length)
    return at
  }

  #fill(bytes: Buffer, from: number, upTo: number): number {
    const end = Math.min(bytes.length, from + upTo - this.#has)
    bytes.copy(this.#partial as Buffer, this.#has, from, end)
    this.#has += end - from
    return end
  }

  #keep(bytes: Buffer, from: number): void {
    const has = bytes.length - from
    this.#partial = Buffer.allocUnsafeSlow(has < SIZE_BYTES ? SIZE_BYTES : SIZE_BYTES + this.#sizeAt(bytes, from))
    this.#has = has
    bytes.copy(this.#partial, 0, from)
  }

  #sizeAt(bytes: Buffer, at: number): number {
    const size = uint32At(bytes, at)
    if (size < HEAD_BYTES - SIZE_BYTES || size > this.#most)
      throw new ProtocolError('ERR_MESH_FRAME', `a frame of ${size} bytes, where ${this.#most} is the limit`)
    return size
  }
}
