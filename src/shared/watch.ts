// Changes of a shared map as an async iterable. A slow reader costs a bounded amount of memory and learns when it has
// missed something; it never slows others down.

import { messageOf } from '../errors.ts'
import { LimitedLog } from '../log.ts'
import { keeperLink } from './keeper-link.ts'
import type { Plain } from './wire.ts'

/** What `map.watch()` gives. */
export type Change<V> =
  | { readonly type: 'set'; readonly key: string; readonly value: V }
  | { readonly type: 'delete' | 'expire'; readonly key: string }
  /** Changes may have been missed: the connection was lost, they were not read in time, or a value was unreadable. */
  | { readonly type: 'lost' }

/** What `map.watch` takes. Wrong ones are ERR_UNKNOWN_OPTION, ERR_BAD_OPTION and ERR_SHARED_KEY. */
export interface WatchOptions {
  /** Watch only this key. Default: all keys. */
  readonly key?: string
  /** Ends the iteration. */
  readonly signal?: AbortSignal
}

/** A change as it came. Values are decoded when they are read: until then their size is known. */
interface Unread {
  readonly type: Change<unknown>['type']
  readonly key: string
  readonly plain: Plain
  readonly bytes: Uint8Array
}

const unreadable = new LimitedLog()
/** Limits of changes that wait for the reader, and of their keys and values. */
const MAX_WAITING = 10_000
const MAX_WAITING_BYTES = 16 * 1_048_576

export function watchChanges<V>(
  map: string,
  { key = '', signal }: WatchOptions,
  decode: (key: string, plain: Plain, bytes: Uint8Array) => V,
): AsyncIterableIterator<Change<V>> {
  const done: IteratorReturnResult<undefined> = { done: true, value: undefined }
  const readers: ((result: IteratorResult<Change<V>>) => void)[] = []
  let waiting: Unread[] = []
  let waitingBytes = 0
  let isOver = false

  /** Does not throw: the connection calls it, which all watchers share. */
  const read = ({ type, key, plain, bytes }: Unread): Change<V> => {
    if (type !== 'set') return type === 'lost' ? { type } : { type, key }
    try {
      return { type, key, value: decode(key, plain, bytes) }
    } catch (error) {
      unreadable.log(`watch('${map}'): ${messageOf(error)}`)
      return { type: 'lost' }
    }
  }
  const give = (change: Unread) => {
    const reader = readers.shift()
    if (reader !== undefined) return reader({ done: false, value: read(change) })
    waitingBytes += sizeOf(change)
    if (change.type !== 'lost' && waiting.length < MAX_WAITING && waitingBytes <= MAX_WAITING_BYTES)
      return void waiting.push(change)
    waiting = [LOST]
    waitingBytes = 0
  }
  const stop = keeperLink.watch(map, key, (type, changed, plain, bytes) => give({ type, key: changed, plain, bytes }))
  const end = () => {
    isOver = true
    waiting = []
    stop()
    signal?.removeEventListener('abort', end)
    for (const reader of readers.splice(0)) reader(done)
  }
  signal?.addEventListener('abort', end)
  if (signal?.aborted) end()

  return {
    next() {
      if (isOver) return Promise.resolve(done)
      const change = waiting.shift()
      if (change === undefined) return new Promise((resolve) => readers.push(resolve))
      waitingBytes -= sizeOf(change)
      return Promise.resolve({ done: false, value: read(change) })
    },
    return() {
      end()
      return Promise.resolve(done)
    },
    [Symbol.asyncIterator]() {
      return this
    },
  }
}

const LOST: Unread = { type: 'lost', key: '', plain: null, bytes: new Uint8Array() }

function sizeOf({ key, bytes }: Unread): number {
  return key.length + bytes.length
}
