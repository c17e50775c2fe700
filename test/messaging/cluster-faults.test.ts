// A Cluster among hostile senders and failing networks: what NATS passes on from strangers, a NATS that freezes, permissions
// that change, handlers that answer with what cannot be sent.

import { writeFileSync } from 'node:fs'
import net from 'node:net'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { drive, driveToThrow } from '../support/driven.ts'
import { longTest } from '../support/length.ts'
import { inCluster, startInCluster, startNats, withNats } from '../support/nats.ts'
import { inSandbox } from '../support/server.ts'
import { until } from '../support/until.ts'

const handlers = `
  const { createReadStream, readdirSync, readlinkSync } = await import('node:fs')
  const got = state.got = []
  const tasks = new Worker({ name: 'tasks' })
  tasks.onMessage = async (from, message, call) => {
    const { ask, value } = Object(message)
    if (ask === 'echo') return value
    if (ask === 'from') return [from.server, from.group, from.id]
    if (ask === 'file') return createReadStream('/etc/hostname')
    if (ask === 'no file') return createReadStream('/nonexistent/file')
    if (ask === 'open') return readdirSync('/proc/self/fd').filter((fd) => { try { return readlinkSync('/proc/self/fd/' + fd) === '/etc/hostname' } catch { return false } }).length
    if (ask === 'huge') throw new Error('\\u0001'.repeat(2000000))
    if (ask === 'wait') await new Promise((resolve) => { state.goOn = resolve; setTimeout(resolve, value) })
    return 'done'
  }
  cluster.subscribe('orders.*', (message) => void got.push(message))
  cluster.subscribe('files', (message) => createReadStream(message), { queue: 'q' })
  cluster.subscribe('files', async (message) => createReadStream(message))
`

/** A client of NATS that writes lines as they are. */
async function rawNats(port: number): Promise<{ write(text: string): void; seen(): string; end(): void }> {
  let seen = ''
  const socket = net.connect(port, '127.0.0.1').setEncoding('latin1')
  socket.on('data', (text) => {
    seen += text
  })
  await until(() => seen.startsWith('INFO'))
  socket.write('CONNECT {"headers":true,"no_responders":true,"verbose":false}\r\n')
  return { write: (text) => void socket.write(text, 'latin1'), seen: () => seen, end: () => void socket.destroy() }
}

/** An HPUB. */
function hpub(subject: string, headers: string, payload: string, reply = ''): string {
  const head = `NATS/1.0\r\n${headers}\r\n\r\n`
  return `HPUB ${subject} ${reply} ${head.length} ${head.length + payload.length}\r\n${head}${payload}\r\n`
}

test('malformed headers cost the message they are in, and nothing else', () =>
  inSandbox((box) =>
    withNats(box, async (nats) => {
      const port = await startInCluster(box, inCluster(nats.url, 'a', handlers), 2)
      const run = <T>(code: string) => drive<T>(port, code)
      const echo = () => run(`return state.cluster.group('tasks').worker(0, 'a').request({ ask: 'echo', value: 1 })`)
      const raw = await rawNats(nats.port)
      raw.write('SUB back 1\r\n')
      const to = 'millrace.shop.to.a.tasks.0'
      for (const headers of ['Bad Key: x', 'Value: one\ntwo', ': x', 'é: 1', 'no colon'])
        for (const subject of [to, 'orders.x']) raw.write(hpub(subject, headers, '1', 'back'))
      assert.is(await echo(), 1)
      await until(() => raw.seen().includes('Nats-Service-Error'))
      await until(() => /on orders\.x: bad headers/.test(box.log()))
      // Who says of itself what nobody could be, or says it too long, has no name.
      for (const from of [
        'x',
        'a/b/0',
        'a/b/c/p',
        'a/b/-1/p',
        '%zz/b/1/p',
        `${'s'.repeat(3000)}/g/0/p`,
        'a//0/p',
        'a/b/0/',
      ])
        raw.write(hpub(to, `Millrace-From: ${from}`, '{"ask":"from"}', 'back'))
      await until(() => (raw.seen().match(/\["","",-1\]/g) ?? []).length === 8)

      // An answer with such a header fails its request, and no other.
      raw.write('SUB odd 2\r\nPING\r\n')
      await until(() => raw.seen().includes('PONG'))
      await run(
        `state.odd = state.cluster.request('odd', 1).catch(({ code, mayHaveBeenHandled }) => [code, mayHaveBeenHandled])`,
      )
      const [, inbox = ''] = await until(() => /MSG odd 2 (\S+) |HMSG odd 2 (\S+) /.exec(raw.seen())?.filter(Boolean))
      raw.write(hpub(inbox, 'Bad Key: x', '1'))
      assert.equal(await run(`return state.odd`), ['ERR_BAD_HEADER', true])
      assert.is(await echo(), 1)
      raw.end()

      // What cannot be sent as an answer: a stream, whose file is closed, if there is one; an error that is longer than a message.
      for (const file of ['file', 'no file', 'file', 'no file'])
        assert.is(
          (await driveToThrow(port, `return state.cluster.group('tasks').any().request({ ask: '${file}' })`)).code,
          'ERR_CANNOT_CLONE',
        )
      // So are those that nobody has asked for.
      for (const [ask, path] of [
        ['file', '/etc/hostname'],
        ['no file', '/nonexistent/file'],
      ])
        await run(
          `state.cluster.group('tasks').any().send({ ask: '${ask}' }); state.cluster.publish('files', '${path}')`,
        )
      await until(() => run(`return state.cluster.group('tasks').any().pendingMessages === 0`))
      await run(`return state.cluster.request('nobody', 0).catch(() => 0)`) // NATS has passed on what was published
      await until(async () => (await run(`return state.cluster.group('tasks').any().request({ ask: 'open' })`)) === 0)
      const { message } = await driveToThrow(port, `return state.cluster.group('tasks').any().request({ ask: 'huge' })`)
      assert.is(message.length, 8192)
      assert.not.match(box.log(), /uncaught/)
      await box.stop()
    }),
  ))

