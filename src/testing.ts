// For tests of a protocol without a network; our own tests use it too: a real Connection on an in-memory socket, with a
// clock that only the test moves. Contains no test library and nothing that waits.
//
// Buffer and the rest of Node in our declarations are Node's also for a compiler that is told of no types: the default
// since TypeScript 6. Otherwise they would be `any` to it, without a word (skipLibCheck).
/// <reference types="node" preserve="true" />

import {
  type ConnectionCallbacks,
  type ConnectionClock,
  type ConnectionHost,
  DEFAULT_LIMITS,
  kGone,
} from './connection/host.ts'
import { kDrain, kLeave, kOpen } from './connection/symbols.ts'
import { Connection } from './connection.ts'
import { newCounters } from './counters.ts'
import { isChunk } from './encoded.ts'
import { defined, SystemError, UsageError } from './errors.ts'
import { checkOptions, FUNCTION_OR_NULL, NOT_NEGATIVE, oneOf, POSITIVE, type Rule, type Rules } from './options.ts'
import type { AnyProtocol, Encoded, InOf, OutOf, Protocol, Role } from './protocol.ts'
import { kClosed, kDrained, kEnded, kReceived, type Socket } from './transport.ts'

/** Lent bytes are overwritten with this once the loan is over. */
const OVERWRITTEN = 0xdd

/** Callbacks and limits as for a Worker, including callbacks that the protocol defines. */
export interface Settings<In, Out> extends Partial<ConnectionCallbacks<In, Out>> {
  /** Whose end of the connection the protocol is. Default `server`. */
  role?: Role
  /** The connection is open. Messages wait until a returned promise has settled. */
  onConnect?: ((connection: Connection<In, Out>) => unknown) | null
  /** Bytes of the longest packet. Default 10 MiB. */
  maxPackageSize?: number
  /** Bytes; a send that finds this much queued is refused. Default 1 MiB. */
  maxSendBufferSize?: number
  /** How many asynchronous `onMessage` may be unsettled. Default 1. */
  maxInFlight?: number
  /** How many decoded messages may wait behind them. Default 64. */
  maxQueuedMessages?: number
  /** Closes the connection after this long without traffic. Default 0, off. */
  idleTimeoutMs?: number
  [callback: `on${string}`]: unknown
}

const RULES = {
  role: oneOf('server', 'client'),
  maxPackageSize: POSITIVE,
  maxSendBufferSize: POSITIVE,
  maxInFlight: POSITIVE,
  maxQueuedMessages: POSITIVE,
  idleTimeoutMs: NOT_NEGATIVE,
} satisfies Record<Exclude<keyof Settings<unknown, unknown>, `on${string}`>, Rule>

/** Accepts callbacks of any name, since protocols have their own. Throws a UsageError. */
function checkSettings(settings: object): void {
  const callbacks = Object.keys(settings).filter((name) => /^on[A-Z]/.test(name))
  const rules: Rules = { ...RULES, ...Object.fromEntries(callbacks.map((name) => [name, FUNCTION_OR_NULL])) }
  checkOptions('open()', settings, rules)
}

/** Arguments of an `onError` call. */
export interface Failure {
  code: number
  message: string
  error: Error | undefined
}

/**
 * The engine's end of a connection, in memory. As with an engine, bytes written over a `Wire` are sent, unless held,
 * when the connection has dealt with what the test did, or when due timers have run. Bytes of a socket destroyed before
 * that are lost.
 */
export class MemorySocket implements Socket {
  readonly remoteIp = '192.0.2.1' // of TEST-NET-1, RFC 5737
  readonly remotePort = 50_000
  readonly localIp = '192.0.2.2'
  readonly localPort = 80
  readonly isEncrypted = false
  readonly tls = null
  readonly proxy = null
  isReading = true
  /** Whether FIN was sent. */
  hasEnded = false
  isDestroyed = false
  /** Whether that was with a reset. */
  wasReset = false
  queuedBytes = 0
  /** Bytes that the kernel has taken and the peer has not: a test may set it, and nothing here changes it. */
  inKernel = 0
  isHolding = false
  readonly hasBegun = false
  /** @internal */
  onResume: () => void = () => undefined
  /** @internal Something was written or is awaited. A socket on its own sends at once. */
  onQueued: () => void = () => {
    if (!this.isHolding) this.take()
  }
  #queued: Buffer[] = []
  #sent: Buffer[] = []

  write(encoded: Encoded): number {
    const chunks = isChunk(encoded) ? [encoded] : encoded
    const bytes = Buffer.concat(chunks.map((chunk) => Buffer.from(chunk as Uint8Array)))
    this.#queued.push(bytes)
    this.queuedBytes += bytes.length
    this.onQueued()
    return bytes.length
  }

