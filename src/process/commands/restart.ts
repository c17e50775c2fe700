// `restart`: new code that would not come up does not end what runs.

import { resolve } from 'node:path'
import { CommandError, Exit } from '../exit-codes.ts'
import { shellWord } from '../terminal/banner.ts'
import { ANY_WORDS, type Command } from './command.ts'
import { type Line, START_FLAGS, startOptions, usage } from './line.ts'
import { operate } from './operate.ts'
import { say } from './print.ts'
import { type Found, findServer } from './server.ts'
import { describeHere, launch, runOtherCopy } from './start.ts'
import { leaveOf, stopServer } from './stop.ts'

export const restart: Command = {
  operands: '[app.js ...] [NAME ...] [-- arguments of the app]',
  summary: 'check the code, stop what runs, start (-d and -g as there)',
  details: `Code that cannot be evaluated stops nothing (exit code 6). Nothing needs to run. With NAME only these groups, in the server
that runs: all their processes leave at once, and as many start with the new code; who connects meanwhile waits.`,
  flags: ['graceful', 'timeout', 'name', ...START_FLAGS],
  hasModules: true,
  words: ANY_WORDS,
  async run(line) {
    if (line.words.length > 0) return restartGroups(line)
    leaveOf(line.flags)
    const other = runOtherCopy(line)
    if (other !== null) return other
    startOptions(line) // throws before anything is stopped
    const running = await findIfRunning(line)
    if (running !== null) checkFiles(line, running.done.groups ?? [])
    await describeHere(line)
    try {
      say(line.flags, `stopped, pid ${await stopServer(line)}`)
    } catch (error) {
      unlessNotRunning(error)
    }
    return launch(line)
  },
}

function findIfRunning(line: Line): Promise<Found | null> {
  return findServer(line).catch(unlessNotRunning)
}

function unlessNotRunning(error: unknown): null {
  if (error instanceof CommandError && error.exitCode === Exit.NotRunning) return null
  throw error
}

/** A file that is also the name of a group: guessing wrong would restart the whole server. */
function checkFiles({ files }: Line, groups: readonly string[]): void {
  const both = files.find((file) => groups.includes(file))
  if (both === undefined) return
  throw new CommandError(Exit.Usage, `'${both}' is taken for a file, and a group has that name`, {
    next: `for the group: --name ${shellWord(both)}; for the file: ${shellWord(resolve(both))}`,
  })
}

/** Restarts groups. The server keeps its start options, so start flags are an error here. */
function restartGroups(line: Line): Promise<Exit> {
  const flag = START_FLAGS.find((name) => line.flags[name] !== undefined)
  if (flag !== undefined) throw usage(`--${flag} is for the whole server, not for ${line.words.join(', ')}`)
  return operate(line, { command: 'restart', names: line.words, ...leaveOf(line.flags) }, 'restarted')
}
