// The native engine behind the Transport interface: one call from C++ for everything that has happened, one flush for
// everything to send (native/README.md). It does no TLS: a stream that switches to TLS moves to the node engine.

import { closeSync } from 'node:fs'
import { addon } from '../addon.ts'
import type { NativeEngine, Sys } from '../addon-types.ts'
import { formatEndpoint } from '../endpoint.ts'
import { codeOf, SystemError } from '../errors.ts'
import { holdClock, releaseClock } from '../loop/clock.ts'
import type { Accept, ConnectTarget, Ends, Listener, ListenSource, Released, Socket, Transport } from '../transport.ts'
import { descriptorOf } from './descriptors.ts'
import { dial } from './dial.ts'
import { Isolation } from './isolation.ts'
import { NativeListener } from './native-listener.ts'
import {
  Flag,
  NativeSocket,
  type Owner,
  Pair,
  type SocketEngine,
  serveSockets,
  settleGathered,
} from './native-socket.ts'
import { STREAM } from './node-engine.ts'
import { EVENT_INTS, Header, Kind, Operation, Rings } from './rings.ts'

/** A batch yields to others after this long, whatever is left of it. */
const TURN_MS = 2
/** Number of events between two readings of the clock (40 ns each). */
const LOOK_EVERY = 8
const NO_BYTES = Buffer.alloc(0)

/** The native engine, or null if there is none. It starts when first used. */
export function nativeEngine(): Transport | null {
  const { sys, newEngine } = addon()
  return sys === null || newEngine === null ? null : lazy
}

const lazy: Transport = {
  name: 'native',
  copiesWrites: true, // into the ring, or into a copy of what the kernel does not take
  listen: (source, accept) => started().listen(source, accept),
  connect: (target, signal) => started().connect(target, signal),
  adopt: (released) => started().adopt(released),
}

let engine: Engine | null = null

/** The engine of this process. */
export function started(): Engine {
  const { sys, newEngine } = addon()
  if (sys === null || newEngine === null) throw new Error('there is no native engine') // nothing has its Transport
  engine ??= new Engine(sys, newEngine)
  return engine
}

export class Engine implements Omit<Transport, 'name' | 'copiesWrites'>, SocketEngine {
  readonly native: NativeEngine
  readonly rings: Rings
  readonly sys: Sys
  readonly owners: (Owner | null)[] = []
  readonly #isolation = new Isolation<Owner>()
  readonly #accepting: NativeListener[] = []
  /** Something was accepted in this batch, or a listener has no room. */
  #hasAccepted = false
  /** Listeners closed while there were events to handle. */
  readonly #closing: NativeListener[] = []
  /** Sockets to notify when everything has been sent. */
  #waiting: NativeSocket[] = []

