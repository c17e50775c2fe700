// The server's side of HTTP/1.1 connections, in memory: bodies whole, byte by byte and cut everywhere; pipelining, closing,
// early answers, deadlines.

import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { brotliDecompressSync, constants, createGzip, gunzipSync } from 'node:zlib'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import type { AccessLogEntry } from '../../../protocols/http/access-log.ts'
import { ChunkedDecoder } from '../../../protocols/http/chunked.ts'
import { HEAD_LIMITS } from '../../../protocols/http/head.ts'
import type { Request } from '../../../protocols/http/request.ts'
import { Chunk, Response, ServerSentEvents } from '../../../protocols/http/response.ts'
import type { BodyMode, HttpServices, HttpSettings } from '../../../protocols/http/settings.ts'
import { kAbort, kRenew } from '../../../src/connection/symbols.ts'
import type { Connection } from '../../../src/connection.ts'
import { codeOf } from '../../../src/errors.ts'
import { chunkings, type Wire } from '../../../src/testing.ts'
import { bodies } from '../../fixtures/http/bodies.ts'
import { serve as serveAny, shown, wire } from '../../support/http.ts'
import { oneByteAway, readChunks } from '../../support/http-grammar.ts'
import { atLength } from '../../support/length.ts'
import { randomBytes, randomCuts, randomOf, seedOf } from '../../support/random.ts'
import { nextTurn, until } from '../../support/until.ts'

type Handler = (connection: Connection<Request, unknown>, request: Request) => unknown

function serve(
  onMessage: Handler | null = null,
  settings: HttpSettings = {},
  limits: object = {},
): Wire<Request, unknown> {
  const callbacks = onMessage === null ? limits : { onMessage, ...limits }
  return serveAny(callbacks as never, settings) as unknown as Wire<Request, unknown>
}

const GET = 'GET / HTTP/1.1¶Host: h¶¶'
const OK = (body: string, more = '') =>
  `HTTP/1.1 200 OK¶Content-Type: text/html; charset=utf-8¶Content-Length: ${Buffer.byteLength(body)}¶${more}¶${body}`

const statusOf = (written: string) => Number(/^HTTP\/1\.1 (\d+)/.exec(written)?.[1] ?? 0)

test('bodies are read the same whatever way they come, and the next request behind them too', () => {
  for (const { title, text, body, trailer, status = 200 } of bodies) {
    const bytes = wire(`POST / HTTP/1.1¶Host: h¶${text}`)
    for (const chunks of chunkings(bytes)) {
      const seen: (string | undefined)[] = []
      const server = serve(
        (connection, request) => {
          seen.push(request.text(), trailer && request.trailer(trailer[0]))
          connection.send('ok')
        },
        {},
        { maxPackageSize: 1000 },
      )
      for (const chunk of chunks) server.receive(chunk)
      const how = `${title}, in ${chunks.length}`
      assert.is(statusOf(shown(server.written())), status, how)
      assert.equal(seen, body === undefined ? [] : [body, trailer?.[1]], how)
      assert.is(server.connection.getStatus(false), status === 200 ? 'ESTABLISHED' : 'ENDING', how)
      assert.is(server.errors.length, status === 200 ? 0 : 1, how)
      if (status !== 200) continue
      server.receive(wire(GET))
      assert.is(shown(server.written()), OK('ok'), `${how}, then another`)
    }
  }
})

test('every chunked body that is one byte away from a right one is what the grammar says', () => {
  const wholeIn = (text: string) => {
    for (let end = text.length; end > 0; end--) {
      const body = readChunks(text.slice(0, end))
      if (body !== null) return body
    }
    return undefined
  }
  let accepted = 0
  for (const text of ['5;a=b;c="\\"d"¶hello¶00¶X: y¶¶', '1¶x¶A ; e¶0123456789¶0¶¶'])
    for (const other of oneByteAway(wire(text).toString('latin1'))) {
      let body: string | undefined
      const decoder = new ChunkedDecoder(HEAD_LIMITS)
      let data = ''
      try {
        decoder.feed(Buffer.from(other, 'latin1'), 0, (part) => (data += part.toString('latin1')))
        if (decoder.isDone) body = data
      } catch (error) {
        assert.is(codeOf(error).startsWith('ERR_'), true)
      }
      if (body !== undefined) accepted++
      if (body !== readChunks(other)) assert.is(body, wholeIn(other), JSON.stringify(other))
    }
  assert.ok(accepted > 2000, `${accepted}`)
})

test('pipelined requests are answered in order, also by handlers that take their time', async () => {
  const server = serve(async (connection, { path }) => {
    if (path === '/slow') await nextTurn()
    connection.send(path)
  })
  server.receive(
    wire(
      'GET /slow HTTP/1.1¶Host: h¶¶GET /b HTTP/1.1¶Host: h¶¶POST /c HTTP/1.1¶Host: h¶Content-Length: 2¶¶xyGET /d HTTP/1.1¶Ho',
    ),
  )
  server.receive(wire('st: h¶¶'))
  await until(() => server.messages.length === 4)
  await nextTurn()
  assert.is(shown(server.written()), ['/slow', '/b', '/c', '/d'].map((path) => OK(path)).join(''))
})

test('an empty line behind a request is none: no time-out for what has not begun, and nothing that a drain waits for', () => {
  const server = serve((connection) => connection.send('ok'))
  server.receive(wire(`${GET}¶`))
  server.advance(20_000) // more than a head may take
  assert.is(shown(server.written()), OK('ok'))
  server.receive(wire(GET))
  assert.is(shown(server.written()), OK('ok'))
  server.receive(wire('¶'))
  server.leave()
  assert.equal([server.connection.getStatus(false), server.errors], ['ENDING', []])
  const split = serve((connection) => connection.send('ok'))
  for (const piece of [wire(GET), '\r', '\n']) split.receive(piece)
  split.advance(20_000)
  assert.equal([split.connection.getStatus(false), split.errors], ['ESTABLISHED', []])
  split.receive(wire('G'))
  split.advance(20_000)
  assert.is(split.errors[0]?.code, 3)
})

test('a fault behind an answer is the client’s, whoever completes that answer', async () => {
  async function* pieces() {
    yield 'a'
  }
  const answers = [() => 'late', () => new Response(200, {}, pieces()), () => new Response().withFile('a')]
  const openFile = async () => ({ status: 200, headers: [], size: 1, body: pieces() as never, close: () => undefined })
  for (const answer of answers) {
    let thrown: unknown = null
    const onMessage = async (connection: Connection<Request, unknown>) => {
      await nextTurn()
      try {
        connection.send(answer())
      } catch (error) {
        thrown = error
      }
    }
    const server = serveAny({ onMessage } as never, {}, { openFile })
    server.receive(wire(`${GET}GET  / HTTP/1.1¶¶${GET}`))
    await until(() => {
      server.advance(1)
      return server.errors.length > 0
    })
    const statuses = [...shown(server.written()).matchAll(/HTTP\/1\.1 (\d+)/g)].map(([, status]) => status)
    assert.equal([statuses, thrown], [['200', '400'], null])
    assert.equal(
      server.errors.map(({ code }) => code),
      [3],
    )
    assert.is(server.connection.getStatus(false), 'ENDING')
  }
})

test('an answer that cannot be made after all is a 500, and no end of the process', async () => {
  const openFile = async () => ({
    status: 200,
    headers: [['X', 'a\nb']] as const,
    size: 0,
    body: null,
    close: () => undefined,
  })
  for (const make of [
    () => new Response().withFile('a'),
    () => Object.assign(new Response(200, { 'Content-Type': 'text/plain' }, 'x'), { reason: 'a\nb' }),
    () => new Response(200, { 'Content-Type': 'text/plain', 'Content-Length': 7 }, 'x'),
    () => new Response(200, { 'Content-Type': 'text/plain' }, { a: 1 } as never),
    () => new Response(200, {}, 5 as never),
  ]) {
    const server = serveAny(
      { onMessage: (connection: Connection<Request, unknown>) => connection.send(make()) } as never,
      { compress: true },
      { openFile },
    )
    server.receive(wire(GET))
    await until(() => server.errors.length > 0)
    assert.is(statusOf(shown(server.written())), 500)
    assert.is(server.errors[0]?.code, 4)
  }
})

