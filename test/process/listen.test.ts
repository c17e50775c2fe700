// `listen()` in onWorkerStart: the processes of a group share one more port, over crashes and reloads.

import { once } from 'node:events'
import { unlinkSync } from 'node:fs'
import net from 'node:net'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { addon } from '../../src/addon.ts'
import { drive, startDriven } from '../support/driven.ts'
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
  succeeded,
  workersOf,
} from '../support/server.ts'
import { until } from '../support/until.ts'

/** `count` processes that each make a Worker of their own at `address`. */
function program(address: string, count = 4, more = '', version = 1): string {
  return `
    import { Worker } from 'millrace'
    const outer = new Worker({ name: 'outer', count: ${count} })
    outer.onWorkerStart = () => {
      const inner = new Worker('${address}')
      inner.onMessage = (connection, line) => connection.send(line + ' ${version} ' + inner.id + ' ' + process.pid)
      inner.listen()
      ${more}
    }
    Worker.runAll()`
}

async function pidsAt(port: number, times = 40): Promise<Set<number>> {
  const pids = new Set<number>()
  for (let n = 0; n < times; n++) pids.add(Number((await ask(port, 'x')).split(' ')[3]))
  return pids
}

async function innerPort(box: Sandbox): Promise<number> {
  const [{ inner = [] } = {}] = (await box.status()).groups
  return Number(/\d+$/.exec(inner[0] ?? '')?.[0] ?? 0)
}

test('four workers that each listen share the port, and count and list its connections', async () => {
  await inSandbox(async (box) => {
    const port = await freePort()
    await box.start(box.file('app.js', program(`text://127.0.0.1:${port}`)))
    assert.is(await innerPort(box), port)
    const clients = await Promise.all(Array.from({ length: 40 }, () => Client.connect(port)))
    const answers = await Promise.all(clients.map((client) => client.ask('x')))
    const pids = workersOf(await box.status()).map(({ pid }) => pid)
    for (const answer of answers) assert.ok(pids.includes(Number(answer.split(' ')[3])), answer)
    const { totals } = await box.status()
    assert.equal([totals.messagesIn, totals.connections], [40, 40])
    const { connections } = JSON.parse(succeeded(await box.command('connections', '--json')).stdout)
    assert.is(connections.length, 40)
    for (const client of clients) client.close()
    await box.stop()
  })
})

test('port 0 is one port for all, and stays over a reload; nobody is refused meanwhile', async () => {
  await inSandbox(async (box) => {
    await box.start(box.file('app.js', program('text://127.0.0.1:0', 2)))
    const port = await innerPort(box)
    const before = await pidsAt(port)
    box.file('app.js', program('text://127.0.0.1:0', 2, '', 2))
    const reloading = box.begin('reload', '--json')
    let asked = 0
    while (reloading.process.exitCode === null) {
      assert.match(await ask(port, 'x'), /^x [12] /)
      asked++
    }
    succeeded(await reloading.ended)
    assert.ok(asked > 0)
    assert.is(await innerPort(box), port)
    for (const pid of await pidsAt(port)) assert.not(before.has(pid))
    await box.stop()
  })
})

test('a crash of the only process leaves the port: who comes meanwhile is served by the next one', async () => {
  await inSandbox(async (box) => {
    await box.start(box.file('app.js', program('text://127.0.0.1:0', 1)))
    const port = await innerPort(box)
    const [pid = 0] = await pidsAt(port, 1)
    process.kill(pid, 'SIGKILL')
    await until(async () => Number((await ask(port, 'x').catch(() => '')).split(' ')[3]) !== pid)
    await until(async () => workersOf(await box.status()).every(({ state }) => state === 'ready'))
    assert.match(await ask(port, 'x'), /^x 1 0 /)
    await box.stop()
  })
})

test('an address that the new code does not listen at any more is given up by the reload', async () => {
  await inSandbox(async (box) => {
    const [first, second] = [await freePort(), await freePort()]
    await box.start(box.file('app.js', program(`text://127.0.0.1:${first}`, 2)))
    box.file('app.js', program(`text://127.0.0.1:${second}`, 2))
    await reload(box)
    assert.is(await innerPort(box), second)
    assert.match(await ask(second, 'x'), /^x /)
    assert.is(await Client.connect(first).catch(({ code }) => code), 'ECONNREFUSED')
    await box.stop()
  })
})

