// Shared data between real processes: exact sums, locks, order, time to live; kill -9 of workers, reloads, and the end of the
// keeper itself.

import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import net from 'node:net'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { addon } from '../../src/addon.ts'
import { longTest } from '../support/length.ts'
import { ask, Client, inSandbox, portOf, type Sandbox, succeeded, workersOf } from '../support/server.ts'
import { until, within } from '../support/until.ts'

/** Workers that carry out a line of code each, and answer with what came of it. */
function program(box: Sandbox, more = ''): string {
  return box.file(
    'app.js',
    `
    import { appendFileSync } from 'node:fs'
    import { Shared, Timer, Worker } from 'millrace'
    const worker = new Worker('text://127.0.0.1:0', { name: 'app', count: 4, reusePort: false, maxInFlight: 100 })
    const map = Shared.map('numbers')
    const AsyncFunction = Object.getPrototypeOf(async () => {}).constructor
    // One may hear of the keeper's end before the master does: then the next call can meet the same end.
    const again = (call) => call().catch((error) => {
      if (error.code !== 'ERR_KEEPER_LOST') throw error
      return again(call)
    })
    worker.onMessage = async (connection, line) => {
      try {
        const run = new AsyncFunction('map', 'Shared', 'Timer', 'append', 'again', JSON.parse(line))
        connection.send(JSON.stringify({ value: await run(map, Shared, Timer, appendFileSync, again) }))
      } catch (error) {
        const { code, message, mayHaveBeenHandled } = error
        connection.send(JSON.stringify({ code, message, mayHaveBeenHandled }))
      }
    }
    ${more}
    Worker.runAll()`,
  )
}

interface Answer {
  readonly value?: unknown
  readonly code?: string
  readonly message?: string
  readonly mayHaveBeenHandled?: boolean
}

/** A client of one worker. */
class Remote {
  readonly client: Client
  readonly pid: number

  constructor(client: Client, pid: number) {
    this.client = client
    this.pid = pid
  }

  async run(code: string, ms = 60_000): Promise<Answer> {
    this.client.send(JSON.stringify(code))
    return JSON.parse(await this.client.line(ms)) as Answer
  }

  async value(code: string): Promise<unknown> {
    const { value, message } = await this.run(code)
    assert.is(message, undefined, message)
    return value
  }
}

/** One for each of the workers: connections are made until all have been met. */
async function remotes(port: number, count: number): Promise<Remote[]> {
  const met = new Map<number, Remote>()
  const all: Client[] = []
  while (met.size < count) {
    const client = await Client.connect(port)
    all.push(client)
    const pid = (JSON.parse(await client.ask('"return process.pid"')) as Answer).value as number
    if (!met.has(pid)) met.set(pid, new Remote(client, pid))
  }
  const used = new Set([...met.values()].map(({ client }) => client))
  for (const client of all) if (!used.has(client)) client.close()
  return [...met.values()]
}

