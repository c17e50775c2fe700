// WebSockets: texts `<id>`, answered with `<id> <pid>`. The server's close frame is answered, requests not answered by
// then may go elsewhere, and the client reconnects.

import { randomBytes } from 'node:crypto'
import { Accumulator } from '../../../src/protocol/accumulator.ts'
import type { Client, Seat } from './load.ts'
import { Session } from './session.ts'

export interface Messages {
  readonly port: number
  readonly path?: string
  readonly inFlight?: number
  readonly thinkMs?: () => number
  /** Called with the server's close code. */
  readonly onGoodbye?: (code: number) => void
  /** Called when the WebSocket is open. */
  readonly onOpen?: () => void
}

/** RFC 6455 section 7.4.1: the server restarts (1012, IANA's registry). */
const RESTART = 1012
const NORMAL = 1000
const MASK = Buffer.alloc(4)

export function webSocketClient(messages: Messages): Client {
  return (seat) => new WebSocketSession(seat, messages)
}

class WebSocketSession extends Session {
  readonly #messages: Messages
  readonly #rest = new Accumulator()
  #isOpen = false
  #hasSaidGoodbye = false

  constructor(seat: Seat, messages: Messages) {
    super(seat, messages.port)
    this.#messages = messages
  }

  protected begin(): void {
    const key = randomBytes(16).toString('base64')
    const { path = '/' } = this.#messages
    this.socket.write(
      `GET ${path} HTTP/1.1\r\nHost: load\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: ${key}\r\nSec-WebSocket-Version: 13\r\n\r\n`,
    )
  }

  protected get isMidAnswer(): boolean {
    return this.#rest.length > 0
  }

  protected override leave(): void {
    if (!this.#isOpen) return void this.socket.end()
    const code = Buffer.alloc(2)
    code.writeUInt16BE(NORMAL)
    this.#goodbye(code)
  }

  #request(): void {
    if (this.mayAsk) this.#write(1, Buffer.from(this.ask()))
  }

  protected receive(bytes: Buffer): void {
    this.#rest.append(bytes)
    if (!this.#isOpen && !this.#takeHead()) return
    while (this.#takeFrame());
  }

  #takeHead(): boolean {
    const view = this.#rest.view()
    const end = view.indexOf('\r\n\r\n')
    if (end < 0) return false
    const head = view.toString('latin1', 0, end)
    this.#rest.consume(end + 4)
    if (!head.startsWith('HTTP/1.1 101')) {
      this.fail(`refused: ${head.slice(0, 40)}`)
      return false
    }
    this.#isOpen = true
    this.#messages.onOpen?.()
    if (this.isEnding) this.leave()
    else for (let n = 0; n < (this.#messages.inFlight ?? 1); n++) this.#request()
    return true
  }

  #takeFrame(): boolean {
    const view = this.#rest.view()
    const [first, second] = view
    if (first === undefined || second === undefined || view.length < 2 + second) return false // 125 bytes at most
    const payload = Buffer.from(view.subarray(2, 2 + second))
    this.#rest.consume(2 + second)
    if (first === 0x81) this.#answer(payload.toString())
    else if (first === 0x88) this.#heardGoodbye(payload)
    else if (first === 0x89) this.#write(10, payload)
    else this.fail(`a frame that begins with ${first}`)
    return true
  }

  #answer(text: string): void {
    const [id = '', pid = ''] = text.split(' ')
    if (!this.answered(id, pid)) return
    if (this.isEnding && this.pending.length === 0) return this.leave()
    this.after(this.#messages.thinkMs?.() ?? 0, () => this.#request())
  }

  #heardGoodbye(payload: Buffer): void {
    const code = payload.length < 2 ? 1005 : payload.readUInt16BE(0)
    if (!this.#hasSaidGoodbye && code !== RESTART) return this.fail(`closed with ${code}`)
    this.isTold = true
    this.#messages.onGoodbye?.(code)
    this.#goodbye(payload.subarray(0, 2))
  }

  #goodbye(payload: Buffer): void {
    if (this.#hasSaidGoodbye) return
    this.#hasSaidGoodbye = true
    this.isEnding = true
    this.#write(8, payload)
  }

  /** RFC 6455 section 5.3 requires a mask, and zeros are allowed. */
  #write(opcode: number, payload: Buffer): void {
    this.socket.write(Buffer.concat([Buffer.from([0x80 | opcode, 0x80 | payload.length]), MASK, payload]))
  }
}
