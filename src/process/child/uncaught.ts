// Uncaught errors in a process that evaluates user code, handled as in Node: if there is an `uncaughtException`
// listener, it decides whether the process goes on; monitors are called first in any case.

const UNCAUGHT = 'uncaughtException'

/**
 * Calls `end` with an error that no listener of the user handles, or with what a listener threw (Node itself would exit
 * with code 7, and no listener could report that). This is not a listener, so it is not counted as one: it wraps
 * `emit`.
 */
export function onUncaught(end: (error: unknown) => void): void {
  const emit = process.emit as (name: string | symbol, ...args: unknown[]) => boolean
  const emitOrEnd = (name: string | symbol, ...args: unknown[]): boolean => {
    if (name !== UNCAUGHT) return emit.call(process, name, ...args)
    try {
      if (emit.call(process, name, ...args)) return true
      end(args[0])
    } catch (error) {
      end(error)
    }
    return true
  }
  process.emit = emitOrEnd as typeof process.emit
}
