// Evaluates the user's modules in a child process: describe and worker alike. The modules run with the argv they would
// have had on their own, see none of our variables, and `Worker.runAll()` only marks that everything is declared.

import { pathToFileURL } from 'node:url'
import type { Channel } from './channel.ts'
import { type Group, registry } from './group.ts'
import type { FromChild, ToChild } from './messages.ts'
import { explainImport } from './typescript.ts'

/**
 * The groups that the modules declared, when all have been evaluated and one has called `runAll()`. Rejects with what a
 * module threw, or when nothing is left that could ever end it: a promise at top level that never settles.
 */
export async function evaluate(
  modules: readonly string[],
  argv: readonly string[],
  channel: Channel<ToChild, FromChild>,
): Promise<readonly Group[]> {
  const [first = ''] = modules
  process.argv = [process.execPath, first, ...argv]
  process.setSourceMapsEnabled(true) // stacks point at TypeScript
  const declared = new Promise<void>((resolve) => {
    registry().onRunAll = resolve
  })
  channel.unref() // so that the process runs dry, instead of into a time-out, when no module can go on
  try {
    await Promise.race([evaluateAll(modules, declared), ranDry(modules)])
  } finally {
    channel.ref()
  }
  const { groups } = registry()
  if (groups.length === 0) throw new Error(`${modules.join(', ')} declared no Worker`)
  return groups
}

async function evaluateAll(modules: readonly string[], declared: Promise<void>): Promise<void> {
  for (const path of modules) {
    await import(pathToFileURL(path).href).catch((error) => {
      throw explainImport(error)
    })
  }
  await declared
}

function ranDry(modules: readonly string[]): Promise<never> {
  return new Promise((_, reject) => {
    process.once('beforeExit', () => {
      reject(new Error(`${modules.join(', ')} never called Worker.runAll(), or awaits something that never comes`))
    })
  })
}
