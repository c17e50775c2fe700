// Shared by the two builds: esbuild's settings, and the swap of a finished directory into its place.

import { readFileSync, renameSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { root } from './files.mjs'

const { version, engines } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))

/** @type {import('esbuild').BuildOptions} */
export const common = {
  absWorkingDir: root,
  bundle: true,
  format: 'esm',
  platform: 'node',
  target: 'node20.19',
  packages: 'external',
  // Off, so that coverage includes functions that nothing calls.
  treeShaking: false,
  sourcemap: true,
  sourcesContent: false,
  define: { __VERSION__: JSON.stringify(version), __NODE__: JSON.stringify(engines.node) },
  logLevel: 'warning',
}

/**
 * Leaves relative imports as they are, except that `.ts` becomes `.js`: each source gets its own output.
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
 * Replaces a directory by a finished one. Two renames, so a server or a test running from the old one finds it missing
 * for microseconds, not for the whole build. If another build does the same, the last one wins.
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

/** Returns the errno's name if another build got in between, else an empty string. */
function rename(from, to) {
  try {
    renameSync(from, to)
    return ''
  } catch (error) {
    if (['ENOENT', 'ENOTEMPTY', 'EEXIST'].includes(error.code)) return error.code
    throw error
  }
}
