// The answers to `status` and `connections`: objects that `--json` prints as they are and people see as tables.

import { addCounters, type Counters, newCounters } from '../../counters.ts'
import { parseEndpoint } from '../../endpoint.ts'
import { now } from '../../loop/clock.ts'
import type { ConnectionRow, Declaration } from '../group.ts'
import { isStopped } from '../identity.ts'
import type { GroupState } from '../master/group-state.ts'
import type { Leader } from '../master/leaders.ts'
import type { Slot } from '../master/slot.ts'
import type { WorkerHandle } from '../master/worker-handle.ts'
import { HUNG_AFTER_MS } from '../messages.ts'
import type { CanaryReport } from '../operations/canary.ts'

/** How long a worker may take to answer: the whole command promises 200 ms, even if one hangs. */
const POLL_MS = 80
/** Rows per page of `connections`, which limits an answer to about 300 kB. */
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
  /** The engine of the first address: `native` or `node`. */
  readonly engine: string
  /** Why it is not the native one; empty if it is. */
  readonly engineWhy: string
  /** Which addon is in use, or why none. */
  readonly addon: string
  /** Over one, five and fifteen minutes. */
  readonly loadAverage: readonly number[]
  readonly groups: readonly GroupStatus[]
  /** Which process leads which name (`Worker.onLeader`). */
  readonly leaders: readonly Leader[]
  /** Since the start, ended workers included. */
  readonly totals: Counters
}

export interface GroupStatus {
  readonly name: string
  readonly engine: string
  /** As declared. */
  readonly listen: string
  /** As bound, with the port; empty without an address. New processes have it, see `WorkerStatus.address`. */
  readonly address: string
  readonly port: number
  /** Number of processes it should have. */
  readonly count: number
  /** The count in the code; differs from `count` after `scale`, and after a reload that was given up on the way. */
  readonly declaredCount: number
  /** The count that `scale` has set, or null. */
  readonly scaledTo: number | null
  /** After `stop NAME`: it has no process, and no client can connect. */
  readonly isStopped: boolean
  /** Further addresses of its processes, from `listen()`. */
  readonly inner: readonly string[]
  /**
   * `running`: every slot serves. `degraded`: some do not. `crash-loop`: a slot has failed `crashLoopAfter` times in a
   * row, see its `lastExit`, `lastReason`, `lastLog` and `retryInMs`. `stopped`: by `stop NAME`.
   */
  readonly state: 'running' | 'degraded' | 'crash-loop' | 'stopped'
  /** Unexpected ends of its processes, and how often: `{ 'exit 250 (uncaught error)': 3 }`. */
  readonly exits: Readonly<Record<string, number>>
  /** Why processes that had not failed were replaced, and how often: `{ maxRequests: 3, stuck: 1 }`. */
  readonly replaced: Readonly<Record<string, number>>
  /** One per slot, and one more for each process that is leaving. */
  readonly workers: readonly WorkerStatus[]
}

/**
 * `ready`: serves, and answers at once. `busy`: did not answer this time. `hung`: has not answered for seconds.
 * `suspended`: stopped by SIGSTOP or a debugger (ptrace). `starting`: not ready yet.
 * `canary`: new code that a reload watches beside the old. `retiring`, `draining`: another process has its slot.
 * `stopping`. `waiting`: for its next start after a failure. `crash-loop`: the same, after `crashLoopAfter` failures in
 * a row. `stopped`: its group was stopped by a command.
 */
