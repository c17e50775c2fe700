// What is said of a message that was published to members of a queue who have unsubscribed while it was on its way.

import { PeerError } from '../errors.ts'

/** Thrown by `Subscriptions.deliver`; never by a user's handler, whose errors say that it has run. */
export class Undelivered extends PeerError {
  /** @param mayHaveBeenHandled whether others than those it misses have received it */
  constructor(subject: string, mayHaveBeenHandled: boolean) {
    super('ERR_NO_RESPONDERS', `${subject}: who it was for has unsubscribed meanwhile`, mayHaveBeenHandled)
  }
}
