// State that few connections need, and all of which is allocated at its first use.

import type { Deferred } from '../deferred.ts'
import type { ProtocolError } from '../errors.ts'
import type { AnyProtocol, CloseReason } from '../protocol.ts'
import type { Pipes } from './pipes.ts'
import type { Waiting } from './waiting.ts'

export class Rare {
  /** Bytes that arrived while messages waited in the queue. */
  backlog = 0
  closeReason: CloseReason | null = null
  closeCode = 0
  /** What the peer did wrong, until the messages before it are handled. */
  failure: ProtocolError | null = null
  /** Behind `connection.signal`. */
  aborter: AbortController | null = null
  /** Of TLS, while it is under way. */
  handshake: Deferred<void> | null = null
  /** Which life of a reconnecting client this is. */
  life = 0
  /** What a client spoke before it was upgraded. */
  firstProtocol: AnyProtocol | null = null
  pipes: Pipes | null = null
  /** What a codec does when no handler is at work any more. */
  leftovers: (() => unknown)[] | null = null
  waiting: Waiting | null = null
}
