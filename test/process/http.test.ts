// HTTP as a real server, asked by strangers: curl, undici, Node's fetch, raw sockets; and a Hono application on it.

import { execFile } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import net from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { promisify } from 'node:util'
import { request as ask, FormData, Pool } from 'undici'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { type BodyCase, bodies } from '../fixtures/http/bodies.ts'
import { acceptedHeads, type RefusedHead, refusedHeads } from '../fixtures/http/heads.ts'
import { wire } from '../support/http.ts'
import { inSandbox, type Sandbox, succeeded } from '../support/server.ts'
import { until, within } from '../support/until.ts'

const run = promisify(execFile)
const hono = new URL('../../../node_modules/hono/dist/index.js', import.meta.url).pathname

/** Everything of HTTP behind one port. */
const APP = `
  import { Chunk, FileSessionStore, http, Response, ServerSentEvents, Sessions, staticFiles, Timer, Worker } from 'millrace'
  import { copyFileSync } from 'node:fs'
  const { FOLDER } = process.env
  const files = staticFiles(FOLDER)
  const sessions = new Sessions({ store: new FileSessionStore(FOLDER + '/sessions') })
  const protocol = http({ compress: true, sessions, uploads: { directory: FOLDER + '/uploads' }, trustProxy: ['127.0.0.1'], accessLog: 'combined' })
  const web = new Worker('http://127.0.0.1:0', { name: 'web', count: 2, protocol })
  const routes = {
    '/': (connection) => connection.send('hello '.repeat(500)),
    '/who': (connection, { remoteIp, scheme, host }) => connection.send({ remoteIp, scheme, host }),
    '/echo': (connection, request) => connection.send({ method: request.method, get: request.get(), post: request.post(), cookies: { ...request.cookies } }),
    async '/visits'(connection, request) {
      const session = await request.session()
      session.set('visits', session.get('visits', 0) + 1)
      connection.send(String(session.get('visits')))
    },
    async '/upload'(connection, request) {
      const file = request.file('file')
      await file.move(FOLDER + '/moved')
      connection.send({ name: file.name, size: file.size, type: file.type, title: request.post('title'), left: request.file('other').size })
    },
    '/events'(connection) {
      connection.send(new Response(200, { 'Content-Type': 'text/event-stream' }))
      let n = 0
      const timer = Timer.add(0.01, () => {
        connection.send(n < 5 ? new ServerSentEvents({ id: n, data: 'event ' + n }) : new Chunk(''))
        if (n++ === 5) Timer.del(timer)
      })
    },
    '/throw': () => { throw new Error('thrown on purpose') },
    '/file': (connection) => connection.send(new Response().withFile(FOLDER + '/big.bin')),
    async '/slow'(connection) {
      await new Promise((resolve) => setTimeout(resolve, 90))
      connection.send('slow ' + process.pid)
    },
  }
  web.onMessage = async (connection, request) => {
    const route = routes[request.path]
    if (route) return route(connection, request)
    connection.send((await files(request)) ?? new Response(404, {}, 'not here'))
  }
  Worker.runAll()
`

async function serving(use: (box: Sandbox, url: string, folder: string, port: number) => Promise<void>): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'millrace-http-'))
  writeFileSync(join(folder, 'page.html'), '<p>page</p>')
  writeFileSync(join(folder, 'big.bin'), Buffer.alloc(3_000_000, 'x'))
  try {
    await inSandbox(async (box) => {
      box.env.FOLDER = folder
      const { groups } = await box.start(box.file('app.js', APP))
      const port = groups[0]?.port as number
      await use(box, `http://127.0.0.1:${port}`, folder, port)
      await box.stop()
    })
  } finally {
    rmSync(folder, { recursive: true })
  }
}

async function curl(...args: string[]): Promise<string> {
  return (await run('curl', ['-sS', '-g', '--max-time', '10', ...args], { maxBuffer: 10_000_000 })).stdout
}

