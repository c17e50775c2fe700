// Answers to HTTP/1.0, whose end is that of the connection, over real sockets on both engines: one that is cut ends with a
// reset. A FIN would say that this was all of it, and a cache would keep it. The client is curl: Node's takes a reset that
// comes along with the last bytes for a FIN.

import { execFile } from 'node:child_process'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import type { Request as HttpRequest } from '../../protocols/http/request.ts'
import { Chunk, Response } from '../../protocols/http/response.ts'
import type { Connection } from '../../src/connection.ts'
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

/** Its exit code. */
function curl(...args: string[]): Promise<number> {
  return new Promise((resolve) => {
    execFile('curl', ['-s', '-o', '/dev/null', '-m', '10', ...args], (error) => resolve(Number(error?.code ?? 0)))
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

  it(`${transport.name}: on a Unix socket, which has no reset, such an answer ends all the same`, async () => {
    const { handle } = CASES['a stream that fails'] as { handle: Handler }
    await withUnixServer(transport, httpInMemory(), { onMessage: handle as never }, async ({ endpoint, errors }) => {
      assert.is(await curl('--http1.0', '--unix-socket', endpoint, 'http://h/'), WHOLE)
      assert.equal(errors, ['4 on purpose'])
    })
  })
}

test.run()
