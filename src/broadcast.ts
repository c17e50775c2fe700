// One message to many connections: encoded once where the protocol can, and a policy for those who read too slowly, so that
// one bad line does not cost the memory of all.

import type { AnyConnection } from './connection.ts'
import { kTakes } from './connection-symbols.ts'
import { encodeWith } from './framing-codec.ts'
import { now } from './loop/clock.ts'
import { deadlines } from './loop/deadlines.ts'
import type { AnyProtocol } from './protocol.ts'

export interface BroadcastOptions {
  /**
   * What a slow connection gets: `drop` nothing (the default); `close` its end; `conflate` the newest message, as soon as
   * there is room: for prices and positions, where only the last one counts.
   */
  readonly slow?: 'drop' | 'close' | 'conflate'
  /** A connection with so many bytes queued is slow. Default: half of its `maxSendBufferSize`. */
  readonly slowBytes?: number
}

/** What became of it, in connections. */
export interface BroadcastResult {
  sent: number
  dropped: number
  closed: number
  conflated: number
}

/** Of one message; encoded at the first call. */
type Send = (connection: AnyConnection) => boolean

/** Those who wait for room, and what they are to get. */
const waiting = new Map<AnyConnection, { readonly send: Send; readonly slowBytes: number }>()
/** How often it is looked whether there is room. */
const LOOK_MS = 20
let timer = 0

/** Sends to all that are open. Throws UsageError for what the protocol cannot encode. */
export function broadcast(
  connections: Iterable<AnyConnection>,
  message: unknown,
  { slow = 'drop', slowBytes }: BroadcastOptions = {},
): BroadcastResult {
  const result = { sent: 0, dropped: 0, closed: 0, conflated: 0 }
  const send = encoderOf(message)
  for (const connection of connections) {
    if (!connection[kTakes]) continue
    const limit = slowBytes ?? connection.maxSendBufferSize / 2
    if (connection.getSendBufferQueueSize() < limit && !waiting.has(connection)) {
      if (isTaken(connection, send)) result.sent++
      else result.dropped++
    } else if (slow === 'close') {
      connection.destroy()
      result.closed++
    } else if (slow === 'conflate') {
      waiting.set(connection, { send, slowBytes: limit })
      if (timer === 0) timer = deadlines.after(LOOK_MS, look)
      result.conflated++
    } else result.dropped++
  }
  return result
}

/** One encoding for each protocol among the connections; mostly there is one. */
function encoderOf(message: unknown): Send {
  let known: AnyProtocol | null = null
  let prepared: unknown
  return (connection) => {
    const { protocol } = connection
    if (protocol !== known) {
      prepared = 'open' in protocol ? (protocol.prepare?.(message) ?? message) : encodeWith(protocol, message)
      known = protocol
    }
    return 'open' in protocol ? connection.send(prepared) : connection.send(prepared as string, true)
  }
}

/** `send` is false for what filled the buffer, too. */
function isTaken(connection: AnyConnection, send: Send): boolean {
  const { counters } = connection.worker
  const refused = counters.sendFail
  return send(connection) || counters.sendFail === refused
}

function look(): void {
  const started = now()
  for (const [connection, { send, slowBytes }] of waiting) {
    if (connection[kTakes] && connection.getSendBufferQueueSize() >= slowBytes) continue
    waiting.delete(connection)
    if (connection[kTakes]) send(connection)
    if (now() - started > LOOK_MS) break // the others in the next round
  }
  timer = waiting.size > 0 ? deadlines.after(LOOK_MS, look) : 0
}
