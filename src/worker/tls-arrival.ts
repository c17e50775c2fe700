// An accepted socket in its TLS handshake. A failure here affects that peer alone, and is counted with its reason.

import { formatEndpoint } from '../endpoint.ts'
import type { SystemError } from '../errors.ts'
import { LimitedLog } from '../log.ts'
import {
  type Accept,
  kClosed,
  kDrained,
  kEnded,
  kReceived,
  kSecured,
  type Socket,
  type SocketEvents,
  type Tls,
} from '../transport.ts'
import { Arrival, type ArrivalHost } from './arrival.ts'

const errors = new LimitedLog()

export class TlsArrival extends Arrival implements SocketEvents {
  readonly what = 'TLS handshake'
  readonly #socket: Socket
  readonly #host: ArrivalHost
  readonly #accept: Accept
  readonly #failed: () => void

  private constructor(socket: Socket, host: ArrivalHost, accept: Accept, failed: () => void) {
    super(host)
    this.#socket = socket
    this.#host = host
    this.#accept = accept
    this.#failed = failed
  }

  /** Performs the handshake, then passes the socket to `accept` or calls `failed`. */
  static begin(socket: Socket, tls: Tls, host: ArrivalHost, accept: Accept, failed: () => void): SocketEvents {
    const handshake = new TlsArrival(socket, host, accept, failed)
    socket.secure(tls)
    return handshake
  }

  [kSecured](): void {
    const events = this.#accept(this.#socket)
    if (events === null) this.#socket.destroy()
    else this.#socket.attach(events)
    this.settle()
  }

  [kClosed](error: SystemError | null): void {
    this.#host.counters.handshakeErrors++
    const from = formatEndpoint(this.#socket.remoteIp, this.#socket.remotePort)
    this.#failed()
    errors.log(`TLS handshake with ${from || 'a peer'}: ${error?.message ?? 'the peer closed'}`)
    this.settle()
  }

  [kReceived](): void {
    // Nothing arrives before the handshake is done.
  }

  [kEnded](): void {
    // The handshake fails because of it, and reports that.
  }

  [kDrained](): void {
    // Nothing was written.
  }

  leave(): void {
    this.#socket.destroy()
    this.#failed()
    this.settle()
  }

  protected get hasBegun(): boolean {
    return this.#socket.hasBegun
  }
}
