// The connections of probes. A probe asks once and leaves, so each connection is for one answer and for a short time,
// and there are few. A newcomer takes the place of who has been there for longest: connections that somebody has
// forgotten, or whose answers nobody reads, must not keep out the one that asks whether the master is alive.

import type { Socket } from 'node:net'

interface Visit {
  readonly deadline: NodeJS.Timeout
  hasAsked: boolean
}

export class Visits {
  /** The oldest first. */
  readonly #visits = new Map<Socket, Visit>()
  readonly #most: number
  readonly #longestMs: number

  /** At most `most` connections, each for at most `longestMs`. */
  constructor(most: number, longestMs: number) {
    this.#most = most
    this.#longestMs = longestMs
  }

  begin(socket: Socket): void {
    for (const [oldest] of this.#visits) {
      if (this.#visits.size < this.#most) break
      this.#end(oldest)
    }
    const deadline = setTimeout(() => this.#end(socket), this.#longestMs)
    deadline.unref()
    this.#visits.set(socket, { deadline, hasAsked: false })
    socket.once('close', () => this.#end(socket))
  }

  /** Whether this is its first request. What is pipelined behind it is not answered. */
  asks(socket: Socket): boolean {
    const visit = this.#visits.get(socket)
    if (visit === undefined || visit.hasAsked) return false
    visit.hasAsked = true
    return true
  }

  #end(socket: Socket): void {
    clearTimeout(this.#visits.get(socket)?.deadline)
    this.#visits.delete(socket)
    socket.destroy()
  }
}
