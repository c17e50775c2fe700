// Messages that run code while they are packed, and those that nobody can pack.

import { test } from 'uvu'
import * as assert from 'uvu/assert'
import type { UsageError } from '../../src/errors.ts'
import { subscriptions } from '../../src/messaging/subscriptions.ts'
import { Form, pack, unpack } from '../../src/messaging/wire.ts'
import { Host, meshOf } from '../support/mesh.ts'
import { until } from '../support/until.ts'

function pair(maxMailboxMessages = 100) {
  const [there, here] = [new Host({ maxMailboxMessages }), new Host({ maxMailboxMessages })]
  const other = meshOf(there)
  const { mesh, close } = meshOf(here, other.address)
  const leave = () => {
    close()
    other.close()
  }
  return { there, here, outbox: mesh.outbox('there', 0), close: leave }
}

test('a getter that sends to the same worker sends a message of its own, ahead of the one it is of', async () => {
  const { there, here, outbox, close } = pair()
  const got: unknown[] = []
  there.onMessage = (message) => {
    got.push(message)
    return message
  }
  const sends = (n: number) => ({
    n,
    get inner() {
      outbox.send(`inner ${n}`)
      return true
    },
  })
  for (const isLinked of [false, true]) {
    got.length = 0
    if (isLinked) await until(() => outbox.isLinked && outbox.count === 0)
    outbox.send(sends(1))
    const answer = outbox.request({ date: new Date(0), nested: [sends(2)] }, {}).promise
    outbox.send('last')
    assert.equal(await answer, { date: new Date(0), nested: [{ n: 2, inner: true }] })
    await until(() => outbox.count === 0)
    assert.equal(got, ['inner 1', { n: 1, inner: true }, 'inner 2', await answer, 'last'])
  }
  assert.equal([here.failed, there.counters.refused], [[], 0])
  close()
})

test('also one that sends the last that may be unsettled: what it is of waits', async () => {
  const { there, here, outbox, close } = pair(3)
  const ends: (() => void)[] = []
  there.onMessage = () => new Promise<void>((resolve) => ends.push(resolve))
  outbox.send(1)
  await until(() => ends.length === 1)
  outbox.send(2)
  outbox.send({
    get inner() {
      return outbox.send('inner')
    },
  })
  await until(() => ends.length === 3)
  assert.is(outbox.count, 4)
  for (const end of ends) end()
  await until(() => ends.length === 4)
  ends[3]?.()
  await until(() => outbox.count === 0)
  assert.equal([here.failed, there.counters.refused], [[], 0])
  close()
})

test('an answer whose getter has something to say on the same connection', async () => {
  const { there, outbox, close } = pair()
  const subscriber = { pattern: 'made', queue: '', handler: () => undefined, isOver: false }
  there.onMessage = () => ({
    get made() {
      void subscriptions.add(subscriber)
      return true
    },
  })
  assert.equal(await outbox.request('answer', {}).promise, { made: true })
  assert.equal(await outbox.request('answer', {}).promise, { made: true })
  assert.is(outbox.isLinked, true)
  for (let n = 0; n < 2; n++) subscriptions.delete(subscriber)
  close()
})

test('a getter is called once, as by structuredClone', () => {
  let calls = 0
  const value = (rest: object) => ({
    get flip() {
      return calls++ === 0 ? 1 : undefined
    },
    rest,
  })
  for (const rest of [{}, new Date(0)]) {
    calls = 0
    const { form, bytes } = pack(value(rest))
    assert.equal(unpack(form, Buffer.from(bytes), 0, bytes.length), { flip: 1, rest })
    assert.is(calls, 1)
  }
})

test('what cannot leave a process is refused, large or small, with a code and the reason', () => {
  const detached = new Uint8Array(4)
  structuredClone(detached, { transfer: [detached.buffer] })
  const throwing = {
    get a() {
      throw new Error('on purpose')
    },
  }
  const list = Object.defineProperty([1], 0, {
    enumerable: true,
    get: () => {
      throw new Error('on purpose')
    },
  })
  const values: Record<string, unknown> = {
    'a proxy': new Proxy({ a: 1 }, {}),
    'a proxy of a list': { list: new Proxy([1], {}) },
    'a proxy of bytes': new Proxy(new Uint8Array(1), {}),
    'a large proxy': new Proxy({ a: 'x'.repeat(5000) }, {}),
    arguments: argumentsOf(1, 2),
    'large arguments': argumentsOf('x'.repeat(5000)),
    'a detached array': detached,
    'a getter that throws': throwing,
    'one of a list': list,
    'shared memory': new SharedArrayBuffer(4),
    'a blob': new Blob(['x']),
    'a function': argumentsOf,
    'a symbol': Symbol('x'),
  }
  for (const [what, value] of Object.entries(values)) {
    const refuses = (error: UsageError) =>
      error.code === 'ERR_CANNOT_CLONE' &&
      /^this cannot be sent to another process: ./.test(error.message) &&
      error.cause instanceof Error
    assert.throws(() => pack(value), refuses, what)
  }
  assert.is(pack(new Uint8Array(0)).form, Form.Bytes)
})

function argumentsOf(_first: unknown, _second?: unknown): unknown {
  // biome-ignore lint/complexity/noArguments: it is what is sent
  return arguments
}

test.run()
