// What a connection promises, on a socket in memory: order, limits, backpressure, errors, and the ways to close.

import { AsyncLocalStorage } from 'node:async_hooks'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { frame } from '../protocols/frame.ts'
import { tcp } from '../protocols/tcp.ts'
import { text } from '../protocols/text.ts'
import { kRenew } from '../src/connection/symbols.ts'
import { type AnyConnection, Connection } from '../src/connection.ts'
import { codeOf, ProtocolError } from '../src/errors.ts'
import { sendLogTo } from '../src/log.ts'
import { delimited } from '../src/protocol/framing.ts'
import type { CodecIo, Protocol } from '../src/protocol.ts'
import { open, type Wire } from '../src/testing.ts'
import { type Deferred, deferred, scripted } from './support/codecs.ts'
import { nextTurn, until } from './support/until.ts'

const codesOf = (wire: { errors: { code: number }[] }) => wire.errors.map(({ code }) => code)
const thrower = (thrown: unknown) => () => {
  throw thrown
}

// Receiving

test('messages arrive in order, whatever way the bytes are cut', () => {
  const wire = open(text)
  wire.receive('one\ntwo\nth')
  wire.receive('ree\n')
  assert.equal(wire.messages, ['one', 'two', 'three'])
  assert.is(wire.connection.bytesRead, 14)
  assert.is(wire.worker.counters.messagesIn, 3)
  assert.is(wire.worker.counters.bytesIn, 14)
})

test('what another connection makes go on sees nothing of what that one has put into an AsyncLocalStorage', () => {
  const store = new AsyncLocalStorage<string>()
  const seen: (string | undefined)[] = []
  const paused = open(text, {
    onMessage: (connection, message) => {
      if (message === 'pause') return connection.pauseRecv()
      seen.push(store.getStore())
      store.enterWith(message)
    },
  })
  const other = open(text, {
    onMessage: () => {
      store.enterWith('of the other')
      paused.connection.resumeRecv()
      seen.push(store.getStore())
    },
  })
  for (let n = 0; n < 2; n++) {
    paused.receive('pause\none\n')
    store.run('a frame', () => other.receive('x\n'))
  }
  assert.equal(seen, [undefined, 'of the other', undefined, 'of the other'])
})

test('pipes: what one connection makes another one do sees nothing of its AsyncLocalStorage', () => {
  const store = new AsyncLocalStorage<string>()
  const seen: (string | undefined)[] = []
  const onClose = () => {
    seen.push(store.getStore())
    store.enterWith('of one that closes')
  }
  const [first, second, third] = [open(text, { onClose }), open(text, { onClose }), open(text, { onClose })]
  first.connection.pipe(second.connection)
  third.connection.pipe(second.connection)
  store.run('of the caller', () => {
    second.connection.destroy()
    assert.is(store.getStore(), 'of one that closes') // it is called within `destroy`
  })
  assert.equal(seen, ['of the caller', undefined, undefined])
})

test('an asynchronous handler holds back the next message of its connection, and no other connection', async () => {
  const gates: Deferred[] = []
  const onMessage = () => {
    gates.push(deferred())
    return gates.at(-1)?.promise
  }
  const wire = open(text, { onMessage })
  const other = open(text)
  wire.receive('a\nb\nc\n')
  assert.equal(wire.messages, ['a'])
  other.receive('x\n')
  assert.equal(other.messages, ['x'])
  gates[0]?.resolve()
  await until(() => wire.messages.length === 2)
  await nextTurn()
  assert.equal(wire.messages, ['a', 'b'])
  gates[1]?.resolve()
  await until(() => wire.messages.length === 3)
  assert.equal(wire.messages, ['a', 'b', 'c'])
})

test('maxInFlight lets that many handlers of one connection run at once', async () => {
  const gates: Deferred[] = []
  const onMessage = () => {
    gates.push(deferred())
    return gates.at(-1)?.promise
  }
  const wire = open(text, { maxInFlight: 3, onMessage })
  wire.receive('a\nb\nc\nd\n')
  assert.equal(wire.messages, ['a', 'b', 'c'])
  gates[1]?.resolve()
  await until(() => wire.messages.length === 4)
})

test('behind slow handlers at most maxQueuedMessages wait, and the socket is not read', async () => {
  let handled = 0
  const gates: Deferred[] = []
  const onMessage = async () => {
    const gate = deferred()
    gates.push(gate)
    await gate.promise
    handled++
  }
  let decoded = 0
  const { name, input, encode } = text
  const decode = (line: Buffer) => `${++decoded}${text.decode(line)}`
  const counting: Protocol<string> = { name, input, encode, decode, lends: true }
  const wire = open(counting, { maxQueuedMessages: 8, onMessage })
  wire.receive('x\n'.repeat(100))
  assert.is(decoded, 9) // one in its handler, eight wait
  assert.is(wire.socket.isReading, false)
  for (let i = 0; i < 100; i++) {
    const gate = await until(() => gates.shift())
    assert.ok(decoded - handled <= 9, `${decoded} decoded, ${handled} handled`)
    gate.resolve()
  }
  await until(() => handled === 100)
  assert.is(wire.socket.isReading, true)
  assert.is(wire.messages.length, 100)
})

test('bytes behind slow handlers are bounded too', async () => {
  const gate = deferred()
  const wire = open(text, { onMessage: () => gate.promise })
  const line = `${'x'.repeat(99_999)}\n`
  wire.receive(line)
  for (let i = 0; i < 30 && wire.socket.isReading; i++) wire.receive(line)
  assert.is(wire.socket.isReading, false)
  assert.ok(wire.connection.bytesRead <= 1_048_576 + 3 * 100_000, `${wire.connection.bytesRead} were read`)
  const received = wire.connection.bytesRead / line.length
  gate.resolve()
  await until(() => wire.messages.length === received)
  await until(() => wire.socket.isReading)
})

test('pauseRecv inside a handler stops messages of the same read, and resumeRecv brings them, in order', async () => {
  const wire = open(text, { onMessage: (connection, line) => line === 'stop' && connection.pauseRecv() })
  wire.receive('a\nstop\nb\nc')
  wire.receive('c\nd\n')
  assert.equal(wire.messages, ['a', 'stop'])
  assert.is(wire.socket.isReading, false)
  wire.connection.resumeRecv()
  await until(() => wire.messages.length === 5)
  assert.equal(wire.messages, ['a', 'stop', 'b', 'cc', 'd'])
  assert.is(wire.socket.isReading, true)
})

test('pauseRecv and resumeRecv inside one handler leave the socket reading', () => {
  const wire = open(text, {
    onMessage(connection) {
      connection.pauseRecv()
      connection.resumeRecv()
    },
  })
  wire.receive('a\nb\n')
  assert.is(wire.socket.isReading, true)
  wire.receive('c\n')
  assert.equal(wire.messages, ['a', 'b', 'c'])
})

test('no handler starts inside another one of its connection', async () => {
  let depth = 0
  const gate = deferred()
  const wire = open(text, {
    maxQueuedMessages: 2, // so that the rest is still with the codec
    onMessage(connection, line) {
      if (line === 'wait') return gate.promise
      assert.is(++depth, 1)
      connection.pauseRecv()
      connection.resumeRecv()
      depth--
      return undefined
    },
  })
  wire.receive('wait\na\nb\nc\n')
  gate.resolve()
  await until(() => wire.messages.length === 4)
  assert.equal(wire.messages, ['wait', 'a', 'b', 'c'])
  assert.equal(wire.errors, [])
})

