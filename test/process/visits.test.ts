// Connections of probes: a newcomer takes the oldest one's place, and nobody stays for long.

import { once } from 'node:events'
import net from 'node:net'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { Visits } from '../../src/process/status/visits.ts'
import { until } from '../support/until.ts'

/** `use` gets a function that connects, and the sockets of the server's side, in their order. */
async function visiting(visits: Visits, use: (visit: () => Promise<net.Socket>, seen: net.Socket[]) => Promise<void>) {
  const seen: net.Socket[] = []
  const server = net.createServer((socket) => {
    visits.begin(socket)
    seen.push(socket)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const clients: net.Socket[] = []
  const visit = async () => {
    const client = net.connect((server.address() as net.AddressInfo).port, '127.0.0.1').on('error', () => undefined)
    clients.push(client)
    const before = seen.length
    await until(() => seen.length > before)
    return client
  }
  try {
    await use(visit, seen)
  } finally {
    for (const socket of [...clients, ...seen]) socket.destroy()
    server.close()
    await once(server, 'close')
  }
}

test('a newcomer takes the place of who has been there for longest, and who has left needs none', async () => {
  await visiting(new Visits(2, 60_000), async (visit, seen) => {
    const [first, second] = [await visit(), await visit()]
    second.destroy()
    await until(() => seen[1]?.destroyed)
    const third = await visit()
    assert.equal([first.destroyed, third.destroyed], [false, false])
    const fourth = await visit()
    await until(() => first.destroyed)
    assert.equal([third.destroyed, fourth.destroyed], [false, false])
  })
})

test('a connection is for one request, and ends at its deadline', async () => {
  const visits = new Visits(2, 50)
  await visiting(visits, async (visit, seen) => {
    const client = await visit()
    const [socket] = seen as [net.Socket]
    assert.equal([visits.asks(socket), visits.asks(socket)], [true, false])
    client.resume()
    await until(() => client.destroyed)
    assert.is(visits.asks(socket), false)
  })
})

test.run()
