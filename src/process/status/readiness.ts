// Whether a server is alive and whether it is ready: for probes and the service manager.

import type { GroupState } from '../master/group-state.ts'
import type { ReloadTally } from './metrics.ts'

export interface GroupHealth {
  /** The unambiguous one, as in the metrics. */
  readonly name: string
  /** Processes that serve and were heard from recently. */
  readonly ready: number
  /** 0 for a group that was stopped by a command. */
  readonly minReady: number
  /** As declared. */
  readonly count: number
}

export interface HealthAnswer {
  readonly status: 'ok' | 'ready' | 'not ready'
  /** Empty if all is well. */
  readonly reason: string
  readonly state: ServerState
  readonly groups: readonly GroupHealth[]
}

type ServerState = 'starting' | 'running' | 'stopping'

/** What readiness is judged by. */
export interface Seen {
  readonly state: ServerState
  readonly groups: readonly GroupState[]
  readonly reloads: ReloadTally
}

/**
 * Alive: the master answers, so it reconciles. A restart of the server would not provide what workers lack (a database,
 * for example).
 */
export function healthOf({ state, groups }: Seen): HealthAnswer {
  return { status: 'ok', reason: '', state, groups: groups.filter(({ isGone }) => !isGone).map(groupHealth) }
}

/** Ready: everything has been ready once, no stop was requested, and each group has `minReady` processes that serve. */
export function readinessOf({ state, groups }: Seen): HealthAnswer {
  const all = groups.filter(({ isGone }) => !isGone).map(groupHealth)
  const lacking = all.filter(({ ready, minReady }) => ready < minReady)
  const lacks = lacking.map(({ name, ready, minReady }) => `${name} has ${ready} ready, and needs ${minReady}`)
  const reason = state === 'running' ? lacks.join('; ') : `the server is ${state}`
  return { status: reason === '' ? 'ready' : 'not ready', reason, state, groups: all }
}

export function groupHealth({ slots, blueprint, isStopped }: GroupState): GroupHealth {
  const serving = slots.filter(({ current }) => current?.isServing === true)
  const { count, minReady } = blueprint.declaration
  return { name: blueprint.mailbox, ready: serving.length, minReady: isStopped ? 0 : Math.min(minReady, count), count }
}
