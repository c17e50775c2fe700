// A worker process: it serves one slot of one group until it is told to stop, its master has gone, or it fails.

import { type Deferred, withResolvers } from '../../deferred.ts'
import { SystemError, stackOf, UsageError } from '../../errors.ts'
import { LimitedLog, log, nameLog } from '../../log.ts'
import { now } from '../../loop/clock.ts'
import { Timer } from '../../loop/timer.ts'
import { nothing } from '../../nothing.ts'
import { WorkerExit } from '../exit-codes.ts'
import { type GivenSocket, type Group, type PeerNews, registry } from '../group.ts'
import { receiveSockets, standInRequest } from '../handle-channel.ts'
import {
  HEARTBEAT_MS,
  isSameKey,
  keysOf,
  LONGEST_REASON,
  mailboxesOf,
  type SocketFailure,
  type ToChild,
  type WorkerBoot,
} from '../messages.ts'
import { inlineMore } from '../node-flags.ts'
import { Candidates } from './candidates.ts'
import { assume } from './credentials.ts'
import { evaluate } from './evaluate.ts'
import { LoopLag } from './loop-lag.ts'
import { endOfTurn, exitWhenSent, fail, prepare, type Up } from './role-process.ts'
import { onUncaught } from './uncaught.ts'

export async function work(boot: WorkerBoot, channel: Up): Promise<void> {
  const life = new WorkerLife(channel)
  prepare(boot)
  onUncaught((error) => life.crash(error))
  for (const signal of ['SIGTERM', 'SIGINT'] as const) process.on(signal, () => life.leaveSoon(WorkerExit.Ended))
  process.on('SIGQUIT', () => life.leaveGracefully())
  // These are meant for the master and would end this process by default: `pkill -HUP -f app.js` reaches all.
  for (const signal of ['SIGHUP', 'SIGUSR2'] as const) process.on(signal, nothing)
  nameLog(`${boot.group.name}:${boot.place.id}`)
  registry().memoryFd = boot.memoryFd
  try {
    if (boot.credentials !== null) assume(boot.credentials)
    const groups = await evaluate(boot.modules, boot.argv, channel)
    const declarations = groups.map((group) => group.describe())
    for (const [at, mailbox] of mailboxesOf(declarations).entries()) if (groups[at]) groups[at].mailbox = mailbox
    const place = keysOf(declarations).findIndex((key) => isSameKey(key, boot.group))
    const group = groups[place]
    if (group === undefined) throw new Error(`the module no longer declares ${boot.group.name} ${boot.group.listen}`)
    process.title = `millrace: worker process  ${boot.group.name} ${boot.group.listen || 'none'}`
    await life.serve(group, boot)
  } catch (error) {
    fail(channel, error)
  }
}

/**
 * Loads what the first report needs before the V8 flag is set, while Node's code cache still applies: 1 ms instead of
 * 10.
 */
function prepareForLoad(): void {
  isInspected()
  inlineMore()
}

/** What it takes to tell a sender of one lost message, if `onSendFail` is quick: measured 1 us to 5 us. */
const TELL_ONE_MS = 0.005
/** The largest part of the time to leave that is spent on that. */
const MOST_TELLING_SHARE = 1 / 4
const LOOK_MS = 50
/**
 * How long a process that exits waits for the outcome of what its last `onClose` calls have sent, and then for the
 * servers of its clients to close.
 */
const LAST_WORDS_MS = 200
const LAST_LOOK_MS = 5
/** How often the master is told that it still goes on. */
const TELLING_MS = 100

/** One worker process from its first message to its exit. */
class WorkerLife {
  readonly #channel: Up
  readonly #candidates: Candidates
  #group: Group | null = null
  #exitTimer: NodeJS.Timeout | undefined
  #exitAt = Number.POSITIVE_INFINITY
  #exitCode = WorkerExit.Ended as number
  #lookTimer: NodeJS.Timeout | undefined
  #told = Promise.resolve()
  #isExiting = false
  #hasCrashed = false
  /** Settles when `onWorkerActive` has, and never rejects. */
  #activation = Promise.resolve()
  #memory = 0
  /** Changes of other workers that arrive while the modules are evaluated. */
  readonly #earlyNews: PeerNews[] = []
  #lastRequest = 0
  readonly #lag = new LoopLag()
  #loopBefore = performance.eventLoopUtilization()
  readonly #requests = new Map<number, Deferred<GivenSocket>>()
  /** Turns whose socket has arrived. */
  readonly #standIns = new Set<number>()
  /** Turns that were over before their socket arrived. */
  readonly #relieved = new Set<number>()

