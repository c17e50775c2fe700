// A process that leaves, and what it subscribes to at a Cluster then.

import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { drive } from '../support/driven.ts'
import { inCluster, withNats } from '../support/nats.ts'
import { Client, inSandbox } from '../support/server.ts'
import { until } from '../support/until.ts'

// A client of `serving` has it subscribe when it leaves, and stay until there is a file `end`.
const leaving = `
  const { existsSync } = await import('node:fs')
  const serving = new Worker('text://127.0.0.1:0', { name: 'serving' })
  const note = (subject) => (message) => console.error('--', subject, message, 'of', serving.incarnation)
  const subscribe = () => {
    cluster.subscribe('jobs', note('job'), { queue: 'q' })
    return cluster.subscribe('news', note('news')).ready
  }
  serving.onWorkerStart = subscribe
  serving.onMessage = async (connection) => {
    connection.send('waits')
    await new Promise((resolve) => serving.signal.addEventListener('abort', resolve))
    for (let n = 0; n < 10; n++) await new Promise(setImmediate) // it has left its queues
    await subscribe()
    connection.send('subscribed')
    while (!existsSync(new URL('./end', import.meta.url))) await Timer.sleep(0.01)
  }
`

test('a process that leaves joins no queue, and hears what is for all', () =>
  inSandbox((box) =>
    withNats(box, async (nats) => {
      const { groups } = await box.start(box.file('app.js', inCluster(nats.url, 'a', leaving)))
      const [port = 0, serving = 0] = ['driver', 'serving'].map((it) => groups.find(({ name }) => name === it)?.port)
      const notes = (pattern: RegExp) => box.log().match(pattern) ?? []
      const client = await Client.connect(serving)
      assert.is(await client.ask('wait'), 'waits')
      const reloaded = box.operate({ command: 'reload', names: ['serving'] })
      const met = async () => {
        assert.is(await client.line(), 'subscribed')
        await drive(
          port,
          `for (let n = 0; n < 40; n++) for (const subject of ['jobs', 'news']) state.cluster.publish(subject, n)`,
        )
        await until(() => notes(/-- job \d+ of/g).length === 40)
        await until(() => notes(/-- news \d+ of 1/g).length === 80) // as before, and since then
      }
      await Promise.all([reloaded, met().finally(() => box.file('end', ''))])
      client.close()
      assert.is(notes(/-- job \d+ of 2/g).length, 40)
      await box.stop()
    }),
  ))

test.run()
