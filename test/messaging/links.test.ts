// The two ends of a link with somebody at the other one who knows the secret and lies, and what is said in bytes.

import net from 'node:net'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import type { UsageError } from '../../src/errors.ts'
import { FrameReader } from '../../src/messaging/frame-reader.ts'
import { FrameWriter } from '../../src/messaging/frame-writer.ts'
import { proofOf } from '../../src/messaging/handshake.ts'
import { Ledger } from '../../src/messaging/ledger.ts'
import { numberAt, pack, putNumber, uint32At, unpack } from '../../src/messaging/wire.ts'
import { bindMeshSocket } from '../../src/net/mesh-socket.ts'
import { nodeEngine } from '../../src/net/node-engine.ts'
import { chunkings } from '../../src/testing.ts'
import type { Socket } from '../../src/transport.ts'
import { Host, meshOf, SECRET } from '../support/mesh.ts'
import { randomOf, seedOf } from '../support/random.ts'
import { until } from '../support/until.ts'

const KIND = {
  challenge: 1,
  hello: 2,
  welcome: 3,
  message: 16,
  request: 17,
  publish: 18,
  cancel: 19,
  credit: 20,
  last: 21,
  handled: 32,
  answer: 33,
  failure: 34,
  stream: 35,
  item: 36,
}

function frame(kind: number, form: number, body: Uint8Array = new Uint8Array(0)): Buffer {
  const head = Buffer.alloc(6)
  head.writeUInt32LE(body.length + 2)
  head.set([kind, form], 4)
  return Buffer.concat([head, body])
}

function number48(...values: number[]): Buffer {
  return Buffer.concat(
    values.map((value) => {
      const bytes = Buffer.alloc(6)
      bytes.writeUIntLE(value, 0, 6)
      return bytes
    }),
  )
}

/** Connects as a worker that knows the secret; resolves when it is in. */
async function insider(address: string): Promise<{ socket: net.Socket; isClosed(): boolean; kinds: number[] }> {
  const socket = net.connect(address)
  let isClosed = false
  const kinds: number[] = []
  const nonce = Buffer.alloc(32, 1)
  const identity = JSON.stringify({ mailbox: 'there', group: 'there', id: 0, incarnation: 1 })
  const reader = new FrameReader(100_000, (kind, _form, bytes, start, end) => {
    kinds.push(kind)
    if (kind !== KIND.challenge) return
    const challenge = Buffer.from(bytes.subarray(start, end))
    const proof = proofOf(SECRET, 'hello', [challenge, nonce, identity, address])
    socket.write(frame(KIND.hello, 0, Buffer.concat([nonce, proof, Buffer.from(identity)])))
  })
  socket
    .on('error', () => undefined)
    .on('data', (bytes) => reader.receive(bytes as Buffer))
    .on('close', () => {
      isClosed = true
    })
  await until(() => kinds.includes(KIND.welcome))
  return { socket, isClosed: () => isClosed, kinds }
}

