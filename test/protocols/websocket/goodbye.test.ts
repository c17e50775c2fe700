// How a WebSocket ends while handlers are at work: the peer's goodbye is told whatever becomes of them, and ours is
// said whatever they obey.

import { test } from 'uvu'
import * as assert from 'uvu/assert'
import type { WebSocketSettings } from '../../../protocols/websocket/settings.ts'
import { kAbort } from '../../../src/connection/symbols.ts'
import { type Deferred, withResolvers } from '../../../src/deferred.ts'
import { http, websocket } from '../../../src/index.ts'
import { open } from '../../../src/testing.ts'
import { frame, masked } from '../../fixtures/websocket.ts'
import { shown, wire } from '../../support/http.ts'
import { nextTurn } from '../../support/until.ts'
import { ASK, framesIn, hex4, opened, type Server, serve, textsIn, waiting } from '../../support/websocket.ts'

const MESSAGE = masked(frame(0x81, 'one'))
/** 4000, with a reason. */
const GOODBYE = masked(frame(0x88, Buffer.from('\x0f\xa0bye', 'latin1')))

/** A server that notes how it ends. */
function noting(settings: WebSocketSettings, callbacks: object) {
  const heard: unknown[] = []
  const server = opened(settings, {
    onWebSocketClose: (_connection: unknown, code: number, reason: string) => void heard.push(`${code} ${reason}`),
    onClose: ({ closeCode, closeReason }: Server['connection']) => void heard.push(`${closeReason} ${closeCode}`),
    ...callbacks,
  })
  return { server, heard }
}

test('a goodbye that was received is told once and before onClose, however the handlers before it end', async () => {
  for (const [what, end, reason] of [
    ['they settle', (_server: Server, handler: Deferred<void>) => handler.resolve(), 'peer'],
    ['one fails', (_server: Server, handler: Deferred<void>) => handler.reject(new Error('on purpose')), 'handler'],
    ['the peer resets', (server: Server) => server.reset(), 'error'],
    ['the user destroys', (server: Server) => server.connection.destroy(), 'closed'],
  ] as const) {
    const handler = withResolvers()
    const { server, heard } = noting({}, { onMessage: () => handler.promise })
    server.receive(MESSAGE)
    server.receive(GOODBYE)
    assert.equal(heard, [], what)
    end(server, handler)
    await nextTurn()
    server.end()
    assert.equal(heard, ['4000 bye', `${reason} 4000`], what)
    handler.resolve()
    await nextTurn()
    assert.is(heard.length, 2, what)
  }
})

test('the answer to our goodbye is told when the handlers have settled, or their time is up', async () => {
  for (const isLate of [false, true]) {
    const { onMessage, finish } = waiting()
    const { server, heard } = noting({ closeTimeoutMs: 1000 }, { onMessage })
    server.receive(MESSAGE)
    server.connection.close()
    server.receive(GOODBYE)
    assert.equal(heard, [])
    if (isLate) server.advance(1000)
    else await finish()
    assert.equal(heard, ['4000 bye'])
    assert.is(server.connection.getStatus(false), 'ENDING')
    server.end()
    assert.equal(heard, ['4000 bye', 'closed 4000'])
    await finish()
    assert.equal([heard.length, server.errors], [2, []])
  }
})

/** Waits for nothing but the connection's signal, and fails with its reason. */
const obedient = ({ signal }: Server['connection']) =>
  new Promise<never>((_resolve, reject) => signal.addEventListener('abort', () => reject(signal.reason)))

const settled = async () => {
  for (let turn = 0; turn < 3; turn++) await nextTurn()
}

