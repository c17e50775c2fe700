// `reusePort`: each process has a socket of its own on the one port. What the kernel would leave to a socket that nobody
// accepts on is taken by a sibling, and a process that goes leaves nobody in its queue.

import { spawnSync } from 'node:child_process'
import { rmSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { addon } from '../../src/addon.ts'
import { caseTest, longTest } from '../support/length.ts'
import { reload } from '../support/reload.ts'
import {
  ask,
  Client,
  echo,
  freePort,
  inSandbox,
  portOf,
  type Sandbox,
  startFile,
  workersOf,
} from '../support/server.ts'
import { until } from '../support/until.ts'

const shared = (count: number, more = '', listen = 'text://127.0.0.1:0') =>
  echo(count, `worker.reusePort = true\n${more}`, listen)

function listeners(port: number): number {
  const { stdout } = spawnSync('ss', ['-ltnH', `sport = :${port}`], { encoding: 'utf8' })
  return stdout.trim().split('\n').filter(Boolean).length
}

/** Connections of their own, a few at a time, until `isOver`: how many were answered. Rejects when one is not. */
async function knock(port: number, isOver: () => boolean): Promise<number> {
  let answered = 0
  const lane = async () => {
    while (!isOver()) {
      assert.match(await ask(port, 'x'), /^x \d+/)
      answered++
      await new Promise((resolve) => setTimeout(resolve, 2)) // else it takes the core that a reload needs
    }
  }
  await Promise.all(Array.from({ length: 8 }, lane))
  return answered
}

async function allReady(box: Sandbox, count: number): Promise<void> {
  await until(async () => workersOf(await box.status()).filter(({ state }) => state === 'ready').length === count)
}

/**
 * Connects until each process gets its part. Right after a change a sibling may still stand in for who was ready last:
 * until it has heard that it need not.
 */
async function allTakePart(box: Sandbox, port: number): Promise<void> {
  await until(async () => {
    const clients = await Promise.all(Array.from({ length: 200 }, () => Client.connect(port)))
    await Promise.all(clients.map((client) => client.ask('x')))
    const counts = workersOf(await box.status()).map(({ counters }) => counters.connections)
    for (const client of clients) client.close()
    await until(async () => (await box.status()).totals.connections === 0)
    return Math.min(...counts) > 25
  }, 20_000)
}

/** Fifty connections, each of which must be answered. */
async function allAnswered(port: number): Promise<void> {
  let asked = 0
  await knock(port, () => asked++ >= 50)
}

/** The process of slot 1 does not come up. */
const SECOND_IS_BROKEN = `worker.onWorkerStart = () => { if (worker.id === 1) throw new Error('planted') }`

if (addon().sys === null) {
  test('without the addon the processes share one socket, which is said', async () => {
    await inSandbox(async (box) => {
      const port = portOf(await box.start(box.file('app.js', shared(2))))
      assert.match(box.log(), /echo: reusePort takes the addon \(.*\); its processes share one socket/)
      assert.match(await ask(port, 'x'), /^x /)
      await box.stop()
    })
  })
} else {
  test('each process has a socket on the port, and connections are spread evenly', async () => {
    await inSandbox(async (box) => {
      const port = portOf(await box.start(box.file('app.js', shared(3))))
      assert.is(listeners(port), 3)
      await allTakePart(box, port)
      await box.stop()
    })
  })

  longTest('a process that dies and cannot come back leaves nobody waiting', async () => {
    await inSandbox(async (box) => {
      const broken = `if (worker.id === 1 && worker.incarnation > 1) throw new Error('planted')`
      const status = await box.start(box.file('app.js', shared(3, `worker.onWorkerStart = () => { ${broken} }`)))
      const port = portOf(status)
      process.kill(workersOf(status)[1]?.pid ?? 0, 'SIGKILL')
      await until(async () => (workersOf(await box.status())[1]?.failures ?? 0) >= 2)
      let answered = 0
      assert.ok((await knock(port, () => answered++ >= 300)) >= 300)
      box.file('app.js', shared(3))
      await reload(box)
      await allReady(box, 3)
      assert.is(listeners(port), 3)
      await box.stop()
    })
  })

  for (const [what, before, after] of [
    ['that replaces them', 2, 2],
    ['to more of them', 2, 4],
    ['to fewer of them', 3, 2],
    ['to one', 3, 1],
  ] as const) {
    caseTest(what === 'that replaces them' || what === 'to fewer of them')(
      `a reload ${what}: every connection is answered`,
      async () => {
        await inSandbox(async (box) => {
          const port = portOf(await box.start(box.file('app.js', shared(before))))
          box.file('app.js', shared(after))
          const reloading = box.begin('reload')
          const answered = await knock(port, () => reloading.process.exitCode !== null)
          const { code, stderr } = await reloading.ended
          assert.is(code, 0, stderr)
          assert.ok(answered > 0)
          assert.is(listeners(port), after)
          assert.is(workersOf(await box.status()).length, after)
          await allAnswered(port)
          await box.stop()
        })
      },
    )
  }

  test('a place that did not come up leaves nothing behind: the next one there gets its part', async () => {
    await inSandbox(async (box) => {
      const mark = box.file('broken', '')
      const broken = `if (worker.id === 2 && existsSync(${JSON.stringify(mark)})) throw new Error('planted')`
      const more = `worker.onWorkerStart = () => { ${broken} }`
      const text = `import { existsSync } from 'node:fs'\n${shared(2, more)}`
      const port = portOf(await box.start(box.file('app.js', text)))
      assert.is((await box.command('scale', 'echo', '+1')).code, 6)
      await until(() => listeners(port) === 2)
      rmSync(mark)
      assert.is((await box.command('scale', 'echo', '+1')).code, 0)
      const added = workersOf(await box.status())[2]?.pid
      await until(async () => (await ask(port, 'x')) === `x ${added}`)
      await box.stop()
    })
  })

  longTest('stop-first: a sibling takes what comes meanwhile', async () => {
    await inSandbox(async (box) => {
      const text = shared(2, `worker.reloadMode = 'stop-first'`)
      const port = portOf(await box.start(box.file('app.js', text)))
      const reloading = box.begin('reload')
      await knock(port, () => reloading.process.exitCode !== null)
      assert.is((await reloading.ended).code, 0)
      await box.stop()
    })
  })

  test('a process that has as many connections as it may leaves what comes to those that have room', async () => {
    await inSandbox(async (box) => {
      const port = portOf(await box.start(box.file('app.js', shared(3, 'worker.maxConnections = 10'))))
      const clients = await Promise.all(Array.from({ length: 30 }, () => Client.connect(port)))
      await Promise.all(clients.map((client) => client.ask('x'))) // the kernel has not given ten to each
      assert.equal(
        workersOf(await box.status()).map(({ counters }) => counters.connections),
        [10, 10, 10],
      )
      for (const client of clients) client.close()
      await allAnswered(port)
      await box.stop()
    })
  })

  longTest(
    'a process that does not answer leaves what comes to its siblings, and takes part again when it does',
    async () => {
      await inSandbox(async (box) => {
        const before = await box.start(box.file('app.js', shared(2)))
        const [, { pid } = { pid: 0 }] = workersOf(before)
        process.kill(pid, 'SIGSTOP')
        try {
          await allAnswered(portOf(before)) // also who came before anybody knew
        } finally {
          process.kill(pid, 'SIGCONT')
        }
        await allTakePart(box, portOf(before))
        await box.stop()
      })
    },
  )

  test('a reload to another port that is given up half-way: nobody who connects there waits in vain', async () => {
    await inSandbox(async (box) => {
      await box.start(box.file('app.js', shared(4)))
      const port = await freePort()
      box.file('app.js', shared(4, SECOND_IS_BROKEN, `text://127.0.0.1:${port}`))
      assert.is((await box.command('reload')).code, 6)
      await allAnswered(port)
      await box.stop()
    })
  })

  longTest('a canary answers everybody who connects to a port of its own', async () => {
    await inSandbox(async (box) => {
      await box.start(box.file('app.js', shared(4)))
      const port = await freePort()
      box.file('app.js', shared(4, '', `text://127.0.0.1:${port}`))
      const reloading = box.begin('reload', '--canary-ms', '60000')
      await until(async () => workersOf(await box.status()).some(({ state }) => state === 'canary'))
      await allAnswered(port)
      await box.stop()
      await reloading.ended
    })
  })

  longTest(
    'of a group that a reload adds, the first process answers everybody who has come before it was ready',
    async () => {
      await inSandbox(async (box) => {
        const module = box.file('app.js', echo(1))
        await box.start(module)
        const port = await freePort()
        const gates = ['first', 'rest'].map((name) => join(box.directory, name))
        const added = `
        import { existsSync } from 'node:fs'
        import { setTimeout as sleep } from 'node:timers/promises'
        const added = new Worker('text://127.0.0.1:${port}', { name: 'added', count: 4, reusePort: true })
        added.onMessage = (connection, line) => connection.send(line + ' ' + process.pid)
        added.onWorkerStart = async () => {
          while (!existsSync(${JSON.stringify(gates)}[Math.min(added.id, 1)])) await sleep(10)
        }`
        box.file('app.js', echo(1, added))
        const reloading = box.begin('reload')
        await until(async () => (await box.status()).groups.length === 2)
        const clients = await Promise.all(Array.from({ length: 40 }, () => Client.connect(port)))
        for (const client of clients) client.send('x')
        box.file('first', '')
        for (const client of clients) assert.match(await client.line(), /^x /)
        for (const client of clients) client.close()
        box.file('rest', '')
        assert.is((await reloading.ended).code, 0)
        await box.stop()
      })
    },
  )

  longTest(
    'a reload to fewer of them that is given up: all go on taking part, and who crashes comes back',
    async () => {
      await inSandbox(async (box) => {
        const port = portOf(await box.start(box.file('app.js', shared(4))))
        box.file('app.js', shared(2, SECOND_IS_BROKEN))
        assert.is((await box.command('reload')).code, 6)
        await allTakePart(box, port)
        const lost = workersOf(await box.status())[2]?.pid ?? 0
        process.kill(lost, 'SIGKILL')
        await until(async () => workersOf(await box.status())[2]?.pid !== lost)
        await allReady(box, 4)
        await allTakePart(box, port)
        await box.stop()
      })
    },
  )

  for (const command of [['restart', 'echo', '-g'], ['upgrade']]) {
    const title = `${command[0]} to fewer of them, the old ones first: who connects meanwhile waits, and is answered`
    caseTest(command[0] === 'restart')(title, async () => {
      await inSandbox(async (box) => {
        const gate = join(box.directory, 'gate')
        const code = (count: number) => `
        import { existsSync } from 'node:fs'
        import { setTimeout as sleep } from 'node:timers/promises'
        ${shared(
          count,
          `worker.reloadMode = 'stop-first'
             worker.onMessage = async (connection, line) => {
             while (line === 'hold' && !existsSync('${gate}')) await sleep(10)
             connection.send(line + ' ' + process.pid)
           }`,
        )}`
        const port = portOf(await box.start(box.file('app.js', code(4))))
        const last = await Client.connect(port)
        await last.ask('x')
        last.send('hold')
        box.file('app.js', code(2))
        const operating = box.begin(...command)
        await until(async () => workersOf(await box.status()).filter(({ pid }) => pid !== 0).length === 1)
        const clients = await Promise.all(Array.from({ length: 40 }, () => Client.connect(port)))
        for (const client of clients) client.send('x')
        box.file('gate', '')
        for (const client of clients) assert.match(await client.line(), /^x /)
        for (const client of clients) client.close()
        assert.match(await last.line(), /^hold /)
        assert.is((await operating.ended).code, 0)
        await box.stop()
      })
    })
  }

  longTest('an upgrade to fewer of them, the old ones first, that is given up: all take part again', async () => {
    await inSandbox(async (box) => {
      const mode = `worker.reloadMode = 'stop-first'`
      const port = portOf(await box.start(box.file('app.js', shared(4, mode))))
      box.file('app.js', shared(2, `${mode}; ${SECOND_IS_BROKEN}`))
      assert.is((await box.command('upgrade')).code, 6)
      box.file('app.js', shared(4, mode)) // what starts again has the code on disk
      await allReady(box, 4)
      await allTakePart(box, port)
      await box.stop()
    })
  })

  test('a second server on the port is refused', async () => {
    await inSandbox(async (box) => {
      const port = await freePort()
      const listen = `text://127.0.0.1:${port}`
      await box.start(box.file('app.js', shared(2, '', listen)))
      const env = { ...box.env, MILLRACE_RUN_DIR: join(box.directory, 'second') }
      const second = box.file('second.js', shared(2, '', listen))
      const { code, stderr } = await box.spawn(process.execPath, [startFile, 'start', '-d', second], { env }).ended
      assert.is(code, 5)
      assert.match(stderr, /EADDRINUSE/)
      await box.stop()
    })
  })

  longTest('a Unix socket has no such thing', async () => {
    await inSandbox(async (box) => {
      const listen = `unix://${join(box.directory, 's.sock')}`
      const { code, stderr } = await box.command('start', '-d', box.file('app.js', shared(1, '', listen)))
      assert.is(code, 6)
      assert.match(stderr, /reusePort of worker .* is for TCP/)
    })
  })
}

test.run()
