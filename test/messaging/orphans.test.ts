// Workers whose master is killed: nobody follows those that leave.

import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { drive, startDriven } from '../support/driven.ts'
import { inSandbox } from '../support/server.ts'
import { until } from '../support/until.ts'

const publishing = `
  Worker.stopTimeout = 20
  const listening = new Worker({ name: 'listening' })
  listening.onWorkerStart = () => void Channel.subscribe('news', () => console.error('-- heard'))
  driver.onWorkerStop = async () => {
    for (let n = 0; n < 15; n++) {
      Channel.publish('news', n)
      await Timer.sleep(0.1)
    }
  }
`

test('what is published when the master is gone does not wait for processes that follow those that have left', () =>
  inSandbox(async (box) => {
    const port = await startDriven(box, publishing)
    await drive(port, `Channel.publish('news', 'first')`)
    await until(() => box.log().includes('-- heard'))
    const { pid } = await box.status()
    const since = performance.now()
    process.kill(pid, 'SIGKILL')
    await until(() => box.pids().length === 0, 20_000)
    const ms = performance.now() - since
    await startDriven(box, '') // it clears up after the one that was killed
    await box.stop()
    assert.ok(ms < 8000, `${ms} ms: messages wait for 10 s`)
  }))

test.run()
