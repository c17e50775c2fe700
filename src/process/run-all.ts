// `Worker.runAll()` in every role: in a child it marks that everything is declared; in a process that a person started
// it runs the command line.

import { realpathSync } from 'node:fs'
import { createRequire } from 'node:module'
import { Exit } from './exit-codes.ts'
import { registry } from './group.ts'
import './node-flags.ts' // records how Node was started, before user code can change that

let isRunning = false

export function runAll(): void {
  const { onRunAll } = registry()
  if (onRunAll !== null) return onRunAll()
  if (isRunning) return
  isRunning = true
  void runTyped()
}

/** Runs the typed command and exits, since the user's timers and sockets could keep this process alive. */
async function runTyped(): Promise<void> {
  const file = typedFile()
  if (file !== null) {
    const { runCommand } = await import('./command.ts') // not needed in a worker
    process.exit(await runCommand(process.argv.slice(2), file))
  }
  process.stderr.write('millrace: Worker.runAll() needs a file to run in its processes: node app.js start\n')
  process.exit(Exit.Module)
}

/**
 * The file that `node app` resolves to: an extension may be missing, or it may be an index file. Null for `node -e`.
 */
function typedFile(): string | null {
  const typed = process.argv[1] ?? ''
  try {
    return realpathSync(createRequire(import.meta.url).resolve(typed))
  } catch {
    return null // MODULE_NOT_FOUND, or ERR_INVALID_ARG_VALUE if it is empty
  }
}
