// A WebSocket that begins on a connection of HTTP which has had requests before: their handlers are none of its business.

import { test } from 'uvu'
import * as assert from 'uvu/assert'
import type { AnyConnection } from '../../../src/connection.ts'
import { http, websocket } from '../../../src/index.ts'
import { nativeEngine } from '../../../src/net/native-engine.ts'
import { nodeEngine } from '../../../src/net/node-engine.ts'
import { open } from '../../../src/testing.ts'
import { frame, masked } from '../../fixtures/websocket.ts'
import { deferred } from '../../support/codecs.ts'
import { shown, wire } from '../../support/http.ts'
import { caseTest } from '../../support/length.ts'
import { withServer } from '../../support/tcp.ts'
import { nextTurn, until } from '../../support/until.ts'

const GET = 'GET / HTTP/1.1¶Host: h¶¶'
const ASK =
  'GET /chat HTTP/1.1¶Host: h¶Upgrade: websocket¶Connection: Upgrade¶Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==¶Sec-WebSocket-Version: 13¶¶'
const HELLO = masked(frame(0x81, 'hello'))

/** HTTP that takes WebSockets, whose handler of a request answers at once and goes on until `work` has settled. */
function busyHttp(work: Promise<unknown>, onMessage?: (connection: AnyConnection, message: unknown) => unknown) {
  const seen: unknown[] = []
  const protocol = http({ websocket: websocket() })
  const server = open(
    protocol as never,
    {
      onWebSocketConnected: () => seen.push('connected'),
      onMessage: (connection: AnyConnection, message: unknown) => {
        seen.push(typeof message === 'string' ? message : 'request')
        if (typeof message === 'string') return undefined
        return onMessage === undefined ? connection.send('ok') && work : onMessage(connection, message)
      },
    } as never,
  )
  const statuses = () => shown(server.written()).match(/HTTP\/1.1 ...|\x88/g) ?? []
  return { server, seen, statuses }
}

test('a handshake on a connection of HTTP waits for the handler of the request before it', async () => {
  const asks = [
    [Buffer.concat([wire(`${GET}${ASK}`), HELLO])],
    [wire(GET), wire(ASK), HELLO],
    [wire(GET), ...Array.from(Buffer.concat([wire(ASK), HELLO]), (byte) => Buffer.of(byte))],
  ]
  for (const chunks of asks) {
    const work = deferred()
    const { server, seen, statuses } = busyHttp(work.promise)
    for (const chunk of chunks) server.receive(chunk)
    await nextTurn()
    assert.equal([statuses(), seen], [['HTTP/1.1 200'], ['request']])
    server.advance(600_000) // as long as its handler is at work
    work.resolve()
    await until(() => seen.length === 3)
    assert.equal([statuses(), seen], [['HTTP/1.1 101'], ['request', 'connected', 'hello']])
  }
})

test('a handler of HTTP that fails after its answer does so without a WebSocket', async () => {
  const work = deferred()
  const { server, seen, statuses } = busyHttp(work.promise)
  server.receive(wire(`${GET}${ASK}`))
  work.reject(new Error('late'))
  await until(() => server.errors.length > 0)
  assert.equal([statuses(), seen], [['HTTP/1.1 200'], ['request']])
  assert.is(server.connection.closeReason, 'handler')
})

test('nor does a handshake begin in the middle of a handler that was called late', async () => {
  const [first, second] = [deferred(), deferred()]
  let requests = 0
  const { server, seen, statuses } = busyHttp(first.promise, (connection) => {
    connection.send('ok')
    return requests++ === 0 ? first.promise : second.promise
  })
  server.receive(wire(`${GET}${GET}${ASK}`))
  first.resolve()
  await until(() => requests === 2)
  await nextTurn()
  assert.equal(statuses(), ['HTTP/1.1 200', 'HTTP/1.1 200'])
  second.resolve()
  await until(() => seen.length === 3)
  assert.equal([statuses(), seen], [['HTTP/1.1 101'], ['request', 'request', 'connected']])
})

test('who asks for a WebSocket and ends, behind a handler at work, is answered; and who floods it is not read', async () => {
  const work = deferred()
  const { server, seen, statuses } = busyHttp(work.promise)
  server.receive(wire(`${GET}${ASK}`))
  for (let n = 0; n < 3; n++) server.receive(masked(frame(0x81, 'x'.repeat(65_000))))
  assert.is(server.socket.isReading, false)
  server.end()
  await nextTurn()
  work.resolve()
  await until(() => server.connection.getStatus(false) !== 'ESTABLISHED')
  assert.equal([statuses()[1], seen.length], ['HTTP/1.1 101', 5])
})

for (const engine of [nodeEngine, nativeEngine()].filter((one) => one !== null))
  caseTest(engine === nodeEngine)(
    `${engine.name}: the same over a socket, with the handshake in the same packet`,
    async () => {
      const work = deferred()
      const seen: unknown[] = []
      const onMessage = (connection: AnyConnection, message: unknown) => {
        seen.push(message === 'hello' ? message : 'request')
        return message === 'hello' ? connection.send('welcome') : connection.send('ok') && work.promise
      }
      await withServer(engine, http({ websocket: websocket() }), { onMessage }, async ({ connect }) => {
        const client = await connect()
        client.socket.write(Buffer.concat([wire(`${GET}${ASK}`), HELLO]))
        await until(() => client.received.endsWith('ok'))
        await nextTurn()
        assert.equal(seen, ['request'])
        work.resolve()
        await until(() => client.received.endsWith('welcome'))
        assert.match(client.received, /ok\nHTTP\/1.1 101|okHTTP\/1.1 101/)
        assert.equal(seen, ['request', 'hello'])
      })
    },
  )

test.run()
