// Which workers are killed for hanging, and when the next one is looked after, by a clock and processes of the test's.

import { test } from 'uvu'
import * as assert from 'uvu/assert'
import type { GroupState } from '../../src/process/master/group-state.ts'
import type { Slot } from '../../src/process/master/slot.ts'
import { StuckWorkers } from '../../src/process/master/stuck.ts'
import type { WorkerHandle } from '../../src/process/master/worker-handle.ts'
import { until } from '../support/until.ts'

/** A slot whose process has been silent since the beginning, and does not end by SIGKILL (state D). */
function hanging(pid: number, heardAt: number, killed: number[]): Slot {
  const current = {
    ...{ pid, heardAt, state: 'ready', stuckTimeoutMs: 5000, isInspected: false, isLogPiped: false, silentMs: 60_000 },
    gone: new Promise(() => undefined),
    condemn: () => undefined,
    kill: () => void killed.push(pid),
  } as unknown as WorkerHandle
  return { id: pid, current } as Slot
}

test('a process that no signal ends does not keep the others from being looked after', async () => {
  const killed: number[] = []
  const slots = [hanging(1, 0, killed), hanging(2, 100, killed)]
  const group = { name: 'g', slots, countRecycled: () => undefined } as unknown as GroupState
  let time = 0
  const stuck = new StuckWorkers([group], () => time)
  const second = () => {
    time += 1000
    stuck.look()
  }
  for (let n = 0; n < 10; n++) second()
  await until(() => killed.length === 1)
  for (let n = 0; n < 20; n++) second()
  assert.equal(killed, [1], 'not the next one before that one is back, or has had its time')
  for (let n = 0; n < 15; n++) second()
  await until(() => killed.length > 1)
  assert.equal(killed, [1, 2])
})

test.run()
