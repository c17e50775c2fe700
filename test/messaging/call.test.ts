// Requests: what they may be given, what their handler knows of them, and what it throws.

import { getEventListeners } from 'node:events'
import { inspect } from 'node:util'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { withResolvers } from '../../src/deferred.ts'
import { asError, codeOf, messageOf, PeerError, RemoteError, stackOf } from '../../src/errors.ts'
import { now } from '../../src/loop/clock.ts'
import { Call } from '../../src/messaging/call.ts'
import { packFailure, remoteErrorOf } from '../../src/messaging/failures.ts'
import { checkRequest, PendingRequest } from '../../src/messaging/pending-request.ts'
import { type InterestChange, Subscriptions } from '../../src/messaging/subscriptions.ts'
import { nothing } from '../../src/nothing.ts'
import { nextTurn } from '../support/until.ts'

test('the time that is left is whole milliseconds, and never the 0 that means no limit', () => {
  const left = new Call(true, now() + 1000).remainingMs
  assert.ok(Number.isInteger(left) && left > 900 && left <= 1000, String(left))
  assert.is(new Call(true, now() - 5).remainingMs, 1)
  assert.is(new Call(true, Number.POSITIVE_INFINITY).remainingMs, Number.POSITIVE_INFINITY)
})

test('a request may be given the time of one that has no limit', async () => {
  const { remainingMs } = new Call(true, Number.POSITIVE_INFINITY)
  const request = new PendingRequest('worker a:0', { timeoutMs: remainingMs })
  await nextTurn()
  assert.not(request.isDone)
  request.answer('late')
  assert.is(await request.promise, 'late')
})

test('a request whose time is over already has failed, and was handled by nobody', async () => {
  const request = new PendingRequest('worker a:0', { timeoutMs: -1 })
  const error = (await request.promise.catch((thrown) => thrown)) as PeerError
  assert.equal([error.code, error.mayHaveBeenHandled], ['ERR_REQUEST_TIMEOUT', false])
})

test('a request that has failed at once does not stay with its signal', async () => {
  const { signal } = new AbortController()
  const request = new PendingRequest('worker a:0', { timeoutMs: -1, signal })
  await request.promise.catch(() => undefined)
  assert.equal(getEventListeners(signal, 'abort'), [])
})

test('options of a request are looked at before anything is begun', () => {
  for (const good of [{}, { timeoutMs: 0 }, { timeoutMs: Number.POSITIVE_INFINITY }, { signal: null }])
    checkRequest(good)
  const bad = [null, 5, { timeoutMs: '5' }, { timeoutMs: Number.NaN }, { timeout: 5 }, { signal: 5 }, { signal: {} }]
  const isUsage = (error: Error) => error.name === 'UsageError'
  for (const options of bad) assert.throws(() => checkRequest(options as never), isUsage, inspect(options))
})

test('whatever is thrown has a text, also what throws when it is looked at', () => {
  const { proxy, revoke } = Proxy.revocable({}, {})
  revoke()
  const spiteful = (key: string) => Object.defineProperty(new Error('x'), key, { get: () => assert.unreachable(key) })
  const dark = [proxy, spiteful('message'), spiteful('stack'), spiteful('name'), spiteful('code'), Object.create(null)]
  for (const thrown of [...dark, null, undefined, 'text', Symbol('s'), 1n]) {
    for (const text of [messageOf(thrown), stackOf(thrown), codeOf(thrown), asError(thrown).message])
      assert.type(text, 'string')
    assert.instance(remoteErrorOf(thrown), RemoteError)
    packFailure(thrown)
  }
  assert.is(remoteErrorOf(new PeerError('ERR_REQUEST_TIMEOUT', 'x', false)).mayHaveBeenHandled, true) // a handler has run
})

test('two subscriptions to one subject are ready together, when the others have heard of it', async () => {
  const own = new Subscriptions()
  const told: InterestChange[] = []
  const { promise, resolve } = withResolvers()
  own.onChange = (change) => {
    told.push(change)
    return promise
  }
  const ready: string[] = []
  const subscribe = (name: string) => {
    const subscriber = { pattern: 'a.*', queue: '', handler: nothing, isOver: false }
    void own.add(subscriber).then(() => ready.push(name))
    return subscriber
  }
  const [one, two] = [subscribe('one'), subscribe('two')]
  await nextTurn()
  assert.equal([told, ready], [[{ adds: [' a.*'], drops: [] }], []])
  resolve()
  await nextTurn()
  assert.equal(ready, ['one', 'two'])
  subscribe('three')
  await nextTurn()
  assert.equal([told.length, ready], [1, ['one', 'two', 'three']])
  for (const subscriber of [one, two]) own.delete(subscriber)
  assert.is(told.length, 1)
})

test('of several handlers of a request one answers, and what fails in another is logged', async () => {
  const own = new Subscriptions()
  const rejected: unknown[] = []
  const note = (reason: unknown) => void rejected.push(reason)
  process.on('unhandledRejection', note)
  for (const handler of [() => 'answer', () => Promise.reject(new Error('on purpose'))])
    await own.add({ pattern: 'q', queue: '', handler, isOver: false })
  const audience = { subject: 'q', isForAll: true, queues: [] }
  assert.is(own.deliver(audience, 1, null as never, new Call(true, Number.POSITIVE_INFINITY)), 'answer')
  for (let n = 0; n < 3; n++) await nextTurn()
  process.off('unhandledRejection', note)
  assert.equal(rejected, [])
})

test.run()
