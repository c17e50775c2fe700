// The two kinds of protocol, both public. Framing (`Protocol`) is three stateless functions; most protocols need no
// more. A codec (`CodecProtocol`) is for protocols with state, one object per connection. Framing is an adapter over
// the codec, so a connection has one code path. Nothing here does I/O or reads a clock.

import type { X509Certificate } from 'node:crypto'

/** Returned by `input` while the first packet is incomplete. A value, never an error. */
export const NEED_MORE = 0

/** Result of `encode`: text (sent as UTF-8), bytes, or a list of them, sent in order without being joined. */
export type Encoded = string | Uint8Array | readonly (string | Uint8Array)[]

/** Framing: cuts a stream into packets, decodes a packet to a message, encodes a message to bytes. */
export interface Protocol<In = unknown, Out = In> {
  /** For logs and `status`. */
  readonly name: string
  /**
   * Set to true when the result of `decode` never aliases its argument (for example, it makes a string). `decode` then
   * gets a view into the receive buffer, valid until it returns; otherwise it gets a copy that it owns.
   */
  readonly lends?: boolean
  /**
   * Returns the length in bytes of the first packet of `bytes`, head and terminator included, or `NEED_MORE`. The
   * length may exceed what has arrived when a head declares it. Any other value is a ProtocolError, and so is anything
   * thrown.
   *
   * @param bytes a view into the receive buffer, valid until `input` returns
   * @param from how many of these bytes an earlier call has searched: with it, one-byte reads cost O(n) in total
   */
  input(bytes: Buffer, from: number): number
  /**
   * Decodes one packet, exactly as long as `input` returned. Anything thrown becomes a ProtocolError; so does a
   * promise, which is no message.
   */
  decode(packet: Buffer): In
  /**
   * Does what `decode` does for `bytes.subarray(start, end)`, for a protocol that `lends` and needs no view of the
   * packet: with many packets per read, creating the view costs more than everything else.
   */
  decodeAt?(bytes: Buffer, start: number, end: number): In
  /**
   * Does what `decode` does for the packet `text.slice(start, end)`, for a protocol that `lends` and whose packets are
   * text (UTF-8, decoded as by `toString`). Preferred when a read contains many small packets: the read becomes one
   * string, and packets are slices of it. A slice keeps up to 1 KiB of neighbouring text in memory for as long as it
   * lives.
   */
  decodeText?(text: string, start: number, end: number): In
  /** Encodes a message. The connection owns the result from then on. Throw UsageError for what cannot be sent. */
  encode(message: Out): Encoded
}

/** Which end of a connection a codec is at. */
export type Role = 'server' | 'client'

/**
 * Why a connection is gone. `upgraded` is passed only to a codec whose connection went to another protocol, `moved`
 * only to one whose connection goes on in another process.
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

/** Why a codec is asked for its protocol's last message: see `Codec.closing`. */
export type LastWordReason = Extract<CloseReason, 'closed' | 'handler' | 'stopped' | 'timeout'>

/** Both ends of a connection. A Unix socket has empty addresses and port 0. */
export interface Peer {
  /** Address of the other end; behind a proxy with `proxyProtocol`, that of the client. */
  readonly remoteIp: string
  /** Port of the other end. */
  readonly remotePort: number
  /** Address of this end. */
  readonly localIp: string
  /** Port of this end. */
  readonly localPort: number
  /** Whether TLS ends here. */
  readonly isEncrypted: boolean
  /** Null without TLS. */
  readonly tls: TlsState | null
  /** Null unless a proxy has named the peer (PROXY protocol). */
  readonly proxy: ProxyInfo | null
}

/** What a proxy sent besides addresses; empty where it sent nothing. */
export interface ProxyInfo {
  /** The proxy itself: `10.0.0.1:4711`. */
  readonly address: string
  /** The host name the client asked for (SNI). */
  readonly authority: string
  /** The application protocol that the client and the proxy have agreed on. */
  readonly alpn: string
  /** Id of the connection in the proxy's log. */
  readonly uniqueId: Buffer | null
  /** The client's TLS, which ends at the proxy. */
  readonly tls: {
    readonly version: string
    readonly cipher: string
    /** Common name of the client's certificate. */
    readonly commonName: string
    readonly hasCertificate: boolean
    readonly isVerified: boolean
  } | null
  /** Every TLV the proxy sent, by type. */
  readonly values: ReadonlyMap<number, Buffer>
}

