// Timer, as in Workerman: seconds, ids, callbacks with arguments. Works inside a Worker and outside one; timers belong
// to this process alone. The Scheduler defines how timers behave (order, context, errors); this file adds names, units
// and checks.

import { quoted, UsageError } from '../errors.ts'
import { Scheduler } from './scheduler.ts'

type Callback<A extends unknown[]> = (...args: A) => unknown

const timers = new Scheduler({ keepsAlive: true })
const noArguments: never[] = []

/**
 * Timers in seconds (fractions allowed); any number of them share one Node timer. Like those of setTimeout they keep
 * the process alive while pending, and never fire early.
 *
 * **Order**: timers due in one tick run in order of due time, equal ones in order of creation; a timer added during a
 * tick waits for a later one, even with 0 seconds. A deleted timer never runs, even if it was due in the same tick.
 * **Errors**: a callback that throws stops no other, and a repeating timer goes on; the error surfaces as an uncaught
 * exception, that of a returned promise as an unhandled rejection.
 * **Context**: callbacks do not see the AsyncLocalStorage of the code that added them; wrap them with
 * `AsyncResource.bind` if they should. Code after `await Timer.sleep(...)` does see its own.
 * **Cost**: O(1), and 52 to 80 bytes per pending timer.
 */
// biome-ignore lint/complexity/noStaticOnlyClass: users know it as Timer.add, and editors show the docs of a static
export class Timer {
  /** Number of pending timers, sleeps included. */
  static get count(): number {
    return timers.size
  }

  /**
   * Calls `fn(...args)` every `seconds` seconds, or once if `persistent` is false. Repeats without drift; calls missed
   * while the loop was blocked are not made up; an interval below one millisecond counts as one.
   * **Throws** `ERR_TIMER_SECONDS`, `ERR_TIMER_CALLBACK`, `ERR_TIMER_ARGUMENTS`, `ERR_TOO_MANY_TIMERS`.
   *
   * @returns an id for `del`
   */
  static add(seconds: number, fn: () => unknown, args?: [], persistent?: boolean): number
  static add<A extends unknown[] | []>(seconds: number, fn: Callback<A>, args: A, persistent?: boolean): number
  static add(seconds: number, fn: Callback<never[]>, args = noArguments, persistent = true): number {
    return persistent ? repeat(seconds, fn, args) : delay(seconds, fn, args)
  }

  /** Calls `fn(...args)` every `seconds` seconds: `add` with `persistent`. Throws as `add` does. */
  static repeat(seconds: number, fn: () => unknown, args?: []): number
  static repeat<A extends unknown[] | []>(seconds: number, fn: Callback<A>, args: A): number
  static repeat(seconds: number, fn: Callback<never[]>, args = noArguments): number {
    return repeat(seconds, fn, args)
  }

  /** Calls `fn(...args)` once, after `seconds` seconds: `add` without `persistent`. Throws as `add` does. */
  static delay(seconds: number, fn: () => unknown, args?: []): number
  static delay<A extends unknown[] | []>(seconds: number, fn: Callback<A>, args: A): number
  static delay(seconds: number, fn: Callback<never[]>, args = noArguments): number {
    return delay(seconds, fn, args)
  }

  /** Deletes a timer: its function is not called again. Returns false if it had ended or was already deleted. */
  static del(id: number): boolean {
    return typeof id === 'number' && timers.cancel(id)
  }

  /** Deletes all timers of this process, sleeps included: their promises never settle. */
  static delAll(): void {
    timers.cancelAll()
  }

  /** Returns a promise that is fulfilled after `seconds` seconds. **Throws** `ERR_TIMER_SECONDS` synchronously. */
  static sleep(seconds: number): Promise<void> {
    checkSeconds(seconds)
    return new Promise((resolve) => timers.after(seconds * 1000, resolve))
  }
}

function repeat(seconds: number, fn: Callback<never[]>, args: never[]): number {
  check(seconds, fn, args)
  return timers.every(seconds * 1000, call, fn, args)
}

function delay(seconds: number, fn: Callback<never[]>, args: never[]): number {
  check(seconds, fn, args)
  return timers.after(seconds * 1000, call, fn, args)
}

function call(fn: Callback<never[]>, args: never[]): unknown {
  return fn(...args)
}

function check(seconds: number, fn: unknown, args: unknown): void {
  checkSeconds(seconds)
  if (typeof fn !== 'function') throw new UsageError('ERR_TIMER_CALLBACK', 'Timer needs a function to call')
  if (!Array.isArray(args)) throw new UsageError('ERR_TIMER_ARGUMENTS', 'Timer needs its arguments as an array: [a, b]')
}

function checkSeconds(seconds: number): void {
  if (typeof seconds === 'number' && seconds >= 0 && seconds < Number.POSITIVE_INFINITY) return
  throw new UsageError(
    'ERR_TIMER_SECONDS',
    `Timer needs seconds as a finite number of 0 or more, not ${quoted(seconds)}`,
  )
}
