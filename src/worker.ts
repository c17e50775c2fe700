// Worker: what a user declares. An address, a protocol, a number of processes, callbacks. The same object exists in
// every role; only in a worker process of its own group does it serve. It is a Group (process/group.ts) and a
// ConnectionHost; that is not in an `implements`, since those members are internal and stripped from the declarations.

import { type AnyConnection, Connection, kOpen } from './connection.ts'
import { type ConnectionCallbacks, type ConnectionHost, kGone } from './connection-host.ts'
import { newCounters } from './counters.ts'
import { DatagramInbox } from './datagram-inbox.ts'
import { datagramProtocol } from './datagram-peer.ts'
import { Drain, type Drainable } from './drain.ts'
import { AbortError, UsageError } from './errors.ts'
import { log } from './log.ts'
import { type Address, parseAddress } from './net/address.ts'
import { nodeEngine } from './net/node-engine.ts'
import { UdpServer } from './net/udp.ts'
import {
  type ConnectionRow,
  DEFAULT_SETTINGS,
  type Declaration,
  type InheritedSocket,
  type ReloadMode,
  registry,
  type Settings,
} from './process/group.ts'
import { runAll } from './process/run-all.ts'
import { type AnyProtocol, type InOf, type OutOf, type ProtocolOf, protocolOf } from './protocol.ts'
import type { Listener, Socket, SocketEvents } from './transport.ts'
import { UdpConnection, type UdpHost } from './udp-connection.ts'

/**
 * Callbacks that protocols call through `io.event`. A protocol package adds its own:
 * `declare module 'millrace' { interface ProtocolCallbacks { onTopic?: (connection: AnyConnection, topic: string) => unknown } }`
 */
// biome-ignore lint/suspicious/noEmptyInterface: for augmentation
export interface ProtocolCallbacks {}

/** What can stand in the constructor. Every one is a property of the Worker too. */
export interface WorkerSettings<A extends string | undefined, P> extends Partial<CallbacksAt<A, P>> {
  transport?: 'tcp' | 'udp'
  name?: string
  count?: number
  backlog?: number
  maxPackageSize?: number
  maxSendBufferSize?: number
  maxInFlight?: number
  maxQueuedMessages?: number
  maxDatagramsInFlight?: number
  idleTimeoutMs?: number
  startTimeoutMs?: number
  drainTimeoutMs?: number
  reloadMode?: ReloadMode
  reloadable?: boolean
  user?: string
  group?: string
  execArgv?: readonly string[]
  onWorkerStart?: ((worker: Worker<A, P>) => unknown) | null
  onWorkerStop?: ((worker: Worker<A, P>) => unknown) | null
  onWorkerActive?: ((worker: Worker<A, P>) => unknown) | null
  onWorkerRetire?: ((worker: Worker<A, P>) => unknown) | null
  onWorkerReload?: ((worker: Worker<A, P>) => unknown) | null
  onConnect?: ((connection: Connection<InOf<P>, OutOf<P>>) => unknown) | null
}

/** What `worker.hold()` gives: call it when the work is done, once or more often. `using` does it by itself. */
export type Hold = (() => void) & Disposable

type Options<A extends string | undefined, P> = WorkerSettings<A, P> & ProtocolCallbacks
/** A literal `udp://` address has datagrams, and no connections. */
type ConnectionAt<A, P> = A extends string
  ? Lowercase<A> extends `udp://${string}`
    ? UdpConnection<OutOf<P>>
    : Connection<InOf<P>, OutOf<P>>
  : Connection<InOf<P>, OutOf<P>>
type CallbacksAt<A, P> = ConnectionCallbacks<InOf<P>, OutOf<P>, ConnectionAt<A, P>>
type ProtocolAt<A> = A extends string ? ProtocolOf<A> : unknown

// biome-ignore lint/correctness/noUnusedVariables: a merged interface repeats the class's parameters
export interface Worker<A extends string | undefined, P> extends ProtocolCallbacks {}

