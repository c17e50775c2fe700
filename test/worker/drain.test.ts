// The drain of one worker, with a clock that stands still: who leaves when, and that nothing received is lost.

import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { text } from '../../protocols/text.ts'
import type { Clock } from '../../src/connection/host.ts'
import type { AnyConnection } from '../../src/connection.ts'
import { websocket } from '../../src/index.ts'
import type { AnyProtocol } from '../../src/protocol.ts'
import { open, type Settings, type Wire } from '../../src/testing.ts'
import { Drain } from '../../src/worker/drain.ts'
import { deferred, scripted } from '../support/codecs.ts'
import { randomBytes, randomOf, seedOf } from '../support/random.ts'

/** One timer at a time is all that a drain has. */
class OneTimer implements Clock {
  time = 0
  #due = Number.POSITIVE_INFINITY
  #ring: () => void = () => undefined

  now(): number {
    return this.time
  }

  after<A, B = undefined>(ms: number, fn: (a: A, b: B) => unknown, a?: A, b?: B): number {
    this.#due = this.time + ms
    this.#ring = () => void fn(a as A, b as B)
    return 1
  }

  cancel(): boolean {
    this.#due = Number.POSITIVE_INFINITY
    return true
  }

  advance(ms: number): void {
    this.time += ms
    if (this.time < this.#due) return
    this.#due = Number.POSITIVE_INFINITY
    this.#ring()
  }
}

const STEP_MS = 50

/** Connections of one worker that drains. */
class Crowd {
  readonly clock = new OneTimer()
  readonly wires: Wire<unknown, unknown>[] = []
  readonly clients = new Map<never, never>()
  readonly connections = new Map<number, AnyConnection>()
  readonly arrivals = new Set<never>()
  /** What happens between the choice of who leaves and their end: bytes that the kernel had. */
  beforeLeaving: () => void = () => undefined
  drain: Drain | null = null

  add(count: number, protocol: AnyProtocol = text, settings: Settings<unknown, unknown> = {}): this {
    for (let n = 0; n < count; n++) {
      const wire = open(protocol, settings) as Wire<unknown, unknown>
      this.wires.push(wire)
      this.connections.set(wire.connection.id, wire.connection)
    }
    return this
  }

  start(windowMs: number): this {
    this.drain = new Drain(this, windowMs, this.clock, (leave) => {
      this.beforeLeaving()
      leave()
    })
    this.drain.begin()
    return this
  }

  advance(ms: number): void {
    for (let passed = 0; passed < ms; passed += STEP_MS) {
      for (const wire of this.wires) if (!wire.socket.isDestroyed) wire.advance(STEP_MS)
      this.clock.advance(STEP_MS)
    }
  }

