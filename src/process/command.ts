// The command line: what a person typed. Reads it, does it, says it in one line, and gives back the exit code.

import { realpathSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { codeOf, messageOf } from '../errors.ts'
import { guardOutput } from '../log.ts'
import { now } from '../loop/clock.ts'
import { udpPorts } from '../net/udp-ports.ts'
import { version } from '../version.ts'
import { protocolOf } from './banner.ts'
import { ask, type Done, type Request } from './control.ts'
import { type Described, describeModules } from './describe.ts'
import { CommandError, Exit } from './exit-codes.ts'
import type { Credentials, Declaration } from './group.ts'
import { isAlive } from './identity.ts'
import { launchDaemon, runDirect, runOther } from './launch.ts'
import type { LogFormat, StartOptions } from './messages.ts'
import { placesToAsk, runDirCandidates } from './run-directory.ts'
import { runMaster } from './run-master.ts'
import { startFile } from './spawn.ts'
import type { ConnectionPage, Cursor } from './status.ts'
import { renderConnections, renderReload, renderStatus, renderTable, renderUpgrade } from './tables.ts'

const USAGE = `Usage: millrace <command> [options] [app.js ...] [-- arguments of the app]

Commands:
  start         run the server of app.js in the foreground (without app.js: a demo)
  start -d      run it as a daemon; returns when every worker serves
  stop          end it: connections get Worker.stopTimeout seconds (2) to finish
  stop -g       end it gracefully: they get drainTimeoutMs of their Worker (30 s)
  restart       check the code, stop what runs, start (-d, -g as above)
  reload        replace every process by one with the new code, without losing a connection that works
  upgrade       another process becomes the master, with the Node and the millrace of now; no port is closed, nothing is lost
  status        what runs: processes, connections, counters
  connections   every open connection
  check         evaluate app.js in a process of its own and say what it declares; nothing else
  help          this text
  --version     the version

Options:
  -d, --daemon           start, restart: run in the background
  -g, --graceful         stop, restart: give work the whole drainTimeoutMs
  -q, --quiet            start, restart: print no banner
      --json             status, connections, reload, upgrade, check: JSON
      --node PATH        upgrade: the Node of the new master; the one that runs this command
      --run-dir DIR      where lock, control socket and pid file live  (MILLRACE_RUN_DIR)
      --pid-file FILE    also the pid, for people                      (MILLRACE_PID_FILE)
      --log-file FILE    log lines and stderr; a daemon's default is in the run directory  (MILLRACE_LOG_FILE)
      --stdout-file FILE stdout of a daemon's workers; /dev/null       (MILLRACE_STDOUT_FILE)
      --log-format F     text or json                                  (MILLRACE_LOG_FORMAT)
      --log-max-size N   bytes of a log or stdout file before it is put aside as FILE.1; 0: no limit  (MILLRACE_LOG_MAX_SIZE)
      --user NAME        who the workers run as, when root starts them (MILLRACE_USER)
      --group NAME       their group; the user's own                   (MILLRACE_GROUP)
      --umask MODE       octal, of all processes                       (MILLRACE_UMASK)
      --engine NAME      native or node; native where the addon has it (MILLRACE_ENGINE)

Exit codes: 0 done, 1 failure, 2 usage, 3 not running, 4 already running, 5 address, 6 module or boot, 7 time-out
`

const OPTIONS = {
  daemon: { type: 'boolean', short: 'd', default: false },
  graceful: { type: 'boolean', short: 'g', default: false },
  quiet: { type: 'boolean', short: 'q', default: false },
  json: { type: 'boolean', default: false },
  help: { type: 'boolean', short: 'h', default: false },
  version: { type: 'boolean', short: 'v', default: false },
  'run-dir': { type: 'string' },
  'pid-file': { type: 'string' },
  'log-file': { type: 'string' },
  'stdout-file': { type: 'string' },
  'log-format': { type: 'string' },
  'log-max-size': { type: 'string' },
  user: { type: 'string' },
  group: { type: 'string' },
  umask: { type: 'string' },
  engine: { type: 'string' },
  node: { type: 'string' },
} as const

type Flags = ReturnType<typeof parse>['values']

interface Line {
  readonly command: string
  readonly flags: Flags
  /** Absolute paths, links as typed: what they point at may change until a reload. */
  readonly modules: readonly string[]
  readonly argv: readonly string[]
  /** The user's file was run directly and has been evaluated in this process. */
  readonly isDirect: boolean
}

/** Does what `argv` says. `direct` is the user's file when that is what was run. Never rejects. */
export async function runCommand(argv: readonly string[], direct: string | null): Promise<Exit> {
  guardOutput()
  try {
    return await dispatch(argv, direct)
  } catch (error) {
    process.stderr.write(`millrace: ${messageOf(error)}\n`)
    return error instanceof CommandError ? error.exitCode : Exit.Failure
  }
}

async function dispatch(argv: readonly string[], direct: string | null): Promise<Exit> {
  const line = read(argv, direct)
  if (line.flags.version) return print(`${version}\n`)
  if (line.flags.help || line.command === 'help') return print(USAGE)
  const command = COMMANDS.get(line.command)
  if (command === undefined) throw usage(line.command === '' ? 'no command' : `unknown command '${line.command}'`)
  return command(line)
}

const COMMANDS = new Map<string, (line: Line) => Promise<Exit>>(
  Object.entries({ start, stop, restart, reload, upgrade, status, connections, check }),
)

async function start(line: Line): Promise<Exit> {
  const { flags, modules, isDirect } = line
  const other = isDirect ? null : otherCopy(modules[0] ?? '')
  if (other !== null) return runOther(other)
  return launch(startOptions(line), flags.daemon, isDirect)
}

async function launch(options: StartOptions, isDaemon: boolean, isDirect: boolean): Promise<Exit> {
  if (isDaemon) return print(await launchDaemon(options))
  return isDirect ? runDirect(options) : runMaster(options, false, null)
}

async function stop(line: Line): Promise<Exit> {
  const { pid } = await stopServer(line)
  return print(`stopped, pid ${pid}\n`)
}

async function stopServer({ modules, flags }: Line): Promise<Done> {
  const answer = await askServer(modules, flags, { command: 'stop', isGraceful: flags.graceful })
  const deadline = now() + answer.stopTimeoutMs + STOP_SLACK_MS
  while (isAlive(answer)) {
    if (now() > deadline) throw new CommandError(Exit.Timeout, `pid ${answer.pid} is still stopping`)
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
  return answer
}

/** What would not come up does not end what runs. */
async function restart(line: Line): Promise<Exit> {
  const { flags, modules, isDirect } = line
  const other = isDirect ? null : otherCopy(modules[0] ?? '')
  if (other !== null) return runOther(other)
  const options = startOptions(line)
  await describeHere(line)
  try {
    const { pid } = await stopServer(line)
    print(`stopped, pid ${pid}\n`)
  } catch (error) {
    if (!(error instanceof CommandError && error.exitCode === Exit.NotRunning)) throw error
  }
  return launch(options, flags.daemon, isDirect)
}

async function reload({ modules, flags }: Line): Promise<Exit> {
  const { pid } = await askServer(modules, flags, { command: 'ping' }) // one that hangs is told from one at work
  const answer = await askServer(modules, flags, { command: 'reload' }, Number.POSITIVE_INFINITY).catch(
    endedBefore(pid, 'reload'),
  )
  const outcome = need(answer.reload)
  if (flags.json) await show(JSON.stringify(outcome, null, 2))
  else if (outcome.slots.length > 0) await show(renderReload(outcome))
  if (outcome.reason !== '') throw new CommandError(outcome.exitCode, `reload given up: ${outcome.reason}`)
  return Exit.Ok
}

/** The copy of the package that the app resolves now is the one that takes over. */
async function upgrade(line: Line): Promise<Exit> {
  const { modules, flags, isDirect } = line
  const other = isDirect ? null : otherCopy(modules[0] ?? '')
  if (other !== null) return runOther(other)
  const { pid } = await askServer(modules, flags, { command: 'ping' })
  const node = flags.node === undefined ? process.execPath : resolve(flags.node)
  const request = { command: 'upgrade', node, startFile: realpathSync(startFile()) } as const
  const answer = await askServer(modules, flags, request, Number.POSITIVE_INFINITY).catch(endedBefore(pid, 'upgrade'))
  const outcome = need(answer.upgrade)
  if (flags.json) await show(JSON.stringify(outcome, null, 2))
  else if (outcome.reason === '') await show(renderUpgrade(outcome))
  if (outcome.reason !== '') throw new CommandError(outcome.exitCode, `upgrade given up: ${outcome.reason}`)
  return Exit.Ok
}

/** What it means that nobody is there any more. */
function endedBefore(pid: number, what: string): (error: unknown) => never {
  return (error) => {
    const isGone = error instanceof CommandError && error.exitCode === Exit.NotRunning
    throw isGone ? new CommandError(Exit.Failure, `the master, pid ${pid}, ended before the ${what} did`) : error
  }
}

async function status({ modules, flags }: Line): Promise<Exit> {
  const found = need((await askServer(modules, flags, { command: 'status' })).status)
  return show(flags.json ? JSON.stringify(found, null, 2) : renderStatus(found))
}

async function connections({ modules, flags }: Line): Promise<Exit> {
  const pages: ConnectionPage[] = []
  let cursor: Cursor | undefined
  do {
    const page = need((await askServer(modules, flags, { command: 'connections', cursor })).page)
    pages.push(page)
    cursor = page.next ?? undefined
  } while (cursor !== undefined)
  const all = { connections: pages.flatMap(({ rows }) => rows), silent: pages.flatMap(({ silent }) => silent) }
  return show(flags.json ? JSON.stringify(all, null, 2) : renderConnections(pages))
}

async function check(line: Line): Promise<Exit> {
  const other = line.isDirect ? null : otherCopy(line.modules[0] ?? '')
  if (other !== null) return runOther(other)
  const { groups } = await describeHere(line)
  if (line.flags.json) return show(JSON.stringify(groups, null, 2))
  const rows = groups.map((group) => [
    ...[group.name, protocolOf(group), group.listen || 'none', String(group.count), userOf(group.credentials)],
  ])
  return show(`${renderTable([['name', 'protocol', 'listen', 'processes', 'user'], ...rows])}\nThe code is fine.`)
}

function userOf(credentials: Credentials | null): string {
  return credentials === null ? '-' : (credentials.user ?? String(credentials.uid))
}

/** What the code declares. Rejects also for what no start could bring up: `restart` must not end what runs for it. */
async function describeHere(line: Line): Promise<Described> {
  const { modules, argv, user = '', group = '', engine } = startOptions(line)
  const { signal } = new AbortController()
  const described = await describeModules({
    modules,
    argv,
    user,
    group,
    engine,
    signal,
    output: null,
    onSpawn: () => undefined,
  })
  for (const declaration of described.groups) if (declaration.transport === 'udp') checkUdp(declaration)
  return described
}

function checkUdp(declaration: Declaration): void {
  try {
    udpPorts().check(declaration)
  } catch (error) {
    throw new CommandError(Exit.Module, messageOf(error), { cause: error })
  }
}

/** How long a master may take to answer. */
const ANSWER_TIMEOUT_MS = 5000
/** What a server may take to end beyond its own `Worker.stopTimeout`: workers are killed then, and reaped. */
const STOP_SLACK_MS = 10_000

/** The first server that answers, in the places where `start` may have put it. */
async function askServer(
  modules: readonly string[],
  flags: Flags,
  request: Request,
  timeoutMs = ANSWER_TIMEOUT_MS,
): Promise<Done> {
  const { places, unreadable } = placesToAsk(modules[0] ?? '', runDirOf(flags))
  for (const { path, uid } of places) {
    const answer = await ask(path, request, timeoutMs, uid)
    if (answer?.ok === true) return answer
    if (answer !== null) throw new CommandError(Exit.Failure, answer.message)
  }
  const others = unreadable.length === 0 ? '' : `; another user's server may be in ${unreadable.join(', ')}: try sudo`
  const { paths, elsewhere } = runDirCandidates(modules[0] ?? '', runDirOf(flags))
  throw new CommandError(Exit.NotRunning, `not running (looked in ${[...paths, ...elsewhere].join(', ')}${others})`)
}

/** A part of the answer that this command is about. */
function need<T>(part: T | undefined): T {
  if (part === undefined)
    throw new CommandError(Exit.Failure, 'the master answered something else: is it another version?')
  return part
}

// Reading the line

function parse(args: readonly string[]) {
  return parseArgs({ args: [...args], options: OPTIONS, allowPositionals: true, strict: true })
}

function read(line: readonly string[], direct: string | null): Line {
  const split = line.indexOf('--')
  const ours = split < 0 ? line : line.slice(0, split)
  const argv = split < 0 ? [] : line.slice(split + 1)
  try {
    const { values: flags, positionals } = parse(ours)
    const [command = '', ...files] = positionals
    return { command, flags, modules: resolveModules(files, direct), argv, isDirect: direct !== null }
  } catch (error) {
    if (error instanceof CommandError) throw error
    throw usage(messageOf(error).split('. ')[0] ?? '')
  }
}

function resolveModules(files: readonly string[], direct: string | null): string[] {
  const all = direct === null ? files : [direct, ...files]
  if (all.length === 0) return [resolve(dirname(startFile()), 'demo.js')]
  return all.map((file) => resolve(file))
}

/** What the command line says, and where it says nothing, the environment. */
function startOptions({ modules, argv, flags }: Line): StartOptions {
  const { env } = process
  return {
    modules,
    argv,
    runDir: runDirOf(flags),
    pidFile: flags['pid-file'] ?? env.MILLRACE_PID_FILE,
    logFile: flags['log-file'] ?? env.MILLRACE_LOG_FILE,
    stdoutFile: flags['stdout-file'] ?? env.MILLRACE_STDOUT_FILE,
    logFormat: logFormat(flags['log-format'] ?? env.MILLRACE_LOG_FORMAT ?? 'text'),
    logMaxSize: wholeNumber('--log-max-size', flags['log-max-size'] ?? env.MILLRACE_LOG_MAX_SIZE, 10),
    user: flags.user ?? env.MILLRACE_USER,
    group: flags.group ?? env.MILLRACE_GROUP,
    umask: wholeNumber('--umask', flags.umask ?? env.MILLRACE_UMASK, 8),
    engine: engineName(flags.engine ?? env.MILLRACE_ENGINE),
    isQuiet: flags.quiet,
  }
}

function logFormat(text: string): LogFormat {
  if (text === 'text' || text === 'json') return text
  throw usage(`--log-format is text or json, not '${text}'`)
}

function engineName(text: string | undefined): string | undefined {
  if (text === undefined || text === 'native' || text === 'node') return text
  throw usage(`--engine is native or node, not '${text}'`)
}

function wholeNumber(flag: string, text: string | undefined, radix: 8 | 10): number | undefined {
  if (text === undefined) return undefined
  const digits = radix === 8 ? /^[0-7]{1,4}$/ : /^\d{1,15}$/
  if (!digits.test(text))
    throw usage(`${flag} is ${radix === 8 ? 'an octal mode like 027' : 'a number of bytes'}, not '${text}'`)
  return Number.parseInt(text, radix)
}

function runDirOf(flags: Flags): string | undefined {
  return flags['run-dir'] ?? process.env.MILLRACE_RUN_DIR
}

function usage(problem: string): CommandError {
  return new CommandError(Exit.Usage, `${problem}\n\n${USAGE}`)
}

function print(text: string): Exit {
  process.stdout.write(text)
  return Exit.Ok
}

/** Prints what was asked for: if it does not arrive (a full disk), that is a failure. A reader that has seen enough is not. */
function show(text: string): Promise<Exit> {
  return new Promise((resolve, reject) => {
    process.stdout.write(`${text}\n`, (error) => {
      if (!error || codeOf(error) === 'EPIPE') return resolve(Exit.Ok)
      reject(new CommandError(Exit.Failure, `cannot write to stdout: ${error.message}`))
    })
  })
}

// Two copies of the package: npx or a global one starts an app that has its own

/** The start file of the copy that the app resolves, or null when that is this one. */
function otherCopy(module: string): string | null {
  let found: string
  try {
    realpathSync(module)
    found = createRequire(module).resolve('millrace/package.json')
  } catch (error) {
    if (codeOf(error) === 'ENOENT') throw new CommandError(Exit.Module, `there is no file ${module}`)
    throw new CommandError(Exit.Module, `${module} cannot find 'millrace': npm install millrace, or npm link millrace`)
  }
  const theirs = resolve(dirname(realpathSync(found)), 'dist/start.js')
  return theirs === realpathSync(startFile()) ? null : theirs
}
