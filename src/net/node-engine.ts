// The node engine: `node:net` behind the Transport interface. Always available. What a connection sends in one turn of
// the loop leaves as one write, in the check phase: after the handlers of this poll and their microtasks.

import { AsyncResource } from 'node:async_hooks'
import net from 'node:net'
import { addon } from '../addon.ts'
import { formatEndpoint } from '../endpoint.ts'
import { asError, codeOf, SystemError } from '../errors.ts'
import { LimitedLog } from '../log.ts'
import { holdClock, releaseClock } from '../loop/clock.ts'
import { nothing } from '../nothing.ts'
import type { Encoded, ProxyInfo, TlsState } from '../protocol.ts'
import {
  type Accept,
  type ConnectTarget,
  type Ends,
  kClosed,
  kDrained,
  kEnded,
  kReceived,
  kSecured,
  type Listener,
  type ListenSource,
  type Released,
  type Secured,
  type Socket,
  type SocketEvents,
  type Tls,
  type Transport,
} from '../transport.ts'
import { kernelBacklog } from './backlog.ts'
import { descriptorOf, isLackOfDescriptors, scarceFrom } from './descriptors.ts'
import { dial } from './dial.ts'
import { Guest } from './isolation.ts'
import { lookSoon, warnOfScarcity } from './scarcity.ts'
import { WriteQueue } from './write-queue.ts'

/** Workerman's TCP_KEEPALIVE_INTERVAL: below the 60 s after which common middleboxes forget a flow. */
export const KEEPALIVE_MS = 55_000
/** From this many bytes on, a turn's writes go to the kernel early, so that a burst does not pile up in our memory. */
const FLUSH_BYTES = 65_536

export const nodeEngine: Transport = { name: 'node', copiesWrites: false, listen, connect, adopt }

async function connect(target: ConnectTarget, signal: AbortSignal): Promise<Socket> {
  flushAtExit()
  return new NodeSocket(await dial(target, STREAM, signal))
}

/** Options of every stream. */
export const STREAM = { allowHalfOpen: true, noDelay: true, keepAlive: true, keepAliveInitialDelay: KEEPALIVE_MS }

function adopt({ fd, unread, unsent, ends }: Released): Socket {
  flushAtExit()
  const stream = new net.Socket({ fd, allowHalfOpen: true, readable: true, writable: true })
  stream.pause()
  if (unread.length > 0) stream.unshift(unread)
  const socket = new NodeSocket(stream)
  socket.present(ends, null)
  if (unsent.length > 0) socket.write(unsent)
  return socket
}

function listen(source: ListenSource, accept: Accept): Promise<Listener> {
  flushAtExit()
  let isTcp = true
  const server = net.createServer(STREAM, (socket) => {
    // Reset already, and its address is gone: without one it would pass for a Unix socket, which may be trusted.
    if (isTcp && socket.remoteAddress === undefined) return void socket.destroy()
    guest.run(resourceOf(socket), admit, socket, accept) // Node runs this listener in the server's resource
    // The number shows how many there are, since the kernel hands out the lowest free one.
    if (descriptorOf(socket) >= scarceFrom()) source.onScarce?.()
  })
  return new Promise((resolve, reject) => {
    server.on('error', (error) => {
      if (!server.listening) return reject(listenError(error, source.expected))
      acceptErrors.log(`accept on ${source.expected}: ${error.message}`) // EMFILE: the server stays up
      if (isLackOfDescriptors(error)) source.onScarce?.()
    })
    server.listen(source.handle ?? { fd: source.fd }, kernelBacklog(source.backlog), () => {
      const address = server.address()
      isTcp = address !== null && typeof address !== 'string'
      if (isAt(address, source.expected)) return resolve(opened(server, source))
      server.close() // never serve at an address we were not asked for: see bound-socket.ts
      reject(new SystemError('EADDRINUSE', 'listen', source.expected))
    })
  })
}

function opened(server: net.Server, source: ListenSource): Listener {
  const leave = warnOfScarcity(source)
  const close = () => {
    server.close()
    leave()
  }
  return { close }
}

