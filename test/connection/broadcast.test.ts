// What a broadcast says of each connection is what became of the message there.

import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { text } from '../../protocols/text.ts'
import { broadcast } from '../../src/connection/broadcast.ts'
import { CloseFrame, websocket } from '../../src/index.ts'
import { open } from '../../src/testing.ts'
import { frame, masked } from '../fixtures/websocket.ts'
import { scripted } from '../support/codecs.ts'
import { wire as bytesOf } from '../support/http.ts'

const NOBODY = { sent: 0, dropped: 0, closed: 0, conflated: 0 }
const LONG = 'x'.repeat(150)
const ASK = bytesOf(
  'GET / HTTP/1.1¶Host: h¶Upgrade: websocket¶Connection: Upgrade¶Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==¶Sec-WebSocket-Version: 13¶¶',
)

test('a message that fills the buffer is sent, whatever onBufferFull does; one that finds it full is dropped', () => {
  const codec = scripted(() => ({})) as unknown as typeof text
  for (const protocol of [text, codec]) {
    const wire = open(protocol, {
      maxSendBufferSize: 100,
      onBufferFull: (connection) => connection.send('slow down'),
    })
    wire.hold()
    const again = { slowBytes: 1000 }
    assert.equal(broadcast([wire.connection], LONG, again), { ...NOBODY, sent: 1 })
    assert.equal(broadcast([wire.connection], LONG, again), { ...NOBODY, dropped: 1 })
    wire.drain()
    assert.is(wire.written().toString().trimEnd(), LONG)
    assert.is(wire.worker.counters.sendFail, 2)
  }
})

test('a message is dropped that its connection refuses, although another one was sent meanwhile', () => {
  const protocol = scripted((io) => ({
    send: (message) => (message === LONG ? io.refuse('too long') : io.write(message)),
  }))
  const wire = open(protocol, { onError: (connection) => connection.send('sorry') })
  assert.equal(broadcast([wire.connection], LONG), { ...NOBODY, dropped: 1 })
  assert.is(wire.written().toString(), 'sorry')
})

test('a close frame closes each of them, with its code', () => {
  const wires = [1, 2].map(() => open(websocket()))
  for (const wire of wires) wire.receive(ASK)
  for (const wire of wires) wire.written()
  const connections = wires.map(({ connection }) => connection)
  assert.equal(broadcast(connections, new CloseFrame(4001, 'bye')), { ...NOBODY, sent: 2 })
  for (const wire of wires) {
    assert.equal(wire.written(), frame(0x88, Buffer.from('\x0f\xa1bye', 'latin1')))
    wire.receive(masked(frame(0x88, Buffer.of(0x0f, 0xa1))))
    assert.is(wire.connection.closeCode, 4001)
  }
  assert.equal(broadcast(connections, 'too late'), NOBODY)
})

test.run()
