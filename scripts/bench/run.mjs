// Dispatches benchmarks: `npm run bench -- timer` runs scripts/bench/timer.mjs; further arguments are passed on to it.

import { spawnSync } from 'node:child_process'
import { readdirSync } from 'node:fs'
import { join } from 'node:path'

const directory = import.meta.dirname
const self = 'run'
const known = readdirSync(directory)
  .filter((file) => file.endsWith('.mjs') && file !== `${self}.mjs`)
  .map((file) => file.slice(0, -'.mjs'.length))
  .sort()

const [name, ...args] = process.argv.slice(2)
if (name === undefined || !known.includes(name)) {
  console.error(name === undefined ? 'which benchmark?' : `no benchmark '${name}'`)
  console.error(`usage: npm run bench -- <name> [arguments]\nknown: ${known.join(', ') || 'none yet'}`)
  process.exit(2)
}
const { status, error } = spawnSync(process.execPath, [join(directory, `${name}.mjs`), ...args], { stdio: 'inherit' })
if (error) throw error
process.exit(status ?? 1)
