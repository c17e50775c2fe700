// Hints for a module that could not be imported. Usually it is TypeScript: Node runs it by stripping types (from 22.18
// and 23.6 on), or else reports an error about file extensions. Or it is an ES module where a package.json says
// "commonjs", as `npm init` writes it.

import { codeOf, messageOf } from '../../errors.ts'

const COMPILE = 'compile it first (tsc, esbuild), or start with a loader: node --import tsx'

/**
 * What to throw for a module that could not be imported: the error itself, or one whose message and stack contain a
 * hint.
 */
export function explainImport(error: unknown): unknown {
  // Node's own stack begins with file, line and problem; all of its frames are Node's.
  const [place = ''] = (error instanceof Error ? (error.stack ?? '') : '').split('\n    at ')
  const hint = hintFor(codeOf(error), messageOf(error)) || hintForRequired(error, place) || hintForCommonJs(error)
  if (hint === '') return error
  const explained = new Error(`${messageOf(error)}\n${hint}`, { cause: error })
  explained.stack = `${place || messageOf(error)}\n${hint}`
  return explained
}

function hintFor(code: string, message: string): string {
  switch (code) {
    case 'ERR_MODULE_NOT_FOUND':
    case 'MODULE_NOT_FOUND':
      return /^Cannot find \w+ 'millrace'/.test(message) ? 'npm install millrace, or npm link millrace' : ''
    case 'ERR_UNKNOWN_FILE_EXTENSION':
      return hintForExtension(/"\.([cm]?ts|tsx)"/.exec(message)?.[1])
    case 'ERR_NO_TYPESCRIPT':
      return `this Node was built without TypeScript: ${COMPILE}`
    case 'ERR_UNSUPPORTED_TYPESCRIPT_SYNTAX':
      return `Node only strips types; an enum, a namespace with code or a parameter property becomes code: ${COMPILE}${transform()}`
    case 'ERR_UNSUPPORTED_NODE_MODULES_TYPE_STRIPPING':
      return 'Node strips no types below node_modules: that package must be compiled'
    default:
      return ''
  }
}

/** Removed in Node 26. */
function transform(): string {
  const flag = '--experimental-transform-types'
  return process.allowedNodeEnvironmentFlags.has(flag) ? `, or node ${flag}` : ''
}

function hintForExtension(extension: string | undefined): string {
  if (extension === undefined) return '' // some other kind of file
  const { node } = process.versions
  if (extension === 'tsx') return `Node does not compile JSX: ${COMPILE}`
  if (canStrip(node)) return `type stripping is switched off in this Node ${node}: ${COMPILE}`
  return `Node ${node} does not run TypeScript: use Node 22.18 or later, ${COMPILE}`
}

/** require() treats an unknown extension as JavaScript, so a type is a syntax error. */
function hintForRequired(error: unknown, place: string): string {
  const extension = /^\S.*\.([cm]?ts):\d+\n/.exec(place)?.[1]
  const isRead = Boolean((process.features as { typescript?: unknown }).typescript)
  return error instanceof SyntaxError && !isRead ? hintForExtension(extension) : ''
}

function hintForCommonJs(error: unknown): string {
  const isRead =
    error instanceof SyntaxError && /^(?:Cannot use import statement|Unexpected token 'export')/.test(error.message)
  return isRead ? 'Node reads it as CommonJS: npm pkg set type=module (in package.json), or name it .mjs' : ''
}

/** Whether this version strips types, unless a flag forbids it. */
function canStrip(version: string): boolean {
  const [major = 0, minor = 0] = version.split('.').map(Number)
  return major > 23 || (major === 23 && minor >= 6) || (major === 22 && minor >= 18)
}
