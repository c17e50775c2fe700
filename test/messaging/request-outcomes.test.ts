// A request by subject asks several processes: what its caller is told when none of them answers.

import { test } from 'uvu'
import * as assert from 'uvu/assert'
import type { Delivery, Subscriber } from '../../src/messaging/subscriptions.ts'
import { subscriptions } from '../../src/messaging/subscriptions.ts'
import { Host, meshOf, rowOf } from '../support/mesh.ts'
import { nextTurn, rejects, until } from '../support/until.ts'

/**
 * Two processes that subscribe to `order`, of which the first asks, and the other has all it may have.
 * @param most messages that are published in the first one may be unsettled
 */
async function withFullPeer(handler: (message: unknown, delivery: Delivery) => unknown, most = 10) {
  const there = new Host({ maxMailboxMessages: 1 })
  there.onMessage = () => new Promise(() => undefined)
  const other = meshOf(there)
  const here = meshOf(new Host({ maxMailboxMessages: most }), other.address)
  const subscriber: Subscriber = { pattern: 'order', queue: '', handler, isOver: false }
  void subscriptions.add(subscriber) // of both: they share the process
  here.mesh.hub.publish('nobody', 0)
  const outbox = here.mesh.outbox('there', 0)
  await until(() => outbox.isLinked)
  outbox.send('busy')
  const leave = () => {
    subscriptions.delete(subscriber)
    here.close()
    other.close()
  }
  const ask = (signal?: AbortSignal) => here.mesh.hub.request('order', 1, { signal })
  return { mesh: here.mesh, ask, leave }
}

/** Long enough for the other process to have been refused. */
async function laterTurns(): Promise<void> {
  for (let n = 0; n < 5; n++) await nextTurn()
}

const mayHaveBeenHandled = (error: Error) => 'mayHaveBeenHandled' in error && error.mayHaveBeenHandled

test('one process has handled it without an answer, another could not be asked: it has been handled', async () => {
  let booked = 0
  const { ask, leave } = await withFullPeer(() => void booked++)
  const error = await rejects(ask(), 'ERR_QUEUE_FULL')
  assert.equal([booked, mayHaveBeenHandled(error)], [1, true])
  assert.match(error.message, /^worker there:0: .*; somebody else has handled the message$/)
  leave()
})

test('a handler that has thrown counts more than a process that could not be asked, though it comes later', async () => {
  const { ask, leave } = await withFullPeer(async () => {
    await laterTurns()
    throw Object.assign(new TypeError('on purpose'), { code: 'MINE' })
  })
  assert.is(mayHaveBeenHandled(await rejects(ask(), 'MINE')), true)
  leave()
})

test('so does the reason of a signal, while somebody was at work on it', async () => {
  const aborter = new AbortController()
  const { ask, leave } = await withFullPeer(async () => {
    await laterTurns()
    aborter.abort(Object.assign(new Error('enough'), { code: 'MINE' }))
    return new Promise(() => undefined)
  })
  await rejects(ask(aborter.signal), 'MINE')
  leave()
})

test('no process could be asked: it has not been handled', async () => {
  const { mesh, ask, leave } = await withFullPeer(() => new Promise(() => undefined), 1)
  mesh.hub.publish('order', 0)
  const error = await rejects(ask(), 'ERR_QUEUE_FULL')
  assert.is(mayHaveBeenHandled(error), false)
  assert.not.match(error.message, /somebody else/)
  leave()
})

test('a request by subject that gets no answer in its time names the subject and that time, not one of those asked', async () => {
  const [other, here] = [meshOf(new Host()), meshOf(new Host())]
  here.mesh.use({ rows: [rowOf(other.address)], isEnding: false })
  const last = meshOf(new Host()) // it alone hears of what is subscribed from now on
  const handler = () => new Promise(() => undefined)
  const subscriber: Subscriber = { pattern: 'order', queue: '', handler, isOver: false }
  void subscriptions.add(subscriber)
  for (const timeoutMs of [20, 30]) {
    const error = await rejects(here.mesh.hub.request('order', 1, { timeoutMs }), 'ERR_REQUEST_TIMEOUT')
    assert.is(error.message, `order: no answer within ${timeoutMs} ms`)
    assert.is(mayHaveBeenHandled(error), true)
  }
  subscriptions.delete(subscriber)
  for (const each of [here, other, last]) each.close()
})

test.run()