test('uploads are removed when their request is over, also when the client went before the answer', async () => {
  let disposed = 0
  const readUploads: HttpServices['readUploads'] = async (body) => {
    for await (const _ of body);
    return { fields: [], files: [], dispose: async () => void disposed++ }
  }
  const ask = 'POST / HTTP/1.1¶Host: h¶Content-Type: multipart/form-data; boundary=x¶Content-Length: 5¶¶--x--'
  const upload = (onMessage: unknown) => {
    const server = serveAny({ onMessage } as never, { uploads: {} }, { readUploads })
    server.receive(wire(ask))
    return server
  }
  const answered = upload((connection: Connection<Request, unknown>) => connection.send('ok'))
  await until(() => answered.messages.length === 1)
  assert.is(disposed, 1)
  let settle: () => void = () => assert.unreachable()
  const left = upload(() => new Promise<void>((resolve) => (settle = resolve)))
  await until(() => left.messages.length === 1)
  left.reset()
  await nextTurn()
  assert.is(disposed, 1, 'its handler is at work')
  settle()
  await until(() => disposed === 2)
  const early = upload(() => undefined)
  early.reset()
  await until(() => disposed === 3)
  assert.is(early.messages.length, 0)
})

test('a body of one-byte chunks costs what it holds, collected and streamed', async () => {
  setFlagsFromString('--expose-gc')
  const gc = runInNewContext('gc') as () => void
  const used = () => {
    gc()
    const { heapUsed, external } = process.memoryUsage()
    return heapUsed + external
  }
  const tiny = wire('1¶x¶'.repeat(10_000))
  for (const body of ['collect', 'stream'] as const) {
    const server = serve(() => new Promise(() => undefined), { body })
    server.receive(wire('POST / HTTP/1.1¶Host: h¶Transfer-Encoding: chunked¶¶'))
    const before = used()
    for (let n = 0; n < 40; n++) server.receive(tiny)
    // What the paused connection has not been given waits in the test's own hands: 60,000 bytes each.
    assert.ok(used() - before < 4_000_000, `${body}: ${used() - before} bytes`)
    assert.is(server.socket.isReading, body === 'collect')
    server.reset()
  }
})

test('a large body that was collected, and whose stream nobody reads, holds nobody up', async () => {
  const server = serve((connection, request) => connection.send(String(request.rawBody().length)))
  const large = `POST / HTTP/1.1¶Host: h¶Content-Length: 600000¶¶${'x'.repeat(600_000)}`
  for (let n = 0; n < 2; n++) {
    server.receive(wire(large))
    assert.is(shown(server.written()), OK('600000'))
    assert.is(server.socket.isReading, true)
  }
  const unread = serve((connection, { path }) => connection.send(path), { body: 'stream', maxBodyBytes: 1e6 })
  unread.receive(wire(`POST /a HTTP/1.1¶Host: h¶Content-Length: 60000¶¶${'x'.repeat(60_000)}${GET}`))
  assert.is(shown(unread.written()), OK('/a') + OK('/'))
  const reading = serve(async (connection, request) => {
    let size = 0
    for await (const bytes of request.body) size += bytes.length
    connection.send(String(size))
  })
  reading.receive(wire(large))
  await until(() => reading.connection.bytesWritten > 0)
  assert.is(shown(reading.written()), OK('600000'))
})

test('what a handler finds wrong with a request is the client’s fault, and costs the log one line', () => {
  const server = serve((connection, request) => connection.send(request.json()))
  server.receive(wire('POST / HTTP/1.1¶Host: h¶Content-Length: 1¶¶{'))
  const answer = shown(server.written())
  assert.is(statusOf(answer), 400)
  assert.match(answer, /400 Bad Request: the body is no JSON/) // not the name of our class
  assert.equal(
    server.errors.map(({ code }) => code),
    [3],
  )
})

test('a handler may throw anything at all: the client hears 500, onError hears of it once', async () => {
  const noText = Object.create(null)
  const badHint = Object.assign(new Error('x'), { statusHint: 42 })
  for (const thrown of [undefined, null, 0, 'text', Symbol('x'), noText, badHint]) {
    const handlers = [
      () => {
        throw thrown
      },
      () => Promise.reject(thrown),
    ]
    for (const handler of handlers) {
      const server = serve(handler)
      server.receive(wire(GET))
      await nextTurn()
      assert.is(statusOf(shown(server.written())), 500)
      assert.equal(
        server.errors.map(({ code }) => code),
        [4],
      )
      assert.is(server.worker.unsettled, 0)
    }
  }
})

test('behind a malformed head the connection ends after 5 s, whatever a handler before it still does', async () => {
  for (const reads of [[GET, 'BAD¶¶'], [GET, 'BAD', ' /¶¶'], [`${GET}BAD¶¶`]]) {
    const server = serve(async (connection) => {
      await nextTurn()
      connection.send('early')
      await new Promise(() => undefined)
    })
    for (const bytes of reads) {
      server.receive(wire(bytes))
      await until(() => server.connection.bytesWritten > 0)
    }
    server.advance(1)
    assert.match(shown(server.written()), /early.*HTTP\/1\.1 400 /)
    server.advance(4998)
    assert.is(server.socket.hasEnded, false, String(reads))
    assert.equal(server.errors, [])
    server.advance(1000)
    assert.is(server.socket.hasEnded, true, String(reads))
    // The handler has not settled, but nothing else would tell of the fault.
    assert.equal([server.errors.map(({ code }) => code), server.connection.closeReason], [[3], 'protocol'])
  }
})

test('a log that throws is told, and costs its connection when the answer has left, however that was made', async () => {
  async function* pieces() {
    yield 'text'
  }
  const accessLog = () => {
    throw new Error('on purpose')
  }
  for (const compress of [false, true])
    for (const body of ['text', pieces()]) {
      const server = serve((connection) => connection.send(new Response(200, {}, body)), { accessLog, compress })
      server.receive(wire(`${GET}${GET}`))
      await until(() => server.socket.hasEnded)
      assert.match(shown(server.written()), /^HTTP\/1\.1 200 .*(?:text|4¶text¶0¶¶)$/)
      assert.equal(
        server.errors.map(({ code, message }) => [code, message]),
        [[4, 'on purpose']],
      )
    }
})

test('a log that throws costs a client that is refused neither its 400, nor the fault its count', async () => {
  const accessLog = () => {
    throw new Error('on purpose')
  }
  for (const bad of ['BAD¶¶', 'POST / HTTP/1.1¶Host: h¶Transfer-Encoding: chunked¶¶none¶']) {
    const server = serve(null, { accessLog })
    server.hold()
    server.receive(wire(bad))
    await until(() => server.errors.length > 1)
    server.drain()
    assert.match(shown(server.written()), /^HTTP\/1\.1 400 Bad Request¶.*¶¶400 Bad Request: /)
    assert.equal(
      server.errors.map(({ code }) => code),
      [3, 4],
    )
    assert.equal([server.worker.counters.protocolErrors, server.connection.getStatus(false)], [1, 'ENDING'])
  }
})

test('what an async log rejects with is told, also when its connection has closed, and costs nothing', async () => {
  let fail: () => void = () => assert.unreachable()
  const accessLog = () => new Promise<void>((_resolve, reject) => (fail = () => reject(new Error('on purpose'))))
  const told = (server: Wire<Request, unknown>) => server.errors.map(({ code, message }) => [code, message])
  const server = serve((connection) => connection.send('ok'), { accessLog })
  server.receive(wire(GET))
  assert.is(server.worker.unsettled, 1, 'a drain waits for it')
  fail()
  await until(() => server.errors.length > 0)
  assert.equal(told(server), [[4, 'on purpose']])
  server.receive(wire(GET))
  assert.is(shown(server.written()), OK('ok') + OK('ok'))
  server.reset()
  fail()
  await until(() => server.errors.length > 1)
  assert.is(server.worker.counters.handlerErrors, 2)
  const refused = serve(null, { accessLog })
  refused.receive(wire('BAD¶¶'))
  fail()
  await until(() => refused.errors.length > 1)
  assert.equal(
    refused.errors.map(({ code }) => code),
    [3, 4],
  )
})

test('a body function that says neither collect nor stream, or is async, is named in a 500', async () => {
  const wrong: [() => unknown, string][] = [
    [() => 'Collect', "'Collect'"],
    [() => undefined, 'undefined'],
    [async () => 'collect', 'a promise'],
    [() => Promise.reject(new Error('on purpose')), 'a promise'],
  ]
  for (const [body, name] of wrong) {
    const server = serve(null, { body: body as () => BodyMode })
    server.receive(wire('POST / HTTP/1.1¶Host: h¶Content-Length: 3¶¶abc'))
    await nextTurn()
    assert.is(statusOf(shown(server.written())), 500)
    assert.equal(
      server.errors.map(({ message }) => message),
      [`a setting of http failed: UsageError: body() of http() says 'collect' or 'stream', not ${name}`],
    )
  }
})

