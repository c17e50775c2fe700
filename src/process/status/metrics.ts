// `/metrics`: what workers have reported to the master, for Prometheus (text format 0.0.4) and OpenMetrics 1.0. A
// scrape reads memory and asks no worker. Counts of ended processes stay included, so no counter falls while its slot
// exists. A silent worker is counted as such, with its last numbers. Labels: group and slot, never a pid.

import { addon } from '../../addon.ts'
import type { AcceptQueue } from '../../addon-types.ts'
import { CLOSED_BY, type Counters } from '../../counters.ts'
import type { BoundSocket } from '../../net/bound-socket.ts'
import { version } from '../../version.ts'
import type { GroupState } from '../master/group-state.ts'
import type { Slot } from '../master/slot.ts'
import { HUNG_AFTER_MS } from '../messages.ts'
import type { ReloadCounts } from '../upgrade/inheritance.ts'
import type { Events } from './events.ts'
import { groupHealth, type Seen } from './readiness.ts'
import { stateOfSlot } from './status.ts'

type Labels = Readonly<Record<string, string>>

interface SlotSeen {
  readonly group: GroupState
  readonly slot: Slot
  readonly labels: Labels
}

interface Family {
  readonly name: string
  readonly type: 'counter' | 'gauge' | 'info'
  readonly help: string
  readonly samples: readonly (readonly [labels: Labels, value: number])[]
}

/** In display order; `_total` is appended to a counter's name. */
const COUNTERS: readonly (readonly [name: string, help: string, of: readonly (readonly [keyof Counters, Labels])[]])[] =
  [
    ['connections_accepted', 'Connections that were accepted.', [['accepted', {}]]],
    ['connections_refused', 'Connections closed at once: their address had as many as it may.', [['refused', {}]]],
    ['messages', 'Messages.', inAndOut('messagesIn', 'messagesOut')],
    ['bytes', 'Bytes of payload on connections.', inAndOut('bytesIn', 'bytesOut')],
    ['send_failures', 'Messages that were not sent.', [['sendFail', {}]]],
    ['protocol_errors', 'Connections closed because their peer broke the rules.', [['protocolErrors', {}]]],
    ['handler_errors', 'Handlers that threw or rejected.', [['handlerErrors', {}]]],
    ['handshake_errors', 'TLS handshakes that failed.', [['handshakeErrors', {}]]],
    ['connections_discarded', 'Connections whose peer still sent into a goodbye.', [['discarded', {}]]],
    ['datagrams_dropped', 'Datagrams that nobody handled.', [['dropped', {}]]],
    ['unhandled_rejections', 'Promises that rejected unheard.', [['unhandledRejections', {}]]],
  ]

function inAndOut(received: keyof Counters, sent: keyof Counters): [keyof Counters, Labels][] {
  return [
    [received, { direction: 'in' }],
    [sent, { direction: 'out' }],
  ]
}

const NO_RELOADS: ReloadCounts = { succeeded: 0, failed: 0, lastAt: 0, lastSucceeded: false }

/** Counts how reloads ended, from the events. */
export class ReloadTally {
  /** By how they ended. */
  readonly counts = { succeeded: 0, failed: 0 }
  /** Unix time, s; 0 if there was none. */
  lastAt = 0
  lastSucceeded = false

  /** @param earlier counts of the earlier master */
  constructor(events: Events, earlier: ReloadCounts = NO_RELOADS) {
    this.#count(earlier)
    events.follow((event) => {
      if (event.type !== 'operation' || event.operation !== 'reload') return
      if (event.step !== 'done' && event.step !== 'failed') return
      const lastSucceeded = event.step === 'done'
      const [succeeded, failed] = lastSucceeded ? [1, 0] : [0, 1]
      this.#count({ succeeded, failed, lastAt: Date.parse(event.time) / 1000, lastSucceeded })
    })
  }

