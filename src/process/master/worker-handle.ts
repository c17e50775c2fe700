// A worker as the master sees it: a process, its channel, and where it is in its life.
//
//   Starting -> Ready -> Retiring -> Stopping -> Gone      each may skip ahead: a process can die at any time

import type { Socket } from 'node:net'
import { constants } from 'node:os'
import { addCounters, type Counters, newCounters } from '../../counters.ts'
import { withResolvers } from '../../deferred.ts'
import { codeOf, messageOf } from '../../errors.ts'
import { now } from '../../loop/clock.ts'
import type { BoundSocket } from '../../net/bound-socket.ts'
import { type CommandError, describeExit, NODE_REFUSES, WorkerExit } from '../exit-codes.ts'
import { type ConnectionRow, LONGEST_TIMEOUT_MS, type PeerNews, type WantedSocket } from '../group.ts'
import { sendSocket, standInRequest } from '../handle-channel.ts'
import { type FromChild, HUNG_AFTER_MS, LONGEST_REASON, type Report, type SocketFailure } from '../messages.ts'
import type { Tail } from '../output/logbook.ts'
import { type Child, onceEnded, onceUnstarted } from '../spawn.ts'
import { listensOnLoopback } from './inspector-socket.ts'
import { isWellFormed } from './worker-messages.ts'

type HandleState = 'starting' | 'ready' | 'retiring' | 'stopping' | 'gone'

const EDGES: Record<HandleState, readonly HandleState[]> = {
  starting: ['ready', 'stopping', 'gone'],
  ready: ['retiring', 'stopping', 'gone'],
  retiring: ['stopping', 'gone'],
  stopping: ['gone'],
  gone: [],
}

/** A worker ends itself within its time to stop. The kill, for one that cannot, comes this much later. */
const KILL_SLACK_MS = 500
/** How much later it comes at most for one that is telling senders of lost messages. */
const MOST_TELLING_MS = 5000
/** Limit of unanswered requests for a page of connections. */
const MOST_PAGES = 16
/** How long a worker that does not answer may keep a sibling's socket. */
const RELIEVE_MS = 2000
/** While the whole server stops, a worker that is busy for less than this, if again and again, keeps no other. */
const SHORT_WORK_MS = 500
/** How a process ends when V8 gives up: abort(3), a trap, or the shell's number for the former. */
const V8_ENDS: ReadonlySet<string | number | null> = new Set(['SIGABRT', 'SIGTRAP', 'SIGILL', 134])
/** A process that ended on its own sooner would only spin if it were restarted at once. */
export const SHORTEST_SERVICE_MS = 1000
/** A rate over less than this would be noise. */
const RATE_WINDOW_MS = 900

export interface WorkerExitInfo {
  readonly exitCode: number
  /** As wait(2) returns it. */
  readonly status: number
  /** In words: `exit 70 (boot failed)`. */
  readonly word: string
  /** The worker's own report of its failure, with a stack; empty if it could not give one. */
  readonly reason: string
  /** The worker has logged the reason itself. */
  readonly isLogged: boolean
  /** What it logged last, if its log comes through the master. */
  readonly lastLog: readonly string[]
  /** Why no process could be started. */
  readonly unstarted: CommandError | null
  readonly hadBeenReady: boolean
  readonly hasTimedOut: boolean
  /** The master told it to leave. */
  readonly wasTold: boolean
  /** It did not end in its time to stop. */
  readonly wasKilled: boolean
  readonly aliveMs: number
  /** Since it was ready; 0 if it never was. How long a start takes says nothing of whether it succeeds. */
  readonly servedMs: number
}

/**
 * Whether a worker that had served ended with 0, for example by `Worker.stopAll()` after some requests. Not a failure.
 */
export function isVoluntary(exit: WorkerExitInfo): boolean {
  return exit.hadBeenReady && exit.exitCode === WorkerExit.Ended && exit.servedMs >= SHORTEST_SERVICE_MS
}

interface OwnConnections {
  readonly rows: readonly ConnectionRow[]
  readonly hasMore: boolean
}

interface HandleOptions {
  readonly incarnation: number
  /** Infinity if it may take as long as it likes. */
  readonly startTimeoutMs: number
  /** The socket it accepts on, which the master owns. */
  readonly socket: BoundSocket | null
  readonly tail: Tail
  /** How long its event loop may be blocked; 0 is forever. */
  readonly stuckTimeoutMs: number
  /** Where the other workers reach it; empty if they cannot. */
  readonly meshAddress: string
}

