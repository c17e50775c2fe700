// What a master has to outlive: a clock that somebody sets, and a process that was stopped. What it must not grow by is
// measured by scripts/master-lasts.mjs.

import { writeFileSync } from 'node:fs'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { longTest } from '../support/length.ts'
import { reload } from '../support/reload.ts'
import { Client, echo, inSandbox, portOf, workersOf } from '../support/server.ts'
import { until } from '../support/until.ts'

const DAY_MS = 86_400_000

/** In every process of a server, a wall clock that is so many ms ahead as a file says. */
const clockFrom = (file: string) => `
  const { readFileSync } = require('node:fs')
  const RealDate = Date
  const now = () => RealDate.now() + Number(readFileSync('${file}', 'utf8'))
  globalThis.Date = class extends RealDate {
    constructor(...args) {
      if (args.length === 0) super(now())
      else super(...args)
    }
    static now() { return now() }
  }
`

test('a clock that jumps by a day, forth and back, changes nothing', async () => {
  await inSandbox(async (box) => {
    const offset = box.file('offset', '0')
    box.env.NODE_OPTIONS = `--require ${box.file('clock.cjs', clockFrom(offset))}`
    const timer = `import { Timer } from 'millrace'
      let ticks = 0
      worker.drainTimeoutMs = 1000
      worker.onWorkerStart = () => { Timer.add(0.05, () => { ticks++ }) }
      worker.onMessage = (connection, line) => connection.send(line === 'ticks' ? String(ticks) : new Date().toISOString())`
    const before = await box.start(box.file('app.js', echo(2, timer)))
    const client = await Client.connect(portOf(before))
    for (const jump of [DAY_MS, -DAY_MS]) {
      writeFileSync(offset, String(jump))
      const seen = Date.parse(await client.ask('time')) - Date.now()
      assert.ok(Math.abs(seen - jump) < DAY_MS / 2, 'the clock has not jumped')
      const ticks = Number(await client.ask('ticks'))
      await until(async () => Number(await client.ask('ticks')) > ticks)
      const status = await box.status()
      assert.ok(status.uptimeMs >= 0 && status.uptimeMs < DAY_MS / 2)
      assert.equal(
        workersOf(status).map(({ pid }) => pid),
        workersOf(before).map(({ pid }) => pid),
      )
      assert.equal(status.groups[0]?.exits, {})
    }
    client.close()
    assert.equal(
      (await reload(box)).slots.map(({ result }) => result),
      ['replaced', 'replaced'],
    )
    await box.stop()
  })
})

longTest('a reload with a process that was stopped ends in bounded time, and the receipt says so', async () => {
  await inSandbox(async (box) => {
    const before = await box.start(box.file('app.js', echo(2, 'worker.drainTimeoutMs = 300')))
    const [stopped] = workersOf(before)
    process.kill(stopped?.pid ?? 0, 'SIGSTOP')
    const { slots } = await reload(box)
    assert.equal(
      slots.map(({ oldPid, result, note }) => [oldPid === stopped?.pid, result, note.split(',')[0]]),
      [
        [true, 'replaced', 'killed'],
        [false, 'replaced', ''],
      ],
    )
    await box.stop()
  })
})

test.run()
