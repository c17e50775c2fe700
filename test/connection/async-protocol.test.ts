// A protocol with a function that is `async` where it must not be: that costs the connections that meet it an error, and
// nobody else anything, least of all the process, which a rejection that nobody looks at would end.

import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { text } from '../../protocols/text.ts'
import { broadcast } from '../../src/connection/broadcast.ts'
import { kIsLongLived, kIsOpening, kQuietFor, kShut } from '../../src/connection/symbols.ts'
import { codeOf } from '../../src/errors.ts'
import { sendLogTo } from '../../src/log.ts'
import { delimited } from '../../src/protocol/framing.ts'
import type { AnyProtocol, CodecIo, Protocol } from '../../src/protocol.ts'
import { open, type Wire } from '../../src/testing.ts'
import { scripted } from '../support/codecs.ts'
import { nextTurn } from '../support/until.ts'

const fails = () => Promise.reject(new Error('too late'))
const framing = (own: object) =>
  ({ name: 'lines', input: delimited('\n'), decode: String, encode: String, ...own }) as unknown as Protocol

const throws = () => {
  throw new Error('too early')
}

function pauseOf(io: CodecIo<string>): void {
  io.pause()
  io.resume()
}

/** Runs `use`, and returns the rejections that nobody has looked at. */
async function unhandledIn(use: () => unknown): Promise<unknown[]> {
  const unhandled: unknown[] = []
  const note = (error: unknown) => unhandled.push(error)
  process.on('unhandledRejection', note)
  await use()
  for (let turn = 0; turn < 3; turn++) await nextTurn()
  process.off('unhandledRejection', note)
  return unhandled
}

test('a decode that answers with a promise is a ProtocolError that says so, and no message', async () => {
  const ways: object[] = [
    { decode: fails },
    { decode: async (packet: Buffer) => String(packet) },
    { lends: true, decodeAt: fails },
    { lends: true, decodeText: fails },
    { input: (bytes: Buffer) => bytes.length, decode: fails },
  ]
  for (const way of ways) {
    const wire = open(framing(way))
    const unhandled = await unhandledIn(() => {
      wire.receive('fir')
      wire.receive('st\nsecond\nthird\n')
    })
    assert.equal([wire.messages, unhandled], [[], []])
    assert.equal(
      wire.errors.map(({ code, error }) => [code, codeOf(error)]),
      [[3, 'ERR_BAD_PACKET']],
    )
    assert.match(wire.errors[0]?.message ?? '', /decode\(\) of protocol 'lines' answered with a promise/)
    assert.is(wire.connection.closeReason, 'protocol')
  }
})

test('whatever else of a protocol answers with a promise is refused, and its rejection ends nothing', async () => {
  const refused: [AnyProtocol, string][] = [
    [framing({ input: fails }), 'ERR_BAD_LENGTH'],
    [framing({ encode: fails }), 'ERR_ENCODE'],
    [{ name: 'codec', open: fails } as never, 'ERR_BAD_PROTOCOL'],
  ]
  for (const [protocol, code] of refused) {
    const seen: unknown[] = []
    const unhandled = await unhandledIn(() => {
      const wire = open(protocol, { onMessage: (connection, message) => connection.send(message) })
      wire.receive('a line\n')
      seen.push(...wire.errors.map(({ error }) => codeOf(error)))
    })
    assert.equal([seen, unhandled], [[code], []])
  }
})

test('what an async method of a codec throws is an error of its connection', async () => {
  type Peer = Wire<string, string>
  const bytes = (wire: Peer) => wire.receive('bytes')
  const calls: [string, (io: CodecIo<string>) => object, (wire: Peer) => unknown, string?][] = [
    ['receive', () => ({ receive: fails }), bytes],
    ['resumed', (io) => ({ receive: () => pauseOf(io), resumed: fails }), bytes],
    ['timeout', (io) => ({ soon: io.deadline('soon', 10), timeout: fails }), (wire) => wire.advance(20)],
    ['drain', () => ({ drain: fails }), (wire) => wire.goodbye()],
    ['ended', () => ({ isBusy: true, ended: fails }), (wire) => wire.end()],
    ['shut', () => ({ shut: fails }), (wire) => wire.connection[kShut]()],
    ['onSettled', (io) => ({ receive: () => void Object.assign(io, { onSettled: fails }) }), bytes],
    ['onDrain', (io) => ({ receive: () => void Object.assign(io, { onDrain: fails }) }), bytes],
    ['ending', () => ({ ending: fails }), (wire) => wire.connection.close('the last'), '4: too late'],
    ['ending, at once', () => ({ ending: throws }), (wire) => wire.connection.end('the last'), '4: too early'],
    ['isBusy', () => ({ isBusy: fails() }), (wire) => wire.connection[kQuietFor]()],
    ['isOpening', () => ({ isOpening: fails() }), (wire) => wire.connection[kIsOpening]],
    ['isClosing', () => ({ isClosing: fails() }), (wire) => broadcast([wire.connection], 'to all')],
    ['isLongLived', () => ({ isLongLived: fails() }), (wire) => wire.connection[kIsLongLived]],
    ['send', () => ({ send: fails }), (wire) => void wire.connection.send('a message'), '4: too late'],
  ]
  for (const [name, make, use, error = '3: too late'] of calls) {
    const wire = open(scripted(make as never))
    const unhandled = await unhandledIn(() => use(wire))
    const errors = wire.errors.map(({ code, message }) => `${code}: ${message}`)
    assert.equal([name, errors, unhandled], [name, [error], []])
    assert.is.not(wire.connection.getStatus(false), 'ESTABLISHED', name)
  }
})

test('after the connection such an error is logged, and after an upgrade, too: it is not about the next protocol', async () => {
  const lines: string[] = []
  sendLogTo((line) => lines.push(line))
  const closed = open(scripted(() => ({ closed: fails as never })))
  const closing = open(scripted(() => ({ closing: fails as never })))
  const coded = open(scripted(() => ({ closeCode: fails() as never })))
  const idle = open(
    scripted(() => ({ isPreparing: fails() as never })),
    { idleTimeoutMs: 10 },
  )
  const upgraded = open(
    scripted((io) => ({
      async receive() {
        io.upgrade(text, Buffer.alloc(0))
        await fails()
      },
    })),
  )
  const unhandled = await unhandledIn(() => {
    closed.connection.destroy()
    closing.connection.close()
    coded.connection.destroy()
    idle.advance(20)
    upgraded.receive('go')
  })
  sendLogTo(null)
  assert.equal(
    [unhandled, ...[closed, closing, coded, idle, upgraded].map(({ errors }) => errors)],
    [[], [], [], [], [], []],
  )
  assert.is(upgraded.connection.getStatus(false), 'ESTABLISHED')
  assert.is(lines.filter((line) => line.includes('too late')).length, 5, lines.join('\n'))
})

test.run()
