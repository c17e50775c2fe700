// Status, connections and receipts in readable form: Workerman's columns, fixed-width. Names come from user code and
// perhaps from another user's server, so control characters do not reach the terminal.

import type { Counters } from '../../counters.ts'
import { printableCell } from '../../printable.ts'
import { inSeconds, localTime } from '../../times.ts'
import type { CanaryReport } from '../operations/canary.ts'
import type { ReloadOutcome } from '../operations/receipts.ts'
import {
  type ConnectionPage,
  engineWords,
  type GroupStatus,
  type ListedConnection,
  type Status,
  type WorkerStatus,
} from '../status/status.ts'
import type { UpgradeOutcome } from '../upgrade/upgrade.ts'
import { type Paint, plain, type Style } from './style.ts'

/** Left-aligned columns, two spaces apart. `paint` gets each padded cell of the rows after the first. */
export function renderTable(
  rows: readonly (readonly string[])[],
  paint: (cell: string, column: number) => string = (cell) => cell,
): string {
  const clean = rows.map((cells) => cells.map(printableCell))
  const widths = (clean[0] ?? []).map((_, column) => Math.max(...clean.map((cells) => cells[column]?.length ?? 0)))
  return clean
    .map((cells, row) => {
      const last = cells.findLastIndex((cell) => cell !== '')
      return cells
        .slice(0, last + 1)
        .map((cell, column) => (column === last ? cell : cell.padEnd(widths[column] ?? 0)))
        .map((cell, column) => (row === 0 ? cell : paint(cell, column)))
        .join('  ')
    })
    .join('\n')
}

// status

export function renderStatus(status: Status, paint: Paint = plain): string {
  const [one = 0, five = 0, fifteen = 0] = status.loadAverage
  const processes = status.groups.flatMap(({ workers }) => workers).filter(({ pid }) => pid !== 0).length
  const mode = status.isDaemon ? 'daemon' : 'foreground'
  return [
    `millrace ${status.version}   Node ${status.node}   pid ${status.pid}   ${mode}   ${status.state}`,
    `start time ${localTime(new Date(status.startedAt))}   run ${formatDuration(status.uptimeMs)}   load average ${one.toFixed(2)}, ${five.toFixed(2)}, ${fifteen.toFixed(2)}`,
    `${status.groups.length} groups   ${processes} processes   ${status.runDir}   ${engineWords({ name: status.engine, why: status.engineWhy }, status.addon)}`,
    '',
    renderTable([['name', 'event-loop', 'exit_status', 'exit_count'], ...status.groups.flatMap(exitRows)]),
    '',
    renderTable(
      [COLUMNS, ...status.groups.flatMap((group) => group.workers.map((one) => row(group, one))), summary(status)],
      (cell, column) => (column === COLUMNS.length - 1 ? paint(STYLES[cell] ?? 'care', cell) : cell),
    ),
    ...leaders(status),
    ...losses(status.totals),
    ...status.groups.flatMap(replacements),
    ...status.groups.flatMap(changed),
    ...status.groups.flatMap((group) => group.workers.flatMap((worker) => trouble(group, worker))),
  ].join('\n')
}

function exitRows({ name, engine, exits }: GroupStatus): string[][] {
  const counts = Object.entries(exits)
  if (counts.length === 0) return [[shorten(name), engine, '0', '0']]
  return counts.map(([word, times]) => [shorten(name), engine, word, String(times)])
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
  'qps',
  'status',
]

function row({ name }: GroupStatus, worker: WorkerStatus): string[] {
  const { counters, memory, state, address } = worker
  const isKnown = state !== 'busy' && state !== 'hung' && state !== 'suspended'
  return [
    worker.pid === 0 ? '-' : String(worker.pid),
    memory === 0 ? 'N/A' : formatMegabytes(memory),
    address || 'none',
    shorten(name),
    String(worker.id),
    String(counters.connections),
    String(counters.sendFail),
    isKnown ? String(worker.timers) : 'N/A',
    String(counters.messagesIn),
    isKnown ? String(worker.messageRate) : 'N/A',
    state === 'ready' ? '[idle]' : `[${state}]`, // Workerman's word
  ]
}

function summary({ totals, groups }: Status): string[] {
  const workers = groups.flatMap((group) => group.workers)
  const sum = (of: (worker: WorkerStatus) => number) => workers.reduce((total, worker) => total + of(worker), 0)
  return [
    'Summary',
    formatMegabytes(sum(({ memory }) => memory)),
    ...['-', '-', '-'],
    String(totals.connections),
    String(totals.sendFail),
    String(sum(({ timers }) => timers)),
    String(totals.messagesIn),
    String(sum(({ messageRate }) => messageRate)),
    '[Summary]',
  ]
}

