// The `sys` part of the addon against the real kernel: every call, its errors, and many that make no sense. In a
// run without the addon (`--no-addons`) the same file shows that this is said, and nothing breaks.

import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import dgram from 'node:dgram'
import { once } from 'node:events'
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import net from 'node:net'
import { networkInterfaces, tmpdir } from 'node:os'
import { basename, dirname, join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { addon, load } from '../../src/addon.ts'
import type { Descriptor, Sys } from '../../src/addon-types.ts'
import { engineWords } from '../../src/process/status/status.ts'
import { atLength } from '../support/length.ts'
import { until } from '../support/until.ts'
import { root } from '../tooling/support.ts'

const { sys, source, why } = addon()

const TCP = { transport: 'tcp', host: '127.0.0.1', port: 0, path: '' } as const

/** Runs with what it opens, and looks that every descriptor is gone afterwards. */
function sysTest(title: string, use: (sys: Sys, own: <T extends Descriptor>(one: T) => T) => unknown): void {
  if (sys === null) return
  test(title, async () => {
    const before = descriptors()
    const opened: Descriptor[] = []
    await use(sys, (one) => {
      opened.push(one)
      return one
    })
    for (const one of opened) one.close()
    await until(() => descriptors() <= before)
  })
}

function descriptors(): number {
  return readdirSync('/proc/self/fd').length
}

function codeOf(call: () => unknown): string {
  try {
    call()
  } catch (error) {
    const { code, syscall = '' } = error as { code: string; syscall?: string }
    return `${syscall} ${code}`.trim()
  }
  return 'nothing was thrown'
}

test('it says where it comes from, or why it is not there', () => {
  assert.is(source === 'none', sys === null)
  assert.ok(why.length > 0)
})

for (const [name, host, family] of [
  ['IPv4', '127.0.0.1', 4],
  ['IPv6', '::1', 6],
] as const) {
  sysTest(`TCP over ${name}: bound, named, listened on by node:net, and a second one is refused`, async (sys, own) => {
    const socket = own(sys.bind({ ...TCP, host }))
    const { address, port, family: actual } = sys.socketName(socket.fd)
    assert.equal([address, actual], [host, family])
    sys.listen(socket.fd, 100)
    assert.is(
      codeOf(() => sys.bind({ ...TCP, host, port })),
      'bind EADDRINUSE',
    )
    const client = net.connect(port, host)
    await once(client, 'connect')
    await until(() => sys.acceptQueue(socket.fd).length === 1)
    assert.is(sys.acceptQueue(socket.fd).limit, 100)
    const server = net.createServer((connection) => connection.end('hello'))
    server.listen({ fd: sys.duplicate(socket.fd).release() })
    const [bytes] = await once(client, 'data')
    assert.is(String(bytes), 'hello')
    client.destroy()
    server.close()
  })
}

sysTest('a UDP socket with one peer hears nobody else, and is told that nobody is there', async (sys, own) => {
  for (const [host, family] of [
    ['127.0.0.1', 4],
    ['::1', 6],
  ] as const) {
    const peer = dgram.createSocket(`udp${family}`)
    await new Promise<void>((bound) => peer.bind(0, host, bound))
    const { port } = peer.address()
    const socket = own(sys.connectDatagrams(host, port))
    const name = sys.socketName(socket.fd)
    assert.equal([name.address, name.family], [host, family])
    const receiver = dgram.createSocket(`udp${family}`)
    receiver.bind({ fd: sys.duplicate(socket.fd).release() })
    const stranger = dgram.createSocket(`udp${family}`)
    await new Promise<void>((sent) => stranger.send('from a stranger', name.port, host, () => sent()))
    peer.send('from the peer', name.port, host)
    const [message] = await once(receiver, 'message')
    assert.is(String(message), 'from the peer')
    for (const one of [peer, receiver, stranger]) one.close()
  }
})

sysTest('an address of a link says by which interface', (sys, own) => {
  assert.is(
    codeOf(() => sys.connectDatagrams('fe80::1', 9)),
    'connect EINVAL',
  )
  assert.is(
    codeOf(() => sys.connectDatagrams('fe80::1%nowhere', 9)),
    'inet_pton EINVAL',
  )
  assert.is(
    codeOf(() => sys.bind({ ...TCP, host: 'fe80::1%lo' })),
    'bind EADDRNOTAVAIL',
  )
  const local = Object.entries(networkInterfaces()).flatMap(([name, list = []]) =>
    list.filter(({ address }) => address.startsWith('fe80:')).map(({ address }) => `${address.split('%')[0]}%${name}`),
  )
  for (const host of local) {
    const socket = own(sys.bind({ ...TCP, host }))
    assert.is(sys.socketName(socket.fd).address, host)
  }
})

sysTest('an IPv6 wildcard is IPv6 alone, or both when that is asked for', async (sys, own) => {
  for (const isDualStack of [false, true]) {
    const socket = own(sys.bind({ ...TCP, host: '::', isDualStack }))
    sys.listen(socket.fd, 10)
    const { port } = sys.socketName(socket.fd)
    const client = net.connect(port, '127.0.0.1')
    const outcome = await Promise.race([
      once(client, 'connect').then(() => 'connect'),
      once(client, 'error').then(() => 'error'),
    ]).catch(() => 'error')
    assert.is(outcome, isDualStack ? 'connect' : 'error')
    client.destroy()
  }
})

sysTest('Unix and UDP sockets', async (sys, own) => {
  const folder = mkdtempSync(join(tmpdir(), 'mr-sys-'))
  const path = join(folder, 's.sock')
  const local = own(sys.bind({ transport: 'unix', host: '', port: 0, path }))
  assert.equal(sys.socketName(local.fd), { family: 0, address: path, port: 0 })
  assert.is(
    codeOf(() => sys.bind({ transport: 'unix', host: '', port: 0, path })),
    'bind EADDRINUSE',
  )
  sys.listen(local.fd, 1)
  const client = net.connect(path)
  await once(client, 'connect')
  const fd = (client as unknown as { _handle: { fd: number } })._handle.fd
  assert.equal(sys.peerCredentials(fd), { pid: process.pid, uid: process.getuid?.(), gid: process.getgid?.() })
  client.destroy()
  rmSync(folder, { recursive: true })

  const udp = own(sys.bind({ ...TCP, transport: 'udp' }))
  const receiver = dgram.createSocket('udp4')
  receiver.bind({ fd: sys.duplicate(udp.fd).release() }) // it listens when this returns
  const sender = dgram.createSocket('udp4')
  sender.send('ping', sys.socketName(udp.fd).port, '127.0.0.1')
  const [message] = await once(receiver, 'message')
  assert.is(String(message), 'ping')
  sender.close()
  receiver.close()
})

sysTest('SO_REUSEPORT: several on one port, and the choice among them', async (sys, own) => {
  const first = own(sys.bind({ ...TCP, reusePort: true }))
  const { port } = sys.socketName(first.fd)
  const all = [
    first,
    own(sys.bind({ ...TCP, port, reusePort: true })),
    own(sys.bind({ ...TCP, port, reusePort: true })),
  ]
  for (const { fd } of all) sys.listen(fd, 1000)
  assert.is(
    codeOf(() => sys.bind({ ...TCP, port })),
    'bind EADDRINUSE',
  )
  sys.chooseAmong(first.fd, [0, 2])
  const clients = await connected(port, 200)
  const pending = all.map(({ fd }) => sys.acceptQueue(fd).length)
  assert.is(pending[1], 0)
  assert.is((pending[0] ?? 0) + (pending[2] ?? 0), 200)
  assert.ok(Math.min(pending[0] ?? 0, pending[2] ?? 0) > 50, pending.join(' '))
  for (const client of clients) client.destroy()
  assert.is(
    codeOf(() => sys.chooseAmong(first.fd, [])),
    'setsockopt EINVAL',
  )
})

async function connected(port: number, count: number): Promise<net.Socket[]> {
  const clients = Array.from({ length: count }, () => net.connect(port, '127.0.0.1'))
  await Promise.all(clients.map((client) => once(client, 'connect')))
  return clients
}

sysTest('descriptors go to another process and work there; a pair that has closed is an end', async (sys, own) => {
  const folder = mkdtempSync(join(tmpdir(), 'mr-sys-'))
  const path = join(folder, 's.sock')
  const server = net.createServer({ pauseOnConnect: true }).listen(path)
  await once(server, 'listening')
  const [client, [accepted]] = [net.connect(path), await once(server, 'connection')] as [net.Socket, [net.Socket]]
  const fdOf = (socket: net.Socket) => (socket as unknown as { _handle: { fd: number } })._handle.fd
  client.pause()
  const gift = own(sys.bind(TCP))
  assert.is(sys.sendDescriptors(fdOf(accepted), Buffer.from('take it'), [gift.fd, 1]), 7)
  const { bytes, descriptors: received, hasEnded } = sys.receiveDescriptors(fdOf(client), 100)
  assert.equal([bytes.toString(), received.length, hasEnded], ['take it', 2, false])
  for (const one of received) own(one)
  assert.equal(sys.socketName(received[0]?.fd ?? -1), sys.socketName(gift.fd))
  assert.is(
    codeOf(() => sys.receiveDescriptors(fdOf(client), 100)),
    'recvmsg EAGAIN',
  )
  accepted.destroy()
  await until(() => codeOf(() => assert.not(sys.receiveDescriptors(fdOf(client), 1).hasEnded)) === 'ERR_ASSERTION')
  client.destroy()
  server.close()
  rmSync(folder, { recursive: true })
})

sysTest('options of a socket', (sys, own) => {
  const { fd } = own(sys.bind(TCP))
  sys.setKeepAlive(fd, 55)
  sys.setKeepAlive(fd, 0)
  sys.setNoDelay(fd, true)
  assert.is(
    codeOf(() => sys.setKeepAlive(fd, -1)),
    'ERR_INVALID_ARG_TYPE',
  )
  assert.is(
    codeOf(() => sys.acceptQueue(0)),
    'getsockopt ENOTSOCK',
  )
})

sysTest('errors name the call, and what it was made on', (sys) => {
  const bind = (more: object) => codeOf(() => sys.bind({ ...TCP, ...more }))
  assert.is(bind({ host: '192.0.2.1' }), 'bind EADDRNOTAVAIL')
  assert.is(bind({ host: 'localhost' }), 'inet_pton EINVAL')
  assert.is(
    codeOf(() => sys.connectDatagrams('localhost', 9)),
    'inet_pton EINVAL',
  )
  assert.is(
    codeOf(() => sys.connectDatagrams('127.0.0.1', 65_536)),
    'ERR_INVALID_ARG_TYPE',
  )
  assert.is(bind({ transport: 'unix', path: `/tmp/${'x'.repeat(200)}` }), 'bind ENAMETOOLONG')
  assert.is(bind({ transport: 'unix', path: '/nowhere/s.sock' }), 'bind ENOENT')
  assert.is(bind({ port: 65_536 }), 'ERR_INVALID_ARG_TYPE')
  assert.is(
    codeOf(() => sys.socketName(9999)),
    'getsockname EBADF',
  )
  assert.throws(() => sys.bind({ ...TCP, host: '192.0.2.1', port: 80 }), /^bind 192\.0\.2\.1:80: EADDRNOTAVAIL/)
})

sysTest('a descriptor is closed once, and is no number of somebody else afterwards', (sys) => {
  const first = sys.bind(TCP)
  const { fd } = first
  first.close()
  assert.is(first.fd, -1)
  const second = sys.bind(TCP)
  assert.is(second.fd, fd) // the number is given again
  first.close()
  assert.is(sys.socketName(second.fd).family, 4)
  second.close()
  assert.is(
    codeOf(() => sys.socketName(first.fd)),
    'ERR_INVALID_ARG_TYPE',
  )
  const { constructor: Made } = second as unknown as { constructor: new (...args: unknown[]) => unknown }
  assert.throws(() => new Made(5), /is made by the calls that open one/)
})

/** A program with the addon as `sys`, in a process of its own. */
function inProcess(body: string, ...args: string[]): ChildProcess {
  const program = `
    const { addon } = await import(${JSON.stringify(new URL('../../src/addon.js', import.meta.url).href)})
    const { sys } = addon()
    ${body}`
  return spawn(process.execPath, ['--input-type=module', '-e', program, ...args], {
    stdio: ['pipe', 'pipe', 'inherit'],
  })
}

async function outputOf(child: ChildProcess): Promise<string> {
  let output = ''
  child.stdout?.setEncoding('utf8').on('data', (text) => {
    output += text
  })
  await once(child, 'close')
  return output
}

sysTest('a signal when the parent ends; ESRCH when it has', async () => {
  const parent = inProcess(`
    import { spawn } from 'node:child_process'
    const program = \`
      const { addon } = await import(\${JSON.stringify(${JSON.stringify(new URL('../../src/addon.js', import.meta.url).href)})})
      try { addon().sys.setParentDeathSignal(9, 1); console.log('no error') } catch (error) { console.log(error.code) }
      addon().sys.setParentDeathSignal(9, process.ppid)
      console.log(process.pid)
      setInterval(() => {}, 1000)\`
    const child = spawn(process.execPath, ['--input-type=module', '-e', program], { stdio: ['ignore', 'inherit', 'inherit'], detached: true })
    setInterval(() => {}, 1000)`)
  let output = ''
  parent.stdout?.setEncoding('utf8').on('data', (text) => {
    output += text
  })
  await until(() => /\d+\n/.test(output))
  const [code = '', pid = ''] = output.split('\n')
  assert.is(code, 'ESRCH')
  parent.kill('SIGKILL')
  await until(() => !isAlive(Number(pid)))
})

function isAlive(pid: number): boolean {
  try {
    return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'))
  } catch {
    return false // ENOENT
  }
}

sysTest('orphans are reaped, and the children of Node are left to it', async () => {
  const output = await outputOf(
    inProcess(`
    import { spawn } from 'node:child_process'
    import { once } from 'node:events'
    sys.becomeReaper()
    const own = spawn('sh', ['-c', 'sleep 0.05; exit 7'])
    const ended = once(own, 'exit')
    const middle = spawn('sh', ['-c', '(sleep 0.05; exit 3) & exit 0'])
    await once(middle, 'exit')
    const reaped = []
    while (reaped.length === 0) { reaped.push(...sys.reap([own.pid])); await new Promise((r) => setTimeout(r, 5)) }
    const [code] = await ended
    console.log(JSON.stringify([code, reaped.map(({ code }) => code)]))`),
  )
  assert.is(output.trim(), '[7,[3]]')
})

sysTest('execute becomes another program, with the descriptors that are to stay', async () => {
  const output = await outputOf(
    inProcess(`
    const socket = sys.bind({ transport: 'tcp', host: '127.0.0.1', port: 0, path: '' })
    try { sys.execute('/nowhere', [], {}, []) } catch (error) { console.log(error.code) }
    await new Promise((r) => setImmediate(r)) // it goes on, as if nothing had been
    sys.execute('/bin/sh', ['sh', '-c', 'echo "$A $1 $$"; readlink /proc/self/fd/' + socket.fd, 'x', 'two words'], { A: 'a b', PATH: process.env.PATH }, [socket.fd])`),
  )
  const [error, line = '', link] = output.split('\n')
  assert.is(error, 'ENOENT')
  assert.match(line, /^a b two words \d+$/)
  assert.match(link ?? '', /^socket:/)
})

sysTest('notify speaks to systemd, by a path and by an abstract name', async (sys) => {
  const folder = mkdtempSync(join(tmpdir(), 'mr-sys-'))
  const path = join(folder, 'n.sock')
  const abstract = `@millrace-test-${process.pid}`
  for (const [name, receiver] of [
    [path, `UNIX-RECV:${path}`],
    [abstract, `ABSTRACT-RECV:${abstract.slice(1)}`],
  ] as const) {
    assert.is(codeOf(() => sys.notify(name, 'READY=1')).split(' ')[0], 'sendto') // nobody is there yet
    const systemd = spawn('socat', ['-u', receiver, '-'], { stdio: ['ignore', 'pipe', 'ignore'] })
    let heard = ''
    systemd.stdout.on('data', (text) => {
      heard += text
    })
    await until(() => codeOf(() => sys.notify(name, 'READY=1\nMAINPID=7')) === 'nothing was thrown')
    await until(() => heard.startsWith('READY=1\nMAINPID=7'))
    systemd.kill()
    await once(systemd, 'close')
  }
  assert.is(
    codeOf(() => sys.notify('', 'x')),
    'sendto EINVAL',
  )
  rmSync(folder, { recursive: true, force: true })
})

/** The bare exports of the binary, and `sys` as the rest of the program has it. */
for (const [side, count] of [
  ['binding', atLength(50_000, 1_000_000)],
  ['sys', atLength(20_000, 200_000)],
] as const) {
  sysTest(`${count} calls of ${side} that make no sense are exceptions, and nothing leaks`, async () => {
    const output = await outputOf(
      inProcess(
        `
    import { readdirSync } from 'node:fs'
    import { createRequire } from 'node:module'
    const calls = process.argv[2] === 'sys' ? sys : createRequire(import.meta.url)(Object.keys(createRequire(import.meta.url).cache).find((path) => path.endsWith('.node')))
    let seed = Number(process.argv[1])
    const random = (n) => { seed = (Math.imul(seed, 1103515245) + 12345) >>> 0; return (seed >>> 8) % n }
    const closed = sys.bind({ transport: 'tcp', host: '127.0.0.1', port: 0, path: '' }); closed.close()
    const detached = new Uint8Array(8); structuredClone(detached.buffer, { transfer: [detached.buffer] })
    const values = [undefined, null, true, false, NaN, -1, 0.5, 1e300, 9999, 100000, 2 ** 31, '', 'x', '\\0', 'x'.repeat(300), '127.0.0.1', {}, [], [1, 2],
      new Uint8Array(0), new Int32Array(0), new Int32Array([9999]), new Int32Array([-5]), new Uint8Array(9), new Float64Array(3), new DataView(new ArrayBuffer(8)),
      () => 1, Symbol('s'), 10n, closed, closed.fd, new Proxy({}, {}), { get transport() { throw new Error('getter') } }, sys, detached]
    const names = Object.keys(calls).filter((name) => name !== 'becomeReaper' && name !== 'reap')
    const members = Object.getOwnPropertyDescriptors(Object.getPrototypeOf(closed))
    const methods = [members.close.value, members.release.value, members.fd.get, closed.constructor]
    const before = readdirSync('/proc/self/fd').length
    let thrown = 0
    for (let n = 0; n < ${count}; n++) {
      const call = random(50) === 0 ? methods[random(methods.length)] : calls[names[random(names.length)]]
      const args = Array.from({ length: random(7) }, () => values[random(values.length)])
      try { call.apply(values[random(values.length)], args)?.close?.() } catch { thrown++ }
    }
    const more = () => readdirSync('/proc/self/fd').length - before
    for (const late = Date.now() + 10_000; more() > 0 && Date.now() < late; ) {
      globalThis.gc?.()
      await new Promise((r) => setTimeout(r, 5)) // finalizers run in a turn of their own
    }
    console.log(JSON.stringify({ thrown, more: more() }))`,
        '4711',
        side,
      ),
    )
    const { thrown, more } = JSON.parse(output)
    assert.ok(thrown > count * 0.9, `${thrown}`)
    assert.is(more, 0)
  })
}

sysTest('an accessor that is called on an object of another class reads nothing of it', (sys, own) => {
  const { zlib } = addon()
  const descriptor = own(sys.createMemory(4096))
  const others = [zlib?.newInflater(15), {}, null, Object.create(descriptor)]
  const { get } = Object.getOwnPropertyDescriptor(Object.getPrototypeOf(descriptor), 'fd') ?? {}
  assert.is(get?.call(descriptor), descriptor.fd)
  for (const other of others.filter((each) => each !== undefined)) {
    try {
      assert.is(get?.call(other), undefined)
    } catch (error) {
      assert.match((error as Error).message, /Invalid argument/)
    }
  }
})

sysTest('what was built here goes before what was packed, and if one cannot be loaded the other is tried', () => {
  const good = join(root, 'native/build/Release/millrace.node')
  if (!existsSync(good)) return // another addon is tested
  const box = mkdtempSync(join(tmpdir(), 'addon-'))
  const loaded = (here: string, there: string) => {
    const folder = mkdtempSync(join(box, 'x')) // Node loads a path once
    for (const [path, content] of [
      ['native/build/Release/millrace.node', here],
      ['prebuilds/x/millrace.node', there],
    ] as const) {
      mkdirSync(dirname(join(folder, path)), { recursive: true })
      if (content === 'good') copyFileSync(good, join(folder, path))
      else if (content !== '') writeFileSync(join(folder, path), content)
    }
    const { source: from, why: reason } = load(folder, 'x', '')
    return `${from}: ${reason.replaceAll(`${folder}/`, '').replaceAll(/(loaded): [^;]*/g, '$1')}`
  }
  try {
    assert.is(loaded('good', 'good'), 'built: built here')
    assert.is(loaded('', 'good'), 'prebuilt: prebuilt for x')
    assert.is(loaded('bad', 'good'), 'prebuilt: prebuilt for x')
    assert.is(loaded('good', 'bad'), 'built: built here')
    const both = 'native/build/Release/millrace.node cannot be loaded; prebuilds/x/millrace.node cannot be loaded'
    assert.is(loaded('bad', 'bad'), `none: ${both}`)
    assert.is(loaded('', ''), 'none: there is no binary for x, and none was built')
  } finally {
    rmSync(box, { recursive: true })
  }
})

sysTest('MILLRACE_ADDON is a path from where the process starts, with ./ or without', () => {
  const file = process.env.MILLRACE_ADDON || join(root, 'native/build/Release/millrace.node')
  const program = `
    const { addon } = await import(${JSON.stringify(new URL('../../src/addon.js', import.meta.url).href)})
    process.chdir('/')
    console.log(addon().source, addon().why)`
  for (const name of [basename(file), `./${basename(file)}`, file]) {
    const { stdout } = spawnSync(process.execPath, ['--input-type=module', '-e', program], {
      encoding: 'utf8',
      cwd: dirname(file),
      env: { ...process.env, MILLRACE_ADDON: name },
    })
    assert.is(stdout, 'given MILLRACE_ADDON\n', name)
  }
})

test('a reason that engine and addon share is said once', () => {
  assert.is(engineWords({ name: 'node', why: 'no file' }, 'no file'), 'engine node   addon: no file')
  assert.is(engineWords({ name: 'node', why: 'TLS' }, 'built here'), 'engine node (TLS)   addon: built here')
  assert.is(engineWords({ name: 'native', why: '' }, 'built here'), 'engine native   addon: built here')
})

test('without addons everything is there but it, and it says why', () => {
  const program = `
    const { addon, load } = await import(${JSON.stringify(new URL('../../src/addon.js', import.meta.url).href)})
    console.log(JSON.stringify([addon().why, load('/nowhere', 'linux-arm64-musl').why, load('/nowhere', 'x', 'none').why, load('/nowhere', 'x', '/etc/passwd').why]))`
  const { stdout } = spawnSync(process.execPath, ['--no-addons', '--input-type=module', '-e', program], {
    encoding: 'utf8',
  })
  const [off, missing, none, other] = JSON.parse(stdout)
  assert.match(off, /switched off by|there is no binary/)
  assert.is(missing, 'there is no binary for linux-arm64-musl, and none was built')
  assert.is(none, 'switched off by MILLRACE_ADDON=none')
  assert.match(other, /\/etc\/passwd cannot be loaded: /)
})

sysTest('memory: zeros that every mapping of it shows, with atomics; what is no such memory is refused', (sys, own) => {
  const memory = own(sys.createMemory(4096))
  const [one, two] = [0, 0].map(() => new BigInt64Array(sys.mapMemory(memory.fd, 4096))) as [
    BigInt64Array,
    BigInt64Array,
  ]
  assert.equal([one.length, one[0], two[511]], [512, 0n, 0n])
  assert.is(Atomics.add(one, 3, 5n), 0n)
  assert.is(Atomics.compareExchange(two, 3, 5n, 7n), 5n)
  assert.is(one[3], 7n)
  memory.close()
  assert.is(Atomics.load(two, 3), 7n) // a mapping needs no descriptor
  const other = own(sys.createMemory(4096))
  assert.is(
    codeOf(() => sys.mapMemory(other.fd, 8192)),
    'mmap EINVAL',
  )
  assert.is(
    codeOf(() => sys.mapMemory(own(sys.bind(TCP)).fd, 4096)),
    'mmap EINVAL',
  )
  assert.is(
    codeOf(() => sys.mapMemory(1_000_000, 4096)),
    'mmap EBADF',
  )
  assert.is(
    codeOf(() => sys.createMemory(0)),
    'ERR_INVALID_ARG_TYPE',
  )
})

test.run()
