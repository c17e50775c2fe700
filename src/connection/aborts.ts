// Why a signal of ours aborts, and whether a handler that failed has only obeyed it.

import { AbortError, isInstance, propertyOf } from '../errors.ts'
import type { CloseReason } from '../protocol.ts'

export function connectionClosed(why: CloseReason | null): AbortError {
  return new AbortError('ERR_CONNECTION_CLOSED', `the connection has closed: ${why}`)
}

export function workerStopping(): AbortError {
  return new AbortError('ERR_WORKER_STOPPING', 'the worker is leaving, and its time is nearly up')
}

/**
 * Whether a handler failed because a signal of ours aborted: the worker's, the connection's, or one that its codec has,
 * for a request. `fetch` rejects with the signal's reason, Node's own calls have it as cause. The signal of another
 * connection does not count while this one is open: handlers may share work, and the peer of this one waits for it.
 */
export function hasObeyed(
  error: Error,
  isOpen: boolean,
  signal?: AbortSignal,
  hasCodecAborted?: (reason: unknown) => boolean,
): boolean {
  const told = error.name === 'AbortError' && !isInstance(error, AbortError) ? propertyOf(error, 'cause') : error
  if (isInstance(told, AbortError)) {
    if (told.code === 'ERR_WORKER_STOPPING') return true // all Workers of a process leave together
    if (!isOpen && (told.code === 'ERR_CONNECTION_CLOSED' || told.code === 'ERR_CLIENT_ENDED')) return true
  }
  if (signal?.aborted === true && told === signal.reason) return true
  return hasCodecAborted?.(told) === true
}
