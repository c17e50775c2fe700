// What is read of a codec, rather than called, may throw as well: that is an error of its connection, on real sockets and
// in the calls of others: a broadcast, a drain, another connection's handler.

import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { broadcast } from '../../src/connection/broadcast.ts'
import { kIsLongLived, kIsOpening, kQuietFor } from '../../src/connection/symbols.ts'
import type { AnyConnection } from '../../src/connection.ts'
import { sendLogTo } from '../../src/log.ts'
import { nativeEngine } from '../../src/net/native-engine.ts'
import { nodeEngine } from '../../src/net/node-engine.ts'
import type { Codec, CodecIo, CodecProtocol } from '../../src/protocol.ts'
import { withServer } from '../support/tcp.ts'
import { until } from '../support/until.ts'

/** One whose peers can say that their connection is to have a codec with this fault. */
function faulty(fault: keyof Codec): CodecProtocol<string, string> {
  return {
    name: 'faulty',
    open(io: CodecIo<string>) {
      let isFaulty = false
      const codec: Codec<string> = {
        receive(bytes) {
          isFaulty ||= String(bytes).startsWith('bad')
          io.emit(String(bytes))
        },
        resumed: () => undefined,
        send: (message) => io.write(message),
        drain: () => undefined,
        timeout: () => undefined,
        ended: () => undefined,
        closed: () => undefined,
      }
      const read = () => {
        if (isFaulty) throw new Error(`${fault} failed`)
        return false
      }
      Object.defineProperty(codec, fault, fault === 'hasAborted' ? { value: read } : { get: read })
      return codec
    },
  }
}

for (const transport of [nodeEngine, nativeEngine()]) {
  const it = (title: string, run: (engine: typeof nodeEngine) => Promise<unknown>) =>
    transport !== null && test(`${transport.name}: ${title}`, async () => void (await run(transport)))
  const echo = (connection: AnyConnection, message: unknown) => connection.send(message)

  it('isBusy: the end of a peer is an error of its connection', async (engine) => {
    await withServer(engine, faulty('isBusy'), { onMessage: echo }, async ({ connect, errors }) => {
      const [bad, good] = [await connect(), await connect()]
      bad.socket.end('bad')
      await bad.closed()
      assert.equal(errors, ['3 isBusy failed'])
      good.socket.write('good')
      await good.expect('good')
    })
  })

  for (const way of ['at once', 'later'] as const)
    it(`hasAborted: what a handler throws ${way} is told, and the other error is logged`, async (engine) => {
      const logged: string[] = []
      const onMessage = (connection: AnyConnection, message: unknown) => {
        if (message === 'good') return echo(connection, message)
        const error = new Error('the handler failed')
        if (way === 'later') return Promise.reject(error)
        throw error
      }
      sendLogTo((line) => logged.push(line))
      try {
        await withServer(engine, faulty('hasAborted'), { onMessage }, async ({ connect, errors, worker }) => {
          const [bad, good] = [await connect(), await connect()]
          bad.socket.write('bad')
          await bad.closed()
          assert.equal([errors, worker.unsettled], [['4 the handler failed'], 0])
          assert.match(logged.join(), /Error: hasAborted failed/)
          good.socket.write('good')
          await good.expect('good')
        })
      } finally {
        sendLogTo(null)
      }
    })

  for (const fault of ['isClosing', 'isOpening'] as const)
    it(`${fault}: a broadcast reaches the others`, async (engine) => {
      await withServer(engine, faulty(fault), {}, async ({ connect, connections, errors, worker }) => {
        const clients = [await connect(), await connect()]
        await until(() => connections.length === 2)
        clients[0]?.socket.write('bad')
        await until(() => worker.counters.messagesIn === 1)
        const bad = connections.find(({ bytesRead }) => bytesRead > 0) as AnyConnection
        const all = [bad, ...connections.filter((one) => one !== bad)]
        assert.equal(broadcast(all, 'to all'), { sent: 1, dropped: 0, closed: 0, conflated: 0 })
        await clients[1]?.expect('to all')
        await clients[0]?.closed()
        assert.equal(errors, [`3 ${fault} failed`])
      })
    })

  it('isPreparing: the idle time-out that asks goes on', async (engine) => {
    await withServer(engine, faulty('isPreparing'), { idleTimeoutMs: 20 }, async ({ connect, errors }) => {
      const bad = await connect()
      bad.socket.write('bad')
      await bad.closed()
      assert.equal(errors, ['3 isPreparing failed'])
    })
  })

  it('closeCode: its connection ends nevertheless', async (engine) => {
    const logged: string[] = []
    sendLogTo((line) => logged.push(line))
    try {
      await withServer(engine, faulty('closeCode'), { onMessage: echo }, async ({ connect, connections, worker }) => {
        const bad = await connect()
        bad.socket.write('bad')
        await bad.expect('bad')
        bad.socket.resetAndDestroy()
        await until(() => connections[0]?.getStatus(false) === 'CLOSED')
        assert.is(worker.counters.connections, 0)
        assert.match(logged.join(), /closeCode failed/)
      })
    } finally {
      sendLogTo(null)
    }
  })

  for (const [fault, ask] of [
    ['isLongLived', (one: AnyConnection) => one[kIsLongLived]],
    ['isOpening', (one: AnyConnection) => one[kIsOpening]],
    ['isBusy', (one: AnyConnection) => one[kQuietFor]() > 0],
  ] as const)
    it(`${fault}: a drain that asks goes on`, async (engine) => {
      await withServer(engine, faulty(fault), {}, async ({ connect, connections, errors, worker }) => {
        const bad = await connect()
        bad.socket.write('bad')
        await until(() => worker.counters.messagesIn === 1)
        assert.is(ask(connections[0] as AnyConnection), false)
        await bad.closed()
        assert.equal(errors, [`3 ${fault} failed`])
      })
    })
}

test.run()
