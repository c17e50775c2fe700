// The servers of the benches: each starter takes a core and returns { pid, port, stop(), about? }. `about` is what a
// row reports about it: its engine, its version.
import { execFileSync, spawnSync } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { CannotRun, compile, here, launch, nextLine, root, sleep, startTimeOf, stop } from './bench.mjs'

const startFile = join(root, 'dist', 'start.js')
const bootMs = 15_000

/** A peer that is not available here: the bench goes on without it and reports this. */
export class NotHere extends Error {}

/** A program that prints its port. */
async function startPrinting(command, { core, about }) {
  const child = launch(command, { core })
  return { pid: child.pid, port: Number(await nextLine(child, bootMs)), about, stop: () => stop(child) }
}

/** A floor: a C file beside this one. */
export function cServer(file, ...args) {
  return (core) => startPrinting([compile(file), ...args], { core })
}

/** A server on plain Node, a file beside this one; `flags` are Node's. */
export function nodeServer(file, args = [], flags = []) {
  return (core) => startPrinting([process.execPath, ...flags, join(here, file), ...args], { core })
}

/** The same for a package among our development dependencies. */
export function packageServer(name, file, ...rest) {
  const start = nodeServer(file, ...rest)
  return async (core) => Object.assign(await start(core), { about: { version: versionOf(name) } })
}

function versionOf(name) {
  return JSON.parse(readFileSync(join(root, 'node_modules', name, 'package.json'), 'utf8')).version
}

// millrace

/**
 * Starts it through the real start file, as a user would: command, master and worker, all on the server's core.
 *
 * @param {string} name of the bench
 * @param {string} module the server, a file beside this one
 * @param {(port: number) => Promise<boolean>} answers whether a port serves: a bound port may not serve yet
 * @param {'native' | 'node'} engine
 * @param {Record<string, string>} [env] variables that the module reads
 */
export function millraceServer(name, module, answers, engine, env = {}) {
  return (core) => startMillrace({ name, module: join(here, module), answers, engine, env }, core)
}

/** Running servers and their run directories: whatever is left of them is cleaned up when we exit. */
const running = new Map()
process.once('exit', () => {
  for (const [server, runDir] of running) sweep(server, runDir)
})

async function startMillrace(bench, core) {
  if (!existsSync(startFile)) throw new CannotRun('dist/start.js is missing: npm run build')
  const runDir = mkdtempSync(join(tmpdir(), 'millrace-bench-'))
  const command = [process.execPath, startFile, 'start', bench.module, '--run-dir', runDir, '--engine', bench.engine]
  const child = launch(command, { core, env: bench.env })
  const server = { pid: 0, port: 0, stop: () => end(child, server) }
  running.set(server, runDir)
  return Object.assign(server, await untilUp(bench, child, runDir))
}

async function end(child, server) {
  await stop(child)
  sweep(server, running.get(server))
  running.delete(server)
}

/**
 * A worker that outlived its master would hold the port and the core; the start time distinguishes it from a reused
 * pid.
 */
function sweep(server, runDir) {
  if (server.startTime !== undefined && startTimeOf(server.pid) === server.startTime) {
    process.stderr.write(`bench: the worker ${server.pid} outlived its master; killed\n`)
    process.kill(server.pid, 'SIGKILL')
  }
  rmSync(runDir, { recursive: true, force: true })
}

async function untilUp(bench, child, runDir) {
  let ended
  child.ended.then((how) => {
    ended = how
  })
  for (const deadline = Date.now() + bootMs; Date.now() < deadline; await sleep(100)) {
    const found = readStatus(bench, runDir)
    if (found && (await bench.answers(found.port))) return found
    if (ended !== undefined) throw failureOf(child, ended)
  }
  throw new Error(`millrace: not up within ${bootMs} ms\n${child.said}`)
}

/** Without the addon, the native engine is one of the servers that are not available here. */
function failureOf({ said }, how) {
  const lacking = /UsageError: (the native engine takes .*)/.exec(said)
  return lacking ? new NotHere(lacking[1]) : new Error(`millrace: start ended (${how})\n${said}`)
}

/** The worker's pid and port from `status --json`, or undefined while it is not up. */
function readStatus({ module }, runDir) {
  const args = [startFile, 'status', module, '--run-dir', runDir, '--json']
  const done = spawnSync(process.execPath, args, { encoding: 'utf8', timeout: bootMs })
  if (done.status !== 0) return undefined
  const { engine, groups } = JSON.parse(done.stdout)
  const group = groups[0]
  const worker = group?.workers[0]
  const port = Number(/:(\d+)$/.exec(group?.address ?? '')?.[1] ?? 0)
  if (!worker?.pid || !port) return undefined
  return { pid: worker.pid, port, startTime: startTimeOf(worker.pid), about: { engine } }
}

