// A handler that throws what it was told of a message of its own: its message has been handled all the same.

import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { RemoteError } from '../../src/errors.ts'
import { type Subscriber, subscriptions } from '../../src/messaging/subscriptions.ts'
import { Host, meshOf } from '../support/mesh.ts'
import { until } from '../support/until.ts'

function subscriber(pattern: string, queue: string, handler: (message: unknown) => unknown): Subscriber {
  return { pattern, queue, handler, isOver: false }
}

for (const serial of [false, true])
  test(`a handler that fails as its own request does has handled its message${serial ? ', also in a serial worker' : ''}`, async () => {
    const host = new Host({ serial })
    let handled = 0
    /** Asks a member of a queue that unsubscribes meanwhile. */
    const handler = async () => {
      handled++
      const member = subscriber('jobs', 'q', () => 'done')
      void subscriptions.add(member)
      const answer = there.mesh.hub.request('jobs', 1, {})
      subscriptions.delete(member)
      return await answer
    }
    host.onMessage = handler
    const asked = subscriber('ask', '', handler)
    void subscriptions.add(asked)
    const sender = new Host()
    const there = meshOf(host)
    const here = meshOf(sender, there.address)
    subscriptions.onChange = async (change) => there.mesh.hub.ownChanged(change)
    const worker = here.mesh.outbox('there', 0)

    worker.send('message')
    await until(() => here.mesh.unsettled === 0)
    assert.is(host.counters.handlerErrors, 1)
    const requests = [
      worker.request('request', {}).promise,
      here.mesh.hub.request('ask', 1, {}),
      there.mesh.hub.request('ask', 1, {}),
    ]
    for (const outcome of await Promise.allSettled(requests)) {
      if (outcome.status === 'fulfilled') throw new Error('it should have failed')
      const { code, mayHaveBeenHandled } = outcome.reason
      assert.equal([outcome.reason instanceof RemoteError, code, mayHaveBeenHandled], [true, 'ERR_NO_RESPONDERS', true])
    }
    assert.is(handled, 5) // who asks is asked as well, in this process
    assert.equal(sender.failed, [])
    subscriptions.delete(asked)
    for (const { close } of [here, there]) close()
  })

test.run()
