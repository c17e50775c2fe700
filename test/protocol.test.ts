// The framing adapter and its helpers, the accumulator, the registry: a connection's protocol side, without a network.

import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { text } from '../protocols/text.ts'
import { asCodec } from '../src/connection/framing-codec.ts'
import { codeOf, ProtocolError, UsageError } from '../src/errors.ts'
import { AsyncTcpConnection, AsyncUdpConnection, Worker } from '../src/index.ts'
import { Accumulator } from '../src/protocol/accumulator.ts'
import { delimited, type Framer, lengthPrefixed } from '../src/protocol/framing.ts'
import { protocolOf, registerProtocol } from '../src/protocol/registry.ts'
import { type AnyProtocol, type CodecProtocol, NEED_MORE, type Protocol } from '../src/protocol.ts'
import { chunkings, open } from '../src/testing.ts'
import { randomBytes, randomOf, seedOf } from './support/random.ts'

const failsWith = (code: string) => (error: unknown) => codeOf(error) === code
const latin = (bytes: string | number[]) => Buffer.from(bytes as string, 'latin1')

/** A protocol whose messages are its packets as text. */
function packets(input: Protocol['input'], more: Partial<Protocol<string>> = {}): Protocol<string> {
  return { name: 'packets', lends: true, input, decode: (packet) => packet.toString('latin1'), encode: String, ...more }
}

// Helpers

test('delimited finds the end of the first packet, delimiter included', () => {
  for (const [mark, bytes, length] of [
    ['\n', '', NEED_MORE],
    ['\n', 'abc', NEED_MORE],
    ['\n', '\n', 1],
    ['\n', 'abc\nd\n', 4],
    ['\r\n', 'abc\r', NEED_MORE],
    ['\r\n', 'abc\rd\r\n', 7],
    ['\0\0\0', 'a\0\0b\0\0\0', 7],
    ['\n', `${'x'.repeat(63)}\n`, 64],
    ['\n', `${'x'.repeat(64)}\n`, 65],
    ['\n', `${'x'.repeat(1000)}\ny\n`, 1001],
  ] as const) {
    assert.is(delimited(mark)(Buffer.from(bytes), 0), length, JSON.stringify([mark, bytes]))
  }
})

test('delimited goes on where an earlier call has stopped, and sees a mark that was cut', () => {
  const input = delimited('\r\n')
  assert.is(input(Buffer.from('abc\r\n'), 4), 5)
  assert.is(input(Buffer.from('abc\r\n'), 3), 5)
  assert.is(delimited('\n')(Buffer.from('\nabc\n'), 1), 5) // what was searched is not searched again
})

test('the packet at a start is that of the bytes from there on', () => {
  const random = randomOf(seedOf('framers'))
  const framers: Framer[] = [
    delimited('\n'),
    delimited('ab'),
    delimited('aba'),
    lengthPrefixed({ bytes: 1 }),
    lengthPrefixed({ bytes: 2, offset: 1, littleEndian: true }),
  ]
  for (const framer of framers) {
    for (let n = 0; n < 2_000; n++) {
      const bytes = randomBytes(random, random(200), 'ab\n\0\u0001')
      const start = random(bytes.length + 1)
      assert.is(framer.at(bytes, start, 0), framer(bytes.subarray(start), 0))
      const length = framer(bytes, 0)
      // Searching in steps finds the same.
      let found = NEED_MORE
      let searched = 0
      for (let end = 1; end <= bytes.length && found === NEED_MORE; end++) {
        found = framer(bytes.subarray(0, end), searched)
        searched = end
      }
      assert.is(found, length)
    }
  }
})

test('lengthPrefixed reads a field of 1 to 6 bytes, wherever it is', () => {
  for (const [prefix, bytes, length] of [
    [{ bytes: 1 }, [], NEED_MORE],
    [{ bytes: 1 }, [0], 1],
    [{ bytes: 1 }, [255], 256],
    [{ bytes: 2 }, [1], NEED_MORE],
    [{ bytes: 2 }, [1, 2], 260],
    [{ bytes: 2, littleEndian: true }, [1, 2], 515],
    [{ bytes: 4, includesHeader: true }, [0, 0, 0, 4], 4],
    [{ bytes: 2, offset: 3 }, [9, 9, 9, 0], NEED_MORE],
    [{ bytes: 2, offset: 3 }, [9, 9, 9, 0, 7], 12],
    [{ bytes: 2, offset: 3, includesHeader: true }, [9, 9, 9, 0, 7], 7],
    [{ bytes: 6 }, [1, 0, 0, 0, 0, 0], 2 ** 40 + 6],
  ] as const) {
    assert.is(lengthPrefixed(prefix)(latin([...bytes]), 0), length, JSON.stringify([prefix, bytes]))
  }
  assert.throws(
    () => lengthPrefixed({ bytes: 4, includesHeader: true })(latin([0, 0, 0, 3]), 0),
    failsWith('ERR_BAD_LENGTH'),
  )
})

