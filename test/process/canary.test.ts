// `reload --canary`: one process of each group runs the new code beside all the old ones, is watched, and is followed by the
// others or taken back. Until that is decided nothing of the old code has gone.

import http from 'node:http'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { addon } from '../../src/addon.ts'
import { now } from '../../src/loop/clock.ts'
import { LoopLag } from '../../src/process/child/loop-lag.ts'
import { judge } from '../../src/process/operations/canary.ts'
import type { ReloadOutcome } from '../../src/process/operations/receipts.ts'
import { Followed } from '../support/events.ts'
import { caseTest, longTest } from '../support/length.ts'
import { version, versionAt } from '../support/reload.ts'
import {
  ask,
  Client,
  HANGS,
  inSandbox,
  portOf,
  type Running,
  type Sandbox,
  succeeded,
  workersOf,
} from '../support/server.ts'
import { until } from '../support/until.ts'

const COUNT = 2
const LONG = '60000'

/** Asks now and then, each time on a new connection, until it is told to stop. Failures are the server's affair. */
function talk(port: number): { end(): Promise<void> } {
  let isOver = false
  const loop = async () => {
    for (; !isOver; await sleep(5)) await ask(port, 'x').catch(() => 'refused')
  }
  const loops = [loop(), loop(), loop()]
  return {
    end: async () => {
      isOver = true
      await Promise.all(loops)
    },
  }
}

async function canaryOf(box: Sandbox) {
  return until(async () => workersOf(await box.status()).find(({ state }) => state === 'canary'), 20_000)
}

const pidsOf = async (box: Sandbox) => workersOf(await box.status()).map(({ pid }) => pid)

async function outcomeOf(reloading: Running): Promise<{ code: number | null; stderr: string; outcome: ReloadOutcome }> {
  const { code, stderr, stdout } = await reloading.ended
  return { code, stderr, outcome: JSON.parse(stdout) as ReloadOutcome }
}

test('a canary that does well is followed by the others, and becomes active only then', async () => {
  await inSandbox(async (box) => {
    const more = `worker.onWorkerActive = () => Worker.log('active ' + process.pid)`
    const before = await box.start(box.file('app.js', version(1, COUNT, more)))
    const port = portOf(before)
    box.file('app.js', version(2, COUNT, more))
    const reloading = box.begin('reload', '--canary-ms', '3000', '--json')
    const canary = await canaryOf(box)
    const versions = new Set<string>()
    await until(async () => versions.add(await versionAt(port)).size === 2, 20_000) // both answer
    const seen = workersOf(await box.status())
    assert.equal(
      workersOf(before).map(({ pid }) => seen.some((worker) => worker.pid === pid)),
      [true, true],
    )
    assert.not.match(box.log(), new RegExp(`active ${canary.pid}`))
    const { code, outcome } = await outcomeOf(reloading)
    assert.is(code, 0)
    const [report] = outcome.canaries
    assert.is(report?.pid, canary.pid)
    assert.is(report?.reason, '')
    assert.ok((report?.watchedMs ?? 0) >= 3000)
    assert.ok((report?.canary.messages ?? 0) > 0 && report?.canary.errors === 0)
    assert.equal(
      outcome.slots.map(({ worker, result, note }) => ({ worker, result, note })),
      [
        { worker: 'echo:0', result: 'replaced', note: 'canary' },
        { worker: 'echo:1', result: 'replaced', note: '' },
      ],
    )
    assert.equal(
      await pidsOf(box),
      outcome.slots.map(({ newPid }) => newPid),
    )
    assert.is((await pidsOf(box))[0], canary.pid)
    assert.is(await versionAt(port), '2')
    await until(() => box.log().includes(`active ${canary.pid}`))
    await box.stop()
  })
})

