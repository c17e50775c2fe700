// A connection that this process opens: Workerman's AsyncTcpConnection. The same object can reconnect after it has
// closed. Messages sent before it is connected wait, bounded like the send buffer.

import { encodeWith, sendersFault } from '../blame.ts'
import { type ConnectionCallbacks, DEFAULT_LIMITS, type ProtocolCallbacks } from '../connection/host.ts'
import { NO_SOCKET, State } from '../connection/state.ts'
import {
  kConnect,
  kConnected,
  kConnectFailed,
  kEndPipes,
  kForget,
  kHasWaiting,
  kIsOver,
  kKeep,
  kLose,
  kReset,
  kSecure,
  kTransport,
} from '../connection/symbols.ts'
import { Connection } from '../connection.ts'
import { encodedSize } from '../encoded.ts'
import { SystemError, UsageError } from '../errors.ts'
import { apart } from '../loop/apart.ts'
import { Backoff } from '../loop/backoff.ts'
import { now } from '../loop/clock.ts'
import { deadlines } from '../loop/deadlines.ts'
import { Scheduler } from '../loop/scheduler.ts'
import { authorityOf, isSecureScheme, parseTarget, type Target, usualPort } from '../net/address.ts'
import { chooseEngine } from '../net/engines.ts'
import { type ClientTlsOptions, TlsClient } from '../net/tls.ts'
import { nothing } from '../nothing.ts'
import { check, SETTINGS } from '../options.ts'
import { registry } from '../process/group.ts'
import { checkProtocol, protocolOf } from '../protocol/registry.ts'
import type { AnyProtocol, CodecProtocol, Encoded, InOf, OutOf, ProtocolOf } from '../protocol.ts'
import {
  kClosed,
  kDrained,
  kEnded,
  kReceived,
  kSecured,
  type ProxySettings,
  type Socket,
  type SocketEvents,
  type Tls,
} from '../transport.ts'
import { CLIENT_RULES, checkClient } from '../worker/rules.ts'
import { addSender, ClientHost, hasLeft, partWith, removeSender } from './client-host.ts'

/** Properties of the connection that its constructor takes, with their documentation. */
type OwnSettingName =
  | 'maxPackageSize'
  | 'maxSendBufferSize'
  | 'lingerTimeout'
  | 'transport'
  | 'ssl'
  | 'connectTimeoutMs'
  | 'proxySocks5'
  | 'proxySocks5Username'
  | 'proxySocks5Password'
  | 'proxyHttp'
  | 'proxyAuthorization'

/** Options of the constructor. */
export interface ClientSettings<P>
  extends Partial<ConnectionCallbacks<InOf<P>, OutOf<P>>>,
    Partial<Pick<AsyncTcpConnection<string, P>, OwnSettingName | keyof ProtocolCallbacks>> {
  /** It is connected, under TLS if that was asked for. Messages wait until a returned promise has settled. */
  onConnect?: ((connection: Connection<InOf<P>, OutOf<P>>) => unknown) | null
  /** Takes the place of the one that the address's scheme names. */
  protocol?: P & AnyProtocol
  /** Closes the connection when nothing was sent or received for this long. Default 0, off. */
  idleTimeoutMs?: number
  /** How many asynchronous `onMessage` may be unsettled. Default 1, which keeps messages in order. */
  maxInFlight?: number
  /** How many decoded messages may wait behind them before reading stops. Default 64. */
  maxQueuedMessages?: number
}

/** Options that have a rule. */
export type ClientSettingName = Exclude<keyof ClientSettings<unknown>, `on${string}` | 'protocol'>

/**
 * Reconnect delays of any length (setTimeout stops at 24.8 days). They keep the process alive, as a connection does.
 */
const reconnects = new Scheduler({ keepsAlive: true })

/** Assumed size in bytes of a message only the codec can measure. */
const SIZE_OF_OBJECT = 256

type ProtocolAt<A> = A extends string ? ProtocolOf<A> : unknown

/** A connection that this process makes, with a protocol of its address's scheme: in a Worker, or outside of one. */
export class AsyncTcpConnection<const A extends string = string, P = ProtocolAt<A>> extends Connection<
  InOf<P>,
  OutOf<P>
