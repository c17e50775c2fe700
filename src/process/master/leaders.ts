// Which process leads what, in the master: for each name at most one, and the next one only when that has said that it is
// done, or is gone. The master knows who lives, so there is no lease that could run out under a leader that is slow.

import type { WorkerHandle } from './worker-handle.ts'

/** As `status` shows it. */
export interface Leader {
  readonly name: string
  readonly pid: number
}

interface Candidate {
  readonly handle: WorkerHandle
  readonly ticket: number
  /** Of which reload its code is. */
  readonly generation: number
}

interface Seat {
  leader: Candidate | null
  waiting: Candidate[]
}

export class Leaders {
  /** Grows with each reload: new code is chosen first, so that a name does not pass through all who are about to leave. */
  generation = 0
  readonly #mayChoose: () => boolean
  readonly #seats = new Map<string, Seat>()

  /** `mayChoose`: not while processes of another master may lead. When it may again, `settle` is to be called. */
  constructor(mayChoose: () => boolean) {
    this.#mayChoose = mayChoose
  }

  stand(handle: WorkerHandle, name: string, ticket: number): void {
    const seat = this.#seats.get(name) ?? { leader: null, waiting: [] }
    this.#seats.set(name, seat)
    seat.waiting.push({ handle, ticket, generation: this.generation })
    this.settle()
  }

  /** It does not lead any more, or does not want to. */
  resign(handle: WorkerHandle, name: string, ticket: number): void {
    this.#strike(({ handle: one, ticket: its }) => one === handle && its === ticket, name)
    this.settle()
  }

  forget(handle: WorkerHandle): void {
    for (const name of [...this.#seats.keys()]) this.#strike((one) => one.handle === handle, name)
    this.settle()
  }

  /** Gives every name without a leader to one of those that serve. */
  settle(): void {
    if (!this.#mayChoose()) return
    for (const [name, seat] of this.#seats) {
      if (seat.leader !== null) continue
      const next = bestOf(seat.waiting.filter(({ handle }) => handle.state === 'ready'))
      if (next === undefined) continue
      seat.leader = next
      seat.waiting = seat.waiting.filter((one) => one !== next)
      next.handle.lead(name, next.ticket)
    }
  }

  list(): Leader[] {
    return [...this.#seats].flatMap(([name, { leader }]) => (leader === null ? [] : [{ name, pid: leader.handle.pid }]))
  }

  #strike(isMeant: (one: Candidate) => boolean, name: string): void {
    const seat = this.#seats.get(name)
    if (seat === undefined) return
    seat.waiting = seat.waiting.filter((one) => !isMeant(one))
    if (seat.leader !== null && isMeant(seat.leader)) seat.leader = null
    if (seat.leader === null && seat.waiting.length === 0) this.#seats.delete(name)
  }
}

/** The newest code, and of that who came first. */
function bestOf(candidates: readonly Candidate[]): Candidate | undefined {
  const newest = Math.max(...candidates.map(({ generation }) => generation))
  return candidates.find(({ generation }) => generation === newest)
}