for (const [what, broken, reason] of [
  [
    'throws',
    `worker.onMessage = () => { throw new Error('planted') }`,
    /\d+ errors in \d+ messages, beside it 0 in \d+/,
  ],
  ['crashes', `worker.onMessage = () => { setImmediate(() => { throw new Error('planted') }) }`, /has ended: exit 250/],
  [
    'leaves by itself',
    `worker.drainTimeoutMs = 60_000; worker.hold(); worker.onMessage = () => Worker.stopAll()`,
    /it leaves by itself/,
  ],
  ['hangs', `worker.onMessage = () => { ${HANGS} }`, /has not turned for/],
] as const) {
  caseTest(what === 'throws')(
    `a canary that ${what} is taken back with its reason, and the old code serves on`,
    async () => {
      await inSandbox(async (box) => {
        // That of the code that runs counts for a canary that is taken back.
        const before = await box.start(box.file('app.js', version(1, COUNT, 'worker.drainTimeoutMs = 500')))
        const pids = workersOf(before).map(({ pid }) => pid)
        box.file('app.js', version(2, COUNT, broken))
        const reloading = box.begin('reload', '--canary-ms', LONG, '--json')
        await canaryOf(box)
        const talking = talk(portOf(before))
        const { code, stderr, outcome } = await outcomeOf(reloading)
        await talking.end()
        assert.is(code, 1)
        assert.match(stderr, /reload given up: canary echo:0 pid \d+ was taken back: /)
        assert.match(stderr, reason)
        assert.match(outcome.canaries[0]?.reason ?? '', reason)
        assert.equal(
          outcome.slots.map(({ result, oldPid }) => ({ result, oldPid })),
          [{ result: 'taken back', oldPid: pids[0] }],
        )
        assert.equal(await pidsOf(box), pids)
        assert.is(await versionAt(portOf(before)), '1')
        await box.stop()
      })
    },
  )
}

longTest('a canary that ends once it has the slot was not taken back: the new code is there', async () => {
  await inSandbox(async (box) => {
    const before = await box.start(box.file('app.js', version(1, COUNT)))
    const flag = join(box.directory, 'has-ended')
    box.file(
      'app.js',
      version(
        2,
        COUNT,
        `const { existsSync } = await import('node:fs')
        const { setTimeout: sleep } = await import('node:timers/promises')
        worker.onWorkerStart = async () => { while (worker.id === 1 && !existsSync('${flag}')) await sleep(5) }
        worker.onWorkerActive = () => { if (worker.incarnation === 2) throw new Error('planted') }`,
      ),
    )
    const followed = await Followed.of(box)
    const reloading = box.begin('reload', '--canary-ms', '100', '--json')
    await followed.of({ type: 'exit', worker: 'echo:0', word: 'exit 250 (uncaught error)' })
    box.file('has-ended', '')
    const { code, outcome } = await outcomeOf(reloading)
    followed.close()
    assert.is(code, 6)
    assert.equal(
      outcome.slots.map(({ worker, result, oldPid }) => ({ worker, result, oldPid })),
      ['replaced', 'taken back'].map((result, id) => {
        return { worker: `echo:${id}`, result, oldPid: workersOf(before)[id]?.pid }
      }),
    )
    assert.match(outcome.slots[0]?.note ?? '', /^canary, its process has ended: exit 250 .*planted/)
    assert.match(box.log(), /given up, processes that already run the new code: 1: worker echo:0/)
    await box.stop()
  })
})

longTest('a canary that leaves by itself after its watch does not get the slot', async () => {
  await inSandbox(async (box) => {
    const other = `new Worker('text://127.0.0.1:0', { name: 'other' })`
    await box.start(box.file('app.js', version(1, COUNT, `${other}.drainTimeoutMs = 500`)))
    const flag = join(box.directory, 'go-on')
    box.file(
      'app.js',
      version(
        2,
        COUNT,
        `${other}.hold()
        const { existsSync } = await import('node:fs')
        const { setTimeout: sleep } = await import('node:timers/promises')
        worker.onWorkerStart = async () => { while (worker.id === 1 && !existsSync('${flag}')) await sleep(5) }`,
      ),
    )
    const [, , old] = workersOf(await box.status())
    const reloading = box.begin('reload', '--canary-ms', '100', '--json')
    const canaries = await until(async () => {
      const workers = workersOf(await box.status())
      return workers.some(({ id, state }) => id === 1 && state === 'starting') && workers
    }, 20_000)
    const leaver = canaries.find(({ state }) => state === 'canary')?.pid ?? 0
    process.kill(leaver, 'SIGQUIT')
    await until(async () =>
      workersOf(await box.status()).some(({ pid, state }) => pid === leaver && state === 'stopping'),
    )
    box.file('go-on', '')
    const { code, outcome } = await outcomeOf(reloading)
    assert.is(code, 1)
    assert.match(outcome.reason, new RegExp(`worker other:0 pid ${leaver}, which had just started, leaves by itself`))
    assert.is(outcome.slots.find(({ newPid }) => newPid === leaver)?.result, 'taken back')
    assert.is((await pidsOf(box)).at(-1), old?.pid)
    await box.stop()
  })
})

