// Connections that this process makes: before they are connected, through proxies, to their end, and again.

import { AsyncLocalStorage } from 'node:async_hooks'
import { type ChildProcess, spawn } from 'node:child_process'
import dgram from 'node:dgram'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import net from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import tls from 'node:tls'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { codeOf, ProtocolError } from '../../src/errors.ts'
import {
  type AnyConnection,
  AsyncTcpConnection,
  AsyncUdpConnection,
  frame,
  PreparedMessage,
  text,
  websocket,
} from '../../src/index.ts'
import { sendLogTo } from '../../src/log.ts'
import { deadlines } from '../../src/loop/deadlines.ts'
import { nativeEngine } from '../../src/net/native-engine.ts'
import { nodeEngine } from '../../src/net/node-engine.ts'
import { registry } from '../../src/process/group.ts'
import { open } from '../../src/testing.ts'
import { Authority } from '../support/certificates.ts'
import { deferred, scripted } from '../support/codecs.ts'
import { freePort } from '../support/server.ts'
import { withPath, withServer } from '../support/tcp.ts'
import { nextTurn, rejects, until, within } from '../support/until.ts'

/** What happens to a connection, in words and in order. */
function watched<C extends AnyConnection & { onConnect: unknown }>(connection: C): string[] {
  const events: string[] = []
  connection.onConnect = () => void events.push('connect')
  connection.onMessage = (_connection, message) => void events.push(`message ${message}`)
  connection.onError = (_connection, code, message) => void events.push(`error ${code} ${message}`)
  connection.onBufferFull = () => void events.push('full')
  connection.onBufferDrain = () => void events.push('drain')
  connection.onClose = () => void events.push('close')
  return events
}

interface RawServer {
  readonly port: number
  readonly sockets: net.Socket[]
  close(): void
}

/** A server of node:net whose every connection `talk` gets; on any port, or that one. */
async function serve(talk: (socket: net.Socket) => void, port = 0): Promise<RawServer> {
  const sockets: net.Socket[] = []
  const server = net.createServer((socket) => {
    sockets.push(socket)
    socket.on('error', () => socket.destroy())
    talk(socket)
  })
  server.listen(port, '127.0.0.1')
  await once(server, 'listening')
  const address = server.address() as net.AddressInfo
  const close = () => {
    server.close()
    for (const socket of sockets) socket.destroy()
  }
  return { port: address.port, sockets, close }
}

function echo(socket: net.Socket): void {
  socket.pipe(socket)
}

test('what is sent before it is connected is sent then, in order, before what onConnect sends', async () => {
  await withServer(nodeEngine, text, { onMessage: (c, line) => c.send(`got ${line}`) }, async ({ endpoint }) => {
    const client = new AsyncTcpConnection(`text://${endpoint}`)
    const events = watched(client)
    assert.is(client.getStatus(false), 'INITIAL')
    client.onConnect = (connection) => connection.send('three')
    assert.ok(client.send('one'))
    client.connect()
    client.connect() // it has begun
    assert.is(client.getStatus(false), 'CONNECTING')
    client.send('two\n', true)
    assert.is(client.getSendBufferQueueSize(), 8)
    await until(() => events.length === 3)
    assert.equal(events, ['message got one', 'message got two', 'message got three'])
    assert.is(client.getRemoteAddress(), endpoint)
    assert.is(client.getRemoteHost(), endpoint)
    client.close()
    assert.is(events.at(-1), 'close')
    assert.is(client.send('late'), false)
    assert.match(events.at(-1) ?? '', /^error 2 connection is closed/)
  })
})

test('http has no client, and null is no settings: told where the client is made', () => {
  for (const address of ['http://127.0.0.1:1', 'https://127.0.0.1:1'])
    assert.throws(
      () => new AsyncTcpConnection(address),
      (error: unknown) => codeOf(error) === 'ERR_NO_HTTP_CLIENT',
    )
  assert.throws(
    () => new AsyncTcpConnection('text://127.0.0.1:1', null as never),
    (error: unknown) => codeOf(error) === 'ERR_BAD_OPTION',
  )
  const own = new AsyncTcpConnection('http://127.0.0.1:1', { protocol: text })
  assert.is(own.protocol, text)
})

test('any protocol: framing, a codec, and one given as an object', async () => {
  await withServer(nodeEngine, frame, { onMessage: (c, bytes) => c.send(bytes) }, async ({ endpoint }) => {
    const client = new AsyncTcpConnection(`frame://${endpoint}`)
    const events = watched(client)
    client.send('framed')
    client.connect()
    await until(() => events.includes('message framed'))
    client.close()
  })
  const hello = scripted((io) => ({
    receive: (bytes) => void io.emit(bytes.toString()),
    send: (message) => io.write(`<${message}>`),
  }))
  const server = await serve(echo)
  const client = new AsyncTcpConnection(`tcp://127.0.0.1:${server.port}`, { protocol: hello })
  const events = watched(client)
  client.send('a')
  client.connect()
  await until(() => events.includes('message <a>'))
  client.destroy()
  server.close()
})

test('a Unix socket, and a name of which one address refuses', async () => {
  await withPath(async (path) => {
    const server = net.createServer(echo).listen(path)
    await once(server, 'listening')
    const client = new AsyncTcpConnection(`unix://${path}`)
    const events = watched(client)
    client.send('x')
    client.connect()
    await until(() => events.includes('message x'))
    assert.is(client.getRemoteHost(), path)
    client.destroy()
    server.close()
  })
  const server = await serve(echo)
  const client = new AsyncTcpConnection(`tcp://localhost:${server.port}`) // ::1 and 127.0.0.1
  const events = watched(client)
  client.send('x')
  client.connect()
  await until(() => events.includes('message x'))
  client.destroy()
  server.close()
})

test('what waits is bounded as the send buffer is: full, refused, drained', async () => {
  const server = await serve((socket) => void socket.resume())
  const client = new AsyncTcpConnection(`text://127.0.0.1:${server.port}`, { maxSendBufferSize: 100 })
  const events = watched(client)
  assert.is(client.send('x'.repeat(98)), true)
  assert.is(client.send('y'), false)
  assert.is(client.send('z'), false)
  assert.equal(events, ['full', 'error 2 send buffer full and drop package'])
  client.connect()
  await until(() => events.includes('drain'))
  await until(() => client.bytesWritten === 101)
  assert.is(events.filter((event) => event === 'full').length, 1)
  client.destroy()
  server.close()
})

test('what cannot be sent is thrown at once, of a codec too, and the others reach the peer', async () => {
  const server = await serve(echo)
  const odd = { name: 'odd', input: () => 1, decode: String, encode: (message: unknown) => message as string }
  for (const [client, message, isRaw] of [
    [new AsyncTcpConnection(`text://127.0.0.1:${server.port}`), {}, false],
    [new AsyncTcpConnection(`text://127.0.0.1:${server.port}`), {}, true],
    [new AsyncTcpConnection(`tcp://127.0.0.1:${server.port}`), {}, false],
    [new AsyncTcpConnection(`tcp://127.0.0.1:${server.port}`), ['a', 1], true],
    [new AsyncTcpConnection(`tcp://127.0.0.1:${server.port}`, { protocol: odd }), 1n, false],
    [new AsyncTcpConnection(`ws://127.0.0.1:${server.port}`), 1n, false],
  ] as [AsyncTcpConnection, unknown, boolean][]) {
    const send = isRaw ? () => client.send(message as never, true) : () => client.send(message as never)
    assert.throws(send, (error: unknown) => codeOf(error) === 'ERR_ENCODE')
    assert.is(client.getSendBufferQueueSize(), 0)
    if (client.protocol.name === 'websocket') continue
    const events = watched(client)
    client.send('x')
    client.connect()
    await until(() => events.includes('message x'))
    assert.equal(events, ['connect', 'message x'])
    client.destroy()
  }
  server.close()
})

