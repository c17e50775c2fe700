// Shared by the benches: compiling the C programs, pinning to cores, children that never outlive us, CPU time of a
// process from /proc, medians, and the lines and files a result goes to. Where it reads /proc, it works on Linux only.
// It measures nothing itself.
import { execFileSync, spawn, spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, statSync, writeFileSync } from 'node:fs'
import { cpus, release, totalmem } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

export const here = dirname(fileURLToPath(import.meta.url))
export const root = join(here, '..', '..', '..')

/** A reason not to run that the user can fix (no compiler, no build, a bad flag): the bench exits with 2. */
export class CannotRun extends Error {}

// Numbers

export const sum = (values) => values.reduce((total, value) => total + value, 0)

export function median(values) {
  const sorted = [...values].sort((a, b) => a - b)
  const middle = sorted.length >> 1
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2
}

/** (highest - lowest) / median: 0.1 means that the runs lie within 10 % of each other. */
export const spread = (values) => (Math.max(...values) - Math.min(...values)) / median(values)

/** Rounds to `digits` significant digits: more would not be meaningful. */
export const round = (value, digits = 4) => Number(value.toPrecision(digits))

// Where and on what code it was measured

export function machine() {
  const list = cpus()
  return {
    cpu: list[0]?.model.trim() ?? 'unknown',
    cores: list.length,
    memoryGiB: round(totalmem() / 2 ** 30, 3),
    kernel: release(),
  }
}

function git(...args) {
  const done = spawnSync('git', ['--no-optional-locks', ...args], { cwd: root, encoding: 'utf8' })
  return done.status === 0 ? done.stdout.trim() : undefined
}

/** Short hash of HEAD, with `+` when tracked files differ from it, or 'none' outside a repository. */
export function commit() {
  const head = git('rev-parse', '--short', 'HEAD')
  if (!head) return 'none'
  return git('status', '--porcelain', '--untracked-files=no') ? `${head}+` : head
}

/** How many files a process may have open if it raises its limit to the maximum. */
export function openFilesLimit() {
  if (!existsSync('/proc/self/limits')) return Number.POSITIVE_INFINITY
  const [, hard] = /^Max open files\s+\S+\s+(\S+)/m.exec(readFileSync('/proc/self/limits', 'utf8')) ?? []
  return hard === undefined || hard === 'unlimited' ? Number.POSITIVE_INFINITY : Number(hard)
}

export const environment = () => ({ machine: machine(), node: process.version, commit: commit() })

// C

const works = (command) => spawnSync(command, ['--version'], { stdio: 'ignore' }).status === 0

/** The C compiler: $CC, or the first of cc, gcc, clang that runs; undefined if there is none. */
export function findCompiler() {
  return [process.env.CC, 'cc', 'gcc', 'clang'].find((name) => name && works(name))
}

/** Compiles scripts/bench/lib/<name>.c into build/bench/<name> unless that is newer, and returns its path. */
export function compile(name, compiler = findCompiler()) {
  if (!compiler) throw new CannotRun('needs a C compiler (cc, gcc or clang, or $CC): the load generator is C')
  const source = join(here, `${name}.c`)
  const target = join(root, 'build', 'bench', name)
  if (existsSync(target) && statSync(target).mtimeMs > statSync(source).mtimeMs) return target
  mkdirSync(dirname(target), { recursive: true })
  const fresh = `${target}.${process.pid}` // renamed when complete, so that a concurrent bench never runs half a file
  execFileSync(compiler, ['-std=c11', '-O2', '-Wall', '-Wextra', '-o', fresh, source], { stdio: 'inherit' })
  renameSync(fresh, target)
  return target
}

// Cores

/** The cores this process may use, according to the kernel; a container may own 4 and 5 rather than 0 and 1. */
export function allowedCores() {
  if (!existsSync('/proc/self/status')) return []
  const list = /^Cpus_allowed_list:\s*(\S+)/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1] ?? ''
  return list.split(',').flatMap((part) => {
    const [first, last = first] = part.split('-').map(Number)
    return Array.from({ length: last - first + 1 }, (_, i) => first + i)
  })
}

