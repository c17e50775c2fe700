// A connection leaves one process at a message boundary and goes on in another, and its peer notices nothing.

import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import net from 'node:net'
import { fileURLToPath } from 'node:url'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { frame } from '../../protocols/frame.ts'
import { text } from '../../protocols/text.ts'
import { kHandOver, kLeave, kTakeOver } from '../../src/connection/symbols.ts'
import { type AnyConnection, Connection } from '../../src/connection.ts'
import { nativeEngine } from '../../src/net/native-engine.ts'
import { nodeEngine } from '../../src/net/node-engine.ts'
import type { HandedOver, Transport } from '../../src/transport.ts'
import { deferred } from '../support/codecs.ts'
import { type TestServer, withServer } from '../support/tcp.ts'
import { nextTurn, until, within } from '../support/until.ts'

const native = nativeEngine()
const echo = (connection: AnyConnection, message: unknown) => connection.send(message)

function handOverTest(title: string, run: (engine: Transport) => Promise<unknown>): void {
  if (native !== null)
    test(title, async () => {
      await run(native)
    })
}

/** To the same process, by way of JSON, as it would be to another one. */
function takeOver(engine: Transport, server: TestServer, handed: HandedOver): AnyConnection {
  const state = JSON.parse(JSON.stringify(handed.state))
  const connection: AnyConnection = new Connection(engine.adopt(handed), text, server.worker)
  connection[kTakeOver]({ ...handed, state })
  return connection
}

handOverTest(
  'half a message, what was not sent and the counters go along; nobody is told of a close',
  async (engine) => {
    const received: unknown[] = []
    let closes = 0
    const settings = {
      maxSendBufferSize: 100_000_000,
      onMessage: (_connection: AnyConnection, line: unknown) => received.push(line),
      onClose: () => closes++,
    }
    await withServer(engine, text, settings, async (server) => {
      const client = await server.connect()
      const connection = await until(() => server.connections[0])
      client.socket.pause()
      client.socket.write('whole\nhal')
      await until(() => connection.bytesRead === 9)
      connection.send('z'.repeat(20_000_000))
      await nextTurn()
      const { signal } = connection
      const handed = connection[kHandOver]() as HandedOver
      assert.is(Buffer.from(handed.unread).toString(), 'hal')
      assert.ok(handed.unsent.length > 0)
      assert.equal([handed.bytesRead, handed.bytesWritten, handed.protocol], [6, 20_000_001, 'text'])
      assert.is(connection.getStatus(false), 'CLOSED')
      assert.ok(signal.aborted)
      assert.is(connection.send('nobody'), false)
      assert.equal([server.worker.connections.size, server.worker.counters.connections, closes], [0, 0, 0])
      const next = takeOver(engine, server, handed)
      next.send('after')
      client.socket.resume()
      client.socket.write('f\n')
      await until(() => received.length === 2)
      assert.equal(received, ['whole', 'half'])
      assert.is(next.bytesRead, 11)
      await until(() => client.chunks.reduce((sum, { length }) => sum + length, 0) === 20_000_007, 20_000)
      assert.is(client.received.slice(-8), 'z\nafter\n')
      assert.is(next.getRemotePort(), client.socket.localPort)
      client.socket.end()
      await until(() => closes === 1)
    })
  },
)

handOverTest('messages that wait for their turn are handled elsewhere, once each', async (engine) => {
  const received: string[] = []
  const spin = (ms: number) => {
    for (const end = performance.now() + ms; performance.now() < end; );
  }
  const onMessage = (_connection: AnyConnection, line: unknown) => {
    received.push(String(line))
    if (received.length % 16 === 0) spin(3) // longer than its share of the loop
  }
  await withServer(engine, text, { onMessage }, async (server) => {
    const client = await server.connect()
    let connection = await until(() => server.connections[0])
    const lines = Array.from({ length: 200 }, (_, at) => `${at}`)
    client.socket.write(`${lines.join('\n')}\n`)
    await until(() => received.length > 0)
    let handed = 0
    while (received.length < 200) {
      const given = connection[kHandOver]()
      if (given !== null) {
        connection = takeOver(engine, server, given)
        handed++
      }
      await nextTurn()
    }
    assert.equal(received, lines)
    assert.ok(handed > 1, `${handed}`)
  })
})

