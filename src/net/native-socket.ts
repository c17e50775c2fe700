// A connection of the native engine as a Socket: it writes into the rings, and receives the events of its slot. Under
// TLS it becomes a stream of the node engine, to which it delegates everything.

import { AsyncResource } from 'node:async_hooks'
import type { NativeEngine } from '../addon-types.ts'
import { bytesOf, isChunk } from '../encoded.ts'
import { SystemError } from '../errors.ts'
import type { Encoded, ProxyInfo, TlsState } from '../protocol.ts'
import {
  type Ends,
  kClosed,
  kDrained,
  kEnded,
  kGrew,
  kReceived,
  type Released,
  type Socket,
  type SocketEvents,
  type Tls,
} from '../transport.ts'
import { ipv4Text, ipv6Text } from './ip.ts'
import { ipv6Address } from './ip-addresses.ts'
import { nodeEngine } from './node-engine.ts'
import { DIRECT_FROM, Header, Kind, Operation, type Rings } from './rings.ts'
import { MOST_PER_UNIT } from './utf16.ts'

/**
 * What a socket needs from its engine. There is one engine per process: a reference in each socket would cost 8 bytes.
 */
export interface SocketEngine {
  readonly rings: Rings
  readonly native: NativeEngine
  readonly owners: (Owner | null)[]
  awaitSent(socket: NativeSocket): void
  takeReceived(slot: number, generation: number): Buffer
}

let engine: SocketEngine | null = null

/** Sets the engine of all sockets. */
export function serveSockets(by: SocketEngine): void {
  engine = by
}

/** From this many bytes on, what waits for the end of the batch is not told as queued: the kernel is asked first. */
const OFFER_FROM = 65_536
/** Limit of text gathered for one encoding, in UTF-16 units. */
const GATHERED = 8192

// While a socket delivers received bytes, text written to it is gathered, and encoded in one go when delivery is over
// or its size must be known: one call into V8 for the answers to all messages of a read, where each would take as long.
// The first answer, which may be the only one, is faster on its own.
let gathering: NativeSocket | null = null
let hasAnswered = false
let gathered = ''
let pieces: string[] = []

/** An AddressPair (native/src/rings.h) in int32s, in the machine's byte order; its addresses are bytes. */
export const enum Pair {
  Family = 0,
  Fd = 1,
  RemotePort = 2,
  LocalPort = 3,
  ListenerGeneration = 4,
  Scope = 5,
  Remote = 6,
  Local = 10,
}

/** Holder of a slot. */
export interface Owner {
  readonly generation: number
  handle(kind: Kind, a: number, b: number): void
}

const NO_BYTES = Buffer.alloc(0)
/** Replayed events run in the connection's own context, not in that of the code that resumed it. */
const neutral = new AsyncResource('millrace.replay')

export const enum Flag {
  /** `pause()` was called. */
  Paused = 1,
  /** Nothing is delivered yet. */
  Unattached = 2,
  /** From `secure()` on. */
  ShakingHands = 4,
  /** `[kDrained]` is wanted when everything has been sent. */
  Awaited = 8,
  Gone = 16,
  /** The node engine has taken over. */
  Moved = 32,
  /** `end()` was called. */
  Ending = 64,
}

/** State that few connections ever need. */
interface Extra {
  /** Bytes received while paused, or pushed back: delivered before all others. */
  held: Buffer | null
  hasEnded: boolean
  isReplaying: boolean
  proxy: ProxyInfo | null
  handshake: Tls | null
  successor: Socket | null
}

export class NativeSocket implements Socket, Owner {
  readonly generation: number
  readonly #slot: number
  #flags: number
  #events: SocketEvents | null = null
  /** Bytes written in this epoch: no attempt was made to send them yet. */
  #pending = 0
  #epoch = 0
  /** An IPv4 address as a number, or text; a number is converted when asked for. */
  #remote: number | string = ''
  #local: number | string = ''
  /** Remote and local port, 16 bits each. */
  #ports = 0
  #extra: Extra | null = null

  constructor(slot: number, generation: number, flags: number) {
    this.#slot = slot
    this.generation = generation
    this.#flags = flags
  }

  /** `at`: of the AddressPair, in `receiveInts`. */
  readEnds({ receive, receiveInts }: Rings, at: number, localIp: string): void {
    const family = receiveInts[at + Pair.Family] as number
    const scope = receiveInts[at + Pair.Scope] as number
    this.#ports = ((receiveInts[at + Pair.RemotePort] as number) << 16) | (receiveInts[at + Pair.LocalPort] as number)
    this.#remote = addressAt(receive, (at + Pair.Remote) * 4, family, scope)
    this.#local = localIp === '' ? addressAt(receive, (at + Pair.Local) * 4, family, scope) : localIp
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
    this.settle()
    return this.#written() < OFFER_FROM ? this.#written() : this.#offered()
  }