// Clients that keep their connections would never come to a process that has just begun to accept.
const web = (address: string, handler: string) => `
  import { Worker } from 'millrace'
  const web = new Worker('${address}', { name: 'web', count: ${COUNT} })
  web.onMessage = ${handler}
  Worker.runAll()
`
const ANSWERS = '(connection, message) => connection.send(String(message.path ?? message))'
const THROWS = `() => { throw new Error('planted') }`

/** Requests one after the other on connections that are kept alive, until it is told to stop. */
function askOnKept(port: number, connections: number): { statuses: number[]; end(): Promise<void> } {
  const agent = new http.Agent({ keepAlive: true, maxSockets: connections })
  const statuses: number[] = []
  let isOver = false
  const request = () =>
    new Promise<void>((resolve) => {
      const done = (status: number) => resolve(void statuses.push(status))
      http
        .get({ port, agent, path: '/' }, (response) =>
          response.resume().once('end', () => done(response.statusCode ?? 0)),
        )
        .once('error', () => done(0))
    })
  const loop = async () => {
    for (; !isOver; await sleep(1)) await request()
  }
  const loops = Array.from({ length: connections }, loop)
  return {
    statuses,
    end: async () => {
      isOver = true
      await Promise.all(loops)
      agent.destroy()
    },
  }
}

for (const engine of addon().sys === null ? ['node'] : ['native', 'node'])
  caseTest(engine !== 'node')(`${engine}: a canary is found out by clients that keep their HTTP connections`, () =>
    inSandbox(async (box) => {
      const before = await box.start(box.file('app.js', web('http://127.0.0.1:0', ANSWERS)), '--engine', engine)
      const pids = workersOf(before).map(({ pid }) => pid)
      const asking = askOnKept(portOf(before), 8)
      await until(() => asking.statuses.length > 100)
      box.file('app.js', web('http://127.0.0.1:0', THROWS))
      const { code, outcome } = await outcomeOf(box.begin('reload', '--canary-ms', '15000', '--json'))
      await asking.end()
      assert.is(code, 1)
      assert.match(outcome.canaries[0]?.reason ?? '', /\d+ errors in \d+ messages/)
      assert.equal(await pidsOf(box), pids)
      const failed = asking.statuses.filter((status) => status !== 200)
      assert.ok(failed.length > 0 && failed.every((status) => status === 500), `${failed}`)
      await box.stop()
    }),
  )

test('a canary without any traffic beside others that have much: the outcome says that nothing was tried', () =>
  inSandbox(async (box) => {
    const before = await box.start(box.file('app.js', web('text://127.0.0.1:0', ANSWERS)))
    const clients = await Promise.all(Array.from({ length: 4 }, () => Client.connect(portOf(before))))
    let isOver = false
    const askOn = async (client: Client) => {
      while (!isOver) await client.ask('x')
    }
    const asking = Promise.all(clients.map(askOn))
    asking.catch(String) // told below
    const reloading = box.begin('reload', '--canary-ms', '2500')
    await until(
      async () => workersOf(await box.status()).some(({ canary }) => (canary?.others.messages ?? 0) > 1000),
      20_000,
    )
    await until(() => box.log().includes('reload: warning: '), 20_000)
    isOver = true
    await asking // none was closed while the canary was watched
    for (const client of clients) client.close()
    const { code, stdout, stderr } = await reloading.ended
    assert.is(code, 0)
    const warning = /warning: canary web:0 pid \d+ got no traffic in [\d.]+ s, beside it \d+ messages: .*/
    for (const text of [stdout, stderr, box.log()]) assert.match(text, warning)
    await box.stop()
  }))

