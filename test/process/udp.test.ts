// UDP servers as real processes, asked by strangers (socat, nc) and by a client of plain dgram: several processes on one
// port, reload, drain, stop; with the socket bound by the master (addon), on both engines, and by each process.

import dgram from 'node:dgram'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { addon } from '../../src/addon.ts'
import { canReusePort } from '../../src/net/udp.ts'
import { caseTest } from '../support/length.ts'
import { ask as askStream, freePort, inSandbox, portOf, type Sandbox, succeeded, workersOf } from '../support/server.ts'
import { until } from '../support/until.ts'

interface Side {
  readonly name: string
  readonly env: Readonly<Record<string, string>>
  /** The master binds the port, and hands its descriptor down. */
  readonly hasAddon: boolean
}

const NO_ADDON: Side = { name: 'no addon', env: { MILLRACE_ADDON: 'none' }, hasAddon: false }
const NATIVE: Side = { name: 'native engine', env: { MILLRACE_ENGINE: 'native' }, hasAddon: true }
const NODE: Side = { name: 'node engine', env: { MILLRACE_ENGINE: 'node' }, hasAddon: true }

/** Who binds the port, and who receives there. */
const SIDES =
  addon().sys === null ? [NO_ADDON] : addon().newEngine === null ? [NODE, NO_ADDON] : [NATIVE, NODE, NO_ADDON]

/** Whether several processes can have the port. */
const canShare = (side: Side) => side.hasAddon || canReusePort()

/** As `inSandbox`, once for each side; every day on the others only `where` they differ, and `rarely` on none. */
function onAllSides(
  title: string,
  use: (box: Sandbox, side: Side) => Promise<void>,
  where: 'sides differ' | 'sides agree' | 'rarely' = 'sides agree',
  sides = SIDES,
): void {
  for (const side of sides) {
    const isFirst = side === SIDES[0] && where !== 'rarely'
    const isEveryDay = isFirst || (where === 'sides differ' && side === NO_ADDON)
    caseTest(isEveryDay)(`${title} (${side.name})`, async () => {
      await inSandbox(async (box) => {
        Object.assign(box.env, side.env)
        await use(box, side)
      })
    })
  }
}

/** Answers `<message> <pid>`; `slow` takes longer than a plain stop allows. */
function app(count: number, more = ''): string {
  return `
    import { Worker } from 'millrace'
    Worker.stopTimeout = 0.3
    const worker = new Worker('udp://127.0.0.1:0', { name: 'echo', count, drainTimeoutMs: 20_000 })
    worker.onMessage = async (connection, message) => {
      if (String(message) === 'slow') await new Promise((resolve) => setTimeout(resolve, 3000))
      connection.send(message + ' ' + process.pid)
    }
    ${more}
    Worker.runAll()
  `.replace('count,', `count: ${count},`)
}

/** One datagram there and one back, from a port of its own; null when there is no answer. */
async function ask(port: number, message: string, ms = 5_000): Promise<{ answer: string; from: number } | null> {
  const socket = dgram.createSocket('udp4')
  let found: { answer: string; from: number } | null = null
  socket.on('error', () => undefined)
  socket.on('message', (bytes, { port: from }) => {
    found = { answer: bytes.toString(), from }
  })
  socket.send(message, port, '127.0.0.1')
  await until(() => found !== null, ms).catch(() => null)
  socket.close()
  return found
}

async function stranger(box: Sandbox, program: string, args: string[], line: string): Promise<string> {
  const running = box.spawn(program, args, { stdio: ['pipe', 'pipe', 'pipe'] })
  running.process.stdin?.end(line)
  await until(() => running.stdout !== '', 10_000)
  running.process.kill()
  await running.ended
  return running.stdout
}

test('strangers are answered: socat and nc', async () => {
  await inSandbox(async (box) => {
    const text = `
      const lines = new Worker('text://127.0.0.1:0', { name: 'lines', transport: 'udp' })
      lines.onMessage = (connection, line) => connection.send('Hello, ' + line)`
    const { groups } = await box.start(box.file('app.js', app(1, text)))
    const [raw, lines] = groups.map(({ port }) => port)
    assert.match(await stranger(box, 'socat', ['-t', '5', '-', `udp:127.0.0.1:${raw}`], 'hi'), /^hi \d+$/)
    assert.is(await stranger(box, 'nc', ['-u', '-w', '5', '127.0.0.1', `${lines}`], 'world\n'), 'Hello, world\n')
    await box.stop()
  })
})