handOverTest('between messages, and not otherwise', async (engine) => {
  const gate = deferred()
  const onMessage = (connection: AnyConnection, line: unknown) => {
    if (line === 'inside') assert.is(connection[kHandOver](), null)
    return line === 'wait' ? gate.promise : connection.send(line)
  }
  await withServer(engine, text, { onMessage }, async ({ connect, connections, errors }) => {
    const clients = await Promise.all(Array.from({ length: 6 }, () => connect()))
    await until(() => connections.length === 6)
    const [waits, paused, ending, leaving, piped, inside] = connections as AnyConnection[]
    for (const { socket } of clients) socket.write('wait\n')
    await until(() => connections.every(({ bytesRead }) => bytesRead === 5))
    assert.is(waits?.[kHandOver](), null) // its handler is at work
    gate.resolve()
    await nextTurn()
    for (const { socket } of clients) socket.write('inside\n')
    for (const client of clients) await client.expect('inside\n')
    paused?.pauseRecv()
    assert.is(paused?.[kHandOver](), null)
    ending?.end()
    assert.is(ending?.[kHandOver](), null)
    leaving?.[kLeave]()
    assert.is(leaving?.[kHandOver](), null)
    piped?.pipe(inside as AnyConnection)
    assert.is(piped?.[kHandOver](), null)
    assert.is(inside?.[kHandOver](), null) // somebody pipes into it
    assert.equal(errors, [])
  })
})

handOverTest('another protocol does not take it over', async (engine) => {
  await withServer(engine, text, { onMessage: echo }, async (server) => {
    await server.connect()
    const connection = await until(() => server.connections[0])
    const handed = connection[kHandOver]() as HandedOver
    const other: AnyConnection = new Connection(engine.adopt(handed), frame, server.worker)
    assert.throws(
      () => other[kTakeOver](handed),
      (error: { code: string }) => error.code === 'ERR_NOT_IMPORTED',
    )
    other.destroy()
  })
})

test('the node engine gives none away, and the connection lives on', async () => {
  await withServer(nodeEngine, text, { onMessage: echo }, async ({ connect, connections }) => {
    const client = await connect()
    const connection = await until(() => connections[0])
    assert.is(connection[kHandOver](), null)
    client.socket.write('still here\n')
    await client.expect('still here\n')
  })
})

/** How often it changes its process. */
const TIMES = 1000

function peer(place: 'first' | 'second', link: 'pipe' | net.Socket): ChildProcess {
  const program = fileURLToPath(new URL('../support/hand-over-peer.js', import.meta.url))
  return spawn(process.execPath, [program, place, `${TIMES / 2}`], { stdio: ['ignore', 'pipe', 'inherit', link] })
}

function linesOf(child: ChildProcess): string[] {
  const lines: string[] = []
  let rest = ''
  child.stdout?.setEncoding('utf8').on('data', (chunk: string) => {
    const parts = `${rest}${chunk}`.split('\n')
    rest = parts.pop() ?? ''
    lines.push(...parts)
  })
  return lines
}

handOverTest('a stream of numbers goes back and forth between two processes a thousand times', async () => {
  const first = peer('first', 'pipe')
  const link = first.stdio[3] as net.Socket
  const second = peer('second', link)
  link.destroy() // theirs alone
  const said = [linesOf(first), linesOf(second)] as const
  try {
    const endpoint = await until(() => said[0][0], 20_000)
    const client = net.connect(Number(endpoint.split(':')[1]), '127.0.0.1')
    await within(5000, once(client, 'connect'))
    const isDone = () => said.every((lines) => lines.some((line) => line.startsWith('done')))
    const count = await within(100_000, counting(client, isDone))
    assert.ok(count > TIMES, `${count}`)
    client.end()
    const reports = said.flatMap((lines) => lines.filter((line) => line.startsWith('done')))
    assert.equal(
      said.flat().filter((line) => line.startsWith('error')),
      [],
    )
    console.log(`${count} numbers; ${reports.join(', ')}`)
    assert.ok(reports.some((line) => /"unread":[1-9]/.test(line)))
  } finally {
    for (const child of [first, second]) child.kill('SIGKILL')
  }
})

/** Sends numbers as fast as they come back, cut anywhere, until it is done and all are there; how many. */
async function counting(client: net.Socket, isDone: () => boolean): Promise<number> {
  const WINDOW = 2000
  let sent = 0
  let expected = 0
  let rest = ''
  let held = ''
  let wrong = ''
  client.setEncoding('latin1').on('data', (chunk: string) => {
    const lines = `${rest}${chunk}`.split('\n')
    rest = lines.pop() ?? ''
    for (const line of lines) if (line !== `${expected++}` && wrong === '') wrong = `${line} for ${expected - 1}`
  })
  for (;;) {
    if (wrong !== '') throw new Error(wrong)
    if (client.destroyed) throw new Error(`the connection has ended after ${expected} of ${sent}`)
    if (isDone() && expected === sent) return sent
    const most = isDone() ? 0 : Math.min(WINDOW - (sent - expected), 1 + ((sent * 7) % 300))
    let batch = held
    for (let n = 0; n < most; n++) batch += `${sent++}\n`
    held = isDone() ? '' : batch.slice(batch.length - (sent % 5))
    if (batch !== held) client.write(batch.slice(0, batch.length - held.length))
    await nextTurn()
  }
}

test.run()
