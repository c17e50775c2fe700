// For calls that run callbacks of several connections: what one callback puts into an AsyncLocalStorage must be visible
// neither to the next one nor to the caller.

import { AsyncResource } from 'node:async_hooks'

/** The context of the import, which belongs to no connection. */
const neutral = new AsyncResource('millrace.neutral')

/** Runs a task in an async context of its own, without any store. Costs an AsyncResource: too much for each message. */
export function apart<T>(task: (subject: T) => void, subject: T): void {
  neutral.runInAsyncScope(newScope).runInAsyncScope(task, undefined, subject)
}

function newScope(): AsyncResource {
  return new AsyncResource('millrace.apart')
}
