// What master and children say to each other, as plain JSON on the private channel.

import type { Counters } from '../counters.ts'
import type { Declaration, InheritedSocket, Settings } from './group.ts'

/** The first message to every child. A child is told its role here and nowhere a grandchild could see it. */
export type Boot =
  | { readonly role: 'master'; readonly options: StartOptions; readonly isDaemon: boolean }
  | { readonly role: 'describe'; readonly modules: readonly string[]; readonly argv: readonly string[] }
  | {
      readonly role: 'worker'
      readonly modules: readonly string[]
      readonly argv: readonly string[]
      /** Which of the declared groups: its place is a hint, name and address decide. */
      readonly group: GroupKey
      readonly id: number
      readonly sockets: readonly InheritedSocket[]
    }

export interface StartOptions {
  /** Absolute real paths of the user's modules. */
  readonly modules: readonly string[]
  /** What follows `--`: the modules' own arguments. */
  readonly argv: readonly string[]
  readonly runDir: string | undefined
  readonly pidFile: string | undefined
  readonly isQuiet: boolean
}

/** A group is known by name and address; `nth` tells equals apart. */
export interface GroupKey {
  readonly name: string
  readonly listen: string
  readonly nth: number
}

export type ToChild =
  | { readonly type: 'boot'; readonly boot: Boot }
  | { readonly type: 'stop'; readonly timeoutMs: number }
  | Poll

/** Asks a worker for a fresh report. */
export interface Poll {
  readonly type: 'poll'
}

export type FromChild =
  | { readonly type: 'declared'; readonly groups: readonly Declaration[]; readonly settings: Settings }
  | { readonly type: 'ready' }
  /** It did not come up; the reason with its stack. */
  | { readonly type: 'failed'; readonly exitCode: number; readonly message: string }
  | { readonly type: 'report'; readonly report: Report }
  /** From a master to who launched it: everything serves. */
  | { readonly type: 'started'; readonly banner: string }

/** A worker's heartbeat. Absolute values, so that a lost one is no error. */
export interface Report {
  readonly counters: Counters
  /** Resident set, bytes. */
  readonly memory: number
  /** Pending timers of the user's. */
  readonly timers: number
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

export function isSameKey(a: GroupKey, b: GroupKey): boolean {
  return a.name === b.name && a.listen === b.listen && a.nth === b.nth
}
