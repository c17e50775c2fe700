// What master and children say to each other, as plain JSON on the private channel.

import type { Counters } from '../counters.ts'
import type { Failed } from './exit-codes.ts'
import type { Assignment, ConnectionRow, Credentials, Declaration, PeerNews, Settings, WantedSocket } from './group.ts'
import type { NodeSettings } from './node-flags.ts'
import type { FromSuccessor, Inheritance, ToSuccessor } from './upgrade/inheritance.ts'

/** The first message to every child. A child is told its role here and nowhere a grandchild could see it. */
export type Boot = MasterBoot | DescribeBoot | CallbackBoot | WorkerBoot | KeeperBoot

export interface MasterBoot {
  readonly role: 'master'
  readonly options: StartOptions
  readonly isDaemon: boolean
  readonly node: NodeSettings
  /** What it takes over from the master that runs. */
  readonly inheritance?: Inheritance
}

/** What every process that evaluates the user's modules is told. */
export interface ModuleBoot {
  readonly modules: readonly string[]
  readonly argv: readonly string[]
  /** stderr is a pipe to the master, which formats: log lines go there as records. */
  readonly isLogPiped: boolean
  /** Of the command line; undefined when the code decides. */
  readonly engine: string | undefined
}

export interface DescribeBoot extends ModuleBoot {
  readonly role: 'describe'
  /** Names or numbers of the command line: for this process too, and in place of what the code says. Empty for none. */
  readonly user: string
  readonly group: string
}

/** One or several calls of the code's master callbacks. */
export interface CallbackBoot extends ModuleBoot {
  readonly role: 'callback'
  /** As describe's. */
  readonly user: string
  readonly group: string
  readonly calls: readonly MasterCall[]
}

export type MasterCall =
  | { readonly name: 'onMasterReload' | 'onMasterStop' }
  /** `status` as wait(2) gives it: a signal's number, or 256 times an exit code. */
  | { readonly name: 'onWorkerExit'; readonly group: GroupKey; readonly status: number; readonly pid: number }

export interface WorkerBoot extends ModuleBoot {
  readonly role: 'worker'
  /** Whom to become before any user code runs. */
  readonly credentials: Credentials | null
  /** Which of the declared groups: its place is a hint, name and address decide. */
  readonly group: GroupKey
  readonly place: Assignment
  /** Of the memory with the counters that all workers share; -1 without the addon. */
  readonly memoryFd: number
}

export interface KeeperBoot {
  readonly role: 'keeper'
  /** Of its socket. */
  readonly path: string
  /** What its connections begin with. */
  readonly secret: string
  readonly isLogPiped: boolean
}

export type LogFormat = 'text' | 'json'

/** What the command line and the environment say. Undefined where they say nothing: then the code decides. */
export interface StartOptions {
  /** Absolute paths of the user's modules. */
  readonly modules: readonly string[]
  /** What follows `--`: the modules' own arguments. */
  readonly argv: readonly string[]
  readonly runDir: string | undefined
  readonly pidFile: string | undefined
  readonly logFile: string | undefined
  readonly stdoutFile: string | undefined
  readonly logFormat: LogFormat
  readonly logMaxSize: number | undefined
  readonly user: string | undefined
  readonly group: string | undefined
  readonly umask: number | undefined
  readonly engine: string | undefined
  readonly health: string | undefined
  readonly stopDelayMs: number | undefined
  /** The user's file was run, and not ours: `node app.js start`. */
  readonly isDirect: boolean
  /** Reload when code changes. */
  readonly isWatching: boolean
  readonly isQuiet: boolean
}

/** A group is known by name and address; `nth` tells equals apart. */
export interface GroupKey {
  readonly name: string
  readonly listen: string
  readonly nth: number
}

/** A SystemError, or a bad address when there is no system call in it. */
export interface SocketFailure {
  readonly code: string
  readonly syscall: string
  readonly address: string
  readonly message: string
}

