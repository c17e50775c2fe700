// One run of an operation: its events, its time, and what it came to. Never rejects.

import { now } from '../../loop/clock.ts'
import { asCommandError, type CommandError, Exit } from '../exit-codes.ts'
import type { Events, Operation } from '../status/events.ts'
import type { CanaryReport } from './canary.ts'
import type { ReloadOutcome, SlotReceipt } from './receipts.ts'

/** How an attempt ended. */
interface Attempted {
  readonly failure: CommandError | null
  readonly durationMs: number
}

/** @param blame what to say of what `run` threw */
export async function attempt(
  events: Events,
  operation: Operation,
  groups: readonly string[],
  run: () => Promise<void>,
  blame: (error: unknown) => CommandError = asCommandError,
): Promise<Attempted> {
  const started = now()
  const about = { type: 'operation', operation, groups } as const
  events.emit({ ...about, step: 'begin' })
  let failure: CommandError | null = null
  try {
    await run()
  } catch (error) {
    failure = blame(error)
  }
  const durationMs = Math.round(now() - started)
  events.emit(
    failure === null
      ? { ...about, step: 'done', durationMs }
      : { ...about, step: 'failed', durationMs, reason: failure.message },
  )
  return { failure, durationMs }
}

export function outcomeOf(
  { failure, durationMs }: Attempted,
  slots: readonly SlotReceipt[],
  canaries: readonly CanaryReport[],
): ReloadOutcome {
  const { exitCode = Exit.Ok, message: reason = '', code = '', next = '' } = failure ?? {}
  return { exitCode, reason, ...(failure === null ? {} : { code, next }), durationMs, slots, canaries }
}
