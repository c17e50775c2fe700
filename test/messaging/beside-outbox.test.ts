// What is sent while a slot has two processes, a canary or one that drains beside the other, and what becomes of it when one
// of them goes: meshes in this process, so that it is certain what waits and what is under way.

import { test } from 'uvu'
import * as assert from 'uvu/assert'
import type { Outbox } from '../../src/messaging/outbox.ts'
import { publishFrame, publishHead } from '../../src/messaging/publish-frame.ts'
import { WorkerGroup } from '../../src/messaging/references.ts'
import { type Subscriber, subscriptions } from '../../src/messaging/subscriptions.ts'
import { pack } from '../../src/messaging/wire.ts'
import { nodeEngine } from '../../src/net/node-engine.ts'
import { nothing } from '../../src/nothing.ts'
import type { PeerRow } from '../../src/process/group.ts'
import type { Transport } from '../../src/transport.ts'
import { Host, meshOf, rowBeside, rowOf, silentPeer } from '../support/mesh.ts'
import { nextTurn, until, within } from '../support/until.ts'

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

test('a broadcast that is too large for a canary goes to none', async () => {
  const got: unknown[] = []
  const [old, next] = [10_000, 1000].map((maxPackageSize) => {
    const host = new Host({ maxPackageSize })
    host.onMessage = (message) => got.push(message)
    return meshOf(host)
  })
  const here = new Host({ maxPackageSize: 10_000 })
  const { mesh, close } = meshOf(here, old?.address)
  mesh.use({ rows: [rowBeside(old?.address ?? '', next?.address ?? '', 'canary')], isEnding: false })
  const group = new WorkerGroup(
    'there',
    () => 'there',
    () => mesh,
  )
  group.broadcast('small')
  await until(() => mesh.unsettled === 0)
  assert.throws(() => group.broadcast('x'.repeat(5000)), /a message of 5000 bytes/)
  assert.is(mesh.unsettled, 0)
  assert.equal([got, here.failed], [['small', 'small'], []])
  for (const each of [{ close }, old, next]) each?.close()
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

/** A subject with a plain subscriber and a member of a queue, in each of the meshes; `got` says who of them was called. */
function subscribed(): { got: string[]; end(): void } {
  const got: string[] = []
  const all = ['', 'q'].map((queue): Subscriber => {
    const handler = (message: unknown) => void got.push(`${message} ${queue || 'plain'}`)
    return { pattern: 'news', queue, handler, isOver: false }
  })
  for (const one of all) void subscriptions.add(one)
  const end = () => {
    for (const one of all) subscriptions.delete(one)
  }
  return { got, end }
}

const PLAIN = { subject: 'news', isForAll: true, queues: [] }
const BOTH = { subject: 'news', isForAll: true, queues: ['q'] }
const QUEUE = { subject: 'news', isForAll: false, queues: ['q'] }

/** Publishes and asks by all kinds of audience. Returns what becomes of the requests: undefined, or their errors. */
function sayAll(outbox: Outbox): Promise<unknown[]> {
  const audiences = Object.entries({ PLAIN, BOTH, QUEUE })
  for (const [name, audience] of audiences) {
    const packed = pack(name)
    outbox.publish(packed, publishFrame(publishHead(audience), packed), name, audience)
  }
  const asked = audiences.map(([name, audience]) => outbox.request(pack(`asked ${name}`), {}, audience).promise)
  return Promise.all(
    asked.map((promise) => promise.catch(({ code, mayHaveBeenHandled }) => [code, mayHaveBeenHandled])),
  )
}

/** What goes to the process that has the slot afterwards: each message once, to the member of the queue. */
const OF_QUEUE = ['BOTH q', 'QUEUE q', 'asked QUEUE q']
const LOST = ['ERR_PEER_LOST', false]
const LOST_PUBLISHES = ['PLAIN', 'BOTH'].map((message) => [...LOST, message])

test('what waits for a canary that is taken back: what is for all was heard by the process that stays, and is told', async () => {
  const { here, slot, canary, takeBack, leave } = await withCanary(20)
  const { got, end } = subscribed()
  const outcomes = sayAll(canary)
  takeBack()
  assert.equal(await outcomes, [LOST, LOST, undefined])
  await until(() => slot.count === 0 && here.failed.length === 2)
  assert.equal([got, here.failed], [OF_QUEUE, LOST_PUBLISHES])
  end()
  leave()
})

/** `here` waits for `there`, which does not answer, and `next` is to have its slot. */
async function withSilent() {
  const silent = await silentPeer()
  const next = meshOf(new Host({ maxMailboxMessages: 20 }))
  const here = new Host({ maxMailboxMessages: 20 })
  const { mesh, close } = meshOf(here, silent.address)
  const { got, end } = subscribed()
  const leave = () => {
    end()
    for (const each of [{ close }, silent, next]) each.close()
  }
  return { silent, next, here, mesh, slot: mesh.outbox('there', 0), got, leave }
}

test('what waits for a process that begins to drain: what is for all goes on to it, the rest to its successor', async () => {
  const { silent, next, here, mesh, slot, got, leave } = await withSilent()
  const outcomes = sayAll(slot)
  mesh.use({ rows: [rowBeside(next.address, silent.address, 'leaving', 2)], isEnding: false })
  await until(() => slot.count === 0)
  assert.equal([got, here.failed], [OF_QUEUE, []])
  mesh.use({ rows: [rowOf(next.address, 2)], isEnding: false }) // it is gone
  assert.equal(await outcomes, [LOST, LOST, undefined])
  assert.equal([got, here.failed], [OF_QUEUE, LOST_PUBLISHES])
  leave()
})

test('a canary that gets the slot has heard what is for all: of what waited for the process before it gets the rest', async () => {
  const { silent, next, here, mesh, slot, got, leave } = await withSilent()
  mesh.use({ rows: [rowBeside(silent.address, next.address, 'canary')], isEnding: false })
  assert.is(mesh.processes.canariesOf('there').length, 1)
  const outcomes = sayAll(slot)
  mesh.use({ rows: [rowOf(next.address, 2)], isEnding: false })
  assert.equal(await outcomes, [LOST, LOST, undefined])
  await until(() => slot.count === 0)
  assert.equal([got, here.failed], [OF_QUEUE, LOST_PUBLISHES])
  leave()
})

test('a process that drains and hears nothing more: what is for all is as with one who has unsubscribed', async () => {
  const { silent, next, here, mesh, slot, got, leave } = await withSilent()
  mesh.use({ rows: [rowBeside(next.address, silent.address, 'leaving', 2)], isEnding: false })
  const [old] = mesh.processes.besideOf('there') as [Outbox]
  const outcomes = sayAll(old)
  mesh.leaves({ ...rowOf(silent.address) }, true)
  const nobody = ['ERR_NO_RESPONDERS', false]
  assert.equal(await outcomes, [nobody, nobody, undefined])
  await until(() => slot.count === 0 && old.count === 0)
  assert.equal([got, here.failed], [OF_QUEUE, []])
  leave()
})

test('what is for all, for a process that drains and is gone before there was a link to it, is as with one who has unsubscribed', async () => {
  const { silent, next, here, mesh, slot, got, leave } = await withSilent()
  mesh.use({ rows: [rowBeside(next.address, silent.address, 'leaving', 2)], isEnding: false })
  const [old] = mesh.processes.besideOf('there') as [Outbox]
  const outcomes = sayAll(old)
  mesh.use({ rows: [rowOf(next.address, 2)], isEnding: false }) // it had told all that it knew that it hears nothing
  const nobody = ['ERR_NO_RESPONDERS', false]
  assert.equal(await outcomes, [nobody, nobody, undefined])
  await until(() => slot.count === 0 && old.count === 0)
  assert.equal([got, here.failed], [OF_QUEUE, []])
  leave()
})

/** Two processes, the second of which takes the slot of the first while `here` can connect to nobody. */
async function withSuccessor() {
  const network = gated()
  const got: unknown[] = []
  const [old, next] = [1, 2].map((incarnation) => {
    const host = new Host({ maxMailboxMessages: 20 })
    host.onMessage = (message) => got.push(`${message} at ${incarnation}`)
    return meshOf(host)
  }) as [ReturnType<typeof meshOf>, ReturnType<typeof meshOf>]
  const here = new Host({ maxMailboxMessages: 20, mailboxTimeoutMs: 10_000 })
  const { mesh, close } = meshOf(here, old.address, network.transport)
  const slot = mesh.outbox('there', 0)
  const replace = () => mesh.use({ rows: [rowBeside(next.address, old.address, 'leaving', 2)], isEnding: false })
  const bury = () => mesh.use({ rows: [rowOf(next.address, 2)], isEnding: false })
  const leave = () => {
    for (const each of [{ close }, old, next]) each.close()
  }
  return { network, got, old, next, here, mesh, slot, replace, bury, leave }
}

test('a process that drains says that it hears nothing more where nothing else is sent any more, and stays until that is known', async () => {
  const { network, got, old, here, mesh, slot, replace, bury, leave } = await withSuccessor()
  slot.send('before')
  await until(() => slot.count === 0)
  replace()
  slot.send('after')
  await until(() => got.includes('after at 2')) // so the one that drains has heard that nothing follows
  network.close()
  const [beside] = mesh.processes.besideOf('there') as [Outbox]
  for (const outbox of [slot, beside]) outbox.sendPacked(pack('to all'), 'to all')
  const unheard: number[] = []
  old.mesh.leave(() => () => void unheard.push(beside.count), true)
  await until(() => unheard.length > 0)
  bury()
  await until(() => slot.count === 0)
  assert.equal([unheard, here.failed], [[0], []])
  assert.equal(got, ['before at 1', 'after at 2', 'to all at 2'])
  leave()
})

test('what was for all when no successor was there to get it too is told, if the process that drains hears nothing more', async () => {
  const { network, got, old, here, mesh, slot, replace, bury, leave } = await withSuccessor()
  const { got: heard, end } = subscribed()
  network.close()
  const outcomes = sayAll(slot)
  replace()
  mesh.leaves(rowOf(old.address), true)
  network.open()
  assert.equal(await outcomes, [LOST, LOST, undefined])
  await until(() => slot.count === 0 && here.failed.length === 2)
  bury()
  assert.equal([heard, got, here.failed], [OF_QUEUE, [], LOST_PUBLISHES])
  end()
  leave()
})

test('a process that was a canary is not held when it leaves, though nothing is sent to its slot', async () => {
  const { got, old, next, here, mesh, slot, leave } = await withSuccessor()
  mesh.use({ rows: [rowBeside(old.address, next.address, 'canary')], isEnding: false })
  const [canary] = mesh.processes.canariesOf('there') as [Outbox]
  canary.send('canary')
  await until(() => got.length === 1 && canary.count === 0)
  mesh.use({ rows: [rowOf(next.address, 2)], isEnding: false })
  for (let n = 0; n < 20; n++) await nextTurn() // it has heard that nothing follows
  let holds = 0
  next.mesh.leave(() => {
    holds++
    return () => void holds--
  }, true)
  await until(() => holds === 0)
  slot.send('early')
  mesh.use({ rows: [rowOf(old.address, 3)], isEnding: false })
  await until(() => slot.count === 0)
  assert.equal([got, here.failed], [['canary at 2', 'early at 1'], []])
  leave()
})

/** A transport whose next attempts to connect wait until the test says so. */
function gated(): { transport: Transport; close(): void; open(): void } {
  let gate = Promise.resolve()
  let open = nothing
  const connect: Transport['connect'] = async (...target) => {
    await gate
    return nodeEngine.connect(...target)
  }
  const transport: Transport = { ...nodeEngine, listen: nodeEngine.listen.bind(nodeEngine), connect }
  const close = () => {
    gate = new Promise((resolve) => {
      open = resolve
    })
  }
  return { transport, close, open: () => open() }
}

function listener(pattern: string, handler: (message: unknown) => void, queue = ''): Subscriber {
  return { pattern, queue, handler, isOver: false }
}

/** `here` publishes to `there`, the last mesh made: it alone tells of subscriptions, and hears what is published. */
async function publishing(role: 'slot' | 'canary') {
  const network = gated()
  const silent = await silentPeer()
  const here = new Host({ maxMailboxMessages: 20 })
  const { mesh, close } = meshOf(here, '', network.transport)
  const there = meshOf(new Host({ maxMailboxMessages: 20 }))
  const row = role === 'slot' ? rowOf(there.address) : { ...rowBeside('', there.address, 'canary', 0) }
  mesh.use({ rows: [row], isEnding: false })
  const got: unknown[] = []
  const first = listener('first', (message) => got.push(message))
  await subscriptions.add(first)
  mesh.hub.publish('first', 0)
  await until(() => got.length === 1)
  const subscribe = async (pattern: string) => {
    const one = listener(pattern, (message) => got.push(message))
    await subscriptions.add(one)
    added.push(one)
  }
  const added = [first]
  const leave = () => {
    for (const one of added) subscriptions.delete(one)
    for (const each of [{ close }, there, silent]) each.close()
  }
  return { network, here, mesh, there, got, subscribe, added, leave }
}

test('who subscribes while it begins to drain hears what is published when that is ready, and it is told so at once', async () => {
  const { network, here, mesh, there, got, subscribe, added, leave } = await publishing('slot')
  network.close()
  there.mesh.leave(() => () => undefined, false)
  mesh.use({ rows: [{ ...rowBeside('', there.address, 'leaving', 2), incarnation: 0 }], isEnding: false })
  await within(5000, subscribe('early'))
  mesh.hub.publish('early', 1)
  for (let n = 0; n < 20; n++) await nextTurn() // the link it had could have been closed: all on it is settled
  await within(5000, subscribe('later'))
  mesh.hub.publish('later', 2)
  await subscribe('brief')
  subscriptions.delete(added.pop() as Subscriber)
  await within(5000, subscribe('late'))
  mesh.hub.publish('brief', 'to nobody')
  mesh.hub.publish('late', 3)
  assert.is(mesh.unsettled, 3)
  network.open()
  await until(() => got.length === 4 && mesh.unsettled === 0)
  assert.equal([got, here.failed], [[0, 1, 2, 3], []])
  // From here on the new link tells of them.
  await subscribe('last')
  mesh.hub.publish('last', 4)
  await until(() => got.length === 5)
  leave()
})

test('so does a canary that subscribes when it has the slot', async () => {
  const { network, here, mesh, there, got, subscribe, leave } = await publishing('canary')
  network.close()
  mesh.use({ rows: [rowOf(there.address, 1)], isEnding: false })
  for (const n of [1, 2]) {
    await within(5000, subscribe(`subject.${n}`))
    mesh.hub.publish(`subject.${n}`, n)
    for (let turn = 0; turn < 20; turn++) await nextTurn()
  }
  network.open()
  await until(() => got.length === 3 && mesh.unsettled === 0)
  assert.equal([got, here.failed], [[0, 1, 2], []])
  leave()
})

test('a process that drains hears once what it publishes, though it has sent to itself', async () => {
  const here = new Host({ maxMailboxMessages: 20 })
  const { mesh, address, close } = meshOf(here)
  const got: unknown[] = []
  const subscriber = listener('news', (message) => got.push(message))
  await subscriptions.add(subscriber)
  const use = (row: PeerRow) => mesh.use({ rows: [{ ...row, mailbox: 'here', group: 'here' }], isEnding: false })
  use(rowOf(address))
  mesh.outbox('here', 0).send('to itself')
  mesh.hub.publish('news', 1)
  await until(() => mesh.unsettled === 0)
  use({ ...rowBeside('', address, 'leaving', 2), incarnation: 0 })
  for (const n of [2, 3]) {
    mesh.hub.publish('news', n)
    mesh.processes.to({ ...rowOf(address), mailbox: 'here' })?.send('to this process')
    await until(() => mesh.unsettled === 0)
  }
  assert.equal([got, here.failed], [[1, 2, 3], []])
  subscriptions.delete(subscriber)
  close()
})

test.run()
