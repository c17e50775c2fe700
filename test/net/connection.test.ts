// Connections on real engines, over the loopback interface and Unix sockets. One suite, run over every engine.

import { AsyncLocalStorage } from 'node:async_hooks'
import { spawnSync } from 'node:child_process'
import { once } from 'node:events'
import net from 'node:net'
import { Duplex } from 'node:stream'
import tls from 'node:tls'
import { runInNewContext } from 'node:vm'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { frame } from '../../protocols/frame.ts'
import type { Request } from '../../protocols/http/request.ts'
import { tcp } from '../../protocols/tcp.ts'
import { text } from '../../protocols/text.ts'
import { addon } from '../../src/addon.ts'
import { broadcast } from '../../src/connection/broadcast.ts'
import { kDrain, kLeave } from '../../src/connection/symbols.ts'
import type { AnyConnection } from '../../src/connection.ts'
import { withResolvers } from '../../src/deferred.ts'
import { http, Response } from '../../src/index.ts'
import { parseAddress } from '../../src/net/address.ts'
import { bindSocket } from '../../src/net/bound-socket.ts'
import { descriptorOf } from '../../src/net/descriptors.ts'
import { nativeEngine } from '../../src/net/native-engine.ts'
import { nodeEngine } from '../../src/net/node-engine.ts'
import { TlsServer } from '../../src/net/tls.ts'
import type { CodecIo } from '../../src/protocol.ts'
import type { Tls, Transport } from '../../src/transport.ts'
import type { ArrivalHost } from '../../src/worker/arrival.ts'
import { TlsArrival } from '../../src/worker/tls-arrival.ts'
import { Worker } from '../../src/worker.ts'
import { Authority, type Certificate } from '../support/certificates.ts'
import { deferred, scripted } from '../support/codecs.ts'
import { longTest } from '../support/length.ts'
import { type Random, randomOf, seedOf } from '../support/random.ts'
import { type TestServer, whereIs, withPath, withServer, withUnixServer } from '../support/tcp.ts'
import { nextTurn, rejects, until, within } from '../support/until.ts'
import { linkLocal, where } from '../support/where.ts'

const native = nativeEngine()
const transports: readonly Transport[] = native === null ? [nodeEngine] : [nodeEngine, native]

const MIB = 1_048_576
let authority: Authority | null = null
let issued: Certificate | null = null

/** One for all tests. */
function certificate(): Certificate {
  authority ??= new Authority()
  issued ??= authority.issue('localhost')
  return issued
}

process.once('exit', () => authority?.remove())

const echo = (connection: AnyConnection, message: unknown) => connection.send(message)
const bytesOf = (count: number) => Buffer.alloc(count, 'x')
const noise = (random: Random, count: number) =>
  Buffer.alloc(count, Buffer.from(Array.from({ length: 509 }, () => random(256))))

function uint32(value: number): Buffer {
  const bytes = Buffer.alloc(4)
  bytes.writeUInt32BE(value)
  return bytes
}

