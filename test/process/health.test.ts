// What probes see of a server: alive, ready, and not ready any more before the drain begins.

import { once } from 'node:events'
import { existsSync, rmSync, statSync } from 'node:fs'
import http from 'node:http'
import net from 'node:net'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import type { HealthAnswer } from '../../src/process/status/readiness.ts'
import { longTest } from '../support/length.ts'
import { probe } from '../support/probe.ts'
import { reload } from '../support/reload.ts'
import { ask, Client, echo, freePort, inSandbox, portOf, succeeded } from '../support/server.ts'
import { until, within } from '../support/until.ts'
import { withAddon } from '../support/where.ts'

async function judged(to: number | string, path: string): Promise<HealthAnswer & { code: number }> {
  const { code, body } = await probe(to, path)
  return { ...JSON.parse(body), code }
}

/** Whether it answers with this code. It may not listen yet. */
async function answers(to: number | string, path: string, code: number): Promise<boolean> {
  return (await probe(to, path).catch(() => null))?.code === code
}

test('alive from the start on, ready when everything serves, not ready when a group has fewer than it needs', async () => {
  await inSandbox(async (box) => {
    const health = await freePort()
    const more = `
      import { existsSync, watchFile } from 'node:fs'
      worker.minReady = 2
      worker.onWorkerStart = async () => {
        while (!existsSync('${box.directory}/go')) await new Promise((resolve) => setTimeout(resolve, 10))
      }
      const frail = new Worker('text://127.0.0.1:0', { name: 'frail' })
      frail.onMessage = () => process.exit(1)
      frail.onWorkerStart = () => { if (existsSync('${box.directory}/broken')) throw new Error('broken') }
      new Worker({ name: 'extra', minReady: 0, count: 2 })
      new Worker('text://127.0.0.1:0', { name: 'twin' }); new Worker({ name: 'twin' })`
    const module = box.file('app.js', echo(2, more))
    const server = box.begin('start', module, '--health', `http://127.0.0.1:${health}`)
    await until(() => answers(health, '/healthz', 200), 20_000)
    assert.is((await judged(health, '/readyz')).reason, 'the server is starting')
    box.file('go', '')
    await server.says(/Press Ctrl\+C/)

    const { code, status, reason, state, groups } = await judged(health, '/readyz')
    assert.equal([code, status, reason, state], [200, 'ready', '', 'running'])
    assert.equal(groups, [
      { name: 'echo', ready: 2, minReady: 2, count: 2 },
      { name: 'frail', ready: 1, minReady: 1, count: 1 },
      { name: 'extra', ready: 2, minReady: 0, count: 2 },
      { name: 'twin text://127.0.0.1:0', ready: 1, minReady: 1, count: 1 }, // as in /metrics: of two no one could tell which
      { name: 'twin', ready: 1, minReady: 1, count: 1 },
    ])

    box.file('broken', '')
    const frail = (await box.status()).groups[1]?.port ?? 0
    const client = await Client.connect(frail)
    client.send('die')
    await until(() => answers(health, '/readyz', 503))
    const red = await judged(health, '/readyz')
    assert.equal([red.status, red.reason], ['not ready', 'frail has 0 ready, and needs 1'])
    assert.is((await judged(health, '/healthz')).code, 200)
    client.close()
    await box.stop()
    assert.is((await server.ended).code, 0)
  })
})

test('only GET and HEAD, only its pages, and whoever says nothing, too much or nonsense is let go', async () => {
  await inSandbox(async (box) => {
    const path = join(box.directory, 'health.sock')
    const port = portOf(await box.start(box.file('app.js', echo()), '--health', `unix://${path}`))
    const head = await probe(path, '/readyz?verbose', 'HEAD')
    assert.equal([head.code, head.body, head.headers['cache-control']], [200, '', 'no-store'])
    assert.is((await probe(path, '/')).code, 404)
    assert.is((await probe(path, '/readyz/../etc/passwd')).code, 404)
    const { code, headers } = await probe(path, '/healthz', 'POST')
    assert.equal([code, headers.allow], [405, 'GET, HEAD'])
    for (const bytes of ['nonsense\r\n\r\n', `GET / HTTP/1.1\r\nX: ${'x'.repeat(100_000)}\r\n\r\n`]) {
      const socket = net.connect(path).on('error', () => undefined)
      socket.resume().end(bytes)
      await within(10_000, new Promise((resolve) => socket.once('close', resolve)))
    }
    const silent = Array.from({ length: 100 }, () => net.connect(path).on('error', () => undefined))
    assert.match(await ask(port, 'x'), /^x \d+$/)
    for (const socket of silent) socket.destroy()
    await until(() => answers(path, '/healthz', 200))
    await box.stop()
    assert.not.ok(existsSync(path))
  })
})

