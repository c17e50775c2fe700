// Lines: sends an id, receives `<id> ... <pid>`.

import type { Client, Seat } from './load.ts'
import { Session } from './session.ts'

export interface Lines {
  readonly port: number
  /** Requests in flight at once. */
  readonly inFlight?: number
  /** Pause between an answer and the next request or the end of the connection, ms; a function for one that varies. */
  readonly thinkMs?: () => number
  /** Closes after this many answers. */
  readonly answersPerConnection?: number
}

export function textClient(lines: Lines): Client {
  return (seat) => new TextSession(seat, lines)
}

class TextSession extends Session {
  readonly #lines: Lines
  #rest = ''
  #answers = 0

  constructor(seat: Seat, lines: Lines) {
    super(seat, lines.port)
    this.#lines = lines
  }

  protected begin(): void {
    for (let n = 0; n < (this.#lines.inFlight ?? 1); n++) this.#request()
  }

  protected get isMidAnswer(): boolean {
    return this.#rest !== ''
  }

  #request(): void {
    if (this.mayAsk) this.socket.write(`${this.ask()}\n`)
  }

  protected receive(bytes: Buffer): void {
    const lines = (this.#rest + bytes.toString()).split('\n')
    this.#rest = lines.pop() ?? ''
    for (const line of lines) this.#answer(line)
  }

  #answer(line: string): void {
    const words = line.split(' ')
    if (!this.answered(words[0] ?? '', words.at(-1) ?? '')) return
    if (++this.#answers >= (this.#lines.answersPerConnection ?? Number.POSITIVE_INFINITY)) this.isEnding = true
    this.after(this.#lines.thinkMs?.() ?? 0, () => this.#goOn())
  }

  #goOn(): void {
    if (!this.isEnding) this.#request()
    else if (this.pending.length === 0) this.leave()
  }
}
