// The engine of the addon by itself, without the TypeScript that is made for it: records that lie, descriptors of the wrong
// kind, batches that are left half done, environments that end in the middle of one, and a million calls that make no
// sense. test:sanitizers runs this file, too: what reads or writes where it must not ends it.

import { type ChildProcess, spawn } from 'node:child_process'
import dgram from 'node:dgram'
import { once } from 'node:events'
import { closeSync, openSync, readdirSync } from 'node:fs'
import net from 'node:net'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { addon } from '../../src/addon.ts'
import type { NativeEngine, Sys } from '../../src/addon-types.ts'
import { ENDPOINT_BYTES, EVENT_INTS, Header, Kind, Operation, Rings } from '../../src/net/rings.ts'
import { atLength, longTest } from '../support/length.ts'
import { nextTurn, until, within } from '../support/until.ts'

const { sys, newEngine } = addon()

interface Told {
  readonly slot: number
  readonly generation: number
  readonly kind: Kind
  readonly a: number
  readonly b: number
  readonly bytes: string
}

/** An engine whose events are noted, and whose listeners take whatever comes. */
class Rig {
  readonly native: NativeEngine
  readonly rings: Rings
  readonly sys: Sys
  readonly told: Told[] = []
  batches = 0
  /** How many events are handled in one call. */
  most = Number.POSITIVE_INFINITY
  /** Called at the end of each call. */
  onBatch: () => void = () => undefined

  constructor(sys: Sys, make: (onBatch: () => void, resource: object) => NativeEngine) {
    this.sys = sys
    this.native = make(() => this.#onBatch(), {})
    this.rings = new Rings(this.native)
  }

  #onBatch(): void {
    const { header, events } = this.rings
    this.batches++
    for (let left = this.most; left > 0; left--) {
      const next = header[Header.EventNext] as number
      if (next >= (header[Header.EventCount] as number)) break
      header[Header.EventNext] = next + 1
      const [slot = 0, generation = 0, kind = 0, a = 0, b = 0] = events.subarray(next * EVENT_INTS)
      const bytes = kind === Kind.Received ? this.rings.receive.toString('latin1', a, a + b) : ''
      this.told.push({ slot, generation, kind, a, b, bytes })
    }
    this.onBatch()
  }

  /** A listener, and where. */
  listen(room = 1e9): { slot: number; port: number } {
    const socket = this.sys.bind({ transport: 'tcp', host: '127.0.0.1', port: 0, path: '' })
    this.sys.listen(socket.fd, 100)
    const { port } = this.sys.socketName(socket.fd)
    const slot = this.native.listen(socket.release())
    this.rings.queued[slot] = room
    return { slot, port }
  }

  /** Two ends of a connection: the engine's slot and a stream. */
  async pair(port: number): Promise<{ slot: number; generation: number; peer: net.Socket }> {
    const before = this.count(Kind.Accepted)
    const peer = net.connect({ port, host: '127.0.0.1', allowHalfOpen: true })
    peer.on('error', () => peer.destroy())
    await within(5000, once(peer, 'connect'))
    const { slot, generation } = await until(() => this.of(Kind.Accepted)[before])
    return { slot, generation, peer }
  }

  of(kind: Kind): Told[] {
    return this.told.filter((one) => one.kind === kind)
  }

  count(kind: Kind): number {
    return this.of(kind).length
  }

  textOf(slot: number): string {
    const mine = this.told.filter((one) => one.slot === slot)
    return mine.map(({ bytes }) => bytes).join('')
  }

  destroy(...slots: number[]): void {
    for (const slot of slots) this.rings.operate(slot, Operation.Destroy)
  }
}

/** Runs with an engine, and looks that every descriptor but its own is gone afterwards. */
function engineTest(title: string, use: (rig: Rig) => unknown): void {
  if (sys === null || newEngine === null) return
  test(title, async () => {
    const rig = new Rig(sys, newEngine)
    await netOnce()
    const before = descriptors()
    await use(rig)
    await until(() => descriptors() <= before)
  })
}

/** What Node opens when it is first asked for a connection stays open (22 and later). */
async function netOnce(): Promise<void> {
  const server = net.createServer((socket) => socket.end()).listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as net.AddressInfo
  await once(net.connect(port, '127.0.0.1').resume(), 'close')
  server.close()
  await once(server, 'close')
}

