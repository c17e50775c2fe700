// The package as its users get it: packed, installed in an empty project, imported, required, compiled against.

import { once } from 'node:events'
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import net from 'node:net'
import { homedir, tmpdir } from 'node:os'
import { delimiter, join, posix } from 'node:path'
import { build } from 'esbuild'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { platformName } from '../../src/addon.ts'
import { caseTest, longTest } from '../support/length.ts'
import { inProject, node, root, run } from './support.ts'

interface Packed {
  filename: string
  unpackedSize: number
  size: number
  files: { path: string; mode: number }[]
}

// Mostly source maps and declarations, and one binary where a release was built. A budget, so that a dependency or a fixture that slips in is noticed.
const maxPackedBytes = 1_700_000
const maxUnpackedBytes = 5_800_000

const tsc = join(root, 'node_modules/typescript/bin/tsc')

const typed = `import { Worker, type Connection } from 'millrace'
import * as testing from 'millrace/testing'
const worker = new Worker('text://127.0.0.1:0', { count: 2, name: 'echo' })
worker.onMessage = (connection, line) => connection.send(line.toUpperCase())
// @ts-expect-error a line is a string
worker.onMessage = (connection: Connection<string, string>, line: number) => connection.send(String(line))
const bytes = new Worker('tcp://127.0.0.1:0')
// @ts-expect-error it is a Buffer, also for a compiler that is not told of Node's types: else it would be any
bytes.onMessage = (_connection, data) => data.nonsense
export { bytes, testing, worker }
`

const consumer = {
  'package.json': JSON.stringify({ name: 'consumer', private: true, type: 'module' }),
  'typed.ts': typed,
  'imports.mjs': `import * as millrace from 'millrace'\nimport 'millrace/testing'\nconsole.log(typeof millrace.Worker)\n`,
  'requires.cjs': `console.log(typeof require('millrace').Worker)\n`,
  'both.mjs': `import { createRequire } from 'node:module'
import { Worker } from 'millrace'
console.log(createRequire(import.meta.url)('millrace').Worker === Worker)
`,
}

/** What every test is lent: packed once. */
const tarballs = mkdtempSync(join(tmpdir(), 'tooling-'))
process.once('exit', () => rmSync(tarballs, { recursive: true, force: true }))
let packing: Promise<Packed> | undefined

async function pack(directory: string): Promise<Packed> {
  packing ??= packOnce()
  const packed = await packing
  copyFileSync(join(tarballs, packed.filename), join(directory, packed.filename))
  return packed
}

async function packOnce(): Promise<Packed> {
  const args = ['pack', '--ignore-scripts', '--json', '--pack-destination', tarballs]
  const { code, stdout, stderr } = await run('npm', args, root)
  assert.is(code, 0, stderr)
  const answer = JSON.parse(stdout) as Packed[] | Record<string, Packed>
  return Object.values(answer)[0] as Packed
}

async function install(directory: string, flags = ['--ignore-scripts'], env = {}): Promise<Packed> {
  const packed = await pack(directory)
  const args = ['install', '--offline', '--no-audit', '--no-fund', ...flags, join(directory, packed.filename)]
  const { code, stderr } = await run('npm', args, directory, env)
  assert.is(code, 0, stderr)
  return packed
}

let installing: Promise<string> | undefined

/** The folder of a project that has the package installed, the same one for every test. */
function consumerOf(): Promise<string> {
  installing ??= (async () => {
    const directory = join(realpathSync(tarballs), 'consumer')
    mkdirSync(directory)
    for (const [name, text] of Object.entries(consumer)) writeFileSync(join(directory, name), text)
    await install(directory)
    return directory
  })()
  return installing
}

/** A folder for PATH that has Node and npm, a shell, and no compiler. */
function bareTools(directory: string): string {
  const tools = join(directory, 'tools')
  const npm = (process.env.PATH ?? '').split(delimiter).map((folder) => join(folder, 'npm'))
  mkdirSync(tools)
  symlinkSync(process.execPath, join(tools, 'node'))
  symlinkSync(realpathSync(npm.find((path) => existsSync(path)) ?? ''), join(tools, 'npm'))
  symlinkSync('/bin/sh', join(tools, 'sh'))
  return tools
}

