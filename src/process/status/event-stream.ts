// The events of a server on one connection of the control socket. Whoever follows may be slow, stopped or gone: what he
// does not take is counted and dropped, and the master neither waits nor grows for him.

import type { Socket } from 'node:net'
import type { ServerEvent, StampedEvent } from './events.ts'

/** A line of the stream, after the answer. */
export interface EventLine {
  readonly event: StampedEvent | Extract<ServerEvent, { type: 'lost' }>
}

/** Bytes that may wait in our memory, beyond what the kernel takes. */
const MOST_WAITING = 262_144
/** Who takes nothing for so long while something waits is let go, ms. */
const PATIENCE_MS = 30_000

/** Sends each event that `tell` is called with to `socket`, as a line of JSON. */
export class EventStream {
  readonly #socket: Socket
  #lost = 0

  constructor(socket: Socket) {
    this.#socket = socket
    socket.on('drain', () => this.#tellLoss())
    socket.setTimeout(PATIENCE_MS, () => this.#look())
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

  /** Nothing went through for a while: because there was nothing, or because he does not read. */
  #look(): void {
    if (this.#socket.writableLength > 0) this.#socket.destroy()
    else this.#socket.setTimeout(PATIENCE_MS)
  }
}