test('a connection gets one answer, however many requests it sends, and those that stay keep nobody out', async () => {
  await inSandbox(async (box) => {
    const path = join(box.directory, 'health.sock')
    await box.start(box.file('app.js', echo()), '--health', `unix://${path}`)
    for (const head of [
      'GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n',
      'GET /metrics HTTP/1.0\r\nConnection: keep-alive\r\n\r\n',
    ]) {
      const socket = net.connect(path).on('error', () => undefined)
      let text = ''
      socket.setEncoding('latin1').on('data', (more) => {
        text += more
      })
      socket.write(head.repeat(100))
      await within(10_000, new Promise((resolve) => socket.once('close', resolve)))
      assert.is(text.match(/^HTTP\/1\.1 200 OK\r$/gm)?.length, 1)
      assert.match(text, /^Connection: close\r$/m)
    }
    const staying = Array.from({ length: 100 }, () => net.connect(path).on('error', () => undefined))
    for (const socket of staying) socket.pause().write('GET /metrics HTTP/1.1\r\n')
    await Promise.all(staying.map((socket) => socket.connecting && once(socket, 'connect')))
    for (let n = 0; n < 3; n++) assert.is((await probe(path, '/healthz')).code, 200)
    for (const socket of staying) socket.destroy()
    await box.stop()
  })
})

withAddon('metrics: how many connections wait to be accepted, and may, and how busy the event loop is', async () => {
  await inSandbox(async (box) => {
    const path = join(box.directory, 'health.sock')
    const more = `worker.backlog = 7; worker.reusePort = true
      worker.onWorkerStart = () => { worker.pauseAccept(); process.on('SIGUSR2', () => worker.resumeAccept()) }`
    const port = portOf(await box.start(box.file('app.js', echo(1, more)), '--health', `unix://${path}`))
    const labels = `group="echo",worker="0",listener="127.0.0.1:${port}"`
    const shows = async (line: string) => (await probe(path, '/metrics')).body.includes(`\n${line}\n`)
    await until(() => shows(`millrace_accept_queue_limit{${labels}} 7`))
    await until(() => shows(`millrace_accept_queue_length{${labels}} 0`))
    const clients = [await Client.connect(port), await Client.connect(port)]
    await until(() => shows(`millrace_accept_queue_length{${labels}} 2`))
    process.kill((await box.status()).groups[0]?.workers[0]?.pid ?? 0, 'SIGUSR2')
    await until(() => shows(`millrace_accept_queue_length{${labels}} 0`))
    const { body } = await probe(path, '/metrics')
    const [, busy] = /^millrace_worker_event_loop_utilization\{group="echo",worker="0"\} (\S+)$/m.exec(body) ?? []
    assert.ok(Number(busy) > 0 && Number(busy) < 1, body)
    for (const client of clients) client.close()
    await box.stop()
  })
})

withAddon(
  'metrics: a server that stops has no accept queue, though others have the descriptors of its sockets',
  async () => {
    await inSandbox(async (box) => {
      const health = await freePort()
      const more = `worker.onMessage = (connection) => { connection.send('working'); return new Promise(() => {}) }`
      const port = portOf(await box.start(box.file('app.js', echo(1, more)), '--health', `http://127.0.0.1:${health}`))
      const client = await Client.connect(port)
      client.send('x')
      await client.line()
      const stopping = box.command('stop', '-t', '3')
      await until(async () => (await judged(health, '/readyz')).reason === 'the server is stopping')
      const probes = [await Client.connect(health), await Client.connect(health)]
      assert.not.match((await probe(health, '/metrics')).body, /^millrace_accept_queue/m)
      for (const one of [client, ...probes]) one.close()
      succeeded(await stopping)
    })
  },
)