// Bun: downloaded for a benchmark and never a dependency

const BUN_VERSION = '1.4.5'
const bunFolder = join(root, 'build', 'bench', 'bun')
let bun

/** A server on Bun, a file beside this one. */
export function bunServer(file, ...args) {
  return async (core) => {
    bun ??= findBun()
    const { program, version } = bun
    if (program === undefined) throw new NotHere(bun.why)
    return startPrinting([program, join(here, file), ...args], { core, about: { version } })
  }
}

/** The package for this platform contains the program itself, so no install script has to run. */
function bunPackage() {
  const [cpu] = { x64: ['x64'], arm64: ['aarch64'] }[process.arch] ?? []
  if (process.platform !== 'linux' || cpu === undefined) return undefined
  const isOld = cpu === 'x64' && !/\bavx2\b/.test(readFileSync('/proc/cpuinfo', 'utf8'))
  const isMusl = process.report.getReport().header.glibcVersionRuntime === undefined
  return `@oven/bun-linux-${cpu}${isMusl ? '-musl' : ''}${isOld ? '-baseline' : ''}`
}

function findBun() {
  const name = bunPackage()
  if (name === undefined) return { why: `no package of Bun for ${process.platform}-${process.arch}` }
  const program = join(bunFolder, 'node_modules', name, 'bin', 'bun')
  try {
    if (bunVersionOf(program) !== BUN_VERSION) download(`${name}@${BUN_VERSION}`)
    return { program, version: bunVersionOf(program) }
  } catch (error) {
    return { why: `Bun ${BUN_VERSION} is not to be had: ${error.message.split('\n')[0]}` }
  }
}

function bunVersionOf(program) {
  return existsSync(program) ? execFileSync(program, ['--version'], { encoding: 'utf8' }).trim() : undefined
}

function download(wanted) {
  process.stderr.write(`bench: downloading ${wanted} into build/bench/\n`)
  const flags = ['--no-save', '--ignore-scripts', '--no-package-lock', '--no-audit', '--no-fund', '--loglevel=error']
  const options = { stdio: ['ignore', 'ignore', 'pipe'], timeout: 120_000, encoding: 'utf8' }
  execFileSync('npm', ['install', '--prefix', bunFolder, ...flags, wanted], options)
}

// nginx, if it is installed: a C server that gives the same answer from its configuration

export function nginxServer() {
  return async (core) => {
    const found = spawnSync('nginx', ['-v'], { encoding: 'utf8' })
    if (found.error) throw new NotHere('nginx is not on PATH')
    const folder = mkdtempSync(join(tmpdir(), 'millrace-bench-nginx-'))
    const port = await freePort()
    writeFileSync(join(folder, 'nginx.conf'), nginxConfiguration(port, folder))
    const child = launch(['nginx', '-p', folder, '-c', join(folder, 'nginx.conf'), '-e', 'stderr'], { core })
    await untilListening(port, child)
    const about = { version: found.stderr.trim().split('/').at(-1) }
    return {
      pid: child.pid,
      port,
      about,
      stop: () => stop(child).then(() => rmSync(folder, { recursive: true, force: true })),
    }
  }
}

function nginxConfiguration(port, folder) {
  const temporary = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi']
  return `daemon off; master_process off; pid ${folder}/pid; error_log stderr crit;
events { worker_connections 16000; }
http {
  access_log off; keepalive_requests 1000000000; default_type "text/html; charset=utf-8"; server_tokens off;
  ${temporary.map((name) => `${name}_temp_path ${folder}/${name};`).join(' ')}
  server { listen 127.0.0.1:${port} backlog=511; location = / { return 200 "hello world!"; } }
}
`
}

/** A port that was free a moment ago: nginx cannot choose one and report it. */
/** A port that nothing listens on now. */
export function freePort() {
  return new Promise((resolve, reject) => {
    const server = createServer()
    server.once('error', reject)
    server.listen(0, '127.0.0.1', () => {
      const { port } = server.address()
      server.close(() => resolve(port))
    })
  })
}

async function untilListening(port, child) {
  const hex = port.toString(16).toUpperCase().padStart(4, '0')
  for (const deadline = Date.now() + bootMs; Date.now() < deadline; await sleep(50)) {
    if (readFileSync('/proc/net/tcp', 'utf8').includes(`0100007F:${hex} 00000000:0000 0A`)) return
  }
  await stop(child)
  throw new Error(`nginx: not up within ${bootMs} ms\n${child.said}`)
}
