// Framing as a codec, so that a connection has one code path: works for any protocol of three functions, with one
// object per connection.

import { blamed, decoded, decodeWith, encodeWith } from '../blame.ts'
import { ProtocolError, quoted } from '../errors.ts'
import { Accumulator } from '../protocol/accumulator.ts'
import type { Framer } from '../protocol/framing.ts'
import {
  type AnyProtocol,
  type Codec,
  type CodecIo,
  type CodecProtocol,
  type Exported,
  NEED_MORE,
  type Protocol,
} from '../protocol.ts'
import { disown } from '../thenable.ts'

const EMPTY = Buffer.alloc(0)

const adapters = new WeakMap<Protocol, CodecProtocol>()

/** Returns the protocol as a codec, the only kind a connection knows. */
export function asCodec(protocol: AnyProtocol): CodecProtocol {
  if ('open' in protocol) return protocol
  let adapter = adapters.get(protocol)
  if (adapter === undefined) {
    const framed: Framed = framedBy(protocol)
    const open = (io: CodecIo) => new FramingCodec(framed, io)
    adapter = { name: protocol.name, open, import: open }
    adapters.set(protocol, adapter)
  }
  return adapter
}

/** A framing protocol, and how its packets are found. */
interface Framed {
  readonly protocol: Protocol
  readonly at: Framer['at']
  /**
   * The character that ends each packet, if there is a single one: a read converted to text can then be searched as
   * text.
   */
  readonly mark: string
}

function framedBy(protocol: Protocol): Framed {
  if (!('at' in protocol.input)) return { protocol, at: viewing(protocol), mark: '' }
  const { at, framing } = protocol.input as Framer
  const delimiter = framing?.kind === 'delimited' ? framing.delimiter : []
  return { protocol, at, mark: delimiter.length === 1 ? String.fromCharCode(delimiter[0] as number) : '' }
}

/** Bytes of packets that are incomplete or not yet taken. The fields are about the first of these: */
class Rest extends Accumulator {
  /** Number of bytes searched in vain. */
  searched = 0
  /** Its length, once known. */
  expected = 0
}

/** Longest passage, in bytes. A packet that is kept keeps its passage. */
const PASSAGE = 1024
/** How many packets are decoded one by one after text that was not ASCII. */
const REST = 64

/** Part of a read as one string, of which packets are slices: a string per packet would cost a call into V8 each. */
class Passage {
  text = ''
  start = 0
  #end = 0
  #bytes: Buffer | null = null
  #resting = 0

