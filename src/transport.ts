// What an engine must offer, and what it receives in return. Two engines implement it: node (net/node-engine.ts) and
// native (net/native-engine.ts). A connection knows these interfaces, never an engine. Methods that an engine calls on
// a connection are named by symbols, so that users do not see them.

import type net from 'node:net'
import type { SystemError } from './errors.ts'
import type { Encoded, Peer, ProxyInfo, TlsState } from './protocol.ts'

/** Bytes have arrived, lent until the call returns. Never called between `pause()` and `resume()`. */
export const kReceived = Symbol('received')
/** The peer has sent FIN: nothing more will be received. Comes after the last bytes. */
export const kEnded = Symbol('ended')
/** Text accepted by `write` was this many bytes longer than it had reported. */
export const kGrew = Symbol('grew')
/**
 * The kernel has taken every byte written so far. Called after `awaitDrained()`, and whenever bytes had to be queued.
 */
export const kDrained = Symbol('drained')
/** TLS is active: from now on bytes are received decrypted and sent encrypted. */
export const kSecured = Symbol('secured')
/**
 * The last call: the descriptor is gone. Has an error when the peer reset the connection or the network failed. Not
 * called because both sides have sent FIN: the receiver, which may still be at work, then calls `destroy()`.
 */
export const kClosed = Symbol('closed')

/** The receiver of a socket's events. None is called from inside a call to the socket, except `[kGrew]`. */
export interface SocketEvents {
  [kReceived](bytes: Buffer): void
  [kEnded](): void
  /** For receivers that count bytes. */
  [kGrew]?(bytes: number): void
  [kDrained](): void
  [kSecured](): void
  [kClosed](error: SystemError | null): void
}

/** Result of a handshake: an error, or the stream to read and write from now on. */
export type Secured = (error: Error | null, secured: net.Socket | null) => void

/** One side of TLS, ready for any number of handshakes (net/tls.ts). Only the node engine supports it. */
export interface Tls {
  /**
   * Performs a handshake over `raw`, and owns it from now on. `done` is called once; with an error, the stream is dead.
   */
  wrap(raw: net.Socket, done: Secured): void
  /** Returns what the handshake negotiated. */
  stateOf(secured: net.Socket): TlsState
}

/** The two ends of a connection. */
export type Ends = Pick<Peer, 'remoteIp' | 'remotePort' | 'localIp' | 'localPort'>

/** An engine's end of one connection. */
export interface Socket extends Peer {
  /** Sets the receiver of events. */
  attach(events: SocketEvents): void
  /**
   * Queues bytes (UTF-8 for text), which must not change afterwards, and returns how many. They are sent at the end of
   * the batch. Within `[kReceived]`, text may be encoded later, all of it together: until then it counts one byte per
   * UTF-16 unit, and `[kGrew]` reports the difference.
   */
  write(bytes: Encoded): number
  /** Encodes text whose encoding was put off. */
  settle(): void
  /** Asks for `[kDrained]` once `queuedBytes` is 0, even if the kernel takes everything at once. */
  awaitDrained(): void
  /**
   * Bytes written that the kernel has not taken; of these it may not have been asked yet to take fewer than 64 KiB.
   * Reading this settles.
   */
  readonly queuedBytes: number
  /**
   * Bytes written that the peer has not acknowledged: `queuedBytes`, and with the addon on Linux those the kernel has
   * taken. Reading this takes a system call.
   */
  readonly unacknowledgedBytes: number
  /** Whether the kernel leaves at least this many bytes queued: it is asked first. Cheaper than `queuedBytes`. */
  hasQueued(bytes: number): boolean
  pause(): void
  resume(): void
  /** Pushes bytes back: they are received again, before all others, in a later turn. */
  unread(bytes: Uint8Array): void
  /** Sets the peer's addresses, as a proxy has reported them. */
  present(ends: Ends, proxy: ProxyInfo | null): void
  /**
   * Sends what is queued, then performs a handshake. Nothing is received until `[kSecured]`, or `[kClosed]` with the
   * reason.
   */
  secure(tls: Tls): void
  /** Between `secure` and `[kSecured]`: whether the peer has sent anything for the handshake. */
  readonly hasBegun: boolean
  /**
   * Reads further bytes directly into `into`, as many as fit, and returns how many. Never overtakes: 0 if earlier bytes
   * or another event must be delivered first, if nothing is there, or if the engine cannot.
   */
  readInto(into: Uint8Array): number
  /** Sends what is queued, then FIN. Receiving goes on. */
  end(): void
  /** Closes at once and discards what is queued. No event follows. */
  destroy(): void
  /** Like `destroy`, with a reset (TCP) in place of FIN; a TLS peer sees no close_notify either way. */
  reset(): void
  /**
   * Gives the descriptor away, with bytes received but not delivered and bytes not sent: for another engine or another
   * process. No event follows. Null where that is impossible: on the node engine, and under TLS.
   */
  release(): Released | null
}

