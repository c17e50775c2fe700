// Where sessions are kept: an interface for stores of your own (Redis, a database), a store in memory for a single
// process, and one in files that all processes of a machine share.

import type { Stats } from 'node:fs'
import { type FileHandle, open, readFile, rename, stat, unlink } from 'node:fs/promises'
import { join } from 'node:path'
import { crypto } from '../builtins.ts'
import { jsonOf } from '../encoded.ts'
import { codeOf, messageOf, SystemError } from '../errors.ts'
import { LimitedLog } from '../log.ts'
import { now } from '../loop/clock.ts'
import { check, checkOptions, isString, POSITIVE, rule } from '../options.ts'
import { ignoreMissing, privateDirectory, sweep } from './private-directory.ts'

/** What JSON can hold. */
export type SessionData = Record<string, unknown>

/** Where `Sessions` keeps data: implement it for a store of yours. */
export interface SessionStore {
  /** Resolves with null (or undefined) for an id that is unknown or has expired; with an object, not a JSON text. */
  read(id: string): Promise<SessionData | null>
  /** Replaces the data of this id, which expires after `ttlSeconds`. */
  write(id: string, data: Readonly<SessionData>, ttlSeconds: number): Promise<void>
  /** Removes the data of this id, if there is any. */
  destroy(id: string): Promise<void>
  /**
   * Renews a session that exists, whatever its data is by now. Resolves with false, and creates nothing, if it does not
   * exist any more: the visitor has logged out. In Redis: EXPIRE. Without it: `read`, then `write` of what that gave.
   */
  touch?(id: string, ttlSeconds: number): Promise<boolean>
  /**
   * Writes a session that exists. Resolves with false, and creates nothing, if it does not exist any more. In Redis:
   * SET with XX. Without it: `read`, then `write`.
   */
  replace?(id: string, data: Readonly<SessionData>, ttlSeconds: number): Promise<boolean>
}

interface Kept {
  readonly json: string
  readonly until: number
}

/** Stores sessions in the memory of one process; they end with it. */
export class MemorySessionStore implements SessionStore {
  readonly #limit: number
  /** In the order in which they were written. */
  readonly #kept = new Map<string, Kept>()

  /** `maxSessions` (default 100,000): beyond it, the session written longest ago is removed. */
  constructor(options: { readonly maxSessions?: number } = {}) {
    checkOptions('MemorySessionStore', options, { maxSessions: POSITIVE })
    this.#limit = options.maxSessions ?? 100_000
  }

  async read(id: string): Promise<SessionData | null> {
    const kept = this.#alive(id)
    return kept === null ? null : JSON.parse(kept.json)
  }

  async write(id: string, data: Readonly<SessionData>, ttlSeconds: number): Promise<void> {
    this.#keep(id, jsonOf(data), ttlSeconds)
  }

  async touch(id: string, ttlSeconds: number): Promise<boolean> {
    const kept = this.#alive(id)
    if (kept !== null) this.#keep(id, kept.json, ttlSeconds)
    return kept !== null
  }

  async replace(id: string, data: Readonly<SessionData>, ttlSeconds: number): Promise<boolean> {
    if (this.#alive(id) === null) return false
    this.#keep(id, jsonOf(data), ttlSeconds)
    return true
  }

  async destroy(id: string): Promise<void> {
    this.#kept.delete(id)
  }

  #alive(id: string): Kept | null {
    const kept = this.#kept.get(id)
    if (kept === undefined) return null
    if (kept.until > Date.now()) return kept
    this.#kept.delete(id)
    return null
  }

  #keep(id: string, json: string, ttlSeconds: number): void {
    this.#kept.delete(id)
    this.#kept.set(id, { json, until: untilOf(ttlSeconds) })
    for (const oldest of this.#kept.keys()) {
      if (this.#kept.size <= this.#limit) break
      this.#kept.delete(oldest)
    }
  }
}

/** Milliseconds since 1970. */
function untilOf(ttlSeconds: number): number {
  return Math.round(Date.now() + ttlSeconds * 1000)
}

/** How a file begins; the time of its end follows. */
const HEAD = '{"until":'

/** The digits of that time; 0 if there are none. */
function timeOf(text: string): string {
  return /^\{"until":(\d+)/.exec(text)?.[1] ?? '0'
}

async function timeIn(file: FileHandle): Promise<string> {
  const { buffer, bytesRead } = await file.read(Buffer.alloc(64), 0, 64, 0)
  return timeOf(buffer.toString('latin1', 0, bytesRead))
}

async function isOver(path: string): Promise<boolean> {
  const file = await open(path)
  try {
    const until = Number(await timeIn(file))
    return until > 0 ? until <= Date.now() : isOld(await file.stat())
  } finally {
    await file.close()
  }
}

function isOld({ mtimeMs }: Stats): boolean {
  return mtimeMs + CUT_FILES_STAY_MS <= Date.now()
}

async function openExisting(path: string): Promise<FileHandle | null> {
  return open(path, 'r+').catch((error) => {
    ignoreMissing(error)
    return null
  })
}

async function exists(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    (error) => {
      ignoreMissing(error)
      return false
    },
  )
}

