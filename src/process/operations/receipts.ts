// How a reload, or another operation, went.

import type { Exit } from '../exit-codes.ts'
import type { CanaryReport } from './canary.ts'

export interface SlotReceipt {
  /** `echo:2` */
  readonly worker: string
  /**
   * `canary` only in events: the new process serves beside the old one, and another receipt follows. At a `restart` of
   * a group, `replaced` is a process that has left, without `newPid`; those that follow are `added`.
   */
  result: 'replaced' | 'added' | 'removed' | 'stopped' | 'kept' | 'failed' | 'canary' | 'taken back'
  /** 0 for none. For `taken back`, `oldPid` is the process that stays. */
  oldPid: number
  newPid: number
  /** From spawn to ready, ms. */
  readyMs: number
  /** From being told to leave to its end, ms. */
  drainMs: number
  /** Connections whose peer sent something after the goodbye: it was not handled. */
  discarded: number
  note: string
}

/** Whether it is about a slot that has a new process, which runs the new code. */
export function isFresh({ result, newPid }: SlotReceipt): boolean {
  return newPid !== 0 && (result === 'replaced' || result === 'added')
}

/** Outcome of a reload or another operation: what became of each slot and, if it was given up, why. */
export interface ReloadOutcome {
  readonly exitCode: Exit
  /** Empty if it succeeded. */
  readonly reason: string
  /** On failure: such as `ERR_NO_GROUP`, and what to do about it if known. */
  readonly code?: string
  readonly next?: string
  readonly durationMs: number
  readonly slots: readonly SlotReceipt[]
  /** One for each group that had a canary. */
  readonly canaries: readonly CanaryReport[]
}
