// What one process sends to another, where the two ends differ, come and go, or are slow: two meshes in this process.

import { getEventListeners } from 'node:events'
import net from 'node:net'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { RemoteError } from '../../src/errors.ts'
import { now } from '../../src/loop/clock.ts'
import { ONE_WAY } from '../../src/messaging/call.ts'
import { Expiry } from '../../src/messaging/expiry.ts'
import { Mailbox } from '../../src/messaging/mailbox.ts'
import { publishFrame, publishHead } from '../../src/messaging/publish-frame.ts'
import { type Delivery, type Subscriber, subscriptions } from '../../src/messaging/subscriptions.ts'
import { pack } from '../../src/messaging/wire.ts'
import { bindMeshSocket } from '../../src/net/mesh-socket.ts'
import { Host, meshOf, rowOf } from '../support/mesh.ts'
import { rejects, until, within } from '../support/until.ts'

/** Handlers that end when the test says so, by message. */
function held(): { begun: unknown[]; handler(message: unknown): Promise<void>; end(message: unknown): void } {
  const begun: unknown[] = []
  const ends = new Map<unknown, () => void>()
  return {
    begun,
    handler(message) {
      begun.push(message)
      return new Promise((resolve) => ends.set(message, resolve))
    },
    end: (message) => ends.get(message)?.(),
  }
}

/** Long enough for what was wrongly begun to have begun. */
async function turns(): Promise<void> {
  for (let n = 0; n < 20; n++) await new Promise(setImmediate)
}

test('a worker that allows less than its senders think gets no more than that, and all of it', async () => {
  const there = new Host({ maxMailboxMessages: 3, maxPackageSize: 500 })
  const { begun, handler, end } = held()
  there.onMessage = handler
  const other = meshOf(there)
  const here = new Host({ maxMailboxMessages: 10 })
  const { mesh, close } = meshOf(here, other.address)
  const outbox = mesh.outbox('there', 0)
  const tooLong = 'x'.repeat(700)
  for (let n = 0; n < 8; n++) outbox.send(n === 4 ? tooLong : n)
  await until(() => begun.length === 3)
  for (const n of [0, 1, 2, 3, 5, 6, 7]) {
    await until(() => begun.includes(n))
    assert.ok(begun.length - begun.indexOf(n) <= 3)
    end(n)
  }
  await until(() => outbox.count === 0)
  assert.equal(begun, [0, 1, 2, 3, 5, 6, 7])
  assert.equal(here.failed, [['ERR_MESSAGE_TOO_LARGE', false, tooLong]])
  assert.throws(() => outbox.send(tooLong), /maxPackageSize is 500/)
  assert.is(there.counters.refused, 0)
  close()
  other.close()
})

test('a worker whose limits are Infinity, or no whole number, takes messages of other processes', async () => {
  for (const limit of [Number.POSITIVE_INFINITY, 1000.5]) {
    const there = new Host({ maxMailboxMessages: limit, maxPackageSize: limit })
    const taken: unknown[] = []
    there.onMessage = (message) => taken.push(message)
    const other = meshOf(there)
    const { mesh, close } = meshOf(new Host(), other.address)
    mesh.outbox('there', 0).send('hello')
    await until(() => taken.length === 1)
    close()
    other.close()
  }
})

test('what a callback sends while what waited is written comes after it', async () => {
  const there = new Host({ maxMailboxMessages: 100 })
  const got: unknown[] = []
  there.onMessage = (message) => void got.push(message)
  const other = meshOf(there)
  const here = new Host({ maxMailboxMessages: 8 })
  const { mesh, close } = meshOf(here)
  mesh.use({ rows: [rowOf('', 0)], isEnding: false })
  const outbox = mesh.outbox('there', 0)
  here.onDrain = () => void outbox.send('late')
  const given = [1, 2, 3, 4, 5].map(() => outbox.request('given up', { timeoutMs: 1 }).promise.catch(() => 'given up'))
  for (const n of [1, 2, 3]) outbox.send(n)
  await Promise.all(given)
  mesh.use({ rows: [rowOf(other.address)], isEnding: false })
  await until(() => got.length === 4)
  assert.equal(got, [1, 2, 3, 'late'])
  close()
  other.close()
})