test('what a map does, and what bad input gets', async () => {
  await inSandbox(async (box) => {
    const [one, two] = (await remotes(portOf(await box.start(program(box))), 2)) as [Remote, Remote]
    assert.is(await one.value(`return String(await map.get('a'))`), 'undefined')
    await one.value(`await map.set('a', { list: [1, new Date(0)], bytes: Buffer.from('hi') })`)
    assert.equal(
      await two.value(`const { list, bytes } = await map.get('a'); return [list[1] instanceof Date, String(bytes)]`),
      [true, 'hi'],
    )
    assert.equal(await two.value(`return [await map.add('a', 1), await map.add('b', 1), await map.has('b')]`), [
      false,
      true,
      true,
    ])
    assert.equal(await one.value(`return [await map.keys(), await map.size()]`), [['a', 'b'], 2])
    assert.equal(
      await one.value(`
      await map.set('c', { x: 1, y: [2] })
      return [
        await map.compareAndSet('c', { y: [2], x: 2 }, 'no'),
        await map.compareAndSet('c', { y: [2], x: 1 }, 'yes'),
        await map.get('c'),
        await map.compareAndSet('d', 'there', 1),
        await map.compareAndSet('d', undefined, 1),
      ]`),
      [false, true, 'yes', false, true],
    )
    assert.equal(
      await two.value(`
      const odd = [NaN, -0, 2 ** 53, 1n, '', null, 'ä\\ud800', Infinity]
      for (const [at, value] of odd.entries()) await map.set('odd' + at, value)
      const back = await Promise.all(odd.map((_, at) => map.get('odd' + at)))
      return back.map((value, at) => Object.is(value, odd[at]))`),
      new Array(8).fill(true),
    )
    assert.equal(
      await one.value(
        `return [await map.increment('n'), await map.increment('n', -2.5), await map.delete('n'), await map.delete('n')]`,
      ),
      [1, -1.5, true, false],
    )
    assert.is(await two.value(`return map.increment('odd1', 5)`), 5) // it was -0
    assert.is(await one.value(`await map.clear(); return map.size()`), 0)
    for (const [code, error] of [
      [`await map.set('', 1)`, 'ERR_SHARED_KEY'],
      [`await map.get(7)`, 'ERR_SHARED_KEY'],
      [`await map.set('f', () => 1)`, 'ERR_SHARED_VALUE'],
      [`await map.set('u', undefined)`, 'ERR_SHARED_VALUE'],
      [`await map.set('m', map)`, 'ERR_SHARED_VALUE'],
      [`await map.set('big', 'x'.repeat(2_000_000))`, 'ERR_SHARED_VALUE'],
      [`await map.set('t', 1, { ttlMs: -1 })`, 'ERR_SHARED_TTL'],
      [`await map.set('t', 1, { ttl: 5 })`, 'ERR_UNKNOWN_OPTION'],
      [`await map.increment('t', 1, null)`, 'ERR_BAD_OPTION'],
      [`await map.set('text', 'x'); await map.increment('text')`, 'ERR_SHARED_TYPE'],
      [`await map.increment('n', 'x')`, 'ERR_SHARED_STEP'],
      [`Shared.map('')`, 'ERR_SHARED_NAME'],
      [`Shared.map('#counters')`, 'ERR_SHARED_NAME'],
      [`Shared.counter('c').add(0.5)`, 'ERR_SHARED_STEP'],
    ] as const) {
      const { code: given, message } = await one.run(code)
      assert.is(given, error, `${code}: ${message}`)
    }
    assert.match((await one.run(`await map.set('f', () => 1)`)).message ?? '', /'f' cannot be cloned: /)

    // A stranger, who has found the socket.
    const stranger = net.connect(join(box.runDir, 'keeper.sock'))
    let heard = ''
    stranger.on('data', (bytes) => {
      heard += bytes
    })
    stranger.write(Buffer.from('\0\0\0\x13\0\0\0\x0f[0,"hello","x"]'))
    await until(() => stranger.destroyed)
    assert.is(heard, '')
    await until(() => box.log().includes('keeper: a connection was refused: it did not know the secret'))
    for (const { client } of [one, two]) client.close()
    await box.stop()
  })
})

test('at the top level of a module it is refused, in the process that describes as in one that will serve', () =>
  inSandbox(async (box) => {
    const path = box.file(
      'app.js',
      `
      import { Shared, Worker } from 'millrace'
      const worker = new Worker('text://127.0.0.1:0', { name: 'app', count: 2 })
      const map = Shared.map('settings')
      const codeOf = ({ code }) => code
      const codes = [await map.get('a').catch(codeOf), await map.set('a', 1).catch(codeOf)]
      try {
        map.watch()
      } catch (error) {
        codes.push(error.code)
      }
      let atStart
      worker.onWorkerStart = async () => {
        atStart = await map.increment('starts')
      }
      worker.onMessage = (connection) => connection.send(JSON.stringify([...codes, atStart > 0]))
      Worker.runAll()`,
    )
    const port = portOf(await box.start(path))
    assert.equal(JSON.parse(await ask(port, '')), [...Array(3).fill('ERR_NOT_A_WORKER'), true])
    await box.stop()
  }))

