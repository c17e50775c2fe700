// Web-standard applications on a socket in memory: what they see of a request, what becomes of their answers, and that
// nothing a client sends is a failure of the server.

import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { type FetchApp, fetchHandler } from '../../src/http/fetch-handler.ts'
import { serve, shown, wire } from '../support/http.ts'
import { nextTurn, until } from '../support/until.ts'

async function ask(app: FetchApp, text: string, trustProxy: readonly string[] = []): Promise<string> {
  const server = serve({ onMessage: fetchHandler(app) } as never, { body: 'stream', trustProxy })
  server.receive(wire(text))
  let answer = ''
  await until(() => {
    answer += shown(server.written())
    return isWhole(answer)
  })
  return answer
}

function isWhole(answer: string): boolean {
  const [head = '', body] = answer.split('¶¶')
  return body?.length === Number(/Content-Length: (\d+)/.exec(head)?.[1])
}

const url: FetchApp = ({ method, url }) => {
  const text = `${method} ${url}`
  return new Response(text, { headers: { 'Content-Length': String(text.length) } })
}

test('the URL is what the client asked for', async () => {
  for (const [text, expected] of [
    ['GET /a%20b?c=d HTTP/1.1¶Host: h:8080¶¶', 'GET http://h:8080/a%20b?c=d'],
    ['GET http://h/a HTTP/1.1¶Host: h¶¶', 'GET http://h/a'],
    ['GET //other/a HTTP/1.1¶Host: h¶¶', 'GET http://h//other/a'],
    ['GET http://H?b HTTP/1.1¶Host: h¶¶', 'GET http://h/?b'],
    ['GET http://h/a HTTP/1.0¶¶', 'GET http://h/a'],
    ['OPTIONS * HTTP/1.1¶Host: h¶¶', 'OPTIONS http://h/'],
    ['OPTIONS * HTTP/1.0¶¶', 'OPTIONS http://localhost/'],
    ['GET / HTTP/1.0¶¶', 'GET http://localhost/'],
    ['GET / HTTP/1.1¶Host: [::1]¶¶', 'GET http://[::1]/'],
    ['M-SEARCH /a HTTP/1.1¶Host: h¶¶', 'M-SEARCH http://h/a'],
  ] as const)
    assert.is((await ask(url, text)).split('¶').at(-1), expected, text)
})

test('HEAD, for which frameworks drop the body, is not told that there are no bytes', async () => {
  const app: FetchApp = ({ method }) => {
    const response = new Response('some', { headers: { 'Content-Type': 'text/plain' } })
    return method === 'HEAD' ? new Response(null, response) : response
  }
  const server = serve({ onMessage: fetchHandler(app) } as never, { body: 'stream' })
  server.receive(wire('HEAD / HTTP/1.1¶Host: h¶¶'))
  let answer = ''
  await until(() => {
    answer += shown(server.written())
    return answer.includes('¶¶')
  })
  assert.is(answer, 'HTTP/1.1 200 OK¶content-type: text/plain¶¶')
})

test('a host that no URL can have is the client’s fault', async () => {
  for (const host of ['256.256.256.256', '1.2.3.4.5', 'xn--', 'a%20b', 'a%00', '0x100000000'])
    assert.match(await ask(url, `GET / HTTP/1.1¶Host: ${host}¶¶`), /^HTTP\/1\.1 400 /, host)
})

test('a target with an origin of its own is at the one that a trusted proxy tells', async () => {
  const told = (target: string) =>
    ask(url, `GET ${target} HTTP/1.1¶Host: h¶X-Forwarded-Host: a¶X-Forwarded-Proto: https¶¶`, ['192.0.2.1'])
  for (const target of ['/x?y', 'http://h/x?y', 'https://h/x?y'])
    assert.match(await told(target), /GET https:\/\/a\/x\?y$/, target)
})

test('methods that the web’s Request refuses, or takes for others, are not implemented', async () => {
  const errors: unknown[] = []
  const onError = (_: unknown, _code: number, message: string) => void errors.push(message)
  for (const method of ['TRACK', 'get', 'Head', 'post', 'Options']) {
    const server = serve({ onMessage: fetchHandler(url), onError } as never, { body: 'stream' })
    server.receive(wire(`${method} / HTTP/1.1¶Host: h¶¶GET / HTTP/1.1¶Host: h¶¶`))
    let answer = ''
    await until(() => {
      answer += shown(server.written())
      return answer.endsWith('GET http://h/')
    })
    assert.equal(answer.match(/(?<=HTTP\/1\.1 )\d+/g), ['501', '200'], method)
  }
  assert.match(await ask(url, 'search / HTTP/1.1¶Host: h¶¶'), /search http:\/\/h\/$/)
  assert.equal(errors, [])
})

test('what a trusted proxy says of the host must be one', async () => {
  const forwarded = (host: string) =>
    ask(url, `GET / HTTP/1.1¶Host: h¶X-Forwarded-Host: ${host}¶X-Forwarded-Proto: https¶¶`, ['192.0.2.1'])
  assert.match(await forwarded('b, a.example:8443'), /GET https:\/\/a\.example:8443\/$/)
  for (const bad of ['a/b', 'user@a', 'a b', '', 'a:b']) assert.match(await forwarded(bad), /GET https:\/\/h\/$/, bad)
})

