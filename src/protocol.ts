// The two storeys of protocols, both public. Framing (`Protocol`) is three functions without state of their own:
// most people write this. A codec (`CodecProtocol`) is for protocols with a life, one object per connection. Framing
// is an adapter over the codec, so a connection knows one path. Nothing here does I/O or reads a clock.

import type { X509Certificate } from 'node:crypto'
import { messageOf, ProtocolError, UsageError } from './errors.ts'

/** What `input` answers while the first packet is not whole: a value, never an error. */
export const NEED_MORE = 0

/** What `encode` gives: text (sent as UTF-8), bytes, or a list of them sent in order without a copy into one. */
export type Encoded = string | Uint8Array | readonly (string | Uint8Array)[]

/** @internal What a callback has returned may be a promise, or another library's: something to wait for. */
export function isThenable(value: unknown): value is PromiseLike<unknown> {
  return typeof value === 'object' && value !== null && 'then' in value && typeof value.then === 'function'
}

/** @internal One piece of what is sent. */
export function isChunk(value: unknown): value is string | Uint8Array {
  return typeof value === 'string' || value instanceof Uint8Array
}

/** @internal */
export function notEncoded(value: unknown): UsageError {
  return new UsageError('ERR_ENCODE', `what is sent must be a string, bytes or a list of them, not ${typeof value}`)
}

/** @internal Throws UsageError for what JSON cannot say: a function, a BigInt, what contains itself. */
export function jsonOf(value: unknown): string {
  let json: string | undefined
  let cause: unknown
  try {
    json = JSON.stringify(value)
  } catch (error) {
    cause = error
  }
  if (json !== undefined) return json
  const why = cause === undefined ? '' : `: ${messageOf(cause)}`
  throw new UsageError('ERR_ENCODE', `there is no JSON for ${typeof value}${why}`, { cause })
}

/** @internal How many bytes that is. Throws UsageError for what is none of it. */
export function encodedSize(bytes: Encoded): number {
  if (isChunk(bytes)) return Buffer.byteLength(bytes)
  if (!Array.isArray(bytes)) throw notEncoded(bytes)
  let size = 0
  for (const chunk of bytes) {
    if (!isChunk(chunk)) throw notEncoded(chunk)
    size += Buffer.byteLength(chunk)
  }
  return size
}

/** Framing: cut a stream into packets, turn a packet into a message, turn a message into bytes. */
export interface Protocol<In = unknown, Out = In> {
  readonly name: string
  /**
   * Set it when what `decode` returns never aliases its argument (it makes a string, say). `decode` then gets a view
   * into the receive buffer, valid until it returns; without it, a copy that it owns.
   */
  readonly lends?: boolean
  /**
   * The length in bytes of the first whole packet of `bytes`, head and terminator included, or `NEED_MORE`. It may be
   * more than what is there when a head declares it. Anything else is a ProtocolError, and so is anything thrown.
   *
   * @param bytes a view into the receive buffer, valid until `input` returns
   * @param from how many of these bytes an earlier call has searched: with it, one-byte reads cost O(n) in all
   */
  input(bytes: Buffer, from: number): number
  /** One packet, exactly as long as `input` said. Whatever it throws becomes a ProtocolError. */
  decode(packet: Buffer): In
  /**
   * `decode` of `bytes.subarray(start, end)`, for a protocol that `lends` and can do without a view of the packet: at many
   * packets a read that view costs more than all else.
   */
  decodeAt?(bytes: Buffer, start: number, end: number): In
  /**
   * `decode` of a packet that is `text.slice(start, end)`, for a protocol that `lends` and whose packets are text (UTF-8, as
   * `toString` reads it), preferred where there are many small ones: a read becomes one string then, of which packets are
   * slices. A slice keeps up to a kibibyte of its neighbours in memory for as long as it is kept itself.
   */
  decodeText?(text: string, start: number, end: number): In
  /** The bytes of a message; they belong to the connection from then on. Throw UsageError for what cannot be sent. */
  encode(message: Out): Encoded
}

export type Role = 'server' | 'client'

/**
 * Why a connection is gone. `upgraded` reaches only a codec that handed its connection over, `moved` one whose connection goes
 * on in another process.
 */
