// A datagram's sender, as passed to `onMessage` of a UDP Worker: there is one for each datagram, and no connection
// behind it. It may be kept to send to that peer later. Closing it closes only this object: all peers share the socket.

import type { ConnectionCallbacks } from '../connection/host.ts'
import { STATUS, State } from '../connection/state.ts'
import type { AnyProtocol, Encoded } from '../protocol.ts'
import type { DatagramSocket } from '../transport.ts'
import type { InboxHost } from './datagram-inbox.ts'
import { DatagramPeer, kDeliver, kTransmit } from './datagram-peer.ts'

/** A UdpConnection that takes any message. */
// biome-ignore lint/suspicious/noExplicitAny: the widest peer; what it takes is in its methods' arguments
export type AnyUdpConnection = UdpConnection<any>

/** What a peer needs from its owner; a Worker, for example. */
export interface UdpHost extends InboxHost {
  readonly name: string
  readonly id: number
  readonly maxSendBufferSize: number
  // biome-ignore lint/suspicious/noExplicitAny: one owner type serves peers of every message type
  readonly onMessage: ConnectionCallbacks<any, any, AnyUdpConnection>['onMessage']
  // biome-ignore lint/suspicious/noExplicitAny: as above
  readonly onError: ConnectionCallbacks<any, any, AnyUdpConnection>['onError']
}

/** The sender of a datagram, as `onMessage` gets it. It may be kept, to send to that peer later. */
export class UdpConnection<Out = unknown> extends DatagramPeer<Out> {
  /** The Worker that has received the datagram. */
  readonly worker: UdpHost
  /** @internal */
  protected readonly socket: DatagramSocket
  readonly #ip: string
  readonly #port: number
  readonly #localIp: string
  #isClosed = false

  /** @internal Made for each datagram. */
  constructor(
    worker: UdpHost,
    socket: DatagramSocket,
    protocol: AnyProtocol,
    ip: string,
    port: number,
    localIp: string,
  ) {
    super(protocol, worker.counters)
    this.worker = worker
    this.socket = socket
    this.#ip = ip
    this.#port = port
    this.#localIp = localIp
  }

  /** Sends `message`, if any. After that this object sends no more; the server's socket stays open. Idempotent. */
  close(message?: Out): void
  close(bytes: Encoded, raw: true): void
  close(message?: Out | Encoded, raw = false): void {
    if (this.#isClosed) return
    if (message !== undefined) raw ? this.send(message as Encoded, true) : this.send(message as Out)
    this.#isClosed = true
  }

  /** Returns 2 established or 16 closed; `getStatus(false)` returns the word. */
  getStatus(raw?: true): number
  getStatus(raw: false): string
  getStatus(raw = true): number | string {
    const state = this.#isClosed ? State.Closed : State.Established
    return raw ? state : STATUS[state]
  }

  /** The sender's address. */
  getRemoteIp(): string {
    return this.#ip
  }

  /** The sender's port; 0 if it has none to answer to. */
  getRemotePort(): number {
    return this.#port
  }

  /**
   * The address that the datagram was sent to, and answers leave from. For a Worker on all addresses this is known on
   * the native engine; otherwise it is `0.0.0.0` or `::`, and answers leave from the address that the route has.
   */
  override getLocalIp(): string {
    return this.#localIp || super.getLocalIp()
  }

  /** @internal */
  protected get isClosed(): boolean {
    return this.#isClosed
  }

  /** @internal */
  protected refusal(): string {
    if (this.#port === 0) return 'the sender has no port to answer to'
    return this.socket.hasQueued(this.worker.maxSendBufferSize) ? 'send buffer full and drop package' : ''
  }

  /** @internal */
  protected callOnError(code: number, message: string, error?: Error): unknown {
    const { onError } = this.worker
    return onError ? onError.call(this.worker, this, code, message, error) : this.logError(code, message, error)
  }

  /** @internal */
  [kTransmit](bytes: Encoded): void {
    this.socket.send(bytes, this.#ip, this.#port, this.sendFailed, this.#localIp)
  }

  /** @internal */
  [kDeliver](message: unknown): unknown {
    return this.worker.onMessage?.(this, message)
  }
}
