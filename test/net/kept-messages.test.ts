// Messages that a codec keeps while its handshake lasts, and what becomes of them when the connection goes on with
// another codec, or when the pipe they came through has ended by then. On real sockets, over every engine.

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
import { nothing } from '../../src/nothing.ts'
import { registry } from '../../src/process/group.ts'
import type { Codec, CodecIo, CodecProtocol } from '../../src/protocol.ts'
import type { Transport } from '../../src/transport.ts'
import { Authority } from '../support/certificates.ts'
import { scripted } from '../support/codecs.ts'
import { caseTest } from '../support/length.ts'
import { withServer } from '../support/tcp.ts'
import { nextTurn, until } from '../support/until.ts'

/** What a client's codec does with the bytes that follow the answer to its knock. */
type Admitted = (io: CodecIo<string>, rest: Buffer) => void

/** The client writes `word`, waits for a line, and keeps what is sent meanwhile. */
function knocking(word: string, admitted: Admitted, more: Partial<Codec<string>> = {}): CodecProtocol<string, string> {
  return {
    name: word,
    open(io: CodecIo<string>) {
      let isOpening = true
      io.write(`${word}\n`)
      const codec: Codec<string> = {
        get isOpening() {
          return isOpening
        },
        receive(bytes) {
          if (!isOpening) return void io.emit(String(bytes))
          isOpening = false
          admitted(io, bytes.subarray(bytes.indexOf('\n') + 1))
        },
        resumed: nothing,
        send: (message) => (isOpening ? io.keep(message, Buffer.byteLength(message)) : io.write(message)),
        drain: nothing,
        timeout: nothing,
        closed: nothing,
      }
      return Object.assign(codec, more)
    },
  }
}

const stays: Admitted = (io) => io.sendKept()
const upgrades: Admitted = (io, rest) => io.upgrade(text, rest)
const passesOnTo =
  (next: CodecProtocol<string, string>): Admitted =>
  (io, rest) =>
    io.upgrade(next, rest)

interface Door {
  readonly port: number
  /** What it has received. */
  heard: string
  hasEnded: boolean
  /** The end of the client that has knocked. */
  socket: net.Socket | null
}

/** Runs `use` with a server of node:net, whose connections may be half-closed, and with clients on this engine. */
async function withDoor(engine: Transport, use: (door: Door) => Promise<unknown>): Promise<void> {
  const { engine: before } = registry()
  registry().engine = engine.name
  const server = net.createServer({ allowHalfOpen: true }, (socket) => {
    door.socket = socket
    socket.on('error', () => socket.destroy())
    socket.on('data', (bytes) => {
      door.heard += bytes
    })
    socket.on('end', () => {
      door.hasEnded = true
    })
  })
  await once(server.listen(0, '127.0.0.1'), 'listening')
  const door: Door = { port: (server.address() as net.AddressInfo).port, heard: '', hasEnded: false, socket: null }
  try {
    await use(door)
  } finally {
    registry().engine = before
    door.socket?.destroy()
    server.close()
  }
}

async function turns(count: number): Promise<void> {
  for (let n = 0; n < count; n++) await nextTurn()
}

/** A client that has been given `one` before it has connected and `two` while it knocks. */
async function knockingClient(door: Door, protocol: CodecProtocol<string, string>) {
  const client = new AsyncTcpConnection(`tcp://127.0.0.1:${door.port}`, { protocol })
  assert.is(client.send('one'), true)
  client.connect()
  await until(() => door.heard !== '')
  assert.is(client.send('two'), true)
  return client
}

/** A server that pipes each of its connections to such a client and back. */
async function withProxy(
  engine: Transport,
  door: Door,
  protocol: CodecProtocol<string, string>,
  use: (socket: net.Socket) => Promise<unknown>,
): Promise<void> {
  const failures: string[] = []
  const onConnect = (connection: AnyConnection) => {
    const to = new AsyncTcpConnection(`tcp://127.0.0.1:${door.port}`, { protocol })
    to.onError = (_to, code, message) => failures.push(`${code} ${message}`)
    connection.pipe(to)
    to.pipe(connection)
    to.connect()
  }
  await withServer(engine, tcp, { onConnect }, async ({ connect, errors }) => {
    const { socket } = await connect({ allowHalfOpen: true })
    await use(socket)
    assert.equal([failures, errors], [[], []])
  })
}

/** As `tcp`, for a codec's `upgrade`. */
const raw = scripted((io) => ({ receive: (bytes) => void io.emit(bytes as never) }))

