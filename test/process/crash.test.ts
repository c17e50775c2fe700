// Workers that die: another takes the place, with the same id; the others and their connections notice nothing; no
// count is lost; and what dies again and again does so ever more slowly.

import { readdirSync } from 'node:fs'
import net from 'node:net'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { Backoff } from '../../src/loop/backoff.ts'
import { onUncaught } from '../../src/process/child/uncaught.ts'
import type { Status } from '../../src/process/status/status.ts'
import { longTest } from '../support/length.ts'
import { ask, Client, echo, inSandbox, lives, portOf, type Sandbox, workersOf } from '../support/server.ts'
import { until } from '../support/until.ts'

/** The status once the slot has had `incarnation` processes and the last one is ready. */
function replaced(box: Sandbox, id = 0, incarnation = 2): Promise<Status> {
  return until(async () => {
    const status = await box.status()
    const worker = workersOf(status)[id]
    return worker?.incarnation === incarnation && worker.state === 'ready' && status
  }, 20_000)
}

test('kill -9 of a worker: another has its id, and the connections of the others are untouched', async () => {
  await inSandbox(async (box) => {
    const status = await box.start(box.file('app.js', echo(2)))
    const clients = await Promise.all(Array.from({ length: 16 }, () => Client.connect(portOf(status))))
    const served = new Map<Client, number>()
    for (const client of clients) served.set(client, Number((await client.ask('hello')).split(' ')[1]))
    const victim = workersOf(status).find(({ pid }) => [...served.values()].includes(pid))
    assert.ok(victim)
    process.kill(victim.pid, 'SIGKILL')
    const after = await replaced(box, victim.id)
    assert.not.equal(workersOf(after)[victim.id]?.pid, victim.pid)
    assert.is(workersOf(after)[victim.id]?.lastExit, 'signal SIGKILL')
    for (const [client, pid] of served) {
      if (pid === victim.pid) await until(() => client.isClosed)
      else assert.is(await client.ask('again'), `again ${pid}`)
      client.close()
    }
    assert.match(box.log(), new RegExp(`worker echo:${victim.id} pid ${victim.pid}: signal SIGKILL, starting another`))
    await box.stop()
  })
})

test('no count falls when a worker dies', async () => {
  await inSandbox(async (box) => {
    const status = await box.start(box.file('app.js', echo(1)))
    const client = await Client.connect(portOf(status))
    for (let turn = 0; turn < 5; turn++) await client.ask('hello')
    const before = await box.status()
    process.kill(workersOf(before)[0]?.pid ?? 0, 'SIGKILL')
    await until(() => client.isClosed)
    const after = await replaced(box)
    assert.is(await ask(portOf(status), 'x'), `x ${workersOf(after)[0]?.pid}`)
    const last = await box.status()
    assert.is(before.totals.messagesIn, 5)
    assert.is(after.totals.messagesIn, 5)
    assert.is(last.totals.messagesIn, 6)
    assert.is(last.totals.accepted, 2)
    assert.is(after.totals.connections, 0)
    await box.stop()
  })
})

