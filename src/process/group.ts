// What the process layer sees of a Worker: this interface and nothing else. Also the list of Workers that the user's
// modules have declared in this process.

import type { Counters } from '../counters.ts'
import { UsageError } from '../errors.ts'
import type { Credentials } from '../rights.ts'
import type { Handle } from '../transport.ts'
import { version } from '../version.ts'
import type { Candidates } from './child/candidates.ts'

/** A group as a describe process reports it: all that the master ever learns of the user's code. Plain JSON. */
export interface Declaration {
  /** 'none' if the user gave none, as in Workerman. */
  readonly name: string
  /** The address as declared, or an empty string. */
  readonly listen: string
  readonly protocol: string
  readonly count: number
  readonly backlog: number
  readonly startTimeoutMs: number
  readonly drainTimeoutMs: number
  /** Limits of a process, after which it is replaced; 0 means no limit. Memory is in bytes of resident set. */
  readonly maxRequests: number
  readonly maxMemory: number
  readonly maxLifetimeMs: number
  /** How long the event loop of a process may be blocked before the process is killed; 0 means forever. */
  readonly stuckTimeoutMs: number
  /** This many failures of a slot in a row are a crash loop. */
  readonly crashLoopAfter: number
  /** This many processes of the group must serve for the server to be ready (health.ts). */
  readonly minReady: number
  readonly reloadMode: ReloadMode
  /** False: a reload only calls `onWorkerReload`, and the processes stay. */
  readonly reloadable: boolean
  /** Each process has a socket of its own on the same port. */
  readonly reusePort: boolean
  /** As declared: names or numbers; empty for none. */
  readonly user: string
  readonly group: string
  /** The user the processes run as, looked up by the describe process; null: the master's. */
  readonly credentials: Credentials | null
  /** Node flags of these processes, added after those the master was started with. */
  readonly execArgv: readonly string[]
  readonly isSecure: boolean
  /** `ssl`: TLS from the first byte on. Empty without an address. */
  readonly transport: 'tcp' | 'udp' | 'unix' | 'ssl' | ''
  /** Which engine serves the address, and the reason if it is not `native`. */
  readonly engine: { readonly name: string; readonly why: string }
}

/**
 * `start-first` never has a process too few. `stop-first` never has two at once, for exclusive resources such as a lock
 * or a serial port.
 */
export type ReloadMode = 'start-first' | 'stop-first'

/** A socket that the master bound and this process inherited. If `fd` is -1, this process binds it. */
interface InheritedSocket {
  readonly fd: number
  /** The address it must be bound to, port resolved. */
  readonly endpoint: string
}

/** A listening socket that a worker requests from its master. */
export interface WantedSocket {
  /** Empty for the declared address, and in a stand-in turn. */
  readonly address: string
  /**
   * At port 0 each listener of a process has its own port; this says which listener. All processes of the group share
   * it.
   */
  readonly nth: number
  /** The stand-in turn for a sibling; 0 for the process's own socket. */
  readonly turn: number
}

/** A socket that the master gave to a running process. */
export interface GivenSocket {
  /** Undefined when this process had no descriptor left for it. */
  readonly handle: Handle | undefined
  readonly endpoint: string
}

/** One slot as other processes see it. */
export interface PeerRow {
  readonly mailbox: string
  /** The group's name, for display. */
  readonly group: string
  readonly id: number
  /** Of the slot's ready process; 0 if it has none; -1 if the slot no longer exists. */
  readonly incarnation: number
  /** Where that process is reached; empty if there is none. */
  readonly address: string
  readonly next: Succession
  /** The slot's other processes that serve clients; absent: none. */
  readonly beside?: readonly PeerBeside[]
}

/**
 * A process beside the one that has its slot: one that drains, or a canary. What is published and broadcast is for it,
 * too; a canary also takes part in what goes to any worker of its group.
 */
export interface PeerBeside {
  readonly incarnation: number
  readonly address: string
  readonly role: 'leaving' | 'canary'
}

/**
 * When the next process of a slot comes: by itself, even if one is still leaving; only after that one has gone (at a
 * `restart`: all of its group); or when a command starts its group, which is stopped.
 */
export type Succession = 'soon' | 'afterwards' | 'on command'

/** The key of a slot in a map: the id is what follows the last line break. */
export function workerKey({ mailbox, id }: Pick<PeerRow, 'mailbox' | 'id'>): string {
  return `${mailbox}\n${id}`
}

/** Changes among the slots. */
export interface PeerNews {
  readonly rows: readonly PeerRow[]
  /** The server is stopping: processes that leave now are not replaced. */
  readonly isEnding: boolean
}