for (const transport of transports) {
  const it = (title: string, run: () => Promise<unknown>) =>
    test(`${transport.name}: ${title}`, async () => {
      await run()
    })

  it('a codec learns how much its peer has yet to acknowledge, queued here or in the kernel', async () => {
    let io: CodecIo<string> | null = null
    const protocol = scripted((given) => {
      io = given
      return {}
    })
    const left = () => (io as CodecIo<string> | null)?.unacknowledgedBytes ?? -1
    await withServer(transport, protocol, {}, async ({ connect, connections }) => {
      const { socket } = await connect()
      await until(() => io !== null)
      assert.is(left(), 0)
      socket.pause()
      connections[0]?.send('x'.repeat(16 * MIB))
      await until(() => left() > 0 && left() < 16 * MIB)
      const inKernel = () => left() - (io as unknown as CodecIo<string>).queuedBytes
      if (native !== null) await until(() => inKernel() > 0)
      socket.resume()
      await until(() => left() === 0)
    })
  })

  it('echoes over TCP', async () => {
    await withServer(transport, text, { onMessage: echo }, async ({ connect }) => {
      const client = await connect()
      client.socket.write('one\ntw')
      await client.expect('one\n')
      client.socket.write('o\n')
      await client.expect('one\ntwo\n')
    })
  })

  it('echoes over a Unix socket, whose addresses are empty', async () => {
    const addresses: unknown[] = []
    const onClose = (connection: AnyConnection) =>
      addresses.push(connection.getRemoteAddress(), connection.getLocalAddress(), connection.getRemotePort())
    await withPath((path) =>
      withServer(
        transport,
        text,
        { onMessage: echo, onClose },
        async ({ connect, connections }) => {
          const client = await connect()
          client.socket.write('hello\n')
          await client.expect('hello\n')
          assert.not(connections[0]?.isIpV4())
          assert.not(connections[0]?.isIpV6())
          client.socket.end()
          await until(() => addresses.length > 0)
          assert.equal(addresses, ['', '', 0])
        },
        `unix://${path}`,
      ),
    )
  })

  // By then the kernel of Linux has forgotten the address of a client that has reset, and keeps what it sent.
  it('a client that resets before it is accepted does not pass for a Unix socket', async () => {
    const seen: string[] = []
    const onMessage = (connection: AnyConnection, line: unknown) =>
      void seen.push(`${line} from ${connection.getRemoteIp()}, ${connection.toJSON().transport}`)
    await withServer(transport, text, { onMessage }, async ({ connect, endpoint }) => {
      const { port } = whereIs(endpoint) as { port: number }
      const reset = `
        const socket = require('node:net').connect(${port}, '127.0.0.1', () =>
          socket.write('spoof\\n', () => socket.resetAndDestroy()))
      `
      const { status } = spawnSync(process.execPath, ['-e', reset]) // nothing is accepted meanwhile
      assert.is(status, 0)
      const honest = await connect()
      honest.socket.write('honest\n')
      await until(() => seen.some((line) => line.startsWith('honest')))
      assert.equal(
        seen.filter((line) => !line.endsWith(' from 127.0.0.1, tcp')),
        [],
      )
    })
  })

  // A read of the kernel's ends behind a message with descriptors, whatever follows (unix(7)).
  const { sys } = addon()
  if (sys !== null)
    it('descriptors that a client passes hide nothing that comes behind them', async () => {
      const packet = Buffer.alloc(100_000, 'p')
      packet.writeUInt32BE(packet.length)
      const small = Buffer.from([0, 0, 0, 5, 0x2e])
      const sizes: number[] = []
      const onMessage = (_connection: AnyConnection, message: unknown) => void sizes.push((message as Buffer).length)
      await withUnixServer(transport, frame, { onMessage }, async ({ connect }) => {
        const fd = descriptorOf((await connect()).socket)
        sys.sendDescriptors(fd, small, [fd])
        for (let n = 0; n < 2; n++) sys.sendDescriptors(fd, small, [])
        await until(() => sizes.length === 3)
        for (let at = 0; at < packet.length; at += 5000) sys.sendDescriptors(fd, packet.subarray(at, at + 5000), [fd])
        sys.sendDescriptors(fd, small, [])
        await until(() => sizes.length === 5)
        assert.equal(sizes, [1, 1, 1, packet.length - 4, 1])
      })
    })

  it('knows both addresses, in onConnect and in onClose, whatever ended it', async () => {
    for (const [host, show, listen] of [
      ['127.0.0.1', '127.0.0.1', '127.0.0.1'],
      ['127.0.0.1', '127.0.0.1', '0.0.0.0'],
      ['[::1]', '[::1]', '[::1]'],
      ['[::1]', '[::1]', '[::]'],
    ] as const) {
      for (const how of ['peer', 'reset', 'destroy'] as const) {
        const seen: string[] = []
        const look = (connection: AnyConnection) =>
          seen.push(`${connection.getRemoteAddress()} ${connection.getLocalAddress()} ${connection.isIpV6()}`)
        await withServer(
          transport,
          text,
          { onConnect: how === 'destroy' ? look : () => undefined, onClose: look },
          async ({ connect, connections, endpoint }) => {
            const client = await connect({ host: host.replace(/[[\]]/g, '') })
            await until(() => connections.length > 0)
            const local = `${show}:${client.socket.localPort}`
            if (how === 'peer') client.socket.end()
            else if (how === 'reset') client.socket.resetAndDestroy()
            else connections[0]?.destroy()
            await until(() => seen.length === (how === 'destroy' ? 2 : 1))
            const port = endpoint.slice(endpoint.lastIndexOf(':'))
            for (const line of seen) assert.is(line, `${local} ${show}${port} ${host !== '127.0.0.1'}`, how)
          },
          `tcp://${listen}:0`,
        )
      }
    }
  })

  it('tells addresses part by part', async () => {
    await withServer(transport, text, {}, async ({ connect, connections, endpoint }) => {
      const client = await connect()
      const connection = await until(() => connections[0])
      assert.is(connection.getRemoteIp(), '127.0.0.1')
      assert.is(connection.getRemotePort(), client.socket.localPort)
      assert.is(connection.getLocalIp(), '127.0.0.1')
      assert.is(`${connection.getLocalIp()}:${connection.getLocalPort()}`, endpoint)
      assert.ok(connection.isIpV4())
      assert.not(connection.isIpV6())
      assert.ok(connection.bufferIsEmpty())
      const { id, status, transport, remotePort, getLocalAddress } = JSON.parse(JSON.stringify(connection))
      assert.equal([id, status, transport], [connection.id, 'ESTABLISHED', 'tcp'])
      assert.equal([remotePort, getLocalAddress], [connection.getRemotePort(), endpoint])
    })
  })

  it('a last word of the codec arrives, also when it reports what failed right behind it', async () => {
    const protocol = scripted((io) => ({
      receive() {
        io.write('500')
        io.end()
        io.fail(new Error('on purpose'))
      },
    }))
    await withServer(transport, protocol, {}, async ({ connect, errors }) => {
      const client = await connect()
      client.socket.write('x')
      await client.closed()
      assert.is(client.received, '500')
      assert.equal(errors, ['4 on purpose'])
    })
  })

  longTest(
    `${transport.name}: a client that reads a long answer without a pause is not idle, and may ask again`,
    async () => {
      const answer = bytesOf(30 * MIB)
      const onMessage = (c: AnyConnection, line: unknown) => c.send(line === 'long' ? answer : 'short')
      // Longer than the client takes for what the kernel holds: nobody sees how that goes on.
      await withServer(transport, text, { onMessage, idleTimeoutMs: 2000 }, async ({ connect, connections }) => {
        const { socket } = await connect()
        const start = performance.now()
        let received = 0
        let last: unknown = null
        socket.on('data', (bytes) => {
          received += bytes.length
          last = bytes.at(-2)
          socket.pause()
          setTimeout(() => socket.resume(), 10)
        })
        socket.write('long\n')
        await until(() => received === answer.length + 1 || connections[0]?.closeReason !== null, 60_000)
        assert.is(connections[0]?.closeReason, null)
        assert.ok(performance.now() - start > 2500, 'it was no long answer')
        socket.write('again\n')
        await until(() => last === 't'.charCodeAt(0))
      })
    },
  )

  it('an answer that was handed to close() or end() arrives whole, whatever becomes of its handler', async () => {
    for (const ending of ['close', 'end'] as const) {
      const { promise, resolve } = withResolvers()
      const body = async function* () {
        yield 'one '
        await promise
        yield 'two '
      }
      const onMessage = async (connection: AnyConnection) => {
        connection[ending](new Response(200, {}, body()))
        await nextTurn()
        throw new Error('late')
      }
      await withServer(transport, http(), { onMessage }, async ({ connect, errors, connections }) => {
        const client = await connect()
        client.socket.write('GET / HTTP/1.1\r\nHost: a\r\n\r\n')
        await until(() => errors.length > 0)
        resolve()
        await client.closed()
        assert.match(client.received, /one .*two .*\r\n0\r\n\r\n$/s)
        assert.equal([errors, connections[0]?.closeReason], [['4 late'], 'closed'])
      })
    }
  })

  it('startTls in a handler: the codec that begins anew is not told to go on, since it was not stopped', async () => {
    const calls: string[] = []
    let count = 0
    const protocol = scripted((io) => {
      const name = `codec ${++count}`
      return {
        receive: (bytes) => void calls.push(`${name} ${bytes} ${io.emit(String(bytes))}`),
        resumed: () => void calls.push(`${name} resumed`),
      }
    })
    const onMessage = (connection: AnyConnection) => {
      if (count === 1) connection.startTls().catch(() => undefined)
    }
    await withServer(transport, protocol, { onMessage }, async ({ worker, connect }) => {
      worker.tls = new TlsServer(certificate(), null)
      const client = await connect()
      client.socket.write('a')
      await until(() => calls.length > 0)
      const secured = tls.connect({ socket: client.socket, rejectUnauthorized: false })
      secured.write('b')
      await until(() => calls.some((call) => call.includes(' b ')))
      secured.destroy()
      assert.equal(calls, ['codec 1 a false', 'codec 2 b true'])
    })
  })

  it('a last message is refused, and onError closes: the codec has its last word all the same', async () => {
    const protocol = scripted((io) => ({
      receive: (bytes) => void io.emit(String(bytes)),
      send: (message) => (message === 'bad' ? io.refuse('a bad one') : io.write(String(message))),
      closing() {
        setImmediate(() => {
          io.write('bye')
          io.close()
        })
        return true
      },
    }))
    for (const outer of ['close', 'end'] as const)
      for (const inner of ['close', 'end'] as const) {
        const onMessage = (connection: AnyConnection) => connection[outer]('bad')
        const onError = (connection: AnyConnection) => connection[inner]()
        await withServer(transport, protocol, { onMessage, onError }, async ({ connect, errors }) => {
          const client = await connect()
          client.socket.write('x')
          await until(() => client.hasEnded)
          assert.equal([client.received, errors], ['bye', ['2 a bad one']], `${outer} ${inner}`)
        })
      }
  })

  it('a drain that begins amid startTls() still has the goodbye of the codec that comes behind it', async () => {
    const protocol = scripted((io) => ({
      receive: (bytes) => void io.emit(String(bytes)),
      drain: () => void io.write('bye'),
    }))
    const onMessage = (connection: AnyConnection) => void connection.startTls().catch(() => undefined)
    for (const isLeaving of [false, true])
      await withServer(transport, protocol, { onMessage }, async ({ worker, connect, connections }) => {
        worker.tls = new TlsServer(certificate(), null)
        const client = await connect()
        client.socket.write('starttls')
        const connection = await until(() => connections.find(({ bytesRead }) => bytesRead === 8))
        connection[kDrain]()
        if (isLeaving) connection[kLeave]()
        const secured = tls.connect({ socket: client.socket, rejectUnauthorized: false })
        const [bytes] = await within(5_000, once(secured, 'data'))
        assert.is(String(bytes), 'bye')
        if (isLeaving) await once(secured, 'end')
        secured.destroy()
      })
  })

  it('a drain waits for a TLS handshake that has begun, not for a peer that has sent nothing', async () => {
    const server = new TlsServer(certificate(), null)
    const bound = await bindSocket(parseAddress('tcp://127.0.0.1:0'))
    const worker = new Worker()
    const { fd, handle, endpoint } = bound
    const listener = await transport.listen({ fd, handle, backlog: 8, expected: endpoint }, (socket) =>
      TlsArrival.begin(
        socket,
        server,
        worker as unknown as ArrivalHost,
        () => null,
        () => undefined,
      ),
    )
    const [silent, slow] = [0, 1].map(() =>
      net.connect(whereIs(endpoint) as net.TcpNetConnectOpts).on('error', () => undefined),
    )
    assert.ok(silent && slow)
    try {
      slow.write(Buffer.from([0x16, 0x03, 0x01])) // of a ClientHello the beginning
      await until(() => worker.arrivals.size === 2)
      assert.is(worker.describeWork(), '2 TLS handshakes')
      const drained = worker.drain(4000)
      await within(3000, once(silent.resume(), 'close'))
      assert.is(worker.describeWork(), '1 TLS handshake')
      assert.not(slow.closed)
      slow.end()
      await within(1000, drained)
      assert.is(worker.counters.handshakeErrors, 1)
    } finally {
      for (const socket of [silent, slow]) socket.destroy()
      listener.close()
      bound.close()
    }
  })

  it('startTls: a handshake that fails is told to onError, and to nobody else where nobody waits for it', async () => {
    const startTls = (connection: AnyConnection) => void connection.startTls()
    await withServer(transport, text, { onMessage: startTls }, async ({ worker, connect, errors, connections }) => {
      worker.tls = new TlsServer(certificate(), null)
      const client = await connect()
      client.socket.write('starttls\n')
      await until(() => connections[0]?.bytesRead === 9)
      client.socket.write('this is no handshake')
      await client.closed()
      await nextTurn()
      assert.match(errors.join(), /^3 TLS handshake: /)
    })
  })

  it('startTls: a handshake that cannot even begin costs that peer alone', async () => {
    const broken: Tls = {
      wrap() {
        throw new RangeError('planted')
      },
      stateOf() {
        throw new Error('never secured')
      },
    }
    const handshakes: Promise<void>[] = []
    const onMessage = (connection: AnyConnection, line: unknown) => {
      if (line === 'busy') connection.send('x'.repeat(999)) // the handshake waits for it
      handshakes.push(connection.startTls())
    }
    await withServer(transport, text, { onMessage }, async ({ worker, connect, errors }) => {
      worker.tls = broken as TlsServer
      for (const line of ['idle', 'busy']) {
        const client = await connect()
        client.socket.write(`${line}\n`)
        await client.closed()
        await rejects(within(5_000, handshakes.pop() as Promise<void>), 'ERR_CONNECTION_CLOSED')
        assert.match(errors.splice(0).join(), /^3 TLS handshake: handshake 127\.0\.0\.1: EPROTO .*\(planted\)$/)
      }
      assert.is(worker.counters.handshakeErrors, 2)
    })
  })

  it('startTls: what has filled the buffer in the clear is told as drained, when hands are shaken', async () => {
    const events: string[] = []
    const settings = {
      maxSendBufferSize: 100_000,
      onBufferFull: () => events.push('full'),
      onBufferDrain: () => events.push('drain'),
      onMessage(connection: AnyConnection, line: unknown) {
        if (line !== 'starttls') return connection.send(`under TLS ${line}`)
        while (connection.send('x'.repeat(999)));
        return connection.startTls()
      },
    }
    await withServer(transport, text, settings, async ({ worker, connect, connections }) => {
      worker.tls = new TlsServer(certificate(), null)
      const client = await connect()
      client.socket.write('starttls\n')
      await until(() => client.received.length >= 100_000 && client.received.length === connections[0]?.bytesWritten)
      client.socket.removeAllListeners('data')
      const secured = tls.connect({ socket: client.socket, rejectUnauthorized: false })
      await until(() => events.length === 2) // nobody sends meanwhile
      assert.equal(events, ['full', 'drain'])
      secured.write('a\n')
      const [bytes] = await once(secured, 'data')
      assert.is(String(bytes), 'under TLS a\n')
      secured.destroy()
    })
  })

  it('startTls, then close, end or a handler that throws: it does not wait for hands that nobody shakes', async () => {
    const leave: Record<string, (connection: AnyConnection) => void> = {
      close: (connection) => connection.close(),
      end: (connection) => connection.end(),
      throw() {
        throw new Error('planted')
      },
    }
    for (const what of ['close', 'close go', 'end', 'end go', 'throw', 'throw go']) {
      const [how = '', isSending] = what.split(' ')
      const reasons: unknown[] = []
      const settings = {
        onClose: (connection: AnyConnection) => reasons.push(connection.closeReason),
        onMessage(connection: AnyConnection) {
          if (isSending) connection.send('go')
          connection.startTls().catch(() => undefined)
          leave[how]?.(connection)
        },
      }
      await withServer(transport, text, settings, async ({ worker, connect, errors }) => {
        worker.tls = new TlsServer(certificate(), null)
        const client = await connect()
        client.socket.write('starttls\n')
        await within(700, client.closed())
        await until(() => reasons.length > 0)
        assert.is(client.received, isSending ? 'go\n' : '')
        assert.equal(reasons, [how === 'throw' ? 'handler' : 'closed'], what)
        assert.equal(errors, how === 'throw' ? ['4 planted'] : [], what)
        assert.is(worker.counters.handshakeErrors, 0)
      })
    }
  })

  it('startTls of a peer that has ended fails at once', async () => {
    const handshakes: Promise<void>[] = []
    const onMessage = async (connection: AnyConnection) => {
      for (let n = 0; n < 10; n++) await nextTurn() // its FIN has been read by now
      handshakes.push(connection.startTls())
    }
    await withServer(transport, text, { onMessage }, async ({ worker, connect, errors }) => {
      worker.tls = new TlsServer(certificate(), null)
      const client = await connect({ allowHalfOpen: true })
      client.socket.end('late\n')
      await until(() => handshakes.length > 0)
      await rejects(within(5_000, handshakes[0] as Promise<void>), 'ERR_CONNECTION_CLOSED')
      assert.match(errors.join(), /^3 TLS handshake: handshake 127\.0\.0\.1: [^,]*$/)
      assert.is(worker.counters.handshakeErrors, 1)
    })
  })

  it('a TLS peer resets right behind its handshake and first message: that ends the connection at once', async () => {
    const onMessage = (connection: AnyConnection, message: unknown) => {
      if (message === 'starttls') connection.startTls().catch(() => undefined)
      else connection.send('an answer')
    }
    const plain = scripted((io) => ({ receive: (bytes) => void io.emit(String(bytes)) }))
    await withServer(transport, plain, { onMessage }, async ({ worker, connect, connections }) => {
      worker.tls = new TlsServer(certificate(), null)
      for (let n = 0; n < 20; n++) {
        const { socket } = await connect()
        socket.write('starttls')
        await until(() => connections[n]?.bytesRead === 8)
        let isLast = false
        const wire = new Duplex({
          read: () => undefined,
          write(bytes, _encoding, done) {
            socket.write(bytes)
            if (isLast) socket.resetAndDestroy()
            done()
          },
        })
        socket.on('data', (bytes) => wire.push(bytes))
        const secured = tls.connect({ socket: wire, rejectUnauthorized: false }).on('error', () => undefined)
        secured.on('secureConnect', () => {
          isLast = true
          secured.write('hello')
        })
        await until(() => connections[n]?.getStatus(false) === 'CLOSED')
      }
    })
  })

  for (const place of ['tcp', 'unix'] as const)
    it(`a TLS peer that has half-closed gets all of a long answer (${place})`, async () => {
      const hasEnded = deferred()
      const reasons: unknown[] = []
      const onClose = (connection: AnyConnection) => reasons.push(connection.closeReason)
      const onMessage = async (connection: AnyConnection, message: unknown) => {
        if (message === 'starttls') return void connection.startTls().catch(() => undefined)
        await hasEnded.promise
        connection.send(bytesOf(8 * MIB).toString())
      }
      const plain = scripted((io) => ({ receive: (bytes) => void io.emit(String(bytes)), ended: hasEnded.resolve }))
      const use = async ({ worker, connect, connections }: TestServer) => {
        worker.tls = new TlsServer(certificate(), null)
        const { socket } = await connect({ allowHalfOpen: true })
        socket.write('starttls')
        await until(() => connections[0]?.bytesRead === 8)
        socket.removeAllListeners('data')
        const secured = tls.connect({ socket, rejectUnauthorized: false })
        let received = 0
        secured
          .on('error', () => undefined)
          .on('data', ({ length }) => {
            received += length
          })
        secured.once('secureConnect', () => secured.end('get'))
        await until(() => reasons.length > 0)
        await until(() => secured.destroyed || secured.readableEnded)
        assert.equal([received, reasons], [8 * MIB, ['peer']])
      }
      await (place === 'tcp' ? withServer : withUnixServer)(transport, plain, { onMessage, onClose }, use)
    })

  it('startTls, and an end() of its own while it waits for the handshake: no error', async () => {
    const reasons: unknown[] = []
    const onClose = (connection: AnyConnection) => reasons.push(connection.closeReason)
    const onMessage = (connection: AnyConnection) => void connection.startTls().catch(() => undefined)
    await withServer(transport, text, { onClose, onMessage }, async ({ worker, connect, errors, connections }) => {
      worker.tls = new TlsServer(certificate(), null)
      for (const ending of ['end', 'close'] as const) {
        const client = await connect()
        client.socket.write('starttls\n')
        await until(() => connections.at(-1)?.bytesRead === 9)
        for (let turn = 0; turn < 5; turn++) await nextTurn()
        connections.at(-1)?.[ending]()
        await within(700, client.closed())
      }
      await until(() => reasons.length === 2)
      assert.equal(reasons, ['closed', 'closed'])
      assert.equal(errors, [])
      assert.is(worker.counters.handshakeErrors, 0)
    })
  })

  it('a store that one connection enters in a callback is seen by no other one in any of its callbacks', async () => {
    const storage = new AsyncLocalStorage<string>()
    const seen = new Set<string>()
    const look = (what: string) => (connection: AnyConnection) => {
      const store = storage.getStore()
      if (store !== undefined && store !== String(connection.id)) seen.add(`${what} sees another's`)
      storage.enterWith(String(connection.id))
    }
    const settings = {
      maxSendBufferSize: 1000,
      onConnect: look('onConnect'),
      onClose: look('onClose'),
      onBufferFull: () => undefined,
      onBufferDrain: look('onBufferDrain'),
      onMessage(connection: AnyConnection, how: unknown) {
        look('onMessage')(connection)
        if (how === 'fill') connection.send('x'.repeat(MIB))
        else if (how === 'close') connection.close('bye')
      },
    }
    await withUnixServer(transport, text, settings, async ({ worker, connect }) => {
      const crowd = await Promise.all(Array.from({ length: 40 }, () => connect()))
      for (const { socket } of crowd) socket.write('fill\n')
      await until(() => crowd.every(({ chunks }) => Buffer.concat(chunks).length === MIB + 1))
      for (const [at, { socket }] of crowd.entries()) if (at < 20) socket.write('close\n')
      await until(() => worker.counters.closed === 20)
      const all = () => [...worker.connections.values()]
      for (let n = 0; n < 2; n++) broadcast(all(), 'x'.repeat(MIB), { slow: 'close' })
      await until(() => worker.counters.closed > 20)
      worker.cutOff()
      assert.is(storage.getStore(), undefined)
    })
    assert.equal([...seen], [])
  })

  const local = linkLocal()
  where(local !== undefined, 'a link-local address')(
    `${transport.name}: knows the interface of a link-local peer, and of its own address`,
    async () => {
      for (const listen of [`[${local}]`, '[::]']) {
        const seen: string[] = []
        const onConnect = (connection: AnyConnection) =>
          seen.push(connection.getRemoteIp(), connection.getLocalIp(), String(connection.isIpV6()))
        await withServer(
          transport,
          text,
          { onConnect },
          async ({ connect }) => {
            await connect({ host: local as string })
            await until(() => seen.length > 0)
            assert.equal(seen, [local, local, 'true'])
          },
          `tcp://${listen}:0`,
        )
      }
    },
  )

  it('an answer to who has reset meanwhile is reported: it was not sent', async () => {
    const reasons: unknown[] = []
    const settings = {
      onClose: (connection: AnyConnection) => reasons.push(connection.closeReason),
      onMessage(connection: AnyConnection) {
        for (const end = performance.now() + 5; performance.now() < end; );
        connection.send('answer')
      },
    }
    await withServer(transport, text, settings, async ({ connect, errors, worker }) => {
      for (let round = 0; round < 5; round++) {
        const { socket } = await connect()
        await new Promise((written) => socket.write('question\n', written))
        socket.resetAndDestroy()
        await until(() => reasons.length > round)
      }
      assert.equal(errors, Array(5).fill('2 client closed, 7 bytes not sent'))
      assert.is(worker.counters.sendFail, 5)
    })
  })

  it('who is paused before the first byte hears of the FIN when it goes on, and may send until then', async () => {
    for (const [bytes, answer] of [
      ['', 'greeting\n'],
      ['a\n', 'greeting\na\n'],
    ] as const) {
      const onConnect = (connection: AnyConnection) => connection.pauseRecv()
      await withServer(transport, text, { onConnect, onMessage: echo }, async ({ connect, connections, worker }) => {
        const client = await connect({ allowHalfOpen: true })
        client.socket.end(bytes)
        const connection = await until(() => connections[0])
        for (let turn = 0; turn < 20; turn++) await nextTurn()
        assert.is(connection.getStatus(false), 'ESTABLISHED')
        assert.ok(connection.send('greeting'))
        connection.resumeRecv()
        assert.is(connection.getStatus(false), 'ESTABLISHED') // it is told in a turn of its own
        await until(() => client.hasEnded)
        assert.is(client.received, answer)
        client.socket.destroy()
        await until(() => worker.counters.closed === 1)
        assert.is(connection.closeReason, 'peer')
      })
    }
  })

  it('sends of one turn arrive as one piece', async () => {
    const sends = (connection: AnyConnection) => {
      for (let i = 0; i < 100; i++) connection.send(i % 3 === 0 ? Buffer.from(`line ${i}`) : `line ${i}`)
      queueMicrotask(() => connection.send('from a microtask'))
    }
    await withServer(transport, text, { onMessage: sends }, async ({ connect }) => {
      const client = await connect()
      client.socket.write('go\n')
      const lines = Array.from({ length: 100 }, (_, at) => `line ${at}\n`)
      await client.expect(`${lines.join('')}from a microtask\n`)
      assert.is(client.chunks.length, 1)
    })
  })

  it('bytes of another realm are bytes', async () => {
    const bytes: Uint8Array = runInNewContext('Uint8Array.from([0, 104, 105]).subarray(1)')
    assert.not(bytes instanceof Uint8Array)
    for (const [protocol, answer] of [
      [tcp, 'hi<hi>'],
      [text, 'hi\n<hi>'],
      [frame, '\0\0\0\u0006hi<hi>'],
    ] as const) {
      const onConnect = (connection: AnyConnection) => {
        connection.send(bytes)
        connection.send(['<', bytes, '>'], true)
      }
      await withServer(transport, protocol, { onConnect }, async ({ connect }) => (await connect()).expect(answer))
    }
    const answerer = http()
    const onMessage = (connection: AnyConnection) => connection.send(bytes)
    await withServer(transport, answerer, { onMessage }, async ({ connect }) => {
      const client = await connect()
      client.socket.write('GET / HTTP/1.0\r\n\r\n')
      await client.closed()
      assert.match(client.received, /application\/octet-stream[\s\S]*\r\n\r\nhi$/)
    })
  })

  it('small and large chunks, text and bytes, keep their order', async () => {
    const parts = ['a', bytesOf(100_000), 'b', Buffer.from('c'), bytesOf(20_000), 'd', 'e'.repeat(70_000), 'f']
    await withServer(transport, tcp, { maxSendBufferSize: 8 * MIB }, async ({ connect, connections }) => {
      const client = await connect()
      await until(() => connections.length > 0)
      for (const part of parts) connections[0]?.send(part)
      await client.expect(parts.join(''))
    })
  })

  it('text is counted and cut in bytes, not in characters', async () => {
    const message = 'h\u00e9\u20ac\u{1f600}'.repeat(200_000)
    await withServer(transport, text, { maxSendBufferSize: 64 * MIB }, async ({ connect, connections }) => {
      const client = await connect()
      client.socket.pause()
      const connection = await until(() => connections[0])
      const filler = bytesOf(16 * MIB) // more than the kernel's buffers hold
      connection.send(filler, true)
      await nextTurn()
      const before = connection.getSendBufferQueueSize()
      connection.send(message)
      assert.is(connection.getSendBufferQueueSize() - before, Buffer.byteLength(message) + 1)
      connection.end('tail')
      await nextTurn()
      client.socket.resume()
      await until(() => client.hasEnded, 20_000)
      const received = Buffer.concat(client.chunks).subarray(filler.length).toString()
      assert.ok(received === `${message}\ntail\n`)
      assert.is(connection.bytesWritten, filler.length + Buffer.byteLength(message) + 6)
    })
  })

  it('what is sent while a read is handled is counted in bytes, whenever somebody asks', async () => {
    const random = randomOf(seedOf('gathered'))
    const texts = ['a', 'line\n', '', 'h\u00e9', '\u20ac', '\u{1f600}', '\ud83d', '\ude00', '\uffff', 'y'.repeat(500)]
    const pieces: (string | Uint8Array)[] = [...texts, ...texts, uint32(7)]
    const sent: Buffer[] = []
    let before = 0
    let bursts = 0
    let handled = 0
    let isSameTurn = false
    const onMessage = (connection: AnyConnection) => {
      const list = Array.from({ length: random(4) }, () => pieces[random(pieces.length)] ?? '')
      const [first = 'alone'] = list
      const isOne = random(2) === 0
      connection.send(isOne ? first : list, true)
      sent.push(...(isOne ? [first] : list).map((piece) => Buffer.from(piece as string)))
      const all = sent.reduce((sum, { length }) => sum + length, 0)
      if (random(3) === 0) assert.is(connection.bytesWritten, all, `written ${connection.bytesWritten} of ${all}`)
      if (++handled % 20 === 1) {
        isSameTurn = connection.bytesRead === bursts * 20
        setImmediate(() => {
          isSameTurn = false // what was sent may have left meanwhile
        })
      }
      if (random(3) === 0 && isSameTurn) assert.is(connection.getSendBufferQueueSize(), all - before, 'queued')
    }
    await withServer(transport, text, { onMessage }, async ({ worker, connect, connections, errors }) => {
      const client = await connect()
      while (bursts < 200) {
        bursts++
        client.socket.write('\n'.repeat(20))
        await until(() => worker.counters.messagesIn === bursts * 20 || errors.length > 0)
        assert.equal(errors, [])
        const { length } = Buffer.concat(sent)
        await until(() => client.chunks.reduce((sum, chunk) => sum + chunk.length, 0) === length)
        await until(() => connections[0]?.getSendBufferQueueSize() === 0)
        before = length
      }
      assert.ok(Buffer.concat(client.chunks).equals(Buffer.concat(sent)))
      assert.equal([connections[0]?.bytesWritten, worker.counters.bytesOut, errors], [before, before, []])
    })
  })

  it('a body whose request is begun by the answer to the one before it, from elsewhere, is received in order', async () => {
    const body = Buffer.from(Uint32Array.from({ length: 150_000 }, (_, at) => at).buffer)
    const head = `POST /up HTTP/1.1\r\nHost: x\r\nContent-Length: ${body.length}\r\n\r\n`
    let waiting: AnyConnection | null = null
    const answer = (connection: AnyConnection, request: Request) => {
      if (request.path === '/wait') waiting = connection
      else if (request.path === '/up') connection.send(request.rawBody().equals(body) ? 'whole' : 'torn')
      else {
        waiting?.send('released')
        connection.send('ok')
      }
    }
    const onMessage = (connection: AnyConnection, request: unknown) => answer(connection, request as Request)
    await withServer(transport, http(), { onMessage }, async ({ connect, connections }) => {
      const releaser = await connect()
      const sender = await connect()
      sender.socket.write('GET /wait HTTP/1.1\r\nHost: x\r\n\r\n')
      await until(() => waiting !== null)
      sender.socket.write(Buffer.concat([Buffer.from(head), body.subarray(0, 1000)]))
      await until(() => (connections[1]?.bytesRead ?? 0) > 1000)
      releaser.socket.write('GET /release HTTP/1.1\r\nHost: x\r\n\r\n') // one batch, in this order
      sender.socket.write(body.subarray(1000))
      await until(() => /(whole|torn)$/.test(sender.received))
      assert.match(sender.received, /released[\s\S]*whole$/)
    })
  })

  it('text that is sent while a read is handled fills the send buffer by its bytes', async () => {
    const taken: boolean[] = []
    const onMessage = (connection: AnyConnection, line: unknown) => {
      if (line !== 'fill') return void taken.push(connection.send('\u20ac'.repeat(10))) // 31 bytes, 11 characters
      connection.send(bytesOf(MIB - 1), true) // more than the kernel takes
      connection.maxSendBufferSize = connection.getSendBufferQueueSize() + 300
    }
    await withUnixServer(transport, text, { onMessage }, async ({ connect, connections }) => {
      const client = await connect()
      client.socket.write(`fill\n${'\n'.repeat(12)}`) // as few as are handled at once, however slow
      await until(() => taken.length === 12)
      assert.is(connections[0]?.bytesRead, 17)
      assert.equal(taken, [...Array(9).fill(true), ...Array(3).fill(false)])
      await client.expect(`${'x'.repeat(MIB - 1)}${`${'\u20ac'.repeat(10)}\n`.repeat(10)}`)
    })
  })

  // The kernel has room for all of it, but is asked only when a batch ends unless somebody wants to know.
  const piece = Buffer.alloc(1024, 'p')
  for (const [what, message, times, maxSendBufferSize] of [
    ['one Buffer many times', () => piece, 1100, MIB],
    ['small Buffers', () => Buffer.from(piece), 1100, MIB],
    ['Buffers that fill the ring', () => Buffer.alloc(16_384, 'q'), 68, MIB],
    ['more than a small limit', () => Buffer.alloc(10_000, 'r'), 15, 100_000],
    ['text', () => 'ä'.repeat(500), 200, 100_000],
    ['text, over a tiny limit', () => 'ä'.repeat(50), 100, 300],
  ] as const)
    for (const place of ['tcp', 'unix'] as const)
      it(`nothing is refused that the kernel was not asked to take (${place}): ${what}`, async () => {
        const events: string[] = []
        let refused = 0
        let highest = 0
        let size = 0
        const onMessage = (connection: AnyConnection) => {
          for (let n = 0; n < times; n++) {
            if (!connection.send(message())) refused++
            highest = Math.max(highest, connection.getSendBufferQueueSize())
          }
          size = connection.bytesWritten
        }
        const settings = { maxSendBufferSize, onMessage, onBufferFull: () => events.push('full') }
        const use = async ({ connect, errors }: TestServer) => {
          const client = await connect()
          client.socket.write('go')
          await until(() => size > 0 && Buffer.concat(client.chunks).length === size)
          assert.is(size, times * Buffer.byteLength(message()))
          assert.equal([refused, events, errors], [0, [], []])
          // A Unix socket takes less at once.
          if (place === 'tcp') assert.ok(highest <= 65_536, `${highest} bytes were queued`)
        }
        await (place === 'tcp' ? withServer : withUnixServer)(transport, tcp, settings, use)
      })

  for (const [times, options] of [
    [700, {}],
    [20, { slowBytes: 5000 }],
  ] as const)
    it(`a broadcast is dropped for no connection that takes it all (${times} at once)`, async () => {
      const onMessage = ({ worker }: AnyConnection) => {
        for (let n = 0; n < times; n++) {
          const { sent, dropped } = broadcast(worker.connections.values(), Buffer.from(piece), options)
          total.sent += sent
          total.dropped += dropped
        }
      }
      const total = { sent: 0, dropped: 0 }
      await withServer(transport, tcp, { onMessage }, async ({ connect }) => {
        const clients = [await connect(), await connect()]
        clients[0]?.socket.write('go')
        await until(() => total.sent > 0)
        assert.equal(total, { sent: 2 * times, dropped: 0 })
        await until(() => clients.every((client) => Buffer.concat(client.chunks).length === times * piece.length))
      })
    })

  it('what is sent while a read is handled is not lost when somebody asks how much it is at the end of the stack', async () => {
    let rounds = 0
    const onMessage = (connection: AnyConnection, line: unknown) => {
      connection.send(`\u20ac${line}`)
      const deep = (...more: unknown[]): number => {
        try {
          return deep(...more)
        } catch {
          return connection.bytesWritten // throws again, until there is room enough
        }
      }
      // Frames of many sizes: the stack ends at each step of what is asked for.
      if (line === 'deep') assert.ok(deep(...Array(rounds % 32)) > 0)
    }
    await withServer(transport, text, { onMessage }, async ({ connect, connections, errors }) => {
      const client = await connect()
      let all = ''
      for (; rounds < 96; rounds++) {
        client.socket.write('1\n2\n3\ndeep\n4\n5\n\n')
        all += ['1', '2', '3', 'deep', '4', '5', ''].map((line) => `\u20ac${line}\n`).join('')
        await client.expect(all)
      }
      assert.equal([connections[0]?.bytesWritten, errors], [Buffer.byteLength(all), []])
    })
  })

  for (const [how, rest] of [
    ['close', 'last\n'],
    ['end', 'last\n'],
    ['destroy', ''],
  ] as const)
    it(`${how}() comes after what was sent while a read is handled`, async () => {
      const onMessage = (connection: AnyConnection, line: unknown) => {
        connection.send(`\u20ac${line}`)
        if (line !== '4') return
        if (how === 'destroy') connection.destroy()
        else connection[how]('last')
      }
      await withServer(transport, text, { onMessage }, async ({ connect, connections }) => {
        const client = await connect()
        client.socket.write('1\n2\n3\n4\n5\n')
        await until(() => client.hasEnded)
        const all = ['1', '2', '3', '4'].map((line) => `\u20ac${line}\n`).join('') + rest
        if (how !== 'destroy') assert.is(client.received, all) // what is queued then is lost
        assert.is(connections[0]?.bytesWritten, Buffer.byteLength(all))
      })
    })

  it('a large message to a slow reader makes progress that can be seen', async () => {
    await withServer(transport, tcp, { maxSendBufferSize: 64 * MIB }, async ({ connect, connections, worker }) => {
      const client = await connect()
      const connection = await until(() => connections[0])
      client.socket.on('data', () => {
        client.socket.pause()
        setImmediate(() => client.socket.resume())
      })
      connection.close(bytesOf(32 * MIB))
      const sizes = new Set<number>()
      while (worker.connections.size > 0) {
        sizes.add(connection.getSendBufferQueueSize())
        await nextTurn()
      }
      assert.ok(sizes.size > 10, `${sizes.size} different sizes`)
      await client.closed()
      assert.is(Buffer.concat(client.chunks).length, 32 * MIB)
    })
  })

  it('a client that never reads costs bounded memory, and close() ends after all', async () => {
    const events: string[] = []
    const settings = {
      maxSendBufferSize: 4 * MIB,
      onBufferFull: () => events.push('full'),
      onBufferDrain: () => events.push('drain'),
    }
    await withServer(transport, tcp, settings, async ({ connect, connections, errors, worker }) => {
      const client = await connect()
      client.socket.pause()
      const connection = await until(() => connections[0])
      // What both kernels' buffers take comes on top of our limit.
      let sent = 0
      while (sent < 100 * MIB && connection.send(bytesOf(65_536))) {
        sent += 65_536
        await nextTurn()
      }
      assert.ok(sent < 100 * MIB)
      assert.ok(connection.getSendBufferQueueSize() < 5 * MIB)
      assert.equal(events, ['full'])
      assert.is(connection.send(bytesOf(1)), false)
      assert.equal(errors, ['2 send buffer full and drop package'])
      client.socket.resume()
      await until(() => events.length === 2)
      assert.equal(events, ['full', 'drain'])
      client.socket.pause()
      while (connection.send(bytesOf(65_536))) await nextTurn()
      connection.close()
      assert.is(connection.getStatus(false), 'CLOSING')
      assert.is(worker.connections.size, 1)
      client.socket.destroy()
      await until(() => worker.connections.size === 0)
    })
  })

  it('after half-close of the client, an asynchronous handler still answers', async () => {
    const gate = deferred()
    const onMessage = async (connection: AnyConnection, line: unknown) => {
      await gate.promise
      connection.send(`${line}!`)
    }
    await withServer(transport, text, { onMessage }, async ({ connect, worker }) => {
      const client = await connect({ allowHalfOpen: true })
      client.socket.end('one\ntwo\n')
      await until(() => worker.counters.messagesIn === 1)
      await nextTurn()
      gate.resolve()
      await until(() => client.hasEnded)
      assert.is(client.received, 'one!\ntwo!\n')
    })
  })

  it('a reset with bytes queued is reported: the message was not sent', async () => {
    const reasons: unknown[] = []
    const onClose = (connection: AnyConnection) => reasons.push(connection.closeReason)
    await withServer(transport, tcp, { onClose }, async ({ connect, connections, errors, worker }) => {
      const client = await connect()
      client.socket.pause()
      const connection = await until(() => connections[0])
      while (connection.send(bytesOf(65_536))) await nextTurn()
      client.socket.resetAndDestroy()
      await until(() => reasons.length > 0)
      assert.equal(reasons, ['error'])
      assert.is(errors.length, 1)
      assert.match(errors[0] ?? '', /^2 client closed, \d+ bytes not sent$/)
      assert.is(worker.counters.sendFail, 1)
    })
  })

  it('a reset with nothing queued is a close and no error', async () => {
    const reasons: unknown[] = []
    const onClose = (connection: AnyConnection) => reasons.push(connection.closeReason)
    await withServer(transport, text, { onClose, onMessage: echo }, async ({ connect, errors }) => {
      const client = await connect()
      client.socket.write('a\n')
      await client.expect('a\n')
      client.socket.resetAndDestroy()
      await until(() => reasons.length > 0)
      assert.equal(reasons, ['error'])
      assert.equal(errors, [])
    })
  })

  it('who detaches what has been sent harms its own connection at most', async () => {
    const errors: (Error | undefined)[] = []
    const onMessage = (connection: AnyConnection, message: unknown) => {
      if (message !== 'detach') return connection.send(message)
      const bytes = new Uint8Array(20)
      connection.send(bytes, true)
      return void structuredClone(bytes.buffer, { transfer: [bytes.buffer] })
    }
    const onError = (_: AnyConnection, _code: number, _message: string, error?: Error) => void errors.push(error)
    await withServer(transport, text, { onMessage, onError }, async ({ connect }) => {
      const [bad, good] = [await connect(), await connect()]
      for (const client of [bad, good]) client.socket.write('hello\n')
      for (const client of [bad, good]) await client.expect('hello\n')
      bad.socket.write('detach\n')
      good.socket.write('again\n')
      await good.expect('hello\nagain\n')
      await until(() => bad.isClosed || bad.received.length === 26)
      assert.is(errors.length, bad.isClosed ? 1 : 0)
    })
  })

  it('who detaches what waits for a peer learns of it from onError, not from a later send()', async () => {
    const settings = { maxSendBufferSize: 64 * MIB, onError: () => undefined }
    await withServer(transport, text, settings, async ({ connect, connections, worker }) => {
      const client = await connect()
      client.socket.pause()
      const connection = await until(() => connections[0])
      connection.send(new Uint8Array(16 * MIB), true)
      const bytes = new Uint8Array(20)
      for (let count = 0; count < 6000; count++) {
        connection.send(count === 3000 ? bytes : 'x', true)
        if (count === 3000) structuredClone(bytes.buffer, { transfer: [bytes.buffer] })
      }
      connection.close()
      client.socket.resume()
      await until(() => worker.counters.closed === 1)
    })
  })

  // node:net destroys a Unix stream at the first write that fails, with what it has received.
  for (const place of transport === nodeEngine ? ['tcp'] : ['tcp', 'unix']) {
    it(`what a peer on ${place} has said before it went is heard, also by who writes to it first`, async () => {
      const heard: unknown[] = []
      const onMessage = (_: AnyConnection, message: unknown) => heard.push(message)
      const use = async ({ connect, connections, worker }: TestServer) => {
        for (let count = 1; count <= 20; count++) {
          const client = await connect()
          const connection = await until(() => connections[count - 1])
          connection.send('news') // if it is unread, TCP resets; a Unix socket just ends
          client.socket.write('last words\n')
          client.socket.destroy()
          connection.send('to nobody')
          await until(() => worker.counters.closed === count)
        }
        assert.is(heard.length, 20)
      }
      const settings = { onMessage, onError: () => undefined }
      await (place === 'tcp' ? withServer : withUnixServer)(transport, text, settings, use)
    })
  }

  it('a connection paused for long loses nothing', async () => {
    let bytes = 0
    const onMessage = (connection: AnyConnection, chunk: unknown) => {
      bytes += (chunk as Buffer).length
      connection.pauseRecv()
      setImmediate(() => connection.resumeRecv())
    }
    await withServer(transport, tcp, { onMessage }, async ({ connect, worker }) => {
      const client = await connect()
      client.socket.end(bytesOf(MIB))
      await until(() => worker.counters.closed === 1)
      assert.is(bytes, MIB)
    })
  })

  it('a fast source piped into a slow sink: bounded queues, and every byte arrives', async () => {
    const piped: AnyConnection[] = []
    let highest = 0
    const onConnect = (connection: AnyConnection) => {
      piped.push(connection)
      const [one, two] = piped
      if (one === undefined || two === undefined) return connection.pauseRecv()
      one.pipe(two)
      two.pipe(one)
      one.resumeRecv()
    }
    const settings = { onConnect, maxSendBufferSize: 256 * 1024 }
    await withServer(transport, tcp, settings, async ({ connect, errors }) => {
      const source = await connect({ allowHalfOpen: true })
      const sink = await connect({ allowHalfOpen: true })
      await until(() => piped.length === 2)
      const total = 24 * MIB
      const pattern = Buffer.allocUnsafe(total)
      for (let i = 0; i < total; i++) pattern[i] = i % 251
      let received = 0
      let wrong = 0
      const look = (chunk: Buffer) => {
        for (let i = 0; i < chunk.length; i += 4096) if (chunk[i] !== (received + i) % 251) wrong++
        received += chunk.length
        for (const connection of piped) highest = Math.max(highest, connection.getSendBufferQueueSize())
        sink.socket.pause() // a slow one
        setImmediate(() => sink.socket.resume())
      }
      sink.socket.removeAllListeners('data').on('data', look)
      source.socket.write(pattern)
      // The other way at the same time
      sink.socket.write(bytesOf(4 * MIB))
      await until(() => received === total && Buffer.concat(source.chunks).length === 4 * MIB, 30_000)
      assert.is(wrong, 0)
      assert.ok(highest < MIB, `${highest} bytes were queued`)
      source.socket.end()
      await until(() => sink.hasEnded)
      assert.equal(errors, [])
    })
  })

  it('end() delivers the last message to a peer that is still sending', async () => {
    const onMessage = (connection: AnyConnection) => connection.end('no more')
    await withServer(transport, text, { onMessage }, async ({ connect, worker }) => {
      const client = await connect({ allowHalfOpen: true })
      const line = `${'x'.repeat(1023)}\n`
      client.socket.write(line.repeat(100))
      while (!client.hasEnded) {
        client.socket.write(line)
        await nextTurn()
      }
      assert.is(client.received, 'no more\n')
      assert.is(client.error, null)
      client.socket.end()
      await until(() => worker.connections.size === 0)
    })
  })

  it('close() and end() inside onConnect reach the client', async () => {
    for (const how of ['close', 'end'] as const) {
      const onConnect = (connection: AnyConnection) => connection[how]('full house')
      await withServer(transport, text, { onConnect }, async ({ connect, worker }) => {
        const client = await connect()
        await client.closed()
        assert.is(client.received, 'full house\n')
        await until(() => worker.connections.size === 0)
      })
    }
  })

  it('destroy() inside onConnect leaves nothing', async () => {
    const onConnect = (connection: AnyConnection) => connection.destroy()
    await withServer(transport, text, { onConnect }, async ({ connect, worker }) => {
      const client = await connect()
      await client.closed()
      assert.is(worker.connections.size, 0)
      assert.is(worker.counters.closed, 1)
    })
  })

  it('a packet over the limit closes that connection and no other', async () => {
    const settings = { maxPackageSize: 64, onMessage: echo }
    await withServer(transport, text, settings, async ({ connect, errors }) => {
      const good = await connect()
      const bad = await connect()
      bad.socket.write('x'.repeat(65))
      await bad.closed()
      assert.match(errors[0] ?? '', /^3 a packet of \d+ bytes or more is over the limit of 64$/)
      good.socket.write('still here\n')
      await good.expect('still here\n')
    })
  })

  it('long packets arrive whole and in order, however they are cut', async () => {
    const random = randomOf(seedOf(`${transport.name}: long packets`))
    const packets = [MIB + 7, 200_000, 40, 3 * MIB, 65_532, 90_000, 1, 400_000].map((size) => noise(random, size))
    const heads = packets.map(({ length }) => uint32(length + 4)) // frame: the length counts itself
    const stream = Buffer.concat(packets.flatMap((packet, at) => [heads[at] as Buffer, packet]))
    const seen: Buffer[] = []
    const onMessage = (_connection: AnyConnection, message: unknown) => void seen.push(message as Buffer)
    const settings = { maxPackageSize: 4 * MIB, onMessage }
    await withServer(transport, frame, settings, async ({ connect, connections }) => {
      const client = await connect()
      for (let round = 0; round < 4; round++) {
        seen.length = 0
        for (let at = 0; at < stream.length; ) {
          const size = 1 + random(random(4) === 0 ? 2000 : 700_000)
          if (!client.socket.write(stream.subarray(at, at + size))) await once(client.socket, 'drain')
          at += size
        }
        await until(() => seen.length === packets.length)
        for (const [at, packet] of packets.entries()) assert.ok(packet.equals(seen[at] as Buffer), `packet ${at}`)
        assert.is(connections[0]?.bytesRead, stream.length * (round + 1))
      }
    })
  })

  it('a long packet waits for who has paused, and for handlers before it', async () => {
    const packets = Array.from({ length: 6 }, (_, at) => Buffer.alloc(600_000 + at, 97 + at))
    const seen: string[] = []
    const onMessage = async (connection: AnyConnection, bytes: unknown) => {
      const message = bytes as Buffer
      seen.push(`${message.length} ${String.fromCharCode(message[0] as number, message.at(-1) as number)}`)
      connection.pauseRecv()
      await nextTurn()
      connection.resumeRecv()
    }
    await withServer(transport, frame, { maxPackageSize: MIB, onMessage }, async ({ connect }) => {
      const client = await connect()
      for (const packet of packets) client.socket.write(Buffer.concat([uint32(packet.length + 4), packet]))
      await until(() => seen.length === packets.length)
      assert.equal(
        seen,
        [...'abcdef'].map((letter, at) => `${600_000 + at} ${letter}${letter}`),
      )
    })
  })

  it('long bodies arrive whole, one request behind the other', async () => {
    const random = randomOf(seedOf(`${transport.name}: long bodies`))
    const bodies = [MIB * 2 + 3, 70_000, 0, 500_000, 33_000].map((size) => noise(random, size))
    const seen: Buffer[] = []
    const onMessage = (connection: AnyConnection, request: unknown) => {
      seen.push((request as Request).rawBody())
      connection.send(String(seen.length))
    }
    await withServer(transport, http(), { maxPackageSize: 4 * MIB, onMessage }, async ({ connect }) => {
      const client = await connect()
      for (const body of bodies)
        client.socket.write(
          Buffer.concat([Buffer.from(`POST / HTTP/1.1\r\nHost: a\r\nContent-Length: ${body.length}\r\n\r\n`), body]),
        )
      await until(() => seen.length === bodies.length)
      for (const [at, body] of bodies.entries()) assert.ok(body.equals(seen[at] as Buffer), `body ${at}`)
      await until(() => client.received.endsWith('5'))
    })
  })

  for (const how of ['reset', 'FIN'] as const)
    it(`a ${how} in the middle of a long packet is told once, and the packet is not`, async () => {
      const seen: unknown[] = []
      const settings = {
        maxPackageSize: 8 * MIB,
        onMessage: (_connection: AnyConnection, message: unknown) => void seen.push((message as Buffer).length),
        onClose: (connection: AnyConnection) => void seen.push(connection.closeReason),
      }
      await withServer(transport, frame, settings, async ({ connect, connections }) => {
        const client = await connect()
        client.socket.write(Buffer.concat([uint32(6 * MIB), bytesOf(2 * MIB)]))
        await until(() => connections[0]?.bytesRead === 2 * MIB + 4)
        await new Promise((resolve) => client.socket.write(bytesOf(MIB), resolve))
        if (how === 'reset') client.socket.resetAndDestroy()
        else client.socket.end()
        await until(() => seen.length > 0)
        await nextTurn()
        // libuv tells a reset behind bytes that were just read as an end (uv__stream_io).
        const isSeen = how === 'reset' && (transport.name === 'native' || seen[0] === 'error')
        assert.equal(seen, [isSeen ? 'error' : 'peer'])
      })
    })

  it('a thousand connections opened and dropped leave none in the table', async () => {
    await withServer(transport, text, { onMessage: echo }, async ({ connect, worker, errors }) => {
      for (let round = 0; round < 10; round++) {
        const clients = await Promise.all(Array.from({ length: 100 }, () => connect()))
        await until(() => worker.counters.accepted === (round + 1) * 100) // one that has reset before is not accepted
        for (const [at, { socket }] of clients.entries()) {
          if (at % 4 === 0) socket.destroy()
          else if (at % 4 === 1) socket.resetAndDestroy()
          else if (at % 4 === 2) socket.end('one\nhalf')
          else socket.write('answer me\n', () => socket.destroy())
        }
        await until(() => clients.every((client) => client.isClosed))
      }
      await until(() => worker.counters.accepted === 1000 && worker.connections.size === 0)
      assert.is(worker.counters.closed, 1000)
      assert.is(worker.counters.connections, 0)
      assert.equal(
        errors.filter((line) => !line.startsWith('2 client closed')),
        [],
      )
    })
  })

  it('no event follows a destroy', async () => {
    const onMessage = (connection: AnyConnection) => connection.destroy()
    await withServer(transport, text, { onMessage }, async ({ connect, worker, connections }) => {
      const client = await connect()
      client.socket.write('a\nb\n')
      await client.closed()
      assert.is(worker.counters.messagesIn, 1)
      assert.is(connections[0]?.getStatus(), 16)
      assert.is(connections[0]?.send('c'), false)
    })
  })
}

test.run()
