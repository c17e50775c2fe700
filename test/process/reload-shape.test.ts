// What a reload does when the shape of a server changes: counts, groups, names and addresses; forward, given up half-way,
// and back.

import { chmodSync, chownSync, existsSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { atLength, caseTest, longTest } from '../support/length.ts'
import { reload, version, versionAt } from '../support/reload.ts'
import {
  ask,
  Client,
  echo,
  freePort,
  inSandbox,
  portOf,
  type Sandbox,
  succeeded,
  workersOf,
} from '../support/server.ts'
import { until } from '../support/until.ts'
import { isRoot, where } from '../support/where.ts'

test('counts, groups, names and addresses are followed', async () => {
  await inSandbox(async (box) => {
    const program = (...groups: string[]) => `
      import { Worker } from 'millrace'
      const serve = (name, count, listen = 'text://127.0.0.1:0') => {
        const worker = new Worker(listen, { name, count })
        worker.onMessage = (connection, line) => connection.send(name + ' ' + worker.id)
      }
      ${groups.map((group) => `serve(${group})`).join('\n')}
      Worker.runAll()`
    const socket = join(box.directory, 's.sock')
    const shapeOf = async () =>
      (await box.status()).groups.map(({ name, workers }) => `${name} ${workers.filter(({ pid }) => pid).length}`)
    const before = await box.start(box.file('app.js', program(`'a', 3`, `'b', 1`)))
    box.file('app.js', program(`'c', 2`, `'a', 1`, `'unix', 1, 'unix://${socket}'`))
    const { slots } = await reload(box)
    assert.equal(await shapeOf(), ['c 2', 'a 1', 'unix 1'])
    assert.equal(
      slots.filter(({ result }) => result === 'removed').map(({ worker }) => worker),
      ['a:1', 'a:2'],
    )
    const ports = (await box.status()).groups.map(({ port }) => port)
    assert.is(ports[1], before.groups[0]?.port)
    assert.is(ports[0], before.groups[1]?.port) // b became c: the address is what it was
    assert.match(await ask(ports[0] ?? 0, 'x'), /^c /)
    box.file('app.js', program(`'a', 2`))
    await reload(box)
    assert.equal(await shapeOf(), ['a 2'])
    assert.not(existsSync(join(box.directory, 's.sock')))
    assert.is(await Client.connect(ports[0] ?? 0).catch(({ code }) => code), 'ECONNREFUSED')
    await box.stop()
  })
})

test('an address that changes is bound first; one that cannot be had leaves everything as it was', async () => {
  await inSandbox(async (box) => {
    const other = await box.start(box.file('app.js', echo(1)))
    const taken = portOf(other)
    const env = { ...box.env, MILLRACE_RUN_DIR: join(box.directory, 'second') }
    const second = (listen: string) => box.file('second.js', echo(1, '', listen))
    const run = (...args: string[]) => box.spawn(process.execPath, [join('dist/start.js'), ...args], { env }).ended
    succeeded(await run('start', '-d', second('text://127.0.0.1:0')))
    const status = async () => JSON.parse((await run('status', '--json')).stdout)
    const before = await status()
    second(`text://127.0.0.1:${taken}`)
    const outcome = await run('reload')
    assert.is(outcome.code, 5)
    assert.match(outcome.stderr, /EADDRINUSE/)
    assert.is((await status()).groups[0].workers[0].pid, before.groups[0].workers[0].pid)
    await box.stop()
    succeeded(await run('reload')) // it is free now
    assert.is(portOf(await status()), taken)
    assert.match(await ask(taken, 'x'), /^x /)
    assert.is(await Client.connect(before.groups[0].port).catch(({ code }) => code), 'ECONNREFUSED')
    succeeded(await run('stop'))
  })
})

/** Boots slowly, and a second group keeps the master busy meanwhile; says which process became active. */
const grown = (number: number, count: number, start = '') => `
  import { setTimeout as sleep } from 'node:timers/promises'
  ${version(
    number,
    count,
    `
    worker.onWorkerStart = async () => { await sleep(50); ${start} }
    worker.onWorkerActive = () => Worker.log('active ${number} ' + worker.id + ' ' + process.pid)
    new Worker({ name: 'other' })`,
  )}`

function active(box: Sandbox, number: number): string[] {
  return box.log().match(new RegExp(`active ${number} .*`, 'g')) ?? []
}

test('a count that grows starts one process for each new slot, and each is active once', async () => {
  await inSandbox(async (box) => {
    await box.start(box.file('app.js', grown(1, 1)))
    for (const number of [2, 3].slice(0, atLength(1, 2))) {
      box.file('app.js', grown(number, 4))
      await reload(box)
      const workers = workersOf(await box.status()).slice(0, 4)
      assert.equal(
        workers.map(({ id, state, incarnation }) => ({ id, state, incarnation })),
        [0, 1, 2, 3].map((id) => ({ id, state: 'ready', incarnation: id === 0 ? number : number - 1 })),
      )
      await until(() => active(box, number).length === 4)
      assert.equal(
        active(box, number).sort(),
        workers.map(({ id, pid }) => `active ${number} ${id} ${pid}`),
      )
      assert.is(box.pids().length, 6) // master, four, and the other group's
    }
    await box.stop()
  })
})

longTest('a growth that fails leaves what had come up, and the next reload goes on from there', async () => {
  await inSandbox(async (box) => {
    await box.start(box.file('app.js', grown(1, 1)))
    box.file('app.js', grown(2, 4, `if (worker.id === 2) throw new Error('planted')`))
    const { code, stderr } = await box.command('reload')
    assert.is(code, 6)
    assert.match(stderr, /echo:2 did not become ready: Error: planted/)
    const idsOf = async () => workersOf(await box.status()).map(({ id, state }) => `${id} ${state}`)
    assert.equal(await idsOf(), ['0 ready', '1 ready', '0 ready'])
    assert.is(box.pids().length, 4)
    box.file('app.js', grown(3, 3))
    await reload(box)
    assert.equal(await idsOf(), ['0 ready', '1 ready', '2 ready', '0 ready'])
    await until(() => active(box, 3).length === 3)
    box.file('app.js', grown(4, 1))
    await reload(box)
    assert.equal(await idsOf(), ['0 ready', '0 ready'])
    await box.stop()
  })
})

longTest('a process that is removed retires first, and does not wait for anything', async () => {
  await inSandbox(async (box) => {
    const more = `worker.onWorkerRetire = () => Worker.log('retire ' + worker.id)`
    await box.start(box.file('app.js', echo(2, more)))
    box.file('app.js', echo(1, more))
    const { slots } = await reload(box)
    const removed = slots.find(({ result }) => result === 'removed')
    assert.is(removed?.worker, 'echo:1')
    assert.ok((removed?.drainMs ?? 9999) < 4000, `drained ${removed?.drainMs} ms`) // 5 s are for one that does not retire
    assert.match(box.log(), /retire 1/)
    await box.stop()
  })
})

longTest('an address change that fails half-way can be undone, and is tried again', async () => {
  await inSandbox(async (box) => {
    const [from, to] = [await freePort(), await freePort()]
    const at = (number: number, port: number, more = '') =>
      version(number, 2, more).replace('127.0.0.1:0', `127.0.0.1:${port}`)
    const fail = `worker.onWorkerStart = () => { if (worker.id === 1) throw new Error('planted') }`
    await box.start(box.file('app.js', at(1, from)))
    for (const [number, port] of [
      [2, from],
      [3, to],
    ] as const) {
      box.file('app.js', at(9, to, fail))
      assert.is((await box.command('reload')).code, 6)
      assert.is(await versionAt(from), number === 2 ? '1' : '2') // slot 1 is still there
      box.file('app.js', at(number, port))
      await reload(box)
      assert.is(await versionAt(port), String(number))
      const other = port === from ? to : from
      assert.is(await Client.connect(other).catch(({ code }) => code), 'ECONNREFUSED')
    }
    await box.stop()
  })
})

longTest('a process that a half-done address change has left takes its socket along when it dies', async () => {
  await inSandbox(async (box) => {
    const to = await freePort()
    const before = await box.start(box.file('app.js', version(1, 2)))
    const fail = `worker.onWorkerStart = () => { if (worker.id === 1 && worker.incarnation === 2) throw new Error('planted') }`
    box.file('app.js', version(2, 2, fail).replace('127.0.0.1:0', `127.0.0.1:${to}`))
    assert.is((await box.command('reload')).code, 6)
    process.kill(workersOf(before)[1]?.pid ?? 0, 'SIGKILL')
    await until(async () => workersOf(await box.status()).every(({ state }) => state === 'ready'))
    assert.is(await versionAt(to), '2')
    assert.is(await Client.connect(portOf(before)).catch(({ code }) => code), 'ECONNREFUSED')
    await box.stop()
  })
})

for (const name of ['echo', 'none']) {
  caseTest(name === 'echo')(`the scheme may change on one port, of a worker named ${name}`, async () => {
    await inSandbox(async (box) => {
      const port = await freePort()
      const program = (scheme: string) =>
        version(1, 1, `worker.name = '${name}'`).replace('text://127.0.0.1:0', `${scheme}://127.0.0.1:${port}`)
      await box.start(box.file('app.js', program('frame')))
      box.file('app.js', program('text'))
      await reload(box)
      assert.is(await versionAt(port), '1')
      assert.is((await box.status()).groups.length, 1)
      await box.stop()
    })
  })
}

test('a host that changes on one port is refused with what to do; two Workers at one address are, too', async () => {
  await inSandbox(async (box) => {
    const port = await freePort()
    const at = (...hosts: string[]) => `
      import { Worker } from 'millrace'
      ${hosts.map((host) => `new Worker('text://${host}:${port}', { name: 'echo' }).onMessage = (c, line) => c.send(line)`).join('\n')}
      Worker.runAll()`
    const before = await box.start(box.file('app.js', at('127.0.0.1')))
    for (const [hosts, says, next] of [
      [
        ['0.0.0.0'],
        new RegExp(`0\\.0\\.0\\.0:${port}: EADDRINUSE.*this server itself is at 127\\.0\\.0\\.1:${port}; 'restart'`),
        /\nnext: millrace restart\b/,
      ],
      [
        ['127.0.0.1', '127.0.0.1'],
        /EADDRINUSE.*another Worker of this program/,
        /\nnext: give one of them another address\n/,
      ],
    ] as const) {
      box.file('app.js', at(...hosts))
      const { code, stderr } = await box.command('reload')
      assert.match(stderr, says)
      assert.match(stderr, next)
      assert.is(code, 5)
      assert.is(workersOf(await box.status())[0]?.pid, workersOf(before)[0]?.pid)
    }
    box.file('app.js', at('127.0.0.1', '127.0.0.1'))
    for (const command of ['check', 'restart']) {
      const { code, stdout, stderr } = await box.command(command, join(box.directory, 'app.js'))
      assert.equal([code, stdout], [6, ''])
      assert.match(stderr, new RegExp(`workers 'echo' and 'echo\\S*' are both at text://127\\.0\\.0\\.1:${port}\n`))
      assert.is(workersOf(await box.status())[0]?.pid, workersOf(before)[0]?.pid)
    }
    box.file('app.js', at('0.0.0.0'))
    succeeded(await box.command('restart', '-d', join(box.directory, 'app.js')))
    assert.is(await ask(port, 'x'), 'x')
    await box.stop()
  })
})

test('an address that is given up refuses at once, while its last handler still works', async () => {
  await inSandbox(async (box) => {
    const more = (listen: string) => `
      import { existsSync } from 'node:fs'
      ${version(1).replace('text://127.0.0.1:0', listen)}
      worker.onMessage = async (connection, line) => {
        while (!existsSync(${JSON.stringify(join(box.directory, 'go'))})) await new Promise((r) => setTimeout(r, 5))
        connection.send(line)
      }`
    const old = portOf(await box.start(box.file('app.js', more('text://127.0.0.1:0'))))
    const client = await Client.connect(old)
    client.send('slow')
    await until(async () => (await box.status()).totals.messagesIn === 1)
    box.file('app.js', more('text://127.0.0.2:0'))
    const reloading = box.begin('reload')
    await until(() =>
      Client.connect(old).then(
        (probe) => probe.close(),
        ({ code }) => code === 'ECONNREFUSED',
      ),
    )
    assert.is(reloading.stdout, '') // it goes on
    box.file('go', '')
    assert.is(await client.line(), 'slow')
    succeeded(await reloading.ended)
    await box.stop()
  })
})

where(
  isRoot,
  'root',
  longTest,
)('a Unix socket follows the user who serves it; what a person changed by hand stays', async () => {
  await inSandbox(async (box) => {
    const path = join(box.directory, 's.sock')
    const program = (user: string) => echo(1, `worker.user = '${user}'`, `unix://${path}`)
    const ownerOf = () => `${statSync(path).uid} ${statSync(path).gid}`
    chmodSync(box.directory, 0o755)
    await box.start(box.file('app.js', program('')))
    assert.is(ownerOf(), '0 0')
    box.file('app.js', program('nobody'))
    await reload(box)
    assert.is(ownerOf(), '65534 65534')
    chownSync(path, 65_534, 1)
    await reload(box)
    assert.is(ownerOf(), '65534 1')
    box.file('app.js', program(''))
    await reload(box)
    assert.is(ownerOf(), '0 0')
    await box.stop()
  })
})

test.run()