  get unacknowledgedBytes(): number {
    return this.queuedBytes + this.inKernel
  }

  settle(): void {
    // Text is encoded at once.
  }

  hasQueued(bytes: number): boolean {
    return this.queuedBytes >= bytes
  }

  awaitDrained(): void {
    this.onQueued()
  }

  release(): null {
    return null
  }

  attach(): void {
    // The test drives the connection itself.
  }

  readInto(): number {
    return 0
  }

  unread(): void {
    throw new UsageError('ERR_NOT_SUPPORTED', 'nothing is read before its connection here')
  }

  present(): void {
    throw new UsageError('ERR_NOT_SUPPORTED', 'there is no proxy in memory')
  }

  secure(): void {
    throw new UsageError('ERR_NOT_SUPPORTED', 'there is no TLS in memory')
  }

  pause(): void {
    this.isReading = false
  }

  resume(): void {
    this.isReading = true
    this.onResume()
  }

  end(): void {
    this.hasEnded = true
  }

  destroy(): void {
    this.isDestroyed = true
    this.#queued = []
    this.queuedBytes = 0
  }

  reset(): void {
    this.wasReset = true
    this.destroy()
  }

  /** The kernel accepts what is queued. */
  take(): void {
    this.#sent.push(...this.#queued.splice(0))
    this.queuedBytes = 0
  }

  /** Returns what the kernel has accepted since the last call. */
  sent(): Buffer {
    return Buffer.concat(this.#sent.splice(0))
  }
}

/** A connection with the test as its peer. */
export class Wire<In = unknown, Out = unknown> {
  readonly connection: Connection<In, Out>
  readonly socket = new MemorySocket()
  readonly worker: ConnectionHost
  /** Messages passed to `onMessage`, in order. */
  readonly messages: In[] = []
  /** Errors passed to `onError`, failed assertions of handlers included. */
  readonly errors: Failure[] = []
  readonly #clock = new StandingClock()
  #arrived: (Buffer | null)[] = []
  #isDelivering = false
  /** Something was sent since the connection was last told that everything has left. */
  #isDrainDue = false

