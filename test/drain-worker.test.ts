// A worker that drains, whole: what it waits for, in which order it tells whom, and cases that once went wrong. Then
// random traffic, with a kernel that keeps what is not read: each line received before the FIN is answered before it.

import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { text } from '../protocols/text.ts'
import { type AnyConnection, Connection, kOpen } from '../src/connection.ts'
import type { Clock } from '../src/connection-host.ts'
import { Drain } from '../src/drain.ts'
import type { AnyProtocol, CodecProtocol } from '../src/protocol.ts'
import { MemorySocket, open, type Wire } from '../src/testing.ts'
import { kEnded, kReceived } from '../src/transport.ts'
import { Worker } from '../src/worker.ts'
import { deferred, scripted, slow } from './support/codecs.ts'
import { type Random, randomOf, seedOf } from './support/random.ts'
import { nextTurn, until, within } from './support/until.ts'

const STEP_MS = 50
const CASES = 300

/** Says goodbye, and echoes. */
const polite: CodecProtocol<string, string> = scripted((io) => ({
  receive: (bytes) => void io.emit(`${bytes}`),
  drain: () => void io.write('bye'),
}))

// biome-ignore lint/suspicious/noExplicitAny: wires of every protocol in one list
type AnyWire = Wire<any, any>

/** The clock of a drain, which has one timer: each step is a tick. */
class TickClock implements Clock {
  time = 0
  #ring: () => unknown = () => undefined

  now(): number {
    return this.time
  }

  after<A, B = undefined>(_ms: number, fn: (a: A, b: B) => unknown, a?: A, b?: B): number {
    this.#ring = () => fn(a as A, b as B)
    return 1
  }

  cancel(): boolean {
    this.#ring = () => undefined
    return true
  }

  step(): void {
    this.time += STEP_MS
    this.#ring()
  }
}

/** Connections with a clock each, and their drain, whose clock goes with theirs. */
class Crowd {
  readonly wires: AnyWire[] = []
  readonly connections = new Map<number, AnyConnection>()
  readonly #clock = new TickClock()

  add(wire: AnyWire): AnyWire {
    this.wires.push(wire)
    this.connections.set(wire.connection.id, wire.connection)
    return wire
  }

  start(windowMs: number): Drain {
    const drain = this.declare(windowMs)
    drain.begin()
    return drain
  }

