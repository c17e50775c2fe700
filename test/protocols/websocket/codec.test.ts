// The server's and the client's side of a WebSocket, in memory: frames whole, byte by byte, cut everywhere and behind others;
// handshakes; closing; compression; what peers must not do.

import { constants, deflateRawSync, inflateRawSync } from 'node:zlib'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import type { AccessLogEntry } from '../../../protocols/http/access-log.ts'
import { Response } from '../../../protocols/http/response.ts'
import {
  accept as acceptWith,
  agreed as agreedWith,
  type CompressionSettings,
  type DeflateEngine,
  offerOf,
  plainDeflate,
  type Terms,
} from '../../../protocols/websocket/deflate.ts'
import { CLOSE_CODES, isCloseCode, mask } from '../../../protocols/websocket/frames.ts'
import { CloseFrame, PreparedMessage } from '../../../protocols/websocket/messages.ts'
import type { WebSocketSettings } from '../../../protocols/websocket/settings.ts'
import { Utf8Checker } from '../../../protocols/websocket/utf8.ts'
import {
  websocket as plainWebSocket,
  type WebSocketProtocol,
  websocketWith,
} from '../../../protocols/websocket/websocket.ts'
import { addon } from '../../../src/addon.ts'
import { broadcast } from '../../../src/connection/broadcast.ts'
import { kAbort } from '../../../src/connection/symbols.ts'
import { codeOf, type ProtocolError } from '../../../src/errors.ts'
import { http, websocket } from '../../../src/index.ts'
import { chunkings, open } from '../../../src/testing.ts'
import { cases, frame, masked } from '../../fixtures/websocket.ts'
import { shown, wire } from '../../support/http.ts'
import { atLength } from '../../support/length.ts'
import { randomBytes, randomCuts, randomOf, seedOf } from '../../support/random.ts'
import { nextTurn, until } from '../../support/until.ts'
import { ASK, framesIn, hex4, KEY, opened, type Server, serve, textsIn, waiting } from '../../support/websocket.ts'

const ACCEPT = 's3pPLMBiTxaQ9kYGzzhZRbK+xOo=' // RFC 6455 section 1.3
const ALONE: Terms = { hasTakeover: false, peerHasTakeover: false, peerWindowBits: 15 }
const LOOKING_BACK: Terms = { hasTakeover: true, peerHasTakeover: true, peerWindowBits: 12 }
const accept = (offers: string) => acceptWith(offers, ALONE)
const agreed = (answer: string) => agreedWith(answer, ALONE)

/** What compresses: the addon's zlib, where it is there, and plain Node's. */
const zlibs = addon().zlib === null ? [plainWebSocket] : [websocket, plainWebSocket]

test('frames give the same messages, answers and close codes, whatever way they come', () => {
  for (const { title, frames, messages, answers = [], code, isFault = false } of cases) {
    const bytes = Buffer.concat(frames.map(masked))
    for (const behind of [Buffer.alloc(0), masked(frame(0x81, 'before'))]) {
      for (const chunks of bytes.length > 400
        ? [[bytes], [...bytes].map((byte) => Uint8Array.of(byte))]
        : chunkings(Buffer.concat([behind, bytes]))) {
        const all = bytes.length > 400 ? [behind, ...chunks] : chunks
        const server = opened()
        for (const chunk of all) server.receive(chunk)
        const how = `${title}, in ${chunks.length}`
        assert.equal(server.messages, [...(behind.length > 0 ? ['before'] : []), ...messages], how)
        const said = framesIn(server.written())
        assert.equal(said, isFault ? [hex4(code as number)] : answers, how)
        // A half-close: with bytes unread, a close would be a reset, and take our last frames with it.
        assert.is(server.connection.getStatus(false), code === undefined ? 'ESTABLISHED' : 'ENDING', how)
        assert.is(server.connection.closeCode, code ?? 0, how)
        assert.is(server.errors.length, isFault ? 1 : 0, how)
      }
    }
  }
})

test('the handshake of the RFC, whatever way it comes, with frames right behind it', () => {
  for (const chunks of chunkings(Buffer.concat([wire(ASK()), masked(frame(0x81, 'first'))]))) {
    const server = serve()
    for (const chunk of chunks) server.receive(chunk)
    assert.is(
      shown(server.written()),
      `HTTP/1.1 101 Switching Protocols¶Upgrade: websocket¶Connection: Upgrade¶Sec-WebSocket-Accept: ${ACCEPT}¶¶`,
    )
    assert.equal(server.messages, ['first'])
  }
})

test('handshakes that are none are answered as HTTP, and closed', () => {
  for (const [text, status] of [
    ['GET / HTTP/1.1¶Host: h¶¶', 426],
    ['POST / HTTP/1.1¶Host: h¶Content-Length: 0¶¶', 405],
    [ASK().replace('HTTP/1.1', 'HTTP/1.0'), 426],
    [ASK().replace('Host: h¶', ''), 400],
    [ASK().replace('GET ', 'GET https://h'), 421],
    [ASK().replace('GET', 'PUT'), 405],
    [ASK().replace('Version: 13', 'Version: 8'), 426],
    [ASK().replace('Sec-WebSocket-Version: 13¶', ''), 400],
    [ASK().replace(KEY, 'c2hvcnQ='), 400],
    [ASK().replace(KEY, `${KEY}x`), 400],
    [ASK(`Sec-WebSocket-Key: ${KEY}¶`), 400],
    [ASK().replace(/Sec-WebSocket-Key.*?¶/, ''), 400],
    [ASK().replace('Connection: Upgrade', 'Connection: keep-alive'), 426],
    [ASK().replace('Upgrade: websocket¶', ''), 426],
    [ASK('Content-Length: 5¶'), 400],
    [ASK('Transfer-Encoding: chunked¶'), 400],
    [ASK('Sec-WebSocket-Protocol: a,,b¶'), 400],
    [ASK('Sec-WebSocket-Protocol: a, a¶'), 400],
    ['GET / HTTP/1.1\n', 400],
    [`GET / HTTP/1.1¶X: ${'x'.repeat(20_000)}`, 431],
  ] as const) {
    const server = serve()
    server.receive(wire(text))
    const answer = shown(server.written())
    assert.is(Number(/^HTTP\/1\.1 (\d+)/.exec(answer)?.[1]), status, text.slice(0, 60))
    // RFC 9110 section 7.8: who sends Upgrade names it in Connection.
    assert.match(answer, /¶Upgrade:/.test(answer) ? /Connection: close, Upgrade¶¶/ : /Connection: close¶¶/)
    if (status === 426) assert.match(answer, /¶Upgrade: websocket¶/)
    assert.is(server.connection.getStatus(false), 'ENDING')
  }
  const late = serve({ handshakeTimeoutMs: 100 })
  late.receive('GET')
  late.advance(100)
  assert.match(shown(late.written()), /^HTTP\/1\.1 408 /)
})

test('origins, sub-protocols, fields of the answer', () => {
  const answer = (settings: WebSocketSettings, more: string, callbacks: object = {}) => {
    const server = serve(settings, callbacks)
    server.receive(wire(ASK(more)))
    return shown(server.written())
  }
  const origins = ['https://good.example']
  assert.match(answer({ origins }, 'Origin: https://good.example¶'), / 101 /)
  assert.match(answer({ origins }, 'Origin: https://good.example.evil¶'), / 403 /)
  assert.match(answer({ origins }, ''), / 403 /)
  assert.match(answer({ origins: (origin) => origin === undefined }, ''), / 101 /)
  const protocols = ['b', 'a']
  assert.match(answer({ protocols }, 'Sec-WebSocket-Protocol: a, b¶'), /Sec-WebSocket-Protocol: b¶/)
  assert.not.match(answer({ protocols }, 'Sec-WebSocket-Protocol: c¶'), /Sec-WebSocket-Protocol/)
  assert.match(
    answer({ protocols: (offered) => offered.at(-1) ?? false }, 'Sec-WebSocket-Protocol: x, y¶'),
    /Protocol: y¶/,
  )
  const onWebSocketConnect = (
    _: unknown,
    request: { path: string; get(name: string): string },
    response: { setHeader(name: string, value: string): void },
  ) => {
    response.setHeader('X-Room', `${request.path} ${request.get('room')}`)
  }
  assert.match(answer({}, '', { onWebSocketConnect }), /X-Room: \/chat 1¶/)
})

test('a handshake behind a proxy, or behind HTTP, is read by the settings that it came by', () => {
  const seen: unknown[] = []
  const onWebSocketConnect = (_: unknown, { remoteIp, scheme }: { remoteIp: string; scheme: string }) =>
    void seen.push([remoteIp, scheme])
  const fields = 'X-Forwarded-For: 198.51.100.7¶X-Forwarded-Proto: https¶'
  const handshake = (protocol: unknown, more = fields) => {
    const server = open(protocol as WebSocketProtocol, { onWebSocketConnect } as never) as unknown as Server
    server.receive(wire(ASK(more)))
    return shown(server.written()).slice(0, 12)
  }
  const trustProxy = ['192.0.2.0/24']
  handshake(websocket())
  handshake(websocket({ trustProxy }))
  handshake(http({ websocket: websocket() }))
  handshake(http({ trustProxy, websocket: websocket() }))
  handshake(http({ websocket: websocket({ trustProxy }) }))
  const [nobody, believed] = [
    ['192.0.2.1', 'http'],
    ['198.51.100.7', 'https'],
  ]
  assert.equal(seen, [nobody, believed, nobody, believed, believed])
  const cookie = `Cookie: ${'c'.repeat(20_000)}¶`
  assert.is(handshake(http({ maxHeadBytes: 65_536, websocket: websocket() }), cookie), 'HTTP/1.1 101')
  assert.is(handshake(http({ websocket: websocket() }), cookie), 'HTTP/1.1 431')
  assert.throws(
    () => websocket({ trustProxy: ['nowhere'] }),
    (error: unknown) => codeOf(error)?.startsWith('ERR_') === true,
  )
})

