// The ways in which a server and a worker leave, with real clients: what is at work gets its time, and no more than that.

import { once } from 'node:events'
import { rmSync } from 'node:fs'
import net from 'node:net'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { addon } from '../../src/addon.ts'
import { frame, masked } from '../fixtures/websocket.ts'
import { caseTest, longTest } from '../support/length.ts'
import { RawWebSocket } from '../support/raw-websocket.ts'
import {
  ask,
  Client,
  echo,
  freePort,
  inSandbox,
  lives,
  portOf,
  type Sandbox,
  succeeded,
  workersOf,
} from '../support/server.ts'
import { until, within } from '../support/until.ts'

const engines = addon().newEngine === null ? ['node'] : ['native', 'node']

/** `slow` takes longer than a plain stop allows. */
const SLOW = `
  Worker.stopTimeout = 0.3
  worker.drainTimeoutMs = 20_000
  worker.onMessage = async (connection, line) => {
    if (line.startsWith('slow')) await new Promise((resolve) => setTimeout(resolve, 1200))
    connection.send(line)
  }`

async function atWork(box: Sandbox, more = SLOW): Promise<{ client: Client; pid: number; worker: number }> {
  const status = await box.start(box.file('app.js', echo(1, more)))
  const client = await Client.connect(portOf(status))
  client.send('slow')
  await until(async () => (await box.status()).totals.messagesIn === 1)
  return { client, pid: status.pid, worker: workersOf(status)[0]?.pid ?? 0 }
}

test('stop -g gives a handler the time that a plain stop would not', async () => {
  await inSandbox(async (box) => {
    const { client } = await atWork(box)
    const stopping = box.stop('-g')
    assert.is(await client.line(), 'slow')
    await stopping
    client.close()
  })
})

test('SIGQUIT is stop -g; SIGTERM is stop', async () => {
  await inSandbox(async (box) => {
    const graceful = await atWork(box)
    process.kill(graceful.pid, 'SIGQUIT')
    assert.is(await graceful.client.line(), 'slow')
    await until(() => !lives(graceful.pid))
    const plain = await atWork(box, SLOW.replace('1200', '600_000')) // however slow this machine is
    process.kill(plain.pid, 'SIGTERM')
    await until(() => plain.client.isClosed)
    assert.is(await plain.client.line().catch(() => 'cut'), 'cut')
    await until(() => !lives(plain.pid))
    assert.match(box.log(), /\[echo:0\] leaves with 1 connection, 1 unsettled handler unfinished/)
  })
})

for (const [title, set, isAnswered] of [
  ['a setting that cannot be does not keep it from draining', `worker.count = 'many'`, true],
  ['a drainTimeoutMs that cannot be is as it was declared', `worker.drainTimeoutMs = 'long'`, true],
  ['a drainTimeoutMs that was changed counts', 'worker.drainTimeoutMs = 100', false],
] as const)
  caseTest(set.includes('many'))(`SIGQUIT to a worker, at run time: ${title}`, async () => {
    await inSandbox(async (box) => {
      const { client, worker } = await atWork(box, `${SLOW}; worker.onWorkerActive = () => { ${set} }`)
      process.kill(worker, 'SIGQUIT')
      assert.is(await client.line().catch(() => 'cut'), isAnswered ? 'slow' : 'cut')
      client.close()
      await until(() => !lives(worker))
      assert.not.match(box.log(), /uncaught/)
      await box.stop()
    })
  })

test('a plain stop shortens a graceful one', async () => {
  await inSandbox(async (box) => {
    const hang = `${SLOW}; worker.drainTimeoutMs = 60_000; worker.onMessage = () => new Promise(() => {})`
    const { client, pid } = await atWork(box, hang)
    const graceful = box.begin('stop', '-g')
    await until(async () => (await box.status().catch(() => null))?.state !== 'running') // it may be gone already
    await box.stop()
    assert.not(lives(pid))
    assert.is((await graceful.ended).code, 0)
    client.close()
  })
})

