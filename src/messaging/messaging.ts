// The messaging side of a Worker: what the mesh needs of it, and the references it returns. One Worker of a process
// owns the mesh; it sends to the others.

import { type kGone, settled } from '../connection/host.ts'
import { type SendError, stackOf, UsageError } from '../errors.ts'
import { LimitedLog, log } from '../log.ts'
import type { MeshPlace, PeerNews } from '../process/group.ts'
import { isThenable } from '../thenable.ts'
import type { Transport } from '../transport.ts'
import type { Handler, Mailbox, MailboxHost } from './mailbox.ts'
import { Mesh, type MeshHost } from './mesh.ts'
import type { Outbox, OutboxSettings } from './outbox.ts'
import { WorkerGroup, type WorkerRef } from './references.ts'
import { separation } from './separation.ts'

/** The part of a Worker that messaging uses. */
export interface MessagingWorker {
  readonly name: string
  readonly count: number
  readonly id: number
  readonly incarnation: number
  readonly mailbox: string
  readonly serial: boolean
  readonly maxPackageSize: number
  readonly maxMailboxMessages: number
  readonly maxMailboxBytes: number
  readonly mailboxTimeoutMs: number
  readonly counters: { messagesIn: number; handlerErrors: number; refused: number; sendFail: number }
  /** Null when it takes no messages. */
  readonly workerHandler: Handler | null
  readonly onSendFail: ((error: SendError, message: unknown, to: WorkerRef) => unknown) | null
  readonly onWorkerBufferFull: ((to: WorkerRef) => unknown) | null
  readonly onWorkerBufferDrain: ((to: WorkerRef) => unknown) | null
  unsettled: number
  [kGone](): void
}

/** Returns all Workers declared in this process. */
type Declared = () => readonly MessagingWorker[]

let mesh: Mesh | null = null
let declared: Declared = () => []
const groups = new Map<string, WorkerGroup>()
const failures = new LimitedLog()

export function currentMesh(): Mesh | null {
  return mesh
}

/** From now on this process serves for `worker`. */
export function openMesh(worker: MessagingWorker, all: Declared, place: MeshPlace, transport: Transport): void {
  declared = all
  const host = new WorkerHost(worker)
  mesh = new Mesh(host, place, transport)
  here = { host, mailbox: mesh.mailbox, isServing: false }
  for (const bridge of bridges) bridge.open(host, mesh.mailbox)
}

/** Something besides the mesh that brings messages and takes them away: to other machines. */
export interface Bridge {
  /** This process may send. */
  open(host: BridgeHost, mailbox: Mailbox): void
  /**
   * It has started: messages for its Worker may come. Resolves when others can reach it, or cannot for now: an old
   * process of its slot leaves after that.
   */
  serve(): Promise<void>
  /** As `Mesh.leave`. */
  leave(hold: () => () => void, isDeserted: boolean): void
  /** As `Mesh.silence`. */
  silence(): void
  /** Number of messages sent that are not settled. */
  readonly unsettled: number
  /** As `Mesh.tellLost`. */
  tellLost(): Promise<void>
  close(): void
  /** As `Mesh.tellRest`. */
  tellRest(): void
}

/** The Worker of this process, as a bridge sees it. */
export interface BridgeHost extends MailboxHost {
  /** Whether no other declared Worker has its name. */
  readonly hasOwnName: boolean
  readonly maxMailboxMessages: number
  readonly maxMailboxBytes: number
  readonly counters: MessagingWorker['counters']
}

const bridges = new Set<Bridge>()
/** Null before this process serves for a Worker. */
let here: { readonly host: BridgeHost; readonly mailbox: Mailbox; isServing: boolean } | null = null

export function addBridge(bridge: Bridge): void {
  bridges.add(bridge)
  if (here === null) return
  bridge.open(here.host, here.mailbox)
  if (here.isServing) void bridge.serve()
}

/** This process has started: from now on messages from other machines may come. */
export async function serveMessages(): Promise<void> {
  if (here === null) return
  here.isServing = true
  await Promise.all([...bridges].map((bridge) => bridge.serve()))
}

/**
 * Takes no more messages but those for all; `hold` keeps this process alive as long as any of its own are under way.
 * @param hold is given what says why, for whoever asks meanwhile
 * @param isDeserted nobody is served here any more: as `silenceMessages`
 */
export function leaveMessages(hold: (why: () => string) => () => void, isDeserted: boolean): void {
  mesh?.leave(() => hold(workOfMesh), isDeserted)
  for (const bridge of bridges) bridge.leave(() => hold(workOfBridge), isDeserted)
}

/** Whether other processes may ask this one for something while the whole server stops. */
export function mayBeAsked(): boolean {
  return mesh?.mayBeAsked ?? false
}

function workOfMesh(): string {
  return mesh?.work ?? ''
}

function workOfBridge(): string {
  return 'messages'
}

/** Takes no more messages at all: the last one who was served here by a process that leaves has gone. */
export function silenceMessages(): void {
  mesh?.silence()
  for (const bridge of bridges) bridge.silence()
}

/** Number of messages from this process that are not settled. */
export function unsettledMessages(): number {
  return [...bridges].reduce((sum, { unsettled }) => sum + unsettled, mesh?.unsettled ?? 0)
}

/** Reports all of them as lost. More may be sent until `closeMessages`. */
export async function tellLostMessages(): Promise<void> {
  await Promise.all([mesh?.tellLost(), ...[...bridges].map((bridge) => bridge.tellLost())])
}

export function closeMessages(): void {
  mesh?.close()
  for (const bridge of bridges) bridge.close()
}

