// A client that stalls in the middle of a long answer: most of that is still in the kernel, on our side, and the FIN behind it,
// when it goes on and sends the next request. That is not handled, but it must not cost the answer either: on a connection
// that the server has closed meanwhile it would meet a reset, which throws away what was not sent yet.

import { readFileSync } from 'node:fs'
import { Worker } from 'node:worker_threads'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { longTest } from '../support/length.ts'
import { inSandbox, portOf, succeeded } from '../support/server.ts'
import { until } from '../support/until.ts'

const DRAIN_MS = 8000
/** `lingerTimeout` is a second. */
const STALL_MS = 1500

/** More than a kernel takes for somebody who does not read, less than ours takes from us. */
const ANSWER_BYTES = 1_000_000

const program = `
  import { readFileSync } from 'node:fs'
import { Worker } from 'millrace'
  const worker = new Worker('text://127.0.0.1:0', { name: 'text', drainTimeoutMs: ${DRAIN_MS} })
  worker.onMessage = (connection) => connection.send('x'.repeat(${ANSWER_BYTES - 1}))
  Worker.runAll()`

/** In the kernel, the server's end of a connection to its port: it has sent FIN, or will when the answer has left. */
function isHalfClosed(port: number): boolean {
  const at = port.toString(16).toUpperCase().padStart(4, '0')
  return new RegExp(`^ *\\d+: 0100007F:${at} [0-9A-F:]+ 04 `, 'm').test(readFileSync('/proc/net/tcp', 'utf8'))
}

/** A loop of its own, so that it can stand still. */
const client = `
  const net = require('node:net')
  const { parentPort, workerData: { port, flag } } = require('node:worker_threads')
  const socket = net.connect(port, '127.0.0.1', () => socket.write('hello\\n'))
  let bytes = 0
  const end = (how) => parentPort.postMessage({ how, bytes })
  socket.once('data', () => {
    parentPort.postMessage('stalled')
    Atomics.wait(flag, 0, 0)
    socket.write('next\\n')
  })
  socket.on('data', (chunk) => { bytes += chunk.length })
  socket.once('end', () => end('end'))
  socket.once('error', (error) => end(error.message))`

longTest('a client that stalls for longer than the server lingers gets the whole of its answer', async () => {
  await inSandbox(async (box) => {
    const port = portOf(await box.start(box.file('app.js', program)))
    const flag = new Int32Array(new SharedArrayBuffer(4))
    const thread = new Worker(client, { eval: true, workerData: { port, flag } })
    const told = () => new Promise<unknown>((resolve) => thread.once('message', resolve))
    await told()
    const reload = box.begin('reload', '--json').ended
    await until(() => isHalfClosed(port), 20_000)
    const since = performance.now()
    await until(() => performance.now() - since > STALL_MS) // what is tested: that it stalls for so long
    const end = told()
    Atomics.store(flag, 0, 1)
    Atomics.notify(flag, 0)
    assert.equal(await end, { how: 'end', bytes: ANSWER_BYTES })
    const { slots } = JSON.parse(succeeded(await reload).stdout)
    assert.is(slots[0].note, '')
    assert.ok(slots[0].drainMs < DRAIN_MS, 'it waited for more than the end of its client')
    await box.stop()
  })
})

test.run()