test('sums are exact, locks hold, watchers see the order; crashes and a reload lose nothing', async () => {
  await inSandbox(async (box) => {
    const status = await box.start(program(box))
    const port = portOf(status)
    let all = await remotes(port, 4)

    const sums = await Promise.all(
      all.map(({ value }, at) =>
        value.call(
          all[at] as Remote,
          `
        const counter = Shared.counter('hits')
        for (let n = 0; n < 50_000; n++) counter.add()
        await Promise.all(Array.from({ length: 2000 }, () => map.increment('sum')))
        const numbers = new Set()
        for (let n = 0; n < 200; n++) numbers.add(await Shared.counter('ticket').addAndGet())
        return [...numbers]`,
        ),
      ),
    )
    const [first] = all as [Remote]
    assert.equal(
      await first.value(`return [await map.get('sum'), await Shared.counter('hits').get()]`),
      [8000, 200_000],
    )
    assert.is(new Set(sums.flat()).size, 800, 'no two have the same ticket')

    // Read, wait, write: only a lock makes it exact. And a value that is changed by compare-and-set alone.
    await Promise.all(
      all.map((one) =>
        one.value(`
        for (let round = 0; round < 25; round++) {
          while (!(await map.add('lock', process.pid, { ttlMs: 60_000 }))) await Timer.sleep(0.001)
          const before = (await map.get('guarded')) ?? 0
          await map.set('guarded', before + 1)
          await map.delete('lock')
          for (;;) {
            const list = (await map.get('list')) ?? { n: 0 }
            if (await map.compareAndSet('list', list.n === 0 ? undefined : list, { n: list.n + 1 })) break
          }
        }`),
      ),
    )
    assert.equal(await first.value(`return [await map.get('guarded'), await map.get('list')]`), [100, { n: 100 }])

    // Two watchers in two processes, changes of two others.
    const watch = `
      const seen = []
      const changes = map.watch()
      await map.increment('watching')
      for await (const change of changes) {
        if (change.key === 'last') break
        if (change.type !== 'expire') seen.push(change.type + change.value)
      }
      return seen`
    const [a, b, c, d] = all as [Remote, Remote, Remote, Remote]
    const watching = [a, b].map((one) => one.value(watch))
    await until(async () => (await c.value(`return map.get('watching')`)) === 2, 20_000)
    const change = (key: string) => `for (let n = 0; n < 300; n++) await map.set('${key}', '${key}' + n)`
    await Promise.all([c.value(change('c')), d.value(change('d'))])
    await c.value(`await map.set('last', 1)`)
    const [seenA, seenB] = (await Promise.all(watching)) as [string[], string[]]
    const ofKey = (seen: string[], key: string) => seen.filter((text) => text.startsWith(`set${key}`))
    const common = (seen: string[]) =>
      seen.slice(seen.indexOf('setc0') < seen.indexOf('setd0') ? seen.indexOf('setc0') : seen.indexOf('setd0'))
    assert.equal(common(seenA), common(seenB))
    for (const key of ['c', 'd'])
      assert.equal(
        ofKey(seenA, key),
        Array.from({ length: 300 }, (_, n) => `set${key}${n}`),
      )

    // Time to live: told to who watches, counted from the last set, kept by an increment and a compareAndSet.
    assert.equal(
      await first.value(`
      const changes = map.watch({ key: 'brief' })
      const events = []
      await map.set('stays', 1, { ttlMs: 900 })
      await map.compareAndSet('stays', 1, 2, { ttlMs: 0 })
      await map.set('brief', 1, { ttlMs: 1000 }) // the time is that of a machine with other work
      await map.increment('brief')
      await map.compareAndSet('brief', 2, 3)
      for await (const { type, value } of changes) {
        events.push(type + value)
        if (type === 'expire') break
      }
      return [events, (await map.get('brief')) ?? 'gone', await map.get('stays'), await map.add('brief', 1)]`),
      [['set1', 'set2', 'set3', 'expireundefined'], 'gone', 2, true],
    )

    // kill -9 in the middle of incrementing: what was acknowledged has been done, and at most one more.
    const acknowledged = join(box.directory, 'acknowledged')
    writeFileSync(acknowledged, '')
    const lost = a
      .run(
        `for (;;) { const n = await map.increment('until death'); Shared.counter('deaths').add(); append(${JSON.stringify(acknowledged)}, '.') }`,
      )
      .catch(() => 'closed')
    await until(() => readFileSync(acknowledged).length > 50)
    process.kill(a.pid, 'SIGKILL')
    assert.is(await within(20_000, lost), 'closed')
    const count = readFileSync(acknowledged).length
    const [done, counted] = (await b.value(
      `return [await map.get('until death'), await Shared.counter('deaths').get()]`,
    )) as [number, number]
    assert.ok(done === count || done === count + 1, `${done} done, ${count} acknowledged`)
    assert.ok(counted >= (addon().sys === null ? 0 : count) && counted <= count + 1, `${counted} counted of ${count}`)

    // Everybody dies, and the code changes.
    for (const { client, pid } of all.slice(1)) {
      client.close()
      process.kill(pid, 'SIGKILL')
    }
    all = await remotes(port, 1)
    const kept = `return [await map.get('sum'), await map.get('list'), await Shared.counter('hits').get()]`
    assert.equal(await (all[0] as Remote).value(kept), [8000, { n: 100 }, 200_000])
    for (const { client } of all) client.close()
    await box.operate({ command: 'reload' })
    all = await remotes(port, 1)
    assert.equal(await (all[0] as Remote).value(kept), [8000, { n: 100 }, 200_000])
    for (const { client } of all) client.close()
    assert.is(workersOf(await box.status()).length, 4)
    await box.stop()
  })
})

