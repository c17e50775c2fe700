// The code of protocols/README.md is what a stranger copies, so it is compiled, type-checked and run.

import { execFile } from 'node:child_process'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { promisify } from 'node:util'
import { transform } from 'esbuild'
import { test } from 'uvu'
import * as assert from 'uvu/assert'

const root = resolve('.')
const run = promisify(execFile)

/** The blocks by the file name in their first line. */
function blocks(): Map<string, string> {
  const readme = readFileSync(join(root, 'protocols/README.md'), 'utf8')
  const found = [...readme.matchAll(/^```ts\n(\/\/ (\S+)\n.*?)^```$/gms)]
  assert.is(found.length, readme.split('```ts').length - 1, 'every block of TypeScript begins with its file name')
  return new Map(found.map(([, code = '', name = '']) => [name, code]))
}

/** Runs `use` in a directory below the package, where 'millrace' resolves to it, with a file for each block. */
async function withBlocks(use: (directory: string, names: string[]) => Promise<unknown>): Promise<void> {
  mkdirSync(join(root, 'build'), { recursive: true })
  const directory = mkdtempSync(join(root, 'build/readme-'))
  try {
    const code = blocks()
    for (const [name, text] of code) writeFileSync(join(directory, name), text)
    await use(directory, [...code.keys()])
  } finally {
    rmSync(directory, { recursive: true, force: true })
  }
}

test('the code of the page has the right types', async () => {
  await withBlocks(async (directory) => {
    const config = { extends: join(root, 'tsconfig.json'), compilerOptions: { rootDir: '.' }, include: ['*.ts'] }
    writeFileSync(join(directory, 'tsconfig.json'), JSON.stringify(config))
    const tsc = join(root, 'node_modules/typescript/bin/tsc')
    const { stdout, code = 0 } = await run(process.execPath, [tsc, '-p', directory]).catch((error) => error)
    assert.is(stdout, '')
    assert.is(code, 0)
  })
})

test('the code of the page runs, and so do its tests', async () => {
  await withBlocks(async (directory, names) => {
    for (const name of names) {
      const text = readFileSync(join(directory, name), 'utf8')
      const { code } = await transform(text, { loader: 'ts', target: 'node20' })
      writeFileSync(join(directory, name.replace(/\.ts$/, '.js')), code.replaceAll(/(from "\.\/\w+)\.ts"/g, '$1.js"'))
    }
    assert.equal(names.filter((name) => name.endsWith('.test.ts')).length, 3)
    for (const name of names) {
      const { stdout } = await run(process.execPath, [join(directory, name.replace(/\.ts$/, '.js'))], {
        timeout: 20_000,
      })
      if (!name.endsWith('.test.ts')) assert.is(stdout, '', name)
      else {
        const [, total] = /Total: +(\d+)/.exec(stdout) ?? []
        const [, passed] = /Passed: +(\d+)/.exec(stdout) ?? []
        assert.ok(Number(total) > 0 && passed === total, `${name}: ${stdout}`)
      }
    }
  })
})

test.run()