test('a process gets nothing before the one two reloads ago has begun all that it was sent', async () => {
  const [first, second, third] = [serialPeer(), serialPeer(), serialPeer()]
  const here = new Host({ maxMailboxMessages: 20 })
  const { mesh, close } = meshOf(here, first.address)
  const outbox = mesh.outbox('there', 0)
  for (const n of [1, 2]) outbox.send(n)
  await until(() => first.begun.length === 1)
  mesh.use({ rows: [rowOf(second.address, 2)], isEnding: false })
  outbox.send(3)
  await until(() => outbox.isLinked)
  mesh.use({ rows: [rowOf(third.address, 3)], isEnding: false })
  outbox.send(4)
  await until(() => outbox.isLinked)
  await turns()
  assert.equal([first.begun, second.begun, third.begun], [[1], [], []])
  first.end(1)
  await until(() => third.begun.length === 1)
  assert.equal([first.begun, third.begun], [[1, 2], [3]])
  for (const [peer, message] of [
    [first, 2],
    [third, 3],
  ] as const)
    peer.end(message)
  await until(() => third.begun.length === 2)
  third.end(4)
  await until(() => outbox.count === 0)
  for (const peer of [first, second, third]) peer.close()
  close()
})

function serialPeer(maxMailboxMessages = 4) {
  const host = new Host({ serial: true, maxMailboxMessages })
  const { begun, handler, end } = held()
  host.onMessage = handler
  return { begun, end, ...meshOf(host) }
}

test('mailboxTimeoutMs is for a worker that does not run: not while the link to it is made', async () => {
  const there = new Host()
  const got: unknown[] = []
  there.onMessage = (message) => void got.push(message)
  const other = meshOf(there)
  const here = new Host({ mailboxTimeoutMs: 0 })
  const { mesh, close } = meshOf(here, other.address)
  mesh.use({ rows: [{ ...rowOf('', 0), mailbox: 'elsewhere' }], isEnding: false })
  mesh.outbox('there', 0).send('runs')
  hang(20)
  mesh.outbox('elsewhere', 0).send('does not run')
  await until(() => here.failed.length > 0 && got.length > 0)
  assert.equal([here.failed, got], [[['ERR_PEER_LOST', false, 'does not run']], ['runs']])
  close()
  other.close()
})

/** Stops the loop for so long. */
function hang(ms: number): void {
  for (const end = now() + ms; now() < end; );
}

test('mailboxTimeoutMs is not for what waits until the process before has begun all it was sent, or until there is room', async () => {
  const [first, second] = [serialPeer(20), serialPeer(2)]
  const here = new Host({ maxMailboxMessages: 20, mailboxTimeoutMs: 50 })
  const { mesh, close } = meshOf(here, first.address)
  const outbox = mesh.outbox('there', 0)
  for (const n of [1, 2]) outbox.send(n)
  await until(() => first.begun.length === 1)
  mesh.use({ rows: [rowOf(second.address, 2)], isEnding: false })
  for (const n of [3, 4, 5, 6]) outbox.send(n) // two more than the second takes at once
  await until(() => outbox.isLinked)
  mesh.use({ rows: [{ ...rowOf('', 0), mailbox: 'elsewhere' }], isEnding: false })
  const timeIsUp = async (message: string) => {
    mesh.outbox('elsewhere', 0).send(message)
    await until(() => here.failed.length > 0)
    assert.equal(here.failed.splice(0), [['ERR_PEER_LOST', false, message]])
  }
  await timeIsUp('while one is ahead')
  first.end(1)
  await until(() => first.begun.length === 2 && second.begun.length === 1)
  await timeIsUp('while there is no room')
  first.end(2)
  for (const n of [3, 4, 5, 6]) {
    await until(() => second.begun.includes(n))
    second.end(n)
  }
  await until(() => outbox.count === 0)
  assert.equal([second.begun, here.failed], [[3, 4, 5, 6], []])
  for (const peer of [first, second]) peer.close()
  close()
})

test('a sender that was told to stop is told to go on: also if the limit is lower than it was, or the message was refused', async () => {
  const there = new Host({ maxMailboxMessages: 3 })
  const { begun, handler, end } = held()
  there.onMessage = handler
  const other = meshOf(there)
  const here = new Host({ maxMailboxMessages: 10 })
  const said: string[] = []
  here.onFull = () => void said.push('full')
  here.onDrain = () => void said.push('drained')
  const { mesh, close } = meshOf(here, other.address)
  const outbox = mesh.outbox('there', 0)
  for (let n = 0; n < 5; n++) assert.is(outbox.send(n), true) // it allows 3, which is not known yet
  await until(() => begun.length === 3)
  assert.is(outbox.send('refused'), false)
  assert.equal([here.failed, said], [[['ERR_QUEUE_FULL', false, 'refused']], ['full']])
  for (let n = 0; n < 5; n++) {
    await until(() => begun.includes(n))
    end(n)
  }
  await until(() => outbox.count === 0)
  assert.equal(said, ['full', 'drained'])
  close()
  other.close()
})

