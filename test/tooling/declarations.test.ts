// The declarations in dist/, as a user's compiler reads them: every type that a public signature names can be imported, or an
// inferred export of his could not be declared (TS2883), and nothing needs a compiler newer than the README says.

import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join, relative } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { root } from './support.ts'

const dist = join(root, 'dist')

/** One declaration file: what it declares, and what its names of other files are there. */
interface Module {
  readonly path: string
  readonly bodies: ReadonlyMap<string, string>
  readonly imports: ReadonlyMap<string, { readonly path: string; readonly name: string }>
  readonly exported: ReadonlySet<string>
}

function declarationFiles(): string[] {
  return readdirSync(dist, { recursive: true, encoding: 'utf8' })
    .filter((path) => path.endsWith('.d.ts'))
    .map((path) => join(dist, path))
}

function withoutComments(text: string): string {
  return text.replace(/\/\*[\s\S]*?\*\/|\/\/.*$/gm, '')
}

const modules = new Map<string, Module>()

function moduleAt(path: string): Module {
  const known = modules.get(path) ?? parse(path)
  modules.set(path, known)
  return known
}

/** What stands at the margin begins a declaration, which goes on until the next one. */
function parse(path: string): Module {
  const text = withoutComments(readFileSync(path, 'utf8'))
  const bodies = new Map<string, string>()
  const imports = new Map<string, { path: string; name: string }>()
  const exported = new Set<string>()
  for (const part of text.split(/\n(?=[a-z])/)) {
    const isExport = part.startsWith('export ')
    for (const { local, name, from } of namesFrom(part)) {
      imports.set(local, { path: join(dirname(path), from), name })
      if (isExport) exported.add(local)
    }
    const [, name = ''] =
      /^(?:export )?(?:declare )?(?:abstract )?(?:class|interface|type|const|function|enum) (\w+)/.exec(part) ?? []
    if (name === '') continue
    bodies.set(name, `${bodies.get(name) ?? ''}\n${part}`)
    if (isExport) exported.add(name)
  }
  return { path, bodies, imports, exported }
}

/** Of `import { a, type b as c } from './d.ts'`, and the same with `export`; of others nothing. */
function* namesFrom(statement: string): Generator<{ local: string; name: string; from: string }> {
  const [, list = '', from = ''] = /^(?:import|export) (?:type )?\{([^}]*)\} from '(\.[^']*)\.ts'/.exec(statement) ?? []
  for (const [, name = '', local = name] of list.matchAll(/(?:type )?(\w+)(?: as (\w+))?/g))
    yield { local, name, from: `${from}.d.ts` }
}

/** Where a name is declared: a file may only pass it on. */
function originOf(module: Module, name: string): string | null {
  const there = module.imports.get(name)
  if (there !== undefined) return originOf(moduleAt(there.path), there.name)
  return module.bodies.has(name) ? `${relative(dist, module.path)} ${name}` : null
}

/** What nobody names: the base of a class, members whose keys are symbols of ours, and what is in quotes. */
function signaturesOf(text: string): string {
  return text
    .replace(/'[^']*'/g, '')
    .replace(/^(.*?\b(?:class|interface) .*?) (?:extends|implements) .*\{$/gm, '$1')
    .replace(/^ *(?:get )?\[k[A-Z].*$/gm, '')
}

/** The classes and interfaces that a declaration names, as file and name. A compiler writes out what an alias stands for. */
function namedBy(origin: string, seen = new Set<string>()): string[] {
  const [path = '', name = ''] = origin.split(' ')
  if (seen.has(origin)) return []
  seen.add(origin)
  const module = moduleAt(join(dist, path))
  const words = new Set(signaturesOf(module.bodies.get(name) ?? '').match(/\b[A-Z]\w*/g))
  const origins = [...words].map((word) => originOf(module, word)).filter((one) => one !== null)
  return origins.flatMap((one) => (isAlias(one) ? namedBy(one, seen) : [one]))
}

function isAlias(origin: string): boolean {
  const [path = '', name = ''] = origin.split(' ')
  return /^\s*(?:export )?(?:declare )?type /.test(moduleAt(join(dist, path)).bodies.get(name) ?? '')
}

function exportsOf(entry: string): string[] {
  const module = moduleAt(join(dist, 'src', `${entry}.d.ts`))
  return [...module.exported].map((name) => originOf(module, name) ?? `${entry} ${name}: not found`)
}

for (const entry of ['index', 'testing']) {
  test(`every class and interface that a public signature of ${entry} names is exported`, () => {
    const own = exportsOf(entry)
    const all = new Set([...exportsOf('index'), ...own])
    assert.ok(own.length > 5)
    const hidden = own.flatMap((origin) =>
      namedBy(origin)
        .filter((named) => !all.has(named))
        .map((named) => `${origin}: ${named}`),
    )
    assert.equal(hidden, [])
  })
}

test('the declarations need no TypeScript beyond 5.0: there no Buffer has a parameter', () => {
  const found = declarationFiles().filter((path) =>
    /\b(?:Buffer|Uint8Array|DataView)</.test(withoutComments(readFileSync(path, 'utf8'))),
  )
  assert.equal(found, [])
})

test.run()
