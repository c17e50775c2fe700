// `stop`: what is in flight gets its answer, what cannot end is killed after Worker.stopTimeout, and then nothing is left.

import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { Followed } from '../support/events.ts'
import { caseTest, longTest } from '../support/length.ts'
import { Client, echo, inSandbox, lives, portOf, succeeded, workersOf } from '../support/server.ts'
import { until } from '../support/until.ts'

test('a handler in flight answers before its connection closes, and a new connection is refused', async () => {
  await inSandbox(async (box) => {
    const slow = `
      let stop
      const stopped = new Promise((resolve) => { stop = resolve })
      worker.onWorkerStop = () => { setTimeout(stop, 50) }
      worker.onMessage = async (connection, line) => { await stopped; connection.send(line) }`
    const status = await box.start(box.file('app.js', echo(2, slow)))
    const clients = await Promise.all([1, 2, 3, 4].map(() => Client.connect(portOf(status))))
    for (const client of clients) client.send('kept')
    await until(async () => (await box.status()).totals.messagesIn === 4)
    const stopping = box.stop()
    for (const client of clients) {
      assert.is(await client.line(), 'kept')
      await until(() => client.isClosed)
    }
    await stopping
    assert.is(await Client.connect(portOf(status)).catch(({ code }) => code), 'ECONNREFUSED')
  })
})

test('idle connections are closed at once', async () => {
  await inSandbox(async (box) => {
    const status = await box.start(box.file('app.js', echo(2, 'Worker.stopTimeout = 60')))
    const clients = await Promise.all([1, 2, 3, 4].map(() => Client.connect(portOf(status))))
    for (const client of clients) await client.ask('x')
    await box.stop()
    for (const client of clients) await until(() => client.isClosed)
  })
})

for (const [what, hang] of [
  ['spins', 'for (;;);'],
  ['is stopped by SIGSTOP', `process.kill(process.pid, 'SIGSTOP')`],
  ['never settles', 'return new Promise(() => {})'],
] as const) {
  caseTest(what === 'spins')(`a worker whose handler ${what} is gone after Worker.stopTimeout`, async () => {
    await inSandbox(async (box) => {
      const more = `Worker.stopTimeout = 0.2; worker.onMessage = () => { console.error('hangs'); ${hang} }`
      const status = await box.start(box.file('app.js', echo(2, more)))
      const client = await Client.connect(portOf(status))
      client.send('x')
      await until(() => box.log().includes('hangs'))
      const started = performance.now()
      await box.stop()
      assert.ok(performance.now() - started >= 200)
      assert.not(lives(status.pid))
      await until(() => client.isClosed)
    })
  })
}

test('an onWorkerStop that throws or never settles does not hold the end up', async () => {
  await inSandbox(async (box) => {
    const more = `Worker.stopTimeout = 0.2
      worker.onWorkerStop = () => { if (worker.id === 0) throw new Error('planted'); return new Promise(() => {}) }`
    await box.start(box.file('app.js', echo(2, more)))
    await box.stop()
    assert.match(box.log(), /\[echo:0\] onWorkerStop: Error: planted/)
  })
})

test('stop during a start ends it, and the start says so', async () => {
  await inSandbox(async (box) => {
    const more = `worker.onWorkerStart = () => { console.error('booting'); return new Promise(() => {}) }`
    const starting = box.begin('start', '-d', box.file('app.js', echo(2, more)))
    await until(() => box.log().match(/booting/g)?.length === 2, 20_000)
    await box.stop()
    const { code, stdout, stderr } = await starting.ended
    assert.is(code, 1)
    assert.is(stdout, '')
    assert.match(stderr, /^millrace: stopped before it was up\nnext: see millrace logs \S+app\.js\n$/)
  })
})

longTest('several stops at once: one at least stopped it, and none fails', async () => {
  await inSandbox(async (box) => {
    const { pid } = await box.start(box.file('app.js', echo(2)))
    const outcomes = await Promise.all([1, 2, 3, 4].map(() => box.command('stop')))
    const codes = outcomes.map(({ code }) => code)
    assert.ok(codes.includes(0), `${codes}`)
    // One that came when the server was gone says that nothing runs.
    for (const { code, stdout } of outcomes) assert.ok(code === 3 || stdout === `stopped, pid ${pid}\n`, `${codes}`)
  })
})

test('a worker that was just killed does not come back during a stop', async () => {
  await inSandbox(async (box) => {
    const status = await box.start(box.file('app.js', echo(4)))
    const followed = await Followed.of(box)
    for (const { pid } of workersOf(status)) process.kill(pid, 'SIGKILL')
    await box.stop()
    await followed.ended
    const { words } = followed
    const stopping = words.indexOf('server stopping')
    assert.ok(stopping >= 0, `${words}`)
    assert.not(words.includes('spawn', stopping), `${words}`)
    assert.ok(words.filter((word) => word === 'exit').length >= 4, `${words}`)
  })
})

test('stop removes the file of a Unix socket', async () => {
  await inSandbox(async (box) => {
    const path = join(box.directory, 'app.sock')
    await box.start(box.file('app.js', echo(2, '', `unix://${path}`)))
    assert.ok(existsSync(path))
    await box.stop()
    assert.not(existsSync(path))
  })
})

longTest('the name of a module is enough for stop, even when its file is gone', async () => {
  await inSandbox(async (box) => {
    const module = box.file('app.js', echo(1))
    await box.start(module)
    succeeded(await box.spawn('rm', [module]).ended)
    succeeded(await box.command('stop', module))
  })
})

longTest('a server that was stopped can be started at once, on the same port', async () => {
  await inSandbox(async (box) => {
    const first = await box.start(box.file('app.js', echo(2)))
    const client = await Client.connect(portOf(first))
    await client.ask('x')
    await box.stop()
    const module = box.file('app.js', echo(2, '', `text://127.0.0.1:${portOf(first)}`))
    for (let turn = 0; turn < 3; turn++) {
      assert.is(portOf(await box.start(module)), portOf(first))
      await box.stop()
    }
    client.close()
  })
})

test.run()