  #count({ succeeded, failed, lastAt, lastSucceeded }: ReloadCounts): void {
    this.counts.succeeded += succeeded
    this.counts.failed += failed
    this.lastAt = lastAt
    this.lastSucceeded = lastSucceeded
  }

  /** For the next master. */
  toJSON(): ReloadCounts {
    const { counts, lastAt, lastSucceeded } = this
    return { ...counts, lastAt, lastSucceeded }
  }
}

/** @param isOpen OpenMetrics; otherwise the older text format */
export function renderMetrics(seen: Seen, isOpen: boolean): string {
  const text = [...familiesOf(seen), ...reloadFamilies(seen.reloads)].map((family) => render(family, isOpen))
  return text.join('') + (isOpen ? '# EOF\n' : '')
}

function familiesOf({ state, groups: all }: Seen): Family[] {
  const groups = all.filter(({ isGone }) => !isGone)
  const slots = groups.flatMap((group) => {
    return group.slots.map((slot) => {
      return { group, slot, labels: { ...labelsOf(group), worker: String(slot.id) }, counters: slot.counters }
    })
  })
  const healths = groups.map((group) => ({ labels: labelsOf(group), ...groupHealth(group) }))
  const silent = slots.filter(({ group, slot: { current } }) => {
    return !group.isStopped && (current === null || current.silentMs >= HUNG_AFTER_MS)
  }).length
  return [
    info('build', 'What runs.', { version, node: process.versions.node }),
    gauge(
      'workers',
      'Processes as declared, or as scale has made it; 0 for a stopped group.',
      groups.map((group) => [labelsOf(group), group.isStopped ? 0 : group.blueprint.declaration.count]),
    ),
    gauge(
      'workers_ready',
      'Processes that serve.',
      healths.map(({ labels, ready }) => [labels, ready]),
    ),
    gauge('metrics_missing_workers', 'Workers whose numbers are not of now.', [[{}, silent]]),
    counter('worker_restarts', 'Processes that ended when they should not, by how.', groups.flatMap(exitsOf)),
    gauge(
      'worker_memory_bytes',
      'Resident set.',
      slots.map(({ slot, labels }) => [labels, memoryOf(slot)]),
    ),
    gauge('worker_state', 'What each worker is doing, as in `status`.', slots.map(stateSample)),
    gauge(
      'worker_event_loop_utilization',
      'Share of the last second in which the event loop was busy.',
      slots.flatMap(loopSample),
    ),
    ...acceptQueues(state === 'stopping' ? [] : groups), // its sockets are closed, and others have their descriptors
    gauge(
      'connections',
      'Open connections.',
      slots.map(({ labels, counters }) => [labels, counters.connections]),
    ),
    counter(
      'connections_closed',
      'Connections that have ended, by why.',
      slots.flatMap(({ labels, counters }) => closedSamples(labels, counters)),
    ),
    ...COUNTERS.map(([name, help, of]) =>
      counter(
        name,
        help,
        slots.flatMap(({ labels, counters }) =>
          of.map(([key, more]) => [{ ...labels, ...more }, counters[key]] as const),
        ),
      ),
    ),
  ]
}

function reloadFamilies({ counts, lastAt, lastSucceeded }: ReloadTally): Family[] {
  const last = (value: number): Family['samples'] => (lastAt === 0 ? [] : [[{}, value]])
  return [
    counter(
      'reloads',
      'Reloads, by how they ended.',
      Object.entries(counts).map(([result, times]) => [{ result }, times]),
    ),
    gauge('last_reload_success', 'Whether the last reload went through.', last(lastSucceeded ? 1 : 0)),
    gauge('last_reload_timestamp_seconds', 'When it ended, in Unix time.', last(lastAt)),
  ]
}

function gauge(name: string, help: string, samples: Family['samples']): Family {
  return { name, type: 'gauge', help, samples }
}

