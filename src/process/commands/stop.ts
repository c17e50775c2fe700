// `stop`: ends the server and waits until it has gone, or ends only some of its groups.

import { setTimeout as sleep } from 'node:timers/promises'
import { now } from '../../loop/clock.ts'
import type { Leave } from '../control/requests.ts'
import { CommandError, Exit } from '../exit-codes.ts'
import { isAlive } from '../identity.ts'
import { declaredTimeOf, endLeftovers, type Leftover } from '../master/leftovers.ts'
import { ANY_WORDS, type Command } from './command.ts'
import { type Flags, type Line, timeoutOf } from './line.ts'
import { operate } from './operate.ts'
import { say, showJson } from './print.ts'
import { withProgress } from './progress.ts'
import { type Found, findServer, leftBehind, unlessNotRunning } from './server.ts'

/** How long a server may take to end beyond `Worker.stopTimeout`: workers are then killed and reaped. */
const STOP_SLACK_MS = 10_000
const LOOK_EVERY_MS = 10

export const stop: Command = {
  operands: '[app.js] [NAME ...]',
  summary: 'end it: connections get Worker.stopTimeout seconds (2); -g: the drainTimeoutMs of their Worker (30 s)',
  details: `Returns when the server is gone. --timeout gives work so much time instead. A stop during another one can only shorten it.
Where the master was killed, what it has left is ended.
With NAME only these groups end: their processes drain as above, their sockets are closed (who connects is refused), the rest
of the server goes on, and 'start', 'reload' or 'restart' with NAME brings them back. A reload of everything does not.`,
  flags: ['graceful', 'timeout', 'name'],
  words: ANY_WORDS,
  async run(line) {
    const { words: names } = line
    if (names.length > 0) return operate(line, { command: 'stop', names, ...leaveOf(line.flags) }, 'stopped')
    try {
      const pid = await stopServer(line)
      if (line.flags.json === true) return showJson({ stopped: true, pid })
      say(line.flags, `stopped, pid ${pid}`)
      return Exit.Ok
    } catch (error) {
      unlessNotRunning(error)
      const left = leftBehind(line)
      if (left.length === 0) throw error
      return endAll(line, left)
    }
  },
}

/**
 * Their master was killed. They are leaving by themselves, in the time that their code declares, with `-g` or without;
 * except for those whose event loop is blocked.
 */
async function endAll({ flags }: Line, processes: readonly Leftover[]): Promise<Exit> {
  await endLeftovers(processes, timeoutOf(flags) ?? declaredTimeOf(processes))
  const leftovers = processes.map(({ pid }) => pid)
  if (flags.json === true) return showJson({ stopped: true, pid: 0, leftovers })
  say(flags, `ended what a killed master had left, pid ${leftovers.join(', ')}`)
  return Exit.Ok
}

/** The time that processes get to leave. */
export function leaveOf(flags: Flags): Leave {
  return { isGraceful: flags.graceful === true, timeoutMs: timeoutOf(flags) }
}

/** Stops the server. Resolves with its pid when it has gone. */
export async function stopServer(line: Line): Promise<number> {
  const leave = leaveOf(line.flags)
  const found = await findServer(line)
  return withProgress(line.flags, found, async () => {
    return untilGone(await findServer(line, { command: 'stop', ...leave }))
  })
}

async function untilGone({ done: answer }: Found): Promise<number> {
  const deadline = now() + answer.stopTimeoutMs + STOP_SLACK_MS
  while (isAlive(answer)) {
    if (now() > deadline)
      throw new CommandError(Exit.Timeout, `pid ${answer.pid} is still stopping`, {
        next: `ask again, or end it by force: kill -9 ${answer.pid}`,
      })
    await sleep(LOOK_EVERY_MS)
  }
  return answer.pid
}
