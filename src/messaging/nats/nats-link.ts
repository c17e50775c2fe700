// One process's connection to NATS, made again whenever it ends. Each connection begins with all subscriptions; what
// was written to an earlier one is never written again by itself: whether it was handled is unknown. (The library's own
// reconnecting would drop what was published meanwhile, without a word.) What the library promises is never awaited
// alone: when a connection ends, its flush() and drain() do not settle, and a frozen NATS does not end it at all.

import { createRequire } from 'node:module'
import type { Msg, MsgHdrs, NatsConnection, Subscription } from '@nats-io/transport-node'
import { type Deferred, withResolvers } from '../../deferred.ts'
import { messageOf, stackOf, UsageError } from '../../errors.ts'
import { LimitedLog, log } from '../../log.ts'
import { apart } from '../../loop/apart.ts'
import { Backoff } from '../../loop/backoff.ts'
import { now } from '../../loop/clock.ts'
import { deadlines } from '../../loop/deadlines.ts'
import { nothing } from '../../nothing.ts'
import type { NatsOptions } from './options.ts'

export interface LinkHost {
  /** Connected: what waits may be written. */
  up(): void
  /** The connection is gone, and with it what has been written and not confirmed. */
  down(): void
  /** NATS refuses what is published on this subject. */
  forbidden(subject: string): void
}

/** A subject that this process listens to. */
interface Listening {
  readonly subject: string
  readonly queue: string
  readonly take: (message: Msg) => void
  /** On the present connection. */
  subscription: Subscription | null
}

/** Of one attempt to connect. */
const CONNECT_MS = 5000
/** A connection without an answer to two of these pings in a row is dead. The library's default is two minutes. */
const PING_MS = 10_000
/** What waits for a connection does so for seconds only. */
const LONGEST_RETRY_MS = 1000
/** After an outage, what waits is written when the other processes have tried again, too, and listen. */
const SETTLING_MS = 1500
const REPEAT_MS = 30_000
/** NATS's default, until it says what its limit is. */
const DEFAULT_MAX_PAYLOAD = 1_048_576

type Library = typeof import('@nats-io/transport-node')

export class NatsLink {
  readonly #name: string
  readonly #options: NatsOptions
  readonly #host: LinkHost
  readonly #library: Library
  readonly #listening = new Set<Listening>()
  readonly #troubles = new LimitedLog()
  /** The last reason for having no connection, and when it was logged. */
  #reason = ''
  #saidAt = Number.NEGATIVE_INFINITY
  #connection: NatsConnection | null = null
  /** Resolves when the present connection has ended, as far as we are concerned. */
  #ended = withResolvers()
  /** Whether the present connection is the first one tried, or has been there for a while. */
  #isSettled = false
  #hasFailed = false
  /** While there is no connection: for the next one, and for what `ready` waits for then. */
  #up: Deferred<void> | null = null
  #ready: Promise<void> | null = null
  #isClosed = false
  readonly #failed = withResolvers()
  /** Limit of headers and payload together, in bytes. */
  maxPayload = DEFAULT_MAX_PAYLOAD

  /** Throws UsageError if the library is not installed. */
  constructor(name: string, options: NatsOptions, host: LinkHost) {
    this.#name = name
    this.#options = options
    this.#host = host
    this.#library = loadNats()
  }

  /** Resolves when an attempt to connect has failed: nobody need wait for the next one. */
  get failed(): Promise<void> {
    return this.#failed.promise
  }

  /** Connected. */
  get isUp(): boolean {
    return this.#connection !== null && !this.#connection.isClosed()
  }

  /** Connected, and others may be expected to be so, too. */
  get isSettled(): boolean {
    return this.#isSettled && this.isUp
  }

  /** Connects, and again whenever the connection ends, until `close`. */
  open(): void {
    apart(() => void this.#run(), undefined) // the sockets must not inherit the caller's async context
  }

  async #run(): Promise<void> {
    const backoff = new Backoff()
    while (!this.#isClosed) {
      const began = now()
      try {
        await this.#live(await this.#library.connect(this.#connectOptions()))
      } catch (error) {
        this.#explain(messageOf(error))
        this.#failed.resolve()
      }
      this.#hasFailed = true
      const waitMs = Math.min(LONGEST_RETRY_MS, backoff.next(now() - began))
      if (!this.#isClosed) await new Promise<void>((resolve) => deadlines.after(waitMs, resolve))
    }
  }

  /** The same reason is logged twice a minute at most: each of many processes tries every two seconds. */
  #explain(reason: string): void {
    if (reason === this.#reason && now() - this.#saidAt < REPEAT_MS) return
    this.#reason = reason
    this.#saidAt = now()
    log(`${this.#name}: no connection to NATS: ${reason}; it is tried again`)
  }

  #connectOptions(): Record<string, unknown> {
    return {
      name: this.#name,
      timeout: CONNECT_MS,
      pingInterval: PING_MS,
      ...this.#options,
      reconnect: false,
      waitOnFirstConnect: false,
    }
  }