test('a connection that ends with publishes and requests under way holds up nothing that comes after', () =>
  inSandbox(async (box) => {
    const nats = await startNats(box)
    const port = await startInCluster(box, inCluster(nats.url, 'a', handlers, 'maxPendingMessages: 20'), 2)
    const run = <T>(code: string) => drive<T>(port, code)
    await run(
      `state.slow = state.cluster.group('tasks').any().request({ ask: 'wait', value: 300 }).catch(({ code }) => code)`,
    )
    nats.signal('SIGSTOP')
    await run(`for (let n = 0; n < 5; n++) state.cluster.publish('orders.x', n)`)
    await nats.kill()
    assert.is(await run(`return state.slow`), 'ERR_PEER_LOST')
    await until(async () => (await run<unknown[]>(`return state.failed`)).length === 5)
    await nats.restart()
    await until(async () => (await run(`return state.cluster.isConnected`)) === true)
    const ask = `return state.cluster.group('tasks').any().request({ ask: 'echo', value: 1 }).catch(() => 0)`
    await until(async () => (await run(ask)) === 1, 15_000)
    for (let n = 0; n < 50; n++) {
      assert.is(await run(`return state.cluster.publish('orders.x', 'later')`), true)
      assert.is(await run(ask), 1)
    }
    assert.is((await run<unknown[]>(`return state.failed`)).length, 5)
    // Requests that nobody waits for any more take no room, and hold up no stop.
    await nats.kill()
    await until(async () => (await run(`return state.cluster.isConnected`)) === false)
    await run(
      `await Promise.allSettled(Array.from({ length: 10 }, () => state.cluster.request('price', 1, { timeoutMs: 10 })))`,
    )
    assert.equal(
      await run(`return Array.from({ length: 19 }, (_, n) => state.cluster.publish('orders.x', n))`),
      Array(19).fill(true),
    )
    await run(`state.cluster.onSendFail = () => undefined`)
    await box.stop()
  }))

test('Workers of the same name are not reached by it, and the log says so', () =>
  inSandbox((box) =>
    withNats(box, async (nats) => {
      const twins = `for (const n of [1, 2]) new Worker({ name: 'twin' }).onMessage = () => n; new Worker({ name: 'ü'.repeat(100) }).onMessage = () => 3`
      const port = await startInCluster(box, inCluster(nats.url, 'a', twins), 4)
      await until(() => (box.log().match(/no messages come to 'twin' by name: another Worker/g) ?? []).length === 2)
      await until(() => /no messages come to 'ü+' by name: its name is too long/.test(box.log()))
      for (const ref of [`worker(0, 'a')`, 'any()'])
        assert.is(
          (await driveToThrow(port, `return state.cluster.group('twin').${ref}.request(1)`)).code,
          'ERR_NO_RESPONDERS',
        )
      assert.is((await driveToThrow(port, `return state.cluster.group('y'.repeat(600))`)).code, 'ERR_BAD_OPTION')
      await box.stop()
    }),
  ))