onAllSides(
  'a peer is reached by its address from any process, and after a reload, from the port it knows',
  async (box, side) => {
    const more = `
      worker.onMessage = (connection, message) => {
        const [ip, port, ...words] = String(message).split(' ')
        try { worker.peerAt(ip, Number(port)).send(words.join(' ')) } catch (error) { connection.send(error.code) }
      }`
    const status = await box.start(box.file('app.js', app(canShare(side) ? 2 : 1, more)))
    const port = portOf(status)
    const [peer, teller] = [dgram.createSocket('udp4'), dgram.createSocket('udp4')]
    const heard: string[] = []
    peer.on('message', (bytes, from) => heard.push(`${bytes} from ${from.port}`))
    await new Promise((resolve) => peer.bind(0, '127.0.0.1', () => resolve(undefined)))
    try {
      const tell = (words: string) => teller.send(`127.0.0.1 ${peer.address().port} ${words}`, port, '127.0.0.1')
      tell('before')
      await until(() => heard.length === 1)
      succeeded(await box.command('reload', `${box.directory}/app.js`))
      tell('after')
      await until(() => heard.length === 2)
      assert.equal(heard, [`before from ${port}`, `after from ${port}`])
      for (const bad of ['localhost 80 x', '127.0.0.1 0 x', '127.0.0.1 70000 x'])
        assert.is((await ask(port, bad))?.answer, 'ERR_BAD_ADDRESS')
    } finally {
      peer.close()
      teller.close()
    }
    await box.stop()
  },
)

onAllSides('port 0 is one port, shown in status, and the counters are there', async (box) => {
  const status = await box.start(box.file('app.js', app(1)))
  const port = portOf(status)
  assert.ok(port > 0)
  assert.is(status.groups[0]?.address, `127.0.0.1:${port}`)
  assert.is((await ask(port, 'x'))?.from, port)
  const { messagesIn, messagesOut, bytesIn } = (await box.status()).totals
  assert.equal([messagesIn, messagesOut, bytesIn], [1, 1, 1])
  assert.match((await box.command('check', `${box.directory}/app.js`)).stdout, /udp:\/\/127\.0\.0\.1:0/)
  await box.stop()
})

onAllSides(
  'several processes share the port where Node can; elsewhere the start says what to do',
  async (box, side) => {
    const path = box.file('app.js', app(3))
    if (!canShare(side)) {
      for (const command of ['start', 'check']) {
        const { code, stderr } = await box.command(command, path)
        assert.is(code, 6, command)
        assert.match(stderr, /3 processes cannot share a UDP port on Node .*count: 1, the addon, or Node 23\.1/)
      }
      await box.start(box.file('app.js', app(1)))
      box.file('app.js', app(3))
      assert.is((await box.command('restart', '-d', path)).code, 6)
      assert.is((await box.status()).groups[0]?.count, 1) // it still runs
      await box.stop()
      return
    }
    const port = portOf(await box.start(path))
    const pids = new Set<string>()
    await until(async () => {
      for (const found of await Promise.all(Array.from({ length: 20 }, () => ask(port, 'x'))))
        pids.add(found?.answer.split(' ')[1] ?? '')
      return pids.size === 3
    }, 20_000)
    await box.stop()
  },
  'sides differ',
)

onAllSides('what is too much for the handlers is dropped, and status says so', async (box) => {
  const more = `worker.maxDatagramsInFlight = 1; worker.maxQueuedMessages = 1`
  const path = box.file('app.js', app(1, more))
  const port = portOf(await box.start(path))
  const socket = dgram.createSocket('udp4')
  for (let n = 0; n < 10; n++) socket.send('slow', port, '127.0.0.1')
  await until(async () => (await box.status()).totals.dropped >= 5)
  assert.match((await box.command('status')).stdout, /^dropped datagrams \d+$/m)
  socket.close()
  await box.stop()
})

onAllSides('text over UDP is named so, and the same port number may serve TCP', async (box) => {
  const port = await freePort()
  const text = `
    import { Worker } from 'millrace'
    for (const [name, transport] of [['stream', 'tcp'], ['datagrams', 'udp']]) {
      const worker = new Worker('text://127.0.0.1:${port}', { name, transport })
      worker.onMessage = (connection, line) => connection.send(name + ' ' + line)
    }
    Worker.runAll()`
  const path = box.file('app.js', text)
  const { groups } = await box.start(path)
  assert.equal(
    groups.map((group) => group.port),
    [port, port],
  )
  assert.is((await ask(port, 'x'))?.answer, 'datagrams x\n')
  assert.is(await askStream(port, 'x'), 'stream x')
  assert.match((await box.command('check', path)).stdout, /^datagrams +text, udp /m)
  await box.operate({ command: 'reload' })
  assert.is((await ask(port, 'y'))?.answer, 'datagrams y\n')
  await box.stop()
})