test('the access log of HTTP has the answers to handshakes on its port', async () => {
  const lines: unknown[] = []
  const accessLog = ({ remoteIp, method, target, version, status, bytes, userAgent, at }: AccessLogEntry) => {
    lines.push([remoteIp, method, target, version, status, bytes, userAgent, at instanceof Date])
  }
  const line = (status: number, bytes: number, ip = '192.0.2.1') => {
    return [[ip, 'GET', '/chat?room=1', '1.1', status, bytes, 'me', true]]
  }
  const ask = async (onWebSocketConnect: unknown, more = '') => {
    const protocol = http({ accessLog, trustProxy: ['192.0.2.0/24'], websocket: websocket() })
    const server = open(protocol as never, { onWebSocketConnect } as never) as unknown as Server
    server.receive(wire(ASK(`User-Agent: me¶${more}`)))
    await until(() => lines.length > 0)
    server.connection.destroy()
    return lines.splice(0)
  }
  assert.equal(await ask(() => undefined), line(101, 0))
  assert.equal(await ask(async () => true, 'X-Forwarded-For: 198.51.100.7¶'), line(101, 0, '198.51.100.7'))
  assert.equal(await ask(() => false), line(403, 12))
  assert.equal(await ask(async () => new Response(401, {}, 'who')), line(401, 3))
  assert.equal(await ask(() => true, 'Sec-WebSocket-Protocol: a b¶'), line(400, 43))
  const failing = http({
    accessLog: () => {
      throw new Error('on purpose')
    },
    websocket: websocket(),
  })
  const server = open(failing as never, {}) as unknown as Server
  server.receive(wire(ASK()))
  assert.equal(
    server.errors.map(({ code }) => code),
    [4],
  )
  const refused = open(failing as never, { onWebSocketConnect: () => false } as never) as unknown as Server
  refused.hold()
  refused.receive(wire(ASK()))
  refused.drain()
  assert.match(shown(refused.written()), /^HTTP\/1\.1 403 /)
  const late = http({ accessLog: () => Promise.reject(new Error('on purpose')), websocket: websocket() })
  const kept = open(late as never, {}) as unknown as Server
  kept.receive(wire(ASK()))
  await until(() => kept.errors.length > 0)
  assert.equal([kept.errors[0]?.code, kept.connection.getStatus(false)], [4, 'ESTABLISHED'])
})

test('a promise of a function for origins admits nobody: it is an error, whatever it says', () => {
  for (const [answer, status] of [
    [true, 101],
    [false, 403],
    [undefined, 403],
    ['https://h', 101], // as list.find() gives it
    [Promise.resolve(true), 500],
    [Promise.reject(new Error('on purpose')), 500],
  ] as const) {
    const server = serve({ origins: () => answer as boolean })
    server.receive(wire(ASK('Origin: https://h¶')))
    assert.is(shown(server.written()).slice(9, 12), String(status))
    if (status === 500) assert.match(server.errors[0]?.message ?? '', /origins.*promise/)
  }
})

test('so is one of a function for sub-protocols: its rejection ends no process', async () => {
  for (const answer of [async () => 'a', () => Promise.reject(new Error('the database is away'))]) {
    const server = serve({ protocols: answer as never })
    server.receive(wire(ASK('Sec-WebSocket-Protocol: a¶')))
    assert.is(shown(server.written()).slice(9, 12), '500')
    assert.match(server.errors[0]?.message ?? '', /protocols.*promise/)
    await nextTurn() // a rejection that nobody has taken is told now
  }
})

test('origins are a list, or a function: a text would let in what is a part of it', () => {
  for (const origins of ['https://app.example.org', 5, {}, null, [5]])
    assert.throws(
      () => websocket({ origins: origins as never }),
      (error: unknown) => codeOf(error) === 'ERR_BAD_OPTION',
    )
})

test('a user refuses: at once, later, with an answer of its own, by throwing', async () => {
  for (const [onWebSocketConnect, status] of [
    [() => false, 403],
    [async () => false, 403],
    [async () => true, 101],
    [() => undefined, 101],
    [
      () => {
        throw new Error('no')
      },
      500,
    ],
    [
      async () => {
        await nextTurn()
        throw new Error('no')
      },
      500,
    ],
  ] as const) {
    const server = serve({}, { onWebSocketConnect })
    server.receive(Buffer.concat([wire(ASK()), masked(frame(0x81, 'early'))]))
    await nextTurn()
    await nextTurn()
    const answer = shown(server.written())
    assert.is(Number(/^HTTP\/1\.1 (\d+)/.exec(answer)?.[1]), status, answer)
    assert.equal(server.messages, status === 101 ? ['early'] : [])
  }
})

test('a refusal is one answer and one error, whole and as the user gave it', async () => {
  const answer = async (onWebSocketConnect: unknown) => {
    const server = serve({}, { onWebSocketConnect })
    server.receive(wire(ASK('Sec-WebSocket-Protocol: chat¶')))
    await nextTurn()
    await nextTurn()
    const text = shown(server.written()).replace(/Date: .*?¶/, '')
    return { text, errors: server.errors.map(({ code }) => code) }
  }
  type Answer = (connection: unknown, request: unknown, response: Response) => unknown
  const login: Answer = () =>
    new Response(401, { 'WWW-Authenticate': 'Basic', 'Content-Type': 'text/html' }, '<b>no</b>')
  assert.equal(await answer(login), {
    text: 'HTTP/1.1 401 Unauthorized¶WWW-Authenticate: Basic¶Content-Type: text/html¶Content-Length: 9¶Connection: close¶¶<b>no</b>',
    errors: [],
  })
  const given: Answer = (_connection, _request, response) => response.withStatus(302).setHeader('Location', '/login')
  assert.equal(await answer(given), {
    text: 'HTTP/1.1 302 Found¶Location: /login¶Content-Length: 0¶Connection: close¶¶',
    errors: [],
  })
  assert.match((await answer(async (...args: Parameters<Answer>) => given(...args))).text, / 302 Found¶/)
  for (const late of [{ reason: '\u010d\u010aX: y' }, { reason: 'a\r\nX: y' }, { status: 99 }])
    for (const evil of [
      () => Object.assign(new Response(403), late),
      async () => Object.assign(new Response(403), late),
    ]) {
      const { text, errors } = await answer(evil)
      assert.match(text, /^HTTP\/1\.1 500 Internal Server Error¶Content-Type/)
      assert.not.match(text, /X: y/)
      assert.equal(errors, [3])
    }
  const failed = await answer(async () => {
    throw new Error('on purpose')
  })
  assert.equal([failed.text.match(/HTTP/g)?.length, failed.errors], [1, [4]])
  const thrown = await answer(() => {
    throw new Error('on purpose')
  })
  assert.equal([/ (\d+) /.exec(thrown.text)?.[1], thrown.text.match(/HTTP/g)?.length, thrown.errors], ['500', 1, [4]])
  const closed = await answer((connection: Server['connection']) => connection.close())
  assert.equal([/ (\d+) /.exec(closed.text)?.[1], closed.text.match(/HTTP/g)?.length, closed.errors], ['403', 1, []])
  const late = await answer(async (...[, , response]: Parameters<Answer>) => {
    response.setHeader('Sec-WebSocket-Protocol', 'not offered')
  })
  assert.equal([/ (\d+) /.exec(late.text)?.[1], late.text.match(/HTTP/g)?.length, late.errors], ['500', 1, [3]])
})

test('fields of the answer: the handshake keeps its own, and the sub-protocol may be chosen by one', async () => {
  type Answer = (connection: unknown, request: unknown, response: Response) => unknown
  const opening = (set: (response: Response) => unknown) => {
    const heard: unknown[] = []
    const onWebSocketConnect: Answer = (_connection, _request, response) => set(response) && true
    const onWebSocketConnected = (_connection: unknown, _request: unknown, protocol: string) => heard.push(protocol)
    const server = serve({}, { onWebSocketConnect, onWebSocketConnected })
    server.receive(wire(ASK('Sec-WebSocket-Protocol: a, b¶')))
    return { text: shown(server.written()), heard, server }
  }
  const chosen = opening((response) => response.setHeader('Sec-WebSocket-Protocol', 'b').cookie('a', '1'))
  assert.match(chosen.text, /¶Sec-WebSocket-Protocol: b¶Set-Cookie: a=1;.*?¶¶$/)
  assert.equal(chosen.heard, ['b'])
  const own = opening((response) => response.setHeader('Upgrade', 'x').setHeader('content-length', '5'))
  assert.match(own.text, / 101 /)
  assert.not.match(own.text, /x¶|content-length/)
  const unknown = opening((response) => response.setHeader('Sec-WebSocket-Protocol', 'c'))
  assert.match(unknown.text, /^HTTP\/1\.1 500 /)
  assert.match(unknown.server.errors[0]?.message ?? '', /did not offer 'c'/)
})

test('who is to decide and does not is not the fault of the client: 503', async () => {
  const server = serve({ handshakeTimeoutMs: 100 }, { onWebSocketConnect: () => new Promise(() => undefined) })
  server.receive(wire(ASK()))
  server.advance(100)
  assert.match(shown(server.written()), /^HTTP\/1\.1 503 /)
})

test('at a drain nobody comes in, and who is waiting to come in hears 503', async () => {
  const late = serve()
  late.receive(wire(ASK()).subarray(0, 30))
  late.leave()
  late.receive(wire(ASK()).subarray(30))
  assert.match(shown(late.written()), /^HTTP\/1\.1 503 /)
  const { onMessage: onWebSocketConnect, finish } = waiting()
  const asked = serve({}, { onWebSocketConnect })
  asked.receive(wire(ASK()))
  asked.leave()
  assert.is(shown(asked.written()), '')
  await finish()
  await nextTurn()
  assert.match(shown(asked.written()), /^HTTP\/1\.1 503 /)
})

test('a drain waits for the goodbye of the peer, and hears what is on its way', () => {
  const heard: unknown[] = []
  const onWebSocketClose = (_: unknown, code: number) => heard.push(code)
  const server = opened({ closeTimeoutMs: 1000 }, { onWebSocketClose })
  server.leave()
  assert.equal(framesIn(server.written()), ['803f4736572766963652072657374617274'])
  server.receive(masked(frame(0x81, 'on its way')))
  assert.equal(server.messages, ['on its way'])
  assert.is(server.connection.getStatus(false), 'ESTABLISHED')
  server.receive(masked(frame(0x88, Buffer.from([0x03, 0xf4]))))
  assert.equal([server.connection.getStatus(false), heard], ['ENDING', [1012]])
  const silent = opened({ closeTimeoutMs: 1000 })
  silent.leave()
  silent.advance(1000)
  assert.equal([silent.connection.getStatus(false), silent.socket.hasEnded], ['ENDING', true])
  silent.advance(5000)
  assert.is(silent.connection.getStatus(false), 'CLOSED')
})

