// Every options object of the public API refuses names that it does not know and values of a wrong type or range, by
// code and
// by name, and takes what is documented. Workers: worker.test.ts. Clients: net/async-tcp-connection.test.ts.

import {
  AsyncTcpConnection,
  AsyncUdpConnection,
  broadcast,
  CloseFrame,
  FileSessionStore,
  fetchHandler,
  http,
  lengthPrefixed,
  MemorySessionStore,
  Response,
  ServerSentEvents,
  Sessions,
  staticFiles,
  Timer,
  text,
  Worker,
  websocket,
} from 'millrace'
import { open } from 'millrace/testing'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { codeOf, messageOf } from '../src/errors.ts'

type Take = (options: never) => unknown

const store = new MemorySessionStore()
const secured: Take = (ssl) => new Worker('ssl://127.0.0.1:0', { ssl }).readTlsFiles()
const cookie: Take = (options) => new Response().cookie('a', 'b', options)

const refused: [what: string, take: Take, name: string, values: unknown[], code?: string][] = [
  ['http()', http, 'headrTimeoutMs', [1], 'ERR_UNKNOWN_OPTION'],
  ['http()', http, 'headerTimeoutMs', ['5', -1, Number.NaN, null]],
  ['http()', http, 'writeTimeoutMs', [-1, true]],
  ['http()', http, 'maxHeadBytes', [Number.NaN, 0, '16384']],
  ['http()', http, 'maxFields', [-1, Number.NaN]],
  ['http()', http, 'maxBodyBytes', [-1, '1mb']],
  ['http()', http, 'body', ['strem', null, true]],
  ['http()', http, 'accessLog', ['combied', true, {}]],
  ['http()', http, 'compress', ['no', 1, null, {}]],
  ['http()', http, 'trustProxy', ['10.0.0.0/8', [1], null, true]],
  ['http()', http, 'sessions', [true, {}, []]],
  ['http()', http, 'websocket', [true, 'x']],
  ['http()', http, 'websocket', [{}], 'ERR_BAD_PROTOCOL'],
  ['http()', http, 'uploads', [true, [], 'x']],
  ['websocket()', websocket, 'pingIntervallMs', [1], 'ERR_UNKNOWN_OPTION'],
  ['websocket()', websocket, 'pingIntervalMs', [-5, '5', Number.NaN]],
  ['websocket()', websocket, 'pongTimeoutMs', [-5, 0, '5']],
  ['websocket()', websocket, 'compression', ['yes', 1, null, []]],
  ['websocket()', websocket, 'protocols', ['chat', [1], null]],
  ['websocket()', websocket, 'origins', ['https://example.org', [null]]],
  ['websocket()', websocket, 'headers', ['x', { a: 1 }, null]],
  ...['maxFlies', 'directori'].map((name): (typeof refused)[0] => [
    'uploads',
    uploads,
    name,
    [1],
    'ERR_UNKNOWN_OPTION',
  ]),
  ['uploads', uploads, 'maxFiles', [-1, 1.5, '2', Number.NaN]],
  ['uploads', uploads, 'maxFileBytes', [-1, '2']],
  ['uploads', uploads, 'directory', [5, null]],
  ['compression', compression, 'treshold', [1], 'ERR_UNKNOWN_OPTION'],
  ['compression', compression, 'threshold', [-1, '1'], 'ERR_BAD_COMPRESSION'],
  ['compression', compression, 'level', ['1', 0, 2.5], 'ERR_BAD_COMPRESSION'],
  ['staticFiles()', files, 'idnex', ['a'], 'ERR_UNKNOWN_OPTION'],
  ['staticFiles()', files, 'index', [false, null]],
  ['staticFiles()', files, 'maxAge', ['60', -1, 1.5, Number.NaN, Number.POSITIVE_INFINITY]],
  ['staticFiles()', files, 'dotfiles', ['no', 1]],
  ['Sessions', sessions, 'cookieNmae', ['a'], 'ERR_UNKNOWN_OPTION'],
  ['Sessions', sessions, 'cookieName', ['a; b', '', 'a=b', 5]],
  ['Sessions', sessions, 'lifetime', ['60', 0, -1, Number.NaN, Number.POSITIVE_INFINITY]],
  ['Sessions', sessions, 'path', ['x', '/;x', 5]],
  ['Sessions', sessions, 'domain', ['', 'a;b', 5]],
  ['Sessions', sessions, 'sameSite', ['strict', true]],
  ['Sessions', sessions, 'secrets', ['secret', [''], [1]]],
  ['Sessions', sessions, 'store', [undefined, null, {}]],
  ['MemorySessionStore', memory, 'maxSessons', [1], 'ERR_UNKNOWN_OPTION'],
  ['MemorySessionStore', memory, 'maxSessions', [0, '5', Number.NaN]],
  ['proxyProtocol', proxied, 'timeotMs', [1], 'ERR_UNKNOWN_OPTION'],
  ['proxyProtocol', proxied, 'timeoutMs', ['5', -1, Number.NaN]],
  ['proxyProtocol', proxied, 'from', [[5]]],
  ['ssl', secured, 'cafile', ['/ca.pem'], 'ERR_UNKNOWN_OPTION'],
  ['ssl', secured, 'requestcert', [true], 'ERR_UNKNOWN_OPTION'],
  ...['verify_peer', 'local_cert', 'SNI_server_certs', 'verify_depth', 'capath'].map((name): (typeof refused)[0] => [
    'ssl',
    secured,
    name,
    [true],
    'ERR_UNKNOWN_OPTION',
  ]),
  ['ssl', secured, 'certFile', [5, true]],
  ['ssl', secured, 'handshakeTimeoutMs', [-1, '5']],
  ['ssl', secured, 'sni', ['x', { 'a.org': 'x' }]],
  ['cookie', cookie, 'httpOnyl', [true], 'ERR_UNKNOWN_OPTION'],
  ['cookie', cookie, 'httpOnly', ['no'], 'ERR_BAD_COOKIE'],
  ['cookie', cookie, 'sameSite', ['none', true], 'ERR_BAD_COOKIE'],
  ['cookie', cookie, 'maxAge', ['60', Number.NaN], 'ERR_BAD_COOKIE'],
  ['cookie', cookie, 'expires', ['tomorrow', new Date('x')], 'ERR_BAD_COOKIE'],
  ['lengthPrefixed()', prefixed, 'ofset', [1], 'ERR_UNKNOWN_OPTION'],
  ['lengthPrefixed()', prefixed, 'littleEndian', ['yes', 1], 'ERR_BAD_LENGTH_PREFIX'],
  ['broadcast()', sent, 'slowBytes', ['5', -1, Number.NaN]],
  ['open()', opened, 'maxPackagSize', [1], 'ERR_UNKNOWN_OPTION'],
  ['open()', opened, 'maxPackageSize', [0, '5']],
  ['open()', opened, 'onMessage', [5]],
]

