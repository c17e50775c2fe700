// The public API. Registers the built-in protocols, and which of its classes stay in their process, and has no other
// effect: no handle, no timer, no signal handler.
//
// Buffer and the rest of Node in our declarations are Node's also for a compiler that is told of no types: the default
// since TypeScript 6. Otherwise they would be `any` to it, without a word (skipLibCheck).
/// <reference types="node" preserve="true" />

import { frame } from '../protocols/frame.ts'
import { type HttpProtocol, httpWith } from '../protocols/http/http.ts'
import { Request } from '../protocols/http/request.ts'
import { RequestBody } from '../protocols/http/request-body.ts'
import { Response } from '../protocols/http/response.ts'
import { tcp } from '../protocols/tcp.ts'
import { text } from '../protocols/text.ts'
import { udp } from '../protocols/udp.ts'
import { plainDeflate } from '../protocols/websocket/deflate.ts'
import { TakeoverEngine } from '../protocols/websocket/takeover.ts'
import type { Verdict } from '../protocols/websocket/verdict.ts'
import { type WebSocketProtocol, websocketWith } from '../protocols/websocket/websocket.ts'
import { addon } from './addon.ts'
import { type AnyConnection, Connection } from './connection.ts'
import { httpServices } from './http/services.ts'
import { StoredSession } from './http/session.ts'
import { WorkerGroup, WorkerRef } from './messaging/references.ts'
import { registerProtocol } from './protocol/registry.ts'
import { SharedMap } from './shared/shared-map.ts'
import { DatagramPeer } from './udp/datagram-peer.ts'
import { registerUncloneable } from './uncloneable.ts'
import type { Carrier } from './worker/settings.ts'
import { Worker } from './worker.ts'

/** HTTP/1.1 with your own settings: `new Worker('http://0.0.0.0:8080', { protocol: http({ body: 'stream' }) })`. */
export const http = httpWith(httpServices)
/**
 * WebSocket with your own settings. A text message is a string, a binary message a Buffer. With the addon, compressed
 * messages may refer to earlier ones.
 */
export const websocket = websocketWith({
  deflate(settings) {
    const { zlib } = addon()
    return zlib === null ? plainDeflate(settings) : new TakeoverEngine(zlib, settings)
  },
  date: httpServices.date,
  trusts: httpServices.trusts,
})
const plainHttp = http()
const plainWebSocket = websocket()

registerProtocol('tcp', tcp)
registerProtocol('unix', tcp)
registerProtocol('ssl', tcp)
registerProtocol('text', text)
registerProtocol('frame', frame)
registerProtocol('udp', udp)
registerProtocol('http', plainHttp)
registerProtocol('https', plainHttp)
for (const scheme of ['websocket', 'ws', 'wss']) registerProtocol(scheme, plainWebSocket)

registerUncloneable({ Request, RequestBody, Response, Session: StoredSession })
registerUncloneable({ Connection, UdpConnection: DatagramPeer, Worker, WorkerGroup, WorkerRef, SharedMap })

declare module './connection/host.ts' {
  interface ProtocolCallbacks {
    /** See `Worker` and `AsyncTcpConnection`. A connection may be either's: its type takes the handlers of both. */
    onWebSocketConnect?: ((connection: AnyConnection, asked: Request & Response, response: Response) => unknown) | null
    /** The handshake is done, with the negotiated sub-protocol. `request` is null on a client. */
    onWebSocketConnected?: ((connection: AnyConnection, request: Request | null, protocol: string) => unknown) | null
    /** The peer has sent a close frame; `code` is 1005 if it had none. */
    onWebSocketClose?: ((connection: AnyConnection, code: number, reason: string) => unknown) | null
    /** The peer asks whether we are there. It has its answer, unless much is queued for it: then the last ping has. */
    onWebSocketPing?: ((connection: AnyConnection, payload: Buffer) => unknown) | null
    /** A pong from the peer, in answer to a ping or unasked. */
    onWebSocketPong?: ((connection: AnyConnection, payload: Buffer) => unknown) | null
  }
}

declare module './worker.ts' {
  interface Worker<A extends string | undefined, P, T extends Carrier> {
    /**
     * A WebSocket client asks to connect. Returning false or a Response refuses it, and so does a status set on
     * `response`, which header fields of the answer go to, too. What is no `Verdict` is an error, and refuses with 500.
     */
    onWebSocketConnect?:
      | ((connection: AnyConnection, request: Request, response: Response) => Verdict | PromiseLike<Verdict>)
      | null
  }
}

declare module './client/async-tcp-connection.ts' {
  interface AsyncTcpConnection<A extends string, P> {
    /** The server has accepted: `response` has the status, the reason and the header fields of its answer. */
    onWebSocketConnect?: ((connection: AnyConnection, response: Response) => unknown) | null
  }
}

declare module './protocol.ts' {
  interface Protocols {
    http: HttpProtocol
    https: HttpProtocol
    websocket: WebSocketProtocol
    ws: WebSocketProtocol
    wss: WebSocketProtocol
  }
}