/** One core for the server, another for the load; undefined if there are not two or taskset(1) is missing. */
export function pickCores() {
  const cores = allowedCores()
  return cores.length >= 2 && works('taskset') ? { server: cores[0], load: cores[1] } : undefined
}

// Children

const children = new Set()
let canTieToParent
let isEnding = false // by a signal: any failure from then on is a consequence of it

/**
 * setpriv makes the kernel end a child when we die, even of SIGKILL; where it is missing, only our regular exits do.
 */
function wrapped(command, core) {
  canTieToParent ??= works('setpriv')
  const pin = core === undefined ? [] : ['taskset', '-c', String(core)]
  const tie = canTieToParent ? ['setpriv', '--pdeathsig', 'TERM', '--'] : []
  return [...tie, ...pin, ...command] // both exec what follows, so the pid stays the same
}

/** Starts `command` (an array) on `core`. `stopAll` knows the child until it has exited. */
export function launch(command, { core, env } = {}) {
  const [file, ...args] = wrapped(command, core)
  const child = spawn(file, args, { cwd: root, env: { ...process.env, ...env }, stdio: 'pipe' })
  child.said = ''
  const keepTail = (chunk) => {
    child.said = (child.said + chunk).slice(-4096)
  }
  child.stdout.on('data', keepTail)
  child.stderr.on('data', keepTail)
  child.stdin.on('error', () => undefined) // EPIPE: the child has gone, which 'exit' reports
  children.add(child)
  // 'exit' and not 'close': a leftover grandchild would keep the pipes open, and us waiting.
  child.ended = new Promise((resolve) => {
    child.once('error', (error) => resolve(error.message))
    child.once('exit', (code, signal) => resolve(signal ?? code))
  }).finally(() => children.delete(child))
  return child
}

/** The next whole line of a child's stdout. Rejects after `ms` or when the child ends, with its output. */
export function nextLine(child, ms) {
  return new Promise((resolve, reject) => {
    let text = ''
    const onData = (chunk) => {
      text += chunk
      if (text.includes('\n')) settle(resolve, text.slice(0, text.indexOf('\n')))
    }
    const settle = (how, value) => {
      clearTimeout(timer)
      child.stdout.off('data', onData)
      how(value)
    }
    const fail = (why) => settle(reject, new Error(`${child.spawnargs.join(' ')}: ${why}\n${child.said}`))
    const timer = setTimeout(() => fail(`no line within ${ms} ms`), ms)
    child.stdout.on('data', onData)
    child.ended.then((how) => setTimeout(() => fail(`ended (${how})`), 50)) // its last output may still be in the pipe
  })
}

export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms))

/** Sends SIGTERM, and SIGKILL after `graceMs`. */
export async function stop(child, graceMs = 5000) {
  const timer = setTimeout(() => child.kill('SIGKILL'), graceMs)
  child.kill('SIGTERM')
  await child.ended
  clearTimeout(timer)
  child.stdout.destroy()
  child.stderr.destroy()
}

export const stopAll = () => Promise.all([...children].map((child) => stop(child)))

/** Makes sure that all children end with this process, however it ends. Call once, before the first `launch`. */
export function endWithChildren() {
  const end = (code) => {
    isEnding = true
    stopAll().finally(() => process.exit(code))
  }
  for (const [signal, code] of Object.entries({ SIGHUP: 129, SIGINT: 130, SIGTERM: 143 })) {
    process.once(signal, () => end(code))
  }
  process.stdout.once('error', () => end(1)) // EPIPE: a reader such as `| head` has closed
  process.on('exit', () => {
    for (const child of children) child.kill('SIGTERM') // not SIGKILL: a millrace master ends its workers first
  })
}

/**
 * Runs a bench to its end. Exit code 0; 2 if it cannot run here; 1 if it failed. No child is left behind in any case.
 */
