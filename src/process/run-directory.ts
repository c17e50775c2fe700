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

/** Where the server of a module may live. */
export interface Places {
  /** In the order of preference. */
  readonly paths: readonly string[]
  /** By flag or environment: one path, and what it lies in is the giver's affair. */
  readonly isGiven: boolean
}

export function runDirCandidates(firstModule: string, given: string | undefined): Places {
  const explicit = given ?? process.env.RUNTIME_DIRECTORY?.split(':')[0]
  if (explicit !== undefined && explicit !== '') return { paths: [resolve(explicit)], isGiven: true }
  const hash = createHash('sha256').update(firstModule).digest('hex').slice(0, 16)
  const session = process.env.XDG_RUNTIME_DIR
  const paths = [
    ...(session === undefined || session === '' ? [] : [join(session, 'millrace', hash)]),
    join('/run/millrace', hash),
    join(tmpdir(), `millrace-${process.getuid?.() ?? 0}`, hash),
  ]
  return { paths, isGiven: false }
}

/** The first place that can be had, made and checked. Throws when none can. */
export function makeRunDir({ paths, isGiven }: Places): string {
  const reasons: string[] = []
  for (const path of paths) {
    try {
      checkUnixPath(controlPath(path))
      if (isGiven) mkdirSync(dirname(path), { recursive: true, mode: OWNER_ONLY })
      else makePrivate(dirname(path)) // whoever owns it could put another in the place of `path`
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
  checkPrivate(path)
}

/** The places where a server of ours can be: an answer from another one would be somebody else's. */
export function placesOfOurs({ paths, isGiven }: Places): string[] {
  return paths.filter((path) => isGiven || (isPrivate(dirname(path)) && isPrivate(path)))
}

function isPrivate(path: string): boolean {
  try {
    checkPrivate(path)
    return true
  } catch {
    return false // ENOENT or EACCES, or not ours
  }
}

function checkPrivate(path: string): void {
  const stat = lstatSync(path)
  if (!stat.isDirectory()) throw new Error(`${path} is not a directory`)
  if (stat.uid !== process.getuid?.()) throw new Error(`${path} belongs to uid ${stat.uid}`)
  if ((stat.mode & 0o077) !== 0) throw new Error(`${path} can be entered by others (chmod 700 ${path})`)
}
