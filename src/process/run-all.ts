// `Worker.runAll()` in every role: in a child it marks that everything is declared; in a process that a person started
// it runs the command line. Without it such a process declares Workers and ends: that is reported.

import { BOOT_VARIABLE, CHANNEL_VARIABLE } from './boot.ts'
import { namesCommand } from './commands/names.ts'
import { Exit } from './exit-codes.ts'
import { registry } from './group.ts'
import { realPathOf, realPathOrSelf, runnableAt } from './paths.ts'
import { demoFile, startFile } from './start-file.ts'
import './node-flags.ts' // records how Node was started, before user code can change that

let isRunning = false
let isAwaited = false

export function runAll(): void {
  const { onRunAll } = registry()
  if (onRunAll !== null) return onRunAll()
  if (isRunning) return
  isRunning = true
  void runTyped()
}

/**
 * A Worker was declared: if a command was typed, the process should not end without a `runAll()`, unless it
 * `hasStarted` a Worker otherwise. Programs without a command may only test handlers, or be clients.
 */
export function awaitRunAll(hasStarted: () => boolean): void {
  if (isAwaited || registry().onRunAll !== null) return
  isAwaited = true
  if (!namesCommand(process.argv.slice(2))) return
  process.once('beforeExit', () => {
    if (!isRunning && !hasStarted()) void reportUnrun()
  })
}

async function reportUnrun(): Promise<void> {
  const file = runnableAt(process.argv[1] ?? '')
  if (file === null || process.exitCode !== undefined) return
  const { complainOfUnrun } = await import('./command.ts')
  process.exitCode = await complainOfUnrun(process.argv.slice(2), file)
}

/**
 * Whether what runs here is a bundle of the user's with this package in it, and what it takes for our start file is
 * the user's: a child of it would start the next. Ours has removed the variables by now.
 */
function isBundled(file: string): boolean {
  const isForeignChild = CHANNEL_VARIABLE in process.env || BOOT_VARIABLE in process.env
  const isAlone = realPathOf(demoFile()) === null // ours is not beside it
  return isForeignChild || isAlone || realPathOf(startFile()) === realPathOrSelf(file)
}

/** Runs the typed command and exits, since the user's timers and sockets could keep this process alive. */
async function runTyped(): Promise<void> {
  const file = runnableAt(process.argv[1] ?? '') // null for `node -e`
  if (file !== null && !isBundled(file)) {
    const { runCommand } = await import('./command.ts') // not needed in a worker
    process.exit(await runCommand(process.argv.slice(2), file))
  }
  const wanted = 'needs a file to run in its processes: node app.js start'
  process.stderr.write(`millrace: Worker.runAll() ${wanted}; millrace itself cannot be bundled (--packages=external)\n`)
  process.exit(Exit.Module)
}