test('a connection yields after 2 ms: others get their turn before 30,000 lines of one read are done', async () => {
  const order: string[] = []
  // A line takes 10 us of a clock that stands still otherwise.
  const wire: Wire<string, string | Uint8Array> = open(text, { onMessage: () => wire.advance(0.01) })
  const other = open(text, { onMessage: () => order.push(`other after ${wire.messages.length}`) })
  setImmediate(() => other.receive('x\n'))
  wire.receive('line\n'.repeat(30_000))
  assert.ok(wire.messages.length < 300, `${wire.messages.length} at once`)
  await until(() => order.length > 0)
  assert.ok(wire.messages.length < 600, order[0])
  await until(() => wire.messages.length === 30_000)
  assert.is(wire.socket.isReading, true)
})

test('bytes that come while a connection has yielded stay behind those before', async () => {
  const wire: Wire<string, string | Uint8Array> = open(text, { onMessage: () => wire.advance(1) })
  const lines = Array.from({ length: 100 }, (_, at) => `${at}`)
  wire.receive(`${lines.slice(0, 90).join('\n')}\n`)
  wire.receive(`${lines.slice(90).join('\n')}\n`)
  assert.ok(wire.messages.length < 90)
  await until(() => wire.messages.length === 100)
  assert.equal(wire.messages, lines)
})

test('a peer that ends while a connection has yielded, or is paused, gets its messages handled first', async () => {
  const yielding: Wire<string, string | Uint8Array> = open(text, { onMessage: () => yielding.advance(1) })
  yielding.receive('a\n'.repeat(100))
  yielding.end()
  assert.ok(yielding.messages.length < 100)
  await until(() => yielding.socket.isDestroyed)
  assert.is(yielding.messages.length, 100)
  const paused = open(text, { onMessage: (connection, line) => line === 'stop' && connection.pauseRecv() })
  paused.receive('stop\na\nb\n')
  paused.socket.isReading = true // an engine that has read FIN in the same batch
  paused.end()
  assert.is(paused.connection.getStatus(), 2)
  paused.connection.resumeRecv()
  assert.equal(paused.messages, ['stop', 'a', 'b'])
  assert.is(paused.connection.closeReason, 'peer')
})

test('what is received while onConnect has not settled waits for it', async () => {
  const gate = deferred()
  const wire = open(text, { onConnect: () => gate.promise })
  wire.receive('a\nb\n')
  assert.equal(wire.messages, [])
  gate.resolve()
  await until(() => wire.messages.length === 2)
  assert.equal(wire.messages, ['a', 'b'])
  assert.is(wire.socket.isReading, true)
})

test('a peer that ends while onConnect has not settled still gets its messages handled', async () => {
  const gate = deferred()
  const wire = open(text, { onConnect: () => gate.promise, onMessage: (connection, line) => connection.send(line) })
  wire.receive('a\n')
  wire.end()
  gate.resolve()
  await until(() => wire.socket.isDestroyed)
  assert.is(wire.written().toString(), 'a\n')
})

test('an onConnect that throws, or rejects, costs the connection', async () => {
  for (const onConnect of [thrower(new Error('no')), () => Promise.reject(new Error('no'))]) {
    const wire = open(text, { onConnect })
    await until(() => wire.errors.length === 1)
    assert.equal(codesOf(wire), [Connection.HANDLER])
    assert.is(wire.connection.getStatus(false), 'ENDING')
    assert.is(wire.socket.hasEnded, true)
  }
})

test('without onMessage messages are dropped, and counted', () => {
  const wire = open(text)
  wire.connection.onMessage = null
  wire.receive('a\n')
  assert.is(wire.worker.counters.messagesIn, 1)
  assert.equal(wire.errors, [])
})

// Errors

test('a fault of the peer is told after the messages before it have been handled', async () => {
  const gate = deferred()
  const events: string[] = []
  const wire = open(text, {
    maxPackageSize: 10,
    onMessage: async (_connection, line) => {
      await gate.promise
      events.push(line)
    },
    onError: (_connection, code) => events.push(`error ${code}`),
  })
  wire.receive('a\nb\nfar too long a line\nc\n')
  await nextTurn()
  assert.equal(wire.errors, [])
  gate.resolve()
  await until(() => wire.errors.length === 1)
  assert.equal(events, ['a', 'b', 'error 3'])
  assert.is(codeOf(wire.errors[0]?.error), 'ERR_PACKET_TOO_LARGE')
  assert.is(wire.connection.closeReason, 'protocol')
  assert.is(wire.worker.counters.protocolErrors, 1)
  assert.is(wire.socket.hasEnded, true)
})

test('a fault is told once, although onError pauses and resumes', async () => {
  const gate = deferred()
  const wire = open(text, {
    maxPackageSize: 4,
    onMessage: () => gate.promise,
    onError: (connection) => {
      connection.pauseRecv()
      connection.resumeRecv()
    },
  })
  wire.receive('a\ntoo long\n')
  gate.resolve()
  await until(() => wire.errors.length > 0)
  await nextTurn()
  assert.equal(codesOf(wire), [Connection.PROTOCOL])
})

test('what a handler throws, or rejects with, costs that connection', async () => {
  for (const onMessage of [thrower(new Error('oops')), () => Promise.reject(new Error('oops'))]) {
    const wire = open(text, { onMessage })
    wire.receive('a\nb\n')
    await until(() => wire.errors.length > 0)
    assert.equal(codesOf(wire), [Connection.HANDLER])
    assert.is(wire.errors[0]?.message, 'oops')
    assert.equal(wire.messages, ['a'])
    assert.is(wire.connection.closeReason, 'handler')
    assert.is(wire.worker.counters.handlerErrors, 1)
    assert.is(wire.socket.hasEnded, true)
  }
})

test('a handler that sets the protocol, as in Workerman, hears who can change it, and the protocol stays', async () => {
  const errors: unknown[] = []
  const wire = open(text, {
    onMessage: (connection) => void Reflect.set(connection, 'protocol', frame, connection),
    onError: (_connection, _code, _message, error) => void errors.push(error),
  })
  const { protocol } = wire.connection
  wire.receive('x\n')
  await nextTurn()
  assert.is(codeOf(errors[0]), 'ERR_UNKNOWN_OPTION')
  assert.match(
    String(errors[0]),
    /connection\.protocol cannot be set: .*io\.upgrade\(protocol, rest\).*http\(\{ websocket \}\)/,
  )
  assert.is(wire.connection.protocol, protocol)
})

test('what is no Error arrives as one, with the thing thrown as its cause', async () => {
  for (const thrown of ['text', null, undefined, 7, { a: 1 }]) {
    const wire = open(text, { onMessage: thrower(thrown) })
    wire.receive('a\n')
    assert.instance(wire.errors[0]?.error, Error)
    assert.is(wire.errors[0]?.error?.cause, thrown)
    const late = open(text, { onMessage: () => Promise.reject(thrown) })
    late.receive('a\n')
    await until(() => late.errors.length === 1)
    assert.is(late.errors[0]?.error?.cause, thrown)
  }
})

test('an onError that throws, or rejects, harms nobody', async () => {
  for (const onError of [thrower(new Error('worse')), () => Promise.reject(new Error('worse'))]) {
    const wire = open(text, { onMessage: thrower(new Error('bad')), onError })
    wire.receive('a\n')
    await nextTurn()
    assert.is(wire.connection.getStatus(false), 'ENDING')
  }
})

test('an onError of undefined is none: the error itself is logged', () => {
  const lines: string[] = []
  sendLogTo((line) => lines.push(line))
  const wire = open(text, { onMessage: thrower(new Error('the real cause')) })
  wire.connection.onError = undefined as never
  wire.receive('a\n')
  sendLogTo(null)
  assert.match(lines.join('\n'), /error 4: Error: the real cause/)
  assert.is(lines.length, 1)
})

