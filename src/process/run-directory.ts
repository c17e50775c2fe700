// The run directory, where a server keeps its lock, control socket and pid file. A flag or the environment chooses it,
// never code, so that `stop` from cron finds what `start` from a shell made. Created with mode 0700; a directory that
// others can enter is refused, since anyone able to replace the control socket could command the server.

import { lstatSync, mkdirSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, isAbsolute, join, resolve } from 'node:path'
import { crypto } from '../builtins.ts'
import { codeOf, messageOf, SystemError } from '../errors.ts'
import { checkUnixPath } from '../net/address.ts'
import { CommandError, Exit } from './exit-codes.ts'
import { namesIn, realPathOrSelf } from './paths.ts'

const OWNER_ONLY = 0o700

export function controlPath(runDir: string): string {
  return join(runDir, 'control.sock')
}

/**
 * A temporary name for the socket of a second master. No longer than `control.sock`, whose path has passed the length
 * check.
 */
export function asidePath(runDir: string, pid: number): string {
  return join(runDir, `c.${pid}`)
}

/** The pids of the masters with such a socket; they may have died. */
export function mastersAsideIn(runDir: string): number[] {
  return namesIn(runDir).flatMap((name) => Number(/^c\.(\d+)$/.exec(name)?.[1] ?? []))
}

/** Where the server of a module may live. */
export interface Places {
  /** In order of preference. */
  readonly paths: readonly string[]
  /** Where `start` may have put it in another environment (such as cron's). Searched, but never created. */
  readonly elsewhere: readonly string[]
  /** Set by flag or environment: one path. Its parent folder is not checked. */
  readonly isGiven: boolean
}

const SESSIONS = '/run/user'
/** Searched even if TMPDIR says otherwise: sudo and cron do not have that variable. */
const TEMPORARY = '/tmp'

export function runDirCandidates(firstModule: string, given: string | undefined): Places {
  const explicit = given ?? process.env.RUNTIME_DIRECTORY?.split(':')[0]
  if (explicit !== undefined && explicit !== '') return { paths: [resolve(explicit)], elsewhere: [], isGiven: true }
  const hash = hashOf(firstModule)
  const session = ownSession()
  const paths = [
    ...(session === null ? [] : [join(session, 'millrace', hash)]),
    join('/run/millrace', hash),
    join(tmpdir(), `millrace-${ownUid()}`, hash),
  ]
  const others = [join(SESSIONS, String(ownUid()), 'millrace', hash), join(TEMPORARY, `millrace-${ownUid()}`, hash)]
  return { paths, elsewhere: others.filter((path) => !paths.includes(path)), isGiven: false }
}

/**
 * XDG_RUNTIME_DIR under the terms of its specification: absolute, and owned by us. After `su` it is still the caller's,
 * who could move away what root creates there and put a symbolic link in its place.
 */
function ownSession(): string | null {
  const session = process.env.XDG_RUNTIME_DIR ?? ''
  if (!isAbsolute(session)) return null
  try {
    const stat = statSync(session, { throwIfNoEntry: false })
    return stat === undefined || stat.uid === ownUid() ? session : null
  } catch {
    return null // EACCES
  }
}

/** Creates and checks the first available place. Throws if there is none. */
export function makeRunDir({ paths, isGiven }: Places): string {
  const reasons: string[] = []
  for (const path of paths) {
    try {
      checkUnixPath(controlPath(path))
      if (isGiven) mkdirSync(dirname(path), { recursive: true, mode: OWNER_ONLY })
      else makePrivate(dirname(path)) // its owner could replace `path`
      makePrivate(path)
      return path
    } catch (error) {
      reasons.push(messageOf(error))
    }
  }
  throw new CommandError(Exit.Failure, `no run directory: ${reasons.join('; ')}`, {
    next: 'choose one with --run-dir DIR',
  })
}

function makePrivate(path: string): void {
  try {
    mkdirSync(path, { mode: OWNER_ONLY })
  } catch (error) {
    if (codeOf(error) !== 'EEXIST') throw new SystemError(codeOf(error), 'mkdir', path, { cause: error })
  }
  checkPrivate(path, ownUid())
}

/** The places where a server of ours may be. Elsewhere another user's process could answer. */
export function placesOfOurs({ paths, elsewhere, isGiven }: Places): string[] {
  return [...paths, ...elsewhere].filter((path) => isGiven || isPrivate(path, ownUid()))
}

/** Where every command except `start` looks for a server. */
interface PlacesToAsk {
  /** In this order, each with the user who owns the server. */
  readonly places: readonly { readonly path: string; readonly uid: number }[]
  /** Places that exist but that we may not enter. */
  readonly unreadable: readonly string[]
}

/**
 * Our own places, including those of another environment (cron has no XDG_RUNTIME_DIR). Root also searches those of
 * every user, so that `sudo millrace stop` finds the server; there, a folder counts if only that user can enter it.
 */
export function placesToAsk(firstModule: string, given: string | undefined): PlacesToAsk {
  const own = runDirCandidates(firstModule, given)
  const ours = placesOfOurs(own).map((path) => ({ path, uid: ownUid() }))
  if (own.isGiven) return { places: ours, unreadable: [] }
  const foreign = ownUid() === 0 ? placesOfOthers(hashOf(firstModule)) : []
  return { places: [...ours, ...foreign], unreadable: own.paths.filter(isForbidden) }
}

/** The places of all other users, those of the user who called sudo first. */
function placesOfOthers(hash: string): { path: string; uid: number }[] {
  const sessions = namesIn(SESSIONS).map((name) => ({
    uid: Number(name),
    path: join(SESSIONS, name, 'millrace', hash),
  }))
  const temporary = [...new Set([tmpdir(), TEMPORARY])].flatMap((folder) =>
    namesIn(folder)
      .filter((name) => /^millrace-\d+$/.test(name))
      .map((name) => ({ uid: Number(name.slice('millrace-'.length)), path: join(folder, name, hash) })),
  )
  const caller = Number(process.env.SUDO_UID ?? -1)
  return [...sessions, ...temporary]
    .filter(({ uid, path }) => uid > 0 && isPrivate(path, uid) && isSocketOf(controlPath(path), uid))
    .sort((a, b) => Number(b.uid === caller) - Number(a.uid === caller))
}

/** A symbolic link instead would lead root's command to another server, perhaps root's own. */
function isSocketOf(path: string, uid: number): boolean {
  const stat = lstatSync(path, { throwIfNoEntry: false })
  return stat?.uid === uid && stat.isSocket()
}

/** Whether the path is hidden by a folder that only another user may enter. */
function isForbidden(path: string): boolean {
  try {
    lstatSync(path)
    return false
  } catch (error) {
    return codeOf(error) === 'EACCES'
  }
}

function ownUid(): number {
  return process.getuid?.() ?? 0
}

function isPrivate(path: string, uid: number): boolean {
  try {
    checkPrivate(dirname(path), uid)
    checkPrivate(path, uid)
    return true
  } catch {
    return false // ENOENT or EACCES, or not ours
  }
}

function checkPrivate(path: string, uid: number): void {
  const stat = lstatSync(path)
  if (!stat.isDirectory()) throw new Error(`${path} is not a directory`)
  if (stat.uid !== uid) throw new Error(`${path} belongs to uid ${stat.uid}`)
  if ((stat.mode & 0o077) !== 0) throw new Error(`${path} can be entered by others (chmod 700 ${path})`)
}

/** Of the real path: a server is identified by its file, however it was reached. */
function hashOf(module: string): string {
  return crypto().createHash('sha256').update(realPathOrSelf(module)).digest('hex').slice(0, 16)
}
