// Pipes at the turns of a connection's life: while TLS is negotiated, while a client waits to connect again, when it has
// closed. On real sockets, over every engine.

import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import net from 'node:net'
import tls from 'node:tls'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { tcp } from '../../protocols/tcp.ts'
import { text } from '../../protocols/text.ts'
import type { AnyConnection } from '../../src/connection.ts'
import { AsyncTcpConnection } from '../../src/index.ts'
import { nativeEngine } from '../../src/net/native-engine.ts'
import { nodeEngine } from '../../src/net/node-engine.ts'
import { registry } from '../../src/process/group.ts'
import { open } from '../../src/testing.ts'
import { Authority } from '../support/certificates.ts'
import { caseTest } from '../support/length.ts'
import { withServer } from '../support/tcp.ts'
import { nextTurn, until } from '../support/until.ts'

/** A connection as its peer at the other end sees it. */
interface Heard {
  readonly socket: net.Socket
  text: string
  hasEnded: boolean
}

function hear(socket: net.Socket): Heard {
  const heard: Heard = { socket, text: '', hasEnded: false }
  socket.on('error', () => socket.destroy())
  socket.on('data', (bytes) => {
    heard.text += bytes
  })
  socket.on('end', () => {
    heard.hasEnded = true
  })
  return heard
}

interface Upstream {
  readonly port: number
  readonly sockets: net.Socket[]
}

/** Runs `use` with a server of node:net, whose connections may be half-closed, and with clients on this engine. */
async function withUpstream(engine: string, use: (upstream: Upstream) => Promise<unknown>): Promise<void> {
  const { engine: before } = registry()
  registry().engine = engine
  const sockets: net.Socket[] = []
  const server = net.createServer({ allowHalfOpen: true }, (socket) => sockets.push(socket))
  await once(server.listen(0, '127.0.0.1'), 'listening')
  try {
    await use({ port: (server.address() as net.AddressInfo).port, sockets })
  } finally {
    registry().engine = before
    server.close()
    for (const socket of sockets) socket.destroy()
  }
}

async function turns(count: number): Promise<void> {
  for (let n = 0; n < count; n++) await nextTurn()
}

/** A client that was connected, has closed and waits, until `connect()`. */
async function waitingClient({ port, sockets }: Upstream): Promise<AsyncTcpConnection<'tcp://'>> {
  const client = new AsyncTcpConnection(`tcp://127.0.0.1:${port}` as 'tcp://')
  client.onClose = () => {
    client.onClose = null
    client.reconnect(3600)
  }
  client.connect()
  await until(() => sockets.length === 1)
  sockets[0]?.destroy()
  await until(() => client.getStatus(false) === 'CLOSED')
  return client
}

