// `restart` and `check`: what would not come up does not end what runs.

import { once } from 'node:events'
import { readFileSync, rmSync } from 'node:fs'
import net, { type AddressInfo } from 'node:net'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { readLine, startOptions } from '../../src/process/commands/line.ts'
import { optionsLike } from '../../src/process/commands/restart.ts'
import { caseTest, longTest } from '../support/length.ts'
import {
  ask,
  Client,
  echo,
  freePort,
  inSandbox,
  lives,
  portOf,
  type Sandbox,
  startFile,
  succeeded,
  workersOf,
} from '../support/server.ts'
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

test('restart --json without -d is refused before anything is stopped', async () => {
  await inSandbox(async (box) => {
    const before = await box.start(box.file('app.js', echo(1)))
    const { code, stdout } = await box.command('restart', '--json', `${box.directory}/app.js`)
    assert.is(code, 2)
    assert.is(JSON.parse(stdout).error.code, 'ERR_USAGE')
    assert.is((await box.status()).pid, before.pid)
    await box.stop()
  })
})

/** What a start with the same code would find out too late: the line's flags, or code in place of what runs. */
const REFUSED: readonly [what: string, code: number, line: (taken: string, box: Sandbox) => Attempt][] = [
  ['a log file in no folder', 1, (_, box) => ({ flags: ['--log-file', `${box.directory}/none/x.log`] })],
  ['a log file that is a folder', 1, (_, box) => ({ flags: ['--log-file', box.directory] })],
  ['a stdout file in no folder', 1, (_, box) => ({ flags: ['--stdout-file', `${box.directory}/none/x`] })],
  ['a pid file in no folder', 1, (_, box) => ({ flags: ['--pid-file', `${box.directory}/none/x.pid`] })],
  ['a log file in no folder, in the code', 1, (_, box) => ({ more: `Worker.logFile = '${box.directory}/none/x.log'` })],
  ['a pid file in no folder, in the code', 1, (_, box) => ({ more: `Worker.pidFile = '${box.directory}/none/x.pid'` })],
  ["another program's port for the probes", 5, (taken) => ({ flags: ['--health', `http://${taken}`] })],
  ["another program's port for the probes, in the code", 5, (taken) => ({ more: `Worker.health = 'http://${taken}'` })],
  ["another program's port", 5, (taken) => ({ listen: `text://${taken}` })],
  [
    "another program's port, with reusePort",
    5,
    (taken) => ({ listen: `text://${taken}`, more: 'worker.reusePort = true' }),
  ],
]
const EVERY_DAY = ['a log file in no folder', "another program's port"]

interface Attempt {
  readonly flags?: readonly string[]
  readonly more?: string
  readonly listen?: string
}

for (const [what, exitCode, lineFor] of REFUSED) {
  caseTest(EVERY_DAY.includes(what))(`restart stops nothing where a start would fail for ${what}`, async () => {
    await inSandbox(async (box) => {
      const before = await box.start(box.file('app.js', echo(1)))
      const other = net.createServer().listen(0, '127.0.0.1')
      await once(other, 'listening')
      try {
        const { flags = [], more, listen } = lineFor(`127.0.0.1:${(other.address() as AddressInfo).port}`, box)
        const { code, stderr } = await box.command('restart', '-d', box.file('app.js', echo(1, more, listen)), ...flags)
        assert.is(code, exitCode, stderr)
        assert.match(stderr, exitCode === 5 ? /EADDRINUSE/ : /ENOENT|EISDIR/)
        assert.is((await box.status()).pid, before.pid)
      } finally {
        other.close()
      }
      await box.stop()
    })
  })
}

