// The scheduler on the real clock: short delays, and never a fixed sleep to wait for something else.

import { AsyncLocalStorage, AsyncResource } from 'node:async_hooks'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { now } from '../../src/loop/clock.ts'
import { Scheduler } from '../../src/loop/scheduler.ts'
import { until } from '../support/until.ts'

const scheduler = new Scheduler({ keepsAlive: true })

/** Fulfilled `ms` from now, by the scheduler under test. */
const after = (ms: number) => new Promise<void>((resolve) => scheduler.after(ms, resolve))

function block(ms: number): void {
  const end = now() + ms
  while (now() < end);
}

/** The next `count` uncaught exceptions, while nothing else listens for them. */
async function uncaught(count: number, ms: number): Promise<unknown[]> {
  const errors: unknown[] = []
  const note = (error: unknown) => errors.push(error)
  process.on('uncaughtException', note)
  const deadline = now() + ms
  while (errors.length < count && now() < deadline) await after(1)
  process.off('uncaughtException', note)
  return errors
}

test('a timer is never early by the monotonic clock, and not late by much', async () => {
  const early: number[] = []
  const waits = Array.from({ length: 300 }, (_, i) => {
    const ms = ((i * 37) % 40) + (i % 10) / 10
    const start = now()
    return new Promise<void>((resolve) =>
      scheduler.after(ms, () => {
        const waited = now() - start
        if (waited < ms) early.push(waited - ms)
        resolve()
      }),
    )
  })
  await Promise.all(waits)
  assert.equal(early, [])
})

test('timers of a burst are not early either, whatever the code between the adds does', async () => {
  const early: number[] = []
  const waits: Promise<void>[] = []
  for (let i = 0; i < 2000; i++) {
    if (i % 97 === 0) block((i % 5) / 10)
    const start = now()
    waits.push(
      new Promise((resolve) =>
        scheduler.after(
          3,
          (from: number, done: () => void) => {
            if (now() - from < 3) early.push(now() - from)
            done()
          },
          start,
          resolve,
        ),
      ),
    )
  }
  await Promise.all(waits)
  assert.equal(early, [])
})

test('a burst added without looking at the clock is not early', async () => {
  const fired: number[] = []
  let starts: [index: number, time: number][] = []
  for (let round = 0; round < 20; round++) {
    fired.length = 0
    starts = []
    for (let i = 0; i < 500; i++) {
      scheduler.after(2, (index: number) => (fired[index] = now()), i)
      if (i % 50 === 49) {
        starts.push([i, now()])
        block(0.2)
      }
    }
    await after(4)
    // Timer i was added before the clock was read at the end of its group of fifty, and after the end of the last one.
    for (const [i] of starts) {
      const groupBegan = starts.find(([index]) => index === i - 50)?.[1] ?? 0
      for (let k = i - 49; k <= i; k++) assert.ok(fired[k]! - groupBegan >= 2, `round ${round}, timer ${k}`)
    }
  }
})

test('a callback gets its two payloads', async () => {
  const got = await new Promise((resolve) => scheduler.after(1, (a: string, b: number) => resolve([a, b]), 'a', 2))
  assert.equal(got, ['a', 2])
})

test('an earlier timer added later fires first', async () => {
  const order: string[] = []
  scheduler.after(20, () => order.push('late'))
  scheduler.after(5, () => order.push('early'))
  await after(25)
  assert.equal(order, ['early', 'late'])
})

test('what is added in a tick waits for the next one, with no delay too', async () => {
  const order: string[] = []
  await new Promise<void>((resolve) => {
    scheduler.after(5, () => {
      order.push('parent')
      scheduler.after(0, () => {
        order.push('child')
        resolve()
      })
    })
    scheduler.after(5, () => order.push('sibling'))
  })
  assert.equal(order, ['parent', 'sibling', 'child'])
})

test('repeats keep to their grid and skip what a blocked loop missed', async () => {
  const calls: number[] = []
  const start = now()
  const id = scheduler.every(10, () => {
    calls.push(now() - start)
    if (calls.length === 2) block(35)
  })
  while (calls.length < 5) await after(1)
  scheduler.cancel(id)
  const [, , third] = calls as [number, number, number]
  assert.ok(third >= 50, `the missed ticks at 30 and 40 were replayed: ${calls}`)
  for (const [i, time] of calls.entries()) assert.ok(time >= 10 * (i + 1), `call ${i} came early: ${calls}`)
})

