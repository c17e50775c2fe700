// How a Worker comes to its connections: it listens, on its own sockets and for siblings that are not there, takes what comes
// as far as limits and the gate allow, and gives its listeners back for a while when they do not. The master has the sockets
// all the while, so what comes waits in the kernel's queue, or siblings take it.

import { Connection } from './connection.ts'
import { type ConnectionHost, kGone, processClock } from './connection-host.ts'
import { kOpen } from './connection-symbols.ts'
import { DatagramInbox } from './datagram-inbox.ts'
import { messageOf, SystemError } from './errors.ts'
import { Gate, type GateLimits, PerAddress } from './gate.ts'
import { Handshake } from './handshake.ts'
import { LimitedLog, log } from './log.ts'
import { deadlines } from './loop/deadlines.ts'
import { serveDatagrams } from './net/datagrams.ts'
import { areDescriptorsScarce } from './net/descriptors.ts'
import { chooseEngine } from './net/engines.ts'
import { type GivenSocket, registry } from './process/group.ts'
import type { AnyProtocol } from './protocol.ts'
import { Proxied, type ProxyProtocolOptions, ProxyRules } from './proxied.ts'
import { StandIns } from './stand-ins.ts'
import type { Listener, Socket, SocketEvents } from './transport.ts'
import { UdpConnection, type UdpHost } from './udp-connection.ts'

/** Its Worker: the owner of the connections. At an address whose transport is UDP its callbacks are those of a UdpHost instead. */
export interface AcceptingWorker extends ConnectionHost, GateLimits {
  readonly backlog: number
  readonly maxConnectionsPerIp: number
  readonly proxyProtocol: ProxyProtocolOptions | null
}

/** What a Worker says of itself only here. */
export interface AcceptingRole {
  readonly protocol: AnyProtocol
  readonly isUdp: boolean
  /** TLS from the first byte on. */
  readonly isSecure: boolean
  readonly isLeaving: boolean
  /** So many connections came at once that the master is to know. */
  reportBurst(): void
}

/** A socket that somebody bound, here or in the master. */
export interface Bound {
  readonly fd?: number
  readonly handle?: unknown
  readonly expected: string
}

/** Descriptors that run out again after less than this are the same story. */
const EPISODE_MS = 5000
/** So many new connections are worth a report before the next heartbeat. */
const BURST = 16
const BURST_EVERY_MS = 20

const refusals = new LimitedLog()

export class Acceptor {
  /** What was bound; empty until then. */
  endpoint = ''
  /** What it asks the master for when it listens again: nothing for the declared socket. */
  socketName = ''
  readonly #worker: AcceptingWorker
  readonly #role: AcceptingRole
  readonly #gate: Gate
  readonly #standIns = new StandIns(({ handle, endpoint }) => this.#listener({ handle, expected: endpoint }))
  #listeners: Listener[] = []
  #perAddress: PerAddress | null = null
  #isResting = false
  #isScarce = false
  #scarceAt = Number.NEGATIVE_INFINITY
  /** TLS handshakes. */
  #shaking = 0
  #restTimer = 0
  #takenSinceReport = 0
  #reportedAt = 0

  constructor(worker: AcceptingWorker, role: AcceptingRole) {
    this.#worker = worker
    this.#role = role
    this.#gate = new Gate(worker, processClock)
  }

  get isListening(): boolean {
    return this.#listeners.length > 0
  }

  /** Beyond so many connections its siblings have fewer. */
  set share(connections: number) {
    this.#gate.share = connections
  }

