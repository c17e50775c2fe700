// A reload: slot by slot the new process is started, becomes ready, takes the slot, and the old one drains. Whatever
// can fail is done before something is taken away: the modules have been evaluated once, the new addresses are bound,
// the new process serves. When one does not come up the reload ends there, and what it has not touched stays.

import { lchownSync } from 'node:fs'
import { messageOf } from '../errors.ts'
import { now } from '../loop/clock.ts'
import { parseAddress } from '../net/address.ts'
import { type BoundSocket, bindSocket } from '../net/bound-socket.ts'
import type { Described } from './describe.ts'
import { CommandError, Exit, WorkerExit } from './exit-codes.ts'
import type { Declaration } from './group.ts'
import { matchGroups } from './group-match.ts'
import { keysOf } from './messages.ts'
import { type Blueprint, GroupState, type Slot } from './slot.ts'
import type { WorkerExitInfo, WorkerHandle } from './worker-handle.ts'

/** How long `onWorkerRetire` may keep the old process accepting. It still has the whole drain to settle. */
const RETIRE_TIMEOUT_MS = 5000

export interface SlotReceipt {
  /** `echo:2` */
  readonly worker: string
  readonly result: 'replaced' | 'added' | 'removed' | 'kept' | 'failed'
  /** 0 for none. */
  oldPid: number
  newPid: number
  /** From spawn to ready, ms. */
  readyMs: number
  /** From the word to leave to the end, ms. */
  drainMs: number
  /** Connections whose peer still sent something into the goodbye: it was not handled. */
  discarded: number
  note: string
}

/** How a reload went: what became of each slot, and when it was given up, why. */
export interface ReloadOutcome {
  readonly exitCode: Exit
  /** Empty when it went through. */
  readonly reason: string
  readonly durationMs: number
  readonly slots: readonly SlotReceipt[]
}

/** What a reload needs of its master. */
export interface Supervisor {
  readonly groups: GroupState[]
  /** Starts a process for a slot, as `slot.next`. */
  launch(group: GroupState, slot: Slot, blueprint: Blueprint): WorkerHandle
  /** `handle` has become its slot's only process, as soon as those before it have retired. */
  activate(slot: Slot, handle: WorkerHandle): void
  /** The process of a slot is gone, and the next one failed: the crash policy takes over. */
  retryLater(slot: Slot): void
  /** Removes an empty slot; its counts stay in the totals. */
  dismiss(group: GroupState, slot: Slot): void
  reconcile(): void
}

export class Reload {
  readonly receipts: SlotReceipt[] = []
  readonly #supervisor: Supervisor
  readonly #drains: Promise<void>[] = []
  /** Sockets of addresses that are no longer declared; workers that leave may still accept on them. */
  readonly #oldSockets: BoundSocket[] = []

  constructor(supervisor: Supervisor) {
    this.#supervisor = supervisor
  }

  /** Resolves when the old processes are gone. Rejects with a CommandError when it was given up on the way. */
  async run({ groups: declarations }: Described): Promise<void> {
    const { groups } = this.#supervisor
    const keys = keysOf(declarations)
    const match = matchGroups(
      groups.map(({ blueprint }) => blueprint.key),
      keys,
    )
    const running = match.of.map((place) => groups[place])
    const gone = match.gone.map((place) => groups[place] as GroupState)
    const blueprints = await bindAll(declarations, running)
    let failure: CommandError | null = null
    try {
      for (const [place, blueprint] of blueprints.entries()) {
        const group = running[place]
        if (group === undefined) await this.#add(blueprint)
        else await this.#renew(group, blueprint)
      }
      for (const group of gone) this.#remove(group, group.slots)
    } catch (error) {
      failure = error as CommandError
    }
    await Promise.all(this.#drains)
    for (const socket of this.#oldSockets) socket.close()
    if (failure !== null) {
      releaseUnused(blueprints, groups)
      throw failure
    }
    this.#drop(gone)
    sortAs(groups, keys)
  }

  // Groups

  async #add(blueprint: Blueprint): Promise<void> {
    const group = new GroupState(blueprint)
    this.#supervisor.groups.push(group)
    try {
      await this.#addSlots(group, blueprint)
    } catch (error) {
      this.#remove(group, group.slots) // half a group is none
      await Promise.all(this.#drains)
      this.#drop([group])
      throw error
    }
  }

  async #renew(group: GroupState, blueprint: Blueprint): Promise<void> {
    const { declaration } = blueprint
    const present = group.slots.slice(0, declaration.count)
    const surplus = group.slots.slice(declaration.count)
    if (declaration.reloadable) for (const slot of present) await this.#replace(group, slot, blueprint)
    else for (const slot of present) this.#keep(group, slot, blueprint)
    this.#adopt(group, blueprint)
    await this.#addSlots(group, blueprint)
    this.#remove(group, surplus)
  }

  /** From the first process made by it on, a group is what its new blueprint says: a crash starts the new code. */
  #adopt(group: GroupState, blueprint: Blueprint): void {
    const { socket } = group.blueprint
    group.blueprint = blueprint
    if (socket !== null && socket !== blueprint.socket) this.#oldSockets.push(socket)
  }

