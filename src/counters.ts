// One table of counters per worker. Connections count into it, the heartbeat carries it to the master as absolute
// values, and the master adds the tables of dead workers, so that no total ever falls.

/** Counts since the process began, except `connections`, which is the current number. */
export interface Counters {
  /** Open connections. */
  connections: number
  /** Connections that were accepted. */
  accepted: number
  /** Connections that have ended. */
  closed: number
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
