// Operations on single groups: more or fewer processes, none, or all of them replaced. They use the means of a reload,
// and never overlap with reloads.

import type { Leave } from '../control/requests.ts'
import { CommandError, Exit, noGroup } from '../exit-codes.ts'
import { MOST_PROCESSES } from '../group.ts'
import type { Blueprint, GroupState } from '../master/group-state.ts'
import type { Slot } from '../master/slot.ts'
import { isCalled } from '../messages.ts'
import { Reload } from './reload.ts'

/** `4`, `+1`, `-1`, or back to what the code declares. */
export type Scale = { readonly to: number } | { readonly by: number } | 'declared'

export class Regroup extends Reload {
  #windowOf: (blueprint: Blueprint) => number = ({ declaration }) => declaration.drainTimeoutMs

  /** The error for a name that is no group's; null if all are. */
  get unknown(): CommandError | null {
    const { groups } = this.supervisor
    const name = this.names.find((one) => !groups.some((group) => isCalled(keyOf(group), one)))
    return name === undefined ? null : noGroup(name, groups.map(keyOf))
  }

  /** The groups that are named. Throws a CommandError for a name that is no group's. */
  get groups(): GroupState[] {
    const { groups } = this.supervisor
    const { unknown } = this
    if (unknown !== null) throw unknown
    return groups.filter((group) => this.names.some((name) => isCalled(keyOf(group), name)))
  }

  /**
   * Resolves when every new process is ready, or every surplus one has gone. If one fails, rejects, and all is as
   * before.
   */
  async scale(scale: Scale): Promise<void> {
    const { groups } = this
    const [group] = groups
    if (group === undefined) return
    if (groups.length > 1)
      throw new CommandError(Exit.Usage, `${groups.length} groups are called '${this.names[0]}'`, {
        code: 'ERR_NO_GROUP',
        next: addressesOf(groups),
      })
    const count = countOf(group, scale)
    checkServes(group, count)
    const { blueprint, scaledTo } = group
    const before = blueprint.declaration.count
    group.scaledTo = count === group.declaredCount ? null : count
    this.step('slots', Math.abs(count - before))
    try {
      await this.#resizeTo(group, count)
    } catch (error) {
      group.blueprint = blueprint
      group.scaledTo = scaledTo
      await this.remove(group, group.slots.slice(before))
      this.supervisor.reconcile() // close its sockets before the next is bound: the order is the kernel's
      throw error
    }
  }

  async #resizeTo(group: GroupState, count: number): Promise<void> {
    const { sockets } = this.supervisor
    const declaration = { ...group.blueprint.declaration, count }
    const { blueprint } = group
    if (group.isStopped) return this.resize(group, { ...blueprint, declaration })
    try {
      // One that all share stays, whatever has become of it: nobody who serves would come to another.
      const kept = declaration.reusePort ? await sockets.reserveAll(declaration, group.sockets) : blueprint.sockets
      const wanted = { ...blueprint, declaration, sockets: kept }
      group.blueprint = wanted
      await this.addSlots(group, wanted)
      await this.checkActive()
    } finally {
      sockets.release()
    }
    this.step('drain', Math.max(0, group.slots.length - count))
    await this.remove(group, group.slots.slice(count))
  }

  /** Resolves when all processes of the groups have gone. */
  async stop(): Promise<void> {
    const { groups } = this
    this.step('drain', groups.flatMap(({ slots }) => slots).length)
    await Promise.all(groups.map((group) => this.stopAll(group, this.#windowOf(group.blueprint))))
  }

  /**
   * All processes of a group leave, then as many start with the new code. New connections wait in the kernel meanwhile.
   */
  protected override async renew(group: GroupState, blueprint: Blueprint): Promise<void> {
    if (!group.isStopped) {
      const surplus = group.slots.slice(blueprint.declaration.count)
      await Promise.all(surplus.map((slot) => group.share.giveUp(slot, blueprint.sockets))) // no one waits there
      const gone = group.slots.map((slot) => this.leave(group, slot, this.#windowOf(blueprint), 'replaced'))
      this.supervisor.reconcile() // they hear that none of them is followed before all have gone
      await Promise.all(gone)
    }
    await this.startAll(group, blueprint)
  }

  /** Those of a group that a reload would keep, too: all that a new process may bring is to come. */
  protected override replaces(): boolean {
    return true
  }

  /** Sets how long processes may take to leave. */
  useWindow({ isGraceful, timeoutMs }: Leave, stopTimeoutMs: number): void {
    this.#windowOf = ({ declaration }) => timeoutMs ?? (isGraceful ? declaration.drainTimeoutMs : stopTimeoutMs)
  }

  /** Shortens the time of groups that are already stopping to that of this operation. */
  hurry(): void {
    const stopping = this.supervisor.groups.filter(
      (group) => group.isStopped && this.names.some((name) => isCalled(keyOf(group), name)),
    )
    for (const { slots, blueprint } of stopping)
      for (const slot of slots) for (const handle of slot.processes) handle.stop(this.#windowOf(blueprint))
  }
}

function countOf(group: GroupState, scale: Scale): number {
  const { count } = group.blueprint.declaration
  const wanted = scale === 'declared' ? group.declaredCount : 'to' in scale ? scale.to : count + scale.by
  if (!Number.isSafeInteger(wanted)) throw new CommandError(Exit.Usage, `${JSON.stringify(scale)} is no count`)
  if (wanted < 1)
    throw new CommandError(Exit.Usage, `${group.name} has ${count}, and cannot have ${wanted}`, {
      next: `'millrace stop ${group.name}' ends all of its processes`,
    })
  if (wanted > MOST_PROCESSES)
    throw new CommandError(Exit.Usage, `${wanted} processes are too many`, {
      next: `at most ${MOST_PROCESSES} can be had`,
    })
  return wanted
}

/** Throws if the processes that serve would leave, and only others stay. */
function checkServes({ name, slots }: GroupState, count: number): void {
  const serves = ({ current }: Slot) => current?.isServing === true
  const staying = slots.slice(0, count)
  if (staying.some(serves) || !slots.slice(count).some(serves)) return
  const why = staying.map((slot) => `${name}:${slot.id} ${whyNot(slot)}`.trim())
  throw new CommandError(Exit.Failure, `no process that would stay serves: ${why.join('; ')}`, {
    next: `'millrace status' shows more of them; 'millrace reload ${name}' once their cause is mended`,
  })
}

/** Why a slot does not serve. */
function whyNot({ current, lastExit, lastReason }: Slot): string {
  return current?.state === 'ready' ? 'does not answer' : `${lastExit} ${lastReason}`
}

function keyOf({ blueprint: { key } }: GroupState): Blueprint['key'] {
  return key
}

/** What to say instead of a name that several have. A mailbox has no address to be called by. */
function addressesOf(groups: readonly GroupState[]): string {
  const addresses = groups.map((group) => keyOf(group).listen).filter((listen) => listen !== '')
  const advice = [`use the address of the one you mean: ${addresses.join(', ')}`]
  const isNameless = addresses.length < groups.length
  return [...advice, ...(isNameless ? ['give one without an address a name of its own in the code'] : [])].join('; ')
}
