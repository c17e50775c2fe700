// What a process of the bench `idle` uses, in bytes, after everything that is garbage has been collected. Needs
// --expose-gc. `external` has the contents of typed arrays too.

export function memory() {
  globalThis.gc()
  globalThis.gc()
  const { heapUsed, external, rss } = process.memoryUsage()
  return JSON.stringify({ heapUsed, external, rss })
}
