// The wheel on a fake clock: `advance` is told the time, so no test here waits.

import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { TimingWheel } from '../../src/loop/timing-wheel.ts'
import { type Model, modelWheel, seeded } from './timer-model.ts'

/** A wheel whose timers note their names when they fire. */
function harness() {
  const wheel = new TimingWheel()
  const fired: string[] = []
  const note = (name: string) => fired.push(name)
  return {
    wheel,
    fired,
    at: (dueMs: number, name: string, everyMs = 0) => wheel.add(dueMs, everyMs, note, name),
    does: (dueMs: number, act: () => void, everyMs = 0) => wheel.add(dueMs, everyMs, act),
    advance: (nowMs: number) => wheel.advance(nowMs, (callback, a, b) => callback(a, b)),
    /** What fired since the last call. */
    take: () => fired.splice(0),
  }
}

test('a timer fires in its millisecond, not in the one before', () => {
  const { at, advance, take } = harness()
  for (const due of [1, 63, 64, 65, 4095, 4096, 262_144, 1_000_000]) at(due, `${due}`)
  for (const due of [1, 63, 64, 65, 4095, 4096, 262_144, 1_000_000]) {
    advance(due - 1)
    assert.equal(take(), [])
    advance(due)
    assert.equal(take(), [`${due}`])
  }
})

test('a fraction of a millisecond is rounded up', () => {
  const { at, advance, take } = harness()
  at(10.001, 'a')
  advance(10)
  assert.equal(take(), [])
  advance(11)
  assert.equal(take(), ['a'])
})

test('delays beyond 2^31 ms, and up to the largest safe integer, fire in their time', () => {
  const { wheel, at, advance, take } = harness()
  const dues = [2 ** 31 - 1, 2 ** 31, 2 ** 32 + 1, 2 ** 36, 2 ** 42 + 5, Number.MAX_SAFE_INTEGER]
  for (const due of dues) at(due, `${due}`)
  for (const due of dues) {
    advance(due - 1)
    assert.equal(take(), [])
    assert.is(wheel.nextDue(), due)
    advance(due)
    assert.equal(take(), [`${due}`])
  }
})

test('a due time beyond the largest safe integer is taken as that', () => {
  const { wheel, at } = harness()
  at(1e300, 'never')
  assert.is(wheel.nextDue(), Number.MAX_SAFE_INTEGER)
})

test('what is due in one advance fires in order of due time, equal ones in order of adding', () => {
  const { at, advance, take } = harness()
  at(5000, 'c')
  at(100, 'b')
  at(5000, 'd')
  at(1, 'a')
  advance(4990)
  assert.equal(take(), ['a', 'b'])
  at(5000, 'e')
  advance(10_000)
  assert.equal(take(), ['c', 'd', 'e'])
})

test('a timer that is due already waits for the next millisecond', () => {
  const { at, advance, take } = harness()
  advance(100)
  at(50, 'past')
  advance(100)
  assert.equal(take(), [])
  advance(101)
  assert.equal(take(), ['past'])
})

test('what is born in an advance waits for a later one, though its time has come', () => {
  const { at, does, advance, take } = harness()
  does(10, () => at(20, 'child'))
  advance(1000)
  assert.equal(take(), [])
  advance(1001)
  assert.equal(take(), ['child'])
})

test('a repeating timer stays on its grid, and missed ticks are not replayed', () => {
  const { wheel, at, advance, take } = harness()
  at(10, 'x', 10)
  advance(12)
  assert.equal(take(), ['x'])
  assert.is(wheel.nextDue(), 20)
  advance(115)
  assert.equal(take(), ['x'])
  assert.is(wheel.nextDue(), 120)
  advance(120)
  assert.equal(take(), ['x'])
  assert.is(wheel.nextDue(), 130)
})

