// Where sessions are kept: an interface for stores of your own (Redis, a database), a store in memory for a single
// process, and one in files that all processes of a machine share.

import { open, readFile, rename, unlink } from 'node:fs/promises'
import { join } from 'node:path'
import { crypto } from '../builtins.ts'
import { codeOf, SystemError } from '../errors.ts'
import { check, checkOptions, isString, POSITIVE, rule } from '../options.ts'
import { ignoreMissing, privateDirectory, sweep } from './private-directory.ts'

/** What JSON can hold. */
export type SessionData = Record<string, unknown>

/** Where `Sessions` keeps data: implement it for a store of yours. */
export interface SessionStore {
  /** Resolves with null for an id that is unknown or has expired. */
  read(id: string): Promise<SessionData | null>
  /** Replaces the data of this id, which expires after `ttlSeconds`. */
  write(id: string, data: Readonly<SessionData>, ttlSeconds: number): Promise<void>
  /** Removes the data of this id, if there is any. */
  destroy(id: string): Promise<void>
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
    const kept = this.#kept.get(id)
    if (kept === undefined) return null
    if (kept.until > Date.now()) return JSON.parse(kept.json)
    this.#kept.delete(id)
    return null
  }

  async write(id: string, data: Readonly<SessionData>, ttlSeconds: number): Promise<void> {
    this.#kept.delete(id)
    this.#kept.set(id, { json: JSON.stringify(data), until: Date.now() + ttlSeconds * 1000 })
    for (const oldest of this.#kept.keys()) {
      if (this.#kept.size <= this.#limit) break
      this.#kept.delete(oldest)
    }
  }

  async destroy(id: string): Promise<void> {
    this.#kept.delete(id)
  }
}

/** How often, in writes, a process looks for expired files. */
const SWEEP_EVERY = 1000

/**
 * Stores each session in a file: named by a hash, so that reading the folder does not let anyone log in; mode 0600;
 * JSON; replaced as a whole.
 */
export class FileSessionStore implements SessionStore {
  readonly #path: string
  #directory: Promise<string> | null = null
  #writes = 0

  /** The folder is made when it is first used, and must belong to this user alone (`ERR_NOT_PRIVATE`). */
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

  async write(id: string, data: Readonly<SessionData>, ttlSeconds: number): Promise<void> {
    const path = await this.#fileOf(id)
    const temporary = `${path}.${crypto().randomBytes(8).toString('hex')}`
    try {
      const file = await open(temporary, 'wx', 0o600)
      try {
        await file.writeFile(JSON.stringify({ until: Date.now() + ttlSeconds * 1000, data }))
      } finally {
        await file.close()
      }
      await rename(temporary, path)
    } catch (cause) {
      await unlink(temporary).catch(ignoreMissing)
      throw new SystemError(codeOf(cause), 'write', path, { cause })
    }
    if (this.#writes++ % SWEEP_EVERY === 0) await this.sweep()
  }

  async destroy(id: string): Promise<void> {
    await unlink(await this.#fileOf(id)).catch(ignoreMissing)
  }

  /** Removes expired sessions. Returns how many. */
  async sweep(): Promise<number> {
    const directory = await this.#open()
    return sweep(directory, async (name) => {
      if (!/^[0-9a-f]{64}$/.test(name)) return false
      const text = await readFile(join(directory, name), 'utf8').catch(() => '') // another process has removed it
      const until = Number(/^\{"until":(\d+)/.exec(text)?.[1] ?? 0)
      return until <= Date.now()
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
