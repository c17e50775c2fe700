// What belongs to the long suite. `npm test` is run all the time and must be quick: it shows each feature once. The
// long suite (`npm run test:long`) is for tests that take long by nature, for further cases of what is shown once, and
// for events as rare as one in a million. `LONG=1` runs all of it; with `LONG=tests` no test is left out, but none runs
// longer either: for coverage and other versions of Node, where every test matters and an hour is too long.

import { test } from 'uvu'

const { LONG = '' } = process.env

/** Returns `brief` in `npm test`, `long` with `LONG=1`. */
export function atLength(brief: number, long: number): number {
  return LONG === '1' ? long : brief
}

/** How many tests this run has left out. */
let left = 0

/** A test of the long suite only. Those left out are counted: scripts/test.mjs reads the line and reports it. */
export function longTest(title: string, use: () => unknown): void {
  if (LONG !== '') return test(title, async () => void (await use()))
  if (left++ === 0) process.once('exit', () => console.log(`  Left to the long suite: ${left}`))
}

/** One of several similar cases: part of every run, or of the long suite. */
export function caseTest(isEveryDay: boolean): (title: string, use: () => unknown) => void {
  return isEveryDay ? (title, use) => test(title, async () => void (await use())) : longTest
}
