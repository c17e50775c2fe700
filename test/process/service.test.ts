// A master as a service: what it says that it lacks without the addon, and its life as process 1. systemd.test.ts has the rest.

import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { addon } from '../../src/addon.ts'
import { caseTest } from '../support/length.ts'
import { reload } from '../support/reload.ts'
import { Client, echo, inSandbox, portOf, type Sandbox, startFile, succeeded } from '../support/server.ts'
import { until } from '../support/until.ts'
import { asRoot, isRoot, where } from '../support/where.ts'

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

asRoot('without the addon a first process says that it takes no orphans', async () => {
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

/** The pid, as we see it, of the first process of a namespace that one of the sandbox has made. */
function firstProcess(box: Sandbox): number {
  return box.pids().find((pid) => /^NSpid:\s+\d+\s+1$/m.test(statusOf(pid))) ?? 0
}

const NAMESPACE = ['-pf', '--mount-proc', '--kill-child', process.execPath]

for (const [how, addonName, command] of [
  ['the master itself', undefined, (module: string) => [startFile, 'start', module]],
  ['the file itself, which becomes the master', undefined, (module: string) => [module, 'start']],
  ['the file itself, a thin parent without the addon', 'none', (module: string) => [module, 'start']],
] as const) {
  where(
    isRoot,
    'root',
    caseTest(how === 'the master itself'),
  )(`SIGTERM to the first process of a container loses nothing: ${how}`, async () => {
    await inSandbox(async (box) => {
      box.env.MILLRACE_ADDON = addonName ?? box.env.MILLRACE_ADDON
      const slow = `import { existsSync } from 'node:fs'
        Worker.stopTimeout = 0.1
        worker.onMessage = async (connection, line) => {
          while (!existsSync('${box.directory}/go')) await new Promise((resolve) => setTimeout(resolve, 10))
          connection.send(line)
        }`
      const server = box.spawn('unshare', [...NAMESPACE, ...command(box.file('app.js', echo(1, slow)))])
      await server.says(/Press Ctrl\+C/)
      const client = await Client.connect(portOf(await box.status()))
      client.send('hello')
      await until(async () => (await box.status()).totals.messagesIn === 1)
      process.kill(firstProcess(box), 'SIGTERM')
      const { uptimeMs } = await until(async () => {
        const status = await box.status()
        return status.state === 'stopping' && status
      })
      await until(async () => (await box.status()).uptimeMs > uptimeMs + 700) // stopTimeout and the kill after it are over
      box.file('go', '')
      assert.is(await client.line(), 'hello')
      client.close()
      assert.is((await server.ended).code, 0)
    })
  })
}

asRoot('the first process of a container ends with the code that says why it could not start', async () => {
  await inSandbox(async (box) => {
    const start = box.spawn('unshare', [
      ...NAMESPACE,
      startFile,
      'start',
      box.file('app.js', 'await import("./none.js")'),
    ])
    const { code, stderr } = await start.ended
    assert.is(code, 6)
    assert.match(stderr, /none\.js/)
  })
})

if (addon().sys !== null) {
  asRoot('as process 1 the master takes the orphans of other programs', async () => {
    await inSandbox(async (box) => {
      const orphaning = `import { spawn } from 'node:child_process'
        worker.onWorkerStart = () => { spawn('sh', ['-c', '(sleep 1; exit 3) & exit 0']) }`
      const module = box.file('app.js', echo(1, orphaning))
      const server = box.spawn('unshare', ['-pf', '--mount-proc', process.execPath, startFile, 'start', module])
      await server.says(/\[OK\]/)
      const inside = firstProcess(box)
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
