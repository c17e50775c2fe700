// Answers that are prepared before they leave, that are refused, that belong to another request, and what their Connection says.

import { createReadStream } from 'node:fs'
import { STATUS_CODES } from 'node:http'
import { Readable } from 'node:stream'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import type { Request } from '../../../protocols/http/request.ts'
import { Chunk, REASONS, Response } from '../../../protocols/http/response.ts'
import type { HttpSettings, Session, UploadForm } from '../../../protocols/http/settings.ts'
import type { AnyConnection, Connection } from '../../../src/connection.ts'
import { codeOf } from '../../../src/errors.ts'
import type { Wire } from '../../../src/testing.ts'
import { deferred } from '../../support/codecs.ts'
import { serve as serveAny, shown, wire } from '../../support/http.ts'
import { nextTurn, until } from '../../support/until.ts'

type Handler = (connection: Connection<Request, unknown>, request: Request) => unknown

function serve(onMessage: Handler, settings: HttpSettings = {}, limits: object = {}): Wire<Request, unknown> {
  return serveAny({ onMessage, ...limits } as never, settings) as unknown as Wire<Request, unknown>
}

/** What is written until it is like that. */
async function writtenBy(server: Wire<Request, unknown>, isDone: (text: string) => boolean): Promise<string> {
  let text = ''
  await until(() => {
    text += shown(server.written())
    return isDone(text)
  })
  return text
}

const get = (path: string, more = '') => wire(`GET ${path} HTTP/1.1¶Host: h¶${more}¶`)
const isAnswered = (error: unknown) => /^ERR_(ANSWERED|NO_REQUEST)$/.test(codeOf(error))
const OPEN = { 'Transfer-Encoding': 'chunked' }

/** Whose cookie takes a turn to be stored. */
const sessions = {
  load: async () => ({ getId: () => 'x' }) as Session,
  commit: async () => {
    await nextTurn()
    return 'sid=x'
  },
}

test('the reason of a status is that of RFC 9110, whose names of two are newer than those of Node', () => {
  const names: Record<string, string | undefined> = {
    ...STATUS_CODES,
    413: 'Content Too Large',
    422: 'Unprocessable Content',
  }
  for (const [status, reason] of Object.entries(REASONS)) assert.is(reason, names[status])
})

test('pieces that are sent while an open answer is prepared follow its head, in their order', async () => {
  const server = serve(
    async (connection, request) => {
      await request.session()
      connection.send(new Response(200, OPEN, 'one'))
      connection.send(new Chunk('two'))
      connection.send('three')
      connection.send(new Chunk(''))
    },
    { sessions },
  )
  server.receive(get('/'))
  const text = await writtenBy(server, (all) => all.endsWith('0¶¶'))
  assert.match(text, /Set-Cookie: sid=x¶.*¶¶3¶one¶3¶two¶5¶three¶0¶¶$/)
  assert.equal(server.errors, [])
})

test('an open answer is not compressed, and so waits for nothing', () => {
  const server = serve(
    (connection) => {
      connection.send(new Response(200, { ...OPEN, 'Content-Type': 'text/plain' }, 'one'))
      connection.send(new Chunk('two'))
    },
    { compress: true },
  )
  server.receive(get('/', 'Accept-Encoding: gzip¶'))
  assert.match(shown(server.written()), /^HTTP\/1\.1 200 .*¶¶3¶one¶3¶two¶$/)
  assert.equal(server.errors, [])
})

test('pieces before the head are bounded as those behind it: false, then a drain, or a hole', async () => {
  const sent: boolean[] = []
  let drains = 0
  const onBufferDrain = () => drains++
  const open = (count: number): Handler => {
    return async (connection, request) => {
      await request.session()
      connection.send(new Response(200, OPEN))
      for (let n = 0; n < count; n++) sent.push(connection.send(new Chunk('A'.repeat(600))))
    }
  }
  const server = serve(open(2), { sessions }, { maxSendBufferSize: 1000, onBufferDrain })
  server.receive(get('/'))
  await until(() => drains === 1)
  assert.equal(sent.splice(0), [true, false])
  assert.is([...shown(server.written())].filter((letter) => letter === 'A').length, 1200)
  assert.equal(server.errors, [])
  const greedy = serve(open(3), { sessions }, { maxSendBufferSize: 1000 })
  greedy.receive(get('/'))
  await until(() => greedy.errors.length === 3)
  assert.match(greedy.errors[2]?.message ?? '', /^2 messages not sent/)
  assert.equal(sent.splice(0), [true, false, false])
  assert.ok(greedy.socket.isDestroyed)
})

