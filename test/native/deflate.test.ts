// The deflate streams of the addon: against Node's own zlib both ways, cut everywhere, bounded, and many calls that make no
// sense. Without the addon, or with one that finds no zlib, this says that it is not there.

import { once } from 'node:events'
import { createRequire } from 'node:module'
import { fileURLToPath } from 'node:url'
import { Worker } from 'node:worker_threads'
import { deflateRawSync, inflateRawSync } from 'node:zlib'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { addon } from '../../src/addon.ts'
import type { Deflater, Inflater, Zlib } from '../../src/addon-types.ts'
import { codeOf } from '../../src/errors.ts'
import { atLength } from '../support/length.ts'
import { type Random, randomBytes, randomCuts, randomOf, seedOf } from '../support/random.ts'
import { nextTurn } from '../support/until.ts'

const { zlib, sys } = addon()
const TAIL = Buffer.from([0x00, 0x00, 0xff, 0xff])
const MUCH = 100_000_000

function zlibTest(title: string, use: (zlib: Zlib) => unknown): void {
  if (zlib !== null) test(title, async () => void (await use(zlib)))
}

test('it is there when the addon is: this Node shows its zlib', () => {
  assert.is(zlib === null, sys === null)
})

/** Messages that resemble each other, a few that are large, a few of noise. */
function messagesOf(random: Random): Buffer[] {
  return Array.from({ length: 60 }, (_, n) => {
    if (n % 20 === 7) return randomBytes(random, random(3000), '')
    if (n % 20 === 13) return Buffer.alloc(random(100_000), `{"n":${n}}`)
    return Buffer.from(JSON.stringify({ n, user: `user-${random(50)}`, text: 'hello '.repeat(random(20)) }))
  })
}

function failure(call: () => unknown): string {
  try {
    call()
  } catch (error) {
    return codeOf(error)
  }
  return 'nothing was thrown'
}

zlibTest(
  'what Node inflates with no more than the window before it, and what it deflates, for every window',
  (zlib) => {
    const seed = seedOf('deflate')
    const random = randomOf(seed)
    for (let bits = 9; bits <= 15; bits++) {
      const deflater = zlib.newDeflater(bits, 1 + random(9), 1 + random(9))
      const inflater = zlib.newInflater(bits)
      let past = Buffer.alloc(0)
      for (const message of messagesOf(random)) {
        const how = `SEED=${seed}, ${bits} bits`
        const window = past.subarray(-(2 ** bits))
        const options = { windowBits: bits, finishFlush: 2, dictionary: window.length > 0 ? window : undefined }
        const compressed = deflater.compress(message)
        // Small chunks: Node's zlib would not look whether it is within the window otherwise.
        const inflated = inflateRawSync(Buffer.concat([compressed, TAIL]), { ...options, chunkSize: 64 })
        assert.ok(inflated.equals(message), how)
        const theirs = deflateRawSync(message, options).subarray(0, -4)
        const parts = randomCuts(random, theirs).map((part) => inflater.inflate(part, false, MUCH))
        parts.push(inflater.inflate(Buffer.alloc(0), true, MUCH))
        assert.ok(Buffer.concat(parts).equals(message), how)
        past = Buffer.concat([past, message]).subarray(-32_768)
      }
      deflater.close()
      inflater.close()
    }
  },
)

zlibTest('messages look back on those before, until a reset', (zlib) => {
  const deflater = zlib.newDeflater(12, 3, 5)
  const text = Buffer.from(randomBytes(randomOf(1), 500, '').toString('hex'))
  const first = deflater.compress(text)
  const second = deflater.compress(text)
  assert.ok(second.length < 20 && first.length > 400, `${first.length}, ${second.length}`)
  deflater.reset()
  assert.ok(deflater.compress(text).equals(first))
  const inflater = zlib.newInflater(12)
  assert.ok(inflater.inflate(first, true, 1000).equals(text))
  assert.ok(inflater.inflate(second, true, 1000).equals(text))
  inflater.reset()
  assert.is(
    failure(() => inflater.inflate(second, true, 1000)),
    'EILSEQ',
  )
})

