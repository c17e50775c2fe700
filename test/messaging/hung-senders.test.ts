// A worker that leaves does not wait for ever until one that hangs has heard of it.

import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { drive, startDriven } from '../support/driven.ts'
import { longTest } from '../support/length.ts'
import { inSandbox, workersOf } from '../support/server.ts'
import { until } from '../support/until.ts'

longTest('a suspended worker that has once sent something does not hold a reload up, is named, and loses nothing', () =>
  inSandbox(async (box) => {
    const port = await startDriven(
      box,
      `
      const tasks = new Worker({ name: 'tasks', drainTimeoutMs: 30_000 })
      tasks.onMessage = () => tasks.incarnation
      state.failed = []
      tasks.onSendFail = (error, message) => state.failed.push([error.code, message])
      `,
    )
    const pid = (await box.status()).groups.find(({ name }) => name === 'driver')?.workers[0]?.pid ?? 0
    assert.is(await drive(port, `return groups.tasks.worker(0).request(1)`), 1)
    process.kill(pid, 'SIGSTOP')
    const since = performance.now()
    const reloading = box.operate({ command: 'reload', names: ['tasks'] })
    await until(async () =>
      workersOf(await box.status()).some(({ work }) => work.includes('(messages: waiting for driver:0)')),
    )
    await reloading
    const ms = performance.now() - since
    assert.ok(ms < 15_000, `${ms} ms`)
    process.kill(pid, 'SIGCONT')
    const code = `groups.tasks.worker(0).send(2); return [await groups.tasks.worker(0).request(3), state.failed]`
    assert.equal(await drive(port, code), [2, []])
    await box.stop()
  }),
)

test.run()