test('the load of another process is what it is, not what it was', async () => {
  const there = new Host({ maxMailboxMessages: 10 })
  const { begun, handler, end } = held()
  there.onMessage = (message, call) => (call.isRequest ? undefined : handler(message))
  const other = meshOf(there)
  const here = new Host({ maxMailboxMessages: 10 })
  const { mesh, close } = meshOf(here, other.address)
  const outbox = mesh.outbox('there', 0)
  for (const n of [1, 2, 3]) outbox.send(n)
  const second = meshOf(new Host({ maxMailboxMessages: 10 }), other.address)
  for (const n of [4, 5]) second.mesh.outbox('there', 0).send(n)
  await until(() => begun.length === 5)
  assert.is(outbox.load, 3)
  await outbox.request('how are you?', {}).promise
  await until(() => outbox.load === 5) // ours, and what others have there: it says the sum
  for (const n of [1, 2, 3, 4, 5]) end(n)
  await until(() => outbox.count === 0)
  await until(() => outbox.load === 0, 10_000)
  second.close()
  close()
  other.close()
})

test('who does not read its answers is given no more of them than fit', async () => {
  const there = new Host({ maxMailboxMessages: 1000 })
  const answer = Buffer.alloc(1_048_576)
  let asked = 0
  there.onMessage = () => {
    asked++
    return answer
  }
  const other = meshOf(there)
  const here = new Host({ maxMailboxMessages: 1000 })
  const { mesh, close } = meshOf(here, other.address)
  const outbox = mesh.outbox('there', 0)
  await outbox.request('first', {}).promise
  // Each turn some more: what came before is not read while this one sends.
  const answers: Promise<unknown>[] = []
  for (let n = 0; n < 60; n++) {
    for (let m = 0; m < 2; m++) answers.push(outbox.request('more', {}).promise)
    await new Promise(setImmediate)
  }
  for (const one of await Promise.all(answers)) assert.is((one as Buffer).length, answer.length)
  assert.is(asked, 121)
  close()
  other.close()
})

test('a stream goes no further ahead of a slow reader than its credit, nor than fits', async () => {
  const there = new Host({ maxMailboxMessages: 10 })
  const item = Buffer.alloc(2 * 1_048_576)
  let made = 0
  there.onMessage = async function* () {
    for (; made < 40; made++) yield item
  }
  const other = meshOf(there)
  const { mesh, close } = meshOf(new Host({ maxMailboxMessages: 10 }), other.address)
  const stream = (await mesh.outbox('there', 0).request('stream', {}).promise) as AsyncIterable<Buffer>
  let read = 0
  for await (const { length } of stream) {
    read++
    assert.is(length, item.length)
    assert.ok(made - read <= 17, `${made} are made, ${read} are read`)
  }
  assert.equal([made, read], [40, 40])
  close()
  other.close()
})

test('a process that leaves stays for what it sends on its way out', async () => {
  const there = new Host()
  const { begun, handler, end } = held()
  there.onMessage = handler
  const other = meshOf(there)
  const { mesh, close } = meshOf(new Host(), other.address)
  const outbox = mesh.outbox('there', 0)
  let holds = 0
  const take = () => {
    holds++
    return () => void holds--
  }
  mesh.use({ rows: [], isEnding: true }) // else it closes its socket, which is this test's too
  mesh.leave(take, true)
  assert.is(holds, 0)
  for (const n of [1, 2]) {
    outbox.send(n)
    assert.is(holds, 1)
    await until(() => begun.includes(n))
    assert.is(holds, 1)
    end(n)
    await until(() => holds === 0)
  }
  close()
  other.close()
})

test('what is sent at the very end of a process, or after it, is told', async () => {
  const other = meshOf(new Host())
  const here = new Host()
  const { mesh, close } = meshOf(here, other.address)
  const outbox = mesh.outbox('there', 0)
  await turns() // it listens
  mesh.hub.publish('subject', 'published') // nobody has said yet what it subscribes to
  const asked = rejects(mesh.hub.request('subject', 'asked', {}), 'ERR_PEER_LOST')
  close()
  outbox.send('sent')
  mesh.hub.publish('subject', 'published later')
  const late = rejects(outbox.request('asked later', {}).promise, 'ERR_PEER_LOST')
  await until(() => here.failed.length === 3)
  assert.equal(here.failed.sort(), [
    ['ERR_PEER_LOST', false, 'published'],
    ['ERR_PEER_LOST', false, 'published later'],
    ['ERR_PEER_LOST', false, 'sent'],
  ])
  await Promise.all([asked, late])
  assert.is(mesh.unsettled, 0)
  other.close()
})

