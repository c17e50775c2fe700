// `restart`: new code that would not come up does not end what runs.

import { resolve } from 'node:path'
import type { Running } from '../control/requests.ts'
import { CommandError, Exit } from '../exit-codes.ts'
import type { StartOptions } from '../messages.ts'
import { adoptNodeSettings, nodeSettings } from '../node-flags.ts'
import { realPathOrSelf, workingFolder } from '../paths.ts'
import { shellWord } from '../terminal/banner.ts'
import { checkStart } from './check-start.ts'
import { ANY_WORDS, type Command } from './command.ts'
import { absoluteFlags, checkFlags } from './kept-flags.ts'
import { givenFor, type Line, refuseStartFlags, START_FLAGS, startOptions, usage } from './line.ts'
import { operate } from './operate.ts'
import { say } from './print.ts'
import { findIfRunning, unlessNotRunning } from './server.ts'
import { checkLaunch, describeHere, launch, runOtherCopy } from './start.ts'
import { leaveOf, stopServer } from './stop.ts'

export const restart: Command = {
  operands: '[app.js ...] [NAME ...] [-- arguments of the app]',
  summary: 'check the code, stop what runs, start (-d and -g as there)',
  details: `Code that cannot be evaluated stops nothing (exit code 6), nor does a file or an address that the start could not have. With a file,
nothing needs to run. What runs is started again as it was: with all of its files, flags and arguments and Node's own flags, except
for what this line says, and never by another user unless --user is given. With NAME only these groups, in the server that runs: all their processes leave at once, and as many start with the new code; who connects meanwhile waits.`,
  flags: ['graceful', 'timeout', 'name', ...START_FLAGS],
  hasModules: true,
  words: ANY_WORDS,
  async run(line) {
    if (line.words.length > 0) return restartGroups(line)
    leaveOf(line.flags) // this and what follows throws before anything is stopped
    checkLaunch(line)
    const running = (await findIfRunning(line))?.done.running
    if (running !== undefined) checkFiles(line, running.groups)
    const options = optionsOf(running, line)
    const other = runOtherCopy({ ...line, modules: options.modules })
    if (other !== null) return other
    const flags = running === undefined ? [] : keepNodeFlags(running)
    const described = await describeHere(options).catch((error) => {
      checkFlags(flags)
      throw error
    })
    if (running !== undefined) await checkStart(options, line.flags.daemon === true, described, running)
    try {
      say(line.flags, `stopped, pid ${await stopServer(line)}`)
    } catch (error) {
      unlessNotRunning(error)
    }
    return launch(line, options)
  },
}

/**
 * Those of what runs, such as a heap size or `--import`; if this line has any, they are meant instead. Returns what is
 * kept.
 */
function keepNodeFlags({ node, folder = '' }: Running): readonly string[] {
  if (node === undefined || process.execArgv.length > 0) return []
  const isHere = folder === '' || folder === workingFolder()
  const execArgv = isHere ? node.execArgv : absoluteFlags(folder, node.execArgv)
  adoptNodeSettings({ ...nodeSettings(), execArgv, debugPort: node.debugPort })
  return execArgv
}

/** A line without a file means the server that runs, never the demo, which would take its place. */
function optionsOf(running: Running | undefined, line: Line): StartOptions {
  if (running !== undefined) return optionsLike(running, line)
  if (line.files.length > 0 || line.isDirect) return startOptions(line)
  throw usage('restart takes the file to start: no server was found that it could start again')
}

/**
 * How to start again what runs: as it was started, except for what the line says. Throws a CommandError if it would be
 * another user's then without a word of that on the line.
 */
export function optionsLike({ options: before, uid }: Pick<Running, 'options' | 'uid'>, line: Line): StartOptions {
  const argv = line.hasArgv ? line.argv : before.argv
  const options = startOptions({ ...line, modules: modulesLike(before.modules, line), argv }, before)
  const own = process.getuid?.() ?? 0
  if (uid !== own && givenFor(line.flags, 'user') === undefined)
    throw new CommandError(Exit.Failure, `the server runs as uid ${uid}, and ${line.command} would run it as ${own}`, {
      next: `run this as that user (sudo -u '#${uid}' ...), or say with --user as whom its workers shall run`,
    })
  return options
}

/** A line that names one module means the server that it identifies, with all of its modules. */
function modulesLike(before: readonly string[], { modules, files, isDirect }: Line): readonly string[] {
  const count = files.length + (isDirect ? 1 : 0)
  const [named = ''] = modules
  if (count === 0) return before
  if (count > 1) return modules
  const place = before.findIndex((module) => realPathOrSelf(module) === realPathOrSelf(named))
  return before.with(Math.max(0, place), named)
}

/** A file that is also the name of a group: guessing wrong would restart the whole server. */
function checkFiles({ files }: Line, groups: readonly string[]): void {
  const both = files.find((file) => groups.includes(file))
  if (both === undefined) return
  throw new CommandError(Exit.Usage, `'${both}' is taken for a file, and a group has that name`, {
    next: `for the group: --name ${shellWord(both)}; for the file: ${shellWord(resolve(both))}`,
  })
}

/** Restarts groups. */
function restartGroups(line: Line): Promise<Exit> {
  refuseStartFlags(line)
  return operate(line, { command: 'restart', names: line.words, ...leaveOf(line.flags) }, 'restarted')
}
