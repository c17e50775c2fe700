// What commands say to a master over its control socket, and what it answers: a line of JSON each.

import { CommandError, Exit } from '../exit-codes.ts'
import type { Identity } from '../identity.ts'
import type { StartOptions } from '../messages.ts'
import type { NodeSettings } from '../node-flags.ts'
import type { Comparison } from '../operations/diff.ts'
import type { ReloadOutcome } from '../operations/receipts.ts'
import type { Scale } from '../operations/regroup.ts'
import type { Program } from '../spawn.ts'
import type { ConnectionPage, Cursor, Status } from '../status/status.ts'
import type { UpgradeOutcome } from '../upgrade/upgrade.ts'

export type Request = Asked & {
  /** The module that the command line names, absolute: a server of other modules refuses. Absent if it names none. */
  readonly module?: string | undefined
}

type Asked =
  | { readonly command: 'status' | 'ping' | 'diff' }
  /**
   * Groups by name or address; none means all. A client that does not wait is answered at once and receives no outcome.
   */
  | {
      readonly command: 'reload'
      readonly names?: readonly string[]
      readonly isWaiting?: boolean
      /** How long one process of each group is watched before the others follow. */
      readonly canaryMs?: number
    }
  | ({ readonly command: 'stop'; readonly names?: readonly string[] } & Leave)
  | ({ readonly command: 'restart'; readonly names: readonly string[] } & Leave)
  | { readonly command: 'start'; readonly names: readonly string[] }
  | { readonly command: 'scale'; readonly name: string; readonly scale: Scale }
  | { readonly command: 'connections'; readonly cursor: Cursor | undefined }
  | ({ readonly command: 'upgrade' } & Program)
  /** Up to `past` earlier events, then each new one as it happens. */
  | { readonly command: 'events'; readonly past: number }

/** How long processes may take to leave. */
export interface Leave {
  /** Use each group's own window instead of the server's `stopTimeout`. */
  readonly isGraceful: boolean
  /** Overrides both windows, ms. */
  readonly timeoutMs?: number | null
}

export type Answer = Done | Refusal

/** Why a request failed. `exitCode` and `code` are set where they say more than `failure`. */
interface Refusal {
  readonly ok: false
  readonly message: string
  readonly exitCode?: Exit
  readonly code?: string
  readonly next?: string
}

export function refusedBy({ exitCode = Exit.Failure, message, code, next }: Refusal): CommandError {
  return new CommandError(exitCode, message, { code, next })
}

/** The code of a refusal by a server of other modules than the one that a request names. */
export const OTHER_MODULE = 'ERR_OTHER_MODULE'

/** The answer to a request that succeeded, and which process gave it. */
export interface Done extends Identity {
  readonly ok: true
  readonly isDaemon: boolean
  readonly status?: Status
  readonly page?: ConnectionPage
  /** Absolute; empty when a terminal is the log. */
  readonly logFile?: string
  readonly comparison?: Comparison
  /** Result of an operation that takes time. */
  readonly outcome?: ReloadOutcome
  readonly upgrade?: UpgradeOutcome
  /** How long a stop may take before workers are killed. */
  readonly stopTimeoutMs: number
  /** To `ping`: how it runs, for a `restart`. */
  readonly running?: Running
}

/** How a server runs. */
export interface Running {
  readonly options: StartOptions
  readonly uid: number
  /** Names and addresses of its groups. */
  readonly groups: readonly string[]
  /** Where it listens, as `ip:port` or paths, its own probes apart; earlier versions do not say. */
  readonly endpoints?: readonly string[]
  /** The address of its probes; empty for none. */
  readonly health?: string
  /** How Node was started; earlier versions do not say. */
  readonly node?: NodeSettings
  /** Where it was started, which is where those of its flags that name files count from; empty or absent if unknown. */
  readonly folder?: string
}
