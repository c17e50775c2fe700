// `upgrade`: another process becomes the master, and takes everything over. Whoever is connected notices nothing. The
// ways in which it fails are in upgrade-failure.test.ts.

import { existsSync, readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { addon } from '../../src/addon.ts'
import { drive, startDriven } from '../support/driven.ts'
import { caseTest, longTest } from '../support/length.ts'
import { otherNode } from '../support/nodes.ts'
import { probe } from '../support/probe.ts'
import { release, upgrade } from '../support/release.ts'
import { reload } from '../support/reload.ts'
import { ask, Client, echo, inSandbox, lives, portOf, succeeded, workersOf } from '../support/server.ts'
import { until, within } from '../support/until.ts'

test('a new version on another Node takes over: its own pid, the same port, no gap; twice in a row', async () => {
  await inSandbox(async (box) => {
    release(box, '1.0.0')
    const module = box.file('app.js', echo(2, 'worker.drainTimeoutMs = 500'))
    const first = await box.start(module)
    assert.is(first.version, '1.0.0')
    const port = portOf(first)
    const followed = box.begin('events', '-n', '1', module)
    await followed.says(/running/)
    assert.is(await ask(port, 'x').then(() => 'answered'), 'answered')
    release(box, '1.1.0')
    const outcome = await upgrade(box, '--node', otherNode(), module)
    const second = await box.status()
    assert.is(outcome.oldPid, first.pid)
    assert.is(outcome.pid, second.pid)
    assert.equal([outcome.oldVersion, outcome.version, second.version], ['1.0.0', '1.1.0', '1.1.0'])
    assert.is(outcome.node, second.node)
    assert.is.not(second.node, first.node)
    assert.is(portOf(second), port)
    assert.is(readFileSync(join(box.runDir, 'millrace.pid'), 'utf8'), `${second.pid}\n`)
    assert.ok(second.totals.messagesIn >= 1, 'a total fell')
    assert.match(await ask(port, 'x'), /^x /)
    await until(() => !lives(first.pid))
    const all = [followed.pid, second.pid, ...workersOf(second).map(({ pid }) => pid)]
    assert.equal(box.pids().sort(), all.sort())
    const third = await upgrade(box, module)
    assert.is(third.oldPid, second.pid)
    assert.is((await box.status()).node, first.node)
    assert.match(await ask(port, 'x'), /^x /)
    assert.is((await reload(box)).slots.length, 2)
    await box.stop()
    assert.is((await within(20_000, followed.ended)).code, 0) // who follows was passed on, twice
    assert.is(followed.stdout.match(/upgrade.*done/g)?.length, 2)
  })
})

longTest('no counter falls at an upgrade: those of slots go on, and so do restarts and reloads', async () => {
  await inSandbox(async (box) => {
    release(box, '1.0.0')
    const health = join(box.directory, 'health.sock')
    const module = box.file('app.js', echo(2, 'worker.drainTimeoutMs = 2000'))
    const first = await box.start(module, '--health', `unix://${health}`)
    const port = portOf(first)
    process.kill(workersOf(first)[0]?.pid ?? 0, 'SIGKILL')
    await until(async () => sumOf(await countersAt(health), 'millrace_worker_restarts_total', 'signal SIGKILL') === 1)
    let asked = 0
    for (; asked < 7; asked++) await ask(port, 'x')
    await reload(box)
    for (let round = 0; round < 2; round++) {
      const before = await countersAt(health)
      assert.is(sumOf(before, 'millrace_messages_total', 'direction="in"'), asked)
      const outcome = await upgrade(box, module)
      await until(() => !lives(outcome.oldPid))
      for (; asked < 20 * (round + 1); asked++) await ask(port, 'x')
      const { totals } = await box.status() // fresh numbers
      assert.equal([totals.messagesIn, totals.messagesOut, totals.accepted], [asked, asked, asked])
      const after = await countersAt(health)
      const fallen = [...before].filter(([series, value]) => !((after.get(series) ?? -1) >= value))
      assert.equal(fallen, [])
      assert.is(sumOf(after, 'millrace_messages_total', 'direction="in"'), asked)
      assert.is(sumOf(after, 'millrace_worker_restarts_total', 'signal SIGKILL'), 1)
      assert.is(sumOf(after, 'millrace_reloads_total', 'succeeded'), 1)
    }
    await box.stop()
  })
})

/** Each series of a counter. */
async function countersAt(socketPath: string): Promise<Map<string, number>> {
  const { body } = await probe(socketPath, '/metrics')
  const lines = body.split('\n').filter((line) => /^millrace_\w+_total/.test(line))
  return new Map(lines.map((line) => [line.slice(0, line.lastIndexOf(' ')), Number(line.slice(line.lastIndexOf(' ')))]))
}

function sumOf(counters: Map<string, number>, name: string, label: string): number {
  const wanted = [...counters].filter(([series]) => series.startsWith(`${name}{`) && series.includes(label))
  return wanted.reduce((sum, [, value]) => sum + value, 0)
}

test('what is asked for one group during an upgrade is passed on to the new master', async () => {
  await inSandbox(async (box) => {
    const hold = join(box.directory, 'hold')
    const waits = `
      const { existsSync } = await import('node:fs')
      worker.onWorkerStart = async () => {
        while (existsSync(${JSON.stringify(hold)})) await new Promise((resolve) => setTimeout(resolve, 5))
      }
      new Worker('text://127.0.0.1:0', { name: 'b' })`
    const module = box.file('app.js', echo(1, waits))
    const { pid } = await box.start(module)
    box.file('hold', '')
    const upgrading = upgrade(box, module)
    await until(() => box.pids().length >= 7) // the command, and of each side a master and two workers
    const scaling = box.operate({ command: 'scale', name: 'echo', scale: { to: 2 } })
    const stopping = box.operate({ command: 'stop', names: ['b'], isGraceful: false })
    await box.status() // by then both have been read
    rmSync(hold)
    await Promise.all([upgrading, scaling, stopping])
    const after = await box.status()
    assert.not.equal(after.pid, pid)
    assert.equal(
      after.groups.map(({ name, count, isStopped }) => [name, count, isStopped]),
      [
        ['echo', 2, false],
        ['b', 1, true],
      ],
    )
    await box.stop()
  })
})

/** What one application may have, at once. */
const everything = (version: number, more = '') => `
  import { Worker } from 'millrace'
  import { appendFileSync } from 'node:fs'
  import { join } from 'node:path'
  const here = import.meta.dirname
  const note = (what) => appendFileSync(join(here, 'notes'), '${version} ' + what + '\\n')
  const text = new Worker('text://127.0.0.1:0', { name: 'text', count: 2, drainTimeoutMs: 800 })
  const many = new Worker('text://127.0.0.1:0', { name: 'many', count: 2, reusePort: true, drainTimeoutMs: 800 })
  const unix = new Worker('unix://' + join(here, 'app.sock'), { name: 'unix', drainTimeoutMs: 800 })
  const udp = new Worker('udp://127.0.0.1:0', { name: 'udp', drainTimeoutMs: 800 })
  const lock = new Worker('text://127.0.0.1:0', { name: 'lock', reloadMode: 'stop-first', drainTimeoutMs: 800 })
  for (const worker of [text, many, unix, udp, lock])
    worker.onMessage = (connection, message) => connection.send(String(message).trim() + ' ${version} ' + process.pid)
  unix.onMessage = (connection, bytes) => connection.send(String(bytes).trim() + ' ${version} ' + process.pid + '\\n')
  text.onWorkerStart = async () => {
    Worker.onLeader('job', () => {
      note('lead')
      return () => note('resign')
    })
    const inner = new Worker('text://127.0.0.2:0')
    inner.onMessage = text.onMessage
    await inner.listen()
  }
  lock.onWorkerStart = () => note('start')
  lock.onWorkerStop = () => note('stop')
  unix.onWorkerActive = () => note('active')
  unix.onWorkerRetire = () => note('retire')
  ${more}
  Worker.runAll()
`

const isWhole = addon().sys !== null
for (const [at, engine] of (isWhole ? ['native', 'node'] : ['node']).entries()) {
  caseTest(at === 0)(
    `every kind of socket goes over: ${engine} engine, ${isWhole ? 'addon' : 'no addon'}`,
    async () => {
      await inSandbox(async (box) => {
        box.file('notes', '')
        const module = box.file('app.js', everything(1))
        const before = await box.start(module, '--engine', engine)
        const path = join(box.directory, 'app.sock')
        box.file('app.js', everything(2))
        await upgrade(box, module)
        const after = await box.status()
        const ports = (status: typeof before) =>
          status.groups.map(({ name, address, inner }) => ({ name, address, inner }))
        assert.equal(ports(after), ports(before))
        for (const { name, port, inner } of after.groups) {
          if (name === 'udp') continue
          assert.match(await ask(name === 'unix' ? path : port, 'x'), /^x 2 /)
          for (const at of inner) assert.match(await ask(Number(at.split(':').at(-1)), 'x', '127.0.0.2'), /^x 2 /)
        }
        assert.equal(
          workersOf(after).map(({ state }) => state),
          workersOf(before).map(() => 'ready'),
        )
        const of = (pattern: RegExp) => {
          const notes = readFileSync(join(box.directory, 'notes'), 'utf8').trim().split('\n')
          return notes.filter((line) => pattern.test(line))
        }
        await until(() => of(/2 lead/).length > 0)
        assert.equal(of(/lead|resign/), ['1 lead', '1 resign', '2 lead']) // never two
        assert.equal(of(/start|stop/), ['1 start', '1 stop', '2 start']) // never both
        assert.equal(of(/active|retire/), ['1 active', '1 retire', '2 active'])
        await box.stop()
        assert.not(existsSync(path))
      })
    },
  )
}

longTest('a stop while the old processes drain waits for them, and ends the server after that', async () => {
  await inSandbox(async (box) => {
    const notes = box.file('notes', '')
    const program = (more: string) =>
      box.file(
        'app.js',
        echo(
          1,
          `const { appendFileSync } = await import('node:fs')
          const note = (what) => appendFileSync(${JSON.stringify(notes)}, what + '\\n')
          Worker.onMasterStop = () => note('stopped')
          ${more}`,
        ),
      )
    const module = program(`worker.onWorkerStop = () => {
      const release = worker.hold()
      note('drains')
      setTimeout(() => { note('drained'); release() }, 2000)
    }`)
    const before = await box.start(module)
    program('')
    const upgrading = box.begin('upgrade', module)
    await until(() => readFileSync(notes, 'utf8') !== '', 20_000)
    succeeded(await box.command('stop', '-g'))
    assert.is(readFileSync(notes, 'utf8'), 'drains\ndrained\nstopped\n')
    assert.not(workersOf(before).some(({ pid }) => lives(pid)))
    await upgrading.ended
  })
})

test('what the code of now says counts: groups that are new, moved and gone, and a reload after it', async () => {
  await inSandbox(async (box) => {
    const path = join(box.directory, 'old.sock')
    const two = `const other = new Worker('unix://${path}', { name: 'other' })`
    const module = box.file('app.js', echo(2, two))
    const port = portOf(await box.start(module))
    assert.ok(existsSync(path))
    const more = `const more = new Worker('text://127.0.0.1:0', { name: 'more' })
      more.onMessage = worker.onMessage`
    box.file('app.js', echo(1, more))
    await upgrade(box, module)
    const { groups } = await box.status()
    assert.equal(
      groups.map(({ name, count }) => [name, count]),
      [
        ['echo', 1],
        ['more', 1],
      ],
    )
    assert.is(groups[0]?.port, port)
    assert.not(existsSync(path))
    assert.match(await ask(groups[1]?.port ?? 0, 'x'), /^x /)
    box.file('app.js', echo(2, two))
    await reload(box)
    assert.ok(existsSync(path))
    await box.stop()
  })
})

longTest('reloads and an upgrade at once are one after the other, each with its answer', async () => {
  await inSandbox(async (box) => {
    const module = box.file('app.js', echo(1, 'worker.drainTimeoutMs = 500'))
    const { pid } = await box.start(module)
    const commands = [
      box.begin('reload', '--json'),
      box.begin('upgrade', '--json', module),
      box.begin('reload', '--json'),
      box.begin('upgrade', '--json', module),
    ].map(({ ended }) => within(120_000, ended)) // one after the other, on a busy machine
    const outcomes = (await Promise.all(commands)).map((outcome) => JSON.parse(succeeded(outcome).stdout))
    assert.equal(
      outcomes.map(({ exitCode }) => exitCode),
      [0, 0, 0, 0],
    )
    const last = await box.status()
    assert.is.not(last.pid, pid)
    process.kill(last.pid, 'SIGUSR2')
    await until(() => box.log().includes(`pid:${last.pid} reload: done`), 20_000)
    await until(() => box.pids().length === 2, 20_000)
    await box.stop()
  })
})

longTest('while the old processes drain, commands reach the new master, and a stop ends both', async () => {
  await inSandbox(async (box) => {
    const slow = `worker.drainTimeoutMs = 60000
      worker.onMessage = (connection, line) => { if (line !== 'never') connection.send(line + ' ' + process.pid); else return new Promise(() => {}) }`
    const module = box.file('app.js', echo(1, slow))
    const before = await box.start(module)
    const client = await Client.connect(portOf(before))
    const other = (await client.ask('x')).split(' ')[1]
    client.send('never')
    await until(async () => workersOf(await box.status())[0]?.work !== '')
    const upgrading = box.begin('upgrade', module)
    await until(() => box.log().includes('is the master now'), 20_000)
    const after = await box.status()
    assert.is.not(after.pid, before.pid)
    assert.ok(lives(before.pid) && lives(Number(other)))
    process.kill(before.pid, 'SIGUSR2') // what means the old one is done by the new one
    const line = await ask(portOf(after), 'x')
    assert.is.not(line.split(' ')[1], other)
    await box.stop()
    await until(() => box.pids().length === 0)
    assert.is((await upgrading.ended).code, 0)
    client.close()
  })
})

test('a server in the foreground says why it is not replaced', async () => {
  await inSandbox(async (box) => {
    const module = box.file('app.js', echo(1))
    const server = await box.foreground(module)
    const { code, stderr } = await box.command('upgrade', module)
    assert.is(code, 1)
    assert.match(stderr, /upgrade given up: a server in the foreground keeps its pid.*use 'restart'/)
    assert.is((await box.command('upgrade', '--node')).code, 2)
    await box.stop()
    await server.ended
    assert.is((await box.command('upgrade', module)).code, 3)
  })
})

test('what an old process sends while it drains, the new ones get: by name and by subject', async () => {
  await inSandbox(async (box) => {
    const port = await startDriven(
      box,
      `
      import { existsSync } from 'node:fs'
      driver.drainTimeoutMs = 20_000
      const tasks = new Worker({ name: 'tasks', count: 2, drainTimeoutMs: 20_000 })
      tasks.onMessage = (from, message) => [process.pid, tasks.id, message]
      tasks.onWorkerStart = () => Channel.subscribe('who', () => process.pid)
      const until = async (name) => { while (!existsSync(new URL(name, import.meta.url))) await new Promise((resolve) => setTimeout(resolve, 10)) }
      state.until = until
    `,
    )
    const before = await box.status()
    // From the old driver, whose handler keeps it: before the new master leads, and afterwards.
    const old = drive<[number[], number[][]]>(
      port,
      `
      const pids = () => Promise.all([0, 1].map((id) => groups.tasks.worker(id).request('x').then(([pid]) => pid)))
      const first = await pids()
      await state.until('./leads')
      return [first, [await pids(), await Promise.all([Channel.request('who', 0), Channel.request('who', 0)])]]`,
    )
    const upgrading = upgrade(box, join(box.directory, 'app.js'))
    await until(async () => (await box.status()).pid !== before.pid, 20_000)
    const after = await box.status()
    const pidsOf = (status: typeof before) =>
      workersOf(status)
        .filter(({ state }) => state === 'ready')
        .map(({ pid }) => pid)
    box.file('leads', '')
    const [first, [later = [], heard = []]] = await old
    for (const pid of first) assert.ok(pidsOf(before).includes(pid))
    for (const pid of [...later, ...heard]) assert.ok(pidsOf(after).includes(pid) && !pidsOf(before).includes(pid))
    await upgrading
    assert.is(
      await drive(portOf(await box.status()), `return groups.tasks.worker(1).request('x').then(([, id]) => id)`),
      1,
    )
    await box.stop()
  })
})

test.run()
