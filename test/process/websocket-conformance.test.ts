// The cases of a public WebSocket suite, over real sockets, against a server that echoes: what comes back, the code of the
// close, and how the stream ends. Stricter than asked for: of two behaviours that count, only the better one passes.

import { deflateRawSync } from 'node:zlib'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { frame, masked } from '../fixtures/websocket.ts'
import {
  type ConformanceCase,
  compressionOffers,
  compressionSizes,
  conformanceCases,
  takeoverOffers,
} from '../fixtures/websocket-conformance.ts'
import { atLength } from '../support/length.ts'
import { RawWebSocket } from '../support/raw-websocket.ts'
import { inSandbox, portOf } from '../support/server.ts'
import { until } from '../support/until.ts'

const APP = `
  import { websocket, Worker } from 'millrace'
  const worker = new Worker('websocket://127.0.0.1:0', {
    name: 'echo',
    protocol: websocket({ compression: { threshold: 0 } }),
    maxPackageSize: 17 * 1024 * 1024,
  })
  worker.onError = () => undefined
  worker.onMessage = (connection, message) => connection.send(message)
  Worker.runAll()`

const CLOSE = frame(0x88, Buffer.from([0x03, 0xe8]))
const SLOW_MS = 60_000

/** Parts of one frame are masked together. */
function onTheWire({ sends, isOneFrame = false }: ConformanceCase): Buffer[] {
  if (!isOneFrame) return sends.map(masked)
  const all = masked(Buffer.concat(sends))
  const endOf = (n: number) => (n < 0 ? 0 : 4 + Buffer.concat(sends.slice(0, n + 1)).length)
  return sends.map((_, n) => all.subarray(endOf(n - 1), endOf(n)))
}

async function run(port: number, one: ConformanceCase): Promise<void> {
  const raw = await RawWebSocket.open(port)
  const parts = onTheWire(one)
  const now = one.failsAfter > 0 ? parts.slice(0, one.failsAfter) : parts
  if (one.chop > 0) for (const part of now) await raw.write(part, one.chop)
  else await raw.write(Buffer.concat(now))
  if (one.isAlive) {
    await until(() => raw.of('text', 'binary', 'pong').length >= one.answers.length || raw.hasEnded, SLOW_MS)
    await raw.write(masked(CLOSE))
  }
  await until(() => raw.of('close').length > 0 || raw.hasEnded, SLOW_MS)
  if (!one.isAlive) await raw.write(masked(CLOSE)) // the answer to the server's, or a client that cannot stop
  await until(() => raw.hasEnded, SLOW_MS)
  raw.end()
  await until(() => raw.isClosed, SLOW_MS)
  check(one, raw)
}

function check({ id, answers, code }: ConformanceCase, raw: RawWebSocket): void {
  const came = raw.of('text', 'binary', 'pong')
  assert.equal(
    came.map(({ kind, payload }) => `${kind} ${payload.length}`),
    answers.map(([kind, payload]) => `${kind} ${payload.length}`),
    id,
  )
  assert.ok(
    answers.every(([, payload], n) => came[n]?.payload.equals(payload)),
    id,
  )
  const closes = raw.of('close').map(({ payload }) => (payload.length < 2 ? 1005 : payload.readUInt16BE(0)))
  assert.equal([...closes, raw.heard.at(-1)?.kind], [code, 'fin'], id)
}

/** So many at once, the long ones for themselves. */
async function runAll(port: number, cases: readonly ConformanceCase[], atOnce: number): Promise<string[]> {
  const failed: string[] = []
  const left = [...cases]
  const work = async () => {
    for (let one = left.shift(); one !== undefined; one = left.shift()) {
      const { id } = one
      await run(port, one).catch((error) => failed.push(`${id}: ${error.message} ${error.details ?? ''}`))
    }
  }
  await Promise.all(Array.from({ length: atOnce }, work))
  return failed
}

const isLong = ({ id }: ConformanceCase) => id.startsWith('9.')

test('framing, pings, reserved bits and opcodes, fragments, UTF-8, closing: each case as it should be', async () => {
  await inSandbox(async (box) => {
    const port = portOf(await box.start(box.file('app.js', APP)))
    const short = conformanceCases.filter((one) => !isLong(one))
    assert.equal(await runAll(port, short, 8), [])
    console.log(`${short.length} cases`)
    await box.stop()
  })
})

/** Of one case, or of one message, bytes: up to 16 MiB, in fragments and small packets, in the long suite. */
const MOST = atLength(256, Number.POSITIVE_INFINITY) * 1024
const MOST_COMPRESSED = atLength(32, 128) * 1024

