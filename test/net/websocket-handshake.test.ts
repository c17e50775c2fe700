// What is sent during the handshake of a WebSocket, over real sockets: by a client, and by a server that takes its time.

import type net from 'node:net'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import WebSocket from 'ws'
import { unsentByClients } from '../../src/client/client-host.ts'
import { type AnyConnection, AsyncTcpConnection, CloseFrame, Response, tcp, websocket } from '../../src/index.ts'
import { nativeEngine } from '../../src/net/native-engine.ts'
import { nodeEngine } from '../../src/net/node-engine.ts'
import { caseTest } from '../support/length.ts'
import { type ServerSettings, withServer } from '../support/tcp.ts'
import { nextTurn, until } from '../support/until.ts'

/** A server's decisions, which a test makes when it wants to. */
function gate() {
  const waiting: ((answer: unknown) => void)[] = []
  const settings = { onWebSocketConnect: () => new Promise((resolve) => waiting.push(resolve)) }
  return {
    waiting,
    settings: settings as ServerSettings,
    decide(answer: unknown = true) {
      for (const resolve of waiting.splice(0)) resolve(answer)
    },
  }
}

function errorsOf(client: AnyConnection): string[] {
  const errors: string[] = []
  client.onError = (_client, code, message) => void errors.push(`${code} ${message}`)
  return errors
}

const engines = [nodeEngine, nativeEngine()].filter((one) => one !== null)

for (const engine of engines)
  caseTest(engine === engines[0])(
    `${engine.name}: a pipe into a client loses nothing while its handshake takes time`,
    async () => {
      const size = 3_000_000
      const door = gate()
      let got = 0
      const count = (_sink: AnyConnection, message: unknown) => {
        got += (message as Buffer).length
      }
      await withServer(engine, websocket(), { ...door.settings, onMessage: count }, async (sink) => {
        const fronts: AsyncTcpConnection<string, typeof websocket>[] = []
        const errors: string[] = []
        const onConnect = (connection: AnyConnection) => {
          const upstream = new AsyncTcpConnection(`ws://${sink.endpoint}`)
          upstream.onError = (_upstream, code, message) => void errors.push(`${code} ${message}`)
          fronts.push(upstream as never)
          connection.pipe(upstream)
          upstream.connect()
        }
        await withServer(engine, tcp, { onConnect }, async (front) => {
          const { socket } = await front.connect()
          socket.write(Buffer.alloc(size, 1))
          await until(() => (fronts[0]?.getSendBufferQueueSize() ?? 0) >= 1_048_576 && door.waiting.length === 1)
          assert.is(got, 0)
          door.decide()
          await until(() => got >= size || errors.length > 0)
          assert.equal([got, errors], [size, []])
          fronts[0]?.destroy()
        })
      })
    },
  )

test('a sender that stops at false loses nothing during the handshake, and hears that it may go on', async () => {
  const door = gate()
  const got: string[] = []
  await withServer(
    nodeEngine,
    websocket(),
    { ...door.settings, onMessage: (_c: AnyConnection, m: unknown) => void got.push(String(m)) },
    async ({ endpoint }) => {
      const client = new AsyncTcpConnection(`ws://${endpoint}`, { maxSendBufferSize: 1000 })
      const errors = errorsOf(client)
      const events: string[] = []
      client.onBufferFull = () => void events.push('full')
      client.onBufferDrain = () => void events.push('drain')
      const results: boolean[] = []
      client.onConnect = () => {
        for (const letter of 'abcd') results.push(client.send(letter.repeat(300)))
        assert.ok(client.getSendBufferQueueSize() >= 1200) // the request of the handshake comes on top
        assert.not(client.bufferIsEmpty())
      }
      client.connect()
      await until(() => door.waiting.length === 1)
      assert.equal(results, [true, true, true, false])
      assert.equal([errors, events], [[], ['full']])
      assert.is(client.send('one too many'), false)
      assert.equal(errors, ['2 send buffer full and drop package'])
      door.decide()
      await until(() => events.includes('drain') && got.length === 4)
      assert.equal(events, ['full', 'drain'])
      assert.equal(got.map((message) => message[0]).join(''), 'abcd')
      assert.is(client.getSendBufferQueueSize(), 0)
      client.destroy()
    },
  )
})

for (const engine of engines)
  caseTest(engine === engines.at(-1))(
    `${engine.name}: a client that stops receiving while its buffer is full shakes hands all the same`,
    async () => {
      const got: string[] = []
      const onMessage = (connection: AnyConnection, message: unknown) => {
        got.push(String(message))
        connection.send(`answer to ${got.length}`)
      }
      await withServer(engine, websocket(), { onMessage }, async ({ endpoint }) => {
        const client = new AsyncTcpConnection(`ws://${endpoint}`, { maxSendBufferSize: 1000 })
        const errors = errorsOf(client)
        const events: string[] = []
        client.onMessage = (_client, message) => void events.push(String(message))
        client.onBufferFull = () => {
          events.push('full')
          client.pauseRecv()
        }
        client.onBufferDrain = () => {
          events.push('drain')
          client.resumeRecv()
        }
        client.connect()
        while (client.send('x'.repeat(400)));
        await until(() => got.length === 3 && events.includes('answer to 3'))
        assert.equal([events, errors], [['full', 'drain', 'answer to 1', 'answer to 2', 'answer to 3'], []])
        client.destroy()
      })
    },
  )

