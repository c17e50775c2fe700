// Answers to a client that does not read: they wait, or their connection ends, but none has a hole or is left out.

import { test } from 'uvu'
import * as assert from 'uvu/assert'
import type { Request } from '../../../protocols/http/request.ts'
import { Chunk, Response, ServerSentEvents } from '../../../protocols/http/response.ts'
import type { HttpSettings } from '../../../protocols/http/settings.ts'
import type { Connection } from '../../../src/connection.ts'
import type { Wire } from '../../../src/testing.ts'
import { serve as serveAny, shown, wire } from '../../support/http.ts'
import { nextTurn, until } from '../../support/until.ts'

type Handler = (connection: Connection<Request, unknown>, request: Request) => unknown

function serve(onMessage: Handler, limits: object = {}, settings: HttpSettings = {}): Wire<Request, unknown> {
  return serveAny({ onMessage, ...limits } as never, settings) as unknown as Wire<Request, unknown>
}

const get = (path: string) => wire(`GET ${path} HTTP/1.1¶Host: h¶¶`)
const OPEN = { 'Transfer-Encoding': 'chunked' }
const codesOf = ({ errors }: Wire<Request, unknown>) => errors.map(({ code }) => code)

/** What the client gets that reads a little whenever the server has nothing more to do. */
async function readSlowly(server: Wire<Request, unknown>, isDone: (text: string) => boolean): Promise<string> {
  let text = ''
  await until(async () => {
    await nextTurn()
    server.drain()
    text += shown(server.written())
    server.hold()
    return isDone(text) || server.socket.isDestroyed
  })
  return text
}

test('an open answer that fills the buffer ends with its terminator, and the next one begins behind it', async () => {
  const server = serve((connection, { path }) => {
    if (path === '/b') return void connection.send('next')
    connection.send(new Response(200, OPEN))
    while (connection.send(new Chunk('A'.repeat(10_000))));
    connection.send(new Chunk(''))
  })
  server.hold()
  server.receive(Buffer.concat([get('/a'), get('/b')]))
  server.drain()
  await nextTurn()
  const text = shown(server.written())
  assert.ok(text.includes('AAAA¶0¶¶HTTP/1.1 200 OK¶'), text.slice(-300))
  assert.ok(text.endsWith('¶next'), text.slice(-300))
  assert.equal(server.errors, [])
})

test('a stream over maxSendBufferSize waits for its client, and arrives whole', async () => {
  async function* pieces() {
    for (let n = 0; n < 10; n++) yield Buffer.alloc(50_000, 'x')
  }
  for (const fields of [{ 'Content-Length': 500_000 }, {}]) {
    const server = serve(
      (connection, { path }) => connection.send(path === '/b' ? 'next' : new Response(200, fields as never, pieces())),
      { maxSendBufferSize: 65_536 },
    )
    server.hold()
    server.receive(Buffer.concat([get('/a'), get('/b')]))
    const text = await readSlowly(server, (all) => all.endsWith('next'))
    assert.is([...text].filter((letter) => letter === 'x').length, 500_000 + 2) // and of 'next' and 'text/html'
    assert.match(text, /x(¶0¶¶)?HTTP\/1\.1 200 OK¶[^x]*text\/html/)
    assert.equal(server.errors, [])
    assert.ok(server.worker.counters.sendFail === 0)
  }
})

test('pipelined requests over maxSendBufferSize are answered one by one as the client reads, and none is left out', async () => {
  const server = serve((connection, { path }) => connection.send(`${path}${'.'.repeat(500)}`), {
    maxSendBufferSize: 1000,
  })
  const paths = ['/a', '/b', '/c', '/d']
  server.hold()
  server.receive(Buffer.concat(paths.map(get)))
  assert.ok(server.connection.getSendBufferQueueSize() < 2000)
  const text = await readSlowly(server, (all) => all.includes('/d.'))
  assert.equal(text.match(/\/[a-d](?=\.)/g), paths)
  assert.equal(server.errors, [])
})

