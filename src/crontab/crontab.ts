// Crontab, as in Workerman: a callback at times that a rule describes. The times come from croner, an optional peer
// dependency loaded on first use. Ours is when to sleep, which process fires, and that no tick fires twice when a
// process, or the leader, hands over to the next.

import { createRequire } from 'node:module'
import type { Cron } from 'croner'
import { messageOf, UsageError } from '../errors.ts'
import { log } from '../log.ts'
import { checkOptions, isString, oneOf, type Rule, rule, TRUE_OR_FALSE } from '../options.ts'
import { registry } from '../process/group.ts'
import { sharedCounter } from '../shared/shared-counter.ts'
import { Ticking } from './ticking.ts'

/**
 * `time` is the tick's time, which may be some milliseconds ago; `signal` aborts when this process should stop the
 * work.
 */
export type CrontabCallback = (time: Date, signal: AbortSignal) => unknown

/** What can stand in the constructor; all of it is checked there (`ERR_CRONTAB_OPTION`). */
export interface CrontabOptions {
  /** For people; with `singleton`, also the name by which processes recognise the same Crontab. */
  readonly name?: string
  /**
   * True: only one process of the server fires, see `Worker.onLeader`; needs a name. Default: every process that
   * creates it.
   */
  readonly singleton?: boolean
  /** Such as `Europe/Berlin`. Default: the machine's time zone. */
  readonly timezone?: string
  /** True: day of month and day of week must both match, as in Workerman. Default: either suffices, as in cron(8). */
  readonly domAndDow?: boolean
  /**
   * What a singleton does about ticks that passed while no process led: fire `once` for all of them (the default), or
   * `skip` them.
   */
  readonly missed?: 'once' | 'skip'
}

const LONGEST_NAME = 80
/** Before all times that a rule may have. */
const BEGINNING = new Date(0)

const all = new Map<number, Crontab>()
let lastId = 0

/**
 * Calls a function whenever a rule matches: `new Crontab('0 30 2 * * *', backUp, { name: 'backup', singleton: true })`.
 * A rule has five fields (minute, hour, day, month, weekday), or six with seconds first; croner's extensions work too.
 *
 * Create it in `onWorkerStart`: it fires in the process that created it, from when that process is the only one of its
 * slot until it leaves, so a reload fires no tick twice. Outside a worker it never fires. A rule whose last time has
 * passed (an ISO date, a year) is logged, and fires only what a singleton has missed.
 * **Order**: a tick is skipped and logged if the callback of the previous one has not settled.
 * **Errors**: as with Timer: what the callback throws is an uncaught exception, a rejected promise an unhandled
 * rejection.
 * **Throws** `ERR_CRONTAB_RULE`, `ERR_CRONTAB_OPTION`, `ERR_UNKNOWN_OPTION`, `ERR_LEADER_NAME`, and `ERR_NO_CRONER`
 * without `npm install croner`.
 */
export class Crontab {
  readonly #id = ++lastId
  readonly #rule: string
  readonly #callback: CrontabCallback
  readonly #name: string
  readonly #end: () => Promise<void>

  /** A string in place of the options is the name, as in Workerman. */
  constructor(rule: string, callback: CrontabCallback, options: CrontabOptions | string = {}) {
    const settings = typeof options === 'string' ? { name: options } : options
    check(callback, settings)
    const { name = '', singleton = false } = settings
    this.#rule = rule
    this.#callback = callback
    this.#name = name
    const times = timesOf(rule, settings)
    const { candidates } = registry()
    if (candidates !== null && times.nextRun(new Date()) === null)
      log(`crontab ${name || rule}: the last of its times has passed`)
    if (candidates === null) this.#end = async () => undefined
    else if (singleton) {
      const noted = sharedCounter(`crontab ${name}`)
      const run = async (signal: AbortSignal) =>
        new Ticking(times, callback, signal, noted, name).begin(settings.missed)
      this.#end = candidates.add(`crontab ${name}`, run)
    } else {
      const run = (signal: AbortSignal) => new Ticking(times, callback, signal, null, name || rule).begin()
      this.#end = candidates.addOwn(`crontab ${name || rule}`, run)
    }
    all.set(this.#id, this)
  }

  /** Returns the Crontabs of this process that have not been destroyed. */
  static getAll(): Crontab[] {
    return [...all.values()]
  }

  /** Destroys a Crontab, given the object or its id. Returns false if it was already destroyed. */
  static remove(crontab: Crontab | number): boolean {
    const one = typeof crontab === 'number' ? all.get(crontab) : crontab
    return one instanceof Crontab && one.destroy()
  }

  /** Unique in this process, from 1; for `Crontab.remove(id)`. */
  getId(): number {
    return this.#id
  }

  /** As given; empty without one. */
  getName(): string {
    return this.#name
  }

  /** As given. */
  getRule(): string {
    return this.#rule
  }

  /** The function that each tick calls. */
  getCallback(): CrontabCallback {
    return this.#callback
  }

  /** Stops firing in this process; another process continues a singleton. Returns false if it was already destroyed. */
  destroy(): boolean {
    void this.#end()
    return all.delete(this.#id)
  }
}

const RULES = {
  name: rule(
    (value) => isString(value) && value.length <= LONGEST_NAME,
    `a string of at most ${LONGEST_NAME} characters`,
  ),
  singleton: TRUE_OR_FALSE,
  timezone: rule(isString, `a name: 'Europe/Berlin'`),
  domAndDow: TRUE_OR_FALSE,
  missed: oneOf('once', 'skip'),
} satisfies Record<keyof CrontabOptions, Rule>

function check(callback: unknown, options: CrontabOptions): void {
  checkOptions('a Crontab', options, RULES, 'ERR_CRONTAB_OPTION')
  const { name = '', singleton = false } = options
  if (typeof callback !== 'function') throw badOption('a Crontab needs a function to call')
  if (singleton && name === '')
    throw badOption(`a Crontab with singleton: true needs a name, by which all processes know it`)
}

function badOption(message: string): UsageError {
  return new UsageError('ERR_CRONTAB_OPTION', message)
}

/**
 * A bad rule or time zone throws here, not when the first tick is computed; and so does a day that never comes. A rule
 * whose last time has passed was good code on the day before: the process that starts after it must not fail.
 */
function timesOf(rule: string, { timezone, domAndDow = false }: CrontabOptions): Cron {
  const Times = loadCroner()
  try {
    const times = new Times(rule, { paused: true, domAndDow, ...(timezone === undefined ? {} : { timezone }) })
    if (times.nextRun(BEGINNING) !== null) return times
  } catch (cause) {
    throw new UsageError('ERR_CRONTAB_RULE', `crontab '${rule}': ${messageOf(cause)}`, { cause })
  }
  throw new UsageError('ERR_CRONTAB_RULE', `crontab '${rule}': there is no such time`)
}

/** Not with `import()`: a bad rule must throw where it is written. */
function loadCroner(): typeof Cron {
  try {
    return (createRequire(import.meta.url)('croner') as { Cron: typeof Cron }).Cron
  } catch (cause) {
    throw new UsageError('ERR_NO_CRONER', 'Crontab needs a parser of its rules: npm install croner', { cause })
  }
}
