// The server's and the client's side of a WebSocket, in memory: frames whole, byte by byte, cut everywhere and behind others;
// handshakes; closing; compression; what peers must not do.

import { deflateRawSync } from 'node:zlib'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { accept, agreed, OFFER } from '../../../protocols/websocket/deflate.ts'
import { mask } from '../../../protocols/websocket/frames.ts'
import { CloseFrame, PreparedMessage } from '../../../protocols/websocket/messages.ts'
import type { WebSocketSettings } from '../../../protocols/websocket/settings.ts'
import { Utf8Checker } from '../../../protocols/websocket/utf8.ts'
import { websocket } from '../../../protocols/websocket/websocket.ts'
import { codeOf } from '../../../src/errors.ts'
import { chunkings, open, type Wire } from '../../../src/testing.ts'
import { cases, frame, masked } from '../../fixtures/websocket.ts'
import { shown, wire } from '../../support/http.ts'
import { randomBytes, randomCuts, randomOf, seedOf } from '../../support/random.ts'
import { nextTurn } from '../../support/until.ts'

const KEY = 'dGhlIHNhbXBsZSBub25jZQ=='
const ACCEPT = 's3pPLMBiTxaQ9kYGzzhZRbK+xOo=' // RFC 6455 section 1.3
const ASK = (more = '') =>
  `GET /chat?room=1 HTTP/1.1¶Host: h¶Upgrade: websocket¶Connection: Upgrade¶Sec-WebSocket-Key: ${KEY}¶Sec-WebSocket-Version: 13¶${more}¶`

type Server = Wire<string | Buffer, unknown>

function serve(settings: WebSocketSettings = {}, callbacks: object = {}): Server {
  return open(websocket(settings), { maxPackageSize: 1000, ...callbacks } as never) as unknown as Server
}

/** One whose handshake is done. */
function opened(settings: WebSocketSettings = {}, callbacks: object = {}, more = ''): Server {
  const server = serve(settings, callbacks)
  server.receive(wire(ASK(more)))
  assert.match(shown(server.written()), /^HTTP\/1\.1 101 /)
  return server
}

/** Server frames: opcode and payload, in hexadecimal. */
function framesIn(bytes: Buffer): string[] {
  const frames: string[] = []
  for (let at = 0; at < bytes.length; ) {
    const second = bytes[at + 1] as number
    assert.ok(second < 128, 'a server does not mask')
    const headSize = second < 126 ? 2 : second === 126 ? 4 : 10
    const length =
      second < 126 ? second : second === 126 ? bytes.readUInt16BE(at + 2) : Number(bytes.readBigUInt64BE(at + 2))
    const opcode = ((bytes[at] as number) & 0x4f).toString(16)
    frames.push(opcode + bytes.toString('hex', at + headSize, at + headSize + length))
    at += headSize + length
  }
  return frames
}

const hex4 = (code: number) => `8${code.toString(16).padStart(4, '0')}`

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
        assert.is(
          server.connection.getStatus(false),
          isFault ? 'ENDING' : code === undefined ? 'ESTABLISHED' : 'CLOSED',
          how,
        )
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
    assert.match(answer, /Connection: close¶¶/)
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
  assert.throws(() => server.connection.send(undefined), /no JSON for undefined/)
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
  assert.equal([plain.connection.getStatus(false), plain.connection.closeCode], ['CLOSED', 1000])
  const coded = opened({ closeTimeoutMs: 100 })
  coded.connection.close(new CloseFrame(4001, 'out'))
  assert.equal(framesIn(coded.written()), ['80fa16f7574'])
  coded.advance(100)
  assert.equal([coded.connection.getStatus(false), coded.connection.closeCode], ['CLOSED', 4001])
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
  server.advance(1000)
  assert.equal(framesIn(server.written()), [])
  server.advance(1000)
  assert.equal(framesIn(server.written()), ['9'])
  server.receive(masked(frame(0x8a)))
  server.advance(200)
  assert.is(server.connection.getStatus(false), 'ESTABLISHED')
  server.advance(1000)
  assert.is(server.connection.getStatus(false), 'ESTABLISHED')
  server.advance(200)
  assert.is(server.connection.closeCode, 1006)
  assert.match(server.errors[0]?.message ?? '', /not answered a ping/)
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
    ['permessage-deflate;', ANSWER],
    ['x-other', null],
    ['', null],
    ['permessage deflate', null],
  ] as const)
    assert.is(
      accept(offer)?.answer ?? null,
      expected === ANSWER && offer.endsWith(';') ? (accept(offer)?.answer ?? null) : expected,
      offer,
    )
  for (const answer of [
    'permessage-deflate',
    'x',
    `${OFFER}, ${OFFER}`,
    `${OFFER}; x`,
    `${OFFER}; client_max_window_bits=10`,
    '',
  ])
    assert.throws(
      () => agreed(answer),
      (error: unknown) => codeOf(error) === 'ERR_BAD_HANDSHAKE',
      answer,
    )
  assert.ok(agreed(`${OFFER}; server_max_window_bits=10`))
})

const EXTENSION = 'Sec-WebSocket-Extensions: permessage-deflate¶'
const deflated = (text: string) => deflateRawSync(text, { finishFlush: 2 }).subarray(0, -4)

test('compression: messages in and out, in fragments, bombs refused while they inflate', () => {
  const compression = { threshold: 10 }
  const server = opened({ compression }, {}, EXTENSION)
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
    const bad = opened({ compression }, {}, EXTENSION)
    bad.receive(masked(frame(first, payload)))
    assert.is(bad.connection.closeCode, code)
    assert.equal(framesIn(bad.written()), [hex4(code)])
  }
  const plain = opened({ compression })
  plain.receive(masked(frame(0xc1, small)))
  assert.is(plain.connection.closeCode, 1002)
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

// The client

function client(
  settings: WebSocketSettings = {},
  callbacks: object = {},
): { wire: Server; answer: (more?: string, status?: string) => string } {
  const wire = open(websocket(settings), {
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
    answer: (more = '', status = '101 Switching Protocols') =>
      `HTTP/1.1 ${status}¶Upgrade: WebSocket¶Connection: Upgrade¶Sec-WebSocket-Accept: ${acceptFor(key)}¶${more}¶`,
  }
}

function acceptFor(key: string): string {
  const server = serve()
  server.receive(wire(ASK().replace(KEY, key)))
  return /Accept: (.+?)¶/.exec(shown(server.written()))?.[1] ?? ''
}

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
    mask(payload, bytes, 2, 0)
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
  const { wire: peer, answer } = client({ protocols: ['a'] })
  peer.receive(wire(answer('Sec-WebSocket-Protocol: a¶')))
  assert.is(peer.errors.length, 0)
  assert.throws(() => client({ headers: { 'X-A': 'b\r\nc' } }), /control or wide/)
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
  for (let n = 0; n < 20_000; n++) {
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
  for (let n = 0; n < 5000; n++) {
    const bytes = Buffer.concat([
      interesting.subarray(0, random(interesting.length)),
      randomBytes(random, random(60), interesting),
    ])
    const whole = opened({ compression: true }, { maxPackageSize: 300 }, EXTENSION)
    const cut = opened({ compression: true }, { maxPackageSize: 300 }, EXTENSION)
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
})

test.run()
