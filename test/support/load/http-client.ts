// HTTP: requests with and without bodies, one after another or pipelined. The answer's text ends in `<id> <pid>`,
// whatever comes before. After receiving `Connection: close` a client sends nothing more on that connection.

import { AnswerReader } from './answer-reader.ts'
import type { Client, Seat } from './load.ts'
import { Session } from './session.ts'

export interface Requests {
  readonly port: number
  /** Requested with `?id=` appended; `POST` if there is a body, otherwise `GET`. */
  readonly path: string
  /** Bytes of an upload, sent in pieces with pauses between them. */
  readonly upload?: { readonly bytes: number; readonly pieces: number; readonly isChunked: boolean }
  /** Requests in flight at once. */
  readonly pipelined?: number
  readonly thinkMs?: () => number
  /** Length of the answer's body, not counting the words at its end. */
  readonly bodyBytes?: number
}

/** Pause between two pieces of an upload. */
const PIECE_MS = 5

export function httpClient(requests: Requests): Client {
  return (seat) => new HttpSession(seat, requests)
}

class HttpSession extends Session {
  readonly #requests: Requests
  readonly #answers = new AnswerReader({
    onHead: (status, isLast) => this.#head(status, isLast),
    onData: (bytes) => {
      this.#body += bytes.toString('latin1')
    },
    onEnd: () => this.#answer(),
  })
  #body = ''
  #status = 0
  #isLast = false
  #isSending = false

  constructor(seat: Seat, requests: Requests) {
    super(seat, requests.port)
    this.#requests = requests
  }

  protected begin(): void {
    for (let n = 0; n < (this.#requests.pipelined ?? 1); n++) this.#request()
  }

  protected get isMidAnswer(): boolean {
    return this.#answers.isMidAnswer
  }

  #request(): void {
    if (!this.mayAsk) return
    const { path, upload } = this.#requests
    const target = `${path}?id=${this.ask()}`
    if (upload === undefined) this.socket.write(`GET ${target} HTTP/1.1\r\nHost: load\r\n\r\n`)
    else this.#upload(target, upload)
  }

  #upload(target: string, { bytes, pieces, isChunked }: NonNullable<Requests['upload']>): void {
    const framing = isChunked ? 'Transfer-Encoding: chunked' : `Content-Length: ${bytes}`
    this.socket.write(`POST ${target} HTTP/1.1\r\nHost: load\r\n${framing}\r\n\r\n`)
    this.#isSending = true
    const piece = 'x'.repeat(Math.ceil(bytes / pieces))
    const send = (left: number) => {
      const data = piece.slice(0, left)
      const isLast = left <= data.length
      this.socket.write(isChunked ? `${data.length.toString(16)}\r\n${data}\r\n${isLast ? '0\r\n\r\n' : ''}` : data)
      if (isLast) this.#isSending = false
      else this.after(PIECE_MS, () => send(left - data.length))
    }
    send(bytes)
  }

  /** An upload that has begun is sent to its end. */
  override finish(): void {
    if (!this.#isSending) return super.finish()
    this.isEnding = true
  }

  protected receive(bytes: Buffer): void {
    try {
      this.#answers.take(bytes)
    } catch (error) {
      this.fail(String(error))
    }
  }

  #head(status: number, isLast: boolean): void {
    this.#status = status
    this.#isLast = isLast
    if (isLast) this.isTold = true
  }

  #answer(): void {
    const body = this.#body
    this.#body = ''
    const [id = '', pid = ''] = body.slice(body.lastIndexOf('\n') + 1).split(' ')
    const { bodyBytes = 0, thinkMs } = this.#requests
    if (this.#status !== 200) return this.fail(`status ${this.#status}`)
    if (body.lastIndexOf('\n') + 1 < bodyBytes) return this.fail(`a body of ${body.length} bytes`)
    if (this.#isSending) return this.fail('answered before all of it was sent')
    if (!this.answered(id, pid)) return
    // Requests pipelined after the last answer were declined: the connection ends without them.
    if (this.#isLast || (this.isEnding && this.pending.length === 0)) return this.leave()
    this.after(thinkMs?.() ?? 0, () => this.#request())
  }
}