test('a part of a file begins and is long by whole bytes', () => {
  for (const [offset, length] of [
    [-5, 3],
    [0.5, 3],
    [Number.NaN, 0],
    [0, -1],
    [0, Number.POSITIVE_INFINITY],
    ['1' as never, 0],
  ])
    assert.throws(
      () => new Response().withFile('a', offset, length),
      (error: unknown) => codeOf(error) === 'ERR_BAD_RESPONSE',
    )
  assert.equal(new Response().withFile('a', 5, 3).file, { path: 'a', offset: 5, length: 3 })
})

test('a body whose return() gives no promise, or throws, costs nobody but its own connection', async () => {
  const refuse = () => {
    throw new Error('thrown in return()')
  }
  for (const leave of [() => ({ done: true, value: undefined }), () => undefined, refuse]) {
    let left = 0
    const bodyOf = (next: () => Promise<unknown>) => {
      const give = () => {
        left++
        return leave()
      }
      const iterator = { next, return: give }
      return { [Symbol.asyncIterator]: () => iterator } as unknown as AsyncIterable<string>
    }
    const failing = serve((connection) =>
      connection.send(
        new Response(
          200,
          {},
          bodyOf(() => Promise.reject(new Error('source'))),
        ),
      ),
    )
    failing.receive(wire(GET))
    await until(() => shown(failing.written()).startsWith('HTTP/1.1 500 '))
    const endless = serve((connection) =>
      connection.send(
        new Response(
          200,
          {},
          bodyOf(() => nextTurn().then(() => ({ done: false, value: 'x' }))),
        ),
      ),
    )
    endless.receive(wire(GET))
    await until(() => endless.connection.bytesWritten > 0)
    endless.connection.destroy()
    const head = serve((connection) =>
      connection.send(
        new Response(
          200,
          {},
          bodyOf(async () => ({ done: true, value: '' })),
        ),
      ),
    )
    head.receive(wire('HEAD / HTTP/1.1¶Host: h¶¶'))
    await until(() => head.connection.bytesWritten > 0)
    assert.ok(left >= 3, `${left} of 3`)
  }
})

test('what is no file to be served is 404, a socket (ENXIO) too; another error of the machine is 500', async () => {
  for (const [code, status] of [
    ['ENOENT', 404],
    ['ENXIO', 404],
    ['EIO', 500],
  ] as const) {
    const openFile = async () => {
      throw Object.assign(new Error(code), { code })
    }
    const onMessage: Handler = (connection) => connection.send(new Response().withFile('a'))
    const server = serveAny({ onMessage } as never, {}, { openFile })
    server.receive(wire(GET))
    await until(() => shown(server.written()).startsWith(`HTTP/1.1 ${status} `))
  }
})

test('a file that is open is closed when its answer cannot be made after all', async () => {
  const open = new Set<object>()
  const openFile: HttpServices['openFile'] = async () => {
    const file = {}
    open.add(file)
    const close = async () => ({ done: true as const, value: open.delete(file) })
    const body = { [Symbol.asyncIterator]: () => ({ next: close, return: close }) as never }
    return { status: 200, headers: [['Content-Type', 'text/plain']], size: 3, body, close }
  }
  const sessions = {
    load: async () => ({}) as never,
    commit: async () => {
      throw new Error('the disk is full')
    },
  }
  const failing: Handler[] = [
    async (connection, request) => {
      await request.session()
      connection.send(new Response().withFile('a'))
    },
    (connection) => connection.send(Object.assign(new Response().withFile('a'), { reason: 'a\nb' })),
  ]
  for (const onMessage of failing) {
    const server = serveAny({ onMessage } as never, { sessions }, { openFile })
    server.receive(wire(GET))
    await until(() => server.errors.length > 0)
    assert.is(statusOf(shown(server.written())), 500)
    assert.is(open.size, 0)
  }
})

test('an answer to a client that has broken the rules meanwhile is refused, and told so', async () => {
  const sent: boolean[] = []
  const server = serve(
    async (connection, { body }) => {
      try {
        for await (const _ of body);
      } catch {
        sent.push(connection.send('too late'))
      }
    },
    { body: 'stream' },
  )
  server.receive(wire('POST / HTTP/1.1¶Host: h¶Transfer-Encoding: chunked¶¶3¶abcXX'))
  await until(() => server.socket.hasEnded)
  assert.equal(sent, [false])
  assert.equal(
    server.errors.map(({ code }) => code),
    [2, 3],
  )
  assert.is(server.worker.counters.messagesOut, 0)
})

test('ten thousand pipelined requests do not nest', () => {
  const server = serve((connection) => connection.send(''))
  server.receive(wire(GET.repeat(2000)))
  for (let n = 0; n < 8; n++) server.receive(wire(GET.repeat(1000)))
  assert.is(server.messages.length >= 2000, true)
})

test('a handler that answers later by itself keeps the next request waiting', () => {
  let first: Connection<Request, unknown> | null = null
  const server = serve((connection) => {
    if (first === null) first = connection
    else connection.send('two')
  })
  server.receive(wire(GET + GET))
  assert.is(server.messages.length, 1)
  ;(first as unknown as Connection<Request, unknown>).send('one')
  assert.is(shown(server.written()), OK('one') + OK('two'))
})

test('a request has one answer', () => {
  const server = serve((connection) => {
    connection.send('one')
    connection.send('two')
  })
  server.receive(wire(GET))
  assert.is(shown(server.written()), OK('one'))
  assert.match(server.errors[0]?.message ?? '', /no request to answer/)
})

test('who closes after its answer, on either side', () => {
  const asked = serve((connection) => connection.send('x'))
  asked.receive(wire(`GET / HTTP/1.1¶Host: h¶Connection: close¶¶${GET}`))
  assert.is(shown(asked.written()), OK('x', 'Connection: close¶'))
  assert.is(asked.connection.getStatus(false), 'ENDING')
  const told = serve((connection) => connection.close(new Response(200, { 'Content-Type': 'text/plain' }, 'x')))
  told.receive(wire(GET))
  assert.is(shown(told.written()), 'HTTP/1.1 200 OK¶Content-Type: text/plain¶Content-Length: 1¶Connection: close¶¶x')
  assert.is(told.connection.getStatus(false), 'CLOSED')
  const old = serve((connection) => connection.send('x'))
  old.receive(wire('GET / HTTP/1.0¶Connection: keep-alive¶¶GET / HTTP/1.0¶¶'))
  assert.is(shown(old.written()), OK('x', 'Connection: keep-alive¶') + OK('x', 'Connection: close¶'))
})

test('HEAD, 204 and 304 have no body, and the next answer begins where it should', () => {
  const answers = [new Response(204), new Response(304, { ETag: '"x"' }), new Response(200, {}, 'body'), 'end']
  const server = serve((connection) => connection.send(answers.shift()))
  server.receive(wire(`${GET}${GET}HEAD / HTTP/1.1¶Host: h¶¶${GET}`))
  assert.is(
    shown(server.written()),
    `HTTP/1.1 204 No Content¶¶HTTP/1.1 304 Not Modified¶ETag: "x"¶¶HTTP/1.1 200 OK¶Content-Type: text/html; charset=utf-8¶Content-Length: 4¶¶${OK('end')}`,
  )
})

test('a refusal of HEAD has no body either', () => {
  for (const [text, status] of [
    ['HEAD / HTTP/1.1¶¶', 400],
    ['HEAD / HTTP/1.1¶Host: h¶Expect: x¶¶', 417],
    [`HEAD /${'a'.repeat(9000)}`, 414],
  ] as const) {
    const server = serve()
    server.receive(wire(text))
    const answer = shown(server.written())
    assert.is(statusOf(answer), status)
    assert.match(answer, /Content-Length: [1-9]\d*¶Connection: close¶¶$/)
  }
})

test('205 resets a form and has nothing to say', () => {
  const answers = [new Response(205, {}, 'body'), new Response(205), 'end']
  const server = serve((connection) => connection.send(answers.shift()))
  server.receive(wire(GET.repeat(3)))
  assert.match(
    shown(server.written()),
    /^HTTP\/1\.1 205 Reset Content¶(?:Content-Type: [^¶]*¶)?Content-Length: 0¶¶HTTP\/1\.1 205 Reset Content¶Content-Length: 0¶¶HTTP/,
  )
})

test('HEAD of an answer that stays open is answered at once, and what the handler sends later goes nowhere', () => {
  const late: boolean[] = []
  const server = serve((connection) => {
    connection.send(new Response(200, { 'Content-Type': 'text/event-stream' }))
    late.push(connection.send(new ServerSentEvents({ data: 'x' })), connection.send(new Chunk('')))
  })
  server.receive(wire(`HEAD / HTTP/1.1¶Host: h¶¶${GET}`))
  assert.is(shown(server.written()), 'HTTP/1.1 200 OK¶Content-Type: text/event-stream¶Connection: close¶¶')
  assert.equal([late, server.messages.length], [[false, false], 1])
  assert.ok(server.errors.every(({ message }) => message === 'connection is ending'))
})