const ENDS: [string, string, RegExp][] = [
  [
    'an uncaught exception',
    `setImmediate(() => { throw new Error('planted') })`,
    /\[end0:0\] uncaught: Error: planted\n.* \[end0:0\] {2,}at .*app\.js:.*exit 250 \(uncaught error\), starting another/s,
  ],
  [
    'several uncaught exceptions at once',
    `for (let n = 0; n < 9; n++) setImmediate(() => { throw new Error('planted ' + n) })`,
    /uncaught: Error: planted 0\n.*exit 250 \(uncaught error\), starting another/s,
  ],
  [
    'an unhandled rejection',
    `void Promise.reject(new Error('planted'))`,
    /uncaught: Error: planted\n.*exit 250 \(uncaught error\)/s,
  ],
  ['an uncaught value that is no error', `setImmediate(() => { throw null })`, /uncaught: null\n.*exit 250/s],
  [
    'a handler for uncaught errors that throws',
    `process.on('uncaughtException', (error) => { throw error }); setImmediate(() => { throw new Error('planted') })`,
    /uncaught: Error: planted\n.*exit 250 \(uncaught error\)/s,
  ],
  [
    'an uncaught exception, and a listener for the exit that throws, too',
    `process.on('exit', () => { throw new Error('at exit') }); setImmediate(() => { throw new Error('planted') })`,
    /uncaught: Error: planted\n.*a listener of 'exit': Error: at exit\n.*exit 250 \(uncaught error\), starting another/s,
  ],
  [
    'process.exit(9), and a listener for the exit that throws',
    `process.on('exit', () => { throw new Error('at exit') }); setImmediate(() => process.exit(9))`,
    /uncaught: Error: at exit\n.*exit 250 \(uncaught error\), starting another/s,
  ],
  ['process.exit(0)', 'process.exit(0)', /exit 0 \(ended\), starting another/],
  ['process.exit(9)', 'process.exit(9)', /exit 9, starting another/],
  [
    'a SIGTERM of its own',
    `process.kill(process.pid, 'SIGTERM')`,
    /(exit 0 \(ended\)|leaves by itself), starting another/,
  ],
  ['process.abort()', 'process.abort()', /signal SIGABRT, starting another/],
  ['Worker.stopAll()', 'Worker.stopAll()', /(exit 0 \(ended\)|leaves by itself), starting another/],
  ['a channel that was closed under us', `import('node:fs').then(({ closeSync }) => closeSync(3))`, /starting another/],
  ['rubbish in our channel', `import('node:fs').then(({ writeSync }) => writeSync(3, 'null\\n'))`, /starting another/],
]

test('an error that nobody caught is decided by handlers of the user, and ends the process where there are none', async () => {
  const { emit } = process
  const heard: string[] = []
  const note = (who: string) => (error: unknown, origin: string) => void heard.push(`${who} ${error} ${origin}`)
  const [monitor, handler] = [note('monitor'), note('handler')]
  const broken = () => {
    throw new Error('its own')
  }
  const plant = async () => {
    setImmediate(() => {
      throw new Error('planted')
    })
    await until(() => heard.length > 1)
    return heard.splice(0)
  }
  const before = process.listenerCount('uncaughtException')
  onUncaught((error) => heard.push(`end ${error}`))
  assert.is(process.listenerCount('uncaughtException'), before)
  process.on('uncaughtExceptionMonitor', monitor)
  try {
    const monitored = 'monitor Error: planted uncaughtException'
    assert.equal(await plant(), [monitored, 'end Error: planted'])
    process.once('uncaughtException', handler)
    assert.equal(await plant(), [monitored, 'handler Error: planted uncaughtException'])
    process.once('uncaughtException', broken)
    assert.equal(await plant(), [monitored, 'end Error: its own'])
    process.once('uncaughtException', handler)
    void Promise.reject(new Error('rejected'))
    await until(() => heard.length > 1)
    assert.is(heard[1], 'handler Error: rejected unhandledRejection')
  } finally {
    process.emit = emit
    process.off('uncaughtExceptionMonitor', monitor)
  }
})

test('a worker that ends in any way is replaced, and the log says why', async () => {
  await inSandbox(async (box) => {
    const groups = ENDS.map(
      ([, code], at) => `
        new Worker('text://127.0.0.1:0', { name: 'end${at}' }).onMessage = (connection, line) => {
          if (line === 'end') { ${code} } else connection.send(line)
        }`,
    )
    const text = `import { Worker } from 'millrace'\n${groups.join('')}\nWorker.runAll()`
    const before = await box.start(box.file('app.js', text))
    for (const [at, [what, , says]] of ENDS.entries()) {
      const port = before.groups[at]?.port ?? 0
      const client = await Client.connect(port)
      client.send('end')
      await until(async () => {
        const { pid, groups } = await box.status()
        assert.is(pid, before.pid, what)
        return groups[at]?.workers.some(({ incarnation, state }) => incarnation === 2 && state === 'ready')
      }, 20_000)
      const itsLines = box
        .log()
        .split('\n')
        .filter((line) => line.includes(`end${at}:0`))
      assert.match(itsLines.join('\n'), says, what)
      assert.is(await ask(port, 'hello'), 'hello', what)
      client.close()
    }
    await box.stop()
  })
})