const engines = [nodeEngine, nativeEngine()].filter((one) => one !== null)
for (const engine of engines) {
  for (const isPipedFirst of [true, false])
    test(`${engine.name}: ${isPipedFirst ? 'startTls() of a piped connection' : 'a pipe into a connection under startTls()'} holds bytes and FIN back until hands are shaken`, async () => {
      const authority = new Authority()
      const { certFile, keyFile } = authority.issue('localhost')
      const secureContext = tls.createSecureContext({ cert: readFileSync(certFile), key: readFileSync(keyFile) })
      const failures: string[] = []
      const onConnect = (connection: AnyConnection, port: number) => {
        const to = new AsyncTcpConnection(`tcp://127.0.0.1:${port}`)
        const pipe = () => {
          connection.pipe(to)
          to.pipe(connection)
        }
        to.onError = (_to, code, message) => failures.push(`${code} ${message}`)
        to.onConnect = () => {
          if (isPipedFirst) pipe()
          to.startTls({ rejectUnauthorized: false }).catch(() => undefined)
          if (!isPipedFirst) pipe()
        }
        to.connect()
      }
      await withUpstream(engine.name, async ({ port, sockets }) => {
        const settings = { onConnect: (connection: AnyConnection) => onConnect(connection, port) }
        await withServer(engine, tcp, settings, async ({ connect, errors }) => {
          for (const size of [100_000, 0]) {
            const client = await connect({ allowHalfOpen: true })
            const socket = await until(() => sockets.shift())
            client.socket.end(Buffer.alloc(size, 'x'))
            await until(() => client.socket.writableFinished)
            await turns(10) // it would have been read by now
            const heard = hear(new tls.TLSSocket(socket, { isServer: true, secureContext }))
            await until(() => heard.hasEnded)
            assert.is(heard.text, 'x'.repeat(size))
            heard.socket.end('answer')
            await until(() => client.hasEnded)
            assert.is(client.received, 'answer')
            client.socket.destroy()
            socket.destroy()
          }
          assert.equal([failures, errors], [[], []])
        })
      })
      authority.remove()
    })

  test(`${engine.name}: a FIN that is passed to a client while it waits to connect again is sent then`, async () => {
    await withUpstream(engine.name, async (upstream) => {
      const client = await waitingClient(upstream)
      const onConnect = (connection: AnyConnection) => {
        connection.pipe(client)
        client.pipe(connection)
      }
      await withServer(engine, tcp, { onConnect }, async ({ connect, connections }) => {
        const asking = await connect({ allowHalfOpen: true })
        asking.socket.end('question')
        await until(() => connections[0]?.bytesRead === 8)
        await turns(10) // its FIN has been read by now
        client.connect()
        const heard = hear(await until(() => upstream.sockets[1]))
        await until(() => heard.hasEnded)
        assert.is(heard.text, 'question')
        heard.socket.end('answer')
        await until(() => asking.hasEnded)
        assert.is(asking.received, 'answer')
        await until(() => client.getStatus(false) === 'CLOSED')
      })
    })
  })

  test(`${engine.name}: a source that fills a client while that waits to connect again is held until then`, async () => {
    await withUpstream(engine.name, async (upstream) => {
      const client = await waitingClient(upstream)
      const events: string[] = []
      client.onBufferFull = () => void events.push(`full ${client.getStatus(false)}`)
      client.onBufferDrain = () => void events.push('drain')
      const onConnect = (connection: AnyConnection) => connection.pipe(client)
      await withServer(engine, tcp, { onConnect }, async ({ connect, connections, errors }) => {
        const producer = await connect()
        producer.socket.write(Buffer.alloc(3_000_000))
        await until(() => events.length === 1)
        await turns(10) // it would have been closed by now
        assert.is(connections[0]?.getStatus(false), 'ESTABLISHED')
        client.connect()
        const socket = await until(() => upstream.sockets[1])
        socket.resume()
        await until(() => socket.bytesRead === 3_000_000)
        await until(() => events.includes('drain'))
        assert.equal([events[0], errors], ['full CLOSED', []])
        client.destroy()
      })
    })
  })

  for (const status of ['INITIAL', 'CLOSED'] as const)
    test(`${engine.name}: a source that ends before its client has connected (${status}): what it gave is sent, then that closes`, async () => {
      await withUpstream(engine.name, async (upstream) => {
        const { port, sockets } = upstream
        const client =
          status === 'CLOSED' ? await waitingClient(upstream) : new AsyncTcpConnection(`tcp://127.0.0.1:${port}`)
        const onConnect = (connection: AnyConnection) => connection.pipe(client)
        await withServer(engine, tcp, { onConnect }, async ({ connect, connections, errors }) => {
          const producer = await connect()
          producer.socket.end('all of it')
          await until(() => connections[0]?.getStatus(false) === 'CLOSED')
          assert.is(client.getSendBufferQueueSize(), 9)
          const before = sockets.length
          client.connect()
          const heard = hear(await until(() => sockets[before]))
          await until(() => heard.hasEnded)
          await until(() => client.getStatus(false) === 'CLOSED')
          assert.equal([heard.text, errors], ['all of it', []])
        })
      })
    })

  test(`${engine.name}: what a source gave before it ended is reported if its client cannot connect`, async () => {
    await withUpstream(engine.name, async ({ port, sockets }) => {
      const client = new AsyncTcpConnection('tcp://example.org:80', { proxySocks5: `127.0.0.1:${port}` })
      const events: string[] = []
      client.onError = (_client, code) => void events.push(`error ${code}`)
      client.onClose = () => void events.push('close')
      client.connect()
      const onConnect = (connection: AnyConnection) => connection.pipe(client)
      await withServer(engine, tcp, { onConnect }, async ({ connect, connections }) => {
        const producer = await connect()
        producer.socket.end('all of it')
        await until(() => connections[0]?.getStatus(false) === 'CLOSED')
        assert.equal([client.getStatus(false), client.getSendBufferQueueSize()], ['CONNECTING', 9])
        const socket = await until(() => sockets[0])
        socket.destroy()
        await until(() => events.length === 3)
        assert.equal(events, ['error 1', 'close', 'error 2'])
      })
    })
  })

  test(`${engine.name}: a client that is piped into a full destination while it waits reads nothing until that has drained`, async () => {
    await withUpstream(engine.name, async (upstream) => {
      const client = await waitingClient(upstream)
      const { connection, ...full } = destination()
      client.pipe(connection)
      client.connect()
      const socket = await until(() => upstream.sockets[1])
      socket.write('kept')
      await turns(10) // it would have been read and refused by now
      full.drain()
      await until(() => full.written().includes('kept'))
      assert.equal(full.errors, [])
      client.destroy()
    })
  })

  test(`${engine.name}: pauseRecv() of a client that waits to connect again holds in its next life; that of its last one does not`, async () => {
    await withUpstream(engine.name, async (upstream) => {
      const messages: string[] = []
      const client = await waitingClient(upstream)
      client.onMessage = (_client, message) => void messages.push(String(message))
      client.pauseRecv()
      client.onClose = () => {
        client.onClose = null
        client.reconnect(0)
      }
      client.connect()
      const second = await until(() => upstream.sockets[1])
      second.write('second')
      await turns(10)
      assert.equal(messages, [])
      client.resumeRecv()
      await until(() => messages.length === 1)
      client.pauseRecv()
      client.destroy()
      const third = await until(() => upstream.sockets[2])
      third.write('third')
      await until(() => messages.length === 2)
      assert.equal(messages, ['second', 'third'])
      client.destroy()
    })
  })

  for (const isPipedBefore of [true, false])
    test(`${engine.name}: what onClose pipes with its client that connects again belongs to the next life${isPipedBefore ? ', although it was piped before' : ''}`, async () => {
      await withUpstream(engine.name, async (upstream) => {
        const onConnect = (connection: AnyConnection) => {
          const client = new AsyncTcpConnection(`tcp://127.0.0.1:${upstream.port}`)
          const pipe = () => {
            connection.pipe(client)
            client.pipe(connection)
          }
          client.onClose = () => {
            client.onClose = null
            client.reconnect(0)
            pipe()
          }
          if (isPipedBefore) pipe()
          client.connect()
        }
        await withServer(engine, tcp, { onConnect }, async ({ connect, connections }) => {
          const asking = await connect()
          const first = await until(() => upstream.sockets[0])
          first.resetAndDestroy()
          const heard = hear(await until(() => upstream.sockets[1]))
          asking.socket.write('question')
          await until(() => heard.text === 'question')
          heard.socket.end('answer')
          await until(() => asking.hasEnded)
          assert.is(asking.received, 'answer')
          asking.socket.destroy()
          await until(() => connections[0]?.getStatus(false) === 'CLOSED')
        })
      })
    })

  test(`${engine.name}: a client whose pipe ends with it still connects again, and the other end is closed`, async () => {
    await withUpstream(engine.name, async (upstream) => {
      const clients: AsyncTcpConnection<'tcp://'>[] = []
      const onConnect = (connection: AnyConnection) => {
        const client = new AsyncTcpConnection(`tcp://127.0.0.1:${upstream.port}` as 'tcp://')
        clients.push(client)
        client.onClose = () => {
          client.onClose = null
          client.reconnect(0)
        }
        connection.pipe(client)
        client.pipe(connection)
        client.connect()
      }
      await withServer(engine, tcp, { onConnect }, async ({ connect }) => {
        const asking = await connect()
        const first = await until(() => upstream.sockets[0])
        first.resetAndDestroy()
        await asking.closed()
        await until(() => upstream.sockets.length === 2)
        await until(() => clients[0]?.getStatus(false) === 'ESTABLISHED')
        clients[0]?.destroy()
      })
    })
  })
}