test('the goodbye of a drain comes after the answers to what was received, while there is time for them', async () => {
  const { onMessage, finish } = waiting()
  const answers = async (connection: Server['connection'], message: unknown) => {
    await onMessage()
    connection.send(`re ${message}`)
  }
  const server = opened({}, { onMessage: answers, maxInFlight: 1 })
  for (const message of ['one', 'two']) server.receive(masked(frame(0x81, message)))
  server.leave()
  assert.equal(framesIn(server.written()), [])
  await finish()
  server.receive(masked(frame(0x81, 'three'))) // it has not heard the goodbye yet
  await finish()
  assert.equal(textsIn(server.written()), ['re one', 're two'])
  await finish()
  assert.equal(textsIn(server.written()), ['re three', '\x03\xf4service restart'])
  server.receive(masked(frame(0x88, Buffer.from([0x03, 0xf4]))))
  assert.is(server.connection.getStatus(false), 'ENDING')
})

test('handlers that overlap all the time do not put off the goodbye of a drain', async () => {
  for (const cut of [0, 3]) {
    const { onMessage, finish } = waiting()
    const answers = async (connection: Server['connection'], message: unknown) => {
      await onMessage()
      connection.send(`re ${message}`)
    }
    const server = opened({}, { onMessage: answers, maxInFlight: 100 })
    const message = (n: number) => masked(frame(0x81, String(n)))
    server.receive(message(1))
    server.leave()
    server.receive(message(2))
    await finish()
    server.receive(message(3).subarray(0, cut))
    server.advance(1000) // there was no moment without a handler
    server.receive(message(3).subarray(cut))
    server.receive(message(4)) // from here on it waits in the kernel
    const last = cut > 0 ? 3 : 2
    assert.is(server.messages.length, last)
    for (let n = 2; n <= last; n++) await finish()
    const said = textsIn(server.written())
    assert.equal(said, ['re 1', 're 2', 're 3'].slice(0, last).concat('\x03\xf4service restart'))
    assert.equal(server.messages, ['1', '2', '3', '4']) // what was on its way is handled
    server.receive(masked(frame(0x88, Buffer.from([0x03, 0xf4]))))
    server.connection[kAbort]()
    await finish()
    await finish()
    assert.is(server.connection.getStatus(false), 'ENDING')
  }
})

test('a user may close while a drain reads no more', async () => {
  const server = opened({}, { onMessage: () => new Promise(() => undefined) })
  server.receive(masked(frame(0x81, 'x')))
  server.leave()
  server.advance(1000)
  assert.not(server.socket.isReading)
  server.connection.close()
  assert.ok(server.socket.isReading)
  assert.equal(framesIn(server.written()), [hex4(1000)])
})

test('handlers that have no time left, a user and the peer end what the goodbye of a drain waits for', () => {
  const onMessage = () => new Promise(() => undefined)
  const busy = () => {
    const server = opened({}, { onMessage })
    server.receive(masked(frame(0x81, 'x')))
    server.leave()
    assert.equal(framesIn(server.written()), [])
    return server
  }
  const late = busy()
  late.connection[kAbort]()
  assert.equal(framesIn(late.written()), [])
  late.advance(200)
  assert.equal(textsIn(late.written()), ['\x03\xf4service restart'])
  const closed = busy()
  closed.connection.close()
  assert.equal(framesIn(closed.written()), [hex4(1000)])
  const refused = busy()
  refused.receive(masked(frame(0x83, 'x')))
  refused.connection[kAbort]()
  refused.advance(200)
  assert.equal(framesIn(refused.written()), [hex4(1002)])
  const left = busy()
  left.receive(masked(frame(0x88, Buffer.from([0x0f, 0xa1]))))
  left.connection[kAbort]()
  left.advance(200)
  assert.equal([framesIn(left.written()), left.connection.closeCode], [[hex4(4001)], 4001])
})

test('text, bytes, JSON and prepared messages leave as frames of the right length', () => {
  const server = opened()
  for (const message of [
    '',
    '\u00e9',
    Buffer.from([1]),
    { a: 1 },
    new PreparedMessage('p'),
    'x'.repeat(126),
    'y'.repeat(65536),
  ])
    server.connection.send(message)
  assert.equal(framesIn(server.written()), [
    '1',
    '1c3a9',
    '201',
    '17b2261223a317d',
    '170',
    `1${'78'.repeat(126)}`,
    `1${'79'.repeat(65536)}`,
  ])
  const round: unknown[] = []
  round.push(round)
  for (const message of [undefined, 1n, round])
    assert.throws(
      () => server.connection.send(message),
      (error: unknown) => codeOf(error) === 'ERR_ENCODE',
    )
})

test('what is sent before the handshake waits for it', () => {
  const server = serve()
  server.connection.send('early')
  assert.is(shown(server.written()), '')
  server.receive(wire(ASK()))
  assert.ok(shown(server.written()).endsWith('¶¶\x81\x05early'))
})

test('closing: by the user, with a code, for a handler that throws, for silence, at a drain', () => {
  const plain = opened()
  plain.connection.close('last')
  assert.equal(framesIn(plain.written()), ['16c617374', '803e8'])
  assert.is(plain.connection.getStatus(false), 'ESTABLISHED')
  assert.is(plain.connection.send('more'), false)
  plain.receive(masked(frame(0x88, Buffer.from([3, 232]))))
  assert.equal([plain.connection.getStatus(false), plain.connection.closeCode], ['ENDING', 1000])
  plain.end()
  assert.is(plain.connection.getStatus(false), 'CLOSED')
  const coded = opened({ closeTimeoutMs: 100 })
  coded.connection.close(new CloseFrame(4001, 'out'))
  assert.equal(framesIn(coded.written()), ['80fa16f7574'])
  coded.advance(100)
  assert.equal([coded.connection.getStatus(false), coded.connection.closeCode], ['ENDING', 1006]) // it has heard none
  const cut = opened()
  cut.connection.close(new CloseFrame(4001))
  cut.end()
  assert.equal([cut.connection.getStatus(false), cut.connection.closeCode], ['CLOSED', 1006])
  const failed = opened({}, { onMessage: () => assert.unreachable('on purpose') })
  failed.receive(masked(frame(0x81, 'x')))
  assert.equal(framesIn(failed.written()), ['803f3'])
  const silent = opened({ pingIntervalMs: 0 }, { idleTimeoutMs: 1000 })
  silent.advance(1000)
  assert.equal(framesIn(silent.written()), ['803e9'])
  const leaving = opened()
  leaving.goodbye()
  assert.equal(framesIn(leaving.written()), ['803f4736572766963652072657374617274'])
  leaving.receive(masked(frame(0x81, 'still heard')))
  assert.equal(leaving.messages, ['still heard'])
  assert.is(leaving.connection.send('refused'), false)
  assert.throws(
    () => new CloseFrame(1005),
    (error: unknown) => codeOf(error) === 'ERR_BAD_CLOSE_CODE',
  )
  const taken = (code: number) => CLOSE_CODES.split(', ').some((range) => isWithin(code, range))
  for (let code = 0; code < 5002; code++) assert.is(isCloseCode(code), taken(code), `${code}`)
  assert.throws(
    () => new CloseFrame(1000, 'x'.repeat(124)),
    (error: unknown) => codeOf(error) === 'ERR_BAD_CLOSE_REASON',
  )
})

test('a user hears of closes, pings and pongs', () => {
  const heard: unknown[] = []
  const server = opened(
    {},
    {
      onWebSocketClose: (_: unknown, code: number, reason: string) => heard.push([code, reason]),
      onWebSocketPing: (_: unknown, payload: Buffer) => heard.push(`ping ${payload}`),
      onWebSocketPong: (_: unknown, payload: Buffer) => heard.push(`pong ${payload}`),
    },
  )
  server.receive(
    Buffer.concat([frame(0x89, 'a'), frame(0x8a, 'b'), frame(0x88, Buffer.from('\x0f\xa0bye', 'latin1'))].map(masked)),
  )
  assert.equal(heard, ['ping a', 'pong b', [4000, 'bye']])
})

test('a silent peer is asked, and one that stays silent is gone', () => {
  const server = opened({ pingIntervalMs: 1000, pongTimeoutMs: 200 })
  server.advance(900)
  server.receive(masked(frame(0x8a)))
  server.advance(500)
  assert.equal(framesIn(server.written()), [])
  server.advance(100) // silent for half an interval to a whole one
  assert.equal(framesIn(server.written()), ['9'])
  server.receive(masked(frame(0x8a)))
  server.advance(200)
  assert.is(server.connection.getStatus(false), 'ESTABLISHED')
  server.advance(500)
  assert.equal(framesIn(server.written()), ['9'])
  server.advance(199)
  assert.is(server.connection.getStatus(false), 'ESTABLISHED')
  server.advance(1)
  assert.is(server.connection.closeCode, 1006)
  assert.match(server.errors[0]?.message ?? '', /not answered a ping/)
})

test('a peer that still takes what is queued before the ping is not dead', () => {
  const server = opened({ pingIntervalMs: 1000, pongTimeoutMs: 200 })
  server.advance(500)
  server.hold()
  server.connection.send('x'.repeat(500_000))
  server.advance(500)
  server.drain()
  server.hold()
  server.advance(200)
  assert.is(server.connection.getStatus(false), 'ESTABLISHED')
  server.advance(200)
  assert.is(server.connection.closeCode, 1006)
})

test('a peer that acknowledges what lies before the ping is not dead, though the kernel has taken it all', () => {
  const server = opened({ pingIntervalMs: 1000, pongTimeoutMs: 200 })
  server.advance(500)
  server.connection.send('x'.repeat(1_000_000))
  server.written()
  server.socket.inKernel = 1_000_000
  server.advance(500)
  for (let n = 0; n < 9; n++) {
    server.connection.send('x'.repeat(100_000)) // a feed goes on meanwhile
    server.written()
    server.socket.inKernel += 100_000 - 90_000
    server.advance(200)
    assert.is(server.connection.getStatus(false), 'ESTABLISHED', String(n))
  }
  server.advance(200)
  assert.is(server.connection.closeCode, 1006)
})

