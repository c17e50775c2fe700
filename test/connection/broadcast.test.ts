// What a broadcast says of each connection is what became of the message there.

import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { text } from '../../protocols/text.ts'
import { broadcast } from '../../src/connection/broadcast.ts'
import type { AnyConnection } from '../../src/connection.ts'
import { UsageError } from '../../src/errors.ts'
import { Chunk, CloseFrame, http, type Request, Response, ServerSentEvents, websocket } from '../../src/index.ts'
import { sendLogTo } from '../../src/log.ts'
import type { Protocol } from '../../src/protocol.ts'
import { open } from '../../src/testing.ts'
import { frame, masked } from '../fixtures/websocket.ts'
import { scripted } from '../support/codecs.ts'
import { wire as bytesOf } from '../support/http.ts'
import { until } from '../support/until.ts'

const lines: Protocol<string, string> = {
  name: 'lines',
  input: (bytes) => bytes.indexOf(10) + 1,
  decode: String,
  encode: (message) => `${message}\n`,
}

function onlyShort(message: string): string {
  if (message.length > 5) throw new UsageError('ERR_ENCODE', 'only what is short')
  return `${message}\n`
}

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

/** One of each kind on a port of both, after what its peer has sent. */
function shared(onMessage: (connection: AnyConnection, request: Request) => unknown, ...received: (string | Buffer)[]) {
  return received.map((bytes) => {
    const wire = open(http({ websocket: websocket() }), { onMessage: onMessage as never })
    wire.receive(typeof bytes === 'string' ? bytesOf(bytes) : bytes)
    wire.written()
    return wire
  })
}

const GET = 'GET / HTTP/1.1¶Host: h¶¶'
const EVENTS = new Response(200, { 'Content-Type': 'text/event-stream' })

test('on a port of HTTP and WebSocket a message goes to the WebSockets, and never answers a request', () => {
  const never = () => new Promise(() => undefined)
  const streams = (connection: AnyConnection) =>
    connection.send(new Response(200, { 'Transfer-Encoding': 'chunked' }, 'a download'))
  const events = (connection: AnyConnection) => connection.send(EVENTS)
  const sockets = [...shared(never, ASK), ...shared(never, ASK)]
  const others = [
    ...shared(never, '', GET, `${GET}${GET}`),
    ...shared(streams, GET),
    ...shared(events, GET),
    ...shared((connection) => connection.send('the answer'), GET),
  ]
  const all = [sockets[0], ...others, sockets[1]].map((wire) => (wire as (typeof sockets)[0]).connection)
  for (const message of ['hello', { n: 1 }, Buffer.from('x'), new CloseFrame(4001, '')])
    for (const slow of ['drop', 'close', 'conflate'] as const)
      if (!(message instanceof CloseFrame) || slow === 'drop')
        assert.equal(broadcast(all, message, { slow }), { ...NOBODY, sent: 2 })
  for (const wire of others) {
    assert.equal([wire.written().toString(), wire.errors], ['', []])
    assert.is(wire.connection.getStatus(false), 'ESTABLISHED')
  }
  assert.ok(sockets.every((wire) => wire.written().includes('hello')))
})

test('an event goes to the open answers of events, and to no other answer', () => {
  const begins = new Map<string, Response | string>([
    ['/events', EVENTS],
    ['/download', new Response(200, { 'Transfer-Encoding': 'chunked' }, 'first')],
    ['/text', 'whole'],
  ])
  const onMessage = (connection: AnyConnection, { path }: Request) => connection.send(begins.get(path))
  const ask = (path: string) => `GET ${path} HTTP/1.1¶Host: h¶¶`
  const [events, download, text, idle] = shared(onMessage, ask('/events'), ask('/download'), ask('/text'), '')
  const all = [events, download, text, idle].map((wire) => (wire as NonNullable<typeof events>).connection)
  assert.equal(broadcast(all, new ServerSentEvents({ data: 'news' })), { ...NOBODY, sent: 1 })
  assert.match(String(events?.written()), /data: news/)
  assert.equal(broadcast(all, new Chunk('data: ready\n\n')), { ...NOBODY, sent: 1 })
  assert.match(String(events?.written()), /data: ready/)
  for (const wire of [download, text, idle]) assert.equal([String(wire?.written()), wire?.errors], ['', []])
  events?.goodbye()
  assert.equal(broadcast(all, new ServerSentEvents({ data: 'too late' })), NOBODY)
})

test('what one of them cannot take is dropped there, and the others get it', () => {
  const logged: string[] = []
  const picky = { ...lines, name: 'picky', encode: onlyShort }
  const codec = scripted((io) => ({ send: (message) => io.write(onlyShort(message)) }))
  sendLogTo((line) => logged.push(line))
  try {
    for (const refusing of [picky, codec as unknown as typeof lines]) {
      const wires = [open(refusing), open(lines), open(refusing), open(lines)]
      const connections = wires.map(({ connection }) => connection)
      for (const all of [connections, connections.toReversed()])
        assert.equal(broadcast(all, 'too long'), { ...NOBODY, sent: 2, dropped: 2 })
      assert.equal(
        wires.map((wire) => wire.written().toString()),
        ['', 'too long\ntoo long\n', '', 'too long\ntoo long\n'],
      )
      assert.match(logged.join(), new RegExp(`broadcast to connection ${wires[0]?.connection.id}: .*short`))
      // Nobody can take it: the caller is told.
      const nobody = wires.filter((_, at) => at % 2 === 0).map(({ connection }) => connection)
      assert.throws(() => broadcast(nobody, 'too long'), /only what is short/)
    }
  } finally {
    sendLogTo(null)
  }
})

test('with slowBytes 0 a connection is slow that has anything queued', () => {
  for (const slow of ['drop', 'close', 'conflate'] as const) {
    const wire = open(lines)
    const all = () => broadcast([wire.connection], 'a line', { slow, slowBytes: 0 })
    assert.equal(all(), { ...NOBODY, sent: 1 })
    wire.hold()
    wire.connection.send('this waits')
    assert.is(all().sent, 0, slow)
    wire.connection.destroy()
  }
})

test('with slowBytes 0 what is put off is sent when nothing is queued', async () => {
  const wire = open(lines)
  const all = (message: string) => broadcast([wire.connection], message, { slow: 'conflate', slowBytes: 0 })
  wire.hold()
  wire.connection.send('this waits')
  assert.equal([all('old').conflated, all('new').conflated], [1, 1])
  wire.drain()
  await until(() => wire.written().includes('new'))
})

test.run()
