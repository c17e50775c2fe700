// The master: reconciles the processes that are wanted with those that are. First start, crash and stop are one path,
// safe to run at any time; a reload takes one slot after the other in hand (reload.ts). Signal handlers and messages only
// take note. No user code ever runs here.

import { closeSync } from 'node:fs'
import { loadavg } from 'node:os'
import { join } from 'node:path'
import { addon, type Descriptor } from '../addon.ts'
import { addCounters, type Counters, newCounters } from '../counters.ts'
import { codeOf, messageOf, SystemError } from '../errors.ts'
import { log } from '../log.ts'
import { now } from '../loop/clock.ts'
import { bindMeshSocket, isPassedOn } from '../net/mesh-socket.ts'
import { COUNTER_BYTES } from '../shared/limits.ts'
import { version } from '../version.ts'
import { takeActivated } from './activation.ts'
import { renderBanner } from './banner.ts'
import { MasterCallbacks } from './callbacks.ts'
import { type Answer, ask, ControlServer, type Leave, type Request } from './control.ts'
import { type Described, describeModules } from './describe.ts'
import { type Comparison, compare, oldestStart } from './diff.ts'
import type { EarlierMaster, Estate } from './earlier-master.ts'
import { Events } from './events.ts'
import { asCommandError, CommandError, Exit, WorkerExit } from './exit-codes.ts'
import { DEFAULT_SETTINGS, type Declaration, type Settings } from './group.ts'
import { HealthServer } from './health.ts'
import { ownIdentity } from './identity.ts'
import { KeeperHandle } from './keeper-handle.ts'
import { Leaders } from './leaders.ts'
import { Lock } from './lock.ts'
import { keysOf, mailboxesOf, type StartOptions } from './messages.ts'
import { InspectorPorts, inspects, QUIET_INSPECTOR } from './node-flags.ts'
import { OomKills } from './oom-kills.ts'
import { type Operated, Operator, REPLACED } from './operator.ts'
import { Output } from './output.ts'
import { Peers } from './peers.ts'
import { removePidFile, writePidFile } from './pid-file.ts'
import { Predecessors } from './predecessors.ts'
import type { Seen } from './readiness.ts'
import { type RecycleSupervisor, Recycling } from './recycle.ts'
import type { ReloadOutcome } from './reload.ts'
import { makeRunDir, type Places, placesOfOurs, realPathOf, runDirCandidates } from './run-directory.ts'
import { extendStart, extension, feedWatchdog, reapOrphans, tellService, tellStatus } from './service.ts'
import { shareOut } from './share-out.ts'
import { type Blueprint, GroupState, type Slot, socketOf } from './slot.ts'
import { Sockets } from './sockets.ts'
import { FIRST_SOCKET_FD, type Program, spawnChild } from './spawn.ts'
import { connectionPage, engineOf, type GroupStatus, groupStatus, type Status, totalsOf } from './status.ts'
import { StuckWorkers } from './stuck.ts'
import { ROTATE_TICKETS_MS, Tickets } from './tickets.ts'
import { type Household, Upgrade } from './upgrade.ts'
import { type WorkerExitInfo, WorkerHandle } from './worker-handle.ts'

/** So many boot failures of one slot before anything serves: the program is broken, not unlucky. */
const MAX_BOOT_FAILURES = 5
/** One that ends by itself sooner would only spin. */
const SHORTEST_SERVICE_MS = 1000
/** What another master may take to say that it is there. */
const PING_MS = 1000
/** What one that has nothing left to do may take to end. */
const LEAVE_MS = 3000

/** Workers are killed and reaped then, and files closed. */
const STOP_SLACK_MS = 5000
/** What is longer means: for ever. */
const LONGEST_START_MS = 1_000_000_000

/** `asked`, or the failure that ends the server. `replaced`: this master ends, and another one has the server. */
type StopReason = CommandError | 'asked' | 'replaced'

export class Master implements Operated, RecycleSupervisor {
  readonly groups: GroupState[] = []
  readonly sockets = new Sockets()
  readonly events = new Events()
  readonly #operator = new Operator(this)
  readonly #options: StartOptions
  readonly #isDaemon: boolean
  /** For people; how long ago that is, another clock tells, which nobody sets. */
  readonly #startedAt = new Date()
  readonly #startedNow = now()
  /** From here on no other master takes over. */
  readonly #stopAnnounced = new AbortController()
  readonly #ended = new AbortController()
  readonly #inspectorPorts = new InspectorPorts()
  readonly #tickets: Tickets
  readonly #earlier: EarlierMaster | null
  readonly #oomKills = new OomKills()
  readonly #recycling = new Recycling(this)
  readonly #stuck = new StuckWorkers(this.groups, () => this.#output?.isLogPiped === true)
  readonly #leaders = new Leaders()
  #keeper: KeeperHandle | null = null
  /** The counters that all workers share; null without the addon. */
  readonly #memory: Descriptor | null
  readonly #peers: Peers
  #settings: Settings = DEFAULT_SETTINGS
  #runDir = ''
  readonly #pidFiles = new Set<string>()
  #lock: Lock | null = null
  #control: ControlServer | null = null
  #predecessors: Predecessors | null = null
  #output: Output | null = null
  readonly #describing = new Set<number>()
  /** Where the modules led when the code was last evaluated for use. */
  #evaluated: readonly string[] = []
  readonly #callbacks: MasterCallbacks
  readonly #health = new HealthServer(() => this.#seen)
  /** A graceful stop that waits for load balancers to hear of it. */
  #delay: NodeJS.Timeout | null = null
  #unwatch: (() => void) | null = null
  /** What has been said of sockets that nobody uses. */
  #unused = ''
  /** Everything has been ready once: from then on failures are retried for ever. */
  #isUp = false
  #stopping: StopReason | null = null
  /** Another master leads: this one waits for its processes to drain. */
  #isReplaced = false
  /** How much time those who have asked for the end give: the least counts. */
  readonly #leaves: Leave[] = []
  /** Of slots that a reload has removed: no total ever falls. */
  #past = newCounters()
  readonly #waiting = new Set<() => void>()

