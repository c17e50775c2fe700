// The user a worker runs as. Names are looked up in the describe process, which is short-lived. The worker then drops
// to uid and gid before any user code, and does not boot unless it is certain that it cannot go back. (Workerman warns
// and goes on as root.) initgroups(3), setgid(2), setuid(2) run in this order, since each later call removes the right
// to the earlier ones.

import { type UserInfo, userInfo } from 'node:os'
import { codeOf, messageOf, UsageError, works } from '../../errors.ts'
import { type Credentials, joinGroupsOf } from '../../rights.ts'

/**
 * Null if neither is given. Throws UsageError ERR_CREDENTIALS if the user or group does not exist or may not be
 * assumed.
 */
export function lookUp(user: string, group: string): Credentials | null {
  if (user === '' && group === '') return null
  const isRoot = process.geteuid?.() === 0
  const wanted = isRoot ? lookUpAsRoot(user, group) : lookUpByName(user, group)
  const isAlready = wanted.uid === process.getuid?.() && wanted.gid === process.getgid?.()
  if (!isRoot && !isAlready)
    throw refusal(`to run as ${[user, group].filter(Boolean).join(':')} the server must be started by root`)
  return isRoot ? wanted : null
}

function lookUpAsRoot(user: string, group: string): Credentials {
  const { uid, entry } = user === '' ? { uid: 0, entry: null } : userOf(user)
  const gid = group === '' ? entry?.gid : gidAsRoot(group)
  if (gid === undefined) throw refusal(`there is no primary group of user '${user}': say which group`)
  return { user: isNumber(user) ? (entry?.username ?? null) : user || null, uid, gid }
}

type Entry = UserInfo<string>

/**
 * Node has no getpwnam. Briefly switching the effective uid makes the system look the name up, wherever its users are
 * stored, and os.userInfo() then describes that uid. id(1) would work too, but BusyBox's accepts no numbers.
 */
function userOf(user: string): { uid: number; entry: Entry | null } {
  const before = process.geteuid?.() ?? 0
  try {
    attempt('user', user, (id) => process.seteuid?.(id))
    return { uid: process.geteuid?.() ?? 0, entry: ownEntry() }
  } finally {
    if (process.geteuid?.() !== before) process.seteuid?.(before)
  }
}

function gidAsRoot(group: string): number {
  const before = process.getegid?.() ?? 0
  try {
    attempt('group', group, (id) => process.setegid?.(id))
    return process.getegid?.() ?? 0
  } finally {
    if (process.getegid?.() !== before) process.setegid?.(before)
  }
}

function attempt(what: string, name: string, become: (id: string | number) => void): void {
  try {
    become(isNumber(name) ? Number(name) : name)
  } catch (cause) {
    // In a container root may lack CAP_SETUID and CAP_SETGID; Node itself refuses under UV_USE_IO_URING=1.
    const isWithheld = codeOf(cause) === 'EPERM' || codeOf(cause) === 'ERR_INVALID_STATE'
    if (isWithheld) throw refusal(`root may not become ${what} '${name}' here: ${messageOf(cause)}`, cause)
    throw refusal(`there is no ${what} '${name}'`, cause)
  }
}

/** The entry of the effective uid; null for a number without a name. */
function ownEntry(): Entry | null {
  try {
    return userInfo()
  } catch {
    return null // ENOENT
  }
}

function isNumber(name: string): boolean {
  return /^\d+$/.test(name)
}

function lookUpByName(user: string, group: string): Credentials {
  const own = { uid: process.getuid?.() ?? 0, gid: process.getgid?.() ?? 0 }
  // A container may run us under a number that id(1) does not know, or have no id(1).
  const isOwn = user === '' || user === ownEntry()?.username
  const uid = isOwn ? own.uid : isNumber(user) ? Number(user) : uidOf(user)
  const gid = group === '' ? own.gid : isNumber(group) ? Number(group) : gidOf(group)
  return { user: user || null, uid, gid }
}

function gidOf(group: string): number {
  const mine = idOutput(['-Gn']).split(/\s+/)
  const ids = idOutput(['-G']).split(/\s+/)
  return Number(ids[mine.indexOf(group)] ?? -1)
}

function uidOf(user: string): number {
  const uid = idOutput(['-u', user])
  if (uid === '') throw refusal(`there is no user '${user}'`)
  return Number(uid)
}

/** Runs id(1), which is in POSIX. For a group without a name it fails, but still prints the number. */
function idOutput(args: string[]): string {
  const { spawnSync } = process.getBuiltinModule('node:child_process')
  return (spawnSync('id', args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).stdout ?? '').trim()
}

function refusal(message: string, cause?: unknown): UsageError {
  return new UsageError('ERR_CREDENTIALS', message, { cause })
}

/** Switches to the user permanently. Throws if any step failed: the process must not go on then. */
export function assume(credentials: Credentials): void {
  const { user, uid, gid } = credentials
  try {
    joinGroupsOf(credentials)
    process.setgid?.(gid)
    process.setuid?.(uid)
  } catch (error) {
    throw new Error(`cannot become ${user ?? uid}: ${messageOf(error)}`, { cause: error })
  }
  verify(credentials)
  if (uid !== 0) takeHome()
}

function verify({ user, uid, gid }: Credentials): void {
  const ids = [process.getuid?.(), process.geteuid?.(), process.getgid?.(), process.getegid?.()]
  if (String(ids) !== String([uid, uid, gid, gid])) throw new Error(`became ${ids} instead of ${uid}, ${gid}`)
  const groups = process.getgroups?.() ?? []
  const isStray = (one: number) => one !== gid && (user === null || (one === 0 && uid !== 0))
  if (groups.some(isStray)) throw new Error(`is still in groups ${groups.filter(isStray)}`)
  // EPERM, as expected.
  if (uid !== 0 && works(() => process.setuid?.(0))) throw new Error('could become root again')
  if (uid !== 0 && gid !== 0 && works(() => process.setgid?.(0))) throw new Error(`could take root's group again`)
}

/**
 * Sets HOME, USER and LOGNAME as login(1) does: a library that writes to root's HOME would fail. A number without a
 * name gets / as HOME, as in a container.
 */
function takeHome(): void {
  const entry = ownEntry()
  process.env.HOME = entry?.homedir ?? '/'
  for (const name of ['USER', 'LOGNAME']) {
    if (entry === null) delete process.env[name]
    else process.env[name] = entry.username
  }
}
