// The native engine under people and programs that mean it no good: resets by the hundred, readers that stop, handlers that
// close, throw and detach what they were lent, connections by the hundred thousand. What both engines promise is in
// connection.test.ts and engines-differential.test.ts.

import { AsyncLocalStorage } from 'node:async_hooks'
import { once } from 'node:events'
import { readdirSync } from 'node:fs'
import net from 'node:net'
import { constants } from 'node:os'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { tcp } from '../../protocols/tcp.ts'
import { text } from '../../protocols/text.ts'
import { addon } from '../../src/addon.ts'
import type { AnyConnection } from '../../src/connection.ts'
import { SystemError } from '../../src/errors.ts'
import { parseAddress } from '../../src/net/address.ts'
import { bindSocket } from '../../src/net/bound-socket.ts'
import { NativeDatagrams } from '../../src/net/native-datagrams.ts'
import { nativeEngine } from '../../src/net/native-engine.ts'
import { DIRECT_FROM, Kind } from '../../src/net/rings.ts'
import type { Protocol, TlsState } from '../../src/protocol.ts'
import {
  kClosed,
  kDrained,
  kEnded,
  kReceived,
  kSecured,
  type ListenSource,
  type Socket,
  type SocketEvents,
  type Transport,
} from '../../src/transport.ts'
import { withServer, withUnixServer } from '../support/tcp.ts'
import { nextTurn, until, within } from '../support/until.ts'

const native = nativeEngine()
const MIB = 1_048_576
const echo = (connection: AnyConnection, message: unknown) => connection.send(message)

function engineTest(title: string, run: (engine: Transport) => Promise<unknown>): void {
  if (native !== null)
    test(title, async () => {
      await run(native)
    })
}

/** What one socket is told, and what it does about it. */
class Ear implements SocketEvents {
  readonly socket: Socket
  received = ''
  ended = 0
  drained = 0
  closed = 0
  onReceived: (bytes: Buffer) => void = () => undefined
  onDrained: () => void = () => undefined

  constructor(socket: Socket) {
    this.socket = socket
  }

  [kReceived](bytes: Buffer): void {
    this.received += bytes.toString('latin1')
    this.onReceived(bytes)
  }

  [kEnded](): void {
    this.ended++
  }

  [kDrained](): void {
    this.drained++
    this.onDrained()
  }

  [kSecured](): void {
    throw new Error('nobody has asked for TLS')
  }

  [kClosed](): void {
    this.closed++
  }
}

interface Sockets {
  readonly ears: Ear[]
  readonly listener: { close(): void }
  /** A client, and the other end of it. */
  pair(): Promise<{ client: net.Socket; ear: Ear }>
}

/** Sockets of an engine without connections above them. */
async function withSockets(
  engine: Transport,
  use: (sockets: Sockets) => Promise<unknown>,
  options: Partial<ListenSource> & { accept?: (socket: Socket) => SocketEvents | null } = {},
): Promise<void> {
  const bound = await bindSocket(parseAddress('tcp://127.0.0.1:0'))
  const ears: Ear[] = []
  const clients: net.Socket[] = []
  const take = (socket: Socket) => {
    const ear = new Ear(socket)
    ears.push(ear)
    return ear
  }
  const { accept = take, ...rest } = options
  const source = { fd: bound.fd, handle: bound.handle, backlog: 128, expected: bound.endpoint, ...rest }
  const listener = await engine.listen(source, (socket) => (accept === take ? take(socket) : accept(socket)))
  const port = Number(bound.endpoint.split(':').at(-1))
  const pair = async () => {
    const before = ears.length
    const client = net.connect({ port, host: '127.0.0.1', allowHalfOpen: true })
    client.on('error', () => client.destroy())
    clients.push(client)
    await within(5000, once(client, 'connect'))
    return { client, ear: await until(() => ears[before]) }
  }
  try {
    await within(60_000, use({ ears, listener, pair }))
  } finally {
    for (const client of clients) client.destroy()
    for (const { socket } of ears) socket.destroy()
    listener.close()
  }
}

/** Bytes of which each four are the number of their place. */
function numbered(size: number): Buffer {
  return Buffer.from(Uint32Array.from({ length: size / 4 }, (_, at) => at).buffer)
}

function descriptors(): number {
  return readdirSync('/proc/self/fd').length
}

