// The native engine behind the Transport interface: one call from C++ for all that has happened, one flush for all that was
// sent (native/README.md). TLS is not its business: a stream that goes on under TLS moves to the node engine.

import { AsyncResource } from 'node:async_hooks'
import { closeSync } from 'node:fs'
import { addon, type NativeEngine, type Sys } from '../addon.ts'
import { formatEndpoint } from '../endpoint.ts'
import { codeOf, SystemError } from '../errors.ts'
import { LimitedLog } from '../log.ts'
import { holdClock, releaseClock } from '../loop/clock.ts'
import { deadlines } from '../loop/deadlines.ts'
import { type Encoded, isChunk, type Peer, type ProxyInfo, type TlsState } from '../protocol.ts'
import {
  type Accept,
  type ConnectTarget,
  kClosed,
  kDrained,
  kEnded,
  kReceived,
  type Listener,
  type ListenSource,
  type Released,
  type Socket,
  type SocketEvents,
  type Tls,
  type Transport,
} from '../transport.ts'
import { scarceFrom } from './descriptors.ts'
import { dial } from './dial.ts'
import { ipv4Text, ipv6Text } from './ip.ts'
import { Isolation } from './isolation.ts'
import { KEEPALIVE_MS, nodeEngine, STREAM } from './node-engine.ts'
import { DIRECT_FROM, EVENT_INTS, Header, Kind, Operation, Rings } from './rings.ts'

/** A batch gives others their turn after so long, whatever is left of it. */
const TURN_MS = 2
/** How many events between two looks at the clock (40 ns each). */
const LOOK_EVERY = 8
/** Connections of one listener in one batch: siblings take their share meanwhile. */
const ACCEPTS = 16
/** A listener without descriptors tries again after so long: siblings take what comes meanwhile. */
const SCARCE_MS = 200

/** Null where there is none. It begins to work when it gets something to do. */
export function nativeEngine(): Transport | null {
  const { sys, newEngine } = addon()
  return sys === null || newEngine === null ? null : lazy
}

const lazy: Transport = {
  name: 'native',
  listen: (source, accept) => started().listen(source, accept),
  connect: (target, signal) => started().connect(target, signal),
  adopt: (released) => started().adopt(released),
}

let engine: Engine | null = null

/** The engine of this process. */
export function started(): Engine {
  const { sys, newEngine } = addon()
  if (sys === null || newEngine === null) throw new Error('there is no native engine') // nobody has its Transport
  engine ??= new Engine(sys, newEngine)
  return engine
}

type Ends = Pick<Peer, 'remoteIp' | 'remotePort' | 'localIp' | 'localPort'>

/** Where the parts of an AddressPair lie (native/src/rings.h). */
const enum Pair {
  Family = 0,
  Fd = 4,
  RemotePort = 8,
  LocalPort = 12,
  ListenerGeneration = 16,
  Remote = 24,
  Local = 40,
}

/** Who has a slot. */
export interface Owner {
  readonly generation: number
  handle(kind: Kind, a: number, b: number): void
}

export class Engine implements Omit<Transport, 'name'> {
  readonly native: NativeEngine
  readonly rings: Rings
  readonly sys: Sys
  readonly owners: (Owner | null)[] = []
  readonly #isolation = new Isolation<Owner>()
  readonly #accepting: NativeListener[] = []
  /** In this batch, or a listener has no room. */
  #hasAccepted = false
  /** Closed while there were events to handle. */
  readonly #closing: NativeListener[] = []
  /** Those who want to hear when all has been sent. */
  #waiting: NativeSocket[] = []