/** 128 bytes that resemble the others: what the numbers of ARCHITECTURE.md are about. */
function quote(n: number): Buffer {
  const symbol = ['BTCUSD', 'ETHUSD', 'SOLUSD', 'ADAUSD'][n % 4]
  const price = (1000 + ((n * 7919) % 5000) / 100).toFixed(2)
  const [qty, time] = [((n * 31) % 997) / 10, 1_700_000_000_000 + n * 137]
  const side = n % 3 === 0 ? 'sell' : 'buy'
  return Buffer.from(
    JSON.stringify({ id: n, type: 'trade', symbol, price, qty, time, side, venue: `exchange-${n % 7}` }),
  )
}

zlibTest('a larger window takes more memory, and makes messages smaller', (zlib) => {
  const measure = (bits: number, looksBack: boolean) => {
    const deflater = zlib.newDeflater(bits, 3, bits - 7)
    let [before, after] = [0, 0]
    for (let n = 0; n < 5000; n++) {
      if (!looksBack) deflater.reset()
      before += quote(n).length
      after += deflater.compress(quote(n)).length
    }
    const ratio = before / after
    console.log(`${bits} bits: ${Math.round(deflater.memory / 1024)} KiB, ${ratio.toFixed(2)} times smaller`)
    return { ratio, memory: deflater.memory }
  }
  const [alone, least, usual, most] = [measure(15, false), measure(9, true), measure(12, true), measure(15, true)]
  assert.ok(alone.ratio * 2 < least.ratio && least.ratio < usual.ratio && usual.ratio < most.ratio)
  assert.ok(least.memory < usual.memory && usual.memory < most.memory / 2)
})

zlibTest(
  'a message without a context between two with one: the window goes on with what both sides have seen',
  (zlib) => {
    const text = (n: number) =>
      Buffer.from(`${n} a text that comes again and again, and is compressed each time. `.repeat(3))
    const deflater = zlib.newDeflater(12, 3, 5)
    const alone = zlib.newDeflater(15, 3, 8)
    const inflater = zlib.newInflater(15)
    for (let n = 0; n < 50; n++) {
      const isAlone = n % 7 === 3
      if (isAlone) alone.reset()
      if (n % 7 === 4) deflater.reset() // it has not seen the one before
      const compressed = (isAlone ? alone : deflater).compress(text(n))
      assert.ok(inflater.inflate(compressed, true, 1000).equals(text(n)), String(n))
    }
  },
)

zlibTest('no byte over the limit, and none of memory for a bomb', (zlib) => {
  const bomb = deflateRawSync(Buffer.alloc(MUCH), { finishFlush: 2 }).subarray(0, -4)
  const inflater = zlib.newInflater(15)
  const before = process.memoryUsage.rss()
  for (let n = 0; n < 20; n++) {
    assert.is(
      failure(() => inflater.inflate(bomb, true, 1_000_000)),
      'EMSGSIZE',
    )
    assert.is(
      failure(() => inflater.inflate(bomb, true, 1_000_000)),
      'EILSEQ',
      'broken until it is reset',
    )
    inflater.reset()
  }
  assert.ok(process.memoryUsage.rss() - before < 60_000_000)
  const text = Buffer.from('abc'.repeat(1000))
  const exact = deflateRawSync(text, { finishFlush: 2 }).subarray(0, -4)
  for (const [room, expected] of [
    [3000, 'nothing was thrown'],
    [2999, 'EMSGSIZE'],
    [0, 'EMSGSIZE'],
  ] as const) {
    inflater.reset()
    assert.is(
      failure(() => inflater.inflate(exact, true, room)),
      expected,
    )
  }
  inflater.reset()
  assert.is(inflater.inflate(Buffer.alloc(0), true, 0).length, 0)
  assert.is(inflater.inflate(Buffer.of(0), true, 0).length, 0)
})

zlibTest('after a last block a message may look back all the same', (zlib) => {
  const text = Buffer.from('a text that comes again and again. '.repeat(4))
  const inflater = zlib.newInflater(15)
  for (let n = 0; n < 3; n++) {
    const dictionary = n === 0 ? undefined : text
    const last = Buffer.concat([deflateRawSync(text, { dictionary }), Buffer.of(0)])
    assert.ok(inflater.inflate(last, true, 1000).equals(text))
    const compressed = deflateRawSync(text, { dictionary: text, finishFlush: 2 }).subarray(0, -4)
    assert.ok(compressed.length < 20)
    assert.ok(inflater.inflate(compressed, true, 1000).equals(text))
  }
})

