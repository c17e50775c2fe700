// What `status` and `connections` answer: objects, which `--json` prints as they are and people see as tables.

import { addCounters, type Counters, newCounters } from '../../counters.ts'
import { now } from '../../loop/clock.ts'
import type { ConnectionRow, Declaration } from '../group.ts'
import { isStopped } from '../identity.ts'
import type { Leader } from '../master/leaders.ts'
import type { GroupState, Slot } from '../master/slot.ts'
import type { WorkerHandle } from '../master/worker-handle.ts'
import type { CanaryReport } from '../operations/canary.ts'

/** What a worker may take to answer: the command as a whole promises 200 ms, also when one hangs. */
const POLL_MS = 80
/** Three heartbeats: who is silent for longer is not busy for a moment, but hangs. */
export const HUNG_AFTER_MS = 3500
/** One page of `connections`, so that no answer is longer than some 300 kB. */
const PAGE_ROWS = 1000

export interface Status {
  readonly version: string
  readonly node: string
  readonly pid: number
  /** ISO 8601. */
  readonly startedAt: string
  readonly uptimeMs: number
  readonly isDaemon: boolean
  readonly state: 'starting' | 'running' | 'stopping'
  readonly runDir: string
  /** What serves the first address: `native` or `node`. */
  readonly engine: string
  /** Why it is not the native one; empty when it is. */
  readonly engineWhy: string
  /** Which addon is at work, or why none. */
  readonly addon: string
  /** One minute, five, fifteen. */
  readonly loadAverage: readonly number[]
  readonly groups: readonly GroupStatus[]
  /** Who does what only one may do (`Worker.onLeader`). */
  readonly leaders: readonly Leader[]
  /** Since the start, dead workers included. */
  readonly totals: Counters
}

export interface GroupStatus {
  readonly name: string
  readonly engine: string
  /** As declared. */
  readonly listen: string
  /** As bound, with the port; empty without an address. */
  readonly address: string
  readonly port: number
  /** Processes that it should have. */
  readonly count: number
  /** As many as the code says: another number when `scale` has been used. */
  readonly declaredCount: number
  /** Of `stop NAME`: it has no process, and nobody can connect. */
  readonly isStopped: boolean
  /** Where its processes listen besides, by `listen()`. */
  readonly inner: readonly string[]
  /**
   * `running`: every slot serves. `degraded`: some do not. `crash-loop`: a slot has failed `crashLoopAfter` times in a row,
   * see its `lastExit`, `lastReason`, `lastLog` and `retryInMs`. `stopped`: by `stop NAME`.
   */
  readonly state: 'running' | 'degraded' | 'crash-loop' | 'stopped'
  /** How its processes have ended when they should not, and how often: `{ 'exit 250 (uncaught error)': 3 }`. */
  readonly exits: Readonly<Record<string, number>>
  /** Why processes that had not failed were replaced, and how often: `{ maxRequests: 3, stuck: 1 }`. */
  readonly replaced: Readonly<Record<string, number>>
  /** One for each slot, and one more for each process that leaves. */
  readonly workers: readonly WorkerStatus[]
}

/**
 * `ready`: serves, and answers at once. `busy`: did not, this time. `hung`: has not for seconds. `suspended`: somebody has stopped
 * it (SIGSTOP, ptrace). `starting`: not ready yet.
 * `canary`: new code that a reload watches beside the old.
 * `retiring`, `draining`: another process has its place. `stopping`. `waiting`: for its next start after a failure.
 * `crash-loop`: the same, and it failed so often that somebody should look. `stopped`: somebody has stopped its group.
 */
export type WorkerState =
  | 'ready'
  | 'busy'
  | 'hung'
  | 'suspended'
  | 'starting'
  | 'canary'
  | 'retiring'
  | 'draining'
  | 'stopping'
  | 'waiting'
  | 'crash-loop'
  | 'stopped'