test('text, bytes, JSON, and what has no JSON', () => {
  const answers: unknown[] = ['\u00e9', Buffer.from([0xff]), { a: [1] }, null, 5]
  const server = serve((connection) => connection.send(answers.shift()))
  server.receive(wire(GET.repeat(5)))
  const bodiesOf = shown(server.written())
    .split(/HTTP\/1\.1 200 OK¶/)
    .slice(1)
  assert.equal(bodiesOf, [
    'Content-Type: text/html; charset=utf-8¶Content-Length: 2¶¶\u00c3\u00a9',
    'Content-Type: application/octet-stream¶Content-Length: 1¶¶\u00ff',
    'Content-Type: application/json¶Content-Length: 9¶¶{"a":[1]}',
    'Content-Type: application/json¶Content-Length: 4¶¶null',
    'Content-Type: application/json¶Content-Length: 1¶¶5',
  ])
  const none = serve((connection) => connection.send(undefined))
  none.receive(wire(GET))
  assert.is(statusOf(shown(none.written())), 500)
  assert.match(none.errors[0]?.message ?? '', /no JSON for undefined/)
})

test('a header is text, a number or a list of them: what is none is refused where it is set, not sent as its name', () => {
  const isRefused = (error: unknown) => codeOf(error) === 'ERR_BAD_RESPONSE'
  for (const none of [undefined, null, {}, true, ['a', undefined], [['a']], Symbol('a'), () => 'a']) {
    assert.throws(() => new Response(302, { Location: none as never }), isRefused)
    assert.throws(() => new Response().addHeader('X-A', none as never), isRefused)
    const parts = { status: 200, headers: [['X-A', none]], size: 0, body: null, close: () => undefined }
    const server = serve((connection) => connection.send(parts))
    server.receive(wire(GET))
    assert.is(statusOf(shown(server.written())), 500)
    assert.is(codeOf(server.errors[0]?.error), 'ERR_BAD_RESPONSE')
  }
  const answer = new Response(200, { 'X-A': 5, 'X-B': ['a', 6] as never, 'X-C': '' })
  assert.equal(
    ['x-a', 'x-b', 'x-c'].map((name) => answer.getHeader(name)),
    ['5', 'a, 6', ''],
  )
})

test('nothing that is set begins another header or another answer', () => {
  for (const evil of ['a\r\nSet-Cookie: x', 'a\nb', 'a\rb', 'a\0b', '\u010d\u010aSet-Cookie: x', '\u0120', 'a\x7f']) {
    assert.throws(() => new Response(200, { 'X-A': evil }), /control or wide/, JSON.stringify(evil))
    assert.throws(() => new Response().withStatus(200, evil), /reason phrase/)
    assert.throws(() => new Response().cookie('a', 'b', { path: `/${evil}` }), /cookie has no/)
    assert.throws(() => new Response(200, { [`X${evil}`]: 'a' }), /no header name/)
    assert.ok(
      !new Response()
        .cookie('a', evil)
        .getHeader('set-cookie')
        ?.match(/[\r\n\0\u0100-\uffff]/),
    )
  }
  assert.throws(() => new ServerSentEvents({ event: 'a\nb' }), /one line/)
  for (const late of [{ reason: 'a\r\nX: y' }, { reason: '\u010d\u010aX: y' }, { status: '200 OK\r\nX: y' as never }]) {
    const server = serve((connection) => connection.send(Object.assign(new Response(), late)))
    server.receive(wire(GET))
    const answer = shown(server.written())
    assert.is(statusOf(answer), 500)
    assert.not.match(answer, /X: y/)
  }
  const latin = serve((connection) => connection.send(new Response(200, { 'X-A': 'caf\u00e9' }, '\u00e9')))
  latin.receive(wire(GET))
  assert.match(shown(latin.written()), /X-A: caf\u00e9¶.*¶¶\u00c3\u00a9$/)
})

test('streams: chunks for HTTP/1.1, the end of the connection for 1.0, a length that is kept to', async () => {
  async function* pieces() {
    yield 'hello'
    await nextTurn()
    yield ''
    yield Buffer.from(' world')
  }
  const stream = (headers = {}) => serve((connection) => connection.send(new Response(200, headers, pieces())))
  const chunked = stream()
  chunked.receive(wire(GET))
  await until(() => chunked.written().length === 0)
  chunked.receive(wire(GET))
  let all = ''
  await until(() => {
    all += shown(chunked.written())
    return all.endsWith('0¶¶')
  })
  assert.match(all, /Transfer-Encoding: chunked¶¶5¶hello¶6¶ world¶0¶¶$/)
  const old = stream()
  old.receive(wire('GET / HTTP/1.0¶Connection: keep-alive¶¶'))
  await until(() => old.socket.hasEnded)
  assert.match(shown(old.written()), /octet-stream¶Connection: close¶¶hello world$/)
  const sized = stream({ 'Content-Length': 11 })
  sized.receive(wire(GET))
  await until(() => sized.socket.queuedBytes === 0 && sized.connection.bytesWritten > 100)
  for (const wrong of [10, 12]) {
    const cut = stream({ 'Content-Length': wrong })
    cut.receive(wire(GET))
    await until(() => cut.socket.isDestroyed)
    assert.match(cut.errors[0]?.message ?? '', wrong === 10 ? /longer/ : /shorter/)
  }
})

test('a stream that fails, or whose client goes, is given up', async () => {
  let isReturned = false
  async function* endless() {
    try {
      for (;;) {
        yield 'x'
        await nextTurn()
      }
    } finally {
      isReturned = true
    }
  }
  async function* broken() {
    yield 'x'
    throw new Error('the disk is gone')
  }
  const left = serve((connection) => connection.send(new Response(200, {}, endless())))
  left.receive(wire(GET))
  left.reset()
  await until(() => isReturned)
  const failed = serve((connection) => connection.send(new Response(200, {}, broken())))
  failed.receive(wire(GET))
  await until(() => failed.socket.isDestroyed)
  assert.not.match(shown(failed.written()), /0¶¶$/)
  assert.is(failed.errors[0]?.message, 'the disk is gone')
})

test('a client that is to connect anew is told so with its next answer; what has begun goes on', () => {
  const answer: Handler = (connection) => connection.send('ok')
  const server = serve((connection, request) => answer(connection, request))
  const ask = () => {
    server.receive(wire(GET))
    return shown(server.written())
  }
  assert.is(ask(), OK('ok'))
  server.connection[kRenew]()
  assert.is(server.connection.getStatus(false), 'ESTABLISHED')
  assert.is(ask(), OK('ok', 'Connection: close¶'))
  assert.is(server.connection.getStatus(false), 'ENDING')

  // An answer whose head has been sent is completed as it began.
  const begun = serve((connection) => connection.send(new Response(200, { 'Transfer-Encoding': 'chunked' })))
  begun.receive(wire(GET))
  begun.connection.send(new Chunk('one'))
  begun.connection[kRenew]()
  begun.connection.send(new Chunk(''))
  assert.not.match(shown(begun.written()), /Connection: close/)
  begun.receive(wire(GET))
  assert.match(shown(begun.written()), /Connection: close/)

  // One that is owed announces it.
  const owed = serve(() => undefined)
  owed.receive(wire(GET))
  owed.connection[kRenew]()
  owed.connection.send('late')
  assert.is(shown(owed.written()), OK('late', 'Connection: close¶'))
})

test('a stream waits for a client that does not read', async () => {
  let produced = 0
  async function* much() {
    for (; produced < 100; produced++) yield Buffer.alloc(65_536)
  }
  const server = serve((connection) => connection.send(new Response(200, {}, much())))
  server.hold()
  server.receive(wire(GET))
  await nextTurn()
  await nextTurn()
  assert.ok(produced < 10, `${produced} were produced`)
  for (let n = 0; n < 50 && produced < 100; n++) {
    server.drain()
    server.hold()
    await nextTurn()
  }
  assert.is(produced, 100)
  assert.is(server.errors.length, 0)
})

test('a close in flight loses nothing of an answer', async () => {
  async function* pieces() {
    await nextTurn()
    yield 'all of it'
  }
  const server = serve((connection) => {
    connection.send(new Response(200, {}, pieces()))
    connection.close()
    assert.is(connection.send('more'), false)
  })
  server.receive(wire(GET))
  await until(() => server.connection.getStatus() !== 2)
  assert.match(shown(server.written()), /9¶all of it¶0¶¶$/)
})

