// Messages that fail for certain when they are sent, and a sender that sends them again at once: the event loop goes on.

import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { addon } from '../../src/addon.ts'
import type { PeerError } from '../../src/errors.ts'
import { Channel } from '../../src/messaging/channel.ts'
import { Cluster } from '../../src/messaging/nats/cluster.ts'
import { WorkerGroup } from '../../src/messaging/references.ts'
import { caseTest } from '../support/length.ts'
import { Host, meshOf, rowOf } from '../support/mesh.ts'
import { ask, inSandbox } from '../support/server.ts'
import { until, within } from '../support/until.ts'

/** How many turns of the loop pass until then. Rejects if that takes too long. */
async function turnsUntil(isThen: () => boolean): Promise<number> {
  const late = performance.now() + 10_000
  let turns = 0
  while (!isThen()) {
    if (performance.now() > late) throw new Error(`still waiting after ${turns} turns`)
    await new Promise(setImmediate)
    turns++
  }
  return turns
}

/** Asks again until something may have been handled, or `isOver` says so. */
async function askAgain(ask: () => Promise<unknown>, isOver: () => boolean): Promise<number> {
  for (let asked = 1; ; asked++) {
    try {
      await ask()
      return asked
    } catch (error) {
      if ((error as PeerError).mayHaveBeenHandled === true || isOver()) return asked
    }
  }
}

for (const [what, news] of [
  ['whose slot is gone', { rows: [{ ...rowOf(''), incarnation: -1 }], isEnding: false }],
  ['of a server that ends', { rows: [rowOf('', 0)], isEnding: true }],
] as const)
  test(`a message for a worker ${what} that is sent again at once stops neither the loop nor the end of the process`, async () => {
    const host = new Host({ maxMailboxMessages: 100 })
    const { mesh, close } = meshOf(host)
    mesh.use(news)
    const outbox = mesh.outbox('there', 0)
    let again = 0
    let isOver = false
    let holds = 0
    host.onFail = (error, message) => {
      if (isOver || error.mayHaveBeenHandled) return
      again++
      outbox.send(message)
    }
    for (const n of [1, 2, 3]) outbox.send(n)
    const asked = askAgain(
      () => outbox.request('request', {}).promise,
      () => isOver,
    )
    mesh.leave(() => {
      holds++
      return () => void holds--
    }, true)
    const since = performance.now()
    assert.ok((await turnsUntil(() => again >= 30)) > 20)
    const elapsed = performance.now() - since
    assert.ok(elapsed >= 100, `sent again ${again} times in ${elapsed} ms`)
    assert.is(holds, 0)
    isOver = true
    assert.ok((await within(5000, asked)) < 30)
    await until(() => outbox.count === 0)
    assert.is(outbox.isBusy, false)
    close()
  })

test('requests that cannot be sent now reject in a later turn: one with no room, no time, no responder', async () => {
  const there = new Host({ maxMailboxMessages: 1 })
  let end: ((value: unknown) => void) | null = null
  there.onMessage = () => new Promise((resolve) => (end = resolve))
  const other = meshOf(there)
  const { mesh, close } = meshOf(new Host({ maxMailboxMessages: 1 }), other.address)
  const outbox = mesh.outbox('there', 0)
  const first = outbox.request('first', {}).promise
  let isOver = false
  const asks = [
    () => outbox.request('no room', {}).promise,
    () => outbox.request('no time', { timeoutMs: -1 }).promise,
    () => outbox.request('given up', { signal: AbortSignal.abort('why') }).promise,
    () => outbox.request(() => 'not cloned', {}).promise,
    () => mesh.hub.request('nobody', 1, {}),
  ]
  await until(() => end !== null)
  const all = asks.map((ask) => askAgain(ask, () => isOver))
  let turns = 0
  await turnsUntil(() => turns++ > 20) // the loop goes on meanwhile
  isOver = true
  for (const count of await within(5000, Promise.all(all))) assert.ok(count >= 1)
  ;(end as unknown as (value: unknown) => void)('done')
  assert.is(await first, 'done')
  close()
  other.close()
})

test('a request that is not sent because of what it is given rejects in a later turn', async () => {
  const { mesh, close } = meshOf(new Host())
  const group = new WorkerGroup(
    'here',
    () => 'here',
    () => mesh,
  )
  const cluster = new Cluster('refused')
  const [uncloneable, signal] = [() => 'not cloned', AbortSignal.abort('why')]
  for (const [what, request] of Object.entries({
    'Channel, no worker': () => Channel.request('subject', 1),
    'Channel, subject': () => Channel.request('a..b', 1),
    'Channel, options': () => Channel.request('subject', 1, { timeoutMs: Number.NaN }),
    'hub, message': () => mesh.hub.request('subject', uncloneable, {}),
    'hub, signal': () => mesh.hub.request('subject', 1, { signal }),
    'reference, options': () => group.reference(0).request(1, { timeoutMs: Number.NaN }),
    'Cluster, no worker': () => cluster.request('subject', 1),
    'Cluster, message': () => cluster.request('subject', uncloneable),
    'Cluster, subject': () => cluster.request('a..b', 1),
  })) {
    let hasTurned = false
    setImmediate(() => {
      hasTurned = true
    })
    const error = await request().then(
      () => null,
      (error: unknown) => error,
    )
    assert.is.not(error, null, what)
    assert.ok(hasTurned, what)
  }
  close()
})