test('helpers refuse what makes no sense, where it is written', () => {
  for (const none of ['', Buffer.alloc(0), null, undefined, 10, ['\n'], {}])
    assert.throws(() => delimited(none as string), failsWith('ERR_BAD_DELIMITER'))
  for (const prefix of [
    { bytes: 0 },
    { bytes: 7 },
    { bytes: 1.5 },
    { bytes: 2, offset: -1 },
    { bytes: 2, offset: 0.5 },
  ]) {
    assert.throws(() => lengthPrefixed(prefix), failsWith('ERR_BAD_LENGTH_PREFIX'), JSON.stringify(prefix))
  }
  for (const none of [null, undefined, 4])
    assert.throws(() => lengthPrefixed(none as never), failsWith('ERR_BAD_LENGTH_PREFIX'))
})

test('a helper-made input says what it is', () => {
  assert.equal(delimited('\n').framing, { kind: 'delimited', delimiter: Buffer.from('\n') })
  assert.equal(lengthPrefixed({ bytes: 2, offset: 1 }).framing, {
    kind: 'lengthPrefixed',
    bytes: 2,
    offset: 1,
    includesHeader: false,
    littleEndian: false,
  })
})

// The adapter

test('an input of your own gets the bytes from the packet on, and how many were searched', () => {
  const calls: [string, number][] = []
  const input = (bytes: Buffer, from: number) => {
    calls.push([bytes.toString(), from])
    return bytes.indexOf(';', from) + 1
  }
  const wire = open(packets(input))
  wire.receive('ab')
  wire.receive('c;d')
  wire.receive(';')
  assert.equal(wire.messages, ['abc;', 'd;'])
  assert.equal(calls, [
    ['ab', 0],
    ['abc;d', 2],
    ['d', 0],
    ['d;', 1],
  ])
})

test('a declared length is asked for once', () => {
  let calls = 0
  const input = (bytes: Buffer) => {
    calls++
    return bytes.length < 1 ? NEED_MORE : (bytes[0] as number)
  }
  const wire = open(packets(input))
  for (const byte of latin([5, 1, 2, 3, 4, 3, 1, 2])) wire.receive(Buffer.of(byte))
  assert.equal(wire.messages, ['\x05\x01\x02\x03\x04', '\x03\x01\x02'])
  assert.is(calls, 2)
})

test('with from, one-byte reads search each byte once', () => {
  for (const mark of ['\n', '\r\n\r\n']) {
    let searched = 0
    const input = (bytes: Buffer, from: number) => {
      const start = Math.max(0, from - mark.length + 1)
      const found = bytes.indexOf(mark, start)
      searched += (found < 0 ? bytes.length : found + mark.length) - start
      return found < 0 ? NEED_MORE : found + mark.length
    }
    const wire = open(packets(input))
    const line = `${'x'.repeat(20_000)}${mark}`
    for (const byte of Buffer.from(line + line)) wire.receive(Buffer.of(byte))
    assert.is(wire.messages.length, 2)
    assert.ok(searched <= 2 * line.length * mark.length, `${searched} bytes searched for ${mark.length}`)
  }
})

test('a large packet in many reads is moved a bounded number of times', () => {
  const wire = open(packets(lengthPrefixed({ bytes: 4 })), { maxPackageSize: 20_000_000 })
  const size = 8_000_000
  const head = Buffer.alloc(4)
  head.writeUInt32BE(size)
  const started = performance.now()
  wire.receive(head)
  const chunk = Buffer.alloc(1000)
  for (let sent = 0; sent < size; sent += chunk.length) wire.receive(chunk)
  assert.is(wire.messages[0]?.length, size + 4)
  assert.ok(performance.now() - started < 5_000, 'quadratic: 8000 moves of up to 8 MB take longer') // 0.05 s here
})

