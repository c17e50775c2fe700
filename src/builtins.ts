// Node modules that a process may never need and that each take a millisecond or more of its start (crypto 4): loaded
// on first use. Only modules without I/O, so that protocols may use them.

import { constants } from 'node:buffer'

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

/** What the longest Buffer holds. */
export const MAX_BUFFER_BYTES = constants.MAX_LENGTH

/**
 * Methods that Buffer has in every Node version we know, though undocumented: `toString` and `write` without their
 * argument checks, which cost as much as the rest for short texts.
 */
export type QuickBuffer = Buffer & {
  latin1Slice(start: number, end: number): string
  utf8Slice(start: number, end: number): string
  /** Returns how many bytes were written. */
  utf8Write(text: string, at: number): number
}
