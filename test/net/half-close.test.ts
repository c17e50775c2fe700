// Connections that have sent their FIN, and still have work when their peer's arrives: nothing that was received is
// lost. Over every engine, and under TLS.

import { once } from 'node:events'
import net from 'node:net'
import tls from 'node:tls'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import WebSocket from 'ws'
import { text } from '../../protocols/text.ts'
import { kDrain, kLeave, kShut } from '../../src/connection/symbols.ts'
import type { AnyConnection } from '../../src/connection.ts'
import { withResolvers } from '../../src/deferred.ts'
import { AsyncTcpConnection, websocket } from '../../src/index.ts'
import { nativeEngine } from '../../src/net/native-engine.ts'
import { nodeEngine } from '../../src/net/node-engine.ts'
import { TlsServer } from '../../src/net/tls.ts'
import { nothing } from '../../src/nothing.ts'
import { registry } from '../../src/process/group.ts'
import type { Codec, CodecIo, CodecProtocol } from '../../src/protocol.ts'
import { Authority } from '../support/certificates.ts'
import { caseTest } from '../support/length.ts'
import { withServer } from '../support/tcp.ts'
import { nextTurn, until, within } from '../support/until.ts'

/** Handlers that wait until they may go on, and what has become of them. */
class Slow {
  readonly seen: string[] = []
  readonly #gate = withResolvers()

  readonly settings = {
    onMessage: async (_connection: AnyConnection, message: unknown): Promise<void> => {
      await this.#gate.promise
      this.seen.push(String(message))
    },
    onClose: (connection: AnyConnection): void => {
      this.seen.push(`closed: ${connection.closeReason}`)
    },
  }

  /** Goes on once the engine has told all that it will tell by itself. */
  async goOn(): Promise<void> {
    for (let turn = 0; turn < 20; turn++) await nextTurn()
    assert.equal(this.seen, [])
    this.#gate.resolve()
    await until(() => this.seen.at(-1)?.startsWith('closed'))
  }
}

const engines = [nodeEngine, nativeEngine()].filter((one) => one !== null)
for (const engine of engines) {
  test(`${engine.name}: messages that wait for handlers when both sides have sent FIN are handled, then onClose runs`, async () => {
    const slow = new Slow()
    await withServer(engine, text, slow.settings, async ({ connect, connections, errors }) => {
      const client = await connect({ allowHalfOpen: true })
      const connection = await until(() => connections[0])
      connection[kShut]()
      await until(() => client.hasEnded)
      client.socket.end('one\ntwo\nthree\n')
      await client.closed()
      await slow.goOn()
      assert.equal(slow.seen, ['one', 'two', 'three', 'closed: peer'])
      assert.equal(errors, [])
    })
  })

  test(`${engine.name}: under TLS, too`, async () => {
    const authority = new Authority()
    const { certFile, keyFile } = authority.issue('localhost')
    const slow = new Slow()
    const onConnect = (connection: AnyConnection) => connection.startTls()
    await withServer(engine, text, { ...slow.settings, onConnect }, async ({ connect, connections, worker }) => {
      worker.tls = new TlsServer({ certFile, keyFile }, null)
      const client = await connect({ allowHalfOpen: true })
      const secured = tls.connect({ socket: client.socket, rejectUnauthorized: false })
      await once(secured, 'secureConnect')
      await until(() => connections[0]?.tls)
      connections[0]?.[kShut]()
      secured.resume()
      await once(secured, 'end')
      secured.end('one\ntwo\nthree\n')
      await client.closed()
      await slow.goOn()
      assert.equal(slow.seen, ['one', 'two', 'three', 'closed: peer'])
    })
    authority.remove()
  })

  test(`${engine.name}: messages before a WebSocket's goodbye are handled, however long that takes`, async () => {
    const slow = new Slow()
    const protocol = websocket({ closeTimeoutMs: 50 })
    await withServer(engine, protocol, slow.settings, async ({ endpoint }) => {
      const client = new WebSocket(`ws://${endpoint}`)
      await within(5000, once(client, 'open'))
      for (const message of ['one', 'two', 'three']) client.send(message)
      client.close(1000)
      assert.is((await within(5000, once(client, 'close')))[0], 1000)
      await slow.goOn()
      assert.equal(slow.seen, ['one', 'two', 'three', 'closed: peer'])
    })
  })

  // The client of the proxy has sent FIN, and yields with lines in its codec when the upstream's FIN arrives.
  test(`${engine.name}: of a proxy, an answer behind a slow reader arrives whole after both FINs`, async () => {
    const before = registry().engine
    registry().engine = engine.name
    const answer = 'a line of the answer\n'.repeat(100_000)
    const upstream = net.createServer({ allowHalfOpen: true }, (socket) => {
      socket.resume().on('end', () => socket.end(answer))
    })
    await once(upstream.listen(0, '127.0.0.1'), 'listening')
    const { port } = upstream.address() as net.AddressInfo
    const onConnect = (connection: AnyConnection) => {
      const to = new AsyncTcpConnection(`text://127.0.0.1:${port}`, { maxSendBufferSize: 16_384 })
      connection.maxSendBufferSize = 16_384
      connection.pipe(to)
      to.pipe(connection)
      to.connect()
    }
    try {
      await withServer(engine, text, { onConnect }, async ({ connect }) => {
        const client = await connect({ allowHalfOpen: true })
        client.socket.end('question\n')
        await until(() => client.hasEnded || client.isClosed, 20_000)
        assert.is(client.received.length, answer.length)
      })
    } finally {
      registry().engine = before
      upstream.close()
    }
  })
}