/** The pid of the keeper. */
function keeperOf(box: Sandbox): number {
  const known = new Set<number>()
  for (const pid of box.pids())
    if (readFileSync(`/proc/${pid}/cmdline`, 'utf8').startsWith('millrace: keeper')) known.add(pid)
  assert.is(known.size, 1, `keepers: ${[...known]}`)
  return [...known][0] ?? 0
}

test('the keeper is killed: calls on their way say so, watchers hear of it, and another one begins empty', async () => {
  await inSandbox(async (box) => {
    const port = portOf(await box.start(program(box)))
    const [one, two] = (await remotes(port, 2)) as [Remote, Remote]
    await one.value(`await map.set('a', 1); Shared.counter('c').add(5); await Shared.counter('c').get()`)
    const watched = two.value(`
      for await (const { type, key } of map.watch()) {
        if (type === 'lost') await again(() => map.set('again', 1))
        if (key === 'again') return 'heard of it, and goes on'
      }`)
    watched.catch(String) // told below
    await one.value(`await map.set('ready', 1)`)
    const keeper = keeperOf(box)
    process.kill(keeper, 'SIGTERM') // it stays: others may need it for their end
    process.kill(keeper, 'SIGSTOP')
    const pending = one.run(`return map.get('a')`)
    const sent = await Promise.race([pending, until(() => null, 100).catch(() => 'waits')])
    assert.is(sent, 'waits')
    process.kill(keeper, 'SIGKILL')
    const { code, mayHaveBeenHandled } = await pending
    assert.equal([code, mayHaveBeenHandled], ['ERR_KEEPER_LOST', true])
    assert.is(await watched, 'heard of it, and goes on')
    assert.is(await one.value(`return String(await again(() => map.get('a')))`), 'undefined')
    assert.is(await one.value(`return Shared.counter('c').get()`), addon().sys === null ? 0 : 5)
    assert.match(box.log(), /keeper of shared data pid \d+: signal SIGKILL\. What it kept is lost/)
    for (const { client } of [one, two]) client.close()
    await box.stop()
  })
})

test('files of the run directory are taken away: later processes have the data all the same', async () => {
  await inSandbox(async (box) => {
    const port = portOf(await box.start(program(box)))
    const [one] = (await remotes(port, 1)) as [Remote]
    await one.value(`await map.set('a', 1)`)
    for (const name of readdirSync(box.runDir)) rmSync(join(box.runDir, name))
    await until(() => existsSync(join(box.runDir, 'keeper.sock')) && existsSync(join(box.runDir, 'lock')), 20_000)
    await until(async () => (await box.status().catch(() => null)) !== null, 20_000)
    await box.operate({ command: 'reload' })
    for (const later of await remotes(port, 2)) assert.is(await later.value(`return await map.get('a')`), 1)
    await box.stop()
  })
})

test('a watcher that does not read keeps a bounded number of bytes, and then learns that it has missed something', async () => {
  await inSandbox(async (box) => {
    const port = portOf(await box.start(program(box)))
    const [one, two] = (await remotes(port, 2)) as [Remote, Remote]
    await one.value(`globalThis.changes = map.watch(); await map.set('ready', 1)`)
    await two.value(`for (let n = 0; n < 30; n++) await map.set('k', { n, bytes: Buffer.alloc(1_000_000) })`)
    const seen = await one.value(`
      await map.get('k') // its answer comes behind the changes
      const seen = []
      for (let n = -1; n !== 29; ) {
        const { value: { type, value } } = await changes.next()
        n = value?.n ?? -1
        seen.push(type + n)
      }
      return seen`)
    assert.is((seen as string[])[0], 'lost-1')
    assert.ok((seen as string[]).length <= 17, String(seen))
    for (const { client } of [one, two]) client.close()
    await box.stop()
  })
})

longTest('a worker may use it to its end, and without a master the keeper goes when the last worker has', async () => {
  await inSandbox(async (box) => {
    const path = program(
      box,
      `worker.onWorkerStop = async () => {
        await Timer.sleep(0.05)
        console.error('at the end: ' + (await map.increment('ends')))
      }`,
    )
    const status = await box.start(path)
    const [one] = (await remotes(portOf(status), 1)) as [Remote]
    await one.value(`await map.set('ends', 10)`)
    one.client.close()
    await box.stop()
    assert.match(box.log(), /at the end: 14/)

    const again = await box.start(path)
    const all = await remotes(portOf(again), 4)
    for (const remote of all) await remote.value(`await map.increment('x')`)
    for (const { client } of all) client.close()
    process.kill(again.pid, 'SIGKILL')
    await until(() => box.pids().length === 0, 20_000)
    succeeded(await box.command('start', '-d', path)) // clears away what the dead one left
    await box.stop()
  })
})

test.run()
