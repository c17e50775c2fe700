// What a master says to a process that still loads its role: nothing of it is lost.

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import type { Socket } from 'node:net'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import type { ToChild, WorkerBoot } from '../../src/process/messages.ts'
import { inSandbox, startFile } from '../support/server.ts'
import { within } from '../support/until.ts'

test('a worker that is told to stop in the same breath as what it is stops', async () => {
  await inSandbox(async (box) => {
    const module = box.file(
      'app.js',
      `import { Worker } from 'millrace'\nnew Worker({ name: 'idle' })\nWorker.runAll()`,
    )
    const boot: WorkerBoot = {
      ...{ role: 'worker', modules: [module], argv: [], isLogPiped: false, engine: undefined, credentials: null },
      group: { name: 'idle', listen: '', nth: 0 },
      place: { id: 0, incarnation: 1, sockets: [], tls: { ticketKeys: '', files: {} } },
      memoryFd: -1,
    }
    const messages: ToChild[] = [
      { type: 'boot', boot },
      { type: 'stop', timeoutMs: 5000 },
    ]
    const child = spawn(process.execPath, [startFile], {
      stdio: ['ignore', 'ignore', 'inherit', 'pipe'],
      env: { ...box.env, MILLRACE_CHANNEL: '3' },
    })
    const channel = child.stdio[3] as Socket
    channel.resume().on('error', () => channel.destroy()) // it may be gone while we write
    channel.write(messages.map((message) => `${JSON.stringify(message)}\n`).join(''))
    assert.equal(await within(20_000, once(child, 'exit')), [0, null])
    channel.destroy()
  })
})

test.run()
