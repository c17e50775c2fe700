// Plants a violation of every import rule and sees it named; the real tree is checked in house-rules.test.ts.

import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { inProject, script } from './support.ts'

type Found = { specifier: string; typeOnly: boolean; dynamic: boolean }
const { checkImports } = (await script('import-rules.mjs')) as { checkImports(root: string): string[] }
const { importsOf } = (await script('imports.mjs')) as { importsOf(text: string): Found[] }

const manifest = JSON.stringify({ name: 'millrace', devDependencies: { uvu: '*', '@some/thing': '*' } })

async function violations(files: Record<string, string>): Promise<string[]> {
  let found: string[] = []
  await inProject({ 'package.json': manifest, ...files }, (directory) => {
    found = checkImports(directory)
  })
  return found
}

const clean: Record<string, string> = {
  'src/index.ts': "export * from './worker.ts'\nimport '../protocols/text.ts'",
  'src/worker.ts': "import './connection.ts'\nimport './process/master.ts'\nimport './net/node-engine.ts'",
  'src/connection.ts': "import './transport.ts'\nimport './loop/timer.ts'",
  'src/transport.ts': "import type { Connection } from './connection.ts'",
  'src/addon.ts': "import { createRequire } from 'node:module'\ncreateRequire('x')('./millrace.node')",
  'src/loop/timer.ts': "import '../errors.ts'\nimport './wheel.ts'",
  'src/net/address.ts': "import '../errors.ts'",
  'src/process/master.ts': "import './handle.ts'\nimport '../net/address.ts'\nimport 'node:net'",
  'protocols/text.ts': "import '../src/protocol.ts'\nimport '../src/options.ts'\nimport 'node:zlib'",
  'protocols/http/codec.ts':
    "import './head.ts'\nimport '../websocket/codec.ts'\nimport '../../src/signing.ts'\nimport 'node:crypto'",
  'test/text.test.ts': "import 'uvu/assert'\nimport '@some/thing/x'\nimport 'millrace/testing'",
  'examples/echo.ts': "import 'millrace'\nimport 'node:fs'",
}

const planted: [title: string, file: string, text: string, says: RegExp][] = [
  ['a protocol that opens sockets', 'protocols/text.ts', "import net from 'node:net'", /imports node:net: a protocol/],
  ['a protocol with a timer', 'protocols/text.ts', "import '../src/loop/timer.ts'", /loop\/timer.ts: a protocol/],
  ['a protocol on its sibling', 'protocols/text.ts', "import './frame.ts'", /imports protocols\/frame.ts/],
  ['a folder on its sibling', 'protocols/mqtt/a.ts', "import '../http/b.ts'", /imports protocols\/http\/b.ts/],
  [
    'a connection on an engine',
    'src/connection.ts',
    "import type { E } from './net/node-engine.ts'",
    /never an engine/,
  ],
  ['a part of it on an engine', 'src/connection/a.ts', "import '../net/node-engine.ts'", /never an engine/],
  ['a part of it on its owner', 'src/connection/a.ts', "import '../worker/gate.ts'", /never an engine/],
  ['the loop on the log', 'src/loop/timer.ts', "import '../log.ts'", /src\/loop imports nothing of ours/],
  ['the master on Worker', 'src/process/master.ts', "import type { W } from '../worker.ts'", /sees a Group/],
  ['the master on Connection', 'src/process/master.ts', "import '../connection.ts'", /sees a Group/],
  ['the master on a client', 'src/process/master/a.ts', "import '../../client/b.ts'", /sees a Group/],
  ['the master on an engine', 'src/process/a.ts', "import '../net/native-engine.ts'", /sees a Group/],
  ['src on a protocol', 'src/worker.ts', "import { text } from '../protocols/text.ts'", /only src\/index.ts imports/],
  ['src on a package', 'src/log.ts', "import 'uvu'", /no dependency/],
  ['src on a builtin without node:', 'src/log.ts', "import 'fs'", /write node:fs/],
  ['src on a test', 'src/log.ts', "import '../test/support/a.ts'", /imports only src, protocols/],
  ['an undeclared package', 'test/a.test.ts', "import 'left-pad/x'", /package.json does not declare/],
  ['an undeclared scope', 'test/a.test.ts', "await import('@some/other')", /package.json does not declare/],
  ['a second loader of .node', 'src/net/native.ts', "load('./millrace.node')", /only src\/addon.ts loads/],
  ['a second loader by dlopen', 'src/net/native.ts', 'process.dlopen(module, path)', /only src\/addon.ts loads/],
  ['an example on our insides', 'examples/echo.ts', "import '../src/worker.ts'", /what a user can/],
]

