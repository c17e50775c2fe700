// Raw bytes: every read is a message.

import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { tcp } from '../../protocols/tcp.ts'
import { chunkings, open } from '../../src/testing.ts'
import { atLength } from '../support/length.ts'
import { fuzz } from '../support/vectors.ts'

test('every read is a message, cut where the network cut', () => {
  for (const chunks of chunkings('hello')) {
    const wire = open(tcp)
    for (const chunk of chunks) wire.receive(chunk)
    assert.equal(wire.messages, chunks)
  }
})

test('a message owns its bytes', () => {
  const wire = open(tcp)
  wire.receive('abc')
  assert.is(wire.messages[0]?.toString(), 'abc')
})

test('no size limit applies, since nothing is kept', () => {
  const wire = open(tcp, { maxPackageSize: 4 })
  wire.receive('longer than four')
  assert.is(wire.messages.length, 1)
  assert.equal(wire.errors, [])
})

test('paused, it delivers what the socket has kept', async () => {
  const wire = open(tcp, { onMessage: (connection) => connection.pauseRecv() })
  wire.receive('a')
  wire.receive('b')
  assert.is(wire.messages.length, 1)
  wire.connection.resumeRecv()
  await Promise.resolve()
  assert.equal(wire.messages.map(String), ['a', 'b'])
})

test('text, bytes and lists are sent as they are', () => {
  const wire = open(tcp)
  wire.connection.send('a')
  wire.connection.send(Buffer.from('b'))
  assert.is(wire.written().toString(), 'ab')
})

test('it has no goodbye, and nothing to give back', () => {
  const wire = open(tcp)
  wire.leave()
  assert.is(wire.written().length, 0)
  assert.is(wire.connection.closeReason, 'stopped')
})

test('any input yields messages', () => {
  fuzz(tcp, '\0', atLength(2_000, 10_000))
})

test.run()
