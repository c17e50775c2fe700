// Several subscribers to one subject: who of a queue gets what is published, and what it costs if they are many.

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

test('a member of a queue that is unsubscribed by who is called before it: another member gets the message', async () => {
  const here = new Host(ROOM)
  const { mesh, close } = meshOf(here)
  const got: unknown[] = []
  const count = 20 // at random each of the two is the one that would have got it
  for (let n = 0; n < count; n++) {
    const [told, asked] = [`told.${n}`, `asked.${n}`]
    for (const subject of [told, asked]) {
      const end = subscribed(subject, 'q', () => 'the first')
      subscribed(subject, '', end)
      subscribed(subject, 'q', (message) => {
        got.push(message)
        return 'the second'
      })
    }
    mesh.hub.publish(told, n)
    assert.is(await mesh.hub.request(asked, n, {}), 'the second')
  }
  await until(() => mesh.unsettled === 0)
  assert.is(got.length, 2 * count)
  assert.equal(here.failed, [])
  close()
})

/** Publishes each to its end before the next. Returns how many each process has handled, by subject or queue. */
async function sharesOf(patterns: readonly string[], queues: readonly string[], rounds: number) {
  const remote = meshOf(new Host(ROOM))
  const { mesh, close } = meshOf(new Host(ROOM), remote.address)
  const shares = new Map<string, number>()
  let [handled, published] = [0, 0]
  const ends = patterns.flatMap((pattern) =>
    queues.flatMap((queue) =>
      [0, 1].map((member) => {
        const handler: SubjectHandler = (_message, { from }) => {
          const key = [pattern, queue, from === mesh.self ? 'here' : 'there', member].join(' ')
          shares.set(key, (shares.get(key) ?? 0) + 1)
          handled++
        }
        return subscribed(pattern, queue, handler)
      }),
    ),
  )
  for (let n = 0; n < rounds; n++)
    for (const pattern of patterns) {
      mesh.hub.publish(pattern, n)
      published += queues.length
      await until(() => handled === published && mesh.unsettled === 0)
    }
  for (const end of ends) end()
  close()
  remote.close()
  return shares
}

for (const [title, patterns, queues] of [
  ['two queues of one subject', ['order'], ['mail', 'audit']],
  ['two subjects, one after the other', ['a', 'b'], ['q']],
] as const)
  test(`of ${title}, each member in each process has its share, though none has anything to do in between`, async () => {
    const shares = await sharesOf(patterns, queues, 60)
    assert.is(shares.size, 2 * 4, JSON.stringify([...shares]))
    for (const share of shares.values()) assert.ok(share >= 2, JSON.stringify([...shares]))
  })

test.run()
