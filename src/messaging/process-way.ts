// To one process, whichever outbox carries messages there now: it may not be ready yet, have its slot, or drain beside
// another one.

import type { Outbox } from './outbox.ts'
import type { Route } from './peers.ts'
import type { PendingRequest, RequestOptions } from './pending-request.ts'
import type { ProcessOutboxes } from './process-outboxes.ts'
import type { Way } from './references.ts'
import { Whom } from './waitlist.ts'

export class ProcessWay implements Way {
  readonly #outboxes: ProcessOutboxes
  readonly #process: Route
  readonly #whom: Whom.Process | Whom.Slot
  /** The one that was right last time, so that not every message looks for it. */
  #known: Outbox | null = null

  /** @param whom for when the process is gone: what is sent then fails, or goes to its slot */
  constructor(outboxes: ProcessOutboxes, process: Route, whom: Whom.Process | Whom.Slot) {
    this.#outboxes = outboxes
    this.#process = process
    this.#whom = whom
  }

  get count(): number {
    return this.#outbox.count
  }

  send(message: unknown): boolean {
    return this.#outbox.send(message, this.#whom)
  }

  request(message: unknown, options: RequestOptions): PendingRequest {
    return this.#outbox.request(message, options, null, this.#whom)
  }

  get #outbox(): Outbox {
    const { mailbox, id, address } = this.#process
    if (this.#known?.isUp && this.#known.address === address) return this.#known
    this.#known = this.#outboxes.to(this.#process)
    if (this.#known !== null) return this.#known
    return this.#whom === Whom.Process ? this.#outboxes.lost(mailbox, id) : this.#outboxes.ofSlot(mailbox, id)
  }
}