test('whatever input throws or answers is a ProtocolError with its cause', () => {
  const cause = new SyntaxError('odd')
  const noText = Object.create(null)
  for (const [input, code] of [
    [() => -1, 'ERR_BAD_LENGTH'],
    [() => 1.5, 'ERR_BAD_LENGTH'],
    [() => Number.NaN, 'ERR_BAD_LENGTH'],
    [() => undefined as never, 'ERR_BAD_LENGTH'],
    [() => false as never, 'ERR_BAD_LENGTH'],
    [() => Number.POSITIVE_INFINITY, 'ERR_BAD_LENGTH'],
    [() => Number.MAX_SAFE_INTEGER, 'ERR_PACKET_TOO_LARGE'],
    [thrower(cause), 'ERR_BAD_PACKET'],
    [thrower(new ProtocolError('ERR_MINE', 'mine')), 'ERR_MINE'],
    [thrower('a string'), 'ERR_BAD_PACKET'],
    [thrower(noText), 'ERR_BAD_PACKET'],
  ] as const) {
    const wire = open(packets(input))
    wire.receive('abc')
    const [{ code: kind, error } = { code: 0, error: undefined }] = wire.errors
    assert.is(kind, 3)
    assert.instance(error, ProtocolError)
    assert.is(codeOf(error), code)
    if (code === 'ERR_BAD_PACKET') assert.ok([cause, 'a string', noText].includes(error?.cause))
  }
})

test('whatever decode throws is a ProtocolError with its cause', () => {
  const cause = new SyntaxError('no JSON')
  const wire = open(packets(delimited('\n'), { decode: thrower(cause) }))
  wire.receive('a\nb\n')
  assert.is(wire.errors.length, 1)
  assert.is(codeOf(wire.errors[0]?.error), 'ERR_BAD_PACKET')
  assert.is(wire.errors[0]?.error?.cause, cause)
  assert.is(wire.errors[0]?.message, 'no JSON')
})

test('without lends, decode owns its bytes; with it, they are gone afterwards', () => {
  const keeps = (lends: boolean): Protocol<Buffer> => ({
    name: 'keeps',
    lends,
    input: delimited('\n'),
    decode: (packet) => packet,
    encode: (message) => message,
  })
  const owning = open(keeps(false))
  owning.receive('abc\nd')
  owning.receive('ef\n')
  assert.equal(owning.messages.map(String), ['abc\n', 'def\n'])
  const lending = open(keeps(true))
  lending.receive('abc\nd')
  lending.receive('ef\n')
  for (const packet of lending.messages) assert.ok(packet.every((byte) => byte === 0xdd))
})

test('decode gets exactly the packet', () => {
  const sizes: number[] = []
  const protocol = packets(delimited('\n'), {
    decode: (packet) => {
      sizes.push(packet.length)
      return ''
    },
  })
  for (const chunks of chunkings('a\nbcd\n\n')) {
    const wire = open(protocol)
    for (const chunk of chunks) wire.receive(chunk)
    assert.equal(sizes.splice(0), [2, 4, 1])
  }
})

test('UsageError of encode reaches the sender as it is, anything else as its cause', () => {
  const own = new UsageError('ERR_MINE', 'mine')
  const cause = new TypeError('odd')
  for (const [thrown, code] of [
    [own, 'ERR_MINE'],
    [cause, 'ERR_ENCODE'],
  ] as const) {
    const wire = open(packets(delimited('\n'), { encode: thrower(thrown) }))
    try {
      wire.connection.send('a')
      assert.unreachable()
    } catch (error) {
      assert.is(codeOf(error), code)
      if (thrown === cause) assert.is((error as Error).cause, cause)
    }
  }
})

test('errors of another copy of the package are known by their names', () => {
  class Foreign extends Error {
    readonly code = 'ERR_FOREIGN'
    override name: string
    constructor(name: string) {
      super('foreign')
      this.name = name
    }
  }
  const wire = open(packets(delimited('\n'), { encode: thrower(new Foreign('UsageError')) }))
  assert.throws(() => wire.connection.send('a'), failsWith('ERR_FOREIGN'))
  const fault = open(packets(thrower(new Foreign('ProtocolError'))))
  fault.receive('a')
  assert.is(codeOf(fault.errors[0]?.error), 'ERR_FOREIGN')
})

