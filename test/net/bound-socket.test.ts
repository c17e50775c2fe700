// Bound sockets: what is in use is EADDRINUSE and never another port, and no file is removed that is not ours.

import { execFile } from 'node:child_process'
import {
  chmodSync,
  chownSync,
  existsSync,
  linkSync,
  lstatSync,
  mkdirSync,
  readFileSync,
  renameSync,
  symlinkSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs'
import net from 'node:net'
import { dirname, join } from 'node:path'
import { promisify } from 'node:util'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { text } from '../../protocols/text.ts'
import { addon } from '../../src/addon.ts'
import { SystemError } from '../../src/errors.ts'
import { parseAddress } from '../../src/net/address.ts'
import {
  type BoundSocket,
  bindShared,
  bindSocket,
  fileId,
  fileIdOf,
  removeStaleSocket,
} from '../../src/net/bound-socket.ts'
import { nativeEngine } from '../../src/net/native-engine.ts'
import { nodeEngine } from '../../src/net/node-engine.ts'
import { Worker } from '../../src/worker.ts'
import { Client, whereIs, withPath } from '../support/tcp.ts'
import { rejects } from '../support/until.ts'
import { asRoot, linkLocal, NO_SUCH_HOST, withAddon } from '../support/where.ts'

const bind = (address: string) => bindSocket(parseAddress(address))

async function withBound(address: string, use: (bound: BoundSocket) => unknown): Promise<void> {
  const bound = await bind(address)
  try {
    await use(bound)
  } finally {
    bound.close()
  }
}

/** Somebody else's server, of plain node. */
async function withForeign(where: net.ListenOptions, use: (server: net.Server) => unknown): Promise<void> {
  const server = net.createServer((socket) => socket.destroy())
  await new Promise<void>((resolve, reject) => server.once('error', reject).listen(where, resolve))
  try {
    await use(server)
  } finally {
    server.close()
  }
}

/** What kill -9 of a server leaves: a socket file with nobody behind it. */
async function leaveStale(path: string): Promise<void> {
  await withForeign({ path: `${path}.live` }, () => linkSync(`${path}.live`, path))
}

test('port 0 becomes a port, for IPv4 and IPv6', async () => {
  await withBound('tcp://127.0.0.1:0', ({ endpoint, fd }) => {
    assert.match(endpoint, /^127\.0\.0\.1:[1-9]\d*$/)
    assert.ok(fd > 2)
  })
  await withBound('tcp://[::1]:0', ({ endpoint }) => assert.match(endpoint, /^\[::1\]:[1-9]\d*$/))
})

test('a host name is looked up, and an unknown one named', async () => {
  await withBound('tcp://localhost:0', ({ endpoint }) => assert.match(endpoint, /^(127\.0\.0\.1|\[::1\]):\d+$/))
  const error = await bind(`tcp://${NO_SUCH_HOST}:80`).then(
    () => null,
    (error: unknown) => error,
  )
  assert.instance(error, SystemError)
  assert.ok((error as Error).message.startsWith(`getaddrinfo ${NO_SUCH_HOST}: `), String(error))
})

test('a port that somebody listens on is EADDRINUSE, and never another port', async () => {
  for (const host of ['127.0.0.1', '::1']) {
    await withForeign({ host, port: 0 }, async (server) => {
      const { port } = server.address() as net.AddressInfo
      const shown = host.includes(':') ? `[${host}]` : host
      const error = await rejects(bind(`tcp://${shown}:${port}`), 'EADDRINUSE')
      assert.is(error.message, `bind ${shown}:${port}: EADDRINUSE (address already in use)`)
    })
  }
})

test('the wildcard address is in use where a single one is', async () => {
  await withForeign({ host: '127.0.0.1', port: 0 }, async (server) => {
    const { port } = server.address() as net.AddressInfo
    await rejects(bind(`tcp://0.0.0.0:${port}`), 'EADDRINUSE')
  })
})

test('of two that have bound and not listened, the second to listen fails and serves nowhere', async () => {
  await withBound('tcp://127.0.0.1:0', async (first) => {
    const second = await bind(`tcp://${first.endpoint}`).catch(() => null)
    if (second === null) return // this kernel refuses at bind
    const listen = ({ handle, endpoint }: BoundSocket) =>
      nodeEngine.listen({ handle, backlog: 5, expected: endpoint }, () => null)
    const listener = await listen(first)
    await rejects(listen(second), 'EADDRINUSE')
    listener.close()
    second.close()
  })
})

withAddon('who binds also listens: a second server is refused there, and who connects waits', async () => {
  const local = linkLocal()
  await withPath(async (path) => {
    for (const ip of ['127.0.0.1', '[::1]', ...(local === undefined ? [] : [`[${local}]`]), '']) {
      const address = ip === '' ? `unix://${path}` : `tcp://${ip}:0`
      const bound = await bindSocket(parseAddress(address), 5)
      const client = net.connect(whereIs(bound.endpoint) as net.NetConnectOpts)
      await new Promise<void>((resolve, reject) => client.once('connect', resolve).once('error', reject))
      const again = parseAddress(address.startsWith('unix') ? address : `tcp://${bound.endpoint}`)
      await rejects(bindSocket(again, 5), 'EADDRINUSE')
      client.on('error', () => undefined).destroy()
      bound.close()
    }
  })
})

test('a backlog of any size is taken, by the master and by each engine', async () => {
  const { sys } = addon()
  for (const backlog of [1e300, 2 ** 32, 2 ** 31, 511.5]) {
    for (const engine of [nodeEngine, nativeEngine()]) {
      const bound = await bindSocket(parseAddress('tcp://127.0.0.1:0'), backlog)
      const { handle, endpoint } = bound
      const listener = await engine?.listen({ handle, backlog, expected: endpoint }, () => null)
      const limit = sys?.acceptQueue(bound.fd).limit ?? 0
      if (sys !== null) assert.ok(limit > 100, `${engine?.name} with ${backlog}: ${limit}`)
      listener?.close()
      bound.close()
    }
  }
})

test('an IPv6 wildcard takes IPv4 too, also where several sockets share the port', async () => {
  const { sys } = addon()
  const ways = [() => bindSocket(parseAddress('tcp://[::]:0'), 5)]
  if (sys !== null) ways.push(async () => bindShared(sys, '::', 0, 5))
  for (const way of ways) {
    const bound = await way()
    const listener = await nodeEngine.listen({ handle: bound.handle, backlog: 5, expected: bound.endpoint }, () => null)
    const client = net.connect(Number(bound.endpoint.split(':').at(-1)), '127.0.0.1')
    await new Promise<void>((resolve, reject) => client.once('connect', resolve).once('error', reject))
    client.on('error', () => undefined).destroy()
    listener.close()
    bound.close()
  }
})

test('a handle that is bound elsewhere than declared is refused', async () => {
  const bound = await bind('tcp://127.0.0.1:0')
  const elsewhere = { handle: bound.handle, backlog: 5, expected: '127.0.0.1:1' }
  await rejects(
    nodeEngine.listen(elsewhere, () => null),
    'EADDRINUSE',
  )
  bound.close()
})

test('an address of another machine is EADDRNOTAVAIL', async () => {
  await rejects(bind('tcp://192.0.2.1:0'), 'EADDRNOTAVAIL')
})

test('a worker listens on a bound handle, and tells its port', async () => {
  for (const scheme of ['text://127.0.0.1:0', 'text://[::1]:0']) {
    await withBound(scheme, async (bound) => {
      const worker = new Worker(scheme, { protocol: text, onMessage: (connection, line) => connection.send(line) })
      await worker.listenOn({ handle: bound.handle, expected: bound.endpoint })
      assert.is(worker.getSocketName(), `text://${bound.endpoint}`)
      const client = new Client(net.connect(whereIs(bound.endpoint) as net.NetConnectOpts))
      client.socket.end('hello\n')
      await client.expect('hello\n')
      await client.closed()
      await worker.drain(1000)
    })
  }
})

test('a Unix socket is bound, served and taken away', async () => {
  await withPath(async (path) => {
    await withBound(`unix://${path}`, async (bound) => {
      assert.is(bound.endpoint, path)
      assert.ok(existsSync(path))
      const worker = new Worker(`unix://${path}`, {
        protocol: text,
        onMessage: (connection, line) => connection.send(line),
      })
      await worker.listenOn({ handle: bound.handle, expected: bound.endpoint })
      const client = new Client(net.connect({ path }))
      client.socket.end('hello\n')
      await client.expect('hello\n')
      await client.closed()
      await worker.drain(1000)
    })
    assert.not(existsSync(path))
  })
})

test('a Unix socket that somebody listens on is EADDRINUSE, and stays', async () => {
  await withPath((path) =>
    withForeign({ path }, async () => {
      const before = fileId(path)
      await rejects(bind(`unix://${path}`), 'EADDRINUSE')
      assert.is(fileId(path), before)
    }),
  )
})

test('a stale Unix socket is replaced', async () => {
  await withPath(async (path) => {
    await leaveStale(path)
    const before = fileId(path)
    assert.is.not(before, '')
    await withBound(`unix://${path}`, () => assert.is.not(fileId(path), before))
  })
})

test('where libuv takes the last change for the birth, a file is still the same after it', async () => {
  await withPath((path) => {
    writeFileSync(path, '')
    const found = lstatSync(path, { bigint: true })
    const changed = { ...found, birthtimeNs: found.birthtimeNs + 1n } as typeof found
    assert.is(fileIdOf(changed, false), fileIdOf(found, false))
    assert.is.not(fileIdOf(changed, true), fileIdOf(found, true))
  })
})

test('what is no socket is never removed', async () => {
  await withPath(async (path) => {
    writeFileSync(path, 'precious')
    await rejects(bind(`unix://${path}`), 'EADDRINUSE')
    assert.is(readFileSync(path, 'utf8'), 'precious')
    const directory = `${path}.d`
    mkdirSync(directory)
    await rejects(bind(`unix://${directory}`), 'EADDRINUSE')
    const link = `${path}.link`
    await leaveStale(`${path}.target`)
    symlinkSync(`${path}.target`, link)
    await rejects(bind(`unix://${link}`), 'EADDRINUSE')
    assert.ok(existsSync(`${path}.target`))
  })
})

test('removeStaleSocket takes a path that does not exist', async () => {
  await withPath((path) => removeStaleSocket(path))
})

test('a socket in a directory that does not exist is an error that names it', async () => {
  await withPath(async (path) => {
    const error = await rejects(bind(`unix://${path}/no/such.sock`), 'ENOTDIR').catch(() =>
      rejects(bind(`unix://${dirname(path)}/no/such.sock`), 'ENOENT').catch(() =>
        rejects(bind(`unix://${dirname(path)}/no/such.sock`), 'EACCES'),
      ),
    )
    assert.match(error.message, /^bind .*such\.sock: E/)
  })
})

test('closing unlinks only what is ours', async () => {
  await withPath(async (path) => {
    const bound = await bind(`unix://${path}`)
    unlinkSync(path)
    await withForeign({ path }, () => {
      const theirs = fileId(path)
      bound.close()
      assert.is(fileId(path), theirs)
    })
  })
  await withPath(async (path) => {
    const bound = await bind(`unix://${path}`)
    renameSync(path, `${path}.moved`)
    writeFileSync(path, 'theirs')
    bound.close()
    assert.is(readFileSync(path, 'utf8'), 'theirs')
    unlinkSync(`${path}.moved`)
  })
  await withPath(async (path) => {
    const bound = await bind(`unix://${path}`)
    unlinkSync(path)
    bound.close() // gone already
    assert.not(existsSync(path))
  })
  await withPath(async (path) => {
    const bound = await bind(`unix://${path}`)
    unlinkSync(path)
    mkdirSync(path)
    bound.close()
    assert.ok(existsSync(path))
  })
  await withPath(async (path) => {
    const bound = await bind(`unix://${path}`)
    bound.close()
    assert.not(existsSync(path))
  })
})

asRoot(
  'a socket file that the user may not connect to stays, and the error says that nobody knows who has it',
  async () => {
    const alice = { user: null, uid: 12_345, gid: 12_345 }
    await withPath(async (path) => {
      await leaveStale(path)
      chmodSync(path, 0o755)
      chownSync(dirname(path), alice.uid, alice.gid)
      const error = await rejects(bindSocket(parseAddress(`unix://${path}`), 5, alice), 'EADDRINUSE')
      const why = `'uid 12345' may not connect to it, to see whether it is in use; if it is not, remove it`
      assert.is(error.message, `bind ${path}: EADDRINUSE (address already in use): ${why}`)
      assert.ok(existsSync(path))
      chownSync(path, alice.uid, alice.gid)
      const bound = await bindSocket(parseAddress(`unix://${path}`), 5, alice)
      bound.close(alice)
      assert.not(existsSync(path))
    })
  },
)

test('EACCES is said with the address', async () => {
  await withPath(async (path) => {
    // Root may do everything, so this runs as nobody, where the test runs as root.
    chmodSync(dirname(path), 0o500)
    const code = `
      import { parseAddress } from '${import.meta.resolve('../../src/net/address.js')}'
      import { bindSocket } from '${import.meta.resolve('../../src/net/bound-socket.js')}'
      if (process.getuid() === 0) process.setuid(65534)
      bindSocket(parseAddress('unix://${join(dirname(path), 'denied.sock')}')).catch((error) => console.log(error.message))`
    const { stdout } = await promisify(execFile)(process.execPath, ['--input-type=module', '-e', code])
    assert.is(stdout.trim(), `bind ${join(dirname(path), 'denied.sock')}: EACCES (permission denied)`)
  })
})

test('an IPv6 address in another spelling is the same address', async () => {
  const bound = await bindSocket(parseAddress('tcp://[0:0:0:0:0:0:0:1]:0'))
  assert.match(bound.endpoint, /^\[::1\]:\d+$/)
  bound.close()
})

test.run()
