// A connection before it is one, behind a proxy: its first bytes say who the client is (net/proxy-protocol.ts).

import { processClock } from '../connection/host.ts'
import { messageOf, ProtocolError, type SystemError } from '../errors.ts'
import { LimitedLog } from '../log.ts'
import { nameOf, parseProxyHeader, TrustedPeers } from '../net/proxy-protocol.ts'
import { Accumulator, NEED_MORE } from '../protocol.ts'
import {
  type Accept,
  kClosed,
  kDrained,
  kEnded,
  kReceived,
  kSecured,
  type Socket,
  type SocketEvents,
} from '../transport.ts'
import { Arrival, type ArrivalHost } from './arrival.ts'

/** `worker.proxyProtocol`. */
export interface ProxyProtocolOptions {
  /** Who may say it: addresses, networks as `10.0.0.0/8`, `unix`. Everybody else is refused. */
  readonly from: readonly string[]
  /** How long the header may take; 5000 by default. */
  readonly timeoutMs?: number
}

const TIMEOUT_MS = 5000

const errors = new LimitedLog()

/** A worker's rules for it. */
export class ProxyRules {
  readonly trusted: TrustedPeers
  readonly timeoutMs: number

  /** Throws a UsageError. */
  constructor({ from, timeoutMs = TIMEOUT_MS }: ProxyProtocolOptions) {
    this.trusted = new TrustedPeers(from)
    this.timeoutMs = timeoutMs
  }
}

export class ProxiedArrival extends Arrival implements SocketEvents {
  readonly what = 'PROXY header'
  readonly #socket: Socket
  readonly #host: ArrivalHost
  readonly #accept: Accept
  readonly #failed: () => void
  readonly #received = new Accumulator()
  readonly #timer: number
  #isOver = false

  private constructor(socket: Socket, host: ArrivalHost, timeoutMs: number, accept: Accept, failed: () => void) {
    super(host)
    this.#socket = socket
    this.#host = host
    this.#accept = accept
    this.#failed = failed
    this.#timer = processClock.after(timeoutMs, ProxiedArrival.#expire, this)
  }

  /**
   * Waits for the header, then hands the socket to who `accept` says, its addresses being the client's; or calls `failed`, and
   * gives null at once for who is not trusted.
   */
  static begin(
    socket: Socket,
    rules: ProxyRules,
    host: ArrivalHost,
    accept: Accept,
    failed: () => void,
  ): SocketEvents | null {
    if (rules.trusted.has(socket.remoteIp)) return new ProxiedArrival(socket, host, rules.timeoutMs, accept, failed)
    host.counters.refused++
    failed()
    errors.log(`refused ${nameOf(socket.remoteIp, socket.remotePort)}: it is no proxy of ours (proxyProtocol.from)`)
    return null
  }

  [kReceived](bytes: Buffer): void {
    if (this.#isOver) return
    this.#received.append(bytes)
    try {
      const header = parseProxyHeader(this.#received.view())
      if (header === NEED_MORE) return
      const { remoteIp, remotePort } = this.#socket
      const info = { ...header.info, address: nameOf(remoteIp, remotePort) }
      this.#received.consume(header.length)
      this.#socket.present(header.ends ?? this.#socket, info)
      this.#handOver()
    } catch (error) {
      this.#fail(error)
    }
  }

  [kEnded](): void {
    if (!this.hasBegun)
      this.leave() // a check whether the port is open
    else this.#fail(new ProtocolError('ERR_PROXY_HEADER', 'bad PROXY header: the peer closed in the middle of it'))
  }

  [kClosed](_error: SystemError | null): void {
    this.#lose()
  }

  [kDrained](): void {
    // Nothing was written.
  }

  [kSecured](): void {
    // TLS comes behind it.
  }

  #handOver(): void {
    const rest = this.#received.take()
    if (rest.length > 0) this.#socket.unread(rest) // before the accept: a TLS handshake begins with it
    const events = this.#accept(this.#socket)
    if (events === null) this.#socket.destroy()
    else this.#socket.attach(events)
    this.settle()
  }

  #fail(error: unknown): void {
    this.#host.counters.protocolErrors++
    errors.log(`${nameOf(this.#socket.remoteIp, this.#socket.remotePort)}: ${messageOf(error)}`)
    this.leave()
  }

  leave(): void {
    this.#socket.destroy()
    this.#lose()
  }

  protected get hasBegun(): boolean {
    return this.#received.length > 0
  }

  #lose(): void {
    if (!this.#isOver) this.#failed()
    this.settle()
  }

  protected override settle(): void {
    this.#isOver = true
    processClock.cancel(this.#timer)
    super.settle()
  }

  static #expire(proxied: ProxiedArrival): void {
    proxied.#fail(new ProtocolError('ERR_PROXY_HEADER', 'bad PROXY header: it did not come in time'))
  }
}
