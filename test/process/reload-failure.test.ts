// A reload that cannot go through: new code that is broken in any way, processes that fail on the way, what cannot live
// twice. The old code serves on, and the reason is told.

import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { reload, version, versionAt } from '../support/reload.ts'
import { ask, Client, HANGS, inSandbox, portOf, type Sandbox, succeeded, workersOf } from '../support/server.ts'
import { until } from '../support/until.ts'

for (const [what, code, broken, reason] of [
  ['a syntax error', 6, 'const = 1', /SyntaxError/],
  ['a top level that throws', 6, version(2, 1, `throw new Error('planted')`), /planted/],
  ['a rejected top level', 6, version(2, 1, `await Promise.reject(new Error('planted'))`), /planted/],
  ['a top level that waits for ever', 6, version(2, 1, `await new Promise(() => {})`), /awaits something/],
  ['a top level that hangs', 6, version(2, 1, HANGS), /did not come to the end of its top level/],
  ['an exit at top level', 6, version(2, 1, 'process.exit(0)'), /exit 0/],
  ['no Worker', 6, `import { Worker } from 'millrace'; Worker.runAll()`, /declared no Worker/],
  ['a bad setting', 6, version(2, 1, 'worker.drainTimeoutMs = -1'), /drainTimeoutMs/],
  [
    'an onWorkerStart that rejects',
    6,
    version(2, 2, `worker.onWorkerStart = async () => { throw new Error('planted') }`),
    /echo:0 did not become ready: Error: planted/,
  ],
  ['an exit in onWorkerStart', 6, version(2, 2, 'worker.onWorkerStart = () => process.exit(3)'), /exit 3/],
  [
    'an onWorkerStart that kills itself',
    6,
    version(2, 2, `worker.onWorkerStart = () => process.kill(process.pid, 'SIGKILL')`),
    /SIGKILL/,
  ],
  [
    'an onWorkerStart that hangs',
    7,
    version(2, 2, 'worker.startTimeoutMs = 300; worker.onWorkerStart = () => new Promise(() => {})'),
    /not ready within 0.3 s/,
  ],
  [
    'an onWorkerStart that spins',
    7,
    version(2, 2, 'worker.startTimeoutMs = 300; worker.onWorkerStart = () => { for (;;); }'),
    /not ready within 0.3 s/,
  ],
] as const) {
  test(`new code with ${what}: the reload fails with the reason, and the old code keeps serving`, async () => {
    await inSandbox(async (box) => {
      const before = await box.start(box.file('app.js', version(1, 2)))
      const client = await Client.connect(portOf(before))
      box.file('app.js', broken)
      const outcome = await box.command('reload')
      assert.is(outcome.code, code)
      assert.match(outcome.stderr, /reload given up: /)
      assert.match(outcome.stderr, reason)
      const after = await box.status()
      assert.equal(
        workersOf(after).map(({ pid, state, failures }) => ({ pid, state, failures })),
        workersOf(before).map(({ pid }) => ({ pid, state: 'ready', failures: 0 })),
      )
      assert.match(await client.ask('still'), /^still 1 /)
      box.file('app.js', version(3, 2))
      await reload(box)
      assert.is(await versionAt(portOf(after)), '3')
      await box.stop()
    })
  })
}

test('a grandchild that outlives the broken new code holds up neither the reload nor the stop', async () => {
  await inSandbox(async (box) => {
    await box.start(box.file('app.js', version(1, 1)))
    const holds = `import { spawn } from 'node:child_process'
      spawn(process.execPath, ['-e', 'setInterval(() => {}, 1000)'], { stdio: 'inherit' })\n`
    for (const [broken, reason] of [
      [version(2, 1, `throw new Error('planted')`), /Error: planted/],
      [version(2, 1, 'process.exit(0)'), /exit 0/],
    ] as const) {
      box.file('app.js', holds + broken)
      const { code, stderr } = await box.command('reload')
      assert.is(code, 6)
      assert.match(stderr, reason)
    }
    await box.stop()
    for (const pid of box.pids()) process.kill(pid, 'SIGKILL') // nobody's, so nobody's to end
  })
})