test('a reload that does not reach a group, or is given up, leaves the port of its process that is not there', async () => {
  await inSandbox(async (box) => {
    const [port, other] = [await freePort(), await freePort()]
    const more = (at: number, ends: string) => `
      import { existsSync } from 'node:fs'
      const inner = new Worker({ name: 'inner' })
      inner.onWorkerStart = async () => {
        const place = new Worker('text://127.0.0.1:${at}')
        place.onMessage = (connection, line) => (line === 'die' ? process.exit(1) : connection.send('inner ' + line))
        await place.listen()
        if (existsSync('${join(box.directory, 'broken')}')) throw new Error('no database')
      }
      worker.onWorkerStart = () => { ${ends} }`
    await box.start(box.file('app.js', echo(1, more(port, ''))))
    assert.is(await ask(port, 'x'), 'inner x')
    box.file('broken', '')
    const client = await Client.connect(port)
    client.send('die')
    await until(() => client.isClosed)
    await until(async () => ((await box.status()).groups[1]?.workers[0]?.failures ?? 0) > 1)
    const isThere = async (at: number) => {
      const connected = await Client.connect(at).catch(() => null)
      connected?.close()
      return connected !== null
    }
    await box.operate({ command: 'reload', names: ['echo'] })
    assert.ok(await isThere(port), 'closed by a reload of another group')
    box.file('app.js', echo(1, more(other, `throw new Error('planted')`)))
    assert.is((await box.command('reload')).code, 6)
    assert.ok(await isThere(port), 'closed by a reload that was given up')
    box.file('app.js', echo(1, more(other, '')))
    const { code, stderr } = await box.command('reload')
    assert.is(code, 6)
    assert.match(stderr, /no database/)
    assert.ok(await isThere(port), 'closed by a reload that came as far as the group')
    unlinkSync(join(box.directory, 'broken'))
    await reload(box)
    assert.is(await ask(other, 'x'), 'inner x')
    assert.not(await isThere(port))
    box.file('broken', '')
    box.file('app.js', echo(1, more(port, '')))
    assert.is((await box.command('reload')).code, 6)
    assert.not(await isThere(port), 'what the new code has listened at stays')
    assert.is(await ask(other, 'x'), 'inner x')
    await box.stop()
  })
})

test('at port 0 each Worker of a process has a port of its own, which its siblings share, also after a reload', async () => {
  await inSandbox(async (box) => {
    const text = `
      import { Worker } from 'millrace'
      const outer = new Worker('text://127.0.0.1:0', { name: 'outer', count: 2 })
      outer.onMessage = (connection, line) => connection.send('outer ' + line)
      outer.onWorkerStart = () => {
        for (const name of ['one', 'two']) {
          const inner = new Worker('text://127.0.0.1:0', { name })
          inner.onMessage = (connection, line) => connection.send(name + ' ' + line)
          inner.listen()
        }
      }
      Worker.runAll()`
    const [outer] = (await box.start(box.file('app.js', text))).groups
    const ports = [outer?.port ?? 0, ...(outer?.inner ?? []).map((endpoint) => Number(/\d+$/.exec(endpoint)?.[0]))]
    assert.is(new Set(ports).size, 3)
    const answers = async () => {
      const all = ports.map(async (port) => (await Promise.all(Array.from({ length: 8 }, () => ask(port, 'x')))).join())
      return Promise.all(all)
    }
    const expected = ['outer', 'one', 'two'].map((name) => Array(8).fill(`${name} x`).join())
    assert.equal(await answers(), expected)
    await reload(box)
    assert.equal(await answers(), expected)
    await box.stop()
  })
})

