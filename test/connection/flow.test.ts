// Bytes that come too fast, pipes that meet, codecs that work on their own time: what must stay bounded, in order and
// accounted for.

import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { tcp } from '../../protocols/tcp.ts'
import { text } from '../../protocols/text.ts'
import { websocket } from '../../protocols/websocket/websocket.ts'
import type { AnyConnection } from '../../src/connection.ts'
import { withResolvers } from '../../src/deferred.ts'
import { codeOf, ProtocolError } from '../../src/errors.ts'
import type { AnyProtocol, CodecIo } from '../../src/protocol.ts'
import { open, type Wire } from '../../src/testing.ts'
import { deferred, scripted } from '../support/codecs.ts'
import { nextTurn, until } from '../support/until.ts'

const CHUNK = 65_536
const HANDSHAKE =
  'GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n' +
  'Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n'

test('a flood behind slow handlers stops being read, and all of it is handled in its turn', async () => {
  const wire: Wire<string, string | Uint8Array> = open(text, { onMessage: () => wire.advance(0.5) })
  const chunk = 'x\n'.repeat(CHUNK / 2)
  let chunks = 0
  while (wire.socket.isReading && chunks < 50) {
    wire.receive(chunk)
    chunks++
  }
  assert.ok(chunks < 10, `${chunks} chunks were taken`)
  await until(() => wire.messages.length === (chunks * CHUNK) / 2, 20_000)
  assert.ok(wire.socket.isReading)
})

test('two sources into one destination lose nothing: both wait while it is full', () => {
  const sink = open(tcp, { maxSendBufferSize: 100 })
  const sources = [open(tcp), open(tcp)]
  for (const { connection } of sources) connection.pipe(sink.connection)
  sink.hold()
  for (const source of sources) for (let i = 0; i < 10; i++) source.receive('x'.repeat(60))
  assert.equal(
    sources.map(({ socket }) => socket.isReading),
    [false, false],
  )
  assert.ok(sink.connection.getSendBufferQueueSize() <= 160)
  let received = 0
  for (let i = 0; i < 40 && received < 1200; i++) {
    sink.drain()
    received += sink.written().length
    sink.hold()
    for (const source of sources) source.receive('')
  }
  assert.is(received, 1200)
  assert.is(sink.worker.counters.sendFail, 0)
})

test('a pipe onto a destination that is full already waits for it to drain', () => {
  const sink = open(tcp, { maxSendBufferSize: 10 })
  sink.hold()
  sink.connection.send('x'.repeat(10))
  const source = open(tcp)
  source.connection.pipe(sink.connection)
  source.receive('late')
  assert.is(sink.worker.counters.sendFail, 0)
  sink.drain()
  source.receive('')
  sink.drain()
  assert.match(sink.written().toString(), /late$/)
})

test('a pipe takes over no callback of its destination', () => {
  const seen: string[] = []
  const sink = open(tcp, {
    maxSendBufferSize: 10,
    onBufferFull: () => seen.push('full'),
    onBufferDrain: () => seen.push('drain'),
    onClose: () => seen.push('closed'),
  })
  const source = open(tcp)
  source.connection.pipe(sink.connection)
  sink.hold()
  source.receive('x'.repeat(10))
  sink.drain()
  source.reset()
  assert.equal(seen, ['full', 'drain', 'closed'])
})

test('a codec that emits late is not called again before its own code has ended', async () => {
  const calls: string[] = []
  let io: CodecIo<string> | undefined
  const late = scripted((own) => {
    io = own
    return { closed: () => calls.push('closed'), resumed: () => calls.push('resumed') }
  })
  const wire = open(late, { onMessage: (connection) => connection.destroy() })
  assert.is(io?.emit('late'), false)
  calls.push('after emit')
  await nextTurn()
  assert.equal(calls, ['after emit', 'closed'])
  assert.equal(wire.messages, ['late'])
})

test('a codec hears of the end of input once, after all that was received, and may emit what only that completes', () => {
  let ends = 0
  const wire = open(
    scripted((io) => {
      let kept = ''
      return {
        receive: (bytes) => {
          kept += bytes
        },
        ended: () => {
          ends++
          io.emit(kept)
        },
      }
    }),
    { onMessage: (connection, message) => connection.send(`got ${message}`) },
  )
  wire.receive('no delimiter')
  assert.equal(wire.messages, [])
  wire.end()
  assert.equal(wire.messages, ['no delimiter'])
  assert.is(wire.written().toString(), 'got no delimiter')
  wire.drain()
  assert.is(ends, 1)
  assert.is(wire.connection.closeReason, 'peer')
  assert.is(wire.connection.getStatus(false), 'CLOSED')
})