test('a peer that acknowledges what comes after the ping, and has had the ping, is dead without a pong', () => {
  const server = opened({ pingIntervalMs: 1000, pongTimeoutMs: 200 })
  server.advance(1000)
  assert.equal(framesIn(server.written()).at(-1), '9')
  server.connection.send('x')
  server.written()
  server.advance(200)
  assert.is(server.connection.closeCode, 1006)
})

test('a peer is not silent while it is not read: it is asked again, and given its time, when reading goes on', () => {
  for (const pausedMs of [5000, 699, 701]) {
    const server = opened({ pingIntervalMs: 1000, pongTimeoutMs: 200 })
    server.advance(500)
    server.advance(499)
    server.connection.pauseRecv()
    server.advance(pausedMs)
    server.connection.resumeRecv()
    server.advance(1) // the pong that waited has yet to be read
    server.receive(masked(frame(0x81, 'still here')))
    assert.equal([server.messages, server.errors], [['still here'], []], String(pausedMs))
    server.written()
    server.advance(1000)
    assert.equal(framesIn(server.written()), ['9'], String(pausedMs))
    server.advance(200)
    assert.is(server.connection.closeCode, 1006, String(pausedMs))
  }
})

test('a slow handler does not make its peer seem dead, however much the peer has sent', async () => {
  const { onMessage, finish } = waiting()
  const server = opened({}, { onMessage, maxPackageSize: 100_000 })
  const message = masked(frame(0x82, Buffer.alloc(20_000)))
  for (let n = 0; n < 200; n++) server.receive(message)
  for (let n = 0; n < 200; n++) {
    server.advance(1000)
    if (framesIn(server.written()).includes('9')) server.receive(masked(frame(0x8a))) // behind its messages
    await finish()
  }
  assert.equal(server.errors, [])
  assert.is(server.messages.length, 200)
})

test('what came before a goodbye, a fault or the end is handled, and may be answered', async () => {
  for (const [last, said] of [
    [masked(frame(0x88, Buffer.from([0x0f, 0xa0]))), '80fa0'],
    [masked(frame(0x83)), '803ea'],
    [null, undefined],
  ] as const) {
    const { onMessage, finish } = waiting()
    const server = opened({}, { onMessage })
    server.receive(Buffer.concat([masked(frame(0x81, 'one')), masked(frame(0x81, 'two'))]))
    if (last === null) server.end()
    else server.receive(Buffer.concat([last, masked(frame(0x81, 'nobody hears this'))]))
    assert.equal(server.messages, ['one'])
    assert.ok(server.connection.send('answer to one'))
    await finish()
    assert.equal(server.messages, ['one', 'two'])
    assert.is(server.connection.getStatus(false), 'ESTABLISHED')
    await finish()
    assert.equal(framesIn(server.written()).slice(1), said === undefined ? [] : [said])
    assert.is.not(server.connection.getStatus(false), 'ESTABLISHED', said)
    assert.is(server.connection.closeCode, said === undefined ? 1006 : Number.parseInt(said.slice(1), 16))
    assert.is(server.errors.filter(({ code }) => code === 2).length, 0)
  }
})

test('after our goodbye what is on its way is dropped, and the goodbye of the peer is heard', async () => {
  const goodbye = masked(frame(0x88, Buffer.from([0x03, 0xe8])))
  const before: Record<string, (server: Server) => void> = {
    nothing: () => undefined,
    'a message': (server) => server.receive(masked(frame(0x81, 'on its way'))),
    'many messages': (server) => {
      for (let n = 0; n < 2000; n++) server.receive(masked(frame(0x82, Buffer.alloc(900))))
    },
  }
  const waits = { onMessage: () => new Promise(() => undefined), maxInFlight: 1, maxQueuedMessages: 2 }
  for (const callbacks of [{}, waits])
    for (const isPaused of [false, true])
      for (const [what, send] of Object.entries(before)) {
        const heard: number[] = []
        const onWebSocketClose = (_: unknown, code: number) => heard.push(code)
        const server = opened({}, { ...callbacks, onWebSocketClose })
        for (let n = 0; n < 5; n++) server.receive(masked(frame(0x81, 'x')))
        if (isPaused) server.connection.pauseRecv()
        server.connection.close()
        const { length } = server.messages
        send(server)
        server.receive(goodbye)
        await nextTurn()
        const how = `${what}${isPaused ? ', paused' : ''}${callbacks === waits ? ', busy' : ''}`
        const isBusy = callbacks === waits // then the code is told when the handlers have settled: not here
        assert.is(server.messages.length, length, how)
        assert.is(server.connection.getRecvBufferQueueSize(), 0, how)
        if (!isBusy) assert.equal([server.connection.getStatus(false), heard], ['ENDING', [1000]], how)
      }
})

test('a goodbye does not wait for ever for a handler: it is answered, and what is queued is still handled', async () => {
  const { onMessage, finish } = waiting()
  const server = opened({ closeTimeoutMs: 1000 }, { onMessage })
  server.receive(Buffer.concat([frame(0x81, 'one'), frame(0x81, 'two'), frame(0x88)].map(masked)))
  server.advance(999)
  assert.equal(framesIn(server.written()), [])
  server.advance(1)
  assert.equal(framesIn(server.written()), ['8'])
  assert.is(server.connection.send('too late'), false)
  assert.ok(server.socket.hasEnded) // the client is released
  assert.match(String(server.connection.signal.reason), /has closed: peer/) // and handlers are told
  server.end()
  assert.is(server.connection.getStatus(false), 'ESTABLISHED')
  await finish()
  assert.equal(server.messages, ['one', 'two'])
  await finish()
  assert.equal([server.connection.getStatus(false), server.connection.closeCode], ['CLOSED', 1005])
  assert.is(server.connection.closeReason, 'peer')
})

test('a handler that obeys the signal after the goodbye of the peer ends the connection without an error', async () => {
  const onMessage = ({ signal }: Server['connection']) =>
    new Promise((_resolve, reject) => signal.addEventListener('abort', () => reject(signal.reason)))
  const server = opened({ closeTimeoutMs: 1000 }, { onMessage })
  server.receive(Buffer.concat([frame(0x81, 'one'), frame(0x88)].map(masked)))
  server.hold()
  server.advance(1000)
  assert.not(server.socket.hasEnded) // the close frame has yet to leave
  server.drain()
  assert.ok(server.socket.hasEnded)
  await until(() => server.connection.getStatus(false) === 'ENDING')
  assert.equal([server.connection.closeReason, server.connection.closeCode, server.errors], ['peer', 1005, []])
})

test('the time for an answer to our goodbye begins when the peer has taken it, and the end is no reset', () => {
  for (const say of [(server: Server) => server.connection.close(), (server: Server) => server.goodbye()]) {
    const server = opened({ closeTimeoutMs: 1000 })
    server.connection.send('x'.repeat(900_000))
    server.written()
    server.socket.inKernel = 900_000
    say(server)
    for (let n = 0; n < 3; n++) {
      server.socket.inKernel -= 300_000
      server.advance(1000)
      assert.equal([server.connection.getStatus(false), server.socket.hasEnded], ['ESTABLISHED', false])
    }
    server.advance(1000)
    assert.equal([server.connection.getStatus(false), server.socket.hasEnded], ['ENDING', true])
    assert.is(server.connection.closeCode, 1006)
    assert.equal(server.errors, [])
  }
})

test('a user may close while the goodbye of the peer waits, and a handler may fail then', async () => {
  const { onMessage } = waiting()
  const server = opened({}, { onMessage })
  server.receive(Buffer.concat([frame(0x81, 'one'), frame(0x88, Buffer.from([0x03, 0xe8]))].map(masked)))
  server.connection.close(new CloseFrame(4001))
  assert.equal(framesIn(server.written()), ['80fa1'])
  const failing = opened({}, { onMessage: () => Promise.reject(new Error('on purpose')) })
  failing.receive(Buffer.concat([frame(0x81, 'one'), frame(0x88, Buffer.from([0x03, 0xe8]))].map(masked)))
  await nextTurn()
  assert.equal(framesIn(failing.written()), ['803f3'])
})

test('a goodbye is said to a peer whose queue is full, and pings and pongs fail nobody', () => {
  const server = opened({ pingIntervalMs: 1000 }, { maxSendBufferSize: 100 })
  server.hold()
  server.connection.send('x'.repeat(200))
  server.receive(masked(frame(0x89, 'p')))
  server.connection.close(new CloseFrame(4000))
  assert.equal(server.errors, [])
  server.drain()
  assert.equal(framesIn(server.written()).slice(1), ['a70', '80fa0'])
})

test('a flood of pings that reads no pongs is bounded, and hears of the last', () => {
  const server = opened()
  server.hold()
  for (let n = 0; n < 5000; n++) server.receive(masked(frame(0x89, String(n).padStart(100, '.'))))
  assert.ok(server.connection.getSendBufferQueueSize() < 70_000)
  server.drain()
  const pongs = framesIn(server.written())
  assert.match(Buffer.from((pongs.at(-1) as string).slice(1), 'hex').toString(), /\.4999$/)
})

/** `1000 to 1003` */
function isWithin(code: number, range: string): boolean {
  const [first = 0, last = 0] = range.split(' to ').map(Number)
  return code >= first && code <= last
}

test('compression: negotiated strictly', () => {
  const ANSWER = 'permessage-deflate; server_no_context_takeover; client_no_context_takeover'
  for (const [offer, expected] of [
    ['permessage-deflate', ANSWER],
    ['permessage-deflate; client_max_window_bits', ANSWER],
    ['permessage-deflate; client_max_window_bits=10; server_no_context_takeover', ANSWER],
    ['permessage-deflate; server_max_window_bits=10', `${ANSWER}; server_max_window_bits=10`],
    ['permessage-deflate; server_max_window_bits="8"', `${ANSWER}; server_max_window_bits=8`],
    ['x-other; a=b, permessage-deflate', ANSWER],
    ['permessage-deflate; unknown, permessage-deflate', ANSWER],
    ['permessage-deflate; server_max_window_bits', null],
    ['permessage-deflate; server_max_window_bits=16', null],
    ['permessage-deflate; server_max_window_bits=08', null],
    ['permessage-deflate; client_max_window_bits=7', null],
    ['permessage-deflate; server_no_context_takeover=1', null],
    ['permessage-deflate; server_no_context_takeover; server_no_context_takeover', null],
    ['permessage-deflate; unknown', null],
    ['permessage-deflate;', null],
    ['permessage-deflate, ', ANSWER],
    ['permessage-deflate; ; client_max_window_bits', null],
    ['x-other', null],
    ['', null],
    ['permessage deflate', null],
  ] as const)
    assert.is(accept(offer)?.answer ?? null, expected, offer)
  for (const answer of [
    'permessage-deflate',
    'x',
    `${ANSWER}, ${ANSWER}`,
    `${ANSWER}; x`,
    `${ANSWER}; client_max_window_bits`,
    `${ANSWER}; client_max_window_bits=7`,
    `${ANSWER}; client_max_window_bits=16`,
    '',
  ])
    assert.throws(
      () => agreed(answer),
      (error: unknown) => codeOf(error) === 'ERR_BAD_HANDSHAKE',
      answer,
    )
  assert.ok(agreed(`${ANSWER}; server_max_window_bits=10`))
})

