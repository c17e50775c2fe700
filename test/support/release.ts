// Another version of the package, in a sandbox: what an upgrade comes to.

import { cpSync, mkdirSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { UpgradeOutcome } from '../../src/process/upgrade.ts'
import { version } from '../../src/version.ts'
import { root } from '../tooling/support.ts'
import { type Sandbox, succeeded } from './server.ts'

/**
 * Makes the package that the sandbox's modules find one of this version, and gives its start file. `change` may alter
 * what its bundle says.
 */
export function release(box: Sandbox, name: string, change = (code: string): string => code): string {
  const place = join(box.directory, 'node_modules/millrace')
  const releases = join(box.directory, 'releases', name)
  mkdirSync(join(releases, 'dist'), { recursive: true })
  for (const file of readdirSync(join(root, 'dist')).filter((file) => file.endsWith('.js'))) {
    const code = readFileSync(join(root, 'dist', file), 'utf8').replaceAll(`"${version}"`, `"${name}"`)
    writeFileSync(join(releases, 'dist', file), change(code))
  }
  for (const folder of ['native', 'prebuilds']) symlinkSync(join(root, folder), join(releases, folder))
  cpSync(join(root, 'package.json'), join(releases, 'package.json'))
  box.file('package.json', '{"type":"module"}') // else the repository's own name is nearer
  mkdirSync(join(box.directory, 'node_modules'), { recursive: true })
  rmSync(place, { force: true })
  symlinkSync(releases, place)
  return join(place, 'dist/start.js')
}

export async function upgrade(box: Sandbox, ...args: string[]): Promise<UpgradeOutcome> {
  return JSON.parse(succeeded(await box.command('upgrade', '--json', ...args)).stdout) as UpgradeOutcome
}