test('who closes while an open answer is prepared gives it its end; who only asked with HEAD has it', async () => {
  const closing = serve(
    async (connection, request) => {
      await request.session()
      connection.send(new Response(200, OPEN, 'one'))
      connection.close(new Chunk('two'))
    },
    { sessions },
  )
  closing.receive(get('/'))
  await until(() => closing.connection.getStatus(false) !== 'ESTABLISHED')
  assert.match(shown(closing.written()), /¶¶3¶one¶3¶two¶0¶¶$/)
  const head = serve(
    async (connection, request) => {
      await request.session()
      connection.send(new Response(200, OPEN, 'one'))
      connection.send(new Chunk('two'))
    },
    { sessions },
  )
  head.receive(wire('HEAD / HTTP/1.1¶Host: h¶¶'))
  const text = await writtenBy(head, (all) => all !== '')
  assert.match(text, /^HTTP\/1\.1 200 .*¶¶$/)
  assert.equal(head.errors, [])
})

/** Answers that hold something, and whether they have let go of it. */
function holders(): { readonly answer: () => unknown; readonly isFree: () => boolean }[] {
  let isClosed = false
  let isReturned = false
  let isCancelled = false
  const readable = new Readable({ read: () => undefined })
  return [
    {
      answer: () => ({
        status: 200,
        headers: [],
        size: 1,
        body: Readable.from(['x']),
        close: async () => {
          isClosed = true
        },
      }),
      isFree: () => isClosed,
    },
    { answer: () => new Response(200, {}, readable), isFree: () => readable.destroyed },
    {
      answer: () =>
        new Response(200, {}, {
          [Symbol.asyncIterator]: () => ({
            next: async () => ({ done: true, value: undefined }),
            return: async () => {
              isReturned = true
              return { done: true, value: undefined }
            },
          }),
        } as never),
      isFree: () => isReturned,
    },
    {
      answer: () =>
        new Response(
          200,
          {},
          new ReadableStream({
            cancel: () => {
              isCancelled = true
            },
          }) as never,
        ),
      isFree: () => isCancelled,
    },
  ]
}

function sent({ connection }: Wire<Request, unknown>, answer: unknown): unknown {
  return connection.send(answer)
}

test('an answer that nobody can take lets go of its file and its stream', async () => {
  const late: [
    string,
    (server: Wire<Request, unknown>) => unknown,
    (server: Wire<Request, unknown>, answer: unknown) => unknown,
  ][] = [
    ['a closed connection', ({ connection }) => connection.destroy(), sent],
    [
      'a closed one, again',
      ({ connection }) => connection.destroy(),
      ({ connection }, answer) => connection.close(answer),
    ],
    ['an ended one, again', ({ connection }) => connection.end(), ({ connection }, answer) => connection.end(answer)],
    ['an ending one', ({ connection }) => connection.end(), sent],
    ['a client that went', (server) => server.reset(), sent],
    ['a client that was told of its fault', (server) => server.receive('5\r\nhellox'), sent],
    ['an answer before', ({ connection }) => connection.send(new Response(200, OPEN)), sent],
    ['no request', ({ connection }) => connection.send('ok'), sent],
    [
      'a reason that cannot be',
      () => undefined,
      ({ connection }, answer) => connection.send(Object.assign(answer as object, { reason: 'a\nb' })),
    ],
    [
      'another request',
      () => undefined,
      ({ connection }, answer) => {
        if (answer instanceof Response) answer.forRequest({})
        else Object.assign(answer as object, { headers: [['a', 'b\n']] })
        return connection.send(answer)
      },
    ],
  ]
  for (const [title, prepare, send] of late)
    for (const [index, { answer, isFree }] of holders().entries()) {
      const server = serve(() => undefined, { body: 'stream' })
      const isFault = title.endsWith('fault')
      server.receive(isFault ? wire('POST / HTTP/1.1¶Host: h¶Transfer-Encoding: chunked¶¶') : get('/'))
      prepare(server)
      try {
        send(server, answer())
      } catch (error) {
        assert.match(codeOf(error), /^ERR_(ANSWERED|NO_REQUEST|BAD_RESPONSE|ENCODE)$/)
      }
      await until(isFree)
      assert.ok(isFree(), `${title}, ${index}`)
    }
})