function descriptors(): number {
  return readdirSync('/proc/self/fd').length
}

function thrownBy(call: () => unknown): string {
  try {
    call()
  } catch (error) {
    const { code, errno = '' } = error as { code: string; errno?: number }
    return `${code ?? errno}`
  }
  return 'nothing'
}

/** CPU time of this process, in ms. */
function busyMs(): number {
  const { user, system } = process.cpuUsage()
  return (user + system) / 1000
}

/** How much CPU time passes while nothing is to be done. */
async function idleCost(ms: number): Promise<number> {
  const before = busyMs()
  const end = performance.now() + ms
  while (performance.now() < end) await new Promise((resolve) => setTimeout(resolve, 50))
  return busyMs() - before
}

engineTest(
  'small pieces that wait for a peer take little more memory than their bytes, and arrive in order',
  async (rig) => {
    const { slot: listener, port } = rig.listen()
    const { slot, generation, peer } = await rig.pair(port)
    const chunks: Buffer[] = []
    peer.on('data', (chunk: Buffer) => chunks.push(chunk)).pause()
    const first = Buffer.alloc(16_777_216) // more than the kernel takes
    rig.native.sendBytes(slot, generation, first)
    const pieces = Array.from('0123456789', (digit) => Buffer.from(digit))
    const count = 500_000
    const before = process.memoryUsage().rss
    for (let n = 0; n < count; n++) rig.native.sendBytes(slot, generation, pieces[n % 10] as Buffer)
    const grownMiB = (process.memoryUsage().rss - before) / 1_048_576
    assert.ok(grownMiB < 12, `half a MiB that waits takes ${grownMiB.toFixed(1)} MiB`)
    peer.resume()
    await until(() => chunks.reduce((sum, { length }) => sum + length, 0) === first.length + count, 20_000)
    assert.is(Buffer.concat(chunks).toString('latin1', first.length), '0123456789'.repeat(count / 10))
    rig.destroy(slot, listener)
    peer.destroy()
  },
)

engineTest('tells of a connection from its beginning to its end, and of nothing after it', async (rig) => {
  const { slot: listener, port } = rig.listen()
  const { slot, generation, peer } = await rig.pair(port)
  peer.write('hello')
  await until(() => rig.textOf(slot) === 'hello')
  rig.rings.put(slot, 'answer')
  const [answer] = await within(5000, once(peer, 'data'))
  assert.is(String(answer), 'answer')
  peer.end('bye')
  await until(() => rig.count(Kind.Ended) === 1)
  assert.is(rig.textOf(slot), 'hellobye')
  rig.destroy(slot)
  await within(5000, once(peer, 'close'))
  rig.native.flush()
  assert.is(rig.native.generation(slot), 0)
  const next = await rig.pair(port)
  assert.equal([next.slot, next.generation], [slot, generation + 1])
  next.peer.destroy()
  rig.destroy(listener, slot)
  assert.equal(
    rig.told.map(({ kind }) => kind).filter((kind) => kind !== Kind.Received),
    [Kind.Accepted, Kind.Ended, Kind.Accepted],
  )
})

engineTest('records of slots that are free, that never were, or that lie, do nothing', async (rig) => {
  const { slot: listener, port } = rig.listen()
  const { slot, peer } = await rig.pair(port)
  const lies = [
    [-1, 0, 5],
    [2 ** 31 - 1, 0, 5],
    [1_000_000, 0, Operation.Destroy],
    [slot, -1, 5],
    [slot, 0, 2 ** 31 - 1],
    [slot, 2 ** 31 - 1, 1],
    [slot, 1024 * 1024, 1],
    [slot, 0, -5],
    [slot, 0, -(2 ** 31)],
    [slot, 1024 * 1024, 0],
    [listener, 0, 5],
    [listener, 0, Operation.End],
  ] as const
  for (const [at, offset, length] of lies) record(rig, at, offset, length)
  rig.rings.put(slot, 'still here')
  const [answer] = await within(5000, once(peer, 'data'))
  assert.is(String(answer), 'still here')
  for (const count of [-1, 2 ** 31 - 1, -(2 ** 31)]) {
    rig.rings.header[Header.SendCount] = count
    rig.native.flush()
  }
  rig.destroy(slot, slot, slot, listener) // a second time the slot is free
  rig.rings.put(slot, 'nobody')
  rig.rings.operate(slot, Operation.Resume)
  rig.rings.operate(slot, Operation.End)
  await within(5000, once(peer, 'end'))
  peer.destroy()
})

