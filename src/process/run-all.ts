// `Worker.runAll()` in every role: in a child it marks that everything is declared; in the process that a person
// started it does what the command line says.

import { realpathSync } from 'node:fs'
import { runCommand } from './command.ts'
import { registry } from './group.ts'

let isRunning = false

export function runAll(): void {
  const { onRunAll } = registry()
  if (onRunAll !== null) return onRunAll()
  if (isRunning) return
  isRunning = true
  void runTyped()
}

/** The user's timers and sockets may keep this process alive: it ends with its command. */
async function runTyped(): Promise<void> {
  const file = realpathSync(process.argv[1] ?? '.')
  process.exit(await runCommand(process.argv.slice(2), file))
}
