// Exit codes are a protocol: between a worker and its master, and between a command and the script that runs it.

export const enum Exit {
  Ok = 0,
  Failure = 1,
  Usage = 2,
  NotRunning = 3,
  AlreadyRunning = 4,
  Address = 5,
  /** The module, or a worker's boot. */
  Module = 6,
  Timeout = 7,
}

export const enum WorkerExit {
  Ended = 0,
  BootFailed = 70,
  /** The address cannot be listened on: not retried at first start. */
  Address = 71,
  Uncaught = 250,
}

/** Why a command or a start failed: one line for people, one number for scripts. */
export class CommandError extends Error {
  override readonly name = 'CommandError'
  readonly exitCode: Exit

  constructor(exitCode: Exit, message: string, options?: { cause?: unknown }) {
    super(message, options)
    this.exitCode = exitCode
  }
}

/** A worker's end as words: `exit 70 (boot failed)`, `signal SIGKILL`. `why` is what its master knows better. */
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
