// Whether the kernel has killed something in this container for lack of memory. A process killed by SIGKILL cannot say
// why, and in a container with a memory limit this is the usual reason. cgroup-v2, memory.events: `oom_kill`.

import { readFileSync } from 'node:fs'
import { join } from 'node:path'

export class OomKills {
  readonly #path: string
  #known: number

  /** `root` is the root of the file system. */
  constructor(root = '/') {
    const group = /^0::(.*)$/m.exec(read(join(root, 'proc/self/cgroup')))?.[1] ?? '/'
    this.#path = join(root, 'sys/fs/cgroup', group, 'memory.events')
    this.#known = this.#count()
  }

  /** Whether there has been a further kill since the last call, or since construction. */
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
