// `reload`: the new code, slot by slot.

import { Exit } from '../exit-codes.ts'
import { ANY_WORDS, type Command } from './command.ts'
import { canaryTimeOf, usage } from './line.ts'
import { operate } from './operate.ts'
import { say, showJson } from './print.ts'
import { askServer } from './server.ts'

export const reload: Command = {
  operands: '[app.js] [NAME ...]',
  summary: 'replace every process by one with the new code, without losing a connection that works',
  details: `Evaluates the new code first: what cannot be evaluated, or does not become ready, ends the reload with the reason and
leaves the old code in place. Returns when the old processes are gone, with a receipt for each slot; --no-wait returns at
once, and 'millrace events' and the log tell how it goes. With NAME only the processes of these groups are replaced, and a
group that was stopped is started. What 'scale' has set stays, until the code declares another count than before.
With --canary one process of each group runs the new code beside all the old ones first, and is watched: when it ends, has
more errors or a later event loop than those beside it, it is taken back, the old code serves on, and the exit code is 1. If it
got no traffic beside others that had much, there is a warning.`,
  flags: ['graceful', 'wait', 'no-wait', 'name', 'canary', 'canary-ms'],
  words: ANY_WORDS,
  async run(line) {
    const { flags, words: names } = line
    const canaryMs = canaryTimeOf(flags)
    if (flags['no-wait'] !== true) return operate(line, { command: 'reload', names, canaryMs }, 'reloaded')
    if (flags.wait === true) throw usage('--wait or --no-wait, not both')
    const { pid } = await askServer(line, { command: 'reload', names, canaryMs, isWaiting: false })
    if (flags.json === true) return showJson({ asked: true, pid })
    say(flags, `asked for, pid ${pid}: 'millrace events' shows how it goes`)
    return Exit.Ok
  },
}