for (const engine of engines)
  caseTest(engine === engines.at(-1))(
    `${engine.name}: messages wait for resumeRecv() though what was sent before the handshake has left`,
    async () => {
      const got: string[] = []
      const onConnect = (connection: AnyConnection) => {
        connection.pauseRecv()
        connection.send('welcome')
      }
      const onMessage = (_connection: AnyConnection, message: unknown) => void got.push(String(message))
      await withServer(engine, websocket(), { onConnect, onMessage }, async ({ endpoint, connections, errors }) => {
        const client = new AsyncTcpConnection(`ws://${endpoint}`)
        const heard: unknown[] = []
        client.onMessage = (_client, message) => void heard.push(message)
        for (const message of ['one', 'two']) client.send(message)
        client.connect()
        await until(() => heard.length === 1)
        await until(() => client.bufferIsEmpty())
        for (let turn = 0; turn < 10; turn++) await nextTurn() // they would have been received by now
        assert.equal([heard, got], [['welcome'], []])
        connections[0]?.resumeRecv()
        await until(() => got.length === 2)
        assert.equal([got, errors], [['one', 'two'], []])
        client.destroy()
      })
    },
  )

/** Sends what fills its buffer before the handshake, and has its peer's messages sent on to `to`. */
function pipeWhenFull(connection: AnyConnection, to: AnyConnection): void {
  connection.send('x'.repeat(2000))
  connection.pipe(to)
}

for (const engine of engines)
  caseTest(engine === engines[0])(
    `${engine.name}: a full WebSocket that is piped into itself, or both ways, shakes hands all the same`,
    async () => {
      const limits = { maxSendBufferSize: 1000 }
      const echo = (connection: AnyConnection) => pipeWhenFull(connection, connection)
      await withServer(engine, websocket(), { ...limits, onConnect: echo }, async (echoing) => {
        const proxy = (connection: AnyConnection) => {
          const upstream = new AsyncTcpConnection(`ws://${echoing.endpoint}`, limits)
          pipeWhenFull(upstream as AnyConnection, connection)
          pipeWhenFull(connection, upstream as AnyConnection)
          upstream.connect()
        }
        await withServer(engine, websocket(), { ...limits, onConnect: proxy }, async (front) => {
          const client = new AsyncTcpConnection(`ws://${front.endpoint}`)
          let size = 0
          client.onMessage = (_client, message) => {
            size += String(message).length
          }
          client.connect()
          await until(() => size === 6000) // of the front, of the echo, and what the front's client has got back of it
          assert.equal([front.errors, echoing.errors], [[], []])
          client.destroy()
        })
      })
    },
  )

test('what waits for a handshake that fails is sent by the next one', async () => {
  let attempts = 0
  const got: string[] = []
  const onWebSocketConnect = () => (++attempts === 1 ? new Response(503, {}, 'restarting\n') : true)
  await withServer(
    nodeEngine,
    websocket(),
    { onWebSocketConnect, onMessage: (_c: AnyConnection, m: unknown) => void got.push(String(m)) } as never,
    async ({ endpoint }) => {
      const client = new AsyncTcpConnection(`ws://${endpoint}`)
      const errors = errorsOf(client)
      client.onClose = () => client.reconnect(0)
      assert.ok(client.send('before it connects'))
      client.onConnect = () => {
        if (attempts === 0) client.send('during the handshake')
      }
      client.connect()
      await until(() => got.length === 2)
      assert.equal(got, ['before it connects', 'during the handshake'])
      assert.equal(errors, ['3 the server answered 503'])
      client.onClose = null
      client.destroy()
    },
  )
})

test('what waits for a handshake that fails for good is reported', async () => {
  await withServer(nodeEngine, websocket(), { onWebSocketConnect: () => false } as never, async ({ endpoint }) => {
    const client = new AsyncTcpConnection(`ws://${endpoint}`)
    const errors = errorsOf(client)
    for (const message of ['one', 'two']) assert.ok(client.send(message))
    client.connect()
    await until(() => errors.length === 2)
    assert.equal(errors, ['3 the server answered 403', '2 2 messages not sent'])
    assert.equal([client.getStatus(false), client.getSendBufferQueueSize()], ['CLOSED', 0])
  })
})

