// What a server does not take: connections over its limits, over its rate, or without a descriptor left. They wait in the
// kernel's queue or go to a sibling; those of one greedy address are refused.

import { readFileSync } from 'node:fs'
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
  type Sandbox,
  startFile,
  succeeded,
  workersOf,
} from '../support/server.ts'
import { until } from '../support/until.ts'

function opened(port: number, count: number): Promise<Client[]> {
  return Promise.all(Array.from({ length: count }, () => Client.connect(port)))
}

async function counts(box: Sandbox): Promise<number[]> {
  return workersOf(await box.status()).map(({ counters }) => counters.connections)
}

test('maxConnections: who comes beyond it waits, and is served when another goes', async () => {
  await inSandbox(async (box) => {
    const port = portOf(await box.start(box.file('app.js', echo(1, 'worker.maxConnections = 5'))))
    const clients = await opened(port, 8) // the kernel takes them
    for (const client of clients) client.send('x')
    await until(async () => (await box.status()).totals.messagesIn === 5)
    assert.equal(await counts(box), [5])
    for (const client of clients.splice(0, 3)) client.close()
    for (const client of clients) await client.line()
    assert.is((await box.status()).totals.messagesIn, 8)
    assert.equal(await counts(box), [5])
    for (const client of clients) client.close()
    await until(async () => (await counts(box))[0] === 0)
    for (let n = 0; n < 20; n++) await ask(port, 'again')
    await box.stop()
  })
})

test('what one worker does not take its sibling takes', async () => {
  await inSandbox(async (box) => {
    const port = portOf(await box.start(box.file('app.js', echo(2, 'worker.maxConnections = 10'))))
    const clients = await opened(port, 20)
    await Promise.all(clients.map((client) => client.ask('x')))
    assert.equal(await counts(box), [10, 10])
    await box.command('reload')
    await Promise.all((await opened(port, 20)).map(async (client) => client.ask('x').then(() => client.close())))
    for (const client of clients) client.close()
    await box.stop()
  })
})

test('maxConnectionsPerIp: one address has so many, another is served', async () => {
  await inSandbox(async (box) => {
    const port = portOf(await box.start(box.file('app.js', echo(1, 'worker.maxConnectionsPerIp = 3'))))
    const greedy = await opened(port, 5)
    for (const client of greedy) client.send('x')
    await until(() => greedy.filter(({ isClosed }) => isClosed).length === 2)
    assert.is((await box.status()).totals.refused, 2)
    assert.match(box.log(), /refused 127\.0\.0\.1: it has 3 connections \(maxConnectionsPerIp\)/)
    const other = net.connect({ port, host: '127.0.0.1', localAddress: '127.0.0.2' })
    let answer = ''
    other.on('data', (bytes) => {
      answer += bytes
    })
    other.write('y\n')
    await until(() => answer !== '')
    other.destroy()
    for (const client of greedy) client.close()
    await until(async () => (await counts(box))[0] === 0)
    assert.match(await ask(port, 'again'), /^again/)
    await box.stop()
  })
})

test('acceptRate: connections come no faster than that, and none is lost', async () => {
  await inSandbox(async (box) => {
    const port = portOf(await box.start(box.file('app.js', echo(1, 'worker.acceptRate = 50'))))
    const started = performance.now()
    const clients = await opened(port, 25)
    await Promise.all(clients.map((client) => client.ask('x')))
    const seconds = (performance.now() - started) / 1000
    assert.ok(seconds > 0.35, `25 connections in ${seconds} s`) // 5 at once, 20 at 50 a second
    for (const client of clients) client.close()
    await box.stop()
  })
})

test('connections that stay are spread over the workers of one port', async () => {
  await inSandbox(async (box) => {
    const port = portOf(await box.start(box.file('app.js', echo(4))))
    const clients = await opened(port, 400)
    await Promise.all(clients.map((client) => client.ask('x')))
    const all = await counts(box)
    assert.ok(Math.max(...all) < 3 * Math.min(...all), all.join(' '))
    for (const client of clients) client.close()
    await box.stop()
  })
})

