// The user's access to shared data: by name. Nothing is opened before first use.

import { checkMapName, checkName } from './limits.ts'
import { type SharedCounter, sharedCounter } from './shared-counter.ts'
import { SharedMap } from './shared-map.ts'

const maps = new Map<string, SharedMap>()
const counters = new Map<string, SharedCounter>()

/** Data that all workers of a server share, on one machine. It outlives every worker, and ends with the server. */
// biome-ignore lint/complexity/noStaticOnlyClass: as Timer.add, a name with members that editors document
export class Shared {
  /** Returns the map of this name, the same for all processes. **Throws** ERR_SHARED_NAME. */
  static map<V = unknown>(name: string): SharedMap<V> {
    const present = maps.get(name) ?? new SharedMap(checkMapName(name))
    maps.set(name, present)
    return present as SharedMap<V>
  }

  /** Returns the counter of this name, of at most 16,384. **Throws** ERR_SHARED_NAME, ERR_SHARED_FULL. */
  static counter(name: string): SharedCounter {
    const present = counters.get(name) ?? sharedCounter(checkName(name))
    counters.set(name, present)
    return present
  }
}
