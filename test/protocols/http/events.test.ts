// Streams without an end of their own, events above all: how they end when their worker leaves, when their user closes,
// and when nothing comes any more.

import { test } from 'uvu'
import * as assert from 'uvu/assert'
import type { AccessLogEntry } from '../../../protocols/http/access-log.ts'
import type { Request } from '../../../protocols/http/request.ts'
import { Chunk, Response, ServerSentEvents } from '../../../protocols/http/response.ts'
import type { HttpSettings } from '../../../protocols/http/settings.ts'
import { kRenew } from '../../../src/connection/symbols.ts'
import type { Connection } from '../../../src/connection.ts'
import { codeOf } from '../../../src/errors.ts'
import { nothing } from '../../../src/nothing.ts'
import type { Wire } from '../../../src/testing.ts'
import { deferred } from '../../support/codecs.ts'
import { serve as serveAny, shown, wire } from '../../support/http.ts'
import { nextTurn, until } from '../../support/until.ts'

type Handler = (connection: Connection<Request, unknown>, request: Request) => unknown

function serve(onMessage: Handler, limits: object = {}, settings: HttpSettings = {}): Wire<Request, unknown> {
  return serveAny({ onMessage, ...limits } as never, settings) as unknown as Wire<Request, unknown>
}

const GET = wire('GET / HTTP/1.1¶Host: h¶¶')
const EVENTS = { 'Content-Type': 'text/event-stream' }

/** One event, and no other, until it is given up. */
async function* silence() {
  yield 'data: 1\n\n'
  await new Promise(() => undefined)
}

/** One event after the other, for ever. */
async function* chatter() {
  for (let n = 1; ; n++) {
    yield `data: ${n}\n\n`
    await nextTurn()
  }
}

/** Sends each event itself until its signal aborts. */
async function byHand(connection: Connection<Request, unknown>, { signal }: Request): Promise<void> {
  connection.send(new Response(200, EVENTS))
  while (!signal.aborted) {
    connection.send(new ServerSentEvents({ data: '1' }))
    await nextTurn()
  }
  if (connection.getStatus(false) === 'ESTABLISHED') assert.is(connection.send(new Chunk('')), true)
}

const stream = (body: AsyncIterable<string>, fields = EVENTS) => new Response(200, fields, body)

const HANDLERS: Readonly<Record<string, Handler>> = {
  silent: (connection) => connection.send(stream(silence())),
  talking: (connection) => connection.send(stream(chatter())),
  open: (connection) => {
    connection.send(new Response(200, EVENTS))
    connection.send(new ServerSentEvents({ data: '1' }))
  },
  byHand,
}

for (const [name, onMessage] of Object.entries(HANDLERS))
  test(`events (${name}) end with their terminator at the goodbye of their worker, and at a close()`, async () => {
    for (const [end, state, code] of [
      [(server: Wire<Request, unknown>) => server.goodbye(), 'ESTABLISHED', 'ERR_WORKER_STOPPING'],
      [(server: Wire<Request, unknown>) => server.connection.close(), 'CLOSED', 'ERR_CONNECTION_CLOSED'],
    ] as const) {
      let signal: AbortSignal | null = null
      const server = serve((connection, request) => {
        signal = request.signal
        return onMessage(connection, request)
      })
      server.receive(GET)
      await nextTurn()
      await nextTurn()
      end(server)
      const text = shown(server.written())
      assert.match(text, /data: 1\n\n¶.*0¶¶$/s)
      assert.is(server.connection.getStatus(false), state)
      assert.is(codeOf((signal as AbortSignal | null)?.reason), code)
      await nextTurn()
      await nextTurn()
      assert.equal([shown(server.written()), server.errors], ['', []])
    }
  })

test('events that begin when the goodbye has been said have a second before they end', async () => {
  let begin: () => void = () => assert.unreachable()
  const server = serve(async (connection) => {
    await new Promise<void>((resolve) => {
      begin = resolve
    })
    connection.send(new Response(200, EVENTS))
    connection.send(new ServerSentEvents({ data: '1' }))
  })
  server.receive(GET)
  server.leave()
  begin()
  await nextTurn()
  server.advance(999)
  assert.is(server.connection.getStatus(false), 'ESTABLISHED')
  server.advance(1)
  assert.is(server.connection.getStatus(false), 'ENDING')
  assert.match(shown(server.written()), /data: 1\n\n¶0¶¶$/)
})

