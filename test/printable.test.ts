// Control characters do not reach a terminal, in either form.

import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { printableCell, printableJson, printableLog } from '../src/printable.ts'

const HOSTILE = '\x1b[2J\u009b2J\x00\x7f\r'

test('a log says which character it was, and keeps its lines and tabs', () => {
  assert.is(printableLog(`${HOSTILE}\n\tat grüße 🎉`), '\\x1b[2J\\x9b2J\\x00\\x7f\\x0d\n\tat grüße 🎉')
})

test('a cell stays on its line and as wide as it was', () => {
  assert.is(printableCell(`${HOSTILE}\n\tgrüße 🎉`), '?[2J?2J?????grüße 🎉')
})

test('JSON keeps each character, and a log leaves it as it is', () => {
  const value = { text: `${HOSTILE}\u0085\u2028\n\tgrüße 🎉` }
  for (const json of [printableJson(value), printableJson(value, 2)]) {
    assert.equal(JSON.parse(json), value)
    assert.is(printableLog(json), json)
    assert.not.match(json, /[\u0085\u2028]/)
  }
})

test('no control character passes', () => {
  for (let code = 0; code < 0x100; code++) {
    const char = String.fromCharCode(code)
    const isControl = code < 0x20 || (code >= 0x7f && code < 0xa0)
    assert.is(printableCell(char), isControl ? '?' : char)
    assert.is(printableLog(char) === char, !isControl || char === '\t' || char === '\n')
  }
})

test.run()
