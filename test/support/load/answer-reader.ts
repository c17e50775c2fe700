// Reads the answers of an HTTP/1.1 server as they arrive: heads, and bodies with a length or in chunks.

import { Accumulator } from '../../../src/protocol/accumulator.ts'

export interface AnswerEvents {
  onHead(status: number, isLast: boolean): void
  onData(bytes: Buffer): void
  onEnd(): void
}

export class AnswerReader {
  readonly #events: AnswerEvents
  readonly #rest = new Accumulator()
  /** Bytes of the body or chunk still to come; -1 if a head or size line comes next. */
  #left = -1
  #isChunked = false
  #isLastChunk = false
  #isInBody = false

  constructor(events: AnswerEvents) {
    this.#events = events
  }

  /** Part of an answer has arrived. */
  get isMidAnswer(): boolean {
    return this.#isInBody || this.#rest.length > 0
  }

  /** Throws if the bytes are not HTTP. */
  take(bytes: Buffer): void {
    this.#rest.append(bytes)
    while (this.#step());
  }

  #step(): boolean {
    if (!this.#isInBody) return this.#takeHead()
    if (this.#left >= 0) return this.#takeData()
    const line = this.#takeThrough('\r\n')
    if (line === null) return false
    if (line === '\r\n') {
      if (this.#isLastChunk) this.#end() // trailers are not supported here
      return true
    }
    const size = Number.parseInt(line, 16)
    if (!(size >= 0)) throw new Error(`no size of a chunk: ${JSON.stringify(line)}`)
    this.#isLastChunk = size === 0
    if (size > 0) this.#left = size
    return true
  }

  #takeHead(): boolean {
    const head = this.#takeThrough('\r\n\r\n')
    if (head === null) return false
    const status = Number(/^HTTP\/1\.1 (\d{3})/.exec(head)?.[1] ?? 0)
    if (status === 0) throw new Error(`no head of an answer: ${JSON.stringify(head.slice(0, 80))}`)
    this.#isChunked = /\r\ntransfer-encoding: *chunked\r\n/i.test(head)
    this.#left = this.#isChunked ? -1 : Number(/\r\ncontent-length: *(\d+)\r\n/i.exec(head)?.[1] ?? 0)
    this.#isInBody = true
    this.#events.onHead(status, /\r\nconnection: *close\r\n/i.test(head))
    return true
  }

  #takeData(): boolean {
    const size = Math.min(this.#left, this.#rest.length)
    if (size > 0) this.#events.onData(this.#consume(size))
    this.#left -= size
    if (this.#left > 0) return false
    if (this.#isChunked) this.#left = -1
    else this.#end()
    return true
  }

  #end(): void {
    this.#isInBody = false
    this.#isLastChunk = false
    this.#events.onEnd()
  }

  #takeThrough(mark: string): string | null {
    const at = this.#rest.view().indexOf(mark)
    return at < 0 ? null : this.#consume(at + mark.length).toString('latin1')
  }

  #consume(size: number): Buffer {
    const bytes = Buffer.from(this.#rest.view().subarray(0, size))
    this.#rest.consume(size)
    return bytes
  }
}
