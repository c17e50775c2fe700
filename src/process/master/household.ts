// What a master holds on its machine: the run directory with lock, control socket, pid files and the list of its
// processes; the log; the probes; the keeper; the memory shared by all workers. Taken at start, shared during an
// upgrade, removed at the end.

import { closeSync, existsSync } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import { addon } from '../../addon.ts'
import type { Descriptor } from '../../addon-types.ts'
import { messageOf } from '../../errors.ts'
import { log } from '../../log.ts'
import { loosePartOf } from '../../loose-path.ts'
import { COUNTER_BYTES } from '../../shared/limits.ts'
import { ask } from '../control/client.ts'
import { type Answer, OTHER_MODULE, type Request, refusedBy } from '../control/requests.ts'
import { ControlServer } from '../control/server.ts'
import { CommandError, Exit } from '../exit-codes.ts'
import { DEFAULT_SETTINGS, type Settings } from '../group.ts'
import { Lock } from '../lock.ts'
import { recordLog } from '../log-place.ts'
import type { StartOptions } from '../messages.ts'
import { Output } from '../output/output.ts'
import { checkPidFile, removePidFile, writePidFile } from '../pid-file.ts'
import { makeRunDir, type Places, placesOfOurs, runDirCandidates } from '../run-directory.ts'
import type { Events } from '../status/events.ts'
import { HealthServer } from '../status/health.ts'
import type { Seen } from '../status/readiness.ts'
import type { EarlierMaster } from '../upgrade/earlier-master.ts'
import { KeeperHandle } from './keeper-handle.ts'
import { Leftovers } from './leftovers.ts'
import { Peers } from './peers.ts'
import { Programs } from './programs.ts'
import { feedWatchdog } from './service.ts'
import { Tickets } from './tickets.ts'
import { tidy } from './tidy.ts'

/** How long another master may take to answer a ping. */
const PING_MS = 1000
/** How often the run directory is checked. */
const LOOK_EVERY_MS = 2000

/** What the household needs from its master. */
export interface Householder {
  readonly events: Events
  readonly seen: Seen
  answer(request: Request): Promise<Answer>
  /** Called when the list of processes has to be rewritten. */
  record(): void
  /** Called now and then: somebody may have removed the files of its sockets. */
  lookAfterSockets(): void
}

export class Household {
  readonly options: StartOptions
  readonly isDaemon: boolean
  readonly programs: Programs
  readonly tickets: Tickets
  readonly peers: Peers
  /** The memory with the shared counters; null without the addon. */
  readonly memory: Descriptor | null
  readonly health: HealthServer
  readonly pidFiles = new Set<string>()
  /** The pid file that the code declares; empty for none. */
  #declaredPid = ''
  /** Files that have been logged as another's to exchange. */
  readonly #loose = new Set<string>()
  /** Empty before `take` or `join`; the fields below are null until then. */
  runDir = ''
  output: Output | null = null
  keeper: KeeperHandle | null = null
  leftovers: Leftovers | null = null
  control: ControlServer | null = null
  /** Null while another master leads. */
  lock: Lock | null = null
  readonly #master: Householder
  /** The last failure logged for missing files: after a login session ends, the directory may be gone for days. */
  #said = ''
  /** That the keeper's socket is gone for good has been logged. */
  #isKeeperMissed = false
  #looking: NodeJS.Timeout | null = null

  /** @param earlier the master that this one replaces */
  constructor(master: Householder, options: StartOptions, isDaemon: boolean, earlier: EarlierMaster | null) {
    this.#master = master
    this.options = options
    this.isDaemon = isDaemon
    this.programs = new Programs(options.modules)
    this.memory = sharedMemory(earlier?.inheritance.memory ?? -1)
    this.tickets = new Tickets(earlier?.inheritance.ticketSecret)
    this.peers = new Peers(earlier?.inheritance.meshSecret)
    this.health = new HealthServer(() => master.seen)
  }

