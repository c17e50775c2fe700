// `start`, in the foreground and with -d: what it says, what then runs, and how a signal ends it.

import type { StdioOptions } from 'node:child_process'
import { once } from 'node:events'
import { chmodSync, closeSync, existsSync, openSync, readdirSync, readlinkSync } from 'node:fs'
import net from 'node:net'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { caseTest, longTest } from '../support/length.ts'
import {
  ask,
  Client,
  echo,
  inSandbox,
  portOf,
  type Running,
  startFile,
  succeeded,
  workersOf,
} from '../support/server.ts'
import { until, within } from '../support/until.ts'
import { withAddon } from '../support/where.ts'

const founding = `
  import { Worker } from 'millrace'
  const worker = new Worker('tcp://127.0.0.1:0')
  worker.count = 4
  worker.onWorkerStart = (worker) => console.log(\`Worker \${worker.id} started\`)
  worker.onConnect = (connection) => console.log(\`New connection from \${connection.getRemoteIp()}:\${connection.getRemotePort()}\`)
  worker.onMessage = (connection, data) => { console.log(\`Received message: \${data}\`); connection.send(\`Hello, \${data}!\\n\`) }
  Worker.runAll()
`

test('the founding program runs: four workers serve one port, each started once', async () => {
  await inSandbox(async (box) => {
    const server = await box.foreground(box.file('app.js', founding))
    const status = await box.status()
    const started = server.stdout.match(/Worker \d started/g)
    assert.equal(
      started?.sort(),
      [0, 1, 2, 3].map((id) => `Worker ${id} started`),
    )
    assert.equal(
      workersOf(status).map(({ id }) => id),
      [0, 1, 2, 3],
    )
    assert.is(new Set(workersOf(status).map(({ pid }) => pid)).size, 4)
    assert.is(await ask(portOf(status), 'world'), 'Hello, world')
    await server.says(/New connection from 127\.0\.0\.1:\d+\nReceived message: world\n/)
    const { code, stderr } = await server.end('SIGINT')
    assert.is(code, 0)
    assert.is(stderr, '')
  })
})

test('the banner shows every group with its resolved port, and a line to try that works', async () => {
  await inSandbox(async (box) => {
    const module = box.file(
      'app.js',
      `import { Worker } from 'millrace'
      new Worker('frame://127.0.0.1:0', { name: 'frames', count: 2 })
      new Worker('text://0.0.0.0:0', { name: 'lines', onMessage: (connection, line) => connection.send('got ' + line) })
      new Worker({ name: 'jobs' })
      Worker.runAll()`,
    )
    const { stdout } = succeeded(await box.command('start', '-d', module))
    const { groups } = await box.status()
    const [frames, lines, jobs] = groups
    assert.match(stdout, new RegExp(`^frames +frame +127\\.0\\.0\\.1:${frames?.port} +2 +\\[OK\\]$`, 'm'))
    assert.match(stdout, new RegExp(`^lines +text +0\\.0\\.0\\.0:${lines?.port} +1 +\\[OK\\]$`, 'm'))
    assert.match(stdout, /^jobs +- +none +1 +\[OK\]$/m)
    assert.equal([jobs?.port, jobs?.address], [0, ''])
    const [, port] = /^Try: printf 'world\\n' \| nc -q 1 127\.0\.0\.1 (\d+)$/m.exec(stdout) ?? []
    assert.is(await ask(Number(port), 'world'), 'got world')
    await box.stop()
  })
})

longTest('--quiet prints no banner', async () => {
  await inSandbox(async (box) => {
    assert.is(succeeded(await box.command('start', '-d', '-q', box.file('app.js', echo()))).stdout, '')
    await box.stop()
  })
})

for (const signal of ['SIGINT', 'SIGTERM', 'SIGQUIT', 'SIGHUP'] as const) {
  caseTest(signal === 'SIGINT' || signal === 'SIGTERM')(
    `${signal} ends a server in the foreground, with exit code 0`,
    async () => {
      await inSandbox(async (box) => {
        const server = await box.foreground(box.file('app.js', echo(1)))
        assert.is((await server.end(signal)).code, 0)
      })
    },
  )
}

for (const [what, line] of [
  ['a server', (module: string) => `dist/start.js start ${module}`],
  ['a file that was run directly', (module: string) => `${module} start`],
] as const) {
  test(`Ctrl+C in a terminal ends ${what} and lets its handlers finish`, async () => {
    await inSandbox(async (box) => {
      const server = await inTerminal(line(box.file('app.js', slow)), box)
      const client = await Client.connect(portOf(await box.status()))
      client.send('hold')
      await server.says(/handling/)
      server.process.stdin?.write('\x03')
      assert.is(await client.line(), 'done')
      assert.is((await within(10_000, server.ended)).code, 0)
      client.close()
    })
  })
}

longTest('a SIGINT that comes twice at once, from a terminal and a parent that passes it on, is one', async () => {
  await inSandbox(async (box) => {
    const server = await box.foreground(box.file('app.js', slow))
    const client = await Client.connect(portOf(await box.status()))
    client.send('hold')
    await server.says(/handling/)
    server.process.kill('SIGINT')
    await server.says(/worker stops/)
    server.process.kill('SIGINT')
    assert.is(await client.line(), 'done')
    assert.is((await server.ended).code, 0)
    client.close()
  })
})