export class WorkerHandle {
  onReady: (() => void) | null = null
  onGone: ((exit: WorkerExitInfo) => void) | null = null
  /** Called when the state has changed; its end is reported by `onGone`. */
  onMove: ((state: HandleState) => void) | null = null
  /** Called when it leaves on its own and no longer serves. */
  onLeaving: (() => void) | null = null
  /** A report has arrived. */
  onReport: (() => void) | null = null
  /** `isFull` has changed. */
  onFull: (() => void) | null = null
  /** `isIdle` has changed. */
  onIdle: (() => void) | null = null
  /** It requests a socket for an address of its own. */
  onListen: ((request: number, wanted: WantedSocket) => void) | null = null
  /** It requests a connection to the keeper of shared data. */
  onReachKeeper: ((request: number) => void) | null = null
  /** It stands for a leadership, or resigns. */
  onStand: ((name: string, ticket: number) => void) | null = null
  onResign: ((name: string, ticket: number) => void) | null = null
  /** The sockets of addresses that it requested itself. */
  readonly innerSockets = new Set<BoundSocket>()
  readonly startedAt = now()
  #readyAt = Number.POSITIVE_INFINITY
  readonly incarnation: number
  readonly socket: BoundSocket | null
  readonly stuckTimeoutMs: number
  readonly meshAddress: string
  state: HandleState = 'starting'
  /** When it was last heard from. */
  heardAt = now()
  report: Report = { counters: newCounters(), memory: 0, timers: 0, work: '', lagMs: 0, isInspected: false }
  /** The limit it reached, or another reason why it is replaced; empty at a reload. */
  leavesFor = ''
  /** A reload has brought new code to others, and was given up before it came to this process. */
  isOutdated = false
  /** The exit code with which it leaves on its own, having served; null if it does not. */
  announcedExitCode: number | null = null
  /** It is at its connection limit and accepts no more. */
  isFull = false
  /** While the whole server stops: it has nothing left to do, and stays for others. */
  isIdle = false
  /** Its resident set, in bytes, when it became ready; 0 if unknown. */
  memoryAtReady = 0
  /** Messages per second over the last heartbeats. */
  messageRate = 0
  readonly #hasRetired = withResolvers()
  readonly #isActive = withResolvers()
  readonly #end = withResolvers<WorkerExitInfo>()
  /** It has given up its singletons, or is gone. */
  readonly retired = this.#hasRetired.promise
  /** Resolves when its `onWorkerActive` has settled; not if it ends before. */
  readonly active = this.#isActive.promise
  /** Resolves when it has ended; never rejects. */
  readonly gone = this.#end.promise
  readonly #child: Child
  readonly #tail: Tail
  /** The last address at which an inspector was looked for: that may take long if there are many descriptors. */
  #looked = { url: '', isThere: false }
  #reason = ''
  #reasonCode: number | null = null
  #isLogged = false
  /** Why the master killed it. */
  #killedFor = ''
  #isReady = false
  #leavesByItself = false
  #wasTold = false
  #isReleased = false
  /** When it last had something to do again. */
  #resumedAt = Number.NEGATIVE_INFINITY
  /** When it last had nothing left to do after more than short work. */
  #restsSince = Number.POSITIVE_INFINITY
  #hasTimedOut = false
  #wasKilled = false
  #deadline: NodeJS.Timeout | undefined
  #deadlineAt = Number.POSITIVE_INFINITY
  #longestLagMs = 0
  #rateSince = now()
  #rateFrom = 0
  #share = 0
  /** Callers waiting for the next report: several may ask at once. */
  readonly #onReport = new Set<() => void>()
  #isPolled = false
  /**
   * Its stand-in turns by place. Sockets and messages reach the worker over two channels, so a message may arrive
   * before its socket, or after the socket of a later turn at the same place; the turn number tells them apart.
   */
  readonly #turns = new Map<number, { readonly turn: number; readonly socket: BoundSocket }>()
  #lastTurn = 0
  /** Callbacks for when it has been relieved, by turn. */
  readonly #relieved = new Map<number, () => void>()
  #onPage: ((page: OwnConnections) => void)[] = []

