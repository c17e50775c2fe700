// Compiles src, protocols and test one to one into build/ for the test runner, so that tests need no loader and may
// import any file of the product. Run it directly to inspect the output.

import { mkdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { build } from 'esbuild'
import { common, oneToOne, swap } from './esbuild.mjs'
import { root, sourcesIn } from './files.mjs'

const directories = ['src', 'protocols', 'test']

/** Makes build/{src,protocols,test}. Other directories of build/ (for other Node versions) stay. */
export async function buildTests() {
  // At the same depth as build/ itself: source maps hold relative paths.
  const fresh = join(root, `build.${process.pid}`)
  try {
    await build({
      ...common,
      entryPoints: directories.flatMap(sourcesIn),
      outdir: fresh,
      outbase: '.',
      plugins: [oneToOne],
    })
    mkdirSync(join(root, 'build'), { recursive: true })
    for (const name of directories) {
      mkdirSync(join(fresh, name), { recursive: true })
      swap(join(fresh, name), join(root, 'build', name))
    }
  } finally {
    rmSync(fresh, { recursive: true, force: true })
  }
}

if (process.argv[1] === import.meta.filename) await buildTests()
