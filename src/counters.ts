// One table of counters per worker. Connections count into it, the heartbeat carries it to the master as absolute
// values, and the master adds the tables of dead workers, so that no total ever falls.

import type { CloseReason } from './protocol.ts'

/** Counts since the process began, except `connections`, which is the current number. */
export interface Counters {
  /** Open connections. */
  connections: number
  /** Connections that were accepted. */
  accepted: number
  /** Connections that have ended. */
  closed: number
  /** Of these: the peer closed. */
  closedByPeer: number
  /** Of these: the network failed, or the peer reset the connection. */
  closedByError: number
  /** Of these: the peer was silent, or slow, for too long. */
  closedByTimeout: number
  /** Of these: the peer broke the protocol. */
  closedByProtocol: number
  /** Of these: a callback threw, or its promise rejected. */
  closedByHandler: number
  /** Of these: the worker was leaving. */
  closedByStop: number
  /** Messages that handlers were given. */
  messagesIn: number
  /** Messages that were sent. */
  messagesOut: number
  /** Bytes received by connections, without what TLS adds. */
  bytesIn: number
  /** Bytes sent by connections, without what TLS adds. */
  bytesOut: number
  /** Messages that were refused. */
  sendFail: number
  /** Connections whose peer broke the protocol. */
  protocolErrors: number
  /** Callbacks that threw, or whose promise rejected. */
  handlerErrors: number
  /** Connections closed at once because their address was at its limit. */
  refused: number
  /** TLS handshakes that failed. */
  handshakeErrors: number
  /** Connections whose peer sent something after our goodbye in a drain: it was not handled. */
  discarded: number
  /** Datagrams dropped because as many as allowed were already waiting, or because their client closed meanwhile. */
  dropped: number
  /** Unhandled promise rejections, counted with `Worker.unhandledRejection = 'log'`. */
  unhandledRejections: number
}

export function newCounters(): Counters {
  return {
    connections: 0,
    accepted: 0,
    closed: 0,
    closedByPeer: 0,
    closedByError: 0,
    closedByTimeout: 0,
    closedByProtocol: 0,
    closedByHandler: 0,
    closedByStop: 0,
    messagesIn: 0,
    messagesOut: 0,
    bytesIn: 0,
    bytesOut: 0,
    sendFail: 0,
    protocolErrors: 0,
    handlerErrors: 0,
    refused: 0,
    handshakeErrors: 0,
    discarded: 0,
    dropped: 0,
    unhandledRejections: 0,
  }
}

/** Counters of connections by why they ended. All others were closed by a call of the user's, or with their process. */
export const CLOSED_BY = {
  peer: 'closedByPeer',
  error: 'closedByError',
  timeout: 'closedByTimeout',
  protocol: 'closedByProtocol',
  handler: 'closedByHandler',
  stopped: 'closedByStop',
} as const satisfies Partial<Record<CloseReason, keyof Counters>>

/** Counts a connection that has ended. */
export function countClosed(counters: Counters, reason: CloseReason): void {
  counters.closed++
  if (reason in CLOSED_BY) counters[CLOSED_BY[reason as keyof typeof CLOSED_BY]]++
}

/** Adds `counters` to `total`, in place. A counter that another version of this package lacks counts as 0. */
export function addCounters(total: Counters, counters: Readonly<Partial<Counters>>): Counters {
  for (const key of Object.keys(total) as (keyof Counters)[]) total[key] += counters[key] ?? 0
  return total
}

/** Subtracts `counters` from `total`, in place. */
export function subtractCounters(total: Counters, counters: Counters): Counters {
  for (const key of Object.keys(total) as (keyof Counters)[]) total[key] -= counters[key]
  return total
}
