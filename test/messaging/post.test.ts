// What a Cluster's sender is told is true of what was written to NATS. The connection is one that only keeps what is
// written to it.

import { test } from 'uvu'
import * as assert from 'uvu/assert'
import type { SendError } from '../../src/errors.ts'
import { now } from '../../src/loop/clock.ts'
import { deadlines } from '../../src/loop/deadlines.ts'
import { TOLD_IN_ONE_TURN } from '../../src/messaging/losses.ts'
import { Letter } from '../../src/messaging/nats/letter.ts'
import type { NatsLink } from '../../src/messaging/nats/nats-link.ts'
import { Post } from '../../src/messaging/nats/post.ts'
import { nothing } from '../../src/nothing.ts'
import { nextTurn, until, within } from '../support/until.ts'

interface Told {
  readonly message: unknown
  readonly code: string
  readonly may: boolean
}

/** A Post on a connection that only keeps what is written, and what it has told. */
function posted({ isSettled = true, waitMs = 10_000 } = {}) {
  const written: unknown[] = []
  const link = {
    isSettled,
    isUp: true,
    maxPayload: 1000,
    subscribe: nothing,
    publish: (subject: string) => void written.push(subject),
    flush: () => Promise.resolve(true),
  }
  const told: Told[] = []
  const tell = (error: unknown, message: unknown) => {
    const { code, mayHaveBeenHandled } = error as SendError
    told.push({ message, code, may: mayHaveBeenHandled })
  }
  const post = new Post(link as unknown as NatsLink, 'inbox', {
    maxPendingMessages: 100_000,
    maxPendingBytes: 1_000_000,
    waitMs,
    onSendFail: (error, { message }) => tell(error, message),
    onDrain: nothing,
    look: nothing,
  })
  const letter = (subject: string, message: unknown) =>
    new Letter(`a worker of ${subject}`, subject, message, Buffer.from('1'), null, null)
  return { post, link, written, told, tell, letter }
}

test('what expires at the moment at which a connection may be used is told as not handled, and not written', async () => {
  const { post, link, written, told, tell, letter } = posted({ isSettled: false })
  post.send(letter('a', 'message'), 20)
  post.request(letter('a', 'request'), { timeoutMs: 20 }).promise.catch((error) => tell(error, 'request'))
  deadlines.after(20, () => {
    link.isSettled = true
    post.up()
  })
  await until(() => told.length === 2)
  assert.equal(told, [
    { message: 'message', code: 'ERR_REQUEST_TIMEOUT', may: false },
    { message: 'request', code: 'ERR_REQUEST_TIMEOUT', may: false },
  ])
  assert.equal(written, [])
  assert.is(post.count, 0)
  post.close()
})

test('what NATS does not permit is the newest on its subject, of those still under way', async () => {
  const { post, told, letter } = posted()
  const aborted = new AbortController()
  for (const [n, subject] of ['a', 'b', 'a', 'a', 'b'].entries()) post.send(letter(subject, n), 30_000)
  post.request(letter('a', 5), { signal: aborted.signal }).promise.catch(nothing)
  aborted.abort()
  for (const subject of ['a', 'b', 'c', 'a', 'a', 'a', 'b']) post.forbidden(subject)
  await until(() => told.length === 5)
  assert.equal(
    told.map(({ message, code, may }) => `${message} ${code} ${may}`),
    [3, 4, 2, 0, 1].map((n) => `${n} ERR_NATS_PERMISSION false`),
  )
  assert.is(post.count, 0)
  post.send(letter('a', 6), 30_000)
  post.forbidden('a')
  await until(() => told.length === 6)
  post.close()
})

test('tens of thousands that NATS does not permit do not stop the loop', async () => {
  const COUNT = 20_000
  for (const kind of ['send', 'publish'] as const) {
    const { post, told, letter } = posted()
    for (let n = 0; n < COUNT; n++) {
      if (kind === 'send') post.send(letter('a', n), 30_000)
      else post.publish(letter('a', n))
    }
    const began = now()
    for (let n = 0; n < COUNT; n++) post.forbidden('a')
    const tookMs = now() - began
    await until(() => told.length === COUNT)
    assert.ok(tookMs < 2000, `${kind}: ${tookMs} ms`) // 0.2 s; with a search for each it took 11 s
    post.close()
  }
})

/** How many were told in one turn of the loop, at most, until there are `count`. */
async function mostInOneTurn(told: readonly unknown[], count: number): Promise<number> {
  let most = 0
  for (let before = told.length; told.length < count; before = told.length) {
    await nextTurn()
    most = Math.max(most, told.length - before)
  }
  return most
}

test('what is lost with a connection, or for want of one, is told in slices', async () => {
  const COUNT = 5000
  for (const isSettled of [true, false]) {
    const { post, told, letter } = posted({ isSettled, waitMs: 20 })
    for (let n = 0; n < COUNT; n++) {
      const one = letter(n % 10 === 0 ? `a.${n}` : 'a', n)
      if (n % 10 === 0) post.publish(one)
      else post.send(one, 30_000)
    }
    if (isSettled) post.down()
    const most = await within(10_000, mostInOneTurn(told, COUNT))
    assert.ok(most <= 2 * TOLD_IN_ONE_TURN, `${most} in one turn`)
    assert.equal([...new Set(told.map(({ code, may }) => `${code} ${may}`))], [`ERR_PEER_LOST ${isSettled}`])
    const those = told.map(({ message }) => message as number).filter((n) => n % 10 !== 0)
    assert.equal(
      those,
      those.toSorted((one, two) => one - two),
    ) // in the order in which they were sent
    assert.is(post.count, 0)
    post.close()
  }
})

test('who sends again what this process could not take with it stops nothing', async () => {
  const { post, told, letter } = posted()
  post.send(letter('a', 0), 30_000)
  post.close()
  await until(() => told.length === 1)
  for (let n = 0; n < 100; n++) post.send(letter('a', n), 30_000)
  await until(() => told.length === 101)
  assert.equal([...new Set(told.slice(1).map(({ code, may }) => `${code} ${may}`))], ['ERR_PEER_LOST false'])
})

test.run()
