// A client whose host has several addresses, of which some answer late, refuse, or lead nowhere.

import dns from 'node:dns'
import { once } from 'node:events'
import net from 'node:net'
import { Worker as Thread } from 'node:worker_threads'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { AsyncTcpConnection } from '../../src/index.ts'
import { until } from '../support/until.ts'
import { where } from '../support/where.ts'

const HOST = 'several.example'

/** While `use` runs, `HOST` has these addresses. */
async function named(addresses: readonly string[], use: () => Promise<void>): Promise<void> {
  const { lookup } = dns
  const found = addresses.map((address) => ({ address, family: net.isIP(address) }))
  const fake = (host: string, options: object, done: (error: Error | null, found: unknown) => void) =>
    host === HOST ? setImmediate(done, null, found) : lookup(host, options as never, done as never)
  dns.lookup = fake as never
  try {
    await use()
  } finally {
    dns.lookup = lookup
  }
}

const BUSY = `
  const { parentPort, workerData } = require('node:worker_threads')
  const server = require('node:net').createServer((socket) => socket.on('error', () => {}))
  server.listen({ port: 0, host: '127.0.0.1', backlog: 1 }, () => {
    parentPort.postMessage(server.address().port)
    setImmediate(() => Atomics.wait(new Int32Array(workerData), 0, 0))
  })`

/** A server that accepts nobody until it is told to: the kernel ignores who comes when its queue is full. */
async function withBusyServer(use: (port: number, accept: () => void) => Promise<void>): Promise<void> {
  const gate = new SharedArrayBuffer(4)
  const thread = new Thread(BUSY, { eval: true, workerData: gate })
  const accept = () => {
    Atomics.store(new Int32Array(gate), 0, 1)
    Atomics.notify(new Int32Array(gate), 0)
  }
  const [port] = await once(thread, 'message')
  const queue = [1, 2, 3, 4].map(() => net.connect(port, '127.0.0.1').on('error', () => undefined))
  try {
    await once(queue[0] as net.Socket, 'connect')
    await use(port, accept)
  } finally {
    for (const socket of queue) socket.destroy()
    accept()
    await thread.terminate()
  }
}

interface Heard {
  readonly client: AsyncTcpConnection<'tcp://'>
  readonly events: string[]
}

function connecting(port: number): Heard {
  const client = new AsyncTcpConnection(`tcp://${HOST}:${port}` as 'tcp://')
  const events: string[] = []
  client.onConnect = () => void events.push(`connected to ${client.getRemoteIp()}`)
  client.onError = (_client, code, message) => void events.push(`error ${code} ${message}`)
  client.connect()
  return { client, events }
}

const onLinux = where(process.platform === 'linux', 'Linux')

onLinux(
  'a slow address is waited for, however soon the others fail; one that is quick is not held up by it',
  async () => {
    await withBusyServer(async (port, accept) => {
      await named(['127.0.0.1', '127.0.0.2', '2001:db8::1'], async () => {
        const slow = connecting(port)
        const quick = net.createServer().listen(port, '127.0.0.3')
        await once(quick, 'listening')
        await named(['127.0.0.1', '127.0.0.3'], async () => {
          const { client, events } = connecting(port)
          await until(() => events.length > 0)
          assert.equal(events, ['connected to 127.0.0.3'])
          client.destroy()
        })
        quick.close()
        assert.equal(slow.events, [])
        accept()
        await until(() => slow.events.length > 0, 20_000) // it is the kernel that tries again, in a second
        assert.equal(slow.events, ['connected to 127.0.0.1'])
        slow.client.destroy()
      })
    })
  },
)

onLinux('a name none of whose addresses can be reached: the error has that of each', async () => {
  await named(['127.0.0.2', '127.0.0.3'], async () => {
    const { client } = connecting(1)
    const errors: unknown[] = []
    client.onError = (_client, _code, _message, error) => void errors.push(error)
    await until(() => client.getStatus(false) === 'CLOSED')
    const [{ message, cause }] = errors as [Error & { cause: AggregateError }]
    assert.is(message, `connect ${HOST}:1: ECONNREFUSED (connection refused)`)
    assert.equal(
      cause.errors.map(({ address }) => address),
      ['127.0.0.2', '127.0.0.3'],
    )
  })
})

test('a client that is given up while its name is looked up connects to nobody', async () => {
  const server = net.createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as net.AddressInfo
  let isReached = false
  server.on('connection', () => {
    isReached = true
  })
  await named(['127.0.0.1'], async () => {
    connecting(port).client.destroy()
    const { client, events } = connecting(port)
    client.destroy()
    client.connect()
    await until(() => events.length > 0)
    assert.equal(events, ['connected to 127.0.0.1'])
    assert.ok(isReached)
    const count = await new Promise((resolve) => server.getConnections((_error, all) => resolve(all)))
    assert.is(count, 1)
    client.destroy()
  })
  server.close()
})

test.run()