for (const engine of [nodeEngine, nativeEngine()].filter((one) => one !== null)) {
  const everyDay = caseTest(true)
  const further = caseTest(engine === nodeEngine)

  everyDay(`${engine.name}: what was kept during a handshake that ends in an upgrade is sent by the next codec`, () =>
    withDoor(engine, async (door) => {
      const client = await knockingClient(door, knocking('knock', upgrades))
      door.socket?.write('enter\n')
      await until(() => client.protocol === text)
      assert.is(client.send('three'), true)
      await until(() => door.heard.includes('three'))
      assert.is(door.heard, 'knock\none\ntwo\nthree\n')
      assert.equal([client.getSendBufferQueueSize(), client.bufferIsEmpty()], [0, true])
      client.destroy()
    }),
  )

  further(`${engine.name}: close() during a handshake closes when the next codec has sent what was kept`, () =>
    withDoor(engine, async (door) => {
      const client = await knockingClient(door, knocking('knock', upgrades, { closing: () => true }))
      client.close('three')
      door.socket?.write('enter\n')
      await until(() => door.hasEnded)
      await until(() => client.getStatus(false) === 'CLOSED')
      assert.equal([door.heard, client.closeReason], ['knock\none\ntwo\nthree\n', 'closed'])
    }),
  )

  further(`${engine.name}: a next codec that has a handshake, too, keeps it on`, () =>
    withDoor(engine, async (door) => {
      const client = await knockingClient(door, knocking('knock', passesOnTo(knocking('again', stays))))
      door.socket?.write('enter\n')
      await until(() => door.heard.endsWith('again\n'))
      assert.is(client.getSendBufferQueueSize(), 6)
      client.send('three')
      door.socket?.write('enter\n')
      await until(() => door.heard.includes('three'))
      assert.is(door.heard, 'knock\nagain\nonetwothree')
      client.destroy()
    }),
  )

  further(`${engine.name}: what was kept until TLS is there is sent when hands are shaken`, () =>
    withDoor(engine, async (door) => {
      const authority = new Authority()
      const { certFile, keyFile } = authority.issue('localhost')
      const secureContext = tls.createSecureContext({ cert: readFileSync(certFile), key: readFileSync(keyFile) })
      const plain = knocking('STARTTLS', (io) => io.emit('ready'))
      const protocol: CodecProtocol<string, string> = {
        name: 'encrypted',
        open: (io, role) => (io.peer.isEncrypted ? raw : plain).open(io, role),
      }
      const client = await knockingClient(door, protocol)
      client.onMessage = () => client.startTls({ rejectUnauthorized: false })
      const socket = door.socket as net.Socket
      socket.removeAllListeners('data')
      const secured = new tls.TLSSocket(socket, { isServer: true, secureContext })
      let heard = ''
      secured.on('data', (bytes) => {
        heard += bytes
      })
      socket.write('enter\n')
      await until(() => heard === 'onetwo')
      client.destroy()
      secured.destroy()
      authority.remove()
    }),
  )

  further(`${engine.name}: a pipe that was full of it goes on`, () =>
    withDoor(engine, async (door) => {
      await withProxy(engine, door, knocking('knock', passesOnTo(raw)), async (socket) => {
        socket.end(Buffer.alloc(3_000_000, 'x'))
        await until(() => door.heard === 'knock\n')
        await turns(10) // the buffer is full by now
        door.socket?.write('enter\n')
        await until(() => door.hasEnded)
        assert.is(door.heard.length, 6 + 3_000_000)
      })
    }),
  )

  for (const [how, admitted, last] of [
    ['that sends it', stays, 'question'],
    ['that upgrades', upgrades, 'question\n'],
  ] as const)
    everyDay(`${engine.name}: the end of a pipe waits for a handshake ${how}, and for what it kept`, () =>
      withDoor(engine, async (door) => {
        await withProxy(engine, door, knocking('knock', admitted), async (socket) => {
          socket.end('question') // its FIN is there long before the answer to the knock
          await until(() => door.heard === 'knock\n')
          await turns(10) // the FIN would have been passed on by now
          assert.is(door.hasEnded, false)
          door.socket?.write('enter\n')
          await until(() => door.hasEnded)
          assert.is(door.heard, `knock\n${last}`)
          door.socket?.end('answer\n')
          await until(() => socket.readableEnded)
        })
      }),
    )

  further(`${engine.name}: the end of a pipe that gave nothing waits for a handshake, too`, () =>
    withDoor(engine, async (door) => {
      const twice = knocking('knock', (io) => io.write('password'))
      await withProxy(engine, door, twice, async (socket) => {
        socket.end()
        await until(() => door.heard === 'knock\n')
        await turns(10)
        door.socket?.write('enter\n')
        await until(() => door.hasEnded)
        assert.is(door.heard, 'knock\npassword')
      })
    }),
  )

  further(`${engine.name}: shut() of a codec comes after what it has kept, and of a next one at its turn`, () =>
    withDoor(engine, async (door) => {
      const shuts = (name: string): Partial<Codec<string>> => ({ shut: () => void heard.push(name) })
      const heard: string[] = []
      const next = knocking('again', stays, shuts('next'))
      await withProxy(engine, door, knocking('knock', passesOnTo(next), shuts('first')), async (socket) => {
        socket.end('question')
        await until(() => door.heard === 'knock\n')
        door.socket?.write('enter\n')
        await until(() => door.heard === 'knock\nagain\n')
        await turns(10)
        assert.equal(heard, [])
        door.socket?.write('enter\n')
        await until(() => heard.length > 0)
        await until(() => door.heard.endsWith('question'))
        assert.equal(heard, ['next'])
      })
    }),
  )
}

test.run()