engineTest('a datagram socket that has failed pauses nobody who has its slot now', async (engine) => {
  await withSockets(engine, async ({ pair }) => {
    const { sys } = addon()
    const fd = sys?.bind({ transport: 'udp', host: '127.0.0.1', port: 0, path: '' }).release() as number
    const codes: string[] = []
    const gone = new NativeDatagrams(fd, { received: () => undefined, failed: ({ code }) => codes.push(code) })
    gone.handle(Kind.Closed, constants.errno.ENOMEM, 1)
    await nextTurn()
    const { client, ear } = await pair()
    gone.pause() // its server leaves
    client.write('heard')
    await until(() => ear.received === 'heard')
    assert.equal([codes, gone.fd], [['ENOMEM'], -1])
  })
})

engineTest('what a batch still holds for a connection that is released goes with it', async (engine) => {
  await withSockets(engine, async ({ pair }) => {
    const first = await pair()
    const second = await pair()
    let released: ReturnType<Socket['release']> = null
    first.ear.onReceived = () => {
      released = second.ear.socket.release()
    }
    first.client.write('go') // both are in one batch: this one comes first
    second.client.write('precious')
    await until(() => released !== null)
    const again = engine.adopt(released as unknown as NonNullable<typeof released>)
    const ear = new Ear(again)
    again.attach(ear)
    second.client.end(' bytes')
    await until(() => ear.ended === 1)
    assert.is(ear.received, 'precious bytes')
    assert.is(second.ear.received, '')
    again.destroy()
  })
})

engineTest(
  'what has come is read on to where it belongs, and not while anything else is to be told first',
  async (engine) => {
    await withSockets(engine, async ({ pair }) => {
      const { client, ear } = await pair()
      const { socket } = ear
      const into = Buffer.alloc(2 * MIB)
      let has = 0
      const counts: number[] = []
      ear.onReceived = (bytes) => {
        if (bytes.length < 65_536) return // a short read: nothing more is there
        socket.pause()
        counts.push(socket.readInto(into))
        socket.resume()
        socket.unread(Buffer.from('u'))
        counts.push(socket.readInto(into))
      }
      client.write(Buffer.alloc(MIB, 'a'))
      await until(() => counts.length > 0)
      assert.equal(counts.slice(0, 2), [0, 0])
      ear.onReceived = (bytes) => {
        if (bytes.length < 65_536) return
        for (let count = -1; count !== 0; has += count) count = socket.readInto(into.subarray(has, has + 50_000))
      }
      await until(() => ear.received.replaceAll('u', '').length + has === MIB)
      client.end(Buffer.alloc(4 * MIB, 'b'))
      ear.onReceived = (bytes) => {
        if (bytes.length < 65_536) return
        for (let count = -1; count !== 0; has += count) count = socket.readInto(into.subarray(0, 300_000))
      }
      await until(() => ear.ended === 1)
      assert.is(ear.received.replaceAll('u', '').length + has, 5 * MIB)
      assert.ok(has > 0, 'nothing was read on')
      assert.is(socket.readInto(into), 0)
      socket.destroy()
      assert.is(socket.readInto(into), 0)
    })
  },
)

engineTest('the next owner of a slot that was queued to be read gets its bytes in order', async (engine) => {
  await withSockets(engine, async ({ ears, pair }) => {
    const old = await pair()
    const next = await pair()
    const other = await pair()
    const sent = numbered(4 * MIB)
    const got = Buffer.alloc(sent.length)
    let has = 0
    old.ear.socket.pause()
    const released = next.ear.socket.release()
    assert.ok(released)
    for (const { client } of [old, next]) client.write(sent)
    for (let turn = 0; turn < 5; turn++) await nextTurn() // `old` has something to read then, but is paused
    other.ear.onDrained = () => {
      old.ear.socket.resume()
      old.ear.socket.destroy()
      other.ear.socket.write(Buffer.alloc(DIRECT_FROM)) // sent at once, after all that was recorded
      const socket = engine.adopt(released)
      const ear = new Ear(socket)
      ears.push(ear)
      ear.onReceived = (bytes) => {
        has += bytes.copy(got, has)
        for (let count = -1; count !== 0; has += count) count = socket.readInto(got.subarray(has))
      }
      socket.attach(ear)
      for (const end = performance.now() + 3; performance.now() < end; ); // the turn is over: next, the kernel is asked
    }
    setTimeout(() => other.ear.socket.awaitDrained())
    await until(() => has === sent.length)
    assert.ok(got.equals(sent))
  })
})