  constructor(channel: Up) {
    this.#channel = channel
    this.#candidates = new Candidates((message) => channel.send(message))
    registry().candidates = this.#candidates
    registry().requestStop = (code) => this.leaveGracefully(code)
    registry().requestSocket = (wanted) => this.#request((request) => channel.send({ type: 'listen', request, wanted }))
    receiveSockets((request, endpoint, handle) => this.#takeSocket(request, { endpoint, handle }))
    channel.onClose = () => this.#orphaned()
    channel.onMessage = (message) => this.#receive(message)
  }

  async serve(group: Group, boot: WorkerBoot): Promise<void> {
    this.#group = group
    if (registry().settings.unhandledRejection === 'log') logRejections(group)
    group.onBurst = () => this.#report()
    group.onFull = (isFull) => this.#channel.send({ type: 'full', isFull })
    group.onIdle = (isIdle) => this.#channel.send({ type: 'idle', isIdle })
    // Not before: while modules are evaluated the channel keeps no process alive that waits for an answer.
    registry().requestKeeper = () => this.#request((request) => this.#channel.send({ type: 'reachKeeper', request }))
    const started = group.start(boot.place)
    for (const news of this.#earlyNews.splice(0)) group.usePeers(news)
    await started
    await endOfTurn()
    this.#channel.send({ type: 'ready', memory: residentBytes() ?? 0 })
    setImmediate(prepareForLoad) // nothing waits for that now
    setInterval(() => this.#report(), HEARTBEAT_MS).unref()
  }

  /** The master has gone: the other workers leave, too, and nobody follows them. */
  #orphaned(): void {
    this.#hear({ rows: [], isEnding: true })
    this.#group?.release() // nobody knows who is still at work
    this.leaveSoon(WorkerExit.Ended)
  }

  leaveSoon(exitCode: number): void {
    this.#leaveByItself(exitCode, registry().settings.stopTimeoutMs)
  }

  leaveGracefully(exitCode: number = WorkerExit.Ended): void {
    this.#leaveByItself(exitCode, this.#group?.drainWindowMs ?? 0)
  }

  #leaveByItself(exitCode: number, timeoutMs: number): void {
    this.#channel.send({ type: 'leaving', exitCode, timeoutMs })
    this.#leave(exitCode, timeoutMs)
  }

  /** Handles an uncaught error: the state of the process is unknown, so it exits, and the master starts another. */
  crash(error: unknown): void {
    if (this.#hasCrashed) return // report only the first; more may follow before this process has gone
    this.#hasCrashed = true
    if (this.#group === null) return fail(this.#channel, error)
    const message = stackOf(error).slice(0, LONGEST_REASON)
    log(`uncaught: ${stackOf(error)}`)
    this.#report() // messages this small are written before `send` returns
    this.#channel.send({ type: 'failed', exitCode: WorkerExit.Uncaught, message, isLogged: true })
    try {
      process.exit(WorkerExit.Uncaught) // at once: no handler may run any more
    } catch (thrown) {
      log(`a listener of 'exit': ${stackOf(thrown)}`)
      process.exit(WorkerExit.Uncaught) // the event is not repeated
    }
  }

  #receive(message: ToChild): void {
    if (message.type === 'stop') this.#leave(WorkerExit.Ended, message.timeoutMs)
    else if (message.type === 'release') this.#group?.release()
    else if (message.type === 'poll') this.#report()
    else if (message.type === 'activate') this.#activation = this.#activate()
    else if (message.type === 'retire') void this.#retire(message.isReload)
    else if (message.type === 'reload') void this.#group?.reload()
    else if (message.type === 'lead') this.#candidates.lead(message.name, message.ticket)
    else if (message.type === 'cannotListen') this.#takeRequest(message.request)?.reject(socketError(message.failure))
    else if (message.type === 'relieve') void this.#relieve(message.turn)
    else if (message.type === 'share') this.#group?.useShare(message.connections)
    else if (message.type === 'peers') this.#hear(message.news)
    else if (message.type === 'tickets') this.#group?.useTickets(message.keys)
    else if (message.type === 'watchLag') this.#lag.watch(message.isOn)
    else if (message.type === 'renew') this.#group?.renew(message.share)
    else if (message.type === 'connections') this.#list(message.after, message.limit)
  }

  /** Ends a stand-in turn; the master is notified when the socket is closed. That socket may still be on its way. */
  async #relieve(turn: number): Promise<void> {
    if (!this.#standIns.delete(turn)) return void this.#relieved.add(turn)
    await this.#group?.relieve(turn)
    this.#channel.send({ type: 'relieved', turn })
  }

  #standIn(turn: number, socket: GivenSocket): void {
    this.#standIns.add(turn)
    this.#group?.standIn(turn, socket)
    if (this.#relieved.delete(turn)) void this.#relieve(turn)
  }

  #hear(news: PeerNews): void {
    if (this.#group === null) this.#earlyNews.push(news)
    else this.#group.usePeers(news)
  }

  #request(ask: (request: number) => void): Promise<GivenSocket> {
    const request = ++this.#lastRequest
    ask(request)
    const waiting = withResolvers<GivenSocket>()
    this.#requests.set(request, waiting)
    return waiting.promise
  }

  #takeSocket(request: number, socket: GivenSocket): void {
    if (request >= 0) this.#takeRequest(request)?.resolve(socket)
    else this.#standIn(standInRequest(request), socket)
  }

