// Settings of the program rather than of one Worker: the static side of the class. `settingsOf` returns what the master
// receives.

import { inspect } from 'node:util'
import { messageOf, UsageError } from '../errors.ts'
import { log } from '../log.ts'
import { groupNamed } from '../messaging/messaging.ts'
import type { WorkerGroup } from '../messaging/references.ts'
import { parseHttpAddress } from '../net/address.ts'
import { check, integerFrom, rule } from '../options.ts'
import type { LeaderJob } from '../process/child/candidates.ts'
import {
  DEFAULT_SETTINGS,
  LONGEST_TIMEOUT_MS,
  type Registry,
  type RejectionPolicy,
  registry,
  type Settings,
} from '../process/group.ts'
import { ENGINES } from '../transport.ts'
import type { Worker } from '../worker.ts'
import { STATIC_RULES } from './rules.ts'

// biome-ignore lint/complexity/noStaticOnlyClass: the static side of Worker, which inherits it
export abstract class WorkerStatics {
  /** How long `stop` gives connections to end before a worker is killed, in seconds as in Workerman. Default: 2. */
  static stopTimeout = DEFAULT_SETTINGS.stopTimeoutMs / 1000
  /**
   * Where log lines go; a command-line flag or environment variable takes precedence. A daemon's default is a file in
   * its run directory.
   */
  static logFile: string = DEFAULT_SETTINGS.logFile
  /** Where a daemon's standard output goes. Default: nowhere. */
  static stdoutFile: string = DEFAULT_SETTINGS.stdoutFile
  /** Where to write a copy of the pid, for people. Default: nowhere. */
  static pidFile: string = DEFAULT_SETTINGS.pidFile
  /** Bytes. A log or stdout file that would exceed it is renamed to `<file>.1`. 0 is without limit. Default: 10 MiB. */
  static logFileMaxSize: number = DEFAULT_SETTINGS.logFileMaxSize
  /**
   * What to do about a promise that rejects and that no handler returned. `exit` ends the worker with code 250 and
   * another takes its place, since it is unknown what was left undone; `log` logs and counts it
   * (`unhandledRejections`). Set it before `runAll`. Default: `exit`.
   */
  static unhandledRejection: RejectionPolicy = DEFAULT_SETTINGS.unhandledRejection
  /**
   * Called at a reload (or a start or restart of a group), once the new code was found good and before anything is
   * replaced.
   *
   * This and the next two are Workerman's callbacks of the master. Set them before `runAll`. Each runs in a short-lived
   * process of its own that has evaluated your modules as they are on disk, so changes it makes in memory reach no
   * other process. It has 10 seconds; what it throws is logged.
   */
  static onMasterReload: (() => unknown) | null = null
  /** Called when the last worker of a server that was up is gone. */
  static onMasterStop: (() => unknown) | null = null
  /**
   * Called when a worker process has ended, for any reason. `worker.id` and `worker.incarnation` say which one it was.
   * `status` is as from wait(2): 9 for SIGKILL, 64000 for exit code 250.
   */
  static onWorkerExit: ((worker: Worker<string | undefined, unknown>, status: number, pid: number) => unknown) | null =
    null
  /** Where the master answers probes: `http://0.0.0.0:9090`, `unix:///run/app/health.sock`. Default: nowhere. */
  static health: string = DEFAULT_SETTINGS.health
  /**
   * At a graceful stop, `/readyz` is red for this long, in ms, before the drain begins, so that load balancers stop
   * sending clients. Default: 0.
   */
  static stopDelayMs: number = DEFAULT_SETTINGS.stopDelayMs

  /**
   * Ends this worker process once its connections have drained, within `drainTimeoutMs`; the master starts another. A
   * "max requests" limit in one line. Throws UsageError for what is no exit code from 0 to 255: ERR_BAD_OPTION.
   */
  static stopAll(code = 0): void {
    check('the exit code of stopAll()', code, EXIT_CODE)
    registry().requestStop?.(code)
  }

