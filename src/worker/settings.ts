// Options of the Worker constructor, and how address, protocol and transport determine the types of its callbacks.
// Types only: `rules.ts` has the rules for the values.

import type { ConnectionCallbacks, ProtocolCallbacks } from '../connection/host.ts'
import type { Connection } from '../connection.ts'
import type { Call } from '../messaging/call.ts'
import type { WorkerRef } from '../messaging/references.ts'
import type { InOf, OutOf, ProtocolOf } from '../protocol.ts'
import type { UdpConnection } from '../udp/udp-connection.ts'
import type { Worker } from '../worker.ts'

/** The transport below a Worker's protocol. */
export type WorkerTransport = 'tcp' | 'ssl' | 'udp'
/** The kind of connection callbacks receive. Not the transport: Workers of 'tcp' and of 'ssl' have one type. */
export type Carrier = 'stream' | 'udp'

/** Settings other than callbacks; `rules.ts` has a rule for each. */
export type SettingName =
  | 'name'
  | 'count'
  | 'backlog'
  | 'maxPackageSize'
  | 'maxSendBufferSize'
  | 'maxInFlight'
  | 'maxQueuedMessages'
  | 'maxDatagramsInFlight'
  | 'idleTimeoutMs'
  | 'maxConnections'
  | 'maxConnectionsPerIp'
  | 'acceptRate'
  | 'proxyProtocol'
  | 'startTimeoutMs'
  | 'crashLoopAfter'
  | 'maxRequests'
  | 'maxMemory'
  | 'maxLifetimeMs'
  | 'stuckTimeoutMs'
  | 'drainTimeoutMs'
  | 'minReady'
  | 'reloadMode'
  | 'reloadable'
  | 'reusePort'
  | 'user'
  | 'group'
  | 'execArgv'
  | 'transport'
  | 'ssl'
  | 'serial'
  | 'maxMailboxMessages'
  | 'maxMailboxBytes'
  | 'mailboxTimeoutMs'

export type WorkerCallbackName =
  | 'onWorkerStart'
  | 'onWorkerStop'
  | 'onWorkerActive'
  | 'onWorkerRetire'
  | 'onWorkerReload'
  | 'onConnect'
  | 'onWorkerMessage'
  | 'onSendFail'
  | 'onWorkerBufferFull'
  | 'onWorkerBufferDrain'

/** Settings that the constructor takes. Each is a property of the Worker, with its documentation. */
export interface WorkerSettings<
  // biome-ignore lint/suspicious/noExplicitAny: plain `WorkerSettings` are of any Worker
  A extends string | undefined = any,
  P = ProtocolAt<A>,
  T extends Carrier = CarrierAt<A>,
> extends Partial<Pick<Worker<A, P, T>, SettingName | WorkerCallbackName>>,
    Partial<Omit<CallbacksAt<A, P, T>, 'onMessage'>> {
  /** A message of a connection, or a datagram; without an address one of another worker, as `onWorkerMessage`. */
  onMessage?: OnMessageAt<A, P, T>
}

/**
 * Result of `worker.hold()`: call it when the work is done; further calls do nothing. `using` releases it
 * automatically.
 */
export type Hold = (() => void) & Disposable

export type Options<A extends string | undefined, P, T extends Carrier> = WorkerSettings<A, P, T> &
  Pick<Worker<A, P, T>, keyof ProtocolCallbacks>
/** A literal `udp://` address, or `transport: 'udp'` in the constructor, has datagrams instead of connections. */
type ConnectionAt<A, P, T> = T extends 'udp'
  ? UdpConnection<OutOf<P>>
  : A extends string
    ? Lowercase<A> extends `udp://${string}`
      ? UdpConnection<OutOf<P>>
      : Connection<InOf<P>, OutOf<P>>
    : Connection<InOf<P>, OutOf<P>>
export type CallbacksAt<A, P, T> = ConnectionCallbacks<InOf<P>, OutOf<P>, ConnectionAt<A, P, T>>
/** Without an address it is `onWorkerMessage`; of any Worker it is either, and a helper may set or wrap it. */
export type OnMessageAt<A, P, T> = unknown extends A
  ? OnAnyMessage | null
  : [A] extends [undefined]
    ? OnWorkerMessage | null
    : CallbacksAt<A, P, T>['onMessage']
// biome-ignore lint/suspicious/noExplicitAny: a Connection, a UdpConnection or a WorkerRef, and what comes with it
type OnAnyMessage = (connection: any, message: any, call?: any) => unknown
/** Called for each message of another worker. The value it returns, or its promise's value, answers a request. */
export type OnWorkerMessage = (from: WorkerRef, message: unknown, call: Call) => unknown
// `unknown extends A` holds for `any` alone, what no address is: a plain `Worker` is any Worker.
// biome-ignore lint/suspicious/noExplicitAny: so are its messages
export type ProtocolAt<A> = unknown extends A ? any : A extends string ? ProtocolOf<A> : unknown
// biome-ignore lint/suspicious/noExplicitAny: so is what carries them
export type CarrierAt<A> = unknown extends A ? any : 'stream'
