// What a serial worker has received over NATS and not begun, when who it was for has unsubscribed, or the worker leaves.

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

const slow = `
  const slow = new Worker({ name: 'slow', serial: true, drainTimeoutMs: 500 })
  slow.onMessage = () => undefined
  slow.onWorkerStart = () => {
    const hold = (message) => new Promise(() => Worker.log('begins ' + message))
    return Promise.all(['jobs', 'mails'].map((subject) => cluster.subscribe(subject, hold, { queue: 'w' }).ready))
  }
`

test('what a serial worker has not begun when it has to leave is told: to the sender, or in the log if that does not wait', () =>
  inSandbox((box) =>
    withNats(box, async (nats) => {
      const port = await startInCluster(box, inCluster(nats.url, 'a', slow), 2)
      const run = <T>(code: string) => drive<T>(port, code)
      await run(`for (const n of [1, 2, 3]) state.cluster.publish('jobs', n)`)
      await until(() => box.log().includes('begins 1'))
      await run(`
        state.cluster.publish('mails', 4)
        state.cluster.group('slow').worker(0, 'a').send(5)
        state.asked = state.cluster.request('jobs', 6).catch(({ code, mayHaveBeenHandled }) => [code, mayHaveBeenHandled])
        await state.cluster.request('nobody', 0).catch(() => 0)`) // NATS has passed on what was sent before
      assert.is((await box.command('reload', '-g', 'slow')).code, 0)
      assert.equal(await run(`return state.asked`), ['ERR_PEER_LOST', false])
      const failed = await until(async () => (await run<unknown[][]>(`return state.failed`))[0])
      assert.equal(failed.slice(0, 3), ['ERR_PEER_LOST', false, 5])
      assert.match(box.log(), /cluster shop: dropped, as this process leaves, on jobs, mails: 3 not begun/)
      assert.not.match(box.log(), /begins [2-6]|an answer is lost/)
      await box.stop()
    }),
  ))

test.run()
