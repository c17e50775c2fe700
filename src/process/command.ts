// The command line: what a person typed. Reads it, does it, says it in one line, and gives back the exit code.

import { realpathSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { codeOf, messageOf } from '../errors.ts'
import { guardOutput } from '../log.ts'
import { now } from '../loop/clock.ts'
import { version } from '../version.ts'
import { ask, type Done, type Request } from './control.ts'
import { CommandError, Exit } from './exit-codes.ts'
import { isAlive } from './identity.ts'
import { launchDaemon, runOther, runThinParent } from './launch.ts'
import type { StartOptions } from './messages.ts'
import { placesOfOurs, runDirCandidates } from './run-directory.ts'
import { runMaster } from './run-master.ts'
import { startFile } from './spawn.ts'
import { renderStatus } from './status.ts'

const USAGE = `Usage: millrace <command> [options] [app.js ...] [-- arguments of the app]

Commands:
  start         run the server of app.js in the foreground (without app.js: a demo)
  start -d      run it as a daemon; returns when every worker serves
  stop          end it: connections get Worker.stopTimeout seconds (2) to finish
  status        what runs: processes, connections, counters
  help          this text
  --version     the version

Options:
  -d, --daemon           start: run in the background
  -q, --quiet            start: print no banner
      --json             status: one JSON object
      --run-dir DIR      where lock, control socket and pid file live  (MILLRACE_RUN_DIR)
      --pid-file FILE    start: also the pid, for people               (MILLRACE_PID_FILE)
      --log-file FILE    start -d: log lines and stderr                (MILLRACE_LOG_FILE; in the run directory)
      --stdout-file FILE start -d: stdout of the workers               (MILLRACE_STDOUT_FILE; /dev/null)

Exit codes: 0 done, 1 failure, 2 usage, 3 not running, 4 already running, 5 address, 6 module or boot, 7 time-out
`

const OPTIONS = {
  daemon: { type: 'boolean', short: 'd', default: false },
  quiet: { type: 'boolean', short: 'q', default: false },
  json: { type: 'boolean', default: false },
  help: { type: 'boolean', short: 'h', default: false },
  version: { type: 'boolean', short: 'v', default: false },
  'run-dir': { type: 'string' },
  'pid-file': { type: 'string' },
  'log-file': { type: 'string' },
  'stdout-file': { type: 'string' },
} as const

type Flags = ReturnType<typeof parse>['values']

interface Line {
  readonly command: string
  readonly flags: Flags
  /** Real paths. */
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

const COMMANDS = new Map<string, (line: Line) => Promise<Exit>>(Object.entries({ start, stop, status }))

async function start(line: Line): Promise<Exit> {
  const { flags, modules, argv, isDirect } = line
  const other = isDirect ? null : otherCopy(modules[0] ?? '')
  if (other !== null) return runOther(other)
  const options: StartOptions = {
    modules,
    argv,
    runDir: runDirOf(flags),
    pidFile: flags['pid-file'] ?? process.env.MILLRACE_PID_FILE,
    isQuiet: flags.quiet,
  }
  if (flags.daemon) {
    const logFile = flags['log-file'] ?? process.env.MILLRACE_LOG_FILE
    const stdoutFile = flags['stdout-file'] ?? process.env.MILLRACE_STDOUT_FILE
    return print(await launchDaemon(options, { logFile, stdoutFile }))
  }
  return isDirect ? runThinParent(options) : runMaster(options, false, null)
}

async function stop({ modules, flags }: Line): Promise<Exit> {
  const answer = await askServer(modules, flags, { command: 'stop' })
  const deadline = now() + answer.stopTimeoutMs + STOP_SLACK_MS
  while (isAlive(answer)) {
    if (now() > deadline) throw new CommandError(Exit.Timeout, `pid ${answer.pid} is still stopping`)
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
  return print(`stopped, pid ${answer.pid}\n`)
}

async function status({ modules, flags }: Line): Promise<Exit> {
  const answer = await askServer(modules, flags, { command: 'status' })
  if (answer.status === undefined) throw new CommandError(Exit.Failure, 'the master answered without a status')
  return print(`${flags.json ? JSON.stringify(answer.status, null, 2) : renderStatus(answer.status)}\n`)
}

/** How long a master may take to answer. */
const ANSWER_TIMEOUT_MS = 5000
/** What a server may take to end beyond its own `Worker.stopTimeout`: workers are killed then, and reaped. */
const STOP_SLACK_MS = 10_000

/** The first server that answers, in the places where `start` may have put it. */
async function askServer(modules: readonly string[], flags: Flags, request: Request): Promise<Done> {
  const places = runDirCandidates(modules[0] ?? '', runDirOf(flags))
  for (const runDir of placesOfOurs(places)) {
    const answer = await ask(runDir, request, ANSWER_TIMEOUT_MS)
    if (answer?.ok === true) return answer
    if (answer !== null) throw new CommandError(Exit.Failure, answer.message)
  }
  throw new CommandError(Exit.NotRunning, `not running (looked in ${places.paths.join(', ')})`)
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
  return all.map((file) => {
    try {
      return realpathSync(file)
    } catch {
      return resolve(file) // `stop` works when the file is gone; `start` fails when it looks for the package
    }
  })
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
