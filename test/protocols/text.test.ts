// The text protocol: lines, ended by LF.

import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { text } from '../../protocols/text.ts'
import { codeOf } from '../../src/errors.ts'
import { open } from '../../src/testing.ts'
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
  fuzz(text, 'a\r\n')
})

test.run()
