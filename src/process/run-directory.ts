// The run directory: where a server keeps its lock, its control socket and its pid file. Chosen by flag or environment,
// never by code, so that `stop` from cron finds what `start` from a shell made. Created 0700; one that others can enter
// is refused, since whoever can replace the control socket commands the server.

import { lstatSync, mkdirSync, readdirSync, realpathSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, isAbsolute, join, resolve } from 'node:path'
import { crypto } from '../builtins.ts'
import { codeOf, messageOf, SystemError } from '../errors.ts'
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
  /** Where `start` has put it if it had another environment, cron's say: looked into, never made. */
  readonly elsewhere: readonly string[]
  /** By flag or environment: one path, and what it lies in is the giver's affair. */
  readonly isGiven: boolean
}

const SESSIONS = '/run/user'
/** Also where TMPDIR says something else: sudo and cron do not know it. */
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
 * XDG_RUNTIME_DIR on the terms of its specification: absolute, and ours. After `su` it is still that of who called it:
 * he could move away what root makes there, and put a link in its place.
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

/** The places where a server of ours can be: an answer from another one would be somebody else's. */
export function placesOfOurs({ paths, elsewhere, isGiven }: Places): string[] {
  return [...paths, ...elsewhere].filter((path) => isGiven || isPrivate(path, ownUid()))
}

/** Where every command but `start` looks for a server. */
export interface PlacesToAsk {
  /** In this order, with the user whose server it is. */
  readonly places: readonly { readonly path: string; readonly uid: number }[]
  /** There is one, and it is not ours to look into. */
  readonly unreadable: readonly string[]
}

/**
 * Our own places, also those that `start` had in another environment (cron has no XDG_RUNTIME_DIR); and for root those of
 * every user, so that `sudo millrace stop` finds the server: a folder of theirs that only they can enter is theirs.
 */
export function placesToAsk(firstModule: string, given: string | undefined): PlacesToAsk {
  const own = runDirCandidates(firstModule, given)
  const ours = placesOfOurs(own).map((path) => ({ path, uid: ownUid() }))
  if (own.isGiven) return { places: ours, unreadable: [] }
  const foreign = ownUid() === 0 ? placesOfOthers(hashOf(firstModule)) : []
  return { places: [...ours, ...foreign], unreadable: own.paths.filter(isForbidden) }
}

/** Of every user that has one; first of the user who called sudo. */
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

/** A link in its place would lead root's command to another server, root's own perhaps. */
function isSocketOf(path: string, uid: number): boolean {
  const stat = lstatSync(path, { throwIfNoEntry: false })
  return stat?.uid === uid && stat.isSocket()
}

function namesIn(folder: string): string[] {
  try {
    return readdirSync(folder)
  } catch {
    return [] // ENOENT or EACCES
  }
}

/** It is there, but the folder around it lets only another user see it. */
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

/** By the real path: a server is known by its file, whatever the way to it. */
function hashOf(module: string): string {
  return crypto().createHash('sha256').update(realPathOf(module)).digest('hex').slice(0, 16)
}

export function realPathOf(module: string): string {
  try {
    return realpathSync(module)
  } catch {
    return module // `stop` works when the file is gone
  }
}