  /** One whose `begin` is never called. */
  declare(windowMs: number): Drain {
    return new Drain(this, windowMs, this.#clock, (leave) => leave())
  }

  advance(ms: number): void {
    for (let passed = 0; passed < ms; passed += STEP_MS) {
      for (const wire of this.wires) wire.advance(STEP_MS)
      this.#clock.step()
    }
  }

  get left(): number {
    return this.wires.filter(({ socket }) => socket.hasEnded).length
  }
}

/** A connection of a real worker. */
function connect(worker: Worker<undefined, unknown>, protocol: AnyProtocol = text) {
  const socket = new MemorySocket()
  const connection: AnyConnection = new Connection(socket, protocol, worker)
  connection.lingerTimeout = 0
  connection[kOpen]()
  return { socket, connection, receive: (line: string) => connection[kReceived](Buffer.from(line)) }
}

/** Whether a promise has settled, asked after the turn. */
async function isSettled(promise: Promise<unknown>): Promise<boolean> {
  let settled = false
  void promise.then(() => {
    settled = true
  })
  await nextTurn()
  return settled
}

// Who leaves when

test('slow handlers that leave already take nobody’s place at the last call', () => {
  const crowd = new Crowd()
  for (let n = 0; n < 150; n++) crowd.add(open(text, { onMessage: () => deferred().promise }))
  for (let n = 0; n < 50; n++) crowd.add(open(text))
  const ask = () => {
    for (const wire of crowd.wires) wire.receive('x\n')
  }
  ask()
  crowd.start(10_000)
  for (let passed = 0; passed < 7_400; passed += STEP_MS) {
    ask()
    crowd.advance(STEP_MS)
  }
  assert.is(crowd.left, 0)
  crowd.advance(300)
  assert.is(crowd.left, 50)
})

test('less time counts from when it is told: its last call is at three quarters of what is left', () => {
  const crowd = new Crowd()
  crowd.add(open(text))
  const keepBusy = (ms: number) => {
    for (let passed = 0; passed < ms; passed += STEP_MS) {
      crowd.wires[0]?.receive('x\n')
      crowd.advance(STEP_MS)
    }
  }
  const drain = crowd.start(60_000)
  keepBusy(30_000)
  drain.hurry(2000)
  keepBusy(1400)
  assert.is(crowd.left, 0)
  keepBusy(200)
  assert.is(crowd.left, 1)
})

test('a peer whose reads are always cut within a packet leaves too, with all its whole packets answered', () => {
  const crowd = new Crowd()
  const wire = crowd.add(open(text, { onMessage: (connection, line) => connection.send(line) }))
  wire.receive('0')
  crowd.start(4000)
  crowd.advance(3100)
  assert.not(wire.socket.hasEnded)
  wire.receive('1\n2\n3')
  assert.equal(wire.messages, ['01', '2'])
  assert.is(wire.written().toString(), '01\n2\n')
  assert.ok(wire.socket.hasEnded)
})

test('a last call stays one: less time than before takes nothing of it back', () => {
  const crowd = new Crowd()
  const drain = crowd.start(4000)
  crowd.advance(3100)
  const wire = crowd.add(open(text))
  wire.receive('x\n') // not quiet
  drain.hurry(800)
  assert.ok(wire.socket.hasEnded)
})

test('a handler that has settled is followed by a quiet second', async () => {
  const gate = deferred()
  const crowd = new Crowd()
  const wire = crowd.add(open(text, { onMessage: () => gate.promise }))
  wire.receive('x\n')
  crowd.start(30_000)
  crowd.advance(5000)
  gate.resolve()
  await nextTurn()
  crowd.advance(900)
  assert.not(wire.socket.hasEnded)
  crowd.advance(100)
  assert.ok(wire.socket.hasEnded)
})

test('who is still being sent an answer is not quiet, and then has a quiet second', () => {
  const crowd = new Crowd()
  const wire = crowd.add(open(polite))
  wire.hold()
  wire.connection.send('a long answer')
  crowd.start(30_000)
  crowd.advance(5000)
  assert.not(wire.socket.hasEnded)
  assert.is(wire.connection.getStatus(false), 'ESTABLISHED')
  wire.drain()
  crowd.advance(900)
  assert.not(wire.socket.hasEnded)
  crowd.advance(200)
  assert.ok(wire.socket.hasEnded)
})

test('who is upgraded at a drain follows the rule of the new protocol', () => {
  const calm = { ...polite, isLongLived: true }
  for (const [next, said] of [
    [polite, ['hello', 'bye', '']],
    [calm, ['hello', 'bye', '']],
  ] as const) {
    const doorman = scripted((io) => ({
      receive: () => io.upgrade(next, new Uint8Array()),
      drain: () => void io.write('hello'),
    }))
    const crowd = new Crowd()
    const wire = crowd.add(open(doorman))
    crowd.start(30_000)
    const seen = [wire.written().toString()]
    wire.receive('upgrade')
    assert.is(wire.written().length, 0)
    crowd.advance(STEP_MS)
    seen.push(wire.written().toString())
    assert.is(wire.socket.hasEnded, next === calm, 'a long-lived one goes with its goodbye')
    crowd.advance(STEP_MS)
    seen.push(wire.written().toString())
    assert.equal(seen, said)
  }
})

test('without begin() the last call comes all the same: an onWorkerStop that hangs holds nobody up', () => {
  const crowd = new Crowd()
  crowd.add(open(text))
  crowd.declare(4000)
  crowd.advance(2950)
  assert.is(crowd.left, 0)
  crowd.advance(STEP_MS)
  assert.is(crowd.left, 1)
})

// What a worker waits for

test('onWorkerStop comes first: what it sends arrives before the goodbye, after a promise too', async () => {
  const worker = new Worker({ name: 'w' })
  const { socket, connection } = connect(worker, polite)
  worker.onWorkerStop = async () => {
    connection.send('first')
    await nextTurn()
    connection.send('second')
  }
  const done = worker.drain(40)
  assert.is(socket.sent().toString(), 'first')
  await within(5_000, done)
  assert.is(socket.sent().toString(), 'secondbye')
  assert.ok(socket.hasEnded)
})

test('an onWorkerStop that throws is logged, and the drain goes on', async () => {
  const worker = new Worker({ name: 'w' })
  const { socket } = connect(worker)
  worker.onWorkerStop = () => {
    throw new Error('expected by the test')
  }
  await within(5_000, worker.drain(40))
  assert.ok(socket.hasEnded)
})

test('the handler of a connection that has gone is waited for, and so is an asynchronous onClose and onError', async () => {
  for (const name of ['onMessage', 'onClose', 'onError', 'onConnect'] as const) {
    const gate = deferred()
    const worker = new Worker({ name: 'w', [name]: () => gate.promise })
    const { connection, receive } = connect(worker)
    receive('x\n')
    if (name === 'onError') {
      connection.destroy()
      connection.send('too late')
    }
    connection.destroy()
    assert.is(worker.connections.size, 0, name)
    assert.is(worker.describeWork(), '1 unsettled handler', name)
    const done = worker.drain(60_000)
    assert.not(await isSettled(done), name)
    gate.resolve()
    await within(5_000, done)
    assert.is(worker.unsettled, 0, name)
  }
})

test('a handler that rejects is settled', async () => {
  const worker = new Worker({ name: 'w', onError: () => undefined })
  const gate = deferred()
  worker.onMessage = () => gate.promise
  const { receive } = connect(worker)
  receive('x\n')
  const done = worker.drain(60_000)
  assert.not(await isSettled(done))
  gate.reject(new Error('no'))
  await within(5_000, done)
  assert.is(worker.counters.handlerErrors, 1)
})

test('a second drain with less time hurries the first, and both end together; one with more does not', async () => {
  const worker = new Worker({ name: 'w' })
  const { socket, connection } = connect(worker)
  const ended: string[] = []
  const drain = (name: string, ms: number) => worker.drain(ms).then(() => ended.push(name))
  const first = drain('first', 60_000)
  assert.not(await isSettled(first)) // a second of quiet is asked for
  const third = drain('more', 90_000)
  const second = drain('less', 40)
  await within(900, Promise.race([first, second, third])) // below that second
  await nextTurn()
  assert.equal(ended, ['first', 'more', 'less'])
  assert.ok(socket.hasEnded)
  assert.is(connection.closeReason, 'stopped')
})

test('stop() ends a drain whose time is up', async () => {
  const worker = new Worker({ name: 'w', onMessage: () => deferred().promise })
  const { socket, receive } = connect(worker)
  receive('x\n')
  const done = worker.drain(60_000)
  worker.stop()
  assert.ok(socket.isDestroyed)
  assert.is(worker.describeWork(), '1 unsettled handler')
  assert.not(await isSettled(done))
})

test('a hold can be given back twice, and either way', async () => {
  const worker = new Worker({ name: 'w' })
  const other = worker.hold('other')
  const hold = worker.hold('block')
  assert.is(worker.describeWork(), '2 holds (other, block)')
  hold[Symbol.dispose]()
  hold()
  assert.is(worker.describeWork(), '1 hold (other)')
  const done = worker.drain(60_000)
  assert.not(await isSettled(done))
  other()
  await within(5_000, done)
})

// The rest of what the process layer calls

test('start tells id and incarnation; callbacks come in order, and what they throw is passed on', async () => {
  const told: unknown[] = []
  const worker = new Worker({ name: 'w' })
  worker.onWorkerStart = ({ id, incarnation }) => told.push(['start', id, incarnation])
  worker.onWorkerActive = () => told.push('active')
  worker.onWorkerReload = async () => {
    await nextTurn()
    told.push('reload')
  }
  worker.onWorkerRetire = () => told.push('retire')
  await worker.start(2, 7, [])
  await worker.activate()
  await worker.retire()
  await worker.reload()
  assert.equal(told, [['start', 2, 7], 'active', 'reload', 'retire', 'reload'])
  const failing = new Worker({ name: 'f', onWorkerActive: () => Promise.reject(new Error('no lock')) })
  const failure = await failing.activate().catch((error) => error)
  assert.is(failure.message, 'no lock')
})

test('connections are listed by id, page by page', () => {
  const worker = new Worker({ name: 'w' })
  const ids = [1, 2, 3, 4, 5].map(() => connect(worker).connection.id)
  const page = (after: number) => worker.listConnections(after, 2).map(({ id }) => id)
  assert.equal(page(0), ids.slice(0, 2))
  assert.equal(page(ids[1] as number), ids.slice(2, 4))
  assert.equal(page(ids[3] as number), ids.slice(4))
  const [row] = worker.listConnections(0, 1)
  assert.equal([row?.protocol, row?.transport, row?.status, row?.isIpV4], ['text', 'tcp', 'ESTABLISHED', true])
  worker.stop()
})

test('bytes that no handler has seen are counted once', () => {
  const worker = new Worker({ name: 'w', maxQueuedMessages: 2, onMessage: () => deferred().promise })
  const { connection, receive } = connect(worker)
  receive('a\nb\nc\n') // one at work, two queued: full
  assert.is(connection.getRecvBufferQueueSize(), 0)
  receive('dddd\n')
  assert.is(connection.getRecvBufferQueueSize(), 5)
  worker.stop()
})

// Random traffic

/** A peer that talks, and a kernel that keeps what is not read. */
class Peer {
  readonly socket = new MemorySocket()
  readonly connection: AnyConnection
  /** What the connection was given before its FIN, and what of its answers had left by then. */
  received = ''
  answeredAtEnd = ''
  /** Whole lines were still in the kernel, or came later. */
  hasSpokenLate = false
  #kernel: Buffer[] = []
  #answers = ''
  #sent = 0

