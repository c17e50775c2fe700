// What operations do to slots: the next process starts, becomes ready and takes the slot, and the one before it retires
// and drains; or all processes leave without successors. Each slot gets a receipt.

import { setTimeout as sleep } from 'node:timers/promises'
import { messageOf } from '../../errors.ts'
import { HEALTHY_AFTER_MS } from '../../loop/backoff.ts'
import { now } from '../../loop/clock.ts'
import { bootFailure, CommandError, Exit, WorkerExit } from '../exit-codes.ts'
import type { Declaration } from '../group.ts'
import { type Blueprint, type GroupState, socketOf } from '../master/group-state.ts'
import type { Slot } from '../master/slot.ts'
import type { Sockets } from '../master/sockets.ts'
import { isVoluntary, type WorkerExitInfo, type WorkerHandle } from '../master/worker-handle.ts'
import type { Events, Operation } from '../status/events.ts'
import type { SlotReceipt } from './receipts.ts'

/** How long `onWorkerRetire` may keep the old process accepting. It still has the whole drain to settle. */
const RETIRE_TIMEOUT_MS = 5000
/** How long an operation waits at its end for `onWorkerActive`, which may take as long as it likes. */
const ACTIVE_TIMEOUT_MS = 1000

/** What a turnover needs from its master. */
export interface Supervisor {
  readonly groups: GroupState[]
  readonly sockets: Sockets
  readonly events: Events
  /** Starts a process for a slot, as `slot.next`. */
  launch(group: GroupState, slot: Slot, blueprint: Blueprint): WorkerHandle
  /** `handle` has become the only process of its slot, as soon as those before it have retired. */
  activate(slot: Slot, handle: WorkerHandle): void
  /** The process of a slot has gone, and its successor failed: the crash policy takes over. */
  retryLater(group: GroupState, slot: Slot): void
  /** Removes an empty slot; its counts stay in the totals. */
  dismiss(group: GroupState, slot: Slot): void
  reconcile(): void
}

export class Turnover {
  readonly receipts: SlotReceipt[] = []
  protected readonly supervisor: Supervisor
  protected readonly drains: Promise<void>[] = []
  protected readonly operation: Operation
  /** Names or addresses of the groups concerned; none: all. */
  protected readonly names: readonly string[]
  readonly #started: WorkerHandle[] = []
  /** The first process started here that has ended by itself, soon after it was ready. */
  #lost: CommandError | null = null

  constructor(supervisor: Supervisor, operation: Operation, names: readonly string[] = []) {
    this.supervisor = supervisor
    this.operation = operation
    this.names = names
  }

  /**
   * Replaces the process of one slot by one of the same kind. Resolves when that has the slot; rejects with the reason
   * if not.
   */
  async recycle(group: GroupState, slot: Slot): Promise<void> {
    await this.replace(group, slot, group.blueprint)
  }

  /** Resolves when the replaced processes have gone. */
  async drained(): Promise<void> {
    await Promise.all(this.drains)
  }

  /** Makes every process leave as if it were replaced. Resolves when all have gone. */
  async removeAll(): Promise<void> {
    for (const group of [...this.supervisor.groups]) this.removeGroup(group)
    await Promise.all(this.drains)
  }

  /** Makes the processes of a group leave; its slots stay held, empty. Resolves when they have gone. */
  async vacate(group: GroupState): Promise<void> {
    const leaving = group.slots.map((slot) => {
      slot.isHeld = true
      return this.#vacate(group, slot, this.note(`${group.name}:${slot.id}`, 'removed', slot.current))
    })
    await Promise.all(leaving)
  }

  // Groups

  /**
   * Adds slots one after the other, each held from the start: otherwise `reconcile` would start a process there too.
   */
  protected async addSlots(group: GroupState, blueprint: Blueprint): Promise<void> {
    while (group.slots.length < blueprint.declaration.count) {
      this.checkStarted()
      const slot = group.addSlot({ isHeld: true })
      try {
        const receipt = await this.start(group, slot, blueprint, 'added')
        const next = slot.next as WorkerHandle
        slot.flip(next)
        this.tell(blueprint.declaration.name, receipt)
        this.supervisor.activate(slot, next)
        slot.isHeld = false
        this.supervisor.reconcile() // a process with its own socket gets nothing before it is chosen
      } catch (error) {
        await this.#dismiss(group, slot)
        throw error
      }
    }
  }

  /** Sets another blueprint for a group without processes. */
  protected resize(group: GroupState, blueprint: Blueprint): void {
    group.blueprint = blueprint
    while (group.slots.length < blueprint.declaration.count) group.addSlot({ isHeld: false })
    for (const slot of group.slots.slice(blueprint.declaration.count)) {
      void group.share.dismiss(slot) // its stand-in has gone, too
      this.supervisor.dismiss(group, slot)
    }
  }

