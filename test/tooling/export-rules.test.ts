// Plants exports that nobody uses and sees them named; the real tree is checked in house-rules.test.ts.

import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { inProject, script } from './support.ts'

const { checkExports } = (await script('export-rules.mjs')) as { checkExports(root: string): string[] }

async function violations(files: Record<string, string>): Promise<string[]> {
  let found: string[] = []
  await inProject(files, (directory) => {
    found = checkExports(directory)
  })
  return found
}

const shapes: [declaration: string, name: string][] = [
  ['export const a = 1', 'a'],
  ['export let a = 1', 'a'],
  ['export function a() {}', 'a'],
  ['export async function* a() {}', 'a'],
  ['export abstract class a {}', 'a'],
  ['export interface a { export: number }', 'a'],
  ['export type a = 1', 'a'],
  ['export const enum a { B }', 'a'],
  ['const b = 1\nexport { b as a }', 'a'],
  ['type b = 1\nexport type { b as a }', 'a'],
  ["export { b as a } from './b.ts'", 'a'],
]

for (const [declaration, name] of shapes) {
  test(`caught: ${declaration.replaceAll('\n', ' ')}`, async () => {
    const line = declaration.split('\n').length
    const files = { 'src/a.ts': declaration, 'src/c.ts': "import { other } from './a.ts'\nconst a = other.a" }
    assert.equal(await violations(files), [`src/a.ts:${line}: exports ${name}, which no other file uses`])
  })
}

const uses: [file: string, text: string][] = [
  ['src/b.ts', "import { a } from './a.ts'"],
  ['src/b.ts', "import { type a, c } from './a.ts'"],
  ['src/b.ts', "import type { a as b } from './a.ts'"],
  ['src/index.ts', "export { a } from './a.ts'"],
  ['src/index.ts', "export * from './a.ts'"],
  ['protocols/b.ts', "import * as all from '../src/a.ts'"],
  ['scripts/b.mjs', "const { a } = await import('../src/a.ts')"],
  ['test/b.ts', "const url = new URL('../src/a.js', import.meta.url)"],
  ['test/deep/b.ts', "import {\n  a,\n} from '../../src/a.ts'"],
]

for (const [file, text] of uses) {
  test(`a use: ${text.replaceAll('\n', ' ')}`, async () => {
    assert.equal(await violations({ 'src/a.ts': 'export const a = 1', [file]: text }), [])
  })
}

test('a file of the same name elsewhere is no use', async () => {
  const files = { 'src/a.ts': 'export const a = 1', 'test/b.ts': "import { a } from './a.ts'", 'test/a.ts': '' }
  assert.equal(await violations(files), ['src/a.ts:1: exports a, which no other file uses'])
})

test.run()
