// The master: reconciles the wanted processes with the actual ones. First start, crash and stop are one path, safe to
// run at any time; a reload handles one slot after another (reload.ts). Signal handlers and messages only record what
// they ask for. No user code ever runs here.

import { addCounters, type Counters, newCounters } from '../../counters.ts'
import { log } from '../../log.ts'
import type { Answer, Leave, Request } from '../control/requests.ts'
import { asCommandError, CommandError, WorkerExit } from '../exit-codes.ts'
import { DEFAULT_SETTINGS, type Settings } from '../group.ts'
import { HEARTBEAT_MS, type StartOptions } from '../messages.ts'
import { type Described, outlinesOf } from '../operations/describe.ts'
import type { Comparison } from '../operations/diff.ts'
import { Evaluation } from '../operations/evaluation.ts'
import { type Operated, Operator } from '../operations/operator.ts'
import type { ReloadOutcome } from '../operations/receipts.ts'
import { type RecycleSupervisor, Recycling } from '../operations/recycle.ts'
import type { Program } from '../spawn.ts'
import { Events } from '../status/events.ts'
import { ReloadTally } from '../status/metrics.ts'
import type { Seen } from '../status/readiness.ts'
import { type GroupStatus, groupStatus, pollAll, type Status, totalsOf } from '../status/status.ts'
import { renderBanner } from '../terminal/banner.ts'
import type { EarlierMaster, Estate } from '../upgrade/earlier-master.ts'
import { Reign } from '../upgrade/reign.ts'
import { type Heir, TakeOver } from '../upgrade/take-over.ts'
import { type Replaceable, Upgrade, type UpgradeOutcome } from '../upgrade/upgrade.ts'
import { takeActivated } from './activation.ts'
import { Answers, type Commanded } from './answers.ts'
import { MasterCallbacks } from './callbacks.ts'
import { CrashPolicy, type Restarter } from './crash-policy.ts'
import { type Blueprint, GroupState, type Outline } from './group-state.ts'
import { Household, type Householder } from './household.ts'
import { Leaders } from './leaders.ts'
import { OomKills } from './oom-kills.ts'
import { extendWhile, extension, feedWatchdog, reapOrphans, tellService, tellStatus } from './service.ts'
import { shareOut } from './share-out.ts'
import type { Slot } from './slot.ts'
import { Sockets } from './sockets.ts'
import { StuckWorkers } from './stuck.ts'
import { ROTATE_TICKETS_MS } from './tickets.ts'
import { tidy } from './tidy.ts'
import { isVoluntary, type WorkerExitInfo, type WorkerHandle } from './worker-handle.ts'
import { type Parent, WorkerSpawner } from './worker-spawner.ts'

/** How long a process with nothing left to do may take to end. */
const LEAVE_MS = 3000

/** Time after the stop window to kill and reap workers and to close files. */
const STOP_SLACK_MS = 5000
/** A `startTimeoutMs` from here on means "forever". */
const LONGEST_START_MS = 1_000_000_000

/** `asked`, or the failure that ends the server. `replaced`: this master ends, and another one has the server. */
type StopReason = CommandError | 'asked' | 'replaced'