type WorkerState =
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
  /** 0 if there is no process. */
  readonly pid: number
  readonly state: WorkerState
  /** Where it accepts: as `address` of its group, unless a reload that was given up has not come to it. */
  readonly address: string
  /** It runs the code from before that reload. */
  readonly isOutdated: boolean
  /** Number of processes this slot has had. */
  readonly incarnation: number
  readonly uptimeMs: number
  /** How long it has been silent; heartbeats come every second. */
  readonly silentMs: number
  /** Resident set, bytes. */
  readonly memory: number
  readonly timers: number
  /** Messages per second over the last heartbeats. */
  readonly messageRate: number
  /** What a drain would wait for, in words. */
  readonly work: string
  /** The limit for which it is replaced, such as `maxMemory`; otherwise empty. */
  readonly leavesFor: string
  /** Failures in a row; 0 if it is well. */
  readonly failures: number
  /** Time until the next start, ms. */
  readonly retryInMs: number
  /** How the previous process ended, or an empty string. */
  readonly lastExit: string
  /** Its own report of the failure, with a stack, or an empty string. */
  readonly lastReason: string
  /** For a canary: how it compares with the others. */
  readonly canary: CanaryReport | null
  /** The last lines it logged, at most ten; empty if its log does not come through the master (in the foreground). */
  readonly lastLog: readonly string[]
  /** ISO 8601, or an empty string. */
  readonly lastExitAt: string
  /**
   * For this slot since the start, ended processes included; for a leaving process its own. `connections` is current.
   */
  readonly counters: Counters
}

export function totalsOf(groups: readonly GroupStatus[]): Counters {
  const total = newCounters()
  for (const group of groups) for (const worker of group.workers) addCounters(total, worker.counters)
  return total
}

/** For the whole server: the engine of the first group with an address. */
export function engineOf(declarations: readonly Declaration[]): Declaration['engine'] {
  return (declarations.find(({ listen }) => listen !== '') ?? declarations[0])?.engine ?? { name: 'node', why: '' }
}

/** `engine node (TLS)   addon: built here`. A reason that both have is said once. */
export function engineWords({ name, why }: Declaration['engine'], addon: string): string {
  return `engine ${why === '' || why === addon ? name : `${name} (${why})`}   addon: ${addon}`
}

/** Polls every worker, and returns those that did not answer in time. */
export async function pollAll(groups: readonly GroupState[]): Promise<ReadonlySet<WorkerHandle>> {
  const silent = new Set<WorkerHandle>()
  const poll = async (handle: WorkerHandle) => {
    if (handle.state !== 'starting' && !(await handle.poll(POLL_MS))) silent.add(handle)
  }
  await Promise.all(groups.flatMap(({ slots }) => slots).flatMap(({ processes }) => processes.map(poll)))
  return silent
}

/**
 * Synchronous: when a process ends, its counts move into its slot's past, and could otherwise be counted twice or not
 * at all.
 */
export function groupStatus(group: GroupState, silent: ReadonlySet<WorkerHandle>): GroupStatus {
  const { blueprint, slots, exits, recycled, declaredCount, scaledTo, isStopped } = group
  const { name, listen, count, engine } = blueprint.declaration
  const address = blueprint.sockets[0]?.endpoint ?? ''
  const { port } = parseEndpoint(address)
  const inner = group.innerEndpoints
  return {
    name,
    engine: engine.name,
    listen,
    address,
    port,
    count,
    declaredCount,
    scaledTo,
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
  return group.isReady ? 'running' : 'degraded'
}

/** What a slot's process is doing, as far as the master knows without asking it. */
export function stateOfSlot(group: GroupState, slot: Slot): WorkerState | undefined {
  const silent = new Set(slot.processes.filter(({ silentMs }) => silentMs > HUNG_AFTER_MS))
  return slotStatus(group, slot, silent)[0]?.state
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
  const { pid, incarnation, silentMs, messageRate, leavesFor, isOutdated } = handle
  const state = stateOf(slot, handle, hasAnswered)
  const uptimeMs = Math.round(now() - handle.startedAt)
  return {
    ...troubles(slot),
    ...{ id: slot.id, pid, state, incarnation, uptimeMs, silentMs: Math.round(silentMs), leavesFor },
    ...{ address: handle.socket?.endpoint ?? '', isOutdated: isOutdated && slot.current === handle },
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
    address: blueprint.sockets[0]?.endpoint ?? '',
    isOutdated: false,
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

/** Where a listing continues: processes by pid, connections of each by id. No state is kept between pages. */
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