test('what the callbacks about buffers and closing throw, or reject with, reaches onError', async () => {
  for (const fail of [thrower(new Error('no')), () => Promise.reject(new Error('no'))]) {
    for (const name of ['onBufferFull', 'onBufferDrain', 'onClose'] as const) {
      const wire = open(text, { maxSendBufferSize: 1, [name]: fail })
      wire.hold()
      wire.connection.send('a')
      wire.drain()
      wire.connection.destroy()
      await until(() => wire.errors.length > 0)
      assert.equal(codesOf(wire), [Connection.HANDLER], name)
      assert.is(wire.socket.isDestroyed, true)
    }
  }
})

// Sending

test('send is true while there is room, false from the high-water mark on, and refused above it', () => {
  const events: string[] = []
  const wire = open(text, {
    maxSendBufferSize: 10,
    onBufferFull: () => events.push('full'),
    onBufferDrain: () => events.push('drain'),
    onError: (_connection, code) => events.push(`error ${code}`),
  })
  wire.hold()
  assert.is(wire.connection.send('1234'), true)
  assert.is(wire.connection.getSendBufferQueueSize(), 5)
  assert.is(wire.connection.send('12345678'), false) // taken, although it overshoots
  assert.equal(events, ['full'])
  assert.is(wire.connection.send('refused'), false)
  assert.equal(events, ['full', 'error 2'])
  assert.is(wire.errors[0]?.message, 'send buffer full and drop package')
  wire.drain()
  assert.equal(events, ['full', 'error 2', 'drain'])
  assert.is(wire.written().toString(), '1234\n12345678\n')
  assert.is(wire.connection.send('again'), true)
  const { messagesOut, bytesOut, sendFail } = wire.worker.counters
  assert.equal({ messagesOut, bytesOut, sendFail }, { messagesOut: 3, bytesOut: 20, sendFail: 1 })
  assert.is(wire.connection.bytesWritten, 20)
})

test('onBufferFull fires once a fill, and onBufferDrain once it is empty', () => {
  const events: string[] = []
  const wire = open(text, {
    maxSendBufferSize: 4,
    onBufferFull: () => events.push('full'),
    onBufferDrain: () => events.push('drain'),
  })
  for (let round = 0; round < 2; round++) {
    wire.hold()
    wire.connection.send('1234')
    wire.connection.send('1234')
    wire.drain()
    wire.drain()
  }
  assert.equal(events, ['full', 'drain', 'full', 'drain'])
})

test('a source that sends from onBufferDrain until it is told to stop sends everything', () => {
  let left = 100
  const pour = (connection: AnyConnection) => {
    while (left > 0) if (!connection.send(`${left--}`)) break
  }
  const wire = open(text, { maxSendBufferSize: 16, onBufferDrain: pour })
  wire.hold()
  pour(wire.connection)
  for (let i = 0; i < 100 && left > 0; i++) {
    wire.drain()
    wire.hold()
  }
  wire.drain()
  assert.is(wire.written().toString().split('\n').length, 101)
  assert.equal(wire.errors, [])
})

test('a peer that should connect anew stays if its protocol cannot tell it', () => {
  const wire = open(text)
  wire.connection[kRenew]()
  wire.receive('a\n')
  wire.connection.send('b')
  assert.is(wire.connection.getStatus(false), 'ESTABLISHED')
  assert.is(wire.written().toString(), 'b\n')
})

test('a send on a connection that is not open is refused, and onError has run before it returns', () => {
  const close = { close: 'closing', end: 'ending', destroy: 'closed' } as const
  for (const [how, state] of Object.entries(close) as ['close' | 'end' | 'destroy', string][]) {
    const wire = open(text)
    wire.hold()
    wire.connection.send('kept')
    wire.connection[how]()
    assert.is(wire.connection.send('lost'), false)
    assert.equal(codesOf(wire), [Connection.SEND_FAIL])
    assert.is(wire.errors[0]?.message, `connection is ${state}`)
    assert.is(wire.worker.counters.sendFail, 1)
    assert.is(wire.worker.counters.messagesOut, 1)
  }
})

test('a send inside onError does not recurse', () => {
  const wire = open(text, { onError: (connection) => connection.send('sorry') })
  wire.connection.destroy()
  wire.connection.send('a')
  assert.is(wire.errors.length, 1)
  assert.is(wire.worker.counters.sendFail, 2)
})

test('what a protocol cannot encode is a UsageError at the sender, and the connection lives', () => {
  const broken: Protocol<string, string> = { ...text, name: 'broken', encode: thrower(new RangeError('too much')) }
  for (const [protocol, message] of [
    [text, 42],
    [frame, { a: 1 }],
    [tcp, null],
    [tcp, ['a', 42]],
    [broken, 'a'],
  ] as const) {
    const wire = open(protocol as Protocol<unknown, unknown>)
    assert.throws(
      () => wire.connection.send(message),
      (error: unknown) => codeOf(error) === 'ERR_ENCODE',
      protocol.name,
    )
    assert.is(wire.connection.getStatus(), 2)
    assert.is(wire.written().length, 0)
    assert.is(wire.worker.counters.bytesOut, 0)
    assert.is(wire.worker.counters.messagesOut, 0)
    assert.equal(wire.errors, [])
  }
})

test('raw bytes pass the protocol by: a string, bytes, or a list of them', () => {
  const wire = open(text)
  wire.connection.send('a', true)
  wire.connection.send(Buffer.from('b'), true)
  wire.connection.send(['c', Buffer.from('d'), ''], true)
  assert.is(wire.connection.send('', true), true)
  assert.is(wire.written().toString(), 'abcd')
})

test('text is counted in bytes', () => {
  const wire = open(text)
  wire.hold()
  wire.connection.send('h\u00e9\u{1f600}')
  assert.is(wire.connection.getSendBufferQueueSize(), 8)
})

// Closing

test('close sends what is queued first, end as well and then half-closes, destroy loses it', () => {
  const closed = open(text)
  closed.hold()
  closed.connection.close('bye')
  assert.is(closed.connection.getStatus(false), 'CLOSING')
  assert.is(closed.socket.isDestroyed, false)
  closed.drain()
  assert.is(closed.socket.isDestroyed, true)
  assert.is(closed.written().toString(), 'bye\n')
  assert.is(closed.connection.closeReason, 'closed')

  const ended = open(text)
  ended.hold()
  ended.connection.end('bye')
  assert.is(ended.connection.getStatus(false), 'ENDING')
  assert.is(ended.socket.hasEnded, false)
  ended.drain()
  assert.is(ended.socket.hasEnded, true)
  assert.is(ended.socket.isDestroyed, false)
  ended.receive('read and discarded\n')
  assert.equal(ended.messages, [])
  ended.end()
  assert.is(ended.socket.isDestroyed, true)
  assert.is(ended.written().toString(), 'bye\n')

  const destroyed = open(text)
  destroyed.hold()
  destroyed.connection.send('lost')
  destroyed.connection.destroy()
  destroyed.drain()
  assert.is(destroyed.written().length, 0)
  assert.is(destroyed.connection.getStatus(false), 'CLOSED')
})

test('whatever a handler throws, and onError in turn, costs that connection alone', () => {
  const { proxy, revoke } = Proxy.revocable({}, {})
  revoke()
  for (const onError of [null, thrower(proxy)]) {
    const wire = open(text, { onMessage: thrower(proxy), onError } as never)
    wire.receive('x\n')
    assert.is(wire.connection.closeReason, 'handler')
  }
})

test('a peer that takes hardly any of what is queued is not waited for', () => {
  for (const [taken, isWaitedFor] of [
    [20_000, true],
    [100, false],
  ] as const) {
    const wire = open(text)
    wire.hold()
    wire.connection.send('x'.repeat(100_000))
    wire.connection.close()
    wire.advance(29_999)
    wire.socket.queuedBytes -= taken
    wire.advance(1)
    assert.is(wire.connection.getStatus(false), isWaitedFor ? 'CLOSING' : 'CLOSED')
    assert.is(wire.errors.length, isWaitedFor ? 0 : 1)
  }
})

