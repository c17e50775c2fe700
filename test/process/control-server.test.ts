// The control socket in one process: what a client can send that no command of ours would, and answers of any length.

import { mkdtempSync, rmSync } from 'node:fs'
import net from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { ask } from '../../src/process/control/client.ts'
import type { Answer } from '../../src/process/control/requests.ts'
import { ControlServer } from '../../src/process/control/server.ts'
import { Events } from '../../src/process/status/events.ts'
import { within } from '../support/until.ts'

const done = { ok: true, pid: process.pid, startTime: '', isDaemon: false, stopTimeoutMs: 0 } as const

async function served(answer: () => Answer, use: (runDir: string) => Promise<void>): Promise<void> {
  const runDir = mkdtempSync(join(tmpdir(), 'mr-'))
  const server = new ControlServer(runDir, new Events(), async () => answer())
  await server.listen()
  try {
    await use(runDir)
  } finally {
    server.close()
    rmSync(runDir, { recursive: true })
  }
}

/** The first line that comes back. */
function firstLine(runDir: string, line: string): Promise<string> {
  return within(
    5000,
    new Promise((resolve) => {
      const socket = net.connect(join(runDir, 'control.sock'), () => socket.write(`${line}\n`))
      let text = ''
      socket.setEncoding('utf8').on('data', (piece) => {
        text += piece
        if (text.includes('\n')) socket.destroy()
      })
      socket.on('error', () => socket.destroy()).on('close', () => resolve(text.trim()))
    }),
  )
}

test('who asks for past events by something that is no number gets those to come', async () => {
  await served(
    () => done,
    async (runDir) => {
      for (const past of ['{"toString":1,"valueOf":1}', 'null', '-1', '1e999', '"x"', '[[]]'])
        assert.match(await firstLine(runDir, `{"command":"events","past":${past}}`), /"ok":true/, past)
    },
  )
})

test('an answer may be long; one that is too long is an error, and no server that does not run', async () => {
  let logFile = 'x'.repeat(6 * 1_048_576)
  await served(
    () => ({ ...done, logFile }),
    async (runDir) => {
      const answer = await ask(runDir, { command: 'ping' }, 10_000)
      assert.ok(answer?.ok === true && answer.logFile === logFile)
      logFile = 'x'.repeat(70 * 1_048_576)
      const said = await ask(runDir, { command: 'ping' }, 20_000).then(String, (error) => error.message)
      assert.match(said, /the answer of the master to 'ping' is longer than 64 MiB/)
    },
  )
})

test.run()