test('a file that cannot be opened ends no process: not where its answer has no body, and not where none is taken', async () => {
  const cases: [string, (body: Readable) => Handler, RegExp][] = [
    ['HEAD /', (body) => (connection) => connection.send(new Response(200, {}, body)), /^HTTP\/1\.1 200 /],
    ['GET /', (body) => (connection) => connection.send(new Response(204, {}, body)), /^HTTP\/1\.1 204 /],
    ['GET /', (body) => (connection) => connection.send(new Response(200, {}, body)), /^HTTP\/1\.1 500 /],
    [
      'GET /',
      (body) => (connection) => {
        connection.send('ok')
        assert.throws(() => connection.send(new Response(200, {}, body)), isAnswered)
      },
      /^HTTP\/1\.1 200 /,
    ],
    [
      'GET /',
      (body) => (connection) => {
        connection.destroy()
        assert.is(connection.send(new Response(200, {}, body)), false)
      },
      /^$/,
    ],
    [
      'GET /',
      (body) => async (connection, request) => {
        await request.session()
        connection.send(new Response(200, {}, body))
      },
      /^HTTP\/1\.1 500 /,
    ],
  ]
  for (const compress of [false, true])
    for (const [line, handlerOf, expected] of cases) {
      const body = createReadStream('/no/such/file')
      const commit = () => until(() => body.closed).then(() => 'sid=x')
      const server = serve(handlerOf(body), { compress, sessions: { ...sessions, commit } })
      server.receive(wire(`${line} HTTP/1.1¶Host: h¶¶`))
      await until(() => body.closed)
      await nextTurn() // by then its error has been emitted
      assert.match(await writtenBy(server, (text) => expected.test(text)), expected)
    }
})

test('an answer to HEAD without a body says no length but a given one, and its fields vary as those of GET', async () => {
  const headOf = async (answer: unknown, settings: HttpSettings = {}) => {
    const server = serve((connection) => connection.send(answer), settings)
    server.receive(Buffer.concat([wire('HEAD / HTTP/1.1¶Host: h¶Accept-Encoding: gzip¶¶'), get('/next')]))
    const [head = ''] = (await writtenBy(server, (text) => text.split('HTTP/1.1').length === 3)).split('¶¶')
    return head
  }
  const type = { 'Content-Type': 'text/plain' }
  assert.is(await headOf(new Response(200, type)), 'HTTP/1.1 200 OK¶Content-Type: text/plain')
  assert.match(await headOf(new Response(200, { ...type, 'Content-Length': '7' })), /¶Content-Length: 7$/)
  assert.match(await headOf(new Response(200, type, '')), /¶Content-Length: 0$/)
  assert.match(await headOf(new Response(200, type, 'four')), /¶Content-Length: 4$/)
  const compress = await headOf(new Response(200, type), { compress: true })
  assert.is(compress, 'HTTP/1.1 200 OK¶Content-Type: text/plain¶Vary: Accept-Encoding')
})

test('an answer that ends with its connection is whole when all of it has been sent, not when it is written', () => {
  for (const [line, isSent, isReset] of [
    ['GET / HTTP/1.0', false, true],
    ['GET / HTTP/1.0', true, false],
    ['GET / HTTP/1.1¶Host: h', false, false],
  ] as const) {
    const server = serve((connection) => {
      connection.send(new Response(200, OPEN, 'one'))
      connection.send(new Chunk(''))
    })
    server.hold()
    server.receive(wire(`${line}¶¶`))
    if (isSent) server.drain()
    server.connection.destroy()
    assert.is(server.socket.wasReset, isReset, `${line} ${isSent}`)
  }
})

test('an answer that is sent twice is on its way once, and whole', async () => {
  async function* pieces() {
    for (const piece of ['one', 'two', 'three']) {
      await nextTurn()
      yield piece
    }
  }
  const codes: string[] = []
  const server = serve((connection) => {
    const answer = new Response(200, {}, pieces())
    connection.send(answer)
    try {
      connection.send(answer)
    } catch (error) {
      codes.push(codeOf(error))
    }
  })
  server.receive(get('/'))
  const text = await writtenBy(server, (all) => all.endsWith('0¶¶'))
  assert.match(text, /¶¶3¶one¶3¶two¶5¶three¶0¶¶$/)
  assert.equal(codes, ['ERR_ANSWERED'])
})

/** What takes its time after a handler has returned, or before it is called, until `goOn`. */
const OURS: Record<string, { request: Buffer; rest?: string; answer: () => unknown; settings: HttpSettings }> = {
  'a session is stored': { request: get('/'), answer: () => 'ok', settings: {} },
  'a file is opened': { request: get('/'), answer: () => new Response().withFile('a'), settings: {} },
  'a form is stored': { request: form(300_000), answer: () => 'ok', settings: { uploads: {} } },
  'a form is stored, and too much of it waits for that': {
    request: form(300_001).subarray(0, -1),
    rest: 'x',
    answer: () => 'ok',
    settings: { uploads: {} },
  },
}

function form(size: number): Buffer {
  const head = `POST / HTTP/1.1¶Host: h¶Content-Type: multipart/form-data; boundary=X¶Content-Length: ${size}¶¶`
  return wire(head + 'x'.repeat(size))
}

