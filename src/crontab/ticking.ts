// The ticks of a Crontab during one period of leadership, or of a process being the only one of its slot. It sleeps by
// the monotonic clock and fires by the wall clock, which it checks again and again.

import { messageOf } from '../errors.ts'
import { LimitedLog } from '../log.ts'
import { deadlines } from '../loop/deadlines.ts'
import { rethrow } from '../loop/scheduler.ts'
import type { SharedCounter } from '../shared/shared-counter.ts'

/** Longest time between two checks of the wall clock, which may be set. */
const LONGEST_SLEEP_MS = 30_000

const HOUR_MS = 3_600_000
const MINUTE_MS = 60_000

/**
 * A clock set by more than this corrects an error, such as that of a machine without a battery: ticks follow the new
 * time. Those that a step forward has skipped are not fired, and those that fired before a step back may fire again. As
 * in cron(8).
 */
const CORRECTION_MS = 3 * HOUR_MS

/**
 * After a smaller step back no tick fires twice, except those of a rule that fires in every hour: a heartbeat must not
 * fall silent for hours, so it follows the new time, as in cron(8). Not after a step as small as this, by which clocks
 * are adjusted all the time.
 */
const ADJUSTMENT_MS = MINUTE_MS

const skips = new LimitedLog()

type Callback = (time: Date, signal: AbortSignal) => unknown

export type Noted = Pick<SharedCounter, 'get' | 'set'>

/** Returns the next time a rule matches after another one; null: never. */
interface Times {
  nextRun(after: Date): Date | null
}

/** The wall clock, and the clock to sleep by. */
export interface TickClock {
  wall(): number
  after(ms: number, fn: () => void): number
  cancel(id: number): boolean
}

const processClock: TickClock = {
  wall: () => Date.now(),
  after: (ms, fn) => deadlines.after(ms, fn),
  cancel: (id) => deadlines.cancel(id),
}

/** Fires at a Crontab's times, between `begin` and its end. */
export class Ticking {
  readonly #times: Times
  readonly #callback: Callback
  readonly #signal: AbortSignal
  /** Time up to which ticks have been handled, in ms since 1970: for the next leader. */
  readonly #noted: Noted | null
  readonly #name: string
  readonly #clock: TickClock
  /** Time up to which ticks have been handled here, in ms since 1970. */
  #after = 0
  #next: Date | null = null
  /** What the wall clock shows at the end of this sleep, unless it is set. */
  #wakesAt = 0
  #timer = 0
  #running: Promise<void> | null = null

  /** `name`: for the log. */
  constructor(
    times: Times,
    callback: Callback,
    signal: AbortSignal,
    noted: Noted | null,
    name: string,
    clock: TickClock = processClock,
  ) {
    this.#times = times
    this.#callback = callback
    this.#signal = signal
    this.#noted = noted
    this.#name = name
    this.#clock = clock
  }

  /** Starts. Returns a function that ends it, once a running callback has settled. */
  async begin(missed: 'once' | 'skip' = 'once'): Promise<() => Promise<void>> {
    this.#signal.addEventListener('abort', () => this.#clock.cancel(this.#timer))
    const last = await this.#read()
    const first = last === 0 ? null : this.#following(last)
    const isLate = first !== null && first.getTime() <= this.#clock.wall()
    this.#after = last
    await this.#note()
    if (!this.#signal.aborted && isLate && missed === 'once') this.#fire(first)
    this.#arm()
    return () => this.#finish()
  }

  /** The time to go on from: now, or somewhat later if the clock was set back a little. */
  get #begin(): number {
    const time = this.#clock.wall()
    const back = this.#after - time
    if (back <= 0 || back > CORRECTION_MS) return time
    return back > ADJUSTMENT_MS && this.#firesEachHour(time) ? time : this.#after
  }

  /** As far as the hours show in which it would be silent. */
  #firesEachHour(from: number): boolean {
    for (let hour = from; hour < from + CORRECTION_MS; hour += HOUR_MS) {
      const next = this.#following(hour)
      if (next === null || next.getTime() > hour + HOUR_MS) return false
    }
    return true
  }

  /**
   * The next time after `time`; null: never. In an hour that comes twice, croner 10 knows only the first pass, and
   * answers with a time that is over: firing at that would not end before the hour. So it is asked from later on.
   */
  #following(time: number): Date | null {
    for (let from = time; from <= time + CORRECTION_MS; from += MINUTE_MS) {
      const next = this.#times.nextRun(new Date(from))
      if (next === null || next.getTime() > time) return next
    }
    return null
  }

  #arm(): void {
    this.#after = this.#begin
    this.#next = this.#following(this.#after)
    this.#sleep()
  }

  #sleep(): void {
    if (this.#next === null || this.#signal.aborted) return
    const time = this.#clock.wall()
    const ms = Math.min(Math.max(this.#next.getTime() - time, 0), LONGEST_SLEEP_MS)
    this.#wakesAt = time + ms
    this.#timer = this.#clock.after(ms, () => this.#look())
  }

  #look(): void {
    const tick = this.#next
    if (tick === null || this.#signal.aborted) return
    const time = this.#clock.wall()
    const isCorrected = this.#begin < this.#after || time - this.#wakesAt > CORRECTION_MS
    if (isCorrected) return this.#arm()
    if (time < tick.getTime()) return this.#sleep()
    this.#fire(tick)
    // Ticks missed while the loop was blocked are not made up, and ticks that recur because the clock was set back a
    // little do not fire again.
    this.#arm()
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

  /** Notes the time first, so a tick fires at most once. Errors surface in the process, as with Timer. */
  async #run(tick: Date): Promise<void> {
    await this.#note()
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
    await this.#note(due - 1) // a tick that is due was not fired here
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

  async #note(most = Number.POSITIVE_INFINITY): Promise<void> {
    try {
      await this.#noted?.set(Math.min(this.#begin, most))
    } catch (error) {
      skips.log(`crontab: what has been done cannot be noted: ${messageOf(error)}`)
    }
  }
}

/** Makes an unhandled rejection. */
function reject(error: unknown): void {
  void Promise.reject(error)
}