test('the harness decodes as a server does: short packets of one read as text or in place, and what is lent is overwritten', () => {
  const kept: Buffer[] = []
  const decode = (packet: Buffer) => {
    kept.push(packet)
    return `decode ${packet}`
  }
  const lender = { name: 'lender', lends: true, input: text.input, decode, encode: String }
  const decodeAt = (bytes: Buffer, start: number, end: number) => {
    kept.push(bytes.subarray(start, end))
    return `at ${bytes.toString('latin1', start, end)}`
  }
  const decodeText = (passage: string, start: number, end: number) => `text ${passage.slice(start, end)}`
  for (const [protocol, way] of [
    [lender, 'decode'],
    [{ ...lender, decodeAt }, 'at'],
    [{ ...lender, decodeText, decodeAt }, 'text'],
  ] as const) {
    const wire = open(protocol)
    wire.receive('a\nb\nc\n')
    const last = way === 'text' ? 'at' : way // no other packet follows it
    assert.equal(wire.messages.slice(0, 2), [`${way} a\n`, `${way} b\n`])
    assert.ok(
      [way, last].some((one) => wire.messages[2] === `${one} c\n`),
      wire.messages[2],
    )
    for (const bytes of kept.splice(0)) assert.equal([...bytes], [0xdd, 0xdd])
  }
})

test('a codec that is none is the fault of its protocol, not of the peer', () => {
  const nothings: Record<string, (io: CodecIo<string>) => unknown> = {
    'a return that was forgotten': () => undefined,
    'a promise': async () => ({}),
    'an object without receive()': () => ({ send: () => true }),
  }
  for (const [what, open_] of Object.entries(nothings)) {
    const reasons: unknown[] = []
    const protocol = { name: 'broken', open: open_ } as unknown as AnyProtocol
    const wire = open(protocol, { onClose: ({ closeReason }) => reasons.push(closeReason) })
    wire.receive('x')
    wire.goodbye()
    wire.end()
    assert.equal([wire.errors.length, wire.errors[0]?.code], [1, 4], what)
    assert.match(wire.errors[0]?.message ?? '', /^protocol 'broken': open\(\) must return a codec, .* not /)
    assert.is(codeOf(wire.errors[0]?.error), 'ERR_BAD_PROTOCOL')
    assert.equal(
      [reasons, wire.worker.counters.protocolErrors, wire.worker.counters.handlerErrors],
      [['handler'], 0, 1],
    )
  }
  const turned = open({ name: 'strict', open: (io: CodecIo<string>) => io.close() } as unknown as AnyProtocol)
  assert.equal([turned.errors, turned.connection.closeReason], [[], 'closed'])
})

test('an idle time-out that is switched off while connections are open closes none of them', () => {
  const worker = { idleTimeoutMs: 100 }
  const wire = open(text, worker)
  Object.assign(wire.worker, { idleTimeoutMs: 0 })
  wire.advance(1_000)
  assert.is(wire.connection.getStatus(false), 'ESTABLISHED')
})

test('a peer that takes bytes from the kernel all the time is not idle; one that takes few of them is', () => {
  for (const isQueued of [true, false]) {
    const wire = open(tcp, { idleTimeoutMs: 1000 })
    const { connection, socket } = wire
    connection.send(Buffer.alloc(120_000))
    wire.written()
    if (isQueued) wire.hold()
    connection.send('x')
    for (let left = 100_000; left >= 20_000; left -= 20_000) {
      socket.inKernel = left
      wire.advance(1000)
      assert.is(connection.getStatus(false), 'ESTABLISHED', `${left} left`)
    }
    socket.inKernel -= 1000
    wire.advance(1000)
    assert.is(connection.closeReason, 'timeout')
  }
})

test('a source that is held back is not idle while the peer of its destination reads; its silence counts from then on', () => {
  const source = open(tcp, { idleTimeoutMs: 1000 })
  const destination = open(tcp, { maxSendBufferSize: 100_000 })
  source.connection.pipe(destination.connection)
  destination.hold()
  source.receive(Buffer.alloc(200_000))
  assert.not(source.socket.isReading)
  for (let left = 160_000; left >= 100_000; left -= 20_000) {
    destination.socket.queuedBytes = left
    source.advance(1000)
    assert.is(source.connection.getStatus(false), 'ESTABLISHED', `${left} left`)
  }
  source.advance(900)
  destination.drain()
  assert.ok(source.socket.isReading)
  source.advance(900)
  assert.is(source.connection.getStatus(false), 'ESTABLISHED')
  source.advance(100)
  assert.is(source.connection.closeReason, 'timeout')
})

test('a source is as idle as its destination when the peer of that does not read', () => {
  const source = open(tcp, { idleTimeoutMs: 1000 })
  const destination = open(tcp, { maxSendBufferSize: 100_000 })
  source.connection.pipe(destination.connection)
  destination.hold()
  source.receive(Buffer.alloc(200_000))
  source.advance(2000)
  assert.is(source.connection.closeReason, 'timeout')
})

