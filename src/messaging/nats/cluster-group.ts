// A group of workers on all servers of a cluster. Who is there is NATS's to know: nothing here keeps a list of servers.

import { quoted, UsageError } from '../../errors.ts'
import { type RefHome, type Way, WorkerRef } from '../references.ts'

export interface ClusterHost {
  /** @param process empty for whichever process the worker has */
  wayTo(group: string, server: string, id: number, process: string): Way
  pendingAt(group: string, server: string, id: number, process: string): number
  broadcast(group: string, message: unknown): boolean
}

/** The workers of a group, on every server of the cluster. */
export class ClusterGroup {
  readonly name: string
  readonly #host: ClusterHost
  readonly #any: WorkerRef

  /** @internal */
  constructor(host: ClusterHost, name: string) {
    this.#host = host
    this.name = name
    this.#any = new WorkerRef(this.#home(''), -1)
  }

  /** Each message sent to it goes to one worker of the group, on any server: NATS chooses at random. */
  any(): WorkerRef {
    return this.#any
  }

  /** The worker with this id on that server. It need not exist yet. Throws UsageError: ERR_UNKNOWN_WORKER. */
  getWorkerById(id: number, server: string): WorkerRef {
    if (!Number.isSafeInteger(id) || id < 0)
      throw new UsageError(
        'ERR_UNKNOWN_WORKER',
        `group '${this.name}' has no worker ${quoted(id)}: ids are 0, 1, 2, ...`,
      )
    if (typeof server !== 'string' || server === '')
      throw new UsageError(
        'ERR_UNKNOWN_WORKER',
        `worker ${this.name}:${id}: say on which server, as '${this.name}' may be on many`,
      )
    return this.reference(id, server)
  }

  /** Same as `getWorkerById`. */
  worker(id: number, server: string): WorkerRef {
    return this.getWorkerById(id, server)
  }

  /**
   * Sends to each worker of the group on each server, once. Returns false to stop until the cluster's `onBufferDrain`.
   */
  broadcast(message: unknown): boolean {
    return this.#host.broadcast(this.name, message)
  }

  /** @internal */
  reference(id: number, server: string, process = ''): WorkerRef {
    return new WorkerRef(this.#home(server, process), id)
  }

  #home(server: string, process = ''): RefHome {
    const { name } = this
    return {
      name,
      server,
      wayTo: (id) => this.#host.wayTo(name, server, id, process),
      pendingAt: (id) => this.#host.pendingAt(name, server, id, process),
    }
  }
}
