// `check`: what the code declares, and whether it can be evaluated at all.

import type { Declaration } from '../group.ts'
import { protocolOf } from '../terminal/banner.ts'
import { renderTable } from '../terminal/tables.ts'
import { type Command, NO_WORDS } from './command.ts'
import { START_FLAGS, startOptions } from './line.ts'
import { showAs } from './print.ts'
import { describeHere, runOtherCopy } from './start.ts'

export const check: Command = {
  operands: '[app.js ...] [-- arguments of the app]',
  summary: 'evaluate app.js in a process of its own and say what it declares; nothing else',
  details: `Touches nothing that runs. Exit code 6, with the stack, for code that cannot be started.`,
  flags: START_FLAGS.filter((flag) => flag !== 'daemon'),
  hasModules: true,
  words: NO_WORDS,
  async run(line) {
    const other = runOtherCopy(line)
    if (other !== null) return other
    return showAs(line.flags, (await describeHere(startOptions(line))).groups, render)
  },
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