  /**
   * Starts all processes of a group without any, at once. If one does not become ready, or ends as soon as it serves, a
   * group that was stopped is stopped again, as it was; otherwise the crash policy takes over. Rejects with the first
   * reason.
   */
  protected async startAll(group: GroupState, blueprint: Blueprint): Promise<void> {
    const { isStopped: wasStopped, blueprint: before } = group
    for (const slot of group.slots) slot.isHeld = true
    group.isStopped = false
    this.resize(group, blueprint)
    const starts = group.slots.map(async (slot) => {
      slot.isHeld = true
      try {
        const receipt = await this.start(group, slot, blueprint, 'added')
        const next = slot.next as WorkerHandle
        slot.flip(next)
        this.tell(blueprint.declaration.name, receipt)
        this.supervisor.activate(slot, next)
      } catch (error) {
        if (!wasStopped) this.supervisor.retryLater(group, slot)
        throw error
      } finally {
        slot.isHeld = wasStopped && slot.current === null
        this.supervisor.reconcile() // who is tried again does not wait for the others
      }
    })
    try {
      await allSettled(starts)
      if (wasStopped) await this.checkActive()
    } catch (error) {
      if (wasStopped) {
        const stopped = this.stopAll(group, blueprint.declaration.drainTimeoutMs)
        this.drains.push(stopped.then(() => this.resize(group, before)))
      }
      throw error
    }
  }

  /** Stops the group from now on. Resolves when its processes have gone. */
  protected async stopAll(group: GroupState, windowMs: number): Promise<void> {
    group.stop()
    const gone = group.slots.map((slot) => this.leave(group, slot, windowMs, 'stopped'))
    this.supervisor.reconcile() // closes its sockets: clients are refused instead of waiting in vain
    await Promise.all(gone)
  }

  /** Tells every process of a slot to leave without a successor. Resolves when they have gone. */
  protected async leave(
    group: GroupState,
    slot: Slot,
    windowMs: number,
    result: 'replaced' | 'stopped',
  ): Promise<void> {
    const started = now()
    const receipt = this.note(`${group.name}:${slot.id}`, result, slot.current)
    slot.stopWaiting()
    slot.isHeld = result === 'replaced'
    if (slot.current !== null) slot.leaving.add(slot.current)
    slot.current = null
    const all = slot.processes
    for (const handle of all) handle.stop(windowMs)
    const [exit] = await Promise.all(all.map((handle) => handle.gone))
    receipt.drainMs = Math.round(now() - started)
    receipt.discarded = all.reduce((sum, { report }) => sum + report.counters.discarded, 0)
    if (exit !== undefined) receipt.note = drainNote(exit, all[0] as WorkerHandle)
    this.tell(group.name, receipt)
  }

  /** Number of processes that are still leaving. */
  protected get leavingCount(): number {
    const slots = this.supervisor.groups.flatMap((group) => group.slots)
    return slots.reduce((sum, { leaving }) => sum + leaving.size, 0)
  }

  protected removeGroup(group: GroupState): void {
    const { groups } = this.supervisor
    group.isGone = true
    const removed = this.remove(group, group.slots)
    this.drains.push(removed.then(() => void groups.splice(groups.indexOf(group), 1)))
  }

  /** Removes slots. Resolves when their processes have gone. */
  protected async remove(group: GroupState, slots: readonly Slot[]): Promise<void> {
    const drains: Promise<void>[] = []
    for (const slot of slots) {
      const name = `${group.name}:${slot.id}`
      slot.isHeld = true
      drains.push(this.#removeSlot(group, slot, this.note(name, 'removed', slot.current)))
    }
    await Promise.all(drains)
  }

  async #removeSlot(group: GroupState, slot: Slot, receipt: SlotReceipt): Promise<void> {
    if (!group.isGone) await group.share.giveUp(slot)
    else if (this.operation === 'upgrade') await group.share.emptied(slot) // the new code may have fewer places
    await this.#vacate(group, slot, receipt)
    this.tell(group.name, receipt)
    await this.#dismiss(group, slot)
  }

