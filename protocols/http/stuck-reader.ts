// Whether a client has stopped reading its answer. That the kernel takes nothing is no sign: it does only when a third
// of its buffer is free, which is megabytes. So what counts is what the client has acknowledged.

import type { CodecIo } from '../../src/protocol.ts'

export class StuckReader {
  readonly #io: CodecIo
  /** Bytes the client had not acknowledged, and what else would show that it is being sent to. */
  #left = 0
  #mark = 0
  #lookedAt = 0

  constructor(io: CodecIo) {
    this.#io = io
  }

  /** Whether for `ms` the client has acknowledged nothing, and nothing was added, which would have changed `mark`. */
  isStuck(mark: number, ms: number): boolean {
    const left = this.#io.queuedBytes > 0 ? this.#io.unacknowledgedBytes : 0
    const now = this.#io.now()
    const isSame = left > 0 && left === this.#left && mark === this.#mark
    if (isSame) return now - this.#lookedAt >= ms
    this.#left = left
    this.#mark = mark
    this.#lookedAt = now
    return false
  }
}
