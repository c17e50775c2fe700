// Output that goes nowhere: a closed pipe, a closed descriptor, a full disk. A server goes on without it.

import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { atLength, caseTest } from '../support/length.ts'
import { ask, echo, inSandbox, portOf, type Running, type Sandbox, succeeded, workersOf } from '../support/server.ts'
import { until } from '../support/until.ts'

/** Prints at its top level, at its start and with each message, in both ways, on both streams. */
const chatty = `
  const say = (text) => {
    console.log(text); console.error(text); process.stdout.write(text + '\\n'); process.stderr.write(text + '\\n')
  }
  say('top level')
  worker.onWorkerStart = () => say('started')
  worker.onMessage = (connection, line) => { for (let n = 0; n < 100; n++) say(line); connection.send(line) }`

/** Serves, survives a crash of a worker, and stops; then exit code 0. */
async function goesOn(box: Sandbox, server: Running | null): Promise<void> {
  const status = await until(() => box.status().catch(() => null), 20_000)
  await until(async () => workersOf(await box.status())[1]?.state === 'ready', 20_000)
  for (const line of ['one', 'two', 'three']) assert.is(await ask(portOf(await box.status()), line), line)
  process.kill(workersOf(await box.status())[0]?.pid ?? 0, 'SIGKILL')
  await until(async () => {
    const [worker] = workersOf(await box.status())
    return worker?.incarnation === 2 && worker.state === 'ready'
  }, 20_000)
  assert.is(await ask(portOf(await box.status()), 'four'), 'four')
  const after = await box.status()
  assert.equal(
    workersOf(after).map(({ incarnation }) => incarnation),
    [2, 1],
  )
  assert.is(after.pid, status.pid)
  await box.stop()
  if (server !== null) assert.is((await server.ended).code, 0, server.stderr)
}

const SHELL: [string, string][] = [
  ['whose reader has left (start | head -1)', '{ "$@"; echo "code $?" >&3; } 3>&2 | head -1'],
  ['that is closed', '"$@" >&-'],
  ['that is full', '"$@" >/dev/full'],
]

for (const [at, [what, line]] of SHELL.entries()) {
  caseTest(at === 0)(`a server in the foreground goes on with a stdout ${what}`, async () => {
    await inSandbox(async (box) => {
      const module = box.file('app.js', echo(2, chatty))
      await goesOn(box, box.spawn('sh', ['-c', line, 'sh', process.execPath, 'dist/start.js', 'start', module]))
    })
  })
}

test('a server in the foreground goes on with stdout and stderr both full, or both closed', async () => {
  await inSandbox(async (box) => {
    const module = box.file('app.js', echo(2, chatty))
    for (const line of ['"$@" >&- 2>&- <&-', '"$@" >/dev/full 2>&1'].slice(0, atLength(1, 2))) {
      await goesOn(box, box.spawn('sh', ['-c', line, 'sh', process.execPath, 'dist/start.js', 'start', module]))
      await until(() => box.pids().length === 0)
    }
  })
})

test('a daemon goes on with a log and an output file on a full disk', async () => {
  await inSandbox(async (box) => {
    const files = ['--log-file', '/dev/full', '--stdout-file', '/dev/full']
    succeeded(await box.command('start', '-d', box.file('app.js', echo(2, chatty)), ...files))
    await goesOn(box, null)
  })
})

test('a daemon started from a pipe does not hold it open', async () => {
  await inSandbox(async (box) => {
    const module = box.file('app.js', echo(2, chatty))
    const start = ['-c', '"$@" | cat', 'sh', process.execPath, 'dist/start.js', 'start', '-d', module]
    assert.match(succeeded(await box.spawn('sh', start).ended).stdout, /\[OK\]/)
    await box.stop()
  })
})

test('a log line says when, who and what', async () => {
  await inSandbox(async (box) => {
    const status = await box.start(
      box.file('app.js', echo(1, `worker.onWorkerStart = () => Worker.log('up and away')`)),
    )
    const pid = workersOf(status)[0]?.pid
    assert.match(
      box.log(),
      new RegExp(`^\\d{4}-\\d\\d-\\d\\d \\d\\d:\\d\\d:\\d\\d pid:${pid} \\[echo:0\\] up and away$`, 'm'),
    )
    await box.stop()
  })
})

test.run()
