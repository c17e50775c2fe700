// How far a connection has come in leaving with its worker. Only a connection in a drain has one.

import type { AnyProtocol } from '../protocol.ts'

export class Farewell {
  /** The codec has said goodbye. */
  isSaid = false
  /** Nothing new is read, what was received is finished, then FIN. */
  isLeaving = false
  /** It leaves after its next answer. */
  isLastCall = false
  /** The peer sent bytes into our FIN, and that was counted. */
  isCounted = false
  /** It leaves when no further piece of a proxied answer has come for a moment; a timer checks. */
  awaitsPiece = false
  /** The packet that was incomplete when it left is now complete. */
  hasHadRest = false
  /** When it left, there were bytes the codec had not seen; they too may end within a packet. */
  #isHolding = false

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
