// A user's file that calls `Worker.runAll()` and is run by itself has the same command line. User code never runs
// in a master: in the foreground the process becomes one by execve(2), or stays as a thin parent.

import { readFileSync, rmSync, symlinkSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { addon } from '../../src/addon.ts'
import { caseTest, longTest } from '../support/length.ts'
import { version, versionAt } from '../support/reload.ts'
import {
  ask,
  Client,
  echo,
  HANGS,
  inSandbox,
  portOf,
  type Running,
  type Sandbox,
  succeeded,
} from '../support/server.ts'
import { until, within } from '../support/until.ts'

function run(box: Sandbox, ...args: string[]): Running {
  return box.spawn(process.execPath, args, { cwd: box.directory })
}

async function foreground(box: Sandbox, ...args: string[]): Promise<Running> {
  const server = run(box, ...args)
  await server.says(/Press Ctrl\+C to stop/)
  return server
}

test('node app.js start -d, status, stop', async () => {
  await inSandbox(async (box) => {
    box.file('app.js', echo(2))
    const { stdout } = succeeded(await run(box, 'app.js', 'start', '-d').ended)
    assert.match(stdout, /^Stop it with: node app\.js stop$/m)
    assert.match(succeeded(await run(box, 'app.js', 'status').ended).stdout, /\[Summary\]/)
    assert.match(succeeded(await run(box, 'app.js', 'stop').ended).stdout, /^stopped, pid \d+$/m)
    assert.is((await run(box, 'app.js', 'stop').ended).code, 3)
  })
})

test('without a command it is usage, exit code 2, whatever the file keeps open', async () => {
  await inSandbox(async (box) => {
    box.file('app.js', echo(1, 'setInterval(() => {}, 1000)'))
    const { code, stderr } = await within(20_000, run(box, 'app.js').ended)
    assert.is(code, 2)
    assert.match(stderr, /no command\nnext: .*\n\nUsage:/)
  })
})

const UNRUN = echo().replace('Worker.runAll()', '')

test('a command of a file that never calls runAll() fails, and says so', async () => {
  await inSandbox(async (box) => {
    box.file('app.js', UNRUN)
    for (const args of [
      ['start', '-d'],
      ['-q', 'stop'],
    ]) {
      const { code, stderr } = await run(box, 'app.js', ...args).ended
      assert.is(code, 6)
      assert.match(stderr, /^millrace: app\.js never called Worker\.runAll\(\)\nnext: call it /)
    }
    const { code, stdout } = await run(box, 'app.js', 'status', '--json').ended
    assert.equal([code, JSON.parse(stdout).error.code], [6, 'ERR_MODULE'])
  })
})

longTest(
  'a program that uses Workers without runAll() ends as it would: without a command of ours, or after a start',
  async () => {
    await inSandbox(async (box) => {
      const module = box.file('app.js', UNRUN)
      box.file('helper.js', `import './app.js'\nprocess.exitCode = 3`)
      box.file('started.js', `${UNRUN}\nawait worker.start({ id: 0, incarnation: 1, sockets: [], tls: {} })`)
      for (const [args, expected] of [
        [['app.js'], 0],
        [['app.js', 'starts'], 0],
        [['helper.js', 'start'], 3],
        [['started.js', 'start'], 0],
        [['-e', `import('${module}')`, 'start'], 0],
      ] as const) {
        const { code, stderr } = await run(box, ...args).ended
        assert.equal([code, stderr], [expected, ''], args.join(' '))
      }
    })
  },
)

test('it is found by the names that node finds it by', async () => {
  await inSandbox(async (box) => {
    box.file('app/index.js', echo(1).replace(/import (.*) from 'millrace'/, `const $1 = require('millrace')`))
    box.file('app/package.json', '{ "main": "index.js" }')
    box.file('app/node_modules/millrace/package.json', '{ "main": "index.cjs" }')
    box.file('app/node_modules/millrace/index.cjs', `module.exports = require('${process.cwd()}/dist/index.js')`)
    for (const name of ['app', 'app/index', './app/index.js']) {
      const { code, stderr } = await run(box, name, 'status').ended
      assert.is(code, 3, stderr)
    }
  })
})

test('a link on the way to the file is followed anew by each reload', async () => {
  await inSandbox(async (box) => {
    for (const of of [1, 2]) box.file(`releases/${of}/app.js`, version(of, 1))
    const link = join(box.directory, 'current')
    symlinkSync('releases/1', link)
    succeeded(await run(box, 'current/app', 'start', '-d').ended)
    const port = portOf(await box.status())
    assert.is(await versionAt(port), '1')
    rmSync(link)
    symlinkSync('releases/2', link)
    const { code, stdout } = await run(box, 'current/app.js', 'diff').ended
    assert.is(code, 1)
    assert.match(stdout, /releases\/2\/app\.js/)
    succeeded(await run(box, 'current/app.js', 'reload').ended)
    assert.is(await versionAt(port), '2')
    succeeded(await run(box, 'current/app.js', 'stop').ended)
  })
})

/** What the command becomes: with the addon the master itself, without it a thin parent of one. */
const SIDES = addon().sys === null ? ['none'] : ['', 'none']

/** Every day on the side that is usual; on the other one only what it might do in another way. */
function onBothSides(
  title: string,
  use: (box: Sandbox, isMaster: boolean) => Promise<void>,
  { isEveryDay = true, hasBoth = false } = {},
): void {
  for (const side of SIDES) {
    const isMaster = side === ''
    caseTest(isEveryDay && (side === SIDES[0] || hasBoth))(
      `${title} (${isMaster ? 'it becomes the master' : 'a thin parent'})`,
      async () => {
        await inSandbox(async (box) => {
          box.env.MILLRACE_ADDON = side
          await use(box, isMaster)
        })
      },
    )
  }
}

onBothSides(
  'the command is the master where it can, in its folder and with its output',
  async (box, isMaster) => {
    const more = `
    if (process.argv.includes('start')) process.stdout.write('x'.repeat(200_000) + 'to the end\\n')
    worker.onMessage = (connection) => connection.send(process.cwd())`
    box.file('app.js', echo(1, more))
    const server = await foreground(box, 'app.js', 'start')
    const status = await box.status()
    assert.is(status.pid === server.pid, isMaster)
    assert.is(await ask(portOf(status), 'x'), box.directory)
    assert.match(server.stdout, /^x{200000}to the end$/m)
    await server.end('SIGTERM')
  },
  { hasBoth: true },
)

for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGQUIT'] as const) {
  onBothSides(
    `${signal} ends the server, and the command with its exit code`,
    async (box) => {
      box.file('app.js', echo(1))
      const server = await foreground(box, 'app.js', 'start')
      assert.is((await server.end(signal)).code, 0)
      assert.is(box.pids().length, 0)
    },
    { isEveryDay: signal === 'SIGINT' || signal === 'SIGTERM', hasBoth: signal === 'SIGTERM' },
  )
}