export type ToChild =
  | { readonly type: 'boot'; readonly boot: Boot }
  /** You are your slot's only process now. */
  | { readonly type: 'activate' }
  /** Another process takes your place: give up what only one can have, then say `retired`. */
  | { readonly type: 'retire'; readonly isReload: boolean }
  /** A reload that leaves you alone. */
  | { readonly type: 'reload' }
  /** Drain and leave, within this time. A second one may shorten it. */
  | { readonly type: 'stop'; readonly timeoutMs: number }
  /** So many connections are this worker's share: beyond it, siblings should be quicker. */
  | { readonly type: 'share'; readonly connections: number }
  /** The sibling of this turn is back: its socket is its own again. */
  | { readonly type: 'relieve'; readonly turn: number }
  /** New keys for TLS tickets, in base64. */
  | { readonly type: 'tickets'; readonly keys: string }
  /** A socket that was asked for cannot be had. One that can comes over the handle channel. */
  | { readonly type: 'cannotListen'; readonly request: number; readonly failure: SocketFailure }
  /** You lead this, until you resign: `ticket` is the one that you stood with. */
  | { readonly type: 'lead'; readonly name: string; readonly ticket: number }
  /** Which other processes there are. */
  | { readonly type: 'peers'; readonly news: PeerNews }
  /** Whether reports are to tell how late the event loop was. */
  | { readonly type: 'watchLag'; readonly isOn: boolean }
  /** Asks a worker for a fresh report. */
  | { readonly type: 'poll' }
  /** Asks for a page of connections. */
  | { readonly type: 'connections'; readonly after: number; readonly limit: number }
  | ToSuccessor

export type FromChild =
  | {
      readonly type: 'declared'
      readonly groups: readonly Declaration[]
      /** Of each group, in base64: keys of TLS are among them, so they stay on the private channels. */
      readonly tlsFiles: readonly Readonly<Record<string, string>>[]
      readonly settings: Settings
    }
  /** With its resident set, bytes; 0 where nobody knows. */
  | { readonly type: 'ready'; readonly memory: number }
  /** Asks for a socket to listen on: a new one, or once more for its own. */
  | { readonly type: 'listen'; readonly request: number; readonly wanted: WantedSocket }
  /** For a while it has had as many connections as it may; or it has room again. */
  | { readonly type: 'full'; readonly isFull: boolean }
  /** Asks for a connection to the keeper of shared data, which comes over the handle channel. */
  | { readonly type: 'reachKeeper'; readonly request: number }
  | { readonly type: 'retired' }
  /** The socket of that turn is closed here. */
  | { readonly type: 'relieved'; readonly turn: number }
  /** It leaves by itself within this time, and does not accept any more. Again: within less. */
  | { readonly type: 'leaving'; readonly exitCode: number; readonly timeoutMs: number }
  /** It would lead this; or it does not any more, and its job has ended. */
  | { readonly type: 'stand' | 'resign'; readonly name: string; readonly ticket: number }
  /** It did not come up, or cannot go on; the reason with its stack. `isLogged`: it has written that itself. */
  | (Failed & { readonly isLogged?: boolean })
  | { readonly type: 'report'; readonly report: Report }
  | { readonly type: 'connections'; readonly rows: readonly ConnectionRow[]; readonly hasMore: boolean }
  /** From a master to who launched it: everything serves. */
  | { readonly type: 'started'; readonly banner: string }
  | FromSuccessor

/** A time to stop that is longer is this long: timers of Node take 2^31 - 1 ms, and what kills comes later. */
export const LONGEST_STOP_MS = 2_000_000_000
/** Characters of an error that are kept of one slot, and shown. */
export const LONGEST_REASON = 8192

/** How often a worker reports. */
export const HEARTBEAT_MS = 1000

/** A worker's heartbeat. Absolute values, so that a lost one is no error. */
export interface Report {
  readonly counters: Counters
  /** Resident set, bytes. */
  readonly memory: number
  /** Pending timers of the user's. */
  readonly timers: number
  /** What a drain would wait for, in words. */
  readonly work: string
  /** The longest delay of the event loop since the report before, ms; 0 unless it is watched. */
  readonly lagMs: number
  /** Its inspector is open. */
  readonly isInspected: boolean
}

/** The keys of declarations, in order. */
export function keysOf(declarations: readonly { name: string; listen: string }[]): GroupKey[] {
  const seen = new Map<string, number>()
  return declarations.map(({ name, listen }) => {
    const key = `${name}\n${listen}`
    const nth = seen.get(key) ?? 0
    seen.set(key, nth + 1)
    return { name, listen, nth }
  })
}

/** What the groups' messages are addressed to, in order: the name where that says which one is meant. */
export function mailboxesOf(declarations: readonly { name: string; listen: string }[]): string[] {
  return keysOf(declarations).map(({ name, listen, nth }) => {
    const isUnique = name !== 'none' && declarations.filter((one) => one.name === name).length === 1
    return isUnique ? name : [name, listen, nth || ''].filter((part) => part !== '').join(' ')
  })
}

export function isSameKey(a: GroupKey, b: GroupKey): boolean {
  return a.name === b.name && a.listen === b.listen && a.nth === b.nth
}