  #takeRequest(request: number) {
    const waiting = this.#requests.get(request)
    this.#requests.delete(request)
    return waiting
  }

  async #activate(): Promise<void> {
    if (this.#isLeaving) return // nothing would give up what it begins
    this.#candidates.activate()
    try {
      await this.#group?.activate()
    } catch (error) {
      return this.crash(error) // without its singletons it would not be a working worker
    }
    this.#channel.send({ type: 'active' })
  }

  async #retire(isReload: boolean): Promise<void> {
    this.#resign()
    await this.#activation // it may still be taking what is given up here
    const release = this.#hold('onWorkerRetire')
    try {
      await this.#group?.retire(isReload)
    } catch (error) {
      log(`onWorkerRetire: ${stackOf(error)}`)
    }
    release()
    this.#channel.send({ type: 'retired' })
  }

  /** Ends the jobs that are this process's alone. */
  #resign(): void {
    this.#candidates.leave((why) => this.#hold(why))
  }

  /** The drain does not end until this is released. */
  #hold(why: string): () => void {
    return this.#group?.hold(why) ?? nothing
  }

  #list(after: number, limit: number): void {
    const rows = this.#group?.listConnections(after, limit + 1) ?? []
    this.#channel.send({ type: 'connections', rows: rows.slice(0, limit), hasMore: rows.length > limit })
  }

  get #isLeaving(): boolean {
    return this.#exitAt < Number.POSITIVE_INFINITY
  }

  /** Drains and exits within `timeoutMs`. If called again, the shorter time applies. */
  #leave(exitCode: number, timeoutMs: number): void {
    if (now() + timeoutMs >= this.#exitAt) return
    if (!this.#isLeaving) this.#exitCode = exitCode
    this.#exitAt = now() + timeoutMs
    clearTimeout(this.#exitTimer)
    this.#exitTimer = setTimeout(() => this.#finish(), timeoutMs)
    clearInterval(this.#lookTimer)
    this.#lookTimer = setInterval(() => this.#look(timeoutMs), LOOK_MS)
    void this.#drain(timeoutMs)
  }

  /** Begins to report messages as lost before the time is up, if there are many of them. */
  #look(windowMs: number): void {
    const leftMs = this.#exitAt - now()
    const neededMs = Math.min((this.#group?.unsettledMessages ?? 0) * TELL_ONE_MS, windowMs * MOST_TELLING_SHARE)
    if (leftMs > neededMs) return
    clearInterval(this.#lookTimer)
    if (leftMs > 0) this.#told = this.#tellLost()
  }

  async #tellLost(): Promise<void> {
    if (this.#group === null || this.#group.unsettledMessages === 0) return
    const goesOn = () => this.#channel.send({ type: 'telling' })
    const timer = setInterval(goesOn, TELLING_MS)
    goesOn() // at once: the master's clock for this process is ahead if it was busy when it was told to leave
    await this.#group.tellLost()
    clearInterval(timer)
  }

  /** Closes the connections that are left. Messages from their `onClose` get a moment to arrive. */
  async #disconnect(): Promise<void> {
    const group = this.#group
    if (group === null || !group.isConnected) return
    this.#channel.send({ type: 'telling' }) // this may take longer than the master waits
    await new Promise(setImmediate) // what handlers have answered is written in this turn
    const before = group.unsettledMessages
    group.disconnect()
    const until = now() + LAST_WORDS_MS
    do await new Promise((resolve) => setTimeout(resolve, LAST_LOOK_MS))
    while (now() < until && (group.isConnected || group.unsettledMessages > before))
  }

  /** Clients go last: handlers have needed them, and `onClose` may have sent them something. */
  async #partWithClients(): Promise<void> {
    const group = this.#group
    if (group === null || group.clients.size === 0) return
    this.#channel.send({ type: 'telling' })
    group.partWithClients()
    const until = now() + LAST_WORDS_MS
    do await new Promise((resolve) => setTimeout(resolve, LAST_LOOK_MS))
    while (now() < until && group.clients.size > 0)
  }

  async #drain(timeoutMs: number): Promise<void> {
    const drained = this.#group?.drain(timeoutMs)
    this.#resign()
    await drained
    await this.#exit()
  }

  #finish(): void {
    const lateMs = this.#group?.finish() ?? 0
    if (lateMs === 0) void this.#exit()
    else this.#exitTimer = setTimeout(() => void this.#exit(), lateMs)
  }

  async #exit(): Promise<void> {
    if (this.#isExiting) return
    this.#isExiting = true
    clearInterval(this.#lookTimer)
    const work = this.#group?.describeWork() ?? ''
    if (work !== '') log(`leaves with ${work} unfinished`)
    await this.#told
    await this.#tellLost() // of what was sent since, while handlers can still answer their connections
    await this.#disconnect()
    await this.#tellLost()
    await this.#partWithClients()
    this.#group?.cutOff()
    this.#report(work)
    exitWhenSent(this.#channel, this.#exitCode, undefined, () => this.#group?.tellRest())
  }

  #report(work = this.#group?.describeWork() ?? ''): void {
    if (this.#group === null) return
    const { counters } = this.#group
    this.#memory = residentBytes() ?? this.#memory
    const lagMs = this.#lag.take()
    const loop = performance.eventLoopUtilization()
    const { utilization } = performance.eventLoopUtilization(loop, this.#loopBefore)
    this.#loopBefore = loop
    const own = { memory: this.#memory, timers: Timer.count, work, lagMs, utilization }
    this.#channel.send({ type: 'report', report: { counters, ...own, isInspected: isInspected() } })
  }
}

/**
 * Logs unhandled rejections, at a limited rate since every message may cause one. With a listener, Node does not turn
 * them into uncaught errors.
 */
function logRejections({ counters }: Group): void {
  const rejections = new LimitedLog()
  process.on('unhandledRejection', (reason) => {
    counters.unhandledRejections++
    rejections.log(`unhandled rejection: ${stackOf(reason)}`)
  })
}

function socketError({ code, syscall, address, message }: SocketFailure): Error {
  const error = syscall === '' ? new UsageError(code, message) : new SystemError(code, syscall, address)
  error.message = message // includes what the master knows, such as which process has the port
  return error
}

/** Undefined if no descriptor is left (EMFILE), since libuv reads a file for it. That must not end a worker. */
function residentBytes(): number | undefined {
  try {
    return process.memoryUsage.rss()
  } catch {
    return undefined
  }
}

/** Loads the inspector module on the first report, not at start. Node may be built without it. */
function isInspected(): boolean {
  const inspector = process.getBuiltinModule('node:inspector') as typeof import('node:inspector') | undefined
  return inspector?.url() !== undefined
}
