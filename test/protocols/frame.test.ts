// The frame protocol: a length of four bytes, which counts itself, and a payload.

import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { frame } from '../../protocols/frame.ts'
import { codeOf, ProtocolError } from '../../src/errors.ts'
import { open } from '../../src/testing.ts'
import { atLength } from '../support/length.ts'
import { fuzz, runVectors } from '../support/vectors.ts'

const bytes = (...parts: (string | number[])[]) =>
  Buffer.concat(parts.map((part) => (typeof part === 'string' ? Buffer.from(part, 'latin1') : Buffer.from(part))))

test('frames are cut by their length, whatever way they arrive', () => {
  runVectors(frame, [
    { title: 'one frame', bytes: bytes([0, 0, 0, 9], 'jhdxr'), messages: ['jhdxr'], isWhole: true },
    { title: 'two frames', bytes: bytes([0, 0, 0, 5], 'a', [0, 0, 0, 6], 'bc'), messages: ['a', 'bc'], isWhole: true },
    { title: 'an empty payload', bytes: bytes([0, 0, 0, 4]), messages: [''], isWhole: true },
    { title: 'a part of a head', bytes: 'foo', messages: [] },
    { title: 'a head alone', bytes: bytes([0, 0, 0, 0x2a]), messages: [] },
    { title: 'a frame and a half', bytes: bytes([0, 0, 0, 5], 'a', [0, 0, 0, 9], 'jh'), messages: ['a'] },
    { title: 'a payload of zeros', bytes: bytes([0, 0, 0, 8], [0, 0, 0, 0]), messages: ['\0\0\0\0'] },
    { title: 'at the limit', bytes: bytes([0, 0, 0, 8], 'abcd'), messages: ['abcd'], maxPackageSize: 8 },
    { title: 'over it', bytes: bytes([0, 0, 0, 9]), messages: [], error: 'ERR_PACKET_TOO_LARGE', maxPackageSize: 8 },
    { title: 'the longest', bytes: bytes([255, 255, 255, 255]), messages: [], error: 'ERR_PACKET_TOO_LARGE' },
    ...[0, 1, 2, 3].map((length) => ({
      title: `a length of ${length}, below the head`,
      bytes: bytes([0, 0, 0, 4], [0, 0, 0, length]),
      messages: [''],
      error: 'ERR_BAD_LENGTH',
    })),
  ])
})

test('a datagram is a frame only if it has the length that it declares', () => {
  assert.equal(String(frame.decode(bytes([0, 0, 0, 5], 'x'))), 'x')
  assert.equal(String(frame.decode(bytes([0, 0, 0, 4]))), '')
  for (const datagram of [[], [97], [0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 99, 97], [0, 0, 0, 5, 97, 98]]) {
    assert.throws(
      () => frame.decode(Buffer.from(datagram)),
      (error: unknown) => error instanceof ProtocolError && error.code === 'ERR_BAD_LENGTH',
    )
  }
})

test('a message owns its bytes', () => {
  const wire = open(frame)
  wire.receive(bytes([0, 0, 0, 5], 'a', [0, 0, 0, 5], 'b'))
  wire.receive(bytes([0, 0, 0, 5], 'c'))
  assert.equal(wire.messages.map(String), ['a', 'b', 'c'])
})

test('a payload is sent behind its length', () => {
  const wire = open(frame)
  wire.connection.send('jhdxr')
  wire.connection.send(Buffer.from([1, 2]))
  wire.connection.send('\u00e9')
  assert.equal(wire.written(), bytes([0, 0, 0, 9], 'jhdxr', [0, 0, 0, 6, 1, 2], [0, 0, 0, 6, 0xc3, 0xa9]))
})

test('only text and bytes can be sent', () => {
  for (const payload of [42, null, undefined, {}, ['a']]) {
    assert.throws(
      () => frame.encode(payload as never),
      (error: unknown) => codeOf(error) === 'ERR_ENCODE',
    )
  }
})

test('what is sent is received', () => {
  const sender = open(frame)
  const receiver = open(frame)
  for (let size = 0; size < 300; size += 7) sender.connection.send(Buffer.alloc(size, size))
  receiver.receive(sender.written())
  assert.equal(
    receiver.messages.map((payload) => [payload.length, payload[0]]),
    Array.from({ length: 43 }, (_, at) => [at * 7, at === 0 ? undefined : at * 7 - (at * 7 > 255 ? 256 : 0)]),
  )
})

test('any input yields messages or a ProtocolError', () => {
  fuzz(frame, Uint8Array.of(0, 0, 0, 0, 4, 5, 9), atLength(2_000, 10_000))
})

test.run()
