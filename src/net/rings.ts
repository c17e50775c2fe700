// The memory that is shared with the native engine, seen from JavaScript (native/src/rings.h has the drawing). What is
// sent is written here; nothing crosses the boundary until a batch ends, or the ring is full.

import type { NativeEngine } from '../addon.ts'

/** What happened to a slot. */
export const enum Kind {
  Accepted = 1,
  Received = 2,
  Ended = 3,
  Drained = 4,
  Closed = 5,
  Scarce = 6,
  Datagram = 7,
  DatagramFailed = 8,
}

/** What stands in place of a length. */
export const enum Operation {
  Pause = -1,
  Resume = -2,
  End = -3,
  Destroy = -4,
}

/** Places in the header. */
export const enum Header {
  EventCount = 0,
  EventNext = 1,
  SendCount = 2,
  SendBytes = 3,
  Epoch = 4,
  WantsCall = 5,
}

const HEADER_INTS = 6
export const EVENT_INTS = 5
const SEND_INTS = 3
/** From this many bytes on a chunk is sent from where it lies: a copy would cost more than a call. */
export const DIRECT_FROM = 32_768
/** Below this a loop in JavaScript is quicker than a call into V8's writers (Node 20: 30 against 60 ns for 32 bytes). */
const LOOP_BELOW = 48

export class Rings {
  readonly header: Int32Array
  readonly events: Int32Array
  /** By slot: bytes that the kernel has not taken. */
  readonly queued: Float64Array
  receive!: Buffer
  datagrams!: Buffer
  readonly send: Buffer
  readonly #engine: NativeEngine
  readonly #sends: Int32Array
  readonly #maxSends: number
  readonly #sendBytes: number
  readonly #layout: readonly number[]
  /** Bytes that were recorded last, and where: a broadcast sends the same to many. */
  #last: Uint8Array | null = null
  #lastAt = 0
  #lastSize = 0
  #lastEpoch = 0

  constructor(engine: NativeEngine) {
    this.#engine = engine
    this.#layout = engine.layout()
    const [header = 0, events = 0, sends = 0, queued = 0, send = 0] = this.#layout
    const [maxEvents = 0, maxSends = 0, maxSlots = 0, , sendBytes = 0] = this.#layout.slice(PARTS)
    const memory = engine.memory(false)
    this.header = new Int32Array(memory, header, HEADER_INTS)
    this.events = new Int32Array(memory, events, maxEvents * EVENT_INTS)
    this.#sends = new Int32Array(memory, sends, maxSends * SEND_INTS)
    this.queued = new Float64Array(memory, queued, maxSlots)
    this.send = Buffer.from(memory, send, sendBytes)
    this.#maxSends = maxSends
    this.#sendBytes = sendBytes
    this.renew()
  }

  /** User code has detached what it was lent: the memory is still there. */
  renew(): void {
    const [, , , , , receive = 0, datagrams = 0] = this.#layout
    const [, , , receiveBytes = 0, , maxDatagrams = 0, datagramBytes = 0] = this.#layout.slice(PARTS)
    const lent = this.#engine.memory(true)
    this.receive = Buffer.from(lent, 0, receiveBytes)
    this.datagrams = Buffer.from(lent, datagrams - receive, maxDatagrams * datagramBytes)
  }

  /** What was received, lent. */
  received(offset: number, size: number): Buffer {
    if (this.receive.length === 0) this.renew()
    return this.receive.subarray(offset, offset + size)
  }

  /** Records text or bytes to be sent; how many bytes. Less than DIRECT_FROM, text at its longest. */
  put(slot: number, chunk: string | Uint8Array): number {
    const { header } = this
    const most = typeof chunk === 'string' ? chunk.length * 3 : chunk.length
    if ((header[Header.SendBytes] as number) + most > this.#sendBytes) this.#engine.flush()
    const at = header[Header.SendBytes] as number
    if (typeof chunk !== 'string') return this.#putBytes(slot, chunk, at)
    const size = this.#putText(chunk, at)
    this.#record(slot, at, size)
    header[Header.SendBytes] = at + size
    return size
  }

  /** Records something that is to happen after what was recorded before. */
  operate(slot: number, operation: Operation): void {
    this.#push(slot, 0, operation)
  }

  #putBytes(slot: number, bytes: Uint8Array, at: number): number {
    const { header } = this
    const epoch = header[Header.Epoch] as number
    const size = bytes.length
    // Of the same size: a view of a buffer that has grown since would send what somebody else has there.
    if (this.#last === bytes && this.#lastSize === size && this.#lastEpoch === epoch) {
      this.#push(slot, this.#lastAt, size)
      return size
    }
    if (size < LOOP_BELOW) for (let i = 0; i < size; i++) this.send[at + i] = bytes[i] as number
    else this.send.set(bytes, at)
    this.#record(slot, at, size)
    header[Header.SendBytes] = at + size
    this.#last = bytes
    this.#lastAt = at
    this.#lastSize = size
    this.#lastEpoch = header[Header.Epoch] as number // a full ring has been flushed
    return size
  }

  #putText(text: string, at: number): number {
    const { send } = this
    const { length } = text
    if (length < LOOP_BELOW) {
      let i = 0
      for (; i < length; i++) {
        const code = text.charCodeAt(i)
        if (code > 0x7f) break
        send[at + i] = code
      }
      if (i === length) return length
    }
    return send.write(text, at)
  }

  /** Goes on where the last record ends, if that is this slot's: one piece. */
  #record(slot: number, at: number, size: number): void {
    const sends = this.#sends
    const last = ((this.header[Header.SendCount] as number) - 1) * SEND_INTS
    const lastSize = last < 0 ? -1 : (sends[last + 2] as number)
    if (lastSize >= 0 && sends[last] === slot && (sends[last + 1] as number) + lastSize === at)
      sends[last + 2] = lastSize + size
    else this.#push(slot, at, size)
  }

  #push(slot: number, at: number, size: number): void {
    const { header } = this
    let count = header[Header.SendCount] as number
    if (count === this.#maxSends) {
      // What `at` points to is in no record yet, and stays: only the counts are reset by a flush.
      const used = header[Header.SendBytes] as number
      this.#engine.flush()
      header[Header.SendBytes] = used
      count = 0
    }
    const place = count * SEND_INTS
    this.#sends[place] = slot
    this.#sends[place + 1] = at
    this.#sends[place + 2] = size
    header[Header.SendCount] = count + 1
  }
}

/** How many offsets there are before the sizes. */
const PARTS = 7
