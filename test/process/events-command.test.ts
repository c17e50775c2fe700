// `millrace events`: the stream of what happens, for people and for programs.

import { mkdirSync } from 'node:fs'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { ControlServer } from '../../src/process/control/server.ts'
import { ownIdentity } from '../../src/process/identity.ts'
import { Events } from '../../src/process/status/events.ts'
import { renderEvent } from '../../src/process/terminal/event-lines.ts'
import { wordOf } from '../support/events.ts'
import { version } from '../support/reload.ts'
import { inSandbox, type Running, succeeded, workersOf } from '../support/server.ts'
import { until, within } from '../support/until.ts'

function objects({ stdout }: Running) {
  return stdout
    .split('\n')
    .slice(0, -1)
    .map((line) => JSON.parse(line))
}

test('an object a line for programs, a line for people, only what is asked for; Ctrl+C ends it with 0', async () => {
  await inSandbox(async (box) => {
    const other = `new Worker('', { name: 'other' })`
    const [worker] = workersOf(await box.start(box.file('app.js', version(1, 1, other))))
    const json = box.begin('events', '--json', '-n', '100')
    const people = box.begin('--lines=2', 'events', 'echo')
    for (const running of [json, people]) await running.says(/running.*\n/)
    assert.equal(objects(json).map(wordOf).sort(), [
      ...['ready', 'ready', 'server running', 'server starting', 'spawn', 'spawn'],
    ])
    process.kill(worker?.pid ?? 0, 'SIGKILL')
    await people.says(/ready pid/)
    box.file('app.js', version(2, 1, other))
    succeeded(await box.command('reload', 'other'))
    await json.says(/"step":"done"/)
    succeeded(await box.command('reload', 'echo'))
    await people.says(/reload echo +done in/)
    assert.match(people.stdout, /^\d\d:\d\d:\d\d echo:0 +exit pid \d+: signal SIGKILL after \d+\.\d s$/m)
    assert.match(people.stdout, /^\d\d:\d\d:\d\d echo:0 +starts again at once, failures in a row: 1$/m)
    assert.match(people.stdout, /^\d\d:\d\d:\d\d echo:0 +replaced pid \d+ by \d+$/m)
    assert.not.match(people.stdout, /other/)
    for (const running of [json, people]) {
      running.process.kill('SIGINT')
      assert.is((await within(10_000, running.ended)).code, 0)
    }
    const seqs = objects(json).map(({ seq }) => seq)
    assert.equal(
      seqs,
      seqs.map((_, place) => place + 1),
    )
    await box.stop()
  })
})

test('it ends with the server: 0 after a stop, 1 when the master was killed; a group that is not there is an error', async () => {
  await inSandbox(async (box) => {
    const module = box.file('app.js', version(1))
    const { pid } = await box.start(module)
    assert.match((await box.command('events', 'ehco')).stderr, /there is no group 'ehco'; there is: echo/)
    let following = box.begin('events', '-n', '9')
    await following.says(/running/)
    process.kill(pid, 'SIGKILL')
    const killed = await within(20_000, following.ended)
    assert.is(killed.code, 1)
    assert.match(killed.stderr, /^millrace: the master, pid \d+, ended without a stop\nnext: see millrace logs\n$/)
    await box.start(module)
    following = box.begin('events', '-n', '9')
    await following.says(/running/)
    await box.stop()
    const stopped = await within(20_000, following.ended)
    assert.is(stopped.code, 0)
    assert.match(stopped.stdout, /server +stopping\n/)
    assert.is((await box.command('events')).code, 3)
  })
})

test('a client that is stopped does not keep the server from working, nor does its memory grow', async () => {
  await inSandbox(async (box) => {
    const crash = `worker.onMessage = () => process.exit(250)`
    await box.start(box.file('app.js', version(1, 1, crash)))
    const following = box.begin('events', '--json', '-n', '9')
    await following.says(/running/)
    following.process.kill('SIGSTOP')
    box.file('app.js', version(2))
    await box.operate({ command: 'reload' })
    await box.stop()
    following.process.kill('SIGCONT')
    assert.is((await within(20_000, following.ended)).code, 0)
    assert.match(following.stdout, /"step":"done"/)
  })
})

test('who was let go for reading too slowly goes on where he was, and hears how many he has missed', async () => {
  await inSandbox(async (box) => {
    mkdirSync(box.runDir, { mode: 0o700 })
    const told = new Events()
    const tell = () => told.emit({ type: 'server', state: 'running', reason: '' })
    const done = { ok: true, ...ownIdentity(), isDaemon: false, stopTimeoutMs: 0 } as const
    const server = new ControlServer(box.runDir, told, async () => done)
    await server.listen()
    tell()
    const following = box.begin('events', '--json')
    await until(async () => {
      tell()
      return following.stdout !== ''
    }, 20_000)
    const [first] = objects(following)
    for (let n = 0; n < 250; n++) tell()
    await following.says(new RegExp(`"seq":${told.past(1)[0]?.seq},`))
    const settled = server.settled() // ends the streams
    for (let n = 0; n < 250; n++) tell() // before anybody can follow again
    await settled
    const last = told.past(1)[0]?.seq ?? 0
    await following.says(new RegExp(`"seq":${last},`))
    const [before, lost, after] = [0, 1, 2].map((place) => objects(following).at(place - 202))
    assert.equal([before.seq, lost.count, after.seq], [last - 250, 50, last - 199])
    assert.is(objects(following).length, last - first.seq + 1 - 50 + 1)
    assert.is((await following.end('SIGINT')).code, 0)
    server.close()
  })
})

test('what a name or a reason has in it does not drive the terminal', () => {
  const of = { group: 'a', worker: 'a\u001b[2J:0', pid: 7 }
  const line = renderEvent({ type: 'ready', seq: 1, time: new Date(0).toISOString(), readyMs: 3, ...of })
  assert.match(line, /^\d\d:\d\d:\d\d a\?\[2J:0 +ready pid 7 in 3 ms$/)
  const lost = renderEvent({ type: 'lost', count: 3 })
  assert.match(lost, /3 were lost/)
})

test.run()