  async #addSlots(group: GroupState, blueprint: Blueprint): Promise<void> {
    for (const slot of group.addSlots(blueprint.declaration.count)) {
      try {
        await this.#start(group, slot, blueprint, 'added')
        const next = slot.next as WorkerHandle
        slot.flip(next)
        this.#supervisor.activate(slot, next)
        slot.isHeld = false
      } catch (error) {
        this.#supervisor.dismiss(group, slot)
        throw error
      }
    }
  }

  #remove(group: GroupState, slots: readonly Slot[]): void {
    for (const slot of slots) {
      const name = `${group.name}:${slot.id}`
      slot.isHeld = true
      slot.stopWaiting()
      const old = slot.current
      if (old !== null) {
        slot.leaving.add(old)
        slot.current = null
      }
      const receipt = this.#note(name, 'removed', old)
      const drained = old === null ? Promise.resolve() : this.#drain(old, group, receipt)
      this.#drains.push(drained.then(() => this.#supervisor.dismiss(group, slot)))
    }
  }

  // Slots

  async #replace(group: GroupState, slot: Slot, blueprint: Blueprint): Promise<void> {
    slot.isHeld = true
    try {
      if (blueprint.declaration.reloadMode === 'stop-first') await this.#stopThenStart(group, slot, blueprint)
      else await this.#startThenDrain(group, slot, blueprint)
    } finally {
      slot.isHeld = false
      this.#supervisor.reconcile()
    }
  }

  async #startThenDrain(group: GroupState, slot: Slot, blueprint: Blueprint): Promise<void> {
    const receipt = await this.#start(group, slot, blueprint, 'replaced')
    const next = slot.next as WorkerHandle
    const old = slot.current
    slot.flip(next)
    this.#adopt(group, blueprint)
    if (old !== null) {
      old.retire()
      this.#drains.push(this.#drain(old, group, receipt))
    }
    this.#supervisor.activate(slot, next)
  }

  async #stopThenStart(group: GroupState, slot: Slot, blueprint: Blueprint): Promise<void> {
    const old = slot.current
    const leaving: SlotReceipt = { ...EMPTY, worker: `${group.name}:${slot.id}`, result: 'replaced' }
    slot.stopWaiting()
    this.#adopt(group, blueprint)
    if (old !== null) {
      slot.leaving.add(old)
      slot.current = null
      old.retire()
      await this.#drain(old, group, leaving)
    }
    const receipt = await this.#start(group, slot, blueprint, 'replaced').catch((error) => {
      this.#supervisor.retryLater(slot)
      throw error
    })
    Object.assign(receipt, { oldPid: old?.pid ?? 0, drainMs: leaving.drainMs, discarded: leaving.discarded })
    const next = slot.next as WorkerHandle
    slot.flip(next)
    this.#supervisor.activate(slot, next)
  }

  /** Starts the next process of a slot and waits until it is ready. Rejects with the reason why it is not. */
  async #start(
    group: GroupState,
    slot: Slot,
    blueprint: Blueprint,
    result: 'replaced' | 'added',
  ): Promise<SlotReceipt> {
    const name = `${blueprint.declaration.name}:${slot.id}`
    const old = slot.current
    const started = now()
    const next = this.#supervisor.launch(group, slot, blueprint)
    try {
      await next.untilReady()
    } catch (error) {
      const receipt = this.#note(name, 'failed', old)
      receipt.newPid = next.pid
      receipt.note = messageOf(error).split('\n')[0] ?? ''
      throw notReady(name, messageOf(error), await next.gone, blueprint.declaration)
    }
    const receipt = this.#note(name, result, old)
    receipt.newPid = next.pid
    receipt.readyMs = Math.round(now() - started)
    return receipt
  }

  #keep(group: GroupState, slot: Slot, { key, declaration }: Blueprint): void {
    slot.current?.reload()
    const hasMoved = key.listen !== declaration.listen
    const note = `reloadable: false${hasMoved ? `, so it stays on ${declaration.listen}` : ''}`
    this.#note(`${group.name}:${slot.id}`, 'kept', slot.current).note = note
  }

  async #drain(old: WorkerHandle, group: GroupState, receipt: SlotReceipt): Promise<void> {
    const started = now()
    await Promise.race([old.retired, delay(RETIRE_TIMEOUT_MS)])
    old.stop(group.blueprint.declaration.drainTimeoutMs)
    const exit = await old.gone
    receipt.drainMs = Math.round(now() - started)
    receipt.discarded = old.report.counters.discarded
    receipt.note = drainNote(exit, old)
  }

  #note(worker: string, result: SlotReceipt['result'], old: WorkerHandle | null): SlotReceipt {
    const receipt = { ...EMPTY, worker, result, oldPid: old?.pid ?? 0 }
    this.receipts.push(receipt)
    return receipt
  }

  #drop(gone: readonly GroupState[]): void {
    const { groups } = this.#supervisor
    for (const group of gone) {
      group.blueprint.socket?.close()
      groups.splice(groups.indexOf(group), 1)
    }
  }
}