test('what is unsettled when a process leaves is told in slices, with one error for each worker', async () => {
  const there = new Host({ maxMailboxMessages: 10_000, maxPackageSize: 100_000 })
  there.onMessage = () => new Promise(() => undefined)
  const other = meshOf(there)
  const here = new Host({ maxMailboxMessages: 10_000, mailboxTimeoutMs: 20_000 }) // the machine may be busy
  const { mesh, close } = meshOf(here, other.address)
  const outbox = mesh.outbox('there', 0)
  const errors = new Set<unknown>()
  let longest = 0
  let inThisTurn = 0
  here.onFail = (error) => {
    errors.add(error)
    if (inThisTurn++ === 0) setImmediate(() => (inThisTurn = 0))
    longest = Math.max(longest, inThisTurn)
  }
  for (let n = 0; n < 3000; n++) outbox.send(n)
  const request = outbox.request('request', {}).promise.catch((error) => error)
  await until(() => there.counters.messagesIn === 3001)
  assert.is(mesh.unsettled, 3001)
  await mesh.tellLost()
  assert.equal([here.failed.length, mesh.unsettled, errors.size], [3000, 0, 1])
  assert.ok(longest <= 1000, String(longest))
  assert.ok(errors.has(await request))
  assert.equal(here.failed[2999], ['ERR_PEER_LOST', true, 2999])
  close()
  other.close()
})

const retrying = `
  import { writeFileSync } from 'node:fs'
  import { Worker, Timer } from 'millrace'
  const asks = new Worker('text://127.0.0.1:0', { name: 'asks', drainTimeoutMs: 30_000 })
  const peer = new Worker({ name: 'peer', drainTimeoutMs: 0 })
  peer.onMessage = () => 'done'
  const ask = async (message) => { for (;;) try { return await peer.any().request(message) } catch (error) { if (error.mayHaveBeenHandled) throw error } }
  let told = 0
  asks.onSendFail = (error, message, to) => { if (!error.mayHaveBeenHandled && told++ >= 0) to.send(message) }
  asks.onWorkerStart = () => Timer.add(0.005, () => { peer.getWorkerById(0).send('again'); ask('again').catch(() => 0) })
  asks.onWorkerStop = async () => {
    while (told < 5) await Timer.sleep(0.01) // the loop goes on
    writeFileSync(new URL('./told', import.meta.url), String(told))
  }
  Worker.runAll()
`

const leaving = `
  import { appendFileSync } from 'node:fs'
  import { Worker } from 'millrace'
  const [count, slowMs, drainTimeoutMs] = [60_000, 40, 1000]
  const peer = new Worker({ name: 'peer', drainTimeoutMs: 0 })
  peer.onMessage = () => new Promise(() => {})
  const sends = new Worker('text://127.0.0.1:0', { name: 'sends', drainTimeoutMs })
  let told = 0
  // Each thousandth takes long: in all twice as long as the master waits for a process whose time is over.
  const slow = () => { for (const end = Date.now() + slowMs; Date.now() < end; ); }
  sends.onSendFail = () => { if (++told % 1000 === 0) slow(); if (told === count) appendFileSync(new URL('./told', import.meta.url), 'all') }
  sends.onMessage = (connection) => {
    for (let n = 0; n < count; n++) peer.getWorkerById(0).send(n)
    connection.send('sent')
  }
  Worker.runAll()
`

for (const engine of addon().sys === null ? ['node'] : ['native', 'node']) {
  const isEveryDay = engine === 'node'
  caseTest(isEveryDay)(`${engine}: stop -g ends a server in which what is refused is sent again at once`, () =>
    inSandbox(async (box) => {
      await box.start(box.file('app.js', retrying), '--engine', engine)
      const began = performance.now()
      await box.stop('-g')
      assert.ok(performance.now() - began < 20_000)
      assert.ok(Number(readFileSync(join(box.directory, 'told'), 'utf8')) >= 5)
    }),
  )

  caseTest(!isEveryDay)(
    `${engine}: a process that leaves tells of each of many unsettled messages, also when that takes long`,
    () =>
      inSandbox(async (box) => {
        const { groups } = await box.start(box.file('app.js', leaving), '--engine', engine)
        const port = groups.find(({ name }) => name === 'sends')?.port ?? 0
        assert.is(await ask(port, 'send'), 'sent')
        await box.stop('-g')
        assert.is(readFileSync(join(box.directory, 'told'), 'utf8'), 'all')
      }),
  )
}

test.run()
