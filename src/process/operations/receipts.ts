// How a reload, or another operation, went.

import type { Exit } from '../exit-codes.ts'
import type { CanaryReport } from './canary.ts'

export interface SlotReceipt {
  /** `echo:2` */
  readonly worker: string
  result: 'replaced' | 'added' | 'removed' | 'stopped' | 'kept' | 'failed' | 'taken back'
  /** 0 for none. Of one that was taken back: who stays in its place. */
  oldPid: number
  newPid: number
  /** From spawn to ready, ms. */
  readyMs: number
  /** From the word to leave to the end, ms. */
  drainMs: number
  /** Connections whose peer still sent something into the goodbye: it was not handled. */
  discarded: number
  note: string
}

/** How a reload, or another operation, went: what became of each slot, and when it was given up, why. */
export interface ReloadOutcome {
  readonly exitCode: Exit
  /** Empty when it went through. */
  readonly reason: string
  /** Where it failed: `ERR_NO_GROUP`, and what to do about it if that is known. */
  readonly code?: string
  readonly next?: string
  readonly durationMs: number
  readonly slots: readonly SlotReceipt[]
  /** One for each group that had one. */
  readonly canaries: readonly CanaryReport[]
}