// A group without an address, which another one asks, or which listens to a subject. `breaks` is what it does.
const mailbox = (breaks: string) => `
  import { Channel, Timer, Worker } from 'millrace'
  const tasks = new Worker({ name: 'tasks', count: 2 })
  tasks.onMessage = (from, message) => { ${breaks}; return message }
  tasks.onWorkerStart = () => Channel.subscribe('news', () => { ${breaks} }, { queue: 'one' }).ready
  const source = new Worker({ name: 'source', reloadable: false })
  source.onWorkerStart = () => {
    if (process.argv.includes('ask')) Timer.add(0.01, () => tasks.any().request('x').catch(() => undefined))
    if (process.argv.includes('publish')) Timer.add(0.01, () => Channel.publish('news', 'x'))
  }
  Worker.runAll()
`

for (const [what, way] of [
  ['is asked', 'ask'],
  ['listens to a subject', 'publish'],
] as const) {
  caseTest(way === 'ask')(`a canary that ${what} by other workers gets its share, and is taken back if it throws`, () =>
    inSandbox(async (box) => {
      await box.start(box.file('app.js', mailbox('')), '--', way)
      const well = await outcomeOf(box.begin('reload', '--canary-ms', '1000', '--json'))
      assert.is(well.code, 0)
      const [report] = well.outcome.canaries
      for (const side of [report?.canary, report?.others]) {
        assert.ok((side?.messages ?? 0) > 5, `${side?.messages} messages`)
        assert.is(side?.errors, 0)
      }
      box.file('app.js', mailbox(`throw new Error('planted')`))
      const broken = await outcomeOf(box.begin('reload', '--canary-ms', LONG, '--json'))
      assert.is(broken.code, 1)
      assert.match(
        broken.stderr,
        /canary tasks:0 pid \d+ was taken back: \d+ errors in \d+ messages, beside it 0 in \d+/,
      )
      await box.stop()
    }),
  )
}

test('a canary without traffic is followed by the others, and its verdict says so', () =>
  inSandbox(async (box) => {
    await box.start(box.file('app.js', mailbox('')))
    const { stdout } = succeeded(await box.command('reload', '--canary-ms', '600', box.file('app.js', mailbox('1'))))
    assert.match(stdout, /canary tasks:0 pid \d+: after [\d.]+ s no traffic \(others 0 in 0\)/)
    assert.match(box.log(), /reload: canary tasks:0 pid \d+ had no traffic/)
    await box.stop()
  }))

test('events tell a canary from a replaced process, and what follows when the old one of its slot dies', async () => {
  await inSandbox(async (box) => {
    const before = await box.start(box.file('app.js', version(1, COUNT)))
    const reloading = box.begin('reload', '--canary-ms', LONG)
    const canary = await canaryOf(box)
    const followed = box.begin('events', '--json', '-n', '200')
    const told = await followed.says(/\{.*"type":"slot".*\}/)
    const { worker, result, newPid } = JSON.parse(told[0])
    assert.equal([worker, result, newPid], ['echo:0', 'canary', canary.pid])
    process.kill(workersOf(before)[0]?.pid ?? 0, 'SIGKILL')
    await until(() =>
      /echo:0 pid \d+: signal SIGKILL, none is started until the operation on its slot is done/.test(box.log()),
    )
    await box.status()
    assert.not.match(followed.stdout, /"backoff"|"replaced"/)
    await reloading.says(/echo:0: canary pid \d+ beside \d+/)
    await box.stop()
    await Promise.all([reloading.ended, followed.ended])
  })
})

test('a canary that does not come up, one that is stopped with the server, and times that are none', async () => {
  await inSandbox(async (box) => {
    const before = await box.start(box.file('app.js', version(1, COUNT)))
    for (const time of ['0', '-1', '1.5', 'soon']) {
      const { code, stderr } = await box.command('reload', `--canary-ms=${time}`)
      assert.is(code, 2)
      assert.match(stderr, /--canary-ms is a time in milliseconds/)
    }
    box.file('app.js', version(2, COUNT, `worker.onWorkerStart = () => { throw new Error('planted') }`))
    const failed = await box.command('reload', '--canary')
    assert.is(failed.code, 6)
    assert.match(failed.stderr, /echo:0 did not become ready: Error: planted/)
    assert.equal(
      await pidsOf(box),
      workersOf(before).map(({ pid }) => pid),
    )
    box.file('app.js', version(3, COUNT))
    const reloading = box.begin('reload', '--canary')
    await canaryOf(box)
    assert.match(succeeded(await box.command('status')).stdout, /\[canary\][\s\S]*canary echo:0 pid \d+: after/)
    await box.stop()
    const { code, stderr } = await reloading.ended
    assert.is(code, 1)
    assert.match(stderr, /stopped|ended/)
  })
})