test('compression: a client looks back no further than the server can', () => {
  const random = randomOf(1)
  const text = Array.from({ length: 1400 }, () => random(16).toString(16))
    .join('')
    .repeat(2)
  for (const protocol of zlibs)
    for (const windowBits of [8, 9, 15]) {
      const { wire: peer, answer, asked } = client({ compression: { windowBits: 15 } }, {}, protocol)
      assert.match(asked, /Sec-WebSocket-Extensions: permessage-deflate[^¶]*; client_max_window_bits¶/)
      const more = 'server_no_context_takeover; client_no_context_takeover'
      peer.receive(
        wire(answer(`Sec-WebSocket-Extensions: permessage-deflate; ${more}; client_max_window_bits=${windowBits}¶`)),
      )
      peer.connection.send(text)
      const bytes = peer.written()
      const payload = Buffer.from(bytes.subarray(8))
      mask(payload, 0, payload.length, bytes, 4, 0)
      const whole = Buffer.concat([payload, Buffer.from([0, 0, 0xff, 0xff, 1, 0, 0, 0xff, 0xff])])
      assert.is(inflateRawSync(whole, { windowBits }).toString(), text)
      assert.is(payload.length < text.length * 0.4, windowBits === 15, 'of the window that is agreed on all is used')
    }
})

const EXTENSION = 'Sec-WebSocket-Extensions: permessage-deflate¶'
const deflated = (text: string) => deflateRawSync(text, { finishFlush: 2 }).subarray(0, -4)

test('compression: messages in and out, in fragments, bombs refused while they inflate', () => {
  for (const protocol of zlibs) {
    const compression = { threshold: 10 }
    const server = opened({ compression }, {}, EXTENSION, protocol)
    const small = deflated('Hello')
    server.receive(masked(frame(0xc1, small)))
    server.receive(masked(frame(0x41, small.subarray(0, 3))))
    server.receive(masked(frame(0x89)))
    server.receive(masked(frame(0x80, small.subarray(3))))
    server.receive(masked(frame(0x81, 'not compressed')))
    server.receive(masked(frame(0xc1, deflated(''))))
    assert.equal(server.messages, ['Hello', 'Hello', 'not compressed', ''])
    server.written()
    server.connection.send('a'.repeat(100))
    server.connection.send('short')
    const [large = '', short] = framesIn(server.written())
    assert.equal([large.slice(0, 2), short], ['41', '173686f7274'])
    assert.ok(large.length < 30)
    for (const [first, payload, code] of [
      [0xc1, deflated('Z'.repeat(4000)), 1009],
      [0xc2, Buffer.from([0xff, 0xff, 0xff]), 1007],
      [0xc1, deflateRawSync(Buffer.from([0xff]), { finishFlush: 2 }).subarray(0, -4), 1007],
    ] as const) {
      const bad = opened({ compression }, {}, EXTENSION, protocol)
      bad.receive(masked(frame(first, payload)))
      assert.is(bad.connection.closeCode, code)
      assert.equal(framesIn(bad.written()), [hex4(code)])
    }
    const plain = opened({ compression })
    plain.receive(masked(frame(0xc1, small)))
    assert.is(plain.connection.closeCode, 1002)
  }
})

test('compression: a message may be as long as the limit, which may be infinite, or more than a Buffer can hold', () => {
  const message = 'Hello'.repeat(20)
  for (const protocol of zlibs)
    for (const maxPackageSize of [100, 100.5, 5e9, 1e12, Number.POSITIVE_INFINITY]) {
      const server = opened({ compression: true }, { maxPackageSize }, EXTENSION, protocol)
      server.receive(masked(frame(0xc1, deflated(message))))
      assert.equal([...server.messages, server.connection.closeCode], [message, 0], `${maxPackageSize}`)
    }
})

test('compression: the limit is that of the message, also where deflate has made it longer', () => {
  const random = randomOf(seedOf('what cannot be compressed'))
  for (const protocol of zlibs)
    for (const options of [{}, { level: 1 }, { windowBits: 9, memLevel: 1 }, { strategy: constants.Z_FIXED }])
      for (const limit of [10, 1000, 20_000]) {
        const packed = (size: number) => {
          const bytes = Uint8Array.from({ length: size }, () => random(256))
          return deflateRawSync(bytes, { ...options, finishFlush: 2 }).subarray(0, -4)
        }
        const server = opened({ compression: true }, { maxPackageSize: limit }, EXTENSION, protocol)
        const longest = packed(limit)
        assert.ok(longest.length > limit)
        server.receive(masked(frame(0xc2, longest)))
        server.receive(masked(frame(0x42, longest.subarray(0, 9))))
        server.receive(masked(frame(0x80, longest.subarray(9))))
        assert.equal([server.messages.length, server.errors], [2, []], `${limit} ${JSON.stringify(options)}`)
        server.receive(masked(frame(0xc2, packed(limit + 1))))
        assert.is(server.connection.closeCode, 1009)
        const endless = opened({ compression: true }, { maxPackageSize: limit }, EXTENSION, protocol)
        endless.receive(masked(frame(0x42, 'x', 2 * limit + 100)).subarray(0, 14))
        assert.is(endless.connection.closeCode, 1009)
      }
})

test('compression: the examples of RFC 7692, and messages that end in the middle of something', () => {
  for (const protocol of zlibs) {
    const hex = (text: string) => Buffer.from(text.replaceAll(' ', ''), 'hex')
    for (const [title, payload, expected] of [
      ['section 7.2.3.1', 'f2 48 cd c9 c9 07 00', 'Hello'],
      ['section 7.2.3.3, a block without compression', '00 05 00 fa ff 48 65 6c 6c 6f 00', 'Hello'],
      ['section 7.2.3.4, a last block', 'f3 48 cd c9 c9 07 00 00', 'Hello'],
      ['section 7.2.3.5, two blocks', 'f2 48 05 00 00 00 ff ff ca c9 c9 07 00', 'Hello'],
      ['section 7.2.3.6, an empty message', '00', ''],
      ['no block at all', '', ''],
      ['cut within a block', 'f2 48 cd', 1007],
      ['cut within a length', '00 05', 1007],
      ['cut within what is not compressed', '00 05 00 fa ff 48 65', 1007],
      ['cut within a code, which the tail goes on with', 'db fb 77', 1007],
      ['a last block without the empty one behind it', 'f3 48 cd c9 c9 07 00', 1007],
      ['more behind a last block', 'f3 48 cd c9 c9 07 00 f2 48 cd c9 c9 07 00', 1007],
      ['a kind of block that does not exist', '06', 1007],
      ['looks back before the beginning', 'f2 00 51 00', 1007],
    ] as const) {
      const server = opened({ compression: true }, {}, EXTENSION, protocol)
      server.receive(masked(frame(0xc1, hex(payload))))
      if (typeof expected === 'string')
        assert.equal([...server.messages, server.connection.closeCode], [expected, 0], title)
      else assert.equal([...server.messages, server.connection.closeCode], [expected], title)
    }
  }
})

test('compression: an engine that keeps its windows is asked to, agrees on it, and is told what it has not seen', () => {
  const calls: string[] = []
  const plain = plainDeflate({ level: 3 })
  const engine: DeflateEngine = {
    terms: LOOKING_BACK,
    open(agreement) {
      calls.push(`open ${agreement.windowBits} ${agreement.hasTakeover} ${agreement.peerHasTakeover}`)
      const context = plain.open(agreement)
      return {
        ...context,
        compress(payload) {
          calls.push(`compress ${payload.length}`)
          return context.compress(payload)
        },
        sent: () => calls.push('sent'),
        forget: () => calls.push('forget'),
        rest: () => calls.push('rest'),
        close: () => calls.push('close'),
      }
    },
    compressAlone(payload, windowBits) {
      calls.push(`compress ${payload.length} alone ${windowBits}`)
      return plain.compressAlone(payload, windowBits)
    },
  }
  const compression = { threshold: 0 }
  const server = open(
    websocketWith({ deflate: () => engine, date: () => 'now', trusts: () => () => false })({ compression }),
    {
      maxSendBufferSize: 1000,
    } as never,
  ) as unknown as Server
  server.receive(wire(ASK('Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=10¶')))
  assert.match(shown(server.written()), /Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=10¶/)
  server.connection.send('one')
  server.connection.send(new PreparedMessage('three'))
  server.hold()
  server.connection.send(randomBytes(randomOf(1), 2000, ''))
  server.connection.send('refused')
  server.advance(15_000) // half the time between two pings
  server.connection.destroy()
  const alone = 'compress 5 alone 10'
  const refused = ['compress 2000', 'compress 7']
  assert.equal(calls, ['open 10 true true', 'compress 3', 'sent', 'forget', alone, ...refused, 'rest', 'close'])
})

