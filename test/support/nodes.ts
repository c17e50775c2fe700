// Another version of Node, from npm, as in scripts/test-node.mjs: in build/, installed once.

import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { root } from '../tooling/support.ts'

/** Another major version than the current one. */
const OTHER = process.versions.node.startsWith('24.') ? '22' : '24'

/** The path of its executable. */
export function otherNode(): string {
  const place = join(root, 'build', `n${OTHER}`)
  const name = `node-${process.platform}-${process.arch}`
  const path = join(place, 'node_modules', name, 'bin/node')
  if (existsSync(path)) return path
  mkdirSync(place, { recursive: true })
  const quiet = ['--no-save', '--ignore-scripts', '--no-audit', '--no-fund']
  const { status, stderr } = spawnSync('npm', ['install', ...quiet, '--prefix', place, `${name}@${OTHER}`], {
    encoding: 'utf8',
    // The runner removes them from the environment of tests: scripts/test.mjs.
    env: { ...process.env, NODE_EXTRA_CA_CERTS: process.env.TEST_EXTRA_CA_CERTS ?? process.env.NODE_EXTRA_CA_CERTS },
  })
  if (status !== 0) throw new Error(`no other Node: ${stderr}`)
  return path
}
