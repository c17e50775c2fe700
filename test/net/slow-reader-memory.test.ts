// A peer that never reads costs as much memory as `maxSendBufferSize` says, however small its messages are. They are
// sent to it unchanged when it does read.

import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { text } from '../../protocols/text.ts'
import type { AnyConnection } from '../../src/connection.ts'
import { nativeEngine } from '../../src/net/native-engine.ts'
import { nodeEngine } from '../../src/net/node-engine.ts'
import { longTest } from '../support/length.ts'
import { withServer } from '../support/tcp.ts'
import { nextTurn, until } from '../support/until.ts'

const PEERS = 3

/** Sends digits, one a turn, until no more is taken. Returns how many it has sent. */
async function fill(connection: AnyConnection): Promise<number> {
  for (let count = 1; ; count++) {
    if (!connection.send(String(count % 10))) return count
    await nextTurn()
  }
}

/** MiB that are in use, without garbage and what V8 has in reserve. */
function usedMiB(): number {
  setFlagsFromString('--expose-gc')
  runInNewContext('gc')()
  const { rss, heapTotal, heapUsed } = process.memoryUsage()
  return (rss - heapTotal + heapUsed) / 1_048_576
}

const transports = [nodeEngine, nativeEngine()].filter((one) => one !== null)
for (const transport of transports)
  longTest(
    `${transport.name}: messages of one byte that wait for a peer take little more memory than their bytes`,
    async () => {
      await withServer(transport, text, {}, async ({ connect, connections, errors }) => {
        const clients = await Promise.all(Array.from({ length: PEERS + 1 }, () => connect()))
        for (const { socket } of clients) socket.pause()
        const [first, ...others] = await until(() => connections.length > PEERS && connections)
        await fill(first as AnyConnection) // after that, everything has been compiled
        const before = usedMiB()
        const counts = await Promise.all(others.map(fill))
        const grownMiB = usedMiB() - before
        assert.ok(grownMiB < 8 * PEERS, `${PEERS} peers, each with 1 MiB that waits, take ${grownMiB.toFixed()} MiB`)

        const client = clients.find(({ socket }) => socket.localPort !== first?.getRemotePort())
        const at = others.findIndex((connection) => connection.getRemotePort() === client?.socket.localPort)
        assert.ok(at >= 0)
        client?.socket.resume()
        await until(() => client?.received.length === 2 * (counts[at] as number))
        const digits = client?.received.split('\n').slice(0, -1) ?? []
        assert.ok(digits.every((digit, place) => digit === String((place + 1) % 10)))
        assert.equal(errors, [])
      })
    },
  )

test.run()