test('an adapter is made once a protocol, and a codec protocol is its own', () => {
  assert.is(asCodec(text), asCodec(text))
  const codec: CodecProtocol = { name: 'codec', open: thrower(new Error('unused')) }
  assert.is(asCodec(codec), codec)
})

// The accumulator

test('an accumulator gives back what went in, in order', () => {
  const random = randomOf(seedOf('accumulator'))
  const kept = new Accumulator()
  let model = Buffer.alloc(0)
  for (let n = 0; n < 5_000; n++) {
    if (random(2) === 0) {
      const bytes = randomBytes(random, random(300), 'x')
      kept.append(bytes)
      model = Buffer.concat([model, bytes])
    } else {
      const count = random(model.length + 1)
      kept.consume(count)
      model = model.subarray(count)
    }
    assert.is(kept.length, model.length)
    assert.ok(kept.view().equals(model))
  }
})

test('an empty accumulator holds no buffer, and take gives it away', () => {
  const kept = new Accumulator()
  assert.is(kept.view().length, 0)
  kept.append(Buffer.from('abc'))
  const taken = kept.take()
  kept.append(Buffer.from('xyz'))
  assert.is(taken.toString(), 'abc')
  assert.is(kept.view().toString(), 'xyz')
  kept.consume(3)
  assert.is(kept.length, 0)
})

test('an accumulator that is filled and emptied for ever stays small', () => {
  const kept = new Accumulator()
  for (let n = 0; n < 10_000; n++) {
    kept.append(Buffer.alloc(100))
    kept.consume(n === 0 ? 1 : 100)
  }
  assert.is(kept.length, 99)
  assert.ok(kept.view().buffer.byteLength <= 1024, `${kept.view().buffer.byteLength} bytes`)
})

// The registry

test('a scheme is registered once, and the same protocol again does no harm', () => {
  registerProtocol('registry-test', text)
  registerProtocol('registry-test', text)
  assert.is(protocolOf('registry-test'), text)
  assert.throws(() => registerProtocol('registry-test', { ...text }), failsWith('ERR_SCHEME_TAKEN'))
})

test('a scheme has the form of one', () => {
  for (const scheme of ['', 'Text', '1a', 'a b', 'a_b', 'a://', 'a\n', null, undefined, Symbol('text')]) {
    assert.throws(() => registerProtocol(scheme as string, text), failsWith('ERR_BAD_SCHEME'), String(scheme))
  }
})

test('what is no protocol is refused where it is given: registered, declared, or of a client; the message says what is missing', () => {
  const { input, decode, encode } = text
  for (const [protocol, missing] of [
    [5, /is 5: framing has/],
    [{}, /has no name, input\(\), decode\(\), encode\(\):/],
    [{ name: 'x' }, /has no input\(\), decode\(\), encode\(\):/],
    [() => 1, /has no input\(\), decode\(\), encode\(\):/],
    [{ name: 'x', input, decode: 1, encode }, /has no decode\(\):/],
    [{ input, decode, encode }, /has no name:/],
    [{ name: 'x', open: null }, /has no open\(\):/],
  ] as [AnyProtocol, RegExp][]) {
    const isRefused = (error: Error) => codeOf(error) === 'ERR_BAD_PROTOCOL' && missing.test(error.message)
    assert.throws(() => registerProtocol('registry-bad', protocol), isRefused)
    assert.throws(() => new Worker({ listen: 'tcp://127.0.0.1:0', protocol }).describe(), isRefused)
    assert.throws(() => new AsyncTcpConnection('tcp://127.0.0.1:1', { protocol }), isRefused)
    assert.throws(() => new AsyncUdpConnection('udp://127.0.0.1:1', { protocol }), isRefused)
  }
  for (const none of [null, undefined] as unknown as AnyProtocol[])
    assert.throws(() => registerProtocol('registry-bad', none), failsWith('ERR_BAD_PROTOCOL'))
  assert.throws(() => protocolOf('registry-bad'), failsWith('ERR_UNKNOWN_SCHEME'))
})

test('an unknown scheme is an error that names the known ones', () => {
  registerProtocol('registry-test', text)
  assert.throws(
    () => protocolOf('nope'),
    (error: Error) => codeOf(error) === 'ERR_UNKNOWN_SCHEME' && /known: .*registry-test/.test(error.message),
  )
})

function thrower(thrown: unknown): () => never {
  return () => {
    throw thrown
  }
}

test.run()
