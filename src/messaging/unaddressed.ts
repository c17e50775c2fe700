// A message for a process that has not said yet what it subscribes to. It waits in its outbox until that is known:
// then it is for subscribers there, or for nobody.

import { PeerError } from '../errors.ts'
import type { Audience } from './subscriptions.ts'

/** Shared by all processes of which this is not known. */
export interface Unaddressed extends Audience {
  /** Queues of which somebody has the message, or gets it; null: it is for no queue here. */
  readonly served: Set<string> | null
}

export function isUnaddressed(audience: Audience | null): audience is Unaddressed {
  return audience !== null && 'served' in audience
}

/** Why a request was not put to a process: it does not subscribe. Never shown. */
export const UNINTERESTED = new PeerError('ERR_NO_RESPONDERS', 'it does not listen', false)
