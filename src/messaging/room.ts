// How much may be unsettled at a time: of what an outbox or a Cluster has sent, of what a process publishes and
// receives itself, of what has come to it from other machines. Whoever was refused, or told to stop, waits until half
// is free.

interface RoomLimits {
  readonly maxMessages: number
  readonly maxBytes: number
}

interface RoomOwner {
  /** It is full. */
  onFull(): void
  /** Half of it is free again after that. */
  onDrain(): void
}

export interface MailboxLimits {
  readonly maxMailboxMessages: number
  readonly maxMailboxBytes: number
}

export class Room {
  readonly #limits: RoomLimits
  readonly #owner: RoomOwner
  #count = 0
  #bytes = 0
  #isFull = false

  /** @param limits read anew each time, since they may change */
  constructor(limits: RoomLimits, owner: RoomOwner) {
    this.#limits = limits
    this.#owner = owner
  }

  /** Number of messages in it. */
  get count(): number {
    return this.#count
  }

  get isFree(): boolean {
    return this.#count < this.#limits.maxMessages && this.#bytes < this.#limits.maxBytes
  }

  /** In words. */
  get content(): string {
    return `${this.#count} messages, ${this.#bytes} bytes`
  }

  /** Call `check` when callbacks may run. */
  add(bytes: number): void {
    this.#count++
    this.#bytes += bytes
  }

  /** A message turned out to be so much longer. */
  grow(bytes: number): void {
    this.#bytes += bytes
  }

  /** Returns whether it is free, as `isFree`; whoever is told that it is not waits for `onDrain`. */
  check(): boolean {
    if (this.isFree) return true
    this.full()
    return false
  }

  /** Returns false when it is full with this one. */
  take(bytes: number): boolean {
    this.add(bytes)
    return this.check()
  }

  /** Something was refused, or will be: its sender waits for `onDrain`. */
  full(): void {
    if (this.#isFull) return
    this.#isFull = true
    this.#owner.onFull()
  }

  /** Call `look` when callbacks may run. */
  give(bytes: number): void {
    this.#count--
    this.#bytes -= bytes
  }

  look(): void {
    const { maxMessages, maxBytes } = this.#limits
    if (!this.#isFull || this.#count > maxMessages / 2 || this.#bytes > maxBytes / 2) return
    this.#isFull = false
    this.#owner.onDrain()
  }
}

/** Of a Worker, which may change them at any time. */
export function limitsOf(mailbox: MailboxLimits): RoomLimits {
  return {
    get maxMessages() {
      return mailbox.maxMailboxMessages
    },
    get maxBytes() {
      return mailbox.maxMailboxBytes
    },
  }
}