test('events of a client that is to connect anew last as long as they like', async () => {
  const server = serve((connection) => connection.send(new Response(200, EVENTS)))
  server.connection[kRenew]()
  server.receive(GET)
  server.advance(60_000)
  server.connection[kRenew]()
  server.connection.send(new ServerSentEvents({ data: '1' }))
  assert.match(shown(server.written()), /Connection: close¶.*data: 1\n\n¶$/s)
  assert.is(server.connection.getStatus(false), 'ESTABLISHED')
})

test('a request that crosses the goodbye of its events is answered, and events that come too late are refused', async () => {
  const server = serve((connection, request) =>
    request.path === '/next' ? connection.send('next') : connection.send(new Response(200, EVENTS)),
  )
  server.receive(GET)
  server.goodbye()
  assert.is(server.connection.send(new ServerSentEvents({ data: 'late' })), false)
  server.receive(wire('GET /next HTTP/1.1¶Host: h¶¶'))
  assert.match(shown(server.written()), /¶0¶¶HTTP\/1\.1 200 .*Connection: close¶¶next$/)
  assert.is(server.connection.getStatus(false), 'ENDING')
  assert.equal(
    server.errors.map(({ message }) => message),
    ['its events have ended, since the worker is leaving'],
  )
})

test('a stream that waits for what does not come is cut by idleTimeoutMs, and 30 s after a close()', async () => {
  for (const fields of [EVENTS, { 'Content-Type': 'text/plain' }]) {
    const idle = serve((connection) => connection.send(stream(silence(), fields)), { idleTimeoutMs: 1000 })
    idle.receive(GET)
    await until(() => idle.connection.bytesWritten > 100)
    idle.advance(2000)
    assert.is(idle.connection.getStatus(false), 'CLOSED')
    assert.match(shown(idle.written()), /data: 1\n\n¶$/)
  }
  const closed = serve((connection) => connection.close(stream(silence(), { 'Content-Type': 'text/plain' })))
  closed.receive(GET)
  await until(() => closed.connection.bytesWritten > 100)
  closed.advance(29_000)
  assert.is(closed.connection.getStatus(false), 'ESTABLISHED')
  closed.advance(31_000)
  assert.is(closed.connection.getStatus(false), 'CLOSED')
  assert.match(shown(closed.written()), /data: 1\n\n¶$/)
})

test('a stream that is slow arrives whole, however long after a close()', async () => {
  let more: (text: string) => void = () => assert.unreachable()
  async function* slow() {
    for (let n = 0; n < 5; n++)
      yield await new Promise<string>((resolve) => {
        more = resolve
      })
  }
  const server = serve((connection) => connection.close(stream(slow(), { 'Content-Type': 'text/plain' })))
  server.receive(GET)
  for (const text of ['a', 'b', 'c', 'd', 'e']) {
    await nextTurn()
    server.advance(29_000)
    more(text)
  }
  await until(() => server.connection.getStatus(false) === 'ENDING')
  assert.match(shown(server.written()), /1¶a¶1¶b¶1¶c¶1¶d¶1¶e¶0¶¶$/)
})

test("an answer of events may have a body: its first piece, as in Workerman's example; whole is one with a length", () => {
  for (const [body, first] of [
    ['\r\n', '2¶¶¶'],
    ['', ''],
    [Buffer.from('data: 0\n\n'), '9¶data: 0\n\n¶'],
  ] as const) {
    const server = serve((connection) => {
      connection.send(new Response(200, EVENTS, body))
      connection.send(new ServerSentEvents({ data: '1' }))
    })
    server.receive(GET)
    const head = 'HTTP/1.1 200 OK¶Content-Type: text/event-stream¶Transfer-Encoding: chunked¶¶'
    assert.is(shown(server.written()), `${head}${first}9¶data: 1\n\n¶`)
    server.connection.send(new Chunk(''))
    assert.equal([shown(server.written()), server.errors], ['0¶¶', []])
  }
  const whole = serve((connection) =>
    connection.send(new Response(200, { ...EVENTS, 'Content-Length': 9 }, 'data: 0\n\n')),
  )
  whole.receive(GET)
  assert.match(shown(whole.written()), /Content-Length: 9¶¶data: 0\n\n$/)
  whole.receive(GET)
  assert.is(whole.messages.length, 2, 'the next request is served')
})