export class Master
  implements Householder, Operated, RecycleSupervisor, Replaceable, Heir, Parent, Restarter, Commanded
{
  readonly groups: GroupState[] = []
  readonly sockets = new Sockets()
  readonly events = new Events()
  readonly operator = new Operator(this)
  readonly #reloads: ReloadTally
  readonly #options: StartOptions
  readonly reign: Reign
  readonly #household: Household
  /** Once aborted, no other master takes over. */
  readonly #stopAnnounced = new AbortController()
  readonly #ended = new AbortController()
  readonly #earlier: EarlierMaster | null
  readonly #takeOver: TakeOver | null
  readonly #oomKills = new OomKills()
  readonly #recycling = new Recycling(this)
  readonly #stuck = new StuckWorkers(this.groups)
  readonly #crashes = new CrashPolicy(this)
  /** Never two leaders: a name that a process of the earlier master may lead has none here. */
  readonly leaders = new Leaders((name) => {
    const isOurs = this.#earlier === null || this.#earlier.isFree(name)
    return isOurs && this.#stopping === null && this.reign.leads
  })
  readonly #spawner: WorkerSpawner
  settings: Settings = DEFAULT_SETTINGS
  /** Settings of the code that a reload in progress brings. */
  #coming: Settings | null = null
  readonly #callbacks: MasterCallbacks
  readonly #evaluation: Evaluation
  readonly #answers: Answers
  /** The stop delay of a graceful stop, so that load balancers notice first. */
  #delay: NodeJS.Timeout | null = null
  #unwatch: (() => void) | null = null
  /** The last log line about unused sockets. */
  #unused = ''
  /** Everything has been ready once: from then on failures are retried forever. */
  isUp = false
  #stopping: StopReason | null = null
  /** The windows of all stop requests: the shortest applies. */
  readonly #leaves: Leave[] = []
  /** Counters of slots that a reload has removed, so that no total ever falls. */
  readonly #past = newCounters()
  readonly #waiting = new Set<() => void>()

  /** @param earlier the master that this one replaces */
  constructor(options: StartOptions, isDaemon: boolean, earlier: EarlierMaster | null = null) {
    this.#options = options
    this.#earlier = earlier
    this.#reloads = new ReloadTally(this.events, earlier?.inheritance.reloads)
    this.reign = new Reign(earlier !== null)
    this.#household = new Household(this, options, isDaemon, earlier)
    this.#evaluation = new Evaluation(this.#household, this.#ended.signal, () => this.record())
    this.#answers = new Answers(this, this.#household)
    this.#spawner = new WorkerSpawner(this, this.#household, this.leaders)
    this.#takeOver = earlier === null ? null : new TakeOver(this, this.#household, earlier)
    const { modules, argv, user = '', group = '', engine } = options
    const { programs } = this.#household
    this.#callbacks = new MasterCallbacks(
      { argv, user, group, engine },
      () => programs.ofCallbacks(modules, this.#evaluation.used),
      () => this.#household.output,
      () => this.record(),
    )
  }

  /**
   * Runs until it is stopped. Calls `onUp` when all workers serve, with what makes the banner. Rejects with a
   * CommandError if the start failed; by then nothing of it is left.
   */
  async run(onUp: (banner: () => string) => void): Promise<void> {
    process.title = `millrace: master process  start_file=${this.#options.modules[0]}`
    if (this.#options.umask !== undefined) process.umask(this.#options.umask)
    reapOrphans(() => this.#pids())
    const stopExtending = extendWhile(() => this.reign.leads && this.startsInTime)
    if (this.#earlier === null) feedWatchdog()
    try {
      if (this.#takeOver === null) {
        await this.#household.take()
        this.sockets.adopt(takeActivated())
      } else await this.#takeOver.join()
      this.events.emit({ type: 'server', state: 'starting', reason: '' })
      await this.#prepare()
      if (this.#options.isWatching) await this.#watch()
      await this.#untilUp()
      stopExtending()
      if (this.#stopping === null) {
        tellService('READY=1', `MAINPID=${process.pid}`)
        tellStatus(this.seen)
        this.events.emit({ type: 'server', state: 'running', reason: '' })
        onUp(() => this.#banner())
        this.#wake() // requests made during the start may be the only ones left to come
      }
      await this.until(() => this.#stopping !== null)
    } catch (error) {
      this.#stopping ??= asCommandError(error)
      // Report the failure at once: until the earlier master knows, no master leads, so it need not wait for our
      // processes.
      if (this.reign.isOpen && this.#stopping instanceof CommandError) this.#earlier?.fail(this.#stopping)
    }
    stopExtending()
    this.#unwatch?.()
    await this.#end()
    if (this.#stopping instanceof CommandError) throw this.#stopping
  }

  /**
   * Ends the server within `Worker.stopTimeout`; if graceful, within each group's `drainTimeoutMs`, after the stop
   * delay. A further call can only shorten the time.
   */
  stop(isGraceful: boolean, timeoutMs: number | null = null): void {
    this.#leaves.push({ isGraceful, timeoutMs })
    if (!isGraceful || timeoutMs !== null) this.#earlier?.hurry(timeoutMs)
    const isPatient = isGraceful && timeoutMs === null
    if (isPatient && this.#delay !== null) return
    const isServing = this.isUp && this.#stopping === null && !this.isReplaced
    const delayMs = isPatient && isServing ? this.#stopDelayMs : 0
    if (delayMs === 0) return this.giveUp('asked')
    this.#announceStop('', delayMs)
    log(`not ready any more, drains in ${delayMs / 1000} s`)
    this.#delay = setTimeout(() => this.giveUp('asked'), delayMs)
  }

  /** Kills what is left of a server that was asked to stop. */
  kill(): void {
    this.giveUp('asked') // ends a stop delay too: during one, killed processes would be replaced
    for (const handle of this.#processes()) handle.kill()
    this.#callbacks.kill()
  }

  reload(): Promise<ReloadOutcome> {
    return this.#answers.orPassed(this.operator.reload([]), { command: 'reload' })
  }

  get isStopping(): boolean {
    return this.state === 'stopping'
  }

  get isEnding(): boolean {
    return this.#stopping !== null
  }

  get stopTimeoutMs(): number {
    return this.settings.stopTimeoutMs
  }

  get isReplaced(): boolean {
    return this.reign.isReplaced
  }

  async decided(): Promise<boolean> {
    await this.until(() => !this.reign.isOpen)
    return this.reign.leads
  }

  /** Requests made during a start wait for its end, and during an upgrade until the old processes are gone. */
  async untilUp(): Promise<void> {
    await this.until(() => this.isUp || this.#stopping !== null)
    if (this.isUp) await this.#earlier?.settled
  }

  async describeAnew(check: (described: Described) => void): Promise<Described> {
    const described = await this.#evaluation.forUse()
    check(described)
    const { settings } = described
    this.#household.checkFiles(settings) // opened when all is done
    this.#household.output?.expect(settings)
    this.#coming = settings
    this.leaders.generation++
    this.#household.output?.reopen()
    await this.#callbacks.call({ name: 'onMasterReload' }, settings.callbacks)
    // The old address stays until all is done.
    await this.#household.health.listenBeside(this.#options.health ?? settings.health)
    return described
  }

  settleNewCode(isDone: boolean): void {
    const settings = this.#coming
    this.#coming = null
    this.#household.health.settle(isDone)
    if (!isDone || settings === null) return this.#household.output?.giveUp()
    tidy(() => this.#household.output?.configure(settings)) // the old files stay if it fails after all
    tidy(() => this.#household.declare(settings))
    this.#follow(settings)
  }

  /** What its own processes have counted, and those before them. Connections are 0. */
  async totals(): Promise<Counters> {
    const silent = await pollAll(this.groups)
    return { ...this.totalsOf(this.groups.map((group) => groupStatus(group, silent))), connections: 0 }
  }

  onLead(): void {
    this.isUp = true
  }

  onReplaced(): void {
    this.reign.move('replaced')
  }

  hurry(timeoutMs: number | null): void {
    this.stop(false, timeoutMs)
  }

  exclusively<T>(work: () => Promise<T>): Promise<T> {
    return this.operator.exclusively(work)
  }

  // Starting

  async #prepare(): Promise<void> {
    const earlier = this.#earlier
    const described = await this.#describeForUse()
    const { settings } = described
    if (earlier === null) {
      await this.#household.health.listen(this.healthAddress)
      this.#household.declare(settings)
      await this.#household.leftovers?.leave(settings.stopTimeoutMs, this.#ended.signal)
    } else if (this.reign.leads) this.#household.declare(settings) // the earlier one was killed meanwhile
    const outlines = outlinesOf(described)
    const keys = outlines.map(({ key }) => key)
    const estates = earlier?.adopt(this.sockets, keys) ?? []
    for (const [place, outline] of outlines.entries()) {
      if (this.#stopping !== null) return
      this.groups.push(await this.#form(outline, estates[place]))
    }
    // Until this master leads, no socket of the earlier one is closed.
    if (earlier !== null) return this.sockets.keepAll()
    this.sockets.release()
    this.#tellUnused()
  }

  /** Makes a group, with what an earlier master left for it. */
  async #form(outline: Outline, estate: Estate | undefined): Promise<GroupState> {
    const { declaration } = outline
    const { isStopped = false, scaledTo = null, declaredCount = declaration.count } = estate?.group ?? {}
    const count = scaledTo !== null && declaredCount === declaration.count ? scaledTo : declaration.count
    const wanted = { ...declaration, count }
    const sockets = isStopped ? [] : await this.sockets.reserveAll(wanted, estate?.sockets)
    const group = new GroupState({ ...outline, declaration: wanted, sockets })
    group.declaredCount = declaration.count
    group.scaledTo = count === declaration.count ? null : count
    group.isStopped = isStopped
    for (let n = 0; n < count; n++) group.addSlot({ isHeld: false })
    if (estate !== undefined) this.#takeOver?.inherit(group, estate)
    return group
  }

  /** Logs sockets of a service manager that no Worker has declared. */
  #tellUnused(): void {
    const unused = this.sockets.unused(this.groups.flatMap(({ sockets }) => sockets)).join(', ')
    if (unused === this.#unused) return
    this.#unused = unused
    if (unused !== '') log(`no Worker has the address of these sockets of the service manager: ${unused}`)
  }

  /** Whether no group may take forever to start, so that the service manager can safely be asked to wait. */
  get startsInTime(): boolean {
    return this.groups.every(({ blueprint }) => blueprint.declaration.startTimeoutMs < LONGEST_START_MS)
  }

  async #describeForUse(): Promise<Described> {
    const described = await this.#evaluation.forUse()
    this.#household.output?.configure(described.settings)
    this.#follow(described.settings)
    return described
  }

  /** Applies the settings of the code that runs now. */
  #follow(settings: Settings): void {
    this.#evaluation.taken()
    this.settings = settings
    this.#callbacks.declare(settings.callbacks)
  }

  async #watch(): Promise<void> {
    const { watchModules } = await import('../operations/watch.ts')
    const reload = async () => (await this.reload()).reason
    this.#unwatch = watchModules({ modules: this.#options.modules, ignored: [this.#household.runDir], reload })
  }

  async #untilUp(): Promise<void> {
    this.reconcile()
    await this.until(() => this.#stopping !== null || this.isAllReady)
    if (this.#takeOver !== null && this.#stopping === null) await this.#takeOver.succeed()
    this.isUp = this.#stopping === null
    this.#stuck.start()
    setInterval(() => this.#rotateTickets(), ROTATE_TICKETS_MS).unref()
    setInterval(() => this.#sharePorts(), HEARTBEAT_MS).unref()
  }

  #sharePorts(): void {
    for (const group of this.groups) this.onFull(group)
  }

  #rotateTickets(): void {
    this.#household.tickets.rotate()
    for (const { blueprint, slots } of this.groups) {
      const keys = this.#household.tickets.keysFor(blueprint.key)
      for (const slot of slots) for (const handle of slot.processes) handle.useTickets(keys)
    }
  }

  get isAllReady(): boolean {
    const wanted = this.groups.filter(({ isStopped }) => !isStopped).flatMap(({ slots }) => slots)
    return wanted.every((slot) => slot.isHeld || slot.current?.state === 'ready')
  }

  // Running

  /**
   * Makes the actual processes the wanted ones: a process in every slot that is not waiting for its next try, or none
   * when stopping.
   */
  reconcile(): void {
    this.#replaceLeaving() // first, so that all hear at once that others follow
    this.#tellPeers() // before any process is told to leave, so that all know that none returns
    for (const group of this.groups) for (const slot of group.slots) this.#settle(group, slot)
    this.#sharePorts()
    this.leaders.settle()
    this.#tellPeers()
    this.sockets.sweep(this.groups.flatMap(({ sockets }) => sockets))
    this.record()
    if (this.reign.leads) tellStatus(this.seen)
    if (this.isUp) this.#tellUnused()
    this.onIdle()
    this.#wake()
  }

  #settle(group: GroupState, slot: Slot): void {
    if (this.#stopping !== null) for (const handle of slot.processes) handle.stop(this.#stopWindowMs(group))
    else if (slot.isVacant && !group.isStopped) this.#fill(group, slot)
  }

  #replaceLeaving(): void {
    if (this.#stopping !== null) return
    for (const group of this.groups) {
      if (group.isStopped) continue
      for (const slot of group.slots) this.#crashes.replaceLeaving(group, slot)
    }
  }

  #wake(): void {
    for (const look of [...this.#waiting]) look()
  }

  #tellPeers(): void {
    this.#household.peers.settle(this.groups, this.#stopping !== null)
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
    const handle = this.#spawner.spawn(group, slot, blueprint)
    slot.next = handle
    this.record()
    return handle
  }

  onReport(group: GroupState, slot: Slot, handle: WorkerHandle): void {
    shareOut(group)
    this.#recycling.look(group, slot, handle)
  }

  /** A process of the group is full, or has room again. */
  onFull({ share }: GroupState): void {
    if (this.#stopping === null && this.reign.leads) share.settle()
  }

  /**
   * Who has nothing left to do stays for the others until none has. Looked at a turn later: what another process has
   * said before may still be unread.
   */
  onIdle(): void {
    if (this.#stopping !== null) setImmediate(() => this.#releaseIdle())
  }

  #releaseIdle(): void {
    const processes = this.#processes()
    const isEarlierAtWork = this.reign.leads && this.#earlier?.isSettled === false
    const isOver = processes.every(({ isIdle }) => isIdle) || processes.every(({ isResting }) => isResting)
    if (isOver && !isEarlierAtWork) for (const handle of processes) handle.release()
  }

  onLeaving(): void {
    this.reconcile()
  }

  activate(slot: Slot, handle: WorkerHandle): void {
    this.#tellPeers() // it receives messages from now on
    const before = [...slot.leaving].map(({ retired }) => retired)
    void Promise.all([slot.vacated, ...before]).then(() => {
      if (slot.current === handle && handle.isAccepting) handle.activate()
    })
  }

  retryLater(group: GroupState, slot: Slot): void {
    this.#crashes.retryLater(group, slot)
  }

  dismiss(group: GroupState, slot: Slot): void {
    slot.stopWaiting()
    addCounters(this.#past, slot.past)
    group.slots = group.slots.filter((one) => one !== slot)
    this.reconcile()
  }

  onGone(group: GroupState, slot: Slot, handle: WorkerHandle, told: WorkerExitInfo): void {
    const isOutOfMemory = told.word === 'signal SIGKILL' && this.#oomKills.hasRisen()
    const exit = isOutOfMemory ? { ...told, word: `${told.word} (out of memory)` } : told
    const wasServing = handle === slot.current
    const isLeaving = slot.leaving.has(handle)
    slot.forget(handle, exit)
    this.#tellExit(group, slot, handle, exit.status)
    this.events.emit({
      type: 'exit',
      ...{ group: group.name, worker: `${group.name}:${slot.id}`, pid: handle.pid },
      ...{ word: exit.word, reason: exit.reason, aliveMs: Math.round(exit.aliveMs), wasKilled: exit.wasKilled },
      isExpected: (isLeaving && !handle.isFailing) || this.#stopping !== null,
    })
    const isAsked = isLeaving || this.#stopping !== null || isVoluntary(exit)
    if (exit.exitCode !== WorkerExit.Ended || exit.wasKilled || !isAsked) count(group.exits, exit.word)
    if (this.#stopping === null && wasServing) this.#crashes.replaceLost(group, slot, handle, exit)
    else if (isLeaving && exit.wasKilled)
      log(`worker ${group.name}:${slot.id} pid ${handle.pid}: killed, its time to drain was up${unfinished(handle)}`)
    this.reconcile()
  }

  #tellExit({ blueprint }: GroupState, { id }: Slot, { incarnation, pid }: WorkerHandle, status: number): void {
    const told = { group: blueprint.key, id, incarnation, status, pid }
    if (pid !== 0) void this.#callbacks.call({ name: 'onWorkerExit', ...told }) // 0: it could not even be started
  }

  // Being replaced

  upgrade(program: Program): Promise<UpgradeOutcome | null> {
    return this.operator.exclusively(async () => {
      if (this.isReplaced) return null // an earlier request led to that
      const outcome = await new Upgrade(this.#household, this, this.#stopAnnounced.signal).run(program)
      if (this.isReplaced) this.giveUp('replaced')
      return outcome
    })
  }

  // Stopping

  giveUp(why: StopReason): void {
    if (this.state !== 'stopping' && !this.isReplaced)
      this.#announceStop(why instanceof CommandError ? why.message : '', 0)
    if (this.#delay !== null) clearTimeout(this.#delay)
    this.#delay = null
    this.#stopping ??= why
    this.#ended.abort()
    this.sockets.closeAll() // new connections are refused at once, instead of waiting in vain
    this.reconcile()
  }

  /** A drain may take longer than the service manager would wait (TimeoutStopSec=, 90 s). */
  #announceStop(reason: string, delayMs: number): void {
    const windowMs = this.#longestWindowMs
    const endMs = windowMs + this.#callbacks.stopMs + STOP_SLACK_MS + this.#earlierMs(windowMs)
    if (this.reign.leads) tellService('STOPPING=1', extension(delayMs + endMs))
    this.#stopAnnounced.abort()
    this.events.emit({ type: 'server', state: 'stopping', reason })
  }

  get #longestWindowMs(): number {
    return Math.max(0, ...this.groups.map((group) => this.#stopWindowMs(group)))
  }

  /** How long the earlier master's processes may take. They were told to leave before ours. */
  #earlierMs(windowMs: number): number {
    return this.#earlier?.isSettled === false ? windowMs + STOP_SLACK_MS : 0
  }

  #stopWindowMs({ blueprint }: GroupState): number {
    const { stopTimeoutMs } = this.settings
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
    await this.until(() => this.#processes().length === 0)
    await this.operator.idle()
    const { leads } = this.reign
    // The earlier master's processes may still drain: they belong to this server and use its keeper's data.
    if (leads && this.#earlier !== null) await within(this.#earlierMs(this.#longestWindowMs), this.#earlier.settled)
    if (this.isUp && leads) await this.#callbacks.call({ name: 'onMasterStop' })
    await this.#callbacks.settled()
    if (this.isReplaced) await this.#household.control?.settled()
    else await this.#household.keeper?.end(leads)
    // The earlier master answers requests that reached us.
    if (this.reign.isLent) await within(LEAVE_MS, this.#household.control?.settled() ?? Promise.resolve())
    if (this.isUp && this.#earlier !== null) await within(LEAVE_MS, this.#earlier.gone) // it may pass our answer on
    this.sockets.closeAll()
    this.#household.close(this.reign.isLent)
  }

  // Answering

  answer(request: Request): Promise<Answer> {
    return this.#answers.to(request)
  }

  isOf(module: string): boolean {
    return this.#evaluation.isOf(module)
  }

  compare(): Promise<Comparison> {
    return this.#evaluation.compare(this.groups, this.settings)
  }

  totalsOf(groups: readonly GroupStatus[]): Counters {
    const own = addCounters(totalsOf(groups), this.#past)
    return this.#earlier === null ? own : addCounters(own, this.#earlier.legacy.rest)
  }

  get stopWindowMs(): number {
    const windows = this.groups.map((group) => this.#stopWindowMs(group))
    const delayMs = this.#delay === null ? 0 : this.#stopDelayMs
    const windowMs = Math.max(this.settings.stopTimeoutMs, ...windows)
    return windowMs + this.#callbacks.stopMs + delayMs + this.#earlierMs(windowMs)
  }

  get seen(): Seen {
    return { state: this.state, groups: this.groups, reloads: this.#reloads }
  }

  get state(): Status['state'] {
    if (this.#stopping !== null || this.#delay !== null) return 'stopping'
    return this.isUp ? 'running' : 'starting'
  }

  get #stopDelayMs(): number {
    return this.#options.stopDelayMs ?? this.settings.stopDelayMs
  }

  get healthAddress(): string {
    return this.#options.health ?? this.settings.health
  }

  #banner(): string {
    const groups = this.groups.map(({ blueprint: { declaration, sockets } }) => ({
      declaration,
      endpoint: sockets[0]?.endpoint ?? '',
    }))
    const { isQuiet, isDirect, modules } = this.#options
    const runDir = this.#options.runDir === process.env.MILLRACE_RUN_DIR ? undefined : this.#options.runDir
    return renderBanner({ groups, isDaemon: this.#household.isDaemon, isQuiet, isDirect, modules, runDir })
  }

  #slots(): Slot[] {
    return this.groups.flatMap((group) => group.slots)
  }

  #processes(): WorkerHandle[] {
    return this.#slots().flatMap((slot) => slot.processes)
  }

  #pids(): number[] {
    const others = [...this.#evaluation.pids, this.#callbacks.pid, this.#household.keeper?.pid ?? 0]
    return [...others, ...this.#processes().map(({ pid }) => pid)]
  }

  lookAfterSockets(): void {
    this.sockets.tellMissing()
  }

  /** Records which processes would be left over if this one were killed now. */
  record(): void {
    this.#household.leftovers?.record(this.#pids(), (this.#coming ?? this.settings).stopTimeoutMs)
  }

  /** Resolves when `isTrue` returns true; checked after every change. */
  until(isTrue: () => boolean): Promise<void> {
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
