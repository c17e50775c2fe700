// What is sent while a request's session is being stored: pieces of an answer, a broadcast, and bytes past HTTP.

import { broadcast, Chunk, http, Response, ServerSentEvents, type SessionData, Sessions } from 'millrace'
import { open } from 'millrace/testing'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { deferred } from '../support/codecs.ts'
import { until } from '../support/until.ts'

/** A store that takes a while to write. */
function slowSessions(): { sessions: Sessions; stored: Map<string, SessionData>; finishWriting: () => void } {
  const stored = new Map<string, SessionData>()
  const gate = deferred()
  const store = {
    read: async (id: string) => stored.get(id) ?? null,
    write: async (id: string, data: Readonly<SessionData>) => {
      await gate.promise
      stored.set(id, data)
    },
    destroy: async (id: string) => {
      stored.delete(id)
    },
  }
  return { sessions: new Sessions({ store }), stored, finishWriting: () => gate.resolve() }
}

const GET = 'GET / HTTP/1.1\r\nHost: a\r\n\r\n'

test('a broadcast to an answer whose session is being stored is sent, and not counted as dropped', async () => {
  const { sessions, finishWriting } = slowSessions()
  let hasSent = false
  const wire = open(http({ sessions }), {
    async onMessage(connection, request) {
      const session = await request.session()
      session.set('a', 1)
      connection.send(new Response(200, { 'Content-Type': 'text/event-stream' }))
      hasSent = true
    },
  })
  wire.receive(GET)
  await until(() => hasSent)
  assert.equal(broadcast([wire.connection], new ServerSentEvents({ data: 'hello' })), {
    sent: 1,
    dropped: 0,
    closed: 0,
    conflated: 0,
  })
  finishWriting()
  await until(() => wire.written().includes('data: hello'))
})

test('behind events that a drain has ended, an answer in pieces with a session is whole', async () => {
  const { sessions, finishWriting } = slowSessions()
  const returned: boolean[] = []
  const wire = open(http({ sessions }), {
    async onMessage(connection, request) {
      if (request.path === '/events')
        return void connection.send(new Response(200, { 'Content-Type': 'text/event-stream' }))
      const session = await request.session()
      session.set('a', 1)
      connection.send(new Response(200, { 'Transfer-Encoding': 'chunked' }, 'a'))
      returned.push(connection.send(new Chunk('b')), connection.send(new Chunk('')))
    },
  })
  wire.receive('GET /events HTTP/1.1\r\nHost: a\r\n\r\n')
  wire.goodbye()
  wire.receive(GET)
  await until(() => returned.length === 2)
  assert.equal(returned, [true, true])
  finishWriting()
  let written = ''
  await until(() => {
    written += wire.written()
    return written.endsWith('1\r\na\r\n1\r\nb\r\n0\r\n\r\n')
  })
})

test('what a handler has put into a session is stored, even if its answer is raw', async () => {
  const { sessions, stored, finishWriting } = slowSessions()
  finishWriting()
  const wire = open(http({ sessions }), {
    async onMessage(connection, request) {
      const session = await request.session()
      session.set('user', 1)
      connection.send('HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok', true)
    },
  })
  wire.receive(GET)
  await until(() => stored.size === 1)
  assert.match(JSON.stringify([...stored.values()]), /user/)
})

test.run()