/** The records of what is to be sent, of each engine: a new view takes half a millisecond. */
const records = new WeakMap<NativeEngine, Int32Array>()

function record({ rings, native }: Rig, slot: number, offset: number, length: number): void {
  const { sends } = native.layout()
  const at = rings.header[Header.SendCount] as number
  const view = records.get(native) ?? new Int32Array(native.memory(false), sends)
  records.set(native, view)
  view.set([slot, offset, length], at * 3)
  rings.header[Header.SendCount] = at + 1
}

engineTest('a slot that is not in use has no generation, and is not released', async ({ native }) => {
  for (const slot of [0, 1, 1000, 1_048_575]) {
    assert.is(native.generation(slot), 0)
    assert.is(native.release(slot, 1), undefined)
    native.wake(slot, 1)
    native.sendBytes(slot, 1, Buffer.from('x'))
  }
})

engineTest('a slot that was queued when it was freed is not read twice in a batch by its next owner', async (rig) => {
  const { slot: listener, port } = rig.listen()
  const old = await rig.pair(port)
  const next = await rig.pair(port)
  rig.rings.operate(old.slot, Operation.Pause)
  const fd = rig.native.release(next.slot, next.generation)?.fd ?? -1
  for (const { peer } of [old, next]) peer.write(Buffer.alloc(8 * 1024 * 1024, 'x')) // more than the kernel takes
  for (let turn = 0; turn < 5; turn++) await nextTurn() // `old` has something to read then, but is paused
  const before = rig.told.length
  let read: Told[] = []
  const replace = () => {
    rig.rings.operate(old.slot, Operation.Resume) // queues it
    rig.destroy(old.slot)
    rig.native.flush()
    assert.is(rig.native.adopt(fd, false), old.slot)
    for (const end = performance.now() + 3; performance.now() < end; ); // the turn is over: nothing is collected in it
    rig.onBatch = () => {
      read = rig.told.slice(before)
      rig.destroy(old.slot)
      rig.onBatch = () => undefined
    }
  }
  // After a timer comes the place of the loop behind which it polls: what is queued then is collected after that.
  setTimeout(() => {
    rig.onBatch = replace
    rig.rings.header[Header.WantsCall] = 1
  })
  await until(() => read.length > 0)
  assert.equal(
    read.map(({ slot, kind, b }) => [slot, kind, b]),
    [[old.slot, Kind.Received, 65_536]],
  )
  for (const { peer } of [old, next]) peer.destroy()
  rig.destroy(listener)
})

engineTest('reads nothing on while the batch still holds bytes of the same connection', async (rig) => {
  const { slot: listener, port } = rig.listen()
  const { slot, generation, peer } = await rig.pair(port)
  const readInto = () => rig.native.readInto(slot, generation, Buffer.alloc(1024))
  rig.most = 0 // what is collected now waits
  peer.write(Buffer.alloc(8 * 1024 * 1024, 'x'))
  const { header, events } = rig.rings
  await until(() => header[Header.EventNext] !== header[Header.EventCount])
  assert.equal([events[0], events[2], events[4]], [slot, Kind.Received, 65_536]) // so there is more in the kernel
  assert.is(readInto(), 0)
  let read = 0
  rig.onBatch = () => {
    if (rig.count(Kind.Received) === 1) read = readInto()
  }
  rig.most = Number.POSITIVE_INFINITY
  await until(() => read > 0)
  assert.is(read, 1024)
  peer.destroy()
  rig.destroy(slot, listener)
})

