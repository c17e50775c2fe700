// Asks a throw-away process what the user's modules declare. The master never evaluates user code: it could not see
// changed code at a reload, and a module's timers and crashes would live in the supervisor.

import { CommandError, Exit } from './exit-codes.ts'
import type { Declaration, Settings } from './group.ts'
import type { FromChild } from './messages.ts'
import { spawnChild, spawnFailure } from './spawn.ts'

export interface Described {
  readonly groups: readonly Declaration[]
  readonly settings: Settings
}

const DESCRIBE_TIMEOUT_MS = 10_000

/**
 * Rejects with a CommandError whose message has the module's own stack. `signal` gives up early; `onSpawn` is told the
 * pid, 0 when there is none.
 */
export function describeModules(
  modules: readonly string[],
  argv: readonly string[],
  signal: AbortSignal,
  onSpawn: (pid: number) => void,
): Promise<Described> {
  const { process: child, channel } = spawnChild(
    { role: 'describe', modules, argv },
    { stdio: ['ignore', 'inherit', 'inherit'], isDetached: true },
  )
  onSpawn(child.pid ?? 0)
  return new Promise((resolve, reject) => {
    let reason = ''
    const end = (why: string) => {
      reason = why
      child.kill('SIGKILL')
    }
    const seconds = DESCRIBE_TIMEOUT_MS / 1000
    const late = setTimeout(
      () =>
        end(`${modules.join(', ')} did not come to the end of its top level and Worker.runAll() within ${seconds} s`),
      DESCRIBE_TIMEOUT_MS,
    )
    if (signal.aborted) end('stopped')
    else signal.addEventListener('abort', () => end('stopped'), { once: true })
    channel.onMessage = (message: FromChild) => {
      if (message.type === 'declared') resolve({ groups: message.groups, settings: message.settings })
      else if (message.type === 'failed') reason = message.message
    }
    child.once('error', (error) => reject(spawnFailure(error)))
    child.once('close', (code, killed) => {
      clearTimeout(late)
      const word = killed === null ? `exit ${code}` : `signal ${killed}`
      // After `declared` this settles nothing.
      reject(
        new CommandError(Exit.Module, reason || `${modules.join(', ')} ended the process at its top level (${word})`),
      )
    })
  })
}
