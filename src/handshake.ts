// A connection before it is one: accepted, and in the middle of its TLS handshake. What fails here costs that peer alone,
// and is counted with its reason.

import type { ConnectionHost } from './connection-host.ts'
import { kGone } from './connection-host.ts'
import { formatEndpoint } from './endpoint.ts'
import type { SystemError } from './errors.ts'
import { LimitedLog } from './log.ts'
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
} from './transport.ts'

const errors = new LimitedLog()

export class Handshake implements SocketEvents {
  readonly #socket: Socket
  readonly #host: ConnectionHost
  readonly #accept: Accept
  readonly #failed: () => void

  private constructor(socket: Socket, host: ConnectionHost, accept: Accept, failed: () => void) {
    this.#socket = socket
    this.#host = host
    this.#accept = accept
    this.#failed = failed
    host.unsettled++ // a worker that leaves waits for it: the peer takes its connection for made
  }

  /** Shakes hands, then hands the socket to who `accept` says, or calls `failed`. */
  static begin(socket: Socket, tls: Tls, host: ConnectionHost, accept: Accept, failed: () => void): SocketEvents {
    const handshake = new Handshake(socket, host, accept, failed)
    socket.secure(tls)
    return handshake
  }

  [kSecured](): void {
    const events = this.#accept(this.#socket)
    if (events === null) this.#socket.destroy()
    else this.#socket.attach(events)
    this.#settle()
  }

  [kClosed](error: SystemError | null): void {
    this.#host.counters.handshakeErrors++
    const from = formatEndpoint(this.#socket.remoteIp, this.#socket.remotePort)
    this.#failed()
    errors.log(`TLS handshake with ${from || 'a peer'}: ${error?.message ?? 'the peer closed'}`)
    this.#settle()
  }

  [kReceived](): void {
    // Nothing comes before the handshake is done.
  }

  [kEnded](): void {
    // The handshake fails of it, and says so.
  }

  [kDrained](): void {
    // Nothing was written.
  }

  #settle(): void {
    if (--this.#host.unsettled === 0) this.#host[kGone]()
  }
}
