// A connection put through random orders of everything that can happen to it. Whatever the order, when all has come to
// rest: every message was delivered once and in order, or the connection is closed and was told so once.

import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { text } from '../../protocols/text.ts'
import type { AnyConnection } from '../../src/connection.ts'
import type { AnyProtocol } from '../../src/protocol.ts'
import { open, type Wire } from '../../src/testing.ts'
import { type Deferred, deferred, slow } from '../support/codecs.ts'
import { type Random, randomOf, seedOf } from '../support/random.ts'
import { nextTurn } from '../support/until.ts'

const CASES = 1_500

interface Case {
  readonly random: Random
  readonly wire: Wire<string, string>
  readonly gates: Deferred[]
  sent: number
  closes: number
  nested: number
  hasEnded: boolean
}

type Act = (its: Case) => unknown

const acts: readonly Act[] = [
  receive,
  receive,
  receive,
  ({ wire }) => wire.connection.pauseRecv(),
  ({ wire }) => wire.connection.resumeRecv(),
  ({ wire }) => wire.connection.resumeRecv(),
  ({ wire }) => wire.hold(),
  ({ wire }) => wire.drain(),
  ({ wire, hasEnded }) => hasEnded || wire.connection.send('x'.repeat(40)),
  ({ gates, random }) => gates.splice(random(gates.length + 1), 1)[0]?.resolve(),
  ({ gates }) => gates.shift()?.resolve(),
  ({ wire, random }) => wire.advance(random(5)),
  () => nextTurn(),
  () => nextTurn(),
]

/** What may come once, near the end: the peer goes, or the worker does, or we do. */
const partings: readonly Act[] = [
  () => undefined,
  endOfPeer,
  ({ wire }) => wire.leave(),
  ({ wire }) => wire.connection.close('bye'),
  ({ wire }) => wire.connection.end('bye'),
  ({ wire }) => wire.connection.destroy(),
  ({ wire }) => wire.reset(),
]

function receive(its: Case): void {
  if (its.hasEnded) return
  const lines = Array.from({ length: its.random(40) }, () => `${its.sent++}\n`)
  const bytes = Buffer.from(lines.join(''))
  const cut = its.random(bytes.length + 1)
  its.wire.receive(bytes.subarray(0, cut))
  its.wire.receive(bytes.subarray(cut))
}

function endOfPeer(its: Case): void {
  its.hasEnded = true
  its.wire.end()
}

/** A handler that is fast, or slow, or pauses, or answers. */
function handle({ random, gates }: Pick<Case, 'random' | 'gates'>, connection: AnyConnection): unknown {
  const kind = random(12)
  if (kind < 3) {
    gates.push(deferred())
    return gates.at(-1)?.promise
  }
  if (kind === 3) connection.pauseRecv()
  if (kind === 4) connection.pauseRecv()
  if (kind === 4 || kind === 5) connection.resumeRecv()
  if (kind === 6) connection.send('answer')
  return undefined
}

async function play(protocol: AnyProtocol, seed: number): Promise<void> {
  const random = randomOf(seed)
  const gates: Deferred[] = []
  let isHandling = false
  const wire: Wire<string, string> = open(protocol, {
    maxInFlight: 1 + random(3),
    maxQueuedMessages: 1 + random(8),
    maxSendBufferSize: 100,
    onConnect: () => (random(4) === 0 ? nextTurn() : undefined),
    onMessage(connection) {
      if (isHandling) its.nested++
      isHandling = true
      const result = handle({ random, gates }, connection)
      isHandling = false
      return result
    },
    onBufferFull: (connection) => connection.pauseRecv(),
    onBufferDrain: (connection) => connection.resumeRecv(),
    onClose: () => its.closes++,
  })
  const its: Case = { random, wire, gates, sent: 0, closes: 0, nested: 0, hasEnded: false }
  const parting = partings[random(partings.length)] as Act
  for (let n = random(40); n > 0; n--) await acts[random(acts.length)]?.(its)
  await parting(its)
  for (let n = random(10); n > 0; n--) await acts[random(acts.length)]?.(its)
  await rest(its)
  check(its, `${protocol.name}, SEED=${seed}`, parting === partings[0] || parting === endOfPeer)
}

/** All that waits for somebody gets it, until nothing happens any more. */
async function rest({ wire, gates }: Case): Promise<void> {
  for (let before = -1; before < wire.messages.length || gates.length > 0; ) {
    before = wire.messages.length
    for (const gate of gates.splice(0)) gate.resolve()
    wire.drain()
    wire.connection.resumeRecv()
    await nextTurn()
    await nextTurn()
  }
  wire.advance(60_000)
}

function check({ wire, sent, closes, nested, hasEnded }: Case, how: string, isWhole: boolean): void {
  const { connection, messages, worker, socket } = wire
  const isClosed = connection.getStatus(false) === 'CLOSED'
  assert.equal(
    messages,
    messages.map((_message, at) => `${at}`),
    `${how}: in order`,
  )
  assert.equal(
    wire.errors.filter(({ code }) => code !== 2),
    [],
    how,
  )
  assert.is(nested, 0, `${how}: a handler inside another`)
  assert.is(closes, isClosed ? 1 : 0, `${how}: onClose`)
  assert.is(worker.counters.connections, isClosed ? 0 : 1, how)
  assert.is(worker.connections.size, isClosed ? 0 : 1, how)
  assert.is(socket.isDestroyed, isClosed, how)
  if (isWhole) {
    assert.is(messages.length, sent, `${how}: all of them`)
    assert.is(isClosed, hasEnded, how)
    assert.is(isClosed || socket.isReading, true, `${how}: stalled`)
  } else assert.is(isClosed, true, how)
}

for (const protocol of [text, slow]) {
  test(`whatever the order, nothing is lost, doubled or stalled: ${protocol.name}`, async () => {
    const seed = seedOf(`connection, ${protocol.name}`)
    for (let n = 0; n < CASES; n++) await play(protocol, (seed + n) >>> 0)
  })
}

test.run()
