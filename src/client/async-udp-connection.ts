// A UDP client: Workerman's AsyncUdpConnection. "Connected" means only that the name was looked up and a port taken;
// nothing is sent for it. Works inside a Worker and outside one.

import { type ConnectionCallbacks, DEFAULT_LIMITS } from '../connection/host.ts'
import { STATUS, State } from '../connection/state.ts'
import { Connection } from '../connection.ts'
import { defined, type SystemError, systemErrorOf, UsageError } from '../errors.ts'
import { apart } from '../loop/apart.ts'
import { parseAddress } from '../net/address.ts'
import { connectDatagrams } from '../net/datagrams.ts'
import type { DatagramClient } from '../net/udp.ts'
import { check, SETTINGS } from '../options.ts'
import { registry } from '../process/group.ts'
import { checkProtocol, protocolOf } from '../protocol/registry.ts'
import type { AnyProtocol, Encoded, InOf, OutOf, ProtocolOf } from '../protocol.ts'
import { DatagramInbox } from '../udp/datagram-inbox.ts'
import { DatagramPeer, kDeliver, kReport, kTransmit } from '../udp/datagram-peer.ts'
import { checkClient, DATAGRAM_CLIENT_RULES } from '../worker/rules.ts'
import { addSender, ClientHost, removeSender } from './client-host.ts'

type Callbacks<A extends string, P> = ConnectionCallbacks<InOf<P>, OutOf<P>, AsyncUdpConnection<A, P>>

/** Options of the constructor. */
export interface AsyncUdpOptions<A extends string, P>
  extends Partial<Pick<Callbacks<A, P>, 'onMessage' | 'onClose' | 'onError'>> {
  /** The name is looked up. Messages sent so far leave before this is called. */
  onConnect?: Callbacks<A, P>['onClose']
  /** Bytes that may wait for the look-up or for the kernel. Default: 1 MiB. */
  maxSendBufferSize?: number
  /** How many asynchronous `onMessage` calls may be unsettled. Default: 1024. */
  maxDatagramsInFlight?: number
  /** How many datagrams may wait behind them; further ones are dropped. Default: 64. */
  maxQueuedMessages?: number
}

/** Options that have a rule. */
export type DatagramSettingName = Exclude<keyof AsyncUdpOptions<string, unknown>, `on${string}`>

/**
 * Only the first of these affects the inbox: datagrams have no stream and no idle time-out, and the inbox has its own
 * bounds.
 */
const CLIENT_LIMITS = {
  ...DEFAULT_LIMITS,
  maxPackageSize: Connection.defaultMaxPackageSize,
  maxSendBufferSize: Connection.defaultMaxSendBufferSize,
}

interface Unsent {
  readonly bytes: Encoded
  readonly size: number
}

/** A UDP client: sends datagrams to one address, and gets those that come from there. */
export class AsyncUdpConnection<const A extends string = string, P = ProtocolOf<A>> extends DatagramPeer<OutOf<P>> {
  /** Bytes that may wait for the look-up or for the kernel; with this much queued a send is refused. */
  maxSendBufferSize = Connection.defaultMaxSendBufferSize
  /** The name has been looked up, and what was sent so far goes out before this call. */
  onConnect: Callbacks<A, P>['onClose'] = null
  /** A datagram has come. Up to `maxDatagramsInFlight` returned promises may be unsettled. */
  onMessage: Callbacks<A, P>['onMessage'] = null
  /** Called exactly once; what has come and waits behind handlers is dropped before. */
  onClose: Callbacks<A, P>['onClose'] = null
  /**
   * Codes: 1 look-up failed, 2 not sent (also when nothing listens there; may come after `onClose`), 3 a datagram the
   * protocol cannot decode, 4 a handler threw.
   */
  onError: Callbacks<A, P>['onError'] = null

  readonly #host: string
  readonly #port: number
  readonly #inbox: DatagramInbox
  #state: State = State.Initial
  #client: DatagramClient | null = null
  #unsent: Unsent[] = []
  #unsentBytes = 0

  /**
   * Does nothing on the network until `connect`. Throws UsageError for a bad address, and for a protocol that needs a
   * stream.
   */
  constructor(address: A, options: AsyncUdpOptions<A, P> & { protocol: P & AnyProtocol })
  constructor(address: A, options?: AsyncUdpOptions<A, P> & { protocol?: undefined })
  constructor(address: A, options: AsyncUdpOptions<A, P> & { protocol?: AnyProtocol | undefined } = {}) {
    const { scheme, host, port } = parseAddress(address, 'udp')
    if (port === 0) throw new UsageError('ERR_BAD_ADDRESS', `bad address '${address}': nobody has port 0`)
    check('what a client is set with', options, SETTINGS)
    const { protocol, ...checked } = options
    if ((protocol ?? null) !== null) checkProtocol('the protocol of a client', protocol)
    checkClient(checked, DATAGRAM_CLIENT_RULES)
    const owner = new ClientHost(CLIENT_LIMITS)
    super(protocol ?? protocolOf(scheme), owner.counters)
    this.#host = host
    this.#port = port
    const { onConnect, onMessage, onClose, onError, maxSendBufferSize } = options
    Object.assign(this, defined({ onConnect, onMessage, onClose, onError, maxSendBufferSize }))
    const {
      maxDatagramsInFlight = DEFAULT_LIMITS.maxDatagramsInFlight,
      maxQueuedMessages = DEFAULT_LIMITS.maxQueuedMessages,
    } = options
    this.#inbox = new DatagramInbox(Object.assign(owner, { maxDatagramsInFlight, maxQueuedMessages }))
  }

