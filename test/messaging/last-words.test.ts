// What `onClose` sends when a process closes its connections at the end of its time: it leaves, or its sender is told.

import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { addon } from '../../src/addon.ts'
import { caseTest } from '../support/length.ts'
import { reload } from '../support/reload.ts'
import { Client, inSandbox, portOf, type Sandbox } from '../support/server.ts'
import { until } from '../support/until.ts'

// Each connection has a handler that does not end: with 'wait' for nothing, with 'ask' for an answer that never comes.
const app = `
  import { appendFileSync } from 'node:fs'
  import { Channel, Worker } from 'millrace'
  Worker.stopTimeout = 0.5
  const note = (...words) => appendFileSync(new URL('./notes', import.meta.url), words.join(' ') + '\\n')
  const chat = new Worker('text://127.0.0.1:0', { name: 'chat', drainTimeoutMs: 300 })
  const log = new Worker({ name: 'log', reloadable: false })
  log.onWorkerStart = () => Channel.subscribe('left', (message) => note('handled', message))
  log.onMessage = (from, message) => (message === 'stuck' ? new Promise(() => {}) : note('handled', message))
  chat.onSendFail = log.onSendFail = (error, message) => note('told', message, error.mayHaveBeenHandled)
  chat.onMessage = async (connection, line) => {
    note('begun')
    if (line === 'ask') await log.worker(0).request('stuck').catch(() => connection.send('sorry'))
    await new Promise(() => {})
  }
  chat.onClose = () => {
    log.worker(0).send('sent')
    Channel.publish('left', 'published')
    log.worker(0).request('asked').then(() => note('answered', 'asked'), (error) => note('told', 'asked', error.mayHaveBeenHandled))
  }
  Worker.runAll()
`

function notes(box: Sandbox): string[][] {
  const lines = readFileSync(join(box.directory, 'notes'), 'utf8').trim().split('\n')
  return lines.map((line) => line.split(' '))
}

function begun(box: Sandbox): boolean {
  return notes(box).some(([what]) => what === 'begun')
}

function handled(box: Sandbox): unknown[] {
  return notes(box).flatMap(([what, word]) => (what === 'handled' ? word : []))
}

/** What has neither been handled, nor told. A publish may have nobody any more to go to. */
function unaccounted(box: Sandbox): string[] {
  const all = notes(box)
  return ['asked', 'sent'].filter(
    (word) => !all.some(([what, about]) => about === word && (what === 'handled' || what === 'told')),
  )
}

for (const engine of addon().sys === null ? ['node'] : ['native', 'node']) {
  const isEveryDay = engine === 'native'
  for (const line of ['wait', 'ask']) {
    caseTest(isEveryDay || line === 'wait')(
      `${engine}: a reload that closes connections (handlers ${line}) lets onClose send to who lives on, and then a stop tells it`,
      () =>
        inSandbox(async (box) => {
          box.file('notes', '')
          const port = portOf(await box.start(box.file('app.js', app), '--engine', engine))
          const client = await Client.connect(port)
          client.send(line)
          await until(() => begun(box))
          await reload(box)
          await until(() => handled(box).length === 3)
          assert.equal(handled(box).sort(), ['asked', 'published', 'sent'])
          assert.ok(notes(box).some(([what]) => what === 'answered'))
          if (line === 'ask') assert.is(await client.line(), 'sorry')
          box.file('notes', '')
          const second = await Client.connect(port)
          second.send(line)
          await until(() => begun(box))
          await box.stop()
          assert.equal(unaccounted(box), [])
        }),
    )
  }
}

test.run()
