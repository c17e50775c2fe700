// Owner of the connections this process opens. They belong to no worker, but a leaving worker waits for what their
// handlers have begun, and for what they were given to send; then they say goodbye.

import { type ConnectionHost, kGone } from '../connection/host.ts'
import { State } from '../connection/state.ts'
import { kDrain, kLeave } from '../connection/symbols.ts'
import type { AnyConnection } from '../connection.ts'
import { newCounters } from '../counters.ts'
import { apart } from '../loop/apart.ts'
import { nothing } from '../nothing.ts'

/** The settings that an accepted connection takes from its worker. */
type ClientLimits = Pick<
  ConnectionHost,
  'maxPackageSize' | 'maxSendBufferSize' | 'idleTimeoutMs' | 'maxInFlight' | 'maxQueuedMessages'
>

/** Clients may be made, and at work, before there is one: at the top of a module. */
let worker: ConnectionHost | null = null
/** Promises of the callbacks of all clients that have not settled. */
let unsettled = 0
let hasParted = false
const counters = newCounters()
const connections = new Map<number, AnyConnection>()

/** The connections that this process has opened. */
export const clients: Pick<ConnectionHost, 'connections'> = { connections }

/** A client that keeps messages until it can send them. */
interface Sender {
  getStatus(): number
  getSendBufferQueueSize(): number
}

/** Clients that may have something to send before they are among `connections`. */
const senders = new Set<Sender>()

export function addSender(client: Sender): void {
  senders.add(client)
}

export function removeSender(client: Sender): void {
  senders.delete(client)
}

/** What clients were given to send and the kernel has not taken. */
export interface Unsent {
  readonly clients: number
  readonly bytes: number
}

/** Not counted are clients whose `connect` has never been called: nothing would come of waiting for them. */
export function unsentByClients(): Unsent {
  let clients = 0
  let bytes = 0
  for (const client of new Set<Sender>([...connections.values(), ...senders])) {
    const size = client.getStatus() === State.Initial ? 0 : client.getSendBufferQueueSize()
    if (size > 0) clients++
    bytes += size
  }
  return { clients, bytes }
}

/** From now on this process serves for `host`, which waits for what clients have begun, earlier, too. */
export function serveFor(host: ConnectionHost): void {
  hasParted = false
  if (worker !== null) worker.unsettled -= unsettled
  worker = host
  worker.unsettled += unsettled
}

/** The process is about to exit: no client connects again. */
export function hasLeft(): boolean {
  return hasParted
}

/** Open clients say goodbye, if their protocol has one, and half-close. `onClose` cannot connect them again. */
export function partWithClients(): void {
  hasParted = true
  for (const connection of [...connections.values()]) apart(partWith, connection)
}

export function partWith(connection: AnyConnection): void {
  connection[kDrain]()
  connection[kLeave]()
}

export class ClientHost implements ConnectionHost {
  readonly name = 'client'
  readonly id = 0
  readonly counters = counters
  readonly connections = connections
  readonly tls = null
  target: { readonly authority: string; readonly uri: string } = { authority: '', uri: '/' }
  readonly onConnect = null
  readonly onMessage = null
  readonly onClose = null
  readonly onError = null
  readonly onBufferFull = null
  readonly onBufferDrain = null
  readonly maxPackageSize: number
  readonly maxSendBufferSize: number
  readonly idleTimeoutMs: number
  readonly maxInFlight: number
  maxQueuedMessages: number
  /** Called when the connection has closed, after its `onClose`. */
  whenClosed: () => void = nothing
  #unsettled = 0

  constructor(limits: ClientLimits) {
    this.maxPackageSize = limits.maxPackageSize
    this.maxSendBufferSize = limits.maxSendBufferSize
    this.idleTimeoutMs = limits.idleTimeoutMs
    this.maxInFlight = limits.maxInFlight
    this.maxQueuedMessages = limits.maxQueuedMessages
  }

  get unsettled(): number {
    return this.#unsettled
  }

  set unsettled(count: number) {
    const more = count - this.#unsettled
    this.#unsettled = count
    unsettled += more
    if (worker !== null) worker.unsettled += more
  }

  [kGone](connection?: AnyConnection): void {
    if (connection !== undefined) this.whenClosed()
    worker?.[kGone]()
  }
}
