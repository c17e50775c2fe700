// The states of a connection, why it does not deliver, what is the matter with it, and its bounds; and what stands in for a
// codec or a socket while there is none.

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

/** Why no message is delivered just now; a set of bits. */
export const enum Stop {
  /** `onConnect` has not settled. */
  Opening = 1,
  /** `pauseRecv()`. */
  User = 2,
  /** Messages queue behind handlers that have not settled. */
  Queue = 4,
  /** `io.pause()`. */
  Codec = 8,
  /** The peer broke the protocol; told when the messages before are done. */
  Failed = 16,
  /** This connection has had its share of the loop. */
  Yield = 32,
  /** The destination of a pipe is full. */
  Pipe = 64,
  /** TLS is being negotiated. */
  Handshake = 128,
}

/** What has happened of a drain; a set of bits. */
export const enum Farewell {
  /** The codec has said goodbye. */
  Said = 1,
  /** `[kLeave]()`: nothing new is read, what was received is finished, then FIN. */
  Leaving = 2,
  /** The packet that was begun when it left has come to its end. */
  HadRest = 4,
  /** The peer spoke into our FIN, and that was counted. */
  Counted = 8,
  /** When it left there were bytes that the codec had not seen: they may end within a packet, too. */
  Holding = 16,
  /** It leaves with its next answer. */
  LastCall = 32,
}

/** What is the matter just now; a set of bits. */
export const enum Bit {
  /** The codec was told to stop and keeps a rest: `resumed()` is due. */
  Stopped = 1,
  InCodec = 2,
  Pumping = 4,
  /** The socket is not to read. */
  Paused = 8,
  Full = 16,
  /** `onError` is at work. */
  Reporting = 32,
  /** The codec has been asked for it. */
  LastWord = 64,
  PeerEnded = 128,
  /** The codec was told of that. */
  ToldEnd = 256,
  SentFin = 512,
  /** What is being sent was refused. */
  Refused = 1024,
  /** What pipes into it has come to its end: FIN follows what is queued, and what is received goes on. */
  Shut = 2048,
}

/** What holds back a message that has been decoded; the others only keep new ones from coming. */
export const HOLDS_MESSAGES = Stop.User | Stop.Opening | Stop.Pipe | Stop.Handshake
/** With these, an idle connection is not done: a codec that pauses is at work, a failed one ends in its own way. */
export const NOT_DONE = Stop.Opening | Stop.Codec | Stop.Failed | Stop.Handshake

/** A connection hands out messages for this long before others get their turn: one read can hold 30,000 lines. */
export const YIELD_AFTER_MS = 2
/** How many messages between two looks at the clock (40 ns each). */
export const YIELD_CHECK = 16
/** What may be received behind a queue of undelivered messages, in bytes, before reading stops. */
export const MAX_BACKLOG_BYTES = 1_048_576
/** What may arrive while this connection waits for its next turn, in bytes, before reading stops. */
export const MAX_HELD_BYTES = 262_144
/** How long a closing connection waits for a peer that does not read: who takes less than this in so long is given up. */
export const FLUSH_TIMEOUT_MS = 30_000
export const FLUSH_LEAST_BYTES = 16_384
/**
 * How long one that leaves in a drain waits for its peer to close, s, if it waits at all. A peer that stalls has the end of a long
 * answer still to come, from our kernel; what it sends to a closed connection meets a reset, and that throws the rest away.
 */
export const DRAIN_LINGER_S = 5

/** How long handlers that were told that their time is up may still answer, before the protocol's last word. */
export const LAST_ANSWERS_MS = 200

/** Until the protocol has made one, or when it could not. */
export const NO_CODEC: Codec = {
  receive: nothing,
  resumed: nothing,
  send: () => false,
  drain: nothing,
  timeout: nothing,
  closed: nothing,
}

/** A client's before it has connected. */
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
}

export function nothing(): void {
  // What those without codec or socket do.
}