// biome-ignore lint/suspicious/noUnsafeDeclarationMerging: the merged interface holds optional callbacks only
export class Worker<const A extends string | undefined = undefined, P = ProtocolAt<A>> {
  /** Seconds, as Workerman's: what `stop` gives connections to end, after which a worker is killed. */
  static stopTimeout = 2
  /** Where log lines go; a flag or variable of the command line wins. A daemon's default is in its run directory. */
  static logFile: string = DEFAULT_SETTINGS.logFile
  /** Where a daemon's standard output goes; nowhere by default. */
  static stdoutFile: string = DEFAULT_SETTINGS.stdoutFile
  /** A copy of the pid, for people. */
  static pidFile: string = DEFAULT_SETTINGS.pidFile
  /** Bytes: a log or stdout file that would grow over it is put aside as `<file>.1`; 0 is without bound. */
  static logFileMaxSize: number = DEFAULT_SETTINGS.logFileMaxSize

  /** 0 to count - 1, kept by the process that replaces this one. */
  id = 0
  /** Which process of its slot this is: 1 for the first, one more after each crash or reload. */
  incarnation = 0
  name = 'none'
  /** Number of processes. */
  count = 1
  /** Connections that wait to be accepted. Workerman's number; the kernel's somaxconn is the upper bound. */
  backlog = 102_400
  protocol: AnyProtocol | null = null
  /** `udp`: each datagram is a packet of the protocol, as with `udp://`. For `text://`, `frame://` and protocols of yours. */
  transport: 'tcp' | 'udp' = 'tcp'
  /** Bytes; the limit of every connection's packets. */
  maxPackageSize = Connection.defaultMaxPackageSize
  /** Bytes; a connection refuses to send more once this much is queued. */
  maxSendBufferSize = Connection.defaultMaxSendBufferSize
  /** How many asynchronous `onMessage` of one connection may be unsettled: 1 keeps its messages in order. */
  maxInFlight = 1
  /** How many decoded messages may wait behind them before reading stops. */
  maxQueuedMessages = 64
  /** UDP: how many asynchronous `onMessage` may be unsettled; others wait (`maxQueuedMessages`), then are dropped. */
  maxDatagramsInFlight = 1024
  /** Closes a connection that has neither sent nor received for this long; 0 is off, since many protocols are silent. */
  idleTimeoutMs = 0
  /** How long `onWorkerStart` may take; 0 is for ever. */
  startTimeoutMs = 30_000
  /** How long a reload or a graceful stop gives connections and handlers to end: long enough for any honest request. */
  drainTimeoutMs = 30_000
  /** `stop-first` for what cannot live twice (a lock, a serial port): the old process ends before the new one starts. */
  reloadMode: ReloadMode = 'start-first'
  /** False: a reload only calls `onWorkerReload`, and the processes stay. */
  reloadable = true
  /** Who the processes run as when root starts the server: a name or a number. Empty: as who started it. */
  user = ''
  /** Their group; by default the user's own. */
  group = ''
  /** Flags of Node for these processes: `['--max-old-space-size=512']`. */
  execArgv: readonly string[] = []
  /** The open connections of this process, by id. */
  readonly connections = new Map<number, AnyConnection>()
  /** @internal */
  readonly counters = newCounters()
  /** @internal */
  unsettled = 0

  /** Once in each process, before it accepts: a promise delays that. */
  onWorkerStart: ((worker: Worker<A, P>) => unknown) | null = null
  /** Told to leave, as the first thing: connections go on for a while, see `drainTimeoutMs`. */
  onWorkerStop: ((worker: Worker<A, P>) => unknown) | null = null
  /** This process is its slot's only one now: after a start at once, at a reload when the old one's onWorkerRetire has settled. */
  onWorkerActive: ((worker: Worker<A, P>) => unknown) | null = null
  /** At a reload another process takes this one's place: give up what only one can have. A promise is waited for. */
  onWorkerRetire: ((worker: Worker<A, P>) => unknown) | null = null
  /** At a reload, before anything else; with `reloadable: false` the only thing. */
  onWorkerReload: ((worker: Worker<A, P>) => unknown) | null = null
  /** A connection was accepted. Messages wait until a returned promise has settled. */
  onConnect: ((connection: Connection<InOf<P>, OutOf<P>>) => unknown) | null = null
  onMessage: CallbacksAt<A, P>['onMessage'] = null
  onClose: CallbacksAt<A, P>['onClose'] = null
  onError: CallbacksAt<A, P>['onError'] = null
  onBufferFull: CallbacksAt<A, P>['onBufferFull'] = null
  onBufferDrain: CallbacksAt<A, P>['onBufferDrain'] = null

  readonly #address: string
  #endpoint = ''
  #listeners: Listener[] = []
  readonly #holds = new Set<{ readonly why: string }>()
  #leaving: Leaving | null = null
  #aborter: AbortController | null = null