/** A handler that ends only when the worker has been told to stop. */
const slow = `
  import { Worker } from 'millrace'
  const worker = new Worker('text://127.0.0.1:0', { name: 'slow' })
  let stop
  const stopped = new Promise((resolve) => { stop = resolve })
  worker.onMessage = async (connection) => { console.log('handling'); await stopped; connection.send('done') }
  worker.onWorkerStop = () => { console.log('worker stops'); setTimeout(stop, 60) }
  Worker.runAll()
`

async function inTerminal(line: string, box: Parameters<Parameters<typeof inSandbox>[0]>[0]): Promise<Running> {
  const command = `exec ${process.execPath} ${line}`
  const server = box.spawn('script', ['-qec', command, '/dev/null'], { stdio: 'pipe' })
  await server.says(/Press Ctrl\+C to stop/)
  return server
}

test('closing the terminal ends the server that sits on it', async () => {
  await inSandbox(async (box) => {
    const server = await inTerminal(`dist/start.js start ${box.file('app.js', echo(2))}`, box)
    await server.end('SIGKILL') // the terminal's other end goes with it
    await until(() => box.pids().length === 0, 10_000)
  })
})

const hanging = `
  import { Worker } from 'millrace'
  Worker.stopTimeout = 600
  const worker = new Worker('text://127.0.0.1:0', { name: 'stuck', count: 2 })
  worker.onMessage = () => { console.log('spinning'); for (;;); }
  Worker.runAll()
`

test('a second SIGINT kills what the first one could not end', async () => {
  await inSandbox(async (box) => {
    const server = await box.foreground(box.file('app.js', hanging))
    const client = await Client.connect(portOf(await box.status()))
    client.send('x')
    await server.says(/spinning/)
    server.process.kill('SIGINT')
    await until(async () => workersOf(await box.status()).some(({ state }) => state === 'stopping'))
    await until(() => !server.process.kill('SIGINT') || server.process.exitCode !== null)
    assert.is((await server.ended).code, 0)
    client.close()
  })
})

for (const first of ['SIGQUIT', 'SIGTERM'] as const) {
  caseTest(first === 'SIGQUIT')(`one SIGINT after a ${first} is a stop and no kill`, async () => {
    await inSandbox(async (box) => {
      const more = `worker.onMessage = (connection, line) => {
        Worker.log('begun')
        setTimeout(() => connection.send(line), 600)
        return new Promise((resolve) => setTimeout(resolve, 600))
      }`
      const server = await box.foreground(box.file('app.js', echo(1, more)))
      const client = await Client.connect(portOf(await box.status()))
      client.send('x')
      await server.says(/begun/)
      server.process.kill(first)
      const told = performance.now()
      await until(async () => (await box.status()).groups[0]?.workers[0]?.state === 'stopping')
      await until(() => performance.now() - told > 100) // one press of a key may arrive twice within 50 ms
      server.process.kill('SIGINT')
      assert.is(await client.line(), 'x')
      client.close()
      assert.is((await within(10_000, server.ended)).code, 0)
    })
  })
}

longTest('a SIGINT during boot ends the start, and no worker dies half-way', async () => {
  await inSandbox(async (box) => {
    const module = box.file(
      'app.js',
      echo(2, `worker.onWorkerStart = () => { console.log('booting'); return new Promise(() => {}) }`),
    )
    const server = box.begin('start', module)
    await server.says(/booting/)
    const { code, stdout, stderr } = await server.end('SIGINT')
    assert.is(code, 0, stderr)
    assert.not.match(stdout, /Press Ctrl/)
  })
})

test('start -d returns when every worker is ready, however long that takes', async () => {
  await inSandbox(async (box) => {
    const module = box.file(
      'app.js',
      echo(
        2,
        `import { setTimeout as sleep } from 'node:timers/promises'
        import { appendFileSync } from 'node:fs'
        worker.onWorkerStart = async () => { await sleep(300); appendFileSync(process.argv[2], worker.id + ' ready\\n') }`,
      ),
    )
    const seen = box.file('seen', '')
    const status = await box.start(module, '--', seen)
    assert.equal(
      workersOf(status).map(({ state, incarnation }) => `${state} ${incarnation}`),
      ['ready 1', 'ready 1'],
    )
    assert.match(await ask(portOf(status), 'hello'), /^hello \d+$/)
    await box.stop()
  })
})

test('a daemon leaves the terminal: a session of its own, SIGHUP and Ctrl+C do not reach it', async () => {
  await inSandbox(async (box) => {
    const before = await box.start(box.file('app.js', echo()))
    process.kill(before.pid, 'SIGHUP')
    await until(() => box.log().includes('reload: done'))
    assert.is((await box.status()).pid, before.pid)
    assert.ok((await box.status()).isDaemon)
    process.kill(before.pid, 'SIGTERM')
    await until(() => box.pids().length === 0)
  })
})

