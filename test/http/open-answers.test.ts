// Open answers whose head waits for a session, over real sockets on both engines: a client that reads at once never
// makes its connection full, and a handler that was told to wait must go on nevertheless.

import { test } from 'uvu'
import * as assert from 'uvu/assert'
import type { Request as HttpRequest } from '../../protocols/http/request.ts'
import { Chunk, Response, ServerSentEvents } from '../../protocols/http/response.ts'
import type { Session } from '../../protocols/http/settings.ts'
import type { Connection } from '../../src/connection.ts'
import { nativeEngine } from '../../src/net/native-engine.ts'
import { nodeEngine } from '../../src/net/node-engine.ts'
import type { Transport } from '../../src/transport.ts'
import { httpInMemory } from '../support/http.ts'
import { caseTest } from '../support/length.ts'
import { withServer } from '../support/tcp.ts'
import { nextTurn, until } from '../support/until.ts'

const native = nativeEngine()
const transports: readonly Transport[] = native === null ? [nodeEngine] : [nodeEngine, native]

/** Whose cookie takes a turn to be stored. */
const sessions = {
  load: async () => ({ getId: () => 'x' }) as Session,
  commit: async () => {
    await nextTurn()
    return 'sid=x'
  },
}

const chunk = (size: number) => new Chunk('y'.repeat(size))
const event = (size: number) => new ServerSentEvents({ data: 'y'.repeat(size) })

/** What is asked for, and the pieces that are sent: all of them, whatever `send` says, or one after the other. */
const CASES: [string, Record<string, string>, (Chunk | ServerSentEvents)[], string[]][] = [
  ['GET', { 'Transfer-Encoding': 'chunked' }, [chunk(1_100_000), chunk(5)], ['full', 'false', 'drain', 'true']],
  [
    'GET',
    { 'Transfer-Encoding': 'chunked' },
    [chunk(600_000), chunk(600_000), chunk(5)],
    ['true', 'full', 'false', 'drain', 'true'],
  ],
  ['HEAD', { 'Transfer-Encoding': 'chunked' }, [chunk(1_100_000), chunk(5)], ['full', 'false', 'drain', 'true']],
  ['GET', { 'Content-Type': 'text/event-stream' }, [event(1_100_000), event(5)], ['full', 'false', 'drain', 'true']],
]

/** Sends the pieces as README says: after a false, it waits for the drain. */
function sender(headers: Record<string, string>, pieces: (Chunk | ServerSentEvents)[], seen: string[]) {
  return async (connection: Connection<HttpRequest, unknown>, request: HttpRequest) => {
    let isDrained: () => void = () => undefined
    connection.onBufferFull = () => seen.push('full')
    connection.onBufferDrain = () => {
      seen.push('drain')
      isDrained()
    }
    await request.session()
    connection.send(new Response(200, headers))
    for (const piece of pieces) {
      const drained = new Promise<void>((resolve) => {
        isDrained = resolve
      })
      const goOn = connection.send(piece)
      seen.push(String(goOn))
      if (!goOn) await drained
    }
    connection.close()
  }
}

for (const transport of transports) {
  const it = caseTest(transport === transports.at(-1))

  it(`${transport.name}: who waits for the drain of pieces that waited for their head goes on`, async () => {
    for (const [method, headers, pieces, expected] of CASES) {
      const seen: string[] = []
      const onMessage = sender(headers, pieces, seen)
      await withServer(transport, httpInMemory({ sessions }), { onMessage: onMessage as never }, async (server) => {
        const client = await server.connect()
        client.socket.write(`${method} / HTTP/1.1\r\nHost: h\r\n\r\n`)
        await until(() => client.isClosed).catch((error) => assert.unreachable(`${method} ${seen}: ${error.message}`))
        assert.equal([seen, server.errors], [expected, []])
        const sent = client.received.split('\r\n\r\n').slice(1).join('').match(/y/g)?.length ?? 0
        const size = expected.length === 5 ? 1_200_005 : 1_100_005
        assert.is(sent, method === 'HEAD' ? 0 : size)
      })
    }
  })
}

test.run()
