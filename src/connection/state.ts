// The states of a connection, the reasons why it delivers nothing, its flags and its limits; also stand-ins for a codec
// or a socket while there is none.

import { nothing } from '../nothing.ts'
import type { Codec } from '../protocol.ts'
import type { Socket } from '../transport.ts'

export const enum State {
  /** A client that has not begun to connect. */
  Initial = 0,
  Connecting = 1,
  Established = 2,
  /** `end()`: sending what is queued, then FIN, then reading and discarding. */
  Ending = 4,
  /** `close()`: sending what is queued. */
  Closing = 8,
  Closed = 16,
}

export const EDGES: Record<State, readonly State[]> = {
  [State.Initial]: [State.Connecting],
  [State.Connecting]: [State.Established, State.Closed],
  [State.Established]: [State.Ending, State.Closing, State.Closed],
  [State.Ending]: [State.Closing, State.Closed],
  [State.Closing]: [State.Closed],
  [State.Closed]: [State.Initial],
}

export const STATUS: Record<State, string> = {
  [State.Initial]: 'INITIAL',
  [State.Connecting]: 'CONNECTING',
  [State.Established]: 'ESTABLISHED',
  [State.Ending]: 'ENDING',
  [State.Closing]: 'CLOSING',
  [State.Closed]: 'CLOSED',
}

/** Why no message is delivered at the moment; a set of bits. */
export const enum Stop {
  /** `onConnect` has not settled. */
  Opening = 1,
  /** `pauseRecv()`. */
  User = 2,
  /** Messages queue behind handlers that have not settled. */
  Queue = 4,
  /** `io.pause()`. */
  Codec = 8,
  /** The peer broke the protocol; reported when the messages before it are done. */
  Failed = 16,
  /** This connection has used its share of the loop. */
  Yield = 32,
  /** The destination of a pipe is full. */
  Pipe = 64,
  /** TLS is being negotiated. */
  Handshake = 128,
}

/** Flags of the moment; a set of bits. */
export const enum Bit {
  /** The codec was told to stop and keeps a rest: `resumed()` is due. */
  Stopped = 1,
  /** A call of the codec is under way: what it causes happens when it has returned. */
  InCodec = 2,
  /** Queued messages are being delivered: a handler that resumes its connection must not begin that again. */
  Pumping = 4,
  /** The socket must not read. */
  Paused = 8,
  /** `onBufferFull` was called, and `onBufferDrain` is due. */
  Full = 16,
  /** `onError` is running. */
  Reporting = 32,
  /** The codec has been asked for its last message: nothing else is sent any more. */
  LastWord = 64,
  /** The peer's FIN has arrived. */
  PeerEnded = 128,
  /** The codec was told that the peer has ended. */
  ToldEnd = 256,
  /** Our FIN was sent: nothing can follow it. */
  SentFin = 512,
  /** The message being sent was refused, or is kept for later: it does not count as sent. */
  NotSent = 1024,
  /** The pipe into it has ended: its peer is told, and receiving goes on. */
  Shut = 2048,
  /** The message being sent was accepted when it could not be sent yet: it is not refused now. */
  Accepted = 4096,
  /** The codec is at work on what has just been received. */
  Receiving = 8192,
  /** The socket had to stop reading since the codec asked last. */
  WasPaused = 16384,
  /** FIN follows what is queued, though it is not closing: receiving, or handlers, go on. */
  FinDue = 32768,
  /** With LastWord: the codec is still sending that message, and ends the connection itself when it is out. */
  InLastWord = 65536,
  /** `onClose` is called, and no callback of a protocol follows it. */
  ToldClose = 131072,
  /**
   * The peer takes the connection's end for the end of the message under way (an HTTP/1.0 answer without a length). So
   * FIN may only follow all of it; otherwise the connection is reset.
   */
  EndTells = 262144,
  /** With EndTells: the codec has not written all of that message yet. To end the connection now would cut it. */
  Cut = 524288,
  /** The message being sent is kept for later: it was accepted, though it is not sent yet. */
  Kept = 1_048_576,
  /** The end of the pipe has yet to be passed to the codec that there is now, or to the peer. */
  ShutDue = 2_097_152,
  /** What was kept is being sent. */
  SendingKept = 4_194_304,
}

/** Flags of one `send`, which another one within it must not see. */
export const OF_ONE_SEND = Bit.NotSent | Bit.Kept | Bit.Accepted

/**
 * What is set on a client that has closed belongs to its next life: messages that wait for it fill it, a pipe may be
 * full or end, and the user may pause it. What the life before had of this ends with it, before `onClose`.
 */
export const OF_NEXT_LIFE = { stops: Stop.User | Stop.Pipe, bits: Bit.Full | Bit.Shut | Bit.ShutDue }

/** What holds back decoded messages; the other bits only keep new ones from arriving. */
export const HOLDS_MESSAGES = Stop.User | Stop.Opening | Stop.Pipe | Stop.Handshake
/** What is about messages alone: the bytes of a handshake, or of a goodbye, need not wait for it. */
export const ONLY_MESSAGES = Stop.User | Stop.Queue | Stop.Pipe
/** With these, an idle connection is not done: a pausing codec is at work, and a failed one ends in its own way. */
export const NOT_DONE = Stop.Opening | Stop.Codec | Stop.Failed | Stop.Handshake

/** A connection delivers messages for this long before others get their turn: one read can hold 30,000 lines. */
export const YIELD_AFTER_MS = 2
/** Number of messages between two readings of the clock (40 ns each). */
export const YIELD_CHECK = 16
/** Bytes that may be received behind a queue of undelivered messages before reading stops. */
export const MAX_BACKLOG_BYTES = 1_048_576
/** Bytes that may arrive while this connection waits for its next turn before reading stops. */
export const MAX_HELD_BYTES = 262_144
/** A closing connection is dropped if its peer takes less than FLUSH_LEAST_BYTES in this time. */
export const FLUSH_TIMEOUT_MS = 30_000
export const FLUSH_LEAST_BYTES = 16_384
/**
 * How long (s) a connection that leaves in a drain waits for its peer to close, if it waits at all. A stalled peer may
 * not yet have received the end of a long answer; if we closed, its next bytes would cause a reset and that end would
 * be lost.
 */
export const DRAIN_LINGER_S = 5

/** How long handlers may still answer after their signal aborted, before the protocol's last message. */
export const LAST_ANSWERS_MS = 200

/** Used until the protocol has made a codec, or when it could not. */
export const NO_CODEC: Codec = {
  receive: nothing,
  resumed: nothing,
  send: () => false,
  drain: nothing,
  timeout: nothing,
  closed: nothing,
}

/** The socket of a client before it has connected. */
export const NO_SOCKET: Socket = {
  remoteIp: '',
  remotePort: 0,
  localIp: '',
  localPort: 0,
  isEncrypted: false,
  tls: null,
  proxy: null,
  hasBegun: false,
  queuedBytes: 0,
  unacknowledgedBytes: 0,
  attach: nothing,
  write: () => 0,
  settle: nothing,
  hasQueued: () => false,
  readInto: () => 0,
  awaitDrained: nothing,
  release: () => null,
  secure: nothing,
  unread: nothing,
  present: nothing,
  pause: nothing,
  resume: nothing,
  end: nothing,
  destroy: nothing,
  reset: nothing,
}