onBothSides('a second SIGINT kills', async (box) => {
  const text = echo(1, `Worker.stopTimeout = 600; worker.onMessage = () => { console.log('stuck'); ${HANGS} }`)
  box.file('app.js', text)
  const server = await foreground(box, 'app.js', 'start')
  const client = await Client.connect(portOf(await box.status()))
  client.send('x')
  await server.says(/^stuck/m)
  server.process.kill('SIGINT')
  await until(async () => (await box.status()).groups[0]?.workers[0]?.state === 'stopping')
  await until(() => !server.process.kill('SIGINT') || server.process.exitCode !== null)
  assert.is((await server.ended).code, 0)
  client.close()
})

onBothSides('the command has the exit code of a start that failed', async (box) => {
  box.file('app.js', echo(1, `worker.onWorkerStart = () => { throw new Error('planted') }`))
  const { code, stderr } = await run(box, 'app.js', 'start').ended
  assert.is(code, 6)
  assert.match(stderr, /Error: planted\n +at .*app\.js/)
})

onBothSides(
  'kill -9 of the command ends the server',
  async (box) => {
    box.file('app.js', echo(1))
    const server = await foreground(box, 'app.js', 'start')
    await server.end('SIGKILL')
    await until(() => box.pids().length === 0)
    rmSync(box.runDir, { recursive: true }) // a master that is killed leaves its lock
  },
  { hasBoth: true },
)

