// What a handler sees of a request: lazily, without prototypes, and of proxies only what one trusts.

import { test } from 'uvu'
import * as assert from 'uvu/assert'
import type { AccessLogEntry } from '../../../protocols/http/access-log.ts'
import { Request } from '../../../protocols/http/request.ts'
import { Response } from '../../../protocols/http/response.ts'
import type { HttpServices, HttpSettings } from '../../../protocols/http/settings.ts'
import { codeOf, ProtocolError } from '../../../src/errors.ts'
import type { Peer } from '../../../src/protocol.ts'
import { parseHead, serve, shown, wire } from '../../support/http.ts'
import { until } from '../../support/until.ts'

/** The request that a handler is given. */
function received(text: string, settings: HttpSettings = {}): Request {
  let found: Request | null = null
  const onMessage = (connection: { send(answer: unknown): boolean }, request: Request) => {
    found = request
    connection.send('ok')
  }
  const server = serve({ onMessage } as never, settings)
  server.receive(wire(text))
  assert.ok(found, `${text}: ${shown(server.written())}`)
  return found
}

const get = (target: string, fields = '') => received(`GET ${target} HTTP/1.1¶Host: h¶${fields}¶`)
const post = (type: string, body: string) =>
  received(`POST / HTTP/1.1¶Host: h¶Content-Type: ${type}¶Content-Length: ${body.length}¶¶${body}`)

test('path and query, of every form of target', () => {
  for (const [target, path, queryString] of [
    ['/', '/', ''],
    ['/a/b?c=d', '/a/b', 'c=d'],
    ['/a?', '/a', ''],
    ['/a?b?c', '/a', 'b?c'],
    ['/?', '/', ''],
    ['//a', '//a', ''],
    ['/http://x/', '/http://x/', ''],
    ['http://h', '/', ''],
    ['http://h/a?b', '/a', 'b'],
    ['HTTP://h?b', '/', 'b'],
    ['/a%2Fb/../c', '/a%2Fb/../c', ''],
  ] as const) {
    const request = get(target)
    assert.equal([request.uri, request.path, request.queryString], [target, path, queryString], target)
  }
})

test('parameters, fields and cookies by name, with a fallback, and without a prototype', () => {
  const request = get('/?a=1&b[]=2&b[]=3&__proto__[x]=4&toString=5', 'X-A: 1¶x-a: 2¶Cookie: c=6; __proto__=7¶')
  assert.equal(
    [request.get('a'), request.get('b'), request.get('none', 'else'), request.get('x'), request.get('toString')],
    ['1', ['2', '3'], 'else', undefined, '5'],
  )
  assert.equal(
    [request.header('X-A'), request.header('none', 'else'), request.header('constructor')],
    ['1, 2', 'else', undefined],
  )
  assert.equal(
    [request.cookie('c'), request.cookie('none', 'else'), request.cookie('hasOwnProperty')],
    ['6', 'else', undefined],
  )
  for (const map of [request.get(), request.headers, request.cookies]) assert.is(Object.getPrototypeOf(map), null)
})

test('bodies by their type', () => {
  const plain = (value: unknown) => JSON.parse(JSON.stringify(value))
  for (const [type, body, expected] of [
    ['application/x-www-form-urlencoded', 'a=1&b[c]=x+y', { a: '1', b: { c: 'x y' } }],
    ['application/x-www-form-urlencoded; charset=utf-8', 'a=%C3%A9', { a: '\u00e9' }],
    ['application/json', '{"a":[1],"b":null}', { a: [1], b: null }],
    ['application/problem+json', '{"a":1}', { a: 1 }],
    ['application/json', '5', {}],
    ['application/json', 'null', {}],
    ['application/json', '[1,{"a":2}]', {}],
    ['text/plain', 'a=1', {}],
  ] as const) {
    const form = post(type, body).post()
    assert.equal(plain(form), plain(expected), `${type} ${body}`)
    assert.is(Object.getPrototypeOf(form), null)
  }
  assert.is(({} as Record<string, unknown>).x, undefined)
  assert.throws(
    () => post('application/json', '{').json(),
    (error: unknown) => codeOf(error) === 'ERR_BAD_JSON',
  )
  assert.throws(
    () => post('multipart/form-data; boundary=x', '--x--').files,
    (error: unknown) => codeOf(error) === 'ERR_NO_UPLOADS',
  )
  assert.equal(post('multipart/form-data; boundary=x', '').files, [])
  assert.is(post('multipart/form-data', '').file('a'), undefined)
})