test('a worker that is told to leave by itself drains, and another has its place meanwhile', async () => {
  await inSandbox(async (box) => {
    const hold = `worker.drainTimeoutMs = 60_000
      worker.onMessage = (connection, line) => {
        if (line === 'hold') worker.hold()
        connection.send(line + ' ' + process.pid)
      }`
    const status = await box.start(box.file('app.js', echo(1, hold)))
    const [{ pid: old, uptimeMs: readyAt } = { pid: 0, uptimeMs: 0 }] = workersOf(status)
    await until(async () => (workersOf(await box.status())[0]?.uptimeMs ?? 0) > readyAt + 1000) // it has served for so long
    assert.is(await ask(portOf(status), 'hold'), `hold ${old}`)
    process.kill(old, 'SIGQUIT')
    const workers = await until(async () => {
      const all = workersOf(await box.status())
      return all.some(({ pid, state }) => pid !== old && state === 'ready') && all
    }, 20_000)
    assert.is(workers.find(({ pid }) => pid === old)?.state, 'draining')
    assert.is(await ask(portOf(status), 'x'), `x ${workers.find(({ pid }) => pid !== old)?.pid}`)
    assert.match(box.log(), new RegExp(`pid ${old}: leaves by itself, starting another\n`))
    process.kill(old, 'SIGTERM')
    await until(async () => workersOf(await box.status()).length === 1)
    await box.stop()
  })
})

/** Each client keeps the process that it talks to in its drain, with `hold`. */
const HOLDS = `
  worker.drainTimeoutMs = 60_000
  worker.onMessage = (connection, line) => {
    if (line === 'hold') worker.hold()
    if (line === 'fail') Worker.stopAll(1)
    connection.send(line + ' ' + process.pid)
  }`

/**
 * The pid of the process that serves, once it has for so long that it may leave without being taken for a failure; not
 * one of those that have been told to leave.
 */
function lasting(box: Sandbox, told: readonly number[] = []): Promise<number> {
  return until(async () => {
    const found = workersOf(await box.status()).find(({ state, pid }) => state === 'ready' && !told.includes(pid))
    return found !== undefined && found.uptimeMs > 1500 && found.pid
  }, 20_000)
}

test('a worker that leaves by itself has a successor, too, while earlier ones of its slot drain', async () => {
  await inSandbox(async (box) => {
    const port = portOf(await box.start(box.file('app.js', echo(1, HOLDS))))
    const left: number[] = []
    for (let turn = 0; turn < 2; turn++) {
      const pid = await lasting(box, left)
      assert.is(await ask(port, 'hold'), `hold ${pid}`)
      process.kill(pid, 'SIGQUIT')
      left.push(pid)
    }
    const draining = await until(async () => {
      const some = workersOf(await box.status()).filter(({ state }) => state === 'draining')
      return some.length === left.length && some.map(({ pid }) => pid)
    }, 20_000)
    assert.equal(draining.sort(), left.sort())
    const [, pid] = (await ask(port, 'x')).split(' ')
    assert.not(left.includes(Number(pid)))
    await box.stop()
  })
})

longTest('a successor has what workers of its group have sent that leave by themselves at the same time', async () => {
  await inSandbox(async (box) => {
    const more = `
      worker.drainTimeoutMs = 20_000
      worker.onSendFail = (error, message) => Worker.log('told ' + message + ': ' + error.message)
      worker.onWorkerMessage = (from, message) => Worker.log('handled ' + message)
      worker.onWorkerStop = () => worker.worker(1).send('it of ' + worker.id)`
    const status = await box.start(box.file('app.js', echo(2, more)))
    await lasting(box)
    for (const { pid } of workersOf(status)) process.kill(pid, 'SIGQUIT')
    const seen = await until(() => {
      const some = box.log().match(/(handled|told) it of \d/g) ?? []
      return some.length === 2 && some
    })
    assert.equal(seen.sort(), ['handled it of 0', 'handled it of 1'])
    await box.stop()
  })
})

longTest(
  'a worker that leaves by itself with the exit code of a failure has a successor while it drains, and is counted as one',
  async () => {
    await inSandbox(async (box) => {
      const port = portOf(await box.start(box.file('app.js', echo(1, HOLDS))))
      const pid = await lasting(box)
      assert.is(await ask(port, 'hold'), `hold ${pid}`)
      assert.is(await ask(port, 'fail'), `fail ${pid}`)
      const [, next] = (await ask(port, 'x')).split(' ')
      assert.not.equal(Number(next), pid)
      assert.is(workersOf(await box.status()).find((one) => one.pid === pid)?.state, 'draining')
      assert.match(box.log(), new RegExp(`pid ${pid}: leaves by itself with exit code 1, starting another\n`))
      process.kill(pid, 'SIGTERM')
      const [worker] = await until(async () => {
        const workers = workersOf(await box.status())
        return workers.length === 1 && workers
      })
      assert.is(worker?.lastExit, 'exit 1')
      assert.is(worker?.failures, 1)
      await box.stop()
    })
  },
)

