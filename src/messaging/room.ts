// The bounds of what a process holds by itself, without an outbox: what it has published and receives itself, what
// waits for the subscriptions of others, and what has come from other machines.

export interface RoomHost {
  readonly maxMailboxMessages: number
  readonly maxMailboxBytes: number
  /** `take` has returned false. */
  onOwnFull(): void
  /** Half of it is free again after that. */
  onOwnDrain(): void
}

export class Room {
  readonly #host: RoomHost
  #count = 0
  #bytes = 0
  #isFull = false

  constructor(host: RoomHost) {
    this.#host = host
  }

  get isFree(): boolean {
    return this.#count < this.#host.maxMailboxMessages && this.#bytes < this.#host.maxMailboxBytes
  }

  /** In words. */
  get content(): string {
    return `${this.#count} messages, ${this.#bytes} bytes`
  }

  /** Returns false when it is full with this one. */
  take(bytes: number): boolean {
    this.#count++
    this.#bytes += bytes
    if (this.isFree) return true
    this.full()
    return false
  }

  /** Something was refused, or will be: its sender waits for `onOwnDrain`. */
  full(): void {
    if (this.#isFull) return
    this.#isFull = true
    this.#host.onOwnFull()
  }

  /** Call `look` when callbacks may run. */
  give(bytes: number): void {
    this.#count--
    this.#bytes -= bytes
  }

  look(): void {
    const { maxMailboxMessages, maxMailboxBytes } = this.#host
    if (!this.#isFull || this.#count > maxMailboxMessages / 2 || this.#bytes > maxMailboxBytes / 2) return
    this.#isFull = false
    this.#host.onOwnDrain()
  }
}
