// Builds the addon with npm's own node-gyp if there is a compiler and the sources are newer than the binary. The
// package also works without the addon, so this never fails a build of the JavaScript; with `--strict` it does.
//
//   node scripts/build-native.mjs                       makes native/build/Release/millrace.node
//   node scripts/build-native.mjs --prebuilt            also prebuilds/<platform>/millrace.node, stripped, for a release;
//                      [--glibc 2.28]                   refused if it would need a newer glibc than this
//   node scripts/build-native.mjs --sanitize address,undefined    makes build/sanitized/, for test:sanitizers

import { spawnSync } from 'node:child_process'
import { copyFileSync, existsSync, mkdirSync, readdirSync, readFileSync, realpathSync, rmSync, statSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { parseArgs } from 'node:util'
import { root } from './files.mjs'

const { values: options } = parseArgs({
  options: {
    prebuilt: { type: 'boolean', default: false },
    glibc: { type: 'string', default: '2.28' }, // what Node 20 and later need themselves
    sanitize: { type: 'string', default: '' },
    strict: { type: 'boolean', default: false },
  },
})

const native = join(root, 'native')
const binary = join(native, 'build/Release/millrace.node')

if (options.sanitize !== '') sanitized(options.sanitize)
else if (isFresh()) say('addon: up to date')
else build()
if (options.prebuilt && existsSync(binary)) prebuild()

function isFresh() {
  if (!existsSync(binary)) return false
  const built = statSync(binary).mtimeMs
  const sources = [
    join(native, 'binding.gyp'),
    ...readdirSync(join(native, 'src')).map((name) => join(native, 'src', name)),
  ]
  return sources.every((path) => statSync(path).mtimeMs < built)
}

function build() {
  const started = performance.now()
  const why = run('rebuild')
  if (why === '') say(`addon: built in ${Math.round(performance.now() - started)} ms`)
  else give(why)
}

/** Uses a folder of its own: the tests of the ordinary build may be running at the same time. */
function sanitized(kinds) {
  const why = run('rebuild', `--sanitize=${kinds}`)
  if (why !== '') return give(why)
  mkdirSync(join(root, 'build/sanitized'), { recursive: true })
  copyFileSync(binary, join(root, 'build/sanitized/millrace.node'))
  rmSync(binary) // it needs the sanitizers' libraries, so nothing else may load it
  say(`addon: built with ${kinds}`)
}

function prebuild() {
  const name = platformName()
  const needed = glibcOf(binary)
  const [most, least] = [options.glibc, needed].map((one) => Number(one.split('.')[1]))
  if (least > most) {
    say(`addon: no prebuilds/${name}: it needs glibc ${needed}, and hosts with ${options.glibc} could not load it.`)
    say(`       Build it where glibc is that old (in a container), or accept it: --prebuilt --glibc ${needed}`)
    process.exitCode = 1
    return
  }
  const target = join(root, 'prebuilds', name, 'millrace.node')
  mkdirSync(dirname(target), { recursive: true })
  copyFileSync(binary, target)
  if (process.platform === 'linux') spawnSync('strip', ['--strip-unneeded', target])
  const size = Math.round(statSync(target).size / 1024)
  say(`addon: prebuilds/${name}/millrace.node, ${size} KiB${needed === '' ? '' : `, needs glibc ${needed}`}`)
}

/** The newest glibc whose symbols a binary refers to, such as 2.28; empty for none: musl, macOS. */
function glibcOf(path) {
  const versions = [...readFileSync(path, 'latin1').matchAll(/\0GLIBC_2\.(\d+)/g)].map(([, minor]) => Number(minor))
  return versions.length === 0 ? '' : `2.${Math.max(...versions)}`
}

/** As the loader (src/addon.ts) names it. */
function platformName() {
  const { platform, arch, report } = process
  report.excludeNetwork = true
  const libc = report.getReport().header.glibcVersionRuntime === undefined ? 'musl' : 'glibc'
  return platform === 'linux' ? `${platform}-${arch}-${libc}` : `${platform}-${arch}`
}

/** Returns why it could not be built, or an empty string. */
function run(command, ...flags) {
  const gyp = nodeGyp()
  if (gyp === null) return 'npm has no node-gyp here'
  const headers = join(dirname(realpathSync(process.execPath)), '..')
  const nodedir = existsSync(join(headers, 'include/node/node_api.h')) ? [`--nodedir=${headers}`] : []
  const args = [gyp, command, '-C', native, ...nodedir, ...flags.map((flag) => `--${flag.replace(/^--/, '')}`)]
  const { status, stderr, error } = spawnSync(process.execPath, args, { encoding: 'utf8', cwd: root })
  if (status === 0) return ''
  const lines = `${error?.message ?? ''}\n${stderr ?? ''}`.split('\n')
  if (options.strict || process.env.MILLRACE_BUILD_LOG) process.stderr.write(`${stderr}\n`)
  return (lines.find((line) => /error:|gyp ERR! stack Error/.test(line)) ?? `exit code ${status}`).trim()
}

/** npm includes one and tells us where it is. */
function nodeGyp() {
  const { npm_execpath: npm = '' } = process.env
  const npms = [npm, join(dirname(realpathSync(process.execPath)), '../lib/node_modules/npm/bin/npm-cli.js')]
  for (const path of npms) {
    const gyp = join(dirname(path), '../node_modules/node-gyp/bin/node-gyp.js')
    if (path !== '' && existsSync(gyp)) return gyp
  }
  return null
}

function give(why) {
  say(`addon: not built, the package works without it (${why})`)
  if (options.strict || options.prebuilt || options.sanitize !== '') process.exitCode = 1
}

function say(line) {
  console.log(line)
}