longTest(
  'a worker that leaves by itself while a reload holds its slot has a successor when that is given up',
  async () => {
    await inSandbox(async (box) => {
      const bad = box.file('bad', '')
      const more = `${HOLDS}
      worker.onWorkerStart = async () => {
        if (!existsSync('${bad}')) return
        Worker.log('about to fail')
        while (existsSync('${bad}')) await new Promise((resolve) => setTimeout(resolve, 20))
        throw new Error('planted')
      }`
      const code = `import { existsSync } from 'node:fs'\n${echo(1, more)}`
      rmSync(bad)
      const port = portOf(await box.start(box.file('app.js', code)))
      const pid = await lasting(box)
      assert.is(await ask(port, 'hold'), `hold ${pid}`)
      box.file('bad', '')
      const reloading = box.begin('reload')
      await until(() => box.log().includes('about to fail'), 20_000)
      process.kill(pid, 'SIGQUIT')
      await until(async () => workersOf(await box.status()).some(({ state }) => state === 'stopping'))
      rmSync(bad)
      assert.is((await reloading.ended).code, 6)
      const [, next] = (await ask(port, 'x')).split(' ')
      assert.not.equal(Number(next), pid)
      assert.is(workersOf(await box.status()).find((one) => one.pid === pid)?.state, 'draining')
      await box.stop()
    })
  },
)

longTest('signals that mean the master do nothing to a worker', async () => {
  await inSandbox(async (box) => {
    const { client, worker } = await atWork(box)
    process.kill(worker, 'SIGHUP')
    process.kill(worker, 'SIGUSR2')
    assert.is(await client.line(), 'slow')
    assert.is(workersOf(await box.status())[0]?.pid, worker)
    client.close()
    await box.stop()
  })
})

test('a hold keeps the process until it is released', async () => {
  await inSandbox(async (box) => {
    const more = `${SLOW}
      worker.onMessage = (connection, line) => {
        const release = worker.hold('upload')
        setTimeout(() => { Worker.log('upload done'); release() }, 1000)
        connection.close(line)
      }`
    await atWork(box, more)
    await box.stop('-g')
    assert.match(box.log(), /upload done/)
  })
})

longTest('a hold that is never released ends with the window, and the log names it', async () => {
  await inSandbox(async (box) => {
    const { client } = await atWork(box, `${SLOW}; worker.onWorkerStart = () => worker.hold('job 7')`)
    client.close()
    await box.stop()
    assert.match(box.log(), /leaves with .*1 hold \(job 7\) unfinished/)
  })
})

test('connection.signal aborts before the end, and the last answer arrives', async () => {
  await inSandbox(async (box) => {
    const more = `
      Worker.stopTimeout = 1
      worker.onMessage = (connection) => new Promise((resolve) => {
        connection.signal.addEventListener('abort', () => { connection.send(connection.signal.reason.code); resolve() })
      })`
    const { client } = await atWork(box, more)
    const stopping = box.stop()
    assert.is(await client.line(), 'ERR_WORKER_STOPPING')
    await stopping
    client.close()
  })
})

