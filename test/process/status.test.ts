// What `status` and `connections` tell: of workers that hang, crash again and again, or drain; and of every connection.

import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import type { ListedConnection, Status, WorkerStatus } from '../../src/process/status/status.ts'
import { caseTest, longTest } from '../support/length.ts'
import { ask, Client, echo, HANGS, inSandbox, portOf, type Sandbox, succeeded, workersOf } from '../support/server.ts'
import { until } from '../support/until.ts'

function workerWith(status: Status, state: WorkerStatus['state']): WorkerStatus | undefined {
  return workersOf(status).find((worker) => worker.state === state)
}

async function connections(box: Sandbox): Promise<{ connections: ListedConnection[]; silent: { pid: number }[] }> {
  return JSON.parse(succeeded(await box.command('connections', '--json')).stdout)
}

for (const [what, hang, first, last, words] of [
  ['hangs', HANGS, 'busy', 'hung', /echo:\d has been silent for \d+\.\d s: its event loop does not turn/],
  [
    'is stopped',
    `process.kill(process.pid, 'SIGSTOP')`,
    'suspended',
    'suspended',
    /echo:\d pid \d+ has been stopped \(SIG/,
  ],
] as const) {
  test(`a worker that ${what} is shown as ${first}, then as ${last}, and does not hold the answer up`, async () => {
    await inSandbox(async (box) => {
      const more = `
        Worker.stopTimeout = 0.1
        worker.onMessage = (connection, line) => { connection.send(String(process.pid)); if (line === 'hang') setImmediate(() => { ${hang} }) }`
      const port = portOf(await box.start(box.file('app.js', echo(2, more))))
      for (let n = 0; n < 10; n++) await ask(port, 'x')
      assert.is((await box.status()).totals.messagesIn, 10)
      const pid = Number(await ask(port, 'hang'))
      const busy = await until(async () => workerWith(await box.status(), first))
      assert.is(busy.pid, pid)
      assert.is((await connections(box)).silent[0]?.pid, pid)
      await until(async () => (workerWith(await box.status(), last)?.silentMs ?? 0) > 3500, 20_000)
      assert.ok((await box.status()).totals.messagesIn >= 10) // the master has kept what it heard last
      const { stdout } = succeeded(await box.command('status'))
      assert.match(stdout, new RegExp(`N/A.*\\[${last}\\]`))
      assert.match(stdout, words)
      assert.is(workersOf(await box.status()).filter(({ state }) => state === 'ready').length, 1)
      await box.stop()
    })
  })
}

test('a crash loop is shown with its count, its reason and the time of the next try, and a reload ends it', async () => {
  await inSandbox(async (box) => {
    const flag = join(box.directory, 'broken')
    const more = `
      const { existsSync } = await import('node:fs')
      worker.onWorkerStart = () => { if (worker.id === 1 && existsSync(${JSON.stringify(flag)})) throw new Error('no database') }`
    const before = await box.start(box.file('app.js', echo(2, more)))
    box.file('broken', '')
    process.kill(workersOf(before)[1]?.pid ?? 0, 'SIGKILL')
    const broken = await until(async () => workerWith(await box.status(), 'crash-loop'), 60_000)
    assert.is(broken.id, 1)
    assert.is(broken.pid, 0)
    assert.ok(broken.failures >= 3)
    assert.is(broken.lastExit, 'exit 70 (boot failed)')
    assert.match(broken.lastReason, /^Error: no database\n/)
    const table = await until(async () => {
      const { stdout } = succeeded(await box.command('status'))
      return stdout.includes('[crash-loop]') && stdout
    })
    assert.match(
      table,
      /echo:1 failed \d+ times in a row, last: exit 70 \(boot failed\); next start in \d\.\d s\n {2}Error: no/,
    )
    assert.match(table, /^echo +(?:native|node) +signal SIGKILL +1$/m)
    assert.match(table, /^echo +(?:native|node) +exit 70 \(boot failed\) +\d+$/m)
    box.file('app.js', echo(2))
    await box.operate({ command: 'reload' })
    assert.equal(
      workersOf(await box.status()).map(({ state, failures }) => ({ state, failures })),
      [0, 1].map(() => ({ state: 'ready', failures: 0 })),
    )
    await box.stop()
  })
})

test('qps is the rate of the last second', async () => {
  await inSandbox(async (box) => {
    const port = portOf(await box.start(box.file('app.js', echo(1))))
    const client = await Client.connect(port)
    await until(async () => {
      for (let n = 0; n < 20; n++) await client.ask('x')
      return (workersOf(await box.status())[0]?.messageRate ?? 0) > 10
    })
    client.close()
    await until(async () => workersOf(await box.status())[0]?.messageRate === 0)
    await box.stop()
  })
})

test('connections lists every one of every process, with addresses, queues and counts', async () => {
  await inSandbox(async (box) => {
    const socket = join(box.directory, 's.sock')
    const more = `
      const other = new Worker('unix://${socket}', { name: 'a-name-that-is-far-too-long' })
      other.onMessage = (connection) => { connection.pauseRecv() }
      worker.onMessage = (connection, line) => connection.send(line === 'flood' ? 'x'.repeat(8e6) : line)
      worker.maxSendBufferSize = 1e8`
    const status = await box.start(box.file('app.js', echo(2, more, 'text://[::]:0')))
    const four = await Client.connect(portOf(status))
    const six = await Client.connect(portOf(status), '::1')
    const unix = await Client.connect(socket)
    await four.ask('hello')
    six.socket.pause()
    six.send('flood')
    unix.send('x')
    const rows = await until(async () => {
      const { connections: all } = await connections(box)
      return all.length === 3 && all.some(({ sendQueue }) => sendQueue > 1e6) && all
    })
    const [row6] = rows.filter(({ isIpV6, sendQueue }) => isIpV6 && sendQueue > 0)
    assert.match(row6?.remote ?? '', /^\[::1\]:\d+$/)
    assert.match(row6?.local ?? '', new RegExp(`^\\[::1\\]:${portOf(status)}$`))
    assert.is(row6?.worker.split(':')[0], 'echo')
    const [rowUnix] = rows.filter(({ transport }) => transport === 'unix')
    assert.equal([rowUnix?.isIpV4, rowUnix?.isIpV6, rowUnix?.remote], [false, false, ''])
    const [row4] = rows.filter(({ bytesRead, bytesWritten }) => bytesRead === 6 && bytesWritten === 6)
    assert.equal([row4?.bytesWritten, row4?.protocol, row4?.status], [6, 'text', 'ESTABLISHED'])
    const { stdout } = succeeded(await box.command('connections'))
    assert.match(
      stdout,
      /^PID +Worker +CID +Trans +Protocol +ipv4 +ipv6 +Recv-Q +Send-Q +Bytes-R +Bytes-W +Status +Local Address +Foreign Address$/m,
    )
    assert.match(stdout, /^\d+ +a-name-that-\.\. +1 +unix +\S+ +0 +0 +\S+ +0B +/m)
    assert.match(stdout, / [\d.]+MB +6B +7\.6MB +ESTABLISHED/)
    for (const client of [four, six, unix]) client.close()
    await box.stop()
  })
})

test('connections lists what a process has opened; the connections of one that is killed have ended', async () => {
  await inSandbox(async (box) => {
    const more = `
      const { AsyncTcpConnection } = await import('millrace')
      worker.onMessage = (connection) => {
        const client = new AsyncTcpConnection(worker.getSocketName().replace('0.0.0.0', '127.0.0.1'))
        client.onConnect = () => connection.send('connected')
        client.connect()
      }`
    const status = await box.start(box.file('app.js', echo(1, more)))
    const client = await Client.connect(portOf(status))
    assert.is(await client.ask('dial'), 'connected')
    const { connections: rows } = await connections(box)
    assert.equal(rows.map(({ role }) => role).sort(), ['client', 'server', 'server'])
    const dialled = rows.find(({ role }) => role === 'client')
    assert.is(dialled?.remote, `127.0.0.1:${portOf(status)}`)
    await until(async () => (await box.status()).totals.connections === 2)
    process.kill(workersOf(status)[0]?.pid ?? 0, 'SIGKILL')
    const { totals } = await until(async () => {
      const now = await box.status()
      return workersOf(now)[0]?.state === 'ready' && now.totals.connections === 0 && now
    })
    assert.equal([totals.accepted, totals.closed], [2, 2])
    client.close()
    await box.stop()
  })
})

longTest('connections comes in pages: thousands are listed once each', async () => {
  await inSandbox(async (box) => {
    const port = portOf(await box.start(box.file('app.js', echo(2))))
    const clients: Client[] = []
    for (let batch = 0; batch < 25; batch++)
      clients.push(...(await Promise.all(Array.from({ length: 100 }, () => Client.connect(port)))))
    const { connections: all, silent } = await until(async () => {
      const found = await connections(box)
      return found.connections.length === clients.length && found
    })
    assert.equal(silent, [])
    assert.is(new Set(all.map(({ pid, id }) => `${pid} ${id}`)).size, clients.length)
    assert.is(new Set(all.map(({ remote }) => remote)).size, clients.length)
    for (const client of clients) client.close()
    await box.stop()
  })
})

test('control characters in a name do not reach the terminal', async () => {
  await inSandbox(async (box) => {
    await box.start(box.file('app.js', echo(1, `worker.name = 'a\\u001b[2Jb'`)))
    const { stdout } = succeeded(await box.command('status'))
    assert.not.ok(stdout.includes('\x1b'))
    assert.match(stdout, /a\?\[2Jb/)
    await box.stop()
  })
})

test('a long name is cut in the tables, and whole for programs', async () => {
  await inSandbox(async (box) => {
    const name = 'notifications-for-everybody'
    const module = box.file('app.js', echo(1, `worker.name = '${name}'`))
    await box.start(module)
    const { stdout } = succeeded(await box.command('status'))
    assert.is(stdout.match(/ notification\.\. /g)?.length, 1)
    assert.match(stdout, /^notification\.\. /m)
    assert.not.match(stdout, new RegExp(name))
    assert.is((await box.status()).groups[0]?.name, name)
    await box.stop()
  })
})

for (const command of ['status', 'connections', 'check', 'help', '--version'] as const) {
  caseTest(command === 'status' || command === 'help')(
    `${command} into a full disk is a failure, and into a reader that has gone is none`,
    async () => {
      await inSandbox(async (box) => {
        const module = box.file('app.js', echo(1))
        await box.start(module)
        const run = (sh: string) => box.spawn('bash', ['-c', sh]).ended
        const line = `${process.execPath} dist/start.js ${command} ${command === 'help' ? '' : module}`
        const full = await run(`${line} > /dev/full`)
        assert.is(full.code, 1)
        assert.match(full.stderr, /cannot write to stdout.*ENOSPC/)
        const closed = await run(`set -o pipefail; ${line} | true`)
        assert.is(closed.code, 0)
        assert.is(closed.stderr, '')
        await box.stop()
      })
    },
  )
}

test.run()
