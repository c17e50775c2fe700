// A serial worker runs handlers of messages from other workers one at a time, however the messages come: by name, by
// subject, from other servers. What it asks itself does not wait for the handler that asks.

import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { drive } from '../support/driven.ts'
import { inCluster, startInCluster, withNats } from '../support/nats.ts'
import { inSandbox } from '../support/server.ts'
import { until } from '../support/until.ts'

const handlers = `
  const jobs = new Worker({ name: 'jobs', serial: true })
  const began = []
  let running = 0
  let most = 0
  const job = async (message) => {
    began.push(message)
    most = Math.max(most, ++running)
    await Timer.sleep(0.005)
    if (message === 'publish') for (const where of [Channel, cluster]) where.publish('job', 'own')
    if (message === 'ask') began.push(await Channel.request('ask', 1), await cluster.request('ask', 1))
    running--
  }
  jobs.onMessage = (from, message) => (message === 'seen' ? { began: began.splice(0), most } : job(message))
  jobs.onWorkerStart = () => {
    for (const where of [Channel, cluster]) {
      where.subscribe('job', job, { queue: 'all' })
      where.subscribe('ask', () => 'an answer')
    }
  }
`

test('a serial worker runs handlers one at a time, also those of subjects, and may ask itself', () =>
  inSandbox((box) =>
    withNats(box, async (nats) => {
      const port = await startInCluster(box, inCluster(nats.url, 'a', handlers), 2)
      const run = <T>(code: string) => drive<T>(port, code)
      await until(() => run(`return Channel.request('ask', 1).then(() => true, () => false)`)) // it is known here
      await run(`
        for (let n = 0; n < 9; n += 3) {
          groups.jobs.worker(0).send(n)
          Channel.publish('job', n + 1)
          groups.jobs.worker(0).send(n + 2)
        }
        for (let n = 0; n < 3; n++) state.cluster.publish('job', 'cluster')
        for (const message of ['publish', 'ask']) groups.jobs.worker(0).send(message)`)
      const began: unknown[] = []
      let most = 0
      await until(async () => {
        const seen = await run<{ began: unknown[]; most: number }>(`return groups.jobs.worker(0).request('seen')`)
        began.push(...seen.began)
        most = seen.most
        return began.length === 18
      })
      assert.is(most, 1)
      assert.equal(
        began.filter((one) => typeof one === 'number'),
        [0, 1, 2, 3, 4, 5, 6, 7, 8], // in the order in which one process has sent them
      )
      assert.equal(began.filter((one) => typeof one === 'string').sort(), [
        'an answer',
        'an answer',
        'ask',
        'cluster',
        'cluster',
        'cluster',
        'own',
        'own',
        'publish',
      ])
      assert.equal(await run(`return state.failed`), [])
      await box.stop()
    }),
  ))

test.run()
