// The keeper's maps: keys, values it never interprets, versions, times to live, and watchers. No I/O.

import { UsageError } from '../errors.ts'
import { now } from '../loop/clock.ts'
import type { Scheduler } from '../loop/scheduler.ts'
import type { ChangeType, Condition } from './wire.ts'

/** A number can be incremented; the meaning of bytes is up to the workers. */
export type Value = number | Uint8Array

interface Entry {
  readonly value: Value
  /** Different for each change, across all maps. */
  readonly version: number
}

type Watcher = (type: ChangeType, key: string, value: Value | null) => void

/** Limit of the keeper's memory: it must not exhaust the machine. */
const MAX_STORE_BYTES = 256 * 1_048_576
/** Approximate size of an entry besides its key and value. */
const ENTRY_BYTES = 256

interface Kept extends Entry {
  readonly bytes: number
  /** 0 for none. */
  readonly timer: number
  readonly expiresAt: number
}

interface Dictionary {
  readonly entries: Map<string, Kept>
  /** The key each watcher watches; empty for every key. */
  readonly watchers: Map<Watcher, string>
}

export class Store {
  readonly #maps = new Map<string, Dictionary>()
  readonly #timers: Scheduler
  readonly #maxBytes: number
  #bytes = 0
  #lastVersion = 0

  constructor(timers: Scheduler, maxBytes = MAX_STORE_BYTES) {
    this.#timers = timers
    this.#maxBytes = maxBytes
  }

  get(map: string, key: string): Entry | null {
    return this.#find(map, key) ?? null
  }

  /**
   * Returns the entry as it is now; its value is not the given one if `onlyIf` did not hold. `ttlMs` null keeps what an
   * existing key has left. Throws ERR_SHARED_FULL.
   */
  set(
    map: string,
    key: string,
    value: Value,
    ttlMs: number | null = 0,
    onlyIf: Condition = null,
  ): { isDone: boolean; entry: Entry | null } {
    const present = this.#find(map, key)
    const isWanted = onlyIf === null || (onlyIf === 'absent' ? present === undefined : present?.version === onlyIf)
    if (!isWanted) return { isDone: false, entry: present ?? null }
    return { isDone: true, entry: this.#put(map, key, value, ttlMs ?? leftOf(present)) }
  }

  /**
   * Keeps the time to live of an existing key; `ttlMs` is for an absent one, which counts as 0. Throws ERR_SHARED_TYPE,
   * ERR_SHARED_STEP.
   */
  increment(map: string, key: string, step: number, ttlMs = 0): number {
    const present = this.#find(map, key)
    const { value = 0 } = present ?? {}
    if (typeof value !== 'number')
      throw new UsageError('ERR_SHARED_TYPE', `'${key}' in map '${map}' is no number: it cannot be incremented`)
    const sum = value + step
    if (!Number.isFinite(sum)) throw new UsageError('ERR_SHARED_STEP', `'${key}' in map '${map}' would be ${sum}`)
    this.#put(map, key, sum, present === undefined ? ttlMs : leftOf(present))
    return sum
  }

  delete(map: string, key: string): boolean {
    if (this.#find(map, key) === undefined) return false
    this.#drop(map, key, 'delete')
    return true
  }

  clear(map: string): number {
    const keys = this.keys(map)
    for (const key of keys) this.#drop(map, key, 'delete')
    return keys.length
  }

  keys(map: string): string[] {
    const keys = [...(this.#maps.get(map)?.entries.keys() ?? [])]
    return keys.filter((key) => this.#find(map, key) !== undefined)
  }

  size(map: string): number {
    return this.keys(map).length
  }

  /** Returns a function that ends the watch. An empty key means every key. */
  watch(map: string, key: string, watcher: Watcher): () => void {
    const dictionary = this.#dictionary(map)
    dictionary.watchers.set(watcher, key)
    return () => {
      dictionary.watchers.delete(watcher)
      this.#forget(map, dictionary)
    }
  }

  #put(map: string, key: string, value: Value, ttlMs: number): Kept {
    const { entries } = this.#dictionary(map)
    const bytes = ENTRY_BYTES + 2 * key.length + (typeof value === 'number' ? 0 : value.length)
    const before = entries.get(key)
    const total = this.#bytes + bytes - (before?.bytes ?? 0)
    if (total > this.#maxBytes) {
      const megabytes = Math.round(this.#maxBytes / 1_048_576)
      throw new UsageError(
        'ERR_SHARED_FULL',
        `shared data is over its ${megabytes} MiB: delete something, or use ttlMs`,
      )
    }
    this.#bytes = total
    if (before !== undefined) this.#timers.cancel(before.timer)
    const version = ++this.#lastVersion
    const timer = ttlMs > 0 ? this.#timers.after(ttlMs, () => this.#expire(map, key, version)) : 0
    const expiresAt = ttlMs > 0 ? now() + ttlMs : Number.POSITIVE_INFINITY
    const kept = { value, version, bytes, timer, expiresAt }
    entries.set(key, kept)
    this.#tell(map, 'set', key, value)
    return kept
  }

  /** The entry, unless it has expired; then it is removed. */
  #find(map: string, key: string): Kept | undefined {
    const kept = this.#maps.get(map)?.entries.get(key)
    if (kept === undefined || kept.expiresAt > now()) return kept
    this.#drop(map, key, 'expire')
    return undefined
  }

  #expire(map: string, key: string, version: number): void {
    if (this.#maps.get(map)?.entries.get(key)?.version === version) this.#drop(map, key, 'expire')
  }

  #drop(map: string, key: string, why: ChangeType): void {
    const dictionary = this.#maps.get(map)
    const kept = dictionary?.entries.get(key)
    if (dictionary === undefined || kept === undefined) return
    dictionary.entries.delete(key)
    this.#bytes -= kept.bytes
    this.#timers.cancel(kept.timer)
    this.#tell(map, why, key, null)
    this.#forget(map, dictionary)
  }

  #tell(map: string, type: ChangeType, key: string, value: Value | null): void {
    for (const [watcher, wanted] of this.#maps.get(map)?.watchers ?? [])
      if (wanted === '' || wanted === key) watcher(type, key, value)
  }

  #dictionary(map: string): Dictionary {
    let dictionary = this.#maps.get(map)
    if (dictionary === undefined) {
      dictionary = { entries: new Map(), watchers: new Map() }
      this.#maps.set(map, dictionary)
    }
    return dictionary
  }

  #forget(map: string, { entries, watchers }: Dictionary): void {
    if (entries.size === 0 && watchers.size === 0) this.#maps.delete(map)
  }
}

/** The time to live that a key has left; 0 if it has none. */
function leftOf({ expiresAt = Number.POSITIVE_INFINITY }: Partial<Kept> = {}): number {
  return expiresAt === Number.POSITIVE_INFINITY ? 0 : Math.max(1, expiresAt - now())
}