for (const [what, { request, rest = '', answer, settings }] of Object.entries(OURS)) {
  test(`idleTimeoutMs counts no time in which we keep the client waiting: ${what}`, async () => {
    let goOn: () => void = () => assert.unreachable()
    const gate = new Promise<void>((resolve) => (goOn = resolve))
    const slow = { load: sessions.load, commit: () => gate.then(() => null) }
    const openFile = () => gate.then(() => ({ status: 200, headers: [], size: 0, body: null, close: () => undefined }))
    const readUploads = async (body: AsyncIterable<Uint8Array>) => {
      await gate
      for await (const _ of body);
      return { fields: [], files: [], dispose: async () => undefined }
    }
    const onMessage = (connection: AnyConnection, request: Request) => {
      if (what === 'a session is stored') void request.session()
      connection.send(answer())
    }
    const callbacks = { onMessage, idleTimeoutMs: 5000 } as never
    const server = serveAny(callbacks, { ...settings, sessions: slow }, { openFile, readUploads })
    server.receive(request)
    await nextTurn()
    server.advance(20_000)
    assert.is(server.connection.getStatus(false), 'ESTABLISHED')
    goOn()
    server.receive(rest)
    await writtenBy(server as never, (text) => text.startsWith('HTTP/1.1 200'))
    server.advance(4000)
    assert.is(server.connection.getStatus(false), 'ESTABLISHED')
    server.advance(6000)
    assert.is(server.connection.closeReason, 'timeout')
  })
}

test('a Response that is sent twice says to each what it said when it was sent, whatever its body is', async () => {
  const openFile = async () => {
    await nextTurn()
    return { status: 200, headers: [], size: 0, body: null, close: () => undefined }
  }
  for (const shared of [new Response(200, {}, 'text'), new Response().withFile('a')]) {
    const onMessage = (connection: Connection<Request, unknown>, request: Request) => {
      connection.send(
        shared
          .setHeader('Set-Cookie', `user=${request.get('user')}`)
          .withStatus(request.get('user') === 'ann' ? 201 : 202),
      )
    }
    const ann = serveAny({ onMessage } as never, {}, { openFile }) as unknown as Wire<Request, unknown>
    const bob = serveAny({ onMessage } as never, {}, { openFile }) as unknown as Wire<Request, unknown>
    ann.receive(get('/?user=ann'))
    bob.receive(get('/?user=bob'))
    assert.match(await writtenBy(ann, (text) => text !== ''), /^HTTP\/1\.1 201 .*Set-Cookie: user=ann¶/)
    assert.match(await writtenBy(bob, (text) => text !== ''), /^HTTP\/1\.1 202 .*Set-Cookie: user=bob¶/)
  }
})

test('an answer that is bound to its request is none to the next one, however late it is sent', () => {
  const requests: Request[] = []
  const server = serve((_connection, request) => void requests.push(request))
  server.receive(get('/a'))
  const [a] = requests as [Request]
  server.connection.send(new Response(200, {}, 'a').forRequest(a))
  server.receive(get('/b'))
  assert.throws(
    () => server.connection.send(new Response(200, {}, 'late').forRequest(a)),
    (error: unknown) => codeOf(error) === 'ERR_ANSWERED',
  )
  const [, b] = requests as [Request, Request]
  server.connection.send(new Response(200, {}, 'b').forRequest(b))
  assert.throws(
    () => server.connection.send(new Response(200, {}, 'b').forRequest(b)),
    (error: unknown) => codeOf(error) === 'ERR_NO_REQUEST',
  )
  assert.match(shown(server.written()), /¶¶a[\s\S]*¶¶b$/)
})

/** A request whose handler has yet to be called for it, in its two halves; and how its body is received. */
const ARRIVING: Record<string, readonly [string, string, HttpSettings]> = {
  'a body': ['POST /next HTTP/1.1¶Host: h¶Content-Length: 4¶¶12', '34', {}],
  'a form': [
    'POST /next HTTP/1.1¶Host: h¶Content-Type: multipart/form-data; boundary=X¶Content-Length: 4¶¶12',
    '34',
    { uploads: {} },
  ],
}

for (const [what, [first, rest, settings]] of Object.entries(ARRIVING)) {
  test(`a second answer is none to the next request, of which ${what} is still to come`, async () => {
    const codes: string[] = []
    let goOn: () => void = () => assert.unreachable()
    let store: () => void = () => undefined
    const readUploads = () =>
      new Promise<UploadForm>((resolve) => {
        store = () => resolve({ fields: [], files: [], dispose: async () => undefined })
      })
    const onMessage = async (connection: AnyConnection, request: Request) => {
      connection.send(`answer to ${request.path}`)
      if (request.path === '/next') return
      await new Promise<void>((resolve) => {
        goOn = resolve
      })
      const again = new Response(200, {}, 'bound').forRequest(request)
      for (const answer of [
        () => connection.send('text'),
        () => connection.send(again),
        () => connection.close('last'),
      ])
        try {
          answer()
          codes.push('sent')
        } catch (error) {
          codes.push(codeOf(error))
        }
    }
    const server = serveAny({ onMessage } as never, settings, { readUploads })
    server.receive(get('/'))
    server.receive(wire(first))
    goOn()
    await until(() => codes.length === 3)
    assert.equal(codes, ['ERR_NO_REQUEST', 'ERR_NO_REQUEST', 'ERR_NO_REQUEST'])
    server.receive(wire(rest))
    store()
    await until(() => server.messages.length === 2)
    const bodies = shown(server.written()).match(/answer to .[a-z]*|¶¶(?:text|bound|last)/g)
    assert.equal([bodies, server.errors], [['answer to /', 'answer to /next'], []])
  })
}

