// Reloads under load, twenty at length. Nothing is lost but what the drain of a protocol without a goodbye cannot save: a request
// on the wire while the server's FIN is. Those are named by the server, in the receipts.

import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { atLength, longTest } from '../support/length.ts'
import { Load } from '../support/load/load.ts'
import { textClient } from '../support/load/text-client.ts'
import { reload } from '../support/reload.ts'
import { ask, echo, inSandbox, portOf, succeeded, workersOf } from '../support/server.ts'
import { until } from '../support/until.ts'

const RELOADS = atLength(2, 20)
/** Of those who ask all the time, ms. */
const THINK_MS = atLength(5, 1)

/** Every third answer comes later; a window of 1.6 s makes a quiet time of 0.4 s, and leaves a quarter of a second to who is told last. */
const program = (version: number) =>
  echo(
    2,
    `// version ${version}
    let turn = 0
    worker.drainTimeoutMs = 1600
    worker.onMessage = async (connection, id) => {
      if (++turn % 3 === 0) await new Promise((resolve) => setTimeout(resolve, 3))
      connection.send(id + ' ' + process.pid)
    }`,
  )

longTest(`${RELOADS} reloads under load lose nothing but what crosses a FIN, and that is named`, async () => {
  await inSandbox(async (box) => {
    const port = portOf(await box.start(box.file('app.js', program(0))))
    const load = new Load()
    const tally = load.add('text', 8, textClient({ port, thinkMs: () => THINK_MS }))
    load.add('text', 8, textClient({ port, thinkMs: () => 5 + Math.random() * 15 }))
    load.add('text', 4, textClient({ port, inFlight: 8, thinkMs: () => 2 * THINK_MS }))
    load.add('text', 4, textClient({ port, thinkMs: () => THINK_MS, answersPerConnection: 1 }))
    load.add('text', 16, textClient({ port, thinkMs: () => 700 + Math.random() * 600 }))
    let discarded = 0
    let total = 0
    for (let version = 1; version <= RELOADS; version++) {
      box.file('app.js', program(version))
      const outcome = await reload(box)
      for (const slot of outcome.slots) {
        assert.is(slot.result, 'replaced')
        assert.is(slot.note, '')
        discarded += slot.discarded
      }
      const status = await box.status()
      const pids = workersOf(status).map(({ pid }) => String(pid))
      assert.equal(pids.sort(), outcome.slots.map(({ newPid }) => String(newPid)).sort())
      assert.ok(pids.includes((await ask(port, 'x')).split(' ')[1] ?? ''))
      assert.ok(status.totals.messagesIn >= total, 'a total fell')
      total = status.totals.messagesIn
    }
    load.pids.clear()
    await until(() => load.pids.size === 2) // both new ones are at work
    await load.end()
    const { sent, answered, crossed, crossedConnections, opened } = tally
    console.log({ sent, answered, crossed, crossedConnections, discarded, opened, lost: load.lost.length })
    assert.equal(load.lost, [])
    assert.is(answered + crossed, sent)
    assert.ok(crossedConnections <= discarded, 'a request was dropped that the server does not name')
    assert.ok((await box.status()).totals.messagesIn >= answered)
    await box.stop()
  })
})

longTest('an old process that is suspended until its time is up still reads and answers what has come', async () => {
  await inSandbox(async (box) => {
    const program = echo(1, `worker.drainTimeoutMs = 2000`)
    const server = await box.start(box.file('app.js', program))
    const [{ pid = 0 } = {}] = workersOf(server)
    const load = new Load()
    const tally = load.add('text', 24, textClient({ port: portOf(server), thinkMs: () => 1 }))
    await until(() => tally.answered > 1000)
    const reloading = box.begin('reload', '--json').ended
    await until(
      async () => workersOf(await box.status()).some((one) => one.pid === pid && one.state === 'draining'),
      20_000,
    )
    const since = performance.now()
    await until(() => performance.now() - since > 1200) // into the last quarter of its window...
    process.kill(pid, 'SIGSTOP')
    await until(() => performance.now() - since > 2100) // ... and past its end
    process.kill(pid, 'SIGCONT')
    const { slots } = JSON.parse(succeeded(await reloading).stdout)
    await load.end()
    console.log({ ...tally, lost: load.lost.length, note: slots[0].note, discarded: slots[0].discarded })
    assert.equal(load.lost, [])
    assert.is(tally.answered + tally.crossed, tally.sent)
    assert.is(slots[0].note, '')
    await box.stop()
  })
})

longTest('of clients that pause for longer than the quiet time hardly a request crosses a FIN', async () => {
  await inSandbox(async (box) => {
    const port = portOf(await box.start(box.file('app.js', program(0))))
    const load = new Load()
    const tally = load.add('text', 60, textClient({ port, thinkMs: () => 900 + Math.random() * 800 }))
    for (let version = 1; version <= 3; version++) {
      const { answered } = tally
      await until(() => tally.answered > answered + 30)
      await reload(box)
    }
    await load.end()
    assert.equal(load.lost, [])
    // Each of the 180 ends comes at a moment that the client does not know of: closed at once, most would be hit.
    assert.ok(tally.crossed <= 9, `${tally.crossed} of ${tally.sent} requests crossed a FIN`)
    await box.stop()
  })
})

test.run()
