// A map that all workers of a server share. The keeper has the data (keeper.ts); this file has names, checks and the
// encoding of values.

import { v8 } from '../builtins.ts'
import { deserialize } from '../deserialize.ts'
import { messageOf, UsageError } from '../errors.ts'
import { checkOptions, type Rule, rule, SIGNAL_OR_NULL } from '../options.ts'
import { uncloneableIn } from '../uncloneable.ts'
import { keeperLink, type Reply } from './keeper-link.ts'
import { checkKey, checkStep, MAX_VALUE_BYTES, TTL } from './limits.ts'
import { type Change, type WatchOptions, watchChanges } from './watch.ts'
import { type Condition, meantBy, type Plain, plainOf } from './wire.ts'

/** What `set`, `add`, `compareAndSet` and `increment` take besides. */
export interface SetOptions {
  /**
   * Milliseconds after which the key is removed; 0 is never, and the default, except of `compareAndSet`, which keeps
   * the time that the key has left. Every set that has it starts the time again.
   */
  readonly ttlMs?: number
}

/**
 * Keys and values that every worker of this server sees and that outlive all of them, through crashes, reloads and
 * changes of `count`. They end with the server. One process, the keeper, carries out calls one after the other, so each
 * is atomic.
 *
 * **Shape**: keys are strings of 1 to 1024 characters; values are anything structured clone accepts, up to 1 MiB each
 * in v8's format; a class instance comes back as a plain object, a typed array with a buffer of exactly its own bytes.
 * **Order**: calls of one worker are carried out in order, and watchers see all changes of a map in the order in which
 * they were made.
 * **Cost**: a round trip over a Unix socket.
 * **Errors**: a call rejects with a UsageError for a bad key, value or option (`ERR_SHARED_KEY`, `ERR_SHARED_VALUE`,
 * `ERR_SHARED_TTL`, `ERR_UNKNOWN_OPTION`), with `ERR_SHARED_FULL`, and, if the keeper is killed, with `ERR_KEEPER_LOST`
 * and `mayHaveBeenHandled`: all maps are then empty.
 */
export class SharedMap<V = unknown> {
  /** As given. */
  readonly name: string

  /** @internal Use `Shared.map(name)`. */
  constructor(name: string) {
    this.name = name
  }

  /** Resolves with undefined if there is no such key. */
  async get(key: string): Promise<V | undefined> {
    return (await this.#entry(key)).value
  }

  /** Whether it has a value. */
  async has(key: string): Promise<boolean> {
    return (await this.#ask(key)).version !== 0
  }

  /** Replaces the value and the time to live of a key. */
  async set(key: string, value: V, options?: SetOptions): Promise<void> {
    await this.#set(key, value, ttlOf(options), null)
  }

  /**
   * Sets the value only if the key is absent; resolves with true if it did. Usable as a lock, with a `ttlMs` in case
   * its holder dies.
   */
  async add(key: string, value: V, options?: SetOptions): Promise<boolean> {
    return this.#set(key, value, ttlOf(options), 'absent')
  }

  /**
   * Sets the value only if the present one equals `expected` (by `util.isDeepStrictEqual`), or, for undefined, if there
   * is none. Resolves with true if it did. Without `ttlMs` an existing key keeps the time it has left. **Cost**: two
   * round trips, and more if others change it meanwhile.
   */
  async compareAndSet(key: string, expected: V | undefined, value: V, options?: SetOptions): Promise<boolean> {
    if (expected === undefined) return this.add(key, value, options)
    encode(key, value) // a bad value throws in any case
    const ttlMs = givenTtl(options) ?? null
    for (;;) {
      const present = await this.#entry(key)
      if (
        present.version === 0 ||
        !process.getBuiltinModule('node:util').isDeepStrictEqual(present.value, asCloned(key, expected))
      )
        return false
      if (await this.#set(key, value, ttlMs, present.version)) return true
    }
  }

  /**
   * Adds to a number and resolves with the sum. An absent key counts as 0, and only then does `ttlMs` start:
   * `increment(ip, 1, { ttlMs: 60_000 })` counts in windows of a minute. Rejects with `ERR_SHARED_TYPE` when the value
   * is not a number.
   */
  async increment(key: string, step = 1, options: SetOptions = {}): Promise<number> {
    const call = ['increment', this.name, checkKey(key), checkStep(step), ttlOf(options)] as const
    return Number((await keeperLink.call(call)).result)
  }

  /** Deletes a key. Resolves with true if it existed. */
  async delete(key: string): Promise<boolean> {
    return (await keeperLink.call(['delete', this.name, checkKey(key)])).result === true
  }

  /** Resolves with all keys, oldest first. **Cost**: O(n), at the keeper too. */
  async keys(): Promise<string[]> {
    return (await keeperLink.call(['keys', this.name])).result as string[]
  }

  /** Resolves with the number of keys. **Cost**: O(n) at the keeper. */
  async size(): Promise<number> {
    return Number((await keeperLink.call(['size', this.name])).result)
  }

  /** Deletes all keys. Resolves with how many there were. */
  async clear(): Promise<number> {
    return Number((await keeperLink.call(['clear', this.name])).result)
  }

  /**
   * Yields every change from this call on, of all keys or of one:
   * `for await (const { type, key, value } of map.watch())`. Ends with `break`, or when `signal` aborts. Changes that
   * are not read are kept up to a limit; beyond it, and when the connection to the keeper is lost, one
   * `{ type: 'lost' }` replaces them: then read again what you need.
   */
  watch(options: WatchOptions = {}): AsyncIterableIterator<Change<V>> {
    checkOptions('watch()', options, WATCH_RULES)
    const { key } = options
    if (key !== undefined) checkKey(key)
    return watchChanges(this.name, options, (changed, plain, bytes) => decode<V>(changed, plain, bytes))
  }

  async #entry(key: string): Promise<{ value: V | undefined; version: number }> {
    const { plain, bytes, version } = await this.#ask(key)
    return { value: version === 0 ? undefined : decode<V>(key, plain, bytes), version }
  }

  #ask(key: string): Promise<Reply> {
    return keeperLink.call(['get', this.name, checkKey(key)])
  }

  async #set(key: string, value: V, ttlMs: number | null, onlyIf: Condition): Promise<boolean> {
    const { plain, bytes } = encode(checkKey(key), value)
    const call = ['set', this.name, key, plain, ttlMs, onlyIf] as const
    return (await keeperLink.call(call, bytes)).result === true
  }
}