test('Worker.stopAll gives the handler of an open connection the time of a drain, not of a stop', async () => {
  await inSandbox(async (box) => {
    const more = `
      Worker.stopTimeout = 0.1
      worker.onMessage = async (connection) => {
        Worker.stopAll()
        await new Promise((resolve) => setTimeout(resolve, 600))
        connection.send('done')
      }`
    const client = await Client.connect(portOf(await box.start(box.file('app.js', echo(1, more)))))
    assert.is(await client.ask('x'), 'done')
    client.close()
    await replaced(box)
    await box.stop()
  })
})

test('a worker that dies again and again is started ever later', async () => {
  await inSandbox(async (box) => {
    await box.start(box.file('app.js', echo(2, `setTimeout(() => { if (worker.id === 1) process.exit(5) }, 30)`)))
    const delays = await until(() => {
      const found = [...box.log().matchAll(/worker echo:1 .*exit 5, starting another( in ([\d.]+) s)?/g)]
      return found.length >= 5 && found.slice(0, 5).map(([, , seconds = '0']) => Number(seconds))
    }, 20_000)
    assert.is(delays[0], 0)
    for (const [turn, seconds] of delays.slice(1).entries()) {
      const full = 0.1 * 2 ** turn
      assert.ok(Math.abs(seconds - full) <= 0.2 * full + 0.051, `${delays}`) // a fifth of jitter, one digit in the log
    }
    const [steady, restless] = workersOf(await box.status())
    assert.is(steady?.incarnation, 1)
    assert.is(restless?.lastExit, 'exit 5')
    await box.stop() // while it waits for its next try, too
  })
})

test('the back-off grows to half a minute, and forgets after a healthy life', () => {
  const backoff = new Backoff()
  const delays = Array.from({ length: 14 }, () => backoff.next(50, 0.5))
  assert.equal(delays.slice(0, 5), [0, 100, 200, 400, 800])
  assert.is(Math.max(...delays), 30_000)
  assert.is(backoff.next(10_000), 0)
  assert.is(backoff.next(50, 0.5), 100)
  assert.is(backoff.next(50, 0), 160)
  assert.is(backoff.next(50, 1 - Number.EPSILON) > 475, true)
})

test('a worker that waits for its next try is shown, without a pid', async () => {
  await inSandbox(async (box) => {
    await box.start(box.file('app.js', echo(1, 'setTimeout(() => process.exit(5), 30)')))
    const waiting = await until(
      async () => workersOf(await box.status()).find(({ state }) => state === 'waiting' || state === 'crash-loop'),
      20_000,
    )
    assert.is(waiting.pid, 0)
    assert.is(waiting.lastExit, 'exit 5')
    await box.stop()
  })
})

longTest('a master out of descriptors or processes goes on trying', async () => {
  await inSandbox(async (box) => {
    const status = await box.start(box.file('app.js', echo(2)))
    const limit = (value: string) => box.spawn('prlimit', ['--pid', String(status.pid), `--nofile=${value}`]).ended
    assert.is((await limit('8:4096')).code, 0)
    const pid = workersOf(status)[0]?.pid ?? 0
    process.kill(pid, 'SIGKILL')
    await until(() => /spawn failed: .*EMFILE/.test(box.log()))
    assert.ok(lives(status.pid))
    assert.is((await limit('4096:4096')).code, 0)
    await until(async () => workersOf(await box.status())[0]?.state === 'ready', 20_000)
    await box.stop()
  })
})