/** Reports as lost what has been sent since: this process ends before the event loop would turn for that. */
export function tellRestOfMessages(): void {
  mesh?.tellRest()
  for (const bridge of bridges) bridge.tellRest()
}

/** A process without a mesh cannot send. */
export function notAWorker(): UsageError {
  return new UsageError(
    'ERR_NOT_A_WORKER',
    'messages go between worker processes: send, publish and request in onWorkerStart, or later',
  )
}

export function usePeers(news: PeerNews): void {
  mesh?.use(news)
}

/** The group of a Worker declared in this process. */
export function groupOf(worker: MessagingWorker): WorkerGroup {
  const present = groups.get(worker.mailbox)
  if (present !== undefined) return present
  const group = new WorkerGroup(worker.name, () => worker.mailbox, currentMesh)
  if (worker.mailbox !== '') groups.set(worker.mailbox, group)
  return group
}

/** The group of that name. Throws UsageError: in a worker process at once, elsewhere at its first use. */
export function groupNamed(name: string): WorkerGroup {
  if (mesh !== null) return groupAt(resolve(name), name)
  return new WorkerGroup(name, () => resolve(name), currentMesh)
}

function groupAt(mailbox: string, name: string): WorkerGroup {
  const present = groups.get(mailbox)
  if (present !== undefined) return present
  const group = new WorkerGroup(name, () => mailbox, currentMesh)
  groups.set(mailbox, group)
  return group
}

function resolve(name: string): string {
  const all = declared()
  const found = new Set(all.filter((one) => one.name === name).map(({ mailbox }) => mailbox))
  for (const mailbox of mesh?.mailboxesNamed(name) ?? []) found.add(mailbox)
  const [first] = found
  if (first === undefined || found.size > 1) throw ambiguous(name, [...found])
  return first
}

function ambiguous(name: string, found: readonly string[]): UsageError {
  if (found.length > 1)
    return new UsageError('ERR_AMBIGUOUS_GROUP', `several groups are named '${name}': give each a name of its own`)
  const there = mesh?.describe() ?? 'none'
  return new UsageError('ERR_UNKNOWN_GROUP', `there is no group '${name}'; there are ${there}`)
}

/** The Worker of this process, as its mesh sees it. */
class WorkerHost implements MeshHost {
  readonly #worker: MessagingWorker

  constructor(worker: MessagingWorker) {
    this.#worker = worker
  }

  get name(): string {
    return this.#worker.name
  }

  get hasOwnName(): boolean {
    return declared().filter(({ name }) => name === this.#worker.name).length <= 1
  }

  get id(): number {
    return this.#worker.id
  }

  get incarnation(): number {
    return this.#worker.incarnation
  }

  get serial(): boolean {
    return this.#worker.serial
  }

  get workerHandler(): Handler | null {
    return this.#worker.workerHandler
  }

  get counters(): MessagingWorker['counters'] {
    return this.#worker.counters
  }

  get maxPackageSize(): number {
    return this.#worker.maxPackageSize
  }

  get maxMailboxMessages(): number {
    return this.#worker.maxMailboxMessages
  }

  get maxMailboxBytes(): number {
    return this.#worker.maxMailboxBytes
  }

  working(change: 1 | -1): void {
    if (change > 0) this.#worker.unsettled++
    else settled(this.#worker)
    if (this.#worker.unsettled === 0) mesh?.look()
  }

  declared(mailbox: string): number {
    return declared().find((one) => one.mailbox === mailbox)?.count ?? 0
  }

  refusedToSend(error: SendError, message: unknown): void {
    const own = this.#worker
    own.counters.sendFail++
    if (!own.onSendFail) failures.log(`a message was not sent: ${error.message}`)
    else guard('onSendFail', () => own.onSendFail?.(error, message, this.#self))
  }

  get #self(): WorkerRef {
    return groupOf(this.#worker).reference(this.#worker.id)
  }

  onOwnFull(): void {
    guard('onWorkerBufferFull', () => this.#worker.onWorkerBufferFull?.(this.#self))
  }

  onOwnDrain(): void {
    guard('onWorkerBufferDrain', () => this.#worker.onWorkerBufferDrain?.(this.#self))
  }

  /** Settings of the target group as declared here; if it is not declared here, those of this process's own Worker. */
  settingsFor(mailbox: string): OutboxSettings {
    const own = this.#worker
    const found = declared().find((one) => one.mailbox === mailbox)
    const target = found ?? own
    const refer = ({ id }: Outbox) => (found === undefined ? groupAt(mailbox, mailbox) : groupOf(found)).reference(id)
    return {
      maxMailboxMessages: target.maxMailboxMessages,
      maxMailboxBytes: target.maxMailboxBytes,
      mailboxTimeoutMs: target.mailboxTimeoutMs,
      maxPackageSize: target.maxPackageSize,
      onSendFail(error, message, outbox) {
        own.counters.sendFail++
        const tell = target.onSendFail ?? own.onSendFail
        if (tell === null) failures.log(`a message was not handled: ${error.message}`)
        else guard('onSendFail', () => tell(error, message, refer(outbox)))
      },
      onFull: (outbox) => guard('onWorkerBufferFull', () => target.onWorkerBufferFull?.(refer(outbox))),
      onDrain: (outbox) => guard('onWorkerBufferDrain', () => target.onWorkerBufferDrain?.(refer(outbox))),
    }
  }
}

/** Calls a user callback from within a link, without any store: what it throws is logged and must not end the link. */
export function guard(name: string, call: () => unknown): void {
  const failed = (error: unknown) => log(`${name}: ${stackOf(error)}`)
  try {
    const result = separation.alone(call)
    if (isThenable(result)) Promise.resolve(result).catch(failed)
  } catch (error) {
    failed(error)
  }
}
