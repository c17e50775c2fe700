// A canary: one process of the new code that serves beside all those of the old, its own predecessor among them, and is
// watched for a while. Both accept, so both get the same kind of traffic; what is compared is what they made of it.
// Nothing is taken away before the decision: going back is to let the canary drain.

import type { Counters } from '../../counters.ts'
import { now } from '../../loop/clock.ts'
import { CommandError, Exit } from '../exit-codes.ts'
import type { GroupState, Slot } from '../master/slot.ts'
import type { WorkerHandle } from '../master/worker-handle.ts'
import type { SlotReceipt } from './receipts.ts'

/** What one side did while it was watched. */
export interface Sample {
  readonly messages: number
  /** Of handlers and of the protocol. */
  readonly errors: number
  /** How late the event loop was, ms: of the longest delays in each half second the median. */
  readonly lagMs: number
}

/** A canary and those beside it: in `status` as it goes, in the receipt as it ended. */
export interface CanaryReport {
  /** `web:0` */
  readonly worker: string
  readonly pid: number
  readonly watchedMs: number
  readonly canary: Sample
  readonly others: Sample
  /** Why the reload went back; empty when it did not, or not because of this one. */
  readonly reason: string
}

/** How often both sides are asked. */
const LOOK_EVERY_MS = 500
/** Who is silent for so long does not turn. */
const SILENT_MS = 3500
/** A share of messages that may fail beyond twice what fails beside it: less is chance. */
const ERROR_SLACK = 0.01
/** With so many errors one does not wait for the end. */
const MANY_ERRORS = 5
/** A loop is late if it is by this, and by so many times what the others are. */
const LATE_MS = 100
const LATE_FACTOR = 3

export class Canary {
  readonly worker: string
  readonly group: GroupState
  readonly slot: Slot
  readonly handle: WorkerHandle
  readonly receipt: SlotReceipt
  reason = ''
  readonly #since = now()
  #watchedMs = 0
  readonly #before = new Map<WorkerHandle, Counters>()
  readonly #lags: number[] = []
  readonly #otherLags: number[] = []

  /** `slot.next` is ready, and serves. */
  constructor(group: GroupState, slot: Slot, receipt: SlotReceipt) {
    this.group = group
    this.slot = slot
    this.handle = slot.next as WorkerHandle
    this.receipt = receipt
    this.worker = receipt.worker
    for (const handle of this.#all) {
      this.#before.set(handle, { ...handle.report.counters })
      handle.watchLag(true)
    }
  }

  /** Asks both sides once. */
  async look(): Promise<void> {
    const look = async (handle: WorkerHandle, lags: number[]) => {
      const hasAnswered = await handle.poll(LOOK_EVERY_MS)
      lags.push(Math.max(handle.takeLag(), hasAnswered ? 0 : Math.round(handle.silentMs)))
    }
    await Promise.all([look(this.handle, this.#lags), ...this.#others.map((handle) => look(handle, this.#otherLags))])
    this.#watchedMs = Math.round(now() - this.#since)
  }

  /** What is wrong already, without the patience for small numbers; empty for nothing. */
  async judgeEarly(): Promise<string> {
    const { handle } = this
    if (handle.state === 'gone') {
      const { word, reason } = await handle.gone
      return `it has ended: ${word}${reason && `\n${reason}`}`
    }
    if (handle.silentMs > SILENT_MS) return `its event loop has not turned for ${(handle.silentMs / 1000).toFixed(1)} s`
    return this.report.canary.errors >= MANY_ERRORS ? this.judge() : ''
  }

  judge(): string {
    const { canary, others } = this.report
    return judge(canary, others)
  }

  get report(): CanaryReport {
    return {
      worker: this.worker,
      pid: this.handle.pid,
      watchedMs: this.#watchedMs,
      canary: this.#sampleOf([this.handle], this.#lags),
      others: this.#sampleOf(this.#others, this.#otherLags),
      reason: this.reason,
    }
  }

  end(): void {
    for (const handle of this.#all) handle.watchLag(false)
  }

  get #others(): WorkerHandle[] {
    return this.group.slots.flatMap(({ current }) => (current?.state === 'ready' ? [current] : []))
  }

  get #all(): WorkerHandle[] {
    return [this.handle, ...this.#others]
  }

  /** One that came up meanwhile has no `before`: all of it counts. */
  #sampleOf(handles: readonly WorkerHandle[], lags: readonly number[]): Sample {
    const since = (of: (counters: Counters) => number) =>
      handles.reduce((sum, handle) => {
        const before = this.#before.get(handle)
        return sum + of(handle.report.counters) - (before === undefined ? 0 : of(before))
      }, 0)
    return {
      messages: since(({ messagesIn }) => messagesIn),
      errors: since(({ handlerErrors, protocolErrors }) => handlerErrors + protocolErrors),
      lagMs: median(lags),
    }
  }
}

/** Watches them for `ms`. Rejects as soon as one of them is not as good as those beside it. */
export async function watchCanaries(canaries: readonly Canary[], ms: number): Promise<void> {
  const end = now() + ms
  const someGone = Promise.race(canaries.map(({ handle }) => handle.gone))
  for (let isOver = canaries.length === 0; !isOver; ) {
    await Promise.race([someGone, delay(Math.min(LOOK_EVERY_MS, Math.max(0, end - now())))])
    await Promise.all(canaries.map((canary) => canary.look()))
    isOver = now() >= end
    for (const canary of canaries) {
      canary.reason = (await canary.judgeEarly()) || (isOver ? canary.judge() : '')
      if (canary.reason !== '') throw goesBack(canary)
    }
  }
}

/** Why a canary is worse than those beside it; empty when it is not. */
export function judge(canary: Sample, others: Sample): string {
  const limit = 2 * shareOfErrors(others) + ERROR_SLACK
  if (canary.errors > 0 && shareOfErrors(canary) > limit)
    return `${canary.errors} errors in ${canary.messages} messages, beside it ${others.errors} in ${others.messages}`
  if (canary.lagMs >= LATE_MS && canary.lagMs > LATE_FACTOR * others.lagMs)
    return `its event loop is late by ${canary.lagMs} ms, beside it by ${others.lagMs} ms`
  return ''
}

function goesBack({ worker, handle, reason }: Canary): CommandError {
  return new CommandError(Exit.Failure, `canary ${worker} pid ${handle.pid} was taken back: ${reason}`)
}

function shareOfErrors({ errors, messages }: Sample): number {
  return errors / Math.max(1, messages)
}

function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b)
  return sorted[Math.floor(sorted.length / 2)] ?? 0
}

function delay(ms: number): Promise<void> {
  return new Promise((resolve) => {
    setTimeout(resolve, ms)
  })
}
