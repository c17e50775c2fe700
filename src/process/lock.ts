// One master per run directory: a file that names its owner, created whole by link(2), which fails if it exists. A lock
// whose owner is dead is moved away by a rename, which only one of several processes can do. A process that moved a
// live lock away by accident puts it back; the control socket is the second barrier.

import { linkSync, renameSync, rmSync, unlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { codeOf } from '../errors.ts'
import { type Identity, isAlive, ownIdentity } from './identity.ts'
import { fileError, readShortFile } from './open-file.ts'

const ATTEMPTS = 5

export class Lock {
  readonly #path: string

  private constructor(path: string) {
    this.#path = path
  }

  /** Returns the lock, or the process that holds it. Throws the errors of open(2). */
  static acquire(runDir: string): Lock | Identity {
    const path = join(runDir, 'lock')
    let holder = ownIdentity()
    for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
      if (create(path)) return new Lock(path)
      holder = readHolder(path)
      if (isAlive(holder)) return holder
      removeDead(path)
    }
    return holder
  }

  /** The current holder; pid 0 for none. */
  static holderIn(runDir: string): Identity {
    return readHolder(join(runDir, 'lock'))
  }

  /** Takes the lock that `passTo` handed to this process; without one, acts like `acquire`. */
  static take(runDir: string): Lock | Identity {
    const given = new Lock(join(runDir, 'lock'))
    return given.isOurs() ? given : Lock.acquire(runDir)
  }

  /** Atomically makes another process the holder, or this one again. Throws the errors of open(2). */
  passTo(holder: Identity): void {
    const draft = `${this.#path}.${process.pid}`
    try {
      writeFileSync(draft, JSON.stringify(holder), { mode: 0o600 })
      renameSync(draft, this.#path)
    } finally {
      remove(draft) // a full disk leaves one
    }
  }

  /**
   * Whether the file still names this process. The directory may have been deleted and made again by another master.
   */
  isOurs(): boolean {
    return readHolder(this.#path).pid === process.pid
  }

  /** Removes the file if it is still ours. */
  release(): void {
    if (this.isOurs()) remove(this.#path)
  }
}

function create(path: string): boolean {
  const draft = `${path}.${process.pid}`
  remove(draft)
  try {
    writeFileSync(draft, JSON.stringify(ownIdentity()), { flag: 'wx', mode: 0o600 })
    linkSync(draft, path)
    return true
  } catch (error) {
    if (codeOf(error) === 'EEXIST') return false
    throw fileError(error, 'write', path)
  } finally {
    remove(draft)
  }
}

/** A file that cannot be parsed reads as a holder that is never alive. */
function readHolder(path: string): Identity {
  try {
    const { pid, startTime } = JSON.parse(readShortFile(path)) as Partial<Identity>
    return { pid: Number(pid), startTime: String(startTime) }
  } catch {
    return { pid: 0, startTime: '' } // gone, or not ours
  }
}

function removeDead(path: string): void {
  const aside = `${path}.${process.pid}`
  try {
    renameSync(path, aside)
    if (isAlive(readHolder(aside))) linkSync(aside, path)
  } catch (error) {
    if (codeOf(error) !== 'ENOENT' && codeOf(error) !== 'EEXIST') throw error // another process was quicker
  }
  rmSync(aside, { force: true, recursive: true }) // it may be a folder
}

function remove(path: string): void {
  try {
    unlinkSync(path)
  } catch (error) {
    if (codeOf(error) !== 'ENOENT') throw error
  }
}
