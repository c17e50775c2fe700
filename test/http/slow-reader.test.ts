// A client that reads steadily, but slower than the kernel's buffer empties, over real sockets.

import { setTimeout as sleep } from 'node:timers/promises'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import type { Request } from '../../protocols/http/request.ts'
import { tcp } from '../../protocols/tcp.ts'
import { addon } from '../../src/addon.ts'
import { nativeEngine } from '../../src/net/native-engine.ts'
import { nodeEngine } from '../../src/net/node-engine.ts'
import type { Transport } from '../../src/transport.ts'
import { httpInMemory } from '../support/http.ts'
import { longTest } from '../support/length.ts'
import { withServer } from '../support/tcp.ts'
import { until } from '../support/until.ts'
import { where } from '../support/where.ts'

const transports: readonly Transport[] = [nodeEngine, nativeEngine()].filter((one) => one !== null)
/** It takes the addon to know what a client has acknowledged. */
const longWithAddon = where(addon().sys !== null, 'the addon', longTest)
const MIB = 1_048_576
/** Takes more than a second for what the kernel frees at once, and less for what a client's kernel acknowledges. */
const PACE_MS = 70

for (const transport of transports)
  longWithAddon(`${transport.name}: a client that reads a little all the time is not cut`, async () => {
    const onMessage = (connection: { send(message: unknown): unknown }) => connection.send(Buffer.alloc(40 * MIB, 'x'))
    const protocol = httpInMemory({ writeTimeoutMs: 1000 })
    await withServer(transport, protocol, { onMessage: onMessage as never }, async ({ connect, errors }) => {
      const { socket } = await connect()
      socket.removeAllListeners('data')
      socket.pause()
      socket.write('GET / HTTP/1.1\r\nHost: h\r\n\r\n')
      let read = 0
      await until(async () => {
        await sleep(PACE_MS)
        read += (socket.read() as Buffer | null)?.length ?? 0
        return read > 2 * MIB || errors.length > 0
      }, 30_000)
      assert.equal(errors, [])
    })
  })

for (const transport of transports)
  longTest(
    `${transport.name}: who needs longer for an answer than keepAliveTimeoutMs gets the next one, too`,
    async () => {
      const onMessage = (connection: { send(message: unknown): unknown }, request: unknown) =>
        connection.send((request as Request).path === '/next' ? 'next' : Buffer.alloc(20 * MIB, 'x'))
      const protocol = httpInMemory({ keepAliveTimeoutMs: 1000 })
      await withServer(transport, protocol, { onMessage: onMessage as never }, async ({ connect, connections }) => {
        const { socket } = await connect()
        let read = 0
        let last = ''
        socket.removeAllListeners('data').on('data', (bytes) => {
          read += bytes.length
          last = bytes.toString('latin1').slice(-4)
        })
        socket.pause()
        const begun = performance.now()
        socket.write('GET / HTTP/1.1\r\nHost: h\r\n\r\n')
        await until(() => performance.now() > begun + 2500)
        socket.resume()
        await until(() => read > 20 * MIB, 30_000)
        assert.is(connections[0]?.closeReason, null)
        socket.write('GET /next HTTP/1.1\r\nHost: h\r\n\r\n')
        await until(() => last === 'next')
      })
    },
  )

for (const transport of transports)
  longTest(`${transport.name}: a peer that reads a little all the time is not idle`, async () => {
    const settings = { idleTimeoutMs: 1000, maxSendBufferSize: 64 * MIB }
    await withServer(transport, tcp, settings, async ({ connect, connections }) => {
      const { socket } = await connect()
      socket.removeAllListeners('data')
      socket.pause()
      const connection = await until(() => connections[0])
      connection.send(Buffer.alloc(40 * MIB, 'x'))
      let read = 0
      await until(async () => {
        await sleep(PACE_MS)
        read += (socket.read() as Buffer | null)?.length ?? 0
        return read > 2 * MIB || connection.closeReason !== null
      }, 30_000)
      assert.is(connection.closeReason, null)
    })
  })

for (const transport of transports)
  longTest(`${transport.name}: what has come while the loop stood still is read before its time is up`, async () => {
    const onMessage = (connection: { send(message: unknown): unknown }, request: unknown) =>
      connection.send((request as Request).text())
    const protocol = httpInMemory({ bodyTimeoutMs: 300 })
    await withServer(
      transport,
      protocol,
      { onMessage: onMessage as never },
      async ({ connect, connections, errors }) => {
        const client = await connect()
        client.socket.write('POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nfirst')
        await until(() => (connections[0]?.bytesRead ?? 0) > 0)
        client.socket.write('-last')
        const begun = performance.now()
        while (performance.now() < begun + 2000);
        await until(() => client.received !== '')
        assert.match(client.received, /^HTTP\/1\.1 200 .*first-last$/s)
        assert.equal(errors, [])
      },
    )
  })

for (const transport of transports)
  longTest(`${transport.name}: a loop that stands still again and again keeps no connection for ever`, async () => {
    const protocol = httpInMemory({ bodyTimeoutMs: 300 })
    await withServer(transport, protocol, { onMessage: () => undefined }, async ({ connect, connections }) => {
      const client = await connect()
      client.socket.write('POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nfirst')
      await until(() => (connections[0]?.bytesRead ?? 0) > 0)
      const begun = performance.now()
      await until(() => {
        const since = performance.now()
        while (performance.now() < since + 1300);
        return client.received !== '' || performance.now() > begun + 9000
      }, 10_000)
      assert.match(client.received, /^HTTP\/1\.1 408 /)
    })
  })

test.run()
