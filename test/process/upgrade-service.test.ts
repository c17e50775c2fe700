// An upgrade of a service: sockets of systemd stay its own, it is told who leads, and that one feeds its watchdog and answers
// the probes. For the callbacks of the master the server has not stopped.

import { existsSync, readFileSync } from 'node:fs'
import net from 'node:net'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { addon } from '../../src/addon.ts'
import { longTest } from '../support/length.ts'
import { failed, upgrade } from '../support/release.ts'
import { reload } from '../support/reload.ts'
import { ask, echo, freePort, inSandbox, lives, portOf, startFile } from '../support/server.ts'
import { activated, endManager, manager } from '../support/systemd.ts'
import { until } from '../support/until.ts'

const SLOW_MS = 20_000
/** The process itself is whom the watchdog wants to hear. */
const WATCHED = ['sh', '-c', 'WATCHDOG_PID=$$ exec "$@"', 'sh', process.execPath]

if (addon().sys !== null) {
  longTest('upgrades of a service: its sockets, its watchdog, its probes, and those that are given up', async () => {
    await inSandbox(async (box) => {
      const systemd = await manager(box)
      box.env.WATCHDOG_USEC = '60000'
      const [port, health] = [await freePort(), await freePort()]
      const path = join(box.directory, 'app.sock')
      const own = join(box.directory, 'own.sock') // ours, and not systemd's
      const notes = box.file('notes', '')
      const taken = net.createServer()
      await new Promise<void>((resolve) => taken.listen(0, '127.0.0.1', resolve))
      const program = (version: number, isLocal: boolean, more = '', probes = health) => {
        const code = `import { appendFileSync } from 'node:fs'
          import { Shared } from 'millrace'
          const hits = Shared.map('hits')
          Worker.health = 'http://127.0.0.1:${probes}'
          Worker.onMasterStop = () => appendFileSync('${notes}', 'stopped')
          const all = [worker${isLocal ? `, new Worker('unix://${path}', { name: 'local' })` : ''}]
          for (const one of all) {
            one.drainTimeoutMs = 500
            one.onMessage = (connection, line) => connection.send(String(line).trim() + ' ${version}' + (one === worker ? '' : '\\n'))
          }
          const own = new Worker('unix://${own}', { name: 'own', drainTimeoutMs: 500 })
          own.onMessage = async (connection) => connection.send(await hits.increment('n') + '\\n')
          ${more}`
        return box.file('app.js', echo(1, code, `text://127.0.0.1:${port}`))
      }
      const isReady = async () => (await fetch(`http://127.0.0.1:${health}/readyz`)).status === 200
      try {
        const module = program(1, true)
        const command = [startFile, 'start', module]
        const sockets = ['-l', `127.0.0.1:${port}`, '-l', path]
        const server = await activated(box, sockets, command, () => ask(port, 'early'), WATCHED)
        const first = server.process.pid ?? 0
        assert.ok(await isReady())
        assert.is(await ask(own, 'x'), '1')

        program(2, true, `worker.onWorkerStart = () => { throw new Error('no database') }`)
        failed(await box.command('upgrade', module), /no database/, 6)
        assert.ok(await isReady())
        program(2, true, '', (taken.address() as net.AddressInfo).port) // found out by who leads almost
        failed(await box.command('upgrade', module), /\(health\): EADDRINUSE/, 5)
        assert.ok(await isReady())
        assert.is((await box.status()).pid, first)
        assert.not.match(systemd.stdout, /STOPPING/)
        assert.is(await ask(port, 'x'), 'x 1')
        assert.is(await ask(own, 'x'), '2', 'its file and its keeper are those of before')
        program(2, true, `Worker.pidFile = '/no/such/folder/pid'`)
        failed(await box.command('upgrade', module), /no.such.folder/)
        assert.is(await ask(own, 'x'), '3')
        assert.is((await box.status()).pid, first)

        let before = first
        for (const [turn, isLocal] of [true, false].entries()) {
          program(turn + 2, isLocal)
          const { pid } = await upgrade(box, module)
          await systemd.says(new RegExp(`^MAINPID=${pid}$`, 'm'))
          await until(() => !lives(before), SLOW_MS)
          const pings = systemd.stdout.split('WATCHDOG=1').length
          await until(() => systemd.stdout.split('WATCHDOG=1').length > pings + 3, SLOW_MS)
          assert.ok(await isReady())
          assert.is(await ask(port, 'x'), `x ${turn + 2}`)
          assert.is(await ask(own, 'x'), String(turn + 4))
          if (isLocal) assert.is(await ask(path, 'x'), `x ${turn + 2}`)
          before = pid
        }
        assert.ok(existsSync(path)) // nobody's for now, and systemd's still
        program(4, true)
        assert.is((await reload(box)).reason, '')
        assert.is(await ask(path, 'x'), 'x 4')

        assert.is(readFileSync(notes, 'utf8'), '')
        await box.stop()
        assert.is(readFileSync(notes, 'utf8'), 'stopped')
        assert.ok(existsSync(path))
        assert.is(systemd.stdout.split('STOPPING=1').length, 2)
      } finally {
        taken.close()
        await endManager(systemd)
      }
    })
  })

  test('a new master is no child of the old one when its service manager is told, and says nothing before', async () => {
    await inSandbox(async (box) => {
      const systemd = await manager(box)
      try {
        const more = `import { existsSync } from 'node:fs'
          import { setTimeout as sleep } from 'node:timers/promises'
          worker.onMessage = async (connection, line) => {
            while (!existsSync('${box.directory}/go')) await sleep(10)
            connection.send(line)
          }`
        const module = box.file('app.js', echo(1, more))
        const server = await box.foreground(module)
        const answer = ask(portOf(await box.status()), 'x')
        box.file('app.js', echo(2, more))
        const upgraded = upgrade(box, module)
        const told = () => /^READY=1\nMAINPID=(\d+)\n(?!STATUS)/m.exec(systemd.stdout)
        const [, pid = ''] = await until(told, SLOW_MS)
        assert.is.not(parentOf(Number(pid)), server.pid)
        assert.is(server.process.exitCode, null)
        await systemd.says(/^STATUS=2 of 2 processes ready$/m)
        const ofNew = systemd.stdout.indexOf('STATUS=2 of 2')
        assert.ok(ofNew > systemd.stdout.indexOf(`MAINPID=${pid}`), 'systemd listens to its main process only')
        box.file('go', '')
        assert.is(await answer, 'x')
        assert.is(String((await upgraded).pid), pid)
        await server.ended
        await box.stop()
      } finally {
        await endManager(systemd)
      }
    })
  })
}

function parentOf(pid: number): number {
  return Number(/^PPid:\t(\d+)$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1])
}

test.run()