test('one signal for many requests has one listener, and ends all of them', async () => {
  const there = new Host({ maxMailboxMessages: 100 })
  there.onMessage = (message) => (message === 'quick' ? 'answer' : new Promise(() => undefined))
  const other = meshOf(there)
  const { mesh, close } = meshOf(new Host({ maxMailboxMessages: 100 }), other.address)
  const outbox = mesh.outbox('there', 0)
  const { signal, abort } = abortable()
  const pending = Array.from({ length: 50 }, () => outbox.request('slow', { signal }).promise.catch((error) => error))
  assert.is(await outbox.request('quick', { signal }).promise, 'answer')
  assert.is(getEventListeners(signal, 'abort').length, 1)
  const why = new Error('enough')
  abort(why)
  for (const error of await Promise.all(pending)) assert.is(error, why)
  const later = abortable()
  assert.is(await outbox.request('quick', { signal: later.signal }).promise, 'answer')
  assert.is(getEventListeners(later.signal, 'abort').length, 0)
  close()
  other.close()
})

function abortable(): { signal: AbortSignal; abort(reason: unknown): void } {
  const aborter = new AbortController()
  return { signal: aborter.signal, abort: (reason) => aborter.abort(reason) }
}

test('those with the default time-out expire each in its time, and those that ended before do not', async () => {
  const list = new Expiry()
  const expired: number[] = []
  const began = now()
  const entry = (n: number) => ({
    expiresAt: began + 10 * n,
    previous: null,
    next: null,
    expire: () => {
      assert.ok(now() >= began + 10 * n)
      expired.push(n)
      if (n === 3) list.add(last)
    },
  })
  const last = entry(5)
  const [first, second, third, fourth] = [entry(1), entry(2), entry(3), entry(4)]
  for (const one of [first, second, third, fourth]) list.add(one)
  for (const one of [second, fourth, first]) list.delete(one)
  await until(() => expired.length === 2)
  assert.equal(expired, [3, 5])
})

test('a request for those who listen ends in its time, also while somebody has not said what it listens to', async () => {
  const silent = bindMeshSocket('/nowhere')
  const server = net.createServer()
  await new Promise<void>((resolve) => server.listen({ fd: silent.fd }, resolve))
  const { mesh, close } = meshOf(new Host(), silent.address)
  const { signal, abort } = abortable()
  const given = mesh.hub.request('subject', 1, { signal }).catch((error) => error)
  const late = mesh.hub.request('subject', 1, { timeoutMs: 20 }).catch((error) => error.code)
  abort('given up')
  assert.is(await given, 'given up')
  assert.is(await late, 'ERR_REQUEST_TIMEOUT')
  close()
  server.close()
  silent.close()
})

test('what a process publishes to itself is bounded too, in messages and bytes, until it is handled', async () => {
  const host = new Host({ maxMailboxMessages: 5, maxPackageSize: 50_000 })
  const drained: number[] = []
  const handling = held()
  const subscriber = listener('own', (message) => handling.handler(message))
  const { mesh, close } = meshOf(host)
  host.onOwnDrain = () => drained.push(handling.begun.length)
  await subscriptions.add(subscriber)
  const bytes = (fill: number) => Buffer.alloc(40_000, fill) // maxMailboxBytes is 100,000
  for (const messages of [
    [1, 2, 3, 4, 5, 6],
    [bytes(1), bytes(2), bytes(3), bytes(4)],
  ] as const) {
    const most = messages.length - 1
    const answers = messages.map((message) => mesh.hub.publish('own', message))
    assert.equal(answers, [...Array(most - 1).fill(true), false, false])
    await until(() => handling.begun.length === most)
    assert.equal(host.failed.splice(0), [['ERR_QUEUE_FULL', false, messages.at(-1)]])
    assert.is(mesh.hub.publish('own', 7), false, 'they are not settled')
    assert.equal(host.failed.splice(0), [['ERR_QUEUE_FULL', false, 7]])
    assert.equal(drained, [])
    for (const message of handling.begun) handling.end(message)
    await until(() => drained.length === 1)
    drained.length = handling.begun.length = 0
    assert.is(mesh.hub.publish('own', 8), true)
    await until(() => handling.begun.length === 1)
    handling.end(8)
    handling.begun.length = 0
    await turns()
  }
  subscriptions.delete(subscriber)
  close()
})