test('events: an answer that stays open, and ends with an empty chunk', () => {
  const server = serve((connection, { path }) => {
    if (path !== '/') return connection.send('next')
    connection.send(new Response(200, { 'Content-Type': 'text/event-stream' }))
    connection.send(new ServerSentEvents({ event: 'ping', data: 'a\nb', id: 1000, retry: 5000 }))
    connection.send('raw')
    return connection.send(new Chunk(''))
  })
  server.receive(wire(`${GET}GET /b HTTP/1.1¶Host: h¶¶`))
  assert.is(
    shown(server.written()),
    `HTTP/1.1 200 OK¶Content-Type: text/event-stream¶Transfer-Encoding: chunked¶¶32¶event: ping\nid: 1000\nretry: 5000\ndata: a\ndata: b\n\n¶3¶raw¶0¶¶${OK('next')}`,
  )
})

test('Expect: the client is told to go on when its body is wanted, and not when it is not', async () => {
  const ask = 'POST / HTTP/1.1¶Host: h¶Content-Length: 5¶Expect: 100-continue¶¶'
  const collected = serve()
  collected.receive(wire(ask))
  assert.is(shown(collected.written()), 'HTTP/1.1 100 Continue¶¶')
  const early = serve()
  early.receive(wire(`${ask}hello`))
  assert.match(shown(early.written()), /^HTTP\/1\.1 200/, 'who did not wait is not told to go on')
  const none = serve()
  none.receive(wire('GET / HTTP/1.1¶Host: h¶Expect: 100-continue¶¶'))
  assert.match(shown(none.written()), /^HTTP\/1\.1 200/, 'there is no body to wait for')
  const streamed = serve(
    async (connection, request) => {
      await nextTurn()
      for await (const _ of request.body);
      connection.send('ok')
    },
    { body: 'stream' },
  )
  streamed.receive(wire(ask))
  assert.is(shown(streamed.written()), '')
  await until(() => streamed.connection.bytesWritten > 0)
  assert.is(shown(streamed.written()), 'HTTP/1.1 100 Continue¶¶')
  const refused = serve((connection) => connection.send(new Response(401)), { body: 'stream' })
  refused.receive(wire(ask))
  assert.match(shown(refused.written()), /^HTTP\/1\.1 401 .*Connection: close/)
  assert.is(refused.connection.getStatus(false), 'ENDING')
  const large = serve(null, {}, { maxPackageSize: 4 })
  large.receive(wire(ask))
  assert.match(shown(large.written()), /^HTTP\/1\.1 413 /)
})

test('a streamed body slows its client down, and an early answer does not wait for it', async () => {
  const read: number[] = []
  let goOn: () => void = () => assert.unreachable()
  const server = serve(
    async (connection, request) => {
      for await (const bytes of request.body) {
        read.push(bytes.length)
        await new Promise<void>((resolve) => {
          goOn = resolve
        })
      }
      connection.send('ok')
    },
    { body: 'stream' },
  )
  server.receive(wire('POST / HTTP/1.1¶Host: h¶Content-Length: 1000000¶¶'))
  for (let n = 0; n < 10 && server.socket.isReading; n++) server.receive(Buffer.alloc(100_000))
  await nextTurn()
  assert.is(server.socket.isReading, false)
  const early = serve((connection) => connection.send('no'), { body: 'stream' })
  early.receive(wire('POST / HTTP/1.1¶Host: h¶Content-Length: 100¶¶xx'))
  assert.is(shown(early.written()), OK('no'))
  early.receive(wire(`${'x'.repeat(98)}${GET}`))
  assert.is(early.messages.length, 2)
  const huge = serve((connection) => connection.send('no'), { body: 'stream' })
  huge.receive(wire('POST / HTTP/1.1¶Host: h¶Content-Length: 10000000¶¶xx'))
  assert.match(shown(huge.written()), /Connection: close¶¶no$/)
  goOn()
})

test('a body that breaks off is an error for who reads it, and 400 for who still listens', async () => {
  const failures: unknown[] = []
  const handler: Handler = async (_connection, request) => {
    try {
      for await (const _ of request.body);
    } catch (error) {
      failures.push((error as Error).name)
    }
  }
  const cut = serve(handler, { body: 'stream' })
  cut.receive(wire('POST / HTTP/1.1¶Host: h¶Content-Length: 5¶¶he'))
  cut.end()
  await until(() => failures.length === 1)
  const bad = serve(handler, { body: 'stream' })
  bad.receive(wire('POST / HTTP/1.1¶Host: h¶Transfer-Encoding: chunked¶¶5¶hello¶x'))
  await until(() => failures.length === 2)
  assert.equal(failures, ['AbortError', 'ProtocolError'])
  assert.is(statusOf(shown(bad.written())), 400)
  assert.is(statusOf(shown(cut.written())), 400)
})

test('deadlines: between requests, of a head, of a body, of an answer', async () => {
  const settings = {
    keepAliveTimeoutMs: 1000,
    headerTimeoutMs: 300,
    bodyTimeoutMs: 200,
    requestTimeoutMs: 500,
    answerTimeoutMs: 400,
  }
  const idle = serve(null, settings)
  idle.receive(wire(GET))
  idle.written()
  idle.advance(1000)
  assert.equal([shown(idle.written()), idle.connection.getStatus(false)], ['', 'CLOSED'])
  const head = serve(null, settings)
  for (const byte of 'GET / HT') {
    head.receive(byte)
    head.advance(40)
  }
  assert.match(shown(head.written()), /^HTTP\/1\.1 408 .*Connection: close/)
  const silent = serve(null, settings)
  silent.receive(wire('POST / HTTP/1.1¶Host: h¶Content-Length: 9¶¶x'))
  silent.advance(199)
  assert.is(shown(silent.written()), '')
  silent.advance(1)
  assert.match(shown(silent.written()), /^HTTP\/1\.1 408 /)
  const drip = serve(null, settings)
  drip.receive(wire('POST / HTTP/1.1¶Host: h¶Content-Length: 99¶¶x'))
  for (let n = 0; n < 4; n++) {
    drip.advance(120)
    drip.receive('x')
  }
  drip.advance(20)
  assert.match(shown(drip.written()), /^HTTP\/1\.1 408 /)
  const late = serve(() => nextTurn(), settings)
  late.receive(wire(GET))
  late.advance(400)
  assert.match(shown(late.written()), /^HTTP\/1\.1 503 /)
  await nextTurn()
})

test('a setting that throws is the server’s fault, and told as such', () => {
  const failing = () => {
    throw new Error('secret')
  }
  const server = serve(null, { body: failing })
  server.receive(wire('POST / HTTP/1.1¶Host: h¶Content-Length: 5¶¶hello'))
  const answer = shown(server.written())
  assert.is(statusOf(answer), 500)
  assert.not.match(answer, /secret/)
  assert.match(server.errors[0]?.message ?? '', /secret/)
})

test('a client that was told to wait is not blamed for its silence', async () => {
  let goOn: () => void = () => undefined
  const server = serve(
    async (connection, request) => {
      for await (const _ of request.body)
        await new Promise<void>((resolve) => {
          goOn = resolve
        })
      connection.send('ok')
    },
    { body: 'stream', bodyTimeoutMs: 1000 },
  )
  server.receive(wire('POST / HTTP/1.1¶Host: h¶Content-Length: 400000¶¶'))
  for (let n = 0; n < 4; n++) server.receive(Buffer.alloc(90_000))
  assert.is(server.socket.isReading, false)
  server.advance(60_000)
  for (let n = 0; n < 4; n++) {
    goOn()
    await nextTurn()
  }
  server.advance(999)
  assert.is(shown(server.written()), '')
  server.receive(Buffer.alloc(40_000))
  for (let n = 0; n < 3; n++) {
    goOn()
    await nextTurn()
  }
  assert.is(shown(server.written()), OK('ok'))
})

test('a strong validator is weakened where the bytes are others, and there alone', async () => {
  const [small, large] = ['x', 'x'.repeat(2000)]
  for (const [status, type, body, accepted, says] of [
    [304, 'text/css', null, 'gzip', 'ETag: W/"x"¶Accept-Ranges: bytes¶Vary: Accept-Encoding¶'],
    [304, 'text/css', null, 'identity', 'ETag: "x"¶Accept-Ranges: bytes¶Vary: Accept-Encoding¶'],
    [304, 'image/png', null, 'gzip', 'ETag: "x"¶Accept-Ranges: bytes¶'],
    [206, 'text/css', large, 'gzip', 'ETag: "x"¶Accept-Ranges: bytes¶Vary: Accept-Encoding¶'],
    [200, 'text/css', large, 'gzip', 'ETag: W/"x"¶Vary: Accept-Encoding¶Content-Encoding: gzip¶'],
    [200, 'text/css', large, '', 'ETag: "x"¶Accept-Ranges: bytes¶Vary: Accept-Encoding¶'],
    [200, 'text/css', small, 'gzip', 'ETag: "x"¶Accept-Ranges: bytes¶Vary: Accept-Encoding¶'],
    [200, 'image/png', large, 'gzip', 'ETag: "x"¶Accept-Ranges: bytes¶'],
  ] as const) {
    const headers = [
      ['ETag', '"x"'],
      ['Accept-Ranges', 'bytes'],
    ]
    const parts = { status, headers, type, size: -1, body, close: () => undefined }
    const server = serve((connection) => connection.send(parts), { compress: true })
    server.receive(wire(`GET / HTTP/1.1¶Host: h¶Accept-Encoding: ${accepted}¶¶`))
    await until(() => server.connection.bytesWritten > 0)
    const [, fields] = /¶(.*?¶)(?:Content-Length: \d+¶)?¶/.exec(shown(server.written())) ?? []
    assert.is(fields, says, `${status} ${type} ${accepted}`)
  }
})

