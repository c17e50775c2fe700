// An EventSource: a stream of events with ids, opened again with the last id when it ends. A truncated answer and a
// missing or repeated event count as lost.

import { AnswerReader } from './answer-reader.ts'
import type { Client } from './load.ts'
import { Session } from './session.ts'

/**
 * `GET /events?id=`: each event's id is the previous one plus one; its data are the words `<id of the request> <pid>`.
 */
export function eventClient(port: number): Client {
  return (seat) => new EventSession(seat, port)
}

class EventSession extends Session {
  readonly #answers = new AnswerReader({
    onHead: (status, isLast) => this.#head(status, isLast),
    onData: (bytes) => this.#events(bytes.toString()),
    onEnd: () => this.#ended(),
  })
  #rest = ''
  #request = ''
  #pid = ''

  protected begin(): void {
    if (!this.mayAsk) return
    this.#request = this.ask()
    const last = this.seat.memory === '' ? '' : `Last-Event-ID: ${this.seat.memory}\r\n`
    this.socket.write(
      `GET /events?id=${this.#request} HTTP/1.1\r\nHost: load\r\nAccept: text/event-stream\r\n${last}\r\n`,
    )
  }

  protected get isMidAnswer(): boolean {
    return this.#answers.isMidAnswer
  }

  /** A stream does not end by itself: when the client leaves it, its request counts as answered. */
  override finish(): void {
    this.isEnding = true
    if (this.pending.length > 0 && this.#pid !== '') this.answered(this.#request, this.#pid)
    this.socket.destroy()
  }

  protected receive(bytes: Buffer): void {
    try {
      this.#answers.take(bytes)
    } catch (error) {
      this.fail(String(error))
    }
  }

  #head(status: number, isLast: boolean): void {
    if (status !== 200) return this.fail(`status ${status}`)
    if (isLast) this.isTold = true
  }

  #events(text: string): void {
    const events = (this.#rest + text).split('\n\n')
    this.#rest = events.pop() ?? ''
    for (const event of events) this.#event(event)
  }

  #event(event: string): void {
    const [, id = '', request, pid = ''] = /^id: (\d+)\ndata: (\d+) (\d+)$/.exec(event) ?? []
    const expected = String(Number(this.seat.memory || '0') + 1)
    if (id !== expected || request !== this.#request) return this.fail(`event ${id} where ${expected} was due`)
    this.seat.memory = id
    this.#pid = pid
  }

  /** The server has ended the stream properly: opens another one, here or elsewhere. */
  #ended(): void {
    if (this.#rest !== '') return this.fail('an event was cut')
    if (!this.answered(this.#request, this.#pid)) return
    if (this.isTold) this.leave()
    else this.begin()
  }
}