  /** Looks the host up and takes a port. Does nothing when already called, or closed. The first `send` calls it too. */
  connect(): void {
    if (this.#state !== State.Initial) return
    this.#state = State.Connecting
    addSender(this)
    apart(() => this.#open(), undefined) // else some callbacks, by engine, would see the caller's stores
  }

  #open(): void {
    const receive = (bytes: Buffer) => this.#inbox.take(this, bytes)
    connectDatagrams(registry().engine, this.#host, this.#port, receive, this.sendFailed).then(
      (client) => this.#opened(client),
      (error) => this.#notOpened(error),
    )
  }

  /** Sends `message`, if any, and what is queued, then closes. Idempotent. */
  close(message?: OutOf<P>): void
  close(bytes: Encoded, raw: true): void
  close(message?: OutOf<P> | Encoded, raw = false): void {
    if (this.#state >= State.Closing) return
    if (message !== undefined) raw ? this.send(message as Encoded, true) : this.send(message as OutOf<P>)
    if (this.#unsent.length > 0) this.#state = State.Closing
    else this.#finish()
  }

  /** Returns 0 initial, 1 connecting, 2 established, 8 closing or 16 closed; `getStatus(false)` returns the word. */
  getStatus(raw?: true): number
  getStatus(raw: false): string
  getStatus(raw = true): number | string {
    return raw ? this.#state : STATUS[this.#state]
  }

  /** As in the address: a name, or an IP address. */
  getRemoteHost(): string {
    return this.#host
  }

  /** Empty until the look-up is done. */
  getRemoteIp(): string {
    return this.#client?.remoteIp ?? ''
  }

  /** As in the address. */
  getRemotePort(): number {
    return this.#port
  }

  /** Returns the bytes that wait for the look-up or for the kernel. */
  override getSendBufferQueueSize(): number {
    return this.#unsentBytes + super.getSendBufferQueueSize()
  }

  /** @internal */
  protected get socket(): DatagramClient | null {
    return this.#client
  }

  /** @internal */
  protected get isClosed(): boolean {
    return this.#state >= State.Closing
  }

  /** @internal */
  protected refusal(): string {
    const { maxSendBufferSize } = this
    const isFull = this.#client?.hasQueued(maxSendBufferSize) ?? this.#unsentBytes >= maxSendBufferSize
    return isFull ? 'send buffer full and drop package' : ''
  }

  /** @internal */
  protected callOnError(code: number, message: string, error?: Error): unknown {
    if (!this.onError) return this.logError(code, message, error)
    return this.onError(this, code, message, error)
  }

  /** @internal */
  [kTransmit](bytes: Encoded, size: number): void {
    if (this.#client !== null) return this.#client.send(bytes, '', 0, this.sendFailed)
    this.#unsent.push({ bytes, size })
    this.#unsentBytes += size
    this.connect()
  }

  /** @internal */
  [kDeliver](message: unknown): unknown {
    return this.onMessage?.(this, message as InOf<P>)
  }

  #opened(client: DatagramClient): void {
    if (this.#state === State.Closed) return void client.close()
    this.#client = client
    for (const { bytes } of this.#unsent) this.#sendLate(client, bytes) // onError may close: then it ends after these
    this.#unsent = []
    this.#unsentBytes = 0
    if (this.#state === State.Closing) return this.#finish()
    this.#state = State.Established
    this.#inbox.call(this, this.onConnect)
  }

  /** Its sender has returned: whatever it has made of the bytes since, there is no caller to throw to. */
  #sendLate(client: DatagramClient, bytes: Encoded): void {
    try {
      client.send(bytes, '', 0, this.sendFailed)
    } catch (error) {
      this.sendFailed(systemErrorOf(error, 'send', this.getRemoteAddress()))
    }
  }

  #notOpened(error: SystemError): void {
    if (this.#state === State.Closed) return
    const count = this.#unsent.length
    this.#unsent = []
    this.#unsentBytes = 0
    this.#state = State.Closing // what onError sends is refused
    this.#inbox.follow(this, this[kReport](Connection.CONNECT_FAIL, error.message, error))
    this.#finish()
    if (count > 0) this.notSent(`${count} datagram${count === 1 ? '' : 's'} not sent`, error)
  }

  #finish(): void {
    if (this.#state === State.Closed) return
    this.#state = State.Closed
    removeSender(this)
    void this.#client?.close()
    this.#inbox.empty()
    this.#inbox.call(this, this.onClose)
  }
}
