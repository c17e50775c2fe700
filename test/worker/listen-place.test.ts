// A socket that is accepted on, with rests: no listener is left behind, however quickly one changes one's mind.

import { test } from 'uvu'
import * as assert from 'uvu/assert'
import type { Listener } from '../../src/transport.ts'
import type { Bound } from '../../src/worker/acceptor.ts'
import { ListenPlace } from '../../src/worker/listen-place.ts'
import { rejects } from '../support/until.ts'

/** Listeners that open when the test says so; those that are open, by their socket. */
function harness() {
  const open = new Set<unknown>()
  const opening: { finish(): void; fail(error: Error): void }[] = []
  const place = new ListenPlace(
    ({ expected }) =>
      new Promise<Listener>((resolve, reject) => {
        const finish = () => {
          open.add(expected)
          resolve({ close: () => void open.delete(expected) })
        }
        opening.push({ finish, fail: reject })
      }),
  )
  return { open, opening, place }
}

const socket = (expected: string): Bound => ({ expected })
const turn = () => new Promise((resolve) => setImmediate(resolve))

test('one opens, rests, opens again, and closes', async () => {
  const { open, opening, place } = harness()
  for (const name of ['a', 'b']) {
    place.rest()
    assert.not(place.isOpen)
    assert.equal([...open], [])
    const opened = place.open(socket(name))
    await turn()
    opening.pop()?.finish()
    await opened
    assert.ok(place.isOpen)
    assert.equal([...open], [name])
  }
  await place.close()
  await place.close()
  assert.equal([...open], [])
})

test('told to rest and to open again while the first one still opens: only the last one stays', async () => {
  const { open, opening, place } = harness()
  const first = place.open(socket('a'))
  place.rest()
  const second = place.open(socket('b'))
  await turn()
  opening[1]?.finish()
  opening[0]?.finish()
  await Promise.all([first, second])
  assert.equal([...open], ['b'])
  await place.close()
  assert.equal([...open], [])
})

test('one that opens again closes what was open', async () => {
  const { open, opening, place } = harness()
  for (const name of ['a', 'b']) {
    const opened = place.open(socket(name))
    await turn()
    opening.pop()?.finish()
    await opened
    assert.equal([...open], [name])
  }
})

test('one that cannot open says so, unless nobody wants it any more', async () => {
  const { open, opening, place } = harness()
  const failed = place.open(socket('a'))
  await turn()
  opening[0]?.fail(Object.assign(new Error('no'), { code: 'EMFILE' }))
  await rejects(failed, 'EMFILE')
  const refused = place.open(Promise.reject(new Error('it has been relieved')))
  place.rest()
  await refused
  const again = place.open(socket('b'))
  await turn()
  opening[1]?.finish()
  await again
  assert.equal([...open], ['b'])
})

test('it is closed when what was on its way is closed, too', async () => {
  const { open, opening, place } = harness()
  let give = (_: Bound): void => undefined
  const given = new Promise<Bound>((resolve) => {
    give = resolve
  })
  void place.open(given)
  let isClosed = false
  const closed = place.close().then(() => {
    isClosed = true
  })
  await turn()
  assert.not(isClosed)
  give(socket('a'))
  await turn()
  assert.not(isClosed)
  opening[0]?.finish()
  await closed
  assert.equal([...open], [])
})

test.run()
