// Frames that one link sends in this turn of the loop, collected in one buffer so that a turn costs one write.

import type { QuickBuffer } from '../builtins.ts'
import type { Socket, Transport } from '../transport.ts'
import {
  bytesForm,
  encoded,
  Form,
  HEAD_BYTES,
  isPlainBytes,
  isWellFormed,
  type Kind,
  NUMBER_BYTES,
  Packed,
  PlainJson,
  putNumber,
  putUint32,
} from './wire.ts'

/** Initial and maximum size of a link's buffer. */
const FIRST_BYTES = 4096
const MOST_BYTES = 65_536
/** Below this length a loop is faster than a call into V8. */
const LOOP_BELOW = 16

export class FrameWriter {
  #socket: Socket | null = null
  #buffer = Buffer.allocUnsafeSlow(FIRST_BYTES)
  /** `#from`: start of the bytes not yet given to the socket. `#frame`: start of the frame being written. */
  #from = 0
  #frame = 0
  #at = 0
  #isDirty = false
  /** Whether memory given to the socket may be overwritten. */
  #mayReuse = false

  attach(socket: Socket, transport: Pick<Transport, 'copiesWrites'>): void {
    this.#socket = socket
    this.#mayReuse = transport.copiesWrites
  }

  /** Appends a finished frame made for many links (`publishFrame`). */
  whole(frame: Uint8Array): void {
    this.#frame = this.#at
    this.bytes(frame)
    this.#end()
  }

  /** Begins a frame. Its head and value follow, then `end`. */
  begin(kind: Kind): void {
    this.#frame = this.#at
    this.#need(HEAD_BYTES + 64)
    this.#buffer[this.#at + 4] = kind
    this.#buffer[this.#at + 5] = Form.Undefined
    this.#at += HEAD_BYTES
  }

  uint8(value: number): void {
    this.#need(1)
    this.#buffer[this.#at++] = value
  }

  uint16(value: number): void {
    this.#need(2)
    this.#at = this.#buffer.writeUInt16LE(value, this.#at)
  }

  uint32(value: number): void {
    this.#need(4)
    putUint32(this.#buffer, this.#at, value)
    this.#at += 4
  }

  double(value: number): void {
    this.#need(8)
    this.#at = this.#buffer.writeDoubleLE(value, this.#at)
  }

  number(value: number): void {
    this.#need(NUMBER_BYTES)
    putNumber(this.#buffer, this.#at, value)
    this.#at += NUMBER_BYTES
  }

  /** At most 65,535 bytes of UTF-8. */
  label(text: string): void {
    this.#need(2 + text.length * 3)
    const at = this.#at + 2
    this.#at = at
    if (text.length >= LOOP_BELOW || !this.#shortAscii(text))
      this.#at = at + (this.#buffer as QuickBuffer).utf8Write(text, at)
    this.#buffer.writeUInt16LE(this.#at - at, at - 2)
  }

  bytes(bytes: Uint8Array): void {
    this.#need(bytes.length)
    this.#buffer.set(bytes, this.#at)
    this.#at += bytes.length
  }

  /** Writes the frame's value: what `encoded` returned, if it is a caller's. Throws UsageError; call `cancel` then. */
  value(value: unknown): void {
    if (typeof value === 'string') this.#text(value)
    else if (value === undefined) this.#form(Form.Undefined)
    else if (value === null) this.#form(Form.Null)
    else if (typeof value === 'boolean') this.#form(value ? Form.True : Form.False)
    else if (typeof value === 'number') {
      this.#form(Form.Number)
      this.double(value)
    } else if (isPlainBytes(value)) this.#put(bytesForm(value), value)
    else if (value instanceof Packed) this.#put(value.form, value.bytes)
    else if (value instanceof PlainJson) this.#json(value.text)
    else this.value(encoded(value))
  }

  #json(text: string): void {
    this.#form(Form.Json)
    this.#need(text.length * 3)
    this.#at += (this.#buffer as QuickBuffer).utf8Write(text, this.#at)
  }

  #put(form: Form, bytes: Uint8Array): void {
    this.#form(form)
    this.bytes(bytes)
  }

  #form(form: Form): void {
    this.#buffer[this.#frame + 5] = form
  }

  #text(text: string): void {
    const { length } = text
    this.#need(length * 3)
    const start = this.#at
    if (length < LOOP_BELOW && this.#shortAscii(text)) return this.#form(Form.Ascii)
    this.#at = start + (this.#buffer as QuickBuffer).utf8Write(text, start)
    if (this.#at - start === length) return this.#form(Form.Ascii)
    if (isWellFormed(text)) return this.#form(Form.Utf8)
    this.#at = start + this.#buffer.write(text, start, 'utf16le')
    this.#form(Form.Utf16)
  }

  #shortAscii(text: string): boolean {
    const buffer = this.#buffer
    const at = this.#at
    for (let i = 0; i < text.length; i++) {
      const code = text.charCodeAt(i)
      if (code > 0x7f) return false
      buffer[at + i] = code
    }
    this.#at += text.length
    return true
  }

  /** Bytes of the frame so far, without its size field. */
  get size(): number {
    return this.#at - this.#frame - 4
  }

  /** Discards the frame that was begun. */
  cancel(): void {
    this.#at = this.#frame
  }

  end(): void {
    putUint32(this.#buffer, this.#frame, this.#at - this.#frame - 4)
    this.#end()
  }

  #end(): void {
    if (this.#isDirty) return
    this.#isDirty = true
    if (dirty.push(this) === 1) nextTick(flushAll)
  }

  /** Gives the socket everything that is there. */
  flush(): void {
    this.#isDirty = false
    this.#give(this.#at)
    this.#frame = this.#at
    const isLarge = this.#buffer.length > MOST_BYTES // there was a large frame
    if (isLarge) this.#buffer = Buffer.allocUnsafeSlow(MOST_BYTES)
    if (isLarge || this.#mayReuse) this.#from = this.#frame = this.#at = 0
  }

  #give(to: number): void {
    if (to > this.#from) this.#socket?.write(this.#buffer.subarray(this.#from, to))
    this.#from = to
  }

  #need(bytes: number): void {
    if (this.#buffer.length - this.#at < bytes) this.#makeRoom(bytes)
  }

  /** Makes room, without overwriting memory that the socket may still be sending. */
  #makeRoom(bytes: number): void {
    const isFull = this.#buffer.length >= MOST_BYTES || !this.#mayReuse
    if (isFull) this.#give(this.#frame)
    const begun = this.#buffer.subarray(isFull ? this.#frame : this.#from, this.#at)
    const wanted = Math.max(Math.min(MOST_BYTES, this.#buffer.length * 2), begun.length + bytes)
    if (!this.#mayReuse || wanted > this.#buffer.length) this.#buffer = Buffer.allocUnsafeSlow(wanted)
    this.#buffer.set(begun)
    this.#frame = isFull ? 0 : this.#frame - this.#from
    this.#from = 0
    this.#at = begun.length
  }
}

const { nextTick } = process
let dirty: FrameWriter[] = []

/** Runs in a tick scheduled from a microtask, so after all microtasks: what they sent is one write. */
function flushAll(): void {
  const writers = dirty
  dirty = []
  for (const writer of writers) writer.flush()
}
