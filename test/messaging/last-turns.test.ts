// What a process sends in its very last turns, when it has told its losses and waits for its master to have read its last
// message: it is handled, or its sender is told, nevertheless.

import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { longTest } from '../support/length.ts'
import { withNats } from '../support/nats.ts'
import { reload } from '../support/reload.ts'
import { inSandbox, type Sandbox } from '../support/server.ts'

// From when it begins to leave until it has ended, `sender` sends one of each kind in each turn of its loop.
const app = (kinds: string, more = '') => `
  import { appendFileSync } from 'node:fs'
  import { Channel, Cluster, Worker } from 'millrace'
  const report = (what) => appendFileSync(new URL('./reports', import.meta.url), JSON.stringify(what) + '\\n')
  const sent = [], settled = [], handled = []
  const sender = new Worker({ name: 'sender', drainTimeoutMs: 300 })
  const receiver = new Worker({ name: 'receiver', reloadable: false })
  ${more}
  const name = (message) => message.kind + ' ' + process.pid + ' ' + message.n
  const told = (error, message) => settled.push(name(message))
  sender.onSendFail = receiver.onSendFail = told
  const asked = (message, answer) => {
    const settle = () => void settled.push(name(message))
    answer.then(settle, settle)
  }
  const kinds = { ${kinds} }
  const take = (message) => void handled.push(message.by)
  receiver.onMessage = (from, message) => take(message)
  receiver.onWorkerStart = () => void Channel.subscribe('news', take)
  sender.onWorkerStart = async () => {
    await Channel.subscribe('own', () => 'answer').ready
    const send = (n) => {
      for (const [kind, post] of Object.entries(kinds)) {
        const message = { kind, n }
        sent.push(message.by = name(message))
        post(message)
      }
      setImmediate(send, n + 1)
    }
    sender.signal.addEventListener('abort', () => send(0))
  }
  process.on('exit', () => report({ sent, settled, handled }))
  Worker.runAll()
`

interface Report {
  readonly sent: readonly string[]
  readonly settled: readonly string[]
  readonly handled: readonly string[]
}

/** Runs it with one reload; both processes of the sender have ended then. Returns what is unaccounted for, and of how many. */
async function unaccounted(box: Sandbox, module: string): Promise<[string[], number]> {
  await box.start(box.file('app.js', module))
  await reload(box)
  await box.stop('-g') // the receiver, which has more time, outlives the sender
  const lines = readFileSync(join(box.directory, 'reports'), 'utf8').trim().split('\n')
  const reports = lines.map((line) => JSON.parse(line) as Report)
  const known = new Set(reports.flatMap(({ settled, handled }) => [...settled, ...handled]))
  const sent = reports.flatMap((report) => report.sent)
  return [sent.filter((one) => !known.has(one)), sent.length]
}

test('messages and requests, by name and by subject, to others and to itself', () =>
  inSandbox(async (box) => {
    const kinds = `
      send: (message) => receiver.worker(0).send(message),
      request: (message) => asked(message, receiver.worker(0).request(message)),
      publish: (message) => Channel.publish('news', message),
      own: (message) => asked(message, Channel.request('own', message)),`
    const [lost, count] = await unaccounted(box, app(kinds))
    assert.ok(count > 100)
    assert.equal(lost, [])
  }))

longTest('over NATS', () =>
  inSandbox((box) =>
    withNats(box, async ({ url }) => {
      const kinds = `
        send: (message) => cluster.group('receiver').any().send(message),
        request: (message) => asked(message, cluster.group('receiver').any().request(message)),`
      const more = `
        const cluster = new Cluster('shop', { nats: '${url}' })
        cluster.onSendFail = (error, message) => told(error, message)`
      const [lost, count] = await unaccounted(box, app(kinds, more))
      assert.ok(count > 100)
      assert.equal(lost, [])
    }),
  ),
)

test.run()
