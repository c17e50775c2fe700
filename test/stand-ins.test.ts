// Accepting for siblings that are not there: no listener is left behind, however quickly the master changes its mind.

import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { StandIns } from '../src/stand-ins.ts'
import type { Listener } from '../src/transport.ts'
import { rejects } from './support/until.ts'

/** Listeners that open when the test says so; those that are open, by their socket. */
function harness() {
  const open = new Set<unknown>()
  const opening: { finish(): void; fail(error: Error): void }[] = []
  const standIns = new StandIns(
    ({ handle }) =>
      new Promise<Listener>((resolve, reject) => {
        const finish = () => {
          open.add(handle)
          resolve({ close: () => void open.delete(handle) } as Listener)
        }
        opening.push({ finish, fail: reject })
      }),
  )
  return { open, opening, standIns }
}

const socket = (handle: string) => ({ handle, endpoint: '127.0.0.1:80' }) as never

test('one opens, and closes when it is relieved', async () => {
  const { open, opening, standIns } = harness()
  const begun = standIns.begin(1, socket('a'))
  opening[0]?.finish()
  await begun
  assert.equal([...open], ['a'])
  standIns.end(1)
  standIns.end(1)
  assert.equal([...open], [])
})

test('relieved and called again while the first one still opens: only the last one stays', async () => {
  const { open, opening, standIns } = harness()
  const first = standIns.begin(1, socket('a'))
  standIns.end(1)
  const second = standIns.begin(1, socket('b'))
  opening[1]?.finish()
  opening[0]?.finish()
  await Promise.all([first, second])
  assert.equal([...open], ['b'])
  standIns.end(1)
  assert.equal([...open], [])
})

test('one that takes the place of another closes it', async () => {
  const { open, opening, standIns } = harness()
  for (const [at, name] of ['a', 'b'].entries()) {
    const begun = standIns.begin(1, socket(name))
    opening[at]?.finish()
    await begun
  }
  assert.equal([...open], ['b'])
})

test('one that cannot open leaves its place to the next, and all are closed at once', async () => {
  const { open, opening, standIns } = harness()
  const failed = standIns.begin(1, socket('a'))
  opening[0]?.fail(Object.assign(new Error('no'), { code: 'EMFILE' }))
  await rejects(failed, 'EMFILE')
  const again = standIns.begin(1, socket('b'))
  const late = standIns.begin(2, socket('c'))
  opening[1]?.finish()
  await again
  standIns.endAll()
  opening[2]?.finish()
  await late
  assert.equal([...open], [])
})

test.run()
