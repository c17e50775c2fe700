// A value that its receiver cannot read is the failure of that one message: the link between the two stays.

import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { addon } from '../../src/addon.ts'
import type { PeerError } from '../../src/errors.ts'
import { subscriptions } from '../../src/messaging/subscriptions.ts'
import { unreadable } from '../support/deep.ts'
import { drive, startDriven } from '../support/driven.ts'
import { Host, meshOf } from '../support/mesh.ts'
import { inSandbox } from '../support/server.ts'
import { until } from '../support/until.ts'

const deep = unreadable()

function pair() {
  const [there, here] = [new Host({ maxPackageSize: 100_000 }), new Host({ maxPackageSize: 100_000 })]
  const other = meshOf(there)
  const { mesh, close } = meshOf(here, other.address)
  const leave = () => {
    close()
    other.close()
  }
  return { there, here, mesh, outbox: mesh.outbox('there', 0), close: leave }
}

function outcomeOf(promise: Promise<unknown>): Promise<unknown> {
  return promise.catch((error: PeerError) => [error.name, error.code, error.mayHaveBeenHandled])
}

test('a message or a request that cannot be read: its sender is told, and nobody else', async () => {
  const { there, here, outbox, close } = pair()
  const got: unknown[] = []
  let end: ((answer: unknown) => void) | null = null
  there.onMessage = (message) => {
    got.push(message)
    return message === 'slow' ? new Promise((resolve) => (end = resolve)) : 'answer'
  }
  const slow = outbox.request('slow', {}).promise
  await until(() => end !== null)
  assert.equal(await outcomeOf(outbox.request(deep, {}).promise), ['PeerError', 'ERR_CANNOT_CLONE', false])
  outbox.send(deep)
  outbox.send('after')
  await until(() => got.includes('after') && here.failed.length === 1)
  assert.equal(here.failed[0], ['ERR_CANNOT_CLONE', false, deep])
  ;(end as unknown as (answer: unknown) => void)('slow answer')
  assert.is(await slow, 'slow answer')
  await until(() => outbox.count === 0)
  assert.is(there.counters.refused, 0)
  close()
})

test('an answer, or an item of a stream, that cannot be read: who asked is told, and nothing stays unsettled', async () => {
  const { there, outbox, close } = pair()
  let hasEnded = false
  there.onMessage = (message) => (message === 'stream' ? stream() : message === 'deep' ? deep : 'answer')
  async function* stream(): AsyncGenerator<unknown> {
    try {
      yield 1
      yield deep
      for (;;) yield 2
    } finally {
      hasEnded = true
    }
  }
  assert.equal(await outcomeOf(outbox.request('deep', { timeoutMs: 0 }).promise), [
    'PeerError',
    'ERR_CANNOT_CLONE',
    true,
  ])
  const items: unknown[] = []
  const read = async () => {
    for await (const item of (await outbox.request('stream', {}).promise) as AsyncIterable<unknown>) items.push(item)
  }
  assert.equal(await outcomeOf(read()), ['PeerError', 'ERR_CANNOT_CLONE', true])
  assert.equal(items, [1])
  assert.is(await outbox.request('else', {}).promise, 'answer')
  await until(() => outbox.count === 0 && hasEnded)
  close()
})

test('what this process publishes, or asks itself, and cannot read', async () => {
  const host = new Host({ maxMailboxMessages: 10, maxPackageSize: 100_000 })
  const { mesh, close } = meshOf(host)
  const got: unknown[] = []
  const subscriber = {
    pattern: 'own',
    queue: '',
    isOver: false,
    handler: (message: unknown) => {
      got.push(message)
      return deep
    },
  }
  await subscriptions.add(subscriber)
  mesh.hub.publish('own', deep)
  mesh.hub.publish('own', 'after')
  await until(() => got.includes('after'))
  assert.equal([got, host.failed], [['after'], [['ERR_CANNOT_CLONE', false, deep]]])
  assert.equal(await outcomeOf(mesh.hub.request('own', deep, {})), ['PeerError', 'ERR_CANNOT_CLONE', false])
  assert.equal(await outcomeOf(mesh.hub.request('own', 'deep answer', {})), ['PeerError', 'ERR_CANNOT_CLONE', true])
  subscriptions.delete(subscriber)
  close()
})

