// Workers that hang are killed and replaced, with the stack that hung; those that somebody has stopped or debugs are not.

import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { Watchdog, type Watched } from '../../src/process/master/watchdog.ts'
import { atLength, longTest } from '../support/length.ts'
import { ask, Client, echo, inSandbox, succeeded, workersOf } from '../support/server.ts'
import { until } from '../support/until.ts'

const SECOND = 1000

/** Looks every second until `end` (seconds), and gives when who was found to hang. */
function found(
  all: readonly Watched[],
  end: number,
  { stopped = [] as number[], sleep = [0, 0] } = {},
): [number, number][] {
  const watchdog = new Watchdog(SECOND, (pid) => stopped.includes(pid), 0)
  const [asleepAt = 0, awakeAt = 0] = sleep
  const times = Array.from({ length: end }, (_, second) => second + 1).filter((at) => at <= asleepAt || at >= awakeAt)
  return times.flatMap((at) => watchdog.look(at * SECOND, all).map(({ pid }): [number, number] => [at, pid]))
}

function watched(pid: number, heardAt: number, more: Partial<Watched> = {}): Watched {
  return { pid, heardAt: heardAt * SECOND, isInspected: false, stuckTimeoutMs: 30 * SECOND, ...more }
}

test('who has been silent for its time hangs, the longest first', () => {
  assert.equal(found([watched(1, 2)], 32), [[32, 1]])
  assert.equal(found([watched(1, 2), watched(2, 1)], 32), [
    [31, 2],
    [32, 2],
    [32, 1],
  ])
  assert.equal(found([watched(1, 0, { stuckTimeoutMs: 0 })], 1000), [])
})

test('nobody hangs because the machine was asleep, or the master: everybody has all of the time again', () => {
  assert.equal(found([watched(1, 5)], 535, { sleep: [6, 506] }), [])
  assert.equal(found([watched(1, 5)], 536, { sleep: [6, 506] }), [[536, 1]])
})

test('who is stopped or under a debugger does not hang, and has all of its time again when it goes on', () => {
  assert.equal(found([watched(1, 0), watched(2, 0, { isInspected: true })], 1000, { stopped: [1] }), [])
  const stopped = [1]
  const watchdog = new Watchdog(SECOND, (pid) => stopped.includes(pid), 0)
  const one = watched(1, 0)
  for (let second = 1; second <= 100; second++) assert.equal(watchdog.look(second * SECOND, [one]), [])
  stopped.pop()
  for (let second = 101; second < 130; second++) assert.equal(watchdog.look(second * SECOND, [one]), [])
  assert.equal(watchdog.look(130 * SECOND, [one]), [one])
})

/** Never ends; at length with a core, which the tests beside it need. */
const NEVER_ENDS =
  atLength(0, 1) === 1 ? 'Math.random()' : 'Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 5)'

/** Groups by what they do at a message, beside one that is well. All are asked at once: nobody hangs for nothing. */
const HANGS = `
  import { Worker } from 'millrace'
  import inspector from 'node:inspector'
  Worker.stopTimeout = 0.1
  const listening = (port) => \`Debugger listening on ws://127.0.0.1:\${port}/00000000-0000-0000-0000-000000000000\`
  const kinds = {
    well: () => {},
    spins: function spins() { const innermost = () => { for (;;) ${NEVER_ENDS} }; setImmediate(innermost) },
    waits: () => setImmediate(() => Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0)),
    forged: (connection, line) => { console.error(listening(line.split(' ')[1])); setImmediate(kinds.waits) },
    opened: () => { inspector.open(0); kinds.waits() },
    debugged: () => setImmediate(() => Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0)),
    stopped: () => setImmediate(() => process.kill(process.pid, 'SIGSTOP')),
  }
  for (const [name, hang] of Object.entries(kinds)) {
    const worker = new Worker('text://127.0.0.1:0', { name, stuckTimeoutMs: 5000 })
    if (name === 'debugged') worker.execArgv = ['--inspect=0']
    worker.onMessage = (connection, line) => { connection.send(String(process.pid)); if (line.startsWith('hang')) hang(connection, line) }
  }
  Worker.runAll()`

