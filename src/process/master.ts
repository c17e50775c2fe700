// The master: reconciles the processes that are wanted with those that are. First start, crash and stop are one path,
// safe to run at any time; a reload takes one slot after the other in hand (reload.ts). Signal handlers and messages only
// take note. No user code ever runs here.

import { loadavg } from 'node:os'
import { join } from 'node:path'
import { addon } from '../addon.ts'
import { addCounters, type Counters, newCounters } from '../counters.ts'
import { codeOf, messageOf, SystemError, UsageError } from '../errors.ts'
import { log } from '../log.ts'
import { now } from '../loop/clock.ts'
import { version } from '../version.ts'
import { renderBanner } from './banner.ts'
import { type Answer, ask, ControlServer, type Done, type Request } from './control.ts'
import { type Described, describeModules } from './describe.ts'
import type { EarlierMaster, Estate } from './earlier-master.ts'
import { CommandError, Exit, WorkerExit } from './exit-codes.ts'
import { DEFAULT_SETTINGS, type Settings } from './group.ts'
import { ownIdentity } from './identity.ts'
import { Lock } from './lock.ts'
import { keysOf, type StartOptions } from './messages.ts'
import { InspectorPorts, inspects } from './node-flags.ts'
import { Output } from './output.ts'
import { removePidFile, writePidFile } from './pid-file.ts'
import { Predecessors } from './predecessors.ts'
import { Reload, type ReloadOutcome, type Supervisor } from './reload.ts'
import { makeRunDir, type Places, placesOfOurs, runDirCandidates } from './run-directory.ts'
import { monotonicUsec, reapOrphans, tellService } from './service.ts'
import { type Blueprint, GroupState, type Slot, socketOf } from './slot.ts'
import { Sockets } from './sockets.ts'
import { FIRST_SOCKET_FD, type Program, spawnChild } from './spawn.ts'
import { connectionPage, engineOf, type GroupStatus, groupStatus, type Status, totalsOf } from './status.ts'
import { ROTATE_TICKETS_MS, Tickets } from './tickets.ts'
import { type Household, Upgrade, type UpgradeOutcome } from './upgrade.ts'
import { type WorkerExitInfo, WorkerHandle } from './worker-handle.ts'

/** So many boot failures of one slot before anything serves: the program is broken, not unlucky. */
const MAX_BOOT_FAILURES = 5
/** One that ends by itself sooner would only spin. */
const SHORTEST_SERVICE_MS = 1000
/** What another master may take to say that it is there. */
const PING_MS = 1000
/** What one that has nothing left to do may take to end. */
const LEAVE_MS = 3000

/** `asked`, or the failure that ends the server. `replaced`: this master ends, and another one has the server. */
type StopReason = CommandError | 'asked' | 'replaced'

export class Master implements Supervisor {
  readonly groups: GroupState[] = []
  readonly sockets = new Sockets()
  readonly #options: StartOptions
  readonly #isDaemon: boolean
  /** For people; how long ago that is, another clock tells, which nobody sets. */
  readonly #startedAt = new Date()
  readonly #startedNow = now()
  readonly #ended = new AbortController()
  readonly #inspectorPorts = new InspectorPorts()
  readonly #tickets: Tickets
  readonly #earlier: EarlierMaster | null
  #settings: Settings = DEFAULT_SETTINGS
  #runDir = ''
  readonly #pidFiles = new Set<string>()
  #lock: Lock | null = null
  #control: ControlServer | null = null
  #predecessors: Predecessors | null = null
  #output: Output | null = null
  #describePid = 0
  /** Everything has been ready once: from then on failures are retried for ever. */
  #isUp = false
  #stopping: StopReason | null = null
  #isGraceful = false
  /** Another master leads: this one waits for its processes to drain. */
  #isReplaced = false
  /** Of slots that a reload has removed: no total ever falls. */
  #past = newCounters()
  #reload: Promise<unknown> = Promise.resolve()
  #nextReload: Promise<ReloadOutcome> | null = null
  readonly #waiting = new Set<() => void>()

  /** @param earlier the master that this one is to replace */
  constructor(options: StartOptions, isDaemon: boolean, earlier: EarlierMaster | null = null) {
    this.#options = options
    this.#isDaemon = isDaemon
    this.#earlier = earlier
    this.#tickets = new Tickets(earlier?.inheritance.ticketSecret)
  }

