// An upgrade whose old master is killed: the new one is in charge, or will be. At no moment is there nobody on the port.

import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { atLength, longTest } from '../support/length.ts'
import { failed, KILL, release, staysAsItWas, unnoticed } from '../support/release.ts'
import { reload } from '../support/reload.ts'
import { ask, inSandbox, lives, portOf, workersOf } from '../support/server.ts'
import { until } from '../support/until.ts'

const SLOW_MS = 20_000

/** Where an old master is killed: at what it says or does last. Each is the new one of the one before. */
const LAST_DEEDS = ['{ type: "given" }', 'control.giveWay(', '{ type: "takeCharge"', '{ type: "left"'].slice(
  -atLength(2, 4),
)

longTest('when the old master is killed meanwhile, at any step, the new one is in charge', async () => {
  await inSandbox(async (box) => {
    const releases = LAST_DEEDS.map((deed, turn) => () => {
      const kill = deed.startsWith('{')
        ? deed.replace('{', `{ ${KILL},`)
        : `process.kill(process.pid, "SIGKILL"), ${deed}`
      release(box, `1.${turn}.0`, (code) => code.replaceAll(deed, kill))
    })
    const [first = () => undefined, ...later] = [...releases, () => release(box, '2.0.0')]
    first()
    const module = join(box.directory, 'app.js')
    await unnoticed(box, 'worker.drainTimeoutMs = 1500; Worker.stopTimeout = 3', async (before) => {
      for (const next of later) {
        const { pid } = await box.status()
        next()
        failed(await box.command('upgrade', module), /the master, pid \d+, ended before the upgrade did/)
        await until(() => !lives(pid) && box.pids().length === 3, SLOW_MS)
        const after = await box.status()
        assert.is.not(after.pid, pid)
        assert.is(portOf(after), portOf(before))
        await staysAsItWas(box, after)
      }
      assert.is((await box.status()).version, '2.0.0')
      assert.is((await reload(box)).slots.length, 2)
    })
    await box.stop()
  })
})

test('shared data outlives an old master that is killed before the new one can lead', async () => {
  await inSandbox(async (box) => {
    const code = (version: number) => `
      import { existsSync, writeFileSync } from 'node:fs'
      import { Shared, Worker } from 'millrace'
      const map = Shared.map('m')
      const worker = new Worker('text://127.0.0.1:0', { name: 'echo' })
      worker.onWorkerStart = async () => {
        writeFileSync('${box.directory}/began.${version}', '')
        while (!existsSync('${box.directory}/flag.${version}')) await new Promise((resolve) => setTimeout(resolve, 20))
      }
      worker.onMessage = async (connection, line) => {
        if (line === 'set') await map.set('k', 1)
        connection.send('${version} ' + (await map.get('k')))
      }
      Worker.runAll()`
    box.file('flag.1', '')
    const module = box.file('app.js', code(1))
    const before = await box.start(module)
    assert.is(await ask(portOf(before), 'set'), '1 1')
    box.file('app.js', code(2))
    const upgrading = box.begin('upgrade', module)
    await until(() => existsSync(join(box.directory, 'began.2')))
    process.kill(before.pid, 'SIGKILL')
    await upgrading.ended
    await until(() => workersOf(before).every(({ pid }) => !lives(pid)), SLOW_MS)
    box.file('flag.2', '')
    await until(async () => workersOf(await box.status()).every(({ state }) => state === 'ready'), SLOW_MS)
    assert.is(await ask(portOf(before), 'get'), '2 1')
    await box.stop()
  })
})

test.run()
