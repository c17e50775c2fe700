// Errors and results of user code that throw in turn when they are looked at. They cost the connection they are about, as
// any error does: not the others, nor the process. On real sockets, over every engine.

import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { text } from '../../protocols/text.ts'
import type { AnyConnection } from '../../src/connection.ts'
import { http } from '../../src/index.ts'
import { sendLogTo } from '../../src/log.ts'
import { nativeEngine } from '../../src/net/native-engine.ts'
import { nodeEngine } from '../../src/net/node-engine.ts'
import type { AnyProtocol } from '../../src/protocol.ts'
import { caseTest } from '../support/length.ts'
import { withServer } from '../support/tcp.ts'
import { until } from '../support/until.ts'

const evil = (what: string): never => {
  throw new Error(`evil ${what}`)
}

/** An Error with this text and these names, one of whose properties throws. */
function unreadable(property: string, own: object = {}): Error {
  return Object.defineProperty(Object.assign(new Error('a fault'), own), property, { get: () => evil(property) })
}

const unawaitable = () => Object.defineProperty({}, 'then', { get: () => evil('then') })
const revoked = () => {
  const { proxy, revoke } = Proxy.revocable({}, {})
  revoke()
  return proxy
}

const THROWN: Record<string, () => unknown> = {
  name: () => unreadable('name'),
  message: () => unreadable('message'),
  stack: () => unreadable('stack'),
  cause: () => unreadable('cause', { name: 'AbortError' }),
  'cause, revoked': () => Object.assign(new Error('a fault', { cause: revoked() }), { name: 'AbortError' }),
}
const TEXTS: Record<string, string> = { message: 'something that has no text' }

async function logIn(use: () => unknown): Promise<string[]> {
  const logged: string[] = []
  sendLogTo((line) => logged.push(line))
  try {
    await use()
  } finally {
    sendLogTo(null)
  }
  return logged
}

const framing = (own: object): AnyProtocol => ({ ...text, decodeText: undefined, decodeAt: undefined, ...own }) as never

for (const engine of [nodeEngine, nativeEngine()].filter((one) => one !== null)) {
  const isFirst = engine === nodeEngine
  for (const [what, make] of Object.entries(THROWN))
    caseTest(isFirst || what === 'name')(
      `${engine.name}: an error without a readable ${what} is one of its connection`,
      async () => {
        const why = TEXTS[what] ?? 'a fault'
        const onMessage = (connection: AnyConnection, message: unknown) => {
          if (message === 'later') return Promise.reject(make())
          if (message === 'at once') throw make()
          return connection.send(message)
        }
        const decode = (packet: Buffer) => {
          if (packet.includes('decode')) throw make()
          return packet.toString('utf8', 0, packet.length - 1)
        }
        const encode = (message: string) => {
          if (message === 'encode') throw make()
          return `${message}\n`
        }
        await withServer(engine, framing({ decode, encode }), { onMessage }, async ({ connect, errors, worker }) => {
          const good = await connect()
          for (const [word, error] of [
            ['later', `4 ${why}`],
            ['at once', `4 ${why}`],
            ['decode', `3 ${why}`],
            ['encode', `4 protocol 'text' cannot encode this message: ${why}`],
          ] as const) {
            const bad = await connect()
            bad.socket.write(`${word}\n`)
            await bad.closed()
            assert.equal(errors.splice(0), [error], word)
          }
          good.socket.write('good\n')
          await good.expect('good\n')
          assert.equal([worker.connections.size, worker.counters.connections], [1, 1])
        })
      },
    )

  test(`${engine.name}: a ProtocolError of another package is told though its code cannot be read`, async () => {
    const decode = (packet: Buffer) => {
      if (packet.includes('bad')) throw unreadable('closeCode', { name: 'ProtocolError' })
      return String(packet)
    }
    await withServer(engine, framing({ decode }), {}, async ({ connect, errors, worker }) => {
      const bad = await connect()
      bad.socket.write('bad\n')
      await bad.closed()
      assert.equal([errors, worker.counters.connections], [['3 a fault'], 0])
    })
  })

  test(`${engine.name}: a request whose handler throws what cannot be read is answered`, async () => {
    const onMessage = () => {
      throw unreadable('statusHint')
    }
    await withServer(engine, http(), { onMessage }, async ({ connect, errors }) => {
      const client = await connect()
      client.socket.write('GET / HTTP/1.1\r\nHost: a\r\n\r\n')
      await client.closed()
      assert.match(client.received, /^HTTP\/1\.1 500 /)
      assert.equal(errors, ['4 a fault'])
    })
  })

  for (const callback of ['onConnect', 'onMessage', 'onClose', 'onError', 'onBufferFull'] as const)
    caseTest(isFirst || callback === 'onConnect')(
      `${engine.name}: ${callback} answers with what cannot be awaited`,
      async () => {
        const own = { [callback]: unawaitable }
        const onMessage = (connection: AnyConnection, message: unknown) => {
          if (message === 'onClose') connection.close()
          else if (message === 'onError') throw new Error('a fault')
          else connection.send('x'.repeat(8_000_000))
        }
        const settings = { onMessage, maxSendBufferSize: 10, ...own }
        const logged = await logIn(() =>
          withServer(engine, text, settings, async ({ connect, connections, errors, worker }) => {
            const bad = await connect()
            bad.socket.write(`${callback}\n`)
            await bad.closed()
            await until(() => worker.unsettled === 0)
            assert.equal(
              errors.filter((error) => !error.startsWith('2 ')),
              [callback === 'onError' ? '4 a fault' : '4 evil then'],
            )
            assert.equal([worker.connections.size, worker.counters.connections], [0, 0])
            assert.is(connections[0]?.getStatus(false), 'CLOSED')
          }),
        )
        assert.equal(
          logged.some((line) => line.includes('evil then')),
          callback === 'onError',
        )
      },
    )
}

test.run()