test('a handler that obeys the end of its worker lets the goodbye be said, and the answer to it be heard', async () => {
  for (const isTold of [true, false]) {
    const { server, heard } = noting({}, { onMessage: obedient })
    server.receive(MESSAGE)
    if (isTold) server.leave()
    server.connection[kAbort]()
    await settled()
    assert.equal(textsIn(server.written()), ['\x03\xf4service restart'])
    assert.equal([server.connection.getStatus(false), heard], ['ESTABLISHED', []])
    server.receive(GOODBYE)
    server.end()
    assert.equal([heard, server.errors], [['4000 bye', 'stopped 4000'], []])
  }
})

test('what is on its way to a server that has said its goodbye is still heard after a handler has obeyed', async () => {
  const { server } = noting({}, { onMessage: obedient })
  server.receive(MESSAGE)
  server.leave()
  server.connection[kAbort]()
  await settled()
  server.receive(MESSAGE)
  await settled()
  assert.equal([server.messages.length, server.connection.getStatus(false)], [2, 'ESTABLISHED'])
})

test('a handler that obeys answers the goodbye of the peer that came before', async () => {
  for (const hasEnded of [false, true]) {
    const { server, heard } = noting({}, { onMessage: obedient })
    server.receive(MESSAGE)
    server.receive(GOODBYE)
    if (hasEnded) server.end()
    server.connection[kAbort]()
    await settled()
    assert.equal(framesIn(server.written()), [hex4(4000)])
    server.end()
    assert.equal([heard, server.errors], [['4000 bye', 'peer 4000'], []])
  }
})

test('a handshake whose callback obeys the end of its worker is answered with 503', async () => {
  const server = serve({}, { onWebSocketConnect: obedient })
  server.receive(wire(ASK()))
  server.connection[kAbort]()
  await settled()
  assert.match(shown(server.written()), /^HTTP\/1\.1 503 .*service restart\n$/s)
  assert.equal([server.connection.getStatus(false), server.errors], ['ENDING', []])
})

test('a client whose handler obeys goes away, and says so', async () => {
  const server = serve()
  const client = open(websocket(), { role: 'client', onMessage: obedient as never })
  server.receive(client.written())
  server.connection.send('one')
  client.receive(server.written())
  client.connection[kAbort]()
  await settled()
  server.receive(client.written())
  assert.equal([server.connection.closeCode, server.connection.closeReason], [1001, 'peer'])
})

test('a handshake that is completed on an HTTP connection that leaves is refused as on a port of its own', async () => {
  for (const protocol of [websocket(), http({ websocket: websocket() })]) {
    const connected: unknown[] = []
    const onWebSocketConnected = () => void connected.push(true)
    const server = open(protocol as never, { onWebSocketConnected } as never)
    server.receive(wire(ASK()).subarray(0, 50))
    server.leave()
    server.receive(wire(ASK()).subarray(50))
    await settled()
    assert.match(shown(server.written()), /^HTTP\/1\.1 503 .*service restart\n$/s)
    assert.equal([connected, server.connection.getStatus(false)], [[], 'ENDING'])
  }
})

test('a peer that has sent FIN without a goodbye is not waited for at a drain, in whichever order they come', async () => {
  for (const acts of [
    ['end', 'leave'],
    ['leave', 'end'],
  ] as const) {
    const { onMessage, finish } = waiting()
    const { server, heard } = noting({}, { onMessage })
    server.receive(MESSAGE)
    for (const act of acts) server[act]()
    await finish()
    assert.equal([framesIn(server.written()), heard], [[], ['peer 1006']])
  }
})

test('a ping is answered before its callback is called, whatever that does', () => {
  const send = (connection: Server['connection']) => void connection.send('from the callback')
  const close = (connection: Server['connection']) => connection.close()
  const fail = () => assert.unreachable('on purpose')
  for (const [onWebSocketPing, next] of [
    [send, '166726f6d207468652063616c6c6261636b'],
    [close, hex4(1000)],
    [fail, hex4(1011)],
  ] as const) {
    const server = opened({}, { onWebSocketPing })
    server.receive(masked(frame(0x89, 'p')))
    assert.equal(framesIn(server.written()), ['a70', next])
  }
})

test.run()
