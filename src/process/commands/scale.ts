// `scale`: more or fewer processes of a group.

import type { Scale } from '../operations/regroup.ts'
import type { Command } from './command.ts'
import { usage } from './line.ts'
import { operate } from './operate.ts'

export const scale: Command = {
  operands: '[app.js] NAME N|+N|-N|declared',
  summary: 'give a group N processes, so many more or fewer, or as many as the code declares',
  details: `Returns when every new process is ready, or when those that are too many have drained; nothing is lost. When a new one does
not become ready all is as before, with the reason. It stays over crashes, and over reloads until the code declares another
count than before; a restart of the server begins with what the code declares. 'status' and 'diff' show the difference.`,
  flags: ['name'],
  words: { least: 2, most: 2 },
  async run(line) {
    const [name = '', count = ''] = line.words
    return operate(line, { command: 'scale', name, scale: scaleOf(count) }, 'scaled')
  },
}

function scaleOf(text: string): Scale {
  if (text === 'declared') return text
  if (!/^[+-]?\d{1,6}$/.test(text)) throw usage(`scale takes a number, +N, -N or 'declared', not '${text}'`)
  return /^\d/.test(text) ? { to: Number(text) } : { by: Number(text) }
}
