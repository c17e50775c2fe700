// Messages as lines of JSON over a stream: between master and child on an inherited descriptor, and between a command
// and the master on the control socket. A line over the limit ends the stream: both ends are ours, so such a line is a
// bug or an attack.

import type { Socket } from 'node:net'
import { nothing } from '../nothing.ts'

const MAX_LINE_BYTES = 4 * 1_048_576

export class Channel<In, Out> {
  onMessage: ((message: In) => void) | null = null
  /** Called once, when the other end is gone. */
  onClose: (() => void) | null = null
  /** The other end sent a line over the limit; the stream was destroyed. */
  isOverrun = false
  readonly #stream: Socket
  readonly #maxBytes: number
  #chunks: Buffer[] = []
  #size = 0

  /** @param maxBytes limit of an incoming line */
  constructor(stream: Socket, maxBytes = MAX_LINE_BYTES) {
    this.#stream = stream
    this.#maxBytes = maxBytes
    stream.on('data', (bytes: Buffer) => this.#receive(bytes))
    stream.on('error', nothing) // 'close' follows
    stream.on('close', () => this.onClose?.())
  }

  /** Queues without a bound: messages are small and rare. Silently dropped when the other end is gone. */
  send(message: Out): void {
    if (this.#stream.writable) this.#stream.write(`${JSON.stringify(message)}\n`)
  }

  /** Sends what is queued, then closes. */
  end(): void {
    this.#stream.end()
  }

  destroy(): void {
    this.#stream.destroy()
  }

  /** From now on the channel keeps the process alive. */
  ref(): void {
    this.#stream.ref()
  }

  unref(): void {
    this.#stream.unref()
  }

  #receive(bytes: Buffer): void {
    let start = 0
    for (let end = bytes.indexOf(10); end >= 0; end = bytes.indexOf(10, start)) {
      this.#chunks.push(bytes.subarray(start, end))
      start = end + 1
      this.#deliver(Buffer.concat(this.#chunks.splice(0)).toString())
      this.#size = 0
    }
    this.#chunks.push(bytes.subarray(start))
    this.#size += bytes.length - start
    if (this.#size <= this.#maxBytes) return
    this.isOverrun = true
    this.destroy()
  }

  #deliver(line: string): void {
    const message = parse(line)
    if (message === null) return this.destroy() // not one of ours
    this.onMessage?.(message as In)
  }
}

/** The object on a line, or null. A library may write to our descriptor, taking it for its own. */
function parse(line: string): object | null {
  try {
    const value: unknown = JSON.parse(line)
    return typeof value === 'object' ? value : null
  } catch {
    return null // a SyntaxError
  }
}
