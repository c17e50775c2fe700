// Finds the modules that a TypeScript source names, without a compiler (TypeScript 7 has no API for it): a scanner that
// knows comments, strings, templates and regular expressions, and on top of its tokens the few forms an import can
// have. Nothing is refused: for a text that is not TypeScript it finds too few or too many, and the compiler complains.

/**
 * A token: a word, a string literal (its text, escapes left as they are), or one character of punctuation.
 * @typedef {{ line: number, word?: string, string?: string, mark?: string }} Token
 */

/** @typedef {{ specifier: string, line: number, typeOnly: boolean, dynamic: boolean }} Found */

/**
 * All imports and re-exports of a source; dynamic ones if the specifier is a literal.
 * @param {string} text
 * @returns {Found[]}
 */
export function importsOf(text) {
  const tokens = tokensOf(text)
  return tokens.flatMap((token, at) => {
    const isMember = tokens[at - 1]?.mark === '.'
    if (isMember) return []
    if (token.word === 'import') return importAt(tokens, at)
    if (token.word === 'export') return exportAt(tokens, at)
    return []
  })
}

/** `import 'x'`, `import('x')`, `import a, { b } from 'x'`, `import type { c } from 'x'`, `import d = require('x')`. */
function importAt(tokens, at) {
  const { line } = tokens[at]
  const next = tokens[at + 1]
  if (next?.string !== undefined) return [{ specifier: next.string, line, typeOnly: false, dynamic: false }]
  if (next?.mark === '(') {
    const specifier = tokens[at + 2]?.string
    const typeOnly = tokens[at - 1]?.word === 'typeof'
    return specifier === undefined ? [] : [{ specifier, line, typeOnly, dynamic: true }]
  }
  const hasBindings = next?.word !== undefined || next?.mark === '{' || next?.mark === '*'
  if (!hasBindings) return []
  for (let i = at + 1; i < tokens.length; i++) {
    const { word, string } = tokens[i]
    if (string !== undefined) return [{ specifier: string, line, typeOnly: isTypeOnly(tokens, at), dynamic: false }]
    if (i > at + 1 && (word === 'import' || word === 'export')) return []
  }
  return []
}

/** `import type from 'x'` and `import type, { a } from 'x'` import a value called type. */
function isTypeOnly(tokens, at) {
  if (tokens[at + 1]?.word !== 'type') return false
  const after = tokens[at + 2]
  const isName = after?.mark === ',' || after?.mark === '=' || (after?.word === 'from' && tokens[at + 3]?.string)
  return !isName
}

/** `export * from 'x'`, `export { a } from 'x'`, and both with `type`. */
function exportAt(tokens, at) {
  const typeOnly = tokens[at + 1]?.word === 'type'
  const first = at + (typeOnly ? 2 : 1)
  let i = first
  if (tokens[i]?.mark === '*') {
    while (i < tokens.length && tokens[i].word !== 'from') i++
  } else if (tokens[i]?.mark === '{') {
    while (i < tokens.length && tokens[i].mark !== '}') i++
    i++
  } else return []
  const specifier = tokens[i]?.word === 'from' ? tokens[i + 1]?.string : undefined
  return specifier === undefined ? [] : [{ specifier, line: tokens[at].line, typeOnly, dynamic: false }]
}

const space = /\s+/y
const comment = /\/\/.*|\/\*[\s\S]*?(?:\*\/|$)/y
const quoted = /'((?:[^'\\\n]|\\[\s\S])*)'|"((?:[^"\\\n]|\\[\s\S])*)"/y
const word = /[\w$#\u0080-\uffff]+/y
const expression = /\/(?:[^/\\[\n]|\\.|\[(?:[^\]\\\n]|\\.)*\])+\/\w*/y
const templatePart = /(?:[^`\\$]|\\[\s\S]|\$(?!\{))*(`|\$\{)/y

/** Words after which a `/` begins a regular expression; after any other word or a closing bracket it divides. */
const beforeOperand = new Set(
  'return typeof case in of delete void throw new else do yield await instanceof'.split(' '),
)

/**
 * The tokens of a source, without comments and white space.
 * @param {string} text
 * @returns {Token[]}
 */
export function tokensOf(text) {
  /** @type {Token[]} */
  const tokens = []
  // Open braces; true for one opened by a template's `${`.
  const braces = []
  let at = 0
  let line = 1

  const take = (pattern) => {
    pattern.lastIndex = at
    const found = pattern.exec(text)
    if (found === null) return null
    at = pattern.lastIndex
    for (const _ of found[0].matchAll(/\n/g)) line++
    return found
  }
  const push = (token) => tokens.push({ line, ...token })
  /**
   * Continues after a backtick, or after the brace that ends a substitution. Returns the text if the template ends
   * there.
   */
  const template = (isStart) => {
    const start = at
    const part = take(templatePart)
    if (part === null) at = text.length
    if (part?.[1] === '${') {
      braces.push(true)
      push({ mark: '${' })
    } else push(isStart ? { string: text.slice(start, at - 1) } : { mark: 'template' })
  }

  /** Takes the token of a complete pattern that begins here, or returns null. */
  const whole = () => {
    const string = take(quoted)
    if (string) return { string: string[1] ?? string[2] }
    const name = take(word)
    if (name) return { word: name[0] }
    const isExpression = text[at] === '/' && expectsOperand(tokens.at(-1)) && take(expression)
    return isExpression ? { mark: 'regexp' } : null
  }
  const character = () => {
    const mark = text[at++]
    if (mark === '`') return template(true)
    if (mark === '}' && braces.pop()) return template(false)
    if (mark === '{') braces.push(false)
    push({ mark })
  }

  while (at < text.length) {
    if (take(space) || take(comment)) continue
    const token = whole()
    if (token === null) character()
    else push(token)
  }
  return tokens
}

/** @param {Token | undefined} last */
function expectsOperand(last) {
  if (last === undefined) return true
  if (last.word !== undefined) return beforeOperand.has(last.word)
  return last.string === undefined && ![')', ']', '}', 'regexp', 'template'].includes(last.mark ?? '')
}
