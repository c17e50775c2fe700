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

const unread = new LimitedLog()
/** Limit of changes that wait for the reader. */
const MAX_WAITING = 10_000

export function watchChanges<V>(
  map: string,
  { key = '', signal }: WatchOptions,
  decode: (key: string, plain: Plain, bytes: Uint8Array) => V,
): AsyncIterableIterator<Change<V>> {
  const done: IteratorReturnResult<undefined> = { done: true, value: undefined }
  const readers: ((result: IteratorResult<Change<V>>) => void)[] = []
  let waiting: Change<V>[] = []
  let isOver = false

  const give = (change: Change<V>) => {
    const reader = readers.shift()
    if (reader !== undefined) return reader({ done: false, value: change })
    const hasMissed = change.type === 'lost' || waiting.length >= MAX_WAITING
    if (hasMissed) waiting = [{ type: 'lost' }]
    else waiting.push(change)
  }
  /** Does not throw: it is called by the connection, which all watchers share. */
  const read = (changed: string, plain: Plain, bytes: Uint8Array): Change<V> => {
    try {
      return { type: 'set', key: changed, value: decode(changed, plain, bytes) }
    } catch (error) {
      unread.log(`watch('${map}'): ${messageOf(error)}`)
      return { type: 'lost' }
    }
  }
  const stop = keeperLink.watch(map, key, (type, changed, plain, bytes) => {
    if (type === 'set') give(read(changed, plain, bytes))
    else give(type === 'lost' ? { type } : { type, key: changed })
  })
  const end = () => {
    isOver = true
    stop()
    signal?.removeEventListener('abort', end)
    for (const reader of readers.splice(0)) reader(done)
  }
  signal?.addEventListener('abort', end)
  if (signal?.aborted) end()

  return {
    next() {
      const change = waiting.shift()
      if (change !== undefined && !isOver) return Promise.resolve({ done: false, value: change })
      if (isOver) return Promise.resolve(done)
      return new Promise((resolve) => readers.push(resolve))
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
