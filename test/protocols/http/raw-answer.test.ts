// Bytes that bypass HTTP in the midst of a request: a handler that has its whole answer prepared, head included.

import { test } from 'uvu'
import * as assert from 'uvu/assert'
import type { AccessLogEntry } from '../../../protocols/http/access-log.ts'
import type { Request } from '../../../protocols/http/request.ts'
import { Response } from '../../../protocols/http/response.ts'
import type { AnyConnection } from '../../../src/connection.ts'
import { codeOf } from '../../../src/errors.ts'
import { nativeEngine } from '../../../src/net/native-engine.ts'
import { nodeEngine } from '../../../src/net/node-engine.ts'
import { httpInMemory, serve as serveAny, shown, wire } from '../../support/http.ts'
import { caseTest } from '../../support/length.ts'
import { withServer } from '../../support/tcp.ts'
import { nextTurn, until } from '../../support/until.ts'

type Handler = (connection: AnyConnection, request: Request) => unknown

const GET = wire('GET / HTTP/1.1¶Host: h¶¶')
const HEAD = 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n'
const serve = (onMessage: Handler, settings = {}) => serveAny({ onMessage } as never, settings)

const engines = [nodeEngine, nativeEngine()].filter((one) => one !== null)

for (const engine of engines) {
  const everyDay = caseTest(engine === engines[0])
  everyDay(`${engine.name}: raw bytes are the whole answer, and the connection ends after them`, async () => {
    let calls = 0
    const onMessage: Handler = (connection) => {
      calls++
      connection.send(`${HEAD}hi`, true)
    }
    await withServer(engine, httpInMemory(), { onMessage } as never, async ({ connect, connections, errors }) => {
      for (const requests of [1, 2]) {
        calls = 0
        const client = await connect()
        client.socket.write(Buffer.concat(Array.from({ length: requests }, () => GET)))
        await until(() => client.isClosed)
        assert.equal([client.received, client.error], [`${HEAD}hi`, null])
        assert.is(calls, 1, 'what follows is asked again on another connection')
      }
      await until(() => connections.every((connection) => connection.getStatus(false) === 'CLOSED'))
      assert.equal(errors, [])
    })
  })

  everyDay(`${engine.name}: they may come in pieces, until the handler has settled`, async () => {
    let goOn: () => void = () => assert.unreachable()
    const onMessage: Handler = async (connection) => {
      connection.send(Buffer.from(HEAD), true)
      await new Promise<void>((resolve) => {
        goOn = resolve
      })
      connection.send(['h', Buffer.from('i')], true)
    }
    await withServer(engine, httpInMemory(), { onMessage } as never, async ({ connect, errors }) => {
      for (const isHalfClosed of [false, true]) {
        const client = await connect({ allowHalfOpen: true })
        client.socket.write(GET)
        await client.expect(HEAD)
        if (isHalfClosed) client.socket.end()
        await nextTurn()
        assert.is(client.hasEnded, false)
        goOn()
        await until(() => client.hasEnded)
        assert.is(client.received, `${HEAD}hi`)
        client.socket.end()
      }
      assert.equal(errors, [])
    })
  })
}

test('they may come after the handler, and then are all there is', async () => {
  const server = serve(() => undefined)
  server.receive(GET)
  const late = server.connection as unknown as AnyConnection
  assert.is(late.send(`${HEAD}hi`, true), true)
  assert.is(shown(server.written()), shown(Buffer.from(`${HEAD}hi`)))
  assert.is(late.getStatus(false), 'ENDING')
  assert.is(late.send('more', true), false)
  assert.equal(
    server.errors.map(({ message }) => message),
    ['connection is ending'],
  )
})

test('close and end with raw bytes, also behind others', () => {
  for (const [how, state] of [
    ['close', 'CLOSED'],
    ['end', 'ENDING'],
  ] as const)
    for (const pieces of [[`${HEAD}hi`], [HEAD, 'hi']]) {
      const server = serve((connection) => {
        if (pieces.length > 1) connection.send(HEAD, true)
        connection[how](pieces.at(-1) as string, true)
      })
      server.receive(GET)
      assert.is(shown(server.written()), shown(Buffer.from(`${HEAD}hi`)))
      assert.equal([server.connection.getStatus(false), server.errors], [state, []])
    }
})

test('there is no second answer, not even that of a handler that fails', async () => {
  const codes: unknown[] = []
  const server = serve(async (connection) => {
    connection.send(`${HEAD}hi`, true)
    try {
      connection.send('second')
    } catch (error) {
      codes.push(codeOf(error))
    }
    throw new Error('late')
  })
  server.receive(GET)
  await until(() => server.connection.getStatus(false) === 'ENDING')
  assert.equal([shown(server.written()), codes], [shown(Buffer.from(`${HEAD}hi`)), ['ERR_ANSWERED']])
  assert.equal(
    server.errors.map(({ message }) => message),
    ['late'],
  )
})

/** What the handler of `/late` has sent, and when its raw bytes come. */
const ANSWERED: Record<string, { readonly first: () => unknown; readonly after: string; readonly code: string }> = {
  'it has its answer': { first: () => 'first', after: '', code: 'ERR_NO_REQUEST' },
  'another request waits': { first: () => 'first', after: 'GET /next HTTP/1.1¶Host: h¶¶', code: 'ERR_NO_REQUEST' },
  'another one arrives': {
    first: () => 'first',
    after: 'POST /next HTTP/1.1¶Host: h¶Content-Length: 1¶¶',
    code: 'ERR_NO_REQUEST',
  },
  'its answer is prepared': { first: () => new Response().withFile('a'), after: '', code: 'ERR_ANSWERED' },
  'its answer is a stream': { first: () => new Response(200, {}, endless()), after: '', code: 'ERR_ANSWERED' },
}

