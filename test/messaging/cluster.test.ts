// A Cluster: two servers of ours and a real NATS. By name, by subject, with other programs, and without NATS for a while.

import { execFileSync } from 'node:child_process'
import { cpSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { connect } from '@nats-io/transport-node'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { messageOf, ProtocolError } from '../../src/errors.ts'
import { Cluster } from '../../src/messaging/nats/cluster.ts'
import { decode, encode } from '../../src/messaging/nats/json.ts'
import { settingsOf } from '../../src/messaging/nats/options.ts'
import { drive, driveToThrow } from '../support/driven.ts'
import { longTest } from '../support/length.ts'
import { inCluster, type NatsServer, startInCluster, startNats, startUnconnected, withNats } from '../support/nats.ts'
import { Client, inSandbox, type Sandbox, workersOf } from '../support/server.ts'
import { until } from '../support/until.ts'
import { root } from '../tooling/support.ts'

const handlers = `
  const got = state.got = []
  const tasks = new Worker({ name: 'ta.s*k', count: 2 })
  tasks.onMessage = async (from, message, call) => {
    const { ask, value } = Object(message)
    if (ask === 'got') return got.splice(0)
    if (ask === 'who') return [cluster.server, tasks.id, from.server, from.group, from.id, call.isRequest]
    if (ask === 'echo') return value
    if (ask === 'throw') throw Object.assign(new RangeError('on purpose: é'), { code: 'E_PURPOSE' })
    if (ask === 'stream') return (async function* () { yield 1 })()
    if (ask === 'function') return () => 1
    if (ask === 'left') return call.remainingMs
    if (ask === 'wait') {
      await new Promise((resolve) => call.signal.addEventListener('abort', resolve))
      got.push('aborted')
      return Timer.sleep(1) // the sender's time is over at about the same moment: no answer must come before
    }
    if (ask === 'back') return void from.send({ text: 'back', by: tasks.id })
    got.push(Buffer.isBuffer(message) ? message.toJSON() : (message ?? null))
  }
  driver.onWorkerMessage = (from, message) => void got.push([from.server, from.group, from.id, message])
  cluster.subscribe('orders.>', (message, { subject, from, call }) => void got.push([subject, message ?? null, from.server, call.isRequest]))
  cluster.subscribe('jobs', (message) => void got.push(message), { queue: 'workers' })
  cluster.subscribe('price', (message) => (message === 'apple' ? { of: message, at: cluster.server } : undefined), { queue: 'shop' })
  cluster.subscribe('broken', () => { throw new TypeError('on purpose') })
`
/** Workers of one such server. */
const WORKERS = 3

/** Runs `use` with two servers, `a` and `b`, and the ports of their drivers. */
async function withTwo(
  use: (ports: { a: number; b: number }, nats: NatsServer, boxes: readonly Sandbox[]) => unknown,
): Promise<void> {
  await inSandbox((boxA) =>
    inSandbox((boxB) =>
      withNats(boxA, async (nats) => {
        const a = await startInCluster(boxA, inCluster(nats.url, 'a', handlers, 'sendTimeoutMs: 3000'), WORKERS)
        const b = await startInCluster(boxB, inCluster(nats.url, 'b', handlers), WORKERS)
        try {
          await use({ a, b }, nats, [boxA, boxB])
        } finally {
          await Promise.all([boxA.stop(), boxB.stop()])
        }
      }),
    ),
  )
}

const askAll = `
  const all = []
  for (const server of ['a', 'b']) for (const id of [0, 1]) all.push(await state.cluster.group('ta.s*k').worker(id, server).request({ ask: 'got' }))
  return all`

test('workers of two servers reach each other by name: one, any, all; values and errors arrive', () =>
  withTwo(async ({ a, b }) => {
    const run = <T>(code: string) => drive<T>(a, code)
    const ref = (id: number, server: string) => `state.cluster.group('ta.s*k').worker(${id}, '${server}')`
    for (const server of ['a', 'b'])
      for (const id of [0, 1])
        assert.equal(await run(`return ${ref(id, server)}.request({ ask: 'who' })`), [
          server,
          id,
          'a',
          'driver',
          0,
          true,
        ])
    const anyOf = await run<[string, number][]>(
      `return Promise.all(Array.from({ length: 60 }, () => state.cluster.group('ta.s*k').any().request({ ask: 'who' })))`,
    )
    assert.is(new Set(anyOf.map(([server, id]) => `${server}${id}`)).size, 4)

    // Values, both ways.
    assert.equal(
      await run(`
        const { isDeepStrictEqual } = await import('node:util')
        const values = ['', 'h\\u00e4 \\ud83d\\ude00', '\\ud800', 'x'.repeat(70000), 0, -1.5, true, null, undefined, [], {}, { a: { b: [1, null] } }, Buffer.from([0, 255])]
        const bad = []
        for (const value of values) {
          const [message, wanted] = value === undefined || Buffer.isBuffer(value) ? [value, value] : [{ ask: 'echo', value }, value]
          const back = message === undefined || Buffer.isBuffer(message) ? (${ref(1, 'b')}.send(message), value) : await ${ref(1, 'b')}.request(message)
          if (!isDeepStrictEqual(back, wanted)) bad.push(value)
        }
        return bad`),
      [],
    )
    const sent: unknown[] = []
    await until(async () => sent.push(...((await run<unknown[][]>(askAll))[3] ?? [])) === 2)
    assert.equal(sent, [null, { type: 'Buffer', data: [0, 255] }])

    // Broadcast: once each. From a worker back to the sender.
    assert.is(await run(`return state.cluster.group('ta.s*k').broadcast({ n: 1 })`), true)
    await until(
      async () =>
        (await run(
          `return (state.all = [...(state.all ?? []), ...(await (async () => { ${askAll} })()).flat()]).length`,
        )) === 4,
    )
    assert.equal(await run(`return state.all`), Array(4).fill({ n: 1 }))
    await run(`${ref(1, 'b')}.send({ ask: 'back' })`)
    assert.equal(await until(async () => (await run<unknown[]>(`return state.got`)).at(-1)), [
      'b',
      'ta.s*k',
      1,
      { text: 'back', by: 1 },
    ])
    const pending = `return ${ref(1, 'b')}.pendingMessages + state.cluster.group('ta.s*k').any().pendingMessages`
    await until(async () => (await run(pending)) === 0) // the confirmation comes behind what the worker has sent

    // Errors.
    const thrown = (code: string) => driveToThrow(a, code)
    assert.equal(await thrown(`return ${ref(0, 'b')}.request({ ask: 'throw' })`), {
      error: 'RangeError',
      code: 'E_PURPOSE',
      message: 'on purpose: é',
      may: true,
    })
    for (const ask of ['stream', 'function'])
      assert.is((await thrown(`return ${ref(0, 'b')}.request({ ask: '${ask}' })`)).code, 'ERR_CANNOT_CLONE')
    for (const [place, code] of [
      [ref(2, 'b'), 'ERR_NO_RESPONDERS'],
      [ref(0, 'c'), 'ERR_NO_RESPONDERS'],
      [`state.cluster.group('none').any()`, 'ERR_NO_RESPONDERS'],
    ] as const) {
      const { code: found, may } = await thrown(`return ${place}.request(1)`)
      assert.equal([found, may], [code, false])
    }
    for (const [code, message] of [
      ['ERR_CANNOT_CLONE', `{ when: new Date() }`],
      ['ERR_CANNOT_CLONE', `[1, undefined]`],
      ['ERR_CANNOT_CLONE', `(() => { const one = {}; one.one = one; return one })()`],
      ['ERR_MESSAGE_TOO_LARGE', `'x'.repeat(1048576)`],
    ])
      for (const verb of ['send', 'request'])
        assert.is((await thrown(`return ${ref(0, 'b')}.${verb}(${message})`)).code, code)
    assert.match(
      (await thrown(`${ref(0, 'b')}.send({ a: [{ when: new Date() }] })`)).message,
      /\.a\[0\]\.when is a Date/,
    )
    assert.is((await thrown(`return state.cluster.group('x').worker(-1, 'b')`)).code, 'ERR_UNKNOWN_WORKER')
    assert.match((await thrown(`return state.cluster.group('x').worker('1', 'b')`)).message, /no worker '1': ids are 0/)
    assert.match((await thrown(`return state.cluster.group('x').worker(0)`)).message, /which server|on which/)

    // Time: it travels, it ends the request at both ends.
    const left = await run<number>(`return ${ref(0, 'b')}.request({ ask: 'left' }, { timeoutMs: 5000 })`)
    assert.ok(left > 0 && left <= 5000, `${left}`)
    const late = await thrown(`return ${ref(0, 'b')}.request({ ask: 'wait' }, { timeoutMs: 100 })`)
    assert.equal([late.code, late.may], ['ERR_REQUEST_TIMEOUT', true])
    await until(async () => (await run<unknown[][]>(askAll))[2]?.includes('aborted'))
    const aborted = await thrown(
      `const aborter = new AbortController(); setImmediate(() => aborter.abort(new RangeError('enough'))); return ${ref(0, 'b')}.request({ ask: 'wait' }, { timeoutMs: 500, signal: aborter.signal })`,
    )
    assert.is(aborted.message, 'enough')
    assert.equal(await drive(b, `return state.failed`), [])
    await run(`${ref(9, 'b')}.send('lost')`)
    await until(async () => (await run<unknown[]>(`return state.failed`)).length === 1)
    assert.equal(await run(`return state.failed`), [['ERR_NO_RESPONDERS', false, 'lost', 'worker ta.s*k:9 on b']])
  }))

test('subjects are those of NATS: other programs publish, subscribe, ask and answer', () =>
  withTwo(async ({ a, b }, nats) => {
    const other = await connect({ servers: nats.url })
    try {
      const run = <T>(code: string) => drive<T>(a, code)
      const everywhere = async () => [
        await run<unknown[]>(`return state.got.splice(0)`),
        await drive<unknown[]>(b, `return state.got.splice(0)`),
        ...(await run<unknown[][]>(askAll)),
      ]
      const collected: unknown[][] = Array.from({ length: 6 }, () => [])
      const collect = async (count: number) => {
        for (const [at, list] of (await everywhere()).entries()) collected[at]?.push(...list)
        return collected.flat().length >= count
      }
      const take = async (count: number) => {
        await until(() => collect(count))
        return collected.map((list) => list.splice(0))
      }

      assert.is(await run(`return state.cluster.publish('orders.new.eu', { id: 7 })`), true)
      assert.equal(await take(6), Array(6).fill([['orders.new.eu', { id: 7 }, 'a', false]]))
      await run(`for (let n = 0; n < 40; n++) state.cluster.publish('jobs', n)`)
      const jobs = (await take(40)).flat() as number[]
      assert.equal(
        jobs.sort((one, two) => one - two),
        Array.from({ length: 40 }, (_, n) => n),
      )
      assert.is((await run<{ of: string }>(`return state.cluster.request('price', 'apple')`)).of, 'apple')
      assert.is((await driveToThrow(a, `return state.cluster.request('nobody', 1)`)).code, 'ERR_NO_RESPONDERS')
      assert.is(
        (await driveToThrow(a, `return state.cluster.request('price', 'pear', { timeoutMs: 100 })`)).code,
        'ERR_REQUEST_TIMEOUT',
      )
      assert.equal(await driveToThrow(a, `return state.cluster.request('broken', 1)`), {
        error: 'TypeError',
        code: '',
        message: 'on purpose',
        may: true,
      })

      // Another program's messages.
      other.publish('orders.x', JSON.stringify({ from: 'outside' }))
      assert.equal(await take(6), Array(6).fill([['orders.x', { from: 'outside' }, '', false]]))
      other.publish('orders.x', '{no JSON')
      other.publish('orders.y')
      assert.equal(await take(6), Array(6).fill([['orders.y', null, '', false]]))
      const price = await other.request('price', JSON.stringify('apple'), { timeout: 5000 })
      assert.is((price.json() as { of: string }).of, 'apple')
      const refused = await other.request('price', 'apple', { timeout: 5000 })
      assert.match(refused.headers?.get('Nats-Service-Error') ?? '', /not JSON/)
      const seen: unknown[] = []
      other.subscribe('events', { callback: (_error, message) => void seen.push(message.json()) })
      other.subscribe('sum', {
        callback: (_error, message) => {
          const [one, two] = message.json() as [number, number]
          message.respond(JSON.stringify(one + two))
        },
      })
      await other.flush()
      await run(`state.cluster.publish('events', [1, 'two'])`)
      assert.equal(await until(() => seen[0]), [1, 'two'])
      assert.is(await run(`return state.cluster.request('sum', [1, 2])`), 3)

      // A subscription that is made later, and ends.
      await run(
        `state.later = []; state.sub = state.cluster.subscribe('later', (message) => state.later.push(message)); await state.sub.ready`,
      )
      other.publish('later', '1')
      await until(async () => (await run<unknown[]>(`return state.later`)).length === 1)
      await run(`state.sub.unsubscribe(); state.sub.unsubscribe()`)
      other.publish('later', '2')
      assert.is((await driveToThrow(a, `return state.cluster.request('later', 3)`)).code, 'ERR_NO_RESPONDERS')
      assert.equal(await run(`return state.later`), [1])
      for (const bad of ['', 'a..b', 'a b', '>.a'])
        assert.is((await driveToThrow(a, `state.cluster.subscribe('${bad}', () => 1)`)).code, 'ERR_BAD_SUBJECT')
      assert.is((await driveToThrow(a, `state.cluster.publish('a.*', 1)`)).code, 'ERR_BAD_SUBJECT')
    } finally {
      await other.close()
    }
  }))

test('without NATS the server starts, and messages wait in order; what was under way when it ended is told', () =>
  inSandbox(async (box) => {
    const nats = await startNats(box)
    await nats.kill()
    const app = inCluster(nats.url, 'a', handlers, 'waitMs: 60000, sendTimeoutMs: 60000')
    const port = await startUnconnected(box, app)
    const run = <T>(code: string) => drive<T>(port, code)
    await run(
      `for (let n = 0; n < 100; n++) state.cluster.publish('orders.n', n); state.first = state.cluster.group('ta.s*k').worker(1, 'a').request({ ask: 'who' })`,
    )
    assert.is(await run(`return state.cluster.isConnected`), false)
    assert.match(box.log(), /cluster shop: no connection to NATS: .*ECONNREFUSED|connection refused/)
    const grownMB = await run<number>(`
      ;(await import('node:v8')).setFlagsFromString('--expose-gc')
      const gc = (await import('node:vm')).runInNewContext('gc')
      const used = () => (gc(), process.memoryUsage().heapUsed / 1e6)
      const before = used()
      for (let n = 0; n < 20_000; n++) state.cluster.subscribe('comes.and.goes', () => undefined).unsubscribe()
      await new Promise(setImmediate)
      return used() - before`)
    assert.ok(grownMB < 4, `subscriptions that came and went have left ${grownMB.toFixed(1)} MB`)
    await nats.restart()
    await until(async () => (await run<unknown[]>(`return state.got`)).length === 100, 20_000)
    assert.equal(
      (await run<[string, number][]>(`return state.got.splice(0)`)).map(([, n]) => n),
      Array.from({ length: 100 }, (_, n) => n),
    )
    // Who comes first after a start is chance: the worker may not have been there yet, which its sender is told.
    assert.ok(
      ['ERR_NO_RESPONDERS', null].includes(await run(`return state.first.then(() => undefined, ({ code }) => code)`)),
    )
    await until(
      async () =>
        (await run(
          `return state.cluster.group('ta.s*k').worker(0, 'a').request({ ask: 'left' }).then(() => true, () => false)`,
        )) === true,
    )

    // A crash of NATS: what was sent and not answered may have been handled, what comes next waits.
    await run(
      `state.under = state.cluster.group('ta.s*k').worker(0, 'a').request({ ask: 'wait' }, { timeoutMs: 60000 }).catch(({ code, mayHaveBeenHandled }) => [code, mayHaveBeenHandled])`,
    )
    await nats.kill()
    assert.equal(await run(`return state.under`), ['ERR_PEER_LOST', true])
    await until(async () => (await run(`return state.cluster.isConnected`)) === false)
    await run(`state.cluster.publish('orders.again', 'after')`)
    await nats.restart()
    assert.equal(await until(async () => (await run<unknown[]>(`return state.got`))[0], 20_000), [
      'orders.again',
      'after',
      'a',
      false,
    ])
    await until(
      async () =>
        (await run(
          `return state.cluster.group('ta.s*k').worker(0, 'a').request({ ask: 'left' }).then(() => true, () => false)`,
        )) === true,
    )
    assert.equal(await run(`return state.failed`), [])
    await box.stop()
    await nats.kill()
  }))

longTest('what waits longer than waitMs fails as not handled; limits are kept, and their end is told', () =>
  inSandbox(async (box) => {
    const nats = await startNats(box)
    await nats.kill()
    const app = inCluster(nats.url, 'a', handlers, 'waitMs: 200, maxPendingMessages: 10')
    const port = await startUnconnected(box, app)
    const run = <T>(code: string) => drive<T>(port, code)
    assert.equal(await run(`return Array.from({ length: 12 }, (_, n) => state.cluster.publish('orders.n', n))`), [
      ...Array(9).fill(true),
      false,
      false,
      false,
    ])
    await until(async () => (await run<unknown[]>(`return state.failed`)).length === 12)
    assert.equal(await run(`return state.failed`), [
      ...[10, 11].map((n) => ['ERR_QUEUE_FULL', false, n, 'orders.n']),
      ...Array.from({ length: 10 }, (_, n) => ['ERR_PEER_LOST', false, n, 'orders.n']),
    ])
    assert.is(await run(`return state.drained`), 1)
    const { code, may } = await driveToThrow(port, `return state.cluster.request('price', 'apple')`)
    assert.equal([code, may], ['ERR_PEER_LOST', false])
    await box.stop()
  }),
)

longTest('a reload under messages: each is handled once, in order, or its sender is told', () =>
  withTwo(async ({ a, b }, _nats, [, boxB]) => {
    const run = <T>(code: string) => drive<T>(a, code)
    await run(`
      state.sent = 0
      state.answers = []
      state.timer = setInterval(() => {
        const n = state.sent++
        state.cluster.group('ta.s*k').worker(n % 2, 'b').request({ ask: 'echo', value: n }).then((value) => state.answers.push(value), (error) => state.answers.push([n, error.code, error.mayHaveBeenHandled]))
      }, 1)`)
    const before = workersOf((await boxB?.status()) as never).map(({ pid }) => pid)
    await boxB?.operate({ command: 'reload' } as never)
    assert.ok(workersOf((await boxB?.status()) as never).every(({ pid }) => !before.includes(pid)))
    await run(`clearInterval(state.timer)`)
    await until(async () => (await run(`return state.answers.length === state.sent`)) === true)
    const answers = await run<unknown[]>(`return state.answers`)
    assert.ok(answers.length > 20, `${answers.length}`)
    assert.equal(
      answers.filter((one) => Array.isArray(one)),
      [],
    )
    assert.equal(await drive(b, `return state.failed`), [])
  }),
)

test('a server that stops has published all it was told to', () =>
  inSandbox((box) =>
    withNats(box, async (nats) => {
      const other = await connect({ servers: nats.url })
      const seen: number[] = []
      other.subscribe('last.words', { callback: (_error, message) => void seen.push(message.json() as number) })
      await other.flush()
      // The last one when a connection is closed by force, since its handler does not end.
      const before = `
        Worker.stopTimeout = 0.3
        driver.onWorkerStop = () => { for (let n = 0; n < 2000; n++) cluster.publish('last.words', n) }
        driver.onClose = () => { if (driver.signal.aborted) cluster.publish('last.words', 2000) }`
      const port = await startInCluster(box, inCluster(nats.url, 'a', before), 1)
      const client = await Client.connect(port)
      client.send(JSON.stringify(`state.hasBegun = true; await new Promise(() => undefined)`))
      await until(() => drive(port, `return state.hasBegun`))
      await box.stop()
      await until(() => seen.length === 2001)
      assert.ok(seen.every((n, at) => n === at))
      await other.close()
    }),
  ))

longTest('workers killed and NATS killed: each message is handled, or its sender is told', () =>
  withTwo(async ({ a }, nats, [, boxB]) => {
    const run = <T>(code: string) => drive<T>(a, code)
    // A worker that dies with a message says nothing: the request must end by itself.
    const there = `return state.cluster.group('ta.s*k').worker(1, 'b').request({ ask: 'left' }, { timeoutMs: 1000 })`
    await run(`
      state.sent = 0
      state.timer = setInterval(() => {
        for (let k = 0; k < 5; k++) state.cluster.group('ta.s*k').worker(1, 'b').send(state.sent++)
      }, 2)`)
    const handled = new Set<number>()
    const told: [string, boolean, number][] = []
    const collect = async () => {
      for (const n of await run<number[]>(
        `return state.cluster.group('ta.s*k').worker(1, 'b').request({ ask: 'got' })`,
      )) {
        assert.not.ok(handled.has(n), `${n} came twice`)
        handled.add(n)
      }
      told.push(...(await run<[string, boolean, number][]>(`return state.failed.splice(0)`)))
    }
    await until(async () => (await run<number>(`return state.sent`)) > 500)
    await collect()
    await nats.kill()
    await nats.restart()
    await until(async () => (await run(`return state.cluster.isConnected`)) === true)
    await until(async () => (await run(`${there}.then(() => true, () => false)`)) === true)
    await collect()
    const victim = (await boxB?.status())?.groups.find(({ name }) => name === 'ta.s*k')?.workers[1]
    const shown = Math.max(...handled)
    process.kill(victim?.pid as number, 'SIGKILL') // what it has handled and not shown is lost with it: those are not told
    const lostWithIt = await run<number>(`return state.sent`)
    await until(async () => (await run(`${there}.then(() => true, () => false)`)) === true)
    await run(`clearInterval(state.timer)`)
    await until(
      async () => (await run(`return state.cluster.group('ta.s*k').worker(1, 'b').pendingMessages`)) === 0,
      20_000,
    )
    await collect()
    const sent = await run<number>(`return state.sent`)
    const known = new Set([...handled, ...told.map(([, , n]) => n)])
    const missing = Array.from({ length: sent }, (_, n) => n).filter((n) => !known.has(n))
    assert.ok(
      missing.every((n) => n < lostWithIt),
      `${missing.slice(-5)} of ${sent}, killed at ${lostWithIt}`,
    )
    assert.ok(
      missing.every((n) => n > shown),
      `${missing.slice(0, 5)}, though ${shown} had been shown before`,
    )
    for (const [code, may, n] of told) if (!may) assert.not.ok(handled.has(n), `${n} was handled and told as ${code}`)
    assert.ok(told.length > 0)
  }),
)

longTest('what NATS does not permit is told, and a wrong password is tried again', () =>
  inSandbox((box) =>
    withNats(
      box,
      async (nats) => {
        const app = (password: string) =>
          inCluster('unused', 'a', '').replace(
            `nats: 'unused'`,
            `nats: { servers: '${nats.url}', user: 'shop', pass: '${password}' }`,
          )
        const port = await startInCluster(box, app('right'), 1)
        const run = <T>(code: string) => drive<T>(port, code)
        await run(`state.cluster.publish('secret', 1); state.cluster.publish('open', 2)`)
        await until(async () => (await run<unknown[]>(`return state.failed`)).length === 1)
        assert.equal(await run(`return state.failed`), [['ERR_NATS_PERMISSION', false, 1, 'secret']])
        assert.is((await driveToThrow(port, `return state.cluster.request('secret', 1)`)).code, 'ERR_NATS_PERMISSION')
        await box.stop()
        await box.start(box.file('app.js', app('wrong')))
        await until(() => /no connection to NATS: .*Authorization Violation.*; it is tried again/i.test(box.log()))
        await box.stop()
      },
      `authorization { users: [{ user: shop, password: right, permissions: { publish: { deny: ["secret"] } } }] }`,
    ),
  ),
)

test("credentials in NATS's address are used, as NATS's own tools do", () =>
  inSandbox((box) =>
    withNats(
      box,
      async (nats) => {
        const app = inCluster(nats.url.replace('nats://', 'nats://shop:r%40ht:%2F@'), 'a', '')
        const port = await startInCluster(box, app, 1)
        await drive(port, `state.cluster.publish('open', 2)`)
        assert.is(await drive(port, `return state.cluster.isConnected`), true)
        await box.stop()
      },
      `authorization { users: [{ user: shop, password: "r@ht:/" }] }`,
    ),
  ))

/** Hidden from whoever lists its properties. */
function withToJson(value: object): object {
  return Object.defineProperty(value, 'toJSON', { value: () => 'another' })
}

function detached(): Uint8Array {
  const bytes = new Uint8Array(4)
  structuredClone(bytes, { transfer: [bytes.buffer] })
  return bytes
}

function nested(depth: number): unknown {
  let value: unknown = 1
  for (let n = 0; n < depth; n++) value = { value }
  return value
}

test('messages are JSON or bytes, exactly', () => {
  for (const value of [null, 'x', '', 1.5, true, [], {}, { a: [{ b: 'ü' }] }, '\ud800', undefined]) {
    const { payload, isBytes } = encode(value)
    assert.equal(decode(payload, isBytes), value)
  }
  assert.equal(encode({ a: undefined, b: 1 }).payload.toString(), '{"b":1}')
  const bytes = new Uint8Array([1, 2])
  const { payload, isBytes } = encode(bytes)
  bytes[0] = 9
  assert.equal(decode(payload, isBytes), Buffer.from([1, 2]))
  const deep = nested(100_000)
  for (const [value, reason] of [
    [Number.NaN, /it is NaN/],
    [1n, /it is a bigint/],
    [{ a: { b: () => 1 } }, /\.a\.b is a function/],
    [{ a: new Map() }, /\.a is a Map/],
    [[[undefined]], /\[0\]\[0\] is undefined/],
    [new (class Order {})(), /it is a Order/],
    [Symbol('x'), /it is a symbol/],
    [new Uint16Array(1), /it is a Uint16Array/],
    [{ a: -0 }, /\.a is -0/],
    [JSON.parse('{"a":{"__proto__":1}}'), /\.a\.__proto__ would be left out/],
    [deep, /nested too deeply/],
    ['ab12'.match(/(?<letters>[a-z]+)/), /it has properties besides its items/],
    [{ a: [Object.assign([1], { total: 1 })] }, /\.a\[0\] has properties besides/],
    [{ a: withToJson({}) }, /\.a has a toJSON\(\)/],
    [[withToJson([])], /\[0\] has a toJSON\(\)/],
    [detached(), /it is detached/],
  ] as const)
    assert.throws(
      () => encode(value),
      (error: Error & { code?: string }) => error.code === 'ERR_CANNOT_CLONE' && reason.test(error.message),
    )
  for (const text of ['{', 'undefined', '"\\ud8', 'NaN'])
    assert.throws(
      () => decode(Buffer.from(text), false),
      (error: unknown) => error instanceof ProtocolError,
    )
  for (let depth = 1000; depth <= 20_000; depth += 500) {
    try {
      encode(nested(depth)) // however deep it may be, nothing else is thrown
    } catch (error) {
      assert.is((error as { code?: string }).code, 'ERR_CANNOT_CLONE')
    }
  }
  // No message sets a prototype.
  for (const text of [
    '{"__proto__":{"admin":true},"a":1}',
    '{"\\u005f_proto__":{"admin":true},"a":1}',
    '{"__\\u0070roto__":{"admin":true},"a":1}',
  ]) {
    const copy = Object.assign({}, decode(Buffer.from(text), false)) as { admin?: boolean }
    assert.equal(copy, { a: 1 })
    assert.is(copy.admin, undefined)
  }
  assert.equal(decode(Buffer.from('{"\\u0061":"__proto__"}'), false), { a: '__proto__' })
})

test("credentials are taken out of NATS's addresses", () => {
  const clientOf = (nats: string | readonly string[] | object) => settingsOf('x', { nats }).nats
  for (const [nats, client] of [
    ['nats://h:1', { servers: 'nats://h:1' }],
    ['nats://u:p@h:1', { servers: ['nats://h:1'], user: 'u', pass: 'p' }],
    ['u:p@h', { servers: ['h'], user: 'u', pass: 'p' }],
    ['tls://t%40ken@[::1]:1', { servers: ['tls://[::1]:1'], token: 't@ken' }],
    ['nats://u:a@b:c@h', { servers: ['nats://h'], user: 'u', pass: 'a@b:c' }],
    ['nats://u:@h', { servers: ['nats://h'], user: 'u', pass: '' }],
    [['nats://u:p@h', 'u:p@i'], { servers: ['nats://h', 'i'], user: 'u', pass: 'p' }],
    [
      { servers: ['u:p@h'], noRandomize: true },
      { servers: ['h'], user: 'u', pass: 'p', noRandomize: true },
    ],
    [
      { servers: 'h', user: 'u' },
      { servers: 'h', user: 'u' },
    ],
    [{ port: 1 }, { port: 1 }],
  ] as const)
    assert.equal(clientOf(nats), client)
})

test('wrong options, and a missing client, are errors where the Cluster is made', () => {
  const thrown = (...args: readonly unknown[]) => {
    try {
      new Cluster(...(args as [string]))
      return 'nothing'
    } catch (error) {
      return `${(error as { code?: string }).code} ${messageOf(error)}`
    }
  }
  assert.match(thrown(''), /^ERR_BAD_OPTION the name of a Cluster/)
  assert.match(thrown(5), /^ERR_BAD_OPTION/)
  assert.match(thrown('x', { nat: '' }), /^ERR_UNKNOWN_OPTION a Cluster has no option 'nat'/)
  assert.match(thrown('x', { nats: 5 }), /^ERR_BAD_OPTION .*nats:\/\/10\.0\.0\.5:4222/)
  assert.match(thrown('x', { server: '' }), /^ERR_BAD_OPTION a Cluster: server/)
  assert.match(thrown('x', { waitMs: -1 }), /^ERR_BAD_OPTION a Cluster: waitMs/)
  assert.match(thrown('x', { maxPendingMessages: 0 }), /^ERR_BAD_OPTION/)
  for (const nats of ['', [], [''], null]) assert.match(thrown('x', { nats }), /^ERR_BAD_OPTION a Cluster: nats/)
  for (const [nats, reason] of [
    [['nats://u:secret@h', 'nats://v:secret@h'], /addresses have different credentials/],
    [['nats://u:secret@h', 'h'], /addresses have different credentials/],
    [{ servers: 'nats://u:secret@h', user: 'u' }, /beside it/],
    ['nats://u:%zz-secret@h', /percent-encoded/],
  ] as const) {
    const said = thrown('x', { nats })
    assert.match(said, /^ERR_BAD_OPTION a Cluster: nats: /)
    assert.match(said, reason)
    assert.not.match(said, /secret/)
  }
  for (const name of ['x'.repeat(513), 'ü'.repeat(100)]) {
    assert.match(thrown(name), /^ERR_BAD_OPTION the name of a Cluster .*at most 512 bytes/)
    assert.match(thrown('x', { server: name }), /^ERR_BAD_OPTION a Cluster: server/)
  }
  const cluster = new Cluster('x')
  const late = () => cluster.publish('a', 1)
  assert.throws(late, (error: { code?: string }) => error.code === 'ERR_NOT_A_WORKER')
  assert.throws(
    () => cluster.group(''),
    (error: { code?: string }) => error.code === 'ERR_BAD_OPTION',
  )
  assert.is(cluster.isConnected, false)

  const folder = mkdtempSync(join(tmpdir(), 'mr-nats-'))
  try {
    cpSync(join(root, 'dist'), join(folder, 'dist'), { recursive: true })
    const index = pathToFileURL(join(folder, 'dist/index.js')).href
    const program = `import { Cluster } from '${index}'; try { new Cluster('x') } catch ({ code, message }) { console.log(code, message) }`
    const said = execFileSync(process.execPath, ['--input-type=module', '-e', program], {
      encoding: 'utf8',
      cwd: folder,
    })
    assert.match(said, /^ERR_NO_NATS .*npm install @nats-io\/transport-node/)
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
})

test.run()