/** The program, as a user of NATS with rights of its own. */
function asShop(url: string): string {
  return inCluster('unused', 'a', handlers).replace(
    `nats: 'unused'`,
    `nats: { servers: '${url}', user: 'shop', pass: 'right' }`,
  )
}

test('each message on a subject that NATS does not permit is told, however many come at a time', () =>
  inSandbox((box) =>
    withNats(
      box,
      async (nats) => {
        const port = await startInCluster(box, asShop(nats.url), 2)
        const run = <T>(code: string) => drive<T>(port, code)
        const told = async (count: number) => {
          await until(async () => (await run<unknown[]>(`return state.failed`)).length >= count, 5000)
          const failed = await run<[string, boolean, number][]>(`return state.failed.splice(0)`)
          assert.equal([...new Set(failed.map(([code, may]) => `${code} ${may}`))], ['ERR_NATS_PERMISSION false'])
          assert.equal(
            failed.map(([, , n]) => n).sort((one, two) => one - two),
            Array.from({ length: count }, (_, n) => n),
          )
        }
        for (const count of [1, 3, 100, 2000]) {
          await run(
            `for (let n = 0; n < ${count}; n++) { state.cluster.publish('secret', n); state.cluster.publish('open', n) }`,
          )
          await told(count)
        }
        await run(
          `for (let n = 0; n < 50; n++) { state.cluster.publish('secret', n); await new Promise(setImmediate) }`,
        )
        await told(50)
        const asked = await run(`
          const asked = Array.from({ length: 20 }, () => state.cluster.request('secret', 1).catch(({ code }) => code))
          for (let n = 0; n < 20; n++) state.cluster.publish('secret', n)
          return [...new Set(await Promise.all(asked))]`)
        assert.equal(asked, ['ERR_NATS_PERMISSION'])
        await told(20)
        await box.stop()
      },
      `authorization { users: [{ user: shop, password: right, permissions: { publish: { deny: ["secret"] } } }] }`,
    ),
  ))

test('who listens to everything confirms and answers nothing that is for a worker', () =>
  inSandbox((box) =>
    withNats(box, async (nats) => {
      const spy = `
        state.seen = []
        cluster.subscribe('>', (message, { subject, call }) => {
          if (!/^millrace/.test(subject)) return
          state.seen.push([subject, message, call.isRequest])
          if (message === 'thrown at') throw new Error('on purpose')
          return 'not mine to answer'
        })`
      const app = inCluster(nats.url, 'a', `${handlers}${spy}`, 'sendTimeoutMs: 300')
      const port = await startInCluster(box, app, 2)
      const run = <T>(code: string) => drive<T>(port, code)
      await run(`
        state.to = state.cluster.group('tasks').worker(0, 'a')
        state.to.send({ ask: 'wait', value: 1000 })
        state.cluster.group('nobody').any().send('thrown at')`)
      await until(async () => (await run<unknown[]>(`return state.seen`)).length === 2)
      await until(async () => (await run<unknown[]>(`return state.failed`)).length === 2)
      assert.equal(
        (await run<unknown[][]>(`return state.failed`)).map(([code, may]) => [code, may]),
        Array(2).fill(['ERR_REQUEST_TIMEOUT', true]),
      )
      assert.is(await run(`return state.to.request({ ask: 'echo', value: 7 })`), 7)
      for (const message of [`'thrown at'`, `'x'`])
        assert.is(
          (
            await driveToThrow(
              port,
              `return state.cluster.group('nobody').any().request(${message}, { timeoutMs: 300 })`,
            )
          ).code,
          'ERR_REQUEST_TIMEOUT',
        )
      const seen = await run<unknown[][]>(`return state.seen`)
      assert.equal(seen[0], ['millrace.shop.to.a.tasks.0', { ask: 'wait', value: 1000 }, false])
      assert.equal([...new Set(seen.map(([, , isRequest]) => isRequest))], [false])
      await box.stop()
    }),
  ))