/** Result of a TLS handshake. */
export interface TlsState {
  /** Such as `TLSv1.3`. */
  readonly version: string
  /** OpenSSL's name, such as `TLS_AES_256_GCM_SHA384`. */
  readonly cipher: string
  /** The application protocol (ALPN); empty when none was negotiated. */
  readonly alpn: string
  /** The name the client asked for (SNI), or an empty string. */
  readonly serverName: string
  /** Whether an earlier session was resumed. */
  readonly isResumed: boolean
  /** Whether the peer presented a certificate that we trust. */
  readonly isAuthorized: boolean
  /** Why it is not, as OpenSSL's error code; empty when it is, or when no certificate was requested. */
  readonly authorizationError: string
  /** The peer's certificate; null when it presented none. */
  readonly peerCertificate: X509Certificate | null
}

/** A protocol with state per connection: HTTP, WebSocket, MQTT. */
export interface CodecProtocol<In = unknown, Out = In> {
  /** Throws UsageError for a role that it does not have. Called where a client is made, long before `open`. */
  checkRole?(role: Role): void
  /** For logs and `status`. */
  readonly name: string
  /**
   * Set to true when peers reconnect at once after a goodbye, as with WebSocket. A drain then says goodbye in paced
   * batches over its window and closes each connection after its goodbye, instead of saying goodbye to all at the
   * start.
   */
  readonly isLongLived?: boolean
  /**
   * Set to true when what is sent answers the message that was delivered last, as in HTTP: that is delivered when the
   * handler of the one before it has settled, whatever `maxInFlight` is.
   */
  readonly isSerial?: boolean
  /**
   * Makes the codec of one connection. `io` is its only access to the outside and may be used at once: to write a
   * greeting, which is sent before anything `onConnect` sends, to set a deadline, or to refuse the peer.
   */
  open(io: CodecIo<In>, role: Role): Codec<Out>
  /**
   * Like `open`, for a connection that began in another process: `state` is what `export` returned there, possibly
   * after a round trip through JSON. The reload that uses this comes later.
   */
  import?(io: CodecIo<In>, role: Role, state: unknown): Codec<Out>
  /**
   * Returns a form of the message that is encoded once and sent to many connections. Throws UsageError for what cannot
   * be sent; also called for messages that wait for a client's connection, which then gets this form. Meanwhile an
   * object with a `size` in bytes counts as that many.
   */
  prepare?(message: Out): Out
  /**
   * A message was refused before the codec saw it: its connection is closing, or gone. Release what it holds (an open
   * file, a stream).
   */
  refused?(message: Out): void
}

/**
 * Protocol state of one connection. The connection makes these calls one at a time, with these exceptions while
 * `receive` emits, or while a callback runs inside `io.event` or `io.write`: a handler may cause `send`, preceded by
 * `ending`, and `sendRaw`; `closing`, if it closes or throws; and `closed('upgraded')`, which is called from within
 * `io.upgrade` and from a handler's `startTls`.
 */