engineTest('takes no descriptor of another kind, and leaves it to its owner', async (rig) => {
  const file = openSync('/dev/null', 'r')
  const { port, slot } = rig.listen()
  const { slot: connected, generation, peer } = await rig.pair(port)
  const stream = rig.native.release(connected, generation)?.fd ?? -1
  const udp = rig.sys.bind({ transport: 'udp', host: '127.0.0.1', port: 0, path: '' })
  const unheard = rig.sys.bind({ transport: 'tcp', host: '127.0.0.1', port: 0, path: '' })
  const { native } = rig
  for (const [fd, fits] of [
    [file, []],
    [stream, ['adopt']],
    [udp.fd, ['receiveDatagrams']],
    [unheard.fd, ['adopt']], // a stream that is not connected yet is told as closed
    [9999, []],
  ] as const)
    for (const how of ['listen', 'adopt', 'receiveDatagrams'] as const)
      if (!(fits as readonly string[]).includes(how)) {
        const call = () => (how === 'adopt' ? native.adopt(fd, false) : native[how](fd))
        assert.match(thrownBy(call), /^-(22|9|88|1|95)$/, `${how} of ${fd}`)
      }
  closeSync(file)
  closeSync(stream)
  peer.destroy()
  udp.close()
  unheard.close()
  rig.destroy(slot)
})

engineTest('a batch that is left half done goes on with the rest', async (rig) => {
  const { slot: listener, port } = rig.listen()
  const pairs = await Promise.all(Array.from({ length: 40 }, () => rig.pair(port)))
  rig.most = 1
  for (const [at, { peer }] of pairs.entries()) peer.write(`${at}`)
  await until(() => rig.count(Kind.Received) === 40)
  const slots = rig.of(Kind.Accepted).map(({ slot }) => slot)
  assert.is(new Set(slots).size, 40)
  assert.equal(slots.map((slot) => rig.textOf(slot)).sort(), pairs.map((_pair, at) => `${at}`).sort())
  rig.most = Number.POSITIVE_INFINITY
  rig.destroy(listener, ...slots)
  for (const { peer } of pairs) peer.destroy()
})

engineTest('more events than the ring has room for come one after the other', async (rig) => {
  const socket = rig.sys.bind({ transport: 'udp', host: '127.0.0.1', port: 0, path: '' })
  const slot = rig.native.receiveDatagrams(socket.release())
  const count = 10_000
  for (let tag = 0; tag < count; tag++) sendTo(rig, slot, 0, tag) // port 0 is nowhere
  await until(() => rig.count(Kind.DatagramFailed) === count, 20_000)
  assert.equal(
    rig.of(Kind.DatagramFailed).map(({ b }) => b),
    Array.from({ length: count }, (_, tag) => tag),
  )
  assert.ok(rig.batches >= 3)
  rig.destroy(slot)
})

/** A datagram without bytes, to 127.0.0.1, in a record of its own. */
function sendTo(rig: Rig, slot: number, port: number, tag: number): void {
  const { header, send } = rig.rings
  const at = header[Header.SendBytes] as number
  send.fill(0, at, at + ENDPOINT_BYTES)
  for (const [place, value] of [4, port, 0, tag].entries()) send.writeInt32LE(value, at + place * 4)
  send.set([127, 0, 0, 1], at + 16)
  record(rig, slot, at, ENDPOINT_BYTES)
  header[Header.SendBytes] = at + ENDPOINT_BYTES
}

engineTest('datagrams behind an error that was told are read', async (rig) => {
  const socket = rig.sys.bind({ transport: 'udp', host: '127.0.0.1', port: 0, path: '' })
  const { port } = rig.sys.socketName(socket.fd)
  const slot = rig.native.receiveDatagrams(socket.release())
  const sender = dgram.createSocket('udp4')
  for (let round = 0; round < 20; round++) {
    const before = rig.count(Kind.Datagram)
    sendTo(rig, slot, 1, 7) // nobody is there: an ICMP error may come back
    for (let n = 0; n < 50; n++) sender.send(`${n}`, port, '127.0.0.1')
    await until(() => rig.count(Kind.Datagram) === before + 50)
  }
  sender.close()
  rig.destroy(slot)
})

