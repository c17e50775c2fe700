// The run directory: where a server keeps its lock, its control socket and its pid file. Chosen by flag or environment,
// never by code, so that `stop` from cron finds what `start` from a shell made. Created 0700; one that others can enter
// is refused, since whoever can replace the control socket commands the server.

import { createHash } from 'node:crypto'
import { lstatSync, mkdirSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import { codeOf, SystemError } from '../errors.ts'
import { checkUnixPath } from '../net/address.ts'
import { CommandError, Exit } from './exit-codes.ts'

const OWNER_ONLY = 0o700

export function controlPath(runDir: string): string {
  return join(runDir, 'control.sock')
}

/** Where the server of a module may live, in the order of preference. One only when it was given. */
export function runDirCandidates(firstModule: string, given: string | undefined): string[] {
  const explicit = given ?? process.env.RUNTIME_DIRECTORY?.split(':')[0]
  if (explicit !== undefined && explicit !== '') return [resolve(explicit)]
  const hash = createHash('sha256').update(firstModule).digest('hex').slice(0, 16)
  const session = process.env.XDG_RUNTIME_DIR
  return [
    ...(session === undefined || session === '' ? [] : [join(session, 'millrace', hash)]),
    join('/run/millrace', hash),
    join(tmpdir(), `millrace-${process.getuid?.() ?? 0}`, hash),
  ]
}

/** The first candidate that can be had, made and checked. Throws when none can. */
export function makeRunDir(candidates: readonly string[]): string {
  const reasons: string[] = []
  for (const path of candidates) {
    try {
      checkUnixPath(controlPath(path))
      mkdirSync(dirname(path), { recursive: true, mode: OWNER_ONLY })
      makePrivate(path)
      return path
    } catch (error) {
      reasons.push(error instanceof Error ? error.message : String(error))
    }
  }
  throw new CommandError(Exit.Failure, `no run directory: ${reasons.join('; ')}; choose one with --run-dir DIR`)
}

function makePrivate(path: string): void {
  try {
    mkdirSync(path, { mode: OWNER_ONLY })
  } catch (error) {
    if (codeOf(error) !== 'EEXIST') throw new SystemError(codeOf(error), 'mkdir', path, { cause: error })
  }
  const stat = lstatSync(path)
  if (!stat.isDirectory()) throw new Error(`${path} is not a directory`)
  if (stat.uid !== process.getuid?.()) throw new Error(`${path} belongs to uid ${stat.uid}`)
  if ((stat.mode & 0o077) !== 0) throw new Error(`${path} can be entered by others (chmod 700 ${path})`)
}
