// Folders for what untrusted clients send: ours alone (0700, checked, or refused), with files that only we have
// created.

import { lstat, mkdir, readdir, unlink } from 'node:fs/promises'
import { join } from 'node:path'
import { codeOf, SystemError, UsageError } from '../errors.ts'

/**
 * Creates the folder if it does not exist. Rejects when it belongs to another user, is not a folder, or is open to
 * others.
 */
export async function privateDirectory(path: string): Promise<string> {
  try {
    await mkdir(path, { recursive: true, mode: 0o700 })
  } catch (cause) {
    throw new SystemError(codeOf(cause), 'mkdir', path, { cause })
  }
  const stats = await lstat(path)
  const isOurs = stats.isDirectory() && stats.uid === process.geteuid?.() && (stats.mode & 0o077) === 0
  if (isOurs) return path
  throw new UsageError('ERR_NOT_PRIVATE', `${path} must be a folder of this user's, of mode 0700`)
}

/**
 * Removes the files of a folder for which `isOver` is true. Returns how many. A file already removed by another process
 * is no error. One about which nothing could be learned stays: when all others have been looked at, it rejects with the
 * first such error.
 */
export async function sweep(directory: string, isOver: (name: string) => boolean | Promise<boolean>): Promise<number> {
  let count = 0
  const failures: unknown[] = []
  for (const name of await readdir(directory)) {
    try {
      if (!(await isOver(name))) continue
      await unlink(join(directory, name))
      count++
    } catch (error) {
      if (codeOf(error) !== 'ENOENT') failures.push(error)
    }
  }
  if (failures.length > 0) throw failures[0]
  return count
}

export function ignoreMissing(error: unknown): void {
  if (codeOf(error) !== 'ENOENT') throw error
}