/** A process's place in the mesh: its own address and mailbox, the shared secret, and the other processes. */
export interface MeshPlace extends PeerNews {
  /** Bound; -1 if the master could not bind it. */
  readonly fd: number
  readonly address: string
  /** Shared by this server's processes, in base64. */
  readonly secret: string
  /** This process's own. */
  readonly mailbox: string
}

/** What the master gives a process to serve with. */
export interface Assignment {
  readonly id: number
  readonly incarnation: number
  readonly sockets: readonly InheritedSocket[]
  readonly tls: { readonly ticketKeys: string; readonly files: Readonly<Record<string, string>> }
  /** Absent if no master started this process. */
  readonly mesh?: MeshPlace
}

/** An open connection, as `connections` lists it. */
export interface ConnectionRow {
  readonly id: number
  readonly protocol: string
  /** `client`: this process has opened it. */
  readonly role: 'server' | 'client'
  /** `tcp`, `ssl` or `unix`. */
  readonly transport: string
  readonly isIpV4: boolean
  readonly isIpV6: boolean
  /** `recvQueue`: bytes received that no handler has seen. `sendQueue`: bytes sent that the kernel has not taken. */
  readonly recvQueue: number
  readonly sendQueue: number
  readonly bytesRead: number
  readonly bytesWritten: number
  /** ESTABLISHED, ENDING, CLOSING. */
  readonly status: string
  readonly local: string
  readonly remote: string
}

export interface Group {
  /** The slot and the process of it that this group stands for here; 0 in a process that only describes it. */
  id: number
  incarnation: number
  /** Throws UsageError for a declaration that cannot work. */
  describe(): Declaration
  /** How long a graceful end may take now, even if user code has made a setting invalid since `describe`. */
  readonly drainWindowMs: number
  /**
   * Reads and checks the TLS files, in base64, for processes that may lack permission to read them. Throws UsageError.
   */
  readTlsFiles(): Readonly<Record<string, string>>
  /** Runs the user's `onWorkerStart`, then accepts. Resolves when it serves, which makes the process `ready`. */
  start(place: Assignment): Promise<void>
  /** Accepts for a sibling that is absent or full, until `relieve` is called with this turn. */
  standIn(turn: number, socket: GivenSocket): void
  /** Resolves when the socket of that turn is closed here. */
  relieve(turn: number): Promise<void>
  /** Sets this process's fair share: with more connections than this, its siblings have fewer. */
  useShare(connections: number): void
  /** Has this share (0 to 1) of the clients that keep their connections connect anew, where the protocol has a way. */
  renew(share: number): void
  /** Called after many connections in a short time, so that the master can rebalance. */
  onBurst: (() => void) | null
  /** Called when the process has been at its connection limit for a while, and when it has room again. */
  onFull: ((isFull: boolean) => void) | null
  /**
   * Called in a drain of the whole server: nothing is left to do here, but others are still at work and may ask for
   * something; and when something is left again. `drain` does not resolve before `release` is called.
   */
  onIdle: ((isIdle: boolean) => void) | null
  /** Nobody is at work any more who could ask. */
  release(): void
  /** Sets new ticket keys, in base64. */
  useTickets(keys: string): void
  /** From now on this process is the only one of its slot: runs `onWorkerActive`. */
  activate(): Promise<void>
  /** Another process takes over this slot: runs `onWorkerReload` if it is a reload, then `onWorkerRetire`. */
  retire(isReload: boolean): Promise<void>
  /** A reload that keeps this process (`reloadable: false`): runs `onWorkerReload`. Never rejects. */
  reload(): Promise<void>
  /**
   * Stops accepting, finishes work in flight and closes connections within `windowMs`. Resolves when nothing is left,
   * of all that it counts and in the same turn: the process may end then.
   */
  drain(windowMs: number): Promise<void>
  /** `drain` does not resolve until this is released; `why` is for `describeWork`. */
  hold(why: string): () => void
  /** The time to drain is up. Returns for how long, in ms, connections still leave with what has arrived; mostly 0. */
  finish(): number
  /** Messages sent by this process that have not been handled, as far as it knows. */
  readonly unsettledMessages: number
  /** Tells their senders that they are lost, without blocking the event loop. */
  tellLost(): Promise<void>
  /** Whether connections are left. */
  readonly isConnected: boolean
  /** Closes them at once. What their `onClose` sends may still leave. */
  disconnect(): void
  /** The connections that this process has opened. */
  readonly clients: { readonly size: number }
  /** They say goodbye and half-close; none connects again. */
  partWithClients(): void
  /** Closes at once whatever is left; no message leaves or comes any more. */
  cutOff(): void
  /** Tells the senders of what has been sent since `cutOff`, at once. */
  tellRest(): void
  /** What keeps `drain` from finishing, in words; empty if nothing does. */
  describeWork(): string
  /** Up to `limit` open connections with an id above `after`, in order of id; those this process has opened, too. */
  listConnections(after: number, limit: number): ConnectionRow[]
  readonly counters: Counters
  /**
   * Address of the group's messages: the same in all its processes, different for every group. Set when all groups have
   * been declared.
   */
  mailbox: string
  /** Updates the list of other processes. */
  usePeers(news: PeerNews): void
}