  constructor(child: Child, options: HandleOptions) {
    const { incarnation, startTimeoutMs, socket, tail, stuckTimeoutMs, meshAddress } = options
    this.#child = child
    this.#tail = tail
    this.stuckTimeoutMs = stuckTimeoutMs
    this.incarnation = incarnation
    this.socket = socket
    this.meshAddress = meshAddress
    child.channel.onMessage = (message) => {
      if (isWellFormed(message)) this.#receive(message)
      else this.#refuse(`an incomplete message: '${message.type}'`)
    }
    child.onNonsense = (why) => this.#refuse(`what is not for its channel of handles: ${why}`)
    onceUnstarted(child.process, (error) => this.#gone(null, null, error))
    onceEnded(child.process, (code, signal) => this.#gone(code, signal, null))
    if (startTimeoutMs < Number.POSITIVE_INFINITY)
      // This process may have been suspended, and the `ready` may wait to be read: that comes before an immediate.
      this.#deadline = setTimeout(() => setImmediate(() => this.#timeOut(startTimeoutMs)), startTimeoutMs)
  }

  /** 0 if the spawn failed. */
  get pid(): number {
    return this.#child.process.pid ?? 0
  }

  /** It has been ready. */
  get hasServed(): boolean {
    return this.#isReady
  }

  /** It accepts connections, or will. From when it is told to stop, it does not. */
  get isAccepting(): boolean {
    return this.state !== 'stopping' && this.state !== 'gone'
  }

  /** It leaves on its own, with the exit code of a failure. */
  get isFailing(): boolean {
    return this.announcedExitCode !== null && this.announcedExitCode !== WorkerExit.Ended
  }

  /** Time until it must be gone, ms; Infinity before it is told to leave. */
  get remainingMs(): number {
    return this.#deadlineAt - now()
  }

  /** How long it has been silent, ms. */
  get silentMs(): number {
    return now() - this.heardAt
  }

  /** Whether it is ready, and was heard from lately. */
  get isServing(): boolean {
    return this.state === 'ready' && this.silentMs < HUNG_AFTER_MS
  }

  /** Resolves when it is ready; rejects with the reason if it ends before that. */
  untilReady(): Promise<void> {
    return new Promise((resolve, reject) => {
      this.onReady = resolve
      if (this.state !== 'starting') resolve()
      void this.gone.then((exit) => reject(new Error(exit.reason || exit.word)))
    })
  }

  /** From now on it is the only process of its slot. */
  activate(): void {
    this.#child.channel.send({ type: 'activate' })
  }

  /** Another process takes over its slot. `retired` resolves when it has given up its singletons. */
  retire(isReload: boolean): void {
    if (this.#leavesByItself) return // it gives up everything at its end
    if (this.state !== 'ready') return this.#hasRetired.resolve() // it was never active
    this.#move('retiring')
    this.#child.channel.send({ type: 'retire', isReload })
  }

  giveSocket(request: number, socket: BoundSocket): void {
    this.innerSockets.add(socket)
    this.#sendSocket(request, socket)
  }

  #sendSocket(request: number, { endpoint, handle }: BoundSocket): void {
    sendSocket(this.#child.process, { request, endpoint, handle }, (error) => {
      this.refuseSocket(request, { code: codeOf(error), syscall: 'send', address: endpoint, message: error.message })
    })
  }

  /** From now on the worker owns the connection. */
  giveConnection(request: number, connection: Socket): void {
    if (!this.#child.process.connected) connection.destroy()
    else sendSocket(this.#child.process, { request, endpoint: '', handle: connection })
  }

  standIn(place: number, socket: BoundSocket): void {
    const { endpoint, handle } = socket
    const turn = ++this.#lastTurn
    this.#turns.set(place, { turn, socket })
    sendSocket(this.#child.process, { request: standInRequest(turn), endpoint, handle })
  }

  /** Resolves when it has let go of the socket, or does not answer in time. */
  async relieve(place: number): Promise<void> {
    const { turn = 0 } = this.#turns.get(place) ?? {}
    this.#turns.delete(place)
    if (turn === 0 || this.state === 'gone') return
    this.#child.channel.send({ type: 'relieve', turn })
    await new Promise<void>((resolve) => {
      const late = setTimeout(resolve, RELIEVE_MS)
      const tell = () => {
        clearTimeout(late)
        this.#relieved.delete(turn)
        resolve()
      }
      this.#relieved.set(turn, tell)
      void this.gone.then(tell)
    })
  }

  /** Sends it again the socket it inherited, or that of a stand-in turn that is not over. */
  #giveAgain(request: number, turn: number): void {
    const isMeant = (one: { readonly turn: number }) => one.turn === turn
    const socket = turn === 0 ? this.socket : ([...this.#turns.values()].find(isMeant)?.socket ?? null)
    if (socket !== null) this.#sendSocket(request, socket)
    else
      this.refuseSocket(request, { code: 'ECANCELED', syscall: 'listen', address: '', message: 'it has been relieved' })
  }

  refuseSocket(request: number, failure: SocketFailure): void {
    this.#child.channel.send({ type: 'cannotListen', request, failure })
  }

  /** Sent only if it has changed. */
  useShare(connections: number): void {
    if (connections === this.#share) return
    this.#share = connections
    this.#child.channel.send({ type: 'share', connections })
  }

  /** Has this share (0 to 1) of the clients that keep their connections to it connect anew. */
  renew(share: number): void {
    this.#child.channel.send({ type: 'renew', share })
  }

  tellPeers(news: PeerNews): void {
    if (this.state !== 'gone') this.#child.channel.send({ type: 'peers', news })
  }

  /** While on, reports include the lag of its event loop. */
  watchLag(isOn: boolean): void {
    this.#longestLagMs = 0
    this.#child.channel.send({ type: 'watchLag', isOn })
  }

  /**
   * The longest lag of its event loop since the last call, ms. Kept here, since heartbeats and `status` consume reports
   * too.
   */
  takeLag(): number {
    const longestMs = this.#longestLagMs
    this.#longestLagMs = 0
    return longestMs
  }

  useTickets(keys: string): void {
    this.#child.channel.send({ type: 'tickets', keys })
  }

  /** It now leads this name, see leaders.ts. */
  lead(name: string, ticket: number): void {
    this.#child.channel.send({ type: 'lead', name, ticket })
  }

  /** A reload that keeps this process. */
  reload(): void {
    this.#child.channel.send({ type: 'reload' })
  }

  /**
   * Asks it to end its connections and leave, and kills it if it has not within `windowMs`. A further call can only
   * shorten the time.
   */
  stop(windowMs: number): void {
    const timeoutMs = Math.min(windowMs, LONGEST_TIMEOUT_MS)
    if (this.state === 'gone' || now() + timeoutMs >= this.#deadlineAt) return
    const isBooting = this.state === 'starting'
    this.#wasTold = true
    this.#toBeGone(timeoutMs)
    this.#child.channel.send({ type: 'stop', timeoutMs })
    if (isBooting) this.#child.process.kill('SIGTERM') // it may not read its channel yet
  }

  /**
   * Idle, or has been for a while but for short moments. Timers that send may go on for ever, and then there may never
   * be a moment in which all workers are idle.
   */
  get isResting(): boolean {
    const time = now()
    return time - this.#restsSince >= SHORT_WORK_MS && (this.isIdle || time - this.#resumedAt < SHORT_WORK_MS)
  }

  #becomeIdle(isIdle: boolean): void {
    const time = now()
    if (!isIdle) this.#resumedAt = time
    else if (time - this.#resumedAt >= SHORT_WORK_MS) this.#restsSince = time
    this.isIdle = isIdle
  }

  /** It need not stay for others any more. */
  release(): void {
    if (this.#isReleased) return
    this.#isReleased = true
    this.#child.channel.send({ type: 'release' })
  }

  #toBeGone(timeoutMs: number): void {
    this.#deadlineAt = now() + timeoutMs
    if (this.state !== 'stopping') this.#move('stopping')
    this.#killAfter(timeoutMs + KILL_SLACK_MS)
  }

  /** It still tells senders of lost messages: as long as it says so it has more time, up to a limit. */
  #extend(): void {
    const until = Math.min(now() + KILL_SLACK_MS, this.#deadlineAt + MOST_TELLING_MS)
    if (this.state !== 'stopping' || until <= this.#deadlineAt + KILL_SLACK_MS) return
    this.#killAfter(Math.max(until - now(), 1))
  }

  #killAfter(ms: number): void {
    clearTimeout(this.#deadline)
    // As in the constructor: its end, or a `telling`, may wait to be read.
    const deadline = setTimeout(() => setImmediate(() => this.#deadline === deadline && this.#killLate()), ms)
    this.#deadline = deadline
  }

  #leave(exitCode: number, timeoutMs: number): void {
    const isServing = this.state === 'ready'
    this.#leavesByItself ||= this.state !== 'stopping' // otherwise it was told to
    if (this.state === 'starting' || now() + timeoutMs >= this.#deadlineAt) return
    this.#toBeGone(Math.min(timeoutMs, LONGEST_TIMEOUT_MS))
    if (!isServing) return
    this.announcedExitCode = exitCode
    this.onLeaving?.()
  }

  kill(): void {
    if (this.state !== 'gone') this.#child.process.kill('SIGKILL')
  }

  /** Whether what it logs, such as the address of its inspector, comes through this process. */
  get isLogPiped(): boolean {
    return Boolean(this.#child.process.stderr)
  }

  /** Sets the reason that its exit will give when it is killed. */
  condemn(word: string, reason: string): void {
    this.#killedFor = word
    this.#reason = reason
  }

  /**
   * Whether its inspector is open: it has reported that, or a line since its last report says so, and it does listen
   * there.
   */
  get isInspected(): boolean {
    return this.report.isInspected || this.#listensAt(this.#tail.inspectorUrl)
  }

  /** The address of its inspector, once it opens that. */
  nextInspectorUrl(): Promise<string> {
    return this.#tail.nextInspectorUrl()
  }

  #listensAt(url: string): boolean {
    if (url === '') return false
    const { host, port } = new URL(url)
    // Where it serves, there is no inspector.
    const isServedThere = [this.socket, ...this.innerSockets].some((one) => one?.endpoint === host)
    if (this.#looked.url !== url)
      this.#looked = { url, isThere: !isServedThere && listensOnLoopback(this.pid, Number(port)) }
    return this.#looked.isThere
  }

  /** Resolves to true after a fresh report, or to false if the worker does not answer in time: it is busy. */
  poll(timeoutMs: number): Promise<boolean> {
    if (this.state === 'gone') return Promise.resolve(true)
    return new Promise((resolve) => {
      const tell = () => {
        clearTimeout(late)
        resolve(true)
      }
      const late = setTimeout(() => {
        this.#onReport.delete(tell)
        resolve(false)
      }, timeoutMs)
      this.#onReport.add(tell)
      // A stopped process would find them all when it continues.
      if (!this.#isPolled) this.#child.channel.send({ type: 'poll' })
      this.#isPolled = true
    })
  }

  /** Connections with an id above `after`, or null if the worker does not answer in time. */
  connections(after: number, limit: number, timeoutMs: number): Promise<OwnConnections | null> {
    if (this.state === 'gone') return Promise.resolve({ rows: [], hasMore: false })
    if (this.#onPage.length >= MOST_PAGES) return Promise.resolve(null)
    return new Promise((resolve) => {
      const late = setTimeout(() => resolve(null), timeoutMs)
      this.#onPage.push((page) => {
        clearTimeout(late)
        resolve(page)
      })
      this.#child.channel.send({ type: 'connections', after, limit })
    })
  }

  /** How long ago it became ready; 0 if it has not. */
  get servedMs(): number {
    return Math.max(0, now() - this.#readyAt)
  }

  /** Its counters, to be added to a slot's past: its connections have ended with it. */
  countersOfThePast(): Counters {
    const { counters } = this.report
    return { ...addCounters(newCounters(), counters), connections: 0, closed: counters.closed + counters.connections }
  }

  #move(to: HandleState): void {
    if (!EDGES[this.state].includes(to)) throw new Error(`a worker does not go from ${this.state} to ${to}`)
    this.state = to
    this.onMove?.(to)
  }

  #receive(message: FromChild): void {
    if (this.state === 'gone') return
    this.heardAt = now()
    switch (message.type) {
      case 'ready':
        return this.#becomeReady(message.memory)
      case 'report':
        return this.#note(message.report)
      case 'listen':
        return this.#listenFor(message.request, message.wanted)
      case 'full':
        this.isFull = message.isFull
        return this.onFull?.()
      case 'idle':
        this.#becomeIdle(message.isIdle)
        return this.onIdle?.()
      case 'connections':
        return this.#onPage.shift()?.(message)
      case 'relieved':
        return this.#relieved.get(message.turn)?.()
      case 'leaving':
        return this.#leave(message.exitCode, message.timeoutMs)
      case 'telling':
        return this.#extend()
      case 'retired':
        return this.#hasRetired.resolve()
      case 'active':
        return this.#isActive.resolve()
      case 'reachKeeper':
        return this.onReachKeeper?.(message.request)
      case 'stand':
        return this.onStand?.(message.name, message.ticket)
      case 'resign':
        return this.onResign?.(message.name, message.ticket)
      case 'failed':
        this.#reason = message.message.slice(0, LONGEST_REASON)
        this.#reasonCode = message.exitCode
        this.#isLogged = message.isLogged === true
    }
  }

  /** Nothing it says can be trusted any more. */
  #refuse(what: string): void {
    this.condemn('spoke nonsense', `it sent its master ${what}`)
    this.kill()
  }

  #becomeReady(memory: number): void {
    if (this.state !== 'starting' || this.#leavesByItself || this.#killedFor !== '') return
    clearTimeout(this.#deadline)
    this.#isReady = true
    this.#readyAt = now()
    this.memoryAtReady = memory
    this.#move('ready')
    this.onReady?.()
  }

  #listenFor(request: number, wanted: WantedSocket): void {
    if (wanted.address === '') this.#giveAgain(request, wanted.turn)
    else this.onListen?.(request, wanted)
  }

  #note(report: Report): void {
    this.report = report
    if (!report.isInspected) this.#tail.inspectorUrl = '' // it knows better than its log
    this.#longestLagMs = Math.max(this.#longestLagMs, report.lagMs)
    const elapsed = now() - this.#rateSince
    if (elapsed >= RATE_WINDOW_MS) {
      this.messageRate = Math.round(((report.counters.messagesIn - this.#rateFrom) * 1000) / elapsed)
      this.#rateSince += elapsed
      this.#rateFrom = report.counters.messagesIn
    }
    this.#isPolled = false
    this.#tellReport()
    this.onReport?.()
  }

  #tellReport(): void {
    const waiting = [...this.#onReport]
    this.#onReport.clear()
    for (const tell of waiting) tell()
  }

  #timeOut(ms: number): void {
    if (this.state !== 'starting') return
    this.#hasTimedOut = true
    this.#killedFor = 'not ready in time'
    this.#reason = `not ready within ${ms / 1000} s (startTimeoutMs): has onWorkerStart settled?`
    this.kill()
  }

  #killLate(): void {
    this.#wasKilled = true
    this.#killedFor = 'did not leave in time'
    this.kill()
  }

  #gone(code: number | null, signal: string | null, unstarted: CommandError | null): void {
    if (this.state === 'gone') return
    this.#move('gone')
    clearTimeout(this.#deadline)
    this.#child.channel.destroy()
    this.#tellReport()
    for (const tell of this.#onPage.splice(0)) tell({ rows: [], hasMore: false })
    const { lines, isOutOfMemory } = this.#tail
    // Its message is lost if we have sent it something when it was gone: that ends Node's stream, with what is unread.
    const logged = code === WorkerExit.Uncaught ? this.#tail.uncaught.slice(0, LONGEST_REASON) : ''
    const isAborted = V8_ENDS.has(signal ?? code)
    const why =
      this.#killedFor !== '' && signal !== null ? this.#killedFor : isOutOfMemory && isAborted ? 'out of memory' : ''
    const exit = {
      exitCode: code ?? this.#reasonCode ?? WorkerExit.Uncaught,
      status: signal === null ? (code ?? 0) << 8 : (constants.signals[signal as NodeJS.Signals] ?? 0),
      word:
        unstarted === null
          ? describeExit(code, signal, why)
          : `spawn failed: ${messageOf(unstarted.cause ?? unstarted)}`,
      reason: this.#reason || logged || (code === NODE_REFUSES ? refusalIn(lines) : ''),
      isLogged: this.#isLogged || (this.#reason === '' && logged !== ''),
      lastLog: lines,
      unstarted,
      hadBeenReady: this.#isReady,
      hasTimedOut: this.#hasTimedOut,
      wasTold: this.#wasTold,
      wasKilled: this.#wasKilled && signal === 'SIGKILL', // otherwise it had ended before that
      aliveMs: now() - this.startedAt,
      servedMs: this.servedMs,
    }
    this.onGone?.(exit)
    this.#hasRetired.resolve()
    this.#end.resolve(exit)
  }
}

/** What Node has printed: `/usr/bin/node: bad option: --x`. */
function refusalIn(lines: readonly string[]): string {
  const said = `${process.execPath}: `
  const line = lines.find((one) => one.startsWith(said))
  return line === undefined ? '' : `Node does not start with these flags (execArgv): ${line.slice(said.length)}`
}