test('Connection names Upgrade and other fields that are there, and nothing else', () => {
  for (const [headers, line] of [
    [{ Upgrade: 'h2c', Connection: 'Upgrade' }, 'upgrade'],
    [{ Upgrade: 'h2c' }, 'upgrade'],
    [{ 'X-Hop': '1', Connection: 'x-hop, x-none, keep-alive, content-length' }, 'x-hop'],
    [{ Upgrade: 'h2c', Connection: 'close' }, 'close, upgrade'],
    [{ Connection: 'x-none' }, ''],
  ] as const) {
    const server = serve((connection) => connection.send(new Response(426, headers as never)))
    server.receive(get('/'))
    const [, found = ''] = /Connection: (.*?)¶/.exec(shown(server.written())) ?? []
    assert.is(found, line)
  }
})

test('a file that comes with Connection: close is the last answer', async () => {
  const openFile = async () => ({ status: 200, headers: [], size: 0, body: null, close: () => undefined })
  const onMessage = (connection: Connection<Request, unknown>) =>
    connection.send(new Response(200, { Connection: 'close' }).withFile('a'))
  const server = serveAny({ onMessage } as never, {}, { openFile })
  server.receive(get('/'))
  await until(() => server.connection.getStatus(false) === 'ENDING')
  assert.match(shown(server.written()), /Connection: close/)
})

test('the signal of a request is its own: what listens to it hears nothing after the answer', async () => {
  const heard: string[] = []
  let late: AbortSignal | null = null
  const server = serve(async (connection, request) => {
    request.signal.addEventListener('abort', () => heard.push(request.path))
    if (request.path === '/waits') return
    connection.send('ok')
    late = request.signal
  })
  for (const path of ['/a', '/b', '/waits']) {
    server.receive(get(path))
    await nextTurn()
  }
  server.reset()
  assert.equal(heard, ['/waits'])
  assert.is((late as AbortSignal | null)?.aborted, false)
  const refused = serve(
    async (_connection, request) => {
      request.signal.addEventListener('abort', () => heard.push('refused'))
    },
    { answerTimeoutMs: 1000 },
  )
  refused.receive(get('/'))
  refused.advance(5000)
  await until(() => heard.includes('refused'))
})

/** Sources of a body that never come to their next piece, each with how to see that it has been ended. */
const STALLED: Record<string, () => { body: AsyncIterable<string>; hasEnded(): boolean }> = {
  'a Readable': () => {
    const body = new Readable({ read: () => undefined })
    body.push('one')
    return { body, hasEnded: () => body.destroyed }
  },
  'a web stream': () => {
    let isCancelled = false
    const cancel = () => {
      isCancelled = true
    }
    const body = new ReadableStream<string>({ start: (control) => control.enqueue('one'), cancel })
    return { body: body as never, hasEnded: () => isCancelled }
  },
}

test('a stream whose next piece is awaited is ended when its client goes, compressed or not', async () => {
  for (const [what, stall] of Object.entries(STALLED))
    for (const compress of [false, true]) {
      const { body, hasEnded } = stall()
      const server = serve((connection) => connection.send(new Response(200, { 'Content-Type': 'text/plain' }, body)), {
        compress,
      })
      server.receive(get('/', 'Accept-Encoding: gzip¶'))
      await writtenBy(server, (text) => text.includes('¶¶'))
      server.reset()
      await until(hasEnded).catch((error) => assert.unreachable(`${what}, compress ${compress}: ${error.message}`))
      await nextTurn()
      assert.equal(server.errors, [], what)
    }
})

test('a stream that does not keep to its Content-Length breaks off, compressed or not', async () => {
  async function* pieces() {
    yield 'x'.repeat(1500)
    yield Buffer.alloc(500)
  }
  for (const compress of [false, true])
    for (const [size, how] of [
      [1999, 'longer'],
      [2001, 'shorter'],
      [2000, ''],
    ] as const) {
      const fields = { 'Content-Type': 'text/plain', 'Content-Length': size }
      const server = serve(
        (connection, { path }) => connection.send(path === '/' ? new Response(200, fields, pieces()) : 'next'),
        { compress },
      )
      server.receive(get('/', 'Accept-Encoding: gzip¶'))
      server.receive(get('/next')) // is answered if that ends
      await until(() => server.errors.length > 0 || server.messages.length > 1)
      const messages = server.errors.map(({ message }) => message)
      assert.equal(messages, how === '' ? [] : [`a body is ${how} than its Content-Length of ${size}`])
      assert.is(server.connection.getStatus(false), how === '' ? 'ESTABLISHED' : 'CLOSED')
    }
})

