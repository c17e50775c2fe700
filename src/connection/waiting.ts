// Messages that were accepted before they could be sent: a client is not connected yet, or the handshake of a protocol
// is not over. They count as queued.

export interface WaitingMessage {
  readonly message: unknown
  readonly isRaw: boolean
  /** Bytes. */
  readonly size: number
}

export class Waiting {
  #messages: WaitingMessage[] = []
  #bytes = 0

  get count(): number {
    return this.#messages.length
  }

  get bytes(): number {
    return this.#bytes
  }

  add(message: WaitingMessage): void {
    this.#messages.push(message)
    this.#bytes += message.size
  }

  /** Returns all of them, in order. Nothing waits after that. */
  takeAll(): readonly WaitingMessage[] {
    const messages = this.#messages
    this.#messages = []
    this.#bytes = 0
    return messages
  }
}