engineTest('urgent data does not hide what comes behind it', async (rig) => {
  const { slot: listener, port } = rig.listen()
  const program =
    'use Socket; socket(S, PF_INET, SOCK_STREAM, 0); connect(S, sockaddr_in($ARGV[0], INADDR_LOOPBACK)) or die; ' +
    'send(S, "before", 0); send(S, "!", MSG_OOB); send(S, "behind", 0); <STDIN>'
  const peer = spawn('perl', ['-e', program, String(port)], { stdio: ['pipe', 'inherit', 'inherit'] })
  const isOver = once(peer, 'close')
  const { slot } = await until(() => rig.of(Kind.Accepted)[0])
  const isThere = until(() => rig.textOf(slot) === 'beforebehind')
  await isThere.finally(() => peer.stdin?.end())
  await until(() => rig.count(Kind.Ended) === 1)
  rig.destroy(slot, listener)
  await isOver
})

engineTest('a listener that can never accept again rests, and does not spin', async (rig) => {
  const { slot, port } = rig.listen()
  const program = 'use Socket; open(S, "+<&=", 3) or die; shutdown(S, 2) or die' // of whoever has it too: the socket is shared
  const copy = rig.native.release(slot, rig.native.generation(slot))?.fd ?? -1
  const again = rig.native.listen(copy)
  rig.rings.queued[again] = 16
  const child = spawn('perl', ['-e', program], { stdio: ['ignore', 'inherit', 'inherit', copy] })
  await once(child, 'close')
  await until(() => rig.count(Kind.Scarce) > 0)
  const told = rig.count(Kind.Scarce)
  assert.ok((await idleCost(300)) < 150)
  assert.is(rig.count(Kind.Scarce), told)
  assert.ok(port > 0)
  rig.destroy(again)
})

engineTest('what is sent to a connection that has failed counts as not sent, flushed or not', async (rig) => {
  const { slot: listener, port } = rig.listen()
  const { slot, generation, peer } = await rig.pair(port)
  peer.resetAndDestroy()
  await until(() => rig.count(Kind.Closed) === 1)
  const before = rig.rings.queued[slot] as number
  rig.rings.put(slot, 'first')
  rig.native.flush()
  rig.native.sendBytes(slot, generation, Buffer.alloc(100))
  assert.is(rig.rings.queued[slot], before + 105)
  rig.destroy(slot, listener)
})

engineTest('what is lent can be detached, and what comes after is there', async (rig) => {
  const { slot: listener, port } = rig.listen()
  const { slot, peer } = await rig.pair(port)
  for (let round = 0; round < 5; round++) {
    detach(rig.rings.receive)
    detach(rig.rings.datagrams)
    rig.rings.renew()
    peer.write(`${round}`)
    await until(() => rig.textOf(slot).length === round + 1)
  }
  assert.is(rig.textOf(slot), '01234')
  peer.destroy()
  rig.destroy(slot, listener)
})

/** In every way that this Node has: one says no, another does nothing. */
function detach(bytes: Uint8Array): void {
  const { buffer } = bytes as unknown as { buffer: ArrayBuffer & { transfer?(): ArrayBuffer } }
  for (const way of [() => structuredClone(buffer, { transfer: [buffer] }), () => buffer.transfer?.()])
    try {
      way()
    } catch (error) {
      assert.match(String(error), /DataCloneError|detach|transfer/i)
    }
}

engineTest('a released connection comes with what was not sent, and belongs to its new owner', async (rig) => {
  const { slot: listener, port } = rig.listen()
  const { slot, generation, peer } = await rig.pair(port)
  const size = 16 * 1024 * 1024
  peer.pause()
  rig.native.sendBytes(slot, generation, Buffer.alloc(size, 'x'))
  const released = rig.native.release(slot, generation)
  assert.ok((released?.unsent.length ?? 0) > 0)
  assert.is(rig.native.release(slot, generation), undefined)
  const again = rig.native.adopt(released?.fd ?? -1, false)
  rig.native.sendBytes(again, rig.native.generation(again), released?.unsent ?? Buffer.alloc(0))
  let received = 0
  peer.on('data', (bytes) => {
    received += bytes.length
  })
  peer.resume()
  await until(() => received === size, 20_000)
  await until(() => rig.count(Kind.Drained) === 1)
  assert.is(rig.rings.queued[again], 0)
  peer.destroy()
  await until(() => rig.count(Kind.Ended) === 1)
  rig.destroy(again, listener)
})

