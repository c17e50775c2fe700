// What a connection inherits from its owner: limits and callbacks. Connections share one object of settings until one
// of them changes something; then it gets its own.

import { Addressed } from '../endpoint.ts'
import type { Role } from '../protocol.ts'
import type { ConnectionCallbacks, ConnectionClock, ConnectionHost } from './host.ts'

/** The settings that an owner's last connection received, see `settingsOf`. */
export const kLastSettings = Symbol('last settings')
/** The settings of a connection. */
export const kSettings = Symbol('settings')

/** Settings that all connections of an owner share, until one of them gets its own. */
export class ConnectionSettings {
  readonly host: ConnectionHost
  readonly maxSendBufferSize: number
  readonly maxPackageSize: number
  readonly lingerTimeout: number
  readonly onMessage: ConnectionHost['onMessage']
  readonly onClose: ConnectionHost['onClose']
  readonly onError: ConnectionHost['onError']
  readonly onBufferFull: ConnectionHost['onBufferFull']
  readonly onBufferDrain: ConnectionHost['onBufferDrain']
  readonly role: Role
  readonly clock: ConnectionClock

  constructor(from: Omit<ConnectionSettings, 'with' | 'isFor'>) {
    this.host = from.host
    this.maxSendBufferSize = from.maxSendBufferSize
    this.maxPackageSize = from.maxPackageSize
    this.lingerTimeout = from.lingerTimeout
    this.onMessage = from.onMessage
    this.onClose = from.onClose
    this.onError = from.onError
    this.onBufferFull = from.onBufferFull
    this.onBufferDrain = from.onBufferDrain
    this.role = from.role
    this.clock = from.clock
  }

  with(changes: Partial<ConnectionSettings>): ConnectionSettings {
    return new ConnectionSettings({ ...this, ...changes })
  }

  isFor(host: ConnectionHost, lingerTimeout: number, role: Role, clock: ConnectionClock): boolean {
    const isSame = this.maxSendBufferSize === host.maxSendBufferSize && this.maxPackageSize === host.maxPackageSize
    if (!isSame || this.lingerTimeout !== lingerTimeout || this.role !== role || this.clock !== clock) return false
    if (this.onMessage !== host.onMessage || this.onClose !== host.onClose || this.onError !== host.onError)
      return false
    return this.onBufferFull === host.onBufferFull && this.onBufferDrain === host.onBufferDrain
  }
}

/** The owner's current settings: the same object until one of them changes. */
export function settingsOf(
  host: ConnectionHost,
  lingerTimeout: number,
  role: Role,
  clock: ConnectionClock,
): ConnectionSettings {
  const last = host[kLastSettings]
  if (last?.isFor(host, lingerTimeout, role, clock)) return last
  const { maxSendBufferSize, maxPackageSize, onMessage, onClose, onError, onBufferFull, onBufferDrain } = host
  const callbacks = { onMessage, onClose, onError, onBufferFull, onBufferDrain }
  const made = new ConnectionSettings({
    host,
    maxSendBufferSize,
    maxPackageSize,
    lingerTimeout,
    ...callbacks,
    role,
    clock,
  })
  host[kLastSettings] = made
  return made
}

/** The owner's settings, on each connection: read here, and overridden for this connection alone. */
export abstract class ConfigurableConnection<In, Out> extends Addressed {
  /** @internal */
  protected [kSettings]: ConnectionSettings

  constructor(settings: ConnectionSettings) {
    super()
    this[kSettings] = settings
  }

  /** Bytes. A message is refused if at least this much is queued. */
  get maxSendBufferSize(): number {
    return this[kSettings].maxSendBufferSize
  }

  set maxSendBufferSize(bytes: number) {
    this[kSettings] = this[kSettings].with({ maxSendBufferSize: bytes })
  }

  /** Bytes. No packet may be longer. */
  get maxPackageSize(): number {
    return this[kSettings].maxPackageSize
  }

  set maxPackageSize(bytes: number) {
    this[kSettings] = this[kSettings].with({ maxPackageSize: bytes })
  }

  /** How long `end()` waits for the peer to close, in seconds, as in Workerman. */
  get lingerTimeout(): number {
    return this[kSettings].lingerTimeout
  }

  set lingerTimeout(seconds: number) {
    this[kSettings] = this[kSettings].with({ lingerTimeout: seconds })
  }

  /** Called with each message; the next one waits until a returned promise has settled (see `maxInFlight`). */
  get onMessage(): ConnectionCallbacks<In, Out>['onMessage'] {
    return this[kSettings].onMessage
  }

  set onMessage(callback: ConnectionCallbacks<In, Out>['onMessage']) {
    this[kSettings] = this[kSettings].with({ onMessage: callback })
  }

  /** Called exactly once, whatever ended the connection. */
  get onClose(): ConnectionCallbacks<In, Out>['onClose'] {
    return this[kSettings].onClose
  }

  set onClose(callback: ConnectionCallbacks<In, Out>['onClose']) {
    this[kSettings] = this[kSettings].with({ onClose: callback })
  }

  /** Codes: 1 connect failed, 2 not sent, 3 the peer broke the protocol, 4 a handler threw. Null: logged. */
  get onError(): ConnectionCallbacks<In, Out>['onError'] {
    return this[kSettings].onError
  }

  set onError(callback: ConnectionCallbacks<In, Out>['onError']) {
    this[kSettings] = this[kSettings].with({ onError: callback })
  }

  /** The send buffer has reached `maxSendBufferSize`: stop sending. */
  get onBufferFull(): ConnectionCallbacks<In, Out>['onBufferFull'] {
    return this[kSettings].onBufferFull
  }

  set onBufferFull(callback: ConnectionCallbacks<In, Out>['onBufferFull']) {
    this[kSettings] = this[kSettings].with({ onBufferFull: callback })
  }

  /** The send buffer has become empty after `onBufferFull`. */
  get onBufferDrain(): ConnectionCallbacks<In, Out>['onBufferDrain'] {
    return this[kSettings].onBufferDrain
  }

  set onBufferDrain(callback: ConnectionCallbacks<In, Out>['onBufferDrain']) {
    this[kSettings] = this[kSettings].with({ onBufferDrain: callback })
  }
}
