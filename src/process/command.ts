// The command line. Finds the command that was typed, runs it and returns the exit code. An error is reported in one
// line, followed by one line that says what to do about it.

import { messageOf } from '../errors.ts'
import { guardOutput } from '../log.ts'
import { nothing } from '../nothing.ts'
import { likest } from '../spelling.ts'
import { version } from '../version.ts'
import { check } from './commands/check.ts'
import type { Command } from './commands/command.ts'
import { diff } from './commands/diff.ts'
import { events } from './commands/events.ts'
import { helpOf, overview, usageOf } from './commands/help.ts'
import { COMMON_FLAGS, type FlagName, type Line, readLine, usage } from './commands/line.ts'
import { leftLogOf, logs } from './commands/logs.ts'
import type { CommandName } from './commands/names.ts'
import { nextStep } from './commands/next-step.ts'
import { print, showJson } from './commands/print.ts'
import { reload } from './commands/reload.ts'
import { restart } from './commands/restart.ts'
import { scale } from './commands/scale.ts'
import { start } from './commands/start.ts'
import { connections, status } from './commands/status.ts'
import { stop } from './commands/stop.ts'
import { upgrade } from './commands/upgrade.ts'
import { CommandError, Exit } from './exit-codes.ts'
import { fromHere } from './paths.ts'
import { shellWord } from './terminal/banner.ts'
import { paintFor } from './terminal/style.ts'

const ALL = { start, stop, restart, reload, scale, upgrade, status, connections, logs, events, diff, check }
const COMMANDS: ReadonlyMap<string, Command> = new Map(Object.entries(ALL satisfies Record<CommandName, Command>))

/** Runs the command in `argv`. `direct` is the user's file, if that is what was run. Never rejects. */
export async function runCommand(argv: readonly string[], direct: string | null): Promise<Exit> {
  guardOutput()
  let line: Line | null = null
  try {
    line = readLine(argv, direct)
    return await dispatch(line)
  } catch (error) {
    return complain(error, argv, line, direct)
  }
}

/** Reports that the user's file `direct` has declared Workers and never called `runAll()`. Returns the exit code. */
export function complainOfUnrun(argv: readonly string[], direct: string): Promise<Exit> {
  const error = new CommandError(Exit.Module, `${fromHere(direct)} never called Worker.runAll()`, {
    next: 'call it when all Workers are declared',
  })
  return complain(error, argv, null, direct)
}

async function dispatch(line: Line): Promise<Exit> {
  const { command: name, flags, words } = line
  if (flags.version === true) return print(`${version}\n`)
  const asked = name === 'help' ? words[0] : flags.help === true ? name : undefined
  if (name === 'help' || flags.help === true) return help(asked ?? '')
  const command = commandCalled(name)
  const stranger = (Object.keys(flags) as FlagName[]).find(
    (flag) => ![...command.flags, ...COMMON_FLAGS].includes(flag),
  )
  if (stranger !== undefined) throw usage(`${name} does not know --${stranger}`)
  if (command.hasModules !== true) checkFiles(line)
  const { least, most } = command.words
  if (words.length > most) throw usage(`${name} does not know what to do with '${words[most]}'`)
  if (words.length < least) throw usage(`${name} takes ${command.operands}`)
  return command.run(line)
}

/** A second file would be ignored: it may be meant for a group, and the command would act on the whole server. */
function checkFiles({ command, files, isDirect }: Line): void {
  const surplus = files[isDirect ? 0 : 1]
  if (surplus === undefined) return
  const { operands, flags } = commandCalled(command)
  throw new CommandError(Exit.Usage, `${command} takes ${operands}, and '${surplus}' is taken for a second file`, {
    next: flags.includes('name')
      ? `for the group of that name: --name ${shellWord(surplus)}`
      : 'name the file that the server was started with, the first of several',
  })
}

function help(name: string): Promise<Exit> {
  return print(name === '' ? overview(COMMANDS) : helpOf(name, commandCalled(name)))
}

function commandCalled(name: string): Command {
  const command = COMMANDS.get(name)
  if (command !== undefined) return command
  const meant = likest(name, [...COMMANDS.keys()])
  const hint = meant === '' ? '' : `: did you mean '${meant}'?`
  throw usage(name === '' ? 'no command' : `unknown command '${name}'${hint}`)
}

// What went wrong

/** Reports an error on stderr for people and, with `--json`, also on stdout for programs. */
async function complain(
  thrown: unknown,
  argv: readonly string[],
  line: Line | null,
  direct: string | null,
): Promise<Exit> {
  const failure = thrown instanceof CommandError ? thrown : unexpected(thrown)
  const { exitCode, code, message, report } = failure
  const name = line?.command ?? argv.find((arg) => COMMANDS.has(arg)) ?? ''
  const { modules = [], flags = {} } = line ?? {}
  const command = COMMANDS.has(name) ? name : ''
  const step = nextStep(failure, { command, direct, modules, runDir: flags['run-dir'], hasLog: hasLog(line) })
  const error = { code, exitCode, reason: message, next: step }
  if (asksForJson(argv)) await showJson({ ...report, error }).catch(nothing) // a full disk: stderr has it, too
  const paint = paintFor(process.stderr)
  const usageText = code === 'ERR_USAGE' ? `\n${usageFor(name)}\n` : ''
  process.stderr.write(`${paint('bad', 'millrace:')} ${message}\n${paint('quiet', 'next:')} ${step}\n${usageText}`)
  return exitCode
}

/** Whatever follows `--` is the app's. The line may be one that could not be read. */
function asksForJson(argv: readonly string[]): boolean {
  const end = argv.indexOf('--')
  return argv.slice(0, end < 0 ? argv.length : end).includes('--json')
}

/** A command that finds no server may fail before one has begun a log; all others are about a server that has one. */
function hasLog(line: Line | null): boolean {
  if (line === null || !['start', 'restart'].includes(line.command)) return true
  try {
    return leftLogOf(line) !== undefined
  } catch {
    return false // what failed may be the path of the log, or the folder that it is relative to
  }
}

function unexpected(error: unknown): CommandError {
  const isHomeless = (error as NodeJS.ErrnoException | null)?.syscall === 'uv_cwd'
  if (!isHomeless) return new CommandError(Exit.Failure, messageOf(error))
  return new CommandError(
    Exit.Failure,
    'the current folder has been deleted, and the line has a path that is relative to it',
    {
      next: 'go to a folder that is there, or give absolute paths',
    },
  )
}

function usageFor(name: string): string {
  const command = COMMANDS.get(name)
  if (command !== undefined) return usageOf(name, command.operands)
  return `Usage: millrace COMMAND [...]\nCommands: ${[...COMMANDS.keys()].join(', ')}`
}