test('an interval of nothing lets I/O in between', async () => {
  let ticks = 0
  const id = scheduler.every(0, () => ticks++)
  let turns = 0
  while (ticks < 5) {
    await new Promise(setImmediate)
    turns++
  }
  scheduler.cancel(id)
  assert.ok(turns >= 5, `${turns} turns of the loop for ${ticks} ticks`)
})

test('a throwing callback stops no other, keeps repeating, and its error surfaces', async () => {
  const called: string[] = []
  const id = scheduler.every(5, () => {
    called.push('throws')
    throw new Error(`number ${called.length}`)
  })
  scheduler.after(5, () => called.push('neighbour'))
  block(12) // so that both are due in one tick
  const errors = await uncaught(2, 2000)
  assert.ok(scheduler.cancel(id))
  assert.equal(called.slice(0, 3), ['throws', 'neighbour', 'throws'])
  assert.equal(errors.slice(0, 2).map(String), ['Error: number 1', 'Error: number 3']) // a busy machine may have come to the next
})

test('a rejected promise of a callback is an unhandled rejection', async () => {
  const reason = new Promise((resolve) => process.once('unhandledRejection', resolve))
  scheduler.after(1, async () => {
    throw new Error('later')
  })
  assert.is(String(await reason), 'Error: later')
})

test('cancelAll ends all timers of its scheduler and of no other', async () => {
  const other = new Scheduler({ keepsAlive: true })
  const called: string[] = []
  scheduler.after(1, () => called.push('cancelled'))
  scheduler.every(1, () => called.push('cancelled'))
  other.after(2, () => called.push('other'))
  scheduler.cancelAll()
  assert.is(scheduler.size, 0)
  await until(() => called.length > 0)
  await after(5)
  assert.equal(called, ['other'])
})

test('cancelling in a callback what is due in the same tick keeps it from being called', async () => {
  const called: string[] = []
  let victim = 0
  scheduler.after(3, () => assert.ok(scheduler.cancel(victim)))
  victim = scheduler.after(3, () => called.push('victim'))
  await after(6)
  assert.equal(called, [])
})

test('a callback runs in no context of another caller', async () => {
  const storage = new AsyncLocalStorage<string>()
  const seen: unknown[] = []
  const alone = new Scheduler({ keepsAlive: true })
  storage.run('who armed it', () => alone.after(2, () => seen.push(storage.getStore())))
  storage.run('another', () => alone.after(3, () => seen.push(storage.getStore())))
  alone.after(4, () => storage.enterWith('left behind'))
  alone.after(4, () => seen.push(storage.getStore()))
  alone.after(15, () => seen.push(storage.getStore()))
  block(10) // so that all but the last are due in one tick
  await after(20)
  assert.equal(seen, [undefined, undefined, undefined, undefined])
})

test('a bound callback and code after an await keep their context', async () => {
  const storage = new AsyncLocalStorage<string>()
  await storage.run('mine', async () => {
    const bound = await new Promise((resolve) =>
      scheduler.after(
        1,
        AsyncResource.bind(() => resolve(storage.getStore())),
      ),
    )
    assert.is(bound, 'mine')
    await after(1)
    assert.is(storage.getStore(), 'mine')
  })
})

test('however many timers are pending, Node has one', async () => {
  const before = nodeTimers()
  const alone = new Scheduler({ keepsAlive: true })
  for (let i = 0; i < 10_000; i++) alone.after(60_000 - i, () => undefined)
  assert.is(nodeTimers() - before, 1)
  alone.cancelAll()
})

function nodeTimers(): number {
  return process.getActiveResourcesInfo().filter((name) => name === 'Timeout').length
}

test('a million timers are pending at once, and each can be deleted', () => {
  const scheduler = new Scheduler({ keepsAlive: false })
  const ids = Array.from({ length: 1_000_000 }, (_, index) => scheduler.after(60_000 + index, () => undefined))
  assert.is(scheduler.size, 1_000_000)
  assert.ok(ids.every((id) => scheduler.cancel(id)))
  assert.is(scheduler.size, 0)
})

test.run()