test('a connection is not idle while onConnect is at work; its silence counts from then on', async () => {
  const looking = withResolvers()
  const wire = open(text, { idleTimeoutMs: 1000, onConnect: () => looking.promise })
  wire.receive('hello\n')
  wire.advance(2500)
  assert.is(wire.connection.getStatus(false), 'ESTABLISHED')
  looking.resolve()
  await until(() => wire.messages.length === 1)
  wire.advance(900)
  assert.is(wire.connection.getStatus(false), 'ESTABLISHED')
  wire.advance(600)
  assert.is(wire.connection.closeReason, 'timeout')
})

test('a WebSocket is not idle while onWebSocketConnect is at work', async () => {
  const looking = withResolvers()
  const wire = open(websocket(), { idleTimeoutMs: 1000, onWebSocketConnect: () => looking.promise })
  wire.receive(HANDSHAKE)
  wire.advance(2500)
  assert.is(wire.connection.getStatus(false), 'ESTABLISHED')
  looking.resolve()
  await until(() => String(wire.written()).startsWith('HTTP/1.1 101 '))
})

test('a message that was taken counts as sent, whatever another connection refuses meanwhile', () => {
  const other = open(text)
  other.connection.destroy()
  const wire = open(text, { maxSendBufferSize: 4, onBufferFull: () => other.connection.send('refused') })
  Object.assign(other.worker, { counters: wire.worker.counters })
  wire.hold()
  assert.is(wire.connection.send('long enough'), false)
  assert.is(wire.worker.counters.messagesOut, 1)
  assert.is(wire.worker.counters.sendFail, 1)
})

test('onError never comes after onClose: what the last word of a codec closes is not told of its fault', async () => {
  const gate = deferred()
  let io: CodecIo<string> | undefined
  const protocol = scripted((own) => {
    io = own
    return {
      receive(bytes) {
        io?.emit(String(bytes))
        if (String(bytes) !== 'bad') return
        own.onSettled = () => void own.write('goodbye')
        throw new ProtocolError('ERR_TEST', 'bad')
      },
    }
  })
  const events: string[] = []
  const wire = open(protocol, {
    maxSendBufferSize: 1,
    onMessage: () => gate.promise,
    onBufferFull: (connection: AnyConnection) => connection.destroy(),
    onError: (_connection: AnyConnection, code: number) => events.push(`error ${code}`),
    onClose: () => events.push('close'),
  } as never)
  wire.hold()
  wire.receive('bad')
  gate.resolve()
  await until(() => events.length > 0)
  await nextTurn()
  assert.equal(events, ['close'])
  assert.is(wire.worker.counters.protocolErrors, 1)
})

test('afterHandlers waits for a handler on the stack and for its promise, also of a connection that has closed', async () => {
  for (const end of [(connection: AnyConnection) => connection.send('x'), (one: AnyConnection) => one.destroy()]) {
    const handler = deferred()
    const removal = deferred()
    const log: string[] = []
    let io: CodecIo<string> | undefined
    const protocol = scripted((own) => {
      io = own
      return { receive: (bytes) => void own.emit(String(bytes)) }
    })
    const wire = open(protocol, {
      onMessage: async (connection: AnyConnection) => {
        io?.afterHandlers(() => {
          log.push('removed')
          return removal.promise
        })
        end(connection)
        await handler.promise
        log.push('settled')
      },
    } as never)
    wire.receive('a')
    await nextTurn()
    assert.equal(log, [])
    handler.resolve()
    await nextTurn()
    assert.equal([log, wire.worker.unsettled], [['settled', 'removed'], 1], 'a drain waits for that')
    removal.resolve()
    await until(() => wire.worker.unsettled === 0)
    io?.afterHandlers(() => log.push('at once'))
    await nextTurn()
    assert.is(log.at(-1), 'at once')
  }
})

test('of sends within each other each counts as what it was', () => {
  const wire = open(text, {
    maxSendBufferSize: 5,
    onError: (connection) => {
      wire.drain()
      wire.hold()
      connection.send('taken')
    },
  })
  wire.hold()
  wire.connection.send('taken')
  wire.connection.send('refused')
  assert.is(wire.written().toString(), 'taken\n')
  wire.drain()
  assert.is(wire.written().toString(), 'taken\n')
  assert.is(wire.worker.counters.messagesOut, 2)
  const other = open(text, { maxSendBufferSize: 5, onBufferFull: (connection) => void connection.send('refused') })
  other.hold()
  other.connection.send('taken')
  assert.equal([other.worker.counters.messagesOut, other.worker.counters.sendFail], [1, 1])
})