test('when a later slot fails, the receipt tells which ones already run the new code', async () => {
  await inSandbox(async (box) => {
    const port = portOf(await box.start(box.file('app.js', version(1, 3))))
    box.file(
      'app.js',
      version(2, 3, `worker.onWorkerStart = () => { if (worker.id === 1) throw new Error('planted') }`),
    )
    const { code, stdout, stderr } = await box.command('reload')
    assert.is(code, 6)
    assert.match(stdout, /echo:0 +replaced[\s\S]*echo:1 +failed .*planted/)
    assert.match(stderr, /echo:1 did not become ready: Error: planted/)
    assert.not.match(stdout, /echo:2/)
    const { workers = [] } = (await box.status()).groups[0] ?? {}
    assert.equal(
      workers.map(({ incarnation, state }) => `${incarnation} ${state}`),
      ['2 ready', '1 ready', '1 ready'],
    )
    assert.match(await ask(port, 'x'), /^x [12] /)
    await box.stop()
  })
})

/** Holds a lock as long as the process serves. */
const LOCK = (box: Sandbox) => `
  const { openSync, unlinkSync } = await import('node:fs')
  const lock = ${JSON.stringify(join(box.directory, 'lock'))}
  worker.onWorkerStart = () => openSync(lock, 'wx')
  worker.onWorkerStop = () => unlinkSync(lock)`

test('what cannot live twice aborts the reload with a hint at stop-first, and stop-first replaces it', async () => {
  await inSandbox(async (box) => {
    await box.start(box.file('app.js', version(1, 1, LOCK(box))))
    box.file('app.js', version(2, 1, LOCK(box)))
    const { code, stderr } = await box.command('reload')
    assert.is(code, 6)
    assert.match(stderr, /EEXIST[\s\S]*stop-first/)
    const port = portOf(await box.status())
    assert.is(await versionAt(port), '1')
    box.file('app.js', version(3, 1, `${LOCK(box)}; worker.reloadMode = 'stop-first'`))
    const { slots } = await reload(box)
    assert.is(slots[0]?.result, 'replaced')
    assert.is(await versionAt(port), '3')
    await box.stop()
  })
})

test('stop-first with a new process that fails: the reload says so, and the crash policy tries again', async () => {
  await inSandbox(async (box) => {
    const mode = `worker.reloadMode = 'stop-first'`
    await box.start(box.file('app.js', version(1, 1, mode)))
    box.file('app.js', version(2, 1, `${mode}; worker.onWorkerStart = () => { throw new Error('planted') }`))
    const { code, stderr } = await box.command('reload')
    assert.is(code, 6)
    assert.match(stderr, /did not become ready: Error: planted/)
    box.file('app.js', version(3, 1, mode))
    const port = portOf(await box.status())
    await until(async () => (await box.status()).groups[0]?.workers[0]?.state === 'ready')
    assert.is(await versionAt(port), '3')
    await box.stop()
  })
})

test('an onWorkerRetire that never settles: the new one is active when the old one is gone', async () => {
  await inSandbox(async (box) => {
    const more = `
      worker.drainTimeoutMs = 100
      worker.onWorkerActive = () => Worker.log('active ' + worker.incarnation)
      worker.onWorkerRetire = () => new Promise(() => {})`
    await box.start(box.file('app.js', version(1, 1, more)))
    const reloading = box.begin('reload')
    await until(async () => workersOf(await box.status()).some(({ state }) => state === 'retiring'))
    assert.not.match(box.log(), /active 2/)
    succeeded(await reloading.ended)
    await until(() => box.log().includes('active 2'))
    await box.stop()
  })
})

test('an onWorkerActive that throws costs its process, and another tries', async () => {
  await inSandbox(async (box) => {
    const more = `worker.onWorkerActive = () => { if (worker.incarnation === 2) throw new Error('planted') }`
    await box.start(box.file('app.js', version(1, 1, more)))
    succeeded(await box.command('reload'))
    await until(async () => {
      const [worker] = workersOf(await box.status())
      return worker?.incarnation === 3 && worker.state === 'ready'
    })
    assert.match(box.log(), /uncaught: Error: planted/)
    await box.stop()
  })
})

test.run()
