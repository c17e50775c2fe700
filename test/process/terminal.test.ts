// Who looks at a terminal sees colours and a line that moves; who reads a pipe sees plain text.

import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { LiveLine } from '../../src/process/commands/progress.ts'
import { paintFor } from '../../src/process/terminal/style.ts'
import { version } from '../support/reload.ts'
import { inSandbox, type Sandbox, startFile, succeeded } from '../support/server.ts'
import { until, within } from '../support/until.ts'

/** What a command shows on a terminal of its own, both streams. */
async function onTerminal(box: Sandbox, ...args: string[]): Promise<string> {
  const command = [process.execPath, startFile, ...args].map((arg) => `'${arg}'`).join(' ')
  const env = { TERM: 'xterm', ...box.env }
  const running = box.spawn('script', ['-qec', command, '/dev/null'], { env })
  return visible(succeeded(await within(30_000, running.ended)).stdout)
}

function visible(text: string): string {
  return text.replaceAll('\x1b', 'ESC')
}

test('status is coloured on a terminal, with FORCE_COLOR, and not with NO_COLOR or in a pipe', async () => {
  await inSandbox(async (box) => {
    box.env.NO_COLOR = box.env.FORCE_COLOR = undefined
    await box.start(box.file('app.js', version(1)))
    assert.match(await onTerminal(box, 'status'), /ESC\[3[23]m\[(idle|busy)\]ESC\[39m/)
    assert.not.match(visible(succeeded(await box.command('status')).stdout), /ESC/)
    box.env.NO_COLOR = '1'
    assert.not.match(await onTerminal(box, 'status'), /ESC/)
    box.env.NO_COLOR = undefined
    box.env.FORCE_COLOR = '1'
    assert.match(visible(succeeded(await box.command('status')).stdout), /ESC\[3[23]m\[(idle|busy)\]/)
    assert.match(
      visible((await box.command('scale', 'x', '2')).stderr),
      /^ESC\[31mmillrace:ESC\[39m there is no group 'x'/m,
    )
    const json = visible(succeeded(await box.command('status', '--json')).stdout)
    assert.not.match(json, /ESC/)
    await box.stop()
  })
})

test('a reload moves a line on a terminal, prints lines elsewhere, and nothing with -q or --json', async () => {
  await inSandbox(async (box) => {
    await box.start(box.file('app.js', version(1, 2)))
    const shown = await onTerminal(box, 'reload')
    assert.match(shown, /\rESC\[2Kreload: 1 of 2, .*\d s/)
    assert.match(shown, /\rESC\[2Kworker +result/) // the line is gone before the receipt comes
    box.env.TERM = 'dumb'
    assert.not.match(await onTerminal(box, 'reload'), /ESC/)
    const piped = visible(succeeded(await box.command('reload')).stderr)
    assert.match(piped, /^reload: begins\necho:0: replaced pid \d+ by \d+\n/)
    assert.match(piped, /^echo:1: exit pid \d+: exit 0 \(ended\) after /m)
    assert.not.match(piped, /ESC/)
    const quiet = succeeded(await box.command('-q', 'reload'))
    assert.is(quiet.stdout + quiet.stderr, '')
    assert.is(succeeded(await box.command('reload', '--json')).stderr, '')
    await box.stop()
  })
})

test('a server whose terminal closes stops in order: exit code 0, its workers too, and nothing is left', async () => {
  await inSandbox(async (box) => {
    const [file, code] = [join(box.directory, 'app.log'), join(box.directory, 'code')]
    const module = box.file('app.js', version(1, 2))
    const server = `'${process.execPath}' '${startFile}' start '${module}' --log-file '${file}'`
    // It outlives the terminal, to tell, and passes on what the kernel tells it alone.
    const shell = `${server} & p=$!; trap 'kill -HUP $p' HUP; wait $p; wait $p; echo $? > '${code}'`
    const terminal = box.spawn('script', ['-qec', shell, '/dev/null'], { env: { ...box.env, TERM: 'xterm' } })
    await terminal.says(/Press Ctrl\+C/)
    const events = box.begin('events', '--json', '-n', '9')
    await events.says(/"state":"running"/)
    terminal.process.kill('SIGKILL')
    await until(() => existsSync(code) && readFileSync(code, 'utf8').endsWith('\n'), 20_000)
    assert.is(readFileSync(code, 'utf8'), '0\n')
    const words = (await events.ended).stdout.match(/"word":"[^"]*"/g)
    assert.equal(words, ['"word":"exit 0 (ended)"', '"word":"exit 0 (ended)"'])
    assert.equal(box.pids(), [])
  })
})

test('which colours: FORCE_COLOR, else NO_COLOR, else what the stream is', () => {
  const isColoured = (env: NodeJS.ProcessEnv, isTTY: boolean) => paintFor({ isTTY }, env)('good', 'x') !== 'x'
  assert.ok(isColoured({ TERM: 'xterm' }, true))
  assert.not(isColoured({ TERM: 'dumb' }, true))
  assert.not(isColoured({ TERM: 'xterm' }, false))
  assert.not(isColoured({ NO_COLOR: '1' }, true))
  assert.ok(isColoured({ NO_COLOR: '' }, true))
  assert.ok(isColoured({ FORCE_COLOR: '1', NO_COLOR: '1' }, false))
  assert.ok(isColoured({ FORCE_COLOR: '' }, false))
  assert.not(isColoured({ FORCE_COLOR: '0' }, true))
})

test('the line tells slots done, processes leaving and seconds, within the width', () => {
  const written: string[] = []
  const line = new LiveLine({ columns: 20, write: (text: string) => written.push(text) > 0 })
  const about = { type: 'operation', operation: 'reload', groups: ['b'], seq: 1, time: '' } as const
  const of = { group: 'b', worker: 'b:0', pid: 7, seq: 2, time: '' }
  line.tell({ ...about, step: 'begin' })
  line.tell({ ...about, step: 'slots', count: 3 })
  line.tell({ type: 'leave', windowMs: 5, ...of })
  assert.is(written.at(-1), '\r\x1b[2Kreload b: 0 of 3, 1')
  line.tell({ type: 'exit', word: '', reason: '', aliveMs: 1, isExpected: true, wasKilled: false, ...of })
  assert.is(written.at(-1), '\r\x1b[2Kreload b: 0 of 3, 0')
  const receipt = { readyMs: 1, drainMs: 1, discarded: 0, note: '', ...of, operation: 'restart' } as const
  line.tell({ type: 'slot', ...receipt, result: 'replaced', oldPid: 7, newPid: 0 })
  assert.match(written.at(-1) ?? '', / 0 of 3,/) // it has left, and the next one is not there yet
  line.tell({ type: 'slot', ...receipt, result: 'added', oldPid: 0, newPid: 8 })
  assert.match(written.at(-1) ?? '', / 1 of 3,/)
  line.end()
  assert.is(written.at(-1), '\r\x1b[2K')
})

test.run()