longTest(
  'restart may hand the places of the server to others of its own: a port, a path, the address of the probes',
  async () => {
    await inSandbox(async (box) => {
      const [first, second, third] = [await freePort(), await freePort(), await freePort()]
      const code = (listen: string, own: string, health: string) => {
        const more = `Worker.health = '${health}'; worker.onWorkerStart = () => new Worker('${own}').listen()`
        return box.file('app.js', echo(1, more, listen))
      }
      const at = (port: number | undefined) => `127.0.0.1:${port}`
      const path = `${box.directory}/app.sock`
      const before = await box.start(code(`text://${at(first)}`, `unix://${path}`, `http://${at(second)}`))
      succeeded(
        await box.command('restart', '-d', code(`text://0.0.0.0:${second}`, `text://${at(third)}`, `unix://${path}`)),
      )
      succeeded(
        await box.command('restart', '-d', code(`unix://${path}`, `text://${at(first)}`, `http://${at(third)}`)),
      )
      assert.not.equal((await box.status()).pid, before.pid)
      assert.match(await ask(path, 'x'), /^x/)
      await box.stop()
    })
  },
)

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

test('restart without a file is refused where no server runs: it starts no demo in the place of one that has died', async () => {
  await inSandbox(async (box) => {
    const module = box.file('app.js', echo(1))
    const { pid } = await box.start(module)
    process.kill(pid, 'SIGKILL')
    await until(async () => (await box.command('status')).code === 3)
    const { code, stderr, stdout } = await box.command('restart', '-d')
    assert.is(code, 2, stdout)
    assert.match(stderr, /restart takes the file to start: no server was found that it could start again\nnext: /)
    assert.is((await box.command('status')).code, 3)
    succeeded(await box.command('restart', '-d', module))
    await box.stop()
  })
})

