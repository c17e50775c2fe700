// How far a connection has come in leaving with its worker. Only a connection in a drain has one.

import type { AnyProtocol } from '../protocol.ts'

/** Once no piece of a proxied answer has come for this long, a connection that leaves has had all of it. */
const PIECE_GAP_MS = 50
/** At the least, even if its peer asks again at once: the pieces of an answer come close together. */
const LEAST_GAP_MS = 5

export class Farewell {
  /** The codec has said goodbye. */
  isSaid = false
  /** Nothing new is read, what was received is finished, then FIN. */
  isLeaving = false
  /** It leaves after its next answer. */
  isLastCall = false
  /**
   * Until then, by the connection's clock, a piped one is read while it waits for a further piece: a request that comes
   * shows that the answer before it was complete, and has one, too.
   */
  readsUntil = 0
  /** The peer sent bytes into our FIN, and that was counted. */
  isCounted = false
  /** Running while it waits for a further piece of a proxied answer: it leaves when none has come for a moment. */
  pieceTimer = 0
  /** The packet that was incomplete when it left is now complete. */
  hasHadRest = false
  /** So long after a piece it leaves: shorter than its peer has ever paused before it asked again. */
  gapMs = PIECE_GAP_MS
  /** When it left, there were bytes the codec had not seen; they too may end within a packet. */
  #isHolding = false

  /** The peer has asked so long after a piece, which was the last one. */
  notePause(ms: number): void {
    this.gapMs = Math.min(this.gapMs, Math.max(ms / 2, LEAST_GAP_MS))
  }

  leave(isHolding: boolean): void {
    this.isLeaving = true
    this.#isHolding = isHolding
  }

  /**
   * Call when the codec has received bytes. A framing protocol may have been in the middle of a packet: a drain waits
   * until that packet is complete, since its reads may be cut within a packet forever. A codec knows itself when it is
   * done.
   */
  noteReceived(hasMadeMessages: boolean, protocol: AnyProtocol): void {
    if (this.#isHolding) this.#isHolding = false
    else if (hasMadeMessages && !('open' in protocol)) this.hasHadRest = true
  }

  /** Another codec takes over: it has its own goodbye, and its own packets. */
  startOver(): void {
    this.isSaid = this.hasHadRest = false
  }
}