test('a compressed stream that nobody reads is ended: a HEAD, or a client that goes before it begins', async () => {
  for (const [what, stall] of Object.entries(STALLED))
    for (const method of ['HEAD', 'GET']) {
      const { body, hasEnded } = stall()
      const server = serve(
        async (connection, request) => {
          await request.session()
          connection.send(new Response(200, { 'Content-Type': 'text/plain' }, body))
          if (method === 'GET') server.reset()
        },
        { sessions, compress: true },
      )
      server.receive(wire(`${method} / HTTP/1.1¶Host: h¶Accept-Encoding: br¶¶`))
      await until(hasEnded).catch((error) => assert.unreachable(`${method}, ${what}: ${error.message}`))
    }
})

test('a session that cannot be loaded leaves the answer to the handler that caught the error, or did not look', async () => {
  const load = async () => {
    await nextTurn()
    throw new Error('the store is down')
  }
  const handlers: Handler[] = [
    async (connection, request) => {
      await request.session().catch(() => connection.send(new Response(503, {}, 'no sessions')))
    },
    (connection, request) => {
      request.session()
      connection.send(new Response(503, {}, 'no sessions'))
    },
  ]
  for (const handler of handlers) {
    const server = serve(handler, { sessions: { ...sessions, load } })
    server.receive(get('/'))
    const text = await writtenBy(server, (all) => all.includes('¶¶'))
    assert.match(text, /^HTTP\/1\.1 503 .*¶¶no sessions$/)
    assert.equal([server.errors, server.connection.getStatus(false)], [[], 'ESTABLISHED'])
  }
})

test('the parts of an answer are closed once, however it ends', async () => {
  async function* three() {
    yield Buffer.from('abc')
  }
  async function* failing() {
    yield await Promise.reject(new Error('no'))
  }
  async function* stalled() {
    yield Buffer.from('abc')
    await new Promise(() => undefined)
  }
  const bad = { headers: [['X Y', 'z']] as const }
  const cases: Record<string, { method?: string; parts?: object; compress?: boolean; resets?: boolean }> = {
    whole: {},
    HEAD: { method: 'HEAD' },
    'without a body': { parts: { size: 0, body: null } },
    'refused for a bad field': { parts: bad },
    'failing before its first piece': { parts: { body: failing() } },
    'of a wrong length': { parts: { size: 9 } },
    'cut by a reset': { parts: { size: 9, body: stalled() }, resets: true },
    compressed: { parts: { headers: [['Content-Type', 'text/plain']], size: -1 }, compress: true },
  }
  for (const [what, { method = 'GET', parts = {}, compress = false, resets = false }] of Object.entries(cases)) {
    let closed = 0
    const close = () => {
      closed++
    }
    const onMessage: Handler = (connection) => {
      connection.send({ status: 200, headers: [], size: 3, body: three(), close, ...parts })
    }
    const server = serve(onMessage, { compress })
    server.receive(wire(`${method} / HTTP/1.1¶Host: h¶Accept-Encoding: gzip¶¶`))
    await writtenBy(server, (text) => text.includes('¶¶'))
    if (resets) server.reset()
    await until(() => closed > 0).catch((error) => assert.unreachable(`${what}: ${error.message}`))
    for (let turn = 0; turn < 3; turn++) await nextTurn()
    server.reset()
    await nextTurn()
    assert.is(closed, 1, what)
  }
})

test('whatever maxInFlight says, nothing that a handler does after its answer reaches the next request', async () => {
  const paths: string[] = []
  let goOn: () => void = () => assert.unreachable()
  let code: unknown = null
  const onMessage: Handler = async (connection, { path }) => {
    paths.push(path)
    connection.send(path)
    if (path === '/b') return
    await new Promise<void>((resolve) => {
      goOn = resolve
    })
    try {
      connection.send('a second answer')
    } catch (error) {
      code = codeOf(error)
    }
  }
  const server = serve(onMessage, {}, { maxInFlight: 2 })
  server.receive(Buffer.concat([get('/a'), get('/b')]))
  assert.equal(paths, ['/a'])
  goOn()
  await until(() => paths.length === 2)
  assert.is(code, 'ERR_NO_REQUEST')
  assert.match(shown(server.written()), /¶¶\/aHTTP\/1\.1 200 [^H]*¶¶\/b$/)
  assert.equal(server.errors, [])
})