test('compression: what is agreed on with peers that look back', () => {
  for (const [offer, answer, agreement] of [
    ['', '', {}],
    ['; client_no_context_takeover', '; client_no_context_takeover', { peerHasTakeover: false }],
    ['; server_no_context_takeover', '; server_no_context_takeover', { hasTakeover: false }],
    ['; client_max_window_bits', '; client_max_window_bits=12', { peerWindowBits: 12 }],
    ['; client_max_window_bits=15', '; client_max_window_bits=12', { peerWindowBits: 12 }],
    ['; client_max_window_bits=10', '; client_max_window_bits=10', { peerWindowBits: 10 }],
    [
      '; client_max_window_bits; client_no_context_takeover',
      '; client_no_context_takeover',
      { peerHasTakeover: false },
    ],
    [
      '; client_max_window_bits; server_max_window_bits=9',
      '; server_max_window_bits=9; client_max_window_bits=12',
      { windowBits: 9, peerWindowBits: 12 },
    ],
  ] as const) {
    const all = { windowBits: 15, hasTakeover: true, peerHasTakeover: true, peerWindowBits: 15, ...agreement }
    const expected = { answer: `permessage-deflate${answer}`, agreement: all }
    assert.equal(acceptWith(`permessage-deflate${offer}`, LOOKING_BACK), expected, offer)
  }
  const bits = 'client_max_window_bits'
  assert.is(offerOf(LOOKING_BACK), `permessage-deflate; ${bits}`)
  assert.is(
    offerOf({ ...LOOKING_BACK, peerHasTakeover: false }),
    `permessage-deflate; server_no_context_takeover; ${bits}`,
  )
  for (const [said, windowBits] of [
    ['', 15],
    [`; ${bits}=9`, 9],
  ] as const)
    assert.equal(
      agreedWith(`permessage-deflate; client_no_context_takeover; server_max_window_bits=11${said}`, LOOKING_BACK),
      { windowBits, hasTakeover: false, peerHasTakeover: true, peerWindowBits: 11 },
    )
})

/** Two ends of ours, and what has gone over the wire from the server: what is compressed, and how many bytes. */
function pairOf(compression: CompressionSettings, protocol = websocket) {
  const callbacks = { maxPackageSize: 1_000_000 } as never
  const server = open(protocol({ compression }), callbacks) as unknown as Server
  const peer = open(protocol({ compression }), {
    role: 'client',
    maxPackageSize: 1_000_000,
  } as never) as unknown as Server
  server.receive(peer.written())
  peer.receive(server.written())
  const pass = () => {
    const bytes = server.written()
    peer.receive(bytes)
    server.receive(peer.written())
    return bytes
  }
  return { server, peer, pass }
}

const quote = (n: number) =>
  JSON.stringify({ id: n, symbol: ['BTC-EUR', 'ETH-EUR'][n % 2], price: 1000 + ((n * 7919) % 500), side: 'buy' })

if (addon().zlib !== null) {
  test('takeover: messages that resemble each other get far smaller than each alone, both ways', () => {
    const total = { alone: 0, back: 0, plain: 0 }
    for (const [name, maxContexts] of [
      ['alone', 0],
      ['back', 1000],
    ] as const) {
      const { server, peer, pass } = pairOf({ threshold: 0, maxContexts })
      for (let n = 0; n < 500; n++) {
        server.connection.send(quote(n))
        peer.connection.send(quote(n))
        total[name] += pass().length
      }
      assert.equal([server.messages.length, peer.messages.length], [500, 500])
      assert.equal(
        peer.messages,
        Array.from({ length: 500 }, (_, n) => quote(n)),
      )
      assert.equal(server.messages, peer.messages)
    }
    for (let n = 0; n < 500; n++) total.plain += 2 + quote(n).length
    console.log(`500 messages: ${total.plain} bytes plain, ${total.alone} alone, ${total.back} with takeover`)
    assert.ok(total.back < total.alone / 2, JSON.stringify(total))
  })

  test('takeover: a broadcast in between is compressed once for all, and everybody can read what follows', () => {
    const pairs = Array.from({ length: 3 }, () => pairOf({ threshold: 0 }))
    const expected: string[] = []
    for (let n = 0; n < 100; n++) {
      expected.push(quote(n))
      if (n % 5 === 2) {
        const prepared = new PreparedMessage(quote(n))
        for (const { server } of pairs) server.connection.send(prepared)
        const frames = pairs.map(({ pass }) => pass())
        assert.ok(frames.every((bytes) => bytes.equals(frames[0] as Buffer)))
        assert.is(framesIn(frames[0] as Buffer)[0]?.slice(0, 2), '41')
      } else for (const { server, pass } of pairs) server.connection.send(quote(n)) && pass()
    }
    for (const { peer } of pairs) assert.equal(peer.messages, expected)
  })

  test('takeover: a message that was refused is not looked back on, nor one that is sent while that is told', () => {
    const { server, peer, pass } = pairOf({ threshold: 0 })
    const random = randomOf(1)
    const noise = Buffer.from(randomBytes(random, 3000, '').toString('hex'))
    server.connection.maxSendBufferSize = 1000
    server.hold()
    server.connection.send(noise)
    server.connection.onError = () => {
      server.connection.maxSendBufferSize = 100_000
      server.connection.send(quote(1))
      server.connection.maxSendBufferSize = 1000
    }
    assert.is(server.connection.send(quote(1)), false)
    server.connection.onError = null
    server.drain()
    pass()
    server.connection.send(quote(2))
    server.connection.send(quote(3))
    pass()
    assert.equal(peer.messages, [noise, quote(1), quote(2), quote(3)])
  })

  test('takeover: only so many have a window to compress with, and the others can be read all the same', () => {
    const protocol = websocket({ compression: { threshold: 0, maxContexts: 2 } })
    const servers = [0, 1, 2, 3].map(() => {
      const server = open(protocol as never) as unknown as Server
      server.receive(wire(ASK(EXTENSION)))
      return { server, answer: shown(server.written()) }
    })
    const without = servers.map(({ answer }) => answer.includes('client_no_context_takeover'))
    assert.equal(without, [false, false, true, true])
    servers[0]?.server.connection.destroy()
    const next = open(protocol as never) as unknown as Server
    next.receive(wire(ASK(EXTENSION)))
    assert.not.match(shown(next.written()), /client_no_context_takeover/)
    const pasts = servers.map(() => Buffer.alloc(0))
    const random = randomOf(seedOf('owners'))
    for (let n = 0; n < 300; n++) {
      const at = 1 + random(3)
      const { server } = servers[at] as { server: Server }
      server.connection.send(quote(n))
      const payload = Buffer.from((framesIn(server.written())[0] as string).slice(2), 'hex') // behind RSV1 and opcode
      const bytes = Buffer.concat([payload, Buffer.from([0, 0, 0xff, 0xff])])
      const dictionary = pasts[at]?.length === 0 ? undefined : pasts[at]?.subarray(-32_768)
      const text = inflateRawSync(bytes, { finishFlush: 2, dictionary })
      assert.is(String(text), quote(n))
      pasts[at] = Buffer.concat([pasts[at] as Buffer, text])
    }
  })

  test('takeover: who has said nothing for long gives its window back, and begins anew', () => {
    const { server, peer, pass } = pairOf({ threshold: 0 })
    const sizes: number[] = []
    const say = () => {
      server.connection.send(quote(1))
      sizes.push(pass().length)
    }
    say()
    say()
    for (let half = 0; half < 3; half++) {
      server.advance(15_000)
      peer.connection.send('here')
      pass()
    }
    say()
    say()
    assert.equal([sizes[2], sizes[3]], [sizes[0], sizes[1]])
    assert.ok((sizes[1] as number) < (sizes[0] as number) / 2)
    assert.is(peer.messages.length, 4)
  })

  test('compressed text in fragments is inflated, counted and checked as it arrives', () => {
    const text = 'a text that is wrong at its '.repeat(20)
    const bad = deflateRawSync(Buffer.concat([Buffer.from(text), Buffer.of(0xff), Buffer.from(text)]), { level: 0 })
    const server = opened({ compression: true }, {}, EXTENSION)
    server.receive(masked(frame(0x41, bad.subarray(0, 600)))) // the message does not end, and the rest never comes
    assert.is(server.connection.closeCode, 1007)
    const bomb = deflateRawSync(Buffer.alloc(1_000_000))
    const other = opened({ compression: true }, {}, EXTENSION)
    other.receive(masked(frame(0x42, bomb.subarray(0, 100))))
    assert.is(other.connection.closeCode, 1009)
  })
}

test('compression: a limit that is no whole number, and one that is lowered in the middle of a message', () => {
  for (const protocol of zlibs) {
    const server = opened({ compression: true }, { maxPackageSize: 1000.5 }, EXTENSION, protocol)
    server.receive(masked(frame(0xc1, deflated('hello'))))
    assert.equal([server.messages, server.errors], [['hello'], []])
    server.receive(masked(frame(0x01, 'x'.repeat(100))))
    server.receive(masked(frame(0x80)))
    const lowered = opened({ compression: true }, {}, EXTENSION, protocol)
    const long = deflated('hello'.repeat(20))
    lowered.receive(masked(frame(0x41, long.subarray(0, -2))))
    lowered.connection.maxPackageSize = 10
    lowered.receive(masked(frame(0x80, long.subarray(-2))))
    assert.is(lowered.connection.closeCode, 1009)
  }
})

test('compression settings that zlib has not are told at once', () => {
  for (const compression of [{ level: 0 }, { level: 10 }, { windowBits: 8 }, { windowBits: 16 }, { maxContexts: -1 }])
    assert.throws(() => websocket({ compression }), /compression: \w+ is -?\d+: it must be an integer from/)
})

test('memory is bounded: a bomb of 100 MB, a million fragments, a length that is only said', () => {
  for (const protocol of zlibs) {
    const { gc = () => undefined } = globalThis
    const limit = 1_000_000
    const bomb = deflateRawSync(Buffer.alloc(100_000_000), { finishFlush: 2 }).subarray(0, -4)
    gc()
    const before = process.memoryUsage().arrayBuffers
    const server = opened({ compression: true }, { maxPackageSize: limit }, EXTENSION, protocol)
    server.receive(masked(frame(0xc2, bomb)))
    assert.is(server.connection.closeCode, 1009)
    const many = opened({}, { maxPackageSize: limit })
    const tiny = Buffer.concat(Array.from({ length: 1000 }, () => masked(frame(0x00, 'x'))))
    many.receive(masked(frame(0x02, 'x')))
    for (let n = 0; n < 1000; n++) many.receive(tiny)
    assert.is(many.connection.closeCode, 1009)
    const told = Array.from({ length: 1000 }, () => opened({}, { maxPackageSize: limit }))
    for (const one of told) one.receive(masked(frame(0x82, 'x', limit)).subarray(0, 15))
    assert.ok(process.memoryUsage().arrayBuffers - before < 30 * limit, 'what was said is not what is kept')
  }
})