/** Shorter values are never too deep to be read: that takes 1,900 levels of at least 3 bytes. */
const DEEP_BYTES = 4096

const WATCH_RULES = {
  key: rule(() => true, ''), // checkKey() checks it
  signal: SIGNAL_OR_NULL,
} satisfies Record<keyof WatchOptions, Rule>

const SET_RULES = { ttlMs: TTL } satisfies Record<keyof SetOptions, Rule>

function ttlOf(options?: SetOptions): number {
  return givenTtl(options) ?? 0
}

function givenTtl(options: SetOptions = {}): number | undefined {
  checkOptions('a shared map', options, SET_RULES, 'ERR_SHARED_TTL')
  return options.ttlMs
}

/** Numbers that JSON can represent are sent as such, so that they can be incremented. */
function encode(key: string, value: unknown): { plain: Plain; bytes: Uint8Array | undefined } {
  if (value === undefined) throw new UsageError('ERR_SHARED_VALUE', `'${key}': undefined is no value; use delete()`)
  if (typeof value === 'number' && Number.isFinite(value)) return { plain: plainOf(value), bytes: undefined }
  const bytes = serialize(key, value)
  if (bytes.length > MAX_VALUE_BYTES) {
    const limit = `${MAX_VALUE_BYTES / 1_048_576} MiB`
    throw new UsageError(
      'ERR_SHARED_VALUE',
      `the value of '${key}' is ${bytes.length} bytes long: at most ${limit} can be shared`,
    )
  }
  if (bytes.length >= DEEP_BYTES) deserialized(key, bytes)
  return { plain: null, bytes }
}

function serialize(key: string, value: unknown): Buffer {
  let bytes: Buffer
  try {
    bytes = v8().serialize(value)
  } catch (cause) {
    throw uncloneable(key, messageOf(cause), { cause })
  }
  const flaw = uncloneableIn(value)
  if (flaw !== null) throw uncloneable(key, flaw)
  return bytes
}

function uncloneable(key: string, why: string, options?: ErrorOptions): UsageError {
  return new UsageError('ERR_SHARED_VALUE', `the value of '${key}' cannot be cloned: ${why}`, options)
}

/** Throws UsageError: V8 writes deeper values than it can read. */
function deserialized(key: string, bytes: Uint8Array): unknown {
  try {
    return deserialize(bytes)
  } catch (cause) {
    throw new UsageError('ERR_SHARED_VALUE', `the value of '${key}' cannot be read: ${messageOf(cause)}`, { cause })
  }
}

/** Throws UsageError: the worker that set the value may have a larger stack or a newer V8. */
function decode<V>(key: string, plain: Plain, bytes: Uint8Array): V {
  return (plain === null ? deserialized(key, bytes) : meantBy(plain)) as V
}

/** What would come back if it had been set: a class instance loses its prototype, for example. */
function asCloned(key: string, value: unknown): unknown {
  return typeof value === 'object' && value !== null ? deserialized(key, serialize(key, value)) : value
}
