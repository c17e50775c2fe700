// `check`: what the code declares, and whether it can be evaluated at all.

import type { Declaration } from '../group.ts'
import type { StartOptions } from '../messages.ts'
import { protocolOf } from '../terminal/banner.ts'
import { renderTable } from '../terminal/tables.ts'
import { type Command, NO_WORDS } from './command.ts'
import { type Line, START_FLAGS, startOptions, usage } from './line.ts'
import { showAs } from './print.ts'
import { optionsLike } from './restart.ts'
import { findIfRunning } from './server.ts'
import { describeHere, runOtherCopy } from './start.ts'

export const check: Command = {
  operands: '[app.js ...] [-- arguments of the app]',
  summary: 'evaluate app.js in a process of its own and say what it declares; nothing else',
  details: `Touches nothing that runs. Without app.js: the code of the server that runs. Exit code 6, with the stack, for code that
cannot be started.`,
  flags: START_FLAGS.filter((flag) => flag !== 'daemon'),
  hasModules: true,
  words: NO_WORDS,
  async run(line) {
    const options = await optionsFor(line)
    const other = runOtherCopy({ ...line, modules: options.modules })
    if (other !== null) return other
    return showAs(line.flags, (await describeHere(options)).groups, render)
  },
}

/** A line without a file means the server that runs, never the demo, whose code is always fine. */
async function optionsFor(line: Line): Promise<StartOptions> {
  if (line.files.length > 0 || line.isDirect) return startOptions(line)
  const running = (await findIfRunning(line))?.done.running
  if (running === undefined) throw usage('check takes the file to evaluate: no server was found whose code it could be')
  return optionsLike(running, line)
}

function render(groups: readonly Declaration[]): string {
  const rows = groups.map((group) => [
    ...[group.name, protocolOf(group), group.listen || 'none', String(group.count), userOf(group)],
  ])
  return `${renderTable([['name', 'protocol', 'listen', 'processes', 'user'], ...rows])}\nThe code is fine.`
}

function userOf({ credentials }: Declaration): string {
  return credentials === null ? '-' : (credentials.user ?? String(credentials.uid))
}
