// While the whole server stops, who has nothing left to do stays as long as others may ask it something, and no longer.

import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { caseTest } from '../support/length.ts'
import { Client, inSandbox, portOf, type Sandbox } from '../support/server.ts'
import { until } from '../support/until.ts'

/** Long enough that whatever waits for the end of it is noticed. */
const WINDOW_S = 20
const SOON_MS = 10_000

// What a handler of `web` asks it asks when all that has nothing to do itself would have left long ago.
const asking = `
  import { Channel, Timer, Worker } from 'millrace'
  Worker.stopTimeout = ${WINDOW_S}
  const web = new Worker('text://127.0.0.1:0', { name: 'web', drainTimeoutMs: ${WINDOW_S * 1000} })
  const tasks = new Worker({ name: 'tasks', count: 2, drainTimeoutMs: ${WINDOW_S * 1000} })
  tasks.onMessage = (from, message) => 'done ' + message
  tasks.onWorkerStart = () => void Channel.subscribe('price', (what) => what + ' is cheap')
  tasks.onWorkerStop = () => console.error('-- tasks stops')
  const ask = (line) => (line === 'price' ? Channel.request('price', 'apple') : tasks.any().request(line))
  web.onMessage = async (connection, line) => {
    if (line === 'early') return connection.send(await ask('early'))
    console.error('-- begun')
    await new Promise((resolve) => web.signal.addEventListener('abort', resolve))
    await Timer.sleep(0.3)
    connection.send(String(await ask(line).catch((error) => error)))
  }
`

/** Starts it, and has a handler begin that asks during the stop. */
async function askDuring(box: Sandbox, line: string, stop: (pid: number) => unknown, early = false): Promise<string> {
  const status = await box.start(box.file('app.js', `${asking}Worker.runAll()`))
  const client = await Client.connect(portOf(status))
  if (early) assert.is(await client.ask('early'), 'done early')
  client.send(line)
  await until(() => box.log().includes('-- begun'))
  const stopped = stop(status.pid)
  const answer = await client.line()
  await stopped
  return answer
}

/** Resolves with how long it took, in ms, until no process was left. */
async function stopMs(box: Sandbox, ...args: string[]): Promise<number> {
  const since = performance.now()
  await box.stop(...args)
  return performance.now() - since
}

for (const [what, args] of [
  ['stop', []],
  ['stop -g', ['-g']],
] as const)
  for (const [line, answer] of [
    ['job', 'done job'],
    ['price', 'apple is cheap'],
  ] as const)
    caseTest((what === 'stop') === (line === 'job'))(
      `${what}: a handler in flight gets an answer to '${line}' from a worker that has had nothing to do for a while`,
      () =>
        inSandbox(async (box) => {
          assert.is(await askDuring(box, line, () => box.stop(...args)), answer)
        }),
    )

test('two groups that ask each other while the server stops do not wait for each other afterwards', () =>
  inSandbox(async (box) => {
    const app = `
      import { Timer, Worker } from 'millrace'
      Worker.stopTimeout = ${WINDOW_S}
      const ping = new Worker({ name: 'ping', count: 2 })
      const pong = new Worker({ name: 'pong', count: 2 })
      for (const [own, other] of [[ping, pong], [pong, ping]]) {
        own.onMessage = async (from, message) => (message > 0 ? await other.by(message).request(message - 1) : 'end')
        own.onWorkerStop = async () => {
          await Timer.sleep(0.1 * (own.id + 1))
          console.error('-- answered', await other.any().request(5))
        }
      }
      Worker.runAll()`
    await box.start(box.file('app.js', app))
    const ms = await stopMs(box)
    assert.is(box.log().match(/-- answered end/g)?.length, 4)
    assert.ok(ms < SOON_MS, `${ms} ms`)
  }))

test('the first that a process publishes is when the server stops: it is heard like what others publish', () =>
  inSandbox(async (box) => {
    const app = `
      import { Channel, Timer, Worker } from 'millrace'
      Worker.stopTimeout = ${WINDOW_S}
      const stats = new Worker({ name: 'stats' })
      stats.onWorkerStart = () => void Channel.subscribe('bye', (who) => console.error('-- heard', who))
      stats.onWorkerStop = () => void Timer.sleep(0.8).then(stats.hold('a job')) // it has said to others what it hears
      const web = new Worker({ name: 'web', count: 2 })
      web.onWorkerActive = () => void (web.id === 1 && Channel.publish('bye', 'nobody'))
      web.onWorkerStop = async () => {
        await Timer.sleep(0.3)
        Channel.publish('bye', web.id)
      }
      Worker.runAll()`
    await box.start(box.file('app.js', app))
    await until(() => box.log().includes('-- heard nobody'))
    await box.stop()
    assert.equal(
      box
        .log()
        .match(/-- heard \d/g)
        ?.sort(),
      ['-- heard 0', '-- heard 1'],
    )
  }))

test('with nothing in flight nobody waits; and where one never settles, the others leave with it', () =>
  inSandbox(async (box) => {
    await box.start(box.file('app.js', `${asking}Worker.runAll()`))
    const ms = await stopMs(box, '-g')
    assert.ok(ms < SOON_MS, `${ms} ms`)
    const stuck = `${asking}Worker.stopTimeout = 0.5; web.onWorkerStop = () => new Promise(() => {}); Worker.runAll()`
    await box.start(box.file('app.js', stuck))
    const stuckMs = await stopMs(box)
    assert.ok(stuckMs >= 500 && stuckMs < SOON_MS, `${stuckMs} ms`)
    assert.not.match(box.log(), /\[tasks:\d\] leaves with/)
    assert.not.match(box.log(), /killed/)
  }))

test('timers that go on keep nobody, though there is no moment in which none of them has begun something', () =>
  inSandbox(async (box) => {
    const app = `
      import { Worker } from 'millrace'
      Worker.stopTimeout = ${WINDOW_S}
      const jobs = new Worker({ name: 'jobs', count: 2 })
      jobs.onMessage = () => 'asked'
      // Each is busy for 70 ms of 100, and the other begins before it ends.
      jobs.onWorkerStart = () => {
        const next = () => setTimeout(tick, 100 - ((Date.now() + jobs.id * 50) % 100))
        const tick = () => {
          setTimeout(jobs.hold('a tick'), 70)
          next()
        }
        next()
      }
      Worker.runAll()`
    await box.start(box.file('app.js', app))
    const ms = await stopMs(box)
    assert.ok(ms < SOON_MS, `${ms} ms`)
    assert.not.match(box.log(), /leaves with/)
  }))

test.run()
