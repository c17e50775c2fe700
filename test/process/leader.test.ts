// `Worker.onLeader`: one process of all does the job. Every process writes what it does into one file, line by line, so the
// order in the file is the order in which it happened; a leader that began before another one had ended would show.

import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { codeOf } from '../../src/errors.ts'
import type { LeaderJob } from '../../src/process/child/candidates.ts'
import { Candidates } from '../../src/process/child/candidates.ts'
import { Worker } from '../../src/worker.ts'
import { leaving } from '../support/candidates.ts'
import { Client, inSandbox, lives, type Sandbox, succeeded, workersOf } from '../support/server.ts'
import { until } from '../support/until.ts'

interface Line {
  readonly what: string
  readonly pid: number
  readonly version: string
}

/** Two groups whose processes all stand for 'job', which ticks and takes its time to end. */
function program(box: Sandbox, version: number, more = ''): string {
  return box.file(
    'app.js',
    `
    import { appendFileSync } from 'node:fs'
    import { Timer, Worker } from 'millrace'
    const note = (what) => appendFileSync(${JSON.stringify(join(box.directory, 'job'))}, what + ' ' + process.pid + ' ${version}\\n')
    const job = (signal) => {
      note('begin')
      const id = Timer.add(0.002, () => note(signal.aborted ? 'late' : 'tick'))
      return async () => {
        Timer.del(id)
        await Timer.sleep(0.02)
        note('end')
      }
    }
    new Worker({ name: 'a', count: 2 }).onWorkerStart = () => Worker.onLeader('job', job)
    new Worker({ name: 'b', count: 2 }).onWorkerStart = () => Worker.onLeader('job', job)
    ${more}
    Worker.runAll()`,
  )
}

function lines(box: Sandbox): Line[] {
  const path = join(box.directory, 'job')
  const text = existsSync(path) ? readFileSync(path, 'utf8') : ''
  return text
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => line.split(' '))
    .map(([what = '', pid, version = '']) => ({ what, pid: Number(pid), version }))
}

/** The terms in their order; nothing of one stands after the beginning of the next. */
function terms(box: Sandbox): Line[] {
  const begun: Line[] = []
  let hasEnded = false
  for (const line of lines(box)) {
    const now = begun.at(-1)
    if (line.what === 'begin') begun.push(line)
    else assert.is(line.pid, now?.pid, `${line.what} of ${line.pid} in the time of ${now?.pid}`)
    if (line.what !== 'begin') assert.not(hasEnded && line.what !== 'end', `${line.what} after the end`)
    hasEnded = line.what === 'end'
  }
  return begun
}

/** Who leads, once it is somebody else than before and has ticked. */
function leader(box: Sandbox, before = 0): Promise<Line> {
  return until(() => {
    const last = lines(box).at(-1)
    return last?.what === 'tick' && last.pid !== before && last
  }, 20_000)
}

test('a leader is one, also through crashes, a signal and reloads; and ends with the server', async () => {
  await inSandbox(async (box) => {
    await box.start(program(box, 1))
    const first = await leader(box)
    assert.equal((await box.status()).leaders, [{ name: 'job', pid: first.pid }])
    assert.match((await box.command('status')).stdout, new RegExp(`leaders: job: [ab]:[01] pid ${first.pid}\n`))

    process.kill(first.pid, 'SIGKILL')
    const second = await leader(box, first.pid)
    process.kill(second.pid, 'SIGTERM')
    const third = await leader(box, second.pid)
    assert.ok(lines(box).some(({ what, pid }) => what === 'end' && pid === second.pid))
    assert.is(terms(box).length, 3)
    // Else a process that takes a place with the old code could lead meanwhile.
    await until(async () => workersOf(await box.status()).every(({ state }) => state === 'ready'), 20_000)

    program(box, 2)
    await box.operate({ command: 'reload' })
    const fourth = await leader(box, third.pid)
    assert.is(fourth.version, '2')
    assert.is(terms(box).length, 4, 'it went to the new code at once')
    assert.ok(workersOf(await box.status()).some(({ pid }) => pid === fourth.pid))
    await box.stop()
    assert.equal(lines(box).at(-1), { ...fourth, what: 'end' })
    assert.is(terms(box).length, 4)
    assert.not(lines(box).some(({ what }) => what === 'late'))
  })
})

