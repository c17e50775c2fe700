// What an engine must offer, and what it is given in return. Two engines implement it: node (net/node-engine.ts) and
// native (net/native-engine.ts). A connection knows these interfaces and never an engine. The methods that an engine calls on a
// connection are named by symbols, so that they are not part of what a user sees.

import type net from 'node:net'
import type { SystemError } from './errors.ts'
import type { Encoded, Peer, ProxyInfo, TlsState } from './protocol.ts'

/** Bytes have arrived: lent until the call returns. Never called between `pause()` and `resume()`. */
export const kReceived = Symbol('received')
/** The peer has sent FIN: nothing more will be received. Comes after the last bytes. */
export const kEnded = Symbol('ended')
/** Text that `write` took had so many bytes more than it said. */
export const kGrew = Symbol('grew')
/** The kernel has taken every byte written so far: after `awaitDrained()`, and whenever it was not quick enough. */
export const kDrained = Symbol('drained')
/** TLS is on: what follows comes decrypted, and leaves encrypted. */
export const kSecured = Symbol('secured')
/** The last call: the descriptor is gone. With an error when the peer reset or the network failed. */
export const kClosed = Symbol('closed')

/** The receiver of a socket's events. They are never called from inside a call to the socket, but for `[kGrew]`. */
export interface SocketEvents {
  [kReceived](bytes: Buffer): void
  [kEnded](): void
  /** For who counts. */
  [kGrew]?(bytes: number): void
  [kDrained](): void
  [kSecured](): void
  [kClosed](error: SystemError | null): void
}

/** The end of a handshake: an error, or the stream that is read and written from now on. */
export type Secured = (error: Error | null, secured: net.Socket | null) => void

/** One side of TLS, ready for any number of handshakes (net/tls.ts). Only the node engine has it. */
export interface Tls {
  /** Shakes hands over `raw`, which belongs to it from now on. `done` is called once; with an error the stream is dead. */
  wrap(raw: net.Socket, done: Secured): void
  /** What was agreed on. */
  stateOf(secured: net.Socket): TlsState
}

/** Where a connection is from and to. */
export type Ends = Pick<Peer, 'remoteIp' | 'remotePort' | 'localIp' | 'localPort'>

/** An engine's end of one connection. */
export interface Socket extends Peer {
  /** Who gets the events from now on. */
  attach(events: SocketEvents): void
  /**
   * Takes bytes (UTF-8 for text), which must not change afterwards; how many. Sent at the end of the batch. From within
   * `[kReceived]` text may be encoded later, all of it at once: it counts a byte for each UTF-16 unit until then, and what
   * it has more is told by `[kGrew]`.
   */
  write(bytes: Encoded): number
  /** Encodes text that waits for it. */
  settle(): void
  /** `[kDrained]` is to be called when `queuedBytes` is 0, also if the kernel takes everything at once. */
  awaitDrained(): void
  /** Bytes written that the kernel has not taken; settles. */
  readonly queuedBytes: number
  /** Whether so many bytes are queued: cheaper than to ask how many. */
  hasQueued(bytes: number): boolean
  pause(): void
  resume(): void
  /** Bytes that were received once are received again, before all others, in a turn of their own. */
  unread(bytes: Uint8Array): void
  /** A proxy has told who the peer is: these are its addresses from now on. */
  present(ends: Ends, proxy: ProxyInfo | null): void
  /** Sends what is queued, then shakes hands; nothing is received until `[kSecured]`, or `[kClosed]` with the reason. */
  secure(tls: Tls): void
  /** From `secure` to `[kSecured]`: something of the peer's has come for that. */
  readonly hasBegun: boolean
  /**
   * From within `[kReceived]`: reads what else has come into `into`, where it belongs, as much as fits; how many bytes. 0 where
   * nothing is there, where something else must be told first, and on an engine that cannot.
   */
  readInto(into: Uint8Array): number
  /** Sends what is queued, then FIN. Receiving goes on. */
  end(): void
  /** Closes at once; what is queued is lost. No event follows. */
  destroy(): void
  /**
   * Gives the descriptor away, with what has been received and not been told, and what has not been sent: for another
   * engine, or another process. No event follows. Null where that cannot be: on the node engine, and under TLS.
   */
  release(): Released | null
}

