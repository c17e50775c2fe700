// A canary: one process of the new code that serves beside all the old ones, including its own predecessor, and is
// watched for a while. All accept, so all get the same kind of traffic, and the results are compared. Nothing is
// removed before the decision: going back means letting the canary drain.

import { setTimeout as sleep } from 'node:timers/promises'
import type { Counters } from '../../counters.ts'
import { now } from '../../loop/clock.ts'
import { inSeconds } from '../../times.ts'
import { CommandError, Exit } from '../exit-codes.ts'
import type { GroupState } from '../master/group-state.ts'
import type { Slot } from '../master/slot.ts'
import type { WorkerHandle } from '../master/worker-handle.ts'
import { HUNG_AFTER_MS } from '../messages.ts'
import type { SlotReceipt } from './receipts.ts'

/** What one side did while it was watched. */
interface Sample {
  /** What its clients and other workers have sent. */
  readonly messages: number
  /** Errors of handlers and of the protocol. */
  readonly errors: number
  /** Lag of the event loop, ms: the median of the longest lag in each half second. */
  readonly lagMs: number
}

/** A canary compared with the others: so far in `status`, final in the receipt. */
export interface CanaryReport {
  /** `web:0` */
  readonly worker: string
  readonly pid: number
  readonly watchedMs: number
  readonly canary: Sample
  readonly others: Sample
  /** Why the reload went back; empty if it did not, or not because of this canary. */
  readonly reason: string
  /** What should be known of a watch that has proved nothing; empty if it has proved something. */
  readonly warning: string
}

/** How often both sides are polled. */
const LOOK_EVERY_MS = 500
/** Tolerated share of failing messages, beyond twice the others' share: less is noise. */
const ERROR_SLACK = 0.01
/** This many errors end the watch early. */
const MANY_ERRORS = 5
/** A loop is late if its lag is at least this, and more than this multiple of the others' lag. */
const LATE_MS = 100
const LATE_FACTOR = 3
/** A canary that gets a smaller part than this of what each of the others gets does not reach their clients. */
const SMALL_PART = 1 / 10
/** That it got no message at all proves something once the others have had this many. */
const MANY_MESSAGES = 1000

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
  /** As it was at the end: later the others are those that have followed it. */
  #final: CanaryReport | null = null
  /** Messages on both sides at the last look. */
  #seen = { canary: 0, others: 0 }
  readonly #lags: number[] = []
  readonly #otherLags: number[] = []

  /** Requires that `slot.next` is ready and serves. */
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

  /** Polls both sides once. */
  async look(): Promise<void> {
    const look = async (handle: WorkerHandle, lags: number[]) => {
      const hasAnswered = await handle.poll(LOOK_EVERY_MS)
      lags.push(Math.max(handle.takeLag(), hasAnswered ? 0 : Math.round(handle.silentMs)))
    }
    await Promise.all([look(this.handle, this.#lags), ...this.#others.map((handle) => look(handle, this.#otherLags))])
    this.#watchedMs = Math.round(now() - this.#since)
    this.#attract()
  }

  /**
   * Clients that keep their connections would never come to a canary, which gets new ones only. So if it lacks traffic,
   * a fair share of those clients is made to connect anew; some then come to it.
   */
  #attract(): void {
    const { canary, others } = this.report
    const own = canary.messages - this.#seen.canary
    const beside = others.messages - this.#seen.others
    this.#seen = { canary: canary.messages, others: others.messages }
    const handles = this.#others
    if (own * handles.length >= beside * SMALL_PART) return
    for (const handle of handles) handle.renew(1 / (handles.length + 1))
  }

  /** What is already wrong, ignoring what small numbers do not prove; empty for nothing. */
  async judgeEarly(): Promise<string> {
    const { handle } = this
    if (handle.state === 'gone') {
      const { word, reason } = await handle.gone
      return `it has ended: ${word}${reason && `\n${reason}`}`
    }
    if (handle.announcedExitCode !== null) return 'it leaves by itself'
    if (handle.silentMs > HUNG_AFTER_MS) return `its event loop has not turned for ${inSeconds(handle.silentMs)}`
    return this.report.canary.errors >= MANY_ERRORS ? this.judge() : ''
  }

  judge(): string {
    const { canary, others } = this.report
    return judge(canary, others)
  }

  get report(): CanaryReport {
    if (this.#final !== null) return this.#final
    const canary = this.#sampleOf([this.handle], this.#lags)
    const others = this.#sampleOf(this.#others, this.#otherLags)
    const { worker, reason } = this
    return {
      ...{ worker, pid: this.handle.pid, watchedMs: this.#watchedMs, canary, others, reason },
      warning: canary.messages === 0 && others.messages >= MANY_MESSAGES ? this.#warn(others) : '',
    }
  }

  #warn({ messages }: Sample): string {
    const watch = `got no traffic in ${inSeconds(this.#watchedMs)}, beside it ${messages} messages`
    return `canary ${this.worker} pid ${this.handle.pid} ${watch}: what the new code does with them was not tried`
  }

  end(): void {
    this.#final = this.report
    for (const handle of this.#all) handle.watchLag(false)
  }

  get #others(): WorkerHandle[] {
    return this.group.slots.flatMap(({ current }) => (current?.state === 'ready' ? [current] : []))
  }

  get #all(): WorkerHandle[] {
    return [this.handle, ...this.#others]
  }

  /** A process that started meanwhile has no `before`: all of its counts apply. */
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

/** Watches the canaries for `ms`. Rejects as soon as one of them is worse than the others. */
export async function watchCanaries(canaries: readonly Canary[], ms: number): Promise<void> {
  const end = now() + ms
  const someGone = Promise.race(canaries.map(({ handle }) => handle.gone))
  for (let isOver = canaries.length === 0; !isOver; ) {
    await Promise.race([someGone, sleep(Math.min(LOOK_EVERY_MS, Math.max(0, end - now())))])
    await Promise.all(canaries.map((canary) => canary.look()))
    isOver = now() >= end
    for (const canary of canaries) {
      canary.reason = (await canary.judgeEarly()) || (isOver ? canary.judge() : '')
      if (canary.reason !== '') throw goesBack(canary)
    }
  }
}

/** Why a canary is worse than the others; empty if it is not. */
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
