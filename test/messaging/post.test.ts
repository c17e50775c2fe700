// What a Cluster's sender is told is true of what was written to NATS. The connection is one that only keeps what is
// written to it.

import { test } from 'uvu'
import * as assert from 'uvu/assert'
import type { SendError } from '../../src/errors.ts'
import { deadlines } from '../../src/loop/deadlines.ts'
import type { NatsLink } from '../../src/messaging/nats/nats-link.ts'
import { Letter, Post } from '../../src/messaging/nats/post.ts'
import { nothing } from '../../src/nothing.ts'
import { until } from '../support/until.ts'

test('what expires at the moment at which a connection may be used is told as not handled, and not written', async () => {
  const written: unknown[] = []
  const link = {
    isSettled: false,
    isUp: true,
    maxPayload: 1000,
    subscribe: nothing,
    publish: (subject: string) => void written.push(subject),
    flush: () => Promise.resolve(true),
  }
  const told: unknown[] = []
  const tell = (kind: string) => (error: unknown) =>
    told.push([kind, (error as SendError).code, (error as SendError).mayHaveBeenHandled])
  const post = new Post(link as unknown as NatsLink, 'inbox', {
    maxPendingMessages: 10,
    maxPendingBytes: 1000,
    waitMs: 10_000,
    onSendFail: tell('message'),
    onDrain: nothing,
    look: nothing,
  })
  const letter = (subject: string) => new Letter('a worker', subject, 1, Buffer.from('1'), null, null)
  post.send(letter('message'), 20)
  post.request(letter('request'), { timeoutMs: 20 }).promise.catch(tell('request'))
  deadlines.after(20, () => {
    link.isSettled = true
    post.up()
  })
  await until(() => told.length === 2)
  assert.equal(told, [
    ['message', 'ERR_REQUEST_TIMEOUT', false],
    ['request', 'ERR_REQUEST_TIMEOUT', false],
  ])
  assert.equal(written, [])
  assert.is(post.count, 0)
  post.close()
})

test.run()
