// Workerman's callbacks of the master, in processes of their own: what they are told and when, and that the server does
// not mind what they do.

import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { MasterCallbacks } from '../../src/process/master/callbacks.ts'
import type { MasterCall } from '../../src/process/messages.ts'
import { ownProgram } from '../../src/process/spawn.ts'
import { longTest } from '../support/length.ts'
import { reload } from '../support/reload.ts'
import { ask, echo, HANGS, inSandbox, portOf, type Sandbox, startFile, workersOf } from '../support/server.ts'
import { until, within } from '../support/until.ts'

/** `note(text)` in the module writes a line with the pid of its process. */
function notes(box: Sandbox, more: string): { module: string; lines(): string[] } {
  const path = join(box.directory, 'notes')
  const note = `
    const { appendFileSync } = await import('node:fs')
    const note = (text) => appendFileSync(${JSON.stringify(path)}, text + ' ' + process.pid + '\\n')`
  const lines = () => (existsSync(path) ? readFileSync(path, 'utf8').trimEnd().split('\n') : [])
  return { module: box.file('app.js', echo(2, `${note}\n${more}`)), lines }
}

/** As the master of a server has them. */
function callbacksOf(module: string): MasterCallbacks {
  const settings = { argv: [], user: '', group: '', engine: undefined }
  const code = () => ({ program: { ...ownProgram(), startFile }, modules: [module] })
  return new MasterCallbacks(
    settings,
    code,
    () => null,
    () => undefined,
  )
}

const ECHO = { name: 'echo', listen: 'text://127.0.0.1:0', nth: 0 }

const ALL = `
  Worker.onMasterReload = () => note('reload')
  Worker.onMasterStop = async () => { await new Promise((resolve) => setTimeout(resolve, 50)); note('stop') }
  Worker.onWorkerExit = ({ name, id, incarnation }, status, pid) =>
    note('exit ' + name + ' ' + status + ' ' + pid + ' as ' + id + ' ' + incarnation)
  worker.onWorkerStart = () => note('start')`

test('they are called at a reload, at each end of a worker, and last of all at a stop, in neither master nor worker', async () => {
  await inSandbox(async (box) => {
    const { module, lines } = notes(box, ALL)
    const status = await box.start(module)
    const [other, victim] = workersOf(status).map(({ pid }) => pid)
    process.kill(victim ?? 0, 'SIGKILL')
    await until(() => lines().some((line) => line.startsWith(`exit echo 9 ${victim} `)), 20_000)
    await reload(box)
    await until(() => lines().some((line) => line.startsWith(`exit echo 0 ${other} `)), 20_000)
    const before = lines()
    const at = before.findIndex((line) => line.startsWith('reload'))
    // Two at the start, one after the kill; the two of the reload come after its callback.
    assert.is(before.slice(0, at).filter((line) => line.startsWith('start')).length, 3)
    assert.is(before.slice(at).filter((line) => line.startsWith('start')).length, 2)
    const workers = new Set(before.filter((line) => line.startsWith('start')).map((line) => line.split(' ').at(-1)))
    const callers = before.filter((line) => !line.startsWith('start')).map((line) => Number(line.split(' ').at(-1)))
    assert.not(callers.some((pid) => workers.has(String(pid)) || pid === status.pid))
    await box.stop()
    const after = lines()
    assert.match(after.at(-1) ?? '', /^stop \d+$/)
    assert.is(after.filter((line) => line.startsWith('exit echo 0 ')).length, 4) // two of the reload, two of the stop
    const ended = after.flatMap((line) => / as (\d+ \d+) /.exec(line)?.[1] ?? [])
    assert.equal(ended.sort(), ['0 1', '0 2', '1 1', '1 2', '1 3'], 'ids and incarnations of those that ended')
  })
})

test("what they throw is logged, and no crash of theirs is the server's", async () => {
  await inSandbox(async (box) => {
    const { module, lines } = notes(
      box,
      `
      Worker.onMasterReload = () => { throw new Error('planted') }
      Worker.onMasterStop = () => process.abort()
      Worker.onWorkerExit = (worker, status) => { note('exit ' + status); setTimeout(() => { throw new Error('late') }); return new Promise(() => {}) }`,
    )
    const { pid } = await box.start(module)
    const { slots } = await reload(box)
    assert.equal(
      slots.map(({ result }) => result),
      ['replaced', 'replaced'],
    )
    await until(() => /\[callback\] onMasterReload: Error: planted\n/.test(box.log()))
    await until(() => lines().length >= 1 && /onWorkerExit: Error: late\n/.test(box.log()), 20_000)
    const status = await box.status()
    assert.is(status.pid, pid)
    assert.match(await ask(portOf(status), 'x'), /^x/)
    await box.stop()
    assert.match(box.log(), /onMasterStop: (signal SIGABRT|exit 134)|onWorkerExit, onMasterStop: /)
  })
})