/** A connection that has left its engine, for `Transport.adopt`. The holder of this object owns the descriptor. */
export interface Released {
  readonly fd: number
  readonly unread: Uint8Array
  readonly unsent: Uint8Array
  readonly ends: Ends
}

/** A connection that has left its owner at a message boundary: plain data, except for the descriptor. */
export interface HandedOver extends Released {
  /** Name of its protocol. */
  readonly protocol: string
  /** The codec's state besides bytes; bytes it kept are in `unread`. */
  readonly state: unknown
  /** Excludes those in `unread`, which are received again. */
  readonly bytesRead: number
  readonly bytesWritten: number
}

/** A bound socket that passes between processes. Node's `_createServerHandle` returns one; it has no public type. */
export interface Handle {
  readonly fd: number
  close(): void
}

/** Where a listener comes from: a descriptor that a parent process passed, or a handle bound in this process. */
export interface ListenSource {
  readonly fd?: number
  readonly handle?: Handle | null | undefined
  /** Limit of the queue of connections not accepted yet; the kernel caps it at somaxconn. */
  readonly backlog: number
  /** What must be bound: an IP address and port, or a path. Checked before the first connection is accepted. */
  readonly expected: string
  /** Returns how many connections it may accept before it asks again. Without it: any number. */
  readonly room?: () => number
  /** Called after a connection that used one of the last descriptors of this process. */
  readonly onScarce?: () => void
}

export interface Listener {
  /** Stops accepting until it has asked for room again, which it does soon. Only a listener with `room` has it. */
  hold?(): void
  /** Stops accepting in this process. The parent's bound socket stays. */
  close(): void
}

/** The engine's end of datagrams: a server's, shared by all its peers, or a client's, which has one peer. */
export interface DatagramSocket {
  readonly localIp: string
  readonly localPort: number
  /** Bytes of datagrams that the kernel has not taken. */
  readonly queuedBytes: number
  /** Whether the kernel leaves at least this many bytes queued: it is asked first. */
  hasQueued(bytes: number): boolean
  /**
   * Sends one datagram to an IP address, in pieces that must not change afterwards. `failed` may be called, but never
   * before this returns. `localIp` is the address of ours that it leaves from, on an engine that can choose; empty: the
   * socket's, or the one of the route. Source: sendto(2), ip(7).
   */
  send(bytes: Encoded, ip: string, port: number, failed: (error: SystemError) => void, localIp?: string): void
}

/** Called for each new connection. Returns the receiver of the socket's events, or null to refuse it. */
export type Accept = (socket: Socket) => SocketEvents | null

/** Where to connect, and through which proxy. */
export interface ConnectTarget {
  readonly transport: 'tcp' | 'unix'
  /** A name is looked up; of several addresses, the first that answers is used (RFC 8305). */
  readonly host: string
  readonly port: number
  readonly path: string
  readonly proxy: ProxySettings | null
}

/** A proxy that relays a stream: SOCKS5 (RFC 1928, 1929) or HTTP CONNECT (RFC 9110 section 9.3.6). */
export interface ProxySettings {
  readonly kind: 'socks5' | 'http'
  readonly host: string
  readonly port: number
  readonly username: string
  readonly password: string
  /** The value of `Proxy-Authorization`; empty for none. */
  readonly authorization: string
}

export const ENGINES = ['native', 'node'] as const

/** An engine. */
export interface Transport {
  readonly name: (typeof ENGINES)[number]
  /** Whether bytes passed to a socket's `write` may change as soon as it returns. */
  readonly copiesWrites: boolean
  /**
   * Starts accepting. Rejects with a SystemError (EADDRINUSE) when the descriptor cannot listen on the expected
   * address.
   */
  listen(source: ListenSource, accept: Accept): Promise<Listener>
  /** Connects. Nothing is received before `attach`. Rejects with a SystemError or the signal's reason. */
  connect(target: ConnectTarget, signal: AbortSignal): Promise<Socket>
  /** Takes over a connection, whose descriptor the socket owns from now on. Nothing is received before `attach`. */
  adopt(released: Released): Socket
}
