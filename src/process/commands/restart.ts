// `restart`: what would not come up does not end what runs.

import { CommandError, Exit } from '../exit-codes.ts'
import { type Command, NO_WORDS } from './command.ts'
import { START_FLAGS, startOptions } from './line.ts'
import { say } from './print.ts'
import { describeHere, launch, runOtherCopy } from './start.ts'
import { stopServer } from './stop.ts'

export const restart: Command = {
  operands: '[app.js ...] [-- arguments of the app]',
  summary: 'check the code, stop what runs, start (-d and -g as there)',
  details: `Code that cannot be evaluated stops nothing (exit code 6). Nothing needs to run.`,
  flags: ['graceful', ...START_FLAGS],
  words: NO_WORDS,
  async run(line) {
    const other = runOtherCopy(line)
    if (other !== null) return other
    startOptions(line) // throws before anything is stopped
    await describeHere(line)
    try {
      say(line.flags, `stopped, pid ${await stopServer(line)}`)
    } catch (error) {
      if (!(error instanceof CommandError && error.exitCode === Exit.NotRunning)) throw error
    }
    return launch(line)
  },
}
