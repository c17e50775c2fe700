// Request heads, each whole, cut everywhere and byte by byte: what is refused, with which status, and what is not.

import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { HEAD_LIMITS, HeadParser, type RequestHead } from '../../../protocols/http/head.ts'
import { NEED_MORE } from '../../../src/protocol.ts'
import { chunkings } from '../../../src/testing.ts'
import { acceptedHeads, refusedHeads } from '../../fixtures/http/heads.ts'
import { parseHead } from '../../support/http.ts'
import { oneByteAway, type ReadHead, readHead } from '../../support/http-grammar.ts'
import { atLength } from '../../support/length.ts'
import { randomBytes, randomOf, seedOf } from '../../support/random.ts'

/** What a parser makes of chunks: a head, a status, or nothing yet. */
function fed(
  chunks: readonly Uint8Array[],
  limits = HEAD_LIMITS,
): { head?: RequestHead; length?: number; status?: number } {
  const parser = new HeadParser(limits)
  let bytes = Buffer.alloc(0)
  for (const chunk of chunks) {
    bytes = Buffer.concat([bytes, chunk])
    try {
      const length = parser.parse(bytes)
      if (length !== NEED_MORE) return { head: parser.take(bytes), length }
    } catch (error) {
      if ((error as Error).name !== 'ProtocolError') throw error
      return { status: (error as { statusHint: number }).statusHint }
    }
  }
  return {}
}

const wire = (text: string) => Buffer.from(text.replaceAll('¶', '\r\n'), 'latin1')

test('heads that are right are read the same, whatever way they come', () => {
  for (const { title, text, ...expected } of acceptedHeads) {
    for (const chunks of chunkings(wire(text))) {
      const { head, length } = fed(chunks)
      assert.ok(head, `${title}: no head`)
      assert.is(length, wire(text).length, title)
      for (const [key, value] of Object.entries(expected))
        assert.equal(Reflect.get(head, key), value, `${title}: ${key}`)
    }
  }
})

test('heads that are not are refused with the right status, whatever way they come', () => {
  for (const { title, text, status } of refusedHeads)
    for (const chunks of chunkings(wire(text)))
      assert.is(fed(chunks).status, status, `${title}: ${JSON.stringify(text)}`)
})

test('every head that is one byte away from a right one is what the grammar says', () => {
  let accepted = 0
  for (const text of [
    'POST /p/%41?q=%20 HTTP/1.1¶Host: h.x:80¶Content-Length: 10¶¶',
    'PUT /[a]?{b} HTTP/1.1¶Host:h¶Transfer-Encoding: chunked¶Expect: 100-continue¶¶',
    'GET / HTTP/1.0¶Content-Type: text/plain¶Content-Length:1¶Connection: close¶¶',
    '¶GET / HTTP/1.1¶host: \t h \t¶X-A: "\xe9"¶Content_length2: 5¶¶',
  ])
    for (const other of oneByteAway(wire(text).toString('latin1'))) {
      const expected = readHead(other)
      const { head, length, status } = fed([Buffer.from(other, 'latin1')])
      const how = `${JSON.stringify(other)}: ${status}`
      if (head !== undefined && length === other.length) {
        accepted++
        const same = (name: keyof ReadHead) => assert.is(head[name], expected?.[name], `${how}: ${name}`)
        for (const name of ['method', 'target', 'contentLength', 'isChunked'] as const) same(name)
      } else if (head === undefined) {
        assert.is(expected, null, how)
        assert.ok(status === undefined || status === 400 || status === 417 || status === 501 || status === 505, how)
      }
    }
  assert.ok(accepted > 10_000, `${accepted}`)
})

test('what is behind a head is left alone', () => {
  const first = wire('GET / HTTP/1.1¶Host: h¶¶')
  const found = parseHead(Buffer.concat([first, wire('POST /b HTTP/1.1¶')]))
  assert.is(found?.length, first.length)
})

test('a head may be as long as the limit, and no longer', () => {
  const limits = { ...HEAD_LIMITS, maxHeadBytes: 60 }
  const head = (size: number) => wire(`GET / HTTP/1.1¶Host: h¶X: ${'x'.repeat(size - 32)}¶¶`)
  for (const chunks of chunkings(head(60))) assert.is(fed(chunks, limits).length, 60)
  for (const chunks of chunkings(head(61))) assert.is(fed(chunks, limits).status, 431)
  assert.is(fed([wire(`GET /${'x'.repeat(100)}`)], limits).status, 414)
  assert.is(fed([wire(`GET /${'x'.repeat(30)} `)], { ...HEAD_LIMITS, maxTargetBytes: 20 }).status, 414)
  assert.is(fed([wire(`GET / HTTP/1.1¶${'a: b¶'.repeat(6)}`)], { ...HEAD_LIMITS, maxFields: 5 }).status, 431)
})

test('fields are joined, found by any spelling, and have no prototype', () => {
  const { head } = fed([wire('GET / HTTP/1.1¶HOST: h¶X-A: 1¶x-a:  2\t¶Cookie: a=1¶Cookie: b=2¶__proto__: x¶Empty:¶¶')])
  assert.is(head?.header('X-a'), '1, 2')
  assert.is(head?.header('cookie'), 'a=1; b=2')
  assert.is(head?.header('empty'), '')
  assert.is(head?.header('toString'), undefined)
  assert.is(head?.header('__proto__'), 'x')
})

test('one parser reads head after head', () => {
  const parser = new HeadParser()
  const first = wire('POST /a HTTP/1.1¶Host: h¶Connection: close¶Content-Length: 3¶¶')
  assert.is(parser.parse(first), first.length)
  assert.is(parser.take(first).contentLength, 3)
  parser.reset()
  const second = wire('GET /b HTTP/1.0¶¶')
  assert.is(parser.parse(second), second.length)
  const { target, contentLength, isKeepAlive, minorVersion } = parser.take(second)
  assert.equal([target, contentLength, isKeepAlive, minorVersion], ['/b', 0, false, 0])
})

test('any bytes are a head, more to come, or a refusal with a status; the same ones however they are cut', () => {
  const seed = seedOf('http head')
  const random = randomOf(seed)
  const interesting =
    'GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n'
  for (let n = 0; n < atLength(2_000, 10_000); n++) {
    const start = random(3) === 0 ? '' : interesting.slice(0, random(interesting.length))
    const bytes = Buffer.concat([Buffer.from(start), randomBytes(random, random(80), interesting)])
    const whole = fed([bytes])
    const bit = fed([...bytes].map((byte) => Uint8Array.of(byte)))
    const how = `SEED=${seed}, case ${n}: ${bytes.toString('hex')}`
    assert.is(bit.status, whole.status, how)
    assert.is(bit.length, whole.length, how)
    assert.is(bit.head?.raw, whole.head?.raw, how)
  }
})

test.run()
