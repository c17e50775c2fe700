// Where the repository is, and which files it has.

import { readdirSync } from 'node:fs'
import { join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'

/** The root of the repository: scripts work from any directory. */
export const root = fileURLToPath(new URL('..', import.meta.url))

/**
 * Paths, relative to the root, of all TypeScript sources below a directory; none if it does not exist.
 * @param {string} directory
 * @returns {string[]}
 */
export function sourcesIn(directory) {
  return filesIn(directory).filter((path) => path.endsWith('.ts') && !path.endsWith('.d.ts'))
}

/**
 * Sorted paths, relative to the root, of all files below a directory.
 * @param {string} directory
 * @param {string} [top] another root
 * @returns {string[]}
 */
export function filesIn(directory, top = root) {
  try {
    return readdirSync(join(top, directory), { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isFile())
      .map((entry) => relative(top, join(entry.parentPath, entry.name)))
      .sort()
  } catch (error) {
    if (error.code === 'ENOENT') return []
    throw error
  }
}