test('an interval that is no whole number of milliseconds does not drift', () => {
  const { wheel, at, advance, take } = harness()
  at(1000 / 60, 'frame', 1000 / 60)
  for (let second = 1; second <= 600; second++) {
    for (let frame = 0; frame < 60; frame++) advance(wheel.nextDue())
    assert.is(take().length, 60)
    assert.is(wheel.nextDue(), Math.ceil(second * 1000 + 1000 / 60))
  }
})

test('a callback may delete itself, while it repeats', () => {
  const { wheel, does, advance } = harness()
  let calls = 0
  const id = does(
    10,
    () => {
      calls++
      assert.ok(wheel.delete(id))
      assert.not(wheel.delete(id))
    },
    10,
  )
  advance(10)
  advance(100)
  assert.is(calls, 1)
  assert.is(wheel.size, 0)
})

test('a one-shot timer has ended when its callback runs', () => {
  const { wheel, does, advance } = harness()
  const id = does(10, () => {
    assert.not(wheel.delete(id))
    assert.is(wheel.size, 0)
  })
  advance(10)
})

test('what a callback deletes never fires, though it is due in the same advance', () => {
  const { wheel, at, does, advance, take } = harness()
  const doomed: number[] = []
  does(10, () => assert.ok(doomed.every((id) => wheel.delete(id))))
  doomed.push(at(10, 'same ms'), at(11, 'next ms'), at(500, 'same advance'))
  at(10, 'neighbour')
  advance(1000)
  assert.equal(take(), ['neighbour'])
})

test('clear in a callback ends all, repeating ones and itself too', () => {
  const { wheel, at, does, advance, take } = harness()
  does(10, () => wheel.clear(), 10)
  at(10, 'a', 10)
  at(20, 'b')
  advance(30)
  advance(1000)
  assert.equal(take(), [])
  assert.is(wheel.nextDue(), Number.POSITIVE_INFINITY)
})

test('a stale id deletes nothing, also when its slot is used again', () => {
  const { wheel, at } = harness()
  const first = at(10, 'first')
  assert.ok(wheel.delete(first))
  const second = at(10, 'second')
  assert.is.not(second, first)
  assert.not(wheel.delete(first))
  assert.is(wheel.size, 1)
  assert.ok(wheel.delete(second))
})

test('ids of before a clear, or of before memory was given back, are stale for good', () => {
  const { wheel, at, advance } = harness()
  const old = Array.from({ length: 40_000 }, (_, i) => at(10 + i, ''))
  wheel.clear()
  advance(1)
  assert.is(wheel.size, 0)
  const fresh = Array.from({ length: 40_000 }, (_, i) => at(10 + i, ''))
  assert.not(old.some((id) => wheel.delete(id)))
  assert.ok(fresh.every((id) => wheel.delete(id)))
})

test('what was never an id deletes nothing', () => {
  const { wheel, at } = harness()
  at(10, 'a')
  const strange = [0, 1, -1, 0.5, 576, 2 ** 24, 2 ** 53, Number.NaN, Number.POSITIVE_INFINITY, undefined, null, 'a', {}]
  for (const id of strange) assert.not(wheel.delete(id as number))
  assert.is(wheel.size, 1)
})

test('an ended timer keeps nothing alive', async () => {
  const { setFlagsFromString } = await import('node:v8')
  const { runInNewContext } = await import('node:vm')
  setFlagsFromString('--expose-gc')
  const gc = runInNewContext('gc') as () => void
  const { wheel } = harness()
  let payload: object | undefined = { big: true }
  const ref = new WeakRef(payload)
  wheel.delete(wheel.add(10, 0, () => undefined, payload))
  payload = undefined
  await new Promise(setImmediate) // a WeakRef is strong until the end of the job that made it
  gc()
  assert.is(ref.deref(), undefined)
  assert.is(wheel.size, 0)
})

