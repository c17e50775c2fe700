// How a WebSocket ends while handlers are at work: the peer's goodbye is told whatever becomes of them, and ours is
// said whatever they obey.

import { test } from 'uvu'
import * as assert from 'uvu/assert'
import type { WebSocketSettings } from '../../../protocols/websocket/settings.ts'
import { type Deferred, withResolvers } from '../../../src/deferred.ts'
import { frame, masked } from '../../fixtures/websocket.ts'
import { nextTurn } from '../../support/until.ts'
import { opened, type Server, waiting } from '../../support/websocket.ts'

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

test.run()
