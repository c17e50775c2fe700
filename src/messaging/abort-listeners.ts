// One listener per signal, however many requests it may end: a server passes one signal to all of them, and Node warns
// of a leak from the eleventh listener on.

/** Something that a signal can end. */
interface Abandonable {
  abandon(reason: unknown): void
}

interface Listeners {
  readonly all: Set<Abandonable>
  readonly abort: () => void
}

const listeners = new WeakMap<AbortSignal, Listeners>()

/** Calls `one.abandon(reason)` when `signal` aborts, unless `forgetAbort` is called first. */
export function onAbort(signal: AbortSignal, one: Abandonable): void {
  const present = listeners.get(signal) ?? listen(signal)
  present.all.add(one)
}

function listen(signal: AbortSignal): Listeners {
  const all = new Set<Abandonable>()
  const abort = () => {
    listeners.delete(signal)
    for (const one of all) one.abandon(signal.reason)
  }
  const made = { all, abort }
  listeners.set(signal, made)
  signal.addEventListener('abort', abort, { once: true })
  return made
}

export function forgetAbort(signal: AbortSignal, one: Abandonable): void {
  const present = listeners.get(signal)
  if (present === undefined || !present.all.delete(one) || present.all.size > 0) return
  listeners.delete(signal)
  signal.removeEventListener('abort', present.abort)
}