test('a tree that keeps to the rules has no violations', async () => {
  assert.equal(await violations(clean), [])
})

for (const [title, file, text, says] of planted) {
  test(`caught: ${title}`, async () => {
    const found = await violations({ ...clean, [file]: text })
    assert.ok(
      found.some((line) => line.startsWith(file) && says.test(line)),
      found.join('\n') || 'nothing was found',
    )
  })
}

test('a cycle of value imports is caught and named once', async () => {
  const found = await violations({
    'src/a.ts': "import './b.ts'",
    'src/b.ts': "export { c } from './c.ts'",
    'src/c.ts': "import { type T } from './a.ts'",
  })
  assert.equal(found, ['src/a.ts: import cycle: src/a.ts -> src/b.ts -> src/c.ts -> src/a.ts'])
})

test('type imports and dynamic imports close no cycle', async () => {
  const files = { 'src/a.ts': "import './b.ts'\nimport './c.ts'", 'src/b.ts': "import type { A } from './a.ts'" }
  assert.equal(await violations({ ...files, 'src/c.ts': "await import('./a.ts')" }), [])
})

test('every shape of an import is read', () => {
  const shapes: [text: string, specifier: string, typeOnly: boolean, dynamic: boolean][] = [
    ["import 'x'", 'x', false, false],
    ["import a, { b as c } from 'x'", 'x', false, false],
    ["import * as a from 'x'", 'x', false, false],
    ["import\n  type\n  { a } from 'x'", 'x', true, false],
    ["import type a from 'x'", 'x', true, false],
    ["import type from 'x'", 'x', false, false],
    ["import type, { a } from 'x'", 'x', false, false],
    ["import { type a } from 'x'", 'x', false, false],
    ["import a = require('x')", 'x', false, false],
    ['export * from "x"', 'x', false, false],
    ["export * as a from 'x'", 'x', false, false],
    ["export { a, type b } from 'x'", 'x', false, false],
    ["export type { a } from 'x'", 'x', true, false],
    ["const a = await import('x')", 'x', false, true],
    ['const a = await import(`x`)', 'x', false, true],
    ["type A = typeof import('x')", 'x', true, true],
    // biome-ignore lint/suspicious/noTemplateCurlyInString: it is the source that is read
    ["const a = `${ /}`/.test(b) ? '' : import('x') }`", 'x', false, true],
  ]
  for (const [text, specifier, typeOnly, dynamic] of shapes) {
    assert.equal(importsOf(text), [{ specifier, line: 1, typeOnly, dynamic }], text)
  }
})

test('what only looks like an import is not one', () => {
  const texts = [
    "// import 'x'",
    "/* import a\n from 'x' */",
    `const a = "import 'x'"`,
    "const a = `\n import 'x'\n`",
    "const a = /import 'x'/",
    "const a = { import: 'x', export: 'x' }",
    "a.import('x')",
    "const a = import.meta.resolve('x')",
    "export const from = 'x'",
    "export { a }\nconst from = 'x'",
    'import(a)',
  ]
  for (const text of texts) assert.equal(importsOf(text), [], text)
})

test.run()
