// Worker: what a user declares. An address, a protocol, a number of processes, callbacks. The same object exists in
// every role; only in a worker process of its own group does it serve. It is a Group (process/group.ts) and a
// ConnectionHost; that is not in an `implements`, since those members are internal and stripped from the declarations.

import { serveFor } from './client/client-host.ts'
import { type ConnectionHost, kGone, type ProtocolCallbacks } from './connection/host.ts'
import { type AnyConnection, Connection } from './connection.ts'
import { newCounters } from './counters.ts'
import { messageOf, type SendError, SystemError, stackOf, UsageError } from './errors.ts'
import { log } from './log.ts'
import type { Handler } from './messaging/mailbox.ts'
import { currentMesh, groupOf, type MessagingWorker, openMesh, usePeers } from './messaging/messaging.ts'
import type { WorkerGroup, WorkerRef } from './messaging/references.ts'
import { type Address, isAnyPort, isSamePlace, isSecureScheme, parseAddress } from './net/address.ts'
import { chooseEngine } from './net/engines.ts'
import { readTlsFiles, type ServerTlsOptions, type TlsSecrets, TlsServer } from './net/tls.ts'
import {
  type Assignment,
  type ConnectionRow,
  type Declaration,
  type GivenSocket,
  type PeerNews,
  type ReloadMode,
  registry,
  type WantedSocket,
} from './process/group.ts'
import { runAll } from './process/run-all.ts'
import { type AnyProtocol, checkProtocol, type InOf, type OutOf, protocolOf } from './protocol.ts'
import { datagramProtocol } from './udp/datagram-peer.ts'
import { type AcceptingRole, type AcceptingWorker, Acceptor, type Bound } from './worker/acceptor.ts'
import type { Arrival } from './worker/arrival.ts'
import { rowsOf } from './worker/connection-rows.ts'
import { Departure, describeWork } from './worker/departure.ts'
import { type ProxyProtocolOptions, ProxyRules } from './worker/proxied-arrival.ts'
import { check, LONGEST_TIMEOUT_MS, RULES } from './worker/rules.ts'
import type {
  CallbacksAt,
  Carrier,
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

// biome-ignore lint/suspicious/noUnsafeDeclarationMerging: the merged interface holds optional callbacks only
export class Worker<
  const A extends string | undefined = undefined,
  P = ProtocolAt<A>,
  T extends Carrier = 'stream',
> extends WorkerStatics {
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
  /** Of this process: beyond it nothing is accepted; siblings take what comes, or it waits in the kernel's queue. */
  maxConnections = Number.POSITIVE_INFINITY
  /** In this process, of one address (of IPv6: 64 bits of it): more are closed at once. 0 is off. */
  maxConnectionsPerIp = 0
  /** Connections per second that this process accepts; a tenth of it at once. 0 is off. */
  acceptRate = 0
  /** Connections come through a proxy that says who its client is (PROXY protocol, v1 or v2): from these, and no others. */
  proxyProtocol: ProxyProtocolOptions | null = null
  /** How long `onWorkerStart` may take; 0 is for ever. */
  startTimeoutMs = 30_000
  /**
   * So many messages (of HTTP: requests) a process handles, then another takes its place, as at a reload. Up to a fifth is
   * taken off by chance, so that processes do not leave together. It is looked at each second. 0 is off.
   */
  maxRequests = 0
  /** Bytes of resident set: a process over it is replaced. One that was from its start stays until it has grown by half. 0 is off. */
  maxMemory = 0
  /** How old a process may be; with the same chance. 0 is off. */
  maxLifetimeMs = 0
  /**
   * A process whose event loop has not turned for so long is killed and replaced; the log says where it hung. Not while it is
   * stopped (SIGSTOP) or under a debugger. 0 is off; no less than 5000, since processes report each second.
   */
  stuckTimeoutMs = 60_000
  /** So many failures of a slot in a row are a crash loop: `status` and the log say so. It is tried again all the same. */
  crashLoopAfter = 3
  /** How long a reload or a graceful stop gives connections and handlers to end: long enough for any honest request. */
  drainTimeoutMs = 30_000
  /** So many of its processes must serve for `/readyz` to be green. One serves the whole port; 0 asks for none. */
  minReady = 1
  /** `stop-first` for what cannot live twice (a lock, a serial port): the old process ends before the new one starts. */
  reloadMode: ReloadMode = 'start-first'
  /** False: a reload only calls `onWorkerReload`, and the processes stay. */
  reloadable = true
  /** A socket for each process on the one port (SO_REUSEPORT): the kernel spreads connections evenly. Takes the addon. */
  reusePort = false
  /** Who the processes run as when root starts the server: a name or a number. Empty: as who started it. */
  user = ''
  /** Their group; by default the user's own. */
  group = ''
  /** Flags of Node for these processes: `['--max-old-space-size=512']`. */
  execArgv: readonly string[] = []
  /** `ssl`: TLS below the protocol, with `ssl`. `udp`: each datagram is a packet, as at `udp://`; for text, frame and your own. */
  transport: WorkerTransport = 'tcp'
  /** Certificate, key and whatever else `node:tls` knows; without `transport: 'ssl'` for `connection.startTls()`. */
  ssl: ServerTlsOptions | null = null
  /** Handlers of messages from other workers run one after the other, each when the one before has settled. */
  serial = false
  /** How many messages from one process to one worker of this group may be unsettled: beyond it `send` says no. */
  maxMailboxMessages = 65_536
  /** Bytes; as many may be unsettled. */
  maxMailboxBytes = 16_777_216
  /** How long a message waits for a worker of this group that is not there: after a crash, say. */
  mailboxTimeoutMs = 10_000
  /** @internal What messages to this group are addressed to. */
  mailbox = ''
  /** @internal Once it has started. */
  tls: TlsServer | null = null
  /** The open connections of this process, by id. */
  readonly connections = new Map<number, AnyConnection>()
  /** @internal */
  readonly arrivals = new Set<Arrival>()
  /** @internal */
  counters = newCounters()
  /** @internal */
  unsettled = 0

  /** Once in each process, before it accepts: a promise delays that. */
  onWorkerStart: ((worker: Worker<A, P, T>) => unknown) | null = null
  /** Told to leave, as the first thing: connections go on for a while, see `drainTimeoutMs`. */
  onWorkerStop: ((worker: Worker<A, P, T>) => unknown) | null = null
  /** This process is its slot's only one now: after a start at once, at a reload when the old one's onWorkerRetire has settled. */
  onWorkerActive: ((worker: Worker<A, P, T>) => unknown) | null = null
  /** At a reload another process takes this one's place: give up what only one can have. A promise is waited for. */
  onWorkerRetire: ((worker: Worker<A, P, T>) => unknown) | null = null
  /** At a reload, before anything else; with `reloadable: false` the only thing. */
  onWorkerReload: ((worker: Worker<A, P, T>) => unknown) | null = null
  /** A connection was accepted. Messages wait until a returned promise has settled. */
  onConnect: ((connection: Connection<InOf<P>, OutOf<P>>) => unknown) | null = null
  onMessage: OnMessageAt<A, P, T> = null as OnMessageAt<A, P, T>
  onClose: CallbacksAt<A, P, T>['onClose'] = null
  onError: CallbacksAt<A, P, T>['onError'] = null
  onBufferFull: CallbacksAt<A, P, T>['onBufferFull'] = null
  onBufferDrain: CallbacksAt<A, P, T>['onBufferDrain'] = null

  /**
   * A message from another worker, or from this one. What it returns, or its promise's value, answers a `request`; an async
   * iterable is a stream. Without an address `onMessage` is the same.
   */
  onWorkerMessage: OnWorkerMessage | null = null
  /** In the process that sent it: a message to this group that was refused, or is lost (`error.mayHaveBeenHandled`). Unset: logged. */
  onSendFail: ((error: SendError, message: unknown, to: WorkerRef) => unknown) | null = null
  /** In the process that sends: a worker of this group has as many messages of ours as it may (`maxMailboxMessages`). */
  onWorkerBufferFull: ((to: WorkerRef) => unknown) | null = null
  /** Half of them are settled, after `onWorkerBufferFull`. */
  onWorkerBufferDrain: ((to: WorkerRef) => unknown) | null = null

  /** It was declared without an address: `onMessage` gets messages of workers. */
  #isMailbox = false
  #address: string
  readonly #declared: string
  readonly #departure = new Departure(this, {
    close: () => this.#acceptor.close(),
    tellStop: () => this.#tellStop(),
  })
  /** Of the process's own Worker: those that listen besides. */
  readonly #inner = new Set<Worker<string | undefined, unknown>>()
  /** `listen()` calls that `ready` waits for. */
  /** By who listens: what has failed counts no more when it listens again. */
  readonly #listening = new Map<object, Promise<void>>()
  /** Where they listen. */
  readonly #places = new Map<object, WantedSocket>()
  #ticketKeys = ''
  readonly #acceptor = new Acceptor(this as unknown as AcceptingWorker, this.#role())
  /** @internal */
  onBurst: (() => void) | null = null
  /** @internal */
  onFull: ((isFull: boolean) => void) | null = null

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
    const settings = typeof first === 'object' ? first : { ...second, listen: first }
    const { listen = '', ...options } = settings as { listen?: string }
    this.#address = listen
    this.#declared = listen
    if (listen !== '' && parseAddress(listen).transport === 'udp') this.transport = 'udp' // a bad one is told here, where the user's line is in the stack
    for (const [key, value] of Object.entries(options)) this.#set(key, value)
    registry().groups.push(this)
  }

  /**
   * Starts everything that was declared, or, in the process that you typed, does what its command line says. Returns
   * at once in every role: do not write code after it that counts on being alone.
   */
  static runAll(): void {
    registry().settings = settingsOf(Worker)
    registry().callbacks = callbacksOf(Worker)
    runAll()
  }

  /** `text://0.0.0.0:8888`, in a worker with the port that was bound; 'none' without an address. */
  getSocketName(): string {
    if (this.#address === '') return 'none'
    const { endpoint } = this.#acceptor
    return endpoint === '' ? this.#address : `${parseAddress(this.#address).scheme}://${endpoint}`
  }

  /** Aborts when this process is told to leave: for loops of your own, a queue's consumer, say. */
  get signal(): AbortSignal {
    return this.#departure.signal
  }

  /**
   * Keeps this process from leaving, as long as `drainTimeoutMs` allows, until the work is done that no message handler
   * stands for: `const release = worker.hold('upload')`, and then `release()`. `why` is shown where it is waited for.
   */
  hold(why = ''): Hold {
    return this.#departure.hold(why)
  }

  /** The worker of this group with this id, from any process. Throws UsageError: ERR_UNKNOWN_WORKER. */
  getWorkerById(id: number): WorkerRef {
    return this.#group.getWorkerById(id)
  }

  /** As `getWorkerById`. */
  worker(id: number): WorkerRef {
    return this.#group.getWorkerById(id)
  }

  /** The worker of this group with the least to do, as far as this process knows. */
  any(): WorkerRef {
    return this.#group.any()
  }

  /** The same worker of this group for the same key. */
  by(key: string | number | bigint): WorkerRef {
    return this.#group.by(key)
  }

  /** Sends to each worker of this group; as `send`. */
  broadcast(message: unknown): boolean {
    return this.#group.broadcast(message)
  }

  get #group(): WorkerGroup {
    return groupOf(this.#messaging)
  }

  get #messaging(): MessagingWorker {
    return this as unknown as MessagingWorker
  }

  /** @internal */
  get workerHandler(): Handler | null {
    return (this.onWorkerMessage ?? (this.#isMailbox ? this.onMessage : null)) as Handler | null
  }

  // Group: what the process layer calls

  /** @internal */
  describe(): Declaration {
    const { name, backlog, reloadMode, reloadable, reusePort, user, group, execArgv, crashLoopAfter } = this
    const { maxRequests, maxMemory, maxLifetimeMs, stuckTimeoutMs } = this
    this.#check()
    const protocol = this.#address === '' ? '' : this.#resolveProtocol().name
    const count = this.#wholeCount
    return {
      ...{ name, listen: this.#address, protocol, backlog, reloadMode, reloadable, reusePort, user, group, execArgv },
      ...{ count, minReady: this.minReady },
      startTimeoutMs: Math.min(this.startTimeoutMs || Number.POSITIVE_INFINITY, LONGEST_TIMEOUT_MS),
      ...{ crashLoopAfter, maxRequests, maxMemory, maxLifetimeMs, stuckTimeoutMs },
      drainTimeoutMs: Math.min(this.drainTimeoutMs, LONGEST_TIMEOUT_MS),
      credentials: null, // the describe process looks them up
      isSecure: this.#isSecure || this.ssl !== null,
      transport: this.#address === '' ? '' : this.#isSecure ? 'ssl' : this.#place.transport,
      engine: this.#engine(),
    }
  }

  /** Throws UsageError for a setting that cannot be. */
  #check(): void {
    const { name } = this
    if ((this.protocol ?? null) !== null) checkProtocol(`the protocol of worker '${name}'`, this.protocol)
    for (const [key, rule] of Object.entries(RULES)) check(`${key} of worker '${name}'`, Reflect.get(this, key), rule)
    for (const [key, value] of Object.entries(this))
      if (/^on[A-Z]/.test(key) && value !== null && value !== undefined && typeof value !== 'function')
        throw new UsageError('ERR_BAD_OPTION', `${key} of worker '${name}' is ${String(value)}: it must be a function`)
    if (this.proxyProtocol !== null) new ProxyRules(this.proxyProtocol)
    const count = this.#wholeCount
    if (this.minReady > count)
      throw new UsageError('ERR_BAD_OPTION', `minReady of worker '${name}' is ${this.minReady}: it has ${count}`)
    if (this.reusePort && this.#address !== '' && this.#place.transport !== 'tcp')
      throw new UsageError('ERR_BAD_OPTION', `reusePort of worker '${name}' is for TCP: others share one socket`)
  }

  /** At least one, as Workerman. */
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
    const files = readTlsFiles(this.ssl ?? {})
    this.#secured({ ticketKeys: '', files }) // what cannot be used is found here
    return files
  }

  /** @internal */
  async start({ id, incarnation, sockets, tls, mesh }: Assignment): Promise<void> {
    this.id = id
    this.incarnation = incarnation
    this.#acceptor.endpoint = sockets[0]?.endpoint ?? ''
    own = this as unknown as Worker<string | undefined, unknown>
    this.#ticketKeys = tls.ticketKeys
    if (this.#isSecure || this.ssl !== null) this.tls = this.#secured(tls)
    serveFor(this.#host)
    this.#isMailbox = this.#address === ''
    const all = () => Worker.getAllWorkers() as unknown as MessagingWorker[]
    if (mesh !== undefined) openMesh(this.#messaging, all, mesh, chooseEngine(registry().engine, false).engine)
    await this.onWorkerStart?.(this)
    await Promise.all(this.#listening.values())
    for (const { fd, endpoint } of sockets) await this.listenOn({ fd, expected: endpoint })
  }

  /** @internal */
  usePeers(news: PeerNews): void {
    usePeers(news)
  }

  /** @internal */
  useTickets(keys: string): void {
    this.#ticketKeys = keys
    for (const { tls } of [this, ...this.#inner]) tls?.useTickets(keys)
  }

  /** @internal */
  async activate(): Promise<void> {
    await this.onWorkerActive?.(this)
  }

  /** @internal */
  async retire(isReload: boolean): Promise<void> {
    try {
      if (isReload) await this.onWorkerReload?.(this)
    } catch (error) {
      logThrown('onWorkerReload', error) // what only one can have is given up all the same
    }
    await this.onWorkerRetire?.(this)
  }

  /** @internal */
  async reload(): Promise<void> {
    await this.onWorkerReload?.(this)
  }

  /**
   * In a worker process, in `onWorkerStart` say: listens at an address of its own, besides what was declared. Every process
   * of the group that listens there shares one socket of the master's, also after a crash or a reload. Rejects with a
   * SystemError when the address cannot be had, which fails the start unless another call, with another address say, goes
   * well. `onWorkerStart` need not wait, the process is not ready before.
   */
  listen(address: string = this.#address): Promise<void> {
    const { requestSocket } = registry()
    if (own === null || requestSocket === null)
      throw new UsageError('ERR_NOT_A_WORKER', 'listen() is for worker processes: call it in onWorkerStart')
    if (address === '') throw new UsageError('ERR_BAD_ADDRESS', 'listen() needs an address')
    if (this.#acceptor.wanted.address !== '' || this.#acceptor.isListening || this.#isDeclared)
      throw new UsageError('ERR_LISTENS_ALREADY', 'this Worker has an address already: make another one for a second')
    if (own.#departure.hasBegun) throw leaving()
    const listening = own.#admit(this as unknown as Worker<string | undefined, unknown>, address, requestSocket)
    listening.catch(nothing) // `start` tells, when onWorkerStart has come to its end
    own.#listening.set(this, listening)
    return listening
  }

  async #admit(
    inner: Worker<string | undefined, unknown>,
    address: string,
    requestSocket: (wanted: WantedSocket) => Promise<GivenSocket>,
  ): Promise<void> {
    const { wanted: before } = inner.#acceptor
    const wanted = { address, nth: this.#nextAt(address, inner), turn: 0 }
    inner.#address = address
    inner.#acceptor.wanted = wanted
    this.#places.set(inner, wanted)
    try {
      inner.describe() // a bad setting is told here
      const given = await requestSocket(wanted)
      if (inner.#acceptor.wanted !== wanted) return closeGiven(given.handle) // it was told to `unlisten` meanwhile
      await this.#admitAt(inner, given)
    } catch (error) {
      if (inner.#acceptor.wanted !== wanted) return
      inner.#address = inner.#declared
      inner.#acceptor.wanted = before
      this.#places.delete(inner)
      throw error
    }
  }

  /**
   * Closes what `listen()` has opened in this process; its connections stay, and it may listen again. The master keeps the port:
   * siblings go on there, and where none does who comes waits. The port of a declaration is not this process's to give up:
   * there it does what `pauseAccept` does.
   */
  unlisten(): void {
    if (this.#isDeclared) return this.pauseAccept()
    if (own === null || this.#acceptor.wanted.address === '') return
    this.#acceptor.unlisten()
    own.#places.delete(this)
    own.#listening.delete(this) // a start that waits for it need not any more
  }

  /**
   * Accepts nobody in this process until `resumeAccept()`; connections that are there go on. Siblings take what comes, or it waits
   * in the kernel's queue. Before it listens, in `onWorkerStart` say, it begins like that. Throws UsageError at an address of datagrams.
   */
  pauseAccept(): void {
    if (this.#address !== '' && this.#place.transport === 'udp')
      throw new UsageError('ERR_NOT_FOR_DATAGRAMS', 'pauseAccept() is for connections: datagrams are not accepted')
    this.#acceptor.pause()
  }

  resumeAccept(): void {
    this.#acceptor.resume()
  }

  /** Which of the listeners of this process at an address the next one is: the first, unless it is port 0. Throws a SystemError. */
  #nextAt(address: string, inner: object): number {
    const place = parseAddress(address)
    const others = [...this.#places.values()].filter((other) => isSamePlace(parseAddress(other.address), place))
    let nth = 0
    while (others.some((other) => other.nth === nth)) nth++
    const isDeclared = inner !== this && this.#declared !== '' && isSamePlace(this.#place, place)
    if (!isAnyPort(place) && (nth > 0 || isDeclared)) throw new SystemError('EADDRINUSE', 'listen', address)
    return nth
  }

  async #admitAt(inner: Worker<string | undefined, unknown>, { handle, endpoint }: GivenSocket): Promise<void> {
    if (this.#departure.hasBegun) {
      closeGiven(handle)
      throw leaving()
    }
    if (inner !== (this as unknown)) {
      inner.id = this.id
      inner.incarnation = this.incarnation
      inner.counters = this.counters
      this.#inner.add(inner)
    }
    if (inner.tls === null && (inner.#isSecure || inner.ssl !== null))
      inner.tls = inner.#secured({ ticketKeys: this.#ticketKeys, files: {} })
    await inner.listenOn({ handle, expected: endpoint })
  }

  /** @internal Accepts on a socket that somebody bound. */
  listenOn(source: Bound): Promise<void> {
    return this.#acceptor.listen(source)
  }

  /** @internal Again with less time: it hurries, and both promises resolve at once. */
  async drain(windowMs: number): Promise<void> {
    await Promise.all([...this.#inner].map((inner) => inner.drain(windowMs)).concat(this.#departure.within(windowMs)))
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
    currentMesh()?.leave(() => this.hold('messages'))
  }

  /** @internal */
  stop(): void {
    if (own === (this as unknown)) currentMesh()?.close()
    this.#departure.end()
    for (const connection of [...this.connections.values()]) connection.destroy()
    for (const inner of this.#inner) inner.stop()
  }

  /** @internal */
  describeWork(): string {
    return describeWork([this, ...this.#inner].map((one) => one.#departure))
  }

  /** @internal */
  listConnections(after: number, limit: number): ConnectionRow[] {
    return rowsOf([this, ...this.#inner], after, limit)
  }

  /** @internal */
  useShare(connections: number): void {
    this.#acceptor.share = connections
    for (const inner of this.#inner) inner.#acceptor.share = connections
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
    this.#departure.look()
  }

  /** At an address whose transport is UDP its callbacks are those of a UdpHost instead. */
  get #host(): ConnectionHost {
    return this as unknown as ConnectionHost
  }

  /** The master had its socket before this process began. */
  get #isDeclared(): boolean {
    return this.#declared !== '' && own === (this as unknown)
  }

  get #isSecure(): boolean {
    return this.transport === 'ssl' || isSecureScheme(this.#address)
  }

  #secured(secrets: TlsSecrets): TlsServer {
    try {
      return new TlsServer(this.ssl ?? {}, secrets)
    } catch (cause) {
      throw new UsageError('ERR_BAD_OPTION', `worker '${this.name}': ${messageOf(cause)}`, { cause })
    }
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

/** The Worker that this process is of. */
let own: Worker<string | undefined, unknown> | null = null

function leaving(): UsageError {
  return new UsageError('ERR_WORKER_STOPPING', 'this process is leaving')
}

/** A socket that came too late. */
function closeGiven(handle: unknown): void {
  ;(handle as { close(): void }).close()
}

function nothing(): void {
  // Somebody else is told.
}

function logThrown(callback: string, error: unknown): void {
  log(`${callback}: ${stackOf(error)}`)
}
