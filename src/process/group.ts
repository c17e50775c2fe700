// What the process layer sees of a Worker: this interface and nothing else. And the list of those that the user's
// modules have declared in this process.

import type { Counters } from '../counters.ts'
import { UsageError } from '../errors.ts'
import { version } from '../version.ts'
import type { Candidates } from './child/candidates.ts'

/** A group as a describe process reports it: all that the master ever learns of the user's code. Plain JSON. */
export interface Declaration {
  /** 'none' when the user gave none, as Workerman. */
  readonly name: string
  /** The address as declared, or an empty string. */
  readonly listen: string
  readonly protocol: string
  readonly count: number
  readonly backlog: number
  readonly startTimeoutMs: number
  readonly drainTimeoutMs: number
  /** What a process may do before another takes its place; 0 is without limit. Memory in bytes of resident set. */
  readonly maxRequests: number
  readonly maxMemory: number
  readonly maxLifetimeMs: number
  /** How long the event loop of a process may not turn before it is killed; 0 is for ever. */
  readonly stuckTimeoutMs: number
  /** So many failures of a slot in a row are a crash loop. */
  readonly crashLoopAfter: number
  /** So many of its processes must serve for the server to be ready (health.ts). */
  readonly minReady: number
  readonly reloadMode: ReloadMode
  /** False: a reload only calls `onWorkerReload`; the processes stay. */
  readonly reloadable: boolean
  /** A socket for each process, on one port. */
  readonly reusePort: boolean
  /** As declared: names or numbers; empty for none. */
  readonly user: string
  readonly group: string
  /** Who the processes run as, looked up by describe; null: as the master does. */
  readonly credentials: Credentials | null
  /** Flags of Node for these processes, after those that the master itself was started with. */
  readonly execArgv: readonly string[]
  readonly isSecure: boolean
  /** `ssl` for TLS from the first byte on; empty without an address. */
  readonly transport: 'tcp' | 'udp' | 'unix' | 'ssl' | ''
  /** Which engine serves its address, and if it is not `native`, why. */
  readonly engine: { readonly name: string; readonly why: string }
}

/** `start-first` never lacks a process; `stop-first` never has two: for what only one can hold, a lock, a serial port. */
export type ReloadMode = 'start-first' | 'stop-first'

/** A user and group, looked up. */
export interface Credentials {
  /** For initgroups(3); null for a uid without a name. */
  readonly user: string | null
  readonly uid: number
  readonly gid: number
}

/** A socket that the master bound and this process inherited, or with -1 one that this process is to bind. */
export interface InheritedSocket {
  readonly fd: number
  /** What it must be bound to, port resolved. */
  readonly endpoint: string
}

/** A socket to listen on that a worker asks its master for. */
export interface WantedSocket {
  /** Where; empty for what it serves by its declaration, or in a turn of standing in. */
  readonly address: string
  /** At port 0 each listener of a process has a port of its own: which of them it is. All processes of the group share it. */
  readonly nth: number
  /** Of standing in for a sibling; 0 for its own. */
  readonly turn: number
}

/** A socket that the master gave to a running process. */
export interface GivenSocket {
  readonly handle: unknown
  readonly endpoint: string
}

/** One slot as other processes see it. */
export interface PeerRow {
  readonly mailbox: string
  /** The group's name, for people. */
  readonly group: string
  readonly id: number
  /** Of the process that has it and is ready; 0 when there is none; -1 when there is no such slot any more. */
  readonly incarnation: number
  /** Where that process is reached; empty without one. */
  readonly address: string
}

/** What has changed among the slots. */
export interface PeerNews {
  readonly rows: readonly PeerRow[]
  /** The server is being stopped: who goes now does not come back. */
  readonly isEnding: boolean
}

/** A process's part in the mesh: what others reach it by, what it proves itself with, and who the others are. */
export interface MeshPlace extends PeerNews {
  /** Bound; -1 when the master could not. */
  readonly fd: number
  readonly address: string
  /** Of this server, in base64. */
  readonly secret: string
  /** Its own. */
  readonly mailbox: string
}

/** What the master gives a process to serve with. */
export interface Assignment {
  readonly id: number
  readonly incarnation: number
  readonly sockets: readonly InheritedSocket[]
  readonly tls: { readonly ticketKeys: string; readonly files: Readonly<Record<string, string>> }
  /** Absent where no master started this process. */
  readonly mesh?: MeshPlace
}