longTest('a master out of descriptors is not taken for none', async () => {
  await inSandbox(async (box) => {
    const { pid } = await box.start(box.file('app.js', echo(1)))
    const used = readdirSync(`/proc/${pid}/fd`).length
    assert.is((await box.spawn('prlimit', ['--pid', String(pid), `--nofile=${used + 4}:4096`]).ended).code, 0)
    const idle = Array.from({ length: 20 }, () =>
      net.connect(join(box.runDir, 'control.sock')).on('error', () => undefined),
    )
    await until(() => idle.some(({ destroyed }) => destroyed)) // it has no descriptor for this one
    for (const command of ['status', 'stop']) {
      const { code, stderr } = await box.command(command)
      assert.is(code, 7)
      assert.match(
        stderr,
        new RegExp(`the master, pid ${pid}, closes every connection .*\\nnext: .*out of descriptors`),
      )
    }
    for (const socket of idle) socket.destroy()
    await until(async () => (await box.command('status')).code === 0)
    await box.stop()
  })
})

test('a worker that writes to the channel by which it is given handles is killed, and nothing else happens', async () => {
  await inSandbox(async (box) => {
    const odd = [
      'garbage',
      '{"cmd":"NODE_HANDLE_ACK"}',
      '{"cmd":"NODE_HANDLE","type":"net.Socket"}',
      '{"cmd":"NODE_HANDLE","type":"none"}',
      '{"cmd":"NODE_other"}',
      'x'.repeat(100_000),
    ]
    const more = `
      const { writeSync } = await import('node:fs')
      for (let n = 0; n < ${odd.length}; n++) {
        const odd = new Worker('text://127.0.0.1:0', { name: 'odd' + n })
        odd.onMessage = (connection, line) => { writeSync(process.channel.fd, line + (line.startsWith('xx') ? '' : '\\n')) }
      }`
    const status = await box.start(box.file('app.js', echo(1, more)))
    const [echoing, ...others] = status.groups
    for (const [at, line] of odd.entries()) {
      const client = await Client.connect(others[at]?.port ?? 0)
      client.send(line)
      await until(() => box.log().includes(`odd${at}:0 pid`), 20_000)
      await ask(echoing?.port ?? 0, line.slice(0, 9))
      client.close()
    }
    await until(async () => workersOf(await box.status()).every(({ state }) => state === 'ready'), 20_000)
    assert.is(box.log().match(/odd\d:0 pid \d+: signal SIGKILL \(spoke nonsense\)/g)?.length, odd.length)
    assert.is((await box.status()).pid, status.pid)
    assert.is(workersOf(await box.status())[0]?.pid, echoing?.workers[0]?.pid)
    await box.stop()
  })
})

test('a worker that sends its master an incomplete message is killed, and nothing else happens', async () => {
  await inSandbox(async (box) => {
    const odd = ['report', 'listen', 'leaving', 'failed', 'connections', 'stand'].map((type) =>
      JSON.stringify({ type }),
    )
    const more = `
      const { writeSync } = await import('node:fs')
      const odd = new Worker('text://127.0.0.1:0', { name: 'odd' })
      odd.onMessage = (connection, line) => { writeSync(3, line + '\\n') }`
    const status = await box.start(box.file('app.js', echo(1, more)))
    const [port = 0, oddPort = 0] = status.groups.map((group) => group.port)
    for (const line of odd) {
      const client = await Client.connect(oddPort)
      client.send(line)
      await ask(port, 'x')
      client.close()
      await until(async () => workersOf(await box.status()).every(({ state }) => state === 'ready'), 20_000)
      assert.is((await box.status()).pid, status.pid, line)
    }
    assert.match(box.log(), /odd:0 pid \d+: signal SIGKILL \(spoke nonsense\)/)
    assert.is(workersOf(await box.status())[0]?.pid, workersOf(status)[0]?.pid)
    await box.stop()
  })
})

test.run()