test('postpone moves a timer and its grid, and leaves an ended one alone', () => {
  const { wheel, at, advance, take } = harness()
  const id = at(10, 'x', 10)
  const ended = at(5, 'y')
  wheel.postpone(id, 3)
  advance(12)
  assert.equal(take(), ['y'])
  wheel.postpone(ended, 3)
  advance(13)
  assert.equal(take(), ['x'])
  assert.is(wheel.nextDue(), 23)
  assert.is(wheel.size, 1)
})

test('when a callback throws out of advance, the others fire at the next one', () => {
  const { wheel, at, does, advance, take } = harness()
  at(10, 'a')
  does(10, () => {
    throw new Error('mine')
  })
  at(10, 'b')
  at(70, 'c')
  assert.throws(() => advance(100), 'mine')
  assert.equal(take(), ['a'])
  assert.is(wheel.size, 2)
  advance(100)
  assert.equal(take(), ['b', 'c'])
})

test('a clock that goes back fires nothing and breaks nothing', () => {
  const { at, advance, take } = harness()
  advance(1000)
  at(1010, 'a')
  advance(500)
  assert.equal(take(), [])
  advance(1010)
  assert.equal(take(), ['a'])
})

test('an empty wheel can skip to a time, one with timers does not', () => {
  const { wheel, at, advance, take } = harness()
  wheel.skipTo(5000)
  at(100, 'late')
  assert.is(wheel.nextDue(), 5001)
  wheel.skipTo(10_000)
  assert.is(wheel.nextDue(), 5001)
  advance(5001)
  assert.equal(take(), ['late'])
})

test('a wheel that a callback has emptied does not skip within that advance', () => {
  const wheel = new TimingWheel()
  const calls: number[] = []
  wheel.add(10, 0, () => {
    wheel.skipTo(64) // the callback took that long
    wheel.add(64 + 10, 0, () => calls.push(now)) // the bucket at work, of the next turn of the wheel
  })
  let now = 10
  wheel.advance(now, (callback) => callback(undefined as never, undefined as never))
  assert.equal(calls, [])
  now = 74
  wheel.advance(now, (callback) => callback(undefined as never, undefined as never))
  assert.equal(calls, [74])
})

test('nextDue is exact while few timers are close together, whatever their level', () => {
  const { wheel, at } = harness()
  assert.is(wheel.nextDue(), Number.POSITIVE_INFINITY)
  at(3_600_000, 'hour')
  assert.is(wheel.nextDue(), 3_600_000)
  at(86_400_000, 'day')
  at(3_599_999, 'a little before')
  assert.is(wheel.nextDue(), 3_599_999)
})

test('nextDue is never late, and reaches a crowd in a few steps', () => {
  const { wheel, at, advance, take } = harness()
  for (let i = 0; i < 100; i++) at(3_600_000 + i, `${i}`)
  let steps = 0
  while (take().length === 0) {
    assert.ok(wheel.nextDue() <= 3_600_000)
    advance(wheel.nextDue())
    steps++
  }
  assert.ok(steps <= 5, `${steps} steps`)
})

test('a hundred thousand timers, in any order of adding and deleting, keep order and count', () => {
  const { wheel, advance } = harness()
  const random = seeded(7)
  const dues: number[] = []
  const ids = Array.from({ length: 100_000 }, () => {
    const due = 1 + random(10_000_000)
    return wheel.add(due, 0, (value: number) => dues.push(value), due)
  })
  let deleted = 0
  for (let i = 0; i < ids.length; i += 3) if (wheel.delete(ids[i]!)) deleted++
  assert.is(wheel.size, ids.length - deleted)
  while (wheel.size > 0) advance(wheel.nextDue() + random(5000))
  assert.is(dues.length, ids.length - deleted)
  assert.equal(
    dues,
    dues.toSorted((a, b) => a - b),
  )
})

for (const seed of [1, 2, 3, 4, 5, 6, 7, 8]) {
  test(`random operations do what a sorted list does (seed ${seed})`, () => {
    const random = seeded(seed)
    const model: Model = modelWheel(random)
    for (let step = 0; step < 10_000; step++) model.step()
    model.finish()
  })
}

test.run()