function proxied(options: object): unknown {
  return new Worker('text://127.0.0.1:0', { proxyProtocol: { from: ['10.0.0.0/8'], ...options } }).describe()
}

function uploads(settings: never): unknown {
  return http({ uploads: settings })
}

function compression(settings: never): unknown {
  return websocket({ compression: settings })
}

function files(options: object): unknown {
  return staticFiles('.', options)
}

function sessions(options: object): unknown {
  return new Sessions({ store, ...options })
}

function memory(options: object): unknown {
  return new MemorySessionStore(options)
}

function prefixed(options: object): unknown {
  return lengthPrefixed({ bytes: 2, ...options })
}

function sent(options: object): unknown {
  return broadcast([], 'x', options)
}

function opened(settings: object): unknown {
  return open(text, settings as Record<string, never>)
}

test('names that are not known and values that cannot be are refused where they are written', () => {
  for (const [what, take, name, values, code = 'ERR_BAD_OPTION'] of refused)
    for (const value of values)
      assert.throws(
        () => take({ [name]: value } as never),
        (error: unknown) => codeOf(error) === code && String(error).includes(name),
        `${what} ${name}: ${String(value)}`,
      )
})

test('what is no object of options is refused', () => {
  for (const take of [http, websocket, uploads, files, memory, sent, opened] as Take[])
    for (const value of ['x', 5, true, ['a']])
      assert.throws(
        () => take(value as never),
        (error: unknown) => /^ERR_(?:BAD|UNKNOWN)_OPTION$/.test(codeOf(error)),
      )
  for (const path of ['', 5, undefined])
    assert.throws(
      () => new FileSessionStore(path as string),
      (error: unknown) => codeOf(error) === 'ERR_BAD_OPTION',
    )
  assert.throws(
    () => staticFiles(5 as never),
    (error: unknown) => codeOf(error) === 'ERR_BAD_OPTION',
  )
})