  /**
   * Runs until it is stopped. `onUp` is told when all workers serve. Rejects with a CommandError when the start failed;
   * by then nothing of it is left.
   */
  async run(onUp: (banner: string) => void): Promise<void> {
    process.title = `millrace: master process  start_file=${this.#options.modules[0]}`
    if (this.#options.umask !== undefined) process.umask(this.#options.umask)
    reapOrphans(() => [this.#describePid, ...this.#processes().map(({ pid }) => pid)])
    try {
      if (this.#earlier === null) await this.#takeRunDir()
      else await this.#joinRunDir(this.#earlier)
      await this.#prepare()
      await this.#untilUp()
      if (this.#stopping === null) {
        tellService('READY=1', `MAINPID=${process.pid}`)
        onUp(this.#banner())
      }
      await this.#until(() => this.#stopping !== null)
    } catch (error) {
      this.#stopping ??= asCommandError(error)
    }
    await this.#end()
    if (this.#stopping instanceof CommandError) throw this.#stopping
  }

  /** Ends the server within `Worker.stopTimeout`; gracefully within each group's `drainTimeoutMs`. */
  stop(isGraceful: boolean): void {
    if (this.#stopping === null) this.#isGraceful = isGraceful
    else this.#isGraceful &&= isGraceful // a plain stop shortens a graceful one
    if (!isGraceful) this.#earlier?.hurry()
    this.#giveUp('asked')
  }

  /** Kills what is still there of a server that was asked to stop. */
  kill(): void {
    for (const handle of this.#processes()) handle.kill()
  }

  /** One after the other: those who ask while one runs share the next one, which sees the newest code. Never rejects. */
  reload(): Promise<ReloadOutcome> {
    if (this.#nextReload !== null) return this.#nextReload
    const next = this.#reload.then(() => {
      this.#nextReload = null
      return this.#isReplaced ? this.#passReload() : this.#reloadNow()
    })
    this.#nextReload = next
    this.#reload = next
    return next
  }

  /** Makes another process the master, after the reloads that were asked for. Rejects only if it was to be another's. */
  upgrade(program: Program): Promise<UpgradeOutcome> {
    const next = this.#reload.then(async () => {
      if (this.#isReplaced) return this.#passUpgrade(program)
      await this.#untilUndisturbed()
      const outcome = await new Upgrade(this.#household(), this, this.#ended.signal).run(program)
      if (this.#isReplaced) this.#giveUp('replaced')
      return outcome
    })
    this.#nextReload = null // who asks for a reload from now on means the code of after that
    this.#reload = next.catch(() => undefined)
    return next
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
    const control = new ControlServer(this.#runDir, (request) => this.#answer(request))
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
    const { groups, tlsFiles, settings } = await this.#describe()
    this.#follow(settings)
    if (earlier === null) {
      if (this.#options.pidFile === undefined && settings.pidFile !== '') this.#writePid(settings.pidFile)
      await this.#predecessors?.leave(settings.stopTimeoutMs, this.#ended.signal)
    }
    const keys = keysOf(groups)
    const estates = earlier?.adopt(this.sockets, keys) ?? []
    for (const [place, declaration] of groups.entries()) {
      if (this.#stopping !== null) return
      const estate = estates[place]
      const sockets = await this.sockets.reserveAll(declaration, estate?.sockets)
      const key = keys[place] as Blueprint['key']
      const group = new GroupState({ key, declaration, sockets, tlsFiles: tlsFiles[place] ?? {} })
      for (let n = 0; n < declaration.count; n++) group.addSlot({ isHeld: false })
      if (earlier !== null && estate !== undefined) this.#inherit(group, estate, earlier)
      this.groups.push(group)
    }
    if (earlier === null) this.sockets.release()
    else this.sockets.keepAll() // until this master leads, nothing of the earlier one's is closed
  }

  async #describe(): Promise<Described> {
    const { modules, argv, user = '', group = '', engine } = this.#options
    const onSpawn = (pid: number) => {
      this.#describePid = pid
      this.#record()
    }
    try {
      return await describeModules({
        modules,
        argv,
        user,
        group,
        engine,
        signal: this.#ended.signal,
        output: this.#output,
        onSpawn,
      })
    } finally {
      this.#describePid = 0
    }
  }

  #follow(settings: Settings): void {
    this.#output?.configure(settings)
    this.#settings = settings
  }

  async #untilUp(): Promise<void> {
    this.reconcile()
    await this.#until(() => this.#stopping !== null || this.#isAllReady())
    if (this.#earlier !== null && this.#stopping === null) await this.#succeed(this.#earlier)
    this.#isUp = this.#stopping === null
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
    return this.#slots().every((slot) => slot.isHeld || slot.current?.state === 'ready')
  }

  // Taking over from another master

  /** Beside the master that leads: lock, pid file and control socket stay its own. */
  async #joinRunDir(earlier: EarlierMaster): Promise<void> {
    this.#runDir = earlier.inheritance.runDir
    this.#predecessors = new Predecessors(this.#runDir)
    this.#predecessors.isShared = true
    this.#output = new Output(this.#options, this.#isDaemon, this.#runDir, DEFAULT_SETTINGS)
    const control = new ControlServer(this.#runDir, (request) => this.#answer(request), true)
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
    if (this.#stopping !== null) return
    this.#takeCharge(earlier)
    earlier.leads()
    this.#isUp = true
    this.#reload = earlier.settled // no slot has more than two processes
    this.sockets.release()
    for (const group of this.groups) group.forgetInnerSockets()
    this.reconcile()
  }

  /** Whatever the earlier one has done of it already. Throws a CommandError when somebody else was quicker. */
  #takeCharge(earlier: EarlierMaster): void {
    if (this.#lock !== null) return
    const lock = Lock.take(this.#runDir)
    if (!(lock instanceof Lock)) throw alreadyRunning(lock.pid)
    this.#lock = lock
    this.#control?.take(earlier.isGone ? earlier.inheritance.pid : null)
    this.sockets.own()
    this.#writePid(this.#options.pidFile ?? join(this.#runDir, 'millrace.pid'))
    if (this.#options.pidFile === undefined && this.#settings.pidFile !== '') this.#writePid(this.#settings.pidFile)
  }

  /** The earlier master is done, or was killed: then its processes leave by themselves, or are made to. */
  async #outlive(earlier: EarlierMaster): Promise<void> {
    const { pid } = earlier.inheritance
    if (earlier.isGone && this.#lock !== null) tidy(() => this.#control?.take(pid)) // it may have left its socket's second name
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
    for (const group of this.groups) {
      for (const slot of group.slots) {
        if (this.#stopping !== null) for (const handle of slot.processes) handle.stop(this.#stopWindowMs(group))
        else if (slot.isVacant) this.#fill(group, slot)
      }
    }
    const isBeside = this.#earlier !== null && this.#lock === null // the one that leads chooses
    if (this.#stopping === null && !isBeside) for (const { share } of this.groups) share.settle()
    this.sockets.sweep(this.groups.flatMap(({ sockets }) => sockets))
    this.#record()
    for (const look of [...this.#waiting]) look()
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
    const incarnation = ++slot.incarnation
    const child = spawnChild(
      {
        role: 'worker',
        modules,
        argv,
        credentials: declaration.credentials,
        isLogPiped: output.isLogPiped,
        engine: this.#options.engine,
        group: key,
        place: {
          id: slot.id,
          incarnation,
          sockets: socket === null ? [] : [{ fd: socket.fd < 0 ? -1 : FIRST_SOCKET_FD, endpoint: socket.endpoint }],
          tls: { ticketKeys: this.#tickets.keysFor(key), files: tlsFiles },
        },
      },
      {
        stdio: output.stdio,
        fds: socket === null || socket.fd < 0 ? [] : [socket.fd],
        isDetached: true,
        execArgv: declaration.execArgv,
        inspectorPort,
      },
    )
    output.attach(child, `${declaration.name}:${slot.id}`)
    // Who stands at a breakpoint is not late.
    const startTimeoutMs = inspectorPort === null ? declaration.startTimeoutMs : Number.POSITIVE_INFINITY
    const handle = new WorkerHandle(child, { incarnation, startTimeoutMs, socket })
    slot.next = handle
    handle.onReport = () => shareOut(group)
    handle.onListen = (request, address) => void this.#giveSocket(group, handle, request, address)
    handle.onGone = (exit) => {
      if (inspectorPort !== null) this.#inspectorPorts.release(inspectorPort)
      this.#gone(group, slot, handle, exit)
    }
    this.#record()
    return handle
  }

  /** `listen()` of a process: every process of the group shares the socket, also those that come later. */
  async #giveSocket(group: GroupState, handle: WorkerHandle, request: number, address: string): Promise<void> {
    const { declaration } = group.blueprint
    try {
      if (this.#stopping !== null) throw new SystemError('ECANCELED', 'bind', address)
      const bind = () => this.sockets.share(address, declaration, group.sockets)
      if (address === '') return handle.giveDeclared(request)
      const socket = await group.innerSocket(address, bind)
      this.sockets.unkeep(socket)
      handle.giveSocket(request, socket)
    } catch (error) {
      const { syscall = '', address: at = address } = error as Partial<SystemError>
      handle.refuseSocket(request, { code: codeOf(error), syscall, address: at, message: messageOf(error) })
    }
  }

  activate(slot: Slot, handle: WorkerHandle): void {
    const before = [...slot.leaving].map(({ retired }) => retired)
    void Promise.all([slot.vacated, ...before]).then(() => {
      if (slot.current === handle) handle.activate()
    })
  }

  retryLater(slot: Slot): void {
    slot.wait(slot.backoff.next(0), () => this.reconcile(), now())
  }

  dismiss(group: GroupState, slot: Slot): void {
    slot.stopWaiting()
    this.#past = addCounters(this.#past, slot.past)
    group.slots = group.slots.filter((one) => one !== slot)
    this.reconcile()
  }

  #gone(group: GroupState, slot: Slot, handle: WorkerHandle, exit: WorkerExitInfo): void {
    const wasServing = handle === slot.current
    const isLeaving = slot.leaving.has(handle)
    slot.forget(handle, exit)
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
    log(`${name} pid ${handle.pid}: ${exit.word}, ${next}${exit.reason && `\n${exit.reason}`}`)
    slot.wait(waitMs, () => this.reconcile(), now())
  }

  /** Before everything has been ready once, a failure may be final. */
  #judgeFirstStart(slot: Slot, exit: WorkerExitInfo, message: string): void {
    if (this.#isUp || isVoluntary(exit)) return
    if (exit.exitCode === WorkerExit.Address) this.#giveUp(new CommandError(Exit.Address, message))
    else if (exit.hasTimedOut) this.#giveUp(new CommandError(Exit.Timeout, message))
    else if (++slot.bootFailures >= MAX_BOOT_FAILURES) this.#giveUp(new CommandError(Exit.Module, message))
  }

  // Reloading

  /** A reload during a start comes after it, and one during an upgrade after that. */
  async #untilUndisturbed(): Promise<void> {
    await this.#until(() => this.#isUp || this.#stopping !== null)
    if (this.#isUp) await this.#earlier?.settled
  }

  /** The master that has taken over is to do it. */
  async #passReload(): Promise<ReloadOutcome> {
    const answer = await this.#pass({ command: 'reload' }).catch((error) => ({ ok: false, message: messageOf(error) }))
    const reason = answer.ok ? 'the new master answered something else' : (answer as { message: string }).message
    return (answer as Done).reload ?? { exitCode: Exit.Failure, reason, durationMs: 0, slots: [] }
  }

  async #passUpgrade(program: Program): Promise<UpgradeOutcome> {
    const answer = await this.#pass({ command: 'upgrade', ...program })
    if (answer.ok && answer.upgrade !== undefined) return answer.upgrade
    throw new CommandError(Exit.Failure, answer.ok ? 'the new master answered something else' : answer.message)
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
      stopTimeoutMs: this.#settings.stopTimeoutMs,
      totals: async () => ({ ...(await this.#totals()), connections: 0 }),
      hurry: () => this.stop(false),
      onReplaced: () => {
        this.#isReplaced = true
      },
    }
  }

  async #reloadNow(): Promise<ReloadOutcome> {
    await this.#untilUndisturbed()
    const started = now()
    const reload = new Reload(this)
    let failure: CommandError | null = null
    try {
      if (this.#stopping !== null) throw new CommandError(Exit.Failure, 'the server is being stopped')
      log('reload: checking the new code')
      tellService('RELOADING=1', monotonicUsec())
      const described = await this.#describe()
      this.#follow(described.settings)
      this.#output?.reopen()
      await reload.run(described)
    } catch (error) {
      failure =
        this.#stopping === null ? asCommandError(error) : new CommandError(Exit.Failure, 'the server was stopped')
    }
    if (this.#stopping === null) tellService('READY=1')
    const outcome = {
      exitCode: failure?.exitCode ?? Exit.Ok,
      reason: failure?.message ?? '',
      durationMs: Math.round(now() - started),
      slots: reload.receipts,
    }
    log(reloadLine(outcome))
    return outcome
  }

  // Stopping

  #giveUp(why: StopReason): void {
    if (this.#stopping === null && !this.#isReplaced) tellService('STOPPING=1')
    this.#stopping ??= why
    this.#ended.abort()
    this.sockets.closeAll() // who connects from now on is refused at once, instead of waiting for nobody
    this.reconcile()
  }

  #stopWindowMs({ blueprint }: GroupState): number {
    return this.#isGraceful ? blueprint.declaration.drainTimeoutMs : this.#settings.stopTimeoutMs
  }

  async #end(): Promise<void> {
    for (const slot of this.#slots()) slot.stopWaiting()
    this.reconcile()
    await this.#until(() => this.#processes().length === 0)
    await this.#reload
    if (this.#isReplaced) await this.#control?.settled()
    if (this.#isUp && this.#earlier !== null) await within(LEAVE_MS, this.#earlier.gone) // it may pass our answer on
    this.sockets.closeAll()
    for (const path of this.#pidFiles) tidy(() => removePidFile(path))
    if (this.#lock?.isOurs()) tidy(() => this.#predecessors?.forget())
    tidy(() => this.#control?.close())
    tidy(() => this.#lock?.release())
  }

  // Answering

  async #answer(request: Request): Promise<Answer> {
    const { command } = request
    if (this.#isReplaced) return this.#pass(request)
    if (command === 'upgrade') return { ...this.#done(), upgrade: await this.upgrade(request) }
    if (command === 'status') return { ...this.#done(), status: await this.#status() }
    if (command === 'connections')
      return { ...this.#done(), page: await connectionPage(this.groups, request.cursor ?? { pid: 0, after: 0 }) }
    if (command === 'reload') return { ...this.#done(), reload: await this.reload() }
    if (command === 'stop')
      this.stop(request.isGraceful) // who asked waits for this process to be gone
    else if (command !== 'ping') return { ok: false, message: `unknown command ${JSON.stringify(request)}` }
    return this.#done()
  }

  #done() {
    const stopTimeoutMs = Math.max(
      this.#settings.stopTimeoutMs,
      ...this.groups.map((group) => this.#stopWindowMs(group)),
    )
    return { ok: true, ...ownIdentity(), stopTimeoutMs, isDaemon: this.#isDaemon } as const
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
      state: this.#stopping !== null ? 'stopping' : this.#isUp ? 'running' : 'starting',
      runDir: this.#runDir,
      engine: engine.name,
      engineWhy: engine.why,
      addon: addon().why,
      loadAverage: loadavg(),
      groups,
      totals: await this.#totals(groups),
    }
  }

  async #totals(groups?: readonly GroupStatus[]): Promise<Counters> {
    const own = totalsOf(groups ?? (await Promise.all(this.groups.map((group) => groupStatus(group)))))
    addCounters(own, this.#past)
    return this.#earlier === null ? own : addCounters(own, this.#earlier.totals)
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

  /** Who would be left over if this process were killed now. */
  #record(): void {
    this.#predecessors?.record([this.#describePid, ...this.#processes().map(({ pid }) => pid)])
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

/** More than this over the average is more than chance; less is not worth a rest. */
const SHARE_FACTOR = 9 / 8
const SHARE_SLACK = 16
/** Who has not reported for so long does not take its part, and is no measure. */
const SILENT_MS = 1500

/** Tells each worker of a group how many connections it should have at most, so that they do not pile up on one. */
function shareOut({ slots, blueprint }: GroupState): void {
  if (blueprint.sockets.length > 1) return // the kernel spreads: who rested would give its queue to siblings
  const serving = slots.flatMap(({ current }) => {
    return current !== null && current.state === 'ready' && current.silentMs < SILENT_MS ? [current] : []
  })
  const all = serving.reduce((sum, { report }) => sum + report.counters.connections, 0)
  const isAlone = serving.length < 2
  const share = isAlone ? Number.MAX_SAFE_INTEGER : Math.ceil((all / serving.length) * SHARE_FACTOR) + SHARE_SLACK
  for (const handle of serving) handle.useShare(share)
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

function reloadLine({ reason, durationMs, slots }: ReloadOutcome): string {
  const fresh = slots.filter(({ result }) => result === 'replaced' || result === 'added').length
  if (reason === '') return `reload: done in ${(durationMs / 1000).toFixed(1)} s, new processes: ${fresh}`
  return `reload: given up, processes that already run the new code: ${fresh}: ${reason}`
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

function asCommandError(error: unknown): CommandError {
  if (error instanceof CommandError) return error
  if (error instanceof SystemError) return new CommandError(Exit.Address, error.message, { cause: error })
  const isUsage = error instanceof UsageError
  return new CommandError(isUsage ? Exit.Module : Exit.Failure, messageOf(error), { cause: error })
}
