// WebSockets as a real server, beside HTTP on one port: the ws package both ways, our own client over TLS, many connections
// and one broadcast, reloads; and a page in headless Chromium that does what pages do.

import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import type net from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { WebSocket as UndiciWebSocket } from 'undici'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import WebSocket, { WebSocketServer } from 'ws'
import { addon } from '../../src/addon.ts'
import { AsyncTcpConnection, CloseFrame, websocket } from '../../src/index.ts'
import { Authority } from '../support/certificates.ts'
import { longTest } from '../support/length.ts'
import { inSandbox, type Sandbox } from '../support/server.ts'
import { until, within } from '../support/until.ts'

const APP = `
  import { broadcast, CloseFrame, http, Response, ServerSentEvents, Chunk, websocket, Worker } from 'millrace'
  const protocol = http({ uploads: { directory: process.env.UPLOADS }, websocket: websocket({ compression: { threshold: 100 }, protocols: ['chat'] }) })
  const worker = new Worker('http://127.0.0.1:0', { name: 'site', protocol, drainTimeoutMs: 2000 })
  worker.onWebSocketConnect = (connection, request) => request.get('deny') === undefined
  worker.onWebSocketConnected = (connection, request) => {
    connection.context.room = request.get('room', 'none')
    connection.onMessage = (connection, message) => {
      if (message === 'room') return connection.send(connection.context.room)
      if (message === 'close') return connection.close(new CloseFrame(4000, 'as you wish'))
      if (message === 'all') return broadcast([...worker.connections.values()].filter(({ protocol }) => protocol.name === 'websocket'), 'to all')
      connection.send(message)
    }
  }
  const page = \`<!doctype html><title>page</title><script type=module>
    const out = {}
    try {
      out.fetched = await (await fetch('/json', { method: 'POST', body: new URLSearchParams({ a: '1' }) })).json()
      const form = new FormData()
      form.set('file', new File([new Uint8Array(300000)], 'blob.bin'))
      out.uploaded = await (await fetch('/upload', { method: 'POST', body: form })).json()
      out.events = await new Promise((done, fail) => {
        const source = new EventSource('/events')
        const got = []
        source.onmessage = ({ data }) => { if (got.push(data) === 3) { source.close(); done(got) } }
        source.onerror = fail
      })
      const socket = new WebSocket('ws://' + location.host + '/chat?room=9', ['chat'])
      socket.binaryType = 'arraybuffer'
      await new Promise((done, fail) => { socket.onopen = done; socket.onerror = fail })
      const ask = (message) => new Promise((done) => { socket.onmessage = ({ data }) => done(data); socket.send(message) })
      out.protocol = socket.protocol
      out.extensions = socket.extensions
      out.room = await ask('room')
      out.long = (await ask('\\u00e9'.repeat(5000))).length
      out.bytes = (await ask(new Uint8Array(70000))).byteLength
      const closed = new Promise((done) => { socket.onclose = ({ code, reason, wasClean }) => done({ code, reason, wasClean }) })
      socket.send('close')
      out.closed = await closed
    } catch (error) { out.error = String(error) }
    await fetch('/report', { method: 'POST', body: JSON.stringify(out) })
  </script>\`
  worker.onMessage = (connection, request) => {
    if (request.path === '/report') {
      Worker.log('report ' + request.text())
      return connection.send('')
    }
    if (request.path === '/json') return connection.send(request.post())
    if (request.path === '/upload') return connection.send({ size: request.file('file').size })
    if (request.path !== '/events') return connection.send(page)
    connection.send(new Response(200, { 'Content-Type': 'text/event-stream' }))
    for (const data of ['one', 'two', 'three']) connection.send(new ServerSentEvents({ data }))
  }
  Worker.runAll()
`

async function serving(use: (box: Sandbox, port: number) => Promise<void>): Promise<void> {
  const uploads = mkdtempSync(join(tmpdir(), 'millrace-ws-'))
  try {
    await inSandbox(async (box) => {
      box.env.UPLOADS = uploads
      const { groups } = await box.start(box.file('app.js', APP))
      await use(box, groups[0]?.port as number)
      await box.stop()
    })
  } finally {
    rmSync(uploads, { recursive: true })
  }
}

