// What is said of a message that was published to members of a queue who have unsubscribed while it was on its way.

import { PeerError } from '../errors.ts'

/** @param mayHaveBeenHandled whether others than those it misses have received it */
export function unsubscribedError(subject: string, mayHaveBeenHandled: boolean): PeerError {
  return new PeerError('ERR_NO_RESPONDERS', `${subject}: who it was for has unsubscribed meanwhile`, mayHaveBeenHandled)
}

/**
 * Thrown where a handler would be called: a handler's own errors say that it has run. Senders are told its reason and
 * never receive it itself: one of them, in a handler, would throw it again.
 */
export class Undelivered extends Error {
  readonly reason: PeerError

  constructor(subject: string, mayHaveBeenHandled: boolean) {
    const reason = unsubscribedError(subject, mayHaveBeenHandled)
    super(reason.message)
    this.reason = reason
  }
}
