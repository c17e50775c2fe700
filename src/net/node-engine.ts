// The node engine: `node:net` behind the Transport interface. Always there. What a connection sends in one turn of
// the loop leaves as one write, in the check phase: after the handlers of this poll and their microtasks.

import { AsyncResource } from 'node:async_hooks'
import net from 'node:net'
import { codeOf, SystemError } from '../errors.ts'
import { LimitedLog } from '../log.ts'
import {
  type Accept,
  kClosed,
  kDrained,
  kEnded,
  kReceived,
  type Listener,
  type ListenSource,
  type Socket,
  type SocketEvents,
  type Transport,
} from '../transport.ts'
import { formatEndpoint } from './address.ts'

/** Seconds, Workerman's TCP_KEEPALIVE_INTERVAL: below the 60 s after which common middleboxes forget a flow. */
const KEEPALIVE_MS = 55_000
/** A turn's writes go to the kernel early from this many bytes on, so that a burst does not pile up in our memory. */
const FLUSH_BYTES = 65_536
/** Chunks from this size are handed over as they are; smaller ones are copied into one. */
const COPY_BELOW_BYTES = 16_384

export const nodeEngine: Transport = { name: 'node', listen }

function listen(source: ListenSource, accept: Accept): Promise<Listener> {
  const options = { allowHalfOpen: true, noDelay: true, keepAlive: true, keepAliveInitialDelay: KEEPALIVE_MS }
  const server = net.createServer(options, (socket) => admit(socket, accept))
  return new Promise((resolve, reject) => {
    server.on('error', (error) => {
      if (server.listening)
        acceptErrors.log(`accept on ${source.expected}: ${error.message}`) // EMFILE: others live on
      else reject(listenError(error, source.expected))
    })
    server.listen(source.handle ?? { fd: source.fd }, source.backlog, () => {
      const actual = endpointOf(server.address())
      if (actual === source.expected) return resolve({ close: () => server.close() })
      server.close() // never serve where nobody asked us to: see bound-socket.ts
      reject(new SystemError('EADDRINUSE', 'listen', source.expected))
    })
  })
}

const acceptErrors = new LimitedLog()

function listenError(error: Error, address: string): SystemError {
  return new SystemError(codeOf(error) || 'EINVAL', 'listen', address, { cause: error })
}

function endpointOf(address: net.AddressInfo | string | null): string {
  return typeof address === 'object' && address !== null
    ? formatEndpoint(address.address, address.port)
    : (address ?? '')
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
  readonly remoteIp: string
  readonly remotePort: number
  readonly isEncrypted = false
  readonly #stream: net.Socket
  #events: SocketEvents | null = null
  /** Of this turn; text and bytes in order. */
  #pending: (string | Uint8Array)[] = []
  #pendingBytes = 0
  #isAwaitingDrain = false
  #isGone = false
  #localIp: string | undefined
  #localPort = 0

  constructor(stream: net.Socket) {
    this.#stream = stream
    this.remoteIp = stream.remoteAddress ?? '' // now: after a reset the kernel no longer tells
    this.remotePort = stream.remotePort ?? 0
  }

  attach(events: SocketEvents): void {
    if (this.#isGone) return // destroyed in onConnect
    this.#events = events
    const stream = this.#stream as OwnedStream
    stream[kOwner] = this
    stream.on('data', onData).on('end', onEnd).on('error', onError).on('close', onClose)
  }

  get localIp(): string {
    if (this.#localIp === undefined) this.#readLocal()
    return this.#localIp ?? ''
  }

  get localPort(): number {
    if (this.#localIp === undefined) this.#readLocal()
    return this.#localPort
  }

  get queuedBytes(): number {
    return this.#pendingBytes + this.#stream.writableLength
  }

  write(chunk: string | Uint8Array, byteLength: number): void {
    if (this.#pendingBytes === 0) schedule(this)
    this.#pending.push(chunk)
    this.#pendingBytes += byteLength
    if (this.#pendingBytes >= FLUSH_BYTES) this.#send()
  }

  pause(): void {
    this.#stream.pause()
  }

  resume(): void {
    this.#stream.resume()
  }

  end(): void {
    this.#send()
    this.#stream.end()
  }

  destroy(): void {
    if (this.#isGone) return
    this.#readLocal()
    this.#isGone = true
    this.#events = null
    this.#pending = []
    this.#pendingBytes = 0
    this.#stream.on('error', ignore).destroy()
  }

  /** The end of a turn: sends, and tells the connection when the kernel has taken everything. */
  flush(): void {
    if (this.#isGone) return
    this.#send()
    if (this.#stream.writableLength === 0) this.#events?.[kDrained]()
    else this.#awaitDrain()
  }

  received(bytes: Buffer): void {
    this.#events?.[kReceived](bytes)
  }

  ended(): void {
    this.#events?.[kEnded]()
  }

  closed(error: Error | null): void {
    if (this.#isGone) return
    const events = this.#events
    events?.[kClosed](
      error === null ? null : new SystemError(codeOf(error) || 'EIO', 'read', this.remoteIp, { cause: error }),
    )
    this.destroy()
  }

  #send(): void {
    const chunks = this.#pending
    if (chunks.length === 0) return
    this.#pending = []
    this.#pendingBytes = 0
    if (chunks.length === 1) this.#stream.write(chunks[0] as string | Uint8Array)
    else if (chunks.every(isText)) this.#stream.write(chunks.join(''))
    else this.#sendMixed(chunks)
  }

  #sendMixed(chunks: readonly (string | Uint8Array)[]): void {
    this.#stream.cork()
    let small: Uint8Array[] = []
    for (const chunk of chunks) {
      const bytes = typeof chunk === 'string' ? Buffer.from(chunk) : chunk
      if (bytes.length < COPY_BELOW_BYTES) small.push(bytes)
      else {
        if (small.length > 0) this.#stream.write(Buffer.concat(small))
        small = []
        this.#stream.write(bytes)
      }
    }
    if (small.length > 0) this.#stream.write(Buffer.concat(small))
    this.#stream.uncork()
  }

  /** The callback of an empty write runs when everything before it has left; 'drain' fires only above a mark. */
  #awaitDrain(): void {
    if (this.#isAwaitingDrain) return
    this.#isAwaitingDrain = true
    this.#stream.write('', () => {
      this.#isAwaitingDrain = false
      this.flush()
    })
  }

  #readLocal(): void {
    this.#localIp ??= this.#stream.localAddress ?? ''
    this.#localPort ||= this.#stream.localPort ?? 0
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

function onClose(this: net.Socket): void {
  ;(this as OwnedStream)[kOwner].closed(null)
}

function ignore(): void {
  // Of a socket that we have given up: nobody is left to tell.
}

function isText(chunk: string | Uint8Array): boolean {
  return typeof chunk === 'string'
}

// The batch: sockets written to in this turn. What callbacks write while it is flushed waits for the next turn.

let written: NodeSocket[] = []

/** The async context of a flush: not that of whichever connection wrote first, or its AsyncLocalStorage would leak. */
const neutral = new AsyncResource('millrace.flush')

function schedule(socket: NodeSocket): void {
  if (written.length === 0) neutral.runInAsyncScope(setImmediate, undefined, flushAll)
  written.push(socket)
}

function flushAll(): void {
  const batch = written
  written = []
  for (const socket of batch) socket.flush()
}
