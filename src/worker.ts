// Worker: what a user declares. An address, a protocol, a number of processes, callbacks. The same object exists in
// every role; only in a worker process of its own group does it serve. It is a Group (process/group.ts) and a
// ConnectionHost; that is not in an `implements`, since those members are internal and stripped from the declarations.

import { type AnyConnection, Connection, kLeave, kOpen } from './connection.ts'
import { type ConnectionCallbacks, kGone } from './connection-host.ts'
import { newCounters } from './counters.ts'
import { UsageError } from './errors.ts'
import { log } from './log.ts'
import { parseAddress } from './net/address.ts'
import { nodeEngine } from './net/node-engine.ts'
import { type Declaration, type InheritedSocket, registry } from './process/group.ts'
import { runAll } from './process/run-all.ts'
import { type AnyProtocol, type InOf, type OutOf, type ProtocolOf, protocolOf } from './protocol.ts'
import type { Listener, Socket, SocketEvents } from './transport.ts'

/**
 * Callbacks that protocols call through `io.event`. A protocol package adds its own:
 * `declare module 'millrace' { interface ProtocolCallbacks { onTopic?: (connection: AnyConnection, topic: string) => unknown } }`
 */
// biome-ignore lint/suspicious/noEmptyInterface: for augmentation
export interface ProtocolCallbacks {}

/** What can stand in the constructor. Every one is a property of the Worker too. */
export interface WorkerSettings<A extends string | undefined, P>
  extends Partial<ConnectionCallbacks<InOf<P>, OutOf<P>>> {
  name?: string
  count?: number
  backlog?: number
  maxPackageSize?: number
  maxSendBufferSize?: number
  maxInFlight?: number
  maxQueuedMessages?: number
  idleTimeoutMs?: number
  startTimeoutMs?: number
  onWorkerStart?: ((worker: Worker<A, P>) => unknown) | null
  onWorkerStop?: ((worker: Worker<A, P>) => unknown) | null
  onConnect?: ((connection: Connection<InOf<P>, OutOf<P>>) => unknown) | null
}

type Options<A extends string | undefined, P> = WorkerSettings<A, P> & ProtocolCallbacks
type ProtocolAt<A> = A extends string ? ProtocolOf<A> : unknown

// biome-ignore lint/correctness/noUnusedVariables: a merged interface repeats the class's parameters
export interface Worker<A extends string | undefined, P> extends ProtocolCallbacks {}

// biome-ignore lint/suspicious/noUnsafeDeclarationMerging: the merged interface holds optional callbacks only
export class Worker<const A extends string | undefined = undefined, P = ProtocolAt<A>> {
  /** Seconds, as Workerman's: what `stop` gives connections to end, after which a worker is killed. */
  static stopTimeout = 2

  /** 0 to count - 1, kept by the process that replaces this one. */
  id = 0
  name = 'none'
  /** Number of processes. */
  count = 1
  /** Connections that wait to be accepted. Workerman's number; the kernel's somaxconn is the upper bound. */
  backlog = 102_400
  protocol: AnyProtocol | null = null
  /** Bytes; the limit of every connection's packets. */
  maxPackageSize = Connection.defaultMaxPackageSize
  /** Bytes; a connection refuses to send more once this much is queued. */
  maxSendBufferSize = Connection.defaultMaxSendBufferSize
  /** How many asynchronous `onMessage` of one connection may be unsettled: 1 keeps its messages in order. */
  maxInFlight = 1
  /** How many decoded messages may wait behind them before reading stops. */
  maxQueuedMessages = 64
  /** Closes a connection that has neither sent nor received for this long; 0 is off, since many protocols are silent. */
  idleTimeoutMs = 0
  /** How long `onWorkerStart` may take; 0 is for ever. */
  startTimeoutMs = 30_000
  /** The open connections of this process, by id. */
  readonly connections = new Map<number, AnyConnection>()
  /** @internal */
  readonly counters = newCounters()

  /** Once in each process, before it accepts: a promise delays that. */
  onWorkerStart: ((worker: Worker<A, P>) => unknown) | null = null
  onWorkerStop: ((worker: Worker<A, P>) => unknown) | null = null
  /** A connection was accepted. Messages wait until a returned promise has settled. */
  onConnect: ((connection: Connection<InOf<P>, OutOf<P>>) => unknown) | null = null
  onMessage: ConnectionCallbacks<InOf<P>, OutOf<P>>['onMessage'] = null
  onClose: ConnectionCallbacks<InOf<P>, OutOf<P>>['onClose'] = null
  onError: ConnectionCallbacks<InOf<P>, OutOf<P>>['onError'] = null
  onBufferFull: ConnectionCallbacks<InOf<P>, OutOf<P>>['onBufferFull'] = null
  onBufferDrain: ConnectionCallbacks<InOf<P>, OutOf<P>>['onBufferDrain'] = null

  readonly #address: string
  #endpoint = ''
  #listeners: Listener[] = []
  #drained: (() => void) | null = null

  constructor(options: Options<A, P> & { listen: A; protocol: P & AnyProtocol })
  constructor(options: Options<A, P> & { listen: A; protocol?: undefined })
  constructor(listen: A, options: Options<A, P> & { protocol: P & AnyProtocol })
  constructor(listen: A, options?: Options<A, P> & { protocol?: undefined })
  constructor(options?: Options<A, P> & { listen?: undefined; protocol?: undefined })
  constructor(first?: string | object, second?: object) {
    const settings = typeof first === 'object' ? first : { ...second, listen: first }
    const { listen = '', ...options } = settings as { listen?: string }
    this.#address = listen
    if (listen !== '') parseAddress(listen) // a bad one is told here, where the user's line is in the stack
    for (const [key, value] of Object.entries(options)) this.#set(key, value)
    registry().groups.push(this)
  }

