// The master: reconciles the processes that are wanted with those that are. First start, crash and stop are one path;
// it is safe to run at any time. Signal handlers and messages only take note. No user code ever runs here.

import { loadavg } from 'node:os'
import { join } from 'node:path'
import { addCounters, type Counters, newCounters } from '../counters.ts'
import { messageOf, SystemError, UsageError } from '../errors.ts'
import { guardOutput, log } from '../log.ts'
import { now } from '../loop/clock.ts'
import { parseAddress } from '../net/address.ts'
import { type BoundSocket, bindSocket } from '../net/bound-socket.ts'
import { version } from '../version.ts'
import { Backoff } from './backoff.ts'
import { renderBanner } from './banner.ts'
import { type Answer, ask, ControlServer, type Request } from './control.ts'
import { describeModules } from './describe.ts'
import { CommandError, Exit, WorkerExit } from './exit-codes.ts'
import type { Declaration } from './group.ts'
import { ownIdentity } from './identity.ts'
import { Lock } from './lock.ts'
import { type GroupKey, keysOf, type StartOptions } from './messages.ts'
import { removePidFile, writePidFile } from './pid-file.ts'
import { Predecessors } from './predecessors.ts'
import { makeRunDir, type Places, placesOfOurs, runDirCandidates } from './run-directory.ts'
import { FIRST_SOCKET_FD } from './spawn.ts'
import { type GroupStatus, type Status, totalsOf, type WorkerStatus } from './status.ts'
import { type WorkerExitInfo, WorkerHandle } from './worker-handle.ts'

/** So many boot failures of one slot before anything serves: the program is broken, not unlucky. */
const MAX_BOOT_FAILURES = 5
/** One that ends by itself sooner would only spin. */
const SHORTEST_SERVICE_MS = 1000
/** What another master may take to say that it is there. */
const PING_MS = 1000
/** What a worker may take to answer `status`. */
const POLL_MS = 120

/** One of a group's `count` places. Its processes come and go; its id, back-off and counters stay. */
interface Slot {
  readonly id: number
  readonly backoff: Backoff
  handle: WorkerHandle | null
  incarnation: number
  /** Of the processes before this one. */
  past: Counters
  bootFailures: number
  lastExit: string
  retry: NodeJS.Timeout | null
}

interface GroupState {
  readonly key: GroupKey
  readonly declaration: Declaration
  readonly socket: BoundSocket | null
  readonly slots: Slot[]
}

export class Master {
  readonly #options: StartOptions
  readonly #isDaemon: boolean
  readonly #startedAt = new Date()
  readonly #describing = new AbortController()
  #runDir = ''
  #pidFile = ''
  #lock: Lock | null = null
  #control: ControlServer | null = null
  #predecessors: Predecessors | null = null
  #groups: GroupState[] = []
  #stopTimeoutMs = 2000
  /** Everything has been ready once: from then on failures are retried for ever. */
  #isUp = false
  #stopping: CommandError | 'asked' | null = null
  readonly #waiting = new Set<() => void>()

  constructor(options: StartOptions, isDaemon: boolean) {
    this.#options = options
    this.#isDaemon = isDaemon
  }

