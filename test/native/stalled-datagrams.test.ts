// A kernel that takes no more datagrams, since it looks for a neighbour that does not answer: they wait here, cost nothing
// meanwhile, and leave in order. Loopback never says that it is full, so this needs a network of its own (unshare(1),
// ip(8)).

import { execFileSync, spawnSync } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { addon } from '../../src/addon.ts'
import { ipAddress } from '../../src/net/ip-addresses.ts'
import { NativeDatagrams } from '../../src/net/native-datagrams.ts'
import { Kind } from '../../src/net/rings.ts'
import { nextTurn, until } from '../support/until.ts'
import { where } from '../support/where.ts'

const NEIGHBOUR = '10.9.9.2'
/** More than the kernel's send buffer of a socket has room for. */
const COUNT = 3000

const { sys, newEngine } = addon()
const isInside = process.env.TEST_IN_NETWORK === 'its own'
const canBeMade = () => spawnSync('unshare', ['-rn', 'ip', 'link', 'add', 'type', 'veth']).status === 0

if (isInside) {
  test('what the kernel does not take waits, and leaves when it does', async () => {
    makeNetwork()
    const failures: string[] = []
    const failed = ({ message }: Error) => failures.push(message)
    const socket = open()
    const to = ipAddress(NEIGHBOUR)
    for (let n = 0; n < COUNT; n++) socket.send(Buffer.alloc(200), to, 9, failed)
    socket.send('to all', ipAddress('255.255.255.255'), 9, failed)
    await nextTurn()
    const stalled = socket.queuedBytes
    assert.ok(stalled > 200_000, `only ${stalled} bytes wait`)
    const idle = process.cpuUsage()
    await nextSecond()
    const { user, system } = process.cpuUsage(idle)
    assert.ok(user + system < 200_000, `${user + system} us of CPU in a second of waiting`)
    assert.is(socket.queuedBytes, stalled)
    assert.equal(failures, [])
    const { handle } = socket
    socket.handle = (kind, a, b) => {
      handle.call(socket, kind, a, b)
      if (kind === Kind.Drained) socket.send('late', to, 9, failed) // as another handler of the batch may
    }
    execFileSync('ip', ['neigh', 'replace', NEIGHBOUR, 'lladdr', addressOf('v1'), 'dev', 'v0'])
    await socket.drained()
    await until(() => failures.length === 1)
    assert.match(failures[0] ?? '', /^send 255\.255\.255\.255:9: /)
    await until(() => sentPackets() > COUNT)
    assert.is(socket.queuedBytes, 0)
    socket.destroy()
  })

  test('a socket that closes takes what waits with it', async () => {
    execFileSync('ip', ['neigh', 'flush', 'dev', 'v0'])
    execFileSync('ip', ['neigh', 'del', NEIGHBOUR, 'dev', 'v0'])
    const socket = open()
    for (let n = 0; n < COUNT; n++) socket.send(Buffer.alloc(200), ipAddress(NEIGHBOUR), 9, () => undefined)
    await nextTurn()
    assert.ok(socket.queuedBytes > 0)
    const drained = socket.drained()
    socket.destroy()
    await drained
    assert.is(socket.queuedBytes, 0)
  })
} else {
  const isPossible = newEngine !== null && canBeMade()
  where(isPossible, 'a network of its own, and the engine')('in a network of its own', () => {
    const env = { ...process.env, TEST_IN_NETWORK: 'its own' }
    const { status, stdout } = spawnSync('unshare', ['-rn', process.execPath, ...process.argv.slice(1)], { env })
    assert.is(status, 0, String(stdout))
  })
}

function makeNetwork(): void {
  const ip = (line: string) => execFileSync('ip', line.split(' '))
  ip('link set lo up')
  ip('link add v0 type veth peer name v1')
  ip('addr add 10.9.9.1/24 dev v0')
  ip('link set v0 up')
  ip('link set v1 up')
  writeFileSync('/proc/sys/net/ipv4/neigh/v0/unres_qlen_bytes', '100000000') // by default the oldest are dropped
}

function open(): NativeDatagrams {
  const fd = sys?.bind({ transport: 'udp', host: '0.0.0.0', port: 0, path: '' }).release() ?? -1
  return new NativeDatagrams(fd, { received: () => undefined, failed: () => undefined })
}

function addressOf(link: string): string {
  const [, address = ''] =
    /link\/ether (\S+)/.exec(execFileSync('ip', ['link', 'show', link], { encoding: 'utf8' })) ?? []
  return address
}

function sentPackets(): number {
  const [, numbers = ''] = /^ *v0:(.*)$/m.exec(readFileSync('/proc/net/dev', 'latin1')) ?? []
  return Number(numbers.trim().split(/ +/)[9])
}

/** By the clock: CPU time is what is measured. */
async function nextSecond(): Promise<void> {
  const end = performance.now() + 1000
  await new Promise<void>((done) => {
    const timer = setInterval(() => {
      if (performance.now() < end) return
      clearInterval(timer)
      done()
    }, 100)
  })
}

test.run()
