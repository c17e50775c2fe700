// What a worker shows to user code, to its grandchildren and to the system: nothing of ours where it does not belong.

import { readFileSync } from 'node:fs'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { ask, echo, inSandbox, portOf, type Sandbox, succeeded, workersOf } from '../support/server.ts'
import { until } from '../support/until.ts'

/** Fields of proc(5) stat, from the state on: [state, ppid, pgrp, session, tty, ...]. */
function statOf(pid: number): string[] {
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
  return stat.slice(stat.lastIndexOf(')') + 2).split(' ')
}

function titleOf(pid: number): string {
  return readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ').trimEnd()
}

/** What a worker answers to one line, as JSON; `code` is the body of its handler. */
async function told(box: Sandbox, code: string, ...args: string[]): Promise<Record<string, unknown>> {
  const more = `
    import { execFileSync } from 'node:child_process'
    worker.onMessage = (connection) => { ${code}; connection.send(JSON.stringify(told)) }`
  const status = await box.start(box.file('app.js', echo(1, more)), ...args)
  const answer = JSON.parse(await ask(portOf(status), 'x'))
  await box.stop()
  return answer
}

test('a worker looks like a program of its own: argv, no channel, no variables of ours', async () => {
  await inSandbox(async (box) => {
    const seen = `const told = {
      argv: process.argv, execArgv: process.execArgv, send: typeof process.send, connected: process.connected ?? false,
      ours: Object.keys(process.env).filter((name) => name.startsWith('MILLRACE') || name.startsWith('NODE_CHANNEL')),
      marked: 'TEST_SANDBOX' in process.env,
    }`
    assert.equal(await told(box, seen, '--', '--port', '80'), {
      argv: [process.execPath, `${box.directory}/app.js`, '--port', '80'],
      execArgv: [],
      send: 'undefined',
      connected: false,
      ours: [],
      marked: true,
    })
  })
})

test('a grandchild has no variable and no descriptor of ours', async () => {
  await inSandbox(async (box) => {
    box.env.MILLRACE_LOG_FILE = `${box.directory}/app.log`
    const seen = `const told = {
      env: execFileSync('env').toString().match(/^MILLRACE.*/gm) ?? [],
      fds: execFileSync('ls', ['-l', '/proc/self/fd']).toString(),
      own: execFileSync('ls', ['-l', '/proc/' + process.pid + '/fd']).toString(),
    }`
    const { env, fds, own } = await told(box, seen)
    assert.equal(env, [])
    // Our channel and the listening socket; what stands above them may be the test runner's.
    const ours = [...String(own).matchAll(/ [34] -> (socket:\[\d+\])/g)].map(([, name = '']) => name)
    assert.is(ours.length, 2, String(own))
    for (const name of ours) assert.not.ok(String(fds).includes(name), String(fds))
    assert.equal(
      String(fds)
        .match(/ \d+ -> socket:/g)
        ?.map((text) => Number.parseInt(text, 10)),
      [0, 1, 2],
    )
  })
})

test('user code in the describing process neither starts nor listens', async () => {
  await inSandbox(async (box) => {
    const more = `console.error('evaluated', process.pid); worker.onWorkerStart = () => console.error('started', process.pid)`
    const status = await box.start(box.file('app.js', echo(2, more)))
    const evaluated = [...box.log().matchAll(/\] evaluated (\d+)$/gm)].map(([, pid]) => Number(pid))
    const started = [...box.log().matchAll(/\] started (\d+)$/gm)].map(([, pid]) => Number(pid))
    const workers = workersOf(status).map(({ pid }) => pid)
    assert.is(evaluated.length, 3)
    assert.equal(started.sort(), workers.sort())
    assert.not.ok(evaluated.includes(status.pid), 'user code ran in the master')
    await box.stop()
  })
})

test('ps tells what every process is', async () => {
  await inSandbox(async (box) => {
    const module = box.file('app.js', echo(2))
    const status = await box.start(module)
    assert.is(titleOf(status.pid), `millrace: master process  start_file=${module}`)
    for (const { pid } of workersOf(status)) {
      assert.is(titleOf(pid), 'millrace: worker process  echo text://127.0.0.1:0')
    }
    await box.stop()
  })
})

test('each worker is a child of the master in a session of its own', async () => {
  await inSandbox(async (box) => {
    const status = await box.start(box.file('app.js', echo(3)))
    for (const { pid } of workersOf(status)) {
      const [, ppid, group, session] = statOf(pid)
      assert.equal([ppid, group, session].map(Number), [status.pid, pid, pid])
    }
    assert.is(Number(statOf(status.pid)[3]), status.pid, 'the daemon has one too')
    await box.stop()
  })
})

test('importing the package has no side effect, and require works', async () => {
  await inSandbox(async (box) => {
    const report = `
      const events = ['SIGINT', 'SIGTERM', 'SIGHUP', 'uncaughtException', 'unhandledRejection', 'exit', 'beforeExit', 'warning']
      const has = {
        handles: process.getActiveResourcesInfo().filter((name) => !/Req|^(Pipe|TTY)Wrap$/.test(name)), // less stdio
        listeners: events.filter((name) => process.listenerCount(name) !== before[name]),
        outputs: process.stdout.listenerCount('error') + process.stderr.listenerCount('error'),
        globals: Object.keys(globalThis).filter((name) => !globals.has(name)),
        worker: typeof Worker, timer: typeof Timer.add, exitCode: process.exitCode,
      }
      console.log(JSON.stringify(has))`
    const before = `
      const globals = new Set(Object.keys(globalThis))
      const before = Object.fromEntries(process.eventNames().concat(['SIGINT', 'SIGTERM', 'SIGHUP', 'uncaughtException',
        'unhandledRejection', 'exit', 'beforeExit', 'warning']).map((name) => [name, process.listenerCount(name)]))`
    const ways = {
      'import.mjs': `${before}\nconst { Worker, Timer } = await import('millrace')\n${report}`,
      'require.cjs': `${before}\nconst { Worker, Timer } = require('millrace')\n${report}`,
    }
    for (const [name, text] of Object.entries(ways)) {
      // As node warns of require() of a module on some versions, only stdout counts.
      const { stdout } = succeeded(await box.spawn(process.execPath, [box.file(name, text)]).ended)
      const expected = { handles: [], listeners: [], outputs: 0, globals: [], worker: 'function', timer: 'function' }
      assert.equal(JSON.parse(stdout), expected, name)
    }
  })
})

test('a CommonJS file is an app too', async () => {
  await inSandbox(async (box) => {
    const text = echo(2).replace(/import (.*) from 'millrace'/, `const $1 = require('millrace')`)
    const status = await box.start(box.file('app.cjs', text))
    assert.match(await ask(portOf(status), 'hello'), /^hello \d+$/)
    await box.stop()
    const direct = box.spawn(process.execPath, [`${box.directory}/app.cjs`, 'status'])
    assert.is((await direct.ended).code, 3)
  })
})

test('a worker that prints a lot while it starts loses nothing', async () => {
  await inSandbox(async (box) => {
    const more = `worker.onWorkerStart = () => { for (let n = 0; n < 5000; n++) console.error('line ' + n) }`
    await box.start(box.file('app.js', echo(1, more)))
    await until(() => box.log().match(/\[echo:0\] line \d+$/gm)?.length === 5000)
    await box.stop()
  })
})

test.run()
