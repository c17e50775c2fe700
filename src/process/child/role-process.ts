// How every process that evaluates user code begins, and how it ends.

import { constants } from 'node:os'
import { addon } from '../../addon.ts'
import { codeOf, messageOf, SystemError, stackOf } from '../../errors.ts'
import { guardOutput, logRecords } from '../../log.ts'
import type { Channel } from '../channel.ts'
import { WorkerExit } from '../exit-codes.ts'
import { type Credentials, type Group, registry } from '../group.ts'
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

/** To the master. */
export type Up = Channel<ToChild, FromChild>

/** A process that evaluates the modules as the user who was given, does `task` with what they declare, and leaves. */
export async function evaluateOnce(
  boot: CallbackBoot | DescribeBoot,
  channel: Up,
  task: (groups: readonly Group[], given: Credentials | null) => unknown,
): Promise<void> {
  channel.onClose = () => process.exit(WorkerExit.Ended) // nobody waits for it
  prepare(boot)
  onUncaught((error) => fail(channel, error))
  try {
    const given = lookUp(boot.user, boot.group)
    if (given !== null) assume(given)
    dieWithMaster() // a change of user would clear it
    await task(await evaluate(boot.modules, boot.argv, channel), given)
    exitWhenSent(channel, WorkerExit.Ended)
  } catch (error) {
    fail(channel, error)
  }
}

/** A module that spins would not notice that the channel has closed. A worker has work to finish, and is not killed. */
function dieWithMaster(): void {
  try {
    addon().sys?.setParentDeathSignal(constants.signals.SIGKILL, process.ppid)
  } catch (error) {
    if (codeOf(error) !== 'ENOTSUP') throw error // macOS
  }
}

/** What every process that evaluates user code does first. */
export function prepare({ isLogPiped, engine }: ModuleBoot): void {
  guardOutput()
  if (isLogPiped) logRecords()
  process.execArgv = withoutQuietInspector(process.execArgv)
  if (engine !== undefined) Object.assign(registry(), { engine, isEngineGiven: true })
}

/** A SystemError is ours: a socket that cannot listen. The user's own EACCES is an error like any other. */
export function fail(channel: Up, error: unknown): void {
  const isAddress = error instanceof SystemError
  const exitCode = isAddress ? WorkerExit.Address : WorkerExit.BootFailed
  const message = isAddress ? messageOf(error) : stackOf(error)
  channel.send({ type: 'failed', exitCode, message: message.slice(0, LONGEST_REASON) })
  exitWhenSent(channel, exitCode)
}

/** Exits when the last message has left, or soon in any case. */
export function exitWhenSent(channel: Up, exitCode: number): void {
  const exit = () => process.exit(exitCode)
  channel.onClose = exit
  channel.end()
  setTimeout(exit, 200).unref()
  process.once('beforeExit', exit)
}
