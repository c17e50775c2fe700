// Where the file is that every process of ours begins with.

import { existsSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

/** `start.js`: beside the bundle's chunks, one folder up from here in the tests' build. */
export function startFile(): string {
  const beside = fileURLToPath(new URL('./start.js', import.meta.url))
  return existsSync(beside) ? beside : fileURLToPath(new URL('../start.js', import.meta.url))
}
