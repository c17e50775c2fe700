// The processes of a master that was killed. They leave when their channel closes, but one whose event loop is blocked
// would hold the port forever. So living processes are on record by pid and start time; the next master, or `stop`,
// waits for them, then kills them. A pid without a matching start time is never signalled.

import { renameSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { codeOf, messageOf } from '../../errors.ts'
import { LimitedLog } from '../../log.ts'
import { now } from '../../loop/clock.ts'
import { CommandError, Exit } from '../exit-codes.ts'
import { DEFAULT_SETTINGS, LONGEST_TIMEOUT_MS } from '../group.ts'
import { type Identity, isAlive, startTimeOf } from '../identity.ts'
import { Lock } from '../lock.ts'
import { readShortFile } from '../open-file.ts'
import { statOf } from '../paths.ts'
import { mastersAsideIn } from '../run-directory.ts'

/** A process of a master that was killed. */
export interface Leftover extends Identity {
  /** It leaves by itself within this time, ms. Absent in the record of an older version. */
  readonly stopTimeoutMs?: number
}

const LOOK_EVERY_MS = 20
/** A worker notices the end of its master at once, and then has its time to stop. */
const SLACK_MS = 1000
/** How long the kernel may take to end a killed process. */
const KILL_TIMEOUT_MS = 5000

export class Leftovers {
  readonly #path: string
  /** During an upgrade the other master records its processes in the same file. */
  isShared = false
  readonly #log = new LimitedLog()
  /** Processes of an earlier master; they stay on record until they are known to be gone. */
  #old: Leftover[]
  #own: Leftover[] = []
  #written = ''
  /** Why the last record could not be written; empty if it was. */
  #failure = ''

  /** Reads the record. The lock must be held. */
  constructor(runDir: string) {
    this.#path = recordIn(runDir)
    this.#old = read(this.#path).filter(isAlive)
  }

  /** The other master of an upgrade has gone: its remaining processes become ours to wait for. */
  inherit(): void {
    this.#old = this.#others()
    this.isShared = false
  }

  /** Processes on record that are alive and not ours. */
  #others(): Leftover[] {
    const own = new Set(this.#own.map(({ pid }) => pid))
    return read(this.#path).filter((one) => !own.has(one.pid) && isAlive(one))
  }

  /**
   * Resolves when no process of an earlier master is left, or when `signal` aborts. Kills those that stay longer than
   * they have declared, and than `stopTimeoutMs`.
   */
  async leave(stopTimeoutMs: number, signal: AbortSignal): Promise<void> {
    await endLeftovers(this.#old, Math.max(stopTimeoutMs, declaredTimeOf(this.#old)), signal)
    if (!signal.aborted) this.#old = []
  }

  /**
   * Records which processes are alive; `stopTimeoutMs` is what the code of new ones declares. A failure (a full disk, a
   * folder out of reach) must not stop a server.
   */
  record(pids: readonly number[], stopTimeoutMs: number): void {
    const known = new Map(this.#own.map((one) => [one.pid, one]))
    this.#own = pids
      .filter((pid) => pid > 0)
      .map((pid) => known.get(pid) ?? { pid, startTime: startTimeOf(pid), stopTimeoutMs })
      .filter(({ startTime }) => startTime !== '')
    const others = this.isShared ? this.#others() : this.#old
    const text = JSON.stringify([...others, ...this.#own])
    try {
      if (text !== this.#written || this.isShared) this.#write(text)
      this.#written = text
      this.#failure = ''
    } catch (error) {
      const failure = messageOf(error)
      if (failure !== this.#failure) this.#log.log(`cannot record workers: ${failure}`)
      this.#failure = failure
    }
  }

  /** Whether the last record has failed, so that the file names processes that are gone: try again. */
  get isOutdated(): boolean {
    return this.#failure !== ''
  }

  #write(text: string): void {
    const draft = `${this.#path}.${this.isShared ? process.pid : 'new'}`
    try {
      writeFileSync(draft, text, { mode: 0o600 })
      renameSync(draft, this.#path)
    } catch (error) {
      rmSync(draft, { force: true }) // a full disk leaves one
      throw error
    }
  }

  /** The file has been deleted: the next record is written even if it is unchanged. */
  forgetWritten(): void {
    this.#written = ''
  }

  /**
   * Called at the end, when no process of our own is left: a start that failed may not have waited for the old ones.
   */
  forget(): void {
    if (this.#old.some(isAlive)) this.record([], 0)
    else rmSync(this.#path, { force: true })
  }
}

/**
 * Processes that a killed master has left in a run directory, while no master has that. One of another user, which
 * `--run-dir` may name, too, could list any process: only his own count then.
 */
export function leftoversIn(runDir: string): Leftover[] {
  const found = read(recordIn(runDir)).filter(isAlive)
  const owner = statOf(runDir)?.uid
  const theirs = owner === process.getuid?.() ? found : found.filter(({ pid }) => statOf(`/proc/${pid}`)?.uid === owner)
  return hasMaster(runDir) ? [] : theirs // looked at last: what a later one has recorded is not left over
}

/** Also counts the second master of an upgrade whose first was killed: it takes over in a moment. */
function hasMaster(runDir: string): boolean {
  const seconds = mastersAsideIn(runDir).map((pid) => ({ pid, startTime: '' }))
  return [Lock.holderIn(runDir), ...seconds].some(isAlive)
}

/** Within how many ms all of them have left by themselves, unless one cannot. */
export function declaredTimeOf(processes: readonly Leftover[]): number {
  const times = processes.map(({ stopTimeoutMs: ms }) => (typeof ms === 'number' ? ms : DEFAULT_SETTINGS.stopTimeoutMs))
  return Math.min(LONGEST_TIMEOUT_MS, Math.max(0, ...times))
}

/**
 * Resolves when none of these processes is left, or when `signal` aborts. Kills those that have not left by themselves
 * in their time to stop; rejects with a CommandError if even that does not end them.
 */
export async function endLeftovers(
  processes: readonly Identity[],
  stopTimeoutMs: number,
  signal?: AbortSignal,
): Promise<void> {
  const killAt = now() + stopTimeoutMs + SLACK_MS
  while (processes.some(isAlive) && signal?.aborted !== true) {
    if (now() > killAt + KILL_TIMEOUT_MS) throw stuck(processes.filter(isAlive))
    if (now() > killAt) for (const one of processes) kill(one)
    await sleep(LOOK_EVERY_MS)
  }
}

function stuck(processes: readonly Identity[]): CommandError {
  const pids = processes.map(({ pid }) => pid).join(', ')
  return new CommandError(Exit.Timeout, `processes ${pids} of an earlier start do not end, not by SIGKILL either`)
}

function recordIn(runDir: string): string {
  return join(runDir, 'workers.json')
}

function kill(old: Identity): void {
  if (!isAlive(old)) return
  try {
    process.kill(old.pid, 'SIGKILL')
  } catch (error) {
    if (codeOf(error) !== 'ESRCH') throw error // it was quicker
  }
}

/** Anything but our own format counts as empty. */
function read(path: string): Leftover[] {
  try {
    const workers = JSON.parse(readShortFile(path)) as Leftover[]
    return workers.filter(({ pid, startTime }) => pid > 1 && typeof startTime === 'string' && startTime !== '')
  } catch {
    return [] // ENOENT, or garbage
  }
}
