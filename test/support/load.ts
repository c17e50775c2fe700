// A load that counts: every request has an id of its own, and each ends as answered, as crossed (it was on its way when
// the server's orderly FIN was: what a protocol without a goodbye cannot save), or as lost, with a reason. A connection
// that the server ends is opened again at once.

import net from 'node:net'
import { until } from './until.ts'

export interface Kind {
  /** Requests in flight at once. */
  readonly inFlight: number
  /** Between an answer and the next request, ms; a function for one that varies. */
  readonly thinkMs: () => number
  /** Closes after this many answers. */
  readonly answersPerConnection: number
}

export class Load {
  sent = 0
  answered = 0
  /** Requests and connections. */
  crossed = 0
  crossedConnections = 0
  opened = 0
  /** What must not happen, each in words. */
  readonly lost: string[] = []
  /** Who answered since this was last cleared. */
  readonly pids = new Set<string>()
  readonly port: number
  isOver = false
  readonly #sessions = new Set<Session>()

  constructor(port: number) {
    this.port = port
  }

  add(count: number, kind: Kind): void {
    for (let n = 0; n < count; n++) this.open(kind)
  }

  open(kind: Kind): void {
    if (!this.isOver) this.#sessions.add(new Session(this, kind))
  }

  gone(session: Session, kind: Kind): void {
    this.#sessions.delete(session)
    this.open(kind)
  }

  /** No new requests; resolves when every one sent has ended in some way. */
  async end(): Promise<void> {
    this.isOver = true
    for (const session of this.#sessions) session.finish()
    await until(() => this.#sessions.size === 0, 10_000)
  }
}

class Session {
  readonly #load: Load
  readonly #kind: Kind
  readonly #socket: net.Socket
  #pending: string[] = []
  #rest = ''
  #answers = 0
  #isEnding = false
  #timers = new Set<NodeJS.Timeout>()

  constructor(load: Load, kind: Kind) {
    this.#load = load
    this.#kind = kind
    load.opened++
    this.#socket = net.connect(load.port, '127.0.0.1')
    this.#socket
      .setNoDelay()
      .setEncoding('utf8')
      .on('connect', () => this.#begin())
      .on('data', (text: string) => this.#receive(text))
      .on('end', () => this.#serverEnded())
      .on('error', (error) => this.#fail(error.message))
      .on('close', () => this.#closed())
  }

  /** No more requests. */
  finish(): void {
    this.#isEnding = true
    this.#clearTimers()
    if (this.#pending.length === 0) this.#socket.end()
  }

  #begin(): void {
    for (let n = 0; n < this.#kind.inFlight; n++) this.#request()
  }

  #request(): void {
    if (this.#isEnding || this.#socket.readableEnded) return
    const id = String(++this.#load.sent)
    this.#pending.push(id)
    this.#socket.write(`${id}\n`)
  }

  #receive(text: string): void {
    const lines = (this.#rest + text).split('\n')
    this.#rest = lines.pop() ?? ''
    for (const line of lines) this.#answer(line)
  }

  #answer(line: string): void {
    const [id, pid = ''] = line.split(' ')
    const expected = this.#pending.shift()
    if (id !== expected) return this.#fail(`answer ${id} where ${expected} was due`)
    this.#load.answered++
    this.#load.pids.add(pid)
    if (++this.#answers >= this.#kind.answersPerConnection) this.#isEnding = true
    if (this.#isEnding) {
      if (this.#pending.length === 0) this.#socket.end()
      return
    }
    const thinkMs = this.#kind.thinkMs()
    if (thinkMs === 0) return this.#request()
    const timer = setTimeout(() => {
      this.#timers.delete(timer)
      this.#request()
    }, thinkMs)
    this.#timers.add(timer)
  }

  /** An orderly end: what is pending crossed it on the wire. */
  #serverEnded(): void {
    this.#clearTimers()
    this.#load.crossed += this.#pending.length
    if (this.#pending.length > 0) this.#load.crossedConnections++
    this.#pending = []
  }

  #fail(why: string): void {
    this.#load.lost.push(why)
    this.#socket.destroy()
  }

  #closed(): void {
    this.#clearTimers()
    if (this.#pending.length > 0) this.#load.lost.push(`closed with ${this.#pending.length} unanswered`)
    this.#load.gone(this, this.#kind)
  }

  #clearTimers(): void {
    for (const timer of this.#timers) clearTimeout(timer)
    this.#timers.clear()
  }
}
