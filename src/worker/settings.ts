// Options of the Worker constructor, and how address, protocol and transport determine the types of its callbacks.
// Types only: `rules.ts` has the rules for the values.

import type { ConnectionCallbacks, ProtocolCallbacks } from '../connection/host.ts'
import type { Connection } from '../connection.ts'
import type { Call } from '../messaging/call.ts'
import type { WorkerRef } from '../messaging/references.ts'
import type { ServerTlsOptions } from '../net/tls.ts'
import type { ReloadMode } from '../process/group.ts'
import type { InOf, OutOf, ProtocolOf } from '../protocol.ts'
import type { UdpConnection } from '../udp/udp-connection.ts'
import type { Worker } from '../worker.ts'
import type { ProxyProtocolOptions } from './proxied-arrival.ts'

/** The transport below a Worker's protocol. */
export type WorkerTransport = 'tcp' | 'ssl' | 'udp'
/** The kind of connection callbacks receive. Not the transport: Workers of 'tcp' and of 'ssl' have one type. */
export type Carrier = 'stream' | 'udp'

/** Options of the Worker constructor. Each is a property of the Worker too, and is documented there. */
export interface WorkerSettings<A extends string | undefined, P, T extends Carrier = 'stream'>
  extends Partial<Omit<CallbacksAt<A, P, T>, 'onMessage'>> {
  onMessage?: OnMessageAt<A, P, T>
  name?: string
  count?: number
  backlog?: number
  maxPackageSize?: number
  maxSendBufferSize?: number
  maxInFlight?: number
  maxQueuedMessages?: number
  maxDatagramsInFlight?: number
  idleTimeoutMs?: number
  maxConnections?: number
  maxConnectionsPerIp?: number
  acceptRate?: number
  proxyProtocol?: ProxyProtocolOptions
  startTimeoutMs?: number
  crashLoopAfter?: number
  maxRequests?: number
  maxMemory?: number
  maxLifetimeMs?: number
  stuckTimeoutMs?: number
  drainTimeoutMs?: number
  minReady?: number
  reloadMode?: ReloadMode
  reloadable?: boolean
  reusePort?: boolean
  user?: string
  group?: string
  execArgv?: readonly string[]
  transport?: WorkerTransport
  ssl?: ServerTlsOptions
  onWorkerStart?: ((worker: Worker<A, P, T>) => unknown) | null
  onWorkerStop?: ((worker: Worker<A, P, T>) => unknown) | null
  onWorkerActive?: ((worker: Worker<A, P, T>) => unknown) | null
  onWorkerRetire?: ((worker: Worker<A, P, T>) => unknown) | null
  onWorkerReload?: ((worker: Worker<A, P, T>) => unknown) | null
  onConnect?: ((connection: Connection<InOf<P>, OutOf<P>>) => unknown) | null
  serial?: boolean
  maxMailboxMessages?: number
  maxMailboxBytes?: number
  mailboxTimeoutMs?: number
  onWorkerMessage?: Worker['onWorkerMessage']
  onSendFail?: Worker['onSendFail']
  onWorkerBufferFull?: Worker['onWorkerBufferFull']
  onWorkerBufferDrain?: Worker['onWorkerBufferDrain']
}

/**
 * Result of `worker.hold()`: call it when the work is done; further calls do nothing. `using` releases it
 * automatically.
 */
export type Hold = (() => void) & Disposable

export type Options<A extends string | undefined, P, T extends Carrier> = WorkerSettings<A, P, T> & ProtocolCallbacks
/** A literal `udp://` address, or `transport: 'udp'` in the constructor, has datagrams instead of connections. */
type ConnectionAt<A, P, T> = T extends 'udp'
  ? UdpConnection<OutOf<P>>
  : A extends string
    ? Lowercase<A> extends `udp://${string}`
      ? UdpConnection<OutOf<P>>
      : Connection<InOf<P>, OutOf<P>>
    : Connection<InOf<P>, OutOf<P>>
export type CallbacksAt<A, P, T> = ConnectionCallbacks<InOf<P>, OutOf<P>, ConnectionAt<A, P, T>>
/** Without an address it is `onWorkerMessage`. */
export type OnMessageAt<A, P, T> = [A] extends [undefined] ? OnWorkerMessage | null : CallbacksAt<A, P, T>['onMessage']
export type OnWorkerMessage = (from: WorkerRef, message: unknown, call: Call) => unknown
export type ProtocolAt<A> = A extends string ? ProtocolOf<A> : unknown