test('what only the codec of a connection can refuse costs that message alone', async () => {
  const picky = scripted((io) => ({
    receive: (bytes) => void io.emit(bytes.toString()),
    send(message) {
      if (message === 'bad') throw new Error('not this one')
      return io.write(`<${message}>`)
    },
  }))
  const server = await serve(echo)
  const client = new AsyncTcpConnection(`tcp://127.0.0.1:${server.port}`, { protocol: picky })
  const events = watched(client)
  for (const message of ['a', 'bad', 'b']) client.send(message)
  client.connect()
  await until(() => events.includes('message <a><b>'))
  assert.equal(events, ['error 2 not this one', 'connect', 'message <a><b>'])
  client.destroy()
  server.close()
})

test('a callback for what waited ends the connection: onConnect does not follow its onClose', async () => {
  const picky = scripted((io) => ({
    receive: (bytes) => void io.emit(bytes.toString()),
    send: () => {
      throw new Error('nothing will do')
    },
  }))
  const server = await serve(echo)
  const client = new AsyncTcpConnection(`tcp://127.0.0.1:${server.port}`, { protocol: picky })
  const events = watched(client)
  client.onError = () => {
    events.push('error')
    client.destroy()
  }
  client.send('a')
  client.connect()
  await until(() => events.includes('close'))
  await nextTurn()
  assert.equal(events, ['error', 'close'])
  server.close()
})

test('under TLS close() does not reset, though nobody has read the tickets of the server', async () => {
  const authority = new Authority()
  const { certFile, keyFile } = authority.issue('localhost')
  const heard: string[] = []
  let admit: (() => void) | null = null
  const server = tls.createServer({ cert: readFileSync(certFile), key: readFileSync(keyFile) }, (socket) => {
    socket.on('error', ({ message }) => heard.push(message)).on('end', () => heard.push('end'))
    admit = () => void socket.setEncoding('utf8').on('data', (text) => heard.push(String(text)))
  })
  await once(server.listen(0, '127.0.0.1'), 'listening')
  const { port } = server.address() as net.AddressInfo
  const ssl = { rejectUnauthorized: false }
  const client = new AsyncTcpConnection(`text://127.0.0.1:${port}`, { transport: 'ssl', ssl })
  client.onConnect = () => {
    client.send('hello')
    client.close()
  }
  client.connect()
  try {
    await until(() => admit !== null && /ENDING|CLOSED/.test(String(client.getStatus(false))))
    await nextTurn() // a reset would have arrived
    ;(admit as unknown as () => void)()
    await until(() => heard.length > 1)
    assert.equal(heard, ['hello\n', 'end'])
    await until(() => client.getStatus(false) === 'CLOSED')
    assert.is(client.closeReason, 'closed')
  } finally {
    client.destroy()
    server.close()
    authority.remove()
  }
})

const LONG = 200_000

test('what waited is sent, although its codec makes more of it than fits; what callbacks send then has the limit', async () => {
  const wordy = scripted((io) => ({
    receive: (bytes) => void io.emit(bytes.toString()),
    send: (message) => io.write(`<${message}>`.padEnd(LONG)),
  }))
  const server = await serve(() => undefined) // reads later: the kernel does not take it all
  const client = new AsyncTcpConnection(`tcp://127.0.0.1:${server.port}`, { protocol: wordy, maxSendBufferSize: 1000 })
  const events = watched(client)
  client.onBufferFull = () => {
    events.push('full')
    client.send('too much')
  }
  client.onConnect = () => void events.push('connect')
  for (let n = 0; n < 90; n++) assert.ok(client.send('0123456789'))
  client.connect()
  await until(() => events.includes('connect'))
  const [socket] = await until(() => server.sockets.length > 0 && server.sockets)
  socket?.resume()
  await until(() => socket?.bytesRead === 90 * LONG)
  await until(() => events.includes('drain'))
  assert.equal(events, ['full', 'error 2 send buffer full and drop package', 'connect', 'drain'])
  client.destroy()
  server.close()
})

test('a message that is an object counts as what its protocol makes of it while it waits', () => {
  const client = new AsyncTcpConnection('ws://127.0.0.1:1', { maxSendBufferSize: 10_000 })
  const events = watched(client)
  assert.ok(client.send(new PreparedMessage('x'.repeat(6000))))
  assert.is(client.getSendBufferQueueSize(), 6000)
  assert.is(client.send({ long: 'x'.repeat(3989) }), false)
  assert.is(client.getSendBufferQueueSize(), 10_000)
  assert.equal(events, ['full'])
})

test('an object is sent as it was at its send: before connect(), while it connects, shakes hands and is open', async () => {
  const heard: unknown[] = []
  await withServer(
    nodeEngine,
    websocket(),
    { onMessage: (_c, line) => void heard.push(line) },
    async ({ endpoint }) => {
      const client = new AsyncTcpConnection(`ws://${endpoint}`)
      const state = { n: 0 }
      const sendNext = () => {
        state.n++
        client.send(state)
      }
      sendNext()
      sendNext()
      client.connect()
      sendNext()
      client.onConnect = sendNext
      client.onWebSocketConnected = sendNext
      await until(() => heard.length === 5)
      assert.equal(
        heard,
        [1, 2, 3, 4, 5].map((n) => JSON.stringify({ n })),
      )
      client.destroy()
    },
  )
})

test('options and arguments that are none are thrown at once', () => {
  const client = new AsyncTcpConnection('text://127.0.0.1:1')
  assert.throws(() => new AsyncTcpConnection('text://127.0.0.1:1', { nonsense: 1 } as never), /no option 'nonsense'/)
  assert.throws(() => new AsyncTcpConnection('text://127.0.0.1:0'), /a client needs a port/)
  for (const seconds of [-1, Number.NaN, Number.POSITIVE_INFINITY, null, '1'] as number[])
    assert.throws(
      () => client.reconnect(seconds),
      (error: unknown) => codeOf(error) === 'ERR_BAD_OPTION' && /seconds from 0 on/.test(String(error)),
    )
})

test('refused: onError says so, then onClose; the same object connects again when it is asked to', async () => {
  const port = await freePort()
  const client = new AsyncTcpConnection(`text://127.0.0.1:${port}`)
  const events = watched(client)
  client.connect()
  await until(() => events.includes('close'))
  assert.match(events[0] ?? '', /^error 1 connect 127\.0\.0\.1:\d+: ECONNREFUSED/)
  assert.is(client.getStatus(false), 'CLOSED')
  const { onClose } = client
  let failures = 1
  client.onClose = (connection) => {
    onClose?.(connection)
    failures++
    client.reconnect() // with a back-off
    client.send(`after ${failures}`)
  }
  client.connect()
  await until(() => failures >= 4)
  const server = await serve(echo, port)
  await until(() => events.includes('connect'))
  await until(() => events.filter((event) => event.startsWith('message after')).length > 0)
  server.sockets[0]?.destroy() // the peer goes: again, at once
  await until(() => events.filter((event) => event === 'connect').length === 2)
  client.onClose = null
  client.destroy()
  server.close()
})

