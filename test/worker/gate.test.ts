// When a worker rests: as many connections as it may have, a rate, a share; and what counts as one address.

import { test } from 'uvu'
import * as assert from 'uvu/assert'
import type { Clock } from '../../src/connection/host.ts'
import { Gate, hostOf, PerAddress } from '../../src/worker/gate.ts'

function standing(): Clock & { time: number } {
  return { time: 0, now: () => clock().time, after: () => 0, cancel: () => true }
  function clock() {
    return current
  }
}
let current = standing()

function gate(limits: { maxConnections?: number; acceptRate?: number }): Gate {
  current = standing()
  return new Gate({ maxConnections: Number.POSITIVE_INFINITY, acceptRate: 0, ...limits }, current)
}

test('without limits nothing rests', () => {
  const open = gate({})
  for (let n = 1; n < 1000; n++) assert.is(open.taken(n), 0)
})

test('at maxConnections it rests until there is room, a little below', () => {
  const full = gate({ maxConnections: 100 })
  assert.is(full.taken(99), 0)
  assert.is(full.taken(100), Number.POSITIVE_INFINITY)
  assert.not(full.hasRoom(100))
  assert.not(full.hasRoom(94))
  assert.ok(full.hasRoom(93))
  assert.ok(gate({ maxConnections: 1 }).hasRoom(0))
})

test('an acceptRate of Infinity is no rate', () => {
  const open = gate({ acceptRate: Number.POSITIVE_INFINITY })
  assert.equal([open.taken(1), open.taken(2), open.room(2)], [0, 0, Number.POSITIVE_INFINITY])
})

test('acceptRate: a tenth of a second at once, then one by one; unused time adds no more than that', () => {
  const paced = gate({ acceptRate: 50 })
  const rests = [1, 2, 3, 4, 5].map((n) => paced.taken(n))
  assert.equal(rests, [0, 0, 0, 0, 20])
  current.time = 20
  assert.is(paced.taken(6), 20)
  current.time = 100_000
  assert.equal(
    [1, 2, 3, 4, 5].map((n) => paced.taken(n)),
    [0, 0, 0, 0, 20],
  )
  const slow = gate({ acceptRate: 0.5 })
  assert.is(slow.taken(1), 2000)
})

test('several sockets have a part of the room each; what is left for one is room at one of them', () => {
  const open = gate({ maxConnections: 10 })
  assert.equal(
    [0, 4, 7, 8, 9, 10, 12].map((connections) => open.room(connections, 3)),
    [3, 2, 1, 2, 1, 0, 0],
  )
  assert.is(open.left(8), 2)
  const paced = gate({ acceptRate: 60 })
  assert.equal(
    [1, 3, 9].map((sockets) => paced.room(0, sockets)),
    [6, 2, 1],
  )
})

test('beyond its share it rests now and then', () => {
  const shared = gate({})
  shared.share = 20
  let rests = 0
  for (let n = 1; n <= 100; n++) if (shared.taken(n) > 0) rests++
  assert.is(rests, 10)
  for (let n = 1; n <= 20; n++) assert.is(shared.taken(n), 0)
})

test('an address is one IPv4, or 64 bits of IPv6', () => {
  assert.is(hostOf('1.2.3.4'), '1.2.3.4')
  assert.is(hostOf('::ffff:1.2.3.4'), '1.2.3.4')
  assert.is(hostOf('2001:db8:1:2:3::4'), hostOf('2001:db8:1:2::'))
  assert.is.not(hostOf('2001:db8:1:2::'), hostOf('2001:db8:1:3::'))
  assert.is(hostOf('fe80::1%eth0'), hostOf('fe80::2'))
  const counts = new PerAddress()
  assert.equal(
    [counts.take('a', 2), counts.take('a', 2), counts.take('a', 2), counts.take('b', 2)],
    [true, true, false, true],
  )
  counts.release('a')
  assert.ok(counts.take('a', 2))
  for (const ip of ['a', 'a', 'b', 'b']) counts.release(ip)
  assert.is(counts.size, 0)
  const late = new PerAddress(['a', 'a', 'b', ''])
  assert.equal([late.take('a', 2), late.take('b', 2)], [false, true])
  late.release('a')
  assert.equal([late.take('a', 2), late.take('a', 2)], [true, false])
})

test.run()