> {
  /** `ssl`: TLS below the protocol, as with an `ssl://` address. */
  transport: 'tcp' | 'ssl' = 'tcp'
  /** Options of `tls.connect`; none are needed for a server with a public certificate. */
  ssl: ClientTlsOptions = {}
  /**
   * Limit in ms from `connect()` until the connection can be used: name look-up, TCP, proxy and TLS. Also how long the
   * handshake of a `startTls()` may take. 0 is without limit. Default: 10 s.
   */
  connectTimeoutMs = 10_000
  /** `host:port` of a SOCKS5 proxy. The proxy looks up host names. */
  proxySocks5 = ''
  /** With the password, for proxies that ask for one (RFC 1929). Default empty: none. */
  proxySocks5Username = ''
  /** Never part of an error message. */
  proxySocks5Password = ''
  /** `host:port` of an HTTP proxy that supports CONNECT. */
  proxyHttp = ''
  /** Value of the `Proxy-Authorization` header sent to it: `Basic ...`. */
  proxyAuthorization = ''
  /** The connection is established, TLS included if requested. Messages wait until a returned promise has settled. */
  onConnect: ((connection: this) => unknown) | null = null

  readonly #target: Target
  readonly #backoff = new Backoff()
  /** `connect()` will be called, by the user, by a timer, or when it has closed: what is sent waits for it. */
  #isExpected = true
  /** 0 when none is running. */
  #reconnectTimer = 0
  #dialing: AbortController | null = null
  #connectedAt = 0

  constructor(address: A, settings: ClientSettings<P> = {}) {
    check('what a client is set with', settings, SETTINGS)
    const { protocol, ...checked } = settings
    if ((protocol ?? null) !== null) checkProtocol('the protocol of a client', protocol)
    checkClient(checked, CLIENT_RULES)
    const { maxPackageSize, maxSendBufferSize, idleTimeoutMs, maxInFlight, maxQueuedMessages, ...own } = checked
    const isSecure = settings.transport === 'ssl' || isSecureScheme(address)
    const target = parseTarget(address, usualPort(address, isSecure))
    const host = new ClientHost({
      maxPackageSize: maxPackageSize ?? Connection.defaultMaxPackageSize,
      maxSendBufferSize: maxSendBufferSize ?? Connection.defaultMaxSendBufferSize,
      idleTimeoutMs: idleTimeoutMs ?? DEFAULT_LIMITS.idleTimeoutMs,
      maxInFlight: maxInFlight ?? DEFAULT_LIMITS.maxInFlight,
      maxQueuedMessages: maxQueuedMessages ?? DEFAULT_LIMITS.maxQueuedMessages,
    })
    host.target = { authority: authorityOf(target, isSecure ? 443 : 80), uri: target.uri }
    const spoken = protocol ?? protocolOf(target.scheme)
    if ('open' in spoken) spoken.checkRole?.('client')
    super(NO_SOCKET, spoken, host, 'client')
    this.#target = target
    host.whenClosed = () => this.#goOn()
    for (const [key, value] of Object.entries(own)) if (value !== undefined) Reflect.set(this, key, value)
    if (isSecure) this.transport = 'ssl'
  }

  /** Starts connecting, or does so when it has closed if it is about to. Does nothing if that has already begun. */
  connect(): void {
    if (this.getStatus() > State.Established)
      this.reconnect(0) // in a later turn: `onClose` may be the caller
    else if (this.getStatus() === State.Initial) this.#begin()
  }

  /**
   * Reconnects after `after` seconds. Without a number the delay grows with each failure: none, then 100 ms, doubling
   * up to 30 s, +-20 %. Typical use: `connection.onClose = () => connection.reconnect()`. A connection that is still
   * closing then does so when it has closed; for one that is open, nothing happens. Throws UsageError: ERR_BAD_OPTION.
   */
  reconnect(after?: number): void {
    if (after !== undefined && !(typeof after === 'number' && after >= 0 && after < Number.POSITIVE_INFINITY))
      throw new UsageError('ERR_BAD_OPTION', `reconnect(${String(after)}): a finite number of seconds from 0 on`)
    const lived = this.#connectedAt === 0 ? 0 : now() - this.#connectedAt
    const ms = after === undefined ? this.#backoff.next(lived) : after * 1000
    this.#plan(ms)
  }

  /** Cancels a planned reconnect; messages that wait for it are lost. Does not close an open connection. */
  cancelReconnect(): void {
    this.#cancelPlan()
    this.#isExpected = this.getStatus() < State.Established
    // What an open connection has, waits for its handshake.
    if (!this.#isExpected && this.getStatus() !== State.Established) this.#forget()
    if (this[kIsOver]) this[kEndPipes]()
  }

  override send(message: OutOf<P>): boolean
  override send(bytes: Encoded, raw: true): boolean
  override send(message: OutOf<P> | Encoded, raw = false): boolean {
    if (this.#isWaiting) return this.#wait(message, raw)
    return raw ? super.send(message as Encoded, true) : super.send(message as OutOf<P>)
  }

  /** Closes. If not connected yet, gives up, and waiting messages are lost. */
  override close(message?: OutOf<P>): void
  override close(bytes: Encoded, raw: true): void
  override close(message?: OutOf<P> | Encoded, raw = false): void {
    if (this.#isWaiting) this.destroy()
    else if (raw) super.close(message as Encoded, true)
    else super.close(message as OutOf<P>)
  }

  override end(message?: OutOf<P>): void
  override end(bytes: Encoded, raw: true): void
  override end(message?: OutOf<P> | Encoded, raw = false): void {
    if (this.#isWaiting) this.destroy()
    else if (raw) super.end(message as Encoded, true)
    else super.end(message as OutOf<P>)
  }

  override destroy(): void {
    this.#cancelPlan()
    this.#isExpected = this.getStatus() === State.Initial
    this.#forget()
    this.#giveUp()
    if (this[kIsOver]) this[kEndPipes]()
    else if (this.getStatus() !== State.Initial) super.destroy()
  }

  /**
   * Switches to TLS, as STARTTLS does, within `connectTimeoutMs`. See `Connection.startTls`. Throws UsageError, too,
   * before it has connected: ERR_NOT_CONNECTED.
   */
  override startTls(options: ClientTlsOptions = this.ssl): Promise<void> {
    return this[kSecure](new TlsClient(options, this.#target.host, this.connectTimeoutMs))
  }

  /** Returns `example.org:80`, with the name in ASCII, or the path of a Unix socket. */
  getRemoteHost(): string {
    const { host, port, path } = this.#target
    return path || `${host.includes(':') ? `[${host}]` : host}:${port}`
  }

  /** Returns what follows the host in the address: `/chat?room=1`. */
  getRemoteURI(): string {
    return this.#target.uri
  }

  override get [kTransport](): 'tcp' | 'ssl' | 'unix' {
    return this.transport === 'ssl' || super[kTransport] === 'ssl' ? 'ssl' : this.#target.transport
  }

  override get [kIsOver](): boolean {
    return super[kIsOver] && !this.#isExpected
  }

  get #isWaiting(): boolean {
    const status = this.getStatus()
    return status < State.Established || (status === State.Closed && this.#isExpected)
  }

  #wait(message: OutOf<P> | Encoded, isRaw: boolean): boolean {
    const mayGoOn = this.#keep(message, isRaw)
    addSender(this)
    return mayGoOn
  }

  /** Encodes a message now: an unsendable one throws to its sender, and an object is sent as it is at this time. */
  #keep(message: OutOf<P> | Encoded, isRaw: boolean): boolean {
    const { protocol } = this
    if (isRaw) return this[kKeep](message, true, encodedSize(message as Encoded))
    if ('open' in protocol) {
      const prepared = preparedBy(protocol, message)
      return this[kKeep](prepared ?? message, false, sizeOf(message, prepared))
    }
    const bytes = encodeWith(protocol, message)
    return this[kKeep](bytes, true, encodedSize(bytes))
  }

  /** Nothing is planned in a process that is about to exit: `onClose` asks for it as after any other end. */
  #plan(ms: number): void {
    this.#cancelPlan()
    if (hasLeft()) return
    this.#isExpected = true
    this.#reconnectTimer = reconnects.after(ms, () => this.#connectAgain())
  }

  #cancelPlan(): void {
    reconnects.cancel(this.#reconnectTimer)
    this.#reconnectTimer = 0
  }

  #connectAgain(): void {
    this.#reconnectTimer = 0
    if (hasLeft()) return this.cancelReconnect()
    if (this.getStatus() === State.Closed) this[kReset]()
    if (this.getStatus() === State.Initial) this.#begin()
    else if (this.getStatus() === State.Established) this.#isExpected = false
  }

  /**
   * It has closed. What waits is for the next connection, if one is planned. If the time to connect again came before
   * that, it is now: in a later turn, as any.
   */
  #goOn(): void {
    if (!this.#isExpected) return this.#lose()
    if (this[kHasWaiting]) addSender(this)
    if (this.#reconnectTimer === 0) this.#plan(0)
  }

  #begin(): void {
    this.#cancelPlan()
    this.#isExpected = true
    this[kConnect]()
    apart(() => void this.#dial(), undefined) // else some callbacks, by engine, would see the caller's stores
  }

  async #dial(): Promise<void> {
    const dialing = new AbortController()
    this.#dialing = dialing
    const { connectTimeoutMs: limit } = this
    const late = limit > 0 ? deadlines.after(limit, () => dialing.abort(timeOut(this.getRemoteHost()))) : 0
    try {
      const { transport, host, port, path } = this.#target
      const tls = this.transport === 'ssl' ? new TlsClient(this.ssl, host) : null
      const { engine } = chooseEngine(registry().engine, tls !== null)
      const socket = await engine.connect({ transport, host, port, path, proxy: this.#proxy() }, dialing.signal)
      if (tls !== null) await secured(socket, tls, dialing.signal)
      if (dialing.signal.aborted) {
        socket.destroy()
        throw dialing.signal.reason
      }
      this.#connectedAt = now()
      this.#settle()
      removeSender(this)
      this[kConnected](socket, this.onConnect)
      if (hasLeft()) partWith(this) // what waited for it has been sent
    } catch (error) {
      if (this.#dialing === dialing) this.#failed(error as Error)
    } finally {
      deadlines.cancel(late)
      if (this.#dialing === dialing) this.#dialing = null
    }
  }

  /** From now on the attempt reports nothing, even if it has failed by now, or is late. */
  #giveUp(): void {
    const dialing = this.#dialing
    this.#dialing = null
    dialing?.abort(abandoned())
  }

  #failed(error: Error): void {
    this.#connectedAt = 0
    this.#settle()
    this[kConnectFailed](error)
  }

  /** An attempt is over. Another one is expected if it is planned already, or if a callback calls `reconnect`. */
  #settle(): void {
    this.#isExpected = this.#reconnectTimer !== 0
  }

  #forget(): void {
    this[kForget]()
    removeSender(this)
  }

  #lose(): void {
    this[kLose]()
    removeSender(this)
  }

  #proxy(): ProxySettings | null {
    const { proxySocks5, proxyHttp, proxyAuthorization: authorization } = this
    // They may have been set since, to a URL, or with a line break.
    checkClient({ proxySocks5, proxyHttp, proxyAuthorization: authorization }, CLIENT_RULES)
    const address = proxySocks5 || proxyHttp
    if (address === '') return null
    const { host, port } = parseTarget(`tcp://${address}`, proxySocks5 === '' ? 8080 : 1080)
    if (proxySocks5 === '') return { kind: 'http', host, port, username: '', password: '', authorization }
    const [username, password] = [this.proxySocks5Username, this.proxySocks5Password]
    return { kind: 'socks5', host, port, username, password, authorization: '' }
  }
}

