// The typed arrays of a message, or of a shared value, have memory of their own: exactly their bytes, whatever stands
// before them. Behind `.buffer` there must be nothing else: neither the rest of the message nor Node's pool of Buffers.

import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { cloneOf, pack, unpack } from '../../src/messaging/wire.ts'
import { drive, startDriven } from '../support/driven.ts'
import { inSandbox } from '../support/server.ts'

const BYTES = 16
const types: readonly (new (buffer: ArrayBuffer) => ArrayBufferView)[] = [
  Int8Array,
  Uint8Array,
  Uint8ClampedArray,
  Int16Array,
  Uint16Array,
  Int32Array,
  Uint32Array,
  Float32Array,
  Float64Array,
  BigInt64Array,
  BigUint64Array,
  DataView,
]
/** More than any alignment, so that each is met. */
const MOST_BEFORE = 9

function filled(): ArrayBuffer {
  return Uint8Array.from({ length: BYTES }, (_, at) => at + 1).buffer
}

test('every type, at every alignment, has exactly its own bytes', () => {
  for (const type of types)
    for (let before = 0; before < MOST_BEFORE; before++) {
      const sent = [new Map(), 'x'.repeat(before), new type(filled()), 'then \u20ac']
      const { form, bytes } = pack(sent)
      for (let start = 0; start < MOST_BEFORE; start++) {
        const read = Buffer.concat([Buffer.alloc(start), bytes, Buffer.alloc(1)])
        const got = unpack(form, read, start, start + bytes.length) as typeof sent
        assert.equal(got, sent)
        assertOwn(got[2] as DataView)
      }
    }
})

test('a Buffer stays one, an empty view is empty, and a part of a buffer brings that part only', () => {
  const whole = new Float64Array(filled())
  const sent = { buffer: Buffer.from('bytes'), empty: new Uint16Array(0), part: whole.subarray(1), t: new Date(1) }
  const got = cloneOf(pack(sent)) as typeof sent
  assert.equal(got, sent)
  assert.ok(Buffer.isBuffer(got.buffer))
  for (const view of [got.buffer, got.empty, got.part]) assertOwn(view)
})

test('two views of one buffer get a buffer each, and one view that is there twice is one', () => {
  const buffer = filled()
  const [bytes, words] = [new Uint8Array(buffer), new Uint32Array(buffer, 4, 2)]
  const got = cloneOf(pack([bytes, words, bytes, new Date(1)])) as [Uint8Array, Uint32Array, Uint8Array]
  assert.equal(got.slice(0, 3), [bytes, words, bytes])
  assertOwn(got[0])
  assertOwn(got[1])
  assert.is(got[2], got[0])
  got[0].fill(0)
  assert.equal(got[1], words)
})

function assertOwn({ buffer, byteOffset, byteLength }: ArrayBufferView): void {
  assert.equal([byteOffset, byteLength], [0, buffer.byteLength])
}

const groups = `
  const echo = new Worker({ name: 'echo' })
  echo.onMessage = (from, message) => message
  const buffersOf = ({ samples, words }) => [samples.buffer.byteLength, words.buffer.byteLength]
  state.all = async (through) => {
    const wrong = []
    for (let before = 0; before < ${MOST_BEFORE}; before++) {
      const { buffer } = new Float32Array([1, 2, 3])
      const got = await through({ pad: 'x'.repeat(before), samples: new Float32Array(buffer), words: new Uint16Array(buffer, 2, 2) })
      const sizes = buffersOf(got)
      if (String(sizes) !== '12,4' || String(got.samples) !== '1,2,3') wrong.push([before, ...sizes])
    }
    return wrong
  }
`

test('between processes: in a message, an answer, what is published, a shared map and what watches it', () =>
  inSandbox(async (box) => {
    const port = await startDriven(box, groups)
    const wrongIn = (through: string) => drive(port, `return state.all(${through})`)
    assert.equal(await wrongIn('(value) => groups.echo.worker(0).request(value)'), [])
    await drive(port, `Channel.subscribe('values', (value) => state.published.push(value)); state.published = []`)
    const published = `async (value) => {
      Channel.publish('values', value)
      while (state.published.length === 0) await millrace.Timer.sleep(0.002)
      return state.published.pop()
    }`
    assert.equal(await wrongIn(published), [])
    await drive(port, `state.map = millrace.Shared.map('values')`)
    assert.equal(await wrongIn(`async (value) => (await state.map.set('a', value), state.map.get('a'))`), [])
    await drive(port, `state.changes = state.map.watch()`)
    const watched = `async (value) => (await state.map.set('a', value), (await state.changes.next()).value.value)`
    assert.equal(await wrongIn(watched), [])
    await box.stop()
  }))

test.run()