export type CloseReason =
  | 'closed'
  | 'peer'
  | 'protocol'
  | 'handler'
  | 'timeout'
  | 'error'
  | 'stopped'
  | 'upgraded'
  | 'moved'

/** Both ends of a connection. A Unix socket has empty addresses and port 0. */
export interface Peer {
  readonly remoteIp: string
  readonly remotePort: number
  readonly localIp: string
  readonly localPort: number
  readonly isEncrypted: boolean
  /** Null without TLS. */
  readonly tls: TlsState | null
  /** Null unless a proxy has told who the peer is (PROXY protocol). */
  readonly proxy: ProxyInfo | null
}

/** What a proxy has told besides addresses; empty where it did not. */
export interface ProxyInfo {
  /** The proxy itself: `10.0.0.1:4711`. */
  readonly address: string
  /** The host name that the client asked for (SNI). */
  readonly authority: string
  readonly alpn: string
  readonly uniqueId: Buffer | null
  /** Of the client's TLS, which ends at the proxy. */
  readonly tls: {
    readonly version: string
    readonly cipher: string
    /** Of the client's certificate. */
    readonly commonName: string
    readonly hasCertificate: boolean
    readonly isVerified: boolean
  } | null
  /** Everything, by its type. */
  readonly values: ReadonlyMap<number, Buffer>
}

/** What a TLS handshake has agreed on. */
export interface TlsState {
  /** `TLSv1.3`. */
  readonly version: string
  /** As OpenSSL names it: `TLS_AES_256_GCM_SHA384`. */
  readonly cipher: string
  /** The application protocol; empty when none was agreed on. */
  readonly alpn: string
  /** The name that the client asked for (SNI), or an empty string. */
  readonly serverName: string
  /** It went on from an earlier session. */
  readonly isResumed: boolean
  /** The peer has shown a certificate that we trust. */
  readonly isAuthorized: boolean
  /** Why not, in OpenSSL's word; empty when it is, or was not asked. */
  readonly authorizationError: string
  /** Of the peer; null when it has shown none. */
  readonly peerCertificate: X509Certificate | null
}

/** A protocol with a life: HTTP, WebSocket, MQTT. */
export interface CodecProtocol<In = unknown, Out = In> {
  readonly name: string
  /**
   * A goodbye makes the peer come back at once (WebSocket): a drain says it in paced batches over its window, and closes
   * each connection after it, instead of saying it to all at the beginning.
   */
  readonly isLongLived?: boolean
  /**
   * Makes the codec of one connection. `io` is its only way to the world. It may be used at once: to write a greeting,
   * which goes before anything that `onConnect` sends, to set a deadline, to turn the peer away.
   */
  open(io: CodecIo<In>, role: Role): Codec<Out>
  /** As `open`, for a connection that has begun elsewhere: `state` is what `export` gave there, and may have been JSON between. */
  import?(io: CodecIo<In>, role: Role, state: unknown): Codec<Out>
  /**
   * A message for many connections, in a form that is encoded once. Throws UsageError for what cannot be sent: it is asked, too,
   * about what waits for its connection.
   */
  prepare?(message: Out): Out
}

/**
 * One connection's protocol state. The connection calls these one at a time, save what a handler brings about while `receive`
 * emits, or a callback while `io.event` or `io.write` calls it: `send`, and `ending` before it; `closing`, when it closes or throws; and
 * `closed('upgraded')`, which comes from within `io.upgrade`, and from a handler's `startTls`.
 */