test('what waits for a process that has not said what it listens to is bounded in messages and bytes', async () => {
  const silent = bindMeshSocket('/nowhere')
  const server = net.createServer()
  await new Promise<void>((resolve) => server.listen({ fd: silent.fd }, resolve))
  const host = new Host({ maxMailboxMessages: 5 })
  const { mesh, close } = meshOf(host, silent.address)
  let drains = 0
  host.onDrain = () => drains++
  const big = Buffer.alloc(40_000)
  const answers = [big, big, big, big].map((message) => mesh.hub.publish('subject', message))
  assert.equal(answers, [true, true, false, false])
  assert.equal(host.failed.splice(0), [['ERR_QUEUE_FULL', false, big]])
  await rejects(mesh.hub.request('subject', 1, {}), 'ERR_QUEUE_FULL')
  const news = { rows: [{ ...rowOf(''), incarnation: -1 }], isEnding: false }
  mesh.use(news) // it is gone: there is nobody to wait for
  assert.is(drains, 1)
  assert.equal(host.failed, [])
  assert.is(mesh.hub.publish('subject', 1), true)
  close()
  server.close()
  silent.close()
})

test('a request that has expired when its turn comes is not begun, and no time is too long', async () => {
  const there = new Host({ maxMailboxMessages: 10 })
  const begun: unknown[] = []
  there.onMessage = (message, call) => {
    begun.push(message)
    if (message === 'block') hang(60)
    return call.remainingMs
  }
  const other = meshOf(there)
  const { mesh, close } = meshOf(new Host({ maxMailboxMessages: 10 }), other.address)
  const outbox = mesh.outbox('there', 0)
  const far = 2 ** 32 + 50_000
  const left = (await outbox.request('far', { timeoutMs: far }).promise) as number
  assert.ok(left > far - 10_000 && left <= far, String(left))
  const block = outbox.request('block', {}).promise
  const late = [1, 2, 3].map((n) => outbox.request(n, { timeoutMs: 20 }).promise.catch((error) => error.code))
  await block
  assert.equal(await Promise.all(late), Array(3).fill('ERR_REQUEST_TIMEOUT'))
  await outbox.request('last', {}).promise
  assert.equal(begun, ['far', 'block', 'last'])
  close()
  other.close()
})

test('not even if it had much time left when it was read, and the handler before it has taken that', async () => {
  const there = new Host()
  const begun: unknown[] = []
  const read = performance.now
  there.onMessage = (message) => {
    begun.push(message)
    if (message === 'block') performance.now = () => read.call(performance) + 8000 // for good: it never goes back
  }
  const other = meshOf(there)
  const { mesh, close } = meshOf(new Host(), other.address)
  const outbox = mesh.outbox('there', 0)
  outbox.send('first')
  await until(() => outbox.count === 0)
  outbox.send('block')
  const late = [6000, 4000].map((timeoutMs) => outbox.request(timeoutMs, { timeoutMs }).promise)
  const outcomes = await within(5000, Promise.all(late.map((promise) => promise.catch((error) => error.code))))
  assert.equal(outcomes, Array(2).fill('ERR_REQUEST_TIMEOUT'))
  assert.equal(begun, ['first', 'block'])
  close()
  other.close()
})

test('a stream that nobody reads on is left, also while its source waits for something', async () => {
  const there = new Host()
  let isLeft = false
  const source = {
    count: 0,
    // The first without a promise: `for await` takes that, too.
    next: () => (source.count++ === 0 ? { value: 1, done: false } : new Promise(() => undefined)),
    return: () => {
      isLeft = true
      return Promise.resolve({ value: undefined, done: true })
    },
    [Symbol.asyncIterator]: () => source,
  }
  there.onMessage = () => source as unknown
  const other = meshOf(there)
  const { mesh, close } = meshOf(new Host(), other.address)
  const outbox = mesh.outbox('there', 0)
  for await (const item of (await outbox.request('stream', {}).promise) as AsyncIterable<number>) {
    assert.is(item, 1)
    break
  }
  await until(() => isLeft && outbox.count === 0)
  close()
  other.close()
})

function listener(pattern: string, handler: (message: unknown) => unknown, queue = ''): Subscriber {
  return { pattern, queue, handler, isOver: false }
}

test('the time limit of a request ends a stream without a first item, and no other', async () => {
  const left: string[] = []
  const stream = (name: unknown) => {
    let items = 0
    const hang = new Promise<never>(() => undefined)
    const isOver = () => (name === 'one item' ? ++items > 1 : true)
    return {
      [Symbol.asyncIterator]: () => ({
        next: () => (isOver() ? hang : Promise.resolve({ value: name, done: false })),
        return: () => Promise.resolve(void left.push(String(name))),
      }),
    }
  }
  const there = new Host()
  there.onMessage = stream
  const remote = meshOf(there)
  const { mesh, close } = meshOf(new Host(), remote.address)
  const alone = meshOf(new Host())
  const own = listener('late', stream)
  await subscriptions.add(own)
  for (const [at, ask] of [
    (name: string) => mesh.outbox('there', 0).request(name, { timeoutMs: 50 }).promise,
    (name: string) => alone.mesh.hub.request('late', name, { timeoutMs: 50 }),
  ].entries()) {
    const reader = ((await ask('one item')) as AsyncIterableIterator<unknown>)[Symbol.asyncIterator]()
    const first = await reader.next()
    const second = reader.next()
    const never = (await ask('none')) as AsyncIterableIterator<unknown>
    await rejects(within(5000, never.next()), 'ERR_REQUEST_TIMEOUT')
    await until(() => left.length === 2 * at + 1)
    assert.equal([first, left.at(-1)], [{ value: 'one item', done: false }, 'none'])
    await reader.return?.()
    assert.equal(await second, { value: undefined, done: true })
    await until(() => left.length === 2 * at + 2)
  }
  subscriptions.delete(own)
  for (const each of [{ close }, remote, alone]) each.close()
})

