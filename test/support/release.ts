// Another version of the package in a sandbox, as the target of an upgrade.

import { mkdirSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import * as assert from 'uvu/assert'
import type { Status } from '../../src/process/status/status.ts'
import type { UpgradeOutcome } from '../../src/process/upgrade/upgrade.ts'
import { version } from '../../src/version.ts'
import { root } from '../tooling/support.ts'
import { Load } from './load/load.ts'
import { textClient } from './load/text-client.ts'
import { version as programOf } from './reload.ts'
import { type Outcome, portOf, type Sandbox, succeeded, workersOf } from './server.ts'
import { until } from './until.ts'

/**
 * Makes the sandbox's modules find a package of this version. Returns its start file. `change` may alter the code of
 * its bundle.
 */
export function release(box: Sandbox, name: string, change = (code: string): string => code): string {
  const place = join(box.directory, 'node_modules/millrace')
  const releases = join(box.directory, 'releases', name)
  packageAt(releases, name, change)
  box.file('package.json', '{"type":"module"}') // otherwise the repository's own name is nearer
  mkdirSync(join(box.directory, 'node_modules'), { recursive: true })
  rmSync(place, { force: true })
  symlinkSync(releases, place)
  return join(place, 'dist/start.js')
}

/** Makes a folder a copy of the package, of this version. `change` may alter the code of its bundle. */
export function packageAt(folder: string, name: string, change = (code: string): string => code): void {
  mkdirSync(join(folder, 'dist'), { recursive: true })
  for (const file of readdirSync(join(root, 'dist')).filter((file) => file.endsWith('.js'))) {
    const code = readFileSync(join(root, 'dist', file), 'utf8').replaceAll(`"${version}"`, `"${name}"`)
    writeFileSync(join(folder, 'dist', file), change(code))
  }
  for (const place of ['native', 'prebuilds']) symlinkSync(join(root, place), join(folder, place))
  const about = readFileSync(join(root, 'package.json'), 'utf8').replace(
    `"version": "${version}"`,
    `"version": "${name}"`,
  )
  writeFileSync(join(folder, 'package.json'), about)
}

export async function upgrade(box: Sandbox, ...args: string[]): Promise<UpgradeOutcome> {
  return JSON.parse(succeeded(await box.command('upgrade', '--json', ...args)).stdout) as UpgradeOutcome
}

/** Deadline for a busy machine. */
const SLOW_MS = 20_000
/** Used by every server here. */
export const quick = 'worker.drainTimeoutMs = 500'

/** Runs `use` on a server under load, which must not notice. `use` receives the server's status from before it. */
export async function unnoticed(box: Sandbox, more: string, use: (before: Status) => unknown): Promise<void> {
  const module = box.file('app.js', programOf(1, 2, `${quick}\n${more}`))
  const before = await box.start(module)
  const port = portOf(before)
  const load = new Load()
  const tally = load.add('text', 6, textClient({ port, thinkMs: () => 15 }))
  load.add('text', 2, textClient({ port, thinkMs: () => 15, answersPerConnection: 1 }))
  try {
    await until(() => tally.answered > 20, SLOW_MS)
    await use(before)
    const { answered } = tally
    await until(() => tally.answered > answered + 20, SLOW_MS)
  } finally {
    await load.end()
  }
  assert.equal(load.lost, [])
}

/** Lock, pid file, control socket and processes are the same as before; commands work, and so does an upgrade. */
export async function staysAsItWas(box: Sandbox, { pid }: Status): Promise<void> {
  await until(() => box.pids().length === 3, SLOW_MS)
  const after = await box.status()
  assert.is(after.pid, pid)
  assert.is(readFileSync(join(box.runDir, 'millrace.pid'), 'utf8'), `${pid}\n`)
  assert.is(JSON.parse(readFileSync(join(box.runDir, 'lock'), 'utf8')).pid, pid)
  assert.equal(readdirSync(box.runDir).sort(), ['control.sock', 'lock', 'millrace.log', 'millrace.pid', 'workers.json'])
  const recorded: { pid: number }[] = JSON.parse(readFileSync(join(box.runDir, 'workers.json'), 'utf8'))
  assert.equal(
    recorded.map((one) => one.pid).sort(),
    workersOf(after)
      .map((one) => one.pid)
      .sort(),
  )
}

export function failed({ code, stderr }: Outcome, reason: RegExp, exitCode = 1): void {
  assert.match(stderr, reason)
  assert.is(code, exitCode)
}

/** For an object literal in a modified release: evaluating it kills the process. */
export const KILL = '...process.kill(process.pid, "SIGKILL")'
