// What `status` answers: one object, which `--json` prints as it is and people see as tables.

import { addCounters, type Counters, newCounters } from '../counters.ts'

export interface Status {
  readonly version: string
  readonly node: string
  readonly pid: number
  /** ISO 8601. */
  readonly startedAt: string
  readonly uptimeMs: number
  readonly isDaemon: boolean
  readonly runDir: string
  readonly engine: string
  /** One minute, five, fifteen. */
  readonly loadAverage: readonly number[]
  readonly groups: readonly GroupStatus[]
  /** Since the start, dead workers included. */
  readonly totals: Counters
}

export interface GroupStatus {
  readonly name: string
  /** As declared. */
  readonly listen: string
  /** As bound, with the port; empty without an address. */
  readonly address: string
  readonly port: number
  readonly count: number
  readonly workers: readonly WorkerStatus[]
}

export interface WorkerStatus {
  readonly id: number
  /** 0 while there is no process. */
  readonly pid: number
  /** starting, ready, busy (did not answer in time), stopping, waiting (for its next start). */
  readonly state: string
  /** Processes that this slot has had. */
  readonly incarnation: number
  readonly uptimeMs: number
  /** Resident set, bytes. */
  readonly memory: number
  readonly timers: number
  /** The end of the process before this one, or an empty string. */
  readonly lastExit: string
  /** Of this slot since the start, dead processes included; `connections` is now. */
  readonly counters: Counters
}

export function totalsOf(groups: readonly GroupStatus[]): Counters {
  const total = newCounters()
  for (const group of groups) for (const worker of group.workers) addCounters(total, worker.counters)
  return total
}

/** Two tables in Workerman's order. */
export function renderStatus(status: Status): string {
  const workers = status.groups.flatMap((group) => group.workers.map((worker) => ({ group, worker })))
  const [one = 0, five = 0, fifteen = 0] = status.loadAverage
  return [
    `millrace ${status.version}   Node ${status.node}   pid ${status.pid}   ${status.isDaemon ? 'daemon' : 'foreground'}`,
    `up ${formatDuration(status.uptimeMs)}   load average ${one.toFixed(2)}, ${five.toFixed(2)}, ${fifteen.toFixed(2)}`,
    `groups ${status.groups.length}   processes ${workers.length}   engine ${status.engine}   ${status.runDir}`,
    '',
    renderTable([COLUMNS, ...workers.map(({ group, worker }) => row(group, worker)), summary(status, workers.length)]),
  ].join('\n')
}

const COLUMNS = [
  'pid',
  'memory',
  'listening',
  'name',
  'id',
  'connections',
  'send_fail',
  'timers',
  'total_request',
  'restarts',
  'status',
]

function row(group: GroupStatus, worker: WorkerStatus): string[] {
  const { counters } = worker
  return [
    worker.pid === 0 ? '-' : String(worker.pid),
    formatBytes(worker.memory),
    group.address || 'none',
    group.name,
    String(worker.id),
    String(counters.connections),
    String(counters.sendFail),
    String(worker.timers),
    String(counters.messagesIn),
    String(Math.max(0, worker.incarnation - 1)),
    worker.lastExit === '' ? `[${worker.state}]` : `[${worker.state}] last: ${worker.lastExit}`,
  ]
}

function summary({ totals }: Status, processes: number): string[] {
  const { connections, sendFail, messagesIn } = totals
  return [`${processes}`, '', '', '', '', `${connections}`, `${sendFail}`, '', `${messagesIn}`, '', '[Summary]']
}

/** Left-aligned columns, two spaces apart. */
export function renderTable(rows: readonly (readonly string[])[]): string {
  const widths = (rows[0] ?? []).map((_, column) => Math.max(...rows.map((cells) => cells[column]?.length ?? 0)))
  return rows
    .map((cells) =>
      cells
        .map((cell, column) => cell.padEnd(widths[column] ?? 0))
        .join('  ')
        .trimEnd(),
    )
    .join('\n')
}

function formatBytes(bytes: number): string {
  return bytes === 0 ? '-' : `${(bytes / 1_048_576).toFixed(1)}M`
}

function formatDuration(ms: number): string {
  const seconds = Math.floor(ms / 1000)
  const [days, hours, minutes] = [
    Math.floor(seconds / 86_400),
    Math.floor(seconds / 3600) % 24,
    Math.floor(seconds / 60) % 60,
  ]
  if (days > 0) return `${days} days ${hours} hours`
  return hours > 0 ? `${hours} hours ${minutes} minutes` : `${minutes} minutes ${seconds % 60} seconds`
}
