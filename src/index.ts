// The public surface. It registers the built-in protocols and has no other effect: no handle, no timer, no signal.

import { frame } from '../protocols/frame.ts'
import { tcp } from '../protocols/tcp.ts'
import { text } from '../protocols/text.ts'
import { udp } from '../protocols/udp.ts'
import { registerProtocol } from './protocol.ts'

registerProtocol('tcp', tcp)
registerProtocol('unix', tcp)
registerProtocol('ssl', tcp)
registerProtocol('text', text)
registerProtocol('frame', frame)
registerProtocol('udp', udp)

export { AsyncTcpConnection, type ClientSettings } from './async-tcp-connection.ts'
export { AsyncUdpConnection, type AsyncUdpOptions } from './async-udp-connection.ts'
export { type AnyConnection, Connection } from './connection.ts'
export type { ConnectionCallbacks, ConnectionHost } from './connection-host.ts'
export type { Counters } from './counters.ts'
export { AbortError, ProtocolError, SystemError, UsageError } from './errors.ts'
export { Timer } from './loop/timer.ts'
export type { CertificateOptions, ClientTlsOptions, ServerTlsOptions } from './net/tls.ts'
export {
  Accumulator,
  type AnyProtocol,
  type CloseReason,
  type Codec,
  type CodecIo,
  type CodecProtocol,
  delimited,
  type Encoded,
  type Framer,
  type Framing,
  type InOf,
  type LengthPrefix,
  lengthPrefixed,
  NEED_MORE,
  type OutOf,
  type Peer,
  type Protocol,
  type ProtocolOf,
  type Protocols,
  type ProxyInfo,
  type Role,
  registerProtocol,
  type TlsState,
} from './protocol.ts'
export type { ProxyProtocolOptions } from './proxied.ts'
export { type AnyUdpConnection, UdpConnection } from './udp-connection.ts'
export { version } from './version.ts'
export { type Hold, type ProtocolCallbacks, Worker, type WorkerSettings } from './worker.ts'
export { frame, tcp, text, udp }