  constructor(worker: Worker<undefined, unknown>, protocol: AnyProtocol) {
    this.connection = new Connection(this.socket, protocol, worker)
    this.socket.onResume = () => queueMicrotask(() => this.#deliver())
    const { end } = MemorySocket.prototype
    this.socket.end = () => {
      this.answeredAtEnd = this.#answers + this.socket.sent()
      end.call(this.socket)
    }
    this.connection[kOpen]()
  }

  /** Lines, the last one perhaps not to its end. */
  talk(random: Random): void {
    const lines = Array.from({ length: random(12) }, () => `${this.#sent++} ${'x'.repeat(random(30))}\n`).join('')
    const cut = random(lines.length + 1)
    for (const part of [lines.slice(0, cut), lines.slice(cut)]) if (part !== '') this.#kernel.push(Buffer.from(part))
    this.#deliver()
  }

  collect(): void {
    this.#answers += this.socket.sent()
  }

  /** The lines that were whole when the FIN went. */
  get wholeLines(): string {
    return this.received.slice(0, this.received.lastIndexOf('\n') + 1)
  }

  #deliver(): void {
    while (this.#kernel.length > 0 && this.socket.isReading && !this.socket.isDestroyed) {
      const bytes = this.#kernel.shift() as Buffer
      if (this.socket.hasEnded) this.hasSpokenLate = true
      else this.received += bytes
      this.connection[kReceived](bytes)
      bytes.fill(0xdd) // lent
    }
  }
}

/** One worker under traffic, drained in the middle of it. What is chosen to leave does so a turn of the loop later. */
async function play(protocol: AnyProtocol, seed: number): Promise<void> {
  const random = randomOf(seed)
  const worker: Worker<undefined, unknown> = new Worker({
    name: 'fuzz',
    maxQueuedMessages: 1 + random(6),
    onMessage: (connection, line) => {
      if (random(3) === 0) return connection.send(line)
      return (async () => {
        for (let turns = random(6); turns > 0; turns--) await Promise.resolve()
        connection.send(line)
      })()
    },
  })
  const peers = Array.from({ length: 1 + random(5) }, () => new Peer(worker, protocol))
  const clock = new TickClock()
  const polled: (() => void)[] = []
  for (let n = random(10); n > 0; n--) peers[random(peers.length)]?.talk(random)
  const drain = new Drain(worker, 200 + random(2000), clock, (leave) => {
    polled.push(leave)
  })
  drain.begin()
  for (let n = 0; n < 200 && peers.some(({ socket }) => !socket.hasEnded); n++) {
    if (random(2) === 0 || n > 60) peers[random(peers.length)]?.talk(random)
    for (let turns = random(8); turns > 0; turns--) await Promise.resolve()
    for (const leave of polled.splice(0)) leave()
    if (random(2) === 0) clock.step()
    for (const peer of peers) peer.collect()
  }
  for (let turns = 0; turns < 50; turns++) await Promise.resolve()
  drain.end()
  check(peers, worker, `${protocol.name}, SEED=${seed}`)
  worker.stop()
}

function check(peers: readonly Peer[], worker: Worker<undefined, unknown>, how: string): void {
  for (const peer of peers) {
    assert.ok(peer.socket.hasEnded, `${how}: it left`)
    assert.is(peer.answeredAtEnd, peer.wholeLines, `${how}: what was received is answered before the FIN`)
    assert.is(peer.connection.closeReason, 'stopped', how)
  }
  const late = peers.filter(({ hasSpokenLate }) => hasSpokenLate).length
  assert.is(worker.counters.discarded, late, `${how}: discarded`)
  assert.is(worker.counters.sendFail, 0, how)
}

for (const protocol of [text, slow]) {
  test(`random traffic: each line received before the FIN is answered before it: ${protocol.name}`, async () => {
    const seed = seedOf(`drain of a worker, ${protocol.name}`)
    for (let n = 0; n < CASES; n++) await play(protocol, (seed + n) >>> 0)
  })
}

test('a peer that closes in answer to the FIN is gone at once', async () => {
  const worker = new Worker({ name: 'w' })
  const { connection } = connect(worker)
  connection.lingerTimeout = 60
  const done = worker.drain(40)
  await until(() => connection.getStatus(false) === 'ENDING')
  connection[kEnded]()
  await within(5_000, done)
})

test.run()
