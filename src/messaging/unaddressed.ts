// A message for a process that has not said yet what it subscribes to. It waits in its outbox until that is known:
// then it is for subscribers there, or for nobody.

import { PeerError } from '../errors.ts'
import type { Audience } from './subscriptions.ts'

/** Shared by all processes of which this is not known. */
export interface Unaddressed extends Audience {
  /** Queues of which somebody has the message, or gets it. */
  readonly served: Set<string>
  /** Whether it is for those of other queues here, too. */
  readonly isForQueues: boolean
}

export function isUnaddressed(audience: Audience | null): audience is Unaddressed {
  return audience !== null && 'served' in audience
}

/** Whether somebody has the message for a queue, though not this process, which it may not be for at all. */
export function isServed(audience: Audience | null): boolean {
  return isUnaddressed(audience) && audience.served.size > 0
}

/** Why a request was not put to a process: it does not subscribe. Never shown. */
export const UNINTERESTED = new PeerError('ERR_NO_RESPONDERS', 'it does not listen', false)
