// Makes dist/: the bundle in one esbuild call (one call, so that entries share chunks and every class exists once),
// the examples one to one beside it, the declarations. It does not check types: `npm run typecheck` and `npm test` do.

import { execFileSync } from 'node:child_process'
import { chmodSync, cpSync, existsSync, mkdirSync, readFileSync, rmSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { build } from 'esbuild'
import { common, filesIn, oneToOne, root, sourcesIn, swap } from './esbuild.mjs'

const started = performance.now()
// As deep as dist/ itself: source maps hold relative paths.
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

/** Chunks lie flat beside the entries: code finds start.js by URL next to itself. */
async function bundle() {
  const wanted = ['index', 'start', 'testing', 'demo']
  const entries = wanted.filter((name) => existsSync(join(root, `src/${name}.ts`)))
  if (entries.length < wanted.length) console.log(`not there yet: ${wanted.filter((name) => !entries.includes(name))}`)
  const { metafile } = await build({
    ...common,
    entryPoints: Object.fromEntries(entries.map((name) => [name, `src/${name}.ts`])),
    splitting: true,
    outdir: fresh,
    chunkNames: '[name]-[hash]',
    metafile: true,
  })
  const code = Object.entries(metafile.outputs).filter(([path]) => path.endsWith('.js'))
  return code.reduce((sum, [, output]) => sum + output.bytes, 0)
}

/** Each example stays one file, and imports 'millrace' by its name as a user would. Pages and data are copied. */
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