test('what post() finds in JSON reaches no prototype either, however it is copied', () => {
  const deep = 50_000
  for (const [body, expected] of [
    ['{"a":1,"__proto__":{"x":1}}', { a: 1 }],
    ['{"a":1,"\\u005f_proto_\\u005F":{"x":1}}', { a: 1 }],
    ['{"a":[{"b":{"__proto__":{"x":1},"c":2}}]}', { a: [{ b: { c: 2 } }] }],
    ['{"constructor":{"prototype":{"x":1},"a":[{"__proto__":2}]}}', { constructor: { a: [{}] } }],
    ['{"constructor":"Ferrari","a":{"constructor":null,"prototype":1}}', null],
    ['{"a":"__proto__","b":{"proto":1}}', null],
    [`{"__proto__":1,"a":${'['.repeat(deep)}${']'.repeat(deep)}}`, undefined],
  ] as const) {
    const form = post('application/json', body).post()
    assert.is(Object.getPrototypeOf(form), null)
    assert.not(Object.hasOwn(form, '__proto__'))
    assert.is(Object.assign({}, form).x, undefined)
    if (expected !== undefined) assert.equal(JSON.stringify(form), expected === null ? body : JSON.stringify(expected))
  }
  const raw = post('application/json', '{"__proto__":{"x":1}}').json() as object
  assert.ok(Object.hasOwn(raw, '__proto__')) // it is said there
})

test('the fields of a multipart form that nobody has parsed are an error, not missing', () => {
  const code = (expected: string) => (error: unknown) => codeOf(error) === expected
  const form = '--x\r\nContent-Disposition: form-data; name="user"\r\n\r\nann\r\n--x--\r\n'
  const off = post('Multipart/Form-Data; boundary=x', form)
  assert.throws(() => off.post(), code('ERR_NO_UPLOADS'))
  assert.throws(() => off.post('user'), code('ERR_NO_UPLOADS'))
  assert.equal(Object.keys(post('multipart/form-data; boundary=x', '').post()), [])
  for (const settings of [{ body: 'stream' }, { body: 'stream', uploads: {} }] as const) {
    const head = `POST / HTTP/1.1¶Host: h¶Content-Type: multipart/form-data; boundary=x¶Content-Length: ${form.length}¶¶`
    const streamed = received(head + form, settings)
    assert.throws(() => streamed.post(), code('ERR_BODY_STREAMED'))
    assert.throws(() => streamed.files, code('ERR_BODY_STREAMED'))
  }
})

test('trailers by name, with a fallback, or all of them, also if there are none', () => {
  const chunked = (trailers: string) =>
    received(`POST / HTTP/1.1¶Host: h¶Transfer-Encoding: chunked¶¶5¶hello¶0¶${trailers}¶`)
  const some = chunked('X-Sum: 1¶x-sum: 2¶')
  assert.equal([some.trailer('X-SUM'), some.trailer('x-sum', 'else')], ['1, 2', '1, 2'])
  assert.equal(
    [some.trailer('none'), some.trailer('none', 'else'), some.trailer('toString')],
    [undefined, 'else', undefined],
  )
  assert.equal({ ...some.trailer() }, { 'x-sum': '1, 2' })
  for (const none of [chunked(''), get('/'), post('text/plain', 'a')]) {
    assert.equal([none.trailer('a'), none.trailer('a', 'else')], [undefined, 'else'])
    assert.equal([Object.keys(none.trailer()), Object.getPrototypeOf(none.trailer())], [[], null])
  }
})

