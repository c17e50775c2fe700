// Where the files are that processes of ours begin with.

import { existsSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

let start = ''

/** What every process begins with. It stays where it was first seen, also when it is taken away. */
export function startFile(): string {
  start ||= own('start.js')
  return start
}

/** What user code imports by the package's name. */
export function indexFile(): string {
  return own('index.js')
}

/** Beside the bundle's chunks, one folder up from here in the tests' build. */
function own(name: string): string {
  const beside = fileURLToPath(new URL(`./${name}`, import.meta.url))
  return existsSync(beside) ? beside : fileURLToPath(new URL(`../${name}`, import.meta.url))
}