engineTest('a child that is spawned has none of its descriptors', async (rig) => {
  const { slot: listener, port } = rig.listen()
  const { slot, peer } = await rig.pair(port)
  const child = spawn('sh', ['-c', 'ls -l /proc/self/fd'], { stdio: ['ignore', 'pipe', 'ignore'] })
  const listing = await outputOf(child)
  assert.not.match(listing, /eventpoll/)
  assert.is(listing.match(/socket:/g)?.length ?? 0, 1, listing) // the pipe that it writes to
  peer.destroy()
  rig.destroy(slot, listener)
})

/** A program with an engine that has a listener and a peer of its own; `onBatch` is its body. */
function inProcess(onBatch: string, after = '', flags: string[] = []): ChildProcess {
  const program = `
    import net from 'node:net'
    import { readdirSync } from 'node:fs'
    import { Worker, isMainThread, parentPort } from 'node:worker_threads'
    const { addon } = await import(${JSON.stringify(new URL('../../src/addon.js', import.meta.url).href)})
    const { Rings } = await import(${JSON.stringify(new URL('../../src/net/rings.js', import.meta.url).href)})
    const { sys, newEngine } = addon()
    const native = newEngine(() => { ${onBatch} }, {})
    const rings = new Rings(native)
    const socket = sys.bind({ transport: 'tcp', host: '127.0.0.1', port: 0, path: '' })
    sys.listen(socket.fd, 100)
    const { port } = sys.socketName(socket.fd)
    const listener = native.listen(socket.release())
    rings.queued[listener] = 1e9
    let calls = 0
    net.connect(port, '127.0.0.1').on('error', () => {})
    ${after}`
  return spawn(process.execPath, [...flags, '--input-type=module', '-e', program], {
    stdio: ['ignore', 'pipe', 'pipe'],
  })
}

async function outputOf(child: ChildProcess): Promise<string> {
  let output = ''
  for (const stream of [child.stdout, child.stderr])
    stream?.setEncoding('utf8').on('data', (text) => {
      output += text
    })
  await once(child, 'close')
  return `${output}exit ${child.exitCode ?? child.signalCode}`
}

