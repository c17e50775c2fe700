// What a process that leaves sends to its own group, where nobody follows before it has gone: it does not wait for that.

import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { caseTest, longTest } from '../support/length.ts'
import { Client, inSandbox, portOf, type Sandbox, succeeded } from '../support/server.ts'
import { until } from '../support/until.ts'

// Each step of a job sends the next one: to the other worker, or to itself if there is no other. A message waits longer than any of these tests may take.
const app = (reloadMode: string, count: number) => `
  import { appendFileSync } from 'node:fs'
  import { Timer, Worker } from 'millrace'
  const note = (...words) => appendFileSync(new URL('./notes', import.meta.url), words.join(' ') + '\\n')
  const jobs = new Worker({ name: 'jobs', count: ${count}, reloadMode: '${reloadMode}', mailboxTimeoutMs: 60_000 })
  jobs.onSendFail = (error, step) => note('told', step, error.code, error.mayHaveBeenHandled)
  jobs.onMessage = async (from, step) => {
    note('handled', step)
    await Timer.sleep(0.02)
    jobs.worker(step % jobs.count).send(step + 1)
  }
  jobs.onWorkerStart = () => { if (jobs.id === 0) jobs.worker(0).send(1) }
  Worker.runAll()
`

function notes(box: Sandbox): string {
  return readFileSync(join(box.directory, 'notes'), 'utf8')
}

async function begin(box: Sandbox, reloadMode: string, count: number): Promise<void> {
  box.file('notes', '')
  await box.start(box.file('app.js', app(reloadMode, count)))
  await until(() => notes(box).includes('handled 2'))
}

async function inTime(operation: Promise<unknown>): Promise<void> {
  const began = performance.now()
  await operation
  const elapsed = performance.now() - began
  assert.ok(elapsed < 8_000, `it took ${elapsed} ms`)
}

test('at a reload, stop first, a process does not wait for the one that comes after it; what it has sent it is told', () =>
  inSandbox(async (box) => {
    await begin(box, 'stop-first', 1)
    await inTime(box.operate({ command: 'reload' }))
    assert.match(notes(box), /^told \d+ ERR_PEER_LOST false$/m)
    await box.stop()
  }))

longTest('at a restart or a stop of a group its processes do not wait for each other', () =>
  inSandbox(async (box) => {
    await begin(box, 'start-first', 2)
    for (const command of ['restart', 'stop'] as const) {
      box.file('notes', '')
      await inTime(box.command(command, '-g', 'jobs'))
      assert.match(notes(box), /^told \d+ ERR_PEER_LOST false$/m)
    }
    await box.stop()
  }),
)

// As a chat does: who is left behind is told that somebody has gone.
const chat = (reloadMode: string) => `
  import { Channel, Worker } from 'millrace'
  const chat = new Worker('text://127.0.0.1:0', { name: 'chat', count: 3, reloadMode: '${reloadMode}', mailboxTimeoutMs: 60_000 })
  chat.onWorkerStart = () => Channel.subscribe('room', () => {})
  chat.onMessage = (connection, line) => {
    connection.send(line + ' ' + chat.id)
    if (line === 'slow') return new Promise((resolve) => setTimeout(resolve, 500))
  }
  chat.onClose = () => Channel.publish('room', 'bye')
  chat.onSendFail = () => {}
  Worker.runAll()
`

/** Connections to each of the three; the one to the last is at work, so that its process has more to say when others have gone. */
async function visit(box: Sandbox): Promise<Client[]> {
  const port = portOf(await box.status())
  const clients: Client[] = []
  const ids = new Set<string>()
  await until(async () => {
    const client = await Client.connect(port)
    clients.push(client)
    ids.add((await client.ask('x')).split(' ')[1] as string)
    return ids.size === 3
  }, 20_000)
  const last = clients.at(-1) as Client
  assert.match(await last.ask('slow'), /^slow/)
  return clients
}

for (const [what, reloadMode, command] of [
  ['a restart', 'start-first', ['restart', 'chat', '-g']],
  ['an upgrade, stop first,', 'stop-first', ['upgrade']],
] as const)
  caseTest(what === 'a restart')(
    `at ${what} what a process sends when siblings have gone already is not waited for`,
    () =>
      inSandbox(async (box) => {
        await box.start(box.file('app.js', chat(reloadMode)))
        const clients = await visit(box)
        await inTime(box.command(...command).then(succeeded))
        assert.not.match(box.log(), /unfinished/)
        for (const client of clients) client.close()
        await box.stop()
      }),
  )

test.run()
