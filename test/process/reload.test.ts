// `reload`: every process is replaced by one with the code that is on disk now, the old ones finish their work, and
// whatever is wrong with the new code, the old one goes on.

import { existsSync, readdirSync, readFileSync, symlinkSync, unlinkSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { ask as askMaster } from '../../src/process/control/client.ts'
import { longTest } from '../support/length.ts'
import { reload, version, versionAt } from '../support/reload.ts'
import { ask, Client, echo, inSandbox, lives, portOf, type Sandbox, succeeded, workersOf } from '../support/server.ts'
import { until } from '../support/until.ts'

/** On a busy machine. */
const SLOW_MS = 20_000

test('every process is replaced by one with the new code, on the same port, and the receipt says so', async () => {
  await inSandbox(async (box) => {
    const before = await box.start(box.file('app.js', version(1, 2)))
    box.file('app.js', version(2, 2))
    const { slots, reason } = await reload(box)
    const after = await box.status()
    assert.is(reason, '')
    assert.is(portOf(after), portOf(before))
    assert.is(await versionAt(portOf(after)), '2')
    assert.equal(
      slots.map(({ worker, result, oldPid, newPid }) => ({ worker, result, oldPid, newPid })),
      workersOf(before).map(({ pid, id }) => ({
        ...{ worker: `echo:${id}`, result: 'replaced', oldPid: pid },
        newPid: workersOf(after)[id]?.pid,
      })),
    )
    for (const { pid } of workersOf(before)) assert.not(lives(pid))
    for (const { incarnation } of workersOf(after)) assert.is(incarnation, 2)
    await box.stop()
  })
})

longTest('a person sees a table', async () => {
  await inSandbox(async (box) => {
    await box.start(box.file('app.js', version(1, 2)))
    const { stdout, stderr } = succeeded(await box.command('reload'))
    const left = [...stderr.matchAll(/waits for those that leave: (\d+)/g)].map(([, count]) => Number(count))
    assert.ok(left.length === 1 && Number(left[0]) <= 2, stderr) // of two
    assert.match(stdout, /^worker +result +old +new +ready +drained/)
    assert.match(stdout, /\necho:1 +replaced +\d+ +\d+ +\d+ ms +\d+ ms\nreloaded in \d/)
    await box.stop()
  })
})

longTest(
  'a reload and a scale that are asked for during a start come after it, although nothing else happens then',
  async () => {
    await inSandbox(async (box) => {
      const waits = `import { existsSync } from 'node:fs'
      worker.onWorkerStart = async () => {
        while (!existsSync('${box.directory}/go')) await new Promise((resolve) => setTimeout(resolve, 5))
      }`
      const server = box.begin('start', box.file('app.js', version(1, 1, waits)))
      await until(() => existsSync(join(box.runDir, 'control.sock')))
      await until(async () => workersOf(await box.status())[0]?.state === 'starting')
      box.file('app.js', version(2, 1, waits))
      const scale = { command: 'scale', name: 'echo', scale: { by: 1 } } as const
      const asked = Promise.all(
        [{ command: 'reload' } as const, scale].map((one) => askMaster(box.runDir, one, SLOW_MS)),
      )
      await box.status() // answered after these two have been read
      box.file('go', '')
      for (const answer of await asked) assert.is(answer?.ok === true && answer.outcome?.exitCode, 0)
      const after = await box.status()
      assert.is(await versionAt(portOf(after)), '2')
      assert.is(workersOf(after).length, 2)
      await server.end('SIGTERM')
    })
  },
)

test('a handler that is at work answers from the old process, while the new one serves', async () => {
  await inSandbox(async (box) => {
    const flag = join(box.directory, 'go')
    const slow = (number: number) => `
      import { existsSync } from 'node:fs'
      ${version(number)}
      worker.onMessage = async (connection, line) => {
        while (line === 'slow' && !existsSync(${JSON.stringify(flag)})) await new Promise((r) => setTimeout(r, 5))
        connection.send(line + ' ${number} ' + process.pid)
      }`
    const port = portOf(await box.start(box.file('app.js', slow(1))))
    const client = await Client.connect(port)
    client.send('slow')
    await until(async () => (await box.status()).totals.messagesIn === 1)
    box.file('app.js', slow(2))
    const reloading = box.begin('reload')
    await until(async () => (await versionAt(port)) === '2')
    const draining = workersOf(await box.status()).find(({ state }) => state === 'draining')
    assert.match(draining?.work ?? '', /1 connection.*1 unsettled handler/)
    box.file('go', '')
    assert.match(await client.line(), /^slow 1 /)
    succeeded(await reloading.ended)
    await until(() => client.isClosed)
    await box.stop()
  })
})

test('the totals never fall, also when a group is removed', async () => {
  await inSandbox(async (box) => {
    const two = `const more = new Worker('text://127.0.0.1:0', { name: 'more' }); more.onMessage = worker.onMessage`
    const status = await box.start(box.file('app.js', echo(1, two)))
    await ask(status.groups[0]?.port ?? 0, 'x')
    await ask(status.groups[1]?.port ?? 0, 'y')
    box.file('app.js', echo(1))
    await reload(box)
    const after = await box.status()
    assert.is(after.groups.length, 1)
    assert.is(after.totals.messagesIn, 2)
    assert.is(after.totals.accepted, 2)
    await box.stop()
  })
})

test('onWorkerRetire of the old process has settled before onWorkerActive of the new one', async () => {
  await inSandbox(async (box) => {
    const more = `
      const say = (what) => Worker.log(what + ' of ' + worker.incarnation)
      worker.onWorkerStart = () => say('start')
      worker.onWorkerActive = () => say('active')
      worker.onWorkerReload = () => say('reload')
      worker.onWorkerRetire = async () => { await new Promise((r) => setTimeout(r, 60)); say('retired') }
      worker.onWorkerStop = () => say('stop')`
    await box.start(box.file('app.js', version(1, 1, more)))
    await reload(box)
    await reload(box)
    await until(() => box.log().includes('active of 3'))
    const said = [...box.log().matchAll(/\[echo:0\] (\w+ of \d)/g)].map(([, words]) => words)
    const order = (...words: string[]) =>
      assert.equal(
        said.filter((word) => words.includes(word ?? '')),
        words,
      )
    order('start of 1', 'active of 1', 'start of 2', 'reload of 1', 'retired of 1', 'active of 2')
    order('retired of 1', 'stop of 1')
    order('start of 3', 'retired of 2', 'active of 3')
    await box.stop()
    assert.not.match(box.log(), /retired of 3/)
  })
})

/** Functions for a worker: to log what it does, and to wait until a file is there. */
const gated = (box: Sandbox) => `
  const { existsSync } = await import('node:fs')
  const say = (what) => Worker.log(what + ' of ' + worker.incarnation)
  const gate = async (name) => {
    while (!existsSync(${JSON.stringify(`${box.directory}/`)} + name)) await new Promise((resolve) => setTimeout(resolve, 5))
  }`

const saidIn = (box: Sandbox) => [...box.log().matchAll(/\[echo:0\] ([a-z ]+ of \d)/g)].map(([, words]) => words)

test('onWorkerRetire waits for an onWorkerActive that is still at work, so its successor does, too', async () => {
  await inSandbox(async (box) => {
    const more = `${gated(box)}
      worker.onWorkerActive = async () => { say('begins'); await gate('open'); say('active') }
      worker.onWorkerRetire = () => say('retired')`
    await box.start(box.file('app.js', version(1, 1, more)))
    await until(() => box.log().includes('begins of 1'))
    const reloading = reload(box)
    await until(async () => workersOf(await box.status()).some(({ state }) => state === 'retiring'))
    box.file('open', '')
    await reloading
    await until(() => box.log().includes('active of 2'))
    assert.equal(saidIn(box), ['begins of 1', 'active of 1', 'retired of 1', 'begins of 2', 'active of 2'])
    await box.stop()
  })
})

test('a process that leaves before it has become active never does', async () => {
  await inSandbox(async (box) => {
    const more = `${gated(box)}
      worker.drainTimeoutMs = 10_000
      worker.onWorkerActive = () => say('active')
      worker.onWorkerRetire = async () => { say('retires'); await gate('open'); say('retired') }
      worker.onWorkerStop = () => { say('stop'); const release = worker.hold('test'); void gate('end').then(release) }`
    const before = await box.start(box.file('app.js', version(1, 1, more)))
    await until(() => box.log().includes('active of 1'))
    const reloading = reload(box).catch(() => undefined)
    await until(() => box.log().includes('retires of 1'))
    const stopping = box.stop('-g')
    await until(() => box.log().includes('stop of 2'))
    box.file('open', '')
    await until(() => box.log().includes('retired of 1'))
    await box.status() // the master has read that
    for (const { pid } of workersOf(before)) process.kill(pid, 'SIGKILL') // its successor stays
    await until(() => workersOf(before).every(({ pid }) => !lives(pid)))
    await box.status()
    box.file('end', '')
    await Promise.all([stopping, reloading])
    assert.not(saidIn(box).includes('active of 2'))
  })
})

test('an onWorkerRetire that throws is logged, and the reload goes on', async () => {
  await inSandbox(async (box) => {
    const more = `worker.onWorkerRetire = () => { throw new Error('planted') }; worker.onWorkerActive = () => Worker.log('active')`
    await box.start(box.file('app.js', version(1, 1, more)))
    await reload(box)
    await until(() => box.log().match(/\] active/g)?.length === 2)
    assert.match(box.log(), /onWorkerRetire: Error: planted/)
    await box.stop()
  })
})