engineTest('a connection that was told to end is not released', async (engine) => {
  await withSockets(engine, async ({ pair }) => {
    const { client, ear } = await pair()
    client.resume()
    ear.socket.write('bye')
    ear.socket.end()
    assert.is(ear.socket.release(), null)
    await within(5000, once(client, 'end'))
  })
})

engineTest('a socket that is gone does nothing to who has its slot now', async (engine) => {
  await withSockets(engine, async ({ pair }) => {
    const old = await pair()
    old.ear.socket.destroy()
    await within(5000, once(old.client.resume(), 'end'))
    const next = await pair()
    const { socket } = old.ear
    socket.unread(Buffer.from('again'))
    socket.pause()
    socket.secure({ wrap: () => assert.unreachable(), stateOf: () => ({}) as TlsState })
    socket.write('nobody')
    socket.end()
    socket.destroy()
    next.client.write('here')
    await until(() => next.ear.received === 'here')
    assert.is(old.ear.received, '')
  })
})

engineTest('what one socket throws is uncaught, and the others of the batch are told', async (engine) => {
  await withSockets(engine, async ({ pair, ears }) => {
    const pairs = await Promise.all(Array.from({ length: 20 }, pair))
    await until(() => ears.length === 20)
    for (const ear of ears) {
      ear.socket.awaitDrained()
      ear.onReceived = () => {
        throw new Error('boom')
      }
    }
    const thrown: string[] = []
    const note = (error: Error) => thrown.push(error.message)
    process.on('uncaughtException', note)
    try {
      for (const { client } of pairs) client.write('x')
      await until(() => thrown.length === 20 && ears.every(({ drained }) => drained > 0))
    } finally {
      process.off('uncaughtException', note)
    }
    assert.ok(ears.every(({ received }) => received === 'x'))
  })
})

engineTest('what accepting throws costs that connection alone', async (engine) => {
  const before = descriptors()
  const ears: Ear[] = []
  let count = 0
  const accept = (socket: Socket) => {
    if (count++ % 2 === 0) throw new Error('not you')
    const ear = new Ear(socket)
    ears.push(ear)
    return ear
  }
  const thrown: string[] = []
  const note = (error: Error) => thrown.push(error.message)
  process.on('uncaughtException', note)
  try {
    await withSockets(engine, async () => undefined, { accept })
    const bound = await bindSocket(parseAddress('tcp://127.0.0.1:0'))
    const source = { fd: bound.fd, handle: bound.handle, backlog: 128, expected: bound.endpoint }
    const listener = await engine.listen(source, accept)
    const port = Number(bound.endpoint.split(':').at(-1))
    const clients = Array.from({ length: 40 }, () => net.connect(port, '127.0.0.1').on('error', () => undefined))
    for (const client of clients) client.resume()
    await until(() => thrown.length === 20 && ears.length === 20)
    await until(() => clients.filter((client) => client.readableEnded).length === 20)
    for (const { socket } of ears) socket.destroy()
    for (const client of clients) client.destroy()
    listener.close()
  } finally {
    process.off('uncaughtException', note)
  }
  await until(() => descriptors() <= before)
})

engineTest(
  'a listener that is closed in its own accept serves those that it has taken, and no more',
  async (engine) => {
    const bound = await bindSocket(parseAddress('tcp://127.0.0.1:0'))
    const source = { fd: bound.fd, handle: bound.handle, backlog: 128, expected: bound.endpoint }
    const before = descriptors()
    const ears: Ear[] = []
    const listener = await engine.listen(source, (socket) => {
      listener.close()
      listener.close()
      const ear = new Ear(socket)
      ears.push(ear)
      return ear
    })
    const port = Number(bound.endpoint.split(':').at(-1))
    const clients = Array.from({ length: 8 }, () => net.connect(port, '127.0.0.1'))
    let refused = 0
    for (const client of clients) client.on('error', () => refused++).write('hello')
    await until(() => refused + ears.filter(({ received }) => received === 'hello').length === clients.length)
    assert.ok(ears.length > 0)
    for (const client of clients) client.destroy()
    for (const { socket } of ears) socket.destroy()
    await until(() => descriptors() < before) // the listener's, too
  },
)

