// What the process layer sees of a Worker: this interface and nothing else. And the list of those that the user's
// modules have declared in this process.

import type { Counters } from '../counters.ts'
import { UsageError } from '../errors.ts'
import { version } from '../version.ts'

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
}

/** A socket that the master bound and this process inherited. */
export interface InheritedSocket {
  readonly fd: number
  /** What it must be bound to, port resolved. */
  readonly endpoint: string
}

export interface Group {
  /** Throws UsageError for a declaration that cannot work. */
  describe(): Declaration
  /** Runs the user's `onWorkerStart`, then accepts. Resolves when it serves: that is `ready`. */
  start(id: number, sockets: readonly InheritedSocket[]): Promise<void>
  /** Stops accepting, finishes the work in flight, closes connections; resolves when none is left. */
  drain(): Promise<void>
  /** Closes what is left, at once. */
  stop(): void
  readonly counters: Counters
}

/** Settings that belong to no group. */
export interface Settings {
  readonly stopTimeoutMs: number
}

/** One copy of this package in this process. */
export interface Registry {
  readonly version: string
  readonly groups: Group[]
  /** In a child: what `Worker.runAll()` tells that everything is declared. Null in a process that a person started. */
  onRunAll: (() => void) | null
  settings: () => Settings
  /** Ends this worker process as a `stop` would. */
  requestStop: ((code: number) => void) | null
}

const kRegistry = Symbol.for('millrace')
type Holder = { [kRegistry]?: Registry }

const own: Registry = {
  version,
  groups: [],
  onRunAll: null,
  settings: () => ({ stopTimeoutMs: 2000 }),
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
