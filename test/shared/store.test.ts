// What the keeper keeps, without a process: conditions, versions, times to live, watchers, the bound; and the frames in which it
// is asked, however they are cut.

import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { codeOf } from '../../src/errors.ts'
import { Scheduler } from '../../src/loop/scheduler.ts'
import { Store } from '../../src/shared/store.ts'
import { encodeFrame, FrameReader, type Request } from '../../src/shared/wire.ts'
import { until } from '../support/until.ts'

function newStore(maxBytes?: number): Store {
  return new Store(new Scheduler({ keepsAlive: false }), maxBytes)
}

test('a set under a condition: absent, a version, none', () => {
  const store = newStore()
  assert.is(store.set('m', 'k', 1, 0, 'absent').isDone, true)
  const { isDone, entry } = store.set('m', 'k', 2, 0, 'absent')
  assert.equal([isDone, entry?.value], [false, 1])
  assert.is(store.set('m', 'k', 2, 0, entry?.version ?? 0).isDone, true)
  assert.is(store.set('m', 'k', 3, 0, entry?.version ?? 0).isDone, false)
  assert.is(store.get('m', 'k')?.value, 2)
  store.delete('m', 'k')
  store.set('m', 'k', 2)
  assert.is(store.set('m', 'k', 3, 0, entry?.version ?? 0).isDone, false, 'versions never come again')
  assert.is(store.get('other', 'k'), null)
})

test('what expires is told to who watches, is gone for who asks, and a later set has its own time', async () => {
  const store = newStore()
  const seen: string[] = []
  const stop = store.watch('m', '', (type, key, value) => seen.push(`${type} ${key} ${value}`))
  store.watch('m', 'b', (type) => seen.push(`only ${type}`))
  store.set('m', 'a', 1, 100)
  store.set('m', 'b', 1, 100)
  store.set('m', 'b', 2, 100_000)
  assert.is(store.increment('m', 'a', 1), 2)
  await until(() => seen.includes('expire a null'))
  assert.equal(seen, ['set a 1', 'set b 1', 'only set', 'set b 2', 'only set', 'set a 2', 'expire a null'])
  assert.equal(store.keys('m'), ['b'])
  stop()
  assert.is(store.delete('m', 'b'), true)
  assert.equal(seen.slice(-1), ['only delete'])
  assert.is(store.size('m'), 0)
})

test('a set may keep the time that a key has left, which an absent key has not', async () => {
  const store = newStore()
  const expired: string[] = []
  store.watch('m', '', (type, key) => type === 'expire' && expired.push(key))
  store.set('m', 'kept', 1, 50)
  store.set('m', 'kept', 2, null)
  store.set('m', 'for ever', 1, 50)
  store.set('m', 'for ever', 2, 0)
  store.set('m', 'absent', 1, null)
  await until(() => expired.length > 0)
  assert.equal([expired, store.keys('m')], [['kept'], ['for ever', 'absent']])
})

test('it is bounded, counts what goes, and text is no number', () => {
  const store = newStore(10_000)
  const full = (call: () => unknown) => {
    try {
      call()
      return ''
    } catch (error) {
      return codeOf(error)
    }
  }
  store.set('m', 'big', new Uint8Array(8000))
  assert.is(
    full(() => store.set('m', 'more', new Uint8Array(3000))),
    'ERR_SHARED_FULL',
  )
  assert.is(
    full(() => store.set('m', 'big', new Uint8Array(9000))),
    '',
  )
  assert.is(store.clear('m'), 1)
  assert.is(
    full(() => store.set('m', 'more', new Uint8Array(3000))),
    '',
  )
  assert.is(
    full(() => store.increment('m', 'more', 1)),
    'ERR_SHARED_TYPE',
  )
})

test('frames are read however they are cut, and what is none is refused', () => {
  const requests: Request[] = [
    [1, 'get', 'map', 'ä\ud83d\ude00'],
    [2, 'set', 'map', 'key', null, 0, null],
    [3, 'set', 'map', 'key', -1.5e300, 10, 'absent'],
  ]
  const values = [Buffer.alloc(0), Buffer.from('value'), Buffer.alloc(0)]
  const stream = Buffer.concat(requests.map((request, at) => encodeFrame(request, values[at])))
  for (let size = 1; size <= stream.length; size++) {
    const read: [Request, string][] = []
    const reader = new FrameReader<Request>(1000, (head, value) => read.push([head, String(value)]))
    for (let at = 0; at < stream.length; at += size) reader.read(Buffer.from(stream.subarray(at, at + size)))
    assert.equal(
      read,
      requests.map((request, at) => [request, String(values[at])]),
    )
  }
  for (const bad of [
    Buffer.from([0, 0, 0, 3, 0, 0, 0, 0]), // shorter than its head
    Buffer.from([0, 0, 0, 6, 0, 0, 0, 9, 123, 125]), // a head beyond its end
    Buffer.from([0, 0, 0, 6, 0, 0, 0, 2, 123, 125]), // an object
    Buffer.from([0, 0, 0, 6, 0, 0, 0, 2, 91, 91]), // no JSON
    Buffer.from([127, 0, 0, 0, 0, 0, 0, 2]), // too long
  ]) {
    const reader = new FrameReader<Request>(1000, () => assert.unreachable())
    assert.throws(
      () => reader.read(bad),
      (error: unknown) => codeOf(error) === 'ERR_BAD_FRAME',
    )
  }
})

test.run()
