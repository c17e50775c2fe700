// Addresses that cannot be had: one line that says which and why, exit code 5, nothing started, nothing on a port that
// nobody asked for.

import { existsSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import net from 'node:net'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { atLength, caseTest, longTest } from '../support/length.ts'
import { ask, Client, echo, inSandbox, portOf, type Sandbox, succeeded, workersOf } from '../support/server.ts'
import { until, within } from '../support/until.ts'
import { NO_SUCH_HOST, where, withAddon } from '../support/where.ts'

/** A server of this process, on a port of its own choice when that is 0. */
async function occupy(
  address: net.ListenOptions,
): Promise<{ port: number; [Symbol.asyncDispose](): Promise<void>; close(): Promise<void> }> {
  const server = net.createServer()
  await new Promise<void>((resolve, reject) => server.once('error', reject).listen(address, resolve))
  const close = () => new Promise<void>((resolve) => server.close(() => resolve()))
  const bound = server.address()
  return { port: typeof bound === 'object' ? (bound?.port ?? 0) : 0, close, [Symbol.asyncDispose]: close }
}

/** Exit code 5 and one line, and what to do about it, as a daemon and (the long suite) in the foreground, and no worker ran. */
async function refused(box: Sandbox, listen: string, line: RegExp): Promise<void> {
  const module = box.file('app.js', echo(2, `worker.onWorkerStart = () => console.error('a worker ran')`, listen))
  for (const flags of [['-d'], []].slice(0, atLength(1, 2))) {
    const { code, stdout, stderr } = await box.command('start', ...flags, module)
    assert.match(stderr, line)
    assert.match(stderr, /^.*\n(.*next: .*\n)?$/)
    assert.is(code, 5)
    assert.is(stdout, '')
  }
  assert.not.match(box.log(), /a worker ran/)
}

const TAKEN: [string, string, string][] = [
  ['the same', '127.0.0.1', '127.0.0.1'],
  ['an IPv6', '::1', '[::1]'],
  ['the wildcard, taken on one interface,', '127.0.0.1', '0.0.0.0'],
  ['one interface, taken by the wildcard,', '0.0.0.0', '127.0.0.1'],
  ['the IPv6 wildcard, taken on one interface,', '::1', '[::]'],
  ['one interface, taken by the IPv6 wildcard,', '::', '127.0.0.1'],
]

for (const [at, [what, host, wanted]] of TAKEN.entries()) {
  caseTest(at % 2 === 0)(`${what} address in use is refused`, async () => {
    await inSandbox(async (box) => {
      const other = await occupy({ host, port: 0 })
      try {
        const line = new RegExp(`bind ${wanted.replace(/[[\]]/g, '\\$&')}:${other.port}: EADDRINUSE`)
        await refused(box, `text://${wanted}:${other.port}`, line)
      } finally {
        await other.close()
      }
    })
  })
}

test('a Unix socket in use is refused, and stays', async () => {
  await inSandbox(async (box) => {
    const path = join(box.directory, 'app.sock')
    const other = await occupy({ path })
    try {
      await refused(box, `unix://${path}`, /bind .*app\.sock: EADDRINUSE/)
      const { stderr } = await box.command('start', '-d', `${box.directory}/app.js`)
      assert.match(stderr, /see who has it: ss -lxp\n/)
      net
        .connect(path)
        .on('error', () => assert.unreachable('the socket is gone'))
        .destroy()
    } finally {
      await other.close()
    }
  })
})

test('a file in the place of a Unix socket is refused, and stays', async () => {
  await inSandbox(async (box) => {
    const path = box.file('app.sock', 'precious')
    await refused(box, `unix://${path}`, /bind .*app\.sock: EADDRINUSE/)
    assert.is(readFileSync(path, 'utf8'), 'precious')
  })
})

longTest('a Unix socket in a directory that is not there is refused', async () => {
  await inSandbox((box) => refused(box, `unix://${box.directory}/no/app.sock`, /bind .*app\.sock: ENOENT/))
})

test('an address of another machine is refused', async () => {
  await inSandbox((box) => refused(box, 'text://192.0.2.1:0', /bind 192\.0\.2\.1:0: EADDRNOTAVAIL/))
})

test('a host that nobody knows is refused', async () => {
  await inSandbox((box) => refused(box, `text://${NO_SUCH_HOST}:0`, new RegExp(`getaddrinfo ${NO_SUCH_HOST}: E`)))
})

const firstFree = Number(readFileSync('/proc/sys/net/ipv4/ip_unprivileged_port_start', 'utf8'))

where(firstFree > 1, 'ports of the system')('a port of the system is refused to who may not have it', async () => {
  await inSandbox(async (box) => {
    const module = box.file('app.js', echo(1, '', 'text://127.0.0.1:1'))
    const drop = process.getuid?.() === 0 ? ['--bounding-set=-net_bind_service', '--inh-caps=-all'] : []
    const server = box.spawn('setpriv', [...drop, process.execPath, 'dist/start.js', 'start', module])
    const { code, stderr } = await within(20_000, server.ended)
    assert.match(stderr, /bind 127\.0\.0\.1:1: EACCES \(permission denied\)\n.* next: a port from 1024 on, .*\n$/)
    assert.is(code, 5, stderr)
  })
})

longTest('a second group without an address takes the first one down with it', async () => {
  await inSandbox(async (box) => {
    const other = await occupy({ host: '127.0.0.1', port: 0 })
    try {
      const two = `new Worker('text://127.0.0.1:${other.port}', { name: 'second' })`
      const { code, stderr } = await box.command('start', box.file('app.js', echo(2, two)))
      assert.is(code, 5, stderr)
    } finally {
      await other.close()
    }
  })
})

withAddon("a port is a master's from its bind on: another one is told so at once, and who connects waits", async () => {
  await inSandbox(async (box) => {
    const { port, close } = await occupy({ host: '127.0.0.1', port: 0 })
    await close()
    const waiting = `
      import { existsSync } from 'node:fs'
      import { setTimeout as sleep } from 'node:timers/promises'
      worker.onWorkerStart = async () => { console.log('bound'); while (!existsSync(process.argv[2])) await sleep(5) }`
    const module = box.file('app.js', echo(1, waiting, `text://127.0.0.1:${port}`))
    const first = box.begin('start', module, '--', join(box.directory, 'may-serve'))
    await first.says(/bound/)
    const early = await Client.connect(port)
    early.send('early')
    const { code, stdout, stderr } = await box.command('start', '--run-dir', `${box.runDir}-2`, module)
    assert.equal([code, stdout], [5, ''])
    assert.match(stderr, new RegExp(`bind 127\\.0\\.0\\.1:${port}: EADDRINUSE`))
    box.file('may-serve', '')
    assert.match(await early.line(), /^early /)
    early.close()
    await first.end('SIGTERM')
  })
})

longTest(
  'without it two masters may bind before anybody listens: one serves, the other is told, and does not try again',
  async () => {
    await inSandbox(async (box) => {
      box.env.MILLRACE_ADDON = 'none'
      const { port, close } = await occupy({ host: '127.0.0.1', port: 0 })
      await close()
      // Each worker waits until it may listen: by then both masters have bound.
      const waiting = `
      import { existsSync } from 'node:fs'
      import { setTimeout as sleep } from 'node:timers/promises'
      worker.onWorkerStart = async () => { console.log('bound'); while (!existsSync(process.argv[2])) await sleep(5) }`
      const module = box.file('app.js', echo(1, waiting, `text://127.0.0.1:${port}`))
      const first = box.begin('start', module, '--', join(box.directory, 'first-may-listen'))
      await first.says(/bound/)
      const second = box.begin(
        'start',
        '--run-dir',
        `${box.runDir}-2`,
        module,
        '--',
        join(box.directory, 'second-may-listen'),
      )
      await second.says(/bound/)
      box.file('first-may-listen', '')
      await first.says(/Press Ctrl/)
      box.file('second-may-listen', '')
      const { code, stdout, stderr } = await second.ended
      assert.is(code, 5)
      assert.match(stderr, new RegExp(`listen 127\\.0\\.0\\.1:${port}: EADDRINUSE`))
      assert.is(stdout.match(/bound/g)?.length, 1)
      assert.match(await ask(port, 'hello'), /^hello/)
      await first.end('SIGTERM')
    })
  },
)

test('a Unix socket that another server has bound, before anybody listens, is refused', async () => {
  await inSandbox(async (box) => {
    const path = join(box.directory, 'app.sock')
    const waiting = `
      import { existsSync } from 'node:fs'
      import { setTimeout as sleep } from 'node:timers/promises'
      worker.onWorkerStart = async () => { console.log('bound'); while (!existsSync(process.argv[2])) await sleep(5) }`
    const go = join(box.directory, 'go')
    const first = box.begin('start', box.file('app.js', echo(1, waiting, `unix://${path}`)), '--', go)
    await first.says(/bound/)
    const other = box.file('other.js', echo(1, '', `unix://${path}`))
    const { code, stderr } = await box.command('start', '--run-dir', `${box.runDir}-2`, other)
    assert.is(code, 5)
    assert.match(stderr, /bind .*app\.sock: EADDRINUSE/)
    box.file('go', '')
    await first.says(/Press Ctrl/)
    const client = await Client.connect(path)
    client.close()
    await first.end('SIGTERM')
  })
})

longTest('a host name is looked up once, in the master', async () => {
  await inSandbox(async (box) => {
    const status = await box.start(box.file('app.js', echo(1, '', 'text://localhost:0')))
    const address = status.groups[0]?.address ?? ''
    assert.match(address, /^(127\.0\.0\.1|\[::1\]):\d+$/)
    assert.match(await ask(portOf(status), 'hello', address.startsWith('[') ? '::1' : '127.0.0.1'), /^hello/)
    await box.stop()
  })
})

test('a stale Unix socket is replaced, served, and removed at the end', async () => {
  await inSandbox(async (box) => {
    const path = join(box.directory, 'app.sock')
    const crashing = `require('net').createServer().listen('${path}', () => process.kill(process.pid, 'SIGKILL'))`
    await box.spawn(process.execPath, ['-e', crashing]).ended
    const text = echo(2, `worker.protocol = text`, `unix://${path}`).replace('{ Worker }', '{ Worker, text }')
    const status = await box.start(box.file('app.js', text))
    assert.is(status.groups[0]?.address, path)
    assert.match(await ask(path, 'hello'), /^hello/)
    await box.stop()
    await until(() => net.connect(path).destroy() && true)
    const gone = await box.spawn('test', ['-e', path]).ended
    assert.is(gone.code, 1)
  })
})

test('a connection made while no worker lives is served by the next one', async () => {
  await inSandbox(async (box) => {
    const status = await box.start(box.file('app.js', echo(1)))
    const [worker] = workersOf(status)
    process.kill(worker?.pid ?? 0, 'SIGSTOP')
    const client = await Client.connect(portOf(status))
    client.send('hello')
    process.kill(worker?.pid ?? 0, 'SIGKILL')
    assert.match(await client.line(), /^hello \d+$/)
    client.close()
    await box.stop()
  })
})

test('a Unix socket whose file somebody has removed: the log says so, and a reload makes it anew', async () => {
  await inSandbox(async (box) => {
    const path = join(box.directory, 'app.sock')
    const text = echo(2, 'worker.protocol = text', `unix://${path}`).replace('{ Worker }', '{ Worker, text }')
    await box.start(box.file('app.js', text))
    const client = await Client.connect(path)
    rmSync(path)
    await until(() => /app\.sock: somebody has removed it/.test(box.log()), 10_000)
    succeeded(await box.command('reload'))
    assert.match(await ask(path, 'hello'), /^hello/)
    client.close()
    await box.stop()
    assert.not.ok(existsSync(path))
  })
})

/** Puts another server, or a plain file, in the place of a Unix socket. Returns what takes that away again. */
async function take(path: string, what: 'server' | 'file'): Promise<() => unknown> {
  rmSync(path)
  if (what === 'server') return (await occupy({ path })).close // removes its file, too
  writeFileSync(path, '')
  return () => rmSync(path)
}

for (const what of ['server', 'file'] as const)
  caseTest(what === 'server')(
    `a Unix socket whose path another ${what} has taken: the log says so, and nothing that cannot mend it says that all is well`,
    async () => {
      await inSandbox(async (box) => {
        const path = join(box.directory, 'app.sock')
        const text = echo(1, 'worker.protocol = text', `unix://${path}`).replace('{ Worker }', '{ Worker, text }')
        const status = await box.start(box.file('app.js', text))
        const giveBack = await take(path, what)
        const { ino } = statSync(path)
        await until(() => /app\.sock: something else is there now/.test(box.log()), 10_000)
        const commands = what === 'server' ? [['reload']] : [['reload'], ['restart', 'echo'], ['upgrade']]
        for (const words of commands) {
          const { code, stderr } = await box.command(...words)
          assert.match(stderr, /app\.sock: EADDRINUSE/)
          assert.is(code, 5, words.join(' '))
        }
        const [before, after] = [status, await box.status()].map((one) => workersOf(one)[0]?.pid)
        assert.is(after, before)
        assert.is(statSync(path).ino, ino, 'what has taken the path keeps it')
        await giveBack()
        succeeded(await box.command('reload'))
        assert.match(await ask(path, 'hello'), /^hello/)
        await box.stop()
        assert.not.ok(existsSync(path))
      })
    },
  )

longTest('an upgrade makes a Unix socket anew whose file somebody has removed', async () => {
  await inSandbox(async (box) => {
    const [path, inner] = [join(box.directory, 'app.sock'), join(box.directory, 'inner.sock')]
    const listens = `
      worker.protocol = text
      worker.onWorkerStart = async () => {
        const inner = new Worker('unix://${inner}', { protocol: text })
        inner.onMessage = worker.onMessage
        await inner.listen()
      }`
    await box.start(box.file('app.js', echo(2, listens, `unix://${path}`).replace('{ Worker }', '{ Worker, text }')))
    for (const one of [path, inner]) rmSync(one)
    succeeded(await box.command('upgrade'))
    for (const one of [path, inner]) assert.match(await ask(one, 'hello'), /^hello/)
    await box.stop()
    for (const one of [path, inner]) assert.not.ok(existsSync(one))
  })
})

longTest('a scale with the file of the Unix socket removed leaves it so: nobody would serve another', async () => {
  await inSandbox(async (box) => {
    const path = join(box.directory, 'app.sock')
    const text = echo(2, 'worker.protocol = text', `unix://${path}`).replace('{ Worker }', '{ Worker, text }')
    await box.start(box.file('app.js', text))
    rmSync(path)
    succeeded(await box.command('scale', 'echo', '1'))
    assert.not.ok(existsSync(path))
    succeeded(await box.command('reload'))
    assert.match(await ask(path, 'hello'), /^hello/)
    await box.stop()
  })
})

test('a Unix socket that processes listen on by themselves is made anew by a reload, too', async () => {
  await inSandbox(async (box) => {
    const path = join(box.directory, 'app.sock')
    const text = `
      import { Worker, text } from 'millrace'
      const worker = new Worker('', { name: 'lone', count: 2 })
      worker.onWorkerStart = async () => {
        const inner = new Worker('unix://${path}', { protocol: text })
        inner.onMessage = (connection, line) => connection.send(line)
        await inner.listen()
      }
      await Worker.runAll()`
    await box.start(box.file('app.js', text))
    rmSync(path)
    succeeded(await box.command('reload'))
    assert.match(await ask(path, 'hello'), /^hello/)
    await box.stop()
    assert.not.ok(existsSync(path))
  })
})

longTest(
  'a process that ends is followed by one, even if the Unix socket that it listens on cannot be made anew',
  async () => {
    await inSandbox(async (box) => {
      const path = join(box.directory, 'inner.sock')
      const listens = `
        worker.maxRequests = 2
        worker.onWorkerStart = () => new Worker('unix://${path}').listen()`
      const status = await box.start(box.file('app.js', echo(1, listens)))
      const giveBack = await take(path, 'server')
      process.kill(workersOf(status)[0]?.pid ?? 0, 'SIGKILL')
      await until(async () => {
        const [worker] = workersOf(await box.status())
        return worker?.incarnation === 2 && worker.state === 'ready'
      })
      for (let n = 0; n < 2; n++) assert.match(await ask(portOf(status), 'x'), /^x/)
      await until(async () => workersOf(await box.status())[0]?.incarnation === 3, 20_000) // it was at its limit
      assert.is((await box.command('reload')).code, 5)
      await giveBack()
      succeeded(await box.command('reload'))
      assert.ok(existsSync(path))
      await box.stop()
    })
  },
)

test.run()
