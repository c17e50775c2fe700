// Exit codes are a protocol: between a worker and its master, and between a command and the script that runs it.

import { codeOf, messageOf, SystemError, UsageError } from '../errors.ts'

export const enum Exit {
  Ok = 0,
  Failure = 1,
  Usage = 2,
  NotRunning = 3,
  AlreadyRunning = 4,
  Address = 5,
  /** The module could not be evaluated, or a worker did not boot. */
  Module = 6,
  Timeout = 7,
}

export const enum WorkerExit {
  Ended = 0,
  BootFailed = 70,
  /** The address is not available. Not retried at the first start. */
  Address = 71,
  Uncaught = 250,
}

/** Node's for flags that it does not take, or a file of theirs that is missing. User code may end with it, too. */
export const NODE_REFUSES = 9

/** Stable names of the exit codes for programs: the `code` in `--json` when an error has no more exact one. */
const CODES: Record<Exit, string> = {
  [Exit.Ok]: '',
  [Exit.Failure]: 'ERR_FAILURE',
  [Exit.Usage]: 'ERR_USAGE',
  [Exit.NotRunning]: 'ERR_NOT_RUNNING',
  [Exit.AlreadyRunning]: 'ERR_ALREADY_RUNNING',
  [Exit.Address]: 'ERR_ADDRESS',
  [Exit.Module]: 'ERR_MODULE',
  [Exit.Timeout]: 'ERR_TIMEOUT',
}

interface CommandErrorOptions {
  readonly cause?: unknown
  /** Such as `ERR_NO_GROUP`; by default the code of `exitCode`. */
  readonly code?: string | undefined
  readonly next?: string | undefined
  /** What `--json` prints beside the error. */
  readonly report?: object
}

/** Why a command or a start failed: a reason for people, an exit code for scripts, a code for programs. */
export class CommandError extends Error {
  override readonly name = 'CommandError'
  readonly exitCode: Exit
  readonly code: string
  /** What to do about it; empty where the command line knows better. */
  readonly next: string
  readonly report: object

  constructor(exitCode: Exit, message: string, options: CommandErrorOptions = {}) {
    const { cause, code, next = '', report = {} } = options
    super(message, cause === undefined ? {} : { cause })
    this.exitCode = exitCode
    this.code = code ?? CODES[exitCode] ?? 'ERR_FAILURE'
    this.next = next
    this.report = report
  }
}

/** A failure as a master reports it to the process that started it. */
export interface Failed {
  readonly type: 'failed'
  readonly exitCode: number
  readonly message: string
  /** As in CommandError; absent if that of `exitCode` says it all. */
  readonly code?: string
  /** What to do about it; empty or absent if nothing specific is known. */
  readonly next?: string
}

export function failedWith({ exitCode, message, code, next }: CommandError): Failed {
  return { type: 'failed', exitCode, message, code, next }
}

export function failureOf({ exitCode, message, code, next }: Failed): CommandError {
  return new CommandError(exitCode, message, { code, next })
}

/**
 * Maps any error to a CommandError: a UsageError means a bad declaration (`Module`), a SystemError an unavailable
 * socket (`Address`).
 */
export function asCommandError(error: unknown): CommandError {
  if (error instanceof CommandError) return error
  if (error instanceof SystemError) return new CommandError(Exit.Address, error.message, { cause: error })
  const isUsage = error instanceof UsageError
  return new CommandError(isUsage ? Exit.Module : Exit.Failure, messageOf(error), { cause: error })
}

/** What helps when the system refuses a process: EMFILE, EAGAIN, ENOMEM. */
const MORE =
  'raise what it may have (ulimit -n, ulimit -u, memory; of systemd LimitNOFILE=, TasksMax=), or declare fewer processes'

/** For files of a running server that were deleted. `upgrade` provides what it needs from then on. */
const NODE_GONE = `the Node that this server runs on is gone: 'millrace upgrade', run with the one that is there now, goes on with that`
const PACKAGE_GONE = `put the package back where it was (npm install), or go on with the copy that is there now: its 'millrace upgrade'; if it was bundled, leave it out of the bundle (esbuild --packages=external)`

/**
 * Why a process could not be started. A SystemError means that the start file is missing; a CommandError says
 * everything itself; any other error comes from `spawn`.
 */
export function spawnFailure(error: Error): CommandError {
  if (error instanceof CommandError) return error
  const failed = (message: string, next: string) =>
    new CommandError(Exit.Failure, `cannot start a process: ${message}`, { cause: error, next })
  if (error instanceof SystemError) return failed(`the start file of millrace is gone, ${error.message}`, PACKAGE_GONE)
  return failed(error.message, codeOf(error) === 'ENOENT' ? NODE_GONE : MORE)
}

/** How a worker's boot ended. */
interface Boot {
  readonly exitCode: number
  /** Why no process could be started. */
  readonly unstarted: CommandError | null
  readonly hasTimedOut: boolean
}

/** Why a start or a reload is given up: a worker ended before it was ready. */
export function bootFailure({ unstarted, hasTimedOut, exitCode }: Boot, message: string): CommandError {
  if (unstarted !== null) return new CommandError(Exit.Failure, message, { next: unstarted.next })
  const isAddress = exitCode === WorkerExit.Address
  return new CommandError(isAddress ? Exit.Address : hasTimedOut ? Exit.Timeout : Exit.Module, message)
}

/**
 * A worker's end in words: `exit 70 (boot failed)`, `signal SIGKILL`. `why` is a more exact cause known to the master.
 */
export function describeExit(code: number | null, signal: string | null, why = ''): string {
  const word = why || (signal === null ? WORDS[code ?? -1] : undefined)
  const end = signal === null ? `exit ${code}` : `signal ${signal}`
  return word === undefined ? end : `${end} (${word})`
}

const WORDS: Record<number, string> = {
  [WorkerExit.Ended]: 'ended',
  [WorkerExit.BootFailed]: 'boot failed',
  [WorkerExit.Address]: 'address not available',
  [WorkerExit.Uncaught]: 'uncaught error',
}

/** For a name that is no group's. */
export function noGroup(
  name: string,
  known: readonly { readonly name: string; readonly listen: string }[],
): CommandError {
  const list = known.map((one) => (one.listen === '' ? one.name : `${one.name} (${one.listen})`)).join(', ')
  return new CommandError(Exit.Usage, `there is no group '${name}'; there is: ${list || 'none'}`, {
    code: 'ERR_NO_GROUP',
    next: "name one of these; 'millrace status' shows them",
  })
}