test('check without a file is about the code of the server, and is refused where there is none', async () => {
  await inSandbox(async (box) => {
    const none = await box.command('check')
    assert.is(none.code, 2)
    assert.match(none.stderr, /check takes the file to evaluate: no server was found whose code it could be\nnext: /)
    const program = (more = '') => box.file('app.js', echo(1, `worker.name = 'app ' + process.argv[2]\n${more}`))
    await box.start(program(), '--', 'one')
    assert.match(succeeded(await box.command('check')).stdout, /^app one /m)
    assert.match(succeeded(await box.command('check', '--', 'two')).stdout, /^app two /m)
    program('throw new Error("planted")')
    const { code, stderr } = await box.command('check')
    assert.is(code, 6)
    assert.match(stderr, /planted/)
    await box.stop()
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

test('restart keeps what the server was started with, unless the line says otherwise', async () => {
  await inSandbox(async (box) => {
    const app = box.file(
      'app.js',
      echo(
        1,
        `worker.onMessage = (connection) => connection.send(process.argv.slice(2).join(' '))
        worker.onWorkerStart = () => Worker.log('up')`,
      ),
    )
    box.file('other.js', echo(1).replaceAll('echo', 'other'))
    const run = (...args: string[]) => box.spawn(process.execPath, [startFile, ...args], { cwd: box.directory }).ended
    const flags = ['--log-file', 'one.log', '--log-format', 'json', '--stop-delay', '1', '--umask', '027']
    succeeded(await run('start', '-d', 'app.js', 'other.js', ...flags, '--', 'one', '--two'))
    const before = await box.status()
    succeeded(await box.command('restart', '-d', app)) // in another folder
    const after = await box.status()
    assert.not.equal(after.pid, before.pid)
    assert.equal(
      after.groups.map(({ name }) => name),
      ['echo', 'other'],
    )
    assert.is(await ask(portOf(after), 'x'), 'one --two')
    assert.match(
      readFileSync(join(box.directory, 'one.log'), 'utf8'),
      new RegExp(`"pid":${workersOf(after)[0]?.pid},.*"up"`),
    )
    succeeded(await run('restart', '-d', 'app.js', '--log-file', 'two.log', '--', 'three'))
    const changed = await box.status()
    assert.is(changed.groups.length, 2)
    assert.is(await ask(portOf(changed), 'x'), 'three')
    assert.match(
      readFileSync(join(box.directory, 'two.log'), 'utf8'),
      new RegExp(`"pid":${workersOf(changed)[0]?.pid},.*"up"`),
    )
    await box.stop()
  })
})

longTest("restart keeps Node's own flags, unless its line has some", async () => {
  await inSandbox(async (box) => {
    const app = box.file(
      'app.js',
      echo(1, `worker.onMessage = (connection) => connection.send(process.execArgv.join(' '))`),
    )
    const run = async (...args: string[]) => succeeded(await box.spawn(process.execPath, args).ended)
    const flags = async () => ask(portOf(await box.status()), 'x')
    await run('--max-old-space-size=333', '--no-deprecation', startFile, 'start', '-d', app)
    assert.is(await flags(), '--max-old-space-size=333 --no-deprecation')
    await run(startFile, 'restart', '-d', app)
    assert.is(await flags(), '--max-old-space-size=333 --no-deprecation')
    succeeded(await box.command('upgrade', app))
    await run(startFile, 'restart', '-d', app)
    assert.is(await flags(), '--max-old-space-size=333 --no-deprecation')
    await run('--max-old-space-size=444', startFile, 'restart', '-d', app)
    assert.is(await flags(), '--max-old-space-size=444')
    const server = box.begin('restart', app)
    await server.says(/Press Ctrl\+C to stop/)
    assert.is(await flags(), '--max-old-space-size=444')
    assert.is((await server.end('SIGTERM')).code, 0)
  })
})

longTest(
  "Node's own flags mean from any folder what they meant in the one of the start; bad ones are named",
  async () => {
    await inSandbox(async (box) => {
      const says = `(connection) => connection.send([process.env.FROM_FILE, ...globalThis.loaded].join(' '))`
      const app = box.file('app.js', echo(1, `worker.onMessage = ${says}`))
      const loads = (name: string) => `globalThis.loaded = [...(globalThis.loaded ?? []), '${name}']`
      box.file('my.env', 'FROM_FILE=file')
      box.file('pre.cjs', loads('pre'))
      box.file('otel.mjs', loads('otel'))
      box.file(
        'node_modules/bare/package.json',
        '{ "exports": { "import": "./import.mjs", "require": "./require.cjs" } }',
      )
      box.file('node_modules/bare/import.mjs', loads('imported'))
      box.file('node_modules/bare/require.cjs', loads('required'))
      const flags = [
        '--env-file=my.env',
        '-r',
        './pre.cjs',
        '--require=bare',
        '--import',
        './otel.mjs',
        '--import=bare',
      ]
      const run = (cwd: string, ...args: string[]) => box.spawn(process.execPath, args, { cwd }).ended
      succeeded(await run(box.directory, ...flags, startFile, 'start', '-d', app))
      const loaded = async () => ask(portOf(await box.status()), 'x')
      assert.is(await loaded(), 'file pre required otel imported')
      succeeded(await run('/', startFile, 'restart', '-d', app))
      assert.is(await loaded(), 'file pre required otel imported')
      succeeded(await run('/', startFile, 'restart', '-d', app)) // absolute by now
      assert.is(await loaded(), 'file pre required otel imported')
      rmSync(join(box.directory, 'otel.mjs'))
      const { code, stderr } = await run('/', startFile, 'restart', '-d', app)
      assert.is(code, 6)
      assert.match(
        stderr,
        /^millrace: Node does not start with the flags of the server that runs: .*--import \S*\/otel\.mjs.*\nnext: .*'stop'/m,
      )
      assert.not.match(stderr, /correct the code/)
      await box.stop()
    })
  },
)

test('restart by another user than the one who runs the server is refused, unless it names the user', () => {
  const line = readLine(['restart', '-d', '/app.js'], null)
  const running = { uid: (process.getuid?.() ?? 0) + 1, options: startOptions(line) }
  assert.throws(() => optionsLike(running, line), /runs as uid \d+, and restart would run it as \d+/)
  const named = readLine(['restart', '-d', '/app.js', '--user', 'nobody'], null)
  assert.is(optionsLike(running, named).user, 'nobody')
})

test.run()