test('a worker that hangs is killed and replaced, and the log says where it hung, whatever lines look like its inspector; one that is stopped or debugged is left alone', async () => {
  await inSandbox(async (box) => {
    const { groups } = await box.start(box.file('app.js', HANGS))
    const clients = await Promise.all(groups.map(({ port }) => Client.connect(port)))
    const pids = new Map<string, number>()
    for (const [at, { name, port }] of groups.entries()) pids.set(name, Number(await clients[at]?.ask(`hang ${port}`)))
    const of = async (name: string) => {
      const group = (await box.status()).groups.find((one) => one.name === name)
      assert.ok(group)
      return group
    }
    for (const name of ['spins', 'waits', 'forged']) {
      const group = await until(async () => {
        const now = await of(name)
        const [worker] = now.workers
        return now.replaced.stuck === 1 && worker?.state === 'ready' && worker.pid !== pids.get(name) && now
      }, 60_000)
      const [worker] = group.workers
      assert.is(worker?.lastExit, 'signal SIGKILL (stuck)')
      assert.match(worker?.lastReason ?? '', /^its event loop has not turned for \d+ s \(stuckTimeoutMs\)\n/)
      assert.match(await ask(group.port, 'x'), /^\d+$/)
    }
    assert.match(
      box.log(),
      /worker spins:0 pid \d+: signal SIGKILL \(stuck\), starting another\n.*\n.* {4}at innermost \(file:.*app\.js:8:/,
    )
    // Node may be about to tell of what ended the wait: frames of its own, and ours of process.emit, are innermost then.
    assert.match(
      box.log(),
      /worker waits:0 pid \d+: signal SIGKILL \(stuck\), starting another\n.*\n(?:.* {4}at \w+ \((?:node:|.*roles\.js:).*\n)*.* {4}at .*app\.js:9:/,
    )
    // They have been silent for as long by now, and longer.
    await until(async () => ((await of('stopped')).workers[0]?.silentMs ?? 0) > 8000, 30_000)
    for (const name of ['well', 'opened', 'debugged', 'stopped']) {
      const group = await of(name)
      assert.is(group.workers[0]?.pid, pids.get(name))
      assert.equal(group.replaced, {})
    }
    const { stdout } = succeeded(await box.command('status'))
    assert.match(stdout, /^stopped:0 pid \d+ has been stopped \(SIGSTOP, or a debugger\): SIGCONT lets it go on$/m)
    assert.match(stdout, /^spins has replaced processes: stuck 1$/m)
    process.kill(pids.get('stopped') ?? 0, 'SIGCONT')
    const stopped = groups.findIndex(({ name }) => name === 'stopped')
    assert.is(await clients[stopped]?.ask('x'), String(pids.get('stopped')))
    for (const client of clients) client.close()
    await box.stop()
  })
})

longTest('no worker is killed for what the master has slept through', async () => {
  await inSandbox(async (box) => {
    const status = await box.start(box.file('app.js', echo(2, 'worker.stuckTimeoutMs = 5000')))
    process.kill(status.pid, 'SIGSTOP')
    const stoppedAt = performance.now()
    await until(() => performance.now() - stoppedAt > 6500, 20_000)
    process.kill(status.pid, 'SIGCONT')
    const after = await until(async () => {
      const now = await box.status()
      return workersOf(now).every(({ state, silentMs }) => state === 'ready' && silentMs < 1000) && now
    }, 20_000)
    const pids = (of: typeof status) => workersOf(of).map(({ pid }) => pid)
    assert.equal(pids(after), pids(status))
    assert.equal(after.groups[0]?.replaced, {})
    await box.stop()
  })
})

test('a time that processes could not keep is refused', async () => {
  await inSandbox(async (box) => {
    const module = box.file(
      'app.js',
      `import { Worker } from 'millrace'; new Worker('text://127.0.0.1:0', { stuckTimeoutMs: 900 }); Worker.runAll()`,
    )
    const { code, stderr } = await box.command('check', module)
    assert.is(code, 6)
    assert.match(stderr, /stuckTimeoutMs of worker 'none' is 900: it must be 0, or a number from 5000 on/)
  })
})

test.run()