test('what is published is taken by all who listen, or by none, but for one that has not said yet how much it takes', async () => {
  const other = meshOf(new Host({ maxPackageSize: 1000 }))
  const here = new Host({ maxPackageSize: 10_000 })
  const got: unknown[] = []
  const subscriber = listener('big', (message) => void got.push(message))
  await subscriptions.add(subscriber) // of both: they share the process
  const { mesh, close } = meshOf(here, other.address)
  const message = 'x'.repeat(5000)
  assert.is(mesh.hub.publish('big', message), true)
  await until(() => here.failed.length === 1)
  assert.equal(here.failed, [['ERR_MESSAGE_TOO_LARGE', false, message]])
  assert.equal(got.splice(0), [message]) // here
  assert.throws(() => mesh.hub.publish('big', message), /worker there:0: a message of 5000 bytes/)
  await turns()
  assert.equal(got, [])
  mesh.hub.publish('big', 'small')
  await until(() => got.length === 2)
  subscriptions.delete(subscriber)
  close()
  other.close()
})

test('a message that is too large for the process that publishes it is for none of them either, however many they are', async () => {
  const other = meshOf(new Host({ maxPackageSize: 10_000 }))
  const message = 'x'.repeat(5000)
  const got: unknown[] = []
  const subscriber = listener('big', (message) => got.push(message))
  await subscriptions.add(subscriber)
  const here = new Host({ maxPackageSize: 1000 })
  here.settingsFor = () => new Host({ maxPackageSize: 10_000 }).settingsFor() // the other one may have it
  for (const { mesh, close } of [meshOf(here), meshOf(here, other.address)]) {
    mesh.hub.publish('big', 'small')
    await until(() => got.includes('small') && mesh.unsettled === 0)
    assert.throws(() => mesh.hub.publish('big', message), /this process: a message of 5000 bytes/)
    await rejects(mesh.hub.request('big', message, {}), 'ERR_MESSAGE_TOO_LARGE')
    await turns()
    assert.not.ok(got.includes(message))
    got.length = 0
    close()
  }
  subscriptions.delete(subscriber)
  other.close()
})

test('a process that is in a queue itself takes its share of what it publishes', async () => {
  const remote = meshOf(new Host({ maxMailboxMessages: 100 }))
  const host = new Host({ maxMailboxMessages: 100 })
  const { mesh, close } = meshOf(host, remote.address)
  let [own, all] = [0, 0]
  const ends: (() => void)[] = []
  const handler = (_message: unknown, { from }: Delivery) => {
    all++
    if (from === mesh.self) own++
    return new Promise<void>((resolve) => ends.push(resolve))
  }
  const member = { pattern: 'shared', queue: 'q', handler, isOver: false }
  await subscriptions.add(member)
  mesh.hub.publish('nobody', 0) // from here on the other one is known
  await until(() => mesh.outbox('there', 0).isLinked)
  for (let n = 0; n < 20; n++) mesh.hub.publish('shared', n)
  await until(() => all === 20)
  assert.ok(Math.abs(own - 10) <= 2, `${own} of 20 in one turn`)
  for (let n = 20; n < 40; n++) {
    mesh.hub.publish('shared', n)
    await until(() => all === n + 1)
  }
  assert.ok(Math.abs(own - 20) <= 2, `${own} of 40, one by one since`)
  assert.is(mesh.mailbox.load, own, 'other publishers see it')
  for (const end of ends) end()
  await until(() => mesh.mailbox.load === 0 && mesh.unsettled === 0)
  subscriptions.delete(member)
  close()
  remote.close()
})

