// Waiting without fixed sleeps: for a condition, for a promise, for a failure; each under a deadline that says what
// it waited for. The deadlines are wide, since they cost nothing where all is well.

import { setTimeout as sleep } from 'node:timers/promises'
import { codeOf } from '../../src/errors.ts'

/** How often a condition is looked at, once a few turns of the loop have not brought it about: ever less while it takes long. */
const POLL_MS = 5
const SLOWEST_POLL_MS = 25
const EAGER_TURNS = 10

/**
 * Waits until `condition` gives something truthy, and gives that back. A condition that throws has failed for good.
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

/** The promise's outcome, or a rejection when that takes longer than `ms`. */
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

/** The error that the promise rejects with, which must carry `code`. Throws when it does not reject. */
export async function rejects(promise: PromiseLike<unknown>, code: string): Promise<Error> {
  const [outcome] = await Promise.allSettled([promise])
  if (outcome.status === 'fulfilled') throw new Error(`should have been rejected with ${code}`)
  if (codeOf(outcome.reason) === code) return outcome.reason
  throw new Error(`should have been rejected with ${code}, not ${outcome.reason}`, { cause: outcome.reason })
}

/** One turn of the event loop: what is due now has run, and what it sent has been flushed. */
export function nextTurn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve))
}
