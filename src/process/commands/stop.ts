// `stop`: the server, and waits until it is gone.

import { now } from '../../loop/clock.ts'
import { CommandError, Exit } from '../exit-codes.ts'
import { isAlive } from '../identity.ts'
import { type Command, NO_WORDS } from './command.ts'
import type { Line } from './line.ts'
import { say, showJson } from './print.ts'
import { askServer } from './server.ts'

/** What a server may take to end beyond its own `Worker.stopTimeout`: workers are killed then, and reaped. */
const STOP_SLACK_MS = 10_000

export const stop: Command = {
  operands: '[app.js]',
  summary: 'end it: connections get Worker.stopTimeout seconds (2); -g: the drainTimeoutMs of their Worker (30 s)',
  details: `Returns when the server is gone. A plain stop during a graceful one shortens it.`,
  flags: ['graceful'],
  words: NO_WORDS,
  async run(line) {
    const pid = await stopServer(line)
    if (line.flags.json === true) return showJson({ stopped: true, pid })
    say(line.flags, `stopped, pid ${pid}`)
    return Exit.Ok
  },
}

/** The pid of the server that is gone. */
export async function stopServer(line: Line): Promise<number> {
  const answer = await askServer(line, { command: 'stop', isGraceful: line.flags.graceful ?? false })
  const deadline = now() + answer.stopTimeoutMs + STOP_SLACK_MS
  while (isAlive(answer)) {
    if (now() > deadline)
      throw new CommandError(Exit.Timeout, `pid ${answer.pid} is still stopping`, {
        next: `ask again, or end it by force: kill -9 ${answer.pid}`,
      })
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
  return answer.pid
}
