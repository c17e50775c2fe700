// What a serial worker has received over NATS and not begun, when who it was for has unsubscribed.

import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { drive } from '../support/driven.ts'
import { inCluster, startInCluster, withNats } from '../support/nats.ts'
import { inSandbox } from '../support/server.ts'
import { until } from '../support/until.ts'

// The driver holds the first job that it is given, and unsubscribes when it ends that.
const queues = `
  driver.serial = true
  const got = state.got = []
  const one = new Worker({ name: 'asking' })
  one.onMessage = async (from, subject) => {
    if (subject === 'outcome') return state.asked
    state.asked = cluster.request(subject, 'asked', { timeoutMs: 2000 }).catch(({ code, mayHaveBeenHandled }) => [code, mayHaveBeenHandled])
    await cluster.request('nobody', 0).catch(() => 0) // NATS has passed on what was sent before
  }
  const subscribe = (subject, options) => {
    const held = new Promise((resolve) => { state.end = resolve })
    state.jobs = cluster.subscribe(subject, (message) => { got.push(message); return held }, options)
    return state.jobs.ready
  }
  state.subscribe = subscribe
`

test('a serial worker that has unsubscribed gets no more of what waits for its turn; what was for one of a queue is told', () =>
  inSandbox((box) =>
    withNats(box, async (nats) => {
      const port = await startInCluster(box, inCluster(nats.url, 'a', queues), 2)
      const run = <T>(code: string) => drive<T>(port, code)
      for (const [subject, options] of [
        ['jobs', `{ queue: 'w' }`],
        ['news', '{}'],
      ] as const) {
        await run(
          `await state.subscribe('${subject}', ${options}); for (let n = 0; n < 4; n++) state.cluster.publish('${subject}', n)`,
        )
        await run(`return groups.asking.any().request('${subject}')`)
        await run(`return state.cluster.request('nobody', 0).catch(() => 0)`) // it has all of that
        await run(`state.jobs.unsubscribe(); state.end()`)
        const outcome = subject === 'jobs' ? ['ERR_NO_RESPONDERS', false] : ['ERR_REQUEST_TIMEOUT', true]
        assert.equal(await run(`return groups.asking.any().request('outcome')`), outcome)
        assert.equal(await run(`return state.got.splice(0)`), [0])
      }
      await until(() => /cluster shop: dropped, on jobs: who it was for, of queue w, has unsubscribed/.test(box.log()))
      assert.not.match(box.log(), /dropped, on news/)
      await box.stop()
    }),
  ))

test.run()