test('what senders say of themselves takes no memory when it is no name, or comes with much else', () =>
  inSandbox((box) =>
    withNats(box, async (nats) => {
      const port = await startInCluster(box, inCluster(nats.url, 'a', handlers), 2)
      const heap = async () =>
        drive<number>(
          port,
          `(await import('node:v8')).setFlagsFromString('--expose-gc')
          ;(await import('node:vm')).runInNewContext('gc')()
          return process.memoryUsage().heapUsed / 1e6`,
        )
      const raw = await rawNats(nats.port)
      const before = await heap()
      const much = 'x'.repeat(900_000)
      for (let n = 0; n < 30; n++) {
        raw.write(hpub('orders.x', `Millrace-From: ${n}${much}`, `${n}`))
        raw.write(hpub('orders.x', `Millrace-From: server-${n}/a-group-of-it/0\r\nMore: ${much}`, `${n}`))
      }
      await until(async () => (await drive<unknown[]>(port, `return state.got`)).length === 60)
      const grown = (await heap()) - before
      assert.ok(grown < 8, `${grown} MB`)
      raw.end()
      await box.stop()
    }),
  ))

test('what a worker has no room for is refused, or dropped and logged, and it goes on when it has room again', () =>
  inSandbox((box) =>
    withNats(box, async (nats) => {
      const slow = `
        const slow = new Worker({ name: 'slow', maxMailboxMessages: 10, maxMailboxBytes: 100_000 })
        const held = []
        slow.onMessage = (from, message) => {
          if (message === 'go') return held.splice(0).map(({ goOn, message }) => void goOn() ?? message.length)
          return new Promise((goOn) => held.push({ goOn, message }))
        }
        const job = (message) => (message === 'now' ? 'done' : new Promise((goOn) => held.push({ goOn, message })))
        slow.onWorkerStart = () => cluster.subscribe('jobs', job).ready`
      const port = await startInCluster(box, inCluster(nats.url, 'a', slow), 2)
      const run = <T>(code: string) => drive<T>(port, code)
      /** Within the server, where the mailbox has bounds of its own. */
      const goOn = () => run<number[]>(`return Worker.group('slow').any().request('go')`)
      const isRefused = async (count: number) => {
        await until(async () => (await run<unknown[]>(`return state.failed`)).length === count)
        const failed = await run<[string, boolean][]>(`return state.failed.splice(0)`)
        assert.equal([...new Set(failed.map(([code, may]) => `${code} ${may}`))], ['ERR_QUEUE_FULL false'])
      }
      await run(`state.slow = state.cluster.group('slow').any(); for (let n = 0; n < 30; n++) state.slow.send('x')`)
      await isRefused(20)
      const asked = await driveToThrow(port, `return state.slow.request('x')`)
      assert.equal([asked.code, asked.may], ['ERR_QUEUE_FULL', false])
      const other = await driveToThrow(port, `return state.cluster.request('jobs', 'now')`)
      assert.equal([other.code, other.may], ['ERR_QUEUE_FULL', true])
      await run(`state.cluster.publish('jobs', 'x')`)
      await until(() => /cluster shop: dropped, on jobs: 10 messages, \d+ bytes/.test(box.log()))
      assert.equal(await goOn(), Array(10).fill(1))
      assert.is(await run(`return state.cluster.request('jobs', 'now')`), 'done')

      await run(`for (let n = 0; n < 5; n++) state.slow.send('x'.repeat(40_000))`)
      await isRefused(2)
      assert.equal(await goOn(), Array(3).fill(40_000))
      await run(`for (let n = 0; n < 5; n++) state.cluster.publish('jobs', 'xx')`)
      const seen: number[] = []
      await until(async () => seen.push(...(await goOn())) === 5)
      assert.equal(await run(`return state.failed`), [])
      await box.stop()
    }),
  ))

longTest('what waited for NATS reaches the other servers, which connect later', () =>
  inSandbox((boxA) =>
    inSandbox((boxB) =>
      withNats(boxA, async (nats) => {
        const a = await startInCluster(boxA, inCluster(nats.url, 'a', handlers, 'waitMs: 60000'), 2)
        const b = await startInCluster(boxB, inCluster(nats.url, 'b', handlers, 'waitMs: 60000'), 2)
        for (let round = 0; round < 3; round++) {
          await nats.kill()
          await until(async () => (await drive(a, `return state.cluster.isConnected`)) === false)
          await drive(
            a,
            `
            for (let n = 0; n < 100; n++) state.cluster.publish('orders.x', n)
            state.asked = Promise.all(Array.from({ length: 100 }, (_, value) => state.cluster.group('tasks').worker(0, 'b').request({ ask: 'echo', value })))`,
          )
          await nats.restart()
          assert.equal(
            await drive(a, `return state.asked`),
            Array.from({ length: 100 }, (_, n) => n),
          )
          await until(async () => (await drive<unknown[]>(b, `return state.got`)).length === 100)
          await drive(b, `state.got.length = 0`)
        }
        await Promise.all([boxA.stop(), boxB.stop()])
      }),
    ),
  ),
)

