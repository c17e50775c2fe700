// A WebSocket piped both ways to a service over TCP, as websockify does it: what is owed at a drain, and the end of the
// service.

import { once } from 'node:events'
import net from 'node:net'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import WebSocket from 'ws'
import { kDrain, kLeave } from '../../src/connection/symbols.ts'
import { AsyncTcpConnection, type Connection, tcp, websocket } from '../../src/index.ts'
import { nativeEngine } from '../../src/net/native-engine.ts'
import { nodeEngine } from '../../src/net/node-engine.ts'
import type { Transport } from '../../src/transport.ts'
import { caseTest } from '../support/length.ts'
import { type TestServer, withServer } from '../support/tcp.ts'
import { until, within } from '../support/until.ts'

const engines = [nodeEngine, nativeEngine()].filter((one) => one !== null)

interface Proxied {
  readonly front: TestServer
  readonly client: WebSocket
  /** The service's end. */
  readonly service: net.Socket
  /** What the service has received. */
  readonly asked: () => string
  /** What the client has received, and at last its close code. */
  readonly heard: (string | number)[]
}

async function withProxy(engine: Transport, use: (proxied: Proxied) => Promise<void>): Promise<void> {
  const server = net.createServer({ allowHalfOpen: true })
  await once(server.listen(0, '127.0.0.1'), 'listening')
  const onWebSocketConnected = (connection: Connection) => {
    const upstream = new AsyncTcpConnection(`tcp://127.0.0.1:${(server.address() as net.AddressInfo).port}`)
    connection.pipe(upstream)
    upstream.pipe(connection)
    upstream.connect()
  }
  try {
    await withServer(engine, websocket(), { onWebSocketConnected } as never, async (front) => {
      const connected = once(server, 'connection')
      const client = new WebSocket(`ws://${front.endpoint}`)
      const heard: (string | number)[] = []
      client.on('message', (message) => heard.push(String(message))).on('close', (code) => heard.push(code))
      const [[service]] = (await within(5000, Promise.all([connected, once(client, 'open')]))) as [
        [net.Socket],
        unknown,
      ]
      let asked = ''
      service.on('data', (bytes) => {
        asked += bytes
      })
      try {
        await use({ front, client, service, heard, asked: () => asked })
      } finally {
        client.terminate()
        service.destroy()
      }
    })
  } finally {
    server.close()
  }
}

for (const engine of engines)
  caseTest(engine === engines[0])(
    `${engine.name}: the goodbye of a drain comes after an answer that a pipe owes`,
    async () => {
      await withProxy(engine, async ({ front, client, service, heard, asked }) => {
        client.send('question')
        await until(() => asked() === 'question')
        const [connection] = front.connections
        connection?.[kDrain]()
        connection?.[kLeave]()
        service.write('the ')
        await until(() => heard.length === 1)
        service.write('answer')
        await until(() => heard.includes(1012))
        assert.equal(heard, ['the ', 'answer', 1012])
        assert.equal(front.errors, [])
      })
    },
  )

for (const engine of engines)
  caseTest(engine === engines[0])(
    `${engine.name}: the end of the service closes the WebSocket by a close frame`,
    async () => {
      await withProxy(engine, async ({ front, client, service, heard, asked }) => {
        client.send('question')
        await until(() => asked() === 'question')
        service.end('bye')
        await until(() => heard.length > 1)
        assert.equal(heard, ['bye', 1000])
        await until(() => front.connections[0]?.getStatus(false) === 'CLOSED')
        assert.equal([front.connections[0]?.closeReason, front.errors], ['closed', []])
      })
    },
  )

test('what comes back from a WebSocket after the end of a pipe into it still arrives', async () => {
  const gate: (() => void)[] = []
  const answer = async (connection: Connection, message: unknown) => {
    await new Promise<void>((resolve) => gate.push(resolve))
    connection.send(`answer to ${message}`)
  }
  await withServer(nodeEngine, websocket(), { onMessage: answer } as never, async (service) => {
    const onConnect = (connection: Connection) => {
      const upstream = new AsyncTcpConnection(`ws://${service.endpoint}`)
      connection.pipe(upstream)
      upstream.pipe(connection)
      upstream.connect()
    }
    await withServer(nodeEngine, tcp, { onConnect } as never, async (front) => {
      const client = await front.connect({ allowHalfOpen: true })
      client.socket.end('question') // its FIN comes before the handshake of the upstream is over
      await until(() => gate.length === 1)
      for (const answer of gate) answer()
      await client.expect('answer to question')
      await until(() => client.hasEnded)
      await until(() => service.connections[0]?.getStatus(false) === 'CLOSED')
      assert.equal([service.connections[0]?.closeCode, service.errors, front.errors], [1000, [], []])
    })
  })
})

test.run()