function counter(name: string, help: string, samples: Family['samples']): Family {
  return { name, type: 'counter', help, samples }
}

function info(name: string, help: string, labels: Labels): Family {
  return { name, type: 'info', help, samples: [[labels, 1]] }
}

function closedSamples(labels: Labels, counters: Counters): Family['samples'] {
  const counted = Object.entries(CLOSED_BY).map(([reason, key]) => [{ ...labels, reason }, counters[key]] as const)
  const others = counted.reduce((left, [, count]) => left - count, counters.closed)
  return [[{ ...labels, reason: 'closed' }, others], ...counted]
}

function stateSample({ group, slot, labels }: SlotSeen): Family['samples'][number] {
  return [{ ...labels, state: stateOfSlot(group, slot) ?? 'stopped' }, 1]
}

function loopSample({ slot, labels }: SlotSeen): Family['samples'] {
  const utilization = slot.current?.report.utilization
  return utilization === undefined ? [] : [[labels, utilization]]
}

/**
 * Of TCP sockets on Linux, with the addon: others have no such queue, or do not say. A queue that grows is the first
 * sign of overload.
 */
function acceptQueues(groups: readonly GroupState[]): Family[] {
  const listening = groups.filter(({ isStopped }) => !isStopped)
  const queues = listening.flatMap((group) => {
    const { sockets, declaration } = group.blueprint
    return [...new Set([...sockets, ...group.inner.values()])].flatMap((socket, place) => {
      const queue = queueOf(socket)
      const worker = declaration.reusePort && place < sockets.length ? { worker: String(place) } : {} // each has its own
      return queue === null ? [] : [{ labels: { ...labelsOf(group), ...worker, listener: socket.endpoint }, queue }]
    })
  })
  return [
    gauge(
      'accept_queue_length',
      'Connections that wait to be accepted.',
      queues.map(({ labels, queue }) => [labels, queue.length]),
    ),
    gauge(
      'accept_queue_limit',
      'How many may wait.',
      queues.map(({ labels, queue }) => [labels, queue.limit]),
    ),
  ]
}

function queueOf({ fd }: BoundSocket): AcceptQueue | null {
  const { sys } = addon()
  if (sys === null || fd < 0) return null
  try {
    return sys.acceptQueue(fd)
  } catch {
    return null // EOPNOTSUPP: no TCP
  }
}

function memoryOf({ processes }: Slot): number {
  return processes.reduce((sum, { report }) => sum + report.memory, 0)
}

/** The group's unambiguous name: of two equal series Prometheus keeps only one. */
function labelsOf({ blueprint }: GroupState): Labels {
  return { group: blueprint.mailbox }
}

function exitsOf(group: GroupState): (readonly [Labels, number])[] {
  return [...group.exits].map(([reason, times]) => [{ ...labelsOf(group), reason }, times])
}

/**
 * In OpenMetrics a family's name lacks the suffix of its samples. The older format includes it, and has no info type.
 */
function render({ name, type, help, samples }: Family, isOpen: boolean): string {
  const sample = `millrace_${name}${type === 'counter' ? '_total' : type === 'info' ? '_info' : ''}`
  const family = isOpen ? `millrace_${name}` : sample
  const lines = [
    `# HELP ${family} ${help}`,
    `# TYPE ${family} ${type === 'info' && !isOpen ? 'gauge' : type}`,
    ...samples.map(([labels, value]) => `${sample}${renderLabels(labels)} ${value}`),
  ]
  return `${lines.join('\n')}\n`
}

function renderLabels(labels: Labels): string {
  const all = Object.entries(labels).map(([name, value]) => `${name}="${escaped(value)}"`)
  return all.length === 0 ? '' : `{${all.join(',')}}`
}

/** Escapes backslash, quote and line feed, and nothing else. */
function escaped(value: string): string {
  return value.replaceAll('\\', '\\\\').replaceAll('"', '\\"').replaceAll('\n', '\\n')
}
