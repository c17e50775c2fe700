// A terminal that takes nothing any more: Ctrl+S was typed, or the network behind an ssh hangs. A server in the
// foreground goes on.

import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { longTest } from '../support/length.ts'
import { ask, echo, inSandbox, portOf, type Running, type Sandbox, startFile, workersOf } from '../support/server.ts'
import { until, within } from '../support/until.ts'

const XON = '\x11'
const XOFF = '\x13'
const RACE_MS = 20_000

/** `start` on a terminal of its own, whose keys are the standard input. */
async function startOnTerminal(box: Sandbox, module: string, ...args: string[]): Promise<Running> {
  const command = [process.execPath, startFile, 'start', module, ...args].map((arg) => `'${arg}'`).join(' ')
  const terminal = box.spawn('script', ['-qec', command, '/dev/null'], { stdio: ['pipe', 'pipe', 'pipe'] })
  await terminal.says(/Press Ctrl\+C/)
  return terminal
}

async function replace(box: Sandbox, place: number): Promise<number> {
  const pid = workersOf(await box.status())[place]?.pid ?? 0
  process.kill(pid, 'SIGKILL')
  await until(async () => {
    const worker = workersOf(await box.status())[place]
    return worker?.incarnation === 2 && worker.state === 'ready'
  }, RACE_MS)
  return pid
}

test('Ctrl+S at the terminal of a server: it answers, replaces its workers and ends; Ctrl+Q shows what happened', async () => {
  await inSandbox(async (box) => {
    const terminal = await startOnTerminal(box, box.file('app.js', echo(2)))
    terminal.process.stdin?.write(XOFF) // nothing tells that it has been taken: that is quicker than all below
    const killed = [await replace(box, 0), await replace(box, 1)]
    assert.match(await ask(portOf(await box.status()), 'hello'), /^hello /)
    terminal.process.stdin?.write(XON)
    await terminal.says(new RegExp(`pid ${killed[0]}: signal SIGKILL[^]*pid ${killed[1]}: signal SIGKILL`))
    terminal.process.stdin?.write(XOFF)
    await box.stop()
    assert.is((await within(RACE_MS, terminal.ended)).code, 0)
  })
})

/** Each message is a megabyte of log. */
const CHATTY = `worker.onMessage = (connection, line) => {
  for (let n = 0; n < 16; n++) Worker.log(line + ' ' + n + ' ' + 'x'.repeat(65_000))
  connection.send(line)
}`

for (const args of [
  ['--log-format', 'json'],
  ['--log-file', 'log-file'],
]) {
  longTest(
    `a terminal that stops reading costs lines, which are counted, and stops no worker (${args[0]})`,
    async () => {
      await inSandbox(async (box) => {
        const where = args.map((arg) => (arg === 'log-file' ? join(box.directory, arg) : arg))
        const terminal = await startOnTerminal(box, box.file('app.js', echo(1, CHATTY)), ...where)
        const port = portOf(await box.status())
        terminal.process.kill('SIGSTOP')
        for (let n = 0; n < 8; n++) assert.is(await ask(port, `flood${n}`), `flood${n}`)
        terminal.process.kill('SIGCONT')
        await terminal.says(/flood0 15 x+/)
        await until(async () => {
          await ask(port, 'more')
          return /\d{6,} bytes of log were lost/.test(terminal.stdout)
        }, RACE_MS)
        await box.stop()
        assert.is((await within(RACE_MS, terminal.ended)).code, 0)
      })
    },
  )
}

test.run()
