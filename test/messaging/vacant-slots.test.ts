// Slots that have no process for a while: what is published for them meanwhile waits, as what is sent does.

import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import type { Outbox } from '../../src/messaging/outbox.ts'
import { type Subscriber, subscriptions } from '../../src/messaging/subscriptions.ts'
import type { PeerRow } from '../../src/process/group.ts'
import { caseTest } from '../support/length.ts'
import { Host, meshOf, rowBeside, rowOf } from '../support/mesh.ts'
import { inSandbox, type Sandbox } from '../support/server.ts'
import { rejects, until } from '../support/until.ts'

/** A publisher, and a process that subscribes, of which only that one is told. */
async function linked({ queue = '', patienceMs = 10_000 } = {}) {
  const here = new Host({ maxMailboxMessages: 100, mailboxTimeoutMs: patienceMs })
  const { mesh, address, close } = meshOf(here)
  const other = meshOf(new Host({ maxMailboxMessages: 100 }))
  const got: unknown[] = []
  const handler = (message: unknown) => {
    got.push(message)
    return 'answer'
  }
  const subscriber: Subscriber = { pattern: 'jobs', queue, handler, isOver: false }
  void subscriptions.add(subscriber)
  use(rowOf(other.address))
  mesh.hub.publish('jobs', 0)
  await until(() => got.length === 1 && mesh.unsettled === 0)
  function use(...rows: readonly PeerRow[]): void {
    mesh.use({ rows, isEnding: false })
  }
  const leave = () => {
    subscriptions.delete(subscriber)
    for (const each of [{ close }, other]) each.close()
  }
  return { mesh, here, address, other, got, use, leave }
}

/** That of a slot without a process. */
function vacant(next: PeerRow['next'] = 'soon', id = 0): PeerRow {
  return { ...rowOf('', 0), next, id }
}

/** As `there`, and able to take it all. */
function anotherMesh() {
  return meshOf(new Host({ maxMailboxMessages: 100 }))
}

for (const queue of ['', 'q'])
  test(`what is published while its only subscriber${queue && ' of a queue'} is dead waits for the next process`, async () => {
    const { mesh, here, other, got, use, leave } = await linked({ queue })
    other.close()
    await until(() => !mesh.outbox('there', 0).isLinked)
    mesh.hub.publish('jobs', 1) // the master has not said yet that it is dead
    mesh.hub.publish('other', 1)
    use(vacant())
    assert.is(mesh.unsettled, 1, 'what nobody has subscribed to does not wait')
    mesh.hub.publish('jobs', 2)
    mesh.hub.publish('other', 2)
    const answer = mesh.hub.request('jobs', 3, {})
    assert.is(mesh.unsettled, 3)
    const next = anotherMesh()
    use(rowOf(next.address, 2))
    assert.is(await answer, 'answer')
    await until(() => mesh.unsettled === 0)
    assert.equal([got, here.failed], [[0, 1, 2, 3], []])
    leave()
    next.close()
  })

test('if no process comes in time, each is told', async () => {
  const { mesh, here, other, got, use, leave } = await linked({ patienceMs: 50 })
  other.close()
  use(vacant())
  mesh.hub.publish('jobs', 1)
  await rejects(mesh.hub.request('jobs', 2, {}), 'ERR_PEER_LOST')
  await until(() => here.failed.length === 1)
  assert.equal([got, here.failed], [[0], [['ERR_PEER_LOST', false, 1]]])
  leave()
})

test('a process that leaves keeps its queues for its slot: with it, nothing for them is lost before the next one', async () => {
  const { mesh, here, other, got, use, leave } = await linked({ queue: 'q' })
  const old = other.address
  other.mesh.leave(() => () => undefined, false)
  await until(() => !mesh.outbox('there', 0).isUp)
  mesh.hub.publish('jobs', 1)
  use({ ...rowBeside('', old, 'leaving', 2), incarnation: 0, next: 'afterwards' })
  mesh.hub.publish('jobs', 2)
  assert.is(mesh.unsettled, 2)
  use(vacant())
  const next = anotherMesh()
  use(rowOf(next.address, 2))
  await until(() => mesh.unsettled === 0)
  assert.equal([got, here.failed], [[0, 1, 2], []])
  leave()
  next.close()
})

test('a slot that has never had a process is awaited; one that nobody comes to, or this process itself, is not', async () => {
  const { mesh, here, got, use, leave } = await linked()
  use(vacant('soon', 1), vacant('on command', 2), { ...vacant(), mailbox: 'here' })
  mesh.hub.publish('jobs', 1)
  await until(() => got.length === 2 && mesh.unsettled === 1)
  const next = anotherMesh()
  use({ ...rowOf(next.address), id: 1 })
  await until(() => got.length === 3)
  use(vacant('on command', 1))
  mesh.use({ rows: [vacant('soon', 3)], isEnding: false })
  mesh.hub.publish('jobs', 2)
  await until(() => got.length === 4 && mesh.unsettled === 1)
  mesh.use({ rows: [], isEnding: true })
  assert.is(mesh.unsettled, 0)
  mesh.hub.publish('jobs', 3)
  await until(() => got.length === 5 && mesh.unsettled === 0)
  assert.equal([got, here.failed], [[0, 1, 1, 2, 3], []])
  leave()
  next.close()
})

