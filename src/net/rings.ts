// The memory shared with the native engine, as seen from JavaScript (native/src/rings.h has the drawing). Sent bytes
// are written here; nothing crosses the boundary until a batch ends or the ring is full.

import type { NativeEngine, RingsLayout } from '../addon-types.ts'
import type { QuickBuffer } from '../builtins.ts'
import { endsInHalf, MOST_PER_UNIT } from './utf16.ts'

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

/** Stored in place of a length. */
export const enum Operation {
  Pause = -1,
  Resume = -2,
  End = -3,
  Destroy = -4,
}

/** Indexes in the header. */
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
/** Both ends of a connection. */
const PAIR_BYTES = 56
/** The sender or receiver of a datagram, and which of our addresses it was sent to or leaves from. */
export const ENDPOINT_BYTES = 56
/** From this many bytes on, a chunk is sent from its own memory: a copy would cost more than a call. */
export const DIRECT_FROM = 32_768
/**
 * Below this length, a loop in JavaScript is faster than a call into V8's writers: 5 ns per character against 150 ns.
 */
const LOOP_BELOW = 24
/** From this length on, a text that is sent again is copied from its bytes: 40 ns. */
const KNOWN_FROM = 64

export class Rings {
  readonly header: Int32Array
  readonly events: Int32Array
  /** Bytes the kernel has not taken, by slot. */
  readonly queued: Float64Array
  receive!: Buffer
  receiveInts!: Int32Array
  #lent!: ArrayBuffer
  datagrams!: Buffer
  datagramInts!: Int32Array
  /** Size of a datagram's place: its bytes, and at the end the sender's address. */
  readonly datagramBytes: number
  readonly send: Buffer
  readonly sendInts: Int32Array
  readonly #engine: NativeEngine
  readonly #sends: Int32Array
  readonly #maxSends: number
  readonly #sendBytes: number
  readonly #layout: RingsLayout
  /** The bytes of a broadcast, where they lie, and until which flush. */
  #shared: Uint8Array | null = null
  #sharedAt = 0
  #sharedSize = 0
  #sharedIn = 0
  /** The first piece of the last list; and its bytes, once it has come twice. */
  #known = ''
  #knownBytes: Buffer | null = null

