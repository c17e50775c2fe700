// References to workers over real processes: send, request, streams, broadcast, order, bounds and errors, on both engines.

import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { addon } from '../../src/addon.ts'
import type { UsageError } from '../../src/errors.ts'
import { WorkerGroup } from '../../src/messaging/references.ts'
import { drive, driveToThrow, startDriven } from '../support/driven.ts'
import { Host, meshOf, rowOf } from '../support/mesh.ts'
import { inSandbox } from '../support/server.ts'
import { nextTurn } from '../support/until.ts'

// One server for all of it: groups with and without an address, one that is serial, one without a handler.
const groups = `
  const calls = { started: 0, aborted: 0 }
  const tasks = new Worker({ name: 'tasks', count: 3 })
  tasks.onMessage = async (from, message, call) => {
    const { ask, value } = Object(message)
    if (ask === 'who') return [tasks.id, from.group, from.id, call.isRequest]
    if (ask === 'back') return from.send({ to: from.id, value })
    if (ask === 'echo') return value
    if (ask === 'throw') throw Object.assign(new RangeError('on purpose'), { code: 'E_PURPOSE' })
    if (ask === 'function') return () => 1
    if (ask === 'round') return ['round', await from.request({ ask: 'echo', value }, { timeoutMs: call.remainingMs })]
    if (ask === 'left') return call.remainingMs
    if (ask === 'calls') return calls
    if (ask === 'wait') {
      calls.started++
      await new Promise((resolve) => call.signal.addEventListener('abort', resolve))
      calls.aborted++
    }
    if (ask === 'stream') return numbers(value)
    if (ask === 'produced') return produced
  }
  let produced = 0
  async function* numbers({ count, failAt = -1 }) {
    try {
      for (produced = 0; produced < count; produced++) {
        if (produced === failAt) throw new Error('the stream broke')
        yield produced
      }
    } finally {
      calls.ended = produced
    }
  }
  const serial = new Worker({ name: 'serial', serial: true })
  let atOnce = 0
  let most = 0
  const order = []
  serial.onMessage = async (from, message, call) => {
    most = Math.max(most, ++atOnce)
    await new Promise((resolve) => setTimeout(resolve, message % 3))
    order.push(message)
    atOnce--
    return { most, order }
  }
  const mute = new Worker({ name: 'mute', maxMailboxMessages: 4, maxPackageSize: 1000 })
  mute.onSendFail = (error, message, to) => (state.failed ??= []).push([error.code, error.mayHaveBeenHandled, message, to.group, to.id])
  const pair = new Worker('text://127.0.0.1:0', { name: 'pair', count: 2 })
  pair.onWorkerMessage = (from, message) => { (state.got ??= []).push(message); return state.got }
  new Worker({ name: 'twin' })
  new Worker({ name: 'twin' })
  driver.onWorkerMessage = (from, message) => {
    if (message.ask === 'echo') return message.value;
    (state.got ??= []).push([from.group, from.id, message])
  }
  driver.onSendFail = mute.onSendFail
`

