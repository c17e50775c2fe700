// An upgrade that fails leaves the old master in charge, whatever happens to the new one, and its clients notice nothing.

import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { failed, KILL, quick, release, staysAsItWas, unnoticed, upgrade } from '../support/release.ts'
import { version, versionAt } from '../support/reload.ts'
import { inSandbox, lives, portOf } from '../support/server.ts'
import { until } from '../support/until.ts'

const SLOW_MS = 20_000

/** The new master of an upgrade that is under way. */
function successorOf(pid: number): number {
  const children = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim().split(' ').map(Number)
  const isMaster = (child: number) => readFileSync(`/proc/${child}/cmdline`, 'utf8').startsWith('millrace: master')
  return children.find((child) => child > 0 && lives(child) && isMaster(child)) ?? 0
}

test('what cannot be started is refused, with the reason and nothing touched', async () => {
  await inSandbox(async (box) => {
    const module = join(box.directory, 'app.js')
    release(box, '1.0.0')
    await unnoticed(box, '', async (before) => {
      failed(await box.command('upgrade', '--node', '/no/such/node', module), /given up: .*\/no\/such\/node ENOENT/)
      failed(await box.command('upgrade', '--node', '/bin/false', module), /given up: \/bin\/false .* cannot be run/)
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

const HANG = '...process.kill(process.pid, "SIGSTOP")'

/** What the new master says when it comes to that, and what happens to it instead. */
const STEPS = {
  'its start': '{ type: "alive" }',
  'processes that are up': '{ type: "wants"',
  'everything that is ready': '{ type: "able" }',
  'the lead': '{ type: "leads"',
}

test(`a new master that is killed at ${Object.keys(STEPS).join(', at ')} leaves the old one`, async () => {
  await inSandbox(async (box) => {
    release(box, '1.0.0')
    const module = join(box.directory, 'app.js')
    await unnoticed(box, '', async (before) => {
      for (const [turn, said] of Object.values(STEPS).entries()) {
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

test('a new master that hangs, or is killed while its processes boot or are evaluated, leaves the old one', async () => {
  await inSandbox(async (box) => {
    release(box, '1.0.0')
    const module = join(box.directory, 'app.js')
    await unnoticed(box, '', async (before) => {
      release(box, '1.1.0', (code) => code.replaceAll('{ type: "leads"', `{ ${HANG}, type: "leads"`))
      failed(await box.command('upgrade', module), /the new master has said nothing for 5 s/, 7)
      await staysAsItWas(box, before)
      release(box, '1.2.0')
      for (const never of ['await new Promise(() => {})', 'worker.onWorkerStart = () => new Promise(() => {})']) {
        box.file('app.js', version(2, 2, `${quick}\nconsole.error('here I am')\nsetInterval(() => {}, 1000)\n${never}`))
        const seen = box.log().length
        const upgrading = box.begin('upgrade', module)
        await until(() => box.log().slice(seen).includes('here I am'), SLOW_MS)
        process.kill(successorOf(before.pid), 'SIGKILL')
        failed(await upgrading.ended, /ended before it was in charge: signal SIGKILL/)
        await staysAsItWas(box, before)
      }
    })
    await box.stop()
  })
})

test('a stop ends an upgrade that is under way, and the server', async () => {
  await inSandbox(async (box) => {
    const module = box.file('app.js', version(1))
    await box.start(module)
    box.file('app.js', version(2, 1, `console.error('here I am'); worker.onWorkerStart = () => new Promise(() => {})`))
    const upgrading = box.begin('upgrade', module)
    await until(() => box.log().includes('here I am'), SLOW_MS)
    await box.stop()
    failed(await upgrading.ended, /the server is being stopped/)
  })
})

test.run()