if (newEngine !== null) {
  test('process.exit in the middle of a batch ends the process with its code', async () => {
    assert.is(await outputOf(inProcess('process.exit(7)')), 'exit 7')
  })

  test('what a batch throws is uncaught: told once, and with a handler the engine goes on', async () => {
    assert.match(await outputOf(inProcess(`throw new Error('boom')`)), /boom[\s\S]*exit 1$/)
    const goesOn = inProcess(
      `if (calls++ < 3) throw new Error('boom'); rings.header[1] = rings.header[0]; console.log('went on'); process.exit(0)`,
      `process.on('uncaughtException', (error) => console.log(error.message))`,
    )
    assert.is(await outputOf(goesOn), 'boom\nboom\nboom\nwent on\nexit 0')
  })

  test('a process whose engine has nothing left ends by itself', async () => {
    const child = inProcess(
      `for (let at = rings.header[1]; at < rings.header[0]; at++) rings.operate(rings.events[at * 5], -4)
       rings.header[1] = rings.header[0]; rings.operate(listener, -4)`,
    )
    assert.is(await within(20_000, outputOf(child)), 'exit 0')
  })

  for (const [how, body] of [
    ['ends', `process.exit(3)`],
    ['throws', `throw new Error('in a thread')`],
    ['is told to end while it spins', `parentPort.postMessage('spins'); for (;;);`],
    ['is told to end while it waits', `parentPort.postMessage('waits')`],
  ] as const)
    test(`an engine in a thread that ${how} in a batch leaves no descriptor, and the process lives`, async () => {
      const url = JSON.stringify(new URL('../support/engine-thread.js', import.meta.url).href)
      const child = inProcess(
        '',
        `
        const before = readdirSync('/proc/self/fd').length
        for (let round = 0; round < 5; round++) {
          const worker = new Worker(new URL(${url}), { execArgv: [], workerData: ${JSON.stringify(body)} })
          worker.once('message', () => worker.terminate())
          worker.on('error', (error) => console.log(error.message))
          await new Promise((resolve) => worker.once('exit', resolve))
        }
        const grown = readdirSync('/proc/self/fd').length - before
        console.log('grown', grown)
        process.exit(0)`,
      )
      const output = await within(60_000, outputOf(child))
      const wanted = how === 'throws' ? /^(in a thread\n){5}grown [0-2]\nexit 0$/ : /^grown [0-2]\nexit 0$/
      assert.match(output, wanted, output)
    })

  const ENDS = atLength(12, 150)
  for (const way of ['opens', 'throws', 'makes engines', 'compresses'])
    longTest(`a thread that ${way} when it is told to end ends alone, and leaves no descriptor`, async () => {
      const url = JSON.stringify(new URL('../support/call-thread.js', import.meta.url).href)
      const child = inProcess(
        '',
        `
        const before = readdirSync('/proc/self/fd').length
        for (let round = 0; round < ${ENDS}; round++) {
          const worker = new Worker(new URL(${url}), { execArgv: [], workerData: ${JSON.stringify(way)} })
          await new Promise((resolve) => worker.once('message', resolve))
          await new Promise((resolve) => setTimeout(resolve, round % 5))
          await worker.terminate()
        }
        console.log('grown', readdirSync('/proc/self/fd').length - before)
        process.exit(0)`,
      )
      const output = await within(200_000, outputOf(child))
      assert.match(output, /^grown [0-2]\nexit 0$/, output)
    })

  const CALLS = atLength(50_000, 1_000_000)
  test(`${CALLS} calls that make no sense are exceptions or nothing, and no descriptor leaks`, async () => {
    const output = await within(
      220_000,
      outputOf(
        inProcess(
          `if (calls++ % 3 === 0) rings.header[1] = rings.header[0]`,
          `
    let seed = 4711
    const random = (n) => { seed = (Math.imul(seed, 1103515245) + 12345) >>> 0; return (seed >>> 8) % n }
    const other = newEngine(() => {}, {})
    const detached = new Uint8Array(8); structuredClone(detached.buffer, { transfer: [detached.buffer] })
    const values = [undefined, null, true, false, NaN, -1, 0, 1, 2, 0.5, 1e300, 9999, 100000, 2 ** 20, 2 ** 31, '', 'x', {}, [], new Uint8Array(0), new Uint8Array(9),
      new Float64Array(3), new SharedArrayBuffer(8), () => 1, Symbol('s'), 10n, detached, new Proxy({}, {}), socket, native, other, sys, Buffer.alloc(70000)]
    const proto = Object.getPrototypeOf(native)
    const names = Object.getOwnPropertyNames(proto).filter((name) => name !== 'constructor')
    const Engine = native.constructor
    for (const late = Date.now() + 10_000; calls === 0 && Date.now() < late; ) await new Promise((r) => setTimeout(r, 5)) // accepted
    const before = readdirSync('/proc/self/fd').length
    let thrown = 0
    for (let n = 0; n < ${CALLS}; n++) {
      const args = Array.from({ length: random(5) }, () => values[random(values.length)])
      const name = names[random(names.length)]
      const self = random(3) === 0 ? values[random(values.length)] : other
      // Descriptors 0, 1 and 2 are descriptors: not to be given away.
      if (/listen|adopt|receiveDatagrams/.test(name) && (args[0] === 0 || args[0] === 1 || args[0] === 2)) continue
      try { if (n % 1000 === 0) new Engine(...args.slice(0, random(2))); proto[name].apply(self, args) } catch { thrown++ }
      if (n % 10000 === 0) await new Promise((r) => setImmediate(r))
    }
    const more = () => readdirSync('/proc/self/fd').length - before
    for (const late = Date.now() + 10_000; more() > 0 && Date.now() < late; ) await new Promise((r) => setTimeout(r, 5)) // closed
    console.log(JSON.stringify({ thrown, more: more() }))
    process.exit(0)`,
        ),
      ),
    )
    const [, thrown, more] = /^\{"thrown":(\d+),"more":(-?\d+)\}\nexit 0$/.exec(output) ?? [output]
    assert.ok(Number(thrown) > CALLS * 0.3, output)
    assert.is(Number(more), 0, output)
  })
} else {
  test('there is no native engine here', () => {
    assert.is(newEngine, null)
  })
}

test.run()
