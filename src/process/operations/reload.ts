// A reload: slot by slot the new process starts, becomes ready and takes the slot, and the old one drains. Whatever can
// fail is done before anything is removed: the modules have been evaluated once, the new addresses are bound, the new
// process serves. If one does not come up, or ends as soon as it serves, the reload ends there, and what it has not
// touched stays.

import { log } from '../../log.ts'
import { CommandError, Exit, noGroup } from '../exit-codes.ts'
import type { Declaration } from '../group.ts'
import { type Blueprint, GroupState, type Outline } from '../master/group-state.ts'
import type { Slot } from '../master/slot.ts'
import type { WorkerHandle } from '../master/worker-handle.ts'
import { type GroupKey, isCalled, isSameKey } from '../messages.ts'
import type { Operation } from '../status/events.ts'
import { Canary, type CanaryReport, watchCanaries } from './canary.ts'
import { type Described, outlinesOf } from './describe.ts'
import { matchGroups } from './group-match.ts'
import { isStopFirst, type Supervisor, Turnover } from './turnover.ts'

/** A group of the new code, and its running counterpart. */
interface Plan extends Outline {
  /** Undefined for a new one. */
  readonly group: GroupState | undefined
  /** Whether this reload covers it. */
  readonly isMeant: boolean
}

/** A plan that is covered, after everything that could fail before a process starts. */
interface Bound extends Plan {
  readonly blueprint: Blueprint
}

export class Reload extends Turnover {
  readonly #canaryMs: number
  readonly #canaries: Canary[] = []
  /** A group has come to the new code, if only for its next process. */
  #isBegun = false
  #isComplete = false

  /** @param canaryMs how long one process of each group is watched before the others follow; 0 for no canary */
  constructor(supervisor: Supervisor, operation: Operation = 'reload', names: readonly string[] = [], canaryMs = 0) {
    super(supervisor, operation, names)
    this.#canaryMs = canaryMs
  }

  /** All that it covers has come to the new code, and nothing else is left, even if a new process has ended since. */
  get isComplete(): boolean {
    return this.#isComplete
  }

  get canaries(): CanaryReport[] {
    return this.#canaries.map(({ report }) => report)
  }

