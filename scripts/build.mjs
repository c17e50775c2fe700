// Makes dist/: the bundles, the examples one to one beside them, and the declarations. It does not check types: `npm
// run typecheck` and `npm test` do.

import { execFileSync } from 'node:child_process'
import { chmodSync, cpSync, existsSync, mkdirSync, readFileSync, rmSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { build } from 'esbuild'
import { common, oneToOne, swap } from './esbuild.mjs'
import { filesIn, root, sourcesIn } from './files.mjs'
import { importsOf } from './imports.mjs'

/**
 * Code that never meets in one process, or shares nothing there, gets a bundle of its own, so that each process loads
 * few files and none that it does not need. Code that user code may meet is in one bundle, so that every class exists
 * once.
 */
const bundles = [
  { start: 'src/start.ts' },
  { command: 'src/process/command.ts', 'run-master': 'src/process/run-master.ts' },
  { keep: 'src/process/keep.ts' },
  { index: 'src/index.ts', testing: 'src/testing.ts', demo: 'src/demo.ts', roles: 'src/process/roles.ts' },
]

const started = performance.now()
// At the same depth as dist/ itself: source maps hold relative paths.
const fresh = join(root, `dist.${process.pid}`)

try {
  const bytes = await bundle()
  await examples()
  declarations()
  checkStart()
  swap(fresh, join(root, 'dist'))
  console.log(`dist: ${Math.round(bytes / 1024)} KiB of JavaScript in ${Math.round(performance.now() - started)} ms`)
} finally {
  rmSync(fresh, { recursive: true, force: true })
}

/** All files lie in one folder: code finds start.js by a URL next to itself. */
async function bundle() {
  const outputs = await Promise.all(bundles.map(bundleOne))
  return outputs.flat().reduce((sum, bytes) => sum + bytes, 0)
}

/** @returns {Promise<number[]>} the sizes of its files */
async function bundleOne(entryPoints) {
  const { metafile } = await build({
    ...common,
    entryPoints,
    splitting: true,
    outdir: fresh,
    chunkNames: '[name]-[hash]',
    metafile: true,
    inject: [join(root, 'src/globals.ts')],
    plugins: [otherBundles(entryPoints)],
  })
  const code = Object.entries(metafile.outputs).filter(([path]) => path.endsWith('.js'))
  return code.map(([, { bytes }]) => bytes)
}

/** Leaves a dynamic import of another bundle's entry as it is. */
function otherBundles(own) {
  const others = new Map(
    bundles
      .filter((one) => one !== own)
      .flatMap((one) => Object.entries(one).map(([name, path]) => [join(root, path), name])),
  )
  return {
    name: 'other-bundles',
    setup({ onResolve }) {
      onResolve({ filter: /^\..*\.ts$/ }, ({ kind, path, resolveDir }) => {
        const name = others.get(join(resolveDir, path))
        return kind === 'dynamic-import' && name !== undefined ? { path: `./${name}.js`, external: true } : undefined
      })
    },
  }
}

/** Each example stays one file and imports 'millrace' by name, as a user's program would. Pages and data are copied. */
async function examples() {
  const sources = sourcesIn('examples')
  await build({ ...common, entryPoints: sources, outdir: fresh, outbase: '.', plugins: [oneToOne] })
  for (const path of filesIn('examples').filter((file) => !sources.includes(file))) {
    mkdirSync(dirname(join(fresh, path)), { recursive: true })
    cpSync(join(root, path), join(fresh, path))
  }
}

function declarations() {
  const tsc = join(root, 'node_modules/typescript/bin/tsc')
  execFileSync(process.execPath, [tsc, '-p', 'tsconfig.types.json', '--outDir', fresh], { cwd: root, stdio: 'inherit' })
  const wanted = new Set(['src/index.d.ts', 'src/testing.d.ts'])
  for (const path of wanted) for (const next of namedBy(path)) wanted.add(next)
  for (const path of filesIn('', fresh).filter((file) => file.endsWith('.d.ts') && !wanted.has(file)))
    for (const unused of [path, `${path}.map`]) rmSync(join(fresh, unused))
}

/** The declarations that a declaration imports. Most of ours belong to code that has no part in the public types. */
function namedBy(path) {
  const found = importsOf(readFileSync(join(fresh, path), 'utf8'))
  return found
    .filter(({ specifier }) => specifier.startsWith('.'))
    .map(({ specifier }) => join(dirname(path), specifier.replace(/\.ts$/, '.d.ts')))
}

/** The package's bin must be executable and name its interpreter. */
function checkStart() {
  const start = join(fresh, 'start.js')
  if (!existsSync(start)) return
  if (!readFileSync(start, 'utf8').startsWith('#!/usr/bin/env node\n')) {
    throw new Error("src/start.ts must begin with '#!/usr/bin/env node'")
  }
  chmodSync(start, 0o755)
}
