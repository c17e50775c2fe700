// The test runner must fail wherever uvu would let a failure pass: each of its holes is planted and must be reported.

import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { inProject, node, type Outcome, root, script, uvu } from './support.ts'

const { processesWith } = (await script('processes.mjs')) as {
  processesWith(name: string, prefix: string): { pid: number; command: string }[]
}

const head = `import { test } from '${uvu}'\n`
const passing = `${head}test('fine', () => {})\ntest.run()\n`

// The runners here have what they are given, also where this file is run with more.
delete process.env.LONG

async function runner(files: Record<string, string>, ...args: string[]): Promise<Outcome> {
  let outcome: Outcome | undefined
  await inProject({ 'package.json': '{ "type": "module" }', ...files }, async (directory) => {
    outcome = await node([join(root, 'scripts/test.mjs'), '--dir', directory, ...args], root)
  })
  return outcome as Outcome
}

function closingLine({ stdout }: Outcome): string {
  return stdout.trimEnd().split('\n').at(-1) ?? ''
}

function assertFails(outcome: Outcome, says: RegExp): void {
  assert.is(outcome.code, 1, outcome.stdout)
  assert.match(outcome.stdout, says)
  assert.match(closingLine(outcome), /^\d+ passed, [1-9]\d* failed, \d+ skipped$/)
}

test('passing files pass, and the closing line counts them', async () => {
  const outcome = await runner({ 'a.test.js': passing, 'deep/b.test.js': passing, 'helper.js': 'throw 1' })
  assert.is(outcome.code, 0, outcome.stdout)
  assert.is(closingLine(outcome), '2 passed, 0 failed, 0 skipped')
  assert.match(outcome.stdout, /^ok .*deep\/b\.test\.js: 1 passed$/m)
})

test('a failing test fails, is counted, and is shown again at the end', async () => {
  const bad = `${head}test('bad', () => { throw new Error('planted') })\ntest.run()\n`
  const outcome = await runner({ 'a.test.js': bad, 'b.test.js': passing })
  assertFails(outcome, /FAIL .*a\.test\.js: 1 of 1 did not pass; exit code 1|FAIL .*a\.test\.js: exit code 1/)
  assert.is(closingLine(outcome), '1 passed, 1 failed, 0 skipped')
  assert.match(outcome.stdout.slice(outcome.stdout.indexOf('failures again')), /planted/)
})

const onlyAgain = `${head}import { existsSync, writeFileSync } from 'node:fs'
  const seen = new URL('seen', import.meta.url)
  test('second', () => {
    const again = existsSync(seen)
    writeFileSync(seen, '')
    if (!again) throw new Error('planted')
  })
  test.run()\n`

test('a file that passes only when run again is named, with what it printed before', async () => {
  const outcome = await runner({ 'a.test.js': onlyAgain, 'b.test.js': passing }, '--retries', '1')
  assert.is(outcome.code, 0, outcome.stdout)
  assert.is(closingLine(outcome), '2 passed, 0 failed, 0 skipped')
  assert.match(
    outcome.stdout.slice(outcome.stdout.indexOf('passed only when run again')),
    /planted[\s\S]*FAIL .*a\.test\.js/,
  )
})

test('a file that fails again fails, and nothing is run again unasked', async () => {
  const bad = `${head}test('bad', () => { throw new Error('planted') })\ntest.run()\n`
  assertFails(await runner({ 'a.test.js': bad }, '--retries', '2'), /again, alone[\s\S]*again, alone[\s\S]*FAIL/)
  const unasked = await runner({ 'a.test.js': onlyAgain })
  assertFails(unasked, /FAIL/)
  assert.not.match(unasked.stdout, /again, alone/)
})

test('a file that goes on after its last test, as a failed one may, is ended soon', async () => {
  const text = `${head}test('bad', () => { setInterval(() => {}, 1000); throw new Error('planted') })\ntest.run()\n`
  const outcome = await runner({ 'a.test.js': text }, '--linger-ms', '300')
  assertFails(outcome, /killed: still running 300 ms after its last test; 1 of 1 did not pass/)
  assert.match(outcome.stdout, /planted/)
})

test('a file without .run() fails', async () => {
  assertFails(await runner({ 'a.test.js': `${head}test('never', () => {})\n` }), /no summary/)
})

test('a file without tests fails', async () => {
  assertFails(await runner({ 'a.test.js': `${head}test.run()\n` }), /no tests ran/)
})

test('a directory without test files fails', async () => {
  assertFails(await runner({}), /no test files/)
})

for (const hook of ['before', 'after', 'before.each', 'after.each']) {
  test(`a failing ${hook} hook fails`, async () => {
    const text = `${head}test.${hook}(() => { throw new Error('hook') })\ntest('fine', () => {})\ntest.run()\n`
    assertFails(await runner({ 'a.test.js': text }), /FAIL .*a\.test\.js/)
  })
}

test('a file that exits in the middle fails', async () => {
  const text = `${head}test('gone', () => process.exit(0))\ntest.run()\n`
  assertFails(await runner({ 'a.test.js': text }), /no summary|exit code/)
})

