// Decides which values JSON represents exactly as a structured clone would, in a fifth of the time v8's format takes:
// small objects and lists of text, finite numbers and the like, which most messages are.

import { isProxy } from 'node:util/types'

/** Above this, v8's format is faster. */
const MOST_CHARS = 2048
/**
 * Limit of objects and lists, each compared with all before it: two that are identical must be identical at the other
 * end too.
 */
const MOST_OBJECTS = 16
const MOST_KEYS = 64
/** Below this length a loop is faster than a regular expression. */
const LOOP_BELOW = 24
/** What JSON escapes. A pair of surrogates is not escaped, a single one is. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: JSON escapes these
const ESCAPED = /["\\\u0000-\u001f]|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/

const seen: unknown[] = new Array(MOST_OBJECTS).fill(null)
let objects = 0
let keys = 0
let chars = 0
let isBusy = false

/**
 * The JSON from which `JSON.parse` makes what `structuredClone(value)` is, or null if there is none. Every value is
 * read once and no getter is called: an object with one goes in v8's format, since a second reading may find something
 * else. Not so a list whose item is a getter: to look for one at each place would take as long as all the rest. It is
 * called, and again if the value turns out to need v8's format. **Cost**: bounded, and about that of `JSON.stringify`.
 */
export function plainText(value: object): string | null {
  if (isBusy) return null // called by a getter of a list that is being read
  isBusy = true
  objects = keys = chars = 0
  try {
    return textOfObject(value)
  } catch {
    return null // a getter of a list has thrown; v8's format calls it again and reports that
  } finally {
    for (let at = 0; at < objects; at++) seen[at] = null
    isBusy = false
  }
}

function textOf(value: unknown): string | null {
  if (typeof value === 'string') {
    chars += value.length
    return chars <= MOST_CHARS ? quoted(value) : null
  }
  if (typeof value === 'number') return Number.isFinite(value) && !Object.is(value, -0) ? `${value}` : null
  if (value === null) return 'null'
  if (typeof value === 'object') return textOfObject(value)
  if (typeof value === 'boolean') return value ? 'true' : 'false'
  return null
}

function quoted(text: string): string {
  const isClean = text.length < LOOP_BELOW ? isShortAndClean(text) : !ESCAPED.test(text)
  return isClean ? `"${text}"` : JSON.stringify(text)
}

function isShortAndClean(text: string): boolean {
  for (let at = 0; at < text.length; at++) {
    const code = text.charCodeAt(at)
    if (code > 0x7f) return !ESCAPED.test(text)
    if (code < 0x20 || code === 0x22 || code === 0x5c) return false
  }
  return true
}

function textOfObject(value: object): string | null {
  if (objects === MOST_OBJECTS || isProxy(value)) return null // v8's format refuses it
  for (let at = 0; at < objects; at++) if (seen[at] === value) return null
  seen[objects++] = value
  const prototype = Object.getPrototypeOf(value)
  if (prototype === Object.prototype) return textOfProperties(value)
  return prototype === Array.prototype && Array.isArray(value) ? textOfList(value) : null
}

/** Inherited properties have no descriptor here: if somebody has added to Object.prototype, v8's format is used. */
function textOfProperties(value: object): string | null {
  if (Symbol.iterator in value) return null // `arguments`, which are not cloned
  let text = ''
  for (const key in value) {
    chars += key.length
    const property = Object.getOwnPropertyDescriptor(value, key)
    if (++keys > MOST_KEYS || property === undefined || property.get !== undefined) return null
    const item = textOf(property.value)
    if (item === null) return null
    text += text === '' ? `{${quoted(key)}:${item}` : `,${quoted(key)}:${item}`
  }
  return text === '' ? '{}' : `${text}}`
}

/** A hole reads as undefined, which is not plain. The list must have no properties but its items. */
function textOfList(list: readonly unknown[]): string | null {
  keys += list.length
  if (keys > MOST_KEYS || Object.keys(list).length !== list.length) return null
  let text = ''
  for (let at = 0; at < list.length; at++) {
    const item = textOf(list[at])
    if (item === null) return null
    text += at === 0 ? item : `,${item}`
  }
  return `[${text}]`
}
