// What is sent while a slot has two processes, a canary or one that drains beside the other, and what becomes of it when one
// of them goes: meshes in this process, so that it is certain what waits and what is under way.

import { test } from 'uvu'
import * as assert from 'uvu/assert'
import type { Outbox } from '../../src/messaging/outbox.ts'
import { Host, meshOf, rowBeside, rowOf, silentPeer } from '../support/mesh.ts'
import { until } from '../support/until.ts'

/**
 * `here` has a link to `there` that is open, with nothing under way; beside that there is a canary that does not answer.
 * @param most unsettled messages
 */
async function withCanary(most: number) {
  const limits = { maxMailboxMessages: most, maxMailboxBytes: 1e9 }
  const got: unknown[] = []
  const there = new Host(limits)
  there.onMessage = (message) => got.push(message)
  const other = meshOf(there)
  const silent = await silentPeer()
  const here = new Host(limits)
  const { mesh, close } = meshOf(here, other.address)
  const slot = mesh.outbox('there', 0)
  slot.send('before')
  await until(() => slot.isLinked && slot.count === 0)
  mesh.use({ rows: [rowBeside(other.address, silent.address, 'canary')], isEnding: false })
  const [canary] = mesh.processes.canariesOf('there') as [Outbox]
  const takeBack = () => mesh.use({ rows: [rowOf(other.address)], isEnding: false })
  const leave = () => {
    for (const each of [{ close }, other, silent]) each.close()
  }
  return { here, got, slot, canary, takeBack, leave }
}

test('what waited for a canary that is taken back goes to the process that stays, though nothing is under way there', async () => {
  const { here, got, slot, canary, takeBack, leave } = await withCanary(10)
  canary.send(1)
  const answer = canary.request(2, {})
  takeBack()
  slot.send(3)
  assert.is(await answer.promise, 3) // the length
  await until(() => slot.count === 0)
  assert.equal([got, here.failed], [['before', 1, 2, 3], []])
  leave()
})

test('however many they are', async () => {
  const { here, got, slot, canary, takeBack, leave } = await withCanary(1_000_000)
  for (let n = 0; n < 200_000; n++) canary.send(n)
  takeBack()
  slot.send('last')
  await until(() => slot.count === 0, 20_000)
  assert.equal([got.length, got[1], got.at(-1), here.failed], [200_002, 0, 'last', []])
  leave()
})

test.run()
