// How a Worker gets its connections: it listens on its own sockets and for absent siblings, accepts as far as limits
// and the gate allow, and gives its listeners back for a while when they do not. The master owns the sockets all the
// while, so new connections wait in the kernel's queue, or siblings accept them.

import { isIP } from 'node:net'
import { type ConnectionHost, processClock, settled } from '../connection/host.ts'
import { kOpen } from '../connection/symbols.ts'
import { Connection } from '../connection.ts'
import { messageOf, SystemError, stackOf, UsageError } from '../errors.ts'
import { LimitedLog, log } from '../log.ts'
import { deadlines } from '../loop/deadlines.ts'
import { serveDatagrams } from '../net/datagrams.ts'
import { areDescriptorsScarce } from '../net/descriptors.ts'
import { chooseEngine } from '../net/engines.ts'
import { type GivenSocket, registry, type WantedSocket } from '../process/group.ts'
import type { AnyProtocol } from '../protocol.ts'
import type { DatagramSocket, Handle, Listener, Socket, SocketEvents } from '../transport.ts'
import { DatagramInbox } from '../udp/datagram-inbox.ts'
import { type AnyUdpConnection, UdpConnection, type UdpHost } from '../udp/udp-connection.ts'
import type { ArrivalHost } from './arrival.ts'
import { Gate, type GateLimits, PerAddress } from './gate.ts'
import { ListenPlace } from './listen-place.ts'
import { ProxiedArrival, type ProxyProtocolOptions, ProxyRules } from './proxied-arrival.ts'
import { TlsArrival } from './tls-arrival.ts'

/** The Worker, owner of the connections. At a UDP address its callbacks are those of a UdpHost instead. */
export interface AcceptingWorker extends ConnectionHost, ArrivalHost, GateLimits {
  readonly backlog: number
  readonly maxConnectionsPerIp: number
  readonly proxyProtocol: ProxyProtocolOptions | null
}

/** The part of a Worker that only its acceptor uses. */
export interface AcceptingRole {
  readonly protocol: AnyProtocol
  readonly isUdp: boolean
  /** TLS from the first byte. */
  readonly isSecure: boolean
  readonly isLeaving: boolean
  /** This many connections arrived at once: the master should know before the next heartbeat. */
  reportBurst(): void
  /** It has been at its connection limit for a while, or has room again. */
  reportFull(isFull: boolean): void
}

/** A socket that is already bound, by this process or the master. */
export interface Bound {
  readonly fd?: number
  readonly handle?: Handle | null | undefined
  readonly expected: string
}

/** If descriptors run out again within this time, it counts as the same episode and is not logged again. */
const EPISODE_MS = 5000
/** This many new connections are worth a report before the next heartbeat. */
const BURST = 16
const BURST_EVERY_MS = 20
/**
 * Being full for less than this is not reported: at its limit, a worker with short connections is full again and again.
 */
const FULL_MS = 100

const refusals = new LimitedLog()
const DECLARED: WantedSocket = { address: '', nth: 0, turn: 0 }

export class Acceptor {
  /** The bound endpoint; empty until then. */
  endpoint = ''
  /** The socket to ask the master for when it listens again. */
  wanted = DECLARED
  readonly #worker: AcceptingWorker
  readonly #role: AcceptingRole
  readonly #gate: Gate
  /** Its own socket. */
  readonly #own = this.#place()
  /** Sockets of absent siblings, by turn: the master numbers the turns and says when one is over. */
  readonly #standIns = new Map<number, ListenPlace>()
  #perAddress: PerAddress | null = null
  /** Makes the peer at an address, once datagrams are received here. */
  #peerAt: ((ip: string, port: number, localIp: string) => AnyUdpConnection) | null = null
  /** Its own socket should be accepted on. */
  #isWanted = false
  #isPaused = false
  #isResting = false
  #isScarce = false
  #scarceAt = Number.NEGATIVE_INFINITY
  /** Accepted but not connections yet: their PROXY header or TLS handshake is still to come. */
  #arriving = 0
  #restTimer = 0
  #fullTimer = 0
  #isFullTold = false
  #takenSinceReport = 0
  #reportedAt = 0

  constructor(worker: AcceptingWorker, role: AcceptingRole) {
    this.#worker = worker
    this.#role = role
    this.#gate = new Gate(worker, processClock)
  }

  get isListening(): boolean {
    return this.#own.isOpen
  }

  /** With more connections than this, it has more than its siblings. */
  set share(connections: number) {
    this.#gate.share = connections
  }