export interface Codec<Out = unknown> {
  /** `bytes` are lent until it returns: keep the remainder yourself (an `Accumulator`). Throw ProtocolError to refuse. */
  receive(bytes: Buffer): void
  /** After an `emit` that answered false, and after `io.resume()`: go on with what was kept. */
  resumed(): void
  /** False when the sender should stop, as `Connection.send`. */
  send(message: Out): boolean
  /** The next `send` is the user's last before `closing`: it may say so. */
  ending?(): void
  /** Say goodbye, called once: the worker is leaving. Messages may follow; the connection closes when it is quiet. */
  drain(): void
  /** It holds part of a message, or owes an answer: a drain waits for that, and reads on. Asked often: keep it cheap. */
  readonly isBusy?: boolean
  /** Of a long-lived protocol: its handshake is not over. A drain waits for that as for a request, before any goodbye. */
  readonly isOpening?: boolean
  /** It has said goodbye, and refuses what is sent: a broadcast leaves this connection out. */
  readonly isClosing?: boolean
  /**
   * The connection is about to be closed by its user ('closed', after the last message), for a handler that failed (with
   * what it threw), or for its silence ('timeout'): say the protocol's own last word (WebSocket's close frame, HTTP's 500). True: more is to come,
   * the end of a long answer say, and the codec calls `io.close()` or `io.end()` when that is out. From then on the user
   * sends nothing, and what is emitted is dropped. Called at most once.
   */
  closing?(reason: 'closed' | 'handler' | 'timeout', error?: unknown): boolean
  /**
   * The peer will send no more (TCP's FIN), and all that it sent was received: emit what only the end completes. The
   * connection closes when handlers have settled and `isBusy` is not true: while it is, an answer is owed.
   */
  ended?(): void
  /** A deadline set with `io.deadline(kind, ms)` has passed. */
  timeout(kind: string): void
  /**
   * What another codec of this protocol needs to go on from here, in another process: bytes that were received and belong to
   * no message yet, which it is given again, and plain data. Null: not now. It changes nothing: the connection may stay.
   */
  export?(): Exported | null
  /** The last call. */
  closed(reason: CloseReason): void
}

export interface Exported {
  readonly rest: Uint8Array
  /** What JSON can hold. */
  readonly state: unknown
}

/** What a connection offers to its codec. */
export interface CodecIo<In = unknown> {
  /**
   * Hands a message to the user. False means stop: parse no further, keep the rest, go on at `resumed()`. It may come
   * later than its bytes (asynchronous inflate) if receiving is paused meanwhile.
   */
  emit(message: In): boolean
  /**
   * Takes bytes to send, which belong to the connection from then on. False: stop sending until `onDrain`. What is full
   * refuses, but not what the protocol `must` say: a goodbye, say. That is for the codec to keep small.
   */
  write(bytes: Encoded, must?: boolean): boolean
  /**
   * From within `receive`, with all of its bytes used: reads what else has come to where it belongs, without the copy that
   * `receive` makes necessary; how many bytes. For what is long and whose length is known: see `Accumulator.fill`. 0 where nothing
   * is there yet, or an engine cannot: then `receive` brings it.
   */
  readInto(into: Uint8Array): number
  /** Calls a callback of the protocol's own, `worker.onSomething(connection, ...args)`; gives back what it returned. */
  event(name: `on${string}`, ...args: unknown[]): unknown
  /** Stops reading from the socket, and calls of `receive`: the codec is at work on what it has. */
  pause(): void
  /** Ends a pause. `resumed()` is called, at once or when this call has returned: what failed meanwhile is thrown there. */
  resume(): void
  /**
   * Calls `timeout(kind)` once, `ms` milliseconds from now (from ten seconds on, up to half a second later); 0 clears; setting a
   * kind again moves it.
   */
  deadline(kind: string, ms: number): void
  /** Milliseconds of a monotonic clock. */
  now(): number
  /**
   * Sends what is queued, half-closes, reads and discards for `lingerTimeout`: for a last word that must arrive. `code` as
   * for `close`.
   */
  end(code?: number): void
  /** Sends what is queued and closes. `code` is kept as `connection.closeCode`. */
  close(code?: number): void
  /** Gives the connection to another protocol, which gets `rest` first. This codec gets `closed('upgraded')`. */
  upgrade(protocol: AnyProtocol, rest: Uint8Array): void
  /** A message cannot be taken now: counted, `onError` with SEND_FAIL. For `send` to answer with. */
  refuse(why: string): false
  /**
   * What the user gave to send has failed on its way (a stream, a file): `onError` with HANDLER, then it closes at once. After
   * `end()` or `close()` it only tells: a last word is on its way.
   */
  fail(error: unknown): void
  readonly role: Role
  readonly peer: Peer
  /** What a client has asked for by its address; null for servers. */
  readonly target: { readonly authority: string; readonly uri: string } | null
  /** The connection's own: aborts when it closes, or when the worker's time to drain is nearly up. */
  readonly signal: AbortSignal
  /** The connection's one size limit, in bytes: no packet may be longer. */
  readonly maxPackageSize: number
  /** Bytes. While this much is queued, `write` refuses what it need not take. */
  readonly maxSendBufferSize: number
  /** Bytes taken by `write` that the kernel has not taken yet. */
  readonly queuedBytes: number
  /** Whether so many are: cheaper, for who asks after each message. */
  hasQueued(bytes: number): boolean
  /** Whether a message that was emitted has not been given to a handler: those before it are at work. */
  readonly hasUndelivered: boolean
  /** Called when `queuedBytes` has come down to 0. */
  onDrain: (() => void) | null
  /**
   * Called once, and set to null before, when all messages that were emitted have been handled, soon if they are; before a
   * ProtocolError is told, and without them when the time of a drain is up. For a last word that must not overtake the answers to them.
   */
  onSettled: (() => void) | null
}