export type { AccessLogEntry } from '../protocols/http/access-log.ts'
export { type CookieOptions, type Cookies, signCookie, verifyCookie } from '../protocols/http/cookies.ts'
export type { Answer } from '../protocols/http/exchange.ts'
export type { Fields } from '../protocols/http/fields.ts'
export type { BodyMap, BodyValue, FormMap, FormValue } from '../protocols/http/forms.ts'
export type { HeadLimits } from '../protocols/http/head.ts'
export type { HttpProtocol, HttpProtocolWith } from '../protocols/http/http.ts'
export { Request } from '../protocols/http/request.ts'
export type { RequestBody } from '../protocols/http/request-body.ts'
export { type BodyStream, Chunk, type FieldValue, Response, ServerSentEvents } from '../protocols/http/response.ts'
export type {
  AnswerParts,
  BodyMode,
  FileRequest,
  HttpSettings,
  Session,
  SessionSource,
  UploadedFile,
  UploadSettings,
} from '../protocols/http/settings.ts'
export type { CompressionSettings } from '../protocols/websocket/deflate.ts'
export { CloseFrame, PreparedMessage, type WebSocketMessage } from '../protocols/websocket/messages.ts'
export type { WebSocketSettings } from '../protocols/websocket/settings.ts'
export type { Verdict } from '../protocols/websocket/verdict.ts'
export type { WebSocketProtocol } from '../protocols/websocket/websocket.ts'
export { AsyncTcpConnection, type ClientSettings } from './client/async-tcp-connection.ts'
export { AsyncUdpConnection, type AsyncUdpOptions } from './client/async-udp-connection.ts'
export { type BroadcastOptions, type BroadcastResult, broadcast } from './connection/broadcast.ts'
export type { ConnectionCallbacks, ConnectionHost, ProtocolCallbacks } from './connection/host.ts'
export { type AnyConnection, Connection } from './connection.ts'
export type { Counters } from './counters.ts'
export { Crontab, type CrontabCallback, type CrontabOptions } from './crontab/crontab.ts'
export {
  AbortError,
  PeerError,
  ProtocolError,
  type ProtocolErrorOptions,
  RemoteError,
  type SendError,
  SystemError,
  UsageError,
} from './errors.ts'
export {
  type FetchApp,
  type FetchContext,
  type FetchRequest,
  type FetchSender,
  fetchHandler,
} from './http/fetch-handler.ts'
export { type FileAnswer, type StaticOptions, type StaticRequest, staticFiles } from './http/files.ts'
export type { StoredSession } from './http/session.ts'
export { FileSessionStore, MemorySessionStore, type SessionData, type SessionStore } from './http/session-store.ts'
export { type SessionOptions, Sessions } from './http/sessions.ts'
export { Timer } from './loop/timer.ts'
export type { Call } from './messaging/call.ts'
export { Channel, type SubscribeOptions, type Subscription } from './messaging/channel.ts'
export { Cluster } from './messaging/nats/cluster.ts'
export type { ClusterGroup } from './messaging/nats/cluster-group.ts'
export type { ClusterOptions, NatsOptions } from './messaging/nats/options.ts'
export type { RequestOptions } from './messaging/pending-request.ts'
export type { WorkerGroup, WorkerRef } from './messaging/references.ts'
export type { Delivery, SubjectHandler } from './messaging/subscriptions.ts'
export type { CertificateOptions, ClientTlsOptions, ServerTlsOptions } from './net/tls.ts'
export type { LeaderJob } from './process/child/candidates.ts'
export type { ReloadMode } from './process/group.ts'
export { Accumulator } from './protocol/accumulator.ts'
export { delimited, type Framer, type Framing, type LengthPrefix, lengthPrefixed } from './protocol/framing.ts'
export { registerProtocol } from './protocol/registry.ts'
export {
  type AnyProtocol,
  type CloseReason,
  type Codec,
  type CodecIo,
  type CodecProtocol,
  type Encoded,
  type Exported,
  type InOf,
  type LastWordReason,
  NEED_MORE,
  type OutOf,
  type Peer,
  type Protocol,
  type ProtocolOf,
  type Protocols,
  type ProxyInfo,
  type Role,
  type TlsState,
} from './protocol.ts'
export { Shared } from './shared/shared.ts'
export type { SharedCounter } from './shared/shared-counter.ts'
export type { SetOptions, SharedMap } from './shared/shared-map.ts'
export type { Change, WatchOptions } from './shared/watch.ts'
export { type AnyUdpConnection, UdpConnection, type UdpHost } from './udp/udp-connection.ts'
export { version } from './version.ts'
export type { ProxyProtocolOptions } from './worker/proxied-arrival.ts'
export type { Hold, OnWorkerMessage, WorkerSettings, WorkerTransport } from './worker/settings.ts'
export { Worker } from './worker.ts'
export { frame, tcp, text, udp }