  /** @param earlier the master that this one is to replace */
  constructor(options: StartOptions, isDaemon: boolean, earlier: EarlierMaster | null = null) {
    this.#options = options
    this.#isDaemon = isDaemon
    this.#earlier = earlier
    this.#memory = sharedMemory(earlier?.inheritance.memory ?? -1)
    this.#tickets = new Tickets(earlier?.inheritance.ticketSecret)
    this.#peers = new Peers(earlier?.inheritance.meshSecret)
    const { modules, argv, user = '', group = '', engine } = options
    const settings = { modules, argv, user, group, engine }
    this.#callbacks = new MasterCallbacks(
      settings,
      () => this.#output,
      () => this.#record(),
    )
  }

  /**
   * Runs until it is stopped. `onUp` is told when all workers serve. Rejects with a CommandError when the start failed;
   * by then nothing of it is left.
   */
  async run(onUp: (banner: string) => void): Promise<void> {
    process.title = `millrace: master process  start_file=${this.#options.modules[0]}`
    if (this.#options.umask !== undefined) process.umask(this.#options.umask)
    reapOrphans(() => this.#pids())
    const stopExtending = extendStart(() => this.#startsInTime())
    if (this.#earlier === null) feedWatchdog()
    try {
      if (this.#earlier === null) {
        await this.#takeRunDir()
        this.sockets.adopt(takeActivated())
      } else await this.#joinRunDir(this.#earlier)
      this.events.emit({ type: 'server', state: 'starting', reason: '' })
      await this.#prepare()
      if (this.#options.isWatching) await this.#watch()
      await this.#untilUp()
      stopExtending()
      if (this.#stopping === null) {
        tellService('READY=1', `MAINPID=${process.pid}`)
        tellStatus(this.#seen)
        this.events.emit({ type: 'server', state: 'running', reason: '' })
        onUp(this.#banner())
      }
      await this.#until(() => this.#stopping !== null)
    } catch (error) {
      this.#stopping ??= asCommandError(error)
    }
    stopExtending()
    this.#unwatch?.()
    await this.#end()
    if (this.#stopping instanceof CommandError) throw this.#stopping
  }

  /**
   * Ends the server within `Worker.stopTimeout`; gracefully within each group's `drainTimeoutMs`, and when the stop delay is
   * over. Again: with less time, never with more.
   */
  stop(isGraceful: boolean, timeoutMs: number | null = null): void {
    this.#leaves.push({ isGraceful, timeoutMs })
    if (!isGraceful) this.#earlier?.hurry()
    const isPatient = isGraceful && timeoutMs === null
    if (isPatient && this.#delay !== null) return
    const isServing = this.#isUp && this.#stopping === null && !this.#isReplaced
    const delayMs = isPatient && isServing ? this.#stopDelayMs : 0
    if (delayMs === 0) return this.#giveUp('asked')
    this.#announceStop('', delayMs)
    log(`not ready any more, drains in ${delayMs / 1000} s`)
    this.#delay = setTimeout(() => this.#giveUp('asked'), delayMs)
  }

  /** Kills what is still there of a server that was asked to stop. */
  kill(): void {
    for (const handle of this.#processes()) handle.kill()
    this.#callbacks.kill()
  }

  reload(): Promise<ReloadOutcome> {
    return this.#orPassed(this.#operator.reload([]), { command: 'reload' })
  }

  get isStopping(): boolean {
    return this.#state === 'stopping'
  }

  get stopTimeoutMs(): number {
    return this.#settings.stopTimeoutMs
  }

  get isReplaced(): boolean {
    return this.#isReplaced
  }

  /** What is asked for during a start comes after it, and during an upgrade when the old processes are gone. */
  async untilUp(): Promise<void> {
    await this.#until(() => this.#isUp || this.#stopping !== null)
    if (this.#isUp) await this.#earlier?.settled
  }

  async describeAnew(): Promise<Described> {
    const described = await this.#describeForUse()
    this.#leaders.generation++
    this.#output?.reopen()
    await this.#callbacks.call({ name: 'onMasterReload' })
    await this.#health.listen(this.#healthAddress)
    return described
  }

  exclusively<T>(work: () => Promise<T>): Promise<T> {
    return this.#operator.exclusively(work)
  }

  // Starting

  async #takeRunDir(): Promise<void> {
    const { modules, runDir } = this.#options
    const places = runDirCandidates(modules[0] ?? '', runDir)
    await refuseSecond(places)
    this.#runDir = makeRunDir(places)
    const lock = Lock.acquire(this.#runDir)
    if (!(lock instanceof Lock)) throw alreadyRunning(lock.pid)
    this.#lock = lock
    this.#predecessors = new Predecessors(this.#runDir)
    this.#output = new Output(this.#options, this.#isDaemon, this.#runDir, DEFAULT_SETTINGS)
    this.#keeper = new KeeperHandle(this.#runDir, this.#output, () => this.#record())
    const control = new ControlServer(this.#runDir, this.events, (request) => this.#answer(request))
    await control.listen()
    this.#control = control
    this.#writePid(this.#options.pidFile ?? join(this.#runDir, 'millrace.pid'))
  }

  #writePid(path: string): void {
    writePidFile(path, process.pid)
    this.#pidFiles.add(path)
  }

  async #prepare(): Promise<void> {
    const earlier = this.#earlier
    const { groups, tlsFiles, settings } = await this.#describeForUse()
    if (earlier === null) {
      await this.#health.listen(this.#healthAddress)
      if (this.#options.pidFile === undefined && settings.pidFile !== '') this.#writePid(settings.pidFile)
      await this.#predecessors?.leave(settings.stopTimeoutMs, this.#ended.signal)
    }
    const keys = keysOf(groups)
    const estates = earlier?.adopt(this.sockets, keys) ?? []
    const mailboxes = mailboxesOf(groups)
    for (const [place, declaration] of groups.entries()) {
      if (this.#stopping !== null) return
      const estate = estates[place]
      const { isStopped = false, scaledTo = null, declaredCount = declaration.count } = estate?.group ?? {}
      const count = scaledTo !== null && declaredCount === declaration.count ? scaledTo : declaration.count
      const wanted = { ...declaration, count }
      const sockets = isStopped ? [] : await this.sockets.reserveAll(wanted, estate?.sockets)
      const key = keys[place] as Blueprint['key']
      const mailbox = mailboxes[place] as string
      const group = new GroupState({ key, mailbox, declaration: wanted, sockets, tlsFiles: tlsFiles[place] ?? {} })
      group.declaredCount = declaration.count
      group.scaledTo = count === declaration.count ? null : count
      group.isStopped = isStopped
      for (let n = 0; n < count; n++) group.addSlot({ isHeld: false })
      if (earlier !== null && estate !== undefined) this.#inherit(group, estate, earlier)
      this.groups.push(group)
    }
    if (earlier !== null) return this.sockets.keepAll() // until this master leads, nothing of the earlier one's is closed
    this.sockets.release()
    this.#tellUnused()
  }

  /** Sockets of a service manager that no Worker has declared. */
  #tellUnused(): void {
    const unused = this.sockets.unused(this.groups.flatMap(({ sockets }) => sockets)).join(', ')
    if (unused === this.#unused) return
    this.#unused = unused
    if (unused !== '') log(`no Worker has the address of these sockets of the service manager: ${unused}`)
  }

  /** Nobody waits for ever, so the service manager may wait too. */
  #startsInTime(): boolean {
    return this.groups.every(({ blueprint }) => blueprint.declaration.startTimeoutMs < LONGEST_START_MS)
  }

  async #describeForUse(): Promise<Described> {
    const evaluated = this.#options.modules.map(realPathOf)
    const described = await this.#describe()
    this.#evaluated = evaluated
    this.#follow(described.settings)
    return described
  }

  async #describe(): Promise<Described> {
    const { modules, argv, user = '', group = '', engine } = this.#options
    let describing = 0
    const onSpawn = (pid: number) => {
      describing = pid
      if (pid > 0) this.#describing.add(pid)
      this.#record()
    }
    try {
      const described = await describeModules({
        modules,
        argv,
        user,
        group,
        engine,
        signal: this.#ended.signal,
        output: this.#output,
        onSpawn,
      })
      return this.#options.isWatching ? hurried(described) : described
    } finally {
      this.#describing.delete(describing)
    }
  }

  #follow(settings: Settings): void {
    this.#output?.configure(settings)
    this.#settings = settings
    this.#callbacks.declare(settings.callbacks)
  }

  async #watch(): Promise<void> {
    const { watchModules } = await import('./watch.ts')
    const reload = async () => (await this.reload()).reason
    this.#unwatch = watchModules({ modules: this.#options.modules, ignored: [this.#runDir], reload })
  }

  async #untilUp(): Promise<void> {
    this.reconcile()
    await this.#until(() => this.#stopping !== null || this.#isAllReady())
    if (this.#earlier !== null && this.#stopping === null) await this.#succeed(this.#earlier)
    this.#isUp = this.#stopping === null
    this.#stuck.start()
    setInterval(() => this.#rotateTickets(), ROTATE_TICKETS_MS).unref()
  }

  #rotateTickets(): void {
    this.#tickets.rotate()
    for (const { blueprint, slots } of this.groups) {
      const keys = this.#tickets.keysFor(blueprint.key)
      for (const slot of slots) for (const handle of slot.processes) handle.useTickets(keys)
    }
  }

  #isAllReady(): boolean {
    const wanted = this.groups.filter(({ isStopped }) => !isStopped).flatMap(({ slots }) => slots)
    return wanted.every((slot) => slot.isHeld || slot.current?.state === 'ready')
  }

  // Taking over from another master

  /** Beside the master that leads: lock, pid file and control socket stay its own. */
  async #joinRunDir(earlier: EarlierMaster): Promise<void> {
    this.#runDir = earlier.inheritance.runDir
    this.#predecessors = new Predecessors(this.#runDir)
    this.#predecessors.isShared = true
    this.#output = new Output(this.#options, this.#isDaemon, this.#runDir, DEFAULT_SETTINGS)
    const { keeper } = earlier.inheritance
    this.#keeper = new KeeperHandle(this.#runDir, this.#output, () => this.#record(), keeper)
    const control = new ControlServer(this.#runDir, this.events, (request) => this.#answer(request), true)
    await control.listen()
    this.#control = control
    earlier.onAbandon = () => this.stop(false)
    earlier.onLeft = () => void this.#outlive(earlier)
    if (earlier.isGone) void this.#outlive(earlier)
  }

  #inherit(group: GroupState, { inner, place }: Estate, earlier: EarlierMaster): void {
    const { declaration, sockets } = group.blueprint
    const isAlone = declaration.reloadMode === 'stop-first' || sockets.some(({ isExclusive }) => isExclusive === true)
    for (const [address, socket] of inner) group.inheritInner(address, socket)
    for (const slot of group.slots) {
      slot.isHeld = isAlone && place >= 0
      slot.vacated = earlier.retired(place, slot.id)
    }
  }

  /** All that can live beside the earlier master's processes serves. First the others, then this one leads. */
  async #succeed(earlier: EarlierMaster): Promise<void> {
    const held = this.groups.filter(({ slots }) => slots.some(({ isHeld }) => isHeld))
    await this.#unlessStopped(earlier.want(held.map(({ blueprint }) => blueprint.key)))
    for (const slot of this.#slots()) slot.isHeld = false
    this.reconcile()
    await this.#until(() => this.#stopping !== null || this.#isAllReady())
    if (this.#stopping === null) await this.#unlessStopped(earlier.able())
    await this.#keeper?.rejoin() // else it would go with the earlier master
    if (this.#stopping !== null) return
    this.#takeCharge(earlier)
    await this.#takeProbes(earlier)
    if (this.#stopping !== null) return
    this.#peers.onChange = (rows) => earlier.tellPeers(rows)
    earlier.tellPeers(this.#peers.rows)
    earlier.leads()
    this.#isUp = true
    this.sockets.release()
    for (const group of this.groups) group.forgetInnerSockets()
    this.reconcile()
  }

  /** The earlier master has let go of its port. Rejects with a SystemError, but not when nobody is left who would go on. */
  async #takeProbes(earlier: EarlierMaster): Promise<void> {
    try {
      await this.#health.listen(this.#healthAddress)
    } catch (error) {
      if (!earlier.isGone) throw error
      log(messageOf(error))
    }
  }

  /** Whatever the earlier one has done of it already. Throws a CommandError when somebody else was quicker. */
  #takeCharge(earlier: EarlierMaster): void {
    if (this.#lock !== null) return
    const lock = Lock.take(this.#runDir)
    if (!(lock instanceof Lock)) throw alreadyRunning(lock.pid)
    this.#lock = lock
    feedWatchdog(earlier.inheritance.pid)
    this.#control?.take(earlier.isGone ? earlier.inheritance.pid : null)
    this.sockets.own()
    this.#writePid(this.#options.pidFile ?? join(this.#runDir, 'millrace.pid'))
    if (this.#options.pidFile === undefined && this.#settings.pidFile !== '') this.#writePid(this.#settings.pidFile)
  }

  /** The earlier master is done, or was killed: then its processes leave by themselves, or are made to. */
  async #outlive(earlier: EarlierMaster): Promise<void> {
    const { pid } = earlier.inheritance
    if (earlier.isGone) await earlier.ended()
    if (earlier.isGone && this.#lock?.isOurs() === true) tidy(() => this.#control?.take(pid)) // it may have left its socket's second name
    if (earlier.isSettled) return
    try {
      if (this.#stopping === null) this.#takeCharge(earlier)
      this.#predecessors?.inherit()
      await this.#predecessors?.leave(this.#settings.stopTimeoutMs, new AbortController().signal)
    } catch (error) {
      if (this.#lock === null) this.#giveUp(asCommandError(error))
      else log(messageOf(error))
    }
    earlier.settle()
    this.reconcile()
  }

  async #unlessStopped(step: Promise<void>): Promise<void> {
    let isDone = false
    void step.then(() => {
      isDone = true
      this.reconcile()
    })
    await this.#until(() => isDone || this.#stopping !== null)
  }

  // Running

  /** Makes what is wanted so: a process in every slot that is not waiting for its next try, or none when stopping. */
  reconcile(): void {
    this.#tellPeers() // before anybody is told to leave: nobody will come back
    for (const group of this.groups) {
      for (const slot of group.slots) {
        if (this.#stopping !== null) for (const handle of slot.processes) handle.stop(this.#stopWindowMs(group))
        else if (slot.isVacant && !group.isStopped) this.#fill(group, slot)
      }
    }
    if (this.#stopping === null && this.#isInCharge) for (const { share } of this.groups) share.settle()
    // No two lead: the earlier master's do until they are gone.
    if (this.#stopping === null && this.#earlier?.isSettled !== false) this.#leaders.settle()
    this.#tellPeers()
    this.sockets.sweep(this.groups.flatMap(({ sockets }) => sockets))
    this.#record()
    if (this.#isInCharge) tellStatus(this.#seen)
    if (this.#isUp) this.#tellUnused()
    for (const look of [...this.#waiting]) look()
  }

  #tellPeers(): void {
    this.#peers.settle(this.groups, this.#stopping !== null)
  }

  #fill(group: GroupState, slot: Slot): void {
    const handle = this.launch(group, slot, group.blueprint)
    slot.next = null
    slot.current = handle
    handle.onReady = () => {
      this.activate(slot, handle)
      this.reconcile()
    }
  }

  launch(group: GroupState, slot: Slot, blueprint: Blueprint): WorkerHandle {
    const { key, declaration, tlsFiles } = blueprint
    const socket = socketOf(blueprint, slot.id)
    if (this.#stopping !== null) throw new CommandError(Exit.Failure, 'the server is being stopped')
    const { modules, argv } = this.#options
    const output = this.#output as Output
    const inspectorPort = inspects(declaration.execArgv) ? this.#inspectorPorts.take() : null
    const isQuiet = inspectorPort === null && output.isLogPiped && declaration.stuckTimeoutMs > 0
    const incarnation = ++slot.incarnation
    const fds = socket === null || socket.fd < 0 ? [] : [socket.fd]
    const mesh = bindMeshSocket(this.#runDir)
    const meshFd = mesh.fd < 0 ? -1 : FIRST_SOCKET_FD + fds.push(mesh.fd) - 1
    const memoryFd = this.#memory === null ? -1 : FIRST_SOCKET_FD + fds.push(this.#memory.fd) - 1
    const child = spawnChild(
      {
        role: 'worker',
        modules,
        argv,
        credentials: declaration.credentials,
        isLogPiped: output.isLogPiped,
        engine: this.#options.engine,
        group: key,
        memoryFd,
        place: {
          id: slot.id,
          incarnation,
          sockets: socket === null ? [] : [{ fd: socket.fd < 0 ? -1 : FIRST_SOCKET_FD, endpoint: socket.endpoint }],
          tls: { ticketKeys: this.#tickets.keysFor(key), files: tlsFiles },
          mesh: this.#peers.placeFor(blueprint, meshFd, mesh.address),
        },
      },
      {
        stdio: output.stdio,
        fds,
        isDetached: true,
        execArgv: isQuiet ? [...QUIET_INSPECTOR, ...declaration.execArgv] : declaration.execArgv,
        inspectorPort,
      },
    )
    if (isPassedOn) mesh.close()
    const tail = output.attach(child, `${declaration.name}:${slot.id}`)
    // Who stands at a breakpoint is not late.
    const startTimeoutMs = inspectorPort === null ? declaration.startTimeoutMs : Number.POSITIVE_INFINITY
    const { stuckTimeoutMs } = declaration
    const meshAddress = mesh.address
    const handle = new WorkerHandle(child, { incarnation, startTimeoutMs, socket, tail, stuckTimeoutMs, meshAddress })
    slot.next = handle
    const of = () => ({ group: declaration.name, worker: `${declaration.name}:${slot.id}`, pid: handle.pid })
    this.events.emit({ type: 'spawn', incarnation, ...of() })
    handle.onMove = (state) => {
      if (state === 'ready') this.events.emit({ type: 'ready', readyMs: Math.round(now() - handle.startedAt), ...of() })
      else if (state === 'retiring') this.events.emit({ type: 'retire', ...of() })
      else if (state === 'stopping')
        this.events.emit({ type: 'leave', windowMs: Math.round(handle.remainingMs), ...of() })
    }
    handle.onReport = () => {
      shareOut(group)
      this.#recycling.look(group, slot, handle)
    }
    handle.onListen = (request, address) => void this.#giveSocket(group, declaration, handle, request, address)
    handle.onReachKeeper = (request) => void this.#giveKeeper(handle, request)
    handle.onStand = (name, id) => this.#leaders.stand(handle, name, id)
    handle.onResign = (name, id) => this.#leaders.resign(handle, name, id)
    handle.onGone = (exit) => {
      this.#leaders.forget(handle)
      if (inspectorPort !== null) this.#inspectorPorts.release(inspectorPort)
      if (!isPassedOn) mesh.close()
      this.#gone(group, slot, handle, exit)
    }
    this.#record()
    return handle
  }

  /** `listen()` of a process: every process of the group shares the socket, also those that come later. */
  async #giveSocket(
    group: GroupState,
    declaration: Declaration,
    handle: WorkerHandle,
    request: number,
    address: string,
  ): Promise<void> {
    try {
      if (this.#stopping !== null) throw new SystemError('ECANCELED', 'bind', address)
      const bind = () => this.sockets.share(address, declaration, group.sockets)
      if (address === '') return handle.giveDeclared(request)
      const socket = await group.innerSocket(address, bind)
      this.sockets.unkeep(socket)
      this.sockets.giveTo(declaration.credentials, socket) // the processes before this one may have been another user's
      handle.giveSocket(request, socket)
    } catch (error) {
      const { syscall = '', address: at = address } = error as Partial<SystemError>
      handle.refuseSocket(request, { code: codeOf(error), syscall, address: at, message: messageOf(error) })
    }
  }

  async #giveKeeper(handle: WorkerHandle, request: number): Promise<void> {
    try {
      const keeper = this.#keeper as KeeperHandle
      handle.giveConnection(request, await keeper.connect())
    } catch (error) {
      handle.refuseSocket(request, { code: 'ERR_KEEPER_LOST', syscall: '', address: '', message: messageOf(error) })
    }
  }

  activate(slot: Slot, handle: WorkerHandle): void {
    this.#tellPeers() // messages go to it from now on
    const before = [...slot.leaving].map(({ retired }) => retired)
    void Promise.all([slot.vacated, ...before]).then(() => {
      if (slot.current === handle) handle.activate()
    })
  }

  retryLater(group: GroupState, slot: Slot): void {
    this.#waitFor(group, slot, slot.backoff.next(0))
  }

  dismiss(group: GroupState, slot: Slot): void {
    slot.stopWaiting()
    this.#past = addCounters(this.#past, slot.past)
    group.slots = group.slots.filter((one) => one !== slot)
    this.reconcile()
  }

  #gone(group: GroupState, slot: Slot, handle: WorkerHandle, told: WorkerExitInfo): void {
    const isOutOfMemory = told.word === 'signal SIGKILL' && this.#oomKills.hasRisen()
    const exit = isOutOfMemory ? { ...told, word: `${told.word} (out of memory)` } : told
    const wasServing = handle === slot.current
    const isLeaving = slot.leaving.has(handle)
    slot.forget(handle, exit)
    const { key } = group.blueprint
    if (handle.pid !== 0)
      void this.#callbacks.call({ name: 'onWorkerExit', group: key, status: exit.status, pid: handle.pid })
    this.events.emit({
      type: 'exit',
      ...{ group: group.name, worker: `${group.name}:${slot.id}`, pid: handle.pid },
      ...{ word: exit.word, reason: exit.reason, aliveMs: Math.round(exit.aliveMs), wasKilled: exit.wasKilled },
      isExpected: isLeaving || this.#stopping !== null,
    })
    if (exit.exitCode !== WorkerExit.Ended || exit.wasKilled) count(group.exits, exit.word)
    if (this.#stopping === null && wasServing) this.#replaceLost(group, slot, handle, exit)
    else if (isLeaving && exit.wasKilled)
      log(`worker ${group.name}:${slot.id} pid ${handle.pid}: killed, its time to drain was up${unfinished(handle)}`)
    this.reconcile()
  }

  /** A slot has lost its process: another one, at once or after the back-off; or the end of a start that cannot be. */
  #replaceLost(group: GroupState, slot: Slot, handle: WorkerHandle, exit: WorkerExitInfo): void {
    const name = `worker ${group.name}:${slot.id}`
    this.#judgeFirstStart(slot, exit, `${name}: ${exit.reason || exit.word}`)
    if (this.#stopping !== null) return
    const waitMs = isVoluntary(exit) ? 0 : slot.backoff.next(exit.aliveMs)
    const next = waitMs === 0 ? 'starting another' : `starting another in ${(waitMs / 1000).toFixed(1)} s`
    log(`${name} pid ${handle.pid}: ${exit.word}, ${next}${exit.isLogged ? '' : exit.reason && `\n${exit.reason}`}`)
    if (slot.backoff.failures === group.blueprint.declaration.crashLoopAfter)
      log(
        `${name}: crash loop, ${slot.backoff.failures} failures in a row: it is tried again, ever later; see 'status'`,
      )
    this.#waitFor(group, slot, waitMs)
  }

  #waitFor(group: GroupState, slot: Slot, waitMs: number): void {
    const { failures } = slot.backoff
    const worker = `${group.name}:${slot.id}`
    this.events.emit({ type: 'backoff', group: group.name, worker, waitMs: Math.round(waitMs), failures })
    slot.wait(waitMs, () => this.reconcile(), now())
  }

  /** Before everything has been ready once, a failure may be final. */
  #judgeFirstStart(slot: Slot, exit: WorkerExitInfo, message: string): void {
    if (this.#isUp || isVoluntary(exit)) return
    if (exit.exitCode === WorkerExit.Address) this.#giveUp(new CommandError(Exit.Address, message))
    else if (exit.hasTimedOut) this.#giveUp(new CommandError(Exit.Timeout, message))
    else if (++slot.bootFailures >= MAX_BOOT_FAILURES) this.#giveUp(new CommandError(Exit.Module, message))
  }

  // Being replaced

  async #upgrade(request: Request & Program): Promise<Answer> {
    const upgrade = await this.#operator.exclusively(async () => {
      if (this.#isReplaced) return null // by one that was asked for before
      const outcome = await new Upgrade(this.#household(), this, this.#stopAnnounced.signal).run(request)
      if (this.#isReplaced) this.#giveUp('replaced')
      return outcome
    })
    return upgrade === null ? this.#pass(request) : { ...this.#done(), upgrade }
  }

  /** What waited for its turn while another master took over is that one's to do. */
  async #orPassed(operation: Promise<ReloadOutcome>, request: Request): Promise<ReloadOutcome> {
    const outcome = await operation
    if (outcome.code !== REPLACED) return outcome
    const answer = await this.#pass(request).catch((error) => ({ ok: false, message: messageOf(error) }) as const)
    if (!answer.ok) return { ...outcome, reason: answer.message }
    return answer.outcome ?? { ...outcome, exitCode: Exit.Ok, reason: '' } // asked not to wait
  }

  async #pass(request: Request): Promise<Answer> {
    const answer = await ask(this.#runDir, request, Number.POSITIVE_INFINITY)
    return answer ?? { ok: false, message: 'this master has been replaced, and the new one is gone' }
  }

  #household(): Household {
    const [lock, control, predecessors] = [this.#lock, this.#control, this.#predecessors]
    return {
      options: this.#options,
      isDaemon: this.#isDaemon,
      runDir: this.#runDir,
      pidFiles: this.#pidFiles,
      lock: lock as Lock,
      control: control as ControlServer,
      predecessors: predecessors as Predecessors,
      tickets: this.#tickets,
      peers: this.#peers,
      keeper: this.#keeper as KeeperHandle,
      health: this.#health,
      memory: this.#memory,
      stopTimeoutMs: this.#settings.stopTimeoutMs,
      totals: async () => ({ ...(await this.#totals()), connections: 0 }),
      hurry: () => this.stop(false),
      onReplaced: () => {
        this.#isReplaced = true
      },
    }
  }

  // Stopping

  #giveUp(why: StopReason): void {
    if (this.#state !== 'stopping' && !this.#isReplaced)
      this.#announceStop(why instanceof CommandError ? why.message : '', 0)
    if (this.#delay !== null) clearTimeout(this.#delay)
    this.#delay = null
    this.#stopping ??= why
    this.#ended.abort()
    this.sockets.closeAll() // who connects from now on is refused at once, instead of waiting for nobody
    this.reconcile()
  }

  /** A drain may take longer than the service manager would wait (TimeoutStopSec=, 90 s). */
  #announceStop(reason: string, delayMs: number): void {
    const windowMs = Math.max(0, ...this.groups.map((group) => this.#stopWindowMs(group)))
    if (this.#isInCharge) tellService('STOPPING=1', extension(delayMs + windowMs + STOP_SLACK_MS))
    this.#stopAnnounced.abort()
    this.events.emit({ type: 'server', state: 'stopping', reason })
  }

  #stopWindowMs({ blueprint }: GroupState): number {
    const { stopTimeoutMs } = this.#settings
    const { drainTimeoutMs } = blueprint.declaration
    const windows = this.#leaves.map(
      ({ isGraceful, timeoutMs }) => timeoutMs ?? (isGraceful ? drainTimeoutMs : stopTimeoutMs),
    )
    return windows.length === 0 ? stopTimeoutMs : Math.min(...windows)
  }

  async #end(): Promise<void> {
    this.#stuck.stop()
    for (const slot of this.#slots()) slot.stopWaiting()
    this.reconcile()
    await this.#until(() => this.#processes().length === 0)
    await this.#operator.idle()
    const isLast = !this.#isReplaced && (this.#earlier === null || this.#lock?.isOurs() === true)
    if (this.#isUp && isLast) await this.#callbacks.call({ name: 'onMasterStop' })
    await this.#callbacks.settled()
    if (this.#isReplaced) await this.#control?.settled()
    else await this.#keeper?.end(isLast)
    if (this.#isUp && this.#earlier !== null) await within(LEAVE_MS, this.#earlier.gone) // it may pass our answer on
    this.sockets.closeAll()
    this.#health.close()
    for (const path of this.#pidFiles) tidy(() => removePidFile(path))
    if (this.#lock?.isOurs()) tidy(() => this.#predecessors?.forget())
    tidy(() => this.#control?.close())
    tidy(() => this.#lock?.release())
  }

  // Answering

  async #answer(request: Request): Promise<Answer> {
    const { command } = request
    if (this.#isReplaced) return this.#pass(request)
    if (command === 'upgrade') return this.#upgrade(request)
    if (command === 'status') return { ...this.#done(), status: await this.#status() }
    if (command === 'connections')
      return { ...this.#done(), page: await connectionPage(this.groups, request.cursor ?? { pid: 0, after: 0 }) }
    if (command === 'ping' || command === 'events') return this.#done()
    if (command === 'diff') return { ...this.#done(), comparison: await this.#compare() }
    const names = namesOf(request)
    if (command === 'stop' && names.length === 0) {
      this.stop(request.isGraceful === true, timeoutOf(request)) // who asked waits for this process to be gone
      return this.#done()
    }
    const asked = this.#operate(request, names)
    const outcome = asked === null ? null : this.#orPassed(asked, request)
    if (outcome === null) return { ok: false, message: `unknown command ${JSON.stringify(request)}` }
    return command === 'reload' && request.isWaiting === false
      ? this.#done()
      : { ...this.#done(), outcome: await outcome }
  }

  /** Null for what is no operation. */
  #operate(request: Request, names: readonly string[]): Promise<ReloadOutcome> | null {
    const { command } = request
    if (command === 'reload') return this.#operator.reload(names, Number(request.canaryMs) || 0)
    if (command === 'scale') return this.#operator.scale(String(request.name), request.scale)
    if (names.length === 0) return null // the whole server is stopped and started by others
    if (command === 'start') return this.#operator.start(names)
    if (command !== 'stop' && command !== 'restart') return null
    const leave = { isGraceful: request.isGraceful === true, timeoutMs: timeoutOf(request) }
    return this.#operator[command](names, leave)
  }

  #done() {
    const stopTimeoutMs = Math.max(
      this.#settings.stopTimeoutMs,
      ...this.groups.map((group) => this.#stopWindowMs(group)),
    )
    const logFile = this.#output?.logPath ?? ''
    const delayMs = this.#delay === null ? 0 : this.#stopDelayMs
    const windowMs = stopTimeoutMs + this.#callbacks.stopMs + delayMs
    return { ok: true, ...ownIdentity(), stopTimeoutMs: windowMs, isDaemon: this.#isDaemon, logFile } as const
  }

  async #compare(): Promise<Comparison> {
    const { groups } = await this.#describe()
    const { modules } = this.#options
    const differences = compare(this.groups, groups)
    return { differences, modules, evaluated: this.#evaluated, oldestStart: oldestStart(this.groups) }
  }

  async #status(): Promise<Status> {
    const groups = await Promise.all(this.groups.map((group) => groupStatus(group)))
    const engine = engineOf(this.groups.map(({ blueprint }) => blueprint.declaration))
    return {
      version,
      node: process.versions.node,
      pid: process.pid,
      startedAt: this.#startedAt.toISOString(),
      uptimeMs: Math.round(now() - this.#startedNow),
      isDaemon: this.#isDaemon,
      state: this.#state,
      runDir: this.#runDir,
      engine: engine.name,
      engineWhy: engine.why,
      addon: addon().why,
      loadAverage: loadavg(),
      groups,
      leaders: this.#leaders.list(),
      totals: await this.#totals(groups),
    }
  }

  async #totals(groups?: readonly GroupStatus[]): Promise<Counters> {
    const own = totalsOf(groups ?? (await Promise.all(this.groups.map((group) => groupStatus(group)))))
    addCounters(own, this.#past)
    return this.#earlier === null ? own : addCounters(own, this.#earlier.totals)
  }

  get #seen(): Seen {
    return { state: this.#state, groups: this.groups }
  }

  get #state(): Status['state'] {
    if (this.#stopping !== null || this.#delay !== null) return 'stopping'
    return this.#isUp ? 'running' : 'starting'
  }

  /** Not beside another master that leads. */
  get #isInCharge(): boolean {
    return !this.#isReplaced && (this.#earlier === null || this.#lock !== null)
  }

  get #stopDelayMs(): number {
    return this.#options.stopDelayMs ?? this.#settings.stopDelayMs
  }

  get #healthAddress(): string {
    return this.#options.health ?? this.#settings.health
  }

  #banner(): string {
    const groups = this.groups.map(({ blueprint: { declaration, sockets } }) => ({
      declaration,
      endpoint: sockets[0]?.endpoint ?? '',
    }))
    return renderBanner({
      groups,
      isDaemon: this.#isDaemon,
      isQuiet: this.#options.isQuiet,
      modules: this.#options.modules,
    })
  }

  #slots(): Slot[] {
    return this.groups.flatMap((group) => group.slots)
  }

  #processes(): WorkerHandle[] {
    return this.#slots().flatMap((slot) => slot.processes)
  }

  #pids(): number[] {
    const others = [...this.#describing, this.#callbacks.pid, this.#keeper?.pid ?? 0]
    return [...others, ...this.#processes().map(({ pid }) => pid)]
  }

  /** Who would be left over if this process were killed now. */
  #record(): void {
    this.#predecessors?.record(this.#pids())
  }

  /** Resolves when `isTrue` holds; looked at after every change. */
  #until(isTrue: () => boolean): Promise<void> {
    return new Promise((resolve) => {
      const look = () => {
        if (!isTrue()) return
        this.#waiting.delete(look)
        resolve()
      }
      this.#waiting.add(look)
      look()
    })
  }
}

/** Who waits for his change does not want to wait for a browser that keeps its connection: processes leave as at a stop. */
function hurried({ groups, settings, tlsFiles }: Described): Described {
  const hurry = (ms: number) => Math.min(ms, settings.stopTimeoutMs)
  const quick = groups.map((group) => ({ ...group, drainTimeoutMs: hurry(group.drainTimeoutMs) }))
  return { settings, tlsFiles, groups: quick }
}

function sharedMemory(inherited: number): Descriptor | null {
  if (inherited >= 0) return { fd: inherited, close: () => closeSync(inherited), release: () => inherited }
  try {
    return addon().sys?.createMemory(COUNTER_BYTES) ?? null
  } catch (error) {
    log(`counters are kept by a process: ${messageOf(error)}`)
    return null
  }
}

/** What somebody sends need not be what it should. */
function namesOf(request: { readonly names?: readonly string[] } | Request): readonly string[] {
  const { names } = request as { readonly names?: unknown }
  return Array.isArray(names) ? names.map(String) : []
}

function timeoutOf({ timeoutMs }: Leave): number | null {
  return typeof timeoutMs === 'number' && timeoutMs >= 0 ? timeoutMs : null
}

/** One step of the end: what fails (a folder that is gone) must not keep the next from being done. */
function tidy(step: () => void): void {
  try {
    step()
  } catch (error) {
    log(messageOf(error))
  }
}

/** `Worker.stopAll()` after so many requests, say: a worker that has served and ends with 0 is no failure. */
function isVoluntary(exit: WorkerExitInfo): boolean {
  return exit.hadBeenReady && exit.exitCode === WorkerExit.Ended && exit.aliveMs >= SHORTEST_SERVICE_MS
}

function count(counts: Map<string, number>, key: string): void {
  counts.set(key, (counts.get(key) ?? 0) + 1)
}

function unfinished({ report }: WorkerHandle): string {
  return report.work === '' ? '' : ` with ${report.work}`
}

/** Resolves with `promise`, or after `ms`. */
function within(ms: number, promise: Promise<void>): Promise<void> {
  return new Promise((resolve) => {
    const late = setTimeout(resolve, ms)
    void promise.then(() => {
      clearTimeout(late)
      resolve()
    })
  })
}

/** Looks in every place where `status` and `stop` would look: one server a module, whatever the environment was. */
async function refuseSecond(places: Places): Promise<void> {
  for (const runDir of placesOfOurs(places)) {
    const answer = await ask(runDir, { command: 'ping' }, PING_MS).catch(() => null) // not ours to ask: the lock decides
    if (answer?.ok === true) throw alreadyRunning(answer.pid)
  }
}

function alreadyRunning(pid: number): CommandError {
  return new CommandError(Exit.AlreadyRunning, `already running, pid ${pid}`)
}
