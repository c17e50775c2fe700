// The ticks of a Crontab between a beginning and an end: one time of leading, or of a process being its slot's only one. It
// sleeps by the monotonic clock and fires by the wall clock, which it looks at again and again.

import { messageOf } from '../errors.ts'
import { LimitedLog } from '../log.ts'
import { deadlines } from '../loop/deadlines.ts'
import type { SharedCounter } from '../shared/shared-counter.ts'

/** So long at most until the wall clock is looked at again: it may be set. */
const LONGEST_SLEEP_MS = 30_000

const skips = new LimitedLog()

type Callback = (time: Date, signal: AbortSignal) => unknown

type Noted = Pick<SharedCounter, 'get' | 'set'>

/** The next time that a rule describes after another one; null: none. */
export interface Times {
  nextRun(after: Date): Date | null
}

/** What fires at a Crontab's times, between `begin` and its end. */
export class Ticking {
  readonly #times: Times
  readonly #callback: Callback
  readonly #signal: AbortSignal
  /** Until when ticks are dealt with, ms since 1970: for the next leader. */
  readonly #noted: Noted | null
  readonly #name: string
  #next: Date | null = null
  #timer = 0
  #running: Promise<void> | null = null

  /** `name`: for the log. */
  constructor(times: Times, callback: Callback, signal: AbortSignal, noted: Noted | null, name: string) {
    this.#times = times
    this.#callback = callback
    this.#signal = signal
    this.#noted = noted
    this.#name = name
  }

  /** What it gives ends it, when the callback that runs has settled. */
  async begin(missed: 'once' | 'skip' = 'once'): Promise<() => Promise<void>> {
    this.#signal.addEventListener('abort', () => deadlines.cancel(this.#timer))
    const last = await this.#read()
    const first = last === 0 ? null : this.#times.nextRun(new Date(last))
    const isLate = first !== null && first.getTime() <= Date.now()
    if (this.#noted !== null) await this.#note(Date.now())
    if (!this.#signal.aborted && isLate && missed === 'once') this.#fire(first)
    this.#arm(new Date())
    return () => this.#finish()
  }

  #arm(after: Date): void {
    this.#next = this.#times.nextRun(after)
    this.#sleep()
  }

  #sleep(): void {
    if (this.#next === null || this.#signal.aborted) return
    const ms = Math.min(Math.max(this.#next.getTime() - Date.now(), 0), LONGEST_SLEEP_MS)
    this.#timer = deadlines.after(ms, () => this.#look())
  }

  #look(): void {
    const tick = this.#next
    const time = new Date()
    if (tick === null || this.#signal.aborted) return
    if (time < tick) return this.#sleep()
    this.#fire(tick)
    this.#arm(time) // what was missed while the loop was blocked is not replayed; nor is what a clock that was set back shows again
  }

  #fire(tick: Date): void {
    if (this.#running !== null) {
      skips.log(`crontab ${this.#name}: ${tick.toISOString()} is skipped: the one before still runs`)
      return
    }
    this.#running = this.#run(tick).finally(() => {
      this.#running = null
    })
  }

  /** Noted first: a tick is fired once at most. What fails is the process's to hear of, as of a Timer. */
  async #run(tick: Date): Promise<void> {
    if (this.#noted !== null) await this.#note(Date.now())
    let result: unknown
    try {
      result = this.#callback(tick, this.#signal)
    } catch (error) {
      process.nextTick(rethrow, error) // an uncaught exception
      return
    }
    await Promise.resolve(result).catch(reject)
  }

  async #finish(): Promise<void> {
    await this.#running
    const due = this.#next?.getTime() ?? Number.POSITIVE_INFINITY
    if (this.#noted !== null) await this.#note(Math.min(Date.now(), due - 1)) // one that is due was not fired here
  }

  /** 0: nothing is known. */
  async #read(): Promise<number> {
    try {
      return (await this.#noted?.get()) ?? 0
    } catch (error) {
      skips.log(`crontab: what has been done is not known: ${messageOf(error)}`)
      return 0
    }
  }

  async #note(time: number): Promise<void> {
    try {
      await this.#noted?.set(time)
    } catch (error) {
      skips.log(`crontab: what has been done cannot be noted: ${messageOf(error)}`)
    }
  }
}

/** A rejection that nobody looks at. */
function reject(error: unknown): void {
  void Promise.reject(error)
}

function rethrow(error: unknown): never {
  throw error
}
