// What children print, in any pieces, becomes lines with a worker, as text or as JSON.

import { PassThrough } from 'node:stream'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { LONGEST_MESSAGE } from '../../src/log.ts'
import type { LogFormat } from '../../src/process/messages.ts'
import { Logbook, type Sink, Tail } from '../../src/process/output/logbook.ts'
import { chunkings } from '../../src/testing.ts'
import { until } from '../support/until.ts'

const SOURCE = { pid: 7, worker: 'echo:0' }
const PREFIX = /^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d pid:7 \[echo:0\] /

class Memory implements Sink {
  text = ''
  lostBytes = 0
  isFull = false

  write(more: string): void {
    if (this.isFull) this.lostBytes += Buffer.byteLength(more)
    else this.text += more
  }
}

function record(message: string, time: unknown = '2026-01-02T03:04:05.678Z'): string {
  return `\x1e${JSON.stringify({ time, message })}\n`
}

/** What a logbook makes of these pieces. */
async function linesOf(format: LogFormat, pieces: readonly Buffer[]): Promise<string[]> {
  const echo = new Memory()
  const book = new Logbook({ format, file: null, echo })
  const stream = new PassThrough()
  book.attach(stream, SOURCE)
  const ended = new Promise((resolve) => stream.once('end', resolve))
  for (const piece of pieces) stream.write(piece)
  stream.end()
  await ended
  assert.ok(echo.text === '' || echo.text.endsWith('\n'))
  return echo.text.split('\n').slice(0, -1)
}

async function messagesOf(pieces: readonly Buffer[]): Promise<string[]> {
  return (await linesOf('text', pieces)).map((line) => line.replace(PREFIX, ''))
}

const PRINTED = `raw\n${record('logged\nin two lines')}grüße 🎉\r\n\x1e{"broken\n\nlast`

