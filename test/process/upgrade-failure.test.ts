// An upgrade that fails leaves the old master in charge, whatever happens to the new one, and its clients notice nothing.

import { existsSync, readdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { atLength, longTest } from '../support/length.ts'
import { failed, KILL, quick, release, staysAsItWas, unnoticed, upgrade } from '../support/release.ts'
import { version, versionAt } from '../support/reload.ts'
import { echo, inSandbox, lives, portOf } from '../support/server.ts'
import { until } from '../support/until.ts'

test('what cannot be started is refused, with the reason and nothing touched', async () => {
  await inSandbox(async (box) => {
    const module = join(box.directory, 'app.js')
    release(box, '1.0.0')
    await unnoticed(box, '', async (before) => {
      failed(await box.command('upgrade', '--node', '/no/such/node', module), /given up: .*\/no\/such\/node ENOENT/)
      failed(await box.command('upgrade', '--node', '/bin/false', module), /given up: \/bin\/false .* cannot be run/)
      failed(await box.command('upgrade', '--node', '/bin/true', module), /given up: \/bin\/true .* it told no version/)
      box.file('app.js', 'this is no JavaScript')
      failed(await box.command('upgrade', module), /SyntaxError/, 6)
      box.file('app.js', version(2, 2, `${quick}\nworker.onWorkerStart = () => { throw new Error('no database') }`))
      failed(await box.command('upgrade', module), /no database/, 6)
      await staysAsItWas(box, before)
      box.file('app.js', version(2, 2, quick))
      const outcome = await upgrade(box, module)
      assert.is(outcome.oldPid, before.pid)
      assert.is(await versionAt(portOf(before)), '2')
    })
    await box.stop()
  })
})

test('a new version that is broken is refused by its own words', async () => {
  await inSandbox(async (box) => {
    release(box, '1.0.0')
    await unnoticed(box, '', async (before) => {
      const broken = release(box, '1.1.0', () => `throw new Error('half of a bundle')`)
      box.file('ask.mjs', askFor(broken)) // a command of that version would not come as far as this
      const { stdout } = await box.spawn(process.execPath, [join(box.directory, 'ask.mjs'), box.runDir]).ended
      assert.match(stdout, /cannot be run: .*half of a bundle/)
      await staysAsItWas(box, before)
    })
    await box.stop()
  })
})

/** A request of the control socket, typed by hand. */
const askFor = (startFile: string) => `
  import net from 'node:net'
  const socket = net.connect(process.argv[2] + '/control.sock')
  socket.pipe(process.stdout)
  socket.write(JSON.stringify({ command: 'upgrade', node: process.execPath, startFile: '${startFile}' }) + '\\n')
`

/** What the new master says when it comes to that, and what happens to it instead. */
const STEPS = {
  'its start': '{ type: "alive"',
  'processes that are up': '{ type: "wants"',
  'everything that is ready': '{ type: "able" }',
  'the lead': '{ type: "leads"',
}

const steps = Object.entries(STEPS).slice(-atLength(1, 4))

longTest(`a new master that is killed at ${steps.map(([step]) => step).join(', at ')} leaves the old one`, async () => {
  await inSandbox(async (box) => {
    release(box, '1.0.0')
    const module = join(box.directory, 'app.js')
    await unnoticed(box, '', async (before) => {
      for (const [turn, [, said]] of steps.entries()) {
        release(box, `1.1.${turn}`, (code) => code.replaceAll(said, said.replace('{', `{ ${KILL},`)))
        failed(await box.command('upgrade', module), /the new master ended before it was in charge: signal SIGKILL/)
        await staysAsItWas(box, before)
      }
      release(box, '1.2.0')
      assert.is((await upgrade(box, module)).version, '1.2.0')
    })
    await box.stop()
  })
})

longTest(
  'a master that came by an upgrade, and made its control socket anew, leaves the one of its successor alone',
  async () => {
    await inSandbox(async (box) => {
      const module = box.file('app.js', echo(1, 'worker.drainTimeoutMs = 500'))
      await box.start(module)
      const { pid, oldPid } = await upgrade(box, module)
      await until(() => !lives(oldPid), 20_000)
      const control = join(box.runDir, 'control.sock')
      rmSync(control)
      await until(async () => (await box.status().catch(() => null))?.pid === pid, 20_000)
      const next = await upgrade(box, module)
      await until(() => !lives(pid), 20_000)
      assert.ok(existsSync(control), 'removed by the earlier master') // `#restore` would need up to two seconds
      assert.is((await box.status()).pid, next.pid)
      assert.equal(
        readdirSync(box.runDir).filter((name) => /^control/.test(name)),
        ['control.sock'],
      )
      await box.stop()
    })
  },
)

test.run()