test('close and end take raw bytes as a last word', () => {
  for (const how of ['close', 'end'] as const) {
    const wire = open(text)
    wire.connection[how]('bye', true)
    assert.is(wire.written().toString(), 'bye')
  }
})

test('end waits lingerTimeout for the peer, and not at all with 0', () => {
  const wire = open(text)
  wire.connection.end()
  wire.advance(999)
  assert.is(wire.socket.isDestroyed, false)
  wire.advance(1)
  assert.is(wire.socket.isDestroyed, true)
  const hasty = open(text)
  hasty.connection.lingerTimeout = 0
  hasty.connection.end()
  assert.is(hasty.socket.isDestroyed, true)
})

test('end after the peer has ended closes at once', () => {
  const wire = open(text, { onMessage: () => new Promise(() => undefined) })
  wire.receive('a\n')
  wire.end()
  wire.connection.end('bye')
  assert.is(wire.written().toString(), 'bye\n')
  assert.is(wire.socket.isDestroyed, true)
})

test('a peer that reads nothing is given up after 30 s without progress, and what is lost is told', () => {
  for (const how of ['close', 'end'] as const) {
    const wire = open(text)
    wire.hold()
    wire.connection[how]('bye')
    wire.advance(29_999)
    assert.is(wire.socket.isDestroyed, false)
    wire.advance(1)
    assert.is(wire.socket.isDestroyed, true)
    assert.equal(codesOf(wire), [Connection.SEND_FAIL])
    assert.is(wire.worker.counters.sendFail, 1)
  }
})

test('the peer can end a conversation by FIN or by a reset', () => {
  const fin = open(text)
  fin.receive('a\nb')
  fin.end()
  assert.is(fin.connection.closeReason, 'peer')
  assert.is(fin.socket.isDestroyed, true)
  assert.equal(fin.messages, ['a'])
  const reset = open(text)
  reset.reset()
  assert.is(reset.connection.closeReason, 'error')
  assert.equal(reset.errors, [])
})

test('after FIN of the peer, a handler at work still answers', async () => {
  const gate = deferred()
  const wire = open(text, {
    onMessage: async (connection, line) => {
      await gate.promise
      connection.send(`${line}!`)
    },
  })
  wire.receive('a\nb\n')
  wire.end()
  await nextTurn()
  assert.is(wire.socket.isDestroyed, false)
  gate.resolve()
  await until(() => wire.socket.isDestroyed)
  assert.is(wire.written().toString(), 'a!\nb!\n')
})

test('a reset with bytes queued is a SEND_FAIL, with the error as its reason', () => {
  const wire = open(text)
  wire.hold()
  wire.connection.send('12345')
  wire.reset()
  assert.equal(codesOf(wire), [Connection.SEND_FAIL])
  assert.is(wire.errors[0]?.message, 'client closed, 6 bytes not sent')
  assert.is(codeOf(wire.errors[0]?.error), 'ECONNRESET')
})

test('a reset survives an onError that closes the connection itself', () => {
  for (const how of ['close', 'end', 'destroy'] as const) {
    let closes = 0
    const wire = open(text, { onError: (connection) => connection[how](), onClose: () => closes++ })
    wire.hold()
    wire.connection.send('a')
    wire.reset()
    assert.is(closes, 1, how)
    assert.is(wire.connection.getStatus(false), 'CLOSED', how)
  }
})

test('close, end and destroy work inside every callback; onClose and codec.closed run once, closed last', async () => {
  const callbacks = ['onConnect', 'onMessage', 'onError', 'onBufferFull', 'onBufferDrain', 'onClose', 'onOwn'] as const
  const protocol = (log: string[]) =>
    scripted((io) => ({
      receive(bytes) {
        io.event('onOwn')
        if (io.emit(`${bytes}`) && `${bytes}` === 'bad') throw new ProtocolError('ERR_BAD', 'bad')
      },
      timeout: () => io.event('onOwn'),
      closed: (reason) => log.push(`closed ${reason}`),
    }))
  for (const callback of callbacks) {
    for (const how of ['close', 'end', 'destroy'] as const) {
      const log: string[] = []
      const wire = open(protocol(log), {
        maxSendBufferSize: 4,
        onClose: () => log.push('onClose'),
        [callback]: (connection: AnyConnection) => {
          if (callback === 'onClose') log.push('onClose')
          connection[how]()
          connection[how]()
        },
      })
      wire.hold()
      wire.connection.send('12345')
      wire.drain()
      wire.receive('a')
      wire.receive('bad')
      wire.connection.close()
      wire.drain()
      wire.advance(60_000)
      wire.connection.destroy()
      const title = `${how} in ${callback}: ${log}`
      assert.is(log.filter((line) => line === 'onClose').length, 1, title)
      assert.is(log.filter((line) => line.startsWith('closed')).length, 1, title)
      assert.match(log.at(-1) ?? '', /^closed/, title)
      assert.is(wire.worker.connections.size, 0, title)
      assert.is(wire.worker.counters.connections, 0, title)
      assert.is(wire.worker.counters.closed, 1, title)
    }
  }
})

test('an end is counted by why', () => {
  const ends: Record<string, (wire: Wire<string, string | Uint8Array>) => void> = {
    closedByPeer: (wire) => wire.end(),
    closedByError: (wire) => wire.reset(),
    closedByTimeout: (wire) => wire.advance(10_000),
    closedByHandler: (wire) => wire.receive('throw\n'),
    closedByProtocol: (wire) => wire.receive('x'.repeat(64)),
    closed: (wire) => wire.connection.close(),
  }
  for (const [key, end] of Object.entries(ends)) {
    const wire = open(text, {
      idleTimeoutMs: 5000,
      maxPackageSize: 32,
      onMessage: () => {
        throw new Error('no')
      },
    })
    end(wire)
    wire.advance(20_000)
    const counted = Object.entries(wire.worker.counters).filter(
      ([name, count]) => name.startsWith('closed') && count > 0,
    )
    assert.equal(Object.fromEntries(counted), { closed: 1, [key]: 1 }, `${key}: ${wire.connection.closeReason}`)
  }
})

test('end inside a handler: a pipelined message is not delivered', () => {
  const wire = open(text, { onMessage: (connection) => connection.end('bye') })
  wire.receive('a\nb\n')
  assert.equal(wire.messages, ['a'])
  assert.is(wire.written().toString(), 'bye\n')
})

test('a handler that settles after the connection is gone does no harm', async () => {
  const gate = deferred()
  const wire = open(text, { onMessage: () => gate.promise })
  wire.receive('a\nb\n')
  wire.connection.destroy()
  gate.reject(new Error('late'))
  await until(() => wire.errors.length === 1)
  assert.equal(codesOf(wire), [Connection.HANDLER])
  assert.equal(wire.messages, ['a'])
})

test('onClose finds addresses and context', () => {
  const seen: unknown[] = []
  const wire = open(text, {
    onConnect: (connection) => {
      connection.context.user = 'ann'
    },
    onClose: (connection) => seen.push(connection.getRemoteAddress(), connection.getLocalAddress(), connection.context),
  })
  wire.connection.destroy()
  assert.equal(seen, ['192.0.2.1:50000', '192.0.2.2:80', { user: 'ann' }])
})

test('each connection has a context of its own, and an id that counts on', () => {
  const one = open(text).connection
  const two = open(text).connection
  one.context.a = 1
  assert.equal(two.context, {})
  two.context = { b: 2 }
  assert.equal(two.context, { b: 2 })
  assert.is(two.id, one.id + 1)
})

// Leaving