for (const how of ['cancelReconnect', 'close', 'destroy'] as const)
  caseTest(how === 'close')(
    `${how}() of a client that waits to connect again closes what was piped to it; its next life begins anew`,
    async () => {
      await withUpstream('node', async (upstream) => {
        const client = await waitingClient(upstream)
        const source = open(tcp)
        source.connection.pipe(client)
        client.pipe(source.connection)
        source.receive('question')
        source.end() // its FIN waits for the client, too
        assert.is(source.connection.getStatus(false), 'ESTABLISHED')
        client[how]()
        assert.is(source.connection.getStatus(false), 'CLOSED')
        client.connect()
        const heard = hear(await until(() => upstream.sockets[1]))
        client.send('next')
        await until(() => heard.text === 'next')
        assert.not(heard.hasEnded)
        client.destroy()
      })
    },
  )

/** A service under TLS that takes whatever it is sent, and its port. */
async function sinkUnderTls(authority: Authority): Promise<{ port: number; close(): void }> {
  const { certFile, keyFile } = authority.issue('localhost')
  const sockets = new Set<tls.TLSSocket>()
  const server = tls.createServer({ cert: readFileSync(certFile), key: readFileSync(keyFile) }, (socket) => {
    sockets.add(socket.on('error', () => socket.destroy()).resume())
  })
  await once(server.listen(0, '127.0.0.1'), 'listening')
  const close = () => {
    server.close()
    for (const socket of sockets) socket.destroy()
  }
  return { port: (server.address() as net.AddressInfo).port, close }
}

