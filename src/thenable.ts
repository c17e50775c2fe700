// What can be awaited.

import { nothing } from './nothing.ts'

/** @internal Whether a callback's result can be awaited: a promise, or a thenable of another library. */
export function isThenable(value: unknown): value is PromiseLike<unknown> {
  return typeof value === 'object' && value !== null && 'then' in value && typeof value.then === 'function'
}

/**
 * @internal For a promise that has been refused, whose caller knows: its rejection, which nobody will look at, must not
 * end the process.
 */
export function disown(value: unknown): void {
  if (isThenable(value)) Promise.resolve(value).catch(nothing)
}