for (const engine of engines)
  caseTest(engine === engines[0])(
    `handlers that obey a signal leave nobody without a last word: ${engine}`,
    async () => {
      const app = `
      import { http, Worker, websocket } from 'millrace'
      const worker = new Worker('http://127.0.0.1:0', { protocol: http({ websocket: websocket() }), drainTimeoutMs: 1500 })
      const obey = (signal) => new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason)))
      worker.onMessage = (connection, { path, signal }) => obey(path === '/worker' ? worker.signal : signal)
      worker.onWebSocketConnect = (connection, { path }) => path === '/handshake' ? obey(connection.signal) : true
      worker.onWebSocketConnected = (connection, { path }) => {
        connection.onMessage = () => obey(path === '/worker' ? worker.signal : connection.signal)
      }
      Worker.runAll()`
      await inSandbox(async (box) => {
        const port = portOf(await box.start(box.file('app.js', app), '--engine', engine))
        const webSockets = await Promise.all(
          ['/worker', '/connection'].map((path) => RawWebSocket.open(port, '', path)),
        )
        for (const one of webSockets) await one.write(masked(frame(0x81, 'work')))
        const asked = ['/worker', '/connection'].map((path) => fetch(`http://127.0.0.1:${port}${path}`))
        const handshake = RawWebSocket.open(port, '', '/handshake')
        await until(async () => (await box.status()).totals.messagesIn === 4)
        const stopping = box.stop('-g')
        for (const one of webSockets) {
          await until(() => one.hasEnded || one.of('close').length > 0)
          assert.equal(
            one.of('close').map(({ payload }) => payload.readUInt16BE(0)),
            [1012],
          )
          await one.write(masked(frame(0x88, Buffer.from([3, 244]))))
          one.end()
        }
        for (const answer of asked) assert.is((await within(10_000, answer)).status, 503)
        assert.match((await within(10_000, handshake)).head, /^HTTP\/1\.1 503 /)
        ;(await handshake).destroy()
        await stopping
        assert.not.match(box.log(), /error \d/)
      })
    },
  )

for (const engine of engines)
  caseTest(engine === engines[0])(`an answer that a timer sends in pieces is sent to its end: ${engine}`, async () => {
    await inSandbox(async (box) => {
      const more = `
        import { Timer } from 'millrace'
        worker.drainTimeoutMs = 2400
        worker.onMessage = (connection) => {
          let left = Number.POSITIVE_INFINITY
          worker.signal.addEventListener('abort', () => (left = 12))
          const id = Timer.add(0.1, () => {
            if (left-- > 0) return connection.send('piece')
            Timer.del(id)
            connection.close('end')
          })
        }`
      const client = await Client.connect(
        portOf(await box.start(box.file('app.js', echo(1, more)), '--engine', engine)),
      )
      client.send('all of it')
      for (let n = 0; n < 8; n++) assert.is(await client.line(), 'piece')
      const stopping = box.stop('-g')
      for (let rest = 0, line = ''; line !== 'end'; rest++) {
        line = await client.line()
        assert.ok(line === 'end' ? rest > 10 : line === 'piece', `${rest} ${line}`)
      }
      await stopping
    })
  })

for (const engine of engines)
  caseTest(engine === engines[0])(`a proxy made of pipes waits for a slow answer: ${engine}`, async () => {
    const asked: net.Socket[] = []
    const upstream = net.createServer((socket) => {
      socket.on('error', () => undefined).once('data', () => asked.push(socket))
    })
    await once(upstream.listen(0, '127.0.0.1'), 'listening')
    const { port } = upstream.address() as net.AddressInfo
    const proxying = inSandbox(async (box) => {
      const more = `
        import { AsyncTcpConnection, Timer } from 'millrace'
        worker.drainTimeoutMs = 2000 // the quiet second is half of one then
        worker.onWorkerStop = () => { Timer.delay(0.8, () => Worker.log('quiet for long')) }
        worker.onConnect = (connection) => {
          const upstream = new AsyncTcpConnection('text://127.0.0.1:${port}')
          connection.pipe(upstream)
          upstream.pipe(connection)
          upstream.connect()
        }`
      const client = await Client.connect(
        portOf(await box.start(box.file('app.js', echo(1, more)), '--engine', engine)),
      )
      client.send('question')
      await until(() => asked.length > 0)
      const stopping = box.stop('-g')
      await until(() => box.log().includes('quiet for long'))
      asked[0]?.write('answer\n')
      assert.is(await client.line(), 'answer')
      client.close()
      await stopping
    })
    await proxying.finally(() => {
      for (const socket of asked) socket.destroy()
      upstream.close()
    })
  })

/** A server that reads nothing until it is told to. */
async function slowStore(port = 0): Promise<{ server: net.Server; port: number; sockets: net.Socket[]; read(): void }> {
  const sockets: net.Socket[] = []
  const server = net.createServer({ pauseOnConnect: true }, (socket) =>
    sockets.push(socket.on('error', () => undefined)),
  )
  await once(server.listen(port, '127.0.0.1'), 'listening')
  return {
    server,
    sockets,
    port: (server.address() as net.AddressInfo).port,
    read: () => {
      for (const socket of sockets) socket.resume()
    },
  }
}

