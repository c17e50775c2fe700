// `reload`: the new code, slot by slot.

import { CommandError, Exit } from '../exit-codes.ts'
import { renderReload } from '../tables.ts'
import { type Command, NO_WORDS } from './command.ts'
import { show, showJson } from './print.ts'
import { askFound, findServer, need } from './server.ts'

export const reload: Command = {
  operands: '[app.js]',
  summary: 'replace every process by one with the new code, without losing a connection that works',
  details: `Evaluates the new code first: what cannot be evaluated, or does not become ready, ends the reload with the reason and
leaves the old code in place. Returns when the old processes are gone.`,
  flags: ['graceful'],
  words: NO_WORDS,
  async run(line) {
    const { flags } = line
    const found = await findServer(line) // one that hangs is told from one at work
    const outcome = need((await askFound(found, { command: 'reload' })).reload)
    if (outcome.slots.length > 0 && flags.quiet !== true && flags.json !== true) await show(renderReload(outcome))
    if (outcome.reason !== '')
      throw new CommandError(outcome.exitCode, `reload given up: ${outcome.reason}`, { report: outcome })
    if (flags.json === true) await showJson(outcome)
    return Exit.Ok
  },
}
