// The control socket, as a program of somebody's own talks to it: whatever it sends or does not, the server goes on.

import { chmodSync, readdirSync } from 'node:fs'
import net from 'node:net'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { addon } from '../../src/addon.ts'
import { longTest } from '../support/length.ts'
import { ask, echo, inSandbox, portOf, type Sandbox } from '../support/server.ts'
import { until } from '../support/until.ts'
import { isRoot, where } from '../support/where.ts'

/** What the server answers to these bytes, until it closes. */
function send(box: Sandbox, bytes: string): Promise<string> {
  return new Promise((resolve) => {
    let answer = ''
    const socket = net.connect(join(box.runDir, 'control.sock'), () => socket.write(bytes))
    socket.setEncoding('utf8').on('data', (text) => {
      answer += text
    })
    socket.on('error', () => socket.destroy()).on('close', () => resolve(answer))
  })
}

/** What `count` says when it has said it for twenty looks. */
async function steady(count: () => number): Promise<number> {
  let last = -1
  let looks = 0
  await until(() => {
    const now = count()
    looks = now === last ? looks + 1 : 0
    last = now
    return looks >= 20
  })
  return last
}

test('requests that make no sense are refused or closed, and the next ones are answered', async () => {
  await inSandbox(async (box) => {
    const status = await box.start(box.file('app.js', echo(2)))
    for (const request of [
      { command: 'connections', cursor: null },
      { command: 'connections', cursor: 7 },
      { command: 'connections', cursor: { pid: 'x', after: [] } },
      { command: 'connections', cursor: { pid: -1, after: -1e300 } },
      { command: 'constructor' },
      { command: 'scale' },
      { command: 'scale', name: 'echo', scale: { to: '3' } },
      { command: 'scale', name: 'echo', scale: null },
      { command: 'start', names: [] },
      { command: 'restart', names: 7 },
      { command: 'stop', names: [{}], timeoutMs: 'x' },
      { command: { toString: 1 } },
      {},
      [],
    ]) {
      const answer = JSON.parse(await send(box, `${JSON.stringify(request)}\n`))
      assert.type(answer.ok, 'boolean', JSON.stringify(request))
      if ('command' in request && request.command === 'constructor') assert.match(answer.message, /unknown command/)
    }
    for (const bytes of ['null\n', '7\n', 'not json\n', '\n', '{"command":'.repeat(200_000)])
      assert.is(await send(box, bytes), '')
    assert.is((await box.status()).pid, status.pid)
    assert.match(await ask(portOf(status), 'x'), /^x /)
    await box.stop()
  })
})

longTest('clients that take no answer, or say nothing, cost no descriptor for long', async () => {
  await inSandbox(async (box) => {
    const { pid } = await box.start(box.file('app.js', echo(1)))
    const descriptors = () => readdirSync(`/proc/${pid}/fd`).length
    const before = await steady(descriptors) // the descriptors of the start are closed
    const idle = ['', '{"command":"ping"}\n', '{"command":"status"}\n'].map((bytes) => {
      const socket = net.connect({ path: join(box.runDir, 'control.sock'), allowHalfOpen: true })
      socket.on('error', () => socket.destroy()) // it is reset in the end
      socket.write(bytes)
      return socket
    })
    await until(() => descriptors() >= before + 3)
    await until(() => descriptors() === before, 15_000)
    for (const socket of idle) socket.destroy()
    await box.stop()
  })
})

// It takes root to be two users; without the addon the rights decide.
where(isRoot && addon().sys !== null, 'root and the addon')(
  "another user is refused by the kernel's word, whatever the rights of the files are",
  async () => {
    await inSandbox(async (box) => {
      const { pid } = await box.start(box.file('app.js', echo(1)))
      for (const folder of [join(box.runDir, '..'), box.runDir]) chmodSync(folder, 0o777)
      chmodSync(join(box.runDir, 'control.sock'), 0o777)
      const stop = JSON.stringify({ command: 'stop', isGraceful: false })
      const target = `UNIX-CONNECT:${join(box.runDir, 'control.sock')}`
      const nobody = box.spawn('socat', ['-t', '5', '-', target], {
        uid: 65_534,
        gid: 65_534,
        stdio: ['pipe', 'pipe', 'pipe'],
      })
      nobody.process.stdin?.end(`${stop}\n`)
      await nobody.ended
      assert.is(nobody.stdout, '{"ok":false,"message":"uid 65534 may not command this server"}\n')
      assert.match(box.log(), /control: a process of uid 65534 asked/)
      assert.is(JSON.parse(await send(box, '{"command":"status"}\n')).pid, pid)
      chmodSync(box.runDir, 0o700)
      await box.stop()
    })
  },
)

test.run()
