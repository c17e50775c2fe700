// A socket of the master's that this process accepts on: its own, or that of a sibling that is not there. It may rest: then it
// gives its listener back, and opens again with a socket that it asks the master for. A listener takes a moment to open: who
// rests or closes meanwhile is not overruled.

import type { Listener } from '../transport.ts'
import type { Bound } from './acceptor.ts'

export class ListenPlace {
  readonly #listen: (source: Bound) => Promise<Listener>
  #listener: Listener | null = null
  /** What opens, if it is still wanted. */
  #opening: symbol | null = null
  /** Settled when all that was begun is open, or closed. */
  #begun: Promise<unknown> = Promise.resolve()

  constructor(listen: (source: Bound) => Promise<Listener>) {
    this.#listen = listen
  }

  get isOpen(): boolean {
    return this.#listener !== null
  }

  /** Rejects with a SystemError, unless nobody wants it any more. */
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

  /** Takes nobody until it has asked how many it may. */
  hold(): void {
    this.#listener?.hold?.()
  }

  rest(): void {
    this.#opening = null
    this.#listener?.close()
    this.#listener = null
  }

  /** Resolves when nothing of it is open any more, nor will be. */
  async close(): Promise<void> {
    this.rest()
    await this.#begun
  }
}
