// The workers of a master that was killed: they leave by themselves when their channel closes, but one that never comes
// back to its loop holds the port for ever. So the workers alive are on record, by pid and start time, and the next
// master waits for those and then kills them. A pid alone is never signalled.

import { readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { messageOf } from '../errors.ts'
import { LimitedLog } from '../log.ts'
import { type Identity, isAlive, startTimeOf } from './identity.ts'

const LOOK_EVERY_MS = 20
/** A worker notices the end of its master at once, then has its time to stop. */
const SLACK_MS = 1000

export class Predecessors {
  readonly #path: string
  readonly #log = new LimitedLog()
  #written = ''
  readonly #startTimes = new Map<number, string>()

  constructor(runDir: string) {
    this.#path = join(runDir, 'workers.json')
  }

  /** Resolves when no recorded worker is left. */
  async leave(stopTimeoutMs: number): Promise<void> {
    const recorded = this.#read()
    const deadline = Date.now() + stopTimeoutMs + SLACK_MS
    while (recorded.some(isAlive)) {
      if (Date.now() > deadline) for (const worker of recorded) if (isAlive(worker)) process.kill(worker.pid, 'SIGKILL')
      await new Promise((resolve) => setTimeout(resolve, LOOK_EVERY_MS))
    }
  }

  /** Notes who is alive now. A failure (full disk) is logged: it must not stop a server. */
  record(pids: readonly number[]): void {
    const workers = pids.filter((pid) => pid > 0).map((pid) => ({ pid, startTime: this.#startTime(pid) }))
    const text = JSON.stringify(workers)
    if (text === this.#written) return
    try {
      writeFileSync(`${this.#path}.new`, text, { mode: 0o600 })
      renameSync(`${this.#path}.new`, this.#path)
      this.#written = text
    } catch (error) {
      this.#log.log(`cannot record workers: ${messageOf(error)}`)
    }
  }

  /** At the end: nobody is left. */
  forget(): void {
    rmSync(this.#path, { force: true })
  }

  #startTime(pid: number): string {
    let startTime = this.#startTimes.get(pid)
    if (startTime === undefined) {
      startTime = startTimeOf(pid)
      this.#startTimes.set(pid, startTime)
    }
    return startTime
  }

  /** Anything but our own format counts as nobody. */
  #read(): Identity[] {
    try {
      const workers = JSON.parse(readFileSync(this.#path, 'utf8')) as Identity[]
      return workers.filter(({ pid, startTime }) => Number.isInteger(pid) && startTime !== '')
    } catch {
      return [] // ENOENT, or garbage
    }
  }
}
