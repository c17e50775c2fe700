// The server's events on one connection of the control socket. The client may be slow, suspended or gone: what it does
// not take is counted and dropped, and the master neither waits nor grows because of it.

import type { Socket } from 'node:net'
import type { ServerEvent, StampedEvent } from './events.ts'

/** A line of the stream, after the answer. */
export interface EventLine {
  readonly event: StampedEvent | Extract<ServerEvent, { type: 'lost' }>
}

/** Bytes that may wait in our memory, beyond what the kernel buffers. */
const MOST_WAITING = 262_144
/** A client that takes nothing for this long while something waits is disconnected, ms. */
const PATIENCE_MS = 30_000

/** Sends each event passed to `tell` to `socket`, as a line of JSON. */
export class EventStream {
  readonly #socket: Socket
  #lost = 0

  constructor(socket: Socket) {
    this.#socket = socket
    socket.on('drain', () => this.#tellLoss())
    socket.on('timeout', () => this.#look()) // `setTimeout` would call it once
    socket.setTimeout(PATIENCE_MS)
  }

  tell(event: StampedEvent): void {
    if (this.#socket.writableLength > MOST_WAITING) this.#lost++
    else {
      this.#tellLoss()
      this.#write({ event })
    }
  }

  #tellLoss(): void {
    const count = this.#lost
    this.#lost = 0
    if (count > 0) this.#write({ event: { type: 'lost', count } })
  }

  #write(line: EventLine): void {
    if (this.#socket.writable) this.#socket.write(`${JSON.stringify(line)}\n`)
  }

  /** Nothing was sent for a while: either there was nothing, or the client does not read. */
  #look(): void {
    if (this.#socket.writableLength > 0) this.#socket.destroy()
    else this.#socket.setTimeout(PATIENCE_MS)
  }
}