test('that an answer varies by coding is said once, whoever says it', async () => {
  for (const [own, says] of [
    ['Accept-Encoding', ['Accept-Encoding']],
    ['Origin, accept-encoding', ['Origin, accept-encoding']],
    ['Accept-Encoding , Origin', ['Accept-Encoding , Origin']],
    ['*', ['*']],
    ['Origin', ['Origin', 'Accept-Encoding']],
    ['X-Accept-Encoding', ['X-Accept-Encoding', 'Accept-Encoding']],
  ] as const) {
    const answer = new Response(200, { Vary: own, 'Content-Type': 'text/css' }, 'x'.repeat(2000))
    const server = serve((connection) => connection.send(answer), { compress: true })
    server.receive(wire('GET / HTTP/1.1¶Host: h¶Accept-Encoding: gzip¶¶'))
    await until(() => server.connection.bytesWritten > 0)
    assert.equal(shown(server.written()).match(/(?<=¶Vary: )[^¶]*(?=¶)/g), says)
  }
})

test('a file is compressed from 1 KiB on, as a text is; a stream of unknown size always', async () => {
  for (const [size, isCompressed] of [
    [3, false],
    [1023, false],
    [1024, true],
    [-1, true],
  ] as const) {
    const data = Buffer.alloc(Math.max(size, 3), 'x')
    async function* body() {
      yield data
    }
    const parts = {
      status: 200,
      headers: [['ETag', '"x"']],
      type: 'text/css',
      size,
      body: body(),
      close: () => undefined,
    }
    const server = serve((connection) => connection.send(parts), { compress: true })
    server.receive(wire('GET / HTTP/1.1¶Host: h¶Accept-Encoding: gzip¶¶'))
    await until(() => server.connection.bytesWritten > 0 && server.messages.length > 0)
    const head = shown(server.written())
    assert.is(head.includes('Content-Encoding: gzip¶'), isCompressed, `${size}: ${head}`)
    assert.is(head.includes('ETag: W/"x"¶'), isCompressed)
    assert.is(head.includes(`Content-Length: ${size}¶`), !isCompressed)
  }
})

test('files: an error page knows no conditions, and what is compressed says so in every answer', async () => {
  const open = new Set<object>()
  const asked: (string | undefined)[] = []
  const openFile: HttpServices['openFile'] = async (_file, request) => {
    const condition = request.header('if-none-match')
    asked.push(condition)
    const file = {}
    open.add(file)
    const close = () => open.delete(file)
    async function* body() {
      yield Buffer.from('x'.repeat(2000))
    }
    const own = body()
    const closing = { next: () => own.next(), return: async () => ({ done: true as const, value: close() }) }
    const headers = [['ETag', '"x"'], ...(condition === undefined ? [['Content-Type', 'text/plain']] : [])] as [
      string,
      string,
    ][]
    if (condition !== undefined) return { status: 304, headers, type: 'text/plain', size: 0, body: null, close }
    return { status: 200, headers, size: 2000, body: { [Symbol.asyncIterator]: () => closing as never }, close }
  }
  const onMessage = (connection: Connection<Request, unknown>, { path }: Request) =>
    connection.send(new Response(path === '/' ? 200 : 404).withFile('a.txt'))
  const server = serveAny({ onMessage } as never, { compress: true }, { openFile })
  const ask = async (line: string, fields = '') => {
    server.receive(wire(`${line} HTTP/1.1¶Host: h¶Accept-Encoding: gzip¶${fields}¶`))
    await until(() => open.size === 0)
    await nextTurn()
    return shown(server.written())
  }
  const not = await ask('GET /', 'If-None-Match: "x"¶')
  assert.is(not, 'HTTP/1.1 304 Not Modified¶ETag: W/"x"¶Vary: Accept-Encoding¶¶')
  const head = 'ETag: W/"x"¶Content-Type: text/plain¶Vary: Accept-Encoding¶Content-Encoding: gzip¶¶'
  assert.is(await ask('HEAD /'), `HTTP/1.1 200 OK¶${head}`)
  assert.is(await ask('HEAD /none', 'If-None-Match: "x"¶'), `HTTP/1.1 404 Not Found¶${head}`)
  assert.equal(asked, ['"x"', undefined, undefined])
})

/** The data of the chunks that are whole. */
function dechunked(text: string): Buffer {
  let data = ''
  for (let at = 0, size = 0; ; at += size + 2) {
    const [line = ''] = /^[0-9a-f]+\r\n/.exec(text.slice(at)) ?? []
    size = Number.parseInt(line, 16)
    at += line.length
    if (!(size > 0) || at + size > text.length) return Buffer.from(data, 'latin1')
    data += text.slice(at, at + size)
  }
}

test('a compressor that fails costs its connection, and not the process', async () => {
  const { prototype } = createGzip().constructor as { prototype: { _transform?: unknown } }
  prototype._transform = (_piece: Buffer, _encoding: string, done: (error: Error) => void) =>
    done(new Error('no memory'))
  try {
    async function* pieces() {
      yield 'x'
    }
    const headers = { 'Content-Type': 'text/plain' }
    const server = serve((connection) => connection.send(new Response(200, headers, pieces())), { compress: true })
    server.receive(wire('GET / HTTP/1.1¶Host: h¶Accept-Encoding: gzip¶¶'))
    await until(() => server.errors.length > 0)
    assert.equal([server.errors[0]?.message, server.connection.getStatus(false)], ['no memory', 'ENDING'])
    assert.is(statusOf(shown(server.written())), 500)
  } finally {
    delete prototype._transform
  }
})

test('a compressed stream shows each piece as it comes', async () => {
  for (const [coding, decode] of [
    ['gzip', (bytes: Buffer) => gunzipSync(bytes, { finishFlush: constants.Z_SYNC_FLUSH })],
    ['br', (bytes: Buffer) => brotliDecompressSync(bytes, { finishFlush: constants.BROTLI_OPERATION_FLUSH })],
  ] as const) {
    let goOn: () => void = () => undefined
    async function* pieces() {
      for (const piece of ['first ', 'second']) {
        yield piece
        await new Promise<void>((resolve) => {
          goOn = resolve
        })
      }
    }
    const headers = { 'Content-Type': 'text/plain' }
    const server = serve((connection) => connection.send(new Response(200, headers, pieces())), { compress: true })
    server.receive(wire(`GET / HTTP/1.1¶Host: h¶Accept-Encoding: ${coding}¶¶`))
    let text = ''
    const seen = () => {
      text += server.written().toString('latin1')
      const [head = '', body = ''] = text.split(/(?<=^HTTP.*?\r\n\r\n)/s, 2)
      const data = dechunked(body)
      if (data.length === 0) return ''
      assert.match(head, new RegExp(`Content-Encoding: ${coding}`))
      return decode(data).toString()
    }
    await until(() => seen() === 'first ')
    goOn()
    await until(() => seen() === 'first second')
    server.reset()
    goOn()
  }
})

test('a leaving worker says so in its next answer', () => {
  const server = serve()
  server.receive(wire(GET))
  server.goodbye()
  server.receive(wire(GET))
  const [, first = '', second = ''] = shown(server.written()).split('HTTP/1.1')
  assert.not.match(first, /Connection/)
  assert.match(second, /Connection: close/)
  assert.is(server.connection.getStatus(false), 'ENDING')
})

test('a leaving worker waits for an answer that is under way', async () => {
  let send: () => void = () => assert.unreachable()
  const server = serve((connection) => {
    send = () => connection.send('late')
  })
  server.receive(wire(GET))
  server.goodbye()
  server.leave()
  assert.is(server.socket.hasEnded, false)
  send()
  assert.match(shown(server.written()), /Connection: close¶¶late$/)
})