test('forms beyond the limits are the client’s fault, and cost nothing before they are asked for', () => {
  const server = serve({
    onMessage: (connection: { send(answer: unknown): boolean }, request: Request) =>
      connection.send(request.path === '/' ? 'not asked' : String(request.get('a'))),
  } as never)
  const many = 'a&'.repeat(1001)
  server.receive(wire(`GET /?${many} HTTP/1.1¶Host: h¶¶GET /a?${many} HTTP/1.1¶Host: h¶¶`))
  assert.equal(
    [...shown(server.written()).matchAll(/HTTP\/1\.1 (\d+)/g)].map(([, status]) => status),
    ['200', '413'],
  )
})

test('what proxies tell is believed from those that one trusts, and from nobody by default', () => {
  const fields =
    'X-Forwarded-For: 6.6.6.6, 198.51.100.7, 10.0.0.1¶X-Forwarded-Proto: https, http¶X-Forwarded-Host: a.example¶'
  const told = (trustProxy: readonly string[], more = fields) => {
    const { remoteIp, scheme, host } = received(`GET / HTTP/1.1¶Host: h¶${more}¶`, { trustProxy })
    return [remoteIp, scheme, host]
  }
  const nobody = ['192.0.2.1', 'http', 'h']
  assert.equal(told([]), nobody)
  assert.equal(told(['10.0.0.1']), nobody)
  assert.equal(told(['192.0.2.1']), ['10.0.0.1', 'http', 'a.example'])
  assert.equal(told(['192.0.2.1', '10.0.0.1']), ['198.51.100.7', 'https', 'a.example'])
  assert.equal(told(['192.0.2.1'], 'X-Forwarded-For: 1.2.3.4, "><script>¶'), nobody)
  assert.equal(told(['192.0.2.1'], ''), nobody)
  for (const [element, ip] of [
    ['203.0.113.5:4711', '203.0.113.5'],
    ['[2001:db8::1]:4711', '2001:db8::1'],
    ['[2001:db8::1]', '2001:db8::1'],
    ['2001:DB8::192.0.2.7', '2001:DB8::192.0.2.7'],
    ['unknown', '192.0.2.1'],
    ['_hidden', '192.0.2.1'],
    ['1.2.3', '192.0.2.1'],
    ['1.2.3.456', '192.0.2.1'],
    ['01.2.3.4', '192.0.2.1'],
    [':::', '192.0.2.1'],
    ['1:2', '192.0.2.1'],
    ['', '192.0.2.1'],
  ])
    assert.is(told(['192.0.2.1'], `X-Forwarded-For: ${element}¶`)[0], ip, element)
})

test('a scheme that a trusted proxy tells is known in any case and for a WebSocket; any other tells nothing', () => {
  const peer = { remoteIp: '192.0.2.1', isEncrypted: false } as Peer
  const schemeOf = (field: string, isEncrypted: boolean) => {
    const found = parseHead(wire(`GET / HTTP/1.1¶Host: h¶X-Forwarded-Proto: ${field}¶¶`))
    assert.ok(found)
    const { signal } = new AbortController()
    const host = { isTrusted: () => true, loadSession: () => Promise.reject(new Error('not here')) }
    return new Request(found.head, null, { peer: { ...peer, isEncrypted }, signal }, host).scheme
  }
  for (const isEncrypted of [false, true]) {
    // Traefik tells ws and wss.
    for (const field of ['https', 'HTTPS', 'wss']) assert.is(schemeOf(field, isEncrypted), 'https', field)
    for (const field of ['http', 'Http', 'ws']) assert.is(schemeOf(field, isEncrypted), 'http', field)
    for (const field of ['', 'spdy']) assert.is(schemeOf(field, isEncrypted), isEncrypted ? 'https' : 'http', field)
  }
})