for (const [what, close, code] of [
  ['close()', (client: AnyConnection) => client.close(), 1000],
  ['close(message)', (client: AnyConnection) => client.close('the end'), 1000],
  ['a close frame', (client: AnyConnection) => client.close(new CloseFrame(4001, 'done')), 4001],
  ['end()', (client: AnyConnection) => client.end(), 1000],
] as const)
  caseTest(code === 4001)(`${what} during the handshake sends what was accepted, then closes`, async () => {
    const got: string[] = []
    const codes: number[] = []
    const callbacks = {
      onMessage: (_c: AnyConnection, message: unknown) => void got.push(String(message)),
      onWebSocketClose: (_c: AnyConnection, code: number) => void codes.push(code),
    }
    await withServer(nodeEngine, websocket(), callbacks, async ({ endpoint }) => {
      const client = new AsyncTcpConnection(`ws://${endpoint}`)
      const errors = errorsOf(client)
      client.onConnect = () => {
        client.send('report')
        close(client)
      }
      client.connect()
      await until(() => client.getStatus(false) === 'CLOSED' && codes.length === 1)
      assert.equal(got, what === 'close(message)' ? ['report', 'the end'] : ['report'])
      assert.equal([codes, errors], [[code], []])
    })
  })

test('close() during the handshake gives up at once if nothing waits for it', async () => {
  const door = gate()
  await withServer(nodeEngine, websocket(), door.settings, async ({ endpoint }) => {
    const client = new AsyncTcpConnection(`ws://${endpoint}`)
    const errors = errorsOf(client)
    client.connect()
    await until(() => door.waiting.length === 1)
    client.close()
    assert.equal([client.getStatus(false), errors], ['CLOSED', []])
  })
})

test('a process that leaves waits for what its client has accepted during the handshake', async () => {
  const door = gate()
  await withServer(nodeEngine, websocket(), door.settings, async ({ endpoint }) => {
    const client = new AsyncTcpConnection(`ws://${endpoint}`)
    client.send('last words')
    client.connect()
    await until(() => door.waiting.length === 1)
    assert.equal(unsentByClients(), { clients: 1, bytes: 10 })
    door.decide()
    await until(() => unsentByClients().clients === 0)
    client.destroy()
  })
})

for (const engine of engines)
  caseTest(engine === engines[0])(
    `${engine.name}: a client hears what the server has answered, and may say hello there`,
    async () => {
      const got: string[] = []
      const said: unknown[] = []
      const onWebSocketConnect = (_connection: AnyConnection, _request: unknown, answer: Response) => {
        answer.withStatus(200).setHeader('X-Token', 'abc').setHeader('Set-Cookie', ['a=1', 'b=2'])
      }
      const onMessage = (_connection: AnyConnection, message: unknown) => void got.push(String(message))
      await withServer(engine, websocket(), { onWebSocketConnect, onMessage } as never, async ({ endpoint }) => {
        const client = new AsyncTcpConnection(`ws://${endpoint}`, {
          onConnect: () => void said.push('connect'),
          onWebSocketConnect: (connection, answer) => {
            said.push([answer.status, answer.reason, answer.getHeader('x-token'), answer.getHeader('SET-COOKIE')])
            connection.send('hello')
          },
          onWebSocketConnected: () => void said.push('connected'),
        })
        client.send('before')
        client.connect()
        await until(() => got.length === 2)
        assert.equal(got, ['before', 'hello'])
        assert.equal(said, ['connect', [101, 'Switching Protocols', 'abc', 'a=1, b=2'], 'connected'])
        client.onWebSocketConnect = () => client.close()
        client.onWebSocketConnected = () => void said.push('too late')
        client.onClose = () => void said.push('close')
        client.destroy()
        client.connect()
        await until(() => said.filter((word) => word === 'close').length === 2)
        assert.equal(said.slice(3), ['close', 'connect', 'close'])
      })
    },
  )

test('a server reports what it has accepted for a client that is not admitted', async () => {
  const door = gate()
  const onConnect = (connection: AnyConnection) => void connection.send('welcome')
  await withServer(
    nodeEngine,
    websocket(),
    { ...door.settings, onConnect },
    async ({ endpoint, errors, connections }) => {
      const socket = new WebSocket(`ws://${endpoint}`)
      socket.on('error', () => undefined)
      await until(() => door.waiting.length === 1)
      assert.is(connections[0]?.getSendBufferQueueSize(), 7)
      door.decide(false)
      await until(() => connections[0]?.getStatus(false) === 'CLOSED')
      assert.equal(errors, ['2 1 message not sent'])
    },
  )
})

for (const engine of engines)
  caseTest(engine === engines.at(-1))(
    `${engine.name}: a WebSocket that ends with a reset has the code 1006, as with a FIN`,
    async () => {
      await withServer(engine, websocket(), {}, async ({ endpoint, connections }) => {
        for (const way of ['resetAndDestroy', 'end'] as const) {
          const raw = new WebSocket(`ws://${endpoint}`)
          const socket = new Promise<net.Socket>((resolve) => raw.on('upgrade', (answer) => resolve(answer.socket)))
          ;(await socket)[way]()
          await until(() => connections.at(-1)?.getStatus(false) === 'CLOSED')
          assert.is(connections.at(-1)?.closeCode, 1006, way)
        }
      })
    },
  )

test.run()