const EMPTY = { oldPid: 0, newPid: 0, readyMs: 0, drainMs: 0, discarded: 0, note: '' }

/** A blueprint for each declaration; an address that is declared as before keeps its socket, and port 0 its port. */
async function bindAll(
  declarations: readonly Declaration[],
  running: readonly (GroupState | undefined)[],
): Promise<Blueprint[]> {
  const keys = keysOf(declarations)
  const blueprints: Blueprint[] = []
  try {
    for (const [place, declaration] of declarations.entries()) {
      const { socket = null, declaration: old = null } = running[place]?.blueprint ?? {}
      const isStaying = !declaration.reloadable && old !== null
      const isKept = isStaying || old?.listen === declaration.listen
      blueprints.push({
        key: keys[place] as Blueprint['key'],
        declaration: isStaying ? { ...declaration, listen: old.listen } : declaration,
        socket: isKept ? socket : await bindFor(declaration),
      })
    }
    return blueprints
  } catch (error) {
    releaseUnused(blueprints, running)
    throw new CommandError(Exit.Address, messageOf(error), { cause: error })
  }
}

/** The socket of a declaration, or null without an address. A Unix socket belongs to who serves it, as Workerman's. */
export async function bindFor({ listen, credentials }: Declaration): Promise<BoundSocket | null> {
  if (listen === '') return null
  const address = parseAddress(listen)
  const socket = await bindSocket(address)
  if (credentials !== null && address.transport === 'unix') lchownSync(address.path, credentials.uid, credentials.gid)
  return socket
}

/** Closes the sockets that no running group has. */
function releaseUnused(blueprints: readonly Blueprint[], running: readonly (GroupState | undefined)[]): void {
  const used = new Set(running.map((group) => group?.blueprint.socket))
  for (const { socket } of blueprints) if (!used.has(socket)) socket?.close()
}

function sortAs(groups: GroupState[], keys: readonly Blueprint['key'][]): void {
  const place = new Map(keys.map((key, at) => [`${key.name}\n${key.listen}\n${key.nth}`, at]))
  const placeOf = ({ blueprint: { key } }: GroupState) => place.get(`${key.name}\n${key.listen}\n${key.nth}`) ?? 0
  groups.sort((a, b) => placeOf(a) - placeOf(b))
}

/** What two processes at once cannot both have. */
const EXCLUSIVE = /\b(EADDRINUSE|EEXIST|EBUSY|EAGAIN|EWOULDBLOCK|ELOCK\w*)\b|\block(ed|file)?\b/i

function notReady(name: string, reason: string, exit: WorkerExitInfo, { reloadMode }: Declaration): CommandError {
  const hint =
    reloadMode === 'start-first' && EXCLUSIVE.test(reason)
      ? `\nOld and new process live side by side during a reload: what only one can have needs reloadMode: 'stop-first', or onWorkerRetire and onWorkerActive.`
      : ''
  const exitCode = exit.hasTimedOut ? Exit.Timeout : exit.exitCode === WorkerExit.Address ? Exit.Address : Exit.Module
  return new CommandError(exitCode, `worker ${name} did not become ready: ${reason}${hint}`)
}

function drainNote(exit: WorkerExitInfo, old: WorkerHandle): string {
  if (exit.wasKilled) return `killed${old.report.work && `, with ${old.report.work}`}`
  return exit.exitCode === WorkerExit.Ended ? '' : exit.word
}

function delay(ms: number): Promise<void> {
  return new Promise((resolve) => {
    setTimeout(resolve, ms).unref()
  })
}