  /** Resolves when the connection has ended. */
  async #live(connection: NatsConnection): Promise<void> {
    if (this.#isClosed) return connection.close()
    this.#connection = connection
    this.#ended = withResolvers()
    this.#reason = ''
    this.maxPayload = connection.info?.max_payload ?? DEFAULT_MAX_PAYLOAD
    log(`${this.#name}: connected to NATS at ${connection.getServer()}`)
    for (const one of this.#listening) this.#subscribe(connection, one)
    void this.#watch(connection)
    const timer = deadlines.after(this.#hasFailed ? SETTLING_MS : 1, settle, this)
    this.#up?.resolve()
    this.#up = this.#ready = null
    const why = await Promise.race([connection.closed().then(because), this.#ended.promise.then(() => FROZEN)])
    deadlines.cancel(timer)
    this.#connection = null
    this.#isSettled = false
    this.#ended.resolve()
    for (const one of this.#listening) one.subscription = null
    if (!this.#isClosed) this.#troubles.log(`${this.#name}: the connection to NATS has ended${why}`)
    this.#host.down()
  }

  /** @internal */
  settle(): void {
    this.#isSettled = true
    if (this.isUp) this.#host.up()
  }

  async #watch(connection: NatsConnection): Promise<void> {
    for await (const status of connection.status()) {
      if (status.type === 'staleConnection') this.#giveUp(connection)
      if (status.type !== 'error') continue
      const { error } = status
      this.#troubles.log(`${this.#name}: NATS: ${messageOf(error)}`)
      if (error instanceof this.#library.PermissionViolationError && error.operation === 'publish')
        this.#host.forbidden(error.subject)
    }
  }

  /** NATS does not answer. The library waits until what it has written is taken, which may be never. */
  #giveUp(connection: NatsConnection): void {
    if (connection === this.#connection) this.#ended.resolve()
    const { protocol } = connection as { protocol?: { transport?: { socket?: { destroy?: () => void } } } }
    protocol?.transport?.socket?.destroy?.() // undocumented; without it the socket remains until TCP gives it up
  }

  /** Calls `take` for each message, on this connection and the ones after it. */
  subscribe(subject: string, queue: string, take: (message: Msg) => void): Listening {
    const one = { subject, queue, take, subscription: null }
    this.#listening.add(one)
    if (this.#connection !== null && this.isUp) this.#subscribe(this.#connection, one)
    return one
  }

  #subscribe(connection: NatsConnection, one: Listening): void {
    const callback = (error: Error | null, message: Msg) => {
      if (error !== null || connection !== this.#connection) return
      try {
        apart(one.take, message)
      } catch (error) {
        this.#troubles.log(`${this.#name}: ${stackOf(error)}`) // thrown further, it would end all reading
      }
    }
    const queue = one.queue === '' ? {} : { queue: one.queue }
    one.subscription = connection.subscribe(one.subject, { ...queue, callback })
  }

  /** Resolves when nothing more comes: what NATS has already sent is taken. */
  async unsubscribe(one: Listening): Promise<void> {
    this.#listening.delete(one)
    const { subscription } = one
    if (subscription === null || this.#connection === null) return
    // A message that NATS is delivering at this moment comes behind the confirmation (seen with 2.9), where drain() has
    // forgotten the subscription already: so it waits for a second one. Undocumented; without it that message is lost.
    const { protocol } = this.#connection as { protocol?: { unsub?: (subscription: Subscription) => void } }
    protocol?.unsub?.(subscription)
    await this.flush()
    const drained = subscription.drain().catch(nothing) // the connection has ended: nothing comes
    await Promise.race([drained, this.#ended.promise])
  }

  /** Resolves when NATS knows of all subscriptions made so far, however long that takes. */
  ready(): Promise<void> {
    if (this.isUp) return this.#flushed()
    this.#ready ??= this.#flushed() // one for all: without NATS, subscriptions may come and go for long
    return this.#ready
  }

  async #flushed(): Promise<void> {
    for (;;) {
      this.#up ??= this.isUp ? null : withResolvers()
      await this.#up?.promise
      if (await this.flush()) return // otherwise the next connection begins with the subscription
    }
  }

  headers(): MsgHdrs {
    return this.#library.headers()
  }

  /** Only while `isUp`. Throws what the library does. */
  publish(subject: string, payload: Uint8Array, headers: MsgHdrs | null, reply: string): void {
    this.#connection?.publish(subject, payload, headers === null ? { reply } : { headers, reply })
  }

  /**
   * Resolves when NATS has what was written before and the host knows what of it is refused, or with false if the
   * connection ends first.
   */
  async flush(): Promise<boolean> {
    if (this.#connection === null) return false
    const flushed = this.#connection.flush().then(
      () => true,
      () => false,
    )
    const isThere = await Promise.race([flushed, this.#ended.promise.then(() => false)])
    if (isThere) await new Promise(setImmediate) // refusals read with the confirmation take microtasks to get here
    return isThere
  }

  close(): void {
    this.#isClosed = true
    void this.#connection?.close()
  }
}

function settle(link: NatsLink): void {
  link.settle()
}

const FROZEN = ': it does not answer'

/** In words, behind what has happened. */
function because(error: unknown): string {
  return error === undefined ? '' : `: ${messageOf(error)}`
}

/** Not with `import()`: that it is missing must be known where the cluster is declared. */
function loadNats(): Library {
  try {
    return createRequire(import.meta.url)('@nats-io/transport-node') as Library
  } catch (cause) {
    throw new UsageError('ERR_NO_NATS', 'Cluster needs a NATS client: npm install @nats-io/transport-node', { cause })
  }
}