test('one prepared message is encoded once for all, compressed or not', () => {
  const message = new PreparedMessage('x'.repeat(2000))
  const servers = [
    opened(),
    opened(),
    opened({ compression: true }, {}, EXTENSION),
    opened({ compression: true }, {}, EXTENSION),
  ]
  for (const server of servers) server.connection.send(message)
  const [a, b, c, d] = servers.map((server) => server.written())
  assert.ok(a?.equals(b as Buffer) && c?.equals(d as Buffer))
  assert.is(message.frame(), message.frame())
  assert.ok((c as Buffer).length < 100)
})

test('a refusal says when, and has content only where there may be some', () => {
  const protocol = websocketWith({ deflate: plainDeflate, trusts: () => () => false, date: () => 'now' })
  const answerTo = (text: string, onWebSocketConnect: () => unknown) => {
    const server = open(protocol() as never, { onWebSocketConnect } as never) as unknown as Server
    server.receive(wire(text))
    return shown(server.written())
  }
  const refusing = (status: number, body: string | null) => answerTo(ASK(), () => new Response(status, {}, body))
  assert.is(refusing(204, 'xyz'), 'HTTP/1.1 204 No Content¶Date: now¶Connection: close¶¶')
  assert.is(refusing(304, 'xyz'), 'HTTP/1.1 304 Not Modified¶Date: now¶Connection: close¶¶')
  assert.is(refusing(403, 'xyz'), 'HTTP/1.1 403 Forbidden¶Date: now¶Content-Length: 3¶Connection: close¶¶xyz')
  for (const text of ['HEAD / HTTP/1.1¶Host: a¶¶', 'HEAD / HTTP/1.1¶Bad Field: a¶¶'])
    assert.match(
      answerTo(text, () => true),
      /^HTTP\/1\.1 4\d\d .*¶Content-Length: [1-9]\d*¶Connection: close¶¶$/,
    )
})

/** Connections. */
const MANY = atLength(2_000, 10_000)

test('a broadcast to thousands is encoded once and compressed once, and tells what became of it', () => {
  const protocol = websocket({ compression: true })
  const wires = Array.from({ length: MANY }, (_, n) => {
    const one = open(protocol as never, { maxSendBufferSize: 10_000 } as never) as unknown as Server
    one.receive(wire(ASK(n % 2 === 0 ? EXTENSION : '')))
    one.written()
    return one
  })
  let encodings = 0
  const message = {
    toJSON: () => {
      encodings++
      return 'x'.repeat(2000)
    },
  }
  const [leaving, slow, closing, slower] = wires as [Server, Server, Server, Server]
  slow.hold()
  slower.hold()
  slow.connection.send('y'.repeat(6000))
  slower.connection.send('y'.repeat(6000))
  closing.connection.close()
  leaving.goodbye()
  closing.written()
  leaving.written()
  const connections = wires.map((one) => one.connection)
  assert.equal(broadcast(connections, message), { sent: MANY - 4, dropped: 2, closed: 0, conflated: 0 })
  assert.is(encodings, 1)
  assert.equal(
    [closing, leaving].flatMap(({ errors }) => errors),
    [],
  ) // left out, and nobody is told of a failure
  const frames = new Set(wires.slice(4).map((one) => one.written().toString('latin1')))
  assert.is(frames.size, 2)
  assert.equal(broadcast([slow.connection], message, { slow: 'close' }), {
    sent: 0,
    dropped: 0,
    closed: 1,
    conflated: 0,
  })
  assert.is(slow.connection.getStatus(false), 'CLOSED')
  for (const [options, code] of [
    [{ slow: 'conflat' }, 'ERR_BAD_OPTION'],
    [{ slow: null }, 'ERR_BAD_OPTION'],
    [{ slowbytes: 5 }, 'ERR_UNKNOWN_OPTION'],
  ])
    assert.throws(
      () => broadcast([], message, options as never),
      (error: unknown) => codeOf(error) === code,
    )
})

test('a broadcast leaves out who is not admitted yet', async () => {
  let admit: (() => void) | undefined
  const onWebSocketConnect = () =>
    new Promise<void>((resolve) => {
      admit = resolve
    })
  for (const slow of ['drop', 'close', 'conflate'] as const) {
    const server = serve({}, { onWebSocketConnect })
    const all = (message: string) => broadcast([server.connection], message, { slow })
    const nobody = { sent: 0, dropped: 0, closed: 0, conflated: 0 }
    assert.equal(all('to a bare connection'), nobody)
    server.receive(wire(ASK()))
    assert.equal(all('to one who waits'), nobody)
    admit?.()
    await nextTurn()
    assert.equal(all('to all'), { ...nobody, sent: 1 })
    const sent = server.written()
    assert.equal(textsIn(sent.subarray(sent.indexOf('\r\n\r\n') + 4)), ['to all'])
  }
})

test('conflated: the newest of what was missed, each encoded once for all when it is given, as soon as there is room', async () => {
  const protocol = websocket()
  const wires = [0, 1].map(() => {
    const one = open(protocol as never, { maxSendBufferSize: 10_000 } as never) as unknown as Server
    one.receive(wire(ASK()))
    one.hold()
    one.connection.send('y'.repeat(6000))
    return one
  })
  const connections = wires.map((one) => one.connection)
  let encodings = 0
  for (const price of [1, 2, 3]) {
    const message = { toJSON: () => ({ price, encodings: ++encodings }) }
    assert.is(broadcast(connections, message, { slow: 'conflate' }).conflated, 2)
  }
  for (const one of wires) one.drain()
  await until(() => wires.every((one) => one.written().toString('latin1').endsWith('{"price":3,"encodings":3}')))
  assert.is(encodings, 3)
})

test("what cannot be encoded is the caller's to hear, and what he changes afterwards is not sent, however slow all are", async () => {
  const one = open(websocket() as never, { maxSendBufferSize: 10_000 } as never) as unknown as Server
  one.receive(wire(ASK()))
  one.hold()
  one.connection.send('y'.repeat(6000))
  const conflate = (message: unknown) => broadcast([one.connection], message, { slow: 'conflate' })
  const own: { self?: unknown } = {}
  own.self = own
  assert.throws(() => conflate(own), /circular/)
  const quote = { price: 1 }
  conflate(quote)
  quote.price = 2
  one.drain()
  await until(() => one.written().toString('latin1').endsWith('{"price":1}'))
})

// The client

function client(
  settings: WebSocketSettings = {},
  callbacks: object = {},
  protocol = websocket,
): { wire: Server; asked: string; answer: (more?: string, status?: string) => string } {
  const wire = open(protocol(settings), {
    role: 'client',
    maxPackageSize: 1000,
    ...callbacks,
  } as never) as unknown as Server
  const asked = shown(wire.written())
  const key = /Sec-WebSocket-Key: (.+?)¶/.exec(asked)?.[1] ?? ''
  assert.match(asked, /^GET \/ HTTP\/1\.1¶Host: 192\.0\.2\.1¶Upgrade: websocket¶Connection: Upgrade¶/)
  const accepted = new Map([[key, '']])
  assert.is(accepted.size, 1)
  return {
    wire,
    asked,
    answer: (more = '', status = '101 Switching Protocols') =>
      `HTTP/1.1 ${status}¶Upgrade: WebSocket¶Connection: Upgrade¶Sec-WebSocket-Accept: ${acceptFor(key)}¶${more}¶`,
  }
}

function acceptFor(key: string): string {
  const server = serve()
  server.receive(wire(ASK().replace(KEY, key)))
  return /Accept: (.+?)¶/.exec(shown(server.written()))?.[1] ?? ''
}

test('what a client sends before it is connected is bounded as all that it sends, and nothing that was taken is refused later', () => {
  for (const [maxSendBufferSize, size] of [
    [65_536, 20_000],
    [4_194_304, 20_000],
    [1_000, 10], // with heads and masks, frames are longer than the limit
  ] as const) {
    const { wire: peer, answer } = client({}, { maxSendBufferSize })
    const message = 'x'.repeat(size)
    let taken = 1
    while (peer.connection.send(message)) taken++
    assert.is(taken, Math.ceil(maxSendBufferSize / size))
    assert.is(peer.errors.length, 0) // false: it is full
    assert.not(peer.connection.send(message))
    assert.equal(
      peer.errors.map(({ code }) => code),
      [2],
    )
    peer.receive(wire(answer()))
    assert.is(peer.errors.length, 1)
    assert.ok(peer.written().length > taken * size)
  }
})

test('what a server sends while it decides about a client is not refused later, either', async () => {
  let welcome: (() => void) | undefined
  const onWebSocketConnect = () =>
    new Promise<void>((resolve) => {
      welcome = resolve
    })
  const server = serve({}, { maxSendBufferSize: 1000, onWebSocketConnect })
  server.receive(wire(ASK()))
  for (let n = 1; n <= 100; n++) assert.is(server.connection.send(new PreparedMessage('0123456789')), n < 100)
  server.hold()
  welcome?.()
  await until(() => server.socket.queuedBytes > 1000)
  assert.is(server.errors.length, 0)
  assert.is(server.connection.send('more'), false) // they fill the buffer as if they had been sent now
  server.drain()
  const sent = server.written()
  assert.is(textsIn(sent.subarray(sent.indexOf('\r\n\r\n') + 4)).length, 100)
})

test('a client connects, sends what waited, masks with keys that nobody can guess, and takes no masked frame', () => {
  const { wire: peer, answer } = client()
  peer.connection.send('early')
  assert.is(peer.written().length, 0)
  peer.receive(Buffer.concat([wire(answer()), frame(0x81, 'right behind')]))
  assert.equal(peer.messages, ['right behind'])
  const keys = new Set<string>()
  const unmask = (bytes: Buffer) => {
    assert.is((bytes[1] as number) & 0x80, 0x80)
    keys.add(bytes.toString('hex', 2, 6))
    const payload = Buffer.from(bytes.subarray(6))
    mask(payload, 0, payload.length, bytes, 2, 0)
    return payload.toString()
  }
  assert.is(unmask(peer.written()), 'early')
  for (let n = 0; n < 100; n++) {
    peer.connection.send('x')
    assert.is(unmask(peer.written()), 'x')
  }
  assert.ok(keys.size > 99)
  peer.receive(masked(frame(0x81, 'x')))
  assert.is(peer.connection.closeCode, 1002)
})

