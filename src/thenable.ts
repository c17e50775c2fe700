// What can be awaited.

import { nothing } from './nothing.ts'

/**
 * @internal Whether a callback's result can be awaited: a promise, or a thenable of another library. Also true if that
 * cannot be seen, as looking throws: awaiting it rejects with what was thrown.
 */
export function isThenable(value: unknown): value is PromiseLike<unknown> {
  if (typeof value !== 'object' || value === null) return false
  try {
    return 'then' in value && typeof value.then === 'function'
  } catch {
    return true
  }
}

/**
 * @internal For a promise that has been refused, whose caller knows: its rejection, which nobody will look at, must not
 * end the process.
 */
export function disown(value: unknown): void {
  if (isThenable(value)) Promise.resolve(value).catch(nothing)
}
