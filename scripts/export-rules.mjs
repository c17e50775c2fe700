// Every export of src/ and protocols/ must be used by another file of src, protocols, scripts or test. An unused `export`
// suggests that something may not be changed, and keeps the linter from noticing that it is dead. Exports are read from
// the text, as imports are.
//
//   node scripts/export-rules.mjs [root]     one line per violation, exit code 1 if there is any

import { readFileSync } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import { filesIn, root as ourRoot } from './files.mjs'
import { tokensOf } from './imports.mjs'

/** @typedef {import('./imports.mjs').Token} Token */
/** @typedef {{ name: string, line: number }} Export */
/** @typedef {{ target: string, names: string[] | null }} Use `names`: null for all, which a dynamic import may take */

/** The files that users import according to package.json, and the one that esbuild puts into every bundle. */
const entries = new Set(['src/index.ts', 'src/testing.ts', 'src/globals.ts'])
const declarations = new Set(['function', 'class', 'const', 'let', 'interface', 'type', 'enum', 'namespace'])
const modifiers = new Set(['async', 'abstract', 'declare'])

/** How a built program, or one written by a test, names a file: which of its exports are used is not examined. */
const BUILT = /^(?:.*\/)?((?:src|protocols)\/[\w/.-]+)\.js$/

/**
 * Checks the tree below a root. Returns one line of text per violation.
 * @param {string} root
 * @returns {string[]}
 */
export function checkExports(root) {
  const sources = ['src', 'protocols', 'test', 'scripts']
    .flatMap((directory) => filesIn(directory, root))
    .filter((file) => /\.[cm]?[jt]s$/.test(file))
    .map((file) => ({ file, tokens: tokensOf(readFileSync(join(root, file), 'utf8')) }))
  const used = usedNames(sources)
  return sources
    .filter(({ file }) => /^(src|protocols)\//.test(file) && !entries.has(file))
    .flatMap(({ file, tokens }) =>
      exportsOf(tokens)
        .filter(({ name }) => used.get(file) !== null && used.get(file)?.has(name) !== true)
        .map(({ name, line }) => `${file}:${line}: exports ${name}, which no other file uses`),
    )
}

/**
 * The names that other files import from each file; null for all.
 * @param {{ file: string, tokens: Token[] }[]} sources
 * @returns {Map<string, Set<string> | null>}
 */
function usedNames(sources) {
  const used = new Map()
  const use = (path, names) => {
    if (names === null || used.get(path) === null) used.set(path, null)
    else used.set(path, new Set([...(used.get(path) ?? []), ...names]))
  }
  for (const { file, tokens } of sources) {
    for (const { target, names } of usesOf(tokens)) use(join(dirname(file), target), names)
    for (const { string = '' } of tokens) if (BUILT.test(string)) use(string.replace(BUILT, '$1.ts'), null)
  }
  return used
}

/**
 * What a source exports by name; without what `export *` passes on, and without a default.
 * @param {Token[]} tokens
 * @returns {Export[]}
 */
function exportsOf(tokens) {
  return tokens.flatMap(({ word, line }, at) => {
    if (word !== 'export' || isMember(tokens, at)) return []
    const first = tokens[at + 1]?.word === 'type' && tokens[at + 2]?.mark === '{' ? at + 2 : at + 1
    if (tokens[first]?.mark === '{') return listAt(tokens, first).map((words) => ({ name: words.at(-1) ?? '', line }))
    const name = declaredAt(tokens, first)
    return name === undefined ? [] : [{ name, line }]
  })
}

/** The name of a declaration, after `async`, `const enum` or `function*`. */
function declaredAt(tokens, first) {
  let at = first
  while (modifiers.has(tokens[at]?.word)) at++
  if (!declarations.has(tokens[at]?.word)) return undefined
  at++
  if (tokens[at]?.word === 'enum' || tokens[at]?.mark === '*') at++
  return tokens[at]?.word
}

/**
 * What a source uses of others: imports, dynamic imports, and re-exports.
 * @param {Token[]} tokens
 * @returns {Use[]}
 */
function usesOf(tokens) {
  return tokens.flatMap(({ word }, at) => {
    if ((word !== 'import' && word !== 'export') || isMember(tokens, at)) return []
    const isCall = word === 'import' && tokens[at + 1]?.mark === '('
    const target = isCall ? tokens[at + 2]?.string : tokens[fromAt(tokens, at)]?.string
    if (target === undefined || !target.startsWith('.')) return []
    return [{ target, names: isCall ? null : namesAt(tokens, at) }]
  })
}

/** The position of the specifier of an import or re-export; -1 if the statement has none. */
function fromAt(tokens, at) {
  if (tokens[at + 1]?.string !== undefined) return at + 1
  const isList = ({ word, mark }) => word !== undefined || ['{', '}', ',', '*'].includes(mark ?? '')
  for (let i = at + 1; i < tokens.length && isList(tokens[i]); i++)
    if (tokens[i].word === 'from' && tokens[i + 1]?.string !== undefined) return i + 1
  return -1
}

/** The names between `import` and `from`; null for `*`. */
function namesAt(tokens, at) {
  for (let i = at + 1; tokens[i]?.string === undefined; i++) {
    if (tokens[i].mark === '*') return null
    if (tokens[i].mark === '{') return listAt(tokens, i).map(([name]) => name ?? '')
  }
  return []
}

/** The items between braces, each as its words: `type a as b` is `a`, `as`, `b`. */
function listAt(tokens, open) {
  const items = [[]]
  for (let i = open + 1; i < tokens.length && tokens[i].mark !== '}'; i++) {
    if (tokens[i].mark === ',') items.push([])
    else items.at(-1)?.push(tokens[i].word)
  }
  const named = items.map((words) =>
    words[0] === 'type' && words.length > 1 && words[1] !== 'as' ? words.slice(1) : words,
  )
  return named.filter((words) => words.length > 0)
}

function isMember(tokens, at) {
  return tokens[at - 1]?.mark === '.'
}

if (process.argv[1] === import.meta.filename) {
  const violations = checkExports(resolve(process.argv[2] ?? ourRoot))
  for (const violation of violations) console.log(violation)
  process.exitCode = violations.length > 0 ? 1 : 0
}