  get left(): number {
    for (const wire of this.wires) wire.advance(0) // what was sent in this turn leaves before FIN
    return this.wires.filter(({ socket }) => socket.hasEnded).length
  }
}

/** Answers each line, in lower case, and says goodbye. */
function speaking(more: object = {}): AnyProtocol {
  const protocol = scripted((io) => ({
    receive: (bytes) => void io.emit(`${bytes}`),
    drain: () => void io.write('bye'),
  }))
  return { ...protocol, ...more }
}

test('a process that could not run until its time was up reads what has come, and answers it, before it leaves', () => {
  const crowd = new Crowd().add(10, speaking())
  for (const wire of crowd.wires) wire.receive('before')
  crowd.start(2000)
  crowd.clock.time += 2100 // suspended: no timer has fired
  let read = 0
  crowd.beforeLeaving = () => {
    read++
    for (const wire of crowd.wires) wire.receive('late')
  }
  assert.is(crowd.drain?.finish(), 200)
  assert.is(read, 1)
  assert.is(crowd.left, 10)
  for (const wire of crowd.wires) assert.equal(wire.messages.map(String), ['before', 'late'])
})

test('a process that made its final call in time has nothing more to wait for when its time is up', () => {
  const crowd = new Crowd().add(10)
  for (const wire of crowd.wires) wire.receive('x\n')
  crowd.start(2000).advance(1950)
  assert.is(crowd.drain?.finish(), 0)
  assert.is(new Crowd().add(1).start(0).drain?.finish(), 0)
})

test('those that have been quiet for a second, before the drain too, leave at once', () => {
  const crowd = new Crowd().add(10)
  crowd.advance(1000)
  assert.is(crowd.start(30_000).left, 10)
})

test('those that were busy until just now leave after a quiet second, and not before', () => {
  const crowd = new Crowd().add(10)
  crowd.advance(5000)
  for (const wire of crowd.wires) wire.receive('x\n')
  crowd.start(30_000).advance(900)
  assert.is(crowd.left, 0)
  crowd.advance(100)
  assert.is(crowd.left, 10)
})

test('a short window has a shorter quiet time', () => {
  const crowd = new Crowd().add(3).start(2000)
  crowd.advance(450)
  assert.is(crowd.left, 0)
  crowd.advance(50)
  assert.is(crowd.left, 3)
})

test('a request that arrives between the choice and the end keeps its connection open, and is answered', () => {
  const crowd = new Crowd().add(1, text, { onMessage: (connection) => connection.send('answer') })
  const [wire] = crowd.wires
  crowd.advance(1000)
  crowd.beforeLeaving = () => wire?.receive('late\n')
  crowd.start(30_000)
  assert.is(crowd.left, 0)
  assert.is(wire?.written().toString(), 'answer\n')
  crowd.beforeLeaving = () => undefined
  crowd.advance(1000)
  assert.is(crowd.left, 1)
})

test('10,000 idle connections leave in batches, all of them by half of the window', () => {
  const crowd = new Crowd().add(10_000)
  crowd.advance(1000)
  crowd.start(30_000)
  const batch = Math.ceil(10_000 / (15_000 / STEP_MS))
  let before = 0
  let most = 0
  for (let tick = 0; tick * STEP_MS <= 15_000; tick++) {
    most = Math.max(most, crowd.left - before)
    before = crowd.left
    crowd.advance(STEP_MS)
  }
  assert.is(crowd.left, 10_000)
  assert.ok(most <= Math.max(100, batch), `${most} in one tick`)
})

test('who is never quiet leaves from three quarters of the window on, after its last answer', () => {
  const crowd = new Crowd().add(5, text, {
    onMessage: (connection: AnyConnection) => connection.send('answer'),
  })
  crowd.start(10_000)
  let asked = 0
  const askUntil = (time: number) => {
    while (crowd.clock.time < time) {
      for (const wire of crowd.wires) if (!wire.socket.hasEnded) wire.receive(`${asked++}\n`)
      crowd.advance(STEP_MS)
    }
  }
  askUntil(7400)
  assert.is(crowd.left, 0)
  askUntil(7600)
  assert.is(crowd.left, 5)
  for (const wire of crowd.wires) assert.is(wire.written().toString().split('answer').length - 1, wire.messages.length)
})

test('at the last call one that pauses leaves with its next answer, at the final call without', () => {
  const crowd = new Crowd().add(2, text, { onMessage: (connection) => connection.send('answer') })
  const [asking, silent] = crowd.wires
  crowd.start(4000)
  for (const pauseMs of [700, 700, 700, 700]) {
    for (const wire of crowd.wires) wire.receive('x\n')
    crowd.advance(pauseMs)
  }
  for (const wire of crowd.wires) wire.receive('x\n')
  crowd.advance(400)
  assert.is(crowd.clock.time, 3200)
  assert.is(crowd.left, 0) // both have been called
  asking?.receive('x\n')
  assert.is(asking?.socket.hasEnded, true)
  assert.is(asking?.written().toString(), 'answer\n'.repeat(6))
  assert.is(silent?.socket.hasEnded, false)
  crowd.advance(150)
  assert.is(silent?.socket.hasEnded, false)
  crowd.advance(50)
  assert.is(silent?.socket.hasEnded, true)
})

test('half a packet is waited for, also at the last call', () => {
  const crowd = new Crowd().add(1)
  const [wire] = crowd.wires
  wire?.receive('half a ')
  crowd.start(4000).advance(3500)
  assert.is(crowd.left, 0)
  wire?.receive('line\n')
  assert.equal(wire?.messages, ['half a line'])
  assert.is(crowd.left, 1)
})

test('a handler at work is waited for', async () => {
  const gate = deferred()
  const crowd = new Crowd().add(1, text, { onMessage: () => gate.promise })
  crowd.wires[0]?.receive('x\n')
  crowd.start(4000).advance(3900)
  assert.is(crowd.left, 0)
  gate.resolve()
  await gate.promise
  await Promise.resolve()
  assert.is(crowd.left, 1)
})

test('a goodbye is said at once, and once', () => {
  const crowd = new Crowd().add(3, speaking()).start(10_000)
  for (const wire of crowd.wires) assert.is(wire.written().toString(), 'bye')
  crowd.advance(9000)
  for (const wire of crowd.wires) assert.is(wire.written().toString(), '')
})

test('the goodbye of a long-lived protocol is spread', () => {
  const crowd = new Crowd().add(1000, speaking({ isLongLived: true })).start(10_000)
  const said = () => crowd.left
  const first = said()
  assert.is(first, 10)
  crowd.advance(STEP_MS)
  assert.is(said(), 20)
  crowd.advance(5000)
  assert.is(said(), 1000)
  for (const wire of crowd.wires) assert.is(wire.written().toString(), 'bye')
})

test('a WebSocket whose handshake may be on its way is waited for as a request is, then told goodbye', () => {
  const crowd = new Crowd().add(2, websocket() as AnyProtocol)
  crowd.start(10_000).advance(900)
  assert.is(crowd.left, 0)
  const [early, silent] = crowd.wires as [Wire<unknown, unknown>, Wire<unknown, unknown>]
  early.receive(
    'GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n',
  )
  crowd.advance(STEP_MS * 3)
  const said = early.written().toString('latin1')
  assert.match(said, /^HTTP\/1\.1 101 /)
  assert.is(Buffer.from(said, 'latin1').readUInt16BE(said.indexOf('\r\n\r\n') + 6), 1012)
  assert.ok(silent.socket.hasEnded, 'it has been silent for a second')
  assert.is(silent.written().toString(), '')
})

test('less time than before hurries', () => {
  const crowd = new Crowd().add(5)
  const busy = () => {
    for (const wire of crowd.wires) wire.receive('x\n')
  }
  busy()
  crowd.start(60_000).advance(500)
  busy()
  crowd.drain?.hurry(400)
  crowd.advance(400)
  assert.is(crowd.left, 5)
})

test('more time than before changes nothing', () => {
  const crowd = new Crowd().add(1).start(400)
  crowd.drain?.hurry(60_000)
  crowd.advance(350)
  assert.is(crowd.left, 1)
})

for (const windowMs of [0, 10]) {
  test(`a window of ${windowMs} ms: everybody leaves at once`, () => {
    const crowd = new Crowd().add(50).start(windowMs)
    crowd.advance(STEP_MS)
    assert.is(crowd.left, 50)
  })
}

for (const [windowMs, at] of [
  [30_000, 27_000],
  [2000, 1500],
] as const) {
  test(`in a window of ${windowMs} ms the signals of handlers that are left abort at ${at}`, () => {
    const crowd = new Crowd().add(1, text, { onMessage: () => deferred().promise })
    const [wire] = crowd.wires
    wire?.receive('x\n')
    const signal = wire?.connection.signal
    crowd.start(windowMs).advance(at - STEP_MS)
    assert.is(signal?.aborted, false)
    crowd.advance(STEP_MS)
    assert.is(signal?.aborted, true)
    assert.is(signal?.reason.code, 'ERR_WORKER_STOPPING')
  })
}

test('a drain that is over does nothing any more', () => {
  const crowd = new Crowd().add(1).start(4000)
  crowd.drain?.end()
  crowd.advance(10_000)
  assert.is(crowd.left, 0)
})

test('random traffic during a drain: what was received before the FIN is answered before it, nothing after', async () => {
  const random = randomOf(seedOf('drain'))
  for (let run = 0; run < 200; run++) {
    const onMessage = async (connection: AnyConnection, line: unknown) => {
      for (let turns = random(4); turns > 0; turns--) await Promise.resolve()
      connection.send(line)
    }
    const crowd = new Crowd().add(1 + random(5), text, { onMessage })
    const answers = crowd.wires.map(() => '')
    const collect = () => {
      for (const [at, wire] of crowd.wires.entries()) answers[at] += wire.written().toString()
    }
    crowd.start(1000 + random(4000))
    while (crowd.left < crowd.wires.length && crowd.clock.time < 6000) {
      const wire = crowd.wires[random(crowd.wires.length)]
      if (wire !== undefined && !wire.socket.hasEnded) wire.receive(randomBytes(random, random(20), 'ab\n\n'))
      if (random(3) === 0) crowd.advance(STEP_MS)
      for (let turns = random(6); turns > 0; turns--) await Promise.resolve()
      collect()
    }
    for (const wire of crowd.wires) if (!wire.socket.hasEnded) wire.receive('\n')
    for (let turns = 0; turns < 500; turns++) await Promise.resolve()
    collect()
    for (const [at, wire] of crowd.wires.entries()) {
      assert.is(wire.socket.hasEnded, true)
      assert.equal(wire.errors, [])
      assert.is(answers[at], wire.messages.map((line) => `${line}\n`).join(''))
    }
  }
})

test.run()