/** How often, in writes, a process looks for expired files. */
const SWEEP_EVERY = 1000
/** But no more often than this: a look at 50,000 files takes seconds. */
const SWEEP_PAUSE_MS = 60_000
/** Names of the files: of a session, and of one that is being written, or was when its process was killed. */
const SESSION = /^[0-9a-f]{64}$/
const BEING_WRITTEN = /^[0-9a-f]{64}\.[0-9a-f]{16}$/
/**
 * A file without a time was cut, by a full disk, say; on a network disk it may be one that is just being written. What
 * somebody is writing stays as long.
 */
const CUT_FILES_STAY_MS = 86_400_000

const failures = new LimitedLog()

/**
 * Stores each session in a file: named by a hash, so that reading the folder does not let anyone log in; mode 0600;
 * JSON; replaced as a whole.
 */
export class FileSessionStore implements SessionStore {
  readonly #path: string
  #directory: Promise<string> | null = null
  /** Random at first, since all processes of a reload begin together. */
  #writesToSweep = Math.ceil(Math.random() * SWEEP_EVERY)
  #isSweeping = false
  #nextSweepAt = 0

  /**
   * The folder is made when it is first used, and when it is gone. It must belong to this user alone
   * (`ERR_NOT_PRIVATE`).
   */
  constructor(directory: string) {
    check(
      'the folder of FileSessionStore',
      directory,
      rule((value) => isString(value) && value !== '', 'a path'),
    )
    this.#path = directory
  }

  async read(id: string): Promise<SessionData | null> {
    try {
      const { until, data } = JSON.parse(await readFile(await this.#fileOf(id), 'utf8'))
      return typeof until === 'number' && until > Date.now() && typeof data === 'object' ? data : null
    } catch (error) {
      if (error instanceof SyntaxError || codeOf(error) === 'ENOENT') return null // cut by a full disk: as if expired
      throw error
    }
  }

  /** Writes the time into the file that exists: if that is replaced or removed meanwhile, nothing is revived. */
  async touch(id: string, ttlSeconds: number): Promise<boolean> {
    const file = await openExisting(await this.#fileOf(id))
    if (file === null) return false
    try {
      const before = await timeIn(file)
      if (!(Number(before) > Date.now())) return false
      const now = String(untilOf(ttlSeconds))
      if (now.length === before.length) await file.write(now, HEAD.length)
      return true
    } finally {
      await file.close()
    }
  }

  /** Another process may remove the file between the check and the rename: that instant is not covered. */
  async replace(id: string, data: Readonly<SessionData>, ttlSeconds: number): Promise<boolean> {
    const path = await this.#fileOf(id)
    if ((await this.read(id)) === null) return false
    return this.#store(path, data, ttlSeconds, true)
  }

  async write(id: string, data: Readonly<SessionData>, ttlSeconds: number): Promise<void> {
    await this.#store(await this.#fileOf(id), data, ttlSeconds, false)
  }

  /** False if it `mustExist`, and does not. */
  async #store(path: string, data: Readonly<SessionData>, ttlSeconds: number, mustExist: boolean): Promise<boolean> {
    const json = jsonOf(data)
    const temporary = `${path}.${crypto().randomBytes(8).toString('hex')}`
    try {
      const file = await this.#create(temporary)
      try {
        await file.writeFile(`${HEAD}${untilOf(ttlSeconds)},"data":${json}}`)
      } finally {
        await file.close()
      }
      if (mustExist && !(await exists(path))) {
        await unlink(temporary)
        return false
      }
      await rename(temporary, path)
    } catch (cause) {
      await unlink(temporary).catch(ignoreMissing)
      throw new SystemError(codeOf(cause), 'write', path, { cause })
    }
    this.#writesToSweep--
    this.#sweepIfDue()
    return true
  }

  /** The folder may have been removed since it was made, to log everybody out, or by what clears `/tmp`. */
  async #create(path: string): Promise<FileHandle> {
    try {
      return await open(path, 'wx', 0o600)
    } catch (error) {
      ignoreMissing(error)
      this.#directory = null
      await this.#open()
      return open(path, 'wx', 0o600)
    }
  }

  /** Beside the visitors: none waits for it, and its failure is none of theirs. */
  #sweepIfDue(): void {
    if (this.#writesToSweep > 0 || this.#isSweeping || now() < this.#nextSweepAt) return
    this.#isSweeping = true
    this.sweep()
      .catch((error) => failures.log(`sessions in ${this.#path} cannot be swept: ${messageOf(error)}`))
      .finally(() => {
        this.#isSweeping = false
        this.#writesToSweep = SWEEP_EVERY
        this.#nextSweepAt = now() + SWEEP_PAUSE_MS
      })
  }

  async destroy(id: string): Promise<void> {
    await unlink(await this.#fileOf(id)).catch(ignoreMissing)
  }

  /**
   * Removes expired sessions, and what processes were writing that were killed a day ago. Returns how many. A file that
   * cannot be read stays: when it has looked at all others, it rejects with Node's error.
   */
  async sweep(): Promise<number> {
    const directory = await this.#open()
    return sweep(directory, async (name) => {
      const path = join(directory, name)
      if (BEING_WRITTEN.test(name)) return isOld(await stat(path))
      return SESSION.test(name) && isOver(path)
    })
  }

  async #fileOf(id: string): Promise<string> {
    return join(await this.#open(), crypto().createHash('sha256').update(id).digest('hex'))
  }

  #open(): Promise<string> {
    this.#directory ??= privateDirectory(this.#path).catch((error) => {
      this.#directory = null // it may be repaired
      throw error
    })
    return this.#directory
  }
}