test('a worker that leaves lets handlers finish, says goodbye, and closes', async () => {
  const gate = deferred()
  const protocol = scripted((io) => ({
    receive: (bytes) => void io.emit(`${bytes}`),
    drain: () => void io.write('goodbye'),
  }))
  const wire = open(protocol, {
    onMessage: async (connection, message) => {
      await gate.promise
      connection.send(message)
    },
  })
  wire.receive('a')
  wire.leave()
  wire.leave()
  assert.is(wire.socket.isReading, false)
  assert.is(wire.connection.getStatus(), 2)
  gate.resolve()
  await until(() => wire.socket.hasEnded)
  assert.is(wire.written().toString(), 'goodbyea')
  assert.is(wire.connection.closeReason, 'stopped')
  wire.end()
  assert.ok(wire.socket.isDestroyed)
})

test('a worker that leaves waits for a handler that it has called late, and is in the middle of its answers', async () => {
  const work = deferred()
  const wire = open(text, {
    onMessage: (connection, message) => {
      if (message === 'slow') return work.promise
      for (const part of ['one', 'two']) connection.send(part)
      return nextTurn().then(() => connection.send('three'))
    },
  })
  wire.receive('slow\nnext\n')
  wire.leave()
  work.resolve()
  await until(() => wire.socket.hasEnded)
  assert.equal([wire.written().toString(), wire.errors], ['one\ntwo\nthree\n', []])
})

test('onSettled comes after a handler that was called late, not in the middle of it', async () => {
  const log: unknown[] = []
  const work = deferred()
  let io: CodecIo<string> | undefined
  const protocol = scripted((own) => {
    io = own
    return {
      receive(bytes) {
        for (const message of bytes.toString()) own.emit(message)
        own.onSettled = () => log.push('settled')
      },
    }
  })
  const wire = open(protocol, {
    onMessage: (connection, message) => {
      if (message === '1') return work.promise
      connection.send('answer')
      return log.push(io?.isAtWork)
    },
  })
  wire.receive('12')
  work.resolve()
  await until(() => log.length === 2)
  assert.equal(log, [true, 'settled'])
})

test('an idle connection of a worker that leaves is half-closed at once, and what still comes is counted once', () => {
  const wire = open(text)
  wire.receive('a\n')
  wire.leave()
  assert.is(wire.connection.closeReason, 'stopped')
  assert.ok(wire.socket.hasEnded)
  assert.not(wire.socket.isDestroyed)
  wire.receive('into the goodbye\n')
  wire.receive('and more\n')
  assert.equal(wire.messages, ['a'])
  assert.is(wire.worker.counters.discarded, 1)
  wire.advance(4900) // a peer that stalls finds it there, see reload-stalled.test.ts
  assert.not(wire.socket.isDestroyed)
  wire.advance(100)
  assert.ok(wire.socket.isDestroyed)
})

test('a worker that leaves waits for the rest of a packet, and delivers it', () => {
  const wire = open(text)
  wire.receive('half a li')
  wire.leave()
  assert.not(wire.socket.hasEnded)
  assert.ok(wire.socket.isReading)
  wire.receive('ne\n')
  assert.equal(wire.messages, ['half a line'])
  assert.ok(wire.socket.hasEnded)
  assert.is(wire.worker.counters.discarded, 0)
})

test('a handler that gives up because the signal told it to is no error', async () => {
  const wire = open(text, {
    onMessage: (connection) =>
      new Promise((_, reject) => {
        connection.signal.addEventListener('abort', () => reject(connection.signal.reason))
      }),
  })
  wire.receive('x\n')
  wire.reset()
  await until(() => wire.worker.unsettled === 0)
  assert.equal(wire.errors, [])
  assert.is(wire.worker.counters.handlerErrors, 0)
})

test('signal aborts when the connection closes, also when it is asked for late', () => {
  const wire = open(text)
  const { signal } = wire.connection
  assert.not(signal.aborted)
  wire.connection.destroy()
  assert.is(signal.reason.code, 'ERR_CONNECTION_CLOSED')
  const late = open(text)
  late.connection.destroy()
  assert.is(late.connection.signal.reason.code, 'ERR_CONNECTION_CLOSED')
})

// Time

test('a connection that neither sends nor receives for idleTimeoutMs is closed', () => {
  const wire = open(text, { idleTimeoutMs: 1000 })
  wire.advance(900)
  wire.receive('a\n')
  wire.advance(900)
  wire.connection.send('b')
  wire.advance(999)
  assert.is(wire.connection.getStatus(), 2)
  wire.advance(1)
  assert.is(wire.connection.closeReason, 'timeout')
  assert.is(wire.socket.isDestroyed, true)
})

test('a connection whose handler is at work is not idle', async () => {
  const gate = deferred()
  const wire = open(text, { idleTimeoutMs: 1000, onMessage: () => gate.promise })
  wire.receive('a\n')
  wire.advance(10_000)
  assert.is(wire.connection.getStatus(), 2)
  gate.resolve()
  await nextTurn()
  wire.advance(2_000)
  assert.is(wire.connection.closeReason, 'timeout')
})

test('a peer that reads what is queued for it is not idle, one that reads hardly any of it is', () => {
  for (const [taken, isIdle] of [
    [20_000, false],
    [100, true],
  ] as const) {
    const wire = open(text, { idleTimeoutMs: 1000 })
    wire.hold()
    wire.advance(1) // so that checks fall in between
    wire.connection.send('x'.repeat(1_000_000))
    for (let n = 0; n < 20; n++) {
      wire.advance(500)
      wire.socket.queuedBytes -= taken
    }
    assert.equal(
      [wire.connection.closeReason, wire.connection.getStatus(false)],
      isIdle ? ['timeout', 'CLOSING'] : [null, 'ESTABLISHED'],
    )
    wire.advance(2000) // it has stopped
    assert.is(wire.connection.closeReason, 'timeout')
  }
})

test('lingering is not idling', () => {
  const wire = open(text, { idleTimeoutMs: 100 })
  wire.connection.end('bye')
  wire.advance(500)
  assert.is(wire.socket.isDestroyed, false)
  wire.advance(500)
  assert.is(wire.connection.closeReason, 'closed')
})

test('deadlines of a codec are set, moved, cleared, and fire once', () => {
  const fired: string[] = []
  let io: CodecIo<string> | undefined
  const protocol = scripted((its) => {
    io = its
    return { timeout: (kind) => fired.push(`${kind} at ${its.now()}`) }
  })
  const wire = open(protocol)
  io?.deadline('moved', 100)
  io?.deadline('cleared', 100)
  io?.deadline('fires', 150)
  wire.advance(50)
  io?.deadline('moved', 150)
  io?.deadline('cleared', 0)
  wire.advance(1_000)
  assert.equal(fired, ['fires at 150', 'moved at 200'])
  io?.deadline('never', 10)
  wire.connection.destroy()
  io?.deadline('never', 10)
  wire.advance(1_000)
  assert.is(fired.length, 2)
})

test('a connection that is closing has no deadlines of its codec any more', () => {
  for (const how of ['close', 'end'] as const) {
    let fired = 0
    const protocol = scripted((io) => {
      io.deadline('ping', 10)
      return { timeout: () => fired++ }
    })
    const wire = open(protocol)
    wire.hold()
    wire.connection.send('a')
    wire.connection[how]()
    wire.advance(500)
    assert.is(fired, 0)
    assert.equal(wire.errors, [])
  }
})

test('a codec whose work ends after its connection may write: nobody is told', async () => {
  const protocol = scripted((io) => ({ receive: () => queueMicrotask(() => assert.is(io.write('late'), false)) }))
  const wire = open(protocol)
  wire.receive('a')
  wire.reset()
  await nextTurn()
  assert.equal(wire.errors, [])
})

