// Which process leads which name, kept in the master: at most one leader per name, and the next one only after that
// leader has resigned or gone. The master knows which processes live, so there is no lease that could expire under a
// slow leader.

import type { WorkerHandle } from './worker-handle.ts'

/** As `status` shows it. */
export interface Leader {
  readonly name: string
  readonly pid: number
}

interface Candidate {
  readonly handle: WorkerHandle
  readonly ticket: number
  /** The reload that its code belongs to. */
  readonly generation: number
}

interface Seat {
  leader: Candidate | null
  waiting: Candidate[]
}

export class Leaders {
  /**
   * Grows with each reload. New code is chosen first, so that a name does not pass through processes about to leave.
   */
  generation = 0
  /** Called when a name has lost its leader. */
  onFree: (() => void) | null = null
  readonly #mayChoose: (name: string) => boolean
  readonly #seats = new Map<string, Seat>()

  /** `mayChoose` is false while a process of another master may lead that name. Call `settle` when it becomes true. */
  constructor(mayChoose: (name: string) => boolean) {
    this.#mayChoose = mayChoose
  }

  stand(handle: WorkerHandle, name: string, ticket: number): void {
    const seat = this.#seats.get(name) ?? { leader: null, waiting: [] }
    this.#seats.set(name, seat)
    seat.waiting.push({ handle, ticket, generation: this.generation })
    this.settle()
  }

  /** The process no longer leads this name, or no longer stands for it. */
  resign(handle: WorkerHandle, name: string, ticket: number): void {
    this.#strike(({ handle: one, ticket: its }) => one === handle && its === ticket, name)
    this.settle()
  }

  forget(handle: WorkerHandle): void {
    for (const name of [...this.#seats.keys()]) this.#strike((one) => one.handle === handle, name)
    this.settle()
  }

  /** Gives every name without a leader to a candidate that serves. */
  settle(): void {
    for (const [name, seat] of this.#seats) {
      if (seat.leader !== null || !this.#mayChoose(name)) continue
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
    const isFreed = seat.leader !== null && isMeant(seat.leader)
    if (isFreed) seat.leader = null
    if (seat.leader === null && seat.waiting.length === 0) this.#seats.delete(name)
    if (isFreed) this.onFree?.()
  }
}

/** The newest code first, then the earliest candidate. */
function bestOf(candidates: readonly Candidate[]): Candidate | undefined {
  const newest = Math.max(...candidates.map(({ generation }) => generation))
  return candidates.find(({ generation }) => generation === newest)
}
