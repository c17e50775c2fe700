// The wheel beside a list that is searched from end to end: whatever is done to both, both must fire the same timers in
// the same order. Deletes, adds and clears happen outside and inside of callbacks.

import * as assert from 'uvu/assert'
import { TimingWheel } from '../../src/loop/timing-wheel.ts'

/** A whole number below `limit`. */
export type Random = (limit: number) => number

/** Mulberry32: the same numbers for the same seed. */
export function seeded(seed: number): Random {
  let state = seed
  return (limit) => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return Math.floor((((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32) * limit)
  }
}

interface Entry {
  name: number
  due: number
  every: number
  /** Order among equal ticks: of adding, or of the last repetition. */
  order: number
}

export interface Model {
  /** One random operation on both, compared. */
  step(): void
  /** Fires what is left. */
  finish(): void
}

const SPANS = [3, 70, 5000, 300_000, 20_000_000, 2 ** 32, 2 ** 40]

export function modelWheel(random: Random): Model {
  const wheel = new TimingWheel()
  const entries = new Map<number, Entry>() // by the id in the wheel
  const ended: number[] = []
  let now = 0
  let names = 0
  let order = 0

  const span = () => SPANS[random(random(4) === 0 ? SPANS.length : 3)]!

  function add(): void {
    const due = now + random(span()) + random(4) / 4
    const every = random(4) === 0 ? 1 + random(span()) + random(2) / 2 : 0
    const name = names++
    const id = wheel.add(due, every, onFire, name)
    assert.not(entries.has(id))
    entries.set(id, { name, due: Math.max(due, now + 1), every, order: order++ })
  }

  function deleteOne(): void {
    const ids = [...entries.keys()]
    if (ids.length > 0) end(ids[random(ids.length)]!)
    if (ended.length > 0) assert.not(wheel.delete(ended[random(ended.length)]!))
  }

  function end(id: number): void {
    assert.ok(wheel.delete(id))
    entries.delete(id)
    ended.push(id)
  }

  function clear(): void {
    wheel.clear()
    ended.push(...entries.keys())
    entries.clear()
  }

  /** The first timer that is due, by searching them all. */
  function first(): [number, Entry] | undefined {
    let best: [number, Entry] | undefined
    for (const one of entries) if (best === undefined || isBefore(one[1], best[1])) best = one
    return best
  }

  function onFire(name: number): void {
    const [id, expected] = first()!
    assert.is(name, expected.name)
    assert.ok(expected.due <= now)
    if (expected.every === 0) {
      entries.delete(id)
      ended.push(id)
    } else {
      expected.due += (Math.floor((now - expected.due) / expected.every) + 1) * expected.every
      expected.order = order++
    }
    act(8)
  }

  function act(choices: number): void {
    const choice = random(choices)
    if (choice < 2) add()
    else if (choice === 2) deleteOne()
    else if (choice === 3 && random(200) === 0) clear()
  }

  function advanceTo(time: number): void {
    now = time
    wheel.advance(now, (callback, a, b) => callback(a, b))
    const next = first()
    assert.ok(next === undefined || next[1].due > now, 'a due timer did not fire')
    assert.is(wheel.size, entries.size)
    assert.ok(wheel.nextDue() <= (next === undefined ? Number.POSITIVE_INFINITY : Math.ceil(next[1].due)))
  }

  return {
    step() {
      if (random(3) > 0 || entries.size > 300) advanceTo(now + random(span()))
      else act(4)
    },
    finish() {
      for (const [id, { every }] of entries) if (every > 0) end(id)
      for (let left = 10_000; entries.size > 0 && left > 0; left--) {
        advanceTo(Math.max(now, wheel.nextDue()))
        for (const [id, { every }] of entries) if (every > 0) end(id)
      }
      assert.is(wheel.size, 0)
    },
  }
}

function isBefore(one: Entry, other: Entry): boolean {
  const [a, b] = [Math.ceil(one.due), Math.ceil(other.due)]
  return a < b || (a === b && one.order < other.order)
}