/** Settings that belong to no group: the static properties of Worker. */
export interface Settings {
  readonly stopTimeoutMs: number
  /** Empty when the code sets none. */
  readonly logFile: string
  readonly stdoutFile: string
  readonly pidFile: string
  /** Bytes; 0 means no bound. */
  readonly logFileMaxSize: number
  readonly unhandledRejection: RejectionPolicy
  /** The callbacks that the code has assigned. */
  readonly callbacks: readonly MasterCallback[]
  /** The address for probes; empty: none. */
  readonly health: string
  /** In a graceful stop, how long the server reports "not ready" but keeps serving before it drains. */
  readonly stopDelayMs: number
}

/** Workerman's master callbacks. Here they run in a process of their own. */
export type MasterCallback = 'onMasterReload' | 'onMasterStop' | 'onWorkerExit'

/**
 * `exit`, as in Node: the worker ends with 250 and is replaced. `log`: the rejection is logged and counted, and the
 * worker goes on.
 */
export type RejectionPolicy = 'exit' | 'log'

/**
 * Upper bound of a start or stop timeout, ms: Node's timers take 2^31 - 1 ms, and the kill comes later than the
 * timeout.
 */
export const LONGEST_TIMEOUT_MS = 2_000_000_000

/** Of one group. More is a typo: each is a process, and knows all others. */
export const MOST_PROCESSES = 1024

export const DEFAULT_SETTINGS: Settings = {
  stopTimeoutMs: 2000,
  logFile: '',
  stdoutFile: '',
  pidFile: '',
  logFileMaxSize: 10_485_760,
  unhandledRejection: 'exit',
  callbacks: [],
  health: '',
  stopDelayMs: 0,
}

/** The state of one copy of this package in this process. */
export interface Registry {
  readonly version: string
  readonly groups: Group[]
  /**
   * In a child: `Worker.runAll()` calls this to report that everything is declared. Null in a process started by a
   * person.
   */
  onRunAll: (() => void) | null
  /** As they were at `Worker.runAll()`. */
  settings: Settings
  /** As they were at `Worker.runAll()`. */
  callbacks: Partial<Record<MasterCallback, (...args: unknown[]) => unknown>>
  /**
   * `native`, `node`, or empty for the best available. Set by the code, unless the command line chose one
   * (`isEngineGiven`).
   */
  engine: string
  isEngineGiven: boolean
  /** In a worker: asks the master for a socket of the group. Rejects with a SystemError or a UsageError. */
  requestSocket: ((wanted: WantedSocket) => Promise<GivenSocket>) | null
  /** In a worker, from its start on: asks for a connection to the keeper of shared data, a net.Socket. */
  requestKeeper: (() => Promise<GivenSocket>) | null
  /** Descriptor of the memory shared by all workers; -1 for none. */
  memoryFd: number
  /** In a worker: the leaderships it stands for. */
  candidates: Candidates | null
  /** Ends this worker process as `stop` would. */
  requestStop: ((code: number) => void) | null
}

const kRegistry = Symbol.for('millrace')
type Holder = { [kRegistry]?: Registry }

const own: Registry = {
  version,
  groups: [],
  onRunAll: null,
  settings: DEFAULT_SETTINGS,
  callbacks: {},
  engine: '',
  isEngineGiven: false,
  requestSocket: null,
  requestKeeper: null,
  memoryFd: -1,
  candidates: null,
  requestStop: null,
}

/** The registry of this copy. Throws a UsageError if another copy of the package is active in this process. */
export function registry(): Registry {
  const holder = globalThis as Holder
  holder[kRegistry] ??= own
  if (holder[kRegistry] === own) return own
  throw new UsageError(
    'ERR_TWO_COPIES',
    `two copies of millrace in one process (${holder[kRegistry].version} and ${version}): see 'npm ls millrace', then 'npm dedupe'`,
  )
}
