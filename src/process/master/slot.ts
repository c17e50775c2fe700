// One of a group's `count` places. Its processes come and go; its id, back-off and counters stay. Usually it has one
// process; during a reload also the next one, which is starting, and those that leave.

import { addCounters, type Counters, newCounters } from '../../counters.ts'
import { Backoff, HEALTHY_AFTER_MS } from '../../loop/backoff.ts'
import type { Canary } from '../operations/canary.ts'
import type { WorkerExitInfo, WorkerHandle } from './worker-handle.ts'

export class Slot {
  readonly id: number
  readonly backoff = new Backoff()
  /** The process that serves, or is starting to serve after a start or a crash. */
  current: WorkerHandle | null = null
  /** Started by a reload to replace `current`. */
  next: WorkerHandle | null = null
  /** `next` serves beside `current`, and is watched. */
  canary: Canary | null = null
  /** Replaced, and not gone yet. */
  readonly leaving = new Set<WorkerHandle>()
  /** A reload is working on this slot: nothing else starts a process here. */
  isHeld = false
  /** Settles when the earlier master's process of this slot has given up its singletons. */
  vacated: Promise<void> = Promise.resolve()
  /** The slot is being removed: nothing new should come to it. */
  isGivenUp = false
  incarnation = 0
  /** Sum of the processes that are gone. */
  readonly past: Counters = newCounters()
  bootFailures = 0
  lastExit = ''
  /** Why the last one ended, in its own words. */
  lastReason = ''
  /** What it logged last, if the master saw it. */
  lastLog: readonly string[] = []
  /** ISO 8601; empty if none has ended. */
  lastExitAt = ''
  retryAt = 0
  #retry: NodeJS.Timeout | null = null

  constructor(id: number) {
    this.id = id
  }

  /** Counters summed over all processes it has had; connections are the current ones. */
  get counters(): Counters {
    const total = addCounters(newCounters(), this.past)
    for (const { report } of this.processes) addCounters(total, report.counters)
    return total
  }

  /** Every process it has. */
  get processes(): WorkerHandle[] {
    return [this.current, this.next, ...this.leaving].filter((handle) => handle !== null)
  }

  get isWaiting(): boolean {
    return this.#retry !== null
  }

  /** Nothing runs here and nothing will by itself: a process should be started. */
  get isVacant(): boolean {
    return this.current === null && this.next === null && !this.isWaiting && !this.isHeld
  }

  /** Number of processes in a row that failed; 0 as soon as one has lasted. */
  get failures(): number {
    const { current } = this
    const isWell = current?.state === 'ready' && current.servedMs >= HEALTHY_AFTER_MS
    return isWell ? 0 : this.backoff.failures
  }

  /** Calls `retry` after `ms`. With 0 nothing is called: the caller goes on at once. */
  wait(ms: number, retry: () => void, time: number): void {
    if (ms === 0) return
    this.retryAt = time + ms
    this.#retry = setTimeout(() => {
      this.#retry = null
      retry()
    }, ms)
  }

  stopWaiting(): void {
    if (this.#retry !== null) clearTimeout(this.#retry)
    this.#retry = null
  }

  /** Makes `next` the current process; the one before it becomes one that leaves. */
  flip(next: WorkerHandle): void {
    this.stopWaiting()
    this.backoff.failures = 0
    if (this.current !== null) this.leaving.add(this.current)
    this.current = next
    this.next = null
  }

  /** Removes a process that is gone. */
  forget(handle: WorkerHandle, exit: WorkerExitInfo): void {
    if (this.current === handle) this.current = null
    if (this.next === handle) this.next = null
    addCounters(this.past, handle.countersOfThePast())
    if (this.leaving.delete(handle) && !handle.isFailing) return // it was told to leave, or had served its time
    this.lastExit = exit.word
    this.lastReason = exit.reason
    this.lastLog = exit.lastLog
    this.lastExitAt = new Date().toISOString()
  }
}