test('what timeout throws is a protocol error', () => {
  const protocol = scripted((io) => {
    io.deadline('login', 5)
    return { timeout: thrower(new ProtocolError('ERR_LOGIN', 'too late', { closeCode: 7 })) }
  })
  const wire = open(protocol)
  wire.advance(5)
  assert.equal(codesOf(wire), [Connection.PROTOCOL])
  assert.is(wire.connection.closeReason, 'protocol')
})

// Codecs

test('a codec greets when it is opened, before what onConnect sends', () => {
  const protocol = scripted((io) => {
    io.write('hello ')
    return {}
  })
  const wire = open(protocol, { onConnect: (connection) => connection.send('world') })
  assert.is(wire.written().toString(), 'hello world')
})

test('what a codec emits when it is opened comes after onConnect', () => {
  const log: string[] = []
  const protocol = scripted((io) => {
    io.emit('early')
    return {}
  })
  open(protocol, { onConnect: () => log.push('onConnect'), onMessage: (_connection, message) => log.push(message) })
  assert.equal(log, ['onConnect', 'early'])
})

test('a codec may turn a connection away when it is opened', () => {
  for (const how of ['close', 'end'] as const) {
    const log: string[] = []
    const protocol = scripted((io) => {
      io.write('go away')
      io[how]()
      return { closed: (reason) => log.push(reason) }
    })
    const wire = open(protocol, { onConnect: () => log.push('onConnect'), onClose: () => log.push('onClose') })
    wire.advance(2_000)
    assert.equal(log, ['onClose', 'closed'], how)
    assert.is(wire.written().toString(), 'go away')
    const { connections, accepted, closed } = wire.worker.counters
    assert.equal({ connections, accepted, closed }, { connections: 0, accepted: 1, closed: 1 })
    assert.is(wire.worker.connections.size, 0)
  }
})

test('a codec that cannot be opened costs one connection', () => {
  const wire = open({ name: 'broken', open: thrower(new Error('no memory')) })
  assert.equal(codesOf(wire), [Connection.PROTOCOL])
  assert.is(wire.socket.hasEnded, true)
  wire.receive('a')
  wire.advance(2_000)
  assert.is(wire.worker.connections.size, 0)
})

test('a codec may pause, emit later, and resume: nothing is read meanwhile, and order holds', async () => {
  const protocol = scripted((io) => ({
    receive(bytes) {
      const message = `${bytes}`
      io.pause()
      setImmediate(() => {
        assert.is(io.emit(message), true)
        io.resume()
      })
    },
  }))
  const wire = open(protocol)
  wire.receive('a')
  assert.is(wire.socket.isReading, false)
  wire.receive('b')
  wire.end()
  assert.equal(wire.messages, [])
  await until(() => wire.socket.isDestroyed)
  assert.equal(wire.messages, ['a', 'b'])
})

test('an end of the peer that is known while the codec is at work waits for it', async () => {
  let finish: () => void = () => undefined
  const protocol = scripted((io) => ({
    receive(bytes) {
      const message = `${bytes}`
      io.pause()
      finish = () => {
        io.emit(message)
        io.resume()
      }
    },
  }))
  for (const leave of [false, true]) {
    const wire = open(protocol)
    wire.receive('a')
    wire.socket.isReading = true // an engine that has read FIN in the same batch
    if (leave) wire.leave()
    else wire.end()
    assert.is(wire.connection.getStatus(), 2)
    finish()
    await until(() => wire.socket.isDestroyed || wire.socket.hasEnded)
    assert.equal(wire.messages, ['a'])
  }
})

test('after io.resume, resumed is called, and what it throws is a protocol error', async () => {
  for (const later of [queueMicrotask, (call: () => void) => call()]) {
    let fault: Error | undefined
    const protocol = scripted((io) => ({
      receive() {
        io.pause()
        later(() => {
          fault = new ProtocolError('ERR_INFLATE', 'damaged')
          io.resume()
        })
      },
      resumed() {
        if (fault !== undefined) throw fault
      },
    }))
    const wire = open(protocol)
    wire.receive('a')
    await until(() => wire.errors.length === 1)
    assert.is(codeOf(wire.errors[0]?.error), 'ERR_INFLATE')
    assert.is(wire.connection.closeReason, 'protocol')
  }
})

test('a peer that has ended is answered with a close, wherever the codec resumes', () => {
  const resume = {
    timeout: (wire: Wire) => wire.advance(10),
    onDrain: (wire: Wire) => wire.drain(),
    send: (wire: Wire) => wire.connection.send('a'),
  }
  for (const [how, act] of Object.entries(resume)) {
    const protocol = scripted((io) => {
      if (how === 'onDrain') io.onDrain = () => io.resume()
      io.pause()
      io.deadline('resume', 10)
      return {
        timeout: () => io.resume(),
        send(message) {
          io.resume()
          return io.write(message)
        },
      }
    })
    const wire = open(protocol) as Wire
    wire.socket.isReading = true // an engine that has read FIN in the same batch
    wire.hold()
    wire.end()
    assert.is(wire.connection.getStatus(), 2)
    act(wire)
    wire.drain()
    assert.is(wire.connection.closeReason, 'peer', how)
  }
})

test('a codec may pause and resume within one call', () => {
  const protocol = scripted((io) => ({
    receive(bytes) {
      io.pause()
      io.emit(`${bytes}`)
      io.resume()
    },
  }))
  const wire = open(protocol)
  wire.receive('a')
  assert.is(wire.socket.isReading, true)
  wire.receive('b')
  assert.equal(wire.messages, ['a', 'b'])
})

test('a codec may resume in timeout, and in onDrain', () => {
  const protocol = scripted((io) => {
    io.onDrain = () => io.resume()
    return {
      receive(bytes) {
        io.emit(`${bytes}`)
        io.pause()
        io.deadline('throttle', 100)
      },
      timeout: () => io.resume(),
    }
  })
  const wire = open(protocol)
  wire.hold()
  wire.receive('a')
  wire.receive('b')
  assert.is(wire.socket.isReading, false)
  wire.advance(100)
  wire.receive('')
  assert.equal(wire.messages, ['a', 'b'])
  wire.receive('c')
  wire.drain()
  wire.receive('')
  assert.is(wire.messages.length > 2, true)
})

test('after an emit that answered false, resumed is called once messages may flow', () => {
  const kept: string[] = []
  let depth = 0
  const protocol = scripted((io) => {
    const parse = () => {
      assert.is(++depth, 1, 'never from inside one another')
      for (let part = kept.shift(); part !== undefined; part = kept.shift()) if (!io.emit(part)) break
      io.event('onParsed')
      depth--
    }
    return {
      receive(bytes) {
        kept.push(...`${bytes}`)
        parse()
      },
      resumed: parse,
    }
  })
  const paused = open(protocol, { onMessage: (connection, message) => message === 'b' && connection.pauseRecv() })
  paused.receive('abcd')
  assert.equal(paused.messages, ['a', 'b'])
  paused.connection.resumeRecv()
  assert.equal(paused.messages, ['a', 'b', 'c', 'd'])
  // Resumed while the codec is still in `receive`
  const within = open(protocol, {
    onMessage: (connection, message) => message === 'b' && connection.pauseRecv(),
    onParsed: (connection: AnyConnection) => connection.resumeRecv(),
  })
  within.receive('abcd')
  assert.equal(within.messages, ['a', 'b', 'c', 'd'])
  assert.equal([...paused.errors, ...within.errors], [])
})

