// A connection's surroundings: the callbacks and settings of its owner, and time.

import type { AnyConnection, Connection } from '../connection.ts'
import type { Counters } from '../counters.ts'
import { now, recently } from '../loop/clock.ts'
import { deadlines } from '../loop/deadlines.ts'
import type { Tls } from '../transport.ts'
import type { ConnectionSettings, kLastSettings } from './settings.ts'

/**
 * Notifies the owner that a connection has left `connections` and its `onClose` has run, or that nothing is unsettled
 * any more.
 */
export const kGone = Symbol('gone')

/** Called when one promise of a callback has settled. A drain may end with the last. */
export function settled(host: { unsettled: number; [kGone](): void }): void {
  if (--host.unsettled === 0) host[kGone]()
}

/** The defaults of a Worker, a client and the test harness. */
export const DEFAULT_LIMITS = {
  /** Keeps the messages of a connection in order. */
  maxInFlight: 1,
  /** Enough for the messages of a few reads, and little memory for each of thousands of connections. */
  maxQueuedMessages: 64,
  /** Datagrams have no order to keep, so many handlers may wait, say for a database. */
  maxDatagramsInFlight: 1024,
  /** Off, since many protocols are silent. */
  idleTimeoutMs: 0,
}

/** Callbacks that a connection copies from its worker when it is accepted; each may be replaced on a connection. */
export interface ConnectionCallbacks<In, Out, C = Connection<In, Out>> {
  /**
   * Called with a message. The next message of this connection waits until a returned promise has settled (see
   * `maxInFlight`).
   */
  onMessage: ((connection: C, message: In) => unknown) | null
  /** Called exactly once, whatever ended the connection; addresses and `context` can still be read. */
  onClose: ((connection: C) => unknown) | null
  /**
   * Codes: 1 connect failed, 2 not sent, 3 the peer broke the protocol, 4 a handler threw. Unset: logged at a limited
   * rate.
   */
  onError: ((connection: C, code: number, message: string, error?: Error) => unknown) | null
  /** The send buffer has reached `maxSendBufferSize`: stop sending. */
  onBufferFull: ((connection: C) => unknown) | null
  /** The send buffer has become empty after `onBufferFull`. */
  onBufferDrain: ((connection: C) => unknown) | null
}

/**
 * Callbacks that protocols call through `io.event`, of one connection or else of its Worker. A protocol package adds
 * its own:
 *
 * ```
 * declare module 'millrace' {
 *   interface ProtocolCallbacks { onTopic?: (connection: AnyConnection, topic: string) => unknown }
 * }
 * ```
 */
// biome-ignore lint/suspicious/noEmptyInterface: for augmentation
export interface ProtocolCallbacks {}

/** What a connection needs from its owner; a Worker, for example. */
// biome-ignore lint/suspicious/noExplicitAny: one owner type serves connections of every message type
export interface ConnectionHost extends ConnectionCallbacks<any, any> {
  readonly name: string
  readonly id: number
  /** @internal */
  readonly counters: Counters
  /** The open connections of this process, by id. */
  readonly connections: Map<number, AnyConnection>
  readonly onConnect: ((connection: AnyConnection) => unknown) | null
  readonly maxPackageSize: number
  readonly maxSendBufferSize: number
  readonly maxInFlight: number
  readonly maxQueuedMessages: number
  readonly idleTimeoutMs: number
  /** @internal Promises of callbacks that have not settled, including those of closed connections. */
  unsettled: number
  /** @internal What a client's address asks for. */
  readonly target?: { readonly authority: string; readonly uri: string }
  /** @internal For `connection.startTls()`. */
  readonly tls: Tls | null
  /** @internal The settings its last connection received. */
  [kLastSettings]?: ConnectionSettings
  /** @internal With a connection: that one has closed. */
  [kGone](connection?: AnyConnection): void
}

/** Time as a connection sees it: the process's clock, or a test's. */
export interface Clock {
  now(): number
  after<A, B = undefined>(ms: number, fn: (a: A, b: B) => unknown, a?: A, b?: B): number
  cancel(id: number): boolean
}

/** Adds a cheap reading of the clock for hot paths. */
export interface ConnectionClock extends Clock {
  /** Like `now`, but possibly as of the beginning of this batch. */
  recently(): number
  /** Whether a distant deadline may expire up to half a second late. */
  readonly mayBeLate?: boolean
}

export const processClock: ConnectionClock = {
  mayBeLate: true,
  now,
  recently,
  after: (ms, fn, a, b) => deadlines.after(ms, fn, a, b),
  cancel: (id) => deadlines.cancel(id),
}