  /** Accepts on a socket that somebody bound. Rejects with a SystemError. */
  async listen(source: Bound): Promise<void> {
    this.endpoint = source.expected
    const listener = await this.#listener(source)
    if (!this.#role.isLeaving && !this.#isResting) this.#listeners.push(listener)
    else listener.close() // told to leave or rest while it started
  }

  #listener(source: Bound): Promise<Listener> {
    const protocol = this.#role.protocol
    if (this.#role.isUdp) return this.#receive(source, protocol)
    const rules = this.#worker.proxyProtocol === null ? null : new ProxyRules(this.#worker.proxyProtocol)
    const accept = (socket: Socket) => this.#welcome(socket, protocol)
    const welcome = rules === null ? accept : (socket: Socket) => Proxied.begin(socket, rules, this.#worker, accept)
    const room = () => this.#gate.room(this.#worker.connections.size + this.#shaking)
    const options = { ...source, backlog: this.#worker.backlog, room, onScarce: () => this.#runShort() }
    return chooseEngine(registry().engine, this.#role.isSecure).engine.listen(options, welcome)
  }

  #receive({ fd = -1, expected }: Bound, protocol: AnyProtocol): Promise<Listener> {
    const host = this.#worker as unknown as UdpHost // its callbacks are, at an address whose transport is UDP
    const inbox = new DatagramInbox(host)
    const hold = () => {
      this.#worker.unsettled++
      return () => {
        if (--this.#worker.unsettled === 0) this.#worker[kGone]()
      }
    }
    return serveDatagrams(
      registry().engine,
      { fd, expected },
      (bytes, ip, port, socket) => inbox.take(new UdpConnection(host, socket, protocol, ip, port), bytes),
      hold,
    )
  }

  /**
   * For a sibling that is not there, until `relieve`. Rejects with a SystemError. The node engine (TLS) asks for no room, and
   * this one does not rest, since it could not be asked for again: it takes what comes, whatever the limits are.
   */
  async standIn(turn: number, socket: GivenSocket): Promise<void> {
    if (!this.#role.isLeaving) await this.#standIns.begin(turn, socket)
  }

  relieve(turn: number): void {
    this.#standIns.end(turn)
  }

  /** Nobody comes in any more. */
  close(): void {
    for (const listener of this.#listeners.splice(0)) listener.close()
    this.#standIns.endAll()
  }

  /** Gives its listeners back for a while; the master keeps the sockets, and gives them again. */
  #rest(ms: number): void {
    if (registry().requestSocket === null) return // not a process of a server: there is nobody to take them
    for (const listener of this.#listeners.splice(0)) listener.close()
    this.#isResting = true
    deadlines.cancel(this.#restTimer)
    this.#restTimer = ms === Number.POSITIVE_INFINITY ? 0 : deadlines.after(ms, () => this.#goOn())
  }

  #goOn(): void {
    if (!this.#isResting || this.#role.isLeaving) return
    this.#isScarce &&= areDescriptorsScarce()
    if (this.#isScarce) {
      this.#scarceAt = processClock.now() // it is one story, however long it takes
      return this.#rest(this.#gate.scarceMs)
    }
    this.#isResting = false
    deadlines.cancel(this.#restTimer)
    void this.#listenAgain().catch((error) => {
      this.#isScarce = true // it may be for that
      log(`cannot listen again: ${messageOf(error)}`)
      this.#rest(this.#gate.scarceMs)
    })
  }

  async #listenAgain(): Promise<void> {
    const given = await registry().requestSocket?.(this.socketName)
    if (given?.handle === undefined) throw new SystemError('EMFILE', 'recvmsg', this.endpoint) // it could not come in
    await this.listen({ handle: given.handle, expected: given.endpoint })
  }

  /** Descriptors are nearly used up: node:net would take what comes and close it. */
  #runShort(): void {
    const time = processClock.now()
    const isNews = time - this.#scarceAt > EPISODE_MS
    this.#scarceAt = time
    this.#isScarce = true
    if (isNews) log(`descriptors run out: connections wait until some are free (see 'ulimit -n')`)
    this.#rest(this.#gate.scarceMs)
  }

  /** After a connection: how many there are may be enough. */
  #lookAtGate(): void {
    if (++this.#takenSinceReport >= BURST) this.#reportBurst()
    const restMs = this.#gate.taken(this.#worker.connections.size + this.#shaking)
    if (restMs > 0 && !this.#isResting) this.#rest(restMs)
  }

  /** Not more often than a person would notice: short connections by the thousand are not the master's business. */
  #reportBurst(): void {
    const time = processClock.now()
    if (time - this.#reportedAt < BURST_EVERY_MS) return
    this.#reportedAt = time
    this.#takenSinceReport = 0
    this.#role.reportBurst()
  }

  #isWelcome(socket: Socket): boolean {
    if ((this.#worker.maxConnectionsPerIp === 0 && this.#perAddress === null) || socket.remoteIp === '') return true
    this.#perAddress ??= new PerAddress(Array.from(this.#worker.connections.values(), (each) => each.getRemoteIp()))
    if (this.#perAddress.take(socket.remoteIp, this.#worker.maxConnectionsPerIp || Number.POSITIVE_INFINITY))
      return true
    this.#worker.counters.refused++
    refusals.log(
      `refused ${socket.remoteIp}: it has ${this.#worker.maxConnectionsPerIp} connections (maxConnectionsPerIp)`,
    )
    return false
  }

  /** From a socket to a connection: limits, TLS, `onConnect`. Null refuses it. */
  #welcome(socket: Socket, protocol: AnyProtocol): SocketEvents | null {
    if (!this.#isWelcome(socket)) return null
    const { tls } = this.#worker
    if (tls === null || !this.#role.isSecure) return this.#accept(socket, protocol)
    this.#shaking++
    this.#lookAtGate()
    const accept = (secured: Socket) => {
      this.#shaking--
      return this.#accept(secured, protocol)
    }
    return Handshake.begin(socket, tls, this.#worker, accept, () => {
      this.#shaking--
      this.farewell(socket.remoteIp)
    })
  }

  #accept(socket: Socket, protocol: AnyProtocol): SocketEvents | null {
    try {
      const connection = new Connection(socket, protocol, this.#worker)
      connection[kOpen]()
      if (socket.tls === null) this.#lookAtGate()
      return connection
    } catch (error) {
      log(`protocol '${protocol.name}' cannot open a connection: ${error instanceof Error ? error.stack : error}`)
      this.farewell(socket.remoteIp)
      return null
    }
  }

  /** There is one less. */
  farewell(ip: string): void {
    this.#perAddress?.release(ip)
    if (this.#isResting && this.#restTimer === 0 && this.#gate.hasRoom(this.#worker.connections.size + this.#shaking))
      this.#goOn()
  }
}