const groups = `
  import v8 from 'node:v8'
  const nested = (levels) => { let value = 1; for (let n = 0; n < levels; n++) value = { a: value }; return value }
  Object.assign(globalThis, { v8 })
  const most = (attempt) => { for (let levels = 100; ; levels += 50) try { attempt(nested(levels)) } catch { return levels } }
  state.deep = nested(Math.round((most((value) => v8.serialize(value)) + most((value) => v8.deserialize(v8.serialize(value)))) / 2))
  const peer = new Worker({ name: 'peer' })
  peer.onMessage = (from, message, call) => (message === 'pid' ? process.pid : message === 'deep' ? state.deep : typeof message)
  driver.onSendFail = (error, message) => (state.failed ??= []).push([error.code, error.mayHaveBeenHandled, typeof message])
`

for (const engine of addon().sys === null ? ['node'] : ['native', 'node'])
  test(`${engine}: between two processes, through a channel, and in a shared map`, () =>
    inSandbox(async (box) => {
      const port = await startDriven(box, groups, '--engine', engine)
      const run = <T>(code: string) => drive<T>(port, code)
      const pids = await run<number[]>(`return [process.pid, await groups.peer.worker(0).request('pid')]`)
      const code = (call: string) =>
        run(`return ${call}.then(() => 'done', (error) => [error.code, error.mayHaveBeenHandled])`)
      assert.equal(await code(`groups.peer.worker(0).request(state.deep)`), ['ERR_CANNOT_CLONE', false])
      assert.equal(await code(`groups.peer.worker(0).request('deep')`), ['ERR_CANNOT_CLONE', true])
      await run(`
        Channel.subscribe('own', (message) => (state.got = message))
        groups.peer.worker(0).send(state.deep)
        Channel.publish('own', state.deep)
        Channel.publish('own', 'after')
        while (state.got !== 'after' || state.failed?.length !== 2) await millrace.Timer.sleep(0.01)`)
      assert.equal(await run(`return state.failed`), Array(2).fill(['ERR_CANNOT_CLONE', false, 'object']))

      // A shared map refuses it; from a worker with a larger stack, or another V8, it may come nevertheless.
      assert.equal(await code(`millrace.Shared.map('map').set('deep', state.deep)`), ['ERR_SHARED_VALUE', null])
      await run(`
        state.map = millrace.Shared.map('map')
        state.watch = state.map.watch()
        const { readValue } = v8.Deserializer.prototype
        v8.Deserializer.prototype.readValue = () => null
        const set = state.map.set('deep', state.deep)
        v8.Deserializer.prototype.readValue = readValue
        await set
        await state.map.set('later', 1)`)
      assert.equal(await run(`return [(await state.watch.next()).value, (await state.watch.next()).value]`), [
        { type: 'lost' },
        { type: 'set', key: 'later', value: 1 },
      ])
      assert.equal(await code(`state.map.get('deep')`), ['ERR_SHARED_VALUE', null])
      assert.equal(await code(`state.map.compareAndSet('deep', 1, 2)`), ['ERR_SHARED_VALUE', null])
      assert.equal(await code(`state.map.compareAndSet('later', state.deep, 2)`), ['ERR_SHARED_VALUE', null])
      assert.is(await run(`return state.map.has('deep')`), true)
      const pending = await run(`return groups.peer.worker(0).pendingMessages`)
      assert.is(pending, 0)
      assert.equal(await run(`return [process.pid, await groups.peer.worker(0).request('pid')]`), pids)
      await box.stop()
    }))

test.run()
