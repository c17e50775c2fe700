// A server run as a person would run it: the real dist/start.js in processes of its own, with a run directory and
// modules in a sandbox. A sandbox must leave nothing behind: no process, no lock, no socket, no pid file.

import { type ChildProcess, type SpawnOptions, spawn } from 'node:child_process'
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmdirSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import net from 'node:net'
import { tmpdir } from 'node:os'
import { basename, dirname, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { codeOf } from '../../src/errors.ts'
import { type Line, readLine, startOptions } from '../../src/process/commands/line.ts'
import { askFound, askServer, findServer, need } from '../../src/process/commands/server.ts'
import { stopServer } from '../../src/process/commands/stop.ts'
import type { Request } from '../../src/process/control/requests.ts'
import { launchDaemon } from '../../src/process/launch.ts'
import type { ReloadOutcome } from '../../src/process/operations/receipts.ts'
import { runDirCandidates } from '../../src/process/run-directory.ts'
import type { Status, WorkerStatus } from '../../src/process/status/status.ts'
import { root, script } from '../tooling/support.ts'
import { until, within } from './until.ts'

const { processesWith, endProcess } = (await script('processes.mjs')) as {
  processesWith(name: string, prefix: string): { pid: number; command: string }[]
  endProcess(pid: number): void
}

export const startFile: string = join(root, 'dist/start.js')

/**
 * A statement that never ends: like `for (;;);` for everything else, but without using a core, which other tests need.
 */
export const HANGS = 'Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0)'

/** Set in the environment of every process of one sandbox. */
const MARK = 'TEST_SANDBOX'
/** Time for a command to end on a busy machine. */
const COMMAND_MS = 30_000
/** Polling must not keep the server busy: each of its processes has to answer. */
const STATUS_EVERY_MS = 20
/** What a server may leave behind: its log. */
const MAY_STAY = new Set(['millrace.log', 'log-file'])

export interface Outcome {
  /** Null if a signal ended it. */
  code: number | null
  signal: string | null
  stdout: string
  stderr: string
}

/** A running command. */
export class Running {
  stdout = ''
  stderr = ''
  readonly process: ChildProcess
  readonly ended: Promise<Outcome>

  constructor(child: ChildProcess) {
    this.process = child
    child.stdout?.setEncoding('utf8').on('data', (text) => {
      this.stdout += text
    })
    child.stderr?.setEncoding('utf8').on('data', (text) => {
      this.stderr += text
    })
    this.ended = new Promise((resolve, reject) => {
      child.once('error', reject)
      // 'exit', not 'close': a server left running may hold the pipes.
      child.once('exit', (code, signal) => {
        setImmediate(() => resolve({ code, signal, stdout: this.stdout, stderr: this.stderr }))
      })
    })
  }

  get pid(): number {
    return this.process.pid as number
  }

  /** Waits for the first match in what it has printed, on either stream. */
  async says(pattern: RegExp, ms = 20_000): Promise<RegExpExecArray> {
    try {
      return await until(() => pattern.exec(this.stdout + this.stderr), ms)
    } catch (error) {
      throw new Error(`it never said ${pattern}, but:\n${this.stdout}${this.stderr}`, { cause: error })
    }
  }

  /** Sends a signal and waits for the end. */
  end(signal: NodeJS.Signals): Promise<Outcome> {
    this.process.kill(signal)
    return within(COMMAND_MS, this.ended)
  }
}

export interface Sandbox {
  /** The folder for modules: inside the repository, so that they can import 'millrace'. */
  readonly directory: string
  /** MILLRACE_RUN_DIR of every command. It does not exist yet. */
  readonly runDir: string
  /** The environment of every command. */
  readonly env: Record<string, string | undefined>
  /** Writes a module (or any file). Returns its path. */
  file(name: string, text: string): string
  /** Runs `node <dist/start.js> <args>` to its end. */
  command(...args: string[]): Promise<Outcome>
  /** The same, without waiting. */
  begin(...args: string[]): Running
  /** Starts any program, without waiting. */
  spawn(program: string, args: readonly string[], options?: SpawnOptions): Running
  /**
   * `start -d <module>`, which must succeed. This, `status`, `stop` and `operate` do the work of the commands in this
   * process; the commands themselves have tests of their own.
   */
  start(module: string, ...args: string[]): Promise<Status>
  /** `start` in the foreground; resolves when its banner is printed. */
  foreground(module: string, ...args: string[]): Promise<Running>
  status(): Promise<Status>
  /** Takes the flags of the command `stop`. */
  stop(...flags: string[]): Promise<void>
  /** `reload`, `scale` and similar operations, which must succeed. */
  operate(request: Request): Promise<ReloadOutcome>
  /** The daemon's log. */
  log(): string
  /** The pids of all its processes. */
  pids(): number[]
}

let count = 0

/**
 * Runs `use` in a new sandbox. Afterwards everything must be gone; anything left is ended by force, and the test fails.
 */
export async function inSandbox(use: (box: Sandbox) => unknown): Promise<void> {
  const box = newSandbox()
  try {
    await use(box)
    await assertGone(box)
  } catch (error) {
    const log = box.log()
    if (error instanceof Error && log !== '') error.stack += `\n--- log of the server ---\n${log}`
    throw error
  } finally {
    for (const pid of box.pids()) endProcess(pid)
    for (const file of readdirSync(box.directory)) removeRunDirs(join(box.directory, file))
    rmSync(box.directory, { recursive: true, force: true })
    rmSync(dirname(box.runDir), { recursive: true, force: true })
  }
}

/** Removes the run directories that a module has without MILLRACE_RUN_DIR: they remain after a server, with its log. */
function removeRunDirs(module: string): void {
  const { paths, elsewhere } = runDirCandidates(module, undefined)
  const hash = basename(paths[0] ?? '')
  const temporary = readdirSync(tmpdir()).filter((name) => /^millrace-\d+$/.test(name))
  for (const path of [...paths, ...elsewhere]) rmSync(path, { recursive: true, force: true })
  for (const name of temporary) {
    rmSync(join(tmpdir(), name, hash), { recursive: true, force: true })
    removeIfEmpty(join(tmpdir(), name))
  }
}

function removeIfEmpty(folder: string): void {
  try {
    rmdirSync(folder)
  } catch (error) {
    const isFine = codeOf(error) === 'ENOTEMPTY' || codeOf(error) === 'ENOENT' // another test's, or already removed
    if (!isFine) throw error
  }
}

function newSandbox(): Sandbox {
  const mark = `${process.pid}-${count++}.`
  mkdirSync(join(root, 'build/tmp'), { recursive: true })
  const directory = mkdtempSync(join(root, 'build/tmp/server-'))
  const runDir = join(realpathSync(mkdtempSync(join(tmpdir(), 'mr-'))), 'run')
  const env = { ...process.env, [MARK]: mark, MILLRACE_RUN_DIR: runDir }
  let askedAt = 0
  const box: Sandbox = {
    directory,
    runDir,
    env,
    file(name, text) {
      const path = join(directory, name)
      mkdirSync(dirname(path), { recursive: true })
      writeFileSync(path, text)
      return path
    },
    spawn: (program, args, options = {}) =>
      new Running(spawn(program, args, { stdio: ['ignore', 'pipe', 'pipe'], env: box.env, ...options })),
    begin: (...args) => box.spawn(process.execPath, [startFile, ...args]),
    command: (...args) => within(COMMAND_MS, box.begin(...args).ended),
    async start(module, ...args) {
      if (isPlain(box)) await startHere(box, ['start', '-d', module, ...args])
      else succeeded(await box.command('start', '-d', module, ...args))
      return box.status()
    },
    async foreground(module, ...args) {
      const server = box.begin('start', module, ...args)
      await server.says(/Press Ctrl\+C to stop/)
      return server
    },
    async status() {
      const line = lineIn(box, 'status')
      await sleep(askedAt + STATUS_EVERY_MS - performance.now())
      askedAt = performance.now()
      if (line === null) return JSON.parse(succeeded(await box.command('status', '--json')).stdout) as Status
      return need((await askServer(line, { command: 'status' })).status)
    },
    async stop(...flags) {
      const line = lineIn(box, 'stop', ...flags)
      if (line === null) succeeded(await box.command('stop', ...flags))
      else await within(COMMAND_MS, stopServer(line))
    },
    async operate(request) {
      const line = lineIn(box, request.command)
      if (line === null) throw new Error('where the server is, its command has to find')
      const found = await findServer(line)
      const outcome = need((await within(COMMAND_MS, askFound(found, request))).outcome)
      if (outcome.reason !== '') throw new Error(`${request.command} given up: ${outcome.reason}`)
      return outcome
    },
    log: () => (existsSync(join(runDir, 'millrace.log')) ? readFileSync(join(runDir, 'millrace.log'), 'utf8') : ''),
    pids: () => processesWith(MARK, mark).map(({ pid }) => pid),
  }
  return box
}

/**
 * A command's line as parsed in this sandbox, for commands that are run hundreds of times without being the subject of
 * the test: in this process the same code takes a tenth of the time. Null if the command has to find the run directory
 * itself.
 */
function lineIn({ env }: Sandbox, command: string, ...args: string[]): Line | null {
  const { MILLRACE_RUN_DIR: runDir } = env
  return runDir === undefined ? null : readLine([command, '--run-dir', runDir, '-q', ...args], null)
}

/**
 * Whether the environment has nothing meant for the process that starts the server, and there is no other copy of the
 * package.
 */
function isPlain({ env, directory }: Sandbox): boolean {
  const names = Object.keys(env).filter((name) => /^(NODE_OPTIONS|NOTIFY_|LISTEN_|WATCHDOG_)/.test(name))
  if (names.some((name) => env[name] !== process.env[name])) return false
  return env.MILLRACE_RUN_DIR !== undefined && !existsSync(join(directory, 'node_modules'))
}

/** `start -d` without the launching process, which reads its line and environment before it waits. */
async function startHere(box: Sandbox, args: string[]): Promise<void> {
  const own = process.env
  process.env = box.env
  let starting: Promise<string>
  try {
    starting = launchDaemon(startOptions(readLine(args, null)), { node: process.execPath, startFile })
  } finally {
    process.env = own
  }
  await within(COMMAND_MS, starting)
}

/** Asserts that no process is left, and that nothing in the run directory indicates one. */
export async function assertGone(box: Sandbox): Promise<void> {
  try {
    await until(() => box.pids().length === 0, 5_000)
  } catch (error) {
    throw new Error(`processes ${box.pids()} are left`, { cause: error })
  }
  assertClean(box.runDir)
}

/** Asserts that nothing in a run directory indicates a server. */
export function assertClean(runDir: string): void {
  const left = existsSync(runDir) ? readdirSync(runDir).filter((name) => !MAY_STAY.has(name)) : []
  if (left.length > 0) throw new Error(`left in the run directory: ${left}`)
}

/** Returns the outcome of a command, which must have exit code 0. */
export function succeeded(outcome: Outcome): Outcome {
  if (outcome.code === 0) return outcome
  throw new Error(`exit ${outcome.code ?? outcome.signal}: ${outcome.stderr}${outcome.stdout}`)
}

/** The workers of all groups, in order. */
export function workersOf({ groups }: Status): WorkerStatus[] {
  return groups.flatMap(({ workers }) => workers)
}

/** The port of the first group. */
export function portOf({ groups }: Status): number {
  return groups[0]?.port ?? 0
}

/** Whether a process is alive: a zombie is not. */
export function lives(pid: number): boolean {
  try {
    return !/^\d+ \(.*\) [ZX]/s.test(readFileSync(`/proc/${pid}/stat`, 'utf8'))
  } catch {
    return false // ENOENT or ESRCH
  }
}

/** A client of a text server: sends lines, receives lines. */
export class Client {
  readonly socket: net.Socket
  #received = ''
  #isClosed = false

  private constructor(socket: net.Socket) {
    this.socket = socket
    socket.setEncoding('utf8').on('data', (text) => {
      this.#received += text
    })
    socket
      .on('error', () => socket.destroy())
      .on('close', () => {
        this.#isClosed = true
      })
  }

  /** Connects to a loopback port or a path. */
  static async connect(to: number | string, host = '127.0.0.1'): Promise<Client> {
    const socket = typeof to === 'number' ? net.connect(to, host) : net.connect(to)
    await within(
      5_000,
      new Promise<void>((resolve, reject) => {
        socket.once('connect', resolve).once('error', reject)
      }),
    )
    return new Client(socket)
  }

  get isClosed(): boolean {
    return this.#isClosed
  }

  send(line: string): void {
    this.socket.write(`${line}\n`)
  }

  /** The next line. Rejects if the connection closes first. */
  async line(ms = 10_000): Promise<string> {
    await until(() => this.#received.includes('\n') || this.#isClosed, ms)
    const end = this.#received.indexOf('\n')
    if (end < 0) throw new Error(`closed after ${JSON.stringify(this.#received)}`)
    const line = this.#received.slice(0, end)
    this.#received = this.#received.slice(end + 1)
    return line
  }

  ask(line: string): Promise<string> {
    this.send(line)
    return this.line()
  }

  close(): void {
    this.socket.destroy()
  }
}

/** A free port, the first of `count` consecutive ones, below the range that the kernel gives to clients. */
export async function freePort(count = 1): Promise<number> {
  for (;;) {
    const first = 10_000 + Math.floor(Math.random() * 20_000)
    const isFree = await Promise.all(Array.from({ length: count }, (_, more) => canListen(first + more)))
    if (isFree.every(Boolean)) return first
  }
}

function canListen(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const server = net.createServer()
    server.once('error', () => resolve(false))
    server.listen(port, '127.0.0.1', () => server.close(() => resolve(true)))
  })
}

/** Sends one line and receives one, on a connection of its own. */
export async function ask(to: number | string, line: string, host?: string): Promise<string> {
  const client = await Client.connect(to, host)
  try {
    return await client.ask(line)
  } finally {
    client.close()
  }
}

/** A module with one text server that answers `<line> <pid>`; `more` is code that runs before `runAll`. */
export function echo(count = 1, more = '', listen = 'text://127.0.0.1:0'): string {
  return `
    import { Worker } from 'millrace'
    const worker = new Worker('${listen}', { name: 'echo', count: ${count} })
    worker.onMessage = (connection, line) => connection.send(line + ' ' + process.pid)
    ${more}
    Worker.runAll()
  `
}