const HAS_TAKEOVER = addon().zlib !== null
/** What the server answers to browsers' offers, which let it choose the window of the client. */
const ANSWER = `permessage-deflate${HAS_TAKEOVER ? '; client_max_window_bits=12' : '; server_no_context_takeover; client_no_context_takeover'}`

async function connected(port: number, options: WebSocket.ClientOptions = {}, path = '/?room=7'): Promise<WebSocket> {
  const socket = new WebSocket(`ws://127.0.0.1:${port}${path}`, ['chat'], options)
  await within(10_000, once(socket, 'open'))
  return socket
}

async function ask(socket: WebSocket, message: string | Buffer): Promise<string | Buffer> {
  const answer = once(socket, 'message')
  socket.send(message)
  const [bytes, isBinary] = await within(10_000, answer)
  return isBinary ? bytes : String(bytes)
}

test('the ws package: text, bytes, fragments, compression, pings, close codes, refusals', async () => {
  await serving(async (_box, port) => {
    for (const perMessageDeflate of [false, true]) {
      const socket = await connected(port, { perMessageDeflate })
      assert.equal([socket.protocol, socket.extensions], ['chat', perMessageDeflate ? 'permessage-deflate' : ''])
      assert.is(await ask(socket, 'room'), '7')
      for (const message of [
        '',
        'h\u00e9',
        'x'.repeat(200),
        'y'.repeat(70_000),
        Buffer.alloc(0),
        Buffer.alloc(100_000, 7),
      ]) {
        const answer = await ask(socket, message)
        assert.ok(Buffer.from(answer as string).equals(Buffer.from(message as string)))
        assert.is(typeof answer, typeof message)
      }
      const whole = once(socket, 'message')
      for (const part of ['a', 'b'.repeat(1000), ''])
        socket.send(part, { fin: part === '', compress: perMessageDeflate })
      assert.is(String((await whole)[0]), `a${'b'.repeat(1000)}`)
      socket.ping('p')
      assert.is(String((await within(5000, once(socket, 'pong')))[0]), 'p')
      const closed = once(socket, 'close')
      socket.send('close')
      const [code, reason] = await within(5000, closed)
      assert.equal([code, String(reason)], [4000, 'as you wish'])
    }
    const denied = new WebSocket(`ws://127.0.0.1:${port}/?deny=1`)
    const [error] = await within(5000, once(denied, 'error'))
    assert.match(error.message, /403/)
    const bad = await connected(port)
    const failed = once(bad, 'close')
    ;(bad as unknown as { _socket: net.Socket })._socket.write(Buffer.from([0x81, 0x01, 0x78])) // unmasked
    assert.is((await within(5000, failed))[0], 1002)
    assert.is(
      await (
        await fetch(`http://127.0.0.1:${port}/json`, { method: 'POST', body: 'a=1', headers: { 'content-type': '' } })
      ).text(),
      '{"a":"1"}',
    )
  })
})

test("undici's WebSocket, which is Node's own: text, bytes, compression, close codes, a refusal", async () => {
  await serving(async (_box, port) => {
    const socket = new UndiciWebSocket(`ws://127.0.0.1:${port}/?room=5`, ['chat'])
    socket.binaryType = 'arraybuffer'
    await within(10_000, once(socket, 'open'))
    assert.equal([socket.protocol, socket.extensions], ['chat', ANSWER])
    const asked = async (message: string | Uint8Array) => {
      const answer = once(socket, 'message')
      socket.send(message)
      const [event] = await within(10_000, answer)
      return typeof event.data === 'string' ? event.data : Buffer.from(event.data)
    }
    assert.is(await asked('room'), '5')
    for (const text of ['', 'h\u00e9', '\u{1f600}'.repeat(20_000)]) assert.is(await asked(text), text)
    const bytes = Buffer.alloc(100_000, 'abc')
    assert.ok(bytes.equals((await asked(bytes)) as Buffer))
    const closed = once(socket, 'close')
    socket.send('close')
    const [{ code, reason, wasClean }] = await within(10_000, closed)
    assert.equal([code, reason, wasClean], [4000, 'as you wish', true])
    const denied = new UndiciWebSocket(`ws://127.0.0.1:${port}/?deny=1`)
    await within(10_000, once(denied, 'error'))
  })
})