/** Upper case, which takes until `answer()`. The codec says as this property that it owes an answer. */
function taking(property: 'isBusy' | 'isPreparing', more: Partial<Codec<string>>) {
  const due: (() => void)[] = []
  const protocol: CodecProtocol<string, string> = {
    name: 'slow answers',
    open(io: CodecIo<string>) {
      let owed = 0
      const codec: Codec<string> = {
        receive: (bytes) => void io.emit(String(bytes)),
        resumed: nothing,
        send(message) {
          owed++
          due.push(() => {
            io.write(message.toUpperCase())
            owed--
          })
          return true
        },
        drain: nothing,
        timeout: nothing,
        closed: nothing,
        ...more,
      }
      return Object.defineProperty(codec, property, { get: () => owed > 0 })
    },
  }
  return { protocol, due }
}

for (const engine of engines)
  for (const [property, more] of [
    ['isPreparing', {}],
    ['isBusy', { ended: nothing }],
  ] as const)
    test(`${engine.name}: a codec that owes an answer (${property}) sends it after the peer's FIN, and then its own`, async () => {
      const { protocol, due } = taking(property, more)
      const onMessage = (connection: AnyConnection, message: unknown) => void connection.send(message)
      await withServer(engine, protocol, { onMessage }, async ({ connect, connections, errors }) => {
        const client = await connect({ allowHalfOpen: true })
        client.socket.end('question')
        await until(() => due.length === 1)
        for (let turn = 0; turn < 20; turn++) await nextTurn()
        assert.equal([client.hasEnded, connections[0]?.getStatus(false)], [false, 'ESTABLISHED'])
        due[0]?.()
        await until(() => client.hasEnded)
        assert.equal([client.received, errors], ['QUESTION', []])
        client.socket.destroy()
        await until(() => connections[0]?.getStatus(false) === 'CLOSED')
        assert.is(connections[0]?.closeReason, 'peer')
      })
    })

for (const engine of engines)
  caseTest(engine === engines[0])(
    `${engine.name}: a connection that leaves ends with the answer that its codec owes`,
    async () => {
      const { protocol, due } = taking('isBusy', {})
      const onMessage = (connection: AnyConnection, message: unknown) => void connection.send(message)
      await withServer(engine, protocol, { onMessage }, async ({ connect, connections }) => {
        const client = await connect()
        client.socket.write('question')
        await until(() => due.length === 1)
        connections[0]?.[kDrain]()
        connections[0]?.[kLeave]()
        for (let turn = 0; turn < 20; turn++) await nextTurn()
        assert.is(client.hasEnded, false)
        due[0]?.()
        await client.closed()
        assert.equal([client.received, connections[0]?.closeReason], ['QUESTION', 'stopped'])
      })
    },
  )

test.run()