  constructor(sys: Sys, newEngine: (onBatch: () => void, resource: object) => NativeEngine) {
    this.sys = sys
    this.native = newEngine(() => this.#onBatch(), this.#isolation.resource)
    this.rings = new Rings(this.native)
  }

  async listen(source: ListenSource, accept: Accept): Promise<Listener> {
    return new NativeListener(this, source, accept)
  }

  /** Node looks the name up, races its addresses and talks to the proxy; then the descriptor moves. */
  async connect(target: ConnectTarget, signal: AbortSignal): Promise<Socket> {
    const stream = await dial(target, STREAM, signal)
    const ends: Ends = {
      remoteIp: stream.remoteAddress ?? '',
      remotePort: stream.remotePort ?? 0,
      localIp: stream.localAddress ?? '',
      localPort: stream.localPort ?? 0,
    }
    const rest: Buffer | null = stream.read()
    const { fd = -1 } = (stream as { _handle?: { fd?: number } | null })._handle ?? {}
    try {
      if (fd < 0) throw new SystemError('ECONNRESET', 'connect', ends.remoteIp) // it has failed meanwhile
      const copy = this.sys.duplicate(fd).release()
      return this.adopt({ fd: copy, unread: rest ?? NO_BYTES, unsent: NO_BYTES, ends })
    } finally {
      stream.destroy()
    }
  }

  /** Nothing is received before `attach`. Throws a SystemError, and has closed the descriptor then. */
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

  /** What this batch still holds for a socket that leaves: copied, since nobody will be told of it. */
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

  /** Serves one connection apart from the others. */
  isolate(owner: Owner, task: (owner: Owner) => void): void {
    this.#isolation.run(task, owner, 0)
  }

  /** What comes now has nothing to do with what the same owner was told before: datagrams of two peers. */
  standApart(): void {
    this.#isolation.leave()
  }

  #onBatch(): void {
    const { header } = this.rings
    const count = header[Header.EventCount] as number
    try {
      this.#serveAll(count)
    } finally {
      // Also when something was thrown, which may have been the last of the batch: others wait for this.
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
    const since = rings.receive.readInt32LE(offset + Pair.ListenerGeneration)
    this.#hasAccepted = true
    const is = (one: NativeListener) => one.slot === listenerSlot && one.generation === since
    const listener = this.#accepting.find(is) ?? this.#closing.find(is)
    if (listener === undefined) this.rings.operate(slot, Operation.Destroy)
    else listener.accept(slot, generation, offset)
  }

  begin(listener: NativeListener): void {
    this.#hasAccepted = true
    this.#accepting.push(listener)
    this.owners[listener.slot] = listener
  }

  /** What it has accepted in this batch is served all the same. */
  end(listener: NativeListener): void {
    this.#accepting.splice(this.#accepting.indexOf(listener), 1)
    this.#closing.push(listener)
    this.#hasAccepted = true
    this.owners[listener.slot] = null
    const released = this.native.release(listener.slot, listener.generation)
    if (released !== undefined) closeSync(released.fd)
  }

  /** Where connections came, or none could, listeners say how many may come next. */
  #endBatch(): void {
    if (!this.#hasAccepted) return
    this.#hasAccepted = false
    this.#closing.length = 0
    for (const listener of [...this.#accepting]) if (!listener.makeRoom()) this.#hasAccepted = true // it may close it
  }

  #tellSent(): void {
    const waiting = this.#waiting
    this.#waiting = []
    let told = 0
    try {
      while (told < waiting.length) this.#isolation.run(tellSent, waiting[told++] as NativeSocket, 0)
    } finally {
      for (const socket of waiting.slice(told)) this.awaitSent(socket) // one has thrown: the others in the next call
      this.#isolation.leave()
    }
  }
}

function serve(owner: Owner, at: number): void {
  const { events } = rings()
  owner.handle(events[at + 2] as Kind, events[at + 3] as number, events[at + 4] as number)
}

function tellSent(owner: Owner): void {
  ;(owner as NativeSocket).sent()
}

class NativeListener implements Listener, Owner {
  readonly generation: number
  readonly #engine: Engine
  readonly slot: number
  readonly #source: ListenSource
  readonly #accept: Accept
  /** Where every connection is, unless it listens on all addresses. */
  readonly #localIp: string
  #isClosed = false
  #looksAgain = false

  /** Throws a SystemError. */
  constructor(engine: Engine, source: ListenSource, accept: Accept) {
    const { sys, native } = engine
    const handle = source.handle as { readonly fd: number } | null | undefined
    const fd = handle?.fd ?? source.fd ?? -1
    try {
      this.#localIp = listenOn(sys, fd, source)
      this.slot = listenWith(engine, fd, source)
    } catch (error) {
      giveUp(source)
      throw error
    }
    this.generation = native.generation(this.slot)
    this.#engine = engine
    this.#source = source
    this.#accept = accept
    engine.begin(this)
    this.makeRoom()
  }

  /** Says how many may come in the next batch; when it had room for none, that it has. False: it has none. */
  makeRoom(): boolean {
    const { queued } = this.#engine.rings
    const hadNone = (queued[this.slot] as number) < 1
    const room = Math.min(this.#source.room?.() ?? ACCEPTS, ACCEPTS)
    if (this.#isClosed) return true // by the answer to that
    queued[this.slot] = room
    if (room < 1) this.#lookAgain()
    else if (hadNone) this.#engine.native.wake(this.slot, this.generation)
    return room >= 1
  }

  /** Room may come in no batch of ours: a timer closes a connection, say. */
  #lookAgain(): void {
    if (this.#looksAgain) return
    this.#looksAgain = true
    deadlines.after(SCARCE_MS, () => {
      this.#looksAgain = false
      if (!this.#isClosed) this.makeRoom()
    })
  }

  close(): void {
    if (this.#isClosed) return
    this.#isClosed = true
    this.#engine.end(this)
    if (hasHandle(this.#source)) giveUp(this.#source)
  }

  /** Of a connection in its queue; of the lack of descriptors. */
  handle(kind: Kind, a: number): void {
    if (kind === Kind.Scarce) this.#rest(a)
  }

  accept(slot: number, generation: number, offset: number): void {
    const { rings, owners } = this.#engine
    const socket = new NativeSocket(slot, generation, 0)
    const fd = rings.receive.readInt32LE(offset + Pair.Fd)
    owners[slot] = socket
    socket.readEnds(rings.receive, offset, this.#localIp)
    this.#engine.isolate(socket, () => {
      let events: SocketEvents | null = null
      try {
        events = this.#accept(socket)
      } finally {
        if (events === null)
          socket.destroy() // refused, or nobody will ever have it
        else socket.attach(events)
      }
    })
    if (fd >= scarceFrom()) this.#source.onScarce?.()
  }

  #rest(errno: number): void {
    acceptErrors.log(SystemError.fromErrno(-errno, 'accept', this.#source.expected).message)
    this.#source.onScarce?.()
    deadlines.after(SCARCE_MS, () => {
      if (!this.#isClosed) this.#engine.native.wake(this.slot, this.generation)
    })
  }
}

/** Listens, and says where every connection will be, if that is one address; what was bound must be where it should. */
function listenOn(sys: Sys, fd: number, { backlog, expected }: ListenSource): string {
  const { family, address, port } = sys.socketName(fd)
  const isThere = family === 0 || formatEndpoint(address, port) === expected
  if (!isThere) throw new SystemError('EADDRINUSE', 'listen', expected) // never serve where nobody asked us to: see bound-socket.ts
  try {
    sys.listen(fd, backlog)
  } catch (error) {
    throw new SystemError(codeOf(error), 'listen', expected, { cause: error })
  }
  if (family !== 0) {
    sys.setNoDelay(fd, true) // what it accepts has these from it: no call per connection
    sys.setKeepAlive(fd, KEEPALIVE_MS / 1000)
  }
  return family === 0 || WILDCARDS.includes(address) ? '' : address
}

/** A handle's descriptor is its own, which it closes: the engine gets a copy. */
function listenWith({ sys, native }: Engine, fd: number, source: ListenSource): number {
  if (!hasHandle(source)) return native.listen(fd)
  const copy = sys.duplicate(fd)
  try {
    const slot = native.listen(copy.fd)
    copy.release()
    return slot
  } finally {
    copy.close()
  }
}

function hasHandle({ handle }: ListenSource): boolean {
  return handle !== null && handle !== undefined
}

/** What a listener was given. */
function giveUp(source: ListenSource): void {
  if (hasHandle(source)) (source.handle as { close(): void }).close()
  else if (source.fd !== undefined) closeSync(source.fd)
}

/** Each connection has an address of its own there. */
const WILDCARDS = ['0.0.0.0', '::']

const acceptErrors = new LimitedLog()
const NO_BYTES = Buffer.alloc(0)
/** What is told again belongs to no connection but its own: not to whichever one resumed it. */
const neutral = new AsyncResource('millrace.replay')

const enum Flag {
  /** `pause()`. */
  Paused = 1,
  /** Nothing is received yet. */
  Unattached = 2,
  /** From `secure()` on. */
  ShakingHands = 4,
  /** Somebody wants to hear when all has been sent. */
  Awaited = 8,
  Gone = 16,
  /** The node engine has it now. */
  Moved = 32,
  /** `end()`. */
  Ending = 64,
}

/** What few connections ever have. */
interface Extra {
  /** Received while it was paused, or once already: told before all that comes. */
  held: Buffer | null
  hasEnded: boolean
  isReplaying: boolean
  proxy: ProxyInfo | null
  handshake: Tls | null
  successor: Socket | null
}

class NativeSocket implements Socket, Owner {
  readonly generation: number
  readonly #slot: number
  #flags: number
  #events: SocketEvents | null = null
  /** Bytes written in this epoch: nobody has tried to send them. */
  #pending = 0
  #epoch = 0
  /** An IPv4 address as a number, or text: made when somebody asks. */
  #remote: number | string = ''
  #local: number | string = ''
  /** The remote one and the local one, 16 bits each. */
  #ports = 0
  #extra: Extra | null = null

  constructor(slot: number, generation: number, flags: number) {
    this.#slot = slot
    this.generation = generation
    this.#flags = flags
  }

  readEnds(from: Buffer, offset: number, localIp: string): void {
    const family = from[offset]
    this.#ports = (from.readInt32LE(offset + Pair.RemotePort) << 16) | from.readInt32LE(offset + Pair.LocalPort)
    this.#remote = addressAt(from, offset + Pair.Remote, family)
    this.#local = localIp === '' ? addressAt(from, offset + Pair.Local, family) : localIp
  }

  get remoteIp(): string {
    return typeof this.#remote === 'number' ? ipv4Text(this.#remote) : this.#remote
  }

  get localIp(): string {
    return typeof this.#local === 'number' ? ipv4Text(this.#local) : this.#local
  }

  get remotePort(): number {
    return this.#ports >>> 16
  }

  get localPort(): number {
    return this.#ports & 0xffff
  }

  get proxy(): ProxyInfo | null {
    return this.#extra?.proxy ?? null
  }

  get isEncrypted(): boolean {
    return this.#extra?.successor?.isEncrypted ?? false
  }

  get tls(): TlsState | null {
    return this.#extra?.successor?.tls ?? null
  }

  get queuedBytes(): number {
    if (this.#flags & (Flag.Gone | Flag.Moved)) return this.#extra?.successor?.queuedBytes ?? 0
    const { queued, header } = rings()
    const stalled = queued[this.#slot] as number
    return this.#epoch === header[Header.Epoch] ? stalled + this.#pending : stalled
  }

  present({ remoteIp, remotePort, localIp, localPort }: Ends, proxy: ProxyInfo | null): void {
    this.#remote = remoteIp
    this.#local = localIp
    this.#ports = (remotePort << 16) | localPort
    if (proxy !== null) this.#more().proxy = proxy
  }

  attach(events: SocketEvents): void {
    if (this.#flags & Flag.Gone) return // destroyed in onConnect
    this.#events = events
    if (this.#flags & Flag.Moved) return this.#extra?.successor?.attach(events)
    if ((this.#flags & Flag.Unattached) === 0) return
    this.#flags &= ~Flag.Unattached
    this.#goOn()
  }

  write(bytes: Encoded): number {
    if (this.#flags & (Flag.Gone | Flag.Moved)) return this.#extra?.successor?.write(bytes) ?? 0
    if (isChunk(bytes))
      return bytes.length < DIRECT_FROM ? this.#note(rings().put(this.#slot, bytes)) : this.#writeDirectly(bytes)
    let length = 0
    for (let at = 0; at < bytes.length; at++) length += (bytes[at] as string | Uint8Array).length
    return length < DIRECT_FROM ? this.#note(rings().putAll(this.#slot, bytes)) : this.#writeAll(bytes)
  }

  /** Pieces that are too much for the ring, or for one place of it. */
  #writeAll(chunks: readonly (string | Uint8Array)[]): number {
    let size = 0
    for (const chunk of chunks) size += this.write(chunk)
    return size
  }

  /** Written, and not flushed yet. */
  #note(size: number): number {
    const epoch = rings().header[Header.Epoch] as number
    this.#pending = this.#epoch === epoch ? this.#pending + size : size
    this.#epoch = epoch
    return size
  }

  #writeDirectly(chunk: string | Uint8Array): number {
    const bytes = typeof chunk === 'string' ? Buffer.from(chunk) : chunk
    native().sendBytes(this.#slot, this.generation, bytes)
    return bytes.length
  }

  awaitDrained(): void {
    if (this.#flags & (Flag.Gone | Flag.Awaited)) return
    if (this.#flags & Flag.Moved) return this.#extra?.successor?.awaitDrained()
    this.#flags |= Flag.Awaited
    current().awaitSent(this)
  }

  /** A flush is over that somebody waited for. */
  sent(): void {
    this.#flags &= ~Flag.Awaited
    if (this.#flags & (Flag.Gone | Flag.Moved)) return
    if (this.queuedBytes === 0) this.#drained()
    else if (rings().queued[this.#slot] === 0) this.awaitDrained() // written meanwhile
  }

  #drained(): void {
    const tls = this.#extra?.handshake ?? null
    if (tls !== null) this.#shakeHands(tls)
    else this.#events?.[kDrained]()
  }

  pause(): void {
    if (this.#flags & Flag.Gone) return
    this.#flags |= Flag.Paused
    if (this.#flags & Flag.Moved) this.#extra?.successor?.pause()
    else rings().operate(this.#slot, Operation.Pause)
  }

  resume(): void {
    if (this.#flags & Flag.Gone) return
    this.#flags &= ~Flag.Paused
    if (this.#flags & Flag.Moved) this.#extra?.successor?.resume()
    else this.#goOn()
  }

  unread(bytes: Uint8Array): void {
    if (this.#flags & Flag.Gone) return // its slot may be somebody else's
    if (this.#flags & Flag.Moved) return this.#extra?.successor?.unread(bytes)
    const more = this.#more()
    more.held = Buffer.concat([bytes, more.held ?? NO_BYTES])
    rings().operate(this.#slot, Operation.Pause)
    this.#goOn()
  }

  end(): void {
    if (this.#flags & Flag.Gone) return
    this.#flags |= Flag.Ending
    if (this.#flags & Flag.Moved) this.#extra?.successor?.end()
    else rings().operate(this.#slot, Operation.End)
  }

  destroy(): void {
    if (this.#flags & Flag.Gone) return
    this.#flags |= Flag.Gone
    this.#events = null
    if (this.#flags & Flag.Moved) return this.#extra?.successor?.destroy()
    current().owners[this.#slot] = null
    rings().operate(this.#slot, Operation.Destroy)
  }

  release(): Released | null {
    if (this.#flags & (Flag.Gone | Flag.Moved | Flag.ShakingHands | Flag.Ending)) return null
    const released = this.#leave()
    if (released === null) return null
    this.#flags |= Flag.Gone
    this.#events = null
    return released
  }

  /** Null when it has failed: an event is on its way. */
  #leave(): Released | null {
    const { remoteIp, remotePort, localIp, localPort } = this
    const released = native().release(this.#slot, this.generation)
    if (released === undefined) return null
    current().owners[this.#slot] = null
    const received = current().takeReceived(this.#slot, this.generation)
    const unread = Buffer.concat([this.#extra?.held ?? NO_BYTES, received])
    return { ...released, unread, ends: { remoteIp, remotePort, localIp, localPort } }
  }

  secure(tls: Tls): void {
    if (this.#flags & Flag.Gone) return // its slot may be somebody else's
    this.#flags |= Flag.ShakingHands
    this.#more().handshake = tls
    rings().operate(this.#slot, Operation.Pause) // what comes from now on is the handshake's
    if (this.queuedBytes === 0) this.#shakeHands(tls)
    else this.awaitDrained()
  }

  #shakeHands(tls: Tls): void {
    const more = this.#more()
    more.handshake = null
    const released = this.#leave()
    if (released === null) return
    this.#flags |= Flag.Moved
    const successor = nodeEngine.adopt(released)
    more.held = null
    more.successor = successor
    if (this.#events !== null) successor.attach(this.#events)
    if (this.#flags & Flag.Paused) successor.pause()
    successor.secure(tls)
  }

  // What the engine tells

  handle(kind: Kind, a: number, b: number): void {
    if (kind === Kind.Received) this.#received(a, b)
    else if (kind === Kind.Ended) this.#ended()
    else if (kind === Kind.Drained) this.#drainedLate()
    else if (kind === Kind.Closed) this.#closed(a, b === 1)
  }

  #received(offset: number, size: number): void {
    const bytes = rings().received(offset, size)
    if (this.#mustHold) this.#more().held = Buffer.concat([this.#extra?.held ?? NO_BYTES, bytes])
    else this.#events?.[kReceived](bytes)
  }

  #ended(): void {
    if (this.#mustHold) this.#more().hasEnded = true
    else this.#events?.[kEnded]()
  }

  /** In the batch in which it was paused, or told to receive something again. */
  get #mustHold(): boolean {
    if (this.#flags & (Flag.Paused | Flag.Unattached | Flag.ShakingHands)) return true
    return this.#extra !== null && (this.#extra.held !== null || this.#extra.hasEnded)
  }

  #drainedLate(): void {
    if (this.queuedBytes === 0) this.#drained()
    else this.awaitDrained()
  }

  #closed(errno: number, isWriting: boolean): void {
    try {
      this.#events?.[kClosed](SystemError.fromErrno(-errno, isWriting ? 'write' : 'read', this.remoteIp))
    } finally {
      this.destroy()
    }
  }

  /** Receiving goes on: with what is held, in a turn of its own, or with the kernel. */
  #goOn(): void {
    if (this.#flags & (Flag.Paused | Flag.Unattached | Flag.ShakingHands)) return
    const extra = this.#extra
    if (extra === null || (extra.held === null && !extra.hasEnded)) rings().operate(this.#slot, Operation.Resume)
    else if (!extra.isReplaying) {
      extra.isReplaying = true
      neutral.runInAsyncScope(setImmediate, undefined, () => this.#replay(extra))
    }
  }

  #replay(extra: Extra): void {
    const held = extra.held
    extra.isReplaying = false
    if (this.#mustWait) return
    extra.held = null
    if (held !== null) this.#events?.[kReceived](held)
    if (this.#mustWait) return
    if (extra.hasEnded && extra.held === null) {
      extra.hasEnded = false
      this.#events?.[kEnded]()
    }
    if ((this.#flags & Flag.Gone) === 0) this.#goOn()
  }

  get #mustWait(): boolean {
    return (this.#flags & (Flag.Paused | Flag.Unattached | Flag.ShakingHands | Flag.Gone | Flag.Moved)) !== 0
  }

  #more(): Extra {
    this.#extra ??= {
      held: null,
      hasEnded: false,
      isReplaying: false,
      proxy: null,
      handshake: null,
      successor: null,
    }
    return this.#extra
  }
}

function addressAt(from: Buffer, offset: number, family: number | undefined): number | string {
  if (family === 4) return from.readInt32BE(offset)
  return family === 6 ? ipv6Text(from.subarray(offset, offset + 16)) : ''
}

// There are sockets only where there is an engine.

function current(): Engine {
  return engine as Engine
}

function rings(): Rings {
  return (engine as Engine).rings
}

function native(): NativeEngine {
  return (engine as Engine).native
}