test('a process that sends to itself by name hears once what it publishes', async () => {
  const { mesh, address, close } = meshOf(new Host())
  mesh.use({ rows: [{ ...rowOf(address), mailbox: 'here' }], isEnding: false })
  const heard: unknown[] = []
  const subscriber = {
    pattern: 'news',
    queue: '',
    handler: (message: unknown) => void heard.push(message),
    isOver: false,
  }
  void subscriptions.add(subscriber)
  const outbox = mesh.outbox('here', 0)
  outbox.send('by name')
  await until(() => outbox.isLinked && mesh.unsettled === 0)
  for (const n of [1, 2]) mesh.hub.publish('news', n)
  await until(() => heard.includes(2) && mesh.unsettled === 0)
  assert.equal(heard, [1, 2])
  subscriptions.delete(subscriber)
  close()
})

test('what is on its way to members of a queue who unsubscribe is told', async () => {
  const remote = meshOf(new Host({ maxMailboxMessages: 100 }))
  const here = new Host({ maxMailboxMessages: 100 })
  const { mesh, close } = meshOf(here, remote.address)
  const outbox = mesh.outbox('there', 0)
  const audience = { subject: 'jobs', isForAll: true, queues: ['q'] }
  const publish = async (message: string) => {
    const packed = pack(message)
    outbox.publish(packed, publishFrame(publishHead(audience), packed), message, audience)
    await until(() => outbox.count === 0)
    return here.failed.splice(0)
  }
  const ask = () =>
    outbox
      .request(pack('asked'), {}, audience)
      .promise.then(String, ({ code, mayHaveBeenHandled }) => [code, mayHaveBeenHandled])
  assert.equal(await publish('one'), [['ERR_NO_RESPONDERS', false, 'one']])
  assert.equal(await ask(), ['ERR_NO_RESPONDERS', false])
  // Somebody else has received it.
  const ended = held()
  const other = listener('jobs', (message) => (message === 'two' ? 'at once' : ended.handler(message)))
  await subscriptions.add(other)
  assert.equal(await publish('two'), [['ERR_NO_RESPONDERS', true, 'two']])
  const told = publish('three')
  await until(() => ended.begun.length === 1)
  assert.is(outbox.count, 1, 'not before the other one has ended')
  ended.end('three')
  assert.equal(await told, [['ERR_NO_RESPONDERS', true, 'three']])
  subscriptions.delete(other)
  // A member that another subscriber ends before its turn.
  const member = listener('jobs', () => assert.unreachable(), 'q')
  const ending = listener('jobs', () => subscriptions.delete(member))
  for (const one of [ending, member]) await subscriptions.add(one)
  assert.equal(await publish('four'), [['ERR_NO_RESPONDERS', true, 'four']])
  subscriptions.delete(ending)
  // In this process.
  for (const how of ['publish', 'request'] as const) {
    const own = listener('jobs', () => assert.unreachable(), 'q')
    await subscriptions.add(own)
    const alone = meshOf(here)
    const said = Promise.resolve(alone.mesh.hub[how]('jobs', how, {})).catch(({ code }) => here.failed.push(code))
    subscriptions.delete(own)
    await until(() => here.failed.length === 1)
    await said
    assert.equal(
      here.failed.splice(0),
      how === 'publish' ? [['ERR_NO_RESPONDERS', false, 'publish']] : ['ERR_NO_RESPONDERS'],
    )
    alone.close()
  }
  close()
  remote.close()
})

test('a subject may have more queue groups than one frame names', async () => {
  const other = meshOf(new Host({ maxMailboxMessages: 100 }))
  let got = 0
  const all = Array.from({ length: 301 }, (_, n) => listener('many', () => void got++, n === 0 ? '' : `q${n}`))
  for (const one of all) await subscriptions.add(one)
  const { mesh, close } = meshOf(new Host({ maxMailboxMessages: 100 }), other.address)
  for (const count of [302, 604]) {
    mesh.hub.publish('many', 1) // to both, who have the same subscribers: of each queue to one of them, else to both
    await until(() => got >= count)
    await turns()
    assert.is(got, count)
  }
  for (const one of all) subscriptions.delete(one)
  close()
  other.close()
})

test('an answer of this very process is as one of another: a clone, or an error that was sent', async () => {
  const { mesh, close } = meshOf(new Host())
  const state = { n: 1 }
  const all = [
    listener('value', () => state),
    listener('stream', async function* () {
      yield state
    }),
    listener('error', () => {
      throw new TypeError('on purpose')
    }),
    listener('call', () => () => 1),
  ]
  for (const one of all) await subscriptions.add(one)
  const answer = await mesh.hub.request('value', 1, {})
  assert.equal(answer, state)
  assert.is.not(answer, state)
  for await (const item of (await mesh.hub.request('stream', 1, {})) as AsyncIterable<unknown>) {
    assert.equal(item, state)
    assert.is.not(item, state)
  }
  for (const [subject, name, code] of [
    ['error', 'TypeError', ''],
    ['call', 'UsageError', 'ERR_CANNOT_CLONE'],
  ] as const) {
    const error = (await mesh.hub.request(subject, 1, {}).catch((thrown) => thrown)) as RemoteError
    assert.instance(error, RemoteError)
    assert.equal([error.name, error.code], [name, code])
  }
  for (const one of all) subscriptions.delete(one)
  close()
})