  get unacknowledgedBytes(): number {
    if (this.#flags & (Flag.Gone | Flag.Moved)) return this.#extra?.successor?.unacknowledgedBytes ?? 0
    return this.queuedBytes + native().unacknowledged(this.#slot, this.generation)
  }

  /** Queued bytes of what is encoded. */
  #written(): number {
    const { queued, header } = rings()
    const stalled = queued[this.#slot] as number
    return this.#epoch === header[Header.Epoch] ? stalled + this.#pending : stalled
  }

  /**
   * Queued bytes once the kernel has been asked to take them, along with all else that this batch has sent so far. It
   * is not asked again while it has no room.
   */
  #offered(): number {
    if (rings().queued[this.#slot] === 0) native().flush()
    return this.#written()
  }

  hasQueued(bytes: number): boolean {
    if (this.#flags & (Flag.Gone | Flag.Moved)) return this.#extra?.successor?.hasQueued(bytes) ?? bytes <= 0
    if (gathering === this && this.#written() + gathered.length * MOST_PER_UNIT < bytes) return false
    this.settle()
    return this.#written() >= bytes && this.#offered() >= bytes
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
    if (gathering === this) {
      const length = hasAnswered ? gather(bytes) : -1
      if (length >= 0) return length
      hasAnswered = true
      this.settle()
    }
    if (isChunk(bytes))
      return lengthOf(bytes) < DIRECT_FROM ? this.#note(rings().put(this.#slot, bytes)) : this.#writeDirectly(bytes)
    let length = 0
    for (let at = 0; at < bytes.length; at++) length += lengthOf(bytes[at] as string | Uint8Array)
    return length < DIRECT_FROM ? this.#note(rings().putAll(this.#slot, bytes)) : this.#writeAll(bytes)
  }

  /** Writes pieces too large for the ring, or for one record of it. */
  #writeAll(chunks: readonly (string | Uint8Array)[]): number {
    let size = 0
    for (const chunk of chunks) size += this.write(chunk)
    return size
  }

  settle(): void {
    if (gathering !== this || gathered === '') return
    const { length } = gathered
    const size = this.#note(rings().putJoined(this.#slot, gathered, pieces))
    forget() // after the write: if the stack overflows in it, the next call tries again
    if (size > length) this.#events?.[kGrew]?.(size - length)
  }

  /** Counts bytes that are written but not flushed yet. */
  #note(size: number): number {
    const epoch = rings().header[Header.Epoch] as number
    this.#pending = this.#epoch === epoch ? this.#pending + size : size
    this.#epoch = epoch
    return size
  }

  #writeDirectly(chunk: string | Uint8Array): number {
    const bytes = bytesOf(chunk)
    native().sendBytes(this.#slot, this.generation, bytes)
    return bytes.length
  }

  awaitDrained(): void {
    if (this.#flags & (Flag.Gone | Flag.Awaited)) return
    if (this.#flags & Flag.Moved) return this.#extra?.successor?.awaitDrained()
    this.#flags |= Flag.Awaited
    current().awaitSent(this)
  }

  /** A flush that was waited for is over. */
  sent(): void {
    this.#flags &= ~Flag.Awaited
    if (this.#flags & (Flag.Gone | Flag.Moved)) return
    if (this.queuedBytes === 0) this.#drained()
    else if (rings().queued[this.#slot] === 0) this.awaitDrained() // written meanwhile
  }

  #drained(): void {
    this.#events?.[kDrained]()
    const tls = this.#extra?.handshake ?? null
    if (tls !== null && (this.#flags & Flag.Gone) === 0) this.#shakeHands(tls) // unless it was closed instead
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
    if (this.#flags & Flag.Gone) return // its slot may have been reused
    if (this.#flags & Flag.Moved) return this.#extra?.successor?.unread(bytes)
    const more = this.#more()
    more.held = Buffer.concat([bytes, more.held ?? NO_BYTES])
    rings().operate(this.#slot, Operation.Pause)
    this.#goOn()
  }

  readInto(into: Uint8Array): number {
    if (this.#flags & (Flag.Gone | Flag.Moved) || this.#mustHold()) return 0
    return native().readInto(this.#slot, this.generation, into)
  }

  end(): void {
    if (this.#flags & Flag.Gone) return
    this.settle()
    this.#flags |= Flag.Ending
    if (this.#flags & Flag.Moved) return this.#extra?.successor?.end()
    rings().operate(this.#slot, Operation.End)
    if (this.#flags & Flag.ShakingHands) this.#giveUpHandshake()
  }

  /** The handshake has not begun. The bytes that arrive now, or at least the end, are read again. */
  #giveUpHandshake(): void {
    this.#flags &= ~Flag.ShakingHands
    this.#more().handshake = null
    this.#goOn()
  }

  destroy(): void {
    if (this.#flags & Flag.Gone) return
    this.settle()
    this.#flags |= Flag.Gone
    this.#events = null
    if (this.#flags & Flag.Moved) return this.#extra?.successor?.destroy()
    current().owners[this.#slot] = null
    rings().operate(this.#slot, Operation.Destroy)
  }

  /** Rare, so the node engine does it: it has a call for that. */
  reset(): void {
    if (this.#flags & Flag.Moved) return this.#extra?.successor?.reset()
    const released = this.release()
    if (released === null) this.destroy()
    else nodeEngine.adopt({ ...released, unsent: NO_BYTES }).reset()
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
    this.settle()
    const { remoteIp, remotePort, localIp, localPort } = this
    const released = native().release(this.#slot, this.generation)
    if (released === undefined) return null
    current().owners[this.#slot] = null
    const received = current().takeReceived(this.#slot, this.generation)
    const unread = Buffer.concat([this.#extra?.held ?? NO_BYTES, received])
    return { ...released, unread, ends: { remoteIp, remotePort, localIp, localPort } }
  }

  secure(tls: Tls): void {
    if (this.#flags & Flag.Gone) return // its slot may have been reused
    this.#flags |= Flag.ShakingHands
    this.#more().handshake = tls
    rings().operate(this.#slot, Operation.Pause) // what arrives from now on belongs to the handshake
    if (this.queuedBytes === 0) this.#shakeHands(tls)
    else this.awaitDrained()
  }

  get hasBegun(): boolean {
    return this.#extra?.successor?.hasBegun ?? false
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

  // Events of the engine

  handle(kind: Kind, a: number, b: number): void {
    if (kind === Kind.Received) this.#received(a, b)
    else if (kind === Kind.Ended) this.#ended()
    else if (kind === Kind.Drained) this.#drainedLate()
    else if (kind === Kind.Closed) this.#closed(a, b === 1)
  }

  #received(offset: number, size: number): void {
    const bytes = rings().received(offset, size)
    if (this.#mustHold()) this.#more().held = Buffer.concat([this.#extra?.held ?? NO_BYTES, bytes])
    else this.#tell(bytes)
  }

  #tell(bytes: Buffer): void {
    const events = this.#events
    gathering = events?.[kGrew] === undefined ? null : this // otherwise nothing would learn how much it grew
    hasAnswered = false
    try {
      events?.[kReceived](bytes)
    } finally {
      try {
        this.settle()
      } finally {
        gathering = null
        if (gathered !== '') forget()
      }
    }
  }

  #ended(): void {
    if (this.#mustHold()) this.#more().hasEnded = true
    else this.#events?.[kEnded]()
  }

  /** In the batch in which it was paused, or asked to receive something again. */
  #mustHold(): boolean {
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

  /** Resumes receiving: held bytes first, in a later turn, then from the kernel. */
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

/** Gathers text. Returns its length, or -1 if it is not all text, or too long. */
function gather(bytes: Encoded): number {
  if (typeof bytes === 'string') return fits(bytes.length) ? append(bytes) : -1
  if (bytes instanceof Uint8Array) return -1
  let length = 0
  for (let at = 0; at < bytes.length; at++) {
    const chunk = bytes[at]
    if (typeof chunk !== 'string') return -1
    length += chunk.length
  }
  if (!fits(length)) return -1
  // No call in this loop, since the stack could overflow in one: half a message must not be left.
  for (let at = 0; at < bytes.length; at++) {
    gathered += bytes[at] as string
    pieces.push(bytes[at] as string)
  }
  return length
}

function fits(length: number): boolean {
  return gathered.length + length <= GATHERED
}

/** For a process that ends within a handler: text gathered so far is part of what was sent. */
export function settleGathered(): void {
  gathering?.settle()
}

function forget(): void {
  gathered = ''
  pieces = []
}

function append(text: string): number {
  gathered += text
  pieces.push(text)
  return text.length
}

/** One call site per type: a shared one would look the property up each time. */
function lengthOf(chunk: string | Uint8Array): number {
  return typeof chunk === 'string' ? chunk.length : chunk.length
}

/** `scope` belongs to the address if it is link-local. */
function addressAt(from: Buffer, offset: number, family: number, scope: number): number | string {
  if (family === 4) return from.readInt32BE(offset)
  if (family !== 6) return ''
  if (scope === 0 || !isLinkLocal(from, offset)) return ipv6Text(from.subarray(offset, offset + 16))
  return ipv6Address(new Int32Array(from.buffer, from.byteOffset + offset, 4), 0, scope).text
}

/** RFC 4291 section 2.5.6: fe80::/10. */
function isLinkLocal(from: Buffer, offset: number): boolean {
  return (from.readUInt16BE(offset) & 0xffc0) === 0xfe80
}

// Sockets exist only where there is an engine.

function current(): SocketEngine {
  return engine as SocketEngine
}

function rings(): Rings {
  return current().rings
}

function native(): NativeEngine {
  return current().native
}
