// UDP on real sockets of loopback: a Worker's server side, its limits and errors, the client, and both with each other. One
// suite, run over every engine.

import { AsyncLocalStorage } from 'node:async_hooks'
import dgram from 'node:dgram'
import { networkInterfaces } from 'node:os'
import { runInNewContext } from 'node:vm'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { addon } from '../../src/addon.ts'
import { AsyncUdpConnection } from '../../src/client/async-udp-connection.ts'
import { unsentByClients } from '../../src/client/client-host.ts'
import { formatEndpoint, parseEndpoint } from '../../src/endpoint.ts'
import { codeOf } from '../../src/errors.ts'
import { frame, text } from '../../src/index.ts'
import { sendLogTo } from '../../src/log.ts'
import { serveDatagrams } from '../../src/net/datagrams.ts'
import { ipAddress } from '../../src/net/ip-addresses.ts'
import { NativeDatagrams } from '../../src/net/native-datagrams.ts'
import { canReusePort, freeEndpoint, UdpServer } from '../../src/net/udp.ts'
import { childBoundPorts } from '../../src/net/udp-ports.ts'
import type { DatagramSocket } from '../../src/transport.ts'
import type { AnyUdpConnection } from '../../src/udp/udp-connection.ts'
import { Worker } from '../../src/worker.ts'
import { deferred } from '../support/codecs.ts'
import { randomOf } from '../support/random.ts'
import { nextTurn, rejects, until, within } from '../support/until.ts'
import { NO_SUCH_HOST } from '../support/where.ts'

const hasCode = (code: string) => (error: unknown) => codeOf(error) === code

/** A peer on plain dgram. */
class Peer {
  readonly received: string[] = []
  readonly socket = dgram.createSocket('udp4')
  readonly #port: number

  constructor(port: number) {
    this.#port = port
    this.socket.on('message', (bytes) => this.received.push(bytes.toString()))
  }