export async function runBench(name, main) {
  endWithChildren()
  try {
    await main()
  } catch (error) {
    if (isEnding) return
    process.exitCode = error instanceof CannotRun ? 2 : 1
    process.stderr.write(`bench ${name}: ${error instanceof CannotRun ? error.message : (error.stack ?? error)}\n`)
  } finally {
    await stopAll()
  }
}

// CPU time of a process

let ticksPerSecond

function clockTicks() {
  ticksPerSecond ??= Number(spawnSync('getconf', ['CLK_TCK'], { encoding: 'utf8' }).stdout) || 100
  return ticksPerSecond
}

/**
 * CPU time of a process so far, in seconds. `user` and `system` come from /proc/<pid>/stat: sampled at the kernel's
 * tick and reported in 10 ms steps, so only their ratio over a long time is meaningful. `total` is the scheduler's own
 * count in ns (/proc/<pid>/task/<tid>/schedstat, summed), exact while the process sleeps; `waited` is the time it could
 * have run while another process had its core. The ns of a thread are lost when it ends: sample a process whose threads
 * stay. Source: proc(5).
 */
export function cpuOf(pid) {
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ') // the name may contain spaces and parentheses
  const threads = readdirSync(`/proc/${pid}/task`)
  const schedule = threads.map((tid) =>
    readFileSync(`/proc/${pid}/task/${tid}/schedstat`, 'utf8').split(' ').map(Number),
  )
  return {
    user: Number(fields[11]) / clockTicks(),
    system: Number(fields[12]) / clockTicks(),
    total: sum(schedule.map(([ranNs]) => ranNs)) / 1e9,
    waited: sum(schedule.map(([, waitedNs]) => waitedNs)) / 1e9,
  }
}

export const cpuBetween = (before, after) => ({
  user: after.user - before.user,
  system: after.system - before.system,
  total: after.total - before.total,
  waited: after.waited - before.waited,
})

/**
 * Waits until a process sleeps and stays asleep: accepting and closing thousands of connections takes a while, and the
 * next server runs on the same core.
 */
export async function untilIdle(pid, deadlineMs = 10_000) {
  let last = cpuOf(pid).total
  let quiet = 0
  for (const deadline = Date.now() + deadlineMs; quiet < 3 && Date.now() < deadline; ) {
    await sleep(10)
    const { total } = cpuOf(pid)
    quiet = total - last < 0.0005 && !isRunnable(pid) ? quiet + 1 : 0
    last = total
  }
}

/** Running, or ready to run: on a busy machine it may have to wait. */
function isRunnable(pid) {
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
  return stat[stat.lastIndexOf(')') + 2] === 'R'
}

/** Start time in ticks after boot; together with the pid it identifies a process. Undefined once it has ended. */
export function startTimeOf(pid) {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
    return fields[0] === 'Z' ? undefined : fields[19] // a zombie waits for its parent and holds nothing
  } catch (error) {
    if (error.code !== 'ENOENT' && error.code !== 'ESRCH') throw error
    return undefined
  }
}

// Results

/** Writes results/<bench>-<timestamp>.json (git-ignored). Returns its path relative to the root. */
export function writeResults(bench, result) {
  const date = new Date().toISOString()
  const name = join('results', `${bench}-${date.replaceAll(':', '-')}.json`)
  mkdirSync(join(root, 'results'), { recursive: true })
  writeFileSync(join(root, name), `${JSON.stringify({ bench, date, ...result }, undefined, 2)}\n`)
  return name
}

/** Aligns rows of strings in columns: the first to the left, the others to the right. */
export function table(rows) {
  const widths = rows[0].map((_, column) => Math.max(...rows.map((row) => row[column].length)))
  const pad = (cell, column) => (column === 0 ? cell.padEnd(widths[column]) : cell.padStart(widths[column]))
  return rows.map((row) => row.map(pad).join('  ')).join('\n')
}
