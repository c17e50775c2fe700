// What children print, in any pieces, becomes lines with a worker, as text or as JSON.

import { PassThrough } from 'node:stream'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { Logbook } from '../../src/process/logbook.ts'
import type { LogFormat } from '../../src/process/messages.ts'
import { chunkings } from '../../src/testing.ts'

const SOURCE = { pid: 7, worker: 'echo:0' }
const PREFIX = /^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d pid:7 \[echo:0\] /

/** What a logbook makes of these pieces. */
async function linesOf(format: LogFormat, pieces: readonly Buffer[]): Promise<string[]> {
  let text = ''
  const book = new Logbook({ format, file: null, echo: (more) => (text += more) })
  const stream = new PassThrough()
  book.attach(stream, SOURCE)
  const ended = new Promise((resolve) => stream.once('end', resolve))
  for (const piece of pieces) stream.write(piece)
  stream.end()
  await ended
  assert.ok(text === '' || text.endsWith('\n'))
  return text.split('\n').slice(0, -1)
}

const RECORD = `\x1e${JSON.stringify({ time: '2026-01-02T03:04:05.678Z', message: 'logged\nin two lines' })}\n`
const PRINTED = `raw\n${RECORD}grüße 🎉\r\n\x1e{"broken\n\nlast`

test('records and raw lines, cut in every way, become the same lines of text', async () => {
  for (const pieces of chunkings(PRINTED)) {
    const lines = await linesOf('text', pieces)
    for (const line of lines) assert.match(line, PREFIX)
    assert.equal(
      lines.map((line) => line.replace(PREFIX, '')),
      ['raw', 'logged', 'in two lines', 'grüße 🎉', '\\x1e{"broken', '', 'last'],
    )
  }
})

test('as JSON a message is one object, lines and all, and what was printed is told apart', async () => {
  for (const pieces of chunkings(PRINTED)) {
    const entries = (await linesOf('json', pieces)).map((line) => JSON.parse(line))
    assert.equal(
      entries.map(({ message, stream }) => [message, stream]),
      [
        ['raw', 'stderr'],
        ['logged\nin two lines', undefined],
        ['grüße 🎉', 'stderr'],
        ['\x1e{"broken', 'stderr'],
        ['', 'stderr'],
        ['last', 'stderr'],
      ],
    )
    assert.is(entries[1].time, '2026-01-02T03:04:05.678Z')
    for (const { pid, worker } of entries) assert.equal([pid, worker], [7, 'echo:0'])
  }
})

test('a line that never ends is cut, and memory with it', async () => {
  const lines = await linesOf(
    'text',
    Array.from({ length: 64 }, () => Buffer.alloc(16_384, 'x')),
  )
  assert.ok(lines.length >= 16)
  assert.is(lines.map((line) => line.replace(PREFIX, '')).join('').length, 64 * 16_384)
})

test('control characters do not reach a terminal', async () => {
  const [line] = await linesOf('text', [Buffer.from('\x1b[2J\x07\x7f\ttab\n')])
  assert.is(line?.replace(PREFIX, ''), '\\x1b[2J\\x07\\x7f\ttab')
})

test('invalid UTF-8 is replaced, and costs no other line', async () => {
  const lines = await linesOf('text', [Buffer.from([0xff, 0xfe, 10]), Buffer.from('fine\n')])
  assert.equal(
    lines.map((line) => line.replace(PREFIX, '')),
    ['\ufffd\ufffd', 'fine'],
  )
})

test("the master's own lines have no worker", () => {
  let text = ''
  const echo = (more: string) => {
    text += more
  }
  new Logbook({ format: 'json', file: null, echo }).write({ pid: 1, worker: '', message: 'm' })
  assert.equal(Object.keys(JSON.parse(text)), ['time', 'pid', 'message'])
  text = ''
  new Logbook({ format: 'text', file: null, echo }).write({ pid: 1, worker: '', message: 'm' })
  assert.match(text, / pid:1 m\n$/)
})

test.run()
