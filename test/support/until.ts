// Waiting without fixed sleeps: for a condition, a promise or a failure, each under a deadline that says what it waited
// for. The deadlines are generous, since they cost nothing if all is well.

import { setTimeout as sleep } from 'node:timers/promises'
import { codeOf } from '../../src/errors.ts'

/**
 * How often a condition is checked if a few turns of the loop have not fulfilled it: less and less often the longer it
 * takes.
 */
const POLL_MS = 5
const SLOWEST_POLL_MS = 25
const EAGER_TURNS = 10

/**
 * Waits until `condition` returns something truthy, and returns that. A condition that throws fails immediately.
 * @param ms rejects after this long, naming the condition's source
 */
export async function until<T>(
  condition: () => T | Promise<T>,
  ms = 5_000,
): Promise<Exclude<T, null | undefined | false>> {
  const start = performance.now()
  for (let turn = 0; ; turn++) {
    const value = await condition()
    if (value) return value as Exclude<T, null | undefined | false>
    const waited = performance.now() - start
    if (waited > ms) throw new Error(`still waiting after ${ms} ms for ${condition}`)
    if (turn < EAGER_TURNS) await nextTurn()
    else await sleep(Math.min(SLOWEST_POLL_MS, Math.max(POLL_MS, waited / 20)))
  }
}

/** The promise's outcome; rejects if it takes longer than `ms`. */
export async function within<T>(ms: number, promise: PromiseLike<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_resolve, reject) => {
    const error = new Error(`not settled within ${ms} ms`) // made here, so that its stack names the test
    timer = setTimeout(() => reject(error), ms)
  })
  try {
    return await Promise.race([promise, late])
  } finally {
    clearTimeout(timer)
  }
}

/**
 * Returns the error that the promise rejects with, which must have this `code`. Throws if the promise does not reject.
 */
export async function rejects(promise: PromiseLike<unknown>, code: string): Promise<Error> {
  const [outcome] = await Promise.allSettled([promise])
  if (outcome.status === 'fulfilled') throw new Error(`should have been rejected with ${code}`)
  if (codeOf(outcome.reason) === code) return outcome.reason
  throw new Error(`should have been rejected with ${code}, not ${outcome.reason}`, { cause: outcome.reason })
}

/** One turn of the event loop: work that is due now has run, and what it sent has been flushed. */
export function nextTurn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve))
}
