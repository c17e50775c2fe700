// The flags of Node that a server was started with, for a restart that keeps them. Some name modules or files, and Node
// looks for those in the folder where it starts: here that is another one, so they are made absolute.

import { createRequire } from 'node:module'
import { isAbsolute, join, resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import { CommandError, Exit } from '../exit-codes.ts'
import { childEnv, nameOf, nodeFlags } from '../node-flags.ts'
import { shellWord } from '../terminal/banner.ts'

/** Their value is what `require` takes, what `import` takes, or a path. */
const REQUIRES = /^(-r|--require)$/
const IMPORTS = /^(--import|--(experimental-)?loader)$/
const NAMES_FILE =
  /^--(env-file(-if-exists)?|openssl-config|icu-data-dir|redirect-warnings|tls-keylog|(cpu|heap)-prof-dir|diagnostic-dir|report-dir(ectory)?)$/

/** How long Node may take to start with flags that are being looked at. */
const LOOK_MS = 10_000

/** Flags as typed in `folder`, so that they mean the same in any other. What cannot be found there stays as it is. */
export function absoluteFlags(folder: string, execArgv: readonly string[]): string[] {
  let name = ''
  return execArgv.map((arg) => {
    if (!arg.startsWith('-')) return absolute(name, arg, folder)
    name = nameOf(arg)
    const [flag, value] = cut(arg)
    return value === undefined ? arg : `${flag}=${absolute(name, value, folder)}`
  })
}

/** `--flag=value`, where the value may have such a sign, too. */
function cut(arg: string): [string, string | undefined] {
  const place = arg.indexOf('=')
  return place < 0 ? [arg, undefined] : [arg.slice(0, place), arg.slice(place + 1)]
}

function absolute(name: string, value: string, folder: string): string {
  if (NAMES_FILE.test(name)) return resolve(folder, value)
  if (REQUIRES.test(name)) return required(value, folder)
  return IMPORTS.test(name) ? imported(value, folder) : value
}

const IS_RELATIVE = /^\.\.?(\/|$)/

function required(value: string, folder: string): string {
  if (IS_RELATIVE.test(value)) return resolve(folder, value)
  try {
    return createRequire(join(folder, 'any.js')).resolve(value)
  } catch {
    return value // MODULE_NOT_FOUND: Node says so better
  }
}

function imported(value: string, folder: string): string {
  if (IS_RELATIVE.test(value)) return new URL(value, pathToFileURL(join(folder, '/'))).href
  const isWhole = isAbsolute(value) || URL.canParse(value)
  return isWhole ? value : (packageAt(value, folder) ?? value)
}

/** The URL that `import` finds for a package. Only a process in the folder can ask Node for that; null if it fails. */
function packageAt(name: string, folder: string): string | null {
  const code = 'console.log(import.meta.resolve(process.argv[1]))'
  const { status, stdout } = run(
    ['--input-type=module', '-e', code, '--', name],
    { ...process.env, NODE_OPTIONS: '' },
    folder,
  )
  return status === 0 ? stdout.trim() : null
}

/** Throws a CommandError if Node does not start with these flags: then it is not for the code that it could not run. */
export function checkFlags(execArgv: readonly string[]): void {
  if (execArgv.length === 0) return
  const { status } = run([...nodeFlags('describe', null, [], execArgv), '-e', 'process.exit()'], childEnv('describe'))
  if (status === 0 || status === null) return
  const flags = execArgv.map(shellWord).join(' ')
  throw new CommandError(Exit.Module, `Node does not start with the flags of the server that runs: ${flags}`, {
    next: `run this with those that it shall have instead (node FLAG ...); for none at all, 'stop' and then 'start'`,
  })
}

/** `status` is null if it did not end by itself. */
function run(args: readonly string[], env: NodeJS.ProcessEnv, cwd?: string) {
  const { spawnSync } = process.getBuiltinModule('node:child_process')
  return spawnSync(process.execPath, args, { cwd, env, encoding: 'utf8', timeout: LOOK_MS })
}
