// A reload that cannot go through: new code that is broken in any way, processes that fail on the way, what cannot live
// twice. The old code serves on, and the reason is told.

import { existsSync, mkdirSync, readFileSync, symlinkSync, unlinkSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import type { ReloadOutcome } from '../../src/process/operations/receipts.ts'
import { longTest } from '../support/length.ts'
import { reload, version, versionAt } from '../support/reload.ts'
import { ask, Client, HANGS, inSandbox, portOf, type Sandbox, succeeded, workersOf } from '../support/server.ts'
import { until } from '../support/until.ts'

interface Broken {
  readonly what: string
  readonly code: string
  readonly says: RegExp
  readonly exitCode?: number
}

/** Each in a reload of one server, which goes on as before, and takes good code at the end. */
async function refusesAll(cases: readonly Broken[]): Promise<void> {
  await inSandbox(async (box) => {
    const before = await box.start(box.file('app.js', version(1, 2)))
    const client = await Client.connect(portOf(before))
    for (const { what, code, says, exitCode = 6 } of cases) {
      box.file('app.js', code)
      const outcome = await box.command('reload')
      assert.is(outcome.code, exitCode, `${what}: ${outcome.stderr}`)
      assert.match(outcome.stderr, /reload given up: /)
      assert.match(outcome.stderr, says)
      const after = await until(async () => {
        const now = workersOf(await box.status())
        return now.every(({ state }) => state !== 'busy') && now // with a request, on a machine that is
      })
      assert.equal(
        after.map(({ pid, state, failures }) => ({ pid, state, failures })),
        workersOf(before).map(({ pid }) => ({ pid, state: 'ready', failures: 0 })),
        what,
      )
      assert.match(await client.ask(what), / 1 \d+$/)
    }
    box.file('app.js', version(3, 2))
    await reload(box)
    assert.is(await versionAt(portOf(before)), '3')
    await box.stop()
  })
}

/** An asynchronous function that fails at once, called without `await`. */
const FORGETS = `void (async () => { throw new Error('planted') })()`
const starting = (onWorkerStart: string) => version(2, 2, `worker.onWorkerStart = ${onWorkerStart}`)
const soon = (onWorkerStart: string) =>
  version(2, 2, `worker.startTimeoutMs = 300; worker.onWorkerStart = ${onWorkerStart}`)

test('new code that cannot be evaluated: the reload fails with the reason, and the old code keeps serving', () =>
  refusesAll([
    { what: 'a syntax error', code: 'const = 1', says: /SyntaxError/ },
    { what: 'a top level that throws', code: version(2, 1, `throw new Error('planted')`), says: /planted/ },
    { what: 'one that rejects', code: version(2, 1, `await Promise.reject(new Error('planted'))`), says: /planted/ },
    { what: 'one that waits for ever', code: version(2, 1, 'await new Promise(() => {})'), says: /awaits something/ },
    { what: 'one that exits', code: version(2, 1, 'process.exit(0)'), says: /exit 0/ },
    { what: 'no Worker', code: `import { Worker } from 'millrace'; Worker.runAll()`, says: /declared no Worker/ },
    { what: 'a bad setting', code: version(2, 1, 'worker.drainTimeoutMs = -1'), says: /drainTimeoutMs/ },
    ...['logFile', 'stdoutFile', 'pidFile'].map((name) => ({
      what: `a ${name} that cannot be opened`,
      code: version(2, 1, `Worker.${name} = '/nonexistent/folder/file'`),
      says: /given up: open \/nonexistent\/folder\/file: ENOENT/,
      exitCode: 1,
    })),
    { what: 'a rejection nobody awaits', code: version(2, 1, FORGETS), says: /given up: Error: planted/ },
    {
      what: 'one that onWorkerStart does not await',
      code: starting(`() => { ${FORGETS} }`),
      says: /echo:0 did not become ready: Error: planted/,
    },
  ]))

longTest('new code whose processes do not come up: the same', () =>
  refusesAll([
    {
      what: 'an onWorkerStart that rejects',
      code: starting(`async () => { throw new Error('planted') }`),
      says: /echo:0 did not become ready: Error: planted/,
    },
    { what: 'one that exits', code: starting('() => process.exit(3)'), says: /exit 3/ },
    { what: 'one that kills itself', code: starting(`() => process.kill(process.pid, 'SIGKILL')`), says: /SIGKILL/ },
    {
      what: 'one that waits for ever',
      code: soon('() => new Promise(() => {})'),
      says: /not ready within 0.3 s/,
      exitCode: 7,
    },
    { what: 'one that hangs', code: soon(`() => { ${HANGS} }`), says: /not ready within 0.3 s/, exitCode: 7 },
  ]),
)

test('settings of new code that does not come up are not followed, and diff still tells it from what runs', async () => {
  await inSandbox(async (box) => {
    const logged = (of: number) => join(box.directory, `${of}.log`)
    const code = (of: number, more = '') =>
      version(of, 1, `Worker.logFile = ${JSON.stringify(logged(of))}; Worker.stopTimeout = ${of}; ${more}`)
    mkdirSync(join(box.directory, 'one'))
    mkdirSync(join(box.directory, 'two'))
    box.file('one/app.js', code(1))
    box.file('two/app.js', code(2, `worker.onWorkerStart = () => { throw new Error('planted') }`))
    const link = join(box.directory, 'current')
    symlinkSync('one', link)
    await box.start(join(link, 'app.js'))
    unlinkSync(link)
    symlinkSync('two', link)
    assert.is((await box.command('reload')).code, 6)
    assert.not(existsSync(logged(2)))
    assert.match(readFileSync(logged(1), 'utf8'), /reload: given up.*planted/)
    const { code: isOther, stdout } = await box.command('diff')
    assert.is(isOther, 1)
    assert.match(stdout, /two\/app\.js/)
    await box.stop()
  })
})

longTest('new code whose top level hangs: the same, after ten seconds', () =>
  refusesAll([
    { what: 'a top level', code: version(2, 1, HANGS), says: /did not come to the end of its top level/ },
    { what: 'one that spins', code: version(2, 1, 'for (;;);'), says: /did not come to the end of its top level/ },
  ]),
)

longTest('a grandchild that outlives the broken new code holds up neither the reload nor the stop', async () => {
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

/** Processes that are ready, and end soon after that. */
const BRIEF = `worker.onWorkerStart = () => { setTimeout(() => { throw new Error('planted') }, 20) }`

test('new processes that crash as soon as they serve end the reload, and the old ones that are left stay', async () => {
  await inSandbox(async (box) => {
    const before = await box.start(box.file('app.js', version(1, 4)))
    box.file('app.js', version(2, 4, BRIEF))
    const { code, stderr, stdout } = await box.command('reload', '--json')
    assert.is(code, 6)
    assert.match(stderr, /given up: worker echo:0 pid \d+, which had just started, has ended: Error: planted/)
    const { slots } = JSON.parse(stdout) as ReloadOutcome
    assert.match(slots[0]?.note ?? '', /its process has ended: exit 250 \(uncaught error\), Error: planted/)
    assert.not(slots.some(({ worker }) => worker === 'echo:2' || worker === 'echo:3'))
    assert.equal(
      workersOf(await box.status())
        .filter(({ id }) => id >= 2)
        .map(({ pid, state }) => `${pid} ${state}`),
      workersOf(before)
        .slice(2)
        .map(({ pid }) => `${pid} ready`),
    )
    box.file('app.js', version(3, 4))
    await reload(box)
    assert.is(await versionAt(portOf(before)), '3')
    await box.stop()
  })
})

/** The same after a start that takes longer than a process must serve to count as one that ended well. */
const SLOW_AND_BRIEF = `worker.onWorkerStart = async () => {
  await new Promise((done) => setTimeout(done, 1200))
  setTimeout(() => process.exit(0), 50)
}`

test('a slow start does not count as service: processes that then end at once end the reload', async () => {
  await inSandbox(async (box) => {
    const before = await box.start(box.file('app.js', version(1, 2)))
    box.file('app.js', version(2, 2, SLOW_AND_BRIEF))
    const { code, stderr } = await box.command('reload')
    assert.is(code, 6)
    assert.match(stderr, /given up: worker echo:0 pid \d+, which had just started, has ended: exit 0/)
    assert.is(workersOf(await box.status())[1]?.pid, workersOf(before)[1]?.pid)
    box.file('app.js', version(3, 2))
    await reload(box)
    await box.stop()
  })
})

longTest('the last of them counts, too: while the old one drains', async () => {
  await inSandbox(async (box) => {
    const client = await Client.connect(portOf(await box.start(box.file('app.js', version(1, 1)))))
    await client.ask('x')
    box.file('app.js', version(2, 1, BRIEF))
    const { code, stdout } = await box.command('reload')
    assert.is(code, 6)
    assert.match(stdout, /echo:0 +replaced .*its process has ended: exit 250/)
    await box.stop()
  })
})

/** What the second process of slot 0 does once, when it is active. */
const hiccup = (does: string) =>
  `worker.onWorkerActive = () => { if (worker.id === 0 && worker.incarnation === 2) { ${does} } }`

test('settings follow once every slot runs the new code, though a new process has ended since', async () => {
  await inSandbox(async (box) => {
    const client = await Client.connect(portOf(await box.start(box.file('app.js', version(1, 1)))))
    await client.ask('x')
    const pidFile = join(box.directory, 'own.pid')
    const settings = `Worker.pidFile = '${pidFile}'`
    box.file('app.js', version(2, 1, `${settings}; ${hiccup(`throw new Error('planted')`)}`))
    const { code, stderr } = await box.command('reload')
    assert.is(code, 6)
    assert.match(stderr, /which had just started, has ended: Error: planted/)
    const { pid } = await box.status()
    assert.is(readFileSync(pidFile, 'utf8').trim(), `${pid}`)
    const { stdout } = await box.command('diff')
    assert.match(stdout, /^What runs is what the code says/)
    await box.stop()
  })
})

longTest('the same where one ends while another one of a restart NAME still starts', async () => {
  await inSandbox(async (box) => {
    await box.start(box.file('app.js', version(1, 2)))
    const [pidFile, flag] = [join(box.directory, 'own.pid'), join(box.directory, 'flag')]
    const waits = `
      import { existsSync, writeFileSync } from 'node:fs'
      const sleep = () => new Promise((resolve) => setTimeout(resolve, 20))
      worker.onWorkerStart = async () => { while (worker.id === 1 && !existsSync('${flag}')) await sleep() }`
    box.file('app.js', version(2, 2, `${waits}; Worker.pidFile = '${pidFile}'; ${hiccup('process.exit(3)')}`))
    const restarting = box.begin('restart', 'echo')
    await until(async () => workersOf(await box.status())[0]?.incarnation === 3)
    box.file('flag', '')
    const { code, stderr } = await restarting.ended
    assert.is(code, 6, stderr)
    assert.ok(existsSync(pidFile))
    await box.stop()
  })
})

longTest('a scale whose new process crashes at once is taken back', async () => {
  await inSandbox(async (box) => {
    const before = await box.start(box.file('app.js', version(1, 1)))
    box.file(
      'app.js',
      version(
        1,
        1,
        `worker.onWorkerStart = () => {
      if (worker.id > 0) setTimeout(() => { throw new Error('planted') }, 20)
    }`,
      ),
    )
    const { code, stderr } = await box.command('scale', 'echo', '3')
    assert.is(code, 6)
    assert.match(stderr, /worker echo:1 pid \d+, which had just started, has ended: Error: planted/, stderr)
    assert.equal(
      workersOf(await box.status()).map(({ pid }) => pid),
      workersOf(before).map(({ pid }) => pid),
    )
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

longTest('an onWorkerRetire that never settles: the new one is active when the old one is gone', async () => {
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

longTest('an onWorkerActive that throws costs its process, the reload tells, and another tries', async () => {
  await inSandbox(async (box) => {
    const more = `worker.onWorkerActive = () => { if (worker.incarnation === 2) throw new Error('planted') }`
    await box.start(box.file('app.js', version(1, 1, more)))
    const { code, stderr } = await box.command('reload')
    assert.is(code, 6)
    assert.match(stderr, /which had just started, has ended: Error: planted/)
    await until(async () => {
      const [worker] = workersOf(await box.status())
      return worker?.incarnation === 3 && worker.state === 'ready'
    })
    assert.match(box.log(), /uncaught: Error: planted/)
    await box.stop()
  })
})

test.run()