// biome-ignore lint/suspicious/noExplicitAny: the widest protocol; messages are in and out at once, so no narrower type holds all
export type AnyProtocol = Protocol<any, any> | CodecProtocol<any, any>

/**
 * What each scheme delivers and takes. A package adds its own:
 * `declare module 'millrace' { interface Protocols { mqtt: typeof mqtt } }`
 */
export interface Protocols {
  tcp: Protocol<Buffer, string | Uint8Array>
  unix: Protocol<Buffer, string | Uint8Array>
  ssl: Protocol<Buffer, string | Uint8Array>
  udp: Protocol<Buffer, string | Uint8Array>
  text: Protocol<string, string | Uint8Array>
  frame: Protocol<Buffer, string | Uint8Array>
}

/** The messages that a protocol delivers. */
export type InOf<P> = P extends { decode(packet: never): infer In }
  ? In
  : P extends { open(io: CodecIo<infer In>, role: never): unknown }
    ? In
    : unknown

/** The messages that a protocol takes. */
export type OutOf<P> = P extends { encode(message: infer Out): unknown }
  ? Out
  : P extends { open(io: never, role: never): Codec<infer Out> }
    ? Out
    : unknown

type SchemeOf<A extends string> = A extends `${infer S}://${string}` ? Lowercase<S> : string

/** The protocol that a literal address names; `unknown` where the address is no literal or the scheme not declared. */
export type ProtocolOf<A extends string> = SchemeOf<A> extends keyof Protocols ? Protocols[SchemeOf<A>] : unknown

// The registry

const registry = new Map<string, AnyProtocol>()

/**
 * Makes `scheme://` addresses use a protocol. Throws ERR_SCHEME_TAKEN when another object holds the scheme, ERR_BAD_PROTOCOL for
 * what is no protocol.
 */
export function registerProtocol(scheme: string, protocol: AnyProtocol): void {
  if (typeof scheme !== 'string' || !/^[a-z][a-z0-9+.-]*$/.test(scheme)) {
    const wanted = `use lower-case letters, digits, '+', '-' and '.'`
    throw new UsageError('ERR_BAD_SCHEME', `'${String(scheme)}' is no scheme: ${wanted}`)
  }
  checkProtocol(`the protocol of '${scheme}'`, protocol)
  const holder = registry.get(scheme)
  if (holder !== undefined && holder !== protocol) {
    throw new UsageError(
      'ERR_SCHEME_TAKEN',
      `the scheme '${scheme}' is registered already, by protocol '${holder.name}'`,
    )
  }
  registry.set(scheme, protocol)
}

const FRAMING = ['input', 'decode', 'encode']

