// How every process that evaluates user code begins and ends.

import { constants } from 'node:os'
import { addon } from '../../addon.ts'
import { codeOf, messageOf, SystemError, stackOf } from '../../errors.ts'
import { guardOutput, logRecords } from '../../log.ts'
import { nothing } from '../../nothing.ts'
import type { Credentials } from '../../rights.ts'
import type { Channel } from '../channel.ts'
import { WorkerExit } from '../exit-codes.ts'
import { type Group, registry } from '../group.ts'
import {
  type CallbackBoot,
  type DescribeBoot,
  type FromChild,
  LONGEST_REASON,
  type ModuleBoot,
  type ToChild,
} from '../messages.ts'
import { withoutQuietInspector } from '../node-flags.ts'
import { assume, lookUp } from './credentials.ts'
import { evaluate } from './evaluate.ts'
import { onUncaught } from './uncaught.ts'

/** The channel to the master. */
export type Up = Channel<ToChild, FromChild>

/** Runs a short-lived process: evaluates the modules as the given user, runs `task` on what they declare, and exits. */
export async function evaluateOnce(
  boot: CallbackBoot | DescribeBoot,
  channel: Up,
  task: (groups: readonly Group[], given: Credentials | null) => unknown,
): Promise<void> {
  channel.onClose = () => process.exit(WorkerExit.Ended) // nothing waits for it
  prepare(boot)
  let hasFailed = false
  onUncaught((error) => {
    hasFailed = true
    fail(channel, error)
  })
  try {
    const given = lookUp(boot.user, boot.group)
    if (given !== null) assume(given)
    dieWithMaster() // after the change of user, which would clear it
    const groups = await evaluate(boot.modules, boot.argv, channel)
    if (registry().settings.unhandledRejection === 'log') process.on('unhandledRejection', nothing) // workers log it
    await endOfTurn()
    if (hasFailed) return
    await task(groups, given)
    exitWhenSent(channel, WorkerExit.Ended, DESCRIPTION_MS)
  } catch (error) {
    fail(channel, error)
  }
}

/**
 * Has the kernel kill this process when its master dies: a module in an endless loop would not notice that the channel
 * closed. Not for workers, which have work to finish.
 */
function dieWithMaster(): void {
  try {
    addon().sys?.setParentDeathSignal(constants.signals.SIGKILL, process.ppid)
  } catch (error) {
    if (codeOf(error) !== 'ENOTSUP') throw error // macOS
  }
}

/** First step of every process that evaluates user code. */
export function prepare({ isLogPiped, engine }: ModuleBoot): void {
  guardOutput()
  if (isLogPiped) logRecords()
  process.execArgv = withoutQuietInspector(process.execArgv)
  if (engine !== undefined) Object.assign(registry(), { engine, isEngineGiven: true })
}

/**
 * Resolves when this turn of the loop is over. A process that reports success waits for that: only then does Node tell
 * of a rejection that nobody handles, such as that of a call without `await` which failed at once.
 */
export function endOfTurn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve))
}

/**
 * Reports a failed boot and exits. A SystemError comes from us: a socket that cannot listen. The user's own EACCES is
 * an error like any other.
 */
export function fail(channel: Up, error: unknown): void {
  const isAddress = error instanceof SystemError
  const exitCode = isAddress ? WorkerExit.Address : WorkerExit.BootFailed
  const message = isAddress ? messageOf(error) : stackOf(error)
  channel.send({ type: 'failed', exitCode, message: message.slice(0, LONGEST_REASON) })
  exitWhenSent(channel, exitCode)
}

/** How long the master may take to read what was declared: with many certificates that is megabytes. */
const DESCRIPTION_MS = 10_000

/** How long the master may take to read the last message of a process. */
const LAST_MESSAGE_MS = 200

/**
 * Exits when the last message has been sent, or after `ms` in any case.
 * @param last called before that: what it rejects is still handled
 */
export function exitWhenSent(channel: Up, exitCode: number, ms = LAST_MESSAGE_MS, last: () => void = nothing): void {
  const exit = () => {
    last()
    const end = () => {
      last() // of what has been sent there
      process.exit(exitCode)
    }
    queueMicrotask(() => process.nextTick(end)) // when no reaction to a promise is left
  }
  channel.onClose = exit
  channel.end()
  setTimeout(exit, ms).unref()
  process.once('beforeExit', exit)
}
