// A master that is killed: its idle workers leave by themselves, and the next start works. A worker that cannot leave is
// killed by the next start, if it is the very process on record.

import { spawn } from 'node:child_process'
import { chownSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { startTimeOf } from '../../src/process/identity.ts'
import { declaredTimeOf, type Leftover, Leftovers, leftoversIn } from '../../src/process/master/leftovers.ts'
import type { Status } from '../../src/process/status/status.ts'
import { longTest } from '../support/length.ts'
import { reload } from '../support/reload.ts'
import {
  ask,
  Client,
  echo,
  freePort,
  HANGS,
  inSandbox,
  lives,
  portOf,
  type Sandbox,
  succeeded,
  workersOf,
} from '../support/server.ts'
import { until } from '../support/until.ts'

const spins = `worker.onMessage = () => { ${HANGS} }; Worker.stopTimeout = 0.1`

/** Longer than processes are given that declare no time to end, 2 s and a slack. */
const WORKS_MS = 5000

/** A server whose only worker never comes back to its loop, and whose master is dead. Its module is `app.js`. */
async function stuckOrphan(box: Sandbox): Promise<{ status: Status; orphan: number }> {
  const status = await box.start(box.file('app.js', echo(1, spins, await freeAddress())))
  const orphan = workersOf(status)[0]?.pid ?? 0
  const client = await Client.connect(portOf(status))
  client.send('x')
  await until(async () => workersOf(await box.status())[0]?.state === 'busy')
  process.kill(status.pid, 'SIGKILL')
  await until(() => !lives(status.pid))
  client.close()
  return { status, orphan }
}

/** A fixed port: the orphan holds it. */
async function freeAddress(): Promise<string> {
  return `text://127.0.0.1:${await freePort()}`
}

test('idle workers leave when their master is killed, and the next start works', async () => {
  await inSandbox(async (box) => {
    const module = box.file('app.js', echo(2, '', await freeAddress()))
    const { pid } = await box.start(module)
    process.kill(pid, 'SIGKILL')
    await until(() => box.pids().length === 0)
    assert.is((await box.command('status')).code, 3)
    const status = await box.start(module)
    assert.match(await ask(portOf(status), 'hello'), /^hello/)
    await box.stop()
  })
})

test('workers that are busy when their master is killed finish first, and the next start waits for them', async () => {
  await inSandbox(async (box) => {
    const held = `
      import { existsSync } from 'node:fs'
      import { setTimeout as sleep } from 'node:timers/promises'
      Worker.stopTimeout = 20 // the next start has to come up first
      worker.onMessage = async (connection) => { while (!existsSync(process.argv[2])) await sleep(5); connection.send('done') }`
    const module = box.file('app.js', echo(1, held, await freeAddress()))
    const go = join(box.directory, 'go')
    const status = await box.start(module, '--', go)
    const client = await Client.connect(portOf(status))
    client.send('x')
    await until(async () => (await box.status()).totals.messagesIn === 1)
    process.kill(status.pid, 'SIGKILL')
    const next = box.begin('start', '-d', module, '--', go)
    await until(() => readFileSync(join(box.runDir, 'lock'), 'utf8').includes(`${next.pid}`) || box.pids().length >= 3)
    writeFileSync(go, '')
    assert.is(await client.line(), 'done')
    assert.is((await next.ended).code, 0)
    client.close()
    await box.stop()
  })
})

test('a worker stuck in its loop is killed by the next start', async () => {
  await inSandbox(async (box) => {
    const { status, orphan } = await stuckOrphan(box)
    assert.ok(lives(orphan))
    const after = await box.start(join(box.directory, 'app.js'))
    assert.not(lives(orphan))
    assert.is(portOf(after), portOf(status))
    await box.stop()
  })
})

test('a worker stuck in its loop is named by status, and stop ends it', async () => {
  await inSandbox(async (box) => {
    const { status, orphan } = await stuckOrphan(box)
    const module = join(box.directory, 'app.js')
    const seen = await box.command('status', module)
    assert.is(seen.code, 3)
    assert.match(seen.stderr, new RegExp(`: not running .*; a master that was killed has left processes: ${orphan}\n`))
    assert.match(seen.stderr, /^next: millrace stop .*app\.js ends them, and so does the next start$/m)
    const stopped = succeeded(await box.command('stop', '-t', '0', '--json', module))
    assert.equal(JSON.parse(stopped.stdout), { stopped: true, pid: 0, leftovers: [orphan] })
    assert.not(lives(orphan))
    assert.is((await box.command('stop', module)).code, 3)
    const after = await box.start(module)
    assert.is(portOf(after), portOf(status))
    await box.stop()
  })
})

for (const flags of [[], ['-g']])
  longTest(
    `${['stop', ...flags].join(' ')} leaves what a killed master has left the time to end that it has declared`,
    async () => {
      await inSandbox(async (box) => {
        const works = `
          Worker.stopTimeout = 20
          worker.onMessage = async (connection) => {
            await new Promise((resolve) => setTimeout(resolve, ${WORKS_MS}))
            connection.send('done')
          }`
        const module = box.file('app.js', echo(1, works, await freeAddress()))
        const status = await box.start(module)
        const { pid } = status
        const client = await Client.connect(portOf(status))
        client.send('x')
        await until(async () => (await box.status()).totals.messagesIn === 1)
        process.kill(pid, 'SIGKILL')
        await until(() => !lives(pid))
        const stopping = box.begin('stop', '-q', ...flags, module)
        assert.is(await client.line(), 'done')
        succeeded(await stopping.ended)
        client.close()
        await box.start(module) // removes in the end what the killed master has left in the run directory
        await box.stop()
      })
    },
  )

test('each process is on record with the time to end that its code declares, also after a reload', async () => {
  await inSandbox(async (box) => {
    const code = (seconds: number) => echo(2, `Worker.stopTimeout = ${seconds}`)
    const recorded = (): Leftover[] => JSON.parse(readFileSync(join(box.runDir, 'workers.json'), 'utf8'))
    const allHave = (ms: number) => recorded().length === 2 && recorded().every((one) => one.stopTimeoutMs === ms)
    await box.start(box.file('app.js', code(1.5)))
    await until(() => allHave(1500))
    box.file('app.js', code(20))
    await reload(box)
    await until(() => allHave(20_000))
    assert.is(declaredTimeOf([...recorded(), { pid: 1, startTime: '1', stopTimeoutMs: 30_000 }]), 30_000)
    assert.is(declaredTimeOf([{ pid: 1, startTime: '1' }]), 2000, 'an older version records none')
    await box.stop()
  })
})

test('what a master that comes after a killed one has on record is not left over', async () => {
  await inSandbox(async (box) => {
    const { pid } = await box.start(box.file('app.js', echo()))
    assert.equal(leftoversIn(box.runDir), [])
    const workers = JSON.parse(readFileSync(join(box.runDir, 'workers.json'), 'utf8'))
    const other = mkdtempSync(join(box.directory, 'run-'))
    const record = (holder: number) => {
      writeFileSync(join(other, 'workers.json'), JSON.stringify(workers))
      writeFileSync(join(other, 'lock'), JSON.stringify({ pid: holder, startTime: '1' }))
    }
    record(pid) // another process has its pid by now
    assert.equal(leftoversIn(other), workers)
    writeFileSync(join(other, `c.${pid}`), '') // the second master of an upgrade, about to take over
    assert.equal(leftoversIn(other), [])
    await box.stop()
  })
})

test('a record that could not be written is not outdated once the processes are those of the last one again', () => {
  const folder = mkdtempSync(join(tmpdir(), 'mr-'))
  try {
    const leftovers = new Leftovers(folder)
    leftovers.record([process.pid], 0)
    renameSync(folder, `${folder}.away`)
    leftovers.record([process.pid, process.ppid], 0)
    assert.ok(leftovers.isOutdated)
    renameSync(`${folder}.away`, folder)
    leftovers.record([process.pid], 0)
    assert.not.ok(leftovers.isOutdated)
  } finally {
    rmSync(folder, { recursive: true })
  }
})

if (process.geteuid?.() === 0) {
  test("root's stop ends no process that another user's run directory names and that is not his", async () => {
    await inSandbox(async (box) => {
      const sleeper = spawn('sleep', ['60'])
      try {
        const other = mkdtempSync(join(box.directory, 'run-'))
        const { pid = 0 } = sleeper
        writeFileSync(join(other, 'workers.json'), JSON.stringify([{ pid, startTime: startTimeOf(pid) }]))
        assert.is(leftoversIn(other).length, 1)
        chownSync(other, 12_345, 12_345)
        const module = box.file('app.js', echo())
        const { code } = await box.command('stop', '-t', '0', '--run-dir', other, module)
        assert.is(code, 3)
        assert.ok(lives(pid))
      } finally {
        sleeper.kill()
      }
    })
  })
}

longTest('a start that fails does not forget the stuck worker', async () => {
  await inSandbox(async (box) => {
    const { orphan } = await stuckOrphan(box)
    const good = readFileSync(join(box.directory, 'app.js'), 'utf8')
    const module = box.file('app.js', 'throw new Error("planted")')
    assert.is((await box.command('start', '-d', module)).code, 6)
    assert.ok(lives(orphan))
    box.file('app.js', good)
    await box.start(module)
    assert.not(lives(orphan))
    await box.stop()
  })
})

longTest('a recorded pid that is another process by now is left alone', async () => {
  await inSandbox(async (box) => {
    const { orphan } = await stuckOrphan(box)
    const bystander = box.spawn('sleep', ['1000'])
    const record = join(box.runDir, 'workers.json')
    const [recorded] = JSON.parse(readFileSync(record, 'utf8'))
    assert.is(recorded.pid, orphan)
    writeFileSync(record, JSON.stringify([recorded, { pid: bystander.pid, startTime: '1' }]))
    await box.start(join(box.directory, 'app.js'))
    assert.not(lives(orphan))
    assert.ok(lives(bystander.pid))
    await bystander.end('SIGKILL')
    await box.stop()
  })
})

longTest('a module that spins at its top level when the master is killed is ended by the next start', async () => {
  await inSandbox(async (box) => {
    const module = box.file('app.js', `console.error('spinning'); ${HANGS}`)
    const starting = box.begin('start', '-d', module)
    await until(() => box.log().includes('spinning'))
    const master = Number(readFileSync(join(box.runDir, 'millrace.pid'), 'utf8'))
    process.kill(master, 'SIGKILL')
    assert.is((await starting.ended).code, 1)
    box.file('app.js', `${echo(1)}\nWorker.stopTimeout = 0.1`)
    await box.start(module)
    await until(() => box.pids().length === 2)
    await box.stop()
  })
})

test('start -d that is killed leaves no daemon that nobody has seen start', async () => {
  await inSandbox(async (box) => {
    const module = box.file(
      'app.js',
      echo(1, `worker.onWorkerStart = () => { console.error('booting'); return new Promise(() => {}) }`),
    )
    const starting = box.begin('start', '-d', module)
    await until(() => box.log().includes('booting'), 30_000) // three processes come up before
    await starting.end('SIGKILL')
    await until(() => box.pids().length === 0)
  })
})

test.run()
