// One message to many connections: encoded once if the protocol can, with a policy for slow readers, so that one bad
// line does not cost everyone memory.

import { encodeWith } from '../blame.ts'
import type { AnyConnection } from '../connection.ts'
import { asError, messageOf } from '../errors.ts'
import { LimitedLog } from '../log.ts'
import { apart } from '../loop/apart.ts'
import { now } from '../loop/clock.ts'
import { deadlines } from '../loop/deadlines.ts'
import { check, checkOptions, NOT_NEGATIVE, oneOf, type Rule, rule } from '../options.ts'
import type { AnyProtocol } from '../protocol.ts'
import { kHasQueued, kOffer, kTakes } from './symbols.ts'

/** What `broadcast` takes besides the message. Wrong ones are ERR_UNKNOWN_OPTION and ERR_BAD_OPTION. */
export interface BroadcastOptions {
  /**
   * What happens to a slow connection: `drop` (the default) sends it nothing; `close` closes it; `conflate` sends it
   * the newest message as soon as there is room, for prices and positions, where only the last one counts.
   */
  readonly slow?: 'drop' | 'close' | 'conflate'
  /** A connection with so many bytes queued is slow; 0: with any. Default: half of its `maxSendBufferSize`. */
  readonly slowBytes?: number
}

const CONNECTIONS = rule(
  (value) => typeof value === 'object' && value !== null && Symbol.iterator in value,
  'connections: a list, a set, or the values of a map',
)

const RULES = {
  slow: oneOf('drop', 'close', 'conflate'),
  slowBytes: NOT_NEGATIVE,
} satisfies Record<keyof BroadcastOptions, Rule>

/** Outcome of a broadcast, in connections. */
export interface BroadcastResult {
  /** Connections that it was sent to, or is queued for. */
  sent: number
  /** Connections that were left out: slow, with a full buffer, or with a protocol that cannot encode this message. */
  dropped: number
  /** Slow connections that were closed. */
  closed: number
  /** Slow connections that get it, or a newer one, when they have room. */
  conflated: number
}

/** One message, encoded for all connections of one protocol. */
interface Encoded {
  readonly protocol: AnyProtocol
  readonly message: unknown
  /** Whether `message` is already the protocol's bytes. */
  readonly isRaw: boolean
  /** Why the protocol cannot encode it; null if it can. */
  readonly failure: unknown
}

/** Connections waiting for room, and what they are to receive. */
const waiting = new Map<AnyConnection, { readonly encoded: Encoded; readonly slowBytes: number }>()
/** How often to check for room. */
const LOOK_MS = 20
let timer = 0
const failures = new LimitedLog()

/**
 * Sends a message to all connections that are open and have a place for it: a WebSocket once it is admitted, HTTP while
 * an answer of events is open, for a `ServerSentEvents` or `Chunk`. The others get nothing, and are not counted.
 * Returns the outcome by number of connections. Throws UsageError for unknown options, and if no protocol among them
 * can encode the message; if only some cannot, theirs are `dropped`, and the reason is logged.
 */
export function broadcast(
  connections: Iterable<AnyConnection>,
  message: unknown,
  options: BroadcastOptions = {},
): BroadcastResult {
  checkOptions('broadcast()', options, RULES)
  check('what broadcast() goes to', connections, CONNECTIONS)
  const { slow = 'drop', slowBytes } = options
  const result = { sent: 0, dropped: 0, closed: 0, conflated: 0 }
  const unsendable = new Unsendable()
  let encoded: Encoded | null = null
  for (const connection of connections) {
    if (!connection[kTakes](message)) continue
    if (connection.protocol !== encoded?.protocol) encoded = encode(connection.protocol, message)
    const limit = Math.max(slowBytes ?? connection.maxSendBufferSize / 2, 1)
    try {
      if (encoded.failure !== null) throw encoded.failure
      const isSlow = waiting.has(connection) || connection[kHasQueued](limit)
      result[isSlow ? WITH_SLOW[slow](connection, encoded, limit) : sendNow(connection, encoded)]++
    } catch (error) {
      unsendable.add(connection, error)
    }
  }
  unsendable.tell(result)
  return result
}

/** Connections that could not be sent the message: what one of them throws keeps it from nobody behind that one. */
class Unsendable {
  #count = 0
  #first: AnyConnection | null = null
  #error: unknown = null

  add(connection: AnyConnection, error: unknown): void {
    if (this.#count++ > 0) return
    this.#first = connection
    this.#error = error
  }

  /** Counts them. Throws what the first of them threw, if the message went to nobody else either. */
  tell(result: BroadcastResult): void {
    if (this.#first === null) return
    if (Object.values(result).every((count) => count === 0)) throw this.#error
    result.dropped += this.#count
    logFailure(this.#first, this.#error)
  }
}

type Outcome = keyof BroadcastResult

const WITH_SLOW: Record<
  NonNullable<BroadcastOptions['slow']>,
  (connection: AnyConnection, encoded: Encoded, slowBytes: number) => Outcome
> = {
  drop: () => 'dropped',
  close(connection) {
    apart(destroy, connection)
    return 'closed'
  },
  conflate(connection, encoded, slowBytes) {
    waiting.set(connection, { encoded, slowBytes })
    if (timer === 0) timer = deadlines.after(LOOK_MS, look)
    return 'conflated'
  },
}

function sendNow(connection: AnyConnection, encoded: Encoded): Outcome {
  return send(connection, encoded) ? 'sent' : 'dropped'
}

/** Called once per protocol among the connections; usually there is one. */
function encode(protocol: AnyProtocol, message: unknown): Encoded {
  const isRaw = !('open' in protocol)
  try {
    return { protocol, message: encodedBy(protocol, message), isRaw, failure: null }
  } catch (error) {
    return { protocol, message, isRaw, failure: asError(error) }
  }
}

function encodedBy(protocol: AnyProtocol, message: unknown): unknown {
  return 'open' in protocol ? (protocol.prepare?.(message) ?? message) : encodeWith(protocol, message)
}

/** Returns whether it was accepted. */
function send(connection: AnyConnection, { message, isRaw }: Encoded): boolean {
  return connection[kOffer](message, isRaw)
}

function look(): void {
  timer = 0
  const started = now()
  for (const [connection, { encoded, slowBytes }] of waiting) {
    const takes = connection[kTakes](encoded.message)
    if (takes && connection[kHasQueued](slowBytes)) continue
    waiting.delete(connection)
    if (takes && connection.protocol === encoded.protocol) apart(sendLate, { connection, encoded })
    if (now() - started > LOOK_MS) break // the others get the next round
  }
  if (waiting.size > 0 && timer === 0) timer = deadlines.after(LOOK_MS, look)
}

/** A protocol without `prepare` may fail to encode only now, when there is no caller to throw to. */
function sendLate({ connection, encoded }: { connection: AnyConnection; encoded: Encoded }): void {
  try {
    send(connection, encoded)
  } catch (error) {
    logFailure(connection, error)
  }
}

function logFailure(connection: AnyConnection, error: unknown): void {
  failures.log(`broadcast to connection ${connection.id}: ${messageOf(error)}`)
}

function destroy(connection: AnyConnection): void {
  connection.destroy()
}
