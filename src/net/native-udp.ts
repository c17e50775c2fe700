// UDP on the native engine: a server's socket, inherited from the master, and a client's. As in udp.ts, a network error
// is reported and closes nothing.

import { closeSync } from 'node:fs'
import { setImmediate as nextTurn } from 'node:timers/promises'
import type { Descriptor } from '../addon-types.ts'
import { formatEndpoint } from '../endpoint.ts'
import { SystemError, systemErrorOf } from '../errors.ts'
import { LimitedLog } from '../log.ts'
import type { Encoded } from '../protocol.ts'
import type { DatagramSocket, Listener } from '../transport.ts'
import { resolve } from './bound-socket.ts'
import { ipAddress } from './ip-addresses.ts'
import { type DatagramEvents, NativeDatagrams } from './native-datagrams.ts'
import { started } from './native-engine.ts'
import { type DatagramClient, type DatagramSource, MAX_LAST_TURNS, type Receive } from './udp.ts'

const errors = new LimitedLog()

/**
 * A server's socket.
 *
 * To leave, a process must stop receiving and still answer the messages it has. The engine can pause, so the descriptor
 * stays open: it leaves the engine, which would keep the process alive for it, and returns, paused, for each late
 * answer. What arrives meanwhile waits in the socket's queue, which is shared with the siblings and the next process.
 */
export class NativeUdpServer implements DatagramSocket, Listener {
  readonly localIp: string
  readonly localPort: number
  readonly #events: DatagramEvents
  readonly #hold: () => () => void
  /** Null when it has left, and no late answer is on its way. */
  #socket: NativeDatagrams | null
  /** Closed by the garbage collector, when nothing is left that could answer. */
  #descriptor: Descriptor | null = null
  #isLeaving = false
  #received = 0

  private constructor(fd: number, endpoint: string, receive: Receive, hold: () => () => void) {
    const { address, port } = started().sys.socketName(fd)
    if (formatEndpoint(address, port) !== endpoint) throw new SystemError('EADDRNOTAVAIL', 'bind', endpoint)
    this.localIp = address
    this.localPort = port
    this.#hold = hold
    this.#events = {
      received: (bytes, ip, from, localIp) => {
        this.#received++
        receive(bytes, ip, from, this, localIp)
      },
      failed: (error) => errors.log(named(error, endpoint).message),
    }
    this.#socket = new NativeDatagrams(fd, this.#events)
  }

  /**
   * Starts receiving on an inherited descriptor, which it owns from then on. Rejects with a SystemError.
   *
   * @param hold keeps the process alive until its result is called: for the last datagrams received and sent
   */
  static async open(
    { fd, expected }: DatagramSource,
    receive: Receive,
    hold: () => () => void,
  ): Promise<NativeUdpServer> {
    try {
      return new NativeUdpServer(fd, expected, receive, hold)
    } catch (error) {
      closeSync(fd)
      throw error
    }
  }

  get queuedBytes(): number {
    return this.#socket?.queuedBytes ?? 0
  }

  hasQueued(bytes: number): boolean {
    return this.#socket?.hasQueued(bytes) ?? bytes <= 0
  }

  send(bytes: Encoded, ip: string, port: number, failed: (error: SystemError) => void, localIp = ''): void {
    const to = ipAddress(ip)
    const from = localIp === '' ? null : ipAddress(localIp)
    try {
      if (to === null) throw new SystemError('EINVAL', 'send', formatEndpoint(ip, port))
      this.#socket ??= this.#comeBack()
      this.#socket.send(bytes, to, port, failed, from)
    } catch (error) {
      setImmediate(failed, systemErrorOf(error, 'send', formatEndpoint(ip, port)))
    }
  }

  /**
   * Stops receiving once what has arrived has been read: at a stop there is no next process to read it. `send` still
   * works.
   */
  close(): void {
    if (this.#isLeaving) return
    this.#isLeaving = true
    void this.#leave(this.#socket as NativeDatagrams, this.#hold())
  }

  async #leave(socket: NativeDatagrams, release: () => void): Promise<void> {
    for (let turn = 0, before = -1; turn < MAX_LAST_TURNS && before !== this.#received; turn++) {
      before = this.#received
      await twoTurns()
    }
    socket.pause()
    await this.#part(socket, release)
  }

  /** Leaves the engine as soon as everything is sent and failures are reported. */
  async #part(socket: NativeDatagrams, release: () => void): Promise<void> {
    await done(socket)
    this.#takeOut(socket)
    release()
  }

  #takeOut(socket: NativeDatagrams): void {
    try {
      this.#descriptor ??= started().sys.duplicate(socket.fd)
    } catch (error) {
      errors.log(systemErrorOf(error, 'send', formatEndpoint(this.localIp, this.localPort)).message)
      return // no descriptor is free: it stays in the engine and answers from there
    }
    this.#socket = null
    socket.destroy()
  }

  /** Throws SystemError. */
  #comeBack(): NativeDatagrams {
    const { sys } = started()
    const copy = sys.duplicate(this.#descriptor?.fd ?? -1)
    const socket = new NativeDatagrams(copy.fd, this.#events)
    copy.release()
    socket.pause()
    void this.#part(socket, this.#hold())
    return socket
  }
}