test('options are checked where they stand, as those of a Worker', () => {
  for (const [key, value] of [
    ...[0, -1, Number.NaN, '1'].map((value) => ['maxInFlight', value]),
    ...[0, Number.NaN].map((value) => ['maxPackageSize', value]),
    ...[-1, Number.NaN].map((value) => ['maxSendBufferSize', value]),
    ['maxQueuedMessages', 0],
    ['idleTimeoutMs', -1],
    ['connectTimeoutMs', 'x'],
    ['transport', 'udp'],
    ['onMessage', 5],
    ['onWebSocketPing', 'x'],
    ...[null, [], 'x'].map((value) => ['ssl', value]),
    ['proxyHttp', 8080],
    ['proxyAuthorization', 'Basic x\r\nHost: other'],
  ] as [string, unknown][]) {
    const make = () => new AsyncTcpConnection('text://127.0.0.1:1', { [key]: value } as object)
    assert.throws(
      make,
      (error: unknown) => codeOf(error) === 'ERR_BAD_OPTION' && String(error).includes(`${key} of a client`),
    )
  }
  for (const [options, code] of [
    [{ maxDatagramsInFlight: 0 }, 'ERR_BAD_OPTION'],
    [{ onMessage: 5 }, 'ERR_BAD_OPTION'],
    [{ maxInFlight: 1 }, 'ERR_UNKNOWN_OPTION'],
  ] as const)
    assert.throws(
      () => new AsyncUdpConnection('udp://127.0.0.1:1', options as object),
      (error: unknown) => codeOf(error) === code,
    )
  new AsyncTcpConnection('text://127.0.0.1:1', { onMessage: null, ssl: {}, maxInFlight: undefined } as object)
})

test('a proxy is host:port: what else stands in http_proxy is refused at once, by name, and no password is told', async () => {
  for (const key of ['proxyHttp', 'proxySocks5'] as const) {
    for (const value of ['http://127.0.0.1:8080', 'user:secret@127.0.0.1:1', ':80']) {
      const wanted = `${key} of a client is wrong: it must be host:port,`
      const isWanted = (error: Error) =>
        codeOf(error) === 'ERR_BAD_OPTION' && error.message.startsWith(wanted) && !/secret/.test(error.message)
      assert.throws(() => new AsyncTcpConnection('text://example.org:80', { [key]: value }), isWanted)
      const late = new AsyncTcpConnection('text://example.org:80')
      const events = watched(late)
      late[key] = value
      late.connect()
      await until(() => events.includes('close'))
      assert.ok(events[0]?.startsWith(`error 1 ${wanted}`), events[0])
    }
    for (const value of ['', 'proxy', 'proxy:8080', '[::1]:8080'])
      new AsyncTcpConnection('text://example.org:80', { [key]: value })
  }
})

test('a proxyAuthorization of two lines that is set later does not reach the proxy', async () => {
  const proxy = await serve((socket) => void socket.end('HTTP/1.1 403 no\r\n\r\n'))
  const client = new AsyncTcpConnection('text://example.org:80', { proxyHttp: `127.0.0.1:${proxy.port}` })
  const events = watched(client)
  client.proxyAuthorization = 'Basic x\r\nHost: other'
  client.connect()
  await until(() => events.includes('close'))
  assert.match(events[0] ?? '', /^error 1 proxyAuthorization of a client is wrong: it must be a string of one line$/)
  assert.is(proxy.sockets.length, 0)
  proxy.close()
})

test('a reconnect in a month waits, in a year too; one at once that comes after it does not', async () => {
  const server = await serve(echo)
  const client = new AsyncTcpConnection(`text://127.0.0.1:${server.port}`)
  for (const days of [30, 365, 1e9]) client.reconnect(days * 86_400)
  const other = new AsyncTcpConnection(`text://127.0.0.1:${server.port}`)
  const events = watched(other)
  other.reconnect(0.01) // when this one is there, the other would have been, too
  await until(() => events.includes('connect'))
  assert.is(client.getStatus(false), 'INITIAL')
  client.reconnect(0)
  await until(() => client.getStatus(false) === 'ESTABLISHED')
  client.destroy()
  other.destroy()
  server.close()
})

/** Resolves when reconnects planned before this call, without a delay, have been begun. */
async function plansAreDue(port: number): Promise<void> {
  const other = new AsyncTcpConnection(`tcp://127.0.0.1:${port}`)
  other.reconnect(0)
  await until(() => other.getStatus(false) === 'ESTABLISHED')
  other.destroy()
}

test('a reconnect of a connection that is still open then does nothing: what is sent after its end is refused', async () => {
  const server = await serve(echo)
  const client = new AsyncTcpConnection(`text://127.0.0.1:${server.port}`)
  const events = watched(client)
  client.connect()
  await until(() => events.includes('connect'))
  client.reconnect(0)
  await plansAreDue(server.port)
  server.sockets[0]?.destroy()
  await until(() => events.includes('close'))
  assert.is(client.send('x'), false)
  assert.is(client.getSendBufferQueueSize(), 0)
  assert.equal(events, ['connect', 'close', 'error 2 connection is closed'])
  server.close()
})

test('a reconnect of a connection that is still closing then begins when it has closed, and so does connect', async () => {
  const server = await serve((socket) => socket.pause())
  for (const again of ['reconnect', 'connect'] as const) {
    const before = server.sockets.length
    const client = new AsyncTcpConnection(`tcp://127.0.0.1:${server.port}`, { maxSendBufferSize: 100_000_000 })
    const events = watched(client)
    client.connect()
    await until(() => events.includes('connect'))
    client.send(Buffer.alloc(20_000_000))
    client.close()
    assert.is(client.getStatus(false), 'CLOSING')
    client[again](...(again === 'connect' ? [] : [0]))
    await plansAreDue(server.port)
    assert.equal(events, ['connect'])
    server.sockets[before]?.resume()
    await until(() => events.includes('close'))
    assert.is(client.send('waits'), true)
    await until(() => events.length === 3)
    assert.equal(events, ['connect', 'close', 'connect'])
    server.sockets.at(-1)?.resume()
    await until(() => server.sockets.at(-1)?.bytesRead === 5)
    client.destroy()
  }
  server.close()
})

test('a codec that turns its connection away when it is opened leaves nothing that waits for the next', async () => {
  const server = await serve(echo)
  const shy = scripted((io) => {
    io.close()
    return {}
  })
  const client = new AsyncTcpConnection(`tcp://127.0.0.1:${server.port}`, { protocol: shy })
  const events = watched(client)
  client.send('lost')
  client.connect()
  await until(() => events.includes('close'))
  assert.is(client.send('x'), false)
  assert.is(client.getSendBufferQueueSize(), 0)
  server.close()
})

