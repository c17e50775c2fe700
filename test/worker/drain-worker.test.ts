// A worker that drains, whole: what it waits for, in which order it tells whom, and cases that once went wrong. Then
// random traffic, with a kernel that keeps what is not read: each line received before the FIN is answered before it.

import { EventEmitter, once } from 'node:events'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { Response } from '../../protocols/http/response.ts'
import { tcp } from '../../protocols/tcp.ts'
import { text } from '../../protocols/text.ts'
import type { Clock, ConnectionClock } from '../../src/connection/host.ts'
import { kIsLongLived, kOpen } from '../../src/connection/symbols.ts'
import { type AnyConnection, Connection } from '../../src/connection.ts'
import type { AnyProtocol, CodecProtocol } from '../../src/protocol.ts'
import { MemorySocket, open, type Wire } from '../../src/testing.ts'
import { kEnded, kReceived } from '../../src/transport.ts'
import { Drain } from '../../src/worker/drain.ts'
import { Worker } from '../../src/worker.ts'
import { type Deferred, deferred, scripted, slow } from '../support/codecs.ts'
import { httpInMemory } from '../support/http.ts'
import { type Random, randomOf, seedOf } from '../support/random.ts'
import { nextTurn, until, within } from '../support/until.ts'

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
  readonly arrivals = new Set<never>()
  readonly clients = new Map<never, never>()
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
      this.tick()
    }
  }

  /** The drain's turn, after connections have had their STEP_MS. */
  tick(): void {
    this.#clock.step()
  }

  get left(): number {
    return this.wires.filter(({ socket }) => socket.hasEnded).length
  }
}