test('what is documented is taken: undefined is the default, 0 is off, and there is no end to some', () => {
  const times = ['headerTimeoutMs', 'bodyTimeoutMs', 'requestTimeoutMs', 'keepAliveTimeoutMs', 'writeTimeoutMs']
  for (const value of [undefined, 0, 1, Number.POSITIVE_INFINITY])
    http(Object.fromEntries([...times, 'answerTimeoutMs', 'maxBodyBytes'].map((name) => [name, value])))
  http({ uploads: null, sessions: null, websocket: null, accessLog: null, body: () => 'stream', trustProxy: [] })
  http({ uploads: {}, sessions: new Sessions({ store }), websocket: websocket(), accessLog: 'json', compress: true })
  for (const value of [undefined, true, false, {}]) websocket({ compression: value as boolean })
  websocket({ pingIntervalMs: 0, protocols: () => 'a', origins: ['https://example.org'], headers: { Origin: 'x' } })
  staticFiles('.', { index: '', maxAge: 0, immutable: undefined as never })
  new MemorySessionStore({ maxSessions: Number.POSITIVE_INFINITY })
  proxied({ timeoutMs: undefined })
  open(text, { maxInFlight: undefined as never, onTopic: null })
})

test('a cookie of sessions is one that browsers take: by its prefix it is Secure, and of one host', async () => {
  for (const options of [{ path: '/app' }, { domain: 'example.org' }])
    assert.throws(
      () => sessions({ cookieName: '__Host-sid', ...options }),
      (error: unknown) => codeOf(error) === 'ERR_BAD_OPTION' && String(error).includes('__Host-sid'),
    )
  for (const options of [{ cookieName: '__Host-sid' }, { cookieName: '__Secure-sid', path: '/app' }]) {
    const secure = new Sessions({ store, ...options })
    const session = await secure.load({})
    session.set('a', 1)
    assert.match(
      (await secure.commit(session, false)) ?? '',
      /; Secure; HttpOnly$/,
      'behind a proxy that ends TLS, too',
    )
  }
})

/** What a Worker is made of, as its errors have it. */
const TAKEN = `a Worker takes an address such as 'http://0.0.0.0:8080', settings, or both`

test('an error about text in the place of something else does not contradict itself', () => {
  const told = (take: () => unknown): string => {
    try {
      return `took ${String(take())}`
    } catch (error) {
      return messageOf(error)
    }
  }
  const worker = (options: object) => () => new Worker('text://127.0.0.1:0', options).describe()
  const measured = (length: unknown) => () => {
    const wire = open({ ...text, input: () => length as number })
    wire.receive('x')
    throw wire.errors[0]?.error
  }
  const all: [take: () => unknown, beginning: string][] = [
    [worker({ idleTimeoutMs: '1000' }), `idleTimeoutMs of worker 'none' is '1000': it must be a number`],
    [worker({ count: '4' }), `count of worker 'none' is '4': it must be a`],
    [worker({ count: 4n }), `count of worker 'none' is 4n: it must be a`],
    [worker({ reloadable: 'true' }), `reloadable of worker 'none' is 'true': it must be true or false`],
    [worker({ execArgv: ['a', 1, ['b']] }), `execArgv of worker 'none' is ['a', 1, [...]]: it must be a list`],
    [worker({ onMessage: 'f' }), `onMessage of worker 'none' is 'f': it must be a function`],
    [measured('4'), `input() of protocol 'text' answered '4'`],
    [measured(4n), `input() of protocol 'text' answered 4n`],
    [() => new Worker('a://b', '5' as never), `${TAKEN}, not '5'`],
    [() => new Worker('a://b', null as never), `${TAKEN}, not null`],
    [() => new Worker({ listen: 8080 } as never), `${TAKEN}, not 8080`],
    [() => new Worker(8080 as never), `${TAKEN}, not 8080`],
    [() => new AsyncUdpConnection('udp://127.0.0.1:1', null as never), 'what a client is set with is null: it must be'],
    [() => new AsyncTcpConnection('tcp://127.0.0.1:1', 5 as never), 'what a client is set with is 5: it must be'],
    [() => broadcast(5 as never, 'x'), 'what broadcast() goes to is 5: it must be connections'],
    [() => fetchHandler(undefined as never), 'the application of fetchHandler() is undefined: it must be a function'],
    [() => new ServerSentEvents({ data: 5 as never }), 'an event: data is 5: it must be text'],
    [() => new ServerSentEvents({ data: { a: 1 } as never }), 'an event: data is [object Object]: it must be text'],
    [() => new ServerSentEvents({ event: null as never }), 'an event: event is null: it must be text'],
    [() => new ServerSentEvents({ retry: NaN }), 'an event: retry is NaN: it must be a number'],
    [() => new ServerSentEvents('x' as never), `an event takes an object of options, not 'x'`],
    [() => new Response().setHeader(5 as never, 'x'), '5 is no header name'],
    [() => new Response().addHeader(5 as never, 'x'), '5 is no header name'],
    [
      () => new Response(200, 'text/plain' as never),
      `header fields are an object, pairs, a Map or Headers, not 'text/`,
    ],
    [() => new Response(200, null as never), 'header fields are an object, pairs, a Map or Headers, not null'],
    [() => new Response(200, ['x-a: b'] as never), `header fields in a list are pairs of name and value, not 'x-a: b'`],
    [() => new Response().withFile(null as never), 'a file is named by its path, not by null'],
    [() => new CloseFrame(1000, null as never), 'a close reason is text of at most 123 bytes'],
    [() => http('x' as never), `http() takes an object of options, not 'x'`],
    [() => new Response('404' as never), `'404' is no status of an answer`],
    [() => new Response().withFile('x', '1' as never), `the offset of a file is a number of bytes, not '1'`],
    [() => new CloseFrame('999' as never), `'999' is no close code`],
    [() => Timer.add('1' as never, () => undefined), `Timer needs seconds as a finite number of 0 or more, not '1'`],
  ]
  for (const [take, beginning] of all) assert.is(told(take).slice(0, beginning.length), beginning)
})

