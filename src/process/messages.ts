// Messages between master and children, as plain JSON on the private channel.

import type { Counters } from '../counters.ts'
import type { Credentials } from '../rights.ts'
import type { Failed } from './exit-codes.ts'
import type { Assignment, ConnectionRow, Declaration, PeerNews, Settings, WantedSocket } from './group.ts'
import type { NodeSettings } from './node-flags.ts'
import type { FromSuccessor, Inheritance, ToSuccessor } from './upgrade/inheritance.ts'

/** The first message to every child. The role is sent only here, where no grandchild can see it. */
export type Boot = MasterBoot | DescribeBoot | CallbackBoot | WorkerBoot | KeeperBoot

export interface MasterBoot {
  readonly role: 'master'
  readonly options: StartOptions
  readonly isDaemon: boolean
  readonly node: NodeSettings
  /** What it takes over from the running master. */
  readonly inheritance?: Inheritance
}

/** For every process that evaluates the user's modules. */
export interface ModuleBoot {
  readonly modules: readonly string[]
  readonly argv: readonly string[]
  /** stderr is a pipe to the master, which does the formatting: log lines are written there as records. */
  readonly isLogPiped: boolean
  /** From the command line; undefined when the code decides. */
  readonly engine: string | undefined
}

export interface DescribeBoot extends ModuleBoot {
  readonly role: 'describe'
  /** Names or numbers from the command line. They apply to this process too and override the code. Empty for none. */
  readonly user: string
  readonly group: string
}

/** One or more calls of the code's master callbacks. */
export interface CallbackBoot extends ModuleBoot {
  readonly role: 'callback'
  /** As in DescribeBoot. */
  readonly user: string
  readonly group: string
  readonly calls: readonly MasterCall[]
}

export type MasterCall = { readonly name: 'onMasterReload' | 'onMasterStop' } | WorkerExitCall

/** Tells of a worker process that has ended. */
interface WorkerExitCall {
  readonly name: 'onWorkerExit'
  readonly group: GroupKey
  /** Its slot; a master of an earlier version, whose place an upgrade takes, says neither. */
  readonly id?: number
  readonly incarnation?: number
  /** As wait(2) returns it: a signal's number, or 256 times an exit code. */
  readonly status: number
  readonly pid: number
}

export interface WorkerBoot extends ModuleBoot {
  readonly role: 'worker'
  /** The user to switch to before any user code runs. */
  readonly credentials: Credentials | null
  /** Which declared group. `nth` only tells groups of equal name and address apart. */
  readonly group: GroupKey
  readonly place: Assignment
  /** Descriptor of the memory with the shared counters; -1 without the addon. */
  readonly memoryFd: number
}

export interface KeeperBoot {
  readonly role: 'keeper'
  /** Path of its socket. */
  readonly path: string
  /** What each connection must send first. */
  readonly secret: string
  readonly isLogPiped: boolean
}

export type LogFormat = 'text' | 'json'

/** Settings from the command line and the environment. Undefined where they set nothing: then the code decides. */
export interface StartOptions {
  /** Absolute paths of the user's modules. */
  readonly modules: readonly string[]
  /** Arguments after `--`, for the modules. */
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
  /** The user's file was run, not ours: `node app.js start`. */
  readonly isDirect: boolean
  /** Reload when code changes. */
  readonly isWatching: boolean
  readonly isQuiet: boolean
}

/** Identifies a group by name and address; `nth` tells equal ones apart. */
export interface GroupKey {
  readonly name: string
  readonly listen: string
  readonly nth: number
}

/** A SystemError, or, if `syscall` is empty, a bad address. */
export interface SocketFailure {
  readonly code: string
  readonly syscall: string
  readonly address: string
  readonly message: string
}

export type ToChild =
  | { readonly type: 'boot'; readonly boot: Boot }
  /** You are now the only process of your slot. */
  | { readonly type: 'activate' }
  /** Another process takes over your slot: release exclusive resources, then send `retired`. */
  | { readonly type: 'retire'; readonly isReload: boolean }
  /** A reload that keeps this process. */
  | { readonly type: 'reload' }
  /** Drain and leave within this time. A second message may shorten it. */
  | { readonly type: 'stop'; readonly timeoutMs: number }
  /** Your fair share of connections. Above it, let siblings accept first. */
  | { readonly type: 'share'; readonly connections: number }
  /** No process of the server that stops has anything left to do: leave. */
  | { readonly type: 'release' }
  /** The sibling of this turn is back: close its socket. */
  | { readonly type: 'relieve'; readonly turn: number }
  /** New keys for TLS tickets, in base64. */
  | { readonly type: 'tickets'; readonly keys: string }
  /** A requested socket is not available. (One that is comes over the handle channel.) */
  | { readonly type: 'cannotListen'; readonly request: number; readonly failure: SocketFailure }
  /** You lead `name` until you resign. `ticket` is the one you stood with. */
  | { readonly type: 'lead'; readonly name: string; readonly ticket: number }
  /** Changes among the other processes. */
  | { readonly type: 'peers'; readonly news: PeerNews }
  /** Whether reports should include the lag of the event loop. */
  | { readonly type: 'watchLag'; readonly isOn: boolean }
  /** Have this share (0 to 1) of the clients that keep their connections connect anew. */
  | { readonly type: 'renew'; readonly share: number }
  /** Asks a worker for a fresh report. */
  | { readonly type: 'poll' }
  /** Asks for a page of connections. */
  | { readonly type: 'connections'; readonly after: number; readonly limit: number }
  | ToSuccessor

