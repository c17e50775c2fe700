// UDP on node:dgram, public API only: a server's socket, bound here or inherited, and a client's. Each datagram is one
// system call: dgram has no sendmmsg(2). A network error (ICMP, ENETUNREACH) is reported and closes nothing.

import type { RemoteInfo, Socket, SocketOptions } from 'node:dgram'
import { isIPv6 } from 'node:net'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { formatEndpoint, parseEndpoint } from '../endpoint.ts'
import { SystemError, systemErrorOf } from '../errors.ts'
import { LimitedLog } from '../log.ts'
import { nothing } from '../nothing.ts'
import type { Encoded } from '../protocol.ts'
import type { DatagramSocket, Listener } from '../transport.ts'
import { resolve } from './bound-socket.ts'

/**
 * A datagram arrived; the receiver owns its bytes. `localIp` is the address it was sent to, if the socket has several
 * and this is known, else empty.
 */
export type Receive = (bytes: Buffer, ip: string, port: number, socket: DatagramSocket, localIp: string) => void

/** A client's socket, connected. */
export interface DatagramClient extends DatagramSocket {
  readonly remoteIp: string
  /** Stops receiving; what is queued is still sent, and what cannot be is still reported. Idempotent. */
  close(): Promise<void>
}

export interface DatagramSource {
  /** An inherited descriptor of a bound socket, or -1: then it is bound here. */
  readonly fd: number
  /** The IP address and port that is bound, or must be. */
  readonly expected: string
}

interface Sharing {
  readonly reusePort?: boolean
  readonly reuseAddr?: boolean
}

/**
 * Limit of turns of the loop, each of which reads up to 32 datagrams: a leaving process reads what had arrived, but
 * does end.
 */
export const MAX_LAST_TURNS = 64

const errors = new LimitedLog()

/**
 * Whether processes can each bind the same port: node:dgram's `reusePort`, since 23.1, on systems that share evenly.
 */
export function canReusePort(version = process.versions.node, platform = process.platform): boolean {
  const [major = 0, minor = 0] = version.split('.').map(Number)
  return (major > 23 || (major === 23 && minor >= 1)) && (platform === 'linux' || platform === 'freebsd')
}

/**
 * A server's socket.
 *
 * To leave, a process must stop receiving and still answer the messages it has. dgram cannot stop reading without
 * closing, so the socket is closed, and each late answer is sent from a socket that is bound to the same address for
 * that moment and connected to the peer, so that it receives no other peer's datagrams.
 */
export class UdpServer implements DatagramSocket, Listener {
  readonly localIp: string
  readonly localPort: number
  readonly #isIPv6: boolean
  readonly #socket: Socket
  readonly #receive: Receive
  readonly #hold: () => () => void
  /** How other sockets may be bound to the same address at the same time. libuv sets SO_REUSEADDR on inherited ones. */
  readonly #sharing: Sharing
  #isLeaving = false
  #isClosed = false
  #received = 0