test('a head that breaks off is told so, and an idle client is not', () => {
  for (const [text, expected] of [
    ['', 0],
    ['¶', 0],
    ['G', 400],
    ['GET / HTTP/1.1¶Host: h¶', 400],
    [`${GET}GET`, 200],
    [`${GET}`, 200],
  ] as const) {
    const server = serve((connection) => connection.send('ok'))
    server.receive(wire(text))
    server.end()
    const answers = shown(server.written())
    assert.is(statusOf(answers), expected, text)
    assert.is(answers.includes('400 Bad Request'), expected === 400 || text.endsWith('GET'), text)
    assert.is(server.connection.getStatus(false), 'CLOSED', text)
    if (expected !== 400 && !text.endsWith('GET')) assert.is(server.connection.closeReason, 'peer', text)
  }
})

/** Bodies of the answers on the wire. */
const answersOf = (written: string) => [...written.matchAll(/¶¶(.*?)(?=HTTP\/1\.1|$)/gs)].map(([, body]) => body)

test('a second answer, and a failure after the first, are no answers to a request that nobody has seen yet', async () => {
  for (const later of ['sends', 'throws'] as const) {
    let goOn: () => void = () => undefined
    const seen: string[] = []
    const failures: string[] = []
    const server = serve(
      async (connection, { path }) => {
        seen.push(path)
        connection.send(`one for ${path}`)
        if (path !== '/late') return
        await new Promise<void>((resolve) => {
          goOn = resolve
        })
        if (later === 'throws') throw new Error('planted')
        connection.send('a second one')
      },
      {},
      { onError: (_connection: unknown, _code: number, message: string) => void failures.push(message) },
    )
    server.receive(wire(['/late', '/next', '/third'].map((path) => `GET ${path} HTTP/1.1¶Host: h¶¶`).join('')))
    goOn()
    await until(() => failures.length > 0)
    assert.match(failures[0] ?? '', later === 'throws' ? /planted/ : /there is no request to answer/)
    assert.equal(seen, ['/late'])
    assert.equal(answersOf(shown(server.written())), ['one for /late'])
    assert.is(server.connection.getStatus(false), 'ENDING')
  }
})

test('whatever is sent by who hears that the buffer is full, a request has one answer', () => {
  for (const answer of ['x'.repeat(8000), new Response(200, {}, 'x'.repeat(8000))]) {
    const refused: string[] = []
    const server = serve(
      (connection) => connection.send(answer),
      {},
      {
        maxSendBufferSize: 4000,
        onBufferFull: (connection: Connection<Request, unknown>) => {
          try {
            connection.send('of the full buffer')
          } catch (error) {
            refused.push(codeOf(error))
          }
        },
      },
    )
    server.hold()
    server.receive(wire(GET))
    server.drain()
    assert.equal(refused, ['ERR_ANSWERED'])
    assert.is(answersOf(shown(server.written())).length, 1)
  }
})

test('requests that wait for a client who reads slowly are answered when it has read, also when it has sent FIN', () => {
  const server = serve((connection, { path }) => connection.send(path.padEnd(300_000, 'x')))
  server.hold()
  server.receive(wire(['/a', '/b', '/c'].map((path) => `GET ${path} HTTP/1.1¶Host: h¶¶`).join('')))
  server.end()
  const answers: (string | undefined)[] = []
  for (let n = 0; n < 4; n++) {
    server.drain()
    answers.push(...answersOf(shown(server.written())))
    server.hold()
  }
  assert.equal(
    answers.map((body) => body?.slice(0, 2)),
    ['/a', '/b', '/c'],
  )
})

test('Transfer-Encoding opens an answer, whose body is its first piece', () => {
  const server = serve((connection) => {
    connection.send(new Response(200, { 'Transfer-Encoding': 'chunked' }, 'first '))
    connection.send(new Chunk('second'))
    connection.send(new Chunk(''))
  })
  server.receive(wire(GET))
  assert.match(shown(server.written()), /Transfer-Encoding: chunked¶¶6¶first ¶6¶second¶0¶¶$/)
})

test('what a handler does to an empty body is its own, and all headers and cookies are had without a name', () => {
  const tags: unknown[] = []
  const server = serve((connection, request) => {
    const body = request.rawBody() as Buffer & { tag?: string }
    tags.push(body.tag)
    body.tag = 'mine'
    tags.push(request.header(), request.cookie())
    connection.send('ok')
  })
  for (let n = 0; n < 2; n++) server.receive(wire('GET / HTTP/1.1¶Host: h¶Cookie: a=b¶¶'))
  const all = [{ host: 'h', cookie: 'a=b' }, { a: 'b' }].map((one) => Object.assign(Object.create(null), one))
  assert.equal(tags, [undefined, ...all, undefined, ...all])
})

test('the Response of fetch is refused, and so is a setting that there is not', () => {
  const server = serve((connection) => connection.send(new globalThis.Response('x', { status: 404 })))
  server.receive(wire(GET))
  assert.match(server.errors[0]?.message ?? '', /Response of fetch: import \{ Response \} from 'millrace'/)
  for (const [settings, says] of [
    [{ compres: true }, /http\(\) has no option 'compres'/],
    [{ sessions: true }, /sessions is true: write sessions: new Sessions/],
    [{ websocket: true }, /websocket is true: write websocket: websocket\(\)/],
    [{ uploads: { maxfiles: 1 } }, /uploads has no option 'maxfiles'/],
  ] as const)
    assert.throws(() => serve(null, settings as never), says)
})

test('a stream that fails before its first piece is a 500; one without a piece is an answer; events begin at once', async () => {
  async function* failing() {
    await nextTurn()
    if (Math.random() >= 0) throw new Error('planted')
    yield 'never'
  }
  async function* tooLong() {
    yield 'longer than that'
  }
  async function* numbers() {
    yield 7 as unknown as string
  }
  for (const response of [
    new Response(200, {}, failing()),
    new Response(200, { 'Content-Length': '3' }, tooLong()),
    new Response(200, {}, numbers()),
  ]) {
    const server = serve((connection) => connection.send(response))
    server.receive(wire(GET + GET))
    await until(() => server.errors.length > 0)
    assert.match(
      shown(server.written()),
      /^HTTP\/1\.1 500 .*Connection: close¶¶500 Internal Server Error: the answer could not be made\n$/s,
    )
    assert.equal(
      server.errors.map(({ code }) => code),
      [4],
    )
  }
  async function* nothingAtAll() {
    yield ''
  }
  const empty = serve((connection) => connection.send(new Response(200, {}, nothingAtAll())))
  empty.receive(wire(GET))
  await until(() => empty.connection.bytesWritten > 0)
  assert.match(shown(empty.written()), /^HTTP\/1\.1 200 OK¶.*Transfer-Encoding: chunked¶¶0¶¶$/s)
  async function* later() {
    await new Promise(() => undefined)
    yield ''
  }
  const events = serve((connection) =>
    connection.send(new Response(200, { 'Content-Type': 'text/event-stream' }, later())),
  )
  events.receive(wire(GET))
  assert.match(shown(events.written()), /^HTTP\/1\.1 200 OK¶Content-Type: text\/event-stream¶/)
})

test('a stream that fails when its client has gone is no answer: none is sent, and none is logged', async () => {
  let fail: () => void = () => undefined
  let isOver = false
  async function* failing() {
    try {
      await new Promise<void>((_resolve, reject) => {
        fail = () => reject(new Error('planted'))
      })
      yield 'never'
    } finally {
      isOver = true
    }
  }
  const lines: unknown[] = []
  const server = serve((connection) => connection.send(new Response(200, {}, failing())), {
    accessLog: (entry) => void lines.push(entry),
  })
  server.receive(wire(GET))
  server.connection.destroy()
  fail()
  await until(() => isOver)
  await nextTurn()
  assert.equal([lines, server.errors, shown(server.written())], [[], [], ''])
})

test('a handler that fails after it has given a stream of which nothing has left is a 500', async () => {
  let isReturned = false
  async function* slow() {
    try {
      await nextTurn()
      yield 'a'
    } finally {
      isReturned = true
    }
  }
  const server = serve((connection) => {
    connection.send(new Response(200, {}, slow()))
    throw new Error('planted')
  })
  server.receive(wire(GET))
  await until(() => isReturned)
  assert.is(answersOf(shown(server.written())).length, 1)
  assert.is(server.connection.getStatus(false), 'ENDING')
})

test('an answer that is cut is in the log, with what had left of it', async () => {
  const lines: string[] = []
  const accessLog = ({ target, status, bytes }: { target: string; status: number; bytes: number }) =>
    void lines.push(`${target} ${status} ${bytes}`)
  async function* broken() {
    yield 'abc'
    throw new Error('planted')
  }
  const server = serve((connection) => connection.send(new Response(200, {}, broken())), { accessLog })
  server.receive(wire('GET /cut HTTP/1.1¶Host: h¶¶'))
  await until(() => lines.length > 0)
  assert.equal(lines, ['/cut 200 3'])
})