test('taking a reconnect back while it connects loses nothing that waits for that', async () => {
  const server = await serve(echo)
  const client = new AsyncTcpConnection(`text://127.0.0.1:${server.port}`)
  const events = watched(client)
  client.send('one')
  client.connect()
  client.reconnect(60)
  client.cancelReconnect()
  assert.ok(client.send('two'))
  await until(() => events.length === 3)
  assert.equal(events, ['connect', 'message one', 'message two'])
  client.destroy()
  server.close()
})

test('close before it is connected gives up without an error; a reconnect can be taken back', async () => {
  const silent = await serve(() => undefined)
  const client = new AsyncTcpConnection('text://example.org:80', { proxySocks5: `127.0.0.1:${silent.port}` })
  const events = watched(client)
  client.connect()
  await until(() => silent.sockets.length === 1)
  client.close()
  assert.equal(events, ['close'])
  silent.sockets[0]?.resume()
  await until(() => silent.sockets[0]?.closed)
  client.reconnect(0)
  client.send('waits')
  client.cancelReconnect()
  assert.is(client.send('x'), false)
  assert.is(client.getStatus(false), 'CLOSED')
  assert.is(silent.sockets.length, 1)
  silent.close()
})

test('connectTimeoutMs bounds all of it: the proxy, too', async () => {
  const silent = await serve(() => undefined)
  const client = new AsyncTcpConnection('text://example.org:80', {
    proxyHttp: `127.0.0.1:${silent.port}`,
    connectTimeoutMs: 50,
  })
  const events = watched(client)
  client.connect()
  await until(() => events.length === 2)
  assert.match(events[0] ?? '', /^error 1 connect example\.org:80: ETIMEDOUT/)
  assert.is(events[1], 'close')
  silent.close()
})

for (const [how, connectTimeoutMs] of [
  ['cannot be made', 0],
  ['times out', 50],
] as const)
  test(`who gives up an attempt that ${how} at this moment hears of no error after onClose`, async () => {
    const silent = await serve(() => undefined)
    // No route there: that is known at once, of all of them. Or the proxy says nothing, and all are late together.
    const proxySocks5 = connectTimeoutMs === 0 ? '' : `127.0.0.1:${silent.port}`
    const clients = [1, 2, 3].map(
      () => new AsyncTcpConnection('tcp://255.255.255.255:80', { proxySocks5, connectTimeoutMs }),
    )
    const heard = clients.map((client) => {
      const events: string[] = []
      client.onError = (_client, code) => {
        events.push(`error ${code}`)
        for (const other of clients) if (other !== client) other.destroy()
      }
      client.onClose = () => void events.push(`close ${client.closeReason}`)
      return events
    })
    for (const client of clients) client.connect()
    if (connectTimeoutMs > 0) {
      await until(() => silent.sockets.length === 3)
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 100) // all are due when the loop goes on
    }
    await until(() => clients.every((client) => client.getStatus(false) === 'CLOSED'))
    for (let n = 0; n < 10; n++) await nextTurn()
    assert.equal(heard.toSorted(), [['close closed'], ['close closed'], ['error 1', 'close error']])
    assert.equal(clients.map(({ closeReason }) => closeReason).toSorted(), ['closed', 'closed', 'error'])
    silent.close()
  })

test('a client whose protocol has upgraded begins its next connection with the first protocol, and so what waits for it', async () => {
  const greeting = scripted((io) => {
    io.write('HELLO\n')
    return {
      receive: (bytes) => io.upgrade(text, bytes.subarray(bytes.indexOf('\n') + 1)),
      send: (message) => io.write(`<${message}>`),
    }
  })
  let heard = ''
  const server = await serve((socket) => {
    socket.on('data', (bytes) => {
      heard += bytes
      if (heard === 'HELLO\n') socket.end('OK\nline\n')
    })
  })
  const client = new AsyncTcpConnection(`tcp://127.0.0.1:${server.port}`, { protocol: greeting })
  const events = watched(client)
  client.onClose = () => {
    client.onClose = null
    client.send('lost')
    client.reconnect(0)
    client.send('waits')
  }
  client.connect()
  await until(() => heard === 'HELLO\nHELLO\n<waits>')
  await until(() => events.length === 4)
  assert.equal(events, ['connect', 'message line', 'error 2 connection is closed', 'connect'])
  assert.is(client.protocol, greeting)
  client.destroy()
  server.close()
})

test('a client that is not connected knows its transport, and that startTls() comes too early', async () => {
  const port = await freePort()
  for (const [address, transport] of [
    [`tcp://127.0.0.1:${port}`, 'tcp'],
    [`ssl://127.0.0.1:${port}`, 'ssl'],
    ['unix:///nowhere/app.sock', 'unix'],
  ] as const) {
    const client = new AsyncTcpConnection(address as 'tcp://')
    const named = [client.toJSON().transport]
    const isTooEarly = (error: unknown) => codeOf(error) === 'ERR_NOT_CONNECTED'
    assert.throws(() => client.startTls(), isTooEarly)
    client.onError = () => void named.push(client.toJSON().transport)
    client.onClose = () => void named.push(client.toJSON().transport)
    client.connect()
    named.push(client.toJSON().transport)
    assert.throws(() => client.startTls(), isTooEarly)
    await until(() => named.length === 4)
    assert.equal(named, Array(4).fill(transport))
  }
})

test('a handler of the life before holds up nothing in the next', async () => {
  const server = await serve(echo)
  const client = new AsyncTcpConnection(`text://127.0.0.1:${server.port}`)
  const messages: string[] = []
  client.onMessage = (_connection, line) => {
    messages.push(line)
    return line === 'hangs' ? new Promise(() => undefined) : undefined
  }
  client.onClose = () => client.reconnect(0)
  client.send('hangs')
  client.connect()
  await until(() => messages.includes('hangs'))
  server.sockets[0]?.resetAndDestroy()
  await until(() => server.sockets.length === 2 && client.getStatus() === 2)
  client.send('goes on')
  await until(() => messages.includes('goes on'))
  client.onClose = null
  client.destroy()
  server.close()
})

test('what a callback of the life before has begun ends nothing in the next, and opens nothing', async () => {
  const server = await serve(echo)
  const client = new AsyncTcpConnection(`text://127.0.0.1:${server.port}`)
  const events = watched(client)
  const closing = deferred()
  const connecting = [deferred(), deferred()]
  let lives = 0
  client.onConnect = () => connecting[lives++]?.promise
  client.onClose = async () => {
    events.push('close')
    client.reconnect(0)
    await closing.promise
  }
  client.connect()
  await until(() => lives === 1)
  client.destroy()
  await until(() => lives === 2)
  events.length = 0
  connecting[0]?.resolve() // of a connection that is no more
  closing.reject(new Error('on purpose'))
  client.send('x')
  await until(() => server.sockets[1]?.bytesRead === 2)
  for (let n = 0; n < 10; n++) await nextTurn()
  assert.equal([events, client.getStatus(false)], [[], 'ESTABLISHED'])
  connecting[1]?.resolve()
  await until(() => events.length > 0)
  assert.equal(events, ['message x'])
  client.onClose = null
  client.destroy()
  server.close()
})

