// What the two builds share: the settings of esbuild, and the swap of a finished directory into its place.

import { readdirSync, readFileSync, renameSync, rmSync } from 'node:fs'
import { join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'

/** The repository's root: scripts work from any directory. */
export const root = fileURLToPath(new URL('..', import.meta.url))

const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))

/** @type {import('esbuild').BuildOptions} */
export const common = {
  absWorkingDir: root,
  bundle: true,
  format: 'esm',
  platform: 'node',
  target: 'node20.19',
  packages: 'external',
  // Off, so that coverage sees the functions that nothing calls.
  treeShaking: false,
  sourcemap: true,
  sourcesContent: false,
  define: { __VERSION__: JSON.stringify(version) },
  logLevel: 'warning',
}

/**
 * Leaves relative imports as they are, `.ts` becoming `.js`: each source gets an output of its own.
 * @type {import('esbuild').Plugin}
 */
export const oneToOne = {
  name: 'one-to-one',
  setup(build) {
    build.onResolve({ filter: /^\.\.?\/.*\.ts$/ }, (args) =>
      args.kind === 'entry-point' ? undefined : { path: args.path.replace(/\.ts$/, '.js'), external: true },
    )
  },
}

/**
 * Paths, relative to the root, of all TypeScript sources below a directory; none where it does not exist.
 * @param {string} directory
 * @returns {string[]}
 */
export function sourcesIn(directory) {
  return filesIn(directory).filter((path) => path.endsWith('.ts') && !path.endsWith('.d.ts'))
}

/**
 * Paths, relative to the root, of all files below a directory, in order.
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

/**
 * Puts a finished directory in the place of an old one. Two renames, so a server or a test that runs from the old one
 * meets a hole of microseconds, not of the whole build. Another build may be doing the same: the last one wins.
 * @param {string} fresh
 * @param {string} place
 */
export function swap(fresh, place) {
  const old = `${fresh}.old`
  for (let attempt = 0; attempt < 10; attempt++) {
    if (rename(place, old) !== 'ENOENT') rmSync(old, { recursive: true, force: true })
    if (rename(fresh, place) === '') return
  }
  throw new Error(`could not put ${fresh} in the place of ${place}`)
}

/** The errno's name where another build got in between, else an empty string. */
function rename(from, to) {
  try {
    renameSync(from, to)
    return ''
  } catch (error) {
    if (['ENOENT', 'ENOTEMPTY', 'EEXIST'].includes(error.code)) return error.code
    throw error
  }
}