longTest('an onWorkerReload that throws is logged, and onWorkerRetire is called all the same', async () => {
  await inSandbox(async (box) => {
    const say = ['Retire', 'Active'].map(
      (what) => `worker.onWorker${what} = () => Worker.log('${what} ' + worker.incarnation)`,
    )
    const more = `worker.onWorkerReload = () => { throw new Error('planted') }\n${say.join('\n')}`
    await box.start(box.file('app.js', version(1, 1, more)))
    await reload(box)
    await until(() => box.log().includes('Active 2'))
    assert.match(box.log(), /onWorkerReload: Error: planted.*Retire 1.*Active 2/s)
    await box.stop()
  })
})

longTest('many reloads leave no listener behind: Node warns of the eleventh', async () => {
  await inSandbox(async (box) => {
    const { pid } = await box.start(box.file('app.js', version(1)))
    await reload(box)
    const descriptors = () => readdirSync(`/proc/${pid}/fd`).length
    const before = descriptors()
    for (let n = 0; n < 12; n++) await reload(box)
    assert.not.match(box.log(), /Warning/)
    await until(() => descriptors() <= before) // the pipes of the last ones may still be read
    await box.stop()
  })
})

test('reloadable: false keeps the process, which is told', async () => {
  await inSandbox(async (box) => {
    const keep = (number: number) =>
      version(number, 1, `worker.reloadable = false; worker.onWorkerReload = () => Worker.log('told ${number}')`)
    const before = await box.start(box.file('app.js', keep(1)))
    box.file('app.js', keep(2))
    const { slots } = await reload(box)
    assert.is(slots[0]?.result, 'kept')
    assert.is(workersOf(await box.status())[0]?.pid, workersOf(before)[0]?.pid)
    await until(() => box.log().includes('told 1'))
    await box.stop()
  })
})

