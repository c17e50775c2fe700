// Evaluates the user's modules in a child process, for describe and worker alike. The modules see the argv they would
// have on their own and none of our variables; `Worker.runAll()` only marks that everything is declared.

import { pathToFileURL } from 'node:url'
import { inspect } from 'node:util'
import type { Channel } from '../channel.ts'
import { type Group, registry } from '../group.ts'
import type { FromChild, ToChild } from '../messages.ts'
import { indexFile } from '../start-file.ts'
import { explainImport } from './import-hints.ts'

/**
 * Resolves with the groups that the modules declared, once all have been evaluated and one has called `runAll()`.
 * Rejects with what a module threw, or if nothing is left that could end the evaluation: a top-level promise that never
 * settles.
 */
export async function evaluate(
  modules: readonly string[],
  argv: readonly string[],
  channel: Channel<ToChild, FromChild>,
): Promise<readonly Group[]> {
  const [first = ''] = modules
  process.argv = [process.execPath, first, ...argv]
  // Imported before source maps are enabled: reading our own maps would take a tenth of a process's start.
  await import(pathToFileURL(indexFile()).href)
  process.setSourceMapsEnabled(true) // stacks point at TypeScript
  const declared = new Promise<void>((resolve) => {
    registry().onRunAll = resolve
  })
  // If no module can go on, the process runs out of work at once, instead of waiting for a time-out.
  channel.unref()
  try {
    await Promise.race([evaluateAll(modules, declared), ranDry()])
  } finally {
    channel.ref()
  }
  const { groups } = registry()
  if (groups.length === 0) throw new Error(`${modules.join(', ')} declared no Worker`)
  return groups
}

/** Why evaluation stands still, if nothing more happens. */
let standstill = ''

async function evaluateAll(modules: readonly string[], declared: Promise<void>): Promise<void> {
  for (const path of modules) {
    standstill = `${path} awaits something that never comes`
    await import(pathToFileURL(path).href).catch((error) => {
      throw explain(path, error)
    })
  }
  standstill = `${modules.join(', ')} never called Worker.runAll()`
  await declared
}

function ranDry(): Promise<never> {
  return new Promise((_, reject) => {
    process.once('beforeExit', () => reject(new Error(standstill)))
  })
}

/** The error to throw for a failed module: whatever was thrown, it names the place. */
function explain(path: string, error: unknown): unknown {
  if (!(error instanceof Error)) return new Error(`${path} threw ${inspect(error)}`, { cause: error })
  if (error instanceof SyntaxError && isPlaceless(error)) error.stack = `${placeOf(path)}\n${error.stack}`
  return explainImport(error)
}

/** Node prints file and line of a syntax error in an ES module only if the error is uncaught. */
function isPlaceless({ name, stack = '' }: Error): boolean {
  const [first = '', ...frames] = stack.split('\n')
  return first.startsWith(name) && frames.every((frame) => /[( ]node:/.test(frame))
}

const CHECK_TIMEOUT_MS = 5000

/** `node --check` parses a file without running it and prints the faulty line; it does not follow imports. */
function placeOf(path: string): string {
  const { spawnSync } = process.getBuiltinModule('node:child_process')
  const { stderr } = spawnSync(process.execPath, ['--check', path], {
    encoding: 'utf8',
    timeout: CHECK_TIMEOUT_MS,
    stdio: ['ignore', 'ignore', 'pipe'],
  })
  return /^.*?(?=\s+SyntaxError)/s.exec(stderr ?? '')?.[0] ?? `in ${path} or a module that it imports:`
}
