// Owner of the connections this process opens. They belong to no worker, but a leaving worker waits for what their
// handlers have begun.

import { type ConnectionHost, kGone } from '../connection/host.ts'
import type { AnyConnection } from '../connection.ts'
import { newCounters } from '../counters.ts'
import { nothing } from '../nothing.ts'

/** The settings that an accepted connection takes from its worker. */
type ClientLimits = Pick<
  ConnectionHost,
  'maxPackageSize' | 'maxSendBufferSize' | 'idleTimeoutMs' | 'maxInFlight' | 'maxQueuedMessages'
>

let worker: ConnectionHost | null = null
const counters = newCounters()
const connections = new Map<number, AnyConnection>()

/** From now on this process serves for `host`. */
export function serveFor(host: ConnectionHost): void {
  worker = host
}

export class ClientHost implements ConnectionHost {
  readonly name = 'client'
  readonly id = 0
  readonly counters = counters
  readonly connections = connections
  readonly tls = null
  target: { readonly authority: string; readonly uri: string } = { authority: '', uri: '/' }
  readonly onConnect = null
  readonly onMessage = null
  readonly onClose = null
  readonly onError = null
  readonly onBufferFull = null
  readonly onBufferDrain = null
  readonly maxPackageSize: number
  readonly maxSendBufferSize: number
  readonly idleTimeoutMs: number
  readonly maxInFlight: number
  maxQueuedMessages: number
  /** Called when the connection has closed, after its `onClose`. */
  whenClosed: () => void = nothing
  readonly #worker = worker
  #unsettled = 0

  constructor(limits: ClientLimits) {
    this.maxPackageSize = limits.maxPackageSize
    this.maxSendBufferSize = limits.maxSendBufferSize
    this.idleTimeoutMs = limits.idleTimeoutMs
    this.maxInFlight = limits.maxInFlight
    this.maxQueuedMessages = limits.maxQueuedMessages
  }

  get unsettled(): number {
    return this.#unsettled
  }

  set unsettled(count: number) {
    if (this.#worker !== null) this.#worker.unsettled += count - this.#unsettled
    this.#unsettled = count
  }

  [kGone](connection?: AnyConnection): void {
    if (connection !== undefined) this.whenClosed()
    this.#worker?.[kGone]()
  }
}