test('a Worker without an address may listen itself, and a declared one at a second address', async () => {
  await inSandbox(async (box) => {
    const socket = join(box.directory, 's.sock')
    const text = `
      import { Worker } from 'millrace'
      const late = new Worker({ name: 'late' })
      late.onMessage = (connection, line) => connection.send('late ' + line)
      late.onWorkerStart = () => late.listen('text://127.0.0.1:0')
      const two = new Worker('text://127.0.0.1:0', { name: 'two', count: 2 })
      two.onMessage = (connection, line) => connection.send('two ' + line)
      two.onWorkerStart = async () => {
        const other = new Worker({ onMessage: two.onMessage, reusePort: true })
        await other.listen('text://127.0.0.1:0')
        const unix = new Worker('unix://${socket}')
        unix.onMessage = (connection, bytes) => connection.send(bytes)
        await unix.listen()
      }
      Worker.runAll()`
    const { groups } = await box.start(box.file('app.js', text))
    const ports = groups.map(({ inner }) => Number(/\d+$/.exec(inner[0] ?? '')?.[0]))
    assert.is(await ask(ports[0] ?? 0, 'x'), 'late x')
    assert.is(await ask(ports[1] ?? 0, 'x'), 'two x')
    assert.is(await ask(groups[1]?.port ?? 0, 'y'), 'two y')
    assert.is(await ask(socket, 'z'), 'z')
    assert.is(box.log().match(/reusePort has no effect in listen\(\)/g)?.length, 1, 'told once, not by each process')
    await box.stop()
  })
})

const engines = addon().newEngine === null ? ['node'] : ['native', 'node']

for (const engine of engines)
  caseTest(engine === engines[0])(
    `unlisten, on the ${engine} engine: its connections stay, siblings go on, and it may listen again`,
    async () => {
      await inSandbox(async (box) => {
        const talk = `inner.onMessage = async (connection, line) => {
          if (line === 'unlisten') inner.unlisten()
          if (line === 'listen') await inner.listen()
          connection.send(line + ' 1 ' + inner.id + ' ' + process.pid)
        }`
        await box.start(box.file('app.js', program('text://127.0.0.1:0', 2, talk)), '--engine', engine)
        const port = await innerPort(box)
        const client = await Client.connect(port)
        const pidOf = (answer: string) => Number(answer.split(' ')[3])
        const pid = pidOf(await client.ask('unlisten'))
        const second = await Client.connect(port)
        const other = pidOf(await second.ask('x'))
        assert.is.not(other, pid)
        assert.equal([...(await pidsAt(port))], [other])
        assert.is(pidOf(await client.ask('unlisten')), pid) // again: nothing
        assert.is(pidOf(await client.ask('listen')), pid)
        await second.ask('unlisten')
        assert.equal([...(await pidsAt(port))], [pid])
        client.close()
        second.close()
        await box.stop()
      })
    },
  )

test('at port 0 a Worker has its port again after unlisten(), whoever listens first, and a new one has another', async () => {
  await inSandbox(async (box) => {
    const text = `
      import { Worker } from 'millrace'
      const made = (name) => {
        const inner = new Worker('text://127.0.0.1:0')
        inner.onMessage = (connection, line) => connection.send(name + ' ' + line)
        return inner
      }
      const portOf = (inner) => inner.getSocketName().split(':').pop()
      const outer = new Worker('text://127.0.0.1:0', { name: 'outer' })
      const [a, b, c] = ['a', 'b', 'c'].map(made)
      outer.onWorkerStart = () => Promise.all([a.listen(), b.listen()])
      outer.onMessage = async (connection, line) => {
        const before = [a, b].map(portOf)
        a.unlisten()
        b.unlisten()
        await c.listen()
        await b.listen()
        await a.listen()
        for (let n = 0; n < 30; n++) {
          const brief = made('brief')
          await brief.listen()
          brief.unlisten()
        }
        connection.send([...before, ...[a, b, c].map(portOf)].join(' '))
      }
      Worker.runAll()`
    const status = await box.start(box.file('app.js', text))
    const [oldA, oldB, ...ports] = (await ask(portOf(status), 'swap')).split(' ')
    assert.equal(ports.slice(0, 2), [oldA, oldB])
    assert.is(new Set(ports).size, 3)
    const answers = await Promise.all(ports.map((port) => ask(Number(port), 'x')))
    assert.equal(answers, ['a x', 'b x', 'c x'])
    const [{ inner = [] } = {}] = (await box.status()).groups
    assert.ok(inner.length < 25, `the master keeps ${inner.length} ports of Workers that have closed them`)
    await box.stop()
  })
})

