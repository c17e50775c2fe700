// Crontab: rules are croner's; that a tick is fired once, by whom, and what happens to it when processes change, is ours.

import { execFileSync } from 'node:child_process'
import { cpSync, existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { Crontab, type CrontabOptions } from '../../src/crontab/crontab.ts'
import { type Noted, type TickClock, Ticking } from '../../src/crontab/ticking.ts'
import { codeOf, messageOf } from '../../src/errors.ts'
import { Candidates } from '../../src/process/child/candidates.ts'
import { registry } from '../../src/process/group.ts'
import type { WorkerStatus } from '../../src/process/status/status.ts'
import { leaving } from '../support/candidates.ts'
import { inSandbox, type Sandbox, workersOf } from '../support/server.ts'
import { until } from '../support/until.ts'
import { root } from '../tooling/support.ts'

interface Tick {
  readonly who: string
  readonly time: number
  readonly pid: number
}

/** The beginning of a module: `note(who, time)` adds a tick to what `ticks` reads. */
function noting({ directory }: Sandbox): string {
  return `
    import { appendFileSync } from 'node:fs'
    import { Crontab, Worker } from 'millrace'
    const note = (who, time) =>
      appendFileSync(${JSON.stringify(join(directory, 'ticks'))}, JSON.stringify({ who, time: time.getTime(), pid: process.pid }) + '\\n')`
}

function ticks(box: Sandbox, who: string): Tick[] {
  const path = join(box.directory, 'ticks')
  const lines = existsSync(path) ? readFileSync(path, 'utf8').split('\n').slice(0, -1) : []
  return lines.map((line) => JSON.parse(line) as Tick).filter((tick) => tick.who === who)
}

/** Every tick is one second's, in order, each once. */
function assertOnce(all: Tick[]): void {
  const seconds = all.map(({ time }) => time)
  assert.ok(seconds.every((time) => time % 1000 === 0))
  assert.equal(
    seconds,
    [...new Set(seconds)].sort((a, b) => a - b),
  )
}

test('every second: one process of all fires a singleton, each its own; no tick twice, through kill -9 and reload', async () => {
  await inSandbox(async (box) => {
    const path = box.file(
      'app.js',
      `
      ${noting(box)}
      const worker = new Worker({ name: 'app', count: 2 })
      worker.onWorkerStart = () => {
        new Crontab('* * * * * *', (time) => note('one', time), { name: 'one', singleton: true })
        if (worker.id === 0) new Crontab('* * * * * *', (time) => note('own', time), 'own')
      }
      Worker.runAll()`,
    )
    const { groups } = await box.start(path)
    await until(() => ticks(box, 'one').length > 1 && ticks(box, 'own').length > 1, 20_000)
    const pidOf = (who: string) => ticks(box, who).at(-1)?.pid ?? 0
    assert.is(pidOf('own'), groups[0]?.workers[0]?.pid)
    const leader = pidOf('one')
    process.kill(leader, 'SIGKILL')
    await until(() => pidOf('one') !== leader, 20_000)
    const [second, own] = [pidOf('one'), pidOf('own')]
    await box.operate({ command: 'reload' })
    await until(() => pidOf('one') !== second && pidOf('own') !== own, 20_000)
    const { leaders } = await box.status()
    assert.equal(leaders, [{ name: 'crontab one', pid: pidOf('one') }])
    assert.ok(workersOf(await box.status()).some(({ pid }) => pid === pidOf('one')))
    await box.stop()
    for (const who of ['one', 'own']) assertOnce(ticks(box, who))
  })
})

/** Crontabs as in a worker, without a master: what `lead` does is the test's. */
async function asWorker(use: (candidates: Candidates, lead: () => void) => Promise<void>): Promise<void> {
  const tickets: [string, number][] = []
  const candidates = new Candidates(({ type, name, ticket }) => type === 'stand' && tickets.push([name, ticket]))
  registry().candidates = candidates
  try {
    await use(candidates, () => {
      for (const [name, ticket] of tickets.splice(0)) candidates.lead(name, ticket)
    })
  } finally {
    await leaving(candidates).left
    registry().candidates = null
    for (const one of Crontab.getAll()) one.destroy()
  }
}

test('when the last time of a rule has passed, a process starts all the same, says so, and fires nothing again', () =>
  inSandbox(async (box) => {
    const soon = new Date(Math.floor(Date.now() / 1000) * 1000 + 3000)
    const path = box.file(
      'app.js',
      `
      ${noting(box)}
      const worker = new Worker({ name: 'app' })
      worker.onWorkerStart = () => {
        new Crontab('${soon.toISOString()}', (time) => note('one', time), { name: 'one', singleton: true })
        new Crontab('${soon.toISOString()}', (time) => note('own', time))
      }
      Worker.runAll()`,
    )
    const [first] = workersOf(await box.start(path))
    await until(() => ticks(box, 'one').length > 0 && ticks(box, 'own').length > 0, 20_000)
    process.kill(first?.pid ?? 0, 'SIGKILL')
    const isBack = ({ incarnation, state }: WorkerStatus) => incarnation === 2 && state === 'ready'
    await until(async () => workersOf(await box.status()).some(isBack), 20_000)
    await box.operate({ command: 'reload' })
    for (const who of ['one', 'own']) assert.equal(ticks(box, who), [{ who, time: soon.getTime(), pid: first?.pid }])
    assert.is(box.log().match(/crontab one: the last of its times has passed/g)?.length, 2)
    assert.match(box.log(), `crontab ${soon.toISOString()}: the last of its times has passed`)
    await box.stop()
  }))

test('what is asked of one: rule, name, id, callback; removed by object or id; nothing fires outside of a worker', async () => {
  let calls = 0
  const count = () => calls++
  const [a, b] = [new Crontab('*/5 * * * *', count, 'first'), new Crontab('0 0 1 1 *', count)]
  assert.equal([a.getRule(), a.getName(), a.getCallback(), b.getName()], ['*/5 * * * *', 'first', count, ''])
  assert.equal(Crontab.getAll(), [a, b])
  assert.equal(
    [Crontab.remove(a), Crontab.remove(a), Crontab.remove(b.getId()), b.destroy()],
    [true, false, true, false],
  )
  assert.equal(Crontab.getAll(), [])
  assert.is(calls, 0)
})

test('its own begins when the process is its slot’s only one, skips what would overlap, and ends with the process', async () => {
  await asWorker(async (candidates) => {
    const times: number[] = []
    let release: () => void = () => undefined
    let signal: AbortSignal | undefined
    new Crontab('* * * * * *', async (time, ends) => {
      times.push(time.getTime())
      signal = ends
      await new Promise<void>((resolve) => {
        release = resolve
      })
    })
    const brief = new Crontab('* * * * * *', () => times.push(-1))
    assert.is(times.length, 0)
    candidates.activate()
    await until(() => times.includes(-1) && times.length > 2, 10_000)
    assert.is(times.filter((time) => time > 0).length, 1)
    brief.destroy()
    const left = leaving(candidates).left
    assert.ok(signal?.aborted)
    assert.is(await Promise.race([left, Promise.resolve('waits')]), 'waits')
    release()
    await left
    const before = times.length
    new Crontab('* * * * * *', () => times.push(-2)) // too late
    assert.is(times.length, before)
  })
})

/** Every second of the wall clock. */
const everySecond = { nextRun: (after: Date) => new Date(Math.floor(after.getTime() / 1000) * 1000 + 1000) }

const HOUR = 3_600_000
const NOON = 1_700_000_000_000 - (1_700_000_000_000 % HOUR)

/** A wall clock that the test sets; `sleep` is over at once. */
function planted(): TickClock & { time: number; passOn(): void } {
  let woken: () => void = () => undefined
  return {
    time: NOON,
    wall() {
      return this.time
    },
    after: (_ms, fn) => {
      woken = fn
      return 1
    },
    cancel: () => true,
    passOn: () => woken(),
  }
}

/** Once a day, 30 minutes after noon. */
const daily = {
  nextRun(after: Date): Date {
    const first = NOON + HOUR / 2
    return new Date(first + (Math.floor((after.getTime() - first) / (24 * HOUR)) + 1) * 24 * HOUR)
  },
}

/** A day of a clock that nobody sets. */
const aDayFrom = (time: number) => Array.from({ length: 12 }, (_, n) => time + (n + 1) * 2 * HOUR)

/** What a Ticking, of every second unless told, has fired after each time that the clock showed: seconds from noon. */
async function firedAt(
  times: readonly number[],
  note: Noted | null = null,
  rule: { nextRun(after: Date): Date | null } = everySecond,
): Promise<number[][]> {
  const clock = planted()
  const ends = new AbortController()
  const fired: number[] = []
  const callback = (time: Date) => fired.push((time.getTime() - NOON) / 1000)
  const end = await new Ticking(rule, callback, ends.signal, note, 'test', clock).begin()
  const all: number[][] = []
  for (const time of times) {
    clock.time = NOON + time
    clock.passOn()
    await new Promise(setImmediate)
    all.push(fired.splice(0))
  }
  ends.abort()
  await end()
  return all
}

test('a clock that is set back by up to three hours makes a daily rule fire nothing twice', async () => {
  const half = HOUR / 2
  const fired = await firedAt([half, half - 2 * HOUR, 0, half, half + 1000, ...aDayFrom(half)], null, daily)
  assert.equal([fired[0], fired.slice(1).flat()], [[1800], [1800 + 24 * 3600]])
})

test('a rule that fires in every hour follows a clock that is set back by more than a minute at once', async () => {
  assert.equal(await firedAt([1000, -2 * HOUR, -2 * HOUR + 1000]), [[1], [], [-7199]])
  assert.equal(await firedAt([90_000, 40_000, 89_000, 91_000]), [[1], [], [], [91]], 'nothing twice for less')
})

test('one that is set back by more begins again from there, at once or bit by bit', async () => {
  const back = -4 * HOUR
  assert.equal(await firedAt([1000, back, back + 1000]), [[1], [], [back / 1000 + 1]])
  assert.equal(await firedAt([1000, -2 * HOUR, back, back + 1000]), [[1], [], [], [back / 1000 + 1]])
  const half = HOUR / 2
  assert.equal(await firedAt([half, half - 2 * HOUR, half + back, -HOUR, half], null, daily), [
    [1800],
    [],
    [],
    [],
    [1800],
  ])
})

test('a clock that is set forward fires what was skipped once, unless it was corrected by more than three hours', async () => {
  const [ahead, correction] = [2 * HOUR, 4 * HOUR]
  for (const [rule, first] of [
    [everySecond, 1],
    [daily, 1800],
  ] as const)
    assert.equal(await firedAt([ahead, correction], null, rule).then(([one]) => one), [first])
  assert.equal(await firedAt([correction, correction + 1000]), [[], [correction / 1000 + 1]])
  const fired = await firedAt([correction, ...aDayFrom(correction)], null, daily)
  assert.equal([fired[0], fired.flat()], [[], [1800 + 24 * 3600]])
})

test('a time that is not after the one asked about fires nothing: the next one that is does', async () => {
  const first = 1000 // croner 10, in the second pass of the hour that comes twice
  const confused = { nextRun: (after: Date) => new Date(NOON + (after.getTime() < NOON + HOUR ? first : 2 * HOUR)) }
  assert.equal(await firedAt([first, first, first, 2 * HOUR], null, confused), [[1], [], [], [7200]])
})

test('a leader goes on where another one has ended that was ahead of the clock, unless the new time is to be followed', async () => {
  const half = HOUR / 2
  for (const [rule, ahead, times, wanted] of [
    [daily, HOUR, [half, ...aDayFrom(half)], [1800 + 24 * 3600]],
    [daily, 4 * HOUR, [half], [1800]],
    [everySecond, HOUR, [1000], [1]],
    [everySecond, 4 * HOUR, [1000], [1]],
    [everySecond, 30_000, [1000, 31_000], [31]],
  ] as const) {
    let noted = NOON + ahead
    const note = {
      get: async () => noted,
      set: async (time: number) => {
        noted = time
      },
    }
    assert.equal((await firedAt(times, note, rule)).flat(), wanted)
  }
})

test('a leader makes up once for the ticks that nobody fired, unless it shall skip them, and notes where it stops', async () => {
  for (const [missed, isLate] of [
    ['once', true],
    ['skip', false],
  ] as const) {
    const began = Date.now()
    let noted = began - 10_000
    const fired: number[] = []
    const note = {
      get: async () => noted,
      set: async (time: number) => {
        noted = time
      },
    }
    const ends = new AbortController()
    const end = await new Ticking(everySecond, (time) => fired.push(time.getTime()), ends.signal, note, 'test').begin(
      missed,
    )
    await until(() => fired.some((time) => time > began))
    ends.abort()
    await end()
    assert.is(fired.filter((time) => time <= began).length, isLate ? 1 : 0)
    assert.ok(fired.every((time) => time <= noted))
    assert.ok(everySecond.nextRun(new Date(noted)).getTime() > (fired.at(-1) ?? 0))
  }
})

test('a leader makes up for the last of all ticks, too, and once', async () => {
  const last = Date.now() - 5000
  const times = { nextRun: (after: Date) => (after.getTime() < last ? new Date(last) : null) }
  let noted = last - 5000
  const note = {
    get: async () => noted,
    set: async (time: number) => {
      noted = time
    },
  }
  const fired: number[] = []
  for (let turn = 0; turn < 2; turn++) {
    const ends = new AbortController()
    const end = await new Ticking(times, (time) => fired.push(time.getTime()), ends.signal, note, 'test').begin()
    ends.abort()
    await end()
  }
  assert.equal(fired, [last])
})

test('the first leader ever has missed nothing; one that cannot read what was done begins all the same', async () => {
  const failing = {
    get: async () => {
      throw new Error('no keeper')
    },
    set: async () => {
      throw new Error('no keeper')
    },
  }
  for (const note of [{ get: async () => 0, set: async () => undefined }, failing]) {
    const began = Date.now()
    const fired: number[] = []
    const ends = new AbortController()
    const end = await new Ticking(everySecond, (time) => fired.push(time.getTime()), ends.signal, note, 'test').begin()
    await until(() => fired.length > 0)
    ends.abort()
    await end()
    assert.ok(fired.every((time) => time > began))
  }
})

test("a promise that rejects is an unhandled rejection, as a Timer's, and the next tick comes", async () => {
  const reasons: unknown[] = []
  const note = (reason: unknown) => void reasons.push(reason)
  process.on('unhandledRejection', note)
  const ends = new AbortController()
  const failing = async () => {
    throw new Error('planted')
  }
  const end = await new Ticking(everySecond, failing, ends.signal, null, 'test').begin()
  await until(() => reasons.length >= 2)
  ends.abort()
  await end()
  process.off('unhandledRejection', note)
  assert.match(String(reasons[0]), /planted/)
})

test('bad rules and options are told at once', () => {
  const thrown = (rule: unknown, options: CrontabOptions = {}, callback: unknown = () => undefined) => {
    try {
      new Crontab(rule as string, callback as () => void, options)
      return 'nothing'
    } catch (error) {
      return `${codeOf(error)} ${messageOf(error)}`
    }
  }
  assert.match(thrown('61 * * * *'), /^ERR_CRONTAB_RULE crontab '61 \* \* \* \*': /)
  assert.match(thrown('often'), /^ERR_CRONTAB_RULE/)
  assert.match(thrown('0 0 30 2 *'), /^ERR_CRONTAB_RULE .*no such time/)
  assert.match(thrown('* * * * *', { timezone: 'Moon/Crater' }), /^ERR_CRONTAB_RULE/)
  assert.match(thrown('* * * * *', { singleton: true }), /^ERR_CRONTAB_OPTION .* needs a name/)
  assert.match(thrown('* * * * *', { timezone: 5 as never }), /^ERR_CRONTAB_OPTION .*Europe/)
  assert.match(thrown('* * * * *', null as never), /^ERR_BAD_OPTION/)
  assert.match(thrown('* * * * *', { missed: 'all' as 'once' }), /^ERR_CRONTAB_OPTION .*missed is 'all'/)
  assert.match(thrown('* * * * *', {}, 'now'), /^ERR_CRONTAB_OPTION/)
  assert.is(thrown('2020-12-24T09:00:00'), 'nothing') // it was a good rule on that day
  assert.is(thrown('0 12 * * 1', { timezone: 'Europe/Berlin', domAndDow: true }), 'nothing')
  for (const one of Crontab.getAll()) one.destroy()
})

test('without croner it says what to install', () => {
  const folder = mkdtempSync(join(tmpdir(), 'mr-croner-'))
  try {
    cpSync(join(root, 'dist'), join(folder, 'dist'), { recursive: true })
    const index = pathToFileURL(join(folder, 'dist/index.js')).href
    const program = `import { Crontab } from '${index}'; try { new Crontab('* * * * *', Date) } catch ({ code, message }) { console.log(code, message) }`
    const said = execFileSync(process.execPath, ['--input-type=module', '-e', program], {
      encoding: 'utf8',
      cwd: folder,
    })
    assert.match(said, /^ERR_NO_CRONER .*npm install croner/)
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
})

test.run()