  /**
   * Runs `job` in exactly one process of this server among all that call this with the same name: at once if there is
   * no leader yet, otherwise when the leader has ended, crashed or been replaced by a reload. When this process stops
   * leading, `signal` aborts; then the job's result is completed: a function is called (`return () => Timer.del(id)`),
   * a promise awaited. Only after that does another process begin. A job that is done stays done while its process
   * leads; a job that throws is logged, and another process tries. Does nothing in a process that is not a worker.
   * **Order**: never two at once; between two, for a moment, none. **Throws** `ERR_LEADER_NAME`, `ERR_LEADER_JOB`.
   *
   * @returns a function that gives up leadership in this process; its promise resolves when the job has ended
   */
  static onLeader(name: string, job: LeaderJob): () => Promise<void> {
    if (typeof name !== 'string' || name === '' || name.length > LONGEST_NAME)
      throw new UsageError('ERR_LEADER_NAME', `onLeader needs a name of 1 to ${LONGEST_NAME} characters`)
    if (typeof job !== 'function') throw new UsageError('ERR_LEADER_JOB', `onLeader('${name}') needs a function`)
    return registry().candidates?.add(name, job) ?? (async () => undefined)
  }

  /**
   * `native`, `node`, or empty for the best available: native if the addon supports it. `MILLRACE_ENGINE` and
   * `--engine` take precedence. Set it before `runAll`. Throws UsageError for any other value.
   */
  static get engine(): string {
    return registry().engine
  }

  static set engine(name: string) {
    const isRight = (one: unknown) => one === '' || ENGINES.some((engine) => engine === one)
    check('Worker.engine', name, rule(isRight, `${ENGINES.map((engine) => `'${engine}'`).join(', ')} or ''`))
    if (!registry().isEngineGiven) registry().engine = name
  }

  /** Returns the workers of the group with this name. Throws UsageError: ERR_UNKNOWN_GROUP, ERR_AMBIGUOUS_GROUP. */
  static group(name: string): WorkerGroup {
    return groupNamed(name)
  }

  /** Writes a line to the log: text as it is, anything else as `console.log` shows it, an error with its stack. */
  static log(message: unknown): void {
    log(typeof message === 'string' ? message : shown(message))
  }
}

/** Characters of a leadership name. */
const LONGEST_NAME = 100
const EXIT_CODE = integerFrom(0, 255)

/** Never throws, unlike `inspect`: it may run code of the value's own. */
function shown(value: unknown): string {
  try {
    return inspect(value)
  } catch {
    return messageOf(value)
  }
}

/** Workerman's static settings that have no meaning here: set in vain, a program would not do what it says. */
const NOT_HERE: Readonly<Record<string, string>> = {
  daemonize: 'start it with -d',
  statusFile: `'status --json' prints it`,
  eventLoopClass: `there is Node's; Worker.engine chooses what moves the bytes`,
  globalEvent: `there is Node's loop, and Timer`,
  outputStream: 'there are Worker.logFile, Worker.stdoutFile and --log-file',
  command: 'what follows -- on the command line is in process.argv',
}

const MASTER_CALLBACKS = ['onMasterReload', 'onMasterStop', 'onWorkerExit'] as const

/** The current settings. Throws UsageError. */
export function settingsOf(statics: typeof WorkerStatics): Settings {
  for (const [key, instead] of Object.entries(NOT_HERE))
    if (Object.hasOwn(statics, key))
      throw new UsageError('ERR_UNKNOWN_OPTION', `Worker has no setting '${key}': ${instead}`)
  for (const [key, each] of Object.entries(STATIC_RULES)) check(`Worker.${key}`, Reflect.get(statics, key), each)
  const { logFile, stdoutFile, pidFile, logFileMaxSize, unhandledRejection, health } = statics
  if (health !== '') parseHttpAddress(health)
  const callbacks = MASTER_CALLBACKS.filter((name) => statics[name] !== null)
  const stopTimeoutMs = Math.min(statics.stopTimeout * 1000, LONGEST_TIMEOUT_MS)
  const stopDelayMs = Math.min(statics.stopDelayMs, LONGEST_TIMEOUT_MS)
  const files = { logFile, stdoutFile, pidFile, logFileMaxSize }
  return { ...files, stopTimeoutMs, unhandledRejection, callbacks, health, stopDelayMs }
}

export function callbacksOf(statics: typeof WorkerStatics): Registry['callbacks'] {
  return Object.fromEntries(MASTER_CALLBACKS.flatMap((name) => (statics[name] === null ? [] : [[name, statics[name]]])))
}
