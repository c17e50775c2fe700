// The memory in use in a process of the bench `idle`, in bytes, after garbage collection. Needs --expose-gc. `external`
// includes the contents of typed arrays. Compiled code belongs to no connection and is left out: how much of it V8
// makes between two measurements depends on how hot the code has become.
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
