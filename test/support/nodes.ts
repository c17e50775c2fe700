// Another Node than the one at hand, from npm, as scripts/test-node.mjs has them: in build/, made once.

import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { root } from '../tooling/support.ts'

/** Of another major version than this one. */
const OTHER = process.versions.node.startsWith('24.') ? '22' : '24'

/** Its path. */
export function otherNode(): string {
  const place = join(root, 'build', `n${OTHER}`)
  const name = `node-${process.platform}-${process.arch}`
  const path = join(place, 'node_modules', name, 'bin/node')
  if (existsSync(path)) return path
  mkdirSync(place, { recursive: true })
  const quiet = ['--no-save', '--ignore-scripts', '--no-audit', '--no-fund']
  const { status, stderr } = spawnSync('npm', ['install', ...quiet, '--prefix', place, `${name}@${OTHER}`], {
    encoding: 'utf8',
    // The runner takes them from what it runs: scripts/test.mjs.
    env: { ...process.env, NODE_EXTRA_CA_CERTS: process.env.TEST_EXTRA_CA_CERTS ?? process.env.NODE_EXTRA_CA_CERTS },
  })
  if (status !== 0) throw new Error(`no other Node: ${stderr}`)
  return path
}