longTest('one that hangs is ended after its time, and workers are replaced meanwhile', async () => {
  await inSandbox(async (box) => {
    const hang = `
      const { existsSync, writeFileSync } = await import('node:fs')
      Worker.onWorkerExit = (worker, status, pid) => {
        note('exit ' + pid)
        if (existsSync(process.argv[2])) return
        writeFileSync(process.argv[2], '')
        ${HANGS}
      }`
    const { module, lines } = notes(box, hang)
    const first = workersOf(await box.start(module, '--', join(box.directory, 'hung'))).map(({ pid }) => pid)
    process.kill(first[0] ?? 0, 'SIGKILL')
    await until(() => lines().length === 1, 20_000)
    process.kill(first[1] ?? 0, 'SIGKILL')
    const after = await until(async () => {
      const status = await box.status()
      return workersOf(status).every(({ incarnation, state }) => incarnation === 2 && state === 'ready') && status
    }, 20_000)
    assert.match(await ask(portOf(after), 'x'), /^x/)
    await until(() => /onWorkerExit: not settled within 10 s, its process is killed/.test(box.log()), 30_000)
    await until(() => lines().some((line) => line.startsWith(`exit ${first[1]} `)), 30_000)
    await box.stop()
  })
})

test('a reload or restart of a group that there is not, or not any more, calls none', async () => {
  await inSandbox(async (box) => {
    const { module, lines } = notes(box, `Worker.onMasterReload = () => note('reload')`)
    await box.start(module)
    const refused = async (command: 'reload' | 'restart', name: string, pattern: RegExp) => {
      const { code, stderr } = await box.command(command, name, '-q')
      assert.is(code, 2)
      assert.match(stderr, pattern)
    }
    await refused('reload', 'nosuch', /there is no group 'nosuch'/)
    const other = readFileSync(module, 'utf8').replace(
      "text://127.0.0.1:0', { name: 'echo'",
      "text://127.0.0.1:1', { name: 'other'",
    )
    writeFileSync(module, other)
    await refused('reload', 'echo', /does not declare 'echo' any more/)
    await refused('restart', 'echo', /does not declare 'echo' any more/)
    assert.equal(lines(), [])
    await box.stop()
  })
})

test('a callback that is no function is refused', async () => {
  await inSandbox(async (box) => {
    const { code, stderr } = await box.command('check', box.file('app.js', echo(1, `Worker.onMasterStop = 'x'`)))
    assert.is(code, 6)
    assert.match(stderr, /Worker\.onMasterStop is 'x': it must be a function, or null/)
  })
})

longTest(
  'a master of an earlier version, which does not say which worker has ended, calls with an id all the same',
  async () => {
    await inSandbox(async (box) => {
      const { module, lines } = notes(box, ALL)
      const callbacks = callbacksOf(module)
      callbacks.declare(['onWorkerExit'])
      const call = { name: 'onWorkerExit', group: ECHO, status: 9, pid: 7 }
      await within(20_000, callbacks.call(call as unknown as MasterCall))
      assert.match(lines()[0] ?? '', /^exit echo 9 7 as 0 0 /)
      await callbacks.settled()
    })
  },
)

test('a reload waits for its own callback, not for exits that never cease', async () => {
  await inSandbox(async (box) => {
    const begun = join(box.directory, 'begun')
    const code = `import { appendFileSync } from 'node:fs'\nappendFileSync(${JSON.stringify(begun)}, '.')`
    const module = box.file('app.mjs', code) // it is about when they are called
    const callbacks = callbacksOf(module)
    callbacks.declare(['onWorkerExit', 'onMasterReload'])
    let isOver = false
    const crashes = (async () => {
      while (!isOver) {
        void callbacks.call({ name: 'onWorkerExit', group: ECHO, id: 0, incarnation: 1, status: 0, pid: 1 })
        await new Promise((resolve) => setTimeout(resolve, 20))
      }
    })()
    try {
      await until(() => existsSync(begun), 20_000)
      await within(20_000, callbacks.call({ name: 'onMasterReload' }))
      assert.ok(readFileSync(begun, 'utf8').length > 1, 'it had a process of its own')
    } finally {
      isOver = true
      await crashes
      callbacks.kill()
      await callbacks.settled()
    }
  })
})

test.run()
