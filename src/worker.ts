// Worker: what a user declares: an address, a protocol, a number of processes and callbacks. The object exists in every
// role but serves only in a worker process of its own group. It is a Group (process/group.ts) and a ConnectionHost;
// there is no `implements` clause because those members are internal and stripped from the declarations.

import { clients, partWithClients, serveFor, type Unsent, unsentByClients } from './client/client-host.ts'
import { type ConnectionHost, DEFAULT_LIMITS, kGone, type ProtocolCallbacks } from './connection/host.ts'
import { kRenew } from './connection/symbols.ts'
import { type AnyConnection, Connection } from './connection.ts'
import { newCounters } from './counters.ts'
import { codeOf, messageOf, quoted, type SendError, stackOf, UsageError } from './errors.ts'
import { log } from './log.ts'
import { apart } from './loop/apart.ts'
import type { Handler } from './messaging/mailbox.ts'
import {
  closeMessages,
  groupOf,
  leaveMessages,
  type MessagingWorker,
  mayBeAsked,
  openMesh,
  serveMessages,
  silenceMessages,
  tellLostMessages,
  tellRestOfMessages,
  unsettledMessages,
  usePeers,
} from './messaging/messaging.ts'
import type { WorkerGroup, WorkerRef } from './messaging/references.ts'
import { type Address, isSecureScheme, parseAddress } from './net/address.ts'
import { chooseEngine } from './net/engines.ts'
import { readTlsFiles, type ServerTlsOptions, type TlsSecrets, TlsServer } from './net/tls.ts'
import { check } from './options.ts'
import {
  type Assignment,
  type ConnectionRow,
  type Declaration,
  type GivenSocket,
  LONGEST_TIMEOUT_MS,
  type PeerNews,
  type ReloadMode,
  registry,
} from './process/group.ts'
import { awaitRunAll, runAll } from './process/run-all.ts'
import { checkProtocol, protocolOf } from './protocol/registry.ts'
import type { AnyProtocol, InOf, OutOf } from './protocol.ts'
import { datagramProtocol } from './udp/datagram-peer.ts'
import type { UdpConnection } from './udp/udp-connection.ts'
import { type AcceptingRole, type AcceptingWorker, Acceptor, type Bound } from './worker/acceptor.ts'
import type { Arrival } from './worker/arrival.ts'
import { canAnswer, checkCallbackName, isCallback } from './worker/callbacks.ts'
import { rowsOf } from './worker/connection-rows.ts'
import { Departure, describeWork } from './worker/departure.ts'
import { type Listener, Listeners } from './worker/listeners.ts'
import type { Others } from './worker/process-departure.ts'
import { type ProxyProtocolOptions, ProxyRules } from './worker/proxied-arrival.ts'
import { RULES } from './worker/rules.ts'
import type {
  CallbacksAt,
  Carrier,
  CarrierAt,
  Hold,
  OnMessageAt,
  OnWorkerMessage,
  Options,
  ProtocolAt,
  WorkerTransport,
} from './worker/settings.ts'
import { callbacksOf, settingsOf, WorkerStatics } from './worker/statics.ts'

// biome-ignore lint/correctness/noUnusedVariables: a merged interface repeats the class's parameters
export interface Worker<A extends string | undefined, P, T extends Carrier> extends ProtocolCallbacks {}

/** Declares a group of processes that serve an address, or, without one, that other workers send messages to. */
// biome-ignore lint/suspicious/noUnsafeDeclarationMerging: the merged interface holds optional callbacks only
export class Worker<
  // biome-ignore lint/suspicious/noExplicitAny: a plain `Worker` is any Worker
  const A extends string | undefined = any,
  P = ProtocolAt<A>,
  T extends Carrier = CarrierAt<A>,