/**
 * A client's socket. It is connected, so it receives only from its peer, and learns when nothing listens there (ICMP).
 */
export class NativeUdpClient implements DatagramClient {
  readonly remoteIp: string
  readonly localIp: string
  readonly localPort: number
  readonly #socket: NativeDatagrams
  readonly #endpoint: string
  #isClosed = false

  /** Throws SystemError. */
  private constructor(
    ip: string,
    port: number,
    receive: (bytes: Buffer) => void,
    failed: (error: SystemError) => void,
  ) {
    const { sys } = started()
    const descriptor = sys.connectDatagrams(ip, port)
    const name = sys.socketName(descriptor.fd)
    this.remoteIp = ip
    this.#endpoint = formatEndpoint(ip, port)
    this.localIp = name.address
    this.localPort = name.port
    this.#socket = new NativeDatagrams(descriptor.fd, {
      received: (bytes) => {
        if (!this.#isClosed) receive(bytes)
      },
      failed: (error) => {
        if (!this.#isClosed) failed(named(error, this.#endpoint))
      },
    })
    descriptor.release()
  }

  /** Looks the host up and takes a port. Rejects with a SystemError. */
  static async open(
    host: string,
    port: number,
    receive: (bytes: Buffer) => void,
    failed: (error: SystemError) => void,
  ): Promise<NativeUdpClient> {
    const ip = await resolve(host)
    return new NativeUdpClient(ip, port, receive, failed)
  }

  get queuedBytes(): number {
    return this.#socket.queuedBytes
  }

  hasQueued(bytes: number): boolean {
    return this.#socket.hasQueued(bytes)
  }

  send(bytes: Encoded, _ip: string, _port: number, failed: (error: SystemError) => void): void {
    this.#socket.send(bytes, null, 0, (error) => failed(named(error, this.#endpoint)))
  }

  async close(): Promise<void> {
    if (this.#isClosed) return
    this.#isClosed = true
    await done(this.#socket)
    this.#socket.destroy()
  }
}

/** Adds the address the error concerns. */
function named({ code, syscall }: SystemError, endpoint: string): SystemError {
  return new SystemError(code, syscall, endpoint)
}

/** Everything is sent, and failures are reported. */
async function done(socket: NativeDatagrams): Promise<void> {
  do {
    await socket.drained()
    await twoTurns()
  } while (socket.queuedBytes > 0)
}

/** Two turns: the first may end in the current poll. */
async function twoTurns(): Promise<void> {
  await nextTurn()
  await nextTurn()
}
