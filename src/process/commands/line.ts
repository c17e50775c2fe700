// Parses the command line: command, flags, modules, groups, the app's own arguments. Flags may stand anywhere, and one
// that the command does not know is an error, not ignored.

import { existsSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { messageOf } from '../../errors.ts'
import { parseHttpAddress } from '../../net/address.ts'
import { ENGINES } from '../../transport.ts'
import { CommandError, Exit } from '../exit-codes.ts'
import { LONGEST_TIMEOUT_MS } from '../group.ts'
import type { LogFormat, StartOptions } from '../messages.ts'
import { runnableAt, statOf } from '../paths.ts'
import { demoFile } from '../start-file.ts'
import { shellWord } from '../terminal/banner.ts'

/** A flag: how it is typed, and its line in the help. */
export interface Flag {
  readonly type: 'boolean' | 'string'
  readonly short?: string
  /** The placeholder for its value in the help. */
  readonly value?: string
  /** The environment variable with the same meaning. */
  readonly env?: string
  readonly text: string
}

export const FLAGS = {
  daemon: { type: 'boolean', short: 'd', text: 'run in the background; returns when every worker serves' },
  graceful: { type: 'boolean', short: 'g', text: 'give work the whole drainTimeoutMs of its Worker (30 s)' },
  timeout: {
    ...{ type: 'string', short: 't', value: 'TIME' },
    text: 'give work this long instead: seconds, or with a unit: 500ms, 10s, 2m',
  },
  wait: { type: 'boolean', text: 'return when it is done; the default' },
  'no-wait': { type: 'boolean', text: 'return when it has been asked for; events and the log tell how it went' },
  canary: {
    type: 'boolean',
    text: 'one process of each group first; the rest when it does as well as those beside it',
  },
  'canary-ms': { type: 'string', value: 'N', text: 'how long that one is watched, ms; 10000' },
  follow: { type: 'boolean', short: 'f', text: 'go on with what comes, until Ctrl+C' },
  lines: { type: 'string', short: 'n', value: 'N', text: 'so many of those that were' },
  name: { type: 'string', value: 'NAME', text: 'a group, also where its name looks like a file; may be repeated' },
  quiet: { type: 'boolean', short: 'q', text: 'print nothing but errors' },
  json: { type: 'boolean', text: 'JSON on stdout, errors too' },
  'run-dir': {
    ...{ type: 'string', value: 'DIR', env: 'MILLRACE_RUN_DIR' },
    text: 'where lock, control socket and pid file live',
  },
  'pid-file': { type: 'string', value: 'FILE', env: 'MILLRACE_PID_FILE', text: 'also the pid, for people' },
  'log-file': {
    ...{ type: 'string', value: 'FILE', env: 'MILLRACE_LOG_FILE' },
    text: "log lines and stderr; a daemon's default is in the run directory",
  },
  'stdout-file': {
    ...{ type: 'string', value: 'FILE', env: 'MILLRACE_STDOUT_FILE' },
    text: "stdout of a daemon's workers; /dev/null",
  },
  'log-format': { type: 'string', value: 'F', env: 'MILLRACE_LOG_FORMAT', text: 'text or json' },
  'log-max-size': {
    ...{ type: 'string', value: 'N', env: 'MILLRACE_LOG_MAX_SIZE' },
    text: 'bytes of a log or stdout file before it is put aside as FILE.1; 0: no limit',
  },
  user: {
    ...{ type: 'string', value: 'NAME', env: 'MILLRACE_USER' },
    text: 'who the workers run as, when root starts them',
  },
  group: { type: 'string', value: 'NAME', env: 'MILLRACE_GROUP', text: "their group; the user's own" },
  umask: { type: 'string', value: 'MODE', env: 'MILLRACE_UMASK', text: 'octal, of all processes' },
  engine: {
    ...{ type: 'string', value: 'NAME', env: 'MILLRACE_ENGINE' },
    text: 'native or node; native where the addon has it',
  },
  node: { type: 'string', value: 'PATH', text: 'the Node of the new master; that of this command' },
  health: {
    ...{ type: 'string', value: 'ADDRESS', env: 'MILLRACE_HEALTH' },
    text: 'answer /healthz, /readyz and /metrics at http://HOST:PORT or unix:///PATH',
  },
  'stop-delay': {
    ...{ type: 'string', value: 'MS', env: 'MILLRACE_STOP_DELAY' },
    text: 'a graceful stop: /readyz is red for so long before the drain',
  },
  watch: { type: 'boolean', text: 'reload when code in the folder of app.js changes, for development' },
  help: { type: 'boolean', short: 'h', text: 'what a command does, and its flags' },
  version: { type: 'boolean', short: 'v', text: 'the version' },
} as const satisfies Record<string, Flag>

export type FlagName = keyof typeof FLAGS
export type Flags = { readonly [name in FlagName]?: (typeof FLAGS)[name]['type'] extends 'boolean' ? boolean : string }

/** Accepted by every command. */
export const COMMON_FLAGS: readonly FlagName[] = ['run-dir', 'json', 'quiet', 'help']
/** Flags for starting a server. */
export const START_FLAGS: readonly FlagName[] = [
  ...(['daemon', 'pid-file', 'log-file', 'stdout-file', 'log-format', 'log-max-size'] as const),
  ...(['user', 'group', 'umask', 'engine', 'health', 'stop-delay', 'watch'] as const),
]

export interface Line {
  readonly command: string
  readonly flags: Flags
  /** Absolute paths with links as typed, since their targets may change before a reload. */
  readonly modules: readonly string[]
  /** The operands that are taken for modules, as typed. */
  readonly files: readonly string[]
  /** Operands that are not files: names of groups, and whatever else a command takes. */
  readonly words: readonly string[]
  readonly argv: readonly string[]
  /** The line has a `--`: `argv` is what the app shall get, even if that is nothing. */
  readonly hasArgv: boolean
  /** The user's file was run directly and has been evaluated in this process. */
  readonly isDirect: boolean
}

/** Stands for the minus of a negative number, which is not a flag. No one types this character. */
const MINUS = '\u0001'

/** Throws a CommandError for a line that makes no sense. */
export function readLine(typed: readonly string[], direct: string | null): Line {
  const split = typed.indexOf('--')
  const ours = (split < 0 ? typed : typed.slice(0, split)).map((arg) => arg.replace(/^-(?=\d+$)/, MINUS))
  const argv = split < 0 ? [] : typed.slice(split + 1)
  const { values, positionals, tokens } = parse(ours)
  const [command = '', ...operands] = positionals.map(withMinus)
  // such as a variable of a script that is not set: without it, the line would mean something else
  if (operands.includes('')) throw usage(`an operand is empty: ''`)
  const flags = Object.fromEntries(Object.entries(values).map(([name, value]) => [name, withMinus(value)])) as Flags
  const names = checkValues(valuesOf(tokens))
  const files = operands.filter(isFile)
  const words = [...names, ...operands.filter((operand) => !isFile(operand))]
  return {
    command,
    flags,
    modules: resolveModules(files, direct),
    files,
    words,
    argv,
    hasArgv: split >= 0,
    isDirect: direct !== null,
  }
}

function parse(args: readonly string[]) {
  try {
    return parseArgs({ args: [...args], options: FLAGS, allowPositionals: true, strict: true, tokens: true })
  } catch (error) {
    throw usage(withMinus(messageOf(error).split('. ')[0] ?? ''))
  }
}

/** The values of each flag that has any, in the order of the line. */
function valuesOf(tokens: ReturnType<typeof parse>['tokens']): ReadonlyMap<string, readonly string[]> {
  const values = new Map<string, string[]>()
  for (const token of tokens) {
    if (token.kind !== 'option' || token.value === undefined) continue
    values.set(token.name, [...(values.get(token.name) ?? []), withMinus(token.value)])
  }
  return values
}

/** Returns the names of groups, the only flag that may be given several times. Throws for values that say nothing. */
function checkValues(values: ReadonlyMap<string, readonly string[]>): readonly string[] {
  for (const [flag, given] of values) {
    if (given.includes('')) throw usage(`--${flag} is empty: leave it out, or give it a value`)
    if (flag !== 'name' && given.length > 1)
      throw usage(`--${flag} is given twice: ${given.map((value) => `'${value}'`).join(' and ')}`)
  }
  return values.get('name') ?? []
}

function withMinus<T>(value: T): T {
  return typeof value === 'string' ? (value.replaceAll(MINUS, '-') as T & string) : value
}

/**
 * Whether an operand is a module and not the name of a group: it exists, or looks like a path or a code file. An
 * address is not a module.
 */
function isFile(operand: string): boolean {
  if (operand.includes('://') || operand === '') return false
  if (operand.includes('/') || /^\.\.?$|\.[cm]?[jt]sx?$/.test(operand)) return true
  return isFolder(operand) ? runnableAt(operand) !== null : existsSync(operand)
}

function isFolder(path: string): boolean {
  return statOf(path)?.isDirectory() ?? false
}

function resolveModules(files: readonly string[], direct: string | null): string[] {
  const all = direct === null ? files : [direct, ...files]
  if (all.length === 0) return [demoFile()]
  return all.map(resolveModule)
}

function resolveModule(file: string): string {
  const path = resolve(file)
  if (!isFolder(path)) return path
  const entry = runnableAt(path)
  if (entry !== null) return entry
  throw new CommandError(
    Exit.Module,
    `${file} is a folder without an index.js, or a package.json whose "main" exists`,
    {
      next: `name the file to run: ${shellWord(join(file, 'app.js'))}`,
    },
  )
}

/**
 * The options from the command line, or else from the environment.
 * @param before those of the server that runs, for what neither of them says
 */
export function startOptions({ modules, argv, flags, isDirect }: Line, before?: StartOptions): StartOptions {
  const given = (name: FlagWithVariable) => givenFor(flags, name)
  const number = (name: FlagWithVariable, what: keyof typeof NUMBERS) => wholeNumber(`--${name}`, given(name), what)
  return {
    modules,
    argv,
    runDir: runDirOf(flags) ?? before?.runDir,
    pidFile: fileOf(given('pid-file')) ?? before?.pidFile,
    logFile: fileOf(given('log-file')) ?? before?.logFile,
    stdoutFile: fileOf(given('stdout-file')) ?? before?.stdoutFile,
    logFormat: logFormat(given('log-format') ?? before?.logFormat ?? 'text'),
    logMaxSize: number('log-max-size', 'bytes') ?? before?.logMaxSize,
    user: given('user') ?? before?.user,
    group: given('group') ?? before?.group,
    umask: number('umask', 'mode') ?? before?.umask,
    engine: engineName(given('engine')) ?? before?.engine,
    health: healthAddress(given('health')) ?? before?.health,
    stopDelayMs: number('stop-delay', 'milliseconds') ?? before?.stopDelayMs,
    isDirect,
    isWatching: watching(flags) || (before?.isWatching === true && flags.daemon !== true),
    isQuiet: flags.quiet ?? false,
  }
}

/** The flags that a variable can stand for. */
type FlagWithVariable = { [name in FlagName]: (typeof FLAGS)[name] extends { env: string } ? name : never }[FlagName]

/**
 * The value of a flag, or else of its variable. An empty variable sets nothing: compose files and EnvironmentFile= of
 * systemd have them for what is not set.
 */
export function givenFor(flags: Flags, name: FlagWithVariable): string | undefined {
  return flags[name] ?? (process.env[FLAGS[name].env] || undefined)
}

/** Absolute, since a restart may come from another folder. */
function fileOf(path: string | undefined): string | undefined {
  return path === undefined ? undefined : resolve(path)
}

function logFormat(text: string): LogFormat {
  if (text === 'text' || text === 'json') return text
  throw usage(`--log-format is text or json, not '${text}'`)
}

function watching({ watch = false, daemon }: Flags): boolean {
  if (watch && daemon) throw usage('--watch is for development: what it has to say goes to a terminal, so not with -d')
  return watch
}

function healthAddress(text: string | undefined): string | undefined {
  try {
    if (text !== undefined) parseHttpAddress(text)
    return text
  } catch (error) {
    throw usage(`--health: ${messageOf(error)}`)
  }
}

function engineName(text: string | undefined): string | undefined {
  if (text === undefined || ENGINES.some((engine) => engine === text)) return text
  throw usage(`--engine is ${ENGINES.join(' or ')}, not '${text}'`)
}

/** The kinds of numbers on the command line, with their descriptions for error messages. */
const NUMBERS = {
  mode: { radix: 8, digits: /^[0-7]{1,4}$/, wanted: 'an octal mode like 027' },
  bytes: { radix: 10, digits: /^\d{1,15}$/, wanted: 'a number of bytes' },
  milliseconds: { radix: 10, digits: /^\d{1,9}$/, wanted: 'a number of milliseconds' },
} as const

function wholeNumber(flag: string, text: string | undefined, what: keyof typeof NUMBERS): number | undefined {
  if (text === undefined) return undefined
  const { radix, digits, wanted } = NUMBERS[what]
  if (!digits.test(text)) throw usage(`${flag} is ${wanted}, not '${text}'`)
  return Number.parseInt(text, radix)
}

export function runDirOf(flags: Flags): string | undefined {
  return givenFor(flags, 'run-dir')
}

const UNITS = new Map([
  ['ms', 1],
  ['s', 1000],
  ['', 1000],
  ['m', 60_000],
])

/** `--timeout` in ms, null without one. Seconds if no unit is given, as in Workerman's `stopTimeout`. */
export function timeoutOf({ timeout }: Flags): number | null {
  if (timeout === undefined) return null
  const [, number = '', unit = ''] = /^(\d{1,10}(?:\.\d{1,3})?)(ms|s|m|)$/.exec(timeout) ?? []
  if (number === '') throw usage(`--timeout is a time like 5 (seconds), 500ms or 2m, not '${timeout}'`)
  return Math.min(LONGEST_TIMEOUT_MS, Math.round(Number(number) * (UNITS.get(unit) ?? 1)))
}

/** How long `--canary` watches by default. */
const CANARY_MS = 10_000

/** `--canary-ms`, which implies `--canary`; 0 without either. */
export function canaryTimeOf({ canary, 'canary-ms': text }: Flags): number {
  if (text === undefined) return canary === true ? CANARY_MS : 0
  if (/^[1-9]\d{0,7}$/.test(text)) return Number(text)
  throw usage(`--canary-ms is a time in milliseconds, from 1 to 99999999, not '${text}'`)
}

/** For a line about groups of a server: that keeps its start options, so it would ignore these. */
export function refuseStartFlags({ flags, words }: Line): void {
  const flag = START_FLAGS.find((name) => flags[name] !== undefined)
  if (flag !== undefined) throw usage(`--${flag} is for the whole server, not for ${words.join(', ')}`)
}

/** `--lines`, or its default. */
export function linesOf({ lines }: Flags, otherwise: number): number {
  if (lines === undefined) return otherwise
  if (!/^\d{1,9}$/.test(lines)) throw usage(`--lines is a number, not '${lines}'`)
  return Number(lines)
}

export function usage(problem: string): CommandError {
  return new CommandError(Exit.Usage, problem)
}