> extends WorkerStatics {
  /** 0 to `count` - 1. A replacement process keeps the id of the process it replaces. */
  id = 0
  /** Which process of its slot this is: 1 for the first, one more after each crash or reload. */
  incarnation = 0
  /** Name of the group, as in logs, `status` and messages. At most 255 bytes. Default: 'none'. */
  name = 'none'
  /** Number of processes. Default: 1. */
  count = 1
  /**
   * Number of connections that may wait to be accepted; the kernel caps it at somaxconn. Default: 102400, as in
   * Workerman.
   */
  backlog = 102_400
  /** The protocol of connections. Null, the default: the one registered for the scheme of the address. */
  protocol: AnyProtocol | null = null
  /** Largest packet of a connection, in bytes. Default: `Connection.defaultMaxPackageSize`, 10 MiB. */
  maxPackageSize = Connection.defaultMaxPackageSize
  /**
   * Send buffer limit of a connection, in bytes. Once this much is queued, further messages are refused. Default:
   * `Connection.defaultMaxSendBufferSize`, 1 MiB.
   */
  maxSendBufferSize = Connection.defaultMaxSendBufferSize
  /**
   * How many asynchronous `onMessage` calls of one connection may be unsettled. The default, 1, keeps its messages in
   * order.
   */
  maxInFlight = DEFAULT_LIMITS.maxInFlight
  /** How many decoded messages may wait behind them before reading stops. Default: 64. */
  maxQueuedMessages = DEFAULT_LIMITS.maxQueuedMessages
  /**
   * UDP: how many asynchronous `onMessage` calls may be unsettled. Further datagrams wait (`maxQueuedMessages`), then
   * are dropped. Default: 1024.
   */
  maxDatagramsInFlight = DEFAULT_LIMITS.maxDatagramsInFlight
  /**
   * Closes a connection that has neither sent nor received for this long, in ms, and has no handler at work: one that
   * never settles keeps its connection. 0, the default, is off: many protocols are silent for long periods.
   */
  idleTimeoutMs = DEFAULT_LIMITS.idleTimeoutMs
  /**
   * Most connections this process holds. At the limit it stops accepting: siblings accept instead, or new connections
   * wait in the kernel's queue. Default: no limit.
   */
  maxConnections = Number.POSITIVE_INFINITY
  /**
   * Most connections from one address (IPv6: one /64) that this process holds; more are closed at once. 0, the default,
   * is off.
   */
  maxConnectionsPerIp = 0
  /** Connections this process accepts per second, a tenth of them in one burst. 0, the default, is off. */
  acceptRate = 0
  /**
   * Connections come through a proxy that names its client (PROXY protocol, v1 or v2), and are accepted only from the
   * proxies listed here. Default: null, no proxy.
   */
  proxyProtocol: ProxyProtocolOptions | null = null
  /** How long `onWorkerStart` may take, in ms. 0 is without limit. Default: 30 s. */
  startTimeoutMs = 30_000
  /**
   * After this many messages (HTTP: requests) a process is replaced, as at a reload. Up to a fifth is subtracted at
   * random so that processes do not leave together. Checked each second. 0, the default, is off.
   */
  maxRequests = 0
  /**
   * Bytes of resident set; a process above it is replaced. One above it from the start is replaced after growing by
   * half. 0, the default, is off.
   */
  maxMemory = 0
  /** Age in ms at which a process is replaced; up to a fifth is subtracted at random. 0, the default, is off. */
  maxLifetimeMs = 0
  /**
   * A process whose event loop has been blocked for this long, in ms, is killed and replaced; the log says where it
   * hung. Does not apply while it is stopped (SIGSTOP) or under a debugger. 0 is off; the minimum is 5000, since
   * processes report each second. Default: 60 s.
   */
  stuckTimeoutMs = 60_000
  /**
   * This many failures of a slot in a row are a crash loop: `status` and the log report it. Restarts continue. Default:
   * 3.
   */
  crashLoopAfter = 3
  /**
   * How long a reload or a graceful stop gives connections and handlers to end, in ms. Default: 30 s, long enough for
   * ordinary requests.
   */
  drainTimeoutMs = 30_000
  /**
   * This many processes must serve for `/readyz` to be green. One suffices to serve the port; 0 requires none. Default:
   * 1.
   */
  minReady = 1
  /**
   * How a reload replaces a process. `stop-first`, for a group of which two processes cannot exist at once (a lock, a
   * serial port): the old one ends before the new one starts. Default: `start-first`.
   */
  reloadMode: ReloadMode = 'start-first'
  /** If false, a reload only calls `onWorkerReload`, and the processes stay. Default: true. */
  reloadable = true
  /**
   * Gives each process its own socket on the port (SO_REUSEPORT); the kernel spreads connections evenly. Needs the
   * addon. Has no effect in `listen()`, where processes share a socket anyway. Default: false.
   */
  reusePort = false
  /** The user the processes run as when root starts the server: name or number. Empty: the user who started it. */
  user = ''
  /** The group the processes run as. Empty: the user's primary group. */
  group = ''
  /** Node flags for these processes, such as `['--max-old-space-size=512']`. */
  execArgv: readonly string[] = []
  /**
   * `tcp`, the default. `ssl`: TLS below the protocol, configured by the option `ssl`. `udp`: each datagram is a
   * packet, as with `udp://`; works with text, frame and framing protocols of your own.
   */
  transport: WorkerTransport = 'tcp'
  /**
   * Certificate, key and other options of `node:tls`. Without `transport: 'ssl'` they serve `connection.startTls()`.
   */
  ssl: ServerTlsOptions | null = null
  /**
   * Runs handlers of messages from workers one at a time, each after the previous one has settled: `onWorkerMessage`
   * and the subscribers of a subject (all of one message together). Only what this process requests by subject and
   * answers itself does not wait. Default: false.
   */
  serial = false
  /**
   * How many messages from one process to one worker of this group may be unsettled; beyond it `send` returns false.
   * Default: 65,536.
   */
  maxMailboxMessages = 65_536
  /** How many bytes of such messages may be unsettled. Default: 16 MiB. */
  maxMailboxBytes = 16_777_216
  /**
   * How long a message waits for a worker of this group that is not running, after a crash for example, in ms. 0: not
   * at all. Default: 10 s.
   */
  mailboxTimeoutMs = 10_000
  /** @internal The name that messages to this group are addressed to. */
  mailbox = ''
  /** @internal Set once started. */
  tls: TlsServer | null = null
  /** The open connections of this process, by id. */
  readonly connections = new Map<number, AnyConnection>()
  /** @internal */
  readonly arrivals = new Set<Arrival>()
  /** @internal */
  counters = newCounters()
  /** @internal */
  unsettled = 0

  /** Called once in each process before it accepts; a returned promise delays accepting. */
  onWorkerStart: ((worker: Worker<A, P, T>) => unknown) | null = null
  /** Called as the first step of leaving; connections go on for a while, see `drainTimeoutMs`. */
  onWorkerStop: ((worker: Worker<A, P, T>) => unknown) | null = null
  /**
   * Called when this process has become the only one of its slot: right after a start, or at a reload once the old
   * process's `onWorkerRetire` has settled. Not called in a process that leaves.
   */
  onWorkerActive: ((worker: Worker<A, P, T>) => unknown) | null = null
  /**
   * Called at a reload when another process takes this one's place, and `onWorkerActive` has settled: release what only
   * one process can hold. A promise is awaited.
   */
  onWorkerRetire: ((worker: Worker<A, P, T>) => unknown) | null = null
  /** Called first at a reload; with `reloadable: false` it is all that a reload does. An error is logged, no more. */
  onWorkerReload: ((worker: Worker<A, P, T>) => unknown) | null = null
  /** Called when a connection was accepted. Its messages wait until a returned promise has settled. */
  onConnect: ((connection: Connection<InOf<P>, OutOf<P>>) => unknown) | null = null
  /**
   * A message of a connection, or a datagram. The next one of its connection waits until a returned promise has settled
   * (see `maxInFlight`). If it throws, `onError` gets code 4 and the connection closes. Without an address it is
   * called like
   * `onWorkerMessage`.
   */
  onMessage: OnMessageAt<A, P, T> = null as OnMessageAt<A, P, T>
  /**
   * A connection has ended: exactly once for each, whatever ended it; its addresses and `context` can still be read.
   */
  onClose: CallbacksAt<A, P, T>['onClose'] = null
  /**
   * 1 connect failed, 2 not sent, 3 the peer broke the protocol, 4 a handler threw. Unset: logged at a limited rate.
   */
  onError: CallbacksAt<A, P, T>['onError'] = null
  /** A connection has `maxSendBufferSize` bytes queued: stop sending to it. Called before that `send` returns false. */
  onBufferFull: CallbacksAt<A, P, T>['onBufferFull'] = null
  /** All that was queued for a connection has been sent, after `onBufferFull`. */
  onBufferDrain: CallbacksAt<A, P, T>['onBufferDrain'] = null

  /**
   * Called with a message from another worker, or from this one. The returned value, or the value of its promise,
   * answers a `request`; an async iterable answers with a stream. Without an address `onMessage` does the same.
   */
  onWorkerMessage: OnWorkerMessage | null = null
  /**
   * Called in the sending process: a message to this group was refused, or is lost (see `error.mayHaveBeenHandled`).
   * Unset: logged.
   */
  onSendFail: ((error: SendError, message: unknown, to: WorkerRef) => unknown) | null = null
  /**
   * Called in the sending process: a worker of this group holds as many unsettled messages of ours as
   * `maxMailboxMessages` or `maxMailboxBytes` allows.
   */
  onWorkerBufferFull: ((to: WorkerRef) => unknown) | null = null
  /** After `onWorkerBufferFull`: half of those messages have settled. */
  onWorkerBufferDrain: ((to: WorkerRef) => unknown) | null = null

  /** Declared without an address: `onMessage` gets messages from workers. */
  #isMailbox = false
  #address: string
  readonly #declared: string
  readonly #departure = new Departure(this, {
    close: () => this.#acceptor.close(),
    tellStop: () => this.#tellStop(),
  })
  /** It leaves, and serves somebody who may hear what others publish. */
  #hears = false
  /** `drainTimeoutMs` as it was at the last `describe`. */
  #describedDrainMs = 0
  readonly #acceptor = new Acceptor(erased(this), this.#role())
  readonly #listener = this.#asListener()
  /** Of its process, if this is the process's own Worker. */
  readonly #listeners = new Listeners(this.#listener, this.#others())
  /** @internal */
  onBurst: (() => void) | null = null
  /** @internal */
  onFull: ((isFull: boolean) => void) | null = null
  /** @internal */
  onIdle: ((isIdle: boolean) => void) | null = null

  constructor(options: Options<A, P, T> & { listen: A; transport: T; protocol: P & AnyProtocol }) // 'udp'
  constructor(options: Options<A, P, T> & { listen: A; transport: T; protocol?: undefined })
  constructor(listen: A, options: Options<A, P, T> & { transport: T; protocol: P & AnyProtocol })
  constructor(listen: A, options: Options<A, P, T> & { transport: T; protocol?: undefined })
  constructor(options: Options<A, P, T> & { listen: A; protocol: P & AnyProtocol })
  constructor(options: Options<A, P, T> & { listen: A; protocol?: undefined })
  constructor(listen: A, options: Options<A, P, T> & { protocol: P & AnyProtocol })
  constructor(listen: A, options?: Options<A, P, T> & { protocol?: undefined })
  constructor(options?: Options<A, P, T> & { listen?: undefined; protocol?: undefined })
  constructor(first?: string | object, second?: object) {
    super()
    const { listen = '', ...options } = argumentsOf(first, second)
    this.#address = listen
    this.#declared = listen
    // A bad address throws here, where the stack shows the user's line.
    if (listen !== '' && parseAddress(listen).transport === 'udp') this.transport = 'udp'
    for (const [key, value] of Object.entries(options)) this.#set(key, value)
    if (own === null) registry().groups.push(this) // else it is none until it listens
    awaitRunAll(() => own !== null)
  }

  /**
   * Starts everything that was declared, or, in the process started from the command line, runs the command. Returns at
   * once in every role, so code after it runs in every role too.
   */
  static runAll(): void {
    registry().settings = settingsOf(Worker)
    registry().callbacks = callbacksOf(Worker)
    runAll()
  }

  /** Returns all Workers declared in this process, and those that listen in it besides. */
  static getAllWorkers(): Worker<string | undefined, unknown>[] {
    const listening = own === null ? [] : own.#listeners.all.map(({ worker }) => worker)
    return [...new Set<object>([...registry().groups, ...listening])].map(erased)
  }

  /** Returns `text://0.0.0.0:8888`, in a worker with the port that was bound; 'none' without an address. */
  getSocketName(): string {
    if (this.#address === '') return 'none'
    const { endpoint } = this.#acceptor
    return endpoint === '' ? this.#address : `${parseAddress(this.#address).scheme}://${endpoint}`
  }

  /** Aborts when this process begins to leave: for loops of your own, such as a queue consumer. */
  get signal(): AbortSignal {
    return this.#ofProcess.signal
  }

  /**
   * Keeps this process from leaving, for at most `drainTimeoutMs`, while work goes on that no message handler awaits:
   * `const release = worker.hold('upload')`, later `release()`. `why` is shown in reports of what a leaving process
   * waits for.
   */
  hold(why = ''): Hold {
    return this.#ofProcess.hold(why)
  }

  /** Whichever Worker is asked: that of the process which it is asked in. */
  get #ofProcess(): Departure {
    return (own ?? this).#departure
  }

  /**
   * Returns a reference to the worker of this group with this id; usable from any process. Throws UsageError:
   * ERR_UNKNOWN_WORKER.
   */
  getWorkerById(id: number): WorkerRef {
    return this.#group.getWorkerById(id)
  }

  /** Same as `getWorkerById`. */
  worker(id: number): WorkerRef {
    return this.#group.getWorkerById(id)
  }

  /** Returns the least loaded worker of this group, as far as this process knows. */
  any(): WorkerRef {
    return this.#group.any()
  }

  /** Returns the same worker of this group for the same key. */
  by(key: string | number | bigint): WorkerRef {
    return this.#group.by(key)
  }

  /** Sends to every worker of this group; returns false if `send` to any of them would. */
  broadcast(message: unknown): boolean {
    return this.#group.broadcast(message)
  }

  get #group(): WorkerGroup {
    return groupOf(this.#messaging)
  }

  get #messaging(): MessagingWorker {
    return erased(this)
  }

  /** @internal */
  get workerHandler(): Handler | null {
    return (this.onWorkerMessage ?? (this.#isMailbox ? this.onMessage : null)) as Handler | null
  }

  // Group: called by the process layer

  /** @internal */
  describe(): Declaration {
    const { name, backlog, reloadMode, reloadable, reusePort, user, group, execArgv } = this
    this.#check()
    const place = this.#address === '' ? null : this.#place
    const protocol = place === null ? '' : this.#protocolAt(place).name
    const count = this.#wholeCount
    this.#describedDrainMs = this.drainTimeoutMs
    return {
      ...{ name, listen: this.#address, protocol, backlog, reloadMode, reloadable, reusePort, user, group, execArgv },
      ...{ count, minReady: this.minReady },
      startTimeoutMs: Math.min(this.startTimeoutMs || Number.POSITIVE_INFINITY, LONGEST_TIMEOUT_MS),
      crashLoopAfter: Math.min(this.crashLoopAfter, Number.MAX_SAFE_INTEGER),
      maxRequests: limitInJson(this.maxRequests),
      maxMemory: limitInJson(this.maxMemory),
      maxLifetimeMs: limitInJson(this.maxLifetimeMs),
      stuckTimeoutMs: limitInJson(this.stuckTimeoutMs),
      drainTimeoutMs: this.drainWindowMs,
      credentials: null, // the describe process looks them up
      isSecure: this.#isSecure || this.ssl !== null,
      transport: place === null ? '' : this.#isSecure ? 'ssl' : place.transport,
      engine: this.#engine(),
    }
  }

  /** @internal The current `drainTimeoutMs`, or that of the last `describe` if user code has made it invalid since. */
  get drainWindowMs(): number {
    const isRight = RULES.drainTimeoutMs.isRight(this.drainTimeoutMs)
    return Math.min(isRight ? this.drainTimeoutMs : this.#describedDrainMs, LONGEST_TIMEOUT_MS)
  }

  /** Throws UsageError for an invalid setting. */
  #check(): void {
    const { name } = this
    if ((this.protocol ?? null) !== null) checkProtocol(`the protocol of worker '${name}'`, this.protocol)
    for (const [key, rule] of Object.entries(RULES)) check(`${key} of worker '${name}'`, Reflect.get(this, key), rule)
    for (const [key, value] of Object.entries(this)) if (isCallback(key)) this.#checkCallback(key, value)
    if (this.proxyProtocol !== null) ProxyRules.of(this.proxyProtocol)
    const count = this.#wholeCount
    if (this.minReady > count)
      throw new UsageError('ERR_BAD_OPTION', `minReady of worker '${name}' is ${this.minReady}: it has ${count}`)
    if (this.#address !== '') this.#checkAt(this.#place)
  }

  #checkCallback(key: string, value: unknown): void {
    const { name } = this
    checkCallbackName(`worker '${name}'`, key)
    if (value !== null && value !== undefined && typeof value !== 'function')
      throw new UsageError('ERR_BAD_OPTION', `${key} of worker '${name}' is ${quoted(value)}: it must be a function`)
  }

  /** Throws UsageError for what the transport of the address cannot do. */
  #checkAt({ transport }: Address): void {
    const { name } = this
    if (this.reusePort && transport !== 'tcp')
      throw new UsageError('ERR_BAD_OPTION', `reusePort of worker '${name}' is for TCP: others share one socket`)
    if (transport === 'udp' && (this.#isSecure || this.ssl !== null))
      throw new UsageError('ERR_BAD_OPTION', `worker '${name}' at ${this.#address}: there is no TLS over datagrams`)
  }

  /** At least one, as in Workerman. */
  get #wholeCount(): number {
    return Math.max(1, Math.trunc(this.count))
  }

  #engine(): Declaration['engine'] {
    const { engine, why } = chooseEngine(registry().engine, this.#isSecure)
    return { name: engine.name, why }
  }

  /** @internal */
  readTlsFiles(): Readonly<Record<string, string>> {
    if (!this.#isSecure && this.ssl === null) return {}
    const files = this.#named(() => readTlsFiles(this.ssl ?? {}))
    this.#secured({ ticketKeys: '', files }) // unusable files are found here
    return files
  }

  /** @internal */
  async start({ id, incarnation, sockets, tls, mesh }: Assignment): Promise<void> {
    this.id = id
    this.incarnation = incarnation
    this.#acceptor.endpoint = sockets[0]?.endpoint ?? ''
    own = erased(this)
    this.tls = this.#secured(tls)
    this.#listeners.ticketKeys = tls.ticketKeys
    serveFor(this.#host)
    this.#isMailbox = this.#address === ''
    const all = () => registry().groups.map(erased)
    if (mesh !== undefined) openMesh(this.#messaging, all, mesh, chooseEngine(registry().engine, false).engine)
    await this.onWorkerStart?.(this)
    await this.#listeners.settled()
    for (const { fd, endpoint } of sockets) await this.listenOn({ fd, expected: endpoint })
    if (sockets.length > 0 && id === 0 && !canAnswer(this))
      log(`at ${this.#address} nothing answers: there is no onMessage, and no onConnect that could set one`)
    await serveMessages()
  }

  /** @internal */
  usePeers(news: PeerNews): void {
    usePeers(news)
  }

  /** @internal */
  useTickets(keys: string): void {
    this.#listeners.useTickets(keys)
  }

  /** @internal */
  async activate(): Promise<void> {
    await this.onWorkerActive?.(this)
  }

  /** @internal */
  async retire(isReload: boolean): Promise<void> {
    if (isReload) await this.reload()
    await this.onWorkerRetire?.(this)
  }

  /** @internal */
  async reload(): Promise<void> {
    try {
      await this.onWorkerReload?.(this)
    } catch (error) {
      // All processes of the group are called at once, so none may end for it; one that retires goes on to do so.
      logThrown('onWorkerReload', error)
    }
  }

  /**
   * Listens at an address in addition to the declared one. Call it in a worker process, in `onWorkerStart` for example.
   * All processes of the group that listen there share one socket, which the master owns and which outlives crashes and
   * reloads. Without an argument it is the address this Worker was made with, which its types are of. Rejects with a
   * SystemError when the address is unavailable. A rejection that nothing handles fails the start, unless another
   * `listen()` of this Worker succeeds or `unlisten()` takes it back; one that is handled does not, so a listener can
   * be optional. Rejects with a UsageError for a second address of one Worker, and for UDP: a UDP address is declared.
   * `onWorkerStart` need not await it: the process is not ready before it has settled. Throws UsageError outside of a
   * worker process.
   */
  listen(address: string = this.#address): Promise<void> {
    const { requestSocket } = registry()
    if (own === null || requestSocket === null)
      throw new UsageError('ERR_NOT_A_WORKER', 'listen() is for worker processes: call it in onWorkerStart')
    try {
      return own.#listeners.listen(this.#listener, address, requestSocket)
    } catch (error) {
      return Promise.reject(error)
    }
  }

  /**
   * Closes what `listen()` has opened in this process; connections stay, and it may listen again. The master keeps the
   * port: siblings go on accepting there, and without any, clients wait in the kernel's queue. A declared port cannot
   * be given up by one process: there this does what `pauseAccept` does, and `listen()` what `resumeAccept` does.
   */
  unlisten(): void {
    if (own === null) return
    if (own.#listeners.isDeclared(this.#listener)) return this.pauseAccept()
    own.#listeners.unlisten(this.#listener)
  }

  /**
   * Stops accepting in this process until `resumeAccept()`; open connections go on. Siblings accept instead, or new
   * connections wait in the kernel's queue. Called before the process listens, in `onWorkerStart` for example, it
   * starts paused. Throws UsageError at a datagram address.
   */
  pauseAccept(): void {
    if (this.#address !== '' && this.#place.transport === 'udp')
      throw new UsageError('ERR_NOT_FOR_DATAGRAMS', 'pauseAccept() is for connections: datagrams are not accepted')
    this.#acceptor.pause()
  }

  /**
   * Returns a peer of this UDP Worker by its address, to send to one that has sent to another process, or to the one
   * before a reload. On all addresses of a host with several, `localIp` is the one that the peer knows
   * (`connection.getLocalIp()`). Throws UsageError: ERR_NO_UDP if this process receives no datagrams (yet:
   * `onWorkerStart` comes before that), ERR_BAD_ADDRESS.
   */
  peerAt(ip: string, port: number, localIp = ''): UdpConnection<OutOf<P>> {
    return this.#acceptor.peerAt(ip, port, localIp)
  }

  /** Accepts again after `pauseAccept()`. */
  resumeAccept(): void {
    this.#acceptor.resume()
  }

  /** @internal Accepts on a socket bound elsewhere. */
  listenOn(source: Bound): Promise<void> {
    return this.#acceptor.listen(source)
  }

  /** @internal Starts to leave. A second call with a shorter window hurries; both promises then resolve together. */
  drain(windowMs: number): Promise<void> {
    return this.#listeners.departure.within(windowMs)
  }

  /** @internal */
  release(): void {
    this.#listeners.departure.release()
  }

  #others(): Others {
    const worker = this
    return {
      get mayAsk() {
        return worker.onIdle !== null && mayBeAsked()
      },
      tell: (isIdle) => worker.onIdle?.(isIdle),
    }
  }

  async #tellStop(): Promise<void> {
    try {
      await this.onWorkerStop?.(this)
    } catch (error) {
      logThrown('onWorkerStop', error)
    }
    if (own === (this as unknown)) this.#leaveMesh()
  }

  #leaveMesh(): void {
    this.#hears = this.#isVisited
    leaveMessages((why) => this.#departure.holdFor(why), !this.#hears)
  }

  /** Whether somebody is served here, or about to be. */
  get #isVisited(): boolean {
    return this.#listeners.all.some(({ worker }) => worker.connections.size + worker.arrivals.size > 0)
  }

  /** A process that leaves hears what is for all as long as it serves somebody. */
  #lookDeserted(): void {
    if (!this.#hears || this.#isVisited) return
    this.#hears = false
    silenceMessages()
  }

  /** @internal */
  finish(): number {
    return Math.max(...this.#listeners.all.map(({ departure }) => departure.finish()))
  }

  /** @internal */
  get unsettledMessages(): number {
    return own === (this as unknown) ? unsettledMessages() : 0
  }

  /** @internal Clients belong to the process, so only its own Worker has them, and waits for them. */
  get clients(): ReadonlyMap<number, AnyConnection> {
    return own === (this as unknown) ? clients.connections : NO_CLIENTS
  }

  /** @internal */
  get unsent(): Unsent {
    return own === (this as unknown) ? unsentByClients() : NOTHING_UNSENT
  }

  /** @internal */
  async tellLost(): Promise<void> {
    if (own === (this as unknown)) await tellLostMessages()
  }

  /** @internal */
  get isConnected(): boolean {
    return this.#listeners.all.some(({ worker }) => worker.connections.size > 0)
  }

  /** @internal */
  disconnect(): void {
    for (const { worker, departure } of this.#listeners.all) {
      departure.end()
      for (const connection of [...worker.connections.values()]) apart(destroy, connection)
    }
  }

  /** @internal */
  partWithClients(): void {
    if (own === (this as unknown)) partWithClients()
  }

  /** @internal Not `stop`, which is Workerman's for something else. */
  cutOff(): void {
    this.disconnect()
    for (const client of [...this.clients.values()]) apart(destroy, client)
    if (own === (this as unknown)) closeMessages()
  }

  /** @internal */
  tellRest(): void {
    if (own === (this as unknown)) tellRestOfMessages()
  }

  /** @internal */
  describeWork(): string {
    return describeWork(this.#listeners.all.map(({ departure }) => departure))
  }

  /** @internal */
  listConnections(after: number, limit: number): ConnectionRow[] {
    return rowsOf([...this.#listeners.all.map(({ worker }) => worker), clients], after, limit)
  }

  /** @internal */
  useShare(connections: number): void {
    for (const { acceptor } of this.#listeners.all) acceptor.share = connections
  }

  /** @internal */
  renew(share: number): void {
    for (const { worker } of this.#listeners.all)
      for (const connection of worker.connections.values()) if (Math.random() < share) connection[kRenew]()
  }

  /** @internal */
  standIn(turn: number, socket: GivenSocket): void {
    void this.#acceptor.standIn(turn, socket)
  }

  /** @internal */
  relieve(turn: number): Promise<void> {
    return this.#acceptor.relieve(turn)
  }

  #role(): AcceptingRole {
    const worker = this
    return {
      get protocol() {
        return worker.#resolveProtocol()
      },
      get isUdp() {
        return worker.#place.transport === 'udp'
      },
      get isSecure() {
        return worker.#isSecure
      },
      get isLeaving() {
        return worker.#departure.hasBegun
      },
      reportBurst: () => own?.onBurst?.(),
      reportFull: (isFull) => worker.onFull?.(isFull),
    }
  }

  /** @internal */
  [kGone](connection?: AnyConnection): void {
    if (connection !== undefined) this.#acceptor.farewell(connection.getRemoteIp())
    if (own !== null) own.#noteGone(this.#listener)
    this.#departure.look()
  }

  /** Somebody who was served there has gone. */
  #noteGone(listener: Listener): void {
    this.#lookDeserted()
    if (listener !== this.#listener) this.#listeners.look(listener)
  }

  /** At a UDP address its callbacks are those of a UdpHost instead. */
  get #host(): ConnectionHost {
    return erased(this)
  }

  get #isSecure(): boolean {
    return this.transport === 'ssl' || isSecureScheme(this.#address)
  }

  #asListener(): Listener {
    const worker = this
    return {
      worker: erased(worker),
      acceptor: worker.#acceptor,
      departure: worker.#departure,
      get declared() {
        return worker.#declared
      },
      get address() {
        return worker.#address
      },
      set address(address) {
        worker.#address = address
      },
      get place() {
        return worker.#place
      },
      check() {
        worker.#check()
        worker.#resolveProtocol()
      },
      secured: (secrets) => worker.#secured(secrets),
    }
  }

  /** Null for a Worker without TLS. */
  #secured(secrets: TlsSecrets): TlsServer | null {
    if (!this.#isSecure && this.ssl === null) return null
    return this.#named(() => new TlsServer(this.ssl ?? {}, secrets))
  }

  /** What is wrong with TLS settings names the Worker that has them. */
  #named<T>(make: () => T): T {
    try {
      return make()
    } catch (cause) {
      const code = codeOf(cause) === 'ERR_UNKNOWN_OPTION' ? 'ERR_UNKNOWN_OPTION' : 'ERR_BAD_OPTION'
      throw new UsageError(code, `worker '${this.name}': ${messageOf(cause)}`, { cause })
    }
  }

  #resolveProtocol(): AnyProtocol {
    return this.#protocolAt(this.#place)
  }

  /** Throws UsageError: ERR_UNKNOWN_SCHEME, ERR_NOT_FOR_DATAGRAMS. */
  #protocolAt({ scheme, transport }: Address): AnyProtocol {
    const protocol = this.protocol ?? protocolOf(scheme)
    return transport === 'udp' ? datagramProtocol(protocol) : protocol
  }

  get #place(): Address {
    return parseAddress(this.#address, this.transport === 'udp' ? 'udp' : '')
  }

  #set(key: string, value: unknown): void {
    if (isCallback(key)) checkCallbackName('a Worker', key)
    const isKnown = key === 'protocol' || Object.hasOwn(RULES, key) || isCallback(key)
    if (!isKnown) throw new UsageError('ERR_UNKNOWN_OPTION', `a Worker has no option '${key}'`)
    if (value !== undefined) Reflect.set(this, key, value)
  }
}

/**
 * The same Worker without its type parameters, as its parts see it. The parameters say what its callbacks take, and the
 * compiler cannot follow that from the protocol to a part, which hands on any message.
 */
function erased(worker: object): Worker<string | undefined, unknown> & AcceptingWorker & MessagingWorker {
  return worker as Worker<string | undefined, unknown> & AcceptingWorker & MessagingWorker
}

/** The Worker this process runs. */
let own: Worker<string | undefined, unknown> | null = null

const NO_CLIENTS: ReadonlyMap<number, AnyConnection> = new Map()
const NOTHING_UNSENT: Unsent = { clients: 0, bytes: 0 }

/** An address, settings, or both. Throws UsageError for anything else, which plain JavaScript would take. */
function argumentsOf(first: unknown, second: unknown): { listen?: string } {
  const [listen, settings] = typeof first === 'object' ? [undefined, first] : [first, second ?? {}]
  if (typeof settings !== 'object' || settings === null || second === null)
    throw badArgument(second === null ? second : settings)
  const all: { listen?: unknown } = listen === undefined ? settings : { ...settings, listen }
  if (all.listen !== undefined && typeof all.listen !== 'string') throw badArgument(all.listen)
  return all as { listen?: string }
}

function badArgument(wrong: unknown): UsageError {
  const wanted = "an address such as 'http://0.0.0.0:8080', settings, or both"
  return new UsageError('ERR_BAD_OPTION', `a Worker takes ${wanted}, not ${quoted(wrong)}`)
}

function destroy(connection: AnyConnection): void {
  connection.destroy()
}

/** Infinity is no limit, as 0 is, and JSON would make it null. */
function limitInJson(limit: number): number {
  return limit === Number.POSITIVE_INFINITY ? 0 : limit
}

function logThrown(callback: string, error: unknown): void {
  log(`${callback}: ${stackOf(error)}`)
}