/** Answers how often its event loop has been watched so far, and by how many timers it is now. */
const TICKS = `
  const [set, clear, ticks] = [globalThis.setInterval, globalThis.clearInterval, new Set()]
  let begun = 0
  globalThis.setInterval = (use, ms) => {
    const timer = set(use, ms)
    if (ms === 10) begun += ticks.add(timer).has(timer)
    return timer
  }
  globalThis.clearInterval = (timer) => void (ticks.delete(timer), clear(timer))
  worker.onMessage = (connection) => connection.send(begun + ' ' + ticks.size)`

longTest('nobody is watched any more when the canary of a later group does not come up', async () => {
  await inSandbox(async (box) => {
    const other = (more: string) => `${TICKS}\nconst other = new Worker({ name: 'other' })\n${more}`
    const port = portOf(await box.start(box.file('app.js', version(1, 1, other('')))))
    const broken = `other.onWorkerStart = () => { throw new Error('planted') }`
    box.file('app.js', version(2, 1, other(broken)))
    assert.is((await box.command('reload', '--canary')).code, 6)
    await until(async () => (await ask(port, 'x')) === '1 0')
    await box.stop()
  })
})

test('a group that cannot live twice has no canary, one that is new none either', async () => {
  await inSandbox(async (box) => {
    const program = (more: string) => version(1, 1, `worker.reloadMode = 'stop-first'\n${more}`)
    await box.start(box.file('app.js', program('')))
    box.file('app.js', program(`new Worker({ name: 'other' })`))
    const outcome = JSON.parse(succeeded(await box.command('reload', '--canary', '--json')).stdout) as ReloadOutcome
    assert.equal(outcome.canaries, [])
    assert.equal(
      outcome.slots.map(({ worker, result }) => `${worker} ${result}`),
      ['echo:0 replaced', 'other:0 added'],
    )
    assert.match(box.log(), /no canary of echo: it cannot live beside the old process/)
    await box.stop()
  })
})

test('what is worse: a share of errors, a late loop; what is not: chance, or what the others do as well', () => {
  const sample = (messages: number, errors: number, lagMs = 0) => ({ messages, errors, lagMs })
  assert.is(judge(sample(0, 0), sample(0, 0)), '')
  assert.is(judge(sample(1000, 5), sample(1000, 0)), '')
  assert.match(judge(sample(1000, 20), sample(1000, 0)), /^20 errors in 1000 messages, beside it 0 in 1000$/)
  assert.is(judge(sample(1000, 20), sample(1000, 10)), '')
  assert.match(judge(sample(0, 1), sample(0, 0)), /^1 errors in 0 messages/)
  assert.is(judge(sample(10, 0, 90), sample(10, 0, 1)), '')
  assert.match(judge(sample(10, 0, 150), sample(10, 0, 1)), /late by 150 ms, beside it by 1 ms/)
  assert.is(judge(sample(10, 0, 300), sample(10, 0, 120)), '')
})

test('a block of the event loop counts for who asks right after it, and once', async () => {
  const lag = new LoopLag()
  const block = (ms: number) => {
    for (const end = now() + ms; now() < end; );
    return lag.take()
  }
  const blocked = () => new Promise<number>((resolve) => setImmediate(() => resolve(block(100))))
  assert.is(await blocked(), 0) // nobody watches
  lag.watch(true)
  for (let n = 0; n < 3; n++) {
    const lagMs = await blocked()
    assert.ok(lagMs >= 85 && lagMs < 1000, `${lagMs} ms`)
    assert.ok(lag.take() < 85)
  }
  lag.watch(false)
  assert.is(await blocked(), 0)
})

test.run()
