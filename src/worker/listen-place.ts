// A master-owned socket on which this process accepts: its own, or that of an absent sibling. To rest, it gives its
// listener back; to go on, it asks the master for the socket again. If it is closed or rests while a listener opens,
// that decision stands.

import type { Listener } from '../transport.ts'
import type { Bound } from './acceptor.ts'

export class ListenPlace {
  readonly #listen: (source: Bound) => Promise<Listener>
  #listener: Listener | null = null
  /** The opening in progress, if it is still wanted. */
  #opening: symbol | null = null
  /** Settles when every listener that began to open is open or closed. */
  #begun: Promise<unknown> = Promise.resolve()

  constructor(listen: (source: Bound) => Promise<Listener>) {
    this.#listen = listen
  }

  get isOpen(): boolean {
    return this.#listener !== null
  }

  /** Rejects with a SystemError, unless it is no longer wanted. */
  open(source: Bound | Promise<Bound>): Promise<void> {
    this.rest()
    const opened = this.#open(source)
    this.#begun = Promise.allSettled([this.#begun, opened])
    return opened
  }

  async #open(source: Bound | Promise<Bound>): Promise<void> {
    const mine = Symbol('opening')
    this.#opening = mine
    try {
      const listener = await this.#listen(await source)
      if (this.#opening === mine) this.#listener = listener
      else listener.close()
    } catch (error) {
      if (this.#opening === mine) throw error
    }
  }

  /** Accepts nothing until it has asked how many it may accept. */
  hold(): void {
    this.#listener?.hold?.()
  }

  rest(): void {
    this.#opening = null
    this.#listener?.close()
    this.#listener = null
  }

  /** Resolves when no listener of it is open or still opening. */
  async close(): Promise<void> {
    this.rest()
    await this.#begun
  }
}