for (const engine of engines)
  caseTest(engine === engines[0])(
    `${engine.name}: a destination that its source fills again at once hears of the room before that`,
    async () => {
      const authority = new Authority()
      const sink = await sinkUnderTls(authority)
      const clients: AnyConnection[] = []
      const events: string[] = []
      const onConnect = (connection: AnyConnection) => {
        const address = `ssl://127.0.0.1:${sink.port}`
        const client = new AsyncTcpConnection(address, { protocol: text, maxSendBufferSize: 20_000 })
        client.ssl = { rejectUnauthorized: false }
        client.onError = (_client, _code, message) => void events.push(message)
        client.onBufferFull = () => void events.push('full')
        client.onBufferDrain = () => {
          events.push('drain')
          if (!client.send('there is room')) events.push('and none')
        }
        client.onConnect = () => connection.pipe(client)
        client.connect()
        clients.push(client)
      }
      try {
        await withServer(engine, text, { onConnect }, async ({ connect }) => {
          const { socket } = await connect()
          const lines = Buffer.from(`${'x'.repeat(3000)}\n`.repeat(500))
          const write = () => void socket.write(lines, () => socket.destroyed || write())
          write()
          await until(() => events.length >= 100)
          const turns = Array.from({ length: 50 }, () => ['full', 'drain'])
          assert.equal(events.slice(0, 100), turns.flat())
        })
      } finally {
        for (const client of clients) client.destroy()
        sink.close()
        authority.remove()
      }
    },
  )

/** The test's end of a connection that is full. */
function destination() {
  const wire = open(tcp, { maxSendBufferSize: 10 })
  wire.hold()
  while (wire.connection.send('0123456789'));
  const { connection, errors } = wire
  return { connection, errors, drain: () => wire.drain(), written: () => wire.written() }
}

test.run()
