// Long-lived connections at a reload: everybody hears a goodbye and comes back, but not everybody at once.

import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { Load } from '../support/load/load.ts'
import { webSocketClient } from '../support/load/websocket-client.ts'
import { reload } from '../support/reload.ts'
import { inSandbox, portOf } from '../support/server.ts'
import { until } from '../support/until.ts'

const CLIENTS = 1000
const DRAIN_MS = 6000
const RESTART = 1012

test('a thousand WebSockets are told 1012 one after the other, and come back as they are told', async () => {
  await inSandbox(async (box) => {
    const program = `
      import { Worker } from 'millrace'
      const worker = new Worker('websocket://127.0.0.1:0', { name: 'chat', drainTimeoutMs: ${DRAIN_MS} })
      worker.onMessage = (connection, id) => connection.send(id + ' ' + process.pid)
      Worker.runAll()`
    const port = portOf(await box.start(box.file('app.js', program)))
    const load = new Load()
    const goodbyes: number[] = []
    const onGoodbye = (code: number) => {
      if (code === RESTART) goodbyes.push(performance.now())
    }
    const client = webSocketClient({ port, thinkMs: () => 60_000, onGoodbye })
    // In steps: a thousand at once would be more than a backlog.
    for (let open = 0; open < CLIENTS; open += 100) {
      const tally = load.add('websocket', 100, client)
      await until(() => tally.answered === open + 100, 20_000)
    }
    const { slots } = await reload(box)
    assert.ok((slots[0]?.drainMs ?? 0) < DRAIN_MS + 500)
    const tally = load.tallies.get('websocket')
    await until(() => tally?.answered === 2 * CLIENTS, 20_000) // all are back
    await load.end()
    assert.equal(load.lost, [])
    assert.is(tally?.opened, 2 * CLIENTS)
    assert.is(goodbyes.length, CLIENTS)
    const most = Math.max(...goodbyes.map((from) => goodbyes.filter((at) => at >= from && at < from + 1000).length))
    const spreadMs = Math.round((goodbyes.at(-1) ?? 0) - (goodbyes[0] ?? 0))
    console.log(`${CLIENTS} goodbyes within ${spreadMs} ms, at most ${most} of them in a second`)
    assert.ok(most <= CLIENTS / 2, `${most} of ${CLIENTS} came back in one second`)
    await box.stop()
  })
})

test.run()