test('reloadable: false with an onWorkerReload that throws: that is logged, and all processes stay', async () => {
  await inSandbox(async (box) => {
    const more = `worker.reloadable = false
      worker.onWorkerReload = async () => { Worker.log('told'); throw new Error('planted ' + worker.id) }`
    const before = await box.start(box.file('app.js', version(1, 2, more)))
    const { slots } = await reload(box)
    assert.equal(
      slots.map(({ result }) => result),
      ['kept', 'kept'],
    )
    await until(() => box.log().match(/onWorkerReload: Error: planted [01]$/gm)?.length === 2)
    await reload(box)
    await until(() => box.log().match(/onWorkerReload: Error: planted [01]$/gm)?.length === 4)
    assert.equal(
      workersOf(await box.status()).map(({ pid }) => pid),
      workersOf(before).map(({ pid }) => pid),
    )
    await box.stop()
  })
})

longTest(
  'an address that changes with reloadable: false stays, which is said; reloadable again, it moves',
  async () => {
    await inSandbox(async (box) => {
      const kept = (listen: string, isReloadable: boolean) => echo(1, `worker.reloadable = ${isReloadable}`, listen)
      const before = await box.start(box.file('app.js', kept('text://127.0.0.1:0', false)))
      for (let turn = 0; turn < 2; turn++) {
        box.file('app.js', kept('text://127.0.0.2:0', false))
        const { slots } = await reload(box)
        assert.is(slots[0]?.note, 'reloadable: false, so it stays on text://127.0.0.1:0')
        assert.match(await ask(portOf(before), 'x'), /^x /)
      }
      box.file('app.js', kept('text://127.0.0.2:0', true))
      await reload(box)
      assert.match(await ask(portOf(await box.status()), 'x', '127.0.0.2'), /^x /)
      await box.stop()
    })
  },
)

longTest('two reloads at once: one after the other, and both are told', async () => {
  await inSandbox(async (box) => {
    await box.start(box.file('app.js', version(1)))
    const outcomes = await Promise.all([reload(box), reload(box), reload(box)])
    for (const { reason } of outcomes) assert.is(reason, '')
    const { workers = [] } = (await box.status()).groups[0] ?? {}
    assert.is(workers.length, 1)
    for (const { incarnation } of workers) assert.ok(incarnation >= 2 && incarnation <= 4)
    await box.stop()
  })
})

test('stop during a reload ends both the old and the new processes', async () => {
  await inSandbox(async (box) => {
    await box.start(box.file('app.js', version(1, 2)))
    box.file(
      'app.js',
      version(2, 2, `worker.onWorkerStart = () => { Worker.log('booting'); return new Promise(() => {}) }`),
    )
    const reloading = box.begin('reload')
    await until(() => box.log().includes('booting'))
    await box.stop()
    const { code, stderr } = await reloading.ended
    assert.is(code, 1)
    assert.match(stderr, /stopped/)
  })
})

