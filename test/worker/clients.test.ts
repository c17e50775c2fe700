// What a Worker that leaves does for the clients of its process, on real sockets.

import dgram from 'node:dgram'
import { once } from 'node:events'
import net from 'node:net'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { AsyncTcpConnection, AsyncUdpConnection } from '../../src/index.ts'
import { Worker } from '../../src/worker.ts'
import { type Deferred, deferred } from '../support/codecs.ts'
import { nextTurn, until, within } from '../support/until.ts'

const ASSIGNMENT = { id: 0, incarnation: 1, sockets: [], tls: { ticketKeys: '', files: {} } }

/** A server that sends each client a line, and a UDP socket that answers. */
async function withJobs(use: (streams: number, datagrams: number) => Promise<void>): Promise<void> {
  const sockets: net.Socket[] = []
  const server = net.createServer((socket) => {
    sockets.push(socket)
    socket.on('error', () => socket.destroy()).write('job\n')
  })
  const udp = dgram.createSocket('udp4', (bytes, { port }) => udp.send(bytes, port, '127.0.0.1'))
  await once(server.listen(0, '127.0.0.1'), 'listening')
  await once(udp.bind(0, '127.0.0.1'), 'listening')
  try {
    await use((server.address() as net.AddressInfo).port, udp.address().port)
  } finally {
    server.close()
    udp.close()
    for (const socket of sockets) socket.destroy()
  }
}

test('handlers of clients are waited for, whether those were made, or their handlers began, before the worker started', async () => {
  await withJobs(async (streams, datagrams) => {
    const gates: Deferred[] = []
    const onMessage = () => {
      const gate = deferred()
      gates.push(gate)
      return gate.promise
    }
    const [early, late] = [1, 2].map(() => ({
      stream: new AsyncTcpConnection(`text://127.0.0.1:${streams}`, { onMessage }),
      datagrams: new AsyncUdpConnection(`udp://127.0.0.1:${datagrams}`, { onMessage }),
    }))
    const begin = (clients: typeof early) => {
      clients?.stream.connect()
      clients?.datagrams.send('job')
    }
    begin(early)
    await until(() => gates.length === 2)
    const worker = new Worker<string, unknown>({ name: 'w' })
    await worker.start(ASSIGNMENT)
    begin(late)
    await until(() => gates.length === 4)
    let isDone = false
    const done = worker.drain(60_000).then(() => {
      isDone = true
    })
    for (const gate of gates) {
      for (let n = 0; n < 10; n++) await nextTurn()
      assert.not(isDone)
      gate.resolve()
    }
    await within(5_000, done)
    assert.is(worker.unsettled, 0)
    for (const clients of [early, late]) {
      clients?.stream.destroy()
      clients?.datagrams.close()
    }
  })
})

test.run()