test('a piece of an open answer that is refused ends its connection: what has a hole must not look whole', () => {
  const sent: boolean[] = []
  const server = serve(
    (connection) => {
      connection.send(new Response(200, OPEN))
      for (let n = 0; n < 4; n++) sent.push(connection.send(new Chunk('A'.repeat(600))))
      connection.send(new Chunk(''))
    },
    { maxSendBufferSize: 1000 },
  )
  server.hold()
  server.receive(get('/'))
  assert.equal(sent, [true, false, false, false])
  assert.equal(codesOf(server).slice(0, 2), [2, 4])
  assert.is(server.errors[1]?.error?.name, 'UsageError')
  assert.ok(server.socket.isDestroyed)
})

test('an event that finds the buffer full is left out as a whole, and told: its stream goes on', () => {
  const server = serve(
    (connection) => {
      connection.send(new Response(200, { 'Content-Type': 'text/event-stream' }))
      for (let n = 0; n < 3; n++) connection.send(new ServerSentEvents({ data: `${n}${'.'.repeat(1000)}` }))
    },
    { maxSendBufferSize: 1000 },
  )
  server.hold()
  server.receive(get('/'))
  server.drain()
  server.connection.send(new ServerSentEvents({ data: 'later' }))
  const text = shown(server.written())
  assert.equal(text.match(/data: \w+/g), ['data: 0', 'data: later'])
  assert.equal(codesOf(server), [2, 2])
})

test('who reads nothing of an open answer for too long is gone, as of a stream; who has nothing to read is not', () => {
  const server = serve((connection) => connection.send(new Response(200, { 'Content-Type': 'text/event-stream' })))
  server.receive(get('/'))
  server.advance(600_000)
  server.hold()
  server.connection.send(new ServerSentEvents({ data: 'x' }))
  server.advance(29_000)
  assert.is(server.connection.getStatus(false), 'ESTABLISHED')
  server.advance(60_000)
  assert.is(server.connection.getStatus(false), 'CLOSED')
  assert.equal(codesOf(server), [3])
})

test('a client is not stuck because as much is queued as at the last look: it has read all of that', async () => {
  async function* pieces() {
    for (let n = 0; n < 40; n++) yield Buffer.alloc(65_536, 'x')
  }
  const server = serve((connection) => connection.send(new Response(200, { 'Content-Length': 40 * 65_536 }, pieces())))
  server.hold()
  server.receive(get('/'))
  const queued = () => server.connection.getSendBufferQueueSize()
  let size = 0
  while (size < 40 * 65_536 && server.errors.length === 0) {
    await until(() => queued() >= 262_144 || size + queued() > 40 * 65_536)
    server.advance(30_000)
    server.drain()
    size += server.written().length
    server.hold()
  }
  assert.equal(server.errors, [])
})

test('a stream whose connection is ending is given up, and nothing of it is refused piece by piece', async () => {
  let given = 0
  let isReturned = false
  async function* endless() {
    try {
      for (;;) {
        await nextTurn()
        given++
        yield 'x'
      }
    } finally {
      isReturned = true
    }
  }
  for (const body of ['collect', 'stream'] as const) {
    given = 0
    isReturned = false
    const server = serve(
      async (connection) => {
        connection.send(new Response(200, {}, endless()))
        if (body === 'stream') return
        await until(() => given > 2)
        throw new Error('on purpose')
      },
      {},
      { body },
    )
    if (body === 'collect') server.receive(get('/'))
    else server.receive(wire('POST / HTTP/1.1¶Host: h¶Transfer-Encoding: chunked¶¶1¶a¶'))
    await until(() => given > 2)
    if (body === 'stream') server.receive(wire('no chunk¶'))
    await until(() => isReturned)
    assert.equal(codesOf(server), [body === 'collect' ? 4 : 3])
    assert.is(server.connection.getStatus(false), 'ENDING')
  }
})

test('a whole answer that nobody reads is held for writeTimeoutMs and no longer, be it the last or not', () => {
  for (const [last, keepAliveTimeoutMs] of [
    ['', 65_000],
    ['', 500],
    ['Connection: close¶', 65_000],
  ] as const) {
    const settings = { writeTimeoutMs: 1000, keepAliveTimeoutMs }
    const server = serve((connection) => connection.send(Buffer.alloc(5_000_000)), {}, settings)
    server.hold()
    server.receive(wire(`GET / HTTP/1.1¶Host: h¶${last}¶`))
    server.advance(900)
    assert.is(server.connection.getSendBufferQueueSize() > 5_000_000, true)
    server.advance(1700)
    assert.is(server.connection.getStatus(false), 'CLOSED', `${last} ${keepAliveTimeoutMs}`)
    assert.is(codesOf(server)[0], 3)
  }
})

