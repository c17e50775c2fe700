// What `/metrics` makes of groups that the master knows; health.test.ts asks a real server.

import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { type Counters, newCounters } from '../../src/counters.ts'
import { parseAddress } from '../../src/net/address.ts'
import { bindSocket } from '../../src/net/bound-socket.ts'
import type { Declaration } from '../../src/process/group.ts'
import { GroupState } from '../../src/process/master/group-state.ts'
import { keysOf, mailboxesOf } from '../../src/process/messages.ts'
import { Events } from '../../src/process/status/events.ts'
import { ReloadTally, renderMetrics } from '../../src/process/status/metrics.ts'
import type { Seen } from '../../src/process/status/readiness.ts'
import { withAddon } from '../support/where.ts'
import { root } from '../tooling/support.ts'

function seen(...declared: { name: string; listen: string }[]): Seen {
  const mailboxes = mailboxesOf(declared)
  const groups = keysOf(declared).map((key, at) => {
    const declaration = { ...declared[at], count: 2, minReady: 1, reusePort: false } as unknown as Declaration
    const group = new GroupState({ key, mailbox: mailboxes[at] as string, declaration, sockets: [], tlsFiles: {} })
    group.exits.set('exit 9', 1)
    for (let n = 0; n < 2; n++) group.addSlot({ isHeld: false })
    return group
  })
  return { state: 'running', groups, reloads: new ReloadTally(new Events()) }
}

test('every series is one: groups without a name, or with that of another, are told apart as their mailboxes are', () => {
  const listen = (port: number) => `text://127.0.0.1:${port}`
  const text = renderMetrics(
    seen(
      { name: 'echo', listen: listen(1) },
      { name: 'none', listen: listen(2) },
      { name: 'none', listen: listen(3) },
      { name: 'twin', listen: listen(4) },
      { name: 'twin', listen: listen(4) },
    ),
    false,
  )
  const series = text.split('\n').flatMap((line) => /^([a-z_]+(\{.*\})?) \S+$/.exec(line)?.[1] ?? [])
  assert.ok(series.length > 50)
  assert.equal(
    series.filter((one, at) => series.indexOf(one) !== at),
    [],
  )
  assert.match(text, /^millrace_workers\{group="echo"\} 2$/m)
  assert.match(text, /^millrace_worker_restarts_total\{group="none text:\/\/127\.0\.0\.1:3",reason="exit 9"\} 1$/m)
  assert.match(text, /^millrace_workers\{group="twin text:\/\/127\.0\.0\.1:4 1"\} 2$/m)
})

test('what a worker counts is shown, all of it', () => {
  const all = seen({ name: 'a', listen: '' })
  const [slot] = all.groups[0]?.slots ?? []
  const { connections, closed, ...counters } = newCounters()
  for (const [at, name] of Object.keys(counters).entries()) if (slot) slot.past[name as keyof Counters] = 7_000_000 + at
  const shown = renderMetrics(all, false)
  for (const at of Object.keys(counters).keys()) assert.match(shown, new RegExp(` ${7_000_000 + at}$`, 'm'))
})

test('connections that have ended are told apart by why, and are as many as ended', () => {
  const all = seen({ name: 'a', listen: '' })
  const [slot] = all.groups[0]?.slots ?? []
  if (slot) Object.assign(slot.past, { closed: 10, closedByPeer: 3, closedByTimeout: 2, closedByStop: 1 })
  const lines = [...renderMetrics(all, false).matchAll(/^millrace_connections_closed_total\{(.*)\} (\d+)$/gm)]
  const first = lines.filter(([, labels]) => labels?.includes('worker="0"'))
  const of = (reason: string) => first.find(([, labels]) => labels?.includes(`reason="${reason}"`))?.[2]
  assert.equal(['peer', 'timeout', 'stopped', 'error', 'closed'].map(of), ['3', '2', '1', '0', '4'])
  const total = first.reduce((sum, [, , count]) => sum + Number(count), 0)
  assert.is(total, 10)
})

withAddon('a socket that processes ask for under two addresses has one accept queue', async () => {
  const socket = await bindSocket(parseAddress('tcp://127.0.0.1:0'), 16)
  try {
    const all = seen({ name: 'a', listen: '' })
    for (const scheme of ['text', 'http']) all.groups[0]?.inheritInner(`${scheme}://${socket.endpoint}`, socket)
    assert.is(renderMetrics(all, false).match(/^millrace_accept_queue_limit\{/gm)?.length, 1)
  } finally {
    socket.close()
  }
})

test('a group that somebody has stopped lacks nothing', () => {
  const all = seen({ name: 'a', listen: '' }, { name: 'b', listen: '' })
  assert.match(renderMetrics(all, false), /^millrace_metrics_missing_workers 4$/m)
  all.groups[1]?.stop()
  const shown = renderMetrics(all, false)
  assert.match(shown, /^millrace_metrics_missing_workers 2$/m)
  assert.match(shown, /^millrace_workers\{group="a"\} 2$/m)
  assert.match(shown, /^millrace_workers\{group="b"\} 0$/m, 'it should have none: an alert compares those that serve')
})

test('OPERATING.md lists each metric that there is, and no other', () => {
  const paper = readFileSync(join(root, 'OPERATING.md'), 'utf8').split('## Metrics')[1] ?? ''
  const rows = paper.split('\n').flatMap((line) => /^\| (`[a-z_`, ]+`) \| (?:gauge|counter) \|/.exec(line)?.[1] ?? [])
  const listed = rows.flatMap((cell) => [...cell.matchAll(/`(\w+)`/g)].map(([, name]) => name))
  const shown = renderMetrics(seen({ name: 'a', listen: '' }), true)
  const families = [...shown.matchAll(/^# TYPE millrace_(\w+) (\w+)$/gm)]
  assert.equal(
    listed.sort(),
    families
      .map(([, name, type]) => (type === 'counter' ? `${name}_total` : type === 'info' ? `${name}_info` : name))
      .sort(),
  )
})

test('each slot says what it is doing', () => {
  const all = seen({ name: 'a', listen: '' })
  assert.match(renderMetrics(all, false), /^millrace_worker_state\{group="a",worker="1",state="waiting"\} 1$/m)
  all.groups[0]?.stop()
  assert.match(renderMetrics(all, false), /^millrace_worker_state\{group="a",worker="1",state="stopped"\} 1$/m)
})

test.run()
