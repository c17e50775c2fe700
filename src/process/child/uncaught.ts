// What nobody has caught, in a process that evaluates user code. As in Node: if there is a listener for `uncaughtException`, it
// decides whether the process goes on; monitors hear of it in any case, and before.

const UNCAUGHT = 'uncaughtException'

/**
 * Calls `end` with an error that no listener of the user's takes, or with what a listener has thrown: of that Node itself would
 * make exit code 7, and no listener could tell. So this is none, but stands where Node emits the event, and is not counted.
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