/** Which process leads which name; no line if there is none. */
function leaders({ leaders, groups }: Status): string[] {
  if (leaders.length === 0) return []
  const names = groups.flatMap(({ name, workers }) => workers.map(({ id, pid }) => [pid, `${name}:${id} `] as const))
  const workerOf = new Map(names)
  return [
    '',
    printableCell(
      `leaders: ${leaders.map(({ name, pid }) => `${name}: ${workerOf.get(pid) ?? ''}pid ${pid}`).join(', ')}`,
    ),
  ]
}

/**
 * What peers have lost or were refused. The line appears only if there is something; Workerman has no columns for it.
 */
const LOSSES = [
  ['protocolErrors', 'protocol errors'],
  ['handlerErrors', 'handler errors'],
  ['handshakeErrors', 'failed handshakes'],
  ['refused', 'refused connections'],
  ['dropped', 'dropped datagrams'],
  ['unhandledRejections', 'unhandled rejections'],
] as const

function losses(totals: Counters): string[] {
  const said = LOSSES.filter(([key]) => totals[key] > 0).map(([key, words]) => `${words} ${totals[key]}`)
  return said.length === 0 ? [] : [`\n${said.join('   ')}`]
}

function replacements({ name, replaced }: GroupStatus): string[] {
  const counts = Object.entries(replaced).map(([why, times]) => `${why} ${times}`)
  return counts.length === 0 ? [] : [`\n${printableCell(name)} has replaced processes: ${counts.join('   ')}`]
}

/** Colours of states; all other states need attention. */
const STYLES: Record<string, Style> = {
  '[idle]': 'good',
  '[hung]': 'bad',
  '[crash-loop]': 'bad',
  '[Summary]': 'quiet',
}

/** How a group differs from its code, and why. */
function changed({ name, count, declaredCount, scaledTo, isStopped, workers }: GroupStatus): string[] {
  const stopped = isStopped ? [`\n${name} is stopped: 'millrace start ${name}' starts it`] : []
  const why =
    scaledTo === null
      ? `has ${count} processes, its code declared ${declaredCount}: a reload was given up on the way`
      : `is scaled to ${count}, the code declares ${declaredCount}: 'millrace scale ${name} declared' goes back`
  const other = count === declaredCount ? [] : [`\n${name} ${why}`]
  const old = workers.filter(({ isOutdated }) => isOutdated).length
  const half =
    old === 0 ? [] : [`\n${name} has ${old} processes with the code before: a reload was given up on the way`]
  return [...stopped, ...other, ...half].map((line) => `\n${printableCell(line.slice(1))}`)
}

/** What is wrong with a worker, and what happens next. */
function trouble({ name }: GroupStatus, worker: WorkerStatus): string[] {
  const { state, failures, lastExit, lastReason, lastLog, retryInMs, silentMs, work } = worker
  const who = `${name}:${worker.id}`
  if (worker.canary !== null) return [`\n${canaryLine(worker.canary)}`]
  if (state === 'hung') return [`\n${who} has been silent for ${inSeconds(silentMs)}: its event loop does not turn`]
  const cause = worker.leavesFor && ` for ${worker.leavesFor}`
  if (state === 'suspended')
    return [`\n${who} pid ${worker.pid} has been stopped (SIGSTOP, or a debugger): SIGCONT lets it go on`]
  if (state === 'draining' && work !== '') return [`\n${who} pid ${worker.pid} drains${cause}: ${work}`]
  const isDown = state === 'crash-loop' || state === 'waiting'
  if (!isDown && (state !== 'starting' || failures === 0)) return []
  const next = isDown ? `next start in ${inSeconds(retryInMs)}` : `the next one starts, pid ${worker.pid}`
  const said = lastLog.length === 0 ? '' : `\nit said last:\n${indent(lastLog.join('\n'))}`
  const why = lastReason === '' ? said : `\n${indent(lastReason)}`
  return [`\n${who} failed ${failures} times in a row, last: ${lastExit}; ${next}${why}`]
}

// connections

const CONNECTION_COLUMNS = [
  ...['PID', 'Worker', 'CID', 'Trans', 'Protocol', 'ipv4', 'ipv6', 'Recv-Q', 'Send-Q', 'Bytes-R', 'Bytes-W'],
  ...['Status', 'Local Address', 'Foreign Address'],
]
/** As in Workerman: a longer name is cut. */
const LONGEST_NAME = 14

export function renderConnections(pages: readonly Pick<ConnectionPage, 'rows' | 'silent'>[]): string {
  const rows = pages.flatMap((page) => page.rows)
  const silent = pages.flatMap((page) => page.silent)
  return [
    renderTable([CONNECTION_COLUMNS, ...rows.map(connectionRow)]),
    ...silent.map(
      ({ pid, worker }) => `${printableCell(worker)} pid ${pid} does not answer: its connections are not listed`,
    ),
  ].join('\n')
}