  send(bytes: string | Uint8Array): void {
    this.socket.send(bytes, this.#port, '127.0.0.1')
  }

  /** Whatever was sent before is with the kernel. */
  async isSent(): Promise<void> {
    await until(() => this.socket.getSendQueueCount() === 0)
  }

  async ask(bytes: string): Promise<string> {
    const count = this.received.length
    this.send(bytes)
    await until(() => this.received.length > count)
    return this.received[count] as string
  }
}

const { sys, newEngine } = addon()
const ENGINES = newEngine === null ? ['node'] : ['node', 'native']

/** Once on each engine. */
function onEngines(title: string, run: (engine: string) => Promise<unknown>): void {
  for (const engine of ENGINES)
    test(`${engine}: ${title}`, async () => {
      Worker.engine = engine
      try {
        await run(engine)
      } finally {
        Worker.engine = ''
      }
    })
}

/** As a worker gets it: a descriptor where the addon could bind one. */
async function givenSocket(ip: string): Promise<{ fd: number; endpoint: string }> {
  if (sys === null || Worker.engine === 'node') return { fd: -1, endpoint: await freeEndpoint(ip, 0) }
  const fd = sys.bind({ transport: 'udp', host: ip, port: 0, path: '', isDualStack: true }).release() // as the master does
  const { address, port } = sys.socketName(fd)
  return { fd, endpoint: formatEndpoint(address, port) }
}

const NO_TLS = { ticketKeys: '', files: {} }

interface Served {
  worker: Worker<string, unknown>
  port: number
  peer: Peer
}

async function serving(settings: object, use: (served: Served) => Promise<unknown>): Promise<void> {
  const worker = new Worker({ listen: 'udp://127.0.0.1:0', ...settings } as { listen: string })
  const socket = await givenSocket('127.0.0.1')
  await worker.start({ id: 0, incarnation: 1, sockets: [socket], tls: NO_TLS })
  const { port } = parseEndpoint(socket.endpoint)
  const peer = new Peer(port)
  try {
    await within(20_000, use({ worker: worker as unknown as Served['worker'], port, peer }))
  } finally {
    peer.socket.close()
    await within(5_000, worker.drain(1000))
  }
}

onEngines('a datagram is a message, a Buffer of its own, and send answers', async () => {
  const messages: unknown[] = []
  const onMessage = (connection: AnyUdpConnection, message: Buffer) => {
    messages.push(message)
    assert.is(connection.send(`received: ${message}`), true)
  }
  await serving({ onMessage }, async ({ peer, worker }) => {
    assert.is(await peer.ask('xiami'), 'received: xiami')
    assert.is(await peer.ask(''), 'received: ')
    assert.equal(messages, [Buffer.from('xiami'), Buffer.alloc(0)])
    const { messagesIn, messagesOut, bytesIn, bytesOut, connections } = worker.counters
    assert.equal([messagesIn, messagesOut, bytesIn, bytesOut, connections], [2, 2, 5, 25, 0])
  })
})

onEngines('a peer knows its addresses, as Workerman names them', async () => {
  let seen: AnyUdpConnection | undefined
  const onMessage = (connection: AnyUdpConnection) => {
    seen = connection
    connection.context.greeted = true
    connection.send('x')
  }
  await serving({ onMessage }, async ({ peer, port, worker }) => {
    await peer.ask('hello')
    const remotePort = peer.socket.address().port
    assert.equal(JSON.parse(JSON.stringify(seen)), {
      transport: 'udp',
      getRemoteIp: '127.0.0.1',
      remotePort,
      getRemoteAddress: `127.0.0.1:${remotePort}`,
      getLocalIp: '127.0.0.1',
      getLocalPort: port,
      getLocalAddress: `127.0.0.1:${port}`,
      isIpV4: true,
      isIpV6: false,
    })
    assert.is(seen?.worker, worker as unknown)
    assert.is(seen?.protocol.name, 'udp')
    assert.equal([seen?.getStatus(), seen?.getStatus(false), seen?.getSendBufferQueueSize()], [2, 'ESTABLISHED', 0])
  })
})

onEngines('a peer that is kept can be sent to later, until it is closed; the others go on', async () => {
  const errors: unknown[] = []
  let kept: AnyUdpConnection | undefined
  const onError = (_connection: AnyUdpConnection, code: number, message: string) => errors.push([code, message])
  const onMessage = (connection: AnyUdpConnection) => {
    kept ??= connection
  }
  await serving({ onMessage, onError }, async ({ peer, worker }) => {
    peer.send('hello')
    const peerOf = await until(() => kept)
    peerOf.close('bye')
    peerOf.close('again')
    await until(() => peer.received.length === 1)
    assert.is(peerOf.send('more'), false)
    assert.is(peerOf.getStatus(), 16)
    assert.equal(errors, [[2, 'connection is closed']])
    assert.is(worker.counters.sendFail, 1)
    peer.send('still there')
    await until(() => worker.counters.messagesIn === 2)
    assert.equal(peer.received, ['bye'])
  })
})

onEngines('errors and results that throw when they are looked at cost nobody else anything', async () => {
  const evil = (property: string) => (): never => {
    throw new Error(`evil ${property}`)
  }
  const unawaitable = () => Object.defineProperty({}, 'then', { get: evil('then') })
  const unreadable = () => Object.defineProperty(new Error('a fault'), 'name', { get: evil('name') })
  const decode = (bytes: Buffer) => {
    if (String(bytes) === 'decode') throw unreadable()
    return String(bytes)
  }
  const onMessage = (connection: AnyUdpConnection, message: string) => {
    if (message === 'name') return Promise.reject(unreadable())
    return message === 'then' ? unawaitable() : connection.send(message)
  }
  const errors: string[] = []
  const onError = (_connection: AnyUdpConnection, code: number, message: string) => {
    errors.push(`${code} ${message}`)
    return unawaitable()
  }
  sendLogTo(() => undefined)
  try {
    await serving({ protocol: { ...text, decode }, onMessage, onError }, async ({ peer, worker }) => {
      for (const [word, ...told] of [
        ['name', '4 a fault'],
        ['then', '4 evil then'],
        ['decode', '3 a fault', '4 evil then'], // of onError itself
      ] as const) {
        peer.send(word)
        await until(() => errors.length === told.length && worker.unsettled === 0)
        assert.equal(errors.splice(0), told)
      }
      assert.is(await peer.ask('still there'), 'still there\n')
    })
  } finally {
    sendLogTo(null)
  }
})

onEngines(
  'a protocol over UDP: decode for what comes, with or without its terminator, encode for what goes',
  async () => {
    const onMessage = (connection: AnyUdpConnection, line: string) => connection.send(`Hello, ${line}`)
    await serving({ listen: 'text://127.0.0.1:0', transport: 'udp', onMessage }, async ({ peer }) => {
      assert.is(await peer.ask('world\r\n'), 'Hello, world\n')
      assert.is(await peer.ask('world'), 'Hello, world\n')
    })
    const echo = (connection: AnyUdpConnection, message: Buffer) => connection.send(message)
    await serving({ protocol: frame, onMessage: echo }, async ({ peer }) => {
      assert.is(await peer.ask('\0\0\0\x07abc'), '\0\0\0\x07abc')
    })
  },
)

onEngines(
  'what decode throws is told as 3, a handler that throws or rejects as 4, and the server goes on',
  async () => {
    const parse = (packet: Buffer) => JSON.parse(packet.toString())
    const decodeLate = async (packet: Buffer) => parse(packet)
    const json = { ...text, decode: (packet: Buffer) => (packet[0] === 0x3f ? decodeLate(packet) : parse(packet)) }
    const codes: number[] = []
    const onError = (_connection: AnyUdpConnection, code: number) => {
      codes.push(code)
      throw new Error('onError itself')
    }
    const onMessage = async (connection: AnyUdpConnection, message: unknown) => {
      if (message === 'reject') throw new Error('rejected')
      connection.send('ok')
    }
    const sync = (connection: AnyUdpConnection, message: unknown) => {
      if (message === 'throw') throw new Error('thrown')
      return onMessage(connection, message)
    }
    await serving({ protocol: json, onMessage: sync, onError }, async ({ peer, worker }) => {
      peer.send('{')
      peer.send('?') // an async decode
      peer.send('"throw"')
      peer.send('"reject"')
      await until(() => codes.length === 4)
      assert.is(await peer.ask('1'), 'ok\n')
      assert.equal(codes, [3, 3, 4, 4])
      assert.equal([worker.counters.protocolErrors, worker.counters.handlerErrors, worker.unsettled], [2, 2, 0])
    })
  },
)

onEngines('a datagram that is too long is refused both ways', async () => {
  const errors: string[] = []
  const onError = (_connection: AnyUdpConnection, code: number, message: string) => errors.push(`${code} ${message}`)
  const onMessage = (connection: AnyUdpConnection) => {
    assert.is(connection.send(Buffer.alloc(65_508)), false)
    assert.is(connection.send(Buffer.alloc(65_507)), true)
  }
  await serving({ onMessage, onError, maxPackageSize: 5 }, async ({ peer, worker }) => {
    await peer.ask('short')
    peer.send('longer')
    await until(() => errors.length === 2)
    assert.match(errors[0] ?? '', /^2 .*65508 bytes.*65507/)
    assert.match(errors[1] ?? '', /^3 .*6 bytes.*limit of 5/)
    assert.is(worker.counters.sendFail, 1)
  })
})

onEngines('what cannot be encoded is thrown at the sender', async () => {
  let thrown: unknown
  const onMessage = (connection: AnyUdpConnection) => {
    try {
      connection.send(42)
    } catch (error) {
      thrown = error
    }
    connection.send(['by ', Buffer.from('hand')], true)
  }
  await serving({ onMessage }, async ({ peer }) => {
    assert.is(await peer.ask('x'), 'by hand')
    assert.is(codeOf(thrown), 'ERR_ENCODE')
  })
})

onEngines('asynchronous handlers are bounded: then datagrams wait, then they are dropped and counted', async () => {
  const gates: ReturnType<typeof deferred>[] = []
  const seen: string[] = []
  const onMessage = (_connection: AnyUdpConnection, message: Buffer) => {
    seen.push(String(message))
    const gate = deferred()
    gates.push(gate)
    return gate.promise
  }
  await serving({ onMessage, maxDatagramsInFlight: 2, maxQueuedMessages: 1 }, async ({ peer, worker }) => {
    for (const name of ['a', 'b', 'c', 'd']) peer.send(name)
    await until(() => worker.counters.dropped === 1)
    assert.equal([seen, worker.counters.messagesIn, worker.unsettled], [['a', 'b'], 2, 2])
    gates[1]?.resolve()
    await until(() => seen.length === 3)
    assert.is(seen[2], 'c')
    for (const gate of gates) gate.resolve()
    await until(() => worker.unsettled === 0)
  })
})

onEngines('a drain stops receiving, waits for handlers, and their late answers come from the same port', async () => {
  const gate = deferred()
  const from: number[] = []
  const onMessage = async (connection: AnyUdpConnection, message: Buffer) => {
    await gate.promise
    connection.send(`late ${message}`)
  }
  await serving({ onMessage }, async ({ worker, port, peer }) => {
    peer.socket.on('message', (_bytes, { port: source }) => from.push(source))
    peer.send('one')
    await until(() => worker.unsettled === 1)
    let isDone = false
    const drained = worker.drain(10_000).then(() => {
      isDone = true
    })
    await until(() => worker.describeWork() === '1 unsettled handler') // it receives no more
    assert.is(isDone, false)
    gate.resolve()
    await drained
    await until(() => peer.received.length === 1)
    assert.equal([peer.received, from], [['late one'], [port]])
  })
})

onEngines('after the drain, too, an answer comes from the same port, if it is a thousand', async () => {
  const peers: AnyUdpConnection[] = []
  const from = new Set<number>()
  const onMessage = (connection: AnyUdpConnection) => void peers.push(connection)
  await serving({ onMessage }, async ({ worker, port, peer }) => {
    peer.socket.on('message', (_bytes, { port: source }) => from.add(source))
    peer.send('one')
    await until(() => peers.length === 1)
    await worker.drain(10_000)
    for (let sent = 0; sent < 1000; sent += 50) {
      for (let n = 0; n < 50; n++) assert.is(peers[0]?.send(`late ${sent + n}`), true)
      await until(() => peer.received.length === sent + 50)
    }
    await until(() => worker.unsettled === 0)
    assert.equal([...from], [port])
  })
})

onEngines('what had arrived when the drain began is handled', async () => {
  const onMessage = (connection: AnyUdpConnection, message: Buffer) => connection.send(message)
  await serving({ onMessage }, async ({ worker, peer }) => {
    await peer.ask('bound')
    for (let n = 0; n < 100; n++) peer.send(String(n))
    await new Promise<void>((sent) =>
      peer.socket.send('last', worker.getSocketName().split(':')[2] as never, '127.0.0.1', () => sent()),
    )
    await worker.drain(5_000)
    assert.is(worker.counters.messagesIn, 102)
    await until(() => peer.received.length === 102)
  })
})

onEngines('datagrams of every size arrive as they were sent', async () => {
  const onMessage = (connection: AnyUdpConnection, message: Buffer) => connection.send(message)
  await serving({ onMessage }, async ({ port }) => {
    const answers: Buffer[] = []
    const client = new AsyncUdpConnection(`udp://127.0.0.1:${port}`)
    client.onMessage = (_client, message) => answers.push(message as Buffer)
    const random = randomOf(4)
    for (const size of [0, 1, 31, 32, 47, 48, 49, 1472, 9000, 65_474, 65_503, 65_504, 65_507]) {
      const bytes = Buffer.from(Array.from({ length: size }, () => random(256)))
      client.send([bytes.subarray(0, size >> 1), bytes.subarray(size >> 1)], true)
      await until(() => answers.length > 0)
      assert.ok(answers.shift()?.equals(bytes), `${size} bytes`)
    }
    for (const line of ['', 'short', 'ä€😀'.repeat(10), 'x'.repeat(65_507), '€'.repeat(21_835)]) {
      client.send(line)
      await until(() => answers.length > 0)
      assert.is(String(answers.shift()), line)
    }
    client.close()
  })
})

onEngines('bursts of thousands: as long as the receive buffer holds, each arrives once, in order', async () => {
  const echo = (connection: AnyUdpConnection, message: Buffer) => connection.send(message)
  await serving({ onMessage: echo }, async ({ port, worker }) => {
    const answers: string[] = []
    const client = new AsyncUdpConnection(`udp://127.0.0.1:${port}`)
    client.onMessage = (_client, message) => answers.push(String(message))
    const sent: string[] = []
    while (sent.length < 5000) {
      for (let n = 0; n < 100; n++) {
        sent.push(`datagram ${sent.length}`)
        client.send(sent.at(-1) as string)
      }
      await until(() => answers.length === sent.length)
    }
    assert.equal(answers, sent)
    assert.is(worker.counters.messagesIn, 5000)
    client.close()
  })
})

onEngines('what cannot be sent costs that datagram, and says which', async (engine) => {
  const { fd, endpoint } = await givenSocket('127.0.0.1')
  const failures: string[] = []
  const failed = (error: Error & { code?: string }) => failures.push(error.message)
  const server = await serveDatagrams(
    engine,
    { fd, expected: endpoint },
    () => undefined,
    () => () => undefined,
  )
  const socket = server as unknown as DatagramSocket
  const { port } = parseEndpoint(endpoint)
  const peer = new Peer(port)
  await new Promise<void>((bound) => peer.socket.bind(0, '127.0.0.1', bound))
  const to = peer.socket.address().port
  socket.send('one', '127.0.0.1', to, failed)
  socket.send('to all', '255.255.255.255', to, failed) // without SO_BROADCAST
  socket.send('two', '127.0.0.1', to, failed)
  socket.send(Buffer.alloc(65_508), '127.0.0.1', to, failed)
  socket.send('€'.repeat(21_836), '127.0.0.1', to, failed)
  socket.send(['a'.repeat(300_000), 'b'], '127.0.0.1', to, failed)
  socket.send('three', '127.0.0.1', to, failed)
  assert.equal(failures, [])
  await until(() => failures.length === 4 && peer.received.length === 3)
  assert.equal(peer.received, ['one', 'two', 'three'])
  failures.sort()
  assert.match(failures[0] ?? '', `send 127.0.0.1:${to}: EMSGSIZE`)
  assert.match(failures[2] ?? '', `send 127.0.0.1:${to}: EMSGSIZE`)
  assert.match(failures[3] ?? '', `send 255.255.255.255:${to}: EACCES`)
  peer.socket.close()
  server.close()
})

onEngines('a socket that is not where it should be is not served', async (engine) => {
  const { fd } = await givenSocket('127.0.0.1')
  const holder = dgram.createSocket('udp4')
  await new Promise<void>((bound) => holder.bind(0, '127.0.0.1', bound))
  const expected = `127.0.0.1:${holder.address().port}`
  const opening = serveDatagrams(
    engine,
    { fd, expected },
    () => undefined,
    () => () => undefined,
  )
  await rejects(opening, fd < 0 ? 'EADDRINUSE' : 'EADDRNOTAVAIL')
  holder.close()
})

onEngines('a peer that has gone (ICMP) does no harm', async () => {
  const peers: AnyUdpConnection[] = []
  const onMessage = (connection: AnyUdpConnection) => void peers.push(connection)
  await serving({ onMessage }, async ({ worker, port, peer }) => {
    const gone = new Peer(port)
    gone.send('x')
    await until(() => peers.length === 1)
    await new Promise<void>((closed) => gone.socket.close(closed))
    for (let n = 0; n < 5; n++) assert.is(peers[0]?.send('nobody'), true)
    peer.send('y')
    await until(() => worker.counters.messagesIn === 2)
  })
})

const linkLocal = linkLocalAddress()
if (linkLocal === '') console.log('no interface has a link-local address: nothing is tested with one')
else
  onEngines('link-local addresses, with their interface', async () => {
    const worker = new Worker(`udp://[${linkLocal}]:0`)
    worker.onMessage = (connection) => connection.send(connection.getRemoteAddress())
    const socket = await givenSocket(linkLocal)
    await worker.start({ id: 0, incarnation: 1, sockets: [socket], tls: NO_TLS })
    const client = new AsyncUdpConnection(`udp://${socket.endpoint}`)
    const answers: string[] = []
    client.onMessage = (_client, message) => answers.push(String(message))
    client.send('x')
    await until(() => answers.length === 1)
    assert.equal(answers, [client.getLocalAddress()])
    assert.is(client.getRemoteIp(), linkLocal)
    client.close()
    await worker.drain(1000)
  })

function linkLocalAddress(): string {
  for (const [name, list] of Object.entries(networkInterfaces()))
    for (const { family, address } of list ?? [])
      if (family === 'IPv6' && address.startsWith('fe80:')) return `${address.split('%')[0]}%${name}`
  return ''
}

onEngines('IPv6', async () => {
  const worker = new Worker('udp://[::1]:0')
  worker.onMessage = (connection) => connection.send(`${connection.getRemoteIp()} ${connection.isIpV6()}`)
  const socket = await givenSocket('::1')
  const { endpoint } = socket
  await worker.start({ id: 0, incarnation: 1, sockets: [socket], tls: NO_TLS })
  const client = new AsyncUdpConnection(`udp://${endpoint}`)
  const answers: string[] = []
  client.onMessage = (_client, message) => answers.push(String(message))
  client.send('x')
  await until(() => answers.length === 1)
  assert.equal(answers, ['::1 true'])
  client.close()
  await worker.drain(1000)
})

/** As with a broken Error.prepareStackTrace. */
function evil(): Error {
  const get = () => {
    throw new Error('evil stack')
  }
  return Object.defineProperty(new Error('a fault'), 'stack', { get })
}

onEngines(
  'an onError that fails with what cannot be looked at ends nothing: the next datagram is answered',
  async () => {
    sendLogTo(() => undefined)
    try {
      for (const onError of [
        () => {
          throw evil()
        },
        () => Promise.reject(evil()),
      ]) {
        const told: number[] = []
        const onMessage = (connection: AnyUdpConnection, message: Buffer) => {
          const word = String(message)
          if (word === 'throws') throw evil()
          if (word === 'rejects') return Promise.reject(evil())
          return connection.send(word === 'too much' ? Buffer.alloc(70_000) : word)
        }
        const settings = {
          onMessage,
          maxPackageSize: 10,
          onError: (_peer: unknown, code: number) => {
            told.push(code)
            return onError()
          },
        }
        await serving(settings, async ({ peer, worker }) => {
          for (const [word, code] of Object.entries({ throws: 4, rejects: 4, 'too much': 2, 'longer than ten': 3 })) {
            peer.send(word)
            await until(() => told.length > 0)
            assert.is(told.splice(0)[0], code, word)
          }
          assert.is(await peer.ask('good'), 'good')
          await until(() => worker.unsettled === 0)
        })
      }
    } finally {
      sendLogTo(null)
    }
  },
)

onEngines('a client whose onError fails so goes on, and is told of each datagram that is refused', async () => {
  const client = new AsyncUdpConnection('udp://127.0.0.1:9')
  let told = 0
  client.onError = () => {
    told++
    throw evil()
  }
  sendLogTo(() => undefined)
  try {
    for (let count = 1; count <= 2; count++) {
      assert.is(client.send(Buffer.alloc(70_000)), false)
      assert.is(told, count)
    }
  } finally {
    sendLogTo(null)
    client.close()
  }
})

/** Serves all addresses, and asks by a client that hears only the one that it has asked. */
async function servingAll(
  ip: string,
  settings: object,
  use: (
    worker: Worker<string, unknown>,
    ask: (to: string, message: string) => Promise<string>,
    port: number,
  ) => Promise<unknown>,
): Promise<void> {
  const worker = new Worker({ listen: `udp://${ip.includes(':') ? `[${ip}]` : ip}:0`, ...settings } as {
    listen: string
  })
  const socket = await givenSocket(ip)
  await worker.start({ id: 0, incarnation: 1, sockets: [socket], tls: NO_TLS })
  const { port } = parseEndpoint(socket.endpoint)
  const ask = (to: string, message: string) =>
    new Promise<string>((done, fail) => {
      const client = dgram.createSocket(to.includes(':') ? 'udp6' : 'udp4')
      client.on('error', fail)
      client.on('message', (bytes) => {
        client.close()
        done(bytes.toString())
      })
      client.connect(port, to, () => client.send(message))
    })
  try {
    await within(10_000, use(worker as unknown as Worker<string, unknown>, ask, port))
  } finally {
    await within(5_000, worker.drain(1000))
  }
}

onEngines('a Worker on all addresses sends to an IPv4 address, at once and when it leaves', async () => {
  const gate = deferred()
  const failures: string[] = []
  let count = 0
  const settings = {
    onMessage: async (connection: AnyUdpConnection) => {
      const peer = (connection.worker as Worker<string, unknown>).peerAt('127.0.0.1', connection.getRemotePort())
      if (++count > 1) await gate.promise
      peer.send('by peerAt')
    },
    onError: (_connection: unknown, code: number, message: string) => failures.push(`${code} ${message}`),
  }
  await servingAll('::', settings, async (worker, ask) => {
    assert.is(await ask('127.0.0.1', 'x'), 'by peerAt')
    const late = ask('127.0.0.1', 'x')
    await until(() => count === 2)
    const drained = worker.drain(5_000)
    for (let turn = 0; turn < 10; turn++) await nextTurn() // it has stopped receiving
    gate.resolve()
    assert.is(await late, 'by peerAt')
    await drained
  })
  assert.equal(failures, [])
})

if (ENGINES.includes('native')) {
  const workerOf = (connection: AnyUdpConnection) => connection.worker as Worker<string, unknown>
  const answer = (connection: AnyUdpConnection) => connection.send(connection.getLocalIp())

  test('native: a Worker on all addresses answers from the one that it was asked at', async () => {
    await servingAll('0.0.0.0', { onMessage: answer }, async (_worker, ask) => {
      for (const ip of ['127.0.0.1', '127.0.0.2', '127.8.9.10']) assert.is(await ask(ip, 'x'), ip)
      // Many in one batch keep apart.
      const ips = Array.from({ length: 60 }, (_, at) => `127.1.0.${at + 1}`)
      assert.equal(await Promise.all(ips.map((ip) => ask(ip, 'x'))), ips)
    })
    await servingAll('::', { onMessage: answer }, async (_worker, ask) => {
      assert.is(await ask('::1', 'x'), '::1')
      assert.is(await ask('127.0.0.2', 'x'), '::ffff:127.0.0.2')
    })
  })

  test('native: a broadcast is answered from the address of its interface', async () => {
    await servingAll('0.0.0.0', { onMessage: answer }, async (_worker, _ask, port) => {
      const client = dgram.createSocket('udp4')
      const heard = new Promise<string>((done) => client.on('message', (_bytes, from) => done(from.address)))
      client.bind(0, '127.0.0.1', () => {
        client.setBroadcast(true)
        client.send('x', port, '127.255.255.255')
      })
      assert.is(await heard, '127.0.0.1')
      client.close()
    })
  })

  test('native: a late answer, and one by peerAt, leave from the address that was asked', async () => {
    const gate = deferred()
    const seen: AnyUdpConnection[] = []
    const onMessage = async (connection: AnyUdpConnection) => {
      seen.push(connection)
      if (seen.length === 1) {
        const [ip, port] = [connection.getRemoteIp(), connection.getRemotePort()]
        return void workerOf(connection).peerAt(ip, port, connection.getLocalIp()).send('by address')
      }
      await gate.promise
      connection.send('late')
    }
    await servingAll('0.0.0.0', { onMessage }, async (worker, ask) => {
      assert.is(await ask('127.0.0.3', 'x'), 'by address')
      const late = ask('127.0.0.4', 'x')
      await until(() => seen.length === 2)
      const drained = worker.drain(5_000)
      await nextTurn()
      gate.resolve()
      assert.is(await late, 'late')
      await drained
      assert.throws(() => worker.peerAt('127.0.0.1', 1, 'here'), hasCode('ERR_BAD_ADDRESS'))
    })
  })

  test('native: an answer from an address that this host has not is reported', async () => {
    const failures: string[] = []
    const settings = {
      onMessage: (connection: AnyUdpConnection) => {
        workerOf(connection).peerAt(connection.getRemoteIp(), connection.getRemotePort(), '192.0.2.77').send('x')
        connection.send('here')
      },
      onError: (_connection: unknown, code: number) => failures.push(String(code)),
    }
    await servingAll('0.0.0.0', settings, async (_worker, ask) => {
      assert.is(await ask('127.0.0.1', 'x'), 'here')
      await until(() => failures.length === 1)
      assert.equal(failures, ['2'])
    })
  })
}

test('declarations that cannot work are refused', () => {
  const codec = new Worker('tcp://127.0.0.1:1', { transport: 'udp' })
  assert.throws(() => codec.describe(), hasCode('ERR_NOT_FOR_DATAGRAMS'))
  const path = new Worker('unix:///tmp/x', { transport: 'udp' })
  assert.throws(() => path.describe(), hasCode('ERR_BAD_ADDRESS'))
  const wrong = new Worker('text://127.0.0.1:1', { transport: 'sctp' as 'udp' })
  assert.throws(() => wrong.describe(), hasCode('ERR_BAD_OPTION'))
  for (const ssl of [{ transport: 'ssl', ssl: {} }, { ssl: {} }] as const) {
    const plain = new Worker('udp://127.0.0.1:1', ssl)
    assert.throws(() => plain.describe(), /worker 'none' .*there is no TLS over datagrams/)
    assert.throws(() => plain.describe(), hasCode('ERR_BAD_OPTION'))
  }
  const secure = new Worker('https://127.0.0.1:1', { transport: 'udp', protocol: text })
  assert.throws(() => secure.describe(), hasCode('ERR_BAD_OPTION'))
  assert.is(new Worker('udp://127.0.0.1:1').describe().transport, 'udp')
  assert.is(new Worker('text://127.0.0.1:1').describe().transport, 'tcp')
})

test('a port is looked at before processes get it', async () => {
  const holder = dgram.createSocket('udp4')
  await new Promise<void>((bound) => holder.bind(0, '127.0.0.1', bound))
  const { port } = holder.address()
  const address = { scheme: 'udp', transport: 'udp', host: '127.0.0.1', port, path: '' } as const
  const error = await rejects(childBoundPorts.bind(address), 'EADDRINUSE')
  assert.match(error.message, new RegExp(`^bind 127.0.0.1:${port}: EADDRINUSE`))
  holder.close()
})

test('several processes need a Node that lets them share, and are told so', () => {
  const group = { name: 'a', listen: 'udp://127.0.0.1:0' }
  if (canReusePort()) return childBoundPorts.check({ ...group, count: 4 })
  childBoundPorts.check({ ...group, count: 1 })
  assert.throws(() => childBoundPorts.check({ ...group, count: 4 }), hasCode('ERR_UDP_COUNT'))
  assert.throws(
    () => childBoundPorts.check({ ...group, count: 4 }),
    /worker 'a' on udp:\/\/127\.0\.0\.1:0: 4 processes .* count: 1, the addon, or Node 23\.1/,
  )
})

test('reusePort is of Node 23.1 and of Linux', () => {
  const asked = ['20.20.2', '23.0.9', '23.1.0', '26.0.0'].map((version) => canReusePort(version, 'linux'))
  assert.equal([...asked, canReusePort('26.0.0', 'darwin')], [false, false, true, true, false])
})

if (sys !== null && newEngine !== null) {
  const { bind, duplicate, socketName } = sys

  test('native: what comes after a drain began waits for the next process', async () => {
    const socket = bind({ transport: 'udp', host: '127.0.0.1', port: 0, path: '' })
    const { port } = socketName(socket.fd)
    const given = () => [{ fd: duplicate(socket.fd).release(), endpoint: `127.0.0.1:${port}` }]
    const gate = deferred()
    const onMessage = async (connection: AnyUdpConnection, message: Buffer) => {
      if (String(message) === 'slow') await gate.promise
      connection.send(`${connection.worker.name} ${message}`)
    }
    const [old, next] = ['old', 'next'].map((name) => new Worker('udp://127.0.0.1:0', { name, onMessage }))
    const peer = new Peer(port)
    await old?.start({ id: 0, incarnation: 1, sockets: given(), tls: NO_TLS })
    peer.send('slow')
    await until(() => old?.unsettled === 1)
    const drained = old?.drain(10_000)
    await until(() => old?.unsettled === 1) // it has stopped to receive
    for (let n = 0; n < 100; n++) peer.send(`${n}`)
    await peer.isSent()
    gate.resolve()
    await drained
    await until(() => peer.received.length === 1)
    await next?.start({ id: 0, incarnation: 2, sockets: given(), tls: NO_TLS })
    await until(() => peer.received.length === 101)
    assert.equal(peer.received.slice(0, 3), ['old slow', 'next 0', 'next 1'])
    assert.equal([old?.counters.messagesIn, next?.counters.messagesIn], [1, 100])
    await next?.drain(1000)
    peer.socket.close()
    socket.close()
  })

  test('native: an AsyncLocalStorage does not go from one datagram to the next', async () => {
    const storage = new AsyncLocalStorage<string>()
    const onMessage = async (connection: AnyUdpConnection, message: Buffer) => {
      const before = storage.getStore()
      storage.enterWith(String(message))
      await nextTurn()
      connection.send(`${before} ${storage.getStore()}`)
    }
    Worker.engine = 'native'
    await serving({ onMessage }, async ({ peer }) => {
      for (let n = 0; n < 20; n++) peer.send(`${n}`)
      await until(() => peer.received.length === 20)
      assert.equal(
        peer.received,
        Array.from({ length: 20 }, (_, n) => `undefined ${n}`),
      )
    })
    Worker.engine = ''
  })

  test("native: what is told late of a datagram from long ago is nobody's", async () => {
    const fd = bind({ transport: 'udp', host: '127.0.0.1', port: 0, path: '' }).release()
    let known = 0
    const socket = new NativeDatagrams(fd, { received: () => undefined, failed: (error) => codes.push(error.code) })
    const codes: string[] = []
    const to = ipAddress('255.255.255.255')
    for (let n = 0; n < 5000; n++) socket.send('x', to, 9, () => known++)
    await until(() => known + codes.length === 5000, 30_000).finally(() => socket.destroy())
    assert.is(known, 4096)
    assert.equal(new Set(codes), new Set(['EACCES']))
  })
}

// The client

onEngines('a client looks the name up, sends what waited, and hears the answer', async () => {
  const onMessage = (connection: AnyUdpConnection, line: string) => connection.send(`Hello, ${line}`)
  await serving({ listen: 'text://127.0.0.1:0', transport: 'udp', onMessage }, async ({ port }) => {
    const events: string[] = []
    const client = new AsyncUdpConnection(`text://localhost:${port}` as 'text://localhost:1')
    client.onConnect = () => events.push('connect')
    client.onMessage = (_client, line) => events.push(line)
    client.onClose = () => events.push('close')
    assert.is(client.getStatus(), 0)
    assert.is(client.send('early'), true)
    assert.is(client.getStatus(false), 'CONNECTING')
    assert.is(client.getSendBufferQueueSize(), 6)
    client.connect()
    await until(() => events.length === 2)
    assert.equal([client.getStatus(), client.getRemoteHost(), client.getRemotePort()], [2, 'localhost', port])
    assert.match(client.getRemoteIp(), /^127\./)
    assert.ok(client.getLocalPort() > 0)
    client.close()
    client.close()
    client.connect()
    assert.is(client.getStatus(false), 'CLOSED')
    assert.equal(events, ['connect', 'Hello, early', 'close'])
  })
})

onEngines('close with a message sends it, also before the name is looked up', async () => {
  await serving({ onMessage: () => undefined }, async ({ port, worker }) => {
    const client = new AsyncUdpConnection(`udp://127.0.0.1:${port}`)
    let closed = 0
    client.onClose = () => closed++
    client.send('one')
    client.close('two')
    assert.equal([client.getStatus(false), closed], ['CLOSING', 0])
    await until(() => closed === 1 && worker.counters.messagesIn === 2)
  })
})

onEngines(
  'bytes of another realm are sent: raw and encoded, alone and in a list, before the look-up and after',
  async () => {
    const foreign = () => runInNewContext('Uint8Array.of(104, 105)') as Uint8Array
    const answers: string[] = []
    const onMessage = (connection: AnyUdpConnection) => {
      connection.send(foreign(), true)
      connection.send(['o', foreign()], true)
    }
    await serving({ onMessage }, async ({ port, worker }) => {
      const protocol = { name: 'foreign', input: () => 0, decode: String, encode: foreign }
      const client = new AsyncUdpConnection(`udp://127.0.0.1:${port}`, { protocol })
      client.onMessage = (_client, word) => answers.push(word)
      const sendAll = () => [client.send(foreign(), true), client.send(['o', foreign()], true), client.send('x')]
      client.onConnect = () => assert.equal(sendAll(), [true, true, true])
      assert.equal(sendAll(), [true, true, true])
      await until(() => answers.length === 12)
      assert.equal([worker.counters.bytesIn, answers.filter((word) => word === 'hi').length], [14, 6])
      client.close()
    })
  },
)

onEngines('what its sender has spoiled before the look-up was over costs that datagram alone', async () => {
  const errors: string[] = []
  const received: string[] = []
  await serving({ onMessage: (_peer: unknown, bytes: Buffer) => received.push(`${bytes}`) }, async ({ port }) => {
    const onError = (_client: unknown, code: number, message: string) => errors.push(`${code} ${message}`)
    const client = new AsyncUdpConnection(`udp://127.0.0.1:${port}`, { onError })
    const spoiled = ['x']
    for (const bytes of ['one', spoiled, 'two']) assert.ok(client.send(bytes, true))
    spoiled.push(7 as never)
    await until(() => received.length === 2 && errors.length === 1)
    assert.equal([...received, client.getStatus(false)], ['one', 'two', 'ESTABLISHED'])
    assert.match(errors[0] ?? '', /^2 send 127\.0\.0\.1:/)
    assert.is(client.getSendBufferQueueSize(), 0)
    client.close()
  })
})

onEngines(
  'a client that is closed by what it hears of a spoiled datagram sends the others, and stays closed',
  async () => {
    const events: string[] = []
    const received: string[] = []
    await serving({ onMessage: (_peer: unknown, bytes: Buffer) => received.push(`${bytes}`) }, async ({ port }) => {
      const client = new AsyncUdpConnection(`udp://127.0.0.1:${port}`, {
        onConnect: () => events.push('connect'),
        onClose: () => events.push('close'),
        onError: (one, code) => {
          events.push(`error ${code}`)
          one.close()
        },
      })
      const spoiled = ['x']
      for (const bytes of ['one', spoiled, 'two']) assert.ok(client.send(bytes, true))
      spoiled.push(7 as never)
      await until(() => received.length === 2)
      assert.equal([...events, client.getStatus(false)], ['error 2', 'close', 'CLOSED'])
    })
  },
)

onEngines('a client hears that nobody is there, and can be used on', async () => {
  const endpoint = await freeEndpoint('127.0.0.1', 0)
  const errors: string[] = []
  const client = new AsyncUdpConnection(`udp://${endpoint}`, {
    onError: (_client, code, message) => errors.push(`${code} ${message}`),
  })
  client.send('anybody?')
  await until(() => errors.length > 0)
  assert.match(errors[0] ?? '', /^2 \w+ 127\.0\.0\.1:\d+: ECONNREFUSED/)
  assert.is(client.getStatus(), 2)
  client.close()
})

onEngines('what could not be sent before a close is told and counted, after onClose', async () => {
  const endpoint = await freeEndpoint('127.0.0.1', 0)
  const events: string[] = []
  // The kernel is asked before each: the first one's ICMP error is there when the second is sent.
  const client = new AsyncUdpConnection(`udp://${endpoint}`, {
    maxSendBufferSize: 1,
    onConnect: () => {
      assert.equal([client.send('one'), client.send('two')], [true, true])
      client.close()
    },
    onClose: () => events.push('close'),
    onError: (_client, code, message) => events.push(`${code} ${message}`),
  })
  client.connect()
  await until(() => events.length === 2)
  assert.is(events[0], 'close')
  assert.is(events[1], `2 send ${endpoint}: ECONNREFUSED (connection refused)`)
})

onEngines('a name that does not exist: onError 1, then onClose', async () => {
  const events: string[] = []
  const client = new AsyncUdpConnection(`udp://${NO_SUCH_HOST}:9`)
  client.onError = (_client, code) => events.push(`error ${code}`)
  client.onClose = () => events.push('close')
  client.connect()
  await until(() => events.length === 2)
  assert.equal(events, ['error 1', 'close'])
  assert.is(client.send('x'), false)
})

onEngines('an address that is refused before anything is sent: onError 1, then onClose', async () => {
  const events: string[] = []
  const client = new AsyncUdpConnection('udp://255.255.255.255:9', {
    // a broadcast, which takes a permission
    onError: (_client, code, message) => events.push(`error ${code} ${message}`),
    onClose: () => events.push('close'),
  })
  client.send('x')
  await until(() => events.length === 3)
  assert.match(events[0] ?? '', /^error 1 connect 255\.255\.255\.255:9: EACCES/)
  assert.equal(events.slice(1), ['close', 'error 2 1 datagram not sent'])
})

test('node: a late answer to where nothing can be sent is told, and holds up nobody', async () => {
  let holds = 0
  const hold = () => {
    holds++
    return () => void holds--
  }
  const expected = await freeEndpoint('127.0.0.1', 0)
  const server = await UdpServer.open({ fd: -1, expected }, () => undefined, hold)
  server.close()
  await until(() => holds === 0)
  const failures: string[] = []
  server.send('x', '255.255.255.255', 9, ({ message }) => failures.push(message))
  await until(() => holds === 0)
  assert.match(failures.join(), /^send 255\.255\.255\.255:9: EACCES/)
})

onEngines(
  'an onError that fails is logged: a peer cannot end the process by a datagram that cannot be read',
  async () => {
    let told = 0
    const onError = async () => {
      told++
      throw new Error('on purpose')
    }
    const decode = () => {
      throw new Error('not one of ours')
    }
    await serving({ protocol: { ...frame, decode }, onError }, async ({ peer, worker }) => {
      peer.send('?')
      await until(() => told === 2 && worker.unsettled === 0) // of the datagram, and of onError
      await nextTurn()
      assert.is(told, 2)
    })
  },
)

test('an onError of undefined is none: the error itself is logged, of a server and of a client', async () => {
  const lines: string[] = []
  const onMessage = () => {
    throw new Error('the real cause')
  }
  await serving({ onMessage }, async ({ peer, worker }) => {
    worker.onError = undefined as never
    const looksUp = () => {
      const client = new AsyncUdpConnection(`udp://${NO_SUCH_HOST}:9`)
      client.onError = undefined as never
      client.connect()
    }
    sendLogTo((line) => lines.push(line))
    const isLogged = (error: RegExp) => lines.some((line) => error.test(line))
    const hasServers = () => isLogged(/error 4: Error: the real cause/)
    const hasClients = () => isLogged(new RegExp(`error 1: .*${NO_SUCH_HOST}`))
    try {
      // Ten lines a second are logged, of earlier tests too.
      await until(() => {
        peer.send('x')
        return hasServers()
      })
      await until(() => {
        looksUp()
        return hasClients()
      })
    } finally {
      sendLogTo(null)
    }
  })
})

test('a look-up fails: what waited for it is told, and nothing more is taken', async () => {
  const events: string[] = []
  const client = new AsyncUdpConnection(`udp://${NO_SUCH_HOST}:9`)
  client.onError = (_client, code, message) => {
    events.push(code === 1 ? `error 1, sends ${client.send('more')}` : `error ${code} ${message}`)
  }
  client.onClose = () => void events.push('close')
  assert.equal([client.send('one'), client.send('two')], [true, true])
  await until(() => events.length > 3)
  assert.equal(events, [
    'error 2 connection is closed',
    'error 1, sends false',
    'close',
    'error 2 2 datagrams not sent',
  ])
})

test('what waits for the look-up counts as unsent, until it is sent or given up', async () => {
  const clients = ['localhost', NO_SUCH_HOST, '127.0.0.1'].map((host) => new AsyncUdpConnection(`udp://${host}:9`))
  for (const client of clients) client.onError = () => undefined
  for (const client of clients) client.send('four')
  assert.equal(unsentByClients(), { clients: 3, bytes: 12 })
  clients[2]?.close() // sends first
  await until(() => unsentByClients().clients === 0)
  for (const client of clients) client.close()
})

onEngines('nothing is refused that the kernel was not asked to take', async () => {
  const taken: boolean[] = []
  const send20 = (to: { send(text: string): boolean }) => {
    for (let n = 0; n < 20; n++) taken.push(to.send('x'.repeat(1000)))
  }
  const received: number[] = []
  const onMessage = (connection: AnyUdpConnection, message: Buffer) => {
    if (message.length === 1) send20(connection)
    else received.push(message.length)
  }
  await serving({ maxSendBufferSize: 4000, onMessage }, async ({ peer, port }) => {
    peer.send('?')
    await until(() => peer.received.length === 20)
    const client = new AsyncUdpConnection(`udp://127.0.0.1:${port}`, { maxSendBufferSize: 4000 })
    client.onConnect = () => send20(client)
    client.connect()
    await until(() => received.length === 20)
    assert.equal(taken, Array(40).fill(true))
    client.close()
  })
})

test('what waits for the look-up is bounded', () => {
  const errors: number[] = []
  const client = new AsyncUdpConnection('udp://127.0.0.1:9', { maxSendBufferSize: 4 })
  client.onError = (_client, code) => errors.push(code)
  assert.equal([client.send('1234'), client.send('5'), errors], [true, false, [2]])
  client.close()
})

test('a client refuses what cannot be', () => {
  assert.throws(() => new AsyncUdpConnection('udp://127.0.0.1:0'), hasCode('ERR_BAD_ADDRESS'))
  assert.throws(() => new AsyncUdpConnection('tcp://127.0.0.1:1'), hasCode('ERR_NOT_FOR_DATAGRAMS'))
  assert.throws(() => new AsyncUdpConnection('gopher://127.0.0.1:1'), hasCode('ERR_UNKNOWN_SCHEME'))
})

onEngines('what waits behind a handler that closes its client is dropped: nothing comes after onClose', async () => {
  const onMessage = (connection: AnyUdpConnection) => {
    for (const word of ['one', 'two', 'three']) connection.send(word)
  }
  await serving({ onMessage }, async ({ port }) => {
    const events: string[] = []
    const handled = deferred()
    let arrived = 0
    const decode = (bytes: Buffer) => {
      arrived++
      return bytes.toString()
    }
    const protocol = { name: 'words', input: () => 0, decode, encode: String }
    const client = new AsyncUdpConnection(`udp://127.0.0.1:${port}`, { protocol, maxDatagramsInFlight: 1 })
    client.onClose = () => events.push('close')
    client.onMessage = async (_client, word) => {
      events.push(word)
      await handled.promise
      client.close()
    }
    client.send('go')
    await until(() => arrived === 3)
    handled.resolve()
    await until(() => events.includes('close'))
    await nextTurn()
    assert.equal(events, ['one', 'close'])
  })
})

onEngines('what a handler of a client throws is told as 4', async () => {
  await serving({ onMessage: (connection: AnyUdpConnection) => connection.send('x') }, async ({ port }) => {
    const errors: string[] = []
    const client = new AsyncUdpConnection(`udp://127.0.0.1:${port}`)
    client.onConnect = () => {
      throw new Error('in onConnect')
    }
    client.onMessage = async () => {
      throw new Error('in onMessage')
    }
    client.onError = (_client, code, message) => errors.push(`${code} ${message}`)
    client.send('hello')
    await until(() => errors.length === 2)
    assert.equal(errors, ['4 in onConnect', '4 in onMessage'])
    client.close()
  })
})

test.run()
