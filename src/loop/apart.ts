// Where one call makes several connections run their handlers: what one of them puts into an AsyncLocalStorage must not be
// there for the next one, nor for who made the call.

import { AsyncResource } from 'node:async_hooks'

/** The context of the import: nobody's. */
const neutral = new AsyncResource('millrace.neutral')

/** Runs a task in an async context of its own, which sees no store. It costs an AsyncResource: not for every message. */
export function apart<T>(task: (subject: T) => void, subject: T): void {
  neutral.runInAsyncScope(newScope).runInAsyncScope(task, undefined, subject)
}

function newScope(): AsyncResource {
  return new AsyncResource('millrace.apart')
}