zlibTest('any bytes are inflated as Node does, or refused as it does, however they are cut', (zlib) => {
  const seed = seedOf('inflate')
  const random = randomOf(seed)
  const inflater = zlib.newInflater(15)
  const good = [deflateRawSync('hello hello hello', { finishFlush: 2 }).subarray(0, -4), deflateRawSync('last'), TAIL]
  for (let n = 0; n < atLength(2_000, 10_000); n++) {
    const bytes = Buffer.concat(good.filter(() => random(2) === 0))
    for (let flips = random(3); flips > 0 && bytes.length > 0; flips--) bytes[random(bytes.length)] = random(256)
    const wire = random(4) === 0 ? randomBytes(random, random(30), TAIL) : bytes
    const expected = reference(wire, 1000)
    for (const parts of [[wire], randomCuts(random, wire)]) {
      inflater.reset()
      let told: string
      try {
        const all = parts.map((part) => inflater.inflate(part, false, 1000))
        const before = all.reduce((sum, { length }) => sum + length, 0)
        const last = before > 1000 ? null : inflater.inflate(Buffer.alloc(0), true, 1000 - before)
        told = last === null ? 'EMSGSIZE' : Buffer.concat([...all, last]).toString('hex')
      } catch (error) {
        told = codeOf(error)
      }
      assert.is(told, expected, `SEED=${seed}, case ${n}: ${wire.toString('hex')}`)
    }
  }
})

/** What plain Node makes of a message, as protocols/websocket/deflate.ts does: the bytes in hexadecimal, or the code. */
function reference(wire: Buffer, limit: number): string {
  if (wire.length === 0) return ''
  const bytes = Buffer.concat([wire, TAIL, Buffer.of(0x01), TAIL])
  try {
    const { buffer, engine } = inflateRawSync(bytes, { maxOutputLength: limit, info: true }) as unknown as {
      buffer: Buffer
      engine: { bytesWritten: number }
    }
    const used = engine.bytesWritten
    const isWhole = used === bytes.length || (used === bytes.length - 10 && bytes[used] === 0)
    return isWhole ? buffer.toString('hex') : 'EILSEQ'
  } catch (error) {
    return error instanceof RangeError ? 'EMSGSIZE' : 'EILSEQ'
  }
}

zlibTest('memory is told, grows with the window, and goes with close', (zlib) => {
  const small = zlib.newDeflater(9, 3, 2)
  const large = zlib.newDeflater(15, 3, 8)
  assert.ok(large.memory > 256 * 1024 && large.memory < 320 * 1024, `${large.memory}`)
  assert.ok(small.memory < large.memory / 3, `${small.memory}`)
  const inflater = zlib.newInflater(15)
  const idle = inflater.memory
  inflater.inflate(deflateRawSync('x', { finishFlush: 2 }).subarray(0, -4), true, 10)
  assert.ok(inflater.memory >= idle + 32_768)
  inflater.close()
  assert.is(inflater.memory, 0)
})

zlibTest('what nobody closes is collected before it fills the memory', async (zlib) => {
  const before = process.memoryUsage.rss()
  for (let n = 0; n < 300; n++) {
    for (let one = 0; one < 20; one++) zlib.newDeflater(15, 3, 8)
    await nextTurn()
  }
  const grown = process.memoryUsage.rss() - before
  assert.ok(grown < 850_000_000, `${grown} of 1,700,000,000 bytes`)
})

zlibTest('a thread may end with streams that nobody has closed', async () => {
  const program = `
    const { Deflater, Inflater } = require(${JSON.stringify(addonPath())})
    const all = Array.from({ length: 50 }, () => [new Deflater(12, 3, 5), new Inflater(12)])
    for (const [deflater, inflater] of all) inflater.inflate(deflater.compress(Buffer.from('hello')), true, 5)`
  const [code] = await once(new Worker(program, { eval: true }), 'exit')
  assert.is(code, 0)
})