  /**
   * Where the passage ends, if it contains the packet at `start`. A new passage is read when more packets seem to
   * follow; it is usable if every byte is one character. Otherwise 0.
   */
  end(bytes: Buffer, start: number, end: number): number {
    if (bytes === this.#bytes && start >= this.start && end <= this.#end) return this.#end
    if (this.#resting > 0) this.#resting--
    else if (bytes.length - end >= end - start && end - start <= PASSAGE / 4) return this.#read(bytes, start)
    return 0
  }

  /** The length of the packet at `start`, up to and including its mark; 0 if the mark is not in this passage. */
  measure(bytes: Buffer, start: number, mark: string): number {
    if (bytes !== this.#bytes || start >= this.#end) return 0
    const at = start - this.start
    return this.text.indexOf(mark, at) + 1 - at
  }

  #read(bytes: Buffer, start: number): number {
    const end = Math.min(bytes.length, start + PASSAGE)
    const text = bytes.toString('utf8', start, end)
    // A multi-byte sequence makes fewer characters than bytes, an invalid byte exactly one: with equal lengths,
    // positions agree.
    if (text.length !== end - start) {
      this.#resting = REST
      return 0
    }
    this.text = text
    this.start = start
    this.#end = end
    this.#bytes = bytes
    return end
  }

  /** The memory it was read from may be overwritten from now on. */
  close(): void {
    this.#bytes = null
  }
}

const passage = new Passage()

// How the last `#parse` of this process ended: its caller reads this before anything else runs.
let lastSearched = 0
let lastExpected = 0
/** Stopped by an `emit` that returned false. */
let wasStopped = false

function parsed(bytes: number, searched: number, expected: number, isStopped: boolean): number {
  passage.close()
  lastSearched = searched
  lastExpected = expected
  wasStopped = isStopped
  return bytes
}

/** Every connection has one, so it is small: state needed only for a partial packet is in `Rest`. */
class FramingCodec implements Codec {
  readonly #framed: Framed
  readonly #io: CodecIo
  #rest: Rest | null = null

  constructor(framed: Framed, io: CodecIo) {
    this.#framed = framed
    this.#io = io
  }

  receive(bytes: Buffer): void {
    const rest = this.#rest
    if (rest === null) {
      this.#keep(bytes, this.#parse(bytes, null))
      return this.#fill()
    }
    const missing = rest.expected - rest.length
    if (missing <= 0 || missing >= bytes.length) {
      rest.append(bytes)
      if (missing > bytes.length) rest.fill(this.#io)
      return this.resumed()
    }
    rest.append(bytes.subarray(0, missing)) // completes the packet, which then need not be copied
    this.resumed()
    const behind = bytes.subarray(missing)
    this.#keep(behind, wasStopped || this.#rest !== null ? 0 : this.#parse(behind, null))
    this.#fill()
  }

  /** Reads more of a long packet. */
  #fill(): void {
    if (this.#rest !== null && !wasStopped && this.#rest.fill(this.#io) > 0) this.resumed()
  }

  resumed(): void {
    const rest = this.#rest
    if (rest === null) return
    rest.consume(this.#parse(rest.view(), rest))
    if (rest.length > 0) this.#note(rest)
    else this.#rest = null
  }

  #keep(bytes: Buffer, used: number): void {
    if (used === bytes.length) return
    if (this.#rest === null) {
      this.#rest = new Rest()
      this.#note(this.#rest)
    }
    this.#rest.append(used === 0 ? bytes : bytes.subarray(used))
  }

  #note(rest: Rest): void {
    rest.searched = lastSearched
    rest.expected = lastExpected
    if (lastExpected > 0) rest.expect(lastExpected)
  }

  send(message: unknown): boolean {
    return this.#io.write(encodeWith(this.#framed.protocol, message))
  }

  get isBusy(): boolean {
    return this.#rest !== null && this.#rest.length > 0
  }

  export(): Exported {
    return { rest: this.#rest?.view() ?? EMPTY, state: null }
  }

  drain(): void {
    // Plain framing has no goodbye.
  }

  timeout(): void {
    // It sets no deadlines.
  }

  closed(): void {
    this.#rest = null
  }

  /**
   * Emits the complete packets of `bytes`, which is the view of `rest` if that is given. Returns how many bytes they
   * had.
   */
  #parse(bytes: Buffer, rest: Rest | null): number {
    passage.close() // another call may have ended early
    let start = 0
    let searched = rest === null ? 0 : rest.searched
    let expected = rest === null ? 0 : rest.expected
    while (start < bytes.length) {
      const available = bytes.length - start
      const length = expected > 0 ? expected : this.#measure(bytes, start, searched)
      if (length === NEED_MORE) return parsed(start, available, 0, false)
      if (length > available) return parsed(start, 0, length, false)
      // The packet is all of `rest`, whose memory is ours to give away.
      const isAll = rest !== null && length === bytes.length && length === bytes.buffer.byteLength
      const end = start + length
      const { protocol } = this.#framed
      const message = isAll ? decodeWith(protocol, bytes) : decoded(protocol, this.#decode(bytes, start, end))
      start = end
      searched = expected = 0
      if (!this.#io.emit(message)) return parsed(start, 0, 0, true)
    }
    return parsed(start, 0, 0, false)
  }

  /** The length of the packet at `start`, which may be incomplete. */
  #measure(bytes: Buffer, start: number, searched: number): number {
    const length = this.#find(bytes, start, searched)
    const least = length === NEED_MORE ? bytes.length - start + 1 : length
    const limit = this.#io.maxPackageSize
    if (least <= limit) return length
    throw new ProtocolError('ERR_PACKET_TOO_LARGE', `a packet of ${least} bytes or more is over the limit of ${limit}`)
  }

  #find(bytes: Buffer, start: number, searched: number): number {
    const { mark } = this.#framed
    const length = mark === '' ? 0 : passage.measure(bytes, start, mark)
    return length > 0 ? length : this.#input(bytes, start, searched)
  }

  #input(bytes: Buffer, start: number, searched: number): number {
    const { protocol, at } = this.#framed
    let length: number
    try {
      length = at(bytes, start, searched)
    } catch (error) {
      throw blamed(error, 'ERR_BAD_PACKET')
    }
    if (Number.isInteger(length) && length >= 0) return length
    disown(length)
    throw new ProtocolError('ERR_BAD_LENGTH', `input() of protocol '${protocol.name}' answered ${quoted(length)}`)
  }

  #decode(bytes: Buffer, start: number, end: number): unknown {
    const { protocol } = this.#framed
    try {
      if (protocol.decodeText !== undefined && end <= passage.end(bytes, start, end))
        return protocol.decodeText(passage.text, start - passage.start, end - passage.start)
      if (protocol.lends !== true) return protocol.decode(copyOf(bytes, start, end))
      if (protocol.decodeAt !== undefined) return protocol.decodeAt(bytes, start, end)
      return protocol.decode(bytes.subarray(start, end))
    } catch (error) {
      throw blamed(error, 'ERR_BAD_PACKET')
    }
  }
}

/** Below this length a loop is faster than the call: 65 ns against 170 ns for 32 bytes. */
const LOOP_BELOW = 64

/** Copies out of the receive buffer, which is lent. */
function copyOf(bytes: Buffer, start: number, end: number): Buffer {
  const copy = Buffer.allocUnsafe(end - start)
  if (copy.length >= LOOP_BELOW) bytes.copy(copy, 0, start, end)
  else for (let from = start, to = 0; from < end; from++, to++) copy[to] = bytes[from] as number
  return copy
}

function viewing(protocol: Protocol): Framer['at'] {
  return (bytes, start, from) => protocol.input(start === 0 ? bytes : bytes.subarray(start), from)
}
