// An upgrade whose new master hangs, is killed while its processes come up, or is not wanted any more.

import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'uvu'
import { atLength, longTest } from '../support/length.ts'
import { failed, quick, release, staysAsItWas, unnoticed } from '../support/release.ts'
import { version } from '../support/reload.ts'
import { inSandbox, lives } from '../support/server.ts'
import { until } from '../support/until.ts'

const SLOW_MS = 20_000
const HANG = '...process.kill(process.pid, "SIGSTOP")'

/** The new master of an upgrade that is under way. */
function successorOf(pid: number): number {
  const children = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim().split(' ').map(Number)
  const isMaster = (child: number) => readFileSync(`/proc/${child}/cmdline`, 'utf8').startsWith('millrace: master')
  return children.find((child) => child > 0 && lives(child) && isMaster(child)) ?? 0
}

longTest(
  'a new master that hangs, or is killed while its processes boot or are evaluated, leaves the old one',
  async () => {
    await inSandbox(async (box) => {
      release(box, '1.0.0')
      const module = join(box.directory, 'app.js')
      await unnoticed(box, '', async (before) => {
        release(box, '1.1.0', (code) => code.replaceAll('{ type: "leads"', `{ ${HANG}, type: "leads"`))
        failed(await box.command('upgrade', module), /the new master has said nothing for 5 s/, 7)
        await staysAsItWas(box, before)
        release(box, '1.2.0')
        const nevers = ['worker.onWorkerStart = () => new Promise(() => {})', 'await new Promise(() => {})']
        for (const never of nevers.slice(0, atLength(1, 2))) {
          box.file(
            'app.js',
            version(2, 2, `${quick}\nconsole.error('here I am')\nsetInterval(() => {}, 1000)\n${never}`),
          )
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
  },
)

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