test('of what proxies have put in a row that counts which the outermost trusted one has told', () => {
  const told = (trustProxy: readonly string[], more: string) => {
    const { remoteIp, scheme, host } = received(`GET / HTTP/1.1¶Host: h¶${more}¶`, { trustProxy })
    return [remoteIp, scheme, host]
  }
  const forged = 'X-Forwarded-For: 10.0.0.1, 6.6.6.6'
  const one = `${forged}¶X-Forwarded-Proto: https, http¶X-Forwarded-Host: evil.example, a.example¶`
  assert.equal(told(['192.0.2.1', '10.0.0.1'], one), ['6.6.6.6', 'http', 'a.example'])
  const apart = 'X-Forwarded-Host: evil.example¶X-Forwarded-Host: a.example¶'
  assert.equal(told(['192.0.2.1'], apart), ['192.0.2.1', 'http', 'a.example'])
  const two = `${forged}, 10.0.0.1¶X-Forwarded-Proto: http, https, http¶X-Forwarded-Host: evil.example, a.example, b.local¶`
  assert.equal(told(['192.0.2.1', '10.0.0.1'], two), ['6.6.6.6', 'https', 'a.example'])
  const passed = `${forged}, 10.0.0.1¶X-Forwarded-Proto: https¶X-Forwarded-Host: a.example¶`
  assert.equal(told(['192.0.2.1', '10.0.0.1'], passed), ['6.6.6.6', 'https', 'a.example'])
  const within = 'X-Forwarded-For: 10.0.0.1¶X-Forwarded-Host: evil.example, a.example¶' // the client is at a trusted address
  assert.equal(told(['192.0.2.1', '10.0.0.1'], within), ['10.0.0.1', 'http', 'a.example'])
})

test('the signal aborts when the client goes', () => {
  let signal: AbortSignal | null = null
  const onMessage = (_connection: unknown, request: Request) => {
    signal = request.signal
    return new Promise(() => undefined)
  }
  const server = serve({ onMessage } as never)
  server.receive(wire('GET / HTTP/1.1¶Host: h¶¶'))
  assert.is((signal as unknown as AbortSignal).aborted, false)
  server.reset()
  assert.is((signal as unknown as AbortSignal).aborted, true)
})

test('each answer is logged once, with what was sent of its body', () => {
  const lines: AccessLogEntry[] = []
  const server = serve({}, { accessLog: (entry) => lines.push(entry) })
  server.receive(
    wire(
      'GET /a HTTP/1.1¶Host: h¶User-Agent: u¶Referer: r¶¶HEAD /b HTTP/1.0¶Connection: keep-alive¶¶GET / HTTP/1.1¶Host: h¶¶',
    ),
  )
  assert.equal(
    lines.map(({ method, target, version, status, bytes, userAgent, referer }) => [
      method,
      target,
      version,
      status,
      bytes,
      userAgent,
      referer,
    ]),
    [
      ['GET', '/a', '1.1', 200, 7, 'u', 'r'],
      ['HEAD', '/b', '1.0', 200, 0, '', ''],
      ['GET', '/', '1.1', 200, 6, '', ''],
    ],
  )
})

test('an open answer that the fault of its client cuts is logged, too, and once', () => {
  const POST = 'POST /a HTTP/1.1¶Host: h¶Transfer-Encoding: chunked¶¶'
  for (const cut of [
    (server: ReturnType<typeof serve>) => server.receive(wire('x¶')),
    (server: ReturnType<typeof serve>) => server.receive(wire('6¶123456¶')),
    (server: ReturnType<typeof serve>) => server.advance(1001),
  ]) {
    const lines: string[] = []
    const onMessage = (connection: { send(answer: unknown): boolean }) =>
      void connection.send(new Response(200, { 'Transfer-Encoding': 'chunked' }, 'one'))
    const accessLog = ({ target, status, bytes }: AccessLogEntry) => void lines.push(`${target} ${status} ${bytes}`)
    const server = serve({ onMessage } as never, { body: 'stream', maxBodyBytes: 5, bodyTimeoutMs: 1000, accessLog })
    server.receive(wire(POST))
    cut(server)
    assert.equal(lines, ['/a 200 3'])
    assert.is(shown(server.written()).split('200 OK').length, 2)
    server.reset()
    assert.is(lines.length, 1)
  }
})

