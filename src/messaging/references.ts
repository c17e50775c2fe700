// What users hold: a worker by its id, and its group. Usable from every worker process, also before the other worker is
// running and across its reloads: a reference means the slot. Only what handlers receive means the process that has
// sent the message.

import { quoted, UsageError } from '../errors.ts'
import type { Mesh } from './mesh.ts'
import type { Outbox } from './outbox.ts'
import { rangeOf } from './peers.ts'
import { checkRequest, type RequestOptions, rejectLater } from './pending-request.ts'
import { ProcessWay } from './process-way.ts'
import { Whom } from './waitlist.ts'
import { pack } from './wire.ts'

const NO_OPTIONS: RequestOptions = {}

/** What carries messages to one worker. */
export interface Way {
  /** Number of messages that are not settled. */
  readonly count: number
  send(message: unknown): boolean
  request(message: unknown, options: RequestOptions): { readonly promise: Promise<unknown> }
}

/** A group, on one server. */
export interface RefHome {
  readonly name: string
  /** Empty for this server. */
  readonly server: string
  /** Throws UsageError. */
  wayTo(id: number): Way
  /** Number of unsettled messages to that worker; does not make a way. */
  pendingAt(id: number): number
}

/**
 * Reference to one worker: a slot of a group, whichever process holds it. A handler's `from` is the process that has
 * sent the message: no other one of its slot gets what is sent there.
 */
export class WorkerRef {
  /** 0 to `count` - 1; -1 if a cluster chooses the worker at each message. */
  readonly id: number
  readonly #home: RefHome
  #way: Way | null = null

  /** @internal */
  constructor(home: RefHome, id: number) {
    this.#home = home
    this.id = id
  }

  /** The name of its group. */
  get group(): string {
    return this.#home.name
  }

  /** The name of its server in a `Cluster`; empty for a worker of this server, or if the cluster chooses. */
  get server(): string {
    return this.#home.server
  }

  /**
   * Sends anything structuredClone() accepts. Returns true to go on, false to stop until `onWorkerBufferDrain`. A
   * message that is refused, or lost later, goes to the group's `onSendFail(error, message)`. Throws UsageError:
   * ERR_CANNOT_CLONE, ERR_MESSAGE_TOO_LARGE, ERR_UNKNOWN_WORKER, ERR_NOT_A_WORKER.
   */
  send(message: unknown): boolean {
    return (this.#way ?? this.#open()).send(message)
  }

  /**
   * Resolves with what the other worker's handler returns for `message`: a value, or a stream if it returned an async
   * iterable. Rejects with what the handler threw (RemoteError), a PeerError (ERR_PEER_LOST, ERR_REQUEST_TIMEOUT,
   * ERR_QUEUE_FULL, ERR_NO_HANDLER), the signal's reason, or a UsageError. `Reply` is the caller's claim; nothing
   * checks it.
   */
  request<Reply = unknown>(message: unknown, options: RequestOptions = NO_OPTIONS): Promise<Reply> {
    try {
      if (options !== NO_OPTIONS) checkRequest(options)
      return (this.#way ?? this.#open()).request(message, options).promise as Promise<Reply>
    } catch (error) {
      return rejectLater(error)
    }
  }

  /** Number of messages from this process that are not settled. */
  get pendingMessages(): number {
    return this.#way?.count ?? this.#home.pendingAt(this.id)
  }

  #open(): Way {
    this.#way = this.#home.wayTo(this.id)
    return this.#way
  }
}

/** The workers of a group. */
export class WorkerGroup {
  /** As declared. */
  readonly name: string
  /** @internal */
  readonly server = ''
  readonly #resolve: () => string
  readonly #current: () => Mesh | null
  readonly #refs = new Map<number, WorkerRef>()
  readonly #outboxes = new Map<number, Outbox>()
  #turn = 0

  /** @internal */
  constructor(name: string, resolve: () => string, current: () => Mesh | null) {
    this.name = name
    this.#resolve = resolve
    this.#current = current
  }

  /** @internal The mesh of this process. Throws UsageError if there is none. */
  get mesh(): Mesh {
    const mesh = this.#current()
    if (mesh === null)
      throw new UsageError('ERR_NOT_A_WORKER', 'messages go between worker processes: send in onWorkerStart, or later')
    return mesh
  }

  /** @internal */
  get mailbox(): string {
    return this.#resolve()
  }

  /** @internal */
  wayTo(id: number): Outbox {
    const outbox = this.#outboxes.get(id) ?? this.mesh.outbox(this.mailbox, id)
    this.#outboxes.set(id, outbox)
    return outbox
  }