  /** Accepts on a bound socket. Rejects with a SystemError. */
  async listen(source: Bound): Promise<void> {
    this.endpoint = source.expected
    this.#isWanted = true
    if (this.#isPaused) this.#rest(Number.POSITIVE_INFINITY)
    await this.#begin(this.#own, source)
  }

  /** Gives its own socket back, until `listen` is called again. */
  unlisten(): void {
    this.endpoint = ''
    this.wanted = DECLARED
    this.#isWanted = false
    this.#isResting = false
    deadlines.cancel(this.#restTimer)
    this.#tellRoom()
    this.#own.rest()
  }

  /** Stops accepting until `resume`. As when it is full: siblings accept, or connections wait in the kernel's queue. */
  get isPaused(): boolean {
    return this.#isPaused
  }

  pause(): void {
    this.#isPaused = true
    if (this.#isWanted) this.#rest(Number.POSITIVE_INFINITY)
  }

  resume(): void {
    this.#isPaused = false
    this.#goOn()
  }

  #begin(place: ListenPlace, source: Bound): Promise<void> {
    for (const other of this.#places) other.hold() // it gets a share of the room now
    const opened = place.open(source)
    if (this.#role.isLeaving || this.#isResting) place.rest() // asked to while it started
    return opened
  }

  #place(): ListenPlace {
    const place: ListenPlace = new ListenPlace((source) => this.#listener(source, place))
    return place
  }

  get #places(): ListenPlace[] {
    return [this.#own, ...this.#standIns.values()]
  }

  #listener(source: Bound, place: ListenPlace): Promise<Listener> {
    const protocol = this.#role.protocol
    if (this.#role.isUdp) return this.#receive(source, protocol)
    const rules = this.#worker.proxyProtocol === null ? null : ProxyRules.of(this.#worker.proxyProtocol)
    const accept = (socket: Socket) => this.#enter(socket, protocol, rules)
    const room = () => this.#roomAt(place)
    const options = { ...source, backlog: this.#worker.backlog, room, onScarce: () => this.#runShort() }
    return chooseEngine(registry().engine, this.#role.isSecure).engine.listen(options, accept)
  }

  /**
   * Each listener gets an equal share. If that is below one, the listener that asks gets it and the others ask again
   * shortly.
   */
  #roomAt(place: ListenPlace): number {
    const places = this.#places
    const room = this.#gate.room(this.#present, places.length)
    if (this.#gate.left(this.#present) < places.length) for (const other of places) if (other !== place) other.hold()
    return room
  }

  get #present(): number {
    return this.#worker.connections.size + this.#arriving
  }

  async #receive({ fd = -1, expected }: Bound, protocol: AnyProtocol): Promise<Listener> {
    const host = this.#worker as unknown as UdpHost // at a UDP address its callbacks are those of a UdpHost
    const inbox = new DatagramInbox(host)
    const hold = () => {
      this.#worker.unsettled++
      return () => settled(this.#worker)
    }
    const peer = (socket: DatagramSocket, ip: string, port: number, localIp: string) =>
      new UdpConnection(host, socket, protocol, ip, port, localIp)
    const server = await serveDatagrams(
      registry().engine,
      { fd, expected },
      (bytes, ip, port, socket, localIp) => inbox.take(peer(socket, ip, port, localIp), bytes),
      hold,
    )
    this.#peerAt = (ip, port, localIp) => peer(server, ip, port, localIp)
    return server
  }

  /** Throws UsageError: ERR_NO_UDP, ERR_BAD_ADDRESS. */
  peerAt(ip: string, port: number, localIp: string): AnyUdpConnection {
    if (this.#peerAt === null)
      throw new UsageError('ERR_NO_UDP', 'peerAt() needs a Worker that receives datagrams: after it has started to')
    if (isIP(ip) === 0 || !Number.isInteger(port) || port < 1 || port > 65_535)
      throw new UsageError('ERR_BAD_ADDRESS', `peerAt('${ip}', ${port}): an IP address, and a port from 1 to 65535`)
    if (localIp !== '' && isIP(localIp) === 0)
      throw new UsageError('ERR_BAD_ADDRESS', `peerAt('${ip}', ${port}, '${localIp}'): the last is no IP address`)
    return this.#peerAt(ip, port, localIp)
  }

  /** Accepts for an absent sibling until it is relieved of this turn. */
  async standIn(turn: number, { handle, endpoint }: GivenSocket): Promise<void> {
    const place = this.#place()
    this.#standIns.set(turn, place)
    try {
      await this.#begin(place, { handle, expected: endpoint })
    } catch (error) {
      this.#cannotListen(error)
    }
  }

  /** Resolves when the socket of this turn is closed here. */
  async relieve(turn: number): Promise<void> {
    const place = this.#standIns.get(turn)
    this.#standIns.delete(turn)
    await place?.close()
  }

  /** Stops accepting for good. */
  close(): void {
    for (const place of this.#places) place.rest()
    deadlines.cancel(this.#fullTimer)
  }

  /** Gives its listeners back for a while; the master keeps the sockets and hands them out again. */
  #rest(ms: number): void {
    if (registry().requestSocket === null) return // not a process of a server: no master to give them back to
    for (const place of this.#places) place.rest()
    this.#isResting = true
    if (ms === Number.POSITIVE_INFINITY) this.#tellFull()
    deadlines.cancel(this.#restTimer)
    this.#restTimer = ms === Number.POSITIVE_INFINITY ? 0 : deadlines.after(ms, () => this.#goOn())
  }

  #goOn(): void {
    if (!this.#isResting || this.#isPaused || this.#role.isLeaving) return
    this.#isScarce &&= areDescriptorsScarce()
    if (this.#isScarce) {
      this.#scarceAt = processClock.now() // one episode, however long it takes
      return this.#rest(this.#gate.scarceMs)
    }
    if (this.#gate.left(this.#present) < 1) return this.#rest(Number.POSITIVE_INFINITY)
    this.#isResting = false
    deadlines.cancel(this.#restTimer)
    this.#tellRoom()
    const again = [...this.#standIns].map(([turn, place]) => place.open(this.#ask({ ...DECLARED, turn })))
    void Promise.all([...again, this.#own.open(this.#ask(this.wanted))]).catch((error) => this.#cannotListen(error))
  }

  async #ask(wanted: WantedSocket): Promise<Bound> {
    const given = await registry().requestSocket?.(wanted)
    if (given?.handle === undefined) throw new SystemError('EMFILE', 'recvmsg', this.endpoint) // it did not arrive
    return { handle: given.handle, expected: given.endpoint }
  }

  #cannotListen(error: unknown): void {
    this.#isScarce = true // descriptors may be the reason
    log(`cannot listen again: ${messageOf(error)}`)
    this.#rest(this.#gate.scarceMs)
  }

  /**
   * Reports that it is full, if that lasts: a socket of its own would keep getting its share although siblings have
   * room.
   */
  #tellFull(): void {
    if (this.#isFullTold) return
    deadlines.cancel(this.#fullTimer)
    this.#fullTimer = deadlines.after(FULL_MS, () => {
      this.#isFullTold = true
      this.#role.reportFull(true)
    })
  }

  #tellRoom(): void {
    deadlines.cancel(this.#fullTimer)
    if (this.#isFullTold) this.#role.reportFull(false)
    this.#isFullTold = false
  }

  /** Descriptors are nearly used up; node:net would accept further connections and close them. */
  #runShort(): void {
    const time = processClock.now()
    const isNews = time - this.#scarceAt > EPISODE_MS
    this.#scarceAt = time
    this.#isScarce = true
    if (isNews) log(`descriptors run out: connections wait until some are free (see 'ulimit -n')`)
    this.#rest(this.#gate.scarceMs)
  }

  /** After a connection: rests if the gate asks for it. */
  #lookAtGate(): void {
    if (++this.#takenSinceReport >= BURST) this.#reportBurst()
    const restMs = this.#gate.taken(this.#present)
    if (restMs > 0 && !this.#isResting) this.#rest(restMs)
  }

  /** No more often than a person would notice: the master need not know of thousands of short connections. */
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

  /**
   * Turns a socket into a connection: reads the PROXY header, applies limits, performs TLS, calls `onConnect`. Null
   * refuses it.
   */
  #enter(socket: Socket, protocol: AnyProtocol, rules: ProxyRules | null): SocketEvents | null {
    this.#arriving++
    const welcome = (known: Socket) => this.#welcome(known, protocol)
    const events =
      rules === null ? welcome(socket) : ProxiedArrival.begin(socket, rules, this.#worker, welcome, () => this.#lost())
    if (events !== null) this.#lookAtGate()
    return events
  }

  #welcome(socket: Socket, protocol: AnyProtocol): SocketEvents | null {
    if (!this.#isWelcome(socket)) {
      this.#lost()
      return null
    }
    const { tls } = this.#worker
    const accept = (ready: Socket) => this.#accept(ready, protocol)
    if (tls === null || !this.#role.isSecure) return accept(socket)
    return TlsArrival.begin(socket, tls, this.#worker, accept, () => this.#lost(socket.remoteIp))
  }

  #accept(socket: Socket, protocol: AnyProtocol): SocketEvents | null {
    this.#arriving--
    try {
      const connection = new Connection(socket, protocol, this.#worker)
      connection[kOpen]()
      return connection
    } catch (error) {
      log(`protocol '${protocol.name}' cannot open a connection: ${stackOf(error)}`)
      this.farewell(socket.remoteIp)
      return null
    }
  }

  /** An arrival did not become a connection; `ip` if its address was counted. */
  #lost(ip = ''): void {
    this.#arriving--
    this.farewell(ip)
  }

  /** A connection has gone. */
  farewell(ip: string): void {
    if (ip !== '') this.#perAddress?.release(ip)
    if (this.#isResting && this.#restTimer === 0 && this.#gate.hasRoom(this.#present)) this.#goOn()
  }
}
