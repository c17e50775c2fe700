// Counters that all workers of a server share. With the addon they are in memory mapped by every process, and counting
// is one atomic instruction; without it they are numbers kept by the keeper.
//
// The memory is a table with open addressing. A place is taken by one compare-and-exchange of its key, so a process
// killed midway leaves nothing that others would wait for.
//
//    0            8
//   +------------+------------+
//   | key, int64 | value, i64 |  times PLACES      key: 64 bits of the name's SHA-256, 0 for a free place
//   +------------+------------+

import { addon } from '../addon.ts'
import { crypto } from '../builtins.ts'
import { messageOf, quoted, UsageError } from '../errors.ts'
import { LimitedLog } from '../log.ts'
import { registry } from '../process/group.ts'
import { keeperLink } from './keeper-link.ts'
import { COUNTER_BYTES, COUNTERS_MAP, MAX_COUNTERS } from './limits.ts'

const PLACES = MAX_COUNTERS
const PLACE_WORDS = 2

/**
 * A number that every worker of this server can change and that outlives all of them. Whole numbers, exact up to 2^53.
 * With the addon it also outlives the keeper, and every operation is complete when the call returns.
 */
export interface SharedCounter {
  /** As given. */
  readonly name: string
  /**
   * Adds without returning the sum. **Cost**: 0.05 us with the addon. Without it, what one turn of the loop adds is
   * sent at its end: a process killed before then has not counted it. **Throws** ERR_SHARED_STEP.
   */
  add(step?: number): void
  /** Adds and resolves with the sum, atomically: no two callers get the same one. */
  addAndGet(step?: number): Promise<number>
  /** The value; 0 at first. */
  get(): Promise<number>
  /** Replaces the value. **Throws** ERR_SHARED_STEP for anything but a whole number. */
  set(value: number): Promise<void>
}

export function sharedCounter(name: string): SharedCounter {
  const memory = mappedMemory()
  return memory === null ? new KeptCounter(name) : new MappedCounter(name, memory)
}

class MappedCounter implements SharedCounter {
  readonly name: string
  readonly #memory: BigInt64Array
  readonly #place: number

  constructor(name: string, memory: BigInt64Array) {
    this.name = name
    this.#memory = memory
    this.#place = placeOf(name, memory)
  }

  add(step = 1): void {
    Atomics.add(this.#memory, this.#place, BigInt(checkWhole(step)))
  }

  async addAndGet(step = 1): Promise<number> {
    const whole = checkWhole(step)
    return Number(Atomics.add(this.#memory, this.#place, BigInt(whole))) + whole
  }

  async get(): Promise<number> {
    return Number(Atomics.load(this.#memory, this.#place))
  }

  async set(value: number): Promise<void> {
    Atomics.store(this.#memory, this.#place, BigInt(checkWhole(value)))
  }
}

/** Logs failed additions, which no caller awaits. */
const losses = new LimitedLog()

class KeptCounter implements SharedCounter {
  readonly name: string
  #unsent = 0

  constructor(name: string) {
    this.name = name
  }

  add(step = 1): void {
    const isFirst = this.#unsent === 0
    this.#unsent += checkWhole(step)
    if (isFirst) setImmediate(() => this.#flush())
  }

  /** Runs after earlier additions: the keeper handles requests in order. */
  addAndGet(step = 1): Promise<number> {
    const whole = checkWhole(step)
    this.#flush()
    return this.#increment(whole)
  }

  get(): Promise<number> {
    return this.addAndGet(0)
  }

  async set(value: number): Promise<void> {
    checkWhole(value)
    this.#flush()
    await keeperLink.call(['set', COUNTERS_MAP, this.name, value, 0, null])
  }

  #flush(): void {
    const step = this.#unsent
    this.#unsent = 0
    if (step === 0) return
    this.#increment(step).catch((error) =>
      losses.log(`counter '${this.name}': ${step} not counted: ${messageOf(error)}`),
    )
  }

  async #increment(step: number): Promise<number> {
    return Number((await keeperLink.call(['increment', COUNTERS_MAP, this.name, step, 0])).result)
  }
}

let mapped: BigInt64Array | null | undefined

/** The master's memory, inherited by this process; null without the addon. */
function mappedMemory(): BigInt64Array | null {
  if (mapped !== undefined) return mapped
  const { memoryFd } = registry()
  if (memoryFd < 0) return null
  mapped = new BigInt64Array(addon().sys?.mapMemory(memoryFd, COUNTER_BYTES) ?? new ArrayBuffer(0))
  return mapped
}

/** The index of a name's value. Throws ERR_SHARED_FULL. */
function placeOf(name: string, memory: BigInt64Array): number {
  const key = keyOf(name)
  const first = Number(BigInt.asUintN(32, key)) % PLACES
  for (let step = 0; step < PLACES; step++) {
    const at = ((first + step) % PLACES) * PLACE_WORDS
    const present = Atomics.compareExchange(memory, at, 0n, key)
    if (present === 0n || present === key) return at + 1
  }
  throw new UsageError('ERR_SHARED_FULL', `there are ${PLACES} counters already: use Shared.map for names without end`)
}

/** With 16,384 names, two share a key once in 10^11 servers. */
function keyOf(name: string): bigint {
  const key = crypto().createHash('sha256').update(name).digest().readBigInt64LE()
  return key === 0n ? 1n : key
}

function checkWhole(step: unknown): number {
  if (Number.isSafeInteger(step)) return step as number
  throw new UsageError('ERR_SHARED_STEP', `a counter counts whole numbers, not ${quoted(step)}`)
}
