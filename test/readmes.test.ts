// The code of the READMEs is what a stranger copies, so it is compiled and type-checked; that of protocols/README.md,
// whose blocks are whole files, also runs.

import { execFile } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { promisify } from 'node:util'
import { transform } from 'esbuild'
import * as millrace from 'millrace'
import { test } from 'uvu'
import * as assert from 'uvu/assert'

const root = resolve('.')
const run = promisify(execFile)

/** What fragments leave out, as their text says. */
const LEFT_OUT = `
import type { Worker } from 'millrace'
declare global {
  interface Session { user: string; seen?: number }
  interface Row { id: number }
  const worker: Worker
  const tasks: Worker
  const id: string, ip: string, message: string
  const session: Session, before: Session, after: Session
  const image: Uint8Array
  function backUp(): Promise<void>
  function book(order: unknown): void
  function resize(image: unknown, signal: AbortSignal): Promise<Uint8Array>
  function sendMail(mail: unknown): void
  function sendMails(): void
  function show(...values: unknown[]): void
  function tellEveryoneHere(subject: string, text: unknown): void
}
`

function codeOf(readme: string): { readonly code: string; readonly line: number }[] {
  const text = readFileSync(join(root, readme), 'utf8')
  return [...text.matchAll(/^```ts\n(.*?)^```$/gms)].map(({ 1: code = '', index }) => ({
    code,
    line: text.slice(0, index).split('\n').length,
  }))
}

/** The blocks of protocols/README.md by the file name in their first line. */
function files(): Map<string, string> {
  return new Map(
    codeOf('protocols/README.md').map(({ code, line }) => {
      const [, name] = /^\/\/ (\S+)\n/.exec(code) ?? []
      assert.ok(name, `the block of line ${line} begins with its file name`)
      return [name as string, code]
    }),
  )
}

/** The blocks of all other READMEs, which may leave out their import, and names that speak for themselves. */
function fragments(): Map<string, string> {
  const folders = readdirSync(join(root, 'src')).map((name) => join('src', name, 'README.md'))
  const readmes = ['README.md', ...folders.filter((path) => existsSync(join(root, path)))]
  const blocks = readmes.flatMap((readme) =>
    codeOf(readme).map(({ code, line }): [string, string] => [
      `${readme.replaceAll(/\W/g, '-')}-line-${line}.ts`,
      code.includes(`from 'millrace'`) ? code : `${importFor(code)}\n${code}`,
    ]),
  )
  return new Map([...blocks, ['left-out.d.ts', LEFT_OUT]])
}

function importFor(code: string): string {
  const names = Object.keys(millrace).filter((name) => new RegExp(`\\b${name}\\b`).test(code))
  return `import { ${names.join(', ')} } from 'millrace'`
}

/** Runs `use` in a directory below the package, where 'millrace' resolves to it, with these files. */
async function withFiles(texts: Map<string, string>, use: (directory: string) => Promise<unknown>): Promise<void> {
  mkdirSync(join(root, 'build'), { recursive: true })
  const directory = mkdtempSync(join(root, 'build/readme-'))
  try {
    for (const [name, text] of texts) writeFileSync(join(directory, name), text)
    await use(directory)
  } finally {
    rmSync(directory, { recursive: true, force: true })
  }
}

test('the code of all pages has the right types', async () => {
  const blocks = new Map([...files(), ...fragments()])
  assert.ok(blocks.size > 25, `${blocks.size}`)
  await withFiles(blocks, async (directory) => {
    const config = { extends: join(root, 'tsconfig.json'), compilerOptions: { rootDir: '.' }, include: ['*.ts'] }
    writeFileSync(join(directory, 'tsconfig.json'), JSON.stringify(config))
    const tsc = join(root, 'node_modules/typescript/bin/tsc')
    const { stdout, code = 0 } = await run(process.execPath, [tsc, '-p', directory]).catch((error) => error)
    assert.is(stdout, '')
    assert.is(code, 0)
  })
})

test('the code of protocols/README.md runs, and so do its tests', async () => {
  const names = [...files().keys()]
  await withFiles(files(), async (directory) => {
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
