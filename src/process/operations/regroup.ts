// One group, at somebody's word: more or fewer processes, none, or all of them anew. By the means of a reload, and one
// after the other with reloads.

import type { Leave } from '../control.ts'
import { CommandError, Exit, noGroup } from '../exit-codes.ts'
import type { Blueprint, GroupState } from '../master/slot.ts'
import { Reload } from './reload.ts'

/** `4`, `+1`, `-1`, or back to what the code declares. */
export type Scale = { readonly to: number } | { readonly by: number } | 'declared'

/** A typing error should not start a thousand processes. */
const MOST_PROCESSES = 1024

export class Regroup extends Reload {
  #windowOf: (blueprint: Blueprint) => number = ({ declaration }) => declaration.drainTimeoutMs

  /** Of a name that means none of the groups; null when each means one. */
  get unknown(): CommandError | null {
    const { groups } = this.supervisor
    const name = this.names.find((one) => !groups.some((group) => isCalled(group, one)))
    return name === undefined ? null : noGroup(name, groups.map(keyOf))
  }

  /** The groups that are meant. Throws a CommandError for a name that means none. */
  get groups(): GroupState[] {
    const { groups } = this.supervisor
    const { unknown } = this
    if (unknown !== null) throw unknown
    return groups.filter((group) => this.names.some((name) => isCalled(group, name)))
  }

  /** Resolves when every new process is ready, or every surplus one gone. Rejects, and all is as before, when one fails. */
  async scale(scale: Scale): Promise<void> {
    const { groups } = this
    const [group] = groups
    if (group === undefined) return
    if (groups.length > 1)
      throw new CommandError(Exit.Usage, `${groups.length} groups are called '${this.names[0]}'`, {
        code: 'ERR_NO_GROUP',
        next: `use the address of the one you mean: ${groups.map((one) => keyOf(one).listen).join(', ')}`,
      })
    const count = countOf(group, scale)
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
      this.supervisor.reconcile() // its sockets are closed before the next one is bound: their order is the kernel's
      throw error
    }
  }

  async #resizeTo(group: GroupState, count: number): Promise<void> {
    const { sockets } = this.supervisor
    const declaration = { ...group.blueprint.declaration, count }
    if (group.isStopped) return this.resize(group, { ...group.blueprint, declaration })
    try {
      const wanted = { ...group.blueprint, declaration, sockets: await sockets.reserveAll(declaration, group.sockets) }
      group.blueprint = wanted
      await this.addSlots(group, wanted)
    } finally {
      sockets.release()
    }
    this.step('drain', Math.max(0, group.slots.length - count))
    await this.remove(group, group.slots.slice(count))
  }

  /** Resolves when all processes of the groups are gone. */
  async stop(): Promise<void> {
    const { groups } = this
    this.step('drain', groups.flatMap(({ slots }) => slots).length)
    await Promise.all(groups.map((group) => this.stopAll(group, this.#windowOf(group.blueprint))))
  }

  /** All processes of a group leave, then as many start with the new code. What connects meanwhile waits in the kernel. */
  protected override async renew(group: GroupState, blueprint: Blueprint, declaredCount: number): Promise<void> {
    group.declare(declaredCount)
    if (!group.isStopped) {
      const leaving = group.slots.map((slot) => this.leave(group, slot, this.#windowOf(blueprint), 'replaced'))
      await Promise.all(leaving.map(({ gone }) => gone))
    }
    await this.startAll(group, blueprint)
  }

  /** How long processes may take to leave. */
  useWindow({ isGraceful, timeoutMs }: Leave, stopTimeoutMs: number): void {
    this.#windowOf = ({ declaration }) => timeoutMs ?? (isGraceful ? declaration.drainTimeoutMs : stopTimeoutMs)
  }

  /** Those of the groups that are being stopped already get no more time than this one gives them. */
  hurry(): void {
    const stopping = this.supervisor.groups.filter(
      (group) => group.isStopped && this.names.some((name) => isCalled(group, name)),
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

function isCalled({ blueprint: { key } }: GroupState, name: string): boolean {
  return key.name === name || key.listen === name
}

function keyOf({ blueprint: { key } }: GroupState): Blueprint['key'] {
  return key
}