  /**
   * Runs until it is stopped. `onUp` is told when all workers serve. Rejects with a CommandError when the start failed;
   * by then nothing of it is left.
   */
  async run(onUp: (banner: string) => void): Promise<void> {
    guardOutput()
    process.title = `millrace: master process  start_file=${this.#options.modules[0]}`
    try {
      await this.#takeRunDir()
      await this.#prepare()
      await this.#untilUp()
      if (this.#stopping === null) onUp(this.#banner())
      await this.#until(() => this.#stopping !== null)
    } catch (error) {
      this.#stopping ??= asCommandError(error)
    }
    await this.#end()
    if (this.#stopping instanceof CommandError) throw this.#stopping
  }

  /** Ends the server. The second call kills what the first one asked to end. */
  stop(mayKill: boolean): void {
    if (this.#stopping === null) this.#giveUp('asked')
    else if (mayKill) for (const slot of this.#slots()) slot.handle?.kill()
  }

  // Starting

  async #takeRunDir(): Promise<void> {
    const { modules, runDir, pidFile } = this.#options
    const places = runDirCandidates(modules[0] ?? '', runDir)
    await refuseSecond(places)
    this.#runDir = makeRunDir(places)
    const lock = Lock.acquire(this.#runDir)
    if (!(lock instanceof Lock)) throw alreadyRunning(lock.pid)
    this.#lock = lock
    this.#predecessors = new Predecessors(this.#runDir)
    const control = new ControlServer(this.#runDir, (request) => this.#answer(request))
    await control.listen()
    this.#control = control
    this.#pidFile = pidFile ?? join(this.#runDir, 'millrace.pid')
    writePidFile(this.#pidFile)
  }

  async #prepare(): Promise<void> {
    const { modules, argv } = this.#options
    const record = (pid: number) => this.#predecessors?.record([pid])
    const { groups, settings } = await describeModules(modules, argv, this.#describing.signal, record)
    this.#stopTimeoutMs = settings.stopTimeoutMs
    await this.#predecessors?.leave(settings.stopTimeoutMs, this.#describing.signal)
    const keys = keysOf(groups)
    for (const [place, declaration] of groups.entries()) {
      if (this.#stopping !== null) return
      const socket = declaration.listen === '' ? null : await bindSocket(parseAddress(declaration.listen))
      const slots = Array.from({ length: declaration.count }, (_, id) => newSlot(id))
      this.#groups.push({ key: keys[place] as GroupKey, declaration, socket, slots })
    }
  }

  async #untilUp(): Promise<void> {
    this.#reconcile()
    await this.#until(() => this.#stopping !== null || this.#isAllReady())
    this.#isUp = this.#stopping === null
  }

  #isAllReady(): boolean {
    return this.#slots().every((slot) => slot.handle?.state === 'ready')
  }

  // Running

  /** Makes what is wanted so: a process in every slot that is not waiting for its next try, or none when stopping. */
  #reconcile(): void {
    for (const group of this.#groups) {
      for (const slot of group.slots) {
        if (this.#stopping !== null) slot.handle?.stop(this.#stopTimeoutMs)
        else if (slot.handle === null && slot.retry === null) this.#spawn(group, slot)
      }
    }
    this.#predecessors?.record(this.#slots().map((slot) => slot.handle?.pid ?? 0))
    for (const look of [...this.#waiting]) look()
  }

  #spawn(group: GroupState, slot: Slot): void {
    const { modules, argv } = this.#options
    const sockets = group.socket === null ? [] : [{ fd: FIRST_SOCKET_FD, endpoint: group.socket.endpoint }]
    const fds = group.socket === null ? [] : [group.socket.fd]
    const boot = { role: 'worker', modules, argv, group: group.key, id: slot.id, sockets } as const
    const handle = new WorkerHandle(boot, fds, group.declaration.startTimeoutMs)
    slot.handle = handle
    slot.incarnation++
    handle.onReady = () => this.#reconcile()
    handle.onGone = (exit) => this.#gone(group, slot, handle, exit)
  }

  #gone({ key }: GroupState, slot: Slot, handle: WorkerHandle, exit: WorkerExitInfo): void {
    slot.handle = null
    slot.past = addCounters(slot.past, handle.countersOfThePast())
    if (this.#stopping === null) {
      slot.lastExit = exit.word
      this.#judgeFirstStart(slot, exit, `worker ${key.name}:${slot.id}: ${exit.reason || exit.word}`)
    }
    if (this.#stopping === null) {
      const waitMs = isVoluntary(exit) ? 0 : slot.backoff.next(exit.aliveMs)
      const next = waitMs === 0 ? 'starting another' : `starting another in ${(waitMs / 1000).toFixed(1)} s`
      log(`worker ${key.name}:${slot.id} pid ${handle.pid}: ${exit.word}, ${next}${exit.reason && `\n${exit.reason}`}`)
      this.#retryIn(slot, waitMs)
    }
    this.#reconcile()
  }

  /** Before everything has been ready once, a failure may be final. */
  #judgeFirstStart(slot: Slot, exit: WorkerExitInfo, message: string): void {
    if (this.#isUp || isVoluntary(exit)) return
    if (exit.exitCode === WorkerExit.Address) this.#giveUp(new CommandError(Exit.Address, message))
    else if (exit.hasTimedOut) this.#giveUp(new CommandError(Exit.Timeout, message))
    else if (++slot.bootFailures >= MAX_BOOT_FAILURES) this.#giveUp(new CommandError(Exit.Module, message))
  }

  #retryIn(slot: Slot, ms: number): void {
    if (ms === 0) return
    slot.retry = setTimeout(() => {
      slot.retry = null
      this.#reconcile()
    }, ms)
  }

  // Stopping

  #giveUp(why: CommandError | 'asked'): void {
    this.#stopping ??= why
    this.#describing.abort()
    this.#reconcile()
  }

  async #end(): Promise<void> {
    for (const slot of this.#slots()) if (slot.retry !== null) clearTimeout(slot.retry)
    this.#reconcile()
    await this.#until(() => this.#slots().every((slot) => slot.handle === null))
    for (const { socket } of this.#groups) tidy(() => socket?.close())
    if (this.#pidFile !== '') tidy(() => removePidFile(this.#pidFile))
    if (this.#lock?.isOurs()) tidy(() => this.#predecessors?.forget())
    tidy(() => this.#control?.close())
    tidy(() => this.#lock?.release())
  }

  // Answering

  async #answer(request: Request): Promise<Answer> {
    const done = { ok: true, ...ownIdentity(), stopTimeoutMs: this.#stopTimeoutMs } as const
    if (request.command === 'status') return { ...done, status: await this.#status() }
    if (request.command === 'stop')
      this.stop(false) // who asked waits for this process to be gone
    else if (request.command !== 'ping') return { ok: false, message: `unknown command ${JSON.stringify(request)}` }
    return done
  }

  async #status(): Promise<Status> {
    const groups = await Promise.all(this.#groups.map((group) => groupStatus(group)))
    return {
      version,
      node: process.versions.node,
      pid: process.pid,
      startedAt: this.#startedAt.toISOString(),
      uptimeMs: Date.now() - this.#startedAt.getTime(),
      isDaemon: this.#isDaemon,
      runDir: this.#runDir,
      engine: 'node',
      loadAverage: loadavg(),
      groups,
      totals: totalsOf(groups),
    }
  }

  #banner(): string {
    const groups = this.#groups.map(({ declaration, socket }) => ({ declaration, endpoint: socket?.endpoint ?? '' }))
    return renderBanner({
      groups,
      isDaemon: this.#isDaemon,
      isQuiet: this.#options.isQuiet,
      modules: this.#options.modules,
    })
  }

  #slots(): Slot[] {
    return this.#groups.flatMap((group) => group.slots)
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

function newSlot(id: number): Slot {
  return {
    id,
    backoff: new Backoff(),
    handle: null,
    incarnation: 0,
    past: newCounters(),
    bootFailures: 0,
    lastExit: '',
    retry: null,
  }
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

async function groupStatus({ declaration, socket, slots }: GroupState): Promise<GroupStatus> {
  const { name, listen, count } = declaration
  const address = socket?.endpoint ?? ''
  const port = Number(/:(\d+)$/.exec(address)?.[1] ?? 0)
  return { name, listen, address, port, count, workers: await Promise.all(slots.map(slotStatus)) }
}

async function slotStatus({ id, handle, incarnation, past, lastExit }: Slot): Promise<WorkerStatus> {
  const base = { id, incarnation, lastExit }
  if (handle === null) return { ...base, pid: 0, state: 'waiting', uptimeMs: 0, memory: 0, timers: 0, counters: past }
  const hasAnswered = handle.state !== 'ready' || (await handle.poll(POLL_MS))
  const { memory, timers } = handle.report
  const counters = addCounters({ ...past }, handle.report.counters)
  const state = hasAnswered ? handle.state : 'busy'
  return { ...base, pid: handle.pid, state, uptimeMs: now() - handle.startedAt, memory, timers, counters }
}
