// A handler that answers with a stream when nobody has asked: the stream is ended, and what it fails with ends nothing.

import net from 'node:net'
import { PassThrough, pipeline, Readable } from 'node:stream'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { type Subscriber, subscriptions } from '../../src/messaging/subscriptions.ts'
import { nothing } from '../../src/nothing.ts'
import { Host, meshOf } from '../support/mesh.ts'
import { nextTurn, until } from '../support/until.ts'

/** One that is opened in a later turn, or fails to be. */
function readable(fails: boolean): Readable {
  const construct = (done: (error?: Error) => void) => setImmediate(done, fails ? new Error('no file') : undefined)
  return new Readable({ objectMode: true, construct, read: nothing })
}

/** A handler that answers with streams, at once and later, that open and do not: a promise of them for every other message. */
function streaming(): { streams: Readable[]; handler: () => unknown } {
  const streams: Readable[] = []
  const handler = () => {
    const stream = readable(streams.length % 4 > 1)
    return streams.push(stream) % 2 === 0 ? nextTurn().then(() => stream) : stream
  }
  return { streams, handler }
}

/** Sends by name, and publishes to subscribers in the same process and in another one. Returns the streams that the handlers made. */
async function sayAll(serial: boolean): Promise<readonly Readable[]> {
  const { streams, handler } = streaming()
  const [host, sender] = [new Host({ serial, maxMailboxMessages: 20 }), new Host({ maxMailboxMessages: 20 })]
  const subscriber: Subscriber = { pattern: 'file', queue: '', handler, isOver: false }
  await subscriptions.add(subscriber)
  host.onMessage = handler
  const there = meshOf(host)
  const here = meshOf(sender, there.address)
  for (let n = 0; n < 4; n++) {
    here.mesh.outbox('there', 0).send(n)
    there.mesh.hub.publish('file', n)
    here.mesh.hub.publish('file', n) // in both, which share their subscriptions here
  }
  await until(() => here.mesh.unsettled + there.mesh.mailbox.load + here.mesh.mailbox.load === 0)
  await until(() => streams.length === 16)
  subscriptions.delete(subscriber)
  for (const { close } of [here, there]) close()
  assert.equal([...host.failed, ...sender.failed], [])
  return streams
}

for (const serial of [false, true])
  test(`a stream that nobody has asked for is ended${serial ? ', also in a serial worker' : ''}`, async () => {
    const streams = await sayAll(serial)
    await until(() => streams.every(({ closed }) => closed))
  })

test('a stream that somebody reads already is not: a handler may return what `stream.resume()` does, say', async () => {
  const host = new Host()
  const there = meshOf(host)
  const here = meshOf(new Host(), there.address)
  const [flowing, paused] = [new Readable({ read: nothing }), new Readable({ read: nothing })]
  const results = [flowing.resume(), paused.pause()]
  host.onMessage = () => results.shift()
  for (const n of [1, 2]) here.mesh.outbox('there', 0).send(n)
  await until(() => results.length === 0 && here.mesh.unsettled === 0)
  for (const { close } of [here, there]) close()
  assert.equal([flowing.destroyed, paused.destroyed], [false, false])
})

test('nor is a socket that is written to: a handler may return what `socket.end()` or `socket.setNoDelay()` does', async () => {
  const host = new Host()
  const there = meshOf(host)
  const here = meshOf(new Host(), there.address)
  const accepted: net.Socket[] = []
  const server = net.createServer({ pauseOnConnect: true }, (socket) => accepted.push(socket))
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as net.AddressInfo
  const [ended, open] = [net.connect(port, '127.0.0.1'), net.connect(port, '127.0.0.1')]
  const results = [ended.end(Buffer.alloc(8_000_000)), open.setNoDelay()]
  host.onMessage = () => results.shift()
  await until(() => accepted.length === 2)
  for (const n of [1, 2]) here.mesh.outbox('there', 0).send(n)
  await until(() => results.length === 0 && here.mesh.unsettled === 0)
  const destroyed = [ended, open].map((socket) => socket.destroyed)
  for (const socket of [ended, open, ...accepted]) socket.destroy()
  for (const end of [here, there, server]) end.close()
  assert.equal(destroyed, [false, false])
})

test('one that transforms another is ended, and the other with it', async () => {
  const host = new Host()
  const there = meshOf(host)
  const here = meshOf(new Host(), there.address)
  const [source, result] = [new Readable({ read: nothing }), new PassThrough()]
  host.onMessage = () => pipeline(source, result, nothing)
  here.mesh.outbox('there', 0).send(1)
  await until(() => source.closed && result.closed)
  for (const { close } of [here, there]) close()
})

test.run()