test('a file that throws after its tests fails', async () => {
  const text = `${head}test('fine', () => {})\ntest.run()\nsetTimeout(() => { throw new Error('late') }, 50)\n`
  assertFails(await runner({ 'a.test.js': text }), /exit code/)
})

test('a file that never ends is killed, and its children with it', async () => {
  const text = `${head}
    import { spawn } from 'node:child_process'
    test('fine', () => {})
    test.run()
    setInterval(() => {}, 1000)
    spawn(process.execPath, ['-e', 'setInterval(() => {}, 1000)', 'planted-hanging'], { stdio: 'inherit' })
  `
  assertFails(await runner({ 'a.test.js': text }, '--timeout-ms', '700'), /killed: still running after 700 ms/)
  assert.equal(plantedProcesses('planted-hanging'), [])
})

test('a run past its time limit fails, with the files that were not started', async () => {
  const hanging = `${head}test('waits', () => new Promise(() => {}))\ntest.run()\nsetInterval(() => {}, 1000)\n`
  const files = { 'a.test.js': hanging, 'b.test.js': passing }
  assertFails(await runner(files, '--jobs', '1', '--limit-ms', '700'), /b\.test\.js: not started/)
})

test('a skip that was not announced fails, an announced one does not', async () => {
  const skipping = { 'a.test.js': `${head}test('fine', () => {})\ntest.skip('not now', () => {})\ntest.run()\n` }
  assertFails(await runner(skipping), /1 skipped, but 0 announced/)
  const announced = await runner(skipping, '--skips', '1')
  assert.is(announced.code, 0, announced.stdout)
  assert.is(closingLine(announced), '1 passed, 0 failed, 1 skipped')
  assertFails(await runner({ 'a.test.js': passing }, '--skips', '1'), /0 skipped, but 1 announced/)
})

test('a skip that tells what the machine lacks is counted, and needs no announcement', async () => {
  const text = `${head}test('fine', () => {})\ntest.skip('elsewhere', () => {})\ntest.run()\nprocess.once('exit', () => console.log('  Lacking a moon: 1'))\n`
  const outcome = await runner({ 'a.test.js': text })
  assert.is(outcome.code, 0, outcome.stdout)
  assert.match(outcome.stdout, /^1 skipped, since this machine lacks a moon$/m)
  assert.is(closingLine(outcome), '1 passed, 0 failed, 1 skipped')
})

test('test.only is a skip of the others', async () => {
  const text = `${head}test('left out', () => {})\ntest.only('fine', () => {})\ntest.run()\n`
  assertFails(await runner({ 'a.test.js': text }), /1 skipped, but 0 announced/)
})

test('a process left behind fails, is named, and is ended', async () => {
  const text = `${head}
    import { spawn } from 'node:child_process'
    test('fine', () => {
      const args = ['-e', 'setInterval(() => {}, 1000)', 'planted-left-over']
      spawn(process.execPath, args, { detached: true, stdio: 'ignore' }).unref()
    })
    test.run()
  `
  assertFails(await runner({ 'a.test.js': text }), /left running: .*planted-left-over \(pid \d+\)/)
  assert.equal(plantedProcesses('planted-left-over'), [])
})

test('a pattern chooses files, and one that matches none fails', async () => {
  const files = { 'timer.test.js': passing, 'text.test.js': passing }
  assert.is(closingLine(await runner(files, 'timer')), '1 passed, 0 failed, 0 skipped')
  assertFails(await runner(files, 'nothing-like-it'), /no test file matches nothing-like-it/)
})

test('what is left to the long suite is counted, and --long runs the files that have more to do there', async () => {
  const more = `// imports support/${'length'}.js
    ${head}
    test('brief', () => {})
    if (process.env.LONG === '1') test('long', () => {})
    else process.once('exit', () => console.log('  Left to the long suite: 2'))
    test.run()\n`
  const none = more.replace("test('brief', () => {})", '')
  const files = { 'a.test.js': more, 'b.test.js': none, 'c.test.js': passing }
  const brief = await runner(files)
  assert.match(brief.stdout, /^4 more tests in the long suite: npm run test:long$/m)
  assert.is(closingLine(brief), '2 passed, 0 failed, 0 skipped')
  const long = await runner(files, '--long')
  assert.not.match(long.stdout, /more tests|c\.test/)
  assert.is(closingLine(long), '3 passed, 0 failed, 0 skipped')
})

test('tests see none of our settings', async () => {
  const text = `${head}test('clean', () => { if (process.env.MILLRACE_ENGINE) throw new Error('seen') })\ntest.run()\n`
  const before = process.env.MILLRACE_ENGINE
  process.env.MILLRACE_ENGINE = 'node'
  const outcome = await runner({ 'a.test.js': text })
  if (before === undefined) delete process.env.MILLRACE_ENGINE
  assert.is(outcome.code, 0, outcome.stdout)
})

/** Those of ours that still run: they inherit the mark of the run that this file is part of, or a later one. */
function plantedProcesses(name: string): string[] {
  return processesWith('TEST_RUN_MARK', '')
    .map(({ command }) => command)
    .filter((command) => command.includes(name))
}

test.run()
