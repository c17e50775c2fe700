// Rules of the house that a machine can check: what our style and ARCHITECTURE ask of tests, sources, imports. Sources
// are read as tokens, so that a comment or a string that speaks of a rule does not break it.

import { readdirSync, readFileSync, statSync } from 'node:fs'
import { basename, join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { root, script } from './tooling/support.ts'

interface Token {
  line: number
  word?: string
  string?: string
  mark?: string
}

const { checkImports } = (await script('import-rules.mjs')) as { checkImports(root: string): string[] }
const { checkExports } = (await script('export-rules.mjs')) as { checkExports(root: string): string[] }
const { tokensOf } = (await script('imports.mjs')) as { tokensOf(text: string): Token[] }
const { filesIn } = (await script('files.mjs')) as { filesIn(directory: string): string[] }

const sources = ['src', 'protocols', 'test', 'examples', 'scripts']
  .flatMap((directory) => filesIn(directory))
  .filter((path) => /\.m?ts$|\.m?js$/.test(path))
const shipped = sources.filter((path) => /^(src|protocols)\//.test(path))
const tests = sources.filter((path) => path.startsWith('test/'))
const testFiles = tests.filter((path) => path.endsWith('.test.ts'))

function text(path: string): string {
  return readFileSync(join(root, path), 'utf8')
}

/** A source in one line of tokens with single spaces, strings emptied: what the patterns below are written for. */
function code(path: string): string {
  return spell(tokensOf(text(path)))
}

function spell(tokens: Token[]): string {
  return tokens.map(({ word, mark }) => word ?? mark ?? "''").join(' ')
}

/** `catch {}`, whatever comment stands in it, and `.catch(() => {})`. */
function emptyCatches(tokens: Token[]): string[] {
  return spell(tokens).match(/\bcatch (\( [^)]* \) )?\{ \}|\. catch \( \( \w* ?\) = > \{ \} \)/g) ?? []
}

/** The arguments of each call that matches, as the tokens between its brackets. */
function argumentsOf(tokens: Token[], isCallee: (at: number) => boolean): Token[][] {
  return tokens.flatMap(({ mark }, at) => {
    if (mark !== '(' || !isCallee(at - 1)) return []
    let depth = 1
    let end = at + 1
    for (; end < tokens.length && depth > 0; end++) {
      if (tokens[end]?.mark === '(') depth++
      if (tokens[end]?.mark === ')') depth--
    }
    return [tokens.slice(at + 1, end - 1)]
  })
}

/** Waits of a tenth of a second or more, given as a number: `setTimeout(done, 500)`, `sleep(1_000)`. */
function fixedSleeps(tokens: Token[]): string[] {
  const isSleep = (at: number) => /^(setTimeout|sleep|delay)$/.test(tokens[at]?.word ?? '')
  return argumentsOf(tokens, isSleep)
    .map(spell)
    .filter((text) => /^[\d_]{3,}\b|, [\d_]{3,}( ,)?$/.test(text))
}

/** Hooks with work in them that can fail: uvu counts no test for it. Setting variables is fine. */
function fallibleHooks(tokens: Token[]): string[] {
  const isHook = (at: number) => {
    const name = tokens[at]?.word === 'each' ? at - 2 : at
    const isNamed = tokens[name]?.word === 'before' || tokens[name]?.word === 'after'
    return isNamed && tokens[name - 2]?.word === 'test' // not the `after` of a scheduler
  }
  return argumentsOf(tokens, isHook)
    .map(spell)
    .filter((text) => /\b(async|await|import|throw|\w+Sync)\b/.test(text))
}

/** What a rule finds in each file, with the file before it. */
function offences(files: string[], rule: (tokens: Token[]) => string[]): string[] {
  return files.flatMap((path) => rule(tokensOf(text(path))).map((found) => `${path}: ${found}`))
}

test('every test file ends by running its tests', () => {
  const silent = testFiles.filter((path) => !/\. run \( \)[ })]*$/.test(code(path)))
  assert.equal(silent, [])
})