  constructor(options: Options<A, P> & { listen: A; protocol: P & AnyProtocol })
  constructor(options: Options<A, P> & { listen: A; protocol?: undefined })
  constructor(listen: A, options: Options<A, P> & { protocol: P & AnyProtocol })
  constructor(listen: A, options?: Options<A, P> & { protocol?: undefined })
  constructor(options?: Options<A, P> & { listen?: undefined; protocol?: undefined })
  constructor(first?: string | object, second?: object) {
    const settings = typeof first === 'object' ? first : { ...second, listen: first }
    const { listen = '', ...options } = settings as { listen?: string }
    this.#address = listen
    if (listen !== '' && parseAddress(listen).transport === 'udp') this.transport = 'udp' // a bad one is told here, where the user's line is in the stack
    for (const [key, value] of Object.entries(options)) this.#set(key, value)
    registry().groups.push(this)
  }

  /**
   * Starts everything that was declared, or, in the process that you typed, does what its command line says. Returns
   * at once in every role: do not write code after it that counts on being alone.
   */
  static runAll(): void {
    registry().settings = staticSettings()
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

  /** Aborts when this process is told to leave: for loops of your own, a queue's consumer, say. */
  get signal(): AbortSignal {
    if (this.#aborter === null) {
      this.#aborter = new AbortController()
      if (this.#leaving !== null) this.#aborter.abort(leavingError())
    }
    return this.#aborter.signal
  }

  /**
   * Keeps this process from leaving, as long as `drainTimeoutMs` allows, until the work is done that no message handler
   * stands for: `const release = worker.hold('upload')`, and then `release()`. `why` is shown where it is waited for.
   */
  hold(why = ''): Hold {
    const token = { why: String(why).slice(0, LONGEST_REASON) }
    this.#holds.add(token)
    const release = () => {
      if (this.#holds.delete(token)) this[kGone]()
    }
    return Object.assign(release, { [Symbol.dispose]: release })
  }

  // Group: what the process layer calls

  /** @internal */
  describe(): Declaration {
    const { name, backlog, reloadMode, reloadable, user, group, execArgv } = this
    const protocol = this.#address === '' ? '' : this.#resolveProtocol().name
    const transport = this.#address === '' ? '' : this.#place.transport
    for (const [key, rule] of Object.entries(RULES)) check(`${key} of worker '${name}'`, Reflect.get(this, key), rule)
    return {
      ...{ name, listen: this.#address, transport, protocol, backlog, reloadMode, reloadable, user, group, execArgv },
      count: Math.max(1, Math.trunc(this.count)), // as Workerman
      startTimeoutMs: Math.min(this.startTimeoutMs || Number.POSITIVE_INFINITY, LONGEST_TIMEOUT_MS),
      drainTimeoutMs: Math.min(this.drainTimeoutMs, LONGEST_TIMEOUT_MS),
      credentials: null, // the describe process looks them up
    }
  }

  /** @internal */
  async start(id: number, incarnation: number, sockets: readonly InheritedSocket[]): Promise<void> {
    this.id = id
    this.incarnation = incarnation
    this.#endpoint = sockets[0]?.endpoint ?? ''
    await this.onWorkerStart?.(this)
    for (const { fd, endpoint } of sockets) await this.listenOn({ fd, expected: endpoint })
  }

  /** @internal */
  async activate(): Promise<void> {
    await this.onWorkerActive?.(this)
  }

  /** @internal */
  async retire(): Promise<void> {
    try {
      await this.onWorkerReload?.(this)
    } catch (error) {
      logThrown('onWorkerReload', error) // what only one can have is given up all the same
    }
    await this.onWorkerRetire?.(this)
  }

  /** @internal */
  async reload(): Promise<void> {
    await this.onWorkerReload?.(this)
  }

  /** @internal Accepts on a socket that somebody bound. */
  async listenOn(source: { fd?: number; handle?: unknown; expected: string }): Promise<void> {
    const protocol = this.#resolveProtocol()
    this.#endpoint = source.expected
    const accept = (socket: Socket) => this.#accept(socket, protocol)
    const listener =
      this.#place.transport === 'udp'
        ? await this.#receive(source, protocol)
        : await nodeEngine.listen({ ...source, backlog: this.backlog }, accept)
    if (this.#leaving === null) this.#listeners.push(listener)
    else listener.close() // told to leave while it started
  }

  #receive({ fd = -1, expected }: { fd?: number; expected: string }, protocol: AnyProtocol): Promise<Listener> {
    const host = this as unknown as UdpHost // its callbacks are, at an address whose transport is UDP
    const inbox = new DatagramInbox(host)
    const hold = () => {
      this.unsettled++
      return () => {
        if (--this.unsettled === 0) this[kGone]()
      }
    }
    return UdpServer.open(
      { fd, expected },
      (bytes, ip, port, socket) => inbox.take(new UdpConnection(host, socket, protocol, ip, port), bytes),
      hold,
    )
  }

  /** @internal Again with less time: it hurries, and both promises resolve at once. */
  drain(windowMs: number): Promise<void> {
    if (this.#leaving === null) return this.#leave(windowMs)
    this.#leaving.drain.hurry(windowMs)
    return this.#leaving.done
  }

  #leave(windowMs: number): Promise<void> {
    for (const listener of this.#listeners.splice(0)) listener.close()
    const leaving = new Leaving(this, windowMs)
    this.#leaving = leaving
    this.#aborter?.abort(leavingError())
    void this.#tellStop(leaving)
    return leaving.done
  }

  /** Connections are let go when `onWorkerStop` has settled: it may want to tell them something. */
  async #tellStop(leaving: Leaving): Promise<void> {
    try {
      await this.onWorkerStop?.(this)
    } catch (error) {
      logThrown('onWorkerStop', error)
    }
    leaving.isToldStop = true
    leaving.drain.begin()
    this[kGone]()
  }

  /** @internal */
  stop(): void {
    this.#leaving?.drain.end()
    for (const connection of [...this.connections.values()]) connection.destroy()
  }

  /** @internal */
  describeWork(): string {
    const reasons = this.#reasons()
    return [
      plural(this.connections.size, 'connection'),
      plural(this.unsettled, 'unsettled handler'),
      plural(this.#holds.size, 'hold') + (reasons.length === 0 ? '' : ` (${reasons.join(', ')})`),
    ]
      .filter((part) => part !== '')
      .join(', ')
  }

  /** Of holds, each once, and not all of many. */
  #reasons(): string[] {
    const reasons = new Set<string>()
    for (const { why } of this.#holds) {
      if (why === '' || reasons.has(why)) continue
      if (reasons.size === SHOWN_REASONS) return [...reasons, '...']
      reasons.add(why)
    }
    return [...reasons]
  }

  /** @internal */
  listConnections(after: number, limit: number): ConnectionRow[] {
    const rows: ConnectionRow[] = []
    for (const connection of this.connections.values()) {
      if (rows.length >= limit) break
      if (connection.id > after) rows.push(rowOf(connection))
    }
    return rows
  }

  #accept(socket: Socket, protocol: AnyProtocol): SocketEvents | null {
    try {
      const connection = new Connection(socket, protocol, this as unknown as ConnectionHost)
      connection[kOpen]()
      return connection
    } catch (error) {
      log(`protocol '${protocol.name}' cannot open a connection: ${error instanceof Error ? error.stack : error}`)
      return null
    }
  }

  /** @internal */
  [kGone](): void {
    const isIdle = this.connections.size === 0 && this.unsettled === 0 && this.#holds.size === 0
    if (this.#leaving === null || !isIdle || !this.#leaving.isToldStop) return
    this.#leaving.drain.end()
    this.#leaving.tell()
  }

  #resolveProtocol(): AnyProtocol {
    const { scheme, transport } = this.#place
    const protocol = this.protocol ?? protocolOf(scheme)
    return transport === 'udp' ? datagramProtocol(protocol) : protocol
  }

  get #place(): Address {
    return parseAddress(this.#address, this.transport === 'udp' ? 'udp' : '')
  }

  #set(key: string, value: unknown): void {
    const isKnown = key === 'protocol' || Object.hasOwn(RULES, key) || /^on[A-Z]/.test(key)
    if (!isKnown) throw new UsageError('ERR_UNKNOWN_OPTION', `a Worker has no option '${key}'`)
    if (value !== undefined) Reflect.set(this, key, value)
  }
}

function logThrown(callback: string, error: unknown): void {
  log(`${callback}: ${error instanceof Error ? error.stack : error}`)
}

/** 0 is for ever; setTimeout cannot do more, and the master adds something. */
const LONGEST_TIMEOUT_MS = 2_000_000_000

/** What is shown of holds: there may be one per upload, and the master hears of them each second, on a bounded line. */
const SHOWN_REASONS = 5
const LONGEST_REASON = 100

/** What a setting must be, as a test and in words. */
interface Rule {
  readonly isRight: (value: unknown) => boolean
  readonly wanted: string
}

const ANY_STRING: Rule = { isRight: isString, wanted: 'a string' }
const POSITIVE = numberFrom(1, Number.POSITIVE_INFINITY)
const NOT_NEGATIVE = numberFrom(0, Number.POSITIVE_INFINITY)

const RULES: Record<string, Rule> = {
  name: ANY_STRING,
  count: numberFrom(-Number.MAX_VALUE, Number.MAX_VALUE),
  backlog: numberFrom(1, Number.MAX_VALUE),
  maxPackageSize: POSITIVE,
  maxSendBufferSize: POSITIVE,
  maxInFlight: POSITIVE,
  maxQueuedMessages: POSITIVE,
  maxDatagramsInFlight: POSITIVE,
  transport: { isRight: (value) => value === 'tcp' || value === 'udp', wanted: `'tcp' or 'udp'` },
  idleTimeoutMs: NOT_NEGATIVE,
  startTimeoutMs: NOT_NEGATIVE,
  drainTimeoutMs: NOT_NEGATIVE,
  user: ANY_STRING,
  group: ANY_STRING,
  reloadable: { isRight: (value) => typeof value === 'boolean', wanted: 'true or false' },
  reloadMode: {
    isRight: (value) => value === 'start-first' || value === 'stop-first',
    wanted: `'start-first' or 'stop-first'`,
  },
  execArgv: { isRight: (value) => Array.isArray(value) && value.every(isString), wanted: 'a list of strings' },
}

const STATIC_RULES: Record<string, Rule> = {
  stopTimeout: NOT_NEGATIVE,
  logFile: ANY_STRING,
  stdoutFile: ANY_STRING,
  pidFile: ANY_STRING,
  logFileMaxSize: numberFrom(0, Number.MAX_VALUE),
}

/** Throws UsageError. */
function staticSettings(): Settings {
  for (const [key, rule] of Object.entries(STATIC_RULES)) check(`Worker.${key}`, Reflect.get(Worker, key), rule)
  const { logFile, stdoutFile, pidFile, logFileMaxSize } = Worker
  const stopTimeoutMs = Math.min(Worker.stopTimeout * 1000, LONGEST_TIMEOUT_MS)
  return { stopTimeoutMs, logFile, stdoutFile, pidFile, logFileMaxSize }
}

/** A drain that has begun. */
class Leaving {
  readonly drain: Drain
  readonly done: Promise<void>
  tell!: () => void
  /** `onWorkerStop` has settled. */
  isToldStop = false

  constructor(worker: Drainable, windowMs: number) {
    this.drain = new Drain(worker, windowMs)
    this.done = new Promise((resolve) => {
      this.tell = resolve
    })
  }
}

function numberFrom(least: number, most: number): Rule {
  const isRight = (value: unknown) => typeof value === 'number' && value >= least && value <= most
  return { isRight, wanted: least < 0 ? 'a number' : `a number from ${least} on` }
}

function check(what: string, value: unknown, { isRight, wanted }: Rule): void {
  if (isRight(value)) return
  throw new UsageError('ERR_BAD_OPTION', `${what} is ${String(value)}: it must be ${wanted}`)
}

function isString(value: unknown): value is string {
  return typeof value === 'string'
}

function leavingError(): AbortError {
  return new AbortError('ERR_WORKER_STOPPING', 'the worker is leaving')
}

function plural(count: number, what: string): string {
  return count === 0 ? '' : `${count} ${what}${count === 1 ? '' : 's'}`
}

function rowOf(connection: AnyConnection): ConnectionRow {
  return {
    id: connection.id,
    protocol: connection.protocol.name,
    transport: connection.getRemoteIp() === '' ? 'unix' : 'tcp',
    isIpV4: connection.isIpV4(),
    isIpV6: connection.isIpV6(),
    recvQueue: connection.getRecvBufferQueueSize(),
    sendQueue: connection.getSendBufferQueueSize(),
    bytesRead: connection.bytesRead,
    bytesWritten: connection.bytesWritten,
    status: connection.getStatus(false),
    local: connection.getLocalAddress(),
    remote: connection.getRemoteAddress(),
  }
}