  /** @internal */
  pendingAt(id: number): number {
    if (this.#outboxes.has(id)) return this.wayTo(id).count
    // What is published may wait there before anything was sent by this reference.
    return this.#current()?.isKnown(this.mailbox, id) ? this.wayTo(id).count : 0
  }

  /** Returns the worker with this id. Throws UsageError: ERR_UNKNOWN_WORKER, whose message lists the existing ids. */
  getWorkerById(id: number): WorkerRef {
    if (this.#outboxes.get(id)?.isKnown) return this.reference(id) // without asking for its name each time
    const isId = Number.isSafeInteger(id) && id >= 0
    const mesh = this.#current()
    if (!isId || (mesh !== null && !mesh.isKnown(this.mailbox, id))) throw this.#unknown(id)
    return this.reference(id)
  }

  /** @internal Reference to a worker that is known to exist. */
  reference(id: number): WorkerRef {
    const ref = this.#refs.get(id) ?? new WorkerRef(this, id)
    this.#refs.set(id, ref)
    return ref
  }

  /** Same as `getWorkerById`. */
  worker(id: number): WorkerRef {
    return this.getWorkerById(id)
  }

  /**
   * Returns the least loaded worker, as far as this process knows, measured in unsettled messages. Throws UsageError:
   * ERR_UNKNOWN_WORKER if the group has no workers.
   */
  any(): WorkerRef {
    const ids = this.ids
    const canaries = this.mesh.processes.canariesOf(this.mailbox)
    const count = ids.length + canaries.length
    let best: Outbox | null = null
    const start = ++this.#turn % Math.max(1, count) // among equals, in turn
    for (let n = 0; n < count; n++) {
      const at = (start + n) % count
      const outbox = canaries[at - ids.length] ?? this.wayTo(ids[at] as number)
      if (best === null || isBetter(outbox, best)) best = outbox
    }
    if (best === null) throw this.#empty()
    return best.isBeside ? this.#canary(best) : this.reference(best.id)
  }

  /** A canary as long as there is one, then its slot. */
  #canary({ mailbox, id, address }: Outbox): WorkerRef {
    return refTo(
      this.name,
      id,
      new ProcessWay(this.mesh.processes, { mailbox, id, address, incarnation: 0 }, Whom.Slot),
    )
  }

  /**
   * Returns the same worker for the same key as long as the number of workers stays the same; a change moves as few
   * keys as possible. Throws UsageError: ERR_UNKNOWN_WORKER if the group has no workers.
   */
  by(key: string | number | bigint): WorkerRef {
    const hash = hashOf(String(key))
    let best = -1
    let most = -1
    for (const id of this.ids) {
      const weight = mix(hash ^ Math.imul(id + 1, 0x9e3779b1))
      if (weight <= most) continue
      most = weight
      best = id
    }
    if (best < 0) throw this.#empty()
    return this.reference(best)
  }

  /**
   * Sends to each worker of the group, this one included if it belongs to it. Returns false if `send` to any of them
   * would. Throws UsageError: ERR_UNKNOWN_WORKER if the group has no workers, and no process of it drains.
   */
  broadcast(message: unknown): boolean {
    const packed = pack(message)
    const slots = this.ids.map((id) => this.wayTo(id))
    const all = [...slots, ...this.mesh.processes.besideOf(this.mailbox)]
    if (all.length === 0) throw this.#empty()
    for (const outbox of all) outbox.check(packed) // too large for one of them, it goes to none
    let mayGoOn = true
    for (const outbox of all) mayGoOn = outbox.sendPacked(packed, message) && mayGoOn
    return mayGoOn
  }

  /** Ids of the workers that exist now, ascending. */
  get ids(): readonly number[] {
    return this.mesh.idsOf(this.mailbox)
  }

  #empty(): UsageError {
    return new UsageError(
      'ERR_UNKNOWN_WORKER',
      `group '${this.name}' has no workers any more: newer code does not declare it`,
    )
  }

  #unknown(id: unknown): UsageError {
    const mesh = this.#current()
    const ids = mesh === null ? '' : rangeOf(mesh.idsOf(this.mailbox))
    const those = ids === '' ? '' : `: it has ${ids}`
    return new UsageError('ERR_UNKNOWN_WORKER', `group '${this.name}' has no worker ${quoted(id)}${those}`)
  }
}

/** A reference to one process of this server. */
export function refTo(name: string, id: number, way: Way): WorkerRef {
  return new WorkerRef({ name, server: '', wayTo: () => way, pendingAt: () => way.count }, id)
}

function isBetter(a: Outbox, b: Outbox): boolean {
  return a.isUp === b.isUp ? a.load < b.load : a.isUp
}

/** FNV-1a over UTF-16 units. */
function hashOf(text: string): number {
  let hash = 0x811c9dc5
  for (let at = 0; at < text.length; at++) hash = Math.imul(hash ^ text.charCodeAt(at), 0x01000193)
  return hash >>> 0
}

/** The finalizer of MurmurHash3: each input bit changes half of the output bits. */
function mix(value: number): number {
  let bits = value
  bits = Math.imul(bits ^ (bits >>> 16), 0x85ebca6b)
  bits = Math.imul(bits ^ (bits >>> 13), 0xc2b2ae35)
  return (bits ^ (bits >>> 16)) >>> 0
}