  async #dismiss(group: GroupState, slot: Slot): Promise<void> {
    await group.share.dismiss(slot)
    this.supervisor.dismiss(group, slot)
  }

  /** Resolves when the processes of the slot have gone. */
  async #vacate(group: GroupState, slot: Slot, receipt: SlotReceipt): Promise<void> {
    const old = slot.current
    slot.stopWaiting()
    if (old !== null) {
      slot.leaving.add(old)
      slot.current = null
      this.#retire(old)
      await this.drain(old, group, receipt)
    }
    await left(slot)
  }

  // Slots

  protected async replace(group: GroupState, slot: Slot, blueprint: Blueprint): Promise<void> {
    await left(slot)
    this.checkStarted()
    slot.isHeld = true
    try {
      if (isStopFirst(slot, blueprint)) await this.#stopThenStart(group, slot, blueprint)
      else await this.#startThenDrain(group, slot, blueprint)
    } finally {
      slot.isHeld = false
      this.supervisor.reconcile()
    }
  }

  async #startThenDrain(group: GroupState, slot: Slot, blueprint: Blueprint): Promise<void> {
    const receipt = canaryOf(slot) ?? (await this.start(group, slot, blueprint, 'replaced'))
    const next = slot.next as WorkerHandle
    const old = slot.current
    if (next.announcedExitCode !== null) this.#lost ??= leavesAlready(receipt, next) // nobody would serve here
    if (this.#lost !== null) this.takeBack(group, slot, next, receipt)
    this.checkStarted()
    slot.canary = null
    slot.flip(next)
    this.tell(blueprint.declaration.name, receipt)
    group.blueprint = blueprint
    if (old !== null) {
      this.#retire(old)
      this.drains.push(this.drain(old, group, receipt))
    }
    this.supervisor.activate(slot, next)
  }

  async #stopThenStart(group: GroupState, slot: Slot, blueprint: Blueprint): Promise<void> {
    const old = slot.current
    const leaving: SlotReceipt = { ...EMPTY, worker: `${group.name}:${slot.id}`, result: 'replaced' }
    group.blueprint = blueprint
    await this.#vacate(group, slot, leaving)
    const receipt = await this.start(group, slot, blueprint, 'replaced').catch((error) => {
      this.supervisor.retryLater(group, slot)
      throw error
    })
    Object.assign(receipt, { oldPid: old?.pid ?? 0, drainMs: leaving.drainMs, discarded: leaving.discarded })
    const isForced = blueprint.declaration.reloadMode !== 'stop-first'
    receipt.note = [leaving.note, isForced ? EXCLUSIVE_NOTE : ''].filter((note) => note !== '').join(', ')
    const next = slot.next as WorkerHandle
    slot.flip(next)
    this.tell(blueprint.declaration.name, receipt)
    this.supervisor.activate(slot, next)
  }

  /** Makes a new process leave before it has the slot; the old one stays. */
  protected takeBack(group: GroupState, slot: Slot, handle: WorkerHandle, receipt: SlotReceipt): void {
    receipt.result = 'taken back'
    slot.isHeld = false
    if (slot.next === handle) {
      slot.leaving.add(handle)
      slot.next = null
    }
    this.tell(group.name, receipt)
    this.drains.push(this.endProcess(handle, group, receipt)) // if it has ended, this notes how
  }

  /**
   * As `checkStarted`, when the processes started here have also done what only one process of a slot may do: that
   * begins when the old ones have retired, so the last ones may not have come to it.
   */
  protected async checkActive(): Promise<void> {
    const settled = this.#started.map(({ active, gone }) => Promise.race([active, gone]))
    await Promise.race([Promise.all(settled), sleep(ACTIVE_TIMEOUT_MS, undefined, { ref: false })])
    this.checkStarted()
  }

  /** Throws the reason if a process started here has already ended by itself: another one would fare no better. */
  protected checkStarted(): void {
    if (this.#lost !== null) throw this.#lost
  }

  /**
   * Starts the next process of a slot and waits until it is ready. Rejects with the reason if it does not become ready.
   */
  protected async start(
    group: GroupState,
    slot: Slot,
    blueprint: Blueprint,
    result: 'replaced' | 'added',
  ): Promise<SlotReceipt> {
    const name = `${blueprint.declaration.name}:${slot.id}`
    const old = slot.current
    const started = now()
    const next = this.supervisor.launch(group, slot, blueprint)
    try {
      await next.untilReady()
    } catch (error) {
      const receipt = this.note(name, 'failed', old)
      receipt.newPid = next.pid
      receipt.note = messageOf(error).split('\n')[0] ?? ''
      this.tell(blueprint.declaration.name, receipt)
      throw notReady(name, messageOf(error), await next.gone, blueprint.declaration)
    }
    const receipt = this.note(name, result, old)
    receipt.newPid = next.pid
    receipt.readyMs = Math.round(now() - started)
    this.#started.push(next)
    void next.gone.then((exit) => this.#noteEnd(next, receipt, exit))
    return receipt
  }

  /** A process started here has ended. One that has lasted as long as the back-off wants is no sign of broken code. */
  #noteEnd({ pid }: WorkerHandle, receipt: SlotReceipt, exit: WorkerExitInfo): void {
    if (exit.wasTold || isVoluntary(exit) || exit.servedMs >= HEALTHY_AFTER_MS) return
    const [reason = ''] = exit.reason.split('\n')
    addNote(receipt, `its process has ended: ${exit.word}${reason && `, ${reason}`}`)
    const message = `worker ${receipt.worker} pid ${pid}, which had just started, has ended: ${exit.reason || exit.word}`
    this.#lost ??= bootFailure(exit, message)
  }

  #retire(old: WorkerHandle): void {
    old.retire(this.operation !== 'recycle')
  }

  protected async drain(old: WorkerHandle, group: GroupState, receipt: SlotReceipt): Promise<void> {
    const started = now()
    await Promise.race([old.retired, sleep(RETIRE_TIMEOUT_MS, undefined, { ref: false })])
    await this.endProcess(old, group, receipt, started)
  }

  protected async endProcess(
    old: WorkerHandle,
    group: GroupState,
    receipt: SlotReceipt,
    started = now(),
  ): Promise<void> {
    old.stop(group.blueprint.declaration.drainTimeoutMs)
    this.supervisor.reconcile() // its socket may have lost its last user
    const exit = await old.gone
    receipt.drainMs = Math.round(now() - started)
    receipt.discarded = old.report.counters.discarded
    addNote(receipt, drainNote(exit, old))
  }

  protected note(worker: string, result: SlotReceipt['result'], old: WorkerHandle | null): SlotReceipt {
    const receipt = { ...EMPTY, worker, result, oldPid: old?.pid ?? 0 }
    this.receipts.push(receipt)
    return receipt
  }

  protected step(step: 'slots' | 'drain', count: number): void {
    const { operation, names } = this
    this.supervisor.events.emit({ type: 'operation', operation, groups: names, step, count })
  }

  /** Publishes the receipt of a slot: the operation is done with it, and at most the old process is still leaving. */
  protected tell(group: string, receipt: SlotReceipt): void {
    this.supervisor.events.emit({ type: 'slot', operation: this.operation, group, ...receipt })
  }
}