  /** Throws a CommandError if a name means neither a group that runs and is still declared, nor a new one. */
  check(described: Described): void {
    if (!this.#isWhole) this.#checkNames(described.groups, this.#plan(described).gone)
  }

  /** Resolves when the old processes have gone. Rejects with the reason if it was given up on the way. */
  async run(described: Described): Promise<void> {
    const { groups } = this.supervisor
    const { plans, gone } = this.#plan(described)
    const covered = plans.flatMap(({ group, isMeant }) => (isMeant && group !== undefined ? group : []))
    const inner = new Map(covered.map((group) => [group, new Set(group.inner.values())]))
    const old = this.#replaceableIn(plans)
    let failure: unknown
    try {
      await this.#turnOver(plans)
      this.#isComplete = !this.#isWhole || gone.length === 0
      this.checkStarted()
      if (this.#isWhole) for (const group of gone) this.removeGroup(group)
      this.#isComplete = true
    } catch (error) {
      failure = error
      for (const canary of this.#canaries) this.#takeBack(canary)
      if (this.#isBegun) for (const handle of old) handle.isOutdated = true // where one of these has not gone
    }
    this.supervisor.sockets.release()
    if (failure !== undefined) this.#giveBack(groups)
    this.supervisor.reconcile()
    this.step('drain', this.leavingCount)
    await this.drained()
    // A process that is between two starts will request those that its group has had.
    for (const [group, before] of inner)
      group.forgetInnerSockets(failure === undefined && group.isReady ? new Set() : before)
    this.supervisor.reconcile()
    if (failure !== undefined) throw failure
    if (this.#isWhole) sortAs(groups, plans)
    await this.checkActive() // the last ones have been watched only while the old ones drained
  }

  /** Matches declarations with running groups; `gone` are the groups without a declaration. */
  #plan(described: Described): { plans: readonly Plan[]; gone: readonly GroupState[] } {
    const { groups } = this.supervisor
    const outlines = outlinesOf(described)
    const match = matchGroups(
      groups.map(({ blueprint }) => blueprint.key),
      outlines.map(({ key }) => key),
    )
    const plans = outlines.map((outline, place) => {
      const group = groups[match.of[place] ?? -1]
      const isMeant = this.#isWhole || this.#names(outline.key) || this.#names(group?.blueprint.key)
      return { ...outline, group, isMeant }
    })
    return { plans, gone: match.gone.map((place) => groups[place] as GroupState) }
  }

  async #turnOver(plans: readonly Plan[]): Promise<void> {
    const bound = await this.#bindAll(plans)
    this.step('slots', countAll(bound))
    if (this.#canaryMs > 0) await this.#tryOut(bound)
    for (const { group, blueprint, declaration } of bound) {
      if (group === undefined) await this.#add(blueprint)
      else await this.#bring(group, blueprint, declaration.count)
    }
  }

  /** No group is named: all are covered. */
  get #isWhole(): boolean {
    return this.names.length === 0
  }

  #names(key: GroupKey | undefined): boolean {
    return key !== undefined && this.names.some((name) => isCalled(key, name))
  }

  #checkNames(declarations: readonly Declaration[], gone: readonly GroupState[]): void {
    const running = this.supervisor.groups.map(({ blueprint }) => blueprint.key)
    for (const name of this.names) {
      const left = gone.find(({ blueprint: { key } }) => isCalled(key, name))
      if (left !== undefined)
        throw new CommandError(Exit.Usage, `the code on disk does not declare '${name}' any more`, {
          code: 'ERR_NO_GROUP',
          next: 'a reload without a name removes it',
        })
      const isThere = [...running, ...declarations].some((one) => isCalled(one, name))
      if (!isThere) throw noGroup(name, running)
    }
  }

  /** All covered plans, with the sockets they need. */
  async #bindAll(plans: readonly Plan[]): Promise<Bound[]> {
    const { sockets } = this.supervisor
    // First, so that no other group takes a socket that stays.
    for (const plan of plans) for (const socket of this.#stayingOf(plan)?.sockets ?? []) sockets.keep(socket)
    const bound: Bound[] = []
    for (const plan of plans) if (plan.isMeant) bound.push({ ...plan, blueprint: await this.#bind(plan) })
    return bound
  }

  /** An address declared as before keeps its socket, and port 0 its port. */
  async #bind(plan: Plan): Promise<Blueprint> {
    const { declaration, key, mailbox, tlsFiles, group } = plan
    const isStopped = group?.isStopped === true
    const staying = isStopped ? undefined : this.#stayingOf(plan)
    const count = group?.countFor(declaration.count) ?? declaration.count
    const wanted = { ...declaration, count, listen: staying?.declaration.listen ?? declaration.listen }
    const kept = staying?.sockets
    const isEnough = kept !== undefined && (!wanted.reusePort || kept.length >= count)
    // it stays stopped
    if (isStopped && this.#isWhole) return { key, mailbox, declaration: wanted, sockets: [], tlsFiles }
    const sockets = isEnough ? kept : await this.supervisor.sockets.reserveAll(wanted, group?.sockets)
    return { key, mailbox, declaration: wanted, sockets, tlsFiles }
  }

  /** Returns Unix sockets to the users who serve them, after an attempt to give them to others. */
  #giveBack(groups: readonly GroupState[]): void {
    const { sockets: all } = this.supervisor
    for (const { sockets, blueprint } of groups)
      for (const socket of sockets) all.tryToGive(blueprint.declaration.credentials, socket)
  }

  // Canaries

  /** Starts one new process in each group, beside the old ones. Rejects if one of them is worse than those. */
  async #tryOut(bound: readonly Bound[]): Promise<void> {
    try {
      await this.#startCanaries(bound)
      if (this.#canaries.length === 0) return
      log(`reload: watching ${this.#canaries.map(({ worker, handle }) => `${worker} pid ${handle.pid}`).join(', ')}`)
      await watchCanaries(this.#canaries, this.#canaryMs)
    } finally {
      for (const canary of this.#canaries) canary.end()
    }
    for (const { worker, report } of this.#canaries)
      if (report.warning !== '') log(`reload: warning: ${report.warning}`)
      else if (report.canary.messages === 0)
        log(`reload: canary ${worker} pid ${report.pid} had no traffic, so it proves little`)
  }

  async #startCanaries(bound: readonly Bound[]): Promise<void> {
    for (const { group, blueprint } of bound) {
      const slot = group?.slots[0]
      if (group === undefined || slot === undefined || group.isStopped) continue
      if (!this.replaces(blueprint.declaration)) continue
      if (isStopFirst(slot, blueprint)) log(`reload: no canary of ${group.name}: it cannot live beside the old process`)
      else await this.#startCanary(group, slot, blueprint)
    }
  }

  async #startCanary(group: GroupState, slot: Slot, blueprint: Blueprint): Promise<void> {
    slot.isHeld = true
    try {
      const receipt = await this.start(group, slot, blueprint, 'replaced')
      receipt.note = 'canary'
      this.tell(group.name, { ...receipt, result: 'canary' })
      slot.canary = new Canary(group, slot, receipt)
      this.#canaries.push(slot.canary)
      this.supervisor.reconcile() // it takes its share of messages from now on
    } catch (error) {
      slot.isHeld = false
      throw error
    }
  }

  /** Makes a canary leave, unless it has taken its slot; the old process stays. */
  #takeBack(canary: Canary): void {
    const { slot, handle, receipt, group } = canary
    if (slot.canary !== canary) return // since it took the slot, it may even have ended
    slot.canary = null
    if (receipt.result === 'replaced') this.takeBack(group, slot, handle, receipt)
  }

  // Groups

  async #add(blueprint: Blueprint): Promise<void> {
    const group = new GroupState(blueprint)
    this.supervisor.groups.push(group)
    try {
      await this.addSlots(group, blueprint)
      this.#isBegun = true
    } catch (error) {
      this.removeGroup(group) // half a group is of no use
      throw error
    }
  }

  /** The count that the code declares replaces that of `scale` only if the group gets as far as running that code. */
  async #bring(group: GroupState, blueprint: Blueprint, declaredCount: number): Promise<void> {
    try {
      await this.renew(group, blueprint)
    } catch (error) {
      this.#isBegun ||= this.#runs(group, blueprint)
      if (!group.isStopped) group.giveUp(blueprint, declaredCount)
      throw error
    }
    this.#isBegun ||= this.#runs(group, blueprint)
    group.declare(declaredCount)
  }

