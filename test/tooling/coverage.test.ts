// Coverage settings that can only say 100 % are the ones nobody notices (include patterns that never match what the
// source maps name). So an uncovered function is planted, and our settings, as package.json has them, must report it.

import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { build } from 'esbuild'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { inProject, node, type Outcome, root, script } from './support.ts'

const { common } = (await script('esbuild.mjs')) as { common: import('esbuild').BuildOptions }
const manifest = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { c8: Record<string, unknown> }

const used = 'export function used(a: number): number {\n  return a + 1\n}\n'
const unused = (name: string) =>
  `export function ${name}(a: number): number {\n${'  a += 1\n'.repeat(20)}  return a > 3 ? a : 0\n}\n`

/** Bundles a project as our build does, runs it under c8 with our settings, and gives what c8 says. */
async function cover(files: Record<string, string>): Promise<Outcome> {
  let outcome: Outcome | undefined
  const project = { type: 'module', c8: { ...manifest.c8, reporter: ['text'] } }
  await inProject({ 'package.json': JSON.stringify(project), ...files }, async (directory) => {
    const outdir = join(directory, 'dist')
    await build({ ...common, absWorkingDir: directory, entryPoints: ['src/index.ts'], outdir })
    outcome = await node([join(root, 'node_modules/c8/bin/c8.js'), process.execPath, 'dist/index.js'], directory)
  })
  return outcome as Outcome
}

test('a covered project passes the gate', async () => {
  const outcome = await cover({ 'src/index.ts': `${used}used(1)\n` })
  assert.is(outcome.code, 0, outcome.stdout + outcome.stderr)
  assert.match(outcome.stdout, /index\.ts +\| +100/)
})

test('a function that nothing calls is reported, in src and in protocols', async () => {
  const outcome = await cover({
    'src/index.ts': `import '../protocols/text.ts'\n${used}${unused('forgotten')}used(1)\n`,
    'protocols/text.ts': unused('left'),
  })
  assert.is(outcome.code, 1, outcome.stdout)
  assert.match(outcome.stderr + outcome.stdout, /Coverage for lines \([\d.]+%\) does not meet global threshold \(90%\)/)
  assert.match(outcome.stdout, /index\.ts +\| +\d{1,2}[.\d]* /)
  assert.match(outcome.stdout, /text\.ts +\| +\d{1,2}[.\d]* /)
})

test('a file that no test loads is reported', async () => {
  const outcome = await cover({ 'src/index.ts': `${used}used(1)\n`, 'src/alone.ts': unused('alone') })
  assert.is(outcome.code, 1, outcome.stdout)
  assert.match(outcome.stdout, /alone\.ts +\| +0 /)
})

test.run()