  private constructor(socket: Socket, sharing: Sharing, receive: Receive, hold: () => () => void) {
    const { address, port } = socket.address()
    this.localIp = address
    this.localPort = port
    this.#isIPv6 = isIPv6(address)
    this.#socket = socket
    this.#sharing = sharing
    this.#receive = receive
    this.#hold = hold
    socket.on('message', (bytes, from) => this.#take(bytes, from))
    socket.on('error', (error) => errors.log(systemErrorOf(error, 'recvmsg', this.#endpoint).message))
  }

  /**
   * Starts receiving. Rejects with a SystemError.
   *
   * @param hold keeps the process alive until its result is called: for the last datagrams received and sent
   */
  static async open({ fd, expected }: DatagramSource, receive: Receive, hold: () => () => void): Promise<UdpServer> {
    const { ip, port } = parseEndpoint(expected)
    const isShared = fd < 0 && canReusePort()
    const socket = newSocket(ip, { reusePort: isShared })
    await bound(socket, expected, fd < 0 ? { address: ip, port, exclusive: true } : { fd, exclusive: true })
    const server = new UdpServer(socket, isShared ? { reusePort: true } : { reuseAddr: true }, receive, hold)
    if (server.#endpoint === expected) return server
    socket.close()
    throw new SystemError('EADDRNOTAVAIL', 'bind', expected)
  }

  get queuedBytes(): number {
    return this.#isClosed ? 0 : this.#socket.getSendQueueSize()
  }

  hasQueued(bytes: number): boolean {
    return this.queuedBytes >= bytes
  }

  send(bytes: Encoded, ip: string, port: number, failed: (error: SystemError) => void): void {
    if (this.#isClosed) this.#sendLate(bytes, ip, port, failed)
    else this.#socket.send(chunks(bytes), port, this.#known(ip), tellFailure(failed, ip, port))
  }

  /** Stops receiving once what has arrived has been read. `send` still works. */
  close(): void {
    if (this.#isLeaving) return
    this.#isLeaving = true
    void this.#leave(this.#hold())
  }

  async #leave(release: () => void): Promise<void> {
    for (let turn = 0, before = -1; turn < MAX_LAST_TURNS && before !== this.#received; turn++) {
      before = this.#received
      await nextTurn()
      await nextTurn() // the first may end in the current poll
    }
    while (this.#socket.getSendQueueSize() > 0) await nextTurn() // closing would lose it
    this.#isClosed = true
    this.#socket.close()
    release()
  }

  #sendLate(bytes: Encoded, ip: string, port: number, failed: (error: SystemError) => void): void {
    const release = this.#hold()
    const socket = newSocket(this.localIp, this.#sharing)
    const end = (error?: Error | null) => {
      socket.removeAllListeners('error').on('error', nothing) // one end is enough
      socket.close()
      if (error) failed(systemErrorOf(error, 'send', formatEndpoint(ip, port)))
      release()
    }
    socket.once('error', end)
    socket.on('message', (message, from) => this.#take(message, from)) // arrived between bind and connect: it is ours
    socket.bind({ address: this.localIp, port: this.localPort, exclusive: true }, () => {
      connect(socket, this.#known(ip), port, (error) => (error ? end(error) : socket.send(chunks(bytes), end)))
    })
  }

  /** An IPv6 socket knows an IPv4 address as a mapped one (RFC 4291 section 2.5.5.2). */
  #known(ip: string): string {
    return this.#isIPv6 && !ip.includes(':') ? `::ffff:${ip}` : ip
  }

  #take(bytes: Buffer, { address, port }: RemoteInfo): void {
    this.#received++
    this.#receive(bytes, address, port, this, '') // node:dgram does not say
  }

  get #endpoint(): string {
    return formatEndpoint(this.localIp, this.localPort)
  }
}

/**
 * A client's socket. It is connected, so it receives only from its peer, and learns when nothing listens there (ICMP).
 */
export class UdpClient implements DatagramClient {
  readonly remoteIp: string
  readonly localIp: string
  readonly localPort: number
  readonly #socket: Socket
  readonly #endpoint: string
  #isClosing = false
  #isClosed = false

  private constructor(socket: Socket, endpoint: string) {
    const { address, port } = socket.address()
    this.#socket = socket
    this.#endpoint = endpoint
    this.remoteIp = parseEndpoint(endpoint).ip
    this.localIp = address
    this.localPort = port
  }

  /** Looks the host up and takes a port. Rejects with a SystemError. */
  static async open(
    host: string,
    port: number,
    receive: (bytes: Buffer) => void,
    failed: (error: SystemError) => void,
  ): Promise<UdpClient> {
    const ip = await resolve(host)
    const endpoint = formatEndpoint(ip, port)
    const socket = newSocket(ip, {})
    await new Promise<void>((done, fail) => {
      connect(socket, ip, port, (error) => (error ? fail(systemErrorOf(error, 'connect', endpoint)) : done()))
    }).catch((error) => {
      socket.close()
      throw error
    })
    const client = new UdpClient(socket, endpoint)
    socket.on('message', receive)
    socket.on('error', (error) => failed(systemErrorOf(error, 'recvmsg', endpoint)))
    return client
  }

  get queuedBytes(): number {
    return this.#isClosed ? 0 : this.#socket.getSendQueueSize()
  }

  hasQueued(bytes: number): boolean {
    return this.queuedBytes >= bytes
  }

  send(bytes: Encoded, _ip: string, _port: number, failed: (error: SystemError) => void): void {
    this.#socket.send(chunks(bytes), (error) => {
      if (error !== null) failed(systemErrorOf(error, 'send', this.#endpoint))
    })
  }

  async close(): Promise<void> {
    if (this.#isClosing) return
    this.#isClosing = true
    this.#socket.removeAllListeners('message')
    this.#socket.removeAllListeners('error').on('error', nothing) // an ICMP message for a closing socket
    while (this.#socket.getSendQueueSize() > 0) await nextTurn()
    this.#isClosed = true
    this.#socket.close()
  }
}

/**
 * Binds and closes again, to learn whether an address is free, and which port 0 becomes. Rejects with a SystemError.
 */
export async function freeEndpoint(host: string, port: number): Promise<string> {
  const ip = await resolve(host)
  const socket = newSocket(ip, {})
  await bound(socket, formatEndpoint(ip, port), { address: ip, port, exclusive: true })
  const found = socket.address()
  await new Promise<void>((done) => {
    socket.close(done)
  })
  return formatEndpoint(found.address, found.port)
}

/** On failure dgram calls the callback, and then no 'error' listener: its types do not say so. */
function connect(socket: Socket, ip: string, port: number, done: (error?: Error | null) => void): void {
  socket.connect(port, ip, done)
}

function newSocket(ip: string, options: Sharing): Socket {
  // Addresses are looked up before they get here: a look-up in dgram costs each datagram a turn.
  const all = { type: isIPv6(ip) ? 'udp6' : 'udp4', lookup: asIs, ...options }
  const { createSocket } = process.getBuiltinModule('node:dgram') // loaded only where it is needed
  return createSocket(all as SocketOptions) // reusePort: newer than the types
}

function asIs(ip: string, family: unknown, tell: (error: null, ip: string, family: unknown) => void): void {
  tell(null, ip, family)
}

async function bound(socket: Socket, endpoint: string, options: Parameters<Socket['bind']>[0] & object): Promise<void> {
  try {
    await new Promise<void>((done, fail) => {
      socket.once('error', fail)
      socket.bind(options, done)
    })
  } catch (error) {
    socket.close()
    throw systemErrorOf(error, 'bind', endpoint)
  }
  socket.removeAllListeners('error')
}

/** A list is one datagram for dgram too. */
function chunks(bytes: Encoded): string | Uint8Array {
  return bytes as string | Uint8Array
}

function tellFailure(failed: (error: SystemError) => void, ip: string, port: number) {
  return (error: Error | null) => {
    if (error !== null) failed(systemErrorOf(error, 'send', formatEndpoint(ip, port)))
  }
}
