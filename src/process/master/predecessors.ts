// The processes of a master that was killed: they leave by themselves when their channel closes, but one that never
// comes back to its loop holds the port for ever. So those alive are on record, by pid and start time, and the next
// master waits for them and then kills them. A pid alone is never signalled.

import { renameSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { codeOf, messageOf } from '../../errors.ts'
import { LimitedLog } from '../../log.ts'
import { now } from '../../loop/clock.ts'
import { CommandError, Exit } from '../exit-codes.ts'
import { type Identity, isAlive, startTimeOf } from '../identity.ts'
import { readShortFile } from '../open-file.ts'

const LOOK_EVERY_MS = 20
/** A worker notices the end of its master at once, then has its time to stop. */
const SLACK_MS = 1000
/** What the kernel may take to end what it was told to kill. */
const KILL_TIMEOUT_MS = 5000

export class Predecessors {
  readonly #path: string
  /** The other master of an upgrade has its processes in the same file. */
  isShared = false
  readonly #log = new LimitedLog()
  /** Of an earlier master; they stay on record until they are known to be gone. */
  #old: Identity[]
  #own: Identity[] = []
  #written = ''

  /** Reads the record. The lock must be held. */
  constructor(runDir: string) {
    this.#path = join(runDir, 'workers.json')
    this.#old = read(this.#path).filter(isAlive)
  }

  /** The other master is gone: what it has left is an earlier one's. */
  inherit(): void {
    this.#old = this.#others()
    this.isShared = false
  }

  /** On record, alive, and not ours. */
  #others(): Identity[] {
    const own = new Set(this.#own.map(({ pid }) => pid))
    return read(this.#path).filter((one) => !own.has(one.pid) && isAlive(one))
  }

  /** Resolves when none of an earlier master's processes is left, or `signal` gives up. Kills those that stay. */
  async leave(stopTimeoutMs: number, signal: AbortSignal): Promise<void> {
    const killAt = now() + stopTimeoutMs + SLACK_MS
    while (this.#old.some(isAlive) && !signal.aborted) {
      if (now() > killAt + KILL_TIMEOUT_MS) throw this.#stuck()
      if (now() > killAt) for (const old of this.#old) kill(old)
      await new Promise((resolve) => setTimeout(resolve, LOOK_EVERY_MS))
    }
    if (!signal.aborted) this.#old = []
  }

  #stuck(): CommandError {
    const pids = this.#old.filter(isAlive).map(({ pid }) => pid)
    return new CommandError(
      Exit.Timeout,
      `processes ${pids.join(', ')} of an earlier start do not end, not by SIGKILL either`,
    )
  }

  /** Notes who is alive now. A failure (full disk) is logged: it must not stop a server. */
  record(pids: readonly number[]): void {
    const known = new Map(this.#own.map((one) => [one.pid, one]))
    this.#own = pids
      .filter((pid) => pid > 0)
      .map((pid) => known.get(pid) ?? { pid, startTime: startTimeOf(pid) })
      .filter(({ startTime }) => startTime !== '')
    const others = this.isShared ? this.#others() : this.#old
    const text = JSON.stringify([...others, ...this.#own])
    if (text === this.#written && !this.isShared) return
    const draft = `${this.#path}.${this.isShared ? process.pid : 'new'}`
    try {
      writeFileSync(draft, text, { mode: 0o600 })
      renameSync(draft, this.#path)
      this.#written = text
    } catch (error) {
      rmSync(draft, { force: true })
      this.#log.log(`cannot record workers: ${messageOf(error)}`)
    }
  }

  /** The record is gone: the next one is written whatever it says. */
  forgetWritten(): void {
    this.#written = ''
  }

  /** At the end, when none of our own is left: a start that failed may not have waited for the old ones. */
  forget(): void {
    if (this.#old.some(isAlive)) this.record([])
    else rmSync(this.#path, { force: true })
  }
}

function kill(old: Identity): void {
  if (!isAlive(old)) return
  try {
    process.kill(old.pid, 'SIGKILL')
  } catch (error) {
    if (codeOf(error) !== 'ESRCH') throw error // it was quicker
  }
}

/** Anything but our own format counts as nobody. */
function read(path: string): Identity[] {
  try {
    const workers = JSON.parse(readShortFile(path)) as Identity[]
    return workers.filter(({ pid, startTime }) => pid > 1 && typeof startTime === 'string' && startTime !== '')
  } catch {
    return [] // ENOENT, or garbage
  }
}