test('a slot that nobody has come to in its time is waited for no longer; what is published is told at once', async () => {
  const { mesh, here, got, use, leave } = await linked({ patienceMs: 50 })
  use(vacant('soon', 1))
  const slot = mesh.outbox('there', 1)
  mesh.hub.publish('other', 1)
  assert.is(slot.isBusy, true)
  await until(() => here.failed.length === 1)
  mesh.hub.publish('other', 2)
  assert.equal([slot.count, slot.isBusy], [1, false], 'it keeps no process that leaves')
  await rejects(mesh.hub.request('other', 3, { timeoutMs: 40 }), 'ERR_PEER_LOST')
  await until(() => here.failed.length === 2)
  const next = anotherMesh()
  use({ ...rowOf(next.address), id: 1 })
  mesh.hub.publish('jobs', 4)
  await until(() => mesh.unsettled === 0)
  const told = [1, 2].map((n) => ['ERR_PEER_LOST', false, n])
  assert.equal([got, here.failed], [[0, 4, 4], told])
  leave()
  next.close()
})

test('a process that sends something before it is ready gets what has waited for its slot when it is, each once', async () => {
  const { mesh, here, address, other, got, use, leave } = await linked()
  other.close()
  use(vacant())
  mesh.hub.publish('jobs', 1)
  const next = meshOf(new Host({ maxMailboxMessages: 100 }), address)
  next.mesh.outbox('there', 0).send('from the next one')
  await until(() => mesh.isHeardFrom(next.address))
  const { mailbox, id } = vacant()
  const beside = mesh.processes.to({ mailbox, id, address: next.address, incarnation: 0 }) as Outbox
  beside.send('an answer')
  mesh.hub.publish('jobs', 2)
  assert.is(mesh.unsettled, 3)
  use(rowOf(next.address, 2))
  mesh.hub.publish('jobs', 3)
  await until(() => mesh.unsettled === 0)
  assert.equal([got, here.failed], [[0, 1, 2, 3], []])
  leave()
  next.close()
})

test('of a queue, a slot without a process gets something only if no other member has one', async () => {
  const { mesh, here, other, got, use, leave } = await linked({ queue: 'q' })
  const second = anotherMesh()
  use({ ...rowOf(second.address), id: 1 })
  await until(() => mesh.outbox('there', 1).isLinked)
  other.close()
  use(vacant())
  for (let n = 1; n <= 10; n++) mesh.hub.publish('jobs', n)
  assert.equal([mesh.outbox('there', 0).count, mesh.outbox('there', 1).count], [0, 10])
  await until(() => mesh.unsettled === 0)
  second.close()
  use(vacant('soon', 1))
  mesh.hub.publish('jobs', 11)
  assert.is(mesh.unsettled, 1)
  const next = anotherMesh()
  use(...[0, 1].map((id) => ({ ...rowOf(next.address, 2), id })))
  await until(() => mesh.unsettled === 0)
  assert.equal([got, here.failed], [Array.from({ length: 12 }, (_, n) => n), []])
  leave()
  next.close()
})

const APP = `
  import { appendFileSync } from 'node:fs'
  import { Channel, Timer, Worker } from 'millrace'
  const note = (...words) => appendFileSync(new URL('./notes', import.meta.url), words.join(' ') + '\\n')
  const shop = new Worker({ name: 'shop' })
  const mailers = new Worker({ name: 'mailers', reloadMode: 'stop-first' })
  shop.onSendFail = mailers.onSendFail = (error, n) => note(error.mayHaveBeenHandled ? 'unknown' : 'lost', n)
  mailers.onWorkerStart = async () => {
    await Timer.sleep(0.2)
    Channel.subscribe('mails', (n) => note('handled', n), { queue: 'mailers' })
  }
  let n = 0
  shop.onWorkerStart = () => Timer.add(0.01, () => {
    note('published', n)
    Channel.publish('mails', n++)
  })
  Worker.runAll()
`

function notesOf(box: Sandbox, word: string): number[] {
  const lines = readFileSync(join(box.directory, 'notes'), 'utf8').split('\n')
  return lines.filter((line) => line.startsWith(`${word} `)).map((line) => Number(line.slice(word.length)))
}

/** Returns the last message of those that must be accounted for. */
async function replaced(box: Sandbox, replace: (pid: number) => Promise<unknown>): Promise<number> {
  const mailer = async () => {
    const group = (await box.status()).groups.find(({ name }) => name === 'mailers')
    return group?.workers.find(({ state }) => state === 'ready')?.pid
  }
  const pid = await until(mailer)
  await replace(pid)
  await until(async () => ((await mailer()) ?? pid) !== pid, 20_000)
  const last = notesOf(box, 'published').at(-1) ?? 0
  await until(() => (notesOf(box, 'handled').at(-1) ?? 0) > last)
  return last
}

const replacements: Record<string, (box: Sandbox, pid: number) => Promise<unknown>> = {
  'kill -9': async (_box, pid) => process.kill(pid, 'SIGKILL'),
  'a reload, stop first': (box) => box.operate({ command: 'reload', names: ['mailers'] }),
  'a restart of the group': (box) => box.command('restart', '-g', 'mailers'),
}

for (const [what, replace] of Object.entries(replacements))
  caseTest(what === 'kill -9')(`a job queue of one process loses nothing from its start on, nor over ${what}`, () =>
    inSandbox(async (box) => {
      box.file('notes', '')
      await box.start(box.file('app.js', APP))
      const last = await replaced(box, (pid) => replace(box, pid))
      const [handled, unknown, lost] = [notesOf(box, 'handled'), notesOf(box, 'unknown'), notesOf(box, 'lost')]
      await box.stop()
      const all = Array.from({ length: last + 1 }, (_, n) => n)
      assert.equal(
        all.filter((n) => !handled.includes(n) && !unknown.includes(n)),
        [],
      )
      assert.equal(
        handled,
        [...new Set(handled)].sort((a, b) => a - b),
        'each once, and in order',
      )
      assert.equal(lost, [])
      assert.ok(what === 'kill -9' || unknown.length === 0, 'only with a kill something is under way')
    }),
  )

test.run()
