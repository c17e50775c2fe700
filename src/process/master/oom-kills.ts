// Whether the kernel has killed something of this container for want of memory: what ends with SIGKILL has no last words, and
// in a container with a limit this is the usual reason. cgroup-v2, memory.events: `oom_kill`.

import { readFileSync } from 'node:fs'
import { join } from 'node:path'

export class OomKills {
  readonly #path: string
  #known: number

  /** `root` is that of the file system. */
  constructor(root = '/') {
    const group = /^0::(.*)$/m.exec(read(join(root, 'proc/self/cgroup')))?.[1] ?? '/'
    this.#path = join(root, 'sys/fs/cgroup', group, 'memory.events')
    this.#known = this.#count()
  }

  /** There is one more than when it was last asked, or made. */
  hasRisen(): boolean {
    const before = this.#known
    this.#known = this.#count()
    return this.#known > before
  }

  #count(): number {
    return Number(/^oom_kill (\d+)$/m.exec(read(this.#path))?.[1] ?? 0)
  }
}

function read(path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return '' // ENOENT: cgroup-v1, no limit, or another system
  }
}
