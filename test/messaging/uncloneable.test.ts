// Our own objects in messages and shared data, which a clone would silently make empty.

import { test } from 'uvu'
import * as assert from 'uvu/assert'
import type { Request } from '../../src/index.ts'
import { AsyncTcpConnection, Response, Shared, Worker } from '../../src/index.ts'
import { pack } from '../../src/messaging/wire.ts'
import { serve, wire } from '../support/http.ts'

/** A request with a body, and its connection. */
function received(): { readonly request: Request; readonly connection: object } {
  const server = serve()
  server.receive(wire('POST / HTTP/1.1¶Host: h¶Content-Length: 5¶¶hello'))
  return { request: server.messages[0] as unknown as Request, connection: server.connection }
}

test('a message refuses them, by name, wherever they are in it', async () => {
  const { request, connection } = received()
  const tasks = new Worker({ name: 'tasks' })
  const own: [name: string, value: object][] = [
    ['RequestBody', request.body],
    ['Request', request],
    ['Connection', connection],
    ['Connection', new AsyncTcpConnection('tcp://127.0.0.1:1')],
    ['Response', new Response()],
    ['Worker', tasks],
    ['WorkerRef', tasks.worker(0)],
    ['WorkerGroup', Worker.group('tasks')],
    ['SharedMap', Shared.map('map')],
  ]
  for (const [name, value] of own)
    for (const message of [value, { id: 1, at: new Date(), value }, [1, value]]) {
      const refuses = ({ code, message }: { code: string; message: string }) =>
        code === 'ERR_CANNOT_CLONE' && (message.includes(`a ${name} stays in its process`) || name === 'Worker')
      assert.throws(() => pack(message), refuses, name)
      const shared = await Shared.map('map')
        .set('key', message)
        .catch((error) => error)
      assert.is(shared.code, 'ERR_SHARED_VALUE', name)
    }
})

test('what has their names only, and what they give, is sent', () => {
  const { request } = received()
  for (const message of [request.rawBody(), { ...request.headers }, new (class Request {})(), new Map([[1, 2]])])
    pack(message)
})

test.run()