test('event calls a callback of the connection or else of the worker, and gives back what it returned', () => {
  const answers: unknown[] = []
  const protocol = scripted((io) => ({ receive: () => answers.push(io.event('onTopic', 1, 2)) }))
  const calls: unknown[][] = []
  const wire = open(protocol, { onTopic: (...args: unknown[]) => calls.push(args) })
  wire.receive('a')
  assert.equal(calls[0]?.slice(1), [1, 2])
  assert.is(calls[0]?.[0], wire.connection)
  ;(wire.connection as unknown as Record<string, unknown>).onTopic = () => 'own'
  wire.receive('a')
  assert.equal(answers, [1, 'own'])
  const without = open(protocol)
  without.receive('a')
  assert.is(answers.at(-1), undefined)
})

test('an event callback that throws, or rejects, costs the connection; a throw answers false', async () => {
  const answers: unknown[] = []
  const protocol = scripted((io) => ({ receive: () => answers.push(io.event('onTopic')) }))
  const thrown = open(protocol, { onTopic: thrower(new Error('no')) })
  thrown.receive('a')
  assert.equal(answers, [false])
  const rejected = open(protocol, { onTopic: () => Promise.reject(new Error('no')) })
  rejected.receive('a')
  await until(() => rejected.errors.length === 1)
  for (const wire of [thrown, rejected]) {
    assert.equal(codesOf(wire), [Connection.HANDLER])
    assert.is(wire.connection.closeReason, 'handler')
  }
})

test('io.close keeps its code, and io.end has the last word delivered', () => {
  const closing = open(scripted((io) => ({ receive: () => io.close(4000) })))
  closing.receive('a')
  assert.is(closing.connection.closeCode, 4000)
  assert.is(closing.socket.isDestroyed, true)
  const ending = open(
    scripted((io) => ({
      receive() {
        io.write('last')
        io.end()
      },
    })),
  )
  ending.receive('a')
  assert.is(ending.written().toString(), 'last')
  assert.is(ending.socket.hasEnded, true)
})

test('io tells role, peer, limits and what is queued', () => {
  let io: CodecIo<string> | undefined
  const protocol = scripted((its) => {
    io = its
    return {}
  })
  const wire = open(protocol, { role: 'client', maxPackageSize: 99 })
  wire.hold()
  io?.write('abc')
  assert.is(io?.role, 'client')
  assert.is(io?.maxPackageSize, 99)
  assert.is(io?.queuedBytes, 3)
  assert.is(io?.peer.remoteIp, '192.0.2.1')
})

test('onDrain of a codec runs when everything has left', () => {
  let left = 3
  const protocol = scripted((io) => {
    io.onDrain = () => {
      if (left-- > 0) io.write('x')
    }
    return { receive: () => io.write('start ') }
  })
  const wire = open(protocol)
  wire.receive('a')
  while (left > 0) wire.drain()
  assert.is(wire.written().toString(), 'start xxx')
})

test('onSettled of a codec is called soon if nothing is in flight, whenever it is set, and else after the handlers', async () => {
  const log: string[] = []
  let io: CodecIo<string> | undefined
  const work = deferred()
  const protocol = scripted((own) => {
    io = own
    return { receive: (bytes) => void own.emit(bytes.toString()), closed: () => log.push('closed') }
  })
  const wire = open(protocol, { onMessage: () => work.promise })
  const set = (name: string) => Object.assign(io as object, { onSettled: () => log.push(name) })
  await nextTurn()
  set('later')
  assert.equal(log, []) // not before the codec has gone on
  await nextTurn()
  assert.equal(log, ['later'])
  set('never')
  set('instead')
  await nextTurn()
  assert.equal(log, ['later', 'instead'])
  set('taken back')
  Object.assign(io as object, { onSettled: null })
  await nextTurn()
  wire.receive('a message')
  set('behind the handler')
  await nextTurn()
  assert.equal(log, ['later', 'instead'])
  work.resolve()
  await until(() => log.length === 3)
  assert.is(log[2], 'behind the handler')
  set('at the end')
  wire.connection.onClose = () => log.push('onClose')
  wire.connection.destroy()
  assert.equal(log.slice(3), ['at the end', 'onClose', 'closed']) // there is no later moment
  set('of a connection that is gone')
  await nextTurn()
  assert.is(log.length, 6)
})

test('upgrade gives the connection and the rest of the bytes to another protocol', () => {
  const log: string[] = []
  let old: CodecIo<string> | undefined
  const protocol = scripted((io) => {
    old = io
    io.deadline('login', 10)
    return {
      receive(bytes) {
        const end = bytes.indexOf('\n') + 1
        io.emit(bytes.toString('utf8', 0, end - 1))
        io.upgrade(text, bytes.subarray(end))
      },
      timeout: (kind) => log.push(kind),
      closed: (reason) => log.push(reason),
    }
  })
  const wire = open(protocol)
  wire.advance(5)
  wire.receive('UPGRADE text\nfirst\nsec')
  wire.receive('ond\n')
  assert.equal(wire.messages, ['UPGRADE text', 'first', 'second'])
  wire.connection.send('answer')
  assert.is(wire.written().toString(), 'answer\n')
  assert.is(old?.write('dead'), false)
  assert.is(old?.emit('dead'), false)
  old?.close()
  wire.advance(100)
  assert.equal(log, ['upgraded'])
  wire.connection.destroy()
  assert.equal(log, ['upgraded'])
})

test('an upgrade while the user has paused keeps the rest until messages flow again', () => {
  const protocol = scripted((io) => ({
    receive(bytes) {
      io.emit('switch')
      io.upgrade(text, bytes)
    },
  }))
  const wire = open(protocol, { onMessage: (connection, message) => message === 'switch' && connection.pauseRecv() })
  wire.receive('a\nb\n')
  assert.equal(wire.messages, ['switch'])
  wire.connection.resumeRecv()
  assert.equal(wire.messages, ['switch', 'a', 'b'])
})

test('after an upgrade the deadlines of the old codec are gone, and those of the new one count', () => {
  const log: string[] = []
  const next = scripted((io) => {
    io.deadline('ping', 20)
    return { timeout: (kind) => log.push(kind) }
  })
  const protocol = scripted((io) => {
    io.deadline('login', 10)
    return { receive: () => io.upgrade(next, Buffer.alloc(0)) }
  })
  const wire = open(protocol)
  wire.receive('a')
  wire.advance(100)
  assert.equal(log, ['ping'])
})

test('an upgrade to a codec that cannot be opened costs the connection', () => {
  const log: string[] = []
  const broken = { name: 'broken', open: thrower(new Error('no memory')) }
  const protocol = scripted((io) => ({
    receive: (bytes) => io.upgrade(broken, bytes),
    closed: (reason) => log.push(reason),
  }))
  const wire = open(protocol)
  wire.receive('a')
  assert.equal(codesOf(wire), [Connection.PROTOCOL])
  wire.advance(2_000)
  assert.is(wire.connection.getStatus(false), 'CLOSED')
  assert.equal(log, ['upgraded'])
})

test('a codec may upgrade when it is opened: it is closed, and the next one receives', () => {
  const log: string[] = []
  const protocol = scripted((io) => {
    io.upgrade(text, Buffer.from('rest, '))
    return { receive: () => log.push('received'), closed: (reason) => log.push(reason) }
  })
  const wires = [open(protocol), open(scripted((io) => ({ receive: (bytes) => io.upgrade(protocol, bytes) })))]
  for (const wire of wires) wire.receive('first\n')
  assert.equal(
    wires.map(({ messages }) => messages),
    [['rest, first'], ['rest, first']],
  )
  assert.equal(log, ['upgraded', 'upgraded'])
})

test('an upgrade to what is no protocol is the fault of the codec, not of the peer', () => {
  for (const none of [undefined, { name: 'none' }, { name: 'half', input: () => 0 }]) {
    const wire = open(scripted((io) => ({ receive: (bytes) => io.upgrade(none as never, bytes) })))
    wire.receive('a')
    assert.equal(
      wire.errors.map(({ code, error }) => [code, codeOf(error)]),
      [[Connection.HANDLER, 'ERR_BAD_PROTOCOL']],
    )
    assert.is(wire.connection.closeReason, 'handler')
  }
})