test('a worker that breaks the rules is closed and counted, and others are served', async () => {
  const host = new Host({ maxPackageSize: 1000, maxMailboxMessages: 4 })
  const { address, close } = meshOf(host)
  const got: unknown[] = []
  host.onMessage = (message) => {
    got.push(message)
    return message === 'pending' ? new Promise(() => undefined) : undefined
  }
  const honest = await insider(address)
  const text = Buffer.from('pending')
  const lies: Record<string, Buffer> = {
    'an unknown kind': frame(99, 0),
    'an answer, from who asks': frame(KIND.answer, 0, number48(0)),
    'a frame over the limit': Buffer.from([255, 255, 255, 127, KIND.message, 5]),
    'an unknown form': frame(KIND.message, 77, text),
    'a number of two bytes': frame(KIND.message, 4, Buffer.alloc(2)),
    'a request without its time': frame(KIND.request, 5, Buffer.alloc(2)),
    'a publish without a subject': frame(KIND.publish, 5, Buffer.from([0, 0, 0, 0, 1, 0, 255, 255])),
    'a publish with more queues than there are': frame(KIND.publish, 5, Buffer.from([0, 0, 0, 0, 1, 200, 1, 0, 65])),
    'more than it may': Buffer.concat(Array(5).fill(frame(KIND.message, 5, text))),
    'a second hello': frame(KIND.hello, 0, Buffer.alloc(80)),
    'a message after its last': Buffer.concat([frame(KIND.last, 0), frame(KIND.message, 5, text)]),
  }
  for (const [at, [what, bytes]] of Object.entries(lies).entries()) {
    const liar = await insider(address)
    liar.socket.write(bytes)
    await until(() => liar.isClosed()).catch(() => assert.unreachable(what))
    assert.is(host.counters.refused, at + 1, what)
  }
  // Who gives up what he never asked for, or has nothing to stream, does no harm.
  honest.socket.write(
    Buffer.concat([
      frame(KIND.cancel, 0, number48(7)),
      frame(KIND.credit, 0, Buffer.concat([number48(7), Buffer.alloc(4)])),
    ]),
  )
  // Nor what this process cannot read: its sender may run another V8.
  const unread = [frame(KIND.message, 9, Buffer.from([255, 15, 1, 2, 3])), frame(KIND.message, 9)]
  honest.socket.write(Buffer.concat(unread))
  await until(() => honest.kinds.filter((kind) => kind === KIND.failure).length === unread.length)
  honest.socket.write(frame(KIND.message, 5, Buffer.from('honest')))
  await until(() => got.includes('honest') && honest.kinds.includes(KIND.handled))
  assert.is(honest.isClosed(), false)
  honest.socket.destroy()
  close()
})

test('a worker that lies about what it was sent is left, and its senders are told', async () => {
  const lies: [string, boolean, (proof: Buffer) => Buffer][] = [
    ['it does not know the secret', false, () => frame(KIND.welcome, 0, Buffer.alloc(60))],
    ['terms that are none', false, (proof) => frame(KIND.welcome, 0, Buffer.concat([proof, Buffer.from('{}')]))],
    ['it answers before it says who it is', false, () => frame(KIND.handled, 0, Buffer.alloc(16))],
    [
      'handled what was never sent',
      true,
      () => frame(KIND.handled, 0, Buffer.concat([Buffer.alloc(4), number48(3, 5)])),
    ],
    ['half a range', true, () => frame(KIND.handled, 0, Buffer.alloc(7))],
    ['answers what was never asked', true, () => frame(KIND.answer, 0, number48(9))],
    ['streams what was no request', true, () => frame(KIND.item, 0, number48(0))],
    ['an unknown kind', true, () => frame(99, 0, number48(0))],
    ['a frame without end', true, () => Buffer.from([255, 255, 255, 255, KIND.answer, 0])],
  ]
  for (const [what, isAfterWelcome, lie] of lies) {
    const terms = JSON.stringify({ maxMessages: 10, maxBytes: 1e6, maxFrameBytes: 1000, interest: [] })
    const challenge = Buffer.alloc(32, 2)
    const { fd, address, close } = bindMeshSocket('/nowhere')
    const sockets: net.Socket[] = []
    const server = net.createServer((socket) => {
      sockets.push(socket)
      const reader = new FrameReader(10_000, (kind, _form, bytes, start) => {
        if (kind === KIND.message) socket.write(lie(challenge))
        if (kind !== KIND.hello) return
        const nonce = Buffer.from(bytes.subarray(start, start + 32))
        const good = (text: string) => proofOf(SECRET, 'welcome', [nonce, challenge, text])
        if (isAfterWelcome) socket.write(frame(KIND.welcome, 0, Buffer.concat([good(terms), Buffer.from(terms)])))
        else socket.write(lie(good('{}')))
      })
      socket.on('error', () => undefined).on('data', (bytes) => reader.receive(bytes as Buffer))
      socket.write(frame(KIND.challenge, 0, challenge))
    })
    await new Promise<void>((resolve) => server.listen({ fd }, resolve))
    const host = new Host()
    const { mesh, close: leave } = meshOf(host, address)
    mesh.outbox('there', 0).send('m')
    await until(() => host.failed.length > 0).catch(() => assert.unreachable(what))
    // What was on the link may have been handled; what never got there has not.
    assert.equal(host.failed[0], ['ERR_PEER_LOST', isAfterWelcome, 'm'], what)
    leave()
    for (const socket of sockets) socket.destroy()
    server.close()
    close()
  }
})

