// Processes that have not said yet what they subscribe to delay only what may be for them: who is known gets it at once.

import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { type Subscriber, subscriptions } from '../../src/messaging/subscriptions.ts'
import { drive, startDriven } from '../support/driven.ts'
import { longTest } from '../support/length.ts'
import { Host, meshOf, rowOf, silentPeer } from '../support/mesh.ts'
import { inSandbox } from '../support/server.ts'
import { rejects, until } from '../support/until.ts'

/** A subscriber of this process, so of all meshes of a test. With the slots that have handed it something. */
async function subscribed(pattern: string, queue = ''): Promise<{ got: unknown[]; end(): void }> {
  const got: unknown[] = []
  const handler = (message: unknown) => {
    got.push(message)
    return 'answer'
  }
  const subscriber: Subscriber = { pattern, queue, handler, isOver: false }
  await subscriptions.add(subscriber)
  return { got, end: () => void subscriptions.delete(subscriber) }
}

/** The rows of several slots of `there`. */
function rowsOf(...addresses: readonly string[]) {
  return addresses.map((address, id) => ({ ...rowOf(address), id }))
}

/** Publishes to a process that is known, and to one that says nothing. */
async function besideASilentOne() {
  const [known, silent] = [meshOf(new Host({ maxMailboxMessages: 100 })), await silentPeer()]
  const { got, end } = await subscribed('news')
  const here = new Host({ maxMailboxMessages: 100 })
  const { mesh, close } = meshOf(here)
  mesh.use({ rows: rowsOf(known.address, silent.address), isEnding: false })
  mesh.hub.publish('nobody', 0)
  await until(() => mesh.outbox('there', 0).isLinked)
  const leave = () => {
    end()
    for (const each of [{ close }, known, silent]) each.close()
  }
  return { mesh, here, got, leave }
}

test('who is known gets a publish at once, in order, whoever else has not said what it subscribes to', async () => {
  const { mesh, here, got, leave } = await besideASilentOne()
  for (const n of [1, 2, 3]) assert.is(mesh.hub.publish('news', n), true)
  await until(() => got.length === 6)
  assert.equal(got.slice(0, 3), [1, 2, 3]) // here
  assert.equal(got.slice(3), [1, 2, 3])
  await until(() => mesh.unsettled === 4) // for the silent one, with what nobody hears
  assert.equal(here.failed, [])
  leave()
})

test('who is known answers a request at once; if nobody is, those are asked who say that they subscribe', async () => {
  const { mesh, leave } = await besideASilentOne()
  assert.is(await mesh.hub.request('news', 1, { timeoutMs: 5000 }), 'answer')
  const error = await rejects(mesh.hub.request('nobody', 1, { timeoutMs: 50 }), 'ERR_REQUEST_TIMEOUT')
  assert.is((error as Error & { mayHaveBeenHandled: boolean }).mayHaveBeenHandled, false)
  leave()
  const other = meshOf(new Host())
  const alone = meshOf(new Host(), other.address)
  await rejects(alone.mesh.hub.request('nobody', 1, {}), 'ERR_NO_RESPONDERS')
  for (const each of [alone, other]) each.close()
})

test('what is for nobody in a process is forgotten when it says what it subscribes to; the rest keeps its order', async () => {
  const here = new Host({ maxMailboxMessages: 100 })
  const { mesh, close } = meshOf(here)
  const there = new Host({ maxMailboxMessages: 100 })
  const other = meshOf(there) // the last one made: it alone hears of what is subscribed from now on
  const { got, end } = await subscribed('news')
  there.onMessage = (message) => void got.push(message)
  mesh.use({ rows: rowsOf(other.address), isEnding: false })
  mesh.hub.publish('news', 1)
  mesh.hub.publish('other', 2)
  mesh.outbox('there', 0).send(3)
  mesh.hub.publish('news', 4)
  assert.is(mesh.unsettled, 4)
  await until(() => mesh.unsettled === 0)
  assert.equal([got, here.failed], [[1, 3, 4], []])
  end()
  close()
  other.close()
})

test('of a queue one member is chosen, also among those who tell later that they are in it', async () => {
  const others = [1, 2].map(() => meshOf(new Host({ maxMailboxMessages: 100 })))
  const here = new Host({ maxMailboxMessages: 100 })
  const { mesh, close } = meshOf(here)
  mesh.use({ rows: rowsOf(...others.map(({ address }) => address)), isEnding: false })
  const last = meshOf(new Host()) // it alone hears of what is subscribed from now on
  const { got, end } = await subscribed('jobs', 'q')
  const { got: audited, end: endAudit } = await subscribed('jobs', 'audit')
  const jobs = Array.from({ length: 20 }, (_, n) => n)
  for (const n of jobs) mesh.hub.publish('jobs', n)
  assert.is(await mesh.hub.request('jobs', 20, {}), 'answer')
  await until(() => mesh.unsettled === 0)
  for (const list of [got, audited]) assert.equal(list, [...jobs, 20])
  assert.equal(here.failed, [])
  for (const each of [end, endAudit]) each()
  for (const each of [{ close }, last, ...others]) each.close()
})

longTest('a process that subscribes to nothing and is busy after its start delays nobody', () =>
  inSandbox(async (box) => {
    const port = await startDriven(
      box,
      `
      const heavy = new Worker({ name: 'heavy' })
      heavy.onWorkerActive = () => { if (heavy.incarnation > 1) { const end = Date.now() + 3000; while (Date.now() < end); } }
      const subs = new Worker({ name: 'subs' })
      subs.onWorkerStart = () => void Channel.subscribe('ticks', (sent) => Date.now() - sent)
      state.late = 0
      `,
    )
    await drive(port, `await Channel.request('ticks', Date.now())`)
    await box.operate({ command: 'reload', names: ['heavy'] })
    const slowest = await drive<number>(
      port,
      `
      let slowest = 0
      for (let n = 0; n < 20; n++) slowest = Math.max(slowest, await Channel.request('ticks', Date.now(), { timeoutMs: 1000 }))
      return slowest
      `,
    )
    assert.ok(slowest < 1000, `${slowest} ms`)
    await box.stop()
  }),
)

test.run()
