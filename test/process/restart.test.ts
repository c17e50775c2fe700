// `restart` and `check`: what would not come up does not end what runs.

import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { caseTest, longTest } from '../support/length.ts'
import { ask, Client, echo, inSandbox, lives, portOf, succeeded, workersOf } from '../support/server.ts'
import { until } from '../support/until.ts'

test('restart -d ends the server and starts the new code', async () => {
  await inSandbox(async (box) => {
    const before = await box.start(box.file('app.js', echo(2)))
    box.file('app.js', echo(3))
    const { stdout } = succeeded(await box.command('restart', '-d', `${box.directory}/app.js`))
    assert.match(stdout, new RegExp(`^stopped, pid ${before.pid}\n`))
    const after = await box.status()
    assert.not.equal(after.pid, before.pid)
    assert.is(workersOf(after).length, 3)
    for (const { pid } of workersOf(before)) assert.not(lives(pid))
    await box.stop()
  })
})

test('restart starts what did not run', async () => {
  await inSandbox(async (box) => {
    succeeded(await box.command('restart', '-d', box.file('app.js', echo(1))))
    await ask(portOf(await box.status()), 'x')
    await box.stop()
  })
})

test('restart in the foreground takes over from a daemon', async () => {
  await inSandbox(async (box) => {
    const before = await box.start(box.file('app.js', echo(1)))
    const server = box.begin('restart', `${box.directory}/app.js`)
    await server.says(/Press Ctrl\+C/)
    assert.not(lives(before.pid))
    assert.is((await server.end('SIGTERM')).code, 0)
  })
})

test('restart with broken code stops nothing', async () => {
  await inSandbox(async (box) => {
    const before = await box.start(box.file('app.js', echo(1)))
    const module = box.file('app.js', `throw new Error('planted')`)
    const { code, stderr } = await box.command('restart', '-d', module)
    assert.is(code, 6)
    assert.match(stderr, /planted/)
    assert.is((await box.status()).pid, before.pid)
    await ask(portOf(before), 'x')
    await box.stop()
  })
})

longTest('restart -g lets a handler finish that takes longer than stopTimeout', async () => {
  await inSandbox(async (box) => {
    const more = `
      Worker.stopTimeout = 0.1
      worker.onMessage = async (connection, line) => { await new Promise((r) => setTimeout(r, 600)); connection.send(line) }`
    const module = box.file('app.js', echo(1, more))
    const client = await Client.connect(portOf(await box.start(module)))
    client.send('kept')
    await until(async () => (await box.status()).totals.messagesIn === 1)
    const restarting = box.begin('restart', '-d', '-g', module)
    assert.is(await client.line(), 'kept')
    succeeded(await restarting.ended)
    client.close()
    await box.stop()
  })
})

test('check says what is declared, binds nothing, and needs no server', async () => {
  await inSandbox(async (box) => {
    const more = `new Worker({ name: 'tasks', count: 2 }); console.log('printed by the module')`
    const module = box.file('app.js', echo(3, more, 'text://127.0.0.1:1'))
    const { stdout } = succeeded(await box.command('check', module))
    assert.match(stdout, /^echo +text +text:\/\/127\.0\.0\.1:1 +3 +-$/m)
    assert.match(stdout, /^tasks +- +none +2 +-$/m)
    const json = succeeded(await box.command('check', '--json', module))
    assert.is(JSON.parse(json.stdout)[0].count, 3)
    assert.is(json.stderr, 'printed by the module\n')
  })
})

for (const [what, code] of [
  ['a syntax error', 'const = 1'],
  ['a top level that throws', `throw new Error('planted')`],
  ['no runAll', `import { Worker } from 'millrace'; new Worker('text://127.0.0.1:0')`],
  ['a bad address', `import { Worker } from 'millrace'; new Worker('text://nowhere'); Worker.runAll()`],
] as const) {
  caseTest(what === 'a syntax error' || what === 'no runAll')(
    `check of ${what} is exit 6 with the reason`,
    async () => {
      await inSandbox(async (box) => {
        const outcome = await box.command('check', box.file('app.js', code))
        assert.is(outcome.code, 6)
        assert.match(outcome.stderr, /Error|never called/)
        assert.is(outcome.stdout, '')
      })
    },
  )
}

test.run()