test('an upload has the trailers of its body', async () => {
  const readUploads: HttpServices['readUploads'] = async (body) => {
    for await (const _ of body);
    return { fields: [], files: [], dispose: async () => undefined }
  }
  const onMessage = (connection: { send(answer: unknown): boolean }, request: Request) =>
    connection.send(request.trailer('X-T') ?? 'none')
  const server = serve({ onMessage } as never, { uploads: {} }, { readUploads })
  const type = 'multipart/form-data; boundary=x'
  server.receive(wire(`POST / HTTP/1.1¶Host: h¶Content-Type: ${type}¶Transfer-Encoding: chunked¶¶5¶--x--¶0¶X-T: v¶¶`))
  await until(() => server.messages.length === 1)
  assert.match(shown(server.written()), /¶¶v$/)
})

test('an upload that is refused is told to onError as any other fault of the client', async () => {
  for (const [code, status] of [
    ['ERR_BAD_MULTIPART', 400],
    ['ERR_FORM_TOO_LARGE', 413],
  ] as const) {
    const readUploads = () => Promise.reject(new ProtocolError(code, 'what is wrong', { statusHint: status }))
    const server = serve(undefined, { uploads: {} }, { readUploads })
    const type = 'multipart/form-data; boundary=x'
    server.receive(wire(`POST / HTTP/1.1¶Host: h¶Content-Type: ${type}¶Content-Length: 5¶¶--`))
    await until(() => server.errors.length > 0)
    assert.equal(
      server.errors.map((failure) => [failure.code, failure.message, codeOf(failure.error)]),
      [[3, 'what is wrong', code]],
    )
    assert.match(
      shown(server.written()),
      new RegExp(`^HTTP/1\\.1 ${status} .*¶¶${status} [A-Z][\\w ]+: what is wrong\n$`),
    )
    assert.equal(
      [server.worker.counters.protocolErrors, server.worker.counters.handlerErrors, server.socket.hasEnded],
      [1, 0, true],
    )
  }
})

test('an upload has all fields that its parser let through: the limit is that of `uploads`', async () => {
  const fields = Array.from({ length: 1500 }, (_, n) => [`f${n}[a]`, 'v'] as const)
  const readUploads = async () => ({ fields, files: [], dispose: async () => undefined })
  let count = 0
  const onMessage = (connection: { send(answer: unknown): boolean }, request: Request) => {
    count = Object.keys(request.post()).length
    connection.send('ok')
  }
  const server = serve({ onMessage } as never, { uploads: { maxFields: 5000 } }, { readUploads })
  server.receive(wire('POST / HTTP/1.1¶Host: h¶Content-Type: multipart/form-data; boundary=X¶Content-Length: 1¶¶x'))
  await until(() => shown(server.written()).includes('200 OK') || server.errors.length > 0)
  assert.equal([count, server.errors], [1500, []])
})

test('an upload keeps the trailers of its body', async () => {
  const readUploads = async () => ({ fields: [], files: [], dispose: async () => undefined })
  let trailer: string | undefined
  const onMessage = (connection: { send(answer: unknown): boolean }, request: Request) => {
    trailer = request.trailer('x-sum')
    connection.send('ok')
  }
  const server = serve({ onMessage } as never, { uploads: {} }, { readUploads })
  const type = 'Content-Type: multipart/form-data; boundary=X'
  server.receive(wire(`POST / HTTP/1.1¶Host: h¶${type}¶Transfer-Encoding: chunked¶¶1¶x¶0¶X-Sum: 1¶¶`))
  await until(() => shown(server.written()).includes('200 OK') || server.errors.length > 0)
  assert.is(trailer, '1')
})

test.run()
