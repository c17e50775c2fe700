// Who accepts for siblings that are not there (SO_REUSEPORT: what waits at their sockets waits for them alone), turn by turn.
// The master numbers these, and says when one is over; a listener takes a moment to open, so it may have changed its mind
// meanwhile.

import type { GivenSocket } from './process/group.ts'
import type { Listener } from './transport.ts'

export class StandIns {
  readonly #listen: (socket: GivenSocket) => Promise<Listener>
  readonly #opening = new Map<number, symbol>()
  readonly #listeners = new Map<number, Listener>()

  constructor(listen: (socket: GivenSocket) => Promise<Listener>) {
    this.#listen = listen
  }

  /** Rejects as `listen` does; then nobody stands in. */
  async begin(turn: number, socket: GivenSocket): Promise<void> {
    this.end(turn)
    const mine = Symbol(turn)
    this.#opening.set(turn, mine)
    const isWanted = () => this.#opening.get(turn) === mine
    try {
      const listener = await this.#listen(socket)
      if (isWanted()) this.#listeners.set(turn, listener)
      else listener.close() // the sibling was quicker
    } finally {
      if (isWanted()) this.#opening.delete(turn)
    }
  }

  end(turn: number): void {
    this.#opening.delete(turn)
    this.#listeners.get(turn)?.close()
    this.#listeners.delete(turn)
  }

  endAll(): void {
    for (const turn of [...this.#opening.keys(), ...this.#listeners.keys()]) this.end(turn)
  }
}
