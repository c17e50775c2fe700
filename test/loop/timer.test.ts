// Timer's names, units and checks, and what a process with timers does as a whole.

import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { codeOf } from '../../src/errors.ts'
import { now } from '../../src/loop/clock.ts'
import { deadlines } from '../../src/loop/deadlines.ts'
import { Timer } from '../../src/loop/timer.ts'
import { until } from '../support/until.ts'

const timerUrl = new URL('../../src/loop/timer.js', import.meta.url).href
const deadlinesUrl = new URL('../../src/loop/deadlines.js', import.meta.url).href

/** What a process of its own prints that runs `lines`, with Timer and deadlines imported. */
function run(...lines: string[]): Promise<string> {
  return runAlone(`import { Timer } from '${timerUrl}'`, `import { deadlines } from '${deadlinesUrl}'`, ...lines)
}

async function runAlone(...lines: string[]): Promise<string> {
  const code = lines.join('\n')
  const done = await promisify(execFile)(process.execPath, ['--input-type=module', '-e', code], { timeout: 10_000 })
  return done.stdout.trim()
}

test('add repeats, with its arguments, until it is deleted', async () => {
  const calls: unknown[] = []
  const id = Timer.add(
    0.002,
    (name: string, number: number) => {
      calls.push([name, number])
      if (calls.length === 3) assert.ok(Timer.del(id))
    },
    ['a', 1],
  )
  await until(() => calls.length === 3)
  let later = 0
  const other = Timer.add(0.002, () => later++) // when this one has been called again and again, it would have been, too
  await until(() => later >= 3)
  assert.ok(Timer.del(other))
  assert.equal(calls, [
    ['a', 1],
    ['a', 1],
    ['a', 1],
  ])
  assert.not(Timer.del(id))
})

test('add with persistent false, and delay, call once', async () => {
  const calls: string[] = []
  const id = Timer.add(0.001, () => calls.push('add'), [], false)
  Timer.delay(0.001, (name: string) => calls.push(name), ['delay'])
  await until(() => calls.length === 2)
  assert.equal(calls, ['add', 'delay'])
  assert.not(Timer.del(id))
  assert.is(Timer.count, 0)
})

test('a callback without arguments gets none', async () => {
  const length = await new Promise((resolve) => {
    Timer.delay(0, (...args: []) => resolve(args.length))
  })
  assert.is(length, 0)
})

test('a callback that wants arguments is not taken without them', () => {
  // @ts-expect-error: the arguments are missing
  const missing = () => Timer.add(1, (number: number) => number)
  // @ts-expect-error: one is of another type
  const wrong = () => Timer.delay(1, (number: number) => number, ['a'])
  assert.type(missing, 'function')
  assert.type(wrong, 'function')
})

test('repeat repeats', async () => {
  let calls = 0
  const id = Timer.repeat(0.001, () => calls++)
  while (calls < 3) await Timer.sleep(0.001)
  assert.ok(Timer.del(id))
})

test('del answers false to what is no id, whatever it is', () => {
  for (const odd of [0, -1, 0.5, Number.NaN, null, undefined, 'x', {}, 1n, Symbol('id'), Object.create(null)])
    assert.is(Timer.del(odd as number), false)
})

test('sleep is not early', async () => {
  for (const seconds of [0, 0.001, 0.0105, 0.02]) {
    const start = now()
    await Timer.sleep(seconds)
    assert.ok(now() - start >= seconds * 1000)
  }
})

test('delAll ends all timers, in a callback too, but no deadline', async () => {
  const calls: string[] = []
  Timer.delay(0.001, () => Timer.delAll())
  Timer.delay(0.001, () => calls.push('delay'))
  Timer.add(0.001, () => calls.push('add'))
  const deadline = new Promise<void>((resolve) => deadlines.after(5, resolve))
  const keepAlive = setInterval(() => undefined, 1000)
  await deadline
  clearInterval(keepAlive)
  assert.equal(calls, [])
  assert.is(Timer.count, 0)
})

test('seconds that are no time are refused at the call', () => {
  const nothing = () => undefined
  for (const seconds of [-1, -0.001, Number.NaN, Number.POSITIVE_INFINITY, '1', undefined, null, Symbol('s')]) {
    for (const call of [Timer.add, Timer.repeat, Timer.delay, Timer.sleep]) {
      assert.throws(
        () => call(seconds as number, nothing),
        (error: unknown) => codeOf(error) === 'ERR_TIMER_SECONDS',
      )
    }
  }
  assert.is(Timer.count, 0)
})

test('what cannot be called, and arguments that are no array, are refused at the call', () => {
  for (const call of [Timer.add, Timer.repeat, Timer.delay]) {
    assert.throws(
      () => call(1, 'fn' as unknown as () => void),
      (error: unknown) => codeOf(error) === 'ERR_TIMER_CALLBACK',
    )
    assert.throws(
      () => call(1, () => undefined, 'a' as unknown as []),
      (error: unknown) => codeOf(error) === 'ERR_TIMER_ARGUMENTS',
    )
  }
  assert.is(Timer.count, 0)
})

test('the longest delays are taken', () => {
  for (const seconds of [2 ** 31 / 1000, 1e9, Number.MAX_VALUE]) {
    const id = Timer.delay(seconds, () => assert.unreachable())
    assert.ok(Timer.del(id))
  }
})

test('importing opens nothing', async () => {
  const listOpen = "console.log(process.getActiveResourcesInfo().filter((name) => name !== 'PipeWrap').join())" // stdio
  assert.is(await run(`setImmediate(() => setImmediate(() => ${listOpen}))`), '')
})

test('a pending timer keeps the process alive until it has fired', async () => {
  assert.is(await run("Timer.delay(0.02, () => console.log('fired'))"), 'fired')
})

test('a deleted timer keeps no process alive, and one added after it does', async () => {
  assert.is(await run("Timer.del(Timer.delay(100, () => {})); console.log('done')"), 'done')
  assert.is(
    await run(
      'Timer.del(Timer.delay(0.001, () => {}))',
      "Timer.delay(0.02, () => { Timer.delAll(); Timer.delay(0.02, () => console.log('fired')) })",
      'Timer.add(100, () => {})',
    ),
    'fired',
  )
})

test('a deadline keeps no process alive', async () => {
  assert.is(await run("deadlines.after(5000, () => {}); deadlines.every(5000, () => {}); console.log('done')"), 'done')
})

test('a throwing callback ends the process as an uncaught exception, after the tick', async () => {
  const failure = await run(
    "Timer.delay(0.001, () => { throw new Error('mine') })",
    "Timer.delay(0.001, () => console.log('neighbour'))",
    'Timer.add(100, () => {})',
    'for (const end = performance.now() + 20; performance.now() < end; );', // so that both are due in one tick
  ).catch((error: { code: number; stdout: string; stderr: string }) => error)
  assert.not.type(failure, 'string')
  const { code, stdout, stderr } = failure as Exclude<typeof failure, string>
  assert.is(code, 1)
  assert.is(stdout.trim(), 'neighbour')
  assert.match(stderr, 'Error: mine')
})

test.run()