test('metrics: what all processes have counted, the dead ones too, in both formats', async () => {
  await inSandbox(async (box) => {
    const path = join(box.directory, 'health.sock')
    const more = `worker.name = 'a "b"\\\\c'; const answer = worker.onMessage
      worker.onMessage = (connection, line) => line === 'die' ? process.exit(9) : answer(connection, line)`
    const port = portOf(await box.start(box.file('app.js', echo(1, more)), '--health', `unix://${path}`))
    const client = await Client.connect(port)
    await client.ask('one')
    await client.ask('two')
    await box.status() // a fresh report
    client.send('die')
    await until(() => client.isClosed)
    const name = 'a \\"b\\"\\\\c'
    const metrics = await until(async () => {
      const found = await probe(path, '/metrics')
      const isBack =
        /^millrace_workers_ready\{.*\} 1$/m.test(found.body) && /^millrace_worker_restarts_total\{/m.test(found.body)
      return isBack && found
    }, 20_000)
    assert.is(metrics.headers['content-type'], 'text/plain; version=0.0.4; charset=utf-8')
    const lines = metrics.body.split('\n')
    for (const line of [
      '# TYPE millrace_messages_total counter',
      `millrace_messages_total{group="${name}",worker="0",direction="in"} 2`,
      `millrace_connections_accepted_total{group="${name}",worker="0"} 1`,
      `millrace_connections{group="${name}",worker="0"} 0`,
      `millrace_worker_restarts_total{group="${name}",reason="exit 9"} 1`,
      'millrace_metrics_missing_workers 0',
      `millrace_worker_state{group="${name}",worker="0",state="ready"} 1`,
    ])
      assert.ok(lines.includes(line), `${line} in\n${metrics.body}`)
    assert.not.match(metrics.body, /^millrace_last_reload_success /m)
    await reload(box)
    box.file('app.js', 'throw new Error("broken")')
    assert.is((await box.command('reload')).code, 6)
    const { body } = await probe(path, '/metrics')
    assert.match(body, /^millrace_reloads_total\{result="succeeded"\} 1\nmillrace_reloads_total\{result="failed"\} 1$/m)
    assert.match(body, /^millrace_last_reload_success 0$/m)
    const at = Number(/^millrace_last_reload_timestamp_seconds ([\d.]+)$/m.exec(body)?.[1])
    assert.ok(Math.abs(Date.now() / 1000 - at) < 60, `${at}`)
    const open = await probe(path, '/metrics', 'GET', {
      accept: 'application/openmetrics-text;version=1.0.0,*/*;q=0.1',
    })
    assert.match(open.headers['content-type'] ?? '', /^application\/openmetrics-text; version=1\.0\.0/)
    assert.match(open.body, /^# TYPE millrace_messages counter\nmillrace_messages_total\{/m)
    assert.match(open.body, /^# TYPE millrace_build info\nmillrace_build_info\{version="[^"]+",node="[^"]+"\} 1$/m)
    assert.ok(open.body.endsWith('\n# EOF\n'))
    const sample =
      /^[a-z_]+(\{[a-z]+="(\\.|[^"\\])*"(,[a-z]+="(\\.|[^"\\])*")*\})? \d+(\.\d+)?$|^# (HELP|TYPE) .+$|^# EOF$/
    for (const line of open.body.trimEnd().split('\n')) assert.match(line, sample)
    await box.stop()
  })
})

test('a graceful stop is told to probes first: not ready, while it serves on; a plain stop does not wait', async () => {
  await inSandbox(async (box) => {
    const health = await freePort()
    const address = `http://127.0.0.1:${health}`
    const code = `Worker.health = '${address}'; Worker.stopDelayMs = 60_000`
    const server = await box.foreground(box.file('app.js', echo(1, code)))
    const port = portOf(await box.status())
    assert.ok(await answers(health, '/readyz', 200))
    server.process.kill('SIGQUIT')
    await until(() => answers(health, '/readyz', 503))
    assert.is((await judged(health, '/readyz')).reason, 'the server is stopping')
    assert.is((await judged(health, '/healthz')).code, 200)
    const line = await ask(port, 'x')
    process.kill(Number(line.split(' ')[1]), 'SIGKILL') // a process that is lost meanwhile is replaced as ever
    await until(async () => (await ask(port, 'x').catch(() => line)) !== line)
    const refused = await box.command('reload')
    assert.is(refused.code, 1)
    assert.match(refused.stderr, /the server (was|is being) stopped/)
    assert.is((await box.status()).state, 'stopping')
    assert.is((await server.end('SIGINT')).code, 0) // the second signal kills, and nobody comes back
  })
})

longTest('the drain begins when the delay is over', async () => {
  await inSandbox(async (box) => {
    const module = box.file('app.js', echo())
    const health = await freePort()
    await box.start(module, '--health', `http://127.0.0.1:${health}`, '--stop-delay', '300')
    const stopping = box.command('stop', '-g')
    await until(() => answers(health, '/readyz', 503))
    const { code } = await stopping
    assert.is(code, 0)
    assert.match(box.log(), /not ready any more, drains in 0\.3 s/)
    assert.not.ok(await answers(health, '/healthz', 200))
  })
})

test('a reload follows the address in the code, and is given up when that cannot be had', async () => {
  await inSandbox(async (box) => {
    const first = await freePort()
    const second = await freePort()
    const taken = net.createServer()
    await new Promise<void>((resolve) => taken.listen(0, '127.0.0.1', resolve))
    const takenPort = (taken.address() as net.AddressInfo).port
    const at = (port: number) => box.file('app.js', echo(1, `Worker.health = 'http://127.0.0.1:${port}'`))
    try {
      await box.start(at(first))
      assert.ok(await answers(first, '/healthz', 200))
      at(second)
      assert.is((await reload(box)).reason, '')
      assert.ok(await answers(second, '/readyz', 200))
      await assertRefused(first)
      at(takenPort)
      const { code, stderr } = await box.command('reload')
      assert.is(code, 5)
      assert.match(stderr, new RegExp(`listen 127\\.0\\.0\\.1:${takenPort} \\(health\\): EADDRINUSE`))
      assert.ok(await answers(second, '/readyz', 200))
      box.file(
        'app.js',
        echo(1, `Worker.health = 'http://127.0.0.1:${first}'; worker.onWorkerStart = () => { throw 1 }`),
      )
      assert.is((await box.command('reload')).code, 6)
      assert.ok(await answers(second, '/readyz', 200)) // not moved for code that does not come up
      await assertRefused(first)
      await box.stop()
      const start = await box.command('start', '-d', at(takenPort))
      assert.is(start.code, 5)
    } finally {
      taken.close()
    }
  })
})

async function assertRefused(port: number): Promise<void> {
  const { code } = (await probe(port, '/healthz').catch((error) => error)) as NodeJS.ErrnoException
  assert.is(code, 'ECONNREFUSED')
}

for (const [what, args, code, more, said] of [
  [
    'an address that is none',
    ['--health', '127.0.0.1:9090'],
    2,
    '',
    /--health: bad address '127\.0\.0\.1:9090': write http:/,
  ],
  ['a delay that is none', ['--stop-delay', '5s'], 2, '', /--stop-delay is a number of milliseconds, not '5s'/],
  ['an address in the code', [], 6, `Worker.health = 'tcp://127.0.0.1:1'`, /bad address 'tcp:/],
  ['more than there are', [], 6, 'worker.minReady = 3', /minReady of worker 'echo' is 3: it has 2/],
] as const) {
  test(`refused: ${what}`, async () => {
    await inSandbox(async (box) => {
      const outcome = await box.command('start', '-d', box.file('app.js', echo(2, more)), ...args)
      assert.is(outcome.code, code)
      assert.match(outcome.stderr, said)
    })
  })
}

test('a Unix socket that nobody serves any more is no obstacle', async () => {
  await inSandbox(async (box) => {
    const path = join(box.directory, 'health.sock')
    const module = box.file('app.js', echo())
    const server = await box.foreground(module, '--health', `unix://${path}`)
    await server.end('SIGKILL')
    assert.ok(statSync(path).isSocket())
    await until(() => box.pids().length === 0)
    await box.start(module, '--health', `unix://${path}`)
    assert.is((await judged(path, '/readyz')).status, 'ready')
    await box.stop()
  })
})

test('the file of the Unix socket of the probes is made anew when somebody has removed it', async () => {
  await inSandbox(async (box) => {
    const path = join(box.directory, 'health.sock')
    await box.start(box.file('app.js', echo()), '--health', `unix://${path}`)
    rmSync(path)
    await until(() => answers(path, '/readyz', 200))
    assert.match(box.log(), /health\.sock \(health\): somebody has removed it, it is made anew\n/)
    rmSync(path)
    await reload(box)
    assert.ok(await answers(path, '/readyz', 200)) // at once
    await box.stop()
    assert.not.ok(existsSync(path))
  })
})

test('a server that stops leaves the file of the probes to the server that has it by then', async () => {
  await inSandbox(async (box) => {
    const path = join(box.directory, 'health.sock')
    await box.start(box.file('app.js', echo()), '--health', `unix://${path}`)
    rmSync(path)
    const other = http.createServer((_, response) => response.end('another')).listen(path)
    try {
      await once(other, 'listening')
      await until(() => /health\.sock \(health\): EADDRINUSE/.test(box.log()))
      await reload(box)
      await box.stop()
      assert.is((await probe(path, '/')).body, 'another')
    } finally {
      other.close()
    }
  })
})

test.run()