test('in an upgrade a new process leads as soon as the old one does not, however long others of the old ones drain', async () => {
  await inSandbox(async (box) => {
    const [notes, release, done] = [box.file('slow', ''), join(box.directory, 'release'), join(box.directory, 'done')]
    const text = (version: number) => `
      const { existsSync } = await import('node:fs')
      const say = (what) => appendFileSync(${JSON.stringify(notes)}, what + ' ${version}\\n')
      const text = new Worker('text://127.0.0.1:0', { name: 'text', drainTimeoutMs: 60_000 })
      const exists = async (path) => {
        while (!existsSync(path)) await Timer.sleep(0.005)
      }
      text.onMessage = () => exists(${JSON.stringify(done)})
      text.onWorkerStart = () => Worker.onLeader('slow', () => {
        say('begin')
        return async () => {
          say('ends')
          await exists(${JSON.stringify(release)})
          say('end')
        }
      })`
    const module = program(box, 1, text(1))
    const slow = () => readFileSync(notes, 'utf8').trim().split('\n')
    const before = await box.start(module)
    const busy = before.groups.find(({ name }) => name === 'text')
    const first = await leader(box)
    await until(() => slow().length === 1)
    const client = await Client.connect(busy?.port ?? 0)
    client.send('x')
    await until(async () => (await box.status()).groups.some(({ workers }) => workers.some(({ work }) => work !== '')))

    program(box, 2, text(2))
    const upgrading = box.begin('upgrade', module)
    const second = await leader(box, first.pid)
    assert.is(second.version, '2')
    await until(() => slow().at(-1) === 'ends 1')
    const after = await box.status()
    assert.not.equal(after.pid, before.pid)
    assert.equal(after.leaders, [{ name: 'job', pid: second.pid }]) // the other one has a leader that has not ended yet
    writeFileSync(release, '')
    await until(() => slow().length === 4)
    assert.equal(slow(), ['begin 1', 'ends 1', 'end 1', 'begin 2'])
    assert.ok(lives(busy?.workers[0]?.pid ?? 0))
    writeFileSync(done, '')
    succeeded(await upgrading.ended)
    client.close()
    assert.is(terms(box).length, 2)
    await box.stop()
  })
})

test('a job that throws is logged and tried by another process; the worker lives', async () => {
  await inSandbox(async (box) => {
    const go = join(box.directory, 'go')
    const path = box.file(
      'app.js',
      `
      import { existsSync, writeFileSync } from 'node:fs'
      import { Worker } from 'millrace'
      const mark = ${JSON.stringify(join(box.directory, 'mark'))}
      const go = ${JSON.stringify(go)} // both stand: with one alone it is tried by that one again
      const worker = new Worker({ name: 'app', count: 2 })
      worker.onWorkerStart = () => Worker.onLeader('job', async () => {
        while (!existsSync(go)) await new Promise((resolve) => setTimeout(resolve, 5))
        if (existsSync(mark)) return console.error('worker ' + worker.id + ' does it')
        writeFileSync(mark, '')
        console.error('worker ' + worker.id + ' fails')
        throw new Error('no such luck')
      })
      Worker.runAll()`,
    )
    const before = await box.start(path)
    writeFileSync(go, '')
    await until(() => box.log().includes('does it'))
    const [, failed] = /worker (\d) fails/.exec(box.log()) ?? []
    const [, done] = /worker (\d) does it/.exec(box.log()) ?? []
    assert.not.equal(failed, done)
    assert.match(box.log(), /leader of 'job' failed: Error: no such luck/)
    assert.not.match(box.log(), /at its end/) // it is said once
    const pids = (await box.status()).groups[0]?.workers.map(({ pid }) => pid)
    assert.equal(
      pids,
      workersOf(before).map(({ pid }) => pid),
    )
    await box.stop()
  })
})

/** Candidates without a master, and what they have said to it. */
function alone(): { candidates: Candidates; said: string[] } {
  const said: string[] = []
  return { said, candidates: new Candidates(({ type, name }) => said.push(`${type} ${name}`)) }
}

test('a word of the master that comes late begins nothing', async () => {
  const tickets: number[] = []
  const candidates = new Candidates(({ type, ticket }) => type === 'stand' && tickets.push(ticket))
  const begun: string[] = []
  const job = (name: string): LeaderJob => {
    return () => void begun.push(name)
  }
  const withdraw = candidates.add('a', job('first'))
  await withdraw()
  candidates.add('a', job('second'))
  candidates.lead('a', tickets[0] ?? 0) // of the first one: it was on its way
  assert.equal(begun, [])
  candidates.lead('a', tickets[1] ?? 0)
  assert.equal(begun, ['second'])
  await leaving(candidates).left
})