export interface WorkerStatus {
  readonly id: number
  /** 0 while there is no process. */
  readonly pid: number
  readonly state: WorkerState
  /** Processes that this slot has had. */
  readonly incarnation: number
  readonly uptimeMs: number
  /** For how long nothing was heard of it: heartbeats come every second. */
  readonly silentMs: number
  /** Resident set, bytes. */
  readonly memory: number
  readonly timers: number
  /** Messages per second over the last heartbeats. */
  readonly messageRate: number
  /** What a drain waits for, in words. */
  readonly work: string
  /** The limit for which another process takes its place: `maxMemory`, say; else empty. */
  readonly leavesFor: string
  /** Failures in a row; 0 when it is well. */
  readonly failures: number
  /** Until the next start, ms. */
  readonly retryInMs: number
  /** The end of the process before this one, or an empty string. */
  readonly lastExit: string
  /** What it said of its failure, with a stack; or an empty string. */
  readonly lastReason: string
  /** Of a canary: how it does beside the others. */
  readonly canary: CanaryReport | null
  /** What it logged last, ten lines at most; empty where its log does not come through the master (in the foreground). */
  readonly lastLog: readonly string[]
  /** ISO 8601, or an empty string. */
  readonly lastExitAt: string
  /** Of this slot since the start, dead processes included; of one that leaves, its own. `connections` is now. */
  readonly counters: Counters
}

export function totalsOf(groups: readonly GroupStatus[]): Counters {
  const total = newCounters()
  for (const group of groups) for (const worker of group.workers) addCounters(total, worker.counters)
  return total
}

/** Of all groups: what serves the first that has an address. */
export function engineOf(declarations: readonly Declaration[]): Declaration['engine'] {
  return (declarations.find(({ listen }) => listen !== '') ?? declarations[0])?.engine ?? { name: 'node', why: '' }
}

/** `native`, `node (TLS)`. */
export function engineWord({ name, why }: Declaration['engine']): string {
  return why === '' ? name : `${name} (${why})`
}

/** Asks every worker for fresh numbers, and gives back those that did not answer in time. */
export async function pollAll(groups: readonly GroupState[]): Promise<ReadonlySet<WorkerHandle>> {
  const silent = new Set<WorkerHandle>()
  const poll = async (handle: WorkerHandle) => {
    if (handle.state !== 'starting' && !(await handle.poll(POLL_MS))) silent.add(handle)
  }
  await Promise.all(groups.flatMap(({ slots }) => slots).flatMap(({ processes }) => processes.map(poll)))
  return silent
}

/** In one turn of the loop: what a process has counted moves into its slot's past when it ends, and would count twice or not. */
export function groupStatus(group: GroupState, silent: ReadonlySet<WorkerHandle>): GroupStatus {
  const { blueprint, slots, exits, recycled, declaredCount, isStopped } = group
  const { name, listen, count, engine } = blueprint.declaration
  const address = blueprint.sockets[0]?.endpoint ?? ''
  const port = Number(/:(\d+)$/.exec(address)?.[1] ?? 0)
  const inner = group.innerEndpoints
  return {
    name,
    engine: engine.name,
    listen,
    address,
    port,
    count,
    declaredCount,
    isStopped,
    inner,
    state: stateOfGroup(group),
    exits: Object.fromEntries(exits),
    replaced: Object.fromEntries(recycled),
    workers: slots.flatMap((slot) => slotStatus(group, slot, silent)),
  }
}

function stateOfGroup(group: GroupState): GroupStatus['state'] {
  if (group.isStopped) return 'stopped'
  if (group.isCrashLooping) return 'crash-loop'
  return group.slots.every(({ current }) => current?.state === 'ready') ? 'running' : 'degraded'
}

function slotStatus(group: GroupState, slot: Slot, silent: ReadonlySet<WorkerHandle>): WorkerStatus[] {
  const rows = slot.processes.map((handle) => processStatus(slot, handle, !silent.has(handle)))
  const isEmpty = slot.current === null && slot.next === null && !slot.isHeld
  const hasRow = rows.length > 0 && (group.isStopped || !isEmpty)
  const [first, ...rest] = hasRow ? rows : [vacant(group, slot), ...rows]
  if (first === undefined) return []
  return [{ ...first, counters: addCounters({ ...slot.past }, first.counters) }, ...rest]
}