test('what is wrong with the TLS of a Worker names it, whatever it is', () => {
  for (const [ssl, code, cause] of [
    [{ certFile: '/nowhere.pem', keyFile: '/nowhere.pem' }, 'ERR_BAD_OPTION', 'ERR_TLS_FILE'],
    [{ sni: { 'a.org': { certFile: '/nowhere.pem' } } }, 'ERR_BAD_OPTION', 'ERR_TLS_FILE'],
    [{ certFile: 5 }, 'ERR_BAD_OPTION', 'ERR_TLS_OPTION'],
    [{}, 'ERR_BAD_OPTION', 'ERR_TLS_NO_CERTIFICATE'],
    [{ certfile: '/nowhere.pem' }, 'ERR_UNKNOWN_OPTION', 'ERR_UNKNOWN_OPTION'],
  ] as const)
    assert.throws(
      () => new Worker('ssl://127.0.0.1:0', { name: 'B', ssl: ssl as object }).readTlsFiles(),
      (error: Error) =>
        codeOf(error) === code && error.message.startsWith(`worker 'B': `) && codeOf(error.cause) === cause,
      JSON.stringify(ssl),
    )
})

test('header fields are taken as an object, as pairs, as a Map and as Headers, with all values of a name', () => {
  const pairs: [string, string][] = [
    ['X-A', '1'],
    ['Set-Cookie', 'a=1'],
    ['set-cookie', 'b=2'],
  ]
  const linesOf = ({ fields }: Response) => [...fields].map(([name, { values }]) => [name, values])
  const wanted = [
    ['x-a', ['1']],
    ['set-cookie', ['a=1', 'b=2']],
  ]
  const headers = new Headers()
  for (const [name, value] of pairs) headers.append(name, value)
  const byName = (one: unknown, other: unknown) => String(one).localeCompare(String(other))
  assert.equal(linesOf(new Response(200, { 'X-A': '1', 'Set-Cookie': ['a=1', 'b=2'] })), wanted)
  assert.equal(linesOf(new Response(200, pairs)), wanted)
  assert.equal(
    linesOf(new Response(200, new Map<string, string | string[]>([pairs[0], ['Set-Cookie', ['a=1', 'b=2']]] as never))),
    wanted,
  )
  assert.equal(linesOf(new Response(200, headers)).sort(byName), wanted.toSorted(byName))
  assert.equal(linesOf(new Response(200, { 'x-a': 'old' }).withHeaders(pairs)), wanted, 'each replaces what was there')
})

test('a secret is in no error', () => {
  assert.throws(
    () => sessions({ secrets: ['hush', ''] }),
    (error: unknown) => !String(error).includes('hush'),
  )
})

test("PHP's names for options of TLS are answered with Node's", () => {
  for (const [name, right] of [
    ['local_cert', 'write certFile'],
    ['local_pk', 'write keyFile'],
    ['verify_peer', 'write rejectUnauthorized, and requestCert on a server'],
    ['verify_depth', "no option of Node's has a '_' in its name"],
  ])
    assert.throws(
      () => secured({ [name as string]: 1 } as never),
      (error: unknown) => (error as Error).message.endsWith(`: ssl has no option '${name}': ${right}`),
    )
})

test.run()
