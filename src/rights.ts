// The rights of another user for the length of one synchronous call: what root does at a path that the user can change,
// or because the user has asked, must not reach further than the user could. These ids belong to the whole process
// (setxid(7) of glibc and musl sets them in every thread), so work of libuv's thread pool meanwhile has fewer rights,
// never more. Source: credentials(7). A side effect: Linux writes no core of a process that has once done this
// (PR_SET_DUMPABLE of prctl(2)).

import { messageOf, systemErrorOf } from './errors.ts'
import { log } from './log.ts'

/** A user and group, looked up. */
export interface Credentials {
  /** For initgroups(3); null for a uid without a name. */
  readonly user: string | null
  readonly uid: number
  readonly gid: number
}

/** Missing in the types for Node 20. */
const { initgroups } = process as unknown as { initgroups(user: string, extraGroup: number): void }

/** Gives this process the supplementary groups of a user, and no others. Throws the errors of setgroups(2). */
export function joinGroupsOf({ user, gid }: Credentials): void {
  if (user === null) process.setgroups?.([gid])
  else initgroups(user, gid)
}

/**
 * Calls a function with the effective uid, gid and groups of a user; null: as this process is. The function must not
 * leave anything for later that needs those rights. Throws what it throws, and a SystemError if this process may not
 * switch. Ends the process if it cannot switch back.
 */
export function withRightsOf<T>(who: Credentials | null, call: () => T): T {
  if (who === null) return call()
  const before = {
    uid: process.geteuid?.() ?? 0,
    gid: process.getegid?.() ?? 0,
    groups: process.getgroups?.() ?? [],
  }
  try {
    become(who)
    return call()
  } finally {
    goBackTo(before)
  }
}

/** In this order, since the last call removes the right to the others. */
function become(who: Credentials): void {
  try {
    joinGroupsOf(who)
    process.setegid?.(who.gid)
    process.seteuid?.(who.uid)
  } catch (error) {
    throw systemErrorOf(error, 'seteuid', nameOf(who))
  }
}

/** Undoes as much as `become` has done: where that was refused, each of these calls would be, too. */
function goBackTo({ uid, gid, groups }: { uid: number; gid: number; groups: number[] }): void {
  try {
    if (process.geteuid?.() !== uid) process.seteuid?.(uid)
    if (process.getegid?.() !== gid) process.setegid?.(gid)
    if (String(process.getgroups?.()) !== String(groups)) process.setgroups?.(groups)
  } catch (error) {
    log(`cannot take back the rights of uid ${uid}: ${messageOf(error)}`)
    process.abort() // half of the rights is worse than an end: nothing after this would be what it seems
  }
}

/** For messages. */
export function nameOf({ user, uid }: Credentials): string {
  return user ?? `uid ${uid}`
}
