// What a serial worker has published and receives itself, until it is its turn. Nobody else keeps it: if the process
// leaves first, this is where its loss is told.

import { nothing } from '../nothing.ts'
import type { Answers } from './mailbox.ts'
import type { WorkerRef } from './references.ts'

export class QueuedPublish implements Answers {
  readonly from: WorkerRef
  /** Called once. The error is null if it has been handled. */
  readonly #end: (error: unknown) => void
  isOver = false

  constructor(from: WorkerRef, end: (error: unknown) => void) {
    this.from = from
    this.#end = end
  }

  handled(): void {
    this.#finish(null)
  }

  fail(_number: number, error: unknown): void {
    this.#finish(error)
  }

  #finish(error: unknown): void {
    if (this.isOver) return
    this.isOver = true
    this.#end(error)
  }

  readonly answer = nothing
  readonly remember = nothing
  readonly forget = nothing
  readonly stream = (): Promise<void> => Promise.resolve()
}
