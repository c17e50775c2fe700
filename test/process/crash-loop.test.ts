// What is known of processes that have failed: the group's state, the end in words, why, what was logged last, and when
// the next one starts. And the policy for promises that reject unseen.

import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { OomKills } from '../../src/process/master/oom-kills.ts'
import { Client, echo, inSandbox, portOf, succeeded, workersOf } from '../support/server.ts'
import { until } from '../support/until.ts'

test('a group whose processes fail again and again is in a crash loop, and status explains it', async () => {
  await inSandbox(async (box) => {
    const more = `
      worker.crashLoopAfter = 2
      if (process.argv[2] === 'x') worker.onWorkerActive = () => setTimeout(() => {
        if (worker.id !== 1) return
        for (let n = 0; n < 20; n++) console.error('step ' + n)
        throw new Error('planted')
      }, 20)`
    const first = await box.start(box.file('app.js', echo(2, more)), '--', 'x')
    assert.ok(first.groups[0]?.state)
    const status = await until(async () => {
      const now = await box.status()
      return workersOf(now)[1]?.state === 'crash-loop' && (workersOf(now)[1]?.failures ?? 0) >= 3 && now
    }, 20_000)
    assert.is(status.groups[0]?.state, 'crash-loop')
    const [steady, broken] = workersOf(status)
    assert.is(steady?.state, 'ready')
    assert.is(steady?.lastExit, '')
    assert.is(broken?.lastExit, 'exit 250 (uncaught error)')
    assert.match(broken?.lastReason ?? '', /^Error: planted\n/)
    assert.is(broken?.lastLog.length, 10)
    assert.ok(broken?.lastLog.some((line) => /^(step 19|uncaught: Error: planted|\s+at )/.test(line)))
    assert.ok(Date.parse(broken?.lastExitAt ?? '') > Date.parse(status.startedAt))
    assert.match(box.log(), /worker echo:1: crash loop, 2 failures in a row: it is tried again, ever later/)
    await until(async () =>
      /echo:1 failed \d+ times in a row, last: exit 250 \(uncaught error\); next start in \d+\.\d s\n {2}Error: planted/.test(
        succeeded(await box.command('status')).stdout,
      ),
    )
    await box.stop()
  })
})

test('heap that runs out is called by its name, and the last lines are there', async () => {
  await inSandbox(async (box) => {
    const more = `
      worker.execArgv = ['--max-old-space-size=40']
      worker.onMessage = () => { const kept = []; for (;;) kept.push(new Array(1000).fill(kept.length)) }`
    const client = await Client.connect(portOf(await box.start(box.file('app.js', echo(1, more)))))
    client.send('x')
    const worker = await until(
      async () => workersOf(await box.status()).find(({ lastExit }) => lastExit !== ''),
      60_000,
    )
    assert.match(worker.lastExit, /^(signal SIGABRT|signal SIGTRAP|exit 134) \(out of memory\)$/)
    assert.ok(worker.lastLog.some((line) => line.startsWith('FATAL ERROR')))
    client.close()
    await box.stop()
  })
})

test('a kill of the kernel for want of memory is seen in the counts of the container', async () => {
  await inSandbox((box) => {
    const events = (count: number) => box.file('sys/fs/cgroup/app/memory.events', `low 0\noom 9\noom_kill ${count}\n`)
    box.file('proc/self/cgroup', '1:name=systemd:/\n0::/app\n')
    events(2)
    const kills = new OomKills(box.directory)
    assert.not(kills.hasRisen())
    events(3)
    assert.ok(kills.hasRisen())
    assert.not(kills.hasRisen())
    assert.not(new OomKills(`${box.directory}/none`).hasRisen())
  })
})

test('an unhandled rejection is logged and counted where the code says so, and the worker goes on', async () => {
  await inSandbox(async (box) => {
    const more = `
      Worker.unhandledRejection = 'log'
      worker.onMessage = (connection, line) => { void Promise.reject(new Error('planted')); connection.send(line) }`
    const status = await box.start(box.file('app.js', echo(1, more)))
    const client = await Client.connect(portOf(status))
    assert.is(await client.ask('one'), 'one')
    assert.is(await client.ask('two'), 'two')
    client.close()
    const after = await until(async () => {
      const now = await box.status()
      return now.totals.unhandledRejections === 2 && now
    })
    assert.is(workersOf(after)[0]?.pid, workersOf(status)[0]?.pid)
    assert.match(box.log(), /\[echo:0\] unhandled rejection: Error: planted\n/)
    assert.match(succeeded(await box.command('status')).stdout, /^unhandled rejections 2$/m)
    await box.stop()
  })
})

test('a policy that does not exist is refused', async () => {
  await inSandbox(async (box) => {
    const module = box.file('app.js', echo(1, `Worker.unhandledRejection = 'ignore'`))
    const { code, stderr } = await box.command('check', module)
    assert.is(code, 6)
    assert.match(stderr, /Worker\.unhandledRejection is 'ignore': it must be 'exit' or 'log'/)
  })
})

test.run()