test('what is refused before it is a request is in the log, as far as it said anything', () => {
  const lines: string[] = []
  const accessLog = ({ method, target, version, status, bytes, remoteIp }: AccessLogEntry) =>
    void lines.push(`${remoteIp} ${method} ${target} ${version} ${status} ${bytes > 0}`)
  const settings = { accessLog, maxHeadBytes: 200, maxTargetBytes: 20 }
  for (const [text, line] of [
    ['\x16\x03\x01', '- - - 400 true'],
    ['¶GET /a b', 'GET /a - 400 true'],
    ['GET /\x00', 'GET - - 400 true'],
    ['GET / HTTP/2.0¶', 'GET / - 505 true'],
    ['GET /a HTTP/1.1¶A b: c¶', 'GET /a 1.1 400 true'],
    ['GET /a HTTP/1.0¶A: b¶Content-Length: x¶', 'GET /a 1.0 400 true'],
    ['GET /a HTTP/1.1¶¶', 'GET /a 1.1 400 true'],
    ['HEAD /a HTTP/1.1¶¶', 'HEAD /a 1.1 400 false'],
    [`GET /${'a'.repeat(30)}`, 'GET - - 414 true'],
    [`GET / HTTP/1.1¶A: ${'a'.repeat(200)}`, 'GET / 1.1 431 true'],
    ['CONNECT h:1 HTTP/1.1¶Host: h:1¶¶', 'CONNECT h:1 1.1 501 true'],
    ['POST /a HTTP/1.1¶Host: h¶Content-Length: 9999999999¶¶', 'POST /a 1.1 413 true'],
  ] as const) {
    serve(undefined, settings).receive(wire(text))
    assert.equal(lines.splice(0), [`192.0.2.1 ${line}`], text)
  }
  const cut = serve(undefined, settings)
  cut.receive(wire('GET /b HT'))
  cut.end()
  const late = serve(undefined, { ...settings, headerTimeoutMs: 1000 })
  late.receive(wire(`${GET}GET /c HTTP/1.1¶`))
  late.advance(1001)
  assert.equal(lines, ['192.0.2.1 GET /b - 400 true', '192.0.2.1 GET / 1.1 200 true', '192.0.2.1 GET /c 1.1 408 true'])
})

test('https is refused to who came without, unless a trusted proxy says that its client did not', () => {
  const lines: string[] = []
  const accessLog = ({ method, target, status }: AccessLogEntry) => void lines.push(`${method} ${target} ${status}`)
  const ask = (text: string, trustProxy: readonly string[] = []) => {
    const server = serve((connection) => connection.send('ok'), { accessLog, trustProxy })
    server.receive(wire(text))
    return shown(server.written())
  }
  const line = 'https://h/x HTTP/1.1¶Host: h¶'
  assert.match(ask(`GET ${line}¶`), /^HTTP\/1\.1 421 Misdirected Request¶.*Connection: close¶¶421 /)
  assert.match(ask(`HEAD ${line}¶`), /^HTTP\/1\.1 421 .*¶¶$/)
  assert.match(ask(`POST ${line}Content-Length: 5¶¶body`, ['192.0.2.1']), /^HTTP\/1\.1 421 /)
  assert.match(ask(`GET ${line}X-Forwarded-Proto: https¶¶`), /^HTTP\/1\.1 421 /)
  assert.match(ask(`GET ${line}X-Forwarded-Proto: https¶¶`, ['192.0.2.1']), /^HTTP\/1\.1 200 /)
  assert.match(ask(`GET ${line}X-Forwarded-Proto: HTTPS¶¶`, ['192.0.2.1']), /^HTTP\/1\.1 200 /)
  assert.match(ask('GET HTTPS://h/x HTTP/1.0¶¶'), /^HTTP\/1\.1 421 /)
  assert.match(ask('GET HTTP://h/x HTTP/1.1¶Host: h¶¶'), /^HTTP\/1\.1 200 /)
  assert.is(lines[0], 'GET https://h/x 421')
})

test('the answer that a connection is closed with says so', async () => {
  for (const how of ['close', 'end'] as const)
    for (const body of ['bye', new Response(200, {}, 'bye')]) {
      const server = serve((connection) => connection[how](body))
      server.receive(wire(`${GET}${GET}`))
      assert.is(shown(server.written()), OK('bye', 'Connection: close¶'), how)
      assert.is(server.connection.getStatus(false), how === 'end' ? 'ENDING' : 'CLOSED')
      assert.equal(server.errors, [])
    }
})

test('half-closed clients get their answers', async () => {
  const server = serve(async (connection) => {
    await nextTurn()
    connection.send('ok')
  })
  server.receive(wire(`${GET}${GET}GET / HT`))
  server.end()
  await until(() => server.connection.getStatus(false) === 'CLOSED')
  const statuses = [...shown(server.written()).matchAll(/HTTP\/1\.1 (\d+)/g)].map(([, status]) => status)
  assert.equal(statuses, ['200', '200', '400'])
})

test('an open answer is whole when its user closes, and cut when its connection is closed for silence', () => {
  for (const [end, text] of [
    [(server: Wire<Request, unknown>) => server.connection.close(), '3¶one¶0¶¶'],
    [(server: Wire<Request, unknown>) => server.advance(2000), '3¶one¶'],
  ] as const) {
    const onMessage: Handler = (connection) => {
      connection.send(new Response(200, { 'Transfer-Encoding': 'chunked' }))
      connection.send(new Chunk('one'))
    }
    const server = serve(onMessage, {}, { idleTimeoutMs: 1000 })
    server.receive(wire(GET))
    end(server)
    assert.ok(shown(server.written()).endsWith(`¶¶${text}`))
    assert.is(server.connection.getStatus(false), 'CLOSED')
  }
})

test('a half-closed client gets an open answer to its end, unless that is one of events: they have none', () => {
  for (const [fields, text] of [
    [{ 'Transfer-Encoding': 'chunked' }, '3¶one¶3¶two¶0¶¶'],
    [{ 'Content-Type': 'text/event-stream' }, '3¶one¶'],
  ] as const) {
    const server = serve((connection) => {
      connection.send(new Response(200, fields))
      connection.send(new Chunk('one'))
    })
    server.receive(wire(GET))
    server.end()
    server.connection.send(new Chunk('two'))
    server.connection.send(new Chunk(''))
    assert.ok(shown(server.written()).endsWith(`¶¶${text}`))
    assert.is(server.connection.getStatus(false), 'CLOSED')
  }
})

test('any bytes give messages or one refusal that is answered, the same ones however they are cut', () => {
  const seed = seedOf('http codec')
  const random = randomOf(seed)
  const interesting =
    'POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nX: y\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc'
  for (let n = 0; n < atLength(1000, 5000); n++) {
    const start = interesting.slice(0, random(interesting.length))
    const bytes = Buffer.concat([Buffer.from(start), randomBytes(random, random(120), interesting)])
    const whole = serve(null, {}, { maxPackageSize: 200 })
    whole.receive(bytes)
    const cut = serve(null, {}, { maxPackageSize: 200 })
    for (const piece of randomCuts(random, bytes)) cut.receive(piece)
    const how = `SEED=${seed}, case ${n}: ${bytes.toString('hex')}`
    assert.is(shown(cut.written()), shown(whole.written()), how)
    assert.ok(
      whole.errors.every(
        ({ code, error }) => code === 3 && error?.name === 'ProtocolError' && error.cause === undefined,
      ),
      how,
    )
    assert.is(cut.errors.length, whole.errors.length, how)
  }
})

test('a handler that obeys the end of its worker leaves its client a 503, unless its answer has begun', async () => {
  for (const hasBegun of [false, true]) {
    const server = serve((connection, { signal }) => {
      if (hasBegun) connection.send(new Response(200, { 'Transfer-Encoding': 'chunked' }, 'begun'))
      return new Promise((_resolve, reject) => signal.addEventListener('abort', () => reject(signal.reason)))
    })
    server.receive(wire(GET))
    server.leave()
    server.connection[kAbort]()
    for (let turn = 0; turn < 3; turn++) await nextTurn()
    const text = shown(server.written())
    if (hasBegun) assert.match(text, /^HTTP\/1\.1 200 .*begun¶$/s)
    else assert.match(text, /^HTTP\/1\.1 503 (?=.*¶Connection: close¶).*the server is stopping\n$/s)
    assert.equal([server.connection.getStatus(false), server.connection.closeReason], ['ENDING', 'stopped'])
    assert.equal(server.errors, [])
  }
})

test.run()