/** How a stream ends for its reader, and its source. */
async function endsOf(request: (message: string, signal?: AbortSignal) => Promise<unknown>): Promise<unknown[]> {
  const streamOf = async (message: string, signal?: AbortSignal) =>
    ((await request(message, signal)) as AsyncIterable<unknown>)[Symbol.asyncIterator]()
  const outcome = (promise: Promise<unknown>) => promise.catch((error) => [error.name, error.message, error.code])
  const { signal, abort } = abortable()
  const aborted = await streamOf('hang', signal)
  const first = await aborted.next()
  const waits = outcome(aborted.next())
  abort(new TypeError('enough'))
  const left = await streamOf('hang')
  await left.next()
  const pending = left.next()
  const thrown = await streamOf('throw')
  const ahead = await streamOf('flood')
  await ahead.next()
  await turns()
  const returned = [await left.return?.(), await pending, await ahead.return?.()]
  return [first, await waits, returned, await thrown.next(), await outcome(thrown.next()), await thrown.next()]
}

test('a stream of this very process is as one of another: signal, return(), errors, and no further ahead than room', async () => {
  const sources = { ended: [] as string[], made: 0 }
  const source = async function* (message: unknown): AsyncGenerator<unknown> {
    if (message === 'throw') {
      yield 1
      throw Object.assign(new RangeError('on purpose'), { code: 'MINE' })
    }
    for (let n = 0; message === 'flood'; n++) {
      sources.made = n
      yield n
    }
  }
  const hanging = () => {
    let items = 0
    const next = () => (items++ === 0 ? Promise.resolve({ value: 1, done: false }) : new Promise(() => undefined))
    const leave = () => {
      sources.ended.push('hang')
      return Promise.resolve({ value: undefined, done: true })
    }
    return { [Symbol.asyncIterator]: () => ({ next, return: leave }) } as unknown
  }
  const there = new Host({ maxMailboxMessages: 100 })
  there.onMessage = (message) => (message === 'hang' ? hanging() : source(message))
  const remote = meshOf(there)
  const { mesh, close } = meshOf(new Host({ maxMailboxMessages: 100 }), remote.address)
  const one = listener('stream', there.onMessage as (message: unknown) => unknown)
  await subscriptions.add(one)
  const alone = meshOf(new Host({ maxMailboxMessages: 100 }))
  const outbox = mesh.outbox('there', 0)
  const ends: unknown[][] = []
  for (const ask of [
    (message: string, signal?: AbortSignal) => outbox.request(message, { signal }).promise,
    (message: string, signal?: AbortSignal) => alone.mesh.hub.request('stream', message, { signal }),
  ]) {
    sources.ended.length = sources.made = 0
    ends.push(await endsOf(ask))
    await until(() => sources.ended.length === 2)
    assert.ok(sources.made <= 17, String(sources.made))
  }
  assert.equal(ends[1], ends[0])
  assert.equal(ends[0]?.[1], ['TypeError', 'enough', undefined])
  assert.equal(ends[0]?.[4], ['RangeError', 'on purpose', 'MINE'])
  subscriptions.delete(one)
  for (const each of [{ close }, remote, alone]) each.close()
})

function ignore(): void {
  // What becomes of them is not looked at.
}

const answers = {
  from: null as never, // nobody looks
  handled: ignore,
  answer: ignore,
  fail: ignore,
  stream: () => Promise.resolve(),
  remember: ignore,
  forget: ignore,
}

test('a serial mailbox: one at a time whatever else runs, and it says when all has begun', async () => {
  const { begun, handler, end } = held()
  const host = new Host({ serial: true })
  host.onMessage = handler
  const mailbox = new Mailbox(host)
  for (const n of [1, 2, 3]) mailbox.take(answers, n, n, ONE_WAY)
  let hasBegun = false
  mailbox.whenBegun(() => {
    hasBegun = true
  })
  const listener = held()
  mailbox.run(answers, 4, 'published', ONE_WAY, (_from, message) => listener.handler(message))
  listener.end('published')
  await turns()
  assert.equal(begun, [1])
  for (const n of [1, 2]) {
    assert.is(hasBegun, false)
    end(n)
    await until(() => begun.includes(n + 1))
  }
  assert.is(hasBegun, true)
  end(3)
  await until(() => mailbox.load === 0)
})

test.run()