test('a whole answer that is read at last is followed by the end of its connection, or by the next one', () => {
  for (const last of ['', 'Connection: close¶']) {
    const server = serve((connection) => connection.send(Buffer.alloc(5_000_000)), {}, { writeTimeoutMs: 1000 })
    server.hold()
    server.receive(wire(`GET / HTTP/1.1¶Host: h¶${last}¶`))
    server.advance(900)
    server.drain()
    assert.ok(server.written().length > 5_000_000)
    assert.is(server.connection.getStatus(false), last === '' ? 'ESTABLISHED' : 'ENDING')
    if (last === '') server.receive(get('/'))
    server.advance(10_000)
    assert.equal(server.errors, [])
  }
  const closing = serve((connection) => connection.close(Buffer.alloc(5_000_000)), {}, { writeTimeoutMs: 1000 })
  closing.hold()
  closing.receive(get('/'))
  closing.advance(2100)
  assert.is(closing.connection.getStatus(false), 'CLOSED')
})

test('the time between requests begins when the client has read its answer, also if the next one came before', () => {
  for (const size of [5_000_000, 100_000]) {
    for (const isPipelined of [true, false]) {
      const server = serve(
        (connection, { path }) => connection.send(path === '/next' ? 'next' : Buffer.alloc(size)),
        {},
        { keepAliveTimeoutMs: 3000 },
      )
      server.hold()
      server.receive(get('/'))
      if (isPipelined) server.receive(get('/next'))
      server.advance(9000)
      server.drain()
      if (!isPipelined) server.advance(2900)
      if (!isPipelined) server.receive(get('/next'))
      assert.match(shown(server.written().subarray(-50)), /¶next$/)
      server.advance(2900)
      assert.is(server.connection.getStatus(false), 'ESTABLISHED')
      server.advance(200)
      assert.equal([server.connection.getStatus(false), server.errors], ['CLOSED', []])
    }
  }
})

test('a client that reads nothing is given up, also if it is not read for having sent much ahead', () => {
  const limits = { keepAliveTimeoutMs: 2000, writeTimeoutMs: 3000 }
  const server = serve((connection) => connection.send(Buffer.alloc(100_000)), {}, limits)
  server.hold()
  server.receive(Buffer.concat(Array.from({ length: 10_000 }, () => get('/'))))
  server.advance(20_000)
  assert.is(server.connection.getStatus(false), 'CLOSED')
  assert.match(server.errors[0]?.message ?? '', /does not read/)
})

test('a client reads as long as it acknowledges bytes, though the kernel takes none for a while', () => {
  const server = serve((connection) => connection.send(Buffer.alloc(300_000)), {}, { writeTimeoutMs: 1000 })
  server.hold()
  server.receive(get('/'))
  for (let n = 20; n > 0; n--) {
    server.socket.inKernel = n * 1000
    server.advance(900)
  }
  assert.equal([server.connection.getStatus(false), server.errors], ['ESTABLISHED', []])
  server.advance(2000)
  assert.match(server.errors[0]?.message ?? '', /does not read its answer/)
})

test('a large answer arrives whole although its log throws, or its uploads cannot be removed', async () => {
  const fails = () => {
    throw new Error('on purpose')
  }
  const form = { fields: [], files: [], dispose: async () => fails() }
  const upload = wire('POST / HTTP/1.1¶Host: h¶Content-Type: multipart/form-data; boundary=X¶Content-Length: 1¶¶x')
  for (const [settings, request] of [
    [{ accessLog: fails }, get('/')],
    [{ uploads: {} }, upload],
  ] as const) {
    const server = serveAny({ onMessage: (connection) => connection.send('y'.repeat(400_000)) }, settings, {
      readUploads: async () => form,
    })
    server.hold()
    server.receive(request)
    await until(() => server.errors.length > 0)
    server.drain()
    assert.match(shown(server.written()), /^HTTP\/1\.1 200 .*¶¶y{400000}$/)
    assert.is(server.connection.getStatus(false), 'ENDING')
    assert.equal(
      server.errors.map(({ message }) => message),
      ['on purpose'],
    )
  }
})

test.run()