test('answers keep status, fields, cookies and streams', async () => {
  const app: FetchApp = () => {
    const headers = new Headers({ 'X-A': 'caf\u00e9', 'Content-Length': '5', 'Content-Type': 'text/plain' })
    headers.append('Set-Cookie', 'a=1')
    headers.append('Set-Cookie', 'b=2')
    return new Response('hello', { status: 201, statusText: 'Made', headers })
  }
  const answer = await ask(app, 'GET / HTTP/1.1¶Host: h¶¶')
  assert.match(answer, /^HTTP\/1\.1 201 Made¶/)
  assert.match(answer, /x-a: caf\u00e9¶.*set-cookie: a=1¶set-cookie: b=2¶.*Content-Length: 5¶¶hello$/)
})

test('what is no answer is a failure of the application', async () => {
  for (const app of [
    () => Response.error(),
    () => 'text',
    () => Promise.reject(new Error('no')),
  ] as never as FetchApp[])
    assert.match(await ask(app, 'GET / HTTP/1.1¶Host: h¶¶'), /^HTTP\/1\.1 500 /)
})

test('a signal is its request’s own: however many there were on a connection, only that of the one at work aborts', async () => {
  const warnings: string[] = []
  const warn = ({ name }: Error) => warnings.push(name)
  process.on('warning', warn)
  const aborted: string[] = []
  const app: FetchApp = ({ url, signal }) => {
    signal.addEventListener('abort', () => aborted.push(url))
    return url.endsWith('/last') ? new Promise(() => undefined) : new Response('ok')
  }
  const server = serve({ onMessage: fetchHandler(app) } as never, { body: 'stream' })
  let answers = 0
  for (let n = 0; n < 1600; n++) {
    server.receive(wire('GET /a HTTP/1.1¶Host: h¶¶'))
    await until(() => {
      if (shown(server.written()).includes('200 OK')) answers++
      return answers > n
    })
  }
  server.receive(wire('GET /last HTTP/1.1¶Host: h¶¶'))
  await until(() => server.messages.length === 1601)
  server.reset()
  await until(() => aborted.length > 0)
  process.off('warning', warn)
  assert.equal([aborted, warnings], [['http://h/last'], []])
})

test('a signal aborts though the application has kept nothing else of its request', async () => {
  setFlagsFromString('--expose-gc')
  const gc = runInNewContext('gc') as () => void
  const aborted: string[] = []
  const kept: AbortSignal[] = []
  const app: FetchApp = ({ signal }) => {
    kept.push(signal)
    signal.addEventListener('abort', () => aborted.push('aborted'))
    return new Promise(() => undefined)
  }
  const server = serve({ onMessage: fetchHandler(app) } as never, { body: 'stream' })
  server.receive(wire('GET / HTTP/1.1¶Host: h¶¶'))
  await until(() => kept.length > 0)
  for (let round = 0; round < 3; round++) {
    await nextTurn() // a WeakRef that was read holds until the end of its turn
    gc()
  }
  server.reset()
  await until(() => aborted.length > 0)
})

test('a Response whose body was used is no answer: 500', async () => {
  const app: FetchApp = async () => {
    const response = new Response('hello')
    await response.text()
    return response
  }
  const server = serve({ onMessage: fetchHandler(app) } as never, { body: 'stream' })
  server.receive(wire('GET / HTTP/1.1¶Host: h¶¶'))
  await until(() => server.errors.length > 0)
  assert.match(shown(server.written()), /^HTTP\/1\.1 500 /)
  assert.match(server.errors[0]?.message ?? '', /read already/)
})

test('a Response that says Connection: close closes, and one that nobody can take is cancelled', async () => {
  const closing = serve({
    onMessage: fetchHandler(() => new Response('ok', { headers: { connection: 'close' } })),
  } as never)
  closing.receive(wire('GET / HTTP/1.1¶Host: h¶¶'))
  await until(() => closing.connection.getStatus(false) === 'ENDING')
  assert.match(shown(closing.written()), /Connection: close¶/)
  let isCancelled = false
  let answer: (response: Response) => void = () => undefined
  const cancel = () => {
    isCancelled = true
  }
  const app: FetchApp = () =>
    new Promise((resolve) => {
      answer = resolve
    })
  const gone = serve({ onMessage: fetchHandler(app) } as never)
  gone.receive(wire('GET / HTTP/1.1¶Host: h¶¶'))
  gone.reset()
  answer(new Response(new ReadableStream({ cancel })))
  await until(() => isCancelled)
})

test('an application that looks at the beginning of a body only leaves no connection behind', async () => {
  const app: FetchApp = async ({ body }) => {
    await body?.getReader().read() // and lets go of nothing, as Hono's bodyLimit
    return new Response('only PNG', { status: 415 })
  }
  const server = serve({ onMessage: fetchHandler(app) } as never, { body: 'stream' })
  server.receive(wire('POST / HTTP/1.1¶Host: h¶Content-Length: 1000000¶¶'))
  await until(() => {
    if (server.socket.isReading) server.receive(Buffer.alloc(10_000))
    return !server.socket.isReading
  })
  await until(() => shown(server.written()).startsWith('HTTP/1.1 415 '))
  server.end()
  server.advance(31_000)
  await until(() => server.connection.getStatus(false) === 'CLOSED')
})

test.run()