/** Node delivers what a stream receives in its handle's resource: the connection's other callbacks run there too. */
const guest = new Guest()

function resourceOf(socket: net.Socket): object {
  return (socket as { _handle?: object | null })._handle ?? {} // private to Node; without it a store is shared with nobody
}

const acceptErrors = new LimitedLog()

function listenError(error: Error, address: string): SystemError {
  return new SystemError(codeOf(error) || 'EINVAL', 'listen', address, { cause: error })
}

/** Node does not report the path of a Unix socket it did not bind; but an unbound one cannot listen (EINVAL). */
function isAt(actual: net.AddressInfo | string | null, expected: string): boolean {
  if (actual === null || typeof actual === 'string') return true
  return formatEndpoint(actual.address, actual.port) === expected
}

function admit(stream: net.Socket, accept: Accept): void {
  const socket = new NodeSocket(stream)
  const events = accept(socket)
  if (events === null) socket.destroy()
  else socket.attach(events)
}

const kOwner = Symbol('owner')
type OwnedStream = net.Socket & { [kOwner]: NodeSocket }

class NodeSocket implements Socket {
  remoteIp: string
  remotePort: number
  localIp: string
  localPort: number
  proxy: ProxyInfo | null = null
  #stream: net.Socket
  #tls: Tls | null = null
  /** A handshake that waits until earlier bytes have left. */
  #handshake: Tls | null = null
  /** From `secure()` on. */
  #isShakingHands = false
  /** How many bytes the stream had delivered before the handshake; buffered ones belong to it. */
  #bytesBefore = 0
  #isPaused = false
  #events: SocketEvents | null = null
  readonly #queue = new WriteQueue()
  /** The peer's FIN arrived while reading was paused. */
  #hasEnded = false
  /** Somebody waits until everything has been sent. */
  #isAwaited = false
  /** A flush is scheduled. */
  #isScheduled = false
  #isWritten = false
  #isEnding = false
  #isGone = false

  constructor(stream: net.Socket) {
    this.#stream = stream
    // Read now: after a reset the kernel no longer reports them.
    this.remoteIp = stream.remoteAddress ?? ''
    this.remotePort = stream.remotePort ?? 0
    this.localIp = stream.localAddress ?? ''
    this.localPort = stream.localPort ?? 0
  }

