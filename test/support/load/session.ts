// One connection of a load, whatever its protocol: what is pending, which process answers, and how it ended.
//
// An end is orderly if FIN came and no answer was half received. Requests pending then were declined if the server had
// said goodbye, and crossed the FIN on the wire otherwise. After any other end they are lost.

import net from 'node:net'
import type { Seat, Seated } from './load.ts'

let lastId = 0

export abstract class Session implements Seated {
  protected readonly seat: Seat
  protected readonly socket: net.Socket
  /** Ids without an answer, oldest first. */
  protected readonly pending: string[] = []
  /** The client is leaving: no new requests are sent here. */
  protected isEnding = false
  /** The server is leaving: pending requests may go elsewhere. */
  protected isTold = false
  #pid = ''
  #isOver = false
  readonly #openedAt = performance.now()
  readonly #timers = new Set<NodeJS.Timeout>()

  constructor(seat: Seat, port: number) {
    this.seat = seat
    this.socket = net.connect(port, '127.0.0.1')
    this.socket
      .setNoDelay()
      .on('connect', () => this.begin())
      .on('data', (bytes: Buffer) => this.#take(bytes))
      .on('end', () => this.#ended())
      .on('error', (error) => this.fail(error.message))
      .on('close', () => this.#closed())
  }

  /** The connection is established. */
  protected abstract begin(): void
  protected abstract receive(bytes: Buffer): void
  /** Part of an answer has arrived, but not all of it. */
  protected abstract get isMidAnswer(): boolean

  finish(): void {
    this.isEnding = true
    this.#clearTimers()
    if (this.pending.length === 0) this.leave()
  }

  /** Ends the connection as its protocol requires. */
  protected leave(): void {
    this.socket.end()
  }

  /** Registers a request about to be written. Returns its id. */
  protected ask(): string {
    const id = String(++lastId)
    this.seat.tally.sent++
    this.pending.push(id)
    return id
  }

  protected get mayAsk(): boolean {
    return !this.isEnding && !this.isTold && !this.#isOver && !this.socket.readableEnded
  }

  /**
   * The oldest request has been answered. Returns false if the answer was for another one, which ends the connection.
   */
  protected answered(id: string, pid: string): boolean {
    const expected = this.pending[0]
    if (id !== expected) {
      this.fail(`answer ${id} where ${expected} was due`)
      return false
    }
    this.pending.shift()
    this.seat.tally.answered++
    this.seat.load.pids.add(pid)
    this.#pid = pid
    return true
  }

  /** Calls `act` after `ms`, unless the connection has ended by then. */
  protected after(ms: number, act: () => void): void {
    if (ms <= 0) return act()
    const timer = setTimeout(() => {
      this.#timers.delete(timer)
      act()
    }, ms)
    this.#timers.add(timer)
  }

  /** A disorderly end: everything pending is lost, or the connection itself if nothing is. */
  protected fail(why: string): void {
    if (this.#isOver) return
    this.#isOver = true
    const { tally, load } = this.seat
    const count = this.pending.splice(0).length
    if (load.isKilled(this.#pid, this.#openedAt)) tally.killed += count
    else if (count === 0) this.#loseConnection(why)
    else for (let n = 0; n < count; n++) tally.lost.push(`${why} (pid ${this.#pid || 'unknown'})`)
    this.socket.destroy()
  }

  /** Counted as a request that failed, so that the totals stay balanced. */
  #loseConnection(why: string): void {
    this.seat.tally.sent++
    this.seat.tally.lost.push(`${why}, with nothing in flight (pid ${this.#pid || 'unknown'})`)
  }

  #take(bytes: Buffer): void {
    if (!this.#isOver) this.receive(bytes)
  }

  #ended(): void {
    this.#clearTimers()
    if (this.#isOver) return
    if (this.isMidAnswer) return this.fail('an answer was cut')
    this.#isOver = true
    const { tally, load } = this.seat
    const count = this.pending.splice(0).length
    if (count === 0) return
    if (this.isTold) tally.declined += count
    else if (load.isKilled(this.#pid, this.#openedAt))
      tally.killed += count // the kernel sends FIN in this case, too
    else {
      tally.crossed += count
      tally.crossedConnections++
    }
  }

  #closed(): void {
    this.#clearTimers()
    if (!this.#isOver && this.pending.length > 0) this.fail('closed without an answer')
    this.#isOver = true
    this.seat.open()
  }

  #clearTimers(): void {
    for (const timer of this.#timers) clearTimeout(timer)
    this.#timers.clear()
  }
}
