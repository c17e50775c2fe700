// TypeScript modules: Node runs them by stripping their types (22.18 and 23.6 on), or it does not, and then its error
// is about file extensions. What to do about it is said here.

import { codeOf, messageOf } from '../errors.ts'

const HINTS: Record<string, string> = {
  ERR_UNKNOWN_FILE_EXTENSION: `Node ${process.versions.node} does not run TypeScript: use Node 22.18 or later, compile it first (tsc, esbuild), or start with a loader: node --import tsx`,
  ERR_NO_TYPESCRIPT: 'this Node was built without TypeScript: compile it first (tsc, esbuild)',
  ERR_UNSUPPORTED_TYPESCRIPT_SYNTAX:
    'Node only strips types: enum, namespace and parameter properties need a compiler (tsc, esbuild) or node --experimental-transform-types',
  ERR_UNSUPPORTED_NODE_MODULES_TYPE_STRIPPING: 'Node strips no types below node_modules: that package must be compiled',
}

/** What to throw when a module could not be imported: the error itself, or one that has a hint. */
export function explainImport(error: unknown): unknown {
  const hint = HINTS[codeOf(error)]
  const isTypeScript = /\.[cm]?tsx?\b/.test(messageOf(error))
  if (hint === undefined || (codeOf(error) === 'ERR_UNKNOWN_FILE_EXTENSION' && !isTypeScript)) return error
  return new Error(`${messageOf(error)}\n${hint}`, { cause: error })
}