test('every suite of a test file is run', () => {
  const count = (path: string, pattern: RegExp) => [...code(path).matchAll(pattern)].length
  const forgotten = testFiles.filter((path) => count(path, /= suite (<|\()/g) > count(path, /\. run \( \)/g))
  assert.equal(forgotten, [])
})

test('hooks do no fallible work: fixtures are built inside the test', () => {
  assert.equal(offences(testFiles, fallibleHooks), [])
})

test('no test waits a fixed time: it waits for a condition, under a deadline', () => {
  assert.equal(offences(tests, fixedSleeps), [])
})

test('what registers tests is a .test.ts, and helpers are not', () => {
  const runsTests = (path: string) => /\b(test|suite) \. run \( \)/.test(code(path))
  const hidden = tests.filter((path) => !path.endsWith('.test.ts') && runsTests(path))
  assert.equal(hidden, [])
  assert.equal(
    testFiles.filter((path) => /^test\/(support|fixtures)\//.test(path)),
    [],
  )
})

test('shipped code has no any and no @ts-ignore, but where Biome was given a reason', () => {
  const bare = shipped.flatMap((path) => {
    const lines = text(path).split('\n')
    const excused = (line: number) => /biome-ignore lint\/suspicious\/noExplicitAny: \w/.test(lines[line - 2] ?? '')
    return anyTypes(tokensOf(text(path)))
      .filter(({ line }) => !excused(line))
      .map(({ line }) => `${path}:${line}`)
  })
  assert.equal(bare, [])
  assert.equal(
    shipped.filter((path) => /@ts-(ignore|nocheck)/.test(text(path))),
    [],
  )
})

/** The word `any` where a type can stand: not a member, a key, a call or a name that is declared. */
function anyTypes(tokens: Token[]): Token[] {
  return tokens.filter(({ word }, at) => {
    const before = tokens[at - 1]
    const opensType = before?.word === 'as' || before?.word === 'extends' || /^[:<,|&=]$/.test(before?.mark ?? '')
    return word === 'any' && opensType && !/^[:(.?]$/.test(tokens[at + 1]?.mark ?? '')
  })
}

test('no catch is empty: it names the errno that it ignores', () => {
  assert.equal(offences(sources, emptyCatches), [])
})

test('nothing is left to do in comments', () => {
  // Spelled in two pieces, or this line would be the first to be found.
  const marks = new RegExp(`\\b(${['TO' + 'DO', 'FIX' + 'ME', 'X' + 'XX'].join('|')})\\b`)
  const native = filesIn('native').filter((path) => /\.(cc|h|gyp)$/.test(path))
  assert.equal(
    [...sources, ...native].filter((path) => marks.test(text(path))),
    [],
  )
})

test('file names are kebab-case, and C++ ones snake_case', () => {
  const stem = (path: string) => basename(path).replace(/(\.test|\.d)?\.[a-z]+$/, '')
  assert.equal(
    sources.filter((path) => !/^[a-z0-9]+(-[a-z0-9]+)*$/.test(stem(path))),
    [],
  )
  const native = filesIn('native/src').filter((path) => /\.(cc|h)$/.test(path))
  assert.equal(
    native.filter((path) => !/^[a-z0-9]+(_[a-z0-9]+)*$/.test(stem(path))),
    [],
  )
})

test('every source opens with what it is', () => {
  const opens = /^(#!.*\n)?(\/\/|\/\*)/
  const silent = sources.filter((path) => !/^test\/(fixtures|types)\//.test(path) && !opens.test(text(path)))
  assert.equal(silent, [])
})

// Characters.
const LONGEST_COMMENT = 120

test('no line that is only a comment is longer than 120 characters', () => {
  const isLong = (line: string) =>
    line.length > LONGEST_COMMENT && /^\s*(?:\/\/|\/\*|\*)/.test(line) && !/biome-ignore|https?:/.test(line)
  const found = shipped.flatMap((path) =>
    text(path)
      .split('\n')
      .flatMap((line, at) => (isLong(line) ? [`${path}:${at + 1}`] : [])),
  )
  assert.equal(found, [])
})

test('the import rules hold', () => {
  assert.equal(checkImports(root), [])
})

test('nothing is exported that no other file uses', () => {
  assert.equal(checkExports(root), [])
})

test('no file of the repository names a directory of one machine', () => {
  const homes = ['work', 'root', 'home/[a-z]', 'Users/[A-Za-z]'].map((home) => `(?<![\\w.*])/${home}`).join('|')
  const pattern = new RegExp(`(?:${homes})\\w*/`)
  assert.equal(
    repositoryFiles().filter((path) => pattern.test(text(path))),
    [],
  )
})

/** What git would track, without asking git: a tarball of the repository has none. */
function repositoryFiles(directory = '.'): string[] {
  const skipped = /^(node_modules|dist(\.\d+)?|build(\.\d+)?|coverage|results|\.git)$/
  return readdirSync(join(root, directory))
    .filter((name) => !skipped.test(name))
    .flatMap((name) => {
      const path = join(directory, name)
      const stat = statSync(join(root, path))
      if (stat.isDirectory()) return repositoryFiles(path)
      return stat.isFile() && stat.size < 1_000_000 ? [path] : []
    })
}

/** Between processes of one server: no user's code sees them. */
const OWN_CODES = ['ERR_INHERITANCE', 'ERR_MESH_FRAME', 'ERR_MESH_HANDSHAKE', 'ERR_STRANGER']

test('every code of an error that users meet is in the table of the README', () => {
  const [, table = ''] = /^## Errors$([\s\S]*?)^## /m.exec(text('README.md')) ?? []
  const told = new Set<string>()
  let last = ''
  for (const [, word = ''] of table.matchAll(/`(ERR_[A-Z0-9_]+|_[A-Z0-9_]+)`/g)) {
    const code = word.startsWith('_') ? last.replace(/_[A-Z0-9]+$/, word) : word // `ERR_SHARED_NAME`, `_KEY`
    told.add(code)
    if (!word.startsWith('_')) last = code
  }
  const thrown = shipped.flatMap((path) =>
    [...text(path).matchAll(/\b(?:Usage|Protocol|Abort|Peer)Error\(\s*'(ERR_[A-Z0-9_]+)'/g)].map(
      ([, code = '']) => code,
    ),
  )
  assert.ok(thrown.length > 100)
  assert.equal(
    thrown.filter((code) => !told.has(code) && !OWN_CODES.includes(code)),
    [],
  )
})

test('the rules see what they are for', () => {
  for (const source of ['let a: any', 'f(a as any)', 'let a: Map<string, any>', 'const a: Set<any> = b']) {
    assert.is(anyTypes(tokensOf(source)).length, 1, source)
  }
  for (const source of ['// law: any input', 'group.any()', 'any(a)', 'const a = { any: 1 }', 'let s = ": any"']) {
    assert.is(anyTypes(tokensOf(source)).length, 0, source)
  }
  for (const source of ['try { a() } catch {}', 'try { a() } catch (e) { /* fine */ }', 'a().catch(() => {})']) {
    assert.is(emptyCatches(tokensOf(source)).length, 1, source)
  }
  assert.equal(emptyCatches(tokensOf('try { a() } catch (e) { note(e) }')), [])
  for (const source of ['await sleep(500)', 'setTimeout(done, 1_000)', 'new Promise((r) => setTimeout(r, 250))']) {
    assert.is(fixedSleeps(tokensOf(source)).length, 1, source)
  }
  for (const source of ['await sleep(20)', 'setTimeout(reject, ms)', 'setTimeout(done, 10); within(5000, a)']) {
    assert.equal(fixedSleeps(tokensOf(source)), [], source)
  }
  for (const source of ['test.before(async () => { a() })', 'test.after.each(() => { rmSync(a) })']) {
    assert.is(fallibleHooks(tokensOf(source)).length, 1, source)
  }
  const harmless = 'test.before.each(() => { clock = 0 })\ntest("a", async () => {})'
  assert.equal(fallibleHooks(tokensOf(harmless)), [])
})

test.run()
