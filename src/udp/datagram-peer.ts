// The other end of datagrams: what a peer of a UDP server (UdpConnection) and a UDP client (AsyncUdpConnection) have in
// common. A datagram is a packet: the protocol's `decode` and `encode` are called, its `input` never. There is no
// stream, so nothing is cut, reassembled, ordered, sent again or slowed down.

import { encodeWith } from '../blame.ts'
import { Connection } from '../connection.ts'
import type { Counters } from '../counters.ts'
import { checkedChunks, encodedSize } from '../encoded.ts'
import { Addressed, addressesOf } from '../endpoint.ts'
import { asError, propertyOf, type SystemError, UsageError } from '../errors.ts'
import { LimitedLog } from '../log.ts'
import { MAX_DATAGRAM_BYTES } from '../net/ip.ts'
import type { AnyProtocol, Encoded, Protocol } from '../protocol.ts'
import type { DatagramSocket } from '../transport.ts'

/** Calls the user's `onMessage` and returns its result. */
export const kDeliver = Symbol('deliver')
/** Reports that a handler threw, or that its promise rejected. */
export const kHandlerFailed = Symbol('handler failed')
/** Calls the user's `onError`, or logs. */
export const kReport = Symbol('report')
/** Passes accepted bytes to the socket, or keeps them until there is one. */
export const kTransmit = Symbol('transmit')

const errors = new LimitedLog()

export abstract class DatagramPeer<Out = unknown> extends Addressed {
  readonly transport = 'udp'
  readonly protocol: Protocol
  /** For your own data; the package does not touch it. */
  context: Record<PropertyKey, unknown> = {}
  readonly #counters: Counters
  #isReporting = false

  /** @internal */
  constructor(protocol: AnyProtocol, counters: Counters) {
    super()
    this.protocol = datagramProtocol(protocol)
    this.#counters = counters
  }

  /**
   * Sends a message as one datagram; with `raw`, bytes that bypass the protocol. Returns false if it was refused
   * (closed, too long, or too much queued); `onError` then ran with SEND_FAIL before this returned. True means that it
   * is on its way, not that it arrives. Throws UsageError for a message the protocol cannot encode.
   */
  send(message: Out): boolean
  send(bytes: Encoded, raw: true): boolean
  send(message: Out | Encoded, raw = false): boolean {
    const bytes = checkedChunks(raw ? (message as Encoded) : encodeWith(this.protocol, message))
    const size = encodedSize(bytes)
    const refusal = this.isClosed
      ? 'connection is closed'
      : size > MAX_DATAGRAM_BYTES
        ? tooLong(size)
        : this.refusal(size)
    if (refusal !== '') return this.notSent(refusal)
    this[kTransmit](bytes, size)
    this.#counters.messagesOut++
    this.#counters.bytesOut += size
    return true
  }

  /** @internal */
  protected abstract readonly socket: DatagramSocket | null
  /** @internal */
  protected abstract readonly isClosed: boolean
  /** @internal Why this many bytes cannot be sent now; empty if they can. */
  protected abstract refusal(size: number): string
  /** @internal */
  protected abstract callOnError(code: number, message: string, error?: Error): unknown
  /** @internal */
  abstract [kTransmit](bytes: Encoded, size: number): void
  /** @internal */
  abstract [kDeliver](message: unknown): unknown

  /** The address the socket is bound to. */
  getLocalIp(): string {
    return this.socket?.localIp ?? ''
  }

  getLocalPort(): number {
    return this.socket?.localPort ?? 0
  }

  /** Returns the bytes of datagrams that the kernel has not taken yet. */
  getSendBufferQueueSize(): number {
    return this.socket?.queuedBytes ?? 0
  }

  toJSON(): Record<string, unknown> {
    return { transport: this.transport, ...addressesOf(this) }
  }

  /** @internal For the socket, which may find out later. */
  protected readonly sendFailed = (error: SystemError): void => {
    this.notSent(error.message, error)
  };

  /** @internal */
  [kHandlerFailed](thrown: unknown): void {
    this.#counters.handlerErrors++
    const error = asError(thrown)
    this.#tell(Connection.HANDLER, error.message, error)
  }

  /** @internal The caller must follow what it returns, which may be a promise. */
  [kReport](code: number, message: string, error?: Error): unknown {
    try {
      return this.callOnError(code, message, error)
    } catch (failure) {
      this.logError(Connection.HANDLER, 'onError threw', failure)
      return undefined
    }
  }

  /** @internal Never throws, whatever was thrown. */
  protected logError(code: number, message: string, error?: unknown): void {
    const stack = code === Connection.HANDLER ? propertyOf(error, 'stack') : undefined
    const detail = typeof stack === 'string' ? stack : message
    errors.log(`udp ${this.getRemoteAddress()} error ${code}: ${detail}`)
  }

  /** @internal */
  protected notSent(why: string, cause?: Error): false {
    this.#counters.sendFail++
    if (this.#isReporting) return false // a send inside onError is counted, but reporting it would never end
    this.#isReporting = true
    this.#tell(Connection.SEND_FAIL, why, cause)
    this.#isReporting = false
    return false
  }

  /**
   * The result of `onError` is not awaited. If it fails, that is only logged, or it would be called again and again.
   */
  #tell(code: number, message: string, error?: Error): void {
    const told = this[kReport](code, message, error)
    Promise.resolve(told).catch((failure) => this.logError(Connection.HANDLER, 'onError', failure))
  }
}

/** Throws UsageError for a codec: it needs a connection, and a datagram has none. */
export function datagramProtocol(protocol: AnyProtocol): Protocol {
  if (!('open' in protocol)) return protocol
  throw new UsageError(
    'ERR_NOT_FOR_DATAGRAMS',
    `protocol '${protocol.name}' needs a stream: over UDP use udp://, text, frame, or a protocol of input, decode and encode`,
  )
}

function tooLong(size: number): string {
  return `a datagram of ${size} bytes is over the limit of ${MAX_DATAGRAM_BYTES}`
}