onBothSides('no process of the server has what it was told by its environment', async (box, isMaster) => {
  box.file('app.js', echo(1, `worker.onMessage = (connection) => connection.send(Object.keys(process.env).join())`))
  const server = await foreground(box, '--no-warnings', 'app.js', 'start', '--', 'more')
  assert.not.match(await ask(portOf(await box.status()), 'x'), /MILLRACE/)
  const line = readFileSync(`/proc/${server.pid}/cmdline`, 'utf8')
  if (isMaster) assert.match(line, /^millrace: master process/)
  await server.end('SIGINT')
})

test('its top level runs in the command too, and in each worker with the arguments after --', async () => {
  await inSandbox(async (box) => {
    box.file('app.js', `console.log('argv', JSON.stringify(process.argv.slice(1)))\n${echo(2)}`)
    const server = await foreground(box, 'app.js', 'start', '--', '--port', '80')
    const told = server.stdout.match(/^argv .*/gm) ?? []
    const path = `${box.directory}/app.js`
    assert.is(told.shift(), `argv ${JSON.stringify([path, 'start', '--', '--port', '80'])}`)
    assert.equal(told, Array(3).fill(`argv ${JSON.stringify([path, '--port', '80'])}`)) // describe and two workers
    await server.end('SIGINT')
  })
})

longTest('code after runAll runs, and a second runAll does nothing', async () => {
  await inSandbox(async (box) => {
    box.file('app.js', `${echo(1)}\nconsole.log('after')\nWorker.runAll()`)
    const server = await foreground(box, 'app.js', 'start')
    assert.match(await ask(portOf(await box.status()), 'hello'), /^hello/)
    assert.is(server.stdout.match(/^after$/gm)?.length, 3)
    await server.end('SIGINT')
  })
})

longTest('runAll in code that is no file says so', async () => {
  await inSandbox(async (box) => {
    const code = `import('${process.cwd()}/dist/index.js').then(({ Worker }) => Worker.runAll())`
    const outcome = await run(box, '-e', code, 'start').ended
    assert.is(outcome.code, 6, outcome.stderr)
    assert.match(outcome.stderr, /^millrace: .*file/)
    assert.not.match(outcome.stderr, /^ +at /m)
  })
})

longTest('the inspector stays with the process that was asked for it', async () => {
  await inSandbox(async (box) => {
    box.file('app.js', echo(1, 'worker.onMessage = (connection) => connection.send(JSON.stringify(process.execArgv))'))
    succeeded(await run(box, '--inspect-port', '0', '--no-warnings', 'app.js', 'start', '-d').ended)
    assert.is(await ask(portOf(await box.status()), 'x'), '["--no-warnings"]')
    await box.stop()
  })
})

test('the flags of node reach every process, and a TypeScript file runs where node strips types', async () => {
  await inSandbox(async (box) => {
    box.file('hook.js', `globalThis.hooked = 'hooked'`)
    box.file('app.js', echo(1, 'worker.onMessage = (connection) => connection.send(String(globalThis.hooked))'))
    succeeded(await run(box, '--import', `${box.directory}/hook.js`, 'app.js', 'start', '-d').ended)
    assert.is(await ask(portOf(await box.status()), 'x'), 'hooked')
    await box.stop()
    const [major = 0] = process.versions.node.split('.').map(Number)
    if (major < 23) return
    box.file('app.ts', `const many: number = 2\n${echo(1).replace('count: 1', 'count: many')}`)
    succeeded(await run(box, 'app.ts', 'start', '-d').ended)
    await box.stop()
  })
})

test.run()