longTest('a reload during the start comes after it', async () => {
  await inSandbox(async (box) => {
    const flag = join(box.directory, 'go')
    const wait = `
      const { existsSync } = await import('node:fs')
      worker.onWorkerStart = async () => {
        Worker.log('booting')
        while (!existsSync(${JSON.stringify(flag)})) await new Promise((r) => setTimeout(r, 5))
      }`
    const starting = box.begin('start', '-d', box.file('app.js', version(1, 1, wait)))
    await until(() => box.log().includes('booting'))
    const reloading = box.begin('reload')
    box.file('go', '')
    succeeded(await starting.ended)
    succeeded(await reloading.ended)
    assert.is(workersOf(await box.status())[0]?.incarnation, 2)
    await box.stop()
  })
})

longTest('kill -9 of the old process while the new one starts: the reload goes on', async () => {
  await inSandbox(async (box) => {
    const flag = join(box.directory, 'go')
    const before = await box.start(box.file('app.js', version(1)))
    const wait = `
      const { existsSync } = await import('node:fs')
      worker.onWorkerStart = async () => {
        Worker.log('booting')
        while (!existsSync(${JSON.stringify(flag)})) await new Promise((r) => setTimeout(r, 5))
      }`
    box.file('app.js', version(2, 1, wait))
    const reloading = box.begin('reload', '--json')
    await until(() => box.log().includes('booting'))
    process.kill(workersOf(before)[0]?.pid ?? 0, 'SIGKILL')
    await until(async () => workersOf(await box.status()).every(({ pid }) => pid !== workersOf(before)[0]?.pid))
    box.file('go', '')
    succeeded(await reloading.ended)
    await until(async () => workersOf(await box.status()).length === 1)
    assert.is(await versionAt(portOf(before)), '2')
    await box.stop()
  })
})

test("SIGUSR1 (Workerman's), SIGUSR2 and, to a daemon, SIGHUP reload", async () => {
  await inSandbox(async (box) => {
    const { pid } = await box.start(box.file('app.js', version(1)))
    for (const [incarnation, signal] of [
      [2, 'SIGUSR1'],
      [3, 'SIGUSR2'],
      [4, 'SIGHUP'],
    ] as const) {
      process.kill(pid, signal)
      await until(async () => {
        const workers = workersOf(await box.status())
        return workers.length === 1 && workers[0]?.incarnation === incarnation && workers[0].state === 'ready'
      })
    }
    await until(() => box.log().match(/reload: done/g)?.length === 3)
    await box.stop()
  })
})

test('what a link points at is looked up at the reload, not kept from the start', async () => {
  await inSandbox(async (box) => {
    box.file('releases/1/app.js', version(1))
    box.file('releases/2/app.js', version(2))
    const current = join(box.directory, 'current')
    symlinkSync('releases/1', current)
    const port = portOf(await box.start(join(current, 'app.js')))
    unlinkSync(current)
    symlinkSync('releases/2', current)
    await reload(box)
    assert.is(await versionAt(port), '2')
    await box.stop()
  })
})

test('the pid file that the code declares moves with the code', async () => {
  await inSandbox(async (box) => {
    const [one, two] = ['one.pid', 'two.pid'].map((name) => join(box.directory, name)) as [string, string]
    const code = (file: string) => version(1, 1, `Worker.pidFile = ${JSON.stringify(file)}`)
    const { pid } = await box.start(box.file('app.js', code(one)))
    assert.is(readFileSync(one, 'utf8'), `${pid}\n`)
    box.file('app.js', code(two))
    await reload(box)
    assert.is(readFileSync(two, 'utf8'), `${pid}\n`)
    assert.not(existsSync(one))
    box.file('app.js', version(1))
    await reload(box)
    assert.not(existsSync(two))
    assert.ok(existsSync(join(box.runDir, 'millrace.pid')))
    await box.stop()
  })
})

longTest('kill -9 of the master during a reload: the command says so, and nobody is left', async () => {
  await inSandbox(async (box) => {
    const { pid } = await box.start(box.file('app.js', version(1, 2)))
    box.file(
      'app.js',
      version(2, 2, `worker.onWorkerStart = () => { Worker.log('booting'); return new Promise(() => {}) }`),
    )
    const reloading = box.begin('reload')
    await until(() => box.log().includes('booting'))
    process.kill(pid, 'SIGKILL')
    const { code, stderr } = await reloading.ended
    assert.is(code, 1)
    assert.match(stderr, /the master, pid \d+, ended before the reload did/)
    await until(() => box.pids().length === 0)
    box.file('app.js', version(3))
    await box.start(join(box.directory, 'app.js'))
    await box.stop()
  })
})

test('reload of nothing is exit 3', async () => {
  await inSandbox(async (box) => {
    const { code, stderr } = await box.command('reload')
    assert.is(code, 3)
    assert.match(stderr, /not running/)
  })
})

test.run()