test('a second answer to an upload, from within its handler, does not reach the request behind it', async () => {
  const form: UploadForm = { files: [], fields: [], dispose: async () => undefined }
  const readUploads = async (body: AsyncIterable<Uint8Array>) => {
    for await (const _piece of body);
    return form
  }
  const seen: unknown[] = []
  const onMessage: Handler = (connection, { path }) => {
    seen.push(path)
    if (path === '/next') return nextTurn().then(() => connection.send('next'))
    connection.send('first')
    try {
      connection.send('second')
    } catch (error) {
      seen.push(codeOf(error))
    }
    return undefined
  }
  const server = serveAny({ onMessage } as never, { uploads: {} }, { readUploads })
  const head = 'POST /form HTTP/1.1¶Host: h¶Content-Type: multipart/form-data; boundary=x¶Content-Length: 4¶¶'
  server.receive(Buffer.concat([wire(`${head}form`), get('/next')]))
  const text = await writtenBy(server as never, (all) => all.endsWith('next'))
  assert.match(text, /^HTTP\/1\.1 200 [^H]*¶¶firstHTTP\/1\.1 200 [^H]*¶¶next$/)
  assert.equal([seen, server.errors], [['/form', 'ERR_NO_REQUEST', '/next'], []])
})

test('neither does its failure', async () => {
  for (const error of [new Error('secret'), Object.assign(new Error('secret'), { statusHint: 409 })]) {
    let fail: () => void = () => assert.unreachable()
    const onMessage: Handler = (connection, { path }) => {
      connection.send(path)
      return new Promise((_resolve, reject) => {
        fail = () => reject(error)
      })
    }
    const server = serve(onMessage, {}, { maxInFlight: 2 })
    server.receive(Buffer.concat([get('/a'), get('/b')]))
    fail()
    await until(() => server.connection.getStatus(false) === 'ENDING')
    assert.match(shown(server.written()), /^HTTP\/1\.1 200 [^H]*¶¶\/a$/)
    assert.equal(
      server.errors.map(({ message }) => message),
      ['secret'],
    )
  }
})

test('keepAliveTimeoutMs is the time between requests: it does not begin while the handler of one is at work', async () => {
  let settle: () => void = () => assert.unreachable()
  let isAborted = false
  const server = serve(
    (connection) => {
      connection.send('accepted')
      connection.signal.addEventListener('abort', () => {
        isAborted = true
      })
      return new Promise<void>((resolve) => {
        settle = resolve
      })
    },
    { keepAliveTimeoutMs: 10_000 },
  )
  server.receive(get('/'))
  server.advance(100_000)
  assert.equal([server.connection.getStatus(false), isAborted], ['ESTABLISHED', false])
  settle()
  await nextTurn()
  server.advance(21_000)
  assert.is(server.connection.getStatus(false), 'CLOSED')
})

test('a stream that has not begun is prepared: idleTimeoutMs does not cut who waits for its first piece', async () => {
  const work = deferred()
  async function* slow() {
    await work.promise
    yield 'late'
  }
  const server = serve((connection) => connection.send(new Response(200, {}, slow())), {}, { idleTimeoutMs: 1000 })
  server.receive(get('/'))
  server.advance(10_000)
  work.resolve()
  assert.match(await writtenBy(server, (text) => text.endsWith('0¶¶')), /^HTTP\/1\.1 200 .*¶4¶late¶0¶¶$/)
  const never = serve(
    (connection) => connection.send(new Response(200, {}, new Readable({ read: () => undefined }))),
    { answerTimeoutMs: 5000 },
    { idleTimeoutMs: 1000 },
  )
  never.receive(get('/'))
  never.advance(6000)
  assert.match(shown(never.written()), /^HTTP\/1\.1 503 /)
})

test('keepAliveTimeoutMs is not the time in which the connection is held back on our side', async () => {
  for (const isOpening of [true, false]) {
    const work = deferred()
    const server = serve(
      (connection, { path }) => {
        connection.send('answer')
        if (path === '/hold') connection.pauseRecv()
      },
      { keepAliveTimeoutMs: 2000 },
      isOpening ? { onConnect: () => work.promise } : {},
    )
    if (!isOpening) server.receive(get('/hold'))
    server.receive(get('/next'))
    server.written()
    server.advance(5000)
    work.resolve()
    server.connection.resumeRecv()
    assert.match(await writtenBy(server, (text) => text !== ''), /¶answer$/)
    server.advance(6000)
    assert.is(server.connection.getStatus(false), 'CLOSED')
  }
})

