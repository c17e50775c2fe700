// `scale`: a group has as many processes as somebody says, without losing what is in flight, for as long as it is meant to.

import { existsSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import type { ReloadOutcome } from '../../src/process/operations/receipts.ts'
import { atLength, caseTest, longTest } from '../support/length.ts'
import { Load } from '../support/load/load.ts'
import { textClient } from '../support/load/text-client.ts'
import { reload, version } from '../support/reload.ts'
import { ask, Client, echo, inSandbox, lives, portOf, type Sandbox, succeeded, workersOf } from '../support/server.ts'
import { until } from '../support/until.ts'

async function scale(box: Sandbox, ...args: string[]): Promise<ReloadOutcome> {
  return JSON.parse(succeeded(await box.command('scale', '--json', ...args)).stdout) as ReloadOutcome
}

async function counts(box: Sandbox): Promise<[number | undefined, number | undefined, number]> {
  const { groups } = await box.status()
  return [groups[0]?.count, groups[0]?.declaredCount, groups[0]?.workers.length ?? 0]
}

test('more processes are ready, fewer are gone when the command returns; crashes and reloads keep them', async () => {
  await inSandbox(async (box) => {
    const first = await box.start(box.file('app.js', version(1, 2)))
    const { slots } = await scale(box, 'echo', '4')
    assert.equal(
      slots.map(({ worker, result }) => `${worker} ${result}`),
      ['echo:2 added', 'echo:3 added'],
    )
    const four = await box.status()
    assert.equal(await counts(box), [4, 2, 4])
    assert.equal(
      workersOf(four)
        .slice(0, 2)
        .map(({ pid }) => pid),
      workersOf(first).map(({ pid }) => pid),
    )
    const { stdout } = succeeded(await box.command('status'))
    assert.match(stdout, /^echo is scaled to 4, the code declares 2: 'millrace scale echo declared' goes back$/m)

    process.kill(workersOf(four)[3]?.pid ?? 0, 'SIGKILL')
    await until(async () => workersOf(await box.status()).every(({ state, pid }) => state === 'ready' && pid !== 0))
    assert.equal(await counts(box), [4, 2, 4])
    box.file('app.js', version(2, 2))
    assert.is((await reload(box)).slots.length, 4)
    assert.equal(await counts(box), [4, 2, 4])

    const less = await scale(box, '-1', '--name', 'echo') // flags in any order, and a number below zero is none
    assert.equal(
      less.slots.map(({ worker, result }) => `${worker} ${result}`),
      ['echo:3 removed'],
    )
    assert.not(lives(less.slots[0]?.oldPid ?? 0))
    await Promise.all([scale(box, 'echo', '+1'), scale(box, 'echo', '+1')])
    assert.equal(await counts(box), [5, 2, 5])
    await scale(box, 'echo', 'declared')
    assert.equal(await counts(box), [2, 2, 2])

    await scale(box, 'text://127.0.0.1:0', '3') // by its address
    box.file('app.js', version(3, 1)) // the code says something new: that is what counts
    await reload(box)
    assert.equal(await counts(box), [1, 1, 1])
    await box.stop()
  })
})

test('a process that is too many answers what it has in flight', async () => {
  await inSandbox(async (box) => {
    const flag = join(box.directory, 'go')
    const slow = `
      const { existsSync } = await import('node:fs')
      worker.onMessage = async (connection, line) => {
        while (line === 'slow' && !existsSync(${JSON.stringify(flag)})) await new Promise((r) => setTimeout(r, 5))
        connection.send(line + ' ' + worker.id)
      }`
    const port = portOf(await box.start(box.file('app.js', version(1, 3, slow))))
    const clients: Client[] = []
    const servedBy = new Set<string>()
    while (servedBy.size < 2) {
      const client = await Client.connect(port)
      servedBy.add(await client.ask('id')) // so one of them is of a process that goes
      clients.push(client)
    }
    for (const client of clients) client.send('slow')
    await until(async () => (await box.status()).totals.messagesIn === 2 * clients.length)
    const scaling = box.begin('scale', 'echo', '1')
    await until(async () => workersOf(await box.status()).some(({ state }) => state === 'draining'))
    box.file('go', '')
    for (const client of clients) assert.match(await client.line(), /^slow \d$/)
    const { stdout, stderr } = succeeded(await scaling.ended)
    assert.match(stdout, /^echo:1 +removed .*\necho:2 +removed .*\nscaled in \d/m)
    assert.match(stderr, /^scale echo: begins\n/)
    assert.match(stderr, /^echo:2: exit pid \d+: exit 0 \(ended\)/m)
    for (const client of clients) client.close()
    await box.stop()
  })
})

for (const reusePort of [false, true]) {
  caseTest(!reusePort)(
    `up and down under load${reusePort ? ', a socket for each process,' : ''} nothing is lost`,
    async () => {
      await inSandbox(async (box) => {
        const settings = `worker.reusePort = ${reusePort}; worker.drainTimeoutMs = 4000` // such a client is never quiet
        const port = portOf(await box.start(box.file('app.js', version(1, 2, settings))))
        const load = new Load()
        const tally = load.add('text', 8, textClient({ port, thinkMs: () => 2 + Math.random() * 10 }))
        load.add('text', 4, textClient({ port, thinkMs: () => 1 + Math.random() * 5, answersPerConnection: 5 }))
        for (const count of ['3', '1', '+2', '-1', 'declared'].slice(0, atLength(3, 5))) {
          const before = tally.answered
          await scale(box, 'echo', count)
          await until(() => tally.answered > before + 50, 20_000)
        }
        await load.end()
        assert.equal(load.lost, [])
        assert.is(tally.answered + tally.crossed, tally.sent)
        await box.stop()
      })
    },
  )
}

test('a process that does not become ready leaves all as it was, with the reason', async () => {
  await inSandbox(async (box) => {
    const more = `worker.onWorkerStart = () => { if (worker.id === 3) throw new Error('no fourth') }`
    const before = await box.start(box.file('app.js', version(1, 2, more)))
    const { code, stdout, stderr } = await box.command('scale', 'echo', '5', '--json')
    assert.is(code, 6)
    assert.match(stderr, /^millrace: scale given up: worker echo:3 did not become ready: .*no fourth/)
    assert.match(stderr, /^next: correct the code/m)
    const { error, slots } = JSON.parse(stdout)
    assert.equal([error.code, error.exitCode, slots[0].result, slots[1].result], ['ERR_MODULE', 6, 'added', 'failed'])
    assert.match(error.reason, /no fourth/)
    assert.equal(await counts(box), [2, 2, 2])
    assert.equal(
      workersOf(await box.status()).map(({ pid }) => pid),
      workersOf(before).map(({ pid }) => pid),
    )
    await box.stop()
  })
})

longTest(
  'a reload that is given up leaves the scaled count, and nobody is said to have scaled who has not',
  async () => {
    await inSandbox(async (box) => {
      const broken = (at: number, count: number) =>
        version(2, count, `worker.onWorkerStart = () => { if (worker.id === ${at}) throw new Error('planted') }`)
      await box.start(box.file('app.js', version(1, 2)))
      const isGivenUp = async () => assert.match((await box.command('reload')).stderr, /given up: .*planted/)
      box.file('app.js', broken(0, 3))
      await isGivenUp()
      assert.equal(await counts(box), [2, 2, 2])
      await scale(box, 'echo', '4')
      await isGivenUp()
      assert.equal(await counts(box), [4, 2, 4])
      box.file('app.js', version(3, 2)) // the code that declared three has never run
      await reload(box)
      assert.equal(await counts(box), [4, 2, 4])
      await scale(box, 'echo', 'declared')
      box.file('app.js', broken(1, 4))
      await isGivenUp()
      assert.equal(await counts(box), [2, 2, 2])
      const { stdout } = await box.command('diff')
      assert.match(stdout, /^echo +count +2 +4$/m)
      assert.not.match(stdout, /ready|scale/)
      box.file('app.js', broken(3, 4))
      await isGivenUp()
      assert.equal(await counts(box), [3, 2, 3])
      const status = succeeded(await box.command('status'))
      assert.match(status.stdout, /^echo has 3 processes, its code declared 2: a reload was given up on the way$/m)
      box.file('app.js', version(4, 2))
      await reload(box)
      assert.equal(await counts(box), [2, 2, 2])
      await box.stop()
    })
  },
)

longTest('a start NAME that fails leaves the scaled count of the stopped group', async () => {
  await inSandbox(async (box) => {
    await box.start(box.file('app.js', version(1, 2)))
    await scale(box, 'echo', '3')
    await box.operate({ command: 'stop', names: ['echo'], isGraceful: false })
    box.file(
      'app.js',
      version(2, 4, `worker.onWorkerStart = () => { if (worker.id === 1) throw new Error('planted') }`),
    )
    assert.is((await box.command('start', '--name', 'echo')).code, 6)
    const [count, declared] = await counts(box)
    assert.equal([count, declared], [3, 2])
    box.file('app.js', version(3, 2))
    succeeded(await box.command('start', '--name', 'echo'))
    assert.equal(await counts(box), [3, 2, 3])
    await box.stop()
  })
})

test('what makes no sense is refused with what there is, and changes nothing', async () => {
  await inSandbox(async (box) => {
    const more = `new Worker('text://127.0.0.1:0', { name: 'twin' }); new Worker('', { name: 'twin' })`
    await box.start(box.file('app.js', version(1, 2, more)))
    for (const [args, says] of [
      [['ehco', '3'], /there is no group 'ehco'; there is: echo \(text:\/\/127\.0\.0\.1:0\), twin/],
      [
        ['twin', '3'],
        /2 groups are called 'twin'\nnext: use the address of the one you mean: text:\/\/127\.0\.0\.1:0; give one without an address a name of its own in the code$/m,
      ],
      [['echo', '0'], /echo has 2, and cannot have 0\nnext: 'millrace stop echo'/],
      [['echo', '-7'], /cannot have -5/],
      [['echo', '99999'], /99999 processes are too many\nnext: at most 1024/],
      [['echo', 'many'], /scale takes a number, \+N, -N or 'declared', not 'many'/],
      [['echo'], /scale takes \[app\.js\] NAME N/],
    ] as const) {
      const { code, stdout, stderr } = await box.command('scale', ...args)
      assert.is(code, 2, stderr)
      assert.is(stdout, '')
      assert.match(stderr, says)
    }
    const { stdout: log } = await box.command('logs')
    assert.match(log, /scale echo: given up: echo has 2, and cannot have 0$/m)
    assert.equal(await counts(box), [2, 2, 2])
    assert.not(existsSync(join(box.directory, '3')))
    await box.stop()
  })
})

test('a scale that would leave no process that serves, and remove one that does, is refused', async () => {
  await inSandbox(async (box) => {
    const flag = box.file('broken', '')
    rmSync(flag)
    const more = `worker.onWorkerStart = async () => {
      const { existsSync } = await import('node:fs')
      if (worker.id === 0 && existsSync(${JSON.stringify(flag)})) throw new Error('planted')
    }`
    const before = await box.start(box.file('app.js', echo(2, more)))
    box.file('broken', '')
    process.kill(workersOf(before)[0]?.pid ?? 0, 'SIGKILL')
    await until(async () => workersOf(await box.status())[0]?.state === 'crash-loop')
    const { code, stderr } = await box.command('scale', 'echo', '1')
    assert.is(code, 1)
    assert.match(stderr, /no process that would stay serves: echo:0 .*planted/)
    assert.match(await ask(portOf(before), 'x'), /^x /)
    assert.is((await box.status()).groups[0]?.count, 2)
    rmSync(flag)
    await until(async () => workersOf(await box.status()).every(({ state }) => state === 'ready'), 20_000)
    succeeded(await box.command('scale', 'echo', '1'))
    await box.stop()
  })
})

longTest('so is one that would leave a process alone that does not answer', async () => {
  await inSandbox(async (box) => {
    const before = await box.start(box.file('app.js', echo(2)))
    const [first] = workersOf(before)
    process.kill(first?.pid ?? 0, 'SIGSTOP')
    await until(async () => (workersOf(await box.status())[0]?.silentMs ?? 0) > 3500, 10_000)
    const { code, stderr } = await box.command('scale', 'echo', '1')
    assert.is(code, 1)
    assert.match(stderr, /no process that would stay serves: echo:0 does not answer/)
    process.kill(first?.pid ?? 0, 'SIGCONT')
    await box.stop()
  })
})

test.run()