/** A connection that has left its engine, for `Transport.adopt`. Whoever has it owns the descriptor. */
export interface Released {
  readonly fd: number
  readonly unread: Uint8Array
  readonly unsent: Uint8Array
  readonly ends: Ends
}

/** A connection that has left its owner at a message boundary: plain data, but for the descriptor. */
export interface HandedOver extends Released {
  /** Its protocol's name. */
  readonly protocol: string
  /** What the codec knows besides bytes; `unread` has the bytes that it kept. */
  readonly state: unknown
  /** Without those in `unread`, which are received again. */
  readonly bytesRead: number
  readonly bytesWritten: number
}

/** Where a listener comes from: a descriptor that a parent process passed, or a handle bound in this process. */
export interface ListenSource {
  readonly fd?: number
  readonly handle?: unknown
  /** Length of the queue of connections that nobody has accepted; the kernel's somaxconn is the upper bound. */
  readonly backlog: number
  /** What must be bound: an IP and port, or a path. Checked before the first connection is accepted. */
  readonly expected: string
  /** How many connections it may take before it asks again; without it, any number. */
  readonly room?: () => number
  /** Called after a connection that has taken one of the last descriptors of this process. */
  readonly onScarce?: () => void
}

export interface Listener {
  /** Takes nobody until it has asked for room again: soon. Only of one that asks. */
  hold?(): void
  /** Stops accepting in this process. The bound socket of the parent stays. */
  close(): void
}

/** An engine's end of datagrams: one of a server, which all its peers share, or a client's, which has one peer. */
export interface DatagramSocket {
  readonly localIp: string
  readonly localPort: number
  /** Bytes of datagrams that the kernel has not taken. */
  readonly queuedBytes: number
  /**
   * Sends one datagram, of pieces that must not change afterwards, to an IP address. `failed` may be called, never before
   * this returns. Source: sendto(2).
   */
  send(bytes: Encoded, ip: string, port: number, failed: (error: SystemError) => void): void
}

/** Called for each connection that arrives; returns who gets the socket's events, or null to refuse it. */
export type Accept = (socket: Socket) => SocketEvents | null

/** Where to connect, and through what. */
export interface ConnectTarget {
  readonly transport: 'tcp' | 'unix'
  /** A name is looked up; of several addresses the first that answers is taken (RFC 8305). */
  readonly host: string
  readonly port: number
  readonly path: string
  readonly proxy: ProxySettings | null
}

/** A proxy that passes a stream on: SOCKS5 (RFC 1928, 1929) or HTTP's CONNECT (RFC 9110 section 9.3.6). */
export interface ProxySettings {
  readonly kind: 'socks5' | 'http'
  readonly host: string
  readonly port: number
  readonly username: string
  readonly password: string
  /** The value of `Proxy-Authorization`; empty for none. */
  readonly authorization: string
}

/** An engine. */
export interface Transport {
  readonly name: 'node' | 'native'
  /** What a socket's `write` was given may change as soon as it returns. */
  readonly copiesWrites: boolean
  /** Begins to accept. Rejects with a SystemError (EADDRINUSE) when the descriptor cannot listen where it must. */
  listen(source: ListenSource, accept: Accept): Promise<Listener>
  /** A connection that is made; nothing is received before `attach`. Rejects with a SystemError or the signal's reason. */
  connect(target: ConnectTarget, signal: AbortSignal): Promise<Socket>
  /** Takes over a connection, which belongs to the socket from now on; nothing is received before `attach`. */
  adopt(released: Released): Socket
}