test('an upgrade that takes time keeps the order of what came before and after', async () => {
  const protocol = scripted((io) => ({
    receive(bytes) {
      const rest = Buffer.from(bytes)
      io.pause()
      setImmediate(() => io.upgrade(text, rest))
    },
  }))
  const wire = open(protocol)
  wire.receive('a\nb')
  wire.socket.isReading = true // an engine with more bytes of the same batch
  wire.receive('c\nd\n')
  wire.end()
  await until(() => wire.socket.isDestroyed)
  assert.equal(wire.messages, ['a', 'bc', 'd'])
  assert.is(wire.connection.closeReason, 'peer')
})

test('an upgrade of a connection that its handler has destroyed does nothing', () => {
  const log: string[] = []
  const next = scripted(() => {
    log.push('opened')
    return {}
  })
  const protocol = scripted((io) => ({
    receive(bytes) {
      io.emit('switch')
      io.upgrade(next, bytes)
    },
    closed: (reason) => log.push(reason),
  }))
  const wire = open(protocol, { onMessage: (connection) => connection.destroy() })
  wire.receive('a')
  assert.equal(log, ['closed'])
})

test('a codec that throws in closed, or in drain, harms nobody', () => {
  const wire = open(scripted(() => ({ closed: thrower(new Error('no')) })))
  wire.connection.destroy()
  assert.is(wire.worker.connections.size, 0)
  const leaving = open(scripted(() => ({ drain: thrower(new Error('no')) })))
  leaving.leave()
  assert.equal(codesOf(leaving), [Connection.PROTOCOL])
})

test('closed does not come in the middle of a send', () => {
  const log: string[] = []
  const protocol = scripted((io) => ({
    send(message) {
      log.push('send')
      const goOn = io.write(message)
      log.push('sent')
      return goOn
    },
    closed: () => log.push('closed'),
  }))
  const wire = open(protocol, { maxSendBufferSize: 1, onBufferFull: (connection) => connection.destroy() })
  wire.hold()
  wire.connection.send('a')
  assert.equal(log, ['send', 'sent', 'closed'])
})

// Pipe

test('pipe sends messages on, slows the source down, and closes the destination at the end', () => {
  const source = open(text)
  const destination = open(text, { maxSendBufferSize: 4 })
  source.connection.pipe(destination.connection)
  destination.hold()
  source.receive('abc\ndef\n')
  assert.is(source.socket.isReading, false)
  destination.drain()
  assert.is(source.socket.isReading, true)
  assert.is(destination.written().toString(), 'abc\ndef\n')
  source.end()
  assert.is(destination.connection.getStatus(false), 'CLOSED')
  assert.equal([...source.errors, ...destination.errors], [])
})

test('a source whose destination is going away is closed, not left paused', () => {
  const source = open(text)
  const destination = open(text, { maxSendBufferSize: 1 })
  source.connection.pipe(destination.connection)
  destination.hold()
  source.receive('a\nb\n')
  assert.is(source.socket.isReading, false)
  destination.connection.destroy()
  assert.is(source.connection.getStatus(false), 'CLOSED')
})

test('a source that is piped elsewhere outlives its old destination', () => {
  const source = open(text)
  const [old, next] = [open(text), open(text)]
  source.connection.pipe(old.connection)
  source.connection.pipe(next.connection)
  old.connection.destroy()
  source.receive('a\n')
  assert.is(next.written().toString(), 'a\n')
})

test('what waited for an old destination goes to the next one', () => {
  const source = open(text)
  const [old, next] = [open(text, { maxSendBufferSize: 1 }), open(text)]
  source.connection.pipe(old.connection)
  old.hold()
  source.receive('a\nb\nc\n')
  source.connection.pipe(next.connection)
  assert.is(next.written().toString(), 'b\nc\n')
  assert.is(old.connection.worker.counters.sendFail, 0)
})

test('who is piped with one that has closed meanwhile closes, whichever way; a closed one does no harm to itself', () => {
  for (const isSource of [true, false]) {
    const [gone, open1] = [open(text), open(text)]
    gone.connection.destroy()
    if (isSource) gone.connection.pipe(open1.connection)
    else open1.connection.pipe(gone.connection)
    assert.is(open1.connection.getStatus(false), 'CLOSED')
    gone.connection.pipe(open1.connection)
    gone.connection.pipe(gone.connection)
  }
  const source = open(text)
  const [old, gone] = [open(text), open(text)]
  gone.connection.destroy()
  source.connection.pipe(old.connection)
  source.connection.pipe(gone.connection)
  assert.is(source.connection.getStatus(false), 'CLOSED')
  assert.is(old.connection.getStatus(false), 'ESTABLISHED', 'it was piped elsewhere')
})

test('pipe leaves the onClose of the destination its say', () => {
  let closes = 0
  const destination = open(text, { onClose: () => closes++ })
  open(text).connection.pipe(destination.connection)
  destination.connection.destroy()
  assert.is(closes, 1)
})

test('both ways piped: the end of one is passed on, both close at the end of the other; who is cut off takes the other along', () => {
  for (const first of [0, 1] as const) {
    const ends = [open(text), open(text)] as const
    const states = () => ends.map(({ connection }) => connection.getStatus(false))
    ends[0].connection.pipe(ends[1].connection)
    ends[1].connection.pipe(ends[0].connection)
    const [one, other] = first === 0 ? ends : [ends[1], ends[0]]
    one.receive('question\n')
    one.end()
    assert.equal(states(), ['ESTABLISHED', 'ESTABLISHED'])
    other.receive('answer\n')
    assert.equal(
      [one, other].map((wire) => String(wire.written())),
      ['answer\n', 'question\n'],
    )
    other.end()
    assert.equal(states(), ['CLOSED', 'CLOSED'])
    for (const { errors } of ends) assert.equal(errors, [])
  }
  const ends = [open(text), open(text)] as const
  ends[0].connection.pipe(ends[1].connection)
  ends[1].connection.pipe(ends[0].connection)
  ends[0].end()
  ends[0].connection.destroy()
  assert.is(ends[1].connection.getStatus(false), 'CLOSED')
})

// Limits

test('open() of the testing module takes an undefined setting as none', () => {
  const none = undefined as never
  const limits = { maxPackageSize: none, maxSendBufferSize: none, maxInFlight: none, maxQueuedMessages: none }
  const wire = open(text, { ...limits, idleTimeoutMs: none, role: none, onConnect: none, onMessage: none })
  wire.receive('hello\n')
  wire.connection.send('hi')
  assert.equal([wire.messages, wire.written().toString(), wire.errors], [['hello'], 'hi\n', []])
})

test('a packet over maxPackageSize is refused as soon as its head declares it', () => {
  const wire = open(frame, { maxPackageSize: 8 })
  wire.receive(Buffer.from([0, 0, 0, 8, 1, 2, 3, 4]))
  assert.is(wire.messages.length, 1)
  wire.receive(Buffer.from([0, 0, 0, 9]))
  assert.is(codeOf(wire.errors[0]?.error), 'ERR_PACKET_TOO_LARGE')
  assert.is(wire.connection.getStatus(false), 'ENDING')
})

test('many small packets in one read are not over the limit', () => {
  const wire = open(delimitedBy('|'), { maxPackageSize: 5 })
  wire.receive('abcd|'.repeat(50))
  assert.is(wire.messages.length, 50)
  wire.receive('abcde')
  assert.is(codeOf(wire.errors[0]?.error), 'ERR_PACKET_TOO_LARGE')
})

function delimitedBy(mark: string): Protocol<string> {
  return { name: 'marked', lends: true, input: delimited(mark), decode: String, encode: (message) => message + mark }
}

test.run()
