// What an engine must offer, and what it is given in return. Two engines implement it: node (net/node-engine.ts) and,
// later, native. A connection knows these interfaces and never an engine. The methods that an engine calls on a
// connection are named by symbols, so that they are not part of what a user sees.

import type { SystemError } from './errors.ts'
import type { Encoded, Peer } from './protocol.ts'

/** Bytes have arrived: lent until the call returns. Never called between `pause()` and `resume()`. */
export const kReceived = Symbol('received')
/** The peer has sent FIN: nothing more will be received. Comes after the last bytes. */
export const kEnded = Symbol('ended')
/** The kernel has taken every byte written so far. */
export const kDrained = Symbol('drained')
/** The last call: the descriptor is gone. With an error when the peer reset or the network failed. */
export const kClosed = Symbol('closed')

/** The receiver of a socket's events. They are never called from inside a call to the socket. */
export interface SocketEvents {
  [kReceived](bytes: Buffer): void
  [kEnded](): void
  [kDrained](): void
  [kClosed](error: SystemError | null): void
}

/** An engine's end of one connection. */
export interface Socket extends Peer {
  /** Takes `byteLength` bytes (UTF-8 for text), which must not change afterwards. Sent at the end of the batch. */
  write(chunk: string | Uint8Array, byteLength: number): void
  /** Bytes written that the kernel has not taken. */
  readonly queuedBytes: number
  pause(): void
  resume(): void
  /** Sends what is queued, then FIN. Receiving goes on. */
  end(): void
  /** Closes at once; what is queued is lost. No event follows. */
  destroy(): void
}

/** Where a listener comes from: a descriptor that a parent process passed, or a handle bound in this process. */
export interface ListenSource {
  readonly fd?: number
  readonly handle?: unknown
  /** Length of the queue of connections that nobody has accepted; the kernel's somaxconn is the upper bound. */
  readonly backlog: number
  /** What must be bound: an IP and port, or a path. Checked before the first connection is accepted. */
  readonly expected: string
}

export interface Listener {
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

/** An engine. */
export interface Transport {
  readonly name: 'node' | 'native'
  /** Begins to accept. Rejects with a SystemError (EADDRINUSE) when the descriptor cannot listen where it must. */
  listen(source: ListenSource, accept: Accept): Promise<Listener>
}
