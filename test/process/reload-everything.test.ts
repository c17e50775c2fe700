// A reload under everything at once: requests kept alive, pipelined and asynchronous, uploads, streamed answers, event
// streams, WebSockets and lines; in the long suite on both engines, with one socket for all processes and with one for each. Nothing
// is lost or reset; what a protocol has no goodbye for is counted apart, and named by the server.

import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { addon } from '../../src/addon.ts'
import { caseTest } from '../support/length.ts'
import { Load } from '../support/load/load.ts'
import { addCrowd, portsOf, program } from '../support/load/program.ts'
import { reload } from '../support/reload.ts'
import { inSandbox, type Sandbox, workersOf } from '../support/server.ts'
import { until } from '../support/until.ts'

const DRAIN_MS = 1500

const engines = addon().sys === null ? ['node'] : ['native', 'node']

for (const engine of engines) {
  for (const reusePort of [false, true]) {
    caseTest(engine === engines[0] && !reusePort)(
      `everything at once on the ${engine} engine, reusePort ${reusePort}: a reload loses nothing`,
      async () => {
        await inSandbox(async (box) => {
          box.env.MILLRACE_ENGINE = engine
          const shape = { reusePort, drainTimeoutMs: DRAIN_MS }
          const status = await box.start(box.file('app.js', program(shape)))
          assert.equal(new Set(status.groups.map((group) => group.engine)), new Set([engine]))
          const load = new Load()
          addCrowd(load, portsOf(status))
          await everybodyIsServed(load)
          box.file('app.js', program({ ...shape, version: 2 }))
          const discarded = await reloadAll(box)
          await everybodyIsServed(load)
          await load.end()
          console.table(load.table())
          check(load, discarded)
          await box.stop()
        })
      },
    )
  }
}

/** Each kind has had an answer since now. */
async function everybodyIsServed(load: Load): Promise<void> {
  const before = new Map([...load.tallies].map(([kind, { answered }]) => [kind, answered]))
  const isServed = ([kind, { answered }]: [string, { answered: number }]) =>
    kind === 'events' || answered > (before.get(kind) ?? 0)
  await until(() => [...load.tallies].every(isServed), 20_000)
}

/** Reloads; the old processes are gone, and every one has a successor. How many connections were discarded. */
async function reloadAll(box: Sandbox): Promise<number> {
  const { slots, durationMs } = await reload(box)
  for (const slot of slots) assert.equal([slot.result, slot.note], ['replaced', ''])
  for (const slot of slots) assert.ok(slot.drainMs < DRAIN_MS + 500, `${slot.worker} drained for ${slot.drainMs} ms`)
  console.log(`reloaded in ${durationMs} ms`)
  const pids = workersOf(await box.status()).map(({ pid }) => pid)
  assert.equal(
    pids,
    slots.map(({ newPid }) => newPid),
  )
  return slots.reduce((sum, slot) => sum + slot.discarded, 0)
}

function check(load: Load, discarded: number): void {
  assert.equal(load.lost, [])
  let crossed = 0
  for (const [kind, tally] of load.tallies) {
    assert.ok(tally.isEven, `${kind}: the sums do not add up`)
    assert.ok(tally.answered > 0, `${kind}: never answered`)
    crossed += tally.crossedConnections
    if (kind === 'websocket') assert.is(tally.crossed, 0, 'it hears a goodbye')
  }
  assert.ok(crossed <= discarded, `${crossed} connections had requests dropped, the server names ${discarded}`)
}

test.run()