  /** Takes the run directory. Rejects with a CommandError if another master has it. */
  async take(): Promise<void> {
    const { modules, runDir } = this.options
    const places = runDirCandidates(modules[0] ?? '', runDir)
    await refuseSecond(places, modules[0])
    this.runDir = makeRunDir(places)
    const lock = Lock.acquire(this.runDir)
    if (!(lock instanceof Lock)) throw alreadyRunning(lock.pid)
    this.lock = lock
    await this.#open(null)
    this.recordLog() // the code may fail before it declares another one
    this.#writePids()
    this.#lookAfter()
  }

  /** Works beside the leading master, which keeps the lock, pid file and control socket. */
  async join(earlier: EarlierMaster): Promise<void> {
    this.runDir = earlier.inheritance.runDir
    await this.#open(earlier)
  }

  async #open(earlier: EarlierMaster | null): Promise<void> {
    const master = this.#master
    const isSecond = earlier !== null
    this.leftovers = new Leftovers(this.runDir)
    this.leftovers.isShared = isSecond
    this.output = new Output(this.options, this.isDaemon, this.runDir, DEFAULT_SETTINGS)
    const onChange = () => master.record()
    this.keeper = new KeeperHandle(
      this.runDir,
      this.output,
      this.programs.ofOurs,
      onChange,
      earlier?.inheritance.keeper,
    )
    const control = new ControlServer(this.runDir, master.events, (request) => master.answer(request), isSecond)
    await control.listen()
    this.control = control
  }

  /**
   * Takes over lock, control socket and pid files, however much of that the earlier master has done already. Throws a
   * CommandError if another process was quicker.
   */
  takeCharge(earlier: EarlierMaster, settings: Settings): void {
    const lock = Lock.take(this.runDir)
    if (!(lock instanceof Lock)) throw alreadyRunning(lock.pid)
    this.lock = lock
    feedWatchdog(earlier.inheritance.pid)
    this.control?.take(earlier.isGone ? earlier.inheritance.pid : null)
    this.#writePids()
    this.declare(settings)
    this.#lookAfter()
  }

  #lookAfter(): void {
    this.#looking = setInterval(() => void this.#restore(), LOOK_EVERY_MS).unref()
  }

  /** Recreates files that were deleted, perhaps by a cleaner of /tmp: without them no command finds this master. */
  async #restore(): Promise<void> {
    const { runDir, lock, control, leftovers, options } = this
    // an upgrade moves them
    if (lock === null || control === null || leftovers === null || leftovers.isShared) return
    this.#master.lookAfterSockets()
    void this.health.restore()
    if (leftovers.isOutdated) this.#master.record()
    if (existsSync(join(runDir, 'lock')) && control.isThere) return this.#restoreKeeper()
    try {
      const { isGiven } = runDirCandidates(options.modules[0] ?? '', options.runDir)
      makeRunDir({ paths: [runDir], elsewhere: [], isGiven })
      const held = lock.isOurs() ? lock : Lock.acquire(runDir)
      if (!(held instanceof Lock)) throw alreadyRunning(held.pid)
      await control.renew()
      for (const path of this.pidFiles) if (!existsSync(path)) writePidFile(path, process.pid)
      this.recordLog()
      leftovers.forgetWritten()
      this.#master.record()
      log(`${runDir}: somebody has taken files of this server away, they are made anew`)
      this.#said = ''
      await this.#restoreKeeper()
    } catch (error) {
      const reason = messageOf(error)
      if (reason !== this.#said) log(`${runDir}: files of this server are gone, and commands do not find it: ${reason}`)
      this.#said = reason
    }
  }

  /** In a directory that has been checked: new processes reach the keeper by its path. */
  async #restoreKeeper(): Promise<void> {
    const { keeper } = this
    if (keeper === null || keeper.isThere) return
    const isBack = await keeper.renew()
    if (isBack || !this.#isKeeperMissed)
      log(
        `${keeper.path}: somebody has taken it away, ${isBack ? 'it is made anew' : 'new processes have no shared data'}`,
      )
    this.#isKeeperMissed = !isBack
  }

  /** The resources of a master that leads. */
  get whole(): { keeper: KeeperHandle; leftovers: Leftovers; control: ControlServer; lock: Lock } {
    const { keeper, leftovers, control, lock } = this
    if (keeper === null || leftovers === null || control === null || lock === null)
      throw new Error('this master does not lead')
    return { keeper, leftovers, control, lock }
  }

  #writePids(): void {
    this.writePid(join(this.runDir, 'millrace.pid'))
    if (this.options.pidFile !== undefined) this.writePid(this.options.pidFile)
  }

  writePid(path: string): void {
    writePidFile(path, process.pid)
    this.pidFiles.add(path)
  }

  /** Throws a CommandError if the files of the code could not be opened; opens none. */
  checkFiles(settings: Settings): void {
    this.output?.check(settings)
    const pidFile = this.#declaredIn(settings)
    if (pidFile !== '' && !this.pidFiles.has(pidFile)) checkPidFile(pidFile)
  }

  /** Writes into files what the code declares: where the log is, and the pid where it wants to have it. */
  declare(settings: Settings): void {
    this.recordLog()
    this.#writeDeclaredPid(settings)
    this.#tellLoose()
  }

  /**
   * Logs, once, which files of root's others could exchange for a link to another file. Whoever could exchange the code
   * instead, which root runs, needs no such way.
   */
  #tellLoose(): void {
    if (process.geteuid?.() !== 0) return
    const ofCode = loosePartOf(dirname(resolve(this.options.modules[0] ?? '')))
    for (const path of new Set([...(this.output?.files ?? []), ...this.pidFiles])) {
      const loose = loosePartOf(dirname(resolve(path)))
      if (loose === '' || loose === ofCode || this.#loose.has(path)) continue
      this.#loose.add(path)
      log(
        `${path}: root writes this file, and who can change ${loose} can lead root to another one: choose a safer place`,
      )
    }
  }

  /** For `logs`, after the end of the server, too. */
  recordLog(): void {
    tidy(() => recordLog(this.runDir, this.output?.logPath ?? '')) // a full disk costs only that
  }

  /** Removes the one that it declared before. */
  #writeDeclaredPid(settings: Settings): void {
    const before = this.#declaredPid
    const pidFile = this.#declaredIn(settings)
    if (pidFile !== '') this.writePid(pidFile)
    this.#declaredPid = pidFile
    if (before === '' || before === pidFile) return
    this.pidFiles.delete(before)
    removePidFile(before)
  }

  /** Empty if there is none, or the command line names one. */
  #declaredIn({ pidFile }: Settings): string {
    return this.options.pidFile === undefined ? pidFile : ''
  }

  /** Passes a request to the current master. */
  async ask(request: Request): Promise<Answer> {
    const answer = await ask(this.runDir, request, Number.POSITIVE_INFINITY)
    return answer ?? { ok: false, message: 'this master has been replaced, and the new one is gone' }
  }

  /**
   * Releases everything; one failing step does not prevent the others. `isLent`: the earlier master takes back what
   * names this one.
   */
  close(isLent: boolean): void {
    if (this.#looking !== null) clearInterval(this.#looking)
    this.health.close()
    if (isLent) return
    for (const path of this.pidFiles) tidy(() => removePidFile(path))
    if (this.lock?.isOurs()) tidy(() => this.leftovers?.forget())
    tidy(() => this.control?.close())
    tidy(() => this.lock?.release())
  }
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

/** Checks every place where `status` and `stop` would look: one server per module, whatever its environment. */
async function refuseSecond(places: Places, module: string | undefined): Promise<void> {
  for (const runDir of placesOfOurs(places)) {
    // not ours to ask: the lock decides
    const answer = await ask(runDir, { command: 'ping', module }, PING_MS).catch(() => null)
    if (answer?.ok === true) throw alreadyRunning(answer.pid)
    if (answer?.ok === false && answer.code === OTHER_MODULE) throw refusedBy(answer)
  }
}

function alreadyRunning(pid: number): CommandError {
  return new CommandError(Exit.AlreadyRunning, `already running, pid ${pid}`)
}
