// What can be awaited.

/** @internal Whether a callback's result can be awaited: a promise, or a thenable of another library. */
export function isThenable(value: unknown): value is PromiseLike<unknown> {
  return typeof value === 'object' && value !== null && 'then' in value && typeof value.then === 'function'
}
