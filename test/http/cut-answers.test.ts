// Answers to HTTP/1.0, whose end is that of the connection, over real sockets on both engines: one that is cut ends with a
// reset. A FIN would say that this was all of it, and a cache would keep it. The client is curl: Node's takes a reset that
// comes along with the last bytes for a FIN.

import { execFile } from 'node:child_process'
import { Readable } from 'node:stream'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import type { Request as HttpRequest } from '../../protocols/http/request.ts'
import { Chunk, Response } from '../../protocols/http/response.ts'
import type { Connection } from '../../src/connection.ts'
import { http } from '../../src/index.ts'
import { nativeEngine } from '../../src/net/native-engine.ts'
import { nodeEngine } from '../../src/net/node-engine.ts'
import type { Transport } from '../../src/transport.ts'
import { httpInMemory } from '../support/http.ts'
import { caseTest } from '../support/length.ts'
import { withServer, withUnixServer } from '../support/tcp.ts'
import { until } from '../support/until.ts'

type Handler = (connection: Connection<HttpRequest, unknown>, request: HttpRequest) => unknown

const native = nativeEngine()
const transports: readonly Transport[] = native === null ? [nodeEngine] : [nodeEngine, native]
const OPEN = { 'Transfer-Encoding': 'chunked' }
/** Exit codes of curl. */
const WHOLE = 0
const CHUNKS_MISSING = 18
const RESET = 56

/** Yields a piece, waits until the client has it, and fails. */
async function* failing(connection: Connection): AsyncGenerator<string> {
  yield 'one'
  await until(() => connection.bufferIsEmpty())
  throw new Error('on purpose')
}

async function* whole(): AsyncGenerator<string> {
  yield 'one'
  yield 'two'
}

/** Begins an open answer, and does something when its beginning has left. */
function begun(then: (connection: Connection<HttpRequest, unknown>) => unknown): Handler {
  return async (connection) => {
    connection.send(new Response(200, OPEN, 'one'))
    await until(() => connection.bufferIsEmpty())
    return then(connection)
  }
}

/** What is asked and done, and how the connection ends. */
const CASES: Record<string, { handle: Handler; ends: number; version?: string }> = {
  'a stream that fails': {
    handle: (connection) => connection.send(new Response(200, {}, failing(connection))),
    ends: RESET,
  },
  'a stream that fails while its connection is closing': {
    handle: (connection) => {
      connection.send(new Response(200, {}, failing(connection)))
      connection.close()
    },
    ends: RESET,
  },
  'a stream that fails, with chunks': {
    handle: (connection) => connection.send(new Response(200, {}, failing(connection))),
    version: '--http1.1',
    ends: CHUNKS_MISSING,
  },
  'a stream to its end': { handle: (connection) => connection.send(new Response(200, {}, whole())), ends: WHOLE },
  'an open answer whose handler fails': {
    handle: begun(() => Promise.reject(new Error('on purpose'))),
    ends: RESET,
  },
  'an open answer that is destroyed': { handle: begun((connection) => connection.destroy()), ends: RESET },
  'an open answer to its end': { handle: begun((connection) => connection.send(new Chunk(''))), ends: WHOLE },
  'an open answer that is closed': { handle: begun((connection) => connection.close()), ends: WHOLE },
  'events that are destroyed': {
    handle: async (connection) => {
      connection.send(new Response(200, { 'Content-Type': 'text/event-stream' }))
      await until(() => connection.bufferIsEmpty())
      connection.destroy()
    },
    ends: WHOLE,
  },
}

/** Yields a piece, and fails in the same turn. */
async function* failingAtOnce(): AsyncGenerator<string> {
  yield 'one'
  throw new Error('on purpose')
}

async function* failingFirst(): AsyncGenerator<string> {
  yield Promise.reject(new Error('on purpose'))
}

/** Answers that fail right behind their beginning, which has not left by then. */
const FAILING: Record<string, Handler> = {
  'a stream': (connection) => connection.send(new Response(200, {}, failingAtOnce())),
  'a stream, prepared': (connection) =>
    connection.send(new Response(200, { 'Content-Type': 'text/plain' }, failingAtOnce())),
  'a stream that is shorter than it says': (connection) =>
    connection.send(new Response(200, { 'Content-Length': '9' }, Readable.from(['one']))),
  'a stream that is longer than it says': (connection) =>
    connection.send(new Response(200, { 'Content-Length': '4' }, Readable.from(['one', 'two']))),
  'a handler': (connection) => {
    connection.send(new Response(200, OPEN, 'one'))
    throw new Error('on purpose')
  },
}

/** Its exit code. */
async function curl(...args: string[]): Promise<number> {
  return (await transfer(...args)).code
}

/** The exit code of curl, and what it has received. */
function transfer(...args: string[]): Promise<{ code: number; received: string }> {
  return new Promise((resolve) => {
    execFile('curl', ['-s', '-i', '-m', '10', ...args], (error, received) =>
      resolve({ code: Number(error?.code ?? 0), received }),
    )
  })
}

for (const transport of transports) {
  const it = caseTest(transport === transports.at(-1))

  it(`${transport.name}: an answer that ends with its connection ends with a reset if it is cut`, async () => {
    for (const [what, { handle, ends, version = '--http1.0' }] of Object.entries(CASES))
      await withServer(transport, httpInMemory(), { onMessage: handle as never }, async ({ endpoint }) => {
        assert.is(await curl(version, `http://${endpoint}/`), ends, what)
      })
  })

  it(`${transport.name}: of an answer that fails right behind its beginning the client gets that, and sees the cut`, async () => {
    for (const [what, handle] of Object.entries(FAILING))
      for (const [version, ends] of [
        ['--http1.1', CHUNKS_MISSING],
        ['--http1.0', what.includes('says') ? CHUNKS_MISSING : RESET],
      ] as const)
        await withServer(transport, http({ compress: true }), { onMessage: handle as never }, async (server) => {
          const { code, received } = await transfer(version, `http://${server.endpoint}/`)
          assert.match(received, /^HTTP\/1\.1 200 OK\r\n.*\r\n\r\none$/s, `${what}, ${version}`)
          assert.is(code, ends, `${what}, ${version}`)
          const [connection] = server.connections
          assert.equal([server.errors.length, connection?.closeReason], [1, 'handler'], what)
          await until(() => connection?.getStatus(false) === 'CLOSED')
        })
  })

  it(`${transport.name}: the 500 for a stream that fails before its first piece leaves, though the body is being read`, async () => {
    const handle: Handler = async (connection, { body }) => {
      connection.send(new Response(200, {}, failingFirst()))
      for await (const _bytes of body);
    }
    const settings = { onMessage: handle as never }
    await withServer(transport, http({ body: 'stream' }), settings, async ({ connect, errors }) => {
      const client = await connect()
      client.socket.write('POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nab')
      await until(() => client.hasEnded || client.isClosed)
      assert.match(client.received, /^HTTP\/1\.1 500 /)
      assert.is(errors[0], '4 on purpose')
    })
  })

  it(`${transport.name}: on a Unix socket, which has no reset, such an answer ends all the same`, async () => {
    const { handle } = CASES['a stream that fails'] as { handle: Handler }
    await withUnixServer(transport, httpInMemory(), { onMessage: handle as never }, async ({ endpoint, errors }) => {
      assert.is(await curl('--http1.0', '--unix-socket', endpoint, 'http://h/'), WHOLE)
      assert.equal(errors, ['4 on purpose'])
    })
  })
}

test.run()