async function* endless(): AsyncGenerator<string> {
  for (;;) {
    yield 'piece'
    await new Promise(() => undefined)
  }
}

for (const [when, { first, after, code }] of Object.entries(ANSWERED)) {
  test(`raw bytes are refused as a second answer is: ${when}`, async () => {
    let outcome: unknown = null
    let goOn: () => void = () => assert.unreachable()
    const onMessage: Handler = async (connection, request) => {
      if (request.path === '/next') return connection.send('next')
      connection.send(first())
      await new Promise<void>((resolve) => {
        goOn = resolve
      })
      try {
        outcome = connection.send(`${HEAD}EVIL`, true)
      } catch (error) {
        outcome = codeOf(error)
      }
    }
    const openFile = () => new Promise<never>(() => undefined)
    const server = serveAny({ onMessage } as never, {}, { openFile })
    server.receive(GET)
    await nextTurn()
    server.receive(wire(after))
    goOn()
    await until(() => outcome !== null)
    assert.equal([outcome, server.errors], [code, []])
    assert.not.match(shown(server.written()), /EVIL/)
  })
}

for (const engine of engines)
  for (const how of ['send', 'close'] as const)
    caseTest(engine === engines[0])(`${engine.name}: before any request they turn a client away: ${how}`, async () => {
      const answer = 'HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n'
      const onConnect = (connection: AnyConnection) => void connection[how](answer, true)
      const onMessage = () => assert.unreachable()
      await withServer(engine, httpInMemory(), { onConnect, onMessage } as never, async ({ connect, errors }) => {
        const client = await connect()
        client.socket.write(GET)
        await until(() => client.isClosed)
        assert.equal([client.received, errors], [answer, []])
      })
    })

test('they may turn a client away in pieces, and one of whose request only the beginning has come', async () => {
  const onMessage = () => assert.unreachable()
  const early = serveAny({ onMessage, onConnect: turnAway } as never)
  early.receive(GET)
  const late = serveAny({ onMessage } as never)
  late.receive(GET.subarray(0, -2))
  turnAway(late.connection as never)
  for (const server of [early, late]) {
    await until(() => server.connection.getStatus(false) === 'ENDING')
    assert.equal([shown(server.written()), server.errors], [shown(Buffer.from(`${HEAD}hi`)), []])
  }
})

function turnAway(connection: AnyConnection): void {
  connection.send(HEAD, true)
  connection.send('hi', true)
}

test('they are refused behind a refusal', async () => {
  let outcome: unknown = null
  const onMessage: Handler = async (connection) => {
    await nextTurn()
    outcome = connection.send(`${HEAD}EVIL`, true)
  }
  const server = serve(onMessage, { body: 'stream' })
  server.receive(wire('POST / HTTP/1.1¶Host: h¶Transfer-Encoding: chunked¶¶none¶'))
  await until(() => outcome !== null)
  assert.is(outcome, false)
  assert.match(shown(server.written()), /^HTTP\/1\.1 400 (?!.*EVIL)/s)
})

test('an interim answer is none: the answer follows, and so does the next request', () => {
  const hints = 'HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n'
  for (const raw of [hints, Buffer.from(hints), [hints, hints]]) {
    const server = serve((connection) => {
      connection.send(raw, true)
      connection.send('hi')
    })
    server.receive(Buffer.concat([GET, GET]))
    const texts = shown(server.written()).split('HTTP/1.1 200 OK')
    assert.is(texts.length, 3)
    assert.match(texts[0] as string, /^(?:HTTP\/1\.1 103 [^¶]*¶Link: [^¶]*¶¶)+$/)
    assert.is(server.connection.getStatus(false), 'ESTABLISHED')
  }
  const both = serve((connection) => connection.send([hints, `${HEAD}hi`], true))
  both.receive(GET)
  assert.is(both.connection.getStatus(false), 'ENDING')
})

test('it is logged as what it looks like, and is not subject to answerTimeoutMs', async () => {
  const logged: unknown[] = []
  const accessLog = ({ status, bytes }: AccessLogEntry) => void logged.push([status, bytes])
  let end: () => void = () => assert.unreachable()
  const server = serve(
    async (connection) => {
      connection.send('HTTP/1.1 404 Not Found\r\n\r\n', true)
      await new Promise<void>((resolve) => {
        end = resolve
      })
    },
    { accessLog, answerTimeoutMs: 100, writeTimeoutMs: 100 },
  )
  server.receive(GET)
  server.written()
  server.advance(1000)
  assert.equal([shown(server.written()), server.connection.getStatus(false)], ['', 'ESTABLISHED'])
  end()
  await until(() => server.connection.getStatus(false) === 'ENDING')
  assert.equal(logged, [[404, 26]])
})

test('an interim answer is none, however long it is, and whatever it is cut into', () => {
  const hints = `HTTP/1.1 103 Early Hints\r\n${'Link: </style.css>; rel=preload; as=style\r\n'.repeat(400)}\r\n`
  const pieces = hints.match(/.{1,1000}/gs) ?? []
  for (const [bytes, isAnswer] of [
    [hints, false],
    [Buffer.from(hints), false],
    [[...pieces.slice(0, 3), Buffer.from(pieces.slice(3).join(''))], false],
    [`${hints}${HEAD}hi`, true],
    [[hints, `${HEAD}hi`], true],
  ] as const) {
    const server = serve((connection) => {
      connection.send(bytes as never, true)
      if (!isAnswer) connection.send('hi')
    })
    server.receive(GET)
    assert.match(server.written().toString(), /^HTTP\/1\.1 103 .*\r\n\r\nHTTP\/1\.1 200 OK\r\n.*\r\n\r\nhi$/s)
    assert.equal(server.errors, [])
  }
})

test.run()