  /** @internal */
  constructor(protocol: AnyProtocol, settings: Settings<In, Out>) {
    this.worker = this.#host(settings)
    this.socket.onResume = () => queueMicrotask(() => this.#deliver())
    this.socket.onQueued = () => this.#flushSoon()
    this.connection = new Connection(this.socket, poisoned(protocol), this.worker, settings.role, this.#clock)
    this.connection[kOpen]()
    this.#flush()
  }

  /**
   * Delivers bytes in one read. While reading is paused they wait until it resumes. They are lent as by an engine:
   * overwritten as soon as the connection has returned.
   */
  receive(bytes: string | Uint8Array): void {
    this.#arrived.push(Buffer.from(bytes as Uint8Array))
    this.#deliver()
  }

  /** The peer sends FIN, after any bytes that still wait. */
  end(): void {
    this.#arrived.push(null)
    this.#deliver()
  }

  /** The peer resets the connection. */
  reset(): void {
    if (this.socket.isDestroyed) return
    this.connection[kClosed](new SystemError('ECONNRESET', 'read', this.socket.remoteIp))
    this.socket.destroy()
  }

  /** Returns the bytes sent to the peer since the last call. */
  written(): Buffer {
    this.#flush()
    return this.socket.sent()
  }

  /** From now on the peer reads nothing: what is sent stays queued. */
  hold(): void {
    this.socket.isHolding = true
  }

  /** The peer reads again, and everything queued is sent. */
  drain(): void {
    this.socket.isHolding = false
    this.#isDrainDue = true
    this.#flush()
  }

  /** Starts a drain: calls `codec.drain()`, once. Messages can still be received and sent. */
  goodbye(): void {
    this.connection[kDrain]()
    this.#flush()
  }

  /** Makes the connection leave: says goodbye if that has not happened yet, finishes work in flight, then sends FIN. */
  leave(): void {
    this.goodbye()
    this.connection[kLeave]()
    this.#flush()
  }

  /** Advances the clock: deadlines within that time expire in order, and `io.now()` moves on. */
  advance(ms: number): void {
    this.#flush()
    this.#clock.advance(ms, () => this.#flush())
  }

  #deliver(): void {
    if (this.#isDelivering) return
    this.#isDelivering = true
    while (this.#arrived.length > 0 && this.socket.isReading && !this.socket.isDestroyed) {
      const bytes = this.#arrived.shift() as Buffer | null
      if (bytes === null) this.connection[kEnded]()
      else this.connection[kReceived](bytes)
      bytes?.fill(OVERWRITTEN)
    }
    this.#isDelivering = false
    this.#isDrainDue = true
    this.#flush()
  }

  /** What is sent outside of all calls of this wire, by an asynchronous handler, leaves in the next microtask. */
  #flushSoon(): void {
    if (this.#isDrainDue) return
    this.#isDrainDue = true
    queueMicrotask(() => this.#flush())
  }

  /** Like an engine at the end of a turn: repeats until nothing more is sent. */
  #flush(): void {
    while (this.#isDrainDue && !this.#isDelivering && !this.socket.isHolding && !this.socket.isDestroyed) {
      this.#isDrainDue = false
      this.socket.take()
      this.connection[kDrained]()
    }
  }

  #host(settings: Settings<In, Out>): ConnectionHost {
    const { onMessage, onError } = settings
    return {
      name: 'test',
      id: 0,
      counters: newCounters(),
      connections: new Map(),
      unsettled: 0,
      tls: null,
      onConnect: null,
      onClose: null,
      onBufferFull: null,
      onBufferDrain: null,
      maxPackageSize: Connection.defaultMaxPackageSize,
      maxSendBufferSize: Connection.defaultMaxSendBufferSize,
      ...DEFAULT_LIMITS,
      [kGone]: () => undefined,
      ...defined(settings),
      onMessage: (connection, message) => {
        this.messages.push(message)
        return onMessage?.(connection, message)
      },
      onError: (connection, code, message, error) => {
        this.errors.push({ code, message, error })
        return onError?.(connection, code, message, error)
      },
    }
  }
}

/** Opens a connection with a protocol. The returned wire is its peer, its kernel and its clock. */
export function open<P extends AnyProtocol>(
  protocol: P,
  settings: Settings<InOf<P>, OutOf<P>> = {},
): Wire<InOf<P>, OutOf<P>> {
  checkSettings(settings)
  return new Wire(protocol, settings)
}

/**
 * Yields the ways in which a network may cut `bytes`: whole, byte by byte, and every split in two. Feeds O(n^2) bytes.
 */
export function* chunkings(bytes: string | Uint8Array): Generator<Buffer[]> {
  const whole = Buffer.from(bytes as Uint8Array)
  yield [whole]
  yield Array.from(whole, (_byte, at) => whole.subarray(at, at + 1))
  for (let at = 1; at < whole.length; at++) yield [whole.subarray(0, at), whole.subarray(at)]
}

/** Wraps a framing protocol so that lent packets are overwritten when they have been decoded, in whichever way. */
function poisoned(protocol: AnyProtocol): AnyProtocol {
  if ('open' in protocol || protocol.lends !== true) return protocol
  const lender: Protocol = protocol
  const decode = (packet: Buffer) => {
    const message = lender.decode(packet)
    packet.fill(OVERWRITTEN)
    return message
  }
  const input = Object.assign((bytes: Buffer, from: number) => lender.input(bytes, from), lender.input)
  const wrapped: Protocol = {
    name: lender.name,
    lends: true,
    input,
    decode,
    encode: (message) => lender.encode(message),
  }
  const decodeAt = (bytes: Buffer, start: number, end: number) => {
    const message = lender.decodeAt?.(bytes, start, end)
    bytes.fill(OVERWRITTEN, start, end)
    return message
  }
  if (lender.decodeAt !== undefined) wrapped.decodeAt = decodeAt
  if (lender.decodeText !== undefined) wrapped.decodeText = (text, start, end) => lender.decodeText?.(text, start, end)
  return wrapped
}

interface Alarm {
  readonly due: number
  readonly ring: () => unknown
}

class StandingClock implements ConnectionClock {
  readonly #alarms = new Map<number, Alarm>()
  #now = 0
  #lastId = 0

  recently(): number {
    return this.#now
  }

  now(): number {
    return this.#now
  }

  after<A, B = undefined>(ms: number, fn: (a: A, b: B) => unknown, a?: A, b?: B): number {
    this.#alarms.set(++this.#lastId, { due: this.#now + ms, ring: () => fn(a as A, b as B) })
    return this.#lastId
  }

  cancel(id: number): boolean {
    return this.#alarms.delete(id)
  }

  advance(ms: number, hasRung: () => void): void {
    const end = this.#now + ms
    for (let id = this.#nextBy(end); id !== 0; id = this.#nextBy(end)) {
      const { due, ring } = this.#alarms.get(id) as Alarm
      this.#alarms.delete(id)
      this.#now = due
      ring()
      hasRung()
    }
    this.#now = end
  }

  #nextBy(end: number): number {
    let next = 0
    for (const [id, { due }] of this.#alarms) {
      if (due <= end && (next === 0 || due < (this.#alarms.get(next) as Alarm).due)) next = id
    }
    return next
  }
}
