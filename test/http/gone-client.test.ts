// A client that goes while its answer is pending, over real sockets on both engines. It sends FIN, as one does that only
// half-closes: so the answer still comes, but nothing waits for it without end.

import { Readable } from 'node:stream'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import type { Request as HttpRequest } from '../../protocols/http/request.ts'
import { Response as Answer } from '../../protocols/http/response.ts'
import type { HttpSettings } from '../../protocols/http/settings.ts'
import type { Connection } from '../../src/connection.ts'
import { codeOf } from '../../src/errors.ts'
import { type FetchApp, fetchHandler } from '../../src/http/fetch-handler.ts'
import { nativeEngine } from '../../src/net/native-engine.ts'
import { nodeEngine } from '../../src/net/node-engine.ts'
import type { Transport } from '../../src/transport.ts'
import { httpInMemory } from '../support/http.ts'
import { caseTest } from '../support/length.ts'
import { type Client, type TestServer, withServer } from '../support/tcp.ts'
import { until } from '../support/until.ts'

type Handler = (connection: Connection<HttpRequest, unknown>, request: HttpRequest) => unknown

const native = nativeEngine()
const transports: readonly Transport[] = native === null ? [nodeEngine] : [nodeEngine, native]
const GET = 'GET / HTTP/1.1\r\nHost: h\r\n\r\n'
const EVENTS = { 'Content-Type': 'text/event-stream' }

/** Waits for the signal, and says so. */
function aborted(signal: AbortSignal, seen: string[]): Promise<void> {
  return new Promise((resolve) => {
    const tell = () => {
      seen.push(`aborted ${codeOf(signal.reason)}`)
      resolve()
    }
    signal.addEventListener('abort', tell, { once: true })
  })
}

async function* events(request: HttpRequest, seen: string[]): AsyncGenerator<string> {
  try {
    yield 'data: 1\n\n'
    await aborted(request.signal, seen)
  } finally {
    seen.push('finally')
  }
}

function webEvents(seen: string[]): FetchApp {
  return ({ signal }) => {
    void aborted(signal, seen)
    const start = (control: ReadableStreamDefaultController) => control.enqueue(Buffer.from('data: 1\n\n'))
    const cancel = () => void seen.push('cancelled')
    return new Response(new ReadableStream({ start, cancel }), { headers: EVENTS })
  }
}

/** What a handler does that is interrupted, whether an answer begins before that, and what it notices. */
const PENDING: Record<string, { handle: (seen: string[]) => Handler; begins: boolean; sees: string[] }> = {
  'one that waits for the signal and returns': {
    handle: (seen) => (_connection, request) => aborted(request.signal, seen),
    begins: false,
    sees: ['aborted ERR_CLIENT_ENDED'],
  },
  'one that fails with the reason of the signal': {
    handle: (seen) => async (_connection, request) => {
      await aborted(request.signal, seen)
      throw request.signal.reason
    },
    begins: false,
    sees: ['aborted ERR_CLIENT_ENDED'],
  },
  'a generator of events': {
    handle: (seen) => (connection, request) => connection.send(new Answer(200, EVENTS, events(request, seen))),
    begins: true,
    sees: ['aborted ERR_CONNECTION_CLOSED', 'finally'],
  },
  'events of a web application': {
    handle: (seen) => fetchHandler(webEvents(seen)) as Handler,
    begins: true,
    sees: ['aborted ERR_CONNECTION_CLOSED', 'cancelled'],
  },
  'a stream that stalls': {
    handle: (seen) => (connection, request) => {
      const body = new Readable({ read: () => undefined }).on('close', () => seen.push('closed'))
      body.push('one')
      request.signal.addEventListener('abort', () => body.destroy(request.signal.reason))
      connection.send(new Answer(200, {}, body))
    },
    begins: true,
    sees: ['closed'],
  },
}

async function serving(
  transport: Transport,
  onMessage: Handler,
  use: (server: TestServer, client: Client) => Promise<unknown>,
  settings: HttpSettings = {},
): Promise<void> {
  await withServer(transport, httpInMemory(settings), { onMessage: onMessage as never }, async (server) => {
    await use(server, await server.connect({ allowHalfOpen: true }))
  })
}

for (const transport of transports) {
  const it = caseTest(transport === transports.at(-1))

  it(`${transport.name}: a handler hears that its client has ended, and what it does ends`, async () => {
    const cases = Object.entries(PENDING).map(([what, { handle, begins, sees }]) => {
      const seen: string[] = []
      return serving(transport, handle(seen), async ({ errors, connections }, client) => {
        client.socket.write(GET)
        await until(() => connections[0]?.bytesRead === GET.length && (!begins || client.received.includes('\r\n\r\n')))
        client.socket.destroy() // FIN: there is nothing unread
        const isDone = () => seen.length >= sees.length
        await until(isDone).catch((error) => assert.unreachable(`${what}: ${seen}: ${error.message}`))
        assert.equal(seen.sort(), sees, what)
        assert.equal(errors, [], what)
      })
    })
    await Promise.all(cases)
  })

  it(`${transport.name}: a client that ends its side has all its answers, however long they take`, async () => {
    const handle: Handler = async (connection, request) => {
      if (request.path === '/first') await aborted(request.signal, [])
      const start = performance.now()
      while (performance.now() - start < 0.3); // so that the connection has to let others have their turn
      connection.send('ok')
    }
    await serving(transport, handle, async ({ errors }, client) => {
      client.socket.end(`${GET.replace('/', '/first')}${GET.repeat(50)}`)
      await client.closed()
      assert.equal([client.received.split('200 OK').length - 1, errors], [51, []])
    })
  })
}

test.run()
