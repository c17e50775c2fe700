// A reload: slot by slot the new process is started, becomes ready, takes the slot, and the old one drains. Whatever
// can fail is done before something is taken away: the modules have been evaluated once, the new addresses are bound,
// the new process serves. When one does not come up the reload ends there, and what it has not touched stays.

import { messageOf } from '../errors.ts'
import { log } from '../log.ts'
import { now } from '../loop/clock.ts'
import { Canary, type CanaryReport, watchCanaries } from './canary.ts'
import type { Described } from './describe.ts'
import type { Events, Operation } from './events.ts'
import { CommandError, Exit, noGroup, WorkerExit } from './exit-codes.ts'
import type { Declaration } from './group.ts'
import { matchGroups } from './group-match.ts'
import { keysOf, mailboxesOf } from './messages.ts'
import { type Blueprint, GroupState, type Slot, socketOf } from './slot.ts'
import type { Sockets } from './sockets.ts'
import type { WorkerExitInfo, WorkerHandle } from './worker-handle.ts'

/** How long `onWorkerRetire` may keep the old process accepting. It still has the whole drain to settle. */
const RETIRE_TIMEOUT_MS = 5000

export interface SlotReceipt {
  /** `echo:2` */
  readonly worker: string
  result: 'replaced' | 'added' | 'removed' | 'stopped' | 'kept' | 'failed' | 'taken back'
  /** 0 for none. Of one that was taken back: who stays in its place. */
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

/** How a reload, or another operation, went: what became of each slot, and when it was given up, why. */
export interface ReloadOutcome {
  readonly exitCode: Exit
  /** Empty when it went through. */
  readonly reason: string
  /** Where it failed: `ERR_NO_GROUP`, and what to do about it if that is known. */
  readonly code?: string
  readonly next?: string
  readonly durationMs: number
  readonly slots: readonly SlotReceipt[]
  /** One for each group that had one. */
  readonly canaries: readonly CanaryReport[]
}

/** What a reload needs of its master. */
export interface Supervisor {
  readonly groups: GroupState[]
  readonly sockets: Sockets
  readonly events: Events
  /** Starts a process for a slot, as `slot.next`. */
  launch(group: GroupState, slot: Slot, blueprint: Blueprint): WorkerHandle
  /** `handle` has become its slot's only process, as soon as those before it have retired. */
  activate(slot: Slot, handle: WorkerHandle): void
  /** The process of a slot is gone, and the next one failed: the crash policy takes over. */
  retryLater(group: GroupState, slot: Slot): void
  /** Removes an empty slot; its counts stay in the totals. */
  dismiss(group: GroupState, slot: Slot): void
  reconcile(): void
}

export class Reload {
  readonly receipts: SlotReceipt[] = []
  protected readonly supervisor: Supervisor
  protected readonly drains: Promise<void>[] = []
  protected readonly operation: Operation
  /** Names or addresses of the groups that it is about; none: all. */
  protected readonly names: readonly string[]
  readonly #canaryMs: number
  readonly #canaries: Canary[] = []

  /** @param canaryMs for how long one process of each group is watched before the others follow; 0 for none */
  constructor(supervisor: Supervisor, operation: Operation = 'reload', names: readonly string[] = [], canaryMs = 0) {
    this.supervisor = supervisor
    this.operation = operation
    this.names = names
    this.#canaryMs = canaryMs
  }

  get canaries(): CanaryReport[] {
    return this.#canaries.map(({ report }) => report)
  }

  /** Replaces the process of one slot by its like. Resolves when the next one has its place; rejects with why it has not. */
  async recycle(group: GroupState, slot: Slot): Promise<void> {
    await this.replace(group, slot, group.blueprint)
  }

  /** Those that were replaced are gone. */
  async drained(): Promise<void> {
    await Promise.all(this.drains)
  }

