// Finds the running group that a new declaration means: by name and address; failing that, by name alone (the address
// has changed) or by address alone (the name has). What is left over is new, or gone.

import { type GroupKey, isSameKey } from '../messages.ts'

interface GroupMatch {
  /** For each wanted key the index of its running group, or -1 for a new one. */
  readonly of: readonly number[]
  /** Indexes of running groups that are no longer declared. */
  readonly gone: readonly number[]
}

const RULES: readonly ((a: GroupKey, b: GroupKey) => boolean)[] = [
  isSameKey,
  (a, b) => a.name === b.name && a.listen === b.listen,
  (a, b) => a.listen !== '' && a.listen === b.listen,
  (a, b) => a.name !== UNNAMED && a.name === b.name,
]

/** Workerman's name for a worker without one. It does not identify a group. */
const UNNAMED = 'none'

export function matchGroups(running: readonly GroupKey[], wanted: readonly GroupKey[]): GroupMatch {
  const of = wanted.map(() => -1)
  const free = new Set(running.keys())
  for (const isSame of RULES) {
    for (const [place, key] of wanted.entries()) {
      if (of[place] !== -1) continue
      const found = [...free].find((at) => isSame(running[at] as GroupKey, key))
      if (found === undefined) continue
      of[place] = found
      free.delete(found)
    }
  }
  return { of, gone: [...free] }
}