/** Resembles the others. */
function quote(n: number): string {
  return JSON.stringify({ id: n, symbol: ['BTC-EUR', 'ETH-EUR'][n % 2], price: 1000 + ((n * 7919) % 500), side: 'buy' })
}

longTest(
  'the ws package, thousands of messages that look back on each other, or do not, whatever it asks for',
  async () => {
    await inSandbox(async (box) => {
      const app = `
      import { websocket, Worker } from 'millrace'
      const worker = new Worker('websocket://127.0.0.1:0', { protocol: websocket({ compression: { threshold: 0 } }) })
      worker.onMessage = (connection, message) => connection.send(message)
      Worker.runAll()`
      const { groups } = await box.start(box.file('app.js', app))
      const bytes: number[] = []
      for (const perMessageDeflate of [
        { serverNoContextTakeover: true, clientNoContextTakeover: true },
        {},
        { serverMaxWindowBits: 10, clientMaxWindowBits: 10 },
        { clientNoContextTakeover: true },
        { serverNoContextTakeover: true, clientMaxWindowBits: 9 },
      ]) {
        const socket = new WebSocket(`ws://127.0.0.1:${groups[0]?.port}/`, {
          perMessageDeflate: { ...perMessageDeflate, threshold: 0 },
        })
        await within(10_000, once(socket, 'open'))
        const got: string[] = []
        socket.on('message', (data) => got.push(String(data)))
        const sent = Array.from({ length: 2000 }, (_, n) => (n % 100 === 99 ? quote(n).repeat(500) : quote(n)))
        for (const message of sent) socket.send(message)
        await until(() => got.length === sent.length, 30_000)
        assert.equal(got, sent, socket.extensions)
        bytes.push((socket as unknown as { _socket: net.Socket })._socket.bytesRead)
        socket.terminate()
      }
      console.log(`2,000 echoes, in bytes from the server: ${bytes.join(', ')}`)
      const [alone = 0, back = 0] = bytes
      if (HAS_TAKEOVER) assert.ok(back < alone / 2, bytes.join(' '))
      await box.stop()
    })
  },
)

test('our client talks to the server of the ws package, and tells it why it goes', async () => {
  const server = new WebSocketServer({
    port: 0,
    perMessageDeflate: { clientMaxWindowBits: 9 }, // it refuses a client that offers no such thing
    handleProtocols: (offered) => [...offered].at(-1) as string,
  })
  await once(server, 'listening')
  const { port } = server.address() as net.AddressInfo
  let closed: [number, string] | null = null
  let path = ''
  server.on('connection', (socket, request) => {
    path = `${request.url} ${request.headers['x-token']} ${request.headers.host}`
    socket.on('message', (bytes, isBinary) => socket.send(bytes, { binary: isBinary }))
    socket.on('close', (code, reason) => {
      closed = [code, String(reason)]
    })
  })
  for (const compression of [false, { threshold: 0 }]) {
    const protocol = websocket({ compression, protocols: ['a', 'b'], headers: { 'X-Token': 't' } })
    const told: unknown[] = []
    const client = new AsyncTcpConnection(`ws://127.0.0.1:${port}/path?x=1`, {
      protocol,
      onWebSocketConnected: (_client, request, name) => told.push([request, name]),
    })
    client.onWebSocketClose = (_client, code, reason) => told.push([code, reason])
    const got: (string | Buffer)[] = []
    client.onMessage = (_client, message) => got.push(message)
    const quotes = Array.from({ length: 1000 }, (_, n) => quote(n))
    const sent = ['early', 'h\u00e9'.repeat(100), Buffer.alloc(70_000, 1), ...quotes]
    client.send(sent[0] as string)
    client.connect()
    for (const message of sent.slice(1)) client.send(message)
    await until(() => got.length === sent.length, 10_000)
    assert.equal(got, sent)
    if (compression && HAS_TAKEOVER) assert.ok(client.bytesRead < quotes.join('').length / 2, `${client.bytesRead}`)
    assert.is(path, `/path?x=1 t 127.0.0.1:${port}`)
    client.close(new CloseFrame(3456, 'enough'))
    await until(() => client.getStatus(false) === 'CLOSED' && closed !== null)
    assert.equal(closed, [3456, 'enough'])
    assert.is(client.closeCode, 3456)
    assert.equal(told, [
      [null, 'b'],
      [3456, 'enough'],
    ])
    closed = null
  }
  for (const socket of server.clients) socket.terminate()
  server.close()
})