test('descriptors that run out: connections wait, nobody is reset, it is said once, the CPU rests', async () => {
  await inSandbox(async (box) => {
    const module = box.file('app.js', echo(1))
    const args = ['-c', 'ulimit -n 160; exec "$@"', 'sh', process.execPath, startFile, 'start', '-d', module]
    succeeded(await box.spawn('sh', args).ended)
    const status = await box.status()
    const port = portOf(status)
    const clients = await opened(port, 200)
    for (const client of clients) client.send('x')
    await until(async () => (await box.status()).totals.messagesIn > 50)
    const [{ pid = 0 } = {}] = workersOf(status)
    const before = cpuTicks(pid)
    const since = performance.now()
    await until(() => performance.now() - since > 900) // it looks a few times whether there are free ones
    assert.ok(cpuTicks(pid) - before < 20, `${cpuTicks(pid) - before} ticks of 10 ms`)
    assert.is(clients.filter(({ isClosed }) => isClosed).length, 0)
    while (clients.length > 0) {
      const client = clients.shift()
      await client?.line()
      client?.close()
    }
    assert.is((await box.status()).totals.messagesIn, 200)
    assert.is(box.log().match(/descriptors run out/g)?.length, 1)
    await box.stop()
  })
})

const pausing = `
  worker.onMessage = (connection, line) => {
    if (line === 'pause') worker.pauseAccept()
    if (line === 'resume') worker.resumeAccept()
    if (line === 'unlisten') worker.unlisten()
    if (line === 'listen') return worker.listen().then(() => connection.send(line), (error) => connection.send(error.code))
    return connection.send(line + ' ' + process.pid)
  }`

/** The processes that answer so many connections of their own. */
async function answering(port: number, times = 30): Promise<string[]> {
  const pids = new Set<string>()
  for (let n = 0; n < times; n++) pids.add((await ask(port, 'x')).slice(2))
  return [...pids]
}

test('unlisten of the declared port, and listen() again', async () => {
  await inSandbox(async (box) => {
    const port = portOf(await box.start(box.file('app.js', echo(1, pausing))))
    const first = await Client.connect(port)
    assert.is(await first.ask('listen'), 'ERR_LISTENS_ALREADY') // it does
    await first.ask('unlisten')
    const waiting = await Client.connect(port)
    assert.is(await first.ask('listen'), 'listen')
    assert.match(await waiting.ask('x'), /^x /)
    first.close()
    waiting.close()
    await box.stop()
  })
})

for (const [what, isEveryDay, engine, more] of [
  ['the native engine', true, '', ''],
  ['the node engine', false, 'node', ''],
  ['sockets of their own', false, '', '\nworker.reusePort = true'],
] as const)
  caseTest(isEveryDay)(
    `pauseAccept, ${what}: siblings take what comes, or it waits; resumeAccept goes on`,
    async () => {
      await inSandbox(async (box) => {
        const flags = engine === '' ? [] : ['--engine', engine]
        const port = portOf(await box.start(box.file('app.js', echo(2, pausing + more)), ...flags))
        const first = await Client.connect(port)
        const pid = (await first.ask('pause')).slice(6)
        const others = await answering(port)
        assert.is(others.length, 1)
        assert.not(others.includes(pid))
        assert.is(await first.ask('still here'), `still here ${pid}`)
        const second = await Client.connect(port)
        assert.is(await second.ask('pause'), `pause ${others[0]}`)
        const waiting = await Promise.all(Array.from({ length: 8 }, () => Client.connect(port)))
        for (const client of waiting) client.send('x')
        second.close() // one less is no reason to go on
        assert.is(await first.ask('still here'), `still here ${pid}`)
        assert.is((await box.status()).totals.connections, 1)
        await first.ask('resume')
        for (const client of waiting) assert.is(await client.line(), `x ${pid}`)
        assert.equal(await answering(port), [pid])
        for (const client of [first, ...waiting]) client.close()
        await box.stop()
      })
    },
  )

longTest('pauseAccept in onWorkerStart: it begins like that, and a reload goes through', async () => {
  await inSandbox(async (box) => {
    const more =
      'worker.onWorkerStart = () => { worker.pauseAccept(); process.on("SIGUSR2", () => worker.resumeAccept()) }'
    const port = portOf(await box.start(box.file('app.js', echo(1, more))))
    succeeded(await box.command('reload'))
    const client = await Client.connect(port)
    client.send('x')
    const [{ pid = 0 } = {}] = workersOf(await box.status())
    assert.is((await box.status()).totals.connections, 0)
    process.kill(pid, 'SIGUSR2')
    assert.is(await client.line(), `x ${pid}`)
    client.close()
    await box.stop()
  })
})

/** User and system time, in 1/100 s. */
function cpuTicks(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, 'latin1').split(') ')[1]?.split(' ') ?? []
  return Number(fields[11]) + Number(fields[12])
}

test.run()
