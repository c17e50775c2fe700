// Which module may import which (the layers and invariants of ARCHITECTURE.md), checked on the text of the sources. A
// bundler's graph would not do: it drops `import type`, and a layer that knows another's types depends on it. Only the
// rule against cycles considers value imports alone, since only these exist at run time.
//
//   node scripts/import-rules.mjs [root]     one line per violation, exit code 1 if there is any

import { readFileSync } from 'node:fs'
import { builtinModules } from 'node:module'
import { dirname, join, resolve } from 'node:path'
import { filesIn, root as ourRoot } from './files.mjs'
import { importsOf, tokensOf } from './imports.mjs'

/** @typedef {{ file: string, line: number, target: string, isOurs: boolean, typeOnly: boolean, dynamic: boolean }} Import */

// A protocol may name the one it hands its connection to on the same port; the receiving one reads the same head.
const upgrades = new Map([
  ['http', ['websocket']],
  ['websocket', ['http']],
])
// What examples use in addition; the package itself never loads it.
const examplesShow = new Set(['sharp'])
// Loaded on use, if the user has installed them.
const optionalPeers = new Set(['@fastify/busboy', '@nats-io/transport-node', 'croner'])
const mayProtocolsUse = [
  'node:crypto',
  'node:zlib',
  'src/builtins.ts',
  'src/encoded.ts',
  'src/errors.ts',
  'src/nothing.ts',
  'src/options.ts',
  'src/protocol.ts',
  'src/protocol/accumulator.ts',
  'src/protocol/framing.ts',
  'src/protocol/registry.ts',
  'src/signing.ts',
  'src/thenable.ts',
]

/**
 * Each rule: which files it applies to, and which of their imports break it.
 * @type {{ says: string, of: RegExp, forbids: (one: Import) => boolean }[]}
 */
const rules = [
  {
    says: `a protocol imports its own folder, what it upgrades to, ${mayProtocolsUse.join(', ')}`,
    of: /^protocols\//,
    forbids: ({ file, target }) => !mayProtocolsUse.includes(target) && !isOwnOrUpgrade(file, target),
  },
  {
    says: 'the connection knows src/transport.ts, never an engine nor who owns it',
    of: /^src\/connection(\/|\.ts$)/,
    forbids: ({ target }) => /^src\/(net|worker|client|udp|process|messaging)\/|^src\/worker\.ts$/.test(target),
  },
  {
    says: 'src/loop imports nothing of ours but src/errors.ts and its own folder',
    of: /^src\/loop\//,
    forbids: ({ target, isOurs }) => isOurs && target !== 'src/errors.ts' && !target.startsWith('src/loop/'),
  },
  {
    says: 'src/process sees a Group, never Worker, Connection or an engine',
    of: /^src\/process\//,
    forbids: ({ target }) => /^src\/(worker|connection|client|udp)(\/|\.ts$)|^src\/net\/.*engine.*$/.test(target),
  },
  {
    says: 'only src/index.ts imports protocols/; src/http, which serves protocols/http, also its types',
    of: /^src\/(?!index\.ts$)/,
    forbids: ({ file, target, typeOnly }) =>
      target.startsWith('protocols/') &&
      !(typeOnly && file.startsWith('src/http/') && target.startsWith('protocols/http/')),
  },
  {
    says: 'src imports only src, protocols and node: builtins: the core has no dependency',
    of: /^src\//,
    forbids: ({ target, isOurs, typeOnly, dynamic }) =>
      !(isOurs
        ? /^(src|protocols)\//.test(target)
        : isBuiltin(target) || ((typeOnly || dynamic) && optionalPeers.has(target))),
  },
  {
    says: 'an example imports what a user can: the package by its name, node: builtins, its own neighbours',
    of: /^examples\//,
    forbids: ({ target, isOurs }) =>
      isOurs
        ? !target.startsWith('examples/')
        : !/^millrace(\/|$)/.test(target) && !isBuiltin(target) && !examplesShow.has(target),
  },
]

/**
 * Checks the tree below a root. Returns one line of text per violation.
 * @param {string} root
 * @returns {string[]}
 */