/** @internal Throws ERR_BAD_PROTOCOL, which says what is missing: whoever connects would be blamed for it. */
export function checkProtocol(what: string, protocol: unknown): asserts protocol is AnyProtocol {
  const isThing = (typeof protocol === 'object' && protocol !== null) || typeof protocol === 'function'
  if (!isThing) throw badProtocol(`${what} is ${String(protocol)}`)
  const methods = 'open' in protocol ? ['open'] : FRAMING
  const missing = methods.filter((name) => typeof Reflect.get(protocol, name) !== 'function').map((name) => `${name}()`)
  if (typeof Reflect.get(protocol, 'name') !== 'string') missing.unshift('name')
  if (missing.length > 0) throw badProtocol(`${what} has no ${missing.join(', ')}`)
}

function badProtocol(why: string): UsageError {
  const wanted = 'framing has a name, input(), decode() and encode(), a codec a name and open()'
  return new UsageError('ERR_BAD_PROTOCOL', `${why}: ${wanted}`)
}

/** The protocol of a scheme. Throws ERR_UNKNOWN_SCHEME, whose message lists the known ones. */
export function protocolOf(scheme: string): AnyProtocol {
  const protocol = registry.get(scheme)
  if (protocol !== undefined) return protocol
  const known = [...registry.keys()].sort().join(', ')
  throw new UsageError(
    'ERR_UNKNOWN_SCHEME',
    `unknown scheme '${scheme}' (known: ${known}); register yours with registerProtocol('${scheme}', protocol), or pass { protocol }`,
  )
}

// Framing helpers

/** What a helper-made `input` says about itself, so that an engine can frame without a call per packet. */
export type Framing =
  | { readonly kind: 'delimited'; readonly delimiter: Uint8Array }
  | ({ readonly kind: 'lengthPrefixed' } & Readonly<Required<LengthPrefix>>)

/** An `input` made by a helper: callable as such, and able to frame in place without a view per packet. */
export interface Framer {
  (bytes: Buffer, from: number): number
  readonly framing: Framing
  /** As `input`, for the packet that begins at `start`; `from` counts from there. */
  at(bytes: Buffer, start: number, from: number): number
}

function framer(framing: Framing, at: Framer['at']): Framer {
  const input = (bytes: Buffer, from: number) => at(bytes, 0, from)
  return Object.assign(input, { framing, at })
}

/** Below this many bytes a loop finds a delimiter faster than the call into memchr: 20 against 80 ns for 32 bytes. */
const SHORT_SEARCH = 64

/** Packets that end in a delimiter, which counts as part of the packet. */
export function delimited(delimiter: string | Uint8Array): Framer {
  if (!isChunk(delimiter) || delimiter.length === 0)
    throw new UsageError('ERR_BAD_DELIMITER', 'a delimiter is text or bytes, at least one')
  const mark = Buffer.from(delimiter)
  const framing = { kind: 'delimited', delimiter: mark } as const
  return framer(framing, mark.length === 1 ? endsInByte(mark[0] as number) : endsInBytes(mark))
}

function endsInByte(byte: number): Framer['at'] {
  return (bytes, start, from) => {
    const near = Math.min(bytes.length, start + from + SHORT_SEARCH)
    for (let i = start + from; i < near; i++) if (bytes[i] === byte) return i + 1 - start
    if (near === bytes.length) return NEED_MORE
    const found = bytes.indexOf(byte, near)
    return found < 0 ? NEED_MORE : found + 1 - start
  }
}

function endsInBytes(mark: Buffer): Framer['at'] {
  return (bytes, start, from) => {
    const found = bytes.indexOf(mark, start + Math.max(0, from - mark.length + 1)) // half a mark may have been searched
    return found < 0 ? NEED_MORE : found + mark.length - start
  }
}

export interface LengthPrefix {
  /** Width of the length field, 1 to 6 bytes. */
  bytes: number
  /** Where the length field begins. Default: 0. */
  offset?: number
  /** Whether the declared length counts the head (everything up to the end of the field) too. Default: false. */
  includesHeader?: boolean
  /** Default: false, network order. */
  littleEndian?: boolean
}

/**
 * Packets that declare their length in a field of their head.
 *
 * ```
 * | offset bytes | length: `bytes` bytes, unsigned | payload ... |
 * ```
 */
