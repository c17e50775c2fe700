// A master as a service: what it tells systemd, and the orphans that come to it as process 1.

import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { addon } from '../../src/addon.ts'
import { reload } from '../support/reload.ts'
import { echo, inSandbox, startFile, succeeded } from '../support/server.ts'
import { until } from '../support/until.ts'

test('the banner and status say which addon is at work, or why none', async () => {
  await inSandbox(async (box) => {
    const module = box.file('app.js', echo(1))
    const { addon: with_ } = await box.start(module)
    assert.is(with_, addon().why)
    await box.stop()
    box.env.MILLRACE_ADDON = 'none'
    const server = await box.foreground(module)
    assert.match(server.stdout, /addon: switched off by MILLRACE_ADDON=none/)
    await box.stop()
    await server.ended
  })
})

test('without the addon what is left undone for a service is said, once', async () => {
  await inSandbox(async (box) => {
    Object.assign(box.env, { MILLRACE_ADDON: 'none', NOTIFY_SOCKET: join(box.directory, 'nobody.sock') })
    const server = await box.foreground(box.file('app.js', echo(1)))
    await reload(box)
    await box.stop()
    const { stderr } = await server.ended
    assert.is(stderr.match(/without the addon \(.*\) the service manager is not told/g)?.length, 1)
  })
})

test('without the addon a first process says that it takes no orphans', async () => {
  if (process.getuid?.() !== 0) return // it takes a namespace
  await inSandbox(async (box) => {
    box.env.MILLRACE_ADDON = 'none'
    const start = [process.execPath, startFile, 'start', box.file('app.js', echo(1))]
    const server = box.spawn('unshare', ['-pf', '--mount-proc', '--kill-child', ...start])
    await server.says(/without the addon \(.*\) what other programs leave behind stays here as zombies/)
    await server.says(/\[OK\]/)
    succeeded(await box.command('stop'))
    await server.ended
  })
})

if (addon().sys !== null) {
  test('systemd is told of ready, reloading and stopping', async () => {
    await inSandbox(async (box) => {
      const path = join(box.directory, 'notify.sock')
      const systemd = box.spawn('socat', ['-u', `UNIX-RECV:${path}`, '-'])
      box.env.NOTIFY_SOCKET = path
      const module = box.file('app.js', echo(1))
      await until(() => spawnSync('test', ['-S', path]).status === 0)
      const server = await box.foreground(module)
      await until(() => new RegExp(`READY=1\nMAINPID=${server.process.pid}`).test(systemd.stdout))
      await reload(box)
      await until(() => /RELOADING=1\nMONOTONIC_USEC=\d+READY=1/.test(systemd.stdout))
      await box.stop()
      await server.ended
      await until(() => systemd.stdout.endsWith('STOPPING=1'))
      systemd.process.kill()
      await systemd.ended
    })
  })

  test('as process 1 the master takes the orphans of other programs', async () => {
    if (process.getuid?.() !== 0) return // it takes a namespace
    await inSandbox(async (box) => {
      const orphaning = `import { spawn } from 'node:child_process'
        worker.onWorkerStart = () => { spawn('sh', ['-c', '(sleep 1; exit 3) & exit 0']) }`
      const module = box.file('app.js', echo(1, orphaning))
      const server = box.spawn('unshare', ['-pf', '--mount-proc', process.execPath, startFile, 'start', module])
      await until(() => server.stdout.includes('[OK]'))
      const inside = box.pids().find((pid) => /^NSpid:\s+\d+\s+1$/m.test(statusOf(pid))) ?? 0
      const zombies = () =>
        box
          .pids()
          .concat(childrenOf(inside))
          .filter((pid) => /^State:\s+Z/m.test(statusOf(pid)))
      // First the worker and the orphan, which may have been there before "[OK]"; then its worker alone, and no zombie.
      await until(() => childrenOf(inside).length === 2)
      await until(() => childrenOf(inside).length === 1 && zombies().length === 0)
      process.kill(inside, 'SIGTERM')
      await server.ended
    })
  })
}

function statusOf(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/status`, 'utf8')
  } catch {
    return '' // ENOENT
  }
}

function childrenOf(pid: number): number[] {
  try {
    return readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim().split(' ').filter(Boolean).map(Number)
  } catch {
    return [] // ENOENT
  }
}

test.run()
