// An accepted socket that is not a connection yet: its PROXY header or TLS handshake is still to come. A leaving worker
// waits for arrivals that have begun, and closes those that have sent nothing.

import { kGone, processClock } from '../connection/host.ts'
import type { AnyConnection } from '../connection.ts'
import type { Counters } from '../counters.ts'

/** Owner of the arrivals; a Worker, for example. */
export interface ArrivalHost {
  readonly counters: Counters
  /** The arrivals of this process. */
  readonly arrivals: Set<Arrival>
  [kGone](connection?: AnyConnection): void
}

export abstract class Arrival {
  /** What it waits for, in words. */
  abstract readonly what: string
  readonly #host: ArrivalHost
  readonly #since = processClock.now()

  constructor(host: ArrivalHost) {
    this.#host = host
    host.arrivals.add(this)
  }

  /** How long it has been here without a byte, in ms; 0 once something has arrived. */
  get silentMs(): number {
    return this.hasBegun ? 0 : processClock.now() - this.#since
  }

  /** Its peer has sent something. */
  protected abstract readonly hasBegun: boolean

  /** The worker is leaving: closes the arrival. */
  abstract leave(): void

  /** It has become a connection, or is gone. */
  protected settle(): void {
    if (this.#host.arrivals.delete(this) && this.#host.arrivals.size === 0) this.#host[kGone]()
  }
}