  /**
   * Starts everything that was declared, or, in the process that you typed, does what its command line says. Returns
   * at once in every role: do not write code after it that counts on being alone.
   */
  static runAll(): void {
    registry().settings = () => ({ stopTimeoutMs: Math.min(Worker.stopTimeout * 1000, LONGEST_TIMEOUT_MS) })
    runAll()
  }

  /** Ends this worker process after its connections; the master starts another: "max requests" in one line. */
  static stopAll(code = 0): void {
    registry().requestStop?.(code)
  }

  /** All Workers declared in this process. */
  static getAllWorkers(): Worker<string | undefined, unknown>[] {
    return registry().groups as unknown as Worker<string | undefined, unknown>[]
  }

  /** Writes a line to the log. */
  static log(message: string): void {
    log(message)
  }

  /** `text://0.0.0.0:8888`, in a worker with the port that was bound; 'none' without an address. */
  getSocketName(): string {
    if (this.#address === '') return 'none'
    return this.#endpoint === '' ? this.#address : `${parseAddress(this.#address).scheme}://${this.#endpoint}`
  }

  // Group: what the process layer calls

  /** @internal */
  describe(): Declaration {
    const { name, backlog } = this
    const protocol = this.#address === '' ? '' : this.#resolveProtocol().name
    for (const [key, least] of Object.entries(NUMBERS)) checkNumber(name, key, Reflect.get(this, key), least)
    const startTimeoutMs = Math.min(this.startTimeoutMs || Number.POSITIVE_INFINITY, LONGEST_TIMEOUT_MS)
    const count = Math.max(1, Math.trunc(this.count)) // as Workerman
    return { name, listen: this.#address, protocol, count, backlog, startTimeoutMs }
  }

  /** @internal */
  async start(id: number, sockets: readonly InheritedSocket[]): Promise<void> {
    this.id = id
    this.#endpoint = sockets[0]?.endpoint ?? ''
    await this.onWorkerStart?.(this)
    for (const { fd, endpoint } of sockets) await this.listenOn({ fd, expected: endpoint })
  }

  /** @internal Accepts on a socket that somebody bound. */
  async listenOn(source: { fd?: number; handle?: unknown; expected: string }): Promise<void> {
    const protocol = this.#resolveProtocol()
    this.#endpoint = source.expected
    const accept = (socket: Socket) => this.#accept(socket, protocol)
    this.#listeners.push(await nodeEngine.listen({ ...source, backlog: this.backlog }, accept))
  }

  /** @internal */
  async drain(): Promise<void> {
    for (const listener of this.#listeners.splice(0)) listener.close()
    try {
      await this.onWorkerStop?.(this)
    } catch (error) {
      log(`onWorkerStop: ${error instanceof Error ? error.stack : error}`)
    }
    const drained = new Promise<void>((resolve) => {
      this.#drained = resolve
    })
    for (const connection of [...this.connections.values()]) connection[kLeave]()
    this[kGone]()
    return drained
  }

  /** @internal */
  stop(): void {
    for (const connection of [...this.connections.values()]) connection.destroy()
  }

  #accept(socket: Socket, protocol: AnyProtocol): SocketEvents | null {
    try {
      const connection = new Connection(socket, protocol, this)
      connection[kOpen]()
      return connection
    } catch (error) {
      log(`protocol '${protocol.name}' cannot open a connection: ${error instanceof Error ? error.stack : error}`)
      return null
    }
  }

  /** @internal */
  [kGone](): void {
    if (this.connections.size === 0) this.#drained?.()
  }

  #resolveProtocol(): AnyProtocol {
    return this.protocol ?? protocolOf(parseAddress(this.#address).scheme)
  }

  #set(key: string, value: unknown): void {
    const isKnown = key === 'name' || key === 'protocol' || key in NUMBERS || /^on[A-Z]/.test(key)
    if (!isKnown) throw new UsageError('ERR_UNKNOWN_OPTION', `a Worker has no option '${key}'`)
    if (value !== undefined) Reflect.set(this, key, value)
  }
}

/** 0 is for ever; setTimeout cannot do more, and the master adds something. */
const LONGEST_TIMEOUT_MS = 2_000_000_000

/** The settings that are numbers, and the least that each may be. */
const NUMBERS = {
  count: Number.NEGATIVE_INFINITY,
  backlog: 1,
  maxPackageSize: 1,
  maxSendBufferSize: 1,
  maxInFlight: 1,
  maxQueuedMessages: 1,
  idleTimeoutMs: 0,
  startTimeoutMs: 0,
}

function checkNumber(worker: string, key: string, value: unknown, least: number): void {
  const isCount = key === 'count' || key === 'backlog' // the others may be Infinity
  if (typeof value === 'number' && value >= least && (Number.isFinite(value) || !isCount)) return
  const wanted = Number.isFinite(least) ? `a number from ${least} on` : 'a number'
  throw new UsageError('ERR_BAD_OPTION', `${key} of worker '${worker}' is ${value}: it must be ${wanted}`)
}