for (const engine of addon().newEngine === null ? ['node'] : ['native', 'node']) {
  test(`${engine}: workers reach each other by name: within and across groups, with an address and without`, () =>
    inSandbox(async (box) => {
      const port = await startDriven(box, groups, '--engine', engine)
      const run = <T>(code: string) => drive<T>(port, code)
      const thrown = (code: string) => driveToThrow(port, code)

      // Who is who, and that everything that can be cloned arrives as itself.
      assert.equal(
        await run(`return Promise.all([0, 1, 2].map((id) => groups.tasks.getWorkerById(id).request({ ask: 'who' })))`),
        [0, 1, 2].map((id) => [id, 'driver', 0, true]),
      )
      assert.equal(
        await run(
          `
          const values = ['', 'ascii', 'h\\u00e4 \\ud83d\\ude00', '\\ud800', 'x'.repeat(70000), '\\u20ac'.repeat(30000), 0, -1.5, NaN, true, false, null, undefined,
            new Map([[1, new Date(5)]]), [1n], { a: { b: [1] } }, new Float64Array([1.5])]
          const bad = []
          for (const value of values) {
            const back = await groups.tasks.worker(1).request({ ask: 'echo', value })
            const plain = await groups.driver.worker(0).request({ ask: 'echo', value })
            for (const one of [back, plain]) if (!millrace.isSame(one, value)) bad.push(value)
          }
          return bad`.replaceAll('millrace.isSame', `(await import('node:util')).isDeepStrictEqual`),
        ),
        [],
      )
      assert.equal(
        await run(`
          const answers = []
          for (const value of ['text', '\\u00e9', Buffer.from('bytes'), new Uint8Array([1, 2]), 5, undefined, null, true, 'y'.repeat(200000), Buffer.alloc(300000, 7)]) {
            const back = await groups.pair.worker(0).request(value)
            const last = back.at(-1)
            answers.push((await import('node:util')).isDeepStrictEqual(last, value) && last?.constructor === value?.constructor)
            back.length = 0
          }
          return answers`),
        Array(10).fill(true),
      )

      // A reference may answer by sending; to oneself goes the same way; a request within a request does not deadlock.
      await run(
        `state.got = []; groups.tasks.worker(2).send({ ask: 'back', value: 'v' }); groups.driver.worker(0).send('self')`,
      )
      await run(`while (state.got.length < 2) await new Promise((resolve) => setTimeout(resolve, 2))`)
      assert.equal(await run<unknown[]>(`return state.got.map((one) => JSON.stringify(one)).sort()`), [
        '["driver",0,"self"]',
        '["tasks",2,{"to":0,"value":"v"}]',
      ])
      assert.equal(await run(`return groups.tasks.worker(0).request({ ask: 'round', value: 7 })`), ['round', 7])

      // any: spread over all; by: the same one for the same key, and all are used; broadcast: to each.
      const spread = await run<number[]>(`
        const counts = [0, 0, 0]
        for (const [id] of await Promise.all(Array.from({ length: 30 }, () => groups.tasks.any().request({ ask: 'who' })))) counts[id]++
        return counts`)
      assert.equal(spread, [10, 10, 10])
      const keys = await run<number[][]>(`
        const of = (keys) => keys.map((key) => groups.tasks.by(key).id)
        const keys = Array.from({ length: 300 }, (_, n) => 'user-' + n)
        return [of(keys), of(keys)]`)
      assert.equal(keys[0], keys[1])
      for (const id of [0, 1, 2]) assert.ok((keys[0] as number[]).filter((one) => one === id).length > 60)
      assert.ok(await run(`return Worker.group('pair').broadcast('to all')`))
      assert.equal(
        await run(`
        const last = []
        for (const id of [0, 1]) last.push((await groups.pair.worker(id).request('more')).includes('to all'))
        return last`),
        [true, true],
      )

      // Order between two workers, and one at a time where the group says so.
      assert.equal(
        await run(`
          const { order, most } = (await Promise.all(Array.from({ length: 40 }, (_, n) => groups.serial.worker(0).request(n)))).at(-1)
          return [most, order.every((value, at) => value === at)]`),
        [1, true],
      )

      // Errors of handlers are the sender's, and the worker lives.
      for (const [ask, name, code] of [
        ['throw', 'RangeError', 'E_PURPOSE'],
        ['function', 'UsageError', 'ERR_CANNOT_CLONE'],
      ]) {
        const error = await thrown(`await groups.tasks.worker(0).request({ ask: '${ask}' })`)
        assert.equal([error.error, error.code], [name, code])
      }
      assert.equal((await run<unknown[]>(`return groups.tasks.worker(0).request({ ask: 'who' })`))[0], 0)

      // What cannot be sent is told at once, to who sends.
      const bad: [string, string, RegExp][] = [
        [`groups.tasks.getWorkerById(3)`, 'ERR_UNKNOWN_WORKER', /it has 0-2/],
        [`groups.tasks.getWorkerById(-1)`, 'ERR_UNKNOWN_WORKER', /it has 0-2/],
        [`groups.tasks.getWorkerById('0')`, 'ERR_UNKNOWN_WORKER', /it has 0-2/],
        [`Worker.group('task')`, 'ERR_UNKNOWN_GROUP', /driver:0, tasks:0-2, serial:0, mute:0, pair:0-1/],
        [`Worker.group('twin')`, 'ERR_AMBIGUOUS_GROUP', /a name of its own/],
        [`groups.tasks.worker(0).send(() => 1)`, 'ERR_CANNOT_CLONE', /could not be cloned/],
        [`await groups.tasks.worker(0).request({ f() {} })`, 'ERR_CANNOT_CLONE', /could not be cloned/],
        [`groups.tasks.broadcast(Symbol())`, 'ERR_CANNOT_CLONE', /could not be cloned/],
        [`groups.mute.worker(0).send('x'.repeat(1001))`, 'ERR_MESSAGE_TOO_LARGE', /1001 bytes.*maxPackageSize is 1000/],
        [`groups.mute.worker(0).send({ deep: 'x'.repeat(40000) })`, 'ERR_MESSAGE_TOO_LARGE', /maxPackageSize is 1000/],
        [`await groups.mute.worker(0).request('hello')`, 'ERR_NO_HANDLER', /mute:0 has no onWorkerMessage/],
        [`await groups.tasks.worker(0).request({ ask: 'wait' }, { timeoutMs: 20 })`, 'ERR_REQUEST_TIMEOUT', /20 ms/],
        [
          `await groups.tasks.worker(0).request({ ask: 'wait' }, { signal: AbortSignal.timeout(20) })`,
          undefined as never,
          /aborted/,
        ],
        [
          `await groups.tasks.worker(0).request({ ask: 'who' }, { signal: AbortSignal.abort(Object.assign(new Error('early'), { code: 'E' })) })`,
          'E',
          /early/,
        ],
      ]
      for (const [code, expected, message] of bad) {
        const error = await thrown(code)
        if (expected !== undefined) assert.is(error.code, expected, code)
        assert.match(error.message, message)
      }
      // The other side hears that nobody waits any more; what it was given up before it began, it never began.
      await run(
        `for (;;) { const { started, aborted } = await groups.tasks.worker(0).request({ ask: 'calls' }); if (started === 2 && aborted === 2) break }`,
      )
      assert.ok(
        (await run<number>(`return groups.tasks.worker(0).request({ ask: 'left' }, { timeoutMs: 5000 })`)) <= 5001,
      )
      assert.is(await run(`return groups.tasks.worker(0).request({ ask: 'left' }, { timeoutMs: 0 })`), null) // Infinity

      // A message that nobody handles comes back; a mailbox takes no more than it may, and says when there is room.
      await run(
        `state.failed = []; groups.mute.worker(0).send('nobody'); while (state.failed.length < 1) await new Promise((resolve) => setTimeout(resolve, 2))`,
      )
      assert.equal(await run(`return state.failed`), [['ERR_NO_HANDLER', false, 'nobody', 'mute', 0]])
      assert.equal(
        await run(`
          const told = state.failed = []
          groups.mute.onWorkerBufferFull = (to) => told.push('full ' + to.id)
          const drained = new Promise((resolve) => { groups.mute.onWorkerBufferDrain = resolve })
          const answers = [1, 2, 3, 4, 5].map((n) => groups.mute.worker(0).send(n))
          const now = [...told]
          const request = await groups.mute.worker(0).request(6).catch((error) => error.code)
          await drained
          return [answers, now, request]`),
        [[true, true, true, false, false], ['full 0', ['ERR_QUEUE_FULL', false, 5, 'mute', 0]], 'ERR_QUEUE_FULL'],
      )

      // Streams: all of it, in order; no further ahead than the reader; ended from either side.
      assert.equal(
        await run(
          `let sum = 0; for await (const n of await groups.tasks.worker(1).request({ ask: 'stream', value: { count: 1000 } })) sum += n; return sum`,
        ),
        499_500,
      )
      const ahead = await run<number[]>(`
        const stream = await groups.tasks.worker(1).request({ ask: 'stream', value: { count: 100000 } })
        await stream.next()
        const before = await groups.tasks.worker(1).request({ ask: 'produced' })
        await stream.return()
        let ended
        while ((ended = (await groups.tasks.worker(1).request({ ask: 'calls' })).ended) !== await groups.tasks.worker(1).request({ ask: 'produced' }));
        return [before, ended]`)
      assert.ok((ahead[0] as number) <= 20 && (ahead[1] as number) <= 20, String(ahead))
      const broken = await thrown(`
        state.seen = []
        for await (const n of await groups.tasks.worker(1).request({ ask: 'stream', value: { count: 9, failAt: 3 } })) state.seen.push(n)`)
      assert.is(broken.message, 'the stream broke')
      assert.equal(await run(`return state.seen`), [0, 1, 2])
      await box.stop()
    }))
}

test('a worker that is gone is unknown, whether it was looked up before, sent to, or neither', async () => {
  const { mesh, close } = meshOf(new Host(), 'nowhere')
  await nextTurn() // it listens
  const rowsOf = (incarnation: number) => [0, 1, 2].map((id) => ({ ...rowOf('nowhere', incarnation), id }))
  const group = new WorkerGroup(
    'there',
    () => 'there',
    () => mesh,
  )
  mesh.use({ rows: rowsOf(1), isEnding: false })
  group.getWorkerById(1).send('waits')
  const kept = group.getWorkerById(0)
  mesh.use({ rows: rowsOf(-1), isEnding: false })
  for (const id of [0, 1, 2])
    assert.throws(
      () => group.getWorkerById(id),
      (error: UsageError) => error.code === 'ERR_UNKNOWN_WORKER',
    )
  mesh.use({ rows: rowsOf(2), isEnding: false })
  assert.is(group.getWorkerById(0), kept)
  for (const id of [1, 2]) assert.is(group.getWorkerById(id).id, id)
  close()
})

test.run()