test('a source that has failed is left once', async () => {
  let left = 0
  const source = {
    [Symbol.asyncIterator]: () => ({
      next: () => Promise.reject(new Error('no more')),
      return: async () => ({ done: true as const, value: left++ }),
    }),
  }
  const server = serve((connection) => connection.send(new Response(200, {}, source as never)))
  server.receive(get('/'))
  assert.match(await writtenBy(server, (text) => text !== ''), /^HTTP\/1\.1 500 /)
  assert.is(left, 1)
})

test('keepAliveTimeoutMs is not longer because the connection was held back for a while', async () => {
  for (const isOpening of [true, false]) {
    const work = deferred()
    const options = isOpening ? { onConnect: () => work.promise } : {}
    const server = serve((connection) => connection.send('answer'), { keepAliveTimeoutMs: 2000 }, options)
    if (!isOpening) server.connection.pauseRecv()
    work.resolve()
    await work.promise
    server.connection.resumeRecv()
    server.receive(get('/'))
    assert.match(await writtenBy(server, (text) => text !== ''), /¶answer$/)
    server.advance(1900)
    assert.is(server.connection.getStatus(false), 'ESTABLISHED')
    server.advance(300)
    assert.is(server.connection.getStatus(false), 'CLOSED')
  }
})

test('pieces of an open answer to HEAD are taken and not sent, and the next request follows the last one', async () => {
  for (const isPrepared of [false, true])
    for (const status of [200, 204, 304]) {
      const sent: boolean[] = []
      const server = serve(
        async (connection, request) => {
          if (request.path === '/next') return connection.send('next')
          if (isPrepared) await request.session()
          sent.push(connection.send(new Response(status, OPEN, 'one')), connection.send(new Chunk('two')))
          await nextTurn()
          sent.push(connection.send(new Chunk('x'.repeat(2_000_000))), connection.send(new Chunk('')))
        },
        { sessions },
      )
      server.receive(Buffer.concat([wire(`${status === 200 ? 'HEAD' : 'GET'} / HTTP/1.1¶Host: h¶¶`), get('/next')]))
      const text = await writtenBy(server, (all) => all.endsWith('next'))
      assert.match(text, new RegExp(`^HTTP/1\\.1 ${status} (?!.*(?:one|two|xxx)).*¶¶HTTP/1\\.1 200 OK¶.*¶¶next$`))
      assert.equal([sent.slice(-1), server.errors, server.worker.counters.sendFail], [[true], [], 0])
    }
})

test('what is sent behind the last answer is refused, and the client is not said to be at fault', () => {
  const server = serve((connection) => {
    connection.send('y'.repeat(400_000))
    assert.is(connection.send('again'), false)
  })
  server.hold()
  server.receive(wire('GET / HTTP/1.0¶¶'))
  assert.equal(
    server.errors.map(({ message }) => message),
    ['the last answer of this connection is complete'],
  )
})

test('what is no answer is not sent as an empty object, and what it holds is let go', async () => {
  let isReturned = false
  let isCancelled = false
  const file = Object.assign(new Readable({ read: () => undefined }), { close: () => undefined })
  const iterable = {
    [Symbol.asyncIterator]: () => ({
      next: () => new Promise<never>(() => undefined),
      return: async () => {
        isReturned = true
        return { done: true as const, value: undefined }
      },
    }),
  }
  const stream = new ReadableStream({
    cancel: () => {
      isCancelled = true
    },
  })
  for (const [given, says] of [
    [Promise.resolve({ a: 1 }), /no promise: await it/],
    [new Blob(['x']), /no Blob/],
    [file, /new Response\(200, \{\}, stream\)/],
    [iterable, /new Response\(200, \{\}, stream\)/],
    [stream, /new Response\(200, \{\}, stream\)/],
    [
      { status: 200, headers: [], size: 0, body: undefined, close: () => undefined },
      /a body is text, bytes, or a stream/,
    ],
    [new Response(200).withBody(undefined as never), /a body is text, bytes, or a stream of them/],
  ] as const) {
    const server = serve((connection) => connection.send(given))
    server.receive(get('/'))
    assert.match(shown(server.written()), /^HTTP\/1\.1 500 /)
    assert.is(server.errors.length, 1)
    assert.is(codeOf(server.errors[0]?.error), 'ERR_BAD_RESPONSE', String(says))
    assert.match(server.errors[0]?.message ?? '', says)
  }
  await until(() => file.destroyed && isReturned && isCancelled)
  const bytes = serve((connection) => connection.send(new TextEncoder().encode('bytes').buffer))
  bytes.receive(get('/'))
  assert.match(shown(bytes.written()), /Content-Type: application\/octet-stream¶Content-Length: 5¶¶bytes$/)
  const json = serve((connection) => connection.send({ toJSON: () => ['a'], [Symbol.asyncIterator]: () => iterable }))
  json.receive(get('/'))
  assert.match(shown(json.written()), /¶¶\["a"\]$/)
})

test.run()