test('a connection that gives another one its turn at each message has its share of the loop all the same', () => {
  const other = open(text)
  const wire = open(text, {
    onMessage: () => {
      wire.advance(1)
      other.advance(1)
      other.receive('x\n')
    },
  })
  wire.receive('x\n'.repeat(100))
  assert.ok(wire.messages.length < 50, `${wire.messages.length}`)
})

test('a codec has the last word: at once, or later', () => {
  const reasons: string[] = []
  const saying = (isMore: boolean) =>
    scripted((io) => ({
      receive: (bytes) => void io.emit(String(bytes)),
      closing: (reason) => {
        reasons.push(reason)
        io.write('bye')
        return isMore
      },
      timeout: () => io.close(7),
    }))
  const brief = open(saying(false))
  brief.connection.close('last ')
  assert.is(brief.written().toString(), 'last bye')
  assert.is(brief.connection.getStatus(false), 'CLOSED')

  const long = open(saying(true), { onMessage: () => assert.unreachable() })
  long.connection.end('last ')
  long.connection.close('never')
  assert.is(long.connection.send('never'), false)
  long.receive('unheard')
  assert.is(long.written().toString(), 'last bye')
  assert.is(long.connection.getStatus(false), 'ESTABLISHED')
  assert.is(long.errors[0]?.message, 'connection is closing')
  assert.equal(reasons, ['closed', 'closed'])
})

test('a last word that takes its time is cut short by no failed handler, no silence and no drain', async () => {
  const protocol = scripted((io) => ({
    receive: (bytes) => void io.emit(String(bytes)),
    closing() {
      io.write('good')
      io.deadline('rest', 2000)
      return true
    },
    timeout() {
      io.write('bye')
      io.end()
    },
  }))
  for (const what of ['a failed handler', 'a silence', 'a drain']) {
    const onMessage = async (connection: AnyConnection) => {
      connection.close()
      await nextTurn()
      if (what === 'a failed handler') throw new Error('late')
    }
    const wire = open(protocol, { idleTimeoutMs: 1000, onMessage })
    wire.receive('x')
    for (let n = 0; n < 3; n++) await nextTurn()
    if (what === 'a drain') wire.leave()
    wire.advance(1999)
    assert.is(wire.connection.getStatus(false), 'ESTABLISHED', what)
    wire.advance(1)
    assert.is(wire.written().toString(), 'goodbye', what)
    assert.equal(
      [wire.errors.length, wire.connection.getStatus(false)],
      [what === 'a failed handler' ? 1 : 0, 'ENDING'],
    )
  }
})

test('a codec has the last word after a handler that throws, and before a silence ends', () => {
  const reasons: string[] = []
  const protocol = scripted((io) => ({
    receive: (bytes) => void io.emit(String(bytes)),
    closing: (reason) => {
      reasons.push(reason)
      io.write(`${reason} `)
      return false
    },
  }))
  const thrown = open(protocol, {
    onMessage: () => {
      throw new Error('no')
    },
  })
  thrown.receive('x')
  assert.is(thrown.written().toString(), 'handler ')
  assert.is(thrown.connection.closeReason, 'handler')
  const silent = open(protocol, { idleTimeoutMs: 1000 })
  silent.advance(1000)
  assert.is(silent.written().toString(), 'timeout ')
  assert.is(silent.connection.closeReason, 'timeout')
  const broken = open(protocol)
  broken.end()
  assert.equal(reasons, ['handler', 'timeout'])
})

test('what a user gave to send and what failed on its way costs the connection, at once', () => {
  let fail: (error: unknown) => void = () => undefined
  const wire = open(
    scripted((io) => {
      fail = (error) => io.fail(error)
      return {}
    }),
  )
  wire.hold()
  wire.connection.send('half')
  fail(new Error('the file has shrunk'))
  assert.equal(
    wire.errors.map(({ code, message }) => [code, message]),
    [[4, 'the file has shrunk']],
  )
  assert.is(wire.connection.getStatus(false), 'CLOSED')
})

test('what a codec emits when its connection has gone is dropped, and it is told that once', async () => {
  for (const end of ['end', 'destroy', 'close', 'late'] as const) {
    const told: string[] = []
    let io: CodecIo<string> | undefined
    const wire = open(
      scripted((own) => {
        io = own
        return {
          closed(reason) {
            told.push(reason)
            assert.is(own.emit('kept'), false)
          },
        }
      }),
    )
    if (end === 'end') wire.end()
    else if (end === 'late') wire.connection.destroy()
    else wire.connection[end]()
    await nextTurn()
    io?.emit('later')
    await nextTurn()
    assert.equal([told.length, wire.messages], [1, []], end)
  }
})

test.run()
