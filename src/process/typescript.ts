// TypeScript modules: Node runs them by stripping their types (22.18 and 23.6 on), or it does not, and then its error
// is about file extensions. What to do about it is said here.

import { codeOf, messageOf } from '../errors.ts'

const COMPILE = 'compile it first (tsc, esbuild), or start with a loader: node --import tsx'
const flags = process.allowedNodeEnvironmentFlags
// Node 26 has it no more.
const TRANSFORM = flags.has('--experimental-transform-types') ? ', or node --experimental-transform-types' : ''

/** What to throw when a module could not be imported: the error itself, or one whose message and stack have a hint. */
export function explainImport(error: unknown): unknown {
  const hint = hintFor(codeOf(error), messageOf(error))
  if (hint === '') return error
  const explained = new Error(`${messageOf(error)}\n${hint}`, { cause: error })
  // Node's own stack begins with the file, the line and what is wrong in it; its frames are all Node's.
  const [place = ''] = (error instanceof Error ? (error.stack ?? '') : '').split('\n    at ')
  explained.stack = `${place || messageOf(error)}\n${hint}`
  return explained
}

function hintFor(code: string, message: string): string {
  switch (code) {
    case 'ERR_UNKNOWN_FILE_EXTENSION':
      return hintForExtension(/"\.([cm]?ts|tsx)"/.exec(message)?.[1])
    case 'ERR_NO_TYPESCRIPT':
      return `this Node was built without TypeScript: ${COMPILE}`
    case 'ERR_UNSUPPORTED_TYPESCRIPT_SYNTAX':
      return `Node only strips types; an enum, a namespace with code or a parameter property becomes code: ${COMPILE}${TRANSFORM}`
    case 'ERR_UNSUPPORTED_NODE_MODULES_TYPE_STRIPPING':
      return 'Node strips no types below node_modules: that package must be compiled'
    default:
      return ''
  }
}

function hintForExtension(extension: string | undefined): string {
  if (extension === undefined) return '' // some other kind of file
  const { node } = process.versions
  if (extension === 'tsx') return `Node strips types, but does not compile JSX: ${COMPILE}`
  if (flags.has('--strip-types')) return `type stripping is switched off in this Node ${node}: ${COMPILE}`
  return `Node ${node} does not run TypeScript: use Node 22.18 or later, ${COMPILE}`
}
