// Processes that reach a limit of theirs: another one is ready before they are told to leave, they go one at a time, and
// a limit that cannot be kept does not make a group spin.

import { existsSync, readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { newCounters } from '../../src/counters.ts'
import type { Declaration } from '../../src/process/group.ts'
import { type Blueprint, GroupState } from '../../src/process/master/group-state.ts'
import type { WorkerHandle } from '../../src/process/master/worker-handle.ts'
import { Lifespan } from '../../src/process/operations/lifespan.ts'
import { type RecycleSupervisor, Recycling } from '../../src/process/operations/recycle.ts'
import { longTest } from '../support/length.ts'
import { reload } from '../support/reload.ts'
import { ask, Client, echo, inSandbox, portOf, type Sandbox, succeeded, workersOf } from '../support/server.ts'
import { until } from '../support/until.ts'

const off = { maxRequests: 0, maxMemory: 0, maxLifetimeMs: 0 }

function report(messagesIn: number, memory = 0) {
  return { counters: { ...newCounters(), messagesIn }, memory, timers: 0, work: '', lagMs: 0, isInspected: false }
}

test('a limit is taken a fifth lower at most, never higher, and 0 is none', () => {
  const limits = { maxRequests: 1000, maxMemory: 500, maxLifetimeMs: 60_000 }
  const [late, soon] = [() => 0, () => 1].map((random) => new Lifespan(limits, random))
  assert.is(late?.reached(report(999), 0), null)
  assert.equal(late?.reached(report(1000), 0), { limit: 'maxRequests', words: '1000 requests' })
  assert.is(soon?.reached(report(799), 0), null)
  assert.is(soon?.reached(report(800), 0)?.limit, 'maxRequests')
  assert.is(late?.reached(report(0), 59_999), null)
  assert.equal(late?.reached(report(0), 60_000), { limit: 'maxLifetimeMs', words: '60 s old' })
  assert.is(soon?.reached(report(0), 48_000)?.limit, 'maxLifetimeMs')
  assert.is(soon?.reached(report(0, 499), 0), null)
  assert.is(soon?.reached(report(0, 500), 0)?.limit, 'maxMemory')
  assert.is(new Lifespan(off).reached(report(1e9, 1e12), 1e12), null)
})

test('memory that is over the limit from the start is told once, and limited to half more', () => {
  const span = new Lifespan({ ...off, maxMemory: 100 * 2 ** 20 })
  assert.is(span.begin(0), '') // not known
  assert.match(
    span.begin(120 * 2 ** 20),
    /^starts with 120\.0 MiB, over maxMemory \(100\.0 MiB\): .* stays until 180\.0 MiB/,
  )
  assert.is(span.begin(130 * 2 ** 20), '')
  assert.is(span.reached(report(0, 179 * 2 ** 20), 0), null)
  assert.is(span.reached(report(0, 180 * 2 ** 20), 0)?.limit, 'maxMemory')
})

test('a process that is over maxMemory with its first report, and was not when it was ready, is replaced', () => {
  const MIB = 2 ** 20
  let replaced = 0
  const exclusively = async () => void replaced++
  const recycling = new Recycling({ exclusively, isStopping: false } as unknown as RecycleSupervisor)
  const declaration = { ...off, maxMemory: 200 * MIB, name: 'g' } as Declaration
  const group = new GroupState({ declaration } as Blueprint)
  const slot = group.addSlot({ isHeld: false })
  const process = (memoryAtReady: number) =>
    ({ state: 'ready', startedAt: 0, memoryAtReady, report: report(0, 250 * MIB) }) as WorkerHandle
  slot.current = process(240 * MIB)
  recycling.look(group, slot, slot.current)
  assert.is(replaced, 0)
  slot.current = process(40 * MIB)
  recycling.look(group, slot, slot.current)
  assert.is(replaced, 1)
})

/** Each process writes when it is as good as ready, and when it is told to leave: the file has them in their true order. */
function diary(box: Sandbox, more: string, count = 2): { module: string; lines(): string[] } {
  const path = join(box.directory, 'diary')
  const note = `
    const { appendFileSync } = await import('node:fs')
    const note = (what) => appendFileSync(${JSON.stringify(path)}, what + ' ' + worker.id + ' ' + process.pid + '\\n')
    worker.onWorkerStart = () => note('start')
    worker.onWorkerStop = () => note('stop')
    worker.onWorkerReload = () => note('reload')
    worker.onWorkerRetire = () => note('retire')
    ${more}`
  const lines = () => (existsSync(path) ? readFileSync(path, 'utf8').trimEnd().split('\n') : [])
  return { module: box.file('app.js', echo(count, note)), lines }
}

/** How many served at a time, from when all of them did until the server was stopped. */
function servingOver(lines: readonly string[], count: number): number[] {
  let serving = 0
  const all = lines.flatMap((line) => {
    if (line.startsWith('start')) serving++
    else if (line.startsWith('stop')) serving--
    else return []
    return [serving]
  })
  return all.slice(all.indexOf(count))
}

test('processes that have had their requests are replaced under load, one at a time: no request fails, none is missing', async () => {
  await inSandbox(async (box) => {
    const { module, lines } = diary(box, 'worker.maxRequests = 30; worker.drainTimeoutMs = 3000')
    const status = await box.start(module)
    let isDone = false
    let answers = 0
    const load = Array.from({ length: 4 }, async () => {
      while (!isDone) {
        assert.match(await ask(portOf(status), 'x'), /^x \d+$/)
        answers++
        await new Promise((resolve) => setTimeout(resolve, 2))
      }
    })
    const after = await until(async () => {
      const now = await box.status()
      return (now.groups[0]?.replaced.maxRequests ?? 0) >= 4 && now
    }, 60_000)
    isDone = true
    await Promise.all(load)
    assert.ok(answers > 0)
    const before = lines()
    const serving = servingOver(before, 2)
    assert.ok(Math.min(...serving) >= 2, `${before.join(', ')}`)
    assert.ok(Math.max(...serving) <= 3, `${before.join(', ')}`)
    assert.ok(before.some((line) => line.startsWith('retire')))
    assert.not(before.some((line) => line.startsWith('reload')))
    assert.equal(after.groups[0]?.exits, {})
    assert.match(box.log(), /worker echo:\d pid \d+: \d+ requests, maxRequests: pid \d+ has its place/)
    assert.match(succeeded(await box.command('status')).stdout, /^echo has replaced processes: maxRequests \d+$/m)
    await box.stop()
  })
})

test('processes get no older than they may, and a reload beside that is one after the other', async () => {
  await inSandbox(async (box) => {
    const { module, lines } = diary(box, 'worker.maxLifetimeMs = 300; worker.drainTimeoutMs = 3000')
    await box.start(module)
    const replacements = async () => (await box.status()).groups[0]?.replaced.maxLifetimeMs ?? 0
    await until(async () => (await replacements()) >= 1, 30_000)
    for (let turn = 0; turn < 2; turn++) {
      const { slots } = await reload(box)
      assert.equal(
        slots.map(({ result }) => result),
        ['replaced', 'replaced'],
      )
    }
    await until(
      () => /maxLifetimeMs: pid \d+ has its place; again within seconds of its start: raise max/.test(box.log()),
      30_000,
    )
    const before = lines()
    const serving = servingOver(before, 2)
    assert.ok(Math.min(...serving) >= 2, `${before.join(', ')}`)
    assert.is(before.filter((line) => line.startsWith('reload')).length, 4)
    await box.stop()
  })
})

test('a process that starts over maxMemory stays until it has grown, and the log says why', async () => {
  await inSandbox(async (box) => {
    const grow = `worker.onMessage = (connection) => { globalThis.kept = Buffer.alloc(200 * 2 ** 20, 1); connection.send('grown') }`
    const status = await box.start(box.file('app.js', echo(1, `worker.maxMemory = 2 ** 20; ${grow}`)))
    await until(() =>
      /worker echo:0 pid \d+: starts with [\d.]+ MiB, over maxMemory \(1\.0 MiB\): another would be/.test(box.log()),
    )
    const still = await box.status()
    assert.is(workersOf(still)[0]?.pid, workersOf(status)[0]?.pid)
    assert.equal(still.groups[0]?.replaced, {})
    const client = await Client.connect(portOf(status))
    assert.is(await client.ask('x'), 'grown')
    await until(async () => {
      const { groups } = await box.status()
      return groups[0]?.replaced.maxMemory === 1
    }, 20_000)
    assert.match(box.log(), /worker echo:0 pid \d+: [\d.]+ MiB, maxMemory: pid \d+ has its place/)
    client.close()
    await box.stop()
  })
})

test('a process stays when the one for its place does not come up', async () => {
  await inSandbox(async (box) => {
    const flag = join(box.directory, 'broken')
    const more = `
      const { existsSync } = await import('node:fs')
      worker.maxLifetimeMs = 300
      worker.onWorkerStart = () => { if (existsSync(${JSON.stringify(flag)}) && worker.incarnation > 1) throw new Error('no database') }`
    box.file('broken', '')
    const status = await box.start(box.file('app.js', echo(1, more)))
    await until(
      () => /maxLifetimeMs: it stays, worker echo:0 did not become ready: Error: no database/.test(box.log()),
      20_000,
    )
    const [worker] = workersOf(await box.status())
    assert.is(worker?.pid, workersOf(status)[0]?.pid)
    rmSync(flag)
    await until(async () => ((await box.status()).groups[0]?.replaced.maxLifetimeMs ?? 0) >= 1, 20_000)
    await box.stop()
  })
})

longTest('one that had to leave first does not stay then, and the log says so', async () => {
  await inSandbox(async (box) => {
    const more = `
      worker.maxLifetimeMs = 300
      worker.reloadMode = 'stop-first'
      worker.onWorkerStart = () => { if (worker.incarnation > 1) throw new Error('no database') }`
    const [worker] = workersOf(await box.start(box.file('app.js', echo(1, more))))
    const line = await until(() => /worker echo:0 pid \d+: .*maxLifetimeMs: .*no database/.exec(box.log())?.[0], 20_000)
    assert.match(
      line,
      new RegExp(`pid ${worker?.pid}: .*maxLifetimeMs: it has ended, worker echo:0 did not become ready`),
    )
    assert.equal((await box.status()).groups[0]?.replaced, { maxLifetimeMs: 1 })
    await box.stop()
  })
})

test.run()