engineTest('a listener without room takes more when there is some, whoever has made it', async (engine) => {
  let room = 0
  await withSockets(
    engine,
    async ({ pair, ears }) => {
      const waiting = pair()
      for (let turn = 0; turn < 5; turn++) await nextTurn()
      assert.is(ears.length, 0)
      room = 0.5
      setTimeout(() => {
        room = 1
      }, 10)
      await waiting
    },
    { room: () => room },
  )
})

engineTest('storms of resets leave nothing, and no event comes after the last', async (engine) => {
  const before = descriptors()
  const seen = { after: 0 }
  const closed = new Set<AnyConnection>()
  const look = (connection: AnyConnection) => {
    if (closed.has(connection)) seen.after++
  }
  const settings = {
    onMessage(connection: AnyConnection, line: unknown) {
      look(connection)
      return echo(connection, line)
    },
    onBufferFull: look,
    onBufferDrain: look,
    onClose(connection: AnyConnection) {
      look(connection)
      closed.add(connection)
    },
    maxSendBufferSize: 100_000_000,
  }
  await withServer(engine, text, settings, async ({ connect, worker, connections }) => {
    for (let round = 0; round < 10; round++) {
      const clients = await Promise.all(Array.from({ length: 100 }, () => connect({ allowHalfOpen: true })))
      for (const { socket } of clients) socket.write(`${'x'.repeat(round * 500)}\n`.repeat(20))
      if (round % 2 === 0) for (const one of connections.slice(-50)) one.send('y'.repeat(4_000_000))
      if (round % 3 === 0) await nextTurn()
      for (const { socket } of clients) socket.resetAndDestroy()
      await until(() => worker.connections.size === 0, 20_000)
    }
    assert.is(closed.size, 1000)
    assert.is(worker.counters.connections, 0)
  })
  assert.is(seen.after, 0)
  await until(() => descriptors() <= before)
})

engineTest('a peer that has half-closed gets its answers, however late they are', async (engine) => {
  const onMessage = async (connection: AnyConnection, line: unknown) => {
    await nextTurn()
    await nextTurn()
    connection.send(line)
  }
  await withServer(engine, text, { onMessage }, async ({ connect }) => {
    const clients = await Promise.all(Array.from({ length: 50 }, () => connect({ allowHalfOpen: true })))
    for (const { socket } of clients) socket.end('one\ntwo\nthree\n')
    for (const client of clients) {
      await client.expect('one\ntwo\nthree\n')
      await until(() => client.hasEnded)
    }
  })
})

engineTest('a slow reader costs what the limit says, and then gets everything that was taken', async (engine) => {
  const settings = { maxSendBufferSize: 262_144 }
  await withServer(engine, tcp, settings, async ({ connect, connections }) => {
    const client = await connect()
    client.socket.pause()
    const connection = await until(() => connections[0])
    const chunk = Buffer.alloc(10_000, 'z')
    let highest = 0
    for (let n = 0; n < 3000; n++) {
      connection.send(chunk)
      if (n % 10 === 0) await nextTurn()
      highest = Math.max(highest, connection.getSendBufferQueueSize())
    }
    assert.ok(highest <= 262_144 + chunk.length, `${highest} bytes were queued`)
    assert.ok(highest >= 262_144, `${highest} bytes were queued`)
    client.socket.resume()
    await until(() => Buffer.concat(client.chunks).length === connection.bytesWritten, 20_000)
    await until(() => connection.getSendBufferQueueSize() === 0)
  })
})

const PLACES = ['onConnect', 'onMessage', 'onBufferFull', 'onBufferDrain', 'onClose', 'onError'] as const
const WAYS = ['destroy', 'close', 'end', 'throw'] as const