  constructor(sys: Sys, newEngine: (onBatch: () => void, resource: object) => NativeEngine) {
    this.sys = sys
    this.native = newEngine(() => this.#onBatch(), this.#isolation.resource)
    this.rings = new Rings(this.native)
    serveSockets(this)
    process.on('exit', () => this.#flushAtExit())
  }

  /** What was sent in the batch in which the process ends still leaves. */
  #flushAtExit(): void {
    settleGathered()
    this.native.flush()
  }

  async listen(source: ListenSource, accept: Accept): Promise<Listener> {
    return new NativeListener(this, source, accept)
  }

  /** A stream of Node's is connected, through a proxy too; then the descriptor moves here. */
  async connect(target: ConnectTarget, signal: AbortSignal): Promise<Socket> {
    const stream = await dial(target, STREAM, signal)
    const ends: Ends = {
      remoteIp: stream.remoteAddress ?? '',
      remotePort: stream.remotePort ?? 0,
      localIp: stream.localAddress ?? '',
      localPort: stream.localPort ?? 0,
    }
    const rest: Buffer | null = stream.read()
    const fd = descriptorOf(stream)
    try {
      if (fd < 0) throw new SystemError('ECONNRESET', 'connect', ends.remoteIp) // it has failed meanwhile
      return this.adopt({ fd: this.#copy(fd, target), unread: rest ?? NO_BYTES, unsent: NO_BYTES, ends })
    } finally {
      stream.destroy()
    }
  }

  /** A client without descriptors is told that it could not connect. Throws a SystemError. */
  #copy(fd: number, { transport, path, host, port }: ConnectTarget): number {
    try {
      return this.sys.duplicate(fd).release()
    } catch (cause) {
      throw new SystemError(codeOf(cause), 'connect', transport === 'unix' ? path : formatEndpoint(host, port), {
        cause,
      })
    }
  }

  /** Nothing is received before `attach`. If it throws a SystemError, the descriptor is closed. */
  adopt({ fd, unread, unsent, ends }: Released): Socket {
    const slot = this.#take(fd, ends.remoteIp)
    const socket = new NativeSocket(slot, this.native.generation(slot), Flag.Unattached)
    this.owners[slot] = socket
    socket.present(ends, null)
    if (unsent.length > 0) socket.write(unsent)
    if (unread.length > 0) socket.unread(unread)
    return socket
  }

  #take(fd: number, ip: string): number {
    try {
      return this.native.adopt(fd, true)
    } catch (error) {
      closeSync(fd)
      const { errno } = error as { errno?: number }
      throw errno === undefined ? error : SystemError.fromErrno(errno, 'adopt', ip)
    }
  }

  /** What this batch still contains for a socket that leaves: copied, since it will no longer be delivered. */
  takeReceived(slot: number, generation: number): Buffer {
    const { header, events } = this.rings
    const pieces: Buffer[] = []
    for (let next = header[Header.EventNext] as number; next < (header[Header.EventCount] as number); next++) {
      const [of, since, kind, offset = 0, size = 0] = events.subarray(next * EVENT_INTS, (next + 1) * EVENT_INTS)
      if (of === slot && since === generation && kind === Kind.Received) pieces.push(this.rings.received(offset, size))
    }
    return Buffer.concat(pieces)
  }

  awaitSent(socket: NativeSocket): void {
    if (this.#waiting.push(socket) === 1) this.rings.header[Header.WantsCall] = 1
  }

  /** Serves one connection in an async context apart from the others. */
  isolate(owner: Owner, task: (owner: Owner) => void): void {
    this.#isolation.run(task, owner, 0)
  }

  /** What follows is unrelated to what the same owner received before: datagrams of two peers, for example. */
  standApart(): void {
    this.#isolation.leave()
  }

  #onBatch(): void {
    const { header } = this.rings
    const count = header[Header.EventCount] as number
    try {
      this.#serveAll(count)
    } finally {
      // Runs even if something was thrown, which may have been in the last event of the batch: others depend on this.
      this.#isolation.leave()
      releaseClock()
      if (header[Header.EventNext] === count) this.#endBatch()
      if (this.#waiting.length > 0) this.#tellSent()
    }
  }

  #serveAll(count: number): void {
    const { header, events } = this.rings
    const began = holdClock()
    for (let next = header[Header.EventNext] as number; next < count; ) {
      const at = next * EVENT_INTS
      header[Header.EventNext] = ++next
      if (events[at + 2] === Kind.Accepted) this.#accepted(at)
      else this.#serve(at)
      if (next % LOOK_EVERY === 0 && next < count && holdClock() - began > TURN_MS) break
    }
  }

  #serve(at: number): void {
    const { events } = this.rings
    const owner = this.owners[events[at] as number]
    if (owner !== null && owner !== undefined && owner.generation === events[at + 1])
      this.#isolation.run(serve, owner, at)
  }

  #accepted(at: number): void {
    const { rings } = this
    const [slot = 0, generation = 0, , offset = 0, listenerSlot = 0] = rings.events.subarray(at, at + EVENT_INTS)
    if (rings.receive.length === 0) rings.renew()
    const pair = offset >> 2
    const since = rings.receiveInts[pair + Pair.ListenerGeneration] as number
    this.#hasAccepted = true
    const is = (one: NativeListener) => one.slot === listenerSlot && one.generation === since
    const listener = this.#accepting.find(is) ?? this.#closing.find(is)
    if (listener === undefined) this.rings.operate(slot, Operation.Destroy)
    else listener.accept(slot, generation, pair)
  }

  begin(listener: NativeListener): void {
    this.#hasAccepted = true
    this.#accepting.push(listener)
    this.owners[listener.slot] = listener
  }

  /** Connections it has accepted in this batch are still served. */
  end(listener: NativeListener): void {
    this.#accepting.splice(this.#accepting.indexOf(listener), 1)
    this.#closing.push(listener)
    this.#hasAccepted = true
    this.owners[listener.slot] = null
    const released = this.native.release(listener.slot, listener.generation)
    if (released !== undefined) closeSync(released.fd)
  }

  /** If connections arrived, or a listener had no room, asks the listeners how many to accept next. */
  #endBatch(): void {
    if (!this.#hasAccepted) return
    this.#hasAccepted = false
    this.#closing.length = 0
    for (const listener of [...this.#accepting]) if (!listener.makeRoom()) this.#hasAccepted = true // it may close one
  }

  #tellSent(): void {
    const waiting = this.#waiting
    this.#waiting = []
    let told = 0
    try {
      while (told < waiting.length) this.#isolation.run(tellSent, waiting[told++] as NativeSocket, 0)
    } finally {
      for (const socket of waiting.slice(told)) this.awaitSent(socket) // one has thrown: the others get the next call
      this.#isolation.leave()
    }
  }
}

function serve(owner: Owner, at: number): void {
  const { events } = (engine as Engine).rings
  owner.handle(events[at + 2] as Kind, events[at + 3] as number, events[at + 4] as number)
}

function tellSent(owner: Owner): void {
  ;(owner as NativeSocket).sent()
}
