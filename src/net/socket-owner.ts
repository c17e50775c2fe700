// Whose the file of a Unix socket is. Root makes and removes it with the rights of the user who serves it, unless none
// but root can change its folder. Where a path may lead elsewhere in the next moment, an owner is changed through a
// descriptor of the file itself.

import { chownSync, closeSync, constants, fstatSync, lchownSync, lstatSync, openSync } from 'node:fs'
import { dirname } from 'node:path'
import { codeOf, SystemError } from '../errors.ts'
import { isShared, loosePartOf } from '../loose-path.ts'
import { type Credentials, nameOf } from '../rights.ts'
import type { Address } from './address.ts'
import { fileIdOf } from './bound-socket.ts'

/** Of Linux, for all that Node runs on; Node does not name it. open(2). */
const O_PATH = 0o10000000

/** Uid and gid of a file. */
interface Owner {
  readonly uid: number
  readonly gid: number
}

/**
 * With whose rights this address is bound and its file removed, if `user` serves it; null: those of this process.
 */
export function rightsAt({ transport, path }: Address, user: Credentials | null): Credentials | null {
  return transport !== 'unix' || user === null || loosePartOf(dirname(path)) === '' ? null : user
}

/** What to add to the error of a bind with the rights of a user: why it was not root who did that. */
export function whyNot({ code }: SystemError, address: Address, user: Credentials | null): string {
  if (user === null || code !== 'EACCES') return ''
  const name = nameOf(user)
  if (rightsAt(address, user) === null)
    return `: '${name}' may not bind it with listen(); declare it on a Worker, and the master binds it`
  const loose = loosePartOf(dirname(address.path))
  return `: '${name}' may not make it, and root makes nothing in what others can change (${loose})`
}

/**
 * Gives the file of a bound Unix socket to another user. Returns false if the path does not lead to that file any more,
 * or it is not `from`'s, and changes nothing then. Throws a SystemError.
 * @param file identifies it (see `fileId`)
 */
export function giveSocketFile(path: string, file: string, from: Owner, to: Owner): boolean {
  try {
    return isCertain(path, from) ? giveByPath(path, file, from, to) : giveByDescriptor(path, file, from, to)
  } catch (cause) {
    throw cause instanceof SystemError ? cause : new SystemError(codeOf(cause), 'chown', path, { cause })
  }
}

/** Whether the path leads to the same file from one moment to the next. */
function isCertain(path: string, { uid }: Owner): boolean {
  const folder = dirname(path)
  return loosePartOf(folder) === '' && (uid === 0 || !isShared(folder))
}

function giveByPath(path: string, file: string, from: Owner, { uid, gid }: Owner): boolean {
  const found = lstatSync(path, { bigint: true })
  const isIt = fileIdOf(found) === file && Number(found.uid) === from.uid
  if (isIt) lchownSync(path, uid, gid)
  return isIt
}

/**
 * For a path that others can change, who may even have chosen the file that was identified. So it has to be a socket
 * that is the earlier user's: whoever planted it has only had that one's own given away.
 */
function giveByDescriptor(path: string, file: string, from: Owner, { uid, gid }: Owner): boolean {
  if (process.platform !== 'linux' || from.uid === 0) throw uncertain(path)
  const fd = openSync(path, O_PATH | constants.O_NOFOLLOW)
  try {
    const found = fstatSync(fd, { bigint: true })
    const isIt = fileIdOf(found) === file && found.isSocket() && Number(found.uid) === from.uid
    if (isIt) chownSync(`/proc/self/fd/${fd}`, uid, gid)
    return isIt
  } finally {
    closeSync(fd)
  }
}

function uncertain(path: string): SystemError {
  const error = new SystemError('EPERM', 'chown', path)
  error.message += `: others than root can change ${loosePartOf(dirname(path)) || dirname(path)}: 'restart' binds it anew`
  return error
}
