// Node's own modules that a process may never need, and that take a millisecond or more of its start each (crypto 4): they
// are loaded at their first use. Only what does no I/O, so that protocols may have it.

let loadedCrypto: typeof import('node:crypto') | null = null
let loadedV8: typeof import('node:v8') | null = null
let loadedZlib: typeof import('node:zlib') | null = null

export function crypto(): typeof import('node:crypto') {
  loadedCrypto ??= process.getBuiltinModule('node:crypto')
  return loadedCrypto
}

export function v8(): typeof import('node:v8') {
  loadedV8 ??= process.getBuiltinModule('node:v8')
  return loadedV8
}

export function zlib(): typeof import('node:zlib') {
  loadedZlib ??= process.getBuiltinModule('node:zlib')
  return loadedZlib
}

/**
 * What Buffer has in every Node that we know, and its documentation has not: `toString` and `write` after they have looked at their
 * arguments, which costs as much as the rest where a text is short.
 */
export type QuickBuffer = Buffer & {
  latin1Slice(start: number, end: number): string
  utf8Slice(start: number, end: number): string
  /** How many bytes. */
  utf8Write(text: string, at: number): number
}
