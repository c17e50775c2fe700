// `events`: what happens in a server, as it happens.

import { printableJson } from '../../printable.ts'
import { ask, follow } from '../control/client.ts'
import { CommandError, Exit } from '../exit-codes.ts'
import type { EventLine } from '../status/event-stream.ts'
import { renderEvent } from '../terminal/event-lines.ts'
import { paintFor } from '../terminal/style.ts'
import { ANY_WORDS, type Command } from './command.ts'
import { untilSeen } from './follow.ts'
import { type Flags, type Line, linesOf } from './line.ts'
import { allNamesOf, checkMeant } from './meant.ts'
import { findServer, need } from './server.ts'

type Told = EventLine['event']

export const events: Command = {
  operands: '[app.js] [NAME ...]',
  summary: 'what happens, as it happens: spawn, ready, exit, back-off, the steps of a reload, ...',
  details: `Until Ctrl+C (exit code 0) or the end of the server (0 after a stop, 1 when it ended without one); an upgrade is none: those of the
new master follow, all of them, numbered anew. --json: an object a line.
-n begins with the last N of those that were; 200 are kept. With NAME only those of these groups. A reader who is too slow
misses some and is told how many, also after half a minute without reading; the server does not wait for anybody.`,
  flags: ['lines', 'name'],
  words: ANY_WORDS,
  async run(line) {
    const past = linesOf(line.flags, 0)
    const names = await namesIn(line)
    const found = await findServer(line)
    const write = writer(line.flags, names)
    let isStopping = false
    const story = new Story((event) => {
      isStopping ||= event.type === 'server' && event.state === 'stopping'
      write(event)
    })
    const tell = (event: Told) => story.tell(event)
    const seen = untilSeen()
    for (let { pid } = found.done, wanted = past; ; ) {
      const { answer, ended, close } = await follow(found.path, wanted, tell, found.uid)
      if (answer === null) throw new CommandError(Exit.Failure, 'the server has just ended')
      if (!answer.ok) throw new CommandError(Exit.Failure, answer.message)
      const isOver = await Promise.race([seen, ended])
      close()
      if (isOver !== undefined || isStopping) return Exit.Ok
      const next = await ask(found.path, { command: 'ping' }, PING_MS, found.uid).catch(() => null)
      if (next?.ok !== true) throw new CommandError(Exit.Failure, `the master, pid ${pid}, ended without a stop`)
      if (next.pid !== pid) story.beginAnew()
      // The same one has let this reader go, who was too slow. Who has heard nothing yet does not know where he was.
      if (next.pid !== pid || story.hasBegun) wanted = ALL
      pid = next.pid
    }
  },
}

/** Past events requested from a master that has taken over, since it began with the upgrade, or to go on. */
const ALL = 200
/** Time for that master to answer. */
const PING_MS = 5000

/** The events of one master after another, each once, over any number of streams. */
class Story {
  readonly #write: (event: Told) => void
  #seq = 0

  constructor(write: (event: Told) => void) {
    this.#write = write
  }

  get hasBegun(): boolean {
    return this.#seq > 0
  }

  tell(event: Told): void {
    if (event.type === 'lost') {
      if (this.hasBegun) this.#seq += event.count
      return this.#write(event)
    }
    if (event.seq <= this.#seq) return
    const count = event.seq - this.#seq - 1
    if (this.hasBegun && count > 0) this.#write({ type: 'lost', count }) // between two streams
    this.#seq = event.seq
    this.#write(event)
  }

  /** Another master follows: it counts from 1. */
  beginAnew(): void {
    this.#seq = 0
  }
}

/** What the groups and processes that the line means are called; empty for all. */
async function namesIn(line: Line): Promise<readonly string[]> {
  const { words } = line
  if (words.length === 0) return []
  const { groups } = need((await findServer(line, { command: 'status' })).done.status)
  checkMeant(words, groups)
  return allNamesOf(words, groups)
}

function writer(flags: Flags, names: readonly string[]): (event: Told) => void {
  const paint = paintFor(process.stdout)
  return (event) => {
    if (names.length > 0 && !names.some((name) => isAbout(event, name))) return
    process.stdout.write(`${flags.json === true ? printableJson(event) : renderEvent(event, paint)}\n`)
  }
}

/** Whether an event concerns a group or process; events of the whole server concern all. */
function isAbout(event: Told, name: string): boolean {
  if (event.type === 'server' || event.type === 'lost') return true
  if (event.type === 'operation') return event.groups.length === 0 || event.groups.includes(name)
  return event.group === name || event.worker === name
}