const EXCLUSIVE_NOTE = 'stop-first: on this Node a UDP port is one process at a time'
const EMPTY = { oldPid: 0, newPid: 0, readyMs: 0, drainMs: 0, discarded: 0, note: '' }

function addNote(receipt: SlotReceipt, note: string): void {
  receipt.note = [receipt.note, note].filter((part) => part !== '').join(', ')
}

/** The receipt of the canary that waits for its slot; null if it has just ended. */
function canaryOf(slot: Slot): SlotReceipt | null {
  const { canary } = slot
  if (canary === null) return null
  if (slot.next === canary.handle) return canary.receipt
  canary.receipt.result = 'failed'
  return null
}

/** Whether the old process must leave before its successor starts. */
export function isStopFirst(slot: Slot, blueprint: Blueprint): boolean {
  const socket = socketOf(blueprint, slot.id)
  const isExclusive = socket?.isExclusive === true && slot.current?.socket === socket
  return isExclusive || blueprint.declaration.reloadMode === 'stop-first'
}

/** Failures that hint at a resource two processes cannot share. */
const EXCLUSIVE = /\b(EADDRINUSE|EEXIST|EBUSY|EAGAIN|EWOULDBLOCK|ELOCK\w*)\b|\block(ed|file)?\b/i

function notReady(name: string, reason: string, exit: WorkerExitInfo, { reloadMode }: Declaration): CommandError {
  const hint =
    reloadMode === 'start-first' && EXCLUSIVE.test(reason)
      ? `\nOld and new process live side by side during a reload: what only one can have needs reloadMode: 'stop-first', or onWorkerRetire and onWorkerActive.`
      : ''
  return bootFailure(exit, `worker ${name} did not become ready: ${reason}${hint}`)
}

function leavesAlready({ worker }: SlotReceipt, { pid }: WorkerHandle): CommandError {
  return new CommandError(Exit.Failure, `worker ${worker} pid ${pid}, which had just started, leaves by itself`)
}

function drainNote(exit: WorkerExitInfo, old: WorkerHandle): string {
  if (exit.wasKilled) return `killed${old.report.work && `, with ${old.report.work}`}`
  const unfinished = old.report.work && `left ${old.report.work} unfinished`
  return exit.exitCode === WorkerExit.Ended ? unfinished : exit.word
}

/** Settles when all have; rejects with the first reason. */
async function allSettled(steps: readonly Promise<void>[]): Promise<void> {
  const failed = (await Promise.allSettled(steps)).find(({ status }) => status === 'rejected')
  if (failed !== undefined) throw (failed as PromiseRejectedResult).reason
}

/** Resolves when those that leave now have gone. Not those that begin meanwhile: there may always be another. */
async function left({ leaving }: Slot): Promise<void> {
  await Promise.all([...leaving].map(({ gone }) => gone))
}