test('curl: pages, forms, cookies, conditions, ranges, compression', async () => {
  await serving(async (box, url, folder) => {
    assert.match(await curl('-i', `${url}/`), /^HTTP\/1\.1 200 OK\r\n[\s\S]*hello hello/)
    assert.match(await curl('-i', '--compressed', `${url}/`), /Content-Encoding: (?:br|gzip)\r\n[\s\S]*hello hello/i)
    const echoed = JSON.parse(
      await curl('-b', 'c=1', '-d', 'a=1&b[]=2', `${url}/echo?foo=bar&key[0]=hello&key[1]=chance`),
    )
    assert.equal(echoed, {
      method: 'POST',
      get: { foo: 'bar', key: ['hello', 'chance'] },
      post: { a: '1', b: ['2'] },
      cookies: { c: '1' },
    })
    const json = await curl('-H', 'Content-Type: application/json', '-d', '{"foo":"bar"}', `${url}/echo`)
    assert.equal(JSON.parse(json).post, { foo: 'bar' })
    assert.match(await curl('-H', 'Content-Type: application/json', '-d', '{', '-i', `${url}/echo`), /^HTTP\/1\.1 400 /)
    const jar = join(folder, 'jar')
    for (const visits of ['1', '2', '3']) assert.is(await curl('-b', jar, '-c', jar, `${url}/visits`), visits)
    assert.is(await curl(`${url}/page.html`), '<p>page</p>')
    assert.match(
      await curl('-I', `${url}/page.html`),
      /^HTTP\/1\.1 200 OK\r\n[\s\S]*Content-Type: text\/html[\s\S]*Content-Length: 11\r\n/,
    )
    assert.is(await curl('-r', '3-6', `${url}/page.html`), 'page')
    assert.is(await curl('-o', '/dev/null', '-w', '%{http_code}', '--path-as-is', `${url}/../jar`), '404')
    assert.is((await curl(`${url}/file`)).length, 3_000_000)
    const etag = /ETag: (.+)\r/.exec(await curl('-I', `${url}/page.html`))?.[1] ?? ''
    assert.is(
      await curl('-o', '/dev/null', '-w', '%{http_code}', '-H', `If-None-Match: ${etag}`, `${url}/page.html`),
      '304',
    )
    assert.match(await curl('-i', `${url}/throw`), /^HTTP\/1\.1 500 /)
    assert.is(
      JSON.parse(await curl('-H', 'X-Forwarded-For: 6.6.6.6, 7.7.7.7', '-H', 'X-Forwarded-Proto: https', `${url}/who`))
        .remoteIp,
      '7.7.7.7',
    )
    await until(() => box.log().includes('thrown on purpose'))
    await until(() => /127\.0\.0\.1 - - \[.*\] "GET \/page\.html HTTP\/1\.1" 200 11 "-" "curl\//.test(box.log()))
  })
})

test('uploads go to files, bigger than a message may be; what is not moved is removed', async () => {
  await serving(async (_box, url, folder) => {
    const big = join(folder, 'upload.bin')
    writeFileSync(big, Buffer.alloc(20_000_000, 'y'))
    const args = [
      '-F',
      'title=A title',
      '-F',
      `file=@${big};filename=../../evil.png;type=image/png`,
      '-F',
      'other=@/etc/hostname',
    ]
    const answer = JSON.parse(await curl(...args, `${url}/upload`))
    assert.equal(
      { ...answer, left: answer.left > 0 },
      { name: 'evil.png', size: 20_000_000, type: 'image/png', title: 'A title', left: true },
    )
    assert.ok(readFileSync(join(folder, 'moved')).equals(readFileSync(big)))
    await until(() => readdirSync(join(folder, 'uploads')).length === 0)
    assert.match(
      await curl('-i', '-H', 'Content-Type: multipart/form-data', '-d', 'x', `${url}/upload`),
      /^HTTP\/1\.1 400 /,
    )
    const cut = await curl(
      '-i',
      '-H',
      'Content-Type: multipart/form-data; boundary=x',
      '-d',
      '--x\r\nContent-Disp',
      `${url}/upload`,
    )
    assert.match(cut, /^HTTP\/1\.1 400 /)
    const many = Array.from({ length: 120 }, (_, n) => ['-F', `f${n}=@/etc/hostname`]).flat()
    assert.match(await curl('-i', ...many, `${url}/upload`), /^HTTP\/1\.1 413 /)
    assert.equal(readdirSync(join(folder, 'uploads')), [])
  })
})

test('a client that goes in the middle of an upload leaves no file', async () => {
  await serving(async (_box, _url, folder, port) => {
    const socket = net.connect(port, '127.0.0.1')
    socket.write(
      'POST /upload HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\nContent-Type: multipart/form-data; boundary=x\r\n\r\n',
    )
    socket.write('--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nbytes')
    await until(() => readdirSync(folder).includes('uploads') && readdirSync(join(folder, 'uploads')).length === 1)
    socket.resetAndDestroy()
    await until(() => readdirSync(join(folder, 'uploads')).length === 0)
  })
})

test('undici and fetch: keep-alive, pipelining, streams, events', async () => {
  await serving(async (_box, url) => {
    const pool = new Pool(url, { connections: 4, pipelining: 10 })
    const answers = await Promise.all(
      Array.from({ length: 200 }, async (_, n) => {
        const { body } = await pool.request({ method: 'GET', path: `/echo?n=${n}` })
        return ((await body.json()) as { get: { n: string } }).get.n
      }),
    )
    assert.equal(
      answers,
      Array.from({ length: 200 }, (_, n) => String(n)),
    )
    await pool.close()
    const form = new FormData()
    form.set('title', 'fetched')
    form.set('file', new File(['abc'], 'a.txt', { type: 'text/plain' }))
    form.set('other', new File(['d'], 'b.txt'))
    const { body } = await ask(`${url}/upload`, { method: 'POST', body: form })
    assert.equal(await body.json(), { name: 'a.txt', size: 3, type: 'text/plain', title: 'fetched', left: 1 })
    const events = await (await fetch(`${url}/events`)).text()
    assert.is(events, [0, 1, 2, 3, 4].map((n) => `id: ${n}\ndata: event ${n}\n\n`).join(''))
    const gone = new AbortController()
    const long = await fetch(`${url}/file`, { signal: gone.signal })
    gone.abort()
    await long.text().catch(() => '') // the point is that the server takes it well
    assert.is((await fetch(`${url}/page.html`)).status, 200)
  })
})

test('a reload under keep-alive load loses no answer', async () => {
  await serving(async (box, url) => {
    const pool = new Pool(url, { connections: 8 })
    let isOver = false
    let count = 0
    const load = Array.from({ length: 8 }, async () => {
      while (!isOver) {
        const { statusCode, body } = await pool.request({ method: 'GET', path: '/slow' })
        await body.text()
        assert.is(statusCode, 200)
        count++
      }
    })
    for (let n = 0; n < 2; n++) succeeded(await box.command('reload'))
    isOver = true
    await Promise.all(load)
    await pool.close()
    assert.ok(count > 20, `only ${count} answers`)
  })
})

test('a raw client: pipelined in one packet, one byte at a time, and smuggling is refused', async () => {
  await serving(async (_box, _url, _folder, port) => {
    const say = async (text: string, isSlow = false): Promise<string> => {
      const socket = net.connect(port, '127.0.0.1').setNoDelay(true)
      await once(socket, 'connect')
      let answer = ''
      socket.on('data', (bytes) => {
        answer += bytes
      })
      socket.on('error', () => undefined)
      if (!isSlow) socket.write(text)
      else
        for (const byte of text) {
          socket.write(byte)
          await new Promise((resolve) => setImmediate(resolve))
        }
      await within(10_000, once(socket, 'close'))
      return answer
    }
    const last = 'GET /who HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n'
    const first = 'POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\na=1\r\n0\r\n\r\n'
    for (const isSlow of [false, true]) {
      const answer = await say(first + last, isSlow)
      assert.is(answer.match(/HTTP\/1\.1 200 OK/g)?.length, 2)
      assert.match(answer, /"post":\{"a":"1"\}/)
    }
    const smuggled =
      'POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n'
    const answer = await say(smuggled + last)
    assert.match(answer, /^HTTP\/1\.1 400 /)
    assert.is(answer.match(/HTTP\/1\.1/g)?.length, 1)
  })
})

test('every vector over a socket: what is right is answered, what is not is refused once, and nothing behind it is read', async () => {
  await inSandbox(async (box) => {
    const app = `
      import { Worker } from 'millrace'
      const worker = new Worker('http://127.0.0.1:0')
      worker.onMessage = (connection, request) => connection.send(request.method + ' ' + request.uri)
      Worker.runAll()`
    const { groups } = await box.start(box.file('app.js', app))
    const port = groups[0]?.port as number
    const smuggled = wire('GET /smuggled HTTP/1.1¶Host: h¶Connection: close¶¶')
    const said = async (text: string, isHalfClosed: boolean): Promise<string> => {
      const socket = net.connect({ port, host: '127.0.0.1', allowHalfOpen: true })
      const parts: Buffer[] = []
      socket.on('data', (part) => parts.push(part))
      socket.on('end', () => socket.end())
      socket.write(Buffer.concat([wire(text), smuggled]))
      if (isHalfClosed) socket.end()
      await within(10_000, once(socket, 'close'))
      return Buffer.concat(parts).toString('latin1')
    }
    const count = (answer: string) => answer.match(/HTTP\/1\.1 \d{3}/g)?.length
    const refused = [...refusedHeads, ...bodies.filter(({ status = 413 }) => status !== 413).map(asHead)]
    for (const isHalfClosed of [false, true])
      await allOf(refused, async ({ title, text, status }) => {
        const answer = await said(text, isHalfClosed)
        assert.match(answer, new RegExp(`^HTTP/1\\.1 ${status} `), title)
        assert.match(answer, /\r\nConnection: close\r\n/, title)
        assert.is(count(answer), 1, title)
      })
    await allOf(
      acceptedHeads.filter(({ isChunked, contentLength = 0 }) => isChunked !== true && contentLength === 0),
      async ({ title, text, isKeepAlive = !/ HTTP\/1\.0/.test(text) }) => {
        const answer = await said(text, false)
        assert.match(answer, /^HTTP\/1\.1 200 OK\r\n/, title)
        assert.is(count(answer), isKeepAlive ? 2 : 1, title)
      },
    )
    await box.stop()
  })
})

function asHead({ title, text, status = 0 }: BodyCase): RefusedHead {
  return { title, text: `POST / HTTP/1.1¶Host: h¶${text}`, status }
}

/** A few at a time: a backlog is short. */
async function allOf<T>(cases: readonly T[], use: (one: T) => Promise<void>): Promise<void> {
  const left = [...cases]
  const one = async () => {
    for (let next = left.shift(); next !== undefined; next = left.shift()) await use(next)
  }
  await Promise.all(Array.from({ length: 32 }, one))
}

test('a Hono application: routes, a streamed answer, an upload larger than memory would like', async () => {
  await inSandbox(async (box) => {
    const app = `
      import { fetchHandler, http, Worker } from 'millrace'
      import { Hono } from ${JSON.stringify(hono)}
      const app = new Hono()
      app.get('/hello/:name', (c) => c.json({ hello: c.req.param('name'), agent: c.req.header('user-agent') }, 201))
      app.get('/stream', (c) => c.body(new ReadableStream({
        async start(controller) {
          for (let n = 0; n < 5; n++) {
            controller.enqueue(new TextEncoder().encode('part ' + n + '\\n'))
            await new Promise((resolve) => setTimeout(resolve, 5))
          }
          controller.close()
        },
      })))
      app.post('/size', async (c) => {
        let size = 0
        for await (const bytes of c.req.raw.body) size += bytes.length
        c.header('Set-Cookie', 'a=1', { append: true })
        c.header('Set-Cookie', 'b=2', { append: true })
        return c.text(String(size))
      })
      app.get('/fail', () => { throw new Error('no') })
      const worker = new Worker('http://127.0.0.1:0', { protocol: http({ body: 'stream' }) })
      worker.onMessage = fetchHandler(app.fetch)
      Worker.runAll()`
    const { groups } = await box.start(box.file('app.js', app))
    const url = `http://127.0.0.1:${groups[0]?.port}`
    const hello = await fetch(`${url}/hello/world`, { headers: { 'user-agent': 'test' } })
    assert.equal([hello.status, await hello.json()], [201, { hello: 'world', agent: 'test' }])
    assert.is(await (await fetch(`${url}/stream`)).text(), 'part 0\npart 1\npart 2\npart 3\npart 4\n')
    async function* pieces() {
      for (let n = 0; n < 300; n++) yield Buffer.alloc(100_000)
    }
    const { body, headers } = await ask(`${url}/size`, { method: 'POST', body: Readable.from(pieces()) })
    assert.is(await body.text(), '30000000')
    assert.equal(headers['set-cookie'], ['a=1', 'b=2'])
    assert.is((await fetch(`${url}/none`)).status, 404)
    assert.is((await fetch(`${url}/fail`)).status, 500)
    await box.stop()
  })
})

test.run()