test('a client refuses an answer that is none', () => {
  for (const [change, more] of [
    [(text: string) => text.replace('101', '200'), ''],
    [(text: string) => text.replace('HTTP/1.1', 'HTTP/1.0'), ''],
    [(text: string) => text.replace(/Accept: .+?¶/, 'Accept: x¶'), ''],
    [(text: string) => text.replace(/Sec-WebSocket-Accept: .+?¶/, ''), ''],
    [(text: string) => text.replace('Upgrade: WebSocket¶', ''), ''],
    [(text: string) => text.replace('Connection: Upgrade', 'Connection: close'), ''],
    [(text: string) => text, 'Sec-WebSocket-Protocol: b¶'],
    [(text: string) => text, 'Sec-WebSocket-Extensions: permessage-deflate¶'],
    [(text: string) => text.replace('¶Upgrade', '\nUpgrade'), ''],
  ] as const) {
    const { wire: peer, answer } = client()
    peer.receive(wire(change(answer(more))))
    assert.is(codeOf(peer.errors[0]?.error), 'ERR_BAD_HANDSHAKE', change(answer(more)))
  }
  const redirected = client()
  redirected.wire.receive(wire('HTTP/1.1 302 Found¶Location: ws://evil.example/¶¶'))
  assert.match(redirected.wire.errors[0]?.message ?? '', /answered 302, and points to ws:\/\/evil\.example\//)
  assert.is((redirected.wire.errors[0]?.error as ProtocolError | undefined)?.statusHint, 302)
  const hinted = client()
  hinted.wire.receive(wire(`HTTP/1.1 103 Early Hints¶Link: </a>¶¶${hinted.answer()}`))
  assert.equal(hinted.wire.errors, [])
  const { wire: peer, answer } = client({ protocols: ['a'] })
  peer.receive(wire(answer('Sec-WebSocket-Protocol: a¶')))
  assert.is(peer.errors.length, 0)
  assert.throws(() => client({ headers: { 'X-A': 'b\r\nc' } }), /control or wide/)
  assert.throws(() => client({ headers: { upgrade: 'h2c' } }), /the handshake's own/)
  assert.throws(() => client({ protocols: ['a b'] }), /no token/)
  assert.throws(() => client({ protocols: ['a', 'a'] }), /comes twice/)
  const named = open(websocket({ headers: { host: 'example.org' } }), { role: 'client' })
  assert.equal(shown(named.written()).match(/host: .*?¶/gi), ['host: example.org¶'])
  const accented = open(websocket({ headers: { 'X-Name': 'J\u00fcrgen' } }), { role: 'client' })
  assert.match(shown(accented.written()), /¶X-Name: J\u00fcrgen¶/) // in latin1, which servers read
})

test('server and client understand each other, with and without compression, however it is cut', () => {
  const seed = seedOf('websocket pair')
  const random = randomOf(seed)
  for (const compression of [false, { threshold: 0 }]) {
    const server = serve({ compression }, { maxPackageSize: 100_000 })
    const peer = open(websocket({ compression }), {
      role: 'client',
      maxPackageSize: 100_000,
    } as never) as unknown as Server
    const pass = () => {
      for (const piece of randomCuts(random, peer.written())) server.receive(piece)
      for (const piece of randomCuts(random, server.written())) peer.receive(piece)
    }
    pass()
    const sent: (string | Buffer)[] = []
    for (let n = 0; n < 300; n++) {
      const size = [0, 1, 125, 126, 127, 1000, 65_535, 65_536][random(8)] as number
      const message =
        random(2) === 0
          ? '\u00e9'.repeat(size / 2)
          : Buffer.from(Array.from({ length: Math.min(size, 200) }, () => random(256)))
      sent.push(message)
      ;(n % 2 === 0 ? server : peer).connection.send(message)
      pass()
    }
    assert.equal(
      peer.messages,
      sent.filter((_, n) => n % 2 === 0),
      `SEED=${seed}`,
    )
    assert.equal(
      server.messages,
      sent.filter((_, n) => n % 2 === 1),
      `SEED=${seed}`,
    )
    peer.connection.close(new CloseFrame(3333))
    pass()
    pass()
    assert.is(server.connection.closeCode, 3333)
  }
})

test('UTF-8 is checked as the decoder of the platform does, byte by byte', () => {
  const seed = seedOf('utf8')
  const random = randomOf(seed)
  const interesting = Buffer.from('\u00e9\u03ba\u{1f600}\u{10ffff}\ud7ff\ue000')
  for (let n = 0; n < atLength(5_000, 20_000); n++) {
    const bytes = randomBytes(random, random(8), interesting)
    const checker = new Utf8Checker()
    const isGood = [...bytes].every((byte) => checker.accepts(Buffer.of(byte))) && checker.isWhole
    let expected = true
    try {
      new TextDecoder('utf-8', { fatal: true }).decode(bytes)
    } catch {
      expected = false // TypeError
    }
    assert.is(isGood, expected, `SEED=${seed} ${bytes.toString('hex')}`)
  }
})

test('any bytes behind the handshake give messages or one close code, the same ones however they are cut', () => {
  for (const protocol of zlibs) {
    const seed = seedOf('websocket')
    const random = randomOf(seed)
    const interesting = Buffer.concat(
      [
        frame(0x01, 'ab'),
        frame(0x80, 'c'),
        frame(0x89, 'p'),
        frame(0x82, 'x'.repeat(130)),
        frame(0xc1, deflated('hey')),
      ].map(masked),
    )
    for (let n = 0; n < atLength(1000, 5000); n++) {
      const bytes = Buffer.concat([
        interesting.subarray(0, random(interesting.length)),
        randomBytes(random, random(60), interesting),
      ])
      const whole = opened({ compression: true }, { maxPackageSize: 300 }, EXTENSION, protocol)
      const cut = opened({ compression: true }, { maxPackageSize: 300 }, EXTENSION, protocol)
      whole.receive(bytes)
      for (const piece of randomCuts(random, bytes)) cut.receive(piece)
      const how = `SEED=${seed}, case ${n}: ${bytes.toString('hex')}`
      assert.equal(cut.messages, whole.messages, how)
      assert.equal(framesIn(cut.written()), framesIn(whole.written()), how)
      assert.is(cut.connection.closeCode, whole.connection.closeCode, how)
      assert.ok(
        whole.errors.every(
          ({ code, error }) => code === 3 && error?.name === 'ProtocolError' && error.cause === undefined,
        ),
        how,
      )
    }
  }
})

test('FIN in the middle of a handshake ends it at once, for a server with 400 and for a client as an error', () => {
  for (const kept of [1, 60]) {
    const server = serve()
    server.receive(wire(ASK()).subarray(0, kept))
    server.end()
    assert.match(shown(server.written()), /^HTTP\/1\.1 400 .*ends before its end/, String(kept))
    assert.equal([server.connection.getStatus(false), server.errors], ['CLOSED', []])
    const { wire: peer, answer } = client()
    peer.receive(wire(answer()).subarray(0, kept))
    peer.end()
    assert.equal([codeOf(peer.errors[0]?.error), peer.connection.closeReason], ['ERR_BAD_HANDSHAKE', 'protocol'])
    assert.is(peer.connection.getStatus(false), 'CLOSED')
  }
})

test('closeReason says who closed first: the peer, we, or a worker that leaves', () => {
  const goodbye = masked(frame(0x88, Buffer.from([3, 232])))
  const cases: [string, WebSocketSettings, (server: Server) => unknown, string][] = [
    ['a close frame', {}, (server) => server.receive(goodbye), 'peer'],
    ['an empty one', {}, (server) => server.receive(masked(frame(0x88))), 'peer'],
    ['FIN alone', {}, (server) => server.end(), 'peer'],
    ['a close frame and FIN', {}, (server) => [server.receive(goodbye), server.end()], 'peer'],
    ['our close', {}, (server) => [server.connection.close(), server.receive(goodbye)], 'closed'],
    ['our frame', {}, (server) => [server.connection.send(new CloseFrame(4000)), server.receive(goodbye)], 'closed'],
    ['our close, answered by FIN', {}, (server) => [server.connection.close(), server.end()], 'closed'],
    [
      'our close, not answered',
      { closeTimeoutMs: 10 },
      (server) => [server.connection.close(), server.advance(10)],
      'closed',
    ],
    ['a drain', {}, (server) => [server.goodbye(), server.receive(goodbye)], 'stopped'],
    ['a drain, not answered', { closeTimeoutMs: 10 }, (server) => [server.goodbye(), server.advance(10)], 'stopped'],
  ]
  for (const [what, settings, act, reason] of cases) {
    const server = opened(settings)
    act(server)
    server.end()
    assert.equal([server.connection.getStatus(false), server.connection.closeReason], ['CLOSED', reason], what)
  }
  const { wire: peer, answer } = client()
  peer.receive(wire(answer()))
  peer.receive(frame(0x88, Buffer.from([0x0f, 0xa0])))
  peer.end()
  assert.equal([peer.connection.closeReason, peer.connection.closeCode], ['peer', 4000])
})

test('the code of a WebSocket that ends without a close frame of the peer is 1006, however it ends', () => {
  const goodbye = frame(0x88, Buffer.from([0x0f, 0xa0]))
  const throws = () => {
    throw new Error('planted')
  }
  const cases: [what: string, callbacks: object, act: (server: Server) => unknown, code: number][] = [
    ['a reset', {}, (server) => server.reset(), 1006],
    ['destroy()', {}, (server) => server.connection.destroy(), 1006],
    ['a handler that fails', { onMessage: throws }, (server) => server.receive(masked(frame(0x81, 'x'))), 1006],
    [
      'a reset behind the goodbye',
      { onMessage: () => new Promise(() => undefined) },
      (server) => [server.receive(Buffer.concat([frame(0x81, 'x'), goodbye].map(masked))), server.reset()],
      4000,
    ],
  ]
  for (const [what, callbacks, act, code] of cases) {
    const codes: number[] = []
    const onClose = ({ closeCode }: Server['connection']) => codes.push(closeCode)
    const server = opened({}, { ...callbacks, onClose })
    assert.is(server.connection.closeCode, 0, what)
    act(server)
    server.end()
    assert.equal([codes, server.connection.closeCode], [[code], code], what)
  }
  const { wire: peer, answer } = client()
  peer.receive(wire(answer()))
  peer.reset()
  assert.equal([peer.connection.closeReason, peer.connection.closeCode], ['error', 1006])
  const early = serve()
  early.reset()
  assert.is(early.connection.closeCode, 0, 'there was no WebSocket')
})

test.run()