  protected async renew(group: GroupState, blueprint: Blueprint): Promise<void> {
    const { declaration } = blueprint
    if (group.isStopped) {
      if (this.names.length > 0) return this.startAll(group, blueprint)
      return this.resize(group, blueprint)
    }
    const present = group.slots.slice(0, declaration.count)
    const surplus = group.slots.slice(declaration.count)
    if (this.replaces(declaration)) for (const slot of present) await this.replace(group, slot, blueprint)
    else for (const slot of present) this.#keep(group, slot, blueprint)
    group.blueprint = blueprint // from the first new process on: after a crash the new code starts
    await this.addSlots(group, blueprint)
    this.drains.push(this.remove(group, surplus))
  }

  /** Whether the processes of a group that is declared so are replaced; otherwise they stay. */
  protected replaces({ reloadable }: Declaration): boolean {
    return reloadable
  }

  /** What stays as it is, because its processes do, or it is not covered. */
  #stayingOf({ declaration, isMeant, group }: Plan): Blueprint | undefined {
    return this.replaces(declaration) && isMeant ? undefined : group?.blueprint
  }

  /** The processes that will have the code before, if this is given up after it has begun to replace them. */
  #replaceableIn(plans: readonly Plan[]): WorkerHandle[] {
    return plans
      .filter(({ isMeant, declaration }) => isMeant && this.replaces(declaration))
      .flatMap(({ group }) => group?.slots ?? [])
      .flatMap(({ current }) => current ?? [])
  }

  /** Whether the processes that the group has from now on run this, and not only its settings have changed. */
  #runs({ blueprint, isStopped }: GroupState, wanted: Blueprint): boolean {
    return blueprint === wanted && this.replaces(wanted.declaration) && !isStopped
  }

  #keep(group: GroupState, slot: Slot, { key, declaration }: Blueprint): void {
    slot.current?.reload()
    if (slot.current !== null) slot.current.isOutdated = false // it is meant to stay
    const hasMoved = key.listen !== declaration.listen
    const note = `reloadable: false${hasMoved ? `, so it stays on ${declaration.listen}` : ''}`
    const receipt = this.note(`${group.name}:${slot.id}`, 'kept', slot.current)
    receipt.note = note
    this.tell(group.name, receipt)
  }
}

function countAll(bound: readonly Bound[]): number {
  return bound.reduce((sum, { blueprint }) => sum + blueprint.declaration.count, 0)
}

function sortAs(groups: GroupState[], plans: readonly Plan[]): void {
  const placeOf = ({ blueprint }: GroupState) =>
    Math.max(
      plans.findIndex(({ key }) => isSameKey(key, blueprint.key)),
      0,
    )
  groups.sort((a, b) => placeOf(a) - placeOf(b))
}