longTest(
  'unlisten while listen() is under way: that socket is not kept, and the next listen() is as good as the first',
  async () => {
    await inSandbox(async (box) => {
      const text = `
      import { Worker } from 'millrace'
      const late = new Worker({ name: 'late' })
      late.onMessage = (connection, line) => connection.send('late ' + line)
      late.onWorkerStart = () => {
        late.listen('text://127.0.0.1:0')
        late.unlisten()
        late.listen('text://127.0.0.1:0')
      }
      Worker.runAll()`
      const [{ inner = [] } = {}] = (await box.start(box.file('app.js', text))).groups
      assert.is(inner.length, 1)
      const port = await innerPort(box)
      for (let n = 0; n < 5; n++) assert.is(await ask(port, 'x'), 'late x')
      await box.stop()
    })
  },
)

test('its connections drain: a handler that works is waited for', async () => {
  await inSandbox(async (box) => {
    const slow = `inner.onMessage = async (connection, line) => {
        await new Promise((resolve) => process.once('SIGUSR2', resolve))
        connection.send('done ' + line)
      }`
    await box.start(box.file('app.js', program('text://127.0.0.1:0', 1, slow)))
    const client = await Client.connect(await innerPort(box))
    client.send('work')
    await until(async () => (await box.status()).totals.messagesIn === 1)
    const [{ pid = 0 } = {}] = workersOf(await box.status())
    const stopping = box.begin('stop', '-g')
    await until(async () => /1 connection, 1 unsettled handler/.test(workersOf(await box.status())[0]?.work ?? ''))
    process.kill(pid, 'SIGUSR2')
    assert.is(await client.line(), 'done work')
    succeeded(await stopping.ended)
  })
})

longTest(
  'an address that cannot be had can be tried again, or another one: what fails in the end fails the start',
  async () => {
    await inSandbox(async (box) => {
      const holder = net.createServer().listen(0, '127.0.0.1')
      await once(holder, 'listening')
      const { port } = holder.address() as net.AddressInfo
      const more = `
      const other = new Worker('text://127.0.0.1:${port}')
      other.onMessage = (connection, line) => connection.send('other ' + line)
      return other.listen().catch(() => other.listen('text://127.0.0.1:${await freePort()}')).then(() => console.error('at', other.getSocketName()))`
      await box.start(box.file('app.js', program('text://127.0.0.1:0', 1, more)))
      await until(() => /at text:/.test(box.log()))
      const [{ inner = [] } = {}] = (await box.status()).groups
      const ports = inner.map((endpoint) => Number(/\d+$/.exec(endpoint)?.[0]))
      assert.is(ports.length, 2)
      const answers = await Promise.all(ports.map((one) => ask(one, 'x')))
      assert.ok(answers.includes('other x'), `${answers}`)
      holder.close()
      await box.stop()
    })
  },
)

test('a rejection that is handled does not fail the start, nor does one that unlisten() takes back', async () => {
  await inSandbox(async (box) => {
    const holder = net.createServer().listen(0, '127.0.0.1')
    await once(holder, 'listening')
    const { port } = holder.address() as net.AddressInfo
    const text = `
      import { Worker } from 'millrace'
      const worker = new Worker('text://127.0.0.1:0', { name: 'outer' })
      const busy = () => new Worker('text://127.0.0.1:${port}')
      const note = (how) => (error) => console.error('without a debug port:', how, error.code)
      worker.onWorkerStart = async () => {
        try { await busy().listen() } catch (error) { note('await')(error) }
        await busy().listen().catch(note('catch'))
        const [{ reason }] = await Promise.allSettled([busy().listen()])
        note('allSettled')(reason)
        const late = new Worker()
        late.listen('text://127.0.0.1:${port}')
        while (late.getSocketName() !== 'none') await new Promise(setImmediate)
        late.unlisten() // it has failed by now
      }
      worker.onMessage = (connection, line) => connection.send(line)
      Worker.runAll()`
    const status = await box.start(box.file('app.js', text))
    assert.is(await ask(portOf(status), 'x'), 'x')
    for (const how of ['await', 'catch', 'allSettled'])
      assert.match(box.log(), new RegExp(`without a debug port: ${how} EADDRINUSE`))
    holder.close()
    await box.stop()
  })
})

