// What a peer or the system may do to a worker: packets over the limit, no descriptors left, an end by its own will.

import { readFileSync } from 'node:fs'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { addon } from '../../src/addon.ts'
import { caseTest, longTest } from '../support/length.ts'
import { ask, Client, echo, inSandbox, portOf, startFile, succeeded, workersOf } from '../support/server.ts'
import { until } from '../support/until.ts'

test('a packet over the limit closes its connection, and status counts it', async () => {
  await inSandbox(async (box) => {
    const status = await box.start(box.file('app.js', echo(1, 'worker.maxPackageSize = 100')))
    const good = await Client.connect(portOf(status))
    const bad = await Client.connect(portOf(status))
    bad.send('x'.repeat(200))
    await until(() => bad.isClosed)
    assert.match(await good.ask('still here'), /^still here /)
    assert.is((await box.status()).totals.protocolErrors, 1)
    good.close()
    await box.stop()
  })
})

test('a worker without descriptors for new connections rests: it turns nobody away, is idle, says it once, and serves again', async () => {
  await inSandbox(async (box) => {
    const module = box.file('app.js', echo())
    const limited = `ulimit -n 60 && exec "$0" "$1" start -d "$2"`
    succeeded(await box.spawn('sh', ['-c', limited, process.execPath, startFile, module]).ended)
    const before = await box.status()
    const [{ pid = 0 } = {}] = workersOf(before)
    const flood = await Promise.all(Array.from({ length: 150 }, () => Client.connect(portOf(before))))
    await until(() => box.log().includes('descriptors run out'))
    const [usedAt, startedAt] = [cpuMs(pid), performance.now()]
    // Longer than it would take to use up the reserve, one connection after each rest.
    await until(() => performance.now() - startedAt > 4000)
    const share = (cpuMs(pid) - usedAt) / (performance.now() - startedAt)
    assert.ok(share < 0.1, `${share} of a core`)
    assert.is(flood.filter((client) => client.isClosed).length, 0) // libuv would turn away what it cannot hold
    assert.is(box.log().match(/descriptors run out/g)?.length, 1)
    for (const client of flood) client.close()
    await until(async () => (await box.status()).totals.connections === 0)
    assert.match(await ask(portOf(before), 'again'), /^again /)
    assert.is(workersOf(await box.status())[0]?.pid, pid)
    await box.stop()
  })
})

for (const engine of addon().newEngine === null ? ['node'] : ['node', 'native'])
  caseTest(engine === 'node')(
    `files of the user's that take all descriptors turn nobody away, on the ${engine} engine`,
    async () => {
      await inSandbox(async (box) => {
        const hungry = `
        import { closeSync, openSync } from 'node:fs'
        const held = []
        const eat = () => { for (;;) held.push(openSync('/dev/null')) }
        worker.onMessage = (connection, line) => {
          if (line === 'free') for (const fd of held.splice(0)) closeSync(fd)
          try {
            if (line === 'eat') eat()
          } catch (error) {
            return connection.send(error.code)
          }
          return connection.send(line)
        }`
        const module = box.file('app.js', echo(1, hungry))
        const limited = `ulimit -n 200 && exec "$0" "$1" start -d --engine ${engine} "$2"`
        succeeded(await box.spawn('sh', ['-c', limited, process.execPath, startFile, module]).ended)
        const port = portOf(await box.status())
        const hog = await Client.connect(port)
        for (let round = 0; round < 2; round++) {
          assert.is(await hog.ask('eat'), 'EMFILE')
          const eatenAt = performance.now()
          await until(() => performance.now() - eatenAt > 50) // the node engine notices it within 10 ms
          const clients = await Promise.all(Array.from({ length: 10 }, () => Client.connect(port)))
          for (const client of clients) client.send('hello')
          await until(() => box.log().includes('descriptors run out'))
          const since = performance.now()
          await until(() => performance.now() - since > 600) // it looks whether there are free ones
          assert.is(clients.filter(({ isClosed }) => isClosed).length, 0)
          assert.is(await hog.ask('free'), 'free')
          for (const client of clients) assert.is(await client.line(), 'hello')
          for (const client of clients) client.close()
        }
        assert.is(box.log().match(/descriptors run out/g)?.length, 1)
        await box.stop()
      })
    },
  )

/** User and system time of a process; a tick is 10 ms. */
function cpuMs(pid: number): number {
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  return (Number(fields[11]) + Number(fields[12])) * 10
}

longTest('a worker that serves for a while and ends by its own will is replaced at once, again and again', async () => {
  await inSandbox(async (box) => {
    const ending = `
      import { Timer } from 'millrace'
      worker.onWorkerStart = () => Timer.delay(1.1, () => Worker.stopAll())`
    await box.start(box.file('app.js', echo(1, ending)))
    await until(async () => (workersOf(await box.status())[0]?.incarnation ?? 0) > 3, 20_000)
    assert.match(box.log(), /leaves by itself, starting another\n/)
    assert.not.match(box.log(), /starting another in/)
    await box.stop()
  })
})

test.run()
