// Which copy of the package runs an app: its own. And what the package runs when there is no app: the demo.

import { writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { packageAt } from '../support/release.ts'
import { ask, Client, echo, inSandbox, portOf, type Sandbox, startFile, succeeded } from '../support/server.ts'
import { until } from '../support/until.ts'

const THEIRS = '9.9.9'

/** An app with a copy of the package of its own, which says another version; the path of its module. */
function appWithCopy(box: Sandbox, text = echo(1)): string {
  box.file('package.json', '{ "type": "module" }')
  packageAt(join(box.directory, 'node_modules/millrace'), THEIRS)
  return box.file('app.js', text)
}

test('a start file of another copy hands over to the copy that the app resolves', async () => {
  await inSandbox(async (box) => {
    const module = appWithCopy(box)
    const status = await box.start(module)
    assert.is(status.version, THEIRS)
    assert.match(await ask(portOf(status), 'hello'), /^hello/)
    assert.is((await box.command('start', '-d', module)).code, 4)
    await box.stop()
  })
})

test('in the foreground the hand-over passes signals and the exit code', async () => {
  await inSandbox(async (box) => {
    const server = await box.foreground(appWithCopy(box))
    assert.match(server.stdout, new RegExp(`^millrace ${THEIRS} `))
    assert.is((await server.end('SIGTERM')).code, 0)
    const failing = box.file('app.js', 'throw new Error("planted")')
    const { code, stderr } = await box.command('start', failing)
    assert.is(code, 6)
    assert.match(stderr, /planted/)
  })
})

test('two copies in one process are refused by name', async () => {
  await inSandbox(async (box) => {
    const both = `import { Worker as Ours } from '${join(dirname(startFile), 'index.js')}'\nnew Ours()\n${echo(1)}`
    const { code, stderr } = await box.command('start', '-d', appWithCopy(box, both))
    assert.match(stderr, /two copies of millrace in one process .*npm ls millrace/)
    assert.is(code, 6)
  })
})

test('an app that cannot resolve the package is told what to do', async () => {
  await inSandbox(async (box) => {
    const module = join(dirname(box.runDir), 'app.mjs') // outside of any project
    const required = join(dirname(box.runDir), 'app.cjs')
    writeFileSync(module, echo(1))
    writeFileSync(required, `const { Worker } = require('millrace')`)
    for (const line of [
      ['start', '-d', module],
      ['start', module],
      ['check', required],
    ]) {
      const { code, stdout, stderr } = await box.command(...line)
      assert.is(code, 6)
      assert.is(stdout, '')
      assert.match(
        stderr,
        /Cannot find (package|module) 'millrace'(.|\n)*\n(.* {4}\| )?npm install millrace, or npm link millrace\n/,
      )
      assert.not.match(stderr, /^ +at /m)
    }
  })
})

test('an app outside of any project may import the package by its path', async () => {
  await inSandbox(async (box) => {
    const module = join(dirname(box.runDir), 'app.mjs')
    writeFileSync(module, echo(1).replace(`'millrace'`, `'${join(dirname(startFile), 'index.js')}'`))
    assert.match(await ask(portOf(await box.start(module)), 'hello'), /^hello/)
    await box.stop()
  })
})

test('without an app it is the demo, and its line to try works (ports 8888 to 8891 must be free)', async () => {
  await inSandbox(async (box) => {
    const isFree = (port: number) =>
      Client.connect(port).then(
        (client) => client.close(),
        () => true,
      )
    for (const port of [8888, 8889, 8890, 8891]) await until(() => isFree(port), 60_000) // of somebody's demo
    const { stdout } = succeeded(await box.command('start', '-d'))
    for (const row of [
      /^hello +text +127\.0\.0\.1:8888 +4 +\[OK\]$/m,
      /^chat .*:8889 /m,
      /^clock .*:8890 /m,
      /^site +http .*:8891 /m,
    ]) {
      assert.match(stdout, row)
    }
    const [, line = ''] = /^Try: (.*)$/m.exec(stdout) ?? []
    assert.match(line, /nc -q 1 127\.0\.0\.1 8888$/)
    assert.match(await ask(8888, 'world'), /^Hello, world! This is worker [0-3]\.$/)
    const hasNc = (await box.spawn('sh', ['-c', 'command -v nc']).ended).code === 0
    if (hasNc) assert.match(succeeded(await box.spawn('sh', ['-c', line]).ended).stdout, /^Hello, world!/)
    const [one, two] = [await Client.connect(8889), await Client.connect(8889)]
    assert.is(await one.line(), 'welcome, there are 1 of you')
    assert.is(await two.line(), 'welcome, there are 2 of you')
    two.send('hi')
    assert.match(await one.line(), /^\d+: hi$/)
    assert.match(await (await fetch('http://127.0.0.1:8891/')).text(), /<h1>millrace/)
    assert.is((await fetch('http://127.0.0.1:8891/favicon.ico')).status, 204)
    const upload = await fetch('http://127.0.0.1:8891/upload', { method: 'PUT', body: 'x'.repeat(100_000) })
    assert.equal(await upload.json(), { bytes: 100_000 })
    const clock = await Client.connect(8890)
    assert.match(await clock.line(), /^\d{4}-\d\d-\d\dT/)
    const [, stop = ''] = /^Stop it with: (.*)$/m.exec(stdout) ?? []
    assert.match(succeeded(await box.spawn('sh', ['-c', stop]).ended).stdout, /^stopped, pid \d+$/m)
    for (const client of [one, two, clock]) client.close()
  })
})

test.run()
