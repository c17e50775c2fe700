// Peers that run and do not answer for a while: what is published meanwhile waits for them, and then is told.

import net from 'node:net'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { SystemError } from '../../src/errors.ts'
import { type Subscriber, subscriptions } from '../../src/messaging/subscriptions.ts'
import { nodeEngine } from '../../src/net/node-engine.ts'
import type { Transport } from '../../src/transport.ts'
import { longTest } from '../support/length.ts'
import { Host, meshOf, rowBeside, rowOf } from '../support/mesh.ts'
import { nextTurn, rejects, until } from '../support/until.ts'

/** A transport whose attempts to connect fail as long as the test says so. */
function flaky(): { transport: Transport; failures: number; isDown: boolean } {
  const state = { transport: nodeEngine, failures: 0, isDown: true }
  const connect: Transport['connect'] = (...target) => {
    if (!state.isDown) return nodeEngine.connect(...target)
    state.failures++
    return Promise.reject(new SystemError('ECONNREFUSED', 'connect', 'there'))
  }
  state.transport = { ...nodeEngine, listen: nodeEngine.listen.bind(nodeEngine), connect }
  return state
}

/** Subscribed in this process, so in both meshes of a test. */
async function subscribed(pattern: string, queue = ''): Promise<{ got: unknown[]; end(): void }> {
  const got: unknown[] = []
  const handler = (message: unknown) => {
    got.push(message)
    return 'answer'
  }
  const subscriber: Subscriber = { pattern, queue, handler, isOver: false }
  await subscriptions.add(subscriber)
  return { got, end: () => void subscriptions.delete(subscriber) }
}

test('what is published waits for a process that runs, also when the first attempts to reach it fail', async () => {
  const other = meshOf(new Host())
  const network = flaky()
  const here = new Host()
  const { mesh, close } = meshOf(here, other.address, network.transport)
  const { got, end } = await subscribed('news')
  for (const n of [1, 2]) assert.is(mesh.hub.publish('news', n), true)
  await until(() => network.failures >= 3)
  network.isDown = false
  await until(() => got.length >= 4)
  assert.equal([got.sort(), here.failed], [[1, 1, 2, 2], []]) // here and there
  end()
  close()
  other.close()
})

test('what is published for a process that never answers goes to the others, and is told; when it answers, it counts again', async () => {
  const other = meshOf(new Host())
  const network = flaky()
  const here = new Host()
  const { mesh, close } = meshOf(here, other.address, network.transport)
  const { got, end } = await subscribed('news')
  assert.is(mesh.hub.publish('news', 1), true)
  const asked = rejects(mesh.hub.request('nobody', 1, {}), 'ERR_PEER_LOST')
  await until(() => here.failed.length > 0)
  await asked
  assert.is(mesh.hub.publish('news', 2), true)
  await until(() => here.failed.length > 1)
  assert.equal(
    here.failed,
    [1, 2].map((n) => ['ERR_PEER_LOST', false, n]),
  )
  assert.equal(got, [1, 2])
  network.isDown = false
  await until(() => mesh.outbox('there', 0).isLinked)
  mesh.hub.publish('news', 3)
  await until(() => got.length === 4)
  assert.equal([got, here.failed.length], [[1, 2, 3, 3], 2])
  assert.is(await mesh.hub.request('news', 4, {}), 'answer')
  end()
  close()
  other.close()
})

test('strangers that come and go do not always close those that were there before', async () => {
  const host = new Host()
  const { address, close } = meshOf(host)
  const closed: number[] = []
  const sockets: net.Socket[] = []
  for (let n = 0; n < 94; n++) {
    const socket = net.connect(address)
    socket.on('error', () => undefined).on('close', () => closed.push(n))
    sockets.push(socket)
    await new Promise((resolve) => socket.once('data', resolve)) // its challenge
  }
  await until(() => closed.length === 30)
  assert.is(host.counters.refused, 30)
  const oldest = Array.from({ length: 30 }, (_, n) => n)
  assert.not.equal(
    closed.sort((a, b) => a - b),
    oldest,
  )
  for (const socket of sockets) socket.destroy()
  close()
})