  constructor(engine: NativeEngine) {
    this.#engine = engine
    this.#layout = engine.layout()
    checkRecords(this.#layout)
    const { header, events, sends, queued, send, maxEvents, maxSends, maxSlots, sendBytes, datagramBytes } =
      this.#layout
    const memory = engine.memory(false)
    this.header = new Int32Array(memory, header, HEADER_INTS)
    this.events = new Int32Array(memory, events, maxEvents * EVENT_INTS)
    this.#sends = new Int32Array(memory, sends, maxSends * SEND_INTS)
    this.queued = new Float64Array(memory, queued, maxSlots)
    this.send = Buffer.from(memory, send, sendBytes)
    this.sendInts = new Int32Array(memory, send, sendBytes / INT)
    this.datagramBytes = datagramBytes
    this.#maxSends = maxSends
    this.#sendBytes = sendBytes
    this.renew()
  }

  /** Renews the views after user code has detached a lent buffer: the memory is still there. */
  renew(): void {
    const { receive, datagrams, receiveBytes, maxDatagrams, datagramBytes } = this.#layout
    const lent = this.#engine.memory(true)
    this.#lent = lent
    this.receive = Buffer.from(lent, 0, receiveBytes)
    this.receiveInts = new Int32Array(lent, 0, receiveBytes / INT)
    this.datagrams = Buffer.from(lent, datagrams - receive, maxDatagrams * datagramBytes)
    this.datagramInts = new Int32Array(lent, datagrams - receive, (maxDatagrams * datagramBytes) / INT)
  }

  /** Returns what was received, lent. */
  received(offset: number, size: number): Buffer {
    if (this.receive.length === 0) this.renew()
    return new View(this.#lent, offset, size)
  }

  /** Records text or bytes to be sent, fewer than DIRECT_FROM. Returns how many bytes. */
  put(slot: number, chunk: string | Uint8Array): number {
    if (typeof chunk !== 'string') return this.#putOrShare(slot, chunk)
    const at = this.#room(chunk.length * MOST_PER_UNIT)
    const size = this.#putText(chunk, at)
    this.#record(slot, at, size)
    return size
  }

  /** Like `put` for one piece after the other, which together are `text`: one call for all of them. */
  putJoined(slot: number, text: string, pieces: readonly string[]): number {
    const at = this.#room(text.length * MOST_PER_UNIT)
    let size = this.#putText(text, at)
    if (size !== text.length && pieces.some(endsInHalf)) {
      size = 0 // two unpaired surrogates may have joined to a character
      for (const piece of pieces) size += this.#putText(piece, at + size)
    }
    this.#record(slot, at, size)
    return size
  }

  /** Like `put`, for pieces that together are shorter than DIRECT_FROM. */
  putAll(slot: number, chunks: readonly (string | Uint8Array)[]): number {
    const start = this.#room(DIRECT_FROM * MOST_PER_UNIT)
    let at = start + this.#putFirst(chunks[0] ?? '', start)
    for (let i = 1; i < chunks.length; i++) {
      const chunk = chunks[i] as string | Uint8Array
      at += typeof chunk === 'string' ? this.#putText(chunk, at) : this.#putBytes(chunk, at)
    }
    this.#record(slot, start, at - start)
    return at - start
  }

  /** The first piece of a list may be the same again and again: the head of an answer. */
  #putFirst(chunk: string | Uint8Array, at: number): number {
    if (typeof chunk !== 'string') return this.#putBytes(chunk, at)
    if (chunk.length < KNOWN_FROM) return this.#putText(chunk, at)
    if (chunk !== this.#known) {
      this.#known = chunk
      this.#knownBytes = null
      return this.#putText(chunk, at)
    }
    this.#knownBytes ??= Buffer.from(chunk)
    this.send.set(this.#knownBytes, at)
    return this.#knownBytes.length
  }

  /** Bytes just recorded for another slot are already there: a broadcast. */
  #putOrShare(slot: number, bytes: Uint8Array): number {
    const { header } = this
    const { length } = bytes
    // The size must be equal: a view of a buffer that has grown since would send another slot's bytes.
    if (this.#shared === bytes && this.#sharedSize === length && this.#sharedIn === header[Header.Epoch]) {
      this.#push(slot, this.#sharedAt, length)
      const end = this.#sharedAt + length
      if ((header[Header.SendBytes] as number) < end) header[Header.SendBytes] = end // flushed, but still needed
      return length
    }
    const at = this.#room(length)
    this.#putBytes(bytes, at)
    this.#record(slot, at, length)
    this.#shared = bytes
    this.#sharedAt = at
    this.#sharedSize = length
    this.#sharedIn = header[Header.Epoch] as number
    return length
  }

  /** Returns where this many bytes can go, flushing if necessary. */
  #room(most: number): number {
    const { header } = this
    if ((header[Header.SendBytes] as number) + most > this.#sendBytes) this.#engine.flush()
    return header[Header.SendBytes] as number
  }

  /**
   * Returns a place in the send buffer with room for this many bytes, at a multiple of four; `commit` then gives the
   * actual size.
   */
  reserve(most: number): number {
    const at = ((this.header[Header.SendBytes] as number) + INT - 1) & -INT
    if (at + most <= this.#sendBytes) return at
    this.#engine.flush()
    return 0
  }

  /** Records what was written there as a record of its own, never joined with its neighbour: a datagram. */
  commit(slot: number, at: number, size: number): void {
    this.#push(slot, at, size)
    this.header[Header.SendBytes] = at + size
  }

  /** Records an operation to be carried out after what was recorded before. */
  operate(slot: number, operation: Operation): void {
    this.#push(slot, 0, operation)
  }

  #putBytes(bytes: Uint8Array, at: number): number {
    const { send } = this
    const { length } = bytes
    if (length < LOOP_BELOW) for (let i = 0; i < length; i++) send[at + i] = bytes[i] as number
    else send.set(bytes, at)
    return length
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
    return (send as QuickBuffer).utf8Write(text, at)
  }

  /** Extends the last record if it is this slot's and ends here; otherwise adds one. */
  #record(slot: number, at: number, size: number): void {
    if (size === 0) return
    const { header } = this
    const sends = this.#sends
    const last = ((header[Header.SendCount] as number) - 1) * SEND_INTS
    const lastSize = last < 0 ? -1 : (sends[last + 2] as number)
    if (lastSize >= 0 && sends[last] === slot && (sends[last + 1] as number) + lastSize === at)
      sends[last + 2] = lastSize + size
    else this.#push(slot, at, size)
    header[Header.SendBytes] = at + size
  }

  #push(slot: number, at: number, size: number): void {
    const { header } = this
    let count = header[Header.SendCount] as number
    if (count === this.#maxSends) {
      // The bytes at `at` are in no record yet: they stay, and are sent from there.
      this.#engine.flush()
      count = 0
    }
    const place = count * SEND_INTS
    this.#sends[place] = slot
    this.#sends[place + 1] = at
    this.#sends[place + 2] = size
    header[Header.SendCount] = count + 1
  }
}

/**
 * The class `subarray` makes a Buffer with, at a third of its cost on Node 20: 50 ns against 155 ns, and 75 ns on later
 * versions.
 */
const View = Reflect.get(Buffer, Symbol.species) as new (memory: ArrayBuffer, offset: number, length: number) => Buffer

/** Bytes of an int32. */
const INT = 4

/** The records read and written here by offset must be those the addon was compiled with. */
function checkRecords({ headerBytes, eventBytes, sendRecordBytes, pairBytes, endpointBytes }: RingsLayout): void {
  const found = [headerBytes, eventBytes, sendRecordBytes, pairBytes, endpointBytes]
  const wanted = [HEADER_INTS * INT, EVENT_INTS * INT, SEND_INTS * INT, PAIR_BYTES, ENDPOINT_BYTES]
  if (found.join() !== wanted.join())
    throw new Error(`the addon has records of ${found} bytes, and not of ${wanted}: run npm run build`)
}