test('what is full while it waits to connect again is told to be drained then', async () => {
  const server = await serve((socket) => socket.resume())
  const client = new AsyncTcpConnection(`tcp://127.0.0.1:${server.port}`, { maxSendBufferSize: 100_000 })
  const events = watched(client)
  client.onClose = () => {
    client.onClose = null
    client.reconnect(0)
    for (let n = 0; n < 3; n++) client.send(Buffer.alloc(40_000))
  }
  client.connect()
  await until(() => server.sockets.length === 1)
  events.length = 0
  server.sockets[0]?.resetAndDestroy()
  await until(() => events.includes('drain'))
  assert.equal(
    events.filter((event) => event === 'full' || event === 'drain'),
    ['full', 'drain'],
  )
  client.destroy()
  server.close()
})

for (const engine of [nodeEngine, nativeEngine()].filter((one) => one !== null))
  test(`${engine.name}: who was full of messages that were given up is told to be drained when it connects`, async () => {
    const { engine: before } = registry()
    registry().engine = engine.name
    const server = await serve((socket) => socket.resume())
    for (const isGivenUpBy of ['destroy', 'cancelReconnect'] as const) {
      const client = new AsyncTcpConnection(`tcp://127.0.0.1:${server.port}`, { maxSendBufferSize: 1000 })
      const events = watched(client)
      if (isGivenUpBy === 'cancelReconnect') {
        client.connect()
        await until(() => events.includes('connect'))
        client.destroy()
        client.reconnect(3600)
        events.length = 0
      }
      assert.is(client.send(Buffer.alloc(2000)), false)
      client[isGivenUpBy]()
      assert.is(client.getSendBufferQueueSize(), 0)
      client.connect()
      await until(() => events.includes('drain'))
      assert.equal(events, ['full', 'connect', 'drain'])
      client.destroy()
    }
    server.close()
    registry().engine = before
  })

for (const engine of [nodeEngine, nativeEngine()].filter((one) => one !== null))
  test(`${engine.name}: no callback of a client sees the AsyncLocalStorage of the code that called connect()`, async () => {
    const { engine: before } = registry()
    registry().engine = engine.name
    const store = new AsyncLocalStorage<string>()
    const server = await serve(echo)
    const udp = dgram.createSocket('udp4', (bytes, { port }) => udp.send(bytes, port, '127.0.0.1'))
    await once(udp.bind(0, '127.0.0.1'), 'listening')
    const free = await freePort()
    const stream = new AsyncTcpConnection(`text://127.0.0.1:${server.port}`, { maxSendBufferSize: 1000 })
    const refused = new AsyncTcpConnection(`text://127.0.0.1:${free}`)
    const datagrams = new AsyncUdpConnection(`udp://127.0.0.1:${udp.address().port}`)
    const seen: string[] = []
    const note = (what: string) => () => void seen.push(`${what} ${store.getStore()}`)
    stream.onConnect = note('connect')
    stream.onMessage = note('message')
    stream.onBufferDrain = note('drain')
    refused.onError = note('error')
    datagrams.onConnect = note('udp connect')
    datagrams.onMessage = note('udp message')
    store.run('of the caller', () => {
      stream.send('x'.repeat(2000))
      for (const client of [stream, refused, datagrams]) client.connect()
      datagrams.send('x')
    })
    await until(() => seen.length === 6)
    const whats = ['connect', 'drain', 'error', 'message', 'udp connect', 'udp message']
    assert.equal(
      seen.toSorted(),
      whats.map((what) => `${what} undefined`),
    )
    stream.destroy()
    datagrams.close()
    udp.close()
    server.close()
    registry().engine = before
  })

for (const engine of ['node', 'native'])
  test(`${engine}: what a handler throws after its client has connected again is logged and counted, unless it obeyed`, async () => {
    const logged: string[] = []
    const gates = [deferred(), deferred(), deferred()]
    const server = await serve((socket) => void (server.sockets.length === 1 && socket.write('slow\nabort\nwrong\n')))
    const { engine: before } = registry()
    registry().engine = nativeEngine() === null ? 'node' : engine
    sendLogTo((line) => logged.push(line))
    const client = new AsyncTcpConnection(`text://127.0.0.1:${server.port}`, { maxInFlight: 3 })
    const events = watched(client)
    const handlers: Record<string, (signal: AbortSignal) => Promise<void>> = {
      slow: async () => {
        await gates[0]?.promise
        throw new Error('database down')
      },
      abort: async (signal) => {
        await gates[1]?.promise
        signal.throwIfAborted()
      },
      wrong: async () => {
        await gates[2]?.promise
        throw new ProtocolError('ERR_WRONG', 'the peer was wrong')
      },
    }
    client.onMessage = (connection, message) => {
      events.push(message)
      return handlers[message]?.(connection.signal)
    }
    client.onClose = () => client.reconnect(0)
    const { counters } = client.worker
    const { handlerErrors, protocolErrors } = counters
    try {
      client.connect()
      await until(() => events.includes('wrong'))
      server.sockets[0]?.resetAndDestroy()
      await until(() => server.sockets.length === 2 && client.getStatus(false) === 'ESTABLISHED')
      const { unsettled } = client.worker
      for (const gate of gates) gate.resolve()
      await until(() => client.worker.unsettled === unsettled - 3)
      assert.equal([counters.handlerErrors - handlerErrors, counters.protocolErrors - protocolErrors], [1, 1])
      assert.equal(
        logged.map((line) => /error (\d: .*)/.exec(line)?.[1]),
        ['4: Error: database down', '3: the peer was wrong'],
      )
      assert.equal(events, ['connect', 'slow', 'abort', 'wrong', 'connect'])
      assert.is(client.getStatus(false), 'ESTABLISHED')
    } finally {
      sendLogTo(null)
      registry().engine = before
      client.onClose = null
      client.destroy()
      server.close()
    }
  })

test('pauseRecv before it connects holds messages back until resumeRecv', async () => {
  const server = await serve((socket) => socket.write('early\n'))
  const client = new AsyncTcpConnection(`text://127.0.0.1:${server.port}`)
  const events = watched(client)
  client.pauseRecv()
  client.connect()
  client.send('x')
  await until(() => server.sockets[0]?.bytesRead === 2)
  for (let n = 0; n < 10; n++) await nextTurn()
  assert.equal(events, ['connect'])
  client.resumeRecv()
  await until(() => events.length === 2)
  assert.equal(events, ['connect', 'message early'])
  client.destroy()
  server.close()
})

