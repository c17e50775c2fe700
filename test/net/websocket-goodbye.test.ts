// The closing handshake of a WebSocket: what a client calls its end when that is complete, however the server then ends
// the connection (by FIN, or by a reset, as servers that destroy their sockets do, and load balancers), and that nothing
// holds it up.

import { createHash } from 'node:crypto'
import { once } from 'node:events'
import net from 'node:net'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import WebSocket from 'ws'
import { kHold, kRelease } from '../../src/connection/symbols.ts'
import { withResolvers } from '../../src/deferred.ts'
import { type AnyConnection, AsyncTcpConnection, Worker, websocket } from '../../src/index.ts'
import { nativeEngine } from '../../src/net/native-engine.ts'
import { nodeEngine } from '../../src/net/node-engine.ts'
import { nothing } from '../../src/nothing.ts'
import { frame } from '../fixtures/websocket.ts'
import { caseTest } from '../support/length.ts'
import { withServer } from '../support/tcp.ts'
import { nextTurn, until, within } from '../support/until.ts'

const GUID = '258EAFA5-E914-47DA-95CA-C5AB0DC85B11' // RFC 6455 section 1.3

/** Accepts the handshake, and calls `heard` for each read after it. */
function admit(socket: net.Socket, opened: () => void, heard: () => void): void {
  let head = ''
  socket
    .on('error', () => undefined)
    .on('data', (bytes) => {
      if (head.endsWith('\r\n\r\n')) return heard()
      head += bytes
      if (!head.endsWith('\r\n\r\n')) return
      const key = /Sec-WebSocket-Key: (.*)\r\n/.exec(head)?.[1]
      const accept = createHash('sha1').update(`${key}${GUID}`).digest('base64')
      socket.write(
        `HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ${accept}\r\n\r\n`,
      )
      opened()
    })
}

/** What a client calls its end. `serve` gets the server's socket, and a promise: both have said goodbye. */
async function endOf(
  serve: (socket: net.Socket, goodbye: Promise<void>) => void,
  onWebSocketConnected: (client: AnyConnection) => unknown,
): Promise<string> {
  const goodbye = withResolvers()
  const end = withResolvers<string>()
  const server = net.createServer((socket) => serve(socket, goodbye.promise))
  await once(server.listen(0, '127.0.0.1'), 'listening')
  const client = new AsyncTcpConnection(`ws://127.0.0.1:${(server.address() as net.AddressInfo).port}`, {
    onClose: ({ closeReason, closeCode }) => end.resolve(`${closeReason} ${closeCode}`),
  })
  Object.assign(client, { onWebSocketConnected, onWebSocketClose: () => goodbye.resolve() })
  try {
    client.connect()
    return await within(10_000, end.promise)
  } finally {
    client.destroy()
    server.close()
  }
}

const closing = (code: number) => frame(0x88, Buffer.of(code >> 8, code & 0xff))

for (const engine of nativeEngine() === null ? ['node'] : ['node', 'native'])
  for (const how of ['FIN', 'a reset'] as const)
    test(`${engine}: the code of a complete goodbye is kept when the server ends by ${how}`, async () => {
      /** Only then, so that a reset discards nothing of the goodbye. */
      const leaveAfter = (goodbye: Promise<void>, socket: net.Socket) =>
        void goodbye.then(() => (how === 'FIN' ? socket.end() : socket.resetAndDestroy()))
      Worker.engine = engine
      try {
        const answering = (socket: net.Socket, goodbye: Promise<void>) =>
          admit(socket, nothing, () => {
            socket.write(closing(1000))
            leaveAfter(goodbye, socket)
          })
        assert.is(await endOf(answering, (client) => client.close()), 'closed 1000')
        const beginning = (socket: net.Socket, goodbye: Promise<void>) =>
          admit(
            socket,
            () => socket.write(closing(4001)),
            () => leaveAfter(goodbye, socket),
          )
        assert.is(await endOf(beginning, nothing), 'peer 4001')
      } finally {
        Worker.engine = ''
      }
    })

const HOLDS: Record<string, (connection: AnyConnection) => void> = {
  'pauseRecv()': (connection) => connection.pauseRecv(),
  'a pipe whose destination is full': (connection) => connection[kHold](),
}

for (const engine of [nodeEngine, nativeEngine()])
  for (const [what, hold] of Object.entries(HOLDS))
    caseTest(engine === nodeEngine && what === 'pauseRecv()')(
      `${engine?.name}: the peer's goodbye is heard though ${what} holds back messages after ours`,
      async () => {
        const onMessage = (connection: AnyConnection) => {
          connection.close()
          hold(connection)
        }
        const protocol = websocket({ closeTimeoutMs: 1000 })
        await withServer(engine ?? nodeEngine, protocol, { onMessage }, async ({ endpoint, connections }) => {
          const client = new WebSocket(`ws://${endpoint}`)
          client.on('open', () => client.send('close'))
          const [code] = (await within(5000, once(client, 'close'))) as [number]
          await until(() => connections[0]?.getStatus(false) === 'CLOSED')
          assert.equal([code, connections[0]?.closeReason, connections[0]?.closeCode], [1000, 'closed', 1000])
        })
      },
    )

for (const engine of [nodeEngine, nativeEngine()])
  for (const [what, hold] of Object.entries(HOLDS))
    caseTest(engine === nodeEngine && what === 'pauseRecv()')(
      `${engine?.name}: after a goodbye ${what} in onClose holds back messages of the client's next life`,
      async () => {
        const onWebSocketConnected = (connection: AnyConnection) => connection.send('welcome')
        const callbacks = { onWebSocketConnected } as object
        await withServer(engine ?? nodeEngine, websocket(), callbacks, async ({ endpoint, connections }) => {
          const heard: unknown[] = []
          const client = new AsyncTcpConnection(`ws://${endpoint}`, { protocol: websocket() })
          client.onMessage = () => client.close()
          client.onClose = () => {
            client.onClose = null
            client.onMessage = (_client, message) => void heard.push(message)
            hold(client as AnyConnection)
            client.reconnect(0)
          }
          client.onConnect = () => void client.send('kept') // so its handshake is done under pauseRecv(), too
          client.connect()
          await until(() => connections.length === 2 && client.bufferIsEmpty())
          for (let turn = 0; turn < 10; turn++) await nextTurn() // the welcome would have been received by now
          assert.equal(heard, [])
          client.resumeRecv()
          client[kRelease]()
          await until(() => heard.length === 1)
          client.destroy()
        })
      },
    )

test.run()