test('wss: both ends are ours, under TLS', async () => {
  const authority = new Authority()
  const { certFile, keyFile } = authority.issue('localhost')
  await inSandbox(async (box) => {
    const app = `
      import { Worker } from 'millrace'
      const worker = new Worker('wss://127.0.0.1:0', { ssl: { certFile: ${JSON.stringify(certFile)}, keyFile: ${JSON.stringify(keyFile)} } })
      worker.onMessage = (connection, message) => connection.send(message + ' ' + connection.tls.version)
      Worker.runAll()`
    const { groups } = await box.start(box.file('app.js', app))
    const client = new AsyncTcpConnection(`wss://localhost:${groups[0]?.port}`, { ssl: { caFile: authority.caFile } })
    const answer = new Promise((resolve) => {
      client.onMessage = (_client, message) => resolve(message)
    })
    client.send('hi')
    client.connect()
    assert.is(await within(10_000, answer), 'hi TLSv1.3')
    client.close()
    await until(() => client.getStatus(false) === 'CLOSED')
    await box.stop()
  })
  authority.remove()
})

test('a broadcast reaches everybody; a reload says 1012, and everybody can come back', async () => {
  await serving(async (box, port) => {
    const sockets = await Promise.all(Array.from({ length: 300 }, () => connected(port, { perMessageDeflate: false })))
    const heard = sockets.map((socket) => once(socket, 'message'))
    sockets[0]?.send('all')
    for (const [bytes] of await within(10_000, Promise.all(heard))) assert.is(String(bytes), 'to all')
    const codes = sockets.map((socket) => once(socket, 'close'))
    await box.operate({ command: 'reload' })
    for (const [code] of await within(10_000, Promise.all(codes))) assert.is(code, 1012)
    const again = await connected(port)
    assert.is(await ask(again, 'room'), '7')
    again.terminate()
  })
})

longTest('a page in Chromium: fetch, an upload, EventSource, a WebSocket with compression', async () => {
  await serving(async (box, port) => {
    const profile = mkdtempSync(join(tmpdir(), 'millrace-chromium-'))
    const args = [
      '--headless=new',
      '--no-sandbox',
      '--disable-gpu',
      '--disable-dev-shm-usage',
      `--user-data-dir=${profile}`,
    ]
    const browser = box.spawn('chromium', [...args, '--remote-debugging-port=0', `http://127.0.0.1:${port}/`])
    const report = () => /report (\{.*\})/.exec(box.log())?.[1]
    await until(() => report() !== undefined, 60_000)
    browser.process.kill()
    await browser.ended
    assert.equal(JSON.parse(report() as string), {
      fetched: { a: '1' },
      uploaded: { size: 300_000 },
      events: ['one', 'two', 'three'],
      protocol: 'chat',
      extensions: ANSWER,
      room: '9',
      long: 5000,
      bytes: 70_000,
      closed: { code: 4000, reason: 'as you wish', wasClean: true },
    })
    rmSync(profile, { recursive: true, force: true, maxRetries: 20, retryDelay: 100 }) // its children write while they end
  })
})

test.run()
