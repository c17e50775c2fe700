// One UDP descriptor in the native engine: recvmmsg(2) and sendmmsg(2) for everything received and sent in a batch.
// native-udp.ts decides who uses it and when it closes.

import { formatEndpoint } from '../endpoint.ts'
import { SystemError } from '../errors.ts'
import type { Encoded } from '../protocol.ts'
import { MAX_DATAGRAM_BYTES } from './ip.ts'
import { type IpAddress, ipv4Address, ipv6Address } from './ip-addresses.ts'
import { type Engine, started } from './native-engine.ts'
import type { Owner } from './native-socket.ts'
import { ENDPOINT_BYTES, Header, Kind, Operation } from './rings.ts'

/** Receiver of its events. */
export interface DatagramEvents {
  /** A datagram arrived; the receiver owns its bytes. `localIp`: see `Receive`. */
  received(bytes: Buffer, ip: string, port: number, localIp: string): void
  /** Receiving failed, because of an ICMP message, but goes on. */
  failed(error: SystemError): void
}

type Failed = (error: SystemError) => void

/** An Endpoint (native/src/engine_datagrams.cc) in int32s: stored after a received datagram, before one to be sent. */
const enum Endpoint {
  Family = 0,
  Port = 1,
  Scope = 2,
  Tag = 3,
  Ip = 4,
  LocalFamily = 8,
  LocalScope = 9,
  LocalIp = 10,
}

/** From this many bytes on, sent at once: a larger batch saves nothing, and what waits counts as queued. */
const FLUSH_FROM = 65_536
/** For how many recent datagrams a failure can still be reported: more than a flush holds at the usual size. */
const MAX_TAGS = 4096
/** Below this length a loop is faster than a call. */
const LOOP_BELOW = 48

export class NativeDatagrams implements Owner {
  readonly generation: number
  readonly #engine: Engine = started()
  readonly #fd: number
  readonly #slot: number
  readonly #events: DatagramEvents
  readonly #sent = new Sent()
  #isOpen = true
  /** Bytes recorded in this epoch: no attempt was made to send them yet. */
  #pending = 0
  #epoch = 0
  #whenDrained: (() => void)[] = []

