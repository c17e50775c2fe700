// Deadlines in lists: never early, half a second late at most, moved and cleared in whatever order. The clock is the test's.

import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { type Coarse, CoarseDeadlines } from '../../src/loop/coarse-deadlines.ts'
import { randomOf, seedOf } from '../support/random.ts'

class Entry implements Coarse {
  due = 0
  list = 0
  place = 0
  /** When it should expire; -1: it should not. */
  wanted = -1
  expired = 0
  onExpire: (entry: Entry) => void = () => undefined

  expire(): void {
    this.expired++
    this.onExpire(this)
  }
}

/** A clock, and a scheduler that goes by it. */
class Time {
  now = 12_345.6
  timers: { due: number; run: () => void }[] = []
  readonly deadlines = new CoarseDeadlines(this as never, () => this.now)

  after(ms: number, fn: (a: unknown) => void, a?: unknown): number {
    this.timers.push({ due: Math.ceil(this.now + ms), run: () => fn(a) })
    return this.timers.length
  }

  advance(ms: number): void {
    const end = this.now + ms
    for (;;) {
      const next = this.timers.reduce((a, b) => (b.due < a.due ? b : a), {
        due: Number.POSITIVE_INFINITY,
        run: () => undefined,
      })
      if (next.due > end) break
      this.timers.splice(this.timers.indexOf(next), 1)
      this.now = Math.max(this.now, next.due)
      next.run()
    }
    this.now = end
  }
}

test('one expires once, within half a second of its time', () => {
  const time = new Time()
  const entry = new Entry()
  time.deadlines.set(entry, 15_000)
  time.advance(14_999)
  assert.is(entry.expired, 0)
  time.advance(502)
  assert.is(entry.expired, 1)
  time.advance(60_000)
  assert.is(entry.expired, 1)
})

test('one that expires may be set again by what it calls', () => {
  const time = new Time()
  const entry = new Entry()
  entry.onExpire = () => time.deadlines.set(entry, 10_000)
  time.deadlines.set(entry, 10_000)
  time.advance(52_600) // five times, each with half a second
  assert.ok(entry.expired >= 5)
})

test('one that is cleared lies in no list, so that nothing keeps it', () => {
  const time = new Time()
  const entries = Array.from({ length: 100 }, () => new Entry())
  for (const entry of entries) time.deadlines.set(entry, 20_000)
  for (const entry of entries.slice(1)) time.deadlines.clear(entry)
  assert.equal([...new Set(entries.slice(1).map(({ list }) => list))], [0])
  time.advance(30_000)
  assert.equal(
    entries.map(({ expired }) => expired),
    [1, ...Array(99).fill(0)],
  )
})

test('many, moved to and fro at random, expire when they should and never else', () => {
  const random = randomOf(seedOf('coarse deadlines'))
  const time = new Time()
  const entries = Array.from({ length: 200 }, () => new Entry())
  for (const entry of entries)
    entry.onExpire = () => {
      assert.ok(entry.wanted >= 0, 'it was cleared')
      assert.ok(time.now >= entry.wanted, `${entry.wanted - time.now} ms early`)
      assert.ok(time.now <= entry.wanted + 502, `${time.now - entry.wanted} ms late`)
      entry.wanted = -1
    }
  for (let step = 0; step < 20_000; step++) {
    const entry = entries[random(entries.length)] as Entry
    if (random(4) === 0) {
      time.deadlines.clear(entry)
      entry.wanted = -1
    } else {
      const ms = random(3) === 0 ? random(1000) : random(30_000)
      time.deadlines.set(entry, ms)
      entry.wanted = time.now + ms
    }
    if (random(3) === 0) time.advance(random(400) / 10)
  }
  time.advance(31_000)
  assert.equal(entries.filter(({ wanted }) => wanted >= 0).length, 0)
})

test.run()
