// What goes as JSON is what a structured clone would be, whatever the value is.

import nodeAssert from 'node:assert'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { plainText } from '../../src/messaging/plain.ts'
import { Form, pack, unpack } from '../../src/messaging/wire.ts'
import { randomOf, seedOf } from '../support/random.ts'

function copyOf(value: unknown): { copy: unknown; form: Form } {
  const { form, bytes } = pack(value)
  return { copy: unpack(form, Buffer.from(bytes), 0, bytes.length), form }
}

const shared = { a: 1 }
const looped: Record<string, unknown> = {}
looped.self = looped
const tagged = Object.assign([1, 2], { tag: 'x' })
const far = Array.from({ length: 20 }, (_, n) => ({ n }))
class Point {
  x = 1
}

test('small plain objects go as JSON, and nothing that JSON does not say exactly', () => {
  const plain = [
    {},
    [],
    { a: 1, b: 'text', c: null, d: true, e: [1, [2, { f: '\ud83d' }]], 7: 'seven' },
    JSON.parse('{"__proto__":{"x":1},"b":"\u2028"}'),
    [0.1, -1e300, Number.MAX_SAFE_INTEGER, 'h\u00e4'],
  ]
  for (const value of plain) {
    const { copy, form } = copyOf(value)
    assert.is(form, Form.Json)
    nodeAssert.deepStrictEqual(copy, structuredClone(value))
  }
  const others = [
    { a: undefined },
    [undefined],
    new Array(3),
    { a: -0 },
    [Number.NaN],
    { a: 1n },
    { a: new Date(5) },
    new Map([[1, 2]]),
    new Set([1]),
    { bytes: new Uint8Array([1]) },
    new Point(),
    Object.create(null),
    { a: Object('boxed') },
    [shared, shared],
    looped,
    tagged,
    far,
    { long: 'x'.repeat(3000) },
    new Error('on purpose'),
  ]
  for (const value of others) {
    const { copy, form } = copyOf(value)
    assert.is(form, Form.Value)
    nodeAssert.deepStrictEqual(copy, structuredClone(value))
  }
  const [one, two] = copyOf([shared, shared]).copy as [unknown, unknown]
  assert.is(one, two)
  assert.throws(() => pack({ f: plainText }), /could not be cloned/)
})

test('random values: whatever is plain is the same after JSON', () => {
  const random = randomOf(seedOf('plain'))
  const known: unknown[] = []
  const leaves = ['', 'a', '\ud800', 0, -0, 1.5, Number.NaN, null, undefined, true, 3n, new Date(1)]
  const make = (depth: number): unknown => {
    if (known.length > 0 && random(20) === 0) return known[random(known.length)]
    if (depth === 0 || random(3) === 0) return leaves[random(random(4) === 0 ? leaves.length : 6)]
    const made: unknown[] | Record<string, unknown> = random(2) === 0 ? [] : {}
    known.push(made)
    for (let n = random(5); n > 0; n--) {
      if (Array.isArray(made)) made.push(make(depth - 1))
      else made[`key${random(9)}`] = make(depth - 1)
    }
    return made
  }
  let plain = 0
  for (let n = 0; n < 3000; n++) {
    known.length = 0
    const value = [make(4)]
    if (plainText(value) !== null) plain++
    nodeAssert.deepStrictEqual(copyOf(value).copy, structuredClone(value))
  }
  assert.ok(plain > 300 && plain < 2900, String(plain))
})

test.run()