  /** Takes over `fd`. If it throws, `fd` stays open. */
  constructor(fd: number, events: DatagramEvents) {
    const { native, owners } = this.#engine
    this.#fd = fd
    this.#events = events
    this.#slot = native.receiveDatagrams(fd)
    this.generation = native.generation(this.#slot)
    owners[this.#slot] = this
  }

  /** -1 when closed: the number may have been reused. */
  get fd(): number {
    return this.#isOpen ? this.#fd : -1
  }

  /** Bytes of waiting datagrams, including 56 bytes per datagram for its addresses. */
  get queuedBytes(): number {
    if (!this.#isOpen) return 0
    const { queued, header } = this.#engine.rings
    const stalled = queued[this.#slot] as number
    return this.#epoch === header[Header.Epoch] ? stalled + this.#pending : stalled
  }

  /** Whether the kernel leaves at least this many queued. It is asked first, unless it has no room. */
  hasQueued(bytes: number): boolean {
    if (this.queuedBytes < bytes) return false
    if (this.#isOpen && this.#engine.rings.queued[this.#slot] === 0) this.#engine.native.flush()
    return this.queuedBytes >= bytes
  }

  /** Sends to `to`, or, if it is null, to the connected peer. `from` is one of the socket's addresses. */
  send(bytes: Encoded, to: IpAddress | null, port: number, failed: Failed, from: IpAddress | null = null): void {
    const most = mostBytes(bytes)
    if (!this.#isOpen) return failLater(failed, 'EBADF', to, port)
    if (most > 3 * MAX_DATAGRAM_BYTES) return failLater(failed, 'EMSGSIZE', to, port)
    const { rings, native } = this.#engine
    const at = rings.reserve(ENDPOINT_BYTES + most)
    const size = write(rings.send, at + ENDPOINT_BYTES, bytes)
    if (size > MAX_DATAGRAM_BYTES) return failLater(failed, 'EMSGSIZE', to, port)
    writeRemote(rings.sendInts, at >> 2, to, port, this.#sent.add(failed, to, port))
    writeLocal(rings.sendInts, at >> 2, from)
    rings.commit(this.#slot, at, ENDPOINT_BYTES + size)
    const epoch = rings.header[Header.Epoch] as number
    this.#pending = ENDPOINT_BYTES + size + (this.#epoch === epoch ? this.#pending : 0)
    this.#epoch = epoch
    if (this.#pending >= FLUSH_FROM) native.flush()
  }

  /** Stops reading. What has already been read is still delivered. */
  pause(): void {
    if (!this.#isOpen) return // its slot may have been reused
    const { rings, native } = this.#engine
    rings.operate(this.#slot, Operation.Pause)
    native.flush()
  }

  /** Resolves when the kernel has everything that was sent. */
  async drained(): Promise<void> {
    // Flushed each time: datagrams sent in the batch that reported the previous drain may fit at once, and no event
    // reports that.
    for (this.#engine.native.flush(); this.queuedBytes > 0; this.#engine.native.flush())
      await new Promise<void>((done) => {
        this.#whenDrained.push(done)
      })
  }

  /** Closes the descriptor once recorded datagrams have been sent; what the kernel does not take is lost. */
  destroy(): void {
    if (!this.#isOpen) return
    this.#isOpen = false
    const { rings, native, owners } = this.#engine
    native.flush() // the engine carries out closes before sends
    owners[this.#slot] = null
    rings.operate(this.#slot, Operation.Destroy)
    this.#tellDrained()
  }

  // Events of the engine

  handle(kind: Kind, a: number, b: number): void {
    if (kind === Kind.Datagram) this.#received(a, b)
    else if (kind === Kind.DatagramFailed) this.#failed(a, b)
    else if (kind === Kind.Drained) this.#tellDrained()
    else if (kind === Kind.Closed) this.#closed(a)
  }

  #received(offset: number, size: number): void {
    const { rings } = this.#engine
    if (rings.datagrams.length === 0) rings.renew()
    const ints = rings.datagramInts
    const at = (offset + rings.datagramBytes - ENDPOINT_BYTES) >> 2
    const from = addressIn(ints, ints[at + Endpoint.Family] as number, at + Endpoint.Ip, at + Endpoint.Scope)
    const port = ints[at + Endpoint.Port] as number
    const family = ints[at + Endpoint.LocalFamily] as number
    const to = family === 0 ? '' : addressIn(ints, family, at + Endpoint.LocalIp, at + Endpoint.LocalScope).text
    this.#engine.standApart()
    this.#events.received(copy(rings.datagrams, offset, size), from.text, port, to)
  }

  #failed(errno: number, tag: number): void {
    if (tag < 0) this.#events.failed(SystemError.fromErrno(-errno, 'recvmsg'))
    else if (!this.#sent.fail(tag, errno)) this.#events.failed(SystemError.fromErrno(-errno, 'send'))
  }

  #closed(errno: number): void {
    this.#events.failed(SystemError.fromErrno(-errno, 'epoll_ctl'))
    this.destroy()
  }

  #tellDrained(): void {
    for (const done of this.#whenDrained.splice(0)) done()
  }
}

/** The most recent datagrams, and whom to notify if one of them fails. */
class Sent {
  #next = 0
  readonly #tags: number[] = []
  readonly #failed: Failed[] = []
  readonly #ips: (IpAddress | null)[] = []
  readonly #ports: number[] = []

  /** Returns the datagram's tag. */
  add(failed: Failed, to: IpAddress | null, port: number): number {
    const tag = this.#next
    this.#next = (tag + 1) & 0x7fffffff
    const at = tag % MAX_TAGS
    this.#tags[at] = tag
    this.#failed[at] = failed
    this.#ips[at] = to
    this.#ports[at] = port
    return tag
  }

  /** Returns false if too many were sent since: then it is unknown which datagram failed. */
  fail(tag: number, errno: number): boolean {
    const at = tag % MAX_TAGS
    if (this.#tags[at] !== tag) return false
    const where = endpointText(this.#ips[at] ?? null, this.#ports[at] as number)
    this.#failed[at]?.(SystemError.fromErrno(-errno, 'send', where))
    return true
  }
}

function endpointText(to: IpAddress | null, port: number): string {
  return to === null ? '' : formatEndpoint(to.text, port)
}

/** Reports a failure, never before `send` has returned. */
function failLater(failed: Failed, code: string, to: IpAddress | null, port: number): void {
  setImmediate(() => failed(new SystemError(code, 'send', endpointText(to, port))))
}

function addressIn(ints: Int32Array, family: number, ipAt: number, scopeAt: number): IpAddress {
  return family === 4 ? ipv4Address(ints[ipAt] as number) : ipv6Address(ints, ipAt, ints[scopeAt] as number)
}

function writeRemote(ints: Int32Array, at: number, to: IpAddress | null, port: number, tag: number): void {
  ints[at + Endpoint.Family] = to?.family ?? 0
  ints[at + Endpoint.Port] = port
  ints[at + Endpoint.Scope] = to?.scope ?? 0
  ints[at + Endpoint.Tag] = tag
  if (to === null) return
  for (let i = 0; i < 4; i++) ints[at + Endpoint.Ip + i] = to.words[i] as number
}

function writeLocal(ints: Int32Array, at: number, from: IpAddress | null): void {
  ints[at + Endpoint.LocalFamily] = from?.family ?? 0
  if (from === null) return
  ints[at + Endpoint.LocalScope] = from.scope
  for (let i = 0; i < 4; i++) ints[at + Endpoint.LocalIp + i] = from.words[i] as number
}

/** Upper bound of the size: text has up to three bytes per UTF-16 unit. */
function mostBytes(bytes: Encoded): number {
  if (typeof bytes === 'string') return bytes.length * 3
  if (bytes instanceof Uint8Array) return bytes.length
  let most = 0
  for (const chunk of bytes) most += mostBytes(chunk)
  return most
}

/** Returns how many bytes were written. */
function write(send: Buffer, at: number, bytes: Encoded): number {
  if (typeof bytes === 'string') return send.write(bytes, at)
  if (bytes instanceof Uint8Array) return writeBytes(send, at, bytes)
  let size = 0
  for (const chunk of bytes) size += write(send, at + size, chunk)
  return size
}

function writeBytes(send: Buffer, at: number, bytes: Uint8Array): number {
  const size = bytes.length
  if (size < LOOP_BELOW) for (let i = 0; i < size; i++) send[at + i] = bytes[i] as number
  else send.set(bytes, at)
  return size
}

function copy(from: Buffer, offset: number, size: number): Buffer {
  const bytes = Buffer.allocUnsafe(size)
  if (size < LOOP_BELOW) for (let i = 0; i < size; i++) bytes[i] = from[offset + i] as number
  else from.copy(bytes, 0, offset, offset + size)
  return bytes
}
