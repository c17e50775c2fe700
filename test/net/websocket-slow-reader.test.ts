// A peer of a WebSocket that reads steadily, but more slowly than the kernel's buffer empties, over real sockets.

import { setTimeout as sleep } from 'node:timers/promises'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { addon } from '../../src/addon.ts'
import { type Connection, websocket } from '../../src/index.ts'
import { nativeEngine } from '../../src/net/native-engine.ts'
import { nodeEngine } from '../../src/net/node-engine.ts'
import type { Transport } from '../../src/transport.ts'
import { longTest } from '../support/length.ts'
import { type Client, type TestServer, withServer } from '../support/tcp.ts'
import { until } from '../support/until.ts'
import { where } from '../support/where.ts'

const transports: readonly Transport[] = [nodeEngine, nativeEngine()].filter((one) => one !== null)
/** It takes the addon to know what a client has acknowledged. */
const longWithAddon = where(addon().sys !== null, 'the addon', longTest)
const MIB = 1_048_576
/** A read at this pace frees nothing in the kernel of the server for seconds, but is acknowledged all the time. */
const PACE_MS = 70

const ASK =
  'GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n' +
  'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n'

/** Connects, and reads a little at a time until `isDone`, given how much it has read. Returns the last bytes. */
async function readSlowly(
  { connect }: TestServer,
  isDone: (read: number, client: Client) => boolean,
  each: (client: Client) => void = () => undefined,
): Promise<Buffer> {
  const client = await connect()
  const { socket } = client
  socket.removeAllListeners('data')
  socket.pause()
  socket.write(ASK)
  let [read, last] = [0, Buffer.alloc(0)]
  await until(async () => {
    await sleep(PACE_MS)
    const bytes = socket.read() as Buffer | null
    if (bytes !== null) last = Buffer.concat([last, bytes]).subarray(-4)
    read += bytes?.length ?? 0
    each(client)
    return isDone(read, client)
  }, 50_000)
  return last
}

for (const transport of transports)
  longWithAddon(`${transport.name}: a peer that reads a little all the time is not dead`, async () => {
    const protocol = websocket({ pingIntervalMs: 400, pongTimeoutMs: 1000 })
    const onWebSocketConnected = (connection: Connection) => void connection.send(Buffer.alloc(40 * MIB))
    await withServer(transport, protocol, { onWebSocketConnected } as never, async (server) => {
      await readSlowly(server, (read) => read > 2 * MIB || server.errors.length > 0)
      assert.equal(server.errors, [])
    })
  })

for (const transport of transports)
  longWithAddon(
    `${transport.name}: close() sends a message to its end to a peer that reads slowly and talks meanwhile`,
    async () => {
      // Far less than all of it takes, and more than it takes to read what the peer's kernel has acknowledged for it.
      const protocol = websocket({ closeTimeoutMs: 1500 })
      const onWebSocketConnected = (connection: Connection) => {
        connection.send(Buffer.alloc(6 * MIB))
        connection.close()
      }
      await withServer(transport, protocol, { onWebSocketConnected } as never, async (server) => {
        const beat = Buffer.from('8180ffffffff', 'hex')
        const isDone = (_read: number, { hasEnded, isClosed }: Client) => hasEnded || isClosed
        const last = await readSlowly(server, isDone, ({ socket }) => socket.write(beat))
        assert.is(last.toString('hex'), '880203e8')
        assert.equal(server.errors, [])
      })
    },
  )

test.run()
