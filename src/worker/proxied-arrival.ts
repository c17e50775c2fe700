// An accepted socket behind a proxy: its first bytes name the client (net/proxy-protocol.ts).

import { processClock } from '../connection/host.ts'
import { messageOf, ProtocolError, type SystemError } from '../errors.ts'
import { LimitedLog } from '../log.ts'
import { nameOf, parseProxyHeader, TrustedPeers } from '../net/proxy-protocol.ts'
import { checkOptions, LIST_OF_STRINGS, POSITIVE, type Rule } from '../options.ts'
import { Accumulator } from '../protocol/accumulator.ts'
import { NEED_MORE } from '../protocol.ts'
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

/** Type of `worker.proxyProtocol`. */
export interface ProxyProtocolOptions {
  /**
   * The proxies that may name a client: addresses, networks such as `10.0.0.0/8`, `unix`. All other peers are refused.
   */
  readonly from: readonly string[]
  /** How long the header may take, in ms. Default: 5000. */
  readonly timeoutMs?: number
}

const TIMEOUT_MS = 5000

const OPTION_RULES = { from: LIST_OF_STRINGS, timeoutMs: POSITIVE } satisfies Record<keyof ProxyProtocolOptions, Rule>

const errors = new LimitedLog()
const made = new WeakMap<ProxyProtocolOptions, ProxyRules>()

/** A worker's rules for PROXY headers. */
export class ProxyRules {
  readonly trusted: TrustedPeers
  readonly timeoutMs: number

  private constructor({ from, timeoutMs = TIMEOUT_MS }: ProxyProtocolOptions) {
    this.trusted = new TrustedPeers(from)
    this.timeoutMs = timeoutMs
  }

  /** The rules of a setting, made once however often they are checked and used. Throws a UsageError. */
  static of(options: ProxyProtocolOptions): ProxyRules {
    const known = made.get(options)
    if (known !== undefined) return known
    checkOptions('proxyProtocol', options, OPTION_RULES)
    const rules = new ProxyRules(options)
    made.set(options, rules)
    return rules
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
   * Waits for the header, then gives the socket the client's addresses and passes it to `accept`, or calls `failed`.
   * Returns null at once, after `failed`, for a peer that is not trusted.
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
    // TLS begins after the header.
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