/** Ignores all events: during the handshake only two matter. */
const NO_EVENTS: SocketEvents = {
  [kReceived]: nothing,
  [kEnded]: nothing,
  [kDrained]: nothing,
  [kSecured]: nothing,
  [kClosed]: nothing,
}

/** Performs the TLS handshake before the connection is reported as established. */
function secured(socket: Socket, tls: Tls, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const abort = () => {
      socket.destroy()
      reject(signal.reason)
    }
    const settle = (outcome: () => void) => {
      signal.removeEventListener('abort', abort)
      outcome()
    }
    signal.addEventListener('abort', abort)
    socket.attach({
      ...NO_EVENTS,
      [kSecured]: () => settle(resolve),
      [kClosed]: (error) => settle(() => reject(error ?? new SystemError('ECONNRESET', 'connect', socket.remoteIp))),
    })
    socket.secure(tls)
  })
}

/** Lets a codec that can encode without a connection do that. Throws UsageError. */
function preparedBy(protocol: CodecProtocol, message: unknown): unknown {
  try {
    return protocol.prepare?.(message)
  } catch (error) {
    throw sendersFault(protocol.name, error)
  }
}

/** In bytes. Only a prepared message knows its size: a `size` of the user's may be that of anything. */
function sizeOf(message: unknown, prepared: unknown): number {
  const { size } = Object(prepared)
  return typeof size === 'number' ? size : sizeOfChunks(prepared ?? message)
}

function sizeOfChunks(message: unknown): number {
  if (typeof message === 'string') return Buffer.byteLength(message)
  if (message instanceof Uint8Array) return message.length
  if (Array.isArray(message)) return message.reduce((sum, part) => sum + sizeOfChunks(part), 0)
  return SIZE_OF_OBJECT
}

function timeOut(host: string): SystemError {
  return new SystemError('ETIMEDOUT', 'connect', host)
}

function abandoned(): Error {
  return new Error('the connection was given up')
}