/** An open connection, as `connections` lists it. */
export interface ConnectionRow {
  readonly id: number
  readonly protocol: string
  /** `tcp` or `unix`. */
  readonly transport: string
  readonly isIpV4: boolean
  readonly isIpV6: boolean
  /** Bytes received that no handler has seen, and bytes sent that the kernel has not taken. */
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
  /** Throws UsageError for a declaration that cannot work. */
  describe(): Declaration
  /** The files that TLS needs, in base64, read and found good: for processes that may have no right to. Throws UsageError. */
  readTlsFiles(): Readonly<Record<string, string>>
  /** Runs the user's `onWorkerStart`, then accepts. Resolves when it serves: that is `ready`. */
  start(place: Assignment): Promise<void>
  /** Accepts for a sibling that is not there, or has no room, until it is relieved of this turn. */
  standIn(turn: number, socket: GivenSocket): void
  /** Resolves when that socket is closed here. */
  relieve(turn: number): Promise<void>
  /** Beyond so many connections its siblings have fewer. */
  useShare(connections: number): void
  /** Called when it has taken many in a short time: the master should know. */
  onBurst: (() => void) | null
  /** Called when for a while it has had as many connections as it may, and when it has room again. */
  onFull: ((isFull: boolean) => void) | null
  /** Other ticket keys, in base64. */
  useTickets(keys: string): void
  /** This process is its slot's only one from now on: `onWorkerActive`. */
  activate(): Promise<void>
  /** Another process takes this one's place: at a reload `onWorkerReload`, then `onWorkerRetire`. */
  retire(isReload: boolean): Promise<void>
  /** A reload that leaves this process alone (`reloadable: false`): `onWorkerReload`. */
  reload(): Promise<void>
  /** Stops accepting, finishes the work in flight, closes connections within `windowMs`; resolves when none is left. */
  drain(windowMs: number): Promise<void>
  /** Closes what is left, at once. */
  stop(): void
  /** What keeps `drain` from being done, in words; empty when nothing does. */
  describeWork(): string
  /** Up to `limit` open connections with an id over `after`, by id. */
  listConnections(after: number, limit: number): ConnectionRow[]
  readonly counters: Counters
  /** What its messages are addressed to: the same for all processes, and for no other group. Set when all have been declared. */
  mailbox: string
  /** Which other processes there are now. */
  usePeers(news: PeerNews): void
}

/** Settings that belong to no group: the static properties of Worker. */
export interface Settings {
  readonly stopTimeoutMs: number
  /** Empty when the code says nothing. */
  readonly logFile: string
  readonly stdoutFile: string
  readonly pidFile: string
  /** Bytes; 0 is without bound. */
  readonly logFileMaxSize: number
  readonly unhandledRejection: RejectionPolicy
  /** Those that the code has assigned. */
  readonly callbacks: readonly MasterCallback[]
  /** Where probes are answered; empty: nowhere. */
  readonly health: string
  /** Of a graceful stop: for so long the server is not ready, and serves, before it drains. */
  readonly stopDelayMs: number
}

/** Workerman's callbacks of the master: here they run in a process of their own. */
export type MasterCallback = 'onMasterReload' | 'onMasterStop' | 'onWorkerExit'

/** `exit` as Node: the worker ends with 250 and is replaced. `log`: it is logged and counted, and the worker goes on. */
export type RejectionPolicy = 'exit' | 'log'

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

/** One copy of this package in this process. */
export interface Registry {
  readonly version: string
  readonly groups: Group[]
  /** In a child: what `Worker.runAll()` tells that everything is declared. Null in a process that a person started. */
  onRunAll: (() => void) | null
  /** As they were at `Worker.runAll()`. */
  settings: Settings
  /** The same. */
  callbacks: Partial<Record<MasterCallback, (...args: unknown[]) => unknown>>
  /** `native`, `node`, or empty for the best there is: of the code, unless the command line has its own. */
  engine: string
  isEngineGiven: boolean
  /** In a worker: a socket of the group's, made by the master. Rejects with a SystemError or a UsageError. */
  requestSocket: ((wanted: WantedSocket) => Promise<GivenSocket>) | null
  /** In a worker: a connection to the keeper of shared data, as a net.Socket. */
  requestKeeper: (() => Promise<GivenSocket>) | null
  /** Of the memory that all workers have; -1 for none. */
  memoryFd: number
  /** In a worker: what it would lead. */
  candidates: Candidates | null
  /** Ends this worker process as a `stop` would. */
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

/** The registry of this copy. Throws when another copy of the package is at work in this process. */
export function registry(): Registry {
  const holder = globalThis as Holder
  holder[kRegistry] ??= own
  if (holder[kRegistry] === own) return own
  throw new UsageError(
    'ERR_TWO_COPIES',
    `two copies of millrace in one process (${holder[kRegistry].version} and ${version}): see 'npm ls millrace', then 'npm dedupe'`,
  )
}
