// Work that begins while a process already waits for other work: it ends when nothing is left, whatever began last.

import { once } from 'node:events'
import net from 'node:net'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { caseTest } from '../support/length.ts'
import { Client, inSandbox, type Sandbox, workersOf } from '../support/server.ts'
import { until } from '../support/until.ts'

/** `lead` does something at the very end, when nothing else is left in its process. */
const program = (lead: string) => `
  import { AsyncTcpConnection, Crontab, Timer, Worker } from 'millrace'
  const lead = new Worker('text://127.0.0.1:0', { name: 'lead' })
  const sink = new Worker({ name: 'sink' })
  sink.onMessage = async (from, message) => { await Timer.sleep(0.3); Worker.log('handled ' + message) }
  lead.onSendFail = sink.onSendFail = (error, message) => Worker.log('told ' + message + ': ' + error.message)
  const last = (release) => Timer.delay(0.3, () => { Worker.log('done'); release() })
  ${lead}
  Worker.runAll()`

/** Replaces the process of 'lead', which must leave nothing unfinished. */
async function replace(box: Sandbox): Promise<void> {
  await box.operate({ command: 'reload', names: ['lead'] })
  assert.not.match(box.log(), /unfinished|told/)
}

for (const [what, lead, seen] of [
  [
    'a message that a leader sends',
    `lead.onWorkerStart = () => Worker.onLeader('job', () => async () => { await Timer.sleep(0.1); sink.worker(0).send('it') })`,
    /handled it/,
  ],
  [
    'a hold that a leader takes',
    `lead.onWorkerStart = () => Worker.onLeader('job', () => async () => { await Timer.sleep(0.1); last(lead.hold('last')) })`,
    /done/,
  ],
  [
    'a message that onWorkerRetire sends, much later,',
    `lead.onWorkerRetire = async () => { await Timer.sleep(5.3); sink.worker(0).send('it') }`,
    /handled it/,
  ],
] as const)
  caseTest(what.includes('leader sends'))(`${what} at its end is waited for`, () =>
    inSandbox(async (box) => {
      await box.start(box.file('app.js', program(lead)))
      await replace(box)
      assert.match(box.log(), seen)
      await box.stop()
    }),
  )

for (const [what, end] of [
  ['of its own', ''],
  ['for all processes', 'singleton: true, '],
  ['that has been destroyed', ''],
] as const)
  caseTest(false)(`what a Crontab ${what} sends at the end of a tick is waited for`, () =>
    inSandbox(async (box) => {
      const lead = `lead.onWorkerStart = () => {
        const crontab = new Crontab('* * * * * *', async () => {
          Worker.log('tick')
          ${what.includes('destroyed') ? 'crontab.destroy()' : ''}
          await until
          await Timer.sleep(0.2)
          sink.worker(0).send('it of ' + process.pid)
        }, { ${end}name: 'c' })
        const until = new Promise((resolve) => lead.signal.addEventListener('abort', resolve))
      }`
      await box.start(box.file('app.js', program(lead)))
      await until(() => box.log().includes('tick'))
      await replace(box)
      assert.match(box.log(), /handled it of/)
      await box.stop('-g')
    }),
  )

caseTest(false)('what a client is given to send at the end of a job is sent', async () => {
  const upstream = net.createServer().listen(0, '127.0.0.1')
  await once(upstream, 'listening')
  const { port } = upstream.address() as net.AddressInfo
  try {
    await inSandbox(async (box) => {
      const lead = `lead.onWorkerStart = () => {
        const up = new AsyncTcpConnection('tcp://127.0.0.1:${port}', { maxSendBufferSize: 5e7 })
        up.connect()
        Worker.onLeader('job', () => async () => { await Timer.sleep(0.1); up.send(Buffer.alloc(2e7)) })
      }`
      const arrived = once(upstream, 'connection')
      await box.start(box.file('app.js', program(lead)))
      const [socket] = (await arrived) as [net.Socket]
      let received = 0
      socket.on('data', (bytes) => {
        received += bytes.length
      })
      socket.pause()
      const reloading = box.operate({ command: 'reload', names: ['lead'] })
      await until(async () => workersOf(await box.status()).some(({ work }) => work.includes('unsent')))
      socket.resume()
      await reloading
      await until(() => received === 2e7)
      assert.not.match(box.log(), /unfinished/)
      socket.destroy()
      await box.stop()
    })
  } finally {
    upstream.close()
  }
})

// The declared Worker has nothing to do for long when the last connection of the other one ends.
for (const [what, work, seen] of [
  ['a hold', `last(lead.hold('last'))`, /done/],
  ['a message', `sink.worker(0).send('it')`, /handled it/],
] as const)
  caseTest(what === 'a hold')(`${what} that begins with the end of an inner Worker's handler is waited for`, () =>
    inSandbox(async (box) => {
      const status = await box.start(
        box.file(
          'app.js',
          program(`lead.onWorkerStart = async () => {
            const inner = new Worker('text://127.0.0.1:0', { name: 'inner' })
            inner.onMessage = async (connection, line) => {
              connection.send('begun')
              await new Promise((resolve) => lead.signal.addEventListener('abort', resolve))
              await Timer.sleep(0.2)
              ${work}
              connection.close()
            }
            await inner.listen()
          }`),
        ),
      )
      const client = await Client.connect(Number(/\d+$/.exec(status.groups[0]?.inner[0] ?? '')?.[0]))
      assert.is(await client.ask('x'), 'begun')
      await replace(box)
      assert.match(box.log(), seen)
      client.close()
      await box.stop()
    }),
  )

test('an onWorkerStop that does not settle is named, while it is waited for and when its time was up', async () => {
  await inSandbox(async (box) => {
    const lead = `lead.drainTimeoutMs = 1500; lead.onWorkerStop = () => new Promise(() => {})`
    await box.start(box.file('app.js', program(lead)))
    const reloading = box.operate({ command: 'reload', names: ['lead'] })
    await until(async () => {
      return workersOf(await box.status()).some(({ state, work }) => state === 'draining' && work === 'onWorkerStop')
    })
    const { slots } = await reloading
    assert.is(slots[0]?.note, 'left onWorkerStop unfinished')
    assert.match(box.log(), /\[lead:0\] leaves with onWorkerStop unfinished\n/)
    await box.stop()
  })
})

test.run()
