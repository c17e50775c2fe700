// A WebSocket client that does what it is told, right or wrong: it sends bytes as they are, and records received frames
// and how the connection ended. It never ends the connection by itself: the server closes first.

import { once } from 'node:events'
import net from 'node:net'
import { inflateRawSync } from 'node:zlib'
import { Accumulator } from '../../src/protocol/accumulator.ts'
import { nextTurn, until, within } from './until.ts'

/** A received event: a frame from the server, or the end of the stream. */
export interface Heard {
  readonly kind: 'text' | 'binary' | 'close' | 'ping' | 'pong' | 'fin' | 'reset'
  readonly payload: Buffer
  /** Whether it was compressed on the wire. */
  readonly isCompressed: boolean
}

const KINDS: Record<number, Heard['kind']> = { 1: 'text', 2: 'binary', 8: 'close', 9: 'ping', 10: 'pong' }
const NO_BYTES = Buffer.alloc(0)

export class RawWebSocket {
  /** The server's head, up to the empty line. */
  head = ''
  readonly heard: Heard[] = []
  /** Size of the window that the server may compress with. */
  windowBits = 15
  /**
   * Inflated data of the server's compressed messages, as far back as later ones may refer; null while each stands
   * alone.
   */
  #past: Buffer | null = null
  readonly #socket: net.Socket
  readonly #rest = new Accumulator()

  private constructor(socket: net.Socket) {
    this.#socket = socket
    socket.setNoDelay(true)
    socket.on('data', (bytes) => this.#take(bytes))
    socket.on('end', () => this.#note('fin', NO_BYTES))
    socket.on('error', () => this.#note('reset', NO_BYTES))
  }

  /** `more` are header lines of the request, each with its CRLF. */
  static async open(port: number, more = '', path = '/'): Promise<RawWebSocket> {
    const socket = net.connect({ port, host: '127.0.0.1', allowHalfOpen: true })
    await within(10_000, once(socket, 'connect'))
    const raw = new RawWebSocket(socket)
    socket.write(
      `GET ${path} HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n${more}\r\n`,
    )
    await until(() => raw.head !== '', 10_000)
    return raw
  }

  /** Writes in pieces of `size` bytes, each a packet of its own if the kernel allows. */
  async write(bytes: Buffer, size = bytes.length): Promise<void> {
    for (let at = 0; at < bytes.length; at += size) {
      if (this.#socket.destroyed) return
      const isFull = !this.#socket.write(bytes.subarray(at, at + size))
      if (isFull) await Promise.race([once(this.#socket, 'drain'), once(this.#socket, 'close')])
      else if (size < bytes.length) await nextTurn()
    }
  }

  /** Both sides have ended. */
  get isClosed(): boolean {
    return this.#socket.closed
  }

  /** FIN or a reset has arrived. */
  get hasEnded(): boolean {
    return this.heard.some(({ kind }) => kind === 'fin' || kind === 'reset')
  }

  /** From now on the server's messages may refer to earlier ones. */
  followsContext(): void {
    this.#past = NO_BYTES
  }

  of(...kinds: readonly Heard['kind'][]): Heard[] {
    return this.heard.filter(({ kind }) => kinds.includes(kind))
  }

  /** Sends FIN. */
  end(): void {
    this.#socket.end()
  }

  destroy(): void {
    this.#socket.destroy()
  }

  #note(kind: Heard['kind'], payload: Buffer, isCompressed = false): void {
    this.heard.push({ kind, payload, isCompressed })
  }

  #take(bytes: Buffer): void {
    this.#rest.append(bytes)
    if (this.head === '' && !this.#takeHead()) return
    while (this.#takeFrame());
  }

  #takeHead(): boolean {
    const view = this.#rest.view()
    const end = view.indexOf('\r\n\r\n')
    if (end < 0) return false
    this.head = view.toString('latin1', 0, end + 2)
    this.#rest.consume(end + 4)
    return true
  }

  #takeFrame(): boolean {
    const view = this.#rest.view()
    const [first, second] = view
    if (first === undefined || second === undefined) return false
    const headSize = second < 126 ? 2 : second === 126 ? 4 : 10
    if (view.length < headSize) return false
    const length = second < 126 ? second : second === 126 ? view.readUInt16BE(2) : Number(view.readBigUInt64BE(2))
    if (view.length < headSize + length) return false
    const payload = Buffer.from(view.subarray(headSize, headSize + length))
    this.#rest.consume(headSize + length)
    const isCompressed = (first & 0x40) !== 0
    this.#note(KINDS[first & 0x0f] as Heard['kind'], isCompressed ? this.#inflate(payload) : payload, isCompressed)
    return true
  }

  /** Inflates in pieces of 64 bytes, so that references beyond the agreed window fail. */
  #inflate(payload: Buffer): Buffer {
    const bytes = Buffer.concat([payload, Buffer.from([0, 0, 0xff, 0xff])])
    const dictionary = this.#past === null || this.#past.length === 0 ? undefined : this.#past
    const options = { windowBits: this.windowBits, finishFlush: 2, chunkSize: 64, dictionary }
    const inflated = inflateRawSync(bytes, options)
    if (this.#past !== null) this.#past = Buffer.concat([this.#past, inflated]).subarray(-(2 ** this.windowBits))
    return inflated
  }
}