test('a name that was given up may be taken again at once: the new job waits for the end of the old one', async () => {
  const said: string[] = []
  const tickets: number[] = []
  const candidates = new Candidates(({ type, ticket }) => {
    if (type === 'stand') tickets.push(ticket)
    said.push(`${type} ${tickets.indexOf(ticket)}`)
  })
  const order: string[] = []
  let release: () => void = () => undefined
  const withdraw = candidates.add('a', async () => {
    await new Promise<void>((resolve) => {
      release = resolve
    })
    order.push('first has ended')
  })
  candidates.lead('a', tickets[0] ?? 0)
  const end = withdraw()
  candidates.add('a', () => void order.push('second'))
  assert.throws(
    () => candidates.add('a', () => undefined),
    (error: unknown) => codeOf(error) === 'ERR_LEADER_NAME',
  )
  assert.equal(said, ['stand 0', 'stand 1'])
  candidates.lead('a', tickets[0] ?? 0) // a late word begins nothing
  release()
  await end
  assert.equal(said, ['stand 0', 'stand 1', 'resign 0'])
  candidates.lead('a', tickets[1] ?? 0)
  assert.equal(order, ['first has ended', 'second'])
  await leaving(candidates).left
  assert.equal(said.at(-1), 'resign 1')
})

test('a process does not leave before a job that was given up has ended', async () => {
  let release: () => void = () => undefined
  let ticket = 0
  const candidates = new Candidates((message) => {
    ticket = message.ticket
  })
  const withdraw = candidates.add(
    'a',
    () =>
      new Promise<void>((resolve) => {
        release = resolve
      }),
  )
  candidates.lead('a', ticket)
  void withdraw()
  candidates.add('a', () => undefined)
  const { held, left } = leaving(candidates)
  assert.equal(held, ['leader of a'])
  assert.is(await Promise.race([left, new Promise((resolve) => setImmediate(resolve, 'waits'))]), 'waits')
  release()
  await left
})

test('its end waits for what the job gave: a promise, a function, the promise of a function', async () => {
  const { candidates, said } = alone()
  const order: string[] = []
  const jobs: Record<string, LeaderJob> = {
    loop: async (signal) => {
      await new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason)))
    },
    stop: () => () => void order.push('stopped'),
    late: async () => async () => void order.push('stopped late'),
    broken: () => () => {
      throw new Error('this is for the log')
    },
  }
  const standing = new Map<string, number>()
  const all = new Candidates(({ type, name, ticket }) => {
    if (type === 'stand') standing.set(name, ticket)
    else order.push(`resign ${name}`)
  })
  for (const [name, job] of Object.entries(jobs)) all.add(name, job)
  for (const [name, ticket] of standing) all.lead(name, ticket)
  const { held, left } = leaving(all)
  assert.equal(held, ['leader of loop', 'leader of stop', 'leader of late', 'leader of broken'])
  await left
  assert.equal([...order].sort(), [
    'resign broken',
    'resign late',
    'resign loop',
    'resign stop',
    'stopped',
    'stopped late',
  ])
  assert.ok(order.indexOf('stopped late') < order.indexOf('resign late'))
  assert.ok(order.indexOf('stopped') < order.indexOf('resign stop'))
  all.add('too late', () => order.push('never'))
  assert.not(standing.has('too late'))
  candidates.add('one', () => undefined)
  assert.equal(said, ['stand one'])
  assert.throws(
    () => candidates.add('one', () => undefined),
    (error: unknown) => codeOf(error) === 'ERR_LEADER_NAME',
  )
})

test('bad arguments are told at once, and outside of a worker nothing happens', async () => {
  const thrown = (name: unknown, job: unknown) => {
    try {
      Worker.onLeader(name as string, job as LeaderJob)
      return ''
    } catch (error) {
      return codeOf(error)
    }
  }
  assert.is(
    thrown('', () => undefined),
    'ERR_LEADER_NAME',
  )
  assert.is(
    thrown(7, () => undefined),
    'ERR_LEADER_NAME',
  )
  assert.is(thrown('job', 'now'), 'ERR_LEADER_JOB')
  let calls = 0
  await Worker.onLeader('job', () => calls++)()
  assert.is(calls, 0)
})

test.run()