for (const [what, more, says, code] of [
  [
    'an await that nothing catches',
    `return (async () => { await new Worker().listen('text://127.0.0.1:PORT') })()`,
    /EADDRINUSE/,
    5,
  ],
  ['an address that somebody has', `new Worker().listen('text://127.0.0.1:PORT')`, /EADDRINUSE/, 5],
  ['an address twice', `for (const n of [1, 2]) new Worker().listen('text://127.0.0.2:PORT')`, /EADDRINUSE/, 5],
  ['an address that is none', `new Worker().listen('nonsense')`, /bad address 'nonsense'/, 6],
  ['a scheme that is none', `new Worker().listen('gopher://127.0.0.1:0')`, /gopher/, 6],
  [
    'an await in a function that nothing awaits',
    `void (async () => { await new Worker().listen('text://127.0.0.1:PORT') })()`,
    /EADDRINUSE/,
    6,
  ],
  ['a Worker that listens already', `inner.listen('text://127.0.0.1:0')`, /this Worker has an address already/, 6],
] as const) {
  caseTest(/^an address that somebody|^a Worker|that nothing catches/.test(what))(
    `${what} ends the start with the reason`,
    async () => {
      await inSandbox(async (box) => {
        const holder = net.createServer().listen(0, '127.0.0.1')
        await once(holder, 'listening')
        const { port } = holder.address() as net.AddressInfo
        const module = box.file('app.js', program('text://127.0.0.1:0', 1, more.replace('PORT', String(port))))
        const { stderr, code: actual } = await box.command('start', '-d', module)
        holder.close()
        assert.match(stderr, says)
        assert.is(actual, code)
      })
    },
  )
}

test('what listen() refuses is a rejection, also where it can be told at once', async () => {
  await inSandbox(async (box) => {
    const text = `
      import { Worker } from 'millrace'
      const worker = new Worker('text://127.0.0.1:0')
      const refused = (error) => console.error('refused', error.code)
      worker.onWorkerStart = () => worker.listen('text://127.0.0.1:0').catch(refused)
      worker.onMessage = (connection, line) => connection.send(line)
      Worker.runAll()`
    const status = await box.start(box.file('app.js', text))
    assert.is(await ask(portOf(status), 'x'), 'x')
    assert.match(box.log(), /refused ERR_LISTENS_ALREADY/)
    await box.stop()
  })
})

/** Whether the driver's process knows no Worker but its own, and those that were `made` are gone from memory. */
const FORGOTTEN =
  'gc(); return Worker.getAllWorkers().length === 1 && state.made.every((one) => one.deref() === undefined)'

test('a Worker that listens no longer is forgotten with its last connection, and listens again when it is told to', async () => {
  await inSandbox(async (box) => {
    const port = await startDriven(box, `driver.execArgv = ['--expose-gc']`)
    await drive(
      port,
      `state.made = []
      for (let n = 0; n < 5 + 16; n++) {
        const inner = new Worker('text://127.0.0.1:0')
        await inner.listen()
        inner.unlisten()
        if (n < 5) state.made.push(new WeakRef(inner)) // the last 16 keep the numbers of their ports
      }
      const taken = new Worker(driver.getSocketName())
      await taken.listen().catch(() => {})
      return Worker.getAllWorkers().length`,
    )
    await until(() => drive<boolean>(port, FORGOTTEN))

    const listen = 'await state.inner.listen(); return Number(/[0-9]+$/.exec(state.inner.getSocketName())[0])'
    const make = `state.inner = new Worker('text://127.0.0.1:0')
      state.inner.onMessage = (connection, line) => connection.send(line)`
    const client = await Client.connect(await drive<number>(port, `${make}; ${listen}`))
    assert.is(await client.ask('a'), 'a')
    assert.is(await drive(port, 'state.inner.unlisten(); return Worker.getAllWorkers().length'), 2)
    assert.is(await client.ask('b'), 'b')
    client.close()
    await until(() => drive<boolean>(port, 'return Worker.getAllWorkers().length === 1'))
    const again = await Client.connect(await drive<number>(port, listen))
    assert.is(await again.ask('c'), 'c')
    assert.is(await drive(port, 'return Worker.getAllWorkers().length'), 2)
    await box.stop() // it says goodbye to who is there
    await until(() => again.isClosed)
  })
})

longTest('outside of a worker process it says where it belongs', async () => {
  await inSandbox(async (box) => {
    const text = `import { Worker } from 'millrace'; new Worker('text://127.0.0.1:0').listen(); Worker.runAll()`
    const { code, stderr } = await box.command('check', box.file('app.js', text))
    assert.is(code, 6)
    assert.match(stderr, /listen\(\) is for worker processes: call it in onWorkerStart/)
  })
})

test.run()
