// Node's own modules that a process may never need, and that take a millisecond or more of its start each (crypto 4): they
// are loaded at their first use. Only what does no I/O, so that protocols may have it.

let loadedCrypto: typeof import('node:crypto') | null = null
let loadedZlib: typeof import('node:zlib') | null = null

export function crypto(): typeof import('node:crypto') {
  loadedCrypto ??= process.getBuiltinModule('node:crypto')
  return loadedCrypto
}

export function zlib(): typeof import('node:zlib') {
  loadedZlib ??= process.getBuiltinModule('node:zlib')
  return loadedZlib
}