  /** Resolves when the old processes are gone. Rejects with the reason when it was given up on the way. */
  async run({ groups: declarations, tlsFiles }: Described): Promise<void> {
    const { groups } = this.supervisor
    const keys = keysOf(declarations)
    const match = matchGroups(
      groups.map(({ blueprint }) => blueprint.key),
      keys,
    )
    const running = match.of.map((place) => groups[place])
    const gone = match.gone.map((place) => groups[place] as GroupState)
    const isWhole = this.names.length === 0
    if (!isWhole) this.#checkNames(declarations, gone)
    const isMeant = (place: number) => isWhole || this.#names(keys[place]) || this.#names(running[place]?.blueprint.key)
    let failure: unknown
    try {
      const blueprints = await this.#bindAll(declarations, tlsFiles, running, isMeant)
      this.step('slots', countAll(blueprints))
      if (this.#canaryMs > 0) await this.#tryOut(blueprints, running)
      for (const [place, blueprint] of blueprints.entries()) {
        const group = running[place]
        if (blueprint === null) continue
        if (group === undefined) await this.#add(blueprint)
        else await this.renew(group, blueprint, declarations[place]?.count ?? 0)
      }
      if (isWhole) for (const group of gone) this.#removeGroup(group)
    } catch (error) {
      failure = error
      for (const canary of this.#canaries) this.#takeBack(canary)
    }
    this.supervisor.sockets.release()
    if (failure !== undefined) this.#giveBack(groups)
    this.supervisor.reconcile()
    this.step('drain', this.drains.length)
    await this.drained()
    for (const group of groups) group.forgetInnerSockets()
    this.supervisor.reconcile()
    if (failure !== undefined) throw failure
    if (isWhole) sortAs(groups, keys)
  }

  /** Every process leaves, as one that was replaced does. Resolves when all are gone. */
  async removeAll(): Promise<void> {
    for (const group of [...this.supervisor.groups]) this.#removeGroup(group)
    await Promise.all(this.drains)
  }

  /** The processes of a group leave; its slots stay in hand, empty. Resolves when they are gone. */
  async vacate(group: GroupState): Promise<void> {
    const leaving = group.slots.map((slot) => {
      slot.isHeld = true
      return this.#vacate(group, slot, this.note(`${group.name}:${slot.id}`, 'removed', slot.current))
    })
    await Promise.all(leaving)
  }

  #names(key: { readonly name: string; readonly listen: string } | undefined): boolean {
    return key !== undefined && (this.names.includes(key.name) || this.names.includes(key.listen))
  }

  /** Each name means something that runs and is still declared, or is new. */
  #checkNames(declarations: readonly Declaration[], gone: readonly GroupState[]): void {
    const running = this.supervisor.groups.map(({ blueprint }) => blueprint.key)
    for (const name of this.names) {
      const left = gone.find(({ blueprint: { key } }) => key.name === name || key.listen === name)
      if (left !== undefined)
        throw new CommandError(Exit.Usage, `the code on disk does not declare '${name}' any more`, {
          code: 'ERR_NO_GROUP',
          next: 'a reload without a name removes it',
        })
      const isThere = [...running, ...declarations].some(({ name: known, listen }) => known === name || listen === name)
      if (!isThere) throw noGroup(name, running)
    }
  }

