// Which running group a new declaration means, at a reload that changed names, addresses, order or number of groups.

import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { keysOf } from '../../src/process/messages.ts'
import { matchGroups } from '../../src/process/operations/group-match.ts'

/** `echo@text://:1` is a group with that name and address. */
function keys(...groups: string[]) {
  return keysOf(groups.map((text) => ({ name: text.split('@')[0] ?? '', listen: text.split('@')[1] ?? '' })))
}

for (const [what, running, wanted, of, gone] of [
  ['nothing has changed', ['a@1', 'b@2'], ['a@1', 'b@2'], [0, 1], []],
  ['the order has', ['a@1', 'b@2'], ['b@2', 'a@1'], [1, 0], []],
  ['a name has', ['a@1', 'b@2'], ['a@1', 'c@2'], [0, 1], []],
  ['an address has', ['a@1', 'b@2'], ['a@3', 'b@2'], [0, 1], []],
  ['one is new', ['a@1'], ['b@2', 'a@1'], [-1, 0], []],
  ['one is gone', ['a@1', 'b@2'], ['b@2'], [1], [0]],
  ['one is gone and another new', ['a@1'], ['b@2'], [-1], [0]],
  ['names and addresses have changed places', ['a@1', 'b@2'], ['a@2', 'b@1'], [1, 0], []],
  ['two are equal', ['a@1', 'a@1'], ['a@1', 'a@1'], [0, 1], []],
  ['one of two equals is gone', ['a@1', 'a@1'], ['a@1'], [0], [1]],
  ['unnamed ones have no name in common', ['none@1'], ['none@2'], [-1], [0]],
  ['mailboxes have no address in common', ['a@', 'b@'], ['b@', 'c@'], [1, -1], [0]],
] as const) {
  test(`groups are matched when ${what}`, () => {
    assert.equal(matchGroups(keys(...running), keys(...wanted)), { of: [...of], gone: [...gone] })
  })
}

test.run()