export function checkImports(root) {
  const sources = ['src', 'protocols', 'test', 'examples', 'scripts']
    .flatMap((directory) => filesIn(directory, root))
    .filter((file) => /\.[cm]?[jt]s$/.test(file))
    .map((file) => ({ file, text: readFileSync(join(root, file), 'utf8') }))
  const declared = declaredIn(root)
  const imports = sources.flatMap(({ file, text }) => importsOf(text).map((found) => locate(file, found)))
  return [
    ...imports.flatMap(broken),
    ...imports.flatMap((one) => undeclared(one, declared)),
    ...sources.flatMap(loadsAddon),
    ...cycles(imports).map((cycle) => `${cycle[0]}: import cycle: ${cycle.join(' -> ')}`),
  ]
}

/** @returns {Import} with our own files named relative to the root */
function locate(file, { specifier, ...found }) {
  const isOurs = /^\.{1,2}(\/|$)/.test(specifier)
  return { ...found, file, isOurs, target: isOurs ? join(dirname(file), specifier) : specifier }
}

function broken(one) {
  return rules
    .filter((rule) => rule.of.test(one.file) && rule.forbids(one))
    .map((rule) => `${one.file}:${one.line}: imports ${one.target}: ${rule.says}`)
}

function isOwnOrUpgrade(file, target) {
  const [, own, rest] = /^protocols\/([^/]+)(\/.*)?$/.exec(file) ?? []
  const [, other] = /^protocols\/([^/]+)/.exec(target) ?? []
  if (other === undefined) return false
  const isFolder = rest !== undefined
  return (isFolder && other === own) || (upgrades.get(nameOf(own)) ?? []).includes(nameOf(other))
}

const nameOf = (entry) => entry.replace(/\.ts$/, '')

function isBuiltin(target) {
  return target.startsWith('node:')
}

function declaredIn(root) {
  const { name, dependencies, devDependencies, peerDependencies } = manifest(root)
  return new Set([name, ...Object.keys({ ...dependencies, ...devDependencies, ...peerDependencies })])
}

function manifest(root) {
  return JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))
}

function undeclared({ file, line, target, isOurs }, declared) {
  if (isOurs || isBuiltin(target)) return []
  const [scope, name] = target.split('/')
  if (declared.has(scope.startsWith('@') ? `${scope}/${name}` : scope)) return []
  const hint = builtinModules.includes(target) ? `: write node:${target}` : ''
  return [`${file}:${line}: imports ${target}, which package.json does not declare${hint}`]
}

/** Only one file loads native code, so that one place handles its absence. */
function loadsAddon({ file, text }) {
  if (!/^(src|protocols)\//.test(file) || file === 'src/addon.ts') return []
  return tokensOf(text)
    .filter(({ word, string }) => word === 'dlopen' || string?.endsWith('.node'))
    .map(({ line, word, string }) => `${file}:${line}: ${word ?? `'${string}'`}: only src/addon.ts loads native code`)
}

/**
 * Cycles among value imports, each reported once, starting with its first file. Dynamic imports run later and close no
 * cycle.
 * @param {Import[]} imports
 */
function cycles(imports) {
  const edges = new Map()
  for (const { file, target, isOurs, typeOnly, dynamic } of imports) {
    if (isOurs && !typeOnly && !dynamic) edges.set(file, [...(edges.get(file) ?? []), target])
  }
  const found = new Map()
  const finished = new Set()
  const visit = (file, path) => {
    const start = path.indexOf(file)
    if (start >= 0) return note(found, path.slice(start))
    if (finished.has(file)) return
    for (const target of edges.get(file) ?? []) visit(target, [...path, file])
    finished.add(file)
  }
  for (const file of edges.keys()) visit(file, [])
  return [...found.values()]
}

function note(found, cycle) {
  const key = [...cycle].sort().join(' ')
  if (!found.has(key)) found.set(key, [...cycle, cycle[0]])
}

if (process.argv[1] === import.meta.filename) {
  const violations = checkImports(resolve(process.argv[2] ?? ourRoot))
  for (const violation of violations) console.log(violation)
  process.exitCode = violations.length > 0 ? 1 : 0
}