  /**
   * A blueprint for each declaration that is meant; an address that is declared as before keeps its socket, and port 0 its
   * port.
   */
  async #bindAll(
    declarations: readonly Declaration[],
    tlsFiles: Described['tlsFiles'],
    running: readonly (GroupState | undefined)[],
    isMeant: (place: number) => boolean,
  ): Promise<(Blueprint | null)[]> {
    const { sockets } = this.supervisor
    const keys = keysOf(declarations)
    const mailboxes = mailboxesOf(declarations)
    const staying = declarations.map(({ reloadable }, place) => {
      return reloadable && isMeant(place) ? undefined : running[place]?.blueprint
    })
    // First: what stays is not there for the others to take.
    for (const blueprint of staying) for (const socket of blueprint?.sockets ?? []) sockets.keep(socket)
    const blueprints: (Blueprint | null)[] = []
    for (const [place, declaration] of declarations.entries()) {
      if (!isMeant(place)) {
        blueprints.push(null)
        continue
      }
      const group = running[place]
      const isStopped = group?.isStopped === true
      const { sockets: kept, declaration: old } = isStopped ? {} : (staying[place] ?? {})
      const count = group?.countFor(declaration.count) ?? declaration.count
      const wanted = { ...declaration, count, listen: old?.listen ?? declaration.listen }
      const isIdle = isStopped && this.names.length === 0 // it stays stopped, so it needs none
      const isEnough = kept !== undefined && (!wanted.reusePort || kept.length >= wanted.count)
      blueprints.push({
        key: keys[place] as Blueprint['key'],
        mailbox: mailboxes[place] as string,
        declaration: wanted,
        sockets: isIdle ? [] : isEnough ? kept : await sockets.reserveAll(wanted, group?.sockets),
        tlsFiles: tlsFiles[place] ?? {},
      })
    }
    return blueprints
  }

