// A timing wheel bound to the clock and to one Node timer, however many timers are pending. Callbacks run between I/O
// callbacks, like those of setTimeout. What they throw surfaces as an uncaught exception after the tick.

import { AsyncResource } from 'node:async_hooks'
import { BurstClock } from './burst-clock.ts'
import { now } from './clock.ts'
import type { Callback } from './entries.ts'
import { TimingWheel } from './timing-wheel.ts'

/** The longest delay of setTimeout; a longer sleep is split. */
export const MAX_SLEEP_MS = 2 ** 31 - 1

/**
 * The context in which Node timers are armed: that of the import, not that of the code that happened to add the first
 * timer.
 */
const neutral = new AsyncResource('millrace.scheduler')

interface SchedulerOptions {
  /** Whether a pending timer keeps the process alive, as setTimeout does. */
  keepsAlive: boolean
}

/**
 * Calls functions after a delay. Never early by the monotonic clock; a timer is rounded up to a whole millisecond, a
 * delay of 0 ms to the next one.
 *
 * **Order**: timers due in one tick run in order of due time, equal ones in order of creation; a timer added during a
 * tick waits for a later one. Promise reactions and `process.nextTick` run after the tick, not between its callbacks.
 * **Context**: callbacks run in the async context of the import, not of the caller (keeping the caller's would cost 96
 * ns and 80 bytes per timer): wrap them with `AsyncResource.bind` to keep an AsyncLocalStorage. No callback sees
 * another's context.
 * **Cost**: O(1) to add and cancel; see TimingWheel for memory.
 */
export class Scheduler {
  readonly #wheel = new TimingWheel()
  readonly #clock = new BurstClock((id, ms) => this.#wheel.postpone(id, ms))
  readonly #keepsAlive: boolean
  readonly #onAlarm = () => this.#tick()
  #alarm: NodeJS.Timeout | undefined
  /** When the Node timer fires: never later than the first timer is due. */
  #wakeAt = Number.POSITIVE_INFINITY

  constructor({ keepsAlive }: SchedulerOptions) {
    this.#keepsAlive = keepsAlive
  }

  /** Number of pending timers. */
  get size(): number {
    return this.#wheel.size
  }

  /**
   * Calls `fn(a, b)` once, `ms` from now. Two payloads, so that no caller needs a closure.
   * @returns an id for `cancel` of this scheduler
   */
  after<A, B = undefined>(ms: number, fn: (a: A, b: B) => unknown, a?: A, b?: B): number {
    return this.#add(ms, 0, fn, a, b)
  }

  /**
   * Calls `fn(a, b)` every `ms`, at `start + k * ms` without drift; an interval below 1 ms counts as 1 ms. If the loop
   * was blocked, it is called once and continues at the next point of the grid. It also continues when `fn` throws.
   * @returns an id for `cancel` of this scheduler
   */
  every<A, B = undefined>(ms: number, fn: (a: A, b: B) => unknown, a?: A, b?: B): number {
    const interval = Math.max(ms, 1)
    return this.#add(interval, interval, fn, a, b)
  }

  /** Ends a timer: its function is not called again. Returns false if it had already ended. */
  cancel(id: number): boolean {
    const wasPending = this.#wheel.delete(id)
    if (wasPending && this.#wheel.size === 0) this.#alarm?.unref()
    return wasPending
  }

  /** Ends all timers of this scheduler. */
  cancelAll(): void {
    this.#wheel.clear()
    this.#alarm?.unref()
  }

  #add(ms: number, everyMs: number, fn: Callback, a: unknown, b: unknown): number {
    const start = this.#clock.read()
    const due = start + ms
    if (this.#wheel.size === 0) this.#wheel.skipTo(Math.floor(start))
    const id = this.#wheel.add(due, everyMs, fn, a, b)
    this.#clock.lendTo(id)
    if (due < this.#wakeAt) this.#arm(due)
    else if (this.#keepsAlive && this.#wheel.size === 1) this.#alarm?.ref()
    return id
  }

  #arm(atMs: number): void {
    clearTimeout(this.#alarm)
    const sleepMs = Math.min(Math.max(Math.ceil(atMs - now()), 1), MAX_SLEEP_MS)
    this.#alarm = neutral.runInAsyncScope(startAlarm, undefined, this.#onAlarm, sleepMs)
    if (!this.#keepsAlive) this.#alarm.unref()
    this.#wakeAt = atMs
  }

  #tick(): void {
    this.#wakeAt = Number.NEGATIVE_INFINITY // timers added during the tick are armed for at its end
    this.#wheel.advance(Math.floor(now()), run)
    this.#wakeAt = Number.POSITIVE_INFINITY
    this.#alarm = undefined
    // Node fires up to a millisecond early; then nothing was due, and this sleeps for the rest.
    const nextDue = this.#wheel.nextDue()
    if (nextDue < Number.POSITIVE_INFINITY) this.#arm(nextDue)
  }
}

function startAlarm(onAlarm: () => void, ms: number): NodeJS.Timeout {
  return setTimeout(onAlarm, ms)
}

/** Calls one function in a scope of its own: on Node 20 an `enterWith` would otherwise affect all later callbacks. */
function run(fn: Callback, a: never, b: never): void {
  try {
    new AsyncResource('millrace.timer').runInAsyncScope(fn as (a: unknown, b: unknown) => unknown, undefined, a, b)
  } catch (error) {
    process.nextTick(rethrow, error)
  }
}

/** For `process.nextTick`: nobody catches what is thrown there, so it is an uncaught exception. */
export function rethrow(error: unknown): never {
  throw error
}