export function lengthPrefixed(prefix: LengthPrefix): Framer {
  if (typeof prefix !== 'object' || prefix === null)
    throw new UsageError('ERR_BAD_LENGTH_PREFIX', `lengthPrefixed() takes { bytes, ... }, not ${String(prefix)}`)
  const { bytes: width, offset = 0, includesHeader = false, littleEndian = false } = prefix
  if (!Number.isInteger(width) || width < 1 || width > 6) {
    throw new UsageError('ERR_BAD_LENGTH_PREFIX', `a length field has 1 to 6 bytes, not ${width}`)
  }
  if (!Number.isInteger(offset) || offset < 0) {
    throw new UsageError('ERR_BAD_LENGTH_PREFIX', `a length field begins at byte 0 or later, not at ${offset}`)
  }
  const head = offset + width
  const framing = { kind: 'lengthPrefixed', bytes: width, offset, includesHeader, littleEndian } as const
  return framer(framing, (bytes, start) => {
    if (bytes.length - start < head) return NEED_MORE
    const at = start + offset
    const declared = littleEndian ? bytes.readUIntLE(at, width) : bytes.readUIntBE(at, width)
    if (!includesHeader) return declared + head
    if (declared >= head) return declared
    throw new ProtocolError('ERR_BAD_LENGTH', `declared length ${declared} is below the head's ${head} bytes`, {
      offset,
    })
  })
}

/** From so many bytes on that are still to come, reading them to where they belong is worth a call. */
const WORTH_READING_INTO = 32_768
/** Then others have their turn. */
const MOST_AT_ONCE = 1_048_576

/** Bytes kept between reads: appended at the end, consumed from the front, grown by doubling, given back when empty. */
export class Accumulator {
  #buffer: Buffer | null = null
  #start = 0
  #end = 0
  #expected = 0

  get length(): number {
    return this.#end - this.#start
  }

  /**
   * How much it will hold: it grows to that in few steps and no further, so that `take` gives no more than that away. What a
   * peer only promises is not reserved: a step is at most four times what has come.
   */
  expect(length: number): void {
    this.#expected = length
  }

  /** Copies `bytes` in. Cost: amortised O(bytes). */
  append(bytes: Uint8Array): void {
    const buffer = this.#reserve(bytes.length)
    buffer.set(bytes, this.#end)
    this.#end += bytes.length
  }

  /** Reads on into itself, where much of what is expected is still to come; how many bytes. */
  fill(io: Pick<CodecIo, 'readInto'>): number {
    const before = this.length
    for (let missing = this.#expected - before; missing >= WORTH_READING_INTO; missing = this.#expected - this.length) {
      const buffer = this.#reserve(WORTH_READING_INTO)
      const into = buffer.subarray(this.#end, Math.min(buffer.length, this.#end + missing))
      const bytes = io.readInto(into)
      this.#end += bytes
      if (bytes < into.length || this.length - before >= MOST_AT_ONCE) break
    }
    return this.length - before
  }

  /** What is kept; aliases the accumulator, valid until the next `append` or `consume`. */
  view(): Buffer {
    return this.#buffer === null ? EMPTY : this.#buffer.subarray(this.#start, this.#end)
  }

  /** Drops `count` bytes from the front. */
  consume(count: number): void {
    this.#start += count
    if (this.#start < this.#end) return
    this.#buffer = null // an idle connection holds no buffer
    this.#start = this.#end = this.#expected = 0
  }

  /** Gives away what is kept, without a copy. */
  take(): Buffer {
    const bytes = this.view()
    this.consume(bytes.length)
    return bytes
  }

  #reserve(count: number): Buffer {
    const size = this.length
    if (this.#buffer !== null && this.#end + count <= this.#buffer.length) return this.#buffer
    // Twice what it must hold: moving the kept bytes to the front is then paid for by as many new ones.
    const usual = Math.max(64, 2 * size + count)
    const isExpected = size + count <= this.#expected
    const grown = Buffer.allocUnsafeSlow(isExpected ? Math.min(this.#expected, 4 * (size + count)) : usual)
    if (this.#buffer !== null) this.#buffer.copy(grown, 0, this.#start, this.#end)
    this.#buffer = grown
    this.#start = 0
    this.#end = size
    return grown
  }
}

const EMPTY = Buffer.alloc(0)