  /** Unix sockets belong to who serves them, also when somebody else was to. */
  #giveBack(groups: readonly GroupState[]): void {
    for (const { sockets, blueprint } of groups) {
      for (const socket of sockets) {
        try {
          this.supervisor.sockets.giveTo(blueprint.declaration.credentials, socket)
        } catch (error) {
          log(messageOf(error)) // ENOENT: somebody has taken its name away
        }
      }
    }
  }

  // Canaries

  /** One new process in each group, beside the old ones. Rejects when one of them is not as good as those. */
  async #tryOut(
    blueprints: readonly (Blueprint | null)[],
    running: readonly (GroupState | undefined)[],
  ): Promise<void> {
    for (const [place, blueprint] of blueprints.entries()) {
      const group = running[place]
      const slot = group?.slots[0]
      if (blueprint === null || group === undefined || slot === undefined || group.isStopped) continue
      if (!blueprint.declaration.reloadable) continue
      if (isStopFirst(slot, blueprint)) log(`reload: no canary of ${group.name}: it cannot live beside the old process`)
      else await this.#startCanary(group, slot, blueprint)
    }
    if (this.#canaries.length === 0) return
    log(`reload: watching ${this.#canaries.map(({ worker, handle }) => `${worker} pid ${handle.pid}`).join(', ')}`)
    try {
      await watchCanaries(this.#canaries, this.#canaryMs)
    } finally {
      for (const canary of this.#canaries) canary.end()
    }
  }

  async #startCanary(group: GroupState, slot: Slot, blueprint: Blueprint): Promise<void> {
    slot.isHeld = true
    try {
      const receipt = await this.start(group, slot, blueprint, 'replaced')
      receipt.note = 'canary'
      slot.canary = new Canary(group, slot, receipt)
      this.#canaries.push(slot.canary)
    } catch (error) {
      slot.isHeld = false
      throw error
    }
  }

  /** It leaves, if it has not taken its slot; who is there stays. */
  #takeBack({ slot, handle, receipt, group }: Canary): void {
    slot.canary = null
    if (receipt.result !== 'replaced' || slot.current === handle || slot.leaving.has(handle)) return
    receipt.result = 'taken back'
    slot.isHeld = false
    if (slot.next === handle) {
      slot.leaving.add(handle)
      slot.next = null
    }
    this.tell(group.name, receipt)
    this.drains.push(this.#stop(handle, group, receipt)) // one that is gone says how
  }

  /** The receipt of the canary that waits for its slot. One that ended just now was none. */
  #canaryOf(slot: Slot): SlotReceipt | null {
    const { canary } = slot
    if (canary === null) return null
    if (slot.next === canary.handle) return canary.receipt
    canary.receipt.result = 'failed'
    return null
  }

  // Groups

  async #add(blueprint: Blueprint): Promise<void> {
    const group = new GroupState(blueprint)
    this.supervisor.groups.push(group)
    try {
      await this.addSlots(group, blueprint)
    } catch (error) {
      this.#removeGroup(group) // half a group is none
      throw error
    }
  }

  protected async renew(group: GroupState, blueprint: Blueprint, declaredCount: number): Promise<void> {
    const { declaration } = blueprint
    group.declare(declaredCount)
    if (group.isStopped) {
      if (this.names.length > 0) return this.startAll(group, blueprint)
      return this.resize(group, blueprint)
    }
    const present = group.slots.slice(0, declaration.count)
    const surplus = group.slots.slice(declaration.count)
    if (declaration.reloadable) for (const slot of present) await this.replace(group, slot, blueprint)
    else for (const slot of present) this.#keep(group, slot, blueprint)
    group.blueprint = blueprint // from the first process made by it on: a crash starts the new code
    await this.addSlots(group, blueprint)
    this.drains.push(this.remove(group, surplus))
  }

  /** One after the other, each in hand from the first moment on: what is not, `reconcile` would start too. */
  protected async addSlots(group: GroupState, blueprint: Blueprint): Promise<void> {
    while (group.slots.length < blueprint.declaration.count) {
      const slot = group.addSlot({ isHeld: true })
      try {
        await this.start(group, slot, blueprint, 'added')
        const next = slot.next as WorkerHandle
        slot.flip(next)
        this.supervisor.activate(slot, next)
        slot.isHeld = false
      } catch (error) {
        this.supervisor.dismiss(group, slot)
        throw error
      }
    }
  }

  /** Another blueprint for a group without processes. */
  protected resize(group: GroupState, blueprint: Blueprint): void {
    group.blueprint = blueprint
    while (group.slots.length < blueprint.declaration.count) group.addSlot({ isHeld: false })
    for (const slot of group.slots.slice(blueprint.declaration.count)) this.supervisor.dismiss(group, slot)
  }

  /**
   * Starts all processes of a group that has none, at once. When one does not become ready, a group that was stopped is
   * stopped again; elsewhere the crash policy takes over. Rejects with the first reason.
   */
  protected async startAll(group: GroupState, blueprint: Blueprint): Promise<void> {
    const wasStopped = group.isStopped
    for (const slot of group.slots) slot.isHeld = true
    group.isStopped = false
    this.resize(group, blueprint)
    const starts = group.slots.map(async (slot) => {
      slot.isHeld = true
      try {
        await this.start(group, slot, blueprint, 'added')
        const next = slot.next as WorkerHandle
        slot.flip(next)
        this.supervisor.activate(slot, next)
      } catch (error) {
        if (!wasStopped) this.supervisor.retryLater(group, slot)
        throw error
      } finally {
        slot.isHeld = wasStopped && slot.current === null
      }
    })
    const failed = (await Promise.allSettled(starts)).find(({ status }) => status === 'rejected')
    if (failed !== undefined && wasStopped) this.drains.push(this.stopAll(group, blueprint.declaration.drainTimeoutMs))
    if (failed !== undefined) throw (failed as PromiseRejectedResult).reason
  }

  /** From now on the group is stopped; resolves when its processes are gone. */
  protected async stopAll(group: GroupState, windowMs: number): Promise<void> {
    group.isStopped = true
    const leaving = group.slots.map((slot) => this.leave(group, slot, windowMs, 'stopped'))
    this.supervisor.reconcile() // its sockets are closed: who connects is refused, instead of waiting for nobody
    for (const { receipt, gone } of leaving) {
      await gone
      this.tell(group.name, receipt)
    }
  }

  /** Tells every process of a slot to leave, for nobody that takes its place. */
  protected leave(
    group: GroupState,
    slot: Slot,
    windowMs: number,
    result: 'replaced' | 'stopped',
  ): { receipt: SlotReceipt; gone: Promise<void> } {
    const started = now()
    const receipt = this.note(`${group.name}:${slot.id}`, result, slot.current)
    slot.stopWaiting()
    slot.isHeld = result === 'replaced'
    if (slot.current !== null) slot.leaving.add(slot.current)
    slot.current = null
    const all = slot.processes
    for (const handle of all) handle.stop(windowMs)
    const gone = Promise.all(all.map((handle) => handle.gone)).then(([exit]) => {
      receipt.drainMs = Math.round(now() - started)
      receipt.discarded = all.reduce((sum, { report }) => sum + report.counters.discarded, 0)
      if (exit !== undefined) receipt.note = drainNote(exit, all[0] as WorkerHandle)
    })
    return { receipt, gone }
  }

  #removeGroup(group: GroupState): void {
    const { groups } = this.supervisor
    group.isGone = true
    const removed = this.remove(group, group.slots)
    this.drains.push(removed.then(() => void groups.splice(groups.indexOf(group), 1)))
  }

  /** Resolves when their processes are gone. */
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
    await this.#vacate(group, slot, receipt)
    this.tell(group.name, receipt)
    this.supervisor.dismiss(group, slot)
  }

  /** Resolves when its processes are gone. */
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
    const receipt = this.#canaryOf(slot) ?? (await this.start(group, slot, blueprint, 'replaced'))
    const next = slot.next as WorkerHandle
    const old = slot.current
    slot.canary = null
    slot.flip(next)
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
    this.supervisor.activate(slot, next)
  }

  /** Starts the next process of a slot and waits until it is ready. Rejects with the reason why it is not. */
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
    this.tell(blueprint.declaration.name, receipt)
    return receipt
  }

  #keep(group: GroupState, slot: Slot, { key, declaration }: Blueprint): void {
    slot.current?.reload()
    const hasMoved = key.listen !== declaration.listen
    const note = `reloadable: false${hasMoved ? `, so it stays on ${declaration.listen}` : ''}`
    const receipt = this.note(`${group.name}:${slot.id}`, 'kept', slot.current)
    receipt.note = note
    this.tell(group.name, receipt)
  }

  #retire(old: WorkerHandle): void {
    old.retire(this.operation !== 'recycle')
  }

  protected async drain(old: WorkerHandle, group: GroupState, receipt: SlotReceipt): Promise<void> {
    const started = now()
    await Promise.race([old.retired, delay(RETIRE_TIMEOUT_MS)])
    await this.#stop(old, group, receipt, started)
  }

  async #stop(old: WorkerHandle, group: GroupState, receipt: SlotReceipt, started = now()): Promise<void> {
    old.stop(group.blueprint.declaration.drainTimeoutMs)
    this.supervisor.reconcile() // its socket may have been the last one's
    const exit = await old.gone
    receipt.drainMs = Math.round(now() - started)
    receipt.discarded = old.report.counters.discarded
    receipt.note = [receipt.note, drainNote(exit, old)].filter((note) => note !== '').join(', ')
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

  /** What this operation had to do with a slot is done; at most the process that was there is still leaving. */
  protected tell(group: string, receipt: SlotReceipt): void {
    this.supervisor.events.emit({ type: 'slot', operation: this.operation, group, ...receipt })
  }
}

const EXCLUSIVE_NOTE = 'stop-first: on this Node a UDP port is one process at a time'
const EMPTY = { oldPid: 0, newPid: 0, readyMs: 0, drainMs: 0, discarded: 0, note: '' }

function countAll(blueprints: readonly (Blueprint | null)[]): number {
  return blueprints.reduce((sum, blueprint) => sum + (blueprint?.declaration.count ?? 0), 0)
}

/** What cannot live beside its successor. */
function isStopFirst(slot: Slot, blueprint: Blueprint): boolean {
  const socket = socketOf(blueprint, slot.id)
  const isExclusive = socket?.isExclusive === true && slot.current?.socket === socket
  return isExclusive || blueprint.declaration.reloadMode === 'stop-first'
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

/** Those that were replaced before are gone: no slot has more than two processes. */
async function left({ leaving }: Slot): Promise<void> {
  await Promise.all([...leaving].map(({ gone }) => gone))
}

function delay(ms: number): Promise<void> {
  return new Promise((resolve) => {
    setTimeout(resolve, ms).unref()
  })
}
