// A connection before it is one: accepted, while its peer has a header to send or hands to shake. A worker that leaves waits for
// those that have begun, and lets go of those that have said nothing.

import { kGone, processClock } from '../connection/host.ts'
import type { AnyConnection } from '../connection.ts'
import type { Counters } from '../counters.ts'

/** Its owner; a Worker is one. */
export interface ArrivalHost {
  readonly counters: Counters
  /** Those of this process. */
  readonly arrivals: Set<Arrival>
  [kGone](connection?: AnyConnection): void
}

export abstract class Arrival {
  /** What is awaited, in words. */
  abstract readonly what: string
  readonly #host: ArrivalHost
  readonly #since = processClock.now()

  constructor(host: ArrivalHost) {
    this.#host = host
    host.arrivals.add(this)
  }

  /** For how long it has been here without a byte, ms; 0 when something has come. */
  get silentMs(): number {
    return this.hasBegun ? 0 : processClock.now() - this.#since
  }

  /** Its peer has sent something. */
  protected abstract readonly hasBegun: boolean

  /** The worker is leaving: closes it. */
  abstract leave(): void

  /** It is a connection, or gone. */
  protected settle(): void {
    if (this.#host.arrivals.delete(this) && this.#host.arrivals.size === 0) this.#host[kGone]()
  }
}