export interface Codec<Out = unknown> {
  /**
   * Receives bytes. `bytes` are lent until it returns: keep the remainder yourself (see `Accumulator`). Throw
   * ProtocolError to refuse.
   */
  receive(bytes: Buffer): void
  /** Continue with the bytes that were kept: called after an `emit` that returned false, and after `io.resume()`. */
  resumed(): void
  /** Sends a message. Returns false when the sender should stop, as `Connection.send` does. */
  send(message: Out): boolean
  /**
   * Sends bytes that bypass the protocol, by `io.write`. For a codec that must know, since it pairs what is sent with
   * what was received; without this they are written unseen.
   */
  sendRaw?(bytes: Encoded): boolean
  /** The next `send` is the user's last before `closing`; its output may announce that. */
  ending?(): void
  /**
   * The peer should connect anew, so that another process may get it, and nothing is in a hurry: end the connection
   * with the next answer, and announce that in it. Without this the connection stays.
   */
  renew?(): void
  /** Say goodbye: the worker is leaving. Called once. Messages may follow; the connection closes when it is quiet. */
  drain(): void
  /**
   * True while it holds part of a message or owes an answer: a drain waits for that and keeps reading, and so does the
   * end of a connection whose peer has ended, if there is `ended`. Read often, so keep it cheap. It is read again when
   * the codec has written, has been called, or calls `io.resume()`.
   */
  readonly isBusy?: boolean
  /**
   * True while it makes what its peer waits for, and no handler is at work: a file is being opened, say. The silence of
   * that time is not the peer's, and `idleTimeoutMs` does not count it. Without `ended`, the end of a connection whose
   * peer has ended waits for it, as for `isBusy`.
   */
  readonly isPreparing?: boolean
  /**
   * Long-lived protocols, and those that `keep` messages: true until the handshake is over. A drain waits for it as for
   * a request, before any goodbye. Its bytes come though the destination of a pipe is full, and while messages are kept
   * for its end, under `pauseRecv()`, too.
   */
  readonly isOpening?: boolean
  /** True while this connection is one of those for which `isLongLived` is meant, such as an HTTP stream of events. */
  readonly isLongLived?: boolean
  /** True once it has said goodbye and refuses further messages: a broadcast skips this connection. */
  readonly isClosing?: boolean
  /** What `connection.closeCode` becomes if the connection ends and was given no code, as by a reset. */
  readonly closeCode?: number
  /**
   * Whether a broadcast may send this message now, which its peer has not asked for; without this it always may. A
   * protocol of requests and answers takes none where it would be taken for an answer.
   */
  takesBroadcast?(message: Out): boolean
  /**
   * Send the protocol's last message (WebSocket's close frame, HTTP's 500): the connection is about to be closed by its
   * user ('closed', after the last message), because a handler failed ('handler') or gave up as its worker is leaving
   * ('stopped'), both with the error, and with the emitted message that `onMessage` was handling, if any; or because it
   * was idle ('timeout').
   *
   * Return true if more is to come, such as the end of a long answer; the codec then calls `io.close()` or `io.end()`
   * when that is out. Nothing but what you throw, the peer's end or `destroy()` ends it before. From then on the user
   * can send nothing, and emitted messages are dropped. Called at most once.
   */
  closing?(reason: LastWordReason, error?: unknown, message?: unknown): boolean
  /**
   * In place of a FIN: the pipe into this connection has reached its end, and one from it is there, too. Send what says
   * so, and end the connection when the peer's answer has come; until then messages may come. Called at most once, and
   * not before the handshake is over (`isOpening`) and what was kept has been sent; nor is a FIN sent before that.
   */
  shut?(): void
  /**
   * The peer will send no more (TCP FIN), and everything it sent has been received: emit what only the end completes.
   * The connection closes once handlers have settled and `isBusy` is not true, since a busy codec owes an answer.
   */
  ended?(): void
  /**
   * Whether a signal of its own, such as that of an HTTP request, has aborted with this reason: a handler that fails
   * with it has only obeyed, and the connection ends quietly. `connection.signal` is not asked for here.
   */
  hasAborted?(reason: unknown): boolean
  /** A deadline set with `io.deadline(kind, ms)` has passed. */
  timeout(kind: string): void
  /**
   * Returns what another codec of this protocol needs to continue in another process: the received bytes that belong to
   * no message yet, which that codec receives again, and plain data. Null: not possible now. Must change nothing, since
   * the connection may stay. The reload that uses this comes later.
   */
  export?(): Exported | null
  /** The last call: the connection is gone. */
  closed(reason: CloseReason): void
}

/** What a codec hands to another one of its protocol, in another process. */
export interface Exported {
  /** Bytes that were received and belong to no message yet. */
  readonly rest: Uint8Array
  /** Anything JSON can represent. */
  readonly state: unknown
}