test('the package holds what runs, its types and its sources, and nothing else', async () => {
  await inProject({}, async (directory) => {
    const packed = await pack(directory)
    const paths = packed.files.map(({ path }) => path)
    for (const path of ['dist/index.js', 'dist/start.js', 'dist/testing.js', 'dist/src/index.d.ts', 'LICENSE']) {
      assert.ok(paths.includes(path), `${path} is missing`)
    }
    const strangers = paths.filter(
      (path) =>
        !/^(dist|src|protocols|examples|prebuilds)\//.test(path) &&
        !/^(package\.json|LICENSE|[A-Z]+\.md|native\/README\.md|scripts\/bench\/README\.md)$/.test(path),
    )
    assert.equal(strangers, [])
    assert.equal(
      paths.filter((path) => /\.test\.|(^|\/)test\/|fixtures/.test(path)),
      [],
    )
    const lint = await run(
      join(root, 'node_modules/.bin/publint'),
      [join(directory, packed.filename), '--strict'],
      root,
    )
    assert.is(lint.code, 0, `${lint.stdout}${lint.stderr}`)
    assert.ok(packed.size < maxPackedBytes, `${packed.size} bytes packed`)
    assert.ok(packed.unpackedSize < maxUnpackedBytes, `${packed.unpackedSize} bytes unpacked`)
  })
})

test('what the documents in the package link to is in the package', async () => {
  await inProject({}, async (directory) => {
    const paths = (await pack(directory)).files.map(({ path }) => path)
    const isThere = (target: string) => paths.some((path) => path === target || path.startsWith(`${target}/`))
    const documents = paths.filter((path) => path.endsWith('.md'))
    assert.ok(documents.length > 5)
    const dead = documents.flatMap((path) =>
      linksOf(readFileSync(join(root, path), 'utf8'))
        .filter((link) => !isThere(posix.join(posix.dirname(path), link)))
        .map((link) => `${path}: ${link}`),
    )
    assert.equal(dead, [])
  })
})

