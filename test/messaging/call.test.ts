// What a handler knows of the request that it answers.

import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { now } from '../../src/loop/clock.ts'
import { Call } from '../../src/messaging/call.ts'
import { PendingRequest } from '../../src/messaging/pending-request.ts'
import { nextTurn } from '../support/until.ts'

test('the time that is left is whole milliseconds, and never the 0 that means no limit', () => {
  const left = new Call(true, now() + 1000).remainingMs
  assert.ok(Number.isInteger(left) && left > 900 && left <= 1000, String(left))
  assert.is(new Call(true, now() - 5).remainingMs, 1)
  assert.is(new Call(true, Number.POSITIVE_INFINITY).remainingMs, Number.POSITIVE_INFINITY)
})

test('a request may be given the time of one that has no limit', async () => {
  const request = new PendingRequest(
    'worker a:0',
    { timeoutMs: new Call(true, Number.POSITIVE_INFINITY).remainingMs },
    now(),
  )
  await nextTurn()
  assert.not(request.isDone)
  request.answer('late')
  assert.is(await request.promise, 'late')
})

test.run()
