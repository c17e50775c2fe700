// A peer that never reads costs as much memory as `maxSendBufferSize` says, however small its messages are. They are
// sent to it unchanged when it does read. The native engine: native/engine.test.ts.

import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { text } from '../../protocols/text.ts'
import { nodeEngine } from '../../src/net/node-engine.ts'
import { withServer } from '../support/tcp.ts'
import { until } from '../support/until.ts'

/** MiB that JavaScript holds, its buffers included. */
function usedMiB(): number {
  setFlagsFromString('--expose-gc')
  runInNewContext('gc')()
  const { heapUsed, external } = process.memoryUsage()
  return (heapUsed + external) / 1_048_576
}

test('node: messages of one byte that wait for a peer take little more memory than their bytes', async () => {
  await withServer(nodeEngine, text, { maxSendBufferSize: 8_388_608 }, async ({ connect, connections, errors }) => {
    const { socket, ...client } = await connect()
    socket.pause()
    const connection = await until(() => connections[0])
    const first = 'x'.repeat(8_000_000) // more than the kernel takes
    connection.send(first)
    await until(() => connection.getSendBufferQueueSize() < 7_000_000)
    const before = usedMiB()
    const count = 500_000
    for (let n = 0; n < count; n++) connection.send(String(n % 10))
    const grownMiB = usedMiB() - before
    assert.ok(grownMiB < 6, `1 MiB that waits takes ${grownMiB.toFixed(1)} MiB`)

    socket.resume()
    const size = first.length + 1 + 2 * count
    const received = () => client.chunks.reduce((sum, { length }) => sum + length, 0)
    await until(() => received() === size, 20_000)
    const digits = Buffer.concat(client.chunks)
      .toString('latin1', first.length + 1)
      .split('\n')
      .slice(0, -1)
    assert.is(digits.length, count)
    assert.ok(digits.every((digit, place) => digit === String(place % 10)))
    assert.equal(errors, [])
  })
})

test.run()
