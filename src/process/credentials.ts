// Who a worker runs as. Names are looked up in the describe process, which is thrown away; the worker then drops to
// uid and gid before any user code, and does not boot unless it is certain that it cannot go back. Workerman warns and
// goes on as root. initgroups(3), setgid(2), setuid(2): in this order, since the later ones take the right to the earlier.

import { execFileSync } from 'node:child_process'
import { userInfo } from 'node:os'
import { messageOf, UsageError } from '../errors.ts'
import type { Credentials } from './group.ts'

/** Null when neither is given. Throws UsageError ERR_CREDENTIALS for who does not exist or may not be assumed. */
export function lookUp(user: string, group: string): Credentials | null {
  if (user === '' && group === '') return null
  const isRoot = process.geteuid?.() === 0
  const wanted = isRoot ? lookUpAsRoot(user, group) : lookUpByName(user, group)
  const isAlready = wanted.uid === process.getuid?.() && wanted.gid === process.getgid?.()
  if (!isRoot && !isAlready)
    throw refusal(`to run as ${[user, group].filter(Boolean).join(':')} the server must be started by root`)
  return isRoot ? wanted : null
}

/** Node has no getpwnam: to become somebody for a moment asks the system, whatever its users are kept in. */
function lookUpAsRoot(user: string, group: string): Credentials {
  const uid =
    user === ''
      ? 0
      : tryOn(
          user,
          'user',
          (id) => process.seteuid?.(id),
          () => process.geteuid?.() ?? 0,
        )
  if (group !== '') {
    const gid = tryOn(
      group,
      'group',
      (id) => process.setegid?.(id),
      () => process.getegid?.() ?? 0,
    )
    return { user: nameOf(user), uid, gid }
  }
  return { user: nameOf(user), uid, gid: primaryGroup(user) }
}

function tryOn(name: string, what: string, become: (id: string | number) => void, current: () => number): number {
  const before = current()
  try {
    become(/^\d+$/.test(name) ? Number(name) : name)
    return current()
  } catch (cause) {
    throw refusal(`there is no ${what} '${name}'`, cause)
  } finally {
    become(before)
  }
}

function lookUpByName(user: string, group: string): Credentials {
  const own = { uid: process.getuid?.() ?? 0, gid: process.getgid?.() ?? 0 }
  const uid = user === '' ? own.uid : idOf(['-u', user], `user '${user}'`)
  const gid = group === '' ? own.gid : /^\d+$/.test(group) ? Number(group) : gidOf(group)
  return { user: nameOf(user), uid, gid }
}

function gidOf(group: string): number {
  const mine = idOutput(['-Gn']).split(/\s+/)
  const ids = idOutput(['-G']).split(/\s+/)
  return Number(ids[mine.indexOf(group)] ?? -1)
}

/** Null for a bare number, which has no list of groups. */
function nameOf(user: string): string | null {
  return user === '' || /^\d+$/.test(user) ? null : user
}

function primaryGroup(user: string): number {
  return idOf(['-g', user], `primary group of user '${user}': say which group`)
}

function idOf(args: string[], what: string): number {
  try {
    return Number(idOutput(args))
  } catch (cause) {
    throw refusal(`there is no ${what}`, cause)
  }
}

/** id(1), of POSIX. */
function idOutput(args: string[]): string {
  return execFileSync('id', args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).trim()
}

function refusal(message: string, cause?: unknown): UsageError {
  return new UsageError('ERR_CREDENTIALS', message, { cause })
}

/** Missing in the types of Node 20. */
const { initgroups } = process as unknown as { initgroups(user: string, extraGroup: number): void }

/** Becomes somebody, for good. Throws when anything of it did not work: then this process must not go on. */
export function assume(credentials: Credentials): void {
  const { user, uid, gid } = credentials
  try {
    if (user === null) process.setgroups?.([gid])
    else initgroups(user, gid)
    process.setgid?.(gid)
    process.setuid?.(uid)
  } catch (error) {
    throw new Error(`cannot become ${user ?? uid}: ${messageOf(error)}`, { cause: error })
  }
  verify(credentials)
  takeHome()
}

function verify({ uid, gid }: Credentials): void {
  const ids = [process.getuid?.(), process.geteuid?.(), process.getgid?.(), process.getegid?.()]
  if (String(ids) !== String([uid, uid, gid, gid])) throw new Error(`became ${ids} instead of ${uid}, ${gid}`)
  if (uid !== 0 && process.getgroups?.().includes(0) && gid !== 0) throw new Error(`is still in root's group`)
  if (uid !== 0 && canGoBack()) throw new Error(`could become root again`)
}

function canGoBack(): boolean {
  try {
    process.setuid?.(0)
    return true
  } catch {
    return false // EPERM, as it must be
  }
}

/** As login(1) does: a library that writes to root's HOME would fail. */
function takeHome(): void {
  try {
    const { homedir, username } = userInfo()
    Object.assign(process.env, { HOME: homedir, USER: username, LOGNAME: username })
  } catch {
    return // ENOENT: a bare number has no home
  }
}
