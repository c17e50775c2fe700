// kill -9 of thin parent, master, workers, describe and callback, in every order: whatever is left of a server ends by itself,
// and the next start has the same port.

import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { addon } from '../../src/addon.ts'
import { atLength, longTest } from '../support/length.ts'
import { ask, echo, freePort, HANGS, inSandbox, lives, type Sandbox, workersOf } from '../support/server.ts'
import { until } from '../support/until.ts'

async function kill(pid: number): Promise<void> {
  if (!lives(pid)) return
  process.kill(pid, 'SIGKILL')
  await until(() => !lives(pid), 20_000)
}

function orders<T>(items: readonly T[]): T[][] {
  if (items.length === 0) return [[]]
  return items.flatMap((item) => orders(items.filter((other) => other !== item)).map((rest) => [item, ...rest]))
}

/** Who spins when its master is killed: with the addon it dies with it, else the next start ends it. */
const DIES_WITH_MASTER = addon().sys !== null

async function assertNothingLeft(box: Sandbox): Promise<void> {
  await until(() => box.pids().length === 0, 20_000)
}

test('thin parent, master and worker, in every order', async () => {
  await inSandbox(async (box) => {
    box.env.MILLRACE_ADDON = 'none' // with it the command becomes the master, and there is no parent
    const port = await freePort()
    const module = box.file('app.js', echo(1, 'Worker.stopTimeout = 0.5', `text://127.0.0.1:${port}`))
    const all = orders(['parent', 'master', 'worker'] as const)
    for (const order of all.slice(-atLength(2, all.length))) {
      const parent = box.spawn(process.execPath, [module, 'start'])
      await parent.says(/Press Ctrl\+C to stop/)
      const status = await box.status()
      assert.not.equal(status.pid, parent.pid)
      assert.match(await ask(port, 'x'), /^x \d+$/)
      const pids = { parent: parent.pid, master: status.pid, worker: workersOf(status)[0]?.pid ?? 0 }
      for (const role of order) await kill(pids[role])
      await assertNothingLeft(box)
    }
    await box.start(module) // and it takes away what the killed ones have left on disk
    await box.stop()
  })
})

test('a worker that is starting, in both orders with its master', async () => {
  await inSandbox(async (box) => {
    const more = `worker.onWorkerStart = () => { console.error('booting', process.pid); return new Promise(() => {}) }`
    const module = box.file('app.js', echo(1, more))
    for (const isMasterFirst of [true, false]) {
      const server = box.begin('start', module)
      const worker = Number((await server.says(/booting (\d+)/))[1])
      for (const pid of isMasterFirst ? [server.pid, worker] : [worker, server.pid]) await kill(pid)
      await assertNothingLeft(box)
    }
    box.file('app.js', echo(1))
    await box.start(module)
    await box.stop()
  })
})

test('describe: killed before its master the reload is given up, and after it nothing is left', async () => {
  await inSandbox(async (box) => {
    const flag = join(box.directory, 'spin')
    const spins = `
      const { existsSync } = await import('node:fs')
      if (existsSync(${JSON.stringify(flag)})) { console.error('spinning', process.pid); ${HANGS} }`
    const module = box.file('app.js', echo(1, spins))
    const status = await box.start(module)
    writeFileSync(flag, '')
    const spinning = () => [...box.log().matchAll(/\[describe\] spinning (\d+)/g)].map(([, pid]) => Number(pid))
    const first = box.begin('reload')
    await until(() => spinning().length === 1, 20_000)
    await kill(spinning()[0] ?? 0)
    const { code, stderr } = await first.ended
    assert.is(code, 6)
    assert.match(stderr, /signal SIGKILL/)
    assert.is((await box.status()).pid, status.pid)
    const second = box.begin('reload')
    await until(() => spinning().length === 2, 20_000)
    await kill(status.pid)
    assert.not.equal((await second.ended).code, 0)
    if (DIES_WITH_MASTER) await assertNothingLeft(box)
    box.file('app.js', echo(1))
    await box.start(module)
    assert.not(spinning().some(lives))
    await box.stop()
  })
})

longTest('a callback that spins when its master is killed', async () => {
  await inSandbox(async (box) => {
    const spins = `Worker.onWorkerExit = () => { console.error('spinning', process.pid); ${HANGS} }`
    const module = box.file('app.js', echo(1, spins))
    const status = await box.start(module)
    await kill(workersOf(status)[0]?.pid ?? 0)
    const [, spinning] = await until(() => /\[callback\] spinning (\d+)/.exec(box.log()), 20_000)
    await kill(status.pid)
    if (DIES_WITH_MASTER) await assertNothingLeft(box)
    box.file('app.js', echo(1))
    await box.start(module)
    assert.not(lives(Number(spinning)))
    await box.stop()
  })
})

test.run()