test('TLS: a certificate that is trusted, one that is not, one of another name, and a peer that speaks none', async () => {
  const authority = new Authority()
  const { certFile, keyFile } = authority.issue('localhost')
  const server = tls.createServer({ cert: readFileSync(certFile), key: readFileSync(keyFile) }, (socket) => {
    socket.on('error', () => socket.destroy())
    socket.pipe(socket)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as net.AddressInfo
  const attempt = async (host: string, ssl: object) => {
    const client = new AsyncTcpConnection(`text://${host}:${port}`, { transport: 'ssl', ssl })
    const events = watched(client)
    client.send('x')
    client.connect()
    await until(() => events.includes('message x') || events.includes('close'))
    const outcome = events.includes('message x') ? `${client.tls?.version} ${client.tls?.isAuthorized}` : events[0]
    client.onClose = null
    client.destroy()
    return outcome ?? ''
  }
  assert.is(await attempt('localhost', { caFile: authority.caFile }), 'TLSv1.3 true')
  assert.match(await attempt('localhost', {}), /^error 1 handshake 127\.0\.0\.1: UNABLE_TO_VERIFY_LEAF_SIGNATURE/)
  assert.match(await attempt('127.0.0.1', { caFile: authority.caFile }), /^error 1 .*ERR_TLS_CERT_ALTNAME_INVALID/)
  assert.is(await attempt('127.0.0.1', { caFile: authority.caFile, servername: 'localhost' }), 'TLSv1.3 true')
  assert.is(await attempt('localhost', { rejectUnauthorized: false }), 'TLSv1.3 false')
  assert.match(
    await attempt('localhost', { verify_peer: true }),
    /^error 1 ssl has no option 'verify_peer': write reject/,
  )
  server.close()
  const plain = await serve((socket) => socket.end('220 hello\r\n'))
  const client = new AsyncTcpConnection(`ssl://127.0.0.1:${plain.port}`)
  const events = watched(client)
  client.connect()
  await until(() => events.includes('close'))
  assert.match(events[0] ?? '', /^error 1 handshake .*wrong version number/)
  plain.close()
  authority.remove()
})

// Proxies

/** The bytes of each side of a conversation with a proxy, one byte of an answer at a time. */
type Script = readonly (readonly [expects: string, answers: string])[]

function scriptedProxy(script: Script, said: string[]): Promise<RawServer> {
  return serve((socket) => {
    let step = 0
    let received = Buffer.alloc(0)
    socket.on('data', async (bytes) => {
      received = Buffer.concat([received, bytes])
      const [expects = '', answers = ''] = script[step] ?? []
      if (step >= script.length || received.toString('latin1').length < expects.length) return
      said.push(received.toString('latin1'))
      received = Buffer.alloc(0)
      step++
      for (const byte of Buffer.from(answers, 'latin1')) {
        socket.write(Buffer.of(byte))
        await new Promise(setImmediate)
      }
    })
  })
}

const CONNECTED = '\x05\0\0\x01\x7f\0\0\x01\x12\x34'

for (const [what, target, settings, script] of [
  [
    'SOCKS5 with a name',
    'text://example.org:80',
    {},
    [
      ['\x05\x01\0', '\x05\0'],
      ['\x05\x01\0\x03\x0bexample.org\0\x50', `${CONNECTED}first\n`],
    ],
  ],
  [
    'SOCKS5 with IPv4 and a password',
    'text://1.2.3.4:258',
    { proxySocks5Username: 'user', proxySocks5Password: 'secret' },
    [
      ['\x05\x02\0\x02', '\x05\x02'],
      ['\x01\x04user\x06secret', '\x01\0'],
      ['\x05\x01\0\x01\x01\x02\x03\x04\x01\x02', `\x05\0\0\x03\x04name\x12\x34first\n`],
    ],
  ],
  [
    'SOCKS5 with IPv6',
    'text://[2001:db8::1]:80',
    {},
    [
      ['\x05\x01\0', '\x05\0'],
      [
        '\x05\x01\0\x04\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\0\x50',
        `\x05\0\0\x04${'\0'.repeat(16)}\x12\x34first\n`,
      ],
    ],
  ],
] as const) {
  test(`${what}: byte by byte, and what the destination says at once is not lost`, async () => {
    const said: string[] = []
    const proxy = await scriptedProxy(script, said)
    const client = new AsyncTcpConnection(target, { proxySocks5: `127.0.0.1:${proxy.port}`, ...settings })
    const events = watched(client)
    client.connect()
    await until(() => events.includes('message first'))
    assert.equal(
      said,
      script.map(([expects]) => expects),
    )
    client.destroy()
    proxy.close()
  })
}

for (const [kind, hello, ask] of [
  ['proxyHttp', [], 'CONNECT xn--bcher-kva.example:443 HTTP/1.1\r\nHost: xn--bcher-kva.example:443\r\n\r\n'],
  ['proxySocks5', ['\x05\0'], '\x05\x01\0\x03\x15xn--bcher-kva.example\x01\xbb'],
] as const) {
  test(`${kind}: an internationalised name goes out in ASCII, to the proxy and in TLS, and fits its certificate`, async () => {
    const authority = new Authority()
    const { certFile, keyFile } = authority.issue('xn--bcher-kva.example')
    const names: unknown[] = []
    const side = { cert: readFileSync(certFile), key: readFileSync(keyFile) }
    const server = tls.createServer(side, (socket) => {
      names.push((socket as { servername?: unknown }).servername)
      socket.on('error', () => undefined).write('first\n')
    })
    await once(server.listen(0, '127.0.0.1'), 'listening')
    const { port } = server.address() as net.AddressInfo
    const asked: string[] = []
    const answers = [...hello]
    const proxy = await serve((socket) => {
      const hear = (bytes: Buffer) => {
        asked.push(bytes.toString('latin1'))
        const answer = answers.shift()
        if (answer !== undefined) return void socket.write(answer, 'latin1')
        socket.off('data', hear).write(kind === 'proxyHttp' ? 'HTTP/1.1 200 OK\r\n\r\n' : CONNECTED, 'latin1')
        const onward = net.connect(port, '127.0.0.1').on('error', () => socket.destroy())
        socket.on('close', () => onward.destroy())
        socket.pipe(onward).pipe(socket)
      }
      socket.on('data', hear)
    })
    const client = new AsyncTcpConnection('text://b\u00fccher.example:443', {
      transport: 'ssl',
      ssl: { caFile: authority.caFile },
      [kind]: `127.0.0.1:${proxy.port}`,
    })
    const events = watched(client)
    client.connect()
    try {
      await until(() => events.length >= 2)
      assert.equal(events, ['connect', 'message first'])
      assert.equal([asked.at(-1), names], [ask, ['xn--bcher-kva.example']])
    } finally {
      client.destroy()
      proxy.close()
      server.close()
      authority.remove()
    }
  })
}

test('HTTP CONNECT with the address of an interface: its zone is not told', async () => {
  const said: string[] = []
  const head = 'CONNECT [fe80::1]:80 HTTP/1.1\r\nHost: [fe80::1]:80\r\n\r\n'
  const proxy = await scriptedProxy([[head, 'HTTP/1.1 200 OK\r\n\r\nfirst\n']], said)
  const client = new AsyncTcpConnection('text://[fe80::1%eth0]:80', { proxyHttp: `127.0.0.1:${proxy.port}` })
  const events = watched(client)
  client.connect()
  await until(() => events.includes('message first'))
  assert.equal(said, [head])
  client.destroy()
  proxy.close()
})

test('HTTP CONNECT with authorization, an interim answer and headers', async () => {
  const said: string[] = []
  const head = 'CONNECT [::1]:8080 HTTP/1.1\r\nHost: [::1]:8080\r\nProxy-Authorization: Basic YTpi\r\n\r\n'
  const answer = 'HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 Connection established\r\nVia: x\r\n\r\nfirst\n'
  const proxy = await scriptedProxy([[head, answer]], said)
  const client = new AsyncTcpConnection('text://[::1]:8080', {
    proxyHttp: `127.0.0.1:${proxy.port}`,
    proxyAuthorization: 'Basic YTpi',
  })
  const events = watched(client)
  client.connect()
  await until(() => events.includes('message first'))
  assert.equal(said, [head])
  client.destroy()
  proxy.close()
})

for (const [what, kind, answers, says] of [
  ['SOCKS5 that refuses', 'proxySocks5', ['\x05\0', '\x05\x05\0\x01\0\0\0\0\0\0'], 'connection refused'],
  ['SOCKS5 that wants a password', 'proxySocks5', ['\x05\xff'], 'it wants another authentication'],
  ['SOCKS4', 'proxySocks5', ['\x04\0'], 'it does not speak SOCKS5'],
  ['HTTP that forbids', 'proxyHttp', ['HTTP/1.1 403 Forbidden\r\n\r\n'], '403 Forbidden'],
  ['something else', 'proxyHttp', ['SSH-2.0-x\r\n\r\n'], 'it does not speak HTTP/1.1'],
  ['an answer without end', 'proxyHttp', ['x'.repeat(20_000)], 'its answer has no end within 16384 bytes'],
  ['one that closes', 'proxyHttp', [null], 'it closed the connection'],
] as const) {
  test(`a proxy of ${what} is an error with the reason`, async () => {
    const left = [...answers]
    const proxy = await serve((socket) =>
      socket.on('data', () => {
        const answer = left.shift()
        if (answer === null) socket.end()
        else if (answer !== undefined) socket.write(answer, 'latin1')
      }),
    )
    const client = new AsyncTcpConnection('text://example.org:80', { [kind]: `127.0.0.1:${proxy.port}` })
    const events = watched(client)
    client.connect()
    await until(() => events.includes('close'))
    assert.equal(events, [`error 1 the proxy refused: ${says}`, 'close'])
    proxy.close()
  })
}

test('proxies that others have written: microsocks and tinyproxy', async () => {
  const server = await serve(echo)
  const folder = mkdtempSync(join(tmpdir(), 'mr-proxy-'))
  const [socksPort, httpPort] = [await freePort(), await freePort()]
  writeFileSync(
    join(folder, 'tinyproxy.conf'),
    `Port ${httpPort}\nListen 127.0.0.1\nAllow 127.0.0.1\nLogLevel Critical\n`,
  )
  const proxies: ChildProcess[] = [
    spawn('microsocks', ['-i', '127.0.0.1', '-p', String(socksPort), '-u', 'user', '-P', 'secret'], {
      stdio: 'ignore',
    }),
    spawn('tinyproxy', ['-d', '-c', join(folder, 'tinyproxy.conf')], { stdio: 'ignore' }),
  ]
  try {
    for (const settings of [
      { proxySocks5: `127.0.0.1:${socksPort}`, proxySocks5Username: 'user', proxySocks5Password: 'secret' },
      { proxyHttp: `127.0.0.1:${httpPort}` },
    ]) {
      const client = new AsyncTcpConnection(`text://localhost:${server.port}`, settings)
      const events = watched(client)
      client.onClose = () => client.reconnect(0.02) // it is just starting
      client.send('through')
      client.connect()
      await until(() => {
        if (client.getStatus() === 16) client.send('through')
        return events.includes('message through')
      })
      client.onClose = null
      client.destroy()
    }
  } finally {
    for (const proxy of proxies) proxy.kill('SIGKILL')
    rmSync(folder, { recursive: true, force: true })
    server.close()
  }
})

test('what waits over a failed attempt is still owed its drain: a producer that stops at false goes on', async () => {
  const port = await freePort()
  const client = new AsyncTcpConnection(`tcp://127.0.0.1:${port}`)
  const events = watched(client)
  client.onClose = () => {
    events.push('close')
    client.reconnect(0.02)
  }
  client.onBufferDrain = () => {
    events.push('drain')
    client.send('more')
  }
  assert.not(client.send(Buffer.alloc(1_100_000))) // over the limit, and the kernel takes it at once
  client.connect()
  await until(() => events.filter((event) => event === 'close').length > 1) // again, after another attempt
  let got = 0
  const server = await serve((socket) => {
    socket.on('data', (bytes) => (got += bytes.length))
  }, port)
  await until(() => got === 1_100_004)
  assert.equal(
    events.filter((event) => /full|drain/.test(event)),
    ['full', 'drain'],
  )
  client.onClose = null
  client.destroy()
  server.close()
})

// A proxy of our own

test('pipe both ways is a TCP proxy: nothing is lost behind a slow reader, and nobody hoards', async () => {
  const total = 64 * 1_048_576
  const chunk = Buffer.alloc(65_536, 'x')
  const source = await serve((socket) => {
    let left = total
    const pour = () => {
      while (left > 0) {
        left -= chunk.length
        if (!socket.write(chunk)) return void socket.once('drain', pour)
      }
      socket.end()
    }
    pour()
  })
  let most = 0
  const upstreams: AnyConnection[] = []
  const onConnect = (connection: AnyConnection) => {
    const upstream = new AsyncTcpConnection(`tcp://127.0.0.1:${source.port}`)
    upstreams.push(upstream)
    connection.pipe(upstream)
    upstream.pipe(connection)
    upstream.connect()
  }
  const { tcp } = await import('../../src/index.ts')
  await withServer(nodeEngine, tcp, { onConnect }, async ({ connect, connections }) => {
    const client = await connect()
    client.socket.pause()
    await until(() => (connections[0]?.getSendBufferQueueSize() ?? 0) >= 1_048_576)
    let received = 0
    client.chunks.length = 0
    client.socket.removeAllListeners('data')
    client.socket.on('data', (bytes) => {
      received += bytes.length
      most = Math.max(most, connections[0]?.getSendBufferQueueSize() ?? 0)
    })
    client.socket.resume()
    await until(() => received === total, 30_000)
    await client.closed()
    assert.ok(most < 2 * 1_048_576, `${most} bytes waited`)
    await until(() => upstreams[0]?.getStatus() === 16)
  })
  source.close()
})

for (const engine of [nodeEngine, nativeEngine()].filter((one) => one !== null)) {
  const whenServer = async (talk: (socket: net.Socket) => void, settings: object, end: RegExp) => {
    const { engine: before } = registry()
    registry().engine = engine.name
    const server = await serve(talk)
    const more = { maxSendBufferSize: 30_000_000, ...settings }
    const client = new AsyncTcpConnection(`text://127.0.0.1:${server.port}`, more)
    const events = watched(client)
    const handshakes: Promise<void>[] = []
    client.onMessage = async () => {
      for (let n = 0; n < 10; n++) await nextTurn() // a FIN has been read by now
      client.send('x'.repeat(20_000_000)) // more than the kernel takes: the handshake waits for it
      handshakes.push(client.startTls())
    }
    client.connect()
    await until(() => handshakes.length > 0)
    await rejects(within(5_000, handshakes[0] as Promise<void>), 'ERR_CONNECTION_CLOSED')
    assert.match(events.join(), end)
    client.destroy()
    server.close()
    registry().engine = before
  }

  test(`${engine.name}: startTls of a client has connectTimeoutMs for a handshake that the server does not begin`, async () => {
    const silent = (socket: net.Socket) => void socket.resume().write('go\n')
    const end = /^connect,error 3 TLS handshake: handshake 127\.0\.0\.1: ERR_TLS_HANDSHAKE_TIMEOUT [^,]*,close$/
    await whenServer(silent, { connectTimeoutMs: 100 }, end)
  })

  test(`${engine.name}: startTls of a client fails at once if the server has ended, before or after its first bytes`, async () => {
    const end = /^connect,error 3 TLS handshake: handshake 127\.0\.0\.1: [^,]*,close$/
    await whenServer((socket) => void socket.resume().end('go\n'), { connectTimeoutMs: 60_000 }, end)
    const halfSaid = (socket: net.Socket) => {
      socket.write('go\n')
      socket.once('readable', () => socket.end(Buffer.from([0x16, 0x03, 0x03]))) // of a ServerHello the beginning
      socket.once('finish', () => setImmediate(() => socket.resume())) // not before: it is read behind what we sent
    }
    await whenServer(halfSaid, { connectTimeoutMs: 60_000 }, end)
  })

  test(`${engine.name}: a client that is destroyed in the turn in which its startTls() times out costs the process nothing`, async () => {
    const { engine: before } = registry()
    registry().engine = engine.name
    const server = await serve((socket) => void socket.resume())
    const client = new AsyncTcpConnection(`text://127.0.0.1:${server.port}`)
    const events = watched(client)
    let handshake: Promise<void> | null = null
    client.onConnect = () => {
      client.connectTimeoutMs = 1000 // of the handshake alone
      handshake = client.startTls()
    }
    client.connect()
    await until(() => (server.sockets[0]?.bytesRead ?? 0) > 0) // hands are being shaken
    deadlines.after(1, () => client.destroy()) // of the same wheel as the time-out, which is due later: it comes second
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1000) // both are due when the loop goes on
    await rejects(within(5_000, handshake as unknown as Promise<void>), 'ERR_CONNECTION_CLOSED')
    for (let turn = 0; turn < 10; turn++) await nextTurn()
    assert.equal(events, ['close'])
    server.close()
    registry().engine = before
  })

  test(`of a proxy, ${engine.name}: the end of one side is passed on, and the other goes on to its own`, async () => {
    const { engine: before } = registry()
    registry().engine = engine.name
    const many = 3 * 1_048_576
    const heard: string[] = []
    const upstream = net.createServer({ allowHalfOpen: true }, (socket) => {
      let request = ''
      socket.on('data', (bytes) => {
        request += bytes
      })
      socket.on('end', () => {
        heard.push(request.length > 10 ? `${request.length} bytes` : request)
        if (!socket.writableEnded) socket.end(Buffer.alloc(many, 'a'))
      })
      if (heard.length > 0) socket.end('first') // the second one speaks before it listens
    })
    upstream.listen(0, '127.0.0.1')
    await once(upstream, 'listening')
    const { port } = upstream.address() as net.AddressInfo
    const upstreams: AnyConnection[] = []
    const onConnect = (connection: AnyConnection) => {
      const to = new AsyncTcpConnection(`tcp://127.0.0.1:${port}`)
      upstreams.push(to)
      connection.pipe(to)
      to.pipe(connection)
      to.connect()
    }
    const { tcp } = await import('../../src/index.ts')
    await withServer(engine, tcp, { onConnect }, async ({ connect, connections }) => {
      const asking = await connect({ allowHalfOpen: true })
      asking.socket.end('request') // before the upstream is connected
      await until(() => asking.hasEnded)
      assert.is(asking.received.length, many)
      const hearing = await connect({ allowHalfOpen: true })
      await until(() => hearing.hasEnded)
      assert.is(hearing.received, 'first')
      assert.not(connections[1]?.send('too late', true))
      hearing.socket.end(Buffer.alloc(many, 'q'))
      await until(() => heard.length === 2)
      assert.equal(heard, ['request', `${many} bytes`])
      await until(() => [...upstreams, ...connections].every((one) => one.getStatus() === 16))
    })
    registry().engine = before
    upstream.close()
  })
}

for (const isDialedFirst of [true, false])
  test(`of a proxy that ${isDialedFirst ? 'dials first and pipes' : 'looks something up, pipes and dials'}: a client that has gone by then leaves no upstream open`, async () => {
    const { tcp } = await import('../../src/index.ts')
    const silent = await serve(() => undefined)
    const upstreams: AsyncTcpConnection<'tcp://'>[] = []
    const onConnect = async (connection: AnyConnection) => {
      const upstream = new AsyncTcpConnection(`tcp://127.0.0.1:${silent.port}` as 'tcp://')
      if (isDialedFirst) {
        upstream.connect()
        await until(() => upstream.getStatus(false) === 'ESTABLISHED')
      }
      await until(() => connection.getStatus(false) === 'CLOSED')
      connection.pipe(upstream)
      upstream.pipe(connection)
      upstreams.push(upstream)
      if (!isDialedFirst) upstream.connect()
    }
    await withServer(nodeEngine, tcp, { onConnect }, async ({ connect }) => {
      const client = await connect()
      client.socket.resetAndDestroy()
      await until(() => silent.sockets.length === 1)
      await until(() => upstreams[0]?.getStatus(false) === 'CLOSED')
    })
    silent.close()
  })

test('what is piped into a client that waits for its reconnect waits with it', async () => {
  const port = await freePort()
  const upstream = new AsyncTcpConnection(`text://127.0.0.1:${port}`)
  upstream.onError = () => undefined
  upstream.onClose = () => upstream.reconnect(0.02)
  upstream.connect()
  await until(() => upstream.getStatus(false) === 'CLOSED')
  const source = open(text)
  source.connection.pipe(upstream)
  assert.is(source.connection.getStatus(false), 'ESTABLISHED')
  upstream.onClose = null
  upstream.destroy()
})

test('of a proxy: an upstream that refuses closes its client, a client that goes gives up the upstream', async () => {
  const { tcp } = await import('../../src/index.ts')
  const port = await freePort()
  const silent = await serve(() => undefined)
  const upstreams: AsyncTcpConnection<'tcp://'>[] = []
  const onConnect = (connection: AnyConnection) => {
    const settings = upstreams.length === 0 ? {} : { proxySocks5: `127.0.0.1:${silent.port}` }
    const upstream = new AsyncTcpConnection(`tcp://127.0.0.1:${port}` as 'tcp://', settings)
    upstream.onError = () => undefined
    upstreams.push(upstream)
    connection.pipe(upstream)
    upstream.pipe(connection)
    upstream.connect()
  }
  await withServer(nodeEngine, tcp, { onConnect }, async ({ connect }) => {
    const refused = await connect()
    await refused.closed()
    const client = await connect()
    await until(() => silent.sockets.length === 1)
    client.socket.resetAndDestroy() // a FIN might come from one who waits for an answer
    await until(() => upstreams[1]?.getStatus() === 16)
  })
  silent.close()
})

test('the answer of a server that refuses an upload, and closes, is heard', async () => {
  const server = net.createServer((socket) => {
    socket.on('error', () => undefined)
    socket.once('readable', () => socket.write('too large\n', () => socket.destroy())) // unread bytes: the peer is reset
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as net.AddressInfo
  const client = new AsyncTcpConnection(`text://127.0.0.1:${port}`, { maxSendBufferSize: 2 ** 26 })
  const heard: string[] = []
  client.onConnect = () => client.send('u'.repeat(20_000_000))
  client.onMessage = (_, message) => heard.push(message)
  client.onError = (_, code) => heard.push(`error ${code}`)
  client.connect()
  try {
    await until(() => client.getStatus(false) === 'CLOSED')
    assert.equal(heard, ['too large', 'error 2'])
  } finally {
    client.destroy()
    server.close()
  }
})

test.run()