longTest('a path may hold anything that a file name can', async () => {
  await inSandbox(async (box) => {
    const module = box.file("a b#c?d%20é'/app one.js", echo(1))
    const status = await box.start(module)
    assert.match(await ask(portOf(status), 'hello'), /^hello/)
    assert.is((await box.command('stop', module)).code, 0)
  })
})

test('several modules make one server', async () => {
  await inSandbox(async (box) => {
    const one = box.file('one.js', echo())
    const two = box.file('two.js', echo(2, '', 'tcp://127.0.0.1:0'))
    const { groups } = await box.start(one, two)
    assert.equal(
      groups.map(({ listen, count }) => `${listen} ${count}`),
      ['text://127.0.0.1:0 1', 'tcp://127.0.0.1:0 2'],
    )
    await box.stop()
  })
})

withAddon('a daemon has no descriptor of whoever starts it, whatever its number', async () => {
  await inSandbox(async (box) => {
    const lock = box.file('lock', '')
    const fd = openSync(lock, 'r')
    const stdio: StdioOptions = ['ignore', 'pipe', 'pipe']
    for (const at of [3, 9, 60]) stdio[at] = fd // in between there is none
    stdio.splice(0, stdio.length, ...Array.from(stdio, (one) => one ?? 'ignore'))
    const args = [startFile, 'start', '-d', box.file('app.js', echo(1))]
    succeeded(await box.spawn(process.execPath, args, { stdio }).ended)
    closeSync(fd)
    const open = box.pids().flatMap((pid) => readdirSync(`/proc/${pid}/fd`).map((name) => `/proc/${pid}/fd/${name}`))
    const held = open.filter((path) => existsSync(path) && readlinkSync(path) === lock)
    assert.equal(held, [])
    await box.stop()
  })
})

test('a start in the foreground that fails says why and what to do next, each on a line of the log', async () => {
  await inSandbox(async (box) => {
    const other = net.createServer().listen(0, '127.0.0.1').unref()
    await once(other, 'listening')
    const { port } = other.address() as net.AddressInfo
    const module = box.file('app.js', echo(1, '', `text://127.0.0.1:${port}`))
    const broken = box.file('broken.js', `import 'millrace'\nthrow new Error('half written')`)
    const good = box.file('good.js', echo())
    const failed = async (code: number, why: RegExp, next: RegExp, ...args: string[]) => {
      const said = await linesOf(code, ...args)
      assert.match(said[0] ?? '', why)
      assert.match(said.at(-1) ?? '', next)
    }
    const json = ['--log-format', 'json']
    const linesOf = async (code: number, ...args: string[]) => {
      const outcome = await box.spawn(process.execPath, args).ended
      assert.is(outcome.code, code, outcome.stderr)
      const lines = outcome.stderr.trimEnd().split('\n')
      if (args.includes('json')) return lines.map((line) => String(JSON.parse(line).message))
      return lines.map((line) => line.replace(/^\S+ \S+ pid:\d+ /, ''))
    }
    const taken = [/^bind .*EADDRINUSE/, /^next: choose another address, or see who has it: ss -lntup$/] as const
    await failed(5, ...taken, startFile, 'start', module)
    await failed(5, ...taken, module, 'start', ...json)
    await failed(
      6,
      /half written/,
      /^next: correct the code: millrace check .*broken\.js/,
      startFile,
      'start',
      broken,
      ...json,
    )
    chmodSync(box.runDir, 0o755)
    const chosen = /^next: choose one with --run-dir DIR$/
    await failed(1, /^no run directory: .*chmod 700/, chosen, startFile, 'start', good, ...json)
    chmodSync(box.runDir, 0o700)
    await box.start(good)
    await failed(4, /^already running/, /^next: millrace reload .*good\.js for new code, /, startFile, 'start', good)
    await failed(4, /^already running/, /^next: node .*good\.js reload for new code, /, good, 'start', ...json)
    await box.stop()
    other.close()
  })
})

test('a Worker that answers nobody is told once, when it starts; one that may answer is not', async () => {
  await inSandbox(async (box) => {
    const module = box.file(
      'app.js',
      `import { Timer, Worker } from 'millrace'
      new Worker('http://127.0.0.1:0', { name: 'mute', count: 2, onClose() {} })
      new Worker('text://127.0.0.1:0', { name: 'greeter', onConnect: (connection) => connection.send('hello') })
      new Worker('websocket://127.0.0.1:0', { name: 'pusher', onWebSocketConnected() {} })
      new Worker('text://127.0.0.1:0', { name: 'late' }).onWorkerStart = (worker) => { worker.onMessage = () => {} }
      const clock = new Worker('text://127.0.0.1:0', { name: 'clock' }) // pushes, and answers nothing
      clock.onWorkerStart = () => Timer.add(60, () => clock.broadcast('now'))
      new Worker({ name: 'box' })
      Worker.runAll()`,
    )
    await box.start(module)
    await until(() => box.log().includes('nothing answers'))
    await box.stop()
    assert.equal(box.log().match(/\[.*nothing answers.*/g), [
      '[mute:0] at http://127.0.0.1:0 nothing answers: there is no onMessage, and no onConnect that could set one',
    ])
  })
})

test.run()
