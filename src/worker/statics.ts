// What belongs to no Worker but to the program: the static side of the class. `settingsOf` is what the master hears of it.

import { UsageError } from '../errors.ts'
import { log } from '../log.ts'
import { groupNamed } from '../messaging/messaging.ts'
import type { WorkerGroup } from '../messaging/references.ts'
import { parseHttpAddress } from '../net/address.ts'
import { ENGINES } from '../net/engines.ts'
import type { LeaderJob } from '../process/child/candidates.ts'
import { DEFAULT_SETTINGS, type Registry, type RejectionPolicy, registry, type Settings } from '../process/group.ts'
import type { Worker } from '../worker.ts'
import { check, LONGEST_TIMEOUT_MS, STATIC_RULES } from './rules.ts'

// biome-ignore lint/complexity/noStaticOnlyClass: the static side of Worker, which inherits it
export abstract class WorkerStatics {
  /** Seconds, as Workerman's: what `stop` gives connections to end, after which a worker is killed. */
  static stopTimeout = 2
  /** Where log lines go; a flag or variable of the command line wins. A daemon's default is in its run directory. */
  static logFile: string = DEFAULT_SETTINGS.logFile
  /** Where a daemon's standard output goes; nowhere by default. */
  static stdoutFile: string = DEFAULT_SETTINGS.stdoutFile
  /** A copy of the pid, for people. */
  static pidFile: string = DEFAULT_SETTINGS.pidFile
  /** Bytes: a log or stdout file that would grow over it is put aside as `<file>.1`; 0 is without bound. */
  static logFileMaxSize: number = DEFAULT_SETTINGS.logFileMaxSize
  /**
   * A promise that rejects and that no handler returned: `exit` ends the worker with 250, and another takes its place, since
   * nobody knows what was left undone; `log` logs and counts it (`unhandledRejections`). Set it before `runAll`.
   */
  static unhandledRejection: RejectionPolicy = DEFAULT_SETTINGS.unhandledRejection
  /**
   * Workerman's callbacks of the master. Set before `runAll`; each runs in a short-lived process of its own that has evaluated
   * your modules as they are on disk, so what it changes in memory reaches nobody. It has 10 seconds; what it throws is logged.
   * At a reload (or a start or restart of a group), when the new code was found good and nothing was replaced yet.
   */
  static onMasterReload: (() => unknown) | null = null
  /** When the last worker of a server that was up is gone. */
  static onMasterStop: (() => unknown) | null = null
  /** A worker process has ended, for whatever reason. `status` as wait(2) gives it: 9 for SIGKILL, 64000 for exit code 250. */
  static onWorkerExit: ((worker: Worker<string | undefined, unknown>, status: number, pid: number) => unknown) | null =
    null
  /** Where the master answers probes: `http://0.0.0.0:9090`, `unix:///run/app/health.sock`; nowhere by default. */
  static health: string = DEFAULT_SETTINGS.health
  /** Of a graceful stop: `/readyz` is red for so long before the drain begins, so that load balancers send nobody any more. */
  static stopDelayMs: number = DEFAULT_SETTINGS.stopDelayMs

  /** Ends this worker process after its connections; the master starts another: "max requests" in one line. */
  static stopAll(code = 0): void {
    registry().requestStop?.(code)
  }

  /**
   * Runs `job` in exactly one process of this server among all that ask for the same name: at once if nobody leads yet,
   * else when the leader has ended, crashed, or been replaced by a reload. At its end `signal` aborts; then what the job
   * gave is waited for: a function is called (`return () => Timer.del(id)`), a promise awaited, and only then another
   * process begins. A job that is done stays done while its process leads; one that throws is logged, and another process
   * tries. In any process that is no worker it does nothing.
   * **Order**: never two at once; between two, for a moment, none. **Throws** `ERR_LEADER_NAME`, `ERR_LEADER_JOB`.
   *
   * @returns gives it up in this process; resolves when the job has ended
   */
  static onLeader(name: string, job: LeaderJob): () => Promise<void> {
    if (typeof name !== 'string' || name === '' || name.length > LONGEST_NAME)
      throw new UsageError('ERR_LEADER_NAME', `onLeader needs a name of 1 to ${LONGEST_NAME} characters`)
    if (typeof job !== 'function') throw new UsageError('ERR_LEADER_JOB', `onLeader('${name}') needs a function`)
    return registry().candidates?.add(name, job) ?? (async () => undefined)
  }

  /**
   * `native`, `node`, or empty for the best there is: native where the addon has it. `MILLRACE_ENGINE` and `--engine` win.
   * Set it before `runAll`.
   */
  static get engine(): string {
    return registry().engine
  }

  static set engine(name: string) {
    check('Worker.engine', name, {
      isRight: (one) => one === '' || ENGINES.includes(String(one)),
      wanted: `'native', 'node' or ''`,
    })
    if (!registry().isEngineGiven) registry().engine = name
  }

  /** All Workers declared in this process. */
  static getAllWorkers(): Worker<string | undefined, unknown>[] {
    return registry().groups as unknown as Worker<string | undefined, unknown>[]
  }

  /** The workers of the group with this name. Throws UsageError: ERR_UNKNOWN_GROUP, ERR_AMBIGUOUS_GROUP. */
  static group(name: string): WorkerGroup {
    return groupNamed(name)
  }

  /** Writes a line to the log. */
  static log(message: string): void {
    log(message)
  }
}

/** Characters of what is led. */
const LONGEST_NAME = 100

const MASTER_CALLBACKS = ['onMasterReload', 'onMasterStop', 'onWorkerExit'] as const

/** As they are now. Throws UsageError. */
export function settingsOf(statics: typeof WorkerStatics): Settings {
  for (const [key, rule] of Object.entries(STATIC_RULES)) check(`Worker.${key}`, Reflect.get(statics, key), rule)
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