longTest('a NATS that freezes with bytes on their way to it is given up for another one', () =>
  inSandbox((box) =>
    withNats(box, async (first) => {
      const second = await startNats(box, '', 'second.conf')
      // The first of the list is the one the client begins with.
      const options = `{ servers: ['${first.url}', '${second.url}'], noRandomize: true, pingInterval: 200 }`
      const app = inCluster('unused', 'a', handlers).replace(`nats: 'unused'`, `nats: ${options}`)
      const port = await startInCluster(box, app, 2)
      first.signal('SIGSTOP')
      await drive(port, `for (let n = 0; n < 8; n++) state.cluster.publish('orders.x', 'x'.repeat(1000000))`)
      await until(async () => (await drive<unknown[]>(port, `return state.failed`)).length === 8, 20_000)
      await until(() => box.log().includes(`127.0.0.1:${second.port}`), 20_000)
      const ask = `return state.cluster.group('tasks').any().request({ ask: 'echo', value: 1 }, { timeoutMs: 1000 }).catch(() => 0)`
      await until(async () => (await drive(port, ask)) === 1, 20_000)
      await box.stop()
      await second.kill()
    }),
  ),
)

longTest('answers that a leaving process has given arrive, however slow the way', () =>
  inSandbox((boxA) =>
    inSandbox((boxB) =>
      withNats(boxA, async (nats) => {
        const a = await startInCluster(boxA, inCluster(nats.url, 'a', handlers, 'maxPendingBytes: 1e9'), 2)
        await startInCluster(boxB, inCluster(nats.url, 'b', handlers), 2)
        await drive(
          a,
          `
          state.asked = Promise.allSettled(Array.from({ length: 100 }, () =>
            state.cluster.group('tasks').worker(0, 'b').request({ ask: 'echo', value: 'x'.repeat(900000) }, { timeoutMs: 10000 })))
          await new Promise(setImmediate)`,
        )
        await boxB.stop('-g')
        const outcomes = await drive<{ status: string; reason?: unknown }[]>(
          a,
          `return (await state.asked).map(({ status, reason }) => ({ status, reason: reason?.code }))`,
        )
        // Those that came too late found nobody; none was handled and its answer lost.
        assert.ok(
          outcomes.every(({ status, reason }) => status === 'fulfilled' || reason === 'ERR_NO_RESPONDERS'),
          JSON.stringify(outcomes.filter(({ status }) => status === 'rejected')),
        )
        await boxA.stop()
      }),
    ),
  ),
)

longTest('a permission that is taken away fails what is refused, not what is being handled', () =>
  inSandbox((box) => {
    const config = (deny: string) =>
      `authorization { users: [{ user: shop, password: right, permissions: { publish: { deny: ["${deny}"] } } }] }`
    return withNats(
      box,
      async (nats) => {
        const port = await startInCluster(box, asShop(nats.url), 2)
        const to = `state.cluster.group('tasks').worker(0, 'a')`
        await drive(port, `state.first = ${to}.request({ ask: 'wait', value: 1500 })`)
        await drive(port, `await ${to}.request({ ask: 'echo' })`)
        writeFileSync(nats.config, config('millrace.shop.to.>'))
        nats.signal('SIGHUP')
        const refused = async () =>
          (await drive<{ code?: string }>(
            port,
            `return ${to}.request({ ask: 'echo' }).catch(({ code, mayHaveBeenHandled }) => ({ code, mayHaveBeenHandled }))`,
          )) ?? {}
        assert.equal(
          await until(async () => {
            const error = await refused()
            return error.code !== undefined && error
          }),
          { code: 'ERR_NATS_PERMISSION', mayHaveBeenHandled: false },
        )
        const first = await drive(port, `return state.first.catch(({ code }) => code)`)
        assert.ok(['done', 'ERR_PEER_LOST'].includes(String(first)), `${first}`) // NATS may end the connection when it reads its file
        await box.stop()
      },
      config('nothing'),
    )
  }),
)

test.run()