/** What a connection offers its codec. */
export interface CodecIo<In = unknown> {
  /**
   * Hands a message to the user. Returns false for stop: parse no further, keep the rest, continue at `resumed()`. May
   * be called later than the bytes arrived (asynchronous inflate) if receiving is paused meanwhile.
   */
  emit(message: In): boolean
  /**
   * Queues bytes to send; the connection owns them from then on. Returns false for stop sending until `onDrain`. A full
   * buffer refuses, except what the protocol `must` send, such as a goodbye; the codec must keep that small.
   */
  write(bytes: Encoded, must?: boolean): boolean
  /**
   * Call only when all received bytes are used, at the end of `receive` or `resumed`, for example: reads further bytes
   * directly into `into`, without the copy `receive` needs, and returns how many. Meant for long data of known length,
   * see `Accumulator.fill`. 0: nothing is there yet, earlier bytes are on their way to `receive`, or the engine cannot;
   * `receive` will deliver it.
   */
  readInto(into: Uint8Array): number
  /**
   * Calls a callback that the protocol defines, `worker.onSomething(connection, ...args)`, and returns its result;
   * false if it threw, has destroyed the connection, or was not called, since `onClose` has been.
   */
  event(name: `on${string}`, ...args: unknown[]): unknown
  /** Stops reading from the socket and calling `receive`, while the codec works on what it has. */
  pause(): void
  /**
   * Ends a pause. Calls `resumed()` at once or after this call has returned; an error from the meantime is thrown
   * there.
   */
  resume(): void
  /**
   * Calls `timeout(kind)` once, in `ms` milliseconds (from ten seconds on, up to half a second later). 0 clears;
   * setting a kind again replaces its deadline.
   */
  deadline(kind: string, ms: number): void
  /** Time of a monotonic clock, in milliseconds. */
  now(): number
  /**
   * Whether the connection has read all the time since the last call of this. If not, it was held back on our side (a
   * full queue of messages, `pauseRecv()`, `pause()`), and that nothing arrived says nothing about the peer.
   */
  hasBeenReading(): boolean
  /**
   * Sends what is queued and half-closes, then reads and discards for up to `lingerTimeout`: for a last message that
   * must arrive. `code` and `reason` as for `close`.
   */
  end(code?: number, reason?: CloseReason): void
  /**
   * Sends what is queued and closes. `code` is kept as `connection.closeCode`, and `reason` as `closeReason`, unless
   * that has one: `peer` if the peer's goodbye came first. Default `closed`.
   */
  close(code?: number, reason?: CloseReason): void
  /**
   * The protocol's goodbye is complete, and the peer is to end the connection: keeps `reason`, as `close` does, for
   * however that comes, be it a reset. The code is the codec's `closeCode` then.
   */
  noteEnd(reason: CloseReason): void
  /**
   * The peer expects nothing more, and can be sent nothing, but handlers are still at work on what it has sent: aborts
   * `signal`, and FIN follows what is queued. Call `end` or `close` when they have settled. `code` and `reason` as for
   * `close`.
   */
  outlivePeer(code?: number, reason?: CloseReason): void
  /**
   * The end of the connection is to tell the peer that it has all of what is sent, as that of an HTTP answer without a
   * length, and by now all of it `isWritten`, or not. From then on, if the connection ends before all is written and
   * sent, it does so with a reset (TCP), not with FIN, which would make what there is look complete; only `end` still
   * waits until what is queued has left.
   */
  endTells(isWritten: boolean): void
  /**
   * Hands the connection to another protocol, which receives `rest` first. This codec gets `closed('upgraded')`; what
   * it has kept is given to the next one's `send`, unless that `isOpening`: then `sendKept()` sends it. If `closing` of
   * this codec has promised more, the next one is asked for its last message.
   */
  upgrade(protocol: AnyProtocol, rest: Uint8Array): void
  /**
   * Keeps a message that `send` cannot send before the protocol's handshake is over (`isOpening`), or the head of its
   * answer has left; returns what `send` is to return.
   * `size` in bytes counts as queued, up to `maxSendBufferSize`. `sendKept()` sends it. If the connection ends before
   * that, a client keeps it for its next connection, if there is one; otherwise SEND_FAIL reports it.
   */
  keep(message: unknown, size: number): boolean
  /** It can be sent now: calls `send` with what was kept, in order. Their `write`s are a `must`. */
  sendKept(): void
  /** Refuses a message: counts it, calls `onError` with SEND_FAIL and returns false, for `send` to return. */
  refuse(why: string): false
  /**
   * Reports that data the user gave to send (a stream, a file) failed midway: calls `onError` with HANDLER, then closes
   * at once. After `end()` or `close()` it only reports, since a last message is on its way.
   */
  fail(error: unknown): void
  /** Which end of the connection the codec is at. */
  readonly role: Role
  /** Addresses of both ends. */
  readonly peer: Peer
  /** What a client's address asks for; null for servers. */
  readonly target: { readonly authority: string; readonly uri: string } | null
  /** The connection's signal: aborts when the connection closes, or when the worker's drain time is nearly up. */
  readonly signal: AbortSignal
  /** The connection's one size limit, in bytes: no packet may be longer. */
  readonly maxPackageSize: number
  /** Bytes. While this much is queued, `write` refuses everything that is not a `must`. */
  readonly maxSendBufferSize: number
  /** Bytes accepted by `write`, of this and of earlier codecs of the connection. */
  readonly bytesWritten: number
  /** Of these, the kernel has not taken so many yet. */
  readonly queuedBytes: number
  /**
   * Bytes accepted by `write` that the peer has not acknowledged, as far as the kernel tells (with the addon, on
   * Linux): they get fewer while it reads, even if `queuedBytes` stays. Costs a system call.
   */
  readonly unacknowledgedBytes: number
  /**
   * Whether the kernel leaves at least this many queued: it is asked first. Cheaper than `queuedBytes` for a check
   * after each message.
   */
  hasQueued(bytes: number): boolean
  /** Whether an emitted message has not reached a handler yet, because handlers of earlier ones are still running. */
  readonly hasUndelivered: boolean
  /** Whether a handler of an emitted message has not settled, or has yet to be called. */
  readonly isAtWork: boolean
  /** Called when `queuedBytes` has fallen to 0. */
  onDrain: (() => void) | null
  /**
   * Called once, and set to null first, when all emitted messages have been handled; soon, if they already are. It is
   * called before a ProtocolError is reported, without waiting when the drain time is up, and at the latest before
   * `onClose`, when nothing can be sent any more. For a last message that must not overtake the answers to earlier
   * ones, and for what the user is to hear of the end.
   */
  onSettled: (() => void) | null
  /**
   * Takes what a function among the settings of a protocol has returned. If that is a promise, a drain waits for it,
   * and its rejection is told to `onError` with HANDLER, even if the connection has closed; it ends nothing.
   */
  follow(result: unknown): void
  /**
   * Runs `work` when no handler of the connection is at work: soon, if none is, and unlike `onSettled` also after the
   * connection has closed, while handlers go on. For removing what they may still use. A drain waits for a promise that
   * it returns; nothing can be sent by it, and what it throws is logged.
   */
  afterHandlers(work: () => unknown): void
}

/** A protocol of either kind, of any messages. */
// biome-ignore lint/suspicious/noExplicitAny: the widest protocol; messages are in and out at once: no narrower type holds all
export type AnyProtocol = Protocol<any, any> | CodecProtocol<any, any>

/**
 * What each scheme delivers and accepts. A package adds its own:
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

/** The messages a protocol delivers. */
export type InOf<P> = P extends { decode(packet: never): infer In }
  ? In
  : P extends { open(io: CodecIo<infer In>, role: never): unknown }
    ? In
    : unknown

/** The messages a protocol accepts. */
export type OutOf<P> = P extends { encode(message: infer Out): unknown }
  ? Out
  : P extends { open(io: never, role: never): Codec<infer Out> }
    ? Out
    : unknown

type SchemeOf<A extends string> = A extends `${infer S}://${string}` ? Lowercase<S> : string

/**
 * The protocol that a literal address names; `unknown` when the address is not a literal or the scheme is not declared.
 */
export type ProtocolOf<A extends string> = SchemeOf<A> extends keyof Protocols ? Protocols[SchemeOf<A>] : unknown