test('long messages, in one piece, in fragments, in small packets; a thousand round trips', async () => {
  await inSandbox(async (box) => {
    const port = portOf(await box.start(box.file('app.js', APP)))
    const isToday = ({ sends }: ConformanceCase) => sends.reduce((sum, { length }) => sum + length, 0) <= MOST + 10_000
    const long = conformanceCases.filter((one) => isLong(one) && isToday(one))
    assert.ok(long.length > 8)
    assert.equal(await runAll(port, long, 2), [])
    console.log(`${long.length} cases`)
    await box.stop()
  })
})

const deflatedAlone = (payload: Buffer) => deflateRawSync(payload, { finishFlush: 2 }).subarray(0, -4)

/** What a client makes of the server's answer: how it compresses, and whether the server looks back. */
function partsOf(answer: string): { deflated: (payload: Buffer) => Buffer; isKept: boolean } {
  const bits = Number(/client_max_window_bits=(\d+)/.exec(answer)?.[1] ?? 15)
  return {
    deflated: answer.includes('client_no_context_takeover') ? deflatedAlone : lookingBack(bits),
    isKept: !answer.includes('server_no_context_takeover'),
  }
}

/** A client that keeps its context: Node's zlib is given what it has said before. */
function lookingBack(windowBits: number): (payload: Buffer) => Buffer {
  let past = Buffer.alloc(0)
  return (payload) => {
    const dictionary = past.length === 0 ? undefined : past
    const bytes = deflateRawSync(payload, { finishFlush: 2, windowBits, dictionary }).subarray(0, -4)
    past = Buffer.concat([past, payload]).subarray(-(2 ** windowBits))
    return bytes
  }
}

/** Words of a text, JSON and bytes that do not compress: as what is sent in practice. */
function sample(size: number, n: number): Buffer {
  const words = Buffer.alloc(
    size,
    `{"id":${n},"name":"\u00c4rger mit \u03ba\u1f79\u03c3\u03bc\u03b5","values":[1,2,3]} lorem ipsum `,
  )
  if (n % 2 === 1) for (let i = 0; i < size; i += 3) words[i] = (i * 7919 + n * 31) & 0xff
  return words
}

async function exchange(port: number, offer: string, windowBits: number): Promise<void> {
  const raw = await RawWebSocket.open(port, `Sec-WebSocket-Extensions: ${offer}\r\n`)
  raw.windowBits = windowBits
  const [, answer] = /\r\nSec-WebSocket-Extensions: permessage-deflate(.*)\r\n/.exec(raw.head) ?? []
  assert.type(answer, 'string', offer)
  const { deflated, isKept } = partsOf(answer as string)
  if (isKept) raw.followsContext()
  const sent: Buffer[] = []
  for (const [size, fragment] of compressionSizes.filter(([size]) => size <= MOST_COMPRESSED)) {
    for (const n of [0, 1]) {
      const message = sample(size, n)
      sent.push(message)
      await raw.write(Buffer.concat(compressedFrames(deflated(message), fragment).map(masked)))
    }
  }
  await until(() => raw.heard.length === sent.length || raw.hasEnded, SLOW_MS)
  sent.forEach((message, n) => {
    assert.ok(raw.heard[n]?.payload.equals(message) && raw.heard[n]?.isCompressed, `${offer}: message ${n}`)
  })
  await raw.write(masked(CLOSE))
  await until(() => raw.hasEnded)
  assert.is(raw.heard.at(-1)?.kind, 'fin')
  raw.destroy()
}

function compressedFrames(bytes: Buffer, fragment: number): Buffer[] {
  const each = fragment === 0 ? bytes.length : fragment
  const frames: Buffer[] = []
  for (let at = 0; at < bytes.length; at += each)
    frames.push(frame((at + each >= bytes.length ? 0x80 : 0) | (at === 0 ? 0x42 : 0), bytes.subarray(at, at + each)))
  return frames
}

test('compression with every offer, with and without takeover, sizes and fragments, within the window that was asked for', async () => {
  await inSandbox(async (box) => {
    const port = portOf(await box.start(box.file('app.js', APP)))
    for (const [, offer, windowBits] of compressionOffers) await exchange(port, offer, windowBits)
    for (let bits = 8; bits <= 15; bits++)
      await exchange(port, `permessage-deflate; server_max_window_bits=${bits}`, bits)
    for (const [, offer, windowBits] of takeoverOffers) await exchange(port, offer, windowBits)
    await box.stop()
  })
})

test.run()