/** Relative ones, without what follows a `#`. */
function linksOf(text: string): string[] {
  const prose = text.replace(/^```[\s\S]*?^```|`[^`\n]*`/gm, '')
  return [...prose.matchAll(/\]\(([^)#:\s]+)(?:#[^)]*)?\)/g)].map(([, link = '']) => link)
}

longTest('attw finds nothing wrong with its types', async () => {
  await inProject({}, async (directory) => {
    const { filename } = await pack(directory)
    // CommonJS gets it by require() of an ES module, which every Node that we support has: tested below.
    const { code, stdout, stderr } = await run(
      join(root, 'node_modules/.bin/attw'),
      [join(directory, filename), '--profile', 'esm-only', '--no-color'],
      root,
    )
    assert.is(code, 0, `${stdout}${stderr}`)
  })
})

for (const [scripts, flags] of [
  ['with scripts', []],
  ['without scripts', ['--ignore-scripts']],
] as const) {
  for (const compiler of ['a compiler', 'no compiler']) {
    longTest(
      `installed ${scripts} and ${compiler} in an empty folder it builds nothing, starts and serves`,
      async () => {
        await inProject({}, async (directory) => {
          const env: Record<string, string> = compiler === 'a compiler' ? {} : { PATH: bareTools(directory) }
          await install(directory, [...flags], env)
          const installed = join(directory, 'node_modules/millrace')
          assert.not(existsSync(join(installed, 'native/build')))
          assert.not(existsSync(join(installed, 'binding.gyp'))) // npm would build it
          const app = `import { Worker } from 'millrace'
          new Worker('text://127.0.0.1:0', { onMessage: (connection, line) => connection.send(line) })
          Worker.runAll()`
          writeFileSync(join(directory, 'app.mjs'), app)
          const command = (...args: string[]) =>
            run(
              'node',
              ['node_modules/millrace/dist/start.js', ...args, '--run-dir', join(directory, 'run')],
              directory,
              env,
            )
          const { code, stdout, stderr } = await command('start', '-d', 'app.mjs')
          assert.is(code, 0, stderr)
          const port = Number(/127\.0\.0\.1:(\d+)/.exec(stdout)?.[1])
          const client = net.connect(port, '127.0.0.1')
          client.write('hello\n')
          const [answer] = await once(client, 'data')
          client.destroy()
          assert.is(String(answer), 'hello\n')
          assert.is((await command('stop', 'app.mjs')).code, 0)
        })
      },
    )
  }
}

test('an installed package works: import, require, one copy of its classes, bin, maps', async () => {
  const directory = await consumerOf()
  const installed = join(directory, 'node_modules/millrace')

  for (const [file, answer] of Object.entries({
    'imports.mjs': 'function',
    'requires.cjs': 'function',
    'both.mjs': 'true',
  })) {
    const { code, stdout, stderr } = await node([file], directory)
    assert.is(stdout.trim(), answer, `${file}: ${stderr}`)
    assert.is(code, 0)
  }

  const bin = await run(join(directory, 'node_modules/.bin/millrace'), [], directory)
  assert.is(bin.code, 2, `no command is usage: ${bin.stdout}${bin.stderr}`)

  const files = readdirSync(installed, { recursive: true, encoding: 'utf8' })
    .map((name) => join(installed, name))
    .filter((path) => statSync(path).isFile())
  const homes = [root, homedir()].filter((home) => home !== '/')
  const telling = files.filter((path) => homes.some((home) => readFileSync(path, 'utf8').includes(`${home}/`)))
  assert.equal(telling, [])
  assert.equal(files.filter((path) => path.endsWith('.map')).flatMap(lost), [])
})

for (const resolution of ['nodenext', 'bundler']) {
  caseTest(resolution === 'nodenext')(`the types of an installed package are found by ${resolution}`, async () => {
    const directory = await consumerOf()
    rmSync(join(directory, 'node_modules/@types'), { force: true })
    symlinkSync(join(root, 'node_modules/@types'), join(directory, 'node_modules/@types'))
    const module = resolution === 'nodenext' ? 'nodenext' : 'esnext'
    const options = ['--module', module, '--moduleResolution', resolution, '--target', 'es2023']
    const { code, stdout } = await node([tsc, '--noEmit', '--strict', ...options, 'typed.ts'], directory)
    assert.is(code, 0, stdout)
  })
}

test('a program that was bundled with the package in it says so, whatever its name is, and starts nothing', async () => {
  await inProject(
    {
      'package.json': '{"type":"module"}',
      'src.js': `
        const depth = Number(process.env.DEPTH ?? 0)
        if (depth > 2) process.exit(99) // each process that it starts would start the next
        process.env.DEPTH = String(depth + 1)
        const { Worker } = await import(${JSON.stringify(join(root, 'dist/index.js'))})
        new Worker('text://127.0.0.1:0', { name: 'x' })
        Worker.runAll()`,
      'start.js': `import './dist/app.js'`,
    },
    async (directory) => {
      const bundle = (outfile: string) =>
        build({ entryPoints: [join(directory, 'src.js')], bundle: true, platform: 'node', format: 'esm', outfile })
      for (const name of ['dist/start.js', 'dist/app.js', 'lib/app.js']) await bundle(join(directory, name))
      for (const name of ['dist/start.js', 'dist/app.js', 'start.js', 'lib/app.js'])
        for (const flags of [[], ['-d']]) {
          const { code, stdout, stderr } = await node(
            [name, 'start', ...flags, '--run-dir', join(directory, 'run')],
            directory,
          )
          const title = `${name} ${flags}: exit ${code}\n${stdout}${stderr}`
          assert.ok(code !== 0 && code !== 99, title)
          assert.match(stderr, /millrace itself cannot be bundled \(--packages=external\)/, title)
        }
    },
  )
})

test('a binary that needs a newer glibc than is allowed is not packed', async () => {
  const { glibcVersionRuntime } = (process.report.getReport() as { header: { glibcVersionRuntime?: string } }).header
  if (glibcVersionRuntime === undefined || !existsSync(join(root, 'native/build/Release/millrace.node'))) return
  const { code, stdout } = await node(['scripts/build-native.mjs', '--prebuilt', '--glibc', '2.2'], root)
  assert.is(code, 1, stdout)
  assert.match(stdout, /no prebuilds\/\S+: it needs glibc 2\.\d+, and hosts with 2\.2 could not load it/)
})

longTest('an installed package takes the binary for this platform, says so, and works without one', async () => {
  const directory = await consumerOf()
  const installed = join(directory, 'node_modules/millrace')
  rmSync(join(installed, 'prebuilds'), { recursive: true, force: true }) // a release was packed here, perhaps
  const say = `import { Worker } from 'millrace'; new Worker('text://127.0.0.1:0', { name: 'x' }); Worker.runAll()`
  writeFileSync(join(directory, 'app.mjs'), say)
  const bannerOf = async () => {
    const start = ['node_modules/millrace/dist/start.js', 'start', '-d', 'app.mjs', '--run-dir', join(directory, 'run')]
    const { code, stdout, stderr } = await node(start, directory)
    assert.is(code, 0, stderr)
    await node(
      ['node_modules/millrace/dist/start.js', 'stop', 'app.mjs', '--run-dir', join(directory, 'run')],
      directory,
    )
    return stdout
  }
  assert.match(await bannerOf(), new RegExp(`addon: there is no binary for ${platformName()}, and none was built`))
  const built = join(root, 'native/build/Release/millrace.node')
  if (!existsSync(built)) return // no compiler here
  const place = join(installed, 'prebuilds', platformName())
  mkdirSync(place, { recursive: true })
  copyFileSync(built, join(place, 'millrace.node'))
  assert.match(await bannerOf(), new RegExp(`addon: prebuilt for ${platformName()}`))
  writeFileSync(join(place, 'millrace.node'), 'for another machine')
  assert.match(await bannerOf(), /addon: .*millrace\.node cannot be loaded: /)
})

/** The sources of a map that are not there: a stack trace would name a file that nobody has. */
function lost(path: string): string[] {
  const map = JSON.parse(readFileSync(path, 'utf8')) as { sources: string[] }
  return map.sources.filter((source) => !statSync(join(path, '..', source), { throwIfNoEntry: false })?.isFile())
}

test.run()
