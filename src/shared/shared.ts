// What users see of shared data: names. Nothing is opened before something is asked for.

import { checkMapName, checkName } from './limits.ts'
import { type SharedCounter, sharedCounter } from './shared-counter.ts'
import { SharedMap } from './shared-map.ts'

const maps = new Map<string, SharedMap>()
const counters = new Map<string, SharedCounter>()

/** Data that all workers of a server share, on one machine. It survives every worker, and ends with the server. */
// biome-ignore lint/complexity/noStaticOnlyClass: as Timer.add, a name with members that editors document
export class Shared {
  /** The map of this name: one for all processes. **Throws** ERR_SHARED_NAME. */
  static map<V = unknown>(name: string): SharedMap<V> {
    const present = maps.get(name) ?? new SharedMap(checkMapName(name))
    maps.set(name, present)
    return present as SharedMap<V>
  }

  /** The counter of this name; there can be 16,384. **Throws** ERR_SHARED_NAME, ERR_SHARED_FULL. */
  static counter(name: string): SharedCounter {
    const present = counters.get(name) ?? sharedCounter(checkName(name))
    counters.set(name, present)
    return present
  }
}
