// Who accepts for siblings that are not there (SO_REUSEPORT: what waits at their sockets waits for them alone), by the place
// of each. The master says for whom, and since when not any more; a listener takes a moment to open, so it may have changed
// its mind meanwhile, twice even.

import type { GivenSocket } from './process/group.ts'
import type { Listener } from './transport.ts'

export class StandIns {
  readonly #listen: (socket: GivenSocket) => Promise<Listener>
  readonly #opening = new Map<number, symbol>()
  readonly #listeners = new Map<number, Listener>()

  constructor(listen: (socket: GivenSocket) => Promise<Listener>) {
    this.#listen = listen
  }

  /** Rejects as `listen` does; then nobody stands in at this place. */
  async begin(place: number, socket: GivenSocket): Promise<void> {
    this.end(place)
    const turn = Symbol(place)
    this.#opening.set(place, turn)
    const isWanted = () => this.#opening.get(place) === turn
    try {
      const listener = await this.#listen(socket)
      if (isWanted()) this.#listeners.set(place, listener)
      else listener.close() // the sibling was quicker
    } finally {
      if (isWanted()) this.#opening.delete(place)
    }
  }

  end(place: number): void {
    this.#opening.delete(place)
    this.#listeners.get(place)?.close()
    this.#listeners.delete(place)
  }

  endAll(): void {
    for (const place of [...this.#opening.keys(), ...this.#listeners.keys()]) this.end(place)
  }
}
