// Several subscribers to one subject: what it costs if they are many.

import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { type SubjectHandler, type Subscriber, subscriptions } from '../../src/messaging/subscriptions.ts'
import { Host, meshOf } from '../support/mesh.ts'
import { until } from '../support/until.ts'

const ROOM = { maxMailboxMessages: 100 }

function subscribed(pattern: string, queue: string, handler: SubjectHandler): () => void {
  const one: Subscriber = { pattern, queue, handler, isOver: false }
  void subscriptions.add(one)
  return () => subscriptions.delete(one)
}

test('a message for very many subscribers whose handlers are asynchronous holds the loop for no longer than that takes', async () => {
  const { mesh, close } = meshOf(new Host(ROOM))
  const count = 20_000
  let [began, called] = [0, 0]
  const handler = async () => {
    if (called++ === 0) began = performance.now()
  }
  const ends = Array.from({ length: count }, () => subscribed('all', '', handler))
  mesh.hub.publish('all', 1)
  await until(() => called === count)
  const elapsed = performance.now() - began
  assert.ok(elapsed < 2000, `it took ${elapsed} ms`) // 30 ms; if each cost by the number of those before it, 6,000
  for (const end of ends) end()
  await until(() => mesh.mailbox.load === 0)
  close()
})

test.run()
