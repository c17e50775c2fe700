// Paths of our files that processes start with.

import { existsSync } from 'node:fs'
import { dirname, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'

let start = ''

/** The file every process starts with. Remembered once found, so that it stays the same even if it is deleted. */
export function startFile(): string {
  start ||= own('start.js')
  return start
}

/** The module used if no file is named. */
export function demoFile(): string {
  return resolve(dirname(startFile()), 'demo.js')
}

/** What user code gets when it imports the package. */
export function indexFile(): string {
  return own('index.js')
}

/** Beside the bundle's chunks, or one folder up in the tests' build. */
function own(name: string): string {
  const beside = fileURLToPath(new URL(`./${name}`, import.meta.url))
  return existsSync(beside) ? beside : fileURLToPath(new URL(`../${name}`, import.meta.url))
}
