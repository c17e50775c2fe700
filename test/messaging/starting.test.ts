// Messages and a process that is not ready yet: what is sent to it waits until it is, what is published goes to others.

import { rmSync } from 'node:fs'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { addon } from '../../src/addon.ts'
import { drive, startDriven } from '../support/driven.ts'
import { caseTest } from '../support/length.ts'
import { inCluster, startInCluster, withNats } from '../support/nats.ts'
import { inSandbox, type Sandbox } from '../support/server.ts'
import { until } from '../support/until.ts'

// While there is a file `hold`, a process of `slow` goes on starting.
const slow = `
  const { existsSync } = await import('node:fs')
  const slow = new Worker({ name: 'slow' })
  let isReady = false
  const note = (...words) => console.error(...words, isReady ? 'when ready' : 'too early')
  const started = async () => {
    console.error('slow starts', slow.incarnation)
    while (existsSync(new URL('./hold', import.meta.url))) await Timer.sleep(0.01)
    isReady = true
  }
`

const subscribing = `
  ${slow}
  driver.onWorkerStart = () => { isReady = true }
  cluster.subscribe('jobs', (message) => note('job', message), { queue: 'q' })
  slow.onWorkerStart = async () => {
    await cluster.subscribe('news', (message) => note('news', message)).ready
    await started()
  }
`

/** The new process of a reload says hello to `to`, which answers at once. */
const asking = (to: string) => `
  ${slow}
  slow.onMessage = (from, message) => { note(message); return 'done' }
  slow.onSendFail = driver.onSendFail = (error, message) => console.error('told of', message, error.message)
  driver.onWorkerMessage = async (from) => {
    from.send('sent')
    console.error('hello handled')
    console.error('asked and ' + await from.request('asked').catch(({ message }) => message))
  }
  slow.onWorkerStart = () => {
    if (slow.incarnation > 1) ${to}.send('hello')
    return started()
  }
`

/** Begins a reload of `slow`, calls `meanwhile` when its new process starts, and then lets it become ready. */
async function whileStarting(box: Sandbox, meanwhile: () => unknown): Promise<void> {
  const hold = box.file('hold', '')
  const reloaded = box.operate({ command: 'reload', names: ['slow'] })
  const met = async () => {
    await until(() => box.log().includes('slow starts 2'))
    await meanwhile()
  }
  await Promise.all([reloaded, met().finally(() => rmSync(hold))])
}

function lines(box: Sandbox, pattern: RegExp): readonly string[] {
  return box.log().match(pattern) ?? []
}

test('a process takes no messages of its subscriptions at a Cluster before it is ready', () =>
  inSandbox((box) =>
    withNats(box, async (nats) => {
      const port = await startInCluster(box, inCluster(nats.url, 'a', subscribing), 2)
      const publish = `for (let n = 0; n < 40; n++) for (const subject of ['jobs', 'news']) state.cluster.publish(subject, n)`
      await whileStarting(box, async () => {
        await until(() => lines(box, /connected to NATS/g).length === 3)
        await drive(port, publish)
        await until(() => lines(box, /job \d+/g).length === 40)
        await until(() => lines(box, /news \d+/g).length >= 40)
      })
      await drive(port, publish)
      await until(() => lines(box, /job \d+/g).length === 80)
      await until(() => lines(box, /news \d+/g).length >= 80)
      assert.equal(lines(box, /.* too early/g), [])
      await box.stop()
    }),
  ))

async function isAnswered(box: Sandbox): Promise<void> {
  await whileStarting(box, () => until(() => box.log().includes('hello handled')))
  await until(() => /sent when ready/.test(box.log()) && /asked and done/.test(box.log()))
  assert.equal(lines(box, /told of .*|.* too early/g), [])
}

for (const engine of addon().newEngine === null ? ['node'] : ['native', 'node'])
  caseTest(engine === 'native')(`${engine}: what answers a process that is not ready reaches it when it is`, () =>
    inSandbox(async (box) => {
      await startDriven(box, asking(`driver.worker(0)`), '--engine', engine)
      await isAnswered(box)
      await box.stop()
    }),
  )

test('so does what answers one of a Cluster', () =>
  inSandbox((box) =>
    withNats(box, async (nats) => {
      await startInCluster(box, inCluster(nats.url, 'a', asking(`cluster.group('driver').any()`)), 2)
      await isAnswered(box)
      await box.stop()
    }),
  ))

test.run()
