// Releases that each have a node_modules of their own (`npm ci` in every folder), and a link to the current one.

import { existsSync, readFileSync, renameSync, rmSync, symlinkSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { messageOf } from '../../src/errors.ts'
import { version } from '../../src/version.ts'
import { caseTest, longTest } from '../support/length.ts'
import { packageAt } from '../support/release.ts'
import { ask, echo, inSandbox, portOf, type Sandbox, succeeded, workersOf } from '../support/server.ts'
import { until } from '../support/until.ts'

const OTHER = '9.9.9'

/** Unpacks a release with its copy of the package, and makes it the current one. */
function deploy(box: Sandbox, name: string, copy = version, more = ''): void {
  const folder = join(box.directory, 'releases', name)
  packageAt(join(folder, 'node_modules/millrace'), copy)
  box.file(`releases/${name}/package.json`, '{"type":"module"}') // otherwise the repository's own name is nearer
  box.file(`releases/${name}/app.js`, program(name, more))
  const next = join(box.directory, 'next')
  symlinkSync(folder, next)
  renameSync(next, current(box))
}

function program(name: string, more = ''): string {
  return echo(
    2,
    `
    const { Shared } = await import('millrace')
    const { writeFileSync } = await import('node:fs')
    worker.onMessage = async (connection, line) => {
      const count = line === 'count' ? await Shared.map('counts').increment('lines') : 0
      connection.send('release ${name} ' + count)
    }
    Worker.onMasterReload = () => writeFileSync(import.meta.dirname + '/reloaded', '')
    ${more}`,
  )
}

const current = (box: Sandbox) => join(box.directory, 'current')

const moduleOf = (box: Sandbox) => join(current(box), 'app.js')

/** A server of release 1. */
async function startFirst(box: Sandbox): Promise<{ module: string; port: number }> {
  const module = moduleOf(box)
  deploy(box, '1')
  succeeded(await box.command('start', '-d', module))
  return { module, port: portOf(await box.status()) }
}

/** Kills a process, and waits until another one of the code that is current has its place. */
async function crash(box: Sandbox): Promise<void> {
  const [first] = workersOf(await box.status())
  process.kill(first?.pid ?? 0, 'SIGKILL')
  await until(async () => {
    const [next] = workersOf(await box.status())
    return next?.state === 'ready' && next.pid !== first?.pid
  }, 20_000)
}

test('a release with its own copy of the same version is what a reload brings, and the one before may be removed', async () => {
  await inSandbox(async (box) => {
    const { module, port } = await startFirst(box)
    assert.is(await ask(port, 'x'), 'release 1 0')
    deploy(box, '2')
    succeeded(await box.command('reload', module))
    assert.is(await ask(port, 'x'), 'release 2 0')
    assert.is(readFileSync(join(current(box), 'reloaded'), 'utf8'), '')

    rmSync(join(box.directory, 'releases/1'), { recursive: true })
    await crash(box)
    await box.operate({ command: 'scale', name: 'echo', scale: { to: 3 } })
    assert.match(await ask(port, 'count'), /^release 2 [12]$/)
    assert.is((await box.command('diff', module)).code, 1) // the count is not the declared one
    deploy(box, '3')
    await crash(box)
    succeeded(await box.command('reload', module))
    assert.is(await ask(port, 'count'), 'release 3 2')
    await box.stop()
  })
})

test('a release with another version of the package is refused with the command that brings it', async () => {
  await inSandbox(async (box) => {
    const { module, port } = await startFirst(box)
    deploy(box, '2', OTHER)
    for (const command of ['reload', 'diff']) {
      const { code, stdout, stderr } = await box.command(command, '--json', module)
      const { error } = JSON.parse(stdout)
      assert.equal([code, error.code], [6, 'ERR_OTHER_VERSION'])
      assert.match(stderr, new RegExp(`is version ${OTHER.replaceAll('.', '\\.')}, and this server runs ${version}`))
      assert.match(stderr, /next: 'millrace upgrade'/)
    }
    assert.is(await ask(port, 'x'), 'release 1 0')
    process.kill(workersOf(await box.status())[0]?.pid ?? 0, 'SIGKILL')
    const failing = await until(async () => workersOf(await box.status()).find(({ failures }) => failures > 1))
    assert.match(failing.lastExit, /upgrade/)
    succeeded(await box.command('upgrade', module))
    assert.is((await box.status()).version, OTHER)
    assert.is(await ask(port, 'x'), 'release 2 0')
    await box.stop()
  })
})

longTest(
  'another version in the place of the copy that the server runs from is refused, too, until upgrade brings it',
  async () => {
    await inSandbox(async (box) => {
      const copy = join(box.directory, 'node_modules/millrace')
      packageAt(copy, version)
      box.file('package.json', '{"type":"module"}')
      const module = box.file('app.js', program('x'))
      const own = (...args: string[]) => box.spawn(process.execPath, [join(copy, 'dist/start.js'), ...args]).ended
      succeeded(await own('start', '-d', module))
      const before = await box.status()
      rmSync(copy, { recursive: true })
      packageAt(copy, OTHER)
      for (const command of ['reload', 'diff']) {
        const { code, stdout } = await own(command, '--json', module)
        assert.equal([code, JSON.parse(stdout).error.code], [6, 'ERR_OTHER_VERSION'])
      }
      process.kill(workersOf(await box.status())[0]?.pid ?? 0, 'SIGKILL')
      const failing = await until(async () => workersOf(await box.status()).find(({ failures }) => failures > 1))
      assert.match(failing.lastExit, /upgrade/)
      // The keeper, which the master starts at the first use of a shared map, is one of its processes as well.
      const closed = await ask(portOf(before), 'count').catch(messageOf)
      assert.match(closed, 'closed after')
      assert.match(box.log(), /ERR_OTHER_VERSION|use 'upgrade'/)
      assert.is((await box.status()).pid, before.pid)
      succeeded(await own('upgrade', module))
      assert.is((await box.status()).version, OTHER)
      assert.is(await ask(portOf(await box.status()), 'count'), 'release x 1')
      await box.stop()
    })
  },
)

/** Callbacks that write which processes have ended, and that the server has, into the folder of their release. */
const CALLBACKS = `
  const { appendFileSync } = await import('node:fs')
  Worker.onWorkerExit = (worker, status, pid) => appendFileSync(import.meta.dirname + '/ended', pid + '\\n')
  Worker.onMasterStop = () => appendFileSync(import.meta.dirname + '/ended', 'all')`

for (const how of ['restart', 'upgrade', 'stop'] as const)
  caseTest(how === 'restart')(
    `at a release with another version of the package, the callbacks of the one before are called: ${how}`,
    async () => {
      await inSandbox(async (box) => {
        const module = moduleOf(box)
        deploy(box, '1', version, CALLBACKS)
        succeeded(await box.command('start', '-d', module))
        const pids = workersOf(await box.status()).map(({ pid }) => String(pid))
        deploy(box, '2', OTHER, CALLBACKS)
        succeeded(await box.command(how, ...(how === 'restart' ? ['-d'] : []), module))
        const last = how === 'upgrade' ? [] : ['all']
        const ended = join(box.directory, 'releases/1/ended')
        const all = await until(() => {
          const lines = existsSync(ended) ? readFileSync(ended, 'utf8').split('\n').filter(Boolean) : []
          return lines.length === pids.length + last.length && lines
        }, 20_000)
        assert.equal(all.toSorted(), [...pids, ...last].toSorted())
        assert.not.match(box.log(), /: use 'upgrade'/)
        if (how !== 'stop') await box.stop()
      })
    },
  )

longTest('callbacks whose release is gone, too, are said not to be called', async () => {
  await inSandbox(async (box) => {
    const module = moduleOf(box)
    deploy(box, '1', version, CALLBACKS)
    succeeded(await box.command('start', '-d', module))
    deploy(box, '2', OTHER, CALLBACKS)
    rmSync(join(box.directory, 'releases/1/app.js'))
    succeeded(await box.command('stop', module))
    assert.match(
      box.log(),
      /onMasterStop: not called: .* is version 9\.9\.9, and this server runs \S+, whose code is gone\n/,
    )
  })
})

longTest('an app that imports the package by its path keeps that copy, whatever its node_modules has', async () => {
  await inSandbox(async (box) => {
    deploy(box, '1')
    const copy = join(box.directory, 'copy')
    packageAt(copy, version)
    const module = box.file(
      'releases/1/app.js',
      program('1').replaceAll(`'millrace'`, `'${join(copy, 'dist/index.js')}'`),
    )
    succeeded(await box.spawn(process.execPath, [module, 'start', '-d']).ended)
    succeeded(await box.spawn(process.execPath, [module, 'reload']).ended)
    assert.is(await ask(portOf(await box.status()), 'x'), 'release 1 0')
    await box.stop()
  })
})

test.run()