  attach(events: SocketEvents): void {
    if (this.#isGone) return // destroyed in onConnect
    this.#events = events
    const stream = this.#stream as OwnedStream
    if (!this.#isShakingHands && stream[kOwner] !== this) this.#own(stream)
  }

  #own(stream: OwnedStream): void {
    stream[kOwner] = this
    stream.on('data', onData).on('end', onEnd).on('error', onError).on('close', onClose)
    if (this.#isPaused) stream.pause()
    else if (stream.isPaused()) stream.resume() // a dialogue with a proxy has paused it
  }

  present({ remoteIp, remotePort, localIp, localPort }: Ends, proxy: ProxyInfo | null): void {
    Object.assign(this, { remoteIp, remotePort, localIp, localPort, proxy })
  }

  readInto(): number {
    return 0 // a stream has read a chunk before it reports it
  }

  unread(bytes: Uint8Array): void {
    this.#stream.pause() // otherwise they would be delivered within this call
    this.#stream.unshift(bytes)
    if (!this.#isPaused) this.#stream.resume()
  }

  get isEncrypted(): boolean {
    return this.#tls !== null
  }

  get tls(): TlsState | null {
    return this.#tls === null ? null : this.#tls.stateOf(this.#stream)
  }

  secure(tls: Tls): void {
    this.#isShakingHands = true
    this.#handshake = tls
    this.#stream.pause() // what arrives from now on belongs to the handshake
    this.#bytesBefore = this.#stream.bytesRead - this.#stream.readableLength
    if (this.queuedBytes === 0) this.#shakeHands(tls)
    else this.#send() // `flush` continues once the kernel has it
  }

  get hasBegun(): boolean {
    return this.#stream.bytesRead > this.#bytesBefore
  }

  #shakeHands(tls: Tls): void {
    const raw = this.#stream
    this.#handshake = null
    // A FIN that the stream has read is not seen by TLS, which would wait for its time-out.
    if (raw.readableEnded) return this.#failLater(new Error('the peer closed'))
    raw.off('data', onData).off('end', onEnd).off('error', onError).off('close', onClose)
    raw.once('end', cut)
    const done: Secured = (error, secured) => {
      raw.off('end', cut)
      if (this.#isGone) secured?.destroy()
      else if (secured === null || error !== null) this.closed(handshakeError(error, this.remoteIp))
      else this.#secured(tls, secured)
    }
    try {
      tls.wrap(raw, done)
    } catch (error) {
      raw.off('end', cut).on('error', nothing)
      this.#failLater(asError(error))
    }
  }

  /** The handshake cannot begin: told in a later turn, since no event comes from inside a call to the socket. */
  #failLater(error: Error): void {
    const failure = handshakeError(error, this.remoteIp)
    neutral.runInAsyncScope(setImmediate, undefined, tellFailed, this, failure)
  }

  #secured(tls: Tls, stream: net.Socket): void {
    this.#tls = tls
    this.#stream = stream
    this.#isShakingHands = false
    this.#own(stream as OwnedStream)
    this.#events?.[kSecured]()
    if (this.#queue.waiting > 0) this.#send()
  }

  get queuedBytes(): number {
    return this.#queue.waiting + this.#queue.given
  }

  get unacknowledgedBytes(): number {
    const fd = descriptorOf(this.#stream)
    if (fd < 0) return this.queuedBytes
    try {
      return this.#queue.waiting + this.#untakenBytes + (addon().sys?.unacknowledgedBytes(fd) ?? 0)
    } catch (error) {
      if (codeOf(error) !== 'ENOTSUP') throw error // not Linux
      return this.queuedBytes
    }
  }

  /** Of what the stream was given: the kernel may have taken a part already. Under TLS that cannot be told. */
  get #untakenBytes(): number {
    const { given } = this.#queue
    return this.#tls === null ? Math.min(given, untakenOf(this.#stream)) : given
  }

  hasQueued(bytes: number): boolean {
    if (this.queuedBytes < bytes) return false
    this.#send() // what only waits for the end of the turn may leave now
    return this.queuedBytes >= bytes
  }

  settle(): void {
    // The size of text in bytes is known at once.
  }

  write(bytes: Encoded): number {
    const size = this.#queue.add(bytes)
    if (size === 0) return 0
    this.#flushSoon()
    if (this.#queue.waiting >= FLUSH_BYTES) this.#send()
    return size
  }

  #flushSoon(): void {
    if (!this.#isScheduled) {
      schedule(this)
      this.#isScheduled = true // after the call: if the stack overflows in it, the next write tries again
    }
    this.#isWritten = true
  }

  awaitDrained(): void {
    this.#isAwaited = true // every flush reports; one that is waited for may run user callbacks
    if (this.queuedBytes === 0) this.#flushSoon() // no other will come
  }

  release(): null {
    // A stream would yield only a copy of the descriptor, and not what it has read.
    return null
  }

  pause(): void {
    this.#isPaused = true
    this.#stream.pause()
  }

  resume(): void {
    this.#isPaused = false
    this.#goOn()
  }

  #goOn(): void {
    if (this.#isShakingHands) return
    this.#stream.resume()
    if (this.#hasEnded) neutral.runInAsyncScope(setImmediate, undefined, tellEnd, this)
  }

  end(): void {
    this.#isEnding = true
    if (this.#handshake !== null) this.#giveUpHandshake()
    if (this.queuedBytes === 0) this.#stream.end()
  }

  destroy(): void {
    if (!this.#isGone) this.#giveUp().destroy()
  }

  reset(): void {
    if (this.#isGone) return
    const isTcp = this.#tls === null && !this.#isShakingHands && this.#stream.remoteAddress !== undefined
    const stream = this.#giveUp()
    if (isTcp) stream.resetAndDestroy()
    else stream.destroy()
  }

  /** Returns the stream. There is nobody left to notify. */
  #giveUp(): net.Socket {
    this.#isGone = true
    this.#events = null
    this.#queue.clear()
    return this.#stream.on('error', nothing)
  }

  /** The handshake has not begun. The bytes that arrive now, or at least the end, are read again. */
  #giveUpHandshake(): void {
    this.#handshake = null
    this.#isShakingHands = false
    if (!this.#isPaused) this.#goOn()
  }

  /** Ends a turn: sends, and notifies the connection when the kernel has taken everything. */
  flush(): void {
    this.#isScheduled = false
    if (this.#isGone) return
    try {
      this.#send()
    } catch (error) {
      return this.closed(asError(error)) // a user has detached the bytes: the fault of one connection, not of the batch
    }
    if (this.queuedBytes > 0) return
    if (this.#isEnding) this.#stream.end()
    if (this.#isAwaited) guest.run(resourceOf(this.#stream), tellAwaited, this, undefined)
    else this.#events?.[kDrained]()
    if (this.#handshake !== null && !this.#isGone) this.#shakeHands(this.#handshake) // unless it was closed instead
  }

  tellDrained(): void {
    this.#isAwaited = false
    this.#events?.[kDrained]()
  }

  /** At process exit: sends what the kernel takes at once. */
  leave(): void {
    if (!this.#isGone) this.#send()
  }

  /** Delivers received bytes. At low load, what handlers send before they return leaves at once: see `early`. */
  received(bytes: Buffer): void {
    const time = holdClock()
    try {
      this.#received(bytes)
    } finally {
      releaseClock()
      lookSoon(time)
    }
  }

  #received(bytes: Buffer): void {
    if (early === 0) {
      this.#events?.[kReceived](bytes)
      return
    }
    early--
    const wasScheduled = this.#isScheduled
    this.#isScheduled = true
    this.#isWritten = false
    answering = this
    try {
      this.#events?.[kReceived](bytes)
    } finally {
      answering = null
      this.#isScheduled = wasScheduled
      if (this.#isWritten) this.flush()
    }
  }

  ended(): void {
    if (this.#isLost) return this.closed(lost(this.remoteIp))
    if (this.#isPaused) this.#hasEnded = true
    else this.#events?.[kEnded]()
  }

  /** Reports a FIN that was held back, unless reading is paused again. */
  tellEnd(): void {
    if (!this.#hasEnded || this.#isPaused || this.#isShakingHands) return
    this.#hasEnded = false
    this.#events?.[kEnded]()
  }

  closed(error: Error | null): void {
    if (this.#isGone) return
    const events = this.#events
    events?.[kClosed](
      error === null
        ? null
        : error instanceof SystemError
          ? error
          : new SystemError(codeOf(error) || 'EIO', syscallOf(error), this.remoteIp, { cause: error }),
    )
    this.destroy()
  }

  /**
   * Gives pending bytes to the stream as fast as the kernel takes them; if the kernel lags, `#awaitTaken` continues.
   */
  #send(): void {
    if (this.#isShakingHands && this.#handshake === null) return // nothing may leave unencrypted any more
    while (this.#queue.waiting > 0 && this.#queue.given === 0) {
      this.#queue.giveTo(this.#stream)
      if (this.#stream.errored !== null || this.#stream.destroyed) return // 'close' follows and reports what was not sent
      if (this.#stream.writableLength === 0) this.#queue.noteTaken()
      else this.#awaitTaken()
    }
  }

  /**
   * Node takes a reset for an end if the TLS layer was the one to meet it: what is written then stays with that for
   * ever, and no event follows.
   */
  get #isLost(): boolean {
    return this.#tls !== null && this.#queue.given > 0 && this.#stream.readableEnded && !isConnected(this.#stream)
  }

  /** The callback of an empty write runs when everything before it has left; 'drain' fires only above a mark. */
  #awaitTaken(): void {
    if (this.#isLost)
      return void neutral.runInAsyncScope(setImmediate, undefined, tellFailed, this, lost(this.remoteIp))
    this.#stream.write('', (error) => {
      if (error) return // 'close' follows, and accounts for what was not sent
      this.#queue.noteTaken()
      this.flush()
    })
  }
}

function onData(this: net.Socket, bytes: Buffer): void {
  ;(this as OwnedStream)[kOwner].received(bytes)
}

function onEnd(this: net.Socket): void {
  ;(this as OwnedStream)[kOwner].ended()
}

function onError(this: net.Socket, error: Error): void {
  ;(this as OwnedStream)[kOwner].closed(error)
}

/** Node destroys a stream whose FINs have both passed, while its connection may still be at work: that is no event. */
function onClose(this: net.Socket): void {
  if (this.readableEnded && this.writableFinished && this.errored === null) return
  ;(this as OwnedStream)[kOwner].closed(null)
}

/** Includes OpenSSL's text, since its codes are in no table. */
function handshakeError(error: Error | null, address: string): SystemError {
  const failure = new SystemError(codeOf(error) || 'EPROTO', 'handshake', address, { cause: error })
  if (error !== null) failure.message += ` (${error.message})`
  return failure
}

function tellEnd(socket: NodeSocket): void {
  socket.tellEnd()
}

function tellFailed(socket: NodeSocket, error: SystemError): void {
  socket.closed(error)
}

/** Its FIN was behind bytes that TLS has taken over from the stream: 'close' fails the handshake. */
function cut(this: net.Socket): void {
  this.destroy()
}

function tellAwaited(socket: NodeSocket): void {
  socket.tellDrained()
}

/** `read` or `write`, as reported by Node. */
function syscallOf(error: NodeJS.ErrnoException): string {
  return error.syscall ?? 'read'
}

// The batch: sockets written to in this turn. What callbacks write during the flush waits for the next turn.

let written: NodeSocket[] = []
/** The previous turn's batch while it is flushed. */
let flushing: readonly NodeSocket[] = []

/**
 * How many reads may still be answered without waiting for the check phase. In a turn with one socket, waiting costs 5
 * us (of 40 per message); in one with many sockets, writing between the reads costs 0.7 us (of 9). So every turn with a
 * single socket earns this many early flushes, after which one turn is measured again.
 */
let early = 0
const EARLY_FLUSHES = 16

/** The socket whose handler is running and whose answers leave without waiting for the check phase. */
let answering: NodeSocket | null = null

/** The async context of a flush: not that of the connection that wrote first, or its AsyncLocalStorage would leak. */
const neutral = new AsyncResource('millrace.flush')

function schedule(socket: NodeSocket): void {
  if (written.length === 0) neutral.runInAsyncScope(setImmediate, undefined, flushAll)
  written.push(socket)
}

function flushAll(): void {
  const batch = written
  written = []
  early = batch.length === 1 ? EARLY_FLUSHES : 0
  flushing = batch
  for (const socket of batch) socket.flush()
  flushing = []
}

let isFlushedAtExit = false

/** What was sent in the turn in which the process ends still leaves. */
function flushAtExit(): void {
  if (!isFlushedAtExit) process.on('exit', sendAll)
  isFlushedAtExit = true
}

function sendAll(): void {
  answering?.leave()
  for (const socket of [...flushing, ...written]) socket.leave()
}

/**
 * Bytes of a stream's writes that the kernel has not taken: a private property of Node, without which it may be all of
 * them.
 */
function untakenOf(stream: net.Socket): number {
  return (
    (stream as { _handle?: { writeQueueSize?: number } | null })._handle?.writeQueueSize ?? Number.POSITIVE_INFINITY
  )
}

function lost(address: string): SystemError {
  return new SystemError('ECONNRESET', 'write', address)
}

/**
 * Asked of the kernel, by a private method of Node: without it, and on a Unix socket, where TLS only seems to have it,
 * a connection passes for connected.
 */
function isConnected(stream: net.Socket): boolean {
  const handle = (stream as { _handle?: { getpeername?(into: object): number | undefined } | null })._handle
  return (handle?.getpeername?.({}) ?? 0) === 0
}