for (const engine of engines)
  caseTest(engine === engines[0])(
    `what a client was given to send is sent, and its being open holds nothing: ${engine}`,
    async () => {
      const store = await slowStore()
      const draining = inSandbox(async (box) => {
        const more = `
        import { AsyncTcpConnection } from 'millrace'
        worker.drainTimeoutMs = 60_000
        const store = new AsyncTcpConnection('tcp://127.0.0.1:${store.port}', { maxSendBufferSize: 1e9 })
        worker.onWorkerStart = () => store.connect()
        worker.onMessage = (connection) => connection.send('taken ' + store.send(Buffer.alloc(2e7)))`
        const client = await Client.connect(
          portOf(await box.start(box.file('app.js', echo(1, more)), '--engine', engine)),
        )
        assert.is(await client.ask('receipt'), 'taken true')
        client.close()
        const stopping = box.begin('stop', '-g')
        const work = await until(async () =>
          /\d+ unsent bytes of 1 client/.exec(workersOf(await box.status())[0]?.work ?? ''),
        )
        assert.ok(work)
        store.read()
        succeeded(await stopping.ended)
        await until(() => store.sockets[0]?.readableEnded)
        assert.is(store.sockets[0]?.bytesRead, 2e7)
        assert.not.match(box.log(), /unfinished/)
      })
      await draining.finally(() => {
        for (const socket of store.sockets) socket.destroy()
        store.server.close()
      })
    },
  )

longTest(
  'what waits for a client to connect is sent as well; what the window leaves no time for is named',
  async () => {
    const port = await freePort()
    await inSandbox(async (box) => {
      const more = `
      import { AsyncTcpConnection } from 'millrace'
      worker.drainTimeoutMs = 60_000
      const [store, idle] = [1, 2].map(() => new AsyncTcpConnection('tcp://127.0.0.1:${port}'))
      store.onError = () => undefined
      store.onClose = () => store.reconnect(0.05)
      idle.send('waits for a connect() that never comes')
      worker.onMessage = (connection) => { store.connect(); store.send('late'); connection.send('taken') }`
      const module = box.file('app.js', echo(1, more))
      for (const isThere of [true, false]) {
        const client = await Client.connect(portOf(await box.start(module)))
        assert.is(await client.ask('receipt'), 'taken')
        client.close()
        const stopping = box.begin('stop', '-g')
        await until(async () => /4 unsent bytes of 1 client/.test(workersOf(await box.status())[0]?.work ?? ''))
        const store = isThere ? await slowStore(port) : null
        if (!isThere) await box.stop()
        succeeded(await stopping.ended)
        store?.read()
        await until(() => store === null || store.sockets[0]?.readableEnded)
        if (store !== null) assert.is(store.sockets[0]?.bytesRead, 4)
        else assert.match(box.log(), /leaves with 4 unsent bytes of 1 client unfinished/)
        store?.server.close()
      }
    })
  },
)

test('worker.signal aborts at the beginning', async () => {
  await inSandbox(async (box) => {
    const more = `${SLOW}
      worker.onWorkerStart = () => { worker.signal.addEventListener('abort', () => Worker.log('aborted')) }`
    const { client } = await atWork(box, more)
    const stopping = box.stop('-g')
    await until(() => box.log().includes('aborted'))
    assert.is(await client.line(), 'slow')
    await stopping
    client.close()
  })
})

test('what has been received is answered: pipelined, and one byte at a time', async () => {
  await inSandbox(async (box) => {
    const { client } = await atWork(box)
    const port = portOf(await box.status())
    const slowly = await Client.connect(port)
    slowly.socket.write('by')
    for (let n = 0; n < 20; n++) client.send(`line ${n}`)
    await until(async () => (await box.status()).totals.bytesIn > 150)
    const stopping = box.stop('-g')
    await until(async () => (await box.status().catch(() => null))?.state !== 'running') // it may be gone already
    for (const byte of 'tes\n') {
      slowly.socket.write(byte)
      await new Promise((resolve) => setTimeout(resolve, 20))
    }
    assert.is(await slowly.line(), 'bytes')
    assert.is(await client.line(), 'slow')
    for (let n = 0; n < 20; n++) assert.is(await client.line(), `line ${n}`)
    await stopping
  })
})