export type FromChild =
  | {
      readonly type: 'declared'
      readonly groups: readonly Declaration[]
      /** Per group, in base64. They include TLS keys, so they stay on the private channels. */
      readonly tlsFiles: readonly Readonly<Record<string, string>>[]
      readonly settings: Settings
    }
  /** `memory`: resident set in bytes; 0 if unknown. */
  | { readonly type: 'ready'; readonly memory: number }
  /** Requests a listening socket: a new one, or its own again. */
  | { readonly type: 'listen'; readonly request: number; readonly wanted: WantedSocket }
  /** It has been at its connection limit for a while, or it has room again. */
  | { readonly type: 'full'; readonly isFull: boolean }
  /** Requests a connection to the keeper of shared data, which comes over the handle channel. */
  | { readonly type: 'reachKeeper'; readonly request: number }
  | { readonly type: 'retired' }
  /** `onWorkerActive` has settled. */
  | { readonly type: 'active' }
  /** The socket of that turn is closed here. */
  | { readonly type: 'relieved'; readonly turn: number }
  /** It leaves on its own within this time and accepts no more. Sent again: within less time. */
  | { readonly type: 'leaving'; readonly exitCode: number; readonly timeoutMs: number }
  /** The whole server stops, and it has nothing left to do, but others may ask it; or it has something again. */
  | { readonly type: 'idle'; readonly isIdle: boolean }
  /** Its time is over, and it still tells senders of lost messages, or parts with connections. May be sent again. */
  | { readonly type: 'telling' }
  /** `stand`: it would lead this name. `resign`: it no longer would, and its job has ended. */
  | { readonly type: 'stand' | 'resign'; readonly name: string; readonly ticket: number }
  /** It did not boot, or cannot go on; the reason, with its stack. `isLogged`: it has logged that itself. */
  | (Failed & { readonly isLogged?: boolean })
  | { readonly type: 'report'; readonly report: Report }
  | { readonly type: 'connections'; readonly rows: readonly ConnectionRow[]; readonly hasMore: boolean }
  /** From a master to the process that launched it: everything serves. */
  | { readonly type: 'started'; readonly banner: string }
  | FromSuccessor

/** Maximum length, in characters, of the error text that is kept and shown per slot. */
export const LONGEST_REASON = 8192

/** How often a worker reports. */
export const HEARTBEAT_MS = 1000
/** Three heartbeats and a half: a process silent for longer is not just busy but hangs. */
export const HUNG_AFTER_MS = 3500

/** A worker's heartbeat. Values are absolute, so a lost report does no harm. */
export interface Report {
  readonly counters: Counters
  /** Resident set, bytes. */
  readonly memory: number
  /** The user's pending timers. */
  readonly timers: number
  /** What a drain would wait for, in words. */
  readonly work: string
  /** The longest delay of the event loop since the last report, ms; 0 unless it is watched. */
  readonly lagMs: number
  /**
   * Share of the time since the last report in which the event loop was busy, 0 to 1. An earlier version does not
   * report it.
   */
  readonly utilization?: number
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

/** The mailbox of each group, in order: its name if that is unambiguous. */
export function mailboxesOf(declarations: readonly { name: string; listen: string }[]): string[] {
  return keysOf(declarations).map(({ name, listen, nth }) => {
    const isUnique = name !== 'none' && declarations.filter((one) => one.name === name).length === 1
    return isUnique ? name : [name, listen, nth || ''].filter((part) => part !== '').join(' ')
  })
}

/** Whether a person means this group with `word`: by its name or, if it has one, its address. */
export function isCalled({ name, listen }: Pick<GroupKey, 'name' | 'listen'>, word: string): boolean {
  return name === word || (listen === word && listen !== '')
}

export function isSameKey(a: GroupKey, b: GroupKey): boolean {
  return a.name === b.name && a.listen === b.listen && a.nth === b.nth
}