/** A connection of a real worker. */
function connect(worker: Worker<string, unknown>, protocol: AnyProtocol = text) {
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
  for (let passed = 0; passed < 300; passed += STEP_MS) {
    for (const wire of crowd.wires.slice(150)) if (!wire.socket.hasEnded) wire.receive('x\n')
    crowd.advance(STEP_MS)
  }
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

test('who is sent pieces of a long answer is not quiet, also where the engine reports no end of a flush', () => {
  const clock = new TickClock()
  const time: ConnectionClock = {
    now: () => clock.time,
    recently: () => clock.time,
    after: () => 0,
    cancel: () => true,
  }
  const worker = new Worker<string, unknown>({ name: 'w', onMessage: (connection) => connection.send('first piece') })
  const socket = new MemorySocket()
  const connection: AnyConnection = new Connection(socket, text, worker, 'server', time)
  connection[kOpen]()
  connection[kReceived](Buffer.from('all of it\n'))
  const sendFor = (ms: number) => {
    for (const until = clock.time + ms; clock.time < until; clock.step())
      if (clock.time % 500 === 0) connection.send('next piece')
  }
  sendFor(5000)
  new Drain(worker, 30_000, clock, (leave) => leave()).begin()
  assert.not(socket.hasEnded)
  sendFor(5000)
  assert.not(socket.hasEnded)
  for (let n = 0; n < 12; n++) clock.step()
  assert.ok(socket.hasEnded)
  assert.match(socket.sent().toString(), /^first piece\n(next piece\n){20}$/)
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

test('what had come when it left and was not looked at yet may end within a packet, which is waited for', async () => {
  const crowd = new Crowd()
  const wire = crowd.add(
    open(text, {
      onMessage: (connection, line) => {
        wire.advance(1) // ms of work: 16 lines are more than its share of the loop
        connection.send(line)
      },
    }),
  )
  wire.receive('x\n'.repeat(16))
  wire.receive('a\nb')
  assert.is(wire.messages.length, 16)
  wire.leave()
  await nextTurn()
  assert.not(wire.socket.hasEnded)
  wire.receive('c\nd')
  assert.equal(wire.messages.slice(16), ['a', 'bc'])
  assert.ok(wire.socket.hasEnded)
})

/** A connection of the crowd that is piped both ways with a client of ours. */
function proxied(crowd: Crowd): { client: AnyWire; upstream: AnyWire } {
  const client = crowd.add(open(tcp))
  const upstream: AnyWire = open(tcp, { role: 'client' })
  client.connection.pipe(upstream.connection)
  upstream.connection.pipe(client.connection)
  return { client, upstream }
}

test('of a proxy, who waits for an answer is not quiet; who has it, or has not asked, is quiet as anybody', () => {
  const crowd = new Crowd()
  const [slow, quick, silent] = [proxied(crowd), proxied(crowd), proxied(crowd)]
  for (const { client } of [slow, quick]) client.receive('question')
  quick.upstream.receive('answer')
  crowd.advance(5000)
  crowd.start(30_000)
  assert.ok(quick.client.socket.hasEnded)
  assert.ok(silent.client.socket.hasEnded)
  crowd.advance(10_000)
  assert.not(slow.client.socket.hasEnded)
  slow.upstream.receive('answer')
  crowd.advance(900)
  assert.not(slow.client.socket.hasEnded)
  crowd.advance(100)
  assert.ok(slow.client.socket.hasEnded)
  assert.is(slow.client.written().toString(), 'answer')
})

test('of a proxy, who is called last leaves with the pieces of its answer, however late they come', () => {
  const crowd = new Crowd()
  const [busy, slow] = [proxied(crowd), proxied(crowd)]
  slow.client.receive('question')
  crowd.start(4000)
  for (let passed = 0; passed < 3000; passed += STEP_MS) {
    busy.client.receive('question')
    busy.upstream.receive('answer')
    crowd.advance(STEP_MS)
  }
  busy.client.written()
  busy.client.receive('last question')
  crowd.advance(500)
  for (const { client, upstream } of [busy, slow]) {
    assert.not(client.socket.hasEnded)
    upstream.receive('one piece')
    client.advance(STEP_MS - 10)
    upstream.receive(', another')
    assert.not(client.socket.hasEnded)
    client.advance(STEP_MS)
    assert.ok(client.socket.hasEnded)
    assert.is(client.written().toString(), 'one piece, another')
  }
})

test('of a proxy, who is called last and asks again before it would leave has that answer, too', () => {
  for (const windowMs of [4000, 20_000]) {
    const crowd = new Crowd()
    const { client, upstream } = proxied(crowd)
    let asked = 0
    /** A client asks, and its answer has two pieces; then it pauses. */
    const talk = (pauseMs: number) => {
      client.advance(1)
      client.receive(`question ${++asked}`)
      upstream.receive('one piece')
      client.advance(2)
      upstream.receive(`, another ${asked}`)
      client.advance(pauseMs)
    }
    crowd.start(windowMs)
    for (let passed = 0; passed < windowMs && !client.socket.hasEnded; passed += STEP_MS) {
      talk(20)
      assert.ok(client.socket.isReading || client.socket.hasEnded)
      if (!client.socket.hasEnded) talk(STEP_MS - 26)
      crowd.tick()
    }
    assert.ok(client.socket.hasEnded)
    assert.is(
      upstream
        .written()
        .toString()
        .match(/question/g)?.length,
      asked,
    )
    assert.ok(client.written().toString().endsWith(`, another ${asked}`))
  }
})

test('of a proxy, who was called last and asks without a pause leaves before a window that has become shorter ends', () => {
  const crowd = new Crowd()
  const { client, upstream } = proxied(crowd)
  const talk = (ms: number) => {
    for (let passed = 0; passed < ms && !client.socket.hasEnded; passed += STEP_MS) {
      for (let n = 0; n < STEP_MS; n++) {
        client.receive('question')
        upstream.receive('answer')
        client.advance(1)
      }
      crowd.tick()
    }
  }
  const drain = crowd.start(20_000)
  talk(15_500)
  assert.not(client.socket.hasEnded)
  drain.hurry(1000)
  talk(800)
  assert.not(client.socket.hasEnded)
  client.receive('last question')
  client.advance(STEP_MS)
  crowd.tick()
  upstream.receive('last answer')
  assert.not(client.socket.isReading)
  client.advance(STEP_MS)
  assert.ok(client.socket.hasEnded)
  assert.ok(client.written().toString().endsWith('last answer'))
})

test('of a proxy, who has sent its FIN waits for that of the other side', () => {
  const crowd = new Crowd()
  const { client, upstream } = proxied(crowd)
  client.receive('question')
  client.end()
  upstream.receive('part')
  crowd.start(30_000)
  crowd.advance(25_000)
  assert.is(client.connection.getStatus(false), 'ESTABLISHED')
  upstream.receive(', rest')
  upstream.end()
  assert.is(client.written().toString(), 'part, rest')
  assert.is(client.connection.getStatus(false), 'CLOSED')
})

// What a worker waits for

test('onWorkerStop comes first: what it sends arrives before the goodbye, after a promise too', async () => {
  const worker = new Worker<string, unknown>({ name: 'w' })
  const { socket, connection } = connect(worker, polite)
  worker.onWorkerStop = async () => {
    connection.send('first')
    await nextTurn()
    connection.send('second')
  }
  const done = worker.drain(400) // a turn of a loaded machine may take longer than the last call of a shorter one waits
  assert.is(socket.sent().toString(), 'first')
  await within(5_000, done)
  assert.is(socket.sent().toString(), 'secondbye')
  assert.ok(socket.hasEnded)
})

test('an onWorkerStop that throws is logged, and the drain goes on', async () => {
  const worker = new Worker<string, unknown>({ name: 'w' })
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
    const worker = new Worker<string, unknown>({ name: 'w', [name]: () => gate.promise })
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
  const worker = new Worker<string, unknown>({ name: 'w', onError: () => undefined })
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

test('a handler whose call of Node gave up at the signal is no error: it names the signal’s reason as cause', async () => {
  const worker = new Worker<string, unknown>({ name: 'w', onError: () => assert.unreachable('onError') })
  worker.onMessage = ({ signal }) => once(new EventEmitter(), 'never', { signal })
  const { connection, receive } = connect(worker)
  receive('x\n')
  await within(5_000, worker.drain(40))
  assert.is(worker.counters.handlerErrors, 0)
  assert.is(connection.closeReason, 'stopped')
})

test('an AbortError of another signal is an error like any other, also when the own one has aborted', async () => {
  const worker = new Worker<string, unknown>({ name: 'w', onError: () => undefined })
  const gate = deferred()
  worker.onMessage = () => gate.promise
  const { connection, receive } = connect(worker)
  receive('x\n')
  connection.signal.addEventListener('abort', () => {
    gate.reject(new DOMException('upstream', 'AbortError'))
  })
  await within(5_000, worker.drain(40))
  assert.is(worker.counters.handlerErrors, 1)
  assert.is(connection.closeReason, 'handler')
})

for (const [what, then] of [
  [
    'throws',
    () => {
      throw new Error('no')
    },
  ],
  [
    'settles twice',
    (resolve: () => void) => {
      resolve()
      resolve()
    },
  ],
] as const) {
  test(`a thenable that ${what} is counted once, whichever callback gave it`, async () => {
    for (const name of ['onMessage', 'onClose', 'onConnect'] as const) {
      const worker = new Worker<string, unknown>({ name: 'w', onError: () => undefined, [name]: () => ({ then }) })
      const { connection, receive } = connect(worker)
      receive('x\n')
      connection.destroy()
      await within(5_000, worker.drain(60_000))
      assert.is(worker.unsettled, 0, name)
      assert.is(worker.connections.size, 0, name)
    }
  })
}

test('a second drain with less time hurries the first, and both end together; one with more does not', async () => {
  const worker = new Worker<string, unknown>({ name: 'w' })
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
  const worker = new Worker<string, unknown>({ name: 'w', onMessage: () => deferred().promise })
  const { socket, receive } = connect(worker)
  receive('x\n')
  const done = worker.drain(60_000)
  worker.cutOff()
  assert.ok(socket.isDestroyed)
  assert.is(worker.describeWork(), '1 unsettled handler')
  assert.not(await isSettled(done))
})

test('a hold can be given back twice, and either way', async () => {
  const worker = new Worker<string, unknown>({ name: 'w' })
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
  const worker = new Worker<string, unknown>({ name: 'w' })
  worker.onWorkerStart = ({ id, incarnation }) => told.push(['start', id, incarnation])
  worker.onWorkerActive = () => told.push('active')
  worker.onWorkerReload = async () => {
    await nextTurn()
    told.push('reload')
  }
  worker.onWorkerRetire = () => told.push('retire')
  await worker.start({ id: 2, incarnation: 7, sockets: [], tls: { ticketKeys: '', files: {} } })
  await worker.activate()
  await worker.retire(true)
  await worker.reload()
  assert.equal(told, [['start', 2, 7], 'active', 'reload', 'retire', 'reload'])
  const failing = new Worker<string, unknown>({ name: 'f', onWorkerActive: () => Promise.reject(new Error('no lock')) })
  const failure = await failing.activate().catch((error) => error)
  assert.is(failure.message, 'no lock')
})

test('connections are listed by id, page by page', () => {
  const worker = new Worker<string, unknown>({ name: 'w' })
  const ids = [1, 2, 3, 4, 5].map(() => connect(worker).connection.id)
  const page = (after: number) => worker.listConnections(after, 2).map(({ id }) => id)
  assert.equal(page(0), ids.slice(0, 2))
  assert.equal(page(ids[1] as number), ids.slice(2, 4))
  assert.equal(page(ids[3] as number), ids.slice(4))
  const [row] = worker.listConnections(0, 1)
  assert.equal([row?.protocol, row?.transport, row?.status, row?.isIpV4], ['text', 'tcp', 'ESTABLISHED', true])
  worker.cutOff()
})

test('bytes that no handler has seen are counted once', () => {
  const worker = new Worker<string, unknown>({ name: 'w', maxQueuedMessages: 2, onMessage: () => deferred().promise })
  const { connection, receive } = connect(worker)
  receive('a\nb\nc\n') // one at work, two queued: full
  assert.is(connection.getRecvBufferQueueSize(), 0)
  receive('dddd\n')
  assert.is(connection.getRecvBufferQueueSize(), 5)
  worker.cutOff()
})

// Random traffic

/** Of connections: time leaps within a turn now and then, and then one has had its share of the loop. No deadline comes. */
function leaping(clock: TickClock, random: Random): ConnectionClock {
  let ahead = 0
  const now = () => {
    ahead += random(8) === 0 ? 3 : 0
    return clock.time + ahead
  }
  return { now, recently: now, after: () => 0, cancel: () => true }
}

/** A peer that talks, and a kernel that keeps what is not read. */
class Peer {
  readonly socket = new MemorySocket()
  readonly connection: AnyConnection
  /** What the connection was given before its FIN, and what of its answers had left by then. */
  received = ''
  answeredAtEnd = ''
  /** Whole lines were still in the kernel, or came later. */
  hasSpokenLate = false
  /** It has sent its FIN. */
  hasFinished = false
  #kernel: (Buffer | null)[] = []
  #answers = ''
  #sent = 0

  constructor(worker: Worker<string, unknown>, protocol: AnyProtocol, clock: ConnectionClock) {
    this.connection = new Connection(this.socket, protocol, worker, 'server', clock)
    this.socket.onResume = () => queueMicrotask(() => this.#deliver())
    const { end, destroy } = MemorySocket.prototype
    this.socket.end = () => {
      this.#noteEnd()
      end.call(this.socket)
    }
    this.socket.destroy = () => {
      if (!this.hasLeft) this.#noteEnd()
      destroy.call(this.socket)
    }
    this.connection[kOpen]()
  }

  get hasLeft(): boolean {
    return this.socket.hasEnded || this.socket.isDestroyed
  }

  /** Lines, the last one perhaps not to its end. */
  talk(random: Random): void {
    if (this.hasFinished) return
    const count = random(random(4) === 0 ? 60 : 12)
    const lines = Array.from({ length: count }, () => `${this.#sent++} ${'x'.repeat(random(30))}\n`).join('')
    const cut = random(lines.length + 1)
    for (const part of [lines.slice(0, cut), lines.slice(cut)]) if (part !== '') this.#kernel.push(Buffer.from(part))
    this.#deliver()
  }

  /** A drain waits for the rest of a line. */
  finishLine(): void {
    if (this.hasFinished || this.hasLeft || this.received.length === this.wholeLines.length) return
    this.#kernel.push(Buffer.from('\n'))
    this.#deliver()
  }

  /** Sends its FIN, and still reads. */
  finish(): void {
    if (this.hasFinished) return
    this.hasFinished = true
    this.#kernel.push(null)
    this.#deliver()
  }

  collect(): void {
    this.#answers += this.socket.sent()
  }

  /** The lines that were whole when the FIN went. */
  get wholeLines(): string {
    return this.received.slice(0, this.received.lastIndexOf('\n') + 1)
  }

  #noteEnd(): void {
    this.collect()
    this.answeredAtEnd = this.#answers
  }

  #deliver(): void {
    while (this.#kernel.length > 0 && this.socket.isReading && !this.socket.isDestroyed) {
      const bytes = this.#kernel.shift() as Buffer | null
      if (bytes === null) return this.connection[kEnded]()
      if (this.socket.hasEnded) this.hasSpokenLate = true
      else this.received += bytes
      this.connection[kReceived](bytes)
      bytes.fill(0xdd) // lent
    }
  }
}

/** Work that others end, at random. */
class Work {
  readonly #random: Random
  #open: Deferred[] = []

  constructor(random: Random) {
    this.#random = random
  }

  /** A few microtasks, or until somebody settles it. */
  async some(): Promise<void> {
    if (this.#random(4) === 0) {
      const work = deferred()
      this.#open.push(work)
      await work.promise
    }
    for (let turns = this.#random(6); turns > 0; turns--) await Promise.resolve()
  }

  settle(isAll: boolean): void {
    for (const work of this.#open.splice(0)) {
      if (isAll || this.#random(2) === 0) work.resolve()
      else this.#open.push(work)
    }
  }
}

/**
 * One worker under traffic, drained in the middle of it: handlers that overlap, a slow onConnect, peers that half-close,
 * pauses of the user's, and less time than there was. What is chosen to leave does so a turn of the loop later.
 */
async function play(protocol: AnyProtocol, seed: number): Promise<void> {
  const random = randomOf(seed)
  const work = new Work(random)
  const answer = (connection: AnyConnection, line: unknown) => void connection.send(line)
  const isSlowToOpen = random(3) === 0
  const worker: Worker<string, unknown> = new Worker<string, unknown>({
    name: 'fuzz',
    maxQueuedMessages: 1 + random(6),
    maxInFlight: 1 + random(3),
    onConnect: () => (isSlowToOpen ? work.some() : undefined),
    onMessage: (connection, line) => {
      if (random(3) === 0) return answer(connection, line)
      return work.some().then(() => answer(connection, line))
    },
  })
  const clock = new TickClock()
  const time = leaping(clock, random)
  const peers = Array.from({ length: 1 + random(5) }, () => new Peer(worker, protocol, time))
  const anyone = () => peers[random(peers.length)] as Peer
  const polled: (() => void)[] = []
  for (let n = random(10); n > 0; n--) anyone().talk(random)
  const drain = new Drain(worker, 200 + random(2000), clock, (leave) => {
    polled.push(leave)
  })
  drain.begin()
  for (let n = 0; n < 600 && !peers.every((peer) => peer.hasLeft); n++) {
    const isLate = n > 80
    if (!isLate && random(2) === 0) anyone().talk(random)
    if (random(30) === 0) anyone().finish()
    if (!isLate && random(10) === 0) anyone().connection.pauseRecv()
    if (random(4) === 0) anyone().connection.resumeRecv()
    if (random(40) === 0) drain.hurry(random(1000))
    if (isLate) for (const peer of peers) peer.finishLine()
    work.settle(isLate)
    for (let turns = random(8); turns > 0; turns--) await Promise.resolve()
    if (random(4) === 0) await nextTurn()
    for (const leave of polled.splice(0)) leave()
    if (random(2) === 0) clock.step()
    for (const peer of peers) peer.collect()
  }
  drain.end()
  check(peers, worker, `${protocol.name}, SEED=${seed}`)
  worker.cutOff()
}

function check(peers: readonly Peer[], worker: Worker<string, unknown>, how: string): void {
  const isInOrder = worker.maxInFlight === 1
  const linesOf = (text: string) => (isInOrder ? text.split('\n') : text.split('\n').sort())
  for (const peer of peers) {
    assert.ok(peer.hasLeft, `${how}: it left`)
    assert.equal(
      linesOf(peer.answeredAtEnd),
      linesOf(peer.wholeLines),
      `${how}: what was received is answered before the FIN`,
    )
    const { closeReason } = peer.connection
    assert.ok(closeReason === 'stopped' || (closeReason === 'peer' && peer.hasFinished), `${how}: ${closeReason}`)
  }
  const late = peers.filter(({ hasSpokenLate }) => hasSpokenLate).length
  assert.is(worker.counters.discarded, late, `${how}: discarded`)
  assert.is(worker.counters.sendFail, 0, how)
  assert.is(worker.counters.handlerErrors, 0, how)
}

for (const protocol of [text, slow]) {
  test(`random traffic: each line received before the FIN is answered before it: ${protocol.name}`, async () => {
    const seed = seedOf(`drain of a worker, ${protocol.name}`)
    for (let n = 0; n < CASES; n++) await play(protocol, (seed + n) >>> 0)
  })
}

test('a peer that closes in answer to the FIN is gone at once', async () => {
  const worker = new Worker<string, unknown>({ name: 'w' })
  const { connection } = connect(worker)
  connection.lingerTimeout = 60
  const done = worker.drain(40)
  await until(() => connection.getStatus(false) === 'ENDING')
  connection[kEnded]()
  await within(5_000, done)
})

test('HTTP connections with events leave in batches, as long-lived ones do', () => {
  const crowd = new Crowd()
  const events = new Response(200, { 'Content-Type': 'text/event-stream' })
  const streams = Array.from({ length: 100 }, () =>
    crowd.add(open(httpInMemory(), { onMessage: (connection) => connection.send(events) })),
  )
  for (const one of streams) one.receive('GET / HTTP/1.1\r\nHost: h\r\n\r\n')
  const ended = () => streams.filter(({ connection }) => !connection[kIsLongLived]).length
  crowd.start(30_000)
  for (const count of [10, 20, 30]) {
    assert.is(ended(), count)
    crowd.advance(STEP_MS)
  }
  crowd.advance(1500)
  assert.equal([ended(), crowd.left], [100, 100])
  for (const one of streams) assert.match(one.written().toString(), /\r\n\r\n0\r\n\r\n$/)
})

test.run()
