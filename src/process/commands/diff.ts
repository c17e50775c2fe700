// `diff`: compares what runs with what the code on disk says. Exit codes as in diff(1): 0 same, 1 different.

import { readdirSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { printableCell } from '../../printable.ts'
import { Exit } from '../exit-codes.ts'
import { type Comparison, type Difference, isCode, isSkipped } from '../operations/diff.ts'
import { realPathOrSelf, statOf } from '../paths.ts'
import type { Paint } from '../terminal/style.ts'
import { renderTable } from '../terminal/tables.ts'
import { type Command, NO_WORDS } from './command.ts'
import { showAs } from './print.ts'
import { askFound, findServer, need } from './server.ts'

export const diff: Command = {
  operands: '[app.js]',
  summary: 'what runs against what the code on disk wants; exit code 0 when that is the same, 1 when not',
  details: `Evaluates the code as a reload would, and compares groups, counts, addresses and settings with what runs. Code files beside and
below app.js (node_modules is left out) count as changed when they have changed since the oldest process was started. Exit
code 6 when the code cannot be evaluated.`,
  flags: [],
  words: NO_WORDS,
  async run(line) {
    const found = await findServer(line)
    const comparison = need((await askFound(found, { command: 'diff' })).comparison)
    const changedFiles = filesChangedSince(comparison)
    const { differences } = comparison
    const isSame = differences.length === 0 && changedFiles.length === 0
    await showAs(line.flags, { isSame, differences, changedFiles }, render)
    return isSame ? Exit.Ok : Exit.Failure
  },
}

interface Result {
  readonly isSame: boolean
  readonly differences: readonly Difference[]
  readonly changedFiles: readonly string[]
}

function render({ isSame, differences, changedFiles }: Result, paint: Paint): string {
  if (isSame) return 'What runs is what the code says.'
  const rows = differences.map(({ group, what, running, wanted }) => [group, what, running, wanted])
  const styled = (cell: string, column: number) =>
    column === 2 ? paint('bad', cell) : column === 3 ? paint('good', cell) : cell
  const commands = new Set([...differences.map(({ command }) => command), ...changedFiles.map(() => 'reload')])
  const steps = [...commands].map((command) =>
    command === 'status'
      ? "'millrace status' shows what its processes wait for"
      : `'millrace ${printableCell(command)}' makes it so`,
  )
  return [
    ...(rows.length === 0 ? [] : [renderTable([['group', 'what', 'running', 'wanted'], ...rows], styled)]),
    ...changedFiles.map((file) => `changed since the processes started: ${printableCell(file)}`),
    paint('quiet', `next: ${steps.join(', ')}`),
  ].join('\n')
}

/** Maximum number of folder entries: a larger tree is not just a program's own code. */
const MOST_ENTRIES = 20_000

/** Compares the change time of the inode: a file that was moved or unpacked here keeps an older modification time. */
function filesChangedSince({ modules, evaluated, oldestStart }: Comparison): string[] {
  if (oldestStart === null) return []
  const paths = modules.map(realPathOrSelf)
  const moved = paths.filter((path, place) => path !== evaluated[place])
  const folders = new Set(paths.map((path) => dirname(path)))
  let left = MOST_ENTRIES
  const changed = new Set(moved)
  const queue = [...folders]
  for (let folder = queue.shift(); folder !== undefined && left > 0; folder = queue.shift()) {
    for (const entry of entriesOf(folder)) {
      left--
      const path = join(folder, entry.name)
      if (entry.isDirectory() && !isSkipped(entry.name)) queue.push(path)
      else if (isCode(entry.name) && changedAt(path) > oldestStart) changed.add(path)
    }
  }
  return [...changed].sort()
}

function entriesOf(folder: string) {
  try {
    return readdirSync(folder, { withFileTypes: true })
  } catch {
    return [] // EACCES, or it is gone
  }
}

function changedAt(path: string): number {
  return statOf(path)?.ctimeMs ?? 0
}