test('every value is the same however the bytes are cut', () => {
  const values = [
    '',
    'short',
    'a longer text, in ASCII',
    'h\u00e4',
    '\ud83d',
    0,
    -1.5,
    true,
    false,
    null,
    undefined,
    { a: [1, 'b'] },
  ]
  const written: Buffer[] = []
  const writer = new FrameWriter()
  writer.attach({ write: (bytes: Uint8Array) => written.push(Buffer.from(bytes)) } as unknown as Socket, nodeEngine)
  for (const value of values) {
    writer.begin(16)
    writer.value(value)
    writer.end()
    writer.begin(16)
    writer.value(pack(value))
    writer.end()
    writer.begin(16)
    assert.throws(
      () => writer.value(() => 1),
      (error: UsageError) => error.code === 'ERR_CANNOT_CLONE',
    )
    writer.cancel()
  }
  writer.flush()
  const bytes = Buffer.concat(written)
  for (const chunks of chunkings(bytes)) {
    const read: unknown[] = []
    const reader = new FrameReader(1000, (_kind, form, from, start, end) => read.push(unpack(form, from, start, end)))
    for (const chunk of chunks) reader.receive(Buffer.from(chunk))
    assert.equal(
      read,
      values.flatMap((value) => [value, value]),
    )
  }
})

test('a link keeps no large buffer after a large message, whether its transport copies what it writes or not', () => {
  for (const copiesWrites of [true, false]) {
    const sizes: number[] = []
    const writer = new FrameWriter()
    writer.attach({ write: ({ buffer }: Uint8Array) => sizes.push(buffer.byteLength) } as unknown as Socket, {
      copiesWrites,
    })
    for (const value of ['x'.repeat(1_000_000), 'small', 'small']) {
      writer.begin(16)
      writer.value(value)
      writer.end()
      writer.flush()
    }
    const [large = 0, ...small] = sizes
    assert.ok(large > 1_000_000, `${large}`)
    assert.equal(small, [65_536, 65_536])
  }
})

test('numbers of 48 bits are what Node writes and reads', () => {
  const bytes = Buffer.alloc(8)
  for (const value of [0, 1, 255, 65_536, 2 ** 31, 2 ** 32 - 1, 2 ** 32, 2 ** 40 + 12_345, 2 ** 48 - 1]) {
    putNumber(bytes, 1, value)
    assert.is(bytes.readUIntLE(1, 6), value)
    assert.is(numberAt(bytes, 1), value)
    assert.is(uint32At(bytes, 1), value % 2 ** 32)
  }
})

test('a ledger gives back what was put in, whatever is settled when', () => {
  const random = randomOf(seedOf('ledger'))
  const ledger = new Ledger()
  const model = new Map<number, number>()
  let bytes = 0
  for (let step = 0; step < 60_000; step++) {
    if (random(100) < 52 || model.size === 0) {
      const number = ledger.add(step, step % 100)
      assert.is(model.has(number), false)
      model.set(number, step)
      continue
    }
    // The oldest ones stay for long now and then, as a stream does.
    const keys = [
      ...(function* () {
        let n = 0
        for (const key of model.keys()) {
          if (n++ > 3) return
          yield key
        }
      })(),
    ]
    const number = keys[random(keys.length)] as number
    assert.is(ledger.get(number), model.get(number))
    assert.is(ledger.take(number, -1), model.get(number))
    assert.is(ledger.size, (model.get(number) as number) % 100)
    bytes += ledger.size
    model.delete(number)
    assert.is(ledger.take(number, -1), -1)
  }
  assert.is(ledger.count, model.size)
  assert.is(ledger.take(1e9, -1), -1)
  assert.equal(
    ledger
      .takeAll()
      .map(({ entry }) => entry)
      .sort(),
    [...model.values()].sort(),
  )
  assert.is(ledger.count, 0)
  assert.ok(bytes > 0)
})

test.run()