for (const place of PLACES)
  engineTest(`connections that are closed in ${place} are closed once, and the others live`, async (engine) => {
    for (const way of WAYS.filter((one) => one !== 'throw' || place !== 'onError')) {
      let closes = 0
      const sprung = (connection: AnyConnection) => {
        if (connection.context.isSafe === true) return
        if (way === 'throw') throw new Error('thrown')
        connection[way]()
      }
      const settings = {
        maxSendBufferSize: 1000,
        onMessage(connection: AnyConnection, line: unknown) {
          if (line === 'safe') connection.context.isSafe = true
          connection.send(line === 'safe' ? line : 'x'.repeat(MIB)) // full, and drained
          if (line !== 'safe') connection.send('refused')
        },
        onClose: () => {
          closes++
        },
        onError: () => undefined,
        [place]: (connection: AnyConnection, line: unknown) => {
          if (place === 'onClose') closes++
          if (place === 'onMessage' && line === 'safe') {
            connection.context.isSafe = true
            return connection.send(line)
          }
          return sprung(connection)
        },
      }
      await withUnixServer(engine, text, settings, async ({ connect, worker }) => {
        const clients = await Promise.all(Array.from({ length: 20 }, () => connect()))
        for (const [at, { socket }] of clients.entries()) socket.write(at % 2 === 0 ? 'safe\n' : 'go\n')
        const isOver = () => clients.every((one, at) => one.isClosed || (at % 2 === 0 && one.received === 'safe\n'))
        if (place === 'onConnect') await until(() => clients.every(({ isClosed }) => isClosed))
        else if (place === 'onMessage' || place === 'onError') await until(isOver)
        for (const { socket } of clients) socket.end()
        await until(() => worker.connections.size === 0)
        assert.is(closes, 20, `${place} ${way}`)
      })
    }
  })

engineTest('handlers that throw or reject cost their own connection alone', async (engine) => {
  const onMessage = (connection: AnyConnection, line: unknown) => {
    if (line === 'throw') throw new Error('thrown')
    if (line === 'reject') return Promise.reject(new Error('rejected'))
    return connection.send(line)
  }
  await withServer(engine, text, { onMessage }, async ({ connect, errors }) => {
    const clients = await Promise.all(Array.from({ length: 30 }, () => connect()))
    const lines = ['throw\n', 'reject\n', 'hello\n']
    for (const [at, { socket }] of clients.entries()) socket.write(lines[at % 3] as string)
    for (const [at, client] of clients.entries()) {
      if (at % 3 === 2) await client.expect('hello\n')
      else await until(() => client.hasEnded)
    }
    assert.is(errors.filter((line) => line === '4 thrown').length, 10)
    assert.is(errors.filter((line) => line === '4 rejected').length, 10)
  })
})

/** Lines as they were lent: what a handler does to them it does to the engine. */
const lent: Protocol<Buffer, string | Uint8Array> = {
  name: 'lent',
  lends: true,
  input: (bytes) => bytes.indexOf(10) + 1,
  decode: (packet) => packet,
  encode: (message) => message,
}

engineTest(
  'who detaches what it was lent may lose its own connection; the others go on, and new ones come',
  async (engine) => {
    const onMessage = (connection: AnyConnection, message: unknown) => {
      const { buffer } = message as { buffer: ArrayBuffer & { transfer?(): ArrayBuffer } }
      connection.send(String(message))
      if (!String(message).startsWith('detach')) return
      for (const way of [() => structuredClone(buffer, { transfer: [buffer] }), () => buffer.transfer?.()])
        try {
          way()
        } catch (error) {
          assert.match(String(error), /DataCloneError|detach|transfer/i)
        }
    }
    await withServer(engine, lent, { onMessage }, async ({ connect, errors }) => {
      const good = await Promise.all(Array.from({ length: 5 }, () => connect()))
      for (let round = 0; round < 20; round++) {
        const bad = await connect()
        const opening = connect() // accepted in the batch in which it is detached
        bad.socket.write('detach\n')
        for (const { socket } of good) socket.write(`${round}\n`)
        const next = await opening
        next.socket.write(`new ${round}\n`)
        await next.expect(`new ${round}\n`)
        for (const client of good) await until(() => client.received.endsWith(`${round}\n`))
        await bad.expect('detach\n')
      }
      const lines = Array.from({ length: 20 }, (_, round) => `${round}\n`).join('')
      for (const client of good) assert.is(client.received, lines)
      assert.ok(
        errors.every((line) => /^3 .*detached ArrayBuffer/.test(line)),
        errors.join('\n'),
      )
    })
  },
)

