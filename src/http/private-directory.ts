// Folders for what strangers send: ours alone (0700, checked, or refused), with files that nobody else has made.

import { lstat, mkdir, readdir, unlink } from 'node:fs/promises'
import { join } from 'node:path'
import { codeOf, SystemError, UsageError } from '../errors.ts'

/** Makes the folder if it is not there. Rejects when it is somebody else's, no folder, or open to others. */
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

/** Removes the files of a folder that a rule names; how many those were. What another process has removed is no error. */
export async function sweep(directory: string, isOver: (name: string) => boolean | Promise<boolean>): Promise<number> {
  let count = 0
  for (const name of await readdir(directory)) {
    if (!(await isOver(name))) continue
    await unlink(join(directory, name)).catch(ignoreMissing)
    count++
  }
  return count
}

export function ignoreMissing(error: unknown): void {
  if (codeOf(error) !== 'ENOENT') throw error
}
