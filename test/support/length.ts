// What belongs to the long suite. `npm test` is run all the time and must be quick: each feature is shown once there. The long
// suite (`npm run test:long`) is for what takes its time by nature, for the other cases of what is shown once, and for what
// comes up once in a million. `LONG=1` is all of it; with `LONG=tests` nothing is left out, but nothing goes on for longer
// either: for who wants every test and has no hour (coverage, other Nodes).

import { test } from 'uvu'

const { LONG = '' } = process.env

/** `brief` in `npm test`, `long` with `LONG=1`. */
export function atLength(brief: number, long: number): number {
  return LONG === '1' ? long : brief
}

/** How many tests this run has left out. */
let left = 0

/** A test of the long suite alone. What is left out is counted: scripts/test.mjs reads the line and says so. */
export function longTest(title: string, use: () => unknown): void {
  if (LONG !== '') return test(title, async () => void (await use()))
  if (left++ === 0) process.once('exit', () => console.log(`  Left to the long suite: ${left}`))
}

/** One of several cases of the same: a test of every day, or of the long suite. */
export function caseTest(isEveryDay: boolean): (title: string, use: () => unknown) => void {
  return isEveryDay ? (title, use) => test(title, async () => void (await use())) : longTest
}