test('a client that half-closes gets its answers at a stop -g, whether it did so before or meanwhile', async () => {
  await inSandbox(async (box) => {
    const { client } = await atWork(box)
    const port = portOf(await box.status())
    const before = await Client.connect(port)
    before.socket.end('slow 1\nnext 1\n') // as `nc -N` and socat
    const meanwhile = await Client.connect(port)
    meanwhile.socket.write('slow 2\nnext 2\n')
    await until(async () => (await box.status()).totals.messagesIn === 3)
    const stopping = box.stop('-g')
    await until(async () => (await box.status().catch(() => null))?.state !== 'running') // it may be gone already
    meanwhile.socket.end()
    for (const [at, one] of [before, meanwhile].entries()) {
      assert.is(await one.line(), `slow ${at + 1}`)
      assert.is(await one.line(), `next ${at + 1}`)
      await until(() => one.isClosed)
    }
    assert.is(await client.line(), 'slow')
    await stopping
    assert.not.match(box.log(), /unfinished/)
  })
})

longTest('a handler that waits in a call of Node with connection.signal is told, and that is no error', async () => {
  await inSandbox(async (box) => {
    const more = `
      Worker.stopTimeout = 1
      const { setTimeout: sleep } = await import('node:timers/promises')
      worker.onMessage = (connection) => sleep(60_000, undefined, { signal: connection.signal })`
    const { client } = await atWork(box, more)
    await box.stop()
    await until(() => client.isClosed)
    assert.not.match(box.log(), /error 4|unfinished/)
  })
})

longTest('many holds with long reasons: the worker lives, and the log is short', async () => {
  await inSandbox(async (box) => {
    const more = `
      Worker.stopTimeout = 0.2
      worker.onMessage = (connection, line) => {
        for (let n = 0; n < 10_000; n++) worker.hold(n + ' ' + 'x'.repeat(1000))
        connection.send(line)
      }`
    const status = await box.start(box.file('app.js', echo(1, more)))
    const client = await Client.connect(portOf(status))
    assert.is(await client.ask('hold'), 'hold')
    // Its report is asked for each time; a line over the channel's limit would end the worker.
    for (let n = 0; n < 3; n++) assert.is(workersOf(await box.status())[0]?.incarnation, 1)
    assert.is(workersOf(await box.status())[0]?.pid, workersOf(status)[0]?.pid)
    client.close()
    await box.stop()
    assert.match(box.log(), /10000 holds \(0 x+, 1 x+, 2 x+, 3 x+, 4 x+, \.\.\.\) unfinished/)
  })
})

test('a client that never reads does not hold a stop up for longer than the window', async () => {
  await inSandbox(async (box) => {
    const more = `Worker.stopTimeout = 0.5; worker.maxSendBufferSize = 1e9; worker.onMessage = (connection) => { connection.send('x'.repeat(5e7)) }`
    const status = await box.start(box.file('app.js', echo(1, more)))
    const client = await Client.connect(portOf(status))
    client.socket.pause()
    client.send('x')
    await until(async () => (await box.status()).totals.bytesOut > 1e7)
    const started = performance.now()
    await box.stop()
    assert.ok(performance.now() - started < 10_000, 'well below the 30 s that a peer which does not read is given else')
    assert.not(lives(status.pid))
    client.close()
  })
})

test('a new connection during a graceful stop is refused at once', async () => {
  await inSandbox(async (box) => {
    const { client } = await atWork(box)
    const port = portOf(await box.status())
    const stopping = box.stop('-g')
    await until(async () => (await Client.connect(port).catch(({ code }) => code)) === 'ECONNREFUSED')
    assert.is(await client.line(), 'slow')
    await stopping
    client.close()
  })
})

longTest('each group has its own window', async () => {
  await inSandbox(async (box) => {
    const more = `${SLOW}
      const brief = new Worker({ name: 'brief', drainTimeoutMs: 100 })
      brief.onWorkerStart = () => brief.hold('for ever')`
    const { client } = await atWork(box, more)
    const stopping = box.stop('-g')
    await until(() => box.log().includes('[brief:0] leaves with 1 hold (for ever) unfinished'))
    assert.is(await client.line(), 'slow')
    await stopping
    client.close()
  })
})

test.run()
