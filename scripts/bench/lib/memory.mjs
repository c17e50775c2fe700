// What a process of the bench `idle` uses, in bytes, after everything that is garbage has been collected. Needs
// --expose-gc. `external` has the contents of typed arrays too. Compiled code is no connection's, and is left out: what V8
// makes of it between two looks depends on how hot it has become.
import { getHeapSpaceStatistics } from 'node:v8'

export function memory() {
  globalThis.gc()
  globalThis.gc()
  const { heapUsed, external, rss } = process.memoryUsage()
  const code = getHeapSpaceStatistics()
    .filter((space) => /^code_/.test(space.space_name))
    .reduce((sum, space) => sum + space.space_used_size, 0)
  return JSON.stringify({ heapUsed: heapUsed - code, external, rss })
}
