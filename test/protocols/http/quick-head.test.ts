// The quick way through a head beside the parser: it may leave a head to that, and must never say anything else.

import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { HEAD_LIMITS, type RequestHead } from '../../../protocols/http/head.ts'
import { QuickHeads } from '../../../protocols/http/quick-head.ts'
import { acceptedHeads, refusedHeads } from '../../fixtures/http/heads.ts'
import { parseHead } from '../../support/http.ts'
import { oneByteAway } from '../../support/http-grammar.ts'
import { atLength } from '../../support/length.ts'
import { randomOf, seedOf } from '../../support/random.ts'

const wire = (text: string) => Buffer.from(text.replaceAll('¶', '\r\n'), 'latin1')

const COMMON = [
  'GET / HTTP/1.1¶Host: h¶¶',
  'POST /p?q=1 HTTP/1.1¶Host: h.x:80¶Content-Type: a/b¶Content-Length: 10¶Connection: keep-alive¶¶',
  'PUT /path/to HTTP/1.1¶Accept: \t*/* ¶host:h¶Connection: Close¶X-A: "\xe9"¶¶',
]

const KEYS = ['method', 'target', 'minorVersion', 'contentLength', 'isChunked', 'isKeepAlive'] as const
const MORE_KEYS = ['expectsContinue', 'asksForWebSocket', 'raw', 'fields', 'authority'] as const

function seen(head: RequestHead): unknown[] {
  return [...KEYS, ...MORE_KEYS].map((key) => head[key])
}

/** Whether the quick way was taken, with the same result as the parser's; bytes around the head change nothing. */
function isQuick(quick: QuickHeads, text: string, limits = HEAD_LIMITS): boolean {
  const before = 'GET / HTTP/1.1\r\n'
  const bytes = Buffer.from(`${before}${text}GET`, 'latin1')
  const head = quick.take(bytes, before.length)
  if (head === null) return false
  const parsed = parseHead(Buffer.from(text, 'latin1'), limits) // a ProtocolError of its is the failure that is looked for
  if (parsed === null) throw new Error(`not whole: ${text}`)
  assert.is(quick.size, parsed.length, text)
  bytes.fill(0) // they were lent
  assert.equal(seen(head), seen(parsed.head), text)
  return true
}

test('it takes the heads of everyday life, and no vector that is refused', () => {
  const quick = new QuickHeads(HEAD_LIMITS)
  for (const text of COMMON) assert.ok(isQuick(quick, wire(text).toString('latin1')), text)
  const taken = acceptedHeads.filter(({ text }) => isQuick(quick, wire(text).toString('latin1'))).length
  assert.ok(taken > 5, `${taken}`)
  for (const { text, title } of refusedHeads) assert.not(isQuick(quick, wire(text).toString('latin1')), title)
})

test('of every head that is one byte away from such a one it says what the parser says, or nothing', () => {
  const quick = new QuickHeads(HEAD_LIMITS)
  let taken = 0
  for (const text of COMMON)
    for (const other of oneByteAway(wire(text).toString('latin1'))) if (isQuick(quick, other)) taken++
  assert.ok(taken > 1000, `${taken}`)
})

test('fields that were good are known again, and no others: one byte, a length or a limit changes them', () => {
  const quick = new QuickHeads(HEAD_LIMITS)
  const agent = `User-Agent: ${'x'.repeat(80)}¶`
  const heads = [
    `GET /a HTTP/1.1¶Host: h¶${agent}¶`,
    `POST /b HTTP/1.1¶Host: h¶${agent}Content-Length: 12¶¶`,
    `POST /b HTTP/1.1¶Host: h¶${agent}Content-Length: 13¶¶`,
    `GET /c HTTP/1.1¶Host: h¶Connection: close¶${agent}¶`,
    `GET /a HTTP/1.1¶Host: i¶${agent}¶`,
  ].map((text) => wire(text).toString('latin1'))
  const random = randomOf(seedOf('repeated fields'))
  for (let n = 0; n < 2_000; n++) {
    const head = heads[random(heads.length)] as string
    for (let again = random(3); again >= 0; again--) assert.ok(isQuick(quick, head), head)
    if (n % 10 === 0)
      for (const other of [`${head.slice(0, -20)}\r${head.slice(-19)}`, head.replace('Host', 'Hos:')])
        isQuick(quick, other)
  }
  const whole = Buffer.from(heads[0] as string, 'latin1')
  assert.is(quick.take(whole, 0)?.target, '/a')
  for (let cut = 1; cut < 30; cut++) assert.is(quick.take(whole.subarray(0, -cut), 0), null)
  const strict = new QuickHeads({ ...HEAD_LIMITS, maxHeadBytes: whole.length })
  assert.is(strict.take(whole, 0)?.target, '/a')
  const longer = Buffer.from((heads[0] as string).replace('/a', '/abc'), 'latin1')
  assert.is(strict.take(longer, 0), null, 'the same fields, and over the limit')
})

test('a head that is not whole is none, wherever it is cut', () => {
  const quick = new QuickHeads(HEAD_LIMITS)
  for (const text of COMMON) {
    const whole = wire(text)
    for (let end = 0; end < whole.length; end++) assert.is(quick.take(whole.subarray(0, end), 0), null)
  }
})

test('it keeps the limits of a head, a target, and the number of fields', () => {
  const limits = { maxHeadBytes: 60, maxTargetBytes: 8, maxFields: 2 }
  const quick = new QuickHeads(limits)
  const is = (text: string) => isQuick(quick, wire(text).toString('latin1'), limits)
  assert.ok(is('GET /1234567 HTTP/1.1¶Host: h¶¶'))
  assert.not(is('GET /12345678 HTTP/1.1¶Host: h¶¶'))
  assert.ok(is('GET / HTTP/1.1¶Host: h¶A: b¶¶'))
  assert.not(is('GET / HTTP/1.1¶Host: h¶A: b¶C: d¶¶'))
  const filled = (size: number) => `GET / HTTP/1.1¶Host: h¶A: ${'x'.repeat(size - 32)}¶¶`
  assert.is(wire(filled(60)).length, 60)
  assert.ok(is(filled(60)))
  assert.not(is(filled(61)))
})

test('random fields, many of them of framing, in any order', () => {
  const random = randomOf(seedOf('quick heads'))
  const quick = new QuickHeads(HEAD_LIMITS)
  const names = ['Host', 'host', 'Content-Length', 'content_length', 'Transfer-Encoding', 'Connection', 'Expect', 'X-Y']
  const values = ['h', 'h:80', '1', '0', '00', '10 ', 'chunked', 'close', 'keep-alive', 'close, x', '100-continue', '']
  let taken = 0
  for (let round = 0; round < atLength(5_000, 20_000); round++) {
    const lines = Array.from({ length: random(5) }, () => `${names[random(8)]}: ${values[random(12)]}\r\n`)
    if (isQuick(quick, `GET / HTTP/1.1\r\n${lines.join('')}\r\n`)) taken++
  }
  assert.ok(taken > 100, `${taken}`)
})

test.run()