engineTest('a store that one handler enters is seen by no other connection', async (engine) => {
  const storage = new AsyncLocalStorage<string>()
  const seen: (string | undefined)[] = []
  let parked: AnyConnection | null = null
  const onMessage = (connection: AnyConnection, line: unknown) => {
    if (line === 'look') seen.push(storage.getStore())
    else if (line === 'park') {
      connection.pauseRecv()
      parked = connection
    } else storage.enterWith(String(line))
    if (line === 'wake') parked?.resumeRecv()
  }
  await withServer(engine, text, { onMessage }, async ({ connect }) => {
    const clients = await Promise.all(Array.from({ length: 20 }, () => connect()))
    for (let round = 0; round < 20; round++)
      for (const [at, { socket }] of clients.entries()) socket.write(at % 2 === 0 ? `mine ${at}\n` : 'look\n')
    await until(() => seen.length === 200)
    assert.equal([...new Set(seen)], [undefined])
    // Resumed by another's handler: in a batch of its own, and what the engine has held back.
    const [one, other] = clients.slice(1) as [(typeof clients)[0], (typeof clients)[0]]
    one.socket.write('park\n')
    await until(() => parked !== null)
    one.socket.write('look\n')
    for (let turn = 0; turn < 5; turn++) await nextTurn()
    other.socket.write('wake\n')
    await until(() => seen.length === 201)
  })
})

engineTest('what was held back is told in no context of who resumed it', async (engine) => {
  const storage = new AsyncLocalStorage<string>()
  const seen: (string | undefined)[] = []
  await withSockets(engine, async ({ pair }) => {
    const held = await pair()
    held.ear.onReceived = () => seen.push(storage.getStore())
    held.ear.socket.pause()
    held.ear.socket.unread(Buffer.from('held'))
    storage.run('stranger', () => held.ear.socket.resume())
    await until(() => held.ear.received === 'held')
  })
  assert.equal(seen, [undefined])
})

engineTest('a client that has no descriptor left is told that it could not connect', async (engine) => {
  await withServer(engine, text, {}, async ({ endpoint }) => {
    const { sys } = addon()
    assert.ok(sys)
    const { duplicate } = sys
    sys.duplicate = () => {
      throw SystemError.fromErrno(-constants.errno.EMFILE, 'fcntl', 'descriptor 4')
    }
    const [host = '', port] = endpoint.split(':')
    const target = { transport: 'tcp', host, port: Number(port), path: '', proxy: null } as const
    try {
      await engine.connect(target, new AbortController().signal)
      assert.unreachable()
    } catch (error) {
      assert.match(String(error), `connect ${endpoint}: EMFILE`)
    } finally {
      sys.duplicate = duplicate
    }
  })
})

engineTest(
  'idle, with a thousand connections and one that is paused and was reset, it takes no time',
  async (engine) => {
    await withServer(engine, text, { onMessage: echo }, async ({ connect, connections }) => {
      for (let round = 0; round < 10; round++) await Promise.all(Array.from({ length: 100 }, () => connect()))
      const last = await connect()
      await until(() => connections.length === 1001)
      connections[1000]?.pauseRecv()
      await nextTurn()
      await nextTurn()
      last.socket.write('unread\n')
      last.socket.resetAndDestroy()
      await until(() => last.isClosed)
      for (let turn = 0; turn < 10; turn++) await nextTurn()
      const before = process.cpuUsage()
      const end = performance.now() + 1000
      while (performance.now() < end) await new Promise((resolve) => setTimeout(resolve, 50))
      const { user, system } = process.cpuUsage(before)
      assert.ok((user + system) / 1000 < 100, `${(user + system) / 1000} ms of 1000`)
      assert.is(connections[1000]?.getStatus(false), 'ESTABLISHED')
    })
  },
)

engineTest('thousands of connections that are opened and dropped leave no descriptor and no event', async (engine) => {
  const before = descriptors()
  let closes = 0
  const settings = { onMessage: echo, onClose: () => closes++ }
  await withServer(engine, text, settings, async ({ connect, worker }) => {
    const ways = [
      (socket: net.Socket) => socket.destroy(),
      (socket: net.Socket) => socket.resetAndDestroy(),
      (socket: net.Socket) => socket.end('half a line'),
      (socket: net.Socket) => socket.write('answer me\n', () => socket.resetAndDestroy()),
    ]
    for (let round = 0; round < 20; round++) {
      const clients = await Promise.all(Array.from({ length: 200 }, () => connect()))
      for (const [at, { socket }] of clients.entries()) ways[at % ways.length]?.(socket)
      await until(() => clients.every(({ isClosed }) => isClosed))
    }
    await until(() => worker.counters.accepted === 4000 && worker.connections.size === 0)
    assert.is(closes, 4000)
  })
  await until(() => descriptors() <= before)
})

test('there is a native engine exactly where the addon has one', () => {
  assert.is(native === null, addon().newEngine === null)
})

test.run()
