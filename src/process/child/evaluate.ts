// Evaluates the user's modules in a child process: describe and worker alike. The modules run with the argv they would
// have had on their own, see none of our variables, and `Worker.runAll()` only marks that everything is declared.

import { pathToFileURL } from 'node:url'
import { inspect } from 'node:util'
import type { Channel } from '../channel.ts'
import { type Group, registry } from '../group.ts'
import type { FromChild, ToChild } from '../messages.ts'
import { indexFile } from '../start-file.ts'
import { explainImport } from './import-hints.ts'

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
  await import(pathToFileURL(indexFile()).href) // our own source maps, from here on, would be a tenth of a process's start
  process.setSourceMapsEnabled(true) // stacks point at TypeScript
  const declared = new Promise<void>((resolve) => {
    registry().onRunAll = resolve
  })
  channel.unref() // so that the process runs dry, instead of into a time-out, when no module can go on
  try {
    await Promise.race([evaluateAll(modules, declared), ranDry()])
  } finally {
    channel.ref()
  }
  const { groups } = registry()
  if (groups.length === 0) throw new Error(`${modules.join(', ')} declared no Worker`)
  return groups
}

/** Why nothing more would come, if nothing did. */
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

/** What to throw for a module that failed: whatever it was, it says where. */
function explain(path: string, error: unknown): unknown {
  if (!(error instanceof Error)) return new Error(`${path} threw ${inspect(error)}`, { cause: error })
  if (error instanceof SyntaxError && isPlaceless(error)) error.stack = `${placeOf(path)}\n${error.stack}`
  return explainImport(error)
}

/** Node keeps file and line of a syntax error in an ES module for the message of an uncaught one. */
function isPlaceless({ name, stack = '' }: Error): boolean {
  const [first = '', ...frames] = stack.split('\n')
  return first.startsWith(name) && frames.every((frame) => /[( ]node:/.test(frame))
}

const CHECK_TIMEOUT_MS = 5000

/** `node --check` reads a file, runs nothing, and prints the line that is wrong; it does not follow imports. */
function placeOf(path: string): string {
  const { spawnSync } = process.getBuiltinModule('node:child_process')
  const { stderr } = spawnSync(process.execPath, ['--check', path], {
    encoding: 'utf8',
    timeout: CHECK_TIMEOUT_MS,
    stdio: ['ignore', 'ignore', 'pipe'],
  })
  return /^.*?(?=\s+SyntaxError)/s.exec(stderr ?? '')?.[0] ?? `in ${path} or a module that it imports:`
}