test('records and raw lines, cut in every way, become the same lines of text', async () => {
  for (const pieces of chunkings(PRINTED)) {
    const lines = await linesOf('text', pieces)
    for (const line of lines) assert.match(line, PREFIX)
    assert.equal(
      lines.map((line) => line.replace(PREFIX, '')),
      ['raw', 'logged', '    | in two lines', 'grüße 🎉', '\\x1e{"broken', '', 'last'],
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

test('a line that never ends is cut, and memory with it: at the same places whatever the pieces, and in no character', async () => {
  const text = `x${'🎉'.repeat(100_000)}\nnext`
  const whole = await messagesOf([Buffer.from(text)])
  assert.is(whole.length, 5)
  assert.is(`${whole.slice(0, -1).join('')}\n${whole.at(-1)}`, text)
  for (const line of whole) assert.ok(line.length <= LONGEST_MESSAGE)
  for (const size of [997, 16_384, 65_536]) {
    const bytes = Buffer.from(text)
    const count = Math.ceil(bytes.length / size)
    const pieces = Array.from({ length: count }, (_, n) => bytes.subarray(n * size, (n + 1) * size))
    assert.equal(await messagesOf(pieces), whole, `pieces of ${size}`)
  }
})

test('a line that never ends is written while it grows', async () => {
  const echo = new Memory()
  const stream = new PassThrough()
  new Logbook({ format: 'text', file: null, echo }).attach(stream, SOURCE)
  for (const start of ['', '\x1e{"time":"']) {
    echo.text = ''
    for (let n = 0; n < 64; n++) stream.write(n === 0 ? start : 'x'.repeat(16_384))
    await until(() => echo.text.length > 500_000)
    stream.write('\n')
  }
})

test('single bytes without end cost no time that grows with what came before', async () => {
  const started = performance.now()
  const pieces = Array.from({ length: 200_000 }, () => Buffer.from('x'))
  await linesOf('text', [Buffer.from('\x1e'), ...pieces])
  assert.ok(performance.now() - started < 5_000)
})

test('the longest record, each character of it escaped, is one', async () => {
  const message = '\x1b'.repeat(LONGEST_MESSAGE)
  for (const size of [10_000, 65_536, 1_000_000]) {
    const bytes = Buffer.from(record(message))
    const count = Math.ceil(bytes.length / size)
    const pieces = Array.from({ length: count }, (_, n) => bytes.subarray(n * size, (n + 1) * size))
    const entries = (await linesOf('json', pieces)).map((line) => JSON.parse(line))
    assert.equal(
      entries.map((entry) => [entry.message.length, entry.stream]),
      [[LONGEST_MESSAGE, undefined]],
    )
  }
})

test('a record behind a line without an end is one all the same', async () => {
  for (const pieces of chunkings(`loading...${record('done')}more`)) {
    assert.equal(await messagesOf(pieces), ['loading...', 'done', 'more'])
  }
})

test('what only looks like a record is a raw line, and ends no master', async () => {
  const zone = process.env.TZ
  try {
    for (process.env.TZ of ['Asia/Tokyo', 'America/Lima', 'UTC']) {
      // A peer's bytes may be printed, and these are times that Date knows.
      for (const time of [
        '+275760-09-13T00:00:00.000Z',
        '-271821-04-20T00:00:00.000Z',
        '2026',
        '',
        5,
        null,
        ['2026'],
      ]) {
        const line = record('m', time)
        assert.equal(await messagesOf([Buffer.from(line)]), [line.trimEnd().replace('\x1e', '\\x1e')])
      }
      for (const text of ['null', '[]', '{}', '"x"', '', '\x1e', '{"time":"2026-99-99T03:04:05.678Z","message":""}']) {
        for (const format of ['text', 'json'] as const)
          assert.ok((await linesOf(format, [Buffer.from(`\x1e${text}\n`)])).length > 0)
      }
    }
  } finally {
    if (zone === undefined) delete process.env.TZ
    else process.env.TZ = zone
  }
})

test('what a pipe has brought before it broke is not lost', async () => {
  const echo = new Memory()
  const stream = new PassThrough()
  new Logbook({ format: 'text', file: null, echo }).attach(stream, SOURCE)
  stream.write('last words')
  await until(() => stream.readableLength === 0)
  stream.destroy(new Error('ECONNRESET'))
  await until(() => echo.text.endsWith('] last words\n'))
})

test('lost bytes are told in the log itself, as soon as it takes something again', () => {
  const file = new Memory()
  const book = new Logbook({ format: 'json', file, echo: null })
  const write = (message: string) => book.write({ pid: 1, worker: '', message })
  write('one')
  file.isFull = true
  for (let n = 0; n < 10; n++) write('gone')
  file.isFull = false
  write('two')
  write('three')
  const messages = file.text
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line).message)
  const size = Buffer.byteLength(`{"time":"${new Date().toISOString()}","pid":1,"message":"gone"}\n`)
  assert.equal(messages, ['one', 'two', `${10 * size} bytes of log were lost`, 'three'])
})

test('text of a peer begins no line that could be one of the server, and a stack stays one', async () => {
  const stack = 'Error: no "x\n2026-01-02 03:04:05 pid:7 [echo:0] admin logged in\n\n at\n    at decode (app.js:1:2)'
  const lines = await messagesOf([Buffer.from(record(`udp 1.2.3.4:5 error 3: ${stack}`))])
  const expected = [
    'udp 1.2.3.4:5 error 3: Error: no "x',
    '    | 2026-01-02 03:04:05 pid:7 [echo:0] admin logged in',
    '',
    '    |  at',
    '    |     at decode (app.js:1:2)',
  ]
  assert.equal(lines, expected)
  const own = ['Error: planted', '    at a (app.js:1:2)', '', '    at b']
  assert.equal(await messagesOf([Buffer.from(record(own.join('\n')))]), own)
  const tail = new Tail()
  tail.take(stack)
  assert.equal(tail.lines, ['Error: no "x', ...expected.slice(1).filter((line) => line !== '')])
})

test('control characters do not reach a terminal', async () => {
  const hostile = '\x1b[2J\x07\x7f\u009b2J\u0085\ttab'
  const shown = '\\x1b[2J\\x07\\x7f\\x9b2J\\x85\ttab'
  assert.equal(await messagesOf([Buffer.from(`${hostile}\n${record(hostile)}`)]), [shown, shown])
})

test('JSON keeps every character, and none of them drives a terminal or ends a line for somebody else', async () => {
  const hostile = '\x1b[2J\x07\x7f\u009b2J\u0085\u2028\u2029 grüße'
  const lines = await linesOf('json', [Buffer.from(`${hostile}\n${record(hostile)}`)])
  for (const line of lines) {
    assert.is(JSON.parse(line).message, hostile)
    // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what must not be there
    assert.not.match(line, /[\u0000-\u001f\u007f-\u009f\u2028\u2029]/)
  }
})

test('invalid UTF-8 is replaced, and costs no other line', async () => {
  const lines = await linesOf('text', [Buffer.from([0xff, 0xfe, 10]), Buffer.from('fine\n')])
  assert.equal(
    lines.map((line) => line.replace(PREFIX, '')),
    ['\ufffd\ufffd', 'fine'],
  )
})

test("the master's own lines have no worker", () => {
  const [json, text] = [new Memory(), new Memory()]
  new Logbook({ format: 'json', file: null, echo: json }).write({ pid: 1, worker: '', message: 'm' })
  assert.equal(Object.keys(JSON.parse(json.text)), ['time', 'pid', 'message'])
  new Logbook({ format: 'text', file: null, echo: text }).write({ pid: 1, worker: '', message: 'm' })
  assert.match(text.text, / pid:1 m\n$/)
})

test.run()