test('a process that is gone with its slot is not waited for', async () => {
  const network = flaky()
  const here = new Host()
  const { mesh, close } = meshOf(here, 'nowhere', network.transport)
  const { got, end } = await subscribed('news')
  mesh.hub.publish('news', 1)
  await until(() => network.failures >= 2)
  mesh.use({ rows: [rowOf('', -1)], isEnding: false })
  assert.is(mesh.unsettled, 0)
  assert.equal([got, here.failed], [[1], []])
  end()
  close()
})

/** `here` publishes to `there`, which has said that it leaves before the master has said who follows it. */
async function leftEarly(mailboxTimeoutMs = 30_000) {
  const first = meshOf(new Host())
  const here = new Host({ mailboxTimeoutMs })
  const { mesh, close } = meshOf(here, first.address)
  const { got, end } = await subscribed('news')
  mesh.hub.publish('news', 'before')
  await until(() => got.length === 2)
  first.mesh.leave(() => () => undefined, true)
  await until(() => !mesh.outbox('there', 0).isUp)
  const leave = () => {
    end()
    close()
    first.close()
  }
  return { mesh, here, got, leave }
}

test('what is published between the word of a process that it leaves and that of the master waits for its successor', async () => {
  const next = meshOf(new Host())
  const { mesh, here, got, leave } = await leftEarly()
  assert.is(mesh.hub.publish('news', 'between'), true)
  assert.is(await mesh.hub.request('news', 'asked', {}), 'answer') // of this process
  mesh.hub.publish('news', 'asked')
  for (let n = 0; n < 3; n++) await nextTurn()
  assert.is(got.length, 5)
  mesh.use({ rows: [rowOf(next.address, 2)], isEnding: false })
  await until(() => got.length === 7)
  const expected = ['asked', 'asked', 'asked', 'before', 'before', 'between', 'between']
  assert.equal([got.sort(), here.failed], [expected, []])
  leave()
  next.close()
})

longTest(
  'if the master says nothing of it for long, what was published waits as for any slot without a process',
  async () => {
    const next = meshOf(new Host())
    const { mesh, here, got, leave } = await leftEarly()
    mesh.hub.publish('other', 'for nobody')
    assert.is(mesh.unsettled, 1)
    await until(() => mesh.unsettled === 0) // the subscriptions of its last process hold again
    mesh.hub.publish('news', 'late')
    assert.is(mesh.outbox('there', 0).count, 1)
    mesh.use({ rows: [rowOf(next.address, 2)], isEnding: false })
    await until(() => mesh.unsettled === 0)
    assert.equal([got.sort(), here.failed], [['before', 'before', 'late', 'late'], []])
    leave()
    next.close()
  },
)

longTest('and its sender is told if none comes', async () => {
  const { mesh, here, got, leave } = await leftEarly(1500)
  mesh.hub.publish('news', 'between')
  await until(() => here.failed.length > 0)
  assert.equal([got, here.failed], [['before', 'before', 'between'], [['ERR_PEER_LOST', false, 'between']]])
  leave()
})

/**
 * `here` publishes to `old`, which drains from now on, as its group was stopped, and cannot be reached anew.
 * @param patienceMs how long messages wait
 */
async function drainsUnreachably(patienceMs: number) {
  const network = flaky()
  network.isDown = false
  const here = new Host({ mailboxTimeoutMs: patienceMs, maxMailboxMessages: 100 })
  const { mesh, close } = meshOf(here, '', network.transport)
  const old = meshOf(new Host({ maxMailboxMessages: 100 })) // the last one made: it alone tells of subscriptions
  mesh.use({ rows: [rowOf(old.address)], isEnding: false })
  const { got, end } = await subscribed('news')
  mesh.hub.publish('news', 0)
  await until(() => got.length === 1)
  network.isDown = true
  old.mesh.leave(() => () => undefined, false)
  const row = { ...rowBeside('', old.address, 'leaving', 2), incarnation: 0, next: 'on command' as const }
  mesh.use({ rows: [row], isEnding: false })
  const leave = () => {
    end()
    close()
    old.close()
  }
  return { network, here, mesh, old, got, leave }
}