function connectionRow(row: ListedConnection): string[] {
  return [
    String(row.pid),
    shorten(row.worker),
    String(row.id),
    row.transport,
    shorten(row.protocol),
    row.isIpV4 ? '1' : '0',
    row.isIpV6 ? '1' : '0',
    formatBytes(row.recvQueue),
    formatBytes(row.sendQueue),
    formatBytes(row.bytesRead),
    formatBytes(row.bytesWritten),
    row.status,
    row.local || '-',
    row.remote || '-',
  ]
}

function shorten(name: string): string {
  return name.length <= LONGEST_NAME ? name : `${name.slice(0, LONGEST_NAME - 2)}..`
}

// reload

/**
 * `canary web:0 pid 7: after 5.0 s 0 errors in 120 messages (others 0 in 400), loop late by 2 ms (others 3 ms)`; or
 * `no traffic` instead of `0 errors in 0 messages`.
 */
function canaryLine({ worker, pid, watchedMs, canary, others }: CanaryReport): string {
  const isIdle = canary.messages === 0 && canary.errors === 0
  const own = isIdle ? 'no traffic' : `${canary.errors} errors in ${canary.messages} messages`
  const errors = `${own} (others ${others.errors} in ${others.messages})`
  const lag = `loop late by ${canary.lagMs} ms (others ${others.lagMs} ms)`
  return `canary ${printableCell(worker)} pid ${pid}: after ${inSeconds(watchedMs)} ${errors}, ${lag}`
}

/** The receipts; `past` is the verb for what was done. */
export function renderOutcome(
  { slots, canaries, durationMs, reason }: ReloadOutcome,
  past: string,
  paint: Paint,
): string {
  const rows = slots.map((slot) => [
    slot.worker,
    slot.result,
    slot.oldPid === 0 ? '-' : String(slot.oldPid),
    slot.newPid === 0 ? '-' : String(slot.newPid),
    slot.newPid === 0 ? '-' : `${slot.readyMs} ms`,
    slot.oldPid === 0 ? '-' : `${slot.drainMs} ms`,
    slot.discarded === 0 ? slot.note : `${slot.discarded} connections sent into the goodbye ${slot.note}`.trim(),
  ])
  const end = `${past} in ${inSeconds(durationMs)}`
  if (rows.length === 0) return reason === '' ? end : ''
  const warnings = canaries.flatMap(({ warning = '' }) => (warning === '' ? [] : `warning: ${printableCell(warning)}`))
  const table = renderTable([['worker', 'result', 'old', 'new', 'ready', 'drained', ''], ...rows], (cell, column) => {
    return column === 1 ? paint(/^(failed|taken back)$/.test(cell.trimEnd()) ? 'bad' : 'good', cell) : cell
  })
  return [table, ...canaries.map(canaryLine), ...warnings, ...(reason === '' ? [end] : [])].join('\n')
}

export function renderUpgrade(outcome: UpgradeOutcome): string {
  const { pid, version, node, oldPid, oldVersion, oldNode, durationMs, slots } = outcome
  const rows = slots.map(({ worker, oldPid: old, drainMs, note }) => [worker, String(old), `${drainMs} ms`, note])
  const masters = [
    ['old', String(oldPid), oldVersion, oldNode],
    ['new', String(pid), version, node],
  ]
  const tables = [
    renderTable([['worker', 'old', 'drained', ''], ...rows]),
    renderTable([['master', 'pid', 'millrace', 'node'], ...masters]),
  ]
  return `${tables.join('\n\n')}\nupgraded in ${inSeconds(durationMs)}`
}

// Numbers

/** B, KB, MB, GB or TB with one decimal. */
function formatBytes(bytes: number): string {
  const units = ['B', 'KB', 'MB', 'GB', 'TB']
  let value = bytes
  let unit = 0
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024
    unit++
  }
  return unit === 0 ? `${value}B` : `${value.toFixed(1)}${units[unit]}`
}

function formatMegabytes(bytes: number): string {
  return `${(bytes / 1_048_576).toFixed(1)}M`
}

function formatDuration(ms: number): string {
  const all = Math.floor(ms / 1000)
  const [days, hours, minutes] = [Math.floor(all / 86_400), Math.floor(all / 3600) % 24, Math.floor(all / 60) % 60]
  if (days > 0) return `${days} days ${hours} hours`
  return hours > 0 ? `${hours} hours ${minutes} minutes` : `${minutes} minutes ${all % 60} seconds`
}

function indent(text: string): string {
  return text
    .split('\n')
    .map((line) => `  ${printableCell(line)}`)
    .join('\n')
}
