// The text protocol: lines, ended by LF.

import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { text } from '../../protocols/text.ts'
import { asCodec } from '../../src/connection/framing-codec.ts'
import { codeOf } from '../../src/errors.ts'
import type { CodecIo } from '../../src/protocol.ts'
import { open } from '../../src/testing.ts'
import { atLength } from '../support/length.ts'
import { randomBytes, randomCuts, randomOf, seedOf } from '../support/random.ts'
import { fuzz, runVectors } from '../support/vectors.ts'

test('lines are cut at LF, whatever way they arrive', () => {
  runVectors(text, [
    { title: 'one line', bytes: 'jhdxr\n', messages: ['jhdxr'], isWhole: true },
    { title: 'two lines', bytes: 'one\ntwo\n', messages: ['one', 'two'], isWhole: true },
    { title: 'no line yet', bytes: 'jhdxr', messages: [] },
    { title: 'a line and a half', bytes: 'one\ntw', messages: ['one'] },
    { title: 'empty lines are messages', bytes: '\n\n', messages: ['', ''], isWhole: true },
    { title: 'CR LF', bytes: 'one\r\ntwo\r\n', messages: ['one', 'two'], isWhole: true },
    { title: 'every trailing CR goes', bytes: 'one\r\r\n', messages: ['one'] },
    { title: 'a CR within stays', bytes: 'o\rne\n', messages: ['o\rne'] },
    { title: 'a line longer than a short search', bytes: `${'x'.repeat(150)}\ny\n`, messages: ['x'.repeat(150), 'y'] },
    { title: 'at the limit', bytes: 'abcd\n', messages: ['abcd'], maxPackageSize: 5 },
    { title: 'over it', bytes: 'abcde\n', messages: [], error: 'ERR_PACKET_TOO_LARGE', maxPackageSize: 5 },
    { title: 'no end', bytes: 'abcdefgh', messages: [], error: 'ERR_PACKET_TOO_LARGE', maxPackageSize: 5 },
    {
      title: 'good, then bad',
      bytes: 'a\nabcdefgh',
      messages: ['a'],
      error: 'ERR_PACKET_TOO_LARGE',
      maxPackageSize: 5,
    },
  ])
})

test('a character may be cut in two, and bytes that are no UTF-8 become replacement characters', () => {
  const wire = open(text)
  for (const byte of Buffer.from('h\u00e9\u{1f600}\n')) wire.receive(Buffer.of(byte))
  wire.receive(Buffer.from([0xff, 0x0a]))
  assert.equal(wire.messages, ['h\u00e9\u{1f600}', '\ufffd'])
})

// Many short lines of a read are slices of one string; what they say may not depend on that.
test('lines say the same whatever comes with them: characters of several bytes, wrong bytes, long lines', () => {
  const random = randomOf(seedOf('lines'))
  const marks = Buffer.from('ascii only \r h\u00e9\u20ac\u{1f600}')
  for (let n = 0; n < 120; n++) {
    const odd = [0, 0, 30, 2][n % 4] as number // one byte in so many may be anything
    const lines = Array.from({ length: random(60) }, () => {
      const length = random(8) === 0 ? random(2_000) : random(40)
      if (odd === 0) return Buffer.alloc(length, `line ${random(1000)} `)
      return Buffer.from(randomBytes(random, length, marks).map((byte) => (byte === 10 || random(odd) > 0 ? 97 : byte)))
    })
    const bytes = Buffer.concat(lines.flatMap((line) => [line, Buffer.of(10)]))
    const wire = open(text)
    for (const piece of n % 3 === 0 ? [bytes] : randomCuts(random, bytes)) wire.receive(piece)
    const expected = lines.map((line) => line.toString().replace(/[\r\n]+$/, ''))
    assert.equal(wire.messages, expected)
  }
})

test('memory that is received into again and again is read anew each time', () => {
  const memory = Buffer.alloc(22)
  const seen: unknown[] = []
  const io = { emit: (line: unknown) => seen.push(line) > 0, maxPackageSize: 100 } as unknown as CodecIo
  const codec = asCodec(text).open(io, 'server')
  for (let round = 0; round < 3; round++) {
    memory.fill(`round ${round}, a\nround ${round}, b\n`)
    codec.receive(memory)
  }
  assert.equal(
    seen,
    [0, 1, 2].flatMap((round) => [`round ${round}, a`, `round ${round}, b`]),
  )
})

test('a message is sent with LF behind it', () => {
  const wire = open(text)
  wire.connection.send('jhdxr')
  wire.connection.send(Buffer.from('bytes'))
  wire.connection.send('')
  assert.is(wire.written().toString(), 'jhdxr\nbytes\n\n')
})

test('only text and bytes can be sent', () => {
  for (const message of [42, null, undefined, {}, ['a']]) {
    assert.throws(
      () => text.encode(message as never),
      (error: unknown) => codeOf(error) === 'ERR_ENCODE',
    )
  }
})

test('any input yields messages or a ProtocolError', () => {
  fuzz(text, 'a\r\n', atLength(2_000, 10_000))
})

test.run()