const get = (path: string) => wire(`GET ${path} HTTP/1.1¶Host: h¶¶`)

test('events that are ended by who hears that they end have one end, and the next answer begins behind it', () => {
  const logged: string[] = []
  const accessLog = ({ target }: AccessLogEntry) => logged.push(target)
  const server = serve(
    (connection, { path, signal }) => {
      if (path === '/next') return connection.send('next')
      signal.addEventListener('abort', () => connection.send(new Chunk('')))
      return connection.send(new Response(200, EVENTS))
    },
    {},
    { accessLog },
  )
  server.receive(GET)
  server.written()
  server.goodbye()
  server.receive(get('/next'))
  assert.match(shown(server.written()), /^0¶¶HTTP\/1\.1 200 .*¶¶next$/)
  assert.equal([logged, server.errors], [['/', '/next'], []])
})

/** One event; then its source waits, and does `leave` when it is given up. */
function leaving(leave: () => unknown): AsyncIterable<string> {
  const given = ['data: 1\n\n']
  const next = async () =>
    given.length > 0 ? { done: false, value: given.pop() as string } : new Promise<never>(nothing)
  return {
    [Symbol.asyncIterator]: () => ({
      next,
      async return() {
        leave()
        return { done: true, value: undefined }
      },
    }),
  }
}

test('events have one end and one line in the log, whatever their listener or their source does to the connection', async () => {
  const ways: Readonly<Record<'close' | 'end' | 'destroy', RegExp>> = { close: /^0¶¶$/, end: /^0¶¶$/, destroy: /^$/ }
  for (const [way, rest] of Object.entries(ways) as [keyof typeof ways, RegExp][]) {
    for (const isSource of [false, true]) {
      const logged: string[] = []
      const server = serve(
        (connection, { signal }) => {
          if (isSource) return connection.send(stream(leaving(() => connection[way]())))
          signal.addEventListener('abort', () => connection[way]())
          return connection.send(stream(silence()))
        },
        {},
        { accessLog: ({ target }) => logged.push(target) },
      )
      server.receive(GET)
      await nextTurn()
      assert.match(shown(server.written()), /data: 1\n\n¶$/)
      server.goodbye()
      assert.match(shown(server.written()), rest, `${way}, ${isSource}`)
      assert.equal([logged, server.errors], [['/'], []])
    }
  }
})

test('events that end by the signal of a client that has ended its side leave the request behind them its answer', async () => {
  const work = deferred()
  const server = serve(async (connection, { path, signal }) => {
    if (path === '/next') return work.promise.then(() => connection.send('next'))
    await nextTurn() // the client has ended by then
    signal.addEventListener('abort', () => connection.send(new Chunk('')))
    return connection.send(new Response(200, EVENTS))
  })
  server.receive(Buffer.concat([GET, get('/next')]))
  server.end()
  await until(() => server.connection.bytesWritten > 0)
  server.advance(1000)
  work.resolve()
  await until(() => server.connection.getStatus(false) !== 'ESTABLISHED')
  assert.match(shown(server.written()), /0¶¶HTTP\/1\.1 200 .*¶¶next$/)
})

test('a recording of events, which has a length, is sent to its end at a goodbye, a close() and a FIN', async () => {
  const fields = { ...EVENTS, 'Content-Length': 18 }
  for (const leave of [
    (server: Wire<Request, unknown>) => server.goodbye(),
    (server: Wire<Request, unknown>) => server.connection.close(),
    (server: Wire<Request, unknown>) => server.end(),
  ]) {
    const work = deferred()
    async function* recording() {
      yield 'data: 1\n\n'
      await work.promise
      yield 'data: 2\n\n'
    }
    const server = serve((connection) => connection.send(stream(recording(), fields as never)))
    server.receive(GET)
    await until(() => server.connection.bytesWritten > 0)
    leave(server)
    work.resolve()
    let text = ''
    await until(() => {
      text += shown(server.written())
      return text.includes('data: 2')
    })
    assert.match(text, /Content-Length: 18¶¶data: 1\n\ndata: 2\n\n$/)
    assert.equal(server.errors, [])
  }
})

test.run()
