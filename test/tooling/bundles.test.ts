// What a process of ours loads (scripts/build.mjs): its start is paid by every worker, reload and `status`. Milliseconds are not
// asserted; files and modules of Node are.

import { spawnSync } from 'node:child_process'
import { existsSync, readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { root } from './support.ts'

/** What is loaded with a file of dist/: its static imports and theirs, ours and Node's. */
function loaded(...names: string[]): { files: Set<string>; builtins: Set<string> } {
  const files = new Set<string>()
  const builtins = new Set<string>()
  const visit = (name: string) => {
    if (files.has(name)) return
    files.add(name)
    const text = readFileSync(join(root, 'dist', name), 'utf8')
    for (const [, own, node] of text.matchAll(/^(?:import|export|\})[^;\n]*"(?:\.\/([\w.-]+\.js)|(node:[\w/]+))";$/gm))
      if (own !== undefined) visit(own)
      else if (node !== undefined) builtins.add(node)
  }
  for (const name of names) visit(name)
  return { files, builtins }
}

/** A millisecond or more each, at their first use. */
const LATE = [
  'crypto',
  'zlib',
  'tls',
  'dgram',
  'dns/promises',
  'child_process',
  'http',
  'https',
  'perf_hooks',
  'inspector',
]

const has = (names: string[], text: string) =>
  names.some((name) => readFileSync(join(root, 'dist', name), 'utf8').includes(text))

test('every bundle says first which Node it needs, if this one is too old', () => {
  const fake = (version: string) =>
    `Object.defineProperty(process, 'versions', { value: { ...process.versions, node: '${version}' } })`
  const { engines } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))
  const [, least = ''] = /^>=(\d+\.\d+)\.0$/.exec(engines.node) ?? []
  const older = ['18.20.8', `${least.split('.')[0]}.0.0`]
  for (const [version, code, isRefused] of [
    ...older.flatMap((one) =>
      ['start', 'index', 'testing', 'command', 'keep', 'roles', 'run-master'].map(
        (name) => [one, `await import('${join(root, 'dist', `${name}.js`)}')`, true] as const,
      ),
    ),
    [`${least}.0`, `await import('${join(root, 'dist/index.js')}')`, false],
    ['100.0.0', `await import('${join(root, 'dist/index.js')}')`, false],
  ] as const) {
    const { status, stderr } = spawnSync(process.execPath, ['--input-type=module', '-e', `${fake(version)};${code}`], {
      encoding: 'utf8',
    })
    const refusal = `millrace needs Node ${least} or later, this is ${version}`
    assert.equal([status, stderr.includes(refusal)], isRefused ? [1, true] : [0, false], `${code}: ${stderr}`)
  }
})

test('a worker loads the library and its role, neither the master nor a command', () => {
  const { files, builtins } = loaded('start.js', 'roles.js', 'index.js')
  assert.ok(files.size <= 8, [...files].join(' '))
  assert.ok(has([...files], 'var Connection = class'))
  assert.not(has([...files], 'var Master = class'))
  assert.not(has([...files], 'function runCommand('))
  assert.equal(
    LATE.filter((name) => builtins.has(`node:${name}`)),
    [],
  )
})

test('a short command loads neither the master nor the library', () => {
  const { files, builtins } = loaded('start.js', 'command.js')
  assert.ok(files.size <= 4, [...files].join(' '))
  assert.not(has([...files], 'var Master = class'))
  assert.not(has([...files], 'var Connection = class'))
  assert.equal(
    LATE.filter((name) => builtins.has(`node:${name}`)),
    [],
  )
})

test('a master loads nothing of the library, and no class twice', () => {
  const { files } = loaded('start.js', 'command.js', 'run-master.js')
  assert.ok(has([...files], 'var Master = class'))
  assert.not(has([...files], 'var Connection = class'))
  const { files: worker } = loaded('roles.js', 'index.js', 'testing.js')
  for (const name of ['ProtocolError', 'UsageError', 'Connection', 'Scheduler'])
    assert.is([...worker].filter((file) => has([file], `var ${name} = class`)).length, 1, name)
})

test('every file that a bundle loads later is there', () => {
  for (const name of ['start.js', 'command.js', 'run-master.js', 'roles.js', 'index.js', 'keep.js'])
    for (const file of loaded(name).files)
      for (const [, later = ''] of readFileSync(join(root, 'dist', file), 'utf8').matchAll(/import\("\.\/([^"]+)"\)/g))
        assert.ok(existsSync(join(root, 'dist', later)), `${file} loads ${later}`)
  assert.ok(statSync(join(root, 'dist/start.js')).size < 20_000, 'the start file is what every process begins with')
})

test.run()
