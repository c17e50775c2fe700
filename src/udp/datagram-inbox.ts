// Datagrams on their way to handlers: decoded, counted and bounded. UDP has no flow control, so excess can only be
// dropped: beyond the limit of unsettled handlers datagrams wait, beyond the limit of waiting ones they are dropped and
// counted.

import { decodeWith } from '../blame.ts'
import { type kGone, settled } from '../connection/host.ts'
import { Connection } from '../connection.ts'
import type { Counters } from '../counters.ts'
import { ProtocolError } from '../errors.ts'
import { nothing } from '../nothing.ts'
import { isThenable } from '../thenable.ts'
import { type DatagramPeer, kDeliver, kHandlerFailed, kReport } from './datagram-peer.ts'

/** What an inbox needs from its owner; a Worker, for example. */
export interface InboxHost {
  /** @internal */
  readonly counters: Counters
  readonly maxPackageSize: number
  readonly maxQueuedMessages: number
  readonly maxDatagramsInFlight: number
  /** @internal Promises of callbacks that have not settled. */
  unsettled: number
  /** @internal */
  [kGone](): void
}

interface Waiting {
  readonly peer: DatagramPeer
  readonly message: unknown
}

export class DatagramInbox {
  readonly #host: InboxHost
  #inFlight = 0
  #queue: Waiting[] = []

  constructor(host: InboxHost) {
    this.#host = host
  }

  /** Takes a datagram, and owns its bytes from then on. Never throws. */
  take(peer: DatagramPeer, bytes: Buffer): void {
    const { counters, maxQueuedMessages } = this.#host
    counters.bytesIn += bytes.length
    if (this.#isBusy && this.#queue.length >= maxQueuedMessages) {
      counters.dropped++
      return
    }
    let message: unknown
    try {
      message = this.#decode(peer, bytes)
    } catch (error) {
      counters.protocolErrors++
      return this.follow(peer, peer[kReport](Connection.PROTOCOL, (error as Error).message, error as Error))
    }
    if (this.#isBusy) this.#queue.push({ peer, message })
    else this.#deliver(peer, message)
  }

  /** Drops what waits: its peer has closed, and nothing may be delivered to it any more. */
  empty(): void {
    this.#host.counters.dropped += this.#queue.length
    this.#queue = []
  }

  get #isBusy(): boolean {
    return this.#inFlight >= this.#host.maxDatagramsInFlight
  }

  #decode(peer: DatagramPeer, bytes: Buffer): unknown {
    const { maxPackageSize } = this.#host
    if (bytes.length <= maxPackageSize) return decodeWith(peer.protocol, bytes)
    throw new ProtocolError(
      'ERR_PACKET_TOO_LARGE',
      `a datagram of ${bytes.length} bytes is over the limit of ${maxPackageSize}`,
    )
  }

  #deliver(peer: DatagramPeer, message: unknown): void {
    this.#host.counters.messagesIn++
    try {
      const result = peer[kDeliver](message)
      if (!isThenable(result)) return
      this.#inFlight++
      this.follow(peer, result, () => this.#settled())
    } catch (error) {
      this.#failed(peer, error)
    }
  }

  #settled(): void {
    this.#inFlight--
    while (this.#queue.length > 0 && !this.#isBusy) {
      const { peer, message } = this.#queue.shift() as Waiting
      this.#deliver(peer, message)
    }
  }

  #failed(peer: DatagramPeer, error: unknown): void {
    peer[kHandlerFailed](error)
  }

  /** Runs a callback of the peer that is not for a message. */
  call<T extends DatagramPeer>(peer: T, callback: ((peer: T) => unknown) | null): void {
    try {
      this.follow(peer, callback?.(peer))
    } catch (error) {
      this.#failed(peer, error)
    }
  }

  /** Makes a drain wait for what a callback has begun. */
  follow(peer: DatagramPeer, work: unknown, onSettled: () => void = nothing): void {
    if (!isThenable(work)) return
    this.#host.unsettled++
    const end = () => {
      onSettled()
      settled(this.#host)
    }
    Promise.resolve(work).then(end, (error) => {
      this.#failed(peer, error)
      end()
    })
  }
}