onAllSides(
  'reusePort is refused: the processes share one socket anyway',
  async (box) => {
    const path = box.file('app.js', app(1, 'worker.reusePort = true'))
    for (const command of ['check', 'start']) {
      const { code, stderr } = await box.command(command, path)
      assert.is(code, 6)
      assert.match(stderr, /reusePort of worker 'echo' is for TCP/)
    }
  },
  'rarely',
)

onAllSides(
  'a port that is taken is told at the start',
  async (box) => {
    const holder = dgram.createSocket('udp4')
    await new Promise<void>((bound) => holder.bind(0, '127.0.0.1', bound))
    const { port } = holder.address()
    const path = box.file('app.js', app(1).replace(':0', `:${port}`))
    const { code, stderr } = await box.command('start', path)
    assert.is(code, 5)
    assert.match(stderr, new RegExp(`bind 127.0.0.1:${port}: EADDRINUSE`))
    holder.close()
  },
  'rarely',
)

onAllSides(
  'a reload keeps the port, and a handler at work is waited for and answers from it',
  async (box, side) => {
    const path = box.file('app.js', app(1))
    const status = await box.start(path)
    const port = portOf(status)
    const slow = ask(port, 'slow', 10_000)
    await until(async () => (await box.status()).totals.messagesIn === 1)
    const { stdout } = succeeded(await box.command('reload', path))
    const old = workersOf(status)[0]?.pid
    assert.equal(await slow, { answer: `slow ${old}`, from: port })
    const after = await box.status()
    assert.is(portOf(after), port)
    assert.is((await ask(port, 'x'))?.answer, `x ${workersOf(after)[0]?.pid}`)
    assert.is(/stop-first: on this Node/.test(stdout), !canShare(side))
    await box.stop()
  },
  'sides differ',
)

// Else the port is nobody's for the time of a start: see the receipt's note above.
onAllSides(
  'where processes overlap, a reload under fire leaves no datagram without an answer',
  async (box, side) => {
    const path = box.file('app.js', app(2))
    const port = portOf(await box.start(path))
    let isOver = false
    let lost = 0
    let asked = 0
    const fire = (async () => {
      while (!isOver) {
        asked++
        if ((await ask(port, 'x', 2_000)) === null) lost++
      }
    })()
    for (let n = 0; n < 3; n++) await box.operate({ command: 'reload' })
    isOver = true
    await fire
    assert.ok(asked > 20, `only ${asked} asked`)
    // One that the kernel queued to the old socket between its last read and its close cannot be saved; a shared socket has
    // one queue, which outlives them all.
    assert.ok(lost <= (side === NATIVE ? 0 : 1), `${lost} of ${asked} lost`)
    await box.stop()
  },
  'sides agree',
  SIDES.filter(canShare),
)

onAllSides('stop -g waits for a handler, stop only as long as it may', async (box) => {
  const path = box.file('app.js', app(1))
  for (const [args, isAnswered] of [
    [['stop', '-g'], true],
    [['stop'], false],
  ] as const) {
    const port = portOf(await box.start(path))
    const slow = ask(port, 'slow', 4_500)
    await until(async () => (await box.status()).totals.messagesIn === 1)
    succeeded(await box.command(...args, path))
    assert.is((await slow) !== null, isAnswered, args.join(' '))
  }
})

onAllSides('what was sent before process.exit() has been sent', async (box) => {
  const last = `worker.onMessage = (connection) => {
      connection.send('last words')
      process.exit(0)
    }`
  const port = portOf(await box.start(box.file('app.js', app(1, last))))
  assert.is((await ask(port, 'x'))?.answer, 'last words')
  await box.stop()
})

onAllSides('a worker that is killed is replaced on the same port', async (box) => {
  const status = await box.start(box.file('app.js', app(1)))
  const pid = workersOf(status)[0]?.pid as number
  process.kill(pid, 'SIGKILL')
  await until(async () => {
    const found = await ask(portOf(status), 'x', 300)
    return found !== null && found.answer !== `x ${pid}`
  }, 20_000)
  await box.stop()
})

onAllSides('what a client in the process has begun is waited for', async (box) => {
  const client = `
    worker.onWorkerActive = () => {
      const client = new AsyncUdpConnection(worker.getSocketName())
      client.onMessage = async () => {
        Worker.log('the client begins')
        await new Promise((done) => setTimeout(done, 90))
        Worker.log('the client has ended')
      }
      client.send('x')
    }`
  const path = box.file('app.js', app(1, client).replace('{ Worker }', '{ AsyncUdpConnection, Worker }'))
  await box.start(path)
  await until(() => box.log().includes('the client begins'))
  succeeded(await box.command('stop', '-g', path))
  assert.match(box.log(), /the client has ended/)
})

test.run()