function processStatus(slot: Slot, handle: WorkerHandle, hasAnswered: boolean): WorkerStatus {
  const { memory, timers, work, counters } = handle.report
  const { pid, incarnation, silentMs, messageRate, leavesFor } = handle
  const state = stateOf(slot, handle, hasAnswered)
  const uptimeMs = Math.round(now() - handle.startedAt)
  return {
    ...troubles(slot),
    ...{ id: slot.id, pid, state, incarnation, uptimeMs, silentMs: Math.round(silentMs), leavesFor },
    canary: slot.canary?.handle === handle ? slot.canary.report : null,
    ...{ memory, timers, messageRate: hasAnswered ? messageRate : 0, work, counters: { ...counters } },
  }
}

function stateOf(slot: Slot, handle: WorkerHandle, hasAnswered: boolean): WorkerState {
  if (handle.state === 'starting') return 'starting'
  if (handle.state === 'retiring') return 'retiring'
  if (handle.state === 'stopping') return slot.leaving.has(handle) ? 'draining' : 'stopping'
  if (!hasAnswered && isStopped(handle.pid)) return 'suspended'
  if (!hasAnswered) return handle.silentMs > HUNG_AFTER_MS ? 'hung' : 'busy'
  return slot.canary?.handle === handle ? 'canary' : 'ready'
}

function vacant({ blueprint, isStopped }: GroupState, slot: Slot): WorkerStatus {
  const failed: WorkerState = slot.failures >= blueprint.declaration.crashLoopAfter ? 'crash-loop' : 'waiting'
  const state = isStopped ? 'stopped' : failed
  const { id, incarnation } = slot
  const nothing = {
    canary: null,
    pid: 0,
    uptimeMs: 0,
    silentMs: 0,
    memory: 0,
    timers: 0,
    messageRate: 0,
    work: '',
    leavesFor: '',
  }
  return { ...troubles(slot), ...nothing, id, state, incarnation, counters: newCounters() }
}

function troubles({ failures, lastExit, lastReason, lastLog, lastExitAt, isWaiting, retryAt }: Slot) {
  const retryInMs = isWaiting ? Math.max(0, Math.round(retryAt - now())) : 0
  return { failures, retryInMs, lastExit, lastReason, lastLog, lastExitAt }
}

// Connections

/** Where a listing goes on: processes by pid, and in each by connection id. Nothing is kept between two pages. */
export interface Cursor {
  readonly pid: number
  readonly after: number
}

export interface ListedConnection extends ConnectionRow {
  readonly pid: number
  readonly worker: string
}

export interface ConnectionPage {
  readonly rows: readonly ListedConnection[]
  /** Processes that did not answer in time. */
  readonly silent: readonly { readonly pid: number; readonly worker: string }[]
  /** Null at the end. */
  readonly next: Cursor | null
}

/** The connections of one process from `cursor` on. */
export async function connectionPage(groups: readonly GroupState[], { pid, after }: Cursor): Promise<ConnectionPage> {
  const all = groups.flatMap((group) =>
    group.slots.flatMap((slot) => slot.processes.map((handle) => ({ handle, worker: `${group.name}:${slot.id}` }))),
  )
  const [found, following] = all.filter(({ handle }) => handle.pid >= pid && handle.pid > 0).sort(byPid)
  if (found === undefined) return { rows: [], silent: [], next: null }
  const { handle, worker } = found
  const next = following === undefined ? null : { pid: following.handle.pid, after: 0 }
  const page = await handle.connections(handle.pid === pid ? after : 0, PAGE_ROWS, POLL_MS)
  if (page === null) return { rows: [], silent: [{ pid: handle.pid, worker }], next }
  const rows = page.rows.map((row) => ({ ...row, pid: handle.pid, worker }))
  const last = rows.at(-1)?.id ?? 0
  return { rows, silent: [], next: page.hasMore ? { pid: handle.pid, after: last } : next }
}

function byPid(a: { handle: WorkerHandle }, b: { handle: WorkerHandle }): number {
  return a.handle.pid - b.handle.pid
}
