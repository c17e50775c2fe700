// Who datagrams come from and go to: what a peer of a UDP server (UdpConnection) and a UDP client (AsyncUdpConnection)
// have in common. A datagram is a packet: the protocol's `decode` and `encode` are called, and never its `input`. There
// is no stream here, so nothing is cut, put together, ordered, sent again or slowed down.

import { encodeWith } from '../connection/framing-codec.ts'
import { Connection } from '../connection.ts'
import type { Counters } from '../counters.ts'
import { addressesOf, formatEndpoint } from '../endpoint.ts'
import { asError, type SystemError, UsageError } from '../errors.ts'
import { LimitedLog } from '../log.ts'
import { type AnyProtocol, type Encoded, encodedSize, type Protocol } from '../protocol.ts'
import type { DatagramSocket } from '../transport.ts'

/** Calls the user's `onMessage`; what that returned. */
export const kDeliver = Symbol('deliver')
/** A handler threw, or a promise of its rejected. */
export const kHandlerFailed = Symbol('handler failed')
/** Tells the user's `onError`, or the log. */
export const kReport = Symbol('report')
/** Hands bytes that may be sent to the socket, or keeps them until there is one. */
export const kTransmit = Symbol('transmit')

/** The longest that fits into an IPv4 packet: 65,535 without the heads of IP (20) and UDP (8). */
const MAX_DATAGRAM = 65_507

const errors = new LimitedLog()

export abstract class DatagramPeer<Out = unknown> {
  readonly transport = 'udp'
  readonly protocol: Protocol
  /** Yours alone. */
  context: Record<PropertyKey, unknown> = {}
  readonly #counters: Counters
  #isReporting = false

  /** @internal */
  constructor(protocol: AnyProtocol, counters: Counters) {
    this.protocol = datagramProtocol(protocol)
    this.#counters = counters
  }

  /**
   * Sends a message as one datagram; with `raw`, bytes that pass the protocol by. False: it was refused (closed, too
   * long, or too much is queued), and `onError` ran with SEND_FAIL before this returned. True says that it is on its way,
   * not that it arrives. Throws UsageError for a message that the protocol cannot encode.
   */
  send(message: Out): boolean
  send(bytes: Encoded, raw: true): boolean
  send(message: Out | Encoded, raw = false): boolean {
    const bytes = raw ? (message as Encoded) : encodeWith(this.protocol, message)
    const size = encodedSize(bytes)
    const refusal = this.isClosed ? 'connection is closed' : size > MAX_DATAGRAM ? tooLong(size) : this.refusal(size)
    if (refusal !== '') return this.#notSent(refusal)
    this[kTransmit](bytes, size)
    this.#counters.messagesOut++
    this.#counters.bytesOut += size
    return true
  }

  abstract getRemoteIp(): string
  abstract getRemotePort(): number
  /** @internal */
  protected abstract readonly socket: DatagramSocket | null
  /** @internal */
  protected abstract readonly isClosed: boolean
  /** @internal Why so many bytes cannot be sent now; empty if they can. */
  protected abstract refusal(size: number): string
  /** @internal */
  protected abstract callOnError(code: number, message: string, error?: Error): unknown
  /** @internal */
  abstract [kTransmit](bytes: Encoded, size: number): void
  /** @internal */
  abstract [kDeliver](message: unknown): unknown

  /** `1.2.3.4:567`, `[::1]:567`. */
  getRemoteAddress(): string {
    return formatEndpoint(this.getRemoteIp(), this.getRemotePort())
  }

  /** What the socket is bound to: of a server on all addresses that is `0.0.0.0` or `::`. */
  getLocalIp(): string {
    return this.socket?.localIp ?? ''
  }

  getLocalPort(): number {
    return this.socket?.localPort ?? 0
  }

  getLocalAddress(): string {
    return formatEndpoint(this.getLocalIp(), this.getLocalPort())
  }

  isIpV4(): boolean {
    return this.getRemoteIp() !== '' && !this.isIpV6()
  }

  isIpV6(): boolean {
    return this.getRemoteIp().includes(':')
  }

  /** Bytes of datagrams that the kernel has not taken yet. */
  getSendBufferQueueSize(): number {
    return this.socket?.queuedBytes ?? 0
  }

  toJSON(): Record<string, unknown> {
    return { transport: this.transport, ...addressesOf(this) }
  }

  /** @internal For the socket, which may find out later. */
  protected readonly sendFailed = (error: SystemError): void => {
    this.#notSent(error.message, error)
  };

  /** @internal */
  [kHandlerFailed](thrown: unknown): void {
    this.#counters.handlerErrors++
    const error = asError(thrown)
    this.#tell(Connection.HANDLER, error.message, error)
  }

  /** @internal What it returns, a promise say, is the caller's to follow. */
  [kReport](code: number, message: string, error?: Error): unknown {
    try {
      return this.callOnError(code, message, error)
    } catch (failure) {
      this.logError(Connection.HANDLER, 'onError threw', failure as Error)
      return undefined
    }
  }

  /** @internal */
  protected logError(code: number, message: string, error?: Error): void {
    const detail = code === Connection.HANDLER ? (error?.stack ?? message) : message
    errors.log(`udp ${this.getRemoteAddress()} error ${code}: ${detail}`)
  }

  #notSent(why: string, cause?: Error): false {
    this.#counters.sendFail++
    if (this.#isReporting) return false // a send inside onError: counted, but it would never end
    this.#isReporting = true
    this.#tell(Connection.SEND_FAIL, why, cause)
    this.#isReporting = false
    return false
  }

  /** Nobody waits for what `onError` returns; that it fails is only logged, or it would be called for ever. */
  #tell(code: number, message: string, error?: Error): void {
    const told = this[kReport](code, message, error)
    Promise.resolve(told).catch((failure) => this.logError(Connection.HANDLER, 'onError', failure))
  }
}

/** Throws UsageError for a codec: it lives as long as a connection, and a datagram has none. */
export function datagramProtocol(protocol: AnyProtocol): Protocol {
  if (!('open' in protocol)) return protocol
  throw new UsageError(
    'ERR_NOT_FOR_DATAGRAMS',
    `protocol '${protocol.name}' needs a stream: over UDP use udp://, text, frame, or a protocol of input, decode and encode`,
  )
}

function tooLong(size: number): string {
  return `a datagram of ${size} bytes is over the limit of ${MAX_DATAGRAM}`
}