test('what is published waits for a process that drains, however often the attempts to reach it fail', async () => {
  const { network, here, mesh, got, leave } = await drainsUnreachably(10_000)
  for (const n of [1, 2, 3]) {
    const { failures } = network
    await until(() => network.failures > failures)
    assert.is(mesh.hub.publish('news', n), true)
  }
  network.isDown = false
  await until(() => mesh.unsettled === 0)
  assert.equal([got, here.failed], [[0, 1, 2, 3], []])
  leave()
})

test('but no longer than any message does: then each is told', async () => {
  const { network, here, mesh, got, leave } = await drainsUnreachably(100)
  for (const n of [1, 2]) {
    const { failures } = network
    await until(() => network.failures > failures)
    mesh.hub.publish('news', n)
  }
  await until(() => here.failed.length === 2)
  assert.equal([got, here.failed], [[0], [1, 2].map((n) => ['ERR_PEER_LOST', false, n])])
  leave()
})

/**
 * `here` publishes to a queue whose member, `there:0`, takes it; `there:1` runs and cannot be reached.
 * @param most unsettled messages
 * @param patienceMs how long they wait
 */
async function besideMember(most: number, patienceMs: number) {
  const network = flaky()
  network.isDown = false
  const here = new Host({ mailboxTimeoutMs: patienceMs, maxMailboxMessages: most })
  const { mesh, close } = meshOf(here, '', network.transport)
  const member = meshOf(new Host({ maxMailboxMessages: 100 })) // the last one made: it alone tells of subscriptions
  mesh.use({ rows: [rowOf(member.address)], isEnding: false })
  const { got, end } = await subscribed('jobs', 'q')
  const publish = async (n: number) => {
    mesh.hub.publish('jobs', n)
    await until(() => got.at(-1) === n && mesh.outbox('there', 0).count === 0)
  }
  await publish(0)
  network.isDown = true
  mesh.use({ rows: [{ ...rowOf('nowhere'), id: 1 }], isEnding: false })
  const leave = () => {
    end()
    close()
    member.close()
  }
  return { here, mesh, got, publish, leave }
}

test('what the member of a queue has is never reported as not handled for a process that may not subscribe, and is full', async () => {
  const { here, got, publish, leave } = await besideMember(2, 10_000)
  for (const n of [1, 2, 3]) await publish(n)
  assert.equal(here.failed, [['ERR_QUEUE_FULL', true, 3]])
  leave() // with the rest
  assert.equal([got, here.failed.slice(1)], [[0, 1, 2, 3], [1, 2].map((n) => ['ERR_PEER_LOST', true, n])])
})

test('nor if that does not answer in its time, or has not', async () => {
  const { here, mesh, got, publish, leave } = await besideMember(100, 50)
  for (const n of [1, 2]) {
    await publish(n)
    await until(() => here.failed.length === n)
  }
  mesh.hub.publish('other', 3)
  await until(() => here.failed.length === 3)
  const told = [1, 2].map((n) => ['ERR_PEER_LOST', true, n])
  assert.equal(
    [got, here.failed],
    [
      [0, 1, 2],
      [...told, ['ERR_PEER_LOST', false, 3]],
    ],
  )
  leave()
})

test('nor if it drains beside another one meanwhile', async () => {
  const { here, mesh, got, publish, leave } = await besideMember(100, 100)
  await publish(1)
  mesh.use({ rows: [{ ...rowBeside('elsewhere', 'nowhere', 'leaving', 2), id: 1 }], isEnding: false })
  await until(() => here.failed.length === 2)
  assert.equal([got, here.failed], [[0, 1], new Array(2).fill(['ERR_PEER_LOST', true, 1])])
  leave()
})

test.run()