zlibTest('after close every call fails and none does harm', (zlib) => {
  const deflater = zlib.newDeflater(12, 3, 5)
  const inflater = zlib.newInflater(12)
  for (const stream of [deflater, inflater]) {
    stream.close()
    stream.close()
    stream.reset()
  }
  assert.is(
    failure(() => deflater.compress(Buffer.from('x'))),
    'EBADF',
  )
  assert.is(
    failure(() => inflater.inflate(Buffer.from('x'), true, 1)),
    'EBADF',
  )
})

zlibTest('wrong arguments are a TypeError', (zlib) => {
  for (const call of [
    () => zlib.newDeflater(8, 3, 5),
    () => zlib.newDeflater(16, 3, 5),
    () => zlib.newDeflater(12, 0, 5),
    () => zlib.newDeflater(12, 10, 5),
    () => zlib.newDeflater(12, 3, 10),
    () => zlib.newInflater(7),
    () => zlib.newInflater(Number.NaN),
    () => zlib.newDeflater(12, 3, 5).compress('text' as never),
    () => zlib.newInflater(12).inflate(Buffer.alloc(1), 1 as never, 1),
    () => zlib.newInflater(12).inflate(Buffer.alloc(1), true, -1),
    () => zlib.newInflater(12).inflate(Buffer.alloc(1), true, Number.POSITIVE_INFINITY),
    () => zlib.newInflater(12).inflate(new Uint16Array(1) as never, true, 1),
  ])
    assert.is(failure(call), 'ERR_INVALID_ARG_TYPE', String(call))
})

/** For what goes around src/addon.ts. */
function addonPath(): string {
  const built = new URL('../../../native/build/Release/millrace.node', import.meta.url)
  return process.env.MILLRACE_ADDON || fileURLToPath(built)
}

type Method = (...args: unknown[]) => unknown

const CALLS = atLength(50_000, 1_000_000)
zlibTest(`${CALLS} calls that make no sense`, () => {
  const random = randomOf(seedOf('nonsense'))
  // As the addon has them: any `this`, any arguments.
  const { Deflater: DeflaterClass, Inflater: InflaterClass } = createRequire(import.meta.url)(addonPath()) as {
    Deflater: new (...args: unknown[]) => Deflater
    Inflater: new (...args: unknown[]) => Inflater
  }
  const detached = new Uint8Array(8)
  structuredClone(detached.buffer, { transfer: [detached.buffer] })
  const closed = new DeflaterClass(12, 3, 5)
  closed.close()
  const streams = [new DeflaterClass(9, 1, 1), closed, new InflaterClass(8), new InflaterClass(15)]
  const shared = new Uint8Array(new SharedArrayBuffer(64)).fill(0x41)
  const bytes = [detached, shared, new Uint8Array(0), TAIL, Buffer.from('x'.repeat(300)), deflateRawSync('abc')]
  const others = [
    undefined,
    null,
    true,
    false,
    NaN,
    -1,
    0.5,
    9,
    12,
    15,
    1e300,
    2 ** 53,
    '',
    'x',
    {},
    [],
    10n,
    Symbol('s'),
  ]
  const values: unknown[] = [...streams, ...bytes, ...others, new Uint16Array(4), new DataView(new ArrayBuffer(4))]
  const methods = streams.flatMap((stream) =>
    ['compress', 'inflate', 'reset', 'close'].flatMap((name) => (stream as never)[name] ?? []),
  ) as Method[]
  const pick = () => values[random(values.length)]
  let thrown = 0
  for (let n = 0; n < CALLS; n++) {
    const args = Array.from({ length: random(4) }, pick)
    const kind = random(100)
    try {
      if (kind === 0)
        streams[random(4)] = new (random(2) === 0 ? DeflaterClass : InflaterClass)(...args) as Deflater & Inflater
      else if (kind < 40) (methods[random(methods.length)] as Method).apply(streams[random(4)], args)
      else (methods[random(methods.length)] as Method).apply(pick(), args)
    } catch {
      thrown++
    }
  }
  assert.ok(thrown > CALLS * 0.5, `${thrown}`)
})

test.run()
