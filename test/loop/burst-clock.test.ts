// What a reading is worth: it may run ahead of the clock, and what it was lent to may be postponed, but it is never
// behind the call.

import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { BurstClock } from '../../src/loop/burst-clock.ts'
import { now } from '../../src/loop/clock.ts'

/** A clock that adds up what each borrower was postponed by. */
function harness() {
  const postponed = new Map<number, number>()
  const clock = new BurstClock((id, ms) => postponed.set(id, (postponed.get(id) ?? 0) + ms))
  return {
    postponed,
    /** Reads for timer `id`. */
    read(id: number): number {
      const time = clock.read()
      clock.lendTo(id)
      return time
    },
  }
}

function block(ms: number): void {
  const end = now() + ms
  while (now() < end);
}

test('a single reading is the time of the call', () => {
  const { read, postponed } = harness()
  for (let id = 1; id <= 5; id++) {
    block(0.1)
    const before = now()
    const time = read(id)
    assert.ok(before <= time && time <= now())
  }
  assert.is(postponed.size, 0)
})

test('a burst shares readings, a little ahead of the clock', async () => {
  const { read } = harness()
  const times = new Set<number>()
  for (let id = 1; id <= 10_000; id++) times.add(read(id))
  assert.ok(times.size < 5000, `${times.size} readings for 10000 adds`)
  await Promise.resolve()
})

test('whatever happens between the adds, none counts from before its call', async () => {
  const { read, postponed } = harness()
  const calls: [id: number, call: number, time: number][] = []
  for (let id = 1; id <= 20_000; id++) {
    if (id % 1000 === 0) block(0.5)
    const call = id % 100 === 0 ? now() : 0
    calls.push([id, call, read(id)])
  }
  block(0.2)
  await Promise.resolve()
  for (const [id, call, time] of calls) assert.ok(time + (postponed.get(id) ?? 0) >= call)
})

test('a lease ends with the run that took it', async () => {
  const { read } = harness()
  for (let id = 1; id <= 10; id++) read(id)
  await Promise.resolve()
  block(0.1)
  const before = now()
  assert.ok(read(11) >= before)
})

test.run()
